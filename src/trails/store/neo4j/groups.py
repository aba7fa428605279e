"""From the rows of a batch to the parameters of one transaction.

A group is some chains of one run, written by one statement. The nodes of a table become a list in that statement, and a
relationship names its ends by their places in two such lists. The parameters of chains ``cA`` (two steps of two tokens) and
``cB`` (one step of two)::

    run             "r1"                            one for the whole group
    counts          Chain 2, Step 3, Token 6, …     rows of every table

    place            0       1       2       3  4  5
    Chain.id        [cA,     cB]
    Step.id         [cA:0,   cA:1,   cB:0]
    Step.chain      [0,      0,      1]                    → Chain
    Token.chain     [0,      0,      0,      0, 1, 1]      → Chain

    HAS_STEP.start  [0,      0,      1]                    → Chain
    HAS_STEP.end    [0,      1,      2]                    → Step
    NEXT.start      [0,      1,      2,      4]            → Token
    NEXT.end        [1,      2,      3,      5]            → Token
    NEXT.surprisal  [0.4,    2.1,    0.2,    3.3]

    MEASURED.start  [0,      1]                            → Chain
    MEASURED.end    [0,      0]                            → Run, of which a group has one

The server finds a place at no cost, where an id costs a look-up, and the driver sends columns faster than rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trails.errors import StoreError
from trails.schema import RELATIONSHIP
from trails.store.base import GraphBatch
from trails.store.neo4j.statements import CHAIN_NODES, MEASURED, STRUCTURE

Numbers = npt.NDArray[np.int64]


def _values(column: pa.ChunkedArray | pa.Array) -> list[Any] | None:
    """A column as the driver sends it; None when nothing is in it."""
    if column.null_count == len(column):
        return None if len(column) else []
    if column.null_count == 0 and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        values: list[Any] = column.to_numpy().tolist()
        return values
    listed: list[Any] = column.to_pylist()
    return listed


class _Columns(dict[str, list[Any] | None]):
    """Columns of a table as a parameter. The driver formats the parameters of every statement for its debug log, also when
    nobody reads it; spelling out the values would cost more than sending them.
    """

    def __repr__(self) -> str:
        return f"<columns {', '.join(self)}>"


def columns_of(table: pa.Table, skip: Sequence[str] = ()) -> _Columns:
    return _Columns((name, _values(table[name])) for name in table.column_names if name not in skip)


def borders_of(steps: pa.Table) -> dict[str, set[tuple[int, int, int]]]:
    """Place, start and end of every step, by chain."""
    found: dict[str, set[tuple[int, int, int]]] = {}
    columns = (steps[name].to_pylist() for name in ("chain", "index", "start", "end"))
    for chain, *borders in zip(*columns, strict=True):
        found.setdefault(chain, set()).add((borders[0], borders[1], borders[2]))
    return found


def _chain_of(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """The chain in a chain, step or token id."""
    return pc.list_element(pc.split_pattern(ids, ":", max_splits=1), 0)


@dataclass(slots=True)
class Group:
    """Pairs of one run that are written in one transaction; relationships name their ends by place."""

    run: str
    tokenizer: str
    chains: list[str]
    per_layer: bool
    parameters: dict[str, Any]
    rows: int
    tables: dict[str, pa.Table] = field(repr=False, default_factory=dict)
    """The same rows with ids, for chains of which something is there already."""
    holds: list[list[str]] = field(default_factory=list)
    """(home, chain) pairs: which homes hold these chains as measured by the run."""


def _order_of(chains: pa.ChunkedArray, position: Mapping[str, int] | pa.Array) -> Numbers:
    found = pc.index_in(chains, value_set=position)
    numbers: Numbers = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    return numbers


def groups_of(batch: GraphBatch, size: int) -> tuple[list[Group], GraphBatch]:
    """The whole (chain, run) pairs of a batch in groups of about ``size`` tokens, and the rows that belong to none.

    Chains come in the order of their ids: every transaction locks its chains in the same order, so two loads of the same
    chains wait for one another instead of blocking one another.
    """
    groups: list[Group] = []
    by_run: dict[str, list[str]] = {}
    for chain, run in batch.whole:
        by_run.setdefault(run, []).append(chain)
    if not by_run:
        return [], batch
    tokenizers: dict[str, str] = {}
    if "Run" in batch.nodes:
        tokenizers = dict(zip(*(batch.nodes["Run"][c].to_pylist() for c in ("id", "tokenizer")), strict=True))
    used = {name: np.zeros(len(table), bool) for name, table in {**batch.nodes, **batch.relationships}.items()}
    chain_of = {
        name: table["id"] if name == "Chain" else table["chain"]
        for name, table in batch.nodes.items()
        if name in CHAIN_NODES
    }
    for name in (*STRUCTURE, *MEASURED):
        if name in batch.relationships:
            start = batch.relationships[name]["start"]
            chain_of[name] = start if RELATIONSHIP[name].start == "Chain" else _chain_of(start)
    homes, of_whole = _homes(batch)
    if of_whole is not None:
        used["HOLDS"] = of_whole
        chain_of["HOLDS"] = batch.relationships["HOLDS"]["end"]
    for run, members in by_run.items():
        if run not in tokenizers:
            raise StoreError(f"a batch calls run {run} complete without the row of the run")
        prefix = ":" + tokenizers[run][:8] + ":"
        order = pa.array(sorted(set(members)), pa.string())
        place: dict[str, Numbers] = {}
        part: dict[str, pa.Table] = {}
        for name, of in chain_of.items():
            if name == "HOLDS":
                continue
            table = batch.nodes[name] if name in batch.nodes else batch.relationships[name]
            number = _order_of(of, order)
            keep = number >= 0
            if name in MEASURED and len(by_run) > 1:
                keep &= pc.equal(table["run"], run).to_numpy().astype(bool)
            if name in ("Token", "FIRST") and len(set(tokenizers.values())) > 1:
                token = table["id"] if name == "Token" else table["end"]
                keep &= pc.match_substring(token, prefix).to_numpy().astype(bool)
            used[name] |= keep
            rows = np.flatnonzero(keep)
            rows = rows[np.argsort(number[rows], kind="stable")]
            part[name] = table if len(rows) == len(table) and _is_sorted(rows) else table.take(pa.array(rows))
            place[name] = number[rows]
        if len(set(place.get("MEASURED", np.zeros(0, np.int64)).tolist())) != len(order):
            raise StoreError(
                f"a batch calls chains of run {run} complete without their {RELATIONSHIP['MEASURED'].name} rows"
            )
        for group in _cut(part, place, order, run, prefix, size):
            group.holds = [[home, chain] for chain in group.chains for home in homes.get((chain, run), ())]
            groups.append(group)
    rest_nodes = {
        name: table.filter(pa.array(~used[name])) if name in CHAIN_NODES else table
        for name, table in batch.nodes.items()
    }
    rest = {
        name: table.filter(pa.array(~used[name])) if name in chain_of else table
        for name, table in batch.relationships.items()
    }
    return groups, GraphBatch(
        {k: v for k, v in rest_nodes.items() if len(v)}, {k: v for k, v in rest.items() if len(v)}
    )


def _homes(batch: GraphBatch) -> tuple[dict[tuple[str, str], list[str]], npt.NDArray[np.bool_] | None]:
    """The homes that hold each whole (chain, run) pair, and which of the HOLDS rows say so."""
    if "HOLDS" not in batch.relationships:
        return {}, None
    whole = set(batch.whole)
    rows = [batch.relationships["HOLDS"][name].to_pylist() for name in ("start", "end", "run")]
    homes: dict[tuple[str, str], list[str]] = {}
    used = np.zeros(len(rows[0]), bool)
    for number, (home, chain, run) in enumerate(zip(*rows, strict=True)):
        if (chain, run) in whole:
            homes.setdefault((chain, run), []).append(home)
            used[number] = True
    return homes, used


def _is_sorted(rows: Numbers) -> bool:
    return bool((np.diff(rows) > 0).all())


def _cut(
    part: Mapping[str, pa.Table], place: Mapping[str, Numbers], order: pa.Array, run: str, prefix: str, size: int
) -> Iterator[Group]:
    """Cut a run's tables, sorted by chain, into groups. Ends become places among the group's own nodes."""
    n_chains = len(order)
    tokens = np.bincount(place.get("Token", np.zeros(0, np.int64)), minlength=n_chains)
    total = np.cumsum(tokens)
    cuts = [0]
    while cuts[-1] < n_chains:
        begun = int(total[cuts[-1] - 1]) if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(total, begun + size, side="right"))))
    ids: dict[str, pa.Array] = {}
    for label in CHAIN_NODES:
        if label in part:
            ids[label] = part[label]["id"].combine_chunks()
    shared = {"Run": pa.array([run], pa.string())}
    for label, name in (("Source", "FROM"), ("Family", "IN_FAMILY")):
        found = pc.unique(part[name]["end"]) if name in part else pa.array([], pa.string())
        shared[label] = found.take(pc.array_sort_indices(found))
    ends: dict[str, tuple[Numbers, Numbers]] = {}
    for name in (*STRUCTURE, *MEASURED):
        if name in part:
            r = RELATIONSHIP[name]
            ends[name] = tuple(
                _order_of(part[name][end], ids.get(label, shared.get(label, pa.array([], pa.string()))))
                for end, label in (("start", r.start), ("end", r.end))
            )  # type: ignore[assignment]
            if any((side < 0).any() for side in ends[name]):
                raise StoreError(f"{name}: a row of a complete chain has an end that the batch does not hold")
    bounds = {name: np.searchsorted(place[name], np.array(cuts)) for name in part}
    for number in range(len(cuts) - 1):
        tables = {name: part[name].slice(int(b[number]), int(b[number + 1] - b[number])) for name, b in bounds.items()}
        parameters: dict[str, Any] = {"counts": {}, "run": run, "tokenizer": prefix.strip(":")}
        rows = 0
        for label in CHAIN_NODES:
            if label in tables:
                parameters[label] = columns_of(tables[label], ("chain", "tokenizer"))
                if label != "Chain":
                    of = place[label][int(bounds[label][number]) : int(bounds[label][number + 1])]
                    parameters[label]["chain"] = (of - cuts[number]).tolist()
        used = {label: np.arange(len(ids)) for label, ids in shared.items()}
        for name in (*STRUCTURE, *MEASURED):
            table = tables.get(name)
            if table is None:
                continue
            r = RELATIONSHIP[name]
            cut = slice(int(bounds[name][number]), int(bounds[name][number + 1]))
            parameters[name] = columns_of(table, ("start", "end", "run", "tokenizer"))
            for end, label, places in (("start", r.start, ends[name][0]), ("end", r.end, ends[name][1])):
                first = int(bounds[label][number]) if label in CHAIN_NODES else 0
                numbers = places[cut] - first
                if label in ("Source", "Family"):  # of many, a group looks up its own
                    used[label], numbers = np.unique(numbers, return_inverse=True)
                parameters[name][end] = numbers.tolist()
            if name == "IN_FAMILY":
                # groups that share families lock them in one order
                rows_of = np.argsort(parameters[name]["end"], kind="stable")
                for end in ("start", "end"):
                    parameters[name][end] = np.array(parameters[name][end])[rows_of].tolist()
        parameters |= {label: {"id": ids.take(pa.array(used[label])).to_pylist()} for label, ids in shared.items()}
        for name in (*CHAIN_NODES, *STRUCTURE, *MEASURED):
            count = len(tables[name]) if name in tables else 0
            parameters["counts"][name] = count
            parameters.setdefault(name, {"id": [], "start": [], "end": []})
            rows += count
        parameters["counts"] |= {label: len(parameters[label]["id"]) for label in shared}
        yield Group(
            run=run,
            tokenizer=prefix,
            chains=order.slice(cuts[number], cuts[number + 1] - cuts[number]).to_pylist(),
            per_layer=any(p in part["NEXT"].column_names for p in ("hidden_shift_by_layer",))
            if "NEXT" in part
            else False,
            parameters=parameters,
            rows=rows,
            tables=tables,
        )


def subset(group: Group, chains: Sequence[str]) -> Group:
    """The part of a group that belongs to some of its chains."""
    if len(chains) == len(group.chains):
        return group
    order = pa.array(chains, pa.string())
    part: dict[str, pa.Table] = {}
    place: dict[str, Numbers] = {}
    for name, table in group.tables.items():
        if name == "Chain":
            of = table["id"]
        elif name in CHAIN_NODES:
            of = table["chain"]
        else:
            of = table["start"] if RELATIONSHIP[name].start == "Chain" else _chain_of(table["start"])
        number = _order_of(of, order)
        rows = np.flatnonzero(number >= 0)
        part[name], place[name] = table.take(pa.array(rows)), number[rows]
    (found,) = _cut(part, place, order, group.run, group.tokenizer, 2**62)
    return found
