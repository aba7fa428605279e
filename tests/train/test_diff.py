"""Paired differences on hand-made traces: known changes, known noise, groups, layers, alarms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from trails.errors import UsageError
from trails.evaluate.diff import compare, interval, repetition_alarm, verdict
from trails.report.words import in_russian
from trails.schema import Chain, Step, Trace

L, N = 3, 12


def trace(number: int, run: str = "ra", seed: int = 0) -> Trace:
    rng = np.random.default_rng(number)
    text = "".join(f"w{i:02d} " for i in range(N))
    ends = np.arange(4, 4 * N + 1, 4, dtype=np.int32)
    return Trace(
        chain=Chain("s", str(number), "q", text),
        steps=(Step(0, 0, len(text)),),
        run=run,
        tokenizer="ab" * 32,
        n_layers=L,
        token_ids=np.arange(N, dtype=np.int32),
        token_start=ends - 4,
        token_end=ends,
        pieces=tuple(text[i : i + 4] for i in range(0, 4 * N, 4)),
        step_tokens=np.array([[0, N]], np.int32),
        question_token_ids=np.zeros(1, np.int32),
        question_surprisal=np.zeros(1, np.float32),
        n_context=1,
        surprisal=rng.gamma(2, 1, N).astype(np.float32),
        entropy=rng.gamma(2, 1, N).astype(np.float32) + 1,
        rank=np.zeros(N, np.int32),
        logit_shift=np.zeros(N, np.float32),
        attention_shift=rng.random((N, L), np.float32),
        attention_previous=np.zeros((N, L), np.float32),
        attention_sink=np.zeros((N, L), np.float32),
        attention_entropy=np.zeros((N, L), np.float32),
        hidden_shift=rng.random((N, L + 1), np.float32),
        hidden_baseline=np.zeros(L + 1, np.float32),
        step_attention=np.zeros((3, L), np.float32),
    )


def changed(first: Trace, position: int, by: float) -> Trace:
    surprisal = first.surprisal.copy()
    surprisal[position] += by
    return replace(first, run="rb", surprisal=surprisal)


def test_the_transition_that_moved_is_named_and_the_others_stay_within_the_floor() -> None:
    before = [trace(i) for i in range(4)]
    noise = np.float32(1e-4)
    again = [replace(t, surprisal=t.surprisal + noise) for t in before[:2]]
    after = [changed(before[0], 5, -2.0), changed(before[1], 7, +1.5), *(changed(t, 0, 5e-5) for t in before[2:])]
    report = compare(before, after, {t.chain.id: "trained" for t in before[:2]}, again=again)
    assert (report.before, report.after) == ("ra", "rb")
    assert report.noise == pytest.approx(1e-4, rel=0.05)
    (easy,), (hard,) = report.easier, report.harder
    assert (easy.token, easy.piece, round(easy.change, 3)) == (before[0].token_id(5), "w05 ", -2.0)
    assert easy.context.endswith("w03 w04 ")
    assert (hard.token, round(hard.change, 3)) == (before[1].token_id(7), 1.5)
    held, trained = report.groups
    assert (trained.group, trained.chains, trained.tokens) == ("trained", 2, 2 * N)
    assert trained.surprisal == pytest.approx((-2.0 + 1.5) / 2 / N, rel=1e-3)
    assert trained.before == pytest.approx(np.mean([t.surprisal for t in before[:2]]), rel=1e-6)
    assert trained.after - trained.before == pytest.approx(trained.surprisal, abs=1e-6)
    assert (trained.easier, trained.harder) == (1 / (2 * N), 1 / (2 * N))
    assert (held.group, held.easier, held.harder) == ("compared", 0, 0)
    assert verdict(held, report.noise_mean) == "compared: no change beyond the noise floor"


def test_tokens_behind_the_cut_of_a_training_are_in_no_group() -> None:
    before = [trace(i) for i in range(3)]
    after = [changed(before[0], 5, -2.0), changed(before[1], 5, -2.0), changed(before[2], 5, -2.0)]
    ids = [t.chain.id for t in before]
    groups = {ids[0]: "trained", ids[1]: "not_fed"}
    report = compare(before, after, groups, first_fed={ids[0]: 4, ids[1]: 4, ids[2]: 4})
    held, trained, never = report.groups
    assert [g.group for g in report.groups] == ["compared", "trained", "not_fed"]
    assert (trained.tokens, trained.surprisal, report.behind) == (4, 0, N - 4)
    assert trained.before == pytest.approx(float(before[0].surprisal[:4].mean()), rel=1e-6)
    assert never.surprisal == pytest.approx(-2.0 / N, rel=1e-3)
    assert held.tokens == N, "a chain that was not trained was not cut either"
    assert {t.token.split(":")[0] for t in report.easier} == {ids[1], ids[2]}


def test_the_same_run_twice_changes_nothing() -> None:
    before = [trace(i) for i in range(3)]
    report = compare(before, [replace(t, run="rb") for t in before], again=before)
    assert report.noise == 0
    assert all(group.surprisal == group.entropy == group.easier == group.harder == 0 for group in report.groups)
    assert all(layer.hidden == layer.hidden_noise == 0 for layer in report.layers)
    assert not report.easier
    assert not report.harder


def test_the_layer_that_moved_is_told_from_the_others() -> None:
    before = [trace(i) for i in range(3)]
    after = []
    for t in before:
        hidden, attention = t.hidden_shift.copy(), t.attention_shift.copy()
        hidden[:, 2] += 0.25
        attention[:, 1] += 0.125
        after.append(replace(t, run="rb", hidden_shift=hidden, attention_shift=attention))
    layers = compare(before, after).layers
    assert [round(x.hidden, 4) for x in layers] == [0, 0, 0.25, 0]
    assert [round(x.attention, 4) for x in layers[1:]] == [0, 0.125, 0]
    assert np.isnan(layers[0].attention)
    assert np.isnan(layers[0].hidden_noise)
    shifts = zip(before, (0.01, 0.03), strict=False)
    again = [
        replace(t, hidden_shift=t.hidden_shift + np.float32(by), attention_shift=t.attention_shift - np.float32(2 * by))
        for t, by in shifts
    ]
    noisy = compare(before, after, again=again).layers
    assert [round(x.hidden_noise, 4) for x in noisy] == [0.02] * 4
    assert [round(x.attention_noise, 4) for x in noisy[1:]] == [0.04] * 3


def test_collapses_raise_an_alarm() -> None:
    before = [trace(i) for i in range(3)]
    after = [replace(t, run="rb", entropy=t.entropy * np.float32(0.3)) for t in before]
    assert compare(before, after, {t.chain.id: "trained" for t in before}).alarms == ()
    (alarm,) = compare(before, after, {t.chain.id: "unrelated" for t in before}).alarms
    assert alarm.startswith("entropy collapse on unrelated text: ")
    assert alarm.endswith(" of the base, on 3 chains")
    assert all(known for _, known in in_russian(f"alarm: {alarm}"))
    assert repetition_alarm(0.1, 0.2, 4) == ""
    alarm = repetition_alarm(0.1, 0.9, 4)
    assert alarm == (
        "repetition collapse: 0.100 → 0.900 of the 4-grams of greedy continuations occurred before, on 4 chains"
    )
    assert all(known for _, known in in_russian(f"alarm: {alarm}"))


def test_runs_that_do_not_fit() -> None:
    before = [trace(0)]
    with pytest.raises(UsageError, match="the two runs share no chain"):
        compare(before, [replace(trace(1), run="rb")])
    other = replace(before[0], run="rb", token_ids=before[0].token_ids + 1)
    with pytest.raises(UsageError, match="cut chain c[0-9a-f]{16} into different tokens. A diff needs one tokenizer"):
        compare(before, [other])
    assert compare([*before, trace(1)], [replace(before[0], run="rb")]).missing == 1


def test_interval_covers_a_known_mean() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        _, low, high = interval(rng.normal(1.0, 1.0, 40).tolist(), draws=400, seed=seed)
        hits += low <= 1.0 <= high
    assert 86 <= hits <= 100
    assert np.isnan(interval([2.0])[1])
