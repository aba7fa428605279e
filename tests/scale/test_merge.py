"""Homes measured apart, joined: the same content as measured together, or a refusal that says why."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.store.factory import make_chain, make_run, make_trace

from trails.config import load_settings
from trails.errors import StoreError, UsageError
from trails.pipeline import verify
from trails.pipeline.merging import measures_of, merge
from trails.schema import Role, Run, Trace
from trails.store.corrections import Correction
from trails.store.traces import SOURCE_STEPS, TraceStore

RUN = make_run()


def home_of(folder: Path, traces: list[Trace], *, run: Run = RUN, per_shard: int = 3, segmenter: str = "s1") -> Path:
    """A home that holds these traces, as an ingest leaves it."""
    with TraceStore(folder, write=True) as store:
        store.set_segmenter(segmenter)
        store.put_run(run)
        for start in range(0, len(traces), per_shard):
            store.write(traces[start : start + per_shard])
    return folder


def some(first: int, stop: int, **options: Any) -> list[Trace]:
    return [make_trace(make_chain(i), RUN, **options) for i in range(first, stop)]


def digest(home: Path) -> Any:
    with TraceStore(home) as store:
        return store.digest()


@pytest.mark.slow
def test_three_parts_that_overlap_are_what_one_ingest_gives(
    trails: Callable[..., Any], tmp_path: Path, chains_file: Path
) -> None:
    lines = chains_file.read_text(encoding="utf-8").splitlines(keepends=True)
    for number, part in enumerate((lines[:2], lines[1:3], lines[2:])):
        folder = tmp_path / f"in{number}"
        folder.mkdir()
        (folder / "chains.jsonl").write_text("".join(part), encoding="utf-8")
        trails("ingest", folder / "chains.jsonl", "--home", tmp_path / f"part{number}")
    trails("ingest", chains_file, "--home", tmp_path / "together")
    parts = [tmp_path / f"part{number}" for number in range(3)]
    before = [digest(part) for part in parts]
    found = trails("merge", *parts, "--home", tmp_path / "whole", "--json").json()
    # six measured chains in three homes, two of them in two homes
    assert (found["chains"], found["known"], found["differing"]) == (4, 2, 0)
    whole, together = (trails("verify", "--home", tmp_path / name, "--json").json() for name in ("whole", "together"))
    assert whole["differences"] == []
    assert [whole[k] for k in ("content", "values", "graph")] == [together[k] for k in ("content", "values", "graph")]
    assert [digest(part) for part in parts] == before
    with TraceStore(tmp_path / "whole") as store:
        rows = [key for name in store.shard_names() for key in store.shard_keys(name)]
    assert len(rows) == len(set(rows)) == 4
    again = trails("merge", *parts, "--home", tmp_path / "whole")
    assert "0 measured chains came; 6 were here" in again.err


@pytest.mark.slow
def test_into_a_home_that_holds_chains(tmp_path: Path) -> None:
    home_of(tmp_path / "whole", some(0, 4))
    home_of(tmp_path / "part", some(2, 9))
    merge([tmp_path / "part"], load_settings(home=tmp_path / "whole", store="embedded"))
    home_of(tmp_path / "together", some(0, 9))
    assert digest(tmp_path / "whole") == digest(tmp_path / "together")


def refused(tmp_path: Path, *parts: str, mixed: bool = False, into: str = "whole") -> str:
    """The message of a merge that is refused and wrote nothing."""
    with pytest.raises((StoreError, UsageError)) as told:
        merge([tmp_path / part for part in parts], load_settings(home=tmp_path / into, store="embedded"), mixed=mixed)
    assert into in parts or not (tmp_path / into).exists()
    return str(told.value)


def test_other_models_are_refused_unless_mixed(tmp_path: Path) -> None:
    other = make_run("other")
    home_of(tmp_path / "a", some(0, 3))
    home_of(tmp_path / "b", [make_trace(make_chain(i), other) for i in range(3, 6)], run=other)
    said = refused(tmp_path, "a", "b")
    for part in ("a was measured by", "(toy)", "(other)", "--mixed"):
        assert part in said
    merge([tmp_path / "a", tmp_path / "b"], load_settings(home=tmp_path / "whole", store="embedded"), mixed=True)
    with TraceStore(tmp_path / "whole") as store:
        assert {run: len(store.done(run)) for run in store.runs()} == {RUN.id: 3, other.id: 3}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"premises": False}, "premises"),
        ({"token_attention": True}, "token attention"),
        ({"peaks": 2}, "peaks 2"),
        ({"states": (1, 3)}, "states 1,3"),
        ({"alternatives": True}, "top 3"),
    ],
)
def test_other_measures_on_request_are_refused_and_named(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    home_of(tmp_path / "a", some(0, 3))
    home_of(tmp_path / "b", some(3, 6, **options))
    message = refused(tmp_path, "a", "b")
    assert said in message
    assert RUN.id in message
    merge([tmp_path / "a", tmp_path / "b"], load_settings(home=tmp_path / "whole", store="embedded"), mixed=True)
    with TraceStore(tmp_path / "whole") as store:
        assert len(measures_of(store)[RUN.id]) == 2


def test_another_segmentation_or_configuration_is_refused_even_mixed(tmp_path: Path) -> None:
    home_of(tmp_path / "a", some(0, 3))
    home_of(tmp_path / "b", some(3, 6), segmenter="s2")
    assert "trails rebuild --segment --home" in refused(tmp_path, "a", "b", mixed=True)
    home_of(tmp_path / "e", some(3, 6), segmenter=f"s1{SOURCE_STEPS}")
    for pair in (("a", "e"), ("e", "a")):
        # rebuild --segment keeps the choice of a home, so it would not help
        told = refused(tmp_path, *pair, mixed=True)
        assert (
            "was made with --keep-source-steps and the other without. Nothing was merged: ingest the chains of" in told
        )
        assert "rebuild --segment" not in told
    notes = {"transformers": "5", "config": {"rope_theta": 1.0}}
    home_of(tmp_path / "c", some(0, 3), run=replace(RUN, notes=notes))
    home_of(tmp_path / "d", some(3, 6), run=replace(RUN, notes={**notes, "config": {"rope_theta": 2.0}}))
    assert "rope_theta was 1.0, is 2.0" in refused(tmp_path, "c", "d", mixed=True)


def test_what_cannot_be_merged_is_said(tmp_path: Path) -> None:
    home_of(tmp_path / "a", some(0, 3))
    home_of(tmp_path / "empty", [])
    assert "holds no chains" in refused(tmp_path, "a", "empty")
    assert "named twice" in refused(tmp_path, "a", "a")
    assert "is the home to merge into" in refused(tmp_path, "a", into="a")
    assert "holds no trails" in refused(tmp_path, "nowhere")
    shard = next((tmp_path / "a" / "shards").glob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-9] + b"x" + shard.read_bytes()[-8:])
    assert "damaged" in refused(tmp_path, "a")


def test_numbers_that_differ_are_counted_and_those_of_the_first_stay(tmp_path: Path) -> None:
    home_of(tmp_path / "a", some(0, 4))
    changed = [replace(t, surprisal=t.surprisal + np.float32(1)) if i == 1 else t for i, t in enumerate(some(2, 6))]
    home_of(tmp_path / "b", changed)
    found = merge([tmp_path / "a", tmp_path / "b"], load_settings(home=tmp_path / "whole", store="embedded"))
    assert (found.chains, found.known, found.differing) == (6, 2, 1)
    home_of(tmp_path / "together", some(0, 6))
    assert digest(tmp_path / "whole") == digest(tmp_path / "together")


def test_corrections_variants_and_notes_come_along(tmp_path: Path) -> None:
    traces = some(0, 4)
    a = home_of(tmp_path / "a", traces[:2], run=replace(RUN, notes={"gap_calibration": {"n": 1}, "device": "cpu"}))
    home_of(tmp_path / "b", traces[2:])
    steps = tuple((step.start, step.end, Role.BUT) for step in traces[0].steps)
    with TraceStore(a, write=True) as store:
        store.put_corrections({traces[0].chain.id: Correction("me", "2026-01-01", steps)})
    found = merge([a, tmp_path / "b"], load_settings(home=tmp_path / "whole", store="embedded"))
    assert found.corrections == 1
    with TraceStore(tmp_path / "whole") as store:
        assert {s.role for t in store.traces(RUN.id, [traces[0].chain.id]) for s in t.steps} == {Role.BUT}
        # a calibration counted one part's chains
        assert store.runs()[RUN.id].notes == {"device": "cpu"}
    assert verify(load_settings(home=tmp_path / "whole", store="embedded")).differences == ()


def _merge_and_die(parts: list[Path], whole: Path, after: int) -> None:
    """A merge that is killed when so many shards were written."""
    adopt = TraceStore.adopt
    written = 0

    def dying(self: TraceStore, name: str, data: bytes) -> bool:
        nonlocal written
        if written == after:
            os.kill(os.getpid(), signal.SIGKILL)
        written += 1
        return adopt(self, name, data)

    TraceStore.adopt = dying  # type: ignore[method-assign]
    merge(parts, load_settings(home=whole, store="embedded"))


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_killed_merge_goes_on(tmp_path: Path, after: int) -> None:
    parts = [home_of(tmp_path / "a", some(0, 6), per_shard=2), home_of(tmp_path / "b", some(5, 10), per_shard=2)]
    process = multiprocessing.get_context("forkserver").Process(
        target=_merge_and_die, args=(parts, tmp_path / "whole", after)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with TraceStore(tmp_path / "whole") as store:
        assert (len(store.shard_names()), store.damaged()) == (after, [])
    found = merge(parts, load_settings(home=tmp_path / "whole", store="embedded"))
    assert found.chains == 10 - 2 * after
    home_of(tmp_path / "together", some(0, 10))
    assert digest(tmp_path / "whole") == digest(tmp_path / "together")
    assert verify(load_settings(home=tmp_path / "whole", store="embedded")).differences == ()


def test_a_name_that_another_run_has_stays_behind(tmp_path: Path) -> None:
    other = replace(make_run("other"), notes={"name": "base"})
    home_of(tmp_path / "a", some(0, 2), run=replace(RUN, notes={"name": "base"}))
    home_of(tmp_path / "b", [make_trace(make_chain(9), other)], run=other)
    found = merge(
        [tmp_path / "a", tmp_path / "b"], load_settings(home=tmp_path / "whole", store="embedded"), mixed=True
    )
    assert other.id in found.notes[0]
    runs = json.loads((tmp_path / "whole" / "runs" / f"{other.id}.json").read_text())
    assert "name" not in runs["notes"]
    shutil.rmtree(tmp_path / "whole")
