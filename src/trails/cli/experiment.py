"""``trails experiment``: run pre-registered experiments."""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import echo, err, json_option, model_option, print_json, settings_from


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
@click.option("--seeds", default=0, help="How many seeds to run now (default: those of the plan's first look).")
@click.option("--jobs", default=0, help="Processes on all devices together (default: 1 on a CPU, up to 6 a GPU).")
@click.option(
    "--minutes", default=0.0, help="Begin no further arm after this many minutes; repeat the command to go on."
)
@click.option(
    "--quick", is_flag=True, help="Run a few steps on a few short chains: tries the machinery, proves nothing."
)
@click.option(
    "--power",
    "show_power",
    is_flag=True,
    help="Print the smallest effects the plan can find and its cost; run nothing.",
)
@click.option("--develop", is_flag=True, help="Only try the learning rates on the development seeds.")
@click.option(
    "--register", is_flag=True, help="Write the plan (after development) and end: commit it before the first row."
)
@click.option("--resume", is_flag=True, help="Go on with the plan in OUT; an error if there is none.")
@click.option("--trained", default="", help="Source to train on (default: the one with the longest chains).")
@click.option("--unseen", default="", help="Source whose chains are the unseen form.")
@click.option("--unrelated", multiple=True, help="Source whose chains are unrelated text; may be repeated.")
@click.option(
    "--member", "members", multiple=True, help="Another pretrained model, for experiment transfer; may be repeated."
)
@model_option
@click.option(
    "--device", help="Where the model runs: auto (CUDA if there is one), cpu, cuda, cuda:1 … or several GPUs of one kind, "
    "cuda:0,cuda:1 (TRAILS_DEVICE).",
)  # fmt: skip
@json_option
def command(
    name: str,
    data: tuple[Path, ...],
    out: Path,
    seeds: int,
    jobs: int,
    minutes: float,
    quick: bool,
    show_power: bool,
    develop: bool,
    register: bool,
    resume: bool,
    trained: str,
    unseen: str,
    unrelated: tuple[str, ...],
    members: tuple[str, ...],
    model: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Run experiment NAME with its controls: minimal-step (1), anchor (2), depth (3), same-loss (4), neutrality (5),
    volatility (6), flags (7), reaction (8), capture (9), cheap-paths (10), stages (11), bridges (12), roles (13),
    loop-loss (14), initiation (15), transfer (16), mask-order, block, block-anchor,
    or all.

    Several names are joined by commas. Learning rates are chosen on seeds of their own. Then the plan (arms,
    criteria with their smallest effects of interest, realised sizes, digests of the rows) is written, then the
    rows. Finished rows are not run again: repeat the command to continue, even days later. The report of every
    experiment is OUT/NAME.md.

    \b
    trails experiment depth --data chains.jsonl --out experiments
    trails experiment depth --power
    trails experiment cheap-paths,mask-order --register --device cuda --data FOLDER --out FOLDER
    trails experiment cheap-paths,mask-order --resume --device cuda --data FOLDER --out FOLDER
    """
    from trails import sample
    from trails.errors import UsageError
    from trails.experiments import experiments
    from trails.experiments.runner import RunOptions, power, run_experiments, sentences

    if sum((show_power, develop, register, resume)) > 1:
        raise UsageError("--power, --develop, --register and --resume exclude each other. Give one of them")
    if show_power:
        found = power(name, out)
        names = ("experiment", "claim", "criterion", "smallest effect", "smallest effect of interest", "cost")
        if as_json:
            print_json([dict(zip(names, row, strict=True)) for row in found])
        for title, claim, what, effect, delta, cost in () if as_json else found:
            echo(f"{title}, {claim}: {what}: finds {effect}; of interest from {delta}; {cost}")
        return
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
        mode="develop" if develop else "register" if register else "run",
        resume=resume,
        members=members,
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
