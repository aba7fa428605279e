"""A child process that answers questions: what it returns, and what is said when it cannot."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from trails.platform.child import Child, FailedError, GoneError, LargeError, LateError

ANSWER = f"{__name__}:answer"


class Unpickled:
    """Would run a command in whoever reads it."""

    def __reduce__(self) -> Any:
        return os.system, ("exit 3",)


def answer(request: Any) -> Any:
    """The function that the children of this module run."""
    match request:
        case ["echo", value]:
            return value
        case ["pid"]:
            return os.getpid()
        case ["raise"]:
            raise KeyError("nothing of that name")
        case ["print"]:
            print("not a reply", flush=True)
            os.write(1, b"nor this")
            return "printed"
        case ["sleep"]:
            time.sleep(60)
        case ["die"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["object"]:
            return Unpickled()
        case ["thing"]:
            return sys.stdin is None, str(Path.cwd()) in sys.path or "" in sys.path
    return None


@pytest.fixture
def child() -> Any:
    """A child of this test."""
    made = Child(ANSWER)
    yield made
    made.close()


@pytest.mark.slow
def test_answers_come_back_as_they_are_and_from_one_process(child: Child) -> None:
    values = [
        None,
        True,
        -(2**80),
        0.1,
        float("inf"),
        "é\u202e\ud800",
        b"\0",
        [1, [2]],
        ("a",),
        {"k": {"l": 1}},
        "x" * 3_000_000,
    ]
    for value in values:
        assert child.ask(["echo", value]) == value
    assert child.ask(["pid"]) == child.ask(["pid"]) != os.getpid()


@pytest.mark.slow
def test_what_the_work_prints_is_no_reply(child: Child) -> None:
    assert child.ask(["print"]) == "printed"
    assert child.ask(["echo", 1]) == 1


@pytest.mark.slow
def test_an_exception_is_named_and_the_child_goes_on(child: Child) -> None:
    pid = child.ask(["pid"])
    with pytest.raises(FailedError, match="nothing of that name") as error:
        child.ask(["raise"])
    assert error.value.kind == "KeyError"
    assert child.ask(["pid"]) == pid


@pytest.mark.slow
def test_a_reply_that_is_too_large_is_refused_where_it_is_made(child: Child) -> None:
    pid = child.ask(["pid"])
    with pytest.raises(LargeError):
        child.ask(["echo", "x" * 200_000], max_bytes=100_000)
    assert child.ask(["pid"]) == pid


@pytest.mark.slow
def test_late_and_dead_children_are_replaced(child: Child) -> None:
    first = child.ask(["pid"])
    with pytest.raises(LateError):
        child.ask(["sleep"], timeout_s=0.3)
    second = child.ask(["pid"])
    with pytest.raises(GoneError) as error:
        child.ask(["die"])
    assert error.value.status == -signal.SIGKILL
    assert len({first, second, child.ask(["pid"])}) == 3
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


@pytest.mark.slow
def test_a_reply_that_would_run_something_is_refused(child: Child) -> None:
    with pytest.raises(pickle.UnpicklingError, match="is no plain value"):
        child.ask(["object"])


def test_the_current_folder_is_no_place_to_import_from(
    child: Child, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert child.ask(["thing"]) == (False, False)


@pytest.mark.slow
def test_no_child_outlives_its_parent() -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1].split(':')\n"
        "from trails.platform.child import Child\n"
        f"child = Child({ANSWER!r}); print(child.ask(['pid']), flush=True)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    path = ":".join(entry for entry in sys.path if entry)
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    pid = int(done.stdout)
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {pid} still runs")


@pytest.mark.slow
def test_a_child_that_holds_a_state_is_not_started_again() -> None:
    made = Child(ANSWER, again=False)
    try:
        assert made.ask(["pid"])
        with pytest.raises(GoneError) as first:
            made.ask(["die"])
        assert first.value.status == -signal.SIGKILL
        for _ in range(2):
            with pytest.raises(GoneError) as later:
                made.ask(["pid"])
            assert later.value.status == -signal.SIGKILL
    finally:
        made.close()


@pytest.mark.slow
def test_a_child_killed_between_two_questions_is_not_started_again() -> None:
    made = Child(ANSWER, again=False)
    try:
        os.kill(made.ask(["pid"]), signal.SIGKILL)
        assert made._process is not None
        made._process.wait()
        with pytest.raises(GoneError):
            made.ask(["pid"])
    finally:
        made.close()
