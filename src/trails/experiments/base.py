"""What an experiment declares before it runs, and how its claims are judged.

An experiment has arms, one record of metrics per (arm, seed), and claims. A claim is a list of criteria, each a paired
difference between two arms over the seeds with a 95 % t interval. Primary criteria must all be met (an
intersection-union test, so no correction for their number is needed); guards must not be broken.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trails.schema import stable_hash

if TYPE_CHECKING:
    from trails.experiments.bench import Bench
    from trails.experiments.corpus import Corpus

Record = Mapping[str, Any]
Metrics = dict[str, float]
Emit = Callable[[str, Metrics, Mapping[str, Any]], None]
"""``emit(arm, metrics, extra)`` stores the result of one arm."""

_T975 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""97.5 % quantiles of Student's t for 1 … 30 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``n`` seeds with its 95 % t interval; the interval is infinite for one value."""

    mean: float
    low: float
    high: float
    n: int


def t_interval(values: Sequence[float]) -> Interval:
    """Mean and 95 % t interval of the finite values; NaN for none. Above 30 degrees of freedom 2.042 is used (too wide)."""
    data = np.asarray([v for v in values if math.isfinite(v)], np.float64)
    if not len(data):
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(data.mean())
    if len(data) == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = _T975[min(len(data) - 1, 30) - 1] * float(data.std(ddof=1)) / math.sqrt(len(data))
    return Interval(mean, mean - half, mean + half, len(data))


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training, or one thing that is looked at. ``control`` says whether it is held against the treatment."""

    name: str
    meaning: str
    control: bool = True


@dataclass(frozen=True, slots=True)
class Criterion:
    """``metric`` of ``treatment`` minus that of ``control`` (of nothing if empty), per seed, and minus the same difference of
    the ``null`` pair where given. Met when the whole interval lies beyond ``threshold`` in the ``direction``; broken when it
    lies wholly on the other side.
    """

    metric: str
    treatment: str
    control: str
    direction: Literal["lower", "higher"]
    threshold: float = 0.0
    role: Literal["primary", "guard"] = "primary"
    null: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence and what must be seen for it to hold."""

    name: str
    sentence: str
    criteria: tuple[Criterion, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a run is. Lengths in tokens; ``evaluate`` is the number of chains of each evaluation set; ``steps`` scales the
    experiments' own numbers of steps; ``batch`` rows per step.
    """

    name: str = "full"
    max_tokens: int = 768
    evaluate: int = 12
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


@dataclass(frozen=True, slots=True)
class Experiment:
    """A declared experiment. ``metrics`` says what each number means and its unit; ``settings`` is what is fixed beforehand.

    ``run`` trains and measures the named arms for one seed. ``derive`` adds metrics that need all arms of a seed.
    """

    name: str
    number: str
    title: str
    hypothesis: str
    arms: tuple[Arm, ...]
    claims: tuple[Claim, ...]
    metrics: Mapping[str, str]
    settings: Mapping[str, Any]
    limits: str
    run: Callable[[Bench, Corpus, Scale, int, Sequence[str], Emit], None]
    derive: Callable[[Mapping[str, Record]], Mapping[str, Metrics]] | None = None
    curve: Mapping[str, str] = field(default_factory=dict)
    """Metrics of the records' ``curve`` that the report shows by arm: name → meaning."""

    def plan(self, circumstances: Mapping[str, Any]) -> dict[str, Any]:
        """What is registered before the first run: everything declared, the model, the data by hash, the scale. No date."""
        return {
            "experiment": self.name,
            "number": self.number,
            "hypothesis": self.hypothesis,
            "arms": [asdict(arm) for arm in self.arms],
            "claims": [asdict(claim) for claim in self.claims],
            "metrics": dict(self.metrics),
            "settings": dict(self.settings),
            "rule": "held: every primary interval beyond its threshold and no guard broken; did not hold: a primary or a "
            "guard interval wholly on the wrong side; else undecided. Paired by seed, 95 % t intervals.",
            **circumstances,
        }


def plan_hash(plan: Mapping[str, Any]) -> str:
    """SHA-256 of the plan in canonical JSON (first 16 hex digits)."""
    return stable_hash(json.dumps(plan, ensure_ascii=False, sort_keys=True, separators=(",", ":")))


@dataclass(frozen=True, slots=True)
class Judged:
    """A criterion with its interval over the seeds and whether it was ``met``, ``broken`` or left ``open``."""

    criterion: Criterion
    interval: Interval
    state: Literal["met", "broken", "open"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim judged: ``held``, ``did not hold`` or ``undecided``."""

    claim: Claim
    judged: tuple[Judged, ...]
    outcome: Literal["held", "did not hold", "undecided"]

    @property
    def sentence(self) -> str:
        """The plain sentence of the report."""
        reason = {
            "held": "every primary interval lies beyond its threshold",
            "did not hold": "; ".join(_what(j) for j in self.judged if j.state == "broken"),
            "undecided": "; ".join(
                _what(j) for j in self.judged if j.state == "open" and j.criterion.role == "primary"
            ),
        }[self.outcome]
        words = {"held": "HELD", "did not hold": "DID NOT HOLD", "undecided": "COULD NOT BE DECIDED"}[self.outcome]
        return f"{self.claim.sentence} — this {words} here: {reason}."


def _what(judged: Judged) -> str:
    c, i = judged.criterion, judged.interval
    against = f" against {c.control}" if c.control else ""
    if not i.n:
        return f"{c.metric} of {c.treatment}{against} could not be computed"
    return f"{c.metric} of {c.treatment}{against} differs by {i.mean:+.4f} [{i.low:+.4f}, {i.high:+.4f}]"


def by_seed(experiment: Experiment, records: Sequence[Record]) -> dict[int, dict[str, Metrics]]:
    """Metrics by seed and arm, with the derived ones, of the seeds for which every arm is there."""
    seeds: dict[int, dict[str, Record]] = {}
    for record in records:
        seeds.setdefault(int(record["seed"]), {})[str(record["arm"])] = record
    found: dict[int, dict[str, Metrics]] = {}
    for seed, arms in sorted(seeds.items()):
        if set(arms) < {arm.name for arm in experiment.arms}:
            continue
        metrics = {name: {k: _number(v) for k, v in record["metrics"].items()} for name, record in arms.items()}
        for name, more in (experiment.derive(arms) if experiment.derive else {}).items():
            metrics[name] |= more
        found[seed] = metrics
    return found


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def judge(experiment: Experiment, records: Sequence[Record]) -> tuple[Verdict, ...]:
    """Every claim of the experiment, judged on the complete seeds among ``records``. At least two seeds are needed."""
    seeds = by_seed(experiment, records)
    verdicts = []
    for claim in experiment.claims:
        judged = tuple(_judge(criterion, seeds) for criterion in claim.criteria)
        outcome: Literal["held", "did not hold", "undecided"]
        if any(j.state == "broken" for j in judged):
            outcome = "did not hold"
        elif all(j.state == "met" for j in judged if j.criterion.role == "primary"):
            outcome = "held"
        else:
            outcome = "undecided"
        verdicts.append(Verdict(claim, judged, outcome))
    return tuple(verdicts)


def _judge(criterion: Criterion, seeds: Mapping[int, Mapping[str, Metrics]]) -> Judged:
    values = []
    for metrics in seeds.values():

        def of(arm: str, metrics: Mapping[str, Metrics] = metrics) -> float:
            return metrics[arm].get(criterion.metric, math.nan) if arm else 0.0

        value = of(criterion.treatment) - of(criterion.control)
        if criterion.null:
            value -= of(criterion.null[0]) - of(criterion.null[1])
        values.append(value)
    interval = t_interval(values)
    sign = 1.0 if criterion.direction == "higher" else -1.0
    low, high = sorted((sign * interval.low - criterion.threshold, sign * interval.high - criterion.threshold))
    state: Literal["met", "broken", "open"] = "open"
    # a metric that could not be computed for a seed leaves the criterion open: dropping seeds would choose among them
    if interval.n == len(seeds) and interval.n >= 2:
        state = "met" if low > 0 else "broken" if high < 0 else "open"
    return Judged(criterion, interval, state)


def at_equal_gain(curves: Mapping[str, Sequence[Mapping[str, float]]], gain: str, value: str) -> dict[str, float]:
    """``value`` of each arm where its ``gain`` first reaches 90 % of the smallest of the arms' largest gains.

    Curves start at (0, value of the untrained model) if their first point is step 0. Linear between points. NaN for all when
    an arm never gains.
    """
    target = 0.9 * min(max(point[gain] for point in curve) for curve in curves.values())
    found = {}
    for arm, curve in curves.items():
        before: Mapping[str, float] | None = None
        result = math.nan
        for point in curve if target > 0 else ():
            if point[gain] >= target:
                share = 1.0
                if before is not None and point[gain] > before[gain]:
                    share = (target - before[gain]) / (point[gain] - before[gain])
                result = point[value] if before is None else before[value] + share * (point[value] - before[value])
                break
            before = point
        found[arm] = result
    return found


def scaled(scale: Scale, **changes: Any) -> Scale:
    """A scale with some numbers replaced."""
    return replace(scale, **changes)
