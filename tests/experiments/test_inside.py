"""Parts of experiments 4, 5 and 9 on planted cases: what is rewired, exchanged, left out, and what a probability is worth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trails.errors import UsageError
from trails.experiments import capture, neutrality, same_loss
from trails.experiments.base import Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import load_corpus
from trails.readers import write_chains
from trails.schema import Chain

pytestmark = pytest.mark.train

# --- capture ---------------------------------------------------------------------------------------------------------


def test_rewiring_keeps_every_degree_and_loses_the_edges() -> None:
    tokens = np.random.default_rng(0).integers(0, 40, 4000).astype(np.int32)
    offsets = np.arange(0, 4001, 100)
    states, following, places = capture.transition_keys(tokens, offsets, 2)
    assert len(states) == 40 * 98  # no transition leads from one chain into the next
    assert (tokens[places] == following).all()
    known = np.unique(capture.edges(states, following))
    _, first = np.unique(capture.edges(states, following), return_index=True)
    again = capture.rewired(states, following, np.random.default_rng(1))
    # two of the same state may be dealt the same token: at most a few edges become one
    assert 0.9 * len(known) < len(again) <= len(known)
    assert np.isin(again, known).mean() < 0.3
    dealt = np.random.default_rng(1).permutation(following[first])
    assert np.bincount(dealt, minlength=40).tolist() == np.bincount(following[first], minlength=40).tolist()
    whole = capture.edge_fitness(known, tokens, offsets, 2)
    assert whole.tolist() == [1.0] * 40
    assert capture.edge_fitness(again, tokens, offsets, 2).mean() < 0.3


def test_fitness_by_edges_is_fitness_by_windows() -> None:
    draw = np.random.default_rng(3)
    tokens, texts = draw.integers(0, 4, 900).astype(np.int32), draw.integers(0, 4, 60).astype(np.int32)
    offsets, ends = np.array([0, 300, 900]), np.array([0, 20, 60])
    known = np.unique(capture.edges(*capture.transition_keys(tokens, offsets, 4)[:2]))
    windows = np.unique(capture.window_keys(tokens, offsets, 5)[0])
    expected = capture.window_fitness(windows, texts, ends, 4)
    np.testing.assert_allclose(capture.edge_fitness(known, texts, ends, 4), expected)
    assert 0 < expected.mean() < 1


def test_rewiring_may_keep_all_bigrams() -> None:
    tokens = np.random.default_rng(0).integers(0, 12, 6000).astype(np.int32)
    offsets = np.arange(0, 6001, 100)
    states, following, places = capture.transition_keys(tokens, offsets, 3)
    known = np.unique(capture.edges(states, following))
    again = capture.rewired_bigrams(states, following, tokens[places - 1], np.random.default_rng(1))
    assert np.isin(again, known).mean() < 0.7
    # an edge's last token and next token, before and after: the same pairs as often
    _, first = np.unique(capture.edges(states, following), return_index=True)
    before = np.stack([tokens[places - 1][first], following[first]])
    keys = {int(k): i for i, k in enumerate(capture.edges(states[first], following[first]).tolist())}
    assert len(keys) == before.shape[1]
    pairs = {tuple(pair) for pair in before.T.tolist()}
    state_of = dict(zip(states.tolist(), tokens[places - 1].tolist(), strict=True))
    every = {int(capture.edges(np.asarray([s], states.dtype), np.asarray([t], np.int32))[0]): (state_of[s], t)
             for s in set(states.tolist()) for t in range(12)}  # fmt: skip
    assert {every[int(k)] for k in again.tolist()} <= pairs


def test_likelihoods_of_unigrams_and_bigrams_by_hand() -> None:
    class Map:
        tokens = np.asarray([0, 1, 0, 1, 2], np.int32)
        offsets = np.asarray([0, 4, 5])

    text = np.asarray([0, 1], np.int32)
    (one,) = capture.likelihood(Map, [text], 1)
    assert one == pytest.approx((np.log(3 / 8) + np.log(3 / 8)) / 2)
    (two,) = capture.likelihood(Map, [text], 2)
    assert two == pytest.approx(np.log((2 + 3 / 8) / (2 + 1)))  # 0 is followed by 1 twice; 1 → 2 would cross chains
    assert np.isnan(capture.likelihood(Map, [text[:1]], 2)[0])


def test_calibration_error_of_known_probabilities() -> None:
    truth = np.tile([True, False, False, False], 250)
    assert capture.calibration_error(np.full(1000, 0.25), truth) == pytest.approx(0, abs=0.02)
    assert capture.calibration_error(np.full(1000, 0.9), truth) == pytest.approx(0.65, abs=1e-9)


def test_both_maps_have_as_many_tokens(bench: Bench, corpus, small: Scale) -> None:
    found: dict[str, dict[str, float]] = {}
    prepared = capture.prepare(bench, corpus, small, 0)
    for source in prepared.extra:
        assert abs(len(source.base.tokens) - len(source.other.tokens)) < 130  # one chain
    arms = ["real text", "another topic's map", "random tokens masked", "in the map"]
    capture.run(bench, prepared, small, 0, arms, {}, lambda arm, metrics, _: found.update({arm: metrics}))
    assert 0 < found["real text"]["fitness"] < found["in the map"]["fitness"] == 1.0
    assert 0 <= found["real text"]["auc_fitness"] <= 1


# --- same loss -------------------------------------------------------------------------------------------------------


def test_one_word_is_exchanged_both_ways_with_its_capital() -> None:
    found = list(same_loss.exchanges("But butter but"))
    assert found == [("Yet butter but", "And butter but"), ("But butter yet", "But butter and")]
    assert list(same_loss.exchanges("nothing here")) == []


def test_an_edit_is_one_stretch_of_equally_many_tokens(bench: Bench) -> None:
    tail = " and then some more words follow it to the end"
    (edit,) = same_loss.edits_of(bench, "We go. But not" + tail, "We go. Yet not" + tail) or ()
    assert (edit.first, edit.stop) == (7, 9)  # one token per byte, and both words end in t
    assert len(edit.before) == len(edit.after) == 9 + same_loss.WINDOW
    assert edit.before[:7] == edit.after[:7]
    assert edit.before[9:] == edit.after[9:]
    assert same_loss.edits_of(bench, "We go. But not" + tail, "We go. However not" + tail) is None  # longer
    assert same_loss.edits_of(bench, "But not" + tail, "Yet not" + tail) is None  # nothing stands before it
    assert same_loss.edits_of(bench, "We go. But not", "We go. Yet not") is None  # too little after it
    two = same_loss.edits_of(bench, "We go. But not" + tail, "We go. Yet not" + tail, "We go. And not" + tail)
    assert two is not None
    assert [(one.first, one.stop) for one in two] == [(7, 10)] * 2  # one place for both


def test_an_edit_moves_the_inside_after_it(bench: Bench) -> None:
    tail = " and then some more words follow it to the end"
    (edit,) = same_loss.edits_of(bench, "We go. But not" + tail, "We go. Yet not" + tail) or ()
    before = bench.model.config._attn_implementation
    one, two = same_loss.inside(bench, [edit.before, edit.after])
    assert bench.model.config._attn_implementation == before
    (again,) = same_loss.inside(bench, [edit.before])
    hidden, attention = same_loss.effect(one, again, edit.stop)
    assert hidden.max() < 1e-6
    assert attention.max() < 1e-5
    moved, shifted = same_loss.effect(one, two, edit.stop)
    assert moved[0] == pytest.approx(0, abs=1e-7)  # the tokens after the edit are the same, so their embeddings are
    assert moved[1:].min() > 1e-5
    assert shifted.min() > 1e-5
    np.testing.assert_allclose(one[1].sum(-1).numpy(), 1, atol=1e-4)


def test_arms_are_matched_in_place_and_loss(bench: Bench) -> None:
    text = "We go. But it is not so that some more words and others follow it to the end of this"
    found = same_loss.matched(bench, "x", text, 0, tolerance=0.5)
    assert found is not None
    arms, edit, losses = found
    for arm, row in arms.items():
        assert row[: edit.first] == list(edit.before[: edit.first])
        assert row[edit.stop :] == list(edit.before[edit.stop :])
        assert row != list(edit.before)
        assert same_loss.loss_after(bench, [row], edit.stop)[0] == pytest.approx(losses[arm], abs=1e-5)
        if arm != "any random edit":
            assert abs(losses[arm] - losses["meaning kept"]) <= 0.5
    assert arms["random edit"] != arms["random edit again"]
    assert same_loss.matched(bench, "x", text, 0, tolerance=0.0) is None


# --- neutrality ------------------------------------------------------------------------------------------------------


def test_enthymemes_leave_out_an_interior_step(corpus) -> None:
    items = corpus.family("debate", 0)
    found = neutrality.enthymemes(items, 0)
    assert len(found) == len(items)
    texts = {item.chain.id: item.chain for item in items}
    for one in found:
        chain = texts[one.chain]
        assert one.question == chain.question
        assert f"{one.before}{one.bridge} {one.conclusion}" in chain.text
        assert one.bridge not in one.others
        assert one.conclusion not in one.others
        assert len(one.others) == neutrality.CHOICES - 1


def test_filler_and_other_steps_take_the_place_of_the_bridge_token_for_token(bench: Bench, corpus) -> None:
    one = neutrality.enthymemes(corpus.family("debate", 0), 0)[0]
    rows = {arm: neutrality.row_of(bench, one, arm, 400) for arm in ("bridge", "other step", "filler", "nothing")}
    size = len(bench.ids(f" {one.bridge}"))
    end = bench.ids(f" {one.conclusion}")
    for arm, row in rows.items():
        assert len(row["input_ids"]) == len(rows["bridge"]["input_ids"]) - (size if arm == "nothing" else 0)
        labelled = [label for label in row["labels"] if label != -100]
        assert labelled[-len(end) :] == end
        assert len(labelled) == len(end) + (size if arm in ("bridge", "other step") else 0)
    filler = rows["filler"]
    assert set(bench.tokenizer.decode(filler["input_ids"][filler["offset"] : -len(end)])) <= set(" .")


def test_only_where_the_bridge_is_spelled_out_the_model_sees_it(bench: Bench, corpus) -> None:
    tests = neutrality.enthymemes(corpus.family("debate", 1), 1)[:3]
    for spelled in (False, True):
        rows = neutrality.test_rows(bench, tests, 400, spelled=spelled)
        told = [bench.tokenizer.decode(row["input_ids"][: row["offset"]]) for row in rows]
        for number, one in enumerate(tests):
            for text in told[neutrality.CHOICES * number : neutrality.CHOICES * (number + 1)]:
                assert text.endswith(one.bridge) if spelled else one.bridge not in text
    found = neutrality.accuracy(bench.probe(bench.model, rows))
    assert 0.0 <= found["accuracy"] <= 1.0


def test_mixed_arms_say_half_of_the_bridges(bench: Bench, corpus, small: Scale) -> None:
    prepared = neutrality.prepare(bench, corpus, small, 0)
    sizes = {arm: sum(len(row["input_ids"]) for row in rows) for arm, rows in prepared.feeds.items()}
    assert sizes["bridge"] == sizes["filler"] == sizes["other step"] > sizes["mixed"] == sizes["mixed filler"]
    assert sizes["mixed"] > sizes["nothing"]
    trained = {row["chain"] for row in prepared.feeds["nothing"]}
    assert not trained & {row["chain"] for row in prepared.sets["H"]}
    halves = [{row["chain"] for row in prepared.feeds[arm]} for arm in ("half", "other half")]
    assert not halves[0] & halves[1]


def test_arguments_that_share_text_with_the_trained_ones_are_no_test(
    bench: Bench, small: Scale, tmp_path: Path
) -> None:
    said = "Every argument begins with the same long sentence."
    chains = [
        Chain("same", str(i), "", f"{said} But q{i} is. So r{i} is. However s{i} is.", language="en") for i in range(45)
    ]
    chains += [Chain("unseen", str(i), "", f"Let u{i} be. So v{i}.", language="en") for i in range(14)]
    chains += [Chain("unrelated-noise", str(i), "", f"n{i} " * 9, language="en") for i in range(6)]
    with (tmp_path / "same.jsonl").open("w", encoding="utf-8") as file:
        write_chains(chains, file)
    with pytest.raises(UsageError, match="no source has 4 to train on and 6 to test with"):
        neutrality.prepare(bench, load_corpus([tmp_path]), small, 0)
