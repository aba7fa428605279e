"""Write docs/schema.md and docs/queries.md from the code; ``--check`` only compares and names what is out of date.

python scripts/generate_docs.py [--check]
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from trails.cli import STAGES
from trails.schema import NODES, RELATIONSHIPS, SHARD_SCHEMA, TRANSITION, TRANSITION_ARRAYS, Property
from trails.store.queries import named_queries

DOCS = Path(__file__).parents[1] / "docs"
NOTE = "<!-- Written by scripts/generate_docs.py. Change the source and run it again. -->\n"


def schema_page() -> str:
    """Labels, relationship types, properties and shard columns, from src/trails/schema.py."""
    parts = [
        "# Schema\n",
        NOTE,
        "\nEvery label, relationship type, property and shard column, as `src/trails/schema.py` declares them. How to read",
        "the graph is told in [graph.md](graph.md).\n",
        "\n## Nodes\n",
    ]
    for node in NODES:
        parts += [f"\n### `(:{node.label})`\n", f"\n{sentence(node.meaning)}\n", *table(node.properties)]
    parts.append("\n## Relationships\n")
    for relationship in RELATIONSHIPS:
        per = " One per run between the same two nodes." if "run" in relationship.key else ""
        arrow = f"(:{relationship.start})-[:{relationship.type}]->(:{relationship.end})"
        parts += [f"\n### `{arrow}`\n", f"\n{sentence(relationship.meaning)}{per}\n"]
        if relationship.properties == TRANSITION:
            parts.append("\nProperties: those of [a measured transition](#a-measured-transition).\n")
        elif relationship.properties:
            parts += table(relationship.properties)
    parts += ["\n## A measured transition\n", "\nThe properties of `NEXT` and `BEGINS`.\n", *table(TRANSITION)]
    parts += ["\nWith `--per-layer` also:\n", *table(TRANSITION_ARRAYS)]
    parts += [
        "\n## Shards\n",
        "\nOne row per chain and run. Matrices are stored row by row in one list; their width follows from `n_layers`. The",
        "meaning of every column is told at `Chain`, `Step` and `Trace` in `src/trails/schema.py`.\n",
        "\n| column | Arrow type |\n|---|---|\n",
        *(f"| `{field.name}` | `{arrow_type(str(field.type))}` |\n" for field in SHARD_SCHEMA),
    ]
    return join(parts)


def queries_page() -> str:
    """The library of named queries, from the headers of cypher/."""
    queries = named_queries()
    parts = [
        "# Named queries\n",
        NOTE,
        "\nEach is a file of `cypher/`, runs unchanged in Neo4j Browser and on the embedded graph, and is run by name:",
        "`trails query NAME --param NAME=VALUE`. A parameter with a default may be left out; `run` is filled in when the",
        "home holds one run.\n",
        "\n| query | answers |\n|---|---|\n",
        *(f"| [{name}](#{name}) | {query.title} |\n" for name, query in queries.items()),
    ]
    for name, query in queries.items():
        parts += [
            f"\n## {name}\n",
            f"\n**{query.title}.** {query.description}\n",
            "\n| parameter | type | value | meaning |\n|---|---|---|---|\n",
        ]
        for p in query.parameters:
            shown = f"`{p.example!r}`".replace("'", '"').replace("|", "\\|")
            parts.append(
                f"| `{p.name}` | {p.type} | {'default' if p.default else 'for example'} {shown} | {p.meaning} |\n"
            )
        parts.append("\n| column | type | unit or meaning |\n|---|---|---|\n")
        parts += [f"| `{c.name}` | {c.type} | {c.unit} |\n" for c in query.columns]
        parts.append(f"\n```cypher\n{query.statement}\n```\n")
    return join(parts)


def commands_page() -> str:
    """The commands by stage, with their one-line help."""
    parts = ["# Commands\n", NOTE, "\n`trails COMMAND --help` lists the options.\n"]
    for stage, commands in STAGES.items():
        parts += [f"\n## {stage}\n", "\n| command | |\n|---|---|\n"]
        parts += [f"| `trails {name}` | {text} |\n" for name, text in commands.items()]
    return join(parts)


def sentence(text: str) -> str:
    """First letter upper case, full stop at the end."""
    return text[0].upper() + text[1:].rstrip(".") + "."


def table(properties: Iterable[Property]) -> list[str]:
    """Rows of a property table."""
    rows = ["\n| property | type | meaning | unit |\n|---|---|---|---|\n"]
    for p in properties:
        index = " (indexed)" if p.indexed and p.name != "id" else ""
        meaning = p.meaning.replace("|", "\\|")
        rows.append(f"| `{p.name}` | {p.type}{index} | {meaning} | {p.unit} |\n")
    return rows


def arrow_type(text: str) -> str:
    """An Arrow type without the noise of field names."""
    return text.replace("element: ", "").replace("item: ", "").replace("child 0, ", "")


def join(parts: Iterable[str]) -> str:
    """Parts below one another; a part without a line end is continued by the next."""
    return "".join(part if part.endswith("\n") else part + " " for part in parts)


PAGES = {"schema.md": schema_page, "queries.md": queries_page, "commands.md": commands_page}


def out_of_date() -> list[str]:
    """Names of the pages that are not what the code says."""
    return [
        name
        for name, page in PAGES.items()
        if not (DOCS / name).is_file() or (DOCS / name).read_text(encoding="utf-8") != page()
    ]


def main() -> int:
    """Write the pages, or check them."""
    stale = out_of_date()
    if "--check" in sys.argv[1:]:
        for name in stale:
            sys.stderr.write(f"docs/{name} is out of date. Type: python scripts/generate_docs.py\n")
        return 1 if stale else 0
    for name in stale:
        (DOCS / name).write_text(PAGES[name](), encoding="utf-8")
        sys.stdout.write(f"wrote docs/{name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
