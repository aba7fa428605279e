"""``trails diff``: what a training changed, compared with the noise floor."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from trails.analyses.report import Report
from trails.cli.common import (
    BarProgress,
    device_option,
    echo,
    home_option,
    json_option,
    print_json,
    print_rows,
    run_model_option,
    store_option,
    with_home,
)
from trails.cli.scores import html_option, pairs_option, print_table, settings_for, shown


@click.command("diff", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("before", required=False)
@click.argument("after", required=False)
@click.option(
    "--adapter",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Folder of an adapter: measure the chains of BEFORE with it now, as the run to compare with.",
)
@click.option(
    "--export",
    "exported",
    type=click.Path(path_type=Path, exists=True),
    help="Export that was trained on; its chains are reported apart from the others.",
)
@click.option("--unrelated", multiple=True, help="Source whose chains are unrelated text (as in `trails status`).")
@click.option(
    "--noise",
    type=click.IntRange(min=0),
    default=8,
    show_default=True,
    help="Number of chains that are measured twice for the noise floor.",
)
@click.option(
    "--kl",
    type=click.IntRange(min=0),
    default=16,
    show_default=True,
    help="Number of chains of each group on which KL is computed.",
)
@click.option("--checkpoints", is_flag=True, help="Also compare every checkpoint of the adapter.")
@click.option(
    "--stellator",
    "blocks",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Also judge the claims of this file of blocks, before and after.",
)
@pairs_option
@click.option(
    "--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Print at most this many transitions."
)
@run_model_option
@device_option
@home_option
@store_option
@json_option
@html_option
def command(
    before: str | None,
    after: str | None,
    adapter: Path | None,
    exported: Path | None,
    unrelated: tuple[str, ...],
    noise: int,
    kl: int,
    checkpoints: bool,
    blocks: Path | None,
    pairs: int,
    limit: int,
    model: str | None,
    device: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> Report:
    """Compare two runs on the same chains: BEFORE and AFTER, or BEFORE and a new run of its chains with an --adapter.

    With --adapter every chain of the first run is measured once more with the adapter, and stored in shards
    and graph as a second run. Cypher can then compare the two.

    \b
    trails diff --adapter adapter --export rows.parquet --unrelated wikipedia_en
    trails diff r0123 r4567
    """
    from trails.analyses.score import span_text
    from trails.evaluate.diff import LEGENDS
    from trails.pipeline import Home

    with Home(**settings_for(home, store, model=model, device=device)) as opened, BarProgress(quiet=as_json) as bar:
        if blocks is not None:
            from trails.stellator import check_file

            check_file(blocks, opened.settings.home)  # before the measuring, not after it
        found = opened.diff(
            before,
            after,
            adapter=adapter,
            export=exported,
            unrelated=unrelated,
            noise=noise,
            kl=kl,
            checkpoints=checkpoints,
            top=limit,
            progress=bar,
        )
        after_adapter = opened.run(found.report.after).adapter
        stated = None
        if blocks is not None:
            from trails.pipeline.stellating import compared

            stated = compared(opened, blocks, found.report.before, found.report.after, adapter=adapter, pairs=pairs)
    report = found.report
    told = found.told() if stated is None else replace(found.told(), parts={"stellator": stated})
    if as_json:
        print_json(found.record() | ({"stellator": stated.record()} if stated is not None else {}))
        return told
    for sentence in found.verdicts():
        echo(sentence)
    print_rows(
        ["group", "chains", "change", "95 %", "before", "after", "entropy", "easier", "harder", "tokens"],
        [
            [
                g.group,
                g.chains,
                g.surprisal,
                span_text((g.low, g.high)),
                g.before,
                g.after,
                g.entropy,
                g.easier,
                g.harder,
                g.tokens,
            ]
            for g in report.groups
        ],
        title=f"{report.before} → {report.after}{f' (adapter {after_adapter})' if after_adapter else ''}",
    )
    echo(LEGENDS["groups"])
    floor = (
        "not measured"
        if report.noise != report.noise
        else f"at most {report.noise:.2g}, mean {report.noise_mean:.2g} nats"
    )
    echo(f"noise floor of the same model measured twice: {floor}")
    if report.layers:
        top = sorted(report.layers, key=lambda layer: -layer.hidden)[:6]
        print_rows(
            ["layer", "hidden", "noise", "attention", "noise of attention"],
            [[x.layer, x.hidden, x.hidden_noise, x.attention, x.attention_noise] for x in top],
            title="layers that moved most",
        )
        echo(LEGENDS["layers"])
    for name, moved in (("easier", report.easier), ("harder", report.harder)):
        if moved:
            print_rows(
                ["token", "piece", "after the text", "group", "before", "after"],
                [[t.token, shown(t.piece, 20), shown(t.context, 44), t.group, t.before, t.after] for t in moved],
                title=f"transitions that became {name}",
            )
    if found.checkpoints:
        keys = list(found.checkpoints[0])
        rows = [[row[key] for key in keys] for row in found.checkpoints]
        print_rows(keys, rows, title=found.looked_at())
        echo(LEGENDS["checkpoints"])
    for note in found.notes:
        if note not in LEGENDS.values():
            echo(note)
    if stated is not None:
        (table,) = stated.tables
        headings, rows = table.view()
        if rows:
            print_table(headings, rows, table.title)
        echo(stated.verdict)
        for note in stated.notes:
            echo(with_home(note))
    return told
