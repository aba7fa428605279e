"""Export rate and memory, the cost of a training step against plain TRL, and microvariants of real chains.

    python -m benchmarks.training [--chains 100000] [--only export,step,diff]
    python -m benchmarks.training --only variants [--chains 100] [--device cpu]

Export: shards with the columns an export reads, ~165 tokens a chain as in GSM8K; baseline in the same run: the bare Arrow
copy of the same columns to a Parquet file. Training step: median of a step of ``trails train`` against SFTTrainer, and diff
against measuring each chain once with both models: SmolLM2-135M-Instruct.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trails.export import ExportOptions, export_selection
from trails.export.record import COLUMNS
from trails.export.subgraph import Selection
from trails.schema import SHARD_SCHEMA, Run, stable_hash
from trails.store.traces import TraceStore

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
    """Wall and CPU seconds of a block, and by how much the memory in it grew at most, MB: what the process itself holds
    (``anonymous``), and pages of files it has mapped.
    """

    def __enter__(self) -> Watch:
        self._start = self._now()
        self.anonymous = self.mapped = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    @staticmethod
    def _now() -> tuple[float, float]:
        lines = (line.partition(":") for line in Path("/proc/self/status").read_text().splitlines())
        found = {name: int(value.split()[0]) / 1024 for name, _, value in lines if "Rss" in name}
        return found["RssAnon"], found["RssFile"]

    def _look(self) -> None:
        while not self._stop.wait(0.02):
            anonymous, mapped = self._now()
            self.anonymous = max(self.anonymous, anonymous - self._start[0])
            self.mapped = max(self.mapped, mapped - self._start[1])

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self._stop.set()
        self._thread.join()


EXPORTS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("trails", ".parquet", {}),
    ("trails", ".jsonl", {}),
    ("trl", ".parquet", {}),
    ("trl", ".jsonl", {}),
    ("messages", ".jsonl", {}),
    ("ms-swift", ".jsonl", {}),
    ("trails", ".parquet", {"split": 0.1, "order": "rising", "weights": "both"}),
)


def one_export(folder: Path, format: str, suffix: str, options: dict[str, Any]) -> tuple[float, float, float, float]:
    """Wall and CPU seconds and peak memory above the start (held, mapped) of one export, or of the bare copy (no format)."""
    with TraceStore(folder / "home") as store, Watch() as seen:
        if format:
            to, given = folder / f"o{suffix}", ExportOptions(overwrite=True, **options)
            export_selection(Selection("all", None), store, format, to, given)
        else:
            with pq.ParquetWriter(
                folder / "copy.parquet", pa.schema([SHARD_SCHEMA.field(name) for name in COLUMNS]), compression="zstd"
            ) as writer:
                for table in store.tables(list(COLUMNS)):
                    writer.write_table(table)
    return seen.wall, seen.cpu, seen.anonymous, seen.mapped


def bench_export(chains: int) -> None:
    """Rows per second of every format, beside a bare copy of the columns, and the peak memory; each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home_of(folder / "home", chains)
        print(
            f"{chains:,} chains: rows per second, per CPU second, of the copy's speed; peak MB above start: held, mapped"
        )
        bare = 0.0
        spawn = multiprocessing.get_context("spawn")
        for format, suffix, options in (("", "", {}), *EXPORTS):
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                wall, cpu, held, mapped = pool.submit(one_export, folder, format, suffix, options).result()
            bare = bare or wall
            what = f"{format}{suffix} {' '.join(f'{k}={v}' for k, v in options.items())}" if format else "bare copy"
            print(
                f"  {what:>45} {chains / wall:>7,.0f} {chains / cpu:>7,.0f} {bare / wall:>5.2f} {held:>6.0f} {mapped:>6.0f}",
                flush=True,
            )


def bench_step(steps: int) -> None:
    """Seconds per step of our trainer and of plain TRL, real model: same rows, adapter and batches, interleaved runs."""
    import copy

    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTTrainer

    from trails.measure import open_scorer
    from trails.train import TrainOptions, train_rows
    from trails.train.adapter import with_adapter
    from trails.train.attention import TeacherMap
    from trails.train.training import trainer_arguments

    scorer: Any = open_scorer(device="cpu")
    rng = np.random.default_rng(0)
    layers = scorer.run.n_layers
    rows: list[dict[str, Any]] = []
    teachers = {}
    for number in range(4 * steps):
        ids = rng.integers(10, scorer.run.vocab_size - 10, 160).tolist()
        edges = np.linspace(40, 160, 6).astype(int).tolist()
        spans = [
            {"step": k, "start": a, "end": b, "role": "NONE"} for k, (a, b) in enumerate(itertools.pairwise(edges))
        ]
        rows.append(
            {
                "input_ids": ids,
                "labels": [-100] * 40 + ids[40:],
                "loss_weights": [0.0] * 40 + [1.0] * 120,
                "step_spans": spans,
                "offset": 40,
                "chain": f"c{number}",
                "layers": [],
            }
        )
        bins = [rng.dirichlet(np.ones(k + 3), layers).T for k in range(5)]
        teachers[f"c{number}"] = TeacherMap(np.concatenate(bins).astype(np.float32), 5)

    class Clock(TrainerCallback):
        def __init__(self, name: str) -> None:
            self.name = name

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.start, self.cpu = time.perf_counter(), time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step > 1:
                found[self.name].append((time.perf_counter() - self.start, time.process_time() - self.cpu))

    found: dict[str, list[tuple[float, float]]] = {"plain TRL": [], "lm": [], "attention": []}
    for _ in range(2):
        for name in found:
            options = TrainOptions(steps=steps, batch=4, targets="all")
            model = copy.deepcopy(scorer.model.module)
            with tempfile.TemporaryDirectory() as folder:
                if name == "plain TRL":
                    arguments = trainer_arguments(Path(folder), steps, options)
                    arguments.dataset_kwargs = None
                    arguments.remove_unused_columns = True
                    data = Dataset.from_list([{k: row[k] for k in ("input_ids", "labels")} for row in rows])
                    SFTTrainer(
                        with_adapter(model, options, ()),
                        arguments,
                        train_dataset=data,
                        processing_class=scorer.model.tokenizer,
                        callbacks=[Clock(name)],
                    ).train()
                else:
                    train_rows(
                        rows,
                        Path(folder) / "a",
                        model,
                        scorer.model.tokenizer,
                        replace(options, objective=name),
                        identity={},
                        teachers=teachers if name == "attention" else None,
                        callbacks=[Clock(name)],
                    )
            del model
    plain = np.median(found["plain TRL"], axis=0)
    print(
        f"training step, {torch.get_num_threads()} threads, 4 rows of 160 tokens, 120 of them with loss; adapter on all"
    )
    for name, times in found.items():
        wall, cpu = np.median(times, axis=0)
        print(f"  {name:>10}: {wall:.2f} s, {cpu:.2f} CPU s; of plain TRL {wall / plain[0]:.2f}, {cpu / plain[1]:.2f}")


def bench_diff(chains: int, characters: int) -> None:
    """What a diff of the chains shorter than ``characters`` costs beyond measuring each once with each model: comparison, noise
    floor, divergence.
    """
    from trails.evaluate.difference import difference
    from trails.evaluate.groups import groups_of
    from trails.measure import MeasureOptions, Segmented, open_scorer
    from trails.measure.packaged import packaged_model
    from trails.segment import segment
    from trails.train import TrainOptions, train_rows

    items = [Segmented(chain, segment(chain)) for chain in real_chains(chains) if len(chain.text) < characters]
    model = str(packaged_model())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        base: Any = open_scorer(model, device="cpu")
        rows = [base.contexts.row(i).record() for i in items[:2]]
        other: Any = open_scorer(model, device="cpu")
        train_rows(
            rows, folder / "a", other.model.module, other.model.tokenizer, TrainOptions(steps=1, batch=1), identity={}
        )
        trained: Any = open_scorer(model, device="cpu", adapter=folder / "a")
        cost: dict[str, float] = {}
        with TraceStore(folder / "home", write=True) as store:
            for part, scorer in (("base", base), ("adapter", trained)):
                scorer.measure(items[:1], MeasureOptions())
                began = time.perf_counter()
                store.put_run(scorer.run)
                for item in items:
                    store.write(scorer.measure([item], MeasureOptions()))
                cost[part] = time.perf_counter() - began
            sources = {item.chain.id: item.chain.source for item in items}
            groups = groups_of(sources, None, ["spinoza/ethics"])
            for part, options in (
                ("comparison", {"noise": 0, "kl": 0}),
                ("and noise", {"kl": 0}),
                ("and divergence", {}),
            ):
                began = time.perf_counter()
                difference(
                    lambda: store.traces(base.run.id),
                    store.traces(trained.run.id),
                    groups,
                    lambda: base,
                    adapter=folder / "a",
                    **options,
                )
                cost[part] = time.perf_counter() - began
        both = cost["base"] + cost["adapter"]
        print(f"diff of {len(items)} chains, seconds: " + ", ".join(f"{k} {v:.1f}" for k, v in cost.items()))
        for part in ("comparison", "and noise", "and divergence"):
            print(f"  measuring both once, then {part}: {(both + cost[part]) / both:.2f} of measuring both once")


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
    from trails.variants import VariantOptions
    from trails.variants.measuring import make_variants

    scorer: Any = open_scorer(device=device)
    options = VariantOptions()
    reasons: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    accepted, passes, clocked, edits = [], [], [], []

    def forward(item: Segmented) -> float:
        """Seconds of one bare pass that gives every token's log-likelihood."""
        ids = torch.from_numpy(scorer.contexts.row(item).ids)[None].to(scorer.model.device)
        began = time.perf_counter()
        with torch.inference_mode():
            logits = scorer.model.module(input_ids=ids, use_cache=False).logits[0]
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
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--only", default="export,step,diff")
    parser.add_argument("--characters", type=int, default=2000, help="diff: only chains that are shorter")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    if "export" in given.only:
        bench_export(given.chains or 100_000)
    if "step" in given.only:
        bench_step(given.steps)
    if "diff" in given.only:
        bench_diff(given.chains or 60, given.characters)
    if "variants" in given.only:
        bench_variants(given.chains or 100, given.device, given.start)


if __name__ == "__main__":
    main()
