"""trails export-graph"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import (
    BarProgress,
    echo,
    err,
    home_option,
    interruptible,
    json_option,
    print_json,
    store_option,
)
from trails.cli.scores import run_option, settings_for
from trails.platform.text import counted


@click.command("export-graph", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("selection")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write: .gexf or .graphml; a name without ending or with .parquet is a folder of Parquet files.",
)
@click.option(
    "--format",
    "asked",
    type=click.Choice(["gexf", "graphml", "parquet"]),
    help="Format, if the name of the file does not decide it.",
)
@click.option("--tokens/--no-tokens", default=True, show_default=True, help="Include tokens and their transitions.")
@click.option("--overwrite", is_flag=True, help="Replace an output file that exists.")
@run_option
@home_option
@store_option
@json_option
def command(
    selection: str,
    output: Path,
    asked: str | None,
    tokens: bool,
    overwrite: bool,
    run: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Write a part of the graph for Gephi, yEd, networkx or neo4j-admin.

    SELECTION is a selection as in trails export --subgraph (all, chain:ID, roles:IF>THEN, query:NAME, a .cypher file).
    GEXF and GraphML hold at most 1,000,000 nodes and relationships.

    \b
    trails export-graph all --no-tokens -o steps.gexf
    trails export-graph chain:c1f0 -o chain.graphml
    trails export-graph 'roles:IF>THEN' -o parquet-folder
    """
    from trails.export.graph import check_free, format_of
    from trails.pipeline import Home

    chosen = format_of(output, asked)
    check_free(output, chosen, overwrite=overwrite)  # before the work, not after it
    with (
        interruptible(output),
        BarProgress(quiet=as_json) as progress,
        Home(**settings_for(home, store)) as opened,
    ):
        found = opened.export_graph(
            selection, output, chosen, run=run, tokens=tokens, overwrite=overwrite, progress=progress
        )
    if as_json:
        print_json(
            {
                "path": str(found.path),
                "format": found.format,
                "elements": found.elements,
                "rows": dict(found.rows),
                "left_out": list(found.left_out),
            }
        )
        return
    if found.left_out:
        names = ", ".join(found.left_out)
        err.print(f"left out, as neo4j-admin reads no lists from Parquet: {names} (trails bulk writes them)")
    rows = ", ".join(f"{name} {count:,}" for name, count in found.rows.items())
    echo(f"{found.path}: {counted(found.elements, 'node')} and relationships as {found.format}: {rows}")
