"""``trails recall``: does a model recall how unseen chains end?"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import device_option, echo, home_option, json_option, model_option, print_json, print_rows
from trails.cli.scores import run_option, settings_for


@click.command("recall", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("selection")
@click.option(
    "--adapter",
    required=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of the trained adapter.",
)
@click.option(
    "--shuffled",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Control: an adapter of `trails train --shuffle-steps` on the same export.",
)
@click.option(
    "--export",
    "exported",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Export that was trained on: its chains are left out.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=0),
    default=1024,
    show_default=True,
    help="Leave out chains of more than so many tokens.",
)
@run_option
@model_option
@device_option
@home_option
@json_option
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
) -> None:
    """Prefix to conclusion on the chains of a SELECTION that were not trained on (--export), against the untrained model.

    \b
    trails train rows.parquet -o adapter
    trails train rows.parquet -o control --shuffle-steps
    trails recall all --adapter adapter --shuffled control --export rows.parquet
    """
    from trails.pipeline import Home

    with Home(**settings_for(home, None, model=model, device=device)) as opened:
        found = opened.recall(selection, adapter, shuffled=shuffled, export=exported, max_tokens=max_tokens, run=run)
    if as_json:
        print_json(found.record())
        return
    print_rows(
        ["model", "chains", "nll", "first choice", "exact"],
        [[r.name, r.chains, r.nll, r.first_choice, r.exact] for r in found.rows],
        title="surprisal of the conclusion, nats per token; share of first choices; exact greedy matches",
    )
    trained = next(r for r in found.rows if r.name == "trained")
    print_rows(
        ["trained minus", "nll", "low", "high"],
        [[name, *trained.against[name]] for name in trained.against],
        title="paired over chains, 95 % interval",
    )
    echo(found.verdict)
    if found.trained_on is None:
        echo("not checked: whether these chains were trained on. Give the export: --export rows.parquet")
    elif found.trained_on:
        echo(f"{found.trained_on} chains of the selection were trained on and left out")
    if shuffled is None:
        echo("no shuffled control was given: a gain may be wording alone. Train one: trails train --shuffle-steps")
