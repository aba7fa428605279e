"""What the system refuses says nothing about a shard, what is no file is not opened, and what is missing is told."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from tests.store.factory import corpus, make_run

from trails.cli import cli
from trails.config import load_settings
from trails.errors import StoreError
from trails.pipeline import verify
from trails.store.embedded import EmbeddedStore
from trails.store.rows import graph_batch, held_by
from trails.store.shards import DamagedError
from trails.store.traces import TraceStore

ONE, TWO = make_run("one"), make_run("two")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Six chains in two shards, measured by one run; two of them by another, too."""
    with TraceStore(tmp_path, write=True) as shards, EmbeddedStore(tmp_path) as graph:
        for run in (ONE, TWO):
            shards.put_run(run)
        shards.write([*corpus(3, ONE), *corpus(2, TWO)])
        shards.write(corpus(6, ONE)[3:])
        graph.write([held_by(graph_batch(shards.traces(), shards.runs()), shards.identity())])
        graph.save()
    return tmp_path


def trails(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--home", str(home), "--store", "embedded"])


def files(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*") if "lock" not in path.name)


REFUSED: dict[str, Callable[[], BaseException]] = {
    "thread": lambda: pa.ArrowException(
        "Unknown error: Failed to launch worker thread: Resource temporarily unavailable"
    ),
    "memory": lambda: pa.ArrowMemoryError("malloc of size 1048576 failed"),
    "mapping": lambda: OSError(12, "Memory mapping file failed: Cannot allocate memory"),
    "disk": lambda: OSError(5, "Input/output error"),
    "permission": lambda: PermissionError(13, "Permission denied"),
    "words only": lambda: OSError("something that Arrow says without a number"),
}


@pytest.mark.parametrize("why", REFUSED)
@pytest.mark.parametrize("where", ["open", "read"])
def test_what_the_system_refuses_is_no_damage(
    home: Path, monkeypatch: pytest.MonkeyPatch, why: str, where: str
) -> None:
    before = files(home)

    def refuse(*given: Any, **more: Any) -> Any:
        raise REFUSED[why]()

    with monkeypatch.context() as patch:
        if where == "open":
            patch.setattr(pq, "ParquetFile", refuse)
        else:
            for name in ("read", "read_row_group", "read_row_groups"):
                patch.setattr(pq.ParquetFile, name, refuse)
        for line in (["status"], ["verify", "--set-aside"], ["rebuild"], ["rebuild", "--fresh"]):
            error = trails(home, *line).exception
            assert isinstance(error, StoreError), line
            assert not isinstance(error, DamagedError), line
            assert "could not be read: " in str(error)
            assert "set-aside" not in str(error)
    assert files(home) == before
    assert verify(load_settings(home=home, store="embedded")).differences == ()


def test_a_shard_that_may_not_be_read_is_not_set_aside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(home)
    opened = Path.open

    def refuse(self: Path, *given: Any, **more: Any) -> Any:
        if self.suffix == ".parquet":
            raise PermissionError(13, "Permission denied")
        return opened(self, *given, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        error = trails(home, "verify", "--set-aside").exception
    assert isinstance(error, StoreError)
    assert "could not be read: Permission denied" in str(error)
    assert files(home) == before


def test_wrong_bytes_are_damage(home: Path) -> None:
    path = next((home / "shards").iterdir())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    error = trails(home, "status").exception
    assert isinstance(error, DamagedError)
    assert "--set-aside" in str(error)
    assert trails(home, "verify", "--set-aside").exit_code == 1
    assert (home / "damaged" / path.name).is_file()


@pytest.mark.parametrize("place", ["graph.kgl", "shards/0123.parquet", "runs/r0123.json", "lock", "trails.json"])
def test_what_is_no_file_is_named_and_not_opened(home: Path, place: str) -> None:
    (home / place).unlink(missing_ok=True)
    os.mkfifo(home / place)
    for line in (["status"], ["rebuild"], ["verify"], ["export-graph", "all", "-o", str(home / "part")]):
        error = trails(home, *line).exception
        assert isinstance(error, StoreError), line
        assert f"{home / place} is not a file but a pipe (FIFO)" in str(error)


def test_a_shard_that_vanished_is_told(home: Path) -> None:
    with TraceStore(home) as shards:
        (gone,) = shards.shards_of([(corpus(6, ONE)[5].chain.id, ONE.id)])
    (home / "shards" / gone).unlink()
    said = " ".join(trails(home, "status").output.split())
    told = "3 measured chains of this home are in the graph and in no shard: a shard is missing."
    assert told in said
    assert "next trails verify" in said
    assert json.loads(trails(home, "status", "--json").output)["graph"]["in_no_shard"] == 3
    for line in (["rebuild"], ["verify"]):
        output = " ".join(trails(home, *line).output.split())
        if line == ["rebuild"]:
            assert told in output
    assert verify(load_settings(home=home, store="embedded")).advice == (
        "ingest the same input again (sources: toy0.jsonl, toy1.jsonl), only what is missing is measured: "
        f"trails ingest PATH --home {home}",
        f"or, if these chains shall go from the graph, too: trails rebuild --repair --home {home}",
    )


def test_a_run_without_its_file_is_told(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = home / "runs" / f"{TWO.id}.json"
    kept = path.read_bytes()
    path.unlink()
    told = f"2 chains belong to run {TWO.id}, which the home does not describe: runs/{TWO.id}.json is missing"
    assert told in " ".join(trails(home, "status").output.split())
    found = verify(load_settings(home=home, store="embedded"))
    assert any(told in difference for difference in found.differences)
    assert "ingest with the same model again" in found.advice[0]
    with caplog.at_level("WARNING", "trails"):
        CliRunner().invoke(
            cli,
            ["export", "--subgraph", "all", "--format", "trl", "-o", str(tmp_path / "x.jsonl"), "--home", str(home)],
        )
    assert told in caplog.text
    path.write_bytes(kept)
    assert verify(load_settings(home=home, store="embedded")).differences == ()
