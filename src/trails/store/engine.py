"""The embedded engine: kglite, imported here only, and how a read is asked of it.

Without pandas and pyarrow, so that the child process which answers strangers (:mod:`trails.store.guarded`) starts quickly.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trails.errors import MissingPackageError, QueryError, WritingQueryError
from trails.platform.static_tls import ADVICE
from trails.store.values import NodeValue, RelationshipValue

try:
    import kglite as kglite
except ImportError as error:
    if "static TLS" in str(error):
        raise MissingPackageError(
            f"the embedded graph engine finds no room next to the native libraries of this process ({error}). {ADVICE}"
        ) from None
    raise MissingPackageError(
        f"the embedded graph engine is not installed ({error}). Run: pip install kglite==0.21.2"
    ) from None

kglite.set_query_warning_policy("silent")


MAX_WORK_UNITS = 200_000_000
"""Rows and collected items that one read may touch: stops a query that would fill the memory before its time is up."""

READ_PROCEDURES = frozenset(
    {
        "db.labels",
        "db.relationshiptypes",
        "db.propertykeys",
        "db.schema.visualization",
        "db.schema.nodetypeproperties",
        "db.schema.reltypeproperties",
    }
)
"""Procedures allowed on the read path, lower case: they describe the graph and nothing else."""


def described(graph: kglite.KnowledgeGraph, declared: Mapping[str, Sequence[str]]) -> kglite.KnowledgeGraph:
    """The graph, told which properties every label may have. A pattern such as ``(n:Gap {chain: 'c1'})`` is else an error in
    the engine where no node of the label ever had the property, and finds nothing elsewhere.
    """
    graph.define_schema({"nodes": {label: {"optional": list(names)} for label, names in declared.items()}})
    return graph


def read(
    graph: kglite.KnowledgeGraph, query: str, parameters: Mapping[str, Any], *, timeout_s: float, max_rows: int
) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Columns and at most ``max_rows`` + 1 rows of a statement that :func:`refuse_unless_read` let pass, asked on a frozen
    snapshot that has no way to be changed. Raises QueryError.
    """
    limits: dict[str, Any] = {"timeout_ms": max(1, int(timeout_s * 1000)), "row_limit": max_rows + 1}
    try:
        found = graph.freeze().cypher(query, params=dict(parameters), max_work_units=MAX_WORK_UNITS, **limits)
        if _PROFILE.match(query) and isinstance(profile := getattr(found, "profile", None), list):
            columns = tuple(profile[0]) if profile else ()
            return columns, [tuple(row[name] for name in columns) for row in profile]
        return rows_of(found)
    except ENGINE_ERRORS as error:
        raise translated(error, timeout_s, query) from error


def rows_of(found: Any) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """What the engine returned, as columns and rows of plain Python values."""
    if isinstance(found, str):
        raise QueryError("FORMAT CSV is not part of Cypher. Use trails cypher --csv")
    columns = tuple(found.columns)
    return columns, [tuple(from_engine(row[name]) for name in columns) for row in found.to_list()]


_PROFILE = re.compile(r"(?:\s|//[^\n]*(?:\n|$)|/\*.*?\*/)*PROFILE\b", re.IGNORECASE | re.DOTALL)

ENGINE_ERRORS = (kglite.KgError, ValueError, TypeError, OverflowError, RecursionError)
"""What a wrong statement or parameter makes the engine raise."""


_POSITION = re.compile(r"\bat position (\d+)$")


def translated(error: BaseException, timeout_s: float, query: str = "") -> QueryError:
    """An error of the engine as one that says what to do. A position in ``query`` is told as the engine's parser tells one: its
    lexer counts the characters of the whole statement.
    """
    if isinstance(error, kglite.ReadOnlyError):
        return WritingQueryError(
            "the statement writes and was refused. Queries read; to write, add --write (trails cypher) or write=True"
        )
    if isinstance(error, kglite.CypherTimeoutError):
        return late(timeout_s)
    said = str(error)
    if (found := _POSITION.search(said)) and int(found[1]) <= len(query):
        before = query[: int(found[1])]
        start = before.rfind("\n") + 1
        line, column = before.count("\n") + 1, len(before) - start + 1
        shown = query[start:].partition("\n")[0]
        said = f"{said[: found.start()]}at line {line}, col {column}\n   {shown}\n   {' ' * (column - 1)}^"
    return QueryError(f"the query failed: {said}")


def late(timeout_s: float) -> QueryError:
    """The time was up."""
    return QueryError(
        f"the query did not end within {timeout_s:g} s and was stopped. Name a start node by id, add LIMIT, "
        "or allow more time with --timeout"
    )


def from_engine(value: Any) -> Any:
    """An engine value as plain Python. Nodes and relationships stay the engine's mappings, which :func:`elements` reads: a
    child process hands over plain values only.
    """
    if isinstance(value, dict):
        return {key: from_engine(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [from_engine(item) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, np.generic):
        return value.item()
    return value


def elements(value: Any) -> Any:
    """A plain value with its nodes and relationships as mappings of their own properties, also inside lists, maps and paths."""
    if isinstance(value, dict):
        keys = value.keys()
        if keys == {"id", "labels", "properties"}:
            inner = value["properties"].items()
            properties = {key: elements(item) for key, item in inner if key not in ("title", "type")}
            return NodeValue(properties, str(value["id"]), tuple(value["labels"]))
        if keys == {"id", "start", "end", "type", "properties"}:
            properties = {key: elements(item) for key, item in value["properties"].items()}
            ends = (str(value["start"]), str(value["end"]))
            return RelationshipValue(properties, str(value["id"]), value["type"], *ends)
        return {key: elements(item) for key, item in value.items()}
    if isinstance(value, list):
        return [elements(item) for item in value]
    return value


# --------------------------------------------------------------------------------------------------------------------
# The read path's judge
# --------------------------------------------------------------------------------------------------------------------

_LEXEMES = re.compile(
    r"""
      '(?:[^'\\]|\\.)*'        # strings
    | "(?:[^"\\]|\\.)*"
    | `(?:[^`]|``)*`           # quoted names
    | //[^\n]*                 # comments
    | /\*.*?\*/
    | [^\W\d]\w*(?:\s*\.\s*[^\W\d]\w*)*   # words, dotted names as one
    | \S
    """,
    re.VERBOSE | re.DOTALL,
)


def refuse_several(query: str) -> None:
    """Raise QueryError for several statements: the engine runs all of them and answers the last. A semicolon inside a string, a
    comment or a quoted name parts none, nor does one at the end.
    """
    statements, ended, second = 0, True, 0
    for match in _LEXEMES.finditer(query):
        if match[0] == ";":
            ended = True
        elif ended and not match[0].startswith(("//", "/*")):
            statements, ended = statements + 1, False
            second = match.start() if statements == 2 else second
    if statements > 1:
        line, column = query.count("\n", 0, second) + 1, second - query.rfind("\n", 0, second)
        raise QueryError(
            f"{statements} statements were given, and one can be asked at a time (the second begins at line {line}, column "
            f"{column}). Ask each by itself"
        )


def refuse_unless_read(query: str) -> None:
    """Raise QueryError for what the engine's frozen snapshot would still do: read files, call procedures, administer.

    Writing clauses need no judge: the snapshot has no operation that changes it. Words inside strings, comments and quoted
    names do not count.
    """
    words = [
        re.sub(r"\s+", "", match[0]).lower()
        for match in _LEXEMES.finditer(query)
        if match[0][0] not in "'\"" and not match[0].startswith(("//", "/*"))
    ]
    if not words:
        raise QueryError("the query is empty")
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "load" and following == "csv":
            raise QueryError(
                "LOAD CSV reads files and addresses; queries read the graph only. Ingest files with: trails ingest"
            )
        if word == "call" and following not in ("{", "(") and following.replace("`", "") not in READ_PROCEDURES:
            raise QueryError(
                f"procedure {following or '?'} is not allowed on the read path; allowed: {', '.join(sorted(READ_PROCEDURES))}"
            )
        if word == "show" and following not in ("indexes", "constraints"):
            raise QueryError("SHOW is allowed for INDEXES and CONSTRAINTS only")
