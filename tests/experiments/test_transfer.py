"""What carries over to a model left out: its members, what is taken out, its controls on planted agreement."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from trails.errors import UsageError
from trails.experiments import transfer
from trails.experiments.base import SCALES, Scale
from trails.experiments.bench import Bench
from trails.experiments.members import adapted, shortened
from trails.experiments.report import markdown
from trails.experiments.small import byte_tokenizer, small_model, train_small
from trails.measure.base import MeasureOptions

pytestmark = pytest.mark.train

CHAINS, SPANS = 30, 40


def field(**values: np.ndarray) -> transfer.Field:
    """Spans of 30 chains; ``frequency`` is what is known of them."""
    group = np.repeat(np.arange(CHAINS), SPANS)
    known = values.pop("frequency")
    return transfer.Field(values, group, known[:, None], known, transfer._rolled(group), CHAINS)


def drawn(*names: str) -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    return [draw.normal(size=CHAINS * SPANS) for _ in names]


def consilium(*families: str) -> list[transfer.Voice]:
    return [transfer.Voice(name, name.split()[0], None) for name in families]


def test_agreement_is_seen_and_its_controls_are_not() -> None:
    shared, frequency, a, b = drawn("shared", "frequency", "a", "b")
    one = field(base=shared + frequency + a, other=shared + frequency + b, frequency=frequency)
    voices = consilium("base", "other")
    found = {
        arm: {name: float(v.mean()) for name, v in transfer.predicted({"map": one}, voices, arm, 0).items()}
        for arm in ("others", "shifted", "shifted again", "alike", "pretrained")
    }
    assert found["others"]["map_base"] == pytest.approx(0.5, abs=0.06)  # half of what is left is shared
    assert found["others"]["raw_base"] == pytest.approx(2 / 3, abs=0.06)
    assert found["pretrained"] == found["others"]
    assert set(found["shifted"]) == {"map_base", "map_other"}
    for arm in ("shifted", "shifted again", "alike"):
        assert abs(found[arm]["map_base"]) < 0.03
    assert found["shifted"] != found["shifted again"]


def test_what_frequency_says_is_no_agreement_however_it_is_bent() -> None:
    frequency, a, b = drawn("frequency", "a", "b")
    bent = np.sign(frequency) * np.abs(frequency) ** 0.3
    one = field(base=np.exp(2 * frequency) + 0.01 * a, other=2 * bent + 0.3 * b, frequency=frequency)
    others = transfer.predicted({"map": one}, consilium("base", "other"), "others", 0)
    assert others["raw_base"].mean() > 0.9
    assert abs(others["map_base"].mean()) < 0.1
    # what is rarest and what is most frequent may both be hard
    both = field(base=np.abs(frequency) + 0.1 * a, other=np.abs(frequency) + 0.1 * b, frequency=frequency)
    others_of_both = transfer.predicted({"map": both}, consilium("base", "other"), "others", 0)
    assert others_of_both["raw_base"].mean() > 0.9
    assert others_of_both["map_base"].mean() < others_of_both["raw_base"].mean() - 0.2
    # a control that keeps frequency predicts as much of what is left over as frequency does: here all
    alike = transfer.predicted({"map": one}, consilium("base", "other"), "alike", 0)
    assert alike["map_base"].mean() == pytest.approx(others["map_base"].mean(), abs=0.05)


def test_a_family_has_one_voice_and_none_of_its_own_members() -> None:
    shared, frequency, a, b, c = drawn("shared", "frequency", "a", "b", "c")
    one = field(
        **{"base": shared + a, "kin": shared + a, "other": shared + b, "bytes A": c, "bytes B": c}, frequency=frequency
    )
    voices = [*consilium("base", "other"), transfer.Voice("kin", "base", None), *consilium("bytes A", "bytes B")]
    found = {arm: transfer.predicted({"map": one}, voices, arm, 0) for arm in ("others", "kin")}
    ranks = transfer.within_group_ranks
    group = one.group
    votes = (ranks(one.values["other"], group) + ranks(c, group)) / 2
    taken = transfer.directions(one.known, group)
    own, told = (transfer.left_over(values, taken, group) for values in (one.values["base"], votes))
    np.testing.assert_allclose(found["others"]["map_base"], transfer.by_chain(own, told, group, CHAINS))
    assert set(found["kin"]) == {"map_base", "raw_base"}
    assert found["kin"]["map_base"].min() > 0.99


def test_pairs_of_small_models_have_each_model_once_and_other_texts() -> None:
    for pairs in transfer.PAIRS.values():
        names = [name for pair in pairs for name in pair]
        assert sorted(names) == ["bytes A", "bytes B", "subwords A", "subwords B"]
        assert all(one[-1] != two[-1] for one, two in pairs)
    a, b, frequency = drawn("a", "b", "frequency")
    values = {"subwords A": a, "subwords B": a, "bytes A": b, "bytes B": b}
    one = field(**values, frequency=frequency)
    same, other = (
        transfer.predicted({"map": one}, consilium(*values), f"{arm} tokenizer", 0)["map_small"].mean()
        for arm in ("same", "other")
    )
    assert same == pytest.approx(1)
    assert abs(other) < 0.05


def test_values_are_exchanged_among_the_nearest_of_a_chain_only() -> None:
    (frequency,) = drawn("frequency")
    one = field(frequency=frequency)
    places = transfer.exchanged(one, np.random.default_rng(1))
    assert sorted(places.tolist()) == list(range(CHAINS * SPANS))
    np.testing.assert_array_equal(one.group[places], one.group)
    rank = transfer.within_group_ranks(frequency, one.group) * (SPANS - 1)
    assert np.abs(rank[places] - rank).max() < transfer.ALIKE
    kept = (places == np.arange(len(places))).reshape(CHAINS, SPANS)
    assert (kept.all(1) == kept.any(1)).all()  # a chain as a whole, or none of it
    assert kept.all(1).sum() <= 3
    few = transfer.Field({}, np.asarray([0, 0, 0, 1, 2, 2, 2, 2, 2]), np.zeros((9, 0)), np.zeros(9), one.moved, 3)
    dealt = np.stack([transfer.exchanged(few, np.random.default_rng(k)) for k in range(600)])
    assert (few.group[dealt] == few.group).all()
    stays = (dealt == np.arange(9)).mean(0)
    assert stays[[0, 3, 4]] == pytest.approx([1 / 3, 1, 1 / 5], abs=0.06)  # one chain of n out of n
    moved = one.moved(np.random.default_rng(1))
    np.testing.assert_array_equal(one.group[moved], one.group)
    steps = np.diff(moved.reshape(CHAINS, SPANS), axis=1)
    assert set(steps.ravel().tolist()) <= {1, 1 - SPANS}


def test_controls_of_short_chains_are_0_in_the_mean() -> None:
    """Of 7 seams one in seven would have to stay in place by chance: where none does, the rest predict the opposite."""
    draw = np.random.default_rng(0)
    value = draw.normal(size=400 * 7)
    group = np.repeat(np.arange(400), 7)
    one = transfer.Field(
        {"base": value, "other": value}, group, np.zeros((len(value), 0)), value * 0, transfer._rolled(group), 400
    )
    for arm in ("shifted", "alike"):
        found = transfer.predicted({"gaps": one}, consilium("base", "other"), arm, 0)
        assert abs(found["gaps_base"].mean()) < 0.03


def test_a_correlation_that_does_not_exist_is_undefined() -> None:
    group = np.asarray([0, 0, 0, 2, 2, 2])
    found = transfer.by_chain(np.asarray([1.0, 2, 3, 5, 5, 5]), np.asarray([3.0, 2, 1, 1, 2, 3]), group, 4)
    assert found[0] == pytest.approx(-1)
    assert np.isnan(found[1:]).all()


def test_words_cost_what_their_counts_say() -> None:
    assert transfer.pieces("She's 12, so\n Then") == ["she's", "1", "2", ",", "so", "\n", "then"]
    words = transfer.words_of(["a b a b", "a c"])
    alone, paired = words.nats(" B", "a")
    assert alone == pytest.approx(-math.log(2.5 / 7))
    assert paired == pytest.approx(-math.log((2 + 2.5 / 7) / (3 + 1)))
    assert words.nats("zz")[0] == pytest.approx(-math.log(0.5 / 7))
    assert words.nats("a b")[0] == pytest.approx(words.nats("a")[0] + words.nats("b")[0])


# --- members ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(bench: Bench, corpus, small: Scale) -> transfer.Prepared:
    return transfer.prepare(bench, corpus, replace(small, name="small transfer"), 0)


def test_members_share_the_weights_of_the_model_and_leave_it_as_it_was(
    bench: Bench, corpus, prepared: transfer.Prepared, small: Scale
) -> None:
    items = corpus.family("debate", 0)[:2]
    states = MeasureOptions(states=(3, 5))
    before = bench.scorer.measure(items, states)
    short = shortened(bench, 0.9)
    assert (short.run.n_layers, bench.layers) == (5, 6)
    assert {p.data_ptr() for p in short.model.module.parameters()} <= {p.data_ptr() for p in bench.model.parameters()}
    for one, two in zip(short.measure(items, states), before, strict=True):
        np.testing.assert_allclose(one.step_states, two.step_states, atol=1e-5)
        assert np.abs(one.surprisal - two.surprisal).max() > 1e-3
    for merged in (False, True):
        other = adapted(bench, prepared.feeds["adapter"], bench.options(small, 8, 0), merged=merged)
        assert np.abs(other.measure(items, states)[0].surprisal - before[0].surprisal).max() > 1e-3
    for one, two in zip(bench.scorer.measure(items, states), before, strict=True):
        np.testing.assert_array_equal(one.surprisal, two.surprisal)
    assert not hasattr(bench.model, "peft_config")


def test_a_small_model_learns_and_is_kept(
    tiny_folder: Path, prepared: transfer.Prepared, small: Scale, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = prepared.extra["texts"]["A"]
    made = []
    for _ in range(2):
        bench = Bench(str(tiny_folder), device="cpu", folder=tmp_path)
        scorer = transfer._small(bench, "bytes", byte_tokenizer(), "A", texts, small)
        made.append(torch.nn.utils.parameters_to_vector(scorer.model.module.parameters()).detach().numpy())
        monkeypatch.setattr(transfer, "train_small", None)  # the second is read
    np.testing.assert_array_equal(*made)
    untrained = small_model(256, transfer.WINDOW, seed=4)
    assert not np.array_equal(torch.nn.utils.parameters_to_vector(untrained.parameters()).detach().numpy(), made[0])
    losses = train_small(untrained, torch.arange(2000) % 7, steps=30, window=64)
    assert losses[0] > 5
    assert losses[-1] < 1
    text = "Ünï — tokens\n "
    tokens = byte_tokenizer()(text)["input_ids"]
    assert len(tokens) == len(text.encode())
    assert byte_tokenizer().decode(tokens) == text


def test_nothing_is_trained_on_what_is_measured(bench: Bench, corpus, small: Scale) -> None:
    full = replace(small, name="full", size=1.0, max_tokens=320)
    many = replace(corpus, families={**corpus.families, "debate": corpus.families["debate"]})
    with pytest.raises(UsageError, match=r"needs another pretrained model, .*: --member MODEL"):
        transfer.prepare(bench, many, full, 0)
    bench.members = ("x",)
    try:
        with pytest.raises(UsageError, match="needs 48 chains of 7 steps or more .* in 3 sources; there are: none"):
            transfer.prepare(bench, many, full, 0)
    finally:
        bench.members = ()
    parts = {seed: transfer.prepare(bench, corpus, small, seed) for seed in (0, 1, 1000)}
    assert parts[0].feeds == parts[1].feeds
    asked = {seed: {transfer._question(item) for item in one.extra["items"]} for seed, one in parts.items()}
    assert not asked[0] & asked[1]
    assert not asked[1000] & (asked[0] | asked[1])


def test_no_question_that_is_measured_is_trained_on(bench: Bench, corpus, small: Scale) -> None:
    full = replace(small, name="full texts", size=1.0)
    able = list(corpus.block("debate", 0, 1))[:30]
    feeds, texts = transfer._texts(bench, corpus, {"debate": able}, 1, full)
    measured = [*able[: transfer.SEEDS], *able[-2:]]  # of the seeds, and of the two development seeds
    rows = [row["chain"] for half in "AB" for row in feeds[f"half {half}"]]
    assert not set(rows) & {item.chain.id for item in measured}
    assert len(rows) == len(set(rows)) == 45 - 12
    assert {row["chain"] for row in feeds["adapter"]} <= set(rows)
    for half in "AB":
        assert len(texts[half]) == len(feeds[f"half {half}"])
        assert not any(item.chain.text in text for item in measured for text in texts[half])


def test_a_page_of_several_members_names_them_and_the_command() -> None:
    members = [{"name": "one", "revision": "r1"}, {"name": "two", "revision": "r2"}]
    page = markdown(transfer.EXPERIMENT, [], {"members": members, "model": {"name": "m"}}, "p")
    assert "- members: name one, revision r1, name two, revision r2" in page
    assert "trails experiment transfer --data FOLDER --out FOLDER --member MODEL --member MODEL" in page
    assert "Small models; nothing here" in page
    assert "One small model" not in page
    assert SCALES["full"].size == 1


def test_pairs_of_steps_move_with_their_steps(bench: Bench, prepared: transfer.Prepared, corpus) -> None:
    items = sorted(corpus.families["debate"][:3] + corpus.families["proofs"][:2], key=lambda item: item.chain.id)
    traces = {t.chain.id: t for t in bench.scorer.measure(items, MeasureOptions(states=(3,)))}
    one = transfer.overlap_field({"base": traces})
    sizes = [len(trace.steps) for trace in traces.values()]
    source = [trace.chain.source for trace in traces.values()]
    pairs = [
        ((c, s), (d, t))
        for c in range(5) for s in range(sizes[c]) for d in range(5) for t in range(sizes[d])
        if c != d and source[c] == source[d]
    ]  # fmt: skip
    assert len(one.group) == len(pairs)
    assert one.group.tolist() == [c for (c, _), _ in pairs]
    moved = one.moved(np.random.default_rng(3))
    shift: dict[int, set[int]] = {}
    for ((c, s), (d, t)), at in zip(pairs, moved.tolist(), strict=True):
        (e, u), (f, v) = pairs[at]
        assert (c, d) == (e, f)
        shift.setdefault(c, set()).add((u - s) % sizes[c])
        shift.setdefault(d, set()).add((v - t) % sizes[d])
    assert all(len(found) == 1 for found in shift.values())
    assert {offset for found in shift.values() for offset in found} != {0}
    symmetric = {(one_, two): value for (one_, two), value in zip(pairs, one.values["base"].tolist(), strict=True)}
    assert all(symmetric[b, a] == pytest.approx(value) for (a, b), value in symmetric.items())
