"""trails browser"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import echo, err, home_option, settings_from
from trails.errors import StoreError, TrailsError, UsageError


@click.command("browser", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--save",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write favourites, style sheet, guide and a NeoDash dashboard into this folder.",
)
@click.option("--serve", "serve_it", is_flag=True, help="Serve the guide to the Browser until Ctrl-C (127.0.0.1 only).")
@click.option(
    "--guide-port", type=click.IntRange(0, 65535), default=0, help="Port for --serve (default: any that is free)."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port on which the server shows Neo4j Browser (default: asks the server).",
)
@click.option(
    "--role-labels/--no-role-labels",
    default=None,
    help="Give every step its role as a second label, for its colour; or take these labels away.",
)
@click.option("--open", "open_it", is_flag=True, help="Open the address in your web browser.")
@click.option(
    "--run",
    help="Run whose values favourites and guide hold (default: the latest that is not a training or an intervention).",
)
@home_option
def command(
    save: Path | None,
    serve_it: bool,
    guide_port: int,
    port: int | None,
    role_labels: bool | None,
    open_it: bool,
    run: str | None,
    home: Path | None,
) -> None:
    """Print the address of Neo4j Browser, and set the Browser up for trails.

    Favourites and guide hold a run of the home (the latest that is not one of a training or an intervention) and some of its
    chains; without a home, those of the packaged sample.

    \b
    trails browser --save browser-files     favourites, style sheet, guide, dashboard
    trails browser --serve                  a guide whose statements run by a click
    trails browser --role-labels            steps in the colours of their roles
    trails browser --open                   open the Browser
    """
    from trails.store.browser import BROWSER_PORT, browser_address, guide, save_files, serve, values_of
    from trails.store.queries import named_queries
    from trails.store.traces import TraceStore

    settings = settings_from(home=home)
    try:
        with TraceStore(settings.home) as traces:
            values = values_of(traces, run)
    except StoreError as error:
        values = {}
        err.print(f"The values are those of the packaged sample: {error}")
    if port is None:
        port = _port_of_server(BROWSER_PORT)
    if role_labels is not None:
        _label_roles(role_labels)
    address = browser_address(settings.neo4j_uri or "bolt://localhost:7687", settings.neo4j_username, port)
    if save is not None:
        favourites, style, page, board = save_files(save, values)
        err.print(f"Drop {favourites} on the Browser's window: every named query becomes a favourite.")
        err.print(
            f"Drop {style} on it too: captions and colours. A guide to click through: trails browser --serve ({page})"
        )
        err.print(f"{board} is a dashboard of the six questions for NeoDash: Load, from file.")
    elif not serve_it:
        err.print(
            "Favourites and style sheet: trails browser --save FOLDER. A guide to click through: trails browser --serve"
        )
    err.print("Neo4j Browser connects in write mode: what you type there can change the graph.")
    echo(address, as_it_is=True)
    if open_it:
        click.launch(address)
    if serve_it:
        with serve(guide(named_queries(), values), guide_port) as server:
            # the Browser fetches guides from hosts on its list only, and this name is on it
            echo(f":play http://localhost:{server.server_address[1]}/trails.html")
            err.print("Type the line above in the Browser. The guide is served until you press Ctrl-C.")
            server.serve_forever()


def _port_of_server(default: int) -> int:
    """The port that the server says it shows Neo4j Browser on; Neo4j's default, said so, where it cannot be asked."""
    from trails.store.neo4j import open_neo4j

    try:
        with open_neo4j(settings_from(), ask=_nobody, any_format=True) as graph:
            found = graph.browser_port()
    except TrailsError as error:
        err.print(f"The server could not be asked for its port, {default} is Neo4j's default: {error}")
        return default
    return found or default


def _nobody(question: str) -> str:
    """No password is asked for to tell a port."""
    return ""


def _label_roles(wanted: bool) -> None:
    """Write or remove the labels that colour steps by their roles."""
    from trails.store import open_graph
    from trails.store.browser import ROLE_LABELS, ROLE_LABELS_UNDO

    settings = settings_from()
    if settings.store_name != "neo4j":
        raise UsageError("role labels are for Neo4j Browser, and the graph is the embedded one. Set NEO4J_URI")
    with open_graph(settings) as graph:
        graph.run(ROLE_LABELS if wanted else ROLE_LABELS_UNDO, write=True, timeout_s=86_400.0)
    err.print("Every step has its role as a second label." if wanted else "The second labels of steps are gone.")
