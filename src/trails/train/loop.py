"""The same training without a trainer: a bare loop over the same batches, losses and adapter, kept in memory.

For experiments, which train many small adapters: no files, no trainer to set up, TRL not needed. A test holds its adapter
equal to that of :func:`trails.train.train_rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from trails.train.attention import TeacherMap, attention_loss, tapped
from trails.train.data import Collator, Row, cut
from trails.train.loss import Objective, labelled_logits, shifted, token_loss, token_nll


def batches(rows: Sequence[Row], size: int) -> Iterator[list[Row]]:
    """Rows in order, ``size`` at a time, from the start again after the last; a pass ends with what is left over."""
    while True:
        for start in range(0, len(rows), size):
            yield list(rows[start : start + size])


def fit(
    model: Any,
    rows: Sequence[Row],
    options: Any,
    *,
    teachers: Mapping[str, TeacherMap] | None = None,
    on_step: Callable[[int, float, Any], None] | None = None,
    full: bool = False,
) -> Any:
    """Train ``options.steps`` steps (see :class:`trails.train.TrainOptions`) and return the PEFT model in eval mode.

    ``on_step`` is called after every step with its number, its loss and the model. ``full`` trains all weights of the model
    instead of an adapter. The learning rate is constant. ``model`` is changed.
    """
    from trails.train import _layers, _with_adapter

    options_layers = _layers(rows, options, model)
    trained = model if full else _with_adapter(model, options, options_layers)
    base = trained if full else trained.get_base_model()
    if full:
        for parameter in trained.parameters():
            parameter.requires_grad_(True)
    parameters = [p for p in trained.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, lr=options.learning_rate, weight_decay=0.0)
    device = next(model.parameters()).device
    collate = Collator(0, bins=options.objective == "attention")
    feed = batches([cut(row, options.max_tokens) if options.max_tokens else row for row in rows], options.batch)
    trained.train()
    for step in range(1, options.steps + 1):
        whole = [collate(next(feed)) for _ in range(options.accumulate)]
        count = max(sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in whole), 1)
        total = 0.0
        for batch in whole:
            tensors = {name: value.to(device) for name, value in batch.items() if torch.is_tensor(value)}
            predicts, targets, weights = shifted(tensors["labels"], tensors["loss_weights"])
            forward = {
                "input_ids": tensors["input_ids"],
                "attention_mask": tensors["attention_mask"],
                "use_cache": False,
            }
            if options.objective == "attention":
                with tapped(tensors["bins"]) as masses, labelled_logits(base, predicts):
                    outputs = trained(**forward)
                maps = [(teachers or {}).get(chain) for chain in batch["chains"]]
                loss = attention_loss(masses, batch["spans"], maps, options_layers) / options.accumulate
            else:
                with labelled_logits(base, predicts):
                    outputs = trained(**forward)
                loss = torch.zeros((), device=device)
            if options.objective != "attention" or options.lm_share:
                objective: Objective = "lm" if options.objective == "attention" else options.objective
                share = options.lm_share if options.objective == "attention" else 1.0
                nll = token_nll(outputs.logits[0], targets)
                loss = loss + share * token_loss(nll, weights, objective).sum() / count
            loss.backward()
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
