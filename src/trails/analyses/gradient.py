"""What every token of a chain contributes to a target: gradient × input, beside what really happens when a token is replaced.

The map is a linear reading of a model that is not linear, so it never stands alone: tokens are replaced by the item that the
model holds most likely at their place, the target is scored again, and the rank correlation of the map with these real changes
stands beside the same of shuffled maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.statistics import generator, of_each, spearman
from trails.errors import ModelError
from trails.measure.base import Scorer, Segmented
from trails.platform.arrays import Doubles, Floats, Longs
from trails.platform.text import counted, percent
from trails.schema import Trace

if TYPE_CHECKING:
    from trails.measure.targets import Target

COMPLETE = 0.05
"""Deficit up to which integrated gradients count as converged."""

SHUFFLES = 1_000
FEWEST = 8
"""Replaced tokens below which a rank correlation is withheld."""


def agreement(
    effect: Floats | Doubles, replaced: Longs, change: Floats | Doubles, draws: int = SHUFFLES
) -> Score | None:
    """How well the sizes of a map (n,) go with those of the real changes (m,) of replaced tokens: their rank correlation,
    beside that of the map shuffled. None for fewer than :data:`FEWEST` replaced tokens, or where one side does not vary.
    """
    mine, real = np.abs(np.asarray(effect, np.float64)[replaced]), np.abs(np.asarray(change, np.float64))
    return _agreement("gradient × input, size", mine, real, draws)


def _agreement(name: str, mine: Doubles, real: Doubles, draws: int) -> Score | None:
    found = spearman(mine, real) if len(mine) >= FEWEST else math.nan
    if not math.isfinite(found):
        return None
    rng = np.random.default_rng(0)
    chance = [spearman(rng.permutation(mine), real) for _ in range(draws)]
    low, middle, high = (float(np.quantile(chance, q)) for q in (0.025, 0.5, 0.975))
    how = f"median and central 95 % of {draws} shuffles over the replaced tokens, seed 0"
    control = Control("the map shuffled", middle, (low, high), how)
    return Score(name, found, "rank correlation with the real change", (control,))


def kept_agreement(trace: Trace, of: str = "size") -> Score | None:
    """Rank correlation of the map that a trace keeps with the real changes, beside that of the map shuffled: ``size`` of the
    effect as in :func:`agreement`, ``sign`` the effect with its sign (a token that raises the target lowers it when replaced),
    ``norm`` the gradient norm with the sizes of the changes. None where the trace keeps none or too few tokens were replaced.
    """
    kept = "norm" if of == "norm" else "effect"
    values, replaced, change = (trace.array(f"gradient_{name}") for name in (kept, "replaced", "change"))
    if values is None or replaced is None or change is None:
        return None
    if of == "size":
        return agreement(values, replaced.astype(np.int64), change)
    mine, real = values.astype(np.float64)[replaced], change.astype(np.float64)
    if of == "norm":
        return _agreement("gradient norm", mine, np.abs(real), SHUFFLES)
    return _agreement("gradient × input, with its sign", mine, -real, SHUFFLES)


class Agreements:
    """The mean over chains of the rank correlation of kept maps with the real changes, beside that of shuffled maps. A chain
    is taken as it comes, in any order, and nothing of it is kept.
    """

    def __init__(self, draws: int = 200) -> None:
        self._found, self._chance = 0.0, np.zeros(draws)
        self.n_chains = self.without = 0

    def add(self, trace: Trace) -> None:
        """Take the map of a trace; one without a map, or with too few replaced tokens, is counted as without."""
        effect, replaced, change = (trace.array(f"gradient_{name}") for name in ("effect", "replaced", "change"))
        if effect is None or replaced is None or change is None:
            return
        mine, real = np.abs(effect.astype(np.float64)[replaced]), np.abs(change.astype(np.float64))
        found = spearman(mine, real) if len(mine) >= FEWEST else math.nan
        if not math.isfinite(found):
            self.without += 1
            return
        self.n_chains += 1
        self._found += found
        draw = generator(0, "gradient: map shuffled", trace.chain.id)
        self._chance += [spearman(draw.permutation(mine), real) for _ in range(len(self._chance))]

    def score(self) -> Score | None:
        """The mean and its control; None before a chain with a map was taken."""
        if not self.n_chains:
            return None
        low, middle, high = (float(np.quantile(self._chance / self.n_chains, q)) for q in (0.025, 0.5, 0.975))
        drawn = len(self._chance)
        how = f"median and central 95 % of {drawn} means over chains, the replaced tokens of each shuffled, seed {of_each(0)}"
        control = Control("the maps shuffled", middle, (low, high), how)
        name = "rank correlation of gradient × input with what replacing tokens does, mean over chains"
        return Score(name, self._found / self.n_chains, "", (control,))


@dataclass(frozen=True, slots=True)
class Gradient(Finding):
    """The map of a target over the n tokens of a chain.

    ``effect`` (n,): gradient × input, nats; above 0 = the token, as it is embedded, raises the target's log-likelihood.
    ``norm`` (n,): length of the gradient. Both are exactly 0 for tokens that no token of the target sees. ``replaced``,
    ``by`` and ``change`` (m,): positions, the text put there, and the log-likelihood of the target minus what it was, nats.
    ``integrated`` are the integrated gradients of the last number of steps with ``deficits`` by number of steps.
    """

    chain: str
    run: str
    target: Target
    log_likelihood: float
    pieces: tuple[str, ...]
    effect: Floats
    norm: Floats
    replaced: Longs
    by: tuple[str, ...]
    change: Doubles
    integrated: Floats | None = None
    deficits: tuple[tuple[int, float], ...] = ()

    @property
    def converged(self) -> bool:
        """Whether the last integrated gradients are complete within :data:`COMPLETE`."""
        return bool(self.deficits) and self.deficits[-1][1] <= COMPLETE

    def scores(self) -> tuple[tuple[Score, ...], tuple[Withheld, ...]]:
        """Rank correlations of each map with the real changes, beside those of the map shuffled."""
        maps = {
            "gradient × input, with its sign": (self.effect, -self.change),
            "gradient × input, size": (np.abs(self.effect), np.abs(self.change)),
            "gradient norm": (self.norm, np.abs(self.change)),
        }
        if self.integrated is not None and self.converged:
            maps["integrated gradients, with their sign"] = (self.integrated, -self.change)
        scores, withheld = [], []
        for name, (values, real) in maps.items():
            mine = np.asarray(values, np.float64)[self.replaced]
            score = _agreement(name, mine, real, SHUFFLES)
            if score is None:
                reason = (
                    f"{counted(len(mine), 'token was', 'tokens were')} replaced, {FEWEST} with different changes "
                    "are needed"
                )
                withheld.append(Withheld(name, reason))
                continue
            scores.append(score)
        if self.deficits and not self.converged:
            steps, deficit = self.deficits[-1]
            withheld.append(
                Withheld(
                    "integrated gradients",
                    f"not converged: they lack {percent(deficit)} of the change after {counted(steps, 'step')}",
                )
            )
        return tuple(scores), tuple(withheld)

    def report(self) -> Report:
        """The verdict tells whether the map agrees with real replacements; tokens by the size of their effect."""
        scores, withheld = self.scores()
        by_size = next((score for score in scores if score.name == "gradient × input, size"), None)
        if by_size is None:
            verdict = f"not judged: too few tokens stand before {self.target.name} to replace"
        else:
            reach = by_size.controls[0].reach
            agrees = "agrees in size" if by_size.beyond() else "was not shown to agree in size"
            verdict = (
                f"the map of {self.target.name} {agrees} with what replacing tokens does: rank correlation "
                f"{by_size.value:.2f}, a shuffled map reaches {reach:.2f}"
            )
        order = np.lexsort((np.arange(len(self.effect)), -np.abs(self.effect)))
        columns: dict[str, Any] = {
            "token": order,
            "piece": [self.pieces[at] for at in order],
            "effect": self.effect[order].astype(np.float64),
            "norm": self.norm[order].astype(np.float64),
        }
        if self.integrated is not None:
            columns["integrated"] = self.integrated[order].astype(np.float64)
        real = pa.table(
            {
                "token": self.replaced,
                "piece": [self.pieces[at] for at in self.replaced],
                "replaced by": list(self.by),
                "change": self.change,
                "effect": self.effect[self.replaced].astype(np.float64),
            }
        )
        title = "tokens by the size of gradient × input, nats"
        ranked = ("size", np.abs(self.effect[order]).tolist())
        tables = [ReportTable("tokens", pa.table(columns), title, ranked=ranked)]
        if len(real):
            tables.append(
                ReportTable("replaced", real, "real change of the target's log-likelihood, nats", detail=True)
            )
        if self.deficits:
            steps = {"steps": [n for n, _ in self.deficits], "deficit": [d for _, d in self.deficits]}
            tables.append(
                ReportTable("deficits", pa.table(steps), "what integrated gradients lack, as a share of the change")
            )
        maps = {"gradient effect": self.effect, "gradient norm": self.norm}
        if self.integrated is not None and self.converged:
            maps["integrated gradients"] = self.integrated
        return Report(
            "gradient",
            verdict,
            facts={
                "chain": self.chain,
                "run": self.run,
                "target": self.target.name,
                "n_tokens": len(self.effect),
                "log_likelihood": self.log_likelihood,
            },
            tables=tuple(tables),
            scores=scores,
            withheld=withheld,
            notes=(
                f"The target's log-likelihood is {self.log_likelihood:.3f} nats. Gradient × input is a linear reading of a "
                "model that is not linear.",
            ),
            maps={self.chain: maps},
        )


def gradient(
    scorer: Scorer, item: Segmented, *, target: str = "conclusion", replace: int = 48, integrate: int = 0
) -> Gradient:
    """The map of a target over a chain, in the context in which the scorer measures it.

    ``replace`` tokens before the target, evenly spread, are replaced for the control; the answer follows the chain after a line
    feed. ``integrate`` bounds the steps of integrated gradients; 0 takes none. Raises ModelError for a scorer without a model
    and for a sequence beyond its window, UsageError for a target that does not exist.
    """
    from trails.measure.gradient import explain, integrated_gradients
    from trails.measure.huggingface import HuggingFaceScorer

    if not isinstance(scorer, HuggingFaceScorer):
        raise ModelError("gradients need a language model; this scorer has none. Leave out --model uniform.")
    row, model = scorer.sequence(item).row, scorer.model
    found = explain(model, row, item.chain, target, replace)
    before, n = len(row.context), len(row.tokens)
    integrated, deficits = None, []
    if integrate:
        changed = slice(before, found.first)
        for step in integrated_gradients(model, found.ids, found.rows, changed, integrate):
            integrated = step.effect[before : before + n].astype(np.float32)
            deficits.append((step.steps, step.deficit))
            if step.deficit <= COMPLETE:
                break
    return Gradient(
        chain=item.chain.id,
        run=scorer.run.id,
        target=found.target,
        log_likelihood=found.value,
        pieces=row.tokens.pieces,
        effect=found.effect,
        norm=found.norm,
        replaced=found.replaced,
        by=model.text.pieces(found.others.tolist()),
        change=found.change,
        integrated=integrated,
        deficits=tuple(deficits),
    )
