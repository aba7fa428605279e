"""The embedded graph store and the shards: load rate, bytes, growth, latency of the named queries.

    python -m benchmarks.embedded [--home DIR] [--tokens 1000000]

``--home`` is a home with measured chains (default: 40 chains of the packaged sample are measured now with the packaged model).
Its traces are repeated under other record names until there are enough tokens, so every number in the graph is a measured
one. Load rates stand beside the engine's own bulk calls on the same rows in the same process.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import kglite
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trails.schema import ARRAYS, RELATIONSHIP, Run, Trace
from trails.store.base import GraphBatch, GraphStore
from trails.store.digest import compare, graph_digest
from trails.store.embedded import EmbeddedStore
from trails.store.queries import named_queries
from trails.store.rows import graph_batch
from trails.store.shards import encode_shard, to_table
from trails.store.traces import TraceStore

SHARD_CHAINS = 64


def repeated(traces: Sequence[Trace], tokens: int) -> Iterator[list[Trace]]:
    """Blocks of traces, the same ones under other record names, until ``tokens`` tokens are out."""
    held = 0
    for turn in itertools.count():
        for start in range(0, len(traces), SHARD_CHAINS):
            block = [
                replace(trace, chain=replace(trace.chain, source_id=f"{trace.chain.source_id}/{turn}"))
                for trace in traces[start : start + SHARD_CHAINS]
            ]
            held += sum(trace.n_tokens for trace in block)
            yield block
            if held >= tokens:
                return


def engine_only(batches: Sequence[GraphBatch]) -> float:
    """CPU seconds that the engine's own bulk calls take for the same rows, frames made beforehand."""
    graph = kglite.KnowledgeGraph()
    frames = []
    for batch in batches:
        for name, table in {**batch.nodes, **batch.relationships}.items():
            kept = [column for column in table.column_names if table[column].null_count < len(table)]
            frames.append((name, table.select(kept).to_pandas(integer_object_nulls=True)))
    begin = time.process_time()
    for name, frame in frames:
        if name in RELATIONSHIP:
            declared = RELATIONSHIP[name]
            graph.add_relationships(frame, declared.type, declared.start, "start", declared.end, "end", distinct=True)
        else:
            graph.add_nodes(frame, name, "id")
    return time.process_time() - begin


def encodings(traces: Sequence[Trace]) -> dict[str, float]:
    """Bytes per token of the same rows under other settings of Parquet."""
    table, tokens = to_table(traces), sum(trace.n_tokens for trace in traces)
    arrays = {measure.name for measure in ARRAYS if measure.dtype == "float32"}
    floats = [f"{name}.list.element" for name in sorted(arrays)]
    others = [c for c in table.schema.names if c not in arrays]

    def size(**options: object) -> float:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, **options)
        return len(sink.getvalue()) / tokens

    return {
        "as written (zstd 3, byte-stream split for floats)": len(encode_shard(traces)) / tokens,
        "zstd 3, plain floats": size(compression="zstd", compression_level=3, use_dictionary=others),
        "zstd 3, Parquet's defaults": size(compression="zstd", compression_level=3),
        "zstd 12, byte-stream split": size(
            compression="zstd", compression_level=12, use_byte_stream_split=floats, use_dictionary=False
        ),
        "snappy, Parquet's defaults": size(compression="snappy"),
        "nothing compressed": size(compression="none", use_dictionary=False),
    }


def latencies(store: GraphStore, traces: Sequence[Trace], run: Run, repeats: int) -> list[tuple[str, list[float], int]]:
    """Milliseconds of every call and rows of every named query; warm, with other parameters at each call."""
    rows = []
    chains = [row[0] for row in store.run("MATCH (c:Chain) RETURN c.id ORDER BY c.id", max_rows=10**6).rows]
    rng = np.random.default_rng(1)
    pieces = sorted({piece for trace in traces for piece in trace.pieces if len(piece) > 4})
    for name, query in named_queries().items():
        times, last = [], 0
        for _ in range(repeats):
            chain, second = rng.choice(chains, 2)
            chosen = {"chain": chain, "first": chain, "second": second, "step": f"{chain}:1", "run": run.id}
            chosen |= {
                "before": run.id,
                "after": run.id,
                "piece": rng.choice(pieces),
                "text": "apples",
                "pattern": "IF>THEN",
            }
            parameters = {
                p.name: (chosen.get(p.name, p.example) if not p.default or p.name in ("run", "pattern") else p.example)
                for p in query.parameters
            }
            parameters = {
                key: value.item() if isinstance(value, np.generic) else value for key, value in parameters.items()
            }
            begin = time.perf_counter()
            last = len(query.execute(store, parameters).rows)
            times.append((time.perf_counter() - begin) * 1000)
        rows.append((name, times, last))
    return rows


def strangers(place: Path, repeats: int) -> None:
    """What the limits on statements of strangers cost: the same statement in this process and in the child, in wall time."""
    print("\nStatements of strangers run in a child process with limits. Milliseconds, medians of fresh values:\n")
    print(
        "| statement | in this process | in the child, warm | ratio | the first, with loading |\n|---|---|---|---|---|"
    )
    for name, statement, rows in (
        ("one chain", "MATCH (c:Chain) RETURN c.id LIMIT 1", 1),
        (
            "1,000 transitions",
            "MATCH (a:Token)-[r:NEXT]->(b:Token) RETURN a.piece, r.surprisal, b.piece LIMIT 1000",
            1000,
        ),
        ("count of transitions", "MATCH (:Token)-[r:NEXT]->(:Token) WHERE r.surprisal > 5 RETURN count(r) AS n", 1),
    ):
        with EmbeddedStore(place) as store:
            begin = time.perf_counter()
            assert len(store.run(statement).rows) == rows
            first = time.perf_counter() - begin
            times: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(repeats):
                for trusted, kept in times.items():
                    begin = time.perf_counter()
                    store.run(statement, trusted=trusted)
                    kept.append((time.perf_counter() - begin) * 1000)
        inside, child = statistics.median(times[True]), statistics.median(times[False])
        print(f"| {name} | {inside:.2f} | {child:.2f} | {child / inside:.2f} | {first * 1000:.0f} |", flush=True)


def measured_sample(home: Path) -> None:
    """Forty chains of the packaged sample, measured by the packaged model."""
    from trails.cli import cli

    try:
        cli(["ingest", "--sample", "--limit", "40", "--premises", "--token-attention", "--home", str(home)])
    except SystemExit as ended:
        if ended.code:
            raise


def main() -> None:
    """Print everything as Markdown."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", type=Path)
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="trails-bench-"))
    try:
        if options.home is None:
            measured_sample(folder / "home")
        with TraceStore(options.home or folder / "home") as shards:
            runs = shards.runs()
            run = next(iter(runs.values()))
            traces = list(shards.traces(run.id))
        base = sum(trace.n_tokens for trace in traces)
        print(
            f"{platform.platform()}, Python {platform.python_version()}, kglite {kglite.__version__}, pyarrow {pa.__version__}"
        )
        print(f"{len(traces)} measured chains, {base:,} tokens, {run.n_layers} layers ({run.model})\n")

        print("| shard encoding | bytes/token |\n|---|---|")
        for name, size in encodings(traces).items():
            print(f"| {name} | {size:,.0f} |")
        per_layer = 4 * 4 * run.n_layers + 4 * (run.n_layers + 1)
        print(f"\nof which per-layer float32 arrays, uncompressed: {per_layer:,} bytes/token\n")

        print("Loading, in CPU seconds of the process, because the machine may be shared:\n")
        print(
            "| tokens | rows made | engine's bulk call | store.write | ratio | save | open | file | bytes/token | µs/token |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        first = 0.0
        for part in (16, 4, 1):
            wanted = options.tokens // part
            begin = time.process_time()
            batches = [graph_batch(block, runs) for block in repeated(traces, wanted)]
            made = time.process_time() - begin
            tokens = sum(len(batch.nodes["Token"]) for batch in batches)
            engine = engine_only(batches)
            place = folder / f"graph{part}"
            store = EmbeddedStore(place)
            store.ensure_schema()
            begin = time.process_time()
            store.write(batches)
            load = time.process_time() - begin
            begin = time.process_time()
            store.close()
            save = time.process_time() - begin
            begin = time.process_time()
            store = EmbeddedStore(place)
            opened = time.process_time() - begin
            size = (place / "graph.kgl").stat().st_size
            cost = (load + made) / tokens * 1e6
            first = first or cost
            print(
                f"| {tokens:,} | {made:.1f} s | {engine:.1f} s | {load:.1f} s | {engine / load:.2f} | {save:.1f} s "
                f"| {opened:.2f} s | {size / 1e6:.0f} MB | {size / tokens:.0f} | {cost:.0f} ({cost / first:.2f}x) |",
                flush=True,
            )
            if part == 16:
                differences = compare(graph_digest(batches), graph_digest([store.tables()]))
                sys.stderr.write(f"differences between graph and rows: {differences or 'none'}\n")
            del batches
            if part != 1:
                store.close()
        found = latencies(store, traces, run, options.repeats)
        print(
            f"\nNamed queries on {tokens:,} tokens, {options.repeats} calls each with other parameters, milliseconds:\n"
        )
        print("| query | p50 | worst | rows |\n|---|---|---|---|")
        for name, times, rows in found:
            print(f"| {name} | {statistics.median(times):.1f} | {max(times):.1f} | {rows} |")
        pooled = np.concatenate([times for _, times, _ in found])
        print(f"| all calls | {np.percentile(pooled, 50):.1f} | p99 {np.percentile(pooled, 99):.1f} | |")
        slow = [name for name, times, _ in found if statistics.median(times) > 50 or max(times) > 300]
        print(f"\nqueries with a median over 50 ms or a call over 300 ms: {', '.join(slow) or 'none'}")
        store.close()
        strangers(place, options.repeats)
        print(f"peak memory of the process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.1f} GB")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
