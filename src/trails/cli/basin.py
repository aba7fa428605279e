"""trails basin"""

from __future__ import annotations

from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.common import seed_option
from trails.cli.scores import html_option, limit_option, report_options, settings_for, tell


@click.command("basin", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("chains")
@click.option(
    "--k",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Length of the windows that vote for a trail, in tokens.",
)
@click.option(
    "--after",
    metavar="RUN",
    help="Also use likely tokens of a trained model: a run of the same chains after a training (trails diff "
    "--adapter).",
)
@seed_option("Seed of the disturbances.")
@limit_option
@report_options
@html_option
def command(
    chains: str,
    k: int,
    after: str | None,
    seed: int,
    limit: int,
    details: bool,
    run: str | None,
    home: Path | None,
    as_json: bool,
) -> Report:
    """The attraction zone of a trail: how far a text can be disturbed and still follow its own trail. CHAINS
    is a chain, a selection (family:NAME, all …), or the name of a family.

    Tokens are drawn at random, replaced by likely ones, or left out; versions of the family and other
    languages are compared with the map too. The controls of every share are a bag of words, the tokens in
    random order, the map of the other sources, and the map rewired.

    \b
    trails basin c1f0
    trails basin family:en:kettle
    trails basin all --after r31d8
    """
    from trails.pipeline import Home

    with Home(**settings_for(home, None)) as opened:
        report = opened.basin(chains, k=k, after=after, seed=seed, run=run).report()
    return tell(report, as_json=as_json, limit=limit, details=details, home=home)
