"""How large a run of an experiment is, and what its records hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

Record = Mapping[str, Any]
Metrics = dict[str, float]
Emit = Callable[[str, Metrics, Mapping[str, Any]], None]
"""``emit(arm, metrics, extra)`` stores the result of one arm."""

DEVELOPMENT = 1000
"""Seeds from here on are for development: never among those that are judged."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a run is. Lengths in tokens; ``evaluate`` is the number of chains of each evaluation set; ``steps`` scales the
    experiments' own numbers of steps; ``batch`` rows per step.
    """

    name: str = "full"
    max_tokens: int = 320
    evaluate: int = 40
    steps: float = 1.0
    batch: int = 8
    size: float = 1.0
    """Scales the numbers of chains, variants, probes and prompts."""

    def count(self, full: int, least: int = 1) -> int:
        """A number of things at this scale."""
        return max(least, round(full * self.size))

    def n_steps(self, full: int) -> int:
        """A number of training steps at this scale."""
        return max(2, round(full * self.steps))


SCALES = {
    "full": Scale(),
    "quick": Scale("quick", max_tokens=128, evaluate=3, steps=0.1, batch=2, size=0.15),
}


def scaled(scale: Scale, **changes: Any) -> Scale:
    """A scale with some numbers replaced."""
    return replace(scale, **changes)
