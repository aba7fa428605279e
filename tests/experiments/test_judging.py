"""Claims are judged by their intervals; plans are fixed by their content; curves are compared at equal gain."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from scripts.experiment_pages import first_commit, pages

from trails.errors import UsageError
from trails.experiments import base, committed, experiments, named, rates
from trails.experiments.base import (
    Arm,
    Claim,
    Criterion,
    Experiment,
    Kind,
    Prepared,
    at_equal_gain,
    by_seed,
    check_plan,
    judge,
    looked,
    plan_hash,
    rows_digest,
    smallest_effect,
    t_interval,
)
from trails.experiments.criteria import cluster_interval, difference
from trails.experiments.report import (
    SEVENTEEN,
    command,
    failed_table,
    first_claims,
    index_table,
    markdown,
    roles_table,
)
from trails.experiments.runner import development, read_results

PAGES = Path(__file__).parents[2] / "docs" / "experiments"


def declared(*criteria: Criterion, **more: Any) -> Experiment:
    return Experiment(
        name="toy",
        number="0",
        title="Toy",
        hypothesis="a is lower than b",
        arms=(Arm("a", "treatment", control=False), Arm("b", "control"), Arm("c", "null"), Arm("d", "null")),
        claims=(Claim("claim", "A is lower than b", criteria),),
        metrics={"x": "a number"},
        settings={},
        limits="toy",
        prepare=lambda *_: Prepared({}, {}),
        run=lambda *_: None,
        **{"looks": (5,), **more},
    )


def lower(
    treatment: str = "a", control: str = "b", delta: float = 0.2, kind: Kind = "superior", **more: Any
) -> Criterion:
    return Criterion("x", treatment, control, "lower", delta=delta, kind=kind, **more)


def records(**arms: list[float]) -> list[dict[str, Any]]:
    return [
        {"arm": arm, "seed": seed, "metrics": {"x": value}}
        for arm, values in arms.items()
        for seed, value in enumerate(values)
    ]


BASE = [3.0, 5.0, 1.0, 4.0, 2.0]  # seeds differ far more than arms: only the pairing shows the effect
NOISE = [0.05, -0.1, 0.02, 0.08, -0.05]
SAME = {"c": [0.0] * 5, "d": [0.0] * 5}


def outcome(criteria: Criterion | tuple[Criterion, ...], shift: float, spread: float = 1.0, **more: Any) -> str:
    a = [value + shift + spread * n for value, n in zip(BASE, NOISE, strict=True)]
    declaration = declared(*(criteria if isinstance(criteria, tuple) else (criteria,)), **more)
    (verdict,) = judge(declaration, records(a=a, b=BASE, **SAME))
    assert verdict.claim.sentence in verdict.sentence
    return verdict.outcome


@pytest.mark.parametrize(
    ("kind", "shift", "spread", "expected"),
    [
        ("superior", -1.0, 1, "held"),
        ("superior", 1.0, 1, "did not hold"),
        ("superior", 0.0, 1, "no difference"),  # ±0.09 lies within ±0.2
        ("superior", -0.15, 0.1, "no difference"),  # wholly beyond 0, and smaller than what is of interest
        ("superior", 0.0, 5, "open"),
        ("not inferior", -1.0, 1, "held"),
        ("not inferior", 0.0, 1, "held"),
        ("not inferior", 0.2, 1, "open"),  # a guard that is merely undecided is not passed
        ("not inferior", 1.0, 1, "did not hold"),
        ("equivalent", 0.0, 1, "held"),
        ("equivalent", 0.2, 1, "open"),
        ("equivalent", 1.0, 1, "did not hold"),
        ("equivalent", -1.0, 1, "did not hold"),
    ],
)
def test_three_kinds_of_criteria(kind: Kind, shift: float, spread: float, expected: str) -> None:
    assert outcome(lower(kind=kind), shift, spread) == expected


def test_a_guard_left_undecided_is_not_passed() -> None:
    good = lower()
    assert outcome((good, lower("c", "d", kind="not inferior")), -1.0) == "held"
    noisy = {"c": [0.9, -0.9, 0.3, -0.2, 0.1], "d": [0.0] * 5}
    a = [value - 1 + n for value, n in zip(BASE, NOISE, strict=True)]
    both = declared(good, lower("c", "d", kind="not inferior"))
    assert judge(both, records(a=a, b=BASE, **noisy))[0].outcome == "open"


def test_did_not_hold_is_corrected_by_holm() -> None:
    """A criterion with p just below 2.5 % breaks a claim of one criterion, not one of four."""
    values = [0.5, 0.1, 0.35, 0.05, 0.4]
    rows = records(a=values, b=[0.0] * 5, c=[0.9, -1.0, 0.3, -0.4, 0.1], d=[0.0] * 5)
    one = lower(delta=0.01)
    p = float(stats.ttest_1samp(values, 0, alternative="greater").pvalue)
    assert 0.025 / 4 < p < 0.025
    assert judge(declared(one), rows)[0].outcome == "did not hold"
    others = tuple(lower("c", "d", delta=0.01 + 0.001 * k) for k in range(3))
    assert judge(declared(one, *others), rows)[0].outcome == "open"


def test_the_null_pair_is_taken_off() -> None:
    high, low = [2.0, 3.1, 4.0, 5.2, 6.0], [1.0, 2.0, 3.0, 4.0, 5.0]
    criterion = Criterion("x", "a", "b", "higher", delta=0.01, null=("c", "d"))
    assert judge(declared(criterion), records(a=high, b=low, c=low, d=low))[0].outcome == "held"
    assert judge(declared(criterion), records(a=high, b=low, c=high, d=low))[0].outcome == "no difference"


def test_the_sentence_names_the_whole_contrast() -> None:
    """An interaction is no plain difference: the sentence of the verdict says what is taken off."""
    plain, beyond = (Criterion("x", "a", "b", "higher", delta=0.01, null=null) for null in (None, ("c", "d")))
    rows = records(a=[2.0, 3.1, 4.0, 5.2, 6.0], b=[1.0, 2.0, 3.0, 4.0, 5.0], c=[0.5] * 5, d=[0.0] * 5)
    (verdict,) = judge(declared(plain, beyond), rows)
    first, second = verdict.decided
    assert first.startswith("x of a against b differs by +1.06")
    assert second.startswith("x of a against b, less that of c against d, is +0.56")
    for experiment in experiments().values():
        for claim in experiment.claims:
            told = [criterion.contrast for criterion in claim.criteria]
            assert len(set(told)) == len(told), f"two criteria of {experiment.name} read alike: {told}"


def test_a_seed_without_a_number_leaves_the_claim_open() -> None:
    a = [math.nan, *[value - 1 - 0.01 * i for i, value in enumerate(BASE[1:])]]
    assert judge(declared(lower()), records(a=a, b=BASE, **SAME))[0].outcome == "open"


def test_no_verdict_below_five_seeds_or_before_the_planned_number() -> None:
    a = [value - 1 + n for value, n in zip(BASE, NOISE, strict=True)]
    few = records(a=a[:2], b=BASE[:2], c=[0.0] * 2, d=[0.0] * 2)
    (verdict,) = judge(declared(lower()), few)
    assert (verdict.outcome, verdict.reason) == ("withheld", "2 complete seeds, 5 are the least")
    (verdict,) = judge(declared(lower(), looks=(10,)), records(a=a, b=BASE, **SAME))
    assert (verdict.outcome, verdict.reason) == ("withheld", "5 complete seeds of the 10 planned")
    (verdict,) = judge(declared(lower()), records(a=a, b=BASE, **SAME), scale="quick")
    assert verdict.outcome == "withheld"
    assert "proves nothing" in verdict.sentence


def test_two_looks_have_wider_intervals_and_seeds_between_them_wait() -> None:
    two = declared(lower(), looks=(5, 7))
    assert two.level == 0.9706
    seven = [0.0] * 7
    rows = records(a=[-1.0 - 0.1 * k for k in range(7)], b=seven, c=seven, d=seven)
    assert len(looked(two, rows)) == 7
    assert len(looked(two, [r for r in rows if r["seed"] < 6])) == 5
    wide, narrow = t_interval([1.0, 2.0, 3.0, 4.0, 5.0], 0.9706), t_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert wide.high > narrow.high


def test_without_the_positive_control_or_with_a_placebo_difference_nothing_is_judged() -> None:
    a = [value - 1 + n for value, n in zip(BASE, NOISE, strict=True)]
    rows = records(a=a, b=BASE, c=[1.0, 1.1, 0.9, 1.2, 1.0], d=[0.0] * 5)
    assert (
        judge(declared(lower(), positive=(Criterion("x", "c", "d", "higher", delta=0.1),)), rows)[0].outcome == "held"
    )
    (verdict,) = judge(declared(lower(), positive=(Criterion("x", "c", "d", "lower", delta=0.1),)), rows)
    assert verdict.reason.startswith("the positive control was not seen: x of c against d is +1.04")
    # a bound is told as one, and beside it what was measured
    (verdict,) = judge(declared(lower(), positive=(Criterion("x", "c", "", "lower", delta=0.1, against=0.5),)), rows)
    assert verdict.reason.startswith("the positive control was not seen: x of c is +1.04")
    assert verdict.reason.endswith("against 0.5")
    (verdict,) = judge(declared(lower(), placebo=(lower("c", "d"),)), rows)
    assert verdict.reason.startswith("the placebo pair differs")
    assert judge(declared(lower(), placebo=(lower("d", "d"),)), rows)[0].outcome == "held"


@pytest.mark.slow
def test_the_smallest_effect_is_what_a_simulation_finds() -> None:
    assert [round(smallest_effect(n), 2) for n in (5, 10, 20)] == [1.68, 1.0, 0.66]
    assert smallest_effect(1) == math.inf
    draw = np.random.default_rng(1).normal(smallest_effect(10), 1, (4000, 10))
    assert 0.78 < np.mean([t_interval(row.tolist()).low > 0 for row in draw]) < 0.82


@pytest.mark.parametrize("delta", [0.0, -0.1, math.nan])
def test_a_criterion_declares_the_smallest_effect_of_interest(delta: float) -> None:
    with pytest.raises(UsageError, match="smallest effect"):
        Criterion("x", "a", "b", "lower", delta=delta)


def test_only_complete_seeds_count() -> None:
    data = records(a=[1.0, 2.0], b=[1.0], c=[0.0] * 2, d=[0.0] * 2)
    assert list(by_seed(declared(), data)) == [0]


def test_t_interval_against_a_known_case() -> None:
    found = t_interval([1.0, 2.0, 3.0, 4.0, 5.0])  # 3 ± 2.776 · sqrt(2.5 / 5)
    assert (found.mean, found.n) == (3.0, 5)
    assert found.high - 3 == pytest.approx(2.776 * math.sqrt(0.5), abs=1e-3)
    assert t_interval([1.0]).low == -math.inf
    assert t_interval([]).n == 0


@pytest.mark.slow
def test_t_intervals_cover_as_often_as_they_say() -> None:
    draw = np.random.default_rng(3).normal(0, 1, (2000, 5))
    covered = np.mean([(i := t_interval(row)).low <= 0 <= i.high for row in draw])
    assert 0.935 < covered < 0.965


def clustered(draw: np.random.Generator, chains: int, mean: float) -> tuple[list[float], list[str]]:
    """Texts of unequal numbers per chain that hang together: chains differ as much as their texts do."""
    sizes = draw.integers(1, 8, chains)
    values = [mean + own + float(n) for own, size in zip(draw.normal(0, 1, chains), sizes, strict=True)
              for n in draw.normal(0, 1, int(size))]  # fmt: skip
    return values, [str(chain) for chain, size in enumerate(sizes) for _ in range(int(size))]


@pytest.mark.slow
@pytest.mark.parametrize("chains", [30, 120])
def test_intervals_over_texts_cover_as_often_as_they_say_where_chains_hang_together(chains: int) -> None:
    draw = np.random.default_rng(chains)
    covered, texts_alone = 0, 0
    for _ in range(400):
        values, names = clustered(draw, chains, 0.3)
        interval, error = cluster_interval(values, names, draws=1000)
        covered += interval.low <= 0.3 <= interval.high
        assert interval.n == chains
        assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.25)
        alone = t_interval(values)
        texts_alone += alone.low <= 0.3 <= alone.high
    assert 0.915 <= covered / 400 <= 0.985
    assert texts_alone / 400 < 0.85  # what taking the texts for independent would do


def test_below_twenty_chains_there_is_no_interval_over_texts() -> None:
    interval, error = cluster_interval([1.0, 2.0] * 19, [str(k) for k in range(19)] * 2)
    assert (interval.low, interval.high, interval.n) == (-math.inf, math.inf, 19)
    assert math.isnan(error)
    interval, _ = cluster_interval([1.0, math.nan, 3.0], ["a", "a", "b"])
    assert (interval.mean, interval.n) == (2.0, 2)


def test_a_claim_over_texts_is_judged_by_their_chains() -> None:
    """Six seeds of ten texts: the seeds would decide, three chains in all do not; nor do fewer texts than planned."""
    declaration = replace(declared(lower()), texts=60, looks=(6,))

    def found(chains: int, texts: int = 10) -> list[dict[str, Any]]:
        draw = np.random.default_rng(0)
        rows = []
        for seed in range(6):
            units = {
                f"{(seed * texts + k) % chains}.{k}": {"x": 1.0 + 0.05 * float(draw.normal())} for k in range(texts)
            }
            if chains < 20:
                units = {f"{k % chains}": {"x": 1.0} for k in range(texts)}
            for arm, shift in (("a", -1.0), ("b", 0.0), ("c", 0.0), ("d", 0.0)):
                moved = {name: {"x": one["x"] + shift} for name, one in units.items()}
                mean = sum(one["x"] for one in moved.values()) / len(moved)
                rows.append({"arm": arm, "seed": seed, "metrics": {"x": mean}, "units": moved})
        return rows

    (verdict,) = judge(declaration, found(60))
    assert verdict.outcome == "held"
    assert verdict.judged[0].interval.n == 60
    (verdict,) = judge(replace(declaration, texts=0), found(60))
    assert verdict.judged[0].interval.n == 6
    (verdict,) = judge(declaration, found(60, 9))
    assert (verdict.outcome, verdict.reason) == ("withheld", "54 texts, 60 are the least")
    (verdict,) = judge(replace(declaration, texts=18), found(3))
    assert verdict.outcome == "open"


def test_equal_gain_is_interpolated() -> None:
    fast = [{"g": 0.0, "v": 0.0}, {"g": 2.0, "v": 4.0}]
    slow = [{"g": 0.0, "v": 0.0}, {"g": 0.5, "v": 0.5}, {"g": 1.0, "v": 3.0}]
    found = at_equal_gain({"fast": fast, "slow": slow}, "g", "v")  # 90 % of 1.0
    assert found["fast"] == pytest.approx(1.8)
    assert found["slow"] == pytest.approx(0.5 + 0.8 * 2.5)
    assert all(math.isnan(v) for v in at_equal_gain({"none": [{"g": 0.0, "v": 1.0}], "fast": fast}, "g", "v").values())


SIZES = {"H": {"chains": 40, "rows": 40, "tokens": 4000, "labelled": 3000}}


def planned(experiment: Experiment, **changes: Any) -> dict[str, Any]:
    seed = {"sizes": SIZES, "fed": {}, "rows": {arm.name: "same" for arm in experiment.arms}}
    realised = {str(k): {**seed, **changes} for k in range(experiment.looks[-1])}
    rates = dict.fromkeys(experiment.trained, 1e-3) if experiment.rates else {}
    return experiment.plan({"scale": {"name": "full"}}, realised, rates)


def test_a_plan_is_fixed_by_its_content() -> None:
    plans = [planned(experiment) for experiment in experiments().values()]
    assert len({plan_hash(plan) for plan in plans}) == len(plans)
    assert plan_hash(plans[0]) == plan_hash(planned(experiments()["minimal-step"]))
    assert plan_hash(plans[0]) != plan_hash({**plans[0], "data": "y"})
    assert plan_hash(plans[0]) != plan_hash({**plans[0], "code": "0"})


def test_plans_that_no_verdict_could_follow_from_are_refused() -> None:
    toy = declared(lower(), same_rows=(("a", "b"),))
    check_plan(toy, planned(toy))
    with pytest.raises(UsageError, match="no realised sizes for seed 0"):
        check_plan(toy, {**planned(toy), "seeds": {}})
    with pytest.raises(UsageError, match="no realised sizes for seed 4"):
        check_plan(toy, {**planned(toy), "seeds": dict(list(planned(toy)["seeds"].items())[:4])})
    with pytest.raises(UsageError, match="holds out 19 chains as H for seed 0; 20 are the least"):
        check_plan(toy, planned(toy, sizes={"H": {"chains": 19}}))
    over_texts = declared(lower(), texts=60)
    check_plan(over_texts, planned(over_texts, sizes={"H": {"chains": 12}}))
    with pytest.raises(UsageError, match="holds out 55 chains in all its seeds; it is judged over 60 texts or more"):
        check_plan(over_texts, planned(over_texts, sizes={"H": {"chains": 11}}))
    with pytest.raises(UsageError, match="not fed the same rows for seed 0: a one, b two"):
        check_plan(toy, planned(toy, rows={"a": "one", "b": "two"}))
    with pytest.raises(UsageError, match="one or two looks, of 5 or more"):
        check_plan(declared(lower(), looks=(2,)), planned(declared(lower(), looks=(2,))))
    swept = declared(lower(), rates=(1e-4, 1e-3))
    with pytest.raises(UsageError, match=r"no learning rate for a, b, c, d. Run: .*--develop"):
        check_plan(swept, {**planned(swept), "learning rates": {}})


def test_the_digest_of_rows_is_that_of_their_multiset() -> None:
    one, two = {"input_ids": [1, 2], "labels": [-100, 2]}, {"input_ids": [3], "labels": [3]}
    assert rows_digest([one, two, one]) == rows_digest([one, one, two])
    assert rows_digest([one, two]) != rows_digest([one, one, two])
    assert rows_digest([one]) != rows_digest([one | {"labels": [-100, -100]}])


def line(path: Path, record: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")


def test_rows_before_their_plan_of_another_or_older_than_it_are_refused(tmp_path: Path) -> None:
    plan = {"experiment": "toy"}
    row = {"experiment": "toy", "arm": "a", "seed": 0, "plan_sha": plan_hash(plan), "metrics": {}, "time": 20.0}
    registered = {"experiment": "toy", "sha": plan_hash(plan), "plan": plan, "time": 10.0}
    for name, written, message in (
        ("before", [row, registered], "line 1: a row of toy before its plan"),
        ("other", [registered, row | {"plan_sha": "0"}], "line 2: a row of toy of plan 0, registered is"),
        ("older", [registered, row | {"time": 5.0}], "line 2: a row of toy is older than its plan"),
        ("twice", [registered, registered], "line 2: a second plan of experiment toy"),
    ):
        for record in written:
            line(tmp_path / name, record)
        with pytest.raises(UsageError, match=message):
            read_results(tmp_path / name)
    line(tmp_path / "good", registered)
    line(tmp_path / "good", row)
    assert len(read_results(tmp_path / "good")["toy"].rows) == 1


@pytest.mark.parametrize("experiment", experiments().values(), ids=lambda e: e.name)
def test_declarations_fit_together(experiment: Experiment) -> None:
    """Every claim compares arms that exist by a metric that is explained; every experiment has a control and a positive one."""
    arms = {arm.name for arm in experiment.arms}
    assert any(arm.control for arm in experiment.arms)
    checks = [*experiment.positive, *experiment.placebo]
    assert checks
    for criterion in [*checks, *(c for claim in experiment.claims for c in claim.criteria)]:
        assert {criterion.treatment, criterion.control, *(criterion.null or ())} <= arms | {""}
        assert criterion.metric in experiment.metrics
    for group in experiment.same_rows:
        assert set(group) <= arms
    assert experiment.looks[0] >= 10
    assert (len(experiment.rates) > 1) == bool(experiment.develop)
    assert named(experiment.name) == (experiment,)


def test_names_and_numbers() -> None:
    assert named("10")[0].name == "cheap-paths"
    assert len(named("all")) == len(experiments())
    with pytest.raises(UsageError, match="depth"):
        named("99")


def test_a_report_says_what_is_missing() -> None:
    text = markdown(declared(lower()), records(a=[1.0], b=[2.0], c=[0.0], d=[0.0]), {}, "p")
    assert "this is NOT JUDGED (1 complete seeds, 5 are the least)." in text


def test_arms_are_not_said_to_be_trained_on() -> None:
    # some experiments only look: their arms are texts and maps
    text = markdown(declared(lower()), records(a=[1.0], b=[2.0], c=[0.0], d=[0.0]), {}, "p")
    assert "| arm | what it is |" in text
    assert "trained on" not in text


@pytest.mark.slow
def test_the_published_pages_are_the_report_of_the_published_rows() -> None:
    for path, text in pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} differs: python scripts/experiment_pages.py"
    for experiment in experiments().values():
        assert (PAGES / f"{experiment.name}.md").is_file()
        if experiment.correction:
            assert (PAGES / "archive" / f"{experiment.name}.md").is_file()


def published() -> tuple[dict[str, Any], dict[str, Any]]:
    """Rows (None: not run) and plans of the published experiments."""
    found = read_results(PAGES / "results.jsonl")
    return {name: (found[name].rows if name in found else None) for name in experiments()}, {
        name: found[name].plan for name in found
    }


def test_the_table_of_limits_has_every_claim_that_failed() -> None:
    rows, plans = published()
    table = failed_table(rows, plans, {name: development(PAGES / "results.jsonl", name) for name in plans})
    assert table in (PAGES.parent / "limits.md").read_text(encoding="utf-8")
    failed = [
        verdict
        for name, records in rows.items()
        if records is not None
        for verdict in judge(experiments()[name], records)
        if verdict.outcome in ("did not hold", "no difference")
    ]
    assert len(failed) > 5
    assert len(table.splitlines()) == len(failed) + 2
    for verdict in failed:
        assert f"| {verdict.claim.sentence} | did not hold" in table
        assert f"{verdict.decided[0]}" in table
    assert "minimal steps 0.0003 against paraphrases 0.001" in table
    assert "middle third 0.003 against all weights 0.001" in table
    (turned,) = (line for line in table.splitlines() if "The other way at other rates" in line)
    assert "the word becomes likelier where held-out chains have it" in turned


def told(values: Any, digits: int = 3) -> tuple[str, str, str]:
    """Mean and its 95 % t interval as the notes write them, without a sign."""
    found = t_interval([float(value) for value in values], 0.95)
    return tuple(f"{abs(value):.{digits}f}" for value in (found.mean, found.low, found.high))  # type: ignore[return-value]


def test_the_notes_beside_the_verdicts_are_true_of_the_rows() -> None:
    rows, _ = published()
    notes = {name: "\n".join(experiments()[name].afterwards) for name in ("anchor", "block-anchor")}

    cells = {(row["arm"], row["seed"]): row for row in rows["anchor"]}

    def course(arm: str, feeds: int) -> list[float]:
        points = [cells[arm, seed]["curve"] for seed in range(20)]
        return [next(point["marker_auc"] for point in curve if point["step"] == feeds) for curve in points]

    def since(arm: str, feeds: int) -> list[float]:
        return [b - a for a, b in zip(course(arm, 0), course(arm, feeds), strict=True)]

    start = told(course("marker", 0))[0]
    risen, late = told(since("marker", 30)), told(since("marker", 100))
    assert f"was {start} before any feed, {risen[0]} ({risen[1]} to {risen[2]}) more after 30 feeds" in notes["anchor"]
    assert f"{late[0]} less ({late[1]} less to {late[2]} more) after 100" in notes["anchor"]
    fallen = [told(since(arm, 30))[0] for arm in ("no marker", "random marker", "wrong marker")]
    assert f"by {fallen[0]} (no marker), {fallen[1]} (random) and {fallen[2]} (wrong)" in notes["anchor"]
    trained = ("marker", "wrong marker", "no marker", "no marker again", "random marker")
    jumps = [told([cells[arm, seed]["metrics"]["jump"] for seed in range(20)], 2)[0] for arm in trained]
    assert f"({min(jumps)} to {max(jumps)})" in notes["anchor"]
    drift = [[cells[arm, seed]["metrics"]["kl_d"] for seed in range(20)] for arm in trained]
    early, later = ([f"{np.mean(of[part]):.2f}" for of in drift] for part in (slice(8), slice(8, None)))
    p = [f"{stats.ttest_ind(of[:8], of[8:]).pvalue:.3f}" for of in drift]
    assert f"(kl_d {min(later)} to {max(later)}) than before ({min(early)} to {max(early)};" in notes["anchor"]
    assert f"t-test of two samples, p {min(p)} to {max(p)})" in notes["anchor"]

    cells = {(row["arm"], row["seed"]): row for row in rows["block-anchor"]}

    def apart(metric: str, a: str, b: str) -> tuple[str, str, str]:
        return told([cells[a, s]["metrics"][metric] - cells[b, s]["metrics"][metric] for s in range(10)])

    text = apart("change_text", "whole block", "whole block elsewhere")
    assert f"(-{text[0]}, -{text[1]} to -{text[2]})" in notes["block-anchor"]
    words = [cells["anchor", s]["other"] for s in range(10)]
    assert f"{', '.join(words[:9])} and {words[9]}" in notes["block-anchor"]
    layers = [cells["anchor", s]["layer"] for s in range(10)]
    below = [seed for seed, layer in enumerate(layers) if layer < 11]
    assert (
        f"seeds {below[0]}, {below[1]} and {below[2]} the other layer ({', '.join(str(layers[s]) for s in below)})"
        in (notes["block-anchor"])
    )
    assert len(below) == 3
    assert f"differs by -{apart('bridge', 'plain again', 'plain')[0]}, four times" in notes["block-anchor"]
    passed = [
        sum(cells[arm, s]["metrics"]["passes"] for s in range(10)) for arm in ("attention target", "random places")
    ]
    assert (
        f"of {passed[0]:.0f} against {passed[1]:.0f} an exact sign test gives p = {2 * 0.5 ** passed[0]:.3f}"
        in (notes["block-anchor"])
    )
    worse = apart("bridge", "plain", "untrained")
    assert f"(+{worse[0]}, {worse[1]} to {worse[2]})" in notes["block-anchor"]
    arms = ("random places", "attention target", "plain", "untrained")
    away = [told([cells[arm, s]["metrics"]["away"] for s in range(10)])[0] for arm in arms]
    reached = "(distance {}; the zone's own target {}; plain rows {}; untrained {})"
    assert reached.format(*away) in notes["block-anchor"]
    lost = [apart(metric, "random places", "plain")[0] for metric in ("sweep", "sweep_fitted")]
    assert f"(sweep -{lost[0]}, on the chains trained on -{lost[1]})" in notes["block-anchor"]
    cost = apart("nll_h", "attention target", "plain")
    assert f"({cost[0]}, {cost[1]} to {cost[2]})" in notes["block-anchor"]
    places, layer = (apart("nll_h", arm, "plain")[0] for arm in ("random places", "random layer"))
    assert f"({places}) and at another layer ({layer})" in " ".join(notes["block-anchor"].split())
    same = apart("nll_h", "whole block", "whole block elsewhere")
    assert f"({same[0]}, -{same[1]} to {same[2]})" in notes["block-anchor"]
    assert f"cost {apart('nll_h', 'whole block elsewhere', 'plain')[0]} against" in notes["block-anchor"]
    leads = [sum(cells[arm, s]["metrics"]["leads"] for s in range(10)) for arm, _ in cells if arm != "queries halved"]
    assert min(leads) == 9
    assert all(cells["untrained", s]["metrics"]["leads"] == 1 for s in range(10))


def trial(arm: str, rate: float, x: float, y: float) -> list[dict[str, Any]]:
    return [{"arm": arm, "rate": rate, "seed": seed, "metrics": {"x": x, "y": y}} for seed in base.DEVELOPMENT_SEEDS]


def test_a_page_says_how_rates_were_chosen_and_what_others_give() -> None:
    """Chosen by y, judged by x: at the rates that are best for x the difference is a fifth of what it was."""
    toy = declared(lower(), rates=(1e-4, 1e-3), develop="y", rate_of={"c": "a"})
    toy = replace(toy, metrics={"x": "a number", "y": "another"}, placebo=(lower("c", "d"),))
    plan = {"learning rates": {"a": 1e-3, "b": 1e-3, "c": 1e-4, "d": 1e-4}}
    tried = [
        *trial("a", 1e-4, 0.9, 3.0), *trial("a", 1e-3, 1.0, 2.0), *trial("b", 1e-4, 1.0, 3.0), *trial("b", 1e-3, 1.5, 2.0)
    ]  # fmt: skip
    assert rates.how_chosen(toy) == (
        "of 0.0001, 0.001 the one with the lowest `y` (another), mean over the two development seeds; that of *a* for c"
    )
    (one,) = rates.elsewhere(toy, plan, tried)
    assert (one.used, one.best) == (((1e-3, 1.0), (1e-3, 1.5)), ((1e-4, 0.9), (1e-4, 1.0)))
    assert one.shrinks
    assert rates.elsewhere(toy, plan, trial("a", 1e-3, 1.0, 2.0) + trial("b", 1e-3, 1.5, 2.0)) == []
    text = markdown(toy, records(a=[1.0], b=[2.0], c=[0.0], d=[0.0]), plan, "p", tried)
    assert "| claim | x | a against b | 1.0000 at 0.001 against 1.5000 at 0.001 | -0.5000 |" in text
    assert "-0.1000 **less than half** |" in text
    other = [*tried[:2], *trial("a", 1e-3, 1.0, 2.0), *trial("b", 1e-4, 0.8, 3.0), *trial("b", 1e-3, 1.5, 2.0)]
    (one,) = rates.elsewhere(toy, plan, other)
    assert one.turns
    assert "+0.1000 **the other way** |" in markdown(toy, records(a=[1.0], b=[2.0], c=[0.0], d=[0.0]), plan, "p", other)
    assert "(c and d at 0.0001; they at 0.001)" in text
    apart = {"learning rates": {"a": 1e-3, "b": 1e-4, "c": 1e-3, "d": 1e-3}}
    chased = replace(toy, claims=(Claim("claim", "C is lower than b", (lower("c", "b"),)),))
    best_of_c = trial("c", 1e-4, 1.0, 1.0) + trial("c", 1e-3, 1.0, 2.0)
    assert "c 0.001 (that of a; its own best is 0.0001) against b 0.0001." in rates.rates_apart(
        chased, apart, best_of_c
    )
    assert rates.rates_apart(toy, plan, tried) == ""


@pytest.mark.parametrize("experiment", experiments().values(), ids=lambda e: e.name)
def test_what_chose_the_rates_can_be_told(experiment: Experiment) -> None:
    assert bool(rates.how_chosen(experiment)) == bool(experiment.trained and experiment.rates)
    assert bool(experiment.developed) == callable(experiment.develop)


def test_a_claim_that_held_below_its_smallest_effect_says_so() -> None:
    small = [value - 0.15 + n for value, n in zip(BASE, NOISE, strict=True)]
    rows = records(a=small, b=BASE, **SAME)
    (verdict,) = judge(declared(lower()), rows)
    assert (verdict.outcome, verdict.small) == ("held", True)
    assert "this HELD here, smaller than what was called worth having (" in verdict.sentence
    assert "| met, below δ |" in markdown(declared(lower()), rows, {}, "p")
    (verdict,) = judge(declared(lower(delta=0.1)), rows)
    assert (verdict.outcome, verdict.small) == ("held", False)
    found, plans = published()
    lines = index_table(found, plans, {}).splitlines()
    told = [line for line in lines if "**held**, smaller than what was called worth having" in line]
    assert [line.split("]")[0] for line in told] == ["| [neutrality", "| [roles"]


def test_sizes_are_of_the_judged_seeds_and_the_cost_is_of_all_rows() -> None:
    sizes = {str(k): {"sizes": {"H": {"chains": 40 + k, "tokens": 100}}} for k in range(7)}
    rows = records(a=[1.0] * 6, b=[2.0] * 5, c=[0.0] * 5, d=[0.0] * 5)
    rows = [row | {"device": "CPU", "seconds": 60.0} for row in rows]
    text = markdown(declared(lower(), looks=(5, 7)), rows, {"seeds": sizes}, "p")
    assert "- H: 40 to 44 chains, 100 tokens per seed" in text
    assert "- cost: 21.0 minutes of CPU, 1 rows of seeds that are not judged counted" in text


def test_tables_by_step_have_the_level_of_the_page() -> None:
    rows = [
        row | {"curve": [{"step": 1, "x": row["metrics"]["x"]}, {"step": 2, "x": 0.0}]}
        for row in records(a=[1.0, 2.0, 3.0, 4.0, 5.0], b=BASE, **SAME)
    ]
    toy = replace(declared(lower(), looks=(5, 7)), curve={"x": "a number"}, metrics={"x": "a", "x_at_equal_gain": "b"})
    text = markdown(toy, rows, {}, "p")
    wide = t_interval([1.0, 2.0, 3.0, 4.0, 5.0], 0.9706)
    assert text.count(f"3.0000 [{wide.low:.4f}, {wide.high:.4f}]") == 4  # both arms, as a mean and by step
    assert (
        "reaches 90 % of the smallest of the largest gains of the arms compared, on straight lines between the 2 "
        in text
    )


def test_a_page_ends_with_the_command_of_its_plan() -> None:
    roles = {"trained": "bbh", "unseen": "strategyqa", "unrelated": ["u", "v"]}
    assert command("toy", {"roles": roles, "members": [1]}) == (
        "trails experiment toy --trained bbh --unseen strategyqa --unrelated u --unrelated v --data FOLDER --out FOLDER "
        "--member MODEL"
    )
    table = roles_table(published()[1])
    assert "| bbh | strategyqa | unrelated-shakespeare, unrelated-wikipedia | [depth](depth.md)" in table


@pytest.mark.slow
def test_a_bound_that_hangs_on_the_seed_of_the_bootstrap_is_named() -> None:
    page = (PAGES / "transfer.md").read_text(encoding="utf-8")
    assert "bootstrap over chains (4,000 draws, seed 0)" in page
    assert page.count("hangs on the seed of the bootstrap") == 1
    found = read_results(PAGES / "results.jsonl")["transfer"]
    toy = experiments()["transfer"]
    units, chains = base.paired(toy, found.rows, looked(toy, found.rows))
    (near,) = [one for one in toy.placebo if one.metric == "overlaps_base"]
    values = [difference(near, metrics) for metrics in units.values()]
    again = [cluster_interval(values, chains, seed=seed)[0] for seed in range(1, 101)]
    above = sum(one.low > 0 for one in again)
    assert 5 < above < 50
    assert (
        f"in {above} of 100 others its whole interval lies on one side of 0. It lies within ±δ in all of them" in page
    )
    assert max(one.high for one in again) < near.delta


def test_the_hash_of_a_plan_is_made_as_the_index_says() -> None:
    text = (PAGES / "index.md").read_text(encoding="utf-8")
    _, _, after = text.partition("    import hashlib, json\n    text = ")
    making, _, rest = after.partition("\n    ")
    digest, _, _ = rest.partition("\n")
    for name, plan in published()[1].items():
        names = {"json": json, "hashlib": hashlib, "plan": plan}
        names["text"] = eval(making, names)
        assert eval(digest, names) == plan_hash(plan), name


LATE = {"depth": 60, "roles": 62, "initiation": 83, "stages": 29, "bridges": 38}
"""Rows that were measured before the commit of their plan: known, and told on the pages."""
COARSE = {"cheap-paths", "mask-order", "minimal-step", "neutrality"}
"""Experiments whose times are rounded to 1,000 seconds: nothing can be said."""


def test_no_other_plan_was_committed_after_its_first_row() -> None:
    rows, _ = published()
    commits = json.loads((PAGES / "commits.json").read_text(encoding="utf-8"))
    measured = {name: of for name, of in rows.items() if of}
    assert set(measured) <= set(commits)
    assert {name for name, of in measured.items() if committed.rounded(of)} == COARSE
    late = {name: committed.before(of, commits[name]) for name, of in measured.items() if name not in COARSE}
    assert {name: early for name, early in late.items() if early} == LATE
    for name in experiments():
        head = (PAGES / f"{name}.md").read_text(encoding="utf-8").partition("\nClaim, written")[0]
        assert ("**The plan was committed after its first rows**" in head) == (name in LATE)
        assert ("**When the plan was committed** cannot be compared" in head) == (name in COARSE)
    index = (PAGES / "index.md").read_text(encoding="utf-8")
    for name, early in LATE.items():
        assert f"{early} of {len(measured[name])} |" in index
        assert f"`{name}`" in index


def test_the_first_versions_doubtful_claims_are_counted_from_the_rows() -> None:
    found = read_results(PAGES / "results.jsonl")
    rows = {name: (found[name].rows if name in found else None) for name in experiments()}
    told = first_claims(rows)
    assert told in (PAGES / "index.md").read_text(encoding="utf-8")
    assert told.startswith(
        f"{sum(told.count(word) for word in ('**held**', '**not** hold'))} of these 17 are decided now"
    )
    for name, then, _, now in SEVENTEEN:
        assert now in {claim.name for claim in experiments()[name].claims}
        assert f"- **{then}**" in (PAGES / "archive" / f"{name}.md").read_text(encoding="utf-8")
    nothing = first_claims(dict.fromkeys(experiments()))
    assert nothing.startswith("0 of these 17")


def test_archived_pages_recompute_from_their_plans_and_rows() -> None:
    """The intervals of every criterion of the earlier plans stand in the earlier pages."""
    archive = PAGES / "archive"
    for name, found in read_results(archive / "results.jsonl").items():
        page = (archive / f"{name}.md").read_text(encoding="utf-8")
        assert plan_hash(found.plan) in page
        rows = {(r["arm"], r["seed"]): r["metrics"] for r in found.rows}
        seeds = sorted({seed for _, seed in rows})
        for claim in found.plan["claims"]:
            for c in claim["criteria"]:
                if c["null"] or c["metric"].endswith("_at_equal_gain"):
                    continue
                values = [
                    rows[c["treatment"], s][c["metric"]] - (rows[c["control"], s][c["metric"]] if c["control"] else 0.0)
                    for s in seeds
                ]
                i = t_interval(values)
                begin = f"| {claim['name']} | {c['role']} | {c['metric']} | {c['treatment']} | {c['control'] or 0} |"
                (row,) = [line for line in page.splitlines() if line.startswith(begin)]
                shown = [float(number) for number in re.findall(r"-?\d+\.\d{4}", row.removeprefix(begin))]
                # the pages were written with quantiles of three decimals
                assert shown[:3] == pytest.approx([i.mean, i.low, i.high], rel=1e-3, abs=1e-4), (name, c)


@pytest.mark.slow
def test_plans_were_committed_before_their_rows() -> None:
    root = PAGES.parents[1]
    path = "docs/experiments/results.jsonl"

    def commits(text: str) -> list[str]:
        done = subprocess.run(
            ["git", "log", "--reverse", "--format=%H", f"-S{text}", "--", path],
            cwd=root, capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout.split() if done.returncode == 0 else []

    if not (root / ".git").exists() or not commits('"plan":'):
        pytest.skip("needs the history of the repository")
    times = json.loads((PAGES / "commits.json").read_text(encoding="utf-8"))
    for name, found in read_results(PAGES / "results.jsonl").items():
        if not found.rows:
            continue
        plan, rows = commits(f'"sha":"{plan_hash(found.plan)}"'), commits(f'"plan_sha":"{plan_hash(found.plan)}"')
        assert first_commit(plan_hash(found.plan)) == {key: times[name][key] for key in ("commit", "time")}, name
        assert plan, name
        assert rows, name
        assert plan[0] != rows[0], f"the plan of {name} was committed together with its rows"
        order = subprocess.run(["git", "merge-base", "--is-ancestor", plan[0], rows[0]], cwd=root, check=False)
        assert order.returncode == 0, f"the plan of {name} was committed after its rows"
