"""trails pvq"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import device_option, echo, home_option, json_option, print_json, run_model_option, seed_option
from trails.cli.scores import limit_option, print_report, run_option, settings_for, text_or_file
from trails.platform.text import counted

SETTINGS = {"help_option_names": ["-h", "--help"]}


@click.group("pvq", context_settings=SETTINGS)
def command() -> None:
    """Vectors in a file (pvq.json): write them from stored step states, search them, use them with intervene
    --vector.

    \b
    trails pvq write roles:BUT -o but.pvq.json --whiten
    trails pvq search but.pvq.json "But the street is dry."
    trails intervene c1f0 --layer 16 --vector but.pvq.json#c7aa:1
    """


@command.command("write", context_settings=SETTINGS)
@click.argument("steps")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="File to write (….pvq.json)."
)
@click.option(
    "--layer", type=click.IntRange(min=0), help="Layer of the states (default: the middle one of those stored)."
)
@click.option("--whiten", is_flag=True, help="Also write the run's whitening of this layer.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@run_option
@home_option
@json_option
def write(
    steps: str,
    output: Path,
    layer: int | None,
    whiten: bool,
    overwrite: bool,
    run: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Write the states of STEPS: a step CHAIN:STEP, a chain, or a selection. They must be stored: trails ingest --states.

    \b
    trails pvq write c1f0:2 -o turn.pvq.json
    """
    from trails.pipeline import Home
    from trails.pipeline.vectors import write_vectors

    with Home(**settings_for(home, None)) as opened:
        made, files = write_vectors(opened, steps, output, layer=layer, whiten=whiten, run=run, overwrite=overwrite)
    if as_json:
        print_json({"files": [str(file) for file in files], "vectors": len(made.ids), "layer": made.layer})
        return
    echo(
        f"{' and '.join(map(str, files))}: {counted(len(made.ids), 'vector')} of "
        f"{made.vectors.shape[1]} numbers, layer {made.layer} of {made.model}"
    )


@command.command("search", context_settings=SETTINGS)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("text")
@seed_option("Seed of the random vectors.")
@limit_option
@run_option
@run_model_option
@device_option
@home_option
@json_option
def search(
    file: Path,
    text: str,
    seed: int,
    limit: int,
    run: str | None,
    model: str | None,
    device: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """The vectors of FILE nearest to TEXT: a step CHAIN:STEP of the home, a text, or a file that holds one.

    \b
    trails pvq search but.pvq.json c1f0:2
    """
    from trails.pipeline import Home
    from trails.pipeline.vectors import look_up

    with Home(**settings_for(home, None, model=model, device=device)) as opened:
        report = look_up(opened, file, text_or_file(text), top=limit, seed=seed, run=run).report()
    if as_json:
        print_json(report.record())
        return
    print_report(report, limit=limit, home=home)
