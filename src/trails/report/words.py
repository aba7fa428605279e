"""What the program says, in Russian: the table of sentences that a page carries, looked up as the page's script does."""

from __future__ import annotations

import json
import re
from functools import cache
from importlib import resources

from trails.platform.markup import escaped

SLOT = re.compile(r"\b[a-z][0-9a-f]{16}\b|\d[\d,.]*\d|\d")
"""Ids (``@`` in the table) and numbers (``#``)."""

_AS_IT_IS = re.compile(r"trails .*|\S*[_/]\S*")
_CLAUSES = (re.compile(r"([;:] | · )"), re.compile(r"(, )"))


@cache
def sentences() -> dict[str, str]:
    """English sentences, clauses and names with numbers as ``#`` and ids as ``@``, and each in Russian."""
    text = (resources.files("trails.report") / "assets" / "said.json").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(text)
    return found


def in_russian(text: str) -> list[tuple[str, bool]]:
    """The parts of a text in their order, each in Russian or, where the table lacks it, as it is with False.

    A text is looked up whole, then clause by clause. Commands, names with ``_`` or ``/`` and what has no word stay as they are.
    """
    found = SLOT.findall(text)
    template = SLOT.sub(lambda slot: "@" if len(slot[0]) == 17 and not slot[0][0].isdigit() else "#", text)
    if template in sentences():
        rest = iter(found)
        return [(re.sub("[#@]", lambda _: next(rest), sentences()[template]), True)]
    if _AS_IT_IS.fullmatch(text) or not re.search("[a-z]{2}", SLOT.sub("", text), re.IGNORECASE):
        return [(text, True)]
    clauses = next((parts for at in _CLAUSES if len(parts := at.split(text)) > 1), None)
    return [part for clause in clauses for part in in_russian(clause)] if clauses else [(text, False)]


def russian_html(text: str) -> str:
    """The same as HTML; what is not in Russian is marked as English."""
    return "".join(
        escaped(part) if known else f'<span lang="en">{escaped(part)}</span>' for part, known in in_russian(text)
    )
