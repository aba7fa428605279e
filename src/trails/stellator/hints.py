"""What a line that cannot be read was probably meant to say: the message of a syntax error, and what to write instead."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable, Sequence

from lark import UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from trails.stellator.words import WORDS, Language

GROUPS: dict[str, tuple[str, ...]] = {
    # terminal of the grammar: terminals of words that it stands for
    "KIND": ("TOKEN", "STEP", "CHAIN"),
    "VERB": ("ACTIVATES", "CALMS"),
    "MEASURE": ("SWEEP", "SHIFT", "PREVIOUS", "SINK", "HIDDEN", "LOGIT"),
    "WEIGHT_NAME": ("UNIFORM", "SURPRISAL", "ENTROPY", "BOTH"),
    "ORDER_NAME": ("SHUFFLED", "RISING", "FALLING", "AS_SOURCE"),
    "OBJECTIVE_NAME": ("LM", "DFT", "ATTENTION"),
}
HIDDEN = ("ON_LAYER", "BACKWARD")  # words that carry nothing: their terminals begin with _

_SAID = {
    # terminal: how a person writes it
    "_ARROW": ("→", "->"),
    "STRING": ('"text"',),
    "COMPARE": ("<", ">", "=", "!="),
    "NUMBER": ("a number",),
    "LAYER_LIST": ("17", "11-20"),
    "UNIT": ("nats", "%"),
    "ID": ("a name",),
    "SIGN": ("+", "-"),
    "_NEWLINE": ("the end of the line",),
    "LSQB": ("[ZONE: …]",),
    "RSQB": ("]",),
    "LPAR": ("(",),
    "RPAR": (")",),
    "COMMA": ("a comma",),
    "COLON": ("a colon",),
    "SLASH": ("/",),
    "_EITHER": ("|",),
    "_BOTH": ("&",),
    "_PLUS_MINUS": ("±",),
    "_TILDE": ("~",),
}
_ARROW = re.compile(r"(?:[=~—–-]*>+|[—–-]+|:?=|:|[⇒➜➔⟹←])(?=\s|[^\W_]|[\"«“+~−-]|$)")
_QUOTES = "'‘’`´„”‟‚＂‹›»"
_MANY = 6
"""Of more things that may stand somewhere, the one that was probably meant is named alone."""


def unexpected(error: UnexpectedInput, line: str, *, inside: bool, begun: bool, say: Language) -> tuple[int, str, str]:
    """Column, message and hint of a line that cannot be read. ``inside`` a block, which has ``begun`` where it has a name or
    another line; ``say`` is the language of its keywords.
    """
    expected: set[str] = set()
    if isinstance(error, UnexpectedToken):
        expected = set(error.accepts or error.expected)
    elif isinstance(error, UnexpectedCharacters):
        expected = set(error.allowed or ())
    column = max(int(error.column), 1)
    begins = "LSQB" in expected
    if begins and not inside:
        expected = {"LSQB"}
    elif begins and begun:
        expected.discard("NAME")
    rest = line[column - 1 :].strip(" \t")  # an invisible character is to be seen
    if rest.startswith("#"):
        rest = ""
    wanted = ", ".join(dict.fromkeys(_first_spellings(expected, say))) or "something else"
    if told := _known(rest, line[: column - 1], expected, say):
        return column, *told
    if not rest:
        return column, "the line ends too early.", f"Expected: {wanted}."
    shown = rest if len(rest) <= 40 else f"{rest[:40].rstrip()} …"
    meant = _meant(rest, [spelling for terminal in sorted(expected) for spelling in _spellings(terminal)])
    hint = meant if meant and wanted.count(",") >= _MANY else f"{meant} Expected: {wanted}.".strip()
    return column, f"{shown!r} means nothing here.", hint


def _known(rest: str, before: str, expected: set[str], say: Language) -> tuple[str, str] | None:
    """Message and hint of a mistake that many make; None for another."""
    first = rest[:1]
    zone = f"[{WORDS['ZONE'][say == 'ru'][0]}: …]"
    word = re.match(r"\w+", rest)
    if first and (not first.isprintable() or unicodedata.category(first) in ("Zs", "Cf", "Cc")):
        name = unicodedata.name(first, "a control character")
        instead = "Write a plain space." if unicodedata.category(first) == "Zs" else "Delete it."
        return f"the invisible character U+{ord(first):04X} ({name}) stands here.", instead
    if word and len(scripts := {_script(letter) for letter in word.group() if letter.isalpha()}) > 1:
        meant = _meant(word.group(), [spelling for terminal in sorted(expected) for spelling in _spellings(terminal)])
        odd = min(scripts, key=lambda one: sum(_script(letter) == one for letter in word.group()))
        letters = "".join(dict.fromkeys(letter for letter in word.group() if _script(letter) == odd))
        return f"{word.group()!r} mixes two alphabets: {letters} is {odd.title()}.", meant or "Type the word again."
    if re.match(r"//|--(?!>)|;|/\*", rest):
        return f"{rest[:40]!r} means nothing here.", "A comment begins with #."
    if not rest and "RSQB" in expected:
        return "the zone is not closed.", "Write ] at the end of the line; a zone stands on one line."
    if rest.startswith("]") and "RPAR" in expected:
        return "a bracket ( is not closed.", "Write ) before ]."
    if expected <= {"ZONE", "COLON"} or (
        ("LSQB" in expected and word and word.group().casefold() in ("zone", "зона"))
        or (first in "{(" and "LSQB" in expected)
    ):
        return f"{rest[:40]!r} begins no block.", f"Write {zone}."
    if "_ARROW" in expected and rest:
        if (arrow := _ARROW.match(rest)) and arrow.group() != "->":
            return f"{arrow.group()!r} is no arrow.", "Write → or ->."
        if before.strip():
            return "the arrow is missing.", f"Write {before.strip()} → {rest[:40]}"
    if "STRING" in expected and rest:
        return _text(rest, expected)
    if "COMPARE" in expected and (number := re.match(r"q?\d+(?:\.\d+)?", rest)):
        return "the sign of the comparison is missing.", f"Write {before.split()[-1]} > {number.group()}."
    if before[-1:].isdigit() and (number := re.search(r"\d+$", before)):
        if share := re.match(r"[,·](\d+)", rest):
            return f"{number.group()}{share.group()} is no number.", f"Write {number.group()}.{share[1]}."
        if re.match(r"[qQ]\b", rest):
            return f"{number.group()}{first} is no percentile.", f"Write q{number.group()}."
        if last := re.match(r"(?:–|—|\.\.+|…)\s*(\d+)", rest):
            return f"{rest[:40]!r} means nothing here.", f"Write {number.group()}-{last[1]}."
    return None


def _text(rest: str, expected: set[str]) -> tuple[str, str] | None:
    """Message and hint where a text was expected and none was read."""
    first = rest[0]
    closing = {'"': '"', "«": "»", "“": "”"}.get(first)
    inner = re.match(r"[\"«“'‘’`´„”‟‚＂‹›»]([^\"«»“”„'‘’`´‟‚＂‹›\\]+)[\"»“”'‘’`´＂‹›«](?=\s*(?:#|,|$))", rest)
    if inner:
        other = f"{first} ends with {closing}." if closing else f"{first} begins no text."
        return other, f'Write "{inner[1]}".'
    if closing:
        return f"the text is not closed: {closing} is missing.", "It ends in its line; a line end in it is written \\n."
    if first in _QUOTES:
        return f"{first} begins no text.", 'A text stands in "…", «…» or “…”.'
    if "ID" not in expected and first.isalnum():
        said = rest.partition("#")[0].strip()
        return f"{said[:40]!r} has no quotation marks.", f'Write "{said[:40]}".'
    return None


def _script(letter: str) -> str:
    return unicodedata.name(letter, "?").partition(" ")[0]


def _meant(rest: str, said: Sequence[str]) -> str:
    """What the words may have been meant to be: the nearest spelling, of as many words, of the terminals that fit here."""
    words = re.split(r"\s+", rest)
    by_fold = {spelling.casefold(): spelling for spelling in said}
    for count in (3, 2, 1):
        tried = re.sub(r"[→:\]].*|->.*", "", " ".join(words[:count])).strip().casefold()
        alike = [one for one in by_fold if len(one.split()) == len(tried.split())]
        near = difflib.get_close_matches(tried, alike, 1, 0.7) if tried else []
        if near:
            return f"Did you mean {by_fold[near[0]]}?"
    return ""


def _words_of(terminal: str) -> tuple[str, ...]:
    bare = terminal.removeprefix("_") if terminal.removeprefix("_") in HIDDEN else terminal
    return GROUPS.get(bare, (bare,) if bare in WORDS else ())


def _spellings(terminal: str) -> list[str]:
    return [spelling for word in _words_of(terminal) for both in WORDS[word] for spelling in both]


def _first_spellings(expected: Iterable[str], say: Language) -> list[str]:
    order = {name: number for number, name in enumerate((*GROUPS, *WORDS, *_SAID))}
    found: list[str] = []
    for terminal in sorted(expected, key=lambda name: (order.get(name.removeprefix("_"), 99), name)):
        words = _words_of(terminal)
        found += [WORDS[word][say == "ru"][0] for word in words] if words else list(_SAID.get(terminal, ()))
    return [WORDS["ZONE"][1][0].join(("[", ": …]")) if one == "[ZONE: …]" and say == "ru" else one for one in found]
