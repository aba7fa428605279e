"""``trails select``: chains within a budget of tokens, kept as a selection ``selected:NAME``."""

from __future__ import annotations

import numpy as np

from trails.analyses.budget import WAYS, By, Chosen, chosen, pool_of, record
from trails.errors import StoreError, UsageError
from trails.pipeline.opened import OpenHome
from trails.pipeline.whitening import whitening_of
from trails.platform.arrays import Floats
from trails.platform.files import write_atomic
from trails.schema import canonical_json

_GAPS = "MATCH (g:Gap) WHERE g.run = $run RETURN g.chain AS chain, max(g.bridge_nats) AS value"
_REACTION = (
    "MATCH (r:Response {kind: 'chain'}) WHERE r.run = $run RETURN r.chain AS chain, "
    "min(r.nll_change - r.nll_change_control) AS value"
)
_ASKED = {
    "gaps": (_GAPS, "the graph holds no gaps. Run: trails gaps"),
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
    run: str | None = None,
) -> Chosen:
    """Choose chains of a pool within a budget of tokens (see :func:`trails.analyses.budget.choose`) and keep the choice in the
    home's folder ``selections``. ``layer`` is the one whose states ``diversity`` takes, by default the middle one that is
    stored.

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
        if not value:
            raise UsageError(f"selection by {by} was asked for, and {advice}")
    states: dict[str, Floats] | None = None
    if by == "diversity":
        kept = next((trace.state_layers for trace in traces if trace.state_layers), ())
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
    path = home.settings.home / "selections" / f"{found.name}.json"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomic(path, canonical_json(record(found, pool, seed)).encode())
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error
    return found
