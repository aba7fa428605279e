"""``trails variants``: microvariants of chains, measured and gated."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.text import Text

from trails.cli.common import (
    echo,
    err,
    home_option,
    json_option,
    out,
    print_json,
    print_rows,
    seed_option,
    with_home,
)
from trails.cli.scores import html_option, instrument_options, run_option, settings_for
from trails.platform.text import counted, part_of

if TYPE_CHECKING:
    from trails.analyses.report import Report
    from trails.variants import VariantReport


@click.command("variants", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("selection")
@click.option(
    "--count",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    help="How many variants to make of each chain.",
)
@click.option(
    "--volatility-budget",
    type=float,
    default=0.1,
    show_default=True,
    help="Reject variants with a volatility above this, in nats (-1: no limit).",
)
@click.option(
    "--max-token-edits",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Most tokens that a variant may differ in from its parent.",
)
@click.option(
    "--kinds",
    default="",
    help="Make only these kinds, separated by commas: plain, highlight, summary, drop_last, json, synonym.",
)
@click.option("--drift", is_flag=True, help="Also measure the attention drift by layer (one full measurement each).")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Parquet file for the variants (default: a file in the home).",
)
@seed_option("Seed of every random choice among candidates.")
@click.option("--broken", is_flag=True, help="Accept variants that break a word or a sentence, too.")
@click.option(
    "--accept",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="File with ids of rejected variants to accept all the same, one per line.",
)
@click.option(
    "--show",
    is_flag=True,
    help="Print the variants of a stored run (v…), or a chain's own versions, with edits marked.",
)
@run_option
@instrument_options
@home_option
@json_option
@html_option
def command(
    selection: str,
    count: int,
    volatility_budget: float,
    max_token_edits: int,
    kinds: str,
    drift: bool,
    output: Path | None,
    seed: int,
    broken: bool,
    accept: Path | None,
    show: bool,
    run: str | None,
    model: str | None,
    device: str | None,
    home: Path | None,
    as_json: bool,
) -> Callable[[], Report] | None:
    """Microvariants of a chain (its id) or of every chain of a SELECTION, as in `trails export --subgraph`. They are stored
    as a run of their own (v…) with the drift map; give this id to draw it again.

    There are six kinds, each within the bound of token edits from its parent. A variant more volatile than the
    budget is rejected and written, with the reason, to a file beside the output.

    \b
    trails variants c0123456789abcdef
    trails variants v0123456789abcdef
    trails variants v0123456789abcdef --show
    trails variants c0123456789abcdef --show
    trails variants roles:IF\\>THEN --count 20 -o variants.parquet
    """
    from trails.export.variant_rows import read_ids
    from trails.pipeline import Home
    from trails.variants import KINDS, VariantOptions

    options = VariantOptions(
        count=count,
        budget=None if volatility_budget < 0 else volatility_budget,
        max_edits=max_token_edits,
        kinds=tuple(part.strip() for part in kinds.split(",")) if kinds else tuple(KINDS),
        seed=seed,
        drift=drift,
        whole=not broken,
        accept=tuple(sorted(read_ids(accept))) if accept else (),
    )
    if show:
        _show(selection, settings_for(home, None), as_json=as_json)
        return None
    reports: Sequence[VariantReport] = ()
    with Home(**settings_for(home, None, model=model, device=device)) as opened:
        if re.fullmatch(r"v[0-9a-f]{16}", selection):
            found = opened.variant_run(selection)
        else:
            reports, found = opened.variants(
                selection,
                options,
                to=output,
                run=run,
                each=lambda made: err.print(
                    f"{made.chain}: {len(made.accepted)} of {len(made.variants)} accepted", highlight=False
                ),
            )

    def page() -> Report:
        if not found.id:  # a file of the user's own: the home does not know it
            return found.told()
        with Home(**settings_for(home, None)) as opened:
            return found.told(opened.shown_variants(found.id))

    enough = sum(len(report.accepted) >= count for report in reports)
    if as_json:
        made = {
            "chains": len(reports),
            "accepted": sum(len(report.accepted) for report in reports),
            "chains_with_enough": enough,
            "passes": [report.passes for report in reports],
            "reasons": Counter(v.reason.split(" 0.")[0] for r in reports for v in r.variants if not v.accepted),
        }
        print_json({**found.record(), **(made if reports else {})})
        return page
    columns = ["kind", "made", "accepted", "most edits", "farthest", "median volatility", "largest", "logit drift"]
    rows = [
        [k.kind, k.made, k.accepted, k.edits, k.distance, k.volatility_median, k.volatility_largest, k.logit_drift]
        for k in found.kinds
    ]
    floor = "not stored: no variant was accepted" if found.noise_floor is None else f"{found.noise_floor:.2g}"
    print_rows(columns, rows, title=f"volatility in nats; noise floor {floor}")
    drawings = {
        "hidden states: 1 - cosine to the chain's": {k.kind: k.hidden_drift for k in found.kinds if k.hidden_drift},
        "attention: total variation against the chain's": {
            k.kind: k.attention_drift for k in found.kinds if k.attention_drift
        },
    }
    for title, by_kind in drawings.items():
        if by_kind:
            first = int(title.startswith("attention"))  # state 0 is the input of layer 1, attention begins in layer 1
            out().print(drift_picture(by_kind, first), soft_wrap=True)
            echo(f"drift map, {title}, mean over variants; layers from left to right, shading up to the largest")
    if reports:
        echo(f"{part_of(enough, len(reports), 'chain', 'has', 'have')} {counted(count, 'accepted variant')} or more")
    name = found.id or shlex.quote(str(found.path))  # a file of the user's own has no id in the home
    echo(f"stored: {f'{found.id}  ' if found.id else ''}{found.path}\nrejected, with reasons: {found.rejected}")
    if any(k.made > k.accepted for k in found.kinds):
        err.print("accept some of them: ids in a file, one per line, and --accept FILE", highlight=False)
    echo(with_home(f"train on them: trails export --subgraph SELECTION --variants {name} --format trails -o FILE"))
    return page


def _show(name: str, settings: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the variants stored under an id, the most volatile first, or the source's own versions of a chain."""
    from trails.pipeline import Home
    from trails.platform.ties import tie

    if not re.fullmatch(r"v[0-9a-f]{16}", name):
        with Home(**settings) as opened:
            versions = opened.versions(name)
        if as_json:
            print_json([{field: getattr(one, field) for field in one.__slots__} for one in versions])
            return
        for version in versions:
            echo(f"{version.id}  {version.source} {version.source_id}")
            echo(f"    {version.text}".replace("\n", "⏎"))
        if not versions:
            echo(
                with_home(
                    "no other chain is a version of this one (trails ingest --family FIELD; by default one question)"
                )
            )
        return
    with Home(**settings) as opened:
        found = opened.shown_variants(name)
    if as_json:
        print_json([{field: getattr(one, field) for field in one.__slots__} for one in found])
        return
    for one in found:
        echo(
            f"{one.id}  {one.kind}  volatility {one.volatility:.4f} nats, {one.edits} edits, {one.distance} from {one.chain}"
        )
        echo(f"    {one.text}".replace("\n", "⏎"))
    if said := tie([one.volatility for one in found], None, "volatility"):
        echo(said)
    line = f"trails export … --variants {name} --refuse FILE"
    echo(with_home(f"leave some out: write their ids to a file, one per line, then {line}"))


_SHADES = " ░▒▓█"


def drift_picture(by_kind: Mapping[str, Sequence[float]], first: int) -> Text:
    """One line per kind: a cell per layer from ``first`` on, shaded by its share of the largest value, and that kind's
    largest value.
    """
    largest = max(max(values) for values in by_kind.values())
    width = max(map(len, by_kind))
    lines = []
    for kind, values in by_kind.items():
        cells = "".join(
            _SHADES[min(int(len(_SHADES) * value / largest), len(_SHADES) - 1)] if largest > 0 else " "
            for value in values
        )
        lines.append(f"{kind:<{width}} │{cells}│ at most {max(values):.2g} in layer {first + int(np.argmax(values))}")
    return Text("\n".join(lines))
