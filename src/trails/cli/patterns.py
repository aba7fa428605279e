"""trails patterns"""

from __future__ import annotations

from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.common import seed_option
from trails.cli.scores import html_option, instrument_options, report_options, settings_for, tell


@click.command("patterns", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--variants",
    metavar="V",
    help="Id (v…) of stored variants: they are measured and compared as families of their chains.",
)
@click.option(
    "--each",
    type=click.IntRange(min=2),
    default=6,
    show_default=True,
    help="With --variants: use this many of every chain, the first stored.",
)
@seed_option("Seed of the pairs and of the permutation.")
@instrument_options
@report_options
@html_option
def command(
    variants: str | None,
    each: int,
    seed: int,
    details: bool,
    run: str | None,
    model: str | None,
    device: str | None,
    home: Path | None,
    as_json: bool,
) -> Report:
    """Many versions, one hidden pattern: are versions of a family nearer in whitened state space than chains that only look
    alike?

    The controls in every layer are chains of another family with the same length, a permutation, and a bag of
    words. States
    must be stored: trails ingest PATH --states 8,16,24.

    \b
    trails patterns
    trails patterns --variants v0123
    """
    from trails.pipeline import Home

    with Home(**settings_for(home, None, model=model, device=device)) as opened:
        report = opened.patterns(variants=variants, each=each, seed=seed, run=run).report()
    return tell(report, as_json=as_json, details=details, home=home)
