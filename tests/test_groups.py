"""Tests that share a server run in one process, whichever pytest and pytest-xdist are installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOOK = "from tests.conftest import pytest_collection_modifyitems\n"
TESTS = """
import os
import time

import pytest

SERVERS = [pytest.param(name, marks=[pytest.mark.neo4j, pytest.mark.xdist_group(name)]) for name in ("one", "two")]


@pytest.fixture(params=SERVERS)
def server(request):
    return request.param


@pytest.mark.parametrize("number", range(8))
def test_it(server, number, worker_id):
    with open("seen.txt", "a") as file:
        file.write(f"{server} {worker_id}\\n")
    time.sleep(0.02)


@pytest.mark.neo4j
@pytest.mark.xdist_group("two")
def test_another(worker_id):
    with open("seen.txt", "a") as file:
        file.write(f"two {worker_id}\\n")
"""


def run(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Pytest in a folder of its own with the hook of tests/conftest.py."""
    (folder / "conftest.py").write_text(HOOK)
    (folder / "test_one.py").write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers =\n    neo4j: a server\n")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_each_group_stays_in_one_process(tmp_path: Path) -> None:
    done = run(tmp_path, TESTS, "-n", "2", "--dist", "loadgroup")
    assert done.returncode == 0, done.stdout + done.stderr
    seen = [line.split() for line in (tmp_path / "seen.txt").read_text().splitlines()]
    assert len(seen) == 17
    workers = {name: {worker for group, worker in seen if group == name} for name in ("one", "two")}
    assert all(len(found) == 1 for found in workers.values()), workers
    assert len(set.union(*workers.values())) == 2  # and the other group in the other process


def test_a_test_of_a_server_without_a_group_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "import pytest\n\n\n@pytest.mark.neo4j\ndef test_it():\n    pass\n")
    assert done.returncode != 0
    assert "test_one.py::test_it uses a server: mark it with xdist_group, neo4j-lts or neo4j-current" in done.stderr
