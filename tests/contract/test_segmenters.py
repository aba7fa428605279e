"""One chain in two homes whose segmenters part: neither's steps are mixed with the other's, and one can give way."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.contract.conftest import Open
from tests.contract.test_homes import home_of
from tests.store.factory import corpus, make_run, make_trace

from trails.errors import StoreError
from trails.pipeline.judging import judge, repair_part
from trails.pipeline.loading import load_missing
from trails.pipeline.progress import Silent
from trails.pipeline.roles import _into_graph
from trails.schema import Role, Trace
from trails.store.base import GraphBatch, GraphStore
from trails.store.corrections import Correction
from trails.store.rows import graph_batch, table_of
from trails.store.scope import Scope

ONE, TWO = make_run("one"), make_run("two")
WHOLE = corpus(6, ONE)
SHARED = WHOLE[4].chain
"""A chain of five steps in one home, of two in the other."""


class Told(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def borders(graph: GraphStore) -> list[tuple[int, int]]:
    rows = graph.run("MATCH (s:Step {chain: $id}) RETURN s.start, s.`end` ORDER BY s.index", {"id": SHARED.id}).rows
    return [(start, end) for start, end in rows]


def spans(trace: Trace) -> list[tuple[int, int]]:
    return [(step.start, step.end) for step in trace.steps]


@pytest.mark.slow
def test_steps_of_two_segmenters_are_never_mixed(open_store: Open, tmp_path: Path) -> None:
    newer = [make_trace(SHARED, run, n_steps=2) for run in (ONE, TWO)]
    a = home_of(tmp_path / "a", WHOLE[2:5], (ONE,))
    b = home_of(tmp_path / "b", [*newer, WHOLE[5]], (ONE, TWO))
    told = Told()
    with open_store() as graph:
        graph.ensure_schema()
        load_missing(a, graph)
        gap = {"id": ["g"], "chain": [SHARED.id], "run": [ONE.id], "step": [4]}
        found = GraphBatch(
            {"Gap": table_of("Gap", gap)},
            {"BEFORE": table_of("BEFORE", {"start": ["g"], "end": [f"{SHARED.id}:4"]})},
        )
        graph.write([Scope(a.identity().id, "gaps", ONE.id, {}).put(found)])
        # of the second home: one chain is new, one pair is there already; the other run of the shared chain stays out
        assert load_missing(b, graph, progress=told) == 2
        assert "with the steps of another home's segmenter" in " ".join(told.notes)
        assert borders(graph) == spans(WHOLE[4])
        assert graph.run("MATCH (:Step)-[m:MEASURED_STEP {run: $run}]->(:Run) RETURN m", {"run": TWO.id}).rows == ()
        assert judge(a, graph).differences() == []
        assert judge(b, graph).chains() == {SHARED.id}
        # a repair does not mix them either
        told.notes.clear()
        assert repair_part(b, graph, told) == []
        assert "trails rebuild --segment --yes" in " ".join(told.notes)
        assert borders(graph) == spans(WHOLE[4])
        assert judge(a, graph).differences() == []
        # asked to, the second home's steps take their place, and what hung on the old ones goes
        told.notes.clear()
        assert repair_part(b, graph, told, replace_steps=True) == [SHARED.id]
        assert "In those homes run: trails rebuild --segment" in " ".join(told.notes)
        assert borders(graph) == spans(newer[0])
        assert judge(b, graph).differences() == []
        assert judge(a, graph).chains() == {SHARED.id}
        assert graph.run("MATCH (g:Gap) RETURN g.id").rows == ()
        # the first home splits again, as the second has: both are right, and nothing more is there
        (name,) = a.shard_names()
        a.rewrite(name, [newer[0] if trace.chain == SHARED else trace for trace in a.shard(name)])
        repair_part(a, graph, told)
        assert judge(a, graph).differences() == judge(b, graph).differences() == []
        if graph.name == "neo4j":
            # not by the way of a load that knows nothing of the other home
            with pytest.raises(StoreError, match="another home loaded it with another segmenter"):
                graph.write([graph_batch([make_trace(SHARED, make_run("three"))], {TWO.id: TWO, **runs("three")})])
            assert borders(graph) == spans(newer[0])
    for home in (a, b):
        home.close()


def runs(model: str) -> dict[str, object]:
    run = make_run(model)
    return {run.id: run}


@pytest.mark.slow
def test_a_lost_step_is_no_other_segmenter(open_store: Open, tmp_path: Path) -> None:
    a = home_of(tmp_path / "a", WHOLE[4:5], (ONE,))
    b = home_of(tmp_path / "b", [corpus(6, TWO)[4]], (TWO,))
    with open_store() as graph:
        graph.ensure_schema()
        load_missing(a, graph)
        graph.run("MATCH (s:Step {id: $id}) DETACH DELETE s", {"id": f"{SHARED.id}:1"}, write=True)
        # the second run finds four steps of five; values must not move to the steps behind the one that is lost
        assert load_missing(b, graph) == 1
        assert borders(graph) == spans(WHOLE[4])
        assert judge(b, graph).differences() == []
        repair_part(a, graph, Silent())
        assert judge(a, graph).differences() == judge(b, graph).differences() == []
    for home in (a, b):
        home.close()


@pytest.mark.slow
def test_a_corrected_role_reaches_steps_that_are_there(open_store: Open, tmp_path: Path) -> None:
    home = home_of(tmp_path / "a", WHOLE[4:5], (ONE,))
    with open_store() as graph:
        graph.ensure_schema()
        load_missing(home, graph)
        steps = tuple((s.start, s.end, Role.BECAUSE if s.index == 1 else s.role) for s in WHOLE[4].steps)
        home.put_corrections({SHARED.id: Correction("ann", datetime(2026, 1, 1, tzinfo=UTC).isoformat(), steps)})
        assert judge(home, graph).chains() == {SHARED.id}
        _into_graph(home, graph, [SHARED.id])
        rows = graph.run("MATCH (s:Step {index: 1}) RETURN s.role, s.automatic_role, s.corrected_by").rows
        assert rows == (("BECAUSE", "THEN", "ann"),)
        assert judge(home, graph).differences() == []
    home.close()
