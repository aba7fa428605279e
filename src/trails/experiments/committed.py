"""Whether a plan was in the history of the repository before its rows were measured: their times beside that of its commit.

The file and every row name the plan's hash; only the time of the commit says when others could have seen the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from trails.experiments.base import Record

Commit = Mapping[str, Any]
"""``commit``: its short id; ``time``: its author's date, seconds since 1970; of the first commit that holds a plan."""


def moment(seconds: float) -> str:
    """Date and time in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def rounded(rows: Sequence[Record]) -> bool:
    """Whether the times of the rows are whole thousands of seconds, too coarse to say which came first."""
    return bool(rows) and all(float(row.get("time", 0)) % 1000 == 0 for row in rows)


def before(rows: Sequence[Record], commit: Commit) -> int:
    """Rows that were measured before the commit of their plan."""
    return sum(float(row["time"]) < float(commit["time"]) for row in rows)


def note(rows: Sequence[Record], commit: Commit | None) -> str:
    """What the head of the page says of a plan that was committed later than a row, or of times that cannot say; or nothing."""
    if commit is None or not rows:
        return ""
    if rounded(rows):
        return (
            "**When the plan was committed** cannot be compared with its rows: their times are rounded to 1,000 seconds. The "
            "plan stands before the rows in the file and in the history, and every row names its hash "
            "([more](index.md#when-the-plans-were-committed))."
        )
    early = before(rows, commit)
    if not early:
        return ""
    ahead = float(commit["time"]) - min(float(row["time"]) for row in rows)
    return (
        f"**The plan was committed after its first rows**: {early} of {len(rows)} rows were measured before the commit "
        f"{commit['commit']}, the first of them {ahead:.0f} seconds. The plan stands before the rows in the file and in the "
        "history, and every row names its hash; that nobody changed it in between, the history does not show "
        "([more](index.md#when-the-plans-were-committed))."
    )


def table(rows: Mapping[str, Sequence[Record]], commits: Mapping[str, Commit]) -> list[list[str]]:
    """Cells by experiment with rows: commit of the plan, its time, time of the first row, rows before the commit."""
    cells = []
    for name, commit in commits.items():
        if not (of := rows.get(name)):
            continue
        coarse = rounded(of)
        first = min(float(row["time"]) for row in of)
        cells.append(
            [
                f"[{name}]({name}.md)",
                commit["commit"],
                moment(commit["time"]),
                "rounded to 1,000 s" if coarse else moment(first),
                "cannot be said" if coarse else f"{before(of, commit)} of {len(of)}",
            ]
        )
    return cells
