"""From the shards to the graph: load what is missing, and compare the two. No model is needed here."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.parquet as pq

from trails.config import Settings, load_settings
from trails.errors import StoreError
from trails.pipeline.progress import Progress, Silent
from trails.pipeline.results import clear_results, keep_results, restore_results, results_of
from trails.platform.memory import free_bytes
from trails.platform.text import counted
from trails.schema import GRAPH_FORMAT, NODES, RELATIONSHIPS, TRANSITION_ARRAYS, Trace
from trails.store import open_graph
from trails.store.base import GraphStore
from trails.store.resolve import chains_without_shard
from trails.store.rows import families, graph_batch, held_by, holding
from trails.store.shards import damaged_shard
from trails.store.traces import TraceStore

SHARD_CHAINS = 500
"""Chains loaded, or put into one shard, at a time, however short they are."""


EMBEDDED_TOKENS = 5_000_000
"""Tokens beyond which a command says that the embedded graph is the wrong place (benchmarks/RESULTS.md, ``scale``)."""

EMBEDDED_BYTES, EMBEDDED_ARRAYS = 3_000, 4_500
"""Memory that the embedded graph takes a token at most, which is while it is saved, and with per-layer arrays beyond that; both
measured with a model of 30 layers. Open it takes 2,600: at the limit the engine ends the process, so the most counts."""


def time_for_neo4j(tokens: int, free: int | None = None, *, per_layer: bool = False) -> str | None:
    """What to say before the embedded graph is loaded with so many tokens; None while it is the right place. ``free`` are the
    bytes of memory that are free (default: as the system says and lets this process have); ``per_layer`` as for
    :func:`load_missing`.
    """
    free = free_bytes() if free is None else free
    needed = tokens * (EMBEDDED_BYTES + (EMBEDDED_ARRAYS if per_layer else 0))
    short = free is not None and needed > free
    if tokens <= EMBEDDED_TOKENS and not short:
        return None
    here = f", and {free / 1e9:,.1f} GB are free" if free is not None else ""
    ends = "; where it finds too little, the process ends without a word, and the shards stay" if short else ""
    return (
        f"the graph is going to hold about {float(f'{tokens:.2g}'):,.0f} tokens. The embedded one is held in memory, about "
        f"{needed / 1e9:,.1f} GB for so many until it is saved{here}{ends}. It is meant for up to {EMBEDDED_TOKENS:,}. The "
        "shards need no graph (--graph none); for the graph take a Neo4j server: docs/neo4j.md"
    )


def load_missing(
    traces: TraceStore, graph: GraphStore, *, per_layer: bool = False, progress: Progress | None = None
) -> int:
    """Load every (chain, run) of the shards that the graph does not hold completely, and mark those that another home loaded as
    held by this one, too; return how many of both. No model is needed.

    A chain that is in the graph with other steps (see :func:`split_otherwise`) is left out, which ``progress`` is told: what
    was measured over one's steps says nothing about the other's.
    """
    progress = progress or Silent()
    home, runs = traces.identity(), traces.runs()
    pairs, present = traces.keys(), graph.loaded()
    claimed = (pairs & present) - graph.held().get(home.id, set())
    if claimed:
        graph.write([holding(sorted(claimed), home)])
        named = {chain for chain, _ in claimed}
        for table in traces.tables(["chain", "family"], chains=named, rows=10_000):
            of = zip(table["chain"].to_pylist(), table["family"].to_pylist(), strict=True)
            graph.write([families(of)])  # whoever loaded the chain may have given it none
    missing: dict[str, set[str]] = {}
    for chain, run in pairs - present:
        missing.setdefault(run, set()).add(chain)
    known = {chain for chain, _ in present} & {chain for chain, _ in pairs - present}
    if known and (other := split_otherwise(traces, graph, known)):
        progress.note(steps_differ(other))
        missing = {run: chains - other for run, chains in missing.items()}
    total = sum(len(missing.get(run, ())) for run in runs)
    if total:
        if graph.name == "embedded" and (said := time_for_neo4j(traces.n_tokens(), per_layer=per_layer)):
            progress.note(said)
        progress.begin("loading the graph", total)
    for run in runs:
        if missing.get(run):
            for block in in_blocks(traces.traces(run, missing[run]), SHARD_CHAINS):
                graph.write([held_by(graph_batch(block, runs, per_layer=per_layer), home)])
                progress.advance(len(block))
    return total + len(claimed)


STEP_BORDERS = "MATCH (s:Step) WHERE s.chain IN $ids RETURN s.chain, s.index, s.start, s.`end`"


def split_otherwise(traces: TraceStore, graph: GraphStore, chains: Collection[str]) -> set[str]:
    """Chains of which the graph holds a step that the shards do not: another home loaded them, and its segmenter was another
    one. A step that only the shards hold is no difference of this kind: it was lost on the way.
    """
    found: dict[str, set[tuple[int, int, int]]] = {}
    names = sorted(chains)
    for first in range(0, len(names), SHARD_CHAINS):
        given = {"ids": names[first : first + SHARD_CHAINS]}
        rows = graph.run(STEP_BORDERS, given, timeout_s=86_400.0, max_rows=2**31 - 2, trusted=True).rows
        for chain, *borders in rows:
            found.setdefault(chain, set()).add((borders[0], borders[1], borders[2]))
    other = set()
    for table in traces.tables(["chain", "steps"], chains=list(found), rows=10_000):
        for row in table.to_pylist():
            own = {(i, step["start"], step["end"]) for i, step in enumerate(row["steps"])}
            if found.pop(row["chain"], set()) - own:
                other.add(row["chain"])
    return other


def steps_differ(chains: Collection[str]) -> str:
    """What to do about chains that :func:`split_otherwise` found."""
    shown = ", ".join(sorted(chains)[:3]) + (", …" if len(chains) > 3 else "")
    return (
        f"{counted(len(chains), 'chain is', 'chains are')} in this graph with the steps of another "
        f"home's segmenter ({shown}); they stay as they "
        "are. Run trails rebuild --segment in the home whose segmenter is the older one. trails rebuild --segment --yes puts "
        "the steps of this home there, and what others measured over the old steps goes from the graph"
    )


def rebuild(
    settings: Settings | None = None,
    *,
    fresh: bool = False,
    per_layer: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> int:
    """Load into the graph what it misses, from the shards; return the number of (chain, run) pairs loaded or taken hold of.

    ``fresh`` makes this home's part of the graph from nothing: what it alone holds. Chains that another home holds, too, stay
    as they are. The results of this home's analyses are kept as far as the chains that they name are there; what goes is said
    through ``progress``. Nothing is destroyed before everything that it is made from was read without an error: the embedded
    graph is built next to the old one and takes its place when it is whole; on a server, where both cannot be at once, the
    results lie in the home's folder ``results`` until they are back in the graph. Nobody else writes the home meanwhile: raises
    StoreError where another process does. Raises StoreError, too, where something that trails did not write would go (see
    :func:`foreign_losses`), unless ``force`` is given.
    """
    settings = settings or load_settings()
    progress = progress or Silent()
    with TraceStore(settings.home):
        pass  # a home that is not there is told, not made
    with (
        TraceStore(settings.home, write=True) as traces,
        open_graph(settings, discard_damaged=fresh, any_format=fresh) as graph,
    ):
        graph.hold()
        if graph.format() == GRAPH_FORMAT and (
            surplus := graph.held().get(traces.identity().id, set()) - traces.keys()
        ):
            progress.note(chains_without_shard(len(surplus)))
        if fresh:
            if getattr(graph, "discarded", False):
                progress.note("the old graph cannot be read: results of analyses are gone; run their commands again")
            if not force and (losses := foreign_losses(graph, alone_of(traces, graph))):
                raise StoreError(
                    f"{graph.address} holds elements that trails did not write and that a fresh graph would "
                    f"lack: {', '.join(losses)}. "
                    "Keep it elsewhere, then run: trails rebuild --fresh --yes. "
                    "To repair single chains, run: trails rebuild --repair"
                )
            return _rebuild_fresh(traces, graph, per_layer=per_layer, progress=progress)
        graph.ensure_schema()
        return _fill(traces, graph, per_layer=per_layer, progress=progress)


def alone_of(traces: TraceStore, graph: GraphStore) -> set[str]:
    """Chains of the graph that this home holds and no other."""
    held = graph.held()
    own = {chain for chain, _ in held.pop(traces.identity().id, set())}
    return own - {chain for pairs in held.values() for chain, _ in pairs}


_TYPES = sorted({r.type for r in RELATIONSHIPS})
_LABELS = sorted(node.label for node in NODES)
_ATTACHED = tuple(
    f"MATCH (n:{label})-[r]-(m) WHERE n.{key} IN $ids AND (NOT type(r) IN $types OR none(l IN labels(m) WHERE l IN $labels)) "
    "RETURN type(r) AS type, count(r) AS n"
    for label, key in (("Chain", "id"), ("Step", "chain"), ("Token", "chain"))
)


def foreign_relationships(graph: GraphStore, chains: Collection[str]) -> list[str]:
    """Relationships that somebody else wrote and that go with these chains, in words: of a type that trails does not write, or
    to a node that is none of trails' own.
    """
    found: dict[str, int] = {}
    given = {"ids": sorted(chains), "types": _TYPES, "labels": _LABELS}
    for statement in _ATTACHED:
        for kind, count in graph.run(statement, given, timeout_s=86_400.0, trusted=True).rows:
            found[kind] = found.get(kind, 0) + count
    return [f"{counted(count, f'{kind} relationship')}" for kind, count in sorted(found.items())]


def foreign_losses(graph: GraphStore, chains: Collection[str]) -> list[str]:
    """What somebody else wrote and a fresh graph would not have, in words: :func:`foreign_relationships`; in the embedded
    graph, which is replaced as a whole, nodes of other labels, too.
    """
    found = []
    if isinstance(graph, Replaceable):
        known = {*_LABELS, *(r.name for r in RELATIONSHIPS)}
        found = [
            counted(count, f"{label} node") for label, count in sorted(graph.counts().items()) if label not in known
        ]
    return [*found, *foreign_relationships(graph, chains)]


def _fill(traces: TraceStore, graph: GraphStore, *, per_layer: bool, progress: Progress) -> int:
    loaded = load_missing(traces, graph, per_layer=per_layer, progress=progress)
    for path in sorted((traces.home / "variants").glob("v*.parquet")):
        load_variants(graph, path)
    folder = traces.home / "results"
    if folder.is_dir() and not isinstance(graph, Replaceable):
        kept = {path.stem: pq.read_table(path) for path in sorted(folder.glob("*.parquet"))}
        restore_results(kept, graph, progress, traces)
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
            restore_results(results, beside, progress, traces)

        graph.replace_with(build)
        return loaded
    home = traces.identity()
    keep_results(traces.home, graph, home.id)
    if isinstance(graph, Upgradable) and graph.upgrade():
        progress.note(
            f"the graph at {graph.address} was of an earlier format and is of this one now. Results of analyses that do not "
            "say whose they are stay, and no query shows them: run their commands again"
        )
    clear_results(graph, home.id)
    alone = alone_of(traces, graph)
    graph.run(
        "MATCH (:Home {id: $home})-[r:HOLDS]->(:Chain) DELETE r", {"home": home.id}, write=True, timeout_s=86_400.0
    )
    graph.delete(sorted(alone), home=home.id)
    graph.ensure_schema()
    return _fill(traces, graph, per_layer=per_layer, progress=progress)


@runtime_checkable
class Upgradable(Protocol):
    """A graph store that several homes may share, so that a graph of an earlier format cannot be made again by one of them."""

    def upgrade(self) -> bool:
        """See :meth:`trails.store.neo4j.Neo4jStore.upgrade`."""


@runtime_checkable
class Replaceable(Protocol):
    """A graph store that can build another graph next to itself and take its place."""

    def replace_with(self, build: Callable[[Any], None]) -> None:
        """See :meth:`trails.store.embedded.EmbeddedStore.replace_with`."""


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


def graph_has_arrays(graph: GraphStore) -> bool:
    """Whether token transitions in the graph carry per-layer arrays."""
    there = " OR ".join(f"r.{array.name} IS NOT NULL" for array in TRANSITION_ARRAYS)
    first = f"MATCH (:Token)-[r:NEXT]->(:Token) WHERE {there} RETURN r.run AS run LIMIT 1"
    return bool(graph.run(first, timeout_s=86_400.0, trusted=True).rows)


def in_blocks(traces: Iterable[Trace], size: int) -> Iterator[list[Trace]]:
    block: list[Trace] = []
    for trace in traces:
        block.append(trace)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
