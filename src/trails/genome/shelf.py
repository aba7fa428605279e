"""The chains of one run as columns of numbers: a thousand books of a million chains are found without a loop over rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trails.errors import TrailsError, UsageError
from trails.export.files import one_array
from trails.export.order import arrange
from trails.export.record import Ragged, ragged
from trails.export.subgraph import Part, needs_graph, select
from trails.platform.arrays import Bools, Doubles, Ints, Keys
from trails.platform.columns import let_go
from trails.platform.text import counted
from trails.schema import Role, Run, family_key
from trails.store.base import GraphStore
from trails.store.traces import TraceStore, id_numbers, id_of, numbers_of

Int64 = npt.NDArray[np.int64]
_ROWS = 20_000

TURNS = (str(Role.BUT), str(Role.HOWEVER))
"""Roles of steps that contradict what was said."""

REFLECTS = (Role.BUT, Role.HOWEVER, Role.RESTATE, Role.QUESTION)
"""Roles of steps that turn back on what was said."""


class Shelf:
    """The measured chains of a run: ids, tokens, mean surprisal, source and family. Chains are numbered 0 … N-1 by source and
    record, so that nothing depends on the order in which they were stored.

    ``surprisal`` is the mean over a chain's tokens, ``turn`` the largest mean over one of its steps that begin with a contrast
    (BUT, HOWEVER), both in nats, NaN where there is none.
    ``graph`` opens the graph at the first selection that asks it. ``tokens`` are those of the context and the chain.
    """

    def __init__(self, traces: TraceStore, run: Run, graph: Any = None) -> None:
        self.traces, self.run, self._open = traces, run, graph
        self._graph: GraphStore | None = None
        self._found: dict[str, tuple[Int64, dict[int, Part]]] = {}
        columns, names = traces.columns(run.id, _VERSION, lambda: _columns_of(traces, run))
        self._columns = columns
        self.numbers: Keys = columns["number"]
        self.sources, self.families, self.languages = (list(names[name]) for name in _NAMED)
        self.source: Ints = columns["source"]
        self.family: Ints = columns["family"]
        self.language: Ints = columns["language"]
        self.context: Ints = columns["context"]
        self.length: Ints = columns["length"]
        self.surprisal: Doubles = columns["surprisal"]
        self.asked: Bools = columns["asked"]
        self.answered: Bools = columns["answered"]
        self.reflects: Bools = columns["reflects"]
        self.turn: Doubles = columns["turn"]
        self._rising: Keys = columns["rising"]
        self._at: Ints = columns["at"]

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def tokens(self) -> Ints:
        """Tokens of every chain with what stands before it."""
        return self.context + self.length

    def id(self, number: int) -> str:
        """Id of a chain by its number."""
        return id_of(int(self.numbers[number]))

    def where(self, numbers: Keys) -> Int64:
        """Numbers of chains by the number of their id (:func:`trails.store.traces.id_numbers`); -1 for an unknown one."""
        at = np.minimum(np.searchsorted(self._rising, numbers), len(self) - 1)
        return np.where(self._rising[at] == numbers, self._at[at], -1)

    def rising(self, among: Bools) -> Iterator[int]:
        """Numbers of those chains that are ``among`` them (N,), in the order of their ids."""
        for start in range(0, len(self), _ROWS):
            rows = self._at[start : start + _ROWS]
            yield from rows[among[rows]].tolist()

    def keys(self, among: Bools) -> Keys:
        """The numbers of the ids of those chains, ascending."""
        return self._rising[among[self._at]]

    def let_go(self) -> None:
        """Hold of the columns only what is looked at from now on."""
        let_go(*self._columns.values())

    def close(self) -> None:
        """Close the graph, if a selection opened it."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None

    def select(self, text: str) -> tuple[Int64, dict[int, Part]]:
        """The chains of a selection, ascending, and of those that are selected in part what is selected of them.

        Raises UsageError and QueryError as :func:`trails.export.subgraph.select`, and UsageError where the run measured none.
        """
        text = text.strip()
        if (near := self._listed(text)) is not None:
            return near, {}
        if text not in self._found:
            self._found[text] = self._select(text)
        return self._found[text]

    def _listed(self, text: str) -> Int64 | None:
        """The chains of a selection that the columns answer, which is too cheap to be kept."""
        if text == "all":
            return np.arange(len(self))
        name = text.partition(":")[2].strip()
        if text.startswith("source:"):
            fitting = [i for i, known in enumerate(self.sources) if name in (known, known.rsplit("/", 1)[-1])]
            if fitting:  # chains are numbered by source: those of a book are not looked for among all
                sought = np.array(fitting, self.source.dtype)  # of another type, all sources would be copied
                ends = [np.searchsorted(self.source, sought, side) for side in ("left", "right")]
                return np.concatenate([np.arange(first, last) for first, last in zip(*ends, strict=True)])
        if text.startswith("family:") and family_key(name) in self.families:
            return np.flatnonzero(self.family == self.families.index(family_key(name)))
        return None

    def _select(self, text: str) -> tuple[Int64, dict[int, Part]]:
        if needs_graph(text) and self._graph is None:
            if self._open is None:
                raise UsageError(f"selection {text!r} asks the graph, and no graph is open. Run: trails rebuild")
            self._graph = self._open()
        found = select(self._graph, self.traces, text)
        if found.parts is None:
            return np.arange(len(self)), {}
        rows = self.where(numbers_of(list(found.parts)))
        if not (rows >= 0).any():
            raise UsageError(
                f"selection {text!r} holds {counted(len(rows), 'chain')}, none of which run {self.run.id} measured"
            )
        cut = {
            int(row): part
            for row, part in zip(rows.tolist(), found.parts.values(), strict=True)
            if row >= 0 and not part.whole
        }
        return np.unique(rows[rows >= 0]), cut

    def read(self, path: Path) -> tuple[Int64, int]:
        """The measured chains of a file or folder, and how many chains it has. Raises InputError as the readers do."""
        from trails.readers import read

        numbers = np.array([int(chain.id[1:], 16) for chain in read([path])], np.uint64)
        rows = self.where(numbers)
        return np.unique(rows[rows >= 0]), len(numbers)

    def arranged(self, rows: Int64, order: str, seed: int) -> Int64:
        """Chains, given in ascending order, in an order of :mod:`trails.export.order`, families being their sources."""
        if order == "source":
            return rows
        ids = np.array([self.id(row) for row in rows.tolist()], np.bytes_)
        by = arrange(order, ids, self.surprisal[rows], self.source[rows], (), seed=seed)
        return rows[by]

    def texts(self, rows: Int64) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number, and text, question, tokens, steps and token spans of the steps, of chains; in the order of the shards."""
        chains = np.unique(self.numbers[rows])
        columns = ["chain", "text", "question", "token_ids", "steps", "step_tokens", "surprisal", "metadata"]
        for table in self.traces.tables(columns, self.run.id, chains, rows=2_000):
            places = self.where(id_numbers(table["chain"])).tolist()
            yield from zip(places, table.to_pylist(), strict=True)


_NAMED = ("source", "family", "language")
_READ = (
    "chain", "source", "source_id", "family", "language", "question", "answer", "n_context", "surprisal", "steps",
    "step_tokens",
)  # fmt: skip
_VERSION = "1"
"""Part of what kept columns are known by: another number where :func:`_columns_of` makes others of the same shards."""


def _columns_of(traces: TraceStore, run: Run) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """Columns of numbers about the chains of a run by source, record (numbers as numbers, before other names) and id, and the
    names that they number. ``rising`` are the numbers of the ids in their own order, ``at`` says where those chains are.
    """
    codes: dict[str, dict[str, int]] = {name: {} for name in _NAMED}
    parts = [_columns(table, codes) for table in traces.tables(_READ, run.id, rows=_ROWS)]
    if not parts:
        raise UsageError(f"run {run.id} measured no chain. Run: trails ingest PATH")
    found: dict[str, npt.NDArray[Any]] = {}
    records = pa.chunked_array([part.pop("record") for part in parts])
    for name in list(parts[0]):  # one after the other, so that no two copies of all are held
        found[name] = np.concatenate([part.pop(name) for part in parts])
    names = {name: sorted(of) for name, of in codes.items()}
    for name, of in codes.items():
        place = {value: number for number, value in enumerate(names[name])}
        found[name] = np.array([place[value] for value in of], np.int32)[found[name]]
    keys = {"source": pa.array(found["source"]), "numeric": pa.array(found.pop("numeric")), "record": records}
    keys["number"] = pa.array(found["number"])
    order = np.asarray(pc.sort_indices(pa.table(keys), sort_keys=[(name, "ascending") for name in keys]))
    del keys, records
    for name in found:
        found[name] = found[name][order]
    at = np.argsort(found["number"], kind="stable").astype(np.int32)
    return {**found, "rising": found["number"][at], "at": at}, names


def _columns(table: pa.Table, codes: Mapping[str, dict[str, int]]) -> dict[str, Any]:
    surprisal = ragged(table["surprisal"], np.float32)
    n = len(table)
    known = np.isfinite(surprisal.values)
    sums = np.bincount(surprisal.row_of, np.where(known, surprisal.values, 0).astype(np.float64), n)
    counts = np.bincount(surprisal.row_of, known, n)
    steps = one_array(table["steps"])
    roles = steps.flatten().field("role")
    turning = pc.is_in(roles, pa.array([str(role) for role in REFLECTS])).to_numpy(zero_copy_only=False)
    row_of = np.repeat(np.arange(n), np.diff(steps.offsets.to_numpy()))
    turn = _turns(surprisal, table, row_of, pc.is_in(roles, pa.array(TURNS)).to_numpy(zero_copy_only=False))
    records = table["source_id"].to_pylist()
    numeric = np.array([_numeric(record) for record in records], np.int64)
    made: dict[str, Any] = {
        "number": id_numbers(table["chain"]),
        "record": one_array(table["source_id"]),
        "numeric": numeric,
        "context": table["n_context"].to_numpy().astype(np.int32),
        "length": surprisal.lengths.astype(np.int32),
        "surprisal": np.divide(sums, counts, out=np.full(n, np.nan), where=counts > 0),
        "asked": pc.not_equal(pc.fill_null(table["question"], ""), "").to_numpy(),
        "answered": pc.not_equal(pc.fill_null(table["answer"], ""), "").to_numpy(),
        "reflects": np.bincount(row_of, turning, n) > 0,
        "turn": turn,
    }
    for name, of in codes.items():
        encoded = one_array(pc.fill_null(table[name].cast(pa.string()), "")).dictionary_encode()
        values = [family_key(value) if name == "family" else value for value in encoded.dictionary.to_pylist()]
        local = np.array([of.setdefault(value, len(of)) for value in values], np.int32)
        made[name] = local[encoded.indices.to_numpy(zero_copy_only=False)]
    return made


def _turns(
    surprisal: Ragged, table: pa.Table, row_of: Int64, turning: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    """Largest mean surprisal of a turning step of every row, nats; NaN without one."""
    spans = ragged(table["step_tokens"], np.int64).values.reshape(-1, 2) + surprisal.offsets[row_of][:, None]
    known = np.isfinite(surprisal.values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, surprisal.values, 0), dtype=np.float64)])
    counts = np.concatenate([[0], np.cumsum(known)])
    number = counts[spans[:, 1]] - counts[spans[:, 0]]
    mean = np.divide(sums[spans[:, 1]] - sums[spans[:, 0]], number, out=np.full(len(spans), -np.inf), where=number > 0)
    found = np.full(len(table), -np.inf)
    np.maximum.at(found, row_of[turning], mean[turning])
    return np.where(np.isfinite(found), found, np.nan)


def _numeric(record: str) -> int:
    """A record that is a number as that number; any other name comes behind all of them."""
    return int(record) if record.isdecimal() and len(record) < 18 else 10**18


def first_lines(error: TrailsError) -> str:
    """An error's message on one line, without its closing stop."""
    return " ".join(str(error).split()).rstrip(".")
