"""trails remove"""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from trails.cli.common import (
    confirm,
    echo,
    home_option,
    json_option,
    on_terminal,
    print_json,
    settings_from,
    store_option,
    with_home,
)
from trails.errors import UsageError
from trails.platform.text import counted

SHOWN = 10
"""Ids of chains that a dry run prints."""
AGAIN = {
    "State": "trails map",
    "Overlap": "trails overlaps",
    "Gap": "trails gaps",
    "SIMILAR": "trails overlaps",
    "Effect": "trails effects scan",
    "Disagreement": "trails agreement",
    "Response": "trails respond",
}
"""Results that counted the chains, and the command that makes them again."""


@click.command("remove", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("kind", type=click.Choice(["chain", "source", "run", "family"]))
@click.argument("names", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Say what would be removed; change nothing.")
@click.option("--yes", is_flag=True, help="Remove without asking first, including what others attached to the chains.")
@home_option
@store_option
@json_option
def command(
    kind: str, names: tuple[str, ...], dry_run: bool, yes: bool, home: Path | None, store: str | None, as_json: bool
) -> None:
    """Remove chains, sources, families or runs from the shards, the graph and the variants, and everything
    made from them.

    NAMES are ids, beginnings of ids, SOURCE:RECORD, or the numbers of trails chains (#12). There is no undo:
    ingest the same input again to measure it again. It asks first; without a terminal (in a script) it removes nothing
    unless --yes is given.

    \b
    trails remove chain c1f0 --dry-run
    trails remove source gsm8k/test
    trails remove run rb46e --yes
    """
    from trails.pipeline.removing import Kind, remove

    settings = settings_from(home=home, store=store)
    of: Kind = kind  # type: ignore[assignment]  # click.Choice
    found = remove(of, names, settings, dry_run=True)
    if not dry_run:
        # a number (#2) names what was shown, whatever another process did meanwhile
        chains = sorted({chain for chain, _ in found.pairs})
        if not yes:
            what = counted(len(found.pairs), "measured chain")
            if not on_terminal():
                typed = shlex.join(["trails", "remove", kind, *names, "--home", str(settings.home)])
                raise UsageError(
                    f"{what} of {settings.home} would go, and there is no terminal to ask on. Nothing was removed. "
                    f"See what goes: {typed} --dry-run. Remove it: {typed} --yes"
                )
            confirm(f"remove {what} of {settings.home}?", f"nothing was removed from {settings.home}.")
        found = remove(of, chains if of == "chain" else names, settings, force=yes)
    if as_json:
        print_json(
            {
                "dry_run": dry_run,
                "measured_chains": len(found.pairs),
                "chains": found.chains,
                "runs": found.runs,
                "shards": found.shards,
                "derived": found.derived,
                "cleared": found.cleared,
            }
        )
        return
    verb = "would go" if dry_run else "removed"
    left = len({chain for chain, _ in found.pairs}) - len(found.chains)
    stays = f"; {left:,} stay, measured by another run" if left else ""
    echo(f"{verb:<12}{counted(len(found.chains), 'chain')}{stays}")
    if dry_run:
        more = f" and {len(found.chains) - SHOWN:,} more (--json lists all)" if len(found.chains) > SHOWN else ""
        echo(f"{'chains':<12}{', '.join(found.chains[:SHOWN])}{more}" if found.chains else "no chain goes")
    for what, values in (("runs", found.runs), ("derived", found.derived), ("analyses", found.cleared)):
        if values:
            echo(f"{what:<12}{', '.join(values)}")
    if found.cleared:
        again = ", ".join(dict.fromkeys(AGAIN[label] for label in found.cleared))
        echo(with_home(f"            they counted what is gone; make them again: {again}"))
    if not dry_run:
        echo(f"next        trails verify --home {settings.home}")
