"""Drift: a planted onset is recovered within one layer; none is named where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trails.analyses import drift
from trails.cli.scores import print_report
from trails.errors import UsageError

LAYERS = 30


def planted(
    make: Any, onset: int | None, seed: int, *, size: float = 0.08, positions: int = 40, name: str = "0"
) -> Any:
    """A chain whose drift rises by ``size`` from layer ``onset`` on, over a sloping curve, with noise of 0.1 per position."""
    rng = np.random.default_rng(seed)
    layer = np.arange(LAYERS + 1)
    baseline = 0.3 + 0.3 * np.exp(-layer / 8)
    curve = 0.1 + 0.001 * layer + (size * (layer >= onset) if onset is not None else 0)
    noise = rng.normal(scale=0.1, size=(positions, LAYERS + 1))
    shift = (baseline + curve + noise).astype(np.float32)
    shift[0] = np.nan
    text = [" ".join(f"t{i}" for i in range(positions))]
    return make(text, name=name, n_layers=LAYERS, hidden_shift=shift, hidden_baseline=baseline.astype(np.float32))


def test_a_planted_onset_is_recovered_within_one_layer_in_95_of_100(make: Any) -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        onset = int(rng.integers(4, LAYERS - 4))
        trace = planted(make, onset, seed)
        values = trace.hidden_shift[1:].astype(np.float64) - trace.hidden_baseline
        hits += abs(drift.onset_of(values, paired=False)[0] - onset) <= 1
    assert hits >= 95


@pytest.mark.slow
def test_the_onset_is_named_with_its_confidence(make: Any) -> None:
    found = drift.drift(planted(make, 17, 1))
    assert found.onset is not None
    assert abs(found.onset - 17) <= 1
    jump, confidence = found.scores
    assert jump.value > jump.control
    assert confidence.value > 0.9
    assert confidence.control < 0.5
    assert found.curve[20:].mean() > found.curve[:10].mean() + 0.05


@pytest.mark.slow
def test_no_onset_is_named_on_a_slope_with_noise(make: Any) -> None:
    named = sum(drift.drift(planted(make, None, seed)).onset is not None for seed in range(20))
    assert named <= 4  # one in twenty is expected


def test_the_baseline_is_taken_off(make: Any) -> None:
    trace = planted(make, None, 3)
    found = drift.drift(trace)
    assert found.curve == pytest.approx(np.nanmean(trace.hidden_shift, axis=0) - trace.hidden_baseline, abs=1e-5)
    assert len(found.values) == trace.n_tokens - 1


def test_a_change_between_two_measurements_sets_in_where_it_was_made(make: Any) -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for seed in range(40):
        onset = int(rng.integers(2, LAYERS - 2))
        one = planted(make, None, seed)
        changed = one.hidden_shift + (rng.normal(scale=1e-7, size=one.hidden_shift.shape)).astype(np.float32)
        changed[:, onset:] += np.abs(rng.normal(scale=0.02, size=(one.n_tokens, LAYERS + 1 - onset))).astype(np.float32)
        values = np.abs(changed[1:].astype(np.float64) - one.hidden_shift[1:])
        hits += abs(drift.onset_of(values, paired=True)[0] - onset) <= 1
    assert hits >= 38


def test_equal_measurements_have_no_onset(make: Any) -> None:
    trace = planted(make, None, 1)
    found = drift.drift(trace, trace)
    assert found.onset is None
    assert found.scores == ()
    assert "equal" in found.withheld[0].reason
    assert not found.curve.any()


def changed(make: Any, from_layer: int, rise: float, seed: int = 3) -> tuple[Any, Any]:
    """Two measurements of one chain, equal bit by bit below a layer; from there on the change is the mean of ``rise``."""
    one = planted(make, None, 1)
    shift = one.hidden_shift.copy()
    rng = np.random.default_rng(seed)
    shift[:, from_layer:] += (rise * rng.uniform(0.5, 1.5, shift[:, from_layer:].shape)).astype(np.float32)
    return one, replace(one, hidden_shift=shift)


@pytest.mark.slow
def test_a_layer_that_cannot_change_is_no_onset(make: Any) -> None:
    """A training moves every layer but the input embeddings: layer 0 is exactly 0, and that is no evidence for layer 1."""
    named = []
    for seed in range(8):
        one, two = changed(make, 1, 0.01, seed)
        assert not np.abs(two.hidden_shift - one.hidden_shift)[1:, 0].any()
        found = drift.drift(one, two)
        named.append(found.onset)
        if found.onset is None:
            assert found.report().verdict.startswith("no onset: no layer stands out (jump ")
    assert 1 not in named
    assert named.count(None) >= 6  # one in twenty is expected by chance


def test_the_layer_that_cannot_change_does_not_hide_an_onset(make: Any) -> None:
    """Beside an exact 0 a threefold change would be small on the scale on which changes are compared."""
    one, two = changed(make, 1, 0.01)
    shift = two.hidden_shift.copy()
    shift[:, 15:] += 2 * (shift[:, 15:] - one.hidden_shift[:, 15:])
    found = drift.drift(one, replace(two, hidden_shift=shift))
    assert found.onset == 15
    assert f"sets in at layer {found.onset} (jump " in found.report().verdict
    assert found.scores[0].note == "layer 15"
    assert found.scores[1].note == "the central 95 % of resampled positions put it in layer 15"


def test_equal_first_layers_make_the_onset_a_fact(make: Any) -> None:
    one, two = changed(make, 12, 0.02)
    found = drift.drift(one, two)
    assert found.onset == 12
    (score,) = found.scores
    assert score.name == drift.EXACT
    assert score.control == 0.0
    assert 0.01 < score.value < 0.03
    assert "layers 0 to 11 are equal bit by bit" in found.report().verdict
    # a layer further up that did not change either leaves the statistic to decide, without the layers that are exactly 0
    shift = two.hidden_shift.copy()
    shift[:, 20] = one.hidden_shift[:, 20]
    assert drift.EXACT not in {s.name for s in drift.drift(one, replace(two, hidden_shift=shift)).scores}


def test_a_tie_is_not_beaten(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every order of the layers gives the same jump: the quantile of the shuffles is the jump itself, up to rounding."""
    one, two = changed(make, 1, 0.01)
    calls = iter(range(10**6))
    monkeypatch.setattr(drift, "_change", lambda curve, paired: (5, 7.0 + 9e-16 * (next(calls) == 0)))
    found = drift.drift(one, two)
    jump = found.scores[0]
    assert jump.value > jump.control
    assert found.onset is None


def test_what_cannot_be_compared_is_refused(make: Any) -> None:
    trace = planted(make, None, 1)
    with pytest.raises(UsageError, match="same tokens"):
        drift.drift(trace, planted(make, None, 1, positions=39))
    with pytest.raises(UsageError, match="layers"):
        drift.drift(make(["a b c"], n_layers=0, hidden_shift=np.zeros((3, 1), np.float32)))
    short = drift.drift(planted(make, 17, 1, positions=6))
    assert short.onset is None
    assert "longer chain" in short.withheld[0].reason


@pytest.mark.slow
def test_every_score_is_printed_with_its_unit(
    make: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    found = drift.drift(planted(make, 17, 1))
    print_report(found.report())
    printed = " ".join(capsys.readouterr().out.split())
    assert found.scores
    for score in found.scores:
        assert score.unit
        assert score.unit in printed, score.name


def test_the_picture_shows_layers_positions_and_the_onset(make: Any) -> None:
    found = drift.drift(planted(make, 17, 1))
    text = drift.picture(found, width=20).plain
    lines = text.splitlines()
    assert len([line for line in lines if line[:4].strip().isdigit()]) == LAYERS + 1
    assert sum("drift sets in" in line for line in lines) == 1
    (marked,) = [line for line in lines if "drift sets in" in line]
    assert int(marked[:4]) == found.onset
    small = drift.picture(found, width=10, height=8).plain
    assert len([line for line in small.splitlines() if line[:4].strip().isdigit()]) == 8
    # without colour the shades alone tell high from low
    dark = sum(line.count("█") for line in lines[:8])
    light = sum(line.count("█") for line in lines[LAYERS - 8 : LAYERS])
    assert dark > light


@pytest.mark.model
def test_an_intervention_in_the_real_model_is_located(smollm2: Any) -> None:
    """A vector added to the output of layer k changes the hidden shifts from k + 1 on, and not before."""
    import torch

    from trails.measure.base import MeasureOptions, Segmented
    from trails.schema import Chain
    from trails.segment import segment

    text = "If it rains, the street gets wet. But the street is dry today. Therefore it did not rain this morning."
    chain = Chain("made", "0", "Did it rain?", text, language="en")
    item = Segmented(chain, segment(chain))
    (plain,) = smollm2.measure([item], MeasureOptions())
    layers = smollm2.model.module.get_submodule("model.layers")
    generator = torch.Generator().manual_seed(0)
    vector = torch.randn(smollm2.run.d_model, generator=generator)
    for k in (6, 14, 22):

        def add(_module: Any, _inputs: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            moved = hidden + 0.5 * hidden.norm(dim=-1, keepdim=True) * vector / vector.norm()
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        handle = layers[k].register_forward_hook(add)
        try:
            (patched,) = smollm2.measure([item], MeasureOptions())
        finally:
            handle.remove()
        found = drift.drift(plain, patched)
        assert found.onset is not None
        assert abs(found.onset - (k + 1)) <= 1


def test_the_range_of_resamples_is_their_central_95_percent() -> None:
    onsets = np.array([2] + [12] * 50 + [14] * 50 + [26] * 2)
    assert drift._resampled(onsets).endswith("95 % of resampled positions put it between layers 12 and 14")
    assert drift._resampled(np.array([3, 9])).endswith("between layers 3 and 9")
