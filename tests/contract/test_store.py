"""What every graph store promises (trails.store.base), on every store."""

from __future__ import annotations

import random
import re
import struct
from dataclasses import replace

import numpy as np
import pytest
from tests.contract.conftest import Open
from tests.contract.hostile import REFUSED, STRINGS
from tests.contract.world import World
from tests.store.factory import corpus, make_chain, make_run, make_trace

from trails.errors import QueryError, UsageError
from trails.schema import NODE, NODES, RELATIONSHIPS, HomeIdentity, Run, Trace
from trails.store.base import GraphBatch, GraphStore
from trails.store.digest import ALL_TABLES, compare, graph_digest
from trails.store.rows import graph_batch, held_by, holding, table_of


def digest_of(store: GraphStore) -> str:
    return graph_digest([store.tables()], ALL_TABLES).hex


def write_one_by_one(store: GraphStore, traces: list[Trace], runs: dict[str, Run]) -> None:
    for trace in traces:
        store.write([graph_batch([trace], runs)])


@pytest.mark.slow
def test_loading_in_any_order_and_twice_gives_the_graph_of_the_shards(open_store: Open) -> None:
    one, two = make_run("base"), make_run("tuned")
    runs = {one.id: one, two.id: two}
    traces = [*corpus(5, one), *corpus(6, two)]
    expected = graph_digest([graph_batch(traces, runs)])
    shuffled = list(traces)
    random.Random(7).shuffle(shuffled)
    with open_store() as store:
        store.ensure_schema()
        write_one_by_one(store, shuffled[:4], runs)
        store.write([graph_batch(shuffled, runs)])
        store.write(graph_batch([trace], runs) for trace in traces)
        assert compare(expected, graph_digest([store.tables()])) == []
        assert store.loaded() == {(trace.chain.id, trace.run) for trace in traces}
    with open_store() as store:
        assert graph_digest([store.tables()]).hex == expected.hex
        assert store.loaded() == {(trace.chain.id, trace.run) for trace in traces}


def scopes(world: World, *names: str) -> list[str]:
    """Scopes of the world's results of these labels and relationships."""
    return sorted({row["scope"] for name in names for row in world.rows[name]})


@pytest.mark.slow
def test_clearing_a_scope_leaves_the_others(open_store: Open, world: World) -> None:
    with open_store() as store:
        store.ensure_schema()
        store.write([world.batch(), world.analyses()])
        for name in ("State", "Overlap", "Gap", "SIMILAR"):
            of = {scope: sum(row["scope"] == scope for row in world.rows[name]) for scope in scopes(world, name)}
            assert len(of) > 1
            for scope, size in of.items():
                before = store.counts().get(name, 0)
                store.clear([scope])
                assert store.counts().get(name, 0) == before - size
        scoped = {node.label for node in NODES if node.scoped}
        ours = {r.name for r in RELATIONSHIPS if r.scoped or {r.start, r.end} & scoped} | scoped
        assert {"State", "Overlap", "Gap", "SIMILAR", "AT"} <= ours
        assert set(store.counts()) & set(world.rows) == set(world.rows) - ours
        assert graph_digest([store.tables()]).hex == graph_digest([world.batch()]).hex


@pytest.mark.slow
def test_homes_hold_chains_and_a_chain_may_have_several(open_store: Open) -> None:
    one, two = HomeIdentity("h1", "one"), HomeIdentity("h2", "two")
    run = make_run()
    runs, traces = {run.id: run}, corpus(5)
    with open_store() as store:
        store.ensure_schema()
        store.write([held_by(graph_batch(traces[:3], runs), one)])
        store.write([held_by(graph_batch(traces[2:], runs), two)])
        store.write([holding([(traces[0].chain.id, run.id)], two), held_by(graph_batch(traces[:3], runs), one)])
        assert store.held() == {
            "h1": {(trace.chain.id, run.id) for trace in traces[:3]},
            "h2": {(traces[i].chain.id, run.id) for i in (0, 2, 3, 4)},
        }
        assert store.run("MATCH (:Home)-[r:HOLDS]->(:Chain) RETURN count(r) AS n").rows == ((7,),)
        assert graph_digest([store.tables()]).hex == graph_digest([graph_batch(traces, runs)]).hex
        some = [trace.chain.id for trace in traces[1:3]]
        expected = graph_digest([graph_batch(traces[1:3], runs)])
        left_out = ("Source", "Family")  # all of them come along
        assert [d for d in compare(expected, graph_digest([store.tables(some)])) if not d.startswith(left_out)] == []


@pytest.mark.slow
def test_analyses_are_written_updated_and_cleared(open_store: Open, world: World) -> None:
    with open_store() as store:
        store.ensure_schema()
        store.write([world.batch()])
        before = digest_of(store)
        store.write([world.analyses()])
        full = digest_of(store)
        assert full == graph_digest([world.batch(), world.analyses()], ALL_TABLES).hex != before
        store.write([world.analyses()])
        assert digest_of(store) == full
        assert store.run("MATCH (:Overlap)-[i:IN]->(:Chain) RETURN count(i) AS n").rows == ((5,),)
        changed = [row | {"stop": row["stop"] + 1} for row in world.rows["IN"]]
        store.write([replace(world, rows={"IN": changed}).analyses()])
        assert store.run("MATCH (:Overlap)-[i:IN]->(:Chain) RETURN sum(i.stop) AS n").rows == ((38,),)
        store.clear(scopes(world, "Overlap", "Gap", "State"))
        similar = store.run("MATCH (:Step)-[r:SIMILAR]->(:Step) RETURN count(r) AS n").rows
        assert similar == ((6,),)
        assert graph_digest([store.tables()]).hex == graph_digest([world.batch()]).hex
        assert "Overlap" not in store.counts()


@pytest.mark.slow
def test_deleting_every_chain_leaves_what_others_put_there(open_store: Open, world: World) -> None:
    with open_store() as store:
        store.write([world.batch()])
        store.run("CREATE (:Note {id: 'n1', text: 'mine'})", write=True)
        store.run("CREATE (:Step {title: 'mine, too'})", write=True)
        store.delete([trace.chain.id for trace in world.traces])
        assert store.loaded() == set()
        assert not set(store.counts()) & {"Chain", "Token", "NEXT", "HAS_STEP"}
        assert store.run("MATCH (n:Note) RETURN n.text").rows == (("mine",),)
        assert store.run("MATCH (s:Step) RETURN s.title").rows == (("mine, too",),)
        store.run("MATCH (s:Step) DELETE s", write=True)
        store.run("MATCH (n:Note) DELETE n", write=True)
        store.write([world.batch()])
        assert graph_digest([store.tables()]).hex == graph_digest([world.batch()]).hex


@pytest.mark.slow
def test_delete_removes_a_chain_and_nothing_else(open_store: Open, world: World) -> None:
    gone = world.traces[0].chain.id
    rest = [trace for trace in world.traces if trace.chain.id != gone]
    with open_store() as store:
        store.write([world.batch()])
        store.delete([gone, "c-unknown"])
        expected = graph_digest([graph_batch(rest, world.runs, per_layer=True)])
        found = graph_digest([store.tables()])
        differences = [d for d in compare(expected, found) if not d.startswith(("Source", "Run"))]
        assert differences == []
        assert not any(chain == gone for chain, _ in store.loaded())
        store.write([world.batch()])
        assert graph_digest([store.tables()]).hex == graph_digest([world.batch()]).hex


def bare(label: str) -> GraphBatch:
    """A node that has nothing but an id."""
    return GraphBatch({label: table_of(label, {"id": ["bare"]})})


@pytest.mark.parametrize("label", [node.label for node in NODES])
def test_a_property_that_no_node_has_is_asked_for_and_not_found(open_store: Open, label: str) -> None:
    statements = [f"MATCH (n:{label} {{`{p.name}`: 'x'}}) RETURN n.id" for p in NODE[label].properties]
    with open_store() as store:
        store.write([bare(label)])
        for trusted in (True, False):
            assert [store.run(statement, trusted=trusted).rows for statement in statements] == [()] * len(statements)
        store.save()
        store.delete(["c1"])
        store.clear(["a1"])
        assert store.run(f"MATCH (n:{label}) RETURN n.id").rows == (("bare",),)
    with open_store() as store:
        assert [store.run(statement).rows for statement in statements] == [()] * len(statements)


@pytest.mark.slow
def test_counts_name_labels_and_relationships(open_store: Open, world: World) -> None:
    with open_store() as store:
        store.ensure_schema()
        assert store.counts() == {}
        assert store.loaded() == set()
        store.write([world.batch(), world.analyses()])
        batch, more = world.batch(), world.analyses()
        tables = {**batch.nodes, **batch.relationships, **more.nodes, **more.relationships}
        assert store.counts() == {name: len(table) for name, table in tables.items()}


@pytest.mark.slow
def test_a_batch_without_whole_does_not_count_as_loaded(open_store: Open, world: World) -> None:
    """As after a load that was killed half-way: what is there is completed, not doubled."""
    batch = world.batch()
    half = GraphBatch(batch.nodes, {name: batch.relationships[name] for name in ("HAS_STEP", "NEXT", "LEADS_TO")})
    with open_store() as store:
        store.write([half])
        assert store.loaded() == set()
        store.write([batch])
        assert graph_digest([store.tables()]).hex == graph_digest([batch]).hex


@pytest.mark.slow
def test_numbers_come_back_to_the_bit(open_store: Open) -> None:
    rng = random.Random(3)
    floats = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(200)]
    floats = [f for f in floats if f == f] + [0.1, 1e-320, 5e-324, 1.7976931348623157e308, -0.0, float(2**53 + 2)]
    whole = [0, -1, 2**53 + 1, 2**62, 2**63 - 1, -(2**63), 7]
    with open_store() as store:
        store.ensure_schema()
        ids = [f"g{i}" for i in range(len(floats))]
        gaps = table_of(
            "Gap", {"id": ids, "score": floats, "rank": [whole[i % len(whole)] for i in range(len(floats))]}
        )
        store.write([GraphBatch({"Gap": gaps})])
        rows = {row[0]: row[1:] for row in store.run("MATCH (g:Gap) RETURN g.id, g.score, g.rank").rows}
        assert {i: (struct.pack("<d", s), r) for i, (s, r) in rows.items()} == {
            i: (struct.pack("<d", f), whole[n % len(whole)]) for n, (i, f) in enumerate(zip(ids, floats, strict=True))
        }
        # lists of floats
        run = make_run(n_layers=40)
        trace = make_trace("floats", run)
        mass = trace.step_attention.copy()
        mass[:, 0] = np.linspace(1e-38, 1e-30, len(mass), dtype=np.float32)
        trace = replace(trace, step_attention=mass)
        store.write([graph_batch([trace], {run.id: run}, per_layer=True)])
        found = store.run("MATCH (a:Step)-[r:ATTENDS_TO]->(b:Step) RETURN a.index, b.index, r.mass").rows
        assert len(found) == 6
        for later, earlier, got in found:
            assert got == [float(x) for x in trace.step_masses(later)[2 + earlier]]


@pytest.mark.slow
def test_hostile_text_is_stored_and_returned_verbatim(open_store: Open) -> None:
    assert len(STRINGS) >= 200
    run = make_run()
    chains = [make_chain(f"{text}", f"t{i} {text}", source=f"{text}.jsonl") for i, text in enumerate(STRINGS)]
    chains = [
        replace(chain, question=text, answer=text, language="xx", licence=text)
        for chain, text in zip(chains, STRINGS, strict=True)
    ]
    traces = []
    for chain, text in zip(chains, STRINGS, strict=True):
        words = (chain.text[: -len(text)], text) if text else (chain.text,)
        trace = make_trace(chain, run, n_steps=2, words=words, premises=False)
        steps = tuple(replace(step, connective=text, sense=text) for step in trace.steps)
        traces.append(replace(trace, steps=steps))
    with open_store() as store:
        store.ensure_schema()
        store.write([graph_batch(traces, {run.id: run})])
        expected = graph_digest([graph_batch(traces, {run.id: run})])
        assert compare(expected, graph_digest([store.tables()])) == []
        for text, chain in zip(STRINGS, chains, strict=True):
            found = store.run(
                "MATCH (c:Chain {id: $id})-[:HAS_STEP]->(s:Step) "
                "RETURN c.question, c.answer, c.source_id, c.text, s.connective, $text ORDER BY s.index LIMIT 1",
                {"id": chain.id, "text": text},
            )
            assert found.rows == ((text, text, text, chain.text, text, text),)
        assert store.counts()["Chain"] == len(STRINGS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x", "limit", "MATCH", "x y", "`", "'", "$", "é", "1"])
def test_parameter_names_are_names_only(open_store: Open, name: str) -> None:
    """A parameter that the statement does not use changes nothing, whatever its name; one that it uses arrives as data."""
    with open_store() as store:
        store.ensure_schema()
        store.write([graph_batch(corpus(1), {make_run().id: make_run()})])
        before = digest_of(store)
        found = store.run("MATCH (c:Chain) RETURN count(c) AS n, $value AS v", {name: "x", "value": name})
        assert found.rows == ((1, name),)
        assert digest_of(store) == before


@pytest.mark.slow
def test_the_read_path_refuses_everything_that_is_not_a_read(open_store: Open, world: World) -> None:
    assert len(REFUSED) >= 50
    with open_store() as store:
        store.ensure_schema()
        store.write([world.batch()])
        before, schema = digest_of(store), store.run("SHOW INDEXES").rows
        for statement in REFUSED:
            with pytest.raises(QueryError) as error:
                store.run(statement)
            assert "Traceback" not in str(error.value)
        assert digest_of(store) == before
        assert len(store.run("SHOW INDEXES").rows) == len(schema)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("RETURN 'CREATE (:Chain)' AS x", [("CREATE (:Chain)",)]),
        ('RETURN "LOAD CSV" AS x', [("LOAD CSV",)]),
        ("RETURN 1 AS `LOAD CSV`", [(1,)]),
        ("MATCH (c:Chain) // SET c.text = 'x'\nRETURN count(c) AS n", [(2,)]),
        ("MATCH (c:Chain) WHERE c.text CONTAINS 'DELETE' RETURN count(c) AS n", [(0,)]),
        ("UNWIND [1, 2] AS x CALL (x) { MATCH (c:Chain) RETURN count(c) AS n } RETURN x, n", [(1, 2), (2, 2)]),
        ("MATCH (s:Step) WHERE EXISTS { (s)-[:FIRST]->(:Token) } RETURN count(s) AS n", "steps"),
        ("CALL db.labels() YIELD label RETURN label", "labels"),
    ],
)
def test_reads_that_look_dangerous_are_answered(
    open_store: Open, statement: str, expected: list[tuple[object, ...]] | str
) -> None:
    traces = corpus(2)
    with open_store() as store:
        store.ensure_schema()
        store.write([graph_batch(traces, {make_run().id: make_run()})])
        rows = store.run(statement).rows
        if expected == "steps":
            assert rows == ((sum(len(trace.steps) for trace in traces),),)
        elif expected == "labels":
            # a server may remember labels that no node has any more
            assert {"Chain", "Step", "Token", "Run", "Source"} <= {label for (label,) in rows}
        else:
            assert sorted(rows) == expected


@pytest.mark.slow
def test_explaining_a_read_reads_nothing(open_store: Open) -> None:
    with open_store() as store:
        store.ensure_schema()
        store.write([graph_batch(corpus(2), {make_run().id: make_run()})])
        found = store.run("EXPLAIN MATCH (c:Chain) RETURN c.text AS text")
        texts = {trace.chain.text for trace in corpus(2)}
        assert not any(value in texts for row in found.rows for value in row)
        assert len(found.rows) >= 1
        measured = store.run("// how much is read\nPROFILE MATCH (c:Chain) RETURN c.text AS text")
        assert not any(value in texts for row in measured.rows for value in row)
        rows = measured.columns.index("rows" if store.name == "neo4j" else "rows_out")
        assert 2 in [row[rows] for row in measured.rows]


@pytest.mark.slow
def test_writing_is_possible_when_asked_for(open_store: Open) -> None:
    with open_store() as store:
        store.ensure_schema()
        store.run("CREATE (:Note {id: 'n1', text: $text})", {"text": "mine"}, write=True)
    with open_store() as store:
        assert store.run("MATCH (n:Note) RETURN n").rows == (({"id": "n1", "text": "mine"},),)
        store.run("MATCH (n:Note) DETACH DELETE n", write=True)


@pytest.mark.slow
def test_limits_of_time_and_rows(open_store: Open) -> None:
    with open_store() as store:
        store.ensure_schema()
        result = store.run("UNWIND range(1, 100) AS x RETURN x ORDER BY x", max_rows=10)
        assert result.truncated
        assert result.rows == tuple((x,) for x in range(1, 11))
        assert not store.run("UNWIND range(1, 10) AS x RETURN x", max_rows=10).truncated
        slow = (
            "UNWIND range(1, 100000) AS x UNWIND range(1, 100000) AS y WITH x, y WHERE x * y = -1 RETURN count(*) AS n"
        )
        with pytest.raises(QueryError, match="did not end within 0.3 s"):
            store.run(slow, timeout_s=0.3)
        assert store.run("RETURN 1 AS x").rows == ((1,),)


@pytest.mark.slow
def test_errors_in_a_query_are_query_errors(open_store: Open) -> None:
    with open_store() as store:
        store.ensure_schema()
        for statement in ("MATCH (c:Chain RETURN c", "RETURN $missing AS x", "", "RETURN nosuchfunction(1)"):
            with pytest.raises(QueryError):
                store.run(statement)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("statement", "line", "column"),
    [
        ("RETURN 1 AS a FOO", 1, 15),
        ("RETURN 1 AS a\nFOO", 2, 1),
        ("RETURN 'дождь' AS a ?", 1, 21),
        ("explain RETURN 1 AS a FOO", 1, 23),
        ("// first\n  PROFILE\nRETURN 1 AS a FOO", 3, 15),
    ],
)
def test_an_error_names_the_place_in_the_statement(open_store: Open, statement: str, line: int, column: int) -> None:
    with open_store() as store, pytest.raises(QueryError) as error:
        store.run(statement)
    assert re.search(rf"line {line}, col(umn)? {column}\b", str(error.value)), error.value


@pytest.mark.parametrize("write", [False, True])
def test_one_statement_is_answered_at_a_time(open_store: Open, write: bool) -> None:
    with open_store() as store:
        for statement in (
            "RETURN 1 AS a; RETURN 2 AS b",
            "RETURN 'it\\'s' AS a;\n// the second\nRETURN 2 AS b;",
            "CREATE (:Chain {id: 'x'}); MATCH (c:Chain) RETURN c.id AS id",
        ):
            with pytest.raises(QueryError, match="statement"):
                store.run(statement, write=write)
        assert store.counts() == {}
        for statement in (
            "RETURN 'a; b' AS `c;d` // ; RETURN 3",
            'RETURN "a\\"; b" AS x;',
            "RETURN 1 AS x ; // the end",
        ):
            assert len(store.run(statement, write=write).rows) == 1, statement


def test_values_are_plain_python(open_store: Open, world: World) -> None:
    with open_store() as store:
        store.write([world.batch()])
        ((node, relation, text, flag, none, mapping, listed),) = store.run(
            "MATCH (c:Chain)-[m:MEASURED]->(r:Run) WITH c, m ORDER BY c.id, m.run LIMIT 1 "
            "RETURN c, m, c.text, true, null, {a: 1, b: [1.5, 'x']}, [1, 2]"
        ).rows
        assert node["text"] == text
        own = {name for name in node if not name.startswith("meta_")}
        assert own == {"id", "source", "source_id", "question", "text", "answer", "language", "roles", "n_steps"} | {
            "roles_implicit"
        }
        assert node["meta_label"] == "text"
        measured = {"run", "n_tokens", "nll", "mean_surprisal", "max_surprisal", "hidden_baseline"}
        assert set(relation) - {"edges_per_step"} == measured
        assert (flag, none, mapping, listed) == (True, None, {"a": 1, "b": [1.5, "x"]}, [1, 2])
        assert all(type(value) in (str, int, float, bool, list) for value in node.values())


@pytest.mark.slow
def test_nodes_and_relationships_become_a_graph(open_store: Open, world: World) -> None:
    run = world.traces[0].run
    traces = [trace for trace in world.traces if trace.run == run]
    pairs = {(f"{t.chain.id}:{n}", f"{t.chain.id}:{n + 1}") for t in traces for n in range(len(t.steps) - 1)}
    with open_store() as store:
        store.write([world.batch()])
        store.save()
        where = "MATCH p = (a:Step)-[r:LEADS_TO {run: $run}]->(b:Step)"
        for returned in ("a, r, b", "p", "[a, {x: r}, [b]] AS x", "a, r, b, p"):
            graph = store.run(f"{where} RETURN {returned}", {"run": run}).to_networkx()
            assert set(graph.nodes) == {end for pair in pairs for end in pair}
            assert sorted(graph.edges()) == sorted(pairs), "each relationship once"
            assert {data["type"] for *_, data in graph.edges(data=True)} == {"LEADS_TO"}
            for trace in (trace for trace in traces if len(trace.steps) > 1):
                node = graph.nodes[f"{trace.chain.id}:0"]
                assert (node["labels"], node["role"], node["index"]) == (("Step",), trace.steps[0].role.value, 0)
        assert all(data["run"] == run for *_, data in graph.edges(data=True))
        with pytest.raises(UsageError, match="a relationship LEADS_TO came without the nodes at its ends"):
            store.run(f"{where} RETURN a, r", {"run": run}).to_networkx()
        with pytest.raises(UsageError, match="the columns x hold no node"):
            store.run("MATCH (c:Chain) RETURN c.id AS x").to_networkx()
        ends = store.run(f"{where} RETURN a.id AS a, b.id AS b, r.nll_given_all AS nll", {"run": run})
        graph = ends.to_networkx(start="a", end="b")
        assert sorted(graph.edges()) == sorted(pairs)
        assert all(set(data) == {"nll"} for *_, data in graph.edges(data=True))


def test_queries_on_an_empty_graph_answer_with_no_rows(open_store: Open) -> None:
    from trails.store.queries import named_queries

    with open_store() as store:
        store.ensure_schema()
        for query in named_queries().values():
            parameters = {parameter.name: parameter.example for parameter in query.parameters}
            result = query.execute(store, parameters)
            assert result.rows == ()
            assert result.columns == tuple(column.name for column in query.columns)
