"""Whitening of hidden states, fitted on blocks that come one after another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trails.platform.arrays import Doubles, Floats
from trails.platform.text import counted


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
        self.mean: Doubles = np.zeros(0)
        self.scatter: Doubles = np.zeros((0, 0))

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
            raise ValueError(
                f"{counted(self.n, 'vector is', 'vectors are')} too few to whiten; {MIN_VECTORS} are needed"
            )
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
