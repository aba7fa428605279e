"""Agreement statistics against their textbooks, planted agreement and independence, and alignment on characters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare, rankdata, spearmanr
from tests.report.test_report import contents
from tests.response.conftest import saved_model, texts

from trails.analyses.agreement import (
    Member,
    Units,
    agreement,
    aligned,
    intervals,
    kendalls_w,
    krippendorffs_alpha,
    left_out,
    member,
    pairwise_spearman,
    resampled,
    shifted,
    statistics_of,
)
from trails.errors import UsageError
from trails.pipeline import Home
from trails.schema import stable_hash

Trails = Callable[..., Any]


@pytest.mark.parametrize("ties", [False, True])
def test_w_is_friedmans_statistic_scaled(ties: bool) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 5, (12, 4)).astype(float) if ties else rng.normal(size=(12, 4))
    found = friedmanchisquare(*values)  # 12 treatments in 4 blocks
    assert kendalls_w(values) == pytest.approx(found.statistic / (4 * 11))
    assert kendalls_w(np.tile(np.arange(5.0)[:, None], 3)) == pytest.approx(1)


def test_alpha_is_that_of_krippendorffs_example() -> None:
    """Krippendorff 2011, section on data with missing values: four observers, twelve units, interval metric: 0.849."""
    gap = np.nan
    data = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, gap, gap, gap],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, gap, 3],
        [gap, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, gap],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, gap],
    ]
    assert krippendorffs_alpha(np.array(data).T) == pytest.approx(0.849, abs=5e-4)


@pytest.mark.slow
@given(st.integers(0, 2**32 - 1), st.integers(3, 9), st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_alpha_is_its_definition(seed: int, units: int, raters: int) -> None:
    values = np.random.default_rng(seed).normal(1e3, 1, (units, raters))
    within = [(a - b) ** 2 for unit in values for i, a in enumerate(unit) for j, b in enumerate(unit) if i != j]
    flat = values.ravel()
    every = [(a - b) ** 2 for i, a in enumerate(flat) for j, b in enumerate(flat) if i != j]
    assert krippendorffs_alpha(values) == pytest.approx(1 - np.mean(within) / np.mean(every), abs=1e-6)
    assert pairwise_spearman(values)[0] == pytest.approx(spearmanr(values[:, 0], values[:, 1]).statistic)


def consilium(seed: int, rho: float, members: int = 4, chains: int = 40, spans: int = 15) -> Units:
    """Members that share a part ``rho`` of their variance, spans of a chain independent."""
    rng = np.random.default_rng(seed)
    count = chains * spans
    values = np.sqrt(rho) * rng.normal(size=(count, 1)) + np.sqrt(1 - rho) * rng.normal(size=(count, members))
    place = np.arange(count)
    return Units(values, np.repeat(np.arange(chains), spans), place, place + 1, place, tuple(map(str, range(chains))))


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_intervals_cover_planted_agreement_and_independence(rho: float) -> None:
    spearman = 6 / np.pi * np.arcsin(rho / 2)
    truth = np.array([(1 + 3 * spearman) / 4, rho, *[spearman] * 6])
    if not rho:
        truth = np.append(truth, [0.0] * 4)  # a member with the others; dependent members have no such simple truth
    covered = np.zeros(len(truth))
    for seed in range(100):
        units = consilium(seed, rho)
        again = resampled(units, draws=60, seed=seed)
        low, high = intervals(statistics_of(units.values), again, 40)[: len(truth)].T
        covered += (low <= truth) & (truth <= high)
    assert covered[:2].min() >= 93  # W and alpha
    assert covered.min() >= 88  # 95 are expected of each pair of members; under 88 has a probability of 0.3 %


def test_an_interval_ends_where_its_statistic_does() -> None:
    few = consilium(1, 0.97, members=3, chains=4, spans=3)
    turned = replace(few, values=few.values * [1, 1, -1])
    for units in (few, turned):
        own = statistics_of(units.values)
        low, high = intervals(own, resampled(units, draws=60), 4).T
        assert (low <= own).all()
        assert (own <= high).all()
        assert high.max() <= 1
        assert low[0] >= 0
        assert low[2:].min() >= -1
    assert low[2:].min() == -1, "where nothing is cut the test says nothing"


def test_a_member_left_out_is_compared_with_the_mean_rank_of_the_others() -> None:
    values = consilium(3, 0.5).values
    ranks = np.stack([rankdata(column) for column in values.T], axis=1)
    for at, found in enumerate(left_out(values)):
        rest = np.delete(ranks, at, axis=1).mean(1)
        assert found == pytest.approx(spearmanr(values[:, at], rest).statistic)
    values[:, 2] = -values[:, 2]  # one member finds hard what the others find easy
    turned = left_out(values)
    assert turned[2] < -0.4
    assert turned[[0, 1, 3]].min() > 0.2


def test_shifting_keeps_every_chain_and_breaks_the_rest() -> None:
    units = consilium(0, 0.9)
    moved = shifted(units.values, units.chain, np.random.default_rng(0))
    for chain in range(40):
        mine = units.chain == chain
        for column in range(4):
            one, other = units.values[mine, column], moved[mine, column]
            assert sorted(one) == sorted(other)
            assert any(np.array_equal(np.roll(one, by), other) for by in range(15))
    assert kendalls_w(units.values) > 0.9 > 0.4 > kendalls_w(moved)


def a_member(name: str, trace: Any, pieces: list[str], nats: list[float]) -> Member:
    """A member that cuts the text into its own pieces."""
    text = trace.chain.text
    assert "".join(pieces) == text
    ends = np.cumsum([len(piece) for piece in pieces])
    one = member(name, name, [trace])
    key = trace.chain.id
    return replace(one, ends={key: ends}, values={key: np.array(nats)}, tokenizer=stable_hash(name))


def test_spans_are_common_boundaries_and_sums_are_exact(make: Any) -> None:
    trace = make(["ab cd", " ef gh."])
    one = a_member("r1", trace, ["ab", " cd", " e", "f g", "h."], [1, 2, 4, 8, 16])
    two = a_member("r2", trace, ["a", "b", " ", "cd ", "ef ", "gh", "."], [np.nan, 2, 3, 5, 7, 11, 13])
    units, alone = aligned([one, two], "span")
    # both end a token at 2 and 12 only; the first span holds a first token without context
    assert (units.start.tolist(), units.end.tolist(), alone) == ([2], [12], 0)
    np.testing.assert_allclose(units.values, [[30 / 10, 39 / 10]])
    three = a_member("r3", trace, list(trace.chain.text), list(range(12)))
    units, _ = aligned([one, three], "span")
    assert units.end.tolist() == [2, 5, 7, 10, 12]
    np.testing.assert_allclose(units.values[:, 0], [1 / 2, 2 / 3, 4 / 2, 8 / 3, 16 / 2])
    np.testing.assert_allclose(units.values[:, 1], [1 / 2, 9 / 3, 11 / 2, 24 / 3, 21 / 2])
    assert units.step.tolist() == [0, 0, 1, 1, 1]
    by_step, _ = aligned([one, three], "step")
    np.testing.assert_allclose(by_step.values, [[3 / 5, 10 / 5], [28 / 7, 56 / 7]])
    by_chain, _ = aligned([one, three], "chain")
    np.testing.assert_allclose(by_chain.values, [[31 / 12, 66 / 12]])


@pytest.mark.slow
def test_planted_disagreement_is_found(make: Any) -> None:
    rng = np.random.default_rng(0)
    members: list[dict[str, Any]] = [{}, {}, {}]
    ends, steps, words = {}, {}, {}
    planted = set()
    for number in range(30):
        trace = make([f"w{i} " for i in range(20)], name=str(number))
        key = trace.chain.id
        base = rng.gamma(2.0, 1.0, trace.n_tokens)
        for one in members:
            one[key] = base + rng.normal(0, 0.05, len(base))
        place = int(rng.integers(len(base)))
        members[2][key][place] = 40.0 if base[place] < np.median(base) else 0.0
        planted.add((key, int(trace.token_end[place])))
        ends[key], words[key] = trace.token_end.astype(int), trace.chain.text
        steps[key] = np.array([step.end for step in trace.steps])
    made = [Member(f"r{i}", "abc"[i], "t", ends, values, steps) for i, values in enumerate(members)]
    found = agreement(made, words, draws=40)
    assert found.scores[0].beyond()
    assert found.report().verdict.startswith("3 members agree on which spans are hard")
    assert [row["member"] for row in found.left.to_pylist()] == ["a", "b", "c"]
    assert all(row["spearman"] > row["shifted_high"] for row in found.left.to_pylist())
    assert all(row["others_with_its_tokenizer"] == 2 for row in found.left.to_pylist())
    first = {(row["chain"], row["end"]) for row in found.spans.to_pylist()[:30]}
    assert len(first & planted) >= 27
    assert {row["hardest_for"] for row in found.spans.to_pylist()[:10]} <= {"a", "b", "c"}
    flat = Member("r9", "flat", "t", ends, {key: np.full(len(v), 3.25) for key, v in members[0].items()}, steps)
    beside = agreement([*made, flat], words, draws=40)
    assert beside.notes == ("left out, because every token has the same surprisal: “flat”",)
    assert beside.scores == found.scores
    for name in ("members", "pairs", "left", "spans"):
        assert getattr(beside, name) == getattr(found, name)
    alone = agreement([made[0], flat], words, draws=40)
    assert not alone.scores
    assert alone.batch() is None
    assert alone.report().verdict.startswith("1 member is not compared: 1 member orders the text, two are needed")
    scaled = [replace(one, values={k: v * 9**i for k, v in one.values.items()}) for i, one in enumerate(made)]
    order = agreement(scaled, words, draws=40)
    assert order.scores[0].beyond()
    assert order.scores[1].value < 0
    told = order.report().verdict
    assert told.startswith("3 members order the spans alike beyond chance without agreeing on how hard they are: ")
    assert f"Krippendorff's alpha {order.scores[1].value:.2f}" in told
    free = [replace(one, values={k: rng.normal(size=len(v)) for k, v in one.values.items()}) for one in made]
    apart = agreement(free, words, draws=40)
    assert not apart.scores[0].beyond()
    assert "do not agree beyond chance" in apart.report().verdict


@pytest.mark.parametrize(
    ("by", "moved"),
    [
        ("span", "spans shifted within their chain"),
        ("step", "steps shifted within their chain"),
        ("chain", "chains exchanged"),
    ],
)
def test_the_headline_and_the_control_name_the_same_null(make: Any, by: Any, moved: str) -> None:
    rng = np.random.default_rng(4)
    traces = [make([f"w{i} " for i in range(12)], name=str(n)) for n in range(12)]
    ends = {t.chain.id: t.token_end.astype(int) for t in traces}
    steps = {t.chain.id: np.array([step.end for step in t.steps]) for t in traces}
    made = [Member(f"r{i}", "ab"[i], "t", ends, {k: rng.gamma(2, 1, 12) for k in ends}, steps) for i in range(2)]
    found = agreement(made, {t.chain.id: t.chain.text for t in traces}, by=by, draws=40)
    assert {one.controls[0].name for one in found.scores} == {moved}
    told = found.report().verdict
    assert told.count(f"with their {moved.removesuffix(' within their chain')} ") == 2
    if by == "chain":  # the median of exchanged chains, not that of the chains as they are
        parted = found.spans["statistic"].to_pylist()
        assert found.spans["chance"][0].as_py() not in parted


def test_too_little_to_compare_is_said(make: Any) -> None:
    trace = make(["a b"])
    one = member("r1", "a", [trace])
    with pytest.raises(UsageError, match="1 member is there to compare"):
        agreement([one], {})
    with pytest.raises(UsageError, match="no chain was measured by all of r1, r2"):
        agreement([one, member("r2", "b", [])], {})
    few = agreement([one, replace(one, run="r2")], {trace.chain.id: trace.chain.text})
    assert not few.scores
    assert "2 members are not compared: 2 spans in 1 chain" in few.report().verdict


@pytest.mark.slow
def test_members_are_ingested_compared_and_a_failed_one_is_reported(
    trails: Trails, tmp_path: Path, toy_model: Path
) -> None:
    import json

    shallow = saved_model(tmp_path / "shallow", num_hidden_layers=2)
    broken = saved_model(tmp_path / "broken")
    next(broken.glob("*.safetensors")).write_bytes(b"")
    file = tmp_path / "toys.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in texts()))
    home = ("--home", tmp_path / "many")
    listed = ",".join(map(str, (toy_model, broken, shallow)))
    answer = trails("ingest", file, "--models", listed, *home, code=4)
    assert "1 of 3 members failed" in answer.error
    assert "broken" in answer.error
    trails("ingest", file, "--models", f"{toy_model},uniform,{shallow}", *home)
    with Home(tmp_path / "many") as opened:
        runs = opened.runs()
        assert sorted(run.model for run in runs.values()) == ["shallow", "toy", "uniform"]
        assert all(len(opened.shards.done(run)) == 8 for run in runs)
    three = ",".join(run.id for run in runs.values() if run.model != "uniform")
    file = tmp_path / "page.html"
    found = trails("agreement", "--runs", three, *home, "--json", "--limit", 999, "--html", file).json()
    page, _ = contents(file)
    assert page["report"]["verdict"] == found["verdict"]
    assert page["run"]["id"] == found["runs"][0] == found["members"][0]["run"], (
        "the tokens are those of the first member"
    )
    assert {chain["id"] for chain in page["chains"]} == {row["chain"] for row in found["disagreements"]}
    assert (found["n_members"], found["n_chains"]) == (2, 8)
    with Home(tmp_path / "many") as opened:
        pair = [
            {t.chain.id: t for t in opened.traces(run)}
            for run in found["members"] and [m["run"] for m in found["members"]]
        ]
        own = np.concatenate([np.stack([one[c].surprisal for one in pair], 1) for c in sorted(pair[0])])
        size = np.concatenate([(pair[0][c].token_end - pair[0][c].token_start) for c in sorted(pair[0])])
        assert found["scores"][0]["value"] == pytest.approx(statistics_of(own / size[:, None])[0])
        stored = opened.cypher("MATCH (d:Disagreement)-[:AT]->(:Step) RETURN count(d)").rows[0][0]
    assert stored == len(found["disagreements"]) > 0
    assert len(trails("query", "disagreements", *home, "--json").json()) == min(stored, 50)
    assert "two are needed" in trails("agreement", "--runs", three.split(",")[0], *home, code=2).error
    assert "named twice" in trails("agreement", "--runs", ",".join([three.split(",")[0]] * 2), *home, code=2).error
    assert "standard input" in trails("ingest", "-", "--models", "uniform,toy", *home, code=2).error
    assert "given twice" in trails("ingest", file, "--models", "uniform,uniform", *home, code=2).error
