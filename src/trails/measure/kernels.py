# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# ruff: noqa: E741
"""CUDA kernels (Triton) for the reductions, with the plain PyTorch functions as their reference and fallback.

- :func:`attention`: the library's flash attention for the output and the logsumexp, then one more product of queries and keys
  that adds up, for every query, the weight on each bin of keys, on the previous token, and the row's entropy. The heads of
  one key head are summed before anything is written.
- :func:`hidden_shift`: 1 - cosine of consecutive rows and of random pairs, reading each row once or twice, in float32.
- :func:`logit_rows`: surprisal, entropy, rank, total variation and most likely items of a tile of logits, read twice, written
  never.

``TRAILS_KERNELS=off`` switches them off. Where Triton is missing or fails, :func:`usable` is False and the plain path runs; the
numbers are the same up to the dtype's rounding (tests on the GPU).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

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
    def _weigh(q, k, scale, lse, negative, seen, MASKED: tl.constexpr):
        """Weights of one head in a block of keys; NEGATIVE gains their sum of weight × log2 of the weight."""
        s = tl.dot(q, k) * scale - lse[:, None]  # log2 of the weight
        if MASKED:
            s = tl.where(seen, s, -1e30)
        p = tl.exp2(s)
        return p, negative + tl.sum(p * s, 1)

    @triton.jit
    def _keys(
        mass, negative, prev, q0, q1, q2, q3, lse0, lse1, lse2, lse3, k_at, o_at, low, high, limit, rows, scale,
        k_row, o_row,
        MASKED: tl.constexpr, D: tl.constexpr, BN: tl.constexpr, KB: tl.constexpr, G: tl.constexpr,
    ):  # fmt: skip
        """Add keys ``low`` … ``high`` in blocks of BN; MASKED where a block may hold later keys or keys past ``limit``.

        The weights of the G heads that share a key are summed before they meet the bins. The queries of all G heads stay
        in shared memory for the whole loop; that lets the product of one head run beside the exponentials of another.
        """
        width = tl.arange(0, D)
        bins = tl.arange(0, KB)
        for n in tl.range(low, high, BN):
            columns = n + tl.arange(0, BN)
            if MASKED:
                there = columns < limit
                k = tl.load(k_at + columns[None, :] * k_row + width[:, None], mask=there[None, :], other=0.0)
                o = tl.load(o_at + columns[:, None] * o_row + bins[None, :], mask=there[:, None], other=0.0)
                seen = (columns[None, :] <= rows[:, None]) & there[None, :]
            else:
                k = tl.load(k_at + columns[None, :] * k_row + width[:, None])
                o = tl.load(o_at + columns[:, None] * o_row + bins[None, :])
                seen = rows
            weight, negative = _weigh(q0, k, scale, lse0, negative, seen, MASKED)
            if G > 1:
                p, negative = _weigh(q1, k, scale, lse1, negative, seen, MASKED)
                weight += p
            if G > 2:
                p, negative = _weigh(q2, k, scale, lse2, negative, seen, MASKED)
                weight += p
            if G > 3:
                p, negative = _weigh(q3, k, scale, lse3, negative, seen, MASKED)
                weight += p
            if MASKED:
                prev += tl.sum(tl.where(columns[None, :] == rows[:, None] - 1, weight, 0.0), 1)
            mass = tl.dot(weight.to(o.dtype), o, mass)
        return mass, negative, prev

    @triton.jit
    def _query(q_at, lse_at, inside):
        """Queries of one head and the logsumexp of their rows, in units of log 2."""
        q = tl.load(q_at, mask=inside[:, None], other=0.0)
        return q, tl.load(lse_at, mask=inside, other=0.0) * 1.4426950408889634

    @triton.jit
    def _masses(
        Q, K, LSE, ONE_HOT, EDGES, MASS, ROWS,
        q_b, q_h, q_t, k_b, k_h, k_t, scale, H, T, WIDTH, CHUNKS, GROUPS, PER, rows_size,
        D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, KB: tl.constexpr, G: tl.constexpr,
    ):  # fmt: skip
        """Sums over G (1 to 4) query heads of one key head: masses, and in ROWS entropy and previous mass."""
        block = tl.num_programs(0) - 1 - tl.program_id(0)  # the longest rows first
        b = tl.program_id(1) // GROUPS
        group = tl.program_id(1) % GROUPS
        rows = block * BM + tl.arange(0, BM)
        inside = rows < T
        width = tl.arange(0, D)
        bins = tl.arange(0, KB)
        k_at = K + b.to(tl.int64) * k_b + (group // PER) * k_h
        q_at = Q + b.to(tl.int64) * q_b + group * G * q_h + rows[:, None] * q_t + width[None, :]
        lse_at = LSE + (b * H + group * G).to(tl.int64) * T + rows
        q0, lse0 = _query(q_at, lse_at, inside)
        q1, q2, q3, lse1, lse2, lse3 = q0, q0, q0, lse0, lse0, lse0
        if G > 1:
            q1, lse1 = _query(q_at + q_h, lse_at + T, inside)
        if G > 2:
            q2, lse2 = _query(q_at + 2 * q_h, lse_at + 2 * T, inside)
        if G > 3:
            q3, lse3 = _query(q_at + 3 * q_h, lse_at + 3 * T, inside)
        negative = tl.zeros([BM], tl.float32)
        prev = tl.zeros([BM], tl.float32)
        end = tl.minimum(T, block * BM + BM)
        plain_end = block * BM - 1  # keys before this one are earlier than the previous token of every row
        out_row = ((b * GROUPS + group) * T + rows).to(tl.int64)
        for c in range(CHUNKS):
            low = tl.load(EDGES + b * (CHUNKS + 1) + c)
            high = tl.minimum(tl.load(EDGES + b * (CHUNKS + 1) + c + 1), end)
            middle = low + tl.maximum(tl.minimum(high, plain_end) - low, 0) // BN * BN
            o_at = ONE_HOT + b.to(tl.int64) * T * WIDTH + c * KB
            mass = tl.zeros([BM, KB], tl.float32)
            mass, negative, prev = _keys(
                mass, negative, prev, q0, q1, q2, q3, lse0, lse1, lse2, lse3, k_at, o_at, low, middle, high, rows,
                scale, k_t, WIDTH, False, D, BN, KB, G,
            )  # fmt: skip
            mass, negative, prev = _keys(
                mass, negative, prev, q0, q1, q2, q3, lse0, lse1, lse2, lse3, k_at, o_at, middle, high, high, rows,
                scale, k_t, WIDTH, True, D, BN, KB, G,
            )  # fmt: skip
            tl.store(MASS + out_row[:, None] * WIDTH + c * KB + bins[None, :], mass, mask=inside[:, None])
        tl.store(ROWS + out_row, -0.6931471805599453 * negative, mask=inside)
        tl.store(ROWS + rows_size + out_row, prev, mask=inside)

    @triton.jit
    def _step_sums(MEAN, SPANS, OUT, T, S, K, WIDTH: tl.constexpr, BT: tl.constexpr):
        """Sum of the masses over the kept positions of one step."""
        s = tl.program_id(0)
        b = tl.program_id(1)
        low = tl.load(SPANS + (b * S + s) * 2)
        high = tl.load(SPANS + (b * S + s) * 2 + 1)
        bins = tl.arange(0, WIDTH)
        total = tl.zeros([WIDTH], tl.float32)
        for t in range(low, high, BT):
            rows = t + tl.arange(0, BT)
            at = MEAN + (b * T + rows).to(tl.int64)[:, None] * WIDTH + bins[None, :]
            total += tl.sum(tl.load(at, mask=(rows < high)[:, None], other=0.0), 0)
        tl.store(OUT + (b * S + s) * K + bins, total, mask=bins < K)

    @triton.jit
    def _head_means(MASS, ROWS, MEAN, OUT, rows_size, out_size, H, GROUPS, T, WIDTH: tl.constexpr, BT: tl.constexpr):
        """Means over heads, and the total variation between the means of t-1 and of t.

        OUT holds shift, previous, sink, entropy, each (B, T).
        """
        b = tl.program_id(1)
        rows = tl.program_id(0) * BT + tl.arange(0, BT)
        inside = rows < T
        earlier = inside & (rows > 0)
        bins = tl.arange(0, WIDTH)
        now = tl.zeros([BT, WIDTH], tl.float32)
        before = tl.zeros([BT, WIDTH], tl.float32)
        entropy = tl.zeros([BT], tl.float32)
        previous = tl.zeros([BT], tl.float32)
        for group in range(GROUPS):
            row = ((b * GROUPS + group) * T + rows).to(tl.int64)
            at = MASS + row[:, None] * WIDTH + bins[None, :]
            now += tl.load(at, mask=inside[:, None], other=0.0)
            before += tl.load(at - WIDTH, mask=earlier[:, None], other=0.0)
            entropy += tl.load(ROWS + row, mask=inside, other=0.0)
            previous += tl.load(ROWS + rows_size + row, mask=inside, other=0.0)
        now = now / H
        before = before / H
        out = b * T + rows
        nan = float("nan")
        tl.store(MEAN + out.to(tl.int64)[:, None] * WIDTH + bins[None, :], now, mask=inside[:, None])
        tl.store(OUT + out, tl.where(rows > 0, tl.sum(tl.abs(now - before), 1) * 0.5, nan), mask=inside)
        tl.store(OUT + out_size + out, tl.where(rows > 0, previous / H, nan), mask=inside)
        tl.store(OUT + 2 * out_size + out, tl.sum(tl.where(bins[None, :] == 0, now, 0.0), 1), mask=inside)
        tl.store(OUT + 3 * out_size + out, entropy / H, mask=inside)

    @triton.jit
    def _hidden(STATE, PAIRS, SHIFT, PAIR, s_b, s_t, T, P, D, BLOCKS, R: tl.constexpr, BD: tl.constexpr):
        """Program i < BLOCKS: R rows against the rows before them; the others: R of the pairs."""
        block = tl.program_id(0)
        b = tl.program_id(1).to(tl.int64)
        row = block * R + tl.arange(0, R)  # T or more in the blocks of pairs
        pair = (block - BLOCKS) * R + tl.arange(0, R)  # negative in the blocks of rows
        paired = (pair >= 0) & (pair < P)
        left = tl.load(PAIRS + (b * P + pair) * 2, mask=paired, other=0)
        right = tl.load(PAIRS + (b * P + pair) * 2 + 1, mask=paired, other=0)
        left = STATE + b * s_b + tl.where(paired, left, tl.minimum(tl.maximum(row - 1, 0), T - 1)) * s_t
        right = STATE + b * s_b + tl.where(paired, right, tl.minimum(row, T - 1)) * s_t
        xx = tl.zeros([R, BD], tl.float32)
        yy = tl.zeros([R, BD], tl.float32)
        xy = tl.zeros([R, BD], tl.float32)
        for d in range(0, D, BD):
            column = d + tl.arange(0, BD)
            there = (column < D)[None, :]
            x = tl.load(left[:, None] + column[None, :], mask=there, other=0.0).to(tl.float32)
            y = tl.load(right[:, None] + column[None, :], mask=there, other=0.0).to(tl.float32)
            xx += x * x
            yy += y * y
            xy += x * y
        # the three sums of equal rows are equal, so their shift is exactly 0
        length = tl.sqrt(tl.sum(xx, 1) * tl.sum(yy, 1))
        shift = 1.0 - tl.sum(xy, 1) / tl.maximum(length, 1e-30)
        tl.store(PAIR + b * P + pair, shift, mask=paired)
        tl.store(SHIFT + b * T + row, tl.where(row > 0, shift, float("nan")), mask=row < T)

    @triton.jit
    def _logits(X, TARGET, SURPRISAL, ENTROPY, RANK, SUM, MOST, x_row, V, BLOCKS, LANES: tl.constexpr):
        """One row in LANES lanes of 8 neighbouring items; a lane keeps its own maximum and sums until the end.

        Within, logits and logarithms are in units of log 2. MOST holds the largest logit of every 128 items.
        """
        row = tl.program_id(0)
        at = X + row.to(tl.int64) * x_row
        target = tl.load(TARGET + row)
        known = target >= 0
        value = tl.load(at + tl.maximum(target, 0)).to(tl.float32)
        items = (tl.arange(0, LANES) * 8)[:, None] + tl.arange(0, 8)[None, :]
        m = tl.full([LANES], -1e30, tl.float32)
        l = tl.zeros([LANES], tl.float32)
        e = tl.zeros([LANES], tl.float32)
        higher = tl.zeros([LANES], tl.int32)
        for v in range(0, V, LANES * 8):
            x = tl.load(at + v + items, mask=v + items < V, other=-float("inf")).to(tl.float32)
            higher += tl.sum((x > value).to(tl.int32), 1)
            block = v // 128 + tl.arange(0, LANES // 16)
            most = tl.max(tl.reshape(tl.max(x, 1), [LANES // 16, 16]), 1)
            tl.store(MOST + row.to(tl.int64) * BLOCKS + block, most, mask=block < BLOCKS)
            x = tl.maximum(x, -1e30) * 1.4426950408889634
            top = tl.maximum(m, tl.max(x, 1))
            s = x - top[:, None]
            p = tl.exp2(s)
            alpha = tl.exp2(m - top)
            e = alpha * (e + (m - top) * l) + tl.sum(p * s, 1)
            l = l * alpha + tl.sum(p, 1)
            m = top
        top = tl.max(m, 0)
        alpha = tl.exp2(m - top)
        mass = tl.sum(alpha * l, 0)
        mean = tl.sum(alpha * (e + (m - top) * l), 0) / mass
        total = (top + tl.log2(mass)) * 0.6931471805599453
        tl.store(SUM + row, total)
        tl.store(SURPRISAL + row, tl.where(known, total - value, float("nan")))
        tl.store(ENTROPY + row, (tl.log2(mass) - mean) * 0.6931471805599453)
        tl.store(RANK + row, tl.where(known, tl.sum(higher, 0), -1))

    @triton.jit
    def _top(
        X, MOST, SUM, ITEMS, LOG_P, x_row, V, BLOCKS, width, K, WB: tl.constexpr, WK: tl.constexpr
    ):  # fmt: skip
        """The K largest logits of a row, the largest first, of equal ones the first: they lie in the K blocks of 128 items with
        the largest maxima. WB and WK are BLOCKS and K rounded up to powers of two.
        """
        row = tl.program_id(0).to(tl.int64)
        at = tl.arange(0, WB)
        most = tl.load(MOST + row * BLOCKS + at, mask=at < BLOCKS, other=-float("inf"))
        places = tl.arange(0, WK)
        chosen = tl.full([WK], -1, tl.int32)
        free = at < BLOCKS
        for k in range(0, K):
            best = tl.max(tl.where(free, most, -float("inf")), 0)
            block = tl.min(tl.where(free & (most == best), at, WB), 0)
            chosen = tl.where(places == k, block, chosen)
            free = free & (at != block)
        items = chosen[:, None] * 128 + tl.arange(0, 128)[None, :]
        there = (chosen[:, None] >= 0) & (chosen[:, None] < BLOCKS) & (items < V)
        x = tl.load(X + row * x_row + items, mask=there, other=-float("inf")).to(tl.float32)
        total = tl.load(SUM + row)
        left = there
        for k in range(0, K):
            best = tl.max(tl.max(tl.where(left, x, -float("inf")), 1), 0)
            item = tl.min(tl.min(tl.where(left & (x == best), items, V), 1), 0)
            left = left & (items != item)
            tl.store(ITEMS + row * width + k, item)
            tl.store(LOG_P + row * width + k, tl.minimum(best - total, 0.0))

    @triton.jit
    def _variation(X, BEFORE, SUM, BEFORE_SUM, PART, x_row, N, V, R: tl.constexpr, BV: tl.constexpr):
        """Half the sum of |difference| of the distributions of row - 1 and row over BV items, for R rows one after the other.

        Row 0 is compared with BEFORE (the last row of the tile before).
        """
        row = tl.program_id(0) * R
        column = tl.program_id(1) * BV + tl.arange(0, BV)
        there = column < V
        at = X + row.to(tl.int64) * x_row + column
        if row == 0:
            x = tl.load(BEFORE + column, mask=there, other=-float("inf")).to(tl.float32)
            then = tl.load(BEFORE_SUM)
        else:
            x = tl.load(at - x_row, mask=there, other=-float("inf")).to(tl.float32)
            then = tl.load(SUM + row - 1)
        before = tl.exp2(x * 1.4426950408889634 - then * 1.4426950408889634)
        for r in tl.static_range(R):
            last = tl.minimum(row + r, N - 1)  # rows past the end repeat the last one and are not stored
            x = tl.load(at + (last - row) * x_row, mask=there, other=-float("inf")).to(tl.float32)
            then = tl.load(SUM + last)
            now = tl.exp2(x * 1.4426950408889634 - then * 1.4426950408889634)
            tl.store(PART + tl.program_id(1) * N + last, tl.sum(tl.abs(now - before), 0) * 0.5, mask=row + r < N)
            before = now


def flash(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Causal attention by the library's fastest kernel that also gives the logsumexp: (B, H, T, d) and (B, H, T) float32."""
    if not query.is_cuda:  # the kernels' tests on a machine without a GPU
        G = query.shape[1] // key.shape[1]
        scores = query.float() @ key.float().repeat_interleave(G, 1).transpose(-1, -2) * scale
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        out = scores.softmax(-1) @ value.float().repeat_interleave(G, 1)
        return out.to(query.dtype), scores.logsumexp(-1)
    if _cudnn(query, key, value):
        out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
            query, key, value, None, True, 0.0, True, False, scale=scale
        )
        return out, lse.reshape(query.shape[:3])
    out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True, False, scale=scale)
    return out, lse[..., : query.shape[2]]


_choices: dict[tuple[object, ...], bool] = {}


def _cudnn(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the library itself would choose cuDNN's kernel here (its choice differs between GPUs and versions)."""
    what = (query.shape, query.stride(), key.shape, query.dtype, query.device)
    if what not in _choices:
        choice = torch._fused_sdp_choice(query, key, value, None, 0.0, True, enable_gqa=True)
        _choices[what] = int(choice) == 3
    return _choices[what]


def attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, one_hot: Tensor, edges: Tensor, spans: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Causal attention with its reductions.

    ``query`` (B, H, T, d), ``key`` and ``value`` (B, G, T, d); ``one_hot`` (B, T, W) in the query's dtype, W the number of
    bins rounded up by :func:`padded_bins`; ``edges`` (B, C+1) int32: first key of every chunk of bins; ``spans`` (B, S, 2)
    int32: positions that count as queries of each step. Returns the output (B, T, H, d), the head-mean masses (B, T, W),
    their sums over the steps (B, S, S+2) and the rows (4, B, T) float32: shift, previous, sink, entropy.
    """
    query, key, value = (x if x.stride(-1) == 1 else x.contiguous() for x in (query, key, value))
    B, H, T, D = query.shape
    G, W = key.shape[1], one_hot.shape[-1]
    chunks = edges.shape[1] - 1
    out, lse = flash(query, key, value, scale)
    lse = lse.contiguous()
    share = H // G
    per = next(n for n in (4, 3, 2, 1) if share % n == 0)  # heads summed inside one program
    programs = H // per
    mass = torch.empty(B, programs, T, W, dtype=torch.float32, device=query.device)
    sums = torch.empty(2, B, programs, T, dtype=torch.float32, device=query.device)
    BM, BN, warps, stages = _CONFIG[D]
    _masses[(triton.cdiv(T, BM), B * programs)](
        query, key, lse, one_hot, edges, mass, sums,
        query.stride(0), query.stride(1), query.stride(2), key.stride(0), key.stride(1), key.stride(2),
        scale * 1.4426950408889634, H, T, W, chunks, programs, share // per, B * programs * T,
        D=D, BM=BM, BN=BN, KB=W // chunks, G=per, num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out.transpose(1, 2).contiguous(), *over_rows(mass, sums, spans, H)


def over_rows(mass: Tensor, sums: Tensor, spans: Tensor, H: int) -> tuple[Tensor, Tensor, Tensor]:
    """From sums over some of the heads to head means: ``mass`` (B, P, T, W) and ``sums`` (2, B, P, T), entropy and previous
    mass, together over ``H`` heads, become masses (B, T, W), their sums over the steps (B, S, S+2) and the rows (4, B, T).
    """
    B, programs, T, W = mass.shape
    means = torch.empty(B, T, W, dtype=torch.float32, device=mass.device)
    rows = torch.empty(4, B, T, dtype=torch.float32, device=mass.device)
    if W & (W - 1) == 0 and W <= 256:
        tile = max(1, 1024 // W)
        _head_means[(triton.cdiv(T, tile), B)](
            mass, sums, means, rows, B * programs * T, B * T, H, programs, T, WIDTH=W, BT=tile, num_warps=4
        )
    else:
        torch.sum(mass, 1, out=means)
        means /= H
        rows[1], rows[3] = sums[1].sum(1) / H, sums[0].sum(1) / H
        rows[2] = means[:, :, 0]
        rows[0, :, 1:] = (means[:, 1:] - means[:, :-1]).abs_().sum(-1).mul_(0.5)
        rows[:2, :, 0].fill_(torch.nan)
    S = spans.shape[1]
    steps = torch.empty(B, S, S + 2, dtype=torch.float32, device=mass.device)
    if W & (W - 1) == 0:
        _step_sums[(S, B)](means, spans, steps, T, S, S + 2, WIDTH=W, BT=max(1, 2048 // W), num_warps=4)
    else:
        position = torch.arange(T, device=mass.device)
        keep = (position >= spans[..., :1]) & (position < spans[..., 1:])
        torch.bmm(keep.float(), means[..., : S + 2], out=steps)
    return means, steps, rows


_CONFIG = {64: (64, 64, 4, 3), 128: (64, 64, 4, 2)}
"""Head width → queries per program, keys per step, warps, pipeline stages (measured on an H200, see benchmarks)."""


def padded_bins(count: int) -> int:
    """Width of the one-hot matrix: 16, 32 or one chunk of 64 bins; else whole chunks, a power of two up to 256."""
    width = 16
    while width < count and width < 256:
        width *= 2
    return width if width >= count else -(-count // CHUNK) * CHUNK


def chunk_edges(bins: Tensor, width: int) -> Tensor:
    """First key of each chunk of bins, (B, C+1) int32, for ``bins`` (B, T), never decreasing up to the padding (-1)."""
    chunks = max(1, width // CHUNK)
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
    pairs = pairs.contiguous()
    shift = torch.empty(B, T, dtype=torch.float32, device=state.device)
    pair = torch.empty(B, P, dtype=torch.float32, device=state.device)
    rows = 16
    blocks = triton.cdiv(T, rows)
    _hidden[(blocks + triton.cdiv(P, rows), B)](
        state, pairs, shift, pair, state.stride(0), state.stride(1), T, P, D, blocks,
        R=rows, BD=256, num_warps=4,
    )  # fmt: skip
    return shift, pair


@dataclass(slots=True)
class LogitRows:
    """Where :func:`logit_rows` puts the statistics of n rows: ``surprisal``, ``entropy``, ``shift`` (n,) float32,
    ``rank`` (n,) int64, and the most likely items, ``top`` (n, k) int64 and ``top_log_p`` float32, k may be 0.
    """

    surprisal: Tensor
    entropy: Tensor
    rank: Tensor
    shift: Tensor
    top: Tensor
    top_log_p: Tensor

    def __getitem__(self, span: slice) -> LogitRows:
        """Some of the rows."""
        return LogitRows(*(getattr(self, name)[span] for name in self.__slots__))


def logit_rows(
    logits: Tensor, targets: Tensor, before: tuple[Tensor, Tensor] | None, into: LogitRows
) -> tuple[Tensor, Tensor]:
    """Statistics of a tile of logits (n, V), put ``into`` place; gives what the next tile needs of its last row.

    ``before`` is what the tile before gave, or None: the first row's shift is then NaN.
    """
    n, V = logits.shape
    blocks, k = triton.cdiv(V, 128), min(into.top.shape[1], V)
    total = torch.empty(n, dtype=torch.float32, device=logits.device)
    most = torch.empty(n, blocks, dtype=torch.float32, device=logits.device)
    _logits[(n,)](
        logits, targets, into.surprisal, into.entropy, into.rank, total, most, logits.stride(0), V, blocks,
        LANES=256, num_warps=4,
    )  # fmt: skip
    if k:
        _top[(n,)](
            logits, most, total, into.top, into.top_log_p, logits.stride(0), V, blocks, into.top.stride(0), k,
            WB=triton.next_power_of_2(blocks), WK=triton.next_power_of_2(k), num_warps=4,
        )  # fmt: skip
    last, last_sum = before if before is not None else (logits[0], total[:1])
    rows, items = 8, 2048
    part = torch.empty(triton.cdiv(V, items), n, dtype=torch.float32, device=logits.device)
    _variation[(triton.cdiv(n, rows), len(part))](
        logits, last, total, last_sum, part, logits.stride(0), n, V, R=rows, BV=items, num_warps=4
    )
    torch.sum(part, 0, out=into.shift)
    if before is None:
        into.shift[:1].fill_(torch.nan)
    return logits[-1].clone(), total[-1:].clone()
