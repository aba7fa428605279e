# mypy: disable-error-code="untyped-decorator,no-untyped-def"
# ruff: noqa: E741
"""One pass of attention that gives output, logsumexp, entropy and the masses on bins, for GPUs of compute capability 9.0.

The two-pass kernel of :mod:`trails.measure.kernels` multiplies queries and keys twice. Here every block of 128 keys is met
once: its weights, still relative to the largest score so far, are multiplied with the values and with the one-hot bins of the
block, 16 columns from the block's first bin on. What the bins gain is stored with the score it is relative to; small kernels
make weights of it when the logsumexp is known, sum the heads, add up the blocks, and take the mass on the previous token.

A warp copies (keys, values and bins, two blocks ahead), two groups of four warps multiply (64 queries each). Written in Gluon,
which is part of Triton from 3.6 on. Where it is missing or something fails, and unless the first call on a device agrees with
the two passes, :func:`usable` is False.

It is used only where ``TRAILS_KERNELS=one-pass`` asks for it, because it gains little (benchmarks/RESULTS.md). Its tests
against float64 pass with PyTorch 2.11 and Triton 3.6 and with PyTorch 2.15 and Triton 3.9.
"""

from __future__ import annotations

import logging
import os

import torch
from torch import Tensor

from trails.measure import kernels
from trails.platform.arrays import Longs

logger = logging.getLogger(__name__)

try:
    import triton
    import triton.language as tl
    from triton.experimental import gluon
    from triton.experimental.gluon import language as gl
    from triton.experimental.gluon.language.nvidia.hopper import (
        mbarrier,
        tma,
        warpgroup_mma,
        warpgroup_mma_wait,
    )
    from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

    # Triton 3.9 has renamed it
    _load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
except ImportError:
    gluon = None

BLOCK = 128
"""Queries of a program, and keys of a block."""

COLUMNS = 16
"""Bins that a block of keys may hold. With 8 the product faults, with 32 twice as much is stored."""

SHORTEST, WIDTHS = 4096, (128,)
"""Where one pass was measured to gain (benchmarks/RESULTS.md): shorter sequences and heads of width 64 take as long in two."""

_trusted: dict[int, bool] = {}

if gluon is not None:

    @gluon.jit
    def _copy(
        q_desc, k_desc, v_desc, o_desc, q_smem, k_smem, v_smem, o_smem, q_full, k_full, k_free, v_full, v_free,
        head, first, block, count, share, STAGES: gl.constexpr, BN: gl.constexpr, D: gl.constexpr,
    ):  # fmt: skip
        """The copying warp: queries once, then keys, bins and values, from the last block of keys to the first."""
        for half in gl.static_range(2):
            mbarrier.expect(q_full.index(half), q_desc.block_type.nbytes)
            _load(q_desc, [first + block * 128 + half * 64, head * D], q_full.index(half), q_smem.index(half))
        column = (head // share) * D
        for j in range(count):
            stage = j % STAGES
            phase = (j // STAGES) & 1
            row = first + (count - 1 - j) * BN
            mbarrier.wait(k_free.index(stage), phase ^ 1)
            mbarrier.expect(k_full.index(stage), k_desc.block_type.nbytes)
            _load(k_desc, [row, column], k_full.index(stage), k_smem.index(stage))
            mbarrier.wait(v_free.index(stage), phase ^ 1)
            mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes + o_desc.block_type.nbytes)
            _load(o_desc, [row, 0], v_full.index(stage), o_smem.index(stage))
            _load(v_desc, [row, column], v_full.index(stage), v_smem.index(stage))

    @gluon.jit
    def _keep(MASS, TOP, gained, top, place, half: gl.constexpr, W: gl.constexpr, layout: gl.constexpr):
        """Store what the bins of a block gained, and the score it is relative to."""
        row = place * 128 + half * 64 + gl.arange(0, 64, gl.SliceLayout(1, layout)).to(gl.int64)
        column = gl.arange(0, W, gl.SliceLayout(0, layout))
        gl.store(MASS + (row * W)[:, None] + column[None, :], gained.to(gl.bfloat16))
        gl.store(TOP + row, gl.convert_layout(top, gl.SliceLayout(1, layout)))

    @gluon.jit
    def _multiply(
        q_smem, k_smem, v_smem, o_smem, q_full, k_full, k_free, v_full, v_free, OUT, LSE, MASS, TOP, ENTROPY,
        z, block, T, count, scale, H, places,
        half: gl.constexpr, W: gl.constexpr, STAGES: gl.constexpr, BN: gl.constexpr, D: gl.constexpr,
    ):  # fmt: skip
        """64 queries of one head over all their keys. ``scale`` includes 1 / log 2: exponentials are of base 2."""
        of_scores: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, BN, 16])
        of_out: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, D, 16])
        of_mass: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, W, 16])
        of_weights: gl.constexpr = gl.DotOperandLayout(0, of_out, 2)
        rows: gl.constexpr = gl.SliceLayout(1, of_scores)
        q = q_smem.index(half)
        no_scores = gl.zeros([64, BN], gl.float32, of_scores)
        no_mass = gl.zeros([64, W], gl.float32, of_mass)
        acc = gl.zeros([64, D], gl.float32, of_out)
        mbarrier.wait(q_full.index(half), 0)
        mbarrier.wait(k_full.index(0), 0)
        token = warpgroup_mma(q, k_smem.index(0).permute((1, 0)), no_scores, use_acc=False, is_async=True)
        s = warpgroup_mma_wait(0, deps=[token])
        mbarrier.arrive(k_free.index(0))
        r = block * 128 + half * 64 + gl.arange(0, 64, rows)
        k = (count - 1) * BN + gl.arange(0, BN, gl.SliceLayout(0, of_scores))
        x = gl.where(r[:, None] >= k[None, :], s * scale, -1e30)
        top = gl.max(x, 1)
        x = x - top[:, None]
        p = gl.exp2(x)
        l = gl.sum(p, 1)
        e = gl.sum(p * x, 1)  # Σ weight × log2 of the weight, both relative to the top
        for j in range(1, count):
            now = j % STAGES
            before = (j - 1) % STAGES
            weights = gl.convert_layout(p.to(gl.bfloat16), of_weights)
            mbarrier.wait(k_full.index(now), (j // STAGES) & 1)
            s = warpgroup_mma(q, k_smem.index(now).permute((1, 0)), no_scores, use_acc=False, is_async=True)
            mbarrier.wait(v_full.index(before), ((j - 1) // STAGES) & 1)
            acc = warpgroup_mma(weights, v_smem.index(before), acc, is_async=True)
            gained = warpgroup_mma(weights, o_smem.index(before), no_mass, use_acc=False, is_async=True)
            s = warpgroup_mma_wait(2, deps=[s])
            mbarrier.arrive(k_free.index(now))
            x = s * scale
            higher = gl.maximum(top, gl.max(x, 1))
            x = x - higher[:, None]
            p = gl.exp2(x)
            alpha = gl.exp2(top - higher)
            e = alpha * (e + (top - higher) * l) + gl.sum(p * x, 1)
            l = l * alpha + gl.sum(p, 1)
            acc, gained, weights = warpgroup_mma_wait(0, deps=[acc, gained, weights])
            mbarrier.arrive(v_free.index(before))
            _keep(MASS, TOP, gained, top, places + count - j, half, W, of_mass)
            acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, of_out))[:, None]
            top = higher
        last = (count - 1) % STAGES
        weights = gl.convert_layout(p.to(gl.bfloat16), of_weights)
        mbarrier.wait(v_full.index(last), ((count - 1) // STAGES) & 1)
        acc = warpgroup_mma_wait(0, deps=[warpgroup_mma(weights, v_smem.index(last), acc, is_async=True)])
        gained = warpgroup_mma(weights, o_smem.index(last), no_mass, use_acc=False, is_async=True)
        gained = warpgroup_mma_wait(0, deps=[gained])
        _keep(MASS, TOP, gained, top, places, half, W, of_mass)
        out = acc / gl.convert_layout(l, gl.SliceLayout(1, of_out))[:, None]
        t = block * 128 + half * 64 + gl.arange(0, 64, gl.SliceLayout(1, of_out))
        width = gl.arange(0, D, gl.SliceLayout(0, of_out))
        at = (((z // H) * T + t).to(gl.int64) * H + z % H) * D
        gl.store(OUT + at[:, None] + width[None, :], out.to(gl.bfloat16))
        gl.store(LSE + z * T + r, top + gl.log2(l))
        gl.store(ENTROPY + z * T + r, gl.log2(l) - e / l)

    @gluon.jit
    def _one_pass(
        q_desc, k_desc, v_desc, o_desc, OUT, LSE, MASS, TOP, ENTROPY, scale, H, share, T,
        W: gl.constexpr, STAGES: gl.constexpr, BN: gl.constexpr, D: gl.constexpr,
    ):  # fmt: skip
        """128 queries of one head. MASS (B·H, pairs, 128, W) and TOP (B·H, pairs, 128), pairs of a block of queries and a block
        of keys up to it: block i begins at i (i + 1) / 2.
        """
        block = gl.num_programs(0) - 1 - gl.program_id(0)  # the longest rows first
        z = gl.program_id(1)
        blocks = gl.num_programs(0)
        count = block + 1
        places = z.to(gl.int64) * (blocks * (blocks + 1) // 2) + block * (block + 1) // 2
        q_smem = gl.allocate_shared_memory(gl.bfloat16, [2, 64, D], q_desc.layout)
        k_smem = gl.allocate_shared_memory(gl.bfloat16, [STAGES, BN, D], k_desc.layout)
        v_smem = gl.allocate_shared_memory(gl.bfloat16, [STAGES, BN, D], v_desc.layout)
        o_smem = gl.allocate_shared_memory(gl.bfloat16, [STAGES, BN, W], o_desc.layout)
        bar: gl.constexpr = mbarrier.MBarrierLayout()
        q_full = gl.allocate_shared_memory(gl.int64, [2, 1], bar)
        k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
        k_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
        v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
        v_free = gl.allocate_shared_memory(gl.int64, [STAGES, 1], bar)
        for j in gl.static_range(2):
            mbarrier.init(q_full.index(j), count=1)
        for j in gl.static_range(STAGES):
            mbarrier.init(k_full.index(j), count=1)
            mbarrier.init(v_full.index(j), count=1)
            mbarrier.init(k_free.index(j), count=2)
            mbarrier.init(v_free.index(j), count=2)
        gl.warp_specialize(
            [
                (_multiply, (q_smem, k_smem, v_smem, o_smem, q_full, k_full, k_free, v_full, v_free, OUT, LSE, MASS, TOP,
                             ENTROPY, z, block, T, count, scale, H, places, 0, W, STAGES, BN, D)),
                (_multiply, (q_smem, k_smem, v_smem, o_smem, q_full, k_full, k_free, v_full, v_free, OUT, LSE, MASS, TOP,
                             ENTROPY, z, block, T, count, scale, H, places, 1, W, STAGES, BN, D)),
                (_copy, (q_desc, k_desc, v_desc, o_desc, q_smem, k_smem, v_smem, o_smem, q_full, k_full, k_free, v_full,
                         v_free, z % H, (z // H) * T, block, count, share, STAGES, BN, D)),
            ],
            [4, 1],
            [240, 24],
        )  # fmt: skip

    @triton.jit
    def _rescale(
        MASS, TOP, LSE, ENTROPY, Q, K, GAINED, ROWS, scale, H, share, T, blocks, rows_size,
        W: tl.constexpr, BT: tl.constexpr, D: tl.constexpr,
    ):  # fmt: skip
        """Head means for BT queries and one block of keys: GAINED (B, pairs, 128, W). The programs after the last block give
        entropy and previous mass, in ROWS.
        """
        part = tl.num_programs(0) - 1 - tl.program_id(0)
        j = tl.program_id(1)
        b = tl.program_id(2)
        rows = part * BT + tl.arange(0, BT)
        block = part * BT // 128
        if j == blocks:
            width = tl.arange(0, D)
            entropy = tl.zeros([BT], tl.float32)
            previous = tl.zeros([BT], tl.float32)
            for h in range(H):
                z = b * H + h
                entropy += tl.load(ENTROPY + z * T + rows)
                q = tl.load(Q + (((b * T + rows).to(tl.int64) * H + h) * D)[:, None] + width[None, :]).to(tl.float32)
                earlier = (b * T + tl.maximum(rows - 1, 0)).to(tl.int64) * (H // share) + h // share
                k = tl.load(K + (earlier * D)[:, None] + width[None, :]).to(tl.float32)
                previous += tl.exp2(tl.sum(q * k, 1) * scale - tl.load(LSE + z * T + rows))
            tl.store(ROWS + b * T + rows, entropy * 0.6931471805599453 / H)
            tl.store(ROWS + rows_size + b * T + rows, previous / H)
        elif j <= block:
            bins = tl.arange(0, W)
            pairs = (blocks * (blocks + 1) // 2).to(tl.int64)
            inner = (block * (block + 1) // 2 + j) * 128 + part * BT % 128 + tl.arange(0, BT)
            total = tl.zeros([BT, W], tl.float32)
            for h in tl.range(0, H, num_stages=4):
                z = b * H + h
                place = z * pairs * 128 + inner
                gained = tl.load(MASS + (place * W)[:, None] + bins[None, :]).to(tl.float32)
                total += gained * tl.exp2(tl.load(TOP + place) - tl.load(LSE + z * T + rows))[:, None]
            place = b * pairs * 128 + inner
            tl.store(GAINED + (place * W)[:, None] + bins[None, :], total / H)

    @triton.jit
    def _gather(GAINED, FIRST, MEAN, T, WIDTH, blocks, W: tl.constexpr, BT: tl.constexpr, WB: tl.constexpr):
        """Masses of BT queries, from what the blocks of keys gave to their bins: MEAN (B, T, WIDTH)."""
        part = tl.num_programs(0) - 1 - tl.program_id(0)
        b = tl.program_id(1)
        rows = part * BT + tl.arange(0, BT)
        block = part * BT // 128
        to = MEAN + ((b * T + rows).to(tl.int64) * WIDTH)[:, None]
        whole = tl.arange(0, WB)
        tl.store(to + whole[None, :], tl.zeros([BT, WB], tl.float32), mask=(whole < WIDTH)[None, :])
        tl.debug_barrier()
        pairs = (blocks * (blocks + 1) // 2).to(tl.int64)
        at = (b * pairs + block * (block + 1) // 2) * 128 + part * BT % 128 + tl.arange(0, BT)
        bins = tl.arange(0, W)
        for j in range(0, block + 1):
            gained = tl.load(GAINED + ((at + j * 128) * W)[:, None] + bins[None, :])
            column = tl.load(FIRST + b * blocks + j) + bins
            there = (column < WIDTH)[None, :]
            # blocks may share a bin: what the block before added is in memory when the next one reads it
            tl.store(to + column[None, :], tl.load(to + column[None, :], mask=there, other=0.0) + gained, mask=there)
            tl.debug_barrier()


def asked_for() -> bool:
    """Whether the environment asks for the one pass."""
    return os.environ.get("TRAILS_KERNELS") == "one-pass"


def usable(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether :func:`attention` computes this layer: bfloat16, whole blocks, (B, T, H, d) in memory, on a trusted device."""
    if gluon is None or not asked_for() or not query.is_cuda or query.dtype != torch.bfloat16 or query.shape[2] % BLOCK:
        return False
    if query.shape[2] < SHORTEST or query.shape[3] not in WIDTHS:
        return False
    if not all(x.transpose(1, 2).is_contiguous() for x in (query, key, value)):
        return False
    index = query.device.index or 0
    if index not in _trusted:
        if torch.cuda.is_current_stream_capturing():
            return False
        _trusted[index] = torch.cuda.get_device_capability(query.device) == (9, 0) and _check(query.device)
    return _trusted[index]


def failed(error: Exception, device: torch.device) -> None:
    """Take two passes from now on, and say so."""
    _trusted[device.index or 0] = False
    inner: BaseException = error
    while (deeper := inner.__cause__ or (None if inner.__suppress_context__ else inner.__context__)) is not None:
        inner = deeper  # Gluon wraps the reason once for every function that it was compiling
    reason = (str(inner).strip().splitlines() or [type(inner).__name__])[0]
    logger.warning("attention is measured in two passes: the one-pass kernel cannot be used: %s", reason)


def _check(device: torch.device) -> bool:
    """Run random attention of both widths both ways."""
    try:
        for width in (64, 128):
            generator = torch.Generator(device).manual_seed(width)
            shapes = ((2, 9 * BLOCK, heads, width) for heads in (4, 2, 2))
            query, key, value = (
                torch.randn(shape, generator=generator, device=device).bfloat16().transpose(1, 2) for shape in shapes
            )
            bins = (torch.arange(query.shape[2], device=device) // 11).repeat(2, 1)
            first, one_hot = block_bins(bins)
            count = int(bins.max()) + 1
            whole = (bins.unsqueeze(-1) == torch.arange(kernels.padded_bins(count), device=device)).bfloat16()
            spans = torch.stack((torch.arange(count - 2) * 11, torch.arange(1, count - 1) * 11), -1)
            spans = spans.int().repeat(2, 1, 1).to(device)
            scale = width**-0.5
            two = kernels.attention(query, key, value, scale, whole, kernels.chunk_edges(bins, whole.shape[-1]), spans)
            one = attention(query, key, value, scale, first, one_hot, spans, whole.shape[-1])
            for name, a, b, most in zip(
                ("output", "masses", "sums", "rows"), one, two, (0.03, 4e-3, 4e-2, 4e-3), strict=True
            ):
                gap = float((a.float() - b.float()).nan_to_num().abs().max())
                if not gap <= most or not torch.equal(a.isnan(), b.isnan()):
                    raise RuntimeError(f"its {name} of width {width} differ by {gap:.2g} from those of two passes")
    except Exception as error:  # Gluon's errors have no common base
        failed(error, device)
        return False
    return True


def meant_for(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the kernel is made for a device and may still be used there."""
    if gluon is None or not asked_for() or device.type != "cuda" or dtype != torch.bfloat16:
        return False
    return _trusted.get(device.index or 0, True) and torch.cuda.get_device_capability(device) == (9, 0)


def fits(bins: Longs) -> bool:
    """Whether ``bins`` (B, T), -1 = padding, are whole blocks of keys that hold :data:`COLUMNS` bins at most."""
    if bins.shape[1] % BLOCK:
        return False
    blocks = bins.reshape(len(bins), -1, BLOCK)
    return bool((blocks.max(-1) - blocks[..., 0] < COLUMNS).all())


def block_bins(bins: Tensor) -> tuple[Tensor, Tensor]:
    """First bin of every block of keys (B, T / 128) int32, and one-hot bins from it on (B, T, 16) bfloat16; padding counts for
    nothing. ``bins`` (B, T) never decrease up to the padding (-1).
    """
    B, T = bins.shape
    blocks = bins.reshape(B, T // BLOCK, BLOCK)
    first = blocks[..., 0].clamp_min(0)
    inner = torch.where(blocks < 0, -1, blocks - first[..., None]).reshape(B, T)
    one_hot = (inner.unsqueeze(-1) == torch.arange(COLUMNS, device=bins.device)).bfloat16()
    return first.int().contiguous(), one_hot


def attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float, first: Tensor, one_hot: Tensor, spans: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As :func:`trails.measure.kernels.attention`, for bins whose every block of keys holds at most 16: ``first`` and
    ``one_hot`` of :func:`block_bins`, ``width`` W of the masses.
    """
    B, H, T, D = query.shape
    G, blocks = key.shape[1], T // BLOCK
    device = query.device
    layout = gl.NVMMASharedLayout.get_default_for

    def described(tensor: Tensor, rows: int, columns: int) -> TensorDescriptor:
        whole = tensor.numel() // (B * T)
        return TensorDescriptor(
            tensor, [B * T, whole], [whole, 1], [rows, columns], layout([rows, columns], gl.bfloat16)
        )

    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    pairs = blocks * (blocks + 1) // 2
    out = torch.empty(B, T, H, D, dtype=query.dtype, device=device)
    lse, entropy = torch.empty(2, B * H, T, dtype=torch.float32, device=device)
    mass = torch.empty(B * H, pairs, BLOCK, COLUMNS, dtype=torch.bfloat16, device=device)
    top = torch.empty(B * H, pairs, BLOCK, dtype=torch.float32, device=device)
    in_bits = scale * 1.4426950408889634
    _one_pass[(blocks, B * H)](
        described(q, 64, D), described(k, BLOCK, D), described(v, BLOCK, D), described(one_hot, BLOCK, COLUMNS),
        out, lse, mass, top, entropy, in_bits, H, H // G, T,
        W=COLUMNS, STAGES=2, BN=BLOCK, D=D, num_warps=4, maxnreg=168,
    )  # fmt: skip
    gained = torch.empty(B, pairs, BLOCK, COLUMNS, dtype=torch.float32, device=device)
    means = torch.empty(B, 1, T, width, dtype=torch.float32, device=device)
    sums = torch.empty(2, B, 1, T, dtype=torch.float32, device=device)
    _rescale[(T // 64, blocks + 1, B)](
        mass, top, lse, entropy, q, k, gained, sums, in_bits, H, H // G, T, blocks, B * T,
        W=COLUMNS, BT=64, D=D, num_warps=4,
    )  # fmt: skip
    tile = 16
    _gather[(T // tile, B)](
        gained, first, means, T, width, blocks, W=COLUMNS, BT=tile, WB=triton.next_power_of_2(width), num_warps=2
    )
    return out, *kernels.over_rows(means, sums, spans, 1)
