"""Native libraries in any order, in a process with glibc's default room; and no import restarts a process."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

CALLS = {
    "query": "home.query('most-surprising', limit=2)",
    "overlaps": "home.overlaps('masked')",
    "map": "home.map()",
    "gaps": "home.gaps()",
    "capture": "home.capture('If 8 is even, then 8 is no prime. So 8 is no prime.')",
    "bridge": "home.bridge(ids[0], ids[1])",
    "trace": "home.trace(ids[0])",
    "model": "__import__('torch').zeros(2)",
}
FIRST = ("query", "model", "overlaps")
"""Calls that bring the libraries with thread-local storage: the graph engine, PyTorch, and the suffix array's child."""
REST = [name for name in CALLS if name not in FIRST]
ORDERS = [[*order, REST[place % len(REST)]] for place, order in enumerate(itertools.permutations(FIRST))]
ORDERS.append([*REST, *FIRST])


def run(code: str, *arguments: str) -> str:
    """What Python prints, started with glibc's default room for static thread-local storage."""
    environment = {k: v for k, v in os.environ.items() if k not in ("GLIBC_TUNABLES",) and not k.startswith("TRAILS_")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of a dozen chains, measured by the uniform model."""
    from trails.config import load_settings
    from trails.pipeline import ingest
    from trails.sample import path

    folder = tmp_path_factory.mktemp("home")
    lines = Path(path()).read_text("utf-8").splitlines(keepends=True)[:6]
    (folder / "few.jsonl").write_text("".join(lines), "utf-8")
    ingest([folder / "few.jsonl"], load_settings(home=folder / "home", model="uniform"))
    return folder / "home"


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS, ids=[">".join(order) for order in ORDERS])
def test_every_order_of_the_facade_works(order: list[str], home: Path) -> None:
    lines = "\n".join(f"    {CALLS[name]}; print({name!r}, flush=True)" for name in order)
    code = (
        "import sys, trails\n"
        "with trails.Home(sys.argv[1], model='uniform') as home:\n"
        "    ids = [trace.chain.id for trace in home.traces()]\n"
        f"{lines}"
    )
    assert run(code, str(home)).split() == order


def test_no_import_restarts_the_process() -> None:
    code = "print('begun', flush=True)\nimport benchmarks, trails, trails.__main__\nprint('imported')"
    assert run(code).split() == ["begun", "imported"]
    for path in (ROOT / "benchmarks").glob("*.py"):
        assert "static_tls" not in path.read_text("utf-8"), path
