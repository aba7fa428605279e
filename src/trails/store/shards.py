"""A shard's bytes: traces as a Parquet file and back, and the fingerprints of a trace.

Everything follows from :data:`trails.schema.SHARD_SCHEMA` and :data:`trails.schema.ARRAYS`. A column that later versions
added is null in the shards of earlier ones (:data:`trails.schema.OPTIONAL_COLUMNS`).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trails.errors import InputError, StoreError
from trails.platform.files import lacking
from trails.schema import (
    ADDED_COLUMNS,
    ARRAYS,
    CHAIN_TEXTS,
    MEASURE,
    MEASURES,
    OPTIONAL_COLUMNS,
    SHARD_SCHEMA,
    STEP_COLUMNS,
    TOKENISATION,
    Chain,
    Measure,
    Role,
    Step,
    Trace,
)

ROW_GROUP_TOKENS = 16_384
"""Tokens after which a shard starts a new row group: what a reader holds in memory at a time."""

KEYS_NOTE = b"trails_keys"
"""Entry of a shard's metadata: the hash of its chains and runs, so that both can be read alone and still be checked."""

_TRACE_FIELDS = {f.name: f for f in fields(Trace)}
_CHAIN_FIELDS = tuple(f.name for f in fields(Chain))
_REPEATED = ("source", "source_id", "source_sha256", "licence", "chain", "run", "tokenizer", "language")


# --------------------------------------------------------------------------------------------------------------------
# Trace -> bytes
# --------------------------------------------------------------------------------------------------------------------


def encode_shard(traces: Sequence[Trace]) -> memoryview:
    """Traces as the bytes of a Parquet file; the same traces in the same order give the same bytes."""
    return encode_table(to_table(traces), [trace.n_tokens for trace in traces])


def encode_table(table: pa.Table, n_tokens: Sequence[int]) -> memoryview:
    """A table of SHARD_SCHEMA as :func:`encode_shard` writes it; ``n_tokens`` are those of every row."""
    sink = pa.BufferOutputStream()
    note = {KEYS_NOTE: keys_hash(table["chain"].to_pylist(), table["run"].to_pylist())}
    # Floats are noise in their low bytes: splitting the bytes lets zstd find the structure in the high ones.
    writer = pq.ParquetWriter(
        sink,
        SHARD_SCHEMA.with_metadata({**(SHARD_SCHEMA.metadata or {}), **note}),
        compression="zstd",
        compression_level=3,
        use_dictionary=[*_REPEATED, "pieces.list.element", "top_pieces.list.element"],
        use_byte_stream_split=[f"{m.name}.list.element" for m in ARRAYS if m.dtype == "float32"],
        write_statistics=["chain", "run"],
        write_page_checksum=True,
        version="2.6",
        store_schema=True,
    )
    with writer:
        start, held = 0, 0
        for row, tokens in enumerate(n_tokens):
            held += tokens
            if held >= ROW_GROUP_TOKENS or row == len(n_tokens) - 1:
                writer.write_table(
                    table.slice(start, row + 1 - start).cast(writer.schema), row_group_size=row + 1 - start
                )
                start, held = row + 1, 0
    return memoryview(sink.getvalue())


def keys_hash(chains: Sequence[str], runs: Sequence[str]) -> bytes:
    """Hash of the chains and runs of a shard's rows, in their order; 32 hex digits."""
    return hashlib.sha256(json.dumps([list(chains), list(runs)]).encode("ascii")).hexdigest()[:32].encode("ascii")


def to_table(traces: Sequence[Trace]) -> pa.Table:
    """Traces as a table of SHARD_SCHEMA, row by row in the order given."""
    columns: dict[str, pa.Array] = {}
    chains = [trace.chain for trace in traces]
    steps = [step for trace in traces for step in trace.steps]
    step_type = SHARD_SCHEMA.field("steps").type.value_type
    try:
        columns["chain"] = pa.array([chain.id for chain in chains], pa.string())
        for name in CHAIN_TEXTS:
            columns[name] = pa.array([getattr(chain, name) for chain in chains], pa.string())
        for name in ADDED_COLUMNS:
            columns[name] = pa.array([getattr(chain, name) or None for chain in chains], pa.string())
        columns["line"] = pa.array([chain.line or None for chain in chains], pa.int32())
        columns["metadata"] = pa.array(
            [sorted(chain.metadata.items()) for chain in chains], SHARD_SCHEMA.field("metadata").type
        )
        columns["top_pieces"] = pa.array([trace.top_pieces or None for trace in traces], pa.list_(pa.string()))
        columns["pieces"] = _lists(
            pa.array([piece for trace in traces for piece in trace.pieces], pa.string()),
            [len(trace.pieces) for trace in traces],
        )
        columns["steps"] = _lists(
            pa.StructArray.from_arrays(
                [pa.array([getattr(step, f.name) for step in steps], f.type) for f in step_type], fields=list(step_type)
            ),
            [len(trace.steps) for trace in traces],
        )
        for name, (field_name, kind) in STEP_COLUMNS.items():
            columns[name] = _step_values(traces, field_name, kind)
    except UnicodeEncodeError as error:
        name = next((f"{c.source} {c.source_id}" for c in chains if not _encodable(c)), "a chain")
        raise InputError(
            f"{name}: the text holds half of a surrogate pair, which is not a character ({error.reason}). "
            "Repair the source, for example with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from error
    for trace in traces:
        _check(trace)
    columns["run"] = pa.array([trace.run for trace in traces], pa.string())
    columns["tokenizer"] = pa.array([trace.tokenizer for trace in traces], pa.string())
    for name in ("n_layers", "n_context"):
        columns[name] = pa.array([getattr(trace, name) for trace in traces], pa.int32())
    columns["boundaries"] = _numbers([np.asarray(chain.boundaries, np.int32) for chain in chains], "int32")
    columns["state_layers"] = _numbers([np.asarray(trace.state_layers, np.int32) for trace in traces], "int32")
    for measure in ARRAYS:
        columns[measure.name] = _numbers([trace.array(measure.name) for trace in traces], measure.dtype)
    return pa.table([columns[name] for name in SHARD_SCHEMA.names], schema=SHARD_SCHEMA)


def _check(trace: Trace) -> None:
    """Refuse what could be written but not read back."""
    for index, step in enumerate(trace.steps):
        if step.index != index:
            raise StoreError(f"steps of chain {trace.chain.id} are not numbered from 0")
    for name in trace.more:
        if name not in MEASURE or name in _TRACE_FIELDS:
            raise StoreError(f"chain {trace.chain.id} holds {name!r}, which MEASURES in schema.py does not declare")
    if trace.top_id is not None and len(np.unique(trace.top_id[trace.top_id >= 0])) != len(trace.top_pieces):
        raise StoreError(
            f"chain {trace.chain.id} holds {len(trace.top_pieces)} top_pieces, not one for every item of top_id"
        )
    for measure in ARRAYS:
        value = trace.array(measure.name)
        if value is None:
            if not measure.optional:
                raise StoreError(f"chain {trace.chain.id} holds no {measure.name}, which every trace must hold")
        elif shape_of(measure, value.size, trace_axes(trace)) != value.shape:
            raise StoreError(
                f"{measure.name} of chain {trace.chain.id} has the shape {value.shape}, not the declared ({measure.shape})"
            )


def _encodable(chain: Chain) -> bool:
    try:
        "".join((*(getattr(chain, name) for name in (*CHAIN_TEXTS, *ADDED_COLUMNS)), *chain.metadata.values())).encode()
    except UnicodeEncodeError:
        return False
    return True


def _lists(values: pa.Array, lengths: Sequence[int]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), values)


_DEFAULT_STEP = Step(0, 0, 0)


def _step_values(traces: Sequence[Trace], name: str, kind: pa.DataType) -> pa.ListArray:
    """One value of every step as a list a row; null where no step of the chain says anything."""
    unknown = getattr(_DEFAULT_STEP, name)
    rows = [[getattr(step, name) for step in trace.steps] for trace in traces]
    return pa.array([row if any(value != unknown for value in row) else None for row in rows], pa.list_(kind))


def _numbers(rows: Sequence[npt.NDArray[Any] | None], dtype: str) -> pa.ListArray:
    """One list per row from arrays of any shape, row by row; None stays null."""
    flat: list[npt.NDArray[Any]] = [
        np.zeros(0, dtype) if row is None else np.ascontiguousarray(row, dtype).reshape(-1) for row in rows
    ]
    ends = np.cumsum([len(row) for row in flat], dtype=np.int64)
    if len(ends) and ends[-1] > np.iinfo(np.int32).max:
        raise StoreError(f"{ends[-1]:,} numbers of one column do not fit into one shard; write fewer chains at a time")
    offsets = np.concatenate([np.zeros(1, np.int32), ends.astype(np.int32)])
    values = np.concatenate(flat) if flat else np.zeros(0, dtype)
    absent = np.array([row is None for row in rows])
    mask = pa.array(absent) if absent.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=mask)


# --------------------------------------------------------------------------------------------------------------------
# bytes -> Trace
# --------------------------------------------------------------------------------------------------------------------


SHARD_ERRORS = (OSError, ValueError, KeyError, TypeError, MemoryError, RuntimeError, pa.ArrowException)
"""What reading a shard raises where its bytes are wrong or the system refuses something: see :func:`unread_shard`."""


def open_shard(path: Path) -> pq.ParquetFile:
    """A shard for reading; checksums of pages are compared as they are read. Raises StoreError for a file that is no shard."""
    try:
        file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
        names = set(file.schema_arrow.names)
    except SHARD_ERRORS as error:
        raise unread_shard(path, error) from error
    if missing := set(SHARD_SCHEMA.names) - OPTIONAL_COLUMNS - names:
        raise damaged_shard(path, f"columns missing: {', '.join(sorted(missing))}")
    return file


def read_keys(path: Path, file: pq.ParquetFile) -> tuple[list[str], list[str]]:
    """Chain and run of every row. Raises StoreError where they are not those that were written."""
    try:
        table = file.read(["chain", "run"])
        # one text for each run, not one for each row: the keys of a home are kept
        chains, runs = table["chain"].to_pylist(), [sys.intern(run) for run in table["run"].to_pylist()]
        noted = (file.schema_arrow.metadata or {}).get(KEYS_NOTE)
        if noted is not None and noted != keys_hash(chains, runs):
            raise damaged_shard(path, "its chains are not those that were written")
    except SHARD_ERRORS as error:
        raise unread_shard(path, error) from error
    return chains, runs


def complete(table: pa.Table, names: Sequence[str]) -> pa.Table:
    """The columns ``names`` of a table read from a shard; null where the shard is older than the column."""
    columns = [
        table[name] if name in table.column_names else pa.nulls(len(table), SHARD_SCHEMA.field(name).type)
        for name in names
    ]
    return pa.table(columns, names=list(names))


class DamagedError(StoreError):
    """The bytes of a shard are not those that were written."""


def damaged_shard(path: Path, why: object) -> DamagedError:
    """The error of a shard whose bytes are wrong."""
    return DamagedError(
        f"shard {path} is damaged ({why}). Set it aside: trails verify --set-aside --home {path.parents[1]}. Then ingest the "
        "same input again: only its chains are measured again"
    )


def unread_shard(path: Path, error: BaseException) -> StoreError:
    """The error of a shard that could not be read: damage where its bytes are wrong, else what the system refused (memory, a
    thread, the file). The bytes are compared with the name again, with neither a thread nor a mapping.
    """
    if isinstance(error, StoreError):
        return error
    whole = False
    if not (lacking(error) or (isinstance(error, OSError) and error.errno is not None)):
        try:
            with path.open("rb", buffering=0) as file:
                whole = hashlib.file_digest(file, "sha256").hexdigest()[:32] == path.stem
        except (OSError, MemoryError) as second:
            error = second
        else:
            # what was written whole and makes no sense was written wrong
            if not whole or isinstance(error, (ValueError, KeyError, TypeError)):
                return damaged_shard(path, error)
    why = " ".join(str(getattr(error, "strerror", None) or error or type(error).__name__).split())
    return StoreError(
        f"shard {path} could not be read: {why}. Nothing says that it is damaged: it stays where it is. When the cause is gone "
        "(memory, the limit of processes, permissions, the disk), run the same command again"
    )


def list_array(column: pa.ChunkedArray) -> pa.ListArray:
    """One chunk whose offsets start at 0 and whose values are exactly its own."""
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    if isinstance(array, pa.ChunkedArray):  # no rows at all
        array = pa.array([], column.type)
    if array.offset or array.offsets[0].as_py():
        array = pa.concat_arrays([array, array.slice(0, 0)])
    if len(array) and array.offsets[0].as_py():
        start = array.offsets[0].as_py()
        offsets = pa.array(array.offsets.to_numpy() - start)
        array = pa.ListArray.from_arrays(
            offsets, array.values.slice(start), mask=array.is_null() if array.null_count else None
        )
    return array


def views(column: pa.ChunkedArray) -> list[npt.NDArray[Any] | None]:
    """The lists of a column as arrays without copying; None for null."""
    array = list_array(column)
    values = array.values.to_numpy(zero_copy_only=False)
    offsets = array.offsets.to_numpy()
    present = array.is_valid().to_numpy(zero_copy_only=False)
    return [values[a:b] if ok else None for a, b, ok in zip(offsets[:-1], offsets[1:], present, strict=True)]


def trace_axes(trace: Trace) -> dict[str, int]:
    """Lengths of the axes that a trace itself gives."""
    keys = trace.step_keys
    return _axes(
        trace.n_tokens, len(trace.steps), trace.n_layers, len(trace.state_layers), None if keys is None else len(keys)
    )


def _axes(n: int, n_steps: int, n_layers: int, n_kept: int, n_keys: int | None) -> dict[str, int]:
    bins = n_steps * (n_steps + 5) // 2 if n_keys is None else n_keys
    return {"n": n, "S": n_steps, "L": n_layers, "L+1": n_layers + 1, "s": n_kept, "B": bins}


def shape_of(measure: Measure, size: int, axes: dict[str, int]) -> tuple[int, ...]:
    """Shape of a stored list of ``size`` numbers. The one axis that the row does not give follows from the size; 0 where
    nothing says how long it is.
    """
    known = [int(axis) if axis.isdigit() else axes.get(axis) for axis in measure.axes]
    rest = prod(length for length in known if length is not None)
    return tuple(length if length is not None else size // rest if rest else 0 for length in known)


def decode_shard(table: pa.Table) -> Iterator[Trace]:
    """Traces of a table of SHARD_SCHEMA, or of some of its columns: what was not read is left empty."""
    if not len(table):
        return
    present = set(table.column_names)
    read = [measure for measure in ARRAYS if measure.name in present]
    arrays = {
        name: views(table[name]) for name in (*(m.name for m in read), "boundaries", "state_layers") if name in present
    }
    texts = [name for name in (*CHAIN_TEXTS, *ADDED_COLUMNS) if name in present]
    scalars = {
        name: table[name].to_pylist()
        for name in (
            *texts,
            "line",
            "run",
            "tokenizer",
            "n_layers",
            "n_context",
            "metadata",
            "pieces",
            "steps",
            "top_pieces",
        )
        if name in present
    }
    added = {name: table[name].to_pylist() for name in STEP_COLUMNS if name in present}
    for row in range(len(table)):
        n_layers = scalars["n_layers"][row] if "n_layers" in scalars else 0
        steps = tuple(
            Step(
                index,
                s["start"],
                s["end"],
                Role(s["role"]),
                s["connective"],
                s["sense"],
                s["explicit"],
                **{STEP_COLUMNS[name][0]: rows[row][index] for name, rows in added.items() if rows[row] is not None},
            )
            for index, s in enumerate(scalars["steps"][row] if "steps" in scalars else ())
        )
        of = {name: values[row] for name, values in arrays.items()}
        state_layers = tuple(int(layer) for layer in _present(of.get("state_layers")))
        keys = of.get("step_keys")
        axes = _axes(
            len(_present(of.get("token_ids"))),
            len(steps),
            n_layers,
            len(state_layers),
            None if keys is None else len(keys),
        )
        measured: dict[str, Any] = {}
        more: dict[str, Any] = {}
        for measure in read:
            value = of[measure.name]
            if value is None:
                if not measure.optional:
                    raise ValueError(f"row {row} holds no {measure.name}")
                continue
            shaped = value.reshape(shape_of(measure, value.size, axes))
            (measured if measure.name in _TRACE_FIELDS else more)[measure.name] = shaped
        for measure in ARRAYS:
            if measure.name not in present and measure.name in _TRACE_FIELDS and not measure.optional:
                measured[measure.name] = np.zeros(tuple(0 for _ in measure.axes), measure.dtype)
        pieces = tuple(scalars["top_pieces"][row] or ()) if "top_pieces" in scalars else ()
        top, likely = measured.get("top_id"), measured.get("top_log_probability")
        if {"top_id", "top_log_probability", "top_pieces"} <= present and (
            (top is None) != (likely is None)
            or (top is not None and likely is not None and top.shape != likely.shape)
            or len(pieces) != (0 if top is None else len(np.unique(top[top >= 0])))
        ):
            raise ValueError(f"row {row} holds alternatives that do not fit together")
        chain = Chain(
            **{"source": "", "source_id": "", "question": "", "text": ""}
            | {name: scalars[name][row] or "" for name in texts},
            boundaries=tuple(int(b) for b in _present(of.get("boundaries"))),
            metadata=dict(scalars["metadata"][row] or ()) if "metadata" in scalars else {},
            line=(scalars["line"][row] or 0) if "line" in scalars else 0,
        )
        yield Trace(
            chain=chain,
            steps=steps,
            run=scalars["run"][row] if "run" in scalars else "",
            tokenizer=scalars["tokenizer"][row] if "tokenizer" in scalars else "",
            n_layers=n_layers,
            n_context=scalars["n_context"][row] if "n_context" in scalars else 0,
            pieces=tuple(scalars["pieces"][row]) if "pieces" in scalars else (),
            state_layers=state_layers,
            top_pieces=pieces,
            more=more,
            **measured,
        )


def _present(value: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    return np.zeros(0, np.int32) if value is None else value


# --------------------------------------------------------------------------------------------------------------------
# Digests
# --------------------------------------------------------------------------------------------------------------------

_ADDED_TO_STEPS = {f.name: getattr(_DEFAULT_STEP, f.name) for f in fields(Step)[7:]}
"""What later versions added to a step, with the value that says nothing."""

_INTS_FIRST = (*(m for m in ARRAYS if m.dtype == "int32"), *(m for m in ARRAYS if m.dtype == "float32"))


def row_digests(trace: Trace) -> tuple[bytes, bytes]:
    """Content and value fingerprint of one trace. Every part is preceded by its name and length. What a later version added
    and this trace does not hold leaves no mark, so that a digest stays what it was.
    """
    content = hashlib.sha256()
    chain = trace.chain

    def add(into: Any, name: str, data: bytes) -> None:
        into.update(f"{name}\0{len(data)}\0".encode("ascii"))
        into.update(data)

    # the hash of the file and the line are provenance: the same records in another order are the same content
    provenance = ("metadata", "source_sha256", "line")
    described = {name: getattr(chain, name) for name in _CHAIN_FIELDS if name not in provenance}
    described = {name: value for name, value in described.items() if value or name not in ADDED_COLUMNS}
    described["metadata"] = sorted(chain.metadata.items())
    described["steps"] = [
        {
            name: value
            for name, value in asdict(step).items()
            if name not in _ADDED_TO_STEPS or value != _ADDED_TO_STEPS[name]
        }
        for step in trace.steps
    ]
    described |= {
        name: getattr(trace, name) for name in ("run", "tokenizer", "n_layers", "n_context", "pieces", "state_layers")
    }
    if trace.top_pieces:
        described["top_pieces"] = trace.top_pieces
    held = [(m, value) for m in _INTS_FIRST if (value := trace.array(m.name)) is not None]
    described["measured"] = [m.name for m, _ in held]
    add(content, "described", json.dumps(described, ensure_ascii=True, sort_keys=True, default=str).encode("ascii"))
    for measure in TOKENISATION:
        if (tokens := trace.array(measure.name)) is not None:
            add(content, measure.name, np.ascontiguousarray(tokens, "<i4").tobytes())
    values = content.copy()
    for measure, value in held:
        if measure in MEASURES:
            little = np.ascontiguousarray(value, "<f4" if measure.dtype == "float32" else "<i4")
            add(values, f"{measure.name}{value.shape}", little.tobytes())
    return content.digest(), values.digest()


def digest_of_rows(digests: list[bytes]) -> str:
    """One fingerprint of many, whatever their order."""
    whole = hashlib.sha256()
    for digest in sorted(digests):
        whole.update(digest)
    return whole.hexdigest()
