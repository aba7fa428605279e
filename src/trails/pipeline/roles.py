"""Roles that people correct: out of a home as JSON Lines, back into it, and the segmenter scored on them."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trails.analyses.roles import Labelled, RoleAgreement, score_roles
from trails.config import Settings
from trails.errors import InputError, UsageError
from trails.pipeline.loading import graph_has_arrays
from trails.platform.text import counted
from trails.schema import Role, Step, Trace
from trails.store import open_graph
from trails.store.corrections import Correction
from trails.store.resolve import Names
from trails.store.rows import graph_batch, held_by
from trails.store.traces import TraceStore

COLUMNS = (
    *("chain", "run", "source", "source_id", "question", "text", "language", "boundaries", "steps"),
    *("step_scene", "step_source_line", "step_implicit_role", "step_implicit_p"),
)
BATCH_CHAINS = 200

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import stored. ``moved`` are steps of other borders than the home's: they count in the score only. ``kept``
    counts, by who corrected them, the steps that stay as they were corrected after the file was exported.
    """

    chains: int
    steps: int
    changed: int
    moved: int
    kept: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Line:
    """A step of a file: what it says now and, where the file tells, what the export had said."""

    number: int
    start: int
    end: int
    role: Role
    exported: tuple[int, int, Role] | None

    @property
    def edited(self) -> bool:
        return (self.start, self.end, self.role) != self.exported


@dataclass(frozen=True, slots=True)
class _Now:
    """A step as the home has it: with its correction, if any, and who made it."""

    start: int
    end: int
    role: Role
    by: str = ""
    at: str = ""
    automatic: bool = True

    @property
    def step(self) -> tuple[int, int, Role]:
        return self.start, self.end, self.role


def _once(store: TraceStore, chains: Collection[str] | None = None) -> Iterator[Trace]:
    """Every chain once, whatever runs measured it."""
    seen: set[str] = set()
    for trace in store.traces(chains=chains, columns=COLUMNS):
        if trace.chain.id not in seen:
            seen.add(trace.chain.id)
            yield trace


def export_roles(
    settings: Settings, chains: Collection[str] = (), *, sample: int | None = None, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Steps as plain values, one record each, chain by chain; ``role`` is what a person corrects, ``start`` and ``end`` where a
    border is wrong. ``as_exported`` keeps what they were, so that an import takes what was changed and nothing else. A chain
    whose borders somebody moved has that person's steps; a step that the home does not have has no automatic role.

    ``chains`` names them in any way that :mod:`trails.store.resolve` knows (none: all), ``sample`` draws that many by ``seed``.
    Raises UsageError for a chain that is not there.
    """
    with TraceStore(settings.home) as store:
        names = Names(store)
        pairs = store.keys()
        wanted = sorted({names.chain(name) for name in chains} if chains else {chain for chain, _ in pairs})
        if sample is not None:
            wanted = sorted(random.Random(seed).sample(wanted, min(sample, len(wanted))))
        for trace in _once(store, wanted):
            own = {(step.start, step.end): step for step in trace.steps}
            for now in _present(trace, store.corrections().get(trace.chain.id)):
                step = own.get((now.start, now.end), Step(0, now.start, now.end))
                automatic = step.automatic_role or step.role.value if (now.start, now.end) in own else None
                yield {
                    "chain": trace.chain.id,
                    "source": trace.chain.source,
                    "source_id": trace.chain.source_id,
                    "language": trace.chain.language,
                    "start": now.start,
                    "end": now.end,
                    "role": now.role.value,
                    "automatic_role": automatic,
                    "connective": step.connective,
                    "implicit_role": step.implicit_role or None,
                    "implicit_p": step.implicit_p if step.implicit_role else None,
                    "corrected_by": now.by or None,
                    "corrected_at": now.at or None,
                    "as_exported": [now.start, now.end, now.role.value],
                    "text": trace.chain.text[now.start : now.end],
                }


def _present(trace: Trace, correction: Correction | None) -> list[_Now]:
    """The steps of a chain as they are now: as people left them, or as the segmenter found them."""
    own = {(step.start, step.end): step.automatic_role or step.role.value for step in trace.steps}
    if correction is None:
        return [_Now(step.start, step.end, step.role) for step in trace.steps]
    return [
        _Now(a, b, role, *correction.mark(a, b), automatic=own.get((a, b)) == role.value)
        for a, b, role in correction.steps
    ]


def _read(path: Path) -> dict[str, list[tuple[int, dict[str, Any]]]]:
    """Records of a file by chain, with their line numbers."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}). Give a file that trails roles export wrote") from None
    found: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}:{number}: not JSON ({error}). Every line is one step") from None
        fields = {"chain": str, "start": int, "end": int, "role": str}
        if not isinstance(record, dict):
            raise InputError(f"{path}:{number}: not an object. Every line is one step as trails roles export writes it")
        for name, kind in fields.items():
            if name not in record:
                raise InputError(
                    f"{path}:{number}: the field {name} is missing. Keep the fields of trails roles export"
                )
            if type(record.get(name)) is not kind:
                raise InputError(
                    f"{path}:{number}: {name} is {str(record.get(name))[:40]!r} and must be "
                    f"{'a whole number' if kind is int else 'a text'}. Keep the fields of trails roles export"
                )
        if record["role"].upper() not in Role.__members__:
            raise InputError(f"{path}:{number}: role {record['role'][:40]!r} does not exist. Roles: {', '.join(Role)}")
        found.setdefault(record["chain"], []).append((number, record))
    if not found:
        raise InputError(f"{path} holds no step. Write one with: trails roles export -o {path}")
    return found


def _lines(path: Path, trace: Trace, now: list[_Now], records: list[tuple[int, dict[str, Any]]]) -> list[_Line]:
    """The steps of one chain in a file. Raises InputError, naming the line, unless they follow each other from 0 to the end."""
    chain = trace.chain
    at = 0
    found = []
    own = {(step.start, step.end) for step in trace.steps}
    # a person who moves a border leaves the text of the line as it was
    known = {chain.text[a:b] for a, b in own | {(one.start, one.end) for one in now}}
    for number, record in sorted(records, key=lambda item: (item[1]["start"], item[1]["end"])):
        start, end = record["start"], record["end"]
        if start != at or end <= start or end > len(chain.text):
            raise InputError(
                f"{path}:{number}: the step of chain {chain.id} goes from {start} to {end}, and must begin at {at} and end by "
                f"{len(chain.text)}: the steps of a chain follow each other without hole or overlap"
            )
        exported = _exported(record, own)
        text = record.get("text")
        old = chain.text[exported[0] : exported[1]] if exported else None
        if text is not None and text != chain.text[start:end] and text != old and text not in known:
            raise InputError(
                f"{path}:{number}: the text is neither that of characters {start} to {end} of chain {chain.id} nor that of "
                "the step as it was exported. Roles and borders are corrected here, texts are not: leave the text as it was"
            )
        found.append(_Line(number, start, end, Role[record["role"].upper()], exported))
        at = end
    if at != len(chain.text):
        raise InputError(
            f"{path}:{records[-1][0]}: the steps of chain {chain.id} end at {at:,} of {counted(len(chain.text), 'character')}. "
            "Keep every line of a chain, even those that need no correction"
        )
    return found


def _exported(record: Mapping[str, Any], own: Collection[Span]) -> tuple[int, int, Role] | None:
    """What an export said of a line's step; None where the file does not tell."""
    match record.get("as_exported"):
        case [int(start), int(end), str(role)] if role in Role.__members__:
            return start, end, Role[role]
    # a file of an earlier version: what it says of a step that nobody had corrected is the segmenter's
    automatic, span = record.get("automatic_role"), (record["start"], record["end"])
    if (
        record.get("corrected_by") is None
        and isinstance(automatic, str)
        and automatic in Role.__members__
        and span in own
    ):
        return *span, Role[automatic]
    return None


def _joined(
    path: Path, chain: str, lines: list[_Line], now: list[_Now], by: str, seen: str
) -> tuple[tuple[tuple[int, int, Role], ...], dict[Span, tuple[str, str]], list[_Now]]:
    """The steps of a chain after an import, who made those that stay as they were, and those that the file does not know.

    A three-way merge between common borders: what the file leaves as it was exported stays as it is in the home; what it
    changes is taken, unless somebody else corrected that step since. ``seen`` is the newest correction that the file knows of.
    Raises InputError for what both changed differently.
    """
    steps: list[tuple[int, int, Role]] = []
    marks: dict[Span, tuple[str, str]] = {}
    kept: list[_Now] = []
    common = {line.end for line in lines} & {one.end for one in now}
    first = other = 0
    for end in sorted(common):
        mine = []
        while first < len(lines) and lines[first].end <= end:
            mine.append(lines[first])
            first += 1
        theirs = []
        while other < len(now) and now[other].end <= end:
            theirs.append(now[other])
            other += 1
        said = [(line.start, line.end, line.role) for line in mine]
        there = [one.step for one in theirs]
        if said == there or not any(line.edited for line in mine):
            steps += there
            marks |= {(one.start, one.end): (one.by, one.at) for one in theirs if one.by}
            if said != there:
                kept += [one for one in theirs if not one.automatic]
            continue
        known = {line.exported for line in mine}
        moved = [(a, b) for a, b, _ in said] != [(a, b) for a, b, _ in there]
        for one in theirs:
            # where borders moved, the line that had this step may be gone from the file: then time tells
            fresh = one.step in known or (moved and one.at <= seen)
            if one.by and one.by != by and not one.automatic and not fresh:
                raise InputError(
                    f"{path}:{mine[0].number}: {one.by} corrected the step {one.start} to {one.end} of chain {chain} to "
                    f"{one.role.value} at {one.at}, after this file was exported, and the file has "
                    f"{', '.join(f'{a} to {b} {role.value}' for a, b, role in said)}. Nothing was imported. Export again "
                    "(trails roles export), decide, and import that file"
                )
        steps += said
    return tuple(steps), marks, kept


def import_roles(path: Path, settings: Settings, *, by: str, at: datetime | None = None) -> Imported:
    """Take corrected steps into the home, and into the graph; all of the file or nothing.

    What a file leaves as it was exported stays as it is, with the corrections that others made since; what it changes is taken.
    ``by`` says who; ``at`` when (default: now). Raises InputError naming the line that is wrong, or that changes what somebody
    else corrected after the export; StoreError where another process writes.
    """
    by = by.strip()
    if not by:
        raise UsageError("no name was given. Say who corrected: trails roles import FILE --by NAME")
    records = _read(path)
    when = (at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
    with TraceStore(settings.home, write=True) as store, open_graph(settings) as graph:
        graph.hold()
        held = {trace.chain.id: trace for trace in _once(store, records)}
        for chain, found in records.items():
            if chain not in held:
                raise InputError(
                    f"{path}:{found[0][0]}: chain {chain[:40]!r} is not in {settings.home}. Export from the same home: "
                    f"trails roles export --home {settings.home}"
                )
        known = store.corrections()
        made: dict[str, Correction] = {}
        kept: dict[str, int] = {}
        changed = moved = 0
        for chain, found in records.items():
            now = _present(held[chain], known.get(chain))
            lines = _lines(path, held[chain], now, found)
            seen = max(str(record.get("corrected_at") or "") for _, record in found)
            steps, marks, stay = _joined(path, chain, lines, now, by, seen)
            made[chain] = Correction(by, when, steps, marks)
            for one in stay:
                kept[one.by] = kept.get(one.by, 0) + 1
            own = {(s.start, s.end): s.automatic_role or s.role.value for s in held[chain].steps}
            moved += sum((a, b) not in own for a, b, _ in steps)
            changed += sum((a, b) in own and own[a, b] != role.value for a, b, role in steps)
        store.put_corrections(made)
        _into_graph(store, graph, list(made))
    return Imported(len(made), sum(len(one.steps) for one in made.values()), changed, moved, dict(sorted(kept.items())))


def _into_graph(store: TraceStore, graph: Any, chains: list[str]) -> None:
    """Write the chains over what the graph holds of them."""
    present = {chain for chain, _ in graph.loaded()}
    runs = store.runs()
    per_layer = graph_has_arrays(graph)
    wanted = [chain for chain in chains if chain in present]
    for first in range(0, len(wanted), BATCH_CHAINS):
        here = wanted[first : first + BATCH_CHAINS]
        # rows written over what is there leave a property that is null in them as it was
        graph.run(
            "MATCH (s:Step) WHERE s.chain IN $chains REMOVE s.implicit_role, s.implicit_p", {"chains": here}, write=True
        )
        block = list(store.traces(chains=here))
        for run in sorted({trace.run for trace in block}):
            batch = graph_batch([trace for trace in block if trace.run == run], runs, per_layer=per_layer)
            batch = held_by(batch, store.identity())
            # what is whole in a graph is not written again: rows of no whole pair are written over what is there
            graph.write([replace(batch, whole=()), batch])
    graph.save()


def score_home(settings: Settings) -> RoleAgreement:
    """The steps that the home stores, as the segmenter made them, on every chain that somebody corrected.

    Steps whose borders a person moved have the role that the segmenter of this version finds with these borders given.
    Raises UsageError where nobody corrected any.
    """
    with TraceStore(settings.home) as store:
        known: Mapping[str, Correction] = store.corrections()
        labelled = [
            Labelled(
                trace.chain,
                tuple(start for start, _, _ in known[trace.chain.id].steps),
                tuple(role for _, _, role in known[trace.chain.id].steps),
                trace.steps,
            )
            for trace in _once(store, known)
            if trace.chain.id in known
        ]
    if not labelled:
        raise UsageError(
            f"nobody corrected a chain of {settings.home}. Run: trails roles export --sample 20 -o roles.jsonl, correct "
            "the field role, then: trails roles import roles.jsonl --by NAME"
        )
    return score_roles(labelled)
