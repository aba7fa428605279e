"""Text of strangers as a terminal may show it: a character that would steer the terminal is written out instead."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from trails.errors import UsageError

_STEERING = (
    r"\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # C0 without tab and line feed, delete, C1: ESC, CSI, OSC and their kind
    r"\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"  # order, invisible
    r"\u2028\u2029"  # line and paragraph separators
    r"\U000e0000-\U000e007f"  # tags: invisible copies of ASCII
    r"\ud800-\udfff"  # half a character: cannot be encoded
)
_UNSAFE = re.compile(rf"\r(?!\n)|[{_STEERING}]")
_UNSAFE_IN_JSON = re.compile(rf"[{_STEERING}]")


def visible(text: str) -> str:
    r"""``text`` with every character that steers a terminal or cannot be seen written as ``\x1b``, ``\u202e`` …

    These are C0 (tab, line feed and the carriage return before a line feed stay), delete, C1, the marks and overrides of
    writing direction, invisible formatting characters, tags, separators of lines and paragraphs, and lone surrogates. The
    joiners U+200C and U+200D stay: emoji and several scripts need them. Applying it twice gives the same.
    """
    return _UNSAFE.sub(lambda found: _written_out(ord(found.group())), text)


def jsonable(value: Any) -> Any:
    """A value as JSON can hold it: NaN and infinities become null, numbers of numpy plain ones, keys text.

    What JSON cannot hold stays, for :mod:`json` to refuse.
    """
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if type(value).__module__ == "numpy" and not getattr(value, "ndim", 1):  # this module does without importing numpy
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def one_line(text: str) -> str:
    r"""``text`` made :func:`visible` on one line: tab and line end are written ``\t``, ``\r`` and ``\n``. A name that holds one
    cannot start a line of its own.
    """
    return visible(text.replace("\t", "\\t").replace("\r", "\\r").replace("\n", "\\n"))


def whole_number(text: str) -> int | None:
    """The number that ``text`` writes with the digits 0 to 9, at most 18 of them; None for anything else. Digits of other
    scripts and superscripts are no numbers here: nobody types them for one.
    """
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


def named(what: str, text: str) -> str:
    """``text`` without the spaces around it: the name of a ``what`` (``run``, ``chain``), or the beginning of its id.

    Raises UsageError for an empty one: every id begins with nothing.
    """
    if found := text.strip():
        return found
    raise UsageError(
        f"the name of a {what} was asked for and is empty, as a variable that is not set is. Write the {what}'s name"
    )


def counted(count: int, one: str, many: str = "") -> str:
    """``1 chain``, ``2 chains``, ``1,200 families``: a number with its noun. ``many`` is the plural where it is not made by
    ``-s``, ``-es`` behind a hissing sound, or ``-ies`` for ``-y`` behind a consonant; with a verb both are given:
    ``counted(n, "chain is", "chains are")``.
    """
    return f"{count:,} {agreeing(count, one, many or plural(one))}"


def agreeing(count: int, one: str, many: str) -> str:
    """The word that agrees with a number: ``one`` with 1, else ``many``."""
    return one if count == 1 else many


def part_of(part: int, whole: int, one: str, verb: str, verbs: str) -> str:
    """``1 of 3 chains has``, ``0 of 1 chain has``, ``2 of 3 chains have``: a part of a number of things with its verb, which is
    in the singular for one of them, and where there is only one.
    """
    return f"{part:,} of {counted(whole, one)} {verb if 1 in (part, whole) else verbs}"


def plural(one: str) -> str:
    """The regular plural of an English noun."""
    if re.search(r"[^aeiou]y$", one):
        return f"{one[:-1]}ies"
    return f"{one}es" if re.search(r"(s|x|z|ch|sh)$", one) else f"{one}s"


def singular(many: str) -> str:
    """The noun of a regular plural; a word that is none stays."""
    if many.endswith("ies"):
        return f"{many[:-3]}y"
    if re.search(r"(s|x|z|ch|sh)es$", many):
        return many[:-2]
    return many[:-1] if many.endswith("s") and not many.endswith("ss") else many


def percent(share: float) -> str:
    """A share in words: "84 %", with a digit after the point near none and all; "0 %" and "100 %" only for exactly that. A
    share below 0 or above 1, which a difference can be, is written in the same way: "-20 %", "-0.4 %", "under 0 %", "140 %",
    "100.4 %", "over 100 %".
    """
    if not math.isfinite(share):
        return "an unknown share"
    value = 100 * share
    if value in (0, 100):
        return f"{abs(value):.0f} %"
    if not 0 < value < 100:
        beyond = max(-value, value - 100)
        if beyond < 0.05:
            return "under 0 %" if value < 0 else "over 100 %"
        return f"{value:.0f} %" if beyond >= 1 else f"{value:.1f} %"
    if not 0.05 <= value < 99.95:
        return "under 0.1 %" if value < 1 else "over 99.9 %"
    return f"{value:.0f} %" if 10 <= value < 99.5 else f"{value:.1f} %"


def beginning(text: str, width: int) -> str:
    """The first words of a text on one line, at most ``width`` characters; `` …`` says that there is more. It ends between
    words; a text without spaces ends between characters.
    """
    line = " ".join(text[: 4 * width + 400].split())
    if len(line) <= width and len(text) <= 4 * width + 400:
        return line
    room = max(width - 2, 1)
    head = line[:room]
    if line[room : room + 1].strip() and " " in head[room // 3 :]:
        head = head.rsplit(" ", 1)[0]
    return f"{head.rstrip()} …"


def json_text(value: Any, indent: int | None = 2) -> str:
    r"""JSON, indented or on one line (None), that reads back as the very same value and steers no terminal: the characters
    of :func:`visible` are written as JSON's own escapes (``\u202e``).
    """
    return _UNSAFE_IN_JSON.sub(_json_escape, json.dumps(value, ensure_ascii=False, indent=indent))


def _written_out(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _json_escape(found: re.Match[str]) -> str:
    return json.dumps(found.group())[1:-1]


_FORMULA = re.compile(rf"[\t\r\n]|[\s{_STEERING}]*[=+\-@＝＋－＠]")


def spreadsheet_text(text: str) -> str:
    """A text field of CSV that no spreadsheet takes for a formula: an apostrophe is put before a text whose first visible
    character is =, +, - or @, and before one that starts with tab or line end."""
    return f"'{text}" if _FORMULA.match(text) else text
