"""``trails train``: a LoRA adapter from an export."""

from __future__ import annotations

import time
from pathlib import Path

import click

from trails.cli.common import (
    BarProgress,
    device_option,
    echo,
    err,
    home_option,
    json_option,
    model_option,
    print_json,
    print_rows,
    seed_option,
    settings_from,
    with_home,
)
from trails.config import Settings
from trails.errors import UsageError
from trails.platform.text import counted
from trails.train.options import LEFT_OUT, TrainOptions, layers_option


@click.command("train", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("export", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the adapter."
)
@click.option(
    "--steps", type=click.IntRange(min=0), default=0, help="Number of optimiser steps (0: one pass over the rows)."
)
@click.option("--batch", type=click.IntRange(min=1), default=4, show_default=True, help="Rows in one forward pass.")
@click.option(
    "--accumulate",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Forward passes that make one optimiser step.",
)
@click.option(
    "--learning-rate", type=float, default=1e-3, show_default=True, help="Largest learning rate of the schedule."
)
@click.option("--rank", type=click.IntRange(min=1), default=8, show_default=True, help="Rank of the LoRA adapter.")
@click.option(
    "--alpha", type=click.IntRange(min=1), default=16, show_default=True, help="Scale of the LoRA adapter (its alpha)."
)
@click.option(
    "--layers", help="Train only these layers, 1 … L, e.g. 11-20; all = every layer (default: those the export names)."
)
@click.option(
    "--targets",
    help="Modules that get the adapter: all, attention, channels (query and key), or names separated by commas.",
)
@click.option(
    "--objective",
    type=click.Choice(["lm", "dft", "attention", "loop"]),
    default="lm",
    show_default=True,
    help="Loss to train on. lm: cross entropy; dft: dynamic fine-tuning; attention: match stored attention maps; loop: repair "
    "an attempt that the model writes itself.",
)
@click.option("--teacher", help="Run whose stored attention maps are learnt (--objective attention).")
@click.option(
    "--lm-share",
    type=float,
    default=0.0,
    show_default=True,
    help="Share of the cross entropy in the loss (--objective attention, loop).",
)
@click.option(
    "--attempts",
    type=click.Choice(["own", "base"]),
    default="own",
    show_default=True,
    help="Attempts to repair (--objective loop): those of the model in its present state, or, as the control, "
    "the base model's.",
)
@click.option(
    "--attempt-tokens",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Tokens of an attempt, at most (--objective loop).",
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Temperature at which attempts are drawn; 0: the likeliest token each time (--objective loop).",
)
@click.option(
    "--journal",
    type=click.FloatRange(min=0, max=1, max_open=True),
    default=0.0,
    help="Write transitions at or above this quantile of loss or entropy to OUTPUT/journal.jsonl, e.g. 0.95 (0: none).",
)
@click.option(
    "--replay",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Journal of an earlier training whose transitions are fed again after the rows.",
)
@click.option("--replay-at-random", is_flag=True, help="Control: feed as many other transitions as the journal holds.")
@click.option(
    "--checkpoint-every",
    type=click.IntRange(min=0),
    default=0,
    help="Write a checkpoint each time after this many optimiser steps (0: none).",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(min=0),
    default=0,
    help="Cut rows that are longer than this many tokens (0: refuse them).",
)
@click.option(
    "--roles",
    "by_role",
    is_flag=True,
    help="Train one adapter for every role of a course, and the controls: one of as many parameters, and the "
    "roles' weighted sum.",
)
@click.option("--shuffle-steps", is_flag=True, help="Control: train on the same chains with their steps shuffled.")
@seed_option("Seed of the adapter's first weights and of the dropout.")
@click.option("--force", is_flag=True, help="Train even if the model's weights are not those that measured the export.")
@click.option("--overwrite", is_flag=True, help="Replace another training in the folder.")
@model_option
@device_option
@home_option
@json_option
def command(
    export: Path,
    output: Path,
    steps: int,
    batch: int,
    accumulate: int,
    learning_rate: float,
    rank: int,
    alpha: int,
    layers: str | None,
    targets: str | None,
    objective: str,
    teacher: str | None,
    lm_share: float,
    attempts: str,
    attempt_tokens: int,
    temperature: float,
    journal: float,
    replay: Path | None,
    replay_at_random: bool,
    checkpoint_every: int,
    max_tokens: int,
    by_role: bool,
    shuffle_steps: bool,
    seed: int,
    force: bool,
    overwrite: bool,
    model: str | None,
    device: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Train a LoRA adapter on EXPORT, a file of `trails export --format trails`.

    The weights, the order and the layers of the export are used as written, and so is the model that measured
    it, which the home names. A model with other weights is refused. An interrupted training continues at its last
    checkpoint when the same command is run again.

    \b
    trails export --subgraph all --format trails --split 0.2 -o rows.parquet
    trails train rows.parquet -o adapter --steps 25 --layers 11-20
    trails diff --adapter adapter --export rows.parquet
    trails train course/train.jsonl --roles -o adapters
    trails train rows.parquet -o first --journal 0.95
    trails train rows.parquet -o second --replay first/journal.jsonl
    trails train rows.parquet -o repaired --objective loop --attempt-tokens 48
    """
    options = TrainOptions(
        steps=steps,
        batch=batch,
        accumulate=accumulate,
        learning_rate=learning_rate,
        rank=rank,
        alpha=alpha,
        layers=layers_option(layers),
        targets=targets,
        objective=objective,  # type: ignore[arg-type]
        lm_share=lm_share,
        attempts=attempts,  # type: ignore[arg-type]
        attempt_tokens=attempt_tokens,
        temperature=temperature,
        journal=journal,
        checkpoint_every=checkpoint_every,
        max_tokens=max_tokens,
        seed=seed,
        shuffle_steps=shuffle_steps,
    )
    if by_role:
        if replay is not None:
            raise UsageError("adapters by role are trained on their own rows. Leave --replay out.")
        _by_role(
            settings_from(home=home, model=model, device=device), export, output, options, force, overwrite, as_json
        )
        return
    from trails.pipeline.training import train_export

    with BarProgress(quiet=as_json) as bar:
        report = train_export(
            settings_from(home=home, model=model, device=device),
            export,
            output,
            options,
            teacher=teacher or "",
            force=force,
            overwrite=overwrite,
            replay=replay,
            replay_at_random=replay_at_random,
            on_stage=bar.note if not as_json else lambda _: None,
            on_step=_Steps(bar, quiet=as_json),
        )
    if as_json:
        print_json(
            {
                "adapter": str(report.adapter),
                "steps": report.steps,
                "rows": report.rows,
                "rows_fed": report.seen,
                "tokens_with_loss_fed": report.labelled,
                "left_out": {name: getattr(report, name) for name in LEFT_OUT},
                "tokens": report.tokens,
                "layers": list(report.layers) or "all",
                "trainable": report.trainable,
                "resumed": report.resumed,
                "losses": [list(entry) for entry in report.losses],
                "checkpoints": {str(step): str(path) for step, path in report.checkpoints.items()},
            }
        )
        return
    if report.finished_before:
        err.print("this training was finished before; nothing was done", style="yellow")
    if report.resumed:
        err.print(f"continued from step {report.resumed}", style="yellow")
    first, last = report.losses[0], report.losses[-1]
    fed = (
        f"{report.seen:,} of {counted(report.rows, 'row')}"
        if report.seen < report.rows
        else counted(report.rows, "row")
    )
    echo(f"{counted(report.steps, 'step')} over {fed}, {report.trainable:,} trainable parameters")
    for name, what in LEFT_OUT.items():
        if count := getattr(report, name):
            echo(f"{what}: {count:,}")
    echo(f"loss {first[1]:.4f} at step {first[0]}, {last[1]:.4f} at step {last[0]} (not a measure of success)")
    if journal:
        again = f"trails train {export} --replay FILE -o FOLDER"
        echo(with_home(f"journal: {report.adapter / 'journal.jsonl'}; feed it again: {again}"))
    echo(f"adapter: {report.adapter}")
    echo(with_home(f"what it did: trails diff --adapter {report.adapter} --export {export}"))


def _by_role(
    settings: Settings, export: Path, output: Path, options: TrainOptions, force: bool, overwrite: bool, as_json: bool
) -> None:
    """Adapters by role, and what to hold them against."""
    from trails.pipeline.training import train_roles

    with BarProgress(quiet=as_json) as bar:
        report = train_roles(
            settings,
            export,
            output,
            options,
            force=force,
            overwrite=overwrite,
            on_stage=bar.note if not as_json else lambda _: None,
        )
    rows = [
        [name, r.rows, r.steps, r.trainable, r.losses[0][1], r.losses[-1][1], str(r.adapter)]
        for name, r in (*report.roles.items(), ("one, for all roles", report.one))
    ]
    columns = ["adapter", "rows", "steps", "parameters", "first_loss", "last_loss", "folder"]
    if as_json:
        found = [dict(zip(columns, row, strict=True)) for row in rows]
        print_json({"adapters": found, "mixed": str(report.mixed), "weights": dict(report.weights)})
        return
    print_rows(columns, rows, title="losses do not measure success")
    shares = ", ".join(f"{role} {weight:.2f}" for role, weight in report.weights.items())
    echo(f"mixed: {report.mixed} ({shares})\nroutes: {output / 'routes.json'}")
    echo(with_home(f"what each did: trails diff --adapter {next(iter(report.roles.values())).adapter}"))
    echo(with_home(f"does routing by role pay: trails routes {output} ROWS-OF-OTHER-CHAINS --export {export}"))


class _Steps:
    """Draws the steps of a training with their loss; a tenth of them as lines where nothing can be drawn."""

    def __init__(self, bar: BarProgress, *, quiet: bool) -> None:
        self._bar, self._quiet = bar, quiet
        self._first = self._done = 0
        self._began = time.monotonic()

    def __call__(self, step: int, steps: int, loss: float) -> None:
        """``step`` of ``steps`` is done."""
        if not self._done:
            self._bar.begin("training", steps)
            self._first = self._done = step - 1
        self._bar.advance(step - self._done, shown=f"loss {loss:.4f}")
        self._done = step
        if self._quiet or err.is_terminal:
            return
        if step == steps or step * 10 // steps > (step - 1) * 10 // steps:
            left = (time.monotonic() - self._began) / max(step - self._first, 1) * (steps - step)
            self._bar.note(f"step {step} of {steps}, loss {loss:.4f}" + (f", about {left:,.0f} s left" if left else ""))
