"""trails query"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import (
    csv_option,
    echo,
    err,
    home_option,
    json_option,
    print_json,
    print_rows,
    settings_from,
    store_option,
)
from trails.cli.cypher import param_option, parameters, timeout_option
from trails.errors import UsageError
from trails.platform.text import counted
from trails.store.base import DEFAULT_MAX_ROWS


@click.command("query", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", required=False)
@click.option("--list", "listed", is_flag=True, help="List the names, titles and parameters of all queries.")
@click.option("--show", "shown", is_flag=True, help="Print the Cypher text of the query instead of running it.")
@param_option
@click.option(
    "--limit", type=click.IntRange(min=1), help="Print at most this many rows (the parameter limit of the query)."
)
@json_option
@csv_option
@timeout_option
@home_option
@store_option
def command(
    name: str | None,
    listed: bool,
    shown: bool,
    params: tuple[str, ...],
    limit: int | None,
    as_json: bool,
    as_csv: str | None,
    timeout: float,
    home: Path | None,
    store: str | None,
) -> None:
    """Run a named query of the cypher/ library. If the home has only one run without an adapter, that run is
    filled in.

    \b
    trails query --list
    trails query most-surprising --limit 5
    trails query chain-steps --param chain=c0123456789abcdef --csv
    """
    from trails.store import open_graph, queries
    from trails.store.traces import TraceStore

    style = "json" if as_json else as_csv or "table"
    if listed:
        found = queries.named_queries().values()
        if as_json:
            print_json([queries.described(query) for query in found])
        else:
            rows = [(q.name, q.title, ", ".join(p.name for p in q.parameters if p.name != "limit")) for q in found]
            print_rows(("query", "title", "parameters"), rows, style=style)
        return
    if name is None:
        raise UsageError("name a query, for example: trails query most-surprising. All names: trails query --list")
    query = queries.named_query(name)
    if shown:
        echo(query.text, nl=False, as_it_is=True)
        return
    settings = settings_from(home=home, store=store)
    given = parameters(params, typed=False)
    if limit is not None:
        given["limit"] = limit
    with TraceStore(settings.home) as traces:
        bound = queries.bound_parameters(query, given, traces)
    with open_graph(settings) as graph:
        result = query.execute(graph, bound, timeout_s=timeout, max_rows=max(limit or 0, DEFAULT_MAX_ROWS))
    columns, shown_rows = result.columns, result.plain()
    if style == "table" and columns[-1:] == ("run",) and len({row[-1] for row in shown_rows}) == 1:
        columns, shown_rows = (
            columns[:-1],
            tuple(row[:-1] for row in shown_rows),
        )  # the same run in every row says nothing
    print_rows(columns, shown_rows, style=style, title=query.title)
    if not result.rows:
        err.print(f"what it lists: {query.description}")
        if bound.get("home") and graph.name == "neo4j":
            err.print(
                f"asked of home {bound['home']} only: what the server holds of it says trails status; every home is asked with "
                "-p home="
            )
    if said := query.tie(result, bound):
        err.print(said)
    if result.rows and bound.get("limit") == len(result.rows):
        count = len(result.rows)
        err.print(f"the first {counted(count, 'row') if count > 1 else 'row'}; more with --limit")
