"""Writing tables of rows as JSON Lines or Parquet: streamed, byte-identical for equal rows, atomic.

Floats are written rounded to six decimal places; NaN becomes null. JSON is made column by column: only texts pass through
Python one by one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trails.errors import StoreError
from trails.threads import ahead

DIGITS = 6
SUFFIXES = (".jsonl", ".parquet")
SAVED = "data-00000-of-00001.arrow"
"""Name of the rows' file in a folder that ``datasets`` opens."""
RAW_JSON = {"json": "1"}
"""Metadata of a string field that holds JSON, to be written as it is: for rows whose shape Arrow has no type for."""

_Item = TypeVar("_Item")


def json_text(values: pa.Array) -> pa.Array:
    """Each value as JSON text, keys of structs in their order; for the types of an export's columns, without nulls.

    Raises TypeError for another type.
    """
    kind = values.type
    if pa.types.is_string(kind):
        return pa.array(map(encode_basestring, values.to_pylist()), pa.string())
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return values.cast(pa.string())
    if pa.types.is_floating(kind):
        numbers = np.round(values.to_numpy(zero_copy_only=False).astype(np.float64), DIGITS)
        text = pa.array(numbers).cast(pa.string())
        whole = pa.array((numbers == np.trunc(numbers)) & (np.abs(numbers) < 1e10))  # larger ones have an exponent
        text = pc.if_else(whole, pc.binary_join_element_wise(text, ".0", ""), text)
        return pc.if_else(pa.array(np.isfinite(numbers)), text, "null")
    if pa.types.is_list(kind):
        items = pa.ListArray.from_arrays(_from_zero(values), json_text(values.flatten()))
        return pc.binary_join_element_wise("[", pc.binary_join(items, ","), "]", "")
    if pa.types.is_struct(kind):
        names = [kind.field(index).name for index in range(kind.num_fields)]
        return _objects(names, [json_text(part) for part in values.flatten()])
    raise TypeError(f"no JSON for a column of type {kind}")


def _from_zero(values: pa.ListArray) -> pa.Array:
    """Offsets of the lists in their flattened values."""
    offsets = values.offsets.to_numpy()
    return pa.array((offsets - offsets[0]).astype(np.int32))


def _objects(names: list[str], parts: list[pa.Array]) -> pa.Array:
    """JSON objects of parts that are JSON already."""
    pieces: list[Any] = []
    for name, part in zip(names, parts, strict=True):
        pieces += ["{" if not pieces else ",", encode_basestring(name) + ":", part]
    return pc.binary_join_element_wise(*pieces, "}", "")


def json_lines(table: pa.Table) -> bytes:
    """One JSON object per row and line, keys in column order, text as it is."""
    if not len(table):
        return b""
    parts = []
    for field, column in zip(table.schema, table.columns, strict=True):
        values = one_array(column)
        parts.append(values if (field.metadata or {}).get(b"json") else json_text(values))
    lines = _objects(table.column_names, parts)
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(lines)], pa.int32()), lines), "\n")
    return bytes(joined[0].as_buffer()) + b"\n"


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array."""
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)


def write_file(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> str:
    """Write tables to ``path`` by its suffix and return the SHA-256 of the bytes.

    The file appears complete or not at all. Raises StoreError when the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            texts = [field.name for field in schema if pa.types.is_string(field.type)]  # numbers seldom repeat
            with pq.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=texts) as writer:
                for table in ahead(tables):
                    writer.write_table(table.cast(schema))
        elif path.suffix == ".arrow":
            with pa.ipc.new_stream(str(temporary), schema) as stream:
                for table in ahead(tables):
                    stream.write_table(table.cast(schema))
        else:
            with temporary.open("wb") as file:
                for table in ahead(tables):
                    file.write(json_lines(table))
        digest = sha256(temporary)
        temporary.replace(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return digest


def describe_saved(folder: Path, digests: dict[str, str]) -> None:
    """Make a folder of ``SPLIT/data-00000-of-00001.arrow`` files what ``datasets.load_from_disk`` opens. ``digests`` are the
    SHA-256 of the files, by split; they also name the data sets in the library's cache.
    """
    for split, digest in digests.items():
        state: dict[str, Any] = {
            "_data_files": [{"filename": SAVED}],
            "_fingerprint": digest[:16],
            "_format_columns": None,
            "_format_kwargs": {},
            "_format_type": None,
            "_output_all_columns": False,
            "_split": split,
        }
        for name, value in (("state.json", state), ("dataset_info.json", {})):
            (folder / split / name).write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(digests)}) + "\n", encoding="utf-8")


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
