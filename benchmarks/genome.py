"""Courses: a generated genome of a thousand books compiled, and damaged genomes read.

python -m benchmarks.genome compile --rows 100000 --books 1000 [--folder FOLDER]
python -m benchmarks.genome fuzz --inputs 5000
python -m benchmarks.genome detector [--model MODEL]

``compile`` makes a home of short chains (not timed, kept in the folder), writes a genome over it with ``trails genome init``,
checks it and compiles it to Parquet, each in a process of its own: seconds, CPU seconds, peak memory and rows per second.
``fuzz`` reads damaged genomes and prints the slowest one, how many were refused, and the peak memory.
``detector`` runs the detector of resolutions on the labelled answers of ``tests/genome/resolutions.jsonl``: rules, rules with
the model's likelihood, the likelihood alone, and the control, any answer that turns.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from trails.schema import Trace

GENOME = "course.genome.yaml"
SHARD = 5_000


def traces(rows: int, run: str, tokenizer: str, sources: int) -> Iterator[Trace]:
    """Short chains with hand-made numbers: two steps, twelve to forty tokens, ``sources`` sources of equal size."""
    from trails.schema import Chain, Role, Step
    from trails.schema import Trace as Made

    rng = np.random.default_rng(0)
    layers = 1
    for number in range(rows):
        words = [f" w{x}" for x in rng.integers(0, 40_000, int(rng.integers(12, 40)))]
        half = len(words) // 2
        text = "If" + "".join(words)
        ends = np.cumsum([len(word) for word in words]).astype(np.int32) + 2
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int32)
        n = len(words)
        zero = np.zeros((n, layers), np.float32)
        steps = (Step(0, 0, int(ends[half - 1]), Role.IF), Step(1, int(ends[half - 1]), len(text), Role.BUT))
        nats = rng.gamma(2.0, 1.0, n).astype(np.float32)
        nats[0] = np.nan
        yield Made(
            chain=Chain(
                f"source-{number % sources:04}", str(number // sources), "", text, language="en", licence="MIT"
            ),
            steps=steps,
            run=run,
            tokenizer=tokenizer,
            n_layers=layers,
            token_ids=rng.integers(0, 49_152, n).astype(np.int32),
            token_start=starts,
            token_end=ends,
            pieces=tuple(words),
            step_tokens=np.array([[0, half], [half, n]], np.int32),
            question_token_ids=np.zeros(0, np.int32),
            question_surprisal=np.zeros(0, np.float32),
            n_context=0,
            surprisal=nats,
            entropy=nats,
            rank=np.zeros(n, np.int32),
            logit_shift=np.zeros(n, np.float32),
            attention_shift=zero,
            attention_previous=zero,
            attention_sink=zero,
            attention_entropy=zero,
            hidden_shift=np.zeros((n, layers + 1), np.float32),
            hidden_baseline=np.zeros(layers + 1, np.float32),
            step_attention=np.zeros((7, layers), np.float32),
        )


def make_home(home: Path, rows: int, sources: int) -> None:
    """A home of ``rows`` chains; one that is there is used again. Texts and numbers repeat after :data:`SHARD` chains, sources
    and records do not: no two chains are alike, and a million are made in a minute.
    """
    import pyarrow as pa

    from trails.schema import Chain, Run
    from trails.store.shards import encode_table, to_table
    from trails.store.traces import TraceStore, put_shard

    if (home / "done").is_file() and (home / "done").read_text() == f"{rows} {sources}":
        return
    shutil.rmtree(home, ignore_errors=True)
    run = Run("made", "rev-made", "feedc0de" * 8, n_layers=1, n_heads=1, d_model=8, vocab_size=49_152, max_tokens=512)
    made: list[Trace] = list(traces(min(rows, SHARD), run.id, run.tokenizer, sources))
    first = to_table(made)
    with TraceStore(home, write=True) as store:
        store.put_run(run)
        for start in range(0, rows, SHARD):
            n = min(SHARD, rows - start)
            names = [(f"source-{i % sources:04}", str(i // sources)) for i in range(start, start + n)]
            ids = [Chain(*name, "", trace.chain.text).id for name, trace in zip(names, made, strict=False)]
            table = first.slice(0, n)
            for column, texts in (
                ("chain", ids),
                ("source", [s for s, _ in names]),
                ("source_id", [r for _, r in names]),
            ):
                place = table.column_names.index(column)
                table = table.set_column(place, table.schema.field(column), pa.array(texts, pa.string()))
            data = encode_table(table, [trace.n_tokens for trace in made[:n]])
            put_shard(home, hashlib.sha256(data).hexdigest()[:32], data)
    (home / "done").write_text(f"{rows} {sources}")


_PEAK = """
import resource, sys
from trails.__main__ import main
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = used.ru_maxrss
    try:  # the other one begins with that of the process which started this one
        peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
    except OSError:
        pass
    print(used.ru_utime + used.ru_stime, peak / 1024, file=sys.stderr)
"""


def timed(*arguments: str) -> tuple[float, float, float, str]:
    """Seconds, CPU seconds, peak memory in MiB and output of ``trails`` with these arguments."""
    began = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", _PEAK, *arguments], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise SystemExit(done.stderr)
    cpu, peak = map(float, done.stderr.strip().splitlines()[-1].split())
    return seconds, cpu, peak, done.stdout


def compile_(rows: int, books: int, folder: Path) -> None:
    """Generate, check and compile; prints what each took."""
    home, genome, course = str(folder / "home"), str(folder / GENOME), folder / "course"
    make_home(folder / "home", rows, min(books, 500))
    shutil.rmtree(course, ignore_errors=True)
    where = ("--home", home, "--store", "embedded")
    made = ("--from", home, "--books", str(books), "--stages", "5", "--overwrite")
    out = ("--format", "trails", "--parquet", "-o", str(course))
    said = {
        "init": timed("genome", "init", genome, *made),
        "check, the file alone": timed("genome", "check", genome, "--alone"),
        "check against the home": timed("genome", "check", genome, *where),
        "export": timed("genome", "export", genome, *out, *where),
    }
    for name, (seconds, cpu, peak, shown) in said.items():
        print(f"{name:<24}{seconds:8.1f} s {cpu:8.1f} s CPU {peak:8.0f} MiB   {shown.splitlines()[0]}")
    seconds, cpu = said["export"][:2]
    print(f"{rows:,} rows of {books:,} books: {rows / seconds:,.0f} rows/s; CPU {1e6 * cpu / rows:,.1f} µs a row")


def detector(model: str) -> None:
    """Precision, recall and F1 of every way to tell a resolution, with intervals that resample answers."""
    from tests.genome.test_scenes import ITEMS, SCENES

    from trails.analyses.statistics import bootstrap
    from trails.genome.scenes import MARGIN, detect, f1
    from trails.measure import open_scorer
    from trails.measure.connectives import mean_behind

    scorer = open_scorer(model, device="cpu")
    module, tokenizer = scorer.model.module, scorer.model.tokenizer

    def likelihood(before: str, text: str) -> float:
        return mean_behind(module, tokenizer, before, text)

    truth = [item["resolved"] for item in ITEMS]
    found = []
    for item in ITEMS:
        scene = SCENES[item["scene"]]
        others = [other.resolution_expected for other in SCENES if other is not scene]
        found.append(
            (detect(item["answer"], scene), detect(item["answer"], scene, likelihood=likelihood, controls=others))
        )
    ways = {
        "rules": [rules.resolved for rules, _ in found],
        "rules or likelihood": [both.resolved for _, both in found],
        f"likelihood alone, above {MARGIN} nats": [both.margin > MARGIN for _, both in found],
        "control: any answer that turns": [rules.turn for rules, _ in found],
    }
    print(f"{scorer.run.model}, {len(ITEMS)} answers, {sum(truth)} resolved\n")
    print("| way | precision | recall | F1 | 95 % |\n|---|---|---|---|---|")
    for name, said in ways.items():
        pairs = np.array([truth, said]).T.astype(float)
        span = bootstrap(pairs, lambda rows: f1(rows[:, 0].astype(bool).tolist(), rows[:, 1].astype(bool).tolist())[2])
        low, high = span or (float("nan"), float("nan"))
        precision, recall, score = f1(truth, said)
        print(f"| {name} | {precision:.2f} | {recall:.2f} | {score:.2f} | {low:.2f} to {high:.2f} |")
    margins = [both.margin for _, both in found]
    yes = [m for m, right in zip(margins, truth, strict=True) if right]
    no = [m for m, right in zip(margins, truth, strict=True) if not right]
    above = np.mean([(a > b) + 0.5 * (a == b) for a in yes for b in no])
    print(
        f"\nAUC of the likelihood's margin {above:.2f} (chance .50); mean {np.mean(yes):+.2f} resolved, {np.mean(no):+.2f} not"
    )


def fuzz(inputs: int) -> None:
    """Read damaged genomes; prints the slowest, and the peak memory."""
    from tests.genome.test_source import GOOD, mutated

    from trails.errors import TrailsError
    from trails.genome.model import parse_genome

    rng = random.Random(1)
    slowest, refused = 0.0, 0
    began = time.perf_counter()
    for _ in range(inputs):
        text = mutated(rng, GOOD)
        if rng.random() < 0.1:  # noise of any bytes, as a file of another kind would hold
            text = bytes(rng.randrange(256) for _ in range(rng.randrange(4_000))).decode("utf-8", "replace")
        if rng.random() < 0.02:
            text *= rng.randrange(2, 60)
        start = time.perf_counter()
        try:
            parse_genome(text)
        except TrailsError:
            refused += 1
        slowest = max(slowest, time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = time.perf_counter() - began
    print(
        f"{inputs:,} inputs in {seconds:.1f} s, {refused:,} refused, no crash; slowest {slowest:.2f} s; peak {peak:.0f} MiB"
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("compile")
    one.add_argument("--rows", type=int, default=1_000_000)
    one.add_argument("--books", type=int, default=1_000)
    one.add_argument("--folder", type=Path)
    parts.add_parser("fuzz").add_argument("--inputs", type=int, default=5_000)
    parts.add_parser("detector").add_argument("--model", default="")
    asked = parser.parse_args()
    os.environ["TRAILS_STORE"] = "embedded"
    if asked.part == "detector":
        detector(asked.model)
        return
    if asked.part == "fuzz":
        fuzz(asked.inputs)
        return
    with tempfile.TemporaryDirectory() as scratch:
        compile_(asked.rows, asked.books, asked.folder or Path(scratch))


if __name__ == "__main__":
    main()
