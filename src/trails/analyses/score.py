"""Scores that carry their control. Where a control cannot be had, the score is withheld and the reason stands in its place."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trails.analyses.statistics import Interval


@dataclass(frozen=True, slots=True)
class Control:
    """What a score is held against: a null, a baseline or a noise floor, in the score's unit.

    ``how`` says how value and interval were made, so that another program can make them again: how many draws of what, with
    which seed (:func:`~trails.analyses.statistics.how_drawn`, :func:`~trails.analyses.statistics.how_resampled`), or what was
    measured where nothing was drawn.
    """

    name: str
    value: float
    interval: Interval | None = None
    how: str = ""

    @property
    def reach(self) -> float:
        """Upper end of the interval, or the value where there is none."""
        return max(self.interval[1], self.value) if self.interval else self.value


@dataclass(frozen=True, slots=True)
class Score:
    """A number with its controls. Raises ValueError without a finite control: a bare score cannot be made.

    ``interval`` is a 95 % interval and ``how`` says what it was resampled from; None where nothing was drawn.
    """

    name: str
    value: float
    unit: str
    controls: tuple[Control, ...]
    interval: Interval | None = None
    note: str = ""
    how: str = ""

    def __post_init__(self) -> None:
        if not any(math.isfinite(control.value) for control in self.controls):
            raise ValueError(f"score {self.name!r} has no control")

    @property
    def control(self) -> float:
        """Value of the first control."""
        return self.controls[0].value

    def strictest(self, *names: str) -> Control:
        """The control that reaches highest, by the upper end of its interval where it has one. With ``names``, of the controls
        whose names begin so; raises ValueError when no finite control does."""
        named = [c for c in self.controls if not names or c.name.startswith(names)]
        able = [control for control in named if math.isfinite(control.value)]
        if not able:
            raise ValueError(f"score {self.name!r} has no control named {', '.join(names)}")
        return max(able, key=lambda control: control.reach)

    def beyond(self, *names: str) -> bool:
        """Whether the lower end of the score lies above everything that its controls (those named) reach. For scores of which
        more is better; a tie is not beyond."""
        low = self.interval[0] if self.interval else self.value
        return low > self.strictest(*names).reach


@dataclass(frozen=True, slots=True)
class Withheld:
    """A score that was not computed because its control could not be, with the reason and what would help."""

    name: str
    reason: str


def control_record(control: Control) -> dict[str, Any]:
    """A control as plain values."""
    return {"name": control.name, "value": control.value, "interval": control.interval, "how": control.how}


def score_record(score: Score) -> dict[str, Any]:
    """A score with its controls as plain values."""
    return {
        "name": score.name,
        "value": score.value,
        "interval": score.interval,
        "unit": score.unit,
        "controls": [control_record(control) for control in score.controls],
        "note": score.note,
        "how": score.how if score.interval else "",
    }


def withheld_record(withheld: Withheld) -> dict[str, Any]:
    """A withheld score as plain values."""
    return {"name": withheld.name, "reason": withheld.reason}


def methods(scores: Sequence[Score]) -> dict[str, tuple[str, ...]]:
    """How the numbers of scores were made, each way once with the names it stands for: controls by their name, intervals of
    the scores themselves by that of the score."""
    found: dict[str, list[str]] = {}
    for score in scores:
        parts = [
            (score.how if score.interval else "", score.name),
            *((control.how, control.name) for control in score.controls),
        ]
        for how, name in parts:
            names = found.setdefault(how, [])
            if name not in names:
                names.append(name)
    found.pop("", None)
    return {how: tuple(names) for how, names in found.items()}


SCORE_COLUMNS = ("score", "value", "95 %", "unit", "control", "its value", "its 95 %")


def span_text(interval: Interval | None) -> str:
    """``-0.215 to -0.154``, of counts ``10 to 13``; empty where there is none, or none that is known."""
    if not interval or not all(map(math.isfinite, interval)):
        return ""
    whole = all(end % 1 == 0 for end in interval) and max(map(abs, interval)) > 1
    return " to ".join(f"{end:.{0 if whole else 3}f}" for end in interval)


def score_rows(scores: Sequence[Score]) -> list[list[Any]]:
    """Rows of :data:`SCORE_COLUMNS`: one per control, the score itself on the first."""

    rows: list[list[Any]] = []
    for score in scores:
        for number, control in enumerate(score.controls):
            first = (
                [score.name, score.value, span_text(score.interval), score.unit] if number == 0 else ["", None, "", ""]
            )
            rows.append([*first, control.name, control.value, span_text(control.interval)])
    return rows
