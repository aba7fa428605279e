"""What a stellator file says, as frozen records, and its one canonical spelling.

    [ZONE: entropy > q90 & role = BUT]       a region by what was measured there, or the name of one
    TOKEN → "противоречие"                   which text in it
    DRIFT → activates attention sweep on layer 17
    ANCHOR → "теория"
    PHASE → +π/2
    GRADIENT DAMPEN → backward pass ~0.1

:func:`trails.stellator.parsing.parse` reads it, :func:`printed` writes it; the one undoes the other.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Literal

from trails.export.options import layers_text
from trails.export.words import ROLES
from trails.stellator.words import FIELDS, Language, word

Comparison = Literal["<", "<=", ">", ">=", "=", "!="]


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in its file: line and column, both from 1."""

    line: int = 0
    column: int = 0


_place = field(default=Place(), compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Number:
    """A number with the unit as written, empty if none."""

    value: float
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Quantile:
    """The ``percent``-th percentile of the run's own distribution of the measure it is compared with, 0 to 100."""

    percent: float


@dataclass(frozen=True, slots=True)
class Text:
    """A text: quoted, or a bare word (a role, a kind of overlap, an id). ``masked``: any text that is the same but for numbers
    and names."""

    text: str
    quoted: bool = True
    masked: bool = False


Value = Number | Quantile | Text


@dataclass(frozen=True, slots=True)
class Condition:
    """A field compared with a value, or with any of several (``=`` and ``!=`` only). ``origin`` names the zone that declares
    it, empty where it stands in the block itself."""

    name: str
    compare: Comparison
    values: tuple[Value, ...]
    place: Place = _place
    origin: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class ZoneName:
    """A zone by its name in ``zones.toml``; ``all`` is every measured token."""

    name: str
    place: Place = _place


@dataclass(frozen=True, slots=True)
class Not:
    """Where the expression does not hold."""

    of: Expression


@dataclass(frozen=True, slots=True)
class Joined:
    """Several expressions, at least two, of which all (``&``) or any (``|``) hold."""

    sign: Literal["&", "|"]
    of: tuple[Expression, ...]


Expression = Condition | ZoneName | Not | Joined


@dataclass(frozen=True, slots=True)
class Angle:
    """``times`` π / ``over``, or ``times`` degrees or radians. ``times`` has the sign."""

    unit: Literal["pi", "degrees", "radians"]
    times: float
    over: float = 1.0

    @property
    def radians(self) -> float:
        """The angle in radians, with its sign."""
        if self.unit == "pi":
            return self.times * math.pi / self.over
        return math.radians(self.times) if self.unit == "degrees" else self.times


Kind = Literal["TOKEN", "STEP", "CHAIN"]
KINDS: tuple[Kind, ...] = ("TOKEN", "STEP", "CHAIN")
"""What a block can select, the finest first."""


@dataclass(frozen=True, slots=True)
class Select:
    """Occurrences in the zone: of texts, of steps with a text or a role, of chains with a text or an id."""

    kind: Kind
    of: tuple[Text, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Subgraph:
    """What a selection of ``trails export --subgraph`` holds."""

    selection: str


@dataclass(frozen=True, slots=True)
class Drift:
    """An assertion: at the selected tokens a measure lies above (``activates``) or below (``calms``) what it is elsewhere.

    ``measure`` is a name of :data:`trails.schema.MEASURES`; ``layers`` are 1 … L, empty for the mean over layers.
    """

    measure: str
    activates: bool = True
    layers: tuple[int, ...] = ()
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Anchor:
    """The place that the trail is to lead to."""

    text: str


@dataclass(frozen=True, slots=True)
class Phase:
    """An assertion on the angle between successive differences of hidden states, within ``tolerance``, at a layer (None: the
    middle one of those stored)."""

    angle: Angle
    tolerance: Angle | None = None
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class Dampen:
    """The loss of the selected tokens, and so their gradient, is multiplied by ``factor``, 0 or more."""

    factor: float


@dataclass(frozen=True, slots=True)
class Setting:
    """An option of export or training, spelled as there: ``name`` is weights, layers, objective, variants, order or mask."""

    name: Literal["weights", "layers", "objective", "variants", "variants_each", "order", "mask"]
    value: str


Content = Select | Subgraph | Drift | Anchor | Phase | Dampen | Setting


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a block, with the comment lines before it and the comment behind it."""

    content: Content
    before: tuple[str, ...] = ()
    comment: str = ""
    place: Place = _place


@dataclass(frozen=True, slots=True)
class Block:
    """One block: a zone and what is said of it. ``language`` is that of its keywords. ``name`` is empty if it has none."""

    zone: Expression
    lines: tuple[Line, ...] = ()
    name: str = ""
    language: Language = "en"
    before: tuple[str, ...] = ()
    comment: str = ""
    name_before: tuple[str, ...] = ()
    name_comment: str = ""
    place: Place = _place

    def of(self, kind: type[Content]) -> list[Line]:
        """Lines of one kind, in their order."""
        return [line for line in self.lines if isinstance(line.content, kind)]


@dataclass(frozen=True, slots=True)
class Program:
    """A file: its blocks, and the comments behind the last."""

    blocks: tuple[Block, ...] = ()
    after: tuple[str, ...] = ()

    def named(self) -> list[tuple[str, Block]]:
        """Blocks with a name each: their own, or ``block N``."""
        return [(block.name or f"block {number}", block) for number, block in enumerate(self.blocks, start=1)]


# --------------------------------------------------------------------------------------------------------------------
# Printing
# --------------------------------------------------------------------------------------------------------------------

MEASURE_WORDS = {
    "attention_entropy": "SWEEP",
    "attention_shift": "SHIFT",
    "attention_previous": "PREVIOUS",
    "attention_sink": "SINK",
    "hidden_shift": "HIDDEN",
    "logit_shift": "LOGIT",
}
"""Measures that DRIFT can name, and their words."""

SETTING_WORDS = {
    "weights": "WEIGHT",
    "layers": "LAYERS",
    "objective": "OBJECTIVE",
    "variants": "VARIANTS",
    "variants_each": "VARIANTS",
    "order": "ORDER",
    "mask": "MASK",
}
_VALUE_WORDS = {
    "weights": {"uniform": "UNIFORM", "surprisal": "SURPRISAL", "entropy": "ENTROPY", "both": "BOTH"},
    "order": {"shuffled": "SHUFFLED", "rising": "RISING", "falling": "FALLING", "source": "AS_SOURCE"},
    "objective": {"lm": "LM", "dft": "DFT", "attention": "ATTENTION"},
}


def printed(program: Program) -> str:
    """The file in its canonical spelling; an empty line between blocks."""
    parts = ["".join(f"{line}\n" for line in printed_block(block)) for block in program.blocks]
    if program.after:
        parts.append("".join(f"{_comment(text)}\n" for text in program.after))
    return "\n".join(parts)


def printed_block(block: Block) -> list[str]:
    """The lines of a block."""
    say = block.language
    found = [_comment(text) for text in block.before]
    found.append(_with(f"[{word('ZONE', say)}: {expression_text(block.zone, say)}]", block.comment))
    if block.name:
        found += [_comment(text) for text in block.name_before]
        found.append(_with(f"{word('NAME', say)} → {quoted(block.name)}", block.name_comment))
    for line in block.lines:
        found += [_comment(text) for text in line.before]
        found.append(_with(content_text(line.content, say), line.comment))
    return found


def content_text(content: Content, say: Language = "en") -> str:
    """One line without its comment."""
    match content:
        case Select(kind, of, negated):
            targets = ", ".join(_role(item, say) if kind == "STEP" else _target(item, say) for item in of)
            return f"{_not(negated, say)}{word(kind, say)} → {targets}"
        case Subgraph(selection):
            return f"{word('SELECT', say)} → {quoted(selection)}"
        case Drift(measure, activates, layers, negated):
            where = f" {word('ON_LAYER', say)} {layers_text(layers)}" if layers else ""
            verb = word("ACTIVATES" if activates else "CALMS", say)
            return f"{_not(negated, say)}{word('DRIFT', say)} → {verb} {word(MEASURE_WORDS[measure], say)}{where}"
        case Anchor(text):
            return f"{word('ANCHOR', say)} → {quoted(text)}"
        case Phase(angle, tolerance, layer):
            more = f" ± {_angle(tolerance, say).removeprefix('+')}" if tolerance else ""
            more += f" {word('ON_LAYER', say)} {layer}" if layer is not None else ""
            return f"{word('PHASE', say)} → {_angle(angle, say)}{more}"
        case Dampen(factor):
            return f"{word('DAMPEN', say)} → {word('BACKWARD', say)} ~{number_text(factor)}"
        case Setting(name, value):
            return f"{word(SETTING_WORDS[name], say)} → {_setting(name, value, say)}"


def _setting(name: str, value: str, say: Language) -> str:
    head, colon, rest = value.partition(":")
    if name in ("layers", "variants_each"):
        return value
    if name == "order" and head == "rhythm":
        return f"{word('RHYTHM', say)} {rest}" if colon else word("RHYTHM", say)
    if name == "weights" and head == "excess":
        return f"{word('EXCESS', say)} {quoted(rest)}"
    known = _VALUE_WORDS.get(name, {})
    return word(known[value], say) if value in known else quoted(value)


def _not(negated: bool, say: Language) -> str:
    return f"{word('NOT', say)} " if negated else ""


def _angle(angle: Angle, say: Language) -> str:
    sign = "-" if angle.times < 0 or (angle.times == 0 and math.copysign(1, angle.times) < 0) else "+"
    size = abs(angle.times)
    if angle.unit != "pi":
        unit = word("DEGREES" if angle.unit == "degrees" else "RADIANS", say)
        return f"{sign}{number_text(size)}{'' if unit == '°' else ' '}{unit}"
    times = "" if size == 1 else number_text(size)
    return f"{sign}{times}π" + ("" if angle.over == 1 else f"/{number_text(angle.over)}")


def _with(text: str, comment: str) -> str:
    return f"{text}  {_comment(comment)}" if comment else text


def _comment(text: str) -> str:
    return f"# {text}" if text else "#"


def quoted(text: str) -> str:
    """A text in quotation marks, with what would end it written as in JSON."""
    plain = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == " " else _escape(c) for c in plain)


def _escape(character: str) -> str:
    return json.dumps(character)[1:-1]


def number_text(value: float) -> str:
    """The shortest decimal that reads back as the number."""
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)


def _text(item: Text) -> str:
    return quoted(item.text) if item.quoted else item.text


def _target(item: Text, say: Language) -> str:
    return f"{word('MASKED', say)} {_text(item)}" if item.masked else _text(item)


_RUSSIAN_ROLES = {english: russian for russian, english in reversed(ROLES.items())}
_RUSSIAN_FIELDS = {english: russian for russian, english in FIELDS.items()}


def _role(item: Text, say: Language) -> str:
    """What a step is selected by: its role, or a text."""
    if say == "ru" and not item.quoted:
        return _RUSSIAN_ROLES.get(item.text, item.text)
    return _target(item, say)


def value_text(value: Value) -> str:
    """A value as written."""
    match value:
        case Number(number, unit):
            return number_text(number) + (unit if unit == "%" else f" {unit}" if unit else "")
        case Quantile(percent):
            return f"q{number_text(percent)}"
        case Text():
            return _text(value)


def expression_text(expression: Expression, say: Language = "en") -> str:
    """An expression as written."""
    match expression:
        case Condition(name, compare, values):
            said = _RUSSIAN_FIELDS.get(name, name) if say == "ru" else name
            told = (
                _role(value, say) if name == "role" and isinstance(value, Text) else value_text(value)
                for value in values
            )
            return f"{said} {compare} {', '.join(told)}"
        case ZoneName(name):
            return name
        case Not(of):
            inner = expression_text(of, say)
            return f"{word('NOT', say)} ({inner})"
        case Joined(sign, of):
            return f" {sign} ".join(
                f"({expression_text(one, say)})" if isinstance(one, Joined) else expression_text(one, say) for one in of
            )
