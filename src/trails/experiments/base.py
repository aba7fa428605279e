"""What an experiment declares before it runs, the plan that fixes it, and the rules that a plan and a verdict must keep.

The rules are checked here, once for all experiments: realised sizes and row digests in the plan, no verdict below five seeds
or before the planned number of them, guards that must be passed, a positive control that must be seen and a placebo pair
that must not, rows only after their plan.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trails.errors import UsageError
from trails.experiments.criteria import (
    LEAST_SEEDS,
    LEVELS,
    Arm,
    Claim,
    Criterion,
    Interval,
    Judged,
    Kind,
    Verdict,
    judged,
    outcome_of,
    smallest_effect,
    t_interval,
)
from trails.experiments.scale import DEVELOPMENT, SCALES, Emit, Metrics, Record, Scale, scaled
from trails.schema import stable_hash

if TYPE_CHECKING:
    from trails.experiments.bench import Bench
    from trails.experiments.corpus import Corpus
    from trails.train.data import Row

__all__ = [
    "LEAST_SEEDS", "LEVELS", "SCALES", "Arm", "Claim", "Criterion", "Emit", "Experiment", "Interval", "Judged", "Kind",
    "Metrics", "Prepared", "Record", "Scale", "Verdict", "scaled", "smallest_effect", "t_interval",
]  # fmt: skip

LEAST_HELD_OUT = 20
"""Held-out chains below which a plan is refused."""
DEVELOPMENT_SEEDS = (DEVELOPMENT, DEVELOPMENT + 1)
"""Seeds on which learning rates are chosen; never among those that are judged."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What one seed is about to use, before anything is trained.

    ``feeds`` are the rows of every trained arm in the order fed (where an arm's rows are made with the model's help: those they
    are made from). ``sets`` are the rows that are measured: ``H`` held out, ``U``, ``D``, tests, reference texts. ``extra`` is
    whatever else the run needs.
    """

    feeds: Mapping[str, Sequence[Row]]
    sets: Mapping[str, Sequence[Row]]
    extra: Any = None

    def realised(self) -> dict[str, Any]:
        """Sizes of every set and feed, and a digest of the multiset of rows that each arm is fed."""
        return {
            "sizes": {name: _size(rows) for name, rows in sorted(self.sets.items())},
            "fed": {name: _size(rows) for name, rows in sorted(self.feeds.items())},
            "rows": {name: rows_digest(rows) for name, rows in sorted(self.feeds.items())},
        }


def _size(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {
        "chains": len({row["chain"] for row in rows}),
        "rows": len(rows),
        "tokens": sum(len(row["input_ids"]) for row in rows),
        "labelled": sum(label != -100 for row in rows for label in row["labels"]),
    }


def rows_digest(rows: Sequence[Mapping[str, Any]]) -> str:
    """A name for a multiset of rows, whatever their order: their tokens and which of them are labelled."""
    one = sorted(
        hashlib.sha256(json.dumps([list(row["input_ids"]), list(row["labels"])]).encode()).hexdigest() for row in rows
    )
    return stable_hash(*one)


def code_digest() -> str:
    """SHA-256 of the source of ``experiments``, ``train`` and ``measure`` (first 16 hex digits)."""
    root = Path(__file__).parents[1]
    files = sorted(path for part in ("experiments", "train", "measure") for path in (root / part).rglob("*.py"))
    return stable_hash(*(f"{path.relative_to(root)} {path.read_text(encoding='utf-8')}" for path in files))


def package_versions() -> dict[str, str]:
    """Versions of the packages that the numbers depend on."""
    found = {}
    for name in ("torch", "transformers", "tokenizers", "numpy", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


@dataclass(frozen=True, slots=True)
class Correction:
    """What an earlier version of an experiment claimed, what of it is withdrawn and why, and what stands."""

    claimed: str
    withdrawn: str
    stands: str


@dataclass(frozen=True, slots=True)
class Experiment:
    """A declared experiment. ``metrics`` says what each number means and its unit; ``settings`` is what is fixed beforehand.

    ``prepare`` draws everything that one seed uses; ``run`` trains and measures the named arms, each at its learning rate, and
    ``derive`` adds metrics that need all arms of a seed. ``positive`` are criteria that an arm known to move the metric
    must meet, ``placebo`` those that two arms without a difference must not show. ``same_rows`` are groups of arms that must be
    fed the same multiset of rows. With several ``rates`` each arm's learning rate is chosen on the development seeds by the
    lowest ``develop``: a metric, or a function of the development rows that gives a number for each (arm, rate). One rate is
    that of all arms. ``looks`` are the numbers of seeds at which verdicts are given: one, or two for
    one extension. ``unit`` says what one seed stands for.
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
    prepare: Callable[[Bench, Corpus, Scale, int], Prepared]
    run: Callable[[Bench, Prepared, Scale, int, Sequence[str], Mapping[str, float], Emit], None]
    positive: tuple[Criterion, ...] = ()
    placebo: tuple[Criterion, ...] = ()
    same_rows: tuple[tuple[str, ...], ...] = ()
    rates: tuple[float, ...] = ()
    develop: str | Callable[[Sequence[Record]], Mapping[tuple[str, float], float]] = ""
    developed: str = ""
    """What a function of ``develop`` gives, in words."""
    rate_of: Mapping[str, str] = field(default_factory=dict)
    """Arms that take the learning rate of another arm: a placebo, a positive control."""
    looks: tuple[int, ...] = (10,)
    unit: str = "seed"
    texts: int = 0
    """Judged over texts instead of seeds, by a bootstrap over their chains, with this number of texts at least: the records
    list the metrics of each as ``units`` (chain → metric → number)."""
    held_out: tuple[str, ...] = ("H",)
    """Sets of ``prepare`` that need :data:`LEAST_HELD_OUT` chains."""
    derive: Callable[[Mapping[str, Record]], Mapping[str, Metrics]] | None = None
    curve: Mapping[str, str] = field(default_factory=dict)
    """Metrics of the records' ``curve`` that the report shows by arm: name → meaning."""
    correction: Correction | None = None
    afterwards: tuple[str, ...] = ()
    """What a reader must know beside the verdicts, written after them. No part of the plan; it changes no verdict."""

    @property
    def level(self) -> float:
        """Of every interval, by the number of looks."""
        return LEVELS[len(self.looks)]

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the arms that are trained."""
        return tuple(arm.name for arm in self.arms if arm.trained)

    def plan(
        self,
        circumstances: Mapping[str, Any],
        realised: Mapping[str, Mapping[str, Any]],
        rates: Mapping[str, float],
    ) -> dict[str, Any]:
        """What is registered before the first run: everything declared, the model, the data by hash, the scale, the code, the
        packages, and what ``prepare`` found for every seed. No date.
        """
        return {
            "experiment": self.name,
            "number": self.number,
            "hypothesis": self.hypothesis,
            "arms": [asdict(arm) for arm in self.arms],
            "claims": [asdict(claim) for claim in self.claims],
            "positive control": [asdict(one) for one in self.positive],
            "placebo": [asdict(one) for one in self.placebo],
            "metrics": dict(self.metrics),
            "settings": dict(self.settings),
            "looks": list(self.looks),
            "level": self.level,
            "unit": self.unit,
            "learning rates": dict(rates),
            "rule": "held: every criterion met; did not hold: a criterion on the wrong side of its bound after Holm's "
            "correction; no difference: a difference to be shown lies within its smallest effect of interest; else "
            "open. "
            "Withheld below the planned number of seeds, without the positive control, or with a placebo difference. "
            + (
                f"Paired by text, {self.texts} texts or more, percentile intervals of a bootstrap over chains."
                if self.texts
                else "Paired by seed, t intervals."
            ),
            "code": code_digest(),
            "packages": package_versions(),
            "seeds": {str(seed): dict(found) for seed, found in realised.items()},
            **circumstances,
        }


def plan_hash(plan: Mapping[str, Any]) -> str:
    """SHA-256 of the plan in canonical JSON (first 16 hex digits)."""
    return stable_hash(json.dumps(plan, ensure_ascii=False, sort_keys=True, separators=(",", ":")))


def check_plan(experiment: Experiment, plan: Mapping[str, Any]) -> None:
    """Refuse a plan that no verdict could follow from. A plan of another scale than ``full`` gives none and is not checked."""
    name = experiment.name
    if plan["scale"]["name"] != "full":
        return
    if len(experiment.looks) not in LEVELS or experiment.looks[0] < LEAST_SEEDS:
        raise UsageError(
            f"the plan of {name} looks at {experiment.looks} seeds: one or two looks, of {LEAST_SEEDS} or more."
        )
    seeds = plan.get("seeds", {})
    missing = [seed for seed in range(experiment.looks[-1]) if not seeds.get(str(seed), {}).get("sizes")]
    if missing:
        raise UsageError(
            f"the plan of {name} has no realised sizes for seed {missing[0]}: what is fed and measured is fixed before "
            f"the "
            "first run"
        )
    rates = plan.get("learning rates", {})
    if experiment.rates and set(rates) != set(experiment.trained):
        lacking = sorted(set(experiment.trained) - set(rates))
        raise UsageError(
            f"the plan of {name} has no learning rate for {', '.join(lacking) or 'its arms'}. Run: trails experiment "
            f"{name} "
            "--develop (with the same --data, --out and --model)"
        )
    if experiment.texts:
        counted = sum(
            found["sizes"].get(held, {}).get("chains", 0) for found in seeds.values() for held in experiment.held_out
        )
        if counted < experiment.texts:
            raise UsageError(
                f"the plan of {name} holds out {counted} chains in all its seeds; it is judged over {experiment.texts} texts "
                "or more. Give more chains: --data PATH"
            )
    for seed, found in seeds.items():
        for held in () if experiment.texts else experiment.held_out:
            chains = found["sizes"].get(held, {}).get("chains", 0)
            if chains < LEAST_HELD_OUT:
                raise UsageError(
                    f"the plan of {name} holds out {chains} chains as {held} for seed {seed}; {LEAST_HELD_OUT} are the "
                    f"least. "
                    "Give more chains: --data PATH"
                )
        for group in experiment.same_rows:
            digests = {arm: found["rows"].get(arm, "") for arm in group}
            if len(set(digests.values())) != 1 or "" in digests.values():
                told = ", ".join(f"{arm} {digest or 'none'}" for arm, digest in digests.items())
                raise UsageError(f"the arms of {name} are not fed the same rows for seed {seed}: {told}")


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


def looked(experiment: Experiment, records: Sequence[Record]) -> dict[int, dict[str, Metrics]]:
    """The complete seeds of the latest planned look that is reached; all complete ones before the first."""
    seeds = by_seed(experiment, records)
    for look in reversed(experiment.looks):
        if set(range(look)) <= set(seeds):
            return {seed: seeds[seed] for seed in range(look)}
    return seeds


def paired(
    experiment: Experiment, records: Sequence[Record], seeds: Mapping[int, Mapping[str, Metrics]]
) -> tuple[dict[int, dict[str, Metrics]], list[str]]:
    """What is judged, and the chain of each: texts of the given seeds where the experiment says so, else the seeds themselves,
    without chains.
    """
    if not experiment.texts:
        return {seed: dict(arms) for seed, arms in seeds.items()}, []
    found: dict[int, dict[str, Metrics]] = {}
    chains: list[str] = []
    for seed in seeds:
        units = {str(r["arm"]): r.get("units", {}) for r in records if int(r["seed"]) == seed}
        for chain in sorted(set.intersection(*(set(one) for one in units.values()))):
            metrics = {arm: {k: _number(v) for k, v in one[chain].items()} for arm, one in units.items()}
            found[len(found)] = metrics
            chains.append(chain)
    return found, chains


def judge(experiment: Experiment, records: Sequence[Record], scale: str = "full") -> tuple[Verdict, ...]:
    """Every claim of the experiment, judged at the latest planned look. Withheld, with the reason, where a rule is not kept."""
    seeds = looked(experiment, records)
    units, chains = paired(experiment, records, seeds)
    reason = withheld(experiment, seeds, scale, units, chains)
    verdicts = []
    for claim in experiment.claims:
        found = judged(claim.criteria, units, experiment.level, chains)
        verdicts.append(Verdict(claim, found, "withheld" if reason else outcome_of(found), reason))
    return tuple(verdicts)


def withheld(
    experiment: Experiment,
    seeds: Mapping[int, Mapping[str, Metrics]],
    scale: str = "full",
    units: Mapping[int, Mapping[str, Metrics]] | None = None,
    chains: Sequence[str] = (),
) -> str:
    """Why no verdict may be given; empty if it may. ``units`` and ``chains`` are those of :func:`paired`."""
    units = seeds if units is None else units
    if scale != "full":
        return f"a {scale} run tries the machinery and proves nothing"
    if len(seeds) < LEAST_SEEDS:
        return f"{len(seeds)} complete seeds, {LEAST_SEEDS} are the least"
    if len(seeds) not in experiment.looks:
        return f"{len(seeds)} complete seeds of the {experiment.looks[0]} planned"
    if len(units) < experiment.texts:
        return f"{len(units)} texts, {experiment.texts} are the least"
    for criterion, word in (
        *((one, "positive control") for one in experiment.positive),
        *((one, "placebo") for one in experiment.placebo),
    ):
        (one,) = judged((criterion,), units, experiment.level, chains)
        i = one.interval
        told = criterion.contrast
        mean, low, high = (v + (0.0 if criterion.control else criterion.against) for v in (i.mean, i.low, i.high))
        told += f" is {mean:+.4f} [{low:+.4f}, {high:+.4f}]"
        told += f" against {criterion.against:g}" if criterion.against and not criterion.control else ""
        if word == "positive control" and one.state != "met":
            return f"the positive control was not seen: {told}"
        apart = i.low > 0 or i.high < 0
        if word == "placebo" and apart and one.state != "none":
            return f"the placebo pair differs: {told}"
    return ""


SHARE = 0.9
"""Of the smallest of the arms' largest gains, at which arms are compared at equal gain."""


def at_equal_gain(
    curves: Mapping[str, Sequence[Mapping[str, float]]], gain: str, value: str, share: float = SHARE
) -> dict[str, float]:
    """``value`` of each arm where its ``gain`` first reaches ``share`` of the smallest of the arms' largest gains.

    Curves start at (0, value of the untrained model) if their first point is step 0. Linear between points. NaN for all when
    an arm never gains.
    """
    target = share * min(max(point[gain] for point in curve) for curve in curves.values())
    return {arm: value_at_gain(curve, gain, value, target) for arm, curve in curves.items()}


def value_at_gain(curve: Sequence[Mapping[str, float]], gain: str, value: str, target: float) -> float:
    """``value`` where ``gain`` first reaches ``target``, linear between points; NaN where it never does, or target <= 0."""
    before: Mapping[str, float] | None = None
    for point in curve if target > 0 else ():
        if point[gain] >= target:
            if before is None or point[gain] <= before[gain]:
                return point[value]
            share = (target - before[gain]) / (point[gain] - before[gain])
            return before[value] + share * (point[value] - before[value])
        before = point
    return math.nan
