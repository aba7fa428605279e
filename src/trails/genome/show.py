"""A course told: its tree with chains, tokens, measured surprisal and structure, its gaps, scenes and roles."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from trails.analyses.report import Report, ReportTable
from trails.genome.compile import gap_lines, role_rows
from trails.genome.course import Course
from trails.genome.model import ROLES
from trails.genome.shelf import Int64
from trails.platform.text import counted, percent


def course_report(course: Course) -> Report:
    """The report of a course: the tree as a table, one line a stage, section, book and scene; gaps and scenes below it."""
    rows, shelf = len(course), course.shelf
    chains = len(np.unique(course.chain))
    total = int(course.tokens.sum(dtype=np.int64))
    asked = course.genome.budget.tokens
    of = f" of a budget of {asked:,}" if asked else ""
    verdict = (
        f"{course.genome.name}: {counted(rows, 'row')} of {counted(chains, 'chain')} in "
        f"{counted(len(course.genome.stages), 'stage')}, {counted(total, 'token')}{of}"
        f", measured by run {shelf.run.id} ({shelf.run.model})"
    )
    notes = list(course.notes)
    if long := int(course.too_long.sum()):
        notes.append(
            f"{counted(long, 'row is', 'rows are')} longer than one sequence of the model: a trainer cuts them"
        )
    tree = _tree(course)
    depths = [depth for depth, _ in tree]
    tables = [
        ReportTable("tree", pa.Table.from_pylist([line for _, line in tree], schema=_TREE), "course", depths=depths),
        ReportTable("scenes", pa.Table.from_pylist(_scenes(course), schema=_SCENES), "scenes of conflict"),
        ReportTable("gaps", pa.table({"gap": [line for gap in course.gaps for line in gap_lines(gap)]}), "gaps"),
    ]
    roles = {name: len(places) for name, places in role_rows(course).items() if len(places)}
    if roles:
        table = pa.table({"role": list(roles), "rows": list(roles.values())})
        tables.append(ReportTable("roles", table, "roles, no chain in two of them"))
    facts = {"n_rows": rows, "n_chains": chains, "n_tokens": total, "seed": course.seed, "budget": asked}
    return Report("genome", verdict, facts, tuple(tables), notes=tuple(notes))


_TREE = pa.schema(
    [
        ("course", pa.string()),
        *((name, pa.int64()) for name in ("rows", "chains", "tokens", "per_chain")),
        ("nats", pa.float64()),
        *((name, pa.string()) for name in ("order", "role", "structure")),
    ]
)
_SCENES = pa.schema(
    [("scene", pa.string()), ("stage", pa.string()), ("chain", pa.string()), ("match", pa.float64())]
    + [(name, pa.string()) for name in ("level", "trigger", "resolution_expected")]
)


def _tree(course: Course) -> list[tuple[int, dict[str, Any]]]:
    """Depth and numbers of every stage (0), its sections, scenes and rehearsal (1), and the books of a section (2)."""
    found: list[tuple[int, dict[str, Any]]] = []
    for number, stage in enumerate(course.genome.stages):
        during = np.flatnonzero(course.during == number)
        found.append((0, _line(course, stage.name, during)))
        for section in stage.sections:
            mine = [i for i, book in enumerate(course.books) if book.section == section.name]
            rows = np.flatnonzero(np.isin(course.book, mine) & ~course.rehearsed)
            found.append((1, _line(course, f"  {section.name}", rows)))
            for i in mine:
                book = course.books[i]
                order = book.book.order + (f", {book.book.times} times" if book.book.times > 1 else "")
                rows = np.flatnonzero((course.book == i) & ~course.rehearsed)
                found.append((2, _line(course, f"    {book.label}", rows, order=order)))
        for i, placed in enumerate(course.scenes):
            rows = np.flatnonzero((course.scene == i) & (course.stage == number) & ~course.rehearsed)
            if len(rows):
                found.append((1, _line(course, f"  scene {placed.id[:5]}", rows)))
        if course.rehearsed[during].any():
            found.append((1, _line(course, "  rehearsal", during[course.rehearsed[during]])))
    return found


def _line(course: Course, name: str, rows: Int64, order: str = "") -> dict[str, Any]:
    """Numbers of some rows of the course."""
    shelf = course.shelf
    chains = np.unique(course.chain[rows])
    surprisal = shelf.surprisal[chains]
    known = surprisal[np.isfinite(surprisal)]
    roles = Counter(ROLES[code] for code in course.role[rows].tolist() if code >= 0)
    tokens = int(course.tokens[rows].sum(dtype=np.int64))
    shares = {"asked": shelf.asked, "answered": shelf.answered, "turning back": shelf.reflects}
    structure = ", ".join(
        f"{percent(float(of[chains].mean()))} {what}" for what, of in shares.items() if len(chains) and of[chains].any()
    )
    return {
        "course": name,
        "rows": len(rows),
        "chains": len(chains),
        "tokens": tokens,
        "per_chain": round(tokens / len(rows)) if len(rows) else None,
        "nats": round(float(known.mean()), 4) if len(known) else None,
        "order": order,
        "role": ", ".join(f"{name} {count}" for name, count in roles.items()),
        "structure": structure,
    }


def _scenes(course: Course) -> list[dict[str, Any]]:
    found = []
    for number, placed in enumerate(course.scenes):
        at = int(np.flatnonzero(course.scene == number)[0])
        found.append(
            {
                "scene": placed.id,
                "stage": course.genome.stages[int(course.stage[at])].name,
                "chain": course.shelf.id(placed.chain),
                "match": placed.match,
                "level": placed.scene.level,
                "trigger": placed.scene.trigger,
                "resolution_expected": placed.scene.resolution_expected,
            }
        )
    return found
