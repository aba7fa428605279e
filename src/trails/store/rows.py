"""Traces → rows of the graph: the only place that knows how a trace becomes nodes and relationships.

Everything is computed on whole columns (numpy, Arrow), and every number in a way that does not depend on what else is in
the batch: sums run over layers and tokens in their own order. So a chain gives the same rows alone, in a batch, and again
from the shards, to the bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trails.errors import StoreError
from trails.platform.arrays import Doubles
from trails.schema import (
    MEASURE,
    META,
    NODES,
    RELATIONSHIPS,
    TRANSITION_MEASURES,
    HomeIdentity,
    Measure,
    Run,
    Trace,
    bin_starts,
    family_key,
    properties_of,
    stable_hash,
)
from trails.store.base import GraphBatch
from trails.store.digest import TRACE_TABLES

ALL_EDGES_STEPS = 256
"""Steps of a chain up to which all pairs of steps become ``ATTENDS_TO``: 32,640 of them."""

STRONGEST = 32
"""Earlier steps that every step of a longer chain keeps in the graph. The shards keep what was measured."""

SHARED = ("Source", "Run", "Family")
"""Nodes of many chains that follow from the shards."""

RESULTS = frozenset(r.name for r in RELATIONSHIPS if r.name not in TRACE_TABLES)
"""Relationships that do not follow from a chain's shards."""

_ARROW = {
    "string": pa.string(),
    "integer": pa.int64(),
    "float": pa.float64(),
    "boolean": pa.bool_(),
    "strings": pa.list_(pa.string()),
    "floats": pa.list_(pa.float64()),
    "integers": pa.list_(pa.int64()),
}


def table_schema(name: str, *, per_layer: bool = False) -> pa.Schema:
    """Arrow schema of a label's or relationship's rows: ``start``, ``end`` for relationships, then the properties."""
    ends = [] if any(node.label == name for node in NODES) else [("start", pa.string()), ("end", pa.string())]
    return pa.schema([*ends, *((p.name, _ARROW[p.type]) for p in properties_of(name, per_layer=per_layer))])


def table_of(name: str, columns: Mapping[str, Any], *, per_layer: bool = False) -> pa.Table:
    """Rows of a label or relationship from columns (sequences or Arrow arrays); a column left out is null, NaN becomes null.

    For analyses that write their results to the graph. Raises StoreError for a column that schema.py does not declare.
    """
    schema = table_schema(name, per_layer=per_layer)
    unknown = set(columns) - set(schema.names)
    if unknown:
        raise StoreError(f"{name} has no property {', '.join(sorted(unknown))}; it has {', '.join(schema.names)}")
    length = max((len(column) for column in columns.values()), default=0)
    arrays = []
    for field in schema:
        value = columns.get(field.name)
        if value is None:
            arrays.append(pa.nulls(length, field.type))
        elif isinstance(value, pa.Array | pa.ChunkedArray):
            arrays.append(value.cast(field.type))
        elif pa.types.is_floating(field.type):
            arrays.append(_nan_to_null(np.array([np.nan if v is None else v for v in value], np.float64)))
        else:
            arrays.append(pa.array(value, field.type))
    return pa.table(arrays, schema=schema)


def source_id(name: str, licence: str) -> str:
    """Identity of a Source node. The file's hash is provenance, not identity: the same records in another order are the same
    source.
    """
    return "s" + stable_hash(name, licence)


def graph_batch(traces: Iterable[Trace], runs: Mapping[str, Run], *, per_layer: bool = False) -> GraphBatch:
    """Nodes and relationships of the traces and of their runs.

    ``runs`` maps run ids to runs and must hold every run of the traces (StoreError otherwise). ``per_layer`` adds the
    arrays of every layer to token transitions. A chain measured by a second run adds its measured relationships; its
    nodes are the same ones. Duplicate (chain, run) pairs count once.
    """
    by_run: dict[str, dict[str, Trace]] = {}
    for trace in traces:
        by_run.setdefault(trace.run, {}).setdefault(trace.chain.id, trace)
    missing = sorted(set(by_run) - set(runs))
    if missing:
        raise StoreError(
            f"traces of run {missing[0]}, which the home does not describe; its runs: {', '.join(sorted(runs))}"
        )
    parts = [_run_rows(list(held.values()), runs[run], per_layer) for run, held in sorted(by_run.items())]
    return merge_batches(parts)


def held_by(batch: GraphBatch, home: HomeIdentity) -> GraphBatch:
    """The batch with the home that holds its whole (chain, run) pairs."""
    found = holding(batch.whole, home)
    return GraphBatch({**batch.nodes, **found.nodes}, {**batch.relationships, **found.relationships}, batch.whole)


def holding(pairs: Iterable[tuple[str, str]], home: HomeIdentity) -> GraphBatch:
    """The home, and that it holds these (chain, run) pairs."""
    chains, runs = [list(side) for side in zip(*pairs, strict=True)] or [[], []]
    rows = {"start": [home.id] * len(chains), "end": chains, "run": runs}
    node = table_of("Home", {"id": [home.id], "name": [home.name]})
    return GraphBatch({"Home": node}, {"HOLDS": table_of("HOLDS", rows)} if chains else {})


def families(of: Iterable[tuple[str, str]]) -> GraphBatch:
    """The families of (chain, family) pairs, a family as the data names it; a pair without one is left out."""
    held = [(chain, family) for chain, family in of if family]
    names = {family_key(family): family for _, family in held}
    ends = {"start": [chain for chain, _ in held], "end": [family_key(family) for _, family in held]}
    nodes = {"Family": table_of("Family", {"id": list(names), "name": list(names.values())})}
    return GraphBatch(nodes, {"IN_FAMILY": table_of("IN_FAMILY", ends)}) if held else GraphBatch()


def merge_batches(batches: Sequence[GraphBatch]) -> GraphBatch:
    """One batch with the rows of all; nodes with the same id and relationships with the same key count once (first wins)."""
    if len(batches) == 1:
        return batches[0]
    nodes: dict[str, pa.Table] = {}
    for node in NODES:
        tables = [batch.nodes[node.label] for batch in batches if node.label in batch.nodes]
        if tables:
            nodes[node.label] = distinct(pa.concat_tables(tables), ("id",)) if len(tables) > 1 else tables[0]
    relationships: dict[str, pa.Table] = {}
    for relationship in RELATIONSHIPS:
        tables = [
            batch.relationships[relationship.name] for batch in batches if relationship.name in batch.relationships
        ]
        if tables:
            joined = pa.concat_tables(tables, promote_options="default")
            relationships[relationship.name] = (
                distinct(joined, ("start", "end", *relationship.key)) if len(tables) > 1 else joined
            )
    whole = dict.fromkeys(pair for batch in batches for pair in batch.whole)
    return GraphBatch(nodes, relationships, tuple(whole))


def of_chains(batch: GraphBatch, chains: Collection[str]) -> GraphBatch:
    """What follows from the shards of some chains, and every source, run and family."""
    wanted = pa.array(sorted(chains), pa.string())
    nodes = {name: table for name, table in batch.nodes.items() if name in SHARED}
    for label in ("Chain", "Step", "Token"):
        if label in batch.nodes:
            table = batch.nodes[label]
            nodes[label] = table.filter(pc.is_in(table["id" if label == "Chain" else "chain"], value_set=wanted))
    relationships = {}
    for r in RELATIONSHIPS:
        if r.name in batch.relationships and r.start in ("Chain", "Step", "Token") and r.name not in RESULTS:
            table = batch.relationships[r.name]
            chain = pc.list_element(pc.split_pattern(table["start"], ":", max_splits=1), 0)
            relationships[r.name] = table.filter(pc.is_in(chain, value_set=wanted))
    return GraphBatch(
        {name: table for name, table in nodes.items() if len(table)},
        {name: table for name, table in relationships.items() if len(table)},
        tuple(pair for pair in batch.whole if pair[0] in set(chains)),
    )


_ALWAYS = {"Chain": "source", "Step": "chain", "Token": "chain", "Source": "name", "Run": "model", "Family": "name"}
"""A property that every node of the label has that trails wrote."""


def own_rows(name: str, columns: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    """The columns of a table of the graph without the rows that somebody else wrote under the same label or type: those whose
    ids are no text, and nodes without what every node of trails has.
    """
    schema = table_schema(name)
    texts = ["id", *([_ALWAYS[name]] if name in _ALWAYS else [])] if schema.names[0] == "id" else ["start", "end"]
    places = [schema.names.index(text) for text in texts]
    if not columns or all(isinstance(value, str) for place in places for value in columns[place]):
        return list(columns)
    keep = [all(isinstance(value, str) for value in row) for row in zip(*(columns[p] for p in places), strict=True)]
    return [[value for value, kept in zip(column, keep, strict=True) if kept] for column in columns]


def distinct(table: pa.Table, key: Sequence[str]) -> pa.Table:
    """The rows of a table without those whose key occurred before, in their order."""
    if len(key) == 1 and len(pc.unique(table[key[0]])) == len(table):  # the usual case, for half the time of grouping
        return table
    numbered = table.select(list(key)).append_column("#", pa.array(np.arange(len(table))))
    first = numbered.group_by(list(key), use_threads=False).aggregate([("#", "min")])["#_min"]
    if len(first) == len(table):
        return table
    return table.take(pa.array(np.sort(first.to_numpy())))


# --------------------------------------------------------------------------------------------------------------------
# one run
# --------------------------------------------------------------------------------------------------------------------


def _run_rows(traces: Sequence[Trace], run: Run, per_layer: bool) -> GraphBatch:
    n_layers = run.n_layers if not traces else traces[0].n_layers
    for trace in traces:
        if trace.n_layers != n_layers or trace.tokenizer != run.tokenizer:
            raise StoreError(
                f"the trace of chain {trace.chain.id} does not fit run {run.id}: other layers or tokenizer"
            )
    chain_ids = [trace.chain.id for trace in traces]
    n = np.array([trace.n_tokens for trace in traces], np.int64)
    n_steps = np.array([len(trace.steps) for trace in traces], np.int64)
    token_offset = _offsets(n)
    step_offset = _offsets(n_steps)

    # keys of all tokens and steps, in order
    token_chain = np.repeat(np.arange(len(traces)), n)
    position = np.arange(token_offset[-1]) - np.repeat(token_offset[:-1], n)
    step_chain = np.repeat(np.arange(len(traces)), n_steps)
    step_index = np.arange(step_offset[-1]) - np.repeat(step_offset[:-1], n_steps)
    chains = pa.array(chain_ids, pa.string())
    chain_of_token = chains.take(pa.array(token_chain))
    chain_of_step = chains.take(pa.array(step_chain))
    token_ids = pc.binary_join_element_wise(
        chain_of_token, run.tokenizer_id, pc.cast(pa.array(position), pa.string()), ":"
    )
    step_ids = pc.binary_join_element_wise(chain_of_step, pc.cast(pa.array(step_index), pa.string()), ":")

    # the step of every token: spans are in order and without holes, so the ends over the whole batch are sorted
    spans = np.concatenate([t.step_tokens.reshape(-1, 2) for t in traces] or [np.zeros((0, 2), np.int32)]).astype(
        np.int64
    )
    span_start = spans[:, 0] + token_offset[step_chain]
    span_end = spans[:, 1] + token_offset[step_chain]
    step_of_token = np.searchsorted(span_end, np.arange(token_offset[-1]), side="right")

    steps = [step.as_corrected for trace in traces for step in trace.steps]
    nodes = {
        "Source": _source_nodes(traces),
        "Chain": _chain_nodes(traces, chains),
        "Family": _family_nodes(traces),
        "Step": _table(
            "Step",
            {
                "id": step_ids,
                "chain": chain_of_step,
                "index": step_index,
                "text": [trace.chain.text[s.start : s.end] for trace in traces for s in trace.steps],
                "role": [str(s.role) for s in steps],
                "connective": [s.connective for s in steps],
                "sense": [s.sense for s in steps],
                "explicit": [s.explicit for s in steps],
                "implicit_role": [s.implicit_role or None for s in steps],
                "implicit_p": [s.implicit_p if s.implicit_role else None for s in steps],
                "automatic_role": [s.automatic_role or None for s in steps],
                "corrected_by": [s.corrected_by or None for s in steps],
                "corrected_at": [s.corrected_at or None for s in steps],
                "scene": [s.scene if s.scene >= 0 else None for s in steps],
                "source_line": [s.source_line or None for s in steps],
                "start": [s.start for s in steps],
                "end": [s.end for s in steps],
            },
        ),
        "Token": _table(
            "Token",
            {
                "id": token_ids,
                "chain": chain_of_token,
                "step": step_index[step_of_token] if len(step_of_token) else step_of_token,
                "tokenizer": [run.tokenizer_id] * len(position),
                "position": position,
                "token_id": _joined([t.token_ids for t in traces], np.int64),
                "piece": [piece for trace in traces for piece in trace.pieces],
                "start": _joined([t.token_start for t in traces], np.int64),
                "end": _joined([t.token_end for t in traces], np.int64),
            },
        ),
        "Run": _table(
            "Run",
            {"id": [run.id], "alias": [run.name or None]}
            | {p.name: [getattr(run, p.name)] for p in properties_of("Run") if p.name not in ("id", "alias")}
            | {"intervention": [run.intervention or None]},
        ),
    }

    transition = _transition_columns(traces, run, per_layer)
    everything = pa.table(transition, schema=pa.schema(list(table_schema("NEXT", per_layer=per_layer))[2:]))
    first = token_offset[:-1][n > 0]
    later = np.flatnonzero(position > 0)
    surprisal = _joined([t.surprisal for t in traces], np.float64)
    measured = ~np.isnan(surprisal)
    filled = np.where(measured, surprisal, 0.0)
    chain_nll, chain_mean = _sums(filled, measured, token_chain, len(traces))
    step_nll, step_mean = _sums(filled, measured, step_of_token, len(steps))
    chain_max = _largest(surprisal[measured], token_chain[measured], len(traces))
    step_max = _largest(surprisal[measured], step_of_token[measured], len(steps))
    run_of = pa.array([run.id] * max(len(traces), len(steps)), pa.string())

    relationships = {
        "FROM": _table("FROM", {"start": chains, "end": [_source_of(trace) for trace in traces]}),
        "IN_FAMILY": _table("IN_FAMILY", _in_family(traces)),
        "HAS_STEP": _table("HAS_STEP", {"start": chain_of_step, "end": step_ids}),
        "NEXT_STEP": _table("NEXT_STEP", _consecutive(step_ids, step_index)),
        "FIRST": _table(
            "FIRST",
            {
                "start": step_ids.filter(pa.array(span_end > span_start)),
                "end": token_ids.take(pa.array(span_start[span_end > span_start])),
                "tokenizer": [run.tokenizer_id] * int((span_end > span_start).sum()),
            },
        ),
        "MEASURED": _table(
            "MEASURED",
            {
                "start": chains,
                "end": run_of[: len(traces)],
                "run": run_of[: len(traces)],
                "n_tokens": n,
                "nll": _nan_to_null(chain_nll),
                "mean_surprisal": _nan_to_null(chain_mean),
                "max_surprisal": _nan_to_null(chain_max),
                "hidden_baseline": _float_lists([t.hidden_baseline for t in traces]),
                "edges_per_step": [_edges_kept(t) for t in traces],
            },
        ),
        "MEASURED_STEP": _table(
            "MEASURED_STEP",
            {
                "start": step_ids,
                "end": run_of[: len(steps)],
                "run": run_of[: len(steps)],
                "n_tokens": span_end - span_start,
                "nll": _nan_to_null(step_nll),
                "mean_surprisal": _nan_to_null(step_mean),
                "max_surprisal": _nan_to_null(step_max),
            }
            | _context_masses(traces, n_layers),
        ),
        "BEGINS": _with_ends(
            "BEGINS", chains.filter(pa.array(n > 0)), token_ids.take(pa.array(first)), everything, first
        ),
        "NEXT": _with_ends(
            "NEXT", token_ids.take(pa.array(later - 1)), token_ids.take(pa.array(later)), everything, later
        ),
        "LEADS_TO": _leads_to(traces, run.id, step_ids, step_index, step_mean),
        "ATTENDS_TO": _step_attention(traces, run, step_ids, step_offset, n_layers),
    }
    if any(trace.token_attends_step is not None for trace in traces):
        relationships["TOKEN_ATTENDS_TO"] = _token_attention(
            traces, run.id, token_ids, step_ids, token_offset, step_offset
        )
    whole = tuple((chain, run.id) for chain in chain_ids)
    return GraphBatch(
        {k: v for k, v in nodes.items() if len(v) or k != "Family"},
        {k: v for k, v in relationships.items() if len(v)},
        whole,
    )


def _offsets(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _joined(arrays: Sequence[npt.NDArray[Any]], dtype: type) -> npt.NDArray[Any]:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)


def _nan_to_null(values: Doubles) -> pa.Array:
    return pa.array(values, pa.float64(), from_pandas=True)


def _table(name: str, columns: Mapping[str, Any]) -> pa.Table:
    schema = table_schema(name)
    arrays = []
    for field in schema:
        value = columns[field.name]
        arrays.append(value if isinstance(value, pa.Array | pa.ChunkedArray) else pa.array(value, field.type))
    return pa.table(arrays, schema=schema)


def _with_ends(name: str, start: pa.Array, end: pa.Array, columns: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    taken = columns if len(rows) == len(columns) else columns.take(pa.array(rows))
    return taken.add_column(0, "start", start).add_column(1, "end", end)


def _source_of(trace: Trace) -> str:
    return source_id(trace.chain.source, trace.chain.licence)


def _source_nodes(traces: Sequence[Trace]) -> pa.Table:
    found = {_source_of(trace): trace.chain for trace in traces}
    return _table(
        "Source",
        {
            "id": list(found),
            "name": [chain.source for chain in found.values()],
            "licence": [chain.licence for chain in found.values()],
        },
    )


def _with_implicit(trace: Trace) -> str | None:
    """Roles with the implicit ones, joined by >; None where none was ever estimated."""
    if not any(step.scene >= 0 for step in trace.steps):
        return None
    return ">".join(step.role_with_implicit().value for step in trace.steps)


def _chain_nodes(traces: Sequence[Trace], chains: pa.Array) -> pa.Table:
    columns: dict[str, Any] = {
        name: [getattr(trace.chain, name) for trace in traces]
        for name in ("source", "source_id", "question", "text", "answer", "language")
    }
    columns |= {
        "id": chains,
        "roles": [">".join(str(step.role) for step in trace.steps) for trace in traces],
        "roles_implicit": [_with_implicit(trace) for trace in traces],
        "n_steps": [len(trace.steps) for trace in traces],
    }
    columns |= {
        meta.name: [_scalar(trace.chain.metadata.get(meta.name.removeprefix("meta_")), meta.type) for trace in traces]
        for meta in META
    }
    return _table("Chain", columns)


def _scalar(text: str | None, kind: str) -> Any:
    """Metadata as a value of a declared type; None where there is none, or it is of another type."""
    if text is None or kind == "string":
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if kind == "float":
        return float(value)
    return int(value) if value == int(value) and abs(value) < 2**53 else None


def _family_nodes(traces: Sequence[Trace]) -> pa.Table:
    found = {family_key(trace.chain.family): trace.chain.family for trace in traces if trace.chain.family}
    return _table("Family", {"id": list(found), "name": list(found.values())})


def _in_family(traces: Sequence[Trace]) -> dict[str, Any]:
    held = [trace.chain for trace in traces if trace.chain.family]
    return {"start": [chain.id for chain in held], "end": [family_key(chain.family) for chain in held]}


def _consecutive(step_ids: pa.Array, step_index: npt.NDArray[np.int64]) -> dict[str, pa.Array]:
    later = np.flatnonzero(step_index > 0)
    return {"start": step_ids.take(pa.array(later - 1)), "end": step_ids.take(pa.array(later))}


def _sums(
    filled: Doubles, measured: npt.NDArray[np.bool_], group: npt.NDArray[np.int64], size: int
) -> tuple[Doubles, Doubles]:
    """Sum and mean per group over the measured values; NaN for a group without any. Adds in token order."""
    total = np.bincount(group, weights=filled, minlength=size)
    count = np.bincount(group, weights=measured, minlength=size)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total, np.nan), total / count


def _largest(values: Doubles, group: npt.NDArray[np.int64], size: int) -> Doubles:
    """Largest value per group; NaN for a group without any."""
    found = np.full(size, -np.inf)
    np.maximum.at(found, group, values)
    return np.where(np.isneginf(found), np.nan, found)


def _layer_mean(values: npt.NDArray[np.float32], first: int, last: int) -> Doubles:
    """Mean over the layers first..last-1 of an (n, L) array, added layer by layer so that the result is the same on every
    machine; NaN for no layers.
    """
    if last <= first:
        return np.full(len(values), np.nan)
    total = np.zeros(len(values), np.float64)
    for layer in range(first, last):
        total += values[:, layer]
    return total / (last - first)


def thirds(name: str, values: npt.NDArray[np.float32], first: int) -> dict[str, pa.Array]:
    """Scalars of a per-layer measure. ``first`` is the number of the first column that is a layer."""
    n_layers = values.shape[1] - first
    cuts = [first + (n_layers * third + 2) // 3 for third in range(4)]  # early and middle get the remainder
    largest = np.argmax(np.nan_to_num(values[:, first:], nan=-1.0), axis=1) + first if n_layers > 0 else None
    undefined = np.isnan(values[:, first:]).all(axis=1) if n_layers > 0 else None
    return {
        name: _nan_to_null(_layer_mean(values, first, first + n_layers)),
        f"{name}_early": _nan_to_null(_layer_mean(values, cuts[0], cuts[1])),
        f"{name}_middle": _nan_to_null(_layer_mean(values, cuts[1], cuts[2])),
        f"{name}_late": _nan_to_null(_layer_mean(values, cuts[2], cuts[3])),
        f"{name}_max_layer": pa.nulls(len(values), pa.int64())
        if largest is None
        else pa.array(largest.astype(np.int64), mask=undefined),
    }


def _float_lists(rows: Sequence[npt.NDArray[np.float32]]) -> pa.ListArray:
    """One list of float64 per array."""
    offsets = _offsets(np.array([row.size for row in rows], np.int64)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(_joined([row.reshape(-1) for row in rows], np.float64)))


def _matrix_lists(values: npt.NDArray[np.float32]) -> pa.ListArray:
    """One list of float64 per row of an (n, L) array; null where the whole row is undefined."""
    rows, width = values.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * np.int32(width))
    undefined = np.isnan(values).all(axis=1)
    mask = pa.array(undefined) if undefined.any() else None
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1).astype(np.float64)), mask=mask)


def _transition_columns(traces: Sequence[Trace], run: Run, per_layer: bool) -> list[pa.Array]:
    """Columns of every transition of every trace, in the order of schema.TRANSITION (and its arrays)."""

    columns: dict[str, pa.Array] = {
        "run": pa.array([run.id] * sum(trace.n_tokens for trace in traces), pa.string()),
    }
    for measure in TRANSITION_MEASURES:
        values = _over_tokens(measure, traces, run)
        columns |= _scalars(measure, values)
        if per_layer and measure.by_layer:
            columns[f"{measure.name}_by_layer"] = _matrix_lists(values)
    return [columns[p.name] for p in properties_of("NEXT", per_layer=per_layer)]


def _scalars(measure: Measure, values: npt.NDArray[Any]) -> dict[str, pa.Array]:
    """The scalars by which a measure of all tokens, (tokens,) or (tokens, layers), reaches the transitions."""
    layer = measure.first_layer
    if measure.graph == "scalar":
        whole = measure.dtype == "int32"
        return {measure.name: pa.array(values, pa.int64(), mask=values < 0) if whole else _nan_to_null(values)}
    if measure.graph == "mean":
        return {measure.name: _nan_to_null(_layer_mean(values, layer, values.shape[1]))}
    return thirds(measure.name, values, layer)


def transition_values(trace: Trace, run: Run, measure: str) -> dict[str, Doubles]:
    """What the graph holds of a measure on the transitions of a trace, by property: (n,) each, NaN where it holds nothing."""
    of = MEASURE[measure]
    found = _scalars(of, _over_tokens(of, [trace], run))
    return {
        name: pc.fill_null(values.cast(pa.float64()), math.nan).to_numpy(zero_copy_only=False)
        for name, values in found.items()
    }


def _over_tokens(measure: Measure, traces: Sequence[Trace], run: Run) -> npt.NDArray[Any]:
    """A measure of all tokens of all traces, (tokens,) or (tokens, layers); undefined where a trace does not have it."""
    width = [run.n_layers + measure.first_layer for _ in measure.axes[1:]]
    scalar = measure.graph == "scalar"
    dtype = np.int64 if measure.dtype == "int32" else np.float64 if scalar else np.float32
    parts: list[npt.NDArray[Any]] = [np.zeros((0, *width), dtype)]
    for trace in traces:
        value = trace.array(measure.name)
        if trace.n_tokens:
            undefined = -1 if measure.dtype == "int32" else np.nan
            parts.append(np.full((trace.n_tokens, *width), undefined, dtype) if value is None else value)
    return np.concatenate([part.astype(dtype, copy=False) for part in parts[len(parts) > 1 :]])


def _context_masses(traces: Sequence[Trace], n_layers: int) -> dict[str, pa.Array]:
    """Attention of every step on the sink, the question and itself; mean over layers."""
    bins, base, last = _bins(traces, n_layers)
    mean = _layer_mean(bins, 0, n_layers)
    rows = {"mass_sink": base, "mass_question": base + 1, "mass_own": last - 1}
    return {name: _nan_to_null(mean[at]) for name, at in rows.items()}


def _bins(
    traces: Sequence[Trace], n_layers: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All attention bins of the batch below one another, and the rows at which those of every query step begin and end."""
    bins = np.concatenate([t.step_attention for t in traces] or [np.zeros((0, n_layers), np.float32)])
    lengths = [
        np.arange(len(t.steps), dtype=np.int64) + 3 if t.step_keys is None else np.diff(bin_starts(t.step_keys))
        for t in traces
    ]
    offsets = _offsets(np.concatenate(lengths or [np.zeros(0, np.int64)]))
    return bins, offsets[:-1], offsets[1:]


def _leads_to(
    traces: Sequence[Trace], run: str, step_ids: pa.Array, step_index: npt.NDArray[np.int64], step_mean: Doubles
) -> pa.Table:
    later = np.flatnonzero(step_index > 0)
    roles = np.array([str(step.role) for trace in traces for step in trace.steps], object)

    def per_step(name: str) -> Doubles:
        empty = [np.full(len(t.steps), np.nan) if getattr(t, name) is None else getattr(t, name) for t in traces]
        return np.asarray(_joined(empty, np.float64))[later]

    given_all = per_step("nll_given_all")
    # what the ordinary pass measured is the same quantity
    given_all = np.where(np.isnan(given_all), step_mean[later], given_all)
    return _table(
        "LEADS_TO",
        {
            "start": step_ids.take(pa.array(later - 1)),
            "end": step_ids.take(pa.array(later)),
            "run": [run] * len(later),
            "roles": [f"{a}>{b}" for a, b in zip(roles[later - 1], roles[later], strict=True)],
            "nll_given_all": _nan_to_null(given_all),
            "nll_given_question": _nan_to_null(per_step("nll_given_question")),
            "premise_usefulness": _nan_to_null(per_step("nll_without_previous") - per_step("nll_given_all")),
        },
    )


def _step_attention(
    traces: Sequence[Trace], run: Run, step_ids: pa.Array, step_offset: npt.NDArray[np.int64], n_layers: int
) -> pa.Table:
    """Later step → earlier step. Nothing where the later step has no token, the model no attention, or the earlier step lay
    outside the window that the later one was measured in: what cannot be measured is not zero. Of a chain of more than
    :data:`ALL_EDGES_STEPS` steps every step keeps the :data:`STRONGEST` earlier steps.
    """
    bins, base, _ = _bins(traces, n_layers)
    mean_of = _layer_mean(bins, 0, n_layers)
    queries, keys, rows = [], [], []
    for number, trace in enumerate(traces):
        steps, first = len(trace.steps), step_offset[number]
        if trace.step_keys is None:
            later, earlier = np.tril_indices(steps, -1)
            row = base[later + first] + 2 + earlier
        else:
            of = np.repeat(np.arange(steps), np.diff(bin_starts(trace.step_keys)))
            at = np.flatnonzero((trace.step_keys >= 0) & (trace.step_keys < of))
            later, earlier = of[at], trace.step_keys[at].astype(np.int64)
            row = at + (base[first] if steps else 0)
        seen = ~np.isnan(mean_of[row])
        if run.window == "stride":
            seen &= bins[row].any(axis=1)  # attention is never 0 in every layer: the windows had no token in common
        later, earlier, row = later[seen], earlier[seen], row[seen]
        if steps > ALL_EDGES_STEPS:
            kept = _strongest(later, mean_of[row])
            later, earlier, row = later[kept], earlier[kept], row[kept]
        queries.append(later + first)
        keys.append(earlier + first)
        rows.append(row)
    query, key, row = (_joined(part, np.int64) for part in (queries, keys, rows))
    return _table(
        "ATTENDS_TO",
        {
            "start": step_ids.take(pa.array(query)),
            "end": step_ids.take(pa.array(key)),
            "run": [run.id] * len(query),
            "mean": mean_of[row],
            "mass": _matrix_lists(bins[row]),
        },
    )


def _strongest(group: npt.NDArray[np.int64], mass: Doubles) -> npt.NDArray[np.int64]:
    """Places of the :data:`STRONGEST` largest of every group, in their order; of equal ones the first. ``group`` is sorted."""
    order = np.lexsort((np.arange(len(mass)), -mass, group))
    starts = np.searchsorted(group, group)  # of every place, where its group begins
    rank = np.arange(len(mass)) - starts
    return np.sort(order[rank < STRONGEST])


def _edges_kept(trace: Trace) -> int | None:
    """Earlier steps that each step of the trace keeps at most; None where it keeps all."""
    limits = [STRONGEST] if len(trace.steps) > ALL_EDGES_STEPS else []
    if trace.step_keys is not None:
        limits.append(int(np.diff(bin_starts(trace.step_keys)).max(initial=3)) - 3)
    return min(limits) if limits else None


def _token_attention(
    traces: Sequence[Trace],
    run: str,
    token_ids: pa.Array,
    step_ids: pa.Array,
    token_offset: npt.NDArray[np.int64],
    step_offset: npt.NDArray[np.int64],
) -> pa.Table:
    tokens, steps, masses, layers = [], [], [], []
    for number, trace in enumerate(traces):
        if trace.token_attends_step is None or trace.token_attends_mass is None or trace.token_attends_layer is None:
            continue
        at = np.flatnonzero(trace.token_attends_step >= 0)
        tokens.append(at + token_offset[number])
        steps.append(trace.token_attends_step[at] + step_offset[number])
        masses.append(trace.token_attends_mass[at])
        layers.append(trace.token_attends_layer[at])
    token = _joined(tokens, np.int64)
    return _table(
        "TOKEN_ATTENDS_TO",
        {
            "start": token_ids.take(pa.array(token)),
            "end": step_ids.take(pa.array(_joined(steps, np.int64))),
            "run": [run] * len(token),
            "mean": _nan_to_null(_joined(masses, np.float64)),
            "layer": _joined(layers, np.int64),
        },
    )
