"""How much a step needs what stands before it: its NLL given the question alone, and without the step before it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from trails.errors import UnmeasurableError
from trails.measure.metrics import logit_statistics
from trails.measure.model import Model
from trails.measure.passes import TokenSequence
from trails.platform.arrays import Floats, Ints
from trails.platform.text import counted


@dataclass(frozen=True, slots=True)
class Premises:
    """NLL per token of every step (S,), nats: given the question alone, and given everything but the previous step."""

    given_question: Floats
    without_previous: Floats


@dataclass(frozen=True, slots=True)
class _Condition:
    """Step ``step`` (``begin`` … ``end``) after the context and the chain's first ``kept`` tokens. ``into`` takes its NLL."""

    into: Floats
    step: int
    kept: int
    begin: int
    end: int


def premises(model: Model, sequence: TokenSequence, first: float) -> Premises:
    """Measure every step of a sequence; ``first`` is the NLL per token of step 0, which both conditions leave as it is.

    Raises ModelError for a chain that does not fit into one window.
    """
    row = sequence.row
    spans = row.step_tokens
    found = Premises(np.full(len(spans), np.nan, np.float32), np.full(len(spans), np.nan, np.float32))
    if sequence.length > (model.max_tokens or math.inf):
        raise UnmeasurableError(
            f"chain {row.chain} has {counted(sequence.length, 'token')} with its context: premises need the whole "
            f"chain in one window of {model.name} ({counted(model.max_tokens, 'token')}). Leave out --premises for it."
        )
    conditions: list[_Condition] = []
    for step, (begin, end) in enumerate(spans.tolist()):
        if begin == end:
            continue
        if step == 0:
            found.given_question[0] = first
            continue
        conditions.append(_Condition(found.given_question, step, 0, begin, end))
        conditions.append(_Condition(found.without_previous, step, int(spans[step - 1, 0]), begin, end))
    if not conditions:
        return found
    score = _packed if packable(model, sequence) else _separate
    for condition, nll in zip(conditions, score(model, row.context.ids, row.tokens.ids, conditions), strict=True):
        condition.into[condition.step] = nll
    return found


def packable(model: Model, sequence: TokenSequence) -> bool:
    """Whether a 4-D mask and position ids say everything this model knows about order."""
    if not model.fused:
        return False
    window = getattr(model.config, "sliding_window", None) or getattr(model.config, "attention_chunk_size", None)
    return not (window and sequence.length > window)


def _packed(model: Model, context: Sequence[int], ids: Ints, conditions: Sequence[_Condition]) -> Iterator[float]:
    """All conditions of a chain in one pass: copies of the steps that see only what their condition leaves them."""
    c, n = len(context), len(ids)
    copies = sum(condition.end - condition.begin for condition in conditions)
    total = c + n + copies
    sequence = np.empty(total, np.int64)
    sequence[:c], sequence[c : c + n] = context, ids
    position = np.arange(total)
    mask = torch.zeros(total, total, dtype=torch.bool, device=model.device)
    mask[: c + n, : c + n] = torch.ones(c + n, c + n, dtype=torch.bool, device=model.device).tril_()
    rows, targets, counts = [], [], []
    at = c + n
    for condition in conditions:
        kept, begin, end = condition.kept, condition.begin, condition.end
        size = end - begin
        sequence[at : at + size] = ids[begin:end]
        position[at : at + size] = c + kept + np.arange(size)
        mask[at : at + size, : c + kept] = True
        mask[at : at + size, at : at + size] = torch.ones(size, size, dtype=torch.bool, device=model.device).tril_()
        before = [c + kept - 1] if c + kept else []  # what predicts the copy's first token
        predictors = [*before, *range(at, at + size - 1)]
        rows += predictors
        targets += ids[end - len(predictors) : end].tolist()
        counts.append(len(predictors))
        at += size
    hidden = model.hidden(
        model.tensor(sequence)[None],
        None,
        attention_mask=mask[None, None],
        position_ids=model.tensor(position)[None],
    )
    tile, block = model.tile()
    nll = (
        logit_statistics(
            model.logits,
            hidden[0, model.tensor(np.asarray(rows))],
            model.tensor(np.asarray(targets)),
            tile=tile,
            block=block,
            full_from=len(rows),
        )
        .surprisal.cpu()
        .numpy()
    )
    start = 0
    for count in counts:
        yield float(nll[start : start + count].mean()) if count else math.nan
        start += count


def _separate(model: Model, context: Sequence[int], ids: Ints, conditions: Sequence[_Condition]) -> Iterator[float]:
    """One sequence per condition: slower, for models whose order is not said by position ids."""
    tile, block = model.tile()
    for condition in conditions:
        kept, begin, end = condition.kept, condition.begin, condition.end
        sequence = np.concatenate((np.asarray(context, np.int64), ids[:kept], ids[begin:end])).astype(np.int64)
        rows = len(context) + kept - 1 + np.arange(end - begin)
        rows = rows[rows >= 0]
        if not len(rows):
            yield math.nan
            continue
        hidden = model.hidden(model.tensor(sequence)[None], None)
        stats = logit_statistics(
            model.logits,
            hidden[0, model.tensor(rows)],
            model.tensor(sequence[rows + 1]),
            tile=tile,
            block=block,
            full_from=len(rows),
        )
        yield float(stats.surprisal.mean())
