"""Does a model recall how a chain ends? Prefix → conclusion on unseen chains, beside the untrained model and a shuffled LoRA.

The prefix is the question and every step but the last; the conclusion is the last step. A row scores its mean surprisal
(nats), the share of its tokens that are the model's first choice, and whether greedy decoding gives the conclusion exactly.
A LoRA that learnt the walk, not the words, must beat both the untrained model and a LoRA trained on the same chains with
their steps shuffled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trails.evaluate.diff import interval
from trails.evaluate.probe import continuations
from trails.measure.base import Segmented
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


def conclusion_row(tokenizer: Any, item: Segmented, max_tokens: int = 0) -> Row | None:
    """Question and all steps but the last as context, the last step as labels; None for a chain of one step, or one that is
    longer than ``max_tokens``."""
    if len(item.steps) < 2:
        return None
    chain, last = item.chain, item.steps[-1]
    context = tokenizer(chain.question + "\n", add_special_tokens=False)["input_ids"] if chain.question else []
    encoded = tokenizer(chain.text, add_special_tokens=False, return_offsets_mapping=True)
    ids = list(encoded["input_ids"])
    first = next((i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > last.start), len(ids))
    if first >= len(ids) or len(context) + first == 0 or (max_tokens and len(context) + len(ids) > max_tokens):
        return None
    whole = [*context, *ids]
    start = len(context) + first
    return {
        "input_ids": whole,
        "labels": [-100] * start + whole[start:],
        "loss_weights": [0.0] * start + [1.0] * (len(whole) - start),
        "step_spans": [{"step": 0, "start": len(context), "end": len(whole), "role": "NONE"}],
        "offset": len(context),
        "chain": chain.id,
        "layers": [],
    }


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
