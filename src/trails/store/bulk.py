"""Files for ``neo4j-admin database import``: the way into Neo4j for corpora where loading online would take hours.

One CSV file per label and relationship, with the importer's typed header (its Parquet reader takes no lists, so it is no
use here). The rows are those of
:func:`trails.store.rows.graph_batch`, each once, so an imported database has the digest of one that was loaded online; its
(chain, run) pairs count as loaded.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from trails.errors import StoreError, UsageError
from trails.platform.files import refused, replacing_folder
from trails.schema import GRAPH_FORMAT, NODE, NODES, RELATIONSHIP, RELATIONSHIPS, Trace, properties_of
from trails.store.base import GraphBatch
from trails.store.neo4j import LOADED, STORE_LABEL
from trails.store.rows import graph_batch, held_by
from trails.store.traces import TraceStore

CHAINS_PER_BATCH = 500
_TYPES = {
    "string": "",
    "integer": ":long",
    "float": ":double",
    "boolean": ":boolean",
    "strings": ":string[]",
    "floats": ":double[]",
    "integers": ":long[]",
}
_ONCE_PER_CHAIN = ("Chain", "Step", "FROM", "IN_FAMILY", "HAS_STEP", "NEXT_STEP")
_ONCE_PER_TOKENIZER = ("Token", "FIRST")


@dataclass(frozen=True, slots=True)
class BulkFiles:
    """What was written. ``options`` are those of ``neo4j-admin database import full``; ``{folder}`` stands for the folder."""

    folder: Path
    rows: dict[str, int]
    options: tuple[str, ...]

    @property
    def elements(self) -> int:
        """Nodes and relationships written."""
        return sum(self.rows.values())

    def command(
        self, program: Sequence[str] = ("neo4j-admin",), folder: str | None = None, database: str = "neo4j"
    ) -> str:
        """The line to type; ``folder`` is where the files lie for the server, if not where they were written."""
        place = folder if folder is not None else str(self.folder.resolve())
        # the database comes before the files: an option for files takes every word that follows it
        words = [*program, "database", "import", "full", database]
        words += [option.replace("{folder}", place) for option in self.options]
        return " ".join(shlex.quote(word) for word in words)


class _Sink:
    """One table's file; opened with its first rows."""

    def __init__(self, folder: Path, name: str, per_layer: bool) -> None:
        self.path = folder / f"{name}.csv"
        self.name, self.per_layer = name, per_layer
        self.rows = 0
        self._writer: Any = None

    def write(self, table: pa.Table) -> None:
        """Append rows whose columns are those of the schema (and ``loaded`` for what was measured over a chain)."""
        prepared = importer_rows(table, self.name, self.per_layer)
        if self._writer is None:
            options = pacsv.WriteOptions(include_header=True, quoting_style="needed")
            self._writer = pacsv.CSVWriter(str(self.path), prepared.schema, write_options=options)
        self._writer.write_table(prepared)
        self.rows += len(table)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()


def importer_rows(table: pa.Table, name: str, per_layer: bool = False) -> pa.Table:
    """Rows of a label or relationship with the importer's header as column names; lists as text. A list property that the
    table lacks is left out, any other is null."""
    node = name in NODE
    columns: dict[str, Any] = {}
    if not node:
        relationship = RELATIONSHIP[name]
        columns[f":START_ID({relationship.start})"] = table["start"]
        columns[f":END_ID({relationship.end})"] = table["end"]
    for declared in properties_of(name, per_layer=per_layer):
        if declared.name not in table.column_names and declared.type in ("strings", "floats", "integers"):
            continue
        values = table[declared.name] if declared.name in table.column_names else pa.nulls(len(table), pa.float64())
        header = declared.name + _TYPES[declared.type]
        if node and declared.name == "id":
            header = f"id:ID({name})"
        if pa.types.is_list(values.type):
            values = _joined(values)
        columns[header] = values
    if name == "MEASURED" and LOADED in table.column_names:
        columns[LOADED + ":boolean"] = table[LOADED]
    return pa.table(columns)


def _joined(values: pa.ChunkedArray) -> pa.Array:
    """Lists of numbers as text, elements separated by semicolons, to the bit."""
    lists = values.combine_chunks()
    numbers = lists.flatten()
    if numbers.null_count:
        raise StoreError("a list with a missing element cannot be written for the importer")
    text = pc.cast(numbers, pa.string())
    if pa.types.is_floating(numbers.type):
        undefined = pc.is_nan(numbers)
        if pc.any(undefined).as_py():
            text = pc.if_else(undefined, "NaN", text)
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
    joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), text), ";")
    return pc.if_else(pc.is_valid(lists), joined, pa.scalar(None, pa.string()))


def write_bulk(batches: Iterable[GraphBatch], folder: Path, *, per_layer: bool = False) -> BulkFiles:
    """Write the rows of all batches, each once, and say how to import them.

    The folder is there whole or not at all. Raises StoreError for one that holds something already.
    """
    if folder.exists() and any(folder.iterdir()):
        raise StoreError(f"{folder} is not empty; name a new folder, so that old and new files do not mix")
    if strange := set(str(folder.resolve())) & set(",*+?()[]{}|^$\\\n"):
        raise UsageError(
            f"{folder}: the importer reads file names as patterns, so the path may not hold {' '.join(sorted(strange))}; "
            "name another folder"
        )
    with replacing_folder(folder) as made:
        return replace(_write_bulk(batches, made, per_layer=per_layer), folder=folder)


def _write_bulk(batches: Iterable[GraphBatch], folder: Path, *, per_layer: bool) -> BulkFiles:
    sinks: dict[str, _Sink] = {}
    seen: dict[str, set[Any]] = {}
    longest = 0
    try:
        for batch in batches:
            for name, table in _new_rows(batch, seen):
                if name not in sinks:
                    sinks[name] = _Sink(folder, name, per_layer)
                sinks[name].write(table)
                if name == "Chain" and len(table):
                    longest = max(
                        longest, *(pc.max(pc.binary_length(table[c])).as_py() or 0 for c in ("text", "question"))
                    )
    except BaseException:
        for sink in sinks.values():
            with suppress(OSError):
                sink.close()
        raise
    for sink in sinks.values():
        sink.close()
    if "Chain" not in sinks:
        raise StoreError("there is nothing to write: the home holds no measured chains. First: trails ingest FILE")
    marker = pa.table({f"id:ID({STORE_LABEL})": ["trails"], "format:long": [GRAPH_FORMAT]})
    pacsv.write_csv(marker, str(folder / f"{STORE_LABEL}.csv"))
    # a field may hold line breaks, and must fit the reader's buffer
    buffer = f"--read-buffer-size={max(4, (4 * longest) // 2**20 + 1)}m"
    options = ["--overwrite-destination", "--multiline-fields=true", buffer]
    order = [*(n.label for n in NODES), *(r.name for r in RELATIONSHIPS)]
    for name in sorted(sinks, key=order.index):
        kind, type_ = ("nodes", name) if name in NODE else ("relationships", RELATIONSHIP[name].type)
        options.append(f"--{kind}={type_}={{folder}}/{name}.csv")
    options.append(f"--nodes={STORE_LABEL}={{folder}}/{STORE_LABEL}.csv")
    return BulkFiles(folder, {name: sink.rows for name, sink in sinks.items()}, tuple(options))


def _new_rows(batch: GraphBatch, seen: dict[str, set[Any]]) -> Iterator[tuple[str, pa.Table]]:
    """The rows of a batch that no earlier batch had."""
    runs = (
        dict(zip(*(batch.nodes["Run"][c].to_pylist() for c in ("id", "tokenizer")), strict=True)) if batch.whole else {}
    )
    chains = seen.setdefault("chain", set())
    tokens = seen.setdefault("token", set())
    pairs = seen.setdefault("pair", set())
    old_chains = pa.array(sorted({c for c, _ in batch.whole if c in chains}), pa.string())
    old_tokens = pa.array(sorted({k for c, r in batch.whole if (k := f"{c}:{runs[r][:8]}") in tokens}), pa.string())
    old_pairs = {pair for pair in batch.whole if pair in pairs}
    if old_pairs:
        raise StoreError(f"chain {min(old_pairs)[0]} comes twice")
    for name, table in {**batch.nodes, **batch.relationships}.items():
        if name in _ONCE_PER_CHAIN and len(old_chains):
            ids = table["id" if name == "Chain" else "chain" if name == "Step" else "start"]
            if name == "NEXT_STEP":  # begins at a step
                ids = pc.replace_substring_regex(ids, ":[0-9]+$", "")
            table = table.filter(pc.invert(pc.is_in(ids, value_set=old_chains)))
        elif name in _ONCE_PER_TOKENIZER and len(old_tokens):
            ids = pc.replace_substring_regex(table["id" if name == "Token" else "end"], ":[0-9]+$", "")
            table = table.filter(pc.invert(pc.is_in(ids, value_set=old_tokens)))
        elif name in ("Source", "Run", "Family", "Home"):
            known = seen.setdefault(name, set())
            table = table.filter(pa.array([i not in known for i in table["id"].to_pylist()], pa.bool_()))
            known |= set(table["id"].to_pylist())
        if name == "MEASURED":
            table = table.append_column(LOADED, pa.array([True] * len(table), pa.bool_()))
        if len(table):
            yield name, table
    chains |= {chain for chain, _ in batch.whole}
    tokens |= {f"{chain}:{runs[run][:8]}" for chain, run in batch.whole}
    pairs |= set(batch.whole)


def bulk_from_home(
    home: Path,
    folder: Path,
    *,
    per_layer: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> BulkFiles:
    """Files of everything in a home's shards. ``progress`` is told traces written and traces in all."""
    with TraceStore(home) as store:
        runs = store.runs()
        total = sum(len(store.done(run)) for run in runs)

        def batches() -> Iterator[GraphBatch]:
            done = 0
            for run in runs:
                block: list[Trace] = []
                for trace in store.traces(run):
                    block.append(trace)
                    if len(block) == CHAINS_PER_BATCH:
                        yield held_by(graph_batch(block, runs, per_layer=per_layer), store.identity())
                        done += len(block)
                        block = []
                        if progress:
                            progress(done, total)
                if block:
                    yield held_by(graph_batch(block, runs, per_layer=per_layer), store.identity())
                    done += len(block)
                    if progress:
                        progress(done, total)

        try:
            return write_bulk(batches(), folder, per_layer=per_layer)
        except OSError as error:
            raise StoreError(f"{folder} cannot be written: {refused(error)}") from error
