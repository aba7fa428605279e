"""Gradients at the input embeddings against finite differences in float64, through transformers' own ``inputs_embeds``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from reference import item, scorer_of

from trails.analyses import gradient as explained
from trails.analyses.gradient import gradient
from trails.errors import ModelError, UsageError
from trails.measure.base import MeasureOptions
from trails.measure.gradient import REPLACED, input_gradient, likeliest_others, likelihoods
from trails.measure.targets import has_map, kept_target
from trails.measure.uniform import UniformScorer

# step of the difference, and how far its quotient may be off; families of RMS norms round to float32 inside
FAMILIES = {
    "gpt2": (1e-5, 1e-5),
    "phi": (1e-5, 1e-5),
    "qwen2": (1e-2, 1e-2),
    "gemma2 (soft caps, sliding)": (1e-2, 1e-2),
    "gemma3": (1e-2, 1e-2),
}


def double(family: str) -> Any:
    """A scorer whose model runs in float64."""
    return scorer_of(tiny(family).double())


def sequence(scorer: Any, target: slice) -> tuple[np.ndarray, slice]:
    """The ids of the test chain in its context, and the rows that predict its tokens ``target``."""
    row = scorer.sequence(item()).row
    before = len(row.context)
    return row.ids, slice(before + target.start - 1, before + target.stop - 1)


def likelihood(module: Any, ids: np.ndarray, rows: slice, embeddings: torch.Tensor) -> float:
    """Σ ln p of the target by transformers alone, from embeddings (T, d)."""
    with torch.no_grad():
        logits = module(inputs_embeds=embeddings[None]).logits[0].double()
    log_p = torch.log_softmax(logits, -1)
    return sum(float(log_p[p, ids[p + 1]]) for p in range(rows.start, rows.stop))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_finite_differences(family: str) -> None:
    scorer = double(family)
    module = scorer.model.module
    ids, rows = sequence(scorer, slice(30, 36))
    found = input_gradient(scorer.model, ids, rows)
    with torch.no_grad():
        given = module.get_input_embeddings()(torch.from_numpy(ids)[None])[0].clone()
    assert found.value == pytest.approx(likelihood(module, ids, rows, given), rel=1e-6)
    h, tolerance = FAMILIES[family]
    scale = float(np.abs(found.effect).max())
    for place in (0, 3, 17, rows.start - 1, rows.stop - 1):
        ends = []
        for sign in (1, -1):
            moved = given.clone()
            moved[place] *= 1 + sign * h
            ends.append(likelihood(module, ids, rows, moved))
        assert found.effect[place] == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=tolerance * scale)
    slopes = []
    for axis in range(given.shape[1]):
        ends = []
        for sign in (1, -1):
            moved = given.clone()
            moved[17, axis] += sign * h
            ends.append(likelihood(module, ids, rows, moved))
        slopes.append((ends[0] - ends[1]) / (2 * h))
    assert found.norm[17] == pytest.approx(float(np.linalg.norm(slopes)), rel=2 * tolerance)
    assert (found.effect[rows.stop :] == 0).all(), "no token of the target sees what comes after it"
    assert (found.norm[rows.stop :] == 0).all()
    assert (found.norm[: rows.start] > 0).all()
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())


@pytest.mark.slow
def test_the_control_replaces_tokens_and_scores_the_target_again() -> None:
    scorer = double("gpt2")
    chain = item()
    found = gradient(scorer, chain, replace=12)
    row = scorer.sequence(chain).row
    before, (start, end) = len(row.context), row.step_tokens[-1].tolist()
    assert (found.target.start, found.target.end) == (start, end)
    rows = slice(before + start - 1, before + end - 1)
    assert len(found.replaced) == 12
    assert found.replaced.max() == start - 1, "the whole way up to the target is looked at"
    embeddings = scorer.model.module.get_input_embeddings()
    with torch.no_grad():
        log_p = torch.log_softmax(scorer.model.module(torch.from_numpy(row.ids)[None]).logits[0], -1)
        whole = likelihood(scorer.model.module, row.ids, rows, embeddings(torch.from_numpy(row.ids)))
    for place, piece, change in zip(found.replaced + before, found.by, found.change, strict=True):
        order = torch.argsort(-log_p[place - 1])
        other = next(int(token) for token in order if token != row.ids[place])
        assert piece == scorer.model.text.pieces([other])[0]
        ids = row.ids.copy()
        ids[place] = other
        with torch.no_grad():
            now = likelihood(scorer.model.module, ids, rows, embeddings(torch.from_numpy(ids)))
        assert change == pytest.approx(now - whole, abs=1e-9)
    report = found.report()
    score = next(one for one in report.scores if one.name == "gradient × input, size")
    ranked = [np.argsort(np.argsort(np.abs(x))) for x in (found.effect[found.replaced], found.change)]
    assert score.value == pytest.approx(np.corrcoef(*ranked)[0, 1], abs=1e-6)
    assert score.controls[0].interval is not None
    assert abs(score.controls[0].value) < 0.1
    assert ("was not shown to agree" in report.verdict) == (not score.beyond())
    tokens = report.to_arrow("tokens")
    assert sorted(tokens["token"].to_pylist()) == list(range(len(row.tokens)))
    assert report.maps[found.chain]["gradient effect"] is found.effect


@pytest.mark.slow
def test_integrated_gradients_are_complete_or_withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = double("gpt2")
    found = gradient(scorer, item(), integrate=64)
    assert found.converged
    assert "integrated gradients" in found.report().maps[found.chain]
    row = scorer.sequence(item()).row
    start, end = row.step_tokens[-1].tolist()
    before = len(row.context)
    rows = slice(before + start - 1, before + end - 1)
    with torch.no_grad():
        given = scorer.model.module.get_input_embeddings()(torch.from_numpy(row.ids)).clone()
    bare = given.clone()
    bare[before : before + start] = 0
    change = likelihood(scorer.model.module, row.ids, rows, given) - likelihood(
        scorer.model.module, row.ids, rows, bare
    )
    assert float(found.integrated.sum()) == pytest.approx(change, rel=0.05)
    assert abs(float(found.integrated.sum()) - change) / abs(change) == pytest.approx(found.deficits[-1][1], rel=0.01)
    monkeypatch.setattr(explained, "COMPLETE", 0.0)
    never = gradient(scorer, item(), integrate=32)
    assert [steps for steps, _ in never.deficits] == [8, 16, 32]
    report = never.report()
    assert any("not converged" in held.reason for held in report.withheld)
    assert "integrated gradients" not in report.maps[never.chain]
    assert not any("integrated" in score.name for score in report.scores)


@pytest.mark.slow
def test_targets_and_what_cannot_be_explained() -> None:
    scorer = double("gpt2")
    chain = item()
    answered = replace(chain, chain=replace(chain.chain, answer="6"))
    found = gradient(scorer, answered, target="answer")
    row = scorer.sequence(answered).row
    ids = np.concatenate((row.ids, np.asarray(scorer.model.text.ids("\n6"), np.int64)))
    with torch.no_grad():
        embeddings = scorer.model.module.get_input_embeddings()(torch.from_numpy(ids))
    rows = slice(len(row.ids) - 1, len(ids) - 1)
    assert found.log_likelihood == pytest.approx(likelihood(scorer.model.module, ids, rows, embeddings), rel=1e-9)
    one = gradient(scorer, chain, target="5")
    assert one.target.name == "token 5"
    assert (one.effect[5:] == 0).all()
    assert len(one.replaced) == 5
    assert "too few tokens" in one.report().verdict
    assert one.report().withheld
    assert "too few" in gradient(scorer, chain, replace=0).report().verdict
    for target, said in (
        ("answer", "has no answer"),
        ("0", "has none before"),
        ("999", "has targets 1 to"),
        ("end", "Targets: conclusion, answer"),
    ):
        with pytest.raises(UsageError, match=said):
            gradient(scorer, chain, target=target)
    with pytest.raises(UsageError, match="has no conclusion"):
        gradient(scorer, item(cuts=()), target="conclusion")
    with pytest.raises(ModelError, match="language model"):
        gradient(UniformScorer(), chain)
    short = scorer_of(tiny("gpt2", n_positions=48), window="stride")
    with pytest.raises(ModelError, match="the window of"):
        gradient(short, chain)


def test_a_replacement_is_never_the_token_itself() -> None:
    scorer = double("gpt2")
    ids, rows = sequence(scorer, slice(20, 22))
    places = np.arange(1, 30)
    others = likeliest_others(scorer.model, ids, places)
    assert (others != ids[places]).all()
    same = likelihoods(scorer.model, [ids, ids.copy()], rows)
    assert same[0] == same[1]


def test_memory_of_gradients_does_not_grow_with_what_is_inside_a_layer() -> None:
    held = []
    for layers in (2, 4):
        scorer = scorer_of(tiny("gpt2", n_layer=layers).double())
        ids, rows = sequence(scorer, slice(30, 36))
        kept: list[int] = []

        def pack(tensor: torch.Tensor, kept: list[int] = kept) -> torch.Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            input_gradient(scorer.model, ids, rows)
        held.append(sum(kept))
        assert all("forward" not in vars(layer) for layer in scorer.model.layers), "the layers are as they were"
    assert held[1] - held[0] == 2 * len(ids) * scorer.run.d_model, "a layer more keeps its input and nothing else"


@pytest.mark.slow
def test_a_kept_map_is_that_of_the_command() -> None:
    scorer = scorer_of(tiny("gpt2"))
    (plain,) = scorer.measure([item()], MeasureOptions())
    (trace,) = scorer.measure([item()], MeasureOptions(gradients="conclusion"))
    found = gradient(scorer, item(), replace=REPLACED)
    assert trace.array("gradient_effect").tobytes() == found.effect.tobytes()
    assert trace.array("gradient_norm").tobytes() == found.norm.tobytes()
    assert trace.array("gradient_target").tolist() == [0, found.target.start, found.target.end]
    assert trace.array("gradient_replaced").tolist() == found.replaced.tolist()
    np.testing.assert_array_equal(trace.array("gradient_change"), found.change.astype(np.float32))
    score = explained.kept_agreement(trace)
    told = next(one for one in found.report().scores if one.name == "gradient × input, size")
    assert score.value == pytest.approx(told.value, abs=1e-6)
    assert score.controls[0].interval is not None
    maps = explained.Agreements()
    maps.add(trace)
    maps.add(plain)
    assert (maps.n_chains, maps.without) == (1, 0)
    assert maps.score().value == pytest.approx(score.value, abs=1e-6)
    assert maps.score().controls[0].reach == pytest.approx(score.controls[0].reach, abs=0.15)
    # every other number is as without gradients
    assert plain.surprisal.tobytes() == trace.surprisal.tobytes()
    assert plain.array("gradient_effect") is None
    assert (kept_target(trace), has_map(trace)) == ("conclusion", True)
    assert (kept_target(plain), has_map(plain)) == ("", False)


def test_a_chain_without_the_target_keeps_an_undefined_map() -> None:
    scorer = scorer_of(tiny("gpt2"))
    for asked, chain, number in (
        ("answer", item(), [1, -1, -1]),
        ("999", item(), [2, 999, -1]),
        ("conclusion", item(cuts=()), [0, -1, -1]),
    ):
        (trace,) = scorer.measure([chain], MeasureOptions(gradients=asked))
        assert trace.array("gradient_target").tolist() == number
        assert np.isnan(trace.array("gradient_effect")).all()
        assert len(trace.array("gradient_replaced")) == len(trace.array("gradient_change")) == 0
        assert (kept_target(trace), has_map(trace)) == (asked, False)
        maps = explained.Agreements()
        maps.add(trace)
        assert (maps.n_chains, maps.without, maps.score()) == (0, 1, None)
    with pytest.raises(UsageError, match="does not exist"):
        scorer.measure([item()], MeasureOptions(gradients="end"))
    with pytest.raises(ModelError, match="no gradients"):
        UniformScorer().measure([item()], MeasureOptions(gradients="conclusion"))
