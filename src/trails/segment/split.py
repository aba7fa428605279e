"""Where steps begin, and what role each has.

In: a text and a lexicon. Out: starts of steps, and for each a role with its connective. Two passes over the masked text:
hard borders (lines and sentences), then connectives inside each sentence. Every pattern is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from trails.schema import Role, Step
from trails.segment.lexicon import LETTERS, Cue, Lexicon
from trails.segment.mask import FILL, mask

# a sentence end: full stops and their kind, closing marks (also the mask's own), then a blank
# (the look-behind lets a match begin only where a run begins, which keeps a long run of full stops linear)
_HARD = re.compile(r"(?<![.!?…。！？])[.!?…。！？]++[\x02\"'»”’)\]}*_]*+(?=\s)|[。！？]|\n")
_LAST_WORD = re.compile(r"[^\s(\[\"«“*_]+$")
_LIST_MARK = re.compile(
    r"(?:[-*+•–—]\s|\(?\d{1,3}[.)]\s|\(?[a-zA-Zа-яА-Я]\)\s|[ivxIVX]+\.\s|#{1,6}\s|>|\||```|~~~|\\item\b)"
)
_MARK_ONLY = re.compile(
    r"[\s>#*_(]*(?:(?:step|шаг|option|case|часть|part)\s*)?(?:\d{1,3}|[ivxIVX]{1,6})$", re.IGNORECASE
)
# (the looked-for mark comes first and its left side is checked behind it: the search skips from mark to mark)
_LOWER_STYLE = re.compile(r"[.!?](?<=[^\W\d_]{2}.) +([^\W\d_])")
_WRAPPED = re.compile(r"\n(?<=[^\n]{40}[^\s.!?:;…]\n)(\S)")
_RELATION = re.compile(r"[=<>≤≥≈]")
_VARIABLE = re.compile(r"[a-zA-Z]\w?(?:\s*[=+*/^<>≤≥-]|\s(?:is|has|must|can|equals)\b)")
_COMMA = re.compile(rf"[\s{FILL}]*[,:;—–-]")  # "that is (by Prop. 3), …" has its comma behind the parenthesis
_EQUATION = re.compile(r"[a-zA-Z][\w']?\s*[=<>≤≥+*/^(-]")
_ROMAN = re.compile(r"[ivxlcIVXLC]+$")
_CLOSING = " \t\r\n\"'»”’)]}*_\x02"

MIN_LEFT_WORDS = 2
MIN_RIGHT_WORDS = 2
MIN_SPLIT_CHARS = 12
IMPLICIT_THEN = "Contingency.Condition.Arg1-as-cond"
INSIDE_CHARS = 80
"""How far into a step a connective without a border may stand ("It is, therefore, …")."""

_STRONG = frozenset(
    {Role.BUT, Role.HOWEVER, Role.IF, Role.UNLESS, Role.BECAUSE, Role.WHEN, Role.OR, Role.ANSWER, Role.EXAMPLE}
)
"""A question that begins with one of these keeps the role of its connective."""


@dataclass(slots=True)
class Found:
    """A step's start, and the role its connective gives."""

    start: int
    role: Role = Role.NONE
    connective: str = ""
    sense: str = ""
    explicit: bool = False
    opens: bool = False  # a consequence may follow in the same sentence ("…, then …")
    conditional: bool = False  # … also without a connective


def _next_visible(text: str, position: int) -> int:
    """Position of the next character that is not a blank; the length of the text if there is none."""
    length = len(text)
    while position < length and text[position].isspace():
        position += 1
    return position


def _share(pattern: re.Pattern[str], sample: str) -> float:
    following = pattern.findall(sample)
    return sum(character.islower() for character in following) / len(following) if len(following) >= 2 else 0.0


def hard_borders(text: str, masked: str, lexicon: Lexicon) -> list[int]:
    """Starts of sentences and lines, the first always 0; each lies on a visible character."""
    sample = masked[:20_000]
    # a writer who begins sentences in lower case, and a text whose lines are wrapped, are known by their habits
    lower_style = _share(_LOWER_STYLE, sample) > 0.5
    wrapped = _share(_WRAPPED, sample) > 0.3
    starts = [0]
    length = len(text)
    blank_from = after = 0
    for found in _HARD.finditer(masked):
        position = found.end()
        if position <= starts[-1]:
            continue
        if not blank_from <= position <= after:  # a run of blanks is walked once
            blank_from, after = position, _next_visible(text, position)
        if after >= length:
            break
        if found.group() == "\n":
            start = _line_border(text, masked, found.start(), after, wrapped)
        else:
            start = _sentence_border(text, masked, found, after, lexicon, lower_style)
        if starts[-1] < start < length:
            starts.append(start)
    return starts


def _line_border(text: str, masked: str, position: int, after: int, wrapped: bool) -> int:
    """``after``, where the line after the line break at ``position`` begins, or -1 when the sentence goes on there."""
    if text.find("\n", position + 1, after) >= 0:
        return after
    following = text[after]
    before = position - 1
    while before >= 0 and masked[before].isspace():
        before -= 1
    if before < 0:
        return -1
    if _LIST_MARK.match(text, after) or text.startswith(("```", "~~~"), before - 2):
        return after
    while before > 0 and masked[before] in _CLOSING:
        before -= 1
    previous = text[before]
    displayed = text.startswith(("\\[", "$$", "\\begin"), after)
    if displayed and previous in ":,":
        return -1  # a displayed formula belongs to the sentence around it
    if previous in ".!?:;…。！？":
        return after
    if previous == "," or displayed:
        return -1
    if _EQUATION.match(text, after) or _both_equations(masked, position, after):
        return after
    if wrapped or following.islower():
        return -1
    if following in "$\\" and previous.islower():
        return -1
    return after


def _both_equations(masked: str, position: int, after: int) -> bool:
    """Whether the lines on both sides of a line break hold a relation sign: two equations, not one wrapped sentence."""
    above = masked[max(0, position - 120) : position].rpartition("\n")[2]
    below = masked[after : after + 120].partition("\n")[0]
    return bool(_RELATION.search(above)) and bool(_RELATION.search(below))


def _sentence_border(
    text: str, masked: str, found: re.Match[str], after: int, lexicon: Lexicon, lower_style: bool
) -> int:
    """``after``, where the text goes on behind a full stop or its kind, or -1 when the sentence goes on there."""
    marks = found.group().rstrip(_CLOSING)
    following = text[after]
    if "\n" in text[found.end() : after]:
        return -1  # the line break decides
    if marks[0] in "。！？":
        return after
    if ("…" in marks or ".." in marks) and "!" not in marks and "?" not in marks:
        return -1
    if following.islower() and not lower_style:
        return -1
    if following in ",;:)»”":
        return -1
    if following in "–—-" and text[_next_visible(text, after + 1) :][:1].islower():
        return -1  # "Why?" - he asked
    if marks != ".":
        return after
    near = max(0, found.start() - 24)
    line = masked.rfind("\n", near, found.start()) + 1
    last = _LAST_WORD.search(masked, max(line, near), found.start())
    if last is None:
        return after
    word = last.group().lower()
    if (line or not near) and _MARK_ONLY.match(masked, line, found.start()):
        return -1
    capital = following.isupper() or not (following.isalpha() or following.isdigit())
    if _two_words(masked, last.start(), found.start()) in lexicon.closing_abbreviations:
        return after if capital else -1
    head = LETTERS.match(text, after)
    starter = head is not None and head.group().lower() in lexicon.starters
    if word in lexicon.closing_abbreviations:
        # "U.S. Army" goes on, "in the U.S. He" does not; "etc." ends before any capital
        return after if capital and (starter or word not in lexicon.abbreviations) else -1
    if word in lexicon.abbreviations:
        return -1
    if len(word) == 1 and word.isalpha() and following.isupper():
        return after if starter else -1  # "A. Smith" is a name, "point A. Then" two sentences
    if _ROMAN.match(last.group()) and _preceding_word(masked, last.start()).rstrip(".") in lexicon.abbreviations:
        return after if last.group().islower() and following.isupper() else -1
    return after


def _preceding_word(masked: str, position: int) -> str:
    near = masked[max(0, position - 24) : position].rstrip(" ")
    found = _LAST_WORD.search(near)
    return found.group().lower() if found else ""


def _two_words(masked: str, word: int, end: int) -> str:
    """``т. д`` as in "и т. д.": the word before the last one and the last one."""
    return f"{_preceding_word(masked, word)} {masked[word:end].lower()}"


def _fits(cue: Cue, masked: str, start: int, end: int) -> bool:
    """Whether the words around the cue allow it."""
    if cue.not_before:
        rest = masked[end : end + 24].lstrip(" ,:;").lower()
        for words in cue.not_before:
            if rest.startswith(words) and not rest[len(words) : len(words) + 1].isalnum():
                return False
    return not (cue.not_after and _preceding_word(masked, start) in cue.not_after)


def _match(
    masked: str, start: int, places: Sequence[str], lexicon: Lexicon, *, condition: bool = False, premise: bool = False
) -> tuple[Cue, Role, str, int] | None:
    """The longest cue at ``start`` that counts at one of ``places``, with its role, sense and end."""
    first = LETTERS.match(masked, start)
    if first is None:
        return None
    for cue in lexicon.cues.get(first.group().lower(), ()):
        end = start + len(cue.cue)
        if masked[start:end].lower() != cue.cue or (masked[end - 1].isalnum() and masked[end : end + 1].isalnum()):
            continue
        place = next((place for place in places if place in cue.places), None)
        if place is None or not _fits(cue, masked, start, end):
            continue
        if place.endswith(",") and not _COMMA.match(masked, end):
            continue
        role, sense = cue.role, cue.sense
        if (cue.needs == "condition" and not condition) or (cue.needs == "premise" and not premise):
            if cue.otherwise is None:
                continue
            role, sense = cue.otherwise
        return cue, role, sense, end
    return None


def _words(masked: str, start: int, end: int) -> int:
    """Number of blank-separated words in the next 200 characters, at most 4."""
    return len(masked[start : min(end, start + 200)].split(None, 4)[:4])


def find_steps(text: str, lexicon: Lexicon, borders: Sequence[int] | None = None) -> list[Found]:
    """Steps of the text in order. ``borders`` fixes the starts; without them they are found.

    Raises nothing: any text has at least one step, an empty one none.
    """
    if not text:
        return []
    masked = mask(text)
    sentences = list(borders) if borders is not None else hard_borders(text, masked, lexicon)
    steps: list[Found] = []
    premise = False
    for number, start in enumerate(sentences):
        end = sentences[number + 1] if number + 1 < len(sentences) else len(text)
        if borders is None:
            if steps and not any(character.isalnum() for character in text[start:end]):
                continue  # a rule or a stray mark stays with the step before
            fresh = _sentence(masked, start, end, lexicon, premise)
        else:
            fresh = [_fixed(masked, start, end, lexicon, premise, steps[-1] if steps else None)]
        _questions(text, fresh, end)
        premise = _is_premise(masked, fresh[-1], lexicon)
        steps += fresh
    if borders is None and len(steps) > 1 and not any(character.isalnum() for character in text[: steps[1].start]):
        del steps[0]
        steps[0].start = 0
    return steps


def _fixed(masked: str, start: int, end: int, lexicon: Lexicon, premise: bool, previous: Found | None) -> Found:
    """Role of a step whose borders are given. It may begin inside a sentence: then the cues of a clause count too."""
    head = lexicon.prefix.match(masked, start, end)
    content = head.end() if head else start
    before = masked[max(0, start - 24) : start].rstrip(_CLOSING)[-1:]
    inside = previous is not None and before not in ("", ".", "!", "?", "…", *"。！？")
    condition = inside and previous is not None and previous.opens
    bare = condition and before == "," and previous is not None and previous.conditional
    got = None
    if inside:
        places = ("clause", "clause,", "space", "semicolon") if before == ";" else ("clause", "clause,", "space")
        got = _match(masked, content, places, lexicon, condition=condition, premise=premise)
    if got is None and bare and _implicit_then(masked, content, end, lexicon):
        return Found(start, Role.THEN, "", IMPLICIT_THEN, False)
    if got is None:
        got = _match(masked, content, ("start", "start,"), lexicon, condition=condition, premise=premise)
    if got is not None:
        cue, role, sense, stop = got
        opens, conditional = cue.opens, cue.opens and lexicon.is_conditional(cue)
        if not opens:  # "However, if A,": the consequence is the next step
            following = _match(
                masked, _next_visible(masked, stop + (masked[stop : stop + 1] == ",")), ("start",), lexicon
            )
            if following is not None and following[0].opens:
                opens, conditional = True, lexicon.is_conditional(following[0])
        opens = opens or (condition and role not in (Role.THEN, Role.THEREFORE))
        return Found(start, role, masked[content:stop], sense, True, opens, conditional)
    step = Found(start, opens=condition)
    _medial(masked, step, min(end, start + INSIDE_CHARS), lexicon)
    return step


def _sentence(masked: str, start: int, end: int, lexicon: Lexicon, premise: bool) -> list[Found]:
    """Steps of one sentence."""
    head = lexicon.prefix.match(masked, start, end)
    content = head.end() if head else start
    steps = [Found(start)]
    condition = conditional = False
    last = content  # where the words of the current step begin, its connective not counted
    if lexicon.cues:
        got = _match(masked, content, ("start", "start,"), lexicon, premise=premise)
        if got is not None:
            cue, role, sense, last = got
            condition, conditional = cue.opens, cue.opens and lexicon.is_conditional(cue)
            steps[0] = Found(start, role, masked[content:last], sense, True)
    if not lexicon.cues or end - start < MIN_SPLIT_CHARS:
        return steps
    for soft in lexicon.soft.finditer(masked, content, end):
        mark, word = soft.group("mark", "word")
        if mark is not None and not conditional and word.lower() not in lexicon.cues:
            continue  # most commas: no cue begins with this word
        at = soft.start("word") if mark else soft.start()
        if at < last or _words(masked, at, end) <= MIN_RIGHT_WORDS:
            continue
        left = _words(masked, last, at)
        if mark is None:
            places: tuple[str, ...] = ("space",)
        elif mark == ";":
            places = ("clause", "clause,", "semicolon")
        else:
            places = ("clause", "clause,")
        got = _match(masked, at, places, lexicon, condition=condition)
        parenthetical = got is not None and mark == "," and masked[got[3] : got[3] + 1] == ","
        if parenthetical and _preceding_word(masked, soft.start()) in lexicon.auxiliaries:
            continue  # "It is, therefore, …" is one clause
        if got is not None and got[0].between_clauses and _joins_adjectives(masked, soft.start(), got[3], lexicon):
            continue
        if got is not None:
            cue, role, sense, stop = got
            needed = 1 if role is Role.THEN else MIN_LEFT_WORDS + (mark == ":")
            if left >= needed:
                conditional = cue.opens and lexicon.is_conditional(cue)
                steps.append(Found(at, role, masked[at:stop], sense, True))
                condition = cue.opens or (condition and role not in (Role.THEN, Role.THEREFORE))
                last = stop
            elif cue.opens:
                # "So, if A, then B": too little for a step of its own, but the consequence will follow
                condition, conditional = True, lexicon.is_conditional(cue)
                last = stop
        elif mark == "," and left and conditional and _implicit_then(masked, at, end, lexicon):
            steps.append(Found(at, Role.THEN, "", IMPLICIT_THEN, False))
            condition = conditional = False
            last = at
    for index, step in enumerate(steps):
        if step.role is Role.NONE:
            stop = steps[index + 1].start if index + 1 < len(steps) else end
            _medial(masked, step, min(stop, step.start + INSIDE_CHARS), lexicon)
    return steps


def _joins_adjectives(masked: str, comma: int, stop: int, lexicon: Lexicon) -> bool:
    """Whether the words around ``comma`` + cue end alike, as two adjectives of one noun do."""
    after = LETTERS.match(masked, _next_visible(masked, stop))
    if after is None:
        return False
    left, right = _preceding_word(masked, comma)[-2:], after.group().lower()[-2:]
    return left == right and left in lexicon.adjective_endings


def _implicit_then(masked: str, at: int, end: int, lexicon: Lexicon) -> bool:
    """Whether the main clause of a condition begins at ``at`` without a "then": a subject after the comma, no "then" later."""
    word = LETTERS.match(masked, at)
    if word is None or _words(masked, at, end) < 3:
        return False
    if word.group().lower() not in lexicon.subjects and not _VARIABLE.match(masked, at):
        return False
    rest = masked[at : min(end, at + 600)].lower()
    marks = (" then ", "тогда ", ", то ") if lexicon.language == "ru" else (" then ",)
    return not any(mark in rest for mark in marks)


def _medial(masked: str, step: Found, stop: int, lexicon: Lexicon) -> None:
    """Role from a connective inside the step's beginning, where there is none at its start."""
    if lexicon.inside is None:
        return
    found = lexicon.inside.search(masked, step.start + 1, stop)
    if found is None:
        return
    got = _match(masked, found.start(), ("inside",), lexicon)
    if got is not None:
        _, step.role, step.sense, end = got
        step.connective, step.explicit = masked[found.start() : end], True


def _questions(text: str, steps: list[Found], end: int) -> None:
    """A sentence that ends with a question mark: its last step is a question unless a strong connective says more."""
    last = steps[-1]
    tail = text[max(last.start, end - 12) : end].rstrip(_CLOSING)
    if tail.endswith(("?", "？")) and last.role not in _STRONG:
        last.role, last.connective, last.sense, last.explicit = Role.QUESTION, "", "", False


def _is_premise(masked: str, step: Found, lexicon: Lexicon) -> bool:
    """Whether a "Then" after this step tells its consequence: a condition or a supposition."""
    if step.role in (Role.IF, Role.UNLESS):
        return True
    head = lexicon.prefix.match(masked, step.start)
    word = LETTERS.match(masked, head.end() if head else step.start)
    return word is not None and word.group().lower() in lexicon.suppose


def as_steps(found: Sequence[Found], length: int) -> tuple[Step, ...]:
    """Frozen steps that partition ``0 … length``; none for an empty text."""
    if not found:
        return ()
    ends = [step.start for step in found[1:]] + [length]
    return tuple(
        Step(index, step.start, end, step.role, step.connective, step.sense, step.explicit)
        for index, (step, end) in enumerate(zip(found, ends, strict=True))
    )
