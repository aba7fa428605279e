"""What is said before something grows too large."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.scale.test_merge import home_of, some

from trails.cli.common import BarProgress
from trails.pipeline import loading, measuring
from trails.pipeline.loading import EMBEDDED_ARRAYS, EMBEDDED_BYTES, EMBEDDED_TOKENS, time_for_neo4j
from trails.platform.memory import free_bytes
from trails.store.embedded import EmbeddedStore
from trails.store.traces import TraceStore


def test_tokens_are_counted_from_the_footers(tmp_path: Path) -> None:
    traces = some(0, 7)
    with TraceStore(home_of(tmp_path / "home", traces)) as store:
        assert store.n_tokens() == sum(trace.n_tokens for trace in traces)


def test_the_limit_is_that_of_tokens_or_of_memory() -> None:
    plenty = 10**15
    assert time_for_neo4j(EMBEDDED_TOKENS, plenty) is None
    assert time_for_neo4j(1_000_000, 1_000_000 * EMBEDDED_BYTES) is None
    for tokens, free in ((EMBEDDED_TOKENS + 1, plenty), (1_000_000, 1_000_000 * EMBEDDED_BYTES - 1)):
        said = time_for_neo4j(tokens, free)
        assert said is not None
        assert f"{EMBEDDED_TOKENS:,}" in said
        assert "--graph none" in said
        assert "docs/neo4j.md" in said
        assert ("the process ends without a word" in said) == (free < plenty)
    arrays = 1_000_000 * (EMBEDDED_BYTES + EMBEDDED_ARRAYS)
    assert time_for_neo4j(1_000_000, arrays, per_layer=True) is None
    assert time_for_neo4j(1_000_000, arrays - 1, per_layer=True)
    free = free_bytes()
    assert free is None or 2**20 < free < 2**50


def test_ingest_and_rebuild_say_it_beforehand(
    trails: Any, chains_file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "Neo4j" not in trails("ingest", chains_file, "--home", tmp_path / "small").err
    monkeypatch.setattr(loading, "EMBEDDED_TOKENS", 100)
    monkeypatch.setattr(measuring, "time_for_neo4j", loading.time_for_neo4j)
    told = trails("ingest", chains_file).err
    assert told.index("take a Neo4j server") < told.index("measured    4 chains")
    assert "take a Neo4j server" not in trails("ingest", chains_file, "--home", tmp_path / "b", "--graph", "none").err
    assert "take a Neo4j server" in trails("rebuild", "--home", tmp_path / "b").err


@pytest.mark.parametrize("command", ["ingest", "rebuild"])
def test_too_little_memory_is_said_before_the_first_row(
    trails: Any, chains_file: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    rows: list[str] = []
    monkeypatch.setattr(loading, "free_bytes", lambda: 200 * EMBEDDED_BYTES)
    monkeypatch.setattr(BarProgress, "note", lambda self, text: rows.append(text))
    handed = EmbeddedStore._handed_over
    monkeypatch.setattr(EmbeddedStore, "_handed_over", lambda *given: (rows.append("row"), handed(*given))[1])
    if command == "rebuild":
        trails("ingest", chains_file, "--graph", "none")
        assert not any("take a Neo4j server" in row for row in rows)
    trails(command, *([chains_file] if command == "ingest" else []))
    said = next(row for row in rows if "take a Neo4j server" in row)
    assert "0.0 GB are free; where it finds too little, the process ends without a word" in said
    assert rows.index(said) < rows.index("row")


def test_shards_of_none_of_the_wanted_chains_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traces = some(0, 12)
    home = home_of(tmp_path / "home", traces, per_shard=2)
    read: list[str] = []
    with TraceStore(home) as store:
        compare = store._compare
        monkeypatch.setattr(store, "_compare", lambda path: (read.append(path.name), compare(path)))
        wanted = [traces[0].chain.id, traces[5].chain.id]
        assert sorted(t.chain.id for t in store.traces(None, wanted)) == sorted(wanted)
        assert len(read) == 2
        assert sum(1 for _ in store.traces()) == 12
        assert len(read) == 6


@pytest.mark.slow
def test_a_chain_of_1800_steps_is_measured_and_its_bound_is_said(trails: Any, tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    steps = "\n".join(f"So {i} follows from {i - 1}." for i in range(1_800))
    path.write_text(json.dumps({"question": "What follows?", "answer": steps}) + "\n", encoding="utf-8")
    told = trails("ingest", path).err
    assert "bounded     1 chain has more than 256 steps: the graph keeps the 32 strongest earlier steps" in told
    assert trails("verify", "--json").json()["differences"] == []
    short = tmp_path / "short.jsonl"
    short.write_text(json.dumps({"question": "What?", "answer": "If so, then yes. But no."}) + "\n", encoding="utf-8")
    assert "bounded" not in trails("ingest", short, "--home", tmp_path / "other").err
