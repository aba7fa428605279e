"""trails bulk"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import (
    BarProgress,
    echo,
    err,
    home_option,
    interruptible,
    json_option,
    print_json,
    settings_from,
    with_home,
)
from trails.platform.text import counted


@click.command("bulk", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--per-layer", is_flag=True, help="Put an array with a value per layer on token transitions (about 7x larger)."
)
@home_option
@json_option
def command(folder: Path, per_layer: bool, home: Path | None, as_json: bool) -> None:
    """Write FOLDER with files for neo4j-admin database import, and print the command to run.

    The import replaces the database and needs the server stopped. Results of analyses (overlaps, map, gaps, …) are not in the
    files. For corpora up to some million tokens
    `trails rebuild --store neo4j` is simpler.
    """
    from trails.store.bulk import bulk_from_home

    settings = settings_from(home=home)
    with interruptible(folder), BarProgress(quiet=as_json) as progress:
        seen = 0

        def report(done: int, total: int) -> None:
            nonlocal seen
            if not seen:
                progress.begin("writing", total)
            progress.advance(done - seen)
            seen = done

        files = bulk_from_home(settings.home, folder, per_layer=per_layer, progress=report)
    lines = {
        "neo4j_admin": files.command(database=settings.neo4j_database),
        "scripts": files.command(("scripts/neo4j", "admin", "--"), database=settings.neo4j_database),
    }
    if as_json:
        print_json({"folder": str(folder), "rows": files.rows, "elements": files.elements, **lines})
        return
    err.print(f"{counted(files.elements, 'node')} and relationships in {folder}")
    err.print(
        "Stop the server, then type the line below, start the server, and create the indexes with", highlight=False
    )
    err.print(with_home("  trails rebuild --store neo4j"))
    err.print("Results of analyses are not in the files: run their commands again afterwards.")
    err.print(
        "With the server of scripts/neo4j put `scripts/neo4j admin --` in the place of neo4j-admin.", highlight=False
    )
    echo(lines["neo4j_admin"], as_it_is=True)
