"""trails map"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import home_option, json_option, print_json, store_option
from trails.cli.scores import (
    details_option,
    graph_option,
    limit_option,
    print_report,
    run_option,
    settings_for,
)


@click.command("map", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--k", type=click.IntRange(min=1), default=4, show_default=True, help="Tokens that identify a state.")
@click.option(
    "--all-states", is_flag=True, help="Write every state to the graph, not only those of two chains or more."
)
@limit_option
@details_option
@graph_option
@run_option
@home_option
@store_option
@json_option
def command(
    k: int,
    all_states: bool,
    limit: int,
    details: bool,
    no_graph: bool,
    run: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """The woven map: where chains meet, the ways between, and how far held-out chains trust it.

    Writes :State, :TRAIL and :AT to the graph; the map that was there before is replaced.

    \b
    trails map
    trails map --k 3 --limit 30
    """
    from trails.pipeline import Home

    with Home(**settings_for(home, store)) as opened:
        found = opened.map(k, run=run, all_states=all_states, write=not no_graph)
    report = found.report()
    if as_json:
        print_json(report.record(limit))
        return
    print_report(report, limit=limit, details=details, home=home)
