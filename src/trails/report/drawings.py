"""The two pictures on the page of the corpus, as shapes that its script puts there.

They show which role follows which, and how surprising the tokens are. A drawing is ``{"size": [width, height], "parts":
[[element, attributes, word, text, before]]}`` in SVG's units. ``word`` is a key of the page's own words, said in the reader's
language between ``before`` (may be missing) and ``text``; of a shape they are its tooltip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

MAX_ARROWS = 40
"""Arrows of the picture of roles, the most frequent; the table beside it lists all."""

COUNTED_ARROWS = 12
"""Arrows that have their count written on them."""

Part = list[Any]


def roles_drawing(roles: Sequence[Mapping[str, Any]], follows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Roles on a circle, with an arrow for every pair of neighbours; a wider arrow is a more frequent pair, and a pale one is
    not more frequent than if neighbours were independent. ``roles`` and ``follows`` are those of the corpus page's record.
    """
    width, height, radius = 620, 440, 150
    number = {row["role"]: place for place, row in enumerate(roles)}
    most = max((row["count"] for row in roles), default=1)
    size = {row["role"]: 5 + 14 * math.sqrt(row["count"] / most) for row in roles}

    def place(role: str, out: float = 0.0) -> tuple[float, float]:
        turn = 2 * math.pi * number[role] / len(roles)
        return width / 2 + (radius + out) * math.sin(turn), height / 2 - (radius + out) * math.cos(turn)

    parts: list[Part] = []
    counts: list[Part] = []
    widest = max((row["count"] for row in follows), default=1)
    for rank, row in enumerate(follows[:MAX_ARROWS]):
        here, there, count = row["from"], row["to"], row["count"]
        stroke = 0.6 + 6 * count / widest
        opacity = 0.8 if count > row["expected"] else 0.25
        told = f"{row['expected']:.1f}", f"{here} → {there}: {count:,}; "
        line = {"class": "arc", "stroke-width": round(stroke, 2), "stroke-opacity": opacity}
        (x1, y1), (x2, y2) = place(here), place(there)
        if here == there:
            x, y = place(here, size[here] + 7)
            loop = f"M{x - 9:.1f} {y:.1f}a9 9 0 1 1 18 0a9 9 0 1 1 -18 0"
            parts.append(["path", {**line, "d": loop}, "expected", *told])
            continue
        # the line bends to one side, so that the way back has a line of its own; it ends at the circle of the role
        mx, my = (x1 + x2) / 2 + (y2 - y1) * 0.18, (y1 + y2) / 2 + (x1 - x2) * 0.18
        far = math.hypot(x2 - mx, y2 - my)
        ux, uy = (x2 - mx) / far, (y2 - my) / far
        tip, head = size[there] + 1, 6 + stroke

        def along(back: float, side: float, at: tuple[float, ...] = (x2, y2, ux, uy)) -> str:
            return f"{at[0] - at[2] * back - at[3] * side:.1f} {at[1] - at[3] * back + at[2] * side:.1f}"

        curve = f"M{x1:.1f} {y1:.1f}Q{mx:.1f} {my:.1f} {along(tip + head - 1, 0)}"
        corners = f"M{along(tip, 0)}L{along(tip + head, head / 2)}L{along(tip + head, -head / 2)}z"
        parts.append(["path", {**line, "d": curve}, "expected", *told])
        parts.append(["path", {"class": "head", "d": corners, "fill-opacity": opacity}, "expected", *told])
        if rank < COUNTED_ARROWS:
            counts.append(_text((x1 + x2 + 2 * mx) / 4, (y1 + y2 + 2 * my) / 4 + 4, "middle", f"{count:,}", over=True))
    loops = {row["from"] for row in follows[:MAX_ARROWS] if row["from"] == row["to"]}
    names = []
    for row in roles:
        role = row["role"]
        x, y = place(role)
        parts.append(["circle", {"cx": round(x, 1), "cy": round(y, 1), "r": round(size[role], 1)}, "", ""])
        x, y = place(role, size[role] + (24 if role in loops else 10))
        anchor = "middle" if abs(x - width / 2) < 1 else "start" if x > width / 2 else "end"
        names.append(_text(x, y + 4, anchor, f"{role} {row['count']:,}"))
    return {"size": [width, height], "parts": [*parts, *counts, *names]}


def histogram_drawing(edges: Sequence[float], counts: Sequence[int], uniform: float, mean: float) -> dict[str, Any]:
    """Tokens by surprisal: a bar for every class, whose height is the number of tokens in it, with an axis on both sides; the
    mean, and as a broken line what a uniform guess costs (each NaN: no line)."""
    width, height, left, right, top, floor = 500, 238, 64, 484, 48, 198
    last, most = edges[-1], max(1, *counts)

    def across(nats: float) -> float:
        return left + (right - left) * min(1.0, nats / last)

    def up(count: float) -> float:
        return floor - (floor - top) * count / most

    parts: list[Part] = []
    for level in (0.0, most / 2, float(most)):
        parts.append(["path", {"d": f"M{left - 4} {up(level):.1f}H{right}", "stroke-dasharray": "1 4"}, "", ""])
        parts.append(_text(left - 8, up(level) + 4, "end", f"{level:,.0f}"))
    for nats in range(0, int(last) + 1, 4):
        parts.append(["path", {"d": f"M{across(nats):.1f} {floor}v4"}, "", ""])
        parts.append(_text(across(nats), floor + 17, "middle", str(nats)))
    for low, high, count in zip(edges, edges[1:], counts, strict=False):
        x = across(low)
        bar = {"x": round(x, 1), "y": round(up(count), 1), "width": round(max(1.0, across(high) - x - 1), 1)}
        parts.append(["rect", bar | {"height": round(floor - up(count), 1)}, "", f"{low:.1f}–{high:.1f}: {count:,}"])
    for value, word, dash, y in ((uniform, "uniform", "4 4", 11), (mean, "average", "0", 25)):
        if not math.isfinite(value):
            continue
        parts.append(["path", {"d": f"M{across(value):.1f} {y - 8}V{floor}", "stroke-dasharray": dash}, "", ""])
        side = (-5, "end") if across(value) > width / 2 else (5, "start")
        parts.append(_text(across(value) + side[0], y, side[1], f"{value:.3f}", word))
    parts.append(_text(right, height - 4, "end", "", "nats"))
    parts.append(_text(left - 8, 34, "end", "", "tokens"))
    return {"size": [width, height], "parts": parts}


def _text(x: float, y: float, anchor: str, text: str, word: str = "", *, over: bool = False) -> Part:
    """A text at a place; ``over`` keeps it readable on a line."""
    given = {"x": round(x, 1), "y": round(y, 1), "text-anchor": anchor} | ({"class": "on"} if over else {})
    return ["text", given, word, text]
