"""What the kernel is asked for about memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trails.platform.memory import small_pages


def huge_pages() -> str:
    """Whether the kernel may give this process huge pages, as it says itself."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        pytest.skip("no Linux")
    return next((line.split()[1] for line in lines if line.startswith("THP_enabled:")), "") or pytest.skip("not told")


def test_huge_pages_are_off_inside_and_as_before_after_it() -> None:
    before = huge_pages()
    with small_pages():
        assert huge_pages() == "0"
        with small_pages():
            assert huge_pages() == "0"
        assert huge_pages() == "0"
    assert huge_pages() == before
    with pytest.raises(ValueError, match="inside"), small_pages():
        raise ValueError("inside")
    assert huge_pages() == before


def test_a_large_block_goes_back_although_a_larger_one_was_freed_before() -> None:
    code = """
import sys
import numpy as np
from trails.platform.memory import return_large_blocks

def held() -> int:
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon:"))

if sys.argv[1] == "asked":
    return_large_blocks()
np.ones(2**21).sum()  # 16 MiB: glibc raises its limit to that when it is freed
before = held()
blocks, behind = [], []
for _ in range(16):
    blocks.append(np.ones(2**18))  # 2 MiB each, and a small one behind it that stays
    behind.append(np.ones(2**10))
del blocks
print(held() - before)
"""
    huge_pages()  # skips where there is no Linux
    kept = {
        how: int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True).stdout)
        for how in ("asked", "left alone")
    }
    assert kept["asked"] < 2**12 < kept["left alone"]  # KiB; in all 32 MiB were freed
