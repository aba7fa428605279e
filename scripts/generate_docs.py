"""Write the generated pages and the verdicts that data cards quote; ``--check`` only compares and names what is out of date.

python scripts/generate_docs.py [--check]
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

import trails
from trails.cli import STAGES, cli
from trails.experiments import experiments
from trails.experiments.base import judge
from trails.experiments.runner import read_results
from trails.schema import NODES, RELATIONSHIPS, SHARD_SCHEMA, TRANSITION, TRANSITION_ARRAYS, Property
from trails.store.queries import named_queries

sys.path.insert(0, str(Path(__file__).parent))
from schema_notes import SHOWN, WRITTEN, examples, queries_for, when_null, written_by

DOCS = Path(__file__).parents[1] / "docs"
NOTE = "<!-- Written by scripts/generate_docs.py. Change the source and run it again. -->\n"


def schema_page() -> str:
    """Labels, relationship types, properties and shard columns, from src/trails/schema.py."""
    parts = [
        "# Schema\n",
        NOTE,
        "\nEvery label, relationship type, property and shard column, as `src/trails/schema.py` declares them. How to read",
        "the graph is told in [graph.md](graph.md). A property without *null when* is never null. *Query* names one or two",
        "[named queries](queries.md) that read the property; `trails cypher` reads all. `trails rebuild` writes again what",
        "`trails ingest` wrote. Examples are from the packaged sample, where it has any; long texts and lists are cut.\n",
        "\n## Nodes\n",
    ]
    for node in NODES:
        parts += [f"\n### `(:{node.label})`\n", f"\n{sentence(node.meaning)}", *expected(node.label)]
        parts += [*table(node.properties, node.label), *example(node.label)]
    parts.append("\n## Relationships\n")
    for relationship in RELATIONSHIPS:
        per = " One per run between the same two nodes." if "run" in relationship.key else ""
        arrow = f"(:{relationship.start})-[:{relationship.type}]->(:{relationship.end})"
        parts += [f"\n### `{arrow}`\n", f"\n{sentence(relationship.meaning)}{per}", *expected(relationship.name)]
        if relationship.properties == TRANSITION:
            parts.append("\nProperties: those of [a measured transition](#a-measured-transition).\n")
        elif relationship.properties:
            parts += table(relationship.properties, relationship.name)
        parts += example(relationship.name)
    parts += ["\n## A measured transition\n", "\nThe properties of `NEXT` and `BEGINS`.\n", *table(TRANSITION, "NEXT")]
    parts += ["\nWith `--per-layer` also:\n", *table(TRANSITION_ARRAYS, "NEXT")]
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
        "home holds one run, `home` with the home.\n",
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
    """Every command with its arguments and options, by stage."""
    parts = [
        "# Commands\n",
        NOTE,
        "\nEvery command with every option. Options that every command shares are listed once.\n",
    ]
    context = click.Context(cli, info_name="trails")
    shared = {"-h, --help": "Show the help and exit."}
    parts += ["\n| option of every command | |\n|---|---|\n", *(f"| `{k}` | {v} |\n" for k, v in shared.items())]
    for stage, commands in STAGES.items():
        parts += [f"\n## {stage}\n"]
        for name, text in commands.items():
            command = cli.get_command(context, name)
            if command is None:
                raise ValueError(name)
            parts += [f"\n### trails {name}\n", f"\n{text}\n", *command_rows(command, context, f"trails {name}")]
    return join(parts)


def command_rows(command: click.Command, parent: click.Context, path: str) -> list[str]:
    """Usage and the table of parameters of a command, and those of its subcommands."""
    name = path.rsplit(" ", 1)[-1]
    context = click.Context(command, info_name=name, parent=parent)
    usage = " ".join([path, *(piece for piece in command.collect_usage_pieces(context))])
    parts = [f"\n```\n{usage}\n```\n"]
    rows = []
    for parameter in command.get_params(context):
        if isinstance(parameter, click.Option) and "--help" not in parameter.opts and not parameter.hidden:
            record = parameter.get_help_record(context)
            if record is not None:
                rows.append(tuple(" ".join(cell.split()).replace("|", "\\|") for cell in record))
    if rows:
        parts += ["\n| option | |\n|---|---|\n", *(f"| `{option}` | {text} |\n" for option, text in rows)]
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            found = command.get_command(context, sub)
            if found is not None:
                help_line = found.get_short_help_str(200)
                parts += [f"\n#### {path} {sub}\n", f"\n{help_line}\n", *command_rows(found, context, f"{path} {sub}")]
    return parts


def python_page() -> str:
    """Every public name of ``trails`` with its signature and docstring."""
    parts = [
        "# Python reference\n",
        NOTE,
        "\nEvery name of `import trails`, with its signature and docstring. [Python](python.md) shows them at work.\n",
    ]
    for name in trails.__all__:
        value = getattr(trails, name)
        parts += [f"\n## trails.{name}\n", *member(name, value)]
        if inspect.isclass(value):
            own = [owner for owner in reversed(value.__mro__) if owner.__module__.startswith("trails.")]
            for attribute, found in {k: v for owner in own for k, v in vars(owner).items()}.items():
                if attribute.startswith("_") or not (inspect.isfunction(found) or isinstance(found, property)):
                    continue
                parts += [f"\n### {name}.{attribute}\n", *member(attribute, found)]
    return join(parts)


def member(name: str, value: Any) -> list[str]:
    """Signature and docstring as Markdown."""
    function: Callable[..., Any] | None = value.fget if isinstance(value, property) else value
    documented = inspect.cleandoc(function.__doc__ or "") if function is not None else ""
    text = re.sub(r":\w+:`~?\.?([^`]+)`", r"`\1`", documented).replace("``", "`")
    if isinstance(value, property):
        signature = f"{name}: {inspect.signature(value.fget).return_annotation}" if value.fget else name
    elif inspect.isclass(value) and issubclass(value, BaseException):
        signature = f"class {name}(Exception)"
    else:
        signature = f"{'class ' if inspect.isclass(value) else ''}{name}{inspect.signature(value)}"
    # annotations are kept as text; a default made by a function has no text of its own
    signature = re.sub(r"(?<=: |> )'([^']*)'", r"\1", signature).replace("<factory>", "…")
    signature = re.sub(r"<function .*? at 0x[0-9a-f]+>", "…", signature)
    return [f"\n```python\n{signature}\n```\n", f"\n{text}\n"]


def verdicts() -> str:
    """What the published rows say about masks and orders: the sentences that a data card quotes, as JSON."""
    found = read_results(DOCS / "experiments" / "results.jsonl")
    sentences: dict[str, str] = {}
    for name in ("mask-order",):
        if name in found:
            sentences |= {v.claim.name: v.sentence for v in judge(experiments()[name], found[name].rows)}
    return json.dumps(sentences, indent=1, ensure_ascii=False) + "\n"


def sentence(text: str) -> str:
    """First letter upper case, full stop at the end."""
    return text[0].upper() + text[1:].rstrip(".") + "."


def table(properties: Iterable[Property], of: str) -> list[str]:
    """Rows of the property table of a label or relationship."""
    rows = ["\n| property | type | meaning | unit | null when | written by | query |\n|---|---|---|---|---|---|---|\n"]
    for p in properties:
        index = " (indexed)" if p.indexed and p.name != "id" else ""
        meaning = p.meaning.replace("|", "\\|")
        queries = ", ".join(f"[{name}](queries.md#{name})" for name in queries_for(of, p.name)[:SHOWN])
        rest = f"{when_null(of, p.name)} | `{written_by(of, p.name)}` | {queries}"
        rows.append(f"| `{p.name}` | {p.type}{index} | {meaning} | {p.unit} | {rest} |\n")
    return rows


def expected(of: str) -> list[str]:
    """What writes a label or relationship, how many to expect, and the queries that read it."""
    queries = ", ".join(f"[{name}](queries.md#{name})" for name in queries_for(of))
    read = f"Read by {queries}." if queries else "No named query reads it."
    return [f"Written by `{written_by(of)}`: {WRITTEN[of][1]}.", f"{read}\n"]


def example(of: str) -> list[str]:
    """One row, as JSON."""
    row = examples().get(of)
    return [] if row is None else [f"\n```json\n{json.dumps(row, ensure_ascii=False)}\n```\n"]


def arrow_type(text: str) -> str:
    """An Arrow type without the noise of field names."""
    return text.replace("element: ", "").replace("item: ", "").replace("child 0, ", "")


def join(parts: Iterable[str]) -> str:
    """Parts below one another; a part without a line end is continued by the next."""
    return "".join(part if part.endswith("\n") else part + " " for part in parts)


ROOT = DOCS.parent
PAGES: dict[str, Callable[[], str]] = {
    "docs/schema.md": schema_page,
    "docs/queries.md": queries_page,
    "docs/commands.md": commands_page,
    "docs/python-reference.md": python_page,
    "src/trails/export/verdicts.json": verdicts,
}


def out_of_date() -> list[str]:
    """Names of the files that are not what the code and the published rows say."""
    return [
        name
        for name, page in PAGES.items()
        if not (ROOT / name).is_file() or (ROOT / name).read_text(encoding="utf-8") != page()
    ]


def main() -> int:
    """Write the files, or check them."""
    stale = out_of_date()
    if "--check" in sys.argv[1:]:
        for name in stale:
            sys.stderr.write(f"{name} is out of date. Run: python scripts/generate_docs.py\n")
        return 1 if stale else 0
    for name in stale:
        (ROOT / name).write_text(PAGES[name](), encoding="utf-8")
        sys.stdout.write(f"wrote {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
