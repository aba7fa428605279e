"""The lock of a writer: one process at a time, and who comes second is told the number of the first.

The system releases the lock when its holder dies, so a lock file alone means nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import filelock


class HeldError(Exception):
    """Somebody holds the lock; the message is the number of that process, or ``unknown``."""


class WriterLock:
    """Take the lock on a file, which holds the number of the process from then on. Raises HeldError where another holds it,
    OSError where the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._lock = filelock.FileLock(path, timeout=0, mode=0o600, thread_local=False)
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise HeldError(_holder(path)) from None
        path.write_text(str(os.getpid()), encoding="ascii")

    def release(self) -> None:
        """Let go. Nothing happens where that was done."""
        self._lock.release()


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")[:32].strip() or "unknown"
    except OSError:
        return "unknown"
