"""The initiation of a course as a 2 × 2 design: with and without the stages before it, with and without the stage itself.

What is left out of a cell is filled with other reasoning text of as many tokens, so that all four cells train on the same
number of tokens. What counts is the interaction, not the main effects: is the stage worth more after the stages that it is to
come after than without them?

    interaction = (both - stages alone) - (stage alone - neither)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np
import pyarrow as pa

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.statistics import bootstrap, how_drawn, how_resampled, spread
from trails.platform.arrays import Doubles
from trails.platform.text import counted

Cell = Literal["both", "stages", "dialogues", "neither"]
CELLS: tuple[Cell, ...] = ("both", "stages", "dialogues", "neither")
"""What is the course's own in a cell: the stages before and the stage after them, one of the two, or none."""

LEAST_SEEDS = 5
DRAWS = 2_000


@dataclass(frozen=True, slots=True)
class Initiation(Finding):
    """Values of the four cells by seed, nats per token, and the interaction beside its null."""

    values: Mapping[int, Mapping[Cell, float]]
    scores: tuple[Score, ...]
    withheld: tuple[Withheld, ...]

    def report(self) -> Report:
        """The verdict first."""
        means = {cell: float(np.mean([of[cell] for of in self.values.values()])) for cell in CELLS}
        if self.scores:
            score = self.scores[0]
            low, high = score.interval or (float("nan"), float("nan"))
            reach = score.controls[0].interval or (0.0, 0.0)
            shown = (low > 0 and score.value > reach[1]) or (high < 0 and score.value < reach[0])
            verdict = (
                f"interaction {score.value:+.4f} nats a token ({low:+.4f} to {high:+.4f}, "
                f"{counted(len(self.values), 'seed')}): " + ("shown" if shown else "not shown")
            )
        else:
            verdict = f"interaction not judged: {self.withheld[0].reason}"
        rows = [{"seed": str(seed), **{cell: of[cell] for cell in CELLS}} for seed, of in sorted(self.values.items())]
        rows.append({"seed": "mean", **means})
        return Report(
            "initiation",
            verdict,
            facts={"n_seeds": len(self.values)},
            tables=(ReportTable("cells", pa.Table.from_pylist(rows), "gain minus damage, nats per token"),),
            scores=self.scores,
            withheld=self.withheld,
            notes=("A floor or a ceiling in one cell makes an interaction; look at the four means.",),
        )


def interaction(of: Mapping[Cell, float]) -> float:
    """How much more the stage is worth after the stages than without them."""
    return (of["both"] - of["stages"]) - (of["dialogues"] - of["neither"])


def judge(values: Mapping[int, Mapping[Cell, float]], *, seed: int = 0) -> Initiation:
    """Hold the mean interaction over seeds against that of cells which change places by chance within every seed.

    Seeds without all four cells do not count. Fewer than five seeds have no score.
    """
    whole = {n: of for n, of in values.items() if all(cell in of for cell in CELLS)}
    if len(whole) < LEAST_SEEDS:
        reason = f"{counted(len(whole), 'whole seed')}; {LEAST_SEEDS} are needed"
        return Initiation(whole, (), (Withheld("interaction", reason),))
    found = [interaction(of) for of in whole.values()]
    places = list(permutations(range(4)))
    rng = np.random.default_rng(seed)
    table = np.array([[of[cell] for cell in CELLS] for of in whole.values()])
    signs = np.array([1.0, -1.0, -1.0, 1.0])
    shuffled = np.array([[row[list(place)] @ signs for place in places] for row in table])
    drawn = shuffled[np.arange(len(table)), rng.integers(0, len(places), (DRAWS, len(table)))].mean(axis=1)
    score = Score(
        "interaction",
        float(np.mean(found)),
        "nats per token",
        (
            Control(
                "cells that change places within a seed",
                float(drawn.mean()),
                spread(drawn),
                how_drawn("random orders of the four cells, one a seed", DRAWS, seed),
            ),
        ),
        bootstrap(found),
        note="interval over seeds",
        how=how_resampled("seeds of training"),
    )
    return Initiation(whole, (score,), ())


def first_mismatches(turn: Doubles, count: int) -> list[int]:
    """Which rows of a stage come first: at most ``count`` of those that contradict, the most surprising contradiction first.

    ``turn`` (rows,) is the surprisal of each row's contradiction, NaN where it has none; of equal ones the earlier comes first.
    """
    turning = np.flatnonzero(np.isfinite(turn))
    ranked: list[int] = turning[np.lexsort((turning, -turn[turning]))].tolist()
    return ranked[:count]


def filled(lengths: Sequence[int], tokens: int) -> list[int]:
    """Tokens to take of texts with these lengths, in order, until ``tokens`` are together; the last is cut.

    Raises ValueError where all of them are too few.
    """
    taken: list[int] = []
    left = tokens
    for length in lengths:
        if left <= 0:
            break
        taken.append(min(length, left))
        left -= taken[-1]
    if left > 0:
        raise ValueError(f"{tokens - left:,} of {counted(tokens, 'token')}")
    return taken
