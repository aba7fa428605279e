"""A writer that a test can kill: hand-made traces into shards and the embedded graph, resuming by itself."""

from __future__ import annotations

from pathlib import Path

from tests.store.factory import make_chain, make_run, make_trace

from trails.schema import Run, Trace
from trails.store.embedded import EmbeddedStore
from trails.store.rows import graph_batch
from trails.store.traces import TraceStore

RUNS: tuple[Run, ...] = (make_run("base", n_layers=6), make_run("tuned", n_layers=6))
N_CHAINS = 18
PER_SHARD = 3


def all_traces() -> list[Trace]:
    """What an undisturbed writer writes."""
    text = "If it rains then the grass is wet. But the grass is dry. Therefore it did not rain, as far as we know. "
    return [
        make_trace(make_chain(i, text * (1 + i % 4)), run, n_steps=3 + i % 4, token_attention=i % 2 == 0)
        for run in RUNS
        for i in range(N_CHAINS)
    ]


def write_all(home: str) -> None:
    """Write what is missing in the shards, then load what is missing in the graph; as ingest and rebuild do."""
    with TraceStore(Path(home), write=True) as shards:
        for run in RUNS:
            shards.put_run(run)
        traces = all_traces()
        done = {run.id: shards.done(run.id) for run in RUNS}
        missing = [trace for trace in traces if trace.chain.id not in done[trace.run]]
        runs = shards.runs()
        with EmbeddedStore(home) as graph:
            graph.ensure_schema()
            for number, start in enumerate(range(0, len(missing), PER_SHARD)):
                block = missing[start : start + PER_SHARD]
                shards.write(block)
                graph.write([graph_batch(block, runs)])
                if number % 3 == 2:
                    graph.save()
            loaded = graph.loaded()
            late = [trace for trace in shards.traces() if (trace.chain.id, trace.run) not in loaded]
            if late:
                graph.write([graph_batch(late, runs)])
