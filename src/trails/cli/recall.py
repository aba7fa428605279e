"""``trails recall``: does a model recall how unseen chains end?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from trails.cli.common import device_option, home_option, json_option, model_option, print_json, print_rows
from trails.cli.scores import run_option, scorer_like, settings_for


@click.command("recall", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("selection")
@click.option(
    "--adapter", required=True, type=click.Path(path_type=Path, file_okay=False, exists=True), help="The trained one."
)
@click.option(
    "--shuffled",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Control: an adapter of `trails train --shuffle-steps` on the same export.",
)
@click.option(
    "--max-tokens", type=click.IntRange(min=0), default=1024, show_default=True, help="Leave out longer chains."
)
@run_option
@model_option
@device_option
@home_option
@json_option
def command(
    selection: str,
    adapter: Path,
    shuffled: Path | None,
    max_tokens: int,
    run: str | None,
    model: str | None,
    device: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Prefix to conclusion on the chains of a SELECTION that were not trained on, against the untrained model.

    \b
    trails train rows.parquet -o adapter
    trails train rows.parquet -o control --shuffle-steps
    trails recall held-out.cypher --adapter adapter --shuffled control
    """
    from trails.measure.base import Segmented
    from trails.pipeline import Home
    from trails.recall import conclusion_row, recall, summary, verdict
    from trails.train import check_adapter, put_adapter

    for folder in filter(None, (adapter, shuffled)):
        check_adapter(folder)
    with Home(**settings_for(home, None)) as opened:
        plain = [run_id for run_id, known in opened.runs().items() if not known.adapter]
        instrument = opened.run(run or (plain[0] if len(plain) == 1 else None))
        traces = opened.shards.traces(instrument.id, opened.select(selection).chains)
        items = [Segmented(trace.chain, trace.steps) for trace in traces]
    scorer: Any = scorer_like(instrument, home=home, model=model, device=device)
    rows = [row for item in items if (row := conclusion_row(scorer.tokenizer, item, max_tokens)) is not None]
    if not rows:
        raise click.UsageError(
            f"selection {selection!r} holds no chain of two steps or more within {max_tokens} tokens."
        )
    results = {"untrained": recall(scorer.model, rows)}
    peft_model = put_adapter(scorer.model, adapter, "trained")
    results["trained"] = recall(peft_model, rows)
    if shuffled is not None:
        peft_model = put_adapter(peft_model, shuffled, "shuffled")
        results["shuffled"] = recall(peft_model, rows)
    found = summary(results)
    sentence = verdict(found, "trained", [name for name in results if name != "trained"])
    if as_json:
        print_json({"rows": [{n: getattr(r, n) for n in r.__slots__} for r in found], "verdict": sentence})
        return
    others = [name for name in results if name != "trained"]
    print_rows(
        ["model", "chains", "nll", "first choice", "exact"],
        [[r.name, r.chains, r.nll, r.first_choice, r.exact] for r in found],
        title="surprisal of the conclusion, nats per token; share of first choices; exact greedy matches",
    )
    trained = next(r for r in found if r.name == "trained")
    print_rows(
        ["trained minus", "nll", "low", "high"],
        [[name, *trained.against[name]] for name in others],
        title="paired over chains, 95 % interval",
    )
    click.echo(sentence)
    if shuffled is None:
        click.echo(
            "no shuffled control was given: a gain may be wording alone. Train one: trails train --shuffle-steps"
        )
