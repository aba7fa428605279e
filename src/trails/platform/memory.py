"""How much memory is free, and in which pages the kernel gives it."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_THP_DISABLE, _PR_GET_THP_DISABLE = 41, 42
"""Of <linux/prctl.h>."""


def free_bytes() -> int | None:
    """Bytes that a process could still take without swapping: what Linux calls available, elsewhere all there is; None where
    nothing tells.
    """
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


@contextmanager
def small_pages() -> Iterator[None]:
    """While inside, the kernel gives this process new memory in pages of the ordinary size, not in huge ones.

    For work that fills much memory once: the kernel clears a page before it gives it, and where it finds no huge page ready
    that costs more than all the small ones. Memory that the process has already stays as it is. Without effect where the
    kernel has no huge pages, and where something else has switched them off already.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None) if sys.platform == "linux" else None
    if prctl is None or prctl(_PR_GET_THP_DISABLE, *map(ctypes.c_ulong, (0, 0, 0, 0))) != 0:
        yield
        return
    prctl(_PR_SET_THP_DISABLE, *map(ctypes.c_ulong, (1, 0, 0, 0)))
    try:
        yield
    finally:
        prctl(_PR_SET_THP_DISABLE, *map(ctypes.c_ulong, (0, 0, 0, 0)))
