"""trails roles"""

from __future__ import annotations

import getpass
from pathlib import Path

import click

from trails.cli.common import (
    BarProgress,
    echo,
    home_option,
    json_option,
    print_json,
    seed_option,
    settings_from,
    store_option,
    with_home,
)
from trails.cli.scores import details_option, instrument_options, run_option, settings_for, tell
from trails.errors import UsageError
from trails.platform.text import counted, json_text, one_line


@click.group("roles", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Correct the roles of steps, and see how well the segmenter agrees.

    \b
    trails roles export --sample 20 -o roles.jsonl     one line a step
    (edit role; start and end where a border is wrong)
    trails roles import roles.jsonl --by anna
    trails roles score
    """


@command.command("export")
@click.argument("chains", nargs=-1)
@click.option("--sample", type=click.IntRange(min=1), help="Draw this many chains instead of taking all.")
@seed_option("Seed of the draw.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File (default: standard output)."
)
@click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
@home_option
def export_command(
    chains: tuple[str, ...], sample: int | None, seed: int, output: Path | None, overwrite: bool, home: Path | None
) -> None:
    """Write steps with their roles as JSON Lines, one line per step, for a person to correct.

    CHAINS are ids, beginnings of ids, SOURCE:RECORD or numbers of trails chains; none means all.

    \b
    trails roles export -o roles.jsonl
    trails roles export c1f0 --home .trails
    """
    from trails.pipeline.roles import export_roles
    from trails.store.outputs import check_output

    if output is not None and str(output) != "-":
        check_output(output)
    if output is not None and output.exists() and not overwrite:
        raise UsageError(f"{output} exists, and may hold corrections. Name another file, or add --overwrite.")
    records = export_roles(settings_from(home=home), chains, sample=sample, seed=seed)
    lines = (json_text(record, None) for record in records)
    if output is None:
        for line in lines:
            echo(line)
        return
    from trails.platform.files import write_atomic

    text = "".join(f"{line}\n" for line in lines)
    write_atomic(output, text.encode("utf-8", "surrogatepass"))
    echo(f"{counted(text.count(chr(10)), 'step')} in {output}", to_stderr=True)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


@command.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--by", default=_user, show_default="the user's name", help="Name of the corrector.")
@home_option
@store_option
@json_option
def import_command(file: Path, by: str, home: Path | None, store: str | None, as_json: bool) -> None:
    """Load corrected steps into the home and the graph. The automatic roles are kept beside them.

    Every line of a chain counts as checked, even without a change. What the file leaves as it was exported stays
    as it is in the home, with corrections that others made since; a step that both changed is refused. The file is
    accepted as a whole or not at all.

    \b
    trails roles import roles.jsonl --by anna
    """
    from trails.pipeline.roles import import_roles

    found = import_roles(file, settings_from(home=home, store=store), by=by)
    if as_json:
        print_json(
            {name: getattr(found, name) for name in ("chains", "steps", "changed", "moved", "kept")} | {"by": by}
        )
        return
    echo(
        f"{counted(found.steps, 'step')} of {counted(found.chains, 'chain')}; "
        f"{counted(found.changed, 'role differs', 'roles differ')} from the segmenter's"
    )
    for name, count in found.kept.items():
        echo(
            f"{counted(count, 'step keeps', 'steps keep')} the correction of {one_line(name)}, later than this file; to take "
            "one back, export again and change that file"
        )
    if found.moved:
        echo(
            f"{counted(found.moved, 'step has', 'steps have')} other borders than the home's: they count in the score; "
            "the graph keeps the home's steps"
        )
    echo(with_home("next        trails roles score"))


@command.command("score")
@details_option
@home_option
@json_option
def score_command(details: bool, home: Path | None, as_json: bool) -> None:
    """Precision, recall and F1 of the segmenter on the chains that somebody corrected, beside their controls.

    The steps of the home are scored as the segmenter made them at ingest: an export that nobody edits has
    every role right.

    \b
    trails roles score
    trails roles score --details     every step that differs
    """
    from trails.pipeline.roles import score_home

    report = score_home(settings_from(home=home)).report()
    tell(report, as_json=as_json, details=details, home=home)


@command.command("connectives")
@click.argument("chains", default="all")
@click.option(
    "--language",
    type=click.Choice(["en", "ru"]),
    default="en",
    show_default=True,
    help="Language of the chains to use.",
)
@click.option(
    "--sample", type=click.IntRange(min=1), default=60, show_default=True, help="Chains to draw from the selection."
)
@seed_option("Seed of the draw and of the two halves.")
@run_option
@instrument_options
@home_option
@json_option
def connectives_command(
    chains: str,
    language: str,
    sample: int,
    seed: int,
    run: str | None,
    model: str | None,
    device: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Do the model's scores of connectives predict the role of a step better than the classifier without a model?

    The connective (so, because, but, then) of every step that has one is deleted, and the model scores how
    likely the step is after each of them. The controls are the classifier of implicit roles alone, and scores
    of other steps. CHAINS is a
    selection.

    \b
    trails roles connectives
    trails roles connectives source:gsm8k/train --sample 100
    """
    from trails.pipeline import Home
    from trails.pipeline.connecting import connectives

    with Home(**settings_for(home, None, model=model, device=device)) as opened, BarProgress(quiet=as_json) as bar:
        found = connectives(opened, chains, language=language, sample=sample, seed=seed, run=run, progress=bar)
    tell(found.report(), as_json=as_json, home=home)
