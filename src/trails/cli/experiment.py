"""``trails experiment``: run pre-registered experiments."""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import device_option, echo, err, json_option, model_option, print_json, settings_from


@click.command("experiment", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", metavar="NAME")
@click.option(
    "--data",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="File or folder of chains; may be repeated (default: the packaged sample).",
)
@click.option(
    "--out", default=Path("experiments"), show_default=True, type=click.Path(path_type=Path, file_okay=False),
    help="Folder for results.jsonl and the reports.",
)  # fmt: skip
@click.option("--seeds", default=5, show_default=True, help="How many seeds to run; at least 2, and 5 for a report.")
@click.option("--jobs", default=0, help="Processes that share the device (default: 1 on a CPU, up to 6 on a GPU).")
@click.option(
    "--minutes", default=0.0, help="Begin no further arm after so many minutes; the same command goes on later."
)
@click.option(
    "--quick", is_flag=True, help="Run a few steps on a few short chains: tries the machinery, proves nothing."
)
@click.option("--trained", default="", help="Source to train on (default: the one with the longest chains).")
@click.option("--unseen", default="", help="Source that is the unseen form.")
@click.option("--unrelated", multiple=True, help="Source that is unrelated text; may be repeated.")
@model_option
@device_option
@json_option
def command(
    name: str,
    data: tuple[Path, ...],
    out: Path,
    seeds: int,
    jobs: int,
    minutes: float,
    quick: bool,
    trained: str,
    unseen: str,
    unrelated: tuple[str, ...],
    model: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Run experiment NAME with its controls: minimal-step (1), anchor (2), depth (3), same-loss (4), neutrality (5),
    volatility (6), capture (9), cheap-paths (10), mask-order, or all.

    The plan (hypothesis, arms, criteria with direction and threshold) is written before the first run. What is done is not
    run again: the same command continues. Every experiment ends in OUT/NAME.md.

    \b
    trails experiment depth --data chains.jsonl --out experiments
    trails experiment all --device cuda --seeds 5 --data FOLDER --out FOLDER
    """
    from trails import sample
    from trails.experiments import experiments
    from trails.experiments.runner import RunOptions, run_experiments, sentences

    settings = settings_from(model=model, device=device)
    options = RunOptions(
        model=settings.model,
        device=settings.device,
        seeds=seeds,
        jobs=jobs,
        minutes=minutes,
        scale="quick" if quick else "full",
        trained=trained,
        unseen=unseen,
        unrelated=unrelated,
    )
    outcomes = run_experiments(
        name,
        list(data) or [sample.path()],
        out,
        options,
        note=lambda text: err.print(text),
    )
    rows = sentences(outcomes, experiments())
    if as_json:
        print_json([dict(zip(("experiment", "claim", "outcome", "sentence"), row, strict=True)) for row in rows])
    else:
        for title, claim, state, sentence in rows:
            echo(f"{title}, {claim}: {sentence}" if claim else f"{title}, {state}: {sentence}")
    for outcome in outcomes:
        if outcome.report is not None:
            err.print(f"report: {outcome.report}")
