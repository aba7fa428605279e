"""A database that somebody else uses, too: their constraints, indexes and nodes of the same labels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import neo4j
import pytest
from tests.contract.test_homes import home_of
from tests.neo4j.servers import Server, shared
from tests.store.factory import corpus, make_run

from trails.errors import StoreError
from trails.pipeline.judging import judge
from trails.pipeline.loading import load_missing
from trails.store.queries import named_queries
from trails.store.traces import TraceStore

pytestmark = [pytest.mark.neo4j, pytest.mark.xdist_group("neo4j-lts")]
RUN = make_run()


def ask(server: Server, *statements: str) -> list[neo4j.Record]:
    """Run statements as somebody else would; the rows of the last."""
    with neo4j.GraphDatabase.driver(server.uri) as driver, driver.session() as session:
        rows: list[neo4j.Record] = []
        for statement in statements:
            rows = list(session.run(statement))
    return rows


def without_schema(server: Server) -> None:
    """No node, constraint or index."""
    server.empty()
    for row in ask(server, "SHOW CONSTRAINTS YIELD name"):
        ask(server, f"DROP CONSTRAINT `{row['name']}`")
    for row in ask(server, "SHOW INDEXES YIELD name, type WHERE type <> 'LOOKUP'"):
        ask(server, f"DROP INDEX `{row['name']}`")


@pytest.fixture
def theirs() -> Iterator[Server]:
    server = shared("LTS")
    without_schema(server)
    yield server
    without_schema(server)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[TraceStore]:
    store = home_of(tmp_path / "a", corpus(6, RUN), (RUN,))
    yield store
    store.close()


@pytest.mark.parametrize(
    ("theirs_first", "kept"),
    [
        # two nodes of one id: no constraint can be made on it
        ("CREATE (:Step {id: 'x', title: 'a'}), (:Step {id: 'x', title: 'b'}), (:Token {id: 7}), (:Token {id: 7})", 4),
        ("CREATE INDEX theirs FOR (t:Token) ON (t.id)", 0),
        ("CREATE INDEX theirs FOR (s:Step) ON (s.id)", 0),
        ("CREATE CONSTRAINT theirs FOR (c:Chain) REQUIRE c.id IS UNIQUE", 0),
        ("CREATE INDEX theirs FOR (s:Step) ON (s.role)", 0),
    ],
    ids=["equal ids", "index of tokens", "index of steps", "constraint of chains", "index of roles"],
)
def test_a_home_is_loaded_beside_them(theirs: Server, home: TraceStore, theirs_first: str, kept: int) -> None:
    ask(theirs, theirs_first)
    with theirs.open() as graph:
        graph.ensure_schema()
        assert load_missing(home, graph) == 6
        assert judge(home, graph).differences() == []
        graph.ensure_schema()
        assert load_missing(home, graph) == 0
    found = ask(theirs, "SHOW INDEXES YIELD labelsOrTypes AS labels, properties, state WHERE state = 'ONLINE' RETURN *")
    indexed = {(row["labels"][0], *row["properties"]) for row in found if row["labels"]}
    # what a load looks up is looked up by an index, whoever made it
    assert indexed >= {(label, "id") for label in ("Chain", "Step", "Token", "Run", "Source", "Family", "Home")}
    assert indexed >= {("Step", "chain"), ("Token", "chain"), ("Step", "role")}
    titles = ask(theirs, "MATCH (n) WHERE n.id IN ['x', 7] RETURN n")
    assert len(titles) == kept


def test_homes_of_somebody_else_are_none_of_ours(theirs: Server, home: TraceStore) -> None:
    ask(theirs, "CREATE (:Home {title: 'villa'})-[:HOLDS]->(:Chain {title: 'gold'})")
    with theirs.open() as graph:
        graph.ensure_schema()
        load_missing(home, graph)
        assert set(graph.held()) == {home.identity().id}
        drawn = named_queries()["home-graph"].execute(graph).to_networkx()
        assert not [node for node, properties in drawn.nodes(data=True) if "title" in properties]
        assert judge(home, graph).differences() == []


def test_two_chains_of_one_id_are_refused(theirs: Server) -> None:
    ask(theirs, "CREATE (:Chain {id: 'x'}), (:Chain {id: 'x'})")
    with theirs.open() as graph, pytest.raises(StoreError, match=r"needs a unique id on :Chain.*Use another database"):
        graph.ensure_schema()
    assert len(ask(theirs, "MATCH (c:Chain) RETURN c")) == 2


def test_a_constraint_that_forbids_our_rows_is_named(theirs: Server, home: TraceStore) -> None:
    ask(theirs, "CREATE CONSTRAINT theirs FOR (s:Step) REQUIRE s.role IS UNIQUE")
    with theirs.open() as graph:
        graph.ensure_schema()
        with pytest.raises(StoreError, match=r"refused a row.*role"):
            load_missing(home, graph)
        assert graph.loaded() == set()
    assert len(ask(theirs, "MATCH (s:Step) RETURN s")) == 0
