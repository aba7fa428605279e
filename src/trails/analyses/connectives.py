"""Do a model's scores of connectives tell the role of a step, beyond its place, its neighbours and its words?

The truth is a connective that somebody wrote and that was deleted. The baseline is the packaged classifier of implicit roles,
which needs no model; what the model adds must be more than what the scores of other steps add, of steps that the baseline takes
for the same role. Weights are fitted on one half of the chains and used on the other, also those of the baseline, which so
few steps can make worse than the classifier as it ships: what the model adds must be more than that as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.statistics import bootstrap, how_drawn, how_resampled, spread
from trails.platform.arrays import Doubles, Longs
from trails.platform.text import counted

LEAST_STEPS = 60
LEAST_CHAINS = 10
SHUFFLES = 20
RIDGE = 1.0


@dataclass(frozen=True, slots=True)
class Connected:
    """A step whose connective was deleted: its chain, its role as a number, the classifier's probabilities (K,), and the
    model's log-likelihoods of connective and words behind each of K connectives (K, 2)."""

    chain: str
    role: int
    known: Doubles
    scores: Doubles


@dataclass(frozen=True, slots=True)
class Connectives(Finding):
    """What :func:`judge` found for one language."""

    language: str
    roles: tuple[str, ...]
    n_chains: int
    counts: tuple[int, ...]
    scores: tuple[Score, ...]
    withheld: tuple[Withheld, ...]
    over_shipped: tuple[float, float] | None = None
    """95 % of the macro F1 with the model's scores minus that of the classifier as it ships."""

    def report(self) -> Report:
        """The verdict first."""
        if self.scores:
            gain = self.scores[0]
            low, high = gain.interval or (float("nan"),) * 2
            # more than nothing, more than scores of other steps add, and more than the classifier does as it ships
            shown = gain.beyond() and low > 0
            least, most = self.over_shipped or (float("nan"),) * 2
            if not shown:
                said = "not shown to be more than chance"
            elif least > 0:
                said = "more than scores of other steps do"
            else:
                said = (
                    "more than scores of other steps do, but not shown to be better than the classifier as it ships"
                    f" ({least:+.3f} to {most:+.3f})"
                )
            verdict = (
                f"the model's scores add {gain.value:+.3f} macro F1 ({low:+.3f} to {high:+.3f}) to place, neighbours and"
                f" words: {said}"
            )
        else:
            verdict = f"too little to judge: {self.withheld[0].reason}"
        table = pa.table({"role": list(self.roles), "steps": pa.array(self.counts, pa.int64())})
        return Report(
            "connectives",
            verdict,
            facts={"language": self.language, "n_chains": self.n_chains, "n_steps": sum(self.counts)},
            tables=(ReportTable("steps", table, "steps whose connective was deleted"),),
            scores=self.scores,
            withheld=self.withheld,
            notes=("Somebody wrote these connectives. A step whose author wrote none is another thing.",),
        )


def judge(steps: Sequence[Connected], language: str, roles: Sequence[str], *, seed: int = 0) -> Connectives:
    """Hold the model's scores against the classifier alone, on steps of which every chain is in one half only.

    Withheld with fewer than 60 steps or 10 chains, or where only one role occurs. Chains may come in any order.
    """
    steps = sorted(steps, key=lambda step: step.chain)
    k = len(roles)
    counts = tuple(np.bincount([step.role for step in steps], minlength=k).tolist())
    names = sorted({step.chain for step in steps})
    found = Connectives(language, tuple(roles), len(names), counts, (), ())
    if len(steps) < LEAST_STEPS or len(names) < LEAST_CHAINS or sum(n > 0 for n in counts) < 2:
        reason = (
            f"{counted(len(steps), 'step')} with a connective in {counted(len(names), 'chain')}; "
            f"{LEAST_STEPS} in {LEAST_CHAINS} are needed"
        )
        return Connectives(language, tuple(roles), len(names), counts, (), (Withheld("gain of the model", reason),))
    y = np.array([step.role for step in steps])
    group = np.searchsorted(names, [step.chain for step in steps])
    half = np.random.default_rng(seed).permutation(len(names))[group] % 2
    known = np.log(np.array([step.known for step in steps]) + 1e-9)
    said = np.array([(step.scores - step.scores.mean(axis=0)).ravel() for step in steps])
    likely = known.argmax(axis=1)

    def predicted(features: Doubles) -> Longs:
        result = np.zeros(len(y), np.int64)
        for part in (0, 1):
            learn, use = half != part, half == part
            mean, scale = features[learn].mean(axis=0), features[learn].std(axis=0) + 1e-9
            weights = _fit((features[learn] - mean) / scale, y[learn], k)
            result[use] = (_with_one((features[use] - mean) / scale) @ weights).argmax(axis=1)
        return result

    def table(found: Longs) -> Doubles:
        made = np.zeros((len(names), k, 3))
        np.add.at(made[:, :, 2], (group, y), 1)
        np.add.at(made[:, :, 1], (group, found), 1)
        np.add.at(made[:, :, 0], (group[found == y], y[found == y]), 1)
        return made

    without, whole = table(predicted(known)), table(predicted(np.hstack([known, said])))
    alone = table(predicted(said))
    common = table(np.full(len(y), int(np.argmax(counts))))
    shipped = table(likely)
    shuffled = []
    for draw in range(SHUFFLES):
        rng = np.random.default_rng([seed, draw])
        moved = said.copy()
        for role in np.unique(likely):
            mine = np.flatnonzero(likely == role)
            moved[mine] = said[rng.permutation(mine)]
        shuffled.append(_macro(table(predicted(np.hstack([known, moved])))) - _macro(without))
    both = np.stack([whole, without], axis=1)
    over = bootstrap(np.stack([whole, shipped], axis=1), lambda rows: _macro(rows[:, 0]) - _macro(rows[:, 1]))
    gain = Score(
        "gain of the model's scores",
        _macro(whole) - _macro(without),
        "macro F1",
        (
            Control(
                "scores of other steps of the same likely role",
                float(np.mean(shuffled)),
                spread(shuffled),
                how_drawn("permutations within a likely role, draw i from the generator of [seed, i]", SHUFFLES, seed),
            ),
        ),
        bootstrap(both, lambda rows: _macro(rows[:, 0]) - _macro(rows[:, 1])),
        how=how_resampled(),
    )
    without_control = Control(
        "place, neighbours and words alone", _macro(without), bootstrap(without, _macro), how_resampled()
    )
    as_shipped = Control("the classifier as it ships", _macro(shipped), bootstrap(shipped, _macro), how_resampled())
    commonest = Control(
        f"every step {roles[int(np.argmax(counts))]}", _macro(common), bootstrap(common, _macro), how_resampled()
    )
    return Connectives(
        found.language,
        found.roles,
        found.n_chains,
        counts,
        (
            gain,
            Score(
                "with the model's scores",
                _macro(whole),
                "macro F1",
                (without_control, as_shipped, commonest),
                bootstrap(whole, _macro),
                how=how_resampled(),
            ),
            Score(
                "the model's scores alone",
                _macro(alone),
                "macro F1",
                (commonest, without_control, as_shipped),
                bootstrap(alone, _macro),
                how=how_resampled(),
            ),
        ),
        (),
        over,
    )


def _with_one(rows: Doubles) -> Doubles:
    return np.column_stack([rows, np.ones(len(rows))])


def _fit(rows: Doubles, y: Longs, k: int) -> Doubles:
    """Multinomial logistic regression with a ridge on all but the constant; weights (features + 1, k)."""
    from scipy.optimize import minimize

    x = _with_one(rows)
    onehot = np.eye(k)[y]

    def loss(flat: Doubles) -> tuple[float, Doubles]:
        w = flat.reshape(x.shape[1], k)
        scores = x @ w
        scores -= scores.max(axis=1, keepdims=True)
        logs = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        gradient = x.T @ (np.exp(logs) - onehot)
        gradient[:-1] += RIDGE * w[:-1]
        return float(-(onehot * logs).sum() + RIDGE / 2 * (w[:-1] ** 2).sum()), gradient.ravel()

    found = minimize(loss, np.zeros(x.shape[1] * k), jac=True, method="L-BFGS-B", options={"maxiter": 200})
    return np.asarray(found.x.reshape(x.shape[1], k))


def _macro(table: Doubles) -> float:
    """Mean F1 of the roles that occur; counts (chains, roles, 3) of right, found and labelled."""
    right, found, labelled = table.sum(axis=0).T
    there = labelled > 0
    return float(np.mean(2 * right[there] / (found + labelled)[there]))
