"""trails drift"""

from __future__ import annotations

from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.common import out
from trails.cli.scores import html_option, report_options, settings_for, tell


@click.command("drift", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("chain")
@click.option("--against", metavar="RUN", help="Another run of the same chain: show what changed between the two.")
@click.option(
    "--width", type=click.IntRange(min=10), default=100, show_default=True, help="Width of the picture in columns."
)
@report_options
@html_option
def command(
    chain: str, against: str | None, width: int, details: bool, run: str | None, home: Path | None, as_json: bool
) -> Report:
    """Hidden-state drift of a chain by layer and position, and the layer where it sets in.

    CHAIN is named in any way that trails chains shows: an id, the beginning of one, SOURCE:RECORD, #12.

    \b
    trails drift c1f0
    trails drift c1f0 --run r12 --against r7f
    """
    from trails.analyses.drift import picture
    from trails.pipeline import Home

    with Home(**settings_for(home, None)) as opened:
        found = opened.drift(chain, against=against, run=run)
    report = tell(found.report(), as_json=as_json, details=details, home=home)
    if not as_json:
        out().print(picture(found, width=width))
    return report
