"""What a claim needs to be seen, and how it is judged: superior, not inferior, equivalent.

A criterion is a paired difference between two arms over the seeds with a t interval. All primary criteria of a claim must be
met (an intersection-union test, so no correction for their number is needed); a claim *did not hold* when a criterion lies on
the wrong side after Holm's correction over the criteria of the claim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import optimize, stats

from trails.errors import UsageError
from trails.experiments.scale import Metrics

LEAST_SEEDS = 5
"""No verdict below this number of seeds."""
LEAST_CLUSTERS = 20
"""Chains below which a bootstrap over them gives no interval."""
DRAWS, DRAW_SEED = 4000, 0
"""Of the bootstrap over chains."""
LEVELS = {1: 0.95, 2: 0.9706}
"""Level of each interval by the planned number of looks (Pocock's bound for two)."""

SMALL = "smaller than what was called worth having"
"""What is said of a claim that held with a difference below its smallest effect of interest."""

Kind = Literal["superior", "not inferior", "equivalent"]
State = Literal["met", "broken", "none", "open"]
Outcome = Literal["held", "did not hold", "no difference", "open", "withheld"]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over ``n`` seeds (or chains) with its interval, which is infinite where they are too few."""

    mean: float
    low: float
    high: float
    n: int


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and t interval of the finite values; NaN for none."""
    data = np.asarray([v for v in values if math.isfinite(v)], np.float64)
    if not len(data):
        return Interval(math.nan, math.nan, math.nan, 0)
    mean = float(data.mean())
    if len(data) == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = float(stats.t.ppf((1 + level) / 2, len(data) - 1)) * float(data.std(ddof=1)) / math.sqrt(len(data))
    return Interval(mean, mean - half, mean + half, len(data))


def cluster_interval(
    values: Sequence[float], clusters: Sequence[str], level: float = 0.95, draws: int = DRAWS, seed: int = DRAW_SEED
) -> tuple[Interval, float]:
    """Mean of the finite values with the percentile interval of a bootstrap over clusters (chains), and its standard error.

    Texts of one chain hang together: whole clusters are drawn, so that many texts of few chains count as few. The interval is
    infinite below :data:`LEAST_CLUSTERS` clusters; ``n`` is their number. The draws are the same for the same sizes.
    """
    data = np.asarray(values, np.float64)
    kept = np.isfinite(data)
    names, owner = np.unique(np.asarray(clusters, object)[kept].astype(str), return_inverse=True)
    n = len(names)
    if not n:
        return Interval(math.nan, math.nan, math.nan, 0), math.nan
    total, size = np.bincount(owner, data[kept]), np.bincount(owner).astype(np.float64)
    mean = float(total.sum() / size.sum())
    if n < LEAST_CLUSTERS:
        return Interval(mean, -math.inf, math.inf, n), math.nan
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), draws).astype(np.float64)
    means = (drawn @ total) / (drawn @ size)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(mean, float(low), float(high), n), float(means.std())


def smallest_effect(n: int, level: float = 0.95, power: float = 0.8) -> float:
    """Smallest mean difference, in standard deviations of the paired difference, of which the whole interval lies on one side
    of 0 with probability ``power`` at ``n`` seeds; infinite below two.
    """
    if n < 2:
        return math.inf
    bound = float(stats.t.ppf((1 + level) / 2, n - 1))
    return float(
        optimize.brentq(lambda d: stats.nct.sf(bound, n - 1, d * math.sqrt(n)) - power, 1e-3, 200.0, xtol=1e-4)
    )


@dataclass(frozen=True, slots=True)
class Arm:
    """One way of training, or one thing that is looked at. ``control`` says whether it is held against the treatment;
    ``trained`` is False for an arm without training.
    """

    name: str
    meaning: str
    control: bool = True
    trained: bool = True


@dataclass(frozen=True, slots=True)
class Criterion:
    """``metric`` of ``treatment`` minus that of ``control`` (of nothing if empty), per seed, minus ``against`` and minus the
    same difference of the ``null`` pair where given.

    ``superior``: met when the whole interval lies beyond 0 in the ``direction``, and ``none`` (no difference worth having)
    when it lies within ± ``delta``, the smallest effect of interest. ``not inferior``: met when the whole interval lies above
    -``delta`` in the ``direction``; a guard is such a criterion. ``equivalent``: met when it lies within ± ``delta``.
    """

    metric: str
    treatment: str
    control: str
    direction: Literal["lower", "higher"]
    delta: float
    kind: Kind = "superior"
    against: float = 0.0
    null: tuple[str, str] | None = None

    @property
    def contrast(self) -> str:
        """What the criterion measures, in words: the metric, both arms, and the pair whose difference is taken off."""
        told = f"{self.metric} of {self.treatment}" + (f" against {self.control}" if self.control else "")
        return told + (f", less that of {self.null[0]} against {self.null[1]}" if self.null else "")

    def __post_init__(self) -> None:
        if not (math.isfinite(self.delta) and self.delta > 0):
            raise UsageError(
                f"criterion {self.metric} of {self.treatment!r} has the smallest effect {self.delta}: declare one "
                f"above 0"
            )


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence and what must be seen for it to hold."""

    name: str
    sentence: str
    criteria: tuple[Criterion, ...]

    @property
    def kind(self) -> str:
        """The kinds of its criteria, each once."""
        return " and ".join(dict.fromkeys(c.kind for c in self.criteria))


@dataclass(frozen=True, slots=True)
class Judged:
    """A criterion with its interval over the seeds and its state: ``met``, ``broken``, ``none`` (no difference worth having)
    or ``open``. ``sd`` is that of the paired difference over the seeds.
    """

    criterion: Criterion
    interval: Interval
    state: State
    sd: float

    @property
    def small(self) -> bool:
        """Met, with a difference below the smallest one of interest: its interval reaches beyond it."""
        c = self.criterion
        return self.state == "met" and c.kind == "superior" and abs(self.interval.mean) < c.delta


@dataclass(frozen=True, slots=True)
class Verdict:
    """A claim judged. ``reason`` says why it was withheld."""

    claim: Claim
    judged: tuple[Judged, ...]
    outcome: Outcome
    reason: str = ""

    @property
    def sentence(self) -> str:
        """The plain sentence of the report, fair to somebody who reads nothing else."""
        words = {
            "held": "HELD here",
            "did not hold": "DID NOT HOLD here",
            "no difference": "DID NOT HOLD here, for want of a difference worth having",
            "open": "is OPEN here",
            "withheld": "is NOT JUDGED",
        }[self.outcome]
        words += f", {SMALL}" if self.small else ""
        return f"{self.claim.sentence}: this {words} ({self.reason or '; '.join(self.decided)})."

    @property
    def small(self) -> bool:
        """Whether it held with a difference below the smallest one of interest."""
        return self.outcome == "held" and any(one.small for one in self.judged)

    @property
    def decided(self) -> list[str]:
        """The criteria that decided, each with its figures and what was wanted."""
        shown: dict[str, tuple[State, ...]] = {
            "held": ("met",),
            "did not hold": ("broken",),
            "no difference": ("none",),
            "open": ("open", "none", "broken"),
        }
        return [_what(j) for j in self.judged if j.state in shown.get(self.outcome, ())]


def _what(judged: Judged) -> str:
    c, i = judged.criterion, judged.interval
    if not i.n:
        return f"{c.contrast} could not be computed"
    value = f"{c.contrast}{', is' if c.null else ' differs by'} {i.mean:+.4f} [{i.low:+.4f}, {i.high:+.4f}]"
    if not c.control:
        mean, low, high = (v + c.against for v in (i.mean, i.low, i.high))
        value = f"{c.contrast} is {mean:+.4f} [{low:+.4f}, {high:+.4f}]"
        value += f" against {c.against:g}" if c.against else ""
    bound = f"above -{c.delta:g}" if c.direction == "higher" else f"below +{c.delta:g}"
    wanted = {
        "superior": f"{c.direction} was wanted, {c.delta:g} is the smallest effect of interest",
        "not inferior": f"{bound} was wanted",
        "equivalent": f"within ±{c.delta:g} was wanted",
    }[c.kind]
    return f"{value}, {wanted}"


def judged(
    criteria: Sequence[Criterion],
    seeds: Mapping[int, Mapping[str, Metrics]],
    level: float,
    clusters: Sequence[str] = (),
) -> tuple[Judged, ...]:
    """Every criterion with its interval; broken ones after Holm's correction over all of them.

    ``seeds`` are the paired units: seeds, judged by t; with ``clusters``, the chain of each, texts, judged by a bootstrap over
    chains.
    """
    found = []
    for criterion in criteria:
        values = np.asarray([difference(criterion, metrics) for metrics in seeds.values()], np.float64)
        sign = 1.0 if criterion.direction == "higher" else -1.0
        whole = len(values) > 1 and bool(np.isfinite(values).all())
        if clusters:
            interval, error = cluster_interval(values.tolist(), clusters, level)
            sd = error * math.sqrt(interval.n) if whole else math.nan
        else:
            interval = t_interval(values.tolist(), level)
            sd = float(values.std(ddof=1)) if whole else math.nan
        wrong = _wrong(criterion, sign * interval.mean)
        found.append((criterion, interval, sd, wrong, whole and interval.n >= 2))
    alpha = (1 - level) / 2
    p = [_p(wrong, sd, interval.n) if whole else 1.0 for _, interval, sd, wrong, whole in found]
    order = sorted(range(len(p)), key=lambda k: p[k])
    broken: set[int] = set()
    for rank, k in enumerate(order):
        if p[k] > alpha / (len(p) - rank):
            break
        broken.add(k)
    result = []
    for k, (criterion, interval, sd, _, whole) in enumerate(found):
        sign = 1.0 if criterion.direction == "higher" else -1.0
        low, high = sorted((sign * interval.low, sign * interval.high))
        state: State = "open"
        # a metric that could not be computed for a seed leaves the criterion open: dropping seeds would choose among them
        if whole:
            within = -criterion.delta < low and high < criterion.delta
            if criterion.kind == "superior":
                state = "none" if within else "met" if low > 0 else "open"
            elif criterion.kind == "not inferior":
                state = "met" if low > -criterion.delta else "open"
            else:
                state = "met" if within else "open"
            if k in broken and state == "open":
                state = "broken"
        result.append(Judged(criterion, interval, state, sd))
    return tuple(result)


def difference(criterion: Criterion, metrics: Mapping[str, Metrics]) -> float:
    """The criterion's value for one seed."""

    def of(arm: str) -> float:
        return metrics[arm].get(criterion.metric, math.nan) if arm else 0.0

    value = of(criterion.treatment) - of(criterion.control) - criterion.against
    if criterion.null:
        value -= of(criterion.null[0]) - of(criterion.null[1])
    return value


def _wrong(criterion: Criterion, mean: float) -> float:
    """How far a mean (positive = the wanted direction) lies beyond the bound on the wrong side."""
    return {
        "superior": -mean,
        "not inferior": -criterion.delta - mean,
        "equivalent": abs(mean) - criterion.delta,
    }[criterion.kind]


def _p(wrong: float, sd: float, n: int) -> float:
    """One-sided p of lying on the wrong side by chance."""
    if not math.isfinite(sd):
        return 1.0
    if sd == 0.0:
        return 0.0 if wrong > 0 else 1.0
    return float(stats.t.sf(wrong / (sd / math.sqrt(n)), n - 1))


def outcome_of(found: Sequence[Judged]) -> Outcome:
    """Of a claim whose criteria were judged."""
    states = {j.state for j in found}
    if "broken" in states:
        return "did not hold"
    if "none" in states:
        return "no difference"
    return "held" if states == {"met"} else "open"
