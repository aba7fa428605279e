"""In which order the rows are written, and so trained (``--order``).

``shuffled`` (default), ``rising`` and ``falling`` by mean surprisal, ``rhythm:N`` with each row repeated N times at growing
distance (1, 2, 4, … places of its first occurrence's block). ``source`` keeps source and record order.

Rising and falling are stratified by family unless told otherwise: each family is sorted by itself and the families are
interleaved in proportion, because mean surprisal otherwise sorts by family (which lost to shuffling when it was measured).
A family is here a stratum of the corpus: what the record's metadata call ``family``, else the source. The versions of one
chain (``trails ingest --family``) are no stratum: with one chain in each, no order by surprisal would be left.
The order depends on the rows' content and the seed only, never on the order in which they were stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trails.export.words import ORDER_WORDS, english, not_known
from trails.platform.arrays import Whole
from trails.platform.text import whole_number

_BLOCK = 2**16
"""Rows that are looked at together."""

ORDERS = ("shuffled", "rising", "falling", "rhythm:N", "source")

Int64 = npt.NDArray[np.int64]


def parse_order(text: str) -> tuple[str, int]:
    """Name and number of repeats, from an English or Russian text. Raises UsageError naming what can be written."""
    text = english(text, ORDER_WORDS)
    if text in ("shuffled", "rising", "falling", "source"):
        return text, 1
    name, _, number = text.partition(":")
    if name == "rhythm":
        if not number:
            return name, 3
        size = whole_number(number) or 0
        if 2 <= size <= 64:
            return name, size
    raise not_known("order", text, ORDERS, " (N from 2 to 64).")


def arrange(
    order: str,
    ids: Sequence[str] | npt.NDArray[np.bytes_],
    surprisal: npt.NDArray[np.float64],
    families: Sequence[str] | Whole,
    names: Sequence[tuple[str, str]],
    *,
    seed: int = 0,
    stratify: bool = True,
) -> Int64:
    """Indices of rows in the order they are written; with a rhythm, rows occur several times.

    ``ids`` are ASCII; ``families`` names, or numbers in the order of the names. ``surprisal`` (rows,) is the mean over the
    labelled tokens, nats (NaN sorts last); ``names`` are (source, source id), needed for the order ``source`` only.
    """
    name, repeats = parse_order(order)
    if name == "source":
        rows = range(len(ids))
        found = sorted(rows, key=lambda row: (names[row][0], _natural(names[row][1]), ids[row]))
        return np.array(found, dtype=np.int64)
    shuffled = _shuffled(ids, seed)
    if name == "shuffled":
        return shuffled
    if name == "rhythm":
        return _rhythm(shuffled, repeats)
    rank = np.empty(len(ids), np.int64)
    rank[shuffled] = np.arange(len(ids))
    key = np.nan_to_num(surprisal if name == "rising" else -surprisal)
    if not stratify:
        return np.lexsort((rank, key, np.isnan(surprisal)))
    family = np.unique(np.asarray(families), return_inverse=True)[1] if len(ids) else rank
    by_family = np.lexsort((rank, key, np.isnan(surprisal), family))
    sizes = np.bincount(family)
    place = np.arange(len(ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    share = (place + 0.5) / np.repeat(sizes, sizes)
    return by_family[np.lexsort((by_family, family[by_family], share))]


def _shuffled(ids: Sequence[str] | npt.NDArray[np.bytes_], seed: int) -> Int64:
    """Rows in the order of SHA-256 of seed and id."""
    names = np.asarray(ids, dtype=np.bytes_)
    before = f"{seed} ".encode()
    drawn = np.empty((len(names), 4), ">u8")
    for start in range(0, len(names), 4096):
        digests = [hashlib.sha256(before + name).digest() for name in names[start : start + 4096]]
        drawn[start : start + 4096] = np.frombuffer(b"".join(digests), ">u8").reshape(-1, 4)
    order = np.argsort(drawn[:, 0], kind="stable")
    if (np.diff(drawn[order, 0]) == 0).any():
        order = np.lexsort(drawn.T[::-1])
    return order


def _natural(text: str) -> tuple[int, str]:
    """Numbers sort as numbers, before other text."""
    return (int(text), "") if text.isdecimal() and len(text) < 18 else (10**18, text)


def _rhythm(rows: Int64, repeats: int) -> Int64:
    """Every row ``repeats`` times, the distance between its occurrences doubling.

    Row i of n first appears at time i; occurrence k follows ``n / 2**(repeats - 1) * (2**k - 1)`` later. Equal multiset of
    rows as plain repetition, other spacing: compare with ``shuffled`` at the same number of passes.
    """
    n = len(rows)
    unit = max(n / 2 ** (repeats - 1), 1.0)
    first = np.arange(n)
    times = np.concatenate([first + unit * (2**k - 1) for k in range(repeats)])
    occurrence = np.repeat(np.arange(repeats), n)
    return rows[np.lexsort((np.tile(first, repeats), occurrence, times)) % max(n, 1)]


def stratified_spread(families: Sequence[str] | Whole, order: Whole) -> float:
    """How unevenly families are spread over the order, 0..1: the largest distance, over families, between the share of the
    family seen so far and the share of all rows seen so far. 0 = proportional everywhere, near 1 = one family after another.
    """
    if not len(order):
        return 0.0
    known = np.asarray(families)
    if known.dtype.kind != "i":
        known = np.unique(known, return_inverse=True)[1]
    count, blocks = int(known.max()) + 1, range(0, len(order), _BLOCK)
    sizes = np.zeros(count, np.int64)
    for start in blocks:
        sizes += np.bincount(known[order[start : start + _BLOCK]], minlength=count)
    before = np.zeros(count, np.int64)  # rows of every family before the block
    largest = 0.0
    for start in blocks:
        mine = known[order[start : start + _BLOCK]]
        by_family = np.argsort(mine, kind="stable")
        places, family = by_family + start, mine[by_family]
        seen = (
            before[family] + np.arange(len(mine)) - np.searchsorted(family, family)
        )  # of the family, before this place
        # between two rows of a family the distance falls steadily: it is largest at a row or just before one
        at = np.abs((seen + 1) / sizes[family] - (places + 1) / len(order))
        just_before = np.abs(seen / sizes[family] - places / len(order))
        largest = max(largest, float(at.max()), float(just_before.max()))
        before += np.bincount(mine, minlength=count)
    return largest
