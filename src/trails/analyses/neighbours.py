"""Nearest neighbours of unit vectors: by brute force for few, in clusters for many."""

from __future__ import annotations

import math

import numpy as np

from trails.platform.arrays import Floats, Longs


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

WIDTH = 10
"""Neighbours that every vector keeps while it searches, at least: with more of them, theirs lead further."""

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
    width: int = WIDTH,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> tuple[Longs, Floats]:
    """For every vector the k most similar ones of other groups: indices (n, k) and cosines (n, k), best first; -1 and NaN
    where there are fewer.

    Vectors have unit length. Up to :data:`EXACT_UP_TO` vectors every pair is compared. Beyond, vectors lie in clusters
    (spherical k-means on the ``lead`` first coordinates; an inverted file, Sivic and Zisserman 2003), and each is compared
    with those in the ``probes`` clusters whose centres are nearest. What lies in other clusters is looked for among the
    neighbours of the neighbours (Dong, Moses, Li, "Efficient k-nearest neighbor graph construction", 2011), for which each
    keeps ``width`` of them (k where that is more) in each of ``rounds``. Cosines are exact, but a neighbour may be missed.
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
    found = _Best(vectors[order], group[order], max(width, k))
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
    for _ in range(rounds):
        found.follow()
    back = np.empty(n, np.int64)
    back[order] = np.arange(n)
    best, cosine = found.index[:, :k], found.cosine[:, :k]
    index = np.where(best >= 0, order[np.maximum(best, 0)], -1)
    return index[back], cosine[back]


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
