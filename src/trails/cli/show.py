"""trails show"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import home_option, json_option, out, print_json, settings_from
from trails.report.terminal import MEASURES, render_chain, render_comparison, trace_record


@click.command("show", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("chains", metavar="CHAIN [CHAIN]", nargs=-1, required=True)
@click.option("--run", help="Run whose numbers are shown: its id or the beginning of it (default: the only one).")
@click.option(
    "--measure",
    type=click.Choice(MEASURES),
    default="surprisal",
    show_default=True,
    help="Measure that colours the tokens.",
)
@click.option(
    "--layer",
    type=int,
    help="Layer of a per-layer measure, 1 … L, and 0 (input embeddings) of hidden_shift (default: mean over layers).",
)
@click.option("--numbers", is_flag=True, help="Print every token on its own with its value below it.")
@click.option(
    "--implicit", is_flag=True, help="Show implicit roles of p >= 0.6, in parentheses, where a step has no role."
)
@home_option
@json_option
def command(
    chains: tuple[str, ...],
    run: str | None,
    measure: str,
    layer: int | None,
    numbers: bool,
    implicit: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """One chain in the terminal: its steps with roles, every token coloured, the strongest step-to-step attention.

    CHAIN is an id, a unique beginning of one, or SOURCE:RECORD. Two chains are also shown side by side.

    \b
    trails show c1f0
    trails show c1f0 --measure hidden_shift --layer 17 --numbers
    """
    from trails.pipeline import Home

    with Home(home, **settings_from(home=home).model_dump(include={"store"})) as opened:
        instrument = opened.run(run)
        traces = [opened.trace(chain, instrument.id) for chain in chains]
        if as_json:
            records = [trace_record(trace, instrument, measure=measure, layer=layer) for trace in traces]
            print_json(records if len(records) > 1 else records[0])
            return
        for trace in traces:
            out().print(
                render_chain(trace, instrument, measure=measure, layer=layer, numbers=numbers, implicit=implicit)
            )
        if len(traces) == 2:
            out().print(render_comparison(*traces))
