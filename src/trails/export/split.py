"""Train and held-out parts that share no 13-gram of tokens.

Rows that share a 13-gram (of token ids, context included), a chain or a parent are linked; the connected components are
dealt out as wholes, so no 13-gram lies in both parts. A row shorter than 13 tokens counts as one gram. Grams are compared by
a 64-bit polynomial hash: equal grams always meet, and an accidental meeting only keeps two rows together that could have
been parted. The hashes lie on disk in buckets, so memory does not grow with the corpus beyond a few integers per row.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from trails.export.record import Ragged
from trails.schema import stable_hash

GRAM = 13
BUCKETS = 32
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
        self.keys: dict[str, int] = {}
        self.links: list[tuple[int, int]] = []
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

    def add(self, rows: Ragged, keys: list[tuple[str, ...]]) -> None:
        """Add a batch of token rows. ``keys`` are names per row (chain, parent) that link rows with a name in common."""
        first = self.rows
        self.rows += len(rows.offsets) - 1
        for index, names in enumerate(keys):
            for name in names:
                if name:
                    seen = self.keys.setdefault(name, first + index)
                    if seen != first + index:
                        self.links.append((seen, first + index))
        hashes, row = gram_hashes(rows, self.gram)
        order = np.argsort(hashes)
        pairs = np.empty(len(hashes), dtype=_PAIR)
        pairs["gram"], pairs["row"] = hashes[order], row[order] + first
        edges = np.arange(1, BUCKETS, dtype=np.uint64) << np.uint64(64 - (BUCKETS - 1).bit_length())
        bounds = [0, *np.searchsorted(pairs["gram"], edges).tolist(), len(pairs)]
        for b in range(BUCKETS):
            if bounds[b + 1] > bounds[b]:
                self._files[b].write(pairs[bounds[b] : bounds[b + 1]].tobytes())

    def split(self, share: float, ids: list[str], families: list[str], seed: int) -> Split:
        """Hold out about ``share`` of the rows of every family, component by component.

        Components are taken in the order of a hash of (seed, smallest id in it); one is held out if that keeps the
        number of held-out rows within the share. Depends on content only, never on the order of rows.
        """
        components = Components(self.rows)
        for one, other in self.links:
            components.join(one, other)
        for file in self._files:
            file.flush()
            pairs = np.fromfile(file.name, dtype=_PAIR)
            grams = pairs["gram"].copy()
            order = np.argsort(grams)
            grams, of = grams[order], pairs["row"][order]
            same = (grams[1:] == grams[:-1]) & (of[1:] != of[:-1])
            roots = components.roots()  # rows that are linked already need no further pair
            linked = np.stack([roots[of[:-1][same]], roots[of[1:][same]]], axis=1)
            for one, other in np.unique(linked[linked[:, 0] != linked[:, 1]], axis=0).tolist():
                components.join(one, other)
        roots = components.roots()
        members: dict[int, list[int]] = {}
        for row, root in enumerate(roots.tolist()):
            members.setdefault(root, []).append(row)
        ranked = sorted(members.values(), key=lambda rows: stable_hash(str(seed), min(ids[row] for row in rows)))
        budget: dict[str, float] = {}
        for family in families:
            budget[family] = budget.get(family, 0.0) + share
        held = np.zeros(self.rows, dtype=bool)
        for rows in ranked:
            need: dict[str, int] = {}
            for row in rows:
                need[families[row]] = need.get(families[row], 0) + 1
            if all(budget[family] + 0.5 >= count for family, count in need.items()):
                held[rows] = True
                for family, count in need.items():
                    budget[family] -= count
        if held.all():
            held[:] = False
        largest = max((len(rows) for rows in members.values()), default=0) / max(self.rows, 1)
        return Split(held, len(members), largest)


def gram_hashes(rows: Ragged, gram: int = GRAM) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.int64]]:
    """Hash of every gram, and its row. Equal grams have equal hashes, wherever they stand; a short row is one gram."""
    tokens = _mixed(rows.values.astype(np.uint64))
    lengths = rows.lengths
    long = lengths >= gram
    left = np.repeat(rows.offsets[1:], lengths) - np.arange(len(tokens))  # tokens of the row from here on
    begins = np.flatnonzero(left >= gram)
    # windows of 1, 2, 4, … tokens from those half as wide; a gram is put together from the widths that add up to it
    values = np.zeros(len(begins), np.uint64)
    done, width, window = 0, 1, tokens
    while True:
        if gram & width:
            values = _mixed(values * _MULTIPLIER ^ window[begins + done])
            done += width
        width *= 2
        if width > gram or len(window) <= width // 2:
            break
        half = width // 2
        window = _mixed(window[:-half] * _MULTIPLIER ^ window[half:])
    short = np.flatnonzero(~long & (lengths > 0))
    edges = zip(rows.offsets[short].tolist(), rows.offsets[short + 1].tolist(), strict=True)
    names = [",".join(map(str, rows.values[start:end].tolist())) for start, end in edges]
    whole = np.array([int(stable_hash(name), 16) for name in names], np.uint64)
    return np.concatenate([values, whole]), np.concatenate([rows.row_of[begins], short])


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A one-to-one mixing of 64 bits, so that grams meet by their tokens only."""
    values = (values + np.uint64(1)) * _MULTIPLIER
    values ^= values >> np.uint64(29)
    values *= _MULTIPLIER
    return values ^ (values >> np.uint64(32))


def shared_grams(a: Ragged, b: Ragged, gram: int = GRAM) -> int:
    """Number of distinct grams that lie in rows of both sides; compared by value, without hashing (for checks)."""

    def grams(rows: Ragged) -> set[tuple[int, ...]]:
        found: set[tuple[int, ...]] = set()
        for start, end in pairwise(rows.offsets.tolist()):
            row = rows.values[start:end].tolist()
            width = min(gram, len(row))
            found.update(tuple(row[i : i + width]) for i in range(len(row) - width + 1) if width)
        return found

    return len(grams(a) & grams(b))
