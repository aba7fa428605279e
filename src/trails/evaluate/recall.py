"""Does a model recall how a chain ends? Prefix → conclusion on unseen chains, with the untrained model and a shuffled LoRA.

The prefix is the context as the run measured it and every step but the last; the conclusion is the last step. A row scores
its mean surprisal (nats), the share of its tokens that are the model's first choice, and whether greedy decoding gives the
conclusion exactly.
A LoRA that learnt the walk, not the words, must beat both the untrained model and a LoRA trained on the same chains with
their steps shuffled.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.statistics import Interval, how_resampled
from trails.errors import UsageError
from trails.evaluate.diff import INTERVAL_DRAWS, interval
from trails.evaluate.groups import check_trained, not_trained_on, said_left_out
from trails.evaluate.probe import continuations
from trails.measure.base import Segmented
from trails.measure.context import Contexts
from trails.measure.huggingface import HuggingFaceScorer
from trails.platform.text import counted
from trails.train import put_adapter
from trails.train.data import Collator, Row
from trails.train.loss import labelled_logits, shifted, token_nll


@dataclass(frozen=True, slots=True)
class Recalled:
    """How well one conclusion was recalled: mean surprisal (nats per token), share of first choices, exact greedy match."""

    nll: float
    first_choice: float
    exact: bool


@dataclass(frozen=True, slots=True)
class RecallRow:
    """One model over all rows. ``against`` maps the other models to the paired difference of surprisal (this - other) and its
    95 % interval over chains.
    """

    name: str
    chains: int
    nll: float
    first_choice: float
    exact: float
    against: Mapping[str, tuple[float, float, float]]


def conclusion_row(contexts: Contexts, item: Segmented, max_tokens: int = 0) -> Row | None:
    """Context and all steps but the last as context, the last step as labels; None where :func:`conclusion_or_why` says why."""
    found = conclusion_or_why(contexts, item, max_tokens)
    return None if isinstance(found, str) else found


ONE_STEP, TOO_LONG, NO_TOKEN = "one_step", "longer_than_max_tokens", "last_step_without_a_token"
LEFT_OUT = {
    "trained_on": "trained on",
    ONE_STEP: "of one step, so without a conclusion",
    TOO_LONG: "longer than --max-tokens",
    NO_TOKEN: "with a last step that has no token of its own",
    "not_measured": "not measured by the run",
}
"""Why a chain of the selection is not scored, in words."""


def conclusion_or_why(contexts: Contexts, item: Segmented, max_tokens: int = 0) -> Row | str:
    """The row of :func:`conclusion_row`, or the reason of :data:`LEFT_OUT` for which a chain has none: it has one step, it is
    longer than ``max_tokens`` with its context, or its last step has no token of its own."""
    if len(item.steps) < 2:
        return ONE_STEP
    row = contexts.row(item, labelled_from=len(item.steps) - 1)
    if row.labelled_from >= row.length:
        return NO_TOKEN
    if max_tokens and row.length > max_tokens:
        return TOO_LONG
    return row.record()


def recall(model: Any, rows: Sequence[Row], *, exact: bool = True) -> list[Recalled]:
    """Score every row. ``exact`` decodes as many tokens as the conclusion has, greedily (slow; otherwise always False)."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    found = []
    for row in rows:
        batch = {k: v.to(device) for k, v in Collator()([row]).items() if torch.is_tensor(v)}
        predicts, targets, _ = shifted(batch["labels"], batch["loss_weights"])
        with torch.inference_mode(), labelled_logits(base, predicts):
            logits = model(
                input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
            ).logits[0]
            nll = float(token_nll(logits, targets).mean())
            hits = logits.argmax(-1) == targets
        match = bool(hits.all())
        if exact and match:  # greedy decoding can only match where every token is the first choice
            start = len(row["input_ids"]) - len(targets)
            match = continuations(model, [row["input_ids"][:start]], len(targets))[0] == row["input_ids"][start:]
        found.append(Recalled(nll, float(hits.float().mean()), match))
    model.train(was_training)
    return found


def summary(results: Mapping[str, Sequence[Recalled]]) -> list[RecallRow]:
    """One row per model, each against every other by paired differences over chains."""
    rows = []
    for name, found in results.items():
        against = {
            other: interval([a.nll - b.nll for a, b in zip(found, values, strict=True)])
            for other, values in results.items()
            if other != name
        }
        n = max(len(found), 1)
        rows.append(
            RecallRow(
                name,
                len(found),
                float(np.mean([r.nll for r in found])) if found else math.nan,
                sum(r.first_choice for r in found) / n,
                sum(r.exact for r in found) / n,
                against,
            )
        )
    return rows


def verdict(rows: Sequence[RecallRow]) -> str:
    """One sentence: did the trained model recall better than every other? A difference counts where its interval lies on one
    side of 0.
    """
    row = next(row for row in rows if row.name == TRAINED)
    others = [other for other in rows if other.name != TRAINED]
    better = [other.name for other in others if row.against[other.name][2] < 0]
    worse = [other.name for other in others if row.against[other.name][1] > 0]
    open_ = [other.name for other in others if other.name not in better + worse]
    said = [
        f"{how} {' and '.join(map(_THE.__getitem__, names))}"
        for how, names in (
            ("recalls conclusions better than", better),
            ("recalls conclusions worse than", worse),
            ("is not shown to recall conclusions better than", open_),
        )
        if names
    ]
    differences = ", ".join(
        f"{other.name} {other.nll:.3f} (difference {row.against[other.name][0]:+.3f}, {_interval(row, other)})"
        for other in others
    )
    wording = (
        ""
        if len(others) > 1 or not better
        else "; without a control trained on shuffled steps that may be wording alone"
    )
    return (
        f"the trained model {' and '.join(said)}{wording}: {row.nll:.3f} nats per token over "
        f"{counted(row.chains, 'chain')}, {differences}"
    )


def _interval(row: RecallRow, other: RecallRow) -> str:
    _, low, high = row.against[other.name]
    if math.isfinite(low):
        return f"95 % {low:+.3f} to {high:+.3f}"
    return f"{row.chains:,} {'chain is' if row.chains == 1 else 'chains are'} too few for an interval"


TRAINED, UNTRAINED, SHUFFLED = "trained", "untrained", "shuffled"
_THE = {UNTRAINED: "the untrained one", SHUFFLED: "the one trained on shuffled steps"}


@dataclass(frozen=True, slots=True)
class Recall(Finding):
    """How well conclusions of unseen chains were recalled, one row per model. ``trained_on`` chains of the selection were left
    out because the export holds them; None when no export was given to compare with. ``left_out`` counts the other chains of
    the selection that were not scored, by the reasons of :data:`LEFT_OUT`.
    """

    rows: tuple[RecallRow, ...]
    trained_on: int | None
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def selected(self) -> int:
        """Chains of the selection: those scored and those left out."""
        return self.rows[0].chains + (self.trained_on or 0) + sum(self.left_out.values())

    def _counted(self) -> str:
        """Every chain of the selection, in one sentence."""
        left = {"trained_on": self.trained_on or 0, **self.left_out}
        parts = [f"{count:,} {LEFT_OUT[why]}" for why, count in left.items() if count]
        return f"{counted(self.selected, 'chain')} selected: " + ", ".join([f"{self.rows[0].chains:,} scored", *parts])

    def report(self) -> Report:
        """The verdict, every model, every paired difference, and the gain beside that of the shuffled control."""
        models = {name: [getattr(row, name) for row in self.rows] for name in _COLUMNS}
        pairs = [
            {"model": row.name, "against": other, "difference": mean, "low": low, "high": high}
            for row in self.rows
            for other, (mean, low, high) in row.against.items()
        ]
        by_name = {row.name: row for row in self.rows}
        scores, withheld = self._gain(by_name.get(SHUFFLED), by_name[TRAINED])
        return Report(
            "recall",
            verdict(self.rows),
            facts={
                "selected": self.selected,
                "scored": self.rows[0].chains,
                "left_out_as_trained_on": self.trained_on,
                "left_out": {why: self.left_out.get(why, 0) for why in LEFT_OUT if why != "trained_on"},
            },
            tables=(
                ReportTable(
                    "rows",
                    pa.table(models),
                    "surprisal of the conclusion, nats per token; share of first choices; share of exact greedy matches",
                    _COLUMNS,
                ),
                ReportTable(
                    "differences",
                    pa.Table.from_pylist(pairs, _PAIRS),
                    "surprisal of the trained model minus that of another, nats per token, paired over chains, 95 % interval",
                    {"against": "trained minus", "difference": "difference", "low": "low", "high": "high"},
                    shown=[pair["model"] == TRAINED for pair in pairs],
                ),
            ),
            scores=scores,
            withheld=withheld,
            notes=(said_left_out(self.trained_on), self._counted()),
        )

    def _gain(self, shuffled: RecallRow | None, trained: RecallRow) -> tuple[tuple[Score, ...], tuple[Withheld, ...]]:
        """What the training gained over the untrained model, beside what the same chains with shuffled steps gained."""
        if shuffled is None:
            reason = (
                "no adapter trained on shuffled steps was given (--shuffled); run: trails train EXPORT --shuffle-steps"
            )
            return (), (Withheld(GAIN, reason),)

        def gained(row: RecallRow) -> tuple[float, Interval | None]:
            mean, low, high = row.against[UNTRAINED]
            return -mean, (-high, -low) if math.isfinite(low) else None

        value, interval_ = gained(trained)
        how = how_resampled("held-out chains", draws=INTERVAL_DRAWS)
        control = Control("trained on shuffled steps", *gained(shuffled), f"the same chains, measured; {how}")
        return (Score(GAIN, value, "nats per token", (control,), interval_, how=how),), ()


GAIN = "gain over the untrained model"
_COLUMNS = {"name": "model", "chains": "chains", "nll": "nll", "first_choice": "first choice", "exact": "exact"}
_PAIRS = pa.schema(
    [
        *((name, pa.string()) for name in ("model", "against")),
        *((name, pa.float64()) for name in ("difference", "low", "high")),
    ]
)


def recall_of(
    items: Sequence[Segmented],
    scorer: HuggingFaceScorer,
    adapter: Path,
    *,
    shuffled: Path | None = None,
    exported: Path | None = None,
    max_tokens: int = 1024,
    selected: int = 0,
) -> Recall:
    """Score the conclusions of chains with the untrained model, the adapter, and the control trained on shuffled steps.

    With ``exported``, the export that the adapter was trained on, its chains are left out; UsageError when it is another
    export than the one in the adapter's record. Raises UsageError when no chain is left, ModelError for an adapter that was
    trained on another model. ``selected`` is the number of chains of the selection where the run did not measure all of them.
    """
    check_trained([folder for folder in (adapter, shuffled) if folder is not None], scorer.run, exported)
    left, trained_on = not_trained_on(items, exported)
    found = [conclusion_or_why(scorer.contexts, item, max_tokens) for item in left]
    rows = [row for row in found if not isinstance(row, str)]
    left_out = Counter(why for why in found if isinstance(why, str))
    left_out["not_measured"] = max(selected - len(items), 0)
    if not rows:
        whys = ", ".join(f"{count:,} {LEFT_OUT[why]}" for why, count in left_out.items() if count)
        raise UsageError(
            f"of {counted(max(selected, len(items)), 'chain')} {len(left)} were not trained on, and none of those has "
            "two steps or more within "
            f"{counted(max_tokens, 'token')}{f' ({whys})' if whys else ''}. Give another selection, or --max-tokens 0."
        )
    results = {UNTRAINED: recall(scorer.model.module, rows)}
    model = put_adapter(scorer.model.module, adapter, TRAINED)
    results[TRAINED] = recall(model, rows)
    if shuffled is not None:
        model = put_adapter(model, shuffled, SHUFFLED)
        results[SHUFFLED] = recall(model, rows)
    return Recall(tuple(summary(results)), trained_on, dict(left_out))
