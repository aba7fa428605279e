"""What a home and its graph hold, for ``trails status``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trails.config import Settings
from trails.errors import TrailsError
from trails.schema import Run
from trails.store import open_graph
from trails.store.resolve import measured_runs, undescribed
from trails.store.traces import HomeStats, TraceStore


@dataclass(frozen=True, slots=True)
class Status:
    """Shards and graph side by side. ``counts`` are those of the whole graph, which ``homes`` homes share. ``graph_problem``
    is set where the graph cannot be opened; ``missing`` counts the (chain, run) pairs of the shards that the graph does not
    hold as this home's, ``surplus`` those that the graph holds as this home's and no shard does; both are None where nobody
    could look. ``undescribed`` says which runs have chains and no file. ``advice`` is a command worth running next.
    """

    home: str
    runs: Mapping[str, Run]
    shards: HomeStats
    graph: str
    counts: Mapping[str, int]
    graph_bytes: int
    homes: int
    missing: int | None
    surplus: int | None
    undescribed: tuple[str, ...]
    graph_problem: str
    advice: str


def status(settings: Settings) -> Status:
    """Read the small columns of the shards and the counts of the graph. Raises StoreError if there is no home."""
    with TraceStore(settings.home) as traces:
        runs, stats, keys = measured_runs(traces), traces.stats(), traces.keys()
        home, nameless = traces.identity().id, tuple(undescribed(traces, keys))
    counts: Mapping[str, int] = {}
    address: str = settings.store_name
    problem, missing, surplus, homes = "", None, None, 0
    try:
        with open_graph(settings) as graph:
            address = graph.address
            counts = graph.counts()
            held = graph.held()
            homes = len(held)
            surplus = len(held.get(home, set()) - keys)
            missing = len(keys - (graph.loaded() & held.get(home, set())))
    except TrailsError as error:
        problem = str(error)
    file = settings.home / "graph.kgl"
    size = file.stat().st_size if settings.store_name == "embedded" and file.is_file() else 0
    if surplus:
        advice = "trails verify"
    elif not keys:
        advice = "trails ingest PATH"
    elif missing or (problem and settings.store_name == "embedded"):
        advice = "trails rebuild"
    elif problem:
        advice = "trails status"
    elif all(run.model == "uniform" for run in runs.values()):
        advice = "trails query corpus"  # to a uniform guess nothing is more surprising than anything else
    else:
        advice = "trails query most-surprising"
    return Status(
        str(settings.home), runs, stats, address, counts, size, homes, missing, surplus, nameless, problem, advice
    )


def as_json(found: Status) -> dict[str, Any]:
    """The same as plain values."""
    return {
        "home": found.home,
        "runs": {
            run_id: {
                "name": run.name,
                "model": run.model,
                "revision": run.revision,
                "adapter": run.adapter,
                "intervention": run.notes.get("intervention"),
                "dtype": run.dtype,
                "layers": run.n_layers,
                "chains": found.shards.chains.get(run_id, 0),
                "tokens": found.shards.tokens.get(run_id, 0),
            }
            for run_id, run in found.runs.items()
        },
        "shards": {"files": found.shards.n_shards, "bytes": found.shards.n_bytes, "chains": found.shards.n_chains},
        "undescribed": list(found.undescribed),
        "sources": dict(found.shards.sources),
        "languages": dict(found.shards.languages),
        "roles": dict(found.shards.roles),
        "corrections": dict(zip(("applied", "steps"), found.shards.corrections, strict=True)),
        "graph": {
            "address": found.graph,
            "bytes": found.graph_bytes,
            "counts": dict(found.counts),
            "homes": found.homes,
            "missing": found.missing,
            "in_no_shard": found.surplus,
            "problem": found.graph_problem,
        },
        "next": found.advice,
    }
