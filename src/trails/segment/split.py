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
# (the set comes first, so that the search skips from mark to mark; the look-behind lets a match begin only where a run begins,
# which keeps a long run of full stops linear)
_HARD = re.compile(
    r"[.!?…。！？\n](?:(?<=\n)|(?<![.!?…。！？].)[.!?…。！？]*+[\x02\"'»”’)\]}*_]*+(?=\s)|(?<=[。！？]))", re.DOTALL
)
_LAST_WORD = re.compile(r"[^\s(\[\"«“*_]+$")
_LIST_MARK = re.compile(
    r"(?:[-*+•–—]\s|\(?\d{1,3}[.)]\s|\(?[a-zA-Zа-яА-Я]\)\s|[ivxIVX]+\.\s|#{1,6}\s|>|\||```|~~~|\\item\b)"
)
_MARK_ONLY = re.compile(
    r"[\s>#*_(]*(?:(?:step|шаг|option|case|часть|part|prop\.|ax\.|def\.)\s*)?(?:\d{1,3}|[ivxIVX]{1,6})$", re.IGNORECASE
)
# (the looked-for mark comes first and its left side is checked behind it: the search skips from mark to mark)
_LOWER_STYLE = re.compile(r"[.!?](?<=[^\W\d_]{2}.) +([^\W\d_])")
_WRAPPED = re.compile(r"\n(?<=[^\n]{40}[^\s.!?:;…]\n)(\S)")
_RELATION = re.compile(r"[=<>≤≥≈]")
_VARIABLE = re.compile(r"[a-zA-Z]\w?(?:\s*[=+*/^<>≤≥-]|\s(?:is|has|must|can|equals)\b)")
_COMMA = re.compile(rf"[\s{FILL}]*[,:;—–-]")  # "that is (by Prop. 3), …" has its comma behind the parenthesis
_COMMA_ONLY = re.compile(r"\s*,")
_COMMAS = re.compile(rf",\s+(?=[\w{FILL}])")
_EQUATION = re.compile(r"[a-zA-Z][\w']?\s*[=<>≤≥+*/^(-]")
_ROMAN = re.compile(r"[ivxlcIVXLC]+$")
_CLOSING = " \t\r\n\"'»”’)]}*_\x02"

_SENTENCE_ENDS = frozenset(("", *".!?…。！？"))

MIN_LEFT_WORDS = 2
MIN_RIGHT_WORDS = 2
MIN_SPLIT_CHARS = 12
MAX_LEAD_WORDS = 3
"""Words before a condition that are its introduction and no clause of their own: "In this case, if A"."""
MIN_MAIN_LEFT = 1
"""Words that a subordinate clause has at least, its connective not counted, before a main clause begins."""
MAIN_CLAUSE_CHARS = 600
"""How far behind its subordinate clause a main clause is looked for."""
MAIN_CLAUSE: dict[Role, tuple[Role, str]] = {
    Role.IF: (Role.THEN, "Contingency.Condition.Arg1-as-cond"),
    Role.UNLESS: (Role.THEN, "Contingency.Negative-condition.Arg1-as-negCond"),
    Role.BECAUSE: (Role.THEREFORE, "Contingency.Cause.Result"),
    Role.BUT: (Role.BUT, "Comparison.Concession.Arg2-as-denier"),
    Role.PURPOSE: (Role.NONE, ""),
}
"""The main clause behind a subordinate clause of this role: if A, *B*; because A, *B*; although A, *B*."""

INSIDE_CHARS = 80
"""How far into a step a connective without a border may stand ("It is, therefore, …")."""

_STRONG = frozenset(
    {Role.BUT, Role.HOWEVER, Role.IF, Role.UNLESS, Role.BECAUSE, Role.WHEN, Role.OR, Role.ANSWER, Role.EXAMPLE}
)
"""A question that begins with one of these keeps the role of its connective."""


class _Masked(str):
    """The masked text; ``low`` is the same in lower case, of the same length, with blanks for line breaks: cues are looked
    for in it, which costs half of what patterns do that pass over case.
    """

    low: str

    @classmethod
    def of(cls, text: str) -> _Masked:
        """``text`` masked."""
        made = cls(mask(text))
        low = made.lower()
        if len(low) != len(made):  # İ becomes two characters
            low = "".join(c.lower() if len(c.lower()) == 1 else c for c in made)
        made.low = low.replace("\n", " ")
        return made


@dataclass(slots=True)
class Found:
    """A step's start, and the role its connective gives."""

    start: int
    role: Role = Role.NONE
    connective: str = ""
    sense: str = ""
    explicit: bool = False
    opens: bool = False  # a consequence may follow in the same sentence ("…, then …")
    main: tuple[Role, str] | None = None  # what the main clause is that follows without a connective


@dataclass(slots=True)
class _Open:
    """A subordinate clause that waits for its main clause."""

    then: bool = False  # a connective such as "then" may begin it
    main: tuple[Role, str] | None = None  # its role and sense, where no connective does
    at: int = -1  # where it begins then


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


def _fits(cue: Cue, masked: str, start: int, end: int, lexicon: Lexicon) -> bool:
    """Whether the words around the cue allow it."""
    if cue.subject:
        after = _next_visible(masked, end)
        word = LETTERS.match(masked, after)
        capital = word is not None and word.group()[0].isupper() and not cue.strict_subject
        if cue.strict_subject and (word is None or word.group().lower() not in lexicon.pronouns):
            return False
        if not capital and not _subject_at(masked, after, len(masked), lexicon):
            return False
    if cue.not_before:
        rest = masked[end : end + 24].lstrip(" ,:;\n").lower()
        for words in cue.not_before:
            if rest.startswith(words) and not rest[len(words) : len(words) + 1].isalnum():
                return False
    if not cue.not_after and not cue.after:
        return True
    before = _preceding_word(masked, start)
    # where every clause has its comma ("хочу, чтобы"), the word before the comma counts as well
    before = before.rstrip(",") if lexicon.nested_commas else before
    return before not in cue.not_after and (not cue.after or before in cue.after)


def _match(
    masked: _Masked,
    start: int,
    places: Sequence[str],
    lexicon: Lexicon,
    *,
    condition: bool = False,
    premise: Found | None = None,
) -> tuple[Cue, Role, str, int] | None:
    """The longest cue at ``start`` that counts at one of ``places``, with its role, sense and end.

    ``condition``: a condition is open; ``premise``: the step before.
    """
    low = masked.low
    first = LETTERS.match(low, start)
    if first is None:
        return None
    for cue in lexicon.cues.get(first.group(), ()):
        if not low.startswith(cue.cue, start):
            continue
        end = start + len(cue.cue)
        if low[end - 1].isalnum() and low[end : end + 1].isalnum():
            continue
        for place in places:
            if place in cue.places:
                break
        else:
            continue
        if not _fits(cue, masked, start, end, lexicon) or (place.endswith(",") and not _COMMA.match(low, end)):
            continue
        role, sense = cue.role, cue.sense
        if (cue.needs == "condition" and not condition) or (
            cue.needs == "premise" and (premise is None or not _is_premise(masked, premise, lexicon))
        ):
            if cue.otherwise is None:
                continue
            role, sense = cue.otherwise
        return cue, role, sense, end
    return None


def _words(masked: str, start: int, end: int) -> int:
    """Number of blank-separated words in the next 200 characters, at most 4."""
    return len(masked[start : min(end, start + 200)].split(None, 4)[:4])


def find_steps(
    text: str, lexicon: Lexicon, borders: Sequence[int] | None = None, *, keep_borders: bool = False
) -> list[Found]:
    """Steps of the text in order.

    ``borders`` are starts that the source gives: each stays a start, and sentences and strong connectives split between
    them as they do in free text; with ``keep_borders`` there are no other starts. Raises nothing: any text has at least
    one step, an empty one none.
    """
    if not text:
        return []
    masked = _Masked.of(text)
    given = frozenset(borders or ())
    if keep_borders and borders is not None:
        sentences = list(borders)
    elif borders is None:
        sentences = hard_borders(text, masked, lexicon)
    else:
        sentences = sorted({*borders, *hard_borders(text, masked, lexicon)})
    steps: list[Found] = []
    premise: Found | None = None
    for number, start in enumerate(sentences):
        end = sentences[number + 1] if number + 1 < len(sentences) else len(text)
        if start not in given and steps and not any(character.isalnum() for character in text[start:end]):
            continue  # a rule or a stray mark stays with the step before
        previous = steps[-1] if steps and start in given else None
        fresh = _sentence(masked, start, end, lexicon, premise, previous, whole=keep_borders and bool(given))
        _questions(text, fresh, end)
        if previous is not None and previous.role is Role.NONE and keep_borders:
            _condition_behind(masked, previous, fresh[0], end)
        premise = fresh[-1]
        steps += fresh
    if borders is None and len(steps) > 1 and not any(character.isalnum() for character in text[: steps[1].start]):
        del steps[0]
        steps[0].start = 0
    return steps


def _condition_behind(masked: str, before: Found, step: Found, end: int) -> None:
    """Give the step before a condition that ends its sentence the role of a main clause: "B, if A."."""
    inside = masked[max(0, step.start - 24) : step.start].rstrip(_CLOSING)[-1:] not in (
        "",
        ".",
        "!",
        "?",
        "…",
        ":",
        ";",
    )
    ends = masked[max(0, end - 24) : end].rstrip(_CLOSING)[-1:] in (".", "!", "?", "…", ";") or end == len(masked)
    if inside and ends and step.explicit and step.role in (Role.IF, Role.UNLESS):
        before.role, before.sense = MAIN_CLAUSE[step.role]


def _opened(masked: _Masked, cue: Cue, role: Role, stop: int, end: int, lexicon: Lexicon) -> _Open:
    """What a cue leaves open: the main clause of the subordinate clause that it begins."""
    if not cue.opens:
        return _Open()
    kind = Role.IF if role is not Role.UNLESS and lexicon.is_conditional(cue) else role
    if lexicon.is_causal(cue):
        kind = Role.BECAUSE
    main = MAIN_CLAUSE.get(kind)
    at = _main_clause(masked, stop, end, lexicon) if main else -1
    return _Open(then=kind is not Role.BUT, main=main, at=at)


def _head(
    masked: _Masked, start: int, content: int, end: int, lexicon: Lexicon, premise: Found | None, previous: Found | None
) -> tuple[Found, int, _Open]:
    """A sentence's first step, where its words begin behind the connective, and what it leaves open.

    ``previous`` is the step before where the source set the border: it may lie inside a sentence, and then the cues of a
    clause count too.
    """
    before = masked[max(0, start - 24) : start].rstrip(_CLOSING)[-1:] if previous is not None else ""
    inside = previous is not None and before not in _SENTENCE_ENDS
    condition = inside and previous is not None and previous.opens
    got = None
    if inside:
        places = ("clause", "clause,", "space", "semicolon") if before == ";" else ("clause", "clause,", "space")
        got = _match(masked, content, places, lexicon, condition=condition, premise=premise)
    main = previous.main if condition and before == "," and previous is not None else None
    if got is None and main is not None and not _continues(masked, content, lexicon):
        return Found(start, main[0], "", main[1], False), content, _Open()
    if got is None:
        got = _match(masked, content, ("start", "start,"), lexicon, condition=condition, premise=premise)
    at = content
    if got is None and (at := _behind_focus(masked, content, lexicon)) > content:  # "Especially if A,"
        got = _match(masked, at, ("start",), lexicon)
        got = got if got is not None and got[0].opens else None
    if got is None:
        return Found(start, opens=condition, main=previous.main if condition and previous else None), content, _Open()
    cue, role, sense, stop = got
    open_ = _opened(masked, cue, role, stop, end, lexicon)
    if not cue.opens:  # "However, if A,": the consequence follows
        after = _next_visible(masked, stop + (masked[stop : stop + 1] == ","))
        following = _match(masked, after, ("start",), lexicon)
        if following is not None and following[0].opens:
            open_ = _opened(masked, following[0], following[1], following[3], end, lexicon)
    opens = open_.then or (condition and role not in (Role.THEN, Role.THEREFORE))
    return Found(start, role, masked[at:stop], sense, True, opens, open_.main), stop, open_


def _sentence(
    masked: _Masked,
    start: int,
    end: int,
    lexicon: Lexicon,
    premise: Found | None,
    previous: Found | None = None,
    *,
    whole: bool = False,
) -> list[Found]:
    """Steps of one sentence; with ``whole`` it is one step."""
    head = lexicon.prefix.match(masked, start, end)
    content = head.end() if head else start
    if not lexicon.cues:
        return [Found(start)]
    heading = _next_visible(masked, head.start("heading")) if head and head.group("heading") else -1
    if heading >= 0:  # "**Answer**: 5" says what it is itself
        while masked[heading : heading + 1] == "*":
            heading += 1
        if _match(masked, heading, ("start", "start,"), lexicon) is not None:
            content = heading
    first, last, open_ = Found(start), content, _Open()
    if content < end:  # behind a heading that is a step of its own stand the words of another step
        first, last, open_ = _head(masked, start, content, end, lexicon, premise, previous)
    steps = [first]
    if whole or end - start < MIN_SPLIT_CHARS:
        if whole and first.role is Role.NONE:
            _late_condition(masked, first, content, end, lexicon)
        if first.role is Role.NONE:
            _medial(masked, first, min(end, start + INSIDE_CHARS), lexicon)
        return steps
    formulas = "formula" in lexicon.soft.groupindex
    for soft in lexicon.soft.finditer(masked.low, content, end):
        mark = soft["mark"]
        if mark is not None:
            at = soft.start("word")
            if at != open_.at and soft["word"] not in lexicon.cues:
                continue  # most commas: no cue begins with this word
        elif formulas and soft["formula"]:
            mark, at = FILL, soft.start("next")
        else:
            at = soft.start("spaced")
        main_clause = at == open_.at and mark is not None
        if at < last or _words(masked, at, end) <= MIN_RIGHT_WORDS - main_clause:
            continue
        left = _words(masked, last, at)
        if mark is None:
            places: tuple[str, ...] = ("space",)
        elif mark == FILL:
            places = ("formula",)
        elif mark == ";":
            places = ("clause", "clause,", "semicolon")
        else:
            places = ("clause", "clause,")
        got = _match(masked, at, places, lexicon, condition=open_.then)
        if got is not None and mark == "," and "inside" in got[0].places and _COMMA_ONLY.match(masked, got[3]):
            # "It is, therefore, …", "The conclusion, however, states …" are one clause
            after = _next_visible(masked, masked.index(",", got[3]) + 1)
            if _preceding_word(masked, soft.start()) in lexicon.auxiliaries or not _begins_clause(
                masked, after, lexicon
            ):
                continue
        if got is not None and got[0].between_clauses and _joins_adjectives(masked, soft.start(), got[3], lexicon):
            continue
        if got is not None:
            cue, role, sense, stop = got
            if cue.needs == "condition" and open_.main is not None and open_.main[0] is Role.THEREFORE:
                role, sense = open_.main  # "since A, then B": a result and no consequence of a condition
            needed = 1 if role is Role.THEN else MIN_LEFT_WORDS + (mark == ":")
            begin = _with_focus(masked, at, last, lexicon) if mark is None else at
            left = _words(masked, last, begin)
            if left >= needed:
                kept = open_ if open_.then and role not in (Role.THEN, Role.THEREFORE) and not cue.opens else _Open()
                open_ = _opened(masked, cue, role, stop, end, lexicon) if cue.opens else kept
                if not open_.main or open_.main[0] is not Role.THEN:
                    open_ = _Open(then=open_.then)  # in mid-sentence only a condition has its main clause behind it
                if role in (Role.IF, Role.UNLESS) and open_.at < 0 and steps[-1].role is Role.NONE:
                    steps[-1].role, steps[-1].sense = MAIN_CLAUSE[role]  # "B, if A"
                steps.append(Found(begin, role, masked[at:stop], sense, True))
                last = stop
            elif cue.opens:
                # "So, if A, then B": too little for a step of its own, but the consequence will follow
                open_ = _opened(masked, cue, role, stop, end, lexicon)
                last = stop
        elif main_clause and left and open_.main is not None:
            steps.append(Found(at, open_.main[0], "", open_.main[1], False))
            open_ = _Open()
            last = at
    for index, step in enumerate(steps):
        if step.role is Role.NONE:
            stop = steps[index + 1].start if index + 1 < len(steps) else end
            _medial(masked, step, min(stop, step.start + INSIDE_CHARS), lexicon)
    steps[-1].opens, steps[-1].main = open_.then, open_.main
    return steps


def _late_condition(masked: _Masked, step: Found, content: int, end: int, lexicon: Lexicon) -> None:
    """Role of a step with given borders whose condition stands behind a few words: "In this case, if A"."""
    for soft in lexicon.soft.finditer(masked.low, content, min(end, content + INSIDE_CHARS)):
        at = soft.start("word") if soft.group("mark") else soft.start("spaced") if soft.group("spaced") else -1
        if at < 0 or _words(masked, content, at) > MAX_LEAD_WORDS:
            continue
        got = _match(masked, at, ("clause", "space") if soft.group("spaced") else ("clause",), lexicon)
        if got is not None and got[1] in (Role.IF, Role.UNLESS) and got[0].opens:
            open_ = _opened(masked, got[0], got[1], got[3], end, lexicon)
            step.role, step.sense, step.connective, step.explicit = got[1], got[2], masked[at : got[3]], True
            step.opens, step.main = open_.then, open_.main
            return


def _with_focus(masked: str, at: int, last: int, lexicon: Lexicon) -> int:
    """``at``, or where the word before it begins that belongs to the cue ("especially if")."""
    found = _LAST_WORD.search(masked[last:at].rstrip(" "))
    return last + found.start() if found and found.group().lower() in lexicon.focus else at


def _behind_focus(masked: _Masked, at: int, lexicon: Lexicon) -> int:
    """``at``, or where the next word begins if the one there belongs to the cue behind it ("Especially if A, B")."""
    word = LETTERS.match(masked.low, at)
    if word is None or word.group() not in lexicon.focus or masked.low[word.end() : word.end() + 1] != " ":
        return at
    return _next_visible(masked, word.end())


def _joins_adjectives(masked: str, comma: int, stop: int, lexicon: Lexicon) -> bool:
    """Whether the words around ``comma`` + cue end alike, as two adjectives of one noun do."""
    after = LETTERS.match(masked, _next_visible(masked, stop))
    if after is None:
        return False
    left, right = _preceding_word(masked, comma)[-2:], after.group().lower()[-2:]
    return left == right and left in lexicon.adjective_endings


def _continues(masked: str, at: int, lexicon: Lexicon) -> bool:
    """Whether the words at ``at`` go on with the clause before: a relative, a conjunction or a participle."""
    word = LETTERS.match(masked, at)
    low = word.group().lower() if word else ""
    return low in lexicon.continuers or low.endswith(lexicon.participles)


def _subject_at(masked: str, at: int, end: int, lexicon: Lexicon) -> bool:
    """Whether the words at ``at`` look like the beginning of a main clause: a subject, a variable, a formula or a number."""
    if masked.startswith(FILL, at) or masked[at : at + 1].isdigit() or _VARIABLE.match(masked, at):
        return True
    word = LETTERS.match(masked, at)
    return word is not None and _words(masked, at, end) >= 2 and word.group().lower() in lexicon.subjects


def _begins_clause(masked: str, at: int, lexicon: Lexicon) -> bool:
    """As :func:`_subject_at`, or a word with a capital or another connective."""
    word = LETTERS.match(masked, at)
    if word is not None and (word.group()[0].isupper() or word.group().lower() in lexicon.cues):
        return True
    return _subject_at(masked, at, len(masked), lexicon)


def _main_clause(masked: _Masked, start: int, end: int, lexicon: Lexicon) -> int:
    """Where the main clause begins whose subordinate clause has its words from ``start`` on, or -1.

    It stands behind a comma: the first one before a subject; else the only one, or in a language whose clauses nest between
    commas the last one, that no relative, conjunction or participle follows. A "then" later in the sentence means that it has
    a connective of its own.
    """
    stop = min(end, start + MAIN_CLAUSE_CHARS)
    if any(masked.low.find(mark, start, stop) >= 0 for mark in lexicon.then_marks):
        return -1
    others = []
    for comma in _COMMAS.finditer(masked, start, stop):
        at = comma.end()
        if _words(masked, start, comma.start()) < MIN_MAIN_LEFT or _words(masked, at, end) < 2:
            continue
        if _continues(masked, at, lexicon):
            continue
        word = LETTERS.match(masked, at)
        low = word.group().lower() if word else ""
        if low in lexicon.cues and _match(masked, at, ("clause", "clause,"), lexicon, condition=True) is not None:
            break  # another connective begins a step there
        if _subject_at(masked, at, end, lexicon) or low in lexicon.parentheticals:
            return at
        others.append(at)
    if len(others) == 1 or (others and lexicon.nested_commas):
        return others[-1]
    return -1


def _medial(masked: _Masked, step: Found, stop: int, lexicon: Lexicon) -> None:
    """Role from a connective inside the step's beginning, where there is none at its start."""
    if lexicon.inside is None:
        return
    found = lexicon.inside.search(masked.low, step.start, stop)
    if found is None:
        return
    got = _match(masked, found.start() + 1, ("inside",), lexicon)
    if got is not None:
        _, step.role, step.sense, end = got
        step.connective, step.explicit = masked[found.start() + 1 : end], True


def _questions(text: str, steps: list[Found], end: int) -> None:
    """A sentence that ends with a question mark: its last step is a question unless a strong connective says more."""
    last = steps[-1]
    tail = text[max(last.start, end - 12) : end]
    if "?" not in tail and "？" not in tail:
        return
    tail = tail.rstrip(_CLOSING)
    strong = last.role in _STRONG and not (last.role is Role.WHEN and "," not in text[last.start : end])
    if tail.endswith(("?", "？")) and not strong:
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
