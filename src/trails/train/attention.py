"""The attention-channel objective: pull where a model looks towards stored maps, without touching its output directly.

A map says, for each step of a chain and each layer, how the attention of the step's tokens (head mean) falls on the bins
``[first token, rest of the context, step 0, …, that step]``: what :class:`trails.schema.Trace` stores as
``step_attention``. The loss is the mean over steps and layers of KL(map ‖ model), nats. Its gradient reaches query, key and
earlier layers only; with the model's own maps it is zero at the first step.

The mass of each bin comes from a second scaled dot product whose values are the one-hot bins of the keys, so no matrix of
attention weights is kept.

A target (:class:`Target`, a line DRIFT of a stellator block) asks that a measure of the attention rows of some tokens lies
above or below a bound. Its loss is the distance from the bound, in the measure's unit, and 0 beyond it; the weights of these
rows alone are made again, in float32 or better, as the measure defines them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trails.errors import UsageError
from trails.platform.arrays import Floats
from trails.platform.text import counted
from trails.schema import Trace

NAME = "trails_binned"
_EPSILON = 1e-6


@dataclass(frozen=True, slots=True)
class TeacherMap:
    """The stored map of one chain: ``step_attention`` (packed over steps, layers) and its number of steps."""

    step_attention: Floats
    n_steps: int

    def of(self, step: int) -> Floats:
        """Bins of one query step, shape (step + 3, layers); sums to 1 in every layer."""
        start = step * (step + 5) // 2
        return self.step_attention[start : start + step + 3]


def teacher_map(trace: Trace) -> TeacherMap:
    """The map that a run stored for a chain."""
    if trace.step_keys is not None:
        raise UsageError(
            f"chain {trace.chain.id} has {counted(len(trace.steps), 'step')}, of which its map keeps the "
            "nearest only: it cannot be a "
            "teacher. Leave it out of the export."
        )
    return TeacherMap(np.asarray(trace.step_attention, np.float32), len(trace.steps))


@dataclass(frozen=True, slots=True)
class Target:
    """The mean of a measure over the tokens ``start`` … ``end`` of a row (end not included) and over ``layers`` (1 … L, none:
    all) shall lie above ``bound``, or below it. The measure follows from one attention row: ``attention_entropy``,
    ``attention_previous`` or ``attention_sink``."""

    start: int
    end: int
    measure: str
    layers: tuple[int, ...]
    above: bool
    bound: float


@dataclass(slots=True)
class Tap:
    """What the attention function adds to while a batch runs: ``masses`` of the bins (B, T, bins) by layer (from 0), where bins
    were asked for, and ``values`` of the targets by row, number of the target in its row, and layer (from 0)."""

    onehot: Tensor | None  # (B, 1, T, bins)
    targets: Sequence[Sequence[Target]]
    masses: dict[int, Tensor]
    values: dict[tuple[int, int, int], Tensor]


_tap: Tap | None = None


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    output, _ = sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
    )
    if _tap is None:
        return output, None
    groups = query.shape[1] // key.shape[1]
    keys = repeat_kv(key, groups) if groups > 1 else key
    mask = None if attention_mask is None else attention_mask[:, :, :, : keys.shape[2]]
    layer = int(module.layer_idx)
    if _tap.onehot is not None:
        onehot = _tap.onehot.to(query.dtype).expand(-1, query.shape[1], -1, -1)
        mass = torch.nn.functional.scaled_dot_product_attention(
            query, keys, onehot, attn_mask=mask, scale=scaling, is_causal=mask is None
        )
        _tap.masses[layer] = mass.mean(1)  # (B, T, bins)
    for row, targets in enumerate(_tap.targets):
        for number, target in enumerate(targets):
            if not target.layers or layer + 1 in target.layers:
                own = None if mask is None else mask[min(row, len(mask) - 1)]
                _tap.values[row, number, layer] = _measured(target, query[row], keys[row], own, scaling)
    return output, None


def _measured(target: Target, query: Tensor, keys: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    """The measure of a target's rows at one layer, mean over heads and tokens. ``query``, ``keys`` (H, T, d), ``mask`` (1 or H,
    T, T), boolean or added."""
    rows, kind = slice(target.start, target.end), torch.promote_types(query.dtype, torch.float32)
    scores = query[:, rows].to(kind) @ keys.to(kind).transpose(-1, -2) * (scaling or query.shape[-1] ** -0.5)
    places = torch.arange(target.start, target.end, device=scores.device)
    if mask is None:
        later = torch.arange(keys.shape[1], device=scores.device) > places[:, None]
        scores = scores.masked_fill(later, -torch.inf)
    elif mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask[:, rows], -torch.inf)
    else:
        scores = scores + mask[:, rows].to(kind)
    weights = scores.softmax(-1)  # (H, rows, T)
    if target.measure == "attention_entropy":
        # a weight of 0 has an infinite slope in the entropy's own function, and none here
        found = -(weights * weights.clamp_min(torch.finfo(weights.dtype).tiny).log()).sum(-1)
    elif target.measure == "attention_sink":
        found = weights[..., 0]
    else:
        kept = places > 0  # the first token of a row has none before it
        found = weights[:, torch.arange(len(places), device=scores.device)[kept], places[kept] - 1]
    mean: Tensor = found.mean()
    return mean


def install() -> None:
    """Make the attention known to transformers under :data:`NAME`."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


@contextmanager
def attending(model: Any) -> Iterator[None]:
    """While inside, the model's attention is the one of this module, which :func:`tapped` can collect from."""
    install()
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def tapped(bins: Tensor | None, targets: Sequence[Sequence[Target]] = ()) -> Iterator[Tap]:
    """Collect the mass per bin and layer, and the values of the targets of every row, while a batch runs. ``bins`` (B, T) holds
    the bin of every key, -1 for padding; None for no masses."""
    global _tap
    onehot = None
    if bins is not None:
        count = int(bins.max()) + 1
        onehot = torch.nn.functional.one_hot(bins.clamp(min=0), count).float() * (bins >= 0)[..., None]
        onehot = onehot[:, None]
    _tap = Tap(onehot, targets, {}, {})
    try:
        yield _tap
    finally:
        _tap = None


def target_terms(tap: Tap) -> list[tuple[int, Tensor]]:
    """The row of every target of a batch, and how far it lies on the wrong side of its bound, in the measure's unit. The
    gradient of one that holds is 0."""
    values: dict[tuple[int, int], list[Tensor]] = {}
    for (row, number, _), value in tap.values.items():
        values.setdefault((row, number), []).append(value)
    terms = []
    for (row, number), own in sorted(values.items(), key=lambda item: item[0]):
        target = tap.targets[row][number]
        away = target.bound - torch.stack(own).mean()
        terms.append((row, torch.relu(away if target.above else -away)))
    return terms


def target_loss(tap: Tap) -> Tensor | None:
    """Mean of :func:`target_terms` over all targets of a batch; None without any."""
    terms = [term for _, term in target_terms(tap)]
    return torch.stack(terms).mean() if terms else None


def key_bins(length: int, offset: int, spans: Sequence[Mapping[str, int]]) -> list[int]:
    """Bin of every token of a row: 0 the first token, 1 the rest of the context, 2 + s step s."""
    bins = [1] * length
    for span in spans:
        for position in range(span["start"], min(span["end"], length)):
            bins[position] = 2 + span["step"]
    if length:
        bins[0] = 0
    return bins


def attention_loss(
    masses: Mapping[int, Tensor],
    spans: Sequence[Sequence[Mapping[str, int]]],
    teachers: Sequence[TeacherMap | None],
    layers: Sequence[int],
) -> Tensor:
    """Mean over rows' steps and layers of KL(teacher ‖ model), nats. Rows without a teacher, and steps without a token or
    with an undefined map, do not count; without any the loss is 0. ``layers`` are 1 … L, empty for all."""
    chosen = [layer - 1 for layer in layers] or sorted(masses)
    stacked = torch.stack([masses[layer] for layer in chosen], -1).float()  # (B, T, bins, layers)
    terms: list[Tensor] = []
    for row, (steps, teacher) in enumerate(zip(spans, teachers, strict=True)):
        if teacher is None:
            continue
        for span in steps:
            step = span["step"]
            if span["end"] <= span["start"] or step >= teacher.n_steps:
                continue
            wanted = torch.as_tensor(teacher.of(step)[:, chosen], device=stacked.device)  # (step + 3, layers)
            if not bool(torch.isfinite(wanted).all()):
                continue
            found = stacked[row, span["start"] : span["end"], : step + 3].mean(0)
            ratio = torch.log(wanted.clamp(min=_EPSILON)) - torch.log(found.clamp(min=_EPSILON))
            terms.append((wanted * ratio).sum(0).mean())
    if not terms:
        return stacked.sum() * 0.0
    return torch.stack(terms).mean()
