"""The numbers are true: closed forms, conservation laws, invariances. Tiny models, no download."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from families import tiny
from reference import QUESTION, TEXT, assert_same, byte_tokenizer, item, measured_slowly, scorer_of
from transformers import LlamaConfig, LlamaForCausalLM

from trails.measure import open_scorer
from trails.measure.base import MeasureOptions, Scorer, Segmented
from trails.measure.metrics import logit_statistics
from trails.schema import Trace

PLAIN = MeasureOptions()
ARRAYS = (
    "surprisal",
    "entropy",
    "rank",
    "logit_shift",
    "attention_shift",
    "attention_previous",
    "attention_sink",
    "attention_entropy",
    "hidden_shift",
    "hidden_baseline",
    "step_attention",
    "question_surprisal",
)


def largest_difference(a: Trace, b: Trace) -> float:
    """Largest absolute difference over all arrays; the same positions must be undefined."""
    worst = 0.0
    for name in ARRAYS:
        x, y = getattr(a, name).astype(float), getattr(b, name).astype(float)
        assert (np.isnan(x) == np.isnan(y)).all(), name
        worst = max(worst, float(np.nan_to_num(np.abs(x - y)).max(initial=0)))
    return worst


# ---------------------------------------------------------------------------------------------------- closed forms


def toy_model() -> LlamaForCausalLM:
    """Uniform attention, hidden states = embeddings (orthogonal), logit 3 for a token's successor and 0 else."""
    size = 320
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=size,
        intermediate_size=4,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size) * math.sqrt(size))  # norm leaves such a row as it is
        model.lm_head.weight.copy_(torch.eye(size).roll(1, 0) * 3 / math.sqrt(size))
    return model


def test_closed_form() -> None:
    scorer = scorer_of(toy_model())
    text = "abbaz. yz"
    chain = item(text, "q", ("z. ",))
    (trace,) = scorer.measure([chain], PLAIN)
    ids, V, c = [*scorer.model.text.ids("q\n"), *trace.token_ids.tolist()], 320, 2
    assert trace.n_context == c
    assert len(ids) == c + len(text)
    norm = math.exp(3) + V - 1
    for t in range(len(text)):
        p = c + t
        follows = ids[p] == ids[p - 1] + 1
        assert trace.surprisal[t] == pytest.approx(math.log(norm) - (3 if follows else 0), abs=1e-4)
        assert trace.rank[t] == (0 if follows else 1)
        entropy = math.log(norm) - 3 * math.exp(3) / norm
        assert trace.entropy[t] == pytest.approx(entropy, abs=1e-4)
        same = ids[p] == ids[p - 1]
        assert trace.logit_shift[t] == pytest.approx(0 if same else (math.exp(3) - 1) / norm, abs=1e-6)
        assert trace.hidden_shift[t] == pytest.approx([0 if same else 1] * 3, abs=1e-6)
        assert trace.attention_sink[t] == pytest.approx([1 / (p + 1)] * 2, abs=1e-6)
        assert trace.attention_previous[t] == pytest.approx([1 / (p + 1)] * 2, abs=1e-6)
        assert trace.attention_entropy[t] == pytest.approx([math.log(p + 1)] * 2, abs=1e-5)
        # the own step gains what all other bins lose: counts k/(p+1) against k/p
        own = p - (c if t < 4 else c + 4)  # tokens of the own step before this one
        assert trace.attention_shift[t] == pytest.approx([(p - own) / (p * (p + 1))] * 2, abs=1e-6)
    positions = np.arange(c, c + 4)
    expected = [(1 / (positions + 1)).mean(), (1 / (positions + 1)).mean(), ((positions - 1) / (positions + 1)).mean()]
    np.testing.assert_allclose(trace.step_masses(0)[:, 0], expected, atol=1e-6)


def test_uniform_scorer_knows_every_answer() -> None:
    scorer = open_scorer("uniform")
    assert isinstance(scorer, Scorer)
    (trace,) = scorer.measure([item()], MeasureOptions(premises=True, token_attention=True, peaks=2))
    assert trace.surprisal == pytest.approx(math.log(256))
    assert trace.entropy == pytest.approx(math.log(256))
    assert (trace.rank == 0).all()
    assert (trace.logit_shift == 0).all()
    assert trace.surprisal.sum() == pytest.approx(len(TEXT.encode()) * math.log(256), rel=1e-6)
    assert trace.nll_given_all == pytest.approx(math.log(256))
    assert trace.step_attention.shape == (4 * 9 // 2, 0)


# ---------------------------------------------------------------------------------------------------- against the slow loop


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama (grouped-query)", "gpt2", "qwen2"])
@pytest.mark.parametrize("context", ["question", "none", "bos", "bos and question"])
def test_equal_to_the_slow_loop(family: str, context: str) -> None:
    model = tiny(family, seed=1)
    scorer = scorer_of(model, bos="always" if "bos" in context else "never")
    question = QUESTION if "question" in context else ""
    (trace,) = scorer.measure([item(question=question)], PLAIN)
    before = ([306] if "bos" in context else [])[:1]
    before = [scorer.model.tokenizer.bos_token_id] if "bos" in context else []
    ids = [*before, *(scorer.model.text.ids(f"{question}\n") if question else [])]
    assert trace.n_context == len(ids)
    assert_same(trace, measured_slowly(model, trace, ids))
    if not ids:
        assert np.isnan(trace.surprisal[0])
        assert trace.rank[0] == -1
        assert trace.attention_sink[0] == pytest.approx(1)
        assert trace.step_masses(0)[0] == pytest.approx(
            trace.attention_sink[trace.step_tokens[0, 0] : trace.step_tokens[0, 1]].mean(0)
        )


def test_both_paths_agree() -> None:
    model = tiny("gemma2 (soft caps, sliding)")
    options = MeasureOptions(token_attention=True, peaks=3)
    fast = scorer_of(model).measure([item()], options)[0]
    slow = scorer_of(model, attention="eager").measure([item()], options)[0]
    assert largest_difference(fast, slow) < 1e-5
    assert (fast.peak_token == slow.peak_token).all()
    assert (fast.token_attends_step == slow.token_attends_step).all()


def test_surprisals_sum_to_the_log_probability_of_the_text() -> None:
    model = tiny("qwen3")
    scorer = scorer_of(model)
    (trace,) = scorer.measure([item()], PLAIN)
    ids = [*scorer.model.text.ids(f"{QUESTION}\n"), *trace.token_ids.tolist()]
    with torch.no_grad():
        log_p = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    total = sum(float(log_p[p - 1, ids[p]]) for p in range(trace.n_context, len(ids)))
    assert trace.surprisal.sum() == pytest.approx(-total, abs=1e-3)


def test_masses_are_distributions() -> None:
    (trace,) = scorer_of(tiny("mistral (sliding window)")).measure([item()], PLAIN)
    for step in range(4):
        np.testing.assert_allclose(trace.step_masses(step).sum(0), 1, atol=1e-5)
    assert (trace.logit_shift >= 0).all()
    assert (trace.logit_shift <= 1).all()
    assert (trace.attention_shift >= -1e-6).all()
    assert (trace.attention_shift <= 1 + 1e-6).all()


# ---------------------------------------------------------------------------------------------------- invariances


def many() -> list[Segmented]:
    texts = [TEXT, "But no.", "1 + 2 = 3, so it is 3.", TEXT + " " + TEXT.replace("a", "z"), "Ы", "x y z" * 9]
    return [item(text, QUESTION if i % 2 else "", (), source_id=str(i)) for i, text in enumerate(texts)] + [item()]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama (grouped-query)", "gemma3", "bloom (alibi)", "mixtral (experts)"])
def test_a_batch_changes_nothing(family: str) -> None:
    scorer = scorer_of(tiny(family))
    alone = scorer.measure(many(), PLAIN)
    batched = scorer.measure(many(), MeasureOptions(batch_tokens=4096))
    reversed_order = scorer.measure(many()[::-1], MeasureOptions(batch_tokens=300))[::-1]
    for a, b, r in zip(alone, batched, reversed_order, strict=True):
        assert largest_difference(a, b) < 1e-4
        assert largest_difference(a, r) < 1e-4


@pytest.mark.slow
def test_one_at_a_time_is_bit_identical_in_any_order() -> None:
    scorer = scorer_of(tiny("qwen2"))
    forwards = scorer.measure(many(), PLAIN)
    backwards = scorer.measure(many()[::-1], PLAIN)[::-1]
    for a, b in zip(forwards, backwards, strict=True):
        assert largest_difference(a, b) == 0


def test_the_context_does_not_change_the_tokens_of_the_chain() -> None:
    scorer = scorer_of(tiny("qwen2"))
    with_question, without = scorer.measure([item(), item(question="")], PLAIN)
    assert (with_question.token_ids == without.token_ids).all()
    assert largest_difference(without, scorer.measure([item(question="")], PLAIN)[0]) == 0
    assert not np.allclose(with_question.surprisal[1:], without.surprisal[1:])


def test_a_repeated_token_shifts_nothing_at_the_embeddings() -> None:
    scorer = scorer_of(tiny("llama (grouped-query)"))
    (trace,) = scorer.measure([item("aaaa", "a", ())], PLAIN)
    assert (trace.hidden_shift[1:, 0] == 0).all()


def test_steps_without_a_token_are_undefined() -> None:
    from trails.schema import Step

    chain = item("the end", "", ()).chain
    steps = (Step(0, 0, 1), Step(1, 1, 7))  # "the" is one token and belongs to the step of its last character
    (trace,) = scorer_of(tiny("qwen2")).measure([Segmented(chain, steps)], MeasureOptions(states=(0,), premises=True))
    assert trace.step_tokens.tolist()[0] == [0, 0]
    assert np.isnan(trace.step_masses(0)).all()
    assert np.isnan(trace.step_states[0]).all()
    assert np.isnan(trace.nll_given_all[0])
    assert np.isfinite(trace.nll_given_all[1])


def test_the_first_token_is_the_sink_even_without_context() -> None:
    (trace,) = scorer_of(tiny("qwen2")).measure([item(question="")], PLAIN)
    assert trace.attention_sink[0] == pytest.approx(1)
    for name in ("surprisal", "entropy", "logit_shift", "attention_shift", "attention_previous", "hidden_shift"):
        assert np.isnan(getattr(trace, name)[0]).all(), name
        assert np.isfinite(getattr(trace, name)[1:]).all(), name


@pytest.mark.slow
def test_chat_template_and_question_tokens() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}<bot>"
    model = tiny("qwen2")
    scorer = scorer_of(model, tokenizer=tokenizer, template="chat")
    (trace,) = scorer.measure([item()], PLAIN)
    ids = [*scorer.model.text.ids("<user>"), *scorer.model.text.ids(QUESTION), *scorer.model.text.ids("</><bot>")]
    assert trace.question_token_ids.tolist() == scorer.model.text.ids(QUESTION)
    assert np.isfinite(trace.question_surprisal).all()
    assert_same(trace, measured_slowly(model, trace, ids))
    assert scorer.run.id != scorer_of(model).run.id


# ---------------------------------------------------------------------------------------------------- real vocabularies


@pytest.mark.parametrize("offset", [-25.0, 0.0, 25.0])
def test_statistics_of_a_real_vocabulary_are_those_of_float64(offset: float) -> None:
    """Logits of ±25 around an offset: what does not cancel in float32 shows at 50,000 items, not at 300."""
    generator = torch.Generator().manual_seed(3)
    flat = torch.rand(12, 50_000, generator=generator) * 50 - 25
    narrow = torch.randn(12, 50_000, generator=generator) * 0.5
    logits = torch.cat((flat, narrow)) + offset
    targets = torch.randint(0, 50_000, (24,), generator=generator)
    before = logits.clone()
    found = logit_statistics(lambda rows: rows, logits, targets, tile=10, block=4)
    assert torch.equal(logits, before)
    log_p = torch.log_softmax(logits.double(), 1)
    p = log_p.exp()
    assert float((found.entropy + (p * log_p).sum(1)).abs().max()) < 1e-5
    assert float((found.surprisal + log_p.gather(1, targets[:, None])[:, 0]).abs().max()) < 2e-5
    assert float((found.shift[1:] - (p[1:] - p[:-1]).abs().sum(1) / 2).abs().max()) < 1e-5


def test_a_shift_never_exceeds_one() -> None:
    """Disjoint distributions over many items: sums of absolute differences round up to 1.0000045."""
    logits = torch.full((40, 50_000), -60.0)
    logits[::2, :25_000] = torch.rand(20, 25_000, generator=torch.Generator().manual_seed(0))
    logits[1::2, 25_000:] = torch.rand(20, 25_000, generator=torch.Generator().manual_seed(1))
    found = logit_statistics(lambda rows: rows, logits, torch.zeros(40, dtype=torch.int64), tile=40, block=10)
    assert float(found.shift[1:].max()) <= 1.0
    assert float(found.shift[1:].min()) > 1 - 1e-5
