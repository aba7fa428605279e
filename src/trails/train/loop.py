"""The same training without a trainer: a bare loop over the same batches, losses and adapter, kept in memory.

For experiments, which train many small adapters: no files, no trainer to set up, TRL not needed. A test holds its adapter
equal to that of :func:`trails.train.train_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from trails.export.record import IGNORED
from trails.train.adapter import chosen_layers, with_adapter
from trails.train.attempts import Attempts
from trails.train.attention import TeacherMap
from trails.train.data import Collator, Row, cut
from trails.train.journal import Journal
from trails.train.loss import batch_loss
from trails.train.options import TrainOptions


def batches(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Rows in order, ``size`` at a time, from the start again after the last; a pass ends with what is left over."""
    while True:
        for start in range(0, len(rows), size):
            yield list(rows[start : start + size])


def fit(
    model: Any,
    rows: Sequence[Row],
    options: TrainOptions,
    *,
    teachers: Mapping[str, TeacherMap] | None = None,
    on_step: Callable[[int, float, Any], None] | None = None,
    full: bool = False,
    attempts: Attempts | None = None,
    journal: Journal | None = None,
) -> Any:
    """Train ``options.steps`` steps (see :class:`trails.train.TrainOptions`) and return the PEFT model in eval mode.

    ``on_step`` is called after every step with its number, its loss and the model. ``full`` trains all weights of the model
    instead of an adapter. The learning rate is constant. ``model`` is changed. ``attempts`` and ``journal`` as for
    :func:`trails.train.loss.batch_loss`.
    """
    layers = chosen_layers(rows, options, model)
    trained = model if full else with_adapter(model, options, layers)
    base = trained if full else trained.get_base_model()
    if full:
        for parameter in trained.parameters():
            parameter.requires_grad_(True)
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0, fused=True)
    device = next(model.parameters()).device
    collate = Collator(0, bins=options.objective == "attention", places=journal is not None)
    feed = batches([cut(row, options.max_tokens) if options.max_tokens else row for row in rows], options.batch)
    trained.train()
    for step in range(1, options.steps + 1):
        whole = [collate(next(feed)) for _ in range(options.accumulate)]
        count = max(sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in whole), 1)
        total = 0.0
        for number, batch in enumerate(whole):
            tensors = {name: value.to(device) for name, value in batch.items() if torch.is_tensor(value)}
            loss, _ = batch_loss(
                trained,
                base,
                {**batch, **tensors},
                options,
                count=count,
                layers=layers,
                teachers=teachers,
                attempts=attempts,
                at=(step, number),
                journal=journal,
            )
            torch.autograd.backward(loss)
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(parameters, options.max_grad_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if on_step is not None:
            trained.eval()
            on_step(step, total, trained)
            trained.train()
    trained.eval()
    return trained
