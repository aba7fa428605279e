"""trails rename"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import echo, home_option, settings_from, store_option


@click.command("rename", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("kind", type=click.Choice(["run"]))
@click.argument("run")
@click.argument("name")
@home_option
@store_option
def command(kind: str, run: str, name: str, home: Path | None, store: str | None) -> None:
    """Give a run a NAME; it is accepted wherever the run's id is. An empty NAME removes the name.

    \b
    trails rename run rb46e base
    trails query most-surprising -p run=base
    """
    from trails.pipeline.removing import rename_run

    renamed = rename_run(run, name, settings_from(home=home, store=store))
    echo(f"run         {renamed.id}  {renamed.name or '(no name)'}  {renamed.model}")
