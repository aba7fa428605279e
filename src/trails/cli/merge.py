"""trails merge"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from trails.cli.common import BarProgress, err, home_option, json_option, print_json, settings_from, store_option


@click.command("merge", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("homes", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--mixed",
    is_flag=True,
    help="Join homes even if different runs measured them, or with other measures on request.",
)
@click.option(
    "--graph",
    type=click.Choice(["after", "none"]),
    default="after",
    show_default=True,
    help="Load new chains into the graph after the shards are copied, or leave that to trails rebuild.",
)
@home_option
@store_option
@json_option
def command(
    homes: tuple[Path, ...], mixed: bool, graph: str, home: Path | None, store: str | None, as_json: bool
) -> None:
    """Put everything that HOMES hold into the home that --home names, as if it had been measured there.

    HOMES stay as they are. No model is needed. Homes that do not fit together are refused before anything is written. A kill
    loses nothing; the same command goes on.

    \b
    trails merge part1 part2 --home whole
    trails merge /mnt/a/.trails /mnt/b/.trails --home all --graph none
    """
    from trails.pipeline.merging import merge, merged_lines

    settings = settings_from(home=home, store=store)
    with BarProgress(quiet=as_json) as progress:
        merged = merge(homes, settings, mixed=mixed, graph=graph == "after", progress=progress)
    if as_json:
        print_json(asdict(merged))
        return
    for line in merged_lines(merged):
        err.print(line)
