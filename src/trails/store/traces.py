"""The trace store: Parquet shards, the truth from which every graph can be rebuilt.

A home folder holds ``trails.json`` (format version, segmenter, identity of the home), ``runs/RUN.json`` (one instrument each)
and ``shards/HASH.parquet`` (one row per trace, columns of :data:`trails.schema.SHARD_SCHEMA`), and what is derived from the
shards and may be deleted at any time: ``whitening/RUN-LAYER.npz``, ``columns/RUN`` and ``variants/ID.parquet``. A shard is
named by the SHA-256 of its bytes and appears by rename, after its bytes and before its name reached the disk: a killed writer
loses at most the shard in flight, and a shard that is there is whole. One writer at a time; readers need no lock, shards never
change.

No damaged shard is read as other data. Before its traces are read a shard is compared with the hash that names it, once per
opened store; chain and run alone are compared with a hash of their own (:func:`trails.store.shards.read_keys`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from trails.errors import StoreError
from trails.platform.arrays import Floats, Keys
from trails.platform.columns import let_go, read_columns, write_columns
from trails.platform.files import check_regular, refused, write_atomic
from trails.platform.locks import HeldError, WriterLock
from trails.platform.spoken import spoken
from trails.platform.text import counted
from trails.schema import FORMAT_VERSION, SHARD_SCHEMA, HomeIdentity, Run, Trace, checked_run, stable_hash
from trails.store.corrections import NAME as CORRECTIONS
from trails.store.corrections import Correction, automatic, corrected, corrections_json, fitting, read_corrections
from trails.store.shards import (
    KEYS_NOTE,
    SHARD_ERRORS,
    DamagedError,
    complete,
    damaged_shard,
    decode_shard,
    digest_of_rows,
    encode_shard,
    list_array,
    open_shard,
    read_keys,
    row_digests,
    unread_shard,
    views,
)

_DIGITS = re.compile(r"[0-9a-f]*")

KEPT_NUMBERS = 2**20
"""So many numbers of chains are kept once they were read (8 bytes each); those of further shards are read again."""

SOURCE_STEPS = "-source"
"""End of a segmenter's name in the home of chains whose source steps were kept whole."""


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
    """What a home holds. ``languages`` and ``roles`` count chains and steps, each chain once; a chain whose words are not those
    of its language counts as ``unknown`` (:func:`trails.platform.spoken.spoken`).
    """

    n_shards: int
    n_bytes: int
    n_chains: int
    chains: Mapping[str, int]  # run -> chains
    tokens: Mapping[str, int]  # run -> tokens
    sources: Mapping[str, int]
    languages: Mapping[str, int]
    roles: Mapping[str, int]
    corrections: tuple[int, int] = (0, 0)  # corrected steps with the borders of the home's steps, and all of them


class TraceStore:
    """A home folder opened for reading, or for writing by one process at a time.

    ``write=True`` creates the folder if needed, takes the writer's lock and removes what killed writers left behind.
    Raises StoreError for a home that does not exist (reading), of a newer format, or that another process is writing.
    """

    def __init__(self, home: Path, *, write: bool = False) -> None:
        self.home = Path(home)
        self._lock: WriterLock | None = None
        self._made: list[Path] = []
        self._compared: set[str] = set()
        self._known_keys: dict[str, tuple[list[str], list[str]]] = {}
        self._known_numbers: dict[str, Keys] = {}
        self._set_aside: frozenset[str] = frozenset()
        self._corrections: dict[str, Correction] | None = None
        try:
            if self.home.is_dir():
                for path in (*self.home.iterdir(), *self.home.glob("runs/*.json")):
                    check_regular(path, folder=True)
            if write:
                self._open_for_writing()
            elif not (self.home / "trails.json").is_file():
                raise StoreError(
                    f"{self.home} holds no trails. Run: trails ingest PATH --home {self.home}"
                    + ("" if not self.home.exists() else " (or name another folder with --home)")
                )
            self._manifest = self._read_manifest()
        except BaseException:
            if self._lock is not None:
                self._unmake()
            self.close()
            raise

    # ---------------------------------------------------------------------------------------------------------------
    # opening and closing
    # ---------------------------------------------------------------------------------------------------------------

    def _open_for_writing(self) -> None:
        try:
            for folder in (self.home, self.home / "runs", self.home / "shards"):
                if not folder.is_dir():
                    # what people reason about is theirs: nobody else may read it
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    self._made.append(folder)
            self._lock = WriterLock(self.home / "lock")
        except HeldError as holder:
            raise StoreError(
                f"{self.home} is being written by process {holder}. Wait until it ends, or choose another folder with --home"
            ) from None
        except OSError as error:
            self._unmake()
            raise StoreError(
                f"{self.home} cannot be written: {error.strerror}. Choose another folder with --home"
            ) from error
        for leftover in (*self.home.glob("*.tmp"), *self.home.glob("*/*.tmp")):
            leftover.unlink(missing_ok=True)
        if not (self.home / "trails.json").exists():
            self._put_json(self.home / "trails.json", {"format": FORMAT_VERSION, "segmenter": ""})
            self._made.append(self.home / "trails.json")

    def _unmake(self) -> None:
        """Remove what this opening made of a home that it could not finish; what somebody else put there stays."""
        if self.home in self._made and not (self.home / "trails.json").exists():
            (self.home / "lock").unlink(missing_ok=True)
        for folder in reversed([made for made in self._made if made.is_dir()]):
            with contextlib.suppress(OSError):  # not empty: something of somebody else's
                folder.rmdir()
        self._made = []

    def _read_manifest(self) -> dict[str, Any]:
        path = self.home / "trails.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            version = int(manifest["format"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}). Restore it, or choose another folder with --home"
            ) from error
        if version > FORMAT_VERSION:
            raise StoreError(
                f"{self.home} was written by a newer trails (format {version}, this one knows {FORMAT_VERSION}). "
                "Run: pip install --upgrade trails"
            )
        return dict(manifest)

    def close(self) -> None:
        """Let go of the writer's lock."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def give_up_if_empty(self) -> bool:
        """Remove a home that this opening made and that holds no chain; return whether it did. What somebody else put there
        stays.
        """
        if self._lock is None or self.home / "trails.json" not in self._made or self._shards():
            return False
        ours = [self.home / "trails.json", self.home / "lock", *self.home.glob("runs/r*.json")]
        if self.home in self._made:
            ours += self.home.glob("graph.*")
        elif not (self.home / "graph.kgl").exists():
            ours.append(self.home / "graph.lock")
        for path in ours:
            path.unlink(missing_ok=True)
        for folder in reversed([made for made in self._made if made.is_dir()]):
            with contextlib.suppress(OSError):  # not empty: something of the user's
                folder.rmdir()
        self._made = []
        self.close()
        return True

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

    def identity(self) -> HomeIdentity:
        """The home among others that share a graph; a copy of the folder is the same home. A home of an earlier version gets
        its identity here. Raises StoreError where it cannot be written.
        """
        found = self._manifest.get("home")
        if isinstance(found, dict) and re.fullmatch(r"h[0-9a-f]{16}", str(found.get("id"))):
            return HomeIdentity(found["id"], str(found.get("name", "")))
        if self._lock is None:
            with TraceStore(self.home, write=True) as writing:
                identity = writing.identity()
            self._manifest = self._read_manifest()
            return identity
        place = self.home.resolve()
        identity = HomeIdentity(
            "h" + secrets.token_hex(8), place.parent.name if place.name == ".trails" else place.name
        )
        self._manifest["home"] = asdict(identity)
        self._put_json(self.home / "trails.json", self._manifest)
        return identity

    def set_segmenter(self, value: str) -> None:
        """Record which segmenter made the steps. Raises StoreError when shards with another segmenter's steps exist."""
        self._must_write()
        if value == self.segmenter:
            return
        if self.segmenter and self._shards():
            if self.segmenter.endswith(SOURCE_STEPS) != value.endswith(SOURCE_STEPS):
                raise StoreError(f"{self.home} {other_option(self.segmenter)}")
            raise StoreError(
                f"{self.home} holds chains split by another version of the segmenter ({self.segmenter}, now {value}). "
                "Choose another folder with --home, or split what is there again: trails rebuild --segment --home "
                f"{self.home}"
            )
        self._manifest["segmenter"] = value
        self._put_json(self.home / "trails.json", self._manifest)

    def resegmented(self, value: str) -> None:
        """Record which segmenter made the steps of all shards, after all of them were written again."""
        self._must_write()
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
                found[path.stem] = checked_run(Run(**json.loads(path.read_text(encoding="utf-8"))))
            except (OSError, ValueError, TypeError, RecursionError) as error:
                raise StoreError(
                    f"{path} cannot be read ({error}). Delete this file and ingest with the same model again: nothing is "
                    "measured twice, and it is written again"
                ) from error
        return found

    def check_run(self, run: Run) -> None:
        """Raises StoreError where the home holds the run with another configuration of the model.

        A run's id covers the weights, and the same weights with another ``rope_theta`` give other numbers.

        Configurations are compared as one version of transformers reads them; a run without the note is believed.
        """
        known = self.runs().get(run.id)
        if known is None or known.notes.get("transformers") != run.notes.get("transformers"):
            return
        before, now = known.notes.get("config"), run.notes.get("config")
        if before is None or now is None or before == now:
            return
        names = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
        said = "; ".join(f"{name} was {_said(before, name)}, is {_said(now, name)}" for name in names[:3])
        raise StoreError(
            f"run {run.id} of {self.home} was measured with another configuration of {run.model}: {said}"
            f"{', …' if len(names) > 3 else ''}. Its numbers cannot be compared with these. Restore the model's config.json, "
            "or measure into another home: --home FOLDER"
        )

    def put_run(self, run: Run) -> None:
        """Store a run. One that is there keeps its notes; notes that it lacks are added."""
        self._must_write()
        known = self.runs().get(run.id)
        if known is not None:
            self.check_run(run)
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

    def drop_run(self, run_id: str) -> None:
        """Forget a run of which there are no chains."""
        self._must_write()
        (self.home / "runs" / f"{run_id}.json").unlink(missing_ok=True)

    # ---------------------------------------------------------------------------------------------------------------
    # writing
    # ---------------------------------------------------------------------------------------------------------------

    def write(self, traces: Iterable[Trace]) -> str:
        """Write traces as one shard and return its name (empty for no traces).

        When this returns, the shard survives the loss of power. Raises StoreError when the disk is full or the folder
        cannot be written, and then nothing is left half-written; InputError for text that Unicode cannot encode.
        """
        self._must_write()
        name, data = shard_of(traces)
        if name:
            self._put_shard(name, data)
        return name

    def adopt(self, name: str, data: bytes | memoryview) -> bool:
        """Take the bytes of a whole shard that another process or another home wrote; return whether it was not here yet.

        Raises StoreError where the bytes are not those that gave the shard its name, or cannot be written.
        """
        self._must_write()
        if hashlib.sha256(data).hexdigest()[:32] != name:
            raise StoreError(
                f"shard {name} arrived with bytes other than those that were written; nothing of it was kept. "
                "Run the same command again"
            )
        return self._put_shard(name, data)

    def _put_shard(self, name: str, data: bytes | memoryview) -> bool:
        return put_shard(self.home, name, data)

    def shard_names(self) -> tuple[str, ...]:
        """Names of the shards that are read."""
        return tuple(path.name for path in self._shards())

    def shard_keys(self, name: str) -> list[tuple[str, str]]:
        """(chain, run) of every row of one shard, in its order."""
        return list(zip(*self._keys(self.home / "shards" / name), strict=True))

    def shard_data(self, name: str) -> bytes:
        """The bytes of a shard, compared with its name."""
        path = self.home / "shards" / name
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise StoreError(f"shard {path} was replaced while it was read. Run the command again") from None
        except (OSError, MemoryError) as error:
            raise unread_shard(path, error) from error
        if hashlib.sha256(data).hexdigest()[:32] != path.stem:
            raise damaged_shard(path, "its bytes are not those that were written")
        return data

    def shards_of(self, pairs: Collection[tuple[str, str]]) -> list[str]:
        """Names of the shards that hold one of these (chain, run) pairs."""
        wanted = set(pairs)
        return [path.name for path in self._shards() if not wanted.isdisjoint(zip(*self._keys(path), strict=True))]

    def shard(self, name: str) -> Iterator[Trace]:
        """Every row of one shard, in its order."""
        path = self.home / "shards" / name
        file = self._file(path)
        try:
            for group in range(file.metadata.num_row_groups):
                yield from decode_shard(complete(file.read_row_group(group), SHARD_SCHEMA.names))
        except SHARD_ERRORS as error:
            raise unread_shard(path, error) from error

    def rewrite(self, name: str, traces: Sequence[Trace]) -> str:
        """Put traces in the place of a shard and return the new name (empty for none). The new shard is whole before the old
        one goes: a kill between leaves both, and their rows are the same chains.
        """
        new = self.write(traces)
        if name != f"{new}.parquet":
            (self.home / "shards" / name).unlink(missing_ok=True)
        return new

    def _put_json(self, path: Path, value: Mapping[str, Any]) -> None:
        text = json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
        self._put(path, text.encode("utf-8"))

    def _put(self, path: Path, data: bytes | memoryview) -> None:
        put_file(path, data)

    # ---------------------------------------------------------------------------------------------------------------
    # reading
    # ---------------------------------------------------------------------------------------------------------------

    def _shards(self) -> list[Path]:
        found = sorted((self.home / "shards").glob("*.parquet"))
        for path in found:
            check_regular(path)
        return [path for path in found if path.name not in self._set_aside]

    def _file(self, path: Path, *, whole: bool = True) -> pq.ParquetFile:
        """A shard for reading. ``whole`` compares all of its bytes with its name, once."""
        if whole and path.name not in self._compared:
            self._compare(path)
        return open_shard(path)

    def _compare(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()[:32]
        except FileNotFoundError:
            raise StoreError(f"shard {path} was replaced while it was read. Run the command again") from None
        except (OSError, MemoryError) as error:
            raise unread_shard(path, error) from error
        if found != path.stem:
            raise damaged_shard(path, "its bytes are not those that were written")
        self._compared.add(path.name)

    def _keys(self, path: Path) -> tuple[list[str], list[str]]:
        """Chain and run of every row of a shard."""
        if path.name not in self._known_keys:
            self._known_keys[path.name] = self._read_keys(path)
        return self._known_keys[path.name]

    def _read_keys(self, path: Path) -> tuple[list[str], list[str]]:
        file = self._file(path, whole=False)
        if KEYS_NOTE not in (file.schema_arrow.metadata or {}):  # an earlier version wrote it
            file = self._file(path)
        return read_keys(path, file)

    def _numbers(self, path: Path) -> Keys:
        """:func:`number_of` of the chain of every row of a shard: a tenth of the memory of its ids."""
        if (known := self._known_numbers.get(path.name)) is not None:
            return known
        numbers = numbers_of((self._known_keys.get(path.name) or self._read_keys(path))[0])
        if sum(map(len, self._known_numbers.values())) < KEPT_NUMBERS:
            self._known_numbers[path.name] = numbers
        return numbers

    def measured(self) -> set[str]:
        """Ids of the runs that measured a chain of this home; reads no more shards than it takes to have met every run."""
        known, found = set(self.runs()), set[str]()
        for path in self._shards():
            if known <= found:
                break
            found.update(self._keys(path)[1])
        return found

    def done(self, run_id: str) -> set[str]:
        """Ids of the chains that this run has measured; reads two small columns only."""
        found: set[str] = set()
        for path in self._shards():
            chains, runs = self._keys(path)
            found.update(chain for chain, run in zip(chains, runs, strict=True) if run == run_id)
        return found

    def n_tokens(self) -> int:
        """Tokens of all traces, from the footers of the shards; a token that two runs measured counts twice."""
        found = 0
        for path in self._shards():
            metadata = open_shard(path).metadata
            columns = [metadata.schema.column(i).path for i in range(metadata.num_columns)]
            place = next(i for i, name in enumerate(columns) if name.split(".")[0] == "token_ids")
            found += sum(metadata.row_group(g).column(place).num_values for g in range(metadata.num_row_groups))
        return found

    def keys(self) -> set[tuple[str, str]]:
        """(chain, run) of every trace."""
        found: set[tuple[str, str]] = set()
        for path in self._shards():
            found.update(zip(*self._keys(path), strict=True))
        return found

    def nameless(self) -> set[tuple[str, str]]:
        """(chain, run) of every trace of a run that the home does not describe; of all others nothing is held."""
        known = set(self.runs())
        found: set[tuple[str, str]] = set()
        for path in self._shards():
            chains, runs = self._known_keys.get(path.name) or self._read_keys(path)
            if not known.issuperset(runs):
                found.update(pair for pair in zip(chains, runs, strict=True) if pair[1] not in known)
        return found

    def tables(
        self,
        columns: Sequence[str] | None = None,
        run: str | None = None,
        chains: Collection[str] | Keys | None = None,
        *,
        rows: int = 1,
    ) -> Iterator[pa.Table]:
        """Rows as Arrow tables in the order of the shards' names, row groups of a shard joined until they hold ``rows`` rows.

        Where several shards hold the same chain and run, the first in that order counts, so every reader sees the same
        row. ``columns`` are names of SHARD_SCHEMA (all if None); ``run`` and ``chains`` (ids, or their :func:`id_numbers`,
        ascending) select rows. A few columns are read faster with more ``rows``; of every row, 8 bytes are remembered, of one
        of ``chains`` a single one.
        """
        return (table for _, table in self._tables(columns, run, chains, rows))

    def _tables(
        self, columns: Sequence[str] | None, run: str | None, chains: Collection[str] | Keys | None, rows: int
    ) -> Iterator[tuple[Path, pa.Table]]:
        names = list(SHARD_SCHEMA.names if columns is None else columns)
        wanted = chains if chains is None or isinstance(chains, np.ndarray) else np.unique(numbers_of(list(chains)))
        del chains  # of a million chains the ids are a hundred megabytes, the numbers eight
        seen: dict[str, _Seen | _Met] = {}
        for path in self._shards():
            if wanted is not None and not _among(self._numbers(path), wanted).any():
                continue  # a shard of none of these chains is neither read nor compared with its name
            file = self._file(path)
            stored = [name for name in names if name in file.schema_arrow.names]
            try:
                keys = file.read(["chain", "run"])
                numbers = id_numbers(keys["chain"])
                keep = np.ones(len(keys), dtype=bool) if wanted is None else _among(numbers, wanted)
                runs = keys["run"].combine_chunks().dictionary_encode()
                of = runs.indices.to_numpy(zero_copy_only=False)
                for code, name in enumerate(runs.dictionary.to_pylist()):
                    mine = np.flatnonzero(keep & (of == code))
                    if run in (None, name):
                        if name not in seen:
                            seen[name] = _Seen() if wanted is None else _Met(wanted)
                        keep[mine] = seen[name].fresh(numbers[mine])
                    else:
                        keep[mine] = False
                for groups, start, stop in _bundles(file.metadata, rows):
                    kept = np.flatnonzero(keep[start:stop])
                    if len(kept):
                        table = complete(file.read_row_groups(groups, stored, use_threads=rows == 1), names)
                        yield path, table if len(kept) == len(table) else table.take(pa.array(kept))
            except SHARD_ERRORS as error:
                raise unread_shard(path, error) from error
            if wanted is not None:
                let_go(wanted)

    def traces(
        self,
        run: str | None = None,
        chains: Collection[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> Iterator[Trace]:
        """Traces, streamed, with corrected roles; see :meth:`tables` for order and duplicates. Arrays are read-only views. With
        ``columns`` only those are read, and what was not read is empty in the trace (see
        :func:`trails.store.shards.decode_shard`).
        """
        known = self.corrections()
        for trace in self._as_stored(run, chains, columns):
            yield corrected(trace, known)

    def corrections(self) -> Mapping[str, Correction]:
        """Roles that a person corrected, by chain."""
        if self._corrections is None:
            self._corrections = read_corrections(self.home)
        return self._corrections

    def put_corrections(self, corrections: Mapping[str, Correction]) -> None:
        """Add corrections; those of a chain take the place of earlier ones."""
        self._must_write()
        both = {**self.corrections(), **corrections}
        self._put(self.home / CORRECTIONS, corrections_json(both).encode("utf-8"))
        self._corrections = both

    def with_corrections(self, traces: Iterable[Trace]) -> list[Trace]:
        """Traces as :meth:`traces` would read them."""
        known = self.corrections()
        return [corrected(trace, known) for trace in traces]

    def _as_stored(
        self, run: str | None, chains: Collection[str] | None = None, columns: Sequence[str] | None = None
    ) -> Iterator[Trace]:
        for path, table in self._tables(columns, run, chains, 1):
            try:
                yield from decode_shard(table)
            except SHARD_ERRORS as error:
                raise unread_shard(path, error) from error

    def digest(self, run: str | None = None) -> TraceDigest:
        """Order-independent fingerprints of all traces, or of one run's."""
        content, values = [], []
        for trace in self._as_stored(run):
            a, b = row_digests(trace)
            content.append(a)
            values.append(b)
        return TraceDigest(digest_of_rows(content), digest_of_rows(values), len(content))

    def digests(self, run: str, chains: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Chain and fingerprint of every measured number, of those of ``chains`` that the run measured."""
        for trace in self._as_stored(run, chains):
            yield trace.chain.id, row_digests(trace)[1]

    def states(self, run: str, layer: int) -> Iterator[Floats]:
        """Step states of a run at one of its stored layers, in blocks (steps, width); what is not finite is left out."""
        for table in self.tables(["steps", "state_layers", "step_states"], run):
            n_steps = np.diff(list_array(table["steps"]).offsets.to_numpy())
            layers, states = views(table["state_layers"]), views(table["step_states"])
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

    def note(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write JSON into a folder of the home, whole or not at all. Raises StoreError where it cannot be written."""
        self._must_write()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._put_json(path, value)

    def columns(
        self, run: str, version: str, make: Callable[[], tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]]
    ) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Columns of numbers about the chains of a run, and JSON beside them: those that ``columns/RUN`` of the home keeps, or
        what ``make`` makes of the shards, which is then kept. They hold for these shards (a shard's name is the hash of its
        bytes) and for this ``version`` of what makes them; a file that is damaged is made again. A home that cannot be
        written keeps none.
        """
        path = self.home / "columns" / run
        made_of = stable_hash(version, *self.shard_names())
        with contextlib.suppress(OSError, ValueError, KeyError):
            found, told = read_columns(path)
            if told["made_of"] == made_of:
                return found, told["told"]
        found, told = make()
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            write_columns(path, found, {"made_of": made_of, "told": told})
            return read_columns(path)[0], told
        return found, told

    def variant_file(self, name: str) -> Path:
        """Where the home keeps the run ``name`` (``v…``) of the microvariant loop, whether it is there or not."""
        return self.home / "variants" / f"{name}.parquet"

    def damaged(self) -> list[str]:
        """Names of shards whose bytes no longer have the hash that names them. Raises StoreError for one that cannot be read:
        nobody knows whether it is damaged.
        """
        found = []
        for path in self._shards():
            try:
                self._compare(path)
            except DamagedError:
                found.append(path.name)
        return found

    def without(self, names: Collection[str]) -> None:
        """Read as if the shards of these names were not there."""
        self._set_aside = frozenset(names)

    def set_aside(self, names: Collection[str]) -> Path:
        """Move shards into the folder ``damaged`` of the home and return that folder."""
        self._must_write()
        folder = self.home / "damaged"
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in names:
            (self.home / "shards" / name).rename(folder / name)
        return folder

    def stats(self) -> HomeStats:
        """Counts for ``trails status``, roles as people corrected them; reads no measures."""
        shards = self._shards()
        chains: dict[str, int] = {}
        tokens: dict[str, int] = {}
        counted: tuple[dict[str, int], dict[str, int], dict[str, int]] = ({}, {}, {})
        seen: set[str] = set()
        known = self.corrections()
        fit = steps = 0
        columns = ["chain", "run", "source", "language", "text", "steps", "token_ids"]
        for table in self.tables(columns):
            lengths = np.diff(list_array(table["token_ids"]).offsets.to_numpy())
            step_array = list_array(table["steps"])
            offsets = step_array.offsets.to_numpy()
            roles = step_array.values.field("role")
            runs, sources = table["run"].to_pylist(), table["source"].to_pylist()
            languages, texts = table["language"].to_pylist(), table["text"]
            for row, chain in enumerate(table["chain"].to_pylist()):
                chains[runs[row]] = chains.get(runs[row], 0) + 1
                tokens[runs[row]] = tokens.get(runs[row], 0) + int(lengths[row])
                if chain in seen:
                    continue
                seen.add(chain)
                own = slice(int(offsets[row]), int(offsets[row + 1]))
                names = roles[own].to_pylist()
                if chain in known:
                    given = {(a, b): role.value for a, b, role in known[chain].steps}
                    places = (step_array.values.field(name)[own].to_pylist() for name in ("start", "end"))
                    own_places = list(zip(*places, strict=True))
                    names = [given.get(place, name) for place, name in zip(own_places, names, strict=True)]
                    fit += fitting(known[chain], own_places)
                    steps += len(known[chain].steps)
                language = spoken(languages[row], texts[row].as_py())
                for counter, values in zip(counted, ([sources[row]], [language], names), strict=True):
                    for value in values:
                        counter[value] = counter.get(value, 0) + 1
        size = sum(path.stat().st_size for path in shards)
        sources_n, languages_n, roles_n = (
            dict(sorted(c.items(), key=lambda item: (-item[1], item[0]))) for c in counted
        )
        return HomeStats(len(shards), size, len(seen), chains, tokens, sources_n, languages_n, roles_n, (fit, steps))


def other_option(segmenter: str) -> str:
    """What to do where a home's steps were made with the other choice of ``--keep-source-steps``: no new segmentation helps."""
    if segmenter.endswith(SOURCE_STEPS):
        return (
            "was made with --keep-source-steps: run the same command with --keep-source-steps, or choose another folder with "
            "--home"
        )
    return (
        "was made without --keep-source-steps: run the same command without --keep-source-steps, or choose another folder with "
        "--home"
    )


def shard_of(traces: Iterable[Trace]) -> tuple[str, memoryview]:
    """Name and bytes of the shard that holds these traces; an empty name for no traces. Raises InputError for text that Unicode
    cannot encode.
    """
    rows = [_as_segmented(trace) for trace in traces]
    if not rows:
        return "", memoryview(b"")
    data = encode_shard(rows)
    return hashlib.sha256(data).hexdigest()[:32], data


def put_shard(home: Path, name: str, data: bytes | memoryview) -> bool:
    """Put the bytes of a shard into a home under the name that they give it; return whether it was not there.

    Shards need no lock, as no two that differ have the same name: a worker of an ingest that holds the lock may call this.
    """
    path = home / "shards" / f"{name}.parquet"
    if path.exists():
        return False
    put_file(path, data)
    return True


def put_file(path: Path, data: bytes | memoryview) -> None:
    """Write a file so that it is there completely or not at all, even across a loss of power. Raises StoreError."""
    try:
        write_atomic(path, data)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(
                f"the disk is full: {path} ({counted(len(data), 'byte')}) was not written. Free some space and run the same "
                "command again; everything written before is kept"
            ) from error
        raise StoreError(f"{path} cannot be written: {refused(error)}") from error


def _as_segmented(trace: Trace) -> Trace:
    """The trace with the roles of the segmenter: corrections are kept beside the shards."""
    if not any(step.automatic_role for step in trace.steps):
        return trace
    return replace(trace, steps=tuple(automatic(step) for step in trace.steps))


def _said(config: Mapping[str, Any], name: str) -> str:
    """A value of a configuration, in words."""
    return json.dumps(config[name], ensure_ascii=False) if name in config else "the default"


class _Seen:
    """Numbers seen so far, as sorted arrays of which each is more than twice as long as the next."""

    def __init__(self) -> None:
        self._parts: list[Keys] = []

    def fresh(self, numbers: Keys) -> npt.NDArray[np.bool_]:
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


class _Met:
    """Which of ``wanted`` numbers (ascending) were seen so far."""

    def __init__(self, wanted: Keys) -> None:
        self._wanted, self._seen = wanted, np.zeros(len(wanted), np.bool_)

    def fresh(self, numbers: Keys) -> npt.NDArray[np.bool_]:
        """Which of ``numbers``, all of them wanted, occur here for the first time; they are seen from now on."""
        first = np.zeros(len(numbers), dtype=bool)
        found, places = np.unique(numbers, return_index=True)
        at = np.searchsorted(self._wanted, found)
        first[places] = ~self._seen[at]
        self._seen[at] = True
        return first


def _among(numbers: Keys, known: Keys) -> npt.NDArray[np.bool_]:
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


def id_numbers(column: pa.ChunkedArray) -> Keys:
    """:func:`number_of` of every id."""
    return numbers_of(column.to_pylist())


def numbers_of(names: Sequence[str]) -> Keys:
    """:func:`number_of` of names, most of them at once."""
    joined = "".join(names)
    if set(map(len, names)) == {17} and joined.isascii():
        digits = np.frombuffer(joined.encode("ascii"), np.uint8).reshape(-1, 17)[:, 1:].tobytes().decode("ascii")
        if _DIGITS.fullmatch(digits):
            return np.frombuffer(bytes.fromhex(digits), ">u8").astype(np.uint64)
    return np.array([number_of(name) for name in names], np.uint64)


def id_of(number: int) -> str:
    """The chain's id of a number, where :func:`number_of` did not have to make one up."""
    return f"c{number:016x}"


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
