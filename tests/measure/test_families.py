"""Every attention variant: exact against the float64 loop over prefixes, on every path."""

from __future__ import annotations

import pytest
from families import FAMILIES, tiny
from reference import QUESTION, assert_same, item, measured_slowly, scorer_of

from trails.measure.base import MeasureOptions


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_exact(family: str) -> None:
    model = tiny(family)
    scorer = scorer_of(model)
    (trace,) = scorer.measure([item()], MeasureOptions())
    truth = measured_slowly(model, trace, scorer.model.text.ids(f"{QUESTION}\n"))
    assert_same(trace, truth)
    assert trace.attention_entropy.std() > 0.01  # the model is not a trivial one
    # which families use the attention interface changes with releases of transformers: the other way gives these numbers too
    eager = scorer_of(model, attention="eager")
    assert eager.run.notes["attention_observed"] == "weights"
    (own,) = eager.measure([item()], MeasureOptions())
    assert_same(own, truth)
