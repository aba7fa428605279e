"""``trails anchors``: which earlier steps a step needs, measured by suppressing attention, into the graph."""

from __future__ import annotations

from trails.analyses.anchors import Anchors, anchored
from trails.errors import UnmeasurableError
from trails.export.options import parse_layers
from trails.measure.anchors import dependence
from trails.measure.base import Segmented
from trails.pipeline.opened import OpenHome
from trails.pipeline.progress import Progress, Silent
from trails.platform.text import counted


def anchors(
    home: OpenHome,
    chains: str,
    *,
    layers: str = "",
    seed: int = 0,
    run: str | None = None,
    write: bool = True,
    progress: Progress | None = None,
) -> Anchors:
    """Measure every pair of steps of the chains that ``chains`` names with the model of a run, and write ``DEPENDS_ON``.

    ``layers`` are those in which attention is suppressed (``1-5,8``), all by default. Chains that the model cannot measure so
    are left out, with the reason; a single one raises UnmeasurableError. An interrupt writes what was measured.
    """
    progress = progress or Silent()
    known = home.run(run)
    wanted = home.chosen(chains, known.id)
    chosen = parse_layers(layers) if layers else None
    if write:
        home.check_graph()
    scorer = home.language_model(known.id)
    found, left_out = [], []
    progress.begin("suppressing attention", len(wanted))
    try:
        for trace in home.shards.traces(known.id, wanted):
            try:
                sequence = scorer.sequence(Segmented(trace.chain, trace.steps))
                found.append((trace, dependence(scorer, trace, sequence, layers=chosen, seed=seed)))
            except UnmeasurableError as error:
                if len(wanted) == 1:
                    raise
                left_out.append(str(error))
            progress.advance(1)
    except KeyboardInterrupt:
        if not found:
            raise
        left_out.append(f"interrupted: {counted(len(wanted) - len(found), 'chain')}")
    result = anchored(found, known.id, layers=chosen, left_out=left_out, seed=seed)
    batch = result.batch() if write else None
    if batch is not None:
        home.put(batch)
    return result
