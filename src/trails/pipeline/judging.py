"""Shards and graph compared: verify tells what differs in this home's part, repair writes it again."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trails.config import Settings, load_settings
from trails.pipeline.loading import SHARD_CHAINS, graph_has_arrays, in_blocks, split_otherwise, steps_differ
from trails.pipeline.progress import Progress, Silent
from trails.pipeline.results import restore_results, results_of
from trails.platform.text import counted
from trails.schema import GRAPH_FORMAT, TRANSITION_ARRAYS, family_key
from trails.store import open_graph
from trails.store.base import GraphBatch, GraphStore
from trails.store.digest import GraphDigest, compare, differing_keys, graph_digest
from trails.store.resolve import DESCRIBE_AGAIN, undescribed
from trails.store.rows import SHARED, graph_batch, held_by
from trails.store.shards import damaged_shard
from trails.store.traces import TraceStore


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
    """Check every shard against its name, and this home's part of the graph against the shards. What other homes hold in the
    same graph, and what they measured of chains that this home holds, too, is not judged.

    ``content`` and ``values`` are the digests of the shards (see :meth:`TraceStore.digest`); ``expected`` is the digest of
    the graph that the shards would give, ``graph`` that of this home's part as it is (both empty for a graph of an earlier
    format). Damaged shards are left out of all of them; ``set_aside`` moves them out of the way.
    """
    settings = settings or load_settings()
    with TraceStore(settings.home, write=set_aside) as traces, open_graph(settings, any_format=True) as graph:
        damaged = tuple(traces.damaged())
        if damaged and set_aside:
            traces.set_aside(damaged)
        traces.without(damaged)
        digest = traces.digest()
        pairs = traces.keys()
        differences = [f"shard {name} is damaged" for name in damaged]
        at = f" --home {settings.home}"
        if graph.format() < GRAPH_FORMAT:
            told = f"the graph is of format {graph.format()}, and this trails uses format {GRAPH_FORMAT}"
            advice = (f"make the graph from the shards: trails rebuild --fresh{at}",)
            found = (*differences, told)
            return Verification(digest.content, digest.values, "", "", len(pairs), found, damaged, advice)
        if nameless := undescribed(traces, pairs):  # without its run no row of the graph can be made
            found = (*differences, *nameless)
            again = (f"{DESCRIBE_AGAIN}: trails ingest PATH{at}", f"then compare shards and graph: trails verify{at}")
            return Verification(digest.content, digest.values, "", "", len(pairs), found, damaged, again)
        judged = judge(traces, graph, pairs)
        differences += judged.differences()
        steps = []
        there = {chain for chain, _ in pairs}
        lost = {chain for chain, _ in judged.held - pairs if chain not in there}
        if damaged:
            lost |= {chain for chain, _ in graph.loaded() if chain not in there}
        if damaged or lost:
            sources = graph.run(
                "MATCH (c:Chain)-[:FROM]->(s:Source) WHERE c.id IN $ids RETURN DISTINCT s.name AS name ORDER BY name",
                {"ids": sorted(lost)},
                timeout_s=86_400.0,
                trusted=True,
            )
            names = ", ".join(row[0] for row in sources.rows) or "unknown: the graph does not hold its chains"
            if damaged and not set_aside:
                steps.append(f"set the damaged shards aside: trails verify --set-aside{at}")
            steps.append(
                f"ingest the same input again (sources: {names}), only what is missing is measured: trails ingest PATH{at}"
            )
        if lost and not damaged:
            steps.append(f"or, if these chains shall go from the graph, too: trails rebuild --repair{at}")
        elif differences and not damaged:
            steps.append(f"write again what differs, nothing else: trails rebuild --repair{at}")
        return Verification(
            digest.content,
            digest.values,
            judged.actual.hex,
            judged.expected.hex,
            len(pairs),
            tuple(differences),
            damaged,
            tuple(steps),
        )


@dataclass(frozen=True, slots=True)
class Judged:
    """This home's part of the graph beside what the shards would give. ``held`` are the (chain, run) pairs that the graph says
    this home holds, ``elsewhere`` those that other homes hold, ``pairs`` those of the shards.
    """

    expected: GraphDigest
    actual: GraphDigest
    pairs: set[tuple[str, str]]
    held: set[tuple[str, str]]
    elsewhere: set[tuple[str, str]]

    def differences(self) -> list[str]:
        """What differs, in sentences."""
        found = compare(self.expected, self.actual)
        if unmarked := self.pairs - self.held:
            found.append(
                f"HOLDS: {counted(len(unmarked), 'chain of the shards is', 'chains of the shards are')} "
                "not marked as held by this home"
            )
        if surplus := self.held - self.pairs:
            found.append(
                f"HOLDS: {counted(len(surplus), 'chain is', 'chains are')} marked as held by this home, and "
                "its shards do not hold them"
            )
        return found

    def chains(self) -> set[str]:
        """Chains of which something differs."""
        found = {pair[0] for pair in self.pairs ^ self.held}
        return found | {key.split(":")[0] for key in differing_keys(self.expected, self.actual) if key.startswith("c")}


def judge(traces: TraceStore, graph: GraphStore, pairs: set[tuple[str, str]] | None = None) -> Judged:
    """Compare this home's part of the graph with the shards. ``pairs`` are their (chain, run) pairs; None: they are read."""
    home, runs = traces.identity().id, traces.runs()
    pairs = traces.keys() if pairs is None else pairs
    others = graph.held()
    held = others.pop(home, set())
    elsewhere = {pair for found in others.values() for pair in found}
    shared = {run for _, run in elsewhere}
    there = graph.tables({chain for chain, _ in pairs | held} if others else None)
    actual = _own_part(there, pairs, elsewhere, _families(traces)) if others else there
    arrays = _pairs_with_arrays(actual)

    def batches() -> Iterator[GraphBatch]:
        for block in in_blocks(traces.traces(), SHARD_CHAINS):
            with_arrays = [trace for trace in block if (trace.chain.id, trace.run) in arrays]
            without = [trace for trace in block if (trace.chain.id, trace.run) not in arrays]
            for part, per_layer in ((with_arrays, True), (without, False)):
                if part:
                    yield _without_names(graph_batch(part, runs, per_layer=per_layer), shared)

    return Judged(graph_digest(batches()), graph_digest([_without_names(actual, shared)]), pairs, held, elsewhere)


def _without_names(batch: GraphBatch, runs: Collection[str]) -> GraphBatch:
    """The batch without the names of these runs: every home may call a shared run what it likes."""
    if "Run" not in batch.nodes or not runs:
        return batch
    table = batch.nodes["Run"]
    names = [
        None if run in runs else name
        for run, name in zip(*(table[c].to_pylist() for c in ("id", "alias")), strict=True)
    ]
    place = table.column_names.index("alias")
    return replace(
        batch,
        nodes={
            **batch.nodes,
            "Run": table.set_column(place, table.schema.field("alias"), pa.array(names, pa.string())),
        },
    )


def _pairs_with_arrays(batch: GraphBatch) -> set[tuple[str, str]]:
    """(chain, run) pairs whose transitions carry an array per layer."""
    table = batch.relationships.get("BEGINS")
    names = [array.name for array in TRANSITION_ARRAYS if table is not None and array.name in table.column_names]
    if table is None or not names:
        return set()
    valid = np.zeros(len(table), bool)
    for name in names:
        valid |= table[name].is_valid().to_numpy()
    kept = table.filter(pa.array(valid))
    return set(zip(kept["start"].to_pylist(), kept["run"].to_pylist(), strict=True))


def _families(traces: TraceStore) -> set[tuple[str, str]]:
    """(chain, family) of this home's chains."""
    return {
        (chain, family_key(family))
        for table in traces.tables(["chain", "family"], rows=10_000)
        for chain, family in zip(table["chain"].to_pylist(), table["family"].to_pylist(), strict=True)
        if family
    }


def _own_part(
    batch: GraphBatch,
    pairs: set[tuple[str, str]],
    elsewhere: set[tuple[str, str]],
    families: set[tuple[str, str]],
) -> GraphBatch:
    """What of the rows is this home's: nothing that only others measured, no family that only others gave a chain that they
    hold, too, and of sources, runs and families those in use.
    """
    chains = {chain for chain, _ in pairs}
    foreign = {pair for pair in elsewhere - pairs if pair[0] in chains}
    run_table = batch.nodes.get("Run")
    tokenizer = (
        {} if run_table is None else dict(zip(*(run_table[c].to_pylist() for c in ("id", "tokenizer")), strict=True))
    )
    mine = {(chain, tokenizer.get(run, "")[:8]) for chain, run in pairs}
    other_tokens = {(chain, tokenizer.get(run, "")[:8]) for chain, run in foreign} - mine
    nodes, relationships = dict(batch.nodes), {}
    if "Token" in nodes:
        nodes["Token"] = _leave_out(nodes["Token"], nodes["Token"]["chain"], "tokenizer", other_tokens)
    for name, table in batch.relationships.items():
        chain = pc.list_element(pc.split_pattern(table["start"], ":", max_splits=1), 0)
        column, left_out = ("tokenizer", other_tokens) if name == "FIRST" else ("run", foreign)
        relationships[name] = _leave_out(table, chain, column, left_out) if column in table.column_names else table
    if "IN_FAMILY" in relationships:
        shared = {chain for chain, _ in elsewhere}
        table = relationships["IN_FAMILY"]
        ends = zip(table["start"].to_pylist(), table["end"].to_pylist(), strict=True)
        own = [start not in shared or (start, end) in families for start, end in ends]
        relationships["IN_FAMILY"] = table.filter(pa.array(own, pa.bool_()))
    used = {"Run": {run for _, run in pairs}}
    for label, name in (("Source", "FROM"), ("Family", "IN_FAMILY")):
        used[label] = set(relationships[name]["end"].to_pylist()) if name in relationships else set()
    for label, ids in used.items():
        if label in nodes:
            nodes[label] = nodes[label].filter(
                pc.is_in(nodes[label]["id"], value_set=pa.array(sorted(ids), pa.string()))
            )
    return GraphBatch(nodes, relationships, batch.whole)


def _leave_out(table: pa.Table, chain: pa.ChunkedArray, column: str, pairs: set[tuple[str, str]]) -> pa.Table:
    """The rows whose chain and value of a column are not one of these pairs."""
    if not pairs:
        return table
    key = pc.binary_join_element_wise(chain, table[column], " ")
    unwanted = pa.array([f"{a} {b}" for a, b in sorted(pairs)], pa.string())
    return table.filter(pc.invert(pc.is_in(key, value_set=unwanted)))


_OF_STEPS = (
    "MATCH (n:Gap) WHERE n.chain IN $ids DETACH DELETE n",
    "MATCH (n:Disagreement) WHERE n.chain IN $ids DETACH DELETE n",
    "MATCH (n:Response) WHERE n.chain IN $ids AND n.kind = 'step' DETACH DELETE n",
    "MATCH (n:Step) WHERE n.chain IN $ids AND n.id IS NOT NULL DETACH DELETE n",
    # the step of a token whose run this home does not hold is not known any more
    "MATCH (n:Token) WHERE n.chain IN $ids REMOVE n.step",
)
_BLOCK = 100
"""Chains whose steps go in one transaction."""


def _without_steps(graph: GraphStore, chains: Sequence[str]) -> None:
    """Take the steps of chains out of the graph, with what was measured over them and found in them."""
    for first in range(0, len(chains), _BLOCK):
        for statement in _OF_STEPS:
            graph.run(statement, {"ids": list(chains[first : first + _BLOCK])}, write=True, timeout_s=86_400.0)


def repair(
    settings: Settings | None = None, progress: Progress | None = None, *, replace_steps: bool = False
) -> list[str]:
    """Write again what differs between this home's part of the graph and the shards; return the ids of the chains.

    A chain that no other home holds is removed and loaded again, with its results of analyses. Of a chain that another home
    holds, too, what the shards hold is written over what is there, and nothing is removed. Where the other home loaded such a
    chain with other steps it stays as it is, which ``progress`` is told, unless ``replace_steps`` is given: then its steps make
    way for those of this home, with what was measured over them or found in them. Raises StoreError for a damaged shard.
    """
    settings = settings or load_settings()
    with TraceStore(settings.home, write=True) as traces, open_graph(settings) as graph:
        graph.hold()
        return repair_part(traces, graph, progress or Silent(), replace_steps=replace_steps)


def repair_part(traces: TraceStore, graph: GraphStore, progress: Progress, *, replace_steps: bool = False) -> list[str]:
    """:func:`repair` for shards and a graph that are open for writing."""
    if damaged := traces.damaged():
        raise damaged_shard(traces.home / "shards" / damaged[0], "its bytes are not those that were written")
    graph.ensure_schema()
    home, runs = traces.identity(), traces.runs()
    judged = judge(traces, graph)
    if not judged.differences():
        return []
    chains = judged.chains()
    alone = chains - {chain for chain, _ in judged.elsewhere}
    other = split_otherwise(traces, graph, chains - alone) if chains - alone else set()
    if other and replace_steps:
        _without_steps(graph, sorted(other))
        progress.note(
            f"{counted(len(other), 'chain that other homes hold, too, has', 'chains that other homes hold, too, have')} "
            "the steps of this home "
            "now; what the others measured "
            "over the old steps is gone from the graph. In those homes run: trails rebuild --segment"
        )
    elif other:
        progress.note(steps_differ(other))
        chains -= other
    results = results_of(graph, home.id if judged.elsewhere else "")
    per_layer = graph_has_arrays(graph)
    for chain, run in sorted(judged.held - judged.pairs):
        if chain not in chains:
            continue
        graph.run(
            "MATCH (:Home {id: $home})-[r:HOLDS]->(:Chain {id: $chain}) WHERE r.run = $run DELETE r",
            {"home": home.id, "chain": chain, "run": run},
            write=True,
        )
    graph.delete(sorted(alone), home=home.id)
    progress.begin("writing again", len(chains))
    for block in in_blocks(traces.traces(None, sorted(chains)), SHARD_CHAINS):
        for part in ([t for t in block if t.chain.id in alone], [t for t in block if t.chain.id not in alone]):
            if part:
                batch = held_by(graph_batch(part, runs, per_layer=per_layer), home)
                # rows of no whole pair are written over what is there
                graph.write([batch if part[0].chain.id in alone else replace(batch, whole=()), batch])
        progress.advance(len(block))
    if any(not key.startswith("c") for key in differing_keys(judged.expected, judged.actual)):
        for block in in_blocks(traces.traces(), SHARD_CHAINS):
            rows = graph_batch(block, runs)
            graph.write([GraphBatch({name: table for name, table in rows.nodes.items() if name in SHARED})])
    restore_results(results, graph, Silent())
    graph.save()
    return sorted(chains)
