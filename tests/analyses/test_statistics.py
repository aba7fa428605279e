"""Scores cannot exist without a control; the statistics agree with their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trails.statistics import (
    Control,
    Score,
    auc,
    bootstrap,
    centred,
    cross_validated,
    cross_validated_choice,
    fit_choice,
    fit_whitening,
    hashed_words,
    nearest,
    ranks,
    spearman,
    step_change,
    within_group_auc,
)


@pytest.mark.parametrize("controls", [(), (Control("nothing", math.nan),)])
def test_a_score_without_a_control_cannot_be_made(controls: tuple[Control, ...]) -> None:
    with pytest.raises(ValueError, match="no control"):
        Score("bare", 0.9, "AUC", controls)


def test_excess_is_over_the_first_control() -> None:
    assert Score("s", 0.9, "AUC", (Control("null", 0.5), Control("other", 0.7))).excess == pytest.approx(0.4)


VALUES = st.lists(st.integers(0, 5), min_size=1, max_size=20)


@settings(max_examples=200, deadline=None)
@given(VALUES, VALUES)
def test_auc_is_the_share_of_won_pairs(positive: list[int], negative: list[int]) -> None:
    won = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    assert auc(positive, negative) == pytest.approx(won / len(positive) / len(negative))


def test_auc_of_nothing_is_undefined() -> None:
    assert math.isnan(auc([], [1.0]))


def test_undefined_scores_are_ties_within_a_group() -> None:
    score = np.array([np.nan, 1.0, 2.0, 5.0, 1.0])
    true = np.array([True, False, False, True, False])
    groups, values = within_group_auc(score, true, np.array([0, 0, 0, 1, 1]))
    assert groups.tolist() == [0, 1]
    assert values.tolist() == [0.5, 1.0]


def test_ranks_share_ties() -> None:
    assert ranks([3, 1, 3, 2]).tolist() == [3.5, 1.0, 3.5, 2.0]
    assert spearman([1, 2, 3, 4], [10, 20, 30, 25]) == pytest.approx(0.8)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for draw in range(200):
        interval = bootstrap(rng.normal(size=60), draws=300, seed=draw)
        assert interval is not None
        hits += interval[0] <= 0 <= interval[1]
    assert 0.89 <= hits / 200 <= 0.985
    assert bootstrap([1.0, 2.0]) is None


def test_cross_validation_finds_nothing_in_noise_and_something_in_signal() -> None:
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(150), 4)
    chosen = np.zeros(600, np.bool_)
    chosen[np.arange(150) * 4 + rng.integers(0, 4, 150)] = True
    noise = rng.normal(size=(600, 20))
    # 20 features fit 150 choices well in the sample; held out they are worth nothing
    _, inside = within_group_auc(noise @ fit_choice(noise, chosen, group, ridge=0.1), chosen, group)
    _, outside = within_group_auc(cross_validated_choice(noise, chosen, group, ridge=0.1), chosen, group)
    assert inside.mean() > 0.6
    assert outside.mean() < 0.58
    signal = noise.copy()
    signal[:, 3] += 2.0 * chosen
    _, found = within_group_auc(cross_validated_choice(signal, chosen, group), chosen, group)
    assert found.mean() > 0.85
    flat = cross_validated(signal, chosen, group)
    assert auc(flat[chosen], flat[~chosen]) > 0.85


def test_the_choice_model_recovers_its_weights() -> None:
    rng = np.random.default_rng(2)
    group = np.repeat(np.arange(4000), 5)
    x = rng.normal(size=(20_000, 2))
    utility = x @ np.array([1.5, -0.7]) + rng.gumbel(size=20_000)
    best = utility.reshape(4000, 5).argmax(axis=1)
    chosen = np.zeros(20_000, np.bool_)
    chosen[np.arange(4000) * 5 + best] = True
    assert fit_choice(x, chosen, group, ridge=1e-6) == pytest.approx([1.5, -0.7], abs=0.06)


def test_centred_takes_the_group_out() -> None:
    values = np.array([1.0, 3.0, 10.0, 14.0, np.nan])
    result = centred(values, np.array([0, 0, 1, 1, 1]))
    assert result[0] == -result[1]
    assert result[2] == -result[3]
    assert result[4] == 0
    assert result[3] == 2 * result[1]


def test_whitening_gives_unit_covariance_and_ignores_the_order() -> None:
    rng = np.random.default_rng(3)
    raw = (rng.normal(size=(2000, 6)) @ rng.normal(size=(6, 6)) + 5).astype(np.float32)
    fitted = fit_whitening(raw, floor=1e-9)
    white = (raw - fitted.mean) @ fitted.components
    assert np.cov(white, rowvar=False) == pytest.approx(np.eye(6), abs=0.02)
    again = fit_whitening(raw[::-1], floor=1e-9)
    assert again.components == pytest.approx(fitted.components, rel=1e-3, abs=1e-3)
    with pytest.raises(ValueError, match="too few"):
        fit_whitening(raw[:10])


def test_whitening_keeps_no_more_directions_than_the_vectors_carry() -> None:
    raw = np.random.default_rng(4).normal(size=(100, 64)).astype(np.float32)
    assert fit_whitening(raw).components.shape == (64, 20)


def test_the_index_finds_what_brute_force_finds() -> None:
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(200, 48))
    raw = centres[rng.integers(0, 200, 5000)] + 0.5 * rng.normal(size=(5000, 48))
    unit = (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32)
    truth, _ = nearest(unit, unit[:500], 5, exact=True)
    found, cosine = nearest(unit, unit[:500], 5, exact=False)
    recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(truth.tolist(), found.tolist(), strict=True)])
    assert recall >= 0.95
    rows = np.arange(500)[:, None]
    assert cosine == pytest.approx(np.einsum("qd,qkd->qk", unit[rows[:, 0]], unit[found]), abs=1e-5)
    assert (np.diff(cosine, axis=1) <= 1e-6).all()


def test_hashed_words_ignore_order_and_favour_rare_words() -> None:
    bags = hashed_words([["apple", "pear", "the"], ["the", "pear", "apple"], ["the", "stone"], []])
    assert bags[0] @ bags[1] == pytest.approx(1, abs=1e-6)
    assert bags[0] @ bags[2] < 0.5
    assert not bags[3].any()


@pytest.mark.parametrize("at", [1, 4, 9])
def test_a_step_is_found_where_it_is(at: int) -> None:
    curve = np.where(np.arange(10) >= at, 2.0, 1.0)[None, :]
    assert step_change(curve)[0] == at
    with pytest.raises(ValueError, match="too few"):
        step_change(curve[:, :2])
