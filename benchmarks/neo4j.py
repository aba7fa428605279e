"""Loading and asking Neo4j, against the usual way of loading and against itself at other sizes.

    python -m benchmarks.neo4j                 everything, on the LTS server
    python -m benchmarks.neo4j --tokens 50000  smaller
    python -m benchmarks.neo4j load bulk       only these parts

The traces are made up (words, random numbers, 30 layers) so that no model is needed; their shape is that of GSM8K answers:
about 165 tokens in 6 steps. Client and server share the machine. Prints a table with the goal beside each figure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import neo4j
import numpy as np

from trails.schema import NODES, Chain, Role, Run, Step, Trace
from trails.store.base import GraphBatch
from trails.store.bulk import write_bulk
from trails.store.embedded import EmbeddedStore
from trails.store.neo4j import Neo4jStore
from trails.store.queries import named_queries
from trails.store.rows import graph_batch

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "neo4j"
LAYERS = 30
ROUNDS = 4
WORDS = tuple(f" {a}{b}" for a in "badefghiklmnop" for b in ("ana", "elo", "iru", "ost", "um", "er"))
ROLES = (Role.IF, Role.THEN, Role.BUT, Role.THEREFORE, Role.NEXT, Role.NONE)
RUN = Run("benchmark", "0", "feedc0de" * 8, n_layers=LAYERS, n_heads=9, d_model=64, vocab_size=1000, max_tokens=8192)


def traces(n_tokens: int, seed: int = 0, per_chain: int = 165, n_steps: int = 6, run: Run = RUN) -> Iterator[Trace]:
    """Made-up traces with ``n_tokens`` tokens together."""
    rng = np.random.default_rng(seed)
    made = 0
    while made < n_tokens:
        n = int(rng.integers(per_chain // 2, per_chain * 3 // 2))
        ids = rng.integers(0, len(WORDS), n).astype(np.int32)
        pieces = tuple(WORDS[i] for i in ids)
        ends = np.cumsum([len(p) for p in pieces]).astype(np.int32)
        starts = np.concatenate([[0], ends[:-1]]).astype(np.int32)
        chain = Chain(f"set{made % 3}", str(made), f"Question {seed} {made}?", "".join(pieces), "42", "en")
        cut = [round(i * n / n_steps) for i in range(n_steps + 1)]
        edges = [0, *(int(ends[c - 1]) for c in cut[1:])]
        roles = [ROLES[int(i)] for i in rng.integers(0, len(ROLES), n_steps)]
        steps = tuple(Step(i, edges[i], edges[i + 1], roles[i]) for i in range(n_steps))

        def draw(*shape: int) -> Any:
            return rng.random(shape, dtype=np.float32)

        yield Trace(
            chain=chain,
            steps=steps,
            run=run.id,
            tokenizer=run.tokenizer,
            n_layers=LAYERS,
            token_ids=ids,
            token_start=starts,
            token_end=ends,
            pieces=pieces,
            step_tokens=np.array([[cut[i], cut[i + 1]] for i in range(n_steps)], np.int32),
            question_token_ids=np.zeros(0, np.int32),
            question_surprisal=np.zeros(0, np.float32),
            n_context=1,
            surprisal=rng.exponential(2.0, n).astype(np.float32),
            entropy=draw(n),
            rank=rng.integers(0, 1000, n).astype(np.int32),
            logit_shift=draw(n),
            attention_shift=draw(n, LAYERS),
            attention_previous=draw(n, LAYERS),
            attention_sink=draw(n, LAYERS),
            attention_entropy=draw(n, LAYERS),
            hidden_shift=draw(n, LAYERS + 1),
            hidden_baseline=draw(LAYERS + 1),
            step_attention=draw(n_steps * (n_steps + 5) // 2, LAYERS),
        )
        made += n


def batches(n_tokens: int, seed: int = 0, size: int = 500) -> list[GraphBatch]:
    """The rows of made-up traces, in batches of ``size`` chains."""
    block: list[Trace] = []
    found = []
    for trace in traces(n_tokens, seed):
        block.append(trace)
        if len(block) == size:
            found.append(graph_batch(block, {RUN.id: RUN}))
            block = []
    if block:
        found.append(graph_batch(block, {RUN.id: RUN}))
    return found


@contextmanager
def server(version: str = "LTS", heap: str = "3g", name: str = "") -> Iterator[dict[str, Any]]:
    """A server of its own for the benchmark; ends with it."""
    command = [str(SCRIPT), "run", "--version", version, "--no-auth", "--port", "0", "--heap", heap, "--until-eof"]
    if name:
        command += ["--name", name]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        yield json.loads(line)
    finally:
        process.stdin.close()
        process.wait(120)


def spent(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def empty(store: Neo4jStore) -> None:
    """Remove everything, with the schema in place."""
    store.clear([node.label for node in NODES])
    store.ensure_schema()


def n_tokens_of(rows: list[GraphBatch]) -> int:
    """Tokens in batches."""
    return sum(len(batch.nodes["Token"]) for batch in rows)


PLAIN_TOKENS = "UNWIND $rows AS row MERGE (t:Token {id: row.id}) SET t += row"
PLAIN_NEXT = (
    "UNWIND $rows AS row MATCH (a:Token {id: row.start}) MATCH (b:Token {id: row.end}) "
    "MERGE (a)-[r:NEXT {run: row.run}]->(b) SET r += row.properties"
)


def plain_load(uri: str, rows: list[GraphBatch]) -> None:
    """The usual way: rows as maps, MERGE nodes, MATCH both ends, MERGE relationships; tokens and transitions only."""
    with neo4j.GraphDatabase.driver(uri) as driver, driver.session() as session:
        for batch in rows:
            tokens = batch.nodes["Token"].to_pylist()
            steps = [
                {"start": row.pop("start"), "end": row.pop("end"), "run": row["run"], "properties": row}
                for row in batch.relationships["NEXT"].to_pylist()
            ]
            for statement, items in ((PLAIN_TOKENS, tokens), (PLAIN_NEXT, steps)):
                for first in range(0, len(items), 10_000):
                    part = items[first : first + 10_000]
                    session.execute_write(lambda tx, s=statement, p=part: tx.run(s, rows=p).consume())


def timed(work: Callable[[], object], pid: int) -> tuple[float, float]:
    """Wall-clock seconds, and CPU seconds of client and server together."""
    wall, cpu = time.perf_counter(), time.process_time() + spent(pid)
    work()
    return time.perf_counter() - wall, time.process_time() + spent(pid) - cpu


def light(rows: list[GraphBatch]) -> list[GraphBatch]:
    """Chains, tokens, transitions and what hangs on the chain; without the attention between steps."""
    kept = ("FROM", "HAS_STEP", "FIRST", "MEASURED", "BEGINS", "NEXT")
    return [GraphBatch(b.nodes, {k: v for k, v in b.relationships.items() if k in kept}, b.whole) for b in rows]


def load(n_tokens: int, show: Callable[..., None]) -> None:
    """Online loading against the plain way, and its growth."""
    rows = batches(n_tokens)
    small, tokens = light(rows), n_tokens_of(rows)
    with server() as found:
        uri, pid = found["bolt"], found["pid"]
        with Neo4jStore(uri) as store:
            loads: dict[str, Callable[[], object]] = {
                "ours": lambda: store.write(small),
                "plain": lambda: plain_load(uri, rows),
                "all": lambda: store.write(rows),
            }
            best: dict[str, tuple[float, float]] = {}
            # turn by turn, the best of several: the server's JIT compiler warms up for all of them alike
            for _ in range(ROUNDS):
                for kind, work in loads.items():
                    empty(store)
                    now = timed(work, pid)
                    known = best.get(kind, now)
                    best[kind] = (min(known[0], now[0]), min(known[1], now[1]))
            (wall, cpu), (plain_wall, plain_cpu), (all_wall, all_cpu) = best["ours"], best["plain"], best["all"]
            show("online load: tokens with transitions, 19 scalars each", f"{tokens / wall:,.0f}/s", "30,000/s")
            show("the same with everything between steps", f"{tokens / all_wall:,.0f} tokens/s", "")
            show("plain UNWIND ... MERGE, tokens and transitions only", f"{tokens / plain_wall:,.0f}/s", "")
            show("online load against plain, wall clock", f"{plain_wall / wall:.1f}x", "5x")
            show("online load against plain, CPU of client and server", f"{plain_cpu / cpu:.1f}x", "")
            show(
                "CPU per token: ours, ours with steps, plain",
                f"{[round(c / tokens * 1e6) for c in (cpu, all_cpu, plain_cpu)]} us",
                "",
            )
            empty(store)
            part = light(batches(n_tokens // 16, seed=1))
            _, first_cpu = timed(lambda: store.write(part), pid)
            store.write(small)
            last = light(batches(n_tokens // 16, seed=2))
            _, last_cpu = timed(lambda: store.write(last), pid)
            growth = (last_cpu / n_tokens_of(last)) / (first_cpu / n_tokens_of(part))
            show("CPU per token when 16x the data are in, against an empty graph", f"{growth:.2f}x", "1.1x")


def bulk(n_tokens: int, show: Callable[..., None]) -> None:
    """Files for the importer, the import, and the first answer."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "files"
        rows = batches(n_tokens)
        began = time.perf_counter()
        files = write_bulk(rows, folder)
        wrote = time.perf_counter() - began
        show("bulk files written", f"{files.elements / wrote:,.0f} elements/s", "300,000/s")
        name = f"benchmark-bulk-{os.getpid()}"
        command = files.command((str(SCRIPT), "admin", "--name", name, "--heap", "2g", "--"))
        try:
            began = time.perf_counter()
            subprocess.run(shlex.split(command), check=True, capture_output=True)
            imported = time.perf_counter() - began
            with server(name=name) as found, Neo4jStore(found["bolt"]) as store:
                assert len(store.loaded()) == sum(len(batch.whole) for batch in rows)
            total = time.perf_counter() - began + wrote
            show(f"imported, {files.elements:,} elements", f"{imported:.1f} s", "")
            show(
                f"rows -> files -> imported -> answering, {n_tokens:,} tokens", f"{total:.1f} s", "40 s for 1 M tokens"
            )
        finally:
            subprocess.run([str(SCRIPT), "remove", "--name", name], check=True)


def ask(n_tokens: int, show: Callable[..., None]) -> None:
    """Named queries on both engines."""
    rows = batches(n_tokens)
    chain = rows[0].nodes["Chain"]["id"][0].as_py()
    step = rows[0].nodes["Step"]["id"][1].as_py()
    token = rows[0].nodes["Token"]["id"][40].as_py()
    given = {"chain": chain, "run": RUN.id, "step": step, "token": token, "one": RUN.id, "two": RUN.id}
    with tempfile.TemporaryDirectory() as temporary, server() as found, Neo4jStore(found["bolt"]) as remote:
        empty(remote)
        remote.write(rows)
        embedded = EmbeddedStore(Path(temporary))
        embedded.ensure_schema()
        embedded.write(rows)
        for engine, store in (("embedded", embedded), ("Neo4j", remote)):
            p50, slow = [], []
            for name, query in named_queries().items():
                values = {p.name: given.get(p.name, p.example) for p in query.parameters}
                times = []
                for _ in range(12):
                    began = time.perf_counter()
                    query.execute(store, values)
                    times.append((time.perf_counter() - began) * 1000)
                times = sorted(times[2:])
                p50.append((statistics.median(times), name))
                slow.append((times[-1], name))
            over = ", ".join(f"{name} {ms:.0f}" for ms, name in sorted(p50, reverse=True) if ms > 50)
            show(f"{engine}: median of the queries' medians", f"{statistics.median(p50)[0]:.0f} ms", "50 ms")
            show(f"{engine}: slowest single answer", f"{max(slow)[0]:.0f} ms ({max(slow)[1]})", "300 ms")
            show(f"{engine}: queries with a median over 50 ms", over or "none", "none")
        embedded.close()


PARTS = {"load": load, "bulk": bulk, "ask": ask}


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    parser.add_argument("--tokens", type=int, default=200_000)
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}, {options.tokens:,} tokens, Python {platform.python_version()}")
    print("| what | measured | goal |\n|---|---|---|")

    def show(what: str, measured: str, goal: str) -> None:
        print(f"| {what} | {measured} | {goal} |", flush=True)

    for part in options.parts or PARTS:
        PARTS[part](options.tokens, show)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
