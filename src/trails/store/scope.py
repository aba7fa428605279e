"""Whose a result of an analysis is: several homes and runs share one graph, and nobody's results take the place of another's.

A result knows its home, its run, the options of the analysis, who wrote it and when. Home, analysis, run and options are its
*scope*; what is written again replaces the results of the same scope and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trails.schema import NODE, RELATIONSHIP, canonical_json, stable_hash
from trails.store.base import GraphBatch


@dataclass(frozen=True, slots=True)
class Scope:
    """Home, analysis, run and options that results belong to. ``author`` and ``date`` describe; empty ones are absent."""

    home: str
    analysis: str
    run: str
    parameters: Mapping[str, Any]
    author: str = ""
    date: str = ""

    @property
    def id(self) -> str:
        """``a`` + 16 hex digits over home, analysis, run and options."""
        return "a" + stable_hash(self.home, self.analysis, self.run, canonical_json(dict(self.parameters)))

    def put(self, batch: GraphBatch) -> GraphBatch:
        """The rows of a batch under this scope. The id of a result becomes ``KEY@SCOPE``, so that two homes, runs or options
        find the same without sharing a node; its ``key`` is the id that the analysis gave it.
        """
        nodes, relationships = dict(batch.nodes), dict(batch.relationships)
        for label, table in batch.nodes.items():
            if NODE[label].scoped:
                nodes[label] = self._described(_set(table, "key", table["id"]), "id", label)
        for name, table in batch.relationships.items():
            declared = RELATIONSHIP[name]
            for end, label in (("start", declared.start), ("end", declared.end)):
                if NODE[label].scoped:
                    table = _set(table, end, self._ids(table[end]))
            relationships[name] = self._described(table, "", name) if declared.scoped else table
        return GraphBatch(nodes, relationships, batch.whole)

    def _ids(self, keys: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.binary_join_element_wise(keys, self.id[:9], "@")

    def _described(self, table: pa.Table, identity: str, name: str) -> pa.Table:
        if identity:
            table = _set(table, identity, self._ids(table[identity]))
        values: dict[str, Any] = {
            "scope": self.id,
            "home": self.home,
            "run": self.run,
            "parameters": canonical_json(dict(self.parameters)),
            "author": self.author or None,
            "date": self.date or None,
        }
        for column, value in values.items():
            if column in table.column_names:
                table = _set(table, column, pa.array([value] * len(table), pa.string()))
        return table


OWNED = ("Disagreement", "Effect", "Response")
"""Results without a scope: one of each for the same question, so the home alone is part of their id."""


def owner_mark(home: str) -> str:
    """What the ids of a home's results of :data:`OWNED` labels end with."""
    return f"@{home[:9]}"


def owned(batch: GraphBatch, home: str) -> GraphBatch:
    """The rows of a batch, with the id ``KEY@HOME`` for results of :data:`OWNED` labels (``HOME``: the first nine characters of
    the home's id). So two homes in one graph ask the same question without sharing the answer.
    """

    def ids(keys: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.binary_join_element_wise(keys, home[:9], "@")

    nodes, relationships = dict(batch.nodes), dict(batch.relationships)
    for label in OWNED:
        if label in nodes:
            nodes[label] = _set(nodes[label], "id", ids(nodes[label]["id"]))
    for name, table in batch.relationships.items():
        for end, label in (("start", RELATIONSHIP[name].start), ("end", RELATIONSHIP[name].end)):
            if label in OWNED:
                table = _set(table, end, ids(table[end]))
        relationships[name] = table
    return GraphBatch(nodes, relationships, batch.whole)


def _set(table: pa.Table, name: str, values: Any) -> pa.Table:
    place = table.column_names.index(name)
    return table.set_column(place, table.schema.field(name), values)


def has_rows(batch: GraphBatch) -> bool:
    """Whether there is anything to write."""
    return any(len(table) for table in (*batch.nodes.values(), *batch.relationships.values()))


def now() -> str:
    """The time as results hold it: ISO 8601, UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
