"""trails show"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import echo, err, home_option, json_option, out, print_json, settings_from
from trails.errors import UsageError
from trails.report.terminal import MEASURES, render_chain, render_comparison, trace_record


@click.command("show", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("chains", metavar="CHAIN [CHAIN]", nargs=-1, required=True)
@click.option(
    "--run",
    help="Run whose numbers are shown: its id or the beginning of it (default: the only one without an adapter).",
)
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
@click.option(
    "--alternatives", is_flag=True, help="Also list the items that the model held most likely at every token."
)
@click.option(
    "--svg",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the chain and its drift map as vector graphics, coloured by --measure, and print nothing else.",
)
@click.option(
    "--png",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the chain and its drift map as a bitmap; needs the package resvg-py.",
)
@click.option(
    "--first",
    type=click.IntRange(min=0),
    help="First token of the strip of --svg or --png, which holds 2,000 (default: 0).",
)
@click.option("--overwrite", is_flag=True, help="Replace the file of --svg or --png if it exists.")
@home_option
@json_option
def command(
    chains: tuple[str, ...],
    run: str | None,
    measure: str,
    layer: int | None,
    numbers: bool,
    implicit: bool,
    alternatives: bool,
    svg: Path | None,
    png: Path | None,
    first: int | None,
    overwrite: bool,
    home: Path | None,
    as_json: bool,
) -> None:
    """One chain in the terminal: its steps with roles, every token coloured, the strongest step-to-step attention.

    CHAIN is named in any way that trails chains shows: an id, the beginning of one, SOURCE:RECORD, #12.
    Two chains are also shown side by side.

    \b
    trails show c1f0
    trails show c1f0 --measure hidden_shift --layer 17 --numbers
    trails show c1f0 --alternatives
    trails show c1f0 --measure hidden_shift --svg chain.svg
    """
    from trails.pipeline import Home

    pictures = [(name, path) for name, path in (("svg", svg), ("png", png)) if path is not None]
    if not pictures and (first is not None or overwrite):
        raise UsageError("--first and --overwrite are about the file of --svg or --png. Give it: --svg FILE")
    if pictures and len(chains) > 1:
        raise UsageError(f"--{pictures[0][0]} draws one chain, {len(chains)} were given. Write one file for each")
    if len(pictures) == 2 and pictures[0][1].resolve() == pictures[1][1].resolve():
        raise UsageError(f"--svg and --png both name {svg}. Give each a file of its own")
    if pictures:
        from trails.report.html import check_free

        for _, path in pictures:  # before the work, and before one of two is written
            check_free(path, overwrite=overwrite)
    with Home(home, **settings_from(home=home).model_dump(include={"store"})) as opened:
        instrument = opened.run(run)
        traces = [opened.trace(chain, instrument.id) for chain in chains]
        if pictures:
            from trails.report.svg import left_out, write_png, write_svg

            written = []
            told = left_out(traces[0], first or 0)
            for name, path in pictures:
                draw = write_svg if name == "svg" else write_png
                size = draw(
                    path, traces[0], instrument, measure=measure, layer=layer, first=first or 0, overwrite=overwrite
                )
                written.append(
                    {"path": str(path), "bytes": size, "chain": traces[0].chain.id, "left_out": told or None}
                )
            if as_json:
                print_json(written if len(written) > 1 else written[0])
            else:
                for one in written:
                    echo(f"{one['path']}: {one['bytes']:,} bytes")
                if told:
                    err.print(told)
            return
        if as_json:
            records = [
                trace_record(trace, instrument, measure=measure, layer=layer, expected=alternatives) for trace in traces
            ]
            print_json(records if len(records) > 1 else records[0])
            return
        for trace in traces:
            out().print(
                render_chain(
                    trace,
                    instrument,
                    measure=measure,
                    layer=layer,
                    numbers=numbers,
                    implicit=implicit,
                    expected=alternatives,
                )
            )
        if len(traces) == 2:
            out().print(render_comparison(*traces))
