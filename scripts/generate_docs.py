"""Pages made from the code: docs/schema.md, docs/queries.md, docs/commands.md. With --check nothing is written.

python scripts/generate_docs.py           write the pages
python scripts/generate_docs.py --check   exit code 1 and the names of the pages that are out of date
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import click

from trails.cli import COMMANDS
from trails.schema import NODES, RELATIONSHIPS, SHARD_SCHEMA, TRANSITION, TRANSITION_ARRAYS, Property
from trails.store.queries import named_queries

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GENERATED = "<!-- made by scripts/generate_docs.py from the code; edit the code instead -->\n"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    names = list(head)
    return _row(*names) + _row(*("---" for _ in names)) + "".join(_row(*row) for row in rows)


def _properties(properties: Iterable[Property]) -> str:
    rows = ((f"`{p.name}`", p.type, p.unit, p.meaning) for p in properties)
    return _table(("property", "type", "unit", "meaning"), rows)


def schema_page() -> str:
    """Labels, relationship types, properties and shard columns."""
    page = [
        "# Schema\n\n",
        GENERATED,
        "\nNatural logarithms throughout; characters are Unicode code points.\n\n## Nodes\n",
    ]
    for node in NODES:
        page.append(f"\n### :{node.label}\n\n{node.meaning}\n\n{_properties(node.properties)}")
    page.append("\n## Relationships\n")
    for declared in RELATIONSHIPS:
        page.append(f"\n### (:{declared.start})-[:{declared.type}]->(:{declared.end})\n\n{declared.meaning}")
        page.append(f"; one per {', '.join(declared.key)}\n" if declared.key else "\n")
        if declared.properties == TRANSITION:
            page.append("\nThe properties of a [transition](#properties-of-a-transition).\n")
        elif declared.properties:
            page.append("\n" + _properties(declared.properties))
    page.append("\n### Properties of a transition\n\n" + _properties(TRANSITION))
    page.append("\nWith `--per-layer` also:\n\n" + _properties(TRANSITION_ARRAYS))
    page.append(
        "\n## Columns of a shard\n\nOne row per chain and run; matrices row by row, their shapes in the docstring of "
        "`trails.schema.Trace`.\n\n"
    )
    page.append(_table(("column", "type"), ((f"`{field.name}`", f"`{field.type}`") for field in SHARD_SCHEMA)))
    return "".join(page)


def queries_page() -> str:
    """Every named query with parameters, columns and statement."""
    queries = named_queries()
    page = [
        "# Named queries\n\n",
        GENERATED,
        "\nEach is a file of `cypher/` that runs unchanged on the embedded engine, in ",
    ]
    page.append("Neo4j and in Neo4j Browser. In the terminal: `trails query NAME --param name=value`.\n\n")
    page.append(_table(("query", "what it answers"), ((f"[{q.name}](#{q.name})", q.title) for q in queries.values())))
    for query in queries.values():
        page.append(f"\n## {query.name}\n\n**{query.title}.** {query.description}\n\n")
        if query.parameters:
            rows = (
                (
                    f"`{p.name}`",
                    p.type,
                    json.dumps(p.example, ensure_ascii=False),
                    "yes" if p.default else "",
                    p.meaning,
                )
                for p in query.parameters
            )
            page.append(_table(("parameter", "type", "example", "used when not given", "meaning"), rows) + "\n")
        page.append(_table(("column", "type", "unit"), ((f"`{c.name}`", c.type, c.unit) for c in query.columns)))
        page.append(f"\n```cypher\n{query.statement}\n```\n")
    return "".join(page)


def commands_page() -> str:
    """The help of every command, as the terminal shows it at 100 columns."""
    page = [
        "# Commands\n\n",
        GENERATED,
        "\nData goes to stdout, progress and warnings to stderr. Exit codes: 0 done, 1 a ",
    ]
    page.append(
        "check failed, 2 wrong use, 3 bad input, 4 model, 5 store, 6 query, 7 missing package, 130 interrupted.\n"
    )
    page.append("Flags win over environment variables (`TRAILS_…`), those over `trails.toml`, that over defaults.\n\n")
    page.append(
        _table(("command", "what it does"), ((f"[trails {n}](#trails-{n})", text) for n, text in COMMANDS.items()))
    )
    for name in COMMANDS:
        command: click.Command = importlib.import_module(f"trails.cli.{name.replace('-', '_')}").command
        context = click.Context(command, info_name=f"trails {name}", terminal_width=100, max_content_width=100)
        page.append(f"\n## trails {name}\n\n```\n{command.get_help(context)}\n```\n")
    return "".join(page)


PAGES: dict[str, Callable[[], str]] = {
    "schema.md": schema_page,
    "queries.md": queries_page,
    "commands.md": commands_page,
}

_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def broken_links() -> Iterator[str]:
    """Relative links of README and docs that lead nowhere."""
    for page in (ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))):
        for target in _LINK.findall(page.read_text(encoding="utf-8")):
            if "://" not in target and not (page.parent / target).exists():
                yield f"{page.relative_to(ROOT)}: link to {target}, which does not exist"


def main() -> None:
    """Write or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    os.environ["COLUMNS"] = "100"
    problems = []
    for name, make in PAGES.items():
        text, path = make(), DOCS / name
        if check:
            if not path.exists() or path.read_text(encoding="utf-8") != text:
                problems.append(f"docs/{name} is out of date")
        else:
            path.write_text(text, encoding="utf-8")
    problems += broken_links() if check else ()
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit("Write the pages again: python scripts/generate_docs.py")


if __name__ == "__main__":
    main()
