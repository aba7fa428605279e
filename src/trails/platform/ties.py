"""Where the order of a list says nothing, because the rows in question have one value."""

from __future__ import annotations

import math
from collections.abc import Sequence

from trails.platform.text import counted


def same(one: float, two: float) -> bool:
    """Whether two values differ by no more than rounding does: a millionth of the larger one."""
    return math.isclose(one, two, rel_tol=1e-6, abs_tol=1e-9)


def leading(values: Sequence[float]) -> int:
    """How many values from the first on are the same; 0 for none."""
    return next((n for n, value in enumerate(values) if not same(value, values[0])), len(values))


def tie(values: Sequence[float], shown: int | None, measure: str, *, more: bool = False) -> str:
    """What to say below a list that is ordered by ``values`` and of which the first ``shown`` rows are printed (None: all):
    that all rows have one value, or that the list is cut among rows with one value. Empty where the order says something.

    ``more`` says that there may be rows behind the last value, whose values are not known.
    """
    count = len(values)
    if count < 2 or not all(math.isfinite(value) for value in values):
        return ""
    last = min(shown or count, count) - 1
    first = next(n for n in range(last, -1, -1) if n == 0 or not same(values[n - 1], values[last]))
    end = last + leading(values[last:])
    value = f"{values[last]:.4g}"
    if first == 0 and end == count:
        return (
            f"all {counted(count, 'row')}{' shown' if more else ''} have the same {measure} ({value}): "
            "none of them comes first"
        )
    if end - first > 1 and (end > last + 1 or (more and end == count)):
        behind = " and perhaps more" if more and end == count else ""
        return f"rows {first + 1:,} to {end:,}{behind} have the same {measure} ({value}): which of them are shown says nothing"
    return ""
