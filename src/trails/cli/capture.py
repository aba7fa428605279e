"""trails capture"""

from __future__ import annotations

from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.scores import (
    html_option,
    instrument_options,
    report_options,
    settings_for,
    tell,
    text_or_file,
    texts_of,
)


@click.command("capture", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("text")
@click.option(
    "--k",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    help="Length of the windows that are looked up in the map, in tokens.",
)
@click.option(
    "--min-match",
    type=click.IntRange(min=1),
    default=6,
    show_default=True,
    help="Shortest match that counts, in tokens.",
)
@instrument_options
@report_options
@html_option
def command(
    text: str,
    k: int,
    min_match: int,
    model: str | None,
    device: str | None,
    details: bool,
    run: str | None,
    home: Path | None,
    as_json: bool,
) -> Report:
    """Does a new text follow a known trail? Where it enters, which trail, where it leaves, compared with the nulls.

    TEXT is the text itself, a file, or - for standard input. A file of many texts (.jsonl, .csv, .parquet …) is read as `trails
    ingest` reads it: one row a text, and a summary.

    \b
    trails capture "If it rains, the street is wet. But it is dry. Therefore it did not rain."
    trails capture new_answer.txt
    trails capture answers.jsonl
    """
    from trails.pipeline import Home

    texts = texts_of(text)
    with Home(**settings_for(home, None, model=model, device=device)) as opened:
        if texts is not None:
            report = opened.captures(texts, k=k, min_match=min_match, run=run).report()
        else:
            report = opened.capture(text_or_file(text), k=k, min_match=min_match, run=run).report()
    return tell(report, as_json=as_json, details=details, home=home)
