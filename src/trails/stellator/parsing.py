"""Reading a stellator file: text in, :class:`~trails.stellator.language.Program` out, or every fault with line and column.

A statement is one line, and every line is parsed by itself: a wrong one hides none of the others. What is said of several
lines (a name twice, a line outside a block) is checked afterwards.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
import unicodedata
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import resources
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedInput, v_args
from lark.exceptions import VisitError

from trails.errors import UsageError
from trails.export.choose import parse_mask
from trails.export.options import layers_text, parse_layers
from trails.export.order import parse_order
from trails.export.words import ROLES, role_named
from trails.stellator.faults import Faults
from trails.stellator.hints import GROUPS, HIDDEN, unexpected
from trails.stellator.language import (
    MEASURE_WORDS,
    Anchor,
    Angle,
    Block,
    Comparison,
    Condition,
    Dampen,
    Drift,
    Expression,
    Joined,
    Line,
    Not,
    Number,
    Phase,
    Place,
    Program,
    Quantile,
    Select,
    Setting,
    Subgraph,
    Text,
    Value,
    ZoneName,
)
from trails.stellator.words import FIELDS, KEYWORDS, WORDS, Language, pattern

MAX_DEPTH = 40
"""How deep expressions may be nested."""
MAX_WRONG = 1_000
"""After so many faults a file is read no further: it is none of this language."""

_SINGLE = tuple(
    name for name in WORDS if name not in ("AND", "OR") and not any(name in members for members in GROUPS.values())
)


class _WrongError(Exception):
    """A line whose words fit and whose meaning does not: where in the line, what, and what to write instead."""

    def __init__(self, at: Token, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.column, self.message, self.hint = at.column or 1, message, hint

    @classmethod
    def of(cls, at: Token, error: UsageError) -> _WrongError:
        """What another part of trails refuses: its first sentence says what is wrong, the others what to write."""
        message, stop, hint = str(error).partition(". ")
        return cls(at, f"{message}{stop.strip()}", hint)


@cache
def _parser() -> Lark:
    grammar = resources.files("trails.stellator").joinpath("grammar.lark").read_text("utf-8")
    terminals = [f"{'_' if name in HIDDEN else ''}{name}.2: /{pattern(name)}/i" for name in _SINGLE]
    terminals += [f"{name}.2: /{'|'.join(pattern(member) for member in members)}/i" for name, members in GROUPS.items()]
    return Lark("\n".join((*terminals, grammar)), parser="lalr", cache=False)


def _member(group: str, token: Token) -> str:
    """Which word of a group a token is."""
    said = re.sub(r"[ \t]+", " ", str(token)).casefold()
    for name in GROUPS[group]:
        if any(said == spelling.casefold() for both in WORDS[name] for spelling in both):
            return name
    raise AssertionError(f"{token!r} is none of {group}")


def _unquoted(token: Token) -> str:
    if token[0] == '"':
        try:
            found = json.loads(str(token), strict=False)
        except ValueError:
            raise _WrongError(
                token,
                f'{token} cannot be read: after \\ comes one of n, t, ", \\ or u and four digits.',
                "Write \\\\ for a \\.",
            ) from None
    else:
        found = str(token)[1:-1]
    text = unicodedata.normalize("NFC", str(found))
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        raise _WrongError(token, f"{token} holds half of a character.", "Write the whole character.")
    if not text.strip():
        raise _WrongError(token, "the text is empty.", "Write what is to be found.")
    return text


@dataclass(frozen=True, slots=True)
class _Header:
    """``[ZONE: …]``."""

    zone: Expression
    language: Language
    place: Place


@dataclass(frozen=True, slots=True)
class _Name:
    """``NAME → "…"``."""

    text: str
    place: Place


@v_args(inline=True)
class _Builder(Transformer[Token, Any]):
    """Builds the records of one line. What carries no meaning is dropped by the grammar."""

    def __init__(self, place: Callable[[int], Place]) -> None:
        """``place`` turns a column of what was parsed into the place in the file."""
        super().__init__()
        self._column = place

    def _place(self, token: Token) -> Place:
        return self._column(token.column or 1)

    def header(self, zone: Token, expression: Expression) -> _Header:
        return _Header(expression, "ru" if zone.casefold() == "зона" else "en", self._place(zone))

    def name(self, key: Token, text: Token) -> _Name:
        return _Name(_unquoted(text), self._place(key))

    def line(self, found: tuple[Token, Any]) -> Line:
        token, content = found
        return Line(content, place=self._place(token))

    # ------------------------------------------------------------------------------------------------- expressions

    def either(self, *parts: Expression) -> Expression:
        return Joined("|", parts)

    def both(self, *parts: Expression) -> Expression:
        return Joined("&", parts)

    def negation(self, _: Token, of: Expression) -> Expression:
        return Not(of)

    def inner(self, of: Expression) -> Expression:
        return of

    def zone_name(self, name: Token) -> Expression:
        return ZoneName(str(name).casefold(), self._place(name))

    def condition(self, name: Token, compare: Token, *values: Value | Token) -> Expression:
        sign: Any = {"≤": "<=", "≥": ">=", "≠": "!="}.get(str(compare), str(compare))
        told: Comparison = sign
        key = str(name).casefold()
        field = FIELDS.get(key, key)
        if len(values) > 1 and told not in ("=", "!="):
            point = " A number is written with a point: 1.5." if all(isinstance(one, Number) for one in values) else ""
            raise _WrongError(
                name,
                f"{field} {told} takes one value, {len(values)} were given.",
                f"Several values go with = or !=.{point}",
            )
        fitted = tuple(_word(field, value) if isinstance(value, Token) else value for value in values)
        return Condition(field, told, fitted, self._place(name))

    def number(self, number: Token, unit: Token | None = None) -> Value:
        said = str(unit or "").casefold()
        return Number(_float(number), {"нат": "nats", "бит": "bits"}.get(said, said))

    def bare(self, word: Token) -> Token:
        return word

    def text(self, text: Token) -> Value:
        return Text(_unquoted(text))

    def masked(self, _: Token, text: Token) -> Value:
        return Text(_unquoted(text), masked=True)

    # ------------------------------------------------------------------------------------------------------- lines

    def subgraph(self, key: Token, text: Token) -> tuple[Token, Any]:
        return key, Subgraph(_unquoted(text))

    def select(self, *parts: Any) -> tuple[Token, Any]:
        first = parts[0]
        negated = first.type == "NOT"
        key, *targets = parts[1:] if negated else parts
        kind: Any = _member("KIND", key)
        fitted = tuple(_target(kind, target) if isinstance(target, Token) else target for target in targets)
        return first, Select(kind, fitted, negated)

    def drift(self, *parts: Token) -> tuple[Token, Any]:
        by_type = {part.type: part for part in parts}
        word = _member("MEASURE", by_type["MEASURE"])
        measure = next(name for name, own in MEASURE_WORDS.items() if own == word)
        activates = "VERB" not in by_type or _member("VERB", by_type["VERB"]) == "ACTIVATES"
        layers = _layers(by_type["LAYER_LIST"]) if "LAYER_LIST" in by_type else ()
        if layers and measure == "logit_shift":
            raise _WrongError(
                by_type["LAYER_LIST"], "the logit shift belongs to the output, it has no layer.", "Leave the layer out."
            )
        return parts[0], Drift(measure, activates, layers, "NOT" in by_type)

    def anchor(self, key: Token, text: Token) -> tuple[Token, Any]:
        return key, Anchor(_unquoted(text))

    def phase(self, key: Token, angle: Angle, *rest: Any) -> tuple[Token, Any]:
        tolerance = next((part for part in rest if isinstance(part, Angle)), None)
        layer = None
        for part in rest:
            if isinstance(part, Token):
                layers = _layers(part)
                if len(layers) != 1:
                    raise _WrongError(
                        part, f"PHASE is measured at one layer, {layers_text(layers)} were given.", "Write one of them."
                    )
                layer = layers[0]
        if abs(angle.radians) > math.pi * (1 + 1e-9):
            raise _WrongError(
                key,
                "an angle between two vectors lies between 0 and 180 degrees, "
                f"{math.degrees(abs(angle.radians)):.4g} were claimed.",
                "Write for example π/2.",
            )
        if tolerance is not None and tolerance.radians <= 0:
            raise _WrongError(key, "the tolerance after ± must be above 0.", "Write for example ± π/12.")
        if tolerance is not None and tolerance.radians >= math.pi:
            raise _WrongError(
                key,
                "a tolerance of 180 degrees or more holds every angle: the line could not fail.",
                "Write for example ± π/12.",
            )
        return key, Phase(angle, tolerance, layer)

    def dampen(self, key: Token, number: Token) -> tuple[Token, Any]:
        factor = _float(number)
        if factor > 1:
            raise _WrongError(
                number,
                "GRADIENT DAMPEN multiplies the loss of the selected tokens by a factor from 0 to 1; "
                f"{str(number)[:20]} was given.",
                "Write for example ~0.1.",
            )
        return key, Dampen(factor)

    def weight_name(self, token: Token) -> str:
        return _member("WEIGHT_NAME", token).lower()

    def weight_excess(self, _: Token, run: Token) -> str:
        return f"excess:{_unquoted(run) if run.type == 'STRING' else run}"

    def weights(self, key: Token, value: str) -> tuple[Token, Any]:
        return key, Setting("weights", value)

    def layers(self, key: Token, value: Token) -> tuple[Token, Any]:
        return key, Setting("layers", layers_text(_layers(value)))

    def objective(self, key: Token, value: Token) -> tuple[Token, Any]:
        return key, Setting("objective", _member("OBJECTIVE_NAME", value).lower())

    def variants(self, key: Token, value: Token) -> tuple[Token, Any]:
        return key, Setting("variants", _unquoted(value) if value.type == "STRING" else str(value))

    def variants_each(self, key: Token, value: Token) -> tuple[Token, Any]:
        number = _float(value)
        if number != int(number) or not 1 <= number < 1e6:
            raise _WrongError(
                value,
                f"VARIANTS takes a whole number of variants a chain, from 1; {value} was given.",
                "Write for example 3.",
            )
        return key, Setting("variants_each", str(int(number)))

    def order(self, key: Token, value: Token) -> tuple[Token, Any]:
        name = _member("ORDER_NAME", value)
        return key, Setting("order", "source" if name == "AS_SOURCE" else name.lower())

    def rhythm(self, key: Token, _: Token, number: Token | None = None) -> tuple[Token, Any]:
        value = f"rhythm:{number}" if number is not None else "rhythm"
        return key, Setting("order", _checked(key, value, parse_order))

    def mask(self, key: Token, value: Token) -> tuple[Token, Any]:
        return key, Setting("mask", _checked(value, _unquoted(value), parse_mask))

    # ------------------------------------------------------------------------------------------------------ angles

    def angle_pi(self, *parts: Token) -> Angle:
        before, after, sign, seen = 1.0, 1.0, 1.0, False
        for part in parts:
            if part.type == "SIGN":
                sign = -1.0 if part in "-−" else 1.0
            elif part.type == "PI":
                seen = True
            elif seen:
                after = _float(part)
                if after == 0:
                    raise _WrongError(part, "an angle over 0 does not exist.", "Write for example π/2.")
            else:
                before = _float(part)
        return Angle("pi", sign * before, after)

    def angle_degrees(self, *parts: Token) -> Angle:
        return _plain_angle("degrees", parts)

    def angle_radians(self, *parts: Token) -> Angle:
        return _plain_angle("radians", parts)


def _plain_angle(unit: Any, parts: Sequence[Token]) -> Angle:
    sign = -1.0 if parts[0].type == "SIGN" and parts[0] in "-−" else 1.0
    return Angle(unit, sign * next(_float(part) for part in parts if part.type == "NUMBER"))


def _float(token: Token) -> float:
    found = float(token)
    if found > 1e300:
        raise _WrongError(token, f"{str(token)[:20]} is too large a number.", "Write a smaller one.")
    return found


def _checked(token: Token, value: str, check: Callable[[str], Any]) -> str:
    try:
        check(value)
    except UsageError as error:
        raise _WrongError.of(token, error) from None
    return value


def _layers(token: Token) -> tuple[int, ...]:
    try:
        return parse_layers(str(token).replace("\t", " "))
    except UsageError as error:
        raise _WrongError.of(token, error) from None


def _word(field: str, word: Token) -> Value:
    """A word without quotation marks that a field is compared with."""
    if found := re.fullmatch(r"[qQ]([0-9]{1,2}(?:\.[0-9]+)?|100)", word):
        return Quantile(float(found[1]))
    if field == "role":
        return Text(ROLES.get(word.upper(), word.upper()), False)
    return Text(str(word), False)


def _target(kind: str, word: Token) -> Text:
    """A word without quotation marks that a line selects: a role, or what names a chain."""
    if kind == "TOKEN":
        raise _WrongError(word, f"TOKEN takes texts in quotation marks, {word} was given.", f'Write TOKEN → "{word}".')
    try:
        return Text(role_named(word) if kind == "STEP" else str(word), False)
    except UsageError as error:
        wrong = _WrongError.of(word, error)
        wrong.hint += " A text stands in quotation marks."
        raise wrong from None


# --------------------------------------------------------------------------------------------------------------------
# The file
# --------------------------------------------------------------------------------------------------------------------


def parse(text: str, name: str = "stellator") -> Program:
    """The blocks of a file. ``name`` stands in messages. Raises StellatorError with every fault, its line and column: what
    cannot be read, what means nothing, what says twice what can be said once, and a file without a block.
    """
    faults = Faults(name)
    program = read_blocks(text, faults)
    faults.check()
    return program


@dataclass(slots=True)
class _Open:
    """A block while it is read. ``header`` is None where it is wrong, or where there is none."""

    place: Place
    header: _Header | None = None
    name: _Name | None = None
    lines: list[Line] = field(default_factory=list)


def read_blocks(text: str, faults: Faults) -> Program:
    """The blocks of a file as far as they can be read; what cannot goes to ``faults``. A block whose zone is wrong is left out,
    so that nothing is said of it that only follows from that.
    """
    raw = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines = [unicodedata.normalize("NFC", line) for line in raw]
    blocks: list[_Open] = []
    told = 0  # the last line of which everything is said
    for number, line in enumerate(lines, start=1):
        if number <= told or not line.strip(" \t") or line.lstrip(" \t").startswith("#"):
            continue
        if len(faults.found) >= MAX_WRONG:
            faults.add(
                Place(number, 1), f"{MAX_WRONG:,} faults were found above.", "Is this a file of stellator blocks?"
            )
            break
        place = partial(_in_file, number, raw[number - 1], line)
        try:
            made = _statement(line, place)
        except _WrongError as wrong:
            faults.add(place(wrong.column), wrong.message, wrong.hint)
        except UnexpectedInput as error:
            column, message, hint = _unexpected(error, line, blocks)
            faults.add(place(column), message, hint)
            told = number + _lines_that_go_on(lines, number, column)
        else:
            _take(made, blocks, faults)
            continue
        if _is_header(line):
            blocks.append(_Open(place(1)))
        elif not blocks:
            if _is_statement(line):
                _open_without(place(1), blocks, faults)
            else:
                blocks.append(_Open(place(1)))
    if not blocks:
        faults.add(
            Place(1, 1), "there is no block.", "A block begins with [ZONE: …]; an example: trails stellator init"
        )
    _check_once(blocks, faults)
    return _commented([block for block in blocks if block.header], lines)


def _in_file(number: int, raw: str, line: str, column: int) -> Place:
    """The place of a column of a line as it stands in the file, where letters may be written in two characters."""
    if raw == line:
        return Place(number, column)
    composed = (len(unicodedata.normalize("NFC", raw[:end])) for end in range(len(raw) + 1))
    return Place(number, max((end for end, length in enumerate(composed) if length < column), default=0) + 1)


def _statement(line: str, place: Callable[[int], Place]) -> _Header | _Name | Line:
    """What one line says. Raises _WrongError, or what the parser raises."""
    if column := _too_deep(line):
        raise _WrongError(
            Token("", "", column=column),
            f"the expression is nested deeper than {MAX_DEPTH}.",
            "Declare a zone of its own.",
        )
    try:
        made: _Header | _Name | Line = _Builder(place).transform(_parser().parse(f"{line}\n"))
    except VisitError as error:
        raise error.orig_exc from None
    return made


def _unexpected(error: UnexpectedInput, line: str, blocks: Sequence[_Open]) -> tuple[int, str, str]:
    """Column, message and hint of a line that cannot be read; ``blocks`` stand before it."""
    block = blocks[-1] if blocks else _Open(Place())
    said = re.sub(r'"[^"]*"|«[^»]*»|“[^”]*”', "", line[: max(int(error.column), 1) + 8])
    russian = block.header.language == "ru" if block.header else re.search("[а-яё]", said.casefold()) is not None
    begun = bool(block.lines or block.name)
    return unexpected(error, line, inside=bool(blocks), begun=begun, say="ru" if russian else "en")


def _take(made: _Header | _Name | Line, blocks: list[_Open], faults: Faults) -> None:
    """Put what a line says into its block."""
    if isinstance(made, _Header):
        blocks.append(_Open(made.place, made))
        return
    if not blocks:
        _open_without(made.place, blocks, faults)
    block = blocks[-1]
    if isinstance(made, Line):
        block.lines.append(made)
    elif block.name is not None:
        faults.add(made.place, f"line {block.name.place.line} names this block already.", "Keep one of them.")
    else:
        block.name = made
        if block.lines:
            faults.add(made.place, "a block is named before its other lines.", "Put the name below [ZONE: …].")


def _open_without(place: Place, blocks: list[_Open], faults: Faults) -> None:
    """A block that nothing begins: it is said once."""
    faults.add(place, "this line stands before the first block.", "A block begins with [ZONE: …].")
    blocks.append(_Open(place))


def _too_deep(line: str) -> int:
    """The column from which a line is nested too deep to be walked; 0 where it is not."""
    negations = r"(?i)(?<!\w)(?:NOT|НЕ)(?!\w)"
    if line.count("(") <= MAX_DEPTH and len(re.findall(negations, line)) <= MAX_DEPTH:
        return 0
    opened = 0
    for column, character in enumerate(line, start=1):
        opened += (character == "(") - (character == ")")
        if opened > MAX_DEPTH:
            return column
    return int(len(re.findall(negations, line.split("#")[0].split('"')[0])) > MAX_DEPTH)


_WORD = re.compile(r"\w+")
_STARTS = frozenset(
    spelling.split()[0].casefold() for name in (*KEYWORDS, "NOT") for both in WORDS[name] for spelling in both
)
"""First words of lines, in lower case."""
_ARROWS = re.compile(r"→|⟶|[-=]>")


def _is_header(line: str) -> bool:
    """Whether a line that cannot be read was meant to begin a block."""
    word = _WORD.search(line)
    first = word.group().casefold() if word else ""
    near = difflib.get_close_matches(first, [s.casefold() for both in WORDS["ZONE"] for s in both], 1, 0.7)
    return line.lstrip(" \t").startswith("[") or (bool(near) and not _ARROWS.search(line))


def _is_statement(line: str) -> bool:
    """Whether a line looks like one that says something by itself."""
    word = _WORD.match(line.lstrip(" \t"))
    begins = word is not None and word.group().casefold() in _STARTS
    return begins or line.lstrip(" \t")[:1] in ("[", "#") or _ARROWS.search(line) is not None


_CLOSING = {'"': '"', "«": "»", "“": "”", "„": "“", "[": "]"}


def _lines_that_go_on(lines: Sequence[str], number: int, column: int) -> int:
    """How many lines after the wrong line ``number`` are the rest of it: a text or an expression that was broken, of which
    everything is said by saying so.
    """
    line = lines[number - 1]
    rest = line[column - 1 :].strip(" \t")
    after = itertools.takewhile(lambda one: one.strip(" \t") and not _is_statement(one), lines[number:])
    opened = rest[:1] if rest[:1] in _CLOSING else line.lstrip(" \t")[:1] if not rest else ""
    if sign := _CLOSING.get(opened):
        return next((count for count, one in enumerate(after, start=1) if sign in one), 0)
    if rest and not rest.startswith("#"):
        return 0
    count = 0
    while re.search(r"(?:[,&|(→⟶<>=]|->)\s*(?:#.*)?$", lines[number - 1 + count]) and next(after, None) is not None:
        count += 1
    return count


_ONCE = (Anchor, Phase, Dampen, Subgraph)


def _check_once(blocks: Sequence[_Open], faults: Faults) -> None:
    """A fault for a name of two blocks, and for a line of which a block can have one."""
    names: dict[str, Place] = {}
    for block in blocks:
        if block.name is not None:
            if first := names.get(block.name.text):
                faults.add(
                    block.name.place,
                    f"the name {block.name.text!r} was given to the block of line {first.line} already.",
                    "Choose another name.",
                )
            names.setdefault(block.name.text, block.place)
        seen: dict[Any, Place] = {}
        for line in block.lines:
            content = line.content
            once: Any = (
                content.name
                if isinstance(content, Setting)
                else type(content)
                if isinstance(content, _ONCE)
                else (type(content), content)
            )
            if first := seen.get(once):
                faults.add(line.place, f"line {first.line} of this block says this already.", "Keep one of them.")
            seen.setdefault(once, line.place)


_COMMENT = re.compile(r'(?:[^"«“#]|"(?:[^"\\]|\\.)*"|«[^»]*»|“[^”]*”)*#(.*)')


def _commented(blocks: Sequence[_Open], lines: Sequence[str]) -> Program:
    """The blocks with the comments of the file: those on lines of their own before what follows, others behind their line."""
    own: dict[int, str] = {}
    behind: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        if "#" in line and (match := _COMMENT.fullmatch(line)):
            (own if line.lstrip().startswith("#") else behind)[number] = match[1].strip()
    waiting = deque(sorted(own))

    def before(line: int) -> tuple[str, ...]:
        found = []
        while waiting and waiting[0] < line:
            found.append(own[waiting.popleft()])
        return tuple(found)

    made = []
    for block in blocks:
        assert block.header is not None
        at = block.place.line
        first = before(at)
        named = block.name.place.line if block.name else 0
        name_before = before(named) if named else ()
        made.append(
            Block(
                block.header.zone,
                tuple(
                    replace(line, before=before(line.place.line), comment=behind.get(line.place.line, ""))
                    for line in block.lines
                ),
                block.name.text if block.name else "",
                block.header.language,
                before=first,
                comment=behind.get(at, ""),
                name_before=name_before,
                name_comment=behind.get(named, ""),
                place=block.place,
            )
        )
    return Program(tuple(made), before(len(lines) + 1))
