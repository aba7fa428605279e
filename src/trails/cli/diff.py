"""``trails diff``: what a training changed, beside the noise floor."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from trails.cli.common import (
    device_option,
    err,
    home_option,
    json_option,
    model_option,
    print_json,
    print_rows,
    settings_from,
    store_option,
)
from trails.cli.scores import scorer_like, settings_for


@click.command("diff", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("before", required=False)
@click.argument("after", required=False)
@click.option("--adapter", type=click.Path(path_type=Path, file_okay=False, exists=True), help="Measure with this now.")
@click.option("--export", "exported", type=click.Path(path_type=Path, exists=True), help="What was trained on.")
@click.option("--unrelated", multiple=True, help="Source whose chains are unrelated text (as in `trails status`).")
@click.option("--noise", type=click.IntRange(min=0), default=8, show_default=True, help="Chains measured twice.")
@click.option("--kl", type=click.IntRange(min=0), default=16, show_default=True, help="Chains of each group for KL.")
@click.option("--checkpoints", is_flag=True, help="Also every checkpoint of the adapter.")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Transitions to print.")
@model_option
@device_option
@home_option
@store_option
@json_option
def command(
    before: str | None,
    after: str | None,
    adapter: Path | None,
    exported: Path | None,
    unrelated: tuple[str, ...],
    noise: int,
    kl: int,
    checkpoints: bool,
    limit: int,
    model: str | None,
    device: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Compare two runs on the same chains: BEFORE and AFTER, or one run and what an --adapter makes of its chains.

    With --adapter every chain of the first run is measured once more, with the adapter, into the shards and the graph as a
    second run; then the same questions can be asked of both in Cypher.

    \b
    trails diff --adapter adapter --export rows.parquet --unrelated wikipedia_en
    trails diff r0123 r4567
    """
    from trails.diff import compare, repetition_alarm, verdict
    from trails.measure import open_scorer
    from trails.measure.base import MeasureOptions, Segmented
    from trails.pipeline import Home
    from trails.store import open_graph
    from trails.store.rows import graph_batch
    from trails.store.traces import TraceStore
    from trails.train import check_adapter

    if (adapter is None) == (after is None):
        raise click.UsageError("give two runs, or one run (or none, if there is only one) and --adapter FOLDER.")
    if adapter is not None:
        check_adapter(adapter)
    with Home(**settings_for(home, store)) as opened:
        plain = [run_id for run_id, run in opened.runs().items() if not run.adapter]
        first = opened.run(before or (plain[0] if len(plain) == 1 else None))
        groups = _groups(opened, first.id, exported, unrelated)
        folder = opened.settings.home
        second = opened.run(after).id if after else ""
    settings = settings_from(home=home, store=store, model=model, device=device, dtype=first.dtype)
    if adapter is not None:
        trained = open_scorer(
            settings.model,
            device=settings.device,
            dtype=settings.dtype,
            bos=first.bos,
            template=first.template,
            window=first.window,
            adapter=adapter,
        )
        if (trained.run.revision, trained.run.tokenizer) != (first.revision, first.tokenizer):
            raise click.UsageError(f"the model of {first.id} is {first.model} with other weights. Give --model.")
        second = trained.run.id
        with TraceStore(folder, write=True) as shards, open_graph(settings) as graph:
            graph.ensure_schema()
            shards.put_run(trained.run)
            missing = shards.done(first.id) - shards.done(second)
            block: list[Any] = []
            for number, trace in enumerate(list(shards.traces(first.id, missing)), 1):
                block += trained.measure([Segmented(trace.chain, trace.steps)], MeasureOptions())
                if len(block) == 100 or number == len(missing):
                    shards.write(block)
                    graph.write([graph_batch(block, shards.runs())])
                    block = []
                    err.print(f"measured {number} of {len(missing)} chains with the adapter", highlight=False)
            graph.save()
        del trained
    with TraceStore(folder) as shards:
        again: list[Any] = []
        base: Any = scorer_like(first, home=home, model=model, device=device) if noise or (adapter and kl) else None
        if noise:
            sample = [t for _, t in zip(range(noise), shards.traces(first.id), strict=False)]
            # together in batches, where the run measured them one by one
            items = [Segmented(t.chain, t.steps) for t in sample]
            again = base.measure(items, MeasureOptions(batch_tokens=4096))
        report = compare(shards.traces(first.id), shards.traces(second), groups, again=again, top=limit)
        light = _light(base, adapter, shards, first.id, groups, kl, checkpoints) if adapter and kl else []
    alarms = [*report.alarms]
    for row in light:
        if (
            row["step"] == light[-1]["step"]
            and row["repetition"] is not None
            and (alarm := repetition_alarm(light[0]["repetition"], row["repetition"]))
        ):
            alarms.append(alarm)
    if as_json:
        print_json(
            {
                "before": report.before,
                "after": report.after,
                "noise": report.noise,
                "noise_mean": report.noise_mean,
                "groups": [{n: getattr(g, n) for n in g.__slots__} for g in report.groups],
                "layers": [{n: getattr(x, n) for n in x.__slots__} for x in report.layers],
                "easier": [{n: getattr(t, n) for n in t.__slots__} for t in report.easier],
                "harder": [{n: getattr(t, n) for n in t.__slots__} for t in report.harder],
                "checkpoints": light,
                "alarms": alarms,
            }
        )
        return
    print_rows(
        ["group", "chains", "tokens", "before", "after", "change", "low", "high", "entropy", "easier", "harder"],
        [
            [g.group, g.chains, g.tokens, g.before, g.after, g.surprisal, g.low, g.high, g.entropy, g.easier, g.harder]
            for g in report.groups
        ],
        title=f"{report.before} → {report.after}: surprisal, nats per token (95 % interval over chains)",
    )
    floor = (
        "not measured"
        if report.noise != report.noise
        else f"at most {report.noise:.2g}, mean {report.noise_mean:.2g} nats"
    )
    click.echo(f"noise floor of the same model measured twice: {floor}")
    for group in report.groups:
        click.echo(verdict(group, report.noise_mean))
    if report.layers:
        top = sorted(report.layers, key=lambda layer: -layer.hidden)[:6]
        print_rows(
            ["layer", "hidden", "noise", "attention", "noise of attention"],
            [[x.layer, x.hidden, x.hidden_noise, x.attention, x.attention_noise] for x in top],
            title="layers that moved most: mean absolute change of hidden_shift and attention_shift",
        )
    for name, moved in (("easier", report.easier), ("harder", report.harder)):
        print_rows(
            ["token", "piece", "after the text", "group", "before", "after"],
            [[t.token, t.piece, t.context, t.group, t.before, t.after] for t in moved],
            title=f"transitions that became {name}",
        )
    if light:
        keys = list(light[0])
        print_rows(
            keys, [[row[key] for key in keys] for row in light], title="by checkpoint (0 = base), nats per token"
        )
    for alarm in alarms:
        click.echo(f"alarm: {alarm}")


def _groups(opened: Any, run: str, exported: Path | None, unrelated: tuple[str, ...]) -> dict[str, str]:
    """Group of every chain: trained and held out by the export's files, unseen by source, unrelated by name."""
    trained: set[str] = set()
    held: set[str] = set()
    if exported is not None:
        trained = _chains(exported)
        beside = exported.with_name(f"{exported.stem}.held_out{exported.suffix}")
        held = _chains(beside) if beside.is_file() else set()
    sources: dict[str, str] = {}
    for table in opened.shards.tables(["chain", "source"], run):
        sources |= dict(zip(table["chain"].to_pylist(), table["source"].to_pylist(), strict=True))
    families = {sources[chain] for chain in trained if chain in sources}
    groups = {}
    for chain, source in sources.items():
        if chain in trained:
            groups[chain] = "trained"
        elif any(source == name or source.endswith(f"/{name}") for name in unrelated):
            groups[chain] = "unrelated"
        elif chain in held or source in families or not trained:
            groups[chain] = "held_out"
        else:
            groups[chain] = "unseen"
    return groups


def _chains(path: Path) -> set[str]:
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        return set(pq.read_table(path, columns=["chain"])["chain"].to_pylist())
    return {json.loads(line)["chain"] for line in path.read_text(encoding="utf-8").splitlines()}


def _light(
    base: Any, adapter: Path, shards: Any, run: str, groups: dict[str, str], count: int, checkpoints: bool
) -> list[dict[str, Any]]:
    """Surprisal by group, KL from the base and repetition, for the base, every checkpoint and the adapter."""
    from trails.train import put_adapter
    from trails.train.probe import continuations, mean_kl, mean_nll, probe, repetition, text_row

    chosen: dict[str, list[Any]] = {}
    for trace in shards.traces(run):
        group = groups.get(trace.chain.id, "held_out")
        if len(chosen.setdefault(group, [])) < count:
            chosen[group].append(text_row(base.tokenizer, trace.chain.text, trace.chain.question, max_tokens=1024))
    folders = (
        {int(p.name.rpartition("-")[2]): p for p in (adapter / "checkpoints").glob("checkpoint-*")}
        if checkpoints
        else {}
    )
    steps = json.loads((adapter / "train.json").read_text())["steps"] if (adapter / "train.json").is_file() else 1
    folders[steps] = adapter
    prompts = [row["input_ids"][:32] for rows in chosen.values() for row in rows[:2]]
    rows_out: list[dict[str, Any]] = []
    current: Any = base.model
    for step, folder in [(0, None), *sorted(folders.items())]:
        if folder is not None:
            current = put_adapter(current, folder, f"s{step}")
        row: dict[str, Any] = {"step": step}
        for group, rows in chosen.items():
            found = probe(current, rows, compare=folder is not None)
            row[f"nll {group}"] = mean_nll(found)
            row[f"kl {group}"] = mean_kl(found) if folder is not None else 0.0
        made = continuations(current, prompts, 48)
        row["repetition"] = sum(map(repetition, made)) / max(len(made), 1)
        rows_out.append(row)
    return rows_out
