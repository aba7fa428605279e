"""A chosen part of the graph: which chains, and which of their steps or tokens.

A selection is text. Each form is one entry of :data:`FORMS`:

==============================  ======================================================================================
``all``                         every chain that was measured
a chain's name                  the whole chain, named in any way that :mod:`trails.store.resolve` knows
``chain:ID`` (``chain:A,B``)    whole chains
``source:NAME``                 whole chains of a source
``family:ID``                   whole chains of a family, by its id or name
``meta:NAME=VALUE``             whole chains whose record says so (``meta:split=train,test``: any of them)
``selected:NAME``               whole chains that ``trails select`` chose within a budget
``between:A,B``                 everything from A to B, two steps or two tokens of one chain
``overlap:ID``                  the occurrences of an overlap
``effect:NAME``                 steps that show an effect of the registry
``gaps>0.9``                    steps that follow a seam whose score is above 0.9 (also ``>=``, ``<``, ``<=``)
``roles:IF>THEN>BUT``           runs of steps with these roles; ``>`` = directly followed by, ``>>`` = followed later by
``implicit-roles:IF>THEN``      the same; a step without a role has its implicit one of p >= 0.6
``query:NAME{"limit": 50}``     a named query of the cypher/ library, with parameters as JSON
``FILE.cypher``                 a read-only statement from a file
``MATCH … RETURN …``            a read-only statement as it is
==============================  ======================================================================================

A statement may return nodes or ids, alone or in lists. Of each row the finest kind counts: tokens if it holds any, else
steps, else chains. What one chain contributes is united: a chain gives at most one training example.
"""

from __future__ import annotations

import json
import logging
import re
import shlex
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trails.errors import QueryError, UsageError, WritingQueryError
from trails.export.words import not_known, role_named
from trails.platform.arrays import Keys
from trails.platform.files import path_from
from trails.platform.text import agreeing, counted
from trails.schema import stable_hash, stable_hash_of, step_key
from trails.store.base import GraphStore
from trails.store.resolve import Names
from trails.store.scope import owner_mark
from trails.store.traces import TraceStore, numbers_of

logger = logging.getLogger(__name__)

MAX_ROWS = 5_000_000
TIMEOUT_S = 600.0

FORMS = (
    "all",
    "chain:ID",
    "source:NAME",
    "family:ID",
    "meta:correct=true",
    "selected:NAME",
    "between:A,B",
    "overlap:ID",
    "gaps>0.9",
    "effect:NAME",
    "roles:IF>THEN>BUT>THEREFORE",
    "implicit-roles:IF>THEN>THEREFORE",
    'query:NAME{"parameter": value}',
    "FILE.cypher",
    '"MATCH … RETURN …"',
)
"""Every form of a selection, as one writes it."""

_CHAIN = re.compile(r"c[0-9a-f]{16}")
_STEP = re.compile(r"(c[0-9a-f]{16}):(\d+)")
_TOKEN = re.compile(r"(c[0-9a-f]{16}):([0-9a-f]{8}):(\d+)")
_GAPS = re.compile(r"gaps\s*(>=|<=|>|<)\s*(\S+)")
_QUERY = re.compile(r"query:([A-Za-z0-9_-]+)\s*(\{.*\})?", re.DOTALL)
_BEFORE = r"(?:\s|//[^\n]*(?:\n|$)|/\*.*?\*/)*"
_READS = "MATCH|OPTIONAL|WITH|UNWIND|CALL|RETURN"
_PLANS = "EXPLAIN|PROFILE"
_WRITES = "CREATE|MERGE|SET|DELETE|DETACH|REMOVE|DROP|LOAD|FOREACH"
_STATEMENT = re.compile(rf"{_BEFORE}({_READS}|{_PLANS}|{_WRITES})\b", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True, repr=False)
class Part:
    """What is selected of one chain: whole steps and token spans, united. Neither means the whole chain.

    ``steps`` are indices in order; ``tokens`` are half-open spans of token positions, sorted and disjoint. ``weight``
    multiplies the loss weights of the row, ``stage`` comes before the order of rows (low first), ``tag`` is carried along.
    ``damped`` are spans of token positions with a factor of their own (start, stop, factor); where two meet, both count.
    ``anchor`` is a text that is placed behind the row. ``drift`` are targets of the attention objective: (start, stop, measure,
    layers, above, bound), see :data:`trails.export.record.DRIFT_FIELD`.
    """

    chain: str
    steps: tuple[int, ...] = ()
    tokens: tuple[tuple[int, int], ...] = ()
    weight: float = 1.0
    tag: str = ""
    stage: int = 0
    damped: tuple[tuple[int, int, float], ...] = ()
    anchor: str = ""
    drift: tuple[tuple[int, int, str, tuple[int, ...], bool, float], ...] = ()

    def __repr__(self) -> str:
        """The part without what it leaves at its default: the digest of a selection is made of it."""
        own = {
            "weight": (self.weight, 1.0),
            "tag": (self.tag, ""),
            "stage": (self.stage, 0),
            "damped": (self.damped, ()),
            "anchor": (self.anchor, ""),
            "drift": (self.drift, ()),
        }
        more = "".join(f", {name}={value!r}" for name, (value, default) in own.items() if value != default)
        return f"Part(chain={self.chain!r}, steps={self.steps!r}, tokens={self.tokens!r}{more})"

    @property
    def whole(self) -> bool:
        """True when the chain is selected as it is."""
        return not self.steps and not self.tokens


class OrderedParts(Mapping[str, Part]):
    """Parts by chain that need not be held one by one, in the order of the chains' ids."""

    @property
    @abstractmethod
    def numbers(self) -> Keys:
        """Of the ids of the chains (:func:`trails.store.traces.id_numbers`), ascending."""

    @abstractmethod
    def of(self, chains: Sequence[str]) -> list[Part | None]:
        """The part of every chain; None for one that is not selected."""

    @abstractmethod
    def each(self) -> Iterator[Part]:
        """Every part, in their order."""

    @abstractmethod
    def own(self) -> Iterable[Part]:
        """The parts that are more than a whole chain: of those that differ from ``Part(chain)`` every one, in any order."""


@dataclass(frozen=True)
class Selection:
    """A selection and what it stands for. ``parts`` is None for ``all`` (nothing is listed, so memory stays flat).

    ``statement`` and ``parameters`` are the Cypher that answered it, empty where none was needed. ``spelled`` are the tokens of
    the anchors that parts place. ``lost`` are (chain, run) pairs that were found in the graph and whose shard is gone. What all
    parts are looked through for is found once: an export asks for it with every batch of rows.
    """

    text: str
    parts: Mapping[str, Part] | None
    statement: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    spelled: Mapping[str, Sequence[int]] = field(default_factory=dict)
    lost: tuple[tuple[str, str], ...] = ()

    def part(self, chain: str) -> Part | None:
        """What is selected of a chain; None if nothing is."""
        if self.parts is None:
            return Part(chain)
        return self.parts.get(chain)

    def of(self, chains: Sequence[str]) -> list[Part | None]:
        """What is selected of every chain; None if nothing is."""
        return self.parts.of(chains) if isinstance(self.parts, OrderedParts) else [self.part(chain) for chain in chains]

    def root(self, chain: str, parent: str = "") -> Part:
        """The part of a row: that of its chain, or of the chain it is a variant of."""
        return self.part(parent or chain) or Part(parent or chain)

    @cached_property
    def weighted(self) -> bool:
        """Whether a part, or a span of one, has a weight of its own."""
        return any(part.weight != 1 or part.damped for part in self._own())

    @property
    def damped(self) -> bool:
        """Whether a span of a part has a weight of its own."""
        return any(part.damped for part in self._own())

    @cached_property
    def anchored(self) -> bool:
        """Whether a text is placed behind a part."""
        return any(part.anchor for part in self._own())

    @cached_property
    def targeted(self) -> bool:
        """Whether a part has a target of the attention objective."""
        return any(part.drift for part in self._own())

    @cached_property
    def staged(self) -> bool:
        """Whether a part has a stage or a tag."""
        return any(part.stage or part.tag for part in self._own())

    def _own(self) -> Iterable[Part]:
        if self.parts is None:
            return ()
        return self.parts.own() if isinstance(self.parts, OrderedParts) else self.parts.values()

    @property
    def chains(self) -> list[str] | None:
        """Ids of the chains in it, sorted; None for ``all``."""
        return None if self.parts is None else sorted(self.parts)

    @property
    def numbers(self) -> Keys | None:
        """The same as numbers (:func:`trails.store.traces.id_numbers`), ascending."""
        if self.parts is None:
            return None
        return self.parts.numbers if isinstance(self.parts, OrderedParts) else np.unique(numbers_of(list(self.parts)))

    @cached_property
    def digest(self) -> str:
        """16 hex digits over what is selected (not over how it was asked)."""
        if self.parts is None:
            return stable_hash("all")
        if isinstance(self.parts, OrderedParts):
            return stable_hash_of(map(repr, self.parts.each()))
        return stable_hash_of(repr(self.parts[chain]) for chain in sorted(self.parts))


class _Found:
    """Collects elements; the whole chain swallows its parts."""

    def __init__(self) -> None:
        self.whole: set[str] = set()
        self.steps: dict[str, set[int]] = {}
        self.tokens: dict[str, set[int]] = {}
        self.spans: dict[str, list[tuple[int, int]]] = {}

    def parts(self) -> dict[str, Part]:
        """One part per chain, by chain id."""
        found: dict[str, Part] = {}
        for chain in sorted(self.whole | set(self.steps) | set(self.tokens) | set(self.spans)):
            if chain in self.whole:
                found[chain] = Part(chain)
                continue
            spans = [*self.spans.get(chain, ()), *((p, p + 1) for p in self.tokens.get(chain, ()))]
            found[chain] = Part(chain, tuple(sorted(self.steps.get(chain, ()))), merge_spans(spans))
        return found


def merge_spans(spans: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Half-open spans, sorted, with touching and overlapping ones united and empty ones left out."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(span for span in spans if span[1] > span[0]):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return tuple(merged)


def select(store: GraphStore | None, traces: TraceStore, selection: str) -> Selection:
    """Resolve a selection: chains of this home, also where others share the graph. ``store`` may be None where
    :func:`needs_graph` is false.

    Raises UsageError for a form, a name or an id that does not exist, QueryError for a statement that is wrong, writes,
    or returns no chain, step or token, and for a selection that holds nothing.
    """
    text = selection.strip()
    if text == "all":
        return Selection(text, None)
    if not is_selection(text):
        return _one_chain(text, traces)
    for form, found in _FROM_SHARDS.items():
        if text.startswith(form):
            return found(text, traces)
    if store is None:
        raise UsageError(f"selection {text!r} asks the graph, and no graph is open. Run: trails rebuild")
    return _of_home(_asked(text, store, traces), store, traces)


def _of_home(found: Selection, store: GraphStore, traces: TraceStore) -> Selection:
    """The part of a selection that this home holds: a graph may have the chains of others, too. What the graph says this home
    holds and no shard does is in ``lost``, and logged. Raises QueryError for none."""
    pairs = traces.keys()
    held = {chain for chain, _ in pairs}
    parts = {chain: part for chain, part in (found.parts or {}).items() if chain in held}
    lost = _lost(found.parts or {}, pairs, store, traces)
    if lost and not parts:
        raise QueryError(f"selection {found.text!r} holds nothing that can be read: {'; '.join(_told_lost(lost))}")
    for line in _told_lost(lost):
        logger.warning("selection %r: %s", found.text, line)
    if not parts:
        there = counted(len(found.parts or {}), "chain", "chains")
        raise QueryError(
            f"selection {found.text!r} holds nothing of this home: it found {there} in the graph, of another home or removed "
            "here. What this home holds: trails status"
        )
    return replace(found, parts=parts, lost=lost)


def _lost(
    chains: Collection[str], pairs: Collection[tuple[str, str]], store: GraphStore, traces: TraceStore
) -> tuple[tuple[str, str], ...]:
    """(chain, run) pairs of these chains that the graph holds as this home's and no shard does, sorted. Only chains that some
    run of the home did not measure are asked for."""
    runs = {run for _, run in pairs} | set(traces.runs())
    ids = sorted(chain for chain in chains if any((chain, run) not in pairs for run in runs))
    if runs and not ids:
        return ()
    asked = store.run(
        "MATCH (h:Home {id: $home})-[r:HOLDS]->(c:Chain) WHERE c.id IN $ids RETURN c.id AS chain, r.run AS run",
        {"home": traces.identity().id, "ids": ids or sorted(chains)},
        timeout_s=TIMEOUT_S,
        max_rows=MAX_ROWS,
        trusted=True,
    )
    return tuple(sorted(pair for row in asked.rows if (pair := (str(row[0]), str(row[1]))) not in pairs))


NAMED = 5
"""So many lost chains are named."""


def lost_line(chains: Sequence[str], run: str) -> str:
    """What to say of selected chains whose measures by a run are lost."""
    return (
        f"{counted(len(chains), 'selected chain is', 'selected chains are')} left out, because a shard is missing: the graph "
        f"holds {agreeing(len(chains), 'it', 'them')} as measured by run {run}, and no shard does ({_few(chains)}). "
        "What to do: trails verify"
    )


def _few(chains: Sequence[str]) -> str:
    return ", ".join(chains[:NAMED]) + (f" and {len(chains) - NAMED:,} more" if len(chains) > NAMED else "")


def _told_lost(lost: Iterable[tuple[str, str]]) -> list[str]:
    by_run: dict[str, list[str]] = {}
    for chain, run in lost:
        by_run.setdefault(run, []).append(chain)
    return [lost_line(by_run[run], run) for run in sorted(by_run)]


def _asked(text: str, store: GraphStore, traces: TraceStore) -> Selection:
    """What a selection finds in the graph."""
    if text.startswith("between:"):
        return _between(text, store, traces)
    if text.startswith("overlap:"):
        return _overlap(text, store, traces)
    if text.startswith("effect:"):
        return _effect(text, store, traces)
    if match := _GAPS.fullmatch(text):
        return _gaps(text, match, store, traces)
    if text.startswith(("roles:", "implicit-roles:")):
        return _roles(text, store)
    if match := _QUERY.fullmatch(text):
        return _named(text, match, store, traces)
    if text.endswith(".cypher"):
        file = Path(text)
        if not file.is_file():
            raise UsageError(f"selection {text!r}: there is no such file.")
        try:
            statement = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UsageError(f"selection {text!r}: not text in UTF-8 (byte {error.start}). Convert it first.") from None
        except OSError as error:
            raise UsageError(f"selection {text!r} cannot be read: {error.strerror}.") from None
        return _statement(text, statement, {}, store)
    return _statement(text, text, {}, store)


def beside(selection: str, folder: Path) -> str:
    """A selection that a file in ``folder`` gives: the path of a ``FILE.cypher`` is relative to that folder."""
    text = selection.strip()
    return str(path_from(text, folder)) if text.endswith(".cypher") else selection


def is_selection(text: str) -> bool:
    """Whether a text has the form of a selection; the name of a chain has not."""
    text = text.strip()
    forms = (*_FROM_SHARDS, "between:", "overlap:", "effect:", "roles:", "implicit-roles:")
    return bool(
        text == "all"
        or text.startswith(forms)
        or text.endswith(".cypher")
        or _GAPS.fullmatch(text)
        or _QUERY.fullmatch(text)
        or _STATEMENT.match(text)
    )


def select_statement(
    text: str, statement: str, parameters: Mapping[str, Any], store: GraphStore, traces: TraceStore
) -> Selection:
    """The chains, steps or tokens of this home that a statement returns; ``text`` stands in messages. Raises QueryError for
    none."""
    return _of_home(_statement(text, statement, parameters, store), store, traces)


def needs_graph(selection: str) -> bool:
    """Whether resolving the selection asks the graph; ``all``, ``chain:`` and the name of a chain do not."""
    text = selection.strip()
    return is_selection(text) and text != "all" and not text.startswith(tuple(_FROM_SHARDS))


def _one_chain(text: str, traces: TraceStore) -> Selection:
    """The chain that a text without the form of a selection names. The result says its id: a number (#2) can mean another
    chain tomorrow.
    """
    try:
        chain = Names(traces).chain(text)
        return _whole(f"chain:{chain}", [chain])
    except UsageError as error:
        raise not_known("selection", text, FORMS, f", or what names a chain: {error}") from None


def _ids(text: str) -> list[str]:
    return [part.strip() for part in text.split(":", 1)[1].split(",") if part.strip()]


def _chains(text: str, traces: TraceStore) -> Selection:
    wanted = _ids(text)
    if not wanted:
        raise UsageError(f"selection {text!r} names no chain. Write chain:ID; they are listed by: trails chains")
    return _whole(text, Names(traces).chains(wanted))


def _whole(text: str, chains: Iterable[str]) -> Selection:
    return Selection(text, {chain: Part(chain) for chain in sorted(chains)})


def _meta(text: str, traces: TraceStore) -> Selection:
    """Chains whose record says ``NAME=VALUE``, or any of several values: ``meta:split=train,test``."""
    name, equals, values = text.removeprefix("meta:").partition("=")
    if not equals or not name.strip():
        raise UsageError(f"selection {text!r}: write meta:NAME=VALUE, for example meta:correct=true.")
    wanted = {value.strip() for value in values.split(",")}
    found: set[str] = set()
    seen: set[str] = set()
    known: set[str] = set()
    for table in traces.tables(["chain", "metadata"], rows=10_000):
        for chain, items in zip(table["chain"].to_pylist(), table["metadata"].to_pylist(), strict=True):
            described = dict(items or ())
            known |= described.keys()
            if name.strip() in described:
                seen.add(described[name.strip()])
                if described[name.strip()] in wanted:
                    found.add(chain)
    if not found:
        there = sorted(seen)[:8] if seen else sorted(known)
        what = f"{name.strip()} is there with the values" if seen else "no chain has it; metadata of these chains"
        raise UsageError(f"selection {text!r} holds nothing: {what}: {', '.join(there) or 'none'}.")
    return _whole(text, found)


def _selected(text: str, traces: TraceStore) -> Selection:
    """A choice that ``trails select`` keeps; chains that the home does not hold any more are left out, which is logged."""
    name = text.removeprefix("selected:").strip()
    folder = traces.home / "selections"
    path = folder / f"{name}.json"
    if not re.fullmatch(r"x[0-9a-f]{16}", name) or not path.is_file():
        there = ", ".join(sorted(file.stem for file in folder.glob("x*.json"))) or "none"
        raise UsageError(
            f"selection {text!r}: no such choice. There are: {there}. Run: trails select --budget TOKENS --by WAY"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        asked = {key: found[key] for key in ("by", "budget", "pool", "seed", "run")}
        wanted = {str(chain) for chain in found["chains"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read ({error}). Delete it and run trails select again.") from None
    chains = wanted & {row[2] for row in Names(traces).rows}
    if not chains:
        raise UsageError(
            f"selection {text!r} holds nothing: its chains were removed from the home, or their shards are missing. "
            "Compare: trails verify"
        )
    if gone := sorted(wanted - chains):
        logger.warning(
            "selection %r: %s left out, because this home holds no measures of %s any more (%s): removed, or a shard is "
            "missing. Compare: trails verify",
            *(text, counted(len(gone), "chosen chain is", "chosen chains are"), agreeing(len(gone), "it", "them")),
            _few(gone),
        )
    return Selection(text, {chain: Part(chain) for chain in sorted(chains)}, parameters=asked)


_FROM_SHARDS: Mapping[str, Callable[[str, TraceStore], Selection]] = {
    "chain:": _chains,
    "source:": lambda text, traces: _whole(text, Names(traces).of_source(text.removeprefix("source:").strip())),
    "family:": lambda text, traces: _whole(text, Names(traces).of_family(text.removeprefix("family:").strip())),
    "meta:": _meta,
    "selected:": _selected,
}
"""Selections of whole chains, which need no graph."""


def _between(text: str, store: GraphStore, traces: TraceStore) -> Selection:
    ends = _ids(text)
    if len(ends) != 2:
        raise UsageError(
            f"selection {text!r} needs two ends, found {len(ends)}. Write between:STEP,STEP or TOKEN,TOKEN."
        )
    names = Names(traces)
    ends = [end if _TOKEN.fullmatch(end) or ":" not in end else step_key(*names.step(end)) for end in ends]
    kinds = [_STEP.fullmatch(end) or _TOKEN.fullmatch(end) for end in ends]
    for end, kind in zip(ends, kinds, strict=True):
        if kind is None:
            raise UsageError(
                f"selection {text!r}: {end!r} is not the id of a step (c…:3) or of a token (c…:ab12cd34:17)."
            )
    first, last = kinds
    assert first is not None
    assert last is not None
    if first[1] != last[1]:
        raise UsageError(
            f"selection {text!r}: {ends[0]} and {ends[1]} lie in two chains. A path from one chain to another "
            f"must be re-scored by the model. Run: trails bridge {ends[0]} {ends[1]}"
        )
    if first.re is not last.re:
        raise UsageError(f"selection {text!r}: give two steps or two tokens, not one of each.")
    label = "Step" if first.re is _STEP else "Token"
    statement = f"MATCH (n:{label}) WHERE n.id IN $ids RETURN n.id AS id"
    found = {row[0] for row in _run(store, text, statement, {"ids": ends})}
    for end in ends:
        if end not in found:
            raise UsageError(f"selection {text!r}: {label.lower()} {end} is not in the graph. Run: trails rebuild")
    low, high = sorted((int(first[first.lastindex or 0]), int(last[last.lastindex or 0])))
    part = Part(first[1], tuple(range(low, high + 1))) if label == "Step" else Part(first[1], tokens=((low, high + 1),))
    return Selection(text, {part.chain: part}, statement, {"ids": ends})


def _overlap(text: str, store: GraphStore, traces: TraceStore) -> Selection:
    ids = _ids(text)
    statement = (
        "MATCH (o:Overlap)-[i:IN]->(c:Chain) WHERE o.home = $home AND (o.key IN $ids OR o.id IN $ids) "
        "RETURN c.id AS chain, i.first AS start, i.stop AS end, o.kind AS kind ORDER BY chain, start"
    )
    given = {"ids": ids, "home": traces.identity().id}
    found = _Found()
    for chain, first, stop, kind in _run(store, text, statement, given):
        if kind in ("skeleton", "near"):  # their places are steps
            found.steps.setdefault(chain, set()).update(range(int(first), int(stop)))
        else:
            found.spans.setdefault(chain, []).append((int(first), int(stop)))
    parts = found.parts()
    if not parts:
        raise UsageError(f"selection {text!r}: the graph holds no such overlap. Run: trails overlaps")
    return Selection(text, parts, statement, given)


GAPS_ADVICE = "Run: trails gaps (a home needs 20 chains with four steps or more)"
"""What to do where the graph holds no gaps; 20 is ``trails.analyses.gaps.MIN_CHAINS``, which is costly to import."""


def _effect(text: str, store: GraphStore, traces: TraceStore) -> Selection:
    given = {"name": text.removeprefix("effect:").strip(), "mark": owner_mark(traces.identity().id)}
    statement = (
        "MATCH (e:Effect {name: $name})-[:SEEN_IN]->(s:Step) WHERE e.id ENDS WITH $mark "
        "RETURN s.id AS step ORDER BY step"
    )
    return _elements(text, statement, given, store, "Run: trails effects scan (trails effects list names them)")


def _gaps(text: str, match: re.Match[str], store: GraphStore, traces: TraceStore) -> Selection:
    try:
        threshold = float(match[2])
    except ValueError:
        raise UsageError(f"selection {text!r}: {match[2]!r} is not a number. Write for example gaps>0.9.") from None
    statement = (
        f"MATCH (g:Gap)-[:BEFORE]->(s:Step) WHERE g.home = $home AND g.score {match[1]} $threshold "
        "RETURN s.id AS step ORDER BY step"
    )
    return _elements(text, statement, {"threshold": threshold, "home": traces.identity().id}, store, GAPS_ADVICE)


def _roles(text: str, store: GraphStore) -> Selection:
    kind, _, rest = text.partition(":")
    held = "roles" if kind == "roles" else "roles_implicit"
    far = [link == ">>" for link in re.findall(r">>?", rest)]
    try:
        names = [role_named(name) for name in re.split(r">>?", rest)]
    except UsageError as error:
        raise UsageError(f"selection {text!r}: {error}") from None
    statement = (
        "MATCH (c:Chain) WHERE " + " AND ".join(f"c.{held} CONTAINS $r{i}" for i in range(len(set(names))))
    ) + f" RETURN c.id AS chain, c.{held} AS roles ORDER BY chain"
    parameters = {f"r{i}": name for i, name in enumerate(sorted(set(names)))}
    found = _Found()
    for chain, roles in _run(store, text, statement, parameters):
        steps = roles.split(">")
        start = 0
        while start < len(steps):
            matched = _match_roles(steps, start, names, far)
            if matched:
                found.steps.setdefault(chain, set()).update(range(start, matched))
            start = matched or start + 1
    parts = found.parts()
    if not parts:
        raise QueryError(f"selection {text!r} holds nothing: no chain has these roles in this order.")
    return Selection(text, parts, statement, parameters)


def _match_roles(steps: list[str], start: int, names: list[str], far: list[bool]) -> int:
    """One past the last step of the leftmost match that begins at ``start``; 0 if there is none."""
    if steps[start] != names[0]:
        return 0
    if len(names) == 1:
        return start + 1
    ahead = range(start + 1, len(steps) if far[0] else min(start + 2, len(steps)))
    for following in ahead:
        if end := _match_roles(steps, following, names[1:], far[1:]):
            return end
    return 0


def _named(text: str, match: re.Match[str], store: GraphStore, traces: TraceStore) -> Selection:
    from trails.store.queries import bound_parameters, named_queries

    queries = named_queries()
    if match[1] not in queries:
        raise UsageError(
            f"selection {text!r}: query {match[1]!r} does not exist. Queries: {', '.join(sorted(queries))}."
        )
    query = queries[match[1]]
    try:
        given = json.loads(match[2]) if match[2] else {}
    except (ValueError, RecursionError) as error:
        shown = text if len(text) <= 200 else f"{text[:200]}…"
        raise UsageError(
            f'selection {shown!r}: the parameters are not JSON ({error}). Write {{"limit": 50}}.'
        ) from None
    another = '{"run": "ID"} behind the name of the query'
    return _statement(text, query.statement, bound_parameters(query, given, traces, another=another), store)


def _statement(text: str, statement: str, parameters: Mapping[str, Any], store: GraphStore) -> Selection:
    begins = _STATEMENT.match(statement)
    word = begins[1].upper() if begins else ""
    if word in _PLANS.split("|"):
        raise QueryError(
            f"selection {text!r}: {word} gives the plan of a statement, and a plan holds no chain, step or token. Leave the "
            f"word out to select; see the plan with: trails cypher {shlex.quote(_given(text, statement))}"
        )
    if word in _WRITES.split("|"):
        raise _writes(text, statement)
    return _elements(text, statement, parameters, store, "")


def _given(text: str, statement: str) -> str:
    """A statement as ``trails cypher`` takes it: the text itself, or the file that it was read from."""
    return f"@{text}" if text.endswith(".cypher") else statement


def _writes(text: str, statement: str) -> WritingQueryError:
    return WritingQueryError(
        f"selection {text!r}: the statement writes, but a selection only reads. Write first: "
        f"trails cypher --write {shlex.quote(_given(text, statement))}. Then select what it wrote, for example MATCH … RETURN c"
    )


def _elements(text: str, statement: str, parameters: Mapping[str, Any], store: GraphStore, advice: str) -> Selection:
    found = _Found()
    try:
        result = store.run(statement, parameters, timeout_s=TIMEOUT_S, max_rows=MAX_ROWS)
    except WritingQueryError:
        raise _writes(text, statement) from None
    for row in result.rows:
        chains: set[str] = set()
        steps: set[tuple[str, int]] = set()
        tokens: set[tuple[str, int]] = set()
        for value in row:
            _collect(value, chains, steps, tokens)
        if tokens:
            for chain, place in tokens:
                found.tokens.setdefault(chain, set()).add(place)
        elif steps:
            for chain, place in steps:
                found.steps.setdefault(chain, set()).add(place)
        else:
            found.whole |= chains
    parts = found.parts()
    if not parts and not result.rows:
        raise QueryError(
            f"selection {text!r} holds nothing: the query returned no row.{' ' + advice if advice else ''}"
        )
    if not parts:
        raise QueryError(
            f"selection {text!r}: the columns {', '.join(result.columns)} hold no chain, step or token."
            " Return the nodes or their ids, for example RETURN c or RETURN s.id."
        )
    return Selection(text, parts, statement, dict(parameters))


def _run(store: GraphStore, text: str, statement: str, parameters: Mapping[str, Any]) -> tuple[tuple[Any, ...], ...]:
    result = store.run(statement, parameters, timeout_s=TIMEOUT_S, max_rows=MAX_ROWS, trusted=True)
    if result.truncated:
        raise QueryError(f"selection {text!r} returns more than {MAX_ROWS:,} rows. Narrow it.")
    return result.rows


def _collect(value: Any, chains: set[str], steps: set[tuple[str, int]], tokens: set[tuple[str, int]]) -> None:
    """Add the elements that a returned value stands for: an id, a node (as a mapping), or a list or path of them."""
    if isinstance(value, str):
        if match := _TOKEN.fullmatch(value):
            tokens.add((match[1], int(match[3])))
        elif match := _STEP.fullmatch(value):
            steps.add((match[1], int(match[2])))
        elif _CHAIN.fullmatch(value):
            chains.add(value)
    elif isinstance(value, Mapping):
        identity = value.get("id")
        if isinstance(identity, str):
            _collect(identity, chains, steps, tokens)
        for item in value.values():
            if isinstance(item, Mapping | list | tuple):
                _collect(item, chains, steps, tokens)
    elif isinstance(value, list | tuple):
        for item in value:
            _collect(item, chains, steps, tokens)
