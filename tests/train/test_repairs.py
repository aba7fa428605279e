"""Two attempts: what counts as right, how far they are apart, and what is concluded from the counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trails.evaluate.repairs import Repaired, Repairs, distance, is_right, repaired
from trails.train import TrainOptions
from trails.train.attempts import Attempts
from trails.train.many import Job, fit_many

pytestmark = pytest.mark.train


@pytest.mark.parametrize(
    ("text", "answer", "right"),
    [
        ("3 + 4 = 7, so he has 7.", "7", True),
        ("He has 7. No: 8", "7", False),
        ("that makes 1,000 in all.", "1000", True),
        ("5.0", "#### 5", True),
        ("2,5 кг", "2.5", True),
        ("10", "1", False),
        ("so the answer is Yes.", "yes", True),
        ("yes, or no", "yes", False),
        ("", "7", False),
    ],
)
def test_an_attempt_is_right_by_its_last_number_or_words(text: str, answer: str, right: bool) -> None:
    assert is_right(text, answer) is right


def test_distance_is_that_of_levenshtein() -> None:
    rng = np.random.default_rng(0)

    def slow(a: list[int], b: list[int]) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    for _ in range(60):
        a, b = (rng.integers(0, 3, rng.integers(0, 6)).tolist() for _ in range(2))
        assert distance(a, b) == pytest.approx(slow(a, b) / max(len(a), len(b), 1))


def of(kinds: str) -> tuple[Repaired, ...]:
    """``r`` repaired, ``s`` spoilt, ``k`` kept right, ``w`` wrong twice."""
    found = {"r": (False, True), "s": (True, False), "k": (True, True), "w": (False, False)}
    return tuple(Repaired(f"c{i}", *found[kind], 0.5) for i, kind in enumerate(kinds))


def test_repairs_count_against_spoils_and_against_the_untrained_model() -> None:
    report = Repairs({"untrained": of("w" * 30), "trained": of("r" * 15 + "s" * 3 + "w" * 12)}, 4).report()
    assert report.verdict.endswith("more than the untrained model")
    (score,) = report.scores
    assert score.value == pytest.approx(12 / 30)
    assert score.controls[0].value == 0
    row = report.tables[0].data.to_pylist()[1]
    assert (row["wrong_to_right"], row["right_to_wrong"], row["first_right"], row["second_right"]) == (15, 3, 3, 15)
    spoils = Repairs({"untrained": of("w" * 30), "trained": of("rs" * 15)}, None).report()
    assert spoils.verdict.endswith("not shown to differ")
    assert "not checked" in spoils.notes[0]
    few = Repairs({"untrained": of("w" * 5), "trained": of("r" * 5)}, 0).report()
    assert few.scores == ()
    assert "5 chains with an answer" in few.verdict


@pytest.mark.parametrize("chains", [19, 20])
def test_below_twenty_chains_nothing_is_judged(chains: int) -> None:
    report = Repairs({"untrained": of("r" * chains), "trained": of("w" * chains)}, 0).report()
    if chains < 20:
        assert not report.scores
        assert report.withheld[0].reason == "19 chains with an answer; 20 are needed"
    else:
        assert report.verdict.endswith("less than it")
        assert report.scores[0].value == 0
        assert report.scores[0].control == 1
        assert not report.scores[0].beyond()


def test_the_second_attempt_stands_behind_the_first_and_the_mark(tiny, tokenizer) -> None:
    model, how = tiny().double(), Attempts.of(tokenizer)
    context = [4, 9, 11, 30]

    def greedy(ids: list[int]) -> list[int]:
        ids = list(ids)
        for _ in range(5):
            with torch.no_grad():
                best = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if best in how.end:
                break
            ids.append(best)
        return ids

    first = greedy(context)[len(context) :]
    behind = [*context, *first, *how.mark]
    second = greedy(behind)[len(behind) :]
    words = tokenizer.decode(second).split()
    (one,) = repaired(model, tokenizer, [("c", context, words[-1])], 5)
    assert one.second
    assert one.first == (tokenizer.decode(first).split()[-1] == words[-1])
    assert one.distance == pytest.approx(distance(first, second))


def test_repairs_of_several_adapters_are_those_of_each_alone(tiny, tokenizer, make_rows) -> None:
    """Side by side and many at once, behind another mark and with another end: the same attempts as one by one."""
    model = tiny()
    how = Attempts(mark=(7,), end=(5,), pad=0)
    asked = [(f"c{k}", row["input_ids"][: 2 + k], "w3") for k, row in enumerate(make_rows(3))]
    jobs = [Job(make_rows(4), seed, rate) for seed, rate in ((1, 1e-6), (2, 0.1))]
    with fit_many(model, jobs, TrainOptions(steps=4, layers=())) as adapters:
        whole = adapters.flat.detach()
        together = repaired(model, tokenizer, asked, 5, how=how, batch=2, adapters=2)
        alone = []
        for index in (0, 1):
            adapters.flat, adapters.count = whole[index : index + 1], 1
            adapters.set()
            alone += repaired(model, tokenizer, asked, 5, how=how, batch=1)
    assert together == alone
    assert [one.chain for one in together] == ["c0", "c1", "c2"] * 2
    assert together[:3] != together[3:]
    assert repaired(model, tokenizer, asked, 5, how=how) != repaired(model, tokenizer, asked, 5)
