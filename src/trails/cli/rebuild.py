"""trails rebuild"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import BarProgress, err, home_option, settings_from, store_option
from trails.errors import UsageError
from trails.platform.text import counted


@click.command("rebuild", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--fresh", is_flag=True, help="Build this home's part from nothing; results of its analyses are kept.")
@click.option("--repair", is_flag=True, help="Write again only the chains that differ from the shards.")
@click.option("--indexes", is_flag=True, help="Also make the indexes that cost loading time (Neo4j only).")
@click.option(
    "--yes",
    is_flag=True,
    help="With --fresh or --segment: remove, without asking, attachments that trails did not write. With "
    "--segment or --repair: replace the steps that another home gave a chain by this home's steps.",
)
@click.option(
    "--per-layer", is_flag=True, help="Put an array with a value per layer on token transitions (about 7x larger)."
)
@click.option(
    "--segment",
    is_flag=True,
    help="Split the chains again with this version's segmenter first, then as --fresh; lists what must be "
    "measured again.",
)
@home_option
@store_option
def command(
    fresh: bool,
    repair: bool,
    indexes: bool,
    yes: bool,
    per_layer: bool,
    segment: bool,
    home: Path | None,
    store: str | None,
) -> None:
    """Load the chains that the graph lacks from the shards. No model is needed and nothing is measured.

    \b
    trails rebuild                  the embedded graph
    trails rebuild --fresh          built next to the old one, which stays until the new one is whole
    trails rebuild --repair         only the chains that differ from the shards, as trails verify found
    trails rebuild --segment        steps of this version's segmenter; tokens keep their measured values
    trails rebuild --store neo4j    the server that NEO4J_URI names

    Several homes may share a graph. Without --yes none of these commands removes anything that another home holds.
    """
    from trails.pipeline import rebuild
    from trails.pipeline.judging import repair as repair_graph

    if fresh and repair:
        raise UsageError("--fresh and --repair were both given. Give one: --repair writes again only what differs.")
    if segment and repair:
        raise UsageError("--segment and --repair were both given. Give one: --segment writes every chain again.")
    if yes and not (fresh or segment or repair):
        raise UsageError("--yes belongs to --fresh, --segment or --repair, and none of them was given.")

    settings = settings_from(home=home, store=store)
    if indexes and settings.store_name != "neo4j":
        raise UsageError("--indexes is for Neo4j, and the graph is the embedded one. Set NEO4J_URI, or leave it out.")
    with BarProgress(quiet=False) as progress:
        if segment:
            from trails.pipeline.resegmenting import resegment

            for line in resegment(settings, progress=progress).lines():
                progress.note(line)
        if repair:
            chains = repair_graph(settings, progress, replace_steps=yes)
        else:
            loaded = rebuild(settings, fresh=fresh or segment, per_layer=per_layer, force=yes, progress=progress)
            if segment and settings.store_name == "neo4j":
                # chains that another home holds, too, are not loaded again
                repair_graph(settings, progress, replace_steps=yes)
    if indexes:
        from trails.store.neo4j import open_neo4j

        with open_neo4j(settings) as graph:
            graph.create_indexes()
    if repair:
        shown = ", ".join(chains[:5]) + (", …" if len(chains) > 5 else "")
        err.print(f"wrote again {counted(len(chains), 'chain')}{f': {shown}' if chains else ', nothing differs'}")
        return
    err.print(f"loaded {counted(loaded, 'chain')} into {settings.store_name}")
