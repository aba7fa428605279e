"""Spans that a step border must not cut: code, LaTeX, addresses, short quotations and parentheses.

In: a text. Out: a text of the same length in which the inside of such spans is filled with a neutral character, so that the
rules that look for borders and connectives cannot see it. Linear in the text: no search for a closing mark looks twice at the
same stretch.
"""

from __future__ import annotations

import re

FILL = "\x01"
"""Neither letter, digit, blank nor punctuation for the rules (the separators U+001C to U+001F would count as blanks)."""

QUOTE_CHARS = 240
"""A longer quotation or parenthesis is running text of its own and may be split."""

_OPENER = re.compile(
    r"```|~~~|`|\$\$?|\\\[|\\\(|\\begin\{([a-zA-Z]+\*?)\}|\[asy\]|https?://[^\s<>\"]+|www\.[^\s<>\"]+|[\"“«„(\[]"
)
_TRAILING = ".,;:!?)]}'\"»”*_"
_CLOSERS = {"“": "”", "«": "»", "„": "“", "(": ")", "[": "]"}
_SENTENCE_END = re.compile(r"[.!?…]\s*$")


class _Finder:
    """``str.find`` within bounds that never scans a stretch twice for the same closing mark."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.known: dict[str, tuple[int, int]] = {}

    def find(self, mark: str, start: int, limit: int) -> int:
        """Position of the first ``mark`` in ``start … start + limit``, or -1."""
        end = min(start + limit, len(self.text))
        low, high = self.known.get(mark, (0, 0))
        if low <= start < high:
            if end <= high:
                return -1
            begin = max(start, high - len(mark) + 1)
        else:
            low, begin = start, start
        found = self.text.find(mark, begin, end)
        self.known[mark] = (low, end if found < 0 else found)
        return found


def _closing(text: str, opener: str, environment: str | None, start: int, inside: int, finder: _Finder) -> int:
    """End of the span that ``opener`` at ``start`` begins (its content at ``inside``), or -1 when it begins none."""
    if opener in ("```", "~~~"):
        line = text[max(0, start - 4) : start].rpartition("\n")[2]
        if line.strip() or len(line) > 3:
            return -1  # a fence stands at the beginning of a line
        found = finder.find(opener, inside, len(text))
        return found + 3 if found >= 0 else len(text)
    if opener == "`":
        found = finder.find("`", inside, QUOTE_CHARS)
        return found + 1 if found > inside and "\n" not in text[inside:found] else -1
    if opener == "$$":
        found = finder.find("$$", inside, 5_000)
        return found + 2 if found >= 0 else -1
    if opener == "$":
        # the rule of Pandoc: no blank inside the dollars at either end, no digit behind; so "$5 and $10" is money
        if inside >= len(text) or text[inside].isspace():
            return -1
        found = finder.find("$", inside, 500)
        if found < 0 or text[found - 1].isspace() or text[found + 1 : found + 2].isdigit():
            return -1
        return found + 1 if "\n\n" not in text[inside:found] else -1
    if opener in ("\\[", "\\("):
        closer = "\\]" if opener == "\\[" else "\\)"
        found = finder.find(closer, inside, 5_000)
        return found + 2 if found >= 0 else -1
    if environment:
        closer = f"\\end{{{environment}}}"
        found = finder.find(closer, inside, 20_000)
        return found + len(closer) if found >= 0 else -1
    if opener == "[asy]":
        found = finder.find("[/asy]", inside, 20_000)
        return found + 6 if found >= 0 else -1
    if opener == '"':
        before = text[start - 1 : start]
        if (before and (before.isalnum() or before in ".,!?")) or text[inside : inside + 1].isspace():
            return -1
        found = finder.find('"', inside, QUOTE_CHARS)
        if found <= inside or text[found - 1].isspace() or text[found + 1 : found + 2].isalnum():
            return -1
        return found + 1 if "\n" not in text[inside:found] else -1
    closer = _CLOSERS[opener]
    found = finder.find(closer, inside, QUOTE_CHARS)
    return found + 1 if found >= 0 and "\n" not in text[inside:found] else -1


def mask(text: str) -> str:
    """The text with protected spans filled; same length. A quotation that ends a sentence keeps its last mark.

    So ``He said "Stop. Go."`` still ends at ``."``, while the first full stop is hidden.
    """
    finder = _Finder(text)
    pieces: list[str] = []
    at = 0
    position = 0
    while True:
        found = _OPENER.search(text, position)
        if found is None:
            break
        opener, start, inside = found.group(), found.start(), found.end()
        if opener[0] in "hw":
            end = start + len(opener.rstrip(_TRAILING))
        else:
            end = _closing(text, opener, found.group(1), start, inside, finder)
        if end < 0:
            position = inside
            continue
        pieces.append(text[at:start])
        tail = ""
        if opener in ('"', "“", "«", "„", "$", "$$", "\\[", "\\(") and end - inside >= 2:
            closer = 2 if opener in ("$$", "\\[", "\\(") else 1
            if _SENTENCE_END.search(text, max(inside, end - closer - 3), end - closer):
                # the end of the sentence lies inside the quotation or the formula: let it be seen before the closing mark
                tail = text[end - closer - 1 : end - closer].replace("\n", FILL).replace(" ", FILL) + "\x02" * closer
        pieces.append(FILL * (end - start - len(tail)) + tail)
        at = position = end
    pieces.append(text[at:])
    return "".join(pieces)
