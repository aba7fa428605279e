"""Two homes and three runs in one database, every analysis by each, in any order, from two processes at once.

What each home's part of the graph is then, scope by scope, is what it is when that home has the database to itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.neo4j.servers import VERSIONS, Server, shared

from trails.config import load_settings
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.uniform import UniformScorer
from trails.pipeline import IngestOptions, ingest
from trails.pipeline.judging import judge
from trails.pipeline.measuring import segmented
from trails.pipeline.results import results_of
from trails.schema import Chain, Trace
from trails.store.traces import TraceStore

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "src" / "trails" / "sample" / "chains.jsonl"
MADE = ("State", "Overlap", "Gap", "Disagreement", "Effect", "Response", "SIMILAR", "TRAIL", "AT", "IN", "BEFORE")
"""What every home must have written, or the comparison says nothing."""

Rows = dict[str, list[str]]


class Uneven(UniformScorer):
    """Surprisal that differs from token to token and from run to run: what orders nothing is no part of an agreement."""

    def measure(self, items: Sequence[Segmented], options: MeasureOptions) -> list[Trace]:
        found = []
        for trace in super().measure(items, options):
            rng = np.random.default_rng([int(trace.chain.id[1:9], 16), int(self.run.revision)])
            moved = trace.surprisal + rng.random(trace.n_tokens).astype(np.float32)
            found.append(replace(trace, surprisal=moved))
        return found


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two homes that share half of their chains and one run; each has a run of its own, one of them with other tokens."""
    folder = tmp_path_factory.mktemp("homes")
    lines = []
    for line in SAMPLE.read_text("utf-8").splitlines():
        row = json.loads(line)
        if len(segmented(Chain("sample", row["source_id"], row["question"], row["text"])).steps) >= 4:
            lines.append(line)
    lines = sorted(lines, key=lambda line: (len(json.loads(line)["text"]), line))[:36]
    one, two, three = ({"revision": "1"}, {"revision": "2"}, {"revision": "3", "tokenizer": "0badcafe" * 8})
    for name, part, runs in (("a", lines[:24], (one, three)), ("b", lines[12:], (one, two))):
        (folder / f"{name}.jsonl").write_text("\n".join(part) + "\n", "utf-8")
        settings = load_settings(home=folder / name, model="uniform", store="embedded")
        for run in runs:
            scorer = Uneven()
            scorer.run = replace(scorer.run, **run)
            ingest([folder / f"{name}.jsonl"], settings, IngestOptions(graph=False), scorer=scorer)
    return folder / "a", folder / "b"


def begin(home: Path, seed: int, server: Server) -> subprocess.Popen[str]:
    """A process that waits for a line and then does all of a home's work."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NEO4J_", "TRAILS_"))}
    environment |= {"NEO4J_URI": server.uri, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.neo4j.one_home", str(home), str(seed)],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def work(server: Server, *jobs: tuple[Path, int]) -> None:
    """Run the jobs, all at once, to their end."""
    processes = [begin(home, seed, server) for home, seed in jobs]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    said = [process.communicate(timeout=400) for process in processes]
    for process, (done, errors) in zip(processes, said, strict=True):
        assert process.returncode == 0, done + errors[-3000:]


def part_of(server: Server, home: Path) -> tuple[Rows, Counter[str]]:
    """A home's results, table by table, without their dates; and how many nodes each of its scopes has. Its part of the
    trails themselves must be that of its shards, to the bit."""
    with TraceStore(home) as traces, server.open() as graph:
        assert judge(traces, graph).differences() == []
        assert graph.held()[traces.identity().id] == traces.keys()
        tables = results_of(graph, traces.identity().id)
    rows = {
        name: sorted(json.dumps({k: v for k, v in row.items() if k != "date"}) for row in table.to_pylist())
        for name, table in tables.items()
    }
    scopes: Counter[str] = Counter()
    for table in tables.values():
        scopes.update(table["scope"].to_pylist() if "scope" in table.column_names else [])
    return rows, scopes


@pytest.mark.neo4j
@pytest.mark.slow
@pytest.mark.parametrize(
    "version", [pytest.param(v, marks=pytest.mark.xdist_group(f"neo4j-{v.lower()}")) for v in VERSIONS]
)
def test_two_processes_lose_nothing_of_each_other(version: str, homes: tuple[Path, Path]) -> None:
    server = shared(version)
    alone = []
    for number, home in enumerate(homes):
        server.empty()
        work(server, (home, number))
        alone.append(part_of(server, home))
        assert set(MADE) <= set(alone[-1][0]), set(MADE) - set(alone[-1][0])
        assert len(alone[-1][1]) == 12  # two runs with overlaps, skeletons, two maps, gaps, similar steps
    server.empty()
    work(server, (homes[0], 10), (homes[1], 11))
    for home, (rows, scopes) in zip(homes, alone, strict=True):
        now, counted = part_of(server, home)
        assert counted == scopes
        assert now.keys() == rows.keys()
        for name, table in rows.items():
            lost, new = sorted(set(table) - set(now[name])), sorted(set(now[name]) - set(table))
            assert now[name] == table, (name, len(lost), lost[:1], len(new), new[:1])
    server.empty()
