"""Losses over tokens that carry a label, each with its own weight.

All are sums over labelled tokens divided by the number of labelled tokens of the whole (accumulated) batch, never by the
sum of the weights: a weight of 0.1 gives exactly 0.1 of the gradient, whatever the other tokens weigh. Shapes: ``B`` rows,
``T`` tokens, ``N`` labelled tokens, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

IGNORED = -100
Objective = Literal["lm", "dft", "attention"]
OBJECTIVES: tuple[Objective, ...] = ("lm", "dft", "attention")


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

    ``lm``: w · nll. ``dft``: w · p · nll with p = exp(-nll) as a constant (dynamic fine-tuning, arXiv 2508.05629), which
    turns the gradient of -ln p into that of -p.
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
