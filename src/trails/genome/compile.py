"""A course as files: training rows in their order, one file a role, and beside them what the rows cannot say.

    DIR/train.jsonl           every row, in order (and train.ROLE.jsonl, the rows of one role, disjoint)
    DIR/train.README.md       the card: stages, gaps, scenes, and the settings of the trainer that keep the order
    DIR/course.jsonl          one line a row: order, id of the chain, stage, section, book, scene, role, rehearsal, tokens
    DIR/scenes.jsonl          the evaluation items of the scenes, if there are any
    DIR/gaps.jsonl            the evaluation items of the gaps, if there are any: what was withheld, and what stood before it
    DIR/genome.yaml           the genome

The same genome over the same home with the same seed gives the same bytes. The files are written beside their places and put
there at the end, ``course.jsonl`` last: a folder without it holds no whole course.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trails.errors import StoreError, UsageError
from trails.export import Arrangement, ExportOptions, ExportReport, export_selection, writer_named
from trails.export.files import write_file
from trails.export.subgraph import OrderedParts, Part, Selection
from trails.genome.course import Course
from trails.genome.gaps import Withheld
from trails.genome.model import ROLES
from trails.genome.scenes import items
from trails.genome.shelf import Int64
from trails.platform.arrays import Keys
from trails.platform.columns import parked
from trails.platform.files import scratch_folder, unbroken, write_atomic
from trails.platform.text import counted
from trails.store.outputs import check_output
from trails.store.traces import numbers_of

COLUMNS = pa.schema(
    [
        *((name, pa.string()) for name in ("stage", "section", "book", "scene", "role")),
        ("rehearsal", pa.bool_()),
    ]
)
"""Columns that a course adds to a row of the canonical record."""

_COURSE = pa.schema([("order", pa.int64()), ("chain", pa.string()), *COLUMNS, ("tokens", pa.int32())])
_CHUNK = 5_000


class Parts(OrderedParts):
    """The parts of a course by chain: those that are whole are made when they are asked for."""

    def __init__(self, course: Course) -> None:
        self._course = course
        self._held = np.zeros(len(course.shelf), bool)
        self._held[course.chain] = True

    def __len__(self) -> int:
        return int(self._held.sum())

    def __iter__(self) -> Iterator[str]:
        return map(self._course.shelf.id, self._course.shelf.rising(self._held))

    def __getitem__(self, chain: str) -> Part:
        (found,) = self.of([chain])
        if found is None:
            raise KeyError(chain)
        return found

    @property
    def numbers(self) -> Keys:
        """Of the ids of the chains, ascending."""
        return parked(self._course.shelf.keys(self._held))

    def of(self, chains: Sequence[str]) -> list[Part | None]:
        """The part of every chain; None for one that the course does not hold."""
        rows = self._course.shelf.where(numbers_of(chains))
        self._course.shelf.let_go()
        held = (rows >= 0) & self._held[rows]
        own = self._course.parts
        return [
            (own.get(row) or Part(chain)) if here else None
            for chain, row, here in zip(chains, rows.tolist(), held.tolist(), strict=True)
        ]

    def each(self) -> Iterator[Part]:
        """The parts, chain by chain."""
        return map(self._course.part, self._course.shelf.rising(self._held))

    def own(self) -> Iterable[Part]:
        """The parts of chains that are not there as a whole."""
        return self._course.parts.values()


@dataclass(frozen=True, slots=True)
class Compiled:
    """What was written. ``cut`` scenes do not fit one sequence of the model or of the budget's window."""

    report: ExportReport
    files: dict[str, Path]
    cut: int


def export_course(course: Course, format: str, to: Path, *, parquet: bool = False, **options: Any) -> Compiled:
    """Write a course into the folder ``to``; ``options`` as those of an export. With ``overwrite`` the files of the course that
    lay there go, also those that this one has none of; other files stay.

    Raises UsageError for a format that would lose the order, and for files that exist (without ``overwrite``).
    """
    writer = writer_named(format)
    if to.suffix and not to.is_dir():
        raise UsageError(f"{to} ends in {to.suffix!r}, and a course is a folder of files. Write -o FOLDER.")
    there = [to / name for name in _own() if (to / name).exists() or (to / name).is_symlink()]
    for path in (to, *there):
        check_output(path)
    if there and not options.get("overwrite"):
        raise UsageError(f"{there[0]} exists. Choose another folder, or add --overwrite.")
    new = not to.exists()
    try:
        to.mkdir(parents=True, exist_ok=True)
        with scratch_folder(to, ".trails-course-", alone_on=to) as held:
            scratch = held / "made"  # the export locks the folder that it writes to
            scratch.mkdir()
            rows = scratch / "tokens" if writer.folder else scratch / f"train{'.parquet' if parquet else '.jsonl'}"
            try:
                report, written = _write(course, format, rows, options)
            except (StoreError, UsageError) as error:  # named as the user knows the place
                raise type(error)(str(error).replace(str(scratch), str(to))) from error
            with unbroken():
                _put(scratch, to)
            report = replace(
                report,
                files={name: to / path.relative_to(scratch) for name, path in report.files.items()},
                card=to / report.card.relative_to(scratch),
                settings=report.settings.replace(str(scratch), str(to)),
            )
            written = {name: to / path.relative_to(scratch) for name, path in written.items()}
    except OSError as error:
        raise StoreError(f"{to} cannot be written: {error.strerror or error}") from error
    finally:
        if new:
            with suppress(OSError):  # it is not empty
                to.rmdir()
    cut = int((course.too_long & (course.scene >= 0)).sum())
    return Compiled(report, written, cut)


def _write(course: Course, format: str, rows: Path, options: Mapping[str, Any]) -> tuple[ExportReport, dict[str, Path]]:
    """Write every file of a course beside ``rows``: what was exported, and the other files by name."""
    written = {name: rows.with_name(file) for name, file in _BESIDE.items()}

    def columns(places: Int64) -> pa.Table:
        made = course.columns(places).cast(COLUMNS)
        course.let_go()
        return made

    selection = Selection(f"genome:{course.genome.name}", Parts(course))
    arrangement = Arrangement(
        f"genome {course.genome.name}{'' if course.in_order else ', shuffled'}",
        parked(course.shelf.numbers[course.chain]),
        COLUMNS,
        columns,
        {name: places for name, places in role_rows(course).items() if len(places)},
        card_lines(course),
    )
    course.let_go()
    report = export_selection(
        selection,
        course.shelf.traces,
        format,
        rows,
        ExportOptions(run=course.shelf.run.id, **options),
        arrangement=arrangement,
    )
    write_file(_course_tables(course), _COURSE, written["course"])
    for name, found in (("scenes", items(course.scenes, course.shelf)), ("gaps", gap_items(course))):
        if found:
            write_atomic(written[name], _lines(found))
        else:  # an empty file would look like a course whose items were lost
            del written[name]
    write_atomic(written["genome"], course.document.text)
    return report, written


def _own() -> list[str]:
    """Names of what a course may consist of."""
    stems = ("train", *(f"train.{role}" for role in ROLES))
    rows = [f"{stem}{end}" for stem in stems for end in (".jsonl", ".parquet", ".graph.jsonl")]
    return [*rows, "train.README.md", "tokens", *_BESIDE.values()]


def _put(made: Path, to: Path) -> None:
    """Put the files of a course in the places of those that are there. Whoever is killed meanwhile leaves no list of rows."""
    new = {path.name for path in made.iterdir()}
    (to / _BESIDE["course"]).unlink(missing_ok=True)
    for path in (to / name for name in _own()):
        if path.is_dir():
            if (path / "dataset_dict.json").is_file():
                shutil.rmtree(path)
        elif path.name not in new:
            path.unlink(missing_ok=True)
    for name in sorted(new, key=_BESIDE["course"].__eq__):
        (made / name).replace(to / name)


_BESIDE = {"course": "course.jsonl", "scenes": "scenes.jsonl", "gaps": "gaps.jsonl", "genome": "genome.yaml"}


def _lines(values: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(value, ensure_ascii=False, sort_keys=False) + "\n" for value in values)


def _course_tables(course: Course) -> Iterator[pa.Table]:
    for start in range(0, len(course), _CHUNK):
        yield plan_table(course, np.arange(start, min(start + _CHUNK, len(course))))
        course.let_go()


def plan_table(course: Course, places: Int64) -> pa.Table:
    """Rows of the course as they are listed: order, chain, what they belong to, tokens."""
    more = course.columns(places)
    ids = [course.shelf.id(row) for row in course.chain[places].tolist()]
    columns = [pa.array(places), pa.array(ids, pa.string()), *(more[name] for name in COLUMNS.names)]
    return pa.table([*columns, pa.array(course.tokens[places])], schema=_COURSE)


def role_rows(course: Course) -> dict[str, Int64]:
    """Places of the rows of every role. A chain has one role at most, so no two share a chain."""
    return {name: parked(np.flatnonzero(course.role == number)) for number, name in enumerate(ROLES)}


def gap_items(course: Course) -> list[Mapping[str, object]]:
    """One item for every withheld step: the question of its chain and what stood before it there, and the step itself."""
    return [
        {
            "between": list(gap.between),
            "expect": gap.expect,
            "chain": course.shelf.id(piece.chain),
            "step": piece.step,
            "prompt": "\n".join(filter(None, (piece.question, piece.before))),
            "bridge": piece.text.strip(),
        }
        for gap in course.gaps
        for piece in gap.pieces
    ]


def gap_lines(gap: Withheld) -> list[str]:
    """What a gap took out, and what its audit is worth, in words."""
    gone, cut = sum(steps == 0 for steps in gap.cut.values()), sum(steps > 0 for steps in gap.cut.values())
    found = ", ".join(f"{name} {number:,}" for name, number in sorted(gap.leaks.items())) or "none"
    lines = [
        f"between {gap.between[0]} and {gap.between[1]}, withheld {gap.withhold}: {counted(len(gap.pieces), 'step')} of"
        f" {counted(gap.selected, 'chain')};"
        f" {counted(gone, 'chain is', 'chains are')} gone, {cut:,} end early",
        f"{counted(gap.leaking, 'other chain')} held it ({found}); with a step left that the audit finds: {gap.left:,}",
    ]
    for recall in gap.recall:
        unseen = gap.unseen[recall.check]
        share = f"finds {recall.found} of {recall.planted} planted leaks" if recall.planted else "had no leak to plant"
        lines.append(
            f"{recall.check}: {share}; stops {recall.stopped:,} of {counted(recall.others, 'chain')} of other families"
            + (f"; cannot look for {unseen:,} of the withheld steps" if unseen else "")
        )
    lines.append("planted leaks are made in the ways that the audit looks for: a paraphrase in other words may remain")
    return lines


def card_lines(course: Course) -> list[str]:
    """The course as the card tells it."""
    genome = course.genome
    digest = hashlib.sha256(course.document.text.encode()).hexdigest()
    lines = ["## Course", "", f"Genome `{genome.name}`, SHA-256 `{digest}`, seed {course.seed}.", ""]
    lines += ["| stage | rows | of them rehearsal | tokens | sections |", "|---|---|---|---|---|"]
    for number, stage in enumerate(genome.stages):
        mine = course.during == number
        sections = ", ".join(section.name for section in stage.sections)
        again = int((mine & course.rehearsed).sum())
        lines.append(f"| {stage.name} | {int(mine.sum())} | {again} | {int(course.tokens[mine].sum())} | {sections} |")
    lines += [
        "",
        "No row of a stage comes before the stage before it is through, except for rows of rehearsal."
        if course.in_order
        else f"**Shuffled**: the rows of all stages in one random order, drawn with seed {course.seed}. It is the control of"
        " the course; the stage of a row is that of the course.",
        "",
    ]
    lines += ["### Gaps", "", *(f"- {line}" for gap in course.gaps for line in gap_lines(gap))]
    lines += [] if course.gaps else ["- none"]
    lines += ["", "### Scenes of conflict", ""]
    cut = course.too_long & (course.scene >= 0)
    for number, placed in enumerate(course.scenes):
        at = int(np.flatnonzero(course.scene == number)[0])
        flag = "; **longer than one sequence: a trainer will cut it**" if cut[at] else ""
        scene, chain = placed.scene, course.shelf.id(placed.chain)
        lines.append(f"- `{placed.id}` {scene.level}: {scene.trigger} (row {at}, chain {chain}){flag}")
    lines += [] if course.scenes else ["- none"]
    long = int(course.too_long.sum())
    lines += [
        "",
        f"Every scene is one row. Rows longer than one sequence: {long}. A trainer that packs joins scenes.",
    ]
    roles = Counter({name: len(rows) for name, rows in role_rows(course).items() if len(rows)})
    if roles:
        lines += ["", "### Roles", "", *(f"- {name}: {counted(rows, 'row')}" for name, rows in roles.items())]
        lines += ["", "No chain is in the files of two roles."]
    lines += [
        "",
        "### Order",
        "",
        "The order survives only with the settings under Loading: trainers shuffle by default (Hugging Face's Trainer draws"
        " rows at random, Axolotl shuffles unless told not to). `course.jsonl` says which row is which.",
        "",
        "Published curricula made by people mostly did not beat a shuffled order. Compare with the same rows shuffled:"
        " `trails genome export FILE --order shuffled`."
        if course.in_order
        else "Compare with the rows in the order of the course: `trails genome export FILE`.",
        "",
    ]
    return lines
