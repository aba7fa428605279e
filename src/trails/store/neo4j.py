"""The graph store on a Neo4j server (5.26 LTS or newer), over Bolt with the official driver.

Loading is fast because a chain's nodes are created and linked in one statement: the columns of the batch travel as lists, the
created nodes are collected into lists, and relationships name their ends by place in those lists, so no transition costs a
look-up. Each transaction holds whole chains. It locks them first, asks what of them is there already, and writes the rest, so
that loads may be repeated, overlap, come from several processes, or continue one that was killed; a (chain, run) pair is marked
as loaded in the transaction that writes it.

Reading goes through the server's planner: a statement is explained before it runs, and only plans that read this database,
call no procedure outside a short list and fetch no file or address are run, in READ access mode.

No statement here contains data: labels, types and keys come from :mod:`trails.schema`, values travel as parameters.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from datetime import time as clock
from typing import Any, TypeVar
from urllib.parse import urlsplit

import neo4j
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from neo4j import exceptions as bolt
from neo4j.graph import Node as BoltNode
from neo4j.graph import Path as BoltPath
from neo4j.graph import Relationship as BoltRelationship

from trails.config import Settings
from trails.errors import QueryError, StoreError, TrailsError, UsageError
from trails.schema import FORMAT_VERSION, NODE, NODES, RELATIONSHIP, RELATIONSHIPS, Node, Relationship, properties_of
from trails.store.base import DEFAULT_MAX_ROWS, DEFAULT_TIMEOUT_S, GraphBatch, Result
from trails.store.rows import table_schema
from trails.store.values import NodeValue, RelationshipValue

# retries are part of the work here; who wants to see them gives the driver's logger a handler
logging.getLogger("neo4j").addHandler(logging.NullHandler())

T = TypeVar("T")
Numbers = npt.NDArray[np.int64]

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
READ_BYTES = 256 * 2**20
"""Size of a result, roughly, at which a query is stopped."""
MAX_QUERY = 100_000
"""Characters of a statement on the read path."""
ROWS = 5_000
"""Rows per statement where rows are written or read one by one."""

READ_PROCEDURES = frozenset(
    {
        "db.labels",
        "db.relationshipTypes",
        "db.propertyKeys",
        "db.schema.nodeTypeProperties",
        "db.schema.relTypeProperties",
        "db.schema.visualization",
        "db.ping",
    }
)
"""Procedures that a read statement may call; the planner calls all of them reads."""
READ_SHOW = frozenset({"ShowIndexes", "ShowConstraints", "ShowFunctions", "ShowProcedures"})

LOADED = "loaded"
"""Property of a MEASURED relationship that says: everything of this (chain, run) is in the graph. Not part of the digest."""
STORE_LABEL = "TrailsStore"
"""Label of the single node that holds the format version."""

SHARED_NODES = ("Source", "Run", "Family")
CHAIN_NODES = ("Chain", "Step", "Token")
STRUCTURE = ("FROM", "IN_FAMILY", "HAS_STEP", "FIRST")
WRITES = dict.fromkeys(RELATIONSHIP, "CREATE") | {"IN_FAMILY": "MERGE"}
MEASURED = ("MEASURED", "MEASURED_STEP", "BEGINS", "NEXT", "TOKEN_ATTENDS_TO", "LEADS_TO", "ATTENDS_TO")

# --------------------------------------------------------------------------------------------------------------------
# Statements: everything below depends on schema.py only
# --------------------------------------------------------------------------------------------------------------------


def _name(name: str) -> str:
    """A label, type or key of the schema, quoted."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(name)
    return f"`{name}`"


def _map(declaration: Node | Relationship, per_layer: bool, skip: Sequence[str] = (), group: bool = False) -> str:
    """``{`key`: $Table.`key`[i], …}``: one row of the columns in the parameter named like the table.

    In a ``group``, which is of one run, the run is one parameter, and chains are places in the list of the group's chains.
    """
    table = declaration.label if isinstance(declaration, Node) else declaration.name
    keys = [_name(p.name) for p in properties_of(table, per_layer=per_layer) if p.name not in skip]
    values = {key: f"${_name(table)}.{key}[i]" for key in keys}
    if group:
        values |= {key: "$run" for key in ("`run`",) if key in values}
        values |= {key: f"$Chain.id[{values[key]}]" for key in ("`chain`",) if key in values}
    return "{" + ", ".join(f"{key}: {value}" for key, value in values.items()) + "}"


def _list(label: str) -> str:
    """Name of the variable that holds a group's nodes of this label."""
    return _name(f"{label}_list")


def _create_group(steps_exist: bool, tokens_exist: bool, per_layer: bool) -> str:
    """One statement that writes a group of (chain, run) pairs.

    Nodes that exist are matched by id, the others created; either way they become lists, and the columns ``start`` and
    ``end`` of the relationships are places in these lists. The chains themselves are there (and locked) already. A chain that
    is there may learn of its family from a later run.
    """
    parts = []
    exist = {**dict.fromkeys(("Chain", *SHARED_NODES), True), "Step": steps_exist, "Token": tokens_exist}
    for label, there in exist.items():
        table = _name(label)
        rows = f"UNWIND range(0, $counts.{table} - 1) AS i"
        one = (
            f"MATCH (n:{table} {{id: ${table}.id[i]}})"
            if there
            else f"CREATE (n:{table} {_map(NODE[label], False, (), True)})"
        )
        # rows arrive in the order of i; the sort makes that a promise instead of an observation
        parts.append(f"CALL () {{ {rows} {one} WITH n, i ORDER BY i RETURN collect(n) AS {_list(label)} }}")
    written = list(MEASURED)
    if not tokens_exist:
        written.insert(0, "FIRST")
    if not steps_exist:
        written = ["FROM", "HAS_STEP", *written]
    for name in ("IN_FAMILY", *written):
        r = RELATIONSHIP[name]
        table = _name(name)
        body = _map(r, per_layer, group=True) if r.properties else ""
        if name == "MEASURED":
            body = body[:-1] + f", {_name(LOADED)}: true}}"
        scope = ", ".join(dict.fromkeys((_list(r.start), _list(r.end))))
        parts.append(
            f"CALL ({scope}) {{ UNWIND range(0, $counts.{table} - 1) AS i "
            f"WITH {_list(r.start)}[${table}.start[i]] AS a, {_list(r.end)}[${table}.end[i]] AS b, i "
            f"{WRITES[name]} (a)-[:{_name(r.type)} {body}]->(b) }}"
        )
    return "\n".join([*parts, "RETURN 1"])


def _merge_nodes(node: Node) -> str:
    """Rows of a label, written over what is there."""
    table = _name(node.label)
    return (
        f"UNWIND range(0, $counts.{table} - 1) AS i MERGE (n:{table} {{id: ${table}.id[i]}}) "
        f"SET n += {_map(node, False, ('id',))}"
    )


def _merge_relationships(r: Relationship, per_layer: bool) -> str:
    """Rows of a relationship, written over what is there; the ends are looked up. Returns how many rows found both ends."""
    table = _name(r.name)
    key = ", ".join(f"{_name(k)}: ${table}.{_name(k)}[i]" for k in r.key)
    rest = f"SET x += {_map(r, per_layer, r.key)}" if len(r.properties) > len(r.key) else ""
    ends = [f"MATCH ({n}:{_name(label)} {{id: ${table}.{e}[i]}})" for n, label, e in _ends(r)]
    return (
        f"UNWIND range(0, $counts.{table} - 1) AS i {' '.join(ends)} "
        f"MERGE (a)-[x:{_name(r.type)} {{{key}}}]->(b) {rest} RETURN count(*) AS n"
    )


def _ends(r: Relationship) -> tuple[tuple[str, str, str], tuple[str, str, str]]:
    return ("a", r.start, "`start`"), ("b", r.end, "`end`")


def _other_run_check() -> str:
    """What is there of chains that another run has measured. ``tokenized``: whether tokens of this tokenizer are there.
    ``measured``: whether any relationship of this run is there.
    """
    parts = []
    for name in MEASURED:
        r = RELATIONSHIP[name]
        tail = f"-[:{_name(r.type)} {{run: $run}}]->(:{_name(r.end)})"
        if r.start == "Chain":
            parts.append(f"EXISTS {{ (c){tail} }}")
        else:
            start = _name(r.start)
            parts.append(f"EXISTS {{ MATCH (s:{start} {{chain: c.id}}){tail} USING INDEX SEEK s:{start}(chain) }}")
    measured = " OR ".join(parts)
    return (
        "UNWIND $ids AS id MATCH (c:Chain {id: id}) RETURN c.id AS id, "
        "EXISTS { MATCH (t:Token {chain: c.id}) USING INDEX SEEK t:Token(chain) WHERE t.id STARTS WITH c.id + $tokenizer } "
        f"AS tokenized, {measured} AS measured"
    )


LOCK_CHAINS = (
    "UNWIND range(0, $counts.Chain - 1) AS i MERGE (n:Chain {id: $Chain.id[i]}) "
    f"SET n += {_map(NODE['Chain'], False, ('id',))}"
)
# what is there of each chain of a group: runs that are whole, with their tokenizers, and anything that a first load would
# create. The hints matter: planned while the graph is small, the checks would scan an index and go on doing so
FRESH_CHECK = (
    "UNWIND $ids AS id MATCH (c:Chain {id: id}) RETURN c.id AS id, "
    f"[(c)-[m:MEASURED]->(r:Run) WHERE m.{_name(LOADED)} | [r.id, r.tokenizer]] AS runs, EXISTS {{ (c)--() }} "
    "OR EXISTS { MATCH (s:Step {chain: c.id}) USING INDEX SEEK s:Step(chain) } "
    "OR EXISTS { MATCH (t:Token {chain: c.id}) USING INDEX SEEK t:Token(chain) } AS begun"
)
OTHER_RUN_CHECK = _other_run_check()
CREATE_GROUP = {
    (steps, tokens, per_layer): _create_group(steps, tokens, per_layer)
    for steps, tokens in ((False, False), (True, False), (True, True))
    for per_layer in (False, True)
}
MERGE_NODES = {node.label: _merge_nodes(node) for node in NODES}
MERGE_RELATIONSHIPS = {
    (r.name, per_layer): _merge_relationships(r, per_layer) for r in RELATIONSHIPS for per_layer in (False, True)
}
MARK_LOADED = (
    "UNWIND $pairs AS pair MATCH (c:Chain {id: pair[0]})-[m:MEASURED {run: pair[1]}]->(:Run) "
    f"SET m.{_name(LOADED)} = true RETURN count(*) AS n"
)
LOADED_PAIRS = (
    f"MATCH (c:Chain)-[m:MEASURED]->(r:Run) WHERE m.{_name(LOADED)} RETURN r.id AS run, collect(c.id) AS chains"
)
CONSTRAINTS = tuple(
    f"CREATE CONSTRAINT {_name(f'trails_{node.label}_id')} IF NOT EXISTS FOR (n:{_name(node.label)}) REQUIRE n.id IS UNIQUE"
    for node in NODES
)
INDEXES = tuple(
    f"CREATE INDEX {_name(f'trails_{node.label}_{p.name}')} IF NOT EXISTS FOR (n:{_name(node.label)}) ON (n.{_name(p.name)})"
    for node in NODES
    for p in node.properties
    if p.indexed and p.name != "id"
) + tuple(
    f"CREATE INDEX {_name(f'trails_{r.name}_{p.name}')} IF NOT EXISTS FOR ()-[r:{_name(r.type)}]-() ON (r.{_name(p.name)})"
    for r in RELATIONSHIPS
    for p in r.properties
    if p.indexed
)
READ_FORMAT = f"MATCH (s:{_name(STORE_LABEL)}) RETURN max(s.format) AS format"
WRITE_FORMAT = f"MERGE (s:{_name(STORE_LABEL)} {{id: 'trails'}}) SET s.format = $format"
COUNT_NODES = {node.label: f"MATCH (n:{_name(node.label)}) RETURN count(n) AS n" for node in NODES}
COUNT_RELATIONSHIPS = {
    # one end without a label: the server answers such counts from its statistics
    r.name: f"MATCH (:{_name(r.start)})-[r:{_name(r.type)}]->() RETURN count(r) AS n"
    for r in RELATIONSHIPS
}
READ_NODES = {
    node.label: f"MATCH (n:{_name(node.label)}) RETURN "
    + ", ".join(f"n.{_name(p.name)} AS {_name(p.name)}" for p in properties_of(node.label))
    for node in NODES
}
READ_RELATIONSHIPS = {
    (r.name, per_layer): f"MATCH (a:{_name(r.start)})-[r:{_name(r.type)}]->(b:{_name(r.end)}) RETURN "
    + ", ".join(
        ["a.id AS `start`", "b.id AS `end`"]
        + [f"r.{_name(p.name)} AS {_name(p.name)}" for p in properties_of(r.name, per_layer=per_layer)]
    )
    for r in RELATIONSHIPS
    for per_layer in (False, True)
}
HAS_ARRAYS = "MATCH (:Token)-[r:NEXT]->() RETURN r.hidden_shift_by_layer IS NOT NULL AS arrays LIMIT 1"
DELETE_PARTS = tuple(
    f"UNWIND $ids AS id MATCH (n:{_name(node.label)} {{chain: id}}) DETACH DELETE n"
    for node in NODES
    if any(p.name == "chain" for p in node.properties)
)
DELETE_CHAINS = "UNWIND $ids AS id MATCH (n:Chain {id: id}) DETACH DELETE n"
UNMARK_CHAINS = "UNWIND $ids AS id MATCH (n:Chain {id: id})-[m:MEASURED]->() DELETE m"
CLEAR = {
    node.label: f"MATCH (n:{_name(node.label)}) CALL (n) {{ DETACH DELETE n }} IN TRANSACTIONS OF 5000 ROWS"
    for node in NODES
}

# --------------------------------------------------------------------------------------------------------------------
# Rows → parameters
# --------------------------------------------------------------------------------------------------------------------


def _values(column: pa.ChunkedArray | pa.Array) -> list[Any] | None:
    """A column as the driver sends it; None when nothing is in it."""
    if column.null_count == len(column):
        return None if len(column) else []
    if column.null_count == 0 and (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        values: list[Any] = column.to_numpy().tolist()
        return values
    listed: list[Any] = column.to_pylist()
    return listed


class _Columns(dict[str, list[Any] | None]):
    """Columns of a table as a parameter. The driver formats the parameters of every statement for its debug log, also when
    nobody reads it; spelling out the values would cost more than sending them.
    """

    def __repr__(self) -> str:
        return f"<columns {', '.join(self)}>"


def _columns(table: pa.Table, skip: Sequence[str] = ()) -> _Columns:
    return _Columns((name, _values(table[name])) for name in table.column_names if name not in skip)


def _chain_of(ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """The chain in a chain, step or token id."""
    return pc.list_element(pc.split_pattern(ids, ":", max_splits=1), 0)


@dataclass(slots=True)
class _Group:
    """Pairs of one run that are written in one transaction; relationships name their ends by place."""

    run: str
    tokenizer: str
    chains: list[str]
    per_layer: bool
    parameters: dict[str, Any]
    rows: int
    tables: dict[str, pa.Table] = field(repr=False, default_factory=dict)
    """The same rows with ids, for chains of which something is there already."""


def _order_of(chains: pa.ChunkedArray, position: Mapping[str, int] | pa.Array) -> Numbers:
    found = pc.index_in(chains, value_set=position)
    numbers: Numbers = pc.fill_null(found, -1).to_numpy().astype(np.int64)
    return numbers


def _groups(batch: GraphBatch, size: int) -> tuple[list[_Group], GraphBatch]:
    """The whole (chain, run) pairs of a batch in groups of about ``size`` tokens, and the rows that belong to none.

    Chains come in the order of their ids: every transaction locks its chains in the same order, so two loads of the same
    chains wait for one another instead of blocking one another.
    """
    groups: list[_Group] = []
    by_run: dict[str, list[str]] = {}
    for chain, run in batch.whole:
        by_run.setdefault(run, []).append(chain)
    if not by_run:
        return [], batch
    tokenizers: dict[str, str] = {}
    if "Run" in batch.nodes:
        tokenizers = dict(zip(*(batch.nodes["Run"][c].to_pylist() for c in ("id", "tokenizer")), strict=True))
    used = {name: np.zeros(len(table), bool) for name, table in {**batch.nodes, **batch.relationships}.items()}
    chain_of = {
        name: table["id"] if name == "Chain" else table["chain"]
        for name, table in batch.nodes.items()
        if name in CHAIN_NODES
    }
    for name in (*STRUCTURE, *MEASURED):
        if name in batch.relationships:
            start = batch.relationships[name]["start"]
            chain_of[name] = start if RELATIONSHIP[name].start == "Chain" else _chain_of(start)
    for run, members in by_run.items():
        if run not in tokenizers:
            raise StoreError(f"a batch calls run {run} complete without the row of the run")
        prefix = ":" + tokenizers[run][:8] + ":"
        order = pa.array(sorted(set(members)), pa.string())
        place: dict[str, Numbers] = {}
        part: dict[str, pa.Table] = {}
        for name, of in chain_of.items():
            table = batch.nodes[name] if name in batch.nodes else batch.relationships[name]
            number = _order_of(of, order)
            keep = number >= 0
            if name in MEASURED and len(by_run) > 1:
                keep &= pc.equal(table["run"], run).to_numpy().astype(bool)
            if name in ("Token", "FIRST") and len(set(tokenizers.values())) > 1:
                token = table["id"] if name == "Token" else table["end"]
                keep &= pc.match_substring(token, prefix).to_numpy().astype(bool)
            used[name] |= keep
            rows = np.flatnonzero(keep)
            rows = rows[np.argsort(number[rows], kind="stable")]
            part[name] = table if len(rows) == len(table) and _is_sorted(rows) else table.take(pa.array(rows))
            place[name] = number[rows]
        if len(set(place.get("MEASURED", np.zeros(0, np.int64)).tolist())) != len(order):
            raise StoreError(
                f"a batch calls chains of run {run} complete without their {RELATIONSHIP['MEASURED'].name} rows"
            )
        groups += _cut(part, place, order, run, prefix, size)
    rest_nodes = {
        name: table.filter(pa.array(~used[name])) if name in CHAIN_NODES else table
        for name, table in batch.nodes.items()
    }
    rest = {
        name: table.filter(pa.array(~used[name])) if name in chain_of else table
        for name, table in batch.relationships.items()
    }
    return groups, GraphBatch(
        {k: v for k, v in rest_nodes.items() if len(v)}, {k: v for k, v in rest.items() if len(v)}
    )


def _is_sorted(rows: Numbers) -> bool:
    return bool((np.diff(rows) > 0).all())


def _cut(
    part: Mapping[str, pa.Table], place: Mapping[str, Numbers], order: pa.Array, run: str, prefix: str, size: int
) -> Iterator[_Group]:
    """Cut a run's tables, sorted by chain, into groups. Ends become places among the group's own nodes."""
    n_chains = len(order)
    tokens = np.bincount(place.get("Token", np.zeros(0, np.int64)), minlength=n_chains)
    total = np.cumsum(tokens)
    cuts = [0]
    while cuts[-1] < n_chains:
        begun = int(total[cuts[-1] - 1]) if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(total, begun + size, side="right"))))
    ids: dict[str, pa.Array] = {}
    for label in CHAIN_NODES:
        if label in part:
            ids[label] = part[label]["id"].combine_chunks()
    shared = {"Run": pa.array([run], pa.string())}
    for label, name in (("Source", "FROM"), ("Family", "IN_FAMILY")):
        found = pc.unique(part[name]["end"]) if name in part else pa.array([], pa.string())
        shared[label] = found.take(pc.array_sort_indices(found))
    ends: dict[str, tuple[Numbers, Numbers]] = {}
    for name in (*STRUCTURE, *MEASURED):
        if name in part:
            r = RELATIONSHIP[name]
            ends[name] = tuple(
                _order_of(part[name][end], ids.get(label, shared.get(label, pa.array([], pa.string()))))
                for end, label in (("start", r.start), ("end", r.end))
            )  # type: ignore[assignment]
            if any((side < 0).any() for side in ends[name]):
                raise StoreError(f"{name}: a row of a complete chain has an end that the batch does not hold")
    bounds = {name: np.searchsorted(place[name], np.array(cuts)) for name in part}
    for number in range(len(cuts) - 1):
        tables = {name: part[name].slice(int(b[number]), int(b[number + 1] - b[number])) for name, b in bounds.items()}
        parameters: dict[str, Any] = {"counts": {}, "run": run}
        rows = 0
        for label in CHAIN_NODES:
            if label in tables:
                parameters[label] = _columns(tables[label], ("chain",))
                if label != "Chain":
                    of = place[label][int(bounds[label][number]) : int(bounds[label][number + 1])]
                    parameters[label]["chain"] = (of - cuts[number]).tolist()
        used = {label: np.arange(len(ids)) for label, ids in shared.items()}
        for name in (*STRUCTURE, *MEASURED):
            table = tables.get(name)
            if table is None:
                continue
            r = RELATIONSHIP[name]
            cut = slice(int(bounds[name][number]), int(bounds[name][number + 1]))
            parameters[name] = _columns(table, ("start", "end", "run"))
            for end, label, places in (("start", r.start, ends[name][0]), ("end", r.end, ends[name][1])):
                first = int(bounds[label][number]) if label in CHAIN_NODES else 0
                numbers = places[cut] - first
                if label in ("Source", "Family"):  # of many, a group looks up its own
                    used[label], numbers = np.unique(numbers, return_inverse=True)
                parameters[name][end] = numbers.tolist()
            if name == "IN_FAMILY":
                # groups that share families lock them in one order
                rows_of = np.argsort(parameters[name]["end"], kind="stable")
                for end in ("start", "end"):
                    parameters[name][end] = np.array(parameters[name][end])[rows_of].tolist()
        parameters |= {label: {"id": ids.take(pa.array(used[label])).to_pylist()} for label, ids in shared.items()}
        for name in (*CHAIN_NODES, *STRUCTURE, *MEASURED):
            count = len(tables[name]) if name in tables else 0
            parameters["counts"][name] = count
            parameters.setdefault(name, {"id": [], "start": [], "end": []})
            rows += count
        parameters["counts"] |= {label: len(parameters[label]["id"]) for label in shared}
        yield _Group(
            run=run,
            tokenizer=prefix,
            chains=order.slice(cuts[number], cuts[number + 1] - cuts[number]).to_pylist(),
            per_layer=any(p in part["NEXT"].column_names for p in ("hidden_shift_by_layer",))
            if "NEXT" in part
            else False,
            parameters=parameters,
            rows=rows,
            tables=tables,
        )


def _subset(group: _Group, chains: Sequence[str]) -> _Group:
    """The part of a group that belongs to some of its chains."""
    if len(chains) == len(group.chains):
        return group
    order = pa.array(chains, pa.string())
    part: dict[str, pa.Table] = {}
    place: dict[str, Numbers] = {}
    for name, table in group.tables.items():
        if name == "Chain":
            of = table["id"]
        elif name in CHAIN_NODES:
            of = table["chain"]
        else:
            of = table["start"] if RELATIONSHIP[name].start == "Chain" else _chain_of(table["start"])
        number = _order_of(of, order)
        rows = np.flatnonzero(number >= 0)
        part[name], place[name] = table.take(pa.array(rows)), number[rows]
    (found,) = _cut(part, place, order, group.run, group.tokenizer, 2**62)
    return found


# --------------------------------------------------------------------------------------------------------------------
# What can go wrong
# --------------------------------------------------------------------------------------------------------------------


class GoneError(StoreError):
    """The server does not answer."""


_NOTHING_CHANGED = "The query only read: nothing was changed, and it can be asked again"
_LOAD_THE_REST = "What was committed is safe; load the rest with: trails rebuild --store neo4j"


def _first_line(error: BaseException) -> str:
    message = getattr(error, "message", None) or str(error)
    return str(message).strip().split("\n")[0][:400]


def _translate(
    error: BaseException, address: str, *, username: str, database: str, timeout_s: float = 0.0, reading: bool = False
) -> TrailsError:
    """What the driver or the server said, as an error that says what to do. Never contains a password: neither the driver's
    nor the server's messages do, and parameters are not part of them.
    """
    code = getattr(error, "code", "") or ""
    text = _first_line(error)
    chain: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < 6:
        chain.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    whole = " ".join(chain).lower()
    if "certificate" in whole and ("verify" in whole or "ssl" in whole):
        return StoreError(
            f"the certificate of Neo4j at {address} is not trusted by this machine. Give the server a certificate that is, or "
            "say bolt+ssc:// (neo4j+ssc://) in NEO4J_URI to accept one that nobody vouches for"
        )
    if isinstance(error, bolt.AuthError) or "Security.Unauthorized" in code or "AuthenticationRateLimit" in code:
        return StoreError(
            f"Neo4j at {address} does not accept user {username!r} with this password. Set NEO4J_USERNAME and NEO4J_PASSWORD"
            + ("; after several wrong tries the server waits a few seconds" if "RateLimit" in code else "")
        )
    if "DatabaseUnavailable" in code:
        return StoreError(
            f"database {database!r} of Neo4j at {address} is not available: it is starting, stopped, or could not start "
            "(a full disk is one cause). Look into the server's log, then try again"
        )
    if "DatabaseNotFound" in code:
        return StoreError(
            f"Neo4j at {address} has no database {database!r} that can be used. Set NEO4J_DATABASE (Community Edition has one: "
            f"neo4j). The server said: {text}"
        )
    critical = "TransactionStartFailed" in code and "critical error" in whole
    if "TransactionLogError" in code or critical or "no space left" in whole or ("disk" in whole and "full" in whole):
        # the server tells a client only that it could not append to its log, or that it stopped after such an error
        return StoreError(
            f"Neo4j at {address} cannot write; the usual cause is a full disk. Free space there, restart the server, then: "
            "trails rebuild --store neo4j"
        )
    if (
        "WriteOnReadOnlyAccessDatabase" in code
        or "read-only" in whole
        or ("read only" in whole and "Statement" not in code)
    ):
        return StoreError(
            f"database {database!r} of Neo4j at {address} is read-only: nothing can be loaded into it. Use another server or "
            "make it writable (server.databases.default_to_read_only=false)"
        )
    if "TransactionTimedOut" in code or "LockClientStopped" in code or "Transaction.Terminated" in code:
        return QueryError(
            f"the statement did not end within {timeout_s:g} s and was stopped; narrow it or raise --timeout"
        )
    if "OutOfMemory" in code or "MemoryPool" in code:
        return QueryError(
            f"the statement needs more memory than Neo4j at {address} has; return less, add LIMIT, or give the server more"
        )
    if "AccessMode" in code or "Statement.AccessMode" in code or "in read access mode" in whole:
        return QueryError(f"the statement writes, and this is the read path: {text}")
    if "Security.Forbidden" in code:
        return StoreError(f"user {username!r} of Neo4j at {address} may not do that: {text}")
    if "ConstraintValidationFailed" in code:
        return StoreError(f"Neo4j at {address} refused a row: {text}")
    if isinstance(error, bolt.Neo4jError) and code.startswith(
        ("Neo.ClientError.Statement", "Neo.ClientError.Procedure")
    ):
        return QueryError(text)
    if isinstance(error, bolt.ConfigurationError | bolt.UnsupportedServerProduct):
        return StoreError(f"NEO4J_URI {address}: {text}")
    if "routing information" in text and address.startswith("neo4j+s:"):
        # while it looks for routes the driver keeps to itself why each server was refused
        return GoneError(
            f"no answer from Neo4j at {address}, or its certificate is not trusted by this machine: the same address with "
            "bolt+s:// says which. neo4j+ssc:// accepts a certificate that nobody vouches for"
        )
    if isinstance(error, bolt.ServiceUnavailable | bolt.SessionExpired | bolt.DriverError | OSError | TimeoutError):
        return GoneError(
            f"no answer from Neo4j at {address} ({text.split(' (')[0]}). Is it running? Start it: "
            f"docker compose up -d --wait, or scripts/neo4j start. {_NOTHING_CHANGED if reading else _LOAD_THE_REST}. "
            "For the graph in the home folder say --store embedded"
        )
    if isinstance(error, bolt.Neo4jError):
        return StoreError(f"Neo4j at {address}: {code or type(error).__name__}: {text}")
    raise error


def _sent(error: Exception) -> QueryError:
    """A parameter that the driver cannot send."""
    if isinstance(error, UnicodeEncodeError):
        return QueryError("a lone surrogate is no character: Neo4j stores Unicode text only")
    return QueryError(f"a parameter cannot be sent to Neo4j: {_first_line(error)}")


def _within(seconds: float, work: Callable[[], T], late: Callable[[], TrailsError]) -> T:
    """The result of ``work``, or an error when it takes longer.

    The server ends a statement at its own time limit; this is for connections that carry nothing, or a byte now and then, where
    no limit of the server helps.
    """
    outcome: list[Any] = []

    def body() -> None:
        try:
            outcome.append((True, work()))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=body, daemon=True, name="trails-neo4j")
    thread.start()
    thread.join(seconds)
    if not outcome:
        raise late()
    good, value = outcome[0]
    if not good:
        raise value
    result: T = value
    return result


# --------------------------------------------------------------------------------------------------------------------
# Reading
# --------------------------------------------------------------------------------------------------------------------

_CALLS = re.compile(r"ResolvedCall\(|\bCALL\s+[`A-Za-z]")
_LOADS = re.compile(r"LOAD\s+CSV\s+(WITH\s+HEADERS\s+)?FROM")


def judge(query_type: str | None, plan: Mapping[str, Any] | None, database: str) -> str:
    """Why a planned statement may not run on the read path; empty when it may.

    The planner's word counts: its query type, its operators, and the expressions it prints with them. The last matter: a
    subquery inside a list comprehension is no operator of the plan, and ``LOAD CSV`` runs there too.
    """
    if query_type != "r":
        return {
            "s": "it changes the schema or administers the server",
            "w": "it writes",
            "rw": "it writes",
        }.get(query_type or "", "it is no query")
    waiting: list[Mapping[str, Any]] = [plan] if plan else []
    if not waiting:
        return "the server gave no plan for it"
    while waiting:
        step = waiting.pop()
        waiting += step.get("children", ())
        operator, _, where = str(step["operatorType"]).partition("@")
        details = str(step.get("args", {}).get("Details", ""))
        if where and where != database:
            return f"it asks database {where!r}, not {database!r}"
        if operator == "LoadCSV" or _LOADS.search(details):
            return "LOAD CSV makes the server read a file or fetch an address"
        if operator == "ProcedureCall":
            procedure = details.partition("(")[0].strip()
            if procedure not in READ_PROCEDURES:
                return (
                    f"procedure {procedure} is not on the list of harmless ones ({', '.join(sorted(READ_PROCEDURES))})"
                )
        elif _CALLS.search(details):
            return "it calls a procedure inside an expression"
        if operator.startswith(("Show", "Terminate", "Administration")) and operator not in READ_SHOW:
            return "it administers the server"
    return ""


def plain(value: Any) -> Any:
    """A value of the driver as JSON-like data: nodes and relationships become their properties, a path the list of both."""
    if isinstance(value, BoltNode):
        properties = {key: plain(item) for key, item in value.items()}
        return NodeValue(properties, value.element_id, tuple(sorted(value.labels)))
    if isinstance(value, BoltRelationship):
        properties = {key: plain(item) for key, item in value.items() if key != LOADED}
        ends = (value.start_node, value.end_node)
        start, end = (node.element_id if node is not None else "" for node in ends)
        return RelationshipValue(properties, value.element_id, value.type, start, end)
    if isinstance(value, BoltPath):
        nodes, relationships = [plain(n) for n in value.nodes], [plain(r) for r in value.relationships]
        return {"nodes": nodes, "relationships": relationships}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, date | datetime | clock):
        return value.isoformat()
    if isinstance(value, timedelta) or type(value).__module__.startswith("neo4j."):
        return value.iso_format() if hasattr(value, "iso_format") else str(value)
    return value


def _size(value: Any) -> int:
    """Bytes of a value, roughly."""
    if isinstance(value, str | bytes):
        return len(value) + 50
    if isinstance(value, Mapping):
        return 64 + sum(_size(k) + _size(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return 56 + sum(map(_size, value))
    return 32


# --------------------------------------------------------------------------------------------------------------------
# The store
# --------------------------------------------------------------------------------------------------------------------


class Neo4jStore:
    """The graph on a Neo4j server. Safe to use from several threads.

    ``uri`` is ``bolt://``, ``neo4j://``, or one of their encrypted forms: ``bolt+s``/``neo4j+s`` verify the server's
    certificate, ``bolt+ssc``/``neo4j+ssc`` accept any. An empty ``password`` means a server that asks for none. Nothing is
    sent before the first use. Raises StoreError for an address that cannot be one.
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
    ) -> None:
        self.address = _address(uri)
        self.database = database
        self._username = username
        self._connections = max(1, connections)
        self._group_tokens = group_tokens
        self._max_bytes = max_bytes
        self._load_timeout_s = load_timeout_s
        self._checked = False
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
                f"NEO4J_URI {self.address!r} cannot be used: {_first_line(error)}; write bolt://HOST:7687 or neo4j+s://HOST"
            ) from None

    def __repr__(self) -> str:
        return f"Neo4jStore({self.address!r}, database={self.database!r})"

    def __enter__(self) -> Neo4jStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------------------- talking to the server

    def _failed(self, error: BaseException, timeout_s: float = 0.0, reading: bool = False) -> TrailsError:
        return _translate(
            error,
            self.address,
            username=self._username,
            database=self.database,
            timeout_s=timeout_s,
            reading=reading,
        )

    def _hangs(self, seconds: float, reading: bool = False) -> TrailsError:
        return GoneError(
            f"Neo4j at {self.address} did not finish within {seconds:.0f} s and the connection carries (almost) nothing. "
            f"Check the network and the server's log. {_NOTHING_CHANGED if reading else _LOAD_THE_REST}"
        )

    def _guarded(self, work: Callable[[], T], timeout_s: float, reading: bool = False) -> T:
        """Run ``work`` with a limit on the wall clock and errors that say what to do."""
        # the server's own limit comes first; the time above it is for connecting, trying again and transport
        limit = timeout_s + CONNECT_TIMEOUT_S + RETRY_S + 4.0
        try:
            return _within(limit, work, lambda: self._hangs(limit, reading))
        except TrailsError:
            raise
        except (UnicodeEncodeError, OverflowError, TypeError, ValueError) as error:
            if isinstance(error, bolt.DriverError):
                raise self._failed(error, timeout_s, reading) from None
            raise _sent(error) from None
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
        if not self._checked:
            self.check()

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
                f"the server at {self.address} answers a count without a row, so it is no Neo4j. Set NEO4J_URI to one"
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
        """Create constraints and indexes that are missing and wait until they answer."""
        self._ready()
        found = self._value(READ_FORMAT, "format")
        if found is not None and found > FORMAT_VERSION:
            raise StoreError(
                f"the graph in Neo4j at {self.address} was written by a newer trails (format {found}; this one knows "
                f"{FORMAT_VERSION}). Upgrade trails, or use another server or database"
            )
        for statement in (*CONSTRAINTS, *INDEXES):
            self._statement(statement)
        self._statement("CALL db.awaitIndexes(60)", 90.0)
        if found != FORMAT_VERSION:
            self._statement(WRITE_FORMAT, format=FORMAT_VERSION)

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
        seen: dict[str, set[Any]] = {label: set() for label in SHARED_NODES}
        with ThreadPoolExecutor(self._connections, thread_name_prefix="trails-load") as pool:
            flying: deque[Future[None]] = deque()
            try:
                for batch in batches:
                    handed += sum(map(len, batch.nodes.values())) + sum(map(len, batch.relationships.values()))
                    for label in SHARED_NODES:
                        # sources and runs are few and shared by all chains
                        if label in batch.nodes:
                            rows = batch.nodes[label].to_pylist()
                            new = [i for i, row in enumerate(rows) if repr(row) not in seen[label]]
                            if new:
                                self._merge({label: batch.nodes[label].take(new)}, {})
                            seen[label] |= {repr(row) for row in rows}
                    groups, rest = _groups(batch, self._group_tokens)
                    for group in groups:
                        while len(flying) >= 2 * self._connections:
                            flying.popleft().result()
                        flying.append(pool.submit(self._write_group, group))
                    nodes = {label: table for label, table in rest.nodes.items() if label not in SHARED_NODES}
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

    def _write_group(self, group: _Group) -> None:
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
                for row in tx.run(OTHER_RUN_CHECK, check):
                    same = others[row["id"]]
                    mixed = row["measured"] or (row["tokenized"] and not same)
                    kinds["mixed" if mixed else "run" if same else "tokens"].append(row["id"])
            for kind, chains in kinds.items():
                if not chains:
                    continue
                part = _subset(group, chains)
                if kind == "mixed":
                    _merge_in(tx, part.tables, part.tables, part.per_layer)
                    pairs = [[chain, group.run] for chain in chains]
                    tx.run(MARK_LOADED, pairs=pairs).consume()
                else:
                    statement = CREATE_GROUP[kind != "new", kind == "run", part.per_layer]
                    tx.run(statement, part.parameters).consume()

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

    def delete(self, chains: Sequence[str]) -> None:
        """Remove chains with everything that belongs to them; a chain goes wholly or not at all."""
        self._ready()
        for first in range(0, len(chains), 20):
            ids = sorted(chains[first : first + 20])

            @neo4j.unit_of_work(timeout=self._load_timeout_s)
            def work(tx: neo4j.ManagedTransaction, ids: list[str] = ids) -> None:
                for statement in (UNMARK_CHAINS, *DELETE_PARTS, DELETE_CHAINS):
                    tx.run(statement, ids=ids).consume()

            self._transaction(work, self._load_timeout_s)

    def clear(self, labels: Sequence[str]) -> None:
        """Remove every node with one of these labels, in transactions of some thousand."""
        self._ready()
        for label in labels:
            if label not in CLEAR:
                raise UsageError(f"schema.py declares no label {label}; it has {', '.join(CLEAR)}")
        # chains first: a clear that is cut short leaves no chain that counts as loaded without its tokens
        for label in sorted(labels, key=lambda label: label != "Chain"):

            def body(label: str = label) -> None:
                with self._driver.session(database=self.database) as session:
                    session.run(CLEAR[label]).consume()

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
        if not query.strip():
            raise QueryError("the statement is empty")
        if write:
            return self._guarded(lambda: self._run_write(query, values, timeout_s, max_rows), timeout_s)
        if len(query) > MAX_QUERY:
            raise QueryError(
                f"the statement has {len(query):,} characters; {MAX_QUERY:,} are allowed. Pass data as parameters"
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
            planned = tx.run("EXPLAIN " + query, values).consume()
            refusal = judge(planned.query_type, planned.plan, self.database)
            if refusal:
                raise QueryError(f"the statement is refused on the read path: {refusal}. Writing needs --write")
            return self._collect(tx.run(query, values), max_rows, timeout_s, began)

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
            row = tuple(plain(value) for value in record.values())
            size += sum(map(_size, row))
            if size > self._max_bytes:
                raise QueryError(
                    f"the result is larger than {self._max_bytes // 2**20} MiB after {len(rows):,} rows; "
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

    def tables(self) -> GraphBatch:
        """The whole graph as tables, read in one transaction per table."""
        arrays = any(row["arrays"] for row in self._statement(HAS_ARRAYS))
        present = self.counts()
        nodes: dict[str, pa.Table] = {}
        relationships: dict[str, pa.Table] = {}
        for node in NODES:
            if node.label in present:
                nodes[node.label] = self._table(READ_NODES[node.label], node.label, False)
        for r in RELATIONSHIPS:
            if r.name in present:
                per_layer = arrays and r.name in ("NEXT", "BEGINS")
                relationships[r.name] = self._table(READ_RELATIONSHIPS[r.name, per_layer], r.name, per_layer)
        return GraphBatch(nodes, relationships, tuple(sorted(self.loaded())))

    def _table(self, statement: str, name: str, per_layer: bool) -> pa.Table:
        schema = table_schema(name, per_layer=per_layer)

        def body() -> pa.Table:
            batches = []
            with self._driver.session(
                database=self.database, default_access_mode=neo4j.READ_ACCESS, fetch_size=10_000
            ) as session:
                result = session.run(neo4j.Query(statement, timeout=3600.0))
                while block := result.fetch(20_000):
                    columns = zip(*(record.values() for record in block), strict=True)
                    arrays = [pa.array(column, f.type) for column, f in zip(columns, schema, strict=True)]
                    batches.append(pa.record_batch(arrays, schema=schema))
            return pa.Table.from_batches(batches, schema)

        return self._guarded(body, 3600.0, reading=True)

    def hold(self) -> None:
        """Nothing to take: the server orders its writers."""

    def save(self) -> None:
        """Nothing to do: every transaction is durable when it is committed."""

    def close(self) -> None:
        """Let go of the connections."""
        with contextlib.suppress(bolt.DriverError, bolt.Neo4jError, OSError):
            _within(10.0, self._driver.close, lambda: self._hangs(10.0))


def _merge_in(
    tx: neo4j.ManagedTransaction,
    nodes: Mapping[str, pa.Table],
    relationships: Mapping[str, pa.Table],
    per_layer: bool,
) -> None:
    """Write rows over what is there; every end must exist."""
    for label, table in nodes.items():
        if label in NODE and len(table):
            tx.run(MERGE_NODES[label], {label: _columns(table), "counts": {label: len(table)}}).consume()
    for name, table in relationships.items():
        if name in RELATIONSHIP and len(table):
            parameters = {name: _columns(table), "counts": {name: len(table)}}
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
        raise StoreError("NEO4J_URI is no address; write bolt://HOST:7687") from None
    if secret:
        raise StoreError(
            "NEO4J_URI holds a user or a password; write bolt://HOST:7687 and set NEO4J_USERNAME and NEO4J_PASSWORD instead"
        )
    if parts.scheme not in SCHEMES:
        raise StoreError(
            f"NEO4J_URI {uri!r} cannot be used: it begins with none of {', '.join(SCHEMES)}; write bolt://HOST:7687"
        )
    return uri


def open_neo4j(settings: Settings, ask: Callable[[str], str] | None = None) -> Neo4jStore:
    """The store that the settings name. Asks for the password when the server wants one, none is set, and somebody is there to
    be asked.
    """
    uri = settings.neo4j_uri or "bolt://localhost:7687"
    username, password = settings.credentials()
    store = Neo4jStore(uri, username, password, settings.neo4j_database)
    try:
        store.check()
    except StoreError as error:
        store.close()
        asked = ask or (getpass.getpass if sys.stdin.isatty() else None)
        if password or asked is None or "does not accept user" not in str(error):
            raise
        password = asked(f"Password of {username} at {store.address}: ")
        store = Neo4jStore(uri, username, password, settings.neo4j_database)
        store.check()
    return store
