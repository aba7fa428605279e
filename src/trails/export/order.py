"""In which order the rows are written, and so trained (``--order``).

``shuffled`` (default), ``rising`` and ``falling`` by mean surprisal, ``rhythm:N`` with each row repeated N times at growing
distance (1, 2, 4, … places of its first occurrence's block). ``source`` keeps source and record order.

Rising and falling are stratified by family unless told otherwise: each family is sorted by itself and the families are
interleaved in proportion, because mean surprisal otherwise sorts by family (which lost to shuffling when it was measured).
The order depends on the rows' content and the seed only, never on the order in which they were stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trails.errors import UsageError

ORDERS = ("shuffled", "rising", "falling", "rhythm:N", "source")

Int64 = npt.NDArray[np.int64]


def parse_order(text: str) -> tuple[str, int]:
    """Name and number of repeats. Raises UsageError naming what can be written."""
    if text in ("shuffled", "rising", "falling", "source"):
        return text, 1
    name, _, number = text.partition(":")
    if name == "rhythm":
        if not number:
            return name, 3
        if number.isdigit() and 2 <= int(number) <= 64:
            return name, int(number)
    raise UsageError(f"order {text!r} is not known. Write one of: {', '.join(ORDERS)} (N from 2 to 64).")


def arrange(
    order: str,
    ids: Sequence[str],
    surprisal: npt.NDArray[np.float64],
    families: Sequence[str],
    names: Sequence[tuple[str, str]],
    *,
    seed: int = 0,
    stratify: bool = True,
) -> Int64:
    """Indices of rows in the order they are written; with a rhythm, rows occur several times.

    ``surprisal`` (rows,) is the mean over the labelled tokens, nats (NaN sorts last); ``names`` are (source, source id), needed
    for the order ``source`` only.
    """
    name, repeats = parse_order(order)
    rows = list(range(len(ids)))
    if name == "source":
        return np.array(
            sorted(rows, key=lambda row: (names[row][0], _natural(names[row][1]), ids[row])), dtype=np.int64
        )
    drawn = [hashlib.sha256(f"{seed} {name}".encode()).digest() for name in ids]
    shuffled = sorted(rows, key=drawn.__getitem__)
    if name == "shuffled":
        return np.array(shuffled, dtype=np.int64)
    if name == "rhythm":
        return _rhythm(shuffled, repeats)
    sign = 1.0 if name == "rising" else -1.0
    rank = {row: place for place, row in enumerate(shuffled)}

    def key(row: int) -> tuple[bool, float, int]:
        value = float(surprisal[row])
        return (value != value, sign * value if value == value else 0.0, rank[row])

    if not stratify:
        return np.array(sorted(rows, key=key), dtype=np.int64)
    groups: dict[str, list[int]] = {}
    for row in rows:
        groups.setdefault(families[row], []).append(row)
    placed: list[tuple[float, str, int]] = []
    for family, members in groups.items():
        members.sort(key=key)
        placed += [((place + 0.5) / len(members), family, row) for place, row in enumerate(members)]
    return np.array([row for _, _, row in sorted(placed)], dtype=np.int64)


def _natural(text: str) -> tuple[int, str]:
    """Numbers sort as numbers, before other text."""
    return (int(text), "") if text.isdecimal() and len(text) < 18 else (10**18, text)


def _rhythm(rows: Sequence[int], repeats: int) -> Int64:
    """Every row ``repeats`` times, the distance between its occurrences doubling.

    Row i of n first appears at time i; occurrence k follows ``n / 2**(repeats - 1) * (2**k - 1)`` later. Equal multiset of
    rows as plain repetition, other spacing: compare with ``shuffled`` at the same number of passes.
    """
    n = len(rows)
    unit = max(n / 2 ** (repeats - 1), 1.0)
    timed = [(i + unit * (2**k - 1), k, i, row) for i, row in enumerate(rows) for k in range(repeats)]
    return np.array([row for *_, row in sorted(timed)], dtype=np.int64)


def stratified_spread(families: Sequence[str], order: Int64) -> float:
    """How unevenly families are spread over the order, 0..1: the largest distance, over families, between the share of the
    family seen so far and the share of all rows seen so far. 0 = proportional everywhere, near 1 = one family after another.
    """
    sequence = [families[row] for row in order.tolist()]
    total = {family: sequence.count(family) for family in set(sequence)}
    worst = 0.0
    for family, count in total.items():
        seen = 0
        for place, name in enumerate(sequence, 1):
            seen += name == family
            worst = max(worst, abs(seen / count - place / len(sequence)))
    return worst
