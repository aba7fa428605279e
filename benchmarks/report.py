"""What a report costs to write and to open: seconds, bytes a token, frames; and what the alternatives cost to measure.

    python -m benchmarks.report [--chains 100] [--tokens 10000] [--states 100000] [--no-browser] [--no-model]
        [--pages FOLDER] [--gpu [vulkan|vulkan-angle|gl-egl]] [--whole]

Chains are made up in the shape of a model of 30 layers; bytes a token of random numbers are an upper bound, those of real
numbers are printed by ``trails report``. Frames are timed in headless Chromium, whose renderer is named; ``--gpu`` asks for a
GPU and refuses software. ``--pages`` keeps the pages, which ``benchmarks/frames.py`` times on a machine without the project.
The alternatives are measured with the real SmolLM2-135M, with and without, interleaved, in CPU seconds.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import processor_seconds
from benchmarks.frames import BACKENDS, RefusedError, timed, told
from trails.analyses.sequences import token_corpus
from trails.analyses.statemap import StateMap, build
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.metrics import most_likely
from trails.readers import read
from trails.report.html import script, write_report
from trails.sample import path as sample_path
from trails.segment import segment

ROOT = Path(__file__).resolve().parents[1]


def module(name: str, path: Path) -> Any:
    """A helper of the tests as a module."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def made_map(states: int, chains: int) -> StateMap:
    """A map of so many states and twice as many transitions; its corpus has one chain of every so many states."""
    factory = module("factory", ROOT / "tests" / "store" / "factory.py")
    words = tuple(f"w{i:05} " for i in range(states // chains))
    run = factory.make_run(n_layers=0)
    traces = [
        factory.make_trace(factory.make_chain(i, "".join(words)), run, words=words, premises=False)
        for i in range(chains)
    ]
    woven = build(token_corpus(traces))
    rng = np.random.default_rng(0)
    names = [f"s{i:07}" for i in range(states)]
    table = pa.table(
        {
            "id": names,
            "text": [f"state {i}" for i in range(states)],
            "n_chains": rng.integers(1, 20, states),
            "n_occurrences": rng.integers(1, 40, states),
        }
    )
    start = rng.integers(0, states, 2 * states)
    end = np.minimum(start + rng.integers(1, 50, 2 * states), states - 1)
    trails = pa.table(
        {
            "start": [names[i] for i in start],
            "end": [names[i] for i in end],
            "count": rng.integers(1, 30, 2 * states),
        }
    )
    return replace(woven, states=table, trails=trails, state_of=np.arange(woven.corpus.n_tokens) % states)


def alternatives(chains: int, repeats: int) -> None:
    """CPU seconds of measuring with and without the five likeliest items."""
    import torch

    from trails.measure import open_scorer

    scorer: Any = open_scorer(device="cpu")
    items = [Segmented(chain, segment(chain)) for chain, _ in zip(read([sample_path()]), range(chains), strict=False)]
    tokens = sum(scorer.count_tokens(item) for item in items)
    scorer.measure(items[:2], MeasureOptions())
    seconds: dict[int, list[float]] = {0: [], 5: []}
    for _ in range(repeats):
        for k, found in seconds.items():
            began = processor_seconds()
            scorer.measure(items, MeasureOptions(top_k=k))
            found.append(processor_seconds() - began)
    without, given = (statistics.median(seconds[k]) for k in (0, 5))
    print(
        f"measuring {tokens:,} tokens: {without:.2f} CPU s without, {given:.2f} with five alternatives: {given / without:.3f}x"
    )
    logits = torch.randn(64, scorer.run.vocab_size)
    for name, search in (
        ("whole rows", lambda: logits.topk(5, -1)),
        ("block by block", lambda: most_likely(logits, 5)),
    ):
        search()
        began = processor_seconds()
        for _ in range(10):
            search()
        print(
            f"  five of {scorer.run.vocab_size:,}, {name}: {(processor_seconds() - began) / 640 * 1e6:.0f} CPU µs a row"
        )


def main() -> None:
    """Print every figure beside its goal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=10_000)
    parser.add_argument("--states", type=int, default=100_000)
    parser.add_argument("--model-chains", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--no-model", action="store_true")
    parser.add_argument("--pages", type=Path, help="keep the pages in this folder")
    parser.add_argument(
        "--gpu", nargs="?", const="vulkan", choices=sorted(BACKENDS), help="render on a GPU, through this"
    )
    parser.add_argument(
        "--whole", action="store_true", help="move the map once more with everything drawn in every frame"
    )
    given = parser.parse_args()
    factory = module("factory", ROOT / "tests" / "store" / "factory.py")
    sizes = [len(script(views).encode()) / 1000 for views in (("report",), ("corpus",), ("corpus", "map"))]
    print(
        "script of an analysis {:.1f} kB, of a corpus {:.1f} kB, of a corpus with its map {:.1f} kB (goal 30)".format(
            *sizes
        )
    )
    run = factory.make_run(n_layers=30)
    with tempfile.TemporaryDirectory() as name:
        folder = given.pages or Path(name)
        folder.mkdir(parents=True, exist_ok=True)

        def trace(key: str, n: int) -> Any:
            words = tuple(f"w{i:04} " for i in range(n))
            chain = factory.make_chain(key, "".join(words))
            return factory.make_trace(
                chain, run, words=words, n_steps=min(40, n // 20), premises=False, alternatives=True
            )

        traces = [trace(str(i), 150) for i in range(given.chains)]
        began = time.perf_counter()
        written = write_report(folder / "many.html", traces, run, woven=build(token_corpus(traces)))
        took = time.perf_counter() - began
        print(f"report of {given.chains} chains, {written.n_tokens:,} tokens: {took:.1f} s (goal 5)")
        print(
            f"  {written.n_bytes / written.n_tokens:.0f} bytes a token of random numbers (goal 150, for real numbers)"
        )
        long = trace("long", given.tokens)
        write_report(folder / "long.html", [long], run)
        began = time.perf_counter()
        write_report(folder / "map.html", traces[:1], run, woven=made_map(given.states, 20))
        print(f"report with a map of {given.states:,} states: {time.perf_counter() - began:.1f} s")
        pages = {
            "chain": long.chain.id,
            "tokens": given.tokens,
            "states": given.states,
            "transitions": 2 * given.states,
        }
        (folder / "pages.json").write_text(json.dumps(pages))
        if not given.no_browser:
            try:
                seen = timed(folder, gpu=given.gpu, whole=given.whole)
            except RefusedError as refused:
                sys.exit(str(refused))
            for line in told(seen):
                print(line)
    if not given.no_model:
        alternatives(given.model_chains, given.repeats)


if __name__ == "__main__":
    main()
