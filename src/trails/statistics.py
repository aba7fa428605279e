"""Scores that carry their control, and the statistics behind them: AUC, intervals, whitening, neighbours, change points.

Every score that an analysis reports is a :class:`Score`; it cannot be built without a control. Where the corpus is too small
for a control, the analysis reports a :class:`Withheld` with the reason and no number. Seeds are fixed: the same input
gives the same intervals.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Floats = npt.NDArray[np.float32]
Longs = npt.NDArray[np.int64]
Interval = tuple[float, float]

LEVEL = 0.95
"""Coverage of every interval."""


@dataclass(frozen=True, slots=True)
class Control:
    """What a score is held against: a null, a baseline or a noise floor, in the score's unit."""

    name: str
    value: float
    interval: Interval | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """A number with its controls. Raises ValueError without a finite control: a bare score cannot be made.

    ``interval`` is a 95 % interval, by resampling chains unless the analysis says otherwise; None where nothing was drawn.
    """

    name: str
    value: float
    unit: str
    controls: tuple[Control, ...]
    interval: Interval | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if not any(math.isfinite(control.value) for control in self.controls):
            raise ValueError(f"score {self.name!r} has no control")

    @property
    def control(self) -> float:
        """Value of the first control."""
        return self.controls[0].value

    @property
    def control_name(self) -> str:
        """Name of the first control."""
        return self.controls[0].name

    @property
    def excess(self) -> float:
        """Value minus the first control."""
        return self.value - self.control


@dataclass(frozen=True, slots=True)
class Withheld:
    """A score that was not computed because its control could not be, with the reason and what would help."""

    name: str
    reason: str


def control_record(control: Control) -> dict[str, Any]:
    """A control as plain values."""
    return {"name": control.name, "value": control.value, "interval": control.interval}


def score_record(score: Score) -> dict[str, Any]:
    """A score with its controls as plain values."""
    return {
        "name": score.name,
        "value": score.value,
        "interval": score.interval,
        "unit": score.unit,
        "controls": [control_record(control) for control in score.controls],
        "note": score.note,
    }


def withheld_record(withheld: Withheld) -> dict[str, Any]:
    """A withheld score as plain values."""
    return {"name": withheld.name, "reason": withheld.reason}


SCORE_COLUMNS = ("score", "value", "95 %", "unit", "control", "its value", "its 95 %")


def score_rows(scores: Sequence[Score]) -> list[list[Any]]:
    """Rows of :data:`SCORE_COLUMNS`: one per control, the score itself on the first."""

    def span(interval: Interval | None) -> str:
        return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""

    rows: list[list[Any]] = []
    for score in scores:
        for number, control in enumerate(score.controls):
            first = [score.name, score.value, span(score.interval), score.unit] if number == 0 else ["", None, "", ""]
            rows.append([*first, control.name, control.value, span(control.interval)])
    return rows


def finite(values: npt.ArrayLike) -> Array:
    """The finite values as float64."""
    array = np.asarray(values, np.float64).ravel()
    return array[np.isfinite(array)]


def spread(values: npt.ArrayLike) -> Interval | None:
    """Central 95 % of the values; None for fewer than two."""
    array = finite(values)
    if len(array) < 2:
        return None
    low, high = np.quantile(array, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def bootstrap(
    per_unit: npt.ArrayLike, statistic: Callable[[Array], float] | None = None, *, draws: int = 1000, seed: int = 0
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


def ranks(values: npt.ArrayLike) -> Array:
    """Ranks from 1, ties share their mean rank."""
    array = np.asarray(values, np.float64)
    order = np.argsort(array, kind="stable")
    ordered = array[order]
    new = np.append(True, ordered[1:] != ordered[:-1]) if len(array) else np.empty(0, np.bool_)
    group = np.cumsum(new) - 1
    count = np.bincount(group) if len(array) else np.empty(0, np.int64)
    mean = np.cumsum(count) - (count - 1) / 2.0
    result = np.empty(len(array))
    result[order] = mean[group]
    return result


def auc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Probability that a positive exceeds a negative, ties counted half (area under the ROC curve). NaN if one is empty."""
    p, q = finite(positive), finite(negative)
    if not len(p) or not len(q):
        return math.nan
    together = ranks(np.concatenate([p, q]))
    return float((together[: len(p)].sum() - len(p) * (len(p) + 1) / 2) / (len(p) * len(q)))


def within_group_auc(score: Array, positive: npt.NDArray[np.bool_], group: Longs) -> tuple[Longs, Array]:
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


def within_group_ranks(score: Array, group: Longs) -> Array:
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


def fit_logistic(features: Array, target: npt.NDArray[np.bool_], ridge: float = 1.0) -> Array:
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
    features: Array, target: npt.NDArray[np.bool_], groups: Longs, *, folds: int = 5, seed: int = 0, ridge: float = 1.0
) -> Array:
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


# --------------------------------------------------------------------------------------------------------------------
# Vectors
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Whitening:
    """Affine map to zero mean and unit covariance on the fitted vectors: ``(x - mean) @ components``."""

    mean: Floats  # (d,)
    components: Floats  # (d, r)
    n: int
    """Vectors it was fitted on."""

    def __call__(self, vectors: Floats) -> Floats:
        """Whitened vectors of unit length, (n, r); a zero vector stays zero."""
        white = (vectors - self.mean) @ self.components
        norm = np.linalg.norm(white, axis=1, keepdims=True)
        result: Floats = (white / np.where(norm > 0, norm, 1)).astype(np.float32)
        return result


MIN_VECTORS = 50
"""Fewer vectors than this are not whitened."""


class Moments:
    """Mean and scatter of vectors that come in blocks, in float64 (Chan, Golub, LeVeque 1979): nothing is kept of a block."""

    def __init__(self) -> None:
        self.n = 0
        self.mean: Array = np.zeros(0)
        self.scatter: Array = np.zeros((0, 0))

    def add(self, vectors: Floats) -> None:
        """Take in a block (m, d)."""
        if not len(vectors):
            return
        x = np.asarray(vectors, np.float64)
        mean = x.mean(axis=0)
        x = x - mean
        if not self.n:
            self.n, self.mean, self.scatter = len(x), mean, x.T @ x
            return
        n = self.n + len(x)
        apart = mean - self.mean
        self.scatter = self.scatter + x.T @ x + np.outer(apart, apart) * (self.n * len(x) / n)
        self.mean = self.mean + apart * (len(x) / n)
        self.n = n

    def whitening(self, *, per_component: float = 5.0, floor: float = 1e-4) -> Whitening:
        """PCA whitening. Keeps at most one direction per ``per_component`` vectors, and none with less than ``floor`` of the
        largest variance: a covariance of d directions needs several times d vectors. Raises ValueError below
        :data:`MIN_VECTORS`.
        """
        if self.n < MIN_VECTORS:
            raise ValueError(f"{self.n} vectors are too few to whiten; {MIN_VECTORS} are needed")
        value, direction = np.linalg.eigh(self.scatter / (self.n - 1))
        value, direction = value[::-1], direction[:, ::-1]
        keep = min(int(self.n / per_component), int((value > floor * value[0]).sum()))
        keep = max(keep, 1)
        # A direction's sign is arbitrary: fix it, so that the same vectors in another order give the same components.
        sign = np.sign(direction[np.abs(direction).argmax(axis=0), np.arange(direction.shape[1])])
        components = direction[:, :keep] * sign[:keep] / np.sqrt(value[:keep])
        return Whitening(self.mean.astype(np.float32), components.astype(np.float32), self.n)


def fit_whitening(vectors: Floats, *, per_component: float = 5.0, floor: float = 1e-4) -> Whitening:
    """:meth:`Moments.whitening` of vectors (n, d) that are all there."""
    moments = Moments()
    for start in range(0, len(vectors), 65_536):
        moments.add(vectors[start : start + 65_536])
    return moments.whitening(per_component=per_component, floor=floor)


def nearest_exact(vectors: Floats, queries: Floats, k: int, *, block: int = 1024) -> tuple[Longs, Floats]:
    """The k most similar vectors of each query by brute force: indices (q, k) and cosines (q, k), best first.

    Vectors have unit length. Ties go to the smaller index.
    """
    k = min(k, len(vectors))
    found = np.empty((len(queries), k), np.int64)
    cosine = np.empty((len(queries), k), np.float32)
    for a in range(0, len(queries), block):
        similarity = queries[a : a + block] @ vectors.T
        if k < len(vectors):
            part = np.sort(np.argpartition(-similarity, k - 1, axis=1)[:, :k], axis=1)
        else:
            part = np.broadcast_to(np.arange(len(vectors)), similarity.shape)
        value = np.take_along_axis(similarity, part, axis=1)
        order = np.argsort(-value, axis=1, kind="stable")
        found[a : a + block] = np.take_along_axis(part, order, axis=1)
        cosine[a : a + block] = np.take_along_axis(value, order, axis=1)
    return found, cosine


EXACT_UP_TO = 32_000
"""Number of vectors up to which :func:`nearest_others` compares every pair."""
LEAD = 128
"""Leading coordinates by which vectors are put into clusters: whitened vectors begin with the directions of largest variance,
which carry most of what neighbours have in common."""
CLUSTER = 512
"""Mean number of vectors in a cluster."""
PROBES = 40
"""Clusters that every vector is compared with: about 20,000 vectors, whatever the number of all."""
ROUNDS = 3
"""Times that the neighbours of the neighbours are looked at."""
BLOCK = 16_384
"""Vectors that look for neighbours together; a block of this size fits into the cache of a processor."""


def nearest_others(
    vectors: Floats,
    group: Longs,
    k: int,
    *,
    exact: bool | None = None,
    probes: int = PROBES,
    lead: int = LEAD,
    seed: int = 0,
) -> tuple[Longs, Floats]:
    """For every vector the k most similar ones of other groups: indices (n, k) and cosines (n, k), best first; -1 and NaN
    where there are fewer.

    Vectors have unit length. Up to :data:`EXACT_UP_TO` vectors every pair is compared. Beyond, vectors lie in clusters
    (spherical k-means on the ``lead`` first coordinates; an inverted file, Sivic and Zisserman 2003), and each is compared
    with those in the ``probes`` clusters whose centres are nearest. What lies in other clusters is looked for among the
    neighbours of the neighbours (Dong, Moses, Li, "Efficient k-nearest neighbor graph construction", 2011). Cosines are exact,
    but a neighbour may be missed.
    """
    n = len(vectors)
    if exact if exact is not None else n <= EXACT_UP_TO:
        every = _Best(vectors, group, k)
        for start in range(0, n, 1024):
            rows = np.arange(start, min(start + 1024, n))
            for low in range(0, n, 8192):
                every.offer(rows, low, min(low + 8192, n))
            every.settle()
        return every.index, every.cosine
    rng = np.random.default_rng(seed)
    leading = _unit(vectors[:, :lead])
    count = max(n // CLUSTER, 2)
    centres = _centres(leading[np.sort(rng.permutation(n)[: 16 * count])], count, rng)
    # Clusters are numbered so that neighbours have near numbers: a block of vectors then looks into few of them.
    coarse = _centres(centres, max(int(math.sqrt(count)), 2), rng)
    centres = centres[np.argsort((centres @ coarse.T).argmax(axis=1), kind="stable")]
    home = np.concatenate([(leading[a : a + 8192] @ centres.T).argmax(axis=1) for a in range(0, n, 8192)])
    order = np.argsort(home, kind="stable")
    bounds = np.searchsorted(home[order], np.arange(count + 1)).tolist()
    found = _Best(vectors[order], group[order], k)
    probes = min(probes, count)
    for start in range(0, n, BLOCK):
        block = order[start : start + BLOCK]
        wanted = np.empty((count, len(block)), np.bool_)
        for a in range(0, len(block), 1024):
            similarity = leading[block[a : a + 1024]] @ centres.T
            bar = np.partition(similarity, count - probes, axis=1)[:, count - probes]
            wanted[:, a : a + 1024] = (similarity >= bar[:, None]).T
        # The own clusters first: they raise the bar for all that follows.
        own = np.unique(home[block])
        for cluster in (*own.tolist(), *np.setdiff1d(np.flatnonzero(wanted.any(axis=1)), own).tolist()):
            if bounds[cluster] < bounds[cluster + 1]:
                found.offer(start + np.flatnonzero(wanted[cluster]), bounds[cluster], bounds[cluster + 1])
        found.settle()
    for _ in range(ROUNDS):
        found.follow()
    back = np.empty(n, np.int64)
    back[order] = np.arange(n)
    index = np.where(found.index >= 0, order[np.maximum(found.index, 0)], -1)
    return index[back], found.cosine[back]


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.float32(1e-12))
    return unit


def _centres(vectors: Floats, count: int, rng: np.random.Generator, rounds: int = 5) -> Floats:
    """Unit-length centres of spherical k-means."""
    centres = vectors[rng.permutation(len(vectors))[:count]]
    for _ in range(rounds):
        home = np.concatenate(
            [(vectors[a : a + 8192] @ centres.T).argmax(axis=1) for a in range(0, len(vectors), 8192)]
        )
        order = np.argsort(home, kind="stable")
        filled, begins = np.unique(home[order], return_index=True)
        centres[filled] = np.add.reduceat(vectors[order], begins, axis=0)
        centres = _unit(centres)
    return centres


class _Best:
    """The k best of other groups that every vector was offered; what was offered counts after :meth:`settle`."""

    def __init__(self, vectors: Floats, group: Longs, k: int) -> None:
        self._vectors, self._group, self._k = vectors, group, k
        self._value = np.full((len(vectors), k), -np.inf, np.float32)
        self.index = np.full((len(vectors), k), -1, np.int64)
        self._waiting: list[tuple[Longs, Longs, Floats]] = []
        self._size = 0

    @property
    def cosine(self) -> Floats:
        """Cosines of :attr:`index`."""
        return np.where(self.index >= 0, self._value, np.float32(np.nan))

    def offer(self, rows: Longs, low: int, high: int) -> None:
        """The vectors ``low:high`` as candidates for the vectors numbered ``rows``."""
        contiguous = len(rows) and rows[-1] - rows[0] + 1 == len(rows)
        queries = self._vectors[rows[0] : rows[-1] + 1] if contiguous else self._vectors[rows]
        similarity = queries @ self._vectors[low:high].T
        bar, width = self._value[rows, -1], high - low
        if np.isneginf(bar).any():
            similarity[self._group[rows][:, None] == self._group[low:high]] = -np.inf
            if width > self._k:
                # Nothing below the k-th best of what is offered here can be among the k best.
                least = np.partition(similarity, width - self._k, axis=1)[:, width - self._k]
                bar = np.maximum(bar, np.nextafter(least, np.float32(-np.inf)))
        hit = np.flatnonzero(similarity > bar[:, None])
        if not len(hit):
            return
        row, column = rows[hit // width], low + hit % width
        foreign = self._group[row] != self._group[column]
        self._waiting.append((row[foreign], column[foreign], similarity.reshape(-1)[hit[foreign]]))
        self._size += len(hit)
        if self._size > 250_000:
            self.settle()

    def follow(self) -> None:
        """Offer to every vector the neighbours of its neighbours, and of those whose neighbour it is (at most k of them)."""
        n, k = self.index.shape
        known = self.index >= 0
        target, source = self.index[known], np.nonzero(known)[0]
        order = np.argsort(target, kind="stable")
        target, source = target[order], source[order]
        place = np.arange(len(target)) - np.searchsorted(target, target)
        links = np.full((n, 2 * k), -1, np.int64)
        links[:, :k] = self.index
        links[target[place < k], k + place[place < k]] = source[place < k]
        before = self.index.copy()
        for start in range(0, n, 256):
            rows = np.arange(start, min(start + 256, n))
            near = links[rows]
            further = np.where(near[:, :, None] >= 0, before[near], -1).reshape(len(rows), -1)
            offered = np.sort(np.concatenate([near[:, k:], further], axis=1), axis=1)
            fresh = offered >= 0
            fresh[:, 1:] &= offered[:, 1:] != offered[:, :-1]
            fresh &= self._group[np.maximum(offered, 0)] != self._group[rows][:, None]
            fresh &= ~(offered[:, :, None] == before[rows][:, None, :]).any(axis=2)
            row, column = np.nonzero(fresh)
            other = offered[row, column]
            value = np.einsum("ij,ij->i", self._vectors[rows[row]], self._vectors[other])
            better = value > self._value[rows[row], -1]
            self._waiting.append((rows[row[better]], other[better], value[better]))
            self.settle()

    def settle(self) -> None:
        """Take in what was offered."""
        if not self._waiting:
            return
        row, column, value = (np.concatenate(parts) for parts in zip(*self._waiting, strict=True))
        self._waiting, self._size = [], 0
        if not len(row):
            return
        touched = np.unique(row)
        row = np.concatenate([np.repeat(touched, self._k), row])
        column = np.concatenate([self.index[touched].reshape(-1), column])
        value = np.concatenate([self._value[touched].reshape(-1), value])
        order = np.lexsort((column, -value, row))
        begins = np.flatnonzero(np.append(True, row[order][1:] != row[order][:-1]))
        top = order[begins[:, None] + np.arange(self._k)]
        self._value[touched], self.index[touched] = value[top], column[top]


def hashed_words(words: list[list[str]], *, width: int = 512) -> Floats:
    """Unit-length tf-idf vectors (n, width) of bags of words, words hashed to signed places (feature hashing)."""
    import zlib

    vocabulary = {word: number for number, word in enumerate(sorted({w for bag in words for w in bag}))}
    hashes = np.array([zlib.crc32(word.encode("utf-8", "surrogatepass")) for word in vocabulary], np.int64)
    owner = np.repeat(np.arange(len(words)), [len(bag) for bag in words])
    word = np.array([vocabulary[w] for bag in words for w in bag], np.int64)
    result = np.zeros((len(words), width), np.float32)
    if not len(word):
        return result
    pair = np.unique(owner * len(vocabulary) + word)
    frequency = np.bincount(pair % len(vocabulary), minlength=len(vocabulary))
    idf = np.log((1 + len(words)) / (1 + frequency)) + 1e-3
    place, sign = (hashes >> 1) % width, np.where(hashes & 1, 1.0, -1.0)
    np.add.at(result, (owner, place[word]), (sign * idf)[word].astype(np.float32))
    norm = np.linalg.norm(result, axis=1, keepdims=True)
    unit: Floats = (result / np.where(norm > 0, norm, 1)).astype(np.float32)
    return unit


# --------------------------------------------------------------------------------------------------------------------
# Change points
# --------------------------------------------------------------------------------------------------------------------


def step_change(curves: Array, *, margin: int = 1) -> tuple[int, float]:
    """Best single change of level in a curve: (index of the first value of the second segment, statistic).

    ``curves`` is (n, K): n replicates over K places; the statistic is computed on their mean. Each candidate's gain is the
    reduction of the squared error of the two-segment fit, relative to what is left (an F ratio).
    ``margin`` values at least stay on each side. Raises ValueError for fewer than ``2 * margin + 1`` places.
    """
    mean = curves.mean(axis=0)
    size = len(mean)
    if size < 2 * margin + 1:
        raise ValueError(f"{size} values are too few for a change point")
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


# --------------------------------------------------------------------------------------------------------------------
# Choices: one of several in each group
# --------------------------------------------------------------------------------------------------------------------


def fit_choice(features: Array, chosen: npt.NDArray[np.bool_], group: Longs, ridge: float = 1.0) -> Array:
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
    features: Array, chosen: npt.NDArray[np.bool_], group: Longs, *, folds: int = 5, seed: int = 0
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


Rows = tuple[Array, npt.NDArray[np.bool_], Longs]
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
    features: Array,
    chosen: npt.NDArray[np.bool_],
    group: Longs,
    *,
    folds: int = 5,
    seed: int = 0,
    ridge: float | None = None,
    more: Rows | None = None,
) -> Array:
    """Out-of-fold utilities of :func:`fit_choice`; a group is never scored by a fit that saw it.

    Without ``ridge`` the penalty is chosen anew inside every fold's training groups (:func:`choose_ridge`). ``more`` are rows
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
    first: Array, second: Array, chosen: npt.NDArray[np.bool_], group: Longs, *, seed: int = 0, more: Rows | None = None
) -> Array:
    """Weights of the ``first`` and then of the ``second`` features, fitted in two stages (stacked generalisation).

    The first features' utility is fitted alone, with the rows ``more`` that have no others. Its out-of-fold value then stands
    beside the second features, nearly without penalty: few groups with many features cannot spoil what many groups taught.
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
    first: Array,
    second: Array,
    chosen: npt.NDArray[np.bool_],
    group: Longs,
    *,
    folds: int = 5,
    seed: int = 0,
    more: Rows | None = None,
) -> Array:
    """Out-of-fold utilities of :func:`fit_stacked`; a group is never scored by a fit, of either stage, that saw it."""
    fold = fold_of(group, folds, seed)
    result = np.full(len(first), np.nan)
    for number in range(folds):
        test = fold == number
        if test.any() and chosen[~test].any():
            weights = fit_stacked(first[~test], second[~test], chosen[~test], group[~test], seed=seed, more=more)
            result[test] = np.column_stack([first[test], second[test]]) @ weights
    return result


def centred(values: Array, group: Longs) -> Array:
    """Values minus their group's mean, scaled to unit variance over all; undefined values become 0 (the mean)."""
    good = np.isfinite(values)
    top = int(group.max(initial=0)) + 1
    total = np.bincount(group[good], weights=values[good], minlength=top)
    count = np.bincount(group[good], minlength=top)
    mean = total / np.maximum(count, 1)
    result = np.where(good, values - mean[group], 0.0)
    scale = result[good].std() if good.any() else 0.0
    return result / scale if scale > 0 else result * 0.0
