"""Two homes and three runs in one graph: whatever each does, in any order, nothing of the other's is lost."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.conftest import Open
from tests.store.factory import corpus, make_run

from trails.pipeline.judging import judge
from trails.pipeline.loading import alone_of, foreign_losses, foreign_relationships, load_missing
from trails.pipeline.progress import Silent
from trails.pipeline.removing import _plan, _remove_from_graph
from trails.pipeline.results import clear_results, keep_results, restore_results, results_of, write_results
from trails.schema import Run, Trace
from trails.store.base import GraphBatch, GraphStore
from trails.store.rows import table_of
from trails.store.scope import Scope, owned
from trails.store.traces import TraceStore

RUNS = (make_run("one"), make_run("two"), make_run("three", tokenizer="0badcafe" * 8))
ANALYSES = ("map", "overlaps", "gaps", "near")


def home_of(folder: Path, traces: list[Trace], runs: tuple[Run, ...]) -> TraceStore:
    """A home that holds these traces, open for writing."""
    store = TraceStore(folder, write=True)
    for run in runs:
        store.put_run(run)
    store.write(traces)
    return store


def found(home: TraceStore, analysis: str, run: str, options: int) -> tuple[GraphBatch, Scope]:
    """What an analysis would write about the chains of a run: the same keys in every home, with other values."""
    chains = sorted(home.done(run))
    scope = Scope(home.identity().id, analysis, run, {"k": options}, "", f"2026-01-0{1 + options}T00:00:00.000Z")
    size = len(chains) * 10 + options
    if analysis == "map":
        nodes = {"State": table_of("State", {"id": ["s1", "s2"], "n_chains": [size] * 2})}
        trail = table_of("TRAIL", {"start": ["s1"], "end": ["s2"], "count": [size]})
        return GraphBatch(nodes, {"TRAIL": trail}), scope
    if analysis == "overlaps":
        into = table_of("IN", {"start": ["o1"] * len(chains), "end": chains, "first": [0] * len(chains)})
        return GraphBatch({"Overlap": table_of("Overlap", {"id": ["o1"], "n_chains": [size]})}, {"IN": into}), scope
    if analysis == "gaps":
        ids = [f"g{chain}" for chain in chains]
        gaps = table_of("Gap", {"id": ids, "chain": chains, "run": [run] * len(ids), "rank": [size] * len(ids)})
        before = table_of("BEFORE", {"start": ids, "end": [f"{chain}:0" for chain in chains]})
        return GraphBatch({"Gap": gaps}, {"BEFORE": before}), scope
    ends = {"start": [f"{chain}:0" for chain in chains], "end": [f"{chain}:0" for chain in chains]}
    return GraphBatch({}, {"SIMILAR": table_of("SIMILAR", {**ends, "layer": [size] * len(chains)})}), scope


def rows(graph: GraphStore, home: TraceStore) -> dict[str, list[tuple[object, ...]]]:
    """The results of a home, as sorted rows."""
    tables = results_of(graph, home.identity().id)
    return {
        name: sorted(tuple(map(str, row.values())) for row in table.to_pylist())
        for name, table in sorted(tables.items())
    }


def act_on(graph: GraphStore, me: TraceStore, act: str, run: str, analysis: str, options: int) -> None:
    """One act of a home: an analysis writes or finds nothing, what misses is loaded, a chain is removed, all is made again."""
    if act == "write":
        write_results(graph, *found(me, analysis, run, options))
    elif act == "nothing":
        mine = rows(graph, me)
        assert not write_results(graph, GraphBatch(), found(me, "gaps", run, 0)[1])
        assert rows(graph, me) == mine
    elif act == "load":
        assert load_missing(me, graph, progress=Silent()) == 0
    elif act == "remove" and len(me.done(run)) > 2:
        chain = sorted(me.done(run))[0]
        plan = _plan(me, "chain", [chain])
        for name in plan.shards:
            me.rewrite(name, [t for t in me.shard(name) if (t.chain.id, t.run) not in plan.pairs])
        _remove_from_graph(graph, plan, me.identity().id)
    elif act == "fresh":
        assert foreign_losses(graph, alone_of(me, graph)) in ([], ["1 Step nodes"])
        clear_results(graph, me.identity().id)
        assert rows(graph, me) == {}
        graph.delete(sorted(alone_of(me, graph)), home=me.identity().id)
        load_missing(me, graph, progress=Silent())


def test_what_somebody_else_attached_is_seen(open_store: Open, tmp_path: Path) -> None:
    """By its type, and by the node at its other end where the type is one of trails' own, too."""
    home = home_of(tmp_path / "a", corpus(4, RUNS[0]), (RUNS[0],))
    chains = sorted(home.done(RUNS[0].id))
    with open_store() as graph:
        graph.ensure_schema()
        load_missing(home, graph, progress=Silent())
        assert foreign_relationships(graph, chains) == []
        for kind in ("ON", "REVIEWED", "REVIEWED"):
            statement = f"MATCH (c:Chain {{id: $id}}) CREATE (:Note {{text: 'theirs'}})-[:{kind}]->(c)"
            graph.run(statement, {"id": chains[0]}, write=True)
        assert foreign_relationships(graph, chains) == ["1 ON relationship", "2 REVIEWED relationships"]
        assert foreign_relationships(graph, chains[1:]) == []
    home.close()


def test_a_family_that_another_home_gave_is_no_difference(open_store: Open, tmp_path: Path) -> None:
    plain = [replace(trace, chain=replace(trace.chain, family="")) for trace in corpus(4, RUNS[0])]
    named = [replace(trace, chain=replace(trace.chain, family=f"family {i % 2}")) for i, trace in enumerate(plain)]
    assert [trace.chain.id for trace in named] == [trace.chain.id for trace in plain]
    homes = [home_of(tmp_path / "a", plain, (RUNS[0],)), home_of(tmp_path / "b", named, (RUNS[0],))]
    with open_store() as graph:
        graph.ensure_schema()
        for home in homes:
            load_missing(home, graph, progress=Silent())
        for home in homes:
            assert judge(home, graph).differences() == []
        lost = "MATCH (:Chain {id: $id})-[r:IN_FAMILY]->() DELETE r"
        graph.run(lost, {"id": plain[1].chain.id}, write=True)
        assert judge(homes[0], graph).differences() == []
        assert judge(homes[1], graph).differences() != [], "a family that this home gave is missed"
    for home in homes:
        home.close()


@pytest.mark.slow
def test_nothing_of_the_other_home_is_lost(open_store: Open, tmp_path: Path) -> None:
    rng = random.Random(1)
    one, two, three = (corpus(6, run) for run in RUNS)
    homes = [
        home_of(tmp_path / "a", [*one[:5], *three[:3]], (RUNS[0], RUNS[2])),
        home_of(tmp_path / "b", [*one[3:], *two[2:]], (RUNS[0], RUNS[1])),
    ]
    silent = Silent()
    with open_store() as graph:
        graph.ensure_schema()
        graph.run("CREATE (:Step {title: 'somebody else'}), (:Source {title: 'somebody else'})", write=True)
        for home in homes:
            load_missing(home, graph, progress=silent)
        writers = [
            graph,
            *([] if graph.name == "embedded" else [open_store()]),
        ]  # two processes, as far as a server can tell
        for number in range(8):
            me, other = rng.sample(homes, 2)
            of = rng.choice(writers)
            before = rows(graph, other)
            run = rng.choice(sorted(me.runs()))
            act = rng.choice(["write", "write", "write", "nothing", "load", "remove", "fresh"])
            act_on(of, me, act, run, rng.choice(ANALYSES), rng.randrange(2))
            assert rows(graph, other) == before, (number, act)
            for home in homes:
                assert judge(home, graph).differences() == [], (number, act)
        titles = graph.run("MATCH (n) WHERE n.title = 'somebody else' RETURN n.title").rows
        assert len(titles) == 2
        keep_results(homes[0].home, graph, homes[0].identity().id)
        for store in writers[1:]:
            store.close()
    for home in homes:
        home.close()


def test_a_chain_that_somebody_took_hold_of_meanwhile_stays(open_store: Open, tmp_path: Path) -> None:
    traces = corpus(3, RUNS[0])
    a, b = (home_of(tmp_path / name, traces[:2], RUNS[:1]) for name in "ab")
    with open_store() as graph:
        graph.ensure_schema()
        load_missing(a, graph)
        alone = sorted(alone_of(a, graph))
        assert len(alone) == 2
        load_missing(b, graph)
        graph.delete(alone, home=a.identity().id)
        assert judge(b, graph).differences() == []
        graph.delete(alone[:1])
        assert judge(b, graph).chains() == set(alone[:1])
    for home in (a, b):
        home.close()


def answers(home: TraceStore, run: str) -> GraphBatch:
    """Answers about the chains of a run as a home writes them: they carry its mark and no scope."""
    chains = sorted(home.done(run))
    steps = [f"{chain}:0" for chain in chains]
    of = {"id": [f"x{chain}" for chain in chains], "chain": chains, "run": [run] * len(chains)}
    nodes = {
        "Disagreement": table_of("Disagreement", {name: of[name] for name in ("id", "chain")}),
        "Effect": table_of("Effect", {name: of[name] for name in ("id", "run")}),
        "Response": table_of("Response", of),
    }
    ends = {"start": of["id"], "end": steps}
    relationships = {
        "DISAGREEMENT_AT": table_of("DISAGREEMENT_AT", ends),
        "SEEN_IN": table_of("SEEN_IN", {**ends, "run": of["run"]}),
        "OF": table_of("OF", {"start": of["id"], "end": chains}),
        "OF_STEP": table_of("OF_STEP", ends),
        "ON": table_of("ON", {"start": of["id"], "end": chains}),
    }
    return owned(GraphBatch(nodes, relationships), home.identity().id)


def test_a_fresh_start_brings_no_answer_of_another_home_back(open_store: Open, tmp_path: Path) -> None:
    """What a home sets aside while it makes its part again is its own: the other may change its answers meanwhile."""
    traces = corpus(3, RUNS[0])
    a, b = (home_of(tmp_path / name, traces, RUNS[:1]) for name in "ab")
    with open_store() as graph:
        graph.ensure_schema()
        for home in (a, b):
            load_missing(home, graph)
            graph.write([answers(home, RUNS[0].id)])
        kept = results_of(graph, a.identity().id)
        assert {len(table) for table in kept.values()} == {3}
        assert len(kept) == 8
        graph.run("MATCH (n:Disagreement|Effect|Response) DETACH DELETE n", write=True)
        restore_results(kept, graph, Silent(), a)
        assert rows(graph, b) == {}
        assert rows(graph, a) == {
            name: sorted(tuple(map(str, row.values())) for row in table.to_pylist()) for name, table in kept.items()
        }
    for home in (a, b):
        home.close()


@pytest.mark.slow
def test_a_home_judges_its_part_only(open_store: Open, tmp_path: Path) -> None:
    one, two, _ = (corpus(6, run) for run in RUNS)
    a = home_of(tmp_path / "a", one[:4], RUNS[:1])
    b = home_of(tmp_path / "b", [*one[2:], *two[3:]], RUNS[:2])
    with open_store() as graph:
        graph.ensure_schema()
        assert load_missing(a, graph) == 4
        assert (
            load_missing(b, graph, per_layer=True) == 7
        )  # two that the other loaded, two of its own, three of another run
        assert judge(a, graph).differences() == judge(b, graph).differences() == []
        only_b, both = one[5].chain.id, one[3].chain.id
        graph.run("MATCH (s:Step {id: $id}) DETACH DELETE s", {"id": f"{only_b}:0"}, write=True)
        assert judge(a, graph).differences() == []
        assert judge(b, graph).chains() == {only_b}
        graph.run("MATCH (c:Chain {id: $id})-[r:HAS_STEP]->() DELETE r", {"id": both}, write=True)
        assert judge(a, graph).chains() == {both}
        assert judge(b, graph).chains() == {only_b, both}
    for home in (a, b):
        home.close()
