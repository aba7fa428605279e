"""trails anchors"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trails.analyses.report import Report
from trails.cli.common import (
    BarProgress,
    seed_option,
)
from trails.cli.scores import (
    html_option,
    instrument_options,
    settings_for,
    tell,
    written_options,
)


@click.command("anchors", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("chain")
@click.option("--layers", default="", help="Layers in which attention is suppressed, e.g. 10-20 (default: all).")
@seed_option("Seed of the drawn pairs and random spans.")
@instrument_options
@written_options
@html_option
def command(
    chain: str,
    limit: int,
    details: bool,
    no_graph: bool,
    model: str | None,
    device: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
    **given: Any,
) -> Report:
    """Which earlier steps a step needs. For every pair, attention from the later to the earlier step is
    suppressed, and the loss of the later step is measured. CHAIN is a chain or a selection.

    Writes (:Step)-[:DEPENDS_ON {nats, kl}]->(:Step), beside the observed ATTENDS_TO. The controls suppress an
    equally long random span, and as much mass of the first token.

    \b
    trails anchors c1f0
    trails anchors source:gsm8k --layers 10-20
    trails query conclusion-depends-on --param chain=c1f0
    """
    from trails.pipeline import Home

    with (
        BarProgress(quiet=as_json) as progress,
        Home(**settings_for(home, store, model=model, device=device)) as opened,
    ):
        report = opened.anchors(chain, write=not no_graph, progress=progress, **given).report()
    return tell(report, as_json=as_json, limit=limit, details=details, home=home)
