"""Votes, runs, explained pairs and choices, each beside the same thing counted in plain loops; with the borders of cases."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from typing import Any

import numpy as np
import pytest

from trails.analyses import statemap
from trails.analyses.capture import COMMON, trail_index
from trails.analyses.choice import RIDGES, choose_ridge, fit_choice, joined_rows
from trails.analyses.overlaps import _diagonal_runs, _explained
from trails.analyses.sequences import masked_corpus, token_corpus


def packed(texts: list[list[int]]) -> tuple[Any, Any]:
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return np.array([token for text in texts for token in text], np.int32), offsets


def voted(chains: list[list[int]], text: list[int], size: int) -> tuple[int, float, float]:
    holders = defaultdict(set)
    for number, chain in enumerate(chains):
        for at in range(len(chain) - size + 1):
            holders[tuple(chain[at : at + size])].add(number)
    total: dict[int, float] = defaultdict(float)
    possible = 0.0
    for at in range(len(text) - size + 1):
        having = holders.get(tuple(text[at : at + size]), set())
        weight = math.log(max(len(chains), 2) / max(len(having), 1))
        possible += weight
        for chain in having if len(having) <= COMMON else ():
            total[chain] += weight
    ranked = sorted(total, key=lambda chain: (-round(total[chain], 9), chain))
    if not ranked or not possible:
        return (ranked[0] if ranked else -1), 0.0, 0.0
    second = total[ranked[1]] / possible if len(ranked) > 1 else 0.0
    return ranked[0], total[ranked[0]] / possible, second


def test_votes_are_those_of_every_window(make: Any) -> None:
    rng = np.random.default_rng(0)
    words = ["aa", "bb", "cc", "dd", "ee"]
    traces = [make([" ".join(rng.choice(words, n))], name=str(i)) for i, n in enumerate([5, 9, 2, 7, 12, 1])]
    corpus = token_corpus(traces)
    chains = [corpus.tokens[a:b].tolist() for a, b in itertools.pairwise(corpus.offsets)]
    ids = np.unique(corpus.tokens).tolist()
    texts = [chains[1], chains[4][:6], chains[0] + chains[3], [ids[0]], [], [999, 998, 997]]
    texts += [rng.choice(ids, n).tolist() for n in (2, 3, 4, 8, 20)]
    best, share, second = trail_index(corpus, 2).votes(*packed(texts))
    expected = [voted(chains, text, 2) for text in texts]
    assert best.tolist() == [one[0] for one in expected]
    np.testing.assert_allclose(share, [one[1] for one in expected])
    np.testing.assert_allclose(second, [one[2] for one in expected])
    assert (second > 0).sum() > 4, "runners-up are compared, too"
    assert (second < share - 0.01).any()


@pytest.mark.parametrize("seed", range(6))
def test_diagonal_runs_are_those_of_every_pair(seed: int) -> None:
    rng = np.random.default_rng(seed)
    chain = np.repeat(np.arange(4), [4, 5, 1, 6])
    left, right = rng.integers(0, len(chain), (2, 60))
    apart = chain[left] != chain[right]
    left, right = left[apart], right[apart]
    pairs = {(min(a, b), max(a, b)) for a, b in zip(left.tolist(), right.tolist(), strict=True)}
    expected = []
    for a, b in pairs:
        before = (a - 1, b - 1) in pairs and chain[a - 1] == chain[a] and chain[b - 1] == chain[b] and a > 0
        size = 1
        while (a + size, b + size) in pairs and chain[a + size] == chain[a] and chain[b + size] == chain[b]:
            size += 1
        if size > 1 and not before:
            expected.append((a, b, size))
    found = _diagonal_runs(left, right, chain)
    assert sorted(found) == sorted(expected)
    assert [run[2] for run in found] == sorted((run[2] for run in found), reverse=True)


def test_one_pair_is_no_run_and_a_run_ends_with_its_chain() -> None:
    chain = np.array([0, 0, 1, 1])
    assert _diagonal_runs(np.array([0]), np.array([2]), chain) == []
    assert _diagonal_runs(np.array([0, 1]), np.array([2, 3]), chain) == [(0, 2, 2)]
    assert _diagonal_runs(np.array([3, 0]), np.array([1, 2]), chain) == [(0, 2, 2)], "in either direction"
    assert _diagonal_runs(np.array([1, 2]), np.array([4, 5]), np.array([0, 0, 1, 1, 2, 2])) == []


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_pairs_are_explained_by_what_they_share_in_a_row(make: Any, size: int) -> None:
    rng = np.random.default_rng(size)
    words = ["aa", "bb", "cc"]
    traces = []
    for number in range(5):
        lengths = rng.integers(1, 6, 4)
        traces.append(make([" ".join(rng.choice(words, n)) + " " for n in lengths], name=str(number)))
    corpus = token_corpus(traces)
    by_id = {trace.chain.id: trace for trace in traces}
    ordered = [by_id[name] for name in corpus.chains]
    spans = np.concatenate([trace.step_tokens for trace in ordered])
    chain = np.repeat(np.arange(5), 4)
    steps = [
        tuple(ordered[c].token_ids[a:b].tolist()) for c, (a, b) in zip(chain.tolist(), spans.tolist(), strict=True)
    ]

    def windows(step: tuple[int, ...]) -> set[tuple[int, ...]]:
        return {step[at : at + size] for at in range(len(step) - size + 1)} or {step}

    left, right = (np.array(side) for side in zip(*itertools.permutations(range(20), 2), strict=True))
    expected = [bool(windows(steps[a]) & windows(steps[b])) for a, b in zip(left, right, strict=True)]
    found = _explained(masked_corpus(corpus), spans, chain, left, right, size)
    assert found.tolist() == expected
    assert 0 < sum(expected) < len(expected)
    assert any(len(step) < size for step in steps) or size == 1


def test_a_choice_lies_where_its_likelihood_is_highest() -> None:
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(12), 4)
    features = rng.normal(size=(48, 2))
    chosen = np.zeros(48, bool)
    for number in range(12):
        chosen[4 * number + int((features[4 * number : 4 * number + 4, 0] + 0.5 * rng.normal(size=4)).argmax())] = True

    def loss(weights: Any, ridge: float, rows: Any) -> float:
        total = ridge * float(weights @ weights) / 2
        for number in np.unique(group[rows]):
            mine = rows[group[rows] == number]
            utility = features[mine] @ weights
            total -= float(utility[chosen[mine]].sum() - np.log(np.exp(utility).sum()))
        return total

    every = np.arange(48)
    for ridge in (0.5, 4.0):
        weights = fit_choice(features, chosen, group, ridge)
        here = loss(weights, ridge, every)
        for step in ([1e-3, 0], [-1e-3, 0], [0, 1e-3], [0, -1e-3]):
            assert loss(weights + np.array(step), ridge, every) > here
    # groups of two choices or none are left out
    chosen[[0, 1, 2, 3]], chosen[[4, 5, 6, 7]] = [True, True, False, False], False
    weights = fit_choice(features, chosen, group)
    np.testing.assert_allclose(weights, fit_choice(features[8:], chosen[8:], group[8:]))
    assert fit_choice(features[:8], chosen[:8], group[:8]).tolist() == [0.0, 0.0]


def test_of_penalties_alike_the_largest_is_taken() -> None:
    group = np.repeat(np.arange(20), 3)
    chosen = np.tile([True, False, False], 20)
    assert choose_ridge(np.zeros((60, 1)), chosen, group) == RIDGES[-1]
    assert choose_ridge(np.where(chosen, 1.0, 0.0)[:, None], chosen, group) == RIDGES[-1], "all of them find every one"


def test_groups_of_two_sets_stay_apart() -> None:
    one = (np.zeros((3, 1)), np.array([True, False, False]), np.array([0, 0, 2]))
    two = (np.ones((2, 1)), np.array([True, True]), np.array([-1, 0]))
    features, chosen, group = joined_rows(one, two)
    assert features[:, 0].tolist() == [0, 0, 0, 1, 1]
    assert chosen.tolist() == [True, False, False, True, True]
    assert len(set(group.tolist())) == 4
    assert set(group[:3].tolist()).isdisjoint(group[3:].tolist())
    assert joined_rows(one, None) is one


def test_the_map_prints_its_diagnostics_on_request_only(corpus_of: Any, random_texts: Any) -> None:
    report = statemap.build(corpus_of(random_texts(6, 30, seed=1, vocabulary=4))).report()
    shown = {table.name for table in report.tables if not table.detail}
    assert {"unitigs", "states", "trails"}.isdisjoint(shown)
    assert {"unitigs", "states", "trails"} <= {table.name for table in report.tables}
