"""How much memory is free."""

from __future__ import annotations

import os
from pathlib import Path


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
