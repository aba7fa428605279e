"""The bytes of an input, decompressed and bounded, and what is no data at all.

In: a file. Out: a stream that cannot run away (a small file that expands without end is refused), or a
:class:`~trails.readers.base.FileError` that names what the file is.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from trails.errors import InputError
from trails.platform.text import counted

FREE_BYTES = 32_000_000
"""So much may come out of any compressed file."""

MAX_RATIO = 250
"""Beyond :data:`FREE_BYTES` no more than so many times the bytes that went in. Text seldom passes 20."""

MAX_MEMBERS = 20_000
MAX_ARCHIVE_BYTES = 8_000_000_000
XZ_MEMORY = 256_000_000
_PIECE = 1 << 16

COMPRESSIONS = ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ\x00", "xz"), (b"BZh", "bz2"))
COMPRESSED_SUFFIXES = (".gz", ".zst", ".xz", ".bz2")
ZIP_MAGIC = b"PK\x03\x04"

_FOREIGN = (
    # what the first bytes say, and what to do
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive. Unpack it first."),
    (b"Rar!\x1a\x07", "a RAR archive. Unpack it first."),
    (b"SQLite format 3\x00", "an SQLite database. Export its table as CSV or JSON Lines."),
    (b"%PDF-", "a PDF document. Extract its text first."),
    (b"FEA1", "a Feather file of version 1. Write it again as Arrow or Parquet."),
    (b"\x89HDF\r\n", "an HDF5 file. Export it as Parquet or JSON Lines."),
    (b"PARE", "an encrypted Parquet file. Decrypt it first."),
    (b"GGUF", "model weights (GGUF), not text."),
    (b"\x80\x02", "a Python pickle, which could run code. Export it as JSON Lines."),
    (b"\x80\x03", "a Python pickle, which could run code. Export it as JSON Lines."),
    (b"\x80\x04", "a Python pickle, which could run code. Export it as JSON Lines."),
    (b"\x80\x05", "a Python pickle, which could run code. Export it as JSON Lines."),
)
_LFS = b"version https://git-lfs.github.com/spec/"
_ANNEX = re.compile(rb"^(\.\./)*(\.git|/)annex/objects/")
_HTML = re.compile(rb"\s*(<!--.{0,2000}?-->\s*)*<(!doctype\s+html|html\b|head\b|body\b)", re.IGNORECASE | re.DOTALL)
_TAG, _CLOSING_TAG = re.compile(rb"<[a-z][^<>]*>", re.IGNORECASE), re.compile(rb"</[a-z][a-z0-9]*\s*>", re.IGNORECASE)
_XML = re.compile(rb"\s*<\?xml\s+version\b", re.IGNORECASE)
TEXT_SUFFIXES = ("txt", "text", "md", "markdown")
_ABOUT = re.compile(r"(readme|licen[cs]e|copying|notice|changelog|citation)\b.*", re.IGNORECASE)
_SAVED = re.compile(r"dataset_infos?\.json|dataset_dict\.json|state\.json")
"""Files of a saved data set that say what it consists of; they are looked at and hold no chains."""
SHOWN_NAMES = 5
"""Names of files that a sentence gives of each kind."""


def why_passed_over(path: str, suffixes: tuple[str, ...]) -> str | None:
    """Why a file of a folder or a member of an archive is not read, in a word or two; None for one that is. ``path`` is what
    stands between the folder and the file, with the file's name. Empty: nothing need be said.
    """
    name = path.rpartition("/")[2]
    if any(part.startswith((".", "__MACOSX")) for part in path.split("/")):
        return "hidden"
    if _SAVED.fullmatch(name):
        return ""
    if _ABOUT.fullmatch(name):
        return "about the data"
    plain = next((name.removesuffix(end) for end in COMPRESSED_SUFFIXES if name.endswith(end)), name)
    if "." not in plain:
        return "no suffix"
    return None if plain.rpartition(".")[2].lower() in suffixes else "another kind"


def told_passed_over(names: Mapping[str, Sequence[str]], what: str) -> str:
    """``passed over 3 files: README.md (about the data); a.pdf, b.pdf (another kind)``; empty without names. ``names`` are
    listed by reason.
    """
    listed = [
        ", ".join(found[:SHOWN_NAMES])
        + (f" and {len(found) - SHOWN_NAMES:,} more" if len(found) > SHOWN_NAMES else "")
        + f" ({why})"
        for why, found in names.items()
        if found and why
    ]
    count = sum(len(found) for why, found in names.items() if why)
    return f"passed over {counted(count, what)}: {'; '.join(listed)}" if listed else ""


class FileError(InputError):
    """A file, or the rest of it, that cannot be read. The other inputs can: with ``--bad-tolerance`` it is one bad record."""


def not_data(head: bytes, suffix: str) -> str:
    """What a file is when it is no data, as the end of a sentence; empty when nothing is known against it."""
    if head.startswith(_LFS):
        return "a Git LFS pointer, not the data. Fetch the data: git lfs pull."
    if _ANNEX.match(head):
        return "a git-annex pointer, not the data. Fetch the data: git annex get FILE."
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            return what
    if head[257:262] == b"ustar":
        return "a tar archive. Unpack it first."
    as_text = suffix in (*TEXT_SUFFIXES, "html", "htm", "xml", "")
    way_on = "Extract its text first, or measure it with its tags: --reader text."
    found = _HTML.match(head)
    # a text may begin with the word <html>; a page closes what it opens
    if found and not (as_text and not (_TAG if found[2].startswith(b"!") else _CLOSING_TAG).search(head, found.end())):
        what = f"an HTML page, not {'text' if as_text else 'data'}: a login or error page is often saved under another name."
        return f"{what} {way_on if as_text else 'Download the file again.'}"
    if _XML.match(head):
        return f"an XML document, which no reader knows. {way_on if as_text else 'Convert it to JSON Lines.'}"
    return ""


def compression_of(magic: bytes) -> str:
    """``gzip``, ``zstd``, ``xz``, ``bz2`` or an empty string."""
    name = next((name for start, name in COMPRESSIONS if magic.startswith(start)), "")
    return "" if name == "bz2" and not re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", magic) else name


def open_bytes(path: Path, shown: str) -> IO[bytes]:
    """The bytes of a file, decompressed. Raises FileError when it cannot be opened; reading raises it for damage."""
    try:
        raw = path.open("rb")
    except OSError as error:
        raise FileError(f"{shown}: cannot be opened ({error.strerror}).") from None
    kind = compression_of(raw.read(16))
    raw.seek(0)
    if not kind:
        return raw
    inner: Any
    if kind == "gzip":
        inner = gzip.GzipFile(fileobj=raw, mode="rb")
    elif kind == "zstd":
        inner = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")
    else:
        inner = _Frames(raw, kind)
    return io.BufferedReader(_Bounded(inner, raw, kind, shown), 1 << 20)


class _Frames:
    """xz and bz2 in pieces of bounded size, one frame after another."""

    def __init__(self, raw: IO[bytes], kind: str) -> None:
        self._raw, self._kind, self._pending = raw, kind, b""
        self._new()

    def _new(self) -> None:
        self._decompressor: Any = (
            bz2.BZ2Decompressor()
            if self._kind == "bz2"
            else lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
        )

    def read(self, size: int) -> bytes:
        while True:
            if self._decompressor.eof:
                self._pending = self._decompressor.unused_data or self._raw.read(_PIECE)
                self._pending = self._pending.lstrip(b"\0")  # padding between streams
                if not self._pending:
                    return b""
                self._new()
            elif self._decompressor.needs_input:
                self._pending = self._raw.read(_PIECE)
                if not self._pending:
                    raise EOFError("the file ends before the end of its compressed data")
            data = bytes(self._decompressor.decompress(self._pending, size))
            self._pending = b""
            if data:
                return data


class _Bounded(io.RawIOBase):
    """A decompressed stream that stops when far more comes out than went in, and names damage as damage."""

    def __init__(self, inner: Any, raw: IO[bytes], kind: str, shown: str) -> None:
        super().__init__()
        self._inner, self._raw, self._kind, self._shown = inner, raw, kind, shown
        self._read = inner.read1 if kind == "gzip" else inner.read
        self._size = max(1, raw.seek(0, 2))
        raw.seek(0)
        self._out = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            # in small pieces: what came out before the damage is kept
            data = self._read(min(len(buffer), _PIECE))
        except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, pa.ArrowException, MemoryError) as error:
            raise FileError(f"{self._shown}: the {self._kind} data is damaged ({_first_line(error)}).") from None
        self._out += len(data)
        if self._out > FREE_BYTES and self._out > MAX_RATIO * self._size:
            raise FileError(
                f"{self._shown}: {counted(self._size, 'byte')} expand to more than {self._out:,}, over "
                f"{MAX_RATIO} times as many; "
                "the rest is not read. Decompress it yourself if that is meant."
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
        super().close()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# --- zip ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive, unpacked to ``path``."""

    name: str
    path: Path


def members(
    path: Path, shown: str, scratch: Path, suffixes: tuple[str, ...], note: Callable[[str], None]
) -> Iterator[Member]:
    """Data files of a zip archive, one at a time in the order of their names; the samples of an evaluation log are one file.
    ``note`` is told of data that is left out because its name leads out of the archive, and of members of other kinds.

    Raises FileError for a damaged archive, one with too many members, or one that expands too far.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if _leads_out(info.filename):
                    note(f"{shown}: member {info.filename!r} was not read: its name leads out of the archive.")
            infos = sorted(
                (info for info in archive.infolist() if not info.is_dir() and not _leads_out(info.filename)),
                key=lambda info: info.filename,
            )
            if len(infos) > MAX_MEMBERS:
                raise FileError(
                    f"{shown}: {counted(len(infos), 'member')}, more than {MAX_MEMBERS:,}. Unpack it first."
                )
            total = sum(info.file_size for info in infos)
            size = path.stat().st_size
            if total > MAX_ARCHIVE_BYTES or (total > FREE_BYTES and total > MAX_RATIO * size):
                raise FileError(
                    f"{shown}: {counted(size, 'byte')} would expand to {total:,}. Unpack it yourself if that is meant."
                )
            samples = [info for info in infos if re.fullmatch(r"samples/[^/]+\.json", info.filename)]
            if samples and any(info.filename in ("header.json", "_journal/start.json") for info in infos):
                target = scratch / "samples.json"
                with target.open("wb") as out:
                    for info in samples:
                        _unpack(archive, info, out, shown, path)
                        out.write(b"\n")
                yield Member("samples.json", target)
                return
            others: dict[str, list[str]] = {}
            for info in infos:
                why = why_passed_over(info.filename, suffixes)
                if why is not None:
                    others.setdefault(why, []).append(info.filename)
            if told := told_passed_over(others, "member"):
                note(f"{shown}: {told}.")
            for info in infos:
                name = info.filename
                if why_passed_over(name, suffixes) is not None:
                    continue
                target = scratch / "member"
                with target.open("wb") as out:
                    _unpack(archive, info, out, shown, path)
                yield Member(name, target)
                target.unlink()
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        zlib.error,
        lzma.LZMAError,
        struct.error,
    ) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FileError(
                f"{shown}: no space left in {scratch.parent} to unpack a member. Free some, or name another folder in TMPDIR."
            ) from None
        raise FileError(f"{shown}: the zip archive is damaged or locked ({_first_line(error)}).") from None


def _leads_out(name: str) -> bool:
    return ".." in re.split(r"[/\\]", name)


def _unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, out: IO[bytes], shown: str, path: Path) -> None:
    """One member to ``out``. The archive's own word about the size is not trusted: more than it says is an error."""
    source: Any = _zstd_member(path, info) if info.compress_type == 93 else archive.open(info)
    left = info.file_size
    with source:
        while data := source.read(_PIECE):
            left -= len(data)
            if left < 0:
                raise FileError(f"{shown}: member {info.filename!r} is longer than the archive says.")
            out.write(data)
    if left:
        raise FileError(f"{shown}: member {info.filename!r} is shorter than the archive says.")


def _zstd_member(path: Path, info: zipfile.ZipInfo) -> Any:
    """A member that is compressed with Zstandard, which the standard library cannot read yet."""
    with path.open("rb") as raw:
        raw.seek(info.header_offset)
        header = raw.read(30)
        name_length, extra_length = struct.unpack("<26xHH", header)
        raw.seek(info.header_offset + 30 + name_length + extra_length)
        data = raw.read(info.compress_size)
    return pa.CompressedInputStream(pa.BufferReader(data), "zstd")
