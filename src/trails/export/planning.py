"""What is remembered of every row between reading and writing, and in which order rows are written."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trails.errors import UsageError
from trails.export.card import Counts
from trails.export.options import ExportOptions
from trails.export.order import arrange, stratified_spread
from trails.export.record import DRIFT, DRIFT_FIELD, Batch, targets_at
from trails.export.split import GramIndex
from trails.export.subgraph import Selection
from trails.export.writer import Writer
from trails.platform.arrays import Ints, Keys, Whole
from trails.platform.columns import Growing, let_go, parked
from trails.platform.text import counted
from trails.schema import Run
from trails.store.traces import id_numbers

_BLOCK = 2**16
"""Rows that are looked up at once."""


_RANGES = np.arange(16, dtype=np.uint64) << np.uint64(60)
_RANGE = np.uint64(2**60 - 1)
"""Sixteen ranges of the numbers of 64 bits, by their beginning, and how far each reaches."""


@dataclass(frozen=True, slots=True)
class Arrangement:
    """An order that was made elsewhere: ``chains`` are the numbers (:func:`trails.store.traces.id_numbers`) of the chain of
    every row, in order; a chain may come more than once.

    ``columns`` gives the further columns ``schema`` of the rows at some places of the order. ``parts`` are further files:
    places of the order by the name of the file. ``told`` are lines for the card, ``name`` what the card calls the order.
    """

    name: str
    chains: Keys
    schema: pa.Schema
    columns: Callable[[npt.NDArray[np.int64]], pa.Table]
    parts: Mapping[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    told: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Further:
    """Columns beside those of a format: ``schema``, and their values for the rows ``start`` to ``stop`` of a split."""

    schema: pa.Schema
    of: Callable[[str, int, int], pa.Table]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which rows go where: ``parts`` are row numbers in the order written, by split; ``held`` (rows,) those held out.

    ``components`` groups of rows share no 13-gram, the largest holds the share ``largest``; 0 without a split. ``further``
    columns are None where there are none.
    """

    parts: Mapping[str, Whole]
    order: Whole
    held: npt.NDArray[np.bool_]
    components: int = 0
    largest: float = 0.0
    further: Further | None = None


def plan_arranged(facts: Facts, arrangement: Arrangement) -> Plan:
    """The order of an arrangement. Raises UsageError for a chain that gave no row."""
    known, chains = facts.chains, arrangement.chains
    by_number = np.argsort(known, kind="stable").astype(np.int32)
    placed, lost, first = Growing(facts.folder / "order", np.int32), 0, 0
    for start in range(0, len(chains), _BLOCK):
        asked = chains[start : start + _BLOCK]
        rows = by_number[np.minimum(np.searchsorted(known, asked, sorter=by_number), len(known) - 1)]
        missing = asked[known[rows] != asked]
        first = first if lost or not len(missing) else int(missing[0])
        lost += len(missing)
        placed.add(rows)
    order = placed.read()
    let_go(known, chains)
    if lost:
        raise UsageError(
            f"{arrangement.name}: {counted(lost, 'row has', 'rows have')} no token with loss (first: chain c{first:016x})."
            " Leave chains of a single token out."
        )

    def of(split: str, start: int, stop: int) -> pa.Table:
        every = np.arange(start, min(stop, len(order)))
        return arrangement.columns(every if split == "train" else arrangement.parts[split][start:stop])

    further = Further(arrangement.schema, of)
    parts = {"train": order, **{name: parked(order[mine]) for name, mine in arrangement.parts.items()}}
    return Plan(parts, order, np.zeros(facts.rows, dtype=bool), further=further)


def plan(facts: Facts, grams: GramIndex, options: ExportOptions) -> Plan:
    """Split and order the rows. Stages come one after the other; within each the order is that of the options."""
    held = np.zeros(facts.rows, dtype=bool)
    components, largest = 0, 0.0
    if options.split:
        found = grams.split(options.split, facts.ids, facts.families, options.seed)
        held, components, largest = found.held_out, found.components, found.largest
    order = arrange(
        options.order,
        facts.ids,
        facts.surprisal,
        facts.families,
        facts.names,
        seed=options.seed,
        stratify=options.stratify,
    )
    if len(stages := facts.stages):
        order = order[np.argsort(stages[order], kind="stable")]
    parts = {"train": order[~held[order]]}
    if options.split:
        parts["held_out"] = order[held[order]][np.sort(np.unique(order[held[order]], return_index=True)[1])]
    return Plan(parts, order, held, components, largest, _further(facts, parts))


_STAGED = pa.schema([("stage", pa.int32()), ("tag", pa.string())])


def _further(facts: Facts, parts: Mapping[str, Whole]) -> Further | None:
    """Stage and tag, and the targets of the attention objective, of the rows of a selection that has them."""
    stages, tags, targets = facts.stages.tolist(), facts.tags, facts.targets
    schema = pa.schema([*(_STAGED if len(stages) else ()), *([DRIFT_FIELD] if targets else ())])

    def of(split: str, start: int, stop: int) -> pa.Table:
        rows = parts[split][start:stop].tolist()
        values: dict[str, Sequence[Any]] = {"stage": stages, "tag": tags, DRIFT: targets}
        columns = [pa.array([values[field.name][row] for row in rows], field.type) for field in schema]
        return pa.table(columns, schema=schema)

    return Further(schema, of) if len(schema) else None


def _distinct(numbers: Keys) -> int:
    """How many different numbers there are. They are counted in sixteen ranges, so that no copy of all is sorted: hashes are in
    every range alike."""
    return sum(len(np.unique(numbers[(numbers >= low) & (numbers <= low + _RANGE)])) for low in _RANGES)


def _answered_before(messages: str) -> bool:
    """Whether the assistant has spoken in a conversation, given as JSON."""
    return bool(messages) and any(message["role"] == "assistant" for message in json.loads(messages))


class Facts:
    """A few numbers and names of every row, never its tokens; the numbers lie in files of ``folder``.

    ``ordered`` keeps what an order is made of (:func:`plan`), ``named`` source and record, too.
    """

    def __init__(self, run: Run, selection: Selection, folder: Path, *, ordered: bool, named: bool) -> None:
        self._selection, self._staged = selection, selection.staged
        self.run, self.folder, self._ordered, self._named = run, folder, ordered, named
        self.rows = 0
        self.unlabelled = 0
        self.variants = 0
        self.names: list[tuple[str, str]] = []
        self._ids = Growing(folder / "ids", "S17")
        self._chains = Growing(folder / "chains", np.uint64)
        self._surprisal = Growing(folder / "surprisal", np.float64)
        self._sizes = Growing(folder / "sizes", np.int32, 3)  # tokens, labels, 1 for a variant
        self._codes: dict[str, int] = {}  # families in the order met
        self._families = Growing(folder / "families", np.int32)
        self._stages: list[npt.NDArray[np.int32]] = []
        self.tags: list[str] = []
        self.targets: list[list[dict[str, Any]]] = []
        self.sources: Counter[tuple[str, str, str]] = Counter()
        self.weightless = 0
        self.unfit = 0
        self.conversations = 0
        self.earlier = 0  # rows with earlier turns of the assistant
        self.bare = 0  # rows of one turn
        self.nats = 0.0
        self.labelled = 0
        self.measured = 0
        self.largest_id = -1

    def add(self, batch: Batch, writer: Writer) -> None:
        """Remember the rows of a batch, all of which carry a label."""
        n = len(batch)
        if not n:
            return
        labels, on = batch.labels, batch.labelled
        measured = on & np.isfinite(batch.surprisal.values)  # a text that was placed behind a row is not
        surprisal = np.where(measured, batch.surprisal.values, 0).astype(np.float64)
        per_row = np.bincount(labels.row_of, on, n)
        sums = np.bincount(labels.row_of, surprisal, n)
        weights = np.bincount(labels.row_of, batch.loss_weights.values, n)
        if self._ordered:
            known = np.bincount(labels.row_of, measured, n)
            self._surprisal.add(np.divide(sums, known, out=np.full(n, math.nan), where=known > 0))
            self._ids.add(np.array(batch.ids_of("id"), "S17"))
        variants = np.asarray(pc.not_equal(batch.rest["variant"], "").to_numpy())
        self.variants += int(variants.sum())
        self._sizes.add(np.stack([labels.lengths, per_row, variants], axis=1))
        self.labelled += int(on.sum())
        self.nats += float(surprisal.sum())
        self.measured += int(measured.sum())
        self.weightless += int((weights == 0).sum())
        ids = batch.input_ids.values
        self.largest_id = max(self.largest_id, int(ids.max()) if len(ids) else -1)
        if "mask" not in writer.keeps:
            fit = batch.suffix
            if writer.chat:
                context = [f"{q}\n" if q else "" for q in batch.ids_of("question")]
                prompts = batch.ids_of("prompt")
                fit = fit & np.array([p == c for p, c in zip(prompts, context, strict=True)])
            self.unfit += int((~fit).sum())
        if self.run.template == "chat" and "conversation" not in writer.keeps:
            self.conversations += sum(map(bool, batch.ids_of("messages")))
        if writer.settings_of_last:
            said = batch.ids_of("messages")
            self.earlier += sum(map(_answered_before, said))
            self.bare += sum(not talk and not asked for talk, asked in zip(said, batch.ids_of("question"), strict=True))
        self.rows += n
        codes = [self._codes.setdefault(name, len(self._codes)) for name in batch.ids_of("family")]
        self._families.add(np.array(codes, np.int32))
        sources = batch.ids_of("source")
        if self._named:
            self.names += list(zip(sources, batch.ids_of("source_id"), strict=True))
        self.sources.update(zip(sources, batch.ids_of("licence"), batch.ids_of("language"), strict=True))
        self._chains.add(id_numbers(batch.rest["chain"])[~variants])
        if self._selection.targeted:
            chains, offsets = batch.ids_of("chain"), batch.place("offset").tolist()
            self.targets += [
                targets_at(part.drift if part is not None else (), at)
                for part, at in zip(self._selection.of(chains), offsets, strict=True)
            ]
        if self._staged:
            parts = [
                self._selection.root(c, p) for c, p in zip(batch.ids_of("chain"), batch.ids_of("parent"), strict=True)
            ]
            self._stages.append(np.array([part.stage for part in parts], np.int32))
            self.tags += [part.tag for part in parts]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self._sizes.read()[:, 0].max(initial=0))

    @property
    def stages(self) -> npt.NDArray[np.int32]:
        """Stage of each row; empty where the selection has none."""
        return np.concatenate(self._stages) if self._stages else np.zeros(0, np.int32)

    @property
    def ids(self) -> npt.NDArray[np.bytes_]:
        """Id of each row."""
        return self._ids.read()

    @property
    def chains(self) -> Keys:
        """Number of the chain of each row; variants have none here."""
        return self._chains.read()

    @property
    def families(self) -> Ints:
        """Family of each row, numbered in the order of their names."""
        rank = np.argsort(np.argsort(np.array(list(self._codes)))).astype(np.int32)
        return np.asarray(rank[self._families.read()])

    @property
    def surprisal(self) -> npt.NDArray[np.float64]:
        """Mean over the labelled tokens of each row, nats."""
        return self._surprisal.read()

    def lint(self) -> list[str]:
        """Checks that hold for what was written. Raises UsageError for a token outside the base vocabulary."""
        found = []
        if self.run.vocab_size:
            if self.largest_id >= self.run.vocab_size:
                raise UsageError(
                    f"token {self.largest_id} lies outside the base vocabulary of {self.run.vocab_size} tokens of"
                    f" {self.run.model}. Measure the chains again with this model: trails ingest"
                )
            found.append(
                f"Every token id lies in the base vocabulary ({self.run.vocab_size} tokens; largest id used"
                f" {self.largest_id}): no token is added, embeddings keep their size."
            )
        if self.weightless:
            found.append(
                f"{counted(self.weightless, 'row has', 'rows have')} weight 0 on every token and teach nothing."
            )
        return found

    def counts(
        self,
        plan: Plan,
        shared: int,
    ) -> Counts:
        """Counts over the rows that were written. ``shared`` grams were found in both parts."""
        order, held = plan.order, plan.held
        sizes, blocks = self._sizes.read(), range(0, len(order), _BLOCK)
        tokens, labelled, variants = sum(
            sizes[order[at : at + _BLOCK]].sum(0, dtype=np.int64) for at in blocks
        ).tolist()
        let_go(sizes)
        return Counts(
            rows=int((~held[order]).sum() + held.sum()),
            held_out=int(held.sum()),
            tokens=tokens,
            labelled=labelled,
            weightless=self.weightless,
            chains=_distinct(self.chains),
            variants=variants,
            mean_surprisal=self.nats / max(self.measured, 1),
            sources=dict(self.sources),
            components=plan.components,
            largest_component=plan.largest,
            shared_grams=shared,
            spread=stratified_spread(self.families, order),
            unlabelled=self.unlabelled,
            tags=Counter(tag for tag in self.tags if tag),
            stages=len(np.unique(self.stages)),
        )
