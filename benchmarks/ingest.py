"""`trails ingest` end to end against a bare forward pass with logits of the same model on the same chains.

    python -m benchmarks.ingest [--chains 60] [--repeats 3] [PATH]

Prints tokens/s of both (interleaved, medians), their ratio, busy time by stage, bytes per token in shards and graph, and
the peak of memory above the loaded model. PATH: a file that trails reads (default: the packaged sample).
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import tempfile
import threading
import time
from pathlib import Path

from trails.config import load_settings
from trails.measure import open_scorer
from trails.pipeline import IngestOptions, ingest, segmented
from trails.readers import ReadOptions, read


def resident_bytes() -> int:
    """Resident memory of this process now."""
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class Peak:
    """Largest resident memory while the block runs, sampled every 5 ms."""

    def __enter__(self) -> Peak:
        self.bytes = resident_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.bytes = max(self.bytes, resident_bytes())

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def main() -> None:
    """Run and print."""
    import torch
    import transformers

    from trails import sample

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, default=sample.path())
    parser.add_argument("--chains", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", default="")
    arguments = parser.parse_args()

    scorer = open_scorer(arguments.model)
    model, tokenizer = scorer.model.module, scorer.model.tokenizer  # type: ignore[attr-defined]
    chains = []
    for chain in read([arguments.path]):
        chains.append(chain)
        if len(chains) == arguments.chains:
            break
    sequences = []
    for chain in chains:
        question = chain.question + "\n" if chain.question else ""
        ids = tokenizer(question, add_special_tokens=False)["input_ids"] if question else []
        ids += tokenizer(chain.text, add_special_tokens=False)["input_ids"]
        sequences.append(torch.tensor([ids]))
    tokens = sum(ids.shape[1] for ids in sequences)
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{platform.machine()}, {torch.get_num_threads()} threads, {versions}")
    print(f"model {scorer.run.model}, {len(chains)} chains, {tokens:,} tokens, {tokens / len(chains):.0f} per chain")

    def bare() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            for ids in sequences:
                model(input_ids=ids, use_cache=False).logits.sum()
        return tokens / (time.perf_counter() - began)

    scorer.measure([segmented(chains[0])], IngestOptions().measure)
    bare()
    weights = resident_bytes()
    rates: dict[str, list[float]] = {"bare": [], "ingest": [], "measuring": []}
    stages: dict[str, list[float]] = {}
    for repeat in range(arguments.repeats):
        rates["bare"].append(bare())
        with tempfile.TemporaryDirectory() as folder:
            settings = load_settings(home=Path(folder) / "home", store="embedded")
            with Peak() as peak:
                summary = ingest(
                    [arguments.path], settings, IngestOptions(read=ReadOptions(limit=arguments.chains)), scorer=scorer
                )
            rates["ingest"].append(summary.tokens_per_second)
            rates["measuring"].append(summary.sequence_tokens / summary.seconds["measuring"])
            for stage, seconds in summary.seconds.items():
                stages.setdefault(stage, []).append(seconds)
            if repeat == 0:
                above = peak.bytes - weights
                shard_bytes = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
                graph_bytes = sum(
                    path.stat().st_size
                    for path in Path(folder).rglob("*")
                    if path.is_file() and "graph" in str(path.relative_to(folder))
                )
    median = {name: statistics.median(values) for name, values in rates.items()}
    print(f"bare forward with logits   {median['bare']:8.1f} tokens/s")
    for name, label in (("measuring", "measuring alone"), ("ingest", "trails ingest end to end")):
        print(f"{label:26} {median[name]:8.1f} tokens/s  ratio {median[name] / median['bare']:.3f}")
    print("goal of the end-to-end ratio: 0.6")
    total = statistics.median(stages["total"])
    shares = ", ".join(
        f"{stage} {statistics.median(values):.2f} s ({statistics.median(values) / total:.1%})"
        for stage, values in stages.items()
        if stage != "total"
    )
    print(f"busy time: {shares}; wall {total:.2f} s (stages overlap)")
    print(f"peak above the loaded model: {above / 2**20:.0f} MiB")
    per_token = (size / summary.chain_tokens for size in (shard_bytes, graph_bytes))
    print("bytes per chain token: shards {:.0f}, graph {:.0f}".format(*per_token))


if __name__ == "__main__":
    main()
