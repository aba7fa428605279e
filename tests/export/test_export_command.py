"""``trails export`` from the command line: rows, card, JSON, and what stands on stdout and stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from trails.cli import cli


def run(*arguments: str):
    return CliRunner().invoke(cli, ["export", *arguments])


@pytest.mark.slow
def test_export_writes_rows_card_and_says_how_to_load(make_home, tmp_path: Path) -> None:
    home = make_home(12)
    to = tmp_path / "rows.jsonl"
    done = run("--subgraph", "all", "--format", "trl", "-o", str(to), "--home", str(home.home), "--split", "0.25")
    assert done.exit_code == 0, done.output
    rows = to.read_text(encoding="utf-8").splitlines()
    held = (tmp_path / "rows.held_out.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) + len(held) == 12
    assert done.stdout.startswith("12 rows of 12 chains, ")
    assert f"train: {to}\n" in done.stdout
    assert 'load with: SFTConfig(packing=False, max_length=None, train_sampling_strategy="sequential")' in done.stdout
    again = run("--subgraph", f"chain:{home.chains[0].id}", "--format", "trails", "-o", str(tmp_path / "one.parquet"),
                "--home", str(home.home), "--layers", "1-2", "--json")  # fmt: skip
    report = json.loads(again.stdout)
    typed = run(
        "--subgraph", "all", "--format", "trails", "-o", str(tmp_path / "all.parquet"), "--home", str(home.home)
    )
    assert f"load with: trails train --home {home.home} {tmp_path / 'all.parquet'} -o FOLDER\n" in typed.stdout
    assert "\ntrails train all.parquet -o FOLDER\n" in (tmp_path / "all.README.md").read_text(encoding="utf-8")
    assert (report["rows"], report["chains"], report["lost"]) == (1, 1, [])


def test_what_is_lost_is_said_on_stderr(make_home, tmp_path: Path) -> None:
    home = make_home(3)
    done = run("--subgraph", "all", "--format", "messages", "-o", str(tmp_path / "m.jsonl"), "--home", str(home.home),
               "--weights", "surprisal", "--lossy")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "lost: The weights" in done.stderr
    assert "lost:" not in done.stdout
