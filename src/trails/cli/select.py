"""trails select"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trails.analyses.report import Report
from trails.cli.common import home_option, json_option, print_json, seed_option, store_option
from trails.cli.scores import details_option, html_option, limit_option, print_report, run_option, settings_for


@click.command("select", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--budget", type=click.IntRange(min=1), required=True, help="Most tokens of the chosen chains together.")
@click.option(
    "--by",
    type=click.Choice(["random", "perplexity", "length", "diversity", "overlap", "gaps", "reaction", "learnability"]),
    required=True,
    metavar="WAY",
    help="random, perplexity, length, diversity, overlap, gaps, reaction or learnability; see docs/response.md.",
)
@click.option("--pool", default="all", show_default=True, help="Selection to choose from.")
@click.option("--reverse", is_flag=True, help="Reverse the order: the most surprising, the longest, … first.")
@click.option("--layer", type=int, help="With diversity: layer of the states (default: the middle one that is stored).")
@click.option("--after", metavar="RUN", help="With learnability: a run of the same chains after a probe training.")
@seed_option("Seed of the random order and of ties.")
@limit_option
@details_option
@run_option
@home_option
@store_option
@json_option
@html_option
def command(limit: int, details: bool, home: Path | None, store: str | None, as_json: bool, **given: Any) -> Report:
    """Choose chains within a budget of tokens, as a selection that can be exported: selected:NAME.

    The choice is compared with 20 random choices of the same budget. perplexity takes the least surprising
    first, length the shortest,
    overlap the chain with the most new windows of four tokens, diversity facility location over states, gaps the largest
    gaps, reaction the chains that make unseen probes likeliest (trails respond), learnability those that a probe training
    (--after) made likeliest.

    \b
    trails select --budget 20000 --by overlap
    trails select --budget 20000 --by perplexity --reverse --pool source:gsm8k
    trails export --subgraph selected:NAME --format trl -o train.jsonl
    """
    from trails.pipeline import Home

    with Home(**settings_for(home, store)) as opened:
        report = opened.select_within(**given).report()
    if as_json:
        print_json(report.record())
    else:
        print_report(report, limit=limit, details=details, home=home)
    return report
