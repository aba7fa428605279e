"""`trails ingest` of many short chains, of chains with many steps and of long ones, with the uniform scorer: time and memory.

    python -m benchmarks.scale ingest [--sizes 25000 50000 100000] [--workers 0] [--graph during]
    python -m benchmarks.scale steps  [--sizes 225 450 900 1800]
    python -m benchmarks.scale tokens [--sizes 4000 8000 16000 32000]
    python -m benchmarks.scale graph  [--sizes 250000 1000000 4000000] [--home HOME] [--limit-gb 16] [--bare]

The uniform scorer takes the bytes of the text for tokens and needs no model, so what is measured is everything but the model.
``graph`` repeats the measured chains of HOME (default: 40 chains of the packaged sample, measured by the packaged model) under
other record names, and loads them into the embedded graph without holding their rows: the cost of a token written and saved,
and how much of it the kernel spends (giving memory, writing the file). It may take ``--limit-gb`` of memory, so that other work
on the machine is safe; what happens at the limit is printed. With ``--bare`` the engine's own calls get the same columns as
frames of pandas, in blocks of the same size and with nothing else timed, as another program would make them.

Every size runs in a process of its own; CPU seconds are those of the process and of its workers, memory is the peak of the
process. The last column is the cost per unit beside that of the smallest size: 1.00 is linear.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SRC = Path(__file__).parents[1] / "src"


def short_chains(count: int) -> Iterator[dict[str, str]]:
    """Chains of three steps and about 110 bytes, no two alike."""
    for i in range(count):
        yield {
            "question": f"Is {i} even?",
            "answer": f"If {i} ends in {i % 10}, then its last digit is that. But {i} has {len(str(i))} digits. So {i} it is.",
        }


def chain_of_steps(steps: int) -> Iterator[dict[str, str]]:
    """One chain of so many steps."""
    yield {"question": "What follows?", "answer": "\n".join(f"So {i} follows from {i - 1}." for i in range(steps))}


def chain_of_tokens(tokens: int) -> Iterator[dict[str, str]]:
    """One chain of so many bytes in steps of about 80."""
    sentence = "If the grass is wet in the morning, then it has rained or somebody watered it. "
    yield {"question": "What follows?", "answer": (sentence * (tokens // len(sentence) + 1))[:tokens]}


def ingest(
    rows: Iterator[dict[str, str]], folder: Path, options: list[str]
) -> tuple[float, float, float, dict[str, object]]:
    """Wall seconds, CPU seconds, peak of memory in MiB and the summary of one ingest."""
    path = folder / "chains.jsonl"
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    command = [
        sys.executable,
        "-m",
        "trails",
        "ingest",
        str(path),
        "--model",
        "uniform",
        "--home",
        str(folder / "home"),
    ]
    command += ["--store", "embedded", "--json", *options]
    began = time.perf_counter()
    with (folder / "out").open("w+b") as out:
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(SRC)}, stdout=out)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        if status:
            raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
        out.seek(0)
        summary = json.loads(out.read())
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, summary


def load_graph(home: Path, tokens: int, limit: float, bare: bool) -> None:
    """Load so many tokens into an embedded graph and print a row; with ``bare`` by the engine's own calls."""
    from benchmarks.embedded import repeated
    from trails.store.embedded import EmbeddedStore
    from trails.store.rows import graph_batch
    from trails.store.traces import TraceStore

    resource.setrlimit(resource.RLIMIT_AS, (int(limit * 1e9), int(limit * 1e9)))
    with TraceStore(home) as shards:
        runs = shards.runs()
        traces = list(shards.traces(next(iter(runs))))
    spent = {stage: np.zeros(2) for stage in ("rows", "write", "save")}  # in the process, in the kernel

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        before = resource.getrusage(resource.RUSAGE_SELF)
        try:
            return work()
        finally:
            after = resource.getrusage(resource.RUSAGE_SELF)
            spent[stage] += (after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime)

    loaded = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with tempfile.TemporaryDirectory() as place:
        store = Bare(place) if bare else EmbeddedStore(place)
        try:
            for block in repeated(traces, tokens):
                batch = timed("rows", lambda block=block: graph_batch(block, runs))
                if isinstance(store, Bare):
                    store.add(batch, timed)
                else:
                    timed("write", lambda batch=batch: store.write([batch]))
                loaded += sum(trace.n_tokens for trace in block)
                if loaded // 10**6 > (loaded - sum(trace.n_tokens for trace in block)) // 10**6:
                    # the engine may abort the process, which then says nothing more
                    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
                    print(f"{loaded:,} written, peak {peak:.1f} GiB", file=sys.stderr, flush=True)
            if isinstance(store, Bare):
                store.hand_over(timed)
            timed("save", store.close)
        except BaseException as error:
            print(f"| {tokens:,} | ended after {loaded:,} tokens at {limit:g} GB: {type(error).__name__} |", flush=True)
            os._exit(0)
        size = (Path(place) / "graph.kgl").stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    each = {stage: 1e6 * seconds / loaded for stage, seconds in spent.items()}
    both = each["write"] + each["save"]
    costs = (each["rows"].sum(), each["write"].sum(), each["save"].sum(), both.sum(), both[1])
    print(
        f"| {loaded:,}{', bare' if bare else ''} | {' | '.join(f'{cost:.1f}' for cost in costs)} | "
        f"{(peak - before) * 1024 / loaded:,.0f} | {peak / 2**20:.1f} | {size / loaded:.0f} |",
        flush=True,
    )


class Bare:
    """The engine alone: no index, no lock, no look at what is there. Only its own calls are timed."""

    def __init__(self, place: str) -> None:
        import kglite

        self._graph, self._path, self._batches = kglite.KnowledgeGraph(), str(Path(place) / "graph.kgl"), []

    def add(self, batch: Any, timed: Callable[[str, Callable[[], Any]], Any]) -> None:
        """Keep a batch, and hand over what is kept once it is as much as the store hands over together."""
        from trails.store.embedded import _WAITING_TOKENS

        self._batches.append(batch)
        if sum(len(batch.nodes["Token"]) for batch in self._batches) >= _WAITING_TOKENS:
            self.hand_over(timed)

    def hand_over(self, timed: Callable[[str, Callable[[], Any]], Any]) -> None:
        """Make the frames, then time the engine."""
        from trails.schema import RELATIONSHIP
        from trails.store.embedded import _joined
        from trails.store.rows import distinct

        if not self._batches:
            return
        joined, self._batches = _joined(self._batches), []
        nodes = {label: self._frame(distinct(table, ("id",))) for label, table in joined.nodes.items()}
        frames = {name: self._frame(table) for name, table in joined.relationships.items()}

        def calls() -> None:
            for label, frame in nodes.items():
                self._graph.add_nodes(frame, label, "id")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for name, frame in frames.items():
                    of = RELATIONSHIP[name]
                    self._graph.add_relationships(frame, of.type, of.start, "start", of.end, "end")

        timed("write", calls)

    @staticmethod
    def _frame(table: Any) -> Any:
        """A frame of pandas whose integers stay exact beside missing values."""
        kept = [name for name in table.column_names if table[name].null_count < len(table)]
        return table.select(kept).to_pandas(integer_object_nulls=True)

    def close(self) -> None:
        """Save."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._graph.save(self._path)


def graphs(arguments: argparse.Namespace) -> None:
    """Load graphs of all sizes, each in a process of its own."""
    with tempfile.TemporaryDirectory() as place:
        home = arguments.home
        if home is None:
            from benchmarks.embedded import measured_sample

            home = Path(place) / "home"
            measured_sample(home)
        print(
            "| tokens | rows µs | written µs | saved µs | written and saved µs | of it the kernel µs | memory bytes | peak GiB "
            "| file bytes |"
        )
        print("|---" * 9 + "|", flush=True)
        for size in arguments.sizes or [250_000, 1_000_000, 4_000_000]:
            command = [sys.executable, "-m", "benchmarks.scale", "load", "--sizes", str(size), "--home", str(home)]
            for bare in ([], ["--bare"]) if arguments.bare else ([],):
                done = subprocess.run([*command, "--limit-gb", str(arguments.limit_gb), *bare], check=False)
                if done.returncode:
                    print(f"| {size:,} | ended with {done.returncode} at {arguments.limit_gb:g} GB |", flush=True)


def size_of(home: Path, pattern: str) -> int:
    """Bytes of the files of a home."""
    return sum(path.stat().st_size for path in home.rglob(pattern))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["ingest", "steps", "tokens", "graph", "load"])
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--graph", default="during", choices=["during", "after", "none"])
    parser.add_argument("--home", type=Path)
    parser.add_argument("--limit-gb", type=float, default=16.0)
    parser.add_argument("--bare", action="store_true")
    arguments = parser.parse_args()
    if arguments.what == "load":
        load_graph(arguments.home, arguments.sizes[0], arguments.limit_gb, arguments.bare)
        return
    if arguments.what == "graph":
        graphs(arguments)
        return
    makers = {
        "ingest": (short_chains, [25_000, 50_000, 100_000]),
        "steps": (chain_of_steps, [225, 450, 900, 1_800]),
        "tokens": (chain_of_tokens, [4_000, 8_000, 16_000, 32_000]),
    }
    make, sizes = makers[arguments.what]
    options = ["--graph", arguments.graph, *(["--workers", str(arguments.workers)] if arguments.workers else [])]
    print(
        f"{platform.machine()}, Python {platform.python_version()}, {len(os.sched_getaffinity(0))} cores; {' '.join(options)}"
    )
    columns = ("tokens", "wall s", "CPU s", "CPU µs/token", "peak MiB", "shards MB", "graph MB", "µs/token by stage")
    print(f"| {' | '.join((arguments.what, *columns, 'of the smallest'))} |")
    print("|---" * (len(columns) + 2) + "|")
    first = 0.0
    for size in arguments.sizes or sizes:
        with tempfile.TemporaryDirectory() as place:
            wall, cpu, peak, summary = ingest(make(size), Path(place), options)
            home = Path(place) / "home"
            shards, graph = size_of(home, "*.parquet") / 1e6, size_of(home, "graph.kgl") / 1e6
        tokens = int(str(summary["sequence_tokens"]))
        seconds = summary["seconds"]
        assert isinstance(seconds, dict)
        stages = ", ".join(f"{stage} {1e6 * s / tokens:.1f}" for stage, s in seconds.items() if stage != "total")
        first = first or cpu / size
        print(
            f"| {size:,} | {tokens:,} | {wall:.1f} | {cpu:.1f} | {1e6 * cpu / tokens:.1f} | {peak:,.0f} | {shards:,.1f} | "
            f"{graph:,.1f} | {stages} | {cpu / size / first:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
