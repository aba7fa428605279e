"""How much memory is free, and in which pages the kernel gives it."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

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
    """Bytes that this process could still take without swapping: what Linux calls available, elsewhere all there is, or less
    where the process or its control group (a container, a job of a cluster) may have less; None where nothing tells.
    """
    told = [_free_of_machine(), _free_of_process(), *_free_of_groups(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))]
    return min((free for free in told if free is not None), default=None)


def _free_of_machine() -> int | None:
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


def _free_of_process() -> int | None:
    """What ``ulimit -v`` leaves; None where there is no such limit."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        return max(0, limit - pages * resource.getpagesize())
    except (ImportError, OSError, ValueError, IndexError):
        return None


_GROUP_FILES = {
    "": ("memory.max", "memory.current", ("inactive_file", "active_file")),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
}
"""Limit, use and the part of it that the kernel takes back (pages of files), of control groups of version 2 and 1."""


def _free_of_groups(own: Path, mounted: Path) -> Iterator[int]:
    """What every limited control group of the process leaves. ``own`` names the groups, below ``mounted`` lie their files. In a
    container the names may be those of the host, and the group's files lie at the top.
    """
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        kinds, _, name = line.partition(":")[2].partition(":")
        kind = "memory" if "memory" in kinds.split(",") else kinds
        if kind not in _GROUP_FILES:
            continue
        limit, used, cached = _GROUP_FILES[kind]
        group = PurePosixPath(name.lstrip("/"))
        for folder in (mounted / kind / part for part in (group, *group.parents)):
            try:
                most = int((folder / limit).read_text(encoding="ascii"))
                held = int((folder / used).read_text(encoding="ascii"))
                stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
                yield max(0, most - held + sum(int(stat.get(key, 0)) for key in cached))
            except (OSError, ValueError):  # no such folder, or no limit: "max"
                continue


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
