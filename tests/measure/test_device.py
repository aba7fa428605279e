"""What belongs to a GPU, as far as a machine without one can check it: kernels in the interpreter, back-off, noise floor."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from reference import QUESTION, TEXT, item, scorer_of
from test_truth import PLAIN, largest_difference, many
from transformers.masking_utils import sliding_window_causal_mask_function

from trails.errors import ModelError
from trails.measure import hopper, kernels
from trails.measure.attention import Layout, Recorder, blocked_attention, recording, trails_mask
from trails.measure.base import MeasureOptions
from trails.measure.huggingface import differences
from trails.measure.metrics import attention_shift, logit_statistics
from trails.measure.passes import passes_of
from trails.measure.replay import agree

KERNELS = """
import torch
from trails.measure import kernels as K, attention as A, metrics as M
torch.manual_seed(0)
K._CONFIG = {64: (32, 16, 4, 2), 128: (32, 16, 4, 2)}
K._failed = True  # the plain path first
def gap(a, b):
    assert (a.isnan() == b.isnan()).all()
    return float((a.float() - b.float()).abs().nan_to_num().max())
for B, H, G, T, D, n in ((2, 4, 2, 75, 64, 9), (1, 3, 1, 130, 128, 90)):
    q, k, v = (torch.randn(B, T, h, D).half().transpose(1, 2) for h in (H, G, G))
    bins = torch.randint(1, n, (B, T)).sort(1).values
    bins[:, 0] = 0
    keep = (bins.unsqueeze(1) == torch.arange(2, n)[None, :, None]).float()
    layout = A.Layout(bins, keep, torch.randint(0, T, (B, 5, 2)))
    out, truth = A.blocked_attention(q.float(), k.float(), v.float(), None, 0.3, None, A.Recorder(layout))
    mine, masses, steps, (shift, previous, sink, entropy) = K.attention(q, k, v, 0.3, *layout.for_kernel(torch.float16))
    assert gap(mine, out.transpose(1, 2)) < 4e-3
    assert gap(masses[..., :n], truth.masses) < 1e-3
    assert gap(steps, torch.bmm(keep, truth.masses)) < 5e-3
    assert gap(shift, M.attention_shift(truth.masses)) < 1e-3
    assert gap(sink, truth.masses[..., 0]) < 1e-3
    assert gap(previous, truth.previous) < 1e-5
    assert gap(entropy, truth.entropy) < 1e-4
state, pairs = torch.randn(2, 20, 1100), torch.randint(0, 20, (2, 8, 2))
state[1, 7] = state[1, 6]
unit = M.unit_rows(state)
shift, pair = K.hidden_shift(state, pairs)
assert gap(shift, M.hidden_shift(unit)) < 1e-5 and shift[1, 7] == 0
row = torch.arange(2)[:, None]
assert gap(pair, (unit[row, pairs[..., 0]] - unit[row, pairs[..., 1]]).square().sum(-1) / 2) < 1e-5
x, target = torch.randn(12, 5000) * 3, torch.randint(0, 5000, (12,))
target[3] = -1
truth = M.logit_statistics(lambda h: h, x, target, tile=100, block=5)
K._failed = False
through = M.logit_statistics(lambda h: h, x, target, tile=7, block=5, top=3)
assert not K._failed
for name in ("surprisal", "entropy", "rank", "shift"):
    assert gap(getattr(through, name).float(), getattr(truth, name).float()) < 1e-5, name
plain = x.log_softmax(1).topk(3)
assert torch.equal(through.top, plain.indices) and gap(through.top_log_p, plain.values) < 1e-5
# few items, fewer than are asked for, equal ones, and some that cannot be
x = torch.tensor([[1.0, 3, 2], [2, 2, 2], [-torch.inf, 0, -torch.inf]])
few = M.logit_statistics(lambda h: h, x, torch.tensor([1, 0, 1]), tile=3, block=3, top=4)
assert few.top.tolist() == [[1, 2, 0, -1], [0, 1, 2, -1], [1, 0, 2, -1]]
assert few.top_log_p[:, 3].isnan().all() and gap(few.top_log_p[2, :3], torch.tensor([0, -torch.inf, -torch.inf])) == 0
print("exact")
"""


@pytest.mark.slow
def test_kernels_compute_what_the_plain_functions_compute() -> None:
    """The Triton kernels, interpreted on the CPU, against the reference path of the same tensors."""
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", KERNELS],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=1200,
    )
    assert done.stdout.strip() == "exact", done.stderr[-2000:]


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


needs_two_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


def largest_gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest absolute difference; the same places must be undefined."""
    a, b = a.float(), b.float()
    assert torch.equal(a.isnan(), b.isnan())
    return float((a - b).abs().nan_to_num().max())


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("B", "H", "G", "T", "D", "bins"),
    [(2, 8, 2, 333, 64, 9), (1, 8, 2, 700, 128, 50), (2, 4, 4, 1000, 128, 200), (1, 2, 1, 31, 64, 3)],
)
def test_the_attention_kernel_on_the_gpu(B: int, H: int, G: int, T: int, D: int, bins: int, dtype: torch.dtype) -> None:
    """Against the plain path in float32 on the same inputs; weights enter the kernel's products in half precision."""
    torch.manual_seed(1)
    q, k, v = (torch.randn(B, T, n, D, device="cuda").to(dtype).transpose(1, 2) for n in (H, G, G))
    bin_of = torch.randint(1, bins, (B, T), device="cuda").sort(1).values
    bin_of[:, 0] = 0
    no_pairs = torch.zeros(B, 0, 2, dtype=torch.int64, device="cuda")
    layout = Layout(bin_of, torch.zeros(B, bins - 2, T, device="cuda"), no_pairs)
    out, truth = blocked_attention(q.float(), k.float(), v.float(), None, 0.2, None, Recorder(layout))
    assert truth is not None
    assert kernels.usable(q)
    assert kernels.attention_fits(q, k, v)
    output, masses, _, (shift, previous, sink, entropy) = kernels.attention(q, k, v, 0.2, *layout.for_kernel(dtype))
    assert largest_gap(output, out.transpose(1, 2)) < 3e-2
    assert largest_gap(masses[..., :bins], truth.masses) < 4e-3
    assert largest_gap(masses[..., bins:], torch.zeros_like(masses[..., bins:])) == 0 or masses.shape[-1] == bins
    assert largest_gap(previous, truth.previous) < 1e-4
    assert largest_gap(entropy, truth.entropy) < 1e-3
    assert largest_gap(shift, attention_shift(truth.masses)) < 4e-3
    assert largest_gap(sink, truth.masses[..., 0]) < 4e-3


needs_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
    reason="needs a CUDA device of compute capability 9.0",
)


@pytest.mark.gpu
@needs_hopper
@pytest.mark.parametrize(
    ("B", "H", "G", "T", "D", "step"), [(2, 4, 2, 1024, 128, 40), (1, 6, 2, 1152, 64, 10), (2, 2, 2, 2048, 64, 500)]
)
def test_one_pass_of_attention_against_float64(
    B: int, H: int, G: int, T: int, D: int, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps shorter than a block of keys and longer than several, padding behind one of the sequences.

    A mass is rounded to bfloat16 twice, as a weight and in its block: by 0.004 of it at most, less in the mean of many heads.
    """
    torch.manual_seed(2)
    q, k, v = (torch.randn(B, T, n, D, device="cuda").bfloat16().transpose(1, 2) for n in (H, G, G))
    bins = (torch.arange(T, device="cuda") // step + 2).repeat(B, 1)
    bins[:, :30], bins[:, 0] = 1, 0
    bins[-1, T - 200 :] = -1
    count = int(bins.max()) + 1
    assert hopper.fits(bins.cpu().numpy())
    monkeypatch.setenv("TRAILS_KERNELS", "one-pass")
    monkeypatch.setattr(hopper, "SHORTEST", 1024)
    monkeypatch.setattr(hopper, "WIDTHS", (64, 128))
    assert hopper.usable(q, k, v)
    keep = (bins.unsqueeze(1) == torch.arange(2, count, device="cuda")[None, :, None]).float()
    layout = Layout(bins, keep, torch.zeros(B, 0, 2, dtype=torch.int64, device="cuda"), narrow=True)
    one_hot, _, spans = layout.for_kernel(torch.bfloat16)
    scale = D**-0.5
    output, masses, steps, (shift, previous, sink, entropy) = hopper.attention(
        q, k, v, scale, *layout.for_one_pass(), spans, one_hot.shape[-1]
    )
    scores = q.double() @ k.double().repeat_interleave(H // G, 1).transpose(-1, -2) * scale
    scores.masked_fill_(torch.ones(T, T, dtype=torch.bool, device="cuda").triu(1), -torch.inf)
    weights = scores.softmax(-1)
    mean = weights.mean(1)
    truth = mean @ (bins.unsqueeze(-1) == torch.arange(count, device="cuda")).double()
    real = slice(0, T - 200)
    assert largest_gap(output, (weights @ v.double().repeat_interleave(H // G, 1)).transpose(1, 2)) < 2e-2
    assert largest_gap(masses[:, real, :count], truth[:, real]) < 4e-3
    assert largest_gap(steps, keep.double() @ truth) < 4e-3 * step
    assert largest_gap(entropy, torch.special.entr(weights).sum(-1).mean(1)) < 1e-5
    assert largest_gap(previous[:, 1:], mean.diagonal(offset=-1, dim1=1, dim2=2)) < 1e-5
    assert previous[:, 0].isnan().all()
    assert largest_gap(sink[:, real], truth[:, real, 0]) < 4e-3
    assert largest_gap(shift[:, real], attention_shift(truth)[:, real]) < 4e-3


COMPILED = """
import sys
from pathlib import Path
import triton
from triton.backends.compiler import GPUTarget
from triton.experimental.gluon import language as gl
from triton.experimental.gluon._runtime import GluonASTSource
from trails.measure import hopper

D = int(sys.argv[1])
described = [
    f"tensordesc<bf16[{rows}, {columns}],{gl.NVMMASharedLayout.get_default_for([rows, columns], gl.bfloat16)!r}>"
    for rows, columns in ((64, D), (hopper.BLOCK, D), (hopper.BLOCK, D), (hopper.BLOCK, hopper.COLUMNS))
]
kinds = [*described, "*bf16", "*fp32", "*bf16", "*fp32", "*fp32", "fp32", "i32", "i32", "i32", *["constexpr"] * 4]
names = hopper._one_pass.arg_names
fixed = {"W": hopper.COLUMNS, "STAGES": 2, "BN": hopper.BLOCK, "D": D}
source = GluonASTSource(
    hopper._one_pass, dict(zip(names, kinds, strict=True)), {(names.index(k),): v for k, v in fixed.items()}
)
triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4, "maxnreg": 168})
print("compiled")
"""


@pytest.mark.parametrize("width", [64, 128])
def test_the_one_pass_kernel_compiles_without_a_gpu(width: int, tmp_path: Path) -> None:
    """By the Triton that is installed: Gluon is young, and Triton 3.9 removed a function that the kernel called."""
    pytest.importorskip("triton.experimental.gluon", reason="Triton with Gluon is not installed")
    done = subprocess.run(
        [sys.executable, "-c", COMPILED, str(width)],
        capture_output=True, text=True, check=False, env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout.strip() == "compiled", done.stderr[-2000:]


@pytest.mark.gpu
@needs_hopper
def test_a_model_measured_in_one_pass_gives_the_numbers_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama (grouped-query)", head_dim=64, max_position_embeddings=8192).to("cuda", torch.bfloat16)
    steps = tuple(f"{n} " for n in range(100, 160))
    text = "".join(step * 8 for step in steps)
    long = item(text, "", tuple(step for step in steps[1:]), source_id="long")
    calls: list[int] = []
    one_pass = hopper.attention
    monkeypatch.setenv("TRAILS_KERNELS", "one-pass")
    monkeypatch.setattr(hopper, "SHORTEST", 1024)
    monkeypatch.setattr(hopper, "WIDTHS", (64, 128))

    def counted(*args: Any) -> Any:
        calls.append(1)
        return one_pass(*args)

    monkeypatch.setattr(hopper, "attention", counted)
    expected = scorer_of(model).measure([long], MeasureOptions(batch_tokens=10_000))
    assert calls
    monkeypatch.setattr(hopper, "fits", lambda bins: False)
    calls.clear()
    found = scorer_of(model).measure([long], MeasureOptions(batch_tokens=10_000))
    assert not calls
    assert max(differences(expected, found).values()) < 0.2


def test_the_one_pass_has_to_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hopper, "gluon", object())
    monkeypatch.setattr(hopper, "_trusted", {})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    found = []
    for wanted in ("on", "one-pass"):
        monkeypatch.setenv("TRAILS_KERNELS", wanted)
        found.append(hopper.meant_for(torch.device("cuda", 0), torch.bfloat16))
    assert found == [False, True]


def test_bins_of_blocks_of_keys() -> None:
    bins = torch.tensor([[0, *([1] * 100), *([2] * 27), *([2] * 64), *([3] * 64)]])
    first, one_hot = hopper.block_bins(bins)
    assert first.tolist() == [[0, 2]]
    assert one_hot.shape == (1, 256, 16)
    assert one_hot.sum() == 256
    assert one_hot[0, 0, 0] == one_hot[0, 127, 2] == one_hot[0, 128, 0] == one_hot[0, 255, 1] == 1
    padded = torch.cat((bins, torch.full((1, 128), -1)), 1)
    first, one_hot = hopper.block_bins(padded)
    assert first.tolist() == [[0, 2, 0]]
    assert one_hot[:, 256:].sum() == 0
    assert hopper.fits(padded.numpy())
    assert not hopper.fits(padded[:, :300].numpy())  # no whole blocks
    many_bins = torch.arange(256)[None] // 8
    assert hopper.fits(many_bins.numpy())
    assert not hopper.fits((torch.arange(256)[None] // 7).numpy())


def test_one_pass_that_differs_from_two_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def made_up(gap: float) -> Any:
        return lambda query, *_: tuple(torch.zeros(3, device=query.device) + gap for _ in range(4))

    monkeypatch.setattr(hopper, "_trusted", {})
    monkeypatch.setattr(kernels, "attention", made_up(0.0))
    monkeypatch.setattr(hopper, "attention", made_up(0.0))
    assert hopper._check(torch.device("cpu"))
    monkeypatch.setattr(hopper, "attention", made_up(0.01))
    assert not hopper._check(torch.device("cpu"))
    assert caplog.messages == [
        "attention is measured in two passes: the one-pass kernel cannot be used: its masses of width 64 differ by 0.01 from "
        "those of two passes"
    ]
    monkeypatch.setattr(hopper, "attention", made_up(float("nan")))
    assert not hopper._check(torch.device("cpu"))
    assert hopper._trusted == {0: False}


@pytest.mark.gpu
@needs_gpu
def test_the_logit_kernel_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    logits = torch.randn(777, 50_000, device="cuda").mul_(3).bfloat16()
    targets = torch.randint(0, 50_000, (777,), device="cuda")
    targets[5] = -1
    found = logit_statistics(lambda rows: rows, logits, targets, tile=300, block=50, top=5)
    assert not kernels._failed
    monkeypatch.setattr(kernels, "_failed", True)
    plain = logit_statistics(lambda rows: rows, logits, targets, tile=300, block=50, top=5)
    for name in ("surprisal", "entropy", "rank", "shift", "top_log_p"):
        assert largest_gap(getattr(found, name), getattr(plain, name)) < 1e-4, name
    assert torch.equal(logits.gather(1, found.top), logits.gather(1, plain.top))  # equal logits may change places


@pytest.mark.gpu
@needs_gpu
def test_the_hidden_kernel_on_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    state = torch.randn(3, 200, 576, device="cuda").bfloat16()
    pairs = torch.randint(0, 200, (3, 64, 2), device="cuda")
    layout = Layout(torch.zeros(3, 200, dtype=torch.int64, device="cuda"), torch.zeros(3, 1, 200, device="cuda"), pairs)
    found, plain = Recorder(layout), Recorder(layout)
    found.hidden(state)
    assert not kernels._failed
    monkeypatch.setattr(kernels, "_failed", True)
    plain.hidden(state)
    for name in ("hidden_shift", "baseline"):
        assert largest_gap(getattr(found, name)[0], getattr(plain, name)[0]) < 1e-5, name


@pytest.mark.gpu
@needs_two_gpus
def test_a_second_gpu_gives_the_numbers_of_the_first() -> None:
    """Its events and kernels belong to it, not to the current device: otherwise results are read before they have landed."""
    first = tiny("llama (grouped-query)", head_dim=64).to("cuda:0", torch.bfloat16)
    scorers = [scorer_of(first), scorer_of(copy.deepcopy(first).to("cuda:1"))]
    items = [item(TEXT * (1 + n % 3), QUESTION, (), source_id=str(n)) for n in range(60)]
    for scorer in scorers:
        scorer.run.notes["noise_floor"] = {}
    before = torch.cuda.current_device()
    for _ in range(4):  # ordinary passes, recorded ones, replayed ones
        expected, found = (scorer.measure(items, MeasureOptions(batch_tokens=400)) for scorer in scorers)
        for a, b in zip(expected, found, strict=True):
            assert largest_difference(a, b) < 1e-2
    assert not kernels._failed
    assert torch.cuda.current_device() == before
    assert str(scorers[1].run.notes["device"]) == "cuda:1"


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("width", [16, 64])  # without and with the attention kernel
def test_replayed_batches_give_the_same_numbers(width: int) -> None:
    scorer = scorer_of(tiny("llama (grouped-query)", head_dim=width).to("cuda", torch.bfloat16))
    scorer.run.notes["noise_floor"] = {}
    expected = scorer.measure(many(), MeasureOptions(batch_tokens=10_000))
    assert scorer._graphs.usable
    for _ in range(4):
        for a, b in zip(expected, scorer.measure(many(), MeasureOptions(batch_tokens=10_000)), strict=True):
            assert largest_difference(a, b) < 1e-2
    assert scorer._graphs.usable
    assert any(found is not None and found.trusted for found in scorer._graphs._recorded.values())
    assert all(all(masks) for masks in scorer._left_out.values())


@pytest.mark.gpu
@needs_gpu
def test_starting_a_replayed_batch_waits_for_nothing() -> None:
    """An ordinary one waits once, at its start: transformers looks whether sequences are packed."""
    scorer = scorer_of(tiny("llama (grouped-query)", head_dim=64).to("cuda", torch.bfloat16))
    passes = [part for one in many() for part in passes_of(scorer.sequence(one), scorer.run)]
    with scorer.model.measuring():
        for _ in range(4):  # kernels compiled, a graph recorded and trusted, memory for the copies held
            expected = scorer._launch(passes, PLAIN)
            assert expected.landed is not None
            expected.landed.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = scorer._launch(passes, PLAIN)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert not kernels._failed  # a wait inside a kernel's call would have been taken for its failure
    assert found.landed is not None
    found.landed.synchronize()
    for name, values in expected.found.items():
        assert torch.equal(values.nan_to_num(), found.found[name].nan_to_num())


@pytest.mark.slow
def test_without_a_gpu_graphs_give_up_and_shapes_for_them_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorer_of(tiny("llama (grouped-query)"))
    expected = scorer.measure(many(), PLAIN)
    monkeypatch.setattr(scorer, "_launches_dominate", lambda tokens: True)  # rounded lengths and numbers of steps
    for _ in range(3):
        for a, b in zip(expected, scorer.measure(many(), MeasureOptions(batch_tokens=10_000)), strict=True):
            assert largest_difference(a, b) < 1e-4
    assert scorer._graphs.usable == torch.cuda.is_available()


def test_a_replay_with_other_numbers_is_not_used() -> None:
    hidden, found = torch.ones(2, 3), {"entropy": torch.tensor([1.0, torch.nan])}
    assert agree((hidden, found), (hidden + 1e-3, {"entropy": torch.tensor([1.001, torch.nan])}))
    assert not agree((hidden, found), (hidden + 0.1, found))
    assert not agree((hidden, found), (hidden, {"entropy": torch.tensor([1.0, 2.0])}))


def test_a_recorded_pass_leaves_out_the_masks_that_an_ordinary_one_left_out() -> None:
    layout = Layout(torch.zeros(1, 5, dtype=torch.int64), torch.zeros(1, 0, 5), torch.zeros(1, 0, 2, dtype=torch.int64))
    size = {"batch_size": 1, "q_length": 5, "kv_length": 5}
    window = {"local_size": 3, "mask_function": sliding_window_causal_mask_function(3)}
    with recording(ordinary := Recorder(layout)):
        assert trails_mask(**size) is None
        assert trails_mask(**size, **window) is not None
    assert ordinary.left_out == [True, False]
    # while a graph is recorded transformers hides from the mask function that nothing is packed
    blind = {"allow_is_causal_skip": False}
    with recording(Recorder(layout)):
        assert trails_mask(**size, **blind) is not None
    with recording(later := Recorder(layout, known_left_out=tuple(ordinary.left_out))):
        assert trails_mask(**size, **blind) is None
        assert trails_mask(**size, **window, **blind) is not None
        assert trails_mask(**size, **blind) is not None  # a mask that the ordinary pass did not ask for
    assert later.left_out == [True, False, False]


def test_a_chain_named_twice_gives_the_same_trace_twice() -> None:
    scorer = scorer_of(tiny("llama (grouped-query)"))
    once = scorer.measure([item()], PLAIN)
    for found in scorer.measure([item(), item()], MeasureOptions(batch_tokens=10_000)):
        assert largest_difference(once[0], found) < 1e-5


def test_out_of_memory_halves_the_batch_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorer_of(tiny("llama (grouped-query)"))
    expected = scorer.measure(many(), PLAIN)
    forward, sizes = scorer.model.hidden, []

    def small(ids: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(ids, *args, **kwargs)

    monkeypatch.setattr(scorer.model, "hidden", small)
    found = scorer.measure(many(), MeasureOptions(batch_tokens=10_000))
    assert sizes[0] == len(many())
    assert max(sizes[2:]) <= 4
    for a, b in zip(expected, found, strict=True):
        assert largest_difference(a, b) < 1e-4


def test_a_chain_that_never_fits_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = scorer_of(tiny("llama (grouped-query)"))

    def never(*_: Any, **__: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(scorer.model, "hidden", never)
    with pytest.raises(ModelError) as error:
        scorer.measure([item()], PLAIN)
    assert str(error.value) == (
        f"chain {item().chain.id} with {scorer.count_tokens(item())} tokens does not fit into the memory of cpu next to tiny. "
        "Use a smaller dtype, a smaller model, or --device cpu."
    )


@pytest.mark.slow
def test_the_noise_floor_is_measured_for_short_dtypes_and_kept_in_the_run() -> None:
    scorer = scorer_of(tiny("llama (grouped-query)").to(torch.bfloat16))
    before = scorer.run.id
    scorer.measure(many(), PLAIN)
    floor = scorer.run.notes["noise_floor"]
    assert scorer.run.id == before
    assert set(floor) == {"batch", "float32"}
    assert 0 < floor["float32"]["surprisal_mean"] <= floor["float32"]["surprisal"]
    assert floor["float32"]["surprisal"] > 1e-3  # bfloat16 keeps eight bits
    exact = scorer_of(tiny("llama (grouped-query)"))
    exact.measure(many(), PLAIN)
    assert "noise_floor" not in exact.run.notes
    assert exact.noise_floor(many())["batch"]["surprisal"] < 1e-4
    assert np.isfinite(list(floor["batch"].values())).all()
