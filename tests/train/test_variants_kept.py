"""Variants through the commands, with a real small model: Ctrl-C keeps what was finished, a removal takes them along."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.train.test_again import run, save_model

from trails.config import load_settings
from trails.pipeline import Home
from trails.pipeline.removing import remove
from trails.variants import VariantOptions

pytestmark = pytest.mark.train


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home of twelve chains, measured by a model of two layers."""
    save_model(tmp_path / "model")
    rows = [{"question": "Why?", "answer": f"So odd number {n} is.\nThus even {n} goes on."} for n in range(12)]
    (tmp_path / "chains.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    run(
        "ingest",
        tmp_path / "chains.jsonl",
        "--home",
        tmp_path / "home",
        "--model",
        tmp_path / "model",
        "--device",
        "cpu",
    )
    return tmp_path / "home"


def test_ctrl_c_keeps_the_variants_of_the_finished_chains(home: Path) -> None:
    command = [sys.executable, "-m", "trails", "variants", "all", "--count", "12", "--broken", "--home", home]
    options = ["--volatility-budget", "-1", "--device", "cpu", "--model", home.parent / "model"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        said = ""
        while " accepted" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
        os.kill(process.pid, signal.SIGINT)
        said += process.stderr.read()
        process.wait(120)
    assert process.returncode == 130, said
    finished = re.findall(r"^(c[0-9a-f]{16}): (\d+) of \d+ accepted", said, re.M)
    assert 1 <= len(finished) < 12
    (told,) = re.findall(
        r"^interrupted: (\d+) accepted variants? of (\d+) (?:chain is|chains are) kept in (\S+), as (v[0-9a-f]{16});",
        said,
        re.M,
    )
    assert (int(told[0]), int(told[1])) == (sum(int(count) for _, count in finished), len(finished))
    assert "those of the other chains were not made" in said
    parents = {dict(row)["parent"] for row in pq.read_table(told[2], columns=["metadata"])["metadata"].to_pylist()}
    assert parents == {chain for chain, count in finished if int(count)}
    with Home(home) as opened:
        assert len(opened.shown_variants(told[3])) == int(told[0])
        of = {row[0] for row in opened.cypher("MATCH (:Variant)-[:VARIANT_OF]->(c:Chain) RETURN DISTINCT c.id").rows}
        assert of == parents


def test_a_removal_takes_the_variants_of_its_chains_along(home: Path) -> None:
    options = VariantOptions(count=6, budget=None, whole=False)
    with Home(home, device="cpu", model=str(home.parent / "model")) as opened:
        chains = sorted(row[2] for row in opened.names.rows)[:2]
        reports, found = opened.variants(f"chain:{chains[0]},{chains[1]}", options)
    assert all(report.accepted for report in reports)
    rejected = found.path.with_name(f"{found.path.stem}.rejected.jsonl")

    def parents() -> list[str]:
        return [dict(row)["parent"] for row in pq.read_table(found.path, columns=["metadata"])["metadata"].to_pylist()]

    def in_graph() -> dict[str, int]:
        with Home(home) as opened:
            counted = "MATCH (v:Variant)-[:VARIANT_OF]->(c:Chain) RETURN c.id, count(v)"
            return dict(opened.cypher(counted).rows) | {
                "": opened.cypher("MATCH (v:Variant) RETURN count(v)").rows[0][0]
            }

    before = {chain: parents().count(chain) for chain in chains}
    assert in_graph() == before | {"": sum(before.values())}
    gone = remove("chain", [chains[0]], load_settings(home=home))
    assert gone.derived == (f"variants/{found.path.name}",)
    assert parents() == [chains[1]] * before[chains[1]]
    assert chains[0] not in rejected.read_text(encoding="utf-8")
    assert in_graph() == {chains[1]: before[chains[1]], "": before[chains[1]]}
    run("verify", "--home", home)
    remove("chain", [chains[1]], load_settings(home=home))
    assert not found.path.exists()
    assert not rejected.exists()
    assert in_graph() == {"": 0}
