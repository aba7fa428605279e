"""``trails select``: chains within a budget of tokens, kept as a selection ``selected:NAME``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from trails.analyses.budget import WAYS, By, Chosen, chosen, pool_of, record
from trails.analyses.sequences import usual_layers
from trails.errors import StoreError, UsageError
from trails.export.subgraph import GAPS_ADVICE
from trails.pipeline.opened import OpenHome
from trails.pipeline.whitening import whitening_of
from trails.platform.arrays import Floats
from trails.platform.files import write_atomic
from trails.platform.text import counted
from trails.schema import Run, Trace, canonical_json

_GAPS = "MATCH (g:Gap) WHERE g.run = $run RETURN g.chain AS chain, max(g.bridge_nats) AS value"
_REACTION = (
    "MATCH (r:Response {kind: 'chain'}) WHERE r.run = $run RETURN r.chain AS chain, "
    "min(r.nll_change - r.nll_change_control) AS value"
)
_ASKED = {
    "gaps": (_GAPS, f"the graph holds no gaps of this run. {GAPS_ADVICE}"),
    "reaction": (
        _REACTION,
        "no chain was put before probes as a whole. Run: trails respond SELECTION --probes SELECTION",
    ),
}


def select_within(
    home: OpenHome,
    budget: int,
    by: By,
    *,
    pool: str = "all",
    reverse: bool = False,
    seed: int = 0,
    layer: int | None = None,
    after: str | None = None,
    run: str | None = None,
) -> Chosen:
    """Choose chains of a pool within a budget of tokens (see :func:`trails.analyses.budget.choose`) and keep the choice in the
    home's folder ``selections``. ``layer`` is the one whose states ``diversity`` takes, by default the middle one that is
    stored. ``after`` is a run of the same chains after a probe training (``trails diff --adapter``), which ``learnability``
    compares with: the change of a chain's NLL in nats a token, the most lowered first.

    Raises UsageError for what the choice needs and the home does not hold.
    """
    if by not in WAYS:
        raise UsageError(f"selection by {by!r} was asked for. There are: {', '.join(WAYS)}.")
    of = home.run(run).id
    traces = list(home.shards.traces(of, home.chosen(pool, of)))
    value: dict[str, float] = {}
    if by in _ASKED:
        statement, advice = _ASKED[by]
        rows = home.graph.run(statement, {"run": of}, timeout_s=600.0, max_rows=10_000_000, trusted=True).rows
        value = {chain: float(number) for chain, number in rows if number is not None}
        if by == "gaps" and rows and not value:
            raise UsageError(
                f"selection by gaps was asked for, and the {counted(len(rows), 'chain')} with gaps have no size in nats "
                "(bridge_nats): it needs a calibration with the model. Run: trails gaps --calibrate"
            )
        if not value:
            raise UsageError(f"selection by {by} was asked for, and {advice}")
    if (by == "learnability") != (after is not None):
        raise UsageError(
            "selection by learnability compares with a run after a probe training, and nothing else does: --by learnability "
            "--after RUN. Run: trails diff --adapter FOLDER"
        )
    if after is not None:
        value = _learnt(home, traces, after)
    states: dict[str, Floats] | None = None
    if by == "diversity":
        kept = usual_layers(trace.state_layers for trace in traces)
        if not kept or (layer is not None and layer not in kept):
            there = ", ".join(map(str, kept)) or "none"
            raise UsageError(
                f"diversity needs the states of steps; stored layers: {there}. Run: trails ingest PATH --states 15"
            )
        at = layer if layer is not None else kept[len(kept) // 2]
        try:
            white = whitening_of(home.shards, of, at)
        except ValueError as error:
            raise UsageError(f"selection by diversity was asked for, and {error}. Ingest more chains.") from None
        states = {}
        for trace in traces:
            if trace.step_states is None or at not in trace.state_layers:
                continue
            own = trace.step_states[:, trace.state_layers.index(at)]
            own = own[np.isfinite(own).all(1)]
            if len(own):
                mean = white(own).mean(0)
                states[trace.chain.id] = np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)
    found = chosen(pool_of(traces, value, states), by, budget, of, seed=seed, reverse=reverse)
    if by == "gaps" and (unshown := _size_unshown(home.run(of))):
        found = replace(found, notes=(*found.notes, unshown))
    path = home.settings.home / "selections" / f"{found.name}.json"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(path, canonical_json(record(found, pool, seed)).encode())
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error
    return found


def _size_unshown(run: Run) -> str:
    """What the calibration of a run says of the sizes that ``gaps`` orders by, where it did not show them; empty otherwise."""
    from trails.analyses import gaps

    noted = run.notes.get(gaps.NOTE)
    return gaps.calibration_from(noted).size_unshown() if noted else ""


def _learnt(home: OpenHome, traces: Sequence[Trace], after: str) -> dict[str, float]:
    """The change of every chain's NLL, nats a token, negative = learnt. Raises UsageError for a run of another tokenizer, and
    for one that measured none of the chains.
    """
    second = home.other(after, traces[0].run) if traces else home.run(after)
    if traces and second.tokenizer != home.run(traces[0].run).tokenizer:
        raise UsageError(f"run {second.id} has another tokenizer, so its tokens cannot be compared with the pool's.")
    before = {trace.chain.id: float(np.nanmean(trace.surprisal.astype(np.float64))) for trace in traces}
    found = {
        trace.chain.id: float(np.nanmean(trace.surprisal.astype(np.float64))) - before[trace.chain.id]
        for trace in home.shards.traces(second.id, list(before))
    }
    if not found:
        raise UsageError(f"run {second.id} measured no chain of the pool. Run: trails diff --adapter FOLDER")
    return found
