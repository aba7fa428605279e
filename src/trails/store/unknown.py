"""Names in a statement that nothing in the graph bears: a typo is an error, not an empty table."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from trails.errors import QueryError
from trails.schema import NODES, RELATIONSHIPS, TRANSITION, TRANSITION_ARRAYS
from trails.store.base import GraphStore

_TEXT_OR_COMMENT = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|//[^\n]*|/\*.*?\*/", re.DOTALL)
_LABELS = re.compile(r"\(\s*\w*\s*:\s*(\w+(?:\s*[:|&]\s*\w+)*)")
_TYPES = re.compile(r"\[\s*\w*\s*:\s*(\w+(?:\s*\|\s*:?\s*\w+)*)")


def check_names(graph: GraphStore, statement: str) -> None:
    """Raise QueryError for a label or a relationship type in the patterns of a read statement that is not declared and that
    nothing in the graph has. Names in quotes or back ticks and names given as a parameter are not looked at.
    """
    code = _TEXT_OR_COMMENT.sub("''", statement)
    declared = {node.label for node in NODES} | {relationship.type for relationship in RELATIONSHIPS}
    for kind, pattern, count in (
        ("label", _LABELS, "MATCH (n:{}) RETURN count(n) AS n"),
        ("relationship type", _TYPES, "MATCH ()-[r:{}]->() RETURN count(r) AS n"),
    ):
        for name in _names(pattern, code):
            if name not in declared and not graph.run(count.format(name)).rows[0][0]:
                near = difflib.get_close_matches(name, sorted(declared), 1)
                hint = f"Did you mean {near[0]}?" if near else "What there is: trails status"
                raise QueryError(f"the statement names the {kind} {name}, which nothing in the graph has. {hint}")


def _names(pattern: re.Pattern[str], code: str) -> Iterable[str]:
    return dict.fromkeys(name for found in pattern.findall(code) for name in re.findall(r"\w+", found))


_PROPERTIES = re.compile(r"(?<![\w.$])[A-Za-z_]\w*\s*\.\s*([A-Za-z_]\w*)\b(?!\s*[(.])")


def unknown_properties(graph: GraphStore, statement: str) -> list[str]:
    """A sentence for every property that a statement reads and that nothing in the graph has, so that it is null in every row.

    Keys of maps that the statement itself makes are not looked at, nor names in quotes or back ticks. Reads the graph only
    where a name is not declared.
    """
    code = _TEXT_OR_COMMENT.sub("''", statement)
    declared = {p.name for p in (*TRANSITION, *TRANSITION_ARRAYS)}
    declared |= {p.name for node in NODES for p in node.properties}
    declared |= {p.name for relationship in RELATIONSHIPS for p in relationship.properties}
    asked = [
        name for name in _names(_PROPERTIES, code) if name not in declared and not re.search(rf"\b{name}\s*:", code)
    ]
    if not asked:
        return []
    there = {str(key) for row in graph.run("CALL db.propertyKeys()").rows for key in row}
    said = []
    for name in asked:
        if name not in there:
            near = difflib.get_close_matches(name, sorted(declared | there), 1)
            hint = f"Did you mean {near[0]}?" if near else "Properties: docs/schema.md"
            said.append(f"nothing in the graph has the property {name}: it is null in every row. {hint}")
    return said
