"""What is special about the embedded store: its file, its lock, its engine."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import kglite
import pytest
from tests.store.factory import corpus, make_chain, make_run, make_trace

from trails.errors import QueryError, StoreError
from trails.schema import GRAPH_FORMAT, NODES
from trails.store.base import GraphBatch
from trails.store.digest import graph_digest
from trails.store.embedded import FILE, EmbeddedStore
from trails.store.engine import refuse_several
from trails.store.queries import named_queries
from trails.store.rows import graph_batch, table_of

RUN = make_run()
RUNS = {RUN.id: RUN}


def test_a_file_that_is_no_graph_says_how_to_get_one(tmp_path: Path) -> None:
    for content in (b"", b"hello", b"RGF" + os.urandom(300)):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(StoreError) as error:
            EmbeddedStore(tmp_path)
        assert str(error.value).startswith(f"the graph {tmp_path / FILE} cannot be read (")
        assert str(error.value).endswith(
            "It can be made again from the shards: delete the file and run: trails rebuild"
        )
    with EmbeddedStore(tmp_path, damaged="discard") as store:
        store.write([graph_batch(corpus(2), RUNS)])
    with EmbeddedStore(tmp_path) as store:
        assert len(store.loaded()) == 2


DENIED = """
import resource, sys
from pathlib import Path
from trails.store.embedded import EmbeddedStore
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try: EmbeddedStore(Path(sys.argv[1]))
except Exception as error: print(error)
"""


def test_a_sound_graph_that_the_system_denies_is_not_to_be_deleted(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store:
        store.write([graph_batch(corpus(2), RUNS)])
    line = [sys.executable, "-c", DENIED, str(tmp_path)]
    said = subprocess.run(line, capture_output=True, text=True, timeout=300, check=True).stdout
    assert f"{tmp_path / FILE} cannot be read: " in said
    assert "raise the limit (ulimit -n)" in said
    assert "delete" not in said


def test_a_graph_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    graph = kglite.KnowledgeGraph()
    graph.set_schema_version(99)
    graph.save(str(tmp_path / FILE))
    with pytest.raises(StoreError) as error:
        EmbeddedStore(tmp_path)
    assert str(error.value) == (
        f"the graph {tmp_path / FILE} was written by a newer trails (format 99, this one knows {GRAPH_FORMAT}). "
        "Run: pip install --upgrade trails"
    )


@pytest.mark.slow
def test_the_second_writer_is_told_and_a_reader_sees_the_last_save(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as first:
        first.write([graph_batch(corpus(2), RUNS)])
        first.save()
        first.write([graph_batch(corpus(4), RUNS)])
        reader = EmbeddedStore(tmp_path)
        assert len(reader.loaded()) == 2
        with pytest.raises(StoreError) as error:
            reader.write([graph_batch(corpus(1), RUNS)])
        assert str(error.value) == (
            f"the graph {tmp_path / FILE} is being written by process {os.getpid()}. Wait until it ends and run the "
            "command again"
        )
    assert len(reader.loaded()) == 2  # a snapshot: what it opened
    # its first write starts from what the other writer saved, so nothing is lost
    reader.write([graph_batch(corpus(6), RUNS)])
    reader.close()
    with EmbeddedStore(tmp_path) as store:
        assert graph_digest([store.tables()]).hex == graph_digest([graph_batch(corpus(6), RUNS)]).hex


@pytest.mark.slow
def test_relationships_to_nodes_that_are_not_there_are_refused_and_nothing_stays(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store:
        store.write([graph_batch(corpus(3), RUNS)])
        store.save()
        step = corpus(3)[1].chain.id + ":0"
        for ends in ((step, "c-none:0"), ("c-none:0", step)):
            rows = table_of("SIMILAR", {"start": [ends[0]], "end": [ends[1]], "run": [RUN.id], "cosine": [0.5]})
            with pytest.raises(StoreError, match="SIMILAR refers to Step c-none:0, which is not in the graph"):
                store.write([GraphBatch({}, {"SIMILAR": rows})])
            good = table_of("SIMILAR", {"start": [step], "end": [step], "run": [RUN.id], "cosine": [0.5]})
            with pytest.raises(StoreError, match="SIMILAR refers to Step c-none:0, which is not in the graph"):
                store.write([GraphBatch({}, {"SIMILAR": good}), GraphBatch({}, {"SIMILAR": rows})])
        assert graph_digest([store.tables()]).hex == graph_digest([graph_batch(corpus(3), RUNS)]).hex
        assert "SIMILAR" not in store.counts()


@pytest.mark.slow
def test_saving_twice_writes_once(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store:
        store.write([graph_batch(corpus(2), RUNS)])
        store.save()
        stamp = (tmp_path / FILE).stat().st_mtime_ns
        store.save()
        store.run("MATCH (n) RETURN count(n) AS n")
    assert (tmp_path / FILE).stat().st_mtime_ns == stamp


@pytest.mark.slow
def test_opening_to_read_creates_nothing(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path / "none") as store:
        assert store.counts() == {}
        assert store.loaded() == set()
        assert store.run("MATCH (c:Chain) RETURN c").rows == ()
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    store = EmbeddedStore(tmp_path / "file" / "home")
    with pytest.raises(StoreError, match="cannot be written: Not a directory"):
        store.write([graph_batch(corpus(1), RUNS)])


def test_indexes_follow_the_schema_and_survive_saving(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store:
        store.write([graph_batch(corpus(2), RUNS)])
    graph = kglite.load(str(tmp_path / FILE))
    found = {(index["node_type"], index["property"]) for index in graph.list_indexes()}
    assert found == {(n.label, p.name) for n in NODES for p in n.properties if p.indexed and p.name != "id"}


def test_the_read_path_reads_no_file(tmp_path: Path) -> None:
    """The engine itself would: this is the judge's work."""
    secret = tmp_path / "secret.csv"
    secret.write_text("top,secret\n")
    statement = f"LOAD CSV FROM 'file://{secret}' AS line RETURN line"
    assert kglite.KnowledgeGraph().cypher(statement).to_list() == [{"line": ["top", "secret"]}]
    with EmbeddedStore(tmp_path) as store, pytest.raises(QueryError, match="LOAD CSV reads files"):
        store.run(statement)


def test_several_statements_are_told_apart_from_semicolons_that_part_none() -> None:
    for one in (
        "",
        ";",
        "RETURN 1",
        "RETURN 1;;",
        "; RETURN 1 /* ; RETURN 2 */; // RETURN 3;",
        "RETURN ';' AS `;``;`, \";\"",
    ):
        refuse_several(one)
    said = (
        r"^3 statements were given, and one can be asked at a time \(the second begins at line 2, column 8\)\. Ask each"
    )
    with pytest.raises(QueryError, match=said):
        refuse_several("RETURN 1;\n/* b */RETURN 2; RETURN ';'")


@pytest.mark.slow
def test_a_query_that_would_fill_the_memory_is_stopped(tmp_path: Path) -> None:
    with EmbeddedStore(tmp_path) as store:
        store.write([graph_batch(corpus(2), RUNS)])
        with pytest.raises(QueryError):
            store.run(
                "UNWIND range(1, 30000) AS x UNWIND range(1, 30000) AS y RETURN collect(x + y) AS all", timeout_s=20
            )


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="static TLS space is a limit of glibc")
def test_no_room_for_the_engine_gives_advice_that_helps(tmp_path: Path) -> None:
    """The other native libraries first, in a process with glibc's smallest reserve; then the same with the advised room."""
    code = textwrap.dedent(
        """
        import usearch.index, torch
        try:
            import trails.store.embedded
            print("ready")
        except Exception as error:
            print(type(error).__name__, error)
        """
    )

    def output(tunables: str) -> str:
        environment = {**os.environ, "GLIBC_TUNABLES": tunables}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        return done.stdout

    refused = output("glibc.rtld.optional_static_tls=0")
    assert refused.startswith(
        "MissingPackageError the embedded graph engine finds no room next to the native libraries"
    )
    advised = refused.strip().rpartition("export GLIBC_TUNABLES=")[2]
    assert output(advised) == "ready\n"


@pytest.mark.slow
def test_long_text_and_a_long_chain(tmp_path: Path) -> None:
    text = "Long text with a 🍎 in it. " * 40_000
    chain = make_chain("long", text)
    trace = make_trace(chain, RUN, n_steps=2, words=(text[:600_000], text[600_000:]), premises=False)
    with EmbeddedStore(tmp_path) as store:
        store.write([graph_batch([trace], RUNS)])
    with EmbeddedStore(tmp_path) as store:
        assert store.run("MATCH (c:Chain) RETURN c.text, size(c.text) AS n").rows == ((text, len(text)),)
        assert graph_digest([store.tables()]).hex == graph_digest([graph_batch([trace], RUNS)]).hex


def test_examples_of_the_named_queries_are_in_the_packaged_sample() -> None:
    from trails.readers import read
    from trails.sample import path

    chains = {chain.id: chain for chain in read([path()])}
    for query in named_queries().values():
        for parameter in query.parameters:
            if parameter.name in ("chain", "first", "second", "step") and not parameter.default:
                assert str(parameter.example).split(":")[0] in chains, (query.name, parameter.name)
            if parameter.name in ("text", "piece") and not parameter.default:
                assert any(parameter.example in chain.text for chain in chains.values()), (query.name, parameter.name)


def indexed(store: EmbeddedStore) -> set[tuple[str, str]]:
    return {(index["node_type"], index["property"]) for index in store._graph.list_indexes()}


def test_a_new_graph_has_its_indexes_whenever_it_is_read_or_opened(tmp_path: Path) -> None:
    wanted = {(node.label, p.name) for node in NODES for p in node.properties if p.indexed and p.name != "id"}
    batch = graph_batch(corpus(), RUNS)
    with EmbeddedStore(tmp_path / "read") as store:
        store.ensure_schema()
        assert store.loaded() == set()
        store.write([batch])
        piece = "MATCH (t:Token) WITH t.piece AS piece LIMIT 1 MATCH (t:Token {piece: piece}) RETURN count(t)"
        assert store.run(piece, trusted=True).rows[0][0] > 0
        assert indexed(store) == wanted
        store.write([graph_batch([make_trace(make_chain("later", text="Because it rains, it is wet."), RUN)], RUNS)])
        assert indexed(store) == wanted
    for name, batches in (("saved", [batch]), ("empty", [])):
        with EmbeddedStore(tmp_path / name) as store:
            store.ensure_schema()
            store.write(batches)
        with EmbeddedStore(tmp_path / name) as store:
            assert indexed(store) == wanted
    with EmbeddedStore(tmp_path / "replaced") as store:
        store.replace_with(lambda beside: write_into(beside, batch))
        assert indexed(store) == wanted


def write_into(store: EmbeddedStore, batch: GraphBatch) -> None:
    store.write([batch])
