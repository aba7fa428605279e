"""trails report"""

from __future__ import annotations

import webbrowser
from pathlib import Path

import click

from trails.cli.common import (
    echo,
    err,
    home_option,
    interruptible,
    json_option,
    print_json,
    settings_from,
    store_option,
    with_home,
)
from trails.platform.text import counted


@click.command("report", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("selections", metavar="[SELECTION]...", nargs=-1)
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default="report.html", show_default=True,
    help="HTML file to write.",
)  # fmt: skip
@click.option("--run", help="Run whose numbers are shown (default: the only one without an adapter).")
@click.option("--compare", metavar="RUN", help="Show every token's change to this run, for example after a training.")
@click.option(
    "--course", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Show this course (trails genome) instead of the corpus: its tree, and its chains in order.",
)  # fmt: skip
@click.option("--map/--no-map", "with_map", default=True, show_default=True, help="Include the map of the chains.")
@click.option("--overwrite", is_flag=True, help="Replace an output file that exists.")
@click.option("--open", "opens", is_flag=True, help="Open the file in the browser.")
@home_option
@store_option
@json_option
def command(
    selections: tuple[str, ...],
    output: Path,
    run: str | None,
    compare: str | None,
    course: Path | None,
    with_map: bool,
    overwrite: bool,
    opens: bool,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Write one offline HTML file: every token of the chains, the corpus, the map.

    SELECTION is a chain id or a selection as in trails export --subgraph (chain:ID, roles:IF>THEN, query:NAME, a .cypher
    file); without one, all chains. The file needs no server and no network, and is safe to mail.

    \b
    trails report -o report.html --open
    trails report c1f0 roles:IF>THEN>BUT -o chains.html
    trails report --run r12 --compare r34 -o before-after.html
    trails report --course course.genome.yaml -o course.html
    """
    from trails.errors import UsageError
    from trails.pipeline import Home
    from trails.pipeline.reporting import course_page, report

    settings = settings_from(home=home, store=store)
    if course is not None and (selections or compare):
        raise UsageError("the page of a course has chains of its own. Leave selections and --compare out.")
    with interruptible(output), Home(home, **settings.model_dump(include={"store"})) as opened:
        if course is not None:
            written = course_page(opened, course, output, run=run, overwrite=overwrite)
        else:
            written = report(
                opened, selections, output, run=run, compare=compare, with_map=with_map, overwrite=overwrite
            )
    if as_json:
        print_json(
            {
                "path": str(written.path),
                "bytes": written.n_bytes,
                "chains": written.n_chains,
                "tokens": written.n_tokens,
                "left_out": list(written.left_out),
            }
        )
    else:
        for note in written.left_out:
            err.print(with_home(note))
        echo(
            f"{written.path}: {counted(written.n_chains, 'chain')}, "
            f"{counted(written.n_tokens, 'token')}, {counted(written.n_bytes, 'byte')} "
            f"({written.n_bytes / max(written.n_tokens, 1):.0f} a token)"
        )
    if opens:
        webbrowser.open(output.resolve().as_uri())
