"""Does a model recall how a chain ends? Prefix → conclusion on unseen chains, beside the untrained model and a shuffled LoRA.

The prefix is the context as the run measured it and every step but the last; the conclusion is the last step. A row
scores its mean surprisal
(nats), the share of its tokens that are the model's first choice, and whether greedy decoding gives the conclusion exactly.
A LoRA that learnt the walk, not the words, must beat both the untrained model and a LoRA trained on the same chains with
their steps shuffled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trails.errors import UsageError
from trails.evaluate.diff import interval
from trails.evaluate.groups import check_export, exported_chains
from trails.evaluate.probe import continuations
from trails.measure.base import Segmented
from trails.measure.context import Contexts
from trails.measure.huggingface import HuggingFaceScorer
from trails.train import check_adapter, put_adapter
from trails.train.check import check_base
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
    """Context and all steps but the last as context, the last step as labels; None for a chain of one step, one that is longer
    than ``max_tokens``, or one whose last step has no token of its own."""
    if len(item.steps) < 2:
        return None
    row = contexts.row(item, labelled_from=len(item.steps) - 1)
    if row.labelled_from >= row.length or (max_tokens and row.length > max_tokens):
        return None
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


def verdict(rows: Sequence[RecallRow], trained: str, controls: Sequence[str]) -> str:
    """One sentence: did the trained model recall better than every control?"""
    row = next(row for row in rows if row.name == trained)
    lost = [name for name in controls if not row.against[name][2] < 0]
    if not lost:
        return f"{trained} recalls conclusions better than {' and '.join(controls)}: every interval lies below 0."
    return f"{trained} was not shown to recall conclusions better than {' and '.join(lost)}."


@dataclass(frozen=True, slots=True)
class Recall:
    """How well conclusions of unseen chains were recalled, one row per model, and the verdict in words. ``trained_on`` chains
    of the selection were left out because the export holds them; None when no export was given to compare with.
    """

    rows: tuple[RecallRow, ...]
    verdict: str
    trained_on: int | None

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        rows = [{n: getattr(row, n) for n in row.__slots__} for row in self.rows]
        return {"rows": rows, "verdict": self.verdict, "left_out_as_trained_on": self.trained_on}


def recall_of(
    items: Sequence[Segmented],
    scorer: HuggingFaceScorer,
    adapter: Path,
    *,
    shuffled: Path | None = None,
    exported: Path | None = None,
    max_tokens: int = 1024,
) -> Recall:
    """Score the conclusions of chains with the untrained model, the adapter, and the control trained on shuffled steps.

    With ``exported``, the export that the adapter was trained on, its chains are left out; UsageError when it is another
    export than the one in the adapter's record. Raises UsageError when no chain is left, ModelError for an adapter that was
    trained on another model.
    """
    for folder in filter(None, (adapter, shuffled)):
        check_base(check_adapter(folder), scorer.run)
    left = list(items)
    if exported is not None:
        check_export(exported, [adapter, *([shuffled] if shuffled else [])])
        trained = exported_chains(exported)
        left = [item for item in items if item.chain.id not in trained]
    rows = [row for item in left if (row := conclusion_row(scorer.contexts, item, max_tokens)) is not None]
    if not rows:
        raise UsageError(
            f"of {len(items)} chains {len(left)} were not trained on, and none of those has two steps or more within "
            f"{max_tokens} tokens. Give another selection, or --max-tokens 0."
        )
    results = {"untrained": recall(scorer.model.module, rows)}
    model = put_adapter(scorer.model.module, adapter, "trained")
    results["trained"] = recall(model, rows)
    if shuffled is not None:
        model = put_adapter(model, shuffled, "shuffled")
        results["shuffled"] = recall(model, rows)
    found = summary(results)
    sentence = verdict(found, "trained", [name for name in results if name != "trained"])
    return Recall(tuple(found), sentence, len(items) - len(left) if exported is not None else None)
