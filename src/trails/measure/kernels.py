# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# ruff: noqa: E741
"""CUDA kernels (Triton) for the reductions, with the plain PyTorch functions as their reference and fallback.

- :func:`attention`: flash attention that also adds up, for every query, the weight on each bin of keys, the weight on the
  previous token and the row's entropy, in the same pass over the keys. The bins ride along as further value columns.
- :func:`hidden_shift`: 1 - cosine of consecutive rows and of random pairs, reading each row once or twice, in float32.
- :func:`logit_rows`: surprisal, entropy, rank and total variation of a tile of logits, read three times, written never.

``TRAILS_KERNELS=off`` switches them off. Where Triton is missing or fails, :func:`usable` is False and the plain path runs; the
numbers are the same up to the dtype's rounding (tests on the GPU).
"""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

try:
    import triton
    import triton.language as tl
except ImportError:  # the plain path needs no Triton
    triton = None

CHUNK = 64
"""Bins that one accumulator holds; more bins are taken one chunk of consecutive keys after the other."""
PARTIAL_BYTES = 2**28
"""Bound on the masses per head that exist at once; more heads are taken in several launches."""

_failed = False


def usable(tensor: Tensor) -> bool:
    """Whether the kernels can run on this tensor's device."""
    if triton is None or _failed or os.environ.get("TRAILS_KERNELS", "on") == "off":
        return False
    if os.environ.get("TRITON_INTERPRET") == "1":  # the kernels' tests on a machine without a GPU
        return True
    return tensor.is_cuda and torch.cuda.get_device_capability(tensor.device)[0] >= 8


def failed(error: Exception) -> None:
    """Switch the kernels off for the rest of the process and say so once."""
    global _failed
    if not _failed:
        logger.warning("the CUDA kernels cannot be used, the plain path runs instead: %s", str(error).splitlines()[0])
    _failed = True


def attention_fits(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether :func:`attention` computes this layer: half precision, head width 64 or 128, keys as long as queries."""
    return (
        query.dtype in (torch.bfloat16, torch.float16)
        and query.shape[-1] in (64, 128)
        and key.shape == value.shape
        and key.shape[2] == query.shape[2]
    )


if triton is not None:

    @triton.jit
    def _keys(
        acc, mass, m, l, e, prev, q, k_at, v_at, o_at, low, high, limit, rows, scale,
        k_row, v_row, o_row, MASKED: tl.constexpr, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, KB: tl.constexpr,
    ):  # fmt: skip
        """Keys ``low`` … ``high`` in blocks of BN; MASKED where a block may hold later keys or keys past ``limit``."""
        width = tl.arange(0, D)
        bins = tl.arange(0, KB)
        for n in tl.range(low, high, BN):
            columns = n + tl.arange(0, BN)
            if MASKED:
                there = columns < limit
                k = tl.load(k_at + columns[None, :] * k_row + width[:, None], mask=there[None, :], other=0.0)
            else:
                k = tl.load(k_at + columns[None, :] * k_row + width[:, None])
            s = tl.dot(q, k) * scale
            if MASKED:
                s = tl.where((columns[None, :] <= rows[:, None]) & there[None, :], s, -1e30)
            top = tl.maximum(m, tl.max(s, 1))
            alpha = tl.exp2(m - top)
            s = s - top[:, None]
            p = tl.exp2(s)
            # Σ p·s under the new maximum: what is there already moves by (old - new) for every unit of weight
            e = alpha * (e + (m - top) * l) + tl.sum(p * s, 1)
            l = l * alpha + tl.sum(p, 1)
            m = top
            acc = acc * alpha[:, None]
            mass = mass * alpha[:, None]
            if MASKED:
                prev = prev * alpha + tl.sum(tl.where(columns[None, :] == rows[:, None] - 1, p, 0.0), 1)
                v = tl.load(v_at + columns[:, None] * v_row + width[None, :], mask=there[:, None], other=0.0)
                o = tl.load(o_at + columns[:, None] * o_row + bins[None, :], mask=there[:, None], other=0.0)
            else:
                v = tl.load(v_at + columns[:, None] * v_row + width[None, :])
                o = tl.load(o_at + columns[:, None] * o_row + bins[None, :])
            p = p.to(v.dtype)
            acc = tl.dot(p, v, acc)
            mass = tl.dot(p, o, mass)
        return acc, mass, m, l, e, prev

    @triton.jit
    def _attention(
        Q, K, V, ONE_HOT, EDGES, OUT, MASS, TOP, SUM, ENTROPY, PREVIOUS,
        q_b, q_h, q_t, k_b, k_h, k_t, v_b, v_h, v_t, scale, H, G, T, WIDTH, CHUNKS, first_head, heads,
        D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, KB: tl.constexpr, ONE: tl.constexpr,
    ):  # fmt: skip
        block = tl.num_programs(0) - 1 - tl.program_id(0)  # the longest rows first
        b = tl.program_id(1) // heads
        slot = tl.program_id(1) % heads
        h = first_head + slot
        rows = block * BM + tl.arange(0, BM)
        inside = rows < T
        width = tl.arange(0, D)
        q = tl.load(
            Q + b.to(tl.int64) * q_b + h * q_h + rows[:, None] * q_t + width[None, :], mask=inside[:, None], other=0.0
        )
        k_at = K + b.to(tl.int64) * k_b + (h // G) * k_h
        v_at = V + b.to(tl.int64) * v_b + (h // G) * v_h
        m = tl.full([BM], -1e30, tl.float32)
        l = tl.zeros([BM], tl.float32)
        e = tl.zeros([BM], tl.float32)
        prev = tl.zeros([BM], tl.float32)
        acc = tl.zeros([BM, D], tl.float32)
        end = tl.minimum(T, block * BM + BM)
        plain_end = block * BM - 1  # keys before this one are earlier than the previous token of every row
        out_row = ((b * heads + slot) * T + rows).to(tl.int64)
        bins = tl.arange(0, KB)
        mass = tl.zeros([BM, KB], tl.float32)
        for c in range(CHUNKS):
            low = tl.load(EDGES + b * (CHUNKS + 1) + c)
            high = tl.minimum(tl.load(EDGES + b * (CHUNKS + 1) + c + 1), end)
            o_at = ONE_HOT + b.to(tl.int64) * T * WIDTH + c * KB
            middle = low + tl.maximum(tl.minimum(high, plain_end) - low, 0) // BN * BN
            if not ONE:
                mass = tl.zeros([BM, KB], tl.float32)
            acc, mass, m, l, e, prev = _keys(
                acc, mass, m, l, e, prev, q, k_at, v_at, o_at, low, middle, high, rows, scale,
                k_t, v_t, WIDTH, False, D, BM, BN, KB,
            )  # fmt: skip
            acc, mass, m, l, e, prev = _keys(
                acc, mass, m, l, e, prev, q, k_at, v_at, o_at, middle, high, high, rows, scale,
                k_t, v_t, WIDTH, True, D, BM, BN, KB,
            )  # fmt: skip
            if not ONE:
                tl.store(MASS + out_row[:, None] * WIDTH + c * KB + bins[None, :], mass, mask=inside[:, None])
                tl.store(TOP + out_row * CHUNKS + c, m, mask=inside)
        scale_back = 1.0 / l
        if ONE:
            tl.store(MASS + out_row[:, None] * WIDTH + bins[None, :], mass * scale_back[:, None], mask=inside[:, None])
        else:
            tl.store(SUM + out_row, m + tl.log2(l), mask=inside)
        tl.store(ENTROPY + out_row, (tl.log2(l) - e * scale_back) * 0.6931471805599453, mask=inside)
        tl.store(PREVIOUS + out_row, prev * scale_back, mask=inside)
        at = ((b * T + rows).to(tl.int64) * H + h) * D
        tl.store(
            OUT + at[:, None] + width[None, :],
            (acc * scale_back[:, None]).to(OUT.dtype.element_ty),
            mask=inside[:, None],
        )

    @triton.jit
    def _head_means(
        MASS, ENTROPY, PREVIOUS, MEAN, SHIFT, SINK, ENTROPY_MEAN, PREVIOUS_MEAN, H, T,
        WIDTH: tl.constexpr, BT: tl.constexpr,
    ):  # fmt: skip
        """Means over heads, and the total variation between the means of t-1 and of t."""
        b = tl.program_id(1)
        rows = tl.program_id(0) * BT + tl.arange(0, BT)
        inside = rows < T
        earlier = inside & (rows > 0)
        bins = tl.arange(0, WIDTH)
        now = tl.zeros([BT, WIDTH], tl.float32)
        before = tl.zeros([BT, WIDTH], tl.float32)
        entropy = tl.zeros([BT], tl.float32)
        previous = tl.zeros([BT], tl.float32)
        for h in range(H):
            row = ((b * H + h) * T + rows).to(tl.int64)
            at = MASS + row[:, None] * WIDTH + bins[None, :]
            now += tl.load(at, mask=inside[:, None], other=0.0)
            before += tl.load(at - WIDTH, mask=earlier[:, None], other=0.0)
            entropy += tl.load(ENTROPY + row, mask=inside, other=0.0)
            previous += tl.load(PREVIOUS + row, mask=inside, other=0.0)
        now = now / H
        before = before / H
        out = b * T + rows
        nan = float("nan")
        tl.store(MEAN + out[:, None] * WIDTH + bins[None, :], now, mask=inside[:, None])
        tl.store(SHIFT + out, tl.where(rows > 0, tl.sum(tl.abs(now - before), 1) * 0.5, nan), mask=inside)
        tl.store(SINK + out, tl.sum(tl.where(bins[None, :] == 0, now, 0.0), 1), mask=inside)
        tl.store(ENTROPY_MEAN + out, entropy / H, mask=inside)
        tl.store(PREVIOUS_MEAN + out, tl.where(rows > 0, previous / H, nan), mask=inside)

    @triton.jit
    def _hidden(STATE, PAIRS, SHIFT, PAIR, s_b, s_t, T, P, D, BD: tl.constexpr):
        """Program t < T: rows t-1 and t; program T + p: the p-th pair."""
        t = tl.program_id(0)
        b = tl.program_id(1).to(tl.int64)
        is_pair = t >= T
        p = tl.maximum(t - T, 0)
        left = tl.load(PAIRS + (b * P + p) * 2, mask=is_pair, other=0)
        right = tl.load(PAIRS + (b * P + p) * 2 + 1, mask=is_pair, other=0)
        left = tl.where(is_pair, left, tl.maximum(t - 1, 0))
        right = tl.where(is_pair, right, t)
        column = tl.arange(0, BD)
        x = tl.load(STATE + b * s_b + left * s_t + column, mask=column < D, other=0.0).to(tl.float32)
        y = tl.load(STATE + b * s_b + right * s_t + column, mask=column < D, other=0.0).to(tl.float32)
        x = x / tl.maximum(tl.sqrt(tl.sum(x * x, 0)), 1e-38)
        y = y / tl.maximum(tl.sqrt(tl.sum(y * y, 0)), 1e-38)
        shift = tl.sum((x - y) * (x - y), 0) * 0.5
        if is_pair:
            tl.store(PAIR + b * P + p, shift)
        else:
            tl.store(SHIFT + b * T + t, tl.where(t > 0, shift, float("nan")))

    @triton.jit
    def _logits(X, TARGET, SURPRISAL, ENTROPY, RANK, SUM, x_row, V, BV: tl.constexpr):
        row = tl.program_id(0)
        at = X + row.to(tl.int64) * x_row
        target = tl.load(TARGET + row)
        known = target >= 0
        value = tl.load(at + tl.maximum(target, 0)).to(tl.float32)
        m = -1e30
        l = 0.0
        e = 0.0
        higher = 0
        for v in range(0, V, BV):
            column = v + tl.arange(0, BV)
            x = tl.load(at + column, mask=column < V, other=-float("inf")).to(tl.float32)
            higher += tl.sum((x > value).to(tl.int32), 0)
            x = tl.maximum(x, -1e30)
            top = tl.maximum(m, tl.max(x, 0))
            s = x - top
            p = tl.exp(s)
            alpha = tl.exp(m - top)
            e = alpha * (e + (m - top) * l) + tl.sum(p * s, 0)
            l = l * alpha + tl.sum(p, 0)
            m = top
        total = m + tl.log(l)
        tl.store(SUM + row, total)
        tl.store(SURPRISAL + row, tl.where(known, total - value, float("nan")))
        tl.store(ENTROPY + row, tl.log(l) - e / l)
        tl.store(RANK + row, tl.where(known, higher, -1))

    @triton.jit
    def _variation(X, BEFORE, SUM, BEFORE_SUM, SHIFT, x_row, V, has_before, BV: tl.constexpr):
        """Total variation between row and row - 1; row 0 against BEFORE (the last row of the tile before)."""
        row = tl.program_id(0)
        at = X + row.to(tl.int64) * x_row
        first = row == 0
        prior = tl.where(first, BEFORE.to(tl.int64), (at - tl.where(first, 0, x_row)).to(tl.int64)).to(X.dtype)
        now = tl.load(SUM + row)
        then = tl.load(
            tl.where(first, BEFORE_SUM.to(tl.int64), (SUM + tl.maximum(row - 1, 0)).to(tl.int64)).to(SUM.dtype)
        )
        total = 0.0
        for v in range(0, V, BV):
            column = v + tl.arange(0, BV)
            x = tl.load(at + column, mask=column < V, other=-float("inf")).to(tl.float32)
            y = tl.load(prior + column, mask=column < V, other=-float("inf")).to(tl.float32)
            total += tl.sum(tl.abs(tl.exp(x - now) - tl.exp(y - then)), 0)
        total = total * 0.5
        if first:
            total = tl.where(has_before != 0, total, float("nan"))
        tl.store(SHIFT + row, total)


def attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, one_hot: Tensor, edges: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Causal attention with its reductions.

    ``query`` (B, H, T, d), ``key`` and ``value`` (B, G, T, d); ``one_hot`` (B, T, W) in the query's dtype, W the number of
    bins rounded up by :func:`padded_bins`; ``edges`` (B, C+1) int32: first key of every chunk of bins. Returns the output
    (B, T, H, d), and head means: masses (B, T, W), previous, entropy, shift, sink, each (B, T) float32.
    """
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    B, H, T, D = query.shape
    W = one_hot.shape[-1]
    chunks = edges.shape[1] - 1
    out = torch.empty(B, T, H, D, dtype=query.dtype, device=query.device)
    slab = max(1, min(H, PARTIAL_BYTES // (B * T * W * 4)))
    single = chunks == 1 and slab == H

    def floats(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=query.device)

    means = floats(B, T, W)
    previous, entropy, shift, sink = (floats(B, T) for _ in range(4))
    if not single:
        for tensor in (means, previous, entropy):
            tensor.zero_()
    BM, BN, warps, stages = _CONFIG[D]
    for first in range(0, H, slab):
        heads = min(slab, H - first)
        mass, ent, prev = floats(B, heads, T, W), floats(B, heads, T), floats(B, heads, T)
        top, total = (floats(B, heads, T, chunks), floats(B, heads, T)) if chunks > 1 else (ent, ent)
        _attention[(triton.cdiv(T, BM), B * heads)](
            query, key, value, one_hot, edges, out, mass, top, total, ent, prev,
            query.stride(0), query.stride(1), query.stride(2),
            key.stride(0), key.stride(1), key.stride(2),
            value.stride(0), value.stride(1), value.stride(2),
            scale * 1.4426950408889634, H, H // key.shape[1], T, W, chunks, first, heads,
            D=D, BM=BM, BN=BN, KB=W // chunks, ONE=chunks == 1, num_warps=warps, num_stages=stages,
        )  # fmt: skip
        if single:
            _head_means[(triton.cdiv(T, 16), B)](
                mass, ent, prev, means, shift, sink, entropy, previous, H, T, WIDTH=W, BT=16, num_warps=4
            )
            break
        if chunks > 1:
            mass.view(B, heads, T, chunks, -1).mul_(torch.exp2(top - total.unsqueeze(-1)).unsqueeze(-1))
        means += mass.sum(1) / H
        previous += prev.sum(1) / H
        entropy += ent.sum(1) / H
    if not single:
        sink = means[:, :, 0].clone()
        shift[:, 0] = previous[:, 0] = torch.nan
        shift[:, 1:] = (means[:, 1:] - means[:, :-1]).abs_().sum(-1).mul_(0.5)
    return out, means, previous, entropy, shift, sink


_CONFIG = {64: (128, 64, 4, 3), 128: (128, 64, 8, 3)}
"""Head width → queries per program, keys per step, warps, pipeline stages (measured on an H200, see benchmarks)."""


def padded_bins(count: int) -> int:
    """Width of the one-hot matrix: 16, 32 or 64 bins in one chunk, else whole chunks of 64."""
    for width in (16, 32, CHUNK):
        if count <= width:
            return width
    return -(-count // CHUNK) * CHUNK


def chunk_edges(bins: Tensor, width: int) -> Tensor:
    """First key of each chunk of bins, (B, C+1) int32, for ``bins`` (B, T), never decreasing up to the padding (-1)."""
    chunks = max(1, width // CHUNK) if width > CHUNK else 1
    known = torch.where(bins < 0, width, bins)
    limits = torch.arange(1, chunks, device=bins.device) * CHUNK
    inner = (known.unsqueeze(-1) < limits).sum(1)
    edges = torch.zeros(len(bins), chunks + 1, dtype=torch.int32, device=bins.device)
    edges[:, 1:-1] = inner
    edges[:, -1] = bins.shape[1]
    return edges


def hidden_shift(state: Tensor, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Shift of consecutive rows (B, T) and of the pairs (B, P) of ``state`` (B, T, d)."""
    state = state if state.stride(-1) == 1 else state.contiguous()
    B, T, D = state.shape
    P = pairs.shape[1]
    shift = torch.empty(B, T, dtype=torch.float32, device=state.device)
    pair = torch.empty(B, P, dtype=torch.float32, device=state.device)
    _hidden[(T + P, B)](
        state, pairs, shift, pair, state.stride(0), state.stride(1), T, P, D,
        BD=triton.next_power_of_2(D), num_warps=4 if D <= 2048 else 8,
    )  # fmt: skip
    return shift, pair


def logit_rows(
    logits: Tensor, targets: Tensor, before: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Surprisal, entropy, rank, shift, each (n,), of a tile of logits (n, V), and what the next tile needs of its last row.

    ``before`` is what the tile before gave, or None: the first row's shift is then NaN.
    """
    n, V = logits.shape

    def floats() -> Tensor:
        return torch.empty(n, dtype=torch.float32, device=logits.device)

    surprisal, entropy, shift, total = floats(), floats(), floats(), floats()
    rank = torch.empty(n, dtype=torch.int32, device=logits.device)
    block: dict[str, Any] = {"BV": 4096, "num_warps": 8}
    _logits[(n,)](logits, targets, surprisal, entropy, rank, total, logits.stride(0), V, **block)
    last, last_sum = before if before is not None else (logits[0], total[:1])
    _variation[(n,)](logits, last, total, last_sum, shift, logits.stride(0), V, int(before is not None), **block)
    return surprisal, entropy, rank, shift, (logits[-1].clone(), total[-1:].clone())
