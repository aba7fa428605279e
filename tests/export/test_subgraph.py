"""Selections that ask the graph: what they pick is worked out by hand from the same chains."""

from __future__ import annotations

import shlex
from pathlib import Path

import pyarrow as pa
import pytest

from trails.errors import QueryError, UsageError, WritingQueryError
from trails.export.subgraph import Part, is_selection, merge_spans, select
from trails.schema import Chain, Role
from trails.store.base import GraphBatch
from trails.store.embedded import EmbeddedStore
from trails.store.rows import graph_batch, held_by, table_schema
from trails.store.scope import Scope
from trails.store.traces import TraceStore

TEXTS = (
    "If a b. Then c d. But e f. Therefore g h.",
    "If i j. But k l. Then m n.",
    "Then o p. If q r. Then s t. But u v.",
)
ROLES = (
    (Role.IF, Role.THEN, Role.BUT, Role.THEREFORE),
    (Role.IF, Role.BUT, Role.THEN),
    (Role.THEN, Role.IF, Role.THEN, Role.BUT),
)


@pytest.fixture
def graph(tmp_path: Path, run_of, trace_of):
    run = run_of()
    traces = [
        trace_of(Chain("s.jsonl", str(i), f"Q{i}?", text), run, roles)
        for i, (text, roles) in enumerate(zip(TEXTS, ROLES, strict=True))
    ]
    with TraceStore(tmp_path / "home", write=True) as store:
        store.put_run(run)
        store.write(traces)
        home = store.identity()
    embedded = EmbeddedStore(tmp_path / "home")
    embedded.ensure_schema()
    embedded.write([held_by(graph_batch(traces, {run.id: run}), home)])
    with TraceStore(tmp_path / "home") as store:
        yield embedded, store, traces
    embedded.close()


def picked(graph, text: str) -> dict[int, Part]:
    """Parts by the number of the chain."""
    store, traces, made = graph
    number = {trace.chain.id: i for i, trace in enumerate(made)}
    return {number[chain]: part for chain, part in select(store, traces, text).parts.items()}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("IF>THEN>BUT>THEREFORE", {0: (0, 1, 2, 3)}),
        ("IF>THEN", {0: (0, 1), 2: (1, 2)}),
        ("IF>>THEN", {0: (0, 1), 1: (0, 1, 2), 2: (1, 2)}),
        ("if >> but", {0: (0, 1, 2), 1: (0, 1), 2: (1, 2, 3)}),
        ("THEN", {0: (1,), 1: (2,), 2: (0, 2)}),
        ("THEN>>BUT", {0: (1, 2), 2: (0, 1, 2, 3)}),
    ],
)
def test_roles(graph, pattern: str, expected: dict[int, tuple[int, ...]]) -> None:
    assert {i: part.steps for i, part in picked(graph, f"roles:{pattern}").items()} == expected


@pytest.mark.slow
def test_cypher_returns_chains_steps_or_tokens(graph, tmp_path: Path) -> None:
    _, _, made = graph
    assert picked(graph, "MATCH (c:Chain) RETURN c") == {i: Part(t.chain.id) for i, t in enumerate(made)}
    assert picked(graph, "MATCH (s:Step {role: 'BUT'}) RETURN s.id") == {
        0: Part(made[0].chain.id, (2,)),
        1: Part(made[1].chain.id, (1,)),
        2: Part(made[2].chain.id, (3,)),
    }
    # the finest kind of a row counts; a chain named by one row swallows its parts
    steps = picked(graph, "MATCH (c:Chain)-[:HAS_STEP]->(s:Step {role: 'THEREFORE'}) RETURN c, s")
    assert steps == {0: Part(made[0].chain.id, (3,))}
    tokens = picked(graph, "MATCH (t:Token) WHERE t.position IN [2, 3, 5] AND t.piece STARTS WITH ' b' RETURN t")
    assert tokens == {0: Part(made[0].chain.id, tokens=((2, 3),))}
    listed = picked(graph, "MATCH (s:Step) WHERE s.index < 2 RETURN s.chain AS of, collect(s.id) AS steps")
    assert {i: part.steps for i, part in listed.items()} == {0: (0, 1), 1: (0, 1), 2: (0, 1)}
    file = tmp_path / "mine.cypher"
    file.write_text("// chains\nMATCH (c:Chain) WHERE c.n_steps = 3 RETURN c.id AS id", encoding="utf-8")
    assert set(picked(graph, str(file))) == {1}


def test_between(graph) -> None:
    store, traces, made = graph
    chain = made[0].chain.id
    assert picked(graph, f"between:{chain}:3,{chain}:1") == {0: Part(chain, (1, 2, 3))}
    token = made[0].token_id
    assert picked(graph, f"between:{token(2)},{token(6)}") == {0: Part(chain, tokens=((2, 7),))}
    for text, message in [
        (f"between:{chain}:1", "needs two ends, found 1. Write between:STEP,STEP or TOKEN,TOKEN."),
        (f"between:{chain}:1,x", "'x' is not the id of a step (c…:3) or of a token (c…:ab12cd34:17)."),
        (f"between:{chain}:1,{made[1].chain.id}:1", f"Run: trails bridge {chain}:1 {made[1].chain.id}:1"),
        (f"between:{chain}:1,{token(2)}", "give two steps or two tokens, not one of each."),
        (f"between:{chain}:1,{chain}:99", f"step {chain}:99 is not in the graph. Run: trails rebuild"),
    ]:
        with pytest.raises(UsageError) as error:
            select(store, traces, text)
        assert str(error.value).endswith(message)


def table(name: str, rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=table_schema(name))


@pytest.mark.slow
def test_overlap_and_gaps(graph) -> None:
    store, traces, made = graph
    a, b = made[0].chain.id, made[1].chain.id
    scope = Scope(traces.identity().id, "toy", made[0].run, {})
    store.write(
        [
            scope.put(
                GraphBatch(
                    {
                        "Overlap": table("Overlap", [{"id": "o1", "kind": "exact"}, {"id": "o2", "kind": "skeleton"}]),
                        "Gap": table(
                            "Gap",
                            [
                                {"id": "g1", "chain": a, "step": 2, "score": 0.95},
                                {"id": "g2", "chain": b, "step": 1, "score": 0.5},
                            ],
                        ),
                    },
                    {
                        "IN": table(
                            "IN",
                            [
                                {"start": "o1", "end": a, "first": 1, "stop": 4},
                                {"start": "o1", "end": a, "first": 3, "stop": 6},
                                {"start": "o1", "end": b, "first": 0, "stop": 3},
                                {"start": "o2", "end": b, "first": 0, "stop": 2},
                            ],
                        ),
                        "BEFORE": table("BEFORE", [{"start": "g1", "end": f"{a}:2"}, {"start": "g2", "end": f"{b}:1"}]),
                    },
                )
            )
        ]
    )
    assert picked(graph, "overlap:o1") == {0: Part(a, tokens=((1, 6),)), 1: Part(b, tokens=((0, 3),))}
    assert picked(graph, "overlap:o2") == {1: Part(b, (0, 1))}
    assert picked(graph, "gaps>0.9") == {0: Part(a, (2,))}
    assert picked(graph, "gaps >= 0.5") == {0: Part(a, (2,)), 1: Part(b, (1,))}
    assert picked(graph, "gaps<0.9") == {1: Part(b, (1,))}
    with pytest.raises(UsageError, match="the graph holds no such overlap. Run: trails overlaps"):
        select(store, traces, "overlap:none")
    with pytest.raises(
        QueryError, match="holds nothing: the query returned no row. Run: trails gaps \\(a home needs 20 chains"
    ):
        select(store, traces, "gaps>1")
    with pytest.raises(UsageError, match="'high' is not a number. Write for example gaps>0.9."):
        select(store, traces, "gaps>high")


WRONG = [
    (
        "everything",
        UsageError,
        "selection 'everything' is not known. Write one of: all, chain:ID, source:NAME, family:ID, meta:correct=true, ",
    ),
    (
        "role:IF>BUT",
        UsageError,
        "selection 'role:IF>BUT' is not known. Did you mean roles:IF>THEN>BUT>THEREFORE? Write one of: all, chain:ID, ",
    ),
    ("missing.cypher", UsageError, "selection 'missing.cypher': there is no such file."),
    ("roles:IF>MAYBE", UsageError, "role 'MAYBE' does not exist. Roles: IF, THEN, BUT,"),
    ("roles:UNLESS>IF", QueryError, "holds nothing: no chain has these roles in this order."),
    ("query:nothing", UsageError, "query 'nothing' does not exist. Queries: "),
    ("MATCH (c:Chain) WHERE c.n_steps > 99 RETURN c", QueryError, "holds nothing: the query returned no row."),
    (
        "MATCH (c:Chain) RETURN c.n_steps AS n",
        QueryError,
        "the columns n hold no chain, step or token. Return the nodes or",
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("text", "kind", "message"), WRONG, ids=[case[0] for case in WRONG])
def test_wrong_selections_get_one_clear_message(graph, text: str, kind: type[Exception], message: str) -> None:
    store, traces, _ = graph
    with pytest.raises(kind) as error:
        select(store, traces, text)
    assert message in str(error.value)


def test_a_selection_cannot_write_and_says_where_to(tmp_path, graph) -> None:
    store, traces, made = graph
    for text in (
        "MATCH (c:Chain) SET c.text = 'x' RETURN c",
        "MATCH (c:Chain) DETACH DELETE c RETURN c",
        "CREATE (c:Chain {id: 'c0123456789abcdef'}) RETURN c",
        "// made here\nMERGE (n:Note) RETURN n",
    ):
        with pytest.raises(WritingQueryError) as error:
            select(store, traces, text)
        said = str(error.value)
        assert "the statement writes, but a selection only reads. Write first: trails cypher --write '" in said
        assert shlex.quote(text) in said
        assert "Then select what it wrote" in said
    assert store.run("MATCH (c:Chain) RETURN count(c) AS n").rows == ((len(made),),)
    file = tmp_path / "my marks.cypher"
    file.write_text("MATCH (c:Chain) SET c.mark = 1 RETURN c", encoding="utf-8")
    with pytest.raises(WritingQueryError, match="trails cypher --write '@.*my marks.cypher'"):
        select(store, traces, str(file))


def test_a_file_of_a_statement_that_is_no_text_is_named(graph, tmp_path: Path) -> None:
    store, traces, _ = graph
    (tmp_path / "x.cypher").write_bytes(b"MATCH (c) \xe4 RETURN c")
    with pytest.raises(UsageError, match=r"x\.cypher': not text in UTF-8 \(byte 10\)\. Convert it first"):
        select(store, traces, str(tmp_path / "x.cypher"))


@pytest.mark.parametrize("word", ["PROFILE", "explain", "/* why slow */ Profile"])
def test_a_plan_is_no_selection(graph, word: str) -> None:
    store, traces, _ = graph
    text = f"{word} MATCH (c:Chain) RETURN c"
    assert is_selection(text)
    with pytest.raises(QueryError) as error:
        select(store, traces, text)
    kind = "EXPLAIN" if word == "explain" else "PROFILE"
    assert f"{kind} gives the plan of a statement, and a plan holds no chain, step or token" in str(error.value)
    assert str(error.value).endswith(f"see the plan with: trails cypher {shlex.quote(text)}")
    assert select(store, traces, "MATCH (profiled:Chain) RETURN profiled").chains


def test_writing_is_refused_in_one_kind_of_error(graph) -> None:
    store, _, made = graph
    for trusted in (False, True):  # in the child process, and in this one
        with pytest.raises(WritingQueryError, match="the statement writes and was refused"):
            store.run("MATCH (c:Chain) DETACH DELETE c", trusted=trusted)
    assert store.run("MATCH (c:Chain) RETURN count(c) AS n").rows == ((len(made),),)


@pytest.mark.slow
def test_the_digest_names_what_is_selected_not_how(graph) -> None:
    store, traces, made = graph
    ids = ",".join(trace.chain.id for trace in made)
    assert select(store, traces, f"chain:{ids}").digest == select(store, traces, "MATCH (c:Chain) RETURN c").digest
    assert select(store, traces, "roles:IF>THEN").digest != select(store, traces, "roles:THEN>BUT").digest


def test_spans_are_united() -> None:
    assert merge_spans([(5, 7), (1, 3), (3, 4), (6, 9), (2, 2)]) == ((1, 4), (5, 9))


@pytest.mark.slow
def test_a_named_query_takes_parameters(graph) -> None:
    assert picked(graph, 'query:chains-by-text{"text": "Therefore"}').keys() == {0}
    assert picked(graph, 'query:chains-by-text {"text": "But"}').keys() == {0, 1, 2}
    store, traces, _ = graph
    with pytest.raises(UsageError, match="needs text"):
        select(store, traces, "query:chains-by-text")
