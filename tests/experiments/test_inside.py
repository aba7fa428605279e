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


def test_calibration_error_of_known_probabilities() -> None:
    truth = np.tile([True, False, False, False], 250)
    assert capture.calibration_error(np.full(1000, 0.25), truth) == pytest.approx(0, abs=0.02)
    assert capture.calibration_error(np.full(1000, 0.9), truth) == pytest.approx(0.65, abs=1e-9)


def test_the_other_map_has_as_many_tokens(bench: Bench, corpus, small: Scale) -> None:
    found = {}
    capture.run(
        bench, corpus, small, 0, ["real text", "another topic's map"], lambda a, m, e: found.update({a: (m, e)})
    )
    metrics, extra = found["real text"]
    assert metrics["left"] == pytest.approx(1)
    assert metrics["fitness"] > 0
    assert 0 <= metrics["auc_fitness"] <= 1
    assert extra["texts"] >= 8
    assert extra["other_map_tokens"] > 0


# --- same loss -------------------------------------------------------------------------------------------------------


def test_words_are_exchanged_with_their_capitals_and_digits_go_on() -> None:
    words = same_loss.both_ways((("but", "yet"),))
    found = list(same_loss.exchanges("But 9 butter but", words, digits=True))
    assert found == ["Yet 9 butter but", "But 0 butter but", "But 9 butter yet"]
    assert list(same_loss.exchanges("nothing here", words, digits=True)) == []


def test_an_edit_is_one_stretch_of_equally_many_tokens(bench: Bench) -> None:
    tail = " and then some more words follow it to the end"
    edit = same_loss.edit_of(bench, "We go. But not" + tail, "We go. Yet not" + tail)
    assert edit is not None
    assert (edit.first, edit.stop) == (7, 9)  # one token per byte, and both words end in t
    assert len(edit.before) == len(edit.after) == 9 + same_loss.WINDOW
    assert edit.before[:7] == edit.after[:7]
    assert edit.before[9:] == edit.after[9:]
    assert same_loss.edit_of(bench, "We go. But not" + tail, "We go. However not" + tail) is None  # longer
    assert same_loss.edit_of(bench, "But not" + tail, "Yet not" + tail) is None  # nothing stands before it
    assert same_loss.edit_of(bench, "We go. But not", "We go. Yet not") is None  # too little after it


def test_padding_changes_nothing_inside_and_an_edit_does(bench: Bench) -> None:
    tail = " and then some more words follow it to the end"
    edit = same_loss.edit_of(bench, "We go. But not" + tail, "We go. Yet not" + tail)
    assert edit is not None
    before = bench.model.config._attn_implementation
    one, two = same_loss.inside(bench, [edit.before, edit.after])
    assert bench.model.config._attn_implementation == before
    (again,) = same_loss.inside(bench, [edit.before], beside=[5] * 70)
    hidden, attention = same_loss.effect(one, again, edit.stop)
    assert hidden.max() < 1e-6
    assert attention.max() < 1e-5
    moved, shifted = same_loss.effect(one, two, edit.stop)
    assert moved[0] == pytest.approx(0, abs=1e-7)  # the tokens after the edit are the same, so their embeddings are
    assert moved[1:].min() > 1e-5
    assert shifted.min() > 1e-5
    np.testing.assert_allclose(one[1].sum(-1).numpy(), 1, atol=1e-4)


def test_the_random_edit_is_the_nearest_in_loss(bench: Bench) -> None:
    tail = " and then some more words follow it to the end"
    edit = same_loss.edit_of(bench, "We go. But not" + tail, "We go. Yet not" + tail)
    assert edit is not None
    wanted = same_loss.loss_after(bench, [edit.after], edit.stop)[0]
    found, loss = same_loss.random_edit(bench, edit, wanted, [], 0, "x")
    assert found.after != edit.before
    assert found.after[: edit.first] == edit.before[: edit.first]
    assert found.after[edit.stop :] == edit.before[edit.stop :]
    assert same_loss.loss_after(bench, [found.after], edit.stop)[0] == pytest.approx(loss, abs=1e-5)
    far, far_loss = same_loss.random_edit(bench, edit, wanted + 100, [], 0, "x")
    assert far_loss >= loss
    assert far != found or far_loss == loss


# --- neutrality ------------------------------------------------------------------------------------------------------


def test_enthymemes_leave_out_an_interior_step(corpus) -> None:
    items = corpus.family("debate", 0)
    found = neutrality.enthymemes(items, 0)
    assert len(found) == len(items)
    texts = {item.chain.id: item.chain for item in items}
    for one in found:
        chain = texts[one.chain]
        assert one.context.startswith(chain.question)
        before = one.context.removeprefix(chain.question + "\n")
        assert f"{before}{one.bridge} {one.conclusion}" in chain.text
        assert one.bridge not in one.others
        assert one.conclusion not in one.others
        assert len(one.others) == neutrality.CHOICES - 1


def test_filler_takes_the_place_of_the_bridge_token_for_token(bench: Bench, corpus) -> None:
    one = neutrality.enthymemes(corpus.family("debate", 0), 0)[0]
    bridge, filler, nothing = (neutrality.row_of(bench, one, arm, 400) for arm in ("bridge", "filler", "nothing"))
    assert len(bridge["input_ids"]) == len(filler["input_ids"])
    size = len(bench.ids(f" {one.bridge}"))
    assert len(nothing["input_ids"]) == len(bridge["input_ids"]) - size
    end = bench.ids(f" {one.conclusion}")
    for row, more in ((bridge, size), (filler, 0), (nothing, 0)):
        assert [label for label in row["labels"] if label != -100][more:] == end
        assert row["input_ids"][-len(end) :] == end
    assert set(bench.tokenizer.decode(filler["input_ids"][filler["offset"] : -len(end)])) <= set(" .")


def test_a_model_that_knows_nothing_is_at_chance(bench: Bench, corpus) -> None:
    tests = neutrality.enthymemes(corpus.family("debate", 1), 1)
    found = neutrality.accuracy(bench, bench.model, tests, 200)
    assert 0.0 <= found["accuracy"] <= 0.6  # letters at random, an untrained model: 0.25 in the mean
    assert found["margin"] < 0.5


def test_only_where_the_bridge_is_spelled_out_the_model_sees_it(bench: Bench, corpus, monkeypatch) -> None:
    tests = neutrality.enthymemes(corpus.family("debate", 1), 1)[:3]
    fed: list[list[str]] = []
    probe = bench.probe

    def watched(model, rows, **options):
        fed.append([bench.tokenizer.decode(row["input_ids"][: row["offset"]]) for row in rows])
        return probe(model, rows, **options)

    monkeypatch.setattr(bench, "probe", watched)
    neutrality.accuracy(bench, bench.model, tests, 400)
    without, spelled = fed  # accuracy, then with_bridge: the choices of one argument after another
    for number, one in enumerate(tests):
        of = slice(neutrality.CHOICES * number, neutrality.CHOICES * (number + 1))
        assert all(one.bridge not in text for text in without[of])
        assert all(text.endswith(one.bridge) for text in spelled[of])


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
    with pytest.raises(UsageError, match="and 0 to test with that share no 13 tokens"):
        neutrality.run(bench, load_corpus([tmp_path]), small, 0, ["filler"], lambda *_: None)
