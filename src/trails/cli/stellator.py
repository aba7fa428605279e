"""trails stellator"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.common import (
    echo,
    home_option,
    json_option,
    print_field,
    print_json,
    seed_option,
    stacked,
    store_option,
)
from trails.cli.scores import (
    details_option,
    html_option,
    instrument_options,
    pairs_option,
    run_option,
    settings_for,
    tell,
)
from trails.errors import UsageError
from trails.platform.text import counted

SETTINGS = {"help_option_names": ["-h", "--help"]}

file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
zones_option = click.option(
    "--zones",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="File of named zones; takes precedence over zones.toml of the home and the zones of trails.",
)
compiled_options = stacked(file_argument, zones_option, run_option, home_option, store_option, json_option)
"""Options of a command that compiles a file for a run of a home."""


@click.group("stellator", context_settings=SETTINGS)
def command() -> None:
    """Blocks that select a region of the graph, say how training treats it, and make claims that are measured there.

    \b
    trails stellator init thought.stellator      a commented example
    trails stellator check thought.stellator     every error with line and column
    trails stellator explain thought.stellator   every line in a sentence
    trails stellator run thought.stellator       select, measure, one verdict a line
    """


@command.command("init", context_settings=SETTINGS)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--russian", is_flag=True, help="With Russian keywords.")
def init(file: Path, russian: bool) -> None:
    """Write a commented example to FILE.

    \b
    trails stellator init thought.stellator
    trails stellator init мысль.stellator --russian
    """
    from trails.errors import UsageError
    from trails.platform.files import write_atomic
    from trails.stellator import example

    if file.exists():
        raise UsageError(f"{file} exists. Choose another name.")
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, example(russian=russian))
    echo(f"{file}: run next: trails stellator explain {file}")


@command.command("check", context_settings=SETTINGS)
@file_argument
@zones_option
@home_option
@json_option
def check(file: Path, zones: Path | None, home: Path | None, as_json: bool) -> None:
    """Check every line of FILE. Everything that is wrong is named at once, with its line, its column and the likely intention.

    The exit code is 3 if something is wrong. With --json the faults are an array (empty if there are none).

    \b
    trails stellator check thought.stellator
    """
    from trails.config import load_settings
    from trails.stellator import check_file
    from trails.stellator.faults import StellatorError

    try:
        program = check_file(file, load_settings(home=home).home, zones)
    except StellatorError as error:
        if not as_json:
            raise
        print_json({"file": str(file), "faults": [fault.record() for fault in error.faults]})
        click.get_current_context().exit(error.exit_code)
    lines = sum(len(block.lines) for _, block in program.named())
    if as_json:
        blocks = [name for name, _ in program.named()]
        print_json({"file": str(file), "blocks": blocks, "lines": lines, "faults": []})
        return
    echo(f"{file}: {counted(len(program.blocks), 'block')}, {counted(lines, 'line')}, no error")


@command.command("format", context_settings=SETTINGS)
@file_argument
@click.option("--write", is_flag=True, help="Replace the file (default: print).")
def format_(file: Path, write: bool) -> None:
    """Print FILE in its canonical spelling, comments kept.

    \b
    trails stellator format thought.stellator --write
    """
    from trails.platform.files import write_atomic
    from trails.stellator import read_file
    from trails.stellator.language import printed

    text = printed(read_file(file))
    if write:
        meant = file.resolve()  # a link stays a link
        mode = stat.S_IMODE(meant.stat().st_mode)
        try:
            if not os.access(meant, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            write_atomic(meant, text)
            meant.chmod(mode)
        except OSError as error:
            raise UsageError(f"{file} cannot be written: {error.strerror or error}") from error
        echo(f"{file}: written", to_stderr=True)
        return
    echo(text, nl=False)


@command.command("explain", context_settings=SETTINGS)
@compiled_options
def explain(
    file: Path, zones: Path | None, run: str | None, home: Path | None, store: str | None, as_json: bool
) -> None:
    """Every line of FILE in a sentence, with what it compiles to.

    \b
    trails stellator explain thought.stellator
    """
    from trails.pipeline import Home
    from trails.pipeline.stellating import compiled, zones_of
    from trails.stellator.explaining import explained

    with Home(**settings_for(home, store)) as opened:
        found = compiled(opened, file, more_zones=zones, run=run)
        known = zones_of(opened, zones)
        told = [(one, explained(one, known)) for one in found]
    if as_json:
        print_json([one.record() | {"lines": [{"line": a, "means": b} for a, b in lines]} for one, lines in told])
        return
    for one, lines in told:
        echo(one.name)
        for text, means in lines:
            echo(f"  {text}")
            print_field("", means)
        echo()
        echo(one.statement)
        echo()


@command.command("compile", context_settings=SETTINGS)
@compiled_options
def compile_(
    file: Path, zones: Path | None, run: str | None, home: Path | None, store: str | None, as_json: bool
) -> None:
    """The Cypher statement of every block with its parameters, and the annotations of training as JSON.

    \b
    trails stellator compile thought.stellator
    """
    from trails.pipeline import Home
    from trails.pipeline.stellating import compiled
    from trails.platform.text import json_text

    with Home(**settings_for(home, store)) as opened:
        found = compiled(opened, file, more_zones=zones, run=run)
    if as_json:
        print_json([one.record() for one in found])
        return
    for one in found:
        echo(f"// {one.name}")
        for name, value in one.parameters.items():
            echo(f"// ${name} = {json_text(value, None)}")
        echo(one.statement)
        echo(f"// training: {json_text(one.annotations.record(), None)}")
        echo()


@command.command("run", context_settings=SETTINGS)
@file_argument
@zones_option
@click.option("--no-model", is_flag=True, help="Re-score no bridge: ANCHOR is then not decidable.")
@pairs_option
@seed_option("Seed of the random places.")
@instrument_options
@details_option
@run_option
@home_option
@store_option
@json_option
@html_option
def run_(
    file: Path,
    zones: Path | None,
    no_model: bool,
    pairs: int,
    seed: int,
    model: str | None,
    device: str | None,
    details: bool,
    run: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> Report:
    """Select, measure, and judge every line of FILE: pass, fail or not decidable, with value and control.

    \b
    trails stellator run thought.stellator
    trails stellator run thought.stellator --no-model --details
    trails stellator run thought.stellator --html thought.html
    """
    from trails.pipeline import Home
    from trails.pipeline.stellating import judged

    with Home(**settings_for(home, store, model=model, device=device)) as opened:
        report = judged(opened, file, more_zones=zones, run=run, model=not no_model, pairs=pairs, seed=seed)
    return tell(report, as_json=as_json, details=details, home=home)
