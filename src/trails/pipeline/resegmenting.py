"""Split the chains of a home again with the segmenter of this version. Tokens keep what was measured of them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trails.config import Settings
from trails.errors import StoreError
from trails.measure.targets import has_map, kept_target
from trails.pipeline.measuring import segmented
from trails.pipeline.progress import Progress, Silent
from trails.platform.arrays import Floats
from trails.platform.text import agreeing, counted
from trails.schema import MEASURES, Trace, with_arrays
from trails.segment import segmenter_hash
from trails.segment.align import assign_tokens
from trails.store import open_graph
from trails.store.base import GraphStore
from trails.store.corrections import fitting, fitting_line
from trails.store.outputs import RESEGMENTING
from trails.store.scope import owner_mark
from trails.store.traces import SOURCE_STEPS, TraceStore

COUNTED_STEPS = {
    "Gap": "MATCH (n:Gap) WHERE n.home = $home AND n.chain IN $chains",
    "Overlap": "MATCH (n:Overlap)-[:IN]->(c:Chain) WHERE n.home = $home AND n.kind IN ['skeleton', 'near'] "
    "AND c.id IN $chains",
    "Effect": "MATCH (n:Effect) WHERE n.id ENDS WITH $owner",
    "Disagreement": "MATCH (n:Disagreement) WHERE n.id ENDS WITH $owner AND n.chain IN $chains",
    "Response": "MATCH (n:Response) WHERE n.id ENDS WITH $owner AND n.chain IN $chains",
    "DEPENDS_ON": "MATCH (a:Step)-[n:DEPENDS_ON]->(:Step) WHERE a.chain IN $alone",
    "SIMILAR": "MATCH (a:Step)-[n:SIMILAR]->(b:Step) WHERE n.home = $home AND (a.chain IN $chains OR b.chain IN $chains)",
}
"""Results of this home's analyses that counted or named steps, and where they are found; they go when steps change."""

DEPENDENT = ("token_attends_step", "token_attends_mass", "token_attends_layer")
GRADIENTS = tuple(measure.name for measure in MEASURES if measure.request == "gradients")
ADDED_AGAIN = ("nll_given_all", "nll_given_question", "nll_without_previous")


@dataclass(slots=True)
class Resegmented:
    """What a segmentation changed, in measured chains: ``same`` kept all steps and measures, ``roles`` of them have another
    role somewhere; ``changed`` have other steps, ``before`` of them since an earlier call that did not end. ``lost`` counts,
    by measure, the changed chains that must be measured again. ``corrections`` counts the corrected steps that have the new
    borders, and all of them.
    """

    same: int = 0
    roles: int = 0
    changed: int = 0
    before: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    cleared: tuple[str, ...] = ()
    corrections: tuple[int, int] = (0, 0)

    def lines(self) -> Iterator[str]:
        """What happened, as a person reads it."""
        roles = f", {self.roles:,} of them with another role" if self.roles else ""
        kept = counted(self.same, "measured chain keeps its", "measured chains keep their")
        yield f"{kept} steps and everything measured{roles}"
        if self.corrections[1]:
            yield fitting_line(*self.corrections)
        if not self.changed:
            return
        stopped = f" ({self.before:,} of them since an earlier run, which was stopped)" if self.before else ""
        yield (
            f"{counted(self.changed, 'measured chain has', 'measured chains have')} other steps{stopped}; "
            f"{agreeing(self.changed, 'its', 'their')} tokens keep what was measured of them"
        )
        lost = ", ".join(f"{name} {count:,}" for name, count in self.lost.items())
        yield f"to be measured again, in chains: {lost}"
        yield (
            "attention_shift and step_attention: trails remove chain ID, then ingest again; the others are added by "
            "trails ingest with the options that measured them (--premises, --token-attention, --states, --gradients)"
        )
        if self.cleared:
            yield f"results of analyses that counted steps are gone: {', '.join(self.cleared)}; run their commands again"


def resegment(settings: Settings, *, progress: Progress | None = None) -> Resegmented:
    """Split every chain again and write the shards; the graph is not touched but for results that counted steps.

    Values of tokens stay to the bit. Where the steps stay too, everything does. Where they change, ``step_tokens`` follow from
    the tokens; states of steps are kept where a new step is one old step or several; attention between steps, its shift, and
    NLLs of steps cannot be had from what is stored: they become undefined (NaN or absent) and are counted in ``lost``. A shard
    at a time is replaced, so that a kill leaves whole shards; the same call finishes the work. What a shard's chains lose is
    written to ``resegmenting/`` of the home before the shard is replaced, so that the call that ends the work counts and clears
    for all of them. Raises StoreError where another process writes.
    """
    progress = progress or Silent()
    found = Resegmented()
    with TraceStore(settings.home, write=True) as store, open_graph(settings) as graph:
        graph.hold()
        keep = store.segmenter.endswith(SOURCE_STEPS)
        names = store.shard_names()
        folder = store.home / RESEGMENTING
        earlier = _under_way(folder)
        touched = {chain for chain, _ in earlier}
        seen: set[tuple[str, str]] = set()
        known, fits = store.corrections(), dict[str, int]()
        progress.begin("splitting again", len(names))
        for name in names:
            before = list(store.shard(name))
            rows: list[Trace] = []
            done: list[list[Any] | None] = []
            for trace in before:
                new, lost = _again(trace, keep=keep)
                rows.append(new)
                key = trace.chain.id, trace.run
                # a kill between the new shard and the end of the old one left both
                counted_in = Resegmented() if key in seen else found
                done.append(_counted(counted_in, trace, new, lost, earlier))
                if earlier:
                    seen.add(key)
            store.note(folder / f"{name.removesuffix('.parquet')}.json", {"chains": [one for one in done if one]})
            for old, new in zip(before, rows, strict=True):
                if old.chain.id in known:
                    fits[old.chain.id] = fitting(known[old.chain.id], ((s.start, s.end) for s in new.steps))
                if [(s.end, s.role) for s in old.steps] != [(s.end, s.role) for s in new.steps]:
                    touched.add(old.chain.id)
            store.rewrite(name, rows)
            progress.advance(1)
        store.resegmented(segmenter_hash() + (SOURCE_STEPS if keep else ""))
        found.corrections = sum(fits.values()), sum(len(known[chain].steps) for chain in fits)
        found.cleared = _clear(graph, touched, store.identity().id)
        if found.changed:
            for path in (store.home / "whitening").glob("*.npz"):
                path.unlink(missing_ok=True)  # made from states of steps
        graph.save()
        shutil.rmtree(folder, ignore_errors=True)
    return found


def _under_way(folder: Path) -> dict[tuple[str, str], list[str] | None]:
    """By chain and run what a call that did not end changed: the measures that were lost, None where only roles changed."""
    found: dict[tuple[str, str], list[str] | None] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            for chain, run, lost in json.loads(path.read_text(encoding="utf-8"))["chains"]:
                if found.get((chain, run)) is None:
                    found[chain, run] = lost
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"{path} cannot be read ({error}). It says what a stopped rebuild --segment changed; delete it to go on "
                "without, then run: trails rebuild --segment"
            ) from error
    return found


def _counted(
    found: Resegmented, old: Trace, new: Trace, lost: Sequence[str] | None, earlier: Mapping[tuple[str, str], Any]
) -> list[Any] | None:
    """Count a chain into ``found``. ``lost`` are the measures that it loses now (None: its borders stay), ``earlier`` is what
    :func:`_under_way` tells. What must be kept of it until the work is ended; None where nothing changed."""
    key = old.chain.id, old.run
    told: Sequence[str] | None = earlier.get(key)
    roles = key in earlier or [step.role for step in old.steps] != [step.role for step in new.steps]
    if lost is None and told is None:
        found.same += 1
        found.roles += roles
        return [*key, None] if roles else None
    found.changed += 1
    found.before += lost is None
    gone = lost if lost is not None else [name for name in told or () if _is_lost(new, name)]
    for name in gone:
        found.lost[name] = found.lost.get(name, 0) + 1
    return [*key, list(gone)]


def _is_lost(trace: Trace, name: str) -> bool:
    """Whether a measure that a chain lost has not been measured again since."""
    values = trace.step_states if name == "step_states" else trace.array(name)
    return values is None or bool(np.isnan(np.asarray(values, np.float64)).all())


def _clear(graph: GraphStore, chains: set[str], home: str) -> tuple[str, ...]:
    """Remove the results of a home's analyses that counted steps of these chains; the labels of which there were any."""
    gone = []
    elsewhere = {chain for owner, pairs in graph.held().items() if owner != home for chain, _ in pairs}
    given = {
        "chains": sorted(chains),
        "alone": sorted(chains - elsewhere),
        "home": home,
        "owner": owner_mark(home),
    }
    for label, where in COUNTED_STEPS.items():
        parameters = {name: value for name, value in given.items() if f"${name}" in where}
        found = graph.run(f"{where} RETURN count(n) AS n", parameters, timeout_s=86_400.0, trusted=True)
        if chains and found.rows[0][0]:
            delete = "DELETE" if "[n:" in where else "DETACH DELETE"
            graph.run(f"{where} {delete} n", parameters, write=True, timeout_s=86_400.0)
            gone.append(label)
    return tuple(gone)


def _again(trace: Trace, *, keep: bool) -> tuple[Trace, list[str] | None]:
    """The trace with the steps of this version, and the measures that it loses; None where its borders stay."""
    now = segmented(trace.chain, keep_source_steps=keep)
    before = [(step.start, step.end) for step in trace.steps]
    after = [(step.start, step.end) for step in now.steps]
    if before == after:
        return replace(trace, steps=now.steps), None
    gone: list[str] = []
    spans = np.stack([trace.token_start, trace.token_end], axis=1)
    try:
        step_tokens = assign_tokens(after, spans)
    except ValueError as error:
        raise StoreError(f"the tokens of chain {trace.chain.id} do not fit its text: {error}") from error
    n_steps, layers = len(after), trace.n_layers
    lost: dict[str, Any] = {
        "attention_shift": np.full_like(trace.attention_shift, np.nan),
        "step_attention": np.full((n_steps * (n_steps + 5) // 2, layers), np.nan, np.float32),
        "step_keys": None,
        **dict.fromkeys((*DEPENDENT, *ADDED_AGAIN)),
    }
    if kept_target(trace) == "conclusion":
        lost |= dict.fromkeys(GRADIENTS)
        if has_map(trace):
            gone.append("gradient_effect")
    for name in ("attention_shift", "step_attention", *DEPENDENT[:1], *ADDED_AGAIN[:1]):
        if trace.array(name) is not None:
            gone.append(name)
    states = _states(trace, before, after)
    if trace.step_states is not None and states is None:
        gone.append("step_states")
    changed = with_arrays(replace(trace, steps=now.steps), {**lost, "step_tokens": step_tokens})
    return replace(changed, step_states=states, state_layers=trace.state_layers if states is not None else ()), gone


def _states(trace: Trace, before: list[tuple[int, int]], after: list[tuple[int, int]]) -> Floats | None:
    """Mean states of the new steps, each one or more old ones, weighted by tokens; None where one is a part of an old one."""
    if trace.step_states is None:
        return None
    old_ends = {end: i for i, (_, end) in enumerate(before)}
    if any(end not in old_ends for _, end in after):
        return None
    weights = np.diff(trace.step_tokens, axis=1)[:, 0].astype(np.float64)
    rows, first = [], 0
    for _, end in after:
        stop = old_ends[end] + 1
        weight = weights[first:stop]
        known = weight > 0
        values = trace.step_states[first:stop][known].astype(np.float64)
        total = weight[known].sum()
        rows.append(
            (values * weight[known][:, None, None]).sum(axis=0) / total
            if total
            else np.full(trace.step_states.shape[1:], np.nan)
        )
        first = stop
    return np.stack(rows).astype(np.float32)
