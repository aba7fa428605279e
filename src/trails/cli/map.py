"""trails map"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import home_option, json_option, print_json, print_rows, store_option
from trails.cli.scores import graph_option, limit_option, print_scores, run_option, settings_for, shown


@click.command("map", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--k", type=click.IntRange(min=1), default=4, show_default=True, help="Tokens that identify a state.")
@click.option(
    "--all-states", is_flag=True, help="Write every state to the graph, not only those of two chains or more."
)
@limit_option
@graph_option
@run_option
@home_option
@store_option
@json_option
def command(
    k: int,
    all_states: bool,
    limit: int,
    no_graph: bool,
    run: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """The woven map: where chains meet, the ways between, and how far held-out chains trust it.

    Writes :State, :TRAIL and :AT to the graph; the map that was there before is replaced.

    \b
    trails map
    trails map --k 3 --limit 30
    """
    from trails.pipeline import Home

    with Home(**settings_for(home, store)) as opened:
        found = opened.map(k, run=run, all_states=all_states, write=not no_graph)
    record = found.record(limit)
    if as_json:
        print_json(record)
        return
    counts = ["n_chains", "n_tokens", "n_states", "n_shared_states", "n_trails", "n_unitigs", "n_bubbles"]
    print_rows([name.removeprefix("n_").replace("_", " ") for name in counts], [[record[name] for name in counts]])
    ways = [
        [
            sum(row["counts"]),
            shown(row["before"], 40),
            " | ".join(shown(w, 40) or "∅" for w in row["ways"]),
            shown(row["after"], 20),
        ]
        for row in record["bubbles"]
    ]
    if ways:
        print_rows(["walks", "from", "alternative ways", "to"], ways, title=f"{record['n_bubbles']} bubbles")
    print_scores(found.scores, found.withheld)
