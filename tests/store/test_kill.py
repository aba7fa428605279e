"""kill -9 at random instants: what was written stays whole, and resuming ends where an undisturbed writer ends."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
from tests.store import writer

from trails.store.digest import compare, graph_digest
from trails.store.embedded import EmbeddedStore
from trails.store.rows import graph_batch
from trails.store.traces import TraceStore

KILLS = 20


@pytest.mark.slow
def test_twenty_kills_then_the_digest_of_an_undisturbed_run(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.store.writer"])
    imports = context.Process(target=abs, args=(0,))  # the time of a write is measured without that of the imports
    imports.start()
    imports.join()
    undisturbed = tmp_path / "undisturbed"
    start = time.monotonic()
    process = context.Process(target=writer.write_all, args=(str(undisturbed),))
    process.start()
    process.join()
    assert process.exitcode == 0
    longest = time.monotonic() - start

    rng = random.Random(20)
    kills, homes = 0, []
    while kills < KILLS:
        home = tmp_path / f"home{len(homes)}"
        homes.append(home)
        exitcode: int | None = None
        while exitcode != 0 and kills < KILLS:
            process = context.Process(target=writer.write_all, args=(str(home),))
            process.start()
            assert process.pid is not None
            process.join(rng.uniform(0.02, longest * 0.9))
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
            process.join()
            exitcode = process.exitcode
            assert exitcode in (0, -signal.SIGKILL)
            if (home / "trails.json").exists():
                with TraceStore(home) as shards:  # whatever is there is whole, at any instant
                    assert shards.damaged() == []
                    written = shards.keys()
                with EmbeddedStore(home) as graph:
                    assert graph.loaded() <= written

    with TraceStore(undisturbed) as shards:
        expected = shards.digest()
    whole = graph_digest([graph_batch(writer.all_traces(), {run.id: run for run in writer.RUNS})])
    for home in homes:
        writer.write_all(str(home))
        with TraceStore(home) as shards:
            assert shards.digest() == expected
            assert shards.damaged() == []
        with EmbeddedStore(home) as graph:
            assert compare(whole, graph_digest([graph.tables()])) == []
        assert not list(home.rglob("*tmp*"))
