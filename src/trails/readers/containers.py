"""Records in files: JSON Lines, JSON arrays, Parquet, Arrow, CSV and TSV.

In: a :class:`~trails.readers.base.SourceFile`. Out: ``(place, record)`` pairs, place counted from 1 (a line; a row in Parquet
and Arrow). One record, one batch of rows or one megabyte of an array is in memory at a time.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trails.errors import InputError
from trails.readers.base import ReadReport, SourceFile, strip_bom

CHUNK = 1 << 20
BATCH_ROWS = 256
MAX_OBJECT_BYTES = 256_000_000
_BETWEEN = re.compile(r"[ \t\r\n,]*")


def records(file: SourceFile, report: ReadReport) -> Iterator[tuple[int, Any]]:
    """All records of the file. A broken line goes to the report; a broken array or table raises InputError."""
    container = file.container
    if container == "jsonl":
        return _json_lines(file, report)
    if container == "json":
        return _json_document(file)
    if container in ("parquet", "arrow"):
        return _columns(file)
    if container in ("csv", "tsv"):
        return _delimited(file, report)
    raise InputError(f"{file.shown}: this is text, not records. Use --reader text.")


def peek(file: SourceFile) -> Mapping[str, Any] | None:
    """The first record that is an object, or None."""
    if file.container == "text":
        return None
    try:
        quiet = ReadReport(tolerance=1_000)
        for _, record in itertools.islice(records(file, quiet), 100):
            if isinstance(record, Mapping):
                return record
    except InputError:
        return None  # the error is raised again, and told, when the file is read
    return None


def lines(file: SourceFile, report: ReadReport) -> Iterator[tuple[int, str]]:
    """Decoded lines without their line ends, numbered from 1; a line that is too long or not text goes to the report."""
    if file.head.startswith((b"\xff\xfe", b"\xfe\xff")) and not file.encoding.lower().startswith("utf-16"):
        raise InputError(f"{file.shown}: this is UTF-16, not UTF-8. Convert it: iconv -f UTF-16 -t UTF-8 FILE.")
    if file.encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32")):
        yield from _wide_lines(file)
        return
    if b"\x00" in file.head:
        raise InputError(f"{file.shown}: this is binary data, not text.")
    limit = file.max_record_bytes
    with file.open() as stream:
        for number in itertools.count(1):
            try:
                data = stream.readline(limit + 2)
            except (OSError, EOFError) as error:
                raise InputError(f"{file.shown}:{number}: the gzip data is damaged ({error}).") from None
            if not data:
                return
            if number == 1:
                data = strip_bom(data)
            size = len(data.rstrip(b"\r\n"))
            if size > limit:
                while data and not data.endswith(b"\n"):  # the rest of the line, piece by piece
                    data = stream.readline(CHUNK)
                report.bad_record(
                    file.shown,
                    number,
                    f"the line is longer than {limit:,} bytes (max_record_bytes, --max-record-bytes).",
                )
                continue
            try:
                yield number, data.decode(file.encoding).rstrip("\r\n")
            except UnicodeDecodeError as error:
                report.bad_record(
                    file.shown,
                    number,
                    f"byte 0x{data[error.start]:02x} at position {error.start} is not {file.encoding.upper()}. "
                    "Name the encoding (--encoding cp1251) or convert the file with iconv.",
                )


def _wide_lines(file: SourceFile) -> Iterator[tuple[int, str]]:
    """Lines of UTF-16 and UTF-32, which cannot be cut at the byte of a line feed."""
    with file.open() as stream, io.TextIOWrapper(stream, encoding=file.encoding) as text:
        number = 0
        try:
            for number, line in enumerate(text, 1):
                yield number, line.removeprefix("\ufeff").rstrip("\r\n")
        except UnicodeError as error:
            raise InputError(f"{file.shown}:{number + 1}: not {file.encoding.upper()} ({error}).") from None


def _json_lines(file: SourceFile, report: ReadReport) -> Iterator[tuple[int, Any]]:
    for number, line in lines(file, report):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            report.bad_record(file.shown, number, f"broken JSON: {error.msg} at column {error.colno}.")
        except RecursionError:
            report.bad_record(file.shown, number, "broken JSON: nested too deep.")
        except ValueError as error:
            report.bad_record(file.shown, number, f"broken JSON: {error}.")
        else:
            yield number, record


def _json_document(file: SourceFile) -> Iterator[tuple[int, Any]]:
    with file.open() as stream, io.TextIOWrapper(stream, encoding=file.encoding) as text:
        try:
            start = ""
            while not start.strip():
                piece = text.read(CHUNK)
                if not piece:
                    return
                start += piece
            start = start.removeprefix("\ufeff")
            if start.lstrip().startswith("["):
                yield from _array(file, text, start)
            else:
                yield from _object(file, text, start)
        except UnicodeDecodeError as error:
            raise InputError(
                f"{file.shown}: byte 0x{error.object[error.start]:02x} is not {file.encoding.upper()}. "
                "Name the encoding (--encoding cp1251) or convert the file with iconv."
            ) from None
        except EOFError as error:
            raise InputError(f"{file.shown}: the gzip data is damaged ({error}).") from None


def _array(file: SourceFile, text: io.TextIOWrapper, buffer: str) -> Iterator[tuple[int, Any]]:
    """Elements of a JSON array, decoded one at a time from a sliding buffer."""
    decoder = json.JSONDecoder()
    line, column = 1, 0  # of ``counted``, up to which line breaks were counted
    counted = 0
    position = buffer.index("[") + 1
    grow = CHUNK
    ended = False
    while True:
        # blanks and the comma before the next element
        skipped = _BETWEEN.match(buffer, position)
        position = skipped.end() if skipped else position
        if buffer.startswith("]", position):
            return
        breaks = buffer.count("\n", counted, position)
        column = position - buffer.rfind("\n", counted, position) - 1 if breaks else column + position - counted
        line, counted = line + breaks, position
        if position < len(buffer):
            try:
                value, end = decoder.raw_decode(buffer, position)
                if end < len(buffer) or ended:
                    yield line, value
                    position, grow = end, CHUNK
                    continue
            except RecursionError:
                raise InputError(f"{file.shown}:{line}: broken JSON: nested too deep.") from None
            except ValueError as error:
                place, message = line, str(error)
                if isinstance(error, json.JSONDecodeError):
                    inner = buffer.count("\n", position, error.pos)
                    at = (
                        error.pos - buffer.rfind("\n", position, error.pos)
                        if inner
                        else error.pos - position + column + 1
                    )
                    place, message = line + inner, f"{error.msg} at column {at}"
                if ended:
                    raise InputError(
                        f"{file.shown}:{place}: broken JSON: {message}. "
                        "An array cannot be read past a mistake; JSON Lines can."
                    ) from None
                if len(buffer) - position > file.max_record_bytes:
                    raise InputError(
                        f"{file.shown}:{place}: broken JSON: {message}, or a record longer than "
                        f"{file.max_record_bytes:,} bytes (max_record_bytes, --max-record-bytes)."
                    ) from None
        if ended:
            raise InputError(f"{file.shown}:{line}: broken JSON: the array does not end with a closing bracket.")
        piece = text.read(grow)
        grow *= 2  # so that a long element is decoded a logarithmic number of times
        ended = not piece
        buffer, position, counted = buffer[position:] + piece, 0, 0


def _object(file: SourceFile, text: io.TextIOWrapper, start: str) -> Iterator[tuple[int, Any]]:
    """One JSON object: the records of its only list of objects, or the object itself."""
    whole = start + text.read(MAX_OBJECT_BYTES)
    if text.read(1):
        raise InputError(
            f"{file.shown}: one JSON object of more than {MAX_OBJECT_BYTES:,} characters. Make it JSON Lines."
        )
    try:
        value = json.loads(whole)
    except json.JSONDecodeError as error:
        raise InputError(f"{file.shown}:{error.lineno}: broken JSON: {error.msg} at column {error.colno}.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file.shown}: broken JSON: {error}.") from None
    lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(item, Mapping) for item in v)]
    if len(lists) == 1 and not any(key in value for key in ("messages", "conversations")):
        yield from enumerate(lists[0], 1)
    else:
        yield 1, value


def _columns(file: SourceFile) -> Iterator[tuple[int, Any]]:
    row = 0
    try:
        for batch in _batches(file):
            for record in batch.to_pylist():
                row += 1
                yield row, record
    except pa.ArrowInvalid as error:
        raise InputError(f"{file.shown}: not readable as {file.container} ({str(error).splitlines()[0]}).") from None
    except OSError as error:
        raise InputError(f"{file.shown}:{row}: cannot be read ({str(error).splitlines()[0]}).") from None


def _batches(file: SourceFile) -> Iterator[pa.RecordBatch]:
    if file.container == "parquet":
        yield from pq.ParquetFile(file.path).iter_batches(batch_size=BATCH_ROWS)
        return
    with pa.memory_map(str(file.path)) as source:
        if file.head.startswith(b"ARROW1"):
            reader = pa.ipc.open_file(source)
            batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(source))
        for batch in batches:
            for start in range(0, batch.num_rows, BATCH_ROWS):
                yield batch.slice(start, BATCH_ROWS)


def _delimited(file: SourceFile, report: ReadReport) -> Iterator[tuple[int, Any]]:
    """Rows of CSV or TSV with a header line; a quoted field may hold line breaks. The place is the row's last line."""
    place = 0

    def source() -> Iterator[str]:
        nonlocal place
        for number, line in lines(file, report):
            place = number
            yield line + "\n"

    csv.field_size_limit(max(csv.field_size_limit(), file.max_record_bytes))
    rows = csv.reader(source(), delimiter="\t" if file.container == "tsv" else ",")
    try:
        header = next(rows, None)
        if header is None:
            return
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                report.bad_record(file.shown, place, f"{len(row)} fields where the header has {len(header)}.")
                continue
            yield place, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise InputError(f"{file.shown}:{place}: broken table: {error}.") from None
