"""``trails export``: write a subgraph as training data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from trails.cli.common import (
    echo,
    err,
    home_option,
    json_option,
    print_json,
    seed_option,
    settings_from,
    store_option,
    with_home,
)
from trails.platform.text import counted, percent

if TYPE_CHECKING:
    from trails.export import ExportReport


@click.command("export", context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--subgraph", "selection", metavar="SELECTION", help="Selection to export, in one of the forms listed above."
)
@click.option(
    "--stellator",
    "blocks",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Instead of --subgraph: a file of blocks that select, weigh and order (trails stellator).",
)
@click.option(
    "--format",
    "format_",
    required=True,
    metavar="FORMAT",
    help="Format of the rows: trl, prompt-completion, messages, axolotl, axolotl-segments, llama-factory, "
    "llama-factory-tokens, ms-swift, trails.",
)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write (.jsonl or .parquet), or a folder.",
)
@click.option(
    "--mask",
    default="none",
    show_default=True,
    help="Tokens that are trained on: none = all of them, surprisal<X, entropy<X, role:ROLE, random:SHARE.",
)
@click.option(
    "--weights",
    default="uniform",
    show_default=True,
    help="Weight of each token in the loss: uniform, surprisal, entropy, both, excess:RUN.",
)
@click.option(
    "--order",
    default="shuffled",
    show_default=True,
    help="Order of the rows: shuffled, rising or falling surprisal, rhythm:N, source.",
)
@click.option(
    "--stratify/--no-stratify",
    default=True,
    help="Keep strata (the column family) in proportion in an order by surprisal.",
)
@click.option("--layers", default="", help="Layers that a LoRA changes, 1 … L, e.g. 11-20 (default: all).")
@click.option("--answer", is_flag=True, help="End a chain's text with its final answer (text formats).")
@click.option(
    "--think-tags",
    is_flag=False,
    flag_value="<think>,</think>",
    default="",
    metavar="[OPEN,CLOSE]",
    help="Put marks around a chain's text (text formats); without a value: <think>,</think>.",
)
@click.option(
    "--variants",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Variants to add, which `trails variants` stored: their id (v…) or file.",
)
@click.option(
    "--variants-each",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="With --variants: at most this many of every chain, the first stored (0: all).",
)
@click.option(
    "--refuse",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="File with ids of variants to leave out, one per line.",
)
@click.option(
    "--split",
    default=0.0,
    show_default=True,
    help="Share of the rows to hold out; rows that share a 13-gram stay on one side.",
)
@seed_option("Seed of the shuffle, the split and a random mask.")
@click.option(
    "--run",
    "run_id",
    help="Run whose measured numbers are used (default: the only one without an adapter).",
)
@click.option("--lossy", is_flag=True, help="Write even if the format loses a mask, a weight or the order.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@home_option
@store_option
@json_option
def command(
    selection: str | None,
    blocks: Path | None,
    format_: str,
    output: Path,
    mask: str,
    weights: str,
    order: str,
    stratify: bool,
    layers: str,
    answer: bool,
    think_tags: str,
    variants: Path | None,
    variants_each: int,
    refuse: Path | None,
    split: float,
    seed: int,
    run_id: str | None,
    lossy: bool,
    overwrite: bool,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Write a subgraph as training data, with a data card; every row names the graph elements it came from.

    \b
    SELECTION is one of
      all                        every chain that was measured
      chain:ID                   whole chains (chain:A,B for several)
      between:A,B                from step or token A to B of one chain
      overlap:ID                 the occurrences of an overlap
      gaps>0.9                   steps after a seam with a score above 0.9
      effect:NAME                steps that show an effect (trails effects scan)
      selected:NAME              chains chosen within a budget (trails select)
      roles:IF>THEN>BUT          runs of steps with these roles (>> = later)
      implicit-roles:IF>THEN     the same with a classifier's role where a step has none
      query:NAME{"limit": 50}    a query of the cypher/ library
      FILE.cypher                a read-only statement from a file
      "MATCH … RETURN …"         a read-only statement

    \b
    trails export --subgraph 'roles:IF>THEN>BUT' --format trl -o train.jsonl
    trails export --stellator thought.stellator --format trails -o rows.parquet
    """
    from trails.export import ExportOptions, export_selection, parse_layers, writer_named
    from trails.export.subgraph import needs_graph, select
    from trails.store import open_graph
    from trails.store.traces import TraceStore

    writer_named(format_)
    options = ExportOptions(
        mask=mask,
        weights=weights,
        order=order,
        stratify=stratify,
        layers=parse_layers(layers) if layers else (),
        split=split,
        variants=variants,
        variants_each=variants_each,
        refuse=refuse,
        seed=seed,
        lossy=lossy,
        overwrite=overwrite,
        run=run_id,
        answer=answer,
        think_tags=think_tags,
    )
    if (selection is None) == (blocks is None):
        raise click.UsageError("give --subgraph SELECTION or --stellator FILE, one of the two")
    if blocks is not None:
        from trails.cli.scores import settings_for
        from trails.pipeline import Home
        from trails.pipeline.stellating import exported

        with Home(**settings_for(home, store)) as opened:
            told = exported(opened, blocks, options)
            report = export_selection(told.selection, opened.shards, format_, output, told.options)
        _print(report, as_json, told.objective, told.said)
        return
    settings = settings_from(home=home, store=store)
    assert selection is not None
    with TraceStore(settings.home) as traces:
        graph = open_graph(settings) if needs_graph(selection) else None
        try:
            found = select(graph, traces, selection)
        finally:
            if graph is not None:
                graph.close()
        report = export_selection(found, traces, format_, output, options)
    _print(report, as_json)


def _print(report: ExportReport, as_json: bool, objective: str = "", said: Sequence[str] = ()) -> None:
    counts = report.counts
    if as_json:
        print_json(
            {
                "files": {split_name: str(path) for split_name, path in report.files.items()},
                "card": str(report.card),
                "sha256": report.digest,
                "rows": counts.rows,
                "left_out_without_label": counts.unlabelled,
                "left_out_without_shard": list(report.gone),
                "held_out": counts.held_out,
                "chains": counts.chains,
                "tokens": counts.tokens,
                "tokens_with_loss": counts.labelled,
                "mean_surprisal": counts.mean_surprisal,
                "ends": report.ends,
                "rows_with_answer": report.answered,
                "rows_with_earlier_turns": report.earlier,
                "loads": list(report.loads),
                "lost": list(report.lost),
                "objective": objective,
                "in_training": list(said),
            }
        )
    else:
        made = f" ({counts.variants} of them microvariants)" if counts.variants else ""
        echo(
            f"{counted(counts.rows, 'row')} of {counted(counts.chains, 'chain')}{made}, "
            f"{counts.labelled:,} of {counted(counts.tokens, 'token')} with loss"
            f" (mean surprisal {counts.mean_surprisal:.3f} nats)"
        )
        for split_name, path in report.files.items():
            echo(f"{split_name}: {path}")
        if "held_out" in report.files:
            echo(
                f"held out: {counts.held_out:,} of {counted(counts.rows, 'row')} "
                f"({percent(counts.held_out / max(1, counts.rows))}); versions "
                "of one thing and near copies stay on one side, so the share can differ from --split"
            )
        echo(f"card: {report.card}")
        if counts.unlabelled:
            echo(f"{counted(counts.unlabelled, 'row was', 'rows were')} left out: no token of them carries a label")
        echo(report.ends)
        for line in said:
            echo(line)
        for line in report.loads:
            echo(line)
        if report.settings:
            echo(with_home(f"load with: {report.settings}"))
        if objective:
            echo(with_home(f"train with: trails train {report.files['train']} -o adapter --objective {objective}"))
    for line in report.lost:
        err.print(f"lost: {line}", style="yellow")
