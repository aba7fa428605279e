"""The example of the pages runs, and what it prints and writes is so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from tests.cli.conftest import chains_file, trails  # noqa: F401  (fixtures)
from tests.report.test_report import contents

EXAMPLE = Path(__file__).parents[2] / "docs" / "example.py"


@pytest.mark.slow
def test_the_example_runs(trails: Any, chains_file: Path, tmp_path: Path) -> None:  # noqa: F811
    trails("ingest", chains_file)
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(tmp_path / "home"), str(out)],
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
        env={**os.environ, "PYTHONPATH": str(EXAMPLE.parents[1] / "src")},
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "cost 5.55 nats; expected, ln p: " in lines[0], "the uniform scorer: ln 256 everywhere"
    assert lines[0].count("-5.55") == 5
    assert lines[1] == trails("overlaps", "--min-tokens", 5, "--no-graph", "--json").json()["verdict"]
    graph = nx.read_graphml(out / "chain.graphml")
    assert lines[-2].startswith(f"{len(graph.nodes)} nodes and {len(graph.edges)} relationships")
    assert len(contents(out / "report.html")[0]["chains"]) == 4
