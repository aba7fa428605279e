"""The graph store on a Neo4j server (5.26 LTS or newer), over Bolt with the official driver.

Loading is fast because a chain's nodes are created and linked in one statement: the columns of the batch travel as lists, the
created nodes are collected into lists, and relationships name their ends by place in those lists, so no transition costs a
look-up (:mod:`trails.store.neo4j.groups`). Each transaction holds whole chains. It locks them first, asks what of them is
there already, and writes the rest, so that loads may be repeated, overlap, come from several processes, or continue one that
was killed; a (chain, run) pair is marked as loaded in the transaction that writes it.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

import neo4j
import pyarrow as pa
from neo4j import exceptions as bolt

from trails.config import Settings
from trails.errors import QueryError, StoreError, TrailsError, WritingQueryError
from trails.platform.text import counted
from trails.schema import GRAPH_FORMAT, NODE, NODES, RELATIONSHIP, RELATIONSHIPS
from trails.store.base import DEFAULT_MAX_ROWS, DEFAULT_TIMEOUT_S, GraphBatch, Result
from trails.store.neo4j.errors import (
    LOAD_THE_REST,
    NOTHING_CHANGED,
    GoneError,
    NoPasswordError,
    first_line,
    placed_behind,
    translated,
    unsendable,
    within,
)
from trails.store.neo4j.groups import Group, borders_of, columns_of, groups_of, subset
from trails.store.neo4j.reading import PLAN_COLUMNS, from_driver, judge, plan_asked, plan_rows, size_of
from trails.store.neo4j.statements import (
    CHAIN_NODES,
    CLEAR,
    CONSTRAINTS,
    COUNT_NODES,
    COUNT_RELATIONSHIPS,
    CREATE_GROUP,
    DELETE_CHAINS,
    DELETE_PARTS,
    FRESH_CHECK,
    HAS_ARRAYS,
    HELD_BY_NOBODY_ELSE,
    HELD_PAIRS,
    HOLD,
    HTTP_ADDRESS,
    ID_INDEXES,
    INDEXES,
    LOADED_PAIRS,
    LOCK_CHAINS,
    MARK_LOADED,
    MERGE_NODES,
    MERGE_RELATIONSHIPS,
    MORE_INDEXES,
    OTHER_RUN_CHECK,
    READ_FORMAT,
    READ_NODES,
    READ_RELATIONSHIPS,
    SHARED_NODES,
    UNMARK_CHAINS,
    UPGRADE,
    WRITE_FORMAT,
)
from trails.store.rows import RESULTS, own_rows, table_schema

# retries are part of the work here; who wants to see them gives the driver's logger a handler
logging.getLogger("neo4j").addHandler(logging.NullHandler())

T = TypeVar("T")

SCHEMES = ("bolt", "bolt+s", "bolt+ssc", "neo4j", "neo4j+s", "neo4j+ssc")
MINIMUM_SERVER = (5, 26)
"""Oldest server whose Cypher has everything that loading needs."""
GROUP_TOKENS = 3_000
"""Tokens per transaction; a chain is never divided."""
CONNECTIONS = 3
"""Transactions in flight while loading; one waits for the disk while others compute."""
CONNECT_TIMEOUT_S = 4.0
RETRY_S = 1.0
"""How long a transaction is tried again when the server cannot be reached."""
RETRY_DELAY_S = 0.2
"""First pause before trying again; each pause is twice the last."""
DEADLOCK_TRIES = 8
"""How often a transaction is tried again when the server asks for it (deadlock, leader change)."""
LOAD_TIMEOUT_S = 120.0
"""Longest time that one loading transaction may take."""
UPGRADE_TIMEOUT_S = 86_400.0
"""Longest time that a statement which brings a graph to this format may take."""
READ_BYTES = 256 * 2**20
"""Size of a result, roughly, at which a query is stopped."""
MAX_QUERY = 100_000
"""Characters of a statement on the read path."""
ROWS = 5_000
"""Rows per statement where rows are written or read one by one."""


class Neo4jStore:
    """The graph on a Neo4j server. Safe to use from several threads.

    ``uri`` is ``bolt://``, ``neo4j://``, or one of their encrypted forms: ``bolt+s``/``neo4j+s`` verify the server's
    certificate, ``bolt+ssc``/``neo4j+ssc`` accept any. ``any_format`` takes a graph of an earlier format, too. An empty
    ``password`` means a server that asks for none. Nothing is sent before the first use. Raises StoreError for an address that
    cannot be one.
    """

    name = "neo4j"

    def __init__(
        self,
        uri: str,
        username: str = "neo4j",
        password: str = "",
        database: str = "neo4j",
        *,
        connections: int = CONNECTIONS,
        group_tokens: int = GROUP_TOKENS,
        max_bytes: int = READ_BYTES,
        load_timeout_s: float = LOAD_TIMEOUT_S,
        any_format: bool = False,
    ) -> None:
        self.address = _address(uri)
        self.database = database
        self._username = username
        self._has_password = bool(password)
        self._connections = max(1, connections)
        self._group_tokens = group_tokens
        self._max_bytes = max_bytes
        self._load_timeout_s = load_timeout_s
        self._checked = False
        self._any_format = any_format
        self._format: int | None = None
        try:
            self._driver = neo4j.GraphDatabase.driver(
                self.address,
                auth=(username, password) if password else None,
                connection_timeout=CONNECT_TIMEOUT_S,
                connection_acquisition_timeout=CONNECT_TIMEOUT_S + 1.0,
                connection_write_timeout=30.0,
                max_transaction_retry_time=RETRY_S,
                initial_retry_delay=RETRY_DELAY_S,
                retry_delay_multiplier=2.0,
                retry_delay_jitter_factor=0.2,
                max_connection_pool_size=self._connections + 2,
                notifications_min_severity="OFF",
                telemetry_disabled=True,
                user_agent="trails",
            )
        except (ValueError, bolt.ConfigurationError) as error:
            raise StoreError(
                f"NEO4J_URI {self.address!r} cannot be used: {first_line(error)}; write bolt://HOST:7687 or neo4j+s://HOST"
            ) from None

    def __repr__(self) -> str:
        return f"Neo4jStore({self.address!r}, database={self.database!r})"

    def __enter__(self) -> Neo4jStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------------------- talking to the server

    def _failed(self, error: BaseException, timeout_s: float = 0.0, reading: bool = False) -> TrailsError:
        return translated(
            error,
            self.address,
            username=self._username,
            password=self._has_password,
            database=self.database,
            timeout_s=timeout_s,
            reading=reading,
        )

    def _hangs(self, seconds: float, reading: bool = False) -> TrailsError:
        return GoneError(
            f"Neo4j at {self.address} did not finish within {seconds:.0f} s and the connection carries (almost) nothing. "
            f"Check the network and the server's log. {NOTHING_CHANGED if reading else LOAD_THE_REST}"
        )

    def _guarded(self, work: Callable[[], T], timeout_s: float, reading: bool = False) -> T:
        """Run ``work`` with a limit on the wall clock and errors that say what to do."""
        # the server's own limit comes first; the time above it is for connecting, trying again and transport
        limit = timeout_s + CONNECT_TIMEOUT_S + RETRY_S + 4.0
        try:
            return within(limit, work, lambda: self._hangs(limit, reading))
        except TrailsError:
            raise
        except (UnicodeEncodeError, OverflowError, TypeError, ValueError) as error:
            if isinstance(error, bolt.DriverError):
                raise self._failed(error, timeout_s, reading) from None
            raise unsendable(error) from None
        except (bolt.Neo4jError, bolt.DriverError, OSError) as error:
            raise self._failed(error, timeout_s, reading) from None

    def check(self) -> tuple[int, ...]:
        """Version of the server. Raises StoreError when it cannot be reached, does not let us in, or is too old."""
        info = self._guarded(self._driver.get_server_info, CONNECT_TIMEOUT_S)
        found = re.search(r"(\d+)\.(\d+)", info.agent or "")
        version = (int(found[1]), int(found[2])) if found else (0, 0)
        if version < MINIMUM_SERVER:
            needed = ".".join(map(str, MINIMUM_SERVER))
            raise StoreError(
                f"the server at {self.address} is {info.agent or 'unknown'}; trails needs Neo4j {needed} or newer. Start one: "
                "docker compose up -d --wait, or scripts/neo4j start"
            )
        self._checked = True
        return version

    def _ready(self) -> None:
        """Raise StoreError where the server is too old, or the graph of a format that this trails does not use."""
        if not self._checked:
            self.check()
        found = self.format()
        if found > GRAPH_FORMAT:
            raise StoreError(
                f"the graph in Neo4j at {self.address} was written by a newer trails (format {found}; this one knows "
                f"{GRAPH_FORMAT}). Upgrade trails, or use another server or database"
            )
        if found < GRAPH_FORMAT and not self._any_format:
            raise StoreError(
                f"the graph in Neo4j at {self.address} is of format {found}, and this trails uses format {GRAPH_FORMAT}. The "
                "shards are as they were; bring the graph to this format, run: trails rebuild --fresh --store neo4j"
            )

    def format(self) -> int:
        """Version of the graph; that of this trails for a database without a graph of trails."""
        if self._format is None:

            def body() -> int | None:
                with self._driver.session(database=self.database, default_access_mode=neo4j.READ_ACCESS) as session:
                    record = session.run(READ_FORMAT).single()
                    if record is None or "format" not in record.keys():  # noqa: SIM118  # a record iterates over values
                        raise StoreError(
                            f"the server at {self.address} answers a count without a row, so it is not Neo4j. "
                            f"Set NEO4J_URI to "
                            "one"
                        )
                    found: int | None = record["format"]
                    return found

            found = self._guarded(body, DEFAULT_TIMEOUT_S, reading=True)
            if found is None:
                return GRAPH_FORMAT
            self._format = found
        return self._format

    def _statement(self, statement: str, timeout_s: float = DEFAULT_TIMEOUT_S, **parameters: Any) -> list[neo4j.Record]:
        """Run one of this module's own statements in a managed transaction of its own."""
        self._ready()

        @neo4j.unit_of_work(timeout=timeout_s)
        def work(tx: neo4j.ManagedTransaction) -> list[neo4j.Record]:
            return list(tx.run(statement, parameters))

        return self._transaction(work, timeout_s)

    def _value(self, statement: str, name: str) -> Any:
        """The one value that one of this module's own statements returns. Raises StoreError where the server returns none."""
        try:
            return self._statement(statement)[0][name]
        except (IndexError, KeyError):
            raise StoreError(
                f"the server at {self.address} answers a count without a row, so it is not Neo4j. Set NEO4J_URI to one"
            ) from None

    def _transaction(self, work: Callable[[neo4j.ManagedTransaction], T], timeout_s: float) -> T:
        """A write transaction, tried again when the server asks for it."""

        def body() -> T:
            for attempt in range(DEADLOCK_TRIES):
                try:
                    with self._driver.session(database=self.database) as session:
                        return session.execute_write(work)
                except (bolt.TransientError, bolt.ConstraintError):
                    # another load holds or just wrote the same chains; look again what is there
                    if attempt == DEADLOCK_TRIES - 1:
                        raise
                    time.sleep(0.05 * 2**attempt)
            raise AssertionError

        return self._guarded(body, timeout_s)

    # ------------------------------------------------------------------------------------------------------------- schema

    def ensure_schema(self) -> None:
        """Create constraints and indexes that are missing and wait until they answer.

        A label that somebody else's nodes bear, too, may forbid the constraint on its ids: chains and what chains share must
        have it (StoreError), the others do with an index.
        """
        self._ready()
        for label, statement in CONSTRAINTS.items():
            try:
                self._statement(statement)
            except StoreError as error:
                if isinstance(error, GoneError):
                    raise
                if label in ("Chain", "Home", *SHARED_NODES):
                    raise StoreError(
                        f"{error}. trails needs a unique id on :{label}, and something in this database stands against it. "
                        "Use another database, or take that away (SHOW CONSTRAINTS, SHOW INDEXES)"
                    ) from None
                self._index(ID_INDEXES[label])
        for statement in INDEXES:
            self._index(statement)
        self._statement("CALL db.awaitIndexes(60)", 90.0)
        if self.format() != GRAPH_FORMAT or self._format is None:
            self._statement(WRITE_FORMAT, format=GRAPH_FORMAT)
            self._format = GRAPH_FORMAT

    def create_indexes(self) -> None:
        """Create the indexes that are made on request (:data:`trails.schema.MORE_INDEXES`) and wait until they answer."""
        self.ensure_schema()
        for statement in MORE_INDEXES:
            self._index(statement)
        self._statement("CALL db.awaitIndexes(3600)", 3600.0)

    def _index(self, statement: str) -> None:
        """Create an index, unless one of somebody else serves the same property."""
        try:
            self._statement(statement)
        except StoreError as error:
            if "already" not in str(error):
                raise

    def upgrade(self) -> bool:
        """Bring a graph of an earlier format to this one where no home is at hand to load it again; whether there was one."""
        self._ready()
        if self.format() == GRAPH_FORMAT:
            return False
        for statement in UPGRADE:

            def body(statement: str = statement) -> None:
                with self._driver.session(database=self.database) as session:
                    session.run(statement).consume()

            self._guarded(body, UPGRADE_TIMEOUT_S)
        self._statement(WRITE_FORMAT, format=GRAPH_FORMAT)
        self._format = GRAPH_FORMAT
        return True

    def held(self) -> dict[str, set[tuple[str, str]]]:
        """(chain, run) pairs that each home holds, by the home's id."""
        found: dict[str, set[tuple[str, str]]] = {}
        for row in self._statement(HELD_PAIRS, 300.0):
            found.setdefault(row["home"], set()).update((chain, row["run"]) for chain in row["chains"])
        return found

    def loaded(self) -> set[tuple[str, str]]:
        """(chain, run) pairs whose transaction was committed."""
        rows = self._statement(LOADED_PAIRS, 300.0)
        return {(chain, row["run"]) for row in rows for chain in row["chains"]}

    # ------------------------------------------------------------------------------------------------------------ writing

    def write(self, batches: Iterable[GraphBatch]) -> int:
        """Write all batches over a few connections; return the number of nodes and relationships handed over.

        A failure stops the load: what was committed stays, and the chains in flight count as not loaded.
        """
        self._ready()
        handed = 0
        shared = (*SHARED_NODES, "Home")
        seen: dict[str, set[Any]] = {label: set() for label in shared}
        with ThreadPoolExecutor(self._connections, thread_name_prefix="trails-load") as pool:
            flying: deque[Future[None]] = deque()
            try:
                for batch in batches:
                    handed += sum(map(len, batch.nodes.values())) + sum(map(len, batch.relationships.values()))
                    for label in shared:
                        # sources and runs are few and shared by all chains
                        if label in batch.nodes:
                            rows = batch.nodes[label].to_pylist()
                            new = [i for i, row in enumerate(rows) if repr(row) not in seen[label]]
                            if new:
                                self._merge({label: batch.nodes[label].take(new)}, {})
                            seen[label] |= {repr(row) for row in rows}
                    groups, rest = groups_of(batch, self._group_tokens)
                    for group in groups:
                        while len(flying) >= 2 * self._connections:
                            flying.popleft().result()
                        flying.append(pool.submit(self._write_group, group))
                    nodes = {label: table for label, table in rest.nodes.items() if label not in shared}
                    if nodes or rest.relationships:
                        while flying:
                            flying.popleft().result()
                        self._merge(nodes, rest.relationships)
                while flying:
                    flying.popleft().result()
            except BaseException:
                for future in flying:
                    future.cancel()
                raise
        return handed

    def _write_group(self, group: Group) -> None:
        """One transaction: lock the chains, see what is there, write what is not."""

        @neo4j.unit_of_work(timeout=self._load_timeout_s)
        def work(tx: neo4j.ManagedTransaction) -> None:
            locked = {"Chain": group.parameters["Chain"], "counts": {"Chain": len(group.chains)}}
            tx.run(LOCK_CHAINS, locked).consume()
            kinds: dict[str, list[str]] = {"new": [], "tokens": [], "run": [], "mixed": []}
            others: dict[str, bool] = {}
            for row in tx.run(FRESH_CHECK, ids=group.chains):
                whole = dict(row["runs"])
                if not whole:
                    kinds["mixed" if row["begun"] else "new"].append(row["id"])
                elif group.run not in whole:
                    prefixes = [":" + str(tokenizer)[:8] + ":" for tokenizer in whole.values()]
                    others[row["id"]] = group.tokenizer in prefixes
            if others:
                check = {"ids": list(others), "run": group.run, "tokenizer": group.tokenizer}
                own = borders_of(group.tables["Step"])
                for row in tx.run(OTHER_RUN_CHECK, check):
                    there = {tuple(borders) for borders in row["borders"]}
                    if there - own[row["id"]]:
                        raise StoreError(
                            f"chain {row['id']} is in this graph with other steps than in this home: another home loaded it "
                            "with another segmenter. Run trails rebuild --segment in the home whose segmenter is the older one"
                        )
                    same = others[row["id"]]
                    # a step that was lost is written again
                    mixed = row["measured"] or (row["tokenized"] and not same) or there != own[row["id"]]
                    kinds["mixed" if mixed else "run" if same else "tokens"].append(row["id"])
            for kind, chains in kinds.items():
                if not chains:
                    continue
                part = subset(group, chains)
                if kind == "mixed":
                    _merge_in(tx, part.tables, part.tables, part.per_layer)
                    pairs = [[chain, group.run] for chain in chains]
                    tx.run(MARK_LOADED, pairs=pairs).consume()
                else:
                    statement = CREATE_GROUP[kind != "new", kind == "run", part.per_layer]
                    tx.run(statement, part.parameters).consume()
            if group.holds:
                tx.run(HOLD, holds=group.holds, run=group.run).consume()

        self._transaction(work, self._load_timeout_s)

    def _merge(self, nodes: Mapping[str, pa.Table], relationships: Mapping[str, pa.Table]) -> None:
        """Write rows one by one over what is there, some thousand per transaction; nodes before relationships."""
        for tables in (nodes, relationships):
            for name, table in tables.items():
                if (tables is relationships and name not in RELATIONSHIP) or (tables is nodes and name not in NODE):
                    raise StoreError(f"schema.py declares no {name}")
                per_layer = "hidden_shift_by_layer" in table.column_names
                for first in range(0, len(table), ROWS):
                    one = {name: table.slice(first, ROWS)}

                    @neo4j.unit_of_work(timeout=self._load_timeout_s)
                    def work(
                        tx: neo4j.ManagedTransaction, one: dict[str, pa.Table] = one, per_layer: bool = per_layer
                    ) -> None:
                        _merge_in(tx, one, one, per_layer)

                    self._transaction(work, self._load_timeout_s)

    def delete(self, chains: Sequence[str], *, home: str = "") -> None:
        """Remove chains with everything that belongs to them; a chain goes wholly or not at all. With ``home`` those that
        another home holds stay: that is looked up in the transaction that locks them.
        """
        self._ready()
        for first in range(0, len(chains), 20):
            ids = sorted(chains[first : first + 20])

            @neo4j.unit_of_work(timeout=self._load_timeout_s)
            def work(tx: neo4j.ManagedTransaction, ids: list[str] = ids) -> None:
                if home:
                    ids = [row["id"] for row in tx.run(HELD_BY_NOBODY_ELSE, ids=ids, home=home)]
                for statement in (UNMARK_CHAINS, *DELETE_PARTS, DELETE_CHAINS):
                    tx.run(statement, ids=ids).consume()

            self._transaction(work, self._load_timeout_s)

    def clear(self, scopes: Sequence[str]) -> None:
        """Remove the results of analyses that were written under these scopes, in transactions of some thousand."""
        self._ready()
        for statement in CLEAR:

            def body(statement: str = statement) -> None:
                with self._driver.session(database=self.database) as session:
                    session.run(statement, ids=list(scopes)).consume()

            self._guarded(body, self._load_timeout_s)

    # ------------------------------------------------------------------------------------------------------------ reading

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
        """Run one statement; see :meth:`trails.store.base.GraphStore.run`. Without ``write`` the server plans it first and
        only a plan that reads runs (:func:`judge`), ``trusted`` or not; the server itself limits memory and time.
        """
        self._ready()
        values = dict(parameters or {})
        query = query.rstrip()  # as in trails.store.embedded
        if not query.strip():
            raise QueryError("the statement is empty")
        if write:
            return self._guarded(lambda: self._run_write(query, values, timeout_s, max_rows), timeout_s)
        if len(query) > MAX_QUERY:
            raise QueryError(
                f"the statement has {counted(len(query), 'character')}; {MAX_QUERY:,} are allowed. Pass data as parameters"
            )
        return self._guarded(lambda: self._run_read(query, values, timeout_s, max_rows), timeout_s, reading=True)

    def _run_read(self, query: str, values: dict[str, Any], timeout_s: float, max_rows: int) -> Result:
        began = time.monotonic()
        with (
            self._driver.session(
                database=self.database, default_access_mode=neo4j.READ_ACCESS, fetch_size=min(1_000, max_rows + 1)
            ) as session,
            contextlib.ExitStack() as stack,
        ):
            tx = stack.enter_context(session.begin_transaction(timeout=max(timeout_s, 0.001)))
            asked, query = plan_asked(query)
            with placed_behind("EXPLAIN "):
                planned = tx.run("EXPLAIN " + query, values).consume()
            refusal = judge(planned.query_type, planned.plan, self.database)
            if refusal:
                kind = QueryError if planned.query_type == "r" else WritingQueryError
                raise kind(f"the statement is refused on the read path: {refusal}. Writing needs --write")
            if not asked:
                return self._collect(tx.run(query, values), max_rows, timeout_s, began)
            plan = planned.plan if asked == "EXPLAIN" else tx.run("PROFILE " + query, values).consume().profile
            rows = tuple(plan_rows(plan or {"operatorType": "none"}))
            return Result(PLAN_COLUMNS, rows[:max_rows], len(rows) > max_rows)

    def _run_write(self, query: str, values: dict[str, Any], timeout_s: float, max_rows: int) -> Result:
        began = time.monotonic()
        with self._driver.session(database=self.database, fetch_size=min(1_000, max_rows + 1)) as session:
            # an auto-commit transaction, because CALL … IN TRANSACTIONS and schema statements insist on one
            result = session.run(neo4j.Query(query, timeout=max(timeout_s, 0.001)), values)
            found = self._collect(result, max_rows, timeout_s, began)
            result.consume()
            return found

    def _collect(self, result: neo4j.Result, max_rows: int, timeout_s: float, began: float) -> Result:
        columns = tuple(result.keys())
        rows: list[tuple[Any, ...]] = []
        size = 0
        for record in result:
            if len(rows) == max_rows:
                return Result(columns, tuple(rows), truncated=True)
            row = tuple(from_driver(value) for value in record.values())
            size += sum(map(size_of, row))
            if size > self._max_bytes:
                raise QueryError(
                    f"the result is larger than {self._max_bytes // 2**20} MiB after {counted(len(rows), 'row')}; "
                    "return fewer columns or add LIMIT"
                )
            rows.append(row)
            if time.monotonic() - began > timeout_s:
                raise QueryError(
                    f"the statement did not end within {timeout_s:g} s and was stopped; narrow it or raise --timeout"
                )
        return Result(columns, tuple(rows))

    def counts(self) -> dict[str, int]:
        """Number of nodes per label and of relationships per declared name; only those that exist."""
        found: dict[str, int] = {}
        for name, statement in (*COUNT_NODES.items(), *COUNT_RELATIONSHIPS.items()):
            number = self._value(statement, "n")
            if number:
                found[name] = number
        return found

    def tables(self, chains: Collection[str] | None = None) -> GraphBatch:
        """The graph as tables, read in one transaction per table; with ``chains`` what follows from their shards."""
        arrays = any(row["arrays"] for row in self._statement(HAS_ARRAYS))
        present = self.counts()
        some = chains is not None
        ids = sorted(chains or ())
        nodes: dict[str, pa.Table] = {}
        relationships: dict[str, pa.Table] = {}
        for node in NODES:
            of_chains = some and node.label in CHAIN_NODES
            if node.label in present and (not some or of_chains or node.label in SHARED_NODES):
                nodes[node.label] = self._table(READ_NODES[node.label, of_chains], node.label, False, ids)
        for r in RELATIONSHIPS:
            of_chains = some and r.start in CHAIN_NODES and r.name not in RESULTS
            if r.name in present and (not some or of_chains):
                per_layer = arrays and r.name in ("NEXT", "BEGINS")
                statement = READ_RELATIONSHIPS[r.name, per_layer, of_chains]
                relationships[r.name] = self._table(statement, r.name, per_layer, ids)
        kept = set(ids)
        whole = sorted(pair for pair in self.loaded() if not some or pair[0] in kept)
        return GraphBatch(
            {name: table for name, table in nodes.items() if len(table)},
            {name: table for name, table in relationships.items() if len(table)},
            tuple(whole),
        )

    def _table(self, statement: str, name: str, per_layer: bool, ids: Sequence[str]) -> pa.Table:
        schema = table_schema(name, per_layer=per_layer)

        def body() -> pa.Table:
            batches = []
            with self._driver.session(
                database=self.database, default_access_mode=neo4j.READ_ACCESS, fetch_size=10_000
            ) as session:
                result = session.run(neo4j.Query(statement, timeout=3600.0), ids=ids)
                while block := result.fetch(20_000):
                    columns = own_rows(name, list(zip(*(record.values() for record in block), strict=True)))
                    arrays = [pa.array(column, f.type) for column, f in zip(columns, schema, strict=True)]
                    batches.append(pa.record_batch(arrays, schema=schema))
            return pa.Table.from_batches(batches, schema)

        return self._guarded(body, 3600.0, reading=True)

    def browser_port(self) -> int | None:
        """The port on which the server shows Neo4j Browser, as its settings say; None where they do not."""
        rows = self._statement(HTTP_ADDRESS)
        found = re.search(r":(\d+)$", str(rows[0]["value"])) if rows else None
        return int(found[1]) if found else None

    def hold(self) -> None:
        """Nothing to take: the server orders its writers."""

    def save(self) -> None:
        """Nothing to do: every transaction is durable when it is committed."""

    def close(self) -> None:
        """Let go of the connections."""
        with contextlib.suppress(bolt.DriverError, bolt.Neo4jError, OSError):
            within(10.0, self._driver.close, lambda: self._hangs(10.0))


def _merge_in(
    tx: neo4j.ManagedTransaction,
    nodes: Mapping[str, pa.Table],
    relationships: Mapping[str, pa.Table],
    per_layer: bool,
) -> None:
    """Write rows over what is there; every end must exist."""
    for label, table in nodes.items():
        if label in NODE and len(table):
            tx.run(MERGE_NODES[label], {label: columns_of(table), "counts": {label: len(table)}}).consume()
    for name, table in relationships.items():
        if name in RELATIONSHIP and len(table):
            parameters = {name: columns_of(table), "counts": {name: len(table)}}
            record = tx.run(MERGE_RELATIONSHIPS[name, per_layer and name in ("NEXT", "BEGINS")], parameters).single()
            if record is None or record["n"] != len(table):
                found = 0 if record is None else record["n"]
                raise StoreError(
                    f"{len(table) - found} of {len(table)} {name} rows name a node that is not in the graph; "
                    "load the chains first"
                )


def _address(uri: str) -> str:
    """The URI without anything secret. Raises StoreError for one that carries a user or password."""
    if not uri:
        raise StoreError("no Neo4j address: set NEO4J_URI, for example bolt://localhost:7687")
    try:
        parts = urlsplit(uri)
        secret = "@" in parts.netloc
    except ValueError:
        raise StoreError("NEO4J_URI is not an address; write bolt://HOST:7687") from None
    if secret:
        raise StoreError(
            "NEO4J_URI holds a user or a password; write bolt://HOST:7687 and set NEO4J_USERNAME and NEO4J_PASSWORD instead"
        )
    if parts.scheme not in SCHEMES:
        raise StoreError(
            f"NEO4J_URI {uri!r} cannot be used: it begins with none of {', '.join(SCHEMES)}; write bolt://HOST:7687"
        )
    return uri


def open_neo4j(settings: Settings, ask: Callable[[str], str] | None = None, *, any_format: bool = False) -> Neo4jStore:
    """The store that the settings name. Asks for the password when the server wants one, none is set, and somebody is there to
    be asked.
    """
    uri = settings.neo4j_uri or "bolt://localhost:7687"
    username, password = settings.credentials()
    store = Neo4jStore(uri, username, password, settings.neo4j_database, any_format=any_format)
    try:
        store.check()
    except StoreError as error:
        store.close()
        asked = ask or (getpass.getpass if sys.stdin.isatty() else None)
        if asked is None or not isinstance(error, NoPasswordError):
            raise
        password = asked(f"Password of {username} at {store.address}: ")
        store = Neo4jStore(uri, username, password, settings.neo4j_database, any_format=any_format)
        store.check()
    return store
