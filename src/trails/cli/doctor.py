"""trails doctor"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from trails.cli.common import (
    device_option,
    echo,
    home_option,
    json_option,
    model_option,
    print_json,
    settings_from,
    store_option,
    with_home,
)

MARKS = {"ok": "✓", "missing": "✗", "broken": "✗", "absent": "–"}


@click.command("doctor", context_settings={"help_option_names": ["-h", "--help"]})
@home_option
@model_option
@device_option
@store_option
@json_option
def command(home: Path | None, model: str | None, device: str | None, store: str | None, as_json: bool) -> None:
    """Versions, model, device, stores; what is missing, and the command that installs it. The exit code is 1
    if something necessary is missing."""
    from trails.pipeline.doctor import examine, healthy

    findings = list(examine(settings_from(home=home, model=model, device=device, store=store)))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            repair = f"  → {with_home(finding.repair)}" if finding.repair and finding.state != "ok" else ""
            echo(f"{MARKS[finding.state]} {finding.name:<15} {finding.found}{repair}")
    if not healthy(findings):
        raise click.exceptions.Exit(1)
