"""trails gaps"""

from __future__ import annotations

from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.common import (
    device_option,
    err,
    home_option,
    json_option,
    run_model_option,
    store_option,
    with_home,
)
from trails.cli.scores import details_option, graph_option, html_option, limit_option, run_option, settings_for, tell


@click.command("gaps", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--chain", help="Only this chain: its id, the beginning of it, SOURCE:RECORD, or #12 of trails chains.")
@limit_option
@click.option(
    "--calibrate", is_flag=True, help="Measure the AUC of every score by removing a step of each chain (slow)."
)
@click.option(
    "--calibrate-chains",
    type=click.IntRange(min=1),
    default=300,
    show_default=True,
    help="Number of chains on which --calibrate removes steps.",
)
@run_model_option
@device_option
@graph_option
@details_option
@run_option
@home_option
@store_option
@json_option
@html_option
def command(
    chain: str | None,
    limit: int,
    calibrate: bool,
    calibrate_chains: int,
    model: str | None,
    device: str | None,
    no_graph: bool,
    details: bool,
    run: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> Report:
    """Seams where a step seems to be missing, ranked within each chain, with the AUC of the scores on these chains.

    Before --calibrate (once per run) only scores that need no model rank the seams, and the others are not shown.
    Writes :Gap nodes to the graph.

    \b
    trails gaps --calibrate
    trails gaps --limit 20
    trails gaps --chain c1f0
    """
    from trails.analyses.gaps import NOTE
    from trails.pipeline import Home

    with Home(**settings_for(home, store, model=model, device=device)) as opened:
        instrument = opened.run(run)
        if calibrate:
            opened.calibrate_gaps(chains=calibrate_chains, run=instrument.id)
        found = opened.gaps(run=instrument.id, write=not no_graph)
        calibrated = NOTE in opened.run(instrument.id).notes
        ranked = len(found.seams) > 0
        if chain:
            found = found.of(opened.trace(chain, instrument.id).chain.id)
    if found.calibration.scores and not calibrated and not as_json:
        err.print(with_home("Ranked without a model. What the model adds is measured by: trails gaps --calibrate"))
    told = tell(found.report(), as_json=as_json, limit=limit, details=details, home=home)
    if not ranked and not no_graph:
        err.print(
            "Nothing was written to the graph: gap-graph, gaps-top and gaps-of-chain show what an earlier call wrote, "
            "or nothing"
        )
    return told
