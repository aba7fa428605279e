"""Genuine Neo4j servers for the tests: one of each version per test process, started at the first use.

The server runs under ``scripts/neo4j run --until-eof``: it ends when this process closes the pipe, and also when this process
is killed.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import neo4j

from trails.store.neo4j import Neo4jStore

SCRIPT = Path(__file__).parents[2] / "scripts" / "neo4j"
VERSIONS = ("LTS", "current")
PATIENCE_S = 180.0
PASSWORD = "canary-Zx9_dont_print_me"
"""Password of the servers that ask for one. Must never be seen in any output."""


@dataclass
class Server:
    """A running server."""

    uri: str
    browser: str
    folder: Path
    pid: int
    version: str
    process: subprocess.Popen[str]
    password: str = ""

    def open(self, **options: Any) -> Neo4jStore:
        """A store on it."""
        return Neo4jStore(self.uri, "neo4j", self.password, **options)

    def empty(self) -> None:
        """Remove every node and relationship (indexes stay)."""
        auth = ("neo4j", self.password) if self.password else None
        with neo4j.GraphDatabase.driver(self.uri, auth=auth) as driver, driver.session() as session:
            session.run("MATCH (n) CALL (n) { DETACH DELETE n } IN TRANSACTIONS OF 5000 ROWS").consume()

    def stop(self) -> None:
        """Stop it and wait until its process is gone."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(PATIENCE_S)


def start(
    version: str = "LTS",
    *,
    password: str = "",
    name: str = "",
    settings: tuple[str, ...] = (),
    port: int = 0,
    prefix: tuple[str, ...] = (),
) -> Server:
    """Start a server and wait for it; AssertionError when it does not come. ``prefix`` is a command that runs the script."""
    command = [
        *prefix,
        str(SCRIPT),
        "run",
        "--version",
        version,
        "--port",
        str(port),
        "--http-port",
        "0",
        "--heap",
        "512m",
    ]
    command += ["--pagecache", "128m", "--until-eof", "--wait", str(PATIENCE_S)]
    command += [part for setting in settings for part in ("--set", setting)]
    if name:
        command += ["--name", name]
    if not password:
        command.append("--no-auth")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("NEO4J_")}
    if password:
        environment["NEO4J_PASSWORD"] = password
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    line = process.stdout.readline()
    assert line, f"{' '.join(command)} did not start: {process.stderr.read()[-3000:]}"
    threading.Thread(target=process.stderr.read, daemon=True).start()  # a full pipe would stop the server
    found = json.loads(line)
    return Server(
        found["bolt"], found["browser"], Path(found["folder"]), found["pid"], found["version"], process, password
    )


_running: dict[str, Server] = {}


def shared(version: str) -> Server:
    """The server of this version that all tests of this process share; it asks for no password."""
    if version not in _running:
        _running[version] = start(version)
        atexit.register(_running[version].stop)
    return _running[version]


@contextmanager
def own(version: str = "LTS", **options: Any) -> Iterator[Server]:
    """A server for one test."""
    server = start(version, **options)
    try:
        yield server
    finally:
        server.stop()


def instances() -> Path:
    """Folder of the named instances."""
    jars = subprocess.run([str(SCRIPT), "fetch"], check=True, capture_output=True, text=True).stdout.strip()
    return Path(jars).parents[1] / "instances"


def forget(folder: Path) -> None:
    """Delete the folder of a named instance."""
    shutil.rmtree(folder, ignore_errors=True)
