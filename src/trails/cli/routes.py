"""``trails routes``: rows sent to the adapter of their role."""

from __future__ import annotations

from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.common import device_option, home_option, json_option, model_option, print_json, settings_from
from trails.cli.scores import html_option, print_report


@click.command("routes", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("adapters", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.argument("rows", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--export",
    "exported",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Rows that were trained on: their chains are left out.",
)
@click.option("--force", is_flag=True, help="Take rows that were measured with other weights than the model's.")
@model_option
@device_option
@home_option
@json_option
@html_option
def command(
    adapters: Path,
    rows: Path,
    exported: Path | None,
    force: bool,
    model: str | None,
    device: str | None,
    home: Path | None,
    as_json: bool,
) -> Report:
    """Send each of the ROWS of a course to the adapter of its role, of the folder ADAPTERS that `trails train --roles` wrote.

    The surprisal of the rows is compared with that of one adapter of as many parameters, random routes, the
    weighted sum of the roles, and the untrained model. ROWS is the file of another course: the files of its
    roles lie beside it.

    \b
    trails genome export course.genome.yaml --format trails -o course
    trails train course/train.jsonl --roles -o adapters
    trails genome export other.genome.yaml --format trails -o other
    trails routes adapters other/train.jsonl --export course/train.jsonl
    """
    from trails.pipeline.training import route_rows

    settings = settings_from(home=home, model=model, device=device)
    found = route_rows(settings, adapters, rows, trained=exported, force=force)
    report = found.report()
    if as_json:
        print_json(report.record())
        return report
    print_report(report, limit=None)
    return report
