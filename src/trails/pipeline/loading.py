"""From the shards to the graph: load what is missing, and compare the two. No model is needed here."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trails.config import Settings, load_settings
from trails.errors import StoreError
from trails.pipeline.progress import Progress, Silent
from trails.platform.files import replacing
from trails.schema import NODES, RELATIONSHIPS, TRANSITION_ARRAYS, Trace
from trails.store import open_graph
from trails.store.base import GraphBatch, GraphStore
from trails.store.digest import TRACE_TABLES, compare, graph_digest
from trails.store.rows import graph_batch, table_schema
from trails.store.shards import damaged_shard
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

    ``fresh`` makes the graph from nothing. The results of analyses are kept as far as the chains that they name are there;
    what goes is said through ``progress``. Nothing is destroyed before everything that it is made from was read without an
    error: the embedded graph is built next to the old one and takes its place when it is whole; on a server, where both cannot
    be at once, the results lie in the home's folder ``results`` until they are back in the graph. Nobody else writes the home
    meanwhile: raises StoreError where another process does.
    """
    settings = settings or load_settings()
    progress = progress or Silent()
    with TraceStore(settings.home):
        pass  # a home that is not there is told, not made
    with TraceStore(settings.home, write=True) as traces, open_graph(settings, discard_damaged=fresh) as graph:
        graph.hold()
        if fresh:
            if getattr(graph, "discarded", False):
                progress.note("the old graph cannot be read: results of analyses are gone; run their commands again")
            return _rebuild_fresh(traces, graph, per_layer=per_layer, progress=progress)
        graph.ensure_schema()
        return _fill(traces, graph, per_layer=per_layer, progress=progress)


def _fill(traces: TraceStore, graph: GraphStore, *, per_layer: bool, progress: Progress) -> int:
    loaded = load_missing(traces, graph, per_layer=per_layer, progress=progress)
    for path in sorted((traces.home / "variants").glob("v*.parquet")):
        load_variants(graph, path)
    folder = traces.home / "results"
    if folder.is_dir() and not isinstance(graph, Replaceable):
        restore_results({path.stem: pq.read_table(path) for path in sorted(folder.glob("*.parquet"))}, graph, progress)
        shutil.rmtree(folder)
    graph.save()
    return loaded


def _rebuild_fresh(traces: TraceStore, graph: GraphStore, *, per_layer: bool, progress: Progress) -> int:
    runs = traces.runs()
    pairs = traces.keys()
    if nameless := sorted({run for _, run in pairs} - set(runs)):
        raise StoreError(
            f"{traces.home} holds chains of run {nameless[0]} and no file runs/{nameless[0]}.json. Ingest with the same model "
            "again: nothing is measured twice, and the file is written again"
        )
    if damaged := traces.damaged():
        raise damaged_shard(traces.home / "shards" / damaged[0], "its bytes are not those that were written")
    for path in sorted((traces.home / "variants").glob("v*.parquet")):
        check_variants(path)
    if isinstance(graph, Replaceable):
        results = results_of(graph)
        loaded = 0

        def build(beside: GraphStore) -> None:
            nonlocal loaded
            loaded = _fill(traces, beside, per_layer=per_layer, progress=progress)
            restore_results(results, beside, progress)

        graph.replace_with(build)
        return loaded
    keep_results(traces.home, graph)
    graph.clear([node.label for node in NODES])
    graph.ensure_schema()
    return _fill(traces, graph, per_layer=per_layer, progress=progress)


@runtime_checkable
class Replaceable(Protocol):
    """A graph store that can build another graph next to itself and take its place."""

    def replace_with(self, build: Callable[[Any], None]) -> None:
        """See :meth:`trails.store.embedded.EmbeddedStore.replace_with`."""


# --- results of analyses across a rebuild ------------------------------------------------------------------------------

RESULT_NODES = tuple(node for node in NODES if node.label not in TRACE_TABLES and node.label != "Variant")
RESULT_RELATIONSHIPS = tuple(r for r in RELATIONSHIPS if r.name not in TRACE_TABLES and r.start != "Variant")
"""What analyses put into the graph; variants have files of their own in the home."""


def results_of(graph: GraphStore) -> dict[str, pa.Table]:
    """The results of analyses that a graph holds, by label and relationship."""
    tables = {}
    counts = graph.counts()
    for node in RESULT_NODES:
        if counts.get(node.label):
            columns = ", ".join(f"n.`{p.name}` AS `{p.name}`" for p in node.properties)
            tables[node.label] = _read(graph, node.label, f"MATCH (n:{node.label}) RETURN {columns}")
    for of in RESULT_RELATIONSHIPS:
        if counts.get(of.name):
            columns = ", ".join(
                ["a.id AS start", "b.id AS end", *(f"r.`{p.name}` AS `{p.name}`" for p in of.properties)]
            )
            match = f"MATCH (a:{of.start})-[r:{of.type}]->(b:{of.end}) RETURN {columns}"
            tables[of.name] = _read(graph, of.name, match)
    return tables


def _read(graph: GraphStore, name: str, statement: str) -> pa.Table:
    found = graph.run(statement, timeout_s=86_400.0, max_rows=2**31 - 2, trusted=True)
    schema = table_schema(name)
    arrays = [pa.array([row[i] for row in found.rows], field.type) for i, field in enumerate(schema)]
    return pa.table(arrays, schema=schema)


def keep_results(home: Path, graph: GraphStore) -> None:
    """Write :func:`results_of` into the home's folder ``results``, one file a table. A folder that an interrupted rebuild left
    stays as it is: the graph holds no more than that.
    """
    folder = home / "results"
    if folder.is_dir() or not (tables := results_of(graph)):
        return
    building = home / "results.tmp"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(mode=0o700)
    for name, table in tables.items():
        with replacing(building / f"{name}.parquet") as path:
            pq.write_table(table, path)
    building.rename(folder)


def restore_results(tables: Mapping[str, pa.Table], graph: GraphStore, progress: Progress) -> None:
    """Put results of analyses back, without those about chains that are gone; ``progress`` is told what goes."""
    chains = {chain for chain, _ in graph.loaded()}
    nodes: dict[str, pa.Table] = {}
    gone: dict[str, int] = {}
    known: dict[str, set[str]] = {}
    for node in RESULT_NODES:
        if node.label in tables:
            table = tables[node.label]
            if "chain" in table.column_names:
                table = table.filter(pc.is_in(table["chain"], value_set=pa.array(sorted(chains), pa.string())))
            gone[node.label] = len(tables[node.label]) - len(table)
            nodes[node.label] = table
            known[node.label] = set(table["id"].to_pylist())
    relationships = {}
    for relationship in RESULT_RELATIONSHIPS:
        if relationship.name in tables:
            table = tables[relationship.name]
            for end, label in (("start", relationship.start), ("end", relationship.end)):
                ids = table[end].to_pylist()
                there = known.get(label, chains)
                keep = [(i if label in known else i.split(":")[0]) in there for i in ids]
                table = table.filter(pa.array(keep, pa.bool_()))
            gone[relationship.name] = len(tables[relationship.name]) - len(table)
            relationships[relationship.name] = table
    if tables:
        graph.write([GraphBatch(nodes, {name: table for name, table in relationships.items() if len(table)})])
        graph.save()
    lost = ", ".join(f"{count:,} {name}" for name, count in gone.items() if count)
    kept = ", ".join(f"{len(table):,} {name}" for name, table in nodes.items() if len(table))
    if kept:
        progress.note(f"results of analyses kept: {kept}")
    if lost:
        progress.note(f"results of analyses about chains that are gone: {lost}")


def load_variants(graph: GraphStore, path: Path) -> None:
    """Put the stored variants of a file, with their drift map, into the graph, where it holds their chains.

    Raises StoreError for a file that is damaged or holds something else.
    """
    from trails.variants.files import variant_batch

    chains = {chain for chain, _ in graph.loaded()}
    file = check_variants(path)
    graph.write(variant_batch(file.read_row_group(group), chains) for group in range(file.num_row_groups))


def check_variants(path: Path) -> pq.ParquetFile:
    """A file of variants, opened. Raises StoreError for one that is damaged or holds something else."""
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
    return file


@dataclass(frozen=True, slots=True)
class Verification:
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


def verify(settings: Settings | None = None, *, set_aside: bool = False) -> Verification:
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
                timeout_s=86_400.0,
                trusted=True,
            )
            names = ", ".join(row[0] for row in found.rows) or "unknown: the graph does not hold its chains"
            if not set_aside:
                advice.append(f"set the damaged shards aside: trails verify --set-aside{at}")
            advice.append(
                f"ingest the same input again (sources: {names}), only what is missing is measured: trails ingest PATH{at}"
            )
        elif differences:
            advice.append(f"load again: trails rebuild --fresh{at}")
        return Verification(
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
    first = f"MATCH (:Token)-[r:NEXT]->(:Token) WHERE {there} RETURN r.run AS run LIMIT 1"
    return bool(graph.run(first, timeout_s=86_400.0, trusted=True).rows)


def _in_blocks(traces: Iterable[Trace], size: int) -> Iterator[list[Trace]]:
    block: list[Trace] = []
    for trace in traces:
        block.append(trace)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
