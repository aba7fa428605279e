"""trails stellate"""

from __future__ import annotations

from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.common import (
    BarProgress,
    home_option,
    json_option,
    seed_option,
    store_option,
)
from trails.cli.scores import html_option, instrument_options, run_option, settings_for, tell, text_or_file, texts_of


@click.command("stellate", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("text")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the five artefacts.",
)
@click.option("--others", help="File of texts to compare with the path (default: 40 chains of the home).")
@click.option(
    "--train",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="STEPS",
    help="Also train an adapter for this many steps on the rows that the block exports, and measure again.",
)
@seed_option("Seed of every random choice.")
@run_option
@instrument_options
@home_option
@store_option
@json_option
@html_option
def command(
    text: str,
    output: Path,
    others: str | None,
    train: int,
    seed: int,
    run: str | None,
    model: str | None,
    device: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> Report:
    """A thought in five steps: chain, distillation, a block, the reaction to it, and whether other texts walk its path.

    TEXT is the text itself, a file, or - for standard input. Every step is a file of the folder; repeat the
    command to go on where it stopped. If you edit block.stellator and repeat the command, the later steps are
    made again.

    \b
    trails stellate thought.txt -o thought
    trails stellate thought.txt -o thought --train 20 --others essays.jsonl
    """
    from trails.errors import UsageError
    from trails.pipeline import Home
    from trails.pipeline.stellate import stellate

    given = None
    if others is not None:
        given = texts_of(others) or [(others, text_or_file(others))]
        if not any(body.strip() for _, body in given):
            raise UsageError(f"{others} holds no text to compare with the path.")
    with (
        BarProgress(quiet=as_json) as progress,
        Home(**settings_for(home, store, model=model, device=device)) as opened,
    ):
        report = stellate(
            opened, text_or_file(text), output, others=given, train=train, seed=seed, run=run, progress=progress
        ).report()
    return tell(report, as_json=as_json, home=home)
