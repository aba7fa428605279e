"""Columns of numbers in files: what is written is what is read, and nothing else is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from trails.platform.columns import Growing, let_go, parked, read_columns, write_columns

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


def test_a_parked_array_is_the_same_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for array in (
        np.arange(12).reshape(3, 4).T,
        np.array([True, False]),
        np.zeros((0, 3), np.int8),
        COLUMNS["nats"][::2],
    ):
        found = parked(array)
        assert found.dtype == array.dtype
        assert found.shape == array.shape
        assert found.tobytes() == array.tobytes()
        assert not found.size or not found.flags.writeable
        let_go(found, array)
        assert found.tobytes() == array.tobytes()
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    assert parked(COLUMNS["name"]) is COLUMNS["name"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_what_is_let_go_is_not_held(tmp_path: Path) -> None:
    def held() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    array = parked(np.ones(2**22))
    write_columns(tmp_path / "c", {"a": np.ones(2**22)}, {})
    kept = read_columns(tmp_path / "c")[0]["a"]
    let_go(array, kept)
    before = held()
    assert array[1:].sum() + kept[1:].sum() == 2 * (2**22 - 1)
    assert held() - before > 2 * 30 * 2**20
    let_go(array[5:], kept)
    assert held() - before < 2 * 2**20
