"""The 2 × 2 design of an initiation: equal cells, what is left out filled, mismatches first, the product's interaction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trails.errors import UsageError
from trails.evaluate.probe import Probe
from trails.experiments import initiation
from trails.experiments.base import Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import Corpus, disjoint, load_corpus
from trails.experiments.criteria import difference
from trails.genome.initiation import CELLS, first_mismatches, interaction

pytestmark = pytest.mark.train

SCALE = Scale("small", max_tokens=120, evaluate=3, batch=2, size=0.1)


@pytest.fixture(scope="module")
def prepared(bench: Bench, corpus: Corpus) -> Any:
    """One seed at a small scale."""
    return initiation.prepare(bench, corpus, SCALE, 0)


def test_sources_are_those_named_or_three_others(corpus: Corpus, data: Path, tmp_path: Path) -> None:
    assert initiation.sources_of(corpus) == initiation.Sources(("answers",), ("debate",), ("proofs",))
    families = dict.fromkeys(("gsm8k", "strategyqa", "react", "folio", "else"), ())
    assert initiation.sources_of(Corpus(families, corpus.roles, "")) == initiation.Sources(
        ("strategyqa", "gsm8k"), ("react",), ("folio",)
    )
    partly = Corpus(dict.fromkeys(("gsm8k", "react", "else"), ()), corpus.roles, "")
    assert initiation.sources_of(partly) == initiation.Sources(("else",), ("debate",), ("react",))
    lines = [line for line in data.read_text("utf-8").splitlines() if '"proofs"' not in line]
    (tmp_path / "two.jsonl").write_text("\n".join(lines), "utf-8")
    with pytest.raises(UsageError, match="three sources or more"):
        initiation.sources_of(load_corpus([tmp_path / "two.jsonl"]))


def test_cells_are_equal_row_by_row_and_hold_what_they_say(prepared: Any, corpus: Corpus) -> None:
    feeds, school = prepared.feeds, prepared.extra["school"]

    def sizes(arm: str) -> list[tuple[int, int]]:
        return [(len(row["input_ids"]), sum(label != -100 for label in row["labels"])) for row in feeds[arm]]

    assert {arm: sizes(arm) for arm in feeds} == dict.fromkeys(feeds, sizes("both"))
    chains = {source: {item.chain.id for item in items} for source, items in corpus.families.items()}
    of = {"own": ("answers", "debate"), "other": ("proofs", "proofs")}
    for arm, first, second in (
        ("both", "own", "own"),
        ("stages", "own", "other"),
        ("dialogues", "other", "own"),
        ("neither", "other", "other"),
        ("neither again", "other", "other"),
    ):
        assert {row["chain"] for row in feeds[arm][:school]} <= chains[of[first][0]]
        assert {row["chain"] for row in feeds[arm][school:]} <= chains[of[second][1]]
    assert feeds["stages"][school:] == feeds["neither"][school:]
    assert feeds["dialogues"][:school] == feeds["neither"][:school]
    texts = [[row["input_ids"] for row in feeds[arm]] for arm in ("neither", "neither again")]
    assert not {row["chain"] for row in feeds["neither"]} & {row["chain"] for row in feeds["neither again"]}
    fed = [row["input_ids"] for row in feeds["both"]] + texts[0] + texts[1]
    for name in ("H", "D"):
        rows = [row["input_ids"] for row in prepared.sets[name]]
        assert len(disjoint(rows, fed)) == len(rows) > 0
    assert {row["chain"] for row in prepared.sets["H"]} <= chains["debate"]


def test_what_fills_are_whole_texts_one_after_another(bench: Bench) -> None:
    own = [bench.ids_row(list(range(1, 8)), [50, 51]), bench.ids_row([1, 2, 3])]
    texts = [bench.ids_row([number] * 4, chain=str(number)) for number in range(60, 64)]
    one, two = initiation.filler(bench, own, iter(texts))
    assert one["input_ids"] == [60] * 4 + [61] * 4 + [62]
    assert one["labels"] == [-100] * 2 + one["input_ids"][2:]
    assert (two["input_ids"], two["labels"]) == ([63] * 3, [-100, 63, 63])
    with pytest.raises(UsageError, match="4 of 9 tokens that take the place of a row"):
        initiation.filler(bench, own, iter(texts[:1]))


def test_the_most_surprising_contradictions_come_first() -> None:
    def row(*roles: str) -> dict[str, Any]:
        spans = [{"step": k, "start": 2 + 3 * k, "end": 5 + 3 * k, "role": role} for k, role in enumerate(roles)]
        return {"input_ids": [0] * (2 + 3 * len(roles)), "step_spans": spans}

    def probe(*means: float) -> Probe:
        return Probe(np.repeat(np.array(means, np.float32), 3), np.zeros(0, np.float32))

    assert initiation.turn_of(row("NONE", "BUT", "HOWEVER"), probe(9, 2, 3)) == 3
    assert np.isnan(initiation.turn_of(row("NONE", "THEREFORE"), probe(9, 2)))
    turn = np.array([np.nan, 1.0, 3.0, np.nan, 3.0, 2.0])
    assert first_mismatches(turn, 3) == [2, 4, 5]
    assert first_mismatches(turn, 9) == [2, 4, 5, 1]
    rows = [{"chain": name} for name in "xyabcdef"]
    led = initiation.led_by_mismatches(rows, 2, turn)
    assert "".join(one["chain"] for one in led) == "xycefbad"


def test_a_cell_that_loses_a_row_is_refused(monkeypatch: pytest.MonkeyPatch, prepared: Any, bench: Bench) -> None:
    monkeypatch.setattr(initiation, "led_by_mismatches", lambda rows, *_: [rows[0], *rows[:-1]])
    with pytest.raises(UsageError, match="arm 'both' would be fed other rows than the plan says for seed 0"):
        initiation.run(bench, prepared, SCALE, 0, ["both"], {"both": 1e-3}, lambda *_: None)


def test_the_claim_is_the_interaction_of_the_product() -> None:
    (claim, *_) = initiation.EXPERIMENT.claims
    (criterion,) = claim.criteria
    values = dict(zip(CELLS, (0.5, 0.2, 0.4, 0.15), strict=True))
    assert difference(criterion, {cell: {"value": value} for cell, value in values.items()}) == pytest.approx(
        interaction(values)
    )
    assert interaction(values) == pytest.approx(0.05)
    assert initiation.EXPERIMENT.looks == (20,)


def test_all_cells_take_one_rate() -> None:
    best = {"both": 1e-3, "stages": 1e-3, "dialogues": 3e-4, "neither": 1e-3, "neither again": 3e-3}
    rows = [
        {"arm": arm, "rate": rate, "seed": seed, "metrics": {"value": 1.0 if rate == top else 0.9 if rate < 3e-3 else 0.0}}
        for arm, top in best.items()
        for rate in (3e-4, 1e-3, 3e-3)
        for seed in (0, 1)
    ]  # fmt: skip
    scores = initiation.one_rate(rows)
    for arm in initiation.EXPERIMENT.trained:
        assert min((3e-4, 1e-3, 3e-3), key=lambda rate: scores[arm, rate]) == 1e-3
    assert scores["both", 1e-3] == pytest.approx(-0.975)


def test_value_is_gain_minus_damage_and_order_is_that_of_the_mismatches(
    prepared: Any, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter([float("nan"), 1.0, 2.0] + [float("nan")] * 50)
    monkeypatch.setattr(initiation, "turn_of", lambda *_: next(turns))
    fed: dict[str, list[str]] = {}
    beside = bench.side_by_side

    def seen(feeds: Any, *given: Any, **named: Any) -> Any:
        fed.update({arm: [row["chain"] for row in rows] for arm, rows in feeds.items()})
        return beside(feeds, *given, **named)

    monkeypatch.setattr(bench, "side_by_side", seen)
    made: dict[str, dict[str, float]] = {}
    arms = [arm.name for arm in initiation.EXPERIMENT.arms]
    initiation.run(
        bench,
        prepared,
        SCALE,
        0,
        arms,
        dict.fromkeys(arms, 1e-2),
        lambda arm, metrics, _: made.__setitem__(arm, metrics),
    )
    school = prepared.extra["school"]
    plain = [row["chain"] for row in prepared.extra["dialogues"]]
    assert fed["both"][school:] == fed["dialogues"][school:] == [plain[2], plain[1], plain[0], *plain[3:]]
    assert fed["mismatches anywhere"][school:] == plain
    assert made["untrained"]["mismatches"] == 2
    assert set(made) == set(arms)
    for arm, metrics in made.items():
        assert metrics["gain"] == pytest.approx(made["untrained"]["nll_h"] - metrics["nll_h"])
        assert metrics["damage"] == max(metrics["change_d"], 0.0)
        assert metrics["value"] == pytest.approx(metrics["gain"] - metrics["damage"]), arm
    assert min(made["dialogues"]["gain"], made["neither"]["gain"]) > 0.1
