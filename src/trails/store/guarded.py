"""Statements of strangers on the embedded engine: in a child process, with limits of time, memory and result bytes.

The engine runs in native code that nothing can interrupt from inside: a collected product goes on after its time is up, and a
string that doubles ends the whole process when the memory does. The child is killed instead, and the next statement gets a
new one. It holds the graph between statements, so only the first of a session pays for loading it.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trails.errors import QueryError, StoreError, WritingQueryError
from trails.platform.child import Child, ChildError, FailedError, GoneError, LargeError, LateError

READ_MEMORY = 2 * 2**30
"""Bytes beyond the graph itself that a statement may use."""
READ_BYTES = 256 * 2**20
"""Size of a result at which a statement is refused; that of :mod:`trails.store.neo4j`."""
_GRACE_S = 1.0
"""Time above its own limit in which the engine may still stop by itself."""

Stamp = tuple[int, int, int]
Rows = tuple[tuple[str, ...], list[tuple[Any, ...]]]


class Guard:
    """A child process that holds one graph and reads it."""

    def __init__(self, memory: int, max_bytes: int) -> None:
        self._memory = memory
        self._max_bytes = max_bytes
        # more allocation arenas and threads than work would only count against the memory that is allowed
        self._child = Child("trails.store.guarded:answer", {"MALLOC_ARENA_MAX": "2", "RAYON_NUM_THREADS": "2"})
        self._held: object = None

    def holds(self, holding: object) -> bool:
        """Whether the child holds this graph."""
        return self._held == holding and self._child.alive

    def open_file(
        self,
        holding: object,
        path: str,
        stamp: Stamp | None,
        format_: int,
        declared: Mapping[str, Sequence[str]],
    ) -> bool:
        """Let the child load a file; False when it is not the file of this stamp any more, cannot be read, or is of another
        format. ``declared`` are the properties that every label may have."""
        self._held = None
        try:
            loaded = self._child.ask(("file", path, stamp, format_, declared, self._memory))
        except ChildError:
            return False
        self._held = holding if loaded else None
        return bool(loaded)

    def open_bytes(self, holding: object, data: bytes) -> None:
        """Let the child load a graph from memory. Raises StoreError."""
        self._held = None
        try:
            self._child.ask(("bytes", data, self._memory))
        except ChildError as error:
            raise StoreError(
                f"the process that reads the graph could not be started ({error}). Free some memory and try again"
            ) from None
        self._held = holding

    def read(self, query: str, parameters: Mapping[str, Any], *, timeout_s: float, max_rows: int) -> Rows:
        """Columns and at most ``max_rows`` + 1 rows. Raises QueryError, also for what exceeds a limit."""
        try:
            columns, rows = self._child.ask(
                ("read", query, dict(parameters), timeout_s, max_rows),
                timeout_s=timeout_s + _GRACE_S,
                max_bytes=self._max_bytes,
            )
        except FailedError as error:
            if error.kind == "MemoryError":
                raise self._too_much_memory() from None
            known = {of.__name__: of for of in (QueryError, WritingQueryError)}
            if error.kind in known:
                raise known[error.kind](str(error)) from None
            raise QueryError(f"the query failed: {error}") from None
        except LargeError:
            raise QueryError(
                f"the result is larger than {self._max_bytes / 2**20:,.0f} MiB; return fewer columns or add LIMIT"
            ) from None
        except LateError:
            from trails.store.engine import late

            raise late(timeout_s) from None
        except GoneError as error:
            raise self._too_much_memory(error.status) from None
        except (TypeError, AttributeError, ValueError) as error:
            raise QueryError(f"a parameter is not a plain value: {error}") from None
        return tuple(columns), rows

    def _too_much_memory(self, status: int = 0) -> QueryError:
        ended = f" (its process ended with status {status})" if status else ""
        return QueryError(
            f"the query needs more memory than the {self._memory / 2**30:.1f} GiB that it may use and was stopped{ended}. "
            "Return less, collect less, or add LIMIT"
        )

    def close(self) -> None:
        """End the child."""
        self._child.close()


# --------------------------------------------------------------------------------------------------------------------
# In the child
# --------------------------------------------------------------------------------------------------------------------

_graph: Any = None


def answer(request: tuple[Any, ...]) -> Any:
    """Load a graph or read it."""
    global _graph
    from trails.store import engine

    match request:
        case ("file", path, stamp, format_, declared, memory):
            _limit(None)
            before = _stamp(path)
            if before != tuple(stamp):
                return False
            _graph = engine.described(engine.kglite.load(path), declared)
            _limit(memory)
            return _stamp(path) == before and _graph.schema_version == format_
        case ("bytes", data, memory):
            _limit(None)
            _graph = engine.kglite.from_bytes(data)
            _limit(memory)
            return True
        case ("read", query, parameters, timeout_s, max_rows):
            return engine.read(_graph, query, parameters, timeout_s=timeout_s, max_rows=max_rows)
    raise ValueError(request[0])


def _stamp(path: str) -> Stamp:
    found = Path(path).stat()
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _limit(memory: int | None) -> None:
    """Allow ``memory`` bytes beyond what the process holds now; and no file to be written. Linux only (elsewhere the limit of
    time is all there is).
    """
    if not sys.platform.startswith("linux"):
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    _, size = resource.getrlimit(resource.RLIMIT_FSIZE)
    # while it loads a large graph the engine may put columns into files of its own
    resource.setrlimit(resource.RLIMIT_FSIZE, (size if memory is None else 0, size))
    limit = hard
    if memory is not None:
        status = Path("/proc/self/status").read_text("ascii", "replace")
        held = int(status.partition("VmData:")[2].split()[0]) * 1024
        limit = held + memory if hard == resource.RLIM_INFINITY else min(hard, held + memory)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
