"""trails respond"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.common import (
    BarProgress,
    echo,
    seed_option,
)
from trails.cli.scores import (
    html_option,
    instrument_options,
    settings_for,
    tell,
    text_or_file,
    written_options,
)


@click.command("respond", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("spans")
@click.option("--probes", required=True, help="Selection of unseen chains on which the reaction is measured.")
@click.option(
    "--controls",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Spans of as many tokens of other sources that every span is compared with.",
)
@click.option(
    "--adapter",
    type=click.Path(path_type=Path, file_okay=False),
    help="Use an adapter that was trained on SPANS, instead of putting them before the probes.",
)
@click.option(
    "--adapter-control",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --adapter: the control adapter, trained on as much text of another source.",
)
@click.option(
    "--adapter-shuffled",
    type=click.Path(path_type=Path, file_okay=False),
    help="With --adapter: the control adapter, trained on the same rows with --shuffle-steps.",
)
@seed_option("Seed of the controls.")
@instrument_options
@written_options
@html_option
def command(
    spans: str,
    probes: str,
    controls: int,
    adapter: Path | None,
    adapter_control: Path | None,
    adapter_shuffled: Path | None,
    seed: int,
    limit: int,
    details: bool,
    no_graph: bool,
    run: str | None,
    model: str | None,
    device: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> Report:
    """The response map: how spans change the unseen chains (probes) that they are put before. SPANS is a
    selection of steps or chains, a
    chain, a step CHAIN:STEP, a text, or a file that holds one.

    Every span is compared with spans of as many tokens of other sources, and with its own tokens in random order. Writes
    :Response nodes.

    \b
    trails respond c1f0:3 --probes source:strategyqa
    trails respond 'roles:BUT' --probes source:gsm8k
    trails respond source:mine --probes source:gsm8k --adapter a --adapter-control b --adapter-shuffled c
    trails respond "Not every rain makes the grass wet." --probes all
    """
    from trails.pipeline import Home

    with (
        BarProgress(quiet=as_json) as progress,
        Home(**settings_for(home, store, model=model, device=device)) as opened,
    ):
        found = opened.respond(
            text_or_file(spans),
            probes=probes,
            controls=controls,
            adapter=adapter,
            adapter_control=adapter_control,
            adapter_shuffled=adapter_shuffled,
            seed=seed,
            run=run,
            write=not no_graph,
            progress=progress,
        )
    report = tell(found.report(), as_json=as_json, limit=limit, details=details, home=home)
    for line in () if as_json else found.sentences()[:limit]:
        echo(line)
    return replace(report, notes=(*report.notes, *found.sentences()))  # the page says them, too
