"""What the kernel is asked for about memory."""

from __future__ import annotations

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
