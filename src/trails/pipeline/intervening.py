"""``trails intervene``: chains measured with a change inside the model, as a run of their own, and the same with a control."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np

from trails.analyses.intervention import Intervened, intervened
from trails.analyses.statistics import generator, how_drawn, of_each
from trails.errors import ModelError, UsageError
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.huggingface import HuggingFaceScorer
from trails.measure.intervene import (
    IntervenedScorer,
    Intervention,
    Operation,
    random_vector,
    read_vector,
    site_states,
    vector_hash,
)
from trails.measure.model import Site
from trails.pipeline.again import measure_again
from trails.pipeline.opened import OpenHome
from trails.pipeline.progress import Progress
from trails.platform.arrays import Floats
from trails.schema import Trace, step_key


def intervene(
    home: OpenHome,
    chains: str,
    *,
    layer: int,
    operation: Operation,
    component: Site = "block_output",
    at: str = "all",
    vector: Path | None = None,
    origin: str = "",
    strength: float = 1.0,
    controls: int = 3,
    seed: int = 0,
    run: str | None = None,
    progress: Progress | None = None,
) -> Intervened:
    """Measure the chains that ``chains`` names with a change inside the model of a run; the result is a run like any other.

    The vector comes from the file ``vector``, or from ``origin``: ``CHAIN:STEP`` (the mean of what the place gives at the
    step's tokens) or ``random`` (a direction as long as the mean state there). It is kept in the home's folder ``vectors``.
    ``controls`` random directions of the same length (without a vector: other places of the same length) are measured, too, and
    not stored. Raises UsageError and ModelError before anything is stored.
    """
    known = home.run(run)
    wanted = home.chosen(chains, known.id)
    if vector is not None and origin:
        raise UsageError("two vectors were given, by --vector and --from. Give one.")
    if origin not in ("", "random"):
        origin = step_key(*home.names.step(origin, known.id))  # a number (#2) can mean another chain tomorrow
    if known.n_layers and not 1 <= layer <= known.n_layers:
        raise ModelError(f"layer {layer} was asked for, {known.model} has layers 1 to {known.n_layers}.")
    if origin not in ("", "random"):
        _span_of_step(home, origin, known.id)
    given = None if vector is None else read_vector(vector)
    trial = Intervention(layer, operation, component, at, strength, vector_sha256="-" if vector or origin else "")
    before = sorted(home.shards.traces(known.id, wanted), key=lambda trace: trace.chain.id)
    places = [trial.tokens(trace.step_tokens, trace.n_tokens, trace.chain.id) for trace in before]
    scorer = home.language_model(known.id)
    items = [Segmented(trace.chain, trace.steps) for trace in before]
    if origin == "random":
        length = float(np.linalg.norm(site_states(scorer, items[0], layer, component), axis=1).mean())
        given = random_vector(scorer.run.d_model, length, seed)
    elif origin:
        given = _of_step(home, scorer, origin, layer, component, known.id)
    name = vector.name if vector else (f"random (seed {seed})" if origin == "random" else origin)
    intervention = replace(trial, vector=name, vector_sha256="" if given is None else vector_hash(given))
    changed = IntervenedScorer(scorer, intervention, given)
    if given is not None:
        file = io.BytesIO()
        np.save(file, given)
        home.shards.keep(home.shards.home / "vectors" / f"{intervention.vector_sha256[:16]}.npy", file.getvalue())
    home.close_graph()  # the embedded graph has one writer
    measure_again(home.settings, known, changed, progress, chains=wanted, states=before[0].state_layers)
    after = {trace.chain.id: trace for trace in home.shards.traces(changed.run.id, wanted)}
    said, how, drawn = _controls(scorer, intervention, given, items, before, places, controls, seed)
    pairs = [(trace, after[trace.chain.id], place.start) for trace, place in zip(before, places, strict=True)]
    return intervened(changed.run.id, known.id, intervention.record(), pairs, said, drawn, how=how)


def _of_step(home: OpenHome, scorer: HuggingFaceScorer, origin: str, layer: int, component: Site, run: str) -> Floats:
    trace, first, stop = _span_of_step(home, origin, run)
    states = site_states(scorer, Segmented(trace.chain, trace.steps), layer, component)
    return np.asarray(states[first:stop].mean(0, dtype=np.float64), np.float32)


def _span_of_step(home: OpenHome, origin: str, run: str) -> tuple[Trace, int, int]:
    """The chain of a step, and its tokens. Raises UsageError for a step that is not there, or has no token of its own."""
    chain, step = home.names.step(origin, run)
    (trace,) = home.shards.traces(run, [chain])
    if step >= len(trace.steps):
        raise UsageError(f"step {step} of chain {chain} was asked for, it has steps 0 to {len(trace.steps) - 1}.")
    first, stop = trace.step_tokens[step]
    if first == stop:
        raise UsageError(f"step {step} of chain {chain} has no token of its own. Choose another.")
    return trace, int(first), int(stop)


def _controls(
    scorer: HuggingFaceScorer,
    intervention: Intervention,
    vector: Floats | None,
    items: list[Segmented],
    before: list[Trace],
    places: list[slice],
    count: int,
    seed: int,
) -> tuple[str, str, list[list[tuple[Trace, int]]]]:
    """What the control is, how it was drawn, and for every draw the changed trace and first changed token of every chain."""
    plain = MeasureOptions()
    if vector is not None:
        length = float(np.linalg.norm(vector))
        drawn = []
        for draw in range(count):
            other = random_vector(len(vector), length, seed + 1 + draw)
            changed = IntervenedScorer(scorer, replace(intervention, vector_sha256=vector_hash(other)), other)
            drawn.append([(t, p.start) for t, p in zip(changed.measure(items, plain), places, strict=True)])
        how = how_drawn("directions (Gaussian, scaled), each measured", count, seed + 1, apart=True)
        return "random directions of the same length", how, drawn
    if any(place.stop - place.start >= trace.n_tokens - 1 for trace, place in zip(before, places, strict=True)):
        return "", "", []
    rngs = [generator(seed, "intervention: other places", trace.chain.id) for trace in before]
    drawn = []
    for _ in range(count):
        row = []
        for item, trace, place, rng in zip(items, before, places, rngs, strict=True):
            size = place.stop - place.start
            first = int(rng.integers(0, trace.n_tokens - size))  # the last token changes nothing that is measured
            there = replace(intervention, positions=f"{first}:{first + size}")
            row.append((IntervenedScorer(scorer, there).measure([item], plain)[0], first))
        drawn.append(row)
    how = how_drawn("sets of places, each measured", count, of_each(seed))
    return "other places of the same length", how, drawn
