"""What a step is a part of: its scene, and the source's own step or line that it came from.

In: the text of a chain and the starts of its steps. Out: two numbers a step. Rules only; no lexicon is needed.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

_HEADING = re.compile(
    r"\s*(?:#{1,6}\s|(?:chapter|part|section|глава|часть|раздел)\s+(?:\d{1,4}|[ivxlc]{1,7})\b|\*\*[^*\n]{1,120}\*\*\s*$)",
    re.IGNORECASE | re.MULTILINE,
)
_TURN = re.compile(
    r"[\s>*_#]*(?:q|question|a|answer|reflection|thought|observation|action|вопрос|ответ|размышление|мысль|рефлексия)"
    r"(?:\s+\d{1,3})?\s*[:.]",
    re.IGNORECASE,
)
_REFLECTION = re.compile(
    r"\s*(?:(?:but|hmm|oh|so)[,\s]+)?(?:wait\b|hold on\b|"
    r"let me (?:double-?check|re-?check|check|verify|reconsider|re-?think)\b)"
    r"|\s*(?:но\s+)?(?:подожд|погоди|постой|стоп\b|проверим\b|проверю\b|перепровер)",
    re.IGNORECASE,
)
_SPEAKER = re.compile(r"\s*([A-ZА-ЯЁ][\w.'’-]{0,24}(?: [A-ZА-ЯЁ][\w.'’-]{0,24}){0,2}):\s")
MIN_SPEECHES = 2
"""Speeches that each of at least two speakers has; else "Note:" and "Total:" would be speakers."""


def scenes(text: str, starts: Sequence[int]) -> tuple[int, ...]:
    """Scene of every step, from 0.

    A scene begins with a heading (Markdown, "Chapter 3", "Глава 3", a line in bold), a label of a turn ("Question:", "Ответ:",
    "Thought 2:"), a reflection ("Wait, …", "Let me double-check", "Проверим"), or where another speaker begins ("NAME: …" at
    the beginning of a line, if at least two names occur twice or more). The first step is in scene 0.
    """
    fresh = [_at_line(text, start) for start in starts]
    found = [_SPEAKER.match(text, start) if line else None for start, line in zip(starts, fresh, strict=True)]
    names = Counter(match[1] for match in found if match)
    speakers = {name for name, count in names.items() if count >= MIN_SPEECHES}
    result: list[int] = []
    scene, speaker, reflecting = 0, "", False
    for number, start in enumerate(starts):
        begins = False
        if fresh[number] and (_HEADING.match(text, start) or _TURN.match(text, start)):
            begins, reflecting = True, False
        reflection = bool(_REFLECTION.match(text, start))
        begins |= reflection and not reflecting
        reflecting = reflection
        said = found[number]
        if len(speakers) > 1 and said and said[1] in speakers and said[1] != speaker:
            begins, speaker = True, said[1]
        scene += begins and number > 0
        result.append(scene)
    return tuple(result)


def _at_line(text: str, start: int) -> bool:
    """Whether only blanks stand between the beginning of the line and ``start``."""
    at = start - 1
    while at >= 0 and text[at] in " \t":
        at -= 1
    return at < 0 or text[at] == "\n"


def source_lines(text: str, starts: Sequence[int], boundaries: Sequence[int]) -> tuple[int, ...]:
    """Number of the source's own step (a line of GSM8K, a premise of FOLIO) that every step came from, from 1; the line of the
    text where the source gives none.
    """
    inside = [b for b in boundaries if 0 < b < len(text)]
    edges = sorted({0, *inside}) if boundaries else [0, *(m.end() for m in re.finditer(r"\n", text))]
    return tuple(bisect_right(edges, start) for start in starts)
