"""Scores cannot exist without a control; the statistics agree with their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trails.analyses.choice import cross_validated_choice, cross_validated_stack, fit_choice, fit_stacked
from trails.analyses.neighbours import hashed_words, nearest_others
from trails.analyses.score import Control, Score
from trails.analyses.statistics import (
    auc,
    bootstrap,
    centred,
    cross_validated,
    generator,
    ranks,
    spearman,
    step_change,
    within_group_auc,
)
from trails.analyses.whitening import fit_whitening


@pytest.mark.parametrize("controls", [(), (Control("nothing", math.nan),)])
def test_a_score_without_a_control_cannot_be_made(controls: tuple[Control, ...]) -> None:
    with pytest.raises(ValueError, match="no control"):
        Score("bare", 0.9, "AUC", controls)


VALUES = st.lists(st.integers(0, 5), min_size=1, max_size=20)


@pytest.mark.slow
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


@pytest.mark.slow
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
    more = rng.normal(size=(600, 20))
    _, inside = within_group_auc(
        np.column_stack([noise, more]) @ fit_stacked(noise, more, chosen, group), chosen, group
    )
    _, outside = within_group_auc(cross_validated_stack(noise, more, chosen, group), chosen, group)
    assert outside.mean() < 0.58 < inside.mean()
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


def planted_vectors(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around centres, in groups of three that mostly share a centre."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(n // 25, 48))
    place = np.repeat(rng.integers(0, len(centres), n // 3 + 1), 3)[:n]
    place = np.where(rng.random(n) < 0.3, rng.integers(0, len(centres), n), place)
    raw = centres[place] + 0.5 * rng.normal(size=(n, 48))
    return (raw / np.linalg.norm(raw, axis=1, keepdims=True)).astype(np.float32), np.arange(n) // 3


@pytest.mark.slow
@pytest.mark.parametrize("exact", [True, False])
def test_nearest_of_other_groups_are_those_of_all_pairs(exact: bool) -> None:
    unit, group = planted_vectors(5000, 5)
    every = unit[:400] @ unit.T
    every[group[:400, None] == group] = -np.inf
    truth = np.argsort(-every, axis=1)[:, :5]
    found, cosine = nearest_others(unit, group, 5, exact=exact, probes=2, lead=48)
    assert (group[found] != group[:, None]).all()
    recall = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(truth.tolist(), found[:400].tolist(), strict=True)])
    assert recall >= (1.0 if exact else 0.95)
    assert cosine == pytest.approx(np.einsum("qd,qkd->qk", unit, unit[found]), abs=1e-5)
    assert (np.diff(cosine, axis=1) <= 1e-6).all()


def test_a_vector_that_keeps_more_neighbours_finds_more_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trails.analyses.neighbours.CLUSTER", 64)
    unit, group = planted_vectors(4000, 7)
    every = unit[:400] @ unit.T
    every[group[:400, None] == group] = -np.inf
    truth = np.argsort(-every, axis=1)[:, :5]
    share = {}
    for width in (5, 15):
        found, cosine = nearest_others(unit, group, 5, exact=False, probes=2, lead=8, width=width, rounds=1)
        assert found.shape == cosine.shape == (4000, 5)
        share[width] = np.mean(
            [len({*a} & {*b}) / 5 for a, b in zip(truth.tolist(), found[:400].tolist(), strict=True)]
        )
    assert share[15] > share[5] + 0.04


@pytest.mark.parametrize("exact", [True, False])
def test_neighbours_that_do_not_exist_are_told(exact: bool) -> None:
    unit, _ = planted_vectors(300, 6)
    group = np.where(np.arange(300) < 298, 0, np.arange(300))
    found, cosine = nearest_others(unit, group, 5, exact=exact, lead=48)
    assert (np.sort(found[:298], axis=1)[:, 3:] == [298, 299]).all()  # two others exist
    assert (found[:298, 2:] == -1).all()
    assert np.isnan(cosine[:298, 2:]).all()
    assert (found[298:] >= 0).all()


@pytest.mark.slow
def test_two_stages_learn_from_rows_without_the_second_features() -> None:
    """The first features' weights come from many other groups, the second one's from few; neither fit saw its test group."""
    rng = np.random.default_rng(7)

    def rows(groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        x = rng.normal(size=(groups * 6, 12))
        z = rng.normal(size=(groups * 6, 1))
        group = np.repeat(np.arange(groups), 6)
        utility = x[:, 0] + 1.5 * z[:, 0] + rng.gumbel(size=len(x))
        chosen = np.zeros(len(x), bool)
        chosen[np.arange(groups) * 6 + utility.reshape(groups, 6).argmax(axis=1)] = True
        return x, z, chosen, group

    x, z, chosen, group = rows(60)
    other, _, picked, groups = rows(1000)

    def mean(values: np.ndarray) -> float:
        return float(within_group_auc(values, chosen, group)[1].mean())

    alone = mean(cross_validated_choice(x, chosen, group))
    more = mean(cross_validated_choice(x, chosen, group, more=(other, picked, groups)))
    both = mean(cross_validated_stack(x, z, chosen, group, more=(other, picked, groups)))
    assert alone < more < both - 0.05
    null = mean(cross_validated_stack(x, rng.normal(size=z.shape), chosen, group, more=(other, picked, groups)))
    assert abs(null - more) < 0.03
    weights = fit_stacked(x, z, chosen, group, more=(other, picked, groups))
    assert weights.shape == (13,)
    assert np.abs(weights[[0, 12]]).min() > 3 * np.abs(weights[1:12]).max()


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


def test_a_step_change_does_not_depend_on_the_unit() -> None:
    curve = np.array([[0.0, 0.1, -0.1, 0.05, 1.0, 1.1, 0.9, 1.0]])
    place, ratio = step_change(curve)
    assert place == 4
    for scale in (1e-4, 1e4):
        again = step_change(curve * scale)
        assert again[0] == 4
        assert again[1] == pytest.approx(ratio, rel=1e-6)


def test_a_flat_curve_has_no_step() -> None:
    assert step_change(np.full((3, 8), 0.7))[1] == 0.0


def test_a_generator_is_that_of_its_seed_and_names_whatever_was_drawn_before() -> None:
    generator(7, "feed", "c2").random(5)
    assert generator(7, "feed", "c1").integers(0, 1000, 4).tolist() == [189, 847, 767, 973], (
        "results of experiments rest on it"
    )
    assert (
        generator(7, "fee", "dc1").random()
        != generator(7, "feed", "c1").random()
        != generator(8, "feed", "c1").random()
    )
