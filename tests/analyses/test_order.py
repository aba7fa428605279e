"""Every analysis of chains finds the same numbers in whatever order the chains come."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trails.analyses.effects import scan
from trails.schema import Trace


def noisy(make: Any, number: int) -> Trace:
    """A chain of six steps whose numbers are noise; every three chains are versions of one text."""
    rng = np.random.default_rng([5, number])
    steps = [" ".join(f"w{rng.integers(40)}" for _ in range(5 + (number + s) % 4)) + ". " for s in range(6)]
    trace = make(steps, name=str(number))
    n = trace.n_tokens
    masses = np.abs(rng.normal(size=trace.step_attention.shape)).astype(np.float32)
    return replace(
        trace,
        chain=replace(trace.chain, family=f"family {number // 3}"),
        surprisal=rng.gamma(2.0, 1.0, n).astype(np.float32),
        entropy=rng.gamma(2.0, 1.0, n).astype(np.float32),
        rank=rng.geometric(0.05, n).astype(np.int32) - 1,
        hidden_shift=rng.normal(0.2, 0.1, (n, 5)).astype(np.float32),
        step_attention=masses,
    )


ORDERS: dict[str, Callable[[list[Trace]], Iterable[Trace]]] = {
    "reversed": lambda traces: traces[::-1],
    "shuffled": lambda traces: [traces[i] for i in np.random.default_rng(0).permutation(len(traces))],
}


@pytest.mark.parametrize("order", ORDERS)
def test_effects_do_not_depend_on_the_order_of_chains(make: Any, order: str) -> None:
    traces = [noisy(make, number) for number in range(12)]
    mixed = list(ORDERS[order](traces))
    first, other = (
        scan(lambda of=of: of, run="r", after=lambda of=of: of, after_run="s").report().record()
        for of in (traces, mixed)
    )
    assert first["scores"]
    assert first == other
