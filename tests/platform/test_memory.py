"""What the kernel is asked for about memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from trails.platform.memory import _free_of_groups, free_bytes, small_pages


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


def test_free_memory_is_what_the_process_may_have() -> None:
    huge_pages()  # skips where there is no Linux
    code = "from trails.platform.memory import free_bytes; print(free_bytes())"
    limited = ["sh", "-c", 'ulimit -v 2000000; exec "$0" "$@"', sys.executable, "-c", code]
    left = int(subprocess.run(limited, capture_output=True, text=True, check=True).stdout)
    machine = free_bytes()
    assert machine is not None
    assert 0 < left < 2_000_000 * 1024
    assert left < machine or machine < 2_000_000 * 1024


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/job/one", "", ("memory.max", "memory.current", "inactive_file")),
        ("4:memory:/job/one", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
        ("7:cpu,memory:/job/one", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
    ],
)
def test_the_limits_of_control_groups_count_and_so_do_those_above(
    tmp_path: Path, line: str, folder: str, names: tuple[str, str, str]
) -> None:
    own = tmp_path / "cgroup"
    own.write_text(f"9:name=systemd:/\n{line}\n", encoding="utf-8")
    limit, used, cached = names

    def group(place: str, most: str, held: int, files: int) -> None:
        there = tmp_path / "fs" / folder / place
        there.mkdir(parents=True, exist_ok=True)
        (there / limit).write_text(f"{most}\n", encoding="ascii")
        (there / used).write_text(f"{held}\n", encoding="ascii")
        (there / "memory.stat").write_text(f"anon 1\n{cached} {files}\n", encoding="ascii")

    assert list(_free_of_groups(own, tmp_path / "fs")) == []
    group("", "max", 900, 0)
    assert list(_free_of_groups(own, tmp_path / "fs")) == []
    group("job", "1000", 600, 50)
    assert list(_free_of_groups(own, tmp_path / "fs")) == [450]
    group("job/one", "700", 800, 20)
    assert list(_free_of_groups(own, tmp_path / "fs")) == [0, 450]
    assert list(_free_of_groups(tmp_path / "none", tmp_path / "fs")) == []
