"""The seams of a corpus, ranked by what the calibration found best."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from trails.analyses.gaps.calibration import Calibration, calibrate, ranked_in_chain, seam_table
from trails.analyses.gaps.kinds import NAMES, SIGN
from trails.analyses.gaps.seams import background, seam_scores
from trails.analyses.gaps.text import ungrounded_values
from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Score, Withheld
from trails.analyses.sequences import content_key, one_instrument
from trails.analyses.statistics import ranks
from trails.errors import UsageError
from trails.platform.arrays import Doubles, Longs
from trails.platform.text import counted, part_of
from trails.platform.ties import leading
from trails.schema import Trace, step_key
from trails.store.base import GraphBatch
from trails.store.rows import table_of


@dataclass(frozen=True, slots=True)
class Gaps(Finding):
    """Seams, most gap-like first, and what their scores are worth.

    ``seams`` has one row per seam: ``id``, ``chain``, ``step``, ``score`` (share of the corpus's other seams with a smaller
    combined score, a tie half, 0..1), ``rank`` (within the chain, 0 = most gap-like), ``bridge_nats``, every seam score by
    name, and what a person needs to judge it: ``before`` and ``after`` (the texts of the two steps), ``ungrounded_values``
    of the later one. What was not calibrated is null, and without any there are no rows: no score without its control.
    """

    run: str
    n_chains: int
    seams: pa.Table
    calibration: Calibration
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def scores(self) -> tuple[Score, ...]:
        """What the seam scores are worth."""
        return self.calibration.scores

    @property
    def withheld(self) -> tuple[Withheld, ...]:
        """Scores without a control."""
        return self.calibration.withheld

    def batch(self) -> GraphBatch:
        """Rows for the graph: ``Gap`` and ``BEFORE``."""
        size = len(self.seams)
        best = self.calibration.best
        baseline = next((s.control for s in self.calibration.scores if s.name == best), math.nan)
        columns = {name: self.seams[name] for name in ("id", "chain", "step", "score", "rank", "bridge_nats")}
        for name in ("ungrounded", "value_surprisal", "context_gain", "premise_usefulness", "role_bigram"):
            columns[name] = self.seams[name]
        nodes = table_of(
            "Gap",
            {
                **columns,
                "run": [self.run] * size,
                "control_auc": [self.calibration.auc(best)] * size,
                "baseline_auc": [baseline] * size,
                "worth": [self.calibration.beside()] * size,
            },
        )
        steps = [
            step_key(c, s) for c, s in zip(self.seams["chain"].to_pylist(), self.seams["step"].to_pylist(), strict=True)
        ]
        return GraphBatch(
            nodes={"Gap": nodes},
            relationships={"BEFORE": table_of("BEFORE", {"start": self.seams["id"], "end": steps})},
        )

    def of(self, chain: str) -> Gaps:
        """Only the seams of one chain."""
        keep = pa.array([name == chain for name in self.seams["chain"].to_pylist()], pa.bool_())
        return replace(self, seams=self.seams.filter(keep))

    def report(self) -> Report:
        """The seams with both neighbours and what is not grounded, and what the ranking is worth."""
        columns = {"chain": "chain", "step": "before step", "score": "score", "rank": "place in its chain (0 = first)"}
        if self.seams["bridge_nats"].null_count < len(self.seams):
            shown = "" if self.calibration.size_shown else ", size not shown"
            columns["bridge_nats"] = f"bridge (nats{shown})"
        columns |= {"ungrounded_values": "not grounded", "before": "the step before", "after": "the step after"}
        return Report(
            "gaps",
            self._verdict(),
            {
                "run": self.run,
                "n_chains": self.n_chains,
                "n_seams": len(self.seams),
                "ranked_by": self.calibration.best,
                "worth": self.calibration.beside(),
                "calibration": self.calibration.stored(),
            },
            (
                ReportTable(
                    "seams",
                    self.seams,
                    f"{counted(len(self.seams), 'seam')}, most gap-like first",
                    columns,
                    ranked=("score", self.seams["score"].to_pylist()),
                ),
            ),
            self.scores,
            self.withheld,
            self.notes,
            evidence=self.calibration.report().evidence,
        )

    def _verdict(self) -> str:
        worth = self.calibration.worth()
        if not len(self.seams):
            return worth
        alike = leading(self.seams["score"].to_pylist())
        if alike == len(self.seams) > 1:
            return f"no seam is the most gap-like: all {alike} have the same score; {worth}"
        first = self.seams.slice(0, 1).to_pylist()[0]
        found = f"the seam before step {first['step']} of {first['chain']}"
        if first["ungrounded_values"]:
            values = first["ungrounded_values"]
            found += f", where {', '.join(values)} {'is' if len(values) == 1 else 'are'} not grounded"
        if alike > 1:
            found += f" (as gap-like as {alike - 1} more)"
        # what is worth nothing does not come first
        return f"most gap-like is {found}; {worth}" if worth.startswith("ranked") else f"{worth}; first comes {found}"


def find_gaps(traces: Iterable[Trace], calibration: Calibration | None = None) -> Gaps:
    """Every seam with its scores, ranked within its chain by the calibrated combination.

    Without a calibration the scores that need no model are calibrated here, and only they rank; a calibration of another run
    is refused (UsageError).
    """
    corpus = sorted(one_instrument(traces), key=lambda trace: trace.chain.id)
    run = corpus[0].run if corpus else ""
    calibration = calibration or calibrate(corpus)
    if calibration.run and run and calibration.run != run:
        raise UsageError(
            f"the calibration is of run {calibration.run}, the traces are of run {run}: "
            f"run: trails gaps --calibrate --run {run}"
        )
    notes = []
    short = sum(len(trace.steps) < 2 for trace in corpus)
    if short:
        notes.append(f"{part_of(short, len(corpus), 'chain', 'has', 'have')} one step and therefore no seam")
    if not any(trace.nll_given_all is not None for trace in corpus):
        notes.append(
            "no premises were measured; context_gain and premise_usefulness need them, run: trails ingest PATH --premises"
        )
    if unshown := calibration.size_unshown():
        notes.append(unshown)
    if calibration.auc("no model") > calibration.auc(calibration.best):
        notes.append(
            f"this calibration ranks by {calibration.best!r}, and the scores without a model are worth more on this corpus; "
            "let it choose, run: trails gaps --calibrate"
        )
    known = background(corpus)
    table = seam_table(
        (seam_scores(trace, known, trace), number, None) for number, trace in enumerate(corpus) if len(trace.steps) > 1
    )
    empty = not calibration.features or not len(table.chain)
    if empty:
        table = seam_table(())
        score, rank = np.empty(0), np.empty(0, np.int64)
    else:
        combined = np.zeros(len(table.chain))
        for name, weight in zip(calibration.features, calibration.weights, strict=True):
            combined += weight * ranked_in_chain(table.values[name], table.chain)
        score = (ranks(combined) - 1) / max(len(combined) - 1, 1)
        rank = _rank_in_chain(combined, table.chain)
    names = [corpus[number].chain.id for number in table.chain]
    columns: dict[str, Any] = {
        "id": pa.array(
            [f"g{content_key(run, chain, step)}" for chain, step in zip(names, table.step.tolist(), strict=True)],
            pa.string(),
        ),
        "chain": pa.array(names, pa.string()),
        "step": table.step.astype(np.int64),
        "score": np.asarray(score, np.float64),
        "rank": np.asarray(rank, np.int64),
        "bridge_nats": table.values["bridge_nats"],
        **{name: table.values[name] * SIGN[name] for name in NAMES},
    }
    # What was not calibrated has no control, and is not handed out.
    for name in (*NAMES, "bridge_nats"):
        if name not in calibration.calibrated:
            columns[name] = np.full(len(table.chain), np.nan)
    for name in (*NAMES, "bridge_nats"):
        columns[name] = pa.array(columns[name], mask=~np.isfinite(columns[name]))  # undefined is absent, not NaN
    places = list(zip(table.chain.tolist(), table.step.tolist(), strict=True))
    lacking = {
        number: ungrounded_values(corpus[number].chain, corpus[number].steps) for number in set(table.chain.tolist())
    }
    columns["ungrounded_values"] = pa.array([lacking[n][step] for n, step in places], pa.list_(pa.string()))
    for name, back in (("before", 1), ("after", 0)):
        columns[name] = pa.array([_step_text(corpus[n], step - back) for n, step in places], pa.string())
    seams = pa.table(columns)
    by = np.lexsort((table.step, table.chain, -np.asarray(score))) if len(table.chain) else np.empty(0, np.int64)
    return Gaps(run, len(corpus), seams.take(pa.array(by)), calibration, tuple(notes))


def _step_text(trace: Trace, index: int) -> str:
    step = trace.steps[index]
    return trace.chain.text[step.start : step.end].strip()


def _rank_in_chain(combined: Doubles, chain: Longs) -> Longs:
    """0 for the largest value of each chain, ties by place."""
    order = np.lexsort((np.arange(len(chain)), -combined, chain))
    result = np.empty(len(chain), np.int64)
    begins = np.flatnonzero(np.append(True, chain[order][1:] != chain[order][:-1]))
    result[order] = np.arange(len(chain)) - np.repeat(begins, np.diff(np.append(begins, len(chain))))
    return result
