"""Flip single bits of a shard and see that no reader takes the shard for whole.

    python scripts/flip_test.py [--flips 2000] [--chains 40] [--model uniform] [--seed 0]

Ingests the packaged sample into a new home. Every flip is read in every way in which the program reads shards: as traces,
as chains and runs only, and as the small columns. An error other than StoreError, or other data without an error, is a failure.
Then both ways are timed: what the comparison with the hash costs. Exits with 1 if anything failed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from trails.config import load_settings
from trails.errors import StoreError
from trails.pipeline import IngestOptions, ingest
from trails.readers import ReadOptions
from trails.sample import path as sample
from trails.store.shards import row_digests
from trails.store.traces import TraceStore

WAYS: dict[str, Callable[[TraceStore], Any]] = {
    "traces": lambda store: [row_digests(trace) for trace in store.traces()],
    "chains and runs": lambda store: sorted(store.keys()),
    "counts": lambda store: store.stats(),
}


def outcomes(home: Path, flips: int, seed: int) -> Counter[tuple[str, str]]:
    """What became of every flipped bit, by way of reading: ``caught``, ``harmless``, ``silent`` or the name of an error."""
    (shard,) = (home / "shards").glob("*.parquet")
    whole = shard.read_bytes()
    expected = {}
    for name, read in WAYS.items():
        with TraceStore(home) as store:
            expected[name] = read(store)
    found: Counter[tuple[str, str]] = Counter()
    rng = random.Random(seed)
    try:
        for _ in range(flips):
            bit = rng.randrange(8 * len(whole))
            damaged = bytearray(whole)
            damaged[bit // 8] ^= 1 << bit % 8
            shard.write_bytes(damaged)
            for name, read in WAYS.items():
                try:
                    with TraceStore(home) as store:
                        found[name, "harmless" if read(store) == expected[name] else "silent"] += 1
                except StoreError:
                    found[name, "caught"] += 1
                except Exception as error:
                    found[name, type(error).__name__] += 1
    finally:
        shard.write_bytes(whole)
    return found


def cost(home: Path, repeats: int = 5) -> tuple[float, float]:
    """Seconds to read all traces with and without the comparison with the hash: the shortest of ``repeats``."""
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(repeats):
        for compare in (True, False):
            begin = time.perf_counter()
            with TraceStore(home) as store:
                if not compare:
                    store._compared = {path.name for path in store._shards()}
                for _ in store.traces():
                    pass
            times[compare].append(time.perf_counter() - begin)
    return min(times[True]), min(times[False])


def main() -> int:
    """Ingest, flip, count, time."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--flips", type=int, default=2000)
    parser.add_argument("--chains", type=int, default=40)
    parser.add_argument("--model", default="uniform", help="uniform needs no torch; empty = the packaged model")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="trails-flip-"))
    try:
        settings = load_settings(home=folder / "home", store="embedded", model=options.model)
        ingest([sample()], settings, IngestOptions(read=ReadOptions(limit=options.chains), shard_tokens=10**9))
        found = outcomes(settings.home, options.flips, options.seed)
        failures = 0
        for (way, outcome), count in sorted(found.items()):
            failures += count if outcome not in ("caught", "harmless") else 0
            print(f"{way:<16} {outcome:<10} {count:,}")
        with_hash, without = cost(settings.home)
        size = sum(path.stat().st_size for path in (settings.home / "shards").iterdir())
        print(
            f"reading {size:,} bytes: {with_hash:.4f} s compared, {without:.4f} s not: {with_hash / without:.2f} times"
        )
        print(f"{options.flips} flips, {failures} failures")
        return 1 if failures else 0
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
