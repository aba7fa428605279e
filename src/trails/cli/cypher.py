"""trails cypher"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from trails.cli.common import (
    csv_option,
    err,
    home_option,
    json_option,
    print_rows,
    read_stdin,
    settings_from,
    store_option,
)
from trails.errors import QueryError, UsageError
from trails.platform.text import counted
from trails.store.base import DEFAULT_MAX_ROWS, DEFAULT_TIMEOUT_S

timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0.001, max=31_536_000),
    default=DEFAULT_TIMEOUT_S,
    show_default=True,
    help="Seconds after which the statement is stopped.",
)
param_option = click.option(
    "--param",
    "-p",
    "params",
    multiple=True,
    metavar="NAME=VALUE",
    help="A parameter of the query, for example chain=c0123; may be repeated.",
)


def parameters(pairs: tuple[str, ...], *, typed: bool) -> dict[str, Any]:
    """``NAME=VALUE`` pairs. ``typed``: a value that is JSON (7, 0.5, true, ["a"]) is taken as that, other text as text."""
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--param {pair!r} is not NAME=VALUE. Write for example --param limit=5")
        try:
            found[name] = json.loads(value) if typed else value
        except ValueError:
            found[name] = value
    return found


@click.command("cypher", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("query")
@param_option
@json_option
@csv_option
@click.option("--write", is_flag=True, help="Allow the statement to write. Without it anything that writes is refused.")
@timeout_option
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=DEFAULT_MAX_ROWS,
    show_default=True,
    help="Print at most this many rows.",
)
@home_option
@store_option
def command(
    query: str,
    params: tuple[str, ...],
    as_json: bool,
    as_csv: str | None,
    write: bool,
    timeout: float,
    limit: int,
    home: Path | None,
    store: str | None,
) -> None:
    """Run one Cypher statement; read-only unless --write. QUERY may be @FILE, or - for standard input.

    \b
    trails cypher "MATCH (c:Chain) RETURN c.id, c.roles LIMIT 5"
    trails cypher @my.cypher --param chain=c0123456789abcdef --csv
    """
    from trails.store import open_graph
    from trails.store.unknown import check_names, unknown_properties

    if query == "-":
        query = read_stdin()
    elif query.startswith("@"):
        try:
            query = Path(query[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{query[1:]} cannot be read ({error})") from None
    with open_graph(settings_from(home=home, store=store), strangers=not write) as graph:
        values = parameters(params, typed=True)
        if not write:
            try:
                check_names(graph, query)
            except QueryError:
                # a statement that writes is refused as one, whatever it names
                graph.run(query, values, timeout_s=timeout, max_rows=1)
                raise
        result = graph.run(query, values, write=write, timeout_s=timeout, max_rows=limit)
        warnings = [] if write else unknown_properties(graph, query)
    print_rows(result.columns, result.plain(), style="json" if as_json else as_csv or "table")
    for line in warnings:
        err.print(line)
    if result.truncated:
        err.print(
            f"only the first {counted(limit, 'row is', 'rows are')} shown; add LIMIT to the query or raise --limit"
        )
