"""The real SmolLM2-135M-Instruct: the pair that a person reads as the same, noise floors, determinism, BOS."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reference import item
from test_truth import largest_difference

from trails.measure.base import MeasureOptions
from trails.measure.tokens import TextTokenizer
from trails.schema import Trace

pytestmark = pytest.mark.model

PLAIN = MeasureOptions()
PAIR = ("Мышление не равно генерации текста.", "Мышление — это не генерация текста.")
"""Word for word from the mission: one meaning for a person, two texts for a model."""

LONGER = "If she sold 48 clips in April, then she sold 24 in May. But she lost 3. Therefore 69 are left."


def chain(text: str, source_id: str = "1") -> Any:
    return item(text, "", (), source_id=source_id)


@pytest.fixture(scope="module")
def pair(smollm2: Any) -> list[Trace]:
    return list(smollm2.measure([chain(text) for text in PAIR], PLAIN))


def load(trace: Trace) -> np.ndarray:
    """Attention load of a sentence: its mean measures per layer, (4, L)."""
    kinds = (trace.attention_shift, trace.attention_previous, trace.attention_sink, trace.attention_entropy)
    return np.stack([np.nanmean(kind, axis=0) for kind in kinds])


def test_the_pair_differs_in_tokens_positions_attention_and_logits(smollm2: Any, pair: list[Trace]) -> None:
    """Every difference stands far above its noise floor: the same sentence in another batch."""
    a, b = pair
    assert a.n_tokens != b.n_tokens
    together = smollm2.measure([chain(PAIR[0]), chain(LONGER)], MeasureOptions(batch_tokens=4096))[0]
    # positions: the words that both sentences have stand elsewhere
    where = [trace.token_end.tolist()[-1] for trace in pair], [len(t.token_ids) for t in pair]
    assert where == ([35, 35], [a.n_tokens, b.n_tokens])
    first = [next(i for i, start in enumerate(t.token_start) if start >= t.chain.text.index("не ")) for t in pair]
    assert first[0] != first[1]
    noise = np.abs(load(a) - load(together)).max()
    difference = np.abs(load(a) - load(b)).max(axis=1)
    assert noise < 1e-4
    assert (difference > 100 * noise).all()
    assert (difference > 0.01).all()
    noise = abs(float(np.nanmean(a.surprisal) - np.nanmean(together.surprisal)))
    assert noise < 1e-4
    assert abs(float(np.nanmean(a.surprisal) - np.nanmean(b.surprisal))) > max(0.05, 100 * noise)
    assert abs(float(np.nanmean(a.logit_shift) - np.nanmean(b.logit_shift))) > 0.001


def test_the_pair_is_golden(pair: list[Trace]) -> None:
    """Numbers of this model, to three digits: they change only if the measuring changes."""
    assert [t.n_tokens for t in pair] == GOLDEN["n_tokens"]
    assert [float(np.nansum(t.surprisal)) for t in pair] == pytest.approx(GOLDEN["surprisal"], rel=2e-3)
    assert [float(np.nanmean(t.logit_shift)) for t in pair] == pytest.approx(GOLDEN["logit_shift"], rel=2e-3)
    assert [float(np.nanmean(t.attention_sink)) for t in pair] == pytest.approx(GOLDEN["attention_sink"], rel=2e-3)
    assert [float(np.nanmean(t.attention_entropy)) for t in pair] == pytest.approx(GOLDEN["entropy"], rel=2e-3)


GOLDEN: dict[str, list[float]] = {
    "n_tokens": [27, 28],
    "surprisal": [75.771, 72.517],
    "logit_shift": [0.87316, 0.89878],
    "attention_sink": [0.62890, 0.61166],
    "entropy": [0.84679, 0.87233],
}


def test_three_tokenizers_place_the_pair_differently(smollm2: Any) -> None:
    """Row 12 on three tokenizers: this model's, bytes with a few merges, characters with byte fallback.

    The two sentences have 35 characters each, so a tokenizer of single bytes can give both the same length; ids and the
    positions of the words they share differ on all three.
    """
    from reference import byte_tokenizer
    from test_tokens import sentencepiece

    lengths = []
    for tokenizer in (smollm2.model.text, TextTokenizer(byte_tokenizer()), TextTokenizer(sentencepiece())):
        a, b = (tokenizer.encode(text, "it") for text in PAIR)
        assert a.ids.tolist() != b.ids.tolist()
        starts = [int(np.searchsorted(t.start, text.index("не "))) for t, text in zip((a, b), PAIR, strict=True)]
        assert starts[0] != starts[1]
        lengths.append((len(a), len(b)))
    assert lengths == [(27, 28), (60, 61), (65, 65)]


def test_the_same_text_twice_is_the_same_to_the_bit(smollm2: Any) -> None:
    first, other, again = smollm2.measure([chain(LONGER, "a"), chain(PAIR[0]), chain(LONGER, "a")], PLAIN)
    assert largest_difference(first, again) == 0
    assert other.n_tokens != first.n_tokens


def test_surprisals_are_those_of_the_whole_model(smollm2: Any) -> None:
    (trace,) = smollm2.measure([item(LONGER, "How many?", ("But", "Therefore"))], PLAIN)
    ids = [*smollm2.model.text.ids("How many?\n"), *trace.token_ids.tolist()]
    with torch.inference_mode():
        log_p = torch.log_softmax(smollm2.model.module(torch.tensor([ids])).logits[0].double(), -1)
    c = trace.n_context
    expected = [-float(log_p[p - 1, ids[p]]) for p in range(c, len(ids))]
    np.testing.assert_allclose(trace.surprisal, expected, atol=1e-4)


def test_the_attention_is_that_of_the_eager_model(smollm2: Any) -> None:
    """Head-mean attention on the sink and the previous token, against output_attentions of the same weights."""
    (trace,) = smollm2.measure([chain(LONGER)], PLAIN)
    ids = torch.tensor([trace.token_ids.tolist()])
    with torch.inference_mode(), smollm2.model.attending("eager"):
        out = smollm2.model.module(ids, output_attentions=True, output_hidden_states=True)
    mean = torch.stack([a[0].mean(0) for a in out.attentions]).numpy()  # (L, T, T)
    np.testing.assert_allclose(trace.attention_sink, mean[:, :, 0].T, atol=1e-4)
    np.testing.assert_allclose(trace.attention_previous[1:], np.diagonal(mean, -1, 1, 2).T, atol=1e-4)
    unit = [h[0] / h[0].norm(dim=-1, keepdim=True) for h in out.hidden_states]
    shift = torch.stack([1 - (h[1:] * h[:-1]).sum(-1) for h in unit], 1).numpy()
    np.testing.assert_allclose(
        trace.hidden_shift[1:, :-1], shift[:, :-1], atol=1e-4
    )  # the last is after the norm there
