"""From the shards to the graph: load what is missing, and compare the two. No model is needed here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trails.config import Settings, load_settings
from trails.errors import StoreError
from trails.pipeline.progress import Progress, Silent
from trails.schema import NODES, TRANSITION_ARRAYS, Trace
from trails.store import open_graph
from trails.store.base import GraphStore
from trails.store.digest import compare, graph_digest
from trails.store.rows import graph_batch
from trails.store.traces import TraceStore

SHARD_CHAINS = 500
"""Chains loaded, or put into one shard, at a time, however short they are."""


def load_missing(
    traces: TraceStore, graph: GraphStore, *, per_layer: bool = False, progress: Progress | None = None
) -> int:
    """Load every (chain, run) of the shards that the graph does not hold completely; return how many. No model is needed."""
    progress = progress or Silent()
    runs = traces.runs()
    present = graph.loaded()
    missing = {run: traces.done(run) - {chain for chain, of in present if of == run} for run in runs}
    total = sum(map(len, missing.values()))
    if not total:
        return 0
    progress.begin("loading the graph", total)
    for run, chains in missing.items():
        if not chains:
            continue
        block: list[Trace] = []
        for trace in traces.traces(run, chains):
            block.append(trace)
            if len(block) == SHARD_CHAINS:
                graph.write([graph_batch(block, runs, per_layer=per_layer)])
                progress.advance(len(block))
                block = []
        if block:
            graph.write([graph_batch(block, runs, per_layer=per_layer)])
            progress.advance(len(block))
    return total


def rebuild(
    settings: Settings | None = None,
    *,
    fresh: bool = False,
    per_layer: bool = False,
    progress: Progress | None = None,
) -> int:
    """Load into the graph what it misses, from the shards; return the number of (chain, run) pairs loaded.

    ``fresh`` removes everything that trails put into the graph first (analysis results too; they are computed again by
    their commands, but for the variants that the home keeps), and starts anew where the file of the embedded graph is damaged.
    """
    settings = settings or load_settings()
    with TraceStore(settings.home) as traces, open_graph(settings, discard_damaged=fresh) as graph:
        if fresh:
            graph.clear([node.label for node in NODES])
        graph.ensure_schema()
        loaded = load_missing(traces, graph, per_layer=per_layer, progress=progress)
        for path in sorted((traces.home / "variants").glob("v*.parquet")):
            load_variants(graph, path)
        graph.save()
        return loaded


def load_variants(graph: GraphStore, path: Path) -> None:
    """Put the stored variants of a file, with their drift map, into the graph, where it holds their chains.

    Raises StoreError for a file that is damaged or holds something else.
    """
    from trails.variants import variant_batch

    chains = {chain for chain, _ in graph.loaded()}
    why = "it holds something else"
    try:
        file = pq.ParquetFile(path)
        known = "hidden_drift" in file.schema_arrow.names
    except (OSError, pa.ArrowException) as error:
        known, why = False, str(error)
    if not known:
        raise StoreError(
            f"{path} is not a file of variants ({why}). Delete it; its variants are made again by: trails variants CHAIN"
        )
    graph.write(variant_batch(file.read_row_group(group), chains) for group in range(file.num_row_groups))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verify found. ``differences`` is empty when shards and graph agree and no shard is damaged; ``damaged`` names the
    damaged shards, ``advice`` says what to run, step by step.
    """

    content: str
    values: str
    graph: str
    expected: str
    chains: int
    differences: tuple[str, ...]
    damaged: tuple[str, ...] = ()
    advice: tuple[str, ...] = ()


def verify(settings: Settings | None = None, *, set_aside: bool = False) -> Verdict:
    """Check every shard against its name and the graph against the shards.

    ``content`` and ``values`` are the digests of the shards (see :meth:`TraceStore.digest`); ``expected`` is the digest of
    the graph that the shards would give, ``graph`` that of the graph as it is. Damaged shards are left out of all of them;
    ``set_aside`` moves them out of the way.
    """
    settings = settings or load_settings()
    with TraceStore(settings.home, write=set_aside) as traces, open_graph(settings) as graph:
        damaged = tuple(traces.damaged())
        if damaged and set_aside:
            traces.set_aside(damaged)
        traces.without(damaged)
        digest = traces.digest()
        runs = traces.runs()
        pairs = traces.keys()
        per_layer = graph_has_arrays(graph)
        expected = graph_digest(
            graph_batch(block, runs, per_layer=per_layer) for block in _in_blocks(traces.traces(), SHARD_CHAINS)
        )
        actual = graph_digest([graph.tables()])
        differences = [f"shard {name} is damaged" for name in damaged] + compare(expected, actual)
        at = f" --home {settings.home}"
        advice = []
        if damaged:
            lost = {chain for chain, _ in graph.loaded() - pairs}
            found = graph.run(
                "MATCH (c:Chain)-[:FROM]->(s:Source) WHERE c.id IN $ids RETURN DISTINCT s.name AS name ORDER BY name",
                {"ids": sorted(lost)},
            )
            names = ", ".join(row[0] for row in found.rows) or "unknown: the graph does not hold its chains"
            if not set_aside:
                advice.append(f"set the damaged shards aside: trails verify --set-aside{at}")
            advice.append(
                f"ingest the same input again (sources: {names}), only what is missing is measured: trails ingest PATH{at}"
            )
        elif differences:
            advice.append(f"load again: trails rebuild --fresh{at}")
        return Verdict(
            digest.content,
            digest.values,
            actual.hex,
            expected.hex,
            len(pairs),
            tuple(differences),
            damaged,
            tuple(advice),
        )


def graph_has_arrays(graph: GraphStore) -> bool:
    """Whether token transitions in the graph carry per-layer arrays."""
    there = " OR ".join(f"r.{array.name} IS NOT NULL" for array in TRANSITION_ARRAYS)
    return bool(graph.run(f"MATCH (:Token)-[r:NEXT]->(:Token) WHERE {there} RETURN r.run AS run LIMIT 1").rows)


def _in_blocks(traces: Iterable[Trace], size: int) -> Iterator[list[Trace]]:
    block: list[Trace] = []
    for trace in traces:
        block.append(trace)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
