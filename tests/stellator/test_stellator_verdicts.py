"""What a block states is judged right where the answer is known: planted effects pass, nothing planted fails."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.store.factory import make_chain, make_run, make_trace

from trails.analyses.report import Report
from trails.analyses.score import Score
from trails.analyses.whitening import Whitening
from trails.schema import Trace
from trails.stellator import compile_program
from trails.stellator.parsing import parse
from trails.stellator.verdicts import (
    Instruments,
    Selected,
    _places,
    _series,
    judge,
    span_score,
    turning_angles,
    verdicts,
    zone_share,
)
from trails.stellator.zones import zones

RUN = make_run("toy", n_layers=4)
TEXT = "abc" * 60
MARKED = range(20, 23)
"""Tokens that are selected, in every chain."""


def corpus(change: Callable[[Trace], Trace] = lambda trace: trace, n: int = 12) -> list[Trace]:
    return [change(make_trace(make_chain(f"v{i}", TEXT), RUN, n_steps=12, states=(2,))) for i in range(n)]


def report_of(text: str, traces: Sequence[Trace], **more: object) -> Report:
    (one,) = compile_program(parse(text), RUN, traces=lambda: traces, known=zones())
    ids = tuple(trace.token_id(t) for trace in traces for t in MARKED)
    chosen = Selected("TOKEN", ids, ids, ids)
    flat = Whitening(np.zeros(8, np.float32), np.eye(8, dtype=np.float32), 100)
    return judge(one, chosen, Instruments(RUN, lambda: traces, whitening=lambda _: flat, **more))  # type: ignore[arg-type]


def verdict_of(text: str, traces: Sequence[Trace], **more: object) -> str:
    return verdicts(report_of(f"[ZONE: all]\n{text}", traces, **more))[0]["verdict"]


def raised(measure: str, column: int, by: float) -> Callable[[Trace], Trace]:
    def change(trace: Trace) -> Trace:
        values = np.array(trace.array(measure))
        values[MARKED.start : MARKED.stop, column] += by
        return replace(trace, **{measure: values})

    return change


@pytest.mark.slow
def test_a_planted_drift_passes_at_its_layer_only_and_in_its_direction_only() -> None:
    traces = corpus(raised("attention_entropy", 2, 1.0))
    assert verdict_of("DRIFT → activates attention sweep on layer 3", traces) == "pass"
    assert verdict_of("DRIFT → activates attention sweep on layer 2", traces) == "fail"
    assert verdict_of("DRIFT → calms attention sweep on layer 3", traces) == "fail"
    assert verdict_of("NOT DRIFT → activates attention sweep on layer 3", traces) == "fail"
    assert verdict_of("NOT DRIFT → activates attention sweep on layer 2", traces) == "pass"
    assert verdict_of("DRIFT → calms attention sweep on layer 3", corpus(raised("attention_entropy", 2, -1))) == "pass"
    assert verdict_of("DRIFT → activates hidden shift on layer 3", corpus(raised("hidden_shift", 3, 1.0))) == "pass"


def test_a_drift_is_compared_with_the_slow_mean_and_a_layer_must_exist() -> None:
    traces = corpus()
    report = report_of("[ZONE: all]\nDRIFT → activates attention sweep on layers 2,4", traces)
    slow = np.mean([np.mean(t.attention_entropy[MARKED.start : MARKED.stop][:, [1, 3]].astype(float)) for t in traces])
    assert verdicts(report)[0]["value"] == pytest.approx(slow)
    assert verdict_of("DRIFT → activates attention sweep on layer 5", traces) == "not decidable"
    assert verdict_of("DRIFT → activates attention sweep on layer 3", traces[:2]) == "not decidable"


def test_the_noise_floor_is_part_of_the_bar() -> None:
    traces = corpus(raised("attention_entropy", 2, 1.0))
    noisy = replace(RUN, notes={"noise_floor": {"batch": {"attention_entropy": 2.0}}})
    (one,) = compile_program(
        parse("[ZONE: all]\nDRIFT → attention sweep on layer 3"), noisy, traces=list, known=zones()
    )
    ids = tuple(trace.token_id(t) for trace in traces for t in MARKED)
    report = judge(one, Selected("TOKEN", ids), Instruments(noisy, lambda: traces))
    assert verdicts(report)[0]["verdict"] == "fail"


@pytest.mark.slow
def test_random_drift_is_beyond_its_control_as_seldom_as_it_says() -> None:
    found = [
        verdict_of("DRIFT → activates logit shift", corpus(lambda t, k=k: replace(t, logit_shift=noise(t, k))))
        for k in range(60)
    ]
    assert found.count("pass") <= 6  # 2.5 % are expected beyond one end of a 95 % interval


def noise(trace: Trace, seed: int) -> np.ndarray:
    draw = np.random.default_rng([seed, int(trace.chain.id[1:9], 16)])
    return draw.random(trace.n_tokens).astype(np.float32)


@pytest.mark.parametrize(("turn", "claim", "wanted"), [(30, "30°", "pass"), (30, "60°", "fail"), (60, "π/3", "pass")])
def test_a_planted_turn_is_measured(turn: float, claim: str, wanted: str) -> None:
    def change(trace: Trace) -> Trace:
        states = np.random.default_rng(int(trace.chain.id[1:9], 16)).normal(size=(12, 1, 8)).astype(np.float32)
        step = next(n for n, (a, b) in enumerate(trace.step_tokens) if a <= MARKED.start < b)
        rad = math.radians(turn)
        states[step - 1, 0] = 0
        states[step, 0] = np.eye(8)[0]
        states[step + 1, 0] = np.eye(8)[0] + math.cos(rad) * np.eye(8)[0] + math.sin(rad) * np.eye(8)[1]
        return replace(trace, step_states=states)

    assert turning_angles([[0, 0], [1, 0], [1, 1], [1, 1]])[1] == pytest.approx(90)
    report = report_of(f"[ZONE: all]\nPHASE → {claim} ± 20° on layer 2", corpus(change))
    assert verdicts(report)[0]["verdict"] == wanted
    assert verdicts(report)[0]["value"] == pytest.approx(turn, abs=0.01)


def test_a_turn_that_random_steps_make_too_is_a_metaphor() -> None:
    def change(trace: Trace) -> Trace:
        states = np.random.default_rng(int(trace.chain.id[1:9], 16)).normal(size=(12, 1, 8)).astype(np.float32)
        return replace(trace, step_states=states)

    report = report_of(
        "[ZONE: all]\nPHASE → 2π/3", corpus(change)
    )  # differences of independent points turn by 120 degrees
    assert verdicts(report)[0]["verdict"] == "not decidable"
    assert "metaphor: not measurable here" in report.notes[0]
    without = [replace(trace, step_states=None, state_layers=()) for trace in corpus()]
    assert "trails ingest PATH --states 3" in report_of("[ZONE: all]\nPHASE → π on layer 3", without).notes[0]
    (one,) = compile_program(parse("[ZONE: all]\nPHASE → π"), RUN, traces=list, known=zones())
    trained = replace(RUN, adapter="thought")
    report = judge(one, Selected("TOKEN", ()), Instruments(trained, lambda: without))
    assert "with adapter thought: trails diff --adapter FOLDER --home NEW" in report.notes[0]


def test_an_anchor_passes_only_where_the_way_to_it_is_cheaper_than_from_random_steps() -> None:
    traces = corpus()
    mine = {f"{trace.chain.id}:{step}" for trace in traces for step in (4,)}

    def cheap(start: str, _: str) -> float:
        return 1.0 if start in mine else 9.0

    assert verdict_of('ANCHOR → "CAB"', traces, bridge=cheap) == "pass"
    draw = np.random.default_rng(0)
    assert verdict_of('ANCHOR → "cab"', traces, bridge=lambda *_: float(draw.normal())) == "fail"
    assert verdict_of('ANCHOR → "cab"', traces, bridge=lambda *_: math.nan) == "not decidable"
    assert verdict_of('ANCHOR → "cab"', traces) == "not decidable"
    assert verdict_of('ANCHOR → "nowhere"', traces, bridge=cheap) == "not decidable"


def test_bridges_from_few_places_decide_nothing() -> None:
    """Six bridges from two places are no six observations."""
    traces = corpus()
    some = {trace.chain.id for trace in traces[:2]}

    def cheap(start: str, _: str) -> float:
        return 1.0 if start.split(":")[0] in some else 9.0

    (one,) = compile_program(parse('[ZONE: all]\nANCHOR → "cab"'), RUN, traces=list, known=zones())
    ids = tuple(f"{chain}:4" for chain in sorted(some))
    report = judge(one, Selected("STEP", ids), Instruments(RUN, lambda: traces, bridge=cheap))
    (line,) = report.to_arrow("lines").to_pylist()
    assert line["verdict"] == "not decidable"
    assert re.search(r"the 6 bridges begin at [12] places?, 5 are needed", line["said"])


def test_the_interval_of_a_drift_is_that_of_its_value() -> None:
    """Chains with unequally many places: the interval is of the mean over places, which it holds."""
    measured = corpus()
    ids = []
    for number, trace in enumerate(measured):
        ids += [f"{trace.chain.id}:{step}" for step in range(1, len(trace.steps), 2)][: 1 + 3 * (number % 2)]
    places = _places(Selected("STEP", tuple(ids)), lambda: measured)
    score, count = span_score(places, "logit_shift", ())
    assert score is not None
    assert score.interval is not None
    assert score.interval[0] <= score.value <= score.interval[1]
    rows = []
    for chain in sorted(places.masks):
        series = _series(places.traces[chain], "logit_shift", ())
        own = [float(np.nanmean(series[a:b])) for a, b in places.spans(chain)]
        rows.append((sum(own), len(own)))
    assert count == sum(n for _, n in rows)
    assert len({n for _, n in rows}) > 1
    array = np.array(rows)
    picks = np.random.default_rng(0).integers(0, len(array), (1000, len(array)))
    drawn = array[picks].sum(axis=1)
    expected = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    assert score.interval == pytest.approx(expected)


def test_places_without_a_way_are_replaced_until_there_are_bridges_enough_to_decide() -> None:
    traces = corpus()
    mine = {f"{trace.chain.id}:{step}" for trace in traces for step in (4,)}
    asked: list[bool] = []

    def seldom(start: str, _: str) -> float:
        asked.append(start in mine)
        if len(asked) % 4:  # three of four ways do not exist, from selected steps and from random ones
            return math.nan
        return 1.0 if start in mine else 9.0

    (line,) = report_of('[ZONE: all]\nANCHOR → "cab"', traces, bridge=seldom).to_arrow("lines").to_pylist()
    assert line["verdict"] == "pass"
    assert re.search(r"over 6 pairs from [1-6] places; \d+ were tried", line["said"])
    assert (line["value"], line["control"]) == (1.0, 9.0)

    def hopeless(*_: str) -> float:
        asked.append(True)
        return math.nan

    asked.clear()
    (line,) = report_of('[ZONE: all]\nANCHOR → "cab"', traces, bridge=hopeless).to_arrow("lines").to_pylist()
    assert "0 bridges with a control, 5 are needed (120 pairs of places were tried)" in line["said"]
    assert len(asked) <= 120


def share_of(kind: str, named: Callable[[Trace], list[str]], zone: Callable[[Trace], list[int]]) -> tuple[Score, str]:
    """The share of the zone at places of a corpus, beside its controls."""
    traces = corpus()
    outside = tuple(name for trace in traces for name in named(trace))
    inside = tuple(trace.token_id(t) for trace in traces for t in zone(trace))
    found = zone_share(Selected(kind, outside[:1], outside, inside), lambda: traces)
    assert found is not None
    return found


@pytest.mark.parametrize("kind", ["STEP", "CHAIN"])
def test_a_place_is_compared_with_places_of_its_kind_and_not_with_tokens(kind: str) -> None:
    """Half of the tokens are in the zone, and so every step has one: what any step has is nothing of the selected ones."""

    def named(trace: Trace) -> list[str]:
        if kind == "CHAIN":
            return [trace.chain.id] if trace.chain.source_id in ("v1", "v5") else []
        return [f"{trace.chain.id}:{step}" for step in (4, 7)]

    score, told = share_of(kind, named, lambda trace: list(range(0, trace.n_tokens, 2)))
    assert score.value == 1
    assert [control.value for control in score.controls] == [1, 1], "a share of tokens would be a half"
    assert [control.name for control in score.controls] == [
        f"other {kind.lower()}s of as many tokens", f"all {kind.lower()}s of the run"
    ]  # fmt: skip
    assert "of other" in told


def test_the_share_of_places_is_that_of_other_places_of_as_many_tokens() -> None:
    def in_zone(trace: Trace) -> list[int]:
        """The first token of the selected step, and of a third of the others."""
        firsts = trace.step_tokens[:, 0].tolist()
        return [firsts[step] for step in (4, 0, 3, 6, 9)]

    score, told = share_of("STEP", lambda trace: [f"{trace.chain.id}:4"], in_zone)
    alike, every = score.controls
    traces = corpus()
    (length,) = {int(b - a) for trace in traces for a, b in trace.step_tokens[[4]].tolist()}
    others = [
        (step in (0, 3, 6, 9))
        for trace in traces
        for step, (a, b) in enumerate(trace.step_tokens.tolist())
        if step != 4 and 0.8 * length <= b - a <= 1.2 * length
    ]
    assert score.value == 1
    assert every.value == pytest.approx(5 / 12)
    assert alike.value == pytest.approx(np.mean(others), abs=0.05)
    assert alike.interval is not None
    assert alike.interval[0] < np.mean(others) < alike.interval[1]
    assert "of all 144 steps 42 %" in told


def test_without_another_place_of_as_many_tokens_the_control_is_all_of_the_run() -> None:
    traces = corpus(n=3)
    every = tuple(trace.chain.id for trace in traces)
    found = zone_share(Selected("CHAIN", every, every, (traces[0].token_id(3),)), lambda: traces)
    assert found is not None
    score, told = found
    assert [control.name for control in score.controls] == ["all chains of the run"]
    assert score.value == score.control == pytest.approx(1 / 3)
    assert "no other chain has as many tokens" in told
    assert zone_share(Selected("CHAIN", ("x",), ("x",), ()), lambda: traces) is None


def test_selections_are_counted_apart_from_claims() -> None:
    report = report_of(
        '[ZONE: all]\nTOKEN → "abc"\nNOT STEP → BUT\nDRIFT → logit shift\nGRADIENT DAMPEN → 0.1', corpus()
    )
    assert [row["verdict"] for row in verdicts(report)] == ["not empty", "not empty", "fail", "training"]
    assert "claims: 0 pass, 1 fail, 0 not decidable; selections: 2 not empty, 0 empty" in report.verdict
    assert (report.facts["pass"], report.facts["not empty"]) == (0, 2)
    (one,) = compile_program(parse('[ZONE: all]\nTOKEN → "abc"'), RUN, traces=list, known=zones())
    nothing = judge(one, Selected("TOKEN", (), ("a", "b", "c", "d")), Instruments(RUN, list))
    assert verdicts(nothing)[0]["verdict"] == "empty"
    assert "4 are there, none of them in the zone" in nothing.notes[0]


def test_a_pass_of_not_drift_says_that_it_shows_no_absence() -> None:
    (row,) = verdicts(report_of("[ZONE: all]\nNOT DRIFT → activates logit shift", corpus()))
    assert row["verdict"] == "pass"
    assert "no difference was found, not that there is none" in row["said"]
    raised_ = corpus(raised("attention_entropy", 2, 1.0))
    (row,) = verdicts(report_of("[ZONE: all]\nNOT DRIFT → activates attention sweep on layer 3", raised_))
    assert row["verdict"] == "fail"
    assert "no difference" not in row["said"]


def test_what_is_compiled_names_as_targets_what_is_trained() -> None:
    text = (
        "[ZONE: all]\nOBJECTIVE → attention\nDRIFT → attention sweep\nNOT DRIFT → attention sink\nDRIFT → hidden shift"
    )
    (one,) = compile_program(parse(text), RUN, traces=list, known=zones())
    annotations = one.record()["annotations"]
    assert [line.split(" ")[0] for line in annotations["not trained"]] == ["NOT", "DRIFT"]
    assert len(annotations["targets"]) == 1
    assert "sweep" in annotations["targets"][0]
