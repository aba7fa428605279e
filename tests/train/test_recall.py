"""Conclusions are cut at the last step; shuffling keeps the tokens; scores equal the model's own probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.measure.reference import byte_tokenizer

from trails.cli.scores import print_report
from trails.errors import UsageError
from trails.evaluate.recall import (
    Recall,
    Recalled,
    conclusion_or_why,
    conclusion_row,
    recall,
    recall_of,
    summary,
    verdict,
)
from trails.measure.base import Segmented
from trails.measure.context import ContextPolicy, Contexts
from trails.measure.tokens import TextTokenizer
from trails.schema import Chain, Step
from trails.train.data import shuffled_steps

pytestmark = pytest.mark.train


BYTES = Contexts(TextTokenizer(byte_tokenizer()), ContextPolicy(), "bytes")


def item() -> Segmented:
    text = "abcdefg"  # a token a character
    return Segmented(Chain("s", "1", "x", text), (Step(0, 0, 2), Step(1, 2, 5), Step(2, 5, len(text))))


def test_the_conclusion_is_the_last_step() -> None:
    row = conclusion_row(BYTES, item())
    ids = BYTES.text.ids("x\nabcdefg")
    assert row["input_ids"] == ids
    assert row["labels"] == [-100] * 7 + ids[7:]
    assert conclusion_row(BYTES, item(), max_tokens=8) is None
    assert conclusion_or_why(BYTES, item(), max_tokens=8) == "longer_than_max_tokens"
    assert conclusion_row(BYTES, Segmented(item().chain, (Step(0, 0, 7),))) is None
    empty = (Step(0, 0, 5), Step(1, 5, 7), Step(2, 7, 7))
    assert conclusion_row(BYTES, Segmented(item().chain, empty)) is None  # the last step has no token
    assert conclusion_or_why(BYTES, Segmented(item().chain, empty)) == "last_step_without_a_token"
    assert conclusion_or_why(BYTES, Segmented(item().chain, (Step(0, 0, 7),))) == "one_step"


def test_every_chain_of_the_selection_is_scored_or_counted_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def scored(model: Any, rows: Sequence[Any]) -> list[Recalled]:
        return [Recalled(1.0, 0.5, False) for _ in rows]

    monkeypatch.setattr("trails.evaluate.recall.check_trained", lambda *_: None)
    monkeypatch.setattr("trails.evaluate.recall.put_adapter", lambda *_: None)
    monkeypatch.setattr("trails.evaluate.recall.recall", scored)
    scorer: Any = SimpleNamespace(contexts=BYTES, run=None, model=SimpleNamespace(module=None))
    long = Chain("s", "2", "x", "abcdefgh" * 4)
    items = [
        *[item()] * 3,
        *[Segmented(item().chain, (Step(0, 0, 7),))] * 2,
        Segmented(item().chain, (Step(0, 0, 5), Step(1, 5, 7), Step(2, 7, 7))),
        *[Segmented(long, (Step(0, 0, 4), Step(1, 4, len(long.text))))] * 4,
    ]
    found = recall_of(items, scorer, Path("adapter"), max_tokens=16, selected=15)
    assert found.report().facts["left_out"] == {
        "one_step": 2,
        "longer_than_max_tokens": 4,
        "last_step_without_a_token": 1,
        "not_measured": 5,
    }
    assert (found.rows[0].chains, found.selected) == (3, 15)
    whole = recall_of(items, scorer, Path("adapter"), max_tokens=0, selected=10)
    assert whole.report().facts["left_out"]["longer_than_max_tokens"] == 0
    assert (whole.rows[0].chains, whole.selected) == (7, 10)
    with pytest.raises(
        UsageError, match=r"of 5 chains 3 were not .*\(2 of one step, .*, 1 with a last step .*, 2 not measured"
    ):
        recall_of(items[3:6], scorer, Path("adapter"), max_tokens=16, selected=5)


def test_shuffled_steps_keep_every_token_and_no_order(make_rows) -> None:
    rows = make_rows(6)
    for row, other in zip(rows, shuffled_steps(rows, 1), strict=True):
        assert sorted(zip(row["input_ids"], row["labels"], strict=True)) == sorted(
            zip(other["input_ids"], other["labels"], strict=True)
        )
        a, b = row["step_spans"]
        assert other["input_ids"] == [
            *row["input_ids"][:3],
            *row["input_ids"][b["start"] : b["end"]],
            *row["input_ids"][a["start"] : a["end"]],
        ]
        assert [s["role"] for s in other["step_spans"]] == ["THEN", "IF"]
    assert shuffled_steps(rows, 1) == shuffled_steps(rows, 1)


def test_scores_are_the_models_own(tiny) -> None:
    model = tiny()
    ids = [9, 10, 2, 3, 4, 5, 6, 7, 8]
    row = {
        "input_ids": ids,
        "labels": [-100] * 7 + ids[7:],
        "loss_weights": [0.0] * 7 + [1.0] * 2,
        "step_spans": [],
        "offset": 2,
        "chain": "c",
    }
    (found,) = recall(model, [row])
    with torch.no_grad():
        log_p = torch.log_softmax(model(input_ids=torch.tensor([row["input_ids"]])).logits[0], -1)
    assert found.nll == pytest.approx(-float(log_p[6, 7] + log_p[7, 8]) / 2, abs=1e-4)
    first = [int(log_p[6].argmax()) == 7, int(log_p[7].argmax()) == 8]
    assert found.first_choice == sum(first) / 2
    assert found.exact == all(first)
    ids = row["input_ids"][:7]
    for _ in range(2):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    greedy = row | {"input_ids": ids, "labels": [-100] * 7 + ids[7:]}
    assert recall(model, [greedy])[0].exact


def test_summary_is_paired_and_the_verdict_needs_every_control() -> None:
    base = [Recalled(2.0 + i, 0.1, False) for i in range(6)]
    better = [Recalled(r.nll - 1 - 0.01 * i, 0.5, True) for i, r in enumerate(base)]
    same = [Recalled(r.nll + (0.01 if i % 2 else -0.01), 0.5, False) for i, r in enumerate(better)]
    rows = summary({"untrained": base, "trained": better, "shuffled": same})
    assert rows[1].against["untrained"][2] < 0
    assert rows[1].exact == 1
    said = verdict(rows)
    assert said.startswith(
        "the trained model recalls conclusions better than the untrained one and is not shown to recall conclusions better "
        "than the one trained on shuffled steps: 3.475 nats per token over 6 chains, untrained 4.500 (difference -1.025, "
        "95 % -1."
    )
    worse = summary({"untrained": better, "trained": base})
    assert verdict(worse).startswith(
        "the trained model recalls conclusions worse than the untrained one: 4.500 nats per token"
    )
    few = summary({"untrained": base[:3], "trained": better[:3]})
    assert "(difference -1.010, 3 chains are too few for an interval)" in verdict(few)
    alone = summary({"untrained": base, "trained": better})
    assert "; without a control trained on shuffled steps that may be wording alone: 3.475" in verdict(alone)


def test_the_report_tells_the_gain_beside_that_of_the_shuffled_control(capsys: pytest.CaptureFixture[str]) -> None:
    base = [Recalled(2.0 + i, 0.1, False) for i in range(6)]
    results = {
        "untrained": base,
        "trained": [Recalled(r.nll - 1 - 0.01 * i, 0.5, i == 0) for i, r in enumerate(base)],
        "shuffled": [Recalled(r.nll - 0.25, 0.2, False) for r in base],
    }
    report = Recall(tuple(summary(results)), 3).report()
    (gain,) = report.scores
    assert (gain.value, gain.control) == (pytest.approx(1.025), pytest.approx(0.25))
    assert gain.beyond()
    _, low, high = summary(results)[1].against["untrained"]
    assert gain.interval == (-high, -low)
    assert gain.interval[0] < gain.value < gain.interval[1]
    assert report.facts["left_out_as_trained_on"] == 3
    assert report.to_arrow("rows")["nll"].to_pylist() == pytest.approx([4.5, 3.475, 4.25])
    print_report(report)
    printed = capsys.readouterr()
    assert printed.out.startswith(
        "the trained model recalls conclusions better than the untrained one and the one trained on"
    )
    assert "3 chains were trained on and left out of the selection" in printed.err
    counts = {"one_step": 2, "longer_than_max_tokens": 1, "last_step_without_a_token": 0, "not_measured": 4}
    told = Recall(tuple(summary(results)), 3, counts).report()
    assert told.facts["left_out"] == counts
    assert told.facts["selected"] == told.facts["scored"] + 3 + sum(counts.values()) == 16
    assert told.notes[1] == (
        "16 chains selected: 6 scored, 3 trained on, 2 of one step, so without a conclusion, 1 longer than --max-tokens, "
        "4 not measured by the run"
    )
    del results["shuffled"]
    open_ = Recall(tuple(summary(results)), None).report()
    assert open_.scores == ()
    assert open_.withheld[0].reason.startswith("no adapter trained on shuffled steps was given")
    assert "not checked: whether these chains were trained on" in open_.notes[0]
