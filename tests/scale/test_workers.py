"""Workers: the digest of one process, whatever dies or is slow meanwhile, and an end that says why where there must be one."""

from __future__ import annotations

import json
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tests.docs.blocks import ROOT

from trails.config import load_settings
from trails.errors import ModelError, StoreError
from trails.measure.base import MeasureOptions
from trails.pipeline import IngestOptions, Silent, executors, ingest, verify
from trails.pipeline.many import Crew, Pool, _Block, take_through
from trails.pipeline.worker import answer, chain_of, plain, values
from trails.readers import ReadOptions, read
from trails.store.traces import TraceStore

PATIENCE_S = 30.0

pytestmark = pytest.mark.slow  # most start two fresh processes, some several times


@pytest.fixture
def chains(tmp_path: Path) -> Path:
    """Sixty short chains, so that blocks of 400 tokens are some thirty."""
    path = tmp_path / "many.jsonl"
    rows = [
        {
            "question": f"Is {i} even?",
            "answer": f"If {i} ends in {i % 10}, then we look at it.\nBut {i} is {i}.\nSo we know {i}.",
        }
        for i in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Said(Silent):
    """Keeps what the user is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


def measured(
    path: Path, home: Path, pool: Pool | None, progress: Said | None = None, *, shard_tokens: int = 50, **options: Any
) -> Any:
    settings = load_settings(home=home, store="embedded", model="uniform", device="cpu")
    return ingest(
        [path], settings, IngestOptions(shard_tokens=shard_tokens, **options), pool=pool, progress=progress or Said()
    )


def digests(home: Path) -> tuple[str, ...]:
    found = verify(load_settings(home=home, store="embedded"))
    assert found.differences == ()
    return found.content, found.values, found.graph


def same(tmp_path: Path, chains: Path, home: Path) -> None:
    """The home holds what one undisturbed process measures, each chain once."""
    measured(chains, tmp_path / "alone", None)
    assert digests(home) == digests(tmp_path / "alone")
    with TraceStore(home) as store:
        rows = [key for name in store.shard_names() for key in store.shard_keys(name)]
        assert len(rows) == len(set(rows)) == 60


def test_a_chain_as_plain_values_comes_back(chains: Path) -> None:
    for chain in read([chains]):
        assert chain_of(pickle.loads(pickle.dumps(plain(chain)))) == chain


def test_what_a_scorer_notes_crosses_to_another_process() -> None:
    class Version(str):
        __slots__ = ()

    noted = {
        "torch": Version("2.11.0+cu130"),
        "ids": [1, 2],
        "layers": (Version("a"), True, None),
        "floor": {"nats": 0.5},
    }
    found = values(noted)
    assert found == noted
    assert (type(found["torch"]), type(found["layers"][0])) == (str, str)
    assert (type(found["layers"]), found["layers"][1]) == (tuple, True)


@pytest.mark.train
def test_two_workers_measure_with_a_model(tmp_path: Path, chains: Path, tiny_folder: Path) -> None:
    found = {}
    for name, pool in (("two", Pool(2)), ("alone", None)):
        settings = load_settings(home=tmp_path / name, store="embedded", model=str(tiny_folder), device="cpu")
        found[name] = ingest([chains], settings, IngestOptions(shard_tokens=1500), pool=pool, progress=Said())
    assert (found["two"].measured, found["two"].run) == (60, found["alone"].run)
    assert found["two"].nll == pytest.approx(found["alone"].nll, rel=1e-5)
    content, _, graph = digests(tmp_path / "two")
    assert (content, graph != "") == (digests(tmp_path / "alone")[0], True)


def test_a_worker_that_cannot_answer_says_why(tmp_path: Path, chains: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mute(executors.LocalWorkers):
        def ask(self, worker: int, request: Mapping[str, Any]) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(pickle.UnpicklingError("library.Version is no plain value"))
            return future

    monkeypatch.setattr("trails.pipeline.many.LocalWorkers", Mute)
    with pytest.raises(ModelError, match=r"3 times .*library\.Version is no plain value"):
        measured(chains, tmp_path / "home", Pool(2))


@pytest.mark.parametrize("graph", ["during", "after", "none"])
def test_two_workers_give_the_digest_of_one_process(tmp_path: Path, chains: Path, graph: Any) -> None:
    found = measured(chains, tmp_path / "home", Pool(2), graph=graph)
    alone = measured(chains, tmp_path / "alone", None)
    for name in (
        "measured",
        "kept",
        "steps",
        "chain_tokens",
        "sequence_tokens",
        "roles",
        "languages",
        "explicit_steps",
        "run",
    ):
        assert getattr(found, name) == getattr(alone, name), name
    assert found.mean_surprisal == pytest.approx(alone.mean_surprisal)
    assert found.shards > 10
    assert (tmp_path / "home" / "graph.kgl").exists() == (graph != "none")
    again = measured(chains, tmp_path / "home", Pool(2))
    assert (again.measured, again.already_measured) == (0, 60)
    same(tmp_path, chains, tmp_path / "home")


def test_what_was_measured_before_is_not_measured_again(tmp_path: Path, chains: Path) -> None:
    first = measured(chains, tmp_path / "home", None, read=ReadOptions(limit=25))
    rest = measured(chains, tmp_path / "home", Pool(2))
    assert (first.measured, rest.already_measured, rest.measured) == (25, 25, 35)
    same(tmp_path, chains, tmp_path / "home")


class Disturbed(executors.LocalWorkers):
    """Local workers, of which one is disturbed as the first block, or the first ``least`` at once, are handed to it."""

    signal = signal.SIGKILL
    times = 1
    least = 1

    def ask(self, worker: int, request: Mapping[str, Any]) -> Future[Any]:
        future = super().ask(worker, request)
        if len(request.get("blocks", ())) >= self.least and self.times > 0:
            type(self).times = self.times - 1
            process = self._children[worker]._process
            assert process is not None
            process.send_signal(self.signal)
        return future


@pytest.fixture
def disturbed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def put(**how: Any) -> None:
        monkeypatch.setattr("trails.pipeline.many.LocalWorkers", type("Now", (Disturbed,), how))

    return put


@pytest.mark.parametrize(("blocks", "said_of"), [(1, "over the block from"), (2, "blocks, the first from chain")])
def test_a_killed_worker_is_replaced(
    tmp_path: Path, chains: Path, disturbed: Callable[..., None], blocks: int, said_of: str
) -> None:
    disturbed(signal=signal.SIGKILL, least=blocks)
    said = Said()
    found = measured(chains, tmp_path / "home", Pool(2), said)
    assert found.measured == 60
    assert any("is gone" in note and said_of in note and "another takes its place" in note for note in said.notes)
    same(tmp_path, chains, tmp_path / "home")


def test_a_worker_killed_while_it_waits_for_work_is_replaced(
    tmp_path: Path, chains: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process started in its place would hold no model: it has to be opened before it gets a block."""
    killed: list[int] = []

    class Killed(executors.LocalWorkers):
        def ask(self, worker: int, request: Mapping[str, Any]) -> Future[Any]:
            if request.get("blocks") and not killed:
                process = self._children[worker]._process
                assert process is not None
                process.kill()
                process.wait()
                killed.append(worker)
            return super().ask(worker, request)

    monkeypatch.setattr("trails.pipeline.many.LocalWorkers", Killed)
    said = Said()
    found = measured(chains, tmp_path / "home", Pool(2), said)
    assert found.measured == 60
    assert any(f"worker {killed[0] + 1} is gone" in note and "another takes its place" in note for note in said.notes)
    same(tmp_path, chains, tmp_path / "home")


def test_a_worker_that_hangs_is_replaced(tmp_path: Path, chains: Path, disturbed: Callable[..., None]) -> None:
    disturbed(signal=signal.SIGSTOP)
    said = Said()
    measured(chains, tmp_path / "home", Pool(2, patience_s=PATIENCE_S), said)
    assert any("said nothing for" in note for note in said.notes)
    same(tmp_path, chains, tmp_path / "home")


def test_a_straggler_is_waited_for_and_the_others_go_on(
    tmp_path: Path, chains: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[int] = []
    order: list[int] = []

    class Slow(executors.LocalWorkers):
        def ask(self, worker: int, request: Mapping[str, Any]) -> Future[Any]:
            future = super().ask(worker, request)
            if request.get("blocks"):
                order.append(worker)
                process = self._children[worker]._process
                assert process is not None
                if not stopped:
                    stopped.append(worker)
                    process.send_signal(signal.SIGSTOP)
                elif len(order) == 12:
                    slow = self._children[stopped[0]]._process
                    assert slow is not None
                    slow.send_signal(signal.SIGCONT)
            return future

    monkeypatch.setattr("trails.pipeline.many.LocalWorkers", Slow)
    said = Said()
    found = measured(chains, tmp_path / "home", Pool(2), said)
    assert found.measured == 60
    assert not any("another takes its place" in note for note in said.notes)
    # while the first block was stuck, the other worker took all the others
    assert stopped[0] not in order[1:12]
    same(tmp_path, chains, tmp_path / "home")


def test_chains_that_kill_every_worker_end_the_run_with_their_names(
    tmp_path: Path, chains: Path, disturbed: Callable[..., None]
) -> None:
    disturbed(times=1_000)
    with pytest.raises(ModelError) as told:
        measured(chains, tmp_path / "home", Pool(2))
    assert "3 workers were gone over" in str(told.value)
    assert "chains measured now are kept in" in str(told.value)
    disturbed(times=0)
    measured(chains, tmp_path / "home", Pool(2))
    same(tmp_path, chains, tmp_path / "home")


def test_a_model_that_cannot_be_opened_is_told_as_in_one_process(tmp_path: Path, chains: Path) -> None:
    settings = load_settings(home=tmp_path / "home", store="embedded", model=str(tmp_path / "nothing"), device="cpu")
    with pytest.raises(ModelError, match="there is no model folder"):
        ingest([chains], settings, pool=Pool(2), progress=Said())
    assert not (tmp_path / "home").exists()


def test_what_a_worker_raises_ends_the_run_and_keeps_what_is_there(tmp_path: Path, chains: Path) -> None:
    with pytest.raises(ModelError, match="the uniform scorer has no hidden states"):
        measured(chains, tmp_path / "home", Pool(1), measure=MeasureOptions(states=(1,)))
    assert not (tmp_path / "home").exists()


def test_chains_that_cannot_be_measured_are_bad_records(tmp_path: Path) -> None:
    path = tmp_path / "some.jsonl"
    rows = [{"question": "q", "answer": "If so, then yes."}, {"question": "\ud800", "answer": "But no."}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pooled, alone = (
        measured(path, tmp_path / name, pool, read=ReadOptions(bad_tolerance=5))
        for name, pool in (("a", Pool(2)), ("b", None))
    )
    assert (pooled.measured, pooled.refused, pooled.bad) == (alone.measured, alone.refused, alone.bad)
    assert pooled.bad_records == alone.bad_records
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def _started(chains: Path, home: Path, *more: str) -> subprocess.Popen[bytes]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NEO4J_", "TRAILS_"))}
    command = [sys.executable, "-m", "trails", "ingest", str(chains), "--model", "uniform", "--home", str(home)]
    return subprocess.Popen(
        [*command, "--store", "embedded", "--workers", "2", *more],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _children_of(parent: int) -> set[int]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.add(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers through /proc")
def test_the_head_killed_leaves_no_worker_and_loses_no_shard(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    text = "If it rains then the grass is wet. But the grass is dry. Therefore it did not rain. " * 60
    path.write_text("".join(json.dumps({"question": f"{i}?", "answer": f"{i}: {text}"}) + "\n" for i in range(60)))
    process = _started(path, tmp_path / "home")
    shards = tmp_path / "home" / "shards"
    while not list(shards.glob("*.parquet")):
        assert process.poll() is None
        time.sleep(0.01)
    workers = _children_of(process.pid)
    assert len(workers) == 2
    process.kill()
    process.wait()
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        time.sleep(0.05)
    with TraceStore(tmp_path / "home") as store:
        kept = len(store.keys())
        assert store.damaged() == []
        assert kept >= 1
    settings = load_settings(home=tmp_path / "home", store="embedded", model="uniform", device="cpu")
    rest = ingest([path], settings, IngestOptions(), pool=Pool(2))
    assert (rest.already_measured, rest.measured) == (kept, 60 - kept)
    ingest([path], settings.model_copy(update={"home": tmp_path / "alone"}))
    assert digests(tmp_path / "home") == digests(tmp_path / "alone")


def test_shards_go_through_a_file_system_of_pyarrow(tmp_path: Path, chains: Path) -> None:
    place = f"file://{tmp_path}/between"
    measured(chains, tmp_path / "home", Pool(2, through=place), read=ReadOptions(limit=30))
    assert list((tmp_path / "between").iterdir()) == []
    measured(chains, tmp_path / "home", Pool(2, through=str(tmp_path / "between")))
    assert list((tmp_path / "between").iterdir()) == []
    same(tmp_path, chains, tmp_path / "home")


def test_shards_that_a_killed_head_left_between_are_taken(tmp_path: Path, chains: Path) -> None:
    measured(chains, tmp_path / "home", Pool(1))
    (tmp_path / "between").mkdir()
    moved = sorted((tmp_path / "home" / "shards").glob("*.parquet"))[:5]
    for path in moved:
        path.rename(tmp_path / "between" / path.name)
    found = measured(chains, tmp_path / "home", Pool(1, through=f"file://{tmp_path}/between"))
    assert (found.measured, found.already_measured) == (0, 60)
    same(tmp_path, chains, tmp_path / "home")
    (tmp_path / "between" / f"{'0' * 32}.parquet").write_bytes(b"other bytes")
    with (
        TraceStore(tmp_path / "home", write=True) as store,
        pytest.raises(StoreError, match="arrived with bytes other"),
    ):
        take_through(f"file://{tmp_path}/between", store)


def block_of(chains: list[Any]) -> dict[str, Any]:
    """A block as a worker is handed it."""
    return {"chains": chains, "options": asdict(MeasureOptions()), "keep_source_steps": False}


def test_a_worker_that_does_not_see_the_home_sends_its_shards(tmp_path: Path, chains: Path) -> None:
    """As on another host: the same path there is another folder, or nothing."""
    opened = {"settings": {"model": "uniform"}, "instrument": {}, "index": 0, "through": "", "watch": False}
    with TraceStore(tmp_path / "other", write=True) as other:
        other.identity()
    for home in ("nowhere", "other"):
        answer({"open": {**opened, "home": str(tmp_path / home), "home_id": "h0000000000000000"}})
        rows = [plain(chain) for chain in read([chains])]
        found = answer({"blocks": [block_of(rows)]})
        assert found["left"] == []
        with TraceStore(tmp_path / f"home-{home}", write=True) as store:
            assert store.adopt(found["name"], found["data"])
            assert len(store.keys()) == 60
        assert not list((tmp_path / "other" / "shards").iterdir())


def test_a_block_is_prepared_and_another_written_while_one_is_measured(
    tmp_path: Path, chains: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stage waits here for what another block does meanwhile: one after the other, they would wait in vain."""
    from trails.pipeline import worker

    rows = [plain(chain) for chain in read([chains])]
    parts = [rows[:20], rows[20:40], rows[40:]]
    prepared, measuring = ([threading.Event() for _ in parts] for _ in range(2))
    number = {row[0] + row[1]: i for i, part in enumerate(parts) for row in part}
    seen: list[tuple[str, bool]] = []

    def of(chain: Any) -> int:
        return number[chain.source + chain.source_id]

    def split(chain: Any, **how: Any) -> Any:
        prepared[of(chain)].set()
        return segmented(chain, **how)

    def measure(items: Any, *rest: Any) -> Any:
        here = of(items[0].chain)
        measuring[here].set()
        if here < 2:
            seen.append((f"{here + 1} is prepared while {here} is measured", prepared[here + 1].wait(PATIENCE_S)))
        yield from measured_block(items, *rest)

    def shard(traces: Any) -> Any:
        here = of(traces[0].chain)
        if here < 2:
            seen.append((f"{here + 1} is measured while {here} is written", measuring[here + 1].wait(PATIENCE_S)))
        return shard_of(traces)

    segmented, measured_block, shard_of = worker.segmented, worker.measured, worker.shard_of
    for name, other in (("segmented", split), ("measured", measure), ("shard_of", shard)):
        monkeypatch.setattr(worker, name, other)
    opened = {"settings": {"model": "uniform"}, "instrument": {}, "index": 0, "through": "", "watch": False}
    answer({"open": {**opened, "home": str(tmp_path / "home"), "home_id": ""}})
    found = [answer({"blocks": [block_of(part) for part in parts]}), answer({"blocks": []}), answer({"blocks": []})]
    assert [sorted(one["chains"]) for one in found] == [sorted(chain_of(row).id for row in part) for part in parts]
    assert len(seen) == 4
    assert all(held for _, held in seen), seen


def test_a_worker_has_up_to_three_blocks_and_every_worker_has_one_at_the_end(
    tmp_path: Path, chains: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[tuple[int, int]] = []

    class Counted(executors.LocalWorkers):
        def ask(self, worker: int, request: Mapping[str, Any]) -> Future[Any]:
            if "blocks" in request:
                handed.append((worker, len(request["blocks"])))
            return super().ask(worker, request)

    monkeypatch.setattr("trails.pipeline.many.LocalWorkers", Counted)
    found = measured(chains, tmp_path / "home", Pool(2))
    held, most = [0, 0], 0
    for worker, blocks in handed:
        held[worker] += blocks
        most = max(most, held[worker])
        held[worker] -= 1  # one is answered for before the worker is asked again
    assert most == 3
    assert sum(blocks for _, blocks in handed) == found.shards
    same(tmp_path, chains, tmp_path / "home")


def test_blocks_are_dealt_so_that_no_worker_is_left_without_one(tmp_path: Path, chains: Path) -> None:
    settings = load_settings(home=tmp_path / "home", model="uniform", device="cpu")
    some = list(read([chains]))

    def dealt(crew: Crew, n: int, *slots: int) -> list[int]:
        blocks = iter([_Block([chain]) for chain in some[:n]])
        given = [crew._given(crew._slots[slot], blocks) for slot in slots]
        return [len(part) for part in given] + [crew._left(blocks, 99)]

    with TraceStore(tmp_path / "home", write=True) as store:

        def crew(answered: int = 9) -> Crew:
            made = Crew(Pool(2), settings, store, Said())
            for slot in made._slots:
                slot.answered = answered
            return made

        assert dealt(crew(), 9, 0, 1) == [3, 3, 3]
        assert dealt(crew(), 4, 0, 1) == [2, 1, 1]
        assert dealt(crew(), 2, 0, 1) == [1, 1, 0]
        assert dealt(crew(0), 9, 0, 1) == [1, 1, 7]  # the first ones singly: the other worker may not be ready yet
        # over which of two blocks a worker was gone nobody knows: each is measured alone from then on
        gone = crew()
        gone._slots[0].blocks.extend([_Block(some[:2]), _Block(some[2:4])])
        gone._start = lambda slot: None  # type: ignore[method-assign]
        gone._died(gone._slots[0])
        assert [(len(block.chains), block.alone, block.deaths) for block in gone._again] == [(2, True, 0), (2, True, 0)]
        assert dealt(gone, 0, 0) == [1, 1]
        gone._slots[0].blocks.extend([_Block(some[:2], alone=True)])
        assert dealt(gone, 0, 0) == [0, 1]
        gone._died(gone._slots[0])
        assert [(len(block.chains), block.alone, block.deaths) for block in gone._again] == [
            (2, True, 0),
            (1, True, 1),
            (1, True, 1),
        ]


def test_a_block_that_takes_too_long_gives_back_the_rest(
    tmp_path: Path, chains: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trails.pipeline.worker.SHARD_SECONDS", 0.0)
    opened = {"settings": {"model": "uniform"}, "instrument": {}, "index": 0, "through": "", "watch": False}
    answer({"open": {**opened, "home": str(tmp_path / "home"), "home_id": ""}})
    rows = [plain(chain) for chain in read([chains])]
    found = answer({"blocks": [block_of(rows)]})
    assert len(found["chains"]) == 1
    assert found["left"] == list(range(1, 60))
    assert found["counted"]["measured"] == 1


def test_a_worker_of_another_version_or_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(executors.LocalWorkers):
        changed: tuple[str, Any] = ("segmenter", "old")

        def ask(self, worker: int, request: Mapping[str, Any]) -> Future[Any]:
            inner, outer = super().ask(worker, request), Future[Any]()
            name, value = self.changed

            def changed(done: Future[Any]) -> None:
                found = dict(done.result())
                if worker == 1 and name == "run":
                    found["run"] = {**found["run"], "revision": value}
                elif name != "run":
                    found[name] = value
                outer.set_result(found)

            inner.add_done_callback(changed)
            return outer

    settings = load_settings(home=tmp_path / "home", model="uniform", device="cpu")
    monkeypatch.setattr("trails.pipeline.many.LocalWorkers", Other)
    with TraceStore(tmp_path / "home", write=True) as store:
        with (
            Crew(Pool(1), settings, store, Said()) as crew,
            pytest.raises(ModelError, match="another version of trails"),
        ):
            crew.open()
        Other.changed = ("run", "2")
        with Crew(Pool(2), settings, store, Said()) as crew:
            crew.open()
            with pytest.raises(ModelError, match="measures as run"):
                _all_opened(crew)


def _all_opened(crew: Crew) -> None:
    while True:
        for slot, found in crew._finished():
            crew._opened(slot, found)


def test_the_command_refuses_options_that_belong_to_workers(trails: Any, chains_file: Path) -> None:
    assert "--ray belongs to --workers" in trails("ingest", chains_file, "--ray", "auto", code=2).err
    assert "--patience belongs to --workers" in trails("ingest", chains_file, "--patience", "5", code=2).err
    assert "--workers and --models" in trails("ingest", chains_file, "--workers", 2, "--models", "a,b", code=2).err
    done = trails("ingest", chains_file, "--workers", 2, "--graph", "none")
    assert "2 workers, whose seconds are added up" in done.err
    assert "graph: not loaded; load it with: trails rebuild" in done.err
    assert trails("rebuild").code == 0
    assert trails("verify", "--json").json()["differences"] == []


def test_the_lines_of_the_page_work_to_the_letter(trails: Any, chains_file: Path, tmp_path: Path) -> None:
    """Those with --ray are run by test_ray.py where ray is installed."""
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    lines = [
        line.split("    ")[0] for line in re.findall(r"^    (trails .*)$", page, re.MULTILINE) if "--ray" not in line
    ]
    assert len(lines) == 7
    rows = chains_file.read_text(encoding="utf-8").splitlines(keepends=True)
    for name, part in (("part1", rows[:2]), ("part2", rows[2:])):
        (tmp_path / f"{name}.jsonl").write_text("".join(part), encoding="utf-8")
    for line in lines:
        trails(*shlex.split(line)[1:])
    assert trails("verify", "--json").json()["chains"] == 4
    assert trails("verify", "--home", "whole", "--json").json()["chains"] == 4
