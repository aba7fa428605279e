"""Columns of numbers in files: what is written is what is read, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trails.platform.columns import Growing, read_columns, write_columns

COLUMNS = {
    "flag": np.array([True, False, True]),
    "name": np.array([5, 6, 7], np.int32),
    "number": np.array([2**64 - 1, 0, 1], np.uint64),
    "nats": np.array([0.5, np.nan, -0.0]),
}


def test_columns_come_back_to_the_bit_with_what_was_told(tmp_path: Path) -> None:
    write_columns(tmp_path / "c", COLUMNS, {"names": ["ё", "b"]})
    found, told = read_columns(tmp_path / "c")
    assert told == {"names": ["ё", "b"]}
    assert found.keys() == COLUMNS.keys()
    for name, column in COLUMNS.items():
        assert found[name].dtype == column.dtype
        assert found[name].tobytes() == column.tobytes()
        assert not found[name].flags.writeable
        assert found[name].flags.aligned
    assert [path.name for path in tmp_path.iterdir()] == ["c"]


@pytest.mark.parametrize("n", [0, 1, 1_001])
def test_any_number_of_rows(tmp_path: Path, n: int) -> None:
    columns = {"a": np.arange(n, dtype=np.float64), "b": np.arange(n, dtype=np.int8)}
    write_columns(tmp_path / "c", columns, {})
    found, _ = read_columns(tmp_path / "c")
    assert all(np.array_equal(found[name], column) for name, column in columns.items())


def test_a_changed_or_shorter_file_is_refused(tmp_path: Path) -> None:
    write_columns(tmp_path / "c", COLUMNS, {})
    data = (tmp_path / "c").read_bytes()
    for at in (0, 40, 130, len(data) // 2, len(data) - 1):
        other = bytearray(data)
        other[at] ^= 1
        (tmp_path / "c").write_bytes(other)
        with pytest.raises(ValueError, match=r"does not hold what was written"):
            read_columns(tmp_path / "c")
    for size in (0, 64, 200, len(data) - 1):
        (tmp_path / "c").write_bytes(data[:size])
        with pytest.raises(ValueError, match=r"does not hold what was written"):
            read_columns(tmp_path / "c")


def test_what_grows_is_read_whole(tmp_path: Path) -> None:
    pairs, one, none = (Growing(tmp_path / str(width), np.int32, width) for width in (2, 0, 3))
    for block in range(3):
        pairs.add(np.arange(4).reshape(2, 2) + 10 * block)
        one.add(np.arange(block))
    assert pairs.read().tolist() == [[0, 1], [2, 3], [10, 11], [12, 13], [20, 21], [22, 23]]
    assert one.read().tolist() == [0, 0, 1]
    assert none.read().shape == (0, 3)
