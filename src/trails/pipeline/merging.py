"""Homes that were measured apart become one: what they hold together is what measuring together would have given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from trails.analyses.gaps import NOTE as CALIBRATION
from trails.config import Settings, load_settings
from trails.errors import StoreError, UsageError
from trails.pipeline.loading import load_missing, load_variants
from trails.pipeline.progress import Progress, Silent
from trails.platform.files import write_atomic
from trails.platform.text import counted
from trails.schema import Run, Trace
from trails.store import open_graph
from trails.store.shards import row_digests
from trails.store.traces import SOURCE_STEPS, TraceStore

Measures = frozenset[tuple[str, ...]]
"""Which measures on request the chains of a run hold: one entry for every combination that occurs."""


@dataclass(slots=True)
class Merged:
    """What a merge did. ``chains`` counts (chain, run) pairs that came into the home now, ``known`` those that were there,
    ``differing`` those of ``known`` whose numbers are others in the home that was merged. ``bytes`` counts the shards copied.
    """

    home: str
    homes: tuple[str, ...]
    runs: tuple[str, ...] = ()
    shards: int = 0
    bytes: int = 0
    chains: int = 0
    known: int = 0
    differing: int = 0
    corrections: int = 0
    variants: int = 0
    loaded: int = 0
    graph: str = ""
    notes: list[str] = field(default_factory=list)


def merge(
    homes: Sequence[Path],
    settings: Settings | None = None,
    *,
    mixed: bool = False,
    graph: bool = True,
    progress: Progress | None = None,
) -> Merged:
    """Put everything that ``homes`` hold into the home of the settings, which is made if need be. They stay as they are.

    The digest of the shards is that of one home that measured all of it. Nothing is written before everything was found to fit:
    raises StoreError where chains were split by another segmenter, where a run was measured with another configuration of its
    model, and, unless ``mixed``, where the homes were measured by different runs or with other measures on request. A chain
    that several homes measured is taken from the first; ``differing`` says how many of those have other numbers elsewhere.

    A kill leaves whole shards; the same call goes on. Corrected roles and variants come along; results of analyses do not, as
    they counted one home's chains. ``graph`` loads what is new into the graph afterwards.
    """
    settings = settings or load_settings()
    progress = progress or Silent()
    if not homes:
        raise UsageError("name the homes to merge, for example: trails merge PART1 PART2 --home WHOLE")
    target = settings.home.resolve()
    if target in [home.resolve() for home in homes]:
        raise UsageError(
            f"{settings.home} is the home to merge into and was named as one to merge, too. Name only the others, or another "
            "folder with --home"
        )
    if len({home.resolve() for home in homes}) < len(homes):
        raise UsageError(f"a home was named twice: {', '.join(map(str, homes))}. Name every home once")
    merged = Merged(str(settings.home), tuple(map(str, homes)))
    with contextlib.ExitStack() as opened:
        parts = [opened.enter_context(TraceStore(home)) for home in homes]
        if empty := [part.home for part in parts if not part.shard_names()]:
            raise StoreError(f"{empty[0]} holds no chains, so there is nothing to merge from it. Leave it out")
        for part in parts[1:]:
            _check_segmenter(part, parts[0])
        with TraceStore(settings.home, write=True) as traces:
            try:
                everything = [*([traces] if traces.shard_names() else []), *parts]
                if everything[0] is traces:
                    _check_segmenter(parts[0], traces)
                runs = _runs_of(everything)
                if not mixed:
                    _check_measures(everything, runs)
                traces.set_segmenter(parts[0].segmenter)
                _take_shards(parts, traces, merged, progress)
            finally:
                traces.give_up_if_empty()
            for part in parts:
                _take_corrections(part, traces, merged)
            variants = [path for part in parts for path in _take_variants(part, traces)]
            merged.variants = len(variants)
            merged.runs = tuple(traces.runs())
            if graph:
                with open_graph(settings) as store:
                    merged.graph = store.address
                    store.ensure_schema()
                    merged.loaded = load_missing(traces, store, progress=progress)
                    for path in sorted((traces.home / "variants").glob("v*.parquet")):
                        load_variants(store, path)
                    store.save()
    return merged


def _check_segmenter(part: TraceStore, other: TraceStore) -> None:
    if part.segmenter.endswith(SOURCE_STEPS) != other.segmenter.endswith(SOURCE_STEPS):
        raise StoreError(
            f"one of {part.home} and {other.home} was made with --keep-source-steps and the other without. Nothing was merged: "
            "ingest the chains of one of them again, with the option of the other"
        )
    if part.segmenter != other.segmenter:
        raise StoreError(
            f"{part.home} holds chains split by another version of the segmenter, or with other options, than {other.home} "
            f"({part.segmenter or 'unknown'}, {other.segmenter or 'unknown'}). Nothing was merged. Split its chains again: "
            f"trails rebuild --segment --home {part.home}"
        )


def _runs_of(stores: Sequence[TraceStore]) -> dict[str, dict[str, Run]]:
    """The runs of every home by its path. Raises StoreError where one run was measured with two configurations."""
    holder: dict[str, TraceStore] = {}
    found = {}
    for store in stores:
        runs = store.runs()
        held = _held_runs(store)
        if nameless := sorted(held - set(runs)):
            raise StoreError(
                f"{store.home} holds chains of run {nameless[0]} and no file runs/{nameless[0]}.json. Ingest with the same "
                "model again: nothing is measured twice, and the file is written again"
            )
        for name in sorted(held):
            holder.setdefault(name, store).check_run(runs[name])
        found[str(store.home)] = {name: runs[name] for name in sorted(held)}
    return found


def _check_measures(stores: Sequence[TraceStore], runs: Mapping[str, Mapping[str, Run]]) -> None:
    """Raise StoreError unless all homes were measured by the same runs with the same measures on request."""
    first = stores[0]
    known = runs[str(first.home)]
    for store in stores[1:]:
        here = runs[str(store.home)]
        if set(here) != set(known):
            raise StoreError(
                f"{first.home} was measured by {_names(known)}, {store.home} by {_names(here)}. Nothing was merged: no "
                "chain of one could be compared with a chain of the other. Measure both with the same model and options, or "
                "join them as they are: --mixed"
            )
    expected = measures_of(first)
    for store in stores[1:]:
        for run, found in measures_of(store).items():
            if found != expected[run]:
                raise StoreError(
                    f"run {run} holds other measures in {store.home} ({_said(found)}) than in {first.home} "
                    f"({_said(expected[run])}). Nothing was merged. Ingest the same input again with the options of the other "
                    "(--premises, --token-attention, --peaks, --states, --top-k, --gradients): only what is missing is "
                    "measured. Or join them as they are: --mixed"
                )


def _held_runs(store: TraceStore) -> set[str]:
    """Runs of which the home holds a chain."""
    pairs = store.keys()
    return {run for _, run in pairs}


def _names(runs: Mapping[str, Run]) -> str:
    return ", ".join(f"{name} ({run.model}{' with an adapter' if run.adapter else ''})" for name, run in runs.items())


def _said(measures: Measures) -> str:
    return " or ".join(", ".join(one) or "none on request" for one in sorted(measures))


def measures_of(store: TraceStore) -> dict[str, Measures]:
    """By run the measures on request that its chains hold; one entry for every combination that occurs."""
    found: dict[str, set[tuple[str, ...]]] = {}
    columns = ["run", "token_ids", "token_attends_step", "peak_token", "nll_given_all", "state_layers", "top_id"]
    columns += ["gradient_target"]
    for table in store.tables(columns, rows=2_000):
        size = {name: pc.list_value_length(table[name]) for name in columns[1:]}
        length = np.maximum(size["token_ids"].to_numpy(), 1)

        def each(name: str, size: Mapping[str, Any] = size, length: Any = length) -> Any:
            return size[name].fill_null(0).to_numpy() // length

        layers = table["state_layers"].to_pylist()
        rows = zip(
            table["run"].to_pylist(),
            size["token_attends_step"].is_valid().to_pylist(),
            each("peak_token").tolist(),
            size["nll_given_all"].is_valid().to_pylist(),
            each("top_id").tolist(),
            [tuple(row or ()) for row in layers],
            size["gradient_target"].is_valid().to_pylist(),
            strict=True,
        )
        for run, attends, peaks, premises, top, states, gradients in set(rows):
            said = (
                *(("token attention",) if attends else ()),
                *((f"peaks {peaks}",) if peaks else ()),
                *(("premises",) if premises else ()),
                *((f"top {top}",) if top else ()),
                *((f"states {','.join(map(str, states))}",) if states else ()),
                *(("gradients",) if gradients else ()),
            )
            found.setdefault(run, set()).add(said)
    return {run: frozenset(said) for run, said in found.items()}


def _take_shards(parts: Sequence[TraceStore], traces: TraceStore, merged: Merged, progress: Progress) -> None:
    """Copy shards as they are; of a shard that shares chains with what is here only the others, as a shard of their own."""
    here, held = set(traces.shard_names()), traces.keys()
    progress.begin("merging", sum(len(part.shard_names()) for part in parts))
    for part in parts:
        runs = part.runs()
        names = {run.name for run in traces.runs().values() if run.name}
        for run in sorted(_held_runs(part)):
            notes = {key: value for key, value in runs[run].notes.items() if key != CALIBRATION}
            if runs[run].name in names and run not in traces.runs():
                merged.notes.append(
                    f"run {run} of {part.home} has the name {runs[run].name!r}, which another run has: it came without its name"
                )
                notes.pop("name")
            traces.put_run(replace(runs[run], notes=notes))
        for name in part.shard_names():
            keys = part.shard_keys(name)
            fresh = set(keys) - held
            if name in here:
                merged.known += len(keys)
            elif len(fresh) == len(keys):
                data = part.shard_data(name)
                traces.adopt(Path(name).stem, data)
                merged.shards, merged.bytes = merged.shards + 1, merged.bytes + len(data)
            else:
                kept = _compared(part, name, fresh, traces, merged)
                if kept:
                    traces.write(kept)
                    merged.shards += 1
            merged.chains += len(fresh)
            held |= fresh
            progress.advance(1)


def _compared(
    part: TraceStore, name: str, fresh: set[tuple[str, str]], traces: TraceStore, merged: Merged
) -> list[Trace]:
    """The rows of a shard that are fresh, each once. The others are compared with those that are here."""
    kept: dict[tuple[str, str], Trace] = {}
    twice: dict[str, dict[str, bytes]] = {}
    for trace in part.shard(name):
        key = (trace.chain.id, trace.run)
        if key in fresh:
            kept.setdefault(key, trace)
        else:
            twice.setdefault(trace.run, {})[trace.chain.id] = row_digests(trace)[1]
    for run, digests in twice.items():
        merged.known += len(digests)
        merged.differing += sum(digests[chain] != digest for chain, digest in traces.digests(run, digests.keys()))
    return list(kept.values())


def _take_corrections(part: TraceStore, traces: TraceStore, merged: Merged) -> None:
    theirs, ours = part.corrections(), traces.corrections()
    if both := [chain for chain in theirs if chain in ours and theirs[chain] != ours[chain]]:
        merged.notes.append(
            f"{counted(len(both), 'chain was', 'chains were')} corrected differently in {part.home} "
            f"({both[0]}, …): those that were here stay"
        )
    if new := {chain: one for chain, one in theirs.items() if chain not in ours}:
        traces.put_corrections(new)
        merged.corrections += len(new)


def _take_variants(part: TraceStore, traces: TraceStore) -> Iterator[Path]:
    """Copy the files of variants that are not here; a file is named by the run, the options and the chains it came from."""
    for path in sorted((part.home / "variants").glob("v*.parquet")):
        to = traces.variant_file(path.stem)
        rejected = path.with_name(f"{path.stem}.rejected.jsonl")
        if to.exists():
            continue
        to.parent.mkdir(exist_ok=True)
        if rejected.is_file():
            write_atomic(to.with_name(rejected.name), rejected.read_bytes())
        write_atomic(to, path.read_bytes())
        yield to


def merged_lines(merged: Merged) -> Iterator[str]:
    """What a merge did, as a person reads it."""
    yield from (f"note        {note}" for note in merged.notes)
    yield f"merged      {', '.join(merged.homes)}"
    yield f"shards      {merged.shards:,} came, {counted(merged.bytes, 'byte')} copied as they were"
    known = f"; {merged.known:,} were here" if merged.known else ""
    yield f"chains      {counted(merged.chains, 'measured chain came', 'measured chains came')}{known}"
    if merged.differing:
        yield (
            f"differing   {counted(merged.differing, 'chain has', 'chains have')} other numbers in a "
            "home that was named later; those that were here "
            "first stay"
        )
    if merged.corrections or merged.variants:
        yield f"besides     {counted(merged.corrections, 'corrected chain')}, {counted(merged.variants, 'file')} of variants"
    if merged.graph:
        yield f"graph       {counted(merged.loaded, 'chain')} loaded into {merged.graph}"
    yield "            results of analyses counted one home's chains and do not come along: run their commands again"
    yield f"next        trails verify --home {merged.home}"


__all__ = ["Merged", "merge", "merged_lines"]
