"""The whitening of a run is fitted once, kept with the run, and the same whoever asks for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trails.analyses.capture import retrieve
from trails.analyses.neighbours import nearest_others
from trails.analyses.overlaps import near, neighbours
from trails.analyses.whitening import MIN_VECTORS, Moments, Whitening, fit_whitening
from trails.pipeline.whitening import whitening_of
from trails.store.traces import TraceStore

WIDTH = 6


def made(make: Any, chains: range, *, layers: tuple[int, ...] = (1, 3)) -> list[Any]:
    """Chains of four steps whose states differ by layer; the state of the last step is undefined in every tenth chain."""
    traces = []
    for number in chains:
        states = np.random.default_rng(number).normal(size=(4, len(layers), WIDTH)) * np.linspace(1, 9, WIDTH) + 50
        states[:, 1:] *= 3
        if number % 10 == 0:
            states[3] = np.nan
        steps = [f"step {number} {part}. " for part in ("a", "b", "c", "d")]
        traces.append(make(steps, name=str(number), states=states.astype(np.float32), state_layers=layers))
    return traces


def states_of(traces: list[Any], place: int) -> np.ndarray:
    stack = np.concatenate([trace.step_states[:, place] for trace in traces])
    return stack[np.isfinite(stack).all(axis=1)]


def test_moments_of_blocks_are_those_of_the_whole() -> None:
    # a mean far from zero is where a naive sum of squares loses its digits
    x = np.random.default_rng(0).normal(size=(1000, 5)) * [1, 1, 2, 3, 1e-2] + [1e4, 0, -1e3, 5, 1]
    moments = Moments()
    for part in np.split(x, [1, 1, 400, 998]):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, x.mean(axis=0))
    np.testing.assert_allclose(moments.scatter / 999, np.cov(x, rowvar=False), rtol=1e-9, atol=1e-9)


def test_it_is_that_of_all_states_of_the_layer_and_is_kept(make: Any, tmp_path: Path, monkeypatch: Any) -> None:
    traces = made(make, range(60))
    with TraceStore(tmp_path, write=True) as home:
        home.write(traces[:25])
        home.write(traces[25:])
    home = TraceStore(tmp_path)
    for place, layer in ((0, 1), (1, 3)):
        found, expected = whitening_of(home, "rmade", layer), fit_whitening(states_of(traces, place))
        assert found.n == expected.n == 60 * 4 - 6
        np.testing.assert_allclose(found.components, expected.components, rtol=1e-4, atol=1e-6)
        white = (states_of(traces, place) - found.mean) @ found.components
        np.testing.assert_allclose(np.cov(white, rowvar=False), np.eye(WIDTH), atol=1e-3)
    assert {path.name for path in (tmp_path / "whitening").iterdir()} == {"rmade-1.npz", "rmade-3.npz"}
    monkeypatch.setattr(Moments, "whitening", lambda _: pytest.fail("fitted again"))
    np.testing.assert_array_equal(whitening_of(TraceStore(tmp_path), "rmade", 3).components, found.components)


def test_other_chains_or_a_broken_file_mean_a_new_fit(make: Any, tmp_path: Path) -> None:
    with TraceStore(tmp_path, write=True) as home:
        home.write(made(make, range(40)))
        assert whitening_of(home, "rmade", 1).n == 40 * 4 - 4
        home.write(made(make, range(40, 50)))
        assert whitening_of(home, "rmade", 1).n == 50 * 4 - 5
        path = tmp_path / "whitening" / "rmade-1.npz"
        path.write_bytes(path.read_bytes()[:100])
        assert whitening_of(home, "rmade", 1).n == 50 * 4 - 5
        path.unlink()
        (tmp_path / "whitening").rmdir()
        (tmp_path / "whitening").write_text("in the way")  # nothing can be kept, but it can be fitted
        assert whitening_of(home, "rmade", 1).n == 50 * 4 - 5


def test_too_few_states_are_no_whitening(make: Any, tmp_path: Path) -> None:
    with TraceStore(tmp_path, write=True) as home:
        home.write(made(make, range(1, 10)))
        with pytest.raises(ValueError, match=str(MIN_VECTORS)):
            whitening_of(home, "rmade", 1)
        with pytest.raises(ValueError, match="0 vectors"):
            whitening_of(home, "rmade", 2)


@pytest.mark.slow
def test_overlaps_and_capture_use_the_one_they_are_given(make: Any, tmp_path: Path) -> None:
    traces = made(make, range(60))
    with TraceStore(tmp_path, write=True) as home:
        home.write(traces)
        asked: list[int] = []

        def whitening(layer: int) -> Any:
            asked.append(layer)
            return whitening_of(home, "rmade", layer)

        near(home.traces("rmade"), layer=3, whitening=whitening)
        stored = retrieve(home.traces("rmade"), traces[7], whitening=whitening)
    assert asked == [3, 3]
    assert stored[0] == retrieve(traces, traces[7])[0]
    states = states_of(traces, 0)
    chain = np.arange(len(states)) // 4
    whole = fit_whitening(states)
    one = Whitening(whole.mean, whole.components[:, -2:], whole.n)  # looks along two directions only
    given = neighbours(states, chain, k=2, whitening=one)
    np.testing.assert_array_equal(given.index, nearest_others(one(states), chain, 2)[0])
    assert (given.index != neighbours(states, chain, k=2).index).mean() > 0.5
