"""Loading and asking Neo4j, against the usual way of loading and against itself at other sizes.

    python -m benchmarks.neo4j                 everything, on the LTS server, with a million tokens
    python -m benchmarks.neo4j --tokens 50000  smaller
    python -m benchmarks.neo4j bulk            only this part: import, and the named queries on both engines
    python -m benchmarks.neo4j store --folder F       a store that the two below need, kept in a folder
    python -m benchmarks.neo4j questions --folder F   the fourteen questions of benchmarks/questions.py, and the indexes on
                                                      request: hits and milliseconds, without and with them
    python -m benchmarks.neo4j indexes --folder F     what each of these indexes costs a load

The last three go on where they stopped: each figure is kept in the folder as soon as it is measured.

The traces are made up (words, random numbers, 30 layers) so that no model is needed; their shape is that of GSM8K answers:
about 165 tokens in 6 steps. Client and server share the machine. Prints a table with the goal beside each figure.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import neo4j
import numpy as np

from benchmarks.embedded import latencies
from benchmarks.questions import QUESTIONS
from trails.errors import QueryError
from trails.schema import RELATIONSHIP, Chain, Role, Run, Step, Trace
from trails.store.base import GraphBatch, GraphStore
from trails.store.bulk import bulk_from_home, write_bulk
from trails.store.embedded import EmbeddedStore
from trails.store.neo4j import Neo4jStore
from trails.store.neo4j.errors import GoneError
from trails.store.neo4j.statements import MORE_INDEXES
from trails.store.rows import graph_batch, table_of
from trails.store.scope import Scope
from trails.store.traces import TraceStore

Found = TypeVar("Found")
ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "neo4j"
LAYERS = 30
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
def server(
    version: str = "LTS", heap: str = "3g", name: str = "", environment: dict[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    """A server of its own for the benchmark; ends with it."""
    command = [str(SCRIPT), "run", "--version", version, "--no-auth", "--port", "0", "--heap", heap, "--until-eof"]
    command += ["--pagecache", "2g", "--wait", "600"]
    if name:
        command += ["--name", name]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
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
    store.delete(sorted({chain for chain, _ in store.loaded()}))
    store.ensure_schema()


def n_tokens_of(rows: list[GraphBatch]) -> int:
    """Tokens in batches."""
    return sum(len(batch.nodes["Token"]) for batch in rows)


def plain_node(label: str) -> str:
    """The usual statement for nodes."""
    return f"UNWIND $rows AS row MERGE (n:{label} {{id: row.id}}) SET n += row"


def plain_relationship(name: str) -> str:
    """The usual statement for relationships: look up both ends, MERGE, set the properties."""
    r = RELATIONSHIP[name]
    key = "{run: row.properties.run}" if "run" in r.key else ""
    return (
        f"UNWIND $rows AS row MATCH (a:{r.start} {{id: row.start}}) MATCH (b:{r.end} {{id: row.end}}) "
        f"MERGE (a)-[r:{r.type} {key}]->(b) SET r += row.properties"
    )


def plain_load(uri: str, rows: list[GraphBatch]) -> None:
    """The usual way for the same rows: maps, MERGE nodes, MATCH both ends, MERGE relationships, 10,000 rows a transaction."""
    with neo4j.GraphDatabase.driver(uri) as driver, driver.session() as session:
        for batch in rows:
            work = [(plain_node(label), table.to_pylist()) for label, table in batch.nodes.items()]
            for name, table in batch.relationships.items():
                items = [
                    {"start": row.pop("start"), "end": row.pop("end"), "properties": row} for row in table.to_pylist()
                ]
                work.append((plain_relationship(name), items))
            for statement, items in work:
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


def our_load(uri: str, rows: list[GraphBatch]) -> None:
    """The store's own way."""
    with Neo4jStore(uri) as store:
        store.write(rows)


WAYS: dict[str, Callable[[str, list[GraphBatch]], None]] = {"ours": our_load, "plain": plain_load}

WITHOUT_EXTENSION = """
import sys
sys.modules["neo4j._rust"] = None
from benchmarks.neo4j import WAYS, batches, light, n_tokens_of, timed
way, uri, pid, tokens, seed = sys.argv[1:]
rows = light(batches(int(tokens), int(seed)))
print(n_tokens_of(rows), *timed(lambda: WAYS[way](uri, rows), int(pid)))
"""


def without_extension(way: str, uri: str, pid: int, n_tokens: int, seed: int) -> tuple[float, float]:
    """Wall-clock and CPU microseconds per token of a load by a process whose driver is pure Python."""
    command = [sys.executable, "-c", WITHOUT_EXTENSION, way, uri, str(pid), str(n_tokens), str(seed)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")])}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    tokens, wall, cpu = map(float, done.stdout.split())
    return wall / tokens * 1e6, cpu / tokens * 1e6


def load(n_tokens: int, show: Callable[..., None]) -> None:
    """Online loading of ``n_tokens`` into one growing graph, in pieces, with pieces of the plain way between them.

    Every piece holds other chains. The first quarter warms the server's compiler up and counts for nothing but itself.
    """
    piece = max(1, n_tokens // 20)
    with server() as found:
        uri, pid = found["bolt"], found["pid"]
        with Neo4jStore(uri) as store:
            empty(store)
        seeds = iter(range(10_000))
        held = 0
        costs: dict[str, list[tuple[float, float]]] = {}

        def one(kind: str) -> None:
            nonlocal held
            rows = batches(piece, next(seeds))
            rows = rows if kind == "all" else light(rows)
            tokens = n_tokens_of(rows)
            wall, cpu = timed(lambda: WAYS["plain" if kind == "plain" else "ours"](uri, rows), pid)
            costs.setdefault(kind, []).append((wall / tokens * 1e6, cpu / tokens * 1e6))
            held += tokens

        while held < n_tokens:
            for kind in ("ours", "ours", "plain", "ours", "all"):
                one(kind)
        counted = {kind: values[len(values) // 4 :] for kind, values in costs.items()}
        for way in WAYS:
            counted[f"{way}, pure"] = [without_extension(way, uri, pid, piece, next(seeds)) for _ in range(3)]
        wall = {kind: statistics.median(w for w, _ in values) for kind, values in counted.items()}
        cpu = {kind: statistics.median(c for _, c in values) for kind, values in counted.items()}
        best = {kind: min(w for w, _ in values) for kind, values in counted.items()}
        show("online load: tokens with transitions, 19 scalars each", f"{1e6 / wall['ours']:,.0f}/s", "30,000/s")
        show("the best piece", f"{1e6 / best['ours']:,.0f}/s", "")
        show("the same with everything between steps", f"{1e6 / wall['all']:,.0f} tokens/s", "")
        show("plain UNWIND ... MERGE of the same rows", f"{1e6 / wall['plain']:,.0f}/s", "")
        show("online load against plain, wall clock", f"{wall['plain'] / wall['ours']:.1f}x", "5x")
        show("online load against plain, CPU of client and server", f"{cpu['plain'] / cpu['ours']:.1f}x", "")
        show(
            "both with the pure Python driver: ours, plain, ratio",
            f"{1e6 / wall['ours, pure']:,.0f}/s, {1e6 / wall['plain, pure']:,.0f}/s, "
            f"{wall['plain, pure'] / wall['ours, pure']:.1f}x",
            "",
        )
        show(
            "ours with the Rust extension against plain without",
            f"{wall['plain, pure'] / wall['ours']:.1f}x",
            "",
        )
        show(
            "CPU per token: ours, ours with steps, plain", f"{[round(cpu[k]) for k in ('ours', 'all', 'plain')]} us", ""
        )
        shown = [round(c) for _, c in costs["ours"]]
        show(f"CPU per token of successive pieces of {piece:,} tokens, while the graph grows", f"{shown} us", "")
        first, last = counted["ours"][:3], counted["ours"][-3:]
        growth = statistics.median(c for _, c in last) / statistics.median(c for _, c in first)
        show(
            f"CPU per token, last three pieces (of {held:,} tokens) against the first three warm ones",
            f"{growth:.2f}x",
            "1.1x",
        )


def shards_of(n_tokens: int, home: Path) -> list[Trace]:
    """A home with made-up traces; returns a few of them."""
    few: list[Trace] = []
    with TraceStore(home, write=True) as store:
        store.put_run(RUN)
        block: list[Trace] = []
        for trace in traces(n_tokens):
            block.append(trace)
            if len(block) == 500:
                store.write(block)
                few, block = few or block, []
        if block:
            store.write(block)
    return few or block


def bulk(n_tokens: int, show: Callable[..., None]) -> None:
    """Files for the importer, the import, the first answer; then the named queries on this server and on the embedded graph."""
    with tempfile.TemporaryDirectory() as temporary:
        home, folder = Path(temporary) / "home", Path(temporary) / "files"
        few = shards_of(n_tokens, home)
        rows = batches(n_tokens)
        wrote = timed(lambda: write_bulk(rows, Path(temporary) / "rows"), os.getpid())[0]
        elements = sum(len(t) for b in rows for t in (*b.nodes.values(), *b.relationships.values()))
        show("bulk files written from rows", f"{elements / wrote:,.0f} elements/s", "300,000/s")
        name = f"benchmark-bulk-{os.getpid()}"
        try:
            began = time.perf_counter()
            files = bulk_from_home(home, folder)
            show("shards -> files", f"{time.perf_counter() - began:.1f} s", "")
            command = files.command((str(SCRIPT), "admin", "--name", name, "--heap", "2g", "--"))
            subprocess.run(shlex.split(command), check=True, capture_output=True)
            show(
                f"shards -> files -> imported, {files.elements:,} elements", f"{time.perf_counter() - began:.1f} s", ""
            )
            with server(name=name) as found, Neo4jStore(found["bolt"]) as store:
                assert len(store.loaded()) == sum(len(batch.whole) for batch in rows)
                total = time.perf_counter() - began
                show(f"shards -> imported and answering, {n_tokens:,} tokens", f"{total:.1f} s", "40 s for 1 M tokens")
                store.ensure_schema()
                show("the same with all indexes filled", f"{time.perf_counter() - began:.1f} s", "")
                ask("Neo4j", store, few, show)
        finally:
            subprocess.run([str(SCRIPT), "remove", "--name", name], check=True)
        embedded = EmbeddedStore(Path(temporary) / "graph")
        embedded.ensure_schema()
        embedded.write(rows)
        ask("embedded", embedded, few, show)
        embedded.close()


def ask(engine: str, store: GraphStore, few: list[Trace], show: Callable[..., None]) -> None:
    """Latency of every named query, each call with other parameters; the first calls plan and are left out."""
    latencies(store, few, RUN, 3)
    found = latencies(store, few, RUN, 20)
    middle = sorted(((statistics.median(times), name) for name, times, _ in found), reverse=True)
    every = [time for _, times, _ in found for time in times]
    over = ", ".join(f"{name} {ms:.0f}" for ms, name in middle if ms > 50)
    worst = max((max(times), name) for name, times, _ in found)
    show(f"{engine}: p50 over all calls", f"{np.percentile(every, 50):.1f} ms", "50 ms")
    show(f"{engine}: p99 over all calls", f"{np.percentile(every, 99):.0f} ms", "300 ms")
    show(f"{engine}: slowest single answer", f"{worst[0]:.0f} ms ({worst[1]})", "300 ms")
    show(f"{engine}: queries with a median over 50 ms", over or "none", "none")
    show(f"{engine}: the slowest medians", ", ".join(f"{name} {ms:.0f}" for ms, name in middle[:6]), "")


class Kept:
    """A folder that keeps a store of made-up traces and what was measured on it, so that one command need not do all.

    ``measured.json`` holds every figure under a key, and what is there is not measured again. The server's data lie in
    ``neo4j``, beside a link to the jars that ``scripts/neo4j`` fetches.
    """

    def __init__(self, folder: Path, n_tokens: int) -> None:
        self.folder, self.n_tokens = folder, n_tokens
        self._file = folder / "measured.json"
        folder.mkdir(parents=True, exist_ok=True)
        self.measured: dict[str, Any] = json.loads(self._file.read_text("utf-8")) if self._file.exists() else {}
        if self.once("tokens", lambda: n_tokens) != n_tokens:
            raise SystemExit(
                f"{folder} holds {self.measured['tokens']:,} tokens, not {n_tokens:,}. Name another folder"
            )
        cache = folder / "neo4j"
        cache.mkdir(exist_ok=True)
        jars = subprocess.run([str(SCRIPT), "fetch"], check=True, capture_output=True, text=True).stdout.strip()
        link = cache / Path(jars).parent.name
        if not link.exists():
            link.symlink_to(Path(jars).parent)
        self.environment = os.environ | {"TRAILS_NEO4J_CACHE": str(cache)}

    def once(self, key: str, work: Callable[[], Any]) -> Any:
        """The figure of a key: as measured before, else measured now and kept."""
        if key not in self.measured:
            self.measured[key] = work()
            beside = self._file.with_suffix(".tmp")
            beside.write_text(json.dumps(self.measured, indent=1, ensure_ascii=False), "utf-8")
            beside.replace(self._file)
        return self.measured[key]

    @contextmanager
    def server(self) -> Iterator[dict[str, Any]]:
        """The server on the kept store. It must have been built."""
        if "built" not in self.measured:
            raise SystemExit(
                f"{self.folder} holds no store yet. Run: python -m benchmarks.neo4j store --folder {self.folder}"
            )
        with server(name="store", environment=self.environment) as found:
            yield found


MAP = Scope("h0", "map", RUN.id, {"k": 4}, date="2026-01-01T00:00:00.000Z")


def states(n: int, seed: int = 0) -> GraphBatch:
    """``n`` states of a made-up map, each with a text of four words."""
    rng = np.random.default_rng(seed)
    texts = ["".join(WORDS[i] for i in row) for row in rng.integers(0, len(WORDS), (n, 4))]
    return GraphBatch({"State": table_of("State", {"id": [f"s{seed}-{i}" for i in range(n)], "text": texts})}, {})


def store(kept: Kept, show: Callable[..., None]) -> None:
    """Build what the questions are asked of: shards, files, an import, and a map with a state for every ten tokens."""
    home, files = kept.folder / "home", kept.folder / "files"

    def seconds(key: str, *gone: Path, work: Callable[[], Any]) -> None:
        def timed_once() -> float:
            for path in gone:  # what an interrupted try left
                shutil.rmtree(path, ignore_errors=True)
            began = time.perf_counter()
            work()
            return time.perf_counter() - began

        show(key, f"{kept.once(key, timed_once):.1f} s", "")

    def import_files() -> None:
        made = bulk_from_home(home, files)
        command = made.command((str(SCRIPT), "admin", "--name", "store", "--heap", "2g", "--"))
        subprocess.run(shlex.split(command), check=True, capture_output=True, env=kept.environment)

    def fill() -> None:
        with server(name="store", environment=kept.environment) as found, Neo4jStore(found["bolt"]) as graph:
            graph.ensure_schema()
            graph.write([MAP.put(states(kept.n_tokens // 10))])
            kept.measured["transitions"] = graph.counts()["NEXT"]

    seconds("shards", home, work=lambda: shards_of(kept.n_tokens, home))
    seconds("files and import", files, kept.folder / "neo4j" / "instances", work=import_files)
    seconds("built", work=fill)
    shutil.rmtree(files, ignore_errors=True)


def patiently(work: Callable[[], Found]) -> Found:
    """The answer of ``work``, asked for again while a busy machine lets the connection die; each try is a whole one."""
    for _ in range(30):
        try:
            return work()
        except GoneError:
            time.sleep(10.0)
    return work()


def asked(graph: Neo4jStore, pid: int, statement: str, given: list[dict[str, Any]], limit_s: float) -> dict[str, Any]:
    """Database hits and scans of a read with its first parameters; milliseconds on the clock, and of CPU of client and server,
    with each but the first three, which plan; the machine's load. Where one call is not answered within ``limit_s`` seconds,
    that is the answer.
    """
    try:
        rows = graph.run(f"PROFILE {statement}", given[0], timeout_s=limit_s).dicts()
        times = []
        for number, values in enumerate(given):
            if number == 3:
                cpu = time.process_time() + spent(pid)
            began = time.perf_counter()
            found = graph.run(statement, values, timeout_s=limit_s, max_rows=100_000)
            if number >= 3:
                times.append((time.perf_counter() - began) * 1e3)
        cpu = (time.process_time() + spent(pid) - cpu) / len(times) * 1e3
    except QueryError as error:
        return {"failed": f"no answer within {limit_s:g} s ({error})"}
    plan = [f"{row['operator'].strip()} {row['details']}" for row in rows]  # indented by its depth
    scans = [line for line in plan if "Scan" in line.partition("@")[0].partition(" ")[0]]
    hits = sum(row["db_hits"] or 0 for row in rows)
    clock = {"ms": statistics.median(times), "slowest": max(times), "cpu_ms": cpu, "load": os.getloadavg()[0]}
    return clock | {"hits": hits, "scans": scans, "rows": len(found.rows)}


def words_of(found: dict[str, Any]) -> str:
    """One answer of :func:`asked` as cells: hits; median and slowest call, CPU of a call, load; scans."""
    if "failed" in found:
        return f"– | {found['failed']} | –"
    read = ", ".join(sorted({scan.split(" ")[0] for scan in found["scans"]})) or "no scan"
    token = " **of Token**" if any(":Token" in scan for scan in found["scans"]) else ""
    return (
        f"{found['hits']:,} hits | {found['ms']:.0f} ({found['slowest']:.0f}) ms, {found['cpu_ms']:.0f} ms of CPU, "
        f"load {found['load']:.0f} | {read}{token}"
    )


def asked_of(traces: list[Trace], number: int) -> dict[str, Any]:
    """Values for the questions: other ones for every number."""
    trace = traces[number % len(traces)]
    step = trace.steps[1]
    words = trace.chain.text[step.start : step.end].split(" ")
    return {
        "chain": trace.chain.id,
        "run": RUN.id,
        "record": trace.chain.source_id,
        "text": " ".join(words[2:5]),
        "least": 20.0,
        "piece": trace.pieces[number % trace.n_tokens],
        "source": trace.chain.source,
    }


CALLS = 23
"""Sets of parameters for a statement; the first three calls plan."""
INDEXED: dict[str, str] = {
    "trails_range_Token_chain_step": "MATCH (t:Token {chain: $chain, step: 1}) RETURN t.piece",
    "trails_text_Step_text": "MATCH (s:Step) WHERE s.text CONTAINS $text RETURN s.id",
    "trails_fulltext_Step_text": (
        "CALL db.index.fulltext.queryNodes('trails_fulltext_Step_text', '\"' + $text + '\"') YIELD node RETURN node.id"
    ),
    "trails_range_State_text": "MATCH (s:State {text: $state}) RETURN s.id",
    "trails_range_NEXT_run_surprisal": "MATCH ()-[r:NEXT {run: $run}]->() WHERE r.surprisal > $least RETURN r.surprisal",
}
"""What each index on request is for."""
MADE_BY = {re.search(r"INDEX `?(\w+)", statement)[1]: statement for statement in MORE_INDEXES}  # type: ignore[index]


def administer(graph: Neo4jStore, *statements: str) -> None:
    """Statements about the schema, then a wait until every index answers."""
    for statement in (*statements, "CALL db.awaitIndexes(3600)", "CALL db.clearQueryCaches()"):
        patiently(lambda s=statement: graph.run(s, write=True, timeout_s=3700.0))  # type: ignore[misc]


def questions(kept: Kept, show: Callable[..., None], limit_s: float) -> None:
    """Every question with 20 sets of parameters, before and after the indexes of ``rebuild --indexes``; and for every index
    what it is for, before and after, and how long it takes to make.
    """
    few = list(itertools.islice(traces(kept.n_tokens), 500))
    texts = states(kept.n_tokens // 10).nodes["State"]["text"].to_pylist()
    sets = [asked_of(few, i) | {"state": texts[i]} for i in range(CALLS)]

    def of(statement: str) -> list[dict[str, Any]]:
        return [{key: value for key, value in one.items() if re.search(rf"\${key}\b", statement)} for one in sets]

    with kept.server() as found, Neo4jStore(found["bolt"]) as graph:

        def ask_it(statement: str) -> dict[str, Any]:
            return patiently(lambda: asked(graph, found["pid"], statement, of(statement), limit_s))

        for name, statement in QUESTIONS.items():
            if f"without: {name}" not in kept.measured:
                administer(graph, *(f"DROP INDEX {index} IF EXISTS" for index in MADE_BY))
            without = kept.once(f"without: {name}", lambda s=statement: ask_it(s))
            show(f"without indexes: {name}", words_of(without), "300 ms")
        for index, statement in INDEXED.items():
            if f"before: {index}" not in kept.measured:
                administer(graph, f"DROP INDEX {index} IF EXISTS")
            before = (
                {"failed": "nothing answers without it"}
                if "fulltext" in index
                else kept.once(f"before: {index}", lambda s=statement: ask_it(s))
            )

            def made(index: str = index) -> float:
                administer(graph, f"DROP INDEX {index} IF EXISTS")
                began = time.perf_counter()
                administer(graph, MADE_BY[index])
                return time.perf_counter() - began

            took = kept.once(f"making: {index}", made)
            administer(graph, MADE_BY[index])
            after = kept.once(f"after: {index}", lambda s=statement: ask_it(s))
            show(f"{index}, made in {took:.1f} s: before", words_of(before), "")
            show(f"{index}: after", words_of(after), "300 ms")
        for name, statement in QUESTIONS.items():
            with_them = kept.once(f"with: {name}", lambda s=statement: ask_it(s))
            show(f"with indexes: {name}", words_of(with_them), "300 ms")


PAIRS = 6
"""Pieces that are loaded with an index, and as many without, in turn."""


def indexes(kept: Kept, show: Callable[..., None], piece: int) -> None:
    """What every index on request, and all of them together, cost a load: CPU of client and server for pieces of ``piece``
    tokens that are loaded in turn with and without it into one growing graph. Making it and dropping it is not counted.
    """
    seeds = iter(range(1000, 100_000))
    with server(environment=kept.environment) as found, Neo4jStore(found["bolt"]) as graph:
        patiently(graph.ensure_schema)
        administer(graph, *(f"DROP INDEX {index} IF EXISTS" for index in MADE_BY))

        def one(of_states: bool) -> float:
            seed = next(seeds)
            rows = [MAP.put(states(piece // 2, seed))] if of_states else batches(piece, seed)
            n = sum(len(batch.nodes["State" if of_states else "Token"]) for batch in rows)
            return patiently(lambda: timed(lambda: graph.write(rows), found["pid"]))[1] / n * 1e6

        wanted = {index: [index] for index in MADE_BY} | {"all of them": list(MADE_BY)}
        if any(f"cost: {name}" not in kept.measured for name in wanted):
            for _ in range(8):  # the server's compiler warms up
                one(False)
            one(True)

        def pairs(names: list[str], of_states: bool) -> list[list[float]]:
            costs: dict[bool, list[float]] = {False: [], True: []}
            for number in range(PAIRS):
                # without, with; with, without: what grows with the graph falls on both alike
                for indexed in (False, True) if number % 2 == 0 else (True, False):
                    administer(graph, *(MADE_BY[i] if indexed else f"DROP INDEX {i} IF EXISTS" for i in names))
                    costs[indexed].append(one(of_states))
            administer(graph, *(f"DROP INDEX {i} IF EXISTS" for i in names))
            return [costs[False], costs[True]]

        for name, names in wanted.items():
            of_states = name == "trails_range_State_text"
            plain, more = kept.once(f"cost: {name}", lambda n=names, s=of_states: pairs(n, s))
            ratios = sorted(b / a for a, b in zip(plain, more, strict=True))
            show(
                f"load with {name} against without, CPU per {'state' if of_states else 'token'} "
                f"({statistics.median(plain):.0f} and {statistics.median(more):.0f} us)",
                f"{statistics.median(ratios):.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f} over {PAIRS} pairs)",
                "1.05x, else an option",
            )


PARTS = {"load": load, "bulk": bulk}
KEPT = ("store", "questions", "indexes")


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, *KEPT, []], default=[])
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="keep the store and the figures of store, questions, indexes here")
    parser.add_argument("--limit", type=float, default=20.0, help="seconds that one call of a question may take")
    parser.add_argument("--piece", type=int, default=15_000, help="tokens that indexes loads at a time")
    options = parser.parse_args()
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}, {options.tokens:,} tokens, Python {platform.python_version()}")
    print("| what | measured | goal |\n|---|---|---|")

    def show(what: str, measured: str, goal: str) -> None:
        print(f"| {what} | {measured} | {goal} |", flush=True)

    parts = options.parts or [*PARTS, *KEPT]
    with tempfile.TemporaryDirectory() as temporary:
        kept = Kept((options.folder or Path(temporary)).resolve(), options.tokens) if {*KEPT} & {*parts} else None
        for part in parts:
            if part in PARTS:
                PARTS[part](options.tokens, show)
            elif kept is not None:
                if part != "indexes" and (part == "store" or options.folder is None):
                    store(kept, show)
                if part == "questions":
                    questions(kept, show, options.limit)
                if part == "indexes":
                    indexes(kept, show, options.piece)
    print(f"load at the end {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
