"""``trails repairs``: does a model repair its own attempts, and what does it spoil?"""

from __future__ import annotations

from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.common import home_option, json_option
from trails.cli.scores import html_option, instrument_options, run_option, settings_for, tell, trained_options


@click.command("repairs", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("selection")
@trained_options
@click.option(
    "--tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Tokens of an attempt, at most."
)
@click.option("--most", type=click.IntRange(min=1), default=200, show_default=True, help="Chains to attempt, at most.")
@run_option
@instrument_options
@home_option
@json_option
@html_option
def command(
    selection: str,
    adapter: Path,
    exported: Path | None,
    tokens: int,
    most: int,
    run: str | None,
    model: str | None,
    device: str | None,
    home: Path | None,
    as_json: bool,
) -> Report:
    """Two attempts at the chains of a SELECTION that have a question and an answer, the second after the first.

    Counts wrong to right and right to wrong, and how far the second is from the first, for the untrained model and the adapter.

    \b
    trails train rows.parquet -o adapter --objective loop
    trails repairs all --adapter adapter --export rows.parquet
    """
    from trails.pipeline import Home

    with Home(**settings_for(home, None, model=model, device=device)) as opened:
        found = opened.repairs(selection, adapter, export=exported, tokens=tokens, most=most, run=run)
    return tell(found.report(), as_json=as_json, home=home)
