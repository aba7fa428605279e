"""Reactions of a probe against float64, one sequence at a time, with the model's own eager attention."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from reference import item, scorer_of

import trails.measure.respond as module
from trails.errors import UnmeasurableError
from trails.measure.respond import react

TEXTS = ("The moon is far.", "x", "Every stone falls, and so does rain, and so do you, and then some more of it.")


def slowly(model: Any, ids: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-probabilities (T, V), states (L+1, T, d) before the final norm, head-mean attention (L, T, T)."""
    exact = copy.deepcopy(model).double().eval()
    for part in exact.modules():
        if hasattr(getattr(part, "config", None), "_attn_implementation"):
            part.config._attn_implementation = "eager"
    states: list[torch.Tensor] = []
    exact.model.layers[0].register_forward_pre_hook(lambda _m, args: states.append(args[0][0]))
    for layer in exact.model.layers:
        layer.register_forward_hook(lambda _m, _a, out: states.append((out[0] if isinstance(out, tuple) else out)[0]))
    with torch.no_grad():
        out = exact(input_ids=torch.tensor([ids]), use_cache=False, output_attentions=True)
    attention = np.stack([layer[0].mean(0).numpy() for layer in out.attentions])
    return torch.log_softmax(out.logits[0], -1).numpy(), np.stack([s.numpy() for s in states]), attention


@pytest.mark.parametrize("bos", ["never", "always"])
@pytest.mark.parametrize("kept", [2**26, 1])
def test_reactions_are_those_of_float64(bos: Any, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT", kept)
    monkeypatch.setattr(module, "BATCH_TOKENS", 260)
    scorer = scorer_of(tiny("qwen2"), bos=bos)
    row = scorer.contexts.row(item())
    texts = [np.zeros(0, np.int32), *(scorer.model.text.encode(text, "a text").ids for text in TEXTS)]
    with scorer.model.measuring():
        found = react(scorer.model, row, texts)
    assert found.drift[0].max() < 1e-6
    assert found.shift[0] < 1e-5
    assert abs(found.nll[0]) < 1e-5
    head, tail, n = list(row.context.prefix), [*row.context.question, *row.tokens.ids.tolist()], len(row.tokens)
    log_p, alone, _ = slowly(scorer.model.module, [*head, *tail])
    targets = row.tokens.ids
    for number, text in enumerate(texts[1:], start=1):
        ids = [*head, *text.tolist(), *tail]
        log_q, states, attention = slowly(scorer.model.module, ids)
        p, q = log_p[-n - 1 : -1], log_q[-n - 1 : -1]
        assert found.shift[number] == pytest.approx(np.abs(np.exp(p) - np.exp(q)).sum(1).mean() / 2, abs=1e-4)
        change = (p - q)[np.arange(n), targets].mean()
        assert found.nll[number] == pytest.approx(change, abs=1e-4)
        a, b = (x[:, -n:] / np.linalg.norm(x[:, -n:], axis=-1, keepdims=True) for x in (alone, states))
        np.testing.assert_allclose(found.drift[number], (1 - (a * b).sum(-1)).mean(-1), atol=1e-4)
        first = max(len(head), 1)  # the first token of the sequence is the sink
        mass = attention[:, -n:, first : len(head) + len(text)].sum(-1).mean(-1)
        np.testing.assert_allclose(found.attention[number], mass, atol=1e-4)


def test_what_cannot_be_probed_is_named() -> None:
    scorer = scorer_of(tiny("qwen2"))
    row = scorer.contexts.row(item())
    with scorer.model.measuring():
        with pytest.raises(UnmeasurableError, match="with a text before it 367, and the window of tiny is 256"):
            react(scorer.model, row, [np.zeros(300, np.int32)], 256)
        with pytest.raises(UnmeasurableError, match="has 1 token, a probe needs two"):
            react(scorer.model, scorer.contexts.row(item("a", cuts=())), [np.zeros(3, np.int32)])
