"""The loop: questions that nobody trained on, attempts of the right model at the right question, equal compute, counts."""

from __future__ import annotations

import json
from collections import Counter
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trails.evaluate.repairs import Repaired, is_right
from trails.experiments import loop_loss
from trails.experiments.base import Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import Corpus
from trails.experiments.loop_loss import Asking
from trails.train.attempts import MARK, prompt_of, with_attempt

pytestmark = pytest.mark.train

SCALE = Scale("small", max_tokens=120, evaluate=3, batch=2, steps=0.07, size=0.03)


@pytest.fixture(scope="module")
def prepared(bench: Bench, corpus: Corpus) -> Any:
    """One seed at a small scale: five calculations of every kind asked, two steps."""
    return loop_loss.prepare(bench, corpus, SCALE, 0)


def labelled(bench: Bench, row: Any) -> list[str]:
    """The texts of a row's contiguous labels; every label is the token at its place and has weight 1."""
    at = [k for k, label in enumerate(row["labels"]) if label != -100]
    assert [row["labels"][k] for k in at] == [row["input_ids"][k] for k in at]
    assert [k for k, weight in enumerate(row["loss_weights"]) if weight] == at
    parts = [[k for _, k in run] for _, run in groupby(enumerate(at), lambda pair: pair[1] - pair[0])]
    return [bench.tokenizer.decode([row["labels"][k] for k in part]) for part in parts]


def test_calculations_are_right_and_of_every_kind_alike() -> None:
    found = loop_loss.calculations(0, "test", loop_loss.TEST)
    assert Counter(one.kind for one in found) == dict.fromkeys(range(6), loop_loss.TEST)
    assert len({one.question for one in found}) == len(found) == 6 * loop_loss.TEST
    for one in found:
        assert eval(one.question.rstrip("= ")) == one.result >= 0
        assert len(str(one.result)) < loop_loss.ATTEMPT
    taken = frozenset(one.question for one in found)
    others = loop_loss.calculations(0, "train", 300, taken)
    assert not {one.question for one in others} & taken
    assert Counter(one.kind for one in others) == dict.fromkeys(range(6), 300)
    assert loop_loss.calculations(1, "test", 9) != loop_loss.calculations(0, "test", 9)
    assert loop_loss.calculations(0, "test", 9) == loop_loss.calculations(0, "test", 9)


def test_nobody_trains_on_what_is_asked(bench: Bench, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of kinds so small that they would meet."""
    monkeypatch.setattr(loop_loss, "KINDS", (("+", range(4), range(3)), ("*", range(2, 5), range(4))))
    found = loop_loss.prepare(bench, corpus, Scale("small", 120, 3, steps=0.07, batch=2, size=0.03), 0)
    tests = {row["chain"] for row in found.sets["H"]}
    assert len(tests) == 10
    for rows in (*found.feeds.values(), found.sets["warm-up"]):
        assert not {row["chain"] for row in rows} & tests


def test_arms_ask_the_same_with_their_own_answers(prepared: Any, bench: Bench) -> None:
    tests = {row["chain"] for row in prepared.sets["H"]}
    assert tests == {one.question for one in prepared.extra["tests"]}
    digests = prepared.realised()["rows"]
    assert len({digests[arm] for arm in loop_loss.EXPERIMENT.same_rows[0]}) == 1
    assert digests["spoilt"] != digests["loop"]
    assert prepared.feeds["loop again"] != prepared.feeds["loop"]
    for right, wrong in zip(prepared.feeds["loop"], prepared.feeds["spoilt"], strict=True):
        assert right["chain"] == wrong["chain"]
        (said,), (first, then) = labelled(bench, right), labelled(bench, wrong)
        assert first + "\n" == said
        assert 1 <= int(then) - int(first) <= 9
        assert then.endswith("\n")
        assert bench.tokenizer.decode(wrong["input_ids"]).endswith(f"=\n{first}{MARK}{then}")
    plain, behind = prepared.sets["warm-up"][:2]
    assert bench.tokenizer.decode(plain["input_ids"]).count("\n") == 2
    (first, *_), (other, *_) = (bench.tokenizer.decode(row["input_ids"]).split("\n") for row in (plain, behind))
    assert bench.tokenizer.decode(behind["input_ids"]).startswith(
        f"{other}\n{eval(first.rstrip('= '))}\n\nLet me check"
    )


def test_answers_have_the_compute_of_the_loop(prepared: Any, bench: Bench) -> None:
    mark = len(Asking.of(bench).attempts.mark)
    compute = {arm: loop_loss.compute_of(rows, mark, loop=arm != "answers") for arm, rows in prepared.feeds.items()}
    assert compute["answers"] == pytest.approx(compute["loop"], rel=0.25)  # whole steps, of which there are few here
    assert len(prepared.feeds["answers"]) % loop_loss.BATCH == 0
    rows = [bench.ids_row([1, 2], [3, 4, 5])]
    assert loop_loss.compute_of(rows, 4, loop=True) == 5 + 3 * (5 + 2 + 4)
    assert loop_loss.compute_of(rows, 4, loop=False) == 15


def test_an_attempt_is_the_adapters_own_or_that_at_another_question_or_given(prepared: Any, bench: Bench) -> None:
    ask = Asking.of(bench)
    how, rows = ask.attempts, list(prepared.feeds["loop"])[:4]
    given = [with_attempt(row, [40 + k], how) for k, row in enumerate(rows)]
    arms = ("loop", "shuffled pairs", "corrections")
    feeds = {"loop": rows, "shuffled pairs": rows, "corrections": given}
    rates = {"loop": 1e-12, "shuffled pairs": 0.3, "corrections": 1e-12}
    made: list[list[list[dict[str, Any]]]] = []
    alone: list[list[list[int]]] = []
    feed = loop_loss.feed_of(bench, how, arms, 0, temperature=0.0)

    def seen(step: int, mine: list[list[Any]], adapters: Any) -> list[list[Any]]:
        found = feed(step, mine, adapters)
        made.append(found)
        whole, count = adapters.flat, adapters.count
        adapters.flat, adapters.count = whole[1:2].detach(), 1
        adapters.set()
        alone.append(loop_loss.attempts_by(bench, how, [rows], 0.0)[0])
        adapters.flat, adapters.count = whole, count
        adapters.set()
        return found

    with bench.side_by_side(feeds, rates, bench.options(SCALE, 3, 0, batch=4), feed=seen):
        pass
    assert len(made) == 3
    for own, other, theirs in made:
        assert theirs == given
        assert own == made[0][0]  # its adapter learns nothing
        assert own != other
    for (_, other, _), attempts in zip(made, alone, strict=True):
        expected = [with_attempt(row, attempts[(k + 1) % 4], how) for k, row in enumerate(rows)]
        assert other == expected
    assert alone[0] != alone[2]  # written again by what it has become
    for row, first in zip(rows, made[0][0], strict=True):
        assert [label for label in first["labels"] if label != -100] == [t for t in row["labels"] if t != -100]
        assert first["input_ids"][: len(prompt_of(row))] == prompt_of(row)


def test_a_drawn_attempt_depends_on_seed_and_step(prepared: Any, bench: Bench) -> None:
    how, rows = Asking.of(bench).attempts, [list(prepared.feeds["loop"])[:4]]
    one, same, step, seed = (loop_loss.attempts_by(bench, how, rows, 1.0, *key) for key in ("00", "00", "01", "10"))
    assert one == same
    assert one != step != seed != one
    assert all(len(attempt) <= loop_loss.ATTEMPT for attempt in one[0])


def test_counts_are_of_what_changed() -> None:
    kinds = {"fixed": (False, True), "lost": (True, False), "kept": (True, True), "wrong": (False, False)}
    found = [Repaired("c", *kinds[kind], 0.5) for kind in ("fixed",) * 3 + ("lost",) + ("kept",) * 2 + ("wrong",) * 4]
    assert loop_loss.counts(found) == pytest.approx(
        {"net": 0.2, "first": 0.3, "second": 0.5, "wrong_to_right": 0.3, "right_to_wrong": 0.1, "distance": 0.5}
    )


def test_an_answer_ends_with_its_line(bench: Bench) -> None:
    ask = Asking.of(bench)
    row = ask.row(loop_loss.calculation(2, 48, 27))
    assert bench.tokenizer.decode(row["input_ids"]) == "48 + 27 =\n75\n"
    assert bench.tokenizer.decode(row["labels"][row["offset"] :]) == "75\n"
    assert ask.newline in ask.attempts.end
    assert bench.tokenizer.decode(list(ask.unprompted.mark)) == "\n"
    assert is_right("75", "75")


def test_the_loop_learns_from_rows_behind_attempts(
    prepared: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every arm begins where the warm-up ended; a resumed part has the arms asked for; positive controls name their bound."""
    begun: dict[str, Any] = {}
    beside = bench.side_by_side

    def seen(feeds: Any, rates: Any, options: Any, **named: Any) -> Any:
        begun.update(dict.fromkeys(feeds, (named.get("start"), options.steps, options.batch)))
        return beside(feeds, rates, options, **named)

    monkeypatch.setattr(bench, "side_by_side", seen)

    def found(arms: tuple[str, ...]) -> dict[str, dict[str, float]]:
        made: dict[str, dict[str, float]] = {}
        rates = dict.fromkeys(loop_loss.EXPERIMENT.trained, 1e-2)
        loop_loss.run(bench, prepared, SCALE, 0, arms, rates, lambda arm, metrics, _: made.__setitem__(arm, metrics))
        return made

    whole = found(tuple(arm.name for arm in loop_loss.EXPERIMENT.arms))
    assert set(whole) == {arm.name for arm in loop_loss.EXPERIMENT.arms}
    assert begun["start"][0] is None
    for arm in (*loop_loss.LOOPS, "answers"):
        torch.testing.assert_close(begun[arm][0], begun["loop"][0], rtol=0, atol=0)
    assert float(begun["loop"][0].abs().sum()) > 0
    assert begun["answers"][1] > begun["loop"][1]
    for arm, metrics in whole.items():
        assert metrics["net"] == pytest.approx(metrics["second"] - metrics["first"])
        assert metrics["end"] == metrics["first" if arm == "answers" else "second"]
        assert metrics["wrong"] == 1 - metrics["end"]
    part = found(("corrections",))
    assert set(part) == {"corrections"}
    assert part["corrections"]["loss"] == pytest.approx(whole["corrections"]["loss"], abs=1e-3)
    assert found(("start",))["start"] == pytest.approx(whole["start"], abs=1e-4)
    told = {"first": 0.4, "second": 0.3, "net": -0.1}
    monkeypatch.setattr(loop_loss, "asked_twice", lambda *given: [dict(told) for _ in range(given[-1])])
    ends = {arm: metrics["end"] for arm, metrics in found(("start", "answers", "loop")).items()}
    assert ends == {"start": 0.3, "answers": 0.4, "loop": 0.3}


def test_what_the_correction_says_of_the_first_version_is_in_its_rows() -> None:
    path = Path(__file__).parents[2] / "docs" / "experiments" / "archive" / "loop-loss.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = [r for r in lines if "arm" in r and not r.get("development")]
    whole = {r["seed"] for r in found if r["arm"] == "answers"}
    of = {arm: [r["metrics"] for r in found if r["arm"] == arm and r["seed"] in whole] for arm in ("start", "spoilt")}
    assert len(of["start"]) == len(of["spoilt"]) == 9
    means = {
        arm: {name: np.mean([m[name] for m in metrics]) for name in ("first", "net")} for arm, metrics in of.items()
    }
    correction = loop_loss.EXPERIMENT.correction
    assert correction is not None
    assert f"{100 * means['start']['first']:.1f} % of the first attempts were right" in correction.withdrawn
    assert means["start"]["first"] < loop_loss.FLOOR
    assert means["spoilt"]["net"] - means["start"]["net"] > -0.03
    assert means["spoilt"]["first"] < means["start"]["first"] / 2
