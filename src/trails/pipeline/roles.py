"""Roles that people correct: out of a home as JSON Lines, back into it, and the segmenter scored on them."""

from __future__ import annotations

import json
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from trails.analyses.roles import Labelled, RoleAgreement, score_roles
from trails.config import Settings
from trails.errors import InputError, UsageError
from trails.pipeline.loading import graph_has_arrays
from trails.platform.text import counted
from trails.schema import Chain, Role, Trace
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


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import stored. ``moved`` are steps of other borders than the home's: they count in the score only."""

    chains: int
    steps: int
    changed: int
    moved: int


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
    """Steps as plain values, one record each, chain by chain; ``role`` is what a person corrects.

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
            for step in trace.steps:
                yield {
                    "chain": trace.chain.id,
                    "source": trace.chain.source,
                    "source_id": trace.chain.source_id,
                    "language": trace.chain.language,
                    "start": step.start,
                    "end": step.end,
                    "role": step.role.value,
                    "automatic_role": step.automatic_role or step.role.value,
                    "connective": step.connective,
                    "implicit_role": step.implicit_role or None,
                    "implicit_p": step.implicit_p if step.implicit_role else None,
                    "corrected_by": step.corrected_by or None,
                    "text": trace.chain.text[step.start : step.end],
                }


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


def _steps(path: Path, chain: Chain, records: list[tuple[int, dict[str, Any]]]) -> tuple[tuple[int, int, Role], ...]:
    """The steps of one chain. Raises InputError, naming the line, unless they follow each other from 0 to the end."""
    at = 0
    steps = []
    for number, record in sorted(records, key=lambda item: (item[1]["start"], item[1]["end"])):
        start, end = record["start"], record["end"]
        if start != at or end <= start or end > len(chain.text):
            raise InputError(
                f"{path}:{number}: the step of chain {chain.id} goes from {start} to {end}, and must begin at {at} and end by "
                f"{len(chain.text)}: the steps of a chain follow each other without hole or overlap"
            )
        text = record.get("text")
        if text is not None and text != chain.text[start:end]:
            raise InputError(
                f"{path}:{number}: the text is not that of characters {start} to {end} of chain {chain.id}. Roles and borders "
                "are corrected here, texts are not"
            )
        steps.append((start, end, Role[record["role"].upper()]))
        at = end
    if at != len(chain.text):
        raise InputError(
            f"{path}:{records[-1][0]}: the steps of chain {chain.id} end at {at:,} of {counted(len(chain.text), 'character')}. "
            "Keep every line of a chain, even those that need no correction"
        )
    return tuple(steps)


def import_roles(path: Path, settings: Settings, *, by: str, at: datetime | None = None) -> Imported:
    """Take corrected steps into the home, and into the graph; all of the file or nothing.

    A chain's lines replace what was corrected before. ``by`` says who; ``at`` when (default: now). Raises InputError naming the
    line that is wrong, StoreError where another process writes.
    """
    if not by.strip():
        raise UsageError("no name was given. Say who corrected: trails roles import FILE --by NAME")
    records = _read(path)
    when = (at or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="seconds")
    with TraceStore(settings.home, write=True) as store, open_graph(settings) as graph:
        graph.hold()
        held = {trace.chain.id: trace for trace in _once(store, records)}
        for chain, lines in records.items():
            if chain not in held:
                raise InputError(
                    f"{path}:{lines[0][0]}: chain {chain[:40]!r} is not in {settings.home}. Export from the same home: "
                    f"trails roles export --home {settings.home}"
                )
        made = {chain: _steps(path, held[chain].chain, lines) for chain, lines in records.items()}
        changed = moved = 0
        for chain, steps in made.items():
            now = {(s.start, s.end): s.automatic_role or s.role.value for s in held[chain].steps}
            moved += sum((a, b) not in now for a, b, _ in steps)
            changed += sum((a, b) in now and now[a, b] != role.value for a, b, role in steps)
        store.put_corrections({chain: Correction(by.strip(), when, steps) for chain, steps in made.items()})
        _into_graph(store, graph, list(made))
    return Imported(len(made), sum(map(len, made.values())), changed, moved)


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
