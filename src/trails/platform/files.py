"""Files that are there completely or not at all, even across a kill or a loss of power, and their hashes.

Raises OSError with the name of the file; callers say what the file was for.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

from trails.errors import InputError, StoreError
from trails.platform.memory import MODEL_MEMORY, USUAL_MEMORY, memory_limit

TEMPORARY = ".tmp"
"""Suffix of a file that is not finished: ``NAME.XXXXXXXX.tmp`` beside the file ``NAME``."""


@contextmanager
def replacing(path: Path, *, sweep: bool = True, alone: bool = False) -> Iterator[Path]:
    """Give the name of an empty temporary file beside ``path``; when the block ends it is flushed to the disk and renamed.

    Where the block raises, ``path`` stays as it was and the temporary file goes. ``sweep`` also removes the temporary files
    that killed writers of ``path`` left behind, not those of writers at work; it lists the folder once. The folder must exist.
    ``alone`` raises StoreError where another process is at work on ``path``, however far it is.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        with ExitStack() as stack:
            with _alone_in(path.parent) if alone else nullcontext():
                at_work = _remove_leftovers(path) if sweep or alone else []
                if alone and at_work:
                    raise _at_work(path)
                held = stack.enter_context(temporary.open("xb"))
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


def _at_work(path: Path) -> StoreError:
    return StoreError(f"another process is writing {path}. Wait until it has ended, or choose another name")


@contextmanager
def scratch_folder(beside: Path, prefix: str, *, alone_on: Path | None = None) -> Iterator[Path]:
    """A new folder ``PREFIX…`` in the folder ``beside``, removed at the end. Those of killed processes are removed first: a
    living process holds the lock on its own. ``alone_on``: who has such a folder writes that path; raises StoreError where
    another process does.
    """
    with _alone_in(beside):
        for left in beside.iterdir():
            if not (left.name.startswith(prefix) and len(left.name) == len(prefix) + 8):
                continue
            if left.is_dir() and not left.is_symlink():
                if _is_free(left):
                    shutil.rmtree(left, ignore_errors=True)
                elif alone_on is not None:
                    raise _at_work(alone_on)
        folder = beside / f"{prefix}{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        yield folder
    finally:
        os.close(held)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``folder``; when the block ends its files are flushed to the disk and it is renamed, in
    the place of a folder that is there. Where the block raises, ``folder`` stays as it was and nothing else is left. Raises
    StoreError where another process is at work on it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_mount():  # what lies beside it lies on another disk
        with scratch_folder(folder, ".trails-", alone_on=folder) as scratch:
            yield scratch
            for path in scratch.iterdir():
                path.replace(folder / path.name)
        return
    with scratch_folder(folder.parent, f".{folder.name}.trails-", alone_on=folder) as scratch:
        made, before = scratch / "made", scratch / "before"
        made.mkdir()
        yield made
        for path in made.iterdir():
            with path.open("rb+") as written:
                os.fsync(written.fileno())
        _sync_folder(made)
        if folder.exists() and any(folder.iterdir()):
            folder.rename(before)
        try:
            made.rename(folder)
        except OSError:
            if before.exists():
                before.rename(folder)
            raise
    _sync_folder(folder.parent)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """No other process makes or clears scratch folders there meanwhile."""
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _is_free(folder: Path) -> bool:
    """Whether no process holds the lock on a folder."""
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(opened)
    return True


@contextmanager
def unbroken() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block ends: for a few renames that belong together."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def write_atomic(path: Path, data: bytes | memoryview | str, *, sweep: bool = False) -> None:
    """Write a file, text as UTF-8, through :func:`replacing`."""
    with replacing(path, sweep=sweep) as temporary, temporary.open("wb") as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


def first_bytes(path: Path, most: int) -> bytes:
    """At most so many bytes of a file, whatever its size says (a pipe has none). Raises OSError."""
    with path.open("rb") as file:
        return file.read(most)


def path_from(name: str, folder: Path) -> Path:
    """A path that a file in ``folder`` names: relative to that folder, wherever the command runs; absolute, or below the user's
    own folder (``~``), as it is."""
    return folder / Path(name).expanduser()


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a text in UTF-8 with their numbers, from 1. Raises InputError that names the line for other bytes; OSError."""
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}:{number}: not text in UTF-8 (byte {error.start} of the line).") from None


def contents(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without unfinished files (:data:`TEMPORARY`)."""
    return sorted(path for path in folder.iterdir() if not path.name.endswith(TEMPORARY))


_PLACE = "Choose another place, or make this one writable"
_ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space and run the same command again"),
    errno.EFBIG: "This is the limit of the size of a file, not the space: raise it (ulimit -f unlimited) and run the same "
    "command again",
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG), _PLACE),
    errno.EIO: "The disk or its connection failed; look at it before anything else",
    errno.EMFILE: "Too many files are open; raise the limit (ulimit -n)",
    errno.EAGAIN: "Close other programs, or raise the limit (ulimit -u, ulimit -v), and run the same command again",
}
"""What the system denies to a sound program, and what to do about it."""


def what_to_do(error: BaseException) -> str:
    """What to do about an error of the system, one sentence without its end; empty for any other. A library may have put the
    system's words into words of its own.
    """
    return _advice(_number(error))


def refused(error: BaseException) -> str:
    """What the system said, and what to do about it: ``No space left on device. Free some space …``."""
    number = _number(error)
    advice = _advice(number)
    why = os.strerror(number) if advice else " ".join(str(error).split())
    return f"{why}. {advice or _PLACE}"


def _advice(number: int) -> str:
    return memory_advice() if number == errno.ENOMEM else _ADVICE.get(number, "")


def memory_advice() -> str:
    """What to do where memory is refused, with the limit of this process and what a command takes, where it has a limit."""
    limit = memory_limit()
    if limit is None:
        return "Close other programs, or raise the limit (ulimit -u, ulimit -v), and run the same command again"
    return (
        f"This process may have {limit / 1e9:.1f} GB (ulimit -v); a command takes about {USUAL_MEMORY} GB, and "
        f"{MODEL_MEMORY} GB with a small model. Raise the limit (ulimit -v unlimited) and run the same command again"
    )


_MEMORY = ("failed to map segment from shared object", "cannot map zero-fill pages", os.strerror(errno.ENOMEM))
"""How the loader of native libraries and the system say that there is no memory."""

_THREAD = ("launch worker thread", "start new thread", os.strerror(errno.EAGAIN))
"""How native libraries and Python say that the system refused a thread."""


def lacking(error: BaseException) -> bool:
    """Whether the system refused memory or a thread: no fault of the program or of its data, whatever the kind of the error
    (a panic of a native library is no ``Exception``).
    """
    return _number(error) in (errno.EAGAIN, errno.ENOMEM)


def _number(error: BaseException) -> int:
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    if any(said in str(error) for said in _THREAD):
        return errno.EAGAIN
    if any(said in str(error) for said in _MEMORY):
        return errno.ENOMEM
    return next((number for number in _ADVICE if os.strerror(number) in str(error)), 0)


def check_regular(path: Path, *, folder: bool = False) -> None:
    """Raise StoreError for what is there and no file (a pipe, a device: reading it would wait for ever); with ``folder`` a
    folder passes.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # whoever opens it will say why
    if not stat.S_ISREG(mode) and not (folder and stat.S_ISDIR(mode)):
        kind = next((name for test, name in _KINDS if test(mode)), "something else")
        raise StoreError(f"{path} is not a file but {kind}. Move it out of the home and run the same command again")


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe (FIFO)"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


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


def _remove_leftovers(path: Path) -> list[str]:
    """Remove the temporary files of killed writers of ``path``; return those of writers at work."""
    at_work = []
    before, size = f"{path.name}.", len(path.name) + 9 + len(TEMPORARY)
    with os.scandir(path.parent) as entries:
        found = [e.path for e in entries if e.name.startswith(before) and e.name.endswith(TEMPORARY)]
    for name in found:
        if len(Path(name).name) == size:
            with suppress(OSError), Path(name).open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    at_work.append(name)
                    continue
                Path(name).unlink()
    return at_work
