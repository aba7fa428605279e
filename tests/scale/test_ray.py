"""Two CPU actors of a Ray cluster on this machine: the digest of one process, also where an actor is killed or hangs."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from tests.docs.blocks import ROOT

from trails.config import load_settings
from trails.errors import MissingPackageError, StoreError
from trails.pipeline import IngestOptions, Silent, ingest, verify
from trails.pipeline.executors import RayWorkers, _reach
from trails.pipeline.many import Pool

HAS_RAY = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="the extra trails[ray] is not installed")

pytestmark = pytest.mark.slow


@pytest.fixture
def chains(tmp_path: Path) -> Path:
    path = tmp_path / "chains.jsonl"
    rows = [
        {"question": f"{i}?", "answer": f"If {i} holds then {i + 1} holds.\nBut {i} fails.\nSo it ends."}
        for i in range(40)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings of a cluster that this test starts: its actors import this checkout, and no report is sent anywhere."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    yield
    import ray

    ray.shutdown()


class Said(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def measured(path: Path, home: Path, pool: Pool | None, said: Said | None = None) -> Any:
    settings = load_settings(home=home, store="embedded", model="uniform", device="cpu")
    return ingest([path], settings, IngestOptions(shard_tokens=50), pool=pool, progress=said or Said())


def digests(home: Path) -> tuple[str, ...]:
    found = verify(load_settings(home=home, store="embedded"))
    assert found.differences == ()
    return found.content, found.values, found.graph


@needs_ray
@pytest.mark.parametrize("how", ["undisturbed", "killed", "hung"])
def test_two_actors_give_the_digest_of_one_process(
    tmp_path: Path, chains: Path, cluster: None, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    pids: dict[int, int] = {}

    class Disturbed(RayWorkers):
        done = how == "undisturbed"

        def ask(self, worker: int, request: Mapping[str, Any]) -> Future[Any]:
            future = super().ask(worker, request)
            if "open" in request:
                future.add_done_callback(lambda found: pids.update({worker: found.result()["pid"]}))
            elif not self.done:
                self.done = True
                os.kill(pids[worker], signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            return future

    monkeypatch.setattr("trails.pipeline.many.RayWorkers", Disturbed)
    said = Said()
    found = measured(chains, tmp_path / "home", Pool(2, ray="local", patience_s=30.0 if how == "hung" else 600.0), said)
    assert (found.measured, found.workers) == (40, 2)
    assert found.shards > 5
    assert any("another takes its place" in note for note in said.notes) == (how != "undisturbed")
    measured(chains, tmp_path / "alone", None)
    assert digests(tmp_path / "home") == digests(tmp_path / "alone")


@needs_ray
def test_a_cluster_that_is_not_there_is_said(tmp_path: Path, chains: Path) -> None:
    with pytest.raises(StoreError, match="no Ray cluster answers at 127.0.0.1:1"):
        measured(chains, tmp_path / "home", Pool(2, ray="127.0.0.1:1"))
    assert not (tmp_path / "home").exists()


def test_an_address_where_nothing_listens_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
            with pytest.raises(OSError):
                _reach(address)  # bound, and nobody listens
        taken.listen()
        _reach(f"127.0.0.1:{port}")
    _reach("auto")
    _reach("local")


@pytest.mark.skipif(HAS_RAY, reason="ray is installed")
def test_without_the_extra_the_line_to_install_it_is_said(tmp_path: Path, chains: Path) -> None:
    with pytest.raises(MissingPackageError, match=r"pip install 'trails\[ray\]'"):
        measured(chains, tmp_path / "home", Pool(2, ray="local"))
