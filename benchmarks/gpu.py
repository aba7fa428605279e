"""Every GPU figure of the measuring path in one go: cost against a bare forward, kernels on and off, noise floor. The kernels'
correctness is tested: python -m pytest -m gpu tests/measure.

    python -m benchmarks.gpu [--minutes 9] [--repeats 5] [--only correctness,kernels,135M,1B,8B,ingest,real,profile,workers]

One CUDA GPU, bfloat16, random weights of Llama shape (speed does not depend on what was learnt). Baselines in the same
run, each with the log-likelihood of every token compiled, in the tiles that measuring uses, and attention causal by flag: the
trunk eager; every layer compiled for this one batch shape (``for layer in model.layers: layer.compile()``); for the smaller
shapes the whole forward pass compiled for this one shape and replayed from a CUDA graph. Times are medians of the wall clock
around a synchronised call of several batches in a row, variants interleaved, clock and power read while they run. ``all
measures`` is everything that ends in a Trace, transfers included, with the layers compiled as a long ingest has them. A short
row carries what the host does before its first batch and after its last, beside which the GPU has nothing to do; ``a further
batch of a long row`` is what one more batch costs where there are hundreds: the time of 3 n batches less that of n, over 2 n.
The cost table splits both columns by kernel. ``ingest``: `trails ingest` of text against measuring alone. ``real``: the noise
floor of the packaged model. ``workers`` runs only when asked for: `trails ingest --workers N` for one worker and for as many as
there are GPUs, each in processes of its own, after a short run that fills the caches of the compilers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import sequence_of, unpacking
from trails.measure import MeasureOptions, kernels
from trails.measure.attention import Layout
from trails.measure.huggingface import HuggingFaceScorer
from trails.measure.metrics import logit_statistics
from trails.measure.packaged import packaged_model
from trails.measure.passes import Pass, pack, unpacked

SHAPES: dict[str, dict[str, int]] = {
    "135M": {"d": 576, "layers": 30, "heads": 9, "kv": 3, "ffn": 1536, "vocab": 49152},
    "1B": {"d": 2048, "layers": 16, "heads": 32, "kv": 8, "ffn": 8192, "vocab": 128256},
    "8B": {"d": 4096, "layers": 32, "heads": 32, "kv": 8, "ffn": 14336, "vocab": 128256},
}


@dataclass(frozen=True)
class Goal:
    """All measures as a multiple of the layer-compiled log-likelihood (or of its CUDA graph): before, and the goal."""

    before: str
    cost: float
    of_graph: bool = False


CASES = {  # batch, length, tokens per step
    "135M": [(32, 256, 24, Goal("1.8", 1.25, of_graph=True)), (8, 2048, 40, Goal("2.4", 1.25))],
    "1B": [(8, 2048, 40, Goal("1.40", 1.10))],
    "8B": [(8, 2048, 40, Goal("1.23", 1.03)), (2, 8192, 40, Goal("1.33", 1.08))],
}


def tokenizer() -> Any:
    """Bytes; the benchmark gives ids, so it only has to exist."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def scorer_of(shape: str, dtype: torch.dtype = torch.bfloat16) -> HuggingFaceScorer:
    """Random weights of a shape, made on the GPU."""
    from transformers import LlamaConfig, LlamaForCausalLM

    s = SHAPES[shape]
    config = LlamaConfig(
        vocab_size=s["vocab"],
        hidden_size=s["d"],
        intermediate_size=s["ffn"],
        num_hidden_layers=s["layers"],
        num_attention_heads=s["heads"],
        num_key_value_heads=s["kv"],
        max_position_embeddings=16384,
        tie_word_embeddings=shape != "8B",
    )
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    return HuggingFaceScorer(model.eval(), tokenizer(), name=shape, revision="random")


def passes_of(shape: str, batch: int, length: int, step: int) -> list[Pass]:
    """Random ids in steps of ``step`` tokens."""
    generator = np.random.default_rng(0)
    made = []
    for _ in range(batch):
        sequence = sequence_of(generator.integers(0, SHAPES[shape]["vocab"], length).tolist(), step)
        made.append(Pass(sequence, 0, 0, length))
    return made


def timed(function: Callable[[], Any]) -> float:
    """Seconds of one synchronised call."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def log_likelihood(head: Any, rows: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target."""
    return torch.log_softmax(head(rows).float(), -1).gather(1, targets[:, None])[:, 0]


@contextmanager
def bare(scorer: HuggingFaceScorer) -> Iterator[None]:
    """Attention and mask as PyTorch has them: causal by flag, so that no compiler falls into a written-out mask."""
    from transformers import AttentionInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register("bare", sdpa_attention_forward)
    AttentionMaskInterface.register("bare", lambda **_: None)
    with scorer.model.attending("bare"):
        yield


@contextmanager
def layer_compiled(layers: Sequence[Any]) -> Iterator[None]:
    """``for layer in model.layers: layer.compile()``, undone at the end; kept, so that the next use compiles nothing."""
    for layer in layers:
        if getattr(layer, "_kept", None) is None:
            layer.compile(dynamic=False, fullgraph=True)
            object.__setattr__(layer, "_kept", layer._compiled_call_impl)
        layer._compiled_call_impl = layer._kept
    try:
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None


@dataclass
class Times:
    """Repeats of one variant: seconds, clock in MHz and power in watts while it ran, largest memory in GiB."""

    seconds: list[float]
    clock: list[float]
    power: list[float]
    peak: float = 0.0

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)


def measured(function: Callable[[], Any], times: Times, share: int) -> None:
    """One more repeat of ``share`` batches; clock and power are read while the GPU still works."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    function()
    with suppress(Exception):  # NVML may be missing
        times.clock.append(float(torch.cuda.clock_rate()))
        times.power.append(torch.cuda.power_draw() / 1000)
    torch.cuda.synchronize()
    times.seconds.append((time.perf_counter() - start) / share)


KINDS = {
    "products": ("gemm", "nvjet", "cutlass", "xmma", "cublas"),
    "attention": ("cudnn", "flash", "fmha", "sdpa"),
    "attention measures": ("_masses", "_head_means", "_step_sums", "_one_pass", "_rescale"),
    "hidden shifts": ("_hidden",),
    "logit statistics": ("_logits", "_variation", "_top"),
    "transfers": ("memcpy",),
}
"""Parts of the device time and what the names of their kernels hold; what fits none is elementwise."""


def kind_of(kernel: str) -> str:
    """The part of the device time that a kernel belongs to."""
    name = kernel.lower()
    if name.startswith("triton_"):
        return "elementwise"  # what the compiler made
    return next((kind for kind, words in KINDS.items() if any(word in name for word in words)), "elementwise")


def device_times(function: Callable[[], Any], share: int) -> dict[str, float]:
    """Milliseconds of the device by part for one of ``share`` batches, from a profile."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    torch.cuda.synchronize()
    with profiler(activities=[ProfilerActivity.CUDA]) as found:
        function()
        torch.cuda.synchronize()
    parts: dict[str, float] = dict.fromkeys((*KINDS, "elementwise"), 0.0)
    for event in found.key_averages():
        parts[kind_of(event.key)] += event.self_device_time_total / 1e3 / share
    return parts


def cost_table(columns: dict[str, tuple[Callable[[], Any], int, float]]) -> None:
    """Where the time of each column goes: device milliseconds by part and what the clock says beyond them (idle), so that
    every column adds up to its time, and the difference of two columns to the difference of their times.
    """
    parts = {}
    for name, (function, share, seconds) in columns.items():
        parts[name] = device_times(function, share)
        parts[name]["idle or overlapping"] = seconds * 1e3 - sum(parts[name].values())
    print("  device ms of one batch" + "".join(f"{name:>26s}" for name in columns))
    for part in next(iter(parts.values())):
        print(f"  {part:22s}" + "".join(f"{found[part]:26.2f}" for found in parts.values()))
    print(f"  {'sum = wall clock':22s}" + "".join(f"{sum(found.values()):26.2f}" for found in parts.values()))


def further_batches(rows: dict[str, tuple[Times, Times]], count: int, ours: str) -> None:
    """What a further batch costs in a long row: per name a row of ``count`` batches and one of three times as many, both per
    batch, repeat by repeat.
    """
    slopes = {
        name: [(3 * b - a) / 2 for a, b in zip(short.seconds, long.seconds, strict=True)]
        for name, (short, long) in rows.items()
    }
    print(f"  a further batch of a long row, ({3 * count} batches - {count}) / {2 * count}:")
    for name, values in slopes.items():
        value = statistics.median(values)
        ratio = f", {ours} {statistics.median(slopes[ours]) / value:.3f} of it" if name != ours else ""
        print(f"    {name:30s}{value * 1e3:9.2f} ms, from {min(values) * 1e3:.2f} to {max(values) * 1e3:.2f}{ratio}")


def host_times(scorer: HuggingFaceScorer, passes: list[Pass], repeats: int = 5) -> None:
    """CPU milliseconds of the host for one batch: starting it, which blocks where the GPU is far behind, and unpacking it."""
    started = []
    with scorer.model.measuring():
        for _ in range(repeats):
            torch.cuda.synchronize()
            start = time.thread_time()
            flight = scorer._launch(passes, MeasureOptions())
            started.append(time.thread_time() - start)
        torch.cuda.synchronize()
    whole, after = unpacking(scorer, flight)
    print(
        f"  host, CPU ms of one batch: starting {statistics.median(started) * 1e3:.2f}, unpacking {whole * 1e3:.2f}, of it "
        f"after the statistics {after * 1e3:.2f}"
    )


def case(scorer: HuggingFaceScorer, shape: str, batch: int, length: int, step: int, goal: Goal, repeats: int) -> None:
    """One row group of the table."""
    passes = passes_of(shape, batch, length, step)
    words = scorer.model.tensor(pack(passes, length))
    _, ids = unpacked(words, length, max(len(p.sequence.row.step_tokens) for p in passes))
    compiled_likelihood = torch.compile(log_likelihood, dynamic=False)
    most, _ = scorer.model.tile()
    rows = -(-batch * length // -(-batch * length // most))  # tiles of even size, as in measuring
    head, decoder = scorer.model.module.get_output_embeddings(), scorer.model.module.get_decoder()
    in_row = 2 if shape == "8B" else 4
    long_row = 3 * in_row
    in_a_row = [passes, *(passes_of(shape, batch, length, step) for _ in range(long_row - 1))]

    def likelihood(function: Callable[..., Tensor], times: int) -> None:
        with torch.inference_mode(), bare(scorer):
            for _ in range(times):
                hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
                targets = ids.roll(-1, 1).flatten()
                for begin in range(0, len(hidden), rows):
                    function(head, hidden[begin : begin + rows], targets[begin : begin + rows])

    def by_layers(times: int) -> None:
        with layer_compiled(scorer.model.layers):
            likelihood(compiled_likelihood, times)

    def one_graph() -> Callable[[int], Any]:
        """Trunk and log-likelihood as one compiled function of fixed shape, replayed from a CUDA graph."""

        def forward(ids: Tensor) -> Tensor:
            hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
            targets = ids.roll(-1, 1).flatten()
            tiles = range(0, len(hidden), rows)
            return torch.cat([log_likelihood(head, hidden[i : i + rows], targets[i : i + rows]) for i in tiles])

        function = torch.compile(forward, mode="reduce-overhead", dynamic=False)

        def run(times: int) -> None:
            with torch.no_grad(), bare(scorer):
                for _ in range(times):
                    function(ids)

        return run

    def everything(compiling: bool, batches: int, options: MeasureOptions = MeasureOptions()) -> None:  # noqa: B008
        scorer._compiling = compiling
        for _ in scorer.measure_batches(in_a_row[:batches], options):
            pass

    # every baseline, too, runs several batches in a row: a function of their number
    functions: dict[str, Callable[[int], Any]] = {
        "LL, eager": lambda times: likelihood(compiled_likelihood, times),
        "LL, layers compiled": by_layers,
    }
    if shape != "8B":  # a graph of its kernels gains nothing there, and compiling it whole takes minutes
        functions["LL, all compiled, CUDA graph"] = one_graph()
    functions |= {
        "all measures, plain layers": lambda times: everything(False, times),
        "all measures": lambda times: everything(True, times),
        "all measures, a batch alone": lambda times: everything(True, times),
        "all + token attention": lambda times: everything(True, times, MeasureOptions(token_attention=True)),
    }
    alone = ("all measures, a batch alone",)
    further = ("LL, layers compiled", "LL, all compiled, CUDA graph", "all measures")
    found: dict[str, Times] = {}
    for name, function in list(functions.items()):
        began, times, count = time.perf_counter(), Times([], [], []), 1 if name in alone else in_row
        try:
            for _ in range(1 if shape == "8B" else 3):  # graphs are recorded at the second call, trusted at the third
                function(count)
            torch.cuda.reset_peak_memory_stats()
            function(count)
            torch.cuda.synchronize()
        except Exception as error:  # a baseline that cannot run is left out, not the whole table
            print(f"  {name}: {(str(error).splitlines() or [type(error).__name__])[0][:200]}", flush=True)
            del functions[name]
        else:
            times.peak = torch.cuda.max_memory_allocated() / 2**30
            found[name] = times
            print(f"  {name}: warm after {time.perf_counter() - began:.1f} s", flush=True)
        torch.cuda.empty_cache()
    long = {name: Times([], [], []) for name in further if name in found}
    for _ in range(repeats):
        for name, function in functions.items():
            count = 1 if name in alone else in_row
            measured(partial(function, count), found[name], count)
            if name in long:
                measured(partial(function, long_row), long[name], long_row)
    baselines = [name for name in found if name.startswith("LL")]
    best = min(baselines, key=lambda name: found[name].median)
    by = found.get("LL, layers compiled", found[best])
    graph = found.get("LL, all compiled, CUDA graph")
    tokens = batch * length
    print(
        f"\n{shape}, {batch} x {length}, steps of {step} tokens, bfloat16, {in_row} batches in a row, {repeats} repeats"
    )
    print(
        f"{'':30s}{'ms':>9s}{'tok/s':>10s}{'x layers':>10s}{'x graph':>10s}{'GiB':>8s}{'spread':>8s}{'MHz':>7s}{'W':>6s}"
    )
    for name, times in found.items():
        value = times.median
        ratios = f"{value / by.median:10.3f}{value / graph.median if graph else np.nan:10.3f}{times.peak:8.2f}"
        spread = (max(times.seconds) - min(times.seconds)) / value
        state = "".join(
            f"{statistics.median(values) if values else np.nan:{width}.0f}"
            for values, width in ((times.clock, 7), (times.power, 6))
        )
        print(f"{name:30s}{value * 1e3:9.2f}{tokens / value:10.0f}{ratios}{spread:8.1%}{state}")
    if "all measures" in found:
        ours = found["all measures"]
        against = graph if goal.of_graph and graph else by
        print(
            f"all measures {ours.median / against.median:.3f} of the {'graph' if goal.of_graph else 'layer-compiled'} "
            f"log-likelihood: before about {goal.before}, goal {goal.cost:.2f}; of the best of all ({best}) "
            f"{ours.median / found[best].median:.3f}; memory {ours.peak / by.peak:.3f}, goal 1.05"
        )
        further_batches({name: (found[name], long[name]) for name in long}, in_row, "all measures")
        host_times(scorer, passes)
        columns: dict[str, tuple[Callable[[], Any], int, float]] = {
            "LL, layers compiled": (lambda: by_layers(in_row), in_row, by.median),
            "all measures": (lambda: everything(True, in_row), in_row, ours.median),
        }
        cost_table({name: column for name, column in columns.items() if name in found})


def whole_path() -> None:
    """A model with kernels against the same model without, and its noise floor."""
    scorer = scorer_of("135M")
    generator = np.random.default_rng(3)
    sequences = [sequence_of(generator.integers(0, 49152, n).tolist(), 20) for n in (40, 90, 160, 200, 64, 120)]
    items = [s.item for s in sequences]
    scorer._encoded = {s.item.chain.id: s for s in sequences}
    from trails.measure.huggingface import differences

    scorer.run.notes["noise_floor"] = {}  # type: ignore[index]
    with_kernels = scorer.measure(items, MeasureOptions(batch_tokens=1))
    kernels._failed = True
    without = scorer.measure(items, MeasureOptions(batch_tokens=1))
    kernels._failed = False
    scorer._compiling = True
    print("\n135M shape, random weights, bfloat16: largest difference per measure")
    print("  kernels on / off      ", {k: f"{v:.1e}" for k, v in differences(with_kernels, without).items()})
    for name, floor in scorer.noise_floor(items).items():
        print(
            f"  noise floor, {name:9s}", {k: f"{v:.1e}" for k, v in floor.items()} if isinstance(floor, dict) else floor
        )


def kernel_times() -> None:
    """The attention kernel alone against flash attention, over its settings."""
    from torch.nn.functional import scaled_dot_product_attention as sdpa
    from triton.testing import do_bench

    def run(function: Callable[[], Any]) -> float:
        return float(do_bench(function, warmup=15, rep=60, return_mode="median"))

    print("\none layer's attention, ms: alone, then with its reductions")
    for B, H, G, T, D, bins in (
        (8, 32, 8, 2048, 128, 54),
        (2, 32, 8, 8192, 128, 207),
        (8, 32, 8, 2048, 64, 54),
        (8, 9, 3, 2048, 64, 54),
    ):
        q, k, v = (torch.randn(B, T, n, D, device="cuda").bfloat16().transpose(1, 2) for n in (H, G, G))
        bin_of = (torch.arange(T, device="cuda") * (bins - 2) // T + 2).repeat(B, 1)
        layout = Layout(
            bin_of, torch.zeros(B, bins - 2, T, device="cuda"), torch.zeros(B, 0, 2, dtype=torch.int64, device="cuda")
        )
        arguments = layout.for_kernel(torch.bfloat16)
        flash = run(lambda: sdpa(q, k, v, is_causal=True, enable_gqa=True))  # noqa: B023
        ours = run(lambda: kernels.attention(q, k, v, 0.1, *arguments))  # noqa: B023
        backend = "cuDNN" if kernels._cudnn(q, k, v) else "flash"
        rate = B * H * T * T / 2 * D * 4 / flash / 1e9
        print(
            f"  B{B} H{H}/{G} T{T} d{D} bins {bins}: {backend} {flash:.3f} ({rate:.0f} TFLOP/s), with reductions {ours:.3f}"
        )
    print("logits of 1,024 positions, 128,256 items, ms: a copy of them, compiled log-likelihood, all statistics")
    x = torch.randn(1024, 128_256, device="cuda").mul_(2).bfloat16()
    targets = torch.randint(0, 128_256, (1024,), device="cuda")

    def all_statistics() -> Any:
        return logit_statistics(lambda rows: rows, x, targets, tile=1024, block=256, top=5)

    compiled = torch.compile(lambda x, t: torch.log_softmax(x.float(), -1).gather(1, t[:, None])[:, 0])
    times = (run(x.clone), run(lambda: compiled(x, targets)), run(all_statistics))
    print("  " + ", ".join(f"{ms:.3f}" for ms in times))


def ingest(folder: Path, shape: str = "1B") -> None:
    """`trails ingest` of text with random weights of a shape, against measuring the same chains alone."""
    from transformers import AutoTokenizer

    from trails import sample
    from trails.config import load_settings
    from trails.pipeline import IngestOptions
    from trails.pipeline import ingest as run_ingest
    from trails.pipeline.measuring import SHARD_CHAINS, segmented
    from trails.readers import read

    scorer = HuggingFaceScorer(
        scorer_of(shape).model.module, AutoTokenizer.from_pretrained(folder), name=shape, revision="random"
    )
    scorer.run.notes["noise_floor"] = {}  # type: ignore[index]
    scorer._compiling = True  # as a long ingest has it
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "chains.jsonl"
        found = [*read([sample.path()])]
        with source.open("w", encoding="utf-8") as file:  # the sample over and over, each time as other chains
            for index in range(4000):
                chain = found[index % len(found)]
                row = {"source_id": str(index), "question": chain.question, "text": chain.text}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        items = [segmented(chain) for chain in read([source])]
        tokens = sum(map(scorer.count_tokens, items))

        def alone() -> None:
            for start in range(0, len(items), SHARD_CHAINS):
                scorer.measure(items[start : start + SHARD_CHAINS], MeasureOptions())

        alone()
        rates: dict[str, list[float]] = {"alone": [], "ingest": []}
        for repeat in range(2):
            rates["alone"].append(tokens / timed(alone))
            scorer._encoded.clear()
            settings = load_settings(home=Path(temporary) / f"home{repeat}", store="embedded")
            summary = run_ingest([source], settings, IngestOptions(), scorer=scorer)
            rates["ingest"].append(summary.tokens_per_second)
    print(
        f"\n`trails ingest`, {shape}, bfloat16, {len(items):,} chains, {tokens:,} tokens; goal 0.90 of measuring alone"
    )
    for name, values in rates.items():
        print(f"  {name:8s}" + ", ".join(f"{value:,.0f}" for value in values) + " tok/s")
    print(f"  ratio {max(rates['ingest']) / max(rates['alone']):.3f}")
    print("  busy, s: " + ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in summary.seconds.items()))


def workers(chains: int, shape: str = "1B") -> None:
    """`trails ingest --workers N` of the sample's text over and over, for one GPU and for all of them: seconds and their ratio.

    Random weights of the shape and a tokenizer of bytes. *Total* is what the command reports, from reading to the last shard,
    with the models' loading in it; *clock* adds the start of the interpreter.
    """
    from trails import sample
    from trails.readers import read

    gpus = torch.cuda.device_count()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        scorer_of(shape).model.module.save_pretrained(folder / "model")
        tokenizer().save_pretrained(folder / "model")
        torch.cuda.empty_cache()
        found = [*read([sample.path()])]

        def source(count: int) -> Path:
            path = folder / f"{count}.jsonl"
            with path.open("w", encoding="utf-8") as file:
                for index in range(count):
                    chain = found[index % len(found)]
                    row = {"source_id": str(index), "question": f"{index}. {chain.question}", "text": chain.text}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
            return path

        def run(path: Path, count: int) -> tuple[float, dict[str, Any]]:
            home = folder / f"{path.stem}-{count}"
            command = [sys.executable, "-m", "trails", "ingest", str(path), "--model", str(folder / "model")]
            command += ["--dtype", "bfloat16", "--device", "cuda", "--graph", "none", "--workers", str(count)]
            command += ["--home", str(home), "--json"]
            began = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
            return time.perf_counter() - began, json.loads(done.stdout)

        run(source(64), gpus)
        print(f"\n`trails ingest --workers N --graph none`, {shape}, bfloat16, {chains:,} chains")
        path = source(chains)
        rows = {}
        for count in sorted({1, gpus}):
            clock, told = run(path, count)
            tokens, total = told["sequence_tokens"], told["seconds"]["total"]
            loading = told["seconds"]["model"] / count
            rows[count] = (total - loading, total, clock)
            print(
                f"  {count} workers: {tokens:,} tokens, total {total:.1f} s, of it {loading:.1f} s loading, "
                f"clock {clock:.1f} s, {tokens / (total - loading):,.0f} tok/s after loading"
            )
            print("    busy, s: " + ", ".join(f"{k} {v:.1f}" for k, v in told["seconds"].items()), flush=True)
        if gpus > 1:
            after, total, clock = (one / many for one, many in zip(rows[1], rows[gpus], strict=True))
            print(
                f"  {gpus} GPUs: {after:.2f} times as fast as one after loading, {total:.2f} with it, "
                f"{clock:.2f} by the clock; goal 1.9 for two"
            )


def real() -> None:
    """Noise floor of the packaged model in bfloat16 on the packaged sample."""
    from trails import sample
    from trails.measure import open_scorer
    from trails.pipeline.measuring import segmented
    from trails.readers import read

    scorer = open_scorer(device="cuda", dtype="bfloat16")
    assert isinstance(scorer, HuggingFaceScorer)
    items = [segmented(chain) for chain in read([sample.path()])]
    found = scorer.measure(items[:64], MeasureOptions())
    mean = np.nanmean(np.concatenate([trace.surprisal for trace in found]))
    print(f"\nnoise floor of {scorer.run.model}, bfloat16, 8 chains of the sample (mean surprisal of 64: {mean:.3f})")
    for name, floor in scorer.run.notes["noise_floor"].items():
        print(f"  {name:8s}", {k: f"{v:.1e}" for k, v in floor.items()} if isinstance(floor, dict) else floor)


def profile(shape: str, batch: int, length: int) -> None:
    """Where the time of all measures goes, by kernel."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    scorer = scorer_of(shape)
    passes = passes_of(shape, batch, length, 40)
    for _ in range(2):
        list(scorer.measure_batches([passes], MeasureOptions()))
    torch.cuda.synchronize()
    with profiler(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        list(scorer.measure_batches([passes], MeasureOptions()))
        torch.cuda.synchronize()
    print(f"\nprofile of all measures, {shape}, {batch} x {length}")
    events = sorted(found.key_averages(), key=lambda e: -e.self_device_time_total)[:14]
    total = sum(e.self_device_time_total for e in found.key_averages())
    for event in events:
        share = event.self_device_time_total / total
        print(f"  {share:6.1%} {event.self_device_time_total / 1e3:9.2f} ms {event.count:6d} x {event.key[:90]}")


def main() -> None:
    """Run and print."""
    import transformers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", default="correctness,kernels,135M,1B,8B,ingest,real,profile")
    parser.add_argument("--chains", type=int, default=4000, help="chains of workers")
    parser.add_argument(
        "--tokenizer", type=Path, help="folder of a tokenizer for ingest (default: the packaged model's)"
    )
    args = parser.parse_args()
    only, start = args.only.split(","), time.monotonic()
    import triton

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}, Triton {triton.__version__}"
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version,power.limit,clocks.max.sm", "--format=csv,noheader"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    print(f"{torch.cuda.get_device_name()} (driver, power limit, largest clock: {driver.stdout.strip()}), {versions}")

    def left() -> bool:
        return time.monotonic() - start < args.minutes * 60

    if "correctness" in only:
        whole_path()
    if "kernels" in only:
        kernel_times()
    for shape, cases in CASES.items():
        if shape in only and left():
            scorer = scorer_of(shape)
            for batch, length, step, goal in cases:
                if left():
                    case(scorer, shape, batch, length, step, goal, args.repeats)
            del scorer
            torch._dynamo.reset()
            torch.cuda.empty_cache()
    if "ingest" in only and left():
        ingest(args.tokenizer or packaged_model())
        torch.cuda.empty_cache()
    if "real" in only and left():
        real()
    if "profile" in only and left():
        profile("8B", 2, 8192)
        torch.cuda.empty_cache()
        profile("1B", 8, 2048)
    if "workers" in only and left():
        workers(args.chains)
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
