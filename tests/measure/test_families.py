"""Every attention variant: exact against the float64 loop over prefixes, on every path that the model can take."""

from __future__ import annotations

import pytest
from families import FAMILIES, tiny
from reference import QUESTION, assert_same, item, measured_slowly, scorer_of

from trails.measure.base import MeasureOptions

_OWN_ATTENTION = {"bloom (alibi)", "falcon (multi-query, rotary)", "falcon (alibi)", "gpt-j"}


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_exact(family: str) -> None:
    model = tiny(family)
    scorer = scorer_of(model)
    assert scorer.run.notes["attention_observed"] == ("weights" if family in _OWN_ATTENTION else "interface")
    (trace,) = scorer.measure([item()], MeasureOptions())
    truth = measured_slowly(model, trace, scorer.text.ids(f"{QUESTION}\n"))
    assert_same(trace, truth)
    assert trace.attention_entropy.std() > 0.01  # the model is not a trivial one
