"""A toy analysis: everything that adding one takes, but for its line in ``ANALYSES``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score
from trails.schema import Trace


@dataclass(frozen=True, slots=True)
class Lengths(Finding):
    """Tokens of every chain."""

    table: pa.Table
    score: Score

    def report(self) -> Report:
        """The longest chains, and whether chains differ in length beyond chance."""
        said = "chains differ in length" if self.score.beyond() else "chains differ in length no more than random ones"
        return Report(
            "lengths", said, {"n_chains": len(self.table)}, (ReportTable("chains", self.table),), (self.score,)
        )


def lengths(
    traces: Iterable[Trace],
    least: Annotated[int, "Shortest chain to count."] = 1,
    unit: Annotated[Literal["tokens", "steps"], "What to count."] = "tokens",
) -> Lengths:
    """How long chains are."""
    found = [(t.chain.id, t.n_tokens if unit == "tokens" else len(t.steps)) for t in traces]
    kept = [(name, size) for name, size in found if size >= least]
    sizes = np.array([size for _, size in kept])
    random = np.random.default_rng(0).poisson(sizes.mean(), 1000)
    score = Score("spread", float(sizes.std()), unit, (Control("Poisson lengths", float(random.std())),))
    return Lengths(pa.table({"chain": [name for name, _ in kept], "size": sizes}), score)
