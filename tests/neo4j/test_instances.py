"""``scripts/neo4j stop`` ends the instance that it names, and no other process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.neo4j.servers import PATIENCE_S, SCRIPT

from trails.errors import StoreError
from trails.store.neo4j import Neo4jStore


def script(cache: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script, with its instances in a folder of this test."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NEO4J_")}
    return subprocess.run(
        [str(SCRIPT), *arguments],
        env=environment | {"TRAILS_NEO4J_CACHE": str(cache)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE_S,
    )


SMALL = (
    "--port",
    "0",
    "--http-port",
    "0",
    "--heap",
    "256m",
    "--pagecache",
    "32m",
    "--no-auth",
    "--wait",
    str(PATIENCE_S),
)


def answers(uri: str) -> bool:
    """Whether a server answers a query there."""
    try:
        with Neo4jStore(uri) as store:
            return store.run("RETURN 1 AS one").rows == ((1,),)
    except StoreError as error:
        if "no answer from Neo4j" not in str(error):
            raise
        return False


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[Path]:
    """A folder of instances with the jars that were fetched before."""
    lib = subprocess.run([str(SCRIPT), "fetch"], check=True, capture_output=True, text=True).stdout.strip()
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / Path(lib).parent.name).symlink_to(Path(lib).parent)
    yield folder
    script(folder, "stop", "--all")


@pytest.mark.neo4j
@pytest.mark.slow
@pytest.mark.xdist_group("neo4j-lts")
def test_stop_ends_what_it_names_and_nothing_else(cache: Path) -> None:
    started = {}
    for name in ("one", "two"):
        done = script(cache, "start", "--name", name, "--json", *SMALL)
        assert done.returncode == 0, done.stderr
        started[name] = json.loads(done.stdout)["bolt"]
    attached = subprocess.Popen(
        [str(SCRIPT), "run", "--name", "three", "--until-eof", *SMALL],
        env=os.environ | {"TRAILS_NEO4J_CACHE": str(cache)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert attached.stdin is not None
    assert attached.stdout is not None
    try:
        started["three"] = json.loads(attached.stdout.readline())["bolt"]

        def running() -> set[str]:
            found = json.loads(script(cache, "status", "--json").stdout)
            assert {name for name, uri in started.items() if answers(uri)} == {entry["name"] for entry in found}
            return {entry["name"] for entry in found}

        assert running() == {"one", "two", "three"}
        # without a name it is the instance that start starts without a name; it is not there, and no other one is taken
        unnamed = script(cache, "stop")
        assert unnamed.stderr.strip() == "lts does not run; running: one, three, two (--name NAME)"
        assert running() == {"one", "two", "three"}
        both = script(cache, "stop", "--all", "--name", "one")
        assert both.returncode == 2
        assert running() == {"one", "two", "three"}
        assert script(cache, "stop", "--name", "one").stderr.strip() == "one stopped"
        assert running() == {"two", "three"}
        assert script(cache, "stop", "--name", "one").stderr.strip() == (
            "one does not run; running: three, two (--name NAME)"
        )
        # a server of scripts/neo4j run ends with its command
        assert script(cache, "stop", "--all").stderr.strip() == "two stopped"
        assert running() == {"three"}
    finally:
        attached.stdin.close()
        attached.wait(PATIENCE_S)
    assert not answers(started["three"])


def test_stop_ends_no_process_that_got_the_number_of_a_server(tmp_path: Path) -> None:
    """A server that was killed leaves its number behind, and the system may give it to somebody else."""
    other = subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"], stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    other.stdout.readline()
    try:
        state = tmp_path / "instances" / "lts" / "run" / "server.json"
        state.parent.mkdir(parents=True)
        state.write_text(json.dumps({"pid": other.pid, "bolt": "bolt://127.0.0.1:1", "attached": False}))
        for arguments in ((), ("--name", "lts"), ("--all",)):
            assert script(tmp_path, "stop", *arguments).returncode == 0
            assert other.poll() is None
        assert not state.exists()
    finally:
        other.kill()
        other.wait()
