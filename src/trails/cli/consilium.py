"""trails consilium"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trails.cli.common import (
    BarProgress,
    device_option,
    home_option,
    json_option,
    settings_from,
    store_option,
)
from trails.cli.ingest import tell_members
from trails.cli.scores import details_option, limit_option, settings_for, tell

if TYPE_CHECKING:
    from trails.config import Settings
    from trails.measure.base import Scorer


@click.command("consilium", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--source", default="", help="Name of the data set, part of the chains' identity (default: the file's name)."
)
@click.option("--limit-chains", type=click.IntRange(min=1), help="Read this many chains and stop.")
@limit_option
@details_option
@device_option
@home_option
@store_option
@json_option
def command(
    file: Path,
    source: str,
    limit_chains: int | None,
    limit: int,
    details: bool,
    device: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Measure the input of FILE with every member (model) that it lists, one after another, and report on what
    they agree.

    A member that fails is reported and the others are kept; the same command again measures only what is missing. FILE is YAML;
    relative paths in it are relative to it:

    \b
    input: [chains.jsonl]
    members:
      - model: ./base
      - {model: ./base, adapter: ./tuned, name: tuned}
      - {model: Qwen/Qwen3-0.6B, dtype: bfloat16, bos: never}

    A member takes model, name, adapter, dtype, device, revision, bos, template, window, attention, control_tokens, think and
    trust_remote_code, as trails ingest does.

    \b
    trails consilium members.yaml
    """
    from trails.pipeline import Home, IngestOptions, scorer_from
    from trails.pipeline.consilium import take
    from trails.readers import ReadOptions

    def scorer(own: Settings, given: Mapping[str, Any]) -> Scorer:
        return scorer_from(own, **given)

    settings = settings_from(home=home, device=device, store=store)
    options = IngestOptions(read=ReadOptions(source=source, limit=limit_chains))
    with BarProgress(quiet=as_json) as progress:
        found = take(file, settings, options, scorer, progress=progress)
    runs = [one.summary.run for one in found if one.summary is not None]
    if len(runs) > 1:
        with Home(**settings_for(home, store)) as opened:
            report = opened.agreement(runs).report()
        tell(report, as_json=as_json, limit=limit, details=details, home=home)
    tell_members(found, as_json=as_json, quiet=as_json)
