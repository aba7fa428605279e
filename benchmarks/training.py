"""Export rate and memory, the cost of a training step against plain TRL, and microvariants of real chains.

    python -m benchmarks.training [--chains 100000] [--only export,step]
    python -m benchmarks.training --only variants [--chains 100] [--device cpu]

Export: shards with the columns an export reads, ~165 tokens a chain as in GSM8K; baseline in the same run: the bare Arrow
copy of the same columns to a Parquet file. Training step: median of a step of ``trails train`` against SFTTrainer on
the same rows, same model (random Llama shape of SmolLM2-135M cut to four layers), same batches.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trails.export import ExportOptions, export_selection
from trails.export.record import COLUMNS
from trails.schema import SHARD_SCHEMA, Run, stable_hash
from trails.store.traces import TraceStore
from trails.subgraph import Selection

VOCABULARY = 49_152


def home_of(folder: Path, chains: int) -> Run:
    """A home with that many made-up chains of about 165 tokens with context, in shards of 2,000."""
    rng = np.random.default_rng(0)
    run = Run("bench", "0", "ab" * 32, n_layers=30, n_heads=9, d_model=576, vocab_size=VOCABULARY, max_tokens=8192)
    with TraceStore(folder, write=True) as store:
        store.put_run(run)
    for start in range(0, chains, 2_000):
        rows = []
        for number in range(start, min(start + 2_000, chains)):
            n, q = int(rng.integers(80, 140)), int(rng.integers(35, 75))
            text = "word " * n
            ends = np.arange(5, 5 * n + 1, 5, dtype=np.int32)
            cut = np.linspace(0, n, 5).astype(np.int32)
            rows.append(
                dict.fromkeys(SHARD_SCHEMA.names)
                | {
                    "chain": "c" + stable_hash(str(number)),
                    "run": run.id,
                    "source": f"set{number % 3}",
                    "source_id": str(number),
                    "source_sha256": "",
                    "licence": "MIT",
                    "question": "why " * q,
                    "text": text,
                    "answer": "",
                    "language": "en",
                    "boundaries": [],
                    "metadata": [],
                    "steps": [
                        {
                            "start": int(a) * 5,
                            "end": int(b) * 5,
                            "role": "NEXT",
                            "connective": "",
                            "sense": "",
                            "explicit": False,
                        }
                        for a, b in itertools.pairwise(cut)
                    ],
                    "tokenizer": run.tokenizer,
                    "n_layers": 30,
                    "n_context": q,
                    "token_ids": rng.integers(0, VOCABULARY, n, dtype=np.int32),
                    "token_start": ends - 5,
                    "token_end": ends,
                    "step_tokens": np.stack([cut[:-1], cut[1:]], 1).reshape(-1),
                    "question_token_ids": rng.integers(0, VOCABULARY, q, dtype=np.int32),
                    "question_surprisal": rng.random(q, np.float32),
                    "surprisal": rng.random(n, np.float32) * 5,
                    "entropy": rng.random(n, np.float32) * 5,
                }
            )
        table = pa.Table.from_pylist(rows, schema=SHARD_SCHEMA)
        pq.write_table(table, folder / "shards" / f"{start:032x}.parquet", row_group_size=150, compression="zstd")
    return run


class Watch:
    """Wall and CPU seconds of a block, and the largest memory in it: what the process itself holds, and mapped file pages."""

    def __enter__(self) -> Watch:
        self.anonymous = self.mapped = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            lines = Path("/proc/self/status").read_text().splitlines()
            found = {
                name: int(value.split()[0]) / 1024
                for name, _, value in (x.partition(":") for x in lines)
                if "Rss" in name
            }
            self.anonymous = max(self.anonymous, found["RssAnon"])
            self.mapped = max(self.mapped, found["RssFile"])

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self._stop.set()
        self._thread.join()


def bench_export(chains: int) -> None:
    """Rows per second of every format, beside a bare copy of the columns, and the peak memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home_of(folder / "home", chains)
        with TraceStore(folder / "home") as store:
            with Watch() as bare:
                writer = None
                for table in store.tables(list(COLUMNS)):
                    writer = writer or pq.ParquetWriter(folder / "copy.parquet", table.schema, compression="zstd")
                    writer.write_table(table)
                if writer:
                    writer.close()

            def line(what: str, seen: Watch) -> None:
                print(
                    f"  {what:>40} {chains / seen.wall:>7,.0f} {chains / seen.cpu:>7,.0f} {bare.wall / seen.wall:>5.2f}"
                    f" {seen.anonymous:>6.0f} {seen.mapped:>6.0f}",
                    flush=True,
                )

            print(f"{chains:,} chains: rows per second, per CPU second, of the copy's speed; peak MB held, mapped")
            line("bare copy of the columns", bare)
            for format, suffix, options in (
                ("trails", ".parquet", {}),
                ("trails", ".jsonl", {}),
                ("trl", ".parquet", {}),
                ("trl", ".jsonl", {}),
                ("messages", ".jsonl", {}),
                ("ms-swift", ".jsonl", {}),
                ("trails", ".parquet", {"split": 0.1, "order": "rising", "weights": "both"}),
            ):
                to = folder / f"o{suffix}"
                with Watch() as seen:
                    export_selection(
                        Selection("all", None), store, format, to, ExportOptions(overwrite=True, **options)
                    )
                line(f"{format}{suffix} {' '.join(f'{k}={v}' for k, v in options.items())}", seen)


def bench_step(steps: int = 6) -> None:
    """Seconds per step of our trainer and of plain TRL, interleaved runs."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainerCallback
    from trl import SFTTrainer

    from trails.measure.packaged import packaged_model
    from trails.train import TrainOptions, _arguments, _with_adapter, train_rows

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(packaged_model(), local_files_only=True)
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for _ in range(4 * steps):
        ids = rng.integers(10, VOCABULARY - 10, 160).tolist()
        rows.append(
            {
                "input_ids": ids,
                "labels": [-100] * 40 + ids[40:],
                "loss_weights": [0.0] * 40 + [1.0] * 120,
                "step_spans": [{"step": 0, "start": 40, "end": 160, "role": "NONE"}],
                "offset": 40,
                "chain": "c",
                "layers": [],
            }
        )

    def model() -> Any:
        torch.manual_seed(0)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=576,
                intermediate_size=1536,
                num_hidden_layers=4,
                num_attention_heads=9,
                num_key_value_heads=3,
                tie_word_embeddings=True,
            )
        )

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.times: list[float] = []

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.start = time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.times.append(time.process_time() - self.start)

    options = TrainOptions(steps=steps, batch=4)
    found: dict[str, list[float]] = {"trails": [], "plain TRL": []}
    for _ in range(2):
        with tempfile.TemporaryDirectory() as name:
            clock = Clock()
            train_rows(rows, Path(name) / "a", model(), tokenizer, options, identity={}, callbacks=[clock])
            found["trails"] += clock.times[1:]
            clock = Clock()
            arguments = _arguments(Path(name) / "b", steps, options)
            arguments.dataset_kwargs = None
            arguments.remove_unused_columns = True
            data = Dataset.from_list([{k: row[k] for k in ("input_ids", "labels")} for row in rows])
            SFTTrainer(
                _with_adapter(model(), options, ()),
                arguments,
                train_dataset=data,
                processing_class=tokenizer,
                callbacks=[clock],
            ).train()
            found["plain TRL"] += clock.times[1:]
    ours, plain = (statistics.median(found[name]) for name in ("trails", "plain TRL"))
    print(f"training step: {ours:.3f} CPU s, plain TRL {plain:.3f} CPU s, ratio {ours / plain:.2f}")


def real_chains(count: int) -> list[Any]:
    """Chains of the packaged sample written by people or models, up to 107: school sums, proofs, Russian answers, long
    thoughts, in turn."""
    from trails.readers import read
    from trails.sample import CANONICAL_SOURCE, PAIR_SOURCE, path

    by_source: dict[str, list[Any]] = {}
    for chain in read([str(path())]):
        if chain.source not in (CANONICAL_SOURCE, PAIR_SOURCE):
            by_source.setdefault(chain.source, []).append(chain)
    turns = itertools.chain.from_iterable(itertools.zip_longest(*by_source.values()))
    return [chain for chain in turns if chain is not None][:count]


def bench_variants(chains: int, device: str, start: int = 0) -> None:
    """Accepted variants per chain, their cost in forward passes (by tokens and by the clock), and why others were rejected."""
    import torch

    from trails.measure import Segmented, open_scorer
    from trails.segment import segment
    from trails.variants import VariantOptions, make_variants

    scorer: Any = open_scorer(device=device)
    options = VariantOptions()
    reasons: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    accepted, passes, clocked, edits = [], [], [], []

    def forward(item: Segmented) -> float:
        """Seconds of one bare pass that gives every token's log-likelihood."""
        sequence = scorer._sequence(item)
        ids = torch.tensor([[*sequence.context, *sequence.tokens.ids.tolist()]], device=scorer.device)
        began = time.perf_counter()
        with torch.inference_mode():
            logits = scorer.model(input_ids=ids, use_cache=False).logits[0]
            torch.log_softmax(logits[:-1].float(), -1).gather(1, ids[0, 1:, None]).sum().item()
        return time.perf_counter() - began

    print(f"{'source':>20} {'tokens':>6} {'made':>5} {'taken':>5} {'passes':>7} {'by the clock':>12}", flush=True)
    for chain in real_chains(chains)[start:]:
        item = Segmented(chain, segment(chain))
        forward(item)
        bare = min(forward(item) for _ in range(3))
        began = time.perf_counter()
        report = make_variants(scorer, item, options)
        clock = (time.perf_counter() - began) / bare
        accepted.append(len(report.accepted))
        passes.append(report.passes)
        clocked.append(clock)
        edits.append(max((v.edits for v in report.accepted), default=0))
        kinds.update(v.kind for v in report.accepted)
        reasons.update(v.reason.partition(" 0.")[0] for v in report.variants if not v.accepted)
        reasons.update(report.dropped)
        n = scorer.count_tokens(item)
        print(
            f"{chain.source:>20} {n:>6} {len(report.variants):>5} {accepted[-1]:>5} {passes[-1]:>7.1f} {clock:>12.1f}",
            flush=True,
        )
    enough = sum(count >= options.count for count in accepted)
    print(f"{enough} of {len(accepted)} chains have {options.count} accepted variants; most token edits {max(edits)}")
    for name, values in (("accepted", accepted), ("passes by tokens", passes), ("passes by the clock", clocked)):
        cuts = np.percentile(values, [0, 5, 50, 95, 100])
        print(
            f"  {name}: least {cuts[0]:.1f}, 5 % {cuts[1]:.1f}, median {cuts[2]:.1f}, 95 % {cuts[3]:.1f}, most {cuts[4]:.1f}"
        )
    print(f"  accepted by kind: {dict(kinds.most_common())}")
    print(f"  not accepted: {dict(reasons.most_common())}")


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chains", type=int, default=0, help="export: 100,000; variants: 100")
    parser.add_argument("--start", type=int, default=0, help="variants: the first chain, to run in parts")
    parser.add_argument("--only", default="export,step")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    if "export" in given.only:
        bench_export(given.chains or 100_000)
    if "step" in given.only:
        bench_step()
    if "variants" in given.only:
        bench_variants(given.chains or 100, given.device, given.start)


if __name__ == "__main__":
    main()
