"""The measures, each a function over one layer's tensors. Shapes: B sequences, T positions, H heads, K bins, d width.

Everything is computed in float32 whatever the model's dtype. Natural logarithms. Padding gives numbers that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from trails.measure import kernels

TOP_BLOCK = 128
"""Items of a block in the search for the most likely ones."""


def attention_shift(masses: Tensor) -> Tensor:
    """Total variation between the binned attention of t-1 and of t.

    ``masses`` (B, T, K), each row sums to 1 → (B, T) in [0, 1]; position 0 is NaN (no previous token).
    """
    shift = (masses[:, 1:] - masses[:, :-1]).abs_().sum(-1).mul_(0.5)
    return torch.cat((shift.new_full((len(shift), 1), torch.nan), shift), dim=1)


def hidden_shift(unit: Tensor) -> Tensor:
    """1 - cosine between the states of t-1 and of t.

    ``unit`` (B, T, d), rows of length 1 → (B, T) in [0, 2]; position 0 is NaN. Computed as half the squared distance of
    the unit vectors, which is exact near 0 where 1 - cosine would cancel.
    """
    shift = (unit[:, 1:] - unit[:, :-1]).square_().sum(-1).mul_(0.5)
    return torch.cat((shift.new_full((len(shift), 1), torch.nan), shift), dim=1)


def unit_rows(hidden: Tensor) -> Tensor:
    """Rows scaled to length 1, float32; a zero row stays zero."""
    hidden = hidden.float()
    length = torch.linalg.vector_norm(hidden, dim=-1, keepdim=True)
    unit: Tensor = hidden / length.clamp_min(torch.finfo(torch.float32).tiny)
    return unit


@dataclass(slots=True)
class LogitStatistics:
    """Statistics of the predictive distributions of N rows (row r predicts the token that follows position r)."""

    surprisal: Tensor  # (N,) nats, of the row's target; NaN where the target is -1
    entropy: Tensor  # (N,) nats
    rank: Tensor  # (N,) int64, vocabulary items with a higher logit than the target; -1 where the target is -1
    shift: Tensor  # (N,) total variation between the distributions of row r-1 and of row r; NaN for row 0
    top: Tensor  # (N, k) int64, the k most likely items, most likely first; -1 where undefined
    top_log_p: Tensor  # (N, k) nats; NaN where undefined

    def after(self, rows: int) -> LogitStatistics:
        """The same with ``rows`` undefined rows in front."""
        values = (self.surprisal, self.entropy, self.shift)
        surprisal, entropy, shift = (torch.cat((x.new_full((rows,), torch.nan), x)) for x in values)
        rank, top = (torch.cat((x.new_full((rows, *x.shape[1:]), -1), x)) for x in (self.rank, self.top))
        log_p = torch.cat((self.top_log_p.new_full((rows, self.top_log_p.shape[1]), torch.nan), self.top_log_p))
        return LogitStatistics(surprisal, entropy, rank, shift, top, log_p)

    @staticmethod
    def joined(parts: Sequence[LogitStatistics]) -> LogitStatistics:
        """The rows of all parts one after the other."""
        return LogitStatistics(
            *(torch.cat([getattr(part, name) for part in parts]) for name in LogitStatistics.__slots__)
        )


def most_likely(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Values and items of the ``k`` largest logits of every row, (n, k) each, the largest first; ``logits`` (n, V), k ≤ V.

    The k largest lie in the k blocks with the largest maxima, so one pass over the row and a search of k blocks find them:
    on a CPU a tenth of the time of a search of the whole row.
    """
    rows, size = logits.shape
    count = size // TOP_BLOCK
    if count <= k:
        values, items = logits.topk(k, -1)
        return values, items
    blocks = logits[:, : count * TOP_BLOCK].view(rows, count, TOP_BLOCK).amax(-1).topk(k, -1).indices
    inside = torch.arange(TOP_BLOCK, device=logits.device)
    rest = torch.arange(count * TOP_BLOCK, size, device=logits.device).expand(rows, -1)
    items = torch.cat(((blocks.unsqueeze(-1) * TOP_BLOCK + inside).flatten(1), rest), 1)
    values, places = logits.gather(1, items).topk(k, -1)
    return values, items.gather(1, places)


def logit_statistics(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    targets: Tensor,
    *,
    tile: int,
    block: int,
    full_from: int = 0,
    top: int = 0,
) -> LogitStatistics:
    """Reduce the logits of ``hidden`` (N, d), ``tile`` rows at a time; no more than ``tile`` × V logits exist at once.

    ``head`` maps (n, d) to the model's final logits (n, V). Within a tile, ``block`` rows are reduced at a time so that
    they stay in the cache. For rows before ``full_from`` only the surprisal is computed; the rest is NaN or -1. ``top`` is the
    number of most likely items to keep; places beyond the vocabulary are -1 and NaN.
    """
    count = len(hidden)
    surprisal, entropy, shift = (hidden.new_full((count,), torch.nan, dtype=torch.float32) for _ in range(3))
    rank = torch.full((count,), -1, dtype=torch.int64, device=hidden.device)
    items = torch.full((count, top), -1, dtype=torch.int64, device=hidden.device)
    log_p = hidden.new_full((count, top), torch.nan, dtype=torch.float32)

    def keep_top(span: slice, logits: Tensor, total: Tensor) -> None:
        """``total`` (n,): logsumexp of the rows."""
        if k := min(top, logits.shape[1]):
            values, items[span, :k] = most_likely(logits, k)
            log_p[span, :k] = (values.float() - total[:, None]).clamp_max_(0.0)

    known = targets >= 0
    index = targets.clamp_min(0).unsqueeze(1)
    last: Tensor | None = None  # distribution of the row before the block
    before: tuple[Tensor, Tensor] | None = None  # the same for the kernel
    places = kernels.LogitRows(surprisal, entropy, rank, shift, items, log_p)
    tile = (
        -(-count // -(-count // tile)) if count else tile
    )  # tiles of even size: a small last one would cost a full read of the head
    for begin in range(0, count, tile):
        logits = head(hidden[begin : begin + tile])
        if kernels.usable(logits):
            try:
                span = slice(begin, begin + tile)
                before = kernels.logit_rows(logits, targets[span], before, places[span])
                del logits  # before the next tile's are made
                continue
            except Exception as error:  # Triton's errors have no common base
                kernels.failed(error)
        edges = [*range(begin, min(count, begin + tile), block), min(count, begin + tile)]
        edges = sorted({*edges, full_from} if edges[0] < full_from < edges[-1] else edges)
        for start, end in pairwise(edges):
            x = logits[start - begin : end - begin].float()
            if start < full_from:
                surprisal[start:end] = -torch.log_softmax(x, 1).gather(1, index[start:end])[:, 0]
                continue
            target = x.gather(1, index[start:end])  # (n, 1)
            p = torch.softmax(x, 1)
            most, likeliest = x.amax(1), p.amax(1).log()  # from the most likely item: no further pass of exponentials
            surprisal[start:end] = most - likeliest - target[:, 0]
            keep_top(slice(start, end), x, most - likeliest)
            # Σ p = 1 up to rounding, so Σ p x would be wrong by that times the size of the logits: they are centred first
            entropy[start:end] = -likeliest - (x - most[:, None]).mul_(p).sum(1)
            if last is not None:
                shift[start] = (p[0] - last).abs_().sum() * 0.5
            if end - start > 1:
                shift[start + 1 : end] = (p[1:] - p[:-1]).abs_().sum(1) * 0.5
            last = p[-1]
            # comparing into a float buffer and summing is several times faster than counting truth values
            rank[start:end] = torch.gt(x, target, out=torch.empty_like(x)).sum(1)
        del logits, x  # the same
    shift.clamp_max_(1.0)  # a sum over the vocabulary may exceed 1 by rounding
    # an assignment through the mask would make the host wait for the GPU
    surprisal.masked_fill_(~known, torch.nan)
    rank.masked_fill_(~known, -1)
    return LogitStatistics(surprisal, entropy, rank, shift, items, log_p)
