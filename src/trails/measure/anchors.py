"""Which earlier steps a step needs: its likelihood when its tokens may not attend to an earlier step.

For a later step j and an earlier step i, attention from the tokens of j to the tokens of i is suppressed (in all layers or in
chosen ones; the weights left are scaled to sum to 1), and the change of the likelihood of j's tokens is taken. All pairs of a
chain are measured in few passes: the chain once, and behind it, for every pair, a copy of step j that sees what its mask leaves
it, at the positions of the original. What precedes j is the same in every condition, so one copy of it serves all.

- The first token of a step is predicted by a token of the step before, which still sees everything: it is left out.
- The first token of the sequence is never suppressed: models rest on it what they do not use.
- Two controls on one drawn pair of every later step (the second on every other one): an equally long span of earlier tokens
  drawn at random (away from the step) is suppressed instead; and the mass that the pair has (mean over heads and tokens, by
  layer) is taken from the first token of the sequence instead.

The relative of this is the attention suppression of Thought Anchors (Bogdan et al. 2025, arXiv 2506.19143).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from trails.errors import ModelError, UnmeasurableError
from trails.measure.huggingface import HuggingFaceScorer
from trails.measure.model import Model
from trails.measure.passes import TokenSequence
from trails.measure.premises import packable
from trails.platform.arrays import Doubles, Ints
from trails.platform.text import counted
from trails.schema import Trace

PASS_TOKENS = 4096
"""Tokens of one packed pass at most, unless the chain itself is longer than half of it: the mask grows with their square."""


@dataclass(frozen=True, slots=True)
class Dependence:
    """What a chain of S steps gave, each (S, S) with rows for the later step; NaN where a pair was not measured.

    ``nats``: the change of the later step's NLL, nats per token, positive where it needs the earlier one. ``kl``: mean
    Kullback–Leibler divergence of its predictive distributions from those with everything in sight, nats. ``random_nats``
    and ``random_kl``: an equally long random span suppressed instead; ``sink_nats`` and ``sink_kl``: the same mass taken from
    the first token instead. ``tokens`` went through the model, ``own_tokens`` are those of the sequence itself.
    """

    chain: str
    nats: Doubles
    kl: Doubles
    random_nats: Doubles
    random_kl: Doubles
    sink_nats: Doubles
    sink_kl: Doubles
    tokens: int
    own_tokens: int


@dataclass(frozen=True, slots=True)
class _Condition:
    """A copy of step ``later`` (sequence positions ``begin`` … ``end``) without the keys ``keys``, or with its attention on the
    first token multiplied by ``sink`` (L,). What it gives goes to the tables named ``into`` at (later, earlier).
    """

    into: str
    later: int
    earlier: int
    begin: int
    end: int
    keys: tuple[int, int] = (0, 0)
    sink: Doubles | None = None


def dependence(
    scorer: HuggingFaceScorer,
    trace: Trace,
    sequence: TokenSequence,
    *,
    layers: Collection[int] | None = None,
    seed: int = 0,
) -> Dependence:
    """Measure every pair of steps of a chain. ``trace`` holds its attention, ``layers`` are those that suppress (None: all).

    Raises ModelError for a layer that does not exist, UnmeasurableError for a chain that does not fit into one window of the
    model or whose attention cannot be masked by position.
    """
    model = scorer.model
    chosen = frozenset(range(1, model.n_layers + 1) if layers is None else layers)
    if unknown := sorted(layer for layer in chosen if not 1 <= layer <= model.n_layers):
        raise ModelError(f"layer {unknown[0]} was asked for, {model.name} has layers 1 to {model.n_layers}.")
    row, limit = sequence.row, scorer.run.max_tokens
    if limit and sequence.length > limit:
        raise UnmeasurableError(
            f"chain {row.chain} has {counted(sequence.length, 'token')} with its context, the window of "
            f"{model.name} is {limit}: "
            "suppressing a step needs the whole chain in one window. Leave it out."
        )
    if not packable(model, sequence):
        raise UnmeasurableError(
            f"chain {row.chain}: {model.name} has attention that a mask over positions cannot describe (a "
            f"sliding window "
            "shorter than the chain, or no attention interface). Use another model or a shorter chain."
        )
    size = len(row.step_tokens)
    names = ("nats", "kl", "random_nats", "random_kl", "sink_nats", "sink_kl")
    tables = {name: np.full((size, size), np.nan) for name in names}
    conditions = _conditions(trace, len(row.context), row.step_tokens, seed)
    spent = 0
    with model.measuring():
        for batch in _batches(conditions, sequence.length):
            spent += sequence.length + sum(condition.end - condition.begin for condition in batch)
            for condition, (nats, kl) in zip(batch, _packed(model, row.ids, batch, chosen), strict=True):
                at = condition.later, condition.earlier
                kind = "" if condition.into == "own" else f"{condition.into}_"
                tables[f"{kind}nats"][at], tables[f"{kind}kl"][at] = nats, kl
    return Dependence(row.chain, **tables, tokens=spent, own_tokens=sequence.length)


def _conditions(trace: Trace, context: int, step_tokens: Ints, seed: int) -> list[_Condition]:
    """Every pair of steps that both have tokens, the later one two or more, and the controls."""
    rng = np.random.default_rng([seed, int(trace.chain.id[1:], 16)])
    spans = [(context + int(first), context + int(stop)) for first, stop in step_tokens]
    found: list[_Condition] = []
    drawn = 0
    for later, (begin, end) in enumerate(spans):
        if end - begin < 2:
            continue
        earlier = [(i, (max(a, 1), b)) for i, (a, b) in enumerate(spans[:later]) if max(a, 1) < b]
        found += [_Condition("own", later, i, begin, end, keys) for i, keys in earlier]
        if not earlier:
            continue
        room = [(i, keys, free) for i, keys in earlier if (free := _free(keys, begin))]
        i, keys, free = room[int(rng.integers(len(room)))] if room else (*earlier[-1], [])
        if free:
            first = free[int(rng.integers(len(free)))]
            found.append(_Condition("random", later, i, begin, end, (first, first + keys[1] - keys[0])))
        if drawn % 2 == 0:
            masses = trace.step_masses(later).astype(np.float64)
            on_first, on_step = masses[0], masses[i + 2]
            if np.isfinite(on_step).all() and (on_first > 0).all():
                left = np.clip((on_first - on_step) / on_first, 0.0, 1.0)
                found.append(_Condition("sink", later, i, begin, end, sink=left))
        drawn += 1
    return found


def _free(keys: tuple[int, int], before: int) -> list[int]:
    """Where a span as long as ``keys`` can begin that does not meet it, leaves out the first token, and ends by ``before``."""
    length = keys[1] - keys[0]
    return [a for a in range(1, before - length + 1) if a + length <= keys[0] or a >= keys[1]]


def _batches(conditions: Sequence[_Condition], own: int) -> Iterator[list[_Condition]]:
    """Conditions in groups whose pass is not too long; those of one step stay together where they fit."""
    room = max(PASS_TOKENS - own, own)
    batch: list[_Condition] = []
    taken = 0
    for condition in conditions:
        size = condition.end - condition.begin
        if batch and taken + size > room:
            yield batch
            batch, taken = [], 0
        batch.append(condition)
        taken += size
    if batch:
        yield batch


def _packed(
    model: Model, ids: np.ndarray, conditions: Sequence[_Condition], chosen: frozenset[int]
) -> Iterator[tuple[float, float]]:
    """The change of NLL (nats per token) and the divergence (nats) of every condition, in one pass."""
    own = len(ids)
    total = own + sum(condition.end - condition.begin for condition in conditions)
    sequence, position = np.empty(total, np.int64), np.arange(total)
    sequence[:own] = ids
    low = torch.finfo(model.dtype).min
    mask = torch.full((total, total), low, dtype=model.dtype, device=model.device)
    mask[:own, :own].triu_(1)
    copies: list[slice] = []
    at = own
    for condition in conditions:
        begin, end = condition.begin, condition.end
        copy = slice(at, at + end - begin)
        sequence[copy], position[copy] = ids[begin:end], np.arange(begin, end)
        mask[copy, :begin] = 0
        mask[copy, copy].triu_(1)
        copies.append(copy)
        at = copy.stop

    def mask_of(layer: int) -> Tensor:
        """The mask of a layer, written over that of the layer before."""
        for condition, copy in zip(conditions, copies, strict=True):
            active = layer in chosen
            mask[copy, slice(*condition.keys)] = low if active else 0
            if condition.sink is not None:
                share = float(condition.sink[layer - 1]) if active else 1.0
                mask[copy, 0] = np.log(share) if share > 0 else low
        return mask[None, None]

    with model.masks(mask_of):
        hidden = model.hidden(
            model.tensor(sequence)[None],
            None,
            attention_mask=mask[None, None],
            position_ids=model.tensor(position)[None],
        )[0]
    clean: tuple[int, Tensor, Tensor] | None = None
    for condition, copy in zip(conditions, copies, strict=True):
        begin, end = condition.begin, condition.end
        target = model.tensor(np.ascontiguousarray(sequence[begin + 1 : end]))[:, None]
        if clean is None or clean[0] != condition.later:
            log_p = torch.log_softmax(model.logits(hidden[begin : end - 1]).float(), -1)
            clean = condition.later, log_p, log_p.gather(1, target)[:, 0]
        log_q = torch.log_softmax(model.logits(hidden[copy.start : copy.stop - 1]).float(), -1)
        change = clean[2] - log_q.gather(1, target)[:, 0]
        kl = (clean[1].exp() * (clean[1] - log_q)).sum(-1).clamp_min(0)
        yield float(change.double().mean()), float(kl.double().mean())
