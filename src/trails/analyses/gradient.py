"""What every token of a chain contributes to a target: gradient × input, beside what really happens when a token is replaced.

The map is a linear reading of a model that is not linear, so it never stands alone: tokens are replaced by the item that the
model holds most likely at their place, the target is scored again, and the rank correlation of the map with these real changes
stands beside the same of shuffled maps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.statistics import spearman
from trails.errors import ModelError, UsageError
from trails.measure.base import Scorer, Segmented
from trails.platform.arrays import Doubles, Floats, Longs

COMPLETE = 0.05
"""Deficit up to which integrated gradients count as converged."""

SHUFFLES = 1_000
FEWEST = 8
"""Replaced tokens below which a rank correlation is withheld."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is explained: ``name`` in words; tokens ``start`` to ``end`` of the chain, or those after it that are its answer."""

    name: str
    start: int
    end: int


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
            found = spearman(mine, real) if len(mine) >= FEWEST else math.nan
            if not math.isfinite(found):
                reason = f"{len(mine)} tokens were replaced, {FEWEST} with different changes are needed"
                withheld.append(Withheld(name, reason))
                continue
            generator = np.random.default_rng(0)
            chance = [spearman(generator.permutation(mine), real) for _ in range(SHUFFLES)]
            low, middle, high = (float(np.quantile(chance, q)) for q in (0.025, 0.5, 0.975))
            how = f"median and central 95 % of {SHUFFLES} shuffles over the replaced tokens, seed 0"
            control = Control("the map shuffled", middle, (low, high), how)
            scores.append(Score(name, found, "rank correlation with the real change", (control,)))
        if self.deficits and not self.converged:
            steps, deficit = self.deficits[-1]
            withheld.append(
                Withheld(
                    "integrated gradients", f"not converged: they lack {deficit:.0%} of the change after {steps} steps"
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
            agrees = "agrees" if by_size.beyond() else "was not shown to agree"
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
        tables = [ReportTable("tokens", pa.table(columns), "tokens by the size of gradient × input, nats")]
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


def target_of(item: Segmented, step_tokens: Any, n_tokens: int, asked: str, answer_tokens: int) -> Target:
    """The target by its name: ``conclusion`` (the last step), ``answer`` (what follows the chain), or a token's position.

    Raises UsageError for anything else, and for a target that the chain does not have.
    """
    name = item.chain.id
    if asked == "conclusion":
        start, end = (int(at) for at in step_tokens[-1])
        if len(step_tokens) < 2 or end <= start:
            raise UsageError(
                f"chain {name} has no conclusion after other steps. Give --target answer or a token's position."
            )
        return Target(f"the conclusion (step {len(step_tokens) - 1})", start, end)
    if asked == "answer":
        if not answer_tokens:
            raise UsageError(
                f"chain {name} has no answer beside its text. Give --target conclusion or a token's position."
            )
        return Target("the answer", n_tokens, n_tokens + answer_tokens)
    if asked.isascii() and asked.isdigit():
        at = int(asked)
        if not 0 < at < n_tokens:
            raise UsageError(
                f"token {at} was asked for, chain {name} has targets 1 to {n_tokens - 1} (token 0 has none before)."
            )
        return Target(f"token {at}", at, at + 1)
    raise UsageError(f"target {asked!r} does not exist. Targets: conclusion, answer, or a token's position.")


def gradient(
    scorer: Scorer, item: Segmented, *, target: str = "conclusion", replace: int = 48, integrate: int = 0
) -> Gradient:
    """The map of a target over a chain, in the context in which the scorer measures it.

    ``replace`` tokens before the target, evenly spread, are replaced for the control; the answer follows the chain after a line
    feed. ``integrate`` bounds the steps of integrated gradients; 0 takes none. Raises ModelError for a scorer without a model
    and for a sequence beyond its window, UsageError for a target that does not exist.
    """
    from trails.measure.gradient import input_gradient, integrated_gradients, likeliest_others, likelihoods
    from trails.measure.huggingface import HuggingFaceScorer

    if not isinstance(scorer, HuggingFaceScorer):
        raise ModelError("gradients need a language model; this scorer has none. Leave out --model uniform.")
    row = scorer.sequence(item).row
    text, model = scorer.model.text, scorer.model
    answer = text.ids(f"\n{item.chain.answer}") if target == "answer" and item.chain.answer else []
    n, before = len(row.tokens), len(row.context)
    aim = target_of(item, row.step_tokens, n, target, len(answer))
    ids = np.concatenate((row.ids, np.asarray(answer, np.int64)))
    if scorer.run.max_tokens and len(ids) > scorer.run.max_tokens:
        raise ModelError(
            f"chain {item.chain.id} has {len(ids)} tokens with context and target, the window of {scorer.run.model} is "
            f"{scorer.run.max_tokens}. Choose a shorter chain."
        )
    first = before + aim.start
    rows = slice(first - 1, before + aim.end - 1)
    found = input_gradient(model, ids, rows)
    chain = slice(before, before + n)
    able = np.arange(max(before, 1), first)
    places = able[np.unique(np.linspace(0, len(able) - 1, min(replace, len(able))).round().astype(np.int64))]
    others = likeliest_others(model, ids, places) if len(places) else places
    changed = [np.where(np.arange(len(ids)) == place, other, ids) for place, other in zip(places, others, strict=True)]
    change = likelihoods(model, [ids, *changed], rows)
    integrated, deficits = None, []
    if integrate:
        for step in integrated_gradients(model, ids, rows, slice(before, first), integrate):
            integrated = step.effect[chain].astype(np.float32)
            deficits.append((step.steps, step.deficit))
            if step.deficit <= COMPLETE:
                break
    return Gradient(
        chain=item.chain.id,
        run=scorer.run.id,
        target=aim,
        log_likelihood=found.value,
        pieces=row.tokens.pieces,
        effect=found.effect[chain].astype(np.float32),
        norm=found.norm[chain].astype(np.float32),
        replaced=places - before,
        by=text.pieces(others.tolist()),
        change=change[1:] - change[0],
        integrated=integrated,
        deficits=tuple(deficits),
    )
