"""trails browser"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import echo, err, settings_from


@click.command("browser", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--save",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write favourites, style sheet and guide into this folder.",
)
@click.option("--port", default=7474, show_default=True, help="Port on which the server shows Neo4j Browser.")
@click.option("--open", "open_it", is_flag=True, help="Open the address in your web browser.")
def command(save: Path | None, port: int, open_it: bool) -> None:
    """Address of Neo4j Browser, and what makes it show trails well.

    \b
    trails browser --save browser-files     favourites, style sheet, guide
    trails browser --open                   open the Browser
    """
    from trails.store.browser import browser_address, save_files

    settings = settings_from()
    address = browser_address(settings.neo4j_uri or "bolt://localhost:7687", settings.neo4j_username, port)
    if save is not None:
        favourites, style, guide = save_files(save)
        err.print(f"Drop {favourites} on the Browser's window: every named query becomes a favourite.")
        err.print(f"Drop {style} on it too: captions and colours. How to read it: {guide}")
    else:
        err.print("Favourites and style sheet: trails browser --save FOLDER")
    err.print("Neo4j Browser connects in write mode: what you type there can change the graph.")
    echo(address, as_it_is=True)
    if open_it:
        click.launch(address)
