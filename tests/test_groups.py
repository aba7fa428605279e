"""How tests are collected: those that share a server run in one process; the fast set, and what it passes over."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from tests.conftest import marks_of_tests

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = {"neo4j", "browser", "model", "train", "gpu", "slow"}
"""Marks that the fast set leaves out."""
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


def run(folder: Path, text: str, *options: str, hook: str = HOOK) -> subprocess.CompletedProcess[str]:
    """Pytest in a folder of its own with the hook of tests/conftest.py."""
    (folder / "conftest.py").write_text(hook)
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


@pytest.mark.slow
def test_a_test_of_a_server_without_a_group_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "import pytest\n\n\n@pytest.mark.neo4j\ndef test_it():\n    pass\n")
    assert done.returncode != 0
    assert "test_one.py::test_it uses a server: mark it with xdist_group, neo4j-lts or neo4j-current" in done.stderr


def marked(text: str, tmp_path: Path) -> list[set[str]]:
    path = tmp_path / "test_marked.py"
    path.write_text(text, encoding="utf-8")
    return marks_of_tests(path)


def test_the_marks_of_tests_are_read_without_importing_their_file(tmp_path: Path) -> None:
    test = "def test_it(): pass\n"
    assert marked(f"raise ImportError\npytestmark = pytest.mark.train\n{test}", tmp_path) == [{"train"}]
    both = 'pytestmark = [\n    pytest.mark.neo4j,\n    pytest.mark.xdist_group("neo4j-lts"),\n]\n'
    assert marked(f"{both}@pytest.mark.slow\n{test}", tmp_path) == [{"neo4j", "xdist_group", "slow"}]
    assert marked(f"@pytest.mark.slow\n{test}{test}", tmp_path) == [{"slow"}, set()]
    assert marked(f'NAME = "pytestmark"\n{test}', tmp_path) == [set()]
    one_case = '@pytest.mark.parametrize("x", [1, pytest.param(2, marks=pytest.mark.slow)])\n'
    assert marked(f"{one_case}{test}", tmp_path) == [{"parametrize"}]  # the other case is in
    in_class = f"@pytest.mark.slow\nclass TestIt:\n    {test}"
    assert marked(in_class, tmp_path) == [set()]


@pytest.mark.slow
def test_a_file_that_is_left_out_whole_is_not_imported(tmp_path: Path) -> None:
    hook = "from tests.conftest import pytest_ignore_collect\n"
    left_out = (
        "import pytest\npytestmark = pytest.mark.neo4j\n"
        'raise RuntimeError("imported")\n@pytest.mark.other\ndef test_it(): pass\n'
    )
    (tmp_path / "test_two.py").write_text("def test_it(): pass\n", encoding="utf-8")
    for options, imported in (
        (("-m", "not neo4j"), False),
        (("-m", "not neo4j and  not other"), False),
        (("-m", "not other"), False),
        (("-m", "not model"), True),
        (("-m", "neo4j"), True),
        (("-m", "not neo4j or other"), True),  # another form is left to pytest
        (("-m", "not neo4j", "test_one.py"), True),
    ):
        done = run(tmp_path, left_out, *options, hook=hook)
        assert ("RuntimeError: imported" in done.stdout) is imported, (options, done.stdout)


def in_the_fast_set(path: Path) -> list[bool]:
    """Of every test function of a file, whether the fast set has it."""
    return [not marks & LEFT_OUT for marks in marks_of_tests(path)]


def test_no_two_files_of_tests_have_one_name() -> None:
    """pytest imports a file of tests by its bare name, so that a second one of that name stops the whole collection."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(names) > 150
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.slow
def test_passing_over_files_loses_no_test() -> None:
    expression = " and ".join(f"not {name}" for name in sorted(LEFT_OUT))
    names = []
    for form in (expression, f"({expression})"):  # with parentheses every file is imported, and pytest alone chooses
        command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", form]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        names.append({line for line in done.stdout.splitlines() if "::" in line})
    assert len(names[0]) > 1000
    assert names[0] == names[1]


@pytest.mark.slow
def test_the_fast_set_touches_every_package() -> None:
    for package in sorted(path.parent.name for path in (ROOT / "src" / "trails").glob("*/__init__.py")):
        folder = {"sample": "segment", "evaluate": "train", "pipeline": "cli", "variants": "export"}.get(
            package, package
        )
        fast = [kept for path in sorted((ROOT / "tests" / folder).rglob("test_*.py")) for kept in in_the_fast_set(path)]
        assert sum(fast) >= 10, f"{package}: the fast set has {sum(fast)} of {len(fast)} tests in tests/{folder}"


def test_the_fast_set_is_what_the_script_says() -> None:
    script = (ROOT / "scripts" / "test").read_text(encoding="utf-8")
    (expression,) = re.findall(r'--fast.*?-m "([^"]+)"', script, re.DOTALL)
    assert set(expression.split()) - {"not", "and"} == LEFT_OUT
