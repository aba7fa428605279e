"""Data chosen by reaction: what is fed, what the scores are, how a choice is drawn."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trails.errors import UsageError
from trails.experiments import reaction
from trails.experiments.base import Scale
from trails.experiments.bench import Bench

pytestmark = pytest.mark.train


def labelled(row: dict[str, object]) -> list[int]:
    return [at for at, label in enumerate(row["labels"]) if label != -100]  # type: ignore[arg-type, var-annotated]


def test_pool_probes_and_held_out_chains_share_no_question(bench: Bench, corpus, small: Scale) -> None:
    for seed in (0, 1, 1000):
        parts = reaction.parts_of(corpus, small, seed)
        asked = [
            {reaction._question(item) for item in items}
            for items in (parts.probes, [parts.scored[k] for k in parts.pool], parts.held)
        ]
        assert all(asked)
        assert not asked[0] & asked[1] | asked[0] & asked[2] | asked[1] & asked[2]
        assert {parts.scored[k].chain.source for k in parts.pool} == {"debate"}
        assert "debate" not in {parts.scored[k].chain.source for k in parts.others}
        assert not set(parts.others) & set(parts.pool)
    one, two, developing = (reaction.parts_of(corpus, small, seed) for seed in (0, 1, 1000))
    assert (one.probes, one.scored) == (two.probes, two.scored) == (developing.probes, developing.scored)
    assert set(one.pool) != set(two.pool)
    assert one.held != two.held
    judged = {item.chain.id for parts in (one, two) for item in (*parts.held, *parts.scored)}
    assert not judged & {
        item.chain.id for item in developing.held
    }  # rates are chosen on chains that nothing is judged on


def test_every_step_of_every_arm_holds_equally_many_labelled_tokens(bench: Bench, corpus, small: Scale) -> None:
    prepared = reaction.prepare(bench, corpus, small, 0)
    for arm, rows in prepared.extra["rows"].items():
        steps = reaction.packed(rows, 5, 33)
        assert [sum(len(labelled(row)) for row in step) for step in steps] == [33] * 5, arm
    row = {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8], "loss_weights": [0.0, 1.0, 1.0, 1.0], "chain": "a"}
    other = row | {"input_ids": [1, 2, 3], "labels": [-100, -100, 3], "loss_weights": [0.0, 0.0, 1.0], "chain": "b"}
    first, second = reaction.packed([row, other], 2, 2)
    assert [(one["input_ids"], labelled(one)) for one in first] == [([5, 6, 7], [1, 2])]
    # the rest of the first row, after the whole of it as context; then the second
    assert [(one["input_ids"], labelled(one)) for one in second] == [([5, 6, 7, 8], [3]), ([1, 2, 3], [2])]
    with pytest.raises(UsageError, match="no row that was chosen"):
        reaction.packed([row | {"labels": [-100] * 4}], 1, 1)


def test_the_score_is_the_nll_of_the_probe_after_the_text(bench: Bench, corpus, small: Scale) -> None:
    """Read once for all probes, and every text and probe as one row of its own."""
    parts = reaction.parts_of(corpus, small, 0)
    probes = [bench.row(item, 40 + 20 * k) for k, item in enumerate(parts.probes)]
    assert len({len(probe["input_ids"]) for probe in probes}) == len(probes) > 1  # some are padded
    items = parts.scored[:4]
    own, mixed = reaction.texts_before(bench, items, 200)
    found = reaction.nll_after(bench, [*own, *mixed], probes)
    expected = [
        [
            float(np.mean(bench.probe(bench.model, [joined(text, probe)])[0].nll))
            for probe in probes
        ]
        for text in (*own, *mixed)
    ]  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert all(Counter(a) == Counter(b) and a != b for a, b in zip(own, mixed, strict=True))
    assert bench.tokenizer.decode(own[0]).endswith(items[0].chain.text + reaction.SEPARATOR)


def joined(text: list[int], probe: dict[str, object]) -> dict[str, object]:
    labels = [-100] * len(text) + list(probe["labels"])  # type: ignore[call-overload]
    return {
        "input_ids": [*text, *probe["input_ids"]],  # type: ignore[misc]
        "labels": labels,
        "loss_weights": [float(label != -100) for label in labels],
        "step_spans": [],
        "chain": "",
    }


def test_scores_are_computed_once_for_all_seeds_and_processes(
    bench: Bench, tiny_folder: Path, corpus, small: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = reaction.parts_of(corpus, small, 0)
    one = Bench(str(tiny_folder), device="cpu", folder=tmp_path)
    found = reaction.scores_of(one, parts, small.max_tokens)
    assert found.shape == (len(parts.scored), len(parts.probes), 2)
    (path,) = tmp_path.glob("reaction-*.npy")
    whole = path.read_bytes()

    def never(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(reaction, "nll_after", never)
        assert reaction.scores_of(one, reaction.parts_of(corpus, small, 7), small.max_tokens) is found
        other = Bench(str(tiny_folder), device="cpu", folder=tmp_path)
        np.testing.assert_array_equal(reaction.scores_of(other, parts, small.max_tokens), found)
        other.run = replace(other.run, revision="other")
        with pytest.raises(AssertionError):  # another model, other numbers
            reaction.scores_of(other, parts, small.max_tokens)
    path.write_bytes(whole[: len(whole) // 2])  # a process was killed while it wrote
    again = Bench(str(tiny_folder), device="cpu", folder=tmp_path)
    np.testing.assert_array_equal(reaction.scores_of(again, parts, small.max_tokens), found)
    assert path.read_bytes() == whole


def test_a_choice_is_sampled_by_its_score_with_one_chain_of_a_question() -> None:
    draw = np.random.default_rng(0)
    score = draw.normal(0, 3, 400)
    questions = [str(k // 2) for k in range(400)]
    order = reaction.sampled(score, draw.gumbel(size=400), questions)
    assert len(order) == 200
    assert len({questions[k] for k in order}) == 200
    # the chance of the first place is the softmax of the standardised score
    scores = np.array([0.0, 1.0, 3.0])
    first = Counter(reaction.sampled(scores, draw.gumbel(size=3), ["a", "b", "c"])[0] for _ in range(4000))
    weight = np.exp((scores - scores.mean()) / scores.std() / reaction.TEMPERATURE)
    np.testing.assert_allclose([first[k] / 4000 for k in range(3)], weight / weight.sum(), atol=0.02)
    # without a score, or where all are alike, the order is random
    alike = Counter(reaction.sampled(np.zeros(3), draw.gumbel(size=3), ["a", "b", "c"])[0] for _ in range(3000))
    assert all(900 < alike[k] < 1100 for k in range(3))


def test_arms_inside_the_family_differ_by_their_scores_only(bench: Bench, corpus, small: Scale) -> None:
    prepared = reaction.prepare(bench, corpus, small, 0)
    n = len(prepared.extra["parts"].scored)
    flat = np.zeros((n, len(prepared.extra["parts"].probes), 2))
    by_model, _ = reaction.chosen_by_reaction(flat, prepared, 0, 100)
    rows = prepared.extra["rows"]
    assert [r["chain"] for r in by_model["reaction"]] == [r["chain"] for r in rows["family"]]
    assert [r["chain"] for r in by_model["absent reaction"]] == [r["chain"] for r in rows["absent random"]]
    assert [r["chain"] for r in rows["family again"]] != [r["chain"] for r in rows["family"]]
    # a chain that makes the drawn probes far likelier than its shuffled tokens do comes first; other probes do not count
    planted = prepared.extra["pool"][-1]
    drawn = set(prepared.extra["parts"].drawn)
    flat[planted, list(drawn), 1] = 50.0
    flat[prepared.extra["pool"][0], [k for k in range(flat.shape[1]) if k not in drawn], 1] = 1e6
    by_model, standard = reaction.chosen_by_reaction(flat, prepared, 0, 100)
    name = prepared.extra["scored"][planted]["chain"]
    assert by_model["reaction"][0]["chain"] == name
    assert max(standard, key=lambda chain: standard[chain]) == name


def test_matched_chains_are_others_of_nearly_the_same_length() -> None:
    draw = np.random.default_rng(0)
    lengths = draw.integers(20, 200, 300).tolist()
    order = draw.permutation(300)[:60].tolist()
    found = reaction.matched(order, lengths, draw)
    assert len(set(found)) == 60
    assert all(a != b for a, b in zip(order, found, strict=True))
    assert max(abs(lengths[a] - lengths[b]) for a, b in zip(order, found, strict=True)) < 25
    assert abs(np.mean([lengths[k] for k in order]) - np.mean([lengths[k] for k in found])) < 3


def test_likeness_is_that_of_the_words() -> None:
    def row(*ids: int) -> dict[str, object]:
        return {"input_ids": list(ids)}

    found = reaction.likeness([row(1, 2, 3), row(1, 2, 3, 3), row(7, 8, 9), row(1, 8, 9)], [row(2, 3), row(3, 2)])
    assert found[2] == 0.0
    assert found[0] > found[3] == 0.0
    both = reaction.likeness([row(2, 3), row(5, 6)], [row(2, 3)])
    np.testing.assert_allclose(both, [1.0, 0.0], atol=1e-12)


def test_damage_is_compared_where_both_have_gained_as_much() -> None:
    def record(gain: float, kl: float) -> dict[str, object]:
        return {"curve": [{"step": 0.0, "gain": 0.0, "kl_d": 0.0}, {"step": 2.0, "gain": gain, "kl_d": kl}]}

    found = reaction.derive({"family": record(0.2, 0.1), "reaction": record(0.4, 0.3), "random": record(-0.1, 0.3)})
    # at a gain of .18: random chains have moved .09, those chosen by reaction .135
    assert found["reaction"]["damage_at_equal_gain"] == pytest.approx(0.5)
    assert found["family"]["damage_at_equal_gain"] == pytest.approx(0.0)
    assert np.isnan(found["random"]["damage_at_equal_gain"])


def test_a_pool_that_is_too_small_is_refused(bench: Bench, corpus) -> None:
    with pytest.raises(UsageError, match="needs 4 times as many to choose from; the pool of the family holds"):
        reaction.prepare(bench, corpus, Scale("full", max_tokens=100), 0)


def test_empty_rows_change_no_gradient(bench: Bench, corpus, small: Scale) -> None:
    """Steps with fewer rows are filled up: the adapter is the one trained without."""
    rows = [row for step in reaction.packed([bench.row(corpus.family("debate", 0)[0], 80)], 2, 20) for row in step]
    options = replace(bench.options(small, 2, 0), batch=1)
    states = []
    for feed, batch in ((rows, 1), ([rows[0], reaction.EMPTY, rows[1], reaction.EMPTY], 2)):
        with bench.side_by_side({"a": feed}, {"a": 1e-2}, replace(options, batch=batch)) as (adapters, _):
            states.append(adapters.flat.detach().clone())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=1e-5)
