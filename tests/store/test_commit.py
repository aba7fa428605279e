"""What measuring leaves behind when it is ended: every measured chain, and a sentence that says how many."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from trails.config import Settings, load_settings
from trails.errors import ModelError, StoreError
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.uniform import UniformScorer
from trails.pipeline import IngestOptions, blocks, ingest, verify
from trails.schema import Chain, Trace
from trails.store import traces as traces_module
from trails.store.traces import TraceStore

N = 6


class Stopping(UniformScorer):
    """Raises before it measures one of the chains."""

    def __init__(self, at: int, error: BaseException) -> None:
        super().__init__()
        self.left, self.error = at, error

    def measure(self, items: Sequence[Segmented], options: MeasureOptions) -> list[Trace]:
        if self.left == 0:
            raise self.error
        self.left -= 1
        return super().measure(items, options)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(home=tmp_path / "home", store="embedded", model="uniform")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "chains.jsonl"
    rows = (
        f'{{"question": "Is {i} even?", "answer": "If {i} is 2k, then it is even. So we see {i}."}}\n' for i in range(N)
    )
    path.write_text("".join(rows))
    return path


@pytest.mark.slow
def test_an_interrupt_writes_the_partial_shard_and_says_what_is_kept(settings: Settings, source: Path) -> None:
    with pytest.raises(KeyboardInterrupt) as stopped:
        ingest([source], settings, scorer=Stopping(4, KeyboardInterrupt()))
    assert str(stopped.value) == (
        f"interrupted: 4 chains measured now are kept in 1 whole shard of {settings.home}; 2 are left. The same command "
        "again measures only those"
    )
    verdict = verify(settings)
    assert (verdict.chains, verdict.differences) == (4, ())
    assert ingest([source], settings, scorer=UniformScorer()).measured == 2


def test_the_command_prints_that_sentence(
    settings: Settings, source: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from trails.__main__ import main

    monkeypatch.setattr("trails.pipeline.scorer_from", lambda *_, **__: Stopping(2, KeyboardInterrupt()))
    monkeypatch.setattr(
        "sys.argv", ["trails", "ingest", str(source), "--home", str(settings.home), "--store", "embedded"]
    )
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 130
    assert "interrupted: 2 chains measured now are kept in 1 whole shard of" in capsys.readouterr().err


def test_a_chain_that_fails_costs_no_other(settings: Settings, source: Path) -> None:
    with pytest.raises(ModelError, match="cannot"):
        ingest([source], settings, scorer=Stopping(3, ModelError("cannot")))
    with TraceStore(settings.home) as store:
        assert len(store.keys()) == 3


@pytest.mark.slow
def test_shards_close_by_time(settings: Settings, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "SHARD_SECONDS", 0.0)
    summary = ingest([source], settings, scorer=UniformScorer())
    assert (summary.kept, summary.shards) == (N, N)
    assert len(list((settings.home / "shards").iterdir())) == N


def test_a_full_disk_says_which_chains_are_kept(
    settings: Settings, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = traces_module.write_atomic
    shards: list[Path] = []

    def fills_up(path: Path, data: bytes) -> None:
        if path.suffix == ".parquet":
            shards.append(path)
            if len(shards) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(path, data)

    monkeypatch.setattr(traces_module, "write_atomic", fills_up)
    with pytest.raises(StoreError) as stopped:
        ingest([source], settings, IngestOptions(shard_tokens=1), scorer=UniformScorer())
    with TraceStore(settings.home) as store:
        assert len(store.keys()) == 2
        assert store.damaged() == []
    message = str(stopped.value)
    assert message.startswith("the disk is full: ")
    assert f". In {settings.home} 2 chains measured now are kept in 2 whole shards; " in message
    assert message.endswith(" measured chains were not written")
    assert len(shards) == 3  # nothing smaller was tried afterwards


def test_a_refused_first_ingest_makes_no_run(settings: Settings, source: Path) -> None:
    class Narrow(UniformScorer):
        def __init__(self) -> None:
            super().__init__()
            object.__setattr__(self.run, "max_tokens", 3)

    with pytest.raises(Exception, match="window"):
        ingest([source], settings, scorer=Narrow())
    assert not settings.home.exists()


def test_work_can_be_shared_out() -> None:
    """Blocks and measured know no store, so that another process or machine can take a block."""
    scorer = UniformScorer()
    chains = [Chain("s", str(i), "", "x" * (10 + i)) for i in range(5)]
    from trails.pipeline import segmented

    refused: list[tuple[str, str]] = []
    object.__setattr__(scorer.run, "max_tokens", 13)
    made = list(
        blocks.blocks(map(segmented, chains), scorer, 20, lambda item, n: refused.append((item.chain.source_id, n)))
    )
    assert [[item.chain.source_id for item in block] for block in made] == [["0", "1"], ["2", "3"]]
    assert [name for name, _ in refused] == ["4"]
    assert "has 14 tokens with its context, the model's window is 13." in refused[0][1]
    portions = list(blocks.measured(made[0], scorer, MeasureOptions()))
    assert [[trace.chain.source_id for trace in portion] for portion in portions] == [["0"], ["1"]]
    together = list(blocks.measured(made[0], scorer, MeasureOptions(batch_tokens=64)))
    assert [[trace.chain.source_id for trace in portion] for portion in together] == [["0", "1"]]
