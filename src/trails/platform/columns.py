"""Columns of numbers in files that the system maps into memory: a process holds of them what it looks at."""

from __future__ import annotations

import hashlib
import json
import mmap
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trails.platform.files import replacing

_HEAD = 128
"""Bytes before the columns: the SHA-256 of all that follows, as hex."""


def write_columns(path: Path, columns: Mapping[str, npt.NDArray[Any]], told: Mapping[str, Any]) -> None:
    """Write arrays (n,) and some JSON into one file, which is there completely or not at all."""
    order = sorted(columns, key=lambda name: -columns[name].dtype.itemsize)  # so that every column is aligned
    about = json.dumps({"columns": order, "told": dict(told)}, ensure_ascii=True).encode("ascii")
    with replacing(path) as temporary, temporary.open("r+b") as file:
        file.write(bytes(_HEAD))
        np.lib.format.write_array(file, np.frombuffer(about.ljust(-(-len(about) // 64) * 64), np.uint8))
        for name in order:
            np.lib.format.write_array(file, np.ascontiguousarray(columns[name]), allow_pickle=False)
        file.seek(_HEAD)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
        file.write(digest.encode("ascii"))


def read_columns(path: Path) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
    """The arrays, read-only and mapped, and the JSON. Raises OSError where the file cannot be read, ValueError where its bytes
    are not those that were written.
    """
    with path.open("rb") as file:
        digest = file.read(_HEAD).rstrip(b"\0").decode("ascii", "replace")
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise ValueError(f"{path} does not hold what was written")
        end = file.tell()
        file.seek(_HEAD)
        found: list[npt.NDArray[Any]] = []
        while file.tell() < end:
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            start = file.tell()
            array = np.memmap(file, kind, "r", start, shape) if shape[0] else np.zeros(shape, kind)
            found.append(np.asarray(array))
            file.seek(start + array.nbytes)
    about = json.loads(found[0].tobytes())
    return dict(zip(about["columns"], found[1:], strict=True)), about["told"]


def write_all(file: Any, numbers: npt.NDArray[Any]) -> None:
    """Write an array (contiguous) to a file opened for bytes. Unlike ``tofile`` it raises the system's own OSError."""
    data = numbers.reshape(-1).view(np.uint8).data
    while len(data):
        data = data[file.write(data) :]


def parked(numbers: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same array, read-only, in a file without a name in the system's temporary folder, which goes with the array: memory
    holds of it what is looked at. The array itself where no such file can be made.
    """
    if not numbers.nbytes:
        return numbers
    with suppress(OSError), tempfile.TemporaryFile(buffering=0) as file:
        write_all(file, np.ascontiguousarray(numbers))
        return np.asarray(np.memmap(file, numbers.dtype, "r", shape=numbers.shape))
    return numbers


def let_go(*arrays: npt.NDArray[Any]) -> None:
    """Hold nothing of mapped arrays until they are looked at again; other arrays stay as they are."""
    for array in arrays:
        under: Any = array
        while under is not None and not isinstance(under, mmap.mmap):
            under = getattr(under, "base", None)
        if under is not None and hasattr(mmap, "MADV_DONTNEED"):
            under.madvise(mmap.MADV_DONTNEED)


class Growing:
    """Numbers that come block by block and lie in a file until they are read; ``width`` of them make a row (0: one)."""

    def __init__(self, path: Path, kind: npt.DTypeLike, width: int = 0) -> None:
        self._path, self._kind, self._width = path, np.dtype(kind), width
        self._file: Any = path.open("wb")

    def add(self, numbers: npt.NDArray[Any]) -> None:
        """Add a block (n,) or (n, width)."""
        write_all(self._file, np.ascontiguousarray(numbers, self._kind))

    def read(self) -> npt.NDArray[Any]:
        """All of them, read-only and mapped; nothing is added after that."""
        self._file.close()
        shape = (-1, self._width) if self._width else (-1,)
        flat = np.memmap(self._path, self._kind, "r") if self._path.stat().st_size else np.zeros(0, self._kind)
        return np.asarray(flat).reshape(shape)
