"""How fast chains are read and split, beside a splitter that knows nothing.

The baseline splits at a full stop, question or exclamation mark followed by a blank: one regular expression, no roles.
Input: the packaged sample, repeated. CPU time of one process, best of five.
"""

from __future__ import annotations

import argparse
import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from trails.readers import read, write_chains
from trails.sample import path
from trails.schema import Chain
from trails.segment import segment

GOAL_MB_PER_S = 2.0
BASELINE = re.compile(r"(?<=[.!?])\s+")


def best(work: Callable[[], object], repeats: int = 5) -> float:
    """Smallest CPU time of ``work`` in seconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def row(name: str, chains: list[Chain]) -> None:
    """Print one line of the table."""
    size = sum(len(chain.text.encode()) for chain in chains) / 1e6
    ours = best(lambda: [segment(chain) for chain in chains])
    base = best(lambda: [BASELINE.split(chain.text) for chain in chains])
    steps = sum(len(segment(chain)) for chain in chains)
    pieces = sum(len(BASELINE.split(chain.text)) for chain in chains)
    print(
        f"| {name} | {len(chains):,} | {size:.2f} | {steps:,} / {pieces:,} | {size / ours:.2f} | {size / base:.0f} | "
        f"{base / ours:.3f} | {GOAL_MB_PER_S} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=10)
    copies = parser.parse_args().copies
    sample = list(read([path()]))
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    print("| chains | number | MB | steps / baseline pieces | MB/s | baseline MB/s | ratio | goal MB/s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in ("gsm8k/train", "spinoza/ethics", "ru-answers/answers", "marco-o1/cot_demo"):
        row(name, [chain for chain in sample if chain.source == name] * copies)
    row("all", sample * copies)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "chains.jsonl"
        with file.open("w", encoding="utf-8") as out:
            write_chains(sample * copies, out)
        seconds = best(lambda: sum(1 for _ in read([file])))
        print(f"\nreading native JSON Lines: {file.stat().st_size / 1e6 / seconds:.1f} MB/s")


if __name__ == "__main__":
    main()
