"""A new measure is a line in MEASURES and a file with its function: nothing else in the program knows its name."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trails

LINE = (
    '    Measure("toy", "float32", "n L+1", "0..9", "what the test made up", "thirds", by_layer=True, optional=True, '
    'of="trails.measure.toy:toy"),\n'
)
FILE = """
import numpy as np


def toy(trace):
    return np.arange(trace.n_tokens, dtype=np.float32)[:, None] % 7
"""
TAKEN = '    Measure("taken", "float32", "S L+1", "0..9", "what every trace holds"),\n'

PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from trails.config import load_settings
from trails.measure import open_scorer
from trails.measure.toy import toy
from trails.pipeline import ingest, rebuild, verify
from trails.report.terminal import render_chain, token_values
from trails.schema import SHARD_SCHEMA, properties_of
from trails.store import open_graph
from trails.store.shards import row_digests
from trails.store.traces import TraceStore

home, source = Path(sys.argv[1]), Path(sys.argv[2])
settings = load_settings(home=home, store="embedded", model="uniform")
ingest([source], settings, scorer=open_scorer("uniform"))
assert "toy" in SHARD_SCHEMA.names
with TraceStore(home) as shards:
    (run,) = shards.runs().values()
    (trace,) = shards.traces()
assert trace.more["toy"].tolist() == toy(trace).tolist()
# the uniform scorer gives what the declaration says, undefined where it has no answer
assert trace.more["taken"].shape == (len(trace.steps), 1)
assert np.isnan(trace.more["taken"]).all()
assert row_digests(trace)[1] != row_digests(replace(trace, more={**trace.more, "toy": toy(trace) + 1}))[1]
assert row_digests(trace)[0] != row_digests(replace(trace, more={}))[0]
assert token_values(trace, "toy", 0).tolist() == toy(trace)[:, 0].tolist()
render_chain(trace, run, measure="toy", layer=0)
assert [p.name for p in properties_of("NEXT", per_layer=True) if p.name.startswith("toy")] == [
    "toy", "toy_early", "toy_middle", "toy_late", "toy_max_layer", "toy_by_layer"
]
rebuild(settings, fresh=True, per_layer=True)
assert verify(settings).differences == ()
with open_graph(settings) as graph:
    rows = graph.run("MATCH (a:Token)-[r:NEXT]->(b:Token) RETURN b.position, r.toy_by_layer ORDER BY b.position").rows
assert rows == tuple((i, [float(i % 7)]) for i in range(1, trace.n_tokens))
import generate_docs
assert "what the test made up" in generate_docs.schema_page()
"""


@pytest.mark.slow
def test_a_measure_is_one_line(tmp_path: Path) -> None:
    source = Path(trails.__file__).parent
    shutil.copytree(source, tmp_path / "trails", ignore=shutil.ignore_patterns("__pycache__", "*.npz"))
    schema = tmp_path / "trails" / "schema.py"
    before = schema.read_text(encoding="utf-8")
    marker = "MEASURES: tuple[Measure, ...] = (\n"
    assert before.count(marker) == 1
    schema.write_text(before.replace(marker, marker + LINE + TAKEN), encoding="utf-8")
    (tmp_path / "trails" / "measure" / "toy.py").write_text(FILE, encoding="utf-8")
    chains = tmp_path / "one.jsonl"
    chains.write_text('{"question": "Is it wet?", "answer": "If it rains, then it is wet. So it is wet."}\n')
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "home"), str(chains)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(map(str, (tmp_path, source.parents[1] / "scripts"))),
            "HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
