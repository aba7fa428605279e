"""trails bridge"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import device_option, echo, err, home_option, json_option, model_option, print_json, print_rows
from trails.cli.scores import print_scores, run_option, settings_for, shown


@click.command("bridge", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("start")
@click.argument("goal")
@click.option(
    "--budget", type=float, help="Nats: also the fewest extra steps whose transitions all claim to stay under it."
)
@click.option(
    "--neighbours", type=click.IntRange(min=0), default=4, show_default=True, help="Similar steps to glue at."
)
@click.option(
    "--splices", type=click.IntRange(min=1), default=8, show_default=True, help="Random splices to compare with."
)
@model_option
@device_option
@run_option
@home_option
@json_option
def command(
    start: str,
    goal: str,
    budget: float | None,
    neighbours: int,
    splices: int,
    model: str | None,
    device: str | None,
    run: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """The cheapest way between two steps or chains, re-scored as one text by the model.

    START and GOAL are CHAIN:STEP or a chain id (then from its last step, to its first).

    \b
    trails bridge c1f0:2 c77a:1
    trails bridge c1f0 c77a --budget 6
    """
    from trails.pipeline import Home

    with Home(**settings_for(home, None, model=model, device=device)) as opened:
        found = opened.bridge(start, goal, budget=budget, neighbours=neighbours, splices=splices, run=run)
    if as_json:
        print_json(found.record())
        return
    echo(f"from {found.start}: {shown(found.start_text)}")
    echo(f"to   {found.goal}: {shown(found.goal_text)}")
    named = {"claims the smallest worst transition": found.minimax}
    if found.verified is not None and found.minimax is not None and found.verified.steps != found.minimax.steps:
        named["best after re-scoring"] = found.verified
    if budget is not None:
        named[f"fewest extra steps under {budget:g} nats"] = found.fewest
    for name, way in named.items():
        if way is None:
            continue
        rows = [
            ["glued" if glued else "measured", step, shown(text)]
            for glued, step, text in zip(way.glued, way.steps, way.texts, strict=True)
        ]
        print_rows(["edge", "step", "text"], rows, title=f"{name}: {way.n_extra} extra steps")
        print_scores(way.scores, way.withheld)
        if way.keeps_budget is not None:
            echo(f"re-scored, the budget is {'kept' if way.keeps_budget else 'not kept'}")
    for note in found.notes:
        err.print(note)
