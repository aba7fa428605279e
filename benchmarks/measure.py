"""What measuring costs, as a multiple of running: bare forward, this path with each measure alone and all, eager, other tools.

    python -m benchmarks.measure [--chains 6] [--repeats 5] [--long 2048] [--no-long] [--no-others]
    python -m benchmarks.measure --host

CPU, float32, the real SmolLM2-135M on the packaged sample. Everything runs in one process, interleaved, medians by the
clock and in CPU seconds (a busy machine's clock says little, and two threads that wait for each other burn CPU seconds);
the peak of memory above the loaded model is taken in a process of its own per variant. The GPU table is benchmarks/gpu.py.

``--host`` times alone what the host does with the numbers of a GPU's batch, from their arrival to the traces, on made-up
numbers of the model's shape. Its most likely items are drawn from the whole vocabulary: more texts than real chains have.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trails.measure import MeasureOptions, Segmented, open_scorer
from trails.measure.attention import Recorder
from trails.measure.collector import LAYER_MEASURES, Collector, Flight, kept_top
from trails.measure.context import Context, Row
from trails.measure.huggingface import HuggingFaceScorer
from trails.measure.linear import fast_linear
from trails.measure.metrics import LogitStatistics
from trails.measure.packaged import packaged_model
from trails.measure.passes import Pass, TokenSequence, pack, unpacked
from trails.measure.tokens import Encoded
from trails.schema import Chain, Step

PLAIN = MeasureOptions()
WIDTHS = (8, 12, 10, 17, 10, 7)
OTHERS = ("nnsight, all saved", "TransformerLens, all saved")


class Part(Recorder):
    """A recorder that takes only some of the measures, to see what each costs alone."""

    want: frozenset[str] = frozenset({"attention", "hidden"})

    def hidden(self, state: Tensor) -> None:
        """Skip hidden shifts unless wanted."""
        if "hidden" in self.want:
            super().hidden(state)


def sequence_of(ids: Sequence[int], step_tokens: int) -> TokenSequence:
    """A chain of given ids without context, in steps of ``step_tokens`` tokens."""
    n = len(ids)
    edges = [*range(0, n, step_tokens), n]
    spans = np.asarray(list(pairwise(edges)), np.int32)
    chain = Chain("benchmark", str(ids[:4]), "", "x" * n)
    steps = tuple(Step(i, int(a), int(b)) for i, (a, b) in enumerate(spans))
    positions = np.arange(n, dtype=np.int32)
    tokens = Encoded(np.asarray(ids, np.int32), positions, positions + 1, ("x",) * n)
    row = Row(chain.id, Context(), tokens, spans, ("NONE",) * len(spans), n, 1)
    return TokenSequence(Segmented(chain, steps), row)


def variants(scorer: HuggingFaceScorer, passes: Sequence[Pass]) -> dict[str, Callable[[], Any]]:
    """Name → function that runs it over all passes, one at a time (CPU)."""
    model = scorer.model.module
    ids = [torch.from_numpy(p.sequence.row.ids)[None].to(scorer.model.device) for p in passes]

    def each(function: Callable[[Tensor, Pass], Any]) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode():
                for sequence, part in zip(ids, passes, strict=True):
                    function(sequence, part)

        return run

    def likelihood(sequence: Tensor, _: Pass) -> Tensor:
        logits = model(input_ids=sequence, use_cache=False).logits[0]
        return torch.log_softmax(logits[:-1].float(), -1).gather(1, sequence[0, 1:, None])

    def by_onednn(function: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            with fast_linear(model):
                function()

        return run

    trunk = each(lambda s, _: model.get_decoder()(input_ids=s, use_cache=False))
    forward = each(lambda s, _: model(input_ids=s, use_cache=False).logits)

    def eager(sequence: Tensor, _: Pass) -> Any:
        with scorer.model.attending("eager"):
            out = model(input_ids=sequence, use_cache=False, output_attentions=True, output_hidden_states=True)
        return likelihood_of(out.logits[0], sequence)

    def likelihood_of(logits: Tensor, sequence: Tensor) -> Tensor:
        return torch.log_softmax(logits[:-1].float(), -1).gather(1, sequence[0, 1:, None])

    def recorded(*want: str, statistics: bool) -> Callable[[Tensor, Pass], None]:
        def run(sequence: Tensor, part: Pass) -> None:
            words = torch.from_numpy(pack([part], part.length))
            layout, _ = unpacked(words, part.length, len(part.sequence.row.step_tokens))
            recorder = Part(layout)
            recorder.want = frozenset(want)
            attention = nullcontext() if "attention" in want else scorer.model.attending("sdpa")
            with scorer.model.measuring():
                with attention:
                    hidden = scorer.model.hidden(sequence, recorder if want else None)
                if statistics:
                    scorer.statistics([part], sequence, hidden)

        return run

    def all_measures(options: MeasureOptions = PLAIN) -> Callable[[], None]:
        def run() -> None:
            for _ in scorer.measure_batches([[part] for part in passes], options):
                pass

        return run

    return {
        "bare trunk": trunk,
        "forward + logits": forward,
        "bare trunk, oneDNN": by_onednn(trunk),
        "forward + logits, oneDNN": by_onednn(forward),
        "forward + log-likelihood": each(likelihood),
        "trunk + attention measures": each(recorded("attention", statistics=False)),
        "trunk + hidden shifts": each(recorded("hidden", statistics=False)),
        "trunk + logit statistics": each(recorded(statistics=True)),
        "all measures": all_measures(),
        "all + token attention": all_measures(MeasureOptions(token_attention=True)),
        "all + 4 peaks": all_measures(MeasureOptions(peaks=4)),
        "eager, output_attentions": each(eager),
    }


def others(scorer: HuggingFaceScorer, passes: Sequence[Pass]) -> dict[str, Callable[[], Any]]:
    """The same model in other tools, where they are installed: attention weights, states of all layers and logits saved,
    nothing reduced.
    """
    found: dict[str, Callable[[], Any]] = {}
    ids = [torch.from_numpy(p.sequence.row.ids)[None] for p in passes]
    if importlib.util.find_spec("nnsight"):
        from nnsight import LanguageModel

        wrapped = LanguageModel(scorer.model.module, tokenizer=scorer.model.tokenizer)

        def nnsight() -> None:
            with scorer.model.attending("eager"), torch.inference_mode():
                for sequence in ids:
                    with wrapped.trace(sequence):
                        saved = [].save()  # type: ignore[attr-defined]
                        for layer in wrapped.model.layers:
                            saved.append(layer.self_attn.output[1])
                            saved.append(layer.output)
                        saved.append(wrapped.lm_head.output)
                    assert len(saved) == 2 * scorer.run.n_layers + 1

        found["nnsight, all saved"] = nnsight
    if importlib.util.find_spec("transformer_lens"):
        from transformer_lens import TransformerBridge

        bridge = TransformerBridge.boot_transformers(str(packaged_model()), device="cpu", dtype=torch.float32)

        def lens() -> None:
            with torch.inference_mode():
                for sequence in ids:
                    _, cache = bridge.run_with_cache(
                        sequence, names_filter=lambda name: name.endswith(("hook_pattern", "hook_resid_post"))
                    )
                    assert len(cache) == 2 * scorer.run.n_layers

        found["TransformerLens, all saved"] = lens
    return found


def made_up(scorer: HuggingFaceScorer, batch: list[Pass], options: MeasureOptions = PLAIN) -> Flight:
    """Numbers as a GPU gives them of a batch without a context."""
    run, generator, rows = scorer.run, torch.Generator().manual_seed(0), sum(part.length for part in batch)
    length, steps = scorer._shape(batch)

    def drawn(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    found = {name: drawn(len(batch), length, run.n_layers) for name in LAYER_MEASURES}
    found["hidden_shift"] = drawn(len(batch), length, run.n_layers + 1)
    found["baseline"] = drawn(len(batch), run.n_layers + 1)
    found["step_masses"] = drawn(len(batch), steps, steps + 2, run.n_layers)
    rank, top = (
        torch.randint(0, run.vocab_size, shape, generator=generator) for shape in ((rows,), (rows, kept_top(options)))
    )
    floats = drawn(3, rows)
    log_p = -drawn(*top.shape)
    return Flight(batch, found, LogitStatistics(floats[0], floats[1], rank, floats[2], top, log_p))


class Noted:
    """An event that notes when it was waited for."""

    at = 0.0

    def synchronize(self) -> None:
        """Note the time; there is nothing to wait for."""
        self.at = time.thread_time()


def unpacking(
    scorer: HuggingFaceScorer, flight: Flight, repeats: int = 9, options: MeasureOptions = PLAIN
) -> tuple[float, float]:
    """CPU seconds from the arrival of a batch's numbers to its traces, and those after its statistics, which come last."""
    noted: Any = Noted()
    flight.reduced, flight.landed = None, noted
    times = []
    for _ in range(repeats + 1):
        start = time.thread_time()
        collector = Collector(scorer.run, options, flight.batch, scorer.model.text)
        for sequence, found in collector.take(flight):
            scorer._trace(collector, sequence, found, options)
        end = time.thread_time()
        times.append((end - start, end - noted.at))
    whole, after = zip(*times[1:], strict=True)  # the first makes the texts of the items
    return statistics.median(whole), statistics.median(after)


def host(scorer: HuggingFaceScorer, repeats: int) -> None:
    """The host's work on one batch of two shapes."""
    print(f"host, CPU ms of one batch, {scorer.run.n_layers} layers, {scorer.run.vocab_size:,} items")
    for chains, length, step in ((32, 256, 24), (8, 2048, 40)):
        generator = np.random.default_rng(0)
        ids = generator.integers(0, scorer.run.vocab_size, (chains, length)).tolist()
        batch = [Pass(sequence_of(row, step), 0, 0, length) for row in ids]
        packed = statistics.median(timed(lambda: pack(batch, length)) for _ in range(repeats))  # noqa: B023
        whole, after = unpacking(scorer, made_up(scorer, batch), repeats)
        print(
            f"  {chains} x {length}: packing {packed * 1e3:.2f}, unpacking {whole * 1e3:.2f}, of it after the statistics "
            f"{after * 1e3:.2f}; {whole / chains / length * 1e6:.2f} µs a token"
        )


def timed(function: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    start = time.thread_time()
    function()
    return time.thread_time() - start


def time_all(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median wall and CPU seconds of each, interleaved."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {
        name: (statistics.median(wall for wall, _ in values), statistics.median(cpu for _, cpu in values))
        for name, values in seconds.items()
    }


def resident() -> int:
    """Resident memory of this process now, bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_above(function: Callable[[], Any]) -> int:
    """Largest resident memory while ``function`` runs, above what there was before."""
    start = top = resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal top
        while not done.wait(0.002):
            top = max(top, resident())

    thread = threading.Thread(target=watch)
    thread.start()
    function()
    done.set()
    thread.join()
    return max(top, resident()) - start


def sample_passes(scorer: HuggingFaceScorer, count: int, long: int) -> list[Pass]:
    """``count`` chains of the packaged sample of about 165 tokens, or one sequence of ``long`` tokens of it."""
    from trails import sample
    from trails.readers import read
    from trails.segment import segment

    items = [Segmented(chain, segment(chain)) for chain in read([sample.path()])]
    if long:
        ids: list[int] = []
        for item in items:
            ids += scorer.model.text.ids(item.chain.text + "\n")
            if len(ids) >= long:
                break
        sequence = sequence_of(ids[:long], 40)
        return [Pass(sequence, 0, 0, long)]
    near = [s for s in map(scorer.sequence, items) if 120 <= s.length <= 210]
    return [Pass(s, 0, 0, len(s.row.tokens)) for s in near[:count]]


def warm_up(scorer: HuggingFaceScorer) -> None:
    """Touch the weights, so that mapping them in counts as loading."""
    with torch.inference_mode():
        for parameter in scorer.model.module.parameters():
            parameter.sum()
        scorer.model.module(torch.zeros(1, 8, dtype=torch.int64))


def table(title: str, times: dict[str, tuple[float, float]], peaks: dict[str, int], tokens: int) -> None:
    """Print one table: tokens/s by the clock and its ratio to forward + logits and to eager, the same ratio of CPU seconds."""
    eager = "eager, output_attentions"
    heads = ("tok/s", "of forward", "of eager", "CPU: of forward", "of eager", "MB")
    print(f"\n{title}\n{'':38s}" + "".join(f"{head:>{width}s}" for head, width in zip(heads, WIDTHS, strict=True)))
    for name, (wall, cpu) in times.items():
        ratios = [
            times[base][i] / (wall, cpu)[i] if base in times else math.nan
            for i in (0, 1)
            for base in ("forward + logits", eager)
        ]
        peak = f"{peaks[name] / 1e6:7.0f}" if name in peaks else ""
        print(
            f"{name:38s}{tokens / wall:8.0f}{ratios[0]:12.3f}{ratios[1]:10.3f}{ratios[2]:17.3f}{ratios[3]:10.3f}{peak}"
        )


def main() -> None:
    """Run and print."""
    import transformers

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--long", type=int, default=2048)
    parser.add_argument("--no-long", action="store_true")
    parser.add_argument("--no-others", action="store_true")
    parser.add_argument("--no-short", action="store_true")
    parser.add_argument("--only", default="", help="names of variants, separated by ;")
    parser.add_argument("--host", action="store_true", help="only the host's work on a GPU's batch")
    parser.add_argument("--peak", nargs=2, metavar=("VARIANT", "LONG"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    scorer = open_scorer(device="cpu")
    assert isinstance(scorer, HuggingFaceScorer)
    if args.peak:
        passes = sample_passes(scorer, args.chains, int(args.peak[1]))
        warm_up(scorer)
        name = args.peak[0]
        known = variants(scorer, passes)
        print(peak_above(known[name] if name in known else others(scorer, passes)[name]))
        return
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {versions}")
    if args.host:
        host(scorer, args.repeats)
        return
    warm_up(scorer)
    for long in ([] if args.no_short else [0]) + ([] if args.no_long else [args.long]):
        passes = sample_passes(scorer, args.chains, long)
        tokens = sum(p.length for p in passes)
        functions = variants(scorer, passes)
        if not args.no_others:
            for name, function in others(scorer, passes).items():
                try:
                    function()
                    functions[name] = function
                except Exception as error:  # a tool that does not run with these versions is a result, too
                    print(f"{name}: does not run here: {str(error).splitlines()[0][:160]}")
        if not long:
            functions |= batched(scorer, passes)
        if args.only:
            functions = {name: function for name, function in functions.items() if name in args.only.split(";")}
        times = time_all(functions, args.repeats if not long else max(1, args.repeats // 2))
        peaks = {}
        for name in functions.keys() & {"forward + logits", "all measures", "eager, output_attentions", *OTHERS}:
            command = [
                sys.executable,
                "-m",
                "benchmarks.measure",
                "--chains",
                str(args.chains),
                "--peak",
                name,
                str(long),
            ]
            peaks[name] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
        what = (
            f"one sequence of {long} tokens"
            if long
            else f"{len(passes)} chains, {tokens / len(passes):.0f} tokens on average"
        )
        table(f"SmolLM2-135M, float32, CPU, {what}", times, peaks, tokens)


def batched(scorer: HuggingFaceScorer, passes: Sequence[Pass]) -> dict[str, Callable[[], Any]]:
    """All measures with several chains per forward pass, to see what one at a time costs."""

    def run() -> None:
        for _ in scorer.measure_batches(list(scorer.batches(list(passes), MeasureOptions(batch_tokens=1024))), PLAIN):
            pass

    return {"all measures, batches of 1024 tokens": run}


if __name__ == "__main__":
    main()
