"""trails overlaps"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.scores import (
    html_option,
    settings_for,
    tell,
    written_options,
)
from trails.errors import UsageError

OF_KIND = {"min_tokens": ("exact", "masked"), "min_steps": ("skeleton",), "layer": ("near",)}
"""The kinds that an option is for."""


@click.command("overlaps", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--kind",
    type=click.Choice(["exact", "masked", "near", "skeleton"]),
    default="exact",
    show_default=True,
    help="Units to compare: tokens; tokens with numbers and names masked; steps in whitened hidden space; roles "
    "of steps.",
)
@click.option(
    "--min-tokens",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Shortest repeat that counts, in tokens (--kind exact, masked).",
)
@click.option(
    "--min-steps",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="Shortest repeat of roles that counts, in steps (--kind skeleton).",
)
@click.option(
    "--implicit", is_flag=True, help="Give steps without a role their implicit one, if its p >= 0.6 (--kind skeleton)."
)
@click.option("--between", nargs=2, metavar="A B", help="Only overlaps that these two chains share.")
@click.option("--layer", type=int, help="Layer of the stored states for --kind near (default: nearest the middle).")
@written_options
@html_option
def command(
    kind: str,
    min_tokens: int,
    min_steps: int,
    implicit: bool,
    between: tuple[str, str] | None,
    layer: int | None,
    limit: int,
    details: bool,
    no_graph: bool,
    run: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> Report:
    """Passages that chains share, compared with those that chance alone produces.

    Overlaps that lie inside longer ones wherever they occur are not printed (--json has them, marked as nested).
    Writes the overlaps to the graph as :Overlap nodes; those of the same run and options are replaced.

    \b
    trails overlaps
    trails overlaps --kind masked --min-tokens 15
    trails overlaps --kind skeleton --limit 20
    trails overlaps --kind skeleton --implicit --no-graph
    """
    from trails.pipeline import Home

    context = click.get_current_context()
    for name, kinds in OF_KIND.items():
        if kind not in kinds and context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(
                f"{flag} does nothing for --kind {kind}. Leave it out, or give --kind {' or '.join(kinds)}."
            )
    with Home(**settings_for(home, store)) as opened:
        instrument = opened.run(run)
        found = opened.overlaps(
            kind,  # type: ignore[arg-type]  # click.Choice guarantees one of the kinds
            min_tokens=min_tokens,
            min_steps=min_steps,
            layer=layer,
            run=instrument.id,
            write=not no_graph,
            implicit=implicit,
        )
        shared = found.between(*(opened.trace(name, instrument.id).chain.id for name in between)) if between else found
    report = shared.report()
    if no_graph:  # the lines to run select by the overlap's node, which was not written
        report = replace(report, commands=())
    return tell(report, as_json=as_json, limit=limit, details=details, home=home)
