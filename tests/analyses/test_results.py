"""No analysis can hand out a number without its control: the result records have no place for one."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import pytest

from trails.analyses import bridge, capture, drift, gaps, overlaps, statemap
from trails.analyses.report import Finding
from trails.analyses.score import Control, Score, Withheld

RESULTS: dict[type, set[str]] = {
    # record: fields that hold floats which are no scores, each with its reason
    overlaps.Overlaps: set(),
    statemap.StateMap: set(),
    gaps.Gaps: set(),
    gaps.Calibration: {
        "weights",  # how the calibrated scores are combined
    },
    bridge.Bridge: set(),
    bridge.Crossing: set(),
    capture.Capture: set(),
    capture.Captures: set(),
    capture.CaptureCalibration: set(),
    drift.Drift: set(),
}


def holds_float(annotation: Any) -> bool:
    if annotation is float:
        return True
    return any(holds_float(part) for part in typing.get_args(annotation) if part is not Ellipsis)


@pytest.mark.parametrize("record", RESULTS, ids=lambda record: record.__name__)
def test_results_have_scores_and_no_bare_number(record: type) -> None:
    hints = typing.get_type_hints(record)
    names = {field.name for field in dataclasses.fields(record)}
    assert "scores" in names or isinstance(getattr(record, "scores", None), property)
    assert "withheld" in names or isinstance(getattr(record, "withheld", None), property)
    plain = {name for name in names if holds_float(hints[name])}
    arrays = {name for name in names if "ndarray" in str(hints[name])}
    assert plain - arrays <= RESULTS[record], f"{record.__name__} would hand out {plain - arrays} without a control"
    assert record.__dataclass_params__.frozen  # type: ignore[attr-defined]


def test_every_result_record_is_listed() -> None:
    found = set()
    for module in (overlaps, statemap, gaps.find, gaps.calibration, bridge, capture, drift):
        for value in vars(module).values():
            if dataclasses.is_dataclass(value) and isinstance(value, type) and value.__module__ == module.__name__:
                names = {field.name for field in dataclasses.fields(value)}
                if "scores" in names or isinstance(getattr(value, "scores", None), property):
                    found.add(value)
    assert found == set(RESULTS)


@pytest.mark.parametrize("record", RESULTS, ids=lambda record: record.__name__)
def test_every_result_is_told_by_a_report(record: type) -> None:
    assert issubclass(record, Finding)
    assert record.report is not Finding.report  # type: ignore[attr-defined]


def test_a_score_needs_its_controls() -> None:
    required = {field.name for field in dataclasses.fields(Score) if field.default is dataclasses.MISSING}
    assert required == {"name", "value", "unit", "controls"}
    assert {field.name for field in dataclasses.fields(Withheld)} == {"name", "reason"}
    assert {field.name for field in dataclasses.fields(Control)} == {"name", "value", "interval", "how"}
