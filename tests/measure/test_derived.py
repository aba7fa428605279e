"""A measure that follows from others: its line names the function, and every scorer gives it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from families import tiny
from reference import item, scorer_of

from trails import schema
from trails.measure import base, open_scorer
from trails.measure.base import MeasureOptions
from trails.schema import MEASURES, Measure, Trace

HALF = Measure(
    "half", "float32", "n", "nats", "half of the surprisal", optional=True, of="tests.measure.test_derived:half"
)


def half(trace: Trace) -> Any:
    return trace.surprisal / 2


@pytest.mark.parametrize("model", ["uniform", "qwen2"])
def test_every_scorer_gives_what_follows_from_its_measures(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer: Any = open_scorer("uniform") if model == "uniform" else scorer_of(tiny(model))
    (before,) = scorer.measure([item()], MeasureOptions())
    assert "half" not in before.more
    monkeypatch.setattr(base, "MEASURES", (*MEASURES, HALF))
    monkeypatch.setitem(schema.MEASURE, "half", HALF)  # type: ignore[arg-type]
    (trace,) = scorer.measure([item()], MeasureOptions())
    assert np.array_equal(trace.more["half"], trace.surprisal / 2, equal_nan=True)
    assert np.isfinite(trace.more["half"]).any()
    assert {name: values for name, values in trace.more.items() if name != "half"}.keys() == before.more.keys()
