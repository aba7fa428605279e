"""Train and held-out parts that share no 13-gram of tokens.

Rows that share a 13-gram (of token ids, context included), a chain, a parent or the family of which their chains are
versions are linked; the connected components are
assigned as wholes, so no 13-gram lies in both parts. A row shorter than 13 tokens counts as one gram. Grams are compared by
a 64-bit polynomial hash: equal grams always meet, and an accidental meeting only keeps two rows together that could have
been parted. The hashes lie on disk in buckets, so memory does not grow with the corpus beyond a few integers per row.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, repeat
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from trails.export.record import Ragged
from trails.platform.arrays import Whole
from trails.schema import stable_hash

GRAM = 13
BUCKETS = 128
_BUCKET_BITS = np.uint64((BUCKETS - 1).bit_length())
_TO_BUCKET = np.uint64(64) - _BUCKET_BITS
_ROWS = 500
_AT_ONCE = 2**18
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_PAIR = np.dtype([("gram", "<u8"), ("row", "<u4")])


@dataclass(frozen=True, slots=True)
class Split:
    """Which rows are held out, and how linked the rows were.

    ``held_out`` (rows,) bool; ``components`` is their number, ``largest`` the share of rows in the largest one.
    """

    held_out: npt.NDArray[np.bool_]
    components: int
    largest: float


class Components:
    """Union-find over rows with path halving; the smaller row is the root, so the result does not depend on the order."""

    def __init__(self, n: int) -> None:
        self.parent = np.arange(n, dtype=np.int64)

    def find(self, row: int) -> int:
        """Root of a row."""
        parent = self.parent
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = int(parent[row])
        return row

    def join(self, a: int, b: int) -> None:
        """Link two rows."""
        a, b = self.find(a), self.find(b)
        if a != b:
            self.parent[max(a, b)] = min(a, b)

    def join_equal(self, numbers: npt.NDArray[np.uint64], rows: npt.NDArray[np.int64]) -> None:
        """Link the rows whose numbers are equal."""
        order = np.argsort(numbers)
        numbers, rows = numbers[order], rows[order]
        same = (numbers[1:] == numbers[:-1]) & (rows[1:] != rows[:-1])
        roots = self.roots()  # rows that are linked already need no further pair
        linked = np.stack([roots[rows[:-1][same]], roots[rows[1:][same]]], axis=1)
        for one, other in np.unique(linked[linked[:, 0] != linked[:, 1]], axis=0).tolist():
            self.join(one, other)

    def roots(self) -> npt.NDArray[np.int64]:
        """Root of every row."""
        parent = self.parent
        while not np.array_equal(parent[parent], parent):
            parent = parent[parent]
        self.parent = parent
        return parent.copy()


class GramIndex:
    """Collects the grams of batches of rows, then deals the rows out. A context manager: it removes its files."""

    def __init__(self, folder: Path | None = None, gram: int = GRAM) -> None:
        self.gram = gram
        self.rows = 0
        self._names: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]] = []
        self._folder = tempfile.TemporaryDirectory(dir=folder, prefix=".grams-")
        self._files = [Path(self._folder.name, f"{b}").open("wb") for b in range(BUCKETS)]  # noqa: SIM115

    def __enter__(self) -> GramIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.close()
        self._folder.cleanup()

    def add(self, rows: Ragged, *names: npt.NDArray[np.uint64]) -> None:
        """Add a batch of token rows. ``names`` are numbers per row (its chain, its parent) that link rows with a number in
        common; 0 is none.
        """
        for numbers in names:
            named = np.flatnonzero(numbers)
            self._names.append((numbers[named], self.rows + named))
        n = len(rows.offsets) - 1
        for start in range(0, n, _ROWS):  # arrays that stay in the processor's cache
            stop = min(start + _ROWS, n)
            part = rows.offsets[start : stop + 1]
            hashes, row = gram_hashes(Ragged(part - part[0], rows.values[part[0] : part[-1]]), self.gram)
            bucket = (hashes >> _TO_BUCKET).astype(np.uint8)
            order = np.argsort(bucket, kind="stable")  # of bytes: one pass, no comparisons
            pairs = np.empty(len(hashes), dtype=_PAIR)
            pairs["gram"], pairs["row"] = hashes[order], row[order] + (self.rows + start)
            bounds = np.concatenate([[0], np.cumsum(np.bincount(bucket, minlength=BUCKETS))]).tolist()
            for file, (first, last) in zip(self._files, pairwise(bounds), strict=True):
                if last > first:
                    file.write(pairs[first:last].data)
        self.rows += n

    def split(
        self,
        share: float,
        ids: Sequence[str] | npt.NDArray[np.bytes_],
        families: Sequence[str] | Whole,
        seed: int,
    ) -> Split:
        """Hold out about ``share`` of the rows of every family (names or numbers), component by component.

        Components are taken in the order of a hash of (seed, smallest id in it); one is held out if that keeps the
        number of held-out rows within the share. Depends on content only, never on the order of rows.
        """
        components = Components(self.rows)
        if self._names:
            numbers, rows = (np.concatenate(parts) for parts in zip(*self._names, strict=True))
            components.join_equal(numbers, rows)
        for file in self._files:
            file.flush()
            pairs = np.fromfile(file.name, dtype=_PAIR)
            grams, row = pairs["gram"] << _BUCKET_BITS, pairs["row"].astype(np.int64)
            del pairs
            depth = (len(grams) // _AT_ONCE).bit_length()
            for part in range(1 << depth):  # bounds the tables of a large corpus
                mine = slice(None) if not depth else np.flatnonzero(grams >> np.uint64(64 - depth) == part)
                several = _not_alone(grams[mine] << np.uint64(depth))
                components.join_equal(grams[mine][several], row[mine][several])
        roots = components.roots()
        names = np.asarray(ids, dtype=np.bytes_)
        by_root = np.argsort(roots, kind="stable")
        starts = np.flatnonzero(np.diff(roots[by_root], prepend=-1))
        sizes = np.diff(starts, append=self.rows)
        smallest = names[by_root[starts]]
        for component in np.flatnonzero(sizes > 1).tolist():
            smallest[component] = min(names[by_root[starts[component] : starts[component] + sizes[component]]])
        drawn = np.fromiter(
            (int(stable_hash(str(seed), name.decode()), 16) for name in smallest), np.uint64, len(starts)
        )
        known, code = np.unique(np.asarray(families), return_inverse=True)
        # added one by one: rounding decides at the edge
        budget = [sum(repeat(share, count), 0.0) for count in np.bincount(code, minlength=len(known)).tolist()]
        held = np.zeros(self.rows, dtype=bool)
        first = code[by_root[starts]]
        alone = sizes == 1
        for component in np.argsort(drawn, kind="stable").tolist():
            need = {int(first[component]): 1}
            rows = by_root[starts[component] : starts[component] + sizes[component]]
            if not alone[component]:
                need = Counter(code[rows].tolist())
            if all(budget[family] + 0.5 >= count for family, count in need.items()):
                held[rows] = True
                for family, count in need.items():
                    budget[family] -= count
        if held.all():
            held[:] = False
        return Split(held, len(starts), int(sizes.max(initial=0)) / max(self.rows, 1))


def _not_alone(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Indices of numbers that share their first bits with another one: equal numbers, and few besides."""
    bits = np.uint64(max(4 * len(numbers), 2).bit_length())
    place = (numbers >> (np.uint64(64) - bits)).astype(np.int64)
    return np.flatnonzero(np.bincount(place)[place] > 1) if len(place) else place


def gram_hashes(rows: Ragged, gram: int = GRAM) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Hash of every gram, and its row. Equal grams have equal hashes, wherever they stand; a short row is one gram.

    A polynomial in an odd number modulo 2**64 of the tokens, each mixed to 64 bits before, from running sums.
    """
    tokens = _mixed(rows.values.astype(np.uint64))
    lengths = rows.lengths
    ends = np.repeat(rows.offsets[1:], lengths)
    begins = np.flatnonzero(ends - np.arange(len(tokens)) >= gram)
    powers, inverses = _powers(len(tokens))
    sums = np.zeros(len(tokens) + 1, np.uint64)
    np.cumsum(tokens * powers, out=sums[1:])
    values = (sums[begins + gram] - sums[begins]) * inverses[begins]
    short = np.flatnonzero((lengths < gram) & (lengths > 0))
    edges = zip(rows.offsets[short].tolist(), rows.offsets[short + 1].tolist(), strict=True)
    names = [",".join(map(str, rows.values[start:end].tolist())) for start, end in edges]
    whole = np.array([int(stable_hash(name), 16) for name in names], np.uint64)
    return np.concatenate([values, whole]), np.concatenate([rows.row_of[begins], short])


@lru_cache(maxsize=1)
def _powers_of(size: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    inverse = np.uint64(pow(int(_MULTIPLIER), -1, 2**64))
    return tuple(  # type: ignore[return-value]
        np.concatenate([np.ones(1, np.uint64), np.cumprod(np.full(size - 1, factor))])
        for factor in (_MULTIPLIER, inverse)
    )


def _powers(size: int) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Powers 0, 1, … of the multiplier and of its inverse modulo 2**64."""
    powers, inverses = _powers_of(1 << max(size, 1).bit_length())
    return powers[:size], inverses[:size]


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A one-to-one mixing of 64 bits, so that grams meet by their tokens only; ``values`` are overwritten."""
    values += np.uint64(1)
    values *= _MULTIPLIER
    values ^= values >> np.uint64(29)
    values *= _MULTIPLIER
    values ^= values >> np.uint64(32)
    return values


def grams(ids: Sequence[Hashable], n: int = GRAM) -> set[tuple[Hashable, ...]]:
    """The n-grams of a row of tokens or words, by value; a shorter row is one gram."""
    width = min(n, len(ids))
    return {tuple(ids[i : i + width]) for i in range(len(ids) - width + 1)} if width else set()


def shared_grams(a: Ragged, b: Ragged, gram: int = GRAM) -> int:
    """Number of distinct grams that lie in rows of both sides; compared by value, without hashing (for checks)."""

    def of(rows: Ragged) -> set[tuple[Hashable, ...]]:
        edges = pairwise(rows.offsets.tolist())
        return set().union(*(grams(rows.values[start:end].tolist(), gram) for start, end in edges))

    return len(of(a) & of(b))
