"""Vectors of meaning: stored step states as a ``pvq.json``, and such a file as an index to look a step or a text up in."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score
from trails.analyses.statistics import how_drawn, spread
from trails.analyses.whitening import Whitening
from trails.errors import ModelError, UsageError
from trails.export.subgraph import is_selection
from trails.measure.base import MeasureOptions
from trails.measure.pvq import Vectors, White, read_pvq, write_pvq
from trails.pipeline.measuring import segmented
from trails.pipeline.opened import OpenHome
from trails.pipeline.whitening import whitening_of
from trails.platform.arrays import Doubles, Floats
from trails.platform.text import agreeing, counted, whole_number
from trails.platform.ties import leading
from trails.schema import Chain, Trace, step_key
from trails.store.outputs import check_output

DRAWS = 200
"""Random vectors of the control."""


def write_vectors(
    home: OpenHome,
    steps: str,
    to: Path,
    *,
    layer: int | None = None,
    whiten: bool = False,
    run: str | None = None,
    overwrite: bool = False,
) -> tuple[Vectors, list[Path]]:
    """Write the states of the steps that ``steps`` names (a step ``CHAIN:STEP``, a chain, or a selection) at a layer (the
    middle one of those stored, by default); what was written, and the files.

    Raises UsageError where the file exists, where the run keeps no state of the layer, and where no step has one.
    """
    of = home.run(run)
    check_output(to)
    if to.suffix != ".json":
        name = shlex.quote(str(to.with_suffix(".pvq.json")))
        raise UsageError(f"{to} ends in {to.suffix!r}, and what is written is a pvq.json. Write: -o {name}")
    if to.exists() and not overwrite:
        raise UsageError(f"{to} exists. Choose another name, or give --overwrite.")
    if not to.parent.is_dir():
        raise UsageError(f"there is no folder {to.parent}. Make it first.")
    chosen: dict[str, tuple[int, ...]] = {}
    if is_selection(steps):
        found = home.select(steps)
        if found.parts is None:
            chosen = dict.fromkeys(sorted(home.shards.done(of.id)), ())
        else:
            chosen = {chain: part.steps for chain, part in found.parts.items()}
    else:
        chain, colon, number = steps.rpartition(":")
        step = whole_number(number)
        if colon and step is not None and not _is_chain(home, steps, of.id):
            chosen[home.names.chain(chain, of.id)] = (step,)
        else:
            chosen[home.names.chain(steps, of.id)] = ()
    if not of.n_layers:
        raise UsageError(f"run {of.id} was measured by {of.model}, which has no states. Choose with --run.")
    if layer is not None and layer > of.n_layers:
        raise ModelError(f"layer {layer} was asked for, {of.model} has states 0 (embeddings) to {of.n_layers}.")
    by_chain: dict[str, list[tuple[str, str, Floats]]] = {}
    kept: set[int] = set()
    if layer is None and (stored := home.state_layers(of.id, list(chosen))):
        layer = stored[len(stored) // 2]
    for trace in home.shards.traces(of.id, list(chosen)):
        kept |= set(trace.state_layers)
        states = _states(trace, layer)
        if states is None:
            continue
        for step in chosen[trace.chain.id] or range(len(trace.steps)):
            if step >= len(trace.steps):
                raise UsageError(
                    f"step {step} of chain {trace.chain.id} was asked for, it has steps 0 to {len(trace.steps) - 1}."
                )
            if np.isfinite(states[step]).all():
                text = trace.chain.text[trace.steps[step].start : trace.steps[step].end]
                by_chain.setdefault(trace.chain.id, []).append((step_key(trace.chain.id, step), text, states[step]))
    entries = [entry for chain in sorted(by_chain) for entry in by_chain[chain]]
    if not entries or layer is None:
        has = (
            f"states of {agreeing(len(kept), 'layer', 'layers')} {', '.join(map(str, sorted(kept)))}"
            if kept
            else "no states"
        )
        wanted = of.n_layers // 2 if layer is None else layer
        raise UsageError(
            f"states of {steps!r}{f' at layer {layer}' if layer is not None else ''} were asked for, run {of.id} keeps {has} "
            f"of it. Measure them: trails ingest PATH --states {wanted} --home NEW"
        )
    white = None
    if whiten:
        try:
            fitted = whitening_of(home.shards, of.id, layer)
        except ValueError as error:
            raise UsageError(f"layer {layer} of run {of.id} cannot be whitened: {error}.") from None
        white = White(fitted.mean, fitted.components, fitted.n)
    ids, texts, vectors = zip(*entries, strict=True)
    made = Vectors(of.model, of.revision, of.tokenizer, of.id, layer, ids, texts, np.stack(vectors), white)
    return made, write_pvq(made, to)


def _is_chain(home: OpenHome, text: str, run: str) -> bool:
    try:
        home.names.chain(text, run)
    except UsageError:
        return False
    return True


def _states(trace: Trace, layer: int | None) -> Floats | None:
    """States of the steps (S, d) at a layer, None where they were not kept."""
    if trace.step_states is None or layer not in trace.state_layers:
        return None
    return np.asarray(trace.step_states[:, trace.state_layers.index(layer)], np.float32)


@dataclass(frozen=True, slots=True)
class Looked(Finding):
    """The entries of a file nearest to what was looked up, best first in ``table``."""

    asked: str
    table: pa.Table
    score: Score
    notes: tuple[str, ...]

    def report(self) -> Report:
        """The nearest entry, and whether it is nearer than to random vectors."""
        best = self.table.to_pylist()[0]
        word = "nearer than" if self.score.beyond() else "no nearer than"
        alike = leading(self.table["cosine"].to_pylist())
        which = (
            f"{best['id']} is nearest" if alike == 1 else f"{counted(alike, 'entry is', 'entries are')} nearest alike"
        )
        verdict = f"{which} to {self.asked}: cosine {best['cosine']:.3f}, {word} to a random vector"
        return Report(
            "pvq",
            verdict,
            {"asked": self.asked},
            (
                ReportTable(
                    "nearest",
                    self.table,
                    "entries, the nearest first",
                    ranked=("cosine", self.table["cosine"].to_pylist()),
                ),
            ),
            (self.score,),
            notes=self.notes,
        )


def look_up(home: OpenHome, file: Path, asked: str, *, top: int = 10, seed: int = 0, run: str | None = None) -> Looked:
    """The entries of a file nearest to a step ``CHAIN:STEP`` of the home (its stored state), or to a text, which the run's
    model reads as one step. Cosines are in whitened space where the file has a whitening.

    The control is what the best entry reaches for vectors whose coordinates come from random entries each. Raises UsageError
    for a file of another model than the run's, and for a step without a stored state.
    """
    index, of = read_pvq(file), home.run(run)
    if (index.revision, index.tokenizer) != (of.revision, of.tokenizer):
        raise UsageError(
            f"{file} holds vectors of {index.model} (weights {index.revision[:12]}), run {of.id} is of {of.model} (weights "
            f"{of.revision[:12]}): their spaces cannot be compared. Choose a run with --run."
        )
    chain, _, step = asked.rpartition(":")
    number = whole_number(step)
    if number is not None and _is_chain(home, chain, of.id):
        (trace,) = home.shards.traces(of.id, [home.names.chain(chain, of.id)])
        states = _states(trace, index.layer)
        if states is None or number >= len(states) or not np.isfinite(states[number]).all():
            raise UsageError(f"step {asked} has no stored state of layer {index.layer} in run {of.id}.")
        new, own = states[number], step_key(trace.chain.id, number)
    else:
        item = segmented(Chain("asked", "0", "", asked.strip()))
        (trace,) = home.scorer(of.id).measure([item], MeasureOptions(states=(index.layer,)))
        found = _states(trace, index.layer)
        if found is None:
            raise UsageError(f"{of.model} has no hidden states. Choose a run of a language model with --run.")
        sizes = np.diff(trace.step_tokens, axis=1).astype(np.float64)
        new, own = np.asarray(np.nansum(found * sizes, axis=0) / sizes.sum(), np.float32), ""
    white = index.whitening
    fitted = Whitening(white.mean, white.components, white.n) if white else None
    keep = [i for i, name in enumerate(index.ids) if name != own]
    if not keep:
        raise UsageError(f"{file} holds nothing but {own} itself.")
    stack = index.vectors[keep]

    def cosines(vectors: Floats) -> Doubles:
        made = (
            fitted(vectors) if fitted else vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        )
        there = fitted(stack) if fitted else stack / np.maximum(np.linalg.norm(stack, axis=1, keepdims=True), 1e-12)
        return np.asarray(made @ there.T, np.float64)

    real = cosines(new[None])[0]
    rng = np.random.default_rng(seed)
    drawn = index.vectors[rng.integers(0, len(index.ids), (DRAWS, len(new))), np.arange(len(new))]
    null = cosines(drawn).max(axis=1)
    order = np.argsort(-real, kind="stable")[:top]
    rows = [{"id": index.ids[keep[i]], "cosine": float(real[i]), "text": index.texts[keep[i]]} for i in order.tolist()]
    score = Score(
        "nearest entry",
        float(real[order[0]]),
        "cosine, whitened" if fitted else "cosine",
        (
            Control(
                "coordinates from random entries",
                float(null.mean()),
                spread(null),
                how_drawn("vectors whose coordinates come from random entries each", DRAWS, seed),
            ),
        ),
        note=f"layer {index.layer}",
    )
    notes = () if fitted else ("the file has no whitening: in raw space every state is near every other",)
    return Looked(asked if len(asked) <= 60 else asked[:57] + "…", pa.Table.from_pylist(rows), score, notes)
