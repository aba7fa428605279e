"""Losses over tokens that carry a label, each with its own weight.

All are sums over labelled tokens divided by the number of labelled tokens of the whole (accumulated) batch, never by the
sum of the weights: a weight of 0.1 gives exactly 0.1 of the gradient, whatever the other tokens weigh. Shapes: ``B`` rows,
``T`` tokens, ``N`` labelled tokens, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trails.export.record import IGNORED
from trails.train.attempts import Attempts, with_attempts
from trails.train.attention import TeacherMap, attention_loss, tapped, target_loss
from trails.train.journal import Journal
from trails.train.options import Objective, TrainOptions


def shifted(labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Which positions predict a labelled token (B, T), and those tokens' ids and weights (N,).

    Position t predicts token t+1; the label of a row's first token is never reached.
    """
    predicts = torch.zeros_like(labels, dtype=torch.bool)
    predicts[:, :-1] = labels[:, 1:] != IGNORED
    at = predicts[:, :-1]
    return predicts, labels[:, 1:][at], weights[:, 1:][at]


def token_nll(logits: Tensor, targets: Tensor) -> Tensor:
    """-ln p of each target, nats, in float32. ``logits`` (N, V), ``targets`` (N,)."""
    return torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")


def token_loss(nll: Tensor, weights: Tensor, objective: Objective) -> Tensor:
    """Weighted loss of each token (N,).

    ``lm`` and ``loop``: w · nll. ``dft``: w · p · nll with p = exp(-nll) as a constant (dynamic fine-tuning, arXiv
    2508.05629), which turns the gradient of -ln p into that of -p.
    """
    if objective == "dft":
        return weights * torch.exp(-nll.detach()) * nll
    return weights * nll


@contextmanager
def labelled_logits(model: Any, predicts: Tensor) -> Iterator[None]:
    """Within this block the model's head sees only the positions of ``predicts`` (B, T): its logits are (1, N, V).

    What the model does to logits afterwards (scale, soft cap) still applies. Saves the head's cost on context and padding.
    """

    def select(_: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden = args[0]
        return (hidden[predicts.to(hidden.device)][None], *args[1:])

    handle = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def batch_loss(
    model: Any,
    base: Any,
    batch: Mapping[str, Any],
    options: TrainOptions,
    *,
    count: int | Tensor | None = None,
    layers: Sequence[int] = (),
    teachers: Mapping[str, TeacherMap] | None = None,
    attempts: Attempts | None = None,
    at: tuple[int, int] = (0, 0),
    journal: Journal | None = None,
) -> tuple[Tensor, Any]:
    """Loss of a batch of :class:`trails.train.data.Collator`, and what the model gave.

    Sum of weight · loss over labelled tokens, over their number in the accumulated batch (``count``; None: in this batch);
    for the attention objective the mean divergence from the stored maps over ``layers`` and the mean distance of the rows'
    targets from their bounds, over the number of accumulated batches, plus ``lm_share`` of the former. ``base`` is the model
    whose head is fed: ``model`` without its adapter.

    For the objective loop the rows get their attempts first (``attempts`` says how, ``at`` are the step and the number of the
    forward pass in it), and ``lm_share`` adds that share of the loss of the rows without them. ``journal`` takes the
    transitions of the pass.
    """
    plain = batch
    if options.objective == "loop":
        if attempts is None:
            raise ValueError("the objective 'loop' needs to know how attempts are written")
        batch = with_attempts(model, batch, options, attempts, at)
    predicts, targets, weights = shifted(batch["labels"], batch["loss_weights"])
    mapped = options.objective == "attention"
    with ExitStack() as stack:
        asked = batch.get("targets", ())
        tap = stack.enter_context(tapped(batch["bins"] if teachers else None, asked)) if mapped else None
        stack.enter_context(labelled_logits(base, predicts))
        outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    loss = torch.zeros((), device=predicts.device)
    if tap is not None:
        loss = outputs.logits.sum() * 0.0  # a batch without a map or a target has a gradient, too: none
        if teachers:
            maps = [teachers.get(chain) for chain in batch["chains"]]
            loss = attention_loss(tap.masses, batch["spans"], maps, layers) / options.accumulate
        if (away := target_loss(tap)) is not None:
            loss = loss + away / options.accumulate
    share = options.lm_share if mapped else 1.0
    if share:
        nll = token_nll(outputs.logits[0], targets)
        if journal is not None:
            journal.note(at[0], batch, predicts, nll, outputs.logits[0])
        of = token_loss(nll, weights, "lm" if mapped else options.objective)
        loss = loss + share * of.sum() / (max(len(targets), 1) if count is None else count)
    if options.objective == "loop" and options.lm_share:
        alone, _ = batch_loss(model, base, plain, replace(options, objective="lm", lm_share=0.0), count=count)
        loss = loss + options.lm_share * alone
    return loss, outputs
