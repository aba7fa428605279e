"""trails intervene"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from trails.analyses.report import Report
from trails.cli.common import (
    BarProgress,
    seed_option,
    store_option,
)
from trails.cli.scores import (
    html_option,
    instrument_options,
    limit_option,
    report_options,
    settings_for,
    tell,
)


@click.command("intervene", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("chain")
@click.option("--layer", type=int, required=True, help="Layer to change, from 1.")
@click.option(
    "--at", default="all", show_default=True, help="Place of the change: all, step:3, a token 12, tokens 12:20."
)
@click.option(
    "--op",
    "operation",
    type=click.Choice(["add", "replace", "ablate", "scale"]),
    default="add",
    show_default=True,
    help="Operation at that place.",
)
@click.option(
    "--component",
    type=click.Choice(["block_output", "attention_output", "mlp_output"]),
    default="block_output",
    show_default=True,
    help="The residual stream after the layer, or what its attention or MLP adds.",
)
@click.option(
    "--vector",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File with the vector: .npy, .safetensors with one tensor, or pvq.json (FILE#ID for one of several).",
)
@click.option(
    "--from",
    "origin",
    default="",
    metavar="CHAIN:STEP|random",
    help="Take the mean state of a step, or a random direction.",
)
@click.option(
    "--strength", type=float, default=1.0, show_default=True, help="Strength S of the operation; 0 changes nothing."
)
@click.option(
    "--controls",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Number of random directions or places that serve as controls.",
)
@seed_option("Seed of the random directions and places.")
@instrument_options
@limit_option
@report_options
@store_option
@html_option
def command(
    chain: str,
    limit: int,
    details: bool,
    model: str | None,
    device: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
    **given: Any,
) -> Report:
    """Measure a chain, or every chain of a selection, with a change inside the model and with random changes
    of the same size.

    The result is a run of its own: diff, drift, report and Cypher work on it. With x the value in the model, v
    the vector and S the strength, add gives x + S v, and replace (1 - S) x + S v; ablate removes the share S
    of the part of x along v, and scale adds it; without a vector these two act on the whole x.

    \b
    trails intervene c1f0 --layer 18 --at step:2 --op ablate
    trails intervene c1f0 --layer 18 --at step:2 --from c7aa:1 --strength 0.5
    trails intervene source:gsm8k --layer 9 --vector truth.npy --strength 4
    """
    from trails.pipeline import Home

    with (
        BarProgress(quiet=as_json) as progress,
        Home(**settings_for(home, store, model=model, device=device)) as opened,
    ):
        found = opened.intervene(chain, progress=progress, **given)
    report = tell(found.report(), as_json=as_json, limit=limit, details=details, home=home)
    # the page colours the tokens by what the change did to each
    return replace(report, facts={**report.facts, "before": found.other, "after": found.run})
