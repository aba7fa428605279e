"""Learning rates of an experiment: how they were chosen, which arms are compared at different ones, and what others would give.

All of it comes from the declaration, the plan and the development rows; none of it changes a verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trails.experiments.base import DEVELOPMENT_SEEDS, Experiment, Record
from trails.experiments.criteria import Claim, Criterion

DRIFTS = ("kl_", "change_d")
"""Beginnings of metrics of drift: they are least at the lowest rate, whatever the arm, so none is chosen by them."""


def rate_scores(experiment: Experiment, rows: Sequence[Record]) -> Mapping[tuple[str, float], float]:
    """A number for each (arm, rate) with rows of all development seeds; the lowest of an arm chooses its rate."""
    cells: dict[tuple[str, float], list[Record]] = {}
    for row in rows:
        cells.setdefault((row["arm"], row["rate"]), []).append(row)
    whole = {cell: found for cell, found in cells.items() if len(found) == len(DEVELOPMENT_SEEDS)}
    if callable(experiment.develop):
        return experiment.develop([row for found in whole.values() for row in found])
    metric = experiment.develop
    values = {cell: [row["metrics"].get(metric) for row in found] for cell, found in whole.items()}
    return {cell: sum(map(float, found)) / len(found) for cell, found in values.items() if None not in found}


def how_chosen(experiment: Experiment) -> str:
    """By what the learning rates were chosen, as a sentence without a full stop; empty where nothing is trained."""
    if not experiment.trained or not experiment.rates:
        return ""
    if len(experiment.rates) == 1:
        return f"none was chosen; all arms have {experiment.rates[0]:g}, fixed beforehand"
    tried = ", ".join(f"{rate:g}" for rate in experiment.rates)
    by = experiment.developed or f"`{experiment.develop}` ({experiment.metrics[str(experiment.develop)]})"
    told = f"of {tried} the one with the lowest {by}, mean over the two development seeds"
    others: dict[str, list[str]] = {}
    for arm, of in experiment.rate_of.items():
        others.setdefault(of, []).append(arm)
    return told + "".join(f"; that of *{of}* for {', '.join(arms)}" for of, arms in others.items())


def rates_apart(
    experiment: Experiment, plan: Mapping[str, object], tried: Sequence[Record], claims: Sequence[Claim] = ()
) -> str:
    """A sentence on the arms that are compared with each other at different learning rates; empty where none are.

    ``claims`` are those looked at, all of them if none is given.
    """
    rates = _rates(plan)
    pairs = {
        frozenset((one.treatment, one.control)): (one.treatment, one.control)
        for claim in claims or experiment.claims
        for one in claim.criteria
        if rates.get(one.treatment, 0.0) != rates.get(one.control, rates.get(one.treatment, 0.0))
    }
    if not pairs:
        return ""
    scores = rate_scores(experiment, tried) if tried and experiment.develop else {}

    def arm(name: str) -> str:
        told = f"{name} {rates[name]:g}"
        of = experiment.rate_of.get(name)
        own = {rate: scores[name, rate] for rate in experiment.rates if (name, rate) in scores}
        best = min(own, key=lambda rate: own[rate]) if own else rates[name]
        if of is None:
            return told
        return f"{told} (that of {of}" + (f"; its own best is {best:g})" if best != rates[name] else ")")

    told = "; ".join(f"{arm(a)} against {arm(b)}" for a, b in pairs.values())
    return (
        f"Compared at different learning rates (each arm's own best on the development seeds, where no other is "
        f"named): {told}. Such a difference is one of arm and rate together."
    )


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A criterion on the development seeds: means of both arms at the rates of the plan, and at each arm's best by its metric.

    The rate of an arm without training is 0.
    """

    claim: Claim
    criterion: Criterion
    used: tuple[tuple[float, float], tuple[float, float]]
    """(rate, mean) of the treatment and of the control."""
    best: tuple[tuple[float, float], tuple[float, float]]

    @property
    def turns(self) -> bool:
        """Whether the difference at the best rates has the other sign."""
        return (self.used[0][1] - self.used[1][1]) * (self.best[0][1] - self.best[1][1]) < 0

    @property
    def shrinks(self) -> bool:
        """Whether less than half of a difference in the wanted direction is left at the best rates."""
        sign = 1.0 if self.criterion.direction == "higher" else -1.0
        (a, b), (c, d) = ((sign * one[1] for one in pair) for pair in (self.used, self.best))
        return a > b and c - d < 0.5 * (a - b)


def elsewhere(experiment: Experiment, plan: Mapping[str, object], tried: Sequence[Record]) -> list[Elsewhere]:
    """Superior criteria of which an arm has another best rate by the judged metric than by the one that chose it.

    Metrics of drift are left out, as are experiments in which one number chooses the rate of several arms.
    """
    rates = _rates(plan)
    found = []
    for claim in experiment.claims if isinstance(experiment.develop, str) else ():
        for criterion in claim.criteria:
            if criterion.kind != "superior" or criterion.null or criterion.metric.startswith(DRIFTS):
                continue
            arms = [_means(tried, arm, criterion.metric, rates) for arm in (criterion.treatment, criterion.control)]
            if not all(arms):
                continue
            used = [rates.get(arm, 0.0) for arm in (criterion.treatment, criterion.control)]
            if not all(rate in one for rate, one in zip(used, arms, strict=True)):
                continue
            best = [_best(one, rate, criterion.direction) for rate, one in zip(used, arms, strict=True)]
            if best != used:
                pairs = [((at[0], arms[0][at[0]]), (at[1], arms[1][at[1]])) for at in (used, best)]
                found.append(Elsewhere(claim, criterion, pairs[0], pairs[1]))
    return found


def _best(means: Mapping[float, float], used: float, direction: str) -> float:
    """The rate with the best mean; the one that was used where it is as good."""
    best = (min if direction == "lower" else max)(means.values())
    return used if means[used] == best else next(rate for rate, mean in means.items() if mean == best)


def _means(tried: Sequence[Record], arm: str, metric: str, rates: Mapping[str, float]) -> dict[float, float]:
    """Mean of a metric by rate over the development seeds, of rates with all of them; of rate 0 for an arm without one."""
    values: dict[float, dict[int, float]] = {}
    for row in tried:
        if row["arm"] == arm and row["metrics"].get(metric) is not None:
            rate = float(row["rate"]) if arm in rates else 0.0
            values.setdefault(rate, {})[int(row["seed"])] = float(row["metrics"][metric])
    return {rate: sum(of.values()) / len(of) for rate, of in values.items() if set(of) >= set(DEVELOPMENT_SEEDS)}


def of_controls(experiment: Experiment, plan: Mapping[str, object]) -> str:
    """A sentence where a placebo pair was trained at other rates than all arms that are judged; empty where none was."""
    rates = _rates(plan)
    judged = {
        rates[arm]
        for claim in experiment.claims
        for one in claim.criteria
        for arm in (one.treatment, one.control)
        if arm in rates
    }
    pairs = dict.fromkeys((one.treatment, one.control) for one in experiment.placebo if one.control in rates)
    apart = [pair for pair in pairs if judged and not {rates[arm] for arm in pair if arm in rates} & judged]
    if not apart:
        return ""
    told = "; ".join(f"{a} and {b} at {rates[a]:g}" for a, b in apart)
    return (
        f"the placebo pair was trained at another rate than the arms that are judged ({told}; they at "
        f"{', '.join(f'{rate:g}' for rate in sorted(judged))}): it shows the noise of another training"
    )


def _rates(plan: Mapping[str, object]) -> dict[str, float]:
    found = plan.get("learning rates", {})
    return dict(found) if isinstance(found, Mapping) else {}
