"""trails verify"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import echo, home_option, json_option, print_json, settings_from, store_option


@click.command("verify", context_settings={"help_option_names": ["-h", "--help"]})
@home_option
@store_option
@json_option
def command(home: Path | None, store: str | None, as_json: bool) -> None:
    """Check every shard against its name and the graph against the shards. Exit code 1 if anything differs."""
    from dataclasses import asdict

    from trails.pipeline import verify

    verdict = verify(settings_from(home=home, store=store))
    if as_json:
        print_json(asdict(verdict))
    else:
        echo(f"shards      {verdict.chains:,} measured chains, content {verdict.content}, values {verdict.values}")
        echo(f"expected    {verdict.expected}")
        echo(f"graph       {verdict.graph}")
        for difference in verdict.differences:
            echo(f"differs     {difference}")
        echo(
            "the graph holds what the shards hold" if not verdict.differences else "load again: trails rebuild --fresh"
        )
    if verdict.differences:
        raise click.exceptions.Exit(1)
