"""Choices within a budget: each way against its definition, the budget is kept, and a choice is exported like any selection."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.report.test_report import contents
from tests.response.conftest import saved_model, texts

from trails.analyses import gaps
from trails.analyses.budget import WAYS, Pool, choose, chosen, lazy_greedy, taken
from trails.analyses.score import Control, Score
from trails.errors import UsageError
from trails.pipeline import Home
from trails.store.base import GraphBatch
from trails.store.rows import table_of
from trails.store.traces import TraceStore

Trails = Callable[..., Any]


def pool(seed: int, count: int = 40) -> Pool:
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(count, 5)).astype(np.float32)
    return Pool(
        tuple(f"c{i:016x}" for i in range(count)),
        rng.integers(5, 60, count),
        rng.gamma(2.0, 1.0, count),
        tuple(f"s{i % 3}" for i in range(count)),
        tuple(np.unique(rng.integers(0, 200, rng.integers(2, 40))).astype(np.uint64) for _ in range(count)),
        rng.normal(size=count),
        states / np.linalg.norm(states, axis=1, keepdims=True),
    )


@pytest.mark.slow
@given(st.integers(0, 10_000), st.sampled_from(WAYS), st.integers(60, 900), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_choice_keeps_the_budget_and_leaves_no_room_for_another(
    seed: int, by: Any, budget: int, reverse: bool
) -> None:
    of = pool(seed)
    places = choose(of, by, budget, seed=seed, reverse=reverse)
    spent = int(of.tokens[places].sum())
    rest = sorted(set(range(len(of.chains))) - set(places))
    assert len(set(places)) == len(places)
    assert spent <= budget
    assert all(of.tokens[one] > budget - spent for one in rest)
    assert places == choose(of, by, budget, seed=seed, reverse=reverse)


def test_orders_are_what_they_say() -> None:
    of = pool(0)
    for by, values, sign in (
        ("perplexity", of.surprisal, 1),
        ("length", of.tokens, 1),
        ("gaps", of.value, -1),
        ("reaction", of.value, 1),
        ("learnability", of.value, 1),
    ):
        for reverse in (False, True):
            places = choose(of, by, 10**6, reverse=reverse)  # type: ignore[arg-type]
            signed = sign * (-1 if reverse else 1) * values[places]
            assert len(places) == 40
            assert (np.diff(signed) >= 0).all()
    assert choose(of, "random", 10**6, seed=1) != choose(of, "random", 10**6, seed=2)


def test_lazy_greedy_is_greedy() -> None:
    for seed in range(20):
        of = pool(seed)
        known: set[int] = set()
        left, slow = 300, []
        while able := [i for i in range(40) if i not in slow and of.tokens[i] <= left]:
            best = max(able, key=lambda i: (len(set(of.windows[i].tolist()) - known) / of.tokens[i], -i))
            slow.append(best)
            known |= set(of.windows[best].tolist())
            left -= int(of.tokens[best])
        assert choose(of, "overlap", 300) == slow


def test_diversity_takes_one_of_each_cluster_first() -> None:
    rng = np.random.default_rng(0)
    centres = np.eye(4, 8)
    states = np.repeat(centres, 10, 0) + rng.normal(0, 0.02, (40, 8))
    base = pool(0)
    of = Pool(
        base.chains,
        np.full(40, 10),
        base.surprisal,
        base.source,
        base.windows,
        base.value,
        (states / np.linalg.norm(states, axis=1, keepdims=True)).astype(np.float32),
    )
    assert {place // 10 for place in choose(of, "diversity", 40)} == {0, 1, 2, 3}
    assert taken([3, 1, 2], np.array([5, 5, 5, 5]), 12) == [3, 1]
    assert lazy_greedy(lambda i: 1.0, lambda i: None, np.array([2, 1, 4]), 3) == [1, 0]


def test_what_differs_from_random_choices_is_said() -> None:
    of = pool(3)
    found = chosen(of, "perplexity", 300, "r")
    (score,) = [score for score in found.scores if score.name == "mean surprisal"]
    places = choose(of, "perplexity", 300)
    assert score.value == pytest.approx((of.surprisal[places] * of.tokens[places]).sum() / of.tokens[places].sum())
    assert score.value < score.controls[0].interval[0]  # type: ignore[index]
    assert "mean surprisal" in found.report().verdict
    assert not chosen(of, "random", 300, "r").scores
    assert "whole pool" in chosen(of, "length", 10**6, "r").notes[0]
    with pytest.raises(UsageError, match="no chain of 40 that can be chosen by length fits into 2 tokens"):
        chosen(of, "length", 2, "r")


@pytest.mark.slow
def test_a_choice_is_exported(trails: Trails, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    found = trails("select", "--budget", 1000, "--by", "overlap", "--json", "--html", file).json()
    page, _ = contents(file)
    assert page["report"]["verdict"] == found["verdict"]
    assert [row["id"] for row in page["chains"]] == [row["chain"] for row in found["chosen"]]
    chains = [row["chain"] for row in found["chosen"]]
    assert sum(row["tokens"] for row in found["chosen"]) <= 1000
    trails("export", "--subgraph", found["selection"], "--format", "trails", "-o", tmp_path / "rows.parquet")
    import pyarrow.parquet as pq

    assert sorted(pq.read_table(tmp_path / "rows.parquet")["chain"].to_pylist()) == sorted(chains)
    with Home() as home:
        kept = json.loads((home.settings.home / "selections" / f"{found['selection'][9:]}.json").read_text())
        assert kept["chains"] == chains
        assert (kept["by"], kept["budget"]) == ("overlap", 1000)
    again = trails("select", "--budget", 1000, "--by", "overlap", "--json").json()
    assert again["selection"] == found["selection"]
    trails("remove", "chain", chains[0], "--yes")
    with Home() as home:
        assert home.select(found["selection"]).chains == sorted(chains[1:])


@pytest.mark.slow
def test_reaction_orders_by_what_respond_stored(trails: Trails) -> None:
    answer = trails("select", "--budget", 1000, "--by", "reaction", code=2)
    assert "trails respond" in answer.error
    rows = trails("respond", "source:toys", "--probes", "source:probes", "--json", "--limit", 99).json()["responses"]
    order = sorted(rows, key=lambda row: row["nll_change"] - row["nll_change_control"])
    found = trails("select", "--budget", 100000, "--by", "reaction", "--json").json()
    assert [row["chain"] for row in found["chosen"]] == [row["chain"] for row in order]


@pytest.mark.slow
def test_a_choice_by_gaps_says_where_the_calibration_did_not_show_their_size(trails: Trails) -> None:
    with Home() as home:
        run = home.run()
        chains = sorted(home.shards.done(run.id))
        mine = {"id": [f"g{n}" for n in range(len(chains))], "chain": chains, "run": [run.id] * len(chains)}
        gap = table_of("Gap", {**mine, "bridge_nats": [float(n) for n in range(len(chains))]})
        home.graph.write([GraphBatch({"Gap": gap})])
        home.graph.save()
        folder = home.settings.home

    def notes(value: float, low: float) -> list[str]:
        size = Score(
            gaps.SIZE, value, "rank correlation", (Control("length of the removed step", 0.3),), (low, value + 0.1)
        )
        every = Score("all", 0.7, "AUC", (Control("position", 0.5),))
        with TraceStore(folder, write=True) as store:
            noted = gaps.Calibration(run.id, 20, (), (), (every, size)).stored()
            store.update_run_notes(run.id, {gaps.NOTE: noted})
        found: list[str] = trails("select", "--budget", 100000, "--by", "gaps", "--json").json()["notes"]
        return [note for note in found if note.startswith("bridge_nats")]

    assert trails("select", "--budget", 100000, "--by", "gaps", "--json").json()["chosen"][0]["chain"] == chains[-1]
    (told,) = notes(0.1, -0.2)
    assert "its size was not shown on this corpus" in told
    assert notes(0.6, 0.5) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--budget", 100, "--by", "gaps"), "Run: trails gaps"),
        (("--budget", 100, "--by", "diversity"), "--states"),
        (("--budget", 1, "--by", "random"), "fits into 1 token;"),
        (("--budget", 100, "--by", "random", "--pool", "source:none"), "source 'none'"),
    ],
)
def test_bad_input_is_named(trails: Trails, arguments: Any, says: str) -> None:
    assert says in trails("select", *arguments, code=2).error
    with Home() as home, pytest.raises(UsageError, match="no such choice. There are: none"):
        home.select("selected:x0000000000000000")


@pytest.mark.slow
def test_learnability_takes_what_a_training_lowered_most(trails: Trails, tmp_path: Path, toy_model: Path) -> None:
    """The second run stands for the model after a probe training: another random model with the same tokenizer."""
    other = saved_model(tmp_path / "other", seed=5)
    file = tmp_path / "toys.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in texts()))
    home = ("--home", tmp_path / "two")
    for model in (toy_model, other):
        trails("ingest", file, "--model", model, *home)
    with Home(tmp_path / "two") as opened:
        one, two = sorted(opened.runs().values(), key=lambda run: run.model != "toy")
        nats = [{t.chain.id: float(np.nanmean(t.surprisal)) for t in opened.traces(run.id)} for run in (one, two)]
        length = max(t.n_tokens for t in opened.traces(one.id))
    change = {chain: nats[1][chain] - nats[0][chain] for chain in nats[0]}
    words = ("select", "--budget", 8 * length, "--by", "learnability", "--run", one.id, *home)
    found = trails(*words, "--after", two.id, "--json").json()
    assert [row["chain"] for row in found["chosen"]] == sorted(change, key=change.__getitem__)
    turned = trails(*words, "--after", two.id, "--reverse", "--json").json()
    assert [row["chain"] for row in turned["chosen"]] == sorted(change, key=change.__getitem__)[::-1]
    assert "--after RUN" in trails(*words, code=2).error
    assert (
        "nothing else does"
        in trails("select", "--budget", 99, "--by", "length", "--after", two.id, "--run", one.id, *home, code=2).error
    )
