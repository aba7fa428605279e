"""What may run on the read path, and what comes back from it.

A statement is explained before it runs, and only plans that read this database, call no procedure outside a short list and
fetch no file or address are run, in READ access mode.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from datetime import time as clock
from typing import Any

from neo4j.graph import Node as BoltNode
from neo4j.graph import Path as BoltPath
from neo4j.graph import Relationship as BoltRelationship

from trails.store.neo4j.statements import LOADED
from trails.store.values import NodeValue, RelationshipValue

READ_PROCEDURES = frozenset(
    {
        "db.labels",
        "db.relationshipTypes",
        "db.propertyKeys",
        "db.schema.nodeTypeProperties",
        "db.schema.relTypeProperties",
        "db.schema.visualization",
        "db.ping",
        "db.index.fulltext.listAvailableAnalyzers",
        "db.index.fulltext.queryNodes",
        "db.index.fulltext.queryRelationships",
        "db.index.vector.queryNodes",
        "db.index.vector.queryRelationships",
    }
)
"""Procedures that a read statement may call; the planner calls all of them reads."""
READ_SHOW = frozenset({"ShowIndexes", "ShowConstraints", "ShowFunctions", "ShowProcedures"})

_CALLS = re.compile(r"ResolvedCall\(|\bCALL\s+[`A-Za-z]")
_LOADS = re.compile(r"LOAD\s+CSV\s+(WITH\s+HEADERS\s+)?FROM")


def judge(query_type: str | None, plan: Mapping[str, Any] | None, database: str) -> str:
    """Why a planned statement may not run on the read path; empty when it may.

    The planner's word counts: its query type, its operators, and the expressions it prints with them. The last matter: a
    subquery inside a list comprehension is no operator of the plan, and ``LOAD CSV`` runs there too.
    """
    if query_type != "r":
        # a procedure that the planner takes for administration may only read: the list says what is wrong with it
        called = _not_listed(plan) if query_type == "s" else ""
        return called or {
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
            if refusal := _not_listed(step):
                return refusal
        elif _CALLS.search(details):
            return "it calls a procedure inside an expression"
        if operator.startswith(("Show", "Terminate", "Administration")) and operator not in READ_SHOW:
            return "it administers the server"
    return ""


def _not_listed(step: Mapping[str, Any] | None) -> str:
    """Why the procedure that a plan begins with, or the first below it, may not be called; empty when it may or none is."""
    if step is None:
        return ""
    if str(step["operatorType"]).startswith("ProcedureCall"):
        procedure = str(step.get("args", {}).get("Details", "")).partition("(")[0].strip()
        if procedure not in READ_PROCEDURES:
            return f"procedure {procedure} is not on the list of harmless ones ({', '.join(sorted(READ_PROCEDURES))})"
    return next(filter(None, map(_not_listed, step.get("children", ()))), "")


_PLAN = re.compile(r"(?:\s|//[^\n]*(?:\n|$)|/\*.*?\*/)*(EXPLAIN|PROFILE)\b", re.IGNORECASE | re.DOTALL)


def plan_asked(query: str) -> tuple[str, str]:
    """``EXPLAIN``, ``PROFILE`` or nothing, and the statement with blanks in its place, so that every other word stays where it
    is."""
    found = _PLAN.match(query)
    if not found:
        return "", query
    return found[1].upper(), query[: found.start(1)] + " " * len(found[1]) + query[found.end() :]


def plan_rows(plan: Mapping[str, Any], depth: int = 0) -> Iterator[tuple[Any, ...]]:
    """A plan as rows, the last operator first: operator (indented by its depth), details, rows estimated, rows found, database
    hits. The last two are None for a statement that was only explained.
    """
    args = plan.get("args", {})
    estimated = args.get("EstimatedRows")
    found = tuple(args.get(name, plan.get(other)) for name, other in (("Rows", "rows"), ("DbHits", "dbHits")))
    operator = "  " * depth + str(plan["operatorType"]).partition("@")[0]
    yield (operator, str(args.get("Details", "")), None if estimated is None else round(float(estimated), 1), *found)
    for child in plan.get("children", ()):
        yield from plan_rows(child, depth + 1)


PLAN_COLUMNS = ("operator", "details", "estimated_rows", "rows", "db_hits")


def from_driver(value: Any) -> Any:
    """A value of the driver as JSON-like data: nodes and relationships become their properties, a path the list of both."""
    if isinstance(value, BoltNode):
        properties = {key: from_driver(item) for key, item in value.items()}
        return NodeValue(properties, value.element_id, tuple(sorted(value.labels)))
    if isinstance(value, BoltRelationship):
        properties = {key: from_driver(item) for key, item in value.items() if key != LOADED}
        ends = (value.start_node, value.end_node)
        start, end = (node.element_id if node is not None else "" for node in ends)
        return RelationshipValue(properties, value.element_id, value.type, start, end)
    if isinstance(value, BoltPath):
        nodes, relationships = [from_driver(n) for n in value.nodes], [from_driver(r) for r in value.relationships]
        return {"nodes": nodes, "relationships": relationships}
    if isinstance(value, Mapping):
        return {str(key): from_driver(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [from_driver(item) for item in value]
    if isinstance(value, date | datetime | clock):
        return value.isoformat()
    if isinstance(value, timedelta) or type(value).__module__.startswith("neo4j."):
        return value.iso_format() if hasattr(value, "iso_format") else str(value)
    return value


def size_of(value: Any) -> int:
    """Bytes of a value, roughly."""
    if isinstance(value, str | bytes):
        return len(value) + 50
    if isinstance(value, Mapping):
        return 64 + sum(size_of(k) + size_of(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return 56 + sum(map(size_of, value))
    return 32
