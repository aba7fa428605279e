"""trails agreement"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trails.analyses.report import Report
from trails.cli.common import home_option, json_option, seed_option, store_option
from trails.cli.scores import details_option, graph_option, html_option, limit_option, settings_for, tell


@click.command("agreement", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--runs", default="", help="Runs to compare, separated by commas (default: all without an intervention).")
@click.option(
    "--measure",
    type=click.Choice(["surprisal", "entropy"]),
    default="surprisal",
    show_default=True,
    help="Measure to compare, per character.",
)
@click.option(
    "--by",
    type=click.Choice(["span", "step", "chain"]),
    default="span",
    show_default=True,
    help="Units: spans between characters at which a token ends in every member, steps, or chains.",
)
@click.option(
    "--top", type=click.IntRange(min=1), default=200, show_default=True, help="Store this many disagreements."
)
@seed_option("Seed of the resamples and of the null.")
@limit_option
@details_option
@graph_option
@home_option
@store_option
@json_option
@html_option
def command(
    runs: str,
    limit: int,
    details: bool,
    no_graph: bool,
    home: Path | None,
    store: str | None,
    as_json: bool,
    **given: Any,
) -> Report:
    """Do several models find the same spans hard, and where do they disagree? The control is the same with the
    spans shifted.

    The members are runs of the home: trails ingest PATH --models A,B,C. Their tokenizers may differ. Writes :Disagreement
    nodes.

    \b
    trails agreement
    trails agreement --by step --runs r12,r7f
    """
    from trails.pipeline import Home

    named = [name.strip() for name in runs.split(",") if name.strip()]
    with Home(**settings_for(home, store)) as opened:
        report = opened.agreement(named, write=not no_graph, **given).report()
    return tell(report, as_json=as_json, limit=limit, details=details, home=home)
