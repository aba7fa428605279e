"""Reading a stellator file: text in, :class:`~trails.stellator.language.Program` out, or one error with line and column."""

from __future__ import annotations

import difflib
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput, UnexpectedToken, v_args
from lark.exceptions import VisitError

from trails.errors import InputError, UsageError
from trails.export.choose import parse_mask
from trails.export.options import layers_text, parse_layers
from trails.export.order import parse_order
from trails.export.words import ROLES, role_named
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
from trails.stellator.words import FIELDS, WORDS, pattern

MAX_DEPTH = 40
"""How deep expressions may be nested."""

_GROUPS: dict[str, tuple[str, ...]] = {
    # terminal of the grammar: terminals of words that it stands for
    "KIND": ("TOKEN", "STEP", "CHAIN"),
    "VERB": ("ACTIVATES", "CALMS"),
    "MEASURE": ("SWEEP", "SHIFT", "PREVIOUS", "SINK", "HIDDEN", "LOGIT"),
    "WEIGHT_NAME": ("UNIFORM", "SURPRISAL", "ENTROPY", "BOTH"),
    "ORDER_NAME": ("SHUFFLED", "RISING", "FALLING", "AS_SOURCE"),
    "OBJECTIVE_NAME": ("LM", "DFT", "ATTENTION"),
}
_HIDDEN = ("ON_LAYER", "BACKWARD")  # words that carry nothing: their terminals begin with _
_SINGLE = tuple(
    name for name in WORDS if name not in ("AND", "OR") and not any(name in members for members in _GROUPS.values())
)

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
    "COMMA": (",",),
    "COLON": (":",),
    "SLASH": ("/",),
    "_EITHER": ("|",),
    "_BOTH": ("&",),
    "_PLUS_MINUS": ("±",),
    "_TILDE": ("~",),
}


class _WrongError(Exception):
    """A line whose words fit and whose meaning does not."""

    def __init__(self, at: Token | Place, message: str) -> None:
        self.place = at if isinstance(at, Place) else _place(at)
        super().__init__(message)


def _place(token: Token) -> Place:
    return Place(token.line or 0, token.column or 0)


@cache
def _parser() -> Lark:
    grammar = resources.files("trails.stellator").joinpath("grammar.lark").read_text("utf-8")
    terminals = [f"{'_' if name in _HIDDEN else ''}{name}.2: /{pattern(name)}/i" for name in _SINGLE]
    terminals += [
        f"{name}.2: /{'|'.join(pattern(member) for member in members)}/i" for name, members in _GROUPS.items()
    ]
    return Lark("\n".join((*terminals, grammar)), parser="lalr", transformer=_Builder(), cache=False)


def _member(group: str, token: Token) -> str:
    """Which word of a group a token is."""
    said = re.sub(r"[ \t]+", " ", str(token)).casefold()
    for name in _GROUPS[group]:
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
                f'{token} cannot be read: after \\ comes one of n, t, ", \\ or u and four digits. Write \\\\ for a \\.',
            ) from None
    else:
        found = str(token)[1:-1]
    text = unicodedata.normalize("NFC", str(found))
    if any(0xD800 <= ord(character) < 0xE000 for character in text):
        raise _WrongError(token, f"{token} holds half of a character. Write the whole character.")
    if not text.strip():
        raise _WrongError(token, "the text is empty. Write what is to be found.")
    return text


@v_args(inline=True)
class _Builder(Transformer[Token, Any]):
    """Builds the records while the parser runs. What carries no meaning is dropped by the grammar."""

    def start(self, *blocks: Block) -> tuple[Block, ...]:
        return blocks

    def block(self, header: tuple[Token, Expression], *rest: Any) -> Block:
        zone, expression = header
        name = next((part for part in rest if isinstance(part, tuple)), None)
        lines = tuple(part for part in rest if isinstance(part, Line))
        language = "ru" if zone.casefold() == "зона" else "en"
        # the comments are put in afterwards, by line: the line of the name is kept until then
        return Block(
            expression,
            lines,
            name[1] if name else "",
            language,  # type: ignore[arg-type]
            name_comment=str(name[0].line) if name else "",
            place=_place(zone),
        )

    def header(self, zone: Token, expression: Expression) -> tuple[Token, Expression]:
        return zone, expression

    def name(self, key: Token, text: Token) -> tuple[Token, str]:
        return key, _unquoted(text)

    def line(self, found: tuple[Token, Any]) -> Line:
        token, content = found
        return Line(content, place=_place(token))

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
        return ZoneName(str(name).casefold(), _place(name))

    def condition(self, name: Token, compare: Token, *values: Value) -> Expression:
        sign: Any = {"≤": "<=", "≥": ">=", "≠": "!="}.get(str(compare), str(compare))
        told: Comparison = sign
        key = str(name).casefold()
        field = FIELDS.get(key, key)
        if len(values) > 1 and told not in ("=", "!="):
            raise _WrongError(
                name, f"{field} {told} takes one value, {len(values)} were given. Several values go with = or !=."
            )
        fitted = tuple(_value(field, value) for value in values)
        return Condition(field, told, fitted, _place(name))

    def number(self, number: Token, unit: Token | None = None) -> Value:
        said = str(unit or "").casefold()
        return Number(_float(number), {"нат": "nats", "бит": "bits"}.get(said, said))

    def bare(self, word: Token) -> Value:
        return Text(str(word), False)

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
        if kind == "STEP":
            targets = [_role(key, target) for target in targets]
        elif kind == "TOKEN" and (bare := next((t for t in targets if not t.quoted), None)):
            raise _WrongError(
                key, f'TOKEN takes texts in quotation marks, {bare.text} was given. Write TOKEN → "{bare.text}".'
            )
        return first, Select(kind, tuple(targets), negated)

    def drift(self, *parts: Token) -> tuple[Token, Any]:
        by_type = {part.type: part for part in parts}
        word = _member("MEASURE", by_type["MEASURE"])
        measure = next(name for name, own in MEASURE_WORDS.items() if own == word)
        activates = "VERB" not in by_type or _member("VERB", by_type["VERB"]) == "ACTIVATES"
        layers = _layers(by_type["LAYER_LIST"]) if "LAYER_LIST" in by_type else ()
        if layers and measure == "logit_shift":
            raise _WrongError(
                by_type["LAYER_LIST"], "the logit shift belongs to the output, it has no layer. Leave the layer out."
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
                    raise _WrongError(part, f"PHASE is measured at one layer, {layers_text(layers)} were given.")
                layer = layers[0]
        if abs(angle.radians) > math.pi * (1 + 1e-9):
            raise _WrongError(
                key,
                "an angle between two vectors lies between 0 and 180 degrees, "
                f"{math.degrees(abs(angle.radians)):.4g} were claimed.",
            )
        if tolerance is not None and tolerance.radians <= 0:
            raise _WrongError(key, "the tolerance after ± must be above 0. Write for example ± π/12.")
        if tolerance is not None and tolerance.radians >= math.pi:
            raise _WrongError(
                key,
                "a tolerance of 180 degrees or more holds every angle: the line could not fail. Write for example ± π/12.",
            )
        return key, Phase(angle, tolerance, layer)

    def dampen(self, key: Token, number: Token) -> tuple[Token, Any]:
        factor = _float(number)
        if factor > 1:
            raise _WrongError(
                number,
                f"GRADIENT DAMPEN multiplies the loss of the selected tokens by a factor from 0 to 1; {str(number)[:20]} was "
                "given. Write for example ~0.1.",
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
            raise _WrongError(value, f"VARIANTS takes a whole number of variants a chain, from 1; {value} was given.")
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
                    raise _WrongError(part, "an angle over 0 does not exist.")
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
        raise _WrongError(token, f"{str(token)[:20]} is too large a number.")
    return found


def _checked(token: Token, value: str, check: Callable[[str], Any]) -> str:
    try:
        check(value)
    except UsageError as error:
        raise _WrongError(token, str(error)) from None
    return value


def _layers(token: Token) -> tuple[int, ...]:
    try:
        return parse_layers(str(token).replace("\t", " "))
    except UsageError as error:
        raise _WrongError(token, str(error)) from None


def _value(field: str, value: Value) -> Value:
    if isinstance(value, Text) and not value.quoted:
        if found := re.fullmatch(r"[qQ]([0-9]{1,2}(?:\.[0-9]+)?|100)", value.text):
            return Quantile(float(found[1]))
        if field == "role":
            return Text(ROLES.get(value.text.upper(), value.text.upper()), False)
    return value


def _role(key: Token, target: Text) -> Text:
    if target.quoted:
        return target
    try:
        name = role_named(target.text)
    except UsageError as error:
        raise _WrongError(key, f"{error} A text stands in quotation marks.") from None
    return Text(name, False)


# --------------------------------------------------------------------------------------------------------------------
# The file
# --------------------------------------------------------------------------------------------------------------------


def parse(text: str, name: str = "stellator") -> Program:
    """The blocks of a file. ``name`` stands in messages. Raises InputError ``NAME:LINE:COLUMN: …`` for the first line that
    cannot be read, that means nothing, or that says twice what can be said once, and for a file without a block.
    """
    told = unicodedata.normalize("NFC", text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n"))
    lines = told.split("\n")
    _check_depth(lines, name)
    try:
        # with a transformer of its own the parser gives what `start` gives
        found: Any = _parser().parse(told + "\n")
    except _WrongError as error:
        raise _error(name, error.place, str(error)) from None
    except VisitError as error:
        if isinstance(error.orig_exc, _WrongError):
            raise _error(name, error.orig_exc.place, str(error.orig_exc)) from None
        raise
    except UnexpectedInput as error:
        raise _unexpected(error, lines, name) from None
    blocks: tuple[Block, ...] = found
    if not blocks:
        raise _error(
            name, Place(1, 1), "there is no block. A block begins with [ZONE: …]; an example: trails stellator init"
        )
    _check_once(blocks, name)
    return _commented(blocks, lines)


def _error(name: str, place: Place, message: str) -> InputError:
    return InputError(f"{name}:{place.line}:{place.column}: {message}")


def _check_depth(lines: Iterable[str], name: str) -> None:
    """Raises InputError for a line nested too deep to be walked."""
    for number, line in enumerate(lines, start=1):
        if line.count("(") > MAX_DEPTH or len(re.findall(r"(?i)(?<!\w)(?:NOT|НЕ)(?!\w)", line)) > MAX_DEPTH:
            opened = 0
            for column, character in enumerate(line, start=1):
                opened += (character == "(") - (character == ")")
                if opened > MAX_DEPTH:
                    raise _error(name, Place(number, column), f"the expression is nested deeper than {MAX_DEPTH}.")
            if len(re.findall(r"(?i)(?<!\w)(?:NOT|НЕ)(?!\w)", line.split("#")[0].split('"')[0])) > MAX_DEPTH:
                raise _error(name, Place(number, 1), f"the expression is nested deeper than {MAX_DEPTH}.")


def _unexpected(error: UnexpectedInput, lines: Sequence[str], name: str) -> InputError:
    if isinstance(error, UnexpectedToken):
        expected = set(error.accepts or error.expected)
    elif isinstance(error, UnexpectedCharacters):
        expected = set(error.allowed or ())
    else:
        expected = set()
    place = Place(max(int(error.line), 1), max(int(error.column), 1))
    if place.line > len(lines):
        place = Place(len(lines), len(lines[-1]) + 1)
    line = lines[place.line - 1]
    rest = line[place.column - 1 :].strip()
    said = [spelling for terminal in sorted(expected) for spelling in _spellings(terminal)]
    wanted = ", ".join(dict.fromkeys(_first_spellings(expected))) or "something else"
    if not rest or rest.startswith("#"):
        return _error(name, place, f"the line ends where one of these is expected: {wanted}.")
    shown = rest if len(rest) <= 40 else f"{rest[:40]}…"
    return _error(name, place, f"{shown!r} means nothing here.{_meant(rest, said)} Expected: {wanted}.")


def _meant(rest: str, said: Sequence[str]) -> str:
    """What the words may have been meant to be: the nearest spelling of the terminals that fit here."""
    words = re.split(r"\s+", rest)
    by_fold = {spelling.casefold(): spelling for spelling in said}
    for count in (3, 2, 1):
        tried = re.sub(r"[→:\]].*|->.*", "", " ".join(words[:count])).strip().casefold()
        near = difflib.get_close_matches(tried, by_fold, 1, 0.7) if tried else []
        if near:
            return f" Did you mean {by_fold[near[0]]}?"
    return ""


def _words_of(terminal: str) -> tuple[str, ...]:
    bare = terminal.removeprefix("_") if terminal.removeprefix("_") in _HIDDEN else terminal
    return _GROUPS.get(bare, (bare,) if bare in WORDS else ())


def _spellings(terminal: str) -> list[str]:
    return [spelling for word in _words_of(terminal) for both in WORDS[word] for spelling in both]


def _first_spellings(expected: Iterable[str]) -> list[str]:
    order = {name: number for number, name in enumerate((*_GROUPS, *WORDS, *_SAID))}
    found: list[str] = []
    for terminal in sorted(expected, key=lambda name: (order.get(name.removeprefix("_"), 99), name)):
        words = _words_of(terminal)
        found += [WORDS[word][0][0] for word in words] if words else list(_SAID.get(terminal, ()))
    return found


_ONCE = (Anchor, Phase, Dampen, Subgraph)


def _check_once(blocks: Sequence[Block], name: str) -> None:
    """Raises InputError for a name of two blocks, and for a line of which a block can have one."""
    names: dict[str, Place] = {}
    for block in blocks:
        if block.name and block.name in names:
            first = names[block.name]
            raise _error(
                name, block.place, f"the name {block.name!r} was given to the block of line {first.line} already."
            )
        names[block.name] = block.place
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
            if once in seen:
                raise _error(
                    name, line.place, f"line {seen[once].line} of this block says this already. Keep one of them."
                )
            seen[once] = line.place


_COMMENT = re.compile(r'(?:[^"«“#]|"(?:[^"\\]|\\.)*"|«[^»]*»|“[^”]*”)*#(.*)')


def _commented(blocks: Sequence[Block], lines: Sequence[str]) -> Program:
    """The blocks with the comments of the file: those on lines of their own before what follows, others behind their line."""
    own: dict[int, str] = {}
    behind: dict[int, str] = {}
    for number, line in enumerate(lines, start=1):
        if "#" in line and (match := _COMMENT.fullmatch(line)):
            (own if line.lstrip().startswith("#") else behind)[number] = match[1].strip()
    waiting = sorted(own)

    def before(line: int) -> tuple[str, ...]:
        found = []
        while waiting and waiting[0] < line:
            found.append(own[waiting.pop(0)])
        return tuple(found)

    made = []
    for block in blocks:
        at = block.place.line
        first = before(at)
        named = int(block.name_comment or 0)
        name_before = before(named) if named else ()
        made_lines = tuple(
            replace(line, before=before(line.place.line), comment=behind.get(line.place.line, ""))
            for line in block.lines
        )
        made.append(
            replace(
                block,
                lines=made_lines,
                before=first,
                comment=behind.get(at, ""),
                name_before=name_before,
                name_comment=behind.get(named, ""),
            )
        )
    return Program(tuple(made), before(len(lines) + 1))
