"""Genomes made for somebody: the first one to edit, and one that describes a home by the structure of what it holds."""

from __future__ import annotations

import numpy as np

from trails.errors import UsageError
from trails.genome.shelf import Int64, Shelf
from trails.platform.text import counted, percent, visible

EXAMPLE = """\
# A course over the hundred canonical families. Measure them first:
#   trails ingest --sample canonical
# Then: trails genome show FILE, trails genome export FILE --format trails -o course
genome: 1
name: first-course

stages:                       # in order: no row of a stage before the stage before it is through
  - name: abc
    sections:
      - name: plain
        books:                # a book is a selection, as in trails export --subgraph, or a file: that was ingested
          - {select: "meta:version=plain", take: 40, order: rising}
  - name: school
    sections:
      - name: reworded
        books:
          - {select: "meta:version=reworded", take: 60}
    gap: {between: [plain, reworded], withhold: "meta:topic=kettle", expect: "bridge"}
  - name: dialogues
    sections:
      - name: turns
        books:
          - {select: "meta:version=supposed", take: 40}
    initiation: {after: [abc, school], mismatch_first: 5}

roles:                        # selections that share no chain; each role gets a file of its own
  learner: "meta:version=plain"
  teacher: "meta:version=reworded"

budget: {rehearsal: 0.05}     # tokens: N keeps the course to N tokens
"""


def genome_of(shelf: Shelf, *, name: str, books: int = 12, stages: int = 3) -> str:
    """A genome over everything that a shelf holds, as YAML: every source cut into books by record, about ``books`` of them in
    all, dealt to ``stages`` by measured surprisal. Every book is described by its structure, never by a title.

    Raises UsageError for more stages than chains.
    """
    made = _books(shelf, max(books, 1))
    stages = min(stages, len(made))
    if not made or stages < 1:
        raise UsageError(
            f"run {shelf.run.id} holds {counted(len(shelf), 'chain')}, too few for a course. Run: trails ingest PATH"
        )
    nats = np.array([_mean(shelf, chains) for _, _, chains in made])
    ranked = np.argsort(np.nan_to_num(nats, nan=np.inf), kind="stable")
    lines = [
        (
            f"# {counted(len(made), 'book')} of {counted(len(shelf), 'chain')} that run {shelf.run.id} "
            f"({shelf.run.model}) measured,"
        ),
        f"# assigned to {counted(stages, 'stage')} by measured surprisal (nats per token). The control is the "
        "same rows shuffled: trails genome export FILE --order shuffled",
        "genome: 1",
        f"name: {_quoted(name)}",
        "stages:",
    ]
    for number, part in enumerate(np.array_split(ranked, stages), start=1):
        lines += [f"  - name: stage-{number}", "    sections:"]
        by_source: dict[str, list[int]] = {}
        for book in sorted(part.tolist()):
            by_source.setdefault(made[book][0], []).append(book)
        for section, (source, own) in enumerate(sorted(by_source.items()), start=1):
            lines += [f"      - name: stage-{number}-{section}", "        books:"]
            for book in own:
                _, skip, chains = made[book]
                lines.append(f"          # {_described(shelf, chains)}")
                of = _quoted(f"source:{source}")
                lines.append(f"          - {{select: {of}, order: source, skip: {skip}, take: {len(chains)}}}")
    return "\n".join([*lines, ""])


def _books(shelf: Shelf, wanted: int) -> list[tuple[str, int, Int64]]:
    """Source, chains of it before the book, and the chains of the book, in the order of the source."""
    size = max(-(-len(shelf) // wanted), 1)
    found = []
    for code, source in enumerate(shelf.sources):
        chains = np.flatnonzero(shelf.source == code)
        parts = max(round(len(chains) / size), 1)
        at = 0
        for part in np.array_split(chains, parts):
            found.append((source, at, part))
            at += len(part)
    return found


def _mean(shelf: Shelf, chains: Int64) -> float:
    nats = shelf.surprisal[chains]
    known = nats[np.isfinite(nats)]
    return float(known.mean()) if len(known) else float("nan")


def _described(shelf: Shelf, chains: Int64) -> str:
    tokens = int(shelf.tokens[chains].sum(dtype=np.int64))
    shares = {"asked": shelf.asked, "answered": shelf.answered, "turning back": shelf.reflects}
    more = "".join(f", {percent(float(of[chains].mean()))} {what}" for what, of in shares.items() if of[chains].any())
    return f"{counted(len(chains), 'chain')}, {counted(tokens, 'token')}, {_mean(shelf, chains):.3f} nats{more}"


def _quoted(text: str) -> str:
    """A text in double quotes, as YAML reads it."""
    escaped = visible(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
