"""The embedded graph store: kglite, an in-process Cypher engine (:mod:`trails.store.engine`).

The graph lives in memory while it is open and in one file, ``graph.kgl``, otherwise. :meth:`EmbeddedStore.save` replaces
that file at once, so a killed process leaves the graph as it was last saved, never a half-written one; what is missing is
loaded again from the shards. Reading takes no lock and sees the graph as of opening; the first write takes the writer's lock
and starts from the newest file.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

from trails.errors import StoreError, TrailsError
from trails.platform.files import check_regular, refused, what_to_do
from trails.platform.locks import HeldError, WriterLock
from trails.platform.memory import small_pages
from trails.schema import GRAPH_FORMAT, NODE, NODES, RELATIONSHIP, RELATIONSHIPS, Relationship, properties_of
from trails.store.base import DEFAULT_MAX_ROWS, DEFAULT_TIMEOUT_S, GraphBatch, Result
from trails.store.engine import (
    ENGINE_ERRORS,
    described,
    elements,
    kglite,
    read,
    refuse_several,
    refuse_unless_read,
    rows_of,
    translated,
)
from trails.store.frames import Frame
from trails.store.guarded import READ_BYTES, READ_MEMORY, Guard
from trails.store.rows import distinct, of_chains, own_rows, table_schema

FILE = "graph.kgl"
BUILDING = "graph.building"
"""Folder in which a new graph is built before it takes the place of the old one."""

DECLARED = {node.label: [p.name for p in node.properties] for node in NODES}
"""Labels with their properties, whatever of them the graph at hand has."""

_BATCH_ROWS = 200_000
"""Rows of one call of the engine."""

_WAITING_TOKENS = 50_000
"""New tokens that wait until they are handed over together."""


class EmbeddedStore:
    """A graph in ``folder/graph.kgl``. Implements :class:`trails.store.base.GraphStore`.

    A file that does not exist is an empty graph. ``damaged="discard"`` starts with an empty graph where the file cannot be
    read (a rebuild); otherwise that raises StoreError. ``lazy`` reads the file when it is first needed in this process:
    statements of strangers do not need it here. They may use ``read_memory`` bytes beyond the graph, and return
    ``read_bytes``.
    """

    name = "embedded"

    def __init__(
        self,
        folder: str | Path,
        *,
        damaged: Literal["refuse", "discard"] = "refuse",
        lazy: bool = False,
        any_format: bool = False,
        read_memory: int = READ_MEMORY,
        read_bytes: int = READ_BYTES,
    ) -> None:
        self._path = Path(folder) / FILE
        self.address = str(self._path)
        self._discard = damaged == "discard"
        self._any_format = any_format
        self.discarded = False
        self._lock: WriterLock | None = None
        self._changed = False
        self._loaded: set[tuple[str, str]] | None = None
        self._chains: set[str] = set()
        self._waiting: list[GraphBatch] = []
        self._filled: set[str] = set()
        self._unindexed = False
        self._version = 0
        self._guard = Guard(read_memory, read_bytes)
        self._stamp = self._file_stamp()
        self._opened = None if lazy else self._load()

    @property
    def _graph(self) -> kglite.KnowledgeGraph:
        if self._opened is None:
            self._opened = self._load()
        return self._opened

    @_graph.setter
    def _graph(self, graph: kglite.KnowledgeGraph) -> None:
        self._opened = graph
        self._version += 1

    def _touched(self) -> None:
        """The graph in memory is about to differ from the file."""
        self._changed = True
        self._version += 1

    # ---------------------------------------------------------------------------------------------------------------
    # file
    # ---------------------------------------------------------------------------------------------------------------

    def _load(self) -> kglite.KnowledgeGraph:
        return described(self._read_file(), DECLARED)

    def _read_file(self) -> kglite.KnowledgeGraph:
        check_regular(self._path)
        self._stamp = self._file_stamp()
        self._loaded = None
        self._filled = set()
        self._unindexed = False
        if self._stamp is None:
            return kglite.KnowledgeGraph()
        try:
            graph = kglite.load(str(self._path))
        except FileNotFoundError:
            return kglite.KnowledgeGraph()
        except (kglite.KgError, OSError, ValueError) as error:
            if self._discard:
                self.discarded = True
                return kglite.KnowledgeGraph()
            if what_to_do(error):  # the system denies it, and nothing is wrong with the file
                raise StoreError(f"the graph {self._path} cannot be read: {refused(error)}") from error
            raise StoreError(
                f"the graph {self._path} cannot be read ({_first_line(error)}). It can be made again from the shards: "
                "delete the file and run: trails rebuild"
            ) from error
        if graph.schema_version > GRAPH_FORMAT:
            raise StoreError(
                f"the graph {self._path} was written by a newer trails (format {graph.schema_version}, this one knows "
                f"{GRAPH_FORMAT}). Run: pip install --upgrade trails"
            )
        if not self._any_format and graph.schema_version < GRAPH_FORMAT and graph.node_type_counts():
            raise StoreError(
                f"the graph {self._path} is of format {graph.schema_version}, and this trails uses format {GRAPH_FORMAT}. The "
                f"shards are as they were; make the graph from them, run: trails rebuild --fresh --home {self._path.parent}"
            )
        return graph

    def format(self) -> int:
        """Version of the graph; that of this trails for an empty graph."""
        return int(self._graph.schema_version) if self._graph.node_type_counts() else GRAPH_FORMAT

    def _file_stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_ino, found.st_size, found.st_mtime_ns)

    def _for_writing(self) -> kglite.KnowledgeGraph:
        """The graph, after taking the writer's lock and reading what another writer saved meanwhile."""
        if self._lock is None:
            try:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._lock = WriterLock(self._path.with_suffix(".lock"))
            except HeldError as holder:
                raise StoreError(
                    f"the graph {self._path} is being written by process {holder}. Wait until it ends and run the command again"
                ) from None
            except OSError as error:
                raise StoreError(f"{self._path.parent} cannot be written: {error.strerror}") from error
            for leftover in self._path.parent.glob(f"{FILE}.*tmp*"):
                leftover.unlink(missing_ok=True)
            if self._file_stamp() != self._stamp:
                self._graph = self._load()
        return self._graph

    def hold(self) -> None:
        """Take the writer's lock. Raises StoreError where another process holds it or the folder cannot be written."""
        self._for_writing()

    def save(self) -> None:
        """Replace the file by the graph as it is now; survives the loss of power. Does nothing when nothing changed."""
        self._settle()
        if not self._changed:
            return
        self._index()
        try:
            with small_pages(), warnings.catch_warnings():
                # it says which columns a memory-mapped load would hold on the heap; files are never loaded that way here
                warnings.simplefilter("ignore", kglite.MappedFallbackWarning)
                self._graph.save(str(self._path))
        except (kglite.KgError, OSError) as error:
            why = refused(error) if what_to_do(error) else _first_line(error)
            raise StoreError(
                f"the graph {self._path} was not saved: {why}. The shards are whole: trails rebuild makes the graph from them"
            ) from error
        self._changed = False
        self._stamp = self._file_stamp()

    def close(self) -> None:
        """Save and let go of the writer's lock."""
        self._guard.close()
        try:
            self.save()
        finally:
            self._release()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def replace_with(self, build: Callable[[EmbeddedStore], None]) -> None:
        """Let ``build`` fill an empty graph in a folder beside this one, and take its file when it is whole and saved.

        Until then this graph's file stays as it is, whatever ends the work; this graph leaves the memory meanwhile.
        """
        self._for_writing()
        folder = self._path.with_name(BUILDING)
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(mode=0o700)
            self._waiting, self._changed, self._unindexed = [], False, False
            self._graph = described(kglite.KnowledgeGraph(), DECLARED)
            with EmbeddedStore(folder) as beside:
                beside.ensure_schema()
                build(beside)
                beside.save()
                with (folder / FILE).open("rb") as written:
                    os.fsync(written.fileno())
                (folder / FILE).replace(self._path)
                self._graph, self._loaded, self._chains = beside._graph, beside._loaded, beside._chains
                self._filled, self._stamp = beside._filled, self._file_stamp()
        except OSError as error:
            raise StoreError(f"the graph {self._path} cannot be replaced: {error.strerror}") from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            if self._file_stamp() != self._stamp or not self._graph.node_type_counts():
                self._graph = self._load()

    def __enter__(self) -> EmbeddedStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close; on the way out of an exception nothing is saved: the file stays as it was last saved."""
        if error is None:
            self.close()
        else:
            self._guard.close()
            self._release()

    # ---------------------------------------------------------------------------------------------------------------
    # schema
    # ---------------------------------------------------------------------------------------------------------------

    def ensure_schema(self) -> None:
        """Create the indexes that schema.py asks for; ``id`` is the engine's own key. Those of an empty graph are made when it
        is first read or saved: made from the filled graph they cost less than half of what keeping them at every row does.
        """
        if self._graph.schema_version == GRAPH_FORMAT and (self._unindexed or not self._lacking()):
            return
        graph = self._for_writing()
        graph.set_schema_version(GRAPH_FORMAT)
        self._touched()
        self._unindexed = True
        if graph.node_type_counts():
            self._index()

    def _lacking(self) -> list[tuple[str, str]]:
        """Labels and properties of the indexes that the graph does not have."""
        wanted = {(node.label, p.name) for node in NODES for p in node.properties if p.indexed and p.name != "id"}
        return sorted(wanted - {(index["node_type"], index["property"]) for index in self._graph.list_indexes()})

    def _index(self) -> None:
        """Create the indexes that wait for the graph to be filled."""
        if self._unindexed:
            for label, name in self._lacking():
                self._graph.create_index(label, name)
            self._unindexed = False

    # ---------------------------------------------------------------------------------------------------------------
    # writing
    # ---------------------------------------------------------------------------------------------------------------

    def loaded(self) -> set[tuple[str, str]]:
        """(chain, run) pairs that are completely in the graph: ``MEASURED`` is written after everything else of the pair."""
        self._settle()
        return set(self._known())

    def held(self) -> dict[str, set[tuple[str, str]]]:
        """(chain, run) pairs that each home holds, by the home's id."""
        self._settle()
        found: dict[str, set[tuple[str, str]]] = {}
        rows = self._ask("MATCH (h:Home)-[r:HOLDS]->(c:Chain) RETURN h.id AS h, c.id AS c, r.run AS r")
        if len(rows):
            for home, *pair in zip(rows.column("h"), rows.column("c"), rows.column("r"), strict=True):
                found.setdefault(home, set()).add((pair[0], pair[1]))
        return found

    def _known(self) -> set[tuple[str, str]]:
        if self._loaded is None:
            rows = self._ask("MATCH (c:Chain)-[m:MEASURED]->(r:Run) RETURN c.id AS c, m.run AS r")
            self._loaded = set(zip(rows.column("c"), rows.column("r"), strict=True)) if len(rows) else set()
            self._chains = {chain for chain, _ in self._loaded}
        return self._loaded

    def write(self, batches: Iterable[GraphBatch]) -> int:
        """Write all batches into the graph in memory; :meth:`save` makes them durable. Returns the rows handed over.

        Batches of new chains wait until there are enough of them, or until the graph is asked or saved: the engine takes
        many rows at once faster. When a batch cannot be written the graph goes back to what was last saved, and the error
        says what was wrong.
        """
        self._for_writing()
        self.ensure_schema()
        handed = 0
        for batch in batches:
            handed += sum(map(len, (*batch.nodes.values(), *batch.relationships.values())))
            self._handed_over([batch] if not self._may_wait(batch) else [])
            if (
                sum(len(waiting.nodes["Token"]) for waiting in self._waiting if "Token" in waiting.nodes)
                >= _WAITING_TOKENS
            ):
                self._flush()
        return handed

    def _may_wait(self, batch: GraphBatch) -> bool:
        """Keep a batch for later if it and what waits can go to the engine as one; else let go of what waits first."""
        self._touched()
        self._known()
        chains = {chain for chain, _ in batch.whole}
        runs = {run for _, run in batch.whole}
        waiting = {pair for other in self._waiting for pair in other.whole}
        alone = (
            len(runs) != 1
            or len(chains) != len(batch.whole)
            or "Chain" not in batch.nodes
            or len(batch.nodes["Chain"]) != len(chains)
            or not chains.isdisjoint(self._chains)
            or any(run not in runs or chain in chains for chain, run in waiting)
        )
        if alone:
            self._flush()
            return False
        self._waiting.append(batch)
        return True

    def _settle(self) -> None:
        """Hand over what waits, and index what is there: the graph is about to be read."""
        self._flush()
        if self._unindexed and self._graph.node_type_counts():
            self._index()

    def _flush(self) -> None:
        """Hand over what waits, as one batch."""
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._handed_over([_joined(waiting)])

    def _handed_over(self, batches: Sequence[GraphBatch]) -> None:
        try:
            with small_pages():
                for batch in batches:
                    self._write_batch(batch)
        except (kglite.KgError, TrailsError, ValueError, TypeError) as error:
            self._waiting = []
            self._graph = self._load()
            self._changed = False
            if isinstance(error, TrailsError):
                raise
            raise StoreError(
                f"the graph {self._path} refused rows ({_first_line(error)}). Run: trails rebuild"
            ) from error

    def _write_batch(self, batch: GraphBatch) -> None:
        self._known()
        self._touched()
        for label, table in batch.nodes.items():
            # the engine would keep two nodes of one id
            for part in _slices(distinct(table, ("id",))):
                frame = Frame(part)
                self._graph.add_nodes(frame, label, "id", column_types=frame.lists)
        # chains that the graph does not know at all cannot have relationships there: the engine's bulk call serves them
        new_runs: dict[str, str] = {}
        for chain, run in batch.whole:
            if chain not in self._chains:
                new_runs.setdefault(chain, run)
        chains = batch.nodes.get("Chain")
        all_new = (
            chains is not None and len(new_runs) == len(batch.whole) == len(chains) and len(set(new_runs.values())) == 1
        )
        last = batch.relationships.get("MEASURED")
        for name, table in batch.relationships.items():
            if name != "MEASURED":
                self._write_relationships(RELATIONSHIP[name], table, new_runs, all_new=all_new)
        if last is not None:
            self._write_relationships(RELATIONSHIP["MEASURED"], last, new_runs, all_new=all_new)
        self._known().update(batch.whole)
        self._chains.update(chain for chain, _ in batch.whole)

    def _write_relationships(
        self, declared: Relationship, table: pa.Table, new_runs: Mapping[str, str], *, all_new: bool
    ) -> None:
        """Bulk for rows that cannot meet a relationship of the same key; the others are looked up and created or updated.

        The engine's bulk call joins rows with the same two ends into one relationship, whatever their run; hence the split.
        ``new_runs`` maps chains that the graph does not know to the run that may go in bulk; ``all_new`` says that the whole
        batch is such rows.
        """
        if not len(table):
            return
        if "run" in declared.key and all_new:
            bulk, rest = table, table.slice(0, 0)
        elif "run" in declared.key and new_runs:
            chain = pc.list_element(pc.split_pattern(table["start"].combine_chunks(), ":"), 0)
            place = pc.index_in(chain, pa.array(list(new_runs))).fill_null(len(new_runs))
            fresh = pc.equal(pa.array([*new_runs.values(), None]).take(place), table["run"].combine_chunks()).fill_null(
                False
            )
            bulk, rest = table.filter(fresh), table.filter(pc.invert(fresh))
        elif declared.key:
            bulk, rest = table.slice(0, 0), table
            if not self._holds(declared):
                bulk = distinct(table, ("start", "end"))
                rest = table.slice(0, 0) if len(bulk) == len(table) else table
        else:
            bulk, rest = table, table.slice(0, 0)
        for part in _slices(bulk):
            frame = Frame(part)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                report = self._graph.add_relationships(
                    frame, declared.type, declared.start, "start", declared.end, "end", column_types=frame.lists
                )
            if report["stubs_vivified"]:
                self._refuse_missing_end(declared, part)
        if len(rest):
            self._merge(declared, rest)
        self._filled.add(declared.name)

    def _refuse_missing_end(self, declared: Relationship, table: pa.Table) -> None:
        """Raise StoreError naming a node that the rows refer to and the graph does not hold."""
        self._graph.purge_provisional()
        for end, label in (("start", declared.start), ("end", declared.end)):
            query = (
                f"UNWIND $ids AS id OPTIONAL MATCH (n:{label} {{id: id}}) WITH id, n WHERE n IS NULL RETURN id LIMIT 1"
            )
            absent = self._ask(query, {"ids": table[end].to_pylist()})
            if len(absent):
                raise StoreError(
                    f"{declared.name} refers to {label} {absent.column('id')[0]}, which is not in the graph. "
                    "Run: trails rebuild"
                )

    def _ask(self, query: str, parameters: Mapping[str, Any] | None = None) -> kglite.ResultView:
        """A statement of our own: no limit of time or rows."""
        found = self._graph.cypher(query, params=dict(parameters or {}), timeout_ms=0)
        assert isinstance(found, kglite.ResultView)
        return found

    def _holds(self, declared: Relationship) -> bool:
        """Whether the graph has any relationship of this declaration."""
        if declared.name not in self._filled and any(
            (start, of, end) == (declared.start, declared.type, declared.end) and count
            for start, of, end, count in self._graph.label_pair_counts()
        ):
            self._filled.add(declared.name)
        return declared.name in self._filled

    def _merge(self, declared: Relationship, table: pa.Table) -> None:
        """Create the relationships that are not there, update those that are (same ends, same key)."""
        key = declared.key
        names = [p.name for p in properties_of(declared.name, per_layer=True) if p.name in table.column_names]
        table = distinct(table, ("start", "end", *key))
        ends = f"(a:{declared.start} {{id: row.a}}), (b:{declared.end} {{id: row.b}})"
        values = ", ".join(f"`{name}`: row.`{name}`" for name in names)
        same = ", ".join(f"`{name}`: row.`{name}`" for name in key)
        find = (
            f"UNWIND $rows AS row MATCH (a:{declared.start} {{id: row.a}})-[r:{declared.type}]->(b:{declared.end}) "
            f"RETURN DISTINCT a.id AS a, b.id AS b, {', '.join(f'r.`{name}` AS k{i}' for i, name in enumerate(key))}"
        )
        create = f"UNWIND $rows AS row MATCH {ends} CREATE (a)-[:{declared.type} {{{values}}}]->(b)"
        update = f"UNWIND $rows AS row MATCH {ends} MATCH (a)-[r:{declared.type} {{{same}}}]->(b) SET " + ", ".join(
            f"r.`{name}` = row.`{name}`" for name in names if name not in key
        )
        for part in _slices(table):
            rows = part.rename_columns(["a", "b", *part.column_names[2:]]).to_pylist()
            starts = [{"a": a} for a in dict.fromkeys(row["a"] for row in rows)]
            found = self._ask(find, {"rows": starts})
            columns = (
                [found.column(name) for name in ("a", "b", *(f"k{i}" for i in range(len(key))))] if len(found) else []
            )
            present = set(zip(*columns, strict=True)) if columns else set()
            fresh: list[dict[str, Any]] = []
            there: list[dict[str, Any]] = []
            for row in rows:
                (there if (row["a"], row["b"], *(row[name] for name in key)) in present else fresh).append(row)
            if fresh:
                made = self._ask(create, {"rows": fresh}).stats or {}
                if made["relationships_created"] < len(fresh):
                    self._refuse_missing_end(declared, part)
            if there and len(names) > len(key):
                self._ask(update, {"rows": there})

    def delete(self, chains: Sequence[str], *, home: str = "") -> None:
        """Remove chains with their steps, tokens, gaps and relationships. Unknown ids are ignored. With ``home`` those that
        another home holds stay.
        """
        self._settle()
        self._for_writing()
        elsewhere = {chain for of, pairs in self.held().items() if home and of != home for chain, _ in pairs}
        ids = {"ids": [chain for chain in chains if chain not in elsewhere]}
        keys = {node.label: "chain" for node in NODES if any(p.name == "chain" for p in node.properties)}
        self._loaded = None
        self._touched()
        for label, key in {**keys, "Chain": "id"}.items():
            self._without(f"UNWIND $ids AS id MATCH (n:{label} {{{key}: id}}) DETACH DELETE n", ids)

    def clear(self, scopes: Sequence[str]) -> None:
        """Remove the results of analyses that were written under these scopes."""
        self._settle()
        self._for_writing()
        self._filled = set()
        self._touched()
        ids = {"ids": list(scopes)}
        for label in (node.label for node in NODES if node.scoped):
            self._without(f"MATCH (n:{label}) WHERE n.scope IN $ids DETACH DELETE n", ids)
        for declared in (r for r in RELATIONSHIPS if r.scoped):
            pattern = f"(:{declared.start})-[r:{declared.type}]->(:{declared.end})"
            self._without(f"MATCH {pattern} WHERE r.scope IN $ids DELETE r", ids)

    def _without(self, statement: str, parameters: Mapping[str, Any]) -> None:
        """A deletion of our own. Raises StoreError where the engine refuses it."""
        try:
            self._graph.cypher(statement, params=dict(parameters), timeout_ms=0)
        except ENGINE_ERRORS as error:
            raise StoreError(
                f"the graph {self._path} refused a deletion ({_first_line(error)}): {statement}"
            ) from error

    # ---------------------------------------------------------------------------------------------------------------
    # reading
    # ---------------------------------------------------------------------------------------------------------------

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
        """Run one statement; see :meth:`GraphStore.run`. A read that is not ``trusted`` runs in a child process, which is
        killed when it takes more time, memory or result bytes than it may: the engine cannot be interrupted from inside.
        """
        values = dict(parameters or {})
        query = query.rstrip()  # else an error at the end of the statement names a line that its writer did not begin
        refuse_several(query)
        if not write:
            refuse_unless_read(query)
        self._settle()
        if write:
            graph = self._for_writing()
            self._touched()
            self._loaded = None
            self._filled = set()
            limits: dict[str, Any] = {"timeout_ms": max(1, int(timeout_s * 1000)), "row_limit": max_rows + 1}
            try:
                columns, rows = rows_of(graph.cypher(query, params=values, **limits))
            except ENGINE_ERRORS as error:
                raise translated(error, timeout_s, query) from error
        elif trusted:
            columns, rows = read(self._graph, query, values, timeout_s=timeout_s, max_rows=max_rows)
        else:
            columns, rows = self._guarded_read(query, values, timeout_s, max_rows)
        found = tuple(tuple(map(elements, row)) for row in rows[:max_rows])
        return Result(columns, found, len(rows) > max_rows)

    def _guarded_read(
        self, query: str, values: dict[str, Any], timeout_s: float, max_rows: int
    ) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        holding = (self._stamp, self._version)
        if not self._guard.holds(holding):
            on_disk = self._stamp is not None and not self._changed
            if not (on_disk and self._guard.open_file(holding, str(self._path), self._stamp, GRAPH_FORMAT, DECLARED)):
                # not saved yet, replaced by another process since this store opened it, or not to be read: the last says why
                self._guard.open_bytes(holding, self._graph.to_bytes())
        return self._guard.read(query, values, timeout_s=timeout_s, max_rows=max_rows)

    def counts(self) -> dict[str, int]:
        """Number of nodes per label and of relationships per declared name; only those that exist."""
        self._settle()
        nodes = {label: count for label, count in self._graph.node_type_counts().items() if count}
        found = {label: nodes[label] for label in NODE if label in nodes}
        found |= {label: count for label, count in sorted(nodes.items()) if label not in found}
        pairs = {(start, of, end): count for start, of, end, count in self._graph.label_pair_counts()}
        for declared in RELATIONSHIPS:
            if count := pairs.get((declared.start, declared.type, declared.end), 0):
                found[declared.name] = count
        return found

    def tables(self, chains: Collection[str] | None = None) -> GraphBatch:
        """The graph, read back as tables; with ``chains`` what follows from their shards."""
        whole = self._tables()
        return whole if chains is None else of_chains(whole, chains)

    def _tables(self) -> GraphBatch:
        nodes, relationships = {}, {}
        for label in self.counts():
            if label in NODE:
                wanted = [p.name for p in properties_of(label)]
                query = f"MATCH (n:{label}) RETURN " + _columns("n", wanted)
                nodes[label] = self._read(query, wanted, table_schema(label), label)
        for declared in RELATIONSHIPS:
            if self._holds(declared):
                schema = table_schema(declared.name, per_layer=True)
                names = schema.names[2:]
                query = (
                    f"MATCH (a:{declared.start})-[r:{declared.type}]->(b:{declared.end}) RETURN a.id AS c_start, b.id AS c_end"
                    + (", " + _columns("r", names) if names else "")
                )
                table = self._read(query, ["start", "end", *names], schema, declared.name)
                plain = table_schema(declared.name).names
                keep = [n for n in schema.names if n in plain or table[n].null_count < len(table)]
                if len(table):
                    relationships[declared.name] = table.select(keep)
        return GraphBatch(nodes, relationships, tuple(sorted(self.loaded())))

    def _read(self, query: str, names: Sequence[str], schema: pa.Schema, table: str) -> pa.Table:
        found = self._ask(query)
        columns = own_rows(table, [found.column(f"c_{name}") if len(found) else [] for name in names])
        return pa.table([pa.array(column, f.type) for column, f in zip(columns, schema, strict=True)], schema=schema)


def _joined(batches: Sequence[GraphBatch]) -> GraphBatch:
    """One batch of batches that share no chain; their runs and sources may be the same nodes."""
    if len(batches) == 1:
        return batches[0]
    sides: list[dict[str, pa.Table]] = []
    for parts in ([batch.nodes for batch in batches], [batch.relationships for batch in batches]):
        names = dict.fromkeys(name for part in parts for name in part)
        sides.append({name: _concatenated([part[name] for part in parts if name in part]) for name in names})
    return GraphBatch(sides[0], sides[1], tuple(pair for batch in batches for pair in batch.whole))


def _concatenated(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables below one another. A column that only some have is null in the others; to look for one costs more than that."""
    alike = all(table.schema == tables[0].schema for table in tables)
    return pa.concat_tables(tables, promote_options="none" if alike else "default")


def _columns(variable: str, names: Sequence[str]) -> str:
    return ", ".join(f"{variable}.`{name}` AS `c_{name}`" for name in names)


def _slices(table: pa.Table) -> Iterable[pa.Table]:
    for start in range(0, len(table), _BATCH_ROWS):
        yield table.slice(start, _BATCH_ROWS)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
