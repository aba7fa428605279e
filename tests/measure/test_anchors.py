"""Suppressed attention against masking by hand in float64, one condition and one whole sequence at a time."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from reference import item, scorer_of

from trails.errors import ModelError, UnmeasurableError
from trails.measure.anchors import Dependence, dependence
from trails.measure.base import MeasureOptions
from trails.schema import Trace

LAYERS = (1, 2, 3)


def by_hand(module: Any, ids: np.ndarray, rows: slice, keys: slice, layers: Any, factor: Any = None) -> np.ndarray:
    """Log-probabilities (T, V) in float64 with the queries ``rows`` blind to ``keys``, or their weight on the first token
    multiplied by ``factor`` (L,) before scaling, in the given layers."""
    exact = copy.deepcopy(module).double().eval()
    for part in exact.modules():
        if hasattr(getattr(part, "config", None), "_attn_implementation"):
            part.config._attn_implementation = "eager"
    size = len(ids)
    causal = torch.full((size, size), -1e300, dtype=torch.float64).triu(1)

    def hook(layer: int) -> Any:
        def before(_: Any, args: Any, kwargs: Any) -> Any:
            mask = causal.clone()
            if layer in layers:
                if factor is None:
                    mask[rows, keys] = -1e300
                else:
                    mask[rows, 0] = np.log(max(factor[layer - 1], 1e-300))
            return args, {**kwargs, "attention_mask": mask[None, None]}

        return before

    for number, block in enumerate(exact.model.layers, start=1):
        block.self_attn.register_forward_pre_hook(hook(number), with_kwargs=True)
    with torch.no_grad():
        logits = exact(input_ids=torch.tensor(ids)[None], use_cache=False).logits[0]
    found: np.ndarray = torch.log_softmax(logits, -1).numpy()
    return found


def change_of(clean: np.ndarray, other: np.ndarray, ids: np.ndarray, rows: slice) -> tuple[float, float]:
    places = np.arange(rows.start, rows.stop - 1)
    nats = clean[places, ids[places + 1]] - other[places, ids[places + 1]]
    kl = (np.exp(clean[places]) * (clean[places] - other[places])).sum(1)
    return float(nats.mean()), float(kl.mean())


def measured(scorer: Any, **options: Any) -> tuple[Trace, Any, Dependence]:
    (trace,) = scorer.measure([item()], MeasureOptions())
    sequence = scorer.sequence(item())
    return trace, sequence, dependence(scorer, trace, sequence, **options)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2", "llama (grouped-query)"])
@pytest.mark.parametrize("layers", [None, (2,), (1, 3)])
def test_every_pair_is_masking_by_hand(family: str, layers: Any) -> None:
    scorer = scorer_of(tiny(family))
    trace, sequence, found = measured(scorer, layers=layers)
    ids, context = sequence.row.ids, len(sequence.row.context)
    clean = by_hand(scorer.model.module, ids, slice(0, 0), slice(0, 0), ())
    pairs = 0
    for later, (begin, end) in enumerate(sequence.row.step_tokens + context):
        rows = slice(int(begin), int(end))
        for earlier, (first, stop) in enumerate(sequence.row.step_tokens[:later] + context):
            keys = slice(max(int(first), 1), int(stop))
            other = by_hand(scorer.model.module, ids, rows, keys, layers or LAYERS)
            nats, kl = change_of(clean, other, ids, rows)
            assert found.nats[later, earlier] == pytest.approx(nats, abs=2e-4)
            assert found.kl[later, earlier] == pytest.approx(kl, abs=2e-4)
            pairs += abs(nats) > 1e-3
        drawn = np.flatnonzero(np.isfinite(found.sink_nats[later]))
        for earlier in drawn:
            masses = trace.step_masses(later).astype(np.float64)
            factor = np.clip((masses[0] - masses[earlier + 2]) / masses[0], 0, 1)
            other = by_hand(scorer.model.module, ids, rows, slice(0, 0), layers or LAYERS, factor)
            nats, kl = change_of(clean, other, ids, rows)
            assert found.sink_nats[later, earlier] == pytest.approx(nats, abs=2e-4)
            assert found.sink_kl[later, earlier] == pytest.approx(kl, abs=2e-4)
    assert pairs >= 4
    assert np.isnan(found.nats[np.triu_indices(len(found.nats))]).all()
    assert np.isfinite(found.sink_nats).sum() == 2
    assert np.isfinite(found.random_nats).sum() >= 2


def test_a_random_span_is_as_long_and_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    import trails.measure.anchors as module

    scorer = scorer_of(tiny("qwen2"))
    kept: list[Any] = []
    plain = module._batches
    monkeypatch.setattr(module, "_batches", lambda conditions, own: kept.extend(conditions) or plain(conditions, own))
    _, _, found = measured(scorer)
    own = {(c.later, c.earlier): c.keys for c in kept if c.into == "own"}
    drawn = [c for c in kept if c.into == "random"]
    assert drawn
    for condition in drawn:
        a, b = own[condition.later, condition.earlier]
        first, stop = condition.keys
        assert stop - first == b - a
        assert stop <= a or first >= b
        assert first >= 1
        assert stop <= condition.begin
        assert np.isfinite(found.random_nats[condition.later, condition.earlier])


def test_several_passes_give_the_numbers_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    import trails.measure.anchors as module

    scorer = scorer_of(tiny("qwen2"))
    _, sequence, one = measured(scorer)
    monkeypatch.setattr(module, "PASS_TOKENS", 0)
    _, _, several = measured(scorer)
    assert several.tokens > one.tokens > one.own_tokens == sequence.length
    for name in ("nats", "kl", "random_nats", "sink_nats"):
        np.testing.assert_allclose(getattr(several, name), getattr(one, name), atol=1e-5)


def test_what_cannot_be_measured_is_named() -> None:
    with pytest.raises(ModelError, match="layer 9 was asked for, tiny has layers 1 to 3"):
        measured(scorer_of(tiny("qwen2")), layers=(9,))
    with pytest.raises(UnmeasurableError, match="no attention interface|sliding window"):
        measured(scorer_of(tiny("mistral (sliding window)")))
