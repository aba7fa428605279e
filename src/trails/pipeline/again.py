"""The chains of a run measured once more with a changed model (an adapter, an intervention), into the shards and the graph.

What is compared then is :mod:`trails.evaluate` and the analyses. This part writes a store and holds a model, which only the
pipeline may.
"""

from __future__ import annotations

from collections.abc import Collection

from trails.config import Settings
from trails.measure.base import MeasureOptions, Scorer, Segmented
from trails.pipeline.loading import graph_has_arrays
from trails.pipeline.measuring import IngestOptions, IngestSummary, measure_and_write
from trails.pipeline.progress import Progress, Silent
from trails.readers import ReadReport
from trails.schema import Run
from trails.store import open_graph
from trails.store.traces import TraceStore


def measure_again(
    settings: Settings,
    first: Run,
    scorer: Scorer,
    progress: Progress | None = None,
    *,
    chains: Collection[str] | None = None,
    states: tuple[int, ...] = (),
) -> None:
    """Measure every chain of the run ``first`` (those of ``chains``, if given) that ``scorer`` has not measured, into the
    shards and the graph. ``states`` are the layers whose step states are kept.
    """
    with TraceStore(settings.home, write=True) as shards, open_graph(settings) as graph:
        graph.ensure_schema()
        shards.put_run(scorer.run)
        missing = shards.done(first.id) - shards.done(scorer.run.id)
        if chains is not None:
            missing &= set(chains)
        items = [Segmented(trace.chain, trace.steps) for trace in shards.traces(first.id, missing)]
        progress = progress or Silent()
        progress.begin("measuring the changed model", sum(len(item.chain.text) for item in items))
        # as the transitions that are there
        options = IngestOptions(measure=MeasureOptions(states=states), per_layer=graph_has_arrays(graph))
        measure_and_write(items, scorer, shards, graph, options, IngestSummary(), progress, ReadReport())
        graph.save()
