"""trails effects"""

from __future__ import annotations

from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.common import json_option, print_field, print_json, print_rows, seed_option
from trails.cli.scores import (
    html_option,
    settings_for,
    tell,
    written_options,
)

_HELP = {"help_option_names": ["-h", "--help"]}


@click.group("effects", context_settings=_HELP)
def command() -> None:
    """Named effects in measured chains: their definitions, and the steps that show them.

    \b
    trails effects list
    trails effects explain logit-collapse
    trails effects scan
    trails export --subgraph effect:logit-collapse --format trl -o rows.jsonl
    """


@command.command("list", context_settings=_HELP)
@json_option
def listed(as_json: bool) -> None:
    """List every effect with its definition."""
    from trails.analyses.effects import registry

    rows = [[effect.name, effect.version, effect.meaning] for effect in registry().values()]
    print_rows(["effect", "version", "meaning"], rows, style="json" if as_json else "table")


@command.command("explain", context_settings=_HELP)
@click.argument("name")
@json_option
def explain(name: str, as_json: bool) -> None:
    """One effect: its definition, its control, an example and a counter-example.

    \b
    trails effects explain logit-collapse
    """
    from trails.analyses.effects import NEEDS, effect_of

    effect = effect_of(name)
    fields = {
        "effect": effect.name,
        "version": effect.version,
        "meaning": effect.meaning,
        "definition": effect.definition(),
        "control": effect.control,
        "value": f"{effect.value}: {effect.value_unit}",
        "needs": NEEDS[effect.quantities],
        "example": effect.example,
        "no example": effect.counter_example,
    }
    if as_json:
        print_json(fields)
        return
    for field, text in fields.items():
        print_field(field, str(text))


@command.command("scan", context_settings=_HELP)
@click.argument("names", nargs=-1)
@click.option("--after", metavar="RUN", help="A run of the same chains after a training, for embedding-phantom.")
@seed_option("Seed of the controls.")
@written_options
@html_option
def scan(
    names: tuple[str, ...],
    after: str | None,
    seed: int,
    limit: int,
    details: bool,
    no_graph: bool,
    run: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> Report:
    """Look for effects (all, or those named) in the chains of a run, each beside the share that its control has by chance.

    Writes :Effect nodes with SEEN_IN for every flagged step.

    \b
    trails effects scan
    trails effects scan logit-collapse --limit 20
    trails effects scan embedding-phantom --run r12 --after r7f
    """
    from trails.pipeline import Home

    with Home(**settings_for(home, store)) as opened:
        report = opened.effects(names, after=after, seed=seed, run=run, write=not no_graph).report()
    return tell(report, as_json=as_json, limit=limit, details=details, home=home)
