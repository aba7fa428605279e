"""Do flags of effects predict damage: the flags are the product's, the pairs are matched, damage is that of a training."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from trails.analyses import effects
from trails.errors import UsageError
from trails.experiments import flags
from trails.experiments.base import Scale
from trails.experiments.bench import Bench, mean
from trails.experiments.members import adapted, shortened
from trails.measure.base import Segmented

pytestmark = pytest.mark.train


def span(source: str, size: int, nll: float, chain: str = "") -> flags.Span:
    return flags.Span(source, {"input_ids": [1] * size, "labels": [1] * size, "chain": chain}, nll, 1.0)


def test_a_piece_grows_forwards_then_backwards_by_whole_steps() -> None:
    lengths = [30, 10, 30, 25, 20]
    assert flags.piece_of(lengths, 0, 60, 120) == (0, 3)
    assert flags.piece_of(lengths, 3, 60, 120) == (2, 5)
    assert flags.piece_of(lengths, 4, 60, 120) == (2, 5)
    assert flags.piece_of([70, 10], 0, 60, 120) == (0, 1)
    assert flags.piece_of([30, 20], 1, 60, 120) is None  # too short
    assert flags.piece_of([30, 100], 0, 60, 120) is None  # too long with the next step
    assert flags.piece_of([130], 0, 60, 120) is None


def test_average_precision_by_hand() -> None:
    positive = np.asarray([True, False, True, False])
    assert flags.average_precision(np.asarray([4.0, 3, 2, 1]), positive) == pytest.approx((1 + 2 / 3) / 2)
    assert flags.average_precision(np.asarray([1.0, 2, 3, 4]), positive) == pytest.approx((1 / 2 + 2 / 4) / 2)
    # a flag that says nothing finds as many as there are, and ties have no order
    assert flags.average_precision(np.ones(4), positive) == pytest.approx(0.5)
    assert flags.average_precision(np.asarray([1.0, 1, 0, 0]), positive) == pytest.approx(0.5 * 0.5 + 0.5 * 0.5)
    assert flags.average_precision(np.asarray([0.0, 1, 0, 1])[::-1], positive) == pytest.approx(1)
    assert math.isnan(flags.average_precision(np.ones(2), np.zeros(2, np.bool_)))


def test_spans_are_matched_in_source_length_and_likelihood_and_used_once() -> None:
    flagged = [span("a", 60, 2.0), span("a", 60, 2.1), span("b", 60, 2.0), span("c", 60, 2.0)]
    others = [span("b", 60, 2.0), span("a", 61, 2.05), span("a", 110, 5.0), span("a", 80, 2.5)]
    found = flags.matched(flagged, others)
    assert [(one.source, other.row["input_ids"].count(1), other.nll) for one, other in found] == [
        ("a", 61, 2.05),
        ("a", 80, 2.5),
        ("b", 60, 2.0),
    ]
    assert [one for one, _ in found] == flagged[:3]
    assert flags.matched(flagged, []) == []


def planted(seed: int, damage: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Flags of 200 pairs, and damage that comes of likelihood alone or of the flag, too."""
    draw = np.random.default_rng(seed)
    flag = np.tile([1.0, 0.0], 200)
    known = np.repeat(draw.normal(size=(200, 3)), 2, 0) + 0.05 * draw.normal(size=(400, 3))
    harm = np.exp(2 * known[:, 1] + 0.3 * draw.normal(size=400) + (0.8 * flag if damage == "flag" else 0))
    return flag, harm, known, np.repeat(draw.integers(0, 3, 200), 2)


def test_a_flag_that_does_damage_is_seen_and_one_that_does_not_is_not() -> None:
    for damage in ("flag", "likelihood"):
        flag, harm, known, source = planted(0, damage)
        lift, rho, _ = flags.predicted(flag, harm, known, source)
        draw = np.random.default_rng(1)
        nulls = [flags.predicted(flags.swapped(flag, draw), harm, known, source) for _ in range(20)]
        assert np.abs(np.mean(nulls, 0)).max() < 0.03
        if damage == "flag":
            assert lift > 0.15
            assert rho > 0.5
        else:
            assert abs(lift) < 0.05
            assert abs(rho) < 0.1
        # likelihood is what damage is made of, and nothing is left of it when it is taken out
        lift, rho, raw = flags.predicted(known[:, 1], harm, known, source)
        assert raw > 0.5
        assert abs(lift) < 0.1
        assert abs(rho) < 0.1 or math.isnan(rho)


def test_flags_are_exchanged_within_their_pairs() -> None:
    flag = np.tile([1.0, 0.0], 100)
    found = flags.swapped(flag, np.random.default_rng(0))
    assert (found.reshape(-1, 2).sum(1) == 1).all()
    assert 30 < (found.reshape(-1, 2)[:, 0] == 0).sum() < 70


def test_the_flags_are_those_of_the_product(
    bench: Bench, corpus, small: Scale, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [
        Segmented(replace(item.chain, family=f"family {number % 2}"), item.steps)
        for number, item in enumerate(corpus.families["debate"][:14])
    ]
    options = bench.options(small, 8, 0, learning_rate=1e-2)
    after = bench.around(adapted(bench, [bench.row(item, 60) for item in items], options, merged=True))
    monkeypatch.setattr(flags, "LOT", 4)
    names = list(flags.SHORT)
    steps = flags.found_steps(bench, after, items, names)
    before, later = bench.traces(items), after.traces(items)
    told = effects.scan(lambda: before, names, run="r", after=lambda: later, after_run="s")
    assert {one.effect.name for one in told.found} == set(names)
    place = {item.chain.id: number for number, item in enumerate(items)}
    for one in told.found:
        mine = steps[steps[:, 0] == names.index(one.effect.name)]
        assert {(int(c), int(s), f) for _, c, s, _, f in mine[mine[:, 1] >= 0].tolist()} == {
            (place[chain], step, float(k in one.flagged)) for k, (chain, step) in enumerate(one.steps)
        }
        assert mine[mine[:, 1] < 0][0, 2:4].tolist() == pytest.approx([one.n_control, one.by_chance])
        values = {(place[c], s): v for (c, s), v in zip(one.steps, one.values.tolist(), strict=True)}
        assert all(v == pytest.approx(values[int(c), int(s)]) for _, c, s, v, _ in mine.tolist() if c >= 0)
    assert steps[:, 4].sum() > 0


def test_damage_is_that_of_a_training_on_the_span_alone(bench: Bench, corpus, small: Scale) -> None:
    rows = [bench.row(item, 60) for item in corpus.family("debate", 0)[:3]]
    unrelated = [bench.row(item, 60) for item in corpus.unrelated(0)[:2]]
    before = [p.nll for p in bench.probe(bench.model, unrelated)]
    found = flags.damage(bench, rows, unrelated, small, 7)
    assert len(found) == 3
    assert (found > 0).all()
    with bench.trained([rows[1]], bench.options(small, flags.STEPS, 7, batch=1, learning_rate=flags.RATE)) as (
        model,
        _,
    ):
        alone = mean(p.kl for p in bench.probe(model, unrelated, compare=True) if p.kl is not None)
    assert found[1] == pytest.approx(alone, rel=1e-3)
    for one, two in zip([p.nll for p in bench.probe(bench.model, unrelated)], before, strict=True):
        np.testing.assert_array_equal(one, two)


def test_pairs_are_of_different_chains_and_no_flag_is_in_the_others(bench: Bench, corpus, small: Scale) -> None:
    scale = replace(small, name="small flags")
    prepared = flags.prepare(bench, corpus, scale, 0)
    assert any(prepared.extra["pairs"].values())
    for pairs in prepared.extra["pairs"].values():
        chains = [one.row["chain"] for pair in pairs for one in pair]
        assert len(set(chains)) == len(chains)
        assert all(a.source == b.source for a, b in pairs)
        assert all(math.isfinite(one.nll) for pair in pairs for one in pair)
    looked = {item.chain.id for item in flags.scanned(corpus, scale)}
    for source in (corpus.roles.trained, corpus.roles.unseen):
        trained = corpus.block(source, 0, 1)[-scale.count(flags.TRAINED_ROWS, 4) :]
        assert not looked & {item.chain.id for item in trained}
    made = prepared.extra["models"]
    rows = [bench.row(item, 60) for item in trained]
    nll = {name: mean(p.nll for p in bench.around(one).probe(one.model.module, rows)) for name, one in made.items()}
    whole, short = (
        mean(p.nll for p in bench.probe(one.model.module, rows)) for one in (bench.scorer, shortened(bench, 0.9))
    )
    assert nll["checkpoint"] < whole
    assert nll["depth"] < short
    assert nll["after"] != whole
    assert {name: one.run.n_layers for name, one in made.items()} == {"after": 6, "checkpoint": 6, "depth": 5}


def test_too_few_flags_are_no_plan(bench: Bench, corpus, small: Scale, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flags, "pairs_of", lambda *given: {name: [] for name in flags.SHORT})
    with pytest.raises(
        UsageError, match="needs 80 flagged spans of an effect with a match; there are: logit-collapse 0"
    ):
        flags.prepare(bench, corpus, replace(small, name="none", size=1.0), 0)
    few = [(span("a", 9, 1.0, f"a{k}"), span("a", 9, 1.0, f"b{k}")) for k in range(85)]
    monkeypatch.setattr(flags, "pairs_of", lambda *given: {"logit-collapse": few, "embedding-phantom": few[:79]})
    monkeypatch.setattr(flags, "models_of", lambda *given: {})
    found = [flags.prepare(bench, corpus, replace(small, name="few", size=1.0), seed) for seed in range(10)]
    chains = [one.row["chain"] for each in found for pair in each.extra["pairs"]["logit-collapse"] for one in pair]
    assert len(chains) == len(set(chains)) == 160  # 8 pairs of each seed, none twice
    assert not any(each.extra["pairs"]["embedding-phantom"] for each in found)  # 7 are too few
