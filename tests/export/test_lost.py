"""A shard that is gone: an export never leaves out its chains without a word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from click.testing import CliRunner, Result

from trails.cli import cli
from trails.config import load_settings
from trails.errors import QueryError
from trails.pipeline.training import train_export
from trails.store.embedded import EmbeddedStore
from trails.store.rows import graph_batch, held_by
from trails.store.traces import TraceStore
from trails.train.options import TrainOptions

EVERY = "MATCH (c:Chain) RETURN c"


@pytest.fixture
def made(make_home: Callable[..., SimpleNamespace]) -> SimpleNamespace:
    """Six chains, each measured by two runs, two shards a run, all in the graph."""
    found = make_home(6, runs=("one", "two"))
    with TraceStore(found.home) as shards, EmbeddedStore(found.home) as graph:
        graph.write([held_by(graph_batch(shards.traces(), shards.runs()), shards.identity())])
        graph.save()
        found.names = shards.shards_of([(trace.chain.id, trace.run) for trace in found.traces])
        found.held = {name: shards.shard_keys(name) for name in found.names}
    return found


def export(made: SimpleNamespace, selection: str, run: str) -> Result:
    file = made.home.parent / "x.jsonl"
    line = ["export", "--subgraph", selection, "--format", "trails", "-o", str(file), "--overwrite", "--run", run]
    return CliRunner().invoke(cli, [*line, "--json", "--home", str(made.home), "--store", "embedded"])


def read(result: Result) -> Any:
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def test_selected_chains_whose_shard_is_gone_are_named(made: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    one, two = (run.id for run in made.runs)
    with caplog.at_level("WARNING", "trails"):
        whole = read(export(made, EVERY, one))
    assert (whole["chains"], whole["left_out_without_shard"]) == (6, [])
    assert not caplog.text
    gone = next(name for name in made.names if {run for _, run in made.held[name]} == {one})
    chains = sorted(chain for chain, _ in made.held[gone])
    (made.home / "shards" / gone).unlink()
    told = (
        f"{len(chains)} selected chains are left out, because a shard is missing: "
        f"the graph holds them as measured by run {one}"
    )
    with caplog.at_level("WARNING", "trails"):
        part = read(export(made, EVERY, one))
    assert (part["chains"], part["left_out_without_shard"]) == (6 - len(chains), chains)
    assert told in caplog.text
    assert all(chain in caplog.text for chain in chains)
    assert "What to do: trails verify" in caplog.text
    assert told in Path(part["card"]).read_text("utf-8")
    # the other run measured all of them, and its export lacks nothing
    other = read(export(made, EVERY, two))
    assert (other["chains"], other["left_out_without_shard"]) == (6, [])
    # of a chain that no run measured any more nothing is left
    last = next(name for name in made.names if name != gone and (chains[0], two) in made.held[name])
    (made.home / "shards" / last).unlink()
    error = export(made, f"MATCH (c:Chain) WHERE c.id = '{chains[0]}' RETURN c", one).exception
    assert isinstance(error, QueryError)
    assert "1 selected chain is left out, because a shard is missing" in str(error)


def test_a_choice_whose_chains_are_gone_says_so(made: SimpleNamespace, caplog: pytest.LogCaptureFixture) -> None:
    one, name = made.runs[0].id, "x0123456789abcdef"
    chains = sorted(chain.id for chain in made.chains)
    (made.home / "selections").mkdir()
    record = {"by": "random", "budget": 1, "pool": "all", "seed": 0, "run": one, "chains": chains}
    file = Path(made.home / "selections" / f"{name}.json")
    file.write_text(json.dumps(record), encoding="utf-8")
    with caplog.at_level("WARNING", "trails"):
        assert export(made, f"selected:{name}", one).exit_code == 0
    assert "chosen chain" not in caplog.text
    with TraceStore(made.home) as shards:
        lost = shards.shards_of([(chains[0], run.id) for run in made.runs])
    for shard in lost:
        (made.home / "shards" / shard).unlink()
    gone = sorted(set.intersection(*({chain for chain, _ in made.held[shard]} for shard in lost)))
    with caplog.at_level("WARNING", "trails"):
        assert export(made, f"selected:{name}", one).exit_code == 0
    assert (
        f"{len(gone)} chosen chains are left out, because this home holds no measures of them any more" in caplog.text
    )
    assert all(chain in caplog.text for chain in gone)


def test_chains_without_a_map_of_the_teacher_are_named(
    made: SimpleNamespace, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of a chain whose map is lost teach no attention; the training itself is not what is tested here."""
    one = made.runs[0].id
    assert export(made, EVERY, one).exit_code == 0
    monkeypatch.setattr("trails.pipeline.training._scorer", lambda *_: MagicMock())
    monkeypatch.setattr("trails.train.train", MagicMock())
    settings = load_settings(home=made.home, store="embedded")
    options = TrainOptions(objective="attention")

    def told() -> str:
        caplog.clear()
        with caplog.at_level("WARNING", "trails"):
            train_export(settings, made.home.parent / "x.jsonl", made.home.parent / "out", options, teacher=one)
        return caplog.text

    assert "attention map" not in told()
    gone = next(name for name in made.names if {run for _, run in made.held[name]} == {one})
    chains = sorted(chain for chain, _ in made.held[gone])
    (made.home / "shards" / gone).unlink()
    said = told()
    assert f"{len(chains)} of 6 chains have no attention map of run {one}" in said
    assert all(chain in said for chain in chains)


def test_a_report_of_everything_says_that_a_shard_is_gone(made: SimpleNamespace) -> None:
    one = made.runs[0].id

    def left_out() -> list[str]:
        file = str(made.home.parent / "all.html")
        line = ["report", "--run", one, "-o", file, "--overwrite", "--json", "--home", str(made.home)]
        return list(read(CliRunner().invoke(cli, [*line, "--store", "embedded"]))["left_out"])

    assert not any("shard" in note for note in left_out())
    gone = next(name for name in made.names if {run for _, run in made.held[name]} == {one})
    (made.home / "shards" / gone).unlink()
    lost = len(made.held[gone])
    (said,) = [note for note in left_out() if "shard" in note]
    assert said.startswith(f"{lost} measured chain")
    assert "in the graph and in no shard" in said
