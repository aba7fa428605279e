"""Work in a child process that is asked again and again: native libraries that do not fit beside those of this process, and
work whose time and memory must have a limit.

The child is a fresh interpreter (no fork: threads and native libraries do not survive one; no ``multiprocessing``: it would
import the caller's script again). Requests and replies are plain values, pickled; a reply that holds anything else is refused,
so a child that was taken over cannot reach its parent.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import io
import json
import os
import pickle
import selectors
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from trails.platform.text import counted

_HEAD = 8
"""Bytes of the length before each message."""
_GRACE_S = 5.0
"""How much later than its parent's limit a child ends by itself, should the parent be gone by then."""
_START = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given['path']; "
    "from trails.platform.child import serve; serve(given['answer'])"
)


class ChildError(Exception):
    """The child gave no answer. The next question starts a new one."""


class LateError(ChildError):
    """The time was up; the child was killed."""


class GoneError(ChildError):
    """The child ended by itself: out of memory, or killed. ``status`` is its exit status, negative for a signal."""

    def __init__(self, status: int) -> None:
        super().__init__(f"ended with status {status}")
        self.status = status


class LargeError(ChildError):
    """The reply is larger than was allowed. The child goes on."""


class FailedError(ChildError):
    """The work raised; ``kind`` names the exception's class, the message is its own. The child goes on."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


_ALL: weakref.WeakSet[Child] = weakref.WeakSet()


def kill_all() -> None:
    """Kill the children of this process: for one that ends without its usual clean-up."""
    for child in list(_ALL):
        child.kill()


class Child:
    """A process that answers questions with the function ``answer`` (``package.module:function``, one argument).

    It starts with the first question and ends with this process, or at :meth:`close`. Safe to use from several threads:
    they wait for one another. ``environment`` is added to that of this process. A child that ended by itself is started again
    by the next question; not where ``again`` is False, for one that holds what earlier questions made: every later question
    raises GoneError.
    """

    def __init__(self, answer: str, environment: Mapping[str, str] | None = None, *, again: bool = True) -> None:
        self._answer = answer
        self._environment = dict(environment or {})
        self._again = again
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._status: int | None = None
        self._lock = threading.Lock()
        _ALL.add(self)

    def ask(self, request: Any, *, timeout_s: float | None = None, max_bytes: int | None = None) -> Any:
        """The answer. Raises LateError, LargeError, FailedError or GoneError."""
        with self._lock:
            process = self._running()
            try:
                _write(process.stdin, (request, timeout_s, max_bytes))
                found = _read_until(process, None if timeout_s is None else time.monotonic() + timeout_s, max_bytes)
            except BrokenPipeError:
                raise GoneError(self._ended()) from None
            except BaseException:
                # nobody reads what it still has to say
                self._kill()
                raise
            if found is None:
                raise GoneError(self._ended())
        kind, value = found
        if kind == "answer":
            return value
        if kind == "large":
            raise LargeError(f"more than {max_bytes} bytes")
        raise FailedError(*value)

    def close(self) -> None:
        """End the child. Another question would start a new one."""
        self._kill()

    def kill(self) -> None:
        """Kill the process from another thread than the one that waits for its answer: that one gets a GoneError."""
        process = self._process
        if process is not None and self._owner == os.getpid():
            process.kill()

    @property
    def alive(self) -> bool:
        """Whether the process that answered last is still there."""
        return self._process is not None and self._owner == os.getpid() and self._process.poll() is None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self.alive:
            return self._process
        if not self._again and (self._process is not None or self._status is not None):
            raise GoneError(self._ended())
        if not sys.executable:
            raise FailedError("OSError", "this Python does not know its own program (sys.executable is empty)")
        # the child imports what this process would, wherever that comes from; never the current folder by itself
        root = str(Path(__file__).resolve().parents[2])
        path = [entry for entry in sys.path if entry]
        given = json.dumps({"path": path if root in path else [root, *path], "answer": self._answer})
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, given],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **self._environment},
        )
        self._owner = os.getpid()
        atexit.register(self._kill)
        return self._process

    def _ended(self) -> int:
        process, self._process = self._process, None
        if process is not None:
            self._status = process.wait()
            _shut(process)
        return self._status or 0

    def _kill(self) -> None:
        atexit.unregister(self._kill)
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.wait()
            _shut(process)


def _shut(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


class _Plain(pickle.Unpickler):
    """Reads numbers, texts, bytes, lists, tuples and mappings, and nothing that would import or call."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name} is no plain value")


def _write(stream: Any, message: Any) -> None:
    data = pickle.dumps(message, protocol=5)
    stream.write(len(data).to_bytes(_HEAD, "little"))
    stream.write(data)
    stream.flush()


def _read_until(process: subprocess.Popen[bytes], deadline: float | None, max_bytes: int | None) -> Any:
    """One message of the child, None when it ended instead."""
    assert process.stdout is not None
    place = process.stdout.fileno()
    data = bytearray()
    wanted = _HEAD
    with selectors.DefaultSelector() as selector:
        selector.register(place, selectors.EVENT_READ)
        while len(data) < wanted:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and (left <= 0 or not selector.select(left)):
                raise LateError("no answer in time")
            part = os.read(place, min(wanted - len(data), 2**20))
            if not part:
                return None
            data += part
            if wanted == _HEAD and len(data) == _HEAD:
                length = int.from_bytes(data, "little")
                if max_bytes is not None and length > max_bytes + 2**16:
                    raise LargeError(f"more than {counted(max_bytes, 'byte')}")
                wanted += length
    return _Plain(io.BytesIO(memoryview(data)[_HEAD:])).load()


# --------------------------------------------------------------------------------------------------------------------
# In the child
# --------------------------------------------------------------------------------------------------------------------


def serve(answer: str) -> None:
    """Answer questions from standard input until it ends."""
    questions = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb")
    # what a library prints must not end up among the replies
    os.dup2(2, 1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    # Ctrl-C is the parent's: it decides what becomes of this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    function: Callable[[Any], Any] | None = None
    while (question := _read(questions)) is not None:
        request, timeout_s, max_bytes = question
        if timeout_s is not None:
            # its default action ends the process, whatever native code is doing
            signal.setitimer(signal.ITIMER_REAL, timeout_s + _GRACE_S)
        try:
            if function is None:
                module, _, name = answer.partition(":")
                function = getattr(importlib.import_module(module), name)
            data = pickle.dumps(("answer", function(request)), protocol=5)
            if max_bytes is not None and len(data) > max_bytes:
                data = pickle.dumps(("large", None))
        except Exception as error:
            data = pickle.dumps(("failed", (type(error).__name__, str(error)[:10_000])))
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            replies.write(len(data).to_bytes(_HEAD, "little"))
            replies.write(data)
            replies.flush()
        except BrokenPipeError:
            break
    # no clean-up of native libraries: there is nothing to save
    os._exit(0)


def _read(stream: BinaryIO) -> Any:
    head = stream.read(_HEAD)
    if len(head) < _HEAD:
        return None
    return _Plain(io.BytesIO(stream.read(int.from_bytes(head, "little")))).load()
