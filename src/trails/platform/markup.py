"""Static HTML for notebooks: without scripts, styles and addresses, every text escaped."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trails.platform.text import counted, visible

HTML_ROWS = 50
"""Rows of a table that a notebook shows."""

CELL_CHARACTERS = 2_000
"""Characters of a cell that a notebook shows."""


def escaped(text: str) -> str:
    """``text`` as HTML that shows it; what steers or cannot be seen is written out."""
    return html.escape(visible(text))


def html_table(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str, say: Callable[[str], str] = escaped
) -> str:
    """A table with a caption; ``say`` makes HTML of a text."""
    head = "".join(f"<th>{say(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{say(_cut(_cell(value)))}</td>" for value in row) + "</tr>" for row in rows)
    return f"<table><caption>{say(title)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def html_tree(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    depths: Sequence[int],
    title: str,
    say: Callable[[str], str] = escaped,
) -> str:
    """Rows as nested lists under a title: a row of depth d, 0 or more, stands below the last one of a smaller depth, and can be
    folded with what is below it. The first cell is its name, without the two blanks of each depth; the others follow it with
    their headings, those without a value left out. ``say`` makes HTML of a text.
    """
    parts, open_ = [f"<p><strong>{say(title)}</strong></p><ul>"], list[int]()
    for number, (row, depth) in enumerate(zip(rows, depths, strict=True)):
        while open_ and open_[-1] >= depth:
            parts.append("</ul></details></li>")
            open_.pop()
        name, *values = (_cut(_cell(value)) for value in row)
        told = "; ".join(
            f"{say(heading)} {say(text)}" for heading, text in zip(columns[1:], values, strict=True) if text
        )
        line = f"<strong>{say(name[2 * depth :])}</strong>: {told}"
        if number + 1 < len(rows) and depths[number + 1] > depth:
            parts.append(f"<li><details open><summary>{line}</summary><ul>")
            open_.append(depth)
        else:
            parts.append(f"<li>{line}</li>")
    return "".join(parts) + "</ul></details></li>" * len(open_) + "</ul>"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.4g}"
    if isinstance(value, list | tuple):
        texts = bool(value) and all(isinstance(item, str) for item in value)  # they hold commas and may be empty
        return " | ".join(item or "∅" for item in value) if texts else ", ".join(_cell(item) for item in value)
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def _cut(text: str) -> str:
    if len(text) <= CELL_CHARACTERS:
        return text
    return f"{text[:CELL_CHARACTERS]} … ({counted(len(text) - CELL_CHARACTERS, 'more character')})"
