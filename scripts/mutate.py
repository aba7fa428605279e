#!/usr/bin/env python3
"""How many faults would the tests of a room find? Plants one small fault at a time and runs the tests that cover its line.

Run:  python scripts/mutate.py analyses --sample 100           a room of src/trails, 100 of its mutants, drawn with seed 0
      python scripts/mutate.py analyses/drift.py --sample 30    one file
      python scripts/mutate.py segment --list                   only count the mutants of every file
      python scripts/mutate.py evaluate --marks "not model and not neo4j and not slow"   with the tests that train a toy model

A mutant changes one place of the code: a comparison, an operator, a constant, a condition, min for max, a value that is not
returned. The tests of the room are run once to learn which lines each of them reaches (tests of a model, a server or a GPU
are left out), and once more as every mutant is run, without a fault: all of them must pass. Then every mutant of the sample
runs in a child process of its own, against the tests that reach its line, the quickest first. It is killed when one of them
fails or takes too long; a line that no test reaches counts as survived.

Prints the share killed with its 95 % Wilson interval (over all mutants of the room, of which the sample is drawn at random),
how many of them only by their time, and every survivor with its place. A survivor may be equivalent to the code as it is: a
person has to say so. On a shared machine ``--load 4`` waits before a mutant while the load is above 4, and ``--minutes 20``
begins no further mutant after that time: those that were run are a random sample as well, since the order is drawn. With
``--state FILE`` the same line again goes on where it stopped.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import importlib
import importlib.abc
import importlib.util
import json
import math
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src"
TESTS = {"evaluate": "tests/train"}
"""Where the tests of a room are, if not in the folder of its name."""
QUIET = ("-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:xdist", "--hypothesis-seed=0", "-x")
LEFT_OUT = "not model and not neo4j and not browser and not train and not gpu"

_COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
_BINARY = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.Pow: ast.Mult,
}  # fmt: skip
_CALLS = {
    "min": "max", "max": "min", "any": "all", "all": "any", "minimum": "maximum", "maximum": "minimum",
    "argmax": "argmin", "argmin": "argmax", "nanmean": "nansum", "nanmax": "nanmin", "sum": "max", "mean": "sum",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: the file and line, the code before and after, and which change of which node of the file's tree it is."""

    path: Path
    line: int
    before: str
    after: str
    node: int
    change: int

    @property
    def module(self) -> str:
        """Dotted name of the file."""
        parts = self.path.relative_to(SOURCE).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def key(self) -> str:
        """Names it among all mutants of the room."""
        return f"{self.path.relative_to(ROOT)} {self.node} {self.change}"

    def tree(self) -> ast.Module:
        """The module's tree with the fault in it."""
        tree = ast.parse(self.path.read_text(encoding="utf-8"))
        node = _places(tree)[self.node]
        list(_changes(node))[self.change](node)
        return ast.fix_missing_locations(tree)

    def __str__(self) -> str:
        """``FILE:LINE  before → after``."""
        return f"{self.path.relative_to(ROOT)}:{self.line}  {self.before} → {self.after}"


def _places(tree: ast.Module) -> list[ast.AST]:
    return [node for node in ast.walk(tree) if hasattr(node, "lineno")]


def mutants_of(path: Path) -> list[Mutant]:
    """Every mutant of a file, in the order of its lines."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {id(inner) for node in ast.walk(tree) for inner in _not_run(node)}
    found = []
    for number, node in enumerate(_places(tree)):
        if id(node) in skipped:
            continue
        for index, _ in enumerate(_changes(node)):
            twin: Any = copy.deepcopy(node)
            before = ast.unparse(twin)
            list(_changes(twin))[index](twin)
            found.append(Mutant(path, twin.lineno, _short(before), _short(ast.unparse(twin)), number, index))
    return sorted(found, key=lambda mutant: (mutant.line, mutant.node, mutant.change))


def _not_run(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes below one that decide nothing: docstrings, annotations, messages of errors, __slots__ and __all__."""
    parts: list[ast.AST | None] = []
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        parts = [node]
    elif isinstance(node, ast.AnnAssign | ast.arg):
        parts = [node.annotation]
    elif isinstance(node, ast.FunctionDef):
        parts = [node.returns, *node.decorator_list]
    elif isinstance(node, ast.ClassDef):
        parts = list(node.decorator_list)
    elif isinstance(node, ast.Raise):
        parts = [node.exc]
    elif isinstance(node, ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
        parts = [node]
    for part in parts:
        if part is not None:
            yield from ast.walk(part)


def _changes(node: ast.AST) -> Iterator[Callable[[Any], None]]:
    """Functions that put one fault each into a node."""
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            if type(operator) in _COMPARE:
                yield lambda n, i=index: n.ops.__setitem__(i, _COMPARE[type(n.ops[i])]())  # type: ignore[misc]
    elif isinstance(node, ast.BinOp | ast.AugAssign) and type(node.op) in _BINARY:
        yield lambda n: setattr(n, "op", _BINARY[type(n.op)]())
    elif isinstance(node, ast.BoolOp):
        yield lambda n: setattr(n, "op", ast.Or() if isinstance(n.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not | ast.Invert):
        yield _without_operator
    elif isinstance(node, ast.If | ast.While | ast.IfExp):
        yield lambda n: setattr(n, "test", ast.UnaryOp(ast.Not(), n.test))
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, bool):
            yield lambda n: setattr(n, "value", not n.value)
        elif isinstance(node.value, int | float):
            yield lambda n: setattr(n, "value", n.value + 1)
    elif isinstance(node, ast.Continue):
        yield lambda n: setattr(n, "__class__", ast.Break)
    elif isinstance(node, ast.Break):
        yield lambda n: setattr(n, "__class__", ast.Continue)
    elif isinstance(node, ast.Call):
        where = "attr" if isinstance(node.func, ast.Attribute) else "id"
        if getattr(node.func, where, "") in _CALLS:
            yield lambda n, w=where: setattr(n.func, w, _CALLS[getattr(n.func, w)])  # type: ignore[misc]


def _without_operator(node: ast.UnaryOp) -> None:
    # a node cannot take the place of its parent in the tree: a unary plus, or a double negation, does nothing instead
    if isinstance(node.op, ast.USub):
        node.op = ast.UAdd()
    else:
        node.operand = ast.UnaryOp(type(node.op)(), node.operand)


def _short(code: str, width: int = 90) -> str:
    line = " ".join(code.split())
    return line if len(line) <= width else line[: width - 1] + "…"


class _Reached:
    """A pytest plugin: which lines of the room each test reaches, and how long it takes. What runs before the first test, such
    as constants of a module, belongs to every test."""

    def __init__(self, files: set[str]) -> None:
        self.files = files
        self.lines: dict[tuple[str, int], set[str]] = {}
        self.seconds: dict[str, float] = {}
        self.outcome: dict[str, bool] = {}
        self.test = ""

    def _local(self, frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            self.lines.setdefault((frame.f_code.co_filename, frame.f_lineno), set()).add(self.test)
        return self._local

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        """For ``sys.settrace``."""
        if frame.f_code.co_filename not in self.files:
            return None
        self.lines.setdefault((frame.f_code.co_filename, frame.f_lineno), set()).add(self.test)
        return self._local(frame, event, argument)

    def pytest_runtest_protocol(self, item: Any) -> None:
        """A test begins; fixtures of a module count for the test that asked first."""
        self.test = item.nodeid
        self._began = time.perf_counter()

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A phase of a test has ended."""
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        self.outcome[report.nodeid] = self.outcome.get(report.nodeid, True) and report.outcome != "failed"


class _Planted(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives one module with a fault in it; every other module comes as it is."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant = mutant

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """The spec of the mutated module, None for another."""
        if name != self.mutant.module:
            return None
        package = [str(self.mutant.path.parent)] if self.mutant.path.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(
            name, self.mutant.path, loader=self, submodule_search_locations=package
        )

    def exec_module(self, module: Any) -> None:
        """Run the mutated tree in the module."""
        code: CodeType = compile(self.mutant.tree(), str(self.mutant.path), "exec")
        exec(code, module.__dict__)


def _in_child(work: Callable[[], int], seconds: float) -> int | None:
    """Exit code of a function run in a forked child; None when it took longer than ``seconds`` and was killed."""
    child = os.fork()
    if not child:
        try:
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            code = work()
        except BaseException:
            code = 99
        os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return None


def _learn(files: Sequence[Path], tests: Sequence[str], marks: str, kept: Path) -> None:
    """Run the tests once, in this process, and write which of them reach which line, and how long each takes."""
    import pytest

    reached = _Reached({str(file) for file in files})
    sys.settrace(reached.trace)
    threading.settrace(reached.trace)
    try:
        pytest.main([*tests, *(flag for flag in QUIET if flag != "-x"), "-m", marks], plugins=[reached])
    finally:
        sys.settrace(None)
    failed = sorted(name for name, passed in reached.outcome.items() if not passed)
    lines = [[name, line, sorted(found)] for (name, line), found in reached.lines.items()]
    kept.write_text(json.dumps({"lines": lines, "seconds": reached.seconds, "failed": failed}), encoding="utf-8")


def wilson(killed: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927); (0, 1) of nothing."""
    if not total:
        return 0.0, 1.0
    share = killed / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return (middle - half) / (1 + z * z / total), (middle + half) / (1 + z * z / total)


def _digest(folder: Path) -> str:
    """SHA-256 over the Python files below a folder."""
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()


def _state(path: Path | None, of: list[Any]) -> dict[str, Any]:
    """What an earlier run of the same mutants against the same tests left; of another one nothing is taken."""
    if path is not None and path.is_file():
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if state["of"] == of:
            return state
        print(f"{path} is of other code, tests or options: the sample starts again", file=sys.stderr)
    return {"of": of, "ran": {}}


def _keep(path: Path | None, state: dict[str, Any]) -> None:
    if path is not None:
        whole = path.with_name(path.name + ".part")
        whole.write_text(json.dumps(state), encoding="utf-8")
        whole.replace(path)


def _prepare() -> None:
    """Third-party modules that every child needs, imported once; nothing of trails."""
    for name in (
        "numpy",
        "pyarrow",
        "pyarrow.compute",
        "pyarrow.parquet",
        "scipy.stats",
        "torch",
        "transformers.modeling_utils",
        "hypothesis",
        "pytest",
        "pydantic",
    ):
        importlib.import_module(name)
    for name in ("click.testing", "rich.table", "rich.console"):
        importlib.import_module(name)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 when the share killed is at least ``--least``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("room", help="a room of src/trails, or a file in one")
    parser.add_argument("--sample", type=int, default=100, help="mutants to run (default 100)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tests", nargs="+", help="folders or files of tests (default: tests/ROOM)")
    parser.add_argument("--marks", default=LEFT_OUT, help=f"which tests, as pytest -m takes it (default: {LEFT_OUT})")
    parser.add_argument("--least", type=float, default=0.0, help="exit 1 when a smaller share is killed")
    parser.add_argument(
        "--minutes", type=float, default=math.inf, help="begin no mutant after this time (default: none)"
    )
    parser.add_argument("--state", type=Path, help="file of what was learnt and run: the same line again goes on")
    parser.add_argument("--load", type=float, default=math.inf, help="wait while the machine's load is above this")
    parser.add_argument("--list", action="store_true", help="count the mutants of every file, and run none")
    given = parser.parse_args(arguments)
    end = time.monotonic() + 60 * given.minutes
    place = SOURCE / "trails" / given.room
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    if not files:
        parser.error(f"there is no room or file {place}")
    every = [mutant for file in files for mutant in mutants_of(file)]
    if given.list:
        for file in files:
            print(f"{sum(mutant.path == file for mutant in every):6}  {file.relative_to(ROOT)}")
        print(f"{len(every):6}  in all")
        return 0
    room = Path(given.room).parts[0]
    tests = given.tests or [TESTS.get(room, f"tests/{room}")]
    os.chdir(ROOT)
    sys.path.insert(0, str(SOURCE))
    sys.path.insert(0, str(ROOT))
    _prepare()
    state = _state(given.state, [given.room, given.seed, given.marks, *tests, _digest(SOURCE), _digest(ROOT / "tests")])
    if "learnt" not in state:
        kept = Path(os.environ.get("TMPDIR", "/tmp")) / f"trails-mutate-{os.getpid()}.json"
        try:
            _in_child(lambda: _learn(files, tests, given.marks, kept) or 0, 3600)  # type: ignore[func-returns-value]
            if not kept.exists():
                print(f"the tests in {' '.join(tests)} could not be run: pytest {' '.join(tests)}", file=sys.stderr)
                return 2
            state["learnt"] = json.loads(kept.read_text(encoding="utf-8"))
        finally:
            kept.unlink(missing_ok=True)
    learnt, ran = state["learnt"], state["ran"]
    _keep(given.state, state)
    if learnt["failed"]:
        print("these tests fail without a fault; a mutation score would say nothing:", *learnt["failed"], sep="\n  ")
        return 2
    reached = {(name, line): set(found) for name, line, found in learnt["lines"]}
    seconds: dict[str, float] = learnt["seconds"]
    if "control" not in state:
        # the same way without a fault: where a test fails in it, a mutant that is "killed" says nothing
        quickest_first = sorted(seconds, key=lambda name: seconds[name])
        state["control"] = _in_child(lambda: _against(None, quickest_first), 60 + 2 * sum(seconds.values()))
        _keep(given.state, state)
    if state["control"] != 0:
        print("the tests fail without a fault when each mutant's way is gone without one", file=sys.stderr)
        return 2
    drawn = random.Random(given.seed).sample(every, min(given.sample, len(every)))
    survivors: list[tuple[Mutant, str]] = []
    done = by_time = 0
    for number, mutant in enumerate(drawn, 1):
        while mutant.key not in ran and os.getloadavg()[0] > given.load and time.monotonic() < end:
            time.sleep(5)
        if mutant.key not in ran and time.monotonic() >= end:
            break
        done += 1
        found = reached.get((str(mutant.path), mutant.line), set())
        chosen = sorted((seconds if "" in found else found) or [], key=lambda name: seconds.get(name, 0.0))
        if not chosen:
            survivors.append((mutant, "no test reaches it"))
            print(f"{number}/{len(drawn)}  not reached  {mutant}", file=sys.stderr, flush=True)
            continue
        # they were timed under a tracer, so without one they are quicker
        limit = 30 + 2 * sum(seconds.get(name, 0.0) for name in chosen)
        if mutant.key not in ran:
            ran[mutant.key] = _in_child(lambda m=mutant, c=chosen: _against(m, c), limit)  # type: ignore[misc]
            _keep(given.state, state)
        code = ran[mutant.key]
        if code == 0:
            survivors.append((mutant, f"{len(chosen)} tests pass"))
        by_time += code is None
        said = "survived" if code == 0 else f"killed in {limit:.0f} s" if code is None else "killed"
        print(f"{number}/{len(drawn)}  {said}  {mutant}", file=sys.stderr, flush=True)
    killed = done - len(survivors)
    low, high = wilson(killed, done)
    for mutant, why in sorted(survivors, key=lambda pair: (str(pair[0].path), pair[0].line)):
        print(f"survived ({why}): {mutant}")
    share = killed / done if done else 0.0
    print(
        f"{given.room}: {killed} of {done} mutants killed ({by_time} by time), {share:.1%} ({low:.1%} to {high:.1%}), "
        f"drawn from {len(every)} with seed {given.seed}"
    )
    return 0 if share >= given.least else 1


def _against(mutant: Mutant | None, tests: Sequence[str]) -> int:
    """Run tests with a fault planted, or without one; 0 when all of them pass."""
    import pytest

    if mutant is not None:
        sys.meta_path.insert(0, _Planted(mutant))
    return int(pytest.main([*tests, *QUIET]))


if __name__ == "__main__":
    sys.exit(main())
