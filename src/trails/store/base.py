"""What a graph store promises.

A graph store receives :class:`GraphBatch` tables whose names and columns are those of :mod:`trails.schema`, and answers
Cypher. It never sees a model. Loading is idempotent: the same batch twice, in another order, or on top of a half-finished load
gives the same :meth:`GraphStore.digest` as loading it once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import pyarrow as pa

DEFAULT_TIMEOUT_S = 60.0
DEFAULT_MAX_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class GraphBatch:
    """Rows to write. ``nodes[label]`` has a column per property (``id`` first); ``relationships[name]`` has the columns
    ``start`` and ``end`` (ids of both ends), then one per property. A null means that the property is absent.

    ``whole`` lists the (chain, run) pairs that this batch contains completely; a store records them as loaded only after
    everything of the pair is written, in the same transaction where it has transactions.
    """

    nodes: Mapping[str, pa.Table] = field(default_factory=dict)
    relationships: Mapping[str, pa.Table] = field(default_factory=dict)
    whole: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """Rows of a query, in the order the engine gave them. ``truncated`` is True when ``max_rows`` cut them."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    truncated: bool = False

    def dicts(self) -> list[dict[str, Any]]:
        """Rows as mappings from column to value."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


@runtime_checkable
class GraphStore(Protocol):
    """A Cypher engine that holds the graph.

    ``name`` is ``embedded`` or ``neo4j``; ``address`` says where it is, without credentials.
    """

    name: str
    address: str

    def ensure_schema(self) -> None:
        """Create constraints and indexes that are missing. Raises StoreError for a store of a newer version."""

    def hold(self) -> None:
        """Take the writer's lock now, where the store has one. Raises StoreError where another process holds it."""

    def loaded(self) -> set[tuple[str, str]]:
        """(chain, run) pairs that are completely in the graph."""

    def write(self, batches: Iterable[GraphBatch]) -> int:
        """Write all batches; return the number of nodes and relationships handed over. Idempotent."""

    def delete(self, chains: Sequence[str]) -> None:
        """Remove chains with their steps, tokens, gaps and relationships. Unknown ids are ignored."""

    def clear(self, labels: Sequence[str]) -> None:
        """Remove every node with one of these labels (analysis results that are written anew)."""

    def run(
        self,
        query: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        write: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        max_rows: int = DEFAULT_MAX_ROWS,
        trusted: bool = False,
    ) -> Result:
        """Run one statement. Nodes and relationships come back as mappings of their properties.

        Without ``write`` the statement must be a read: anything that writes, changes the schema or administers the server
        raises QueryError before it runs. A statement over ``timeout_s``, or over the store's limit of memory or of result
        bytes, raises QueryError. ``trusted`` says that the statement comes with trails: it needs no more than its time limit.
        """

    def counts(self) -> dict[str, int]:
        """Number of nodes per label and of relationships per declared name; only those that exist."""

    def tables(self) -> GraphBatch:
        """The whole graph, read back as tables (small graphs; for digests and round trips)."""

    def save(self) -> None:
        """Make everything written so far durable. A no-op where every write is durable already."""

    def close(self) -> None:
        """Save and let go of files and connections. The store cannot be used afterwards."""

    def __enter__(self) -> Self:
        """The store itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close. On the way out of an exception nothing is saved that is not durable already."""
