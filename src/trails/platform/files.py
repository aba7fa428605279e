"""Files that are there completely or not at all, even across a kill or a loss of power, and their hashes.

Raises OSError with the name of the file; callers say what the file was for.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY = ".tmp"
"""Suffix of a file that is not finished: ``NAME.XXXXXXXX.tmp`` beside the file ``NAME``."""


@contextmanager
def replacing(path: Path, *, sweep: bool = True) -> Iterator[Path]:
    """Give the name of an empty temporary file beside ``path``; when the block ends it is flushed to the disk and renamed.

    Where the block raises, ``path`` stays as it was and the temporary file goes. ``sweep`` also removes the temporary files
    that killed writers of ``path`` left behind, not those of writers at work; it lists the folder once. The folder must exist.
    """
    if sweep:
        _remove_leftovers(path)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with temporary.open("xb") as held:
            with suppress(OSError):  # a file system without locks keeps its leftovers
                fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process: a leftover is known by it
            yield temporary
            with temporary.open("rb+") as written:  # a library may have put another file under the name
                os.fsync(written.fileno())
            temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # a full disk names no file
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | memoryview | str) -> None:
    """Write a file, text as UTF-8, through :func:`replacing` (without ``sweep``)."""
    with replacing(path, sweep=False) as temporary, temporary.open("wb") as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


def contents(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without unfinished files (:data:`TEMPORARY`)."""
    return sorted(path for path in folder.iterdir() if not path.name.endswith(TEMPORARY))


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make a rename last: the entry of a folder is data of the folder."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _remove_leftovers(path: Path) -> None:
    before, size = f"{path.name}.", len(path.name) + 9 + len(TEMPORARY)
    with os.scandir(path.parent) as entries:
        found = [e.path for e in entries if e.name.startswith(before) and e.name.endswith(TEMPORARY)]
    for name in found:
        if len(Path(name).name) == size:
            with suppress(OSError), Path(name).open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                Path(name).unlink()
