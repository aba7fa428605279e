"""Interventions: what is left as it was stays to the bit, and a change reaches only what comes after it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from reference import item, scorer_of

from trails.errors import ModelError
from trails.measure.base import MeasureOptions
from trails.schema import MEASURES, Trace

LAYER = 2
BY_LAYER = ("attention_shift", "attention_previous", "attention_sink", "attention_entropy")
SITES: tuple[Any, ...] = ("block_output", "attention_output", "mlp_output")


def measured(scorer: Any) -> Trace:
    (trace,) = scorer.measure([item()], MeasureOptions(states=(0, 1, 2, 3)))
    return trace


def differ(a: Any, b: Any) -> bool:
    return not np.array_equal(a, b, equal_nan=True)


def assert_identical(a: Trace, b: Trace) -> None:
    for measure in MEASURES:
        one, other = a.array(measure.name), b.array(measure.name)
        assert (one is None) == (other is None)
        assert one is None or not differ(one, other), measure.name


@pytest.mark.parametrize("site", SITES)
def test_a_change_reaches_only_what_comes_after_it(site: Any) -> None:
    scorer = scorer_of(tiny("qwen2"))
    model = scorer.model
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(0))
    plain = measured(scorer)
    for nothing in (lambda x: x, lambda x: x + 0.0 * direction):
        with model.changed(LAYER, site, nothing):
            assert_identical(measured(scorer), plain)

    with model.changed(LAYER, site, lambda x: x + 3.0 * direction):
        after = measured(scorer)
    for name in BY_LAYER:  # the attention of the layer itself comes before all of its sites
        one, other = getattr(after, name), getattr(plain, name)
        assert not differ(one[:, :LAYER], other[:, :LAYER]), name
    assert differ(after.attention_entropy[:, LAYER], plain.attention_entropy[:, LAYER])
    for state in range(model.n_layers + 1):
        assert differ(after.hidden_shift[:, state], plain.hidden_shift[:, state]) == (state >= LAYER)
    assert differ(after.surprisal, plain.surprisal)
    if site == "block_output":
        found = after.step_states[:, LAYER] - plain.step_states[:, LAYER]
        np.testing.assert_allclose(found, np.tile(3.0 * direction.numpy(), (len(found), 1)), atol=1e-5)
    assert_identical(measured(scorer), plain)  # nothing stays behind


def test_a_change_at_a_token_reaches_no_earlier_one() -> None:
    scorer = scorer_of(tiny("qwen2"))
    plain = measured(scorer)
    token = plain.n_tokens // 2
    place = plain.n_context + token

    def push(state: Any) -> Any:
        state = state.clone()
        state[:, place] += 5.0
        return state

    with scorer.model.changed(LAYER, "block_output", push):
        after = measured(scorer)
    # the surprisal of a token is read off the position before it
    assert not differ(after.surprisal[: token + 1], plain.surprisal[: token + 1])
    assert after.surprisal[token + 1] != plain.surprisal[token + 1]
    for name in ("logit_shift", "hidden_shift", "attention_entropy"):
        assert not differ(getattr(after, name)[:token], getattr(plain, name)[:token]), name
    assert differ(after.hidden_shift[token], plain.hidden_shift[token])


def test_a_change_after_the_last_layer_leaves_all_attention() -> None:
    scorer = scorer_of(tiny("qwen2"))
    plain = measured(scorer)
    with scorer.model.changed(scorer.model.n_layers, "block_output", lambda x: -x):
        after = measured(scorer)
    assert not differ(after.step_attention, plain.step_attention)
    assert differ(after.surprisal, plain.surprisal)


@pytest.mark.parametrize("layer", [0, 4])
def test_a_layer_that_does_not_exist_is_named(layer: int) -> None:
    scorer = scorer_of(tiny("qwen2"))
    with (
        pytest.raises(ModelError, match=rf"layer {layer} was asked for, tiny has layers 1 to 3\."),
        scorer.model.changed(layer, "block_output", lambda x: x),
    ):
        pass
