"""What goes through the model at once: a chain in its context, the windows it is read in, and their packing into a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from trails.errors import UnmeasurableError
from trails.measure.attention import Layout, NearLayout
from trails.measure.base import Segmented
from trails.measure.context import Row
from trails.platform.arrays import Longs
from trails.platform.text import counted
from trails.schema import Chain, Run

MOST_STEPS = 1024
"""Steps up to which a chain keeps its whole step attention, which grows with their square."""

NEAR_STEPS = 64
"""Steps, its own included, whose attention is kept for every step of a chain with more."""

BASELINE_PAIRS = 64
"""Random pairs of positions per chain for the anisotropy baseline."""


@dataclass(slots=True)
class TokenSequence:
    """One item as the model sees it: a row, the bin of each of the chain's tokens, and the pairs of the baseline."""

    item: Segmented
    row: Row
    step_sizes: Longs = field(init=False)  # (S,) tokens of each step
    chain_bins: Longs = field(init=False)  # (n,) step of each chain token + 2
    pairs: Longs = field(init=False)  # (64, 2) of the whole chain

    def __post_init__(self) -> None:
        spans = self.row.step_tokens.astype(np.int64)
        self.step_sizes = spans[:, 1] - spans[:, 0]
        self.chain_bins = np.repeat(np.arange(len(spans), dtype=np.int64), self.step_sizes) + 2
        self.pairs = baseline_pairs(self.item.chain, len(self.row.tokens))

    @property
    def near(self) -> int:
        """Steps kept in the step attention of every step; 0 = all that came before."""
        return NEAR_STEPS if len(self.row.step_tokens) > MOST_STEPS else 0

    @property
    def length(self) -> int:
        """Tokens of context and chain."""
        return len(self.row.context) + len(self.row.tokens)


@dataclass(slots=True)
class Pass:
    """One row of a forward pass: the context and the chain's tokens ``begin`` … ``end``; measures are kept from ``keep`` on."""

    sequence: TokenSequence
    begin: int
    keep: int
    end: int

    @property
    def context(self) -> int:
        """Tokens of the context."""
        return len(self.sequence.row.context)

    @property
    def length(self) -> int:
        """Tokens of the pass."""
        return self.context + self.end - self.begin

    @property
    def question(self) -> bool:
        """Whether there is a question."""
        return bool(self.sequence.row.context.question)

    @property
    def steps(self) -> slice:
        """The chain's steps that have a bin in this pass: those it sees, in a chain of very many steps; else all."""
        if not self.sequence.near:
            return slice(0, len(self.sequence.row.step_tokens))
        first, last = (int(self.sequence.chain_bins[token]) - 2 for token in (self.begin, self.end - 1))
        return slice(first, last + 1)

    def write(self, ids: Longs, bins: Longs, queries: Longs, pairs: Longs) -> None:
        """Fill a row of a batch: tokens, bins as keys, steps as queries, each (T,), and the pairs (64, 2)."""
        c, end, count = self.context, self.length, self.end - self.keep
        ids[:c], ids[c:end] = self.sequence.row.context.ids, self.sequence.row.tokens.ids[self.begin : self.end]
        bins[:c], bins[c:end] = 1, self.sequence.chain_bins[self.begin : self.end] - self.steps.start
        bins[0] = 0
        queries[end - count : end] = self.sequence.chain_bins[self.keep : self.end] - self.steps.start - 2
        whole = count == len(self.sequence.row.tokens)
        pairs[:] = self.sequence.pairs if whole else baseline_pairs(self.sequence.item.chain, count)
        pairs += end - count


def passes_of(sequence: TokenSequence, run: Run) -> list[Pass]:
    """The passes in which a run reads a sequence: one, or overlapping windows.

    Raises ModelError for a sequence longer than the model's window where the run refuses it, or whose context fills the window.
    """
    limit, n, context = run.max_tokens, len(sequence.row.tokens), len(sequence.row.context)
    if not limit or sequence.length <= limit:
        return [Pass(sequence, 0, 0, n)]
    if run.window == "refuse":
        raise UnmeasurableError(
            f"chain {sequence.item.chain.id} has {counted(sequence.length, 'token')} with its context, the window of "
            f"{run.model} is {limit}. Use --window stride to measure it in overlapping windows, or leave it out."
        )
    room = limit - context
    if room < limit // 2 or room < 2:
        raise UnmeasurableError(
            f"chain {sequence.item.chain.id}: its context alone has {counted(context, 'token')}, more than half of "
            f"the window of {counted(limit, 'token')} of {run.model}. Shorten the question, or leave the chain out."
        )
    # every window restates the context; from the second on, its first half only gives what came before
    passes, step = [Pass(sequence, 0, 0, room)], room // 2
    while passes[-1].end < n:
        end = min(n, passes[-1].end + step)
        passes.append(Pass(sequence, end - room, passes[-1].end, end))
    return passes


def baseline_pairs(chain: Chain, count: int) -> Longs:
    """Pairs of different positions below ``count``, shape (64, 2), drawn from the chain's id alone; (0, 0) if count < 2."""
    if count < 2:
        return np.zeros((BASELINE_PAIRS, 2), np.int64)
    generator = np.random.Generator(np.random.PCG64(int(chain.id[1:], 16)))
    left = generator.integers(0, count, BASELINE_PAIRS)
    right = (left + generator.integers(1, count, BASELINE_PAIRS)) % count
    return np.stack((left, right), 1)


def pack(batch: Sequence[Pass], length: int) -> Longs:
    """All that the model is told about a batch as one array of numbers, (B, 3 T + 128): what :func:`unpacked` takes apart."""
    packed = np.zeros((len(batch), 3 * length + 2 * BASELINE_PAIRS), np.int64)
    packed[:, length : 3 * length] = -1
    for row, part in zip(packed, batch, strict=True):
        ids, bins, queries = row[: 3 * length].reshape(3, length)
        part.write(ids, bins, queries, row[3 * length :].reshape(-1, 2))
    return packed


def unpacked(
    words: Tensor, length: int, steps: int, near: int = 0, narrow: bool = False
) -> tuple[Layout | NearLayout, Tensor]:
    """Layout and ids (B, T) of a packed batch: ids, bins as keys, steps as queries, then the pairs, in each row. ``near``: the
    steps of a :class:`~trails.measure.attention.NearLayout`; 0 = all are kept. ``narrow``: of a
    :class:`~trails.measure.attention.Layout`.
    """
    ids, bins, queries = words[:, : 3 * length].view(-1, 3, length).unbind(1)
    pairs = words[:, 3 * length :].reshape(-1, BASELINE_PAIRS, 2).contiguous()
    if near:
        return NearLayout(bins, queries, pairs, steps, near), ids
    keep = (queries.unsqueeze(1) == torch.arange(steps, device=words.device)[:, None]).float()
    return Layout(bins, keep, pairs, narrow), ids
