"""trails capture"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import device_option, echo, home_option, json_option, model_option, print_json, print_rows
from trails.cli.scores import print_scores, run_option, settings_for, shown, text_or_file


@click.command("capture", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("text")
@click.option("--k", type=click.IntRange(min=1), default=4, show_default=True, help="Tokens of a window of the map.")
@click.option("--min-match", type=click.IntRange(min=1), default=6, show_default=True, help="Shortest match in tokens.")
@model_option
@device_option
@run_option
@home_option
@json_option
def command(
    text: str,
    k: int,
    min_match: int,
    model: str | None,
    device: str | None,
    run: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Does a new text fall into a known trail? Where it enters, which trail, where it leaves, beside the nulls.

    TEXT is the text itself, a file, or - for standard input.

    \b
    trails capture "If it rains, the street is wet. But it is dry. Therefore it did not rain."
    trails capture new_answer.txt
    """
    from trails.pipeline import Home

    with Home(**settings_for(home, None, model=model, device=device)) as opened:
        found = opened.capture(text_or_file(text), k=k, min_match=min_match, run=run)
    if as_json:
        print_json(found.record())
        return
    if found.trail:
        echo(f"trail: {found.trail}")
    rows = [
        [name, match.chain, f"{match.start}–{match.end}", match.trail_start, shown(match.text)]
        for name, match in (("enters", found.entry), ("leaves", found.exit), *(("longest", m) for m in found.longest))
        if match is not None
    ]
    if rows:
        print_rows(["", "chain", "tokens of the text", "token of the chain", "text"], rows)
    if found.nearest:
        echo(f"nearest chains in whitened space: {', '.join(found.nearest)}")
    print_scores(found.scores, found.withheld, found.notes)
