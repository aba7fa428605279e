"""Two homes and three runs in one graph: whatever each does, in any order, nothing of the other's is lost."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tests.contract.conftest import Open
from tests.contract.test_named_queries import close
from tests.store.factory import corpus, make_run

from trails.errors import QueryError
from trails.export.subgraph import select
from trails.pipeline.judging import judge, repair_part
from trails.pipeline.loading import alone_of, foreign_losses, foreign_relationships, load_missing
from trails.pipeline.progress import Silent
from trails.pipeline.removing import _plan, _remove_from_graph
from trails.pipeline.results import (
    RESULT_NODES,
    clear_results,
    keep_results,
    restore_results,
    results_of,
    write_results,
)
from trails.schema import Run, Trace
from trails.store.base import GraphBatch, GraphStore
from trails.store.embedded import EmbeddedStore
from trails.store.queries import bound_parameters, named_queries
from trails.store.rows import holding, table_of
from trails.store.scope import Scope, owned
from trails.store.traces import HomeIdentity, TraceStore

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


@pytest.mark.slow
def test_chains_go_and_are_repaired_whatever_nodes_are_there(open_store: Open, tmp_path: Path) -> None:
    """Every kind of further node lies in the graph, without the properties that it may lack."""
    traces = corpus(4, RUNS[0])
    bare = GraphBatch({node.label: table_of(node.label, {"id": ["bare"]}) for node in RESULT_NODES})
    with home_of(tmp_path / "mine", traces, RUNS[:1]) as mine, open_store() as graph:
        graph.ensure_schema()
        load_missing(mine, graph)
        graph.write([bare])
        plan = _plan(mine, "chain", [traces[0].chain.id])
        for name in plan.shards:
            mine.rewrite(name, [t for t in mine.shard(name) if (t.chain.id, t.run) not in plan.pairs])
        graph.save()  # the removal ended here: the shards are without the chain, the graph is as it was
        assert repair_part(mine, graph, Silent()) == [traces[0].chain.id]
        assert judge(mine, graph).differences() == []
        plan = _plan(mine, "chain", [traces[1].chain.id])
        for name in plan.shards:
            mine.rewrite(name, [t for t in mine.shard(name) if (t.chain.id, t.run) not in plan.pairs])
        _remove_from_graph(graph, plan, mine.identity().id)
        assert judge(mine, graph).differences() == []
        assert {node.label for node in RESULT_NODES} <= set(graph.counts())


def answers(home: TraceStore, run: str) -> GraphBatch:
    """Answers about the chains of a run as a home writes them: they carry its mark and no scope."""
    traces = sorted(home.traces(run), key=lambda trace: trace.chain.id)
    chains = [trace.chain.id for trace in traces]
    steps = [f"{trace.chain.id}:{min(2, len(trace.steps) - 1)}" for trace in traces]
    of = {"id": [f"x{chain}" for chain in chains], "chain": chains, "run": [run] * len(chains)}
    nodes = {
        "Disagreement": table_of("Disagreement", {name: of[name] for name in ("id", "chain")}),
        "Effect": table_of("Effect", {"id": of["id"], "run": of["run"], "name": ["seen"] * len(chains)}),
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


ABOUT_ALL = sorted(
    name
    for name, query in named_queries().items()
    if name != "home-graph"
    and not {"chain", "step", "first"} & {parameter.name for parameter in query.parameters}
    and not re.search(r":(State|Overlap|Gap|SIMILAR)\b", query.statement)
)
"""Queries that name no chain and read no results with a scope: they are about all chains of a home."""


def depends(home: TraceStore, run: str) -> GraphBatch:
    """Which earlier step the last step of every chain of a home depends on; like all that a run measures, of no home."""
    found = [trace for trace in home.traces(run) if len(trace.steps) > 1]
    ends = {
        "start": [f"{trace.chain.id}:{len(trace.steps) - 1}" for trace in found],
        "end": [f"{trace.chain.id}:0" for trace in found],
    }
    return GraphBatch(
        {}, {"DEPENDS_ON": table_of("DEPENDS_ON", {**ends, "run": [run] * len(found), "nats": [0.01] * len(found)})}
    )


@pytest.mark.slow
def test_a_query_over_chains_counts_those_of_the_home(open_store: Open, tmp_path: Path) -> None:
    """Two homes share a run and chains: each gets the very rows that it would get from a graph of its own."""
    one, two, _ = (corpus(9, run) for run in RUNS)
    homes = [
        home_of(tmp_path / "a", [*one[:6], *two[:3]], RUNS[:2]),
        home_of(tmp_path / "b", [*one[4:], *two[2:7]], RUNS[:2]),
    ]
    before = RUNS[0].id
    given = {"run": before, "before": before, "after": RUNS[1].id, "piece": one[0].pieces[3], "text": "the"}
    rows = dict.fromkeys(ABOUT_ALL, 0)
    with open_store() as graph:
        graph.ensure_schema()
        for home in homes:
            with EmbeddedStore(home.home) as alone:
                for store in (graph, alone):
                    load_missing(home, store, progress=Silent())
                    store.write([answers(home, before), depends(home, before)])
        for home in homes:
            with EmbeddedStore(home.home) as alone:
                for name in ABOUT_ALL:
                    query = named_queries()[name]
                    asked = {p.name: given[p.name] for p in query.parameters if p.name in given}
                    asked |= {p.name: 9.0 for p in query.parameters if (p.name, p.type) == ("least", "float")}
                    bound = bound_parameters(query, asked, home)
                    mine, expected = (query.execute(store, bound).plain() for store in (graph, alone))
                    assert close(list(mine), list(expected)), name
                    rows[name] += len(expected)
        assert [name for name, count in rows.items() if not count] == []
        ids = [home.identity().id for home in homes]
        corpora = [named_queries()["corpus"].execute(graph, {"home": home}).rows for home in (*ids, "")]
        assert [sum(row[2] for row in of_one) for of_one in corpora] == [6, 7, 9]
    for home in homes:
        home.close()


@pytest.mark.slow
def test_a_selection_takes_chains_of_the_home(open_store: Open, tmp_path: Path) -> None:
    one = corpus(9, RUNS[0])
    homes = [home_of(tmp_path / "a", one[:6], RUNS[:1]), home_of(tmp_path / "b", one[4:], RUNS[:1])]
    with open_store() as graph:
        graph.ensure_schema()
        for home in homes:
            load_missing(home, graph, progress=Silent())
            graph.write([answers(home, RUNS[0].id)])
        for home in homes:
            held = sorted(home.done(RUNS[0].id))
            for text in (
                "effect:seen",
                'query:chains-by-roles{"home": ""}',
                "query:chains-by-roles",
                "MATCH (c:Chain) RETURN c",
            ):
                assert select(graph, home, text).chains == held, text
            with EmbeddedStore(home.home) as alone:
                load_missing(home, alone, progress=Silent())
                assert select(graph, home, "roles:IF>THEN").digest == select(alone, home, "roles:IF>THEN").digest
        with pytest.raises(QueryError, match="holds nothing of this home: it found 1 chain in the graph"):
            select(graph, homes[0], f"MATCH (c:Chain {{id: '{one[8].chain.id}'}}) RETURN c")
    for home in homes:
        home.close()


@pytest.mark.slow
def test_the_picture_of_homes_shows_every_home(open_store: Open, tmp_path: Path) -> None:
    """A large home does not crowd a small one out, nor one that holds nothing."""
    traces = sorted(corpus(40, RUNS[0]), key=lambda trace: trace.chain.id)
    homes = [home_of(tmp_path / "a", traces[:-1], RUNS[:1]), home_of(tmp_path / "b", traces[-1:], RUNS[:1])]
    query = named_queries()["home-graph"]
    with open_store() as graph:
        graph.ensure_schema()
        for home in homes:
            load_missing(home, graph, progress=Silent())
        graph.write([holding([], HomeIdentity("h0", "empty"))])
        shown = query.execute(graph, {}).to_networkx()
        labels = Counter(label for _, of in shown.nodes(data="labels") for label in of)
        assert labels == {"Home": 3, "Chain": 13, "Run": 1, "Source": 2}
        assert shown.has_edge(homes[1].identity().id, traces[-1].chain.id)
        few = query.execute(graph, {"limit": 3})
        assert {row[0]["id"] for row in few.rows} == {"h0", *(home.identity().id for home in homes)}
    for home in homes:
        home.close()


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
