"""Completion in the shell: what the home knows, nothing heavy imported, no message whatever is wrong."""

from __future__ import annotations

import json
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from trails.cli import COMMANDS, cli
from trails.cli.completion import OFFERS
from trails.export.formats import WRITERS
from trails.store.queries import named_queries

ANSWER = """
import json, os, sys
from trails.__main__ import main
for line, word in json.loads(sys.argv.pop()):
    os.environ |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_TRAILS_WORD": word, "_TRAILS_COMPLETE": "bash_complete"}
    print(json.dumps(line), flush=True)
    try: main()
    except SystemExit: pass
heavy = {"torch", "transformers", "kglite", "pandas", "scipy", "neo4j"} & set(sys.modules)
print(json.dumps(sorted(heavy)))
"""


def completed(*lines: str) -> list[list[str]]:
    """What bash is offered at the end of each line, in one process that must import nothing heavy."""
    asked = [(line, line.rsplit(" ", 1)[-1].rsplit(":", 1)[-1].lstrip("'")) for line in lines]
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, json.dumps(asked)], capture_output=True, text=True, env=os.environ, check=True
    )
    assert done.stderr == ""
    printed = done.stdout.splitlines()
    assert json.loads(printed[-1]) == []
    places = [printed.index(json.dumps(line)) for line in lines]
    return [
        [item.partition(",")[2] for item in printed[start + 1 : stop] if item.startswith(("plain,", "open,"))]
        for start, stop in zip(places, [*places[1:], len(printed) - 1], strict=True)
    ]


@pytest.mark.slow
def test_the_shell_is_offered_what_the_home_knows(trails, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    rows = trails("chains", "--json").json()
    ids, run = sorted(row["chain"] for row in rows), rows[0]["run"]
    trails("rename", "run", run, "base")
    elsewhere = tmp_path / "other"
    trails("ingest", chains_file, "--limit", 1, "--home", elsewhere)
    (only,) = (row["chain"] for row in trails("chains", "--home", elsewhere, "--json").json())
    begin = ids[0][:5]
    fits = [chain for chain in ids if chain.startswith(begin)]
    offered = dict(
        zip(
            lines := (
                "trails show ",
                f"trails show {begin}",
                f"trails show --home {elsewhere} c",
                "trails drift --run ",
                "trails remove run ba",
                "trails query mo",
                "trails export --format ",
                "trails export --subgraph ",
                f"trails export --subgraph chain:{begin}",
                f"trails export --subgraph chain:{ids[0]},{begin}",
                "trails export --subgraph 'roles:IF>THE",
                "trails report query:gaps",
                "trails variants source:",
                "trails exp",
                "trails ingest --sam",
            ),
            completed(*lines),
            strict=True,
        )
    )
    assert offered["trails show "] == ids
    assert offered[f"trails show {begin}"] == fits
    assert offered[f"trails show --home {elsewhere} c"] == [only]
    assert offered["trails drift --run "] == ["base", run]
    assert offered["trails remove run ba"] == ["base"]
    assert offered["trails query mo"] == sorted(name for name in named_queries() if name.startswith("mo"))
    assert offered["trails export --format "] == sorted(WRITERS)
    assert {"all", "chain:", "roles:", "query:", "gaps\\>", "between:"} <= set(offered["trails export --subgraph "])
    # bash keeps what stands before the colon
    assert offered[f"trails export --subgraph chain:{begin}"] == fits
    assert offered[f"trails export --subgraph chain:{ids[0]},{begin}"] == [f"{ids[0]},{chain}" for chain in fits]
    assert offered["trails export --subgraph 'roles:IF>THE"] == ["IF>THEN", "IF>THEREFORE"]
    assert offered["trails report query:gaps"] == ["gaps-of-chain", "gaps-top"]
    assert offered["trails variants source:"] == ["gsm8k/chains"]
    assert offered["trails exp"] == [name for name in COMMANDS if name.startswith("exp")]
    assert offered["trails ingest --sam"] == ["--sample"]


@pytest.mark.slow
def test_nothing_is_said_whatever_is_wrong(trails, chains_file: Path, tmp_path: Path) -> None:
    lines = [
        "trails show c",
        "trails show --run r",
        "trails export --subgraph chain:",
        "trails query mo",
        "trails show 'c",
    ]
    assert [len(found) for found in completed(*lines)] == [0, 0, 0, 5, 0], "there is no home"
    trails("ingest", chains_file)
    (shard,) = (tmp_path / "home" / "shards").iterdir()
    shard.write_bytes(b"no parquet")
    (next((tmp_path / "home" / "runs").iterdir())).write_text("{")
    assert [len(found) for found in completed(*lines)] == [0, 0, 0, 5, 0]
    (tmp_path / "trails.toml").write_text("home = = 3")
    assert [len(found) for found in completed(*lines, "trails nosuch c1", 'trails "')] == [
        0,
        0,
        0,
        5,
        0,
        0,
        len(COMMANDS),
    ]


@pytest.mark.slow
def test_every_parameter_that_takes_a_name_completes_it(trails, chains_file: Path) -> None:
    trails("ingest", chains_file)
    context = click.Context(cli)
    asked = set()
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            key = (name, parameter.name) if (name, parameter.name) in OFFERS else parameter.name
            if key in OFFERS and not isinstance(parameter.type, click.Choice):
                of = click.Context(command)
                of.params["kind"] = "chain"
                assert parameter.shell_complete(of, ""), (name, parameter.name)
                asked.add(key)
    assert asked == set(OFFERS), "every entry of the table belongs to a command"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_itself_completes_a_line(trails, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    chain = trails("chains", "--json").json()[0]["chain"]
    program = tmp_path / "bin" / "trails"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m trails "$@"\n')
    program.chmod(0o700)
    environment = {**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}", "PS1": "READY$ ", "TERM": "dumb"}
    child, terminal = pty.fork()
    if child == 0:
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment)
    shown = ""

    def until(text: str) -> None:
        nonlocal shown
        end = time.monotonic() + 120
        while text not in shown:
            assert time.monotonic() < end, shown
            if select.select([terminal], [], [], 1)[0]:
                shown += os.read(terminal, 4096).decode()

    try:
        os.write(terminal, b'eval "$(_TRAILS_COMPLETE=bash_source trails)"; echo LEARNT-$((1+1))\n')
        until("LEARNT-2")
        os.write(terminal, f"trails export --subgraph chain:{chain[:6]}\t".encode())
        until(f"chain:{chain} ")
        os.write(terminal, b"--format axolotl-s\t")
        until("--format axolotl-segments ")
        os.write(terminal, b'\x15trails export --subgraph "roles:IF>THERE\t')
        until('"roles:IF>THEREFORE')
        os.write(terminal, b"\x15trails export --subgraph betw\t")
        until("between:")
        assert "Traceback" not in shown
    finally:
        os.write(terminal, b"\x15exit\n")
        os.close(terminal)
        os.waitpid(child, 0)
