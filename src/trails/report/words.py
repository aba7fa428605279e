"""What the program says, in Russian: the table of sentences that a page carries, looked up as the page's script does."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources

from trails.platform.markup import escaped

SLOT = re.compile(r"\b[a-z][0-9a-f]{16}\b|\d[\d,.]*\d|\d")
"""Ids (``@`` in the table) and numbers (``#``)."""

_PLACES = re.compile(r"[#@]|\[([^\]|]*\|[^\]]*)\]")
_AS_IT_IS = re.compile(r"(?:trails |--).*|\S*[_/]\S*|“[^”]*”", re.DOTALL)
_CLAUSES = (re.compile("(“[^”]*”| → )"), re.compile(r"([;:] | · )"), re.compile(r"(, )"))


@cache
def sentences() -> dict[str, str]:
    """English sentences, clauses and names with numbers as ``#`` and ids as ``@``, and each in Russian."""
    text = (resources.files("trails.report") / "assets" / "said.json").read_text(encoding="utf-8")
    found: dict[str, str] = json.loads(text)
    return found


def filled(text: str, slots: Sequence[str]) -> str:
    """A Russian sentence of the table with its numbers and ids, in their order.

    ``[цепочка|цепочки|цепочек]`` becomes the form that goes with the last number before it, or with the first one: with 1,
    21, 31 …, with 2 to 4, 22 to 24 … and fractions, with every other number.
    """
    at = -1

    def put(found: re.Match[str]) -> str:
        nonlocal at
        if found[1] is not None:
            return found[1].split("|")[_form(slots[max(at, 0)])]
        at += 1
        return grouped(slots[at])

    return _PLACES.sub(put, text)


def grouped(text: str) -> str:
    """Thousands with a blank that does not break between them, as Russian writes them: ``12,345`` as ``12 345``."""
    return re.sub(r"(\d),(?=\d{3}(?!\d))", "\\1\u00a0", text)


def _form(number: str) -> int:
    """Which of three Russian forms goes with a number, as ``Intl.PluralRules`` says."""
    value = float(number.replace(",", ""))
    if value % 1:
        return 1
    if value % 10 == 1 and value % 100 != 11:
        return 0
    return 1 if value % 10 in (2, 3, 4) and value % 100 not in (12, 13, 14) else 2


def in_russian(text: str) -> list[tuple[str, bool]]:
    """The parts of a text in their order, each in Russian or, where the table lacks it, as it is with False.

    A text is looked up whole, then clause by clause. Commands, options, names with ``_`` or ``/``,
    “quotations” and what has no word stay as they are.
    """
    found = SLOT.findall(text)
    template = SLOT.sub(lambda slot: "@" if len(slot[0]) == 17 and not slot[0][0].isdigit() else "#", text)
    if template in sentences():
        return [(filled(sentences()[template], found), True)]
    if _AS_IT_IS.fullmatch(text):
        return [(text, True)]
    if not re.search("[a-z]{2}", SLOT.sub("", text), re.IGNORECASE):
        return [(grouped(text), True)]
    clauses = next((parts for at in _CLAUSES if len(parts := at.split(text)) > 1), None)
    return [part for clause in clauses for part in in_russian(clause)] if clauses else [(text, False)]


def russian_html(text: str) -> str:
    """The same as HTML; what is not in Russian is marked as English."""
    return "".join(
        escaped(part) if known else f'<span lang="en">{escaped(part)}</span>' for part, known in in_russian(text)
    )
