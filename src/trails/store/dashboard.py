"""The six questions of docs/five-questions.md as a dashboard of NeoDash: a file that it loads, written without it.

A page is a question: on the left its picture, on the right the table that answers it. Queries are those of ``cypher/``. What
a viewer may change is a parameter of the dashboard; every other parameter has its default in the query.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from trails.schema import stable_hash
from trails.store.queries import NamedQuery

VERSION = "2.4"
"""Version of the dashboard's format."""
COLUMNS = 24
"""Width of a page in the format's own unit."""
PAGES = (
    ("How is this chain built?", "chain-graph", "chain-steps"),
    ("Where is the model surprised?", "surprise-graph", "most-surprising-in-chain"),
    ("Which kinds of steps are hard?", "", "surprisal-by-role"),
    ("Which chains say the same?", "overlap-graph", "overlaps-top"),
    ("Where is a step missing?", "gap-graph", "gaps-top"),
    ("What did the training change?", "change-graph", "moved-by-source"),
)
"""Title, picture and table of every page."""
PARAMETERS = {
    "run": "neodash_run_id",
    "chain": "neodash_chain_id",
    "home": "neodash_home_id",
    "before": "neodash_before",
    "after": "neodash_after",
}
"""Parameters of queries that a viewer may change, and what NeoDash calls them."""
CAPTIONS = {
    "Step": "role",
    "Token": "piece",
    "Overlap": "text",
    "Chain": "source_id",
    "Gap": "rank",
}
"""Property under which NeoDash shows the nodes of a label."""


def statement_of(query: NamedQuery) -> str:
    """A query with the dashboard's parameters in it, and its other parameters as values."""
    given = {p.name: f"${PARAMETERS.get(p.name, '')}" for p in query.parameters}
    given |= {p.name: json.dumps(p.example, ensure_ascii=False) for p in query.parameters if p.name not in PARAMETERS}
    return re.sub(r"\$(\w+)", lambda found: given[found[1]], query.statement.strip().rstrip(";"))


def _report(title: str, kind: str, query: str, place: tuple[int, int, int, int], **more: Any) -> dict[str, Any]:
    x, y, width, height = place
    return {
        "id": stable_hash("report", title, query),
        "title": title,
        "query": query,
        "type": kind,
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        "selection": more.get("selection", {}),
        "settings": more.get("settings", {}),
    }


def _choice(title: str, label: str, parameter: str, x: int) -> dict[str, Any]:
    """A card in which the viewer chooses the id of a node of this label; what is typed arrives as ``$input``."""
    found = (
        f"MATCH (n:`{label}`) WHERE toLower(toString(n.`id`)) CONTAINS toLower($input) "
        "RETURN DISTINCT n.`id` AS value ORDER BY value LIMIT 5"
    )
    settings = {"type": "Node Property", "entityType": label, "propertyType": "id", "parameterName": parameter}
    return _report(title, "select", found, (x, 0, COLUMNS // 3, 2), settings=settings)


def dashboard(queries: Mapping[str, NamedQuery], values: Mapping[str, Any] | None = None) -> str:
    """The dashboard as JSON; ``values`` are those of :func:`trails.store.browser.values_of`, and where one is missing it is
    the query's example.
    """
    values = values or {}
    parameters: dict[str, Any] = {}
    pages: list[dict[str, Any]] = []
    for title, picture, table in PAGES:
        reports: list[dict[str, Any]] = []
        top = 0
        if not pages:
            third = COLUMNS // 3
            reports += [
                _choice("Chain", "Chain", "neodash_chain_id", 0),
                _choice("Run", "Run", "neodash_run_id", third),
                _choice("Home", "Home", "neodash_home_id", 2 * third),
            ]
            top = 2
        left = COLUMNS // 2 if picture else 0
        for name, kind, x, width in ((picture, "graph", 0, left), (table, "table", left, COLUMNS - left)):
            if name:
                query = queries[name]
                for p in query.parameters:
                    if p.name in PARAMETERS:
                        wanted = values.get(p.name)
                        parameters[PARAMETERS[p.name]] = p.example if wanted is None else wanted
                selection = CAPTIONS if kind == "graph" else {}
                place = (x, top, width, 8)
                reports.append(_report(query.title, kind, statement_of(query), place, selection=selection))
        pages.append({"title": title, "reports": reports})
    made = {
        "title": "Trails",
        "version": VERSION,
        "settings": {"pagenumber": 0, "editable": True, "fullscreenEnabled": True, "parameters": parameters},
        "pages": pages,
        "parameters": {},
        "extensions": {},
    }
    return json.dumps(made, ensure_ascii=False, indent=1) + "\n"
