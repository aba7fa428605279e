"""How the analyses print their scores: never without the control beside them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from trails.analyses.score import SCORE_COLUMNS, Control, Score, Withheld, score_rows
from trails.cli.common import echo, err, print_rows
from trails.errors import InputError, UsageError

run_option = click.option("--run", help="Run to analyse: its id or the beginning of it (default: the only one).")
graph_option = click.option("--no-graph", is_flag=True, help="Print only; write nothing to the graph.")
limit_option = click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Rows to print.")


_MANY = 4
"""So many scores with the same controls get a table of their own."""


def print_scores(scores: Sequence[Score], withheld: Sequence[Withheld], notes: Sequence[str] = ()) -> None:
    """Scores with their controls as a table on stdout; what was withheld, and why, below it; notes on stderr. Many scores with
    the same controls stand in a table of their own, largest first, with a column for each control.
    """
    alike: dict[tuple[str, ...], list[Score]] = {}
    for score in scores:
        alike.setdefault((score.unit, *(control.name for control in score.controls)), []).append(score)
    few: list[Score] = []
    for (unit, *controls), group in alike.items():
        if len(group) < _MANY:
            few += group
            continue
        group.sort(key=lambda score: -score.value)
        rows = [
            [
                score.name,
                *_with_interval(score),
                *(part for control in score.controls for part in _with_interval(control)),
            ]
            for score in group
        ]
        columns = [part for name in ("value", *controls) for part in (name, "95 %")]
        print_rows(["score", *columns], rows, title=unit)
    if few:
        print_rows(SCORE_COLUMNS, score_rows(few))
    for score in scores:
        if score.note:
            echo(f"{score.name}: {score.note}")
    by_reason: dict[str, list[str]] = {}
    for item in withheld:
        by_reason.setdefault(item.reason, []).append(item.name)
    for reason, names in by_reason.items():
        echo(f"no score for {', '.join(names)}: {reason}")
    for note in notes:
        err.print(note)


def _with_interval(found: Score | Control) -> tuple[float, str]:
    return found.value, f"{found.interval[0]:.3f} to {found.interval[1]:.3f}" if found.interval else ""


def shown(text: str, width: int = 90) -> str:
    """A text on one line: line breaks as ⏎, the middle left out where it is longer than ``width`` characters."""
    flat = text.replace("\n", "⏎")
    return flat if len(flat) <= width else f"{flat[: width // 2 - 1]} … {flat[-(width // 2 - 2) :]}"


def text_or_file(value: str) -> str:
    """The argument itself, the content of the file it names, or standard input for ``-``.

    Raises InputError for a file that is not text, UsageError for what looks like the name of a file that is not there.
    """
    if value == "-":
        return sys.stdin.read()
    try:
        path = Path(value)
        if path.is_file():
            return path.read_text(encoding="utf-8")
        if re.fullmatch(r"[\w./\\-]+\.[A-Za-z]{1,5}", value, re.ASCII):
            raise UsageError(f"there is no file {value}. Give a text, or the name of a file that holds one.")
        return value
    except UnicodeDecodeError as error:
        raise InputError(f"{value}: not text in UTF-8 (byte {error.start}). Convert it first.") from None
    except OSError:  # a text longer than a file name can be
        return value


def settings_for(home: Path | None, store: str | None, **flags: Any) -> dict[str, Any]:
    """Keyword arguments for :class:`trails.pipeline.Home`."""
    return {"home": home, **({"store": store} if store else {}), **{k: v for k, v in flags.items() if v is not None}}
