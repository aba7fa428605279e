"""trails rebuild"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import BarProgress, err, home_option, settings_from, store_option


@click.command("rebuild", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--fresh", is_flag=True, help="Build the graph from nothing; results of analyses are kept.")
@click.option(
    "--per-layer", is_flag=True, help="Put an array with a value per layer on token transitions (about 7x larger)."
)
@home_option
@store_option
def command(fresh: bool, per_layer: bool, home: Path | None, store: str | None) -> None:
    """Load into the graph what it misses, from the shards. No model is needed and nothing is measured.

    \b
    trails rebuild                  the embedded graph
    trails rebuild --fresh          built next to the old one, which stays until the new one is whole
    trails rebuild --store neo4j    the server that NEO4J_URI names
    """
    from trails.pipeline import rebuild

    settings = settings_from(home=home, store=store)
    with BarProgress(quiet=False) as progress:
        loaded = rebuild(settings, fresh=fresh, per_layer=per_layer, progress=progress)
    err.print(f"loaded {loaded:,} chains into {settings.store_name}")
