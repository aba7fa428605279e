"""A model's scores of connectives count only where they say more than what is known without a model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trails.analyses.connectives import Connected, judge

ROLES = ("THEREFORE", "BECAUSE", "BUT")


def drawn(n: int, told: float, known: float = 1.0, seed: int = 0) -> list[Connected]:
    """``n`` steps in chains of four: scores that favour the role by ``told`` nats, a classifier that does by ``known``."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        role = int(rng.integers(3))
        scores = rng.normal(0, 1, (3, 2))
        scores[role] += told
        log_p = rng.normal(0, 1, 3)
        log_p[role] += known
        shares = np.exp(log_p) / np.exp(log_p).sum()
        found.append(Connected(f"c{i // 4}", role, shares, scores))
    return found


def test_scores_that_tell_the_role_are_shown_to_add() -> None:
    found = judge(drawn(240, told=3.0), "en", ROLES)
    gain, whole, alone = found.scores
    assert gain.value > 0.15
    assert gain.beyond()
    assert whole.value > whole.controls[0].value + 0.15
    assert whole.value - whole.controls[0].value == pytest.approx(gain.value)
    assert alone.value > 0.8
    assert "more than scores of other steps do" in found.report().verdict


@pytest.mark.slow
def test_scores_that_say_nothing_are_not() -> None:
    for seed in range(4):
        found = judge(drawn(240, told=0.0, seed=seed), "en", ROLES)
        assert not found.scores[0].beyond()
        assert "not shown to be more than chance" in found.report().verdict
        assert found.scores[2].value < 0.5


def test_what_the_classifier_says_already_is_no_gain() -> None:
    """Scores that repeat the classifier add nothing, and so do those of other steps that it takes for the same role."""
    steps = [
        Connected(s.chain, s.role, s.known, np.log(s.known)[:, None] * np.ones((1, 2)))
        for s in drawn(240, told=0.0, known=2.5)
    ]
    found = judge(steps, "en", ROLES)
    assert abs(found.scores[0].value) < 0.05
    assert found.scores[2].value > 0.6  # alone they tell a lot
    assert not found.scores[0].beyond()


def test_the_classifier_as_it_ships_is_a_control() -> None:
    """Nothing is better than one that knows every role; fitted weights beat one that takes each role for the next."""
    rng = np.random.default_rng(5)
    steps = []
    for i in range(240):
        role = int(rng.integers(3))
        shares = np.full(3, 0.1)
        shares[role] = 0.8
        steps.append(Connected(f"c{i // 4}", role, shares, rng.normal(0, 1, (3, 2))))
    found = judge(steps, "en", ROLES)
    shipped = {c.name: c for c in found.scores[1].controls}["the classifier as it ships"]
    assert shipped.value == 1.0
    assert found.over_shipped is not None
    assert found.over_shipped[1] <= 0
    worse = [Connected(s.chain, s.role, s.known[[1, 2, 0]], s.scores) for s in steps]
    moved = judge(worse, "en", ROLES)
    shipped = {c.name: c for c in moved.scores[1].controls}["the classifier as it ships"]
    assert shipped.value == 0.0
    assert moved.over_shipped is not None
    assert moved.over_shipped[0] > 0.9


def test_the_verdict_names_the_classifier_that_is_not_beaten() -> None:
    found = judge(drawn(240, told=3.0), "en", ROLES)
    assert found.over_shipped is not None
    assert found.over_shipped[0] > 0
    level = replace(found, over_shipped=(-0.02, 0.04)).report().verdict
    assert level.endswith("but not shown to be better than the classifier as it ships (-0.020 to +0.040)")
    assert "classifier as it ships" not in found.report().verdict


def test_few_steps_are_withheld_with_their_number() -> None:
    found = judge(drawn(40, told=3.0), "en", ROLES)
    assert found.scores == ()
    assert "40 steps with a connective in 10 chains" in found.withheld[0].reason
    assert found.report().verdict.startswith("too little to judge")


def test_the_same_seed_gives_the_same_numbers() -> None:
    steps = drawn(120, told=1.0)
    assert judge(steps, "en", ROLES, seed=1).report().record(None) == judge(steps, "en", ROLES, seed=1).report().record(
        None
    )
