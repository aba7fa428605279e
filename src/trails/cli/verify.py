"""trails verify"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import echo, home_option, json_option, print_json, settings_from, store_option
from trails.platform.text import counted


@click.command("verify", context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--set-aside", is_flag=True, help="Move damaged shards into the home's folder damaged.")
@home_option
@store_option
@json_option
def command(set_aside: bool, home: Path | None, store: str | None, as_json: bool) -> None:
    """Check every shard against its name and the graph against the shards. The exit code is 1 if anything differs.

    A damaged shard is never read. Set it aside and ingest the same input again: only its chains are measured again.
    """
    from dataclasses import asdict

    from trails.pipeline import verify

    verdict = verify(settings_from(home=home, store=store), set_aside=set_aside)
    if as_json:
        print_json(asdict(verdict))
    else:
        echo(
            f"shards      {counted(verdict.chains, 'measured chain')}, content {verdict.content}, values {verdict.values}"
        )
        echo(f"expected    {verdict.expected}")
        echo(f"graph       {verdict.graph}")
        for difference in verdict.differences:
            echo(f"differs     {difference}")
        for number, step in enumerate(verdict.advice, start=1):
            echo(f"{'then' if number > 1 else 'now':<12}{step}")
        if not verdict.differences:
            echo("the graph holds what the shards hold")
    if verdict.differences:
        raise click.exceptions.Exit(1)
