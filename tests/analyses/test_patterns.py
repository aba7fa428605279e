"""Versions of a family: a planted pattern is found, none is found where only words or length are shared."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trails.analyses.patterns import BAG, CHANCE, patterns, sign_flip


def families(make: Any, planted: float, *, shared_words: bool = False, count: int = 12, versions: int = 4) -> list[Any]:
    """Chains whose step states are noise, with ``planted`` times a direction of the family added; texts of random words."""
    rng = np.random.default_rng(3)

    def word() -> str:
        return "".join(rng.choice(list("abcdefghijklmnop"), 5))

    traces = []
    for family in range(count):
        direction = rng.normal(size=(3, 1, 10))
        common = [word() for _ in range(6)]
        for version in range(versions):
            states = (rng.normal(size=(3, 1, 10)) + planted * direction).astype(np.float32)
            words = common if shared_words else [word() for _ in range(6)]
            text = [f"{words[2 * i]} {words[2 * i + 1]} " for i in range(3)]
            made = make(text, name=f"{family}-{version}", states=states, state_layers=(5,))
            traces.append(replace(made, chain=replace(made.chain, family=f"en:{family}")))
    return traces


def test_a_planted_pattern_is_found_beyond_the_words(make: Any) -> None:
    found = patterns(families(make, 2.0))
    (score,) = found.scores
    assert score.value > 0.9
    assert score.beyond(CHANCE, BAG)
    (row,) = found.table.to_pylist()
    assert row["within"] < row["between"]
    assert row["p"] < 0.01
    assert (found.n_families, found.n_pairs) == (12, 72)
    assert found.report().verdict.endswith("beyond what a bag of words tells at layer 5")


def test_without_a_pattern_nothing_is_found_even_where_the_words_are_the_same(make: Any) -> None:
    found = patterns(families(make, 0.0))
    assert not found.scores[0].beyond(CHANCE)
    assert found.table.to_pylist()[0]["p"] > 0.05
    words = patterns(families(make, 2.0, shared_words=True))
    assert words.scores[0].beyond(CHANCE)
    assert not words.scores[0].beyond(CHANCE, BAG), "the words tell every pair already"
    assert "tells at none" in words.report().verdict


def test_a_matched_chain_is_as_long_and_of_the_same_kind(make: Any) -> None:
    """Long families beside short ones: matched pairs are found among their like, so length alone makes no pattern."""
    traces = families(make, 0.0)
    rng = np.random.default_rng(0)
    long = []
    for number in range(len(traces)):
        text = [f"other{rng.integers(10**6)} x " for _ in range(9)]
        states = rng.normal(size=(9, 1, 10)).astype(np.float32) * 5
        made = make(text, name=f"long{number}", states=states, state_layers=(5,))
        long.append(replace(made, chain=replace(made.chain, family=f"long{number // 4}")))
    found = patterns([*traces, *long])
    assert abs(found.scores[0].value - 0.5) < 0.15
    foreign = [replace(t, chain=replace(t.chain, language="ru" if i >= 4 else "en")) for i, t in enumerate(traces)]
    assert patterns(foreign).n_families == 11, "the only family of its language has nothing to be matched with"


def test_too_few_families_or_no_states_are_said(make: Any) -> None:
    few = patterns(families(make, 1.0, count=4))
    assert few.scores == ()
    assert "4 families" in few.report().verdict
    none = [replace(trace, step_states=None, state_layers=()) for trace in families(make, 1.0)]
    assert "--states 16" in patterns(none).report().verdict


def test_sign_flips_are_uniform_where_nothing_is_there() -> None:
    rng = np.random.default_rng(0)
    values = np.array([sign_flip(rng.normal(size=12), seed) for seed in range(200)])
    assert 0.4 < values.mean() < 0.6
    assert (values < 0.05).mean() == pytest.approx(0.05, abs=0.04)
    assert sign_flip(np.ones(20)) == pytest.approx(1 / 10_001, rel=2)


def test_a_report_without_families_is_printed_as_an_empty_table() -> None:
    report = patterns([]).report()
    (table,) = report.tables
    headings, rows = table.view()
    assert (headings[0], rows) == ("layer", [])
    assert "no pattern is judged" in report.verdict
