"""Records in files: JSON Lines, JSON arrays and objects, Parquet, Arrow, CSV and TSV.

In: a :class:`~trails.readers.base.SourceFile`. Out: ``(place, record)`` pairs, place counted from 1 (a line; a row in Parquet
and Arrow). One record, one batch of rows or one megabyte of an array is in memory at a time, and no record is larger than
``max_record_bytes``.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
import struct
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trails.errors import InputError
from trails.platform.text import counted, whole_number
from trails.readers.base import ReadReport, SourceFile, as_text, strip_bom
from trails.readers.encodings import encoding_hint
from trails.readers.fields import CHAIN_FIELDS, QUESTION_FIELDS
from trails.readers.streams import FREE_BYTES, MAX_RATIO, FileError

CHUNK = 1 << 20
BATCH_ROWS = 256
BATCH_BYTES = 16_000_000
MAX_OBJECT_BYTES = 256_000_000
SAMPLE_RECORDS = 64
SAMPLE_CHARS = 16_000_000
KEY_FIELD = "id"
_BETWEEN = re.compile(r"[ \t\r\n,]*")
_DEEP = "broken JSON: nested too deep."
_LONG_NUMBER = f"a whole number of more than {counted(sys.get_int_max_str_digits(), 'digit')}"
"""What :mod:`json` refuses with a ValueError that is no JSONDecodeError."""


def records(file: SourceFile, report: ReadReport) -> Iterator[tuple[int, Any]]:
    """All records of the file. A broken line goes to the report; a broken array or table raises FileError."""
    container = file.container
    if container == "jsonl":
        return _json_lines(file, report)
    if container == "json":
        return _json_document(file, report)
    if container in ("parquet", "arrow"):
        return _columns(file, report)
    if container in ("csv", "tsv"):
        return _delimited(file, report)
    raise FileError(f"{file.shown}: this is text, not records. Use --reader text.")


def sample(file: SourceFile) -> tuple[Mapping[str, Any], ...]:
    """The first records that are objects and hold anything: what decides how the whole file is read. Empty for text.

    At most :data:`SAMPLE_RECORDS` of them and about :data:`SAMPLE_CHARS` characters; the same file always gives the same.
    """
    if file.sample is None:
        found: list[Mapping[str, Any]] = []
        left = SAMPLE_CHARS
        try:
            if file.container != "text":
                quiet = ReadReport(tolerance=1_000_000)
                for _, record in itertools.islice(records(file, quiet), SAMPLE_RECORDS):
                    if isinstance(record, Mapping) and any(
                        value not in (None, "", [], {}) for value in record.values()
                    ):
                        found.append(record)
                        left -= _characters(record)
                    if left < 0:
                        break
        except (InputError, RecursionError):
            pass  # the error is raised again, and told, when the file is read
        file.sample = tuple(found)
    return file.sample


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return 16 + sum(len(str(key)) + _characters(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return 16 + sum(map(_characters, value))
    return 8


def lines(file: SourceFile, report: ReadReport) -> Iterator[tuple[int, str]]:
    """Decoded lines without their line ends, numbered from 1; a line that is too long or not text goes to the report."""
    encoding = file.text_encoding
    if encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32")):
        yield from _wide_lines(file, report)
        return
    if b"\x00" in file.head:
        raise FileError(f"{file.shown}: {_binary(file.head)}")
    limit = file.max_record_bytes
    with file.open() as stream:
        for number in itertools.count(1):
            data = stream.readline(limit + 2)
            if not data:
                return
            if number == 1:
                data = strip_bom(data)
            size = len(data.rstrip(b"\r\n"))
            if size > limit:
                while data and not data.endswith(b"\n"):  # the rest of the line, piece by piece
                    data = stream.readline(CHUNK)
                _too_long(file, report, number)
                continue
            try:
                yield number, data.decode(encoding).rstrip("\r\n")
            except UnicodeDecodeError as error:
                report.bad_record(
                    file.shown,
                    number,
                    f"byte 0x{data[error.start]:02x} at position {error.start} is not {encoding.upper()}. "
                    f"{encoding_hint(data[max(0, error.start - 1_000) :], file.head)}",
                )


def _binary(head: bytes) -> str:
    even, odd = head[0:2000:2], head[1:2000:2]
    for name, zero, other in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if len(zero) > 4 and zero.count(0) > 0.7 * len(zero) and other.count(0) < 0.1 * len(other):
            return f"this looks like UTF-16 without a byte order mark. Read it with --encoding {name}."
    return "this is binary data, not text."


def _too_long(file: SourceFile, report: ReadReport, number: int) -> None:
    report.bad_record(
        file.shown,
        number,
        f"the line is longer than {counted(file.max_record_bytes, 'byte')} (max_record_bytes, --max-record-bytes).",
    )


def _wide_lines(file: SourceFile, report: ReadReport) -> Iterator[tuple[int, str]]:
    """Lines of UTF-16 and UTF-32, which cannot be cut at the byte of a line feed. The limit counts two bytes a character."""
    limit = file.max_record_bytes // 2
    with file.open() as stream, io.TextIOWrapper(stream, encoding=file.text_encoding) as text:
        number = 0
        try:
            for number in itertools.count(1):
                line = text.readline(limit + 2)
                if not line:
                    return
                if len(line.rstrip("\r\n")) > limit:
                    while line and not line.endswith("\n"):
                        line = text.readline(CHUNK)
                    _too_long(file, report, number)
                    continue
                yield number, line.removeprefix("\ufeff").rstrip("\r\n")
        except UnicodeError as error:
            raise FileError(f"{file.shown}:{number}: not {file.text_encoding.upper()} ({error}).") from None


class _Decoder:
    """Decodes JSON. ``twice`` says what stands twice in one object of the value decoded last; empty where nothing does: such an
    object has no one meaning (RFC 8259, section 4), and :mod:`json` would keep the last value.
    """

    def __init__(self) -> None:
        self.twice = ""
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            key = next(name for name in names if names.count(name) > 1)
            self.twice = f"two values have the key {key!r} in one object; which one is meant cannot be told."
        return found

    def decode(self, text: str) -> Any:
        self.twice = ""
        return self._decoder.decode(text)

    def raw_decode(self, text: str, position: int) -> tuple[Any, int]:
        self.twice = ""
        return self._decoder.raw_decode(text, position)


def _at(error: json.JSONDecodeError, column: int) -> str:
    """What is wrong, and at which column; some messages of :mod:`json` end with "at" themselves."""
    return f"{error.msg.removesuffix(' at')} at column {column}"


def _json_lines(file: SourceFile, report: ReadReport) -> Iterator[tuple[int, Any]]:
    decoder = _Decoder()
    begun = False
    for number, line in lines(file, report):
        if not line.strip():
            continue
        first, begun = not begun, True
        try:
            record = decoder.decode(line)
        except json.JSONDecodeError as error:
            hint = _like_table_or_text(line) if first else ""
            report.bad_record(file.shown, number, f"broken JSON: {_at(error, error.colno)}.{hint}")
        except RecursionError:
            report.bad_record(file.shown, number, _DEEP)
        except ValueError:
            report.bad_record(file.shown, number, f"broken JSON: {_LONG_NUMBER}.")
        else:
            if decoder.twice:
                report.bad_record(file.shown, number, decoder.twice)
                continue
            yield number, record


def _like_table_or_text(line: str) -> str:
    """A hint where the first line of a file with the name of JSON Lines begins as no JSON does; empty where it may be JSON."""
    if line.lstrip().startswith(tuple('{["')):
        return ""
    names = re.fullmatch(r'"?[\w-]+"?(?:([,;\t])"?[\w-]+"?)+', line.strip())  # a header: names without blanks
    kind, name = ("text", "txt") if names is None else ("a table", "tsv" if names[1] == "\t" else "csv")
    return f" The file looks like {kind}: rename it to .{name}."


def _json_document(file: SourceFile, report: ReadReport) -> Iterator[tuple[int, Any]]:
    with file.open() as stream, io.TextIOWrapper(stream, encoding=file.text_encoding) as text:
        try:
            start = ""
            while not start.strip():
                piece = text.read(CHUNK)
                if not piece:
                    return
                start += piece
            start = start.removeprefix("\ufeff")
            if start.lstrip().startswith("["):
                yield from _array(file, text, start, report)
            else:
                yield from _objects(file, text, start, report)
        except UnicodeDecodeError as error:
            raise FileError(
                f"{file.shown}: byte 0x{error.object[error.start]:02x} is not {file.text_encoding.upper()}. "
                f"{encoding_hint(error.object[max(0, error.start - 1_000) :], file.head)}"
            ) from None
        except UnicodeError as error:
            raise FileError(f"{file.shown}: not {file.text_encoding.upper()} ({error}).") from None


def _array(file: SourceFile, text: io.TextIOWrapper, buffer: str, report: ReadReport) -> Iterator[tuple[int, Any]]:
    """Elements of a JSON array, decoded one at a time from a sliding buffer."""
    decoder = _Decoder()
    line, column = 1, 0  # of ``counted``, up to which line breaks were scanned
    scanned = 0
    position = buffer.index("[") + 1
    grow = CHUNK
    ended = False
    while True:
        # blanks and the comma before the next element
        skipped = _BETWEEN.match(buffer, position)
        position = skipped.end() if skipped else position
        if buffer.startswith("]", position):
            rest = buffer[position + 1 :] + text.read(CHUNK)
            if rest.strip():
                raise FileError(
                    f"{file.shown}:{line}: something follows the end of the array ({rest.strip()[:20]!r}); one "
                    f"array per file is read."
                )
            return
        breaks = buffer.count("\n", scanned, position)
        column = position - buffer.rfind("\n", scanned, position) - 1 if breaks else column + position - scanned
        line, scanned = line + breaks, position
        if position < len(buffer):
            try:
                value, end = decoder.raw_decode(buffer, position)
                if end < len(buffer) or ended:
                    if decoder.twice:
                        report.bad_record(file.shown, line, decoder.twice)
                    else:
                        yield line, value
                    position, grow = end, CHUNK
                    continue
            except RecursionError:
                raise FileError(f"{file.shown}:{line}: {_DEEP}") from None
            except ValueError as error:
                place, message = line, _LONG_NUMBER
                if isinstance(error, json.JSONDecodeError):
                    inner = buffer.count("\n", position, error.pos)
                    at = (
                        error.pos - buffer.rfind("\n", position, error.pos)
                        if inner
                        else error.pos - position + column + 1
                    )
                    place, message = line + inner, _at(error, at)
                if ended:
                    raise FileError(
                        f"{file.shown}:{place}: broken JSON: {message}. "
                        "An array cannot be read past a mistake; JSON Lines can."
                    ) from None
                if len(buffer) - position > file.max_record_bytes:
                    raise FileError(
                        f"{file.shown}:{place}: broken JSON: {message}, or a record longer than "
                        f"{counted(file.max_record_bytes, 'byte')} (max_record_bytes, --max-record-bytes)."
                    ) from None
        if ended:
            raise FileError(f"{file.shown}:{line}: broken JSON: the array does not end with a closing bracket.")
        piece = text.read(grow)
        grow *= 2  # so that a long element is decoded a logarithmic number of times
        ended = not piece
        buffer, position, scanned = buffer[position:] + piece, 0, 0


def _objects(file: SourceFile, text: io.TextIOWrapper, start: str, report: ReadReport) -> Iterator[tuple[int, Any]]:
    """One JSON object and what it holds (:func:`expanded`), or objects one after another, a record each."""
    whole = start + text.read(MAX_OBJECT_BYTES)
    if text.read(1):
        raise FileError(
            f"{file.shown}: one JSON object of more than {MAX_OBJECT_BYTES:,} characters. Make it JSON Lines."
        )
    decoder = _Decoder()
    position, line, scanned = 0, 1, 0
    first: Any = None
    number = 0
    while True:
        skipped = _BETWEEN.match(whole, position)
        position = skipped.end() if skipped else position
        line, scanned = line + whole.count("\n", scanned, position), position
        if position >= len(whole):
            break
        try:
            value, position = decoder.raw_decode(whole, position)
        except json.JSONDecodeError as error:
            raise FileError(f"{file.shown}:{error.lineno}: broken JSON: {_at(error, error.colno)}.") from None
        except RecursionError:
            raise FileError(f"{file.shown}:{line}: {_DEEP}") from None
        except ValueError:
            raise FileError(f"{file.shown}:{line}: broken JSON: {_LONG_NUMBER}.") from None
        if decoder.twice:
            report.bad_record(file.shown, line, decoder.twice)
            continue
        number += 1
        if number == 1:
            first = line, value
        else:
            if number == 2:
                yield first
            yield line, value
    if number == 1:
        yield from expanded(file, first[1], report)


def expanded(file: SourceFile, value: Mapping[str, Any], report: ReadReport) -> Iterator[tuple[int, Any]]:
    """Records of a lone object: those of its list of objects, its rows where it is a table by columns, the objects in it where
    it maps ids to records, else the object itself. What stands beside a list of records is told.
    """
    lists = {
        key: held
        for key, held in value.items()
        if isinstance(held, list) and held and all(isinstance(item, Mapping) for item in held)
    }
    talk = {key for key, held in lists.items() if any("role" in item or "from" in item for item in held)}
    if not talk and not any(key in value for key in ("messages", "conversations", "choices", "resourceSpans")):
        likely = [key for key, held in lists.items() if len(lists) == 1 or any(_has_text(item) for item in held)]
        if len(likely) == 1 and _is_one_record(value, likely[0]):
            yield 1, value
            return
        if len(likely) == 1:
            _tell_beside(file, value, likely[0], report)
            yield from enumerate(lists[likely[0]], 1)
            return
        if likely and not _has_text({key: held for key, held in value.items() if key not in lists}):
            raise FileError(
                f"{file.shown}: several lists of records in one object ({', '.join(likely)}). "
                "Put each into a file of its own."
            )
    if columns := _table_by_columns(file, value) if not talk else {}:
        for number, row in enumerate(zip(*columns.values(), strict=True), 1):
            yield number, dict(zip(columns, row, strict=True))
        if len(columns) < len(value):
            report.note(
                f"{file.shown}: the records are rows of its columns; beside them, not read: {_listed(value, columns)}."
            )
        return
    held = list(value.values())
    if (
        held
        and all(isinstance(item, Mapping) and item for item in held)
        and (len(held) == 1 or len(set.intersection(*(set(item) for item in held))) > 0)
        and all(_has_text(item) or any(isinstance(part, list) for part in item.values()) for item in held)
        and not any(str(key) in _PARTS for key in value)
    ):
        for number, (key, item) in enumerate(value.items(), 1):
            yield number, item if item.get(KEY_FIELD) is not None else {**item, KEY_FIELD: key}
        return
    yield 1, value


def _is_one_record(value: Mapping[str, Any], of: str) -> bool:
    """Whether a question stands beside a list that is named as a chain and whose items hold none: steps or alternatives."""

    def asks(record: Mapping[str, Any]) -> bool:
        return any(isinstance(held, str) and str(key).lower() in QUESTION_FIELDS for key, held in record.items())

    return str(of).lower() in CHAIN_FIELDS and asks(value) and not any(asks(item) for item in value[of])


def _table_by_columns(file: SourceFile, value: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The columns of a table that an object holds; empty where it is none. FileError where they differ in length."""
    columns = {key: held for key, held in value.items() if isinstance(held, list) and held}
    named = [held for key, held in columns.items() if str(key).lower() in _COLUMN_NAMES]
    whole = len(columns) == len(value) and (bool(named) or any(str(key).lower() in _TALK_NAMES for key in columns))
    if (
        len(columns) < 2
        or not any(_is_wordy(held[0]) for held in columns.values())
        or not (whole or any(len(held) > 1 and not isinstance(held[0], Mapping) for held in named))
    ):
        return {}
    sizes = {key: len(held) for key, held in columns.items()}
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{key} {size:,}" for key, size in sizes.items())
        raise FileError(
            f"{file.shown}: columns of unequal length ({shown}); it is unclear which values belong to one row. "
            f"If it is one "
            "record, write it on one line of a file that ends in .jsonl."
        )
    return columns


_FAILED = ("error", "errors", "exception", "failed", "failure")
_ALRIGHT = (None, False, "", 0)
_MORE = frozenset(
    (
        *("has_more", "hasmore", "has_next", "hasnext", "next", "next_page", "nextpage", "next_url", "next_token"),
        *("nexttoken", "next_page_token", "nextpagetoken", "next_cursor", "nextcursor", "cursor", "after"),
        *("truncated", "is_truncated", "istruncated", "incomplete", "incomplete_results", "partial"),
    )
)


def _tell_beside(file: SourceFile, value: Mapping[str, Any], of: str, report: ReadReport) -> None:
    """What stands beside the list of records in an object: a failed answer is a bad record, the rest is noted."""
    others = {key: held for key, held in value.items() if key != of}
    if not others:
        return
    failed = {key: held for key, held in others.items() if _says_failed(str(key).lower(), held)}
    if failed:
        report.bad_record(
            file.shown,
            1,
            f"beside the list {of!r} stands {_listed(failed)}: the answer of a server that failed, so records may be missing.",
        )
    report.note(f"{file.shown}: the records are those of the list {of!r}; beside it, not read: {_listed(others)}.")
    more = {key: held for key, held in others.items() if str(key).lower() in _MORE and held not in _ALRIGHT}
    if more:
        report.note(f"{file.shown}: this is a part of an answer ({_listed(more)}); the rest is not in the file.")


def _says_failed(name: str, held: Any) -> bool:
    if name in _FAILED:
        return held not in _ALRIGHT and not (isinstance(held, Sequence | Mapping) and not held)
    if name in ("success", "ok"):
        return held is False
    if name in ("status", "code", "status_code", "statuscode"):
        code = whole_number(str(held)) if isinstance(held, int | str) else None
        return 400 <= code < 600 if code is not None else str(held).lower().startswith(("error", "fail"))
    return False


SHOWN_VALUE = 60
"""Characters of a value that is named in a sentence."""


def _listed(value: Mapping[str, Any], without: Iterable[str] = ()) -> str:
    """Names of fields, at most eight, with their values where these are short."""
    names = [key for key in value if key not in set(without)]
    told = []
    for key in names[:8]:
        held = value[key]
        text = as_text(held) if held is None or isinstance(held, str | int | float) else ""
        if isinstance(held, Mapping) and str(key).lower() in _FAILED:
            text = as_text(held)
        told.append(f"{key} = {text[:SHOWN_VALUE]}{'…' if len(text) > SHOWN_VALUE else ''}" if text else str(key))
    return ", ".join(told) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


_COLUMN_NAMES = ("question", "problem", "prompt", "instruction", "query", "input", "id")
_TALK_NAMES = ("messages", "conversations")
_PARTS = (
    "doc",
    "message",
    "response",
    "request",
    "question",
    "label",
    "body",
    "attributes",
    "input",
    "output",
    "result",
)


def _is_wordy(value: Any) -> bool:
    return (isinstance(value, str) and len(value.split()) > 1) or isinstance(value, list)


def _has_text(record: Mapping[str, Any]) -> bool:
    """Whether some field of a record could be a chain: words, or messages."""
    return any(
        (isinstance(value, str) and len(value.split()) > 2)
        or (isinstance(value, list) and bool(value) and isinstance(value[0], str | Mapping))
        for value in record.values()
    )


# --- tables ---------------------------------------------------------------------------------------------------------


def _columns(file: SourceFile, report: ReadReport) -> Iterator[tuple[int, Any]]:
    row = 0
    try:
        for batch in _batches(file):
            sizes = _row_bytes(batch)
            if int(sizes.sum()) <= BATCH_BYTES and not np.any(sizes > file.max_record_bytes):
                for record in batch.to_pylist():
                    row += 1
                    yield row, record
                continue
            for place in range(batch.num_rows):
                row += 1
                if sizes[place] > file.max_record_bytes:
                    report.bad_record(
                        file.shown,
                        row,
                        f"the row holds {counted(int(sizes[place]), 'byte')}, more than {file.max_record_bytes:,} "
                        "(max_record_bytes, --max-record-bytes).",
                    )
                    continue
                yield row, batch.slice(place, 1).to_pylist()[0]
    except (pa.ArrowException, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise FileError(
            f"{file.shown}: not readable as {file.container} ({(str(error).splitlines() or ['damaged'])[0]})."
        ) from None
    except OSError as error:
        raise FileError(f"{file.shown}:{row}: cannot be read ({str(error).splitlines()[0]}).") from None


def _row_bytes(batch: pa.RecordBatch) -> Any:
    """Bytes of text in every row, without making the rows: a dictionary may hold one long text many times."""
    sizes = np.zeros(batch.num_rows, np.int64)
    for column in batch.columns:
        sizes += _value_bytes(column)
    return sizes


def _value_bytes(column: pa.Array) -> Any:
    kind = column.type
    if pa.types.is_dictionary(kind):
        each = _value_bytes(column.dictionary)
        codes = pc.fill_null(column.indices.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
        return each[codes] if len(each) else np.zeros(len(column), np.int64)
    if (
        pa.types.is_large_string(kind)
        or pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    ):
        return pc.fill_null(pc.binary_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        # from the offsets, so that a list of nested lists costs no copy
        offsets = column.offsets.to_numpy()
        below = _value_bytes(column.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))) + 8
        total = np.concatenate([[0], np.cumsum(below)])
        return total[offsets[1:] - offsets[0]] - total[offsets[:-1] - offsets[0]]
    if pa.types.is_struct(kind):
        return sum((_value_bytes(part) for part in column.flatten()), np.zeros(len(column), np.int64))
    return np.full(len(column), 8, np.int64)


def _check_names(place: str, names: Sequence[str]) -> None:
    """Raises FileError where two columns have one name: a row would hold the last of them only."""
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise FileError(f"{place}: two columns are named {twice[0]!r}; it is unclear which holds what. Rename one.")


def _batches(file: SourceFile) -> Iterator[pa.RecordBatch]:
    if file.container == "parquet":
        yield from _parquet_batches(file)
        return
    _check_expansion(file)
    with pa.memory_map(str(file.path)) as source:
        if file.head.startswith(b"ARROW1"):
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            reader = pa.ipc.open_stream(source)
            batches = iter(reader)
        _check_names(file.shown, reader.schema.names)
        for batch in batches:
            # an offset that points outside crashes the process when it is used, so everything is checked first
            batch.validate(full=True)
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)


def _check_expansion(file: SourceFile) -> None:
    """Raises FileError for a batch whose compressed buffers claim far more than is there: Arrow decompresses a batch whole."""
    with pa.memory_map(str(file.path)) as source:
        if file.head.startswith(b"ARROW1"):
            source.seek(8)  # a file is a stream behind its magic bytes
        for message in pa.MessageReader.open_stream(source):
            body = message.body
            if body is None or message.type not in ("record batch", "dictionary"):
                continue
            loose = compressed_lengths(memoryview(message.metadata), memoryview(body), message.type == "dictionary")
            if loose > FREE_BYTES and loose > MAX_RATIO * max(1, len(body)):
                raise FileError(
                    f"{file.shown}: a batch of {counted(len(body), 'byte')} would expand to {loose:,}, over "
                    f"{MAX_RATIO} times as many."
                )


def compressed_lengths(metadata: memoryview, body: memoryview, dictionary: bool) -> int:
    """Sum of the lengths that the compressed buffers of an Arrow message claim; 0 for a message without compression.

    Reads the message's flatbuffer (format.fbs of Arrow: Message.header, RecordBatch.buffers, RecordBatch.compression,
    DictionaryBatch.data). A message that cannot be read so claims nothing; Arrow itself refuses it.
    """

    def number(layout: str, at: int) -> int:
        return int(struct.unpack_from(layout, metadata, at)[0])

    def field_of(table: int, index: int) -> int:
        """Place of a field of a table, 0 where it is not set."""
        fields = table - number("<i", table)
        offset = number("<H", fields + 4 + 2 * index) if 4 + 2 * index < number("<H", fields) else 0
        return table + offset if offset else 0

    def followed(at: int) -> int:
        return at + number("<I", at) if at else 0

    try:
        batch = followed(field_of(number("<I", 0), 2))
        if dictionary and batch:
            batch = followed(field_of(batch, 1))
        if not batch or not field_of(batch, 3):
            return 0
        buffers = followed(field_of(batch, 2))
        total = 0
        for index in range(min(number("<I", buffers), len(metadata) // 16)):
            offset, length = struct.unpack_from("<qq", metadata, buffers + 4 + 16 * index)
            if length >= 8 and 0 <= offset <= len(body) - 8:
                total += max(0, struct.unpack_from("<q", body, offset)[0])
    except (struct.error, IndexError, ValueError, OverflowError):
        return 0
    return total


def _parquet_batches(file: SourceFile) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(file.path) as plain:
        meta = plain.metadata
        _check_names(file.shown, plain.schema_arrow.names)
        texts = [
            plain.schema.column(index).path
            for index in range(len(plain.schema))
            if plain.schema.column(index).physical_type == "BYTE_ARRAY"
        ]
    for group in range(meta.num_row_groups):
        for index in range(meta.num_columns):
            chunk = meta.row_group(group).column(index)
            packed, loose = max(1, chunk.total_compressed_size), chunk.total_uncompressed_size
            if loose > FREE_BYTES and loose > MAX_RATIO * packed:
                raise FileError(
                    f"{file.shown}: column {chunk.path_in_schema!r}: {counted(packed, 'byte')} would expand to {loose:,}, "
                    f"over {MAX_RATIO} times as many."
                )
    # a text that a column holds many times stays one text until its row is made
    with pq.ParquetFile(file.path, read_dictionary=texts, pre_buffer=False) as parquet:
        for group in range(meta.num_row_groups):
            rows, size = meta.row_group(group).num_rows, meta.row_group(group).total_byte_size
            many = max(1, min(BATCH_ROWS, BATCH_BYTES * max(1, rows) // max(1, size)))
            for batch in parquet.iter_batches(batch_size=many, row_groups=[group]):
                batch.validate(full=True)
                yield batch


def _delimited(file: SourceFile, report: ReadReport) -> Iterator[tuple[int, Any]]:
    """Rows of CSV or TSV with a header line; a quoted field may hold line breaks. The place is the row's last line."""
    place = 0
    of_row: list[str] = []

    def source() -> Iterator[str]:
        nonlocal place
        for number, line in lines(file, report):
            place = number
            of_row.append(line + "\n")
            yield of_row[-1]

    csv.field_size_limit(max(csv.field_size_limit(), file.max_record_bytes))
    if found := _like_json(file):
        raise FileError(f"{file.shown}:1: not a table: {found}")
    delimiter = delimiter_of(file)
    # a blank before a quote is no part of the field where the file is written so
    spaced = bool(re.search(rf'{re.escape(delimiter)} +"[^"\n]*"(?={re.escape(delimiter)}|\r?\n|$)', file.start))
    rows = csv.reader(source(), delimiter=delimiter, skipinitialspace=spaced, strict=True)
    try:
        header = next(rows, None)
    except csv.Error as error:
        raise FileError(f"{file.shown}:1: broken table: {_broken_row(error, of_row)}") from None
    if header is None:
        return
    _check_names(f"{file.shown}:1", header)
    names = [name or f"column {number}" for number, name in enumerate(header, 1)]
    while True:
        of_row.clear()
        try:
            row = next(rows, None)
        except csv.Error as error:
            report.bad_record(file.shown, place - len(of_row) + 1, _broken_row(error, of_row))
            continue
        if row is None:
            return
        if not row:
            continue
        if len(row) != len(header):
            report.bad_record(file.shown, place, f"{counted(len(row), 'field')} where the header has {len(header)}.")
            continue
        yield place, dict(zip(names, row, strict=True))


def _broken_row(error: csv.Error, of_row: Sequence[str]) -> str:
    """What is wrong with the row of these lines, in words."""
    said = str(error)
    if "unexpected end" in said:
        return f"a quote opens in this row and is never closed; the {counted(len(of_row), 'line')} from here on are one field."
    if "expected after" in said:
        return (
            "text stands after a closing quote, so it is unclear where the field ends. Inside a quoted field a "
            "quote is "
            'written twice ("").'
        )
    if "new-line" in said:
        return "a carriage return stands alone in an unquoted field."
    return f"{said}."


def _like_json(file: SourceFile) -> str:
    """A hint for a file with the name of a table that begins as JSON does; empty where it does not."""
    if not re.match(r'[\[{]\s*["{\[]', file.start):
        return ""
    kind, name = ("JSON Lines", "jsonl") if file.start.startswith("{") else ("JSON", "json")
    return f"the file looks like {kind}. Rename it to .{name}."


def delimiter_of(file: SourceFile) -> str:
    """What separates the fields: what the name says, unless it leaves the header in one piece and another mark does not."""
    usual = "\t" if file.container == "tsv" else ","
    head = file.start
    cut = head if len(file.head) < 60_000 else head[: head.rfind("\n") + 1]
    best = usual
    widths: dict[str, tuple[int, bool]] = {}
    for mark in (usual, ";", "\t", ",", "|"):
        try:
            rows = [row for row in csv.reader(io.StringIO(cut, newline=""), delimiter=mark) if row][:20]
        except csv.Error:
            continue
        if rows:
            widths[mark] = (len(rows[0]), all(len(row) == len(rows[0]) for row in rows[:-1]))
    if widths.get(usual, (1, True))[0] == 1:
        better = [mark for mark, (width, even) in widths.items() if width > 1 and even]
        best = better[0] if better else usual
    return best
