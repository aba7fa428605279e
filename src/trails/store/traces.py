"""The trace store: Parquet shards, the truth from which every graph can be rebuilt.

A home folder holds ``trails.json`` (format version, segmenter), ``runs/RUN.json`` (one instrument each) and
``shards/HASH.parquet`` (one row per trace, columns of :data:`trails.schema.SHARD_SCHEMA`), and what is derived from the shards
and may be deleted at any time: ``whitening/RUN-LAYER.npz`` and ``variants/ID.parquet``. A shard is named by the SHA-256
of its bytes and appears by rename, after its bytes and before its name reached the disk: a killed writer loses at most the
shard in flight, and a shard that is there is whole. One writer at a time; readers need no lock, shards never change.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trails.errors import InputError, StoreError
from trails.platform.arrays import Floats
from trails.schema import ADDED_COLUMNS, FORMAT_VERSION, SHARD_SCHEMA, Chain, Role, Run, Step, Trace, stable_hash

ROW_GROUP_TOKENS = 16_384
"""Tokens after which a shard starts a new row group: what a reader holds in memory at a time."""

# the columns that are arrays; _shape gives back their shapes
_INT_COLUMNS = (
    "token_ids",
    "token_start",
    "token_end",
    "step_tokens",
    "question_token_ids",
    "rank",
    "token_attends_step",
    "token_attends_layer",
    "peak_token",
    "peak_layer",
)
_FLOAT_COLUMNS = (
    "question_surprisal",
    "surprisal",
    "entropy",
    "logit_shift",
    "attention_shift",
    "attention_previous",
    "attention_sink",
    "attention_entropy",
    "hidden_shift",
    "hidden_baseline",
    "step_attention",
    "token_attends_mass",
    "peak_mass",
    "nll_given_all",
    "nll_given_question",
    "nll_without_previous",
    "step_states",
)
_PER_LAYER = ("attention_shift", "attention_previous", "attention_sink", "attention_entropy")
_PEAKS = ("peak_token", "peak_mass", "peak_layer")
_DIGITS = re.compile(r"[0-9a-f]*")
_TEXT_COLUMNS = ("source", "source_id", "source_sha256", "licence", "question", "text", "answer", "language")


@dataclass(frozen=True, slots=True)
class TraceDigest:
    """Order-independent fingerprints of the traces in a store, SHA-256 as hex.

    ``content`` covers identity, text, steps, tokens, spans and which measures exist; ``values`` covers also every bit of
    every measured number. Equal content with different values means: the same chains, measured differently.
    """

    content: str
    values: str
    n_traces: int


@dataclass(frozen=True, slots=True)
class HomeStats:
    """What a home holds. ``languages`` and ``roles`` count chains and steps, each chain once."""

    n_shards: int
    n_bytes: int
    n_chains: int
    chains: Mapping[str, int]  # run -> chains
    tokens: Mapping[str, int]  # run -> tokens
    sources: Mapping[str, int]
    languages: Mapping[str, int]
    roles: Mapping[str, int]


class TraceStore:
    """A home folder opened for reading, or for writing by one process at a time.

    ``write=True`` creates the folder if needed, takes the writer's lock and removes what killed writers left behind.
    Raises StoreError for a home that does not exist (reading), of a newer format, or that another process is writing.
    """

    def __init__(self, home: Path, *, write: bool = False) -> None:
        self.home = Path(home)
        self._lock: int | None = None
        try:
            if write:
                self._open_for_writing()
            elif not (self.home / "trails.json").is_file():
                raise StoreError(
                    f"{self.home} holds no trails. Type: trails ingest PATH --home {self.home}"
                    + ("" if not self.home.exists() else " (or name another folder with --home)")
                )
            self._manifest = self._read_manifest()
        except BaseException:
            self.close()
            raise

    # ---------------------------------------------------------------------------------------------------------------
    # opening and closing
    # ---------------------------------------------------------------------------------------------------------------

    def _open_for_writing(self) -> None:
        try:
            for folder in (self.home, self.home / "runs", self.home / "shards"):
                folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreError(
                f"{self.home} cannot be written: {error.strerror}. Choose another folder with --home"
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.pread(self._lock, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise StoreError(
                f"{self.home} is being written by process {holder}. Wait until it ends, or choose another folder with --home"
            ) from None
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, str(os.getpid()).encode("ascii"), 0)
        for leftover in (*self.home.glob("*.tmp"), *self.home.glob("*/*.tmp")):
            leftover.unlink(missing_ok=True)
        if not (self.home / "trails.json").exists():
            self._put_json(self.home / "trails.json", {"format": FORMAT_VERSION, "segmenter": ""})

    def _read_manifest(self) -> dict[str, Any]:
        path = self.home / "trails.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            version = int(manifest["format"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}). Restore it, or choose another folder with --home"
            ) from error
        if version > FORMAT_VERSION:
            raise StoreError(
                f"{self.home} was written by a newer trails (format {version}, this one knows {FORMAT_VERSION}). "
                "Type: pip install --upgrade trails"
            )
        return dict(manifest)

    def close(self) -> None:
        """Let go of the writer's lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> TraceStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _must_write(self) -> None:
        if self._lock is None:
            raise StoreError(f"{self.home} was opened for reading. Open it with write=True")

    @property
    def segmenter(self) -> str:
        """Hash of the segmenter whose steps the shards hold; empty when none was recorded yet."""
        return str(self._manifest.get("segmenter", ""))

    def set_segmenter(self, value: str) -> None:
        """Record which segmenter made the steps. Raises StoreError when shards with another segmenter's steps exist."""
        self._must_write()
        if value == self.segmenter:
            return
        if self.segmenter and self._shards():
            raise StoreError(
                f"{self.home} holds chains split by another version of the segmenter ({self.segmenter}, now {value}). "
                "Choose another folder with --home, so that steps stay comparable"
            )
        self._manifest["segmenter"] = value
        self._put_json(self.home / "trails.json", self._manifest)

    # ---------------------------------------------------------------------------------------------------------------
    # runs
    # ---------------------------------------------------------------------------------------------------------------

    def runs(self) -> dict[str, Run]:
        """The runs of this home by id, sorted by id."""
        found = {}
        for path in sorted((self.home / "runs").glob("*.json")):
            try:
                found[path.stem] = Run(**json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError) as error:
                raise StoreError(
                    f"{path} cannot be read ({error}). Delete this file and ingest with the same model again: nothing is "
                    "measured twice, and it is written anew"
                ) from error
        return found

    def put_run(self, run: Run) -> None:
        """Store a run. One that is there keeps its notes; notes that it lacks are added."""
        self._must_write()
        known = self.runs().get(run.id)
        if known is not None:
            run = replace(run, notes={**run.notes, **known.notes})
            if run == known:
                return
        self._put_json(self.home / "runs" / f"{run.id}.json", asdict(run))

    def update_run_notes(self, run_id: str, notes: Mapping[str, Any]) -> None:
        """Add or replace notes (JSON values) of a run. Raises StoreError for a run that is not there."""
        self._must_write()
        known = self.runs().get(run_id)
        if known is None:
            raise StoreError(f"{self.home} holds no run {run_id}. Its runs: {', '.join(self.runs()) or 'none'}")
        self._put_json(self.home / "runs" / f"{run_id}.json", asdict(replace(known, notes={**known.notes, **notes})))

    # ---------------------------------------------------------------------------------------------------------------
    # writing
    # ---------------------------------------------------------------------------------------------------------------

    def write(self, traces: Iterable[Trace]) -> str:
        """Write traces as one shard and return its name (empty for no traces).

        When this returns, the shard survives the loss of power. Raises StoreError when the disk is full or the folder
        cannot be written, and then nothing is left half-written; InputError for text that Unicode cannot encode.
        """
        self._must_write()
        rows = list(traces)
        if not rows:
            return ""
        data = encode_shard(rows)
        name = hashlib.sha256(data).hexdigest()[:32]
        path = self.home / "shards" / f"{name}.parquet"
        if not path.exists():
            self._put(path, data)
        return name

    def _put_json(self, path: Path, value: Mapping[str, Any]) -> None:
        text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
        self._put(path, text.encode("utf-8"))

    def _put(self, path: Path, data: bytes | memoryview) -> None:
        """Write a file so that it is there completely or not at all, even across a loss of power."""
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(path)
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreError(
                    f"the disk is full: {path} ({len(data):,} bytes) was not written. Free some space and type the same "
                    "command again; everything written before is kept"
                ) from error
            raise StoreError(f"{path} cannot be written: {error.strerror}") from error

    # ---------------------------------------------------------------------------------------------------------------
    # reading
    # ---------------------------------------------------------------------------------------------------------------

    def _shards(self) -> list[Path]:
        return sorted((self.home / "shards").glob("*.parquet"))

    @staticmethod
    def _file(path: Path) -> pq.ParquetFile:
        try:
            file = pq.ParquetFile(path, memory_map=True)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, error) from error
        missing = set(SHARD_SCHEMA.names) - set(file.schema_arrow.names) - set(ADDED_COLUMNS)
        if missing:
            raise _damaged(path, f"columns missing: {', '.join(sorted(missing))}")
        return file

    def _keys(self, path: Path) -> tuple[list[str], list[str]]:
        """Chain and run of every row of a shard."""
        try:
            table = self._file(path).read(["chain", "run"])
        except (OSError, pa.ArrowException) as error:
            raise _damaged(path, error) from error
        return table["chain"].to_pylist(), table["run"].to_pylist()

    def done(self, run_id: str) -> set[str]:
        """Ids of the chains that this run has measured; reads two small columns only."""
        found: set[str] = set()
        for path in self._shards():
            chains, runs = self._keys(path)
            found.update(chain for chain, run in zip(chains, runs, strict=True) if run == run_id)
        return found

    def keys(self) -> set[tuple[str, str]]:
        """(chain, run) of every trace."""
        found: set[tuple[str, str]] = set()
        for path in self._shards():
            found.update(zip(*self._keys(path), strict=True))
        return found

    def tables(
        self,
        columns: Sequence[str] | None = None,
        run: str | None = None,
        chains: Collection[str] | None = None,
        *,
        rows: int = 1,
    ) -> Iterator[pa.Table]:
        """Rows as Arrow tables in the order of the shards' names, row groups of a shard joined until they hold ``rows`` rows.

        Where several shards hold the same chain and run, the first in that order counts, so every reader sees the same
        row. ``columns`` are names of SHARD_SCHEMA (all if None); ``run`` and ``chains`` select rows. A few columns are read
        faster with more ``rows``; of every row, 8 bytes are remembered.
        """
        names = list(SHARD_SCHEMA.names if columns is None else columns)
        wanted = None if chains is None else np.unique(np.array([number_of(chain) for chain in chains], np.uint64))
        seen: dict[str, _Seen] = {}
        for path in self._shards():
            file = self._file(path)
            try:
                keys = file.read(["chain", "run"])
                numbers = id_numbers(keys["chain"])
                keep = np.ones(len(keys), dtype=bool) if wanted is None else _among(numbers, wanted)
                runs = keys["run"].combine_chunks().dictionary_encode()
                of = runs.indices.to_numpy(zero_copy_only=False)
                for code, name in enumerate(runs.dictionary.to_pylist()):
                    mine = np.flatnonzero(keep & (of == code))
                    keep[mine] = run in (None, name) and seen.setdefault(name, _Seen()).fresh(numbers[mine])
                for groups, start, stop in _bundles(file.metadata, rows):
                    kept = np.flatnonzero(keep[start:stop])
                    if len(kept):
                        table = _with_added(file.read_row_groups(groups, names, use_threads=rows == 1)).select(names)
                        yield table if len(kept) == len(table) else table.take(pa.array(kept))
            except (OSError, pa.ArrowException) as error:
                raise _damaged(path, error) from error

    def traces(self, run: str | None = None, chains: Collection[str] | None = None) -> Iterator[Trace]:
        """Traces, streamed; see :meth:`tables` for order and duplicates. Arrays are read-only views."""
        for table in self.tables(run=run, chains=chains):
            yield from decode_shard(table)

    def digest(self, run: str | None = None) -> TraceDigest:
        """Order-independent fingerprints of all traces, or of one run's."""
        content, values = [], []
        for trace in self.traces(run):
            a, b = _row_digests(trace)
            content.append(a)
            values.append(b)
        return TraceDigest(_of_rows(content), _of_rows(values), len(content))

    def states(self, run: str, layer: int) -> Iterator[Floats]:
        """Step states of a run at one of its stored layers, in blocks (steps, width); what is not finite is left out."""
        for table in self.tables(["steps", "state_layers", "step_states"], run):
            n_steps = np.diff(_list_array(table["steps"]).offsets.to_numpy())
            layers, states = _views(table["state_layers"]), _views(table["step_states"])
            mine = [
                values.reshape(count, len(of), -1)[:, of.tolist().index(layer)]
                for count, of, values in zip(n_steps.tolist(), layers, states, strict=True)
                if count and of is not None and values is not None and layer in of
            ]
            if mine:
                block = np.concatenate(mine)
                yield block[np.isfinite(block).all(axis=1)]

    def keep(self, path: Path, data: bytes) -> None:
        """Keep a file derived from the shards, below the home; a home that cannot be written is left as it is."""
        with contextlib.suppress(OSError, StoreError):
            path.parent.mkdir(exist_ok=True)
            self._put(path, data)

    def variant_file(self, name: str) -> Path:
        """Where the home keeps the run ``name`` (``v…``) of the microvariant loop, whether it is there or not."""
        return self.home / "variants" / f"{name}.parquet"

    def damaged(self) -> list[str]:
        """Names of shards whose bytes no longer have the hash that names them."""
        found = []
        for path in self._shards():
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest()[:32] != path.stem:
                    found.append(path.name)
        return found

    def stats(self) -> HomeStats:
        """Counts for ``trails status``; reads the small columns only."""
        shards = self._shards()
        chains: dict[str, int] = {}
        tokens: dict[str, int] = {}
        counted: tuple[dict[str, int], dict[str, int], dict[str, int]] = ({}, {}, {})
        seen: set[str] = set()
        columns = ["chain", "run", "source", "language", "steps", "token_ids"]
        for table in self.tables(columns):
            lengths = np.diff(_list_array(table["token_ids"]).offsets.to_numpy())
            step_array = _list_array(table["steps"])
            offsets = step_array.offsets.to_numpy()
            roles = step_array.values.field("role")
            runs, sources = table["run"].to_pylist(), table["source"].to_pylist()
            languages = table["language"].to_pylist()
            for row, chain in enumerate(table["chain"].to_pylist()):
                chains[runs[row]] = chains.get(runs[row], 0) + 1
                tokens[runs[row]] = tokens.get(runs[row], 0) + int(lengths[row])
                if chain in seen:
                    continue
                seen.add(chain)
                names = roles[int(offsets[row]) : int(offsets[row + 1])].to_pylist()
                for counter, values in zip(counted, ([sources[row]], [languages[row]], names), strict=True):
                    for value in values:
                        counter[value] = counter.get(value, 0) + 1
        size = sum(path.stat().st_size for path in shards)
        by_count = [dict(sorted(c.items(), key=lambda item: (-item[1], item[0]))) for c in counted]
        return HomeStats(len(shards), size, len(seen), chains, tokens, *by_count)


def _with_added(table: pa.Table) -> pa.Table:
    """The table with nulls in the columns that its shard was written without."""
    for name in ADDED_COLUMNS:
        if name not in table.column_names:
            field = SHARD_SCHEMA.field(name)
            table = table.append_column(field, pa.nulls(len(table), field.type))
    return table


class _Seen:
    """Numbers seen so far, as sorted arrays of which each is more than twice as long as the next."""

    def __init__(self) -> None:
        self._parts: list[npt.NDArray[np.uint64]] = []

    def fresh(self, numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of ``numbers`` occur here for the first time; they are seen from now on."""
        first = np.zeros(len(numbers), dtype=bool)
        found, places = np.unique(numbers, return_index=True)
        first[places] = True
        for part in self._parts:
            first &= ~_among(numbers, part)
        self._parts.append(np.sort(numbers[first]) if len(found) else found)
        while len(self._parts) > 1 and len(self._parts[-2]) <= 2 * len(self._parts[-1]):
            self._parts[-2:] = [np.sort(np.concatenate(self._parts[-2:]), kind="stable")]
        return first


def _among(numbers: npt.NDArray[np.uint64], known: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Which numbers lie in the sorted array ``known``."""
    if not len(known):
        return np.zeros(len(numbers), dtype=bool)
    return np.asarray(known[np.minimum(np.searchsorted(known, numbers), len(known) - 1)] == numbers)


def number_of(name: str) -> int:
    """The 16 hex digits behind the letter of an id, as a number; of any other text a hash of it, 0 of an empty one."""
    if not name:
        return 0
    digits = name[1:]
    return int(digits if len(digits) == 16 and _DIGITS.fullmatch(digits) else stable_hash(name), 16)


def id_numbers(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """:func:`number_of` of every id."""
    names = column.to_pylist()
    joined = "".join([name[1:] for name in names])
    if len(joined) == 16 * len(names) and _DIGITS.fullmatch(joined) and all(len(name) == 17 for name in names):
        return np.frombuffer(bytes.fromhex(joined), ">u8").astype(np.uint64)
    return np.array([number_of(name) for name in names], np.uint64)


def _bundles(metadata: pq.FileMetaData, rows: int) -> Iterator[tuple[list[int], int, int]]:
    """Row groups that together have at least ``rows`` rows (the last may have fewer), and their first and last row."""
    groups: list[int] = []
    start = stop = 0
    for group in range(metadata.num_row_groups):
        groups.append(group)
        stop += metadata.row_group(group).num_rows
        if stop - start >= rows or group == metadata.num_row_groups - 1:
            yield groups, start, stop
            groups, start = [], stop


def _damaged(path: Path, why: object) -> StoreError:
    return StoreError(
        f"shard {path} cannot be read ({why}). Delete this file and ingest the same input again: its chains are measured anew"
    )


# --------------------------------------------------------------------------------------------------------------------
# Trace <-> Arrow
# --------------------------------------------------------------------------------------------------------------------


def encode_shard(traces: Sequence[Trace]) -> memoryview:
    """Traces as the bytes of a Parquet file; the same traces in the same order give the same bytes."""
    table = to_table(traces)
    sink = pa.BufferOutputStream()
    # Floats are noise in their low bytes: splitting the bytes lets zstd find the structure in the high ones.
    writer = pq.ParquetWriter(
        sink,
        SHARD_SCHEMA,
        compression="zstd",
        compression_level=3,
        use_dictionary=[*_TEXT_COLUMNS[:4], "chain", "run", "tokenizer", "language", "pieces.list.element"],
        use_byte_stream_split=[f"{name}.list.element" for name in _FLOAT_COLUMNS],
        write_statistics=["chain", "run"],
        version="2.6",
        store_schema=True,
    )
    with writer:
        start, held = 0, 0
        for row, trace in enumerate(traces):
            held += trace.n_tokens
            if held >= ROW_GROUP_TOKENS or row == len(traces) - 1:
                writer.write_table(table.slice(start, row + 1 - start), row_group_size=row + 1 - start)
                start, held = row + 1, 0
    return memoryview(sink.getvalue())


def to_table(traces: Sequence[Trace]) -> pa.Table:
    """Traces as a table of SHARD_SCHEMA, row by row in the order given."""
    columns: dict[str, pa.Array] = {}
    chains = [trace.chain for trace in traces]
    steps = [step for trace in traces for step in trace.steps]
    step_type = SHARD_SCHEMA.field("steps").type.value_type
    try:
        columns["chain"] = pa.array([chain.id for chain in chains], pa.string())
        for name in (*_TEXT_COLUMNS, *ADDED_COLUMNS):
            columns[name] = pa.array([getattr(chain, name) for chain in chains], pa.string())
        columns["metadata"] = pa.array(
            [sorted(chain.metadata.items()) for chain in chains], SHARD_SCHEMA.field("metadata").type
        )
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
    except UnicodeEncodeError as error:
        name = next((f"{c.source} {c.source_id}" for c in chains if not _encodable(c)), "a chain")
        raise InputError(
            f"{name}: the text holds half of a surrogate pair, which is not a character ({error.reason}). "
            "Repair the source, for example with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from error
    for trace in traces:
        for index, step in enumerate(trace.steps):
            if step.index != index:
                raise StoreError(f"steps of chain {trace.chain.id} are not numbered from 0")
    columns["run"] = pa.array([trace.run for trace in traces], pa.string())
    columns["tokenizer"] = pa.array([trace.tokenizer for trace in traces], pa.string())
    for name in ("n_layers", "n_context"):
        columns[name] = pa.array([getattr(trace, name) for trace in traces], pa.int32())
    columns["boundaries"] = _numbers([np.asarray(chain.boundaries, np.int32) for chain in chains], np.int32)
    columns["state_layers"] = _numbers([np.asarray(trace.state_layers, np.int32) for trace in traces], np.int32)
    for name in _INT_COLUMNS:
        columns[name] = _numbers([getattr(trace, name) for trace in traces], np.int32)
    for name in _FLOAT_COLUMNS:
        columns[name] = _numbers([getattr(trace, name) for trace in traces], np.float32)
    return pa.table([columns[name] for name in SHARD_SCHEMA.names], schema=SHARD_SCHEMA)


def _encodable(chain: Chain) -> bool:
    try:
        "".join(
            (
                *(chain.question, chain.text, chain.answer, chain.source, chain.source_id),
                *(chain.messages, chain.family, *chain.metadata.values()),
            )
        ).encode()
    except UnicodeEncodeError:
        return False
    return True


def _lists(values: pa.Array, lengths: Sequence[int]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), values)


def _numbers(rows: Sequence[npt.NDArray[Any] | None], dtype: type) -> pa.ListArray:
    """One list per row from arrays of any shape, row by row; None stays null."""
    flat: list[npt.NDArray[Any]] = [
        np.zeros(0, dtype) if row is None else np.ascontiguousarray(row, dtype).reshape(-1) for row in rows
    ]
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row) for row in flat], out=offsets[1:])
    values = np.concatenate(flat) if flat else np.zeros(0, dtype)
    absent = np.array([row is None for row in rows])
    mask = pa.array(absent) if absent.any() else None
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values), mask=mask)


def _list_array(column: pa.ChunkedArray) -> pa.ListArray:
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


def _views(column: pa.ChunkedArray) -> list[npt.NDArray[Any] | None]:
    array = _list_array(column)
    values = array.values.to_numpy(zero_copy_only=False)
    offsets = array.offsets.to_numpy()
    present = array.is_valid().to_numpy(zero_copy_only=False)
    return [values[a:b] if ok else None for a, b, ok in zip(offsets[:-1], offsets[1:], present, strict=True)]


def _shape(name: str, size: int, n: int, n_steps: int, n_layers: int, n_state_layers: int) -> tuple[int, ...]:
    """Shape of a stored list; widths follow from the row itself."""
    if name in _PER_LAYER:
        return (n, n_layers)
    if name == "hidden_shift":
        return (n, size // n if n else n_layers + 1)
    if name in _PEAKS:
        return (n, size // n if n else 0)
    if name == "step_tokens":
        return (n_steps, 2)
    if name == "step_attention":
        return (n_steps * (n_steps + 5) // 2, n_layers)
    if name == "step_states":
        return (n_steps, n_state_layers, size // (n_steps * n_state_layers) if n_steps and n_state_layers else 0)
    return (size,)


_CHAIN_FIELDS = tuple(f.name for f in fields(Chain))


def decode_shard(table: pa.Table) -> Iterator[Trace]:
    """Traces of a table of SHARD_SCHEMA."""
    if not len(table):
        return
    arrays = {name: _views(table[name]) for name in (*_INT_COLUMNS, *_FLOAT_COLUMNS, "boundaries", "state_layers")}
    scalars = {
        name: table[name].to_pylist()
        for name in (
            *_TEXT_COLUMNS,
            *ADDED_COLUMNS,
            "run",
            "tokenizer",
            "n_layers",
            "n_context",
            "metadata",
            "pieces",
            "steps",
        )
    }
    for row in range(len(table)):
        n_layers = scalars["n_layers"][row]
        steps = tuple(
            Step(index, s["start"], s["end"], Role(s["role"]), s["connective"], s["sense"], s["explicit"])
            for index, s in enumerate(scalars["steps"][row])
        )
        state_layers = tuple(int(layer) for layer in _present(arrays["state_layers"][row]))
        n = len(_present(arrays["token_ids"][row]))
        measured: dict[str, Any] = {}
        for name in (*_INT_COLUMNS, *_FLOAT_COLUMNS):
            value = arrays[name][row]
            measured[name] = (
                None
                if value is None
                else value.reshape(_shape(name, value.size, n, len(steps), n_layers, len(state_layers)))
            )
        chain = Chain(
            **{name: scalars[name][row] for name in _TEXT_COLUMNS},
            **{name: scalars[name][row] or "" for name in ADDED_COLUMNS},
            boundaries=tuple(int(b) for b in _present(arrays["boundaries"][row])),
            metadata=dict(scalars["metadata"][row] or ()),
        )
        yield Trace(
            chain=chain,
            steps=steps,
            run=scalars["run"][row],
            tokenizer=scalars["tokenizer"][row],
            n_layers=n_layers,
            n_context=scalars["n_context"][row],
            pieces=tuple(scalars["pieces"][row]),
            state_layers=state_layers,
            **measured,
        )


def _present(value: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    return np.zeros(0, np.int32) if value is None else value


# --------------------------------------------------------------------------------------------------------------------
# Digests
# --------------------------------------------------------------------------------------------------------------------


def _row_digests(trace: Trace) -> tuple[bytes, bytes]:
    """Content and value fingerprint of one trace. Every part is preceded by its name and length."""
    content = hashlib.sha256()
    chain = trace.chain

    def add(into: Any, name: str, data: bytes) -> None:
        into.update(f"{name}\0{len(data)}\0".encode("ascii"))
        into.update(data)

    # the hash of the file is provenance: the same records in another order are the same content
    described = {name: getattr(chain, name) for name in _CHAIN_FIELDS if name not in ("metadata", "source_sha256")}
    for name in ADDED_COLUMNS:  # so that a home of an earlier version keeps its digest
        if not described[name]:
            del described[name]
    described["metadata"] = sorted(chain.metadata.items())
    described["steps"] = [asdict(step) for step in trace.steps]
    described |= {
        name: getattr(trace, name) for name in ("run", "tokenizer", "n_layers", "n_context", "pieces", "state_layers")
    }
    described["measured"] = [name for name in (*_INT_COLUMNS, *_FLOAT_COLUMNS) if getattr(trace, name) is not None]
    add(content, "described", json.dumps(described, ensure_ascii=True, sort_keys=True, default=str).encode("ascii"))
    for name in ("token_ids", "token_start", "token_end", "step_tokens", "question_token_ids"):
        add(content, name, np.ascontiguousarray(getattr(trace, name), "<i4").tobytes())
    values = content.copy()
    for name in ("rank", "token_attends_step", "token_attends_layer", "peak_token", "peak_layer", *_FLOAT_COLUMNS):
        value = getattr(trace, name)
        if value is not None:
            array = np.asarray(value)
            little = np.ascontiguousarray(array, "<f4" if array.dtype.kind == "f" else "<i4")
            add(values, f"{name}{array.shape}", little.tobytes())
    return content.digest(), values.digest()


def _of_rows(digests: list[bytes]) -> str:
    whole = hashlib.sha256()
    for digest in sorted(digests):
        whole.update(digest)
    return whole.hexdigest()
