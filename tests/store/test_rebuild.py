"""A rebuild never destroys: whatever ends it, the graph is the old one or the new one, with the results of analyses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.store.factory import corpus, make_run

from trails.config import Settings, load_settings
from trails.errors import StoreError
from trails.pipeline import loading, rebuild, repair, verify
from trails.pipeline.results import clear_results
from trails.store import open_graph
from trails.store.base import GraphBatch
from trails.store.digest import ALL_TABLES, graph_digest
from trails.store.embedded import BUILDING, EmbeddedStore
from trails.store.resolve import chains_without_shard
from trails.store.rows import graph_batch, held_by, table_of
from trails.store.scope import Scope
from trails.store.traces import TraceStore

ONE = make_run("one")
CHAINS = [trace.chain.id for trace in corpus(4, ONE)]


class Noted:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def begin(self, task: str, total: int, *, tokens: int = 0) -> None:
        pass

    def advance(self, amount: int, *, tokens: int = 0) -> None:
        pass

    def note(self, message: str) -> None:
        self.notes.append(message)


SCOPE = Scope("h0123456789abcdef", "toy", ONE.id, {}, "Ann", "2026-01-01T00:00:00.000Z")


def results(scope: Scope | None = SCOPE) -> GraphBatch:
    """An overlap of two chains, a gap, and two states of the map with a trail; without a scope as in the first format."""
    nodes = {
        "Overlap": table_of("Overlap", {"id": ["o1"], "kind": ["exact"], "n_tokens": [4], "coverage": [0.5]}),
        "Gap": table_of("Gap", {"id": ["g1", "g2"], "chain": CHAINS[:2], "step": [0, 0], "score": [0.25, 0.75]}),
        "State": table_of("State", {"id": ["s1", "s2"], "k": [4, 4], "text": ["a", "b"]}),
    }
    relationships = {
        "IN": table_of("IN", {"start": ["o1", "o1"], "end": CHAINS[:2], "first": [0, 1], "stop": [4, 5]}),
        "BEFORE": table_of("BEFORE", {"start": ["g1", "g2"], "end": [f"{c}:0" for c in CHAINS[:2]]}),
        "TRAIL": table_of("TRAIL", {"start": ["s1"], "end": ["s2"], "count": [3], "mean_surprisal": [1.5]}),
    }
    batch = GraphBatch(nodes, relationships)
    return scope.put(batch) if scope else batch


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A home of four chains in two shards, with results in its graph."""
    with TraceStore(tmp_path, write=True) as shards, EmbeddedStore(tmp_path) as graph:
        shards.put_run(ONE)
        shards.write(corpus(4, ONE)[:2])
        shards.write(corpus(4, ONE)[2:])
        graph.write([held_by(graph_batch(corpus(4, ONE), shards.runs()), shards.identity())])
        graph.write([results(replace(SCOPE, home=shards.identity().id))])
    return load_settings(home=tmp_path, store="embedded")


def digest(settings: Settings) -> str:
    with open_graph(settings) as graph:
        return graph_digest([graph.tables()], ALL_TABLES).hex


@pytest.mark.slow
def test_results_of_analyses_stay(settings: Settings) -> None:
    before, noted = digest(settings), Noted()
    assert rebuild(settings, fresh=True, progress=noted) == 4
    assert digest(settings) == before
    assert noted.notes == ["results of analyses kept: 2 State, 1 Overlap, 2 Gap"]
    assert not (settings.home / BUILDING).exists()


@pytest.mark.slow
def test_results_about_chains_that_are_gone_go_and_are_told(settings: Settings) -> None:
    with TraceStore(settings.home, write=True) as shards:
        for name in shards.shards_of({(CHAINS[0], ONE.id)}):
            shards.rewrite(name, [trace for trace in shards.shard(name) if trace.chain.id != CHAINS[0]])
    noted = Noted()
    assert rebuild(settings, fresh=True, progress=noted) == 3
    assert noted.notes == [
        chains_without_shard(1),
        "results of analyses kept: 2 State, 1 Overlap, 1 Gap",
        "results of analyses about chains that are gone: 1 Gap, 1 IN, 1 BEFORE",
    ]
    assert verify(settings).differences == ()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["damaged shard", "missing run", "interrupt", "damaged variants"])
def test_whatever_ends_it_the_old_graph_stays(settings: Settings, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(settings)
    expected: type[BaseException] = StoreError
    if how == "damaged shard":
        shard = max((settings.home / "shards").iterdir())
        shard.write_bytes(shard.read_bytes()[:-9])
    elif how == "missing run":
        (settings.home / "runs" / f"{ONE.id}.json").unlink()
    elif how == "damaged variants":
        (settings.home / "variants").mkdir()
        (settings.home / "variants" / "v0.parquet").write_bytes(b"PAR1")
    else:
        expected = KeyboardInterrupt
        saved = EmbeddedStore.save

        def interrupted(store: EmbeddedStore) -> None:
            saved(store)
            raise KeyboardInterrupt

        monkeypatch.setattr(EmbeddedStore, "save", interrupted)
    with pytest.raises(expected):
        rebuild(settings, fresh=True)
    monkeypatch.undo()
    assert digest(settings) == before
    assert not (settings.home / BUILDING).exists()


@pytest.mark.slow
def test_nothing_is_saved_on_the_way_out_of_an_exception(settings: Settings) -> None:
    before = digest(settings)

    def fails() -> None:
        with open_graph(settings) as graph:
            graph.delete(CHAINS[:1])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert digest(settings) == before
    with open_graph(settings) as graph:  # and the lock is free
        graph.delete(CHAINS[:1])
    assert digest(settings) != before


@pytest.mark.slow
def test_a_graph_that_cannot_be_read_loses_its_results_and_says_so(settings: Settings) -> None:
    (settings.home / "graph.kgl").write_bytes(b"not a graph")
    noted = Noted()
    assert rebuild(settings, fresh=True, progress=noted) == 4
    assert noted.notes == ["the old graph cannot be read: results of analyses are gone; run their commands again"]
    assert verify(settings).differences == ()


class OnOneDatabase(EmbeddedStore):
    """A store that cannot hold two graphs at once, as a server's."""

    replace_with = None  # type: ignore[assignment]


@pytest.mark.slow
def test_a_server_keeps_the_results_in_files_until_they_are_back(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest(settings)
    with OnOneDatabase(settings.home) as graph, TraceStore(settings.home) as shards:
        with monkeypatch.context() as patched:

            def interrupt(*_: object, **__: object) -> None:
                graph.save()
                raise KeyboardInterrupt

            patched.setattr(loading, "load_missing", interrupt)
            with pytest.raises(KeyboardInterrupt):
                loading._rebuild_fresh(shards, graph, per_layer=False, progress=Noted())
        assert (settings.home / "results").is_dir()
        assert loading._rebuild_fresh(shards, graph, per_layer=False, progress=Noted()) == 4
    assert not (settings.home / "results").exists()
    assert digest(settings) == before


@pytest.mark.slow
def test_a_graph_of_the_first_format_is_refused_and_made_again_with_its_results(settings: Settings) -> None:
    with EmbeddedStore(settings.home) as graph:
        clear_results(graph, TraceStore(settings.home).identity().id)
        graph.write([results(None)])
        graph.save()
        graph._graph.set_schema_version(1)
        graph._touched()
    for act in (lambda: open_graph(settings), lambda: repair(settings), lambda: rebuild(settings)):
        with pytest.raises(StoreError, match=r"is of format 1, .* run: trails rebuild --fresh --home"):
            act()
    with pytest.raises(StoreError, match="is of format 1"), open_graph(settings, strangers=True) as graph:
        graph.run("MATCH (c:Chain) RETURN c.id")
    verdict = verify(settings)
    assert verdict.differences == ("the graph is of format 1, and this trails uses format 2",)
    assert verdict.advice == (f"make the graph from the shards: trails rebuild --fresh --home {settings.home}",)
    noted = Noted()
    assert rebuild(settings, fresh=True, progress=noted) == 4
    assert noted.notes == ["results of analyses kept: 2 State, 1 Overlap, 2 Gap"]
    assert verify(settings).differences == ()
    with open_graph(settings) as graph:
        home = TraceStore(settings.home).identity().id
        for label in ("State", "Overlap", "Gap"):
            assert graph.run(f"MATCH (n:{label}) RETURN DISTINCT n.home, n.run").rows == ((home, ONE.id),)
        assert graph.run("MATCH (o:Overlap)-[i:IN]->(:Chain) RETURN o.key, count(i)").rows == (("o1", 2),)


@pytest.mark.slow
def test_what_trails_did_not_write_is_not_dropped_unasked(settings: Settings) -> None:
    with open_graph(settings) as graph:
        graph.run("MATCH (s:Step {index: 1}) CREATE (:Note {id: 'n1'})-[:ABOUT]->(s)", write=True)
    before = digest(settings)
    with pytest.raises(StoreError, match="Note nodes.*trails rebuild --fresh --yes"):
        rebuild(settings, fresh=True)
    assert digest(settings) == before
    assert repair(settings) == []
    assert rebuild(settings, fresh=True, force=True) == 4
    with open_graph(settings) as graph:
        assert "Note" not in graph.counts()


@pytest.mark.slow
def test_a_step_deleted_by_hand_is_written_again_and_nothing_else(settings: Settings) -> None:
    before = digest(settings)
    with open_graph(settings) as graph:
        graph.run("MATCH (s:Step {id: $id}) DETACH DELETE s", {"id": f"{CHAINS[1]}:1"}, write=True)
        graph.run("MATCH (r:Run) SET r.dtype = 'int3'", write=True)
    verdict = verify(settings)
    assert any(found.startswith("Step: 1 node of the shards is not in the graph") for found in verdict.differences)
    assert verdict.advice == (
        f"write again what differs, nothing else: trails rebuild --repair --home {settings.home}",
    )
    assert repair(settings) == [CHAINS[1]]
    assert verify(settings).differences == ()
    assert digest(settings) == before
    assert repair(settings) == []
