"""Write ``docs/schema-examples.json``: one row of every label and relationship of a graph, for docs/schema.md.

    python scripts/schema_examples.py [--home HOME]

Takes the graph that the settings name, with the packaged sample and its analyses loaded. Rows that are there already stay where
the graph has none of theirs. Run scripts/generate_docs.py afterwards.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from trails.config import load_settings
from trails.schema import NODES, RELATIONSHIPS, properties_of
from trails.store import open_graph

PLACE = Path(__file__).parents[1] / "docs" / "schema-examples.json"
TEXT = 60
"""Characters of a text that are shown."""
ITEMS = 3
"""Elements of a list that are shown."""
ROWS = 200
"""Rows among which the one with the most properties is taken."""


def short(value: Any) -> Any:
    """The value, cut and rounded."""
    if isinstance(value, str):
        return value if len(value) <= TEXT else value[:TEXT] + "…"
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, list):
        return [short(item) for item in value[:ITEMS]] + (["…"] if len(value) > ITEMS else [])
    return value


def row_of(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The row with the most properties, without those that are null; the first of equal ones."""
    kept = [{name: short(value) for name, value in row.items() if value is not None} for row in rows]
    return max(kept, key=len, default=None)


def main() -> int:
    """Read the graph, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--home", type=Path)
    settings = load_settings(home=parser.parse_args().home)
    found: dict[str, Any] = json.loads(PLACE.read_text(encoding="utf-8")) if PLACE.is_file() else {}
    with open_graph(settings) as graph:
        there = graph.counts()
        for node in NODES:
            if there.get(node.label):
                columns = ", ".join(f"n.`{p.name}` AS `{p.name}`" for p in node.properties)
                match = f"MATCH (n:{node.label}) WITH n ORDER BY n.id LIMIT {ROWS} RETURN {columns}"
                found[node.label] = row_of(graph.run(match, timeout_s=600.0).dicts())
        for r in RELATIONSHIPS:
            if there.get(r.name):
                columns = "".join(f", r.`{p.name}` AS `{p.name}`" for p in properties_of(r.name))
                match = (
                    f"MATCH (a:{r.start})-[r:{r.type}]->(b:{r.end}) WITH a, r, b ORDER BY a.id, b.id LIMIT {ROWS} "
                    f"RETURN a.id AS start, b.id AS `end`{columns}"
                )
                found[r.name] = row_of(graph.run(match, timeout_s=600.0).dicts())
    order = [*(node.label for node in NODES), *(r.name for r in RELATIONSHIPS)]
    kept = {name: found[name] for name in order if found.get(name)}
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(row, ensure_ascii=False)}" for name, row in kept.items())
    PLACE.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    sys.stdout.write(f"{len(kept)} of {len(order)}; without a row: {', '.join(set(order) - set(kept)) or 'none'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
