"""Every GPU figure of the measuring path in one go: cost against a bare forward, kernels on and off, noise floor. The kernels'
correctness is tested: python -m pytest -m gpu tests/measure.

    python -m benchmarks.gpu [--minutes 9] [--only correctness,kernels,135M,1B,8B,ingest,real,profile] [--tokenizer FOLDER]

One CUDA GPU, bfloat16, random weights of Llama shape (speed does not depend on what was learnt). Baselines in the same
run: the trunk alone; trunk + log-likelihood of every token, plain and with the log-likelihood compiled, in the tiles that
measuring uses; for the smaller shapes also the whole forward pass with log-likelihood compiled for this one batch shape and
replayed from a CUDA graph. Times are medians of the wall clock around a synchronised call, variants interleaved. ``all
measures`` is everything that ends in a Trace, transfers included. ``ingest``: `trails ingest` of text against measuring
alone. ``real``: the noise floor of the packaged model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Part, sequence_of
from trails.measure import MeasureOptions, kernels
from trails.measure.attention import Layout, Recorder
from trails.measure.huggingface import HuggingFaceScorer
from trails.measure.packaged import packaged_model
from trails.measure.passes import Pass, pack, unpacked

SHAPES: dict[str, dict[str, int]] = {
    "135M": {"d": 576, "layers": 30, "heads": 9, "kv": 3, "ffn": 1536, "vocab": 49152},
    "1B": {"d": 2048, "layers": 16, "heads": 32, "kv": 8, "ffn": 8192, "vocab": 128256},
    "8B": {"d": 4096, "layers": 32, "heads": 32, "kv": 8, "ffn": 14336, "vocab": 128256},
}
CASES = {  # batch, length, tokens per step, goal (of the best bare log-likelihood)
    "135M": [(32, 256, 24, 1.15), (8, 2048, 40, 1.15)],
    "1B": [(8, 2048, 40, 1.00)],
    "8B": [(8, 2048, 40, 1.05), (2, 8192, 40, 1.08), (8, 2048, 24, 1.05)],
}
EAGER = {"135M": 1, "1B": 0, "8B": 0}
"""The case that is also run with the model's own eager attention and ``output_attentions``."""


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


def case(scorer: HuggingFaceScorer, shape: str, batch: int, length: int, step: int, goal: float, eager: bool) -> None:
    """One row group of the table."""
    passes = passes_of(shape, batch, length, step)
    words = scorer.model.tensor(pack(passes, length))
    layout, ids = unpacked(words, length, max(len(p.sequence.row.step_tokens) for p in passes))
    compiled = torch.compile(log_likelihood, dynamic=False)
    most, _ = scorer.model.tile()
    rows = -(-batch * length // -(-batch * length // most))  # tiles of even size, as in measuring
    head, decoder = scorer.model.module.get_output_embeddings(), scorer.model.module.get_decoder()
    in_row = 2 if shape == "8B" else 4
    in_a_row = [passes, *(passes_of(shape, batch, length, step) for _ in range(in_row - 1))]

    def trunk(recorder: Recorder | None = None) -> Tensor:
        with torch.inference_mode():
            return scorer.model.hidden(ids, recorder)

    def likelihood(function: Callable[..., Tensor]) -> None:
        with torch.inference_mode():
            hidden, targets = trunk().flatten(0, 1), ids.roll(-1, 1).flatten()
            for begin in range(0, len(hidden), rows):
                function(head, hidden[begin : begin + rows], targets[begin : begin + rows])

    def one_graph() -> Callable[[], Tensor]:
        """Trunk and log-likelihood as one compiled function of fixed shape, replayed from a CUDA graph."""

        def forward(ids: Tensor) -> Tensor:
            hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
            targets = ids.roll(-1, 1).flatten()
            tiles = range(0, len(hidden), rows)
            return torch.cat([log_likelihood(head, hidden[i : i + rows], targets[i : i + rows]) for i in tiles])

        function = torch.compile(forward, mode="reduce-overhead", dynamic=False)

        def run() -> Tensor:
            with torch.no_grad():
                return function(ids)

        return run

    def part(*want: str, stats: bool = False) -> None:
        recorder = Part(layout)
        recorder.want = frozenset(want)
        if "attention" in want:
            with scorer.model.measuring():
                hidden = trunk(recorder)
        else:
            hidden = trunk(recorder if want else None)
        if stats:
            with torch.inference_mode():
                scorer.statistics(passes, ids, hidden)

    def everything(options: MeasureOptions = MeasureOptions(), batches: int = 1) -> None:  # noqa: B008
        for _ in scorer.measure_batches(in_a_row[:batches], options):
            pass

    def output_attentions() -> None:
        with scorer.model.attending("eager"), torch.inference_mode():
            scorer.model.module(input_ids=ids, use_cache=False, output_attentions=True, output_hidden_states=True)

    functions: dict[str, Callable[[], Any]] = {
        "bare trunk": trunk,
        "log-likelihood, plain": lambda: likelihood(log_likelihood),
        "log-likelihood, compiled": lambda: likelihood(compiled),
        **({} if shape == "8B" else {"log-likelihood, all compiled": one_graph()}),
        "trunk + attention measures": lambda: part("attention"),
        "trunk + hidden shifts": lambda: part("hidden"),
        "trunk + logit statistics": lambda: part(stats=True),
        "forward + reductions on the GPU": lambda: part("attention", "hidden", stats=True),
        "all measures": everything,
        f"all measures, {in_row} batches in a row (each)": lambda: everything(batches=in_row),
        "all + token attention": lambda: everything(MeasureOptions(token_attention=True)),
    }
    if eager:
        functions["eager, output_attentions"] = output_attentions
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    peak: dict[str, float] = {}
    for name, function in list(functions.items()):
        try:
            for _ in range(1 if shape == "8B" else 3):  # graphs are recorded at the second call, trusted at the third
                function()
            torch.cuda.reset_peak_memory_stats()
            function()
            torch.cuda.synchronize()
            peak[name] = torch.cuda.max_memory_allocated() / 2**30
        except torch.OutOfMemoryError:
            print(f"  {name}: out of memory")
            del functions[name]
        torch.cuda.empty_cache()
    for _ in range(3 if shape == "8B" else 5):
        for name, function in functions.items():
            if name != "eager, output_attentions" or len(seconds[name]) < 2:
                seconds[name].append(timed(function) / (in_row if name.endswith("(each)") else 1))
    middle = {name: statistics.median(values) for name, values in seconds.items() if values}
    best = min(middle["log-likelihood, plain"], middle["log-likelihood, compiled"])
    tokens = batch * length
    print(f"\n{shape}, {batch} x {length}, steps of {step} tokens, bfloat16; goal for all measures {goal:.2f}")
    print(f"{'':40s}{'ms':>9s}{'tok/s':>10s}{'x best LL':>11s}{'x compiled':>11s}{'peak GiB':>10s}{'spread':>8s}")
    for name, value in middle.items():
        spread = (max(seconds[name]) - min(seconds[name])) / value
        whole = value / middle.get("log-likelihood, all compiled", np.nan)
        ratios = f"{value / best:11.3f}{whole:11.3f}{peak[name]:10.2f}{spread:8.1%}"
        print(f"{name:40s}{value * 1e3:9.2f}{tokens / value:10.0f}{ratios}")
    bare = min(peak["log-likelihood, plain"], peak["log-likelihood, compiled"])
    print(f"memory of all measures: {peak['all measures'] / bare:.3f} x the leaner log-likelihood run")


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
    compiled = torch.compile(lambda x, t: torch.log_softmax(x.float(), -1).gather(1, t[:, None])[:, 0])
    times = (run(x.clone), run(lambda: compiled(x, targets)), run(lambda: kernels.logit_rows(x, targets, None)))
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
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", default="correctness,kernels,135M,1B,8B,ingest,real,profile")
    parser.add_argument(
        "--tokenizer", type=Path, help="folder of a tokenizer for ingest (default: the packaged model's)"
    )
    args = parser.parse_args()
    only, start = args.only.split(","), time.monotonic()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, transformers {transformers.__version__}")

    def left() -> bool:
        return time.monotonic() - start < args.minutes * 60

    if "correctness" in only:
        whole_path()
    if "kernels" in only:
        kernel_times()
    for shape, cases in CASES.items():
        if shape in only and left():
            scorer = scorer_of(shape)
            for index, (batch, length, step, goal) in enumerate(cases):
                if left():
                    case(scorer, shape, batch, length, step, goal, eager=index == EAGER[shape])
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
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
