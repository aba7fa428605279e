"""Split the chains of a home again with the segmenter of this version. Tokens keep what was measured of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
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
    role somewhere; ``changed`` have other steps. ``lost`` counts, by measure, the changed chains that must be measured again.
    ``corrections`` counts the corrected steps that have the new borders, and all of them.
    """

    same: int = 0
    roles: int = 0
    changed: int = 0
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
        yield (
            f"{counted(self.changed, 'measured chain has', 'measured chains have')} other steps; "
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
    at a time is replaced, so that a kill leaves whole shards; the same call finishes the work. Raises StoreError where another
    process writes.
    """
    progress = progress or Silent()
    found = Resegmented()
    with TraceStore(settings.home, write=True) as store, open_graph(settings) as graph:
        graph.hold()
        keep = store.segmenter.endswith(SOURCE_STEPS)
        names = store.shard_names()
        touched: set[str] = set()
        known, fits = store.corrections(), dict[str, int]()
        progress.begin("splitting again", len(names))
        for name in names:
            before = list(store.shard(name))
            rows = [_again(trace, found, keep=keep) for trace in before]
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
    return found


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


def _again(trace: Trace, found: Resegmented, *, keep: bool) -> Trace:
    """The trace with the steps of this version; counts what happened into ``found``."""
    now = segmented(trace.chain, keep_source_steps=keep)
    before = [(step.start, step.end) for step in trace.steps]
    after = [(step.start, step.end) for step in now.steps]
    if before == after:
        found.same += 1
        found.roles += [s.role for s in trace.steps] != [s.role for s in now.steps]
        return replace(trace, steps=now.steps)
    found.changed += 1
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
            found.lost["gradient_effect"] = found.lost.get("gradient_effect", 0) + 1
    for name in ("attention_shift", "step_attention", *DEPENDENT[:1], *ADDED_AGAIN[:1]):
        if trace.array(name) is not None:
            found.lost[name] = found.lost.get(name, 0) + 1
    states = _states(trace, before, after)
    if trace.step_states is not None and states is None:
        found.lost["step_states"] = found.lost.get("step_states", 0) + 1
    changed = with_arrays(replace(trace, steps=now.steps), {**lost, "step_tokens": step_tokens})
    return replace(changed, step_states=states, state_layers=trace.state_layers if states is not None else ())


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
