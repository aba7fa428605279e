"""``trails variants``: microvariants of chains, measured and gated."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click
import numpy as np

from trails.cli.common import device_option, err, home_option, json_option, model_option, print_json, print_rows
from trails.cli.scores import run_option, settings_for


@click.command("variants", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("selection")
@click.option("--count", type=click.IntRange(min=1), default=50, show_default=True, help="Variants wanted per chain.")
@click.option(
    "--volatility-budget", type=float, default=0.1, show_default=True, help="Largest volatility, nats; -1 = any."
)
@click.option("--max-token-edits", type=click.IntRange(min=1), default=2, show_default=True, help="Against the parent.")
@click.option(
    "--kinds", default="", help="Only these, with commas: plain, highlight, summary, drop_last, json, synonym."
)
@click.option("--drift", is_flag=True, help="Also measure the attention drift by layer (one full measurement each).")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Parquet file for the accepted ones.")
@click.option("--seed", default=0, show_default=True, help="Of every choice among candidates.")
@run_option
@model_option
@device_option
@home_option
@json_option
def command(
    selection: str,
    count: int,
    volatility_budget: float,
    max_token_edits: int,
    kinds: str,
    drift: bool,
    output: Path | None,
    seed: int,
    run: str | None,
    model: str | None,
    device: str | None,
    home: Path | None,
    as_json: bool,
) -> None:
    """Microvariants of a chain (its id) or of every chain of a SELECTION, as in `trails export --subgraph`.

    Six kinds, each within the bound of token edits from its parent; what is more volatile than the budget is rejected and
    written, with the reason, beside the output.

    \b
    trails variants c0123456789abcdef -o variants.parquet
    trails variants roles:IF\\>THEN --count 20 -o variants.parquet
    """
    from trails.pipeline import Home
    from trails.variants import KINDS, VariantOptions

    options = VariantOptions(
        count=count,
        budget=None if volatility_budget < 0 else volatility_budget,
        max_edits=max_token_edits,
        kinds=tuple(part.strip() for part in kinds.split(",")) if kinds else KINDS,
        seed=seed,
        drift=drift,
    )
    with Home(**settings_for(home, None, model=model, device=device)) as opened:
        reports, rejected = opened.variants(
            selection,
            options,
            to=output,
            run=run,
            each=lambda made: err.print(
                f"{made.chain}: {len(made.accepted)} of {len(made.variants)} accepted", highlight=False
            ),
        )
    drifts = [(v.kind, v.hidden_drift) for report in reports for v in report.accepted]
    rows = []
    for kind in KINDS:
        of = [v for report in reports for v in report.variants if v.kind == kind]
        taken = [v for v in of if v.accepted]
        if of:
            volatility = [v.volatility for v in taken]
            rows.append(
                [
                    kind,
                    len(of),
                    len(taken),
                    max((v.edits for v in taken), default=None),
                    max((v.distance for v in taken), default=None),
                    float(np.median(volatility)) if volatility else None,
                    float(np.max(volatility)) if volatility else None,
                ]
            )
    floor = max((report.noise_floor for report in reports), default=0.0)
    enough = sum(len(report.accepted) >= count for report in reports)
    if as_json:
        print_json(
            {
                "chains": len(reports),
                "accepted": sum(len(report.accepted) for report in reports),
                "chains_with_enough": enough,
                "noise_floor": floor,
                "passes": [report.passes for report in reports],
                "reasons": Counter(v.reason.split(" 0.")[0] for r in reports for v in r.variants if not v.accepted),
                "output": str(output) if output else None,
            }
        )
        return
    columns = ["kind", "made", "accepted", "most edits", "farthest", "median volatility", "largest"]
    print_rows(columns, rows, title=f"volatility in nats; noise floor {floor:.2g}")
    hidden = {kind: np.mean([h for k, h in drifts if k == kind], axis=0) for kind in {k for k, _ in drifts}}
    if hidden:
        layers = range(0, len(next(iter(hidden.values()))), max(len(next(iter(hidden.values()))) // 6, 1))
        print_rows(
            ["kind", *(f"layer {layer}" for layer in layers)],
            [[kind, *(float(hidden[kind][layer]) for layer in layers)] for kind in KINDS if kind in hidden],
            title="drift map: 1 - cosine to the chain's hidden states, mean over variants",
        )
    click.echo(f"{enough} of {len(reports)} chains have {count} accepted variants or more")
    if output:
        click.echo(f"accepted: {output}\nrejected, with reasons: {rejected}")
