"""What a block states, measured: one verdict a line, each with its value and its control.

A claim is ``pass``, ``fail`` or ``not decidable``. A line that selects claims nothing: it is ``not empty`` or ``empty``. A line
that changes training is ``training``: nothing of it is measured here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trails.analyses.report import Report, ReportTable
from trails.analyses.score import Control, Score
from trails.analyses.sequences import usual_layers
from trails.analyses.statistics import bootstrap, how_drawn, how_resampled, spread
from trails.analyses.whitening import Whitening
from trails.export.options import layers_text
from trails.platform.arrays import Bools, Doubles
from trails.platform.text import counted, part_of, percent
from trails.schema import MEASURE, Run, Trace, step_key
from trails.stellator.compiling import TRAINED, Compiled
from trails.stellator.explaining import DEFAULT_TOLERANCE, MEASURE_NAMES
from trails.stellator.language import KINDS, Anchor, Content, Drift, Kind, Phase, Select, Subgraph, content_text

Verdict = Literal["pass", "fail", "not decidable", "not empty", "empty", "training"]

CLAIMS: tuple[Verdict, ...] = ("pass", "fail", "not decidable")
"""Verdicts of lines that claim something."""
SELECTIONS: tuple[Verdict, ...] = ("not empty", "empty")
"""Verdicts of lines that select: that something is there is no claim that was measured."""

LEAST = 5
"""Fewer places than this decide nothing: an interval from less is a fiction."""
TRIES, STARTS = 20, 10
"""Pairs of places that are tried for every bridge of ANCHOR, and random starts for its control."""
NEAR = "random spans of the same lengths nearby in the same chains"
"""Name of the control of DRIFT."""
DRAWS = 200
"""Random places per control."""
NEARBY = 0.25
"""Control spans begin at most this share of the chain away: attention changes with the position."""
ALIKE = 0.2
"""A step or chain of as many tokens as another has at most this share more or fewer."""


LINES = pa.schema(
    [("line", pa.string()), ("verdict", pa.string())]
    + [(name, pa.float64()) for name in ("value", "control", "low", "high")]
    + [("unit", pa.string()), ("said", pa.string())]
)
LINE_COLUMNS = {
    "line": "line",
    "verdict": "verdict",
    "value": "value",
    "control": "control",
    "low": "its low, 95 %",
    "high": "its high, 95 %",
    "unit": "unit",
}
"""Judged lines as a table, and its headings; ``low`` and ``high`` are the ends of the control's interval."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The verdict of one line: ``score`` is what was measured beside its control, None where nothing could be."""

    line: str
    verdict: Verdict
    said: str
    score: Score | None = None
    more: tuple[Score, ...] = ()


@dataclass(frozen=True, slots=True)
class Selected:
    """What a block selects: ``ids`` of its ``kind``. ``outside`` are the ids that its lines select without the zone,
    ``zone`` the ids of the tokens of the zone, whatever the lines say."""

    kind: Kind
    ids: tuple[str, ...]
    outside: tuple[str, ...] = ()
    zone: tuple[str, ...] = ()


Bridging = Callable[[str, str], float]
"""Two step ids → the worst transition of the best way from one to the other, nats, re-scored as one text; NaN without a way."""


@dataclass(frozen=True, slots=True)
class Instruments:
    """What is measured with. ``bridge`` and ``whitening`` are None where there is no model, or no stored state."""

    run: Run
    traces: Callable[[], Iterable[Trace]]
    bridge: Bridging | None = None
    whitening: Callable[[int], Whitening] | None = None
    pairs: int = 6
    seed: int = 0
    why_no_bridge: str = "no model was asked for: leave out --no-model"


@dataclass(slots=True)
class _Places:
    """The selected tokens by chain, and the traces that hold them."""

    masks: dict[str, Bools] = field(default_factory=dict)
    traces: dict[str, Trace] = field(default_factory=dict)

    def spans(self, chain: str) -> list[tuple[int, int]]:
        """Contiguous runs of selected tokens."""
        edges = np.flatnonzero(np.diff(np.concatenate([[0], self.masks[chain].astype(np.int8), [0]])))
        return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]

    def steps(self, chain: str) -> list[int]:
        """Steps that hold a selected token."""
        mask = self.masks[chain]
        return [n for n, (a, b) in enumerate(self.traces[chain].step_tokens.tolist()) if mask[a:b].any()]


def judge(compiled: Compiled, selected: Selected, instruments: Instruments) -> Report:
    """The report of a block."""
    places = _places(selected, instruments.traces)
    judged: list[Judged] = []
    selecting = any(isinstance(line.content, Select | Subgraph) for line in compiled.block.lines)
    share = zone_share(selected, instruments.traces, seed=instruments.seed) if selecting and selected.ids else None
    for line in compiled.block.lines:
        said = content_text(line.content, compiled.block.language)
        judged.append(_judge(said, line.content, selected, places, instruments, share))
    counts: dict[str, int] = {
        verdict: sum(one.verdict == verdict for one in judged) for verdict in (*CLAIMS, *SELECTIONS)
    }
    kind = selected.kind.lower()
    verdict = (
        f"{counted(len(selected.ids), kind)} of {counted(len(places.masks), 'chain')} selected; {counts_told(counts)}"
    )
    rows = [
        {
            "line": one.line,
            "verdict": one.verdict,
            "value": one.score.value if one.score else None,
            "control": one.score.control if one.score else None,
            "low": _end(one.score, 0),
            "high": _end(one.score, 1),
            "unit": one.score.unit if one.score else "",
            "said": one.said,
        }
        for one in judged
    ]
    # lines about the same layers have the same scores beside their own
    scores = tuple(dict.fromkeys(s for one in judged for s in (*([one.score] if one.score else []), *one.more)))
    return Report(
        "stellator",
        verdict,
        {
            "run": instruments.run.id,
            "n_selected": len(selected.ids),
            "kind": kind,
            "selected": list(selected.ids),
            **counts,
        },
        (lines_table(pa.Table.from_pylist(rows, LINES)),),
        scores,
        notes=tuple(_told(judged)),
        evidence=("none",),
    )


def lines_table(data: pa.Table) -> ReportTable:
    """Judged lines as a person is shown them: without those that change training, which have no value."""
    shown = [verdict != "training" for verdict in data["verdict"].to_pylist()]
    return ReportTable("lines", data, "one verdict a line", LINE_COLUMNS, shown=shown)


def _told(judged: Iterable[Judged]) -> Iterable[str]:
    """The reason of every verdict; lines that change training together."""
    every = list(judged)
    yield from (f"{one.line}: {one.said}" for one in every if one.verdict != "training")
    if training := [one.line for one in every if one.verdict == "training"]:
        yield f"changes training, nothing of it is measured here: {'; '.join(training)}"


def counts_told(counts: Mapping[str, int]) -> str:
    """Counts of verdicts in words, claims apart from selections; lines of training are in neither."""
    claims, selections = (
        ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in group) for group in (CLAIMS, SELECTIONS)
    )
    return f"claims: {claims}; selections: {selections}"


def verdicts(report: Report) -> list[dict[str, Any]]:
    """The lines of a report of :func:`judge`, with verdict, value, control and what was said, to be compared with another."""
    (table,) = (table for table in report.tables if table.name == "lines")
    rows: list[dict[str, Any]] = table.data.to_pylist()
    return rows


def _end(score: Score | None, which: int) -> float | None:
    interval = score.controls[0].interval if score else None
    return interval[which] if interval else None


def _places(selected: Selected, traces: Callable[[], Iterable[Trace]]) -> _Places:
    by_chain = _by_chain(selected.ids)
    found = _Places()
    for trace in traces() if by_chain else ():
        if trace.chain.id not in by_chain:
            continue
        mask = np.zeros(trace.n_tokens, np.bool_)
        for rest in by_chain[trace.chain.id]:
            if selected.kind == "TOKEN":
                mask[int(rest.rpartition(":")[2])] = True
            elif selected.kind == "STEP":
                first, last = trace.step_tokens[int(rest)]
                mask[first:last] = True
            else:
                mask[:] = True
        found.masks[trace.chain.id], found.traces[trace.chain.id] = mask, trace
    return found


def _by_chain(ids: Iterable[str]) -> dict[str, list[str]]:
    """What follows the chain in the ids of its steps and tokens, by chain."""
    found: dict[str, list[str]] = {}
    for name in ids:
        chain, _, rest = name.partition(":")
        found.setdefault(chain, []).append(rest)
    return found


def _judge(
    said: str,
    content: Content,
    selected: Selected,
    places: _Places,
    instruments: Instruments,
    share: tuple[Score, str] | None,
) -> Judged:
    match content:
        case Select(kind=kind, negated=negated):
            judged = _selection(said, selected, share, negated=negated)
            if negated and KINDS.index(kind) < KINDS.index(selected.kind):
                # a finer kind than the block's: what it leaves out is the place in the zone, not the tokens of a step
                tokens = f"a {selected.kind.lower()} that is left keeps all its tokens"
                judged = replace(judged, said=f"{judged.said}: leaves those out of the zone, and {tokens}")
            return judged
        case Subgraph():
            return _selection(said, selected, share, negated=False)
        case Drift():
            return _drift(said, content, places, instruments)
        case Anchor(text):
            return _anchor(said, text, places, instruments)
        case Phase():
            return _phase(said, content, places, instruments)
        case _:
            return Judged(said, "training", "changes training; nothing of it is measured here")


def _selection(said: str, selected: Selected, share: tuple[Score, str] | None, *, negated: bool) -> Judged:
    found = len(selected.ids)
    if negated:
        verdict: Verdict = "not empty" if found else "empty"
        return Judged(said, verdict, f"{counted(found, 'place is', 'places are')} left")
    if not found:
        more = (
            f"{len(selected.outside)} are there, none of them in the zone"
            if selected.outside
            else "the graph has none of them"
        )
        return Judged(said, "empty", f"selects nothing: {more}")
    if share is None:
        return Judged(said, "not empty", f"{counted(found, 'place is', 'places are')} selected")
    score, told = share
    return Judged(said, "not empty", told, score)


def zone_share(selected: Selected, traces: Callable[[], Iterable[Trace]], *, seed: int = 0) -> tuple[Score, str] | None:
    """How many of the places that the lines select have a token in the zone, beside what other places of the same kind have: a
    step or a chain has one by its length alone. And the same in words. None where no such place is in the traces.

    The first control are draws of as many other tokens, steps or chains, each of as many tokens as a place (:data:`ALIKE`),
    none of them selected by the lines; the second are all of the run. Without such a place only the second is there.
    """
    kind = selected.kind.lower()
    zone, outside = _by_chain(selected.zone), _by_chain(selected.outside)
    lengths: list[npt.NDArray[np.int64]] = []
    inside: list[Bools] = []
    own: list[Bools] = []
    for trace in traces():
        mask = np.zeros(trace.n_tokens, np.bool_)
        mask[[int(rest.rpartition(":")[2]) for rest in zone.get(trace.chain.id, ())]] = True
        named = outside.get(trace.chain.id, ())
        if selected.kind == "TOKEN":
            bounds = np.stack([np.arange(trace.n_tokens), np.arange(1, trace.n_tokens + 1)], axis=1)
            chosen = [int(rest.rpartition(":")[2]) for rest in named]
        elif selected.kind == "STEP":
            bounds, chosen = np.asarray(trace.step_tokens, np.int64).reshape(-1, 2), [int(rest) for rest in named]
        else:
            bounds, chosen = np.array([[0, trace.n_tokens]]), [0] if named else []
        sums = np.concatenate([[0], np.cumsum(mask)])
        taken = np.zeros(len(bounds), np.bool_)
        taken[chosen] = True
        lengths.append(bounds[:, 1] - bounds[:, 0])
        inside.append(sums[bounds[:, 1]] > sums[bounds[:, 0]])
        own.append(taken)
    if not any(taken.any() for taken in own):
        return None
    length, has, mine = np.concatenate(lengths), np.concatenate(inside), np.concatenate(own)
    order = np.argsort(length[~mine], kind="stable")
    other, held = length[~mine][order], np.concatenate([[0], np.cumsum(has[~mine][order])])
    rng = np.random.default_rng(seed)
    hits, drawn = np.zeros(DRAWS, np.int64), 0
    for tokens, count in zip(*np.unique(length[mine], return_counts=True), strict=True):
        first = np.searchsorted(other, tokens * (1 - ALIKE), side="left")
        stop = np.searchsorted(other, tokens * (1 + ALIKE), side="right")
        if first < stop:  # draws with replacement of which each has a token in the zone with the share of these
            hits += rng.binomial(count, (held[stop] - held[first]) / (stop - first), DRAWS)
            drawn += int(count)
    value, every = float(has[mine].mean()), float(has.mean())
    controls = [Control(f"all {kind}s of the run", every, how="counted on the whole run, nothing drawn")]
    n, total = int(has[mine].sum()), int(mine.sum())
    among = ("is in", "are in") if selected.kind == "TOKEN" else ("has a token in", "have a token in")
    told = [f"{part_of(n, total, kind, *among)} the zone ({percent(value)})"]
    if drawn:
        null = hits / drawn
        low, high = spread(null) or (math.nan, math.nan)
        as_many = "" if selected.kind == "TOKEN" else " of as many tokens"
        how = how_drawn(f"draws of as many places, as many tokens: within {percent(ALIKE)}", DRAWS, seed)
        controls.insert(0, Control(f"other {kind}s{as_many}", float(null.mean()), (low, high), how))
        told.append(f"of other {kind}s{as_many} {percent(low)} to {percent(high)}")
    else:
        told.append(f"no other {kind} has as many tokens")
    told.append(f"of all {counted(len(has), kind)} {percent(every)}")
    note = f"{total - drawn} without another {kind} of as many tokens" if 0 < drawn < total else ""
    return Score("in the zone", value, f"share of {kind}s", tuple(controls), note=note), "; ".join(told)


# --------------------------------------------------------------------------------------------------------------------
# DRIFT
# --------------------------------------------------------------------------------------------------------------------


def _series(trace: Trace, measure: str, layers: Sequence[int]) -> Doubles:
    """A measure at layers (none: all), mean over them, (n,)."""
    of = MEASURE[measure]
    values = np.asarray(trace.array(measure), np.float64)
    if values.ndim == 1:
        return values
    first = of.first_layer
    chosen = [layer - 1 + first for layer in layers] or list(range(first, values.shape[1]))
    if not chosen:
        return np.full(len(values), math.nan)
    mean: Doubles = values[:, chosen].mean(axis=1)
    return mean


def span_score(
    places: _Places, measure: str, layers: Sequence[int], *, seed: int = 0, unit: str = ""
) -> tuple[Score | None, int]:
    """Mean of a measure over the selected spans, beside random spans of the same lengths near the same places in the same
    chains; with it the number of spans. None where no span has a value or no other span fits."""
    rng = np.random.default_rng(seed)
    values: list[float] = []
    per_chain: list[tuple[float, int]] = []
    null: list[Doubles] = []
    for chain in sorted(places.masks):
        series = _series(places.traces[chain], measure, layers)
        own: list[float] = []
        for a, b in places.spans(chain):
            part = series[a:b]
            if not np.isfinite(part).any():
                continue
            room = len(series) - (b - a)
            near = max(int(NEARBY * len(series)), 8)
            starts = np.arange(max(a - near, 0), min(a + near, room) + 1)
            starts = starts[(starts + (b - a) <= a) | (starts >= b)]  # not over the span itself
            if not len(starts):
                continue
            sums = np.concatenate([[0.0], np.nancumsum(series)])
            counts = np.concatenate([[0], np.cumsum(np.isfinite(series))])
            drawn = rng.choice(starts, DRAWS)
            with np.errstate(invalid="ignore", divide="ignore"):
                means = (sums[drawn + (b - a)] - sums[drawn]) / (counts[drawn + (b - a)] - counts[drawn])
            null.append(means)
            own.append(float(np.nanmean(part)))
        if own:
            values += own
            per_chain.append((sum(own), len(own)))
    if not values:
        return None, 0
    drawn_means = np.nanmean(np.stack(null), axis=0)
    control = Control(
        "random spans of the same lengths nearby in the same chains",
        float(drawn_means.mean()),
        spread(drawn_means),
        how_drawn("draws of as many spans", DRAWS, seed),
    )
    unit = unit or MEASURE[measure].unit
    interval = bootstrap(np.array(per_chain, np.float64), lambda rows: float(rows[:, 0].sum() / rows[:, 1].sum()))
    how = how_resampled("chains (sum over sum)") if interval else ""
    score = Score(measure, float(np.mean(values)), unit, (control,), interval, how=how)
    return score, len(values)


def unit_told(unit: str) -> str:
    """A unit behind a number: a range stands in brackets."""
    return f"({unit})" if ".." in unit else unit


def noise_of(run: Run, measure: str) -> float:
    """The largest difference of a measure between two ways of measuring the same text; 0 where a run has none: on a CPU a
    chain is measured alone and gives the same bits again."""
    floor = run.notes.get("noise_floor")
    batch = floor.get("batch") if isinstance(floor, Mapping) else None
    value = batch.get(measure, 0.0) if isinstance(batch, Mapping) else 0.0
    return float(value) if isinstance(value, int | float) else 0.0


def _drift(said: str, content: Drift, places: _Places, instruments: Instruments) -> Judged:
    run = instruments.run
    beyond = [layer for layer in content.layers if layer > run.n_layers]
    if beyond or (not run.n_layers and content.measure != "logit_shift"):
        has = f"layers 1 to {run.n_layers}" if run.n_layers else "no layers"
        asked = f"layer {layers_text(beyond)} was named, and " if beyond else ""
        return Judged(said, "not decidable", f"{asked}{run.model} has {has}")
    where = f"at layer {layers_text(content.layers)}" if content.layers else "over all layers"

    def scored(measure: str) -> tuple[Score | None, int]:
        layered = measure != "logit_shift"
        found, count = span_score(places, measure, content.layers if layered else (), seed=instruments.seed)
        return (replace(found, name=f"{measure} {where}") if found and layered else found), count

    score, count = scored(content.measure)
    others = [name for name in ("attention_entropy", "hidden_shift", "logit_shift") if name != content.measure]
    more = tuple(found for name in others if (found := scored(name)[0]))
    if score is None or count < LEAST:
        return Judged(
            said, "not decidable", f"{counted(count, 'place')} with a control, {LEAST} are needed", score, more
        )
    control = score.controls[0]
    low, high = control.interval or (control.value, control.value)
    noise = noise_of(run, content.measure)
    holds = score.value > high + noise if content.activates else score.value < low - noise
    side = "above" if score.value > high + noise else "below" if score.value < low - noise else "within"
    text = (
        f"{content.measure} {where}: {score.value:.4g} {unit_told(score.unit)} at {counted(count, 'place')}, {side} the "
        f"{control.name} ({low:.4g} to {high:.4g}); noise floor {noise:.2g}"
    )
    if content.negated and not holds:
        text += "; this pass says that no difference was found, not that there is none"
    return Judged(said, "pass" if holds != content.negated else "fail", text, score, more)


Spans = Mapping[str, Sequence[tuple[int, int, str, tuple[int, ...], bool, float]]]
"""Targets of a chain: first and last token, measure, layers, above, bound (:class:`trails.export.subgraph.Part`)."""


def target(
    content: Drift, selected: Selected, traces: Callable[[], Iterable[Trace]], run: Run, *, seed: int = 0
) -> tuple[Spans, str]:
    """What a line DRIFT asks of a training: every selected span shall be beyond the end of the control's interval that its
    verdict is judged by, noise floor included; by chain. And what is said of it. Empty, with the reason, where nothing of it
    can be trained towards: the attention objective moves attention rows, and a bound needs its control.
    """
    name = content_text(content)
    if content.negated:
        return {}, f"{name}: not trained, NOT says nothing to train towards"
    if content.measure not in TRAINED:
        moved = ", ".join(MEASURE_NAMES[measure] for measure in TRAINED)
        return {}, f"{name}: not trained, the attention objective moves {moved} only"
    beyond = [layer for layer in content.layers if layer > run.n_layers]
    if beyond or not run.n_layers:
        return {}, f"{name}: not trained, {run.model} has no such layer"
    places = _places(selected, traces)
    score, count = span_score(places, content.measure, content.layers, seed=seed)
    if score is None or count < LEAST:
        return {}, f"{name}: not trained, {count} places with a control, {LEAST} are needed"
    low, high = score.controls[0].interval or (score.control, score.control)
    noise = noise_of(run, content.measure)
    bound = high + noise if content.activates else low - noise
    spans = {
        chain: [(a, b, content.measure, content.layers, content.activates, bound) for a, b in places.spans(chain)]
        for chain in places.masks
    }
    side = "above" if content.activates else "below"
    return (
        spans,
        f"{name}: trained to lie {side} {bound:.4g} {unit_told(score.unit)} (now {score.value:.4g} at {count} places)",
    )


def distance(spans: Spans, traces: Iterable[Trace]) -> float:
    """How far the targets of these traces lie on the wrong side of their bounds, mean over the targets, in the unit of the
    measure: the loss of the attention objective, of stored values. NaN without a target.
    """
    found: list[float] = []
    for trace in traces:
        for a, b, measure, layers, above, bound in spans.get(trace.chain.id, ()):
            value = float(np.nanmean(_series(trace, measure, layers)[a:b]))
            found.append(max(bound - value if above else value - bound, 0.0))
    return float(np.mean(found)) if found else math.nan


# --------------------------------------------------------------------------------------------------------------------
# ANCHOR
# --------------------------------------------------------------------------------------------------------------------


def _anchor(said: str, text: str, places: _Places, instruments: Instruments) -> Judged:
    goals = sorted(
        (trace.chain.id, step.index)
        for trace in instruments.traces()
        for step in trace.steps
        if text.casefold() in trace.chain.text[step.start : step.end].casefold()
    )
    if not goals:
        return Judged(said, "not decidable", f"no chain of this run holds {text!r}, so there is no place to be led to")
    if not places.masks:
        return Judged(said, "not decidable", "nothing is selected to be led from")
    later = {chain: [step for at, step in goals if at == chain] for chain in places.masks}
    reach = sum(any(step > min(places.steps(chain) or [0]) for step in later[chain]) for chain in places.masks)
    ahead = f"in {reach:,} of {counted(len(places.masks), 'selected chain')} it comes later"
    if instruments.bridge is None:
        return Judged(said, "not decidable", f"{ahead}; {instruments.why_no_bridge}")
    steps = sorted((trace.chain.id, step.index) for trace in instruments.traces() for step in trace.steps)
    mine, theirs, tried, n_starts = _bridges(places, later, goals, steps, instruments)
    if len(mine) < LEAST:
        return Judged(
            said,
            "not decidable",
            f"{ahead}; {len(mine)} bridges with a control, {LEAST} are needed ({tried} pairs of places were tried)",
        )
    if n_starts < LEAST:
        return Judged(
            said,
            "not decidable",
            f"{ahead}; the {len(mine)} bridges begin at {counted(n_starts, 'place')}, {LEAST} are needed: bridges from one "
            "place are not independent",
        )
    gain = bootstrap(mine - theirs)
    score = Score(
        f"bridge to {text}",
        float(mine.mean()),
        "nats, worst transition",
        (
            Control(
                "from random steps to the same places",
                float(theirs.mean()),
                bootstrap(theirs),
                f"one random start a pair that a way leads from, seed {instruments.seed}; " + how_resampled("pairs"),
            ),
        ),
        bootstrap(mine),
        how=how_resampled("pairs"),
    )
    holds = gain is not None and gain[1] < 0
    span = f"{gain[0]:.2f} to {gain[1]:.2f}" if gain else "unknown"
    return Judged(
        said,
        "pass" if holds else "fail",
        f"{ahead}; re-scored, the worst transition on the way is {score.value:.2f} nats, from random steps {score.control:.2f} "
        f"(difference {span} nats over {counted(len(mine), 'pair')} from {counted(n_starts, 'place')}; {tried} were tried)",
        score,
    )


def _bridges(
    places: _Places,
    later: Mapping[str, Sequence[int]],
    goals: Sequence[tuple[str, int]],
    steps: Sequence[tuple[str, int]],
    instruments: Instruments,
) -> tuple[Doubles, Doubles, int, int]:
    """Worst transitions, nats, of so many bridges as were asked for and of their controls; how many pairs were tried, and from
    how many places the bridges begin: those of one place are not independent.

    Pairs within a chain come first, in random order, then pairs of two chains. One without a way, or to whose goal no way
    leads from any of :data:`STARTS` random steps, is passed over; :data:`TRIES` pairs are tried for each bridge, at most.
    """
    assert instruments.bridge is not None
    rng = np.random.default_rng(instruments.seed)
    starts = [(chain, first) for chain in sorted(places.masks) for first in places.steps(chain)]
    within = [(start, (start[0], step)) for start in starts for step in later[start[0]] if step > start[1]]
    order = rng.permutation(len(within)).tolist()
    mine: list[float] = []
    theirs: list[float] = []
    begun: set[tuple[str, int]] = set()
    tried = 0
    while len(mine) < instruments.pairs and tried < TRIES * instruments.pairs:
        if tried < len(within):
            start, goal = within[order[tried]]
        else:
            start, goal = starts[int(rng.integers(len(starts)))], goals[int(rng.integers(len(goals)))]
        tried += 1
        if start[0] == goal[0] and goal[1] <= start[1]:
            continue
        own = instruments.bridge(step_key(*start), step_key(*goal))
        for _ in range(STARTS if math.isfinite(own) else 0):
            other = steps[int(rng.integers(len(steps)))]
            if other in (start, goal):
                continue
            control = instruments.bridge(step_key(*other), step_key(*goal))
            if math.isfinite(control):
                mine.append(own)
                theirs.append(control)
                begun.add(start)
                break
    return np.array(mine, np.float64), np.array(theirs, np.float64), tried, len(begun)


# --------------------------------------------------------------------------------------------------------------------
# PHASE
# --------------------------------------------------------------------------------------------------------------------


def turning_angles(states: npt.ArrayLike) -> Doubles:
    """Angles in degrees, 0 to 180, between successive differences of vectors (S, d): entry s is the turn at step s, NaN at both
    ends and where a difference is zero."""
    found: Doubles = np.full(len(np.asarray(states)), math.nan)
    steps = np.diff(np.asarray(states, np.float64), axis=0)
    lengths = np.linalg.norm(steps, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosine = (steps[:-1] * steps[1:]).sum(axis=1) / (lengths[:-1] * lengths[1:])
    if len(cosine):
        found[1:-1] = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
    return found


def _phase(said: str, content: Phase, places: _Places, instruments: Instruments) -> Judged:
    stored = usual_layers(trace.state_layers for trace in instruments.traces() if trace.step_states is not None)
    layer = content.layer if content.layer is not None else stored[len(stored) // 2] if stored else None
    if layer is None or layer not in stored or instruments.whitening is None:
        asked = content.layer if content.layer is not None else 16
        kept = f"only of layers {layers_text(sorted(stored))}" if stored else "not"
        told = f"hidden states are {kept} stored; measure them: trails ingest PATH --states {asked} --home NEW"
        if instruments.run.adapter:
            told += f"; then with adapter {instruments.run.adapter}: trails diff --adapter FOLDER --home NEW"
        return Judged(said, "not decidable", told)
    try:
        whitening = instruments.whitening(layer)
    except ValueError as error:
        return Judged(said, "not decidable", f"layer {layer} cannot be whitened: {error}")
    found: dict[str, tuple[list[float], list[float]]] = {}
    for trace in instruments.traces():
        if trace.step_states is None or layer not in trace.state_layers:
            continue
        states = np.asarray(trace.step_states[:, trace.state_layers.index(layer)], np.float32)
        angles = turning_angles((states - whitening.mean) @ whitening.components)
        chosen = set(places.steps(trace.chain.id)) if trace.chain.id in places.masks else set()
        own = [float(angles[s]) for s in sorted(chosen) if math.isfinite(angles[s])]
        found[trace.chain.id] = own, [float(a) for s, a in enumerate(angles) if s not in chosen and math.isfinite(a)]
    mine = [angle for chain in sorted(found) for angle in found[chain][0]]
    rest = [angle for chain in sorted(found) for angle in found[chain][1]]
    per_chain = [float(np.mean(found[chain][0])) for chain in sorted(found) if found[chain][0]]
    if len(mine) < LEAST or len(rest) < LEAST:
        return Judged(
            said,
            "not decidable",
            (
                f"{counted(len(mine), 'selected step stands', 'selected steps stand')} between two others "
                f"and {len(rest)} random ones do; {LEAST} of each are needed"
            ),
        )
    rng = np.random.default_rng(instruments.seed)
    null = np.array([rng.choice(rest, len(mine)).mean() for _ in range(DRAWS)])
    low, high = spread(null) or (math.nan, math.nan)
    claim = math.degrees(abs(content.angle.radians))
    wide = math.degrees(content.tolerance.radians) if content.tolerance else DEFAULT_TOLERANCE
    score = Score(
        "turn between successive differences",
        float(np.mean(mine)),
        "degrees",
        (
            Control(
                "random steps of the run",
                float(null.mean()),
                (low, high),
                how_drawn("draws of as many other steps", DRAWS, instruments.seed),
            ),
        ),
        bootstrap(per_chain),
        how=how_resampled(),
        note=f"layer {layer}, whitened, {counted(len(mine), 'step')}",
    )
    sign = "; the sign cannot be measured, an angle between vectors has none" if content.angle.radians < 0 else ""
    text = (
        f"at layer {layer} the turn is {score.value:.1f}°, claimed {claim:.4g} ± {wide:.4g}°, "
        f"random steps {low:.1f} to {high:.1f}°{sign}"
    )
    as_wide = high - low >= 2 * wide or (low <= claim + wide and high >= claim - wide)
    if as_wide:
        return Judged(
            said, "not decidable", f"metaphor: not measurable here; random steps fulfil the claim, too: {text}", score
        )
    inside = abs(score.value - claim) <= wide
    return Judged(said, "pass" if inside and not low <= score.value <= high else "fail", text, score)
