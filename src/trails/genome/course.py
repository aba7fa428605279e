"""A genome and a home → a course: every row in its order, with the stage, section, book, scene and role that it belongs to.

    books (select, gaps, skip, take, order, times) → stages → budget → rehearsal → rows

A row of stage k+1 never comes before stage k is through, except for rows of rehearsal, which are rows of earlier stages. Rows
are columns of small numbers, which lie in files once they are made. Everything follows from the genome, the home's content and
the seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trails.analyses.statistics import generator
from trails.errors import InputError, TrailsError, UsageError
from trails.export.subgraph import Part, beside
from trails.genome.gaps import Withheld, withhold
from trails.genome.initiation import first_mismatches
from trails.genome.model import ROLES, Book, Genome, fault_at, gaps_of
from trails.genome.scenes import MATCH, Placed, authored, match_scenes, scene_id
from trails.genome.shelf import Int64, Shelf, first_lines
from trails.genome.source import Document, Fault, GenomeError
from trails.platform.columns import let_go, parked
from trails.platform.files import path_from
from trails.platform.memory import return_large_blocks
from trails.platform.text import agreeing, counted, percent

UNMET = 0.9
"""A course that holds less than this share of its budget does not meet it."""

Where = tuple[str | int, ...]

ROW = np.dtype(
    [("chain", "i4"), ("stage", "i2"), ("during", "i2"), ("book", "i4"), ("scene", "i4"), ("rehearsed", "?")]
)
"""A row of a course, as :class:`Course` says them."""

Rows = npt.NDArray[Any]


@dataclass(slots=True)
class PlacedBook:
    """A book of the course: where it stands, and its chains in order (numbers of the shelf), before they are repeated.
    ``cut`` says what is selected of the chains that are not selected as a whole."""

    path: Where
    stage: int
    section: str
    label: str
    book: Book
    chains: Int64
    cut: dict[int, Part]


@dataclass(slots=True)
class Course:
    """Rows in order. ``chain`` are numbers of the shelf, ``book`` and ``scene`` indices of :attr:`books` and :attr:`scenes`
    (-1: none), ``role`` of :data:`trails.genome.model.ROLES` (-1: none); ``rehearsed`` rows belong to the stage that is their
    own, not to the one during which they come.

    ``parts`` are the chains that are not there as a whole; ``during`` is the stage at whose time a row comes.
    """

    genome: Genome
    document: Document
    shelf: Shelf
    seed: int
    books: list[PlacedBook]
    scenes: list[Placed]
    gaps: list[Withheld]
    parts: dict[int, Part]
    chain: Int64
    stage: npt.NDArray[np.int16]
    during: npt.NDArray[np.int16]
    book: npt.NDArray[np.int32]
    scene: npt.NDArray[np.int32]
    role: npt.NDArray[np.int8]
    rehearsed: npt.NDArray[np.bool_]
    tokens: npt.NDArray[np.int32]
    notes: list[str] = field(default_factory=list)
    in_order: bool = True

    def __len__(self) -> int:
        return len(self.chain)

    def shuffle(self) -> None:
        """Put the same rows in a random order, drawn by :attr:`seed`: the control of the order. A row keeps the stage, section
        and book that it has in the course.
        """
        places = generator(self.seed, "course", "shuffled").permutation(len(self))
        for name in ("chain", "stage", "during", "book", "scene", "role", "rehearsed", "tokens"):
            setattr(self, name, parked(getattr(self, name)[places]))
        self.in_order = False

    def part(self, chain: int) -> Part:
        """What is trained of a chain."""
        return self.parts.get(chain) or Part(self.shelf.id(chain))

    def columns(self, rows: Int64 | slice = slice(None)) -> pa.Table:
        """Stage, section, book, scene, role and rehearsal of rows, as text."""
        stages = [stage.name for stage in self.genome.stages]
        sections, labels = [book.section for book in self.books], [book.label for book in self.books]
        book, scene = self.book[rows], self.scene[rows]
        return pa.table(
            {
                "stage": _named(stages, self.stage[rows]),
                "section": _named(sections, book),
                "book": _named(labels, book),
                "scene": _named([placed.id for placed in self.scenes], scene),
                "role": _named(list(ROLES), self.role[rows]),
                "rehearsal": pa.array(self.rehearsed[rows]),
            }
        )

    def let_go(self) -> None:
        """Hold of the rows, and of the shelf, only what is looked at from now on."""
        let_go(self.chain, self.stage, self.during, self.book, self.scene, self.role, self.rehearsed, self.tokens)
        self.shelf.let_go()

    @property
    def too_long(self) -> npt.NDArray[np.bool_]:
        """Rows that do not fit one sequence of the budget's window, or of the model's."""
        window = self.genome.budget.window or self.shelf.run.max_tokens
        return self.tokens > window if window else np.zeros(len(self), bool)


def _named(names: Sequence[str], index: npt.NDArray[Any]) -> pa.Array:
    """Names by index, empty for -1."""
    return pa.array([*names, ""], pa.string()).take(pa.array(np.where(index < 0, len(names), index).astype(np.int64)))


def compile_course(genome: Genome, document: Document, shelf: Shelf, *, folder: Path = Path(), seed: int = 0) -> Course:
    """The course of a genome over the chains of a shelf; ``folder`` is what the genome's file names are relative to.

    Raises GenomeError with every fault: an empty book, one that is not measured, roles that overlap, a stage without tokens, a
    budget that cannot be met, a scene that no chain fits.
    """
    return_large_blocks()
    builder = _Builder(genome, document, shelf, folder, seed)
    try:
        return builder.course()
    finally:
        shelf.close()


class _Builder:
    def __init__(self, genome: Genome, document: Document, shelf: Shelf, folder: Path, seed: int) -> None:
        self.genome, self.document, self.shelf, self.folder, self.seed = genome, document, shelf, folder, seed
        self.faults: list[Fault] = []
        self.notes: list[str] = []
        self.limit: dict[int, int] = {}  # steps of a chain that gaps leave
        self.parts: dict[int, Part] = {}
        self.role = np.full(len(shelf), -1, np.int8)

    def fault(self, path: Where, message: str, hint: str) -> None:
        self.faults.append(fault_at(self.document, path, message, hint))

    def stop(self) -> None:
        """Raises GenomeError where a fault was found."""
        if self.faults:
            raise GenomeError(self.document.file, self.faults)

    def course(self) -> Course:
        books = list(self.selected())
        scenes = self.scenes()
        self.stop()
        gaps = self.gaps(books, scenes)
        self.order(books)
        self.stop()
        tokens = self.row_tokens()
        self.budget(books, scenes, tokens)
        self.stop()
        self.roles(books, scenes)
        self.stop()
        course = self.rows(books, scenes, gaps, tokens)
        self.stop()
        return course

    # --- what is in it -----------------------------------------------------------------------------------------------

    def selected(self) -> Iterator[PlacedBook]:
        for i, stage in enumerate(self.genome.stages):
            for j, section in enumerate(stage.sections):
                for k, book in enumerate(section.books):
                    path: Where = ("stages", i, "sections", j, "books", k)
                    rows, cut = self.chains_of(path, book)
                    label = book.name or f"{section.name}/{k + 1}"
                    yield PlacedBook(path, i, section.name, label, book, rows, cut)

    def chains_of(self, path: Where, book: Book) -> tuple[Int64, dict[int, Part]]:
        none = np.zeros(0, np.int64)
        if book.file:
            at = path_from(book.file, self.folder)
            try:
                if at.exists() and not (at.is_file() or at.is_dir()):
                    raise InputError(f"{at} is neither a file nor a folder")  # reading a pipe would wait for ever
                rows, n = self.shelf.read(at)
            except (UsageError, InputError) as error:
                self.fault(
                    (*path, "file"), first_lines(error), "name a file or folder with chains, relative to the genome"
                )
                return none, {}
            if len(rows) < n:
                self.fault(
                    (*path, "file"),
                    f"{n - len(rows):,} of {counted(n, 'chain')} of {book.file} "
                    f"{agreeing(n - len(rows), 'is', 'are')} not measured by run {self.shelf.run.id}",
                    f"run: trails ingest {at}",
                )
            return rows, {}
        try:
            return self.shelf.select(beside(book.select, self.folder))
        except TrailsError as error:
            self.fault((*path, "select"), f"an empty book: {first_lines(error)}", "list what there is: trails chains")
            return none, {}

    def roles(self, books: Sequence[PlacedBook], scenes: Sequence[tuple[Where, int, Placed]]) -> None:
        """A role for every chain that is taken. Two roles of one are a fault: their shards would not be disjoint."""
        taken = np.zeros(len(self.shelf), bool)
        for chains in (*(placed.chains for placed in books), [placed.chain for _, _, placed in scenes]):
            taken[np.asarray(chains, np.int64)] = True
        claims: list[tuple[Where, int, Int64]] = []
        for number, name in enumerate(ROLES):
            text = getattr(self.genome.roles, name)
            if not text:
                continue
            try:
                claims.append((("roles", name), number, self.shelf.select(beside(text, self.folder))[0]))
            except TrailsError as error:
                self.fault(
                    ("roles", name), f"the role {name} holds nothing: {first_lines(error)}", "select other chains"
                )
        claims += [
            ((*placed.path, "role"), ROLES.index(placed.book.role), placed.chains)
            for placed in books
            if placed.book.role is not None
        ]
        for path, number, claimed in claims:
            rows = claimed[taken[claimed]]
            other = rows[(self.role[rows] >= 0) & (self.role[rows] != number)]
            if len(other):
                known, first = ROLES[int(self.role[other[0]])], self.shelf.id(int(other[0]))
                self.fault(
                    path,
                    (
                        f"roles overlap: {counted(len(other), 'chain is', 'chains are')} {known} and {ROLES[number]} "
                        f"(first {first})"
                    ),
                    "select disjoint chains for every role",
                )
            self.role[rows] = number

    def scenes(self) -> list[tuple[Where, int, Placed]]:
        """Scenes of conflict: path, stage, and the chain to train on."""
        asked: list[tuple[Where, int, Any]] = [
            (("stages", i, "scenes", j), i, scene)
            for i, stage in enumerate(self.genome.stages)
            for j, scene in enumerate(stage.scenes)
        ]
        searched = match_scenes(self.shelf, [scene.conflict_scene for _, _, scene in asked if not scene.text])
        found: list[tuple[Where, int, Placed]] = []
        seen: set[str] = set()
        matches = iter(searched)
        for path, stage, scene in asked:
            identity = scene_id(scene.conflict_scene)
            if identity in seen:
                self.fault(path, "this scene stands in the course twice", "leave one of them out")
            seen.add(identity)
            if scene.text:
                chain = authored(scene, self.genome.name)
                row, score = int(self.shelf.where(np.array([int(chain.id[1:], 16)], np.uint64))[0]), 1.0
                if row < 0:
                    self.fault(
                        (*path, "text"),
                        f"the text of this scene is not measured by run {self.shelf.run.id}",
                        f"run: trails genome scenes {self.document.file} -o scenes.jsonl; trails ingest scenes.jsonl",
                    )
                    continue
            else:
                row, score = next(matches)
                if score < MATCH:
                    best = (
                        f"the best is {self.shelf.id(row)} with {percent(score)} of the trigger"
                        if row >= 0
                        else "none comes near"
                    )
                    self.fault(
                        (*path, "conflict_scene"),
                        f"no chain matches level and trigger ({best}, {percent(MATCH)} are needed)",
                        "give the scene a text: of its own, beside conflict_scene",
                    )
                    continue
            found.append((path, stage, Placed(identity, scene.name, scene.conflict_scene, row, score)))
        return found

    def gaps(self, books: list[PlacedBook], scenes: Sequence[tuple[Where, int, Placed]]) -> list[Withheld]:
        found: list[Withheld] = []
        for path, gap in gaps_of(self.genome):
            try:
                selected = self.shelf.select(beside(gap.withhold, self.folder))
            except TrailsError as error:
                self.fault(
                    (*path, "withhold"), f"nothing to withhold: {first_lines(error)}", "select other chains or steps"
                )
                continue
            course = np.unique(
                np.concatenate([*(book.chains for book in books), [s.chain for _, _, s in scenes]]).astype(np.int64)
            )
            made = withhold(self.shelf, course, selected, gap.between, gap.withhold, gap.expect, seed=self.seed)
            found.append(made)
            if not made.pieces:
                self.fault(
                    (*path, "withhold"), "no chain of the course is in this selection", "withhold what a book holds"
                )
            for row, steps in made.cut.items():
                self.limit[row] = min(steps, self.limit.get(row, steps))
            for book in books:
                gone = [row for row in self.limit if not self.limited(row, book.cut.get(row))]
                book.chains = book.chains[~np.isin(book.chains, gone)]
            for where, _, scene in scenes:
                if scene.chain in made.cut:
                    self.fault(
                        where,
                        f"the chain of this scene ({self.shelf.id(scene.chain)}) is withheld, or leaks what is",
                        "give the scene a text of its own, or withhold less",
                    )
        return found

    def limited(self, row: int, part: Part | None) -> Part | None:
        """What gaps leave of a chain, or of a part of it; None for nothing."""
        steps = self.limit.get(row)
        if steps is None or (part is None and not steps):
            return part if steps is None else None
        if part is None:
            return Part(self.shelf.id(row), tuple(range(steps)))
        kept = tuple(step for step in part.steps if step < steps)
        return replace(part, steps=kept) if kept and not part.tokens else None

    # --- how much of it, and in which order --------------------------------------------------------------------------

    def order(self, books: Sequence[PlacedBook]) -> None:
        for placed in books:
            had = len(placed.chains)
            ordered = self.shelf.arranged(placed.chains, placed.book.order, self.seed)[placed.book.skip :]
            placed.chains = ordered if placed.book.take is None else ordered[: placed.book.take]
            if placed.book.take is not None and len(ordered) < placed.book.take:
                self.notes.append(
                    f"book {placed.label}: {len(ordered):,} of {counted(placed.book.take, 'chain')} asked for"
                )
            if not len(placed.chains) and not any(
                fault.path.startswith(self.document.shown(placed.path)) for fault in self.faults
            ):
                why = (
                    f"{counted(had, 'chain')}, and {placed.book.skip:,} are skipped"
                    if had
                    else "gaps withhold every chain of it"
                )
                self.fault(placed.path, f"an empty book: {why}", "take other chains, or withhold less")

        self.united(books)

    def united(self, books: Sequence[PlacedBook]) -> None:
        """One part for every chain of the course. Another one in another book is a fault: a chain is one training row."""
        whole = np.zeros(len(self.shelf), bool)
        for placed in books:
            cut = {row: placed.cut[row] for row in placed.chains.tolist() if row in placed.cut} if placed.cut else {}
            rest = placed.chains[~np.isin(placed.chains, list(cut))] if cut else placed.chains
            clash = [row for row, part in cut.items() if whole[row] or self.parts.get(row, part) != part]
            clash += [row for row in rest.tolist() if row in self.parts] if self.parts else []
            if clash:
                self.fault(
                    placed.path,
                    (
                        f"{counted(len(clash), 'chain is', 'chains are')} in another book with other steps (first "
                        f"{self.shelf.id(clash[0])})"
                    ),
                    "select whole chains in both, or other chains",
                )
            whole[rest] = True
            self.parts |= cut
        limited = {row: self.limited(row, self.parts.get(row)) for row in {*self.limit, *self.parts}}
        self.parts = {row: part for row, part in limited.items() if part is not None}

    def row_tokens(self) -> npt.NDArray[np.int32]:
        """Tokens of the row of every chain, with its context, as it is after gaps."""
        tokens = self.shelf.tokens.copy()
        rows = np.array(sorted(self.parts), np.int64)
        for row, item in self.shelf.texts(rows) if len(rows) else ():
            part = self.parts[row]
            spans = np.asarray(item["step_tokens"]).reshape(-1, 2)
            ends = [int(spans[step, 1]) for step in part.steps if step < len(spans)]
            ends += [min(last, len(item["token_ids"])) for _, last in part.tokens]
            tokens[row] = self.shelf.context[row] + max(ends, default=0)
        return tokens

    def budget(
        self, books: Sequence[PlacedBook], scenes: Sequence[tuple[Where, int, Placed]], tokens: npt.NDArray[np.int32]
    ) -> None:
        """Shorten every book in proportion where the course holds more than its budget."""
        asked = self.genome.budget.tokens
        if asked is None:
            return
        of_scenes = sum(int(tokens[scene.chain]) for _, _, scene in scenes)
        sizes = [int(tokens[placed.chains].sum(dtype=np.int64)) * placed.book.times for placed in books]
        share = self.genome.budget.rehearsal
        held = sum(sizes) + of_scenes
        if len(self.genome.stages) > 1 and share:
            first = sum(size for size, placed in zip(sizes, books, strict=True) if placed.stage == 0)
            held = int(held + (held - first) * share / (1 - share))
        if held < UNMET * asked:
            self.fault(
                ("budget", "tokens"),
                f"the budget cannot be met: the course holds {held:,} of {counted(asked, 'token')}",
                f"write {held} or less, take more, or add books",
            )
            return
        left = (asked - of_scenes) / max(held - of_scenes, 1)
        if left <= 0:
            self.fault(
                ("budget", "tokens"),
                f"the budget cannot be met: the scenes alone hold {of_scenes:,} of {counted(asked, 'token')}",
                "raise it, or leave scenes out",
            )
            return
        if left >= 1:
            return
        for placed, size in zip(books, sizes, strict=True):
            keep = np.cumsum(tokens[placed.chains], dtype=np.int64) * placed.book.times <= size * left
            if not keep.any():
                self.fault(
                    ("budget", "tokens"),
                    (
                        f"the budget cannot be met: {asked:,} of {counted(held, 'token')} leave book {placed.label} "
                        "without a chain"
                    ),
                    "raise it, or leave the book out",
                )
            placed.chains = placed.chains[keep]

    def rows(
        self,
        books: list[PlacedBook],
        scenes: Sequence[tuple[Where, int, Placed]],
        gaps: list[Withheld],
        tokens: npt.NDArray[np.int32],
    ) -> Course:
        pieces: list[Rows] = []
        before: list[Rows] = []
        for number, stage in enumerate(self.genome.stages):
            mine = [(b.chains, b.book.times, i, -1) for i, b in enumerate(books) if b.stage == number]
            own = [(np.array([s.chain]), 1, -1, i) for i, (_, at, s) in enumerate(scenes) if at == number]
            rows, staged = _rows_of(number, mine), _rows_of(number, own)
            if stage.initiation is not None and stage.initiation.mismatch_first:
                staged, rows = self.mismatch_first(number, staged, rows, stage.initiation.mismatch_first)
                rows = np.concatenate([staged, rows])
            else:
                rows = np.concatenate([rows, staged])
            if not len(rows):
                self.fault(
                    ("stages", number), f"the stage {stage.name!r} has no tokens", "give it a book that holds chains"
                )
            new = rows
            if number and self.genome.budget.rehearsal and len(rows):
                rows = self.rehearsed(number, rows, np.concatenate(before))
            # memory holds the rows of one stage, and below one column of the course
            held = parked(rows)
            before.append(held if new is rows else parked(new))
            pieces.append(held)
            let_go(held, before[-1])
        del rows, staged, new

        def column(name: str) -> npt.NDArray[Any]:
            made = parked(np.concatenate([piece[name] for piece in pieces]))
            let_go(*pieces, made)
            return made

        chain = parked(column("chain").astype(np.int64))
        scene, rehearsed = column("scene"), column("rehearsed")
        repeated = Counter(chain[~rehearsed & (scene < 0)].tolist()) if len(chain) < 10**5 else Counter()
        twice = sum(count > 1 for count in repeated.values())
        if twice and not any(placed.book.times > 1 for placed in books):
            self.notes.append(f"{twice:,} chain{'s stand' if twice > 1 else ' stands'} in more than one book")
        for placed in books:
            placed.chains = parked(placed.chains)
        return Course(
            self.genome,
            self.document,
            self.shelf,
            self.seed,
            books,
            [scene for _, _, scene in scenes],
            gaps,
            self.parts,
            chain,
            column("stage"),
            column("during"),
            column("book"),
            scene,
            parked(self.role[chain]),
            rehearsed,
            parked(tokens[chain]),
            self.notes,
        )

    def mismatch_first(self, stage: int, scenes: Rows, rows: Rows, count: int) -> tuple[Rows, Rows]:
        """The first rows of a stage: its scenes, then chains that contradict, the most surprising contradiction first."""
        if len(scenes) >= count:
            return scenes, rows
        first = first_mismatches(self.shelf.turn[rows["chain"]], count - len(scenes))
        if len(scenes) + len(first) < count:
            self.fault(
                ("stages", stage, "initiation", "mismatch_first"),
                f"{counted(count, 'row')} of mismatch asked for, and the stage holds {len(scenes) + len(first)}",
                "ask for fewer, add scenes, or add chains with a step of role BUT or HOWEVER",
            )
        keep = np.ones(len(rows), bool)
        keep[first] = False
        return np.concatenate([scenes, rows[first]]), rows[keep]

    def rehearsed(self, stage: int, rows: Rows, before: Rows) -> Rows:
        """The rows of a stage with rows of earlier stages spread evenly between them."""
        share = self.genome.budget.rehearsal
        chains, first = np.unique(before["chain"], return_index=True)
        count = min(round(len(rows) * share / (1 - share)), len(chains))
        if not count:
            return rows
        drawn = self.shelf.arranged(chains, "shuffled", self.seed + stage)[:count]
        again = before[first[np.searchsorted(chains, drawn)]].copy()
        again["during"], again["rehearsed"] = stage, True
        places = np.concatenate([np.arange(len(rows)), (np.arange(count) + 0.5) * len(rows) / count - 0.5])
        return np.concatenate([rows, again])[np.argsort(places, kind="stable")]


def _rows_of(stage: int, blocks: Sequence[tuple[Int64, int, int, int]]) -> Rows:
    """Rows of a stage, block after block: chains, how often they come, number of the book and of the scene."""
    rows = np.zeros(sum(len(chains) * times for chains, times, _, _ in blocks), ROW)
    rows["stage"] = rows["during"] = stage
    at = 0
    for chains, times, book, scene in blocks:
        for _ in range(times):
            mine = rows[at : at + len(chains)]
            mine["chain"], mine["book"], mine["scene"] = chains, book, scene
            at += len(chains)
    return rows
