"""How much memory is free, and in which pages the kernel gives it."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_THP_DISABLE, _PR_GET_THP_DISABLE = 41, 42
"""Of <linux/prctl.h>."""
_M_MMAP_THRESHOLD, _LARGE = -3, 2**20
"""Of <malloc.h>."""

LEAST_MEMORY = 500_000_000
"""Bytes of address space without which the libraries for tables and arrays do not begin."""

USUAL_MEMORY, MODEL_MEMORY = 1, 6
"""Gigabytes of address space that a command takes with a small home, and with the packaged model (PyTorch for CUDA has half of
it); a larger model takes its weights more."""


def memory_limit() -> int | None:
    """Bytes of address space that this process may have (``ulimit -v``); None without a limit."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if limit == resource.RLIM_INFINITY else limit


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


def return_large_blocks() -> None:
    """From now on every block of 1 MiB or more goes back to the system as soon as it is freed.

    Left alone, glibc raises that limit to the largest block that it has seen freed (32 MiB at most). Arrays with a number for
    every row then lie between small objects, and their memory stays with the process. Without effect elsewhere.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
