"""What a graph store promises.

A graph store receives :class:`GraphBatch` tables whose names and columns are those of :mod:`trails.schema`, and answers
Cypher. It never sees a model. Loading is idempotent: the same batch twice, in another order, or on top of a half-finished load
gives the same :meth:`GraphStore.digest` as loading it once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, runtime_checkable

import pyarrow as pa

from trails.errors import UsageError
from trails.platform.markup import HTML_ROWS, html_table
from trails.platform.packages import package
from trails.platform.text import counted
from trails.store.values import NodeValue, RelationshipValue

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

    def to_arrow(self) -> pa.Table:
        """The rows as an Arrow table, a node or relationship as a struct of its properties.

        Raises UsageError for a column whose values Arrow cannot hold together, such as numbers and texts.
        """
        arrays = []
        for name, values in zip(self.columns, self._by_column(), strict=True):
            try:
                arrays.append(pa.array(values))
            except (pa.ArrowException, OverflowError) as error:
                raise UsageError(
                    f"column {name!r} holds values that one Arrow column cannot hold "
                    f"({str(error).splitlines()[0]}). Return one type per column, for example toString(x), or "
                    f"take to_pandas() or dicts()"
                ) from None
        return pa.table(arrays, names=list(self.columns))

    def to_pandas(self) -> Any:
        """The rows as a pandas data frame. Integers beside something else, or beside nothing, stay integers of Python.

        Raises MissingPackageError where pandas is not installed.
        """
        pandas = package("pandas", "to_pandas()")
        columns = []
        for values in self._by_column():
            series = pandas.Series(values, dtype=object)
            columns.append(series if _needs_integers(values) else series.infer_objects())
        frame = pandas.concat(columns, axis=1) if self.columns else pandas.DataFrame()
        return frame.set_axis(list(self.columns), axis=1)

    def to_networkx(self, start: str = "", end: str = "") -> Any:
        """A ``networkx.MultiDiGraph`` of the nodes and relationships in the rows, each once, also those in lists and paths.

        A node goes by its property ``id``, or by the engine's own id where it has none or two nodes share it. Its attributes
        are its properties and ``labels``; those of an edge are its properties and ``type``. With ``start`` and ``end`` every
        row is an edge from the value of one column to that of the other instead, with the remaining columns as attributes; a
        row in which an end is null is left out.

        Raises UsageError where there is nothing to make a graph of, or a relationship came without the nodes at its ends.
        Raises MissingPackageError where networkx is not installed.
        """
        graph = package("networkx", "to_networkx()").MultiDiGraph()
        if start or end:
            self._add_rows(graph, start, end)
            return graph
        nodes: dict[str, NodeValue] = {}
        edges: dict[str, RelationshipValue] = {}
        _collect(self.rows, nodes, edges)
        if self.rows and not nodes:
            raise UsageError(
                f"the columns {', '.join(self.columns)} hold no node. Return nodes and relationships, for example MATCH "
                "(a:Step)-[r:LEADS_TO]->(b:Step) RETURN a, r, b, or name two columns: to_networkx(start=…, end=…)"
            )
        key = _keys(nodes)
        for element, node in nodes.items():
            graph.add_node(key[element])
            graph.nodes[key[element]].update(node, labels=node.labels)
        for element, edge in edges.items():
            if edge.start not in nodes or edge.end not in nodes:
                raise UsageError(
                    f"a relationship {edge.type} came without the nodes at its ends. Return them too: RETURN a, r, b"
                )
            ends = (key[edge.start], key[edge.end])
            graph.add_edge(*ends, key=element)
            graph.edges[*ends, element].update(edge, type=edge.type)
        return graph

    def plain(self) -> tuple[tuple[Any, ...], ...]:
        """The rows as JSON holds them, the same on every store: a node as ``{id, labels, properties}``, a relationship as
        ``{type, start, end, properties}``, a path as ``{nodes, relationships}``.

        A node goes by the name that it has in :meth:`to_networkx`; ``start`` and ``end`` of a relationship are these names,
        None where the rows do not hold the node.
        """
        nodes: dict[str, NodeValue] = {}
        _collect(self.rows, nodes, {})
        key = _keys(nodes)

        def plain(value: Any) -> Any:
            if isinstance(value, NodeValue):
                return {
                    "id": key[value.element],
                    "labels": list(value.labels),
                    "properties": dict(sorted(value.items())),
                }
            if isinstance(value, RelationshipValue):
                ends = {"start": key.get(value.start), "end": key.get(value.end)}
                return {"type": value.type, **ends, "properties": dict(sorted(value.items()))}
            if isinstance(value, list | tuple):
                return [plain(item) for item in value]
            if isinstance(value, Mapping):
                return {name: plain(item) for name, item in value.items()}
            return value

        return tuple(tuple(map(plain, row)) for row in self.rows)

    def _add_rows(self, graph: Any, start: str, end: str) -> None:
        missing = [name for name in (start, end) if name not in self.columns]
        if missing:
            raise UsageError(f"there is no column {missing[0]!r}. Columns: {', '.join(self.columns) or 'none'}")
        for number, row in enumerate(self.dicts()):
            ends = (row.pop(start), row.get(end) if start == end else row.pop(end))
            if None in ends:
                continue
            if any(isinstance(value, dict | list) for value in ends):
                raise UsageError(f"row {number + 1} holds no plain value in {start!r} or {end!r}, so it names no node")
            graph.add_edge(*ends, key=number)
            graph.edges[*ends, number].update(row)

    def _by_column(self) -> list[list[Any]]:
        return [[row[index] for row in self.rows] for index in range(len(self.columns))]

    def html(self, rows: int = HTML_ROWS) -> str:
        """The first ``rows`` rows as static HTML without scripts, styles or addresses; every text is escaped."""
        title = (
            counted(len(self.rows), "row")
            if len(self.rows) <= rows
            else f"{rows:,} of {counted(len(self.rows), 'row')}"
        )
        if self.truncated:
            title += "; the query found more, which were left out"
        return html_table(self.columns, self.rows[:rows], title)

    def _repr_html_(self) -> str:
        return self.html()


def _needs_integers(values: Sequence[Any]) -> bool:
    """Whether integers stand beside something that pandas would turn them into floats for."""
    kinds = set(map(type, values))
    return int in kinds and len(kinds) > 1


def _keys(nodes: Mapping[str, NodeValue]) -> dict[str, Any]:
    """What each node goes by: its property ``id``, or the engine's own id where it has none or two nodes share it."""
    named = Counter(repr(node["id"]) for node in nodes.values() if "id" in node)
    return {
        element: node["id"] if "id" in node and named[repr(node["id"])] == 1 else element
        for element, node in nodes.items()
    }


def _collect(value: Any, nodes: dict[str, NodeValue], edges: dict[str, RelationshipValue]) -> None:
    """Put every node and relationship inside ``value`` into ``nodes`` and ``edges``, by element."""
    if isinstance(value, NodeValue):
        nodes.setdefault(value.element, value)
    elif isinstance(value, RelationshipValue):
        edges.setdefault(value.element, value)
    elif isinstance(value, list | tuple):
        for item in value:
            _collect(item, nodes, edges)
    elif isinstance(value, Mapping):
        for item in value.values():
            _collect(item, nodes, edges)


@runtime_checkable
class GraphStore(Protocol):
    """A Cypher engine that holds the graph.

    ``name`` is ``embedded`` or ``neo4j``; ``address`` says where it is, without credentials.
    """

    name: str
    address: str

    def ensure_schema(self) -> None:
        """Create constraints and indexes that are missing."""

    def format(self) -> int:
        """Version of the graph; that of this trails for an empty store.

        Every other method refuses a graph of another version with a StoreError that says what to run, unless the store was
        opened to make it again or to judge it.
        """

    def hold(self) -> None:
        """Take the writer's lock now, where the store has one. Raises StoreError where another process holds it."""

    def loaded(self) -> set[tuple[str, str]]:
        """(chain, run) pairs that are completely in the graph."""

    def held(self) -> dict[str, set[tuple[str, str]]]:
        """(chain, run) pairs that each home holds, by the home's id."""

    def write(self, batches: Iterable[GraphBatch]) -> int:
        """Write all batches; return the number of nodes and relationships handed over. Idempotent."""

    def delete(self, chains: Sequence[str], *, home: str = "") -> None:
        """Remove chains with their steps, tokens, gaps and relationships. Unknown ids are ignored. With ``home`` (its id) those
        that another home holds stay, also where that home came to hold them since the caller looked.
        """

    def clear(self, scopes: Sequence[str]) -> None:
        """Remove the results of analyses that were written under these scopes (see :mod:`trails.store.scope`)."""

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

    def tables(self, chains: Collection[str] | None = None) -> GraphBatch:
        """The graph, read back as tables (for digests and round trips). With ``chains`` only what follows from the shards of
        these chains: no results of analyses, and all sources, runs and families.
        """

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
