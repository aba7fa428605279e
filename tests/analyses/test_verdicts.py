"""The sentence that a person acts on follows the scores: every branch of it, from scores that are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from trails.analyses import bridge, capture, drift, gaps, statemap
from trails.analyses.score import Control, Score, Withheld


def crossing(value: float, straight: float, splice: Control | None, extra: int = 1) -> bridge.Crossing:
    controls = [Control(bridge.CLAIMED, 1.0), *([splice] if splice else []), Control(bridge.DIRECT, straight)]
    steps = tuple(f"c:{n}" for n in range(extra + 1))
    score = Score("worst transition, re-scored", value, "nats", tuple(controls))
    return bridge.Crossing(steps, steps, (True,) * len(steps), (score,), ())


def bridged(*ways: bridge.Crossing | None) -> str:
    verified, minimax, fewest = (*ways, None, None, None)[:3]
    return bridge.Bridge("r", "a:0", "b:1", "", "", minimax or verified, verified, fewest).report().verdict


RANDOM = Control("random splice of 1 step", 12.0, (10.0, 14.0))


@pytest.mark.parametrize(
    ("way", "says"),
    [
        (crossing(9.0, 11.0, RANDOM), "transition of 9.00 nats, going straight 11.00, random steps 12.00"),
        (crossing(10.0, 11.0, RANDOM), "going straight 11.00, but random steps do as well (12.00)"),
        (crossing(10.5, 11.0, RANDOM), "but random steps do as well (12.00)"),
        (crossing(9.0, 11.0, Control("random splice of 1 step", 9.5)), "going straight 11.00, random steps 9.50"),
        (crossing(9.0, 11.0, None), "going straight 11.00; whether random steps do as well is open"),
        (
            crossing(11.0, 11.0, RANDOM),
            "no bridge is better than going straight: the best has a worst transition of 11.00",
        ),
        (
            crossing(2.0, 2.0, RANDOM, 0),
            "going straight is best: the goal right after the start has a worst transition of 2.00",
        ),
        (crossing(2.0, 2.0, RANDOM, 0), ", a random step in its place 12.00"),
        (None, "no bridge: no way leads from a:0 to b:1"),
    ],
)
def test_bridge(way: bridge.Crossing | None, says: str) -> None:
    assert says in bridged(way)


def test_the_best_bridge_is_the_one_with_the_smallest_worst_transition_after_rescoring() -> None:
    said = bridged(crossing(9.0, 11.0, RANDOM), crossing(8.0, 11.0, RANDOM, 3), crossing(7.0, 11.0, RANDOM, 2))
    assert said.startswith("a bridge of 2 extra steps has a worst transition of 7.00 nats")


def held(value: float, *controls: Control) -> capture.Capture:
    score = Score("caught", value, "share of tokens", controls)
    return capture.Capture("r", 20, 30, 4, 6, "c1", None, None, (), (score,), ())


NULLS = [Control(name, 0.02, (0.0, 0.06)) for name in capture.NULLS]


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (held(0.84, *NULLS), "caught: yes, 84 % of tokens, chance at most 6.0 %, over all chains; most votes: c1"),
        (held(0.06, *NULLS), "caught: no, 6.0 % of tokens, not beyond chance (at most 6.0 %)"),
        (
            held(0.84, *NULLS, Control("map of the other sources (3 of 9 tokens)", 0.84)),
            "; the other sources hold as much of it",
        ),
        (
            held(0.84, *NULLS, Control("connectives masked", 0.06)),
            "; without its connectives nothing beyond chance is left",
        ),
    ],
)
def test_capture(found: capture.Capture, says: str) -> None:
    assert found.report().verdict.endswith(says)


def test_what_the_corpus_holds_is_not_chance() -> None:
    """Another source and what is left without connectives may reach as high as the text itself; chance does not, and the
    sentence says both."""
    found = held(
        0.84, *NULLS, Control("map of the other sources (3 of 9 tokens)", 0.5), Control("connectives masked", 0.07)
    )
    assert found.is_caught is True
    report = found.report()
    said = "caught: yes, 84 % of tokens, chance at most 6.0 %, over all chains; most votes: c1"
    assert report.verdict == f"{said}; the other sources hold 50 % of it"
    assert report.record()["chance_controls"] == list(capture.NULLS)
    small = capture.Capture("r", 20, 3, 4, 6, "", None, None, (), (), (Withheld("caught", "3 chains are too few"),))
    assert small.is_caught is None
    assert small.report().verdict == "caught: open, 3 chains are too few"


def test_many_texts_are_counted_apart_from_those_that_were_not_judged() -> None:
    small = capture.Capture("r", 20, 3, 4, 6, "", None, None, (), (), (Withheld("caught", "3 chains are too few"),))
    found = capture.Captures(
        ("a", "b", "c", "d"), ("A", "B", "C", "D"), (held(0.84, *NULLS), held(0.01, *NULLS), None, small)
    )
    report = found.report()
    assert report.verdict == "1 of 2 texts is caught beyond chance; 2 of 4 could not be judged"
    assert found.withheld == small.withheld
    rows = report.to_arrow().to_pylist()
    assert [row["caught"] for row in rows] == [True, False, None, None]
    assert [row["trail"] for row in rows] == ["c1", None, None, None]
    assert [row["chance"] for row in rows] == [0.06, 0.06, None, None]
    assert rows[2]["verdict"] == "too short to be told from chance"


def mapped(*scores: Score, withheld: tuple[Withheld, ...] = ()) -> str:
    none = pa.table({"id": pa.array([], pa.string()), "n_chains": pa.array([], pa.int64())})
    bubbles = pa.table({name: pa.array([], pa.string()) for name in ("before", "ways", "after")})
    bubbles = bubbles.append_column("counts", pa.array([], pa.list_(pa.int64())))
    unitigs = pa.table({name: pa.array([], pa.string()) for name in ("n_states", "n_occurrences", "text")})
    made: Any = statemap.StateMap(
        4,
        "t",
        "r",
        30,
        99,
        none,
        none,
        unitigs,
        bubbles,
        scores,
        withheld,
        None,
        np.empty(0, np.int64),  # type: ignore[arg-type]
    )
    verdict: str = made.report().verdict
    return verdict


def fitness(value: float, low: float) -> Score:
    control = Control("held-out tokens shuffled", 0.01, (0.0, 0.02))
    return Score("fitness", value, "share of held-out transitions", (control,), (low, value + 0.1))


def test_map() -> None:
    assert mapped(fitness(0.38, 0.3)) == (
        "new chains keep to this map beyond chance: it has 38 % of the transitions of held-out chains, shuffled at most 2.0 %"
    )
    few = Score("fitness", 0.38, "share", (Control("held-out tokens shuffled", 0.01, (0.0, 0.02)),))
    assert mapped(few) == (
        "new chains keep to this map above its control; too few held-out chains for an interval: "
        "it has 38 % of the transitions of held-out chains, shuffled at most 2.0 %"
    )
    assert mapped(fitness(0.03, 0.02)).startswith("new chains do not keep to this map beyond chance: it has 3.0 % of")
    assert mapped(withheld=(Withheld("fitness", "too few"),)) == "whether new chains keep to this map is open: too few"


def drifted(onset: int | None, *scores: Score, paired: bool = True, withheld: tuple[Withheld, ...] = ()) -> str:
    none = np.zeros((0, 5))
    found = drift.Drift(
        "c", "r1", "r2" if paired else "", paired, none, np.zeros(5), np.zeros(5), onset, scores, withheld, (), 0
    )
    return found.report().verdict


def test_drift() -> None:
    jump = Score(drift.JUMP, 9.0, "squared error removed / left", (Control("shuffled", 4.0),))
    sure = Score(drift.CONFIDENCE, 0.95, "share", (Control("shuffled", 0.2),))
    compared = "jump 9, with the layers shuffled up to 4"
    assert drifted(7, jump, sure) == (
        f"the change between runs r1 and r2 sets in at layer 7 ({compared}; 95 % of resamples agree within one layer, "
        "20 % by chance)"
    )
    assert drifted(7, jump, sure, paired=False).startswith("drift sets in at layer 7 (")
    assert drifted(None, jump, sure) == f"no onset: no layer stands out ({compared})"
    assert drifted(None, withheld=(Withheld("onset", "too few"),)) == "no onset is named: too few"
    exact = Score(drift.EXACT, 0.02, "change", (Control("layers 0 to 6", 0.0),))
    assert drifted(7, exact).endswith("begins at layer 7: layers 0 to 6 are equal bit by bit, every later one is not")


def worth(best: str, value: float, low: float, **others: float) -> str:
    return calibration(best, value, low, **others).worth()


def calibration(best: str, value: float, low: float, **others: float) -> gaps.Calibration:
    position = (Control(gaps.calibration.POSITION, 0.45, (0.4, 0.5)),)
    scores = [Score(best, value, "AUC", position, (low, value + 0.02))]
    scores += [Score(name.replace("_", " "), auc, "AUC", position) for name, auc in others.items()]
    return gaps.Calibration("r", 30, (), (), tuple(scores), (), best)


def test_gaps() -> None:
    assert worth("all", 0.866, 0.84, no_model=0.837, model=0.834) == (
        "ranked by all scores together: AUC 0.866 for a removed step within its chain "
        "(position alone 0.450; the model's scores 0.834; the scores without a model 0.837)"
    )
    assert worth("no model", 0.53, 0.5).startswith(
        "not beyond chance: ranked by the scores without a model, AUC 0.530 for a removed step (position alone 0.450)"
    )
    assert calibration("no model", 0.53, 0.5).beside() == (
        "not beyond chance: AUC 0.530 (0.500 to 0.550), position alone 0.450 (0.400 to 0.500)"
    )
    assert calibration("all", 0.866, 0.84).beside() == (
        "beyond chance: AUC 0.866 (0.840 to 0.886), position alone 0.450 (0.400 to 0.500)"
    )
    none = gaps.Calibration("r", 3, (), (), (), (Withheld("ungrounded", "3 chains are too few"),))
    assert none.worth() == "no seam can be ranked: 3 chains are too few"
    assert none.report().verdict == none.worth()
    assert none.beside() == ""
