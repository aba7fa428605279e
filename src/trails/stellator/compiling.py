"""A block → one Cypher statement with parameters, and the annotations of training.

Texts, names and numbers of the file reach the statement as parameters only: its words are those written here. Zones are
compared with the numbers of one run; ``qN`` becomes the N-th percentile of the run's own values, which the graph holds.

What is selected follows from the lines TOKEN, STEP and CHAIN. Lines of one kind add up, lines of different kinds narrow each
other, and the finest kind says what comes out: tokens, steps or chains with a token in the zone. Without such a line it is the
tokens of the zone.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trails.analyses.effects import registry
from trails.analyses.sequences import NUMBER, name_words
from trails.errors import InputError
from trails.platform.arrays import Doubles
from trails.schema import TRANSITION, TRANSITION_MEASURES, Role, Run, Trace
from trails.stellator.faults import Faults
from trails.stellator.language import (
    KINDS,
    Anchor,
    Block,
    Condition,
    Dampen,
    Drift,
    Expression,
    Joined,
    Kind,
    Not,
    Number,
    Phase,
    Place,
    Quantile,
    Select,
    Setting,
    Subgraph,
    Text,
    ZoneName,
    content_text,
    expression_text,
)
from trails.stellator.zones import MAX_TERMS, Zone, resolved, terms_of, too_large
from trails.store.rows import transition_values

MEASURES = {prop.name: prop for prop in TRANSITION if prop.name != "run"}
"""Properties of a transition that a zone can compare."""

FIELDS = ("role", "language", "source", "family", "overlap", "effect", "gap")
"""What else a zone can name."""

TRAINED = ("attention_entropy", "attention_previous", "attention_sink")
"""Measures that a DRIFT can be trained towards: what follows from one attention row."""

OVERLAPS = ("exact", "masked", "near", "skeleton")

Quantiles = Callable[[str, float], float]
"""(property, percent) → value in the unit of the property."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """What a block says to export and training; what it does not say is absent. ``dampen`` multiplies the loss weight of the
    selected tokens, ``anchor`` is placed behind a row, and the lines ``drift`` are targets where the objective is attention."""

    dampen: float | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    anchor: str = ""
    drift: tuple[Drift, ...] = ()

    def record(self) -> dict[str, Any]:
        """As plain values."""
        found: dict[str, Any] = dict(self.options)
        if self.dampen is not None:
            found["dampen"] = self.dampen
        if self.anchor:
            found["anchor"] = self.anchor
        if self.drift:
            trained = [one for one in self.drift if not one.negated and one.measure in TRAINED]
            found["targets"] = [content_text(one) for one in trained]
            if rest := [content_text(one) for one in self.drift if one not in trained]:
                found["not trained"] = rest
        return found


@dataclass(frozen=True, slots=True)
class Compiled:
    """A block as it runs: the statement returns one column ``id``, ids of ``kind`` in their order."""

    name: str
    block: Block
    kind: Kind
    statement: str
    parameters: Mapping[str, Any]
    annotations: Annotations
    place: str = "stellator:1:1"
    """``FILE:LINE:COLUMN`` of the block."""

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "block": self.name,
            "returns": f"ids of {self.kind.lower()}s",
            "cypher": self.statement,
            "parameters": dict(self.parameters),
            "annotations": self.annotations.record(),
            "assertions": [
                content_text(line.content)
                for line in self.block.lines
                if isinstance(line.content, Drift | Anchor | Phase)
            ],
        }


class Distribution:
    """The values of a run's transitions by property, read at the first question; its percentiles."""

    def __init__(self, traces: Callable[[], Iterable[Trace]], run: Run) -> None:
        self._traces, self._run = traces, run
        self._known: dict[str, Doubles] = {}

    def values(self, name: str) -> Doubles:
        """Every defined value, in the order of the traces."""
        if name not in self._known:
            measure = measure_of(name)
            parts: dict[str, list[Doubles]] = {}
            for trace in self._traces():
                for prop, values in transition_values(trace, self._run, measure).items():
                    parts.setdefault(prop, []).append(values[np.isfinite(values)])
            self._known |= {prop: np.concatenate(of) for prop, of in parts.items()}
        return self._known.get(name, np.zeros(0))

    def __call__(self, name: str, percent: float) -> float:
        """The percentile; linear between two values. Raises InputError where the run has no value."""
        values = self.values(name)
        if not len(values):
            raise self._lacking(name)
        return float(np.percentile(values, percent))

    def check(self, name: str) -> None:
        """Raises InputError where the run has no value of a property; reads up to the first one."""
        measure = measure_of(name)
        if not any(
            np.isfinite(transition_values(trace, self._run, measure).get(name, np.zeros(0))).any()
            for trace in self._traces()
        ):
            raise self._lacking(name)

    def _lacking(self, name: str) -> InputError:
        return InputError(
            f"{name} was asked for, and run {self._run.id} ({self._run.model}) has no value of it: a scorer "
            "without a model measures none. Choose another run with --run, or measure with a model: trails ingest FILE "
            "--model MODEL --home OTHER"
        )


def measure_of(name: str) -> str:
    """The measure that a property of a transition comes from."""
    return max((m.name for m in TRANSITION_MEASURES if name.startswith(m.name)), key=len)


@dataclass(frozen=True, slots=True)
class Places:
    """Ids that a selection holds: chains, steps ``CHAIN:STEP``, and tokens ``CHAIN:POSITION``."""

    chains: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    tokens: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """The finest of them."""
        return "TOKEN" if self.tokens else "STEP" if self.steps else "CHAIN"


@dataclass(frozen=True, slots=True)
class Lookups:
    """What a home answers while a block is compiled; by default everything is left as it is written, so that a file can be
    checked without one. ``chain`` turns what names a chain into its id, ``masked`` a text into those of the run's texts that
    are the same but for numbers and names, ``subgraph`` a selection into its places; ``measured`` raises InputError for a
    property, or ``gap``, that the run has no value of.
    """

    chain: Callable[[str], str] = lambda text: text
    masked: Callable[[str], list[str]] = lambda text: [text]
    subgraph: Callable[[str], Places] = lambda text: Places()
    measured: Callable[[str], None] = lambda name: None


def compile_block(
    name: str,
    block: Block,
    *,
    known: Mapping[str, Zone],
    run: str,
    quantile: Quantiles,
    lookups: Lookups | None = None,
    file: str = "stellator",
    faults: Faults | None = None,
) -> Compiled:
    """The block as a statement over one run.

    A field, unit, role, kind of overlap or effect that does not exist, and what the lookups refuse, go to ``faults``; then the
    statement is of no use. Without ``faults`` they are raised together, as StellatorError with ``FILE:LINE:COLUMN`` for each.
    """
    collected = Faults(file) if faults is None else faults
    statement = _Statement(quantile, collected, run, lookups or Lookups())
    zone = resolved(block, known, collected)
    if (terms := terms_of(zone)) > MAX_TERMS:
        collected.add(
            block.place,
            too_large("the zone", terms),
            "Split the block, or name several values with commas: source = a, b.",
        )
    where = [] if zone is None else [statement.expression(zone)]
    lines = [(line.content, line.place) for line in block.lines if isinstance(line.content, Select)]
    chosen = {
        kind: [(line, place) for line, place in lines if line.kind == kind and not line.negated] for kind in KINDS
    }
    subgraph = [(line.content, line.place) for line in block.lines if isinstance(line.content, Subgraph)]
    held = Places()
    for selection, place in subgraph:
        with collected.at(place):
            held = statement.lookups.subgraph(selection.selection)
    kind: Kind = next((kind for kind in KINDS if chosen[kind]), held.kind if subgraph else "TOKEN")
    match, places = ["MATCH (c:Chain)"], []
    if chosen["CHAIN"]:
        places.append(statement.chains(chosen["CHAIN"]))
    steps = statement.steps(chosen["STEP"]) if chosen["STEP"] else ""
    if chosen["TOKEN"]:
        texts = statement.parameter("token", statement.texts_of(chosen["TOKEN"]))
        places.append(f"any(x IN {texts} WHERE c.text CONTAINS x)")
    if places:
        match.append(f"WHERE {' AND '.join(places)}")
    if chosen["TOKEN"]:
        match += [
            f"UNWIND {texts} AS x",
            "UNWIND range(0, size(split(c.text, x)) - 2) AS n",
            "WITH c, x, n, split(c.text, x) AS parts",
            f"WITH c, {_FIRST} AS first, size(x) AS length",
            "MATCH (t:Token {chain: c.id})",
            f"WHERE {_covers('first', 'first + length')}",
            "MATCH (s:Step {id: t.chain + ':' + toString(t.step)})",
            "MATCH ()-[r:NEXT|BEGINS]->(t)",
        ]
        where = [*([steps] if steps else []), *where]
    else:
        match.append("MATCH (c)-[:HAS_STEP]->(s:Step)")
        if steps:
            match.append(f"WHERE {steps}")
        match.append("MATCH ()-[r:NEXT|BEGINS]->(t:Token {chain: s.chain, step: s.index})")
    if subgraph:
        where.insert(0, statement.held(held))
    for line, place in lines:
        if line.negated:
            where.append(f"NOT {statement.excluded(line, place)}")
    where.insert(0, f"r.run = {statement.parameter('run', run)}")
    match.append(f"WHERE {' AND '.join(where)}")
    letter = {"TOKEN": "t", "STEP": "s", "CHAIN": "c"}[kind]
    match.append(f"RETURN DISTINCT {letter}.id AS id ORDER BY id")
    if faults is None:
        collected.check()
    header = f"{file}:{block.place.line}:{block.place.column}"
    return Compiled(name, block, kind, "\n".join(match), statement.parameters, annotations_of(block), header)


_FIRST = "reduce(sum = 0, part IN parts[0..n + 1] | sum + size(part)) + n * size(x)"


def _covers(first: str, stop: str) -> str:
    """Tokens under the characters first … stop; the empty ones are parts of a character that a later token completes."""
    return f"t.start < {stop} AND (t.`end` > {first} OR (t.`end` = t.start AND t.start >= {first}))"


_Placed = Sequence[tuple[Select, Place]]
"""Selecting lines, each with its place."""


def masked_texts(texts: Iterable[str], wanted: str) -> list[str]:
    """What of the texts is the same as ``wanted`` but for numbers and names, each once, sorted.

    Numbers are as written (:data:`~trails.analyses.sequences.NUMBER`), names are words that these texts never write in lower
    case (:func:`~trails.analyses.sequences.name_words`); nothing else varies.
    """
    every = list(texts)
    names = name_words([*every, wanted])
    parts: list[str] = []
    at = 0
    for found in re.finditer(rf"(?P<number>{NUMBER.pattern})|(?P<word>[^\W\d_]+(?:['’][^\W\d_]+)?)", wanted):
        if found["number"] is None and found["word"] not in names:
            continue
        parts.append(re.escape(wanted[at : found.start()]))
        parts.append(
            rf"(?<![\d])(?:{NUMBER.pattern})(?![\d])"
            if found["number"]
            else r"(?<!\w)([^\W\d_]+(?:['’][^\W\d_]+)?)(?!\w)"
        )
        at = found.end()
    pattern = re.compile("".join([*parts, re.escape(wanted[at:])]))
    return sorted(
        {
            match.group()
            for text in every
            for match in pattern.finditer(text)
            if all(word in names for word in match.groups())
        }
    )


def annotations_of(block: Block) -> Annotations:
    """What the block says to export and training."""
    dampen: float | None = None
    anchor = ""
    options: dict[str, str] = {}
    for line in block.lines:
        match line.content:
            case Dampen(factor):
                dampen = factor
            case Anchor(text):
                anchor = text
            case Setting(name, value):
                options[name] = value
            case _:
                pass
    lines = (line.content for line in block.lines)
    drift = tuple(one for one in lines if isinstance(one, Drift)) if options.get("objective") == "attention" else ()
    return Annotations(dampen, options, anchor, drift)


class _WrongError(Exception):
    """A comparison that means nothing, or that the run cannot answer: what, and what to write instead."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class _Statement:
    """Parameters of a statement, and conditions that name them."""

    def __init__(self, quantile: Quantiles, faults: Faults, run: str, lookups: Lookups) -> None:
        self.parameters: dict[str, Any] = {}
        self.lookups = lookups
        self._quantile, self._faults, self._run = quantile, faults, run
        self._named: dict[tuple[str, str], str] = {}
        self._last: dict[str, int] = {}

    def parameter(self, name: str, value: Any) -> str:
        """A parameter that holds the value, by its name in the statement; one that holds it already is used again."""
        key = (name, repr(value))
        if key not in self._named:
            number = self._last[name] = self._last.get(name, 0) + 1
            self._named[key] = name if number == 1 else f"{name}{number}"
            self.parameters[self._named[key]] = value
        return f"${self._named[key]}"

    def expression(self, of: Expression) -> str:
        """A condition on ``c``, ``s``, ``t`` and ``r``."""
        match of:
            case Not(inner):
                return f"NOT ({self.expression(inner)})"
            case Joined(sign, parts):
                word = " AND " if sign == "&" else " OR "
                return "(" + word.join(self.expression(part) for part in parts) + ")"
            case Condition():
                try:
                    return self.condition(of)
                except _WrongError as wrong:
                    origin = f"in {of.origin}: " if of.origin else ""
                    message = f"{origin}{wrong.message}"
                    self._faults.add(of.place, message, wrong.hint, declared=bool(origin))
                    return "true"
            case ZoneName():
                return "true"

    def condition(self, of: Condition) -> str:
        """One comparison. Raises _WrongError for what means nothing."""
        if of.name in MEASURES or of.name == "gap":
            try:
                self.lookups.measured(of.name)
            except InputError as error:
                raise _WrongError(str(error)) from None
        if of.name in MEASURES:
            return f"r.{of.name} {_sign(of)} {self.number(of)}"
        if of.name == "gap":
            value = self.number(of)
            run = self.parameter("run", self._run)
            return f"EXISTS {{ MATCH (g:Gap)-[:BEFORE]->(s) WHERE g.run = {run} AND g.score {_sign(of)} {value} }}"
        if of.name not in FIELDS:
            names = (*FIELDS, *MEASURES)
            near = difflib.get_close_matches(of.name, names, 1)
            hint = f"Did you mean {near[0]}? " if near else ""
            raise _WrongError(
                f"{of.name!r} is nothing that is measured or known.", f"{hint}A zone compares {', '.join(names)}."
            )
        texts = self.texts(of)
        no = "NOT " if of.compare == "!=" else ""
        found = self.parameter(of.name, texts)
        if of.name == "role":
            return f"{no}s.role IN {found}"
        if of.name == "family":
            return f"{no}EXISTS {{ MATCH (c)-[:IN_FAMILY]->(f:Family) WHERE f.id IN {found} OR f.name IN {found} }}"
        if of.name == "effect":
            run = self.parameter("run", self._run)
            return f"{no}EXISTS {{ MATCH (e:Effect)-[i:SEEN_IN]->(s) WHERE i.run = {run} AND e.name IN {found} }}"
        if of.name == "overlap":
            run = self.parameter("run", self._run)
            return (
                f"{no}EXISTS {{ MATCH (o:Overlap)-[i:IN]->(c) WHERE (o.run IS NULL OR o.run = {run}) AND o.kind IN {found} AND "
                "((o.kind IN ['near', 'skeleton'] AND i.first <= s.index AND i.stop > s.index) OR "
                "(o.kind IN ['exact', 'masked'] AND i.first <= t.position AND i.stop > t.position)) }"
            )
        return f"{no}c.{of.name} IN {found}"

    def texts(self, of: Condition) -> list[str]:
        """The values of a condition on names. Raises _WrongError for numbers, and for names that do not exist."""
        if of.compare not in ("=", "!=") or not all(isinstance(value, Text) for value in of.values):
            raise _WrongError(f"{of.name} is a name.", f"Write {of.name} = NAME, or several with commas.")
        found = [value.text for value in of.values if isinstance(value, Text)]
        choices = {"role": tuple(Role), "overlap": OVERLAPS, "effect": tuple(registry())}.get(of.name)
        for text in found if choices else ():
            if choices and text not in choices:
                near = difflib.get_close_matches(text, choices, 1)
                meant = f"Did you mean {near[0]}? " if near else ""
                raise _WrongError(f"{of.name} {text!r} does not exist.", f"{meant}There are: {', '.join(choices)}.")
        return found

    def number(self, of: Condition) -> str:
        """The parameter of a condition on a number, in the unit of the property."""
        value = of.values[0]
        if isinstance(value, Text) and re.fullmatch(r"[a-zA-Z]{1,3}-?\d+(?:\.\d+)?", value.text):
            raise _WrongError(f"{value.text} is no percentile.", f"Write {of.name} > q90: from q0 to q100.")
        if len(of.values) > 1 or isinstance(value, Text):
            raise _WrongError(
                f"{of.name} is a number.", f"Write {of.name} > 1.5, or {of.name} > q90 for its percentile."
            )
        if isinstance(value, Quantile):
            if of.name == "gap":
                raise _WrongError("gap is a score from 0 to 1 already.", "Write gap > 0.9.")
            try:
                return self.parameter(of.name, self._quantile(of.name, value.percent))
            except InputError as error:
                raise _WrongError(str(error)) from None
        return self.parameter(of.name, self.in_unit(of, value))

    def in_unit(self, of: Condition, value: Number) -> float:
        """The number in the property's own unit. Raises _WrongError for a unit that does not fit."""
        own = MEASURES[of.name].unit if of.name in MEASURES else "0..1"
        if own == "0..1" and value.unit in ("", "%"):
            share = value.value / (100 if value.unit else 1)
            if not 0 <= share <= 1:
                raise _WrongError(
                    f"{of.name} lies between 0 and 1, and {value.value:g}{value.unit} does not: this is true of every "
                    "value or of none.",
                    f"Write for example {of.name} > 0.9, or {of.name} > q90 for its percentile."
                    if of.name != "gap"
                    else "Write for example gap > 0.9.",
                )
            return share
        if not value.unit:
            return value.value
        if value.unit in ("nats", "bits") and own == "nats":
            return value.value * (math.log(2) if value.unit == "bits" else 1)
        fits = "nats or bits" if own == "nats" else "%" if own == "0..1" else "no unit"
        raise _WrongError(
            f"{of.name} is measured in {own or 'whole numbers'}, {value.unit} was given.",
            f"It takes {fits}, or a percentile: {of.name} > q90.",
        )

    def texts_of(self, lines: _Placed) -> list[str]:
        """The quoted texts of lines, each once, masked ones as all that they stand for."""
        found: list[str] = []
        for line, place in lines:
            for text in line.of:
                if text.quoted and not text.masked:
                    found.append(text.text)
                elif text.quoted:
                    with self._faults.at(place):
                        found += self.lookups.masked(text.text)
        return list(dict.fromkeys(found))

    def chains(self, lines: _Placed) -> str:
        """Chains with one of the texts, or of one of the names."""
        parts = []
        ids = []
        for line, place in lines:
            for text in line.of:
                if not text.quoted:
                    with self._faults.at(place):
                        ids.append(self.lookups.chain(text.text))
        if ids or not any(text.quoted for line, _ in lines for text in line.of):
            parts.append(f"c.id IN {self.parameter('chain', ids)}")
        if any(text.quoted for line, _ in lines for text in line.of):
            texts = self.parameter("chain_text", self.texts_of(lines))
            parts.append(f"any(x IN {texts} WHERE c.text CONTAINS x)")
        return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"

    def steps(self, lines: _Placed) -> str:
        """Steps with one of the texts, or of one of the roles."""
        parts = []
        if roles := [text.text for line, _ in lines for text in line.of if not text.quoted]:
            parts.append(f"s.role IN {self.parameter('step_role', roles)}")
        if any(text.quoted for line, _ in lines for text in line.of):
            texts = self.parameter("step_text", self.texts_of(lines))
            parts.append(f"any(x IN {texts} WHERE s.text CONTAINS x)")
        return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"

    def held(self, places: Places) -> str:
        """What lies in one of the places."""
        parts = []
        for name, values, key in (
            ("chain", places.chains, "c.id"),
            ("step", places.steps, "s.id"),
            ("token", places.tokens, "t.chain + ':' + toString(t.position)"),
        ):
            if values or (name == "chain" and not (places.steps or places.tokens)):
                parts.append(f"{key} IN {self.parameter(f'select_{name}', list(values))}")
        return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"

    def excluded(self, line: Select, place: Place) -> str:
        """A condition that holds at what a line with NOT names."""
        if line.kind == "CHAIN":
            return self.chains([(line, place)])
        if line.kind == "STEP":
            return self.steps([(line, place)])
        texts = self.parameter("not_token", self.texts_of([(line, place)]))
        first = _FIRST.replace("parts", "split(c.text, x)")
        return (
            f"any(x IN {texts} WHERE any(n IN range(0, size(split(c.text, x)) - 2) WHERE "
            f"{_covers(f'({first})', f'({first}) + size(x)')}))"
        )


def _sign(of: Condition) -> str:
    return "<>" if of.compare == "!=" else of.compare


def zone_text(block: Block, known: Mapping[str, Zone]) -> str:
    """The zone of a block in words: its expression, and what a named zone stands for."""
    text = expression_text(block.zone)
    if isinstance(block.zone, ZoneName) and block.zone.name in known:
        zone = known[block.zone.name]
        return f"{text}, declared in {zone.file} as {zone.text}" + (f": {zone.meaning}" if zone.meaning else "")
    return text
