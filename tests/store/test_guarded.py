"""Statements of strangers on the embedded engine: they see what the store sees, and cost no more than is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.store.factory import corpus, make_run

from trails.errors import QueryError, StoreError
from trails.store import queries
from trails.store.embedded import FILE, EmbeddedStore
from trails.store.rows import graph_batch

RUN = make_run()
RUNS = {RUN.id: RUN}
MIB = 2**20
COUNT = "MATCH (c:Chain) RETURN count(c) AS n"
DOUBLING = "RETURN size(reduce(s = 'aaaaaaaa', i IN range(1, 40) | s + s)) AS n"
PRODUCT = "UNWIND range(1, 20000) AS x UNWIND range(1, 5000) AS y RETURN size(collect([x, y, x + y])) AS n"


@pytest.mark.slow
@pytest.mark.parametrize("statement", [DOUBLING, PRODUCT], ids=["doubling", "product"])
def test_a_statement_that_would_fill_the_memory_is_stopped_and_the_next_one_answered(
    tmp_path: Path, statement: str
) -> None:
    with EmbeddedStore(tmp_path, read_memory=200 * MIB) as store:
        with pytest.raises(QueryError, match=r"needs more memory than the 0\.2 GiB that it may use and was stopped"):
            store.run(statement, timeout_s=120)
        assert store.run("RETURN 1 AS x").rows == ((1,),)


@pytest.mark.slow
@pytest.mark.parametrize("statement", [DOUBLING, PRODUCT], ids=["doubling", "product"])
def test_a_statement_that_the_engine_does_not_stop_is_stopped(tmp_path: Path, statement: str) -> None:
    with EmbeddedStore(tmp_path, read_memory=8192 * MIB) as store:
        with pytest.raises(QueryError, match=r"did not end within 0\.2 s and was stopped"):
            store.run(statement, timeout_s=0.2)
        assert store.run("RETURN 1 AS x").rows == ((1,),)


def test_a_result_is_refused_by_its_size(tmp_path: Path) -> None:
    statement = "UNWIND range(1, $rows) AS x RETURN x, reduce(s = 'aaaaaaaa', i IN range(1, 13) | s + s) AS text"
    with EmbeddedStore(tmp_path, read_bytes=2 * MIB) as store:
        assert len(store.run(statement, {"rows": 20}).rows) == 20
        with pytest.raises(QueryError, match="the result is larger than 2 MiB; return fewer columns or add LIMIT"):
            store.run(statement, {"rows": 40})
        assert len(store.run(statement, {"rows": 20}).rows) == 20


@pytest.mark.slow
def test_what_is_not_saved_yet_is_seen(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store:
        assert store.run(COUNT).rows == ((0,),)
        for n in (2, 3):
            store.write([graph_batch(corpus(n), RUNS)])
            assert store.run(COUNT).rows == ((n,),)
        store.save()
        assert store.run(COUNT).rows == ((3,),)
        store.run("MATCH (c:Chain) DETACH DELETE c", write=True)
        assert store.run(COUNT).rows == ((0,),)


@pytest.mark.slow
@pytest.mark.parametrize("asked_before", [False, True])
def test_what_another_process_saves_is_not_seen(tmp_path: Path, asked_before: bool) -> None:
    with EmbeddedStore(tmp_path) as first:
        first.write([graph_batch(corpus(2), RUNS)])
    with EmbeddedStore(tmp_path) as reader, EmbeddedStore(tmp_path) as writer:
        if asked_before:
            assert reader.run(COUNT).rows == ((2,),)
        writer.write([graph_batch(corpus(5), RUNS)])
        writer.save()
        assert reader.run(COUNT).rows == ((2,),) == reader.run(COUNT, trusted=True).rows


@pytest.mark.slow
def test_a_store_for_strangers_loads_the_graph_in_the_child_only(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store:
        store.write([graph_batch(corpus(2), RUNS)])
    with EmbeddedStore(tmp_path, lazy=True) as store:
        assert store.run(COUNT).rows == ((2,),)
        assert store._opened is None
        assert store.counts()["Chain"] == 2
    (tmp_path / FILE).write_bytes(b"no graph")
    with EmbeddedStore(tmp_path, lazy=True) as store, pytest.raises(StoreError, match="cannot be read"):
        store.run(COUNT)


@pytest.mark.slow
def test_a_query_of_trails_starts_no_process(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store:
        store.write([graph_batch(corpus(2), RUNS)])
        assert (
            queries.named_query("chain-steps")
            .execute(store, {"chain": corpus(2)[0].chain.id, "run": corpus(2)[0].run})
            .rows
        )
        assert not store._guard._child.alive
        store.run(COUNT)
        assert store._guard._child.alive


@pytest.mark.slow
def test_a_parameter_that_is_no_plain_value(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store, pytest.raises(QueryError, match="a parameter"):
        store.run("RETURN $x AS x", {"x": lambda: 1})
