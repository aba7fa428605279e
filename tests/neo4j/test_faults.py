"""What a user sees when the server dies, hangs, refuses or is the wrong one; and that no chain is ever half loaded."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import neo4j
import pytest
from tests.neo4j.proxy import Proxy
from tests.neo4j.servers import PASSWORD, SCRIPT, Server, instances, own, shared, start
from tests.store.factory import corpus, make_run

from trails.errors import QueryError, StoreError
from trails.store.base import GraphBatch
from trails.store.digest import compare, graph_digest
from trails.store.neo4j import Neo4jStore
from trails.store.neo4j import store as module
from trails.store.rows import graph_batch
from trails.store.traces import TraceStore

pytestmark = [pytest.mark.neo4j, pytest.mark.xdist_group("neo4j-lts")]
ROOT = Path(__file__).parents[2]
KILLS = int(os.environ.get("TRAILS_SERVER_KILLS", "3"))
"""Server kills in the middle of a load; `TRAILS_SERVER_KILLS=10` for the long version."""
RUN = make_run()


def trails(
    *arguments: str, uri: str, password: str = "", home: Path, timeout: float = 240
) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NEO4J_", "TRAILS_"))}
    environment |= {"NEO4J_URI": uri, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    if password:
        environment["NEO4J_PASSWORD"] = password
    command = [sys.executable, "-m", "trails", *arguments]
    if arguments[0] not in ("browser",):
        command += ["--home", str(home)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, check=False
    )


def _rebuild(outcome: list[subprocess.CompletedProcess[str]], uri: str, home: Path) -> None:
    outcome.append(trails("rebuild", uri=uri, home=home))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with 400 chains."""
    folder = tmp_path_factory.mktemp("home") / "trails"
    with TraceStore(folder, write=True) as store:
        store.put_run(RUN)
        store.write(corpus(400, RUN))
    return folder


@pytest.fixture(scope="module")
def batches() -> list[GraphBatch]:
    """Rows of 120 chains in four batches."""
    traces = corpus(120, RUN)
    return [graph_batch(traces[i : i + 30], {RUN.id: RUN}) for i in range(0, 120, 30)]


@pytest.fixture
def server() -> Iterator[Server]:
    """The shared server, emptied."""
    found = shared("LTS")
    found.empty()
    yield found
    found.empty()


@pytest.mark.slow
def test_a_server_killed_while_loading_costs_nothing_but_time(home: Path, tmp_path: Path) -> None:
    """Kill -9 in the middle of `trails rebuild`; restart; rebuild: the digest of a load that nothing disturbed."""
    name = f"test-kill-{os.getpid()}"
    with TraceStore(home) as store:
        expected = graph_digest([graph_batch(store.traces(), store.runs())])
    server = start("LTS", name=name)
    try:
        with server.open() as graph:
            graph.ensure_schema()
        reached, times = [], []
        for number in range(KILLS):
            with server.open() as graph:
                graph.delete(sorted({chain for chain, _ in graph.loaded()}))
            outcome: list[subprocess.CompletedProcess[str]] = []
            loader = threading.Thread(target=_rebuild, args=(outcome, server.uri, home))
            loader.start()
            with server.open() as graph:
                # wait until some chains are in, a different number each time
                while loader.is_alive() and graph.run("MATCH (c:Chain) RETURN count(c) AS n").rows[0][0] <= 40 * number:
                    time.sleep(0.02)
            os.kill(server.pid, signal.SIGKILL)
            killed = time.monotonic()
            loader.join(60)
            waited = time.monotonic() - killed
            assert not loader.is_alive()
            (done,) = outcome
            server.stop()
            if done.returncode != 0:
                # what the client waits is configured (see below); the clock is judged only when asked for, because the
                # end of the process may take its time on a busy machine
                assert waited < (5 if KILLS >= 10 else 60), done.stderr
                times.append(round(waited, 1))
                assert "no answer from Neo4j" in done.stderr
                assert "trails rebuild" in done.stderr
            assert "Traceback" not in done.stderr
            reached.append(done.returncode)
            server = start("LTS", name=name)
            with server.open() as graph:
                whole = graph.loaded()
                present = {row[0] for row in graph.run("MATCH (c:Chain) RETURN c.id", max_rows=10_000).rows}
                assert {chain for chain, _ in whole} == present, "a chain is there but not whole"
            again = trails("rebuild", uri=server.uri, home=home)
            assert again.returncode == 0, again.stderr
            with server.open() as graph:
                assert compare(expected, graph_digest([graph.tables()])) == []
        print(
            f"{sum(map(bool, reached))} of {KILLS} kills in the middle of a load; seconds from kill to message: {times}"
        )
        assert any(reached), "no kill came in the middle of a load"
    finally:
        server.stop()
        subprocess.run([str(SCRIPT), "remove", "--name", name], check=True)


def test_a_connection_cut_in_the_middle_of_a_message(server: Server, batches: list[GraphBatch]) -> None:
    """A load through a wire that breaks again and again ends with an error or whole; never with half a chain."""
    expected = graph_digest(batches)
    for after in (200_000, 20_000, 90_000):
        server.empty()
        with Proxy(server.uri) as proxy, Neo4jStore(proxy.uri, group_tokens=200) as store:
            store.ensure_schema()
            proxy.mode, proxy.after, proxy.carried = "cut", after, 0
            with pytest.raises(StoreError, match="no answer from Neo4j"):
                store.write(batches)
        with server.open() as direct:
            whole = direct.loaded()
            present = {row[0] for row in direct.run("MATCH (c:Chain) RETURN c.id").rows}
            assert {chain for chain, _ in whole} == present
            assert len(whole) < 120
            direct.write(batches)
            assert compare(expected, graph_digest([direct.tables()])) == []


@pytest.mark.parametrize("mode", ["hang", "trickle"])
def test_a_connection_that_hangs_or_trickles_is_given_up(server: Server, batches: list[GraphBatch], mode: str) -> None:
    with Proxy(server.uri) as proxy, Neo4jStore(proxy.uri, load_timeout_s=2.0) as store:
        store.ensure_schema()
        proxy.mode = mode
        with pytest.raises((StoreError, QueryError), match="did not finish|no answer|did not end"):
            store.run("UNWIND range(1, 5000) AS x RETURN x", timeout_s=1.0)
        with pytest.raises((StoreError, QueryError), match="did not finish|no answer|did not end"):
            store.write(batches[:1])
    with server.open() as direct:
        whole = {chain for chain, _ in direct.loaded()}
        assert whole == {row[0] for row in direct.run("MATCH (c:Chain) RETURN c.id").rows}


def test_two_processes_load_the_same_chains_at_once(server: Server, home: Path, tmp_path: Path) -> None:
    """From two homes: a home has one writer, and a rebuild is one."""
    with server.open() as store:
        store.ensure_schema()
    other = tmp_path / "other"
    shutil.copytree(home, other)
    outcome: list[subprocess.CompletedProcess[str]] = []
    threads = [threading.Thread(target=_rebuild, args=(outcome, server.uri, place)) for place in (home, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [done.returncode for done in outcome] == [0, 0], [done.stderr for done in outcome]
    with TraceStore(home) as traces, server.open() as store:
        expected = graph_digest([graph_batch(traces.traces(), traces.runs())])
        assert compare(expected, graph_digest([store.tables()])) == []
    assert trails("verify", uri=server.uri, home=home).returncode == 0


def test_nobody_listens(home: Path) -> None:
    for command in (["status"], ["rebuild"], ["cypher", "RETURN 1"], ["verify"], ["query", "runs"]):
        done = trails(*command, uri="bolt://127.0.0.1:9", home=home)
        # status tells what there is, an unreachable graph included
        assert done.returncode == (0 if command == ["status"] else 5), (command, done.stderr)
        assert "no answer from Neo4j at bolt://127.0.0.1:9" in re.sub(r"\s+", " ", done.stdout + done.stderr)
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://127.0.0.1:7687", "cannot be used"),
        ("", "set NEO4J_URI"),
        ("bolt://neo4j:secret-in-uri@127.0.0.1:7687", "holds a user or a password"),
        ("bolt://[::1", "not an address"),
    ],
)
def test_addresses_that_cannot_be_one(uri: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as error:
        Neo4jStore(uri)
    assert "secret-in-uri" not in str(error.value)


def test_wrong_database_and_old_server_and_newer_store(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        Neo4jStore(server.uri, database="elsewhere") as store,
        pytest.raises(StoreError, match="has no database 'elsewhere'.*NEO4J_DATABASE"),
    ):
        store.ensure_schema()
    with server.open() as store:
        store.ensure_schema()
        store.run("MATCH (s:TrailsStore) SET s.format = 99", write=True)
        for other in (server.open(), server.open(any_format=True)):
            with other, pytest.raises(StoreError, match="newer trails .format 99"):
                other.run("RETURN 1")
        store.run("MATCH (s:TrailsStore) SET s.format = 1", write=True)
        with (
            server.open() as other,
            pytest.raises(StoreError, match="of format 1, .*trails rebuild --fresh --store neo4j"),
        ):
            other.counts()
        store.run("MATCH (s:TrailsStore) DELETE s", write=True)
    monkeypatch.setattr(module, "MINIMUM_SERVER", (9999, 1))
    with server.open() as store, pytest.raises(StoreError, match="Neo4j/5.26.30; trails needs Neo4j 9999.1 or newer"):
        store.loaded()


def test_a_read_only_database_says_so(batches: list[GraphBatch]) -> None:
    name = f"test-read-only-{os.getpid()}"
    read_only = "server.databases.default_to_read_only=true"
    try:
        with own("LTS", name=name) as server, server.open() as store:
            store.ensure_schema()
        with (
            own("LTS", name=name, settings=(read_only,)) as server,
            server.open() as store,
            pytest.raises(StoreError, match="read-only"),
        ):
            store.write(batches[:1])
    finally:
        subprocess.run([str(SCRIPT), "remove", "--name", name], check=True)


def test_a_full_disk_says_so(batches: list[GraphBatch]) -> None:
    """The server's folder is a small file system of its own, filled to the last byte."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("no small file system without privileges here: user namespaces are not allowed")
    name = f"test-full-disk-{os.getpid()}"
    folder = instances() / name
    folder.mkdir(parents=True)
    # a mount that only this server sees; needs no privileges where user namespaces are allowed
    small = ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=64m tmpfs "$0" && exec "$@"', str(folder))
    settings = ("db.tx_log.preallocate=false", "db.tx_log.rotation.size=1m")
    try:
        with own("LTS", name=name, prefix=small, settings=settings) as server:
            with server.open() as store:
                store.ensure_schema()
                store.write(batches[:1])
            ballast = Path(f"/proc/{server.pid}/root{folder}/ballast")
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            with server.open() as store, pytest.raises(StoreError, match=DISK) as failed:
                store.write(batches[1:])
            assert "trails rebuild" in str(failed.value)
    finally:
        subprocess.run([str(SCRIPT), "remove", "--name", name], check=True)


DISK = "cannot write; the usual cause is a full disk. Free space there, restart the server"


def test_encryption_is_verified_unless_told_otherwise(tmp_path: Path, batches: list[GraphBatch], home: Path) -> None:
    """A certificate that nobody vouches for is refused by bolt+s and neo4j+s, and accepted by bolt+ssc."""
    if not shutil.which("openssl"):
        pytest.skip("openssl, which makes the certificate, is not installed")
    files = [str(tmp_path / "private.key"), str(tmp_path / "public.crt")]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    make += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", files[0], "-out", files[1]]
    subprocess.run(make, check=True, capture_output=True)
    policy = "dbms.ssl.policy.bolt"
    settings = ("server.bolt.tls_level=OPTIONAL", f"{policy}.enabled=true", f"{policy}.base_directory={tmp_path}")
    settings += (f"{policy}.client_auth=NONE",)
    with own("LTS", settings=settings) as server:
        host = server.uri.removeprefix("bolt://")
        for scheme in ("bolt+s", "neo4j+s"):
            with Neo4jStore(f"{scheme}://{host}") as store, pytest.raises(StoreError, match="is not trusted") as failed:
                store.ensure_schema()
            assert f"{scheme}sc://" in str(failed.value)
        done = trails("rebuild", uri=f"bolt+s://{host}", home=home)
        assert done.returncode == 5
        assert "is not trusted by this machine" in " ".join(done.stderr.split())
        with Neo4jStore(f"bolt+ssc://{host}") as store:
            store.ensure_schema()
            store.write(batches[:1])
            assert store.loaded() == set(batches[0].whole)


def test_the_time_limits_of_a_client_whose_server_is_gone_add_up_to_less_than_five_seconds() -> None:
    """Nobody listens any more: every attempt fails at once, and the pauses between them are bounded by configuration."""
    waited, pause = 0.0, module.RETRY_DELAY_S
    while waited <= module.RETRY_S:
        waited += pause * 1.2  # the driver lengthens a pause by up to a fifth, and doubles it each time
        pause *= 2
    assert waited < 4.0
    with Neo4jStore("bolt://127.0.0.1:9") as store:
        driver = store._driver
        assert driver._default_workspace_config.max_transaction_retry_time == module.RETRY_S
        assert driver._default_workspace_config.initial_retry_delay == module.RETRY_DELAY_S
        assert driver._default_workspace_config.retry_delay_multiplier == 2.0
        assert driver._default_workspace_config.retry_delay_jitter_factor == 0.2


@pytest.mark.slow
def test_passwords_are_never_shown(home: Path) -> None:
    """Wrong and right password through every command at debug level: no sighting of either."""
    with own("LTS", password=PASSWORD) as server:
        wrong = PASSWORD[::-1]
        seen = []
        for password in (PASSWORD, wrong, ""):
            for command in (
                ["rebuild"],
                ["status"],
                ["verify"],
                ["cypher", "RETURN 1 AS one"],
                ["cypher", "CREATE (n)"],
                ["query", "runs"],
                ["browser"],
                ["doctor"],
            ):
                done = trails(*command, uri=server.uri, password=password, home=home)
                seen.append(done.stdout + done.stderr)
                if password == PASSWORD and command[-1] != "CREATE (n)" and command[0] != "doctor":
                    assert done.returncode == 0, (command, done.stderr)
                if password != PASSWORD and command[0] not in ("browser", "doctor", "status"):
                    assert done.returncode == 5, (command, done.stderr)
                if password != PASSWORD:
                    said = "with this password|after several wrong passwords" if password else "none is set"
                    printed = " ".join((done.stdout + done.stderr).split())  # a line of status may end anywhere in it
                    assert re.search(said, printed), (command, printed)
                    assert "NEO4J_PASSWORD" in done.stdout + done.stderr
        logged = subprocess.run(
            [sys.executable, "-c", DEBUG, server.uri],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "NEO4J_PASSWORD": PASSWORD},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "LOGON" in logged.stderr, logged.stderr[-2000:]
        seen.append(logged.stdout + logged.stderr)
        for path in server.folder.rglob("*.log"):
            seen.append(path.read_text(errors="replace"))
        seen.append(Path(f"/proc/{server.pid}/cmdline").read_text())
        seen.append(Path(f"/proc/{server.pid}/environ").read_text(errors="replace"))
        for text in seen:
            assert PASSWORD not in text
            assert wrong not in text
        with neo4j.GraphDatabase.driver(server.uri, auth=("neo4j", PASSWORD)) as driver:
            driver.execute_query(
                "CREATE USER ann SET PASSWORD $first CHANGE REQUIRED", first=PASSWORD, database_="system"
            )
        with (
            Neo4jStore(server.uri, "ann", PASSWORD) as store,
            pytest.raises(StoreError, match="'ann' .* must be changed"),
        ):
            store.counts()
        for _ in range(4):
            with Neo4jStore(server.uri, "ann", wrong) as store, pytest.raises(StoreError) as refused:
                store.counts()
        assert "some seconds, after several wrong passwords" in str(refused.value)


DEBUG = """
import logging, sys
logging.basicConfig(level=logging.DEBUG)
from trails.config import load_settings
from trails.store.neo4j import open_neo4j
settings = load_settings(neo4j_uri=sys.argv[1])
print(settings, repr(settings), settings.model_dump(), settings.model_dump_json())
store = open_neo4j(settings)
print(store, vars(store), store.run("RETURN 1").rows)
try:
    store.run("CREATE (n)")
except Exception as error:
    print(repr(error), vars(error))
"""
