"""What the planner makes of the named queries on a graph that is filled, and labels that a person adds for the Browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import neo4j
import pytest
from tests.neo4j.servers import Server, shared
from tests.store.factory import corpus, make_run

from trails.store.base import GraphBatch
from trails.store.browser import ROLE_LABELS, ROLE_LABELS_UNDO
from trails.store.digest import compare, graph_digest
from trails.store.queries import named_queries
from trails.store.rows import graph_batch, held_by, holding, table_of
from trails.store.scope import Scope
from trails.store.traces import HomeIdentity

pytestmark = [pytest.mark.neo4j, pytest.mark.xdist_group("neo4j-lts")]
RUN = make_run()
WHOLE = {
    # what these count or sort is every node of the label; no index could leave one out
    "chains-by-roles": "Chain",
    "chains-by-text": "Chain",
    "conclusions-without-premises": "Chain",
    "corpus": "Chain",
    "gap-graph": "Gap",
    "home-graph": "Home",
    "map-graph": "State",
    "meeting-graph": "State",
    "directly-follows": "Step",
    "disagreements": "Disagreement",
    "effects-seen": "Effect",
    "gaps-top": "Gap",
    "most-surprising": "Run",
    "moved-by-source": "Run",
    "moved-chains": "Run",
    "overlap-graph": "Overlap",
    "overlaps-top": "Overlap",
    "response-map": "Response",
    "runs": "Run",
    # the nearest of all pairs
    "similar-graph": "SIMILAR",
    "states-branching": "State",
    "steps-nobody-needs": "Step",
    "surprisal-by-role": "Run",
    "tensions": "Run",
    "tensions-parted": "Disagreement",
}
"""Queries about the whole corpus, and the label that they may read from end to end. Never Token."""


def states(batch: GraphBatch) -> GraphBatch:
    """A map: every token in one of 200 states, each of which leads to the next."""
    tokens, names = batch.nodes["Token"]["id"], [f"state{i}" for i in range(200)]
    at = table_of("AT", {"start": tokens, "end": [names[i % 200] for i in range(len(tokens))]})
    trail = table_of("TRAIL", {"start": names, "end": names[1:] + names[:1], "count": [1] * 200})
    batch = GraphBatch({"State": table_of("State", {"id": names})}, {"AT": at, "TRAIL": trail})
    return Scope("h1", "map", RUN.id, {"k": 4}, date="2026-01-01").put(batch)


@pytest.fixture(scope="module")
def filled() -> Iterator[Server]:
    """A server with 300 chains: enough for the planner to prefer an index where there is one."""
    server = shared("LTS")
    server.empty()
    with server.open() as store:
        store.ensure_schema()
        batch = graph_batch(corpus(300, RUN), {RUN.id: RUN})
        store.write([held_by(batch, HomeIdentity("h1", "mine")), states(batch)])
        store.write([holding(batch.whole[:100], HomeIdentity("h2", "theirs"))])
        with neo4j.GraphDatabase.driver(server.uri) as driver, driver.session() as session:
            # plans of an emptier graph may wait in the cache
            session.run("CALL db.clearQueryCaches()").consume()
            session.run("CALL db.resampleOutdatedIndexes()").consume()
    yield server
    server.empty()


def operators(plan: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Operators of a plan with their details."""
    yield plan["operatorType"].partition("@")[0], str(plan.get("args", {}).get("Details", ""))
    for child in plan.get("children", ()):
        yield from operators(child)


def scans(server: Server, statement: str, parameters: dict[str, Any]) -> list[tuple[str, str]]:
    """Operators that read all nodes, all of a label, all of an index, or all relationships of a type."""
    with neo4j.GraphDatabase.driver(server.uri) as driver, driver.session() as session:
        plan = session.run("EXPLAIN " + statement, parameters).consume().plan
    assert plan is not None
    return [(operator, details) for operator, details in operators(plan) if operator.endswith("Scan")]


@pytest.mark.parametrize("name", sorted(named_queries()))
def test_no_scan_where_an_index_serves(name: str, filled: Server) -> None:
    query = named_queries()[name]
    found = scans(filled, query.statement, {p.name: p.example for p in query.parameters})
    allowed = WHOLE.get(name)
    for operator, details in found:
        assert allowed, (operator, details)
        assert f":{allowed}" in details or operator == "DirectedRelationshipTypeScan", (operator, details)
        assert ":Token" not in details, (operator, details)


def hits(server: Server, statement: str) -> int:
    """Database hits of a read, all operators together."""
    with server.open() as store:
        rows = store.run("PROFILE " + statement).dicts()
    return sum(row["db_hits"] or 0 for row in rows)


def test_indexes_on_request_save_hits(filled: Server) -> None:
    """What each index is for, by database hits before and after."""
    chain = corpus(1, RUN)[0].chain
    asked = {
        f"MATCH (t:Token {{chain: '{chain.id}', step: 0}}) RETURN t.piece": 1.2,
        "MATCH (s:Step) WHERE s.text CONTAINS 'rains' RETURN s.id": 1.2,
        f"MATCH ()-[r:NEXT {{run: '{RUN.id}'}}]->() WHERE r.surprisal > 9.9 RETURN r.surprisal": 10,
    }
    before = {statement: hits(filled, statement) for statement in asked}
    with filled.open() as store:
        store.create_indexes()
        store.create_indexes()
        found = store.run(
            "CALL db.index.fulltext.queryNodes('trails_fulltext_Step_text', 'rains') YIELD node RETURN node.id"
        )
        assert len(found.rows) > 0
    with neo4j.GraphDatabase.driver(filled.uri) as driver, driver.session() as session:
        session.run("CALL db.clearQueryCaches()").consume()
    after = {statement: hits(filled, statement) for statement in asked}
    for statement, factor in asked.items():
        assert before[statement] > factor * after[statement], (statement, before[statement], after[statement])


def test_the_check_sees_a_scan(filled: Server) -> None:
    assert scans(filled, "MATCH (t:Token) WHERE t.position = 3 RETURN t", {})
    assert scans(filled, "MATCH (a)-[r:NEXT]->(b) RETURN r.surprisal", {})
    assert not scans(filled, "MATCH (t:Token {chain: 'c'}) RETURN t", {})


def test_the_record_of_a_chain_is_found_by_an_index(filled: Server) -> None:
    with filled.open() as store:
        plan = store.run("EXPLAIN MATCH (c:Chain {source_id: 'a record'}) RETURN c.id").dicts()
    assert any("NodeIndexSeek" in row["operator"] and "source_id" in row["details"] for row in plan), plan


def test_roles_as_labels_change_nothing_but_colours(filled: Server) -> None:
    with filled.open() as store:
        before = graph_digest([store.tables()])
        store.run(ROLE_LABELS, write=True)
        labels = {tuple(row[0]) for row in store.run("MATCH (s:Step) RETURN DISTINCT labels(s)").rows}
        assert {label for pair in labels for label in pair} > {"Step", "RoleIf", "RoleThen"}
        assert compare(before, graph_digest([store.tables()])) == []
        store.run(ROLE_LABELS_UNDO, write=True)
        assert store.run("MATCH (s:Step) RETURN DISTINCT labels(s)").rows == ((["Step"],),)
        store.run(ROLE_LABELS, write=True)
        few, more = (graph_batch(corpus(n, RUN), {RUN.id: RUN}) for n in (300, 310))
        store.write([more])
        assert compare(graph_digest([more, states(few)]), graph_digest([store.tables()])) == []
