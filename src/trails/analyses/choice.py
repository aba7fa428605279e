"""Conditional choice: which member of a group is the one? Fitted by ridge, cross-validated by group."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trails.analyses.statistics import fold_of, within_group_auc
from trails.platform.arrays import Doubles, Longs

FOLDS = 5
"""Folds of every cross-validation here."""


def fit_choice(features: Doubles, chosen: npt.NDArray[np.bool_], group: Longs, ridge: float = 1.0) -> Doubles:
    """Weights (k,) of a ridge-penalised conditional logit: in each group one row is chosen with probability softmax(x · w).

    McFadden's choice model. What is constant within a group cannot matter, so scores are compared within a chain only.
    Groups without exactly one chosen row are left out.
    """
    picks = np.bincount(group, weights=chosen)
    usable = picks[group] == 1
    order = np.flatnonzero(usable)[np.argsort(group[usable], kind="stable")]
    x, y = features[order], chosen[order].astype(np.float64)
    weights = np.zeros(x.shape[1])
    if not len(order):
        return weights
    label = group[order]
    begins = np.flatnonzero(np.append(True, label[1:] != label[:-1]))
    sizes = np.diff(np.append(begins, len(order)))
    for _ in range(50):
        utility = x @ weights
        utility = utility - np.repeat(np.maximum.reduceat(utility, begins), sizes)
        p = np.exp(utility)
        p /= np.repeat(np.add.reduceat(p, begins), sizes)
        centred = x - np.repeat(np.add.reduceat(x * p[:, None], begins, axis=0), sizes, axis=0)
        gradient = x.T @ (p - y) + ridge * weights
        hessian = (centred * p[:, None]).T @ centred + ridge * np.eye(x.shape[1])
        step = np.linalg.solve(hessian, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-8:
            break
    return weights


RIDGES = (1.0, 10.0, 100.0)
"""Penalties that :func:`choose_ridge` tries."""


def choose_ridge(
    features: Doubles, chosen: npt.NDArray[np.bool_], group: Longs, *, folds: int = FOLDS, seed: int = 0
) -> float:
    """The penalty of :data:`RIDGES` with the best held-out AUC inside these groups; the largest of equals."""
    fold = fold_of(group, folds, seed + 1)
    best, value = RIDGES[-1], -1.0
    for ridge in RIDGES[::-1]:
        result = np.full(len(features), np.nan)
        for number in range(folds):
            test = fold == number
            if test.any() and chosen[~test].any():
                result[test] = features[test] @ fit_choice(features[~test], chosen[~test], group[~test], ridge)
        _, each = within_group_auc(result, chosen, group)
        if len(each) and float(each.mean()) > value:
            best, value = ridge, float(each.mean())
    return best


Rows = tuple[Doubles, npt.NDArray[np.bool_], Longs]
"""Features, which row is chosen, and the group of each."""


def joined_rows(rows: Rows, more: Rows | None) -> Rows:
    """Rows of two sets of groups together."""
    if more is None:
        return rows
    apart = int(rows[2].max(initial=-1)) + 1 - int(more[2].min(initial=0))
    return (
        np.concatenate([rows[0], more[0]]),
        np.concatenate([rows[1], more[1]]),
        np.concatenate([rows[2], more[2] + apart]),
    )


def cross_validated_choice(
    features: Doubles,
    chosen: npt.NDArray[np.bool_],
    group: Longs,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    ridge: float | None = None,
    more: Rows | None = None,
) -> Doubles:
    """Out-of-fold utilities of :func:`fit_choice`; a group is never scored by a fit that saw it.

    Without ``ridge`` the penalty is chosen again inside every fold's training groups (:func:`choose_ridge`). ``more`` are rows
    of other groups that every fit learns from too.
    """
    fold = fold_of(group, folds, seed)
    result = np.full(len(features), np.nan)
    for number in range(folds):
        test = fold == number
        if test.any() and chosen[~test].any():
            train = joined_rows((features[~test], chosen[~test], group[~test]), more)
            penalty = choose_ridge(*train, seed=seed) if ridge is None else ridge
            result[test] = features[test] @ fit_choice(*train, penalty)
    return result


def fit_stacked(
    first: Doubles,
    second: Doubles,
    chosen: npt.NDArray[np.bool_],
    group: Longs,
    *,
    seed: int = 0,
    more: Rows | None = None,
) -> Doubles:
    """Weights of the ``first`` and then of the ``second`` features, fitted in two stages (stacked generalisation).

    The first features' utility is fitted alone, with the rows ``more`` that have no others. Its out-of-fold value then joins
    the second features, nearly without penalty: few groups with many features cannot spoil what many groups taught.
    """
    free = 10.0
    rows = joined_rows((first, chosen, group), more)
    ridge = choose_ridge(*rows, seed=seed)
    utility = cross_validated_choice(first, chosen, group, seed=seed + 1, ridge=ridge, more=more)
    weights = fit_choice(*rows, ridge)
    stage = np.column_stack([free * np.nan_to_num(utility), second])
    both = fit_choice(stage, chosen, group, choose_ridge(stage, chosen, group, seed=seed))
    return np.concatenate([both[0] * free * weights, both[1:]])


def cross_validated_stack(
    first: Doubles,
    second: Doubles,
    chosen: npt.NDArray[np.bool_],
    group: Longs,
    *,
    folds: int = FOLDS,
    seed: int = 0,
    more: Rows | None = None,
) -> Doubles:
    """Out-of-fold utilities of :func:`fit_stacked`; a group is never scored by a fit, of either stage, that saw it."""
    fold = fold_of(group, folds, seed)
    result = np.full(len(first), np.nan)
    for number in range(folds):
        test = fold == number
        if test.any() and chosen[~test].any():
            weights = fit_stacked(first[~test], second[~test], chosen[~test], group[~test], seed=seed, more=more)
            result[test] = np.column_stack([first[test], second[test]]) @ weights
    return result
