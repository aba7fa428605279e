"""Traces → rows → store → rows: independent of batches and order; digests notice every change."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import oracle
from tests.store.factory import corpus, make_chain, make_run, make_trace

from trails.errors import StoreError
from trails.schema import NODE, properties_of
from trails.store import rows
from trails.store.base import GraphBatch
from trails.store.corrections import Correction, corrected
from trails.store.digest import TRACE_TABLES, compare, graph_digest
from trails.store.embedded import EmbeddedStore
from trails.store.rows import graph_batch, merge_batches, table_of, table_schema
from trails.store.traces import TraceStore

ONE, TWO = make_run("one"), make_run("two")
RUNS = {ONE.id: ONE, TWO.id: TWO}
POOL = [*corpus(7, ONE), *corpus(9, TWO)]
SLOW = settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))


def rows_of(table: pa.Table) -> list[dict]:
    return [{k: v for k, v in row.items() if v is not None} for row in table.to_pylist()]


@pytest.mark.slow
def test_rows_are_those_of_the_oracle() -> None:
    graph, batch = oracle.build(POOL, RUNS), graph_batch(POOL, RUNS)
    for label, table in batch.nodes.items():
        found = {row["id"]: row for row in rows_of(table)}
        assert found == {node["id"]: oracle.shown(node) for node in oracle.nodes(graph, label)}
    total = 0
    for name, table in batch.relationships.items():
        kind, start = ("ATTENDS_TO", "Token") if name == "TOKEN_ATTENDS_TO" else (name, None)
        start = "Step" if name == "ATTENDS_TO" else start
        wanted = {
            (a["id"], b["id"], r.get("run")): oracle.shown_edge(r) for a, r, b in oracle.edges(graph, kind, start)
        }
        found = {(row.pop("start"), row.pop("end"), row.get("run")): row for row in rows_of(table)}
        assert found.keys() == wanted.keys()
        for key, row in found.items():
            want = wanted[key]
            assert row.keys() == want.keys(), (name, key)
            for prop, value in row.items():
                close = pytest.approx(want[prop], rel=1e-12) if isinstance(value, float) else want[prop]
                assert value == close, (name, key, prop)
        total += len(found)
    assert total == graph.number_of_edges()


@pytest.mark.slow
@SLOW
@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_batches_and_order_do_not_matter(rng: random.Random, size: int) -> None:
    expected = graph_digest([graph_batch(POOL, RUNS)])
    order = rng.sample(POOL, len(POOL))
    parts = [graph_batch(order[i : i + size], RUNS) for i in range(0, len(order), size)]
    assert graph_digest(parts).hex == expected.hex
    assert graph_digest([merge_batches(parts)]).hex == expected.hex


@pytest.mark.slow
@SLOW
@given(st.lists(st.integers(0, len(POOL) - 1), max_size=24), st.integers(1, 5), st.booleans())
def test_the_embedded_graph_depends_on_what_was_loaded_only(
    tmp_path_factory: pytest.TempPathFactory, picks: list[int], size: int, reopen: bool
) -> None:
    folder = tmp_path_factory.mktemp("order")
    store = EmbeddedStore(folder)
    for i in range(0, len(picks), size):
        store.write([graph_batch([POOL[p] for p in picks[i : i + size]], RUNS)])
        if reopen:
            store.close()
            store = EmbeddedStore(folder)
    expected = graph_digest([graph_batch([POOL[p] for p in sorted(set(picks))], RUNS)])
    assert compare(expected, graph_digest([store.tables()])) == []
    store.close()


@pytest.mark.slow
def test_parquet_to_graph_to_parquet_is_one_digest(tmp_path: Path) -> None:
    """Shards → graph → tables → shards of tables: nothing is lost on the way that the graph promises to hold."""
    with TraceStore(tmp_path, write=True) as shards:
        for run in RUNS.values():
            shards.put_run(run)
        shards.write(POOL[:5])
        shards.write(POOL[5:])
        from_shards = graph_batch(shards.traces(), shards.runs(), per_layer=True)
        with EmbeddedStore(tmp_path) as graph:
            graph.write([from_shards])
    with EmbeddedStore(tmp_path) as graph:
        back = graph.tables()
    import pyarrow.parquet as pq

    again = {}
    for name, table in {**back.nodes, **back.relationships}.items():
        pq.write_table(table, tmp_path / f"{name}.parquet")
        again[name] = pq.read_table(tmp_path / f"{name}.parquet")
    read = GraphBatch({n: t for n, t in again.items() if n in NODE}, {n: t for n, t in again.items() if n not in NODE})
    expected = graph_digest([from_shards])
    assert graph_digest([back]).hex == graph_digest([read]).hex == expected.hex
    assert set(expected.tables) == set(TRACE_TABLES)


@pytest.mark.slow
def test_the_digest_notices_every_property_of_every_table() -> None:
    run = replace(ONE, notes={"name": "first"}, intervention='{"heads": [1]}')
    named = {run.id: run}
    by_hand = Correction("anna", "2026-01-01T00:00:00+00:00", tuple((s.start, s.end, s.role) for s in POOL[0].steps))
    traces = [corrected(trace, {POOL[0].chain.id: by_hand}) for trace in corpus(5, run)]
    batch = graph_batch(traces, named, per_layer=True)
    whole = graph_digest([batch])
    for name, table in {**batch.nodes, **batch.relationships}.items():
        for column in table.column_names:
            values = table[column].to_pylist()
            row = next((i for i, value in enumerate(values) if value is not None), 0)
            value = values[row]
            if value is None:  # what these traces lack, as gradients: having it is a difference, too
                kind = table[column].type
                values[row] = [1.0] if pa.types.is_list(kind) else 1 if pa.types.is_primitive(kind) else "x"
            elif isinstance(value, list):
                values[row] = [*value[:-1], np.nextafter(value[-1], 9.0)]
            elif isinstance(value, bool):
                values[row] = not value
            elif isinstance(value, float):
                values[row] = np.nextafter(value, 99.0)
            else:
                values[row] = value + (1 if isinstance(value, int) else "x")
            changed = table.set_column(table.column_names.index(column), column, pa.array(values, table[column].type))
            side = {**batch.nodes, name: changed} if name in NODE else batch.nodes
            other = batch.relationships if name in NODE else {**batch.relationships, name: changed}
            found = graph_digest([GraphBatch(side, other)])
            assert found.hex != whole.hex, (name, column)
            assert any(line.startswith(f"{name}: ") for line in compare(whole, found)), (name, column)


@pytest.mark.slow
def test_compare_says_what_is_missing_and_what_is_twice() -> None:
    batch = graph_batch(POOL, RUNS)
    following = batch.relationships["NEXT"]
    lacking = GraphBatch(batch.nodes, {**batch.relationships, "NEXT": following.slice(2)})
    lost = following["start"].to_pylist()[:2]
    (line,) = compare(graph_digest([batch]), graph_digest([lacking]))
    assert line == f"NEXT: 2 relationships of the shards are not in the graph (start {', '.join(sorted(lost))})"
    (line,) = compare(graph_digest([lacking]), graph_digest([batch]))
    assert line.startswith("NEXT: 2 relationships of the graph are not in the shards")
    doubled = GraphBatch(
        batch.nodes, {**batch.relationships, "NEXT": pa.concat_tables([following, following.slice(0, 3)])}
    )
    assert compare(graph_digest([batch]), graph_digest([doubled])) == ["NEXT: 3 relationships are there twice"]
    assert compare(graph_digest([batch]), graph_digest([batch])) == []


def attention(traces: list, runs: dict) -> dict[tuple[str, str], float]:
    table = graph_batch(traces, runs).relationships["ATTENDS_TO"]
    return {(row["start"], row["end"]): row["mean"] for row in table.to_pylist()}


def test_what_lay_outside_the_window_has_no_edge() -> None:
    """A mass of exactly 0 in every layer says that both steps were never in one window, not that nothing was looked at."""
    windows = replace(make_run("windows"), window="stride")
    traces = {run.id: make_trace(1, run, n_steps=4) for run in (ONE, windows)}
    for run, trace in traces.items():
        masses = trace.step_attention.copy()
        masses[trace_row(3, 0)] = 0
        masses[trace_row(2, 1), 1:] = 0  # one layer looks
        traces[run] = replace(trace, step_attention=masses)
    assert len(attention([traces[ONE.id]], RUNS)) == 6
    seen = attention([traces[windows.id]], {windows.id: windows})
    chain = traces[windows.id].chain.id
    assert len(seen) == 5
    assert (f"{chain}:3", f"{chain}:0") not in seen


def trace_row(query: int, key: int) -> int:
    return query * (query + 5) // 2 + 2 + key


@pytest.mark.parametrize("sparse", [False, True])
def test_a_long_chain_keeps_the_strongest_edges_and_says_so(monkeypatch: pytest.MonkeyPatch, sparse: bool) -> None:
    dense = make_trace(1, ONE, n_steps=9)
    trace = make_trace(1, ONE, n_steps=9, strongest=5) if sparse else dense
    monkeypatch.setattr(rows, "ALL_EDGES_STEPS", 8)
    monkeypatch.setattr(rows, "STRONGEST", 3)
    expected = {}
    for query in range(9):
        masses = {key: float(np.mean(dense.step_masses(query)[key + 2], dtype=np.float64)) for key in range(query)}
        for key in sorted(masses, key=lambda k: -masses[k])[:3]:
            expected[f"{dense.chain.id}:{query}", f"{dense.chain.id}:{key}"] = masses[key]
    assert attention([trace, make_trace(2, ONE, n_steps=1)], RUNS) == pytest.approx(expected, rel=1e-6)
    said = graph_batch([trace, make_trace(2, ONE)], RUNS).relationships["MEASURED"]["edges_per_step"].to_pylist()
    assert said == [3, None]


def test_models_without_layers_have_no_attention() -> None:
    run = make_run("uniform", n_layers=0)
    trace = make_trace(make_chain(1), run)
    batch = graph_batch([trace], {run.id: run})
    assert "ATTENDS_TO" not in batch.relationships
    following = batch.relationships["NEXT"]
    for name in ("attention_shift", "hidden_shift_late", "attention_shift_max_layer"):
        assert following[name].null_count == len(following)
    assert following["surprisal"].null_count == 0


def test_undefined_numbers_are_absent() -> None:
    trace = corpus(1)[0]
    assert np.isnan(trace.surprisal[0])
    batch = graph_batch([trace], {make_run().id: make_run()})
    assert batch.relationships["BEGINS"]["surprisal"].to_pylist() == [None]
    measured = batch.relationships["MEASURED"].to_pylist()[0]
    assert measured["mean_surprisal"] == pytest.approx(np.nanmean(trace.surprisal.astype(np.float64)))


def test_thirds_of_layers() -> None:
    run = make_run("thirds", n_layers=30)
    trace = make_trace(make_chain(3), run)
    first = graph_batch([trace], {run.id: run}).relationships["NEXT"].to_pylist()[0]
    shift = trace.attention_shift[1].astype(np.float64)
    assert first["attention_shift_early"] == pytest.approx(shift[:10].mean())
    assert first["attention_shift_late"] == pytest.approx(shift[20:].mean())
    assert first["attention_shift_max_layer"] == int(shift.argmax())
    hidden = trace.hidden_shift[1].astype(np.float64)
    assert first["hidden_shift"] == pytest.approx(hidden[1:].mean())
    assert first["hidden_shift_early"] == pytest.approx(hidden[1:11].mean())
    assert first["hidden_shift_max_layer"] == int(hidden[1:].argmax()) + 1


def test_traces_of_an_unknown_run_are_refused() -> None:
    with pytest.raises(StoreError, match=f"traces of run {ONE.id}, which the home does not describe"):
        graph_batch(POOL, {TWO.id: TWO})


def test_table_of_knows_the_schema() -> None:
    table = table_of("Gap", {"id": ["g"], "score": [float("nan")]})
    assert table.schema == table_schema("Gap")
    assert table["score"].null_count == 1
    with pytest.raises(StoreError, match="Gap has no property colour"):
        table_of("Gap", {"id": ["g"], "colour": ["red"]})
    for name in (*NODE, "NEXT", "IN"):
        assert [f.name for f in table_schema(name)][-len(properties_of(name)) :] == [
            p.name for p in properties_of(name)
        ]
