"""trails gradient"""

from __future__ import annotations

from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.scores import (
    html_option,
    instrument_options,
    limit_option,
    report_options,
    settings_for,
    tell,
)


@click.command("gradient", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("chain")
@click.option(
    "--target",
    default="conclusion",
    show_default=True,
    help="Target to explain: conclusion (the last step), answer (the text after the chain), or a token's position.",
)
@click.option(
    "--replace",
    type=click.IntRange(min=0),
    default=48,
    show_default=True,
    help="How many tokens are replaced by a likely other one, as the control.",
)
@click.option(
    "--integrated",
    is_flag=True,
    help="Also compute integrated gradients; steps are doubled until the sum is complete within 5 %, else they "
    "are withheld.",
)
@click.option(
    "--most-steps",
    type=click.IntRange(min=8),
    default=64,
    show_default=True,
    help="Most steps of --integrated.",
)
@instrument_options
@limit_option
@report_options
@html_option
def command(
    chain: str,
    target: str,
    replace: int,
    integrated: bool,
    most_steps: int,
    model: str | None,
    device: str | None,
    limit: int,
    details: bool,
    run: str | None,
    home: Path | None,
    as_json: bool,
) -> Report:
    """What every token of a chain contributes to a target: gradient × input, compared with the real effect of
    replacing tokens.

    CHAIN is named in any way that trails chains shows: an id, the beginning of one, SOURCE:RECORD, #12.

    \b
    trails gradient c1f0
    trails gradient c1f0 --target answer --html gradient.html
    trails gradient c1f0 --target 41 --integrated
    """
    from trails.pipeline import Home

    with Home(**settings_for(home, None, model=model, device=device)) as opened:
        steps = most_steps if integrated else 0
        report = opened.gradient(chain, target=target, replace=replace, integrate=steps, run=run).report()
    return tell(report, as_json=as_json, limit=limit, details=details, home=home)
