"""Roles: every arm sees the same rows in the same steps, what is judged is not what the role is guessed from."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from trails.errors import UsageError
from trails.experiments import roles
from trails.experiments.base import Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import Corpus, disjoint
from trails.train import many
from trails.train.many import Adapters, Job

pytestmark = pytest.mark.train

SCALE = Scale("small", max_tokens=160, evaluate=3, batch=4, size=0.1)


@pytest.fixture(scope="module")
def prepared(bench: Bench, corpus: Corpus) -> Any:
    """One seed at a small scale: two roles, two rows of each in a step."""
    return roles.prepare(bench, corpus, SCALE, 0)


def key(row: dict[str, Any]) -> tuple[int, ...]:
    return tuple(row["input_ids"])


def test_roles_are_those_of_the_sources_that_are_there(corpus: Corpus) -> None:
    assert roles.roles_of(corpus) == {"answers": "answers", "debate": "debate"}
    families = dict.fromkeys(("gsm8k", "strategyqa", "other"), ())
    assert roles.roles_of(Corpus(families, corpus.roles, "")) == {"teacher": "gsm8k", "critic": "strategyqa"}
    with pytest.raises(UsageError, match="two sources or more"):
        roles.roles_of(Corpus({"gsm8k": ()}, corpus.roles, ""))


def test_all_arms_of_roles_see_the_same_rows_in_the_same_steps(prepared: Any, corpus: Corpus) -> None:
    steps = prepared.extra["steps"]
    assert {len(step) for step in steps} == {4}
    own = roles.dealt(steps, 2, 0, "")
    for name in ("random", "again"):
        found = roles.dealt(steps, 2, 0, name)
        assert [len(mine) for mine in found] == [2 * len(steps)] * 2
        assert found != own
        for number, step in enumerate(steps):
            seen = [key(row) for mine in found for row in mine[2 * number : 2 * number + 2]]
            assert Counter(seen) == Counter(map(key, step))
    assert roles.dealt(steps, 2, 0, "random") != roles.dealt(steps, 2, 0, "again")
    # with their own roles every adapter has the rows of one source
    for role, mine in zip(prepared.extra["roles"], own, strict=True):
        assert {row["chain"] for row in mine} < {item.chain.id for item in corpus.families[role]}
    digests = prepared.realised()["rows"]
    assert len({digests[arm] for arm in roles.EXPERIMENT.same_rows[0]}) == 1
    assert [row["labels"] for row in prepared.feeds["one"]] == [row["labels"] for step in steps for row in step]


def test_held_out_rows_are_of_every_role_and_share_nothing_with_what_is_fed(prepared: Any) -> None:
    fed = [row["input_ids"] for row in prepared.feeds["one"]]
    for name in ("H", "D"):
        rows = [row["input_ids"] for row in prepared.sets[name]]
        assert len(disjoint(rows, fed)) == len(rows) > 0
    assert set(prepared.extra["of"]) == {0, 1}
    for row in prepared.sets["H"]:
        first = row["offset"] + roles.HEARD
        assert all(label == -100 for label in row["labels"][:first])
        assert row["labels"][first:] == row["input_ids"][first:]
        assert len(roles.heard(row)) == first


def test_a_tag_changes_nothing_that_is_learnt(prepared: Any, bench: Bench) -> None:
    row = prepared.feeds["one"][0]
    tag = bench.ids("answers:\n")
    found = roles.tagged(row, tag, 0)
    assert bench.tokenizer.decode(found["input_ids"]) == "answers:\n" + bench.tokenizer.decode(row["input_ids"])
    assert [label for label in found["labels"] if label != -100] == [label for label in row["labels"] if label != -100]
    assert sum(found["loss_weights"]) == sum(row["loss_weights"])
    assert found["input_ids"][found["offset"] :] == row["input_ids"][row["offset"] :]
    (span, *_) = found["step_spans"]
    assert span["start"] == found["offset"]
    for plain, named in zip(prepared.feeds["one"], prepared.feeds["tagged"], strict=True):
        assert named["input_ids"][-len(plain["input_ids"]) :] == plain["input_ids"]
    names = Counter(bench.tokenizer.decode(row["input_ids"]).partition(":")[0] for row in prepared.feeds["tagged"])
    assert len(set(names.values())) == 1
    assert set(names) == {"answers", "debate"}


def test_a_role_is_guessed_from_what_is_heard_only() -> None:
    def row(first: int, rest: int) -> dict[str, Any]:
        return {"input_ids": [9, *[first] * roles.HEARD, *[rest] * 40], "offset": 1}

    known = [[row(1, 2), row(1, 2)], [row(2, 1)]]
    assert roles.guessed(known, [row(1, 2), row(2, 1), row(2, 2), row(1, 1)], 10) == [0, 1, 1, 0]


def test_adapters_of_roles_have_the_parameters_of_the_one(bench: Bench) -> None:
    small = Adapters(bench.model, [Job([], 0, 0.0)] * 4, rank=roles.RANK)
    whole = Adapters(bench.model, [Job([], 0, 0.0)], rank=4 * roles.RANK)
    assert sum(small.trainable) == whole.trainable[0]


def test_a_text_is_sent_to_the_adapter_of_its_guessed_role(
    prepared: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With true roles for guesses the routed arm has the surprisal of the true role, with swapped ones of the wrong role; the
    average of adapters that learnt nothing is the model."""
    steps, true = prepared.extra["steps"], prepared.extra["of"]

    def found(guess: list[int], rate: float) -> dict[str, dict[str, float]]:
        made: dict[str, dict[str, float]] = {}
        answers = iter([guess, [0] * len(prepared.sets["D"])])
        monkeypatch.setattr(roles, "guessed", lambda *_: next(answers))
        arms = ("untrained", "routed", "averaged")
        rates = dict.fromkeys(arms, rate)
        roles.run(bench, prepared, SCALE, 0, arms, rates, lambda arm, metrics, _: made.__setitem__(arm, metrics))
        return made

    routed = found(true, 3e-2)
    assert routed["untrained"]["guessed"] == 1.0
    assert routed["routed"]["nll_h"] == pytest.approx(routed["routed"]["nll_true"])
    assert routed["routed"]["nll_h"] < routed["untrained"]["nll_h"]
    swapped = found([1 - k for k in true], 3e-2)
    assert swapped["untrained"]["guessed"] == 0.0
    assert swapped["routed"]["nll_h"] == pytest.approx(routed["routed"]["nll_wrong"], rel=1e-4)
    assert swapped["routed"]["nll_true"] == pytest.approx(routed["routed"]["nll_true"], rel=1e-4)
    shares: list[tuple[list[int], list[float]]] = []

    def mixed(adapters: Adapters, ranks: list[int], chosen: list[int], weights: list[float]) -> Adapters:
        shares.append((chosen, weights))
        return many.mixed(adapters, ranks, chosen, weights)

    monkeypatch.setattr(roles, "mixed", mixed)
    nothing = found(true, 1e-12)
    assert shares == [([0, 1], [0.5, 0.5])]
    assert nothing["averaged"]["nll_h"] == pytest.approx(nothing["untrained"]["nll_h"], abs=1e-5)
    assert nothing["averaged"]["kl_d"] == pytest.approx(0.0, abs=1e-6)
    assert len(steps) * 4 == len(prepared.feeds["one"])
    assert np.isfinite(list(routed["averaged"].values())).all()


def test_a_part_of_the_arms_is_run_as_with_the_others(prepared: Any, bench: Bench) -> None:
    def found(arms: tuple[str, ...]) -> dict[str, dict[str, float]]:
        made: dict[str, dict[str, float]] = {}
        rates = dict.fromkeys(roles.EXPERIMENT.trained, 1e-2)
        roles.run(bench, prepared, SCALE, 0, arms, rates, lambda arm, metrics, _: made.__setitem__(arm, metrics))
        return made

    whole = found(tuple(arm.name for arm in roles.EXPERIMENT.arms))
    assert set(whole) == {arm.name for arm in roles.EXPERIMENT.arms}
    for arms in (("averaged",), ("random labels again", "tagged"), ("untrained",)):
        part = found(arms)
        assert set(part) == set(arms)
        for arm in arms:
            assert part[arm] == pytest.approx(whole[arm], abs=1e-4)
