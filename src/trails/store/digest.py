"""Fingerprints of a graph that do not depend on the engine, on the order of rows, or on how often they were loaded.

A row's fingerprint covers its key and every property, to the bit; a table's fingerprint is the sum of those of its distinct
rows. The graph that a store holds (:meth:`GraphStore.tables`) and the graph that the shards would give
(:func:`trails.store.rows.graph_batch`) have the same fingerprint exactly when they hold the same rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trails.platform.text import counted
from trails.schema import NODE, NODES, RELATIONSHIPS
from trails.store.base import GraphBatch

TRACE_TABLES: tuple[str, ...] = (
    "Source",
    "Chain",
    "Step",
    "Token",
    "Run",
    "Family",
    "FROM",
    "IN_FAMILY",
    "HAS_STEP",
    "NEXT_STEP",
    "MEASURED",
    "MEASURED_STEP",
    "FIRST",
    "BEGINS",
    "NEXT",
    "TOKEN_ATTENDS_TO",
    "LEADS_TO",
    "ATTENDS_TO",
)
"""Labels and relationships that follow from the shards; the others are results of analyses."""

ALL_TABLES: tuple[str, ...] = (*(node.label for node in NODES), *(r.name for r in RELATIONSHIPS))

Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class TableDigest:
    """Fingerprints of a table's rows: two 64-bit numbers per row, sorted, and the key that names each row."""

    hashes: Words  # (rows, 2), distinct and sorted
    keys: pa.StringArray
    duplicates: int
    columns: tuple[str, ...]
    twice: tuple[str, ...] = ()
    """Keys of the rows that are there more than once."""

    @property
    def hex(self) -> str:
        """128 bits over the distinct rows."""
        return hashlib.sha256(self.hashes.tobytes()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class GraphDigest:
    """Fingerprints of a graph's tables by name; tables without rows are left out."""

    tables: Mapping[str, TableDigest] = field(default_factory=dict)

    @property
    def hex(self) -> str:
        """SHA-256 over the tables' names and fingerprints."""
        whole = hashlib.sha256()
        for name in sorted(self.tables):
            whole.update(f"{name} {len(self.tables[name].hashes)} {self.tables[name].hex}\n".encode("ascii"))
        return whole.hexdigest()


def graph_digest(batches: Iterable[GraphBatch], names: Collection[str] = TRACE_TABLES) -> GraphDigest:
    """Fingerprints of the tables ``names`` over all batches. A row that occurs in several batches counts once."""
    hashes: dict[str, list[Words]] = {}
    keys: dict[str, list[pa.Array]] = {}
    columns: dict[str, dict[str, None]] = {}
    for batch in batches:
        for name, table in {**batch.nodes, **batch.relationships}.items():
            if name in names and len(table):
                hashes.setdefault(name, []).append(_row_hashes(table))
                keys.setdefault(name, []).append(table["id" if name in NODE else "start"].combine_chunks())
                columns.setdefault(name, {}).update(dict.fromkeys(table.column_names))
    found = {}
    for name, parts in hashes.items():
        together = np.concatenate(parts)
        distinct, first, times = np.unique(together, axis=0, return_index=True, return_counts=True)
        ids = pa.concat_arrays([part.cast(pa.string()) for part in keys[name]]).take(pa.array(first))
        twice = ids.filter(pa.array(times > 1)).to_pylist()
        found[name] = TableDigest(
            distinct, ids, len(together) - len(distinct), tuple(columns[name]), tuple(sorted(set(twice)))
        )
    return GraphDigest(found)


def compare(expected: GraphDigest, actual: GraphDigest, *, shown: int = 3) -> list[str]:
    """What differs, one sentence per finding with up to ``shown`` examples; empty when nothing does."""
    findings = []
    for name in (n for n in ALL_TABLES if n in expected.tables or n in actual.tables):
        kind = "node" if name in NODE else "relationship"
        want, have = expected.tables.get(name, _NOTHING), actual.tables.get(name, _NOTHING)
        if have.duplicates and kind == "relationship":
            findings.append(f"{name}: {counted(have.duplicates, f'{kind} is', f'{kind}s are')} there twice")
        if want.hex == have.hex:
            continue
        a, b = _tuples(want), _tuples(have)
        missing, surplus = set(a) - set(b), set(b) - set(a)
        lost = sorted({a[row] for row in missing})
        extra = sorted({b[row] for row in surplus})
        changed = sorted(set(lost) & set(extra))
        at = "id" if kind == "node" else "start"
        if changed:
            findings.append(f"{name}: {counted(len(changed), 'differs', 'differ')} ({at} {_some(changed, shown)})")
        if gone := [key for key in lost if key not in set(changed)]:
            lacking = counted(len(missing), f"{kind} of the shards is", f"{kind}s of the shards are")
            findings.append(f"{name}: {lacking} not in the graph ({at} {_some(gone, shown)})")
        if new := [key for key in extra if key not in set(changed)]:
            besides = counted(len(surplus), f"{kind} of the graph is", f"{kind}s of the graph are")
            findings.append(f"{name}: {besides} not in the shards ({at} {_some(new, shown)})")
    return findings


def differing_keys(expected: GraphDigest, actual: GraphDigest) -> set[str]:
    """Ids of the nodes, and of the nodes at the start of the relationships, that differ or are there twice."""
    found: set[str] = set()
    for name in {*expected.tables, *actual.tables}:
        want, have = expected.tables.get(name, _NOTHING), actual.tables.get(name, _NOTHING)
        if have.duplicates and name not in NODE:
            found |= {str(key) for key in have.twice}
        if want.hex != have.hex:
            a, b = _tuples(want), _tuples(have)
            found |= {a[row] for row in set(a) - set(b)} | {b[row] for row in set(b) - set(a)}
    return found


_NOTHING = TableDigest(np.zeros((0, 2), np.uint64), pa.nulls(0, pa.string()), 0, ())


def _tuples(table: TableDigest) -> dict[tuple[int, int], str]:
    return {(int(a), int(b)): key for (a, b), key in zip(table.hashes, table.keys.to_pylist(), strict=True)}


def _some(keys: list[str], shown: int) -> str:
    return ", ".join(keys[:shown]) + (f", … {len(keys):,} in all" if len(keys) > shown else "")


# --------------------------------------------------------------------------------------------------------------------
# Fingerprint of rows
# --------------------------------------------------------------------------------------------------------------------

_SEEDS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
_NULL = np.uint64(0x6E756C6C)


def _mix(words: Words) -> Words:
    """splitmix64: spreads every input bit over all output bits."""
    with np.errstate(over="ignore"):
        words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _row_hashes(table: pa.Table) -> Words:
    """(rows, 2). Columns enter by name, so neither their order nor a column of nulls matters."""
    out = np.zeros((len(table), 2), np.uint64)
    for name in table.column_names:
        column = table[name].combine_chunks()
        if column.null_count == len(column):
            continue
        words = _words(column)
        label = np.frombuffer(hashlib.sha256(name.encode()).digest()[:8], np.uint64)[0]
        present = column.is_valid().to_numpy(zero_copy_only=False)
        with np.errstate(over="ignore"):
            for half, seed in enumerate(_SEEDS):
                out[:, half] += np.where(present, _mix(words ^ (label * seed)), np.uint64(0))
    return np.stack([_mix(out[:, half] ^ seed) for half, seed in enumerate(_SEEDS)], axis=1)


def _words(column: Any) -> Words:
    """One 64-bit word per value, equal for equal values; whatever for nulls."""
    type_ = column.type
    if pa.types.is_list(type_):
        return _list_words(column)
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        import pandas as pd  # half a second, which a wrong argument need not cost

        texts = column.fill_null("").to_numpy(zero_copy_only=False).astype(object)
        return np.asarray(pd.util.hash_array(texts, categorize=True), np.uint64)
    if pa.types.is_boolean(type_):
        return np.asarray(column.fill_null(False).to_numpy(zero_copy_only=False), np.uint64)
    if pa.types.is_floating(type_):
        return np.ascontiguousarray(column.cast(pa.float64()).fill_null(0.0).to_numpy(), np.float64).view(np.uint64)
    return np.ascontiguousarray(column.cast(pa.int64()).fill_null(0).to_numpy(), np.int64).view(np.uint64)


def _list_words(column: Any) -> Words:
    """A list's word depends on its elements, their places and its length."""
    lengths = np.asarray(column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False), np.int64)
    flat = column.flatten()
    ends = np.cumsum(lengths)
    place = np.arange(len(flat)) - np.repeat(ends - lengths, lengths)
    with np.errstate(over="ignore"):
        mixed = _mix(_words(flat) ^ _mix((place.astype(np.uint64) + np.uint64(1)) * _SEEDS[0])) if len(flat) else None
        out = _mix(lengths.astype(np.uint64) + _SEEDS[1])
        if mixed is not None:
            filled = lengths > 0
            out[filled] += np.add.reduceat(mixed, (ends - lengths)[filled])
    return out
