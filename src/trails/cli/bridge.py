"""trails bridge"""

from __future__ import annotations

from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.common import echo
from trails.cli.scores import (
    html_option,
    instrument_options,
    report_options,
    settings_for,
    shown,
    tell,
)


@click.command("bridge", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("start")
@click.argument("goal")
@click.option(
    "--budget",
    type=float,
    help="Also look for the path with the fewest extra steps whose transitions all claim to cost less than this "
    "many nats.",
)
@click.option(
    "--neighbours",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    help="How many similar steps a path may continue from.",
)
@click.option(
    "--splices",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="How many random splices are re-scored as a control.",
)
@instrument_options
@report_options
@html_option
def command(
    start: str,
    goal: str,
    budget: float | None,
    neighbours: int,
    splices: int,
    model: str | None,
    device: str | None,
    details: bool,
    run: str | None,
    home: Path | None,
    as_json: bool,
) -> Report:
    """The cheapest path between two steps or chains, re-scored as one text by the model.

    START and GOAL are CHAIN:STEP or a chain id (START is then its last step, GOAL its first).

    \b
    trails bridge c1f0:2 c77a:1
    trails bridge c1f0 c77a --budget 6
    """
    from trails.pipeline import Home

    with Home(**settings_for(home, None, model=model, device=device)) as opened:
        found = opened.bridge(start, goal, budget=budget, neighbours=neighbours, splices=splices, run=run)
    report = tell(found.report(), as_json=as_json, details=details, home=home)
    if not as_json:
        echo()
        echo(f"from {found.start}: {shown(found.start_text)}")
        echo(f"to   {found.goal}: {shown(found.goal_text)}")
    return report
