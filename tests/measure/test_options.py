"""What is measured on request: followed attention, peaks, premises, states, windows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from hypothesis import given
from hypothesis import strategies as st
from reference import QUESTION, TEXT, assert_same, item, measured_slowly, rows_of, scorer_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trails.errors import ModelError
from trails.measure import passes
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.metrics import most_likely
from trails.measure.premises import packable
from trails.schema import QUESTION as QUESTION_BIN
from trails.schema import SINK, Step
from trails.segment import segment

LONG = item(TEXT + " " + TEXT.replace("1", "7"), QUESTION, ("But", "Однако", "Therefore"))


def context(scorer: object) -> list[int]:
    return scorer.model.text.ids(f"{QUESTION}\n")  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["qwen2", "gemma2 (soft caps, sliding)", "bloom (alibi)"])
def test_token_attention_and_peaks(family: str) -> None:
    model = tiny(family)
    scorer = scorer_of(model)
    k = 3
    (trace,) = scorer.measure([item()], MeasureOptions(token_attention=True, peaks=k))
    ids = context(scorer)
    c, n = len(ids), trace.n_tokens
    rows = rows_of(model, [*ids, *trace.token_ids.tolist()])
    own = np.concatenate([np.full(b - a, s) for s, (a, b) in enumerate(trace.step_tokens)])
    for t in range(n):
        mean = rows.attention[c + t].mean(1)[:, c:]  # (L, t+1) on the chain's tokens
        steps = (
            np.stack([mean[:, a : min(b, t + 1)].sum(1) for a, b in trace.step_tokens[: own[t]]], 1) if own[t] else None
        )
        if steps is None:
            assert trace.token_attends_step[t] == -1
            assert np.isnan(trace.token_attends_mass[t])
        else:
            best = steps.mean(0).argmax()
            assert trace.token_attends_step[t] == best
            assert trace.token_attends_mass[t] == pytest.approx(steps.mean(0)[best], abs=1e-5)
            assert trace.token_attends_layer[t] == steps[:, best].argmax()
        strongest = mean[:, : max(0, t - 1)].max(0)
        order = np.argsort(-strongest)[:k]
        assert trace.peak_token[t, : len(order)].tolist() == order.tolist()
        assert trace.peak_mass[t, : len(order)] == pytest.approx(strongest[order], abs=1e-5)
        assert trace.peak_layer[t, : len(order)].tolist() == mean[:, order].argmax(0).tolist()
        assert (trace.peak_token[t, len(order) :] == -1).all()
        assert np.isnan(trace.peak_mass[t, len(order) :]).all()


def nll(model: object, before: list[int], step: list[int]) -> float:
    """Mean surprisal of ``step`` after ``before``, by a plain forward pass."""
    with torch.no_grad():
        log_p = torch.log_softmax(model(torch.tensor([before + step])).logits[0].double(), -1)  # type: ignore[operator]
    values = [-float(log_p[len(before) + i - 1, token]) for i, token in enumerate(step) if len(before) + i]
    return sum(values) / len(values)


@pytest.mark.slow
@pytest.mark.parametrize("question", [QUESTION, ""])
@pytest.mark.parametrize(
    "family", ["llama (grouped-query)", "gpt2", "mistral (sliding window)", "bloom (alibi)", "opt"]
)
def test_premises(family: str, question: str) -> None:
    model = tiny(family)
    scorer = scorer_of(model)
    chain = item(question=question)
    (trace,) = scorer.measure([chain], MeasureOptions(premises=True))
    before = context(scorer) if question else []
    ids, spans = trace.token_ids.tolist(), trace.step_tokens.tolist()
    for s, (a, b) in enumerate(spans):
        assert trace.nll_given_all[s] == pytest.approx(nll(model, before + ids[:a], ids[a:b]), abs=1e-4)
        assert trace.nll_given_question[s] == pytest.approx(nll(model, before, ids[a:b]), abs=1e-4)
        if s == 0:
            assert math.isnan(trace.nll_without_previous[s])
        else:
            kept = ids[: spans[s - 1][0]]
            assert trace.nll_without_previous[s] == pytest.approx(nll(model, before + kept, ids[a:b]), abs=1e-4)
    assert trace.nll_given_question[0] == trace.nll_given_all[0]


def test_premises_pack_where_a_mask_says_everything_and_only_there() -> None:
    sequence = scorer_of(tiny("llama (grouped-query)")).sequence(item())
    assert packable(scorer_of(tiny("llama (grouped-query)")).model, sequence)
    assert not packable(scorer_of(tiny("mistral (sliding window)")).model, sequence)
    assert not packable(scorer_of(tiny("bloom (alibi)")).model, sequence)


@pytest.mark.slow
def test_states_are_means_of_the_residual_stream() -> None:
    model = tiny("llama (grouped-query)")
    scorer = scorer_of(model)
    (trace,) = scorer.measure([item()], MeasureOptions(states=(3, 0)))
    ids = context(scorer)
    rows = rows_of(model, [*ids, *trace.token_ids.tolist()])
    assert trace.state_layers == (0, 3)
    for s, (a, b) in enumerate(trace.step_tokens):
        expected = rows.hidden[len(ids) + a : len(ids) + b].mean(0)
        np.testing.assert_allclose(trace.step_states[s], expected[[0, 3]], atol=1e-4)


def test_a_state_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ModelError) as error:
        scorer_of(tiny("llama (grouped-query)")).measure([item()], MeasureOptions(states=(4,)))
    assert str(error.value) == "layer 4 was asked for, tiny has states 0 (embeddings) to 3."


# ------------------------------------------------------------------------------------------------ the most likely items


@given(st.data())
def test_the_most_likely_items_are_those_of_a_whole_search(data: st.DataObject) -> None:
    """Any size beside whole blocks, any k, ties included: the values are those of a sort, and each item has its value."""
    size, k = data.draw(st.integers(1, 700)), data.draw(st.integers(1, 9))
    k = min(k, size)
    seed = data.draw(st.integers(0, 2**20))
    logits = torch.randn(3, size, generator=torch.Generator().manual_seed(seed))
    if data.draw(st.booleans()):
        logits = logits.round()
    values, items = most_likely(logits, k)
    assert torch.equal(values, logits.sort(1, descending=True).values[:, :k])
    assert torch.equal(logits.gather(1, items), values)
    assert all(len(set(row)) == k for row in items.tolist())


@pytest.mark.slow
def test_alternatives_follow_from_the_distribution() -> None:
    model = tiny("qwen2")
    scorer = scorer_of(model)
    (trace,) = scorer.measure([item()], MeasureOptions())
    (seven,) = scorer.measure([item()], MeasureOptions(top_k=7))
    (one,) = scorer.measure([item()], MeasureOptions(top_k=1))
    (none,) = scorer.measure([item()], MeasureOptions(top_k=0))
    rows = rows_of(model, [*context(scorer), *trace.token_ids.tolist()])
    before = rows.log_p[len(context(scorer)) - 1 : -1]
    assert trace.top_id.tolist() == np.argsort(-before, 1)[:, :5].tolist()
    assert (trace.top_id == seven.top_id[:, :5]).all()
    assert (one.top_id == trace.top_id[:, :1]).all()
    assert (one.margin == trace.margin).all()  # the second item is looked at, though it is not kept
    assert (trace.margin == trace.top_log_probability[:, 0] - trace.top_log_probability[:, 1]).all()
    assert (none.top_id, none.top_log_probability, none.margin, none.top_pieces) == (None, None, None, ())
    place = np.flatnonzero(trace.rank < 5)
    assert (trace.top_id[place, trace.rank[place]] == trace.token_ids[place]).all()
    np.testing.assert_array_equal(trace.top_log_probability[place, trace.rank[place]], -trace.surprisal[place])
    assert trace.top_texts()[int(trace.top_id[0, 0])] == scorer.model.text.pieces([int(trace.top_id[0, 0])])[0]
    for name in ("surprisal", "entropy", "rank", "logit_shift"):
        assert np.array_equal(getattr(trace, name), getattr(none, name)), name


def test_pieces_of_vocabulary_items_are_what_a_text_shows_of_them() -> None:
    text = scorer_of(tiny("qwen2")).model.text
    encoded = text.encode(TEXT, "a text")
    assert text.pieces(encoded.ids.tolist()) == encoded.pieces
    assert text.pieces([100_000]) == ("<100000>",)
    assert text.pieces([]) == ()


# ---------------------------------------------------------------------------------------------------- windows


def test_a_chain_beyond_the_limit_is_refused_by_default() -> None:
    scorer = scorer_of(tiny("gpt2", n_positions=64))
    length = scorer.count_tokens(LONG)
    with pytest.raises(ModelError) as error:
        scorer.measure([LONG], MeasureOptions())
    assert str(error.value) == (
        f"chain {LONG.chain.id} has {length} tokens with its context, the window of tiny is 64. Use --window stride to "
        "measure it in overlapping windows, or leave it out."
    )


@pytest.mark.slow
def test_windows_are_stitched() -> None:
    """Every kept token equals the last half of a window that restates the context, measured by hand."""
    limit = 64
    model = tiny("gpt2", n_positions=limit)
    scorer = scorer_of(model, window="stride")
    (trace,) = scorer.measure([LONG], MeasureOptions())
    ids = context(scorer)
    room = limit - len(ids)
    n = trace.n_tokens
    assert n > 2 * room
    kept, seen = [(0, 0, room)], room
    while seen < n:
        end = min(n, seen + room // 2)
        kept.append((end - room, seen, end))
        seen = end
    for begin, first, end in kept:
        rows = rows_of(model, [*ids, *trace.token_ids[begin:end].tolist()])
        for t in range(first, end):
            p = len(ids) + t - begin
            assert trace.surprisal[t] == pytest.approx(-rows.log_p[p - 1][trace.token_ids[t]], abs=1e-4)
            assert trace.attention_sink[t] == pytest.approx(rows.attention[p][:, :, 0].mean(1), abs=1e-4)
    for step in range(4):  # nothing is lost at the seams
        np.testing.assert_allclose(trace.step_masses(step).sum(0), 1, atol=1e-5)
    assert np.isfinite(trace.hidden_shift).all()
    assert np.isfinite(trace.hidden_baseline).all()
    assert scorer.run.id != scorer_of(model).run.id


@pytest.mark.slow
def test_a_window_does_not_change_a_chain_that_fits() -> None:
    model = tiny("gpt2")
    one = scorer_of(model, window="stride").measure([item()], MeasureOptions())[0]
    assert_same(one, measured_slowly(model, one, context(scorer_of(model))))


def test_a_context_that_fills_the_window_is_refused() -> None:
    scorer = scorer_of(tiny("gpt2", n_positions=64), window="stride")
    chain = item(TEXT, "q" * 40)
    with pytest.raises(ModelError) as error:
        scorer.measure([Segmented(chain.chain, chain.steps)], MeasureOptions())
    assert str(error.value) == (
        f"chain {chain.chain.id}: its context alone has 41 tokens, more than half of the window of 64 tokens of tiny. "
        "Shorten the question, or leave the chain out."
    )


# ---------------------------------------------------------------------------------------------------- very many steps


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_of_very_many_steps_the_nearest_are_kept_and_equal_the_whole(
    attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one pass: the same numbers as the whole map, of fewer steps; what does not look at steps bit for bit."""
    scorer = scorer_of(tiny("qwen2"), attention=attention)
    options = MeasureOptions(token_attention=True, states=(1,))
    many = item("a b. " * 12, QUESTION, ())
    steps = tuple(Step(i, 5 * i, 5 * i + 5) for i in range(12))
    many = Segmented(many.chain, steps)
    (whole,) = scorer.measure([many], options)
    monkeypatch.setattr(passes, "MOST_STEPS", 10)
    monkeypatch.setattr(passes, "NEAR_STEPS", 4)
    (near,) = scorer.measure([many], options)
    assert whole.step_keys is None
    assert near.step_keys is not None
    assert near.step_keys[:3].tolist() == [SINK, QUESTION_BIN, 0]
    assert near.step_keys[-6:].tolist() == [SINK, QUESTION_BIN, 8, 9, 10, 11]
    for step in range(12):
        all_masses, masses = whole.step_masses(step), near.step_masses(step)
        kept = ~np.isnan(masses).all(1)
        assert kept.tolist() == [True, True] + [key > step - 4 for key in range(step + 1)]
        np.testing.assert_allclose(masses[kept], all_masses[kept], atol=1e-6)
    for name in ("surprisal", "entropy", "attention_previous", "attention_entropy", "hidden_shift"):
        np.testing.assert_array_equal(getattr(near, name), getattr(whole, name))
    for name in ("attention_shift", "attention_sink", "step_states"):
        np.testing.assert_allclose(getattr(near, name), getattr(whole, name), atol=1e-6)
    # tokens look for the step they attend to among the nearest: of all steps where that is one of them
    own = np.repeat(np.arange(12), np.diff(near.step_tokens, axis=1)[:, 0])
    among = own - whole.token_attends_step < 4
    assert among[own > 3].any()
    assert not among[own > 3].all()
    assert near.token_attends_step[among].tolist() == whole.token_attends_step[among].tolist()
    np.testing.assert_allclose(near.token_attends_mass[among], whole.token_attends_mass[among], atol=1e-6)
    assert ((own - near.token_attends_step)[~among] < 4).all()
    assert (near.token_attends_mass[~among] <= whole.token_attends_mass[~among]).all()


class Largest(TorchDispatchMode):
    """The numbers in the largest tensor that is made while inside."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for made in tree_leaves(out):
            # a view, as of an index that is expanded, takes no memory
            if isinstance(made, torch.Tensor) and not made._is_view():
                self.numbers = max(self.numbers, made.numel())
        return out


@pytest.mark.slow
def test_memory_in_one_pass_does_not_grow_with_tokens_times_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 600
    scorer = scorer_of(tiny("qwen2", max_position_embeddings=4096, num_hidden_layers=1))
    chain = item("a b. " * steps, "", ()).chain
    long = Segmented(chain, tuple(Step(i, 5 * i, 5 * i + 5) for i in range(steps)))
    options = MeasureOptions(token_attention=True, states=(1,))
    monkeypatch.setattr(passes, "NEAR_STEPS", 16)
    found = {}
    for most in (steps, steps - 1):
        monkeypatch.setattr(passes, "MOST_STEPS", most)
        with Largest() as largest:
            (trace,) = scorer.measure([long], options)
        found[most] = largest.numbers
    whole = trace.n_tokens * steps
    assert found[steps] >= whole
    assert found[steps - 1] < whole * 2 / 3  # the logits


def test_very_many_steps_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bins count within the window, so that memory does not grow with the chain; a step outside the window has no row."""
    scorer = scorer_of(tiny("gpt2", n_positions=64), window="stride")
    chain = item("a b. " * 40, "", ()).chain
    many = Segmented(chain, tuple(Step(i, 5 * i, 5 * i + 5) for i in range(40)))
    options = MeasureOptions(token_attention=True, states=(1,))
    (whole,) = scorer.measure([many], options)
    monkeypatch.setattr(passes, "MOST_STEPS", 10)
    monkeypatch.setattr(passes, "NEAR_STEPS", 9)
    parts = passes.passes_of(scorer.sequence(many), scorer.run)
    assert max(part.steps.stop - part.steps.start for part in parts) <= 14
    (near,) = scorer.measure([many], options)
    for step in range(40):
        masses = near.step_masses(step)
        kept = ~np.isnan(masses).all(1)
        assert kept[-1]
        assert kept[2:].sum() <= 9
        np.testing.assert_allclose(masses[kept], whole.step_masses(step)[kept], atol=1e-6)
    for name in ("surprisal", "attention_shift", "step_states"):
        np.testing.assert_allclose(getattr(near, name), getattr(whole, name), atol=1e-6)
    own = np.repeat(np.arange(40), np.diff(near.step_tokens, axis=1)[:, 0])
    among = (own - whole.token_attends_step < 9) | (whole.token_attends_step < 0)
    assert among[own > 9].mean() > 0.1
    assert near.token_attends_step[among].tolist() == whole.token_attends_step[among].tolist()
    np.testing.assert_allclose(near.token_attends_mass[among], whole.token_attends_mass[among], atol=1e-6)


@pytest.mark.slow
def test_the_nearest_steps_of_a_long_chain_are_those_of_the_whole_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the number of steps from which only the nearest are kept, in many windows of a small model."""
    model = tiny("qwen2", max_position_embeddings=512, num_hidden_layers=1)
    scorer = scorer_of(model, window="stride")
    text = " ".join(f"Step {n}: if {n} is tested, then {n * n} is not 49. But wait, so I go on." for n in range(350))
    chain = item(text, QUESTION, ()).chain
    long = Segmented(chain, segment(chain))
    steps = len(long.steps)
    assert steps > passes.MOST_STEPS
    (near,) = scorer.measure([long], MeasureOptions())
    assert near.step_keys is not None
    assert len(near.step_keys) <= steps * (passes.NEAR_STEPS + 2)
    monkeypatch.setattr(passes, "MOST_STEPS", steps)
    (whole,) = scorer.measure([long], MeasureOptions())
    assert whole.step_keys is None
    for step in range(steps):
        masses = near.step_masses(step)
        kept = ~np.isnan(masses).all(1)
        assert kept[[0, 1, -1]].all()
        assert kept[2:].sum() <= passes.NEAR_STEPS
        np.testing.assert_allclose(masses[kept], whole.step_masses(step)[kept], atol=1e-6)
    for name in ("surprisal", "attention_shift", "attention_sink", "hidden_shift"):
        np.testing.assert_allclose(getattr(near, name), getattr(whole, name), atol=1e-6)


def test_the_words_about_chains_of_many_steps_have_the_numbers_of_the_code() -> None:
    from trails.pipeline.measuring import IngestSummary, summary_lines
    from trails.schema import Trace
    from trails.store.rows import STRONGEST

    page = " ".join((Path(__file__).parents[2] / "docs" / "measuring.md").read_text(encoding="utf-8").split())
    (said,) = [line for line in summary_lines(IngestSummary(many_steps=1)) if line.startswith("bounded")]
    for words in (page, " ".join((Trace.__doc__ or "").split())):
        assert f"more than {passes.MOST_STEPS:,} steps keeps" in words
        assert f"the nearest {passes.NEAR_STEPS} steps" in words
    assert f"up to {passes.MOST_STEPS:,} steps, then the nearest {passes.NEAR_STEPS}" in said
    assert f"the {STRONGEST} strongest" in said
    assert f"the {STRONGEST} strongest of these" in page
