"""Writing tables of rows as JSON Lines or Parquet: streamed, byte-identical for equal rows, atomic.

Floats are written rounded to six decimal places, without an exponent; NaN becomes null. JSON is made column by column.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trails.errors import StoreError
from trails.platform.files import refused, replacing, sha256, write_atomic
from trails.platform.threads import ahead

DIGITS = 6
SUFFIXES = (".jsonl", ".parquet")
SAVED = "data-00000-of-00001.arrow"
"""Name of the rows' file in a folder that ``datasets`` opens."""
RAW_JSON = {"json": "1"}
"""Metadata of a string field that holds JSON, to be written as it is: for rows whose shape Arrow has no type for."""

OPTIONAL = {"optional": "1"}
"""Metadata of a nullable field of a struct (text or whole number) whose key is left out of the JSON where it is null."""

GROUP_BYTES = 2**24
"""Tables are joined to row groups of at least so many bytes: what Parquet notes of every group is held until its end."""

_Item = TypeVar("_Item")


def json_text(values: pa.Array) -> pa.Array:
    """Each value as JSON text, keys of structs in their order; for the types of an export's columns, without nulls.

    Raises TypeError for another type.
    """
    kind = values.type
    if pa.types.is_string(kind):
        return pa.array(map(orjson.dumps, values.to_pylist()), pa.string())
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return values.cast(pa.string())
    if pa.types.is_floating(kind):
        numbers = np.round(values.to_numpy(zero_copy_only=False).astype(np.float64), DIGITS)
        text = pa.array(numbers).cast(pa.string())
        whole = pa.array((numbers == np.trunc(numbers)) & (np.abs(numbers) < 1e10))  # larger ones have an exponent
        text = pc.if_else(whole, pc.binary_join_element_wise(text, ".0", ""), text)
        return pc.if_else(pa.array(np.isfinite(numbers)), text, "null")
    if (
        pa.types.is_list(kind)
        and pa.types.is_primitive(kind.value_type)
        and (made := _number_lists(values)) is not None
    ):
        return made
    if pa.types.is_list(kind):
        items = pa.ListArray.from_arrays(_from_zero(values), json_text(values.flatten()))
        return pc.binary_join_element_wise("[", pc.binary_join(items, ","), "]", "")
    if pa.types.is_struct(kind):
        return _objects(list(kind), values.flatten())
    raise TypeError(f"no JSON for a column of type {kind}")


def _number_lists(lists: pa.ListArray) -> pa.Array | None:
    """Lists of numbers as JSON text; None where a number is so large that it would get an exponent."""
    numbers = lists.values.to_numpy(zero_copy_only=False)
    tiny = False
    if numbers.dtype.kind == "f":
        numbers = np.round(numbers.astype(np.float64), DIGITS)
        size = np.abs(numbers)
        if (size >= 1e10).any():
            return None
        tiny = bool(((size > 0) & (size < 1e-5)).any())
    offsets = lists.offsets.tolist()
    texts = [orjson.dumps(numbers[a:b], option=orjson.OPT_SERIALIZE_NUMPY) for a, b in pairwise(offsets)]
    if tiny:  # after rounding these are 1e-6 to 9e-6
        for digit in b"123456789":
            exponent, decimal = b"%ce-6" % digit, b"0.00000%c" % digit
            texts = [text.replace(exponent, decimal) for text in texts]
    return pa.array(texts, pa.string())


def _from_zero(values: pa.ListArray) -> pa.Array:
    """Offsets of the lists in their flattened values."""
    offsets = values.offsets.to_numpy()
    return pa.array((offsets - offsets[0]).astype(np.int32))


def _objects(fields: Sequence[pa.Field], parts: Sequence[pa.Array], end: str = "}") -> pa.Array:
    """JSON objects of their parts. The first field is not optional."""
    pieces: list[Any] = []
    for field, part in zip(fields, parts, strict=True):
        told = field.metadata or {}
        optional = b"optional" in told
        there = pc.fill_null(part, "" if pa.types.is_string(part.type) else 0) if optional else part
        text = there if b"json" in told else json_text(there)
        key = ("," if pieces else "{") + orjson.dumps(field.name).decode() + ":"
        if optional:
            pieces.append(pc.if_else(part.is_valid(), pc.binary_join_element_wise(key, text, ""), ""))
        else:
            pieces += [key, text]
    return pc.binary_join_element_wise(*pieces, end, "")


def json_lines(table: pa.Table) -> memoryview:
    """One JSON object per row and line, keys in column order, text as it is."""
    if not len(table):
        return memoryview(b"")
    lines = _objects(list(table.schema), [one_array(column) for column in table.columns], "}\n")
    first, last = lines.offset, lines.offset + len(lines)
    ends = np.frombuffer(lines.buffers()[1], np.int32)
    return memoryview(lines.buffers()[2])[ends[first] : ends[last]]


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """The column as one array."""
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)


def write_file(tables: Iterable[pa.Table], schema: pa.Schema, path: Path) -> str:
    """Write tables to ``path`` by its suffix and return the SHA-256 of the bytes.

    The file appears complete or not at all. Raises StoreError when the disk is full or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            if path.suffix == ".jsonl":
                digest = hashlib.sha256()
                with temporary.open("wb") as file:
                    for lines in ahead(map(json_lines, tables)):
                        file.write(lines)
                        digest.update(lines)
                return digest.hexdigest()
            if path.suffix == ".parquet":
                texts = [field.name for field in schema if pa.types.is_string(field.type)]  # numbers seldom repeat
                opened: Any = pq.ParquetWriter(temporary, schema, compression="zstd", use_dictionary=texts)
            else:
                opened = pa.ipc.new_stream(str(temporary), schema)
            with closing_writer(opened) as writer:
                for table in _grouped(ahead(tables), GROUP_BYTES if path.suffix == ".parquet" else 0):
                    writer.write_table(table.cast(schema))
            return sha256(temporary)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {refused(error)}") from error


@contextmanager
def closing_writer(writer: Any) -> Iterator[Any]:
    """Close a writer of Arrow at the end; one that cannot write its end is given up, so that it does not try again in the
    middle of something else.
    """
    try:
        try:
            yield writer
        finally:
            writer.close()
    except BaseException:
        if hasattr(writer, "is_open"):
            writer.is_open = False
        raise


def _grouped(tables: Iterable[pa.Table], least: int) -> Iterator[pa.Table]:
    """The same rows in tables of at least so many bytes (the last may have fewer)."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(one.nbytes for one in held) >= least:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


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
            write_atomic(folder / split / name, json.dumps(value, indent=2) + "\n")
    write_atomic(folder / "dataset_dict.json", json.dumps({"splits": list(digests)}) + "\n")
