"""Writing tables of rows as JSON Lines or Parquet: streamed, byte-identical for equal rows, atomic.

Floats are written with at most seven significant decimals after rounding to six places; NaN becomes null.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trails.errors import StoreError
from trails.export.record import lists

DIGITS = 6
SUFFIXES = (".jsonl", ".parquet")
RAW_JSON = {"json": "1"}
"""Metadata of a string field that holds JSON, to be written as it is: for rows whose shape Arrow has no type for."""


def columns(table: pa.Table) -> dict[str, list[Any]]:
    """Columns as Python lists, fast for lists of numbers."""
    found: dict[str, list[Any]] = {}
    for name in table.column_names:
        kind = table.schema.field(name).type
        if pa.types.is_list(kind) and pa.types.is_integer(kind.value_type):
            found[name] = lists(table[name])
        elif pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
            found[name] = lists(table[name], digits=DIGITS)
        else:
            found[name] = table[name].to_pylist()
    return found


def json_lines(table: pa.Table) -> Iterator[str]:
    """One JSON object per row, keys in column order, text as it is."""
    named = columns(table)
    encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode
    raw = {name for name in named if (table.schema.field(name).metadata or {}).get(b"json")}
    keys = [encode(name) + ":" for name in named]
    parts = [values if name in raw else map(encode, values) for name, values in named.items()]
    for row in zip(*parts, strict=True):
        yield "{" + ",".join(map(str.__add__, keys, row)) + "}"


def write_file(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> str:
    """Write tables to ``path`` by its suffix and return the SHA-256 of the bytes.

    The file appears complete or not at all. Raises StoreError when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
                for table in tables:
                    writer.write_table(table.cast(schema).combine_chunks())
        else:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                for table in tables:
                    for line in json_lines(table):
                        file.write(line)
                        file.write("\n")
        digest = sha256(temporary)
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return digest


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
