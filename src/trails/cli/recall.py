"""``trails recall``: does a model recall how unseen chains end?"""

from __future__ import annotations

from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.common import home_option, json_option
from trails.cli.scores import html_option, instrument_options, run_option, settings_for, tell, trained_options


@click.command("recall", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("selection")
@trained_options
@click.option(
    "--shuffled",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Control: an adapter of `trails train --shuffle-steps` on the same export.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=0),
    default=1024,
    show_default=True,
    help="Leave out chains of more than this many tokens.",
)
@run_option
@instrument_options
@home_option
@json_option
@html_option
def command(
    selection: str,
    adapter: Path,
    shuffled: Path | None,
    exported: Path | None,
    max_tokens: int,
    run: str | None,
    model: str | None,
    device: str | None,
    home: Path | None,
    as_json: bool,
) -> Report:
    """Does the adapter complete the last step of chains that were not trained on better than the untrained
    model? Judged on the chains of a SELECTION, without those of --export.

    \b
    trails train rows.parquet -o adapter
    trails train rows.parquet -o control --shuffle-steps
    trails recall all --adapter adapter --shuffled control --export rows.parquet
    """
    from trails.pipeline import Home

    with Home(**settings_for(home, None, model=model, device=device)) as opened:
        found = opened.recall(selection, adapter, shuffled=shuffled, export=exported, max_tokens=max_tokens, run=run)
    return tell(found.report(), as_json=as_json, home=home)
