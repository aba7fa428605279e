"""Claims are judged by their intervals; plans are fixed by their content; curves are compared at equal gain."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trails.errors import UsageError
from trails.experiments import experiments, named
from trails.experiments.base import (
    Arm,
    Claim,
    Criterion,
    Experiment,
    at_equal_gain,
    by_seed,
    judge,
    plan_hash,
    t_interval,
)
from trails.experiments.report import markdown
from trails.experiments.runner import stored

PAGES = Path(__file__).parents[2] / "docs" / "experiments"


def declared(*criteria: Criterion) -> Experiment:
    return Experiment(
        "toy",
        "0",
        "Toy",
        "a is lower than b",
        (Arm("a", "treatment", control=False), Arm("b", "control"), Arm("c", "null"), Arm("d", "null")),
        (Claim("claim", "A is lower than b", criteria),),
        {"x": "a number"},
        {},
        "toy",
        run=lambda *_: None,
    )


def records(**arms: list[float]) -> list[dict[str, object]]:
    return [
        {"arm": arm, "seed": seed, "metrics": {"x": value}}
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]


SAME = {"c": [0.0] * 5, "d": [0.0] * 5}


@pytest.mark.parametrize(("shift", "outcome"), [(-1.0, "held"), (1.0, "did not hold"), (0.0, "undecided")])
def test_the_outcome_follows_the_interval(shift: float, outcome: str) -> None:
    base = [3.0, 5.0, 1.0, 4.0, 2.0]  # seeds differ far more than arms: only the pairing shows the effect
    noise = [0.05, -0.1, 0.02, 0.08, -0.05]
    a = [value + shift + n for value, n in zip(base, noise, strict=True)]
    (verdict,) = judge(declared(Criterion("x", "a", "b", "lower")), records(a=a, b=base, **SAME))
    assert verdict.outcome == outcome
    assert ("HELD" in verdict.sentence) == (outcome == "held")


def test_a_broken_guard_or_one_open_criterion_decides() -> None:
    base, low = [3.0, 5.0, 1.0, 4.0, 2.0], [2.0, 4.1, 0.0, 3.1, 1.0]
    good = Criterion("x", "a", "b", "lower")
    data = records(a=low, b=base, c=base, d=low)
    assert judge(declared(good, Criterion("x", "c", "d", "lower", role="guard")), data)[0].outcome == "did not hold"
    assert judge(declared(good, Criterion("x", "a", "a", "lower")), data)[0].outcome == "undecided"
    assert judge(declared(replace(good, threshold=5.0)), data)[0].outcome == "did not hold"


def test_the_null_pair_is_taken_off() -> None:
    high, low = [2.0, 3.1, 4.0, 5.2, 6.0], [1.0, 2.0, 3.0, 4.0, 5.0]
    criterion = Criterion("x", "a", "b", "higher", null=("c", "d"))
    assert judge(declared(criterion), records(a=high, b=low, c=low, d=low))[0].outcome == "held"
    assert judge(declared(criterion), records(a=high, b=low, c=high, d=low))[0].outcome == "undecided"


def test_a_seed_without_a_number_leaves_the_claim_open() -> None:
    base = [3.0, 5.0, 1.0, 4.0, 2.0]
    a = [math.nan, *[value - 1 - 0.01 * i for i, value in enumerate(base[1:])]]
    assert judge(declared(Criterion("x", "a", "b", "lower")), records(a=a, b=base, **SAME))[0].outcome == "undecided"


def test_only_complete_seeds_count() -> None:
    data = records(a=[1.0, 2.0], b=[1.0], c=[0.0] * 2, d=[0.0] * 2)
    assert list(by_seed(declared(), data)) == [0]


def test_t_interval_against_a_known_case() -> None:
    found = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])  # 3 ± 2.776 · sqrt(2.5 / 5)
    assert (found.mean, found.n) == (3.0, 5)
    assert found.high - 3 == pytest.approx(2.776 * math.sqrt(0.5), abs=1e-9)
    assert t_interval([1.0]).low == -math.inf
    assert t_interval([]).n == 0


def test_t_intervals_cover_as_often_as_they_say() -> None:
    draw = np.random.default_rng(3).normal(0, 1, (2000, 5))
    covered = np.mean([(i := t_interval(row)).low <= 0 <= i.high for row in draw])
    assert 0.935 < covered < 0.965


def test_equal_gain_is_interpolated() -> None:
    fast = [{"g": 0.0, "v": 0.0}, {"g": 2.0, "v": 4.0}]
    slow = [{"g": 0.0, "v": 0.0}, {"g": 0.5, "v": 0.5}, {"g": 1.0, "v": 3.0}]
    found = at_equal_gain({"fast": fast, "slow": slow}, "g", "v")  # 90 % of 1.0
    assert found["fast"] == pytest.approx(1.8)
    assert found["slow"] == pytest.approx(0.5 + 0.8 * 2.5)
    assert all(math.isnan(v) for v in at_equal_gain({"none": [{"g": 0.0, "v": 1.0}], "fast": fast}, "g", "v").values())


def test_a_plan_is_fixed_by_its_content() -> None:
    plans = [experiment.plan({"data": "x"}) for experiment in experiments().values()]
    assert len({plan_hash(plan) for plan in plans}) == len(plans)
    assert plan_hash(plans[0]) == plan_hash(experiments()["minimal-step"].plan({"data": "x"}))
    assert plan_hash(plans[0]) != plan_hash(experiments()["minimal-step"].plan({"data": "y"}))


@pytest.mark.parametrize("experiment", experiments().values(), ids=lambda e: e.name)
def test_declarations_fit_together(experiment: Experiment) -> None:
    """Every claim compares arms that exist by a metric that is explained; every experiment has a control."""
    arms = {arm.name for arm in experiment.arms}
    assert any(arm.control for arm in experiment.arms)
    for claim in experiment.claims:
        assert any(c.role == "primary" for c in claim.criteria)
        for criterion in claim.criteria:
            assert {criterion.treatment, criterion.control, *(criterion.null or ())} <= arms | {""}
            assert criterion.metric in experiment.metrics
    assert named(experiment.name) == (experiment,)


def test_names_and_numbers() -> None:
    assert named("10")[0].name == "cheap-paths"
    assert len(named("all")) == len(experiments())
    with pytest.raises(UsageError, match="depth"):
        named("11")


def test_a_report_says_what_is_missing() -> None:
    text = markdown(declared(Criterion("x", "a", "b", "lower")), records(a=[1.0], b=[2.0], c=[0.0], d=[0.0]), {}, "p")
    assert "Not enough data: 1 complete seeds" in text


def test_arms_are_not_said_to_be_trained_on() -> None:
    # some experiments only look: their arms are texts and maps
    text = markdown(declared(Criterion("x", "a", "b", "lower")), records(a=[1.0], b=[2.0], c=[0.0], d=[0.0]), {}, "p")
    assert "| arm | what it is |" in text
    assert "trained on" not in text


def test_the_published_pages_are_the_reports_of_the_published_rows() -> None:
    results = PAGES / "results.jsonl"
    lines = map(json.loads, results.read_text(encoding="utf-8").splitlines())
    plans = {line["experiment"]: line["plan"] for line in lines if "plan" in line}
    assert plans
    for name, plan in plans.items():
        text = markdown(experiments()[name], stored(results, name), plan, plan_hash(plan))
        assert (PAGES / f"{name}.md").read_text(encoding="utf-8") == text, name
