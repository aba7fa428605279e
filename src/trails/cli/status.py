"""trails status"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from trails.cli.common import (
    echo,
    home_option,
    json_option,
    print_field,
    print_json,
    settings_from,
    store_option,
    with_home,
)
from trails.platform.text import counted, one_line


@click.command("status", context_settings={"help_option_names": ["-h", "--help"]})
@home_option
@store_option
@json_option
def command(home: Path | None, store: str | None, as_json: bool) -> None:
    """What the home and the graph hold: runs, chains, languages, roles, bytes, and what to run next."""
    from trails.store import status as stores
    from trails.store.corrections import fitting_line
    from trails.store.resolve import chains_without_shard

    settings = settings_from(home=home, store=store)
    found = stores.status(settings)
    if as_json:
        project = {name: str(value) for name, value in settings.project.items()}
        print_json(stores.as_json(found) | {"next": with_home(found.advice), "project": project})
        return
    if settings.project:
        listed = ", ".join(f"{name} = {value}" for name, value in sorted(settings.project.items()))
        echo(f"trails.toml the file in this folder sets {listed}")
    shards = found.shards
    tokens = sum(shards.tokens.values())
    held = f"{counted(shards.n_chains, 'chain')} in {counted(shards.n_shards, 'shard')}, {_size(shards.n_bytes)}"
    print_field("home", f"{one_line(found.home)}: {held}")
    if tokens:
        print_field("", f"{counted(tokens, 'token')} in measured chains, {shards.n_bytes / tokens:,.0f} bytes a token")
    for run_id, run in found.runs.items():
        adapter = f" + adapter {run.adapter}" if run.adapter else ""
        adapter += " + intervention" if run.intervention else ""
        chains, of_run = shards.chains.get(run_id, 0), shards.tokens.get(run_id, 0)
        called = f"{one_line(run.name)}: " if run.name else ""
        held = f"{counted(chains, 'chain')}, {counted(of_run, 'token')}"
        print_field("run", f"{run_id}  {called}{one_line(run.model)}{adapter}, {run.dtype}: {held}")
    for line in found.undescribed:
        print_field("missing", line)
    for name, counts in (("sources", shards.sources), ("languages", shards.languages), ("roles", shards.roles)):
        if counts:
            print_field(name, _listed(counts))
    if shards.corrections[1]:
        print_field("corrected", fitting_line(*shards.corrections))
    size = f", {_size(found.graph_bytes)}" if found.graph_bytes else ""
    shared = f", shared by {found.homes:,} homes, together:" if found.homes > 1 else ""
    print_field("graph", f"{found.graph}{size}{shared}")
    if found.graph_problem:
        print_field("", f"{found.graph_problem}")
    elif found.counts:
        print_field("", f"{_listed(found.counts)}")
    if found.missing:
        print_field(
            "",
            f"{counted(found.missing, 'measured chain is', 'measured chains are')} in the shards and not in the graph as this "
            "home's",
        )
    if found.surplus:
        print_field("missing", chains_without_shard(found.surplus))
    echo(f"next        {with_home(found.advice)}")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{one_line(name) or 'unknown'} {count:,}" for name, count in counts.items())


def _size(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{counted(count, 'byte')}"
