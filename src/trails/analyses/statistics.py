"""Scores that carry their control, and the statistics behind them: AUC, intervals, whitening, neighbours, change points.

Every score that an analysis reports is a :class:`Score`; it cannot be built without a control. Where the corpus is too small
for a control, the analysis reports a :class:`Withheld` with the reason and no number. Seeds are fixed: the same input
gives the same intervals. The order of the chains is no part of the input: what is drawn for a chain comes from a
:func:`generator` of its own, and what is drawn among chains is drawn from them in the order of their ids.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from trails.platform.arrays import Doubles, Longs
from trails.platform.text import counted, percent
from trails.schema import stable_hash

Interval = tuple[float, float]

LEVEL = 0.95
"""Coverage of every interval."""


def generator(seed: int, *parts: str) -> np.random.Generator:
    """A random generator of a seed and of what it draws for, such as a purpose and the id of a chain. What it draws does not
    depend on what was drawn before, so that chains may come in any order."""
    return np.random.default_rng(int(stable_hash(str(seed), *parts), 16) % 2**63)


def of_each(seed: int, unit: str = "chain") -> str:
    """The seed of a :func:`generator` of its own for every chain, in words."""
    return f"{seed} and the id of the {unit}"


def finite(values: npt.ArrayLike) -> Doubles:
    """The finite values as float64."""
    array = np.asarray(values, np.float64).ravel()
    return array[np.isfinite(array)]


def how_drawn(what: str, draws: int, seed: int | str, *, apart: bool = False) -> str:
    """How a control was drawn, in words: its value is the mean of the draws, its interval their :func:`spread`. ``apart``: draw
    number i has the seed ``seed + i``; otherwise all come from one generator."""
    seeds = f"seeds {seed} to {int(seed) + draws - 1}" if apart and draws > 1 else f"seed {seed}"
    return f"mean and central {percent(LEVEL)} of {draws:,} {what}, {seeds}"


def how_resampled(units: str = "chains", *, draws: int = 1000, seed: int = 0) -> str:
    """How an interval was made by :func:`bootstrap`, in words."""
    return f"{percent(LEVEL)}: percentiles of {counted(draws, 'bootstrap resample')} of {units}, seed {seed}"


def spread(values: npt.ArrayLike) -> Interval | None:
    """Central 95 % of the values; None for fewer than two."""
    array = finite(values)
    if len(array) < 2:
        return None
    low, high = np.quantile(array, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bootstrap(
    per_unit: npt.ArrayLike, statistic: Callable[[Doubles], float] | None = None, *, draws: int = 1000, seed: int = 0
) -> Interval | None:
    """Percentile interval of a statistic (the mean by default) of per-chain values, resampling chains.

    ``per_unit`` is (U,) or (U, k); NaN rows are left out. None for fewer than five chains: an interval from less is a fiction.
    """
    array = np.asarray(per_unit, np.float64)
    array = array[np.isfinite(array.reshape(len(array), -1)).all(axis=1)] if len(array) else array
    if len(array) < 5:
        return None
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(array), (draws, len(array)))
    values = array[picks].mean(axis=1) if statistic is None else np.array([statistic(array[pick]) for pick in picks])
    return spread(values)


def ranks(values: npt.ArrayLike) -> Doubles:
    """Ranks from 1, ties share their mean rank. The values are finite."""
    from scipy.stats import rankdata  # costs half a second to import

    ranked: Doubles = rankdata(np.asarray(values, np.float64))
    return ranked


def auc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Probability that a positive exceeds a negative, ties counted half (area under the ROC curve). NaN if one is empty."""
    p, q = finite(positive), finite(negative)
    if not len(p) or not len(q):
        return math.nan
    together = ranks(np.concatenate([p, q]))
    return float((together[: len(p)].sum() - len(p) * (len(p) + 1) / 2) / (len(p) * len(q)))


def within_group_auc(score: Doubles, positive: npt.NDArray[np.bool_], group: Longs) -> tuple[Longs, Doubles]:
    """AUC inside each group, for the groups that hold both kinds: (group labels, AUC each).

    Undefined scores (NaN) count as ties with everything, so that a score which is often undefined pays for it.
    """
    labels: list[int] = []
    values: list[float] = []
    order = np.argsort(group, kind="stable")
    names, begins = np.unique(group[order], return_index=True)
    bounds = np.append(begins, len(order))
    for name, a, b in zip(names.tolist(), bounds[:-1], bounds[1:], strict=True):
        rows = order[a:b]
        wins, losses = score[rows][positive[rows]], score[rows][~positive[rows]]
        if not len(wins) or not len(losses):
            continue
        with np.errstate(invalid="ignore"):
            difference = wins[:, None] - losses[None, :]
        better = np.where(np.isnan(difference), 0.5, (difference > 0) + 0.5 * (difference == 0))
        labels.append(name)
        values.append(float(better.mean()))
    return np.array(labels, np.int64), np.array(values)


def within_group_ranks(score: Doubles, group: Longs) -> Doubles:
    """Rank of each value inside its group, scaled to [0, 1]; 0.5 for a group of one and for undefined values."""
    result = np.full(len(score), 0.5)
    order = np.argsort(group, kind="stable")
    _, begins = np.unique(group[order], return_index=True)
    bounds = np.append(begins, len(order))
    for a, b in itertools.pairwise(bounds.tolist()):
        rows = order[a:b]
        rows = rows[np.isfinite(score[rows])]
        if len(rows) > 1:
            result[rows] = (ranks(score[rows]) - 1) / (len(rows) - 1)
    return result


def spearman(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Rank correlation of the pairs that are both finite; NaN for fewer than three or for a constant side."""
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    good = np.isfinite(x) & np.isfinite(y)
    x, y = ranks(x[good]), ranks(y[good])
    if len(x) < 3 or x.std() == 0 or y.std() == 0:
        return math.nan
    return float(np.corrcoef(x, y)[0, 1])


def fold_of(groups: Longs, folds: int, seed: int = 0) -> Longs:
    """Fold of each row; rows of one group share a fold and folds hold about equally many groups."""
    names, inverse = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return (order % folds)[inverse].astype(np.int64)


def fit_logistic(features: Doubles, target: npt.NDArray[np.bool_], ridge: float = 1.0) -> Doubles:
    """Weights (k+1,) of a ridge-penalised logistic regression by Newton steps, the constant last and not penalised."""
    x = np.column_stack([features, np.ones(len(features))])
    y = target.astype(np.float64)
    penalty = np.full(x.shape[1], ridge)
    penalty[-1] = 1e-6
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = x.T @ (p - y) + penalty * weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def cross_validated(
    features: Doubles,
    target: npt.NDArray[np.bool_],
    groups: Longs,
    *,
    folds: int = 5,
    seed: int = 0,
    ridge: float = 1.0,
) -> Doubles:
    """Out-of-fold logistic scores (linear predictor); a chain's rows are never scored by a fit that saw the chain."""
    fold = fold_of(groups, folds, seed)
    result = np.full(len(features), np.nan)
    for number in range(folds):
        test = fold == number
        if not test.any() or not target[~test].any() or target[~test].all():
            continue
        mean, scale = features[~test].mean(axis=0), features[~test].std(axis=0)
        scale[scale == 0] = 1.0
        weights = fit_logistic((features[~test] - mean) / scale, target[~test], ridge)
        result[test] = (features[test] - mean) / scale @ weights[:-1] + weights[-1]
    return result


def step_change(curves: Doubles, *, margin: int = 1) -> tuple[int, float]:
    """Best single change of level in a curve: (index of the first value of the second segment, statistic).

    ``curves`` is (n, K): n replicates over K places; the statistic is computed on their mean. Each candidate's gain is the
    reduction of the squared error of the two-segment fit, relative to what is left: (before - after) / after.
    ``margin`` values at least stay on each side. Raises ValueError for fewer than ``2 * margin + 1`` places.
    """
    mean = curves.mean(axis=0)
    size = len(mean)
    if size < 2 * margin + 1:
        raise ValueError(f"{counted(size, 'value is', 'values are')} too few for a change point")
    total = float(((mean - mean.mean()) ** 2).sum())
    at = np.arange(margin, size - margin + 1)
    cumulative, squares = np.cumsum(mean), np.cumsum(mean**2)
    left = squares[at - 1] - cumulative[at - 1] ** 2 / at
    tail = cumulative[-1] - cumulative[at - 1]
    right = squares[-1] - squares[at - 1] - tail**2 / (size - at)
    error = np.maximum(left, 0) + np.maximum(right, 0)
    best = int(error.argmin())
    remaining = float(error[best]) + 1e-12 * (total + 1e-300)
    return int(at[best]), (total - float(error[best])) / remaining if total > 0 else 0.0


def centred(values: Doubles, group: Longs) -> Doubles:
    """Values minus their group's mean, scaled to unit variance over all; undefined values become 0 (the mean)."""
    good = np.isfinite(values)
    top = int(group.max(initial=0)) + 1
    total = np.bincount(group[good], weights=values[good], minlength=top)
    count = np.bincount(group[good], minlength=top)
    mean = total / np.maximum(count, 1)
    result = np.where(good, values - mean[group], 0.0)
    scale = result[good].std() if good.any() else 0.0
    return result / scale if scale > 0 else result * 0.0
