"""How the analyses print their scores: never without the control beside them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from trails.cli.common import err, print_rows
from trails.statistics import SCORE_COLUMNS, Score, Withheld, score_rows

run_option = click.option("--run", help="Run to analyse: its id or the beginning of it (default: the only one).")
graph_option = click.option("--no-graph", is_flag=True, help="Print only; write nothing to the graph.")
limit_option = click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Rows to print.")


def print_scores(scores: Sequence[Score], withheld: Sequence[Withheld], notes: Sequence[str] = ()) -> None:
    """Scores with their controls as a table on stdout; what was withheld, and why, below it; notes on stderr."""
    if scores:
        print_rows(SCORE_COLUMNS, score_rows(scores))
        for score in scores:
            if score.note:
                click.echo(f"{score.name}: {score.note}")
    by_reason: dict[str, list[str]] = {}
    for item in withheld:
        by_reason.setdefault(item.reason, []).append(item.name)
    for reason, names in by_reason.items():
        click.echo(f"no score for {', '.join(names)}: {reason}")
    for note in notes:
        err.print(note, highlight=False, markup=False)


def shown(text: str, width: int = 90) -> str:
    """A text on one line: line breaks as ⏎, the middle left out where it is longer than ``width`` characters."""
    flat = text.replace("\n", "⏎")
    return flat if len(flat) <= width else f"{flat[: width // 2 - 1]} … {flat[-(width // 2 - 2) :]}"


def text_or_file(value: str) -> str:
    """The argument itself, the content of the file it names, or standard input for ``-``."""
    if value == "-":
        return sys.stdin.read()
    try:
        path = Path(value)
        return path.read_text(encoding="utf-8") if path.is_file() else value
    except OSError:  # a text longer than a file name can be
        return value


def settings_for(home: Path | None, store: str | None, **flags: Any) -> dict[str, Any]:
    """Keyword arguments for :class:`trails.pipeline.Home`."""
    return {"home": home, **({"store": store} if store else {}), **{k: v for k, v in flags.items() if v is not None}}
