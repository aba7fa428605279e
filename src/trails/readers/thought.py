"""The thought, the answer and the rest of what a model wrote, told apart by their marks.

In: the text of one turn. Out: :class:`Written`. One table holds all marks; a user's own pair is put in front of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

XML_THOUGHTS = ("think", "thinking", "thought", "thoughts", "reasoning", "reason", "scratchpad", "seed:think")
XML_ANSWERS = ("answer", "output", "solution", "response", "final_answer", "final")

THOUGHT_MARKS: tuple[tuple[str, str], ...] = (
    *((f"<{name}>", f"</{name}>") for name in XML_THOUGHTS),
    ("[THINK]", "[/THINK]"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|think|>", "<|/think|>"),
    ("◁think▷", "◁/think▷"),
    ("<unused94>thought", "<unused95>"),
    ("<|channel>thought", "<channel|>"),
)
"""Marks around a thought: opening, closing. Case does not matter."""

ANSWER_MARKS: tuple[tuple[str, str], ...] = (
    *((f"<{name}>", f"</{name}>") for name in XML_ANSWERS),
    ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ("<|START_RESPONSE|>", "<|END_RESPONSE|>"),
)
"""Marks around the answer that follows a thought; the closing one may be missing at the end."""

FINAL_MARKS = tuple(pair for pair in ANSWER_MARKS if pair[0] in ("<answer>", "<final_answer>", "<|begin_of_solution|>"))
"""Marks that end a text without a thought; the others may well belong to the text itself."""

_CHANNEL = re.compile(
    r"(?:<\|start\|>[^<]{0,80})?<\|channel\|>\s*(\w+)[^<]{0,80}<\|message\|>"
    r"(.*?)(?:<\|(?:end|return|call)\|>|(?=<\|(?:start|channel)\|>)|\Z)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Written:
    """A turn taken apart. Nothing is lost: ``before``, ``between`` and ``after`` hold what is neither thought nor answer.

    ``chain`` is what is measured: the thought, or the whole text where there is none. ``kind`` says how the thought was found:
    empty (no marks), ``closed``, ``opened-by-template`` (only the closing mark is there), ``unfinished`` (only the opening
    one), ``empty`` (marks with nothing between: the text after them is the chain), ``channels``. ``thoughts`` counts them;
    ``left`` holds the marks that stay inside the chain.
    """

    chain: str
    answer: str = ""
    before: str = ""
    between: str = ""
    after: str = ""
    kind: str = ""
    thoughts: int = 0
    left: tuple[str, ...] = ()

    @property
    def has_thought(self) -> bool:
        """Whether the chain is a thought, told apart from what follows it."""
        return self.kind not in ("", "empty")

    @property
    def rest(self) -> dict[str, str]:
        """What is neither chain nor answer, by place, without empty parts."""
        parts = {"before": self.before, "between": self.between, "after": self.after}
        return {f"text_{place}": text for place, text in parts.items() if text}


@lru_cache(maxsize=64)
def _pattern(pairs: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    return re.compile("|".join(re.escape(mark) for pair in pairs for mark in pair), re.IGNORECASE)


def take_apart(text: str, own: Sequence[tuple[str, str]] = ()) -> Written:
    """Thought, answer and rest of a text. ``own`` are further pairs of marks around a thought; they come first."""
    if "<|channel|>" in text:
        found = _channels(text)
        if found is not None:
            return found
    pairs = (*own, *THOUGHT_MARKS)
    marks = list(_pattern(pairs).finditer(text)) if _may_hold_marks(text, own) else []
    if not marks:
        return _without_thought(text, pairs)
    of = {
        mark.lower(): (number, side)
        for number, pair in reversed(list(enumerate(pairs)))
        for side, mark in enumerate(pair)
    }
    sides = [of[mark.group().lower()] for mark in marks]
    last_close = {pair: place for place, (pair, side) in enumerate(sides) if side == 1}
    spans: list[tuple[int, int, int, int]] = []  # outer start, inner start, inner end, outer end
    kind = "closed"
    place = 0
    while place < len(marks):
        pair, side = sides[place]
        mark = marks[place]
        if side == 1:
            if spans or any(known == pair for known, _ in sides[:place]):
                place += 1
                continue
            kind = "opened-by-template"
            spans.append((0, 0, mark.start(), mark.end()))
        elif last_close.get(pair, -1) > place:
            closing = next(n for n in range(place + 1, len(marks)) if sides[n] == (pair, 1))
            spans.append((mark.start(), mark.end(), marks[closing].start(), marks[closing].end()))
            place = closing
        elif not spans and _at_line_start(text, mark.start()):
            kind = "unfinished"
            spans.append((mark.start(), mark.end(), len(text), len(text)))
            break
        place += 1
    if not spans:
        return _without_thought(text, pairs)
    thoughts = [text[inner:end].strip() for _, inner, end, _ in spans]
    before = text[: spans[0][0]].strip()
    between = [text[left[3] : right[0]].strip() for left, right in pairwise(spans)]
    answer, first, after = _answer(text[spans[-1][3] :])
    if first:
        between.append(first)
    said = [thought for thought in thoughts if thought]
    if not said:
        chain = "\n\n".join(filter(None, (before, *between, after))) or answer
        return Written(chain, "" if chain == answer else answer, kind="empty", left=_left(chain, pairs))
    chain = "\n\n".join(said)
    return Written(
        *(chain, answer, before, "\n\n".join(filter(None, between)), after, kind, len(said)),
        left=_left(chain, pairs),
    )


def _may_hold_marks(text: str, own: Sequence[tuple[str, str]]) -> bool:
    # most texts hold none, and the table is long
    return "<" in text or "[" in text or "◁" in text or bool(own)


def _at_line_start(text: str, at: int) -> bool:
    return not text[text.rfind("\n", 0, at) + 1 : at].strip()


def _left(chain: str, pairs: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    if not ("<" in chain or "[" in chain or "◁" in chain):
        return ()
    return tuple(found.group() for found in _pattern((*pairs, *ANSWER_MARKS)).finditer(chain))


def _answer(rest: str) -> tuple[str, str, str]:
    """(answer, what stands before it, what stands after it) of what follows a thought."""
    found = _pattern(ANSWER_MARKS).search(rest) if "<" in rest else None
    pair = next((p for p in ANSWER_MARKS if found and found.group().lower() == p[0].lower()), None)
    if found is None or pair is None:
        return rest.strip(), "", ""
    closing = re.compile(re.escape(pair[1]), re.IGNORECASE).search(rest, found.end())
    end, after = (closing.start(), closing.end()) if closing else (len(rest), len(rest))
    return rest[found.end() : end].strip(), rest[: found.start()].strip(), rest[after:].strip()


def _without_thought(text: str, pairs: tuple[tuple[str, str], ...]) -> Written:
    """A text without a thought in marks; an answer in marks at its end is taken out."""
    trimmed = text.rstrip()
    for opening, closing in FINAL_MARKS:
        if trimmed[-len(closing) :].lower() != closing.lower():
            continue
        starts = [found.start() for found in re.finditer(re.escape(opening), trimmed, re.IGNORECASE)]
        if len(starts) == 1 and trimmed[: starts[0]].strip():
            chain = trimmed[: starts[0]].strip()
            inner = trimmed[starts[0] + len(opening) : -len(closing)].strip()
            return Written(chain, inner, left=_left(chain, pairs))
    return Written(text, left=_left(text, pairs))


def _channels(text: str) -> Written | None:
    """``<|channel|>analysis<|message|>…<|end|>``: analysis is the thought, final the answer, everything else the rest."""
    parts: dict[str, list[str]] = {}
    for found in _CHANNEL.finditer(text):
        name = found.group(1).lower()
        parts.setdefault(name if name in ("analysis", "final") else "rest", []).append(found.group(2).strip())
    if not parts:
        return None
    thoughts = [part for part in parts.get("analysis", []) if part]
    answer, between = "\n\n".join(parts.get("final", [])), "\n\n".join(parts.get("rest", []))
    if not thoughts:
        return Written(answer or between, "", between=between if answer else "", kind="empty")
    return Written("\n\n".join(thoughts), answer, between=between, kind="channels", thoughts=len(thoughts))
