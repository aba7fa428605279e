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
