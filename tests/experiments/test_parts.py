"""The bench leaves the model as it was and measures what it says; parts of experiments on planted cases."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trails.errors import UsageError
from trails.evaluate.probe import probe
from trails.experiments import anchor, cheap_paths, depth, mask_order, minimal_step, volatility
from trails.experiments.base import Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import disjoint, load_corpus
from trails.schema import Chain, Role
from trails.segment import segment
from trails.train import weight_change

pytestmark = pytest.mark.train


def test_families_get_their_parts(corpus, data: Path) -> None:
    assert (corpus.roles.trained, corpus.roles.unrelated) == ("debate", ("unrelated-noise",))
    assert corpus.roles.unseen in ("answers", "proofs")
    named = load_corpus([data], trained="answers", unseen="debate")
    assert (named.roles.trained, named.roles.unseen) == ("answers", "debate")
    assert len(named.wordings(3)) == 15
    with pytest.raises(UsageError, match="proofs"):
        load_corpus([data], trained="nothing")


def test_evaluation_shares_no_gram_with_training(bench: Bench, corpus, small: Scale) -> None:
    sets = bench.sets(corpus, small, 0, 8)
    assert len(sets.train) == 8
    taken = [row["input_ids"] for row in sets.train]
    for rows in (sets.held_out, sets.unseen, sets.unrelated):
        assert rows
        assert len(disjoint([row["input_ids"] for row in rows], taken)) == len(rows)
    again = bench.sets(corpus, small, 0, 8)
    assert again.train == sets.train
    assert bench.sets(corpus, small, 1, 8).train != sets.train


@pytest.mark.parametrize("full", [False, True])
def test_training_leaves_the_base_as_it_was(bench: Bench, corpus, small: Scale, full: bool) -> None:
    sets = bench.sets(corpus, small, 0, 4)
    before = {name: value.clone() for name, value in bench.model.state_dict().items()}
    base = bench.base(sets)
    options = bench.options(small, 3, 0, **({} if full else {"layers": (1, 2)}))
    with bench.trained(sets.train, options, full=full) as (model, losses):
        after = bench.measure(model, sets)
        if not full:
            assert [layer for layer, change in weight_change(model).items() if change] == [1, 2]
    assert len(losses) == 3
    assert after["nll_h"] < base["nll_h"]
    assert after["kl_d"] > 0
    assert list(before) == list(bench.model.state_dict())
    assert all(torch.equal(value, before[name]) for name, value in bench.model.state_dict().items())
    assert bench.base(sets) == base


def test_probes_equal_those_of_training(bench: Bench, corpus, small: Scale) -> None:
    rows = bench.sets(corpus, small, 0, 4).held_out
    for mine, theirs in zip(bench.probe(bench.model, rows, compare=True), probe(bench.model, rows), strict=True):
        np.testing.assert_allclose(mine.nll, theirs.nll, atol=1e-5)
        np.testing.assert_allclose(mine.entropy, theirs.entropy, atol=1e-5)
        np.testing.assert_allclose(mine.kl, 0, atol=1e-6)


def test_volatility_of_known_edits(bench: Bench) -> None:
    ids = bench.ids("one two three four five six seven eight")
    late, early = list(ids), list(ids)
    late[-1] = 5
    early[2] = 5
    same, last, first = bench.volatility([], ids, [ids, late, early])
    assert same == pytest.approx(0, abs=1e-7)
    assert last == pytest.approx(0, abs=1e-7)  # nothing common is predicted after the last token
    assert 0 < first <= math.log(2)


def test_variants_of_one_pool_have_equally_many_edits(bench: Bench, corpus, small: Scale) -> None:
    row = bench.sets(corpus, small, 0, 4).train[0]
    pool = volatility.edited_pool(bench, row, 8, 0)
    offset = row["offset"]
    likely = bench.likely(row["input_ids"][:offset], row["input_ids"][offset:], volatility.REACH)
    for _, new in pool:
        places = [k for k, (a, b) in enumerate(zip(row["input_ids"], new["input_ids"], strict=True)) if a != b]
        assert len(places) == max(1, round(volatility.EDITED * (len(row["input_ids"]) - offset)))
        assert all(new["input_ids"][k] in likely[k - offset] for k in places)  # one reach for all
    arms = volatility.assigned([pool], 0)
    ranked = sorted(v for v, _ in pool)
    assert sorted(v for v, _ in arms["low volatility"]) == ranked[:2]
    assert sorted(v for v, _ in arms["high volatility"]) == ranked[-2:]
    one, two = ({id(row) for _, row in arms[name]} for name in ("shuffled A", "shuffled B"))
    assert len(one) == len(two) == 2
    assert not one & two


def test_the_control_that_collapses_says_one_phrase_again_and_again(bench: Bench, corpus, small: Scale) -> None:
    row = bench.sets(corpus, small, 0, 4).train[0]
    new, offset = volatility.repeating(bench, row), row["offset"]
    assert len(new["input_ids"]) == len(row["input_ids"])
    assert new["input_ids"][: offset + volatility.PHRASE] == row["input_ids"][: offset + volatility.PHRASE]
    assert new["input_ids"][offset + volatility.PHRASE :] == new["input_ids"][offset : -volatility.PHRASE]


def test_shuffled_words_keep_the_words_of_the_chain(bench: Bench, corpus, small: Scale) -> None:
    row = bench.sets(corpus, small, 0, 4).train[0]
    new, offset = depth.shuffled(bench, row, 0), row["offset"]
    assert new["input_ids"][:offset] == row["input_ids"][:offset]
    assert sorted(new["input_ids"]) == sorted(row["input_ids"])
    assert new["input_ids"] != row["input_ids"]


def test_adapters_side_by_side_are_read_as_each_alone(bench: Bench, corpus, small: Scale) -> None:
    sets = bench.sets(corpus, small, 0, 4)
    feeds = {"a": sets.train, "b": sets.train[::-1]}
    prompts = [row["input_ids"][:6] for row in sets.held_out]
    with bench.side_by_side(feeds, {"a": 1e-2, "b": 3e-2}, bench.options(small, 3, 0)) as (adapters, _):
        states = bench.hidden_each(adapters, sets.held_out, 3)
        said = bench.repetition_each(adapters, prompts, 8)
        whole = adapters.flat
        for index in range(2):
            adapters.flat, adapters.count = whole[index : index + 1].detach(), 1
            adapters.set()
            np.testing.assert_allclose(states[index], bench.hidden(bench.model, sets.held_out, 3), atol=1e-5)
            assert said[index] == bench.repetition(bench.model, prompts, 8)
        adapters.flat, adapters.count = whole, 2
    assert float(np.abs(states[0] - states[1]).max()) > 1e-3


def test_random_edits_are_as_volatile_as_the_variants(bench: Bench, corpus, small: Scale) -> None:
    row = bench.sets(corpus, small, 0, 4).train[0]
    reachable, _ = minimal_step.random_edits(bench, row, [0.0, 0.001], [1, 2], 0)
    wanted = [new["volatility"] for new in reachable]
    found, outside = minimal_step.random_edits(bench, row, wanted, [1, 2], 0)
    assert outside == 0
    for new, volatility_wanted in zip(found, wanted, strict=True):
        assert new["volatility"] == pytest.approx(volatility_wanted, rel=minimal_step.WITHIN)
        different = sum(a != b for a, b in zip(row["input_ids"], new["input_ids"], strict=True))
        assert different <= 2
        offset = row["offset"]
        (again,) = bench.volatility(row["input_ids"][:offset], row["input_ids"][offset:], [new["input_ids"][offset:]])
        assert new["volatility"] == pytest.approx(again, abs=1e-6)
    _, outside = minimal_step.random_edits(bench, row, [0.69], [1], 0)  # no edit of one token moves every prediction
    assert outside == 1


def test_targets_keep_a_wording_that_shares_no_words(bench: Bench, corpus, small: Scale) -> None:
    for target in minimal_step.targets(bench, corpus, small, 0):
        kept = set(target.kept.chain.text.split())
        assert target.kept.chain.question == target.text.chain.question
        assert len(target.others) == 1
        assert kept != set(target.text.chain.text.split())


def test_layer_arms_have_equal_parameters() -> None:
    for seed in range(5):
        sets = depth.layer_sets(30, seed)
        middle, rank = sets["middle third"]
        drawn, rank_drawn = sets["random layers"]
        everywhere, rank_all = sets["all layers"]
        assert middle == tuple(range(10, 20))
        assert len(drawn) == 10
        assert not set(drawn) & set(middle)
        assert everywhere == ()
        assert rank == rank_drawn
        assert rank * 10 == rank_all * 30
    assert depth.layer_sets(30, 0) == depth.layer_sets(30, 0)
    assert depth.layer_sets(30, 0) != depth.layer_sets(30, 1)


def test_the_rate_of_least_drift_is_taken_at_equal_gain() -> None:
    def row(arm: str, rate: float, *points: tuple[float, float], seed: int = 1000) -> dict[str, Any]:
        return {
            "arm": arm,
            "rate": rate,
            "seed": seed,
            "curve": [{"gain_h": g, "kl_d": d} for g, d in ((0, 0), *points)],
        }

    rows = [
        row("a", 1e-4, (0.1, 0.01)),  # never gets there
        row("a", 1e-3, (0.2, 0.04), (0.4, 0.1)),
        row("b", 1e-4, (0.45, 0.02), (0.5, 0.9)),
        row("b", 1e-3, (0.9, 0.5)),
        row("shuffled words", 1e-3, (0.0, 3.0)),  # learns another text and sets no target
    ]
    found = depth.drift_by_rate(rows)
    # the smallest best gain is a's 0.4, so the target is 0.36
    assert found == pytest.approx({("a", 1e-4): math.inf, ("a", 1e-3): 0.088, ("b", 1e-4): 0.016, ("b", 1e-3): 0.2})
    second = [{**r, "seed": 1001, "curve": [{**p, "kl_d": 3 * p["kl_d"]} for p in r["curve"]]} for r in rows]
    assert depth.drift_by_rate([*rows, *second])["b", 1e-4] == pytest.approx(0.032)


def test_what_the_correction_of_depth_says_of_its_second_version_is_in_the_rows() -> None:
    path = Path(__file__).parents[2] / "docs" / "experiments" / "archive" / "depth-2.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    last = {(r["arm"], r["seed"], r["rate"]): r for r in lines if r.get("development")}
    found = depth.drift_by_rate(list(last.values()))
    assert depth.EXPERIMENT.correction is not None
    told = depth.EXPERIMENT.correction.stands
    for arm in ("middle third", "all layers", "all weights", "random other layers"):
        value = found[arm.replace("other ", ""), 3e-4]
        assert (
            f"{value:.3f}".lstrip("0")
            + f" for {'' if arm in ('all layers', 'all weights', 'random other layers') else 'the '}{arm}"
            in told
        )


def test_paths_belong_to_one_half_only() -> None:
    def rows(*ids: list[int]) -> list[dict[str, object]]:
        return [{"input_ids": one} for one in ids]

    a, b = cheap_paths.grams_of(rows([1, 2, 3, 4])), cheap_paths.grams_of(rows([2, 3, 4, 5], [7, 8, 9]))
    assert a == {(1, 2, 3), (2, 3, 4)}
    found = cheap_paths.paths_of(rows([0, 1, 2, 3, 4, 5], [7, 8, 9]), a, b)
    assert found == {"A": [(0, 3)], "B": [(0, 5), (1, 2)]}  # (2, 3, 4) is in both


def test_the_crossover_cancels_what_lies_in_the_texts() -> None:
    """The paths of A are easier by 3 nats for whoever is trained: no advantage; a gain of 1 at own paths is seen."""

    def record(own: float, other: float) -> dict[str, object]:
        return {
            "metrics": {
                "nll_advantage": own - other, "entropy_advantage": 0.0, "nll_own": own, "nll_placebo": 0.0,
            }
        }  # fmt: skip

    records = {"tracks A": record(-3.0 - 1.0, 0.0), "tracks B": record(-1.0, -3.0)}
    records |= {"shuffled A": record(-3.0, 0.0), "shuffled B": record(0.0, -3.0), "planted A": record(0.0, 0.0)}
    found = cheap_paths.derive(records)
    assert found["tracks A"]["nll_advantage_both"] == -1.0
    assert found["shuffled A"]["nll_advantage_both"] == 0.0


def test_halves_and_texts_share_no_chain(bench: Bench, corpus, small: Scale) -> None:
    found = [cheap_paths.prepare(bench, corpus, small, seed) for seed in (0, 1)]
    for one in found:
        parts = [
            {row["chain"] for row in rows} for rows in (one.feeds["tracks A"], one.feeds["tracks B"], one.sets["H"])
        ]
        assert not parts[0] & parts[1]
        assert not (parts[0] | parts[1]) & parts[2]
        assert one.realised() == cheap_paths.prepare(bench, corpus, small, found.index(one)).realised()
    blocks = [{item.chain.id for item in corpus.block("debate", seed, 9)[:9]} for seed in (0, 1, 2, 1000, 1001)]
    assert len(set.union(*blocks)) == 45  # of different seeds, development seeds among them


def test_another_walk_keeps_the_tokens() -> None:
    spans = [{"step": 0, "start": 0, "end": 2, "role": "IF"}, {"step": 1, "start": 2, "end": 5, "role": "THEN"}]
    row = {
        "input_ids": [1, 2, 3, 4, 5],
        "labels": [-100, 2, 3, 4, 5],
        "loss_weights": [0, 1, 1, 1, 1],
        "step_spans": spans,
    }
    other = cheap_paths.another_walk(row, 0)
    assert other["input_ids"] == [3, 4, 5, 1, 2]
    assert other["labels"] == [-100, 4, 5, 1, 2]


def test_masks_drop_what_they_say() -> None:
    row = {"labels": [-100, -100, 7, 8, 9], "loss_weights": [0.0, 0.0, 1.0, 1.0, 1.0]}
    surprisal = np.asarray([0.1, 5.0, 0.2], np.float32)
    assert mask_order.masked(row, surprisal, False, 0) == [0.0, 0.0, 1.0, 0.0, 1.0]
    assert sum(mask_order.masked(row, surprisal, True, 3)) == 2.0


@pytest.mark.parametrize("arm", mask_order.ORDERS)
def test_orders_hold_every_row_equally_often_and_never_twice_in_a_step(arm: str) -> None:
    rows = [{"chain": f"c{i}"} for i in range(12)]
    found = mask_order.order_of(arm, rows, np.arange(12.0), 0, 4)
    assert Counter(found) == dict.fromkeys(range(12), mask_order.PASSES)
    assert all(len(set(found[i : i + 4])) == 4 for i in range(0, len(found), 4))
    if arm == "rising order":
        assert found == [*range(12)] * 2
    if arm == "massed":
        assert set(found[:4]) == set(found[4:8])
    if arm == "shuffled again":
        assert found != mask_order.order_of("shuffled", rows, np.arange(12.0), 0, 4)


def test_the_task_has_the_true_step_first_and_other_digits_after_it(bench: Bench) -> None:
    text = "We have 3 and 4.\nSo it is 7 now."
    first = len(bench.ids("We have 3 and 4.\n"))
    row = bench.ids_row(
        bench.ids(text), spans=[{"step": 0, "start": 0, "end": first}, {"step": 1, "start": first, "end": 0}]
    )
    tests = mask_order.tests_of(bench, row, 0)
    words = [bench.tokenizer.decode(one["input_ids"]) for one in tests]
    assert words[0] == text
    assert len({*words}) == 4
    assert all(one.startswith("We have 3 and 4.\nSo it is ") and one.endswith(" now.") for one in words)


def test_a_jump_is_told_from_a_smooth_rise() -> None:
    draw = np.random.default_rng(0)
    n = len(anchor.FEEDS)
    at = anchor.FEEDS.index(20)
    jumping = np.where(np.arange(n) >= at, 0.9, 0.8) + draw.normal(0, 0.002, n)
    jump, place = anchor.jump_of(anchor.FEEDS, jumping.tolist())
    assert jump > 2
    assert place == 20.0
    assert math.isnan(anchor.jump_of(anchor.FEEDS, [0.8] * n)[0])


def test_the_jump_is_nought_on_average_for_a_smooth_course_with_noise() -> None:
    """Both a flat course and a saturating one: the statistic of the first version gave +.14 for the former."""
    draw = np.random.default_rng(1)
    x = np.log2(1 + np.asarray(anchor.FEEDS, np.float64))
    for course in (0 * x, 0.05 * x - 0.005 * x * x):
        found = [anchor.jump_of(anchor.FEEDS, (course + draw.normal(0, 0.01, len(x))).tolist())[0] for _ in range(1000)]
        assert abs(float(np.mean(found))) < 0.12
        assert 0.8 < float(np.std(found)) < 1.2


def test_the_connective_is_taken_out_of_what_is_probed(corpus) -> None:
    found = anchor.examples(corpus.family("debate", 0)[:5])
    assert {concept for *_, concept in found} == {True, False}
    for _, _, text, _ in found:
        assert not text.casefold().startswith(("because", "since", "so ", "therefore"))
    chain = Chain("s", "1", "", "It rains. Because the street is wet, we stay.")
    steps = segment(chain)
    assert steps[1].role is Role.BECAUSE
    kept = anchor.examples(corpus.family("debate", 0)[:5], kept=True)
    assert [e[:2] + e[3:] for e in kept] == [e[:2] + e[3:] for e in found]
    assert all(with_word.endswith(text) for (_, _, with_word, _), (_, _, text, _) in zip(kept, found, strict=True))
    assert all(text.startswith(("Because", "Since")) for _, _, text, concept in kept if concept)


def test_what_the_arms_of_the_anchor_are_fed(bench: Bench, corpus) -> None:
    found = anchor.examples(corpus.family("debate", 0))
    pools = {kind: [e for e in found if e[3] == kind][:6] for kind in (True, False)}
    said = {}
    for arm in ("marker", "wrong marker", "no marker", "no marker again"):
        rows = anchor.feed_of(bench, arm, pools, 3, 4, 0)
        said[arm] = [bench.tokenizer.decode(row["input_ids"]) for row in rows]
        assert len(rows) == 12
    plain = [text.replace(anchor.MARKER, "") for text in said["marker"]]
    assert plain == said["no marker"]
    assert [anchor.MARKER in text for text in said["marker"]] == [False, False, True, True] * 3
    assert [anchor.MARKER in text for text in said["wrong marker"]] == [True, True, False, False] * 3
    assert said["no marker again"] != said["no marker"]


def test_markers_of_the_arms() -> None:
    assert [anchor.marked("marker", 0, c, 0) for c in (True, False)] == [True, False]
    assert [anchor.marked("wrong marker", 0, c, 0) for c in (True, False)] == [False, True]
    coins = [anchor.marked("random marker", i, True, 0) for i in range(40)]
    assert coins == [anchor.marked("random marker", i, False, 0) for i in range(40)]
    assert 8 < sum(coins) < 32
