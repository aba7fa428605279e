"""What a model makes of given tokens: surprisal, entropy and divergence from its base, token by token, without maps.

The light measure for curves over checkpoints and for experiments; traces hold the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trails.measure.caching import handed_back, kept_by
from trails.platform.arrays import Floats
from trails.train.data import Collator, Row
from trails.train.loss import labelled_logits, shifted


@dataclass(frozen=True, slots=True)
class Probe:
    """Labelled tokens of one row, in order. ``nll`` and ``entropy`` in nats. Where the base was compared, ``kl`` is
    KL(base ‖ adapted) and ``base_nll`` what the base gives, nats; else None.
    """

    nll: Floats
    entropy: Floats
    kl: Floats | None = None
    base_nll: Floats | None = None


def probe(
    model: Any, rows: Sequence[Row], *, compare: bool = False, batch_tokens: int = 2048, tile: int = 256
) -> list[Probe]:
    """Measure the labelled tokens of every row. ``compare`` runs a PEFT model twice, with and without its adapter.

    Logits are reduced ``tile`` positions at a time.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    device = next(model.parameters()).device
    found: dict[int, Probe] = {}
    collate = Collator()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    was_training = model.training
    model.eval()
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and (stop + 1 - start) * len(rows[order[stop]]["input_ids"]) <= batch_tokens:
            stop += 1
        chosen = order[start:stop]
        batch = {k: v.to(device) for k, v in collate([rows[i] for i in chosen]).items() if torch.is_tensor(v)}
        predicts, targets, _ = shifted(batch["labels"], batch["loss_weights"])
        with torch.inference_mode():
            after = _logits(model, base, batch, predicts)
            before = None
            if compare:
                with model.disable_adapter():
                    before = _logits(model, base, batch, predicts)
            values = reduce_logits(after, before, targets, tile)
        owner = torch.nonzero(predicts)[:, 0].cpu().numpy()
        for place, index in enumerate(chosen):
            mine = owner == place
            compared = (values[2][mine], values[3][mine]) if before is not None else ()
            found[index] = Probe(values[0][mine], values[1][mine], *compared)
        start = stop
    model.train(was_training)
    return [found[i] for i in range(len(rows))]


def _logits(model: Any, base: Any, batch: dict[str, Tensor], predicts: Tensor) -> Tensor:
    with labelled_logits(base, predicts) if bool(predicts.any()) else nullcontext():
        out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    logits: Tensor = out.logits[0]
    return logits


def reduce_logits(
    after: Tensor, before: Tensor | None, targets: Tensor, tile: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """NLL of the targets (N,), entropy (N,), KL(before ‖ after) (N,) and NLL of the targets before (N,), of logits (N, V), in
    nats, ``tile`` rows at a time. The last two are empty without ``before``.
    """
    nll, entropy, kl, base_nll = [], [], [], []
    for start in range(0, len(targets), tile):
        part = slice(start, start + tile)
        log_p = torch.log_softmax(after[part].float(), -1)
        nll.append(-log_p.gather(1, targets[part, None])[:, 0])
        entropy.append(-(log_p.exp() * log_p).sum(-1))
        if before is not None:
            log_q = torch.log_softmax(before[part].float(), -1)
            kl.append((log_q.exp() * (log_q - log_p)).sum(-1))
            base_nll.append(-log_q.gather(1, targets[part, None])[:, 0])

    def array(parts: list[Tensor]) -> Floats:
        return torch.cat(parts).cpu().numpy().astype(np.float32) if parts else np.zeros(0, np.float32)

    return array(nll), array(entropy), array(kl), array(base_nll)


def chain_nll(probes: Sequence[Probe], *, base: bool = False) -> float:
    """Mean over rows of the row's mean, nats; of the base that was compared with, if ``base``.

    Rows without a label are left out.
    """
    return _mean_of_means(p.base_nll if base else p.nll for p in probes)


def chain_kl(probes: Sequence[Probe]) -> float:
    """Mean over rows of the row's mean KL(base ‖ adapted), nats."""
    return _mean_of_means(p.kl for p in probes)


def _mean_of_means(parts: Iterable[Floats | None]) -> float:
    means = [float(part.mean(dtype=np.float64)) for part in parts if part is not None and len(part)]
    return sum(means) / len(means) if means else math.nan


def continuations(model: Any, prompts: Sequence[Sequence[int]], n_tokens: int) -> list[list[int]]:
    """The ``n_tokens`` most likely tokens after each prompt, one by one (greedy, nothing stops it)."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    by_length: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        by_length.setdefault(len(prompt), []).append(index)
    results: dict[int, list[int]] = {}
    with torch.inference_mode():
        for indices in by_length.values():  # equal lengths together: no padding, no mask
            ids = torch.tensor([list(prompts[i]) for i in indices], device=device)
            cache = None
            out: list[Tensor] = []
            step = ids
            for _ in range(n_tokens):
                result = model(input_ids=step, use_cache=True, logits_to_keep=1, **handed_back(model, cache))
                cache = kept_by(result)
                step = result.logits[:, -1].argmax(-1, keepdim=True)
                out.append(step)
            rows = torch.cat(out, 1).tolist()
            for place, index in enumerate(indices):
                results[index] = rows[place]
    model.train(was_training)
    return [results[i] for i in range(len(prompts))]


def repetition(tokens: Sequence[int], gram: int = 4) -> float:
    """Share of the grams of a sequence that occurred in it before, 0..1 (0 for a sequence shorter than ``gram``)."""
    grams = [tuple(tokens[i : i + gram]) for i in range(len(tokens) - gram + 1)]
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0
