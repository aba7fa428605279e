"""A command that nobody gave a run says which one it took, where there are several, and how another is named."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.cli.test_names import LINES, commands
from tests.store.factory import corpus, make_run

from trails.cli import cli
from trails.cli.common import LogLines
from trails.store.traces import TraceStore

BASE = make_run("base")
TRAINED = replace(BASE, adapter="ab" * 32)
SAID = f"run {BASE.id} (base) was taken of 2, the only one that is not a training or an intervention; another: "


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six chains, measured by a run and by what a training made of it."""
    folder = tmp_path_factory.mktemp("runs") / "home"
    with TraceStore(folder, write=True) as store:
        for run in (BASE, TRAINED):
            store.put_run(run)
            store.write(corpus(6, run))
    return folder


TAKES_A_RUN = {name for name, command in commands(cli) if "run" in {parameter.name for parameter in command.params}}
ASKING = {
    name: line
    for name, line in LINES.items()
    if {" ".join(line.split()[:2]), line.split()[0]} & TAKES_A_RUN
    and name not in ("chains", "roles export", "variants --show", "query in a selection")
} | {"map": "map --no-graph", "patterns": "patterns", "effects scan": "effects scan"}
"""Lines of commands that take a run and cannot do without one."""


@pytest.mark.slow
@pytest.mark.parametrize("line", ASKING.values(), ids=ASKING)
def test_the_run_that_was_taken_is_told_once(trails: Callable[..., Any], home: Path, tmp_path: Path, line: str) -> None:
    words = [word.replace("{folder}", str(tmp_path)).replace("{{", "{").replace("}}", "}") for word in line.split()]
    words = [word.replace("{}", "#1") for word in words]
    told = trails(*words, "--home", home, code=None).err
    assert told.count(f"{SAID}--run ID") == 1, told
    named = trails(*words, "--run", BASE.id, "--home", home, code=None).err
    assert "was taken of" not in named


def test_queries_and_the_browser_say_theirs(trails: Callable[..., Any], home: Path) -> None:
    trails("rebuild", "--home", home)
    query = ("query", "most-surprising", "--home", home)
    assert trails(*query).err.count(f"{SAID}--param run=ID") == 1
    assert "was taken of" not in trails(*query, "--param", f"run={BASE.id}").err
    page = ("report", "query:most-surprising", "-o", home.parent / "page.html", "--run", BASE.id, "--home", home)
    assert trails(*page).err.count(f'{SAID}{{"run": "ID"}} behind the name of the query') == 1
    told = trails("browser", "--home", home).err
    taken = f"run {BASE.id} (base) was taken of 2, the latest that is not a training or an intervention"
    assert f"{taken}; another: --run ID" in told
    assert "was taken of" not in trails("browser", "--home", home, "--run", TRAINED.id[:6]).err
    assert f"{SAID}trails diff ID …" in trails("diff", "--adapter", home, "--home", home, code=None).err


def test_a_home_of_one_run_says_nothing(trails: Callable[..., Any], tmp_path: Path) -> None:
    with TraceStore(tmp_path / "one", write=True) as store:
        store.put_run(BASE)
        store.write(corpus(6, BASE))
    assert "was taken of" not in trails("overlaps", "--no-graph", "--home", tmp_path / "one").err


def test_only_what_is_to_be_said_once_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    handler = LogLines()
    for once in (True, True, False, False):
        record = logging.LogRecord("trails", logging.INFO, "", 0, "once" if once else "again", None, None)
        record.once = once
        handler.emit(record)
    assert capsys.readouterr().err.split() == ["once", "again", "again"]
