"""Take chains or a run out of a home: shards, graph, whitening, variants. And give a run a name."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from trails.config import Settings, load_settings
from trails.errors import StoreError, UsageError
from trails.platform.files import replacing, write_atomic
from trails.schema import RELATIONSHIPS, Run
from trails.store import open_graph
from trails.store.base import GraphStore
from trails.store.resolve import Names, run_of
from trails.store.traces import TraceStore

Kind = Literal["chain", "source", "run", "family"]
KINDS: tuple[Kind, ...] = ("chain", "source", "run", "family")


@dataclass(frozen=True, slots=True)
class Removal:
    """What a removal takes. ``pairs`` are (chain, run); ``chains`` and ``runs`` those of which nothing is left; ``shards`` the
    files that are written again or go; ``derived`` the files of whitening and variants; ``cleared`` the labels of analyses that
    counted the chains and go with them.
    """

    pairs: frozenset[tuple[str, str]]
    chains: tuple[str, ...]
    runs: tuple[str, ...]
    shards: tuple[str, ...]
    derived: tuple[str, ...]
    cleared: tuple[str, ...] = ()


def remove(kind: Kind, names: Sequence[str], settings: Settings | None = None, *, dry_run: bool = False) -> Removal:
    """Remove chains, all chains of sources or families, or runs. With ``dry_run`` nothing changes.

    The locks of the home and of the graph are taken first. Then the shards are written: a kill leaves a graph that holds more
    than they do, which ``trails verify`` tells. Maps and overlaps counted what is gone, so they go too. Raises UsageError for a
    name that is not there, StoreError where another process writes; then nothing was removed.
    """
    settings = settings or load_settings()
    with TraceStore(settings.home) as traces:
        plan = _plan(traces, kind, names)
    if dry_run:
        return plan
    # numbers (#2) move when a chain goes: what is said to be run again names ids
    ids = sorted({chain for chain, _ in plan.pairs}) if kind == "chain" else list(names)
    again = shlex.join(["trails", "remove", kind, *ids])
    with (
        _alone(settings, f"Nothing was removed. To remove it, run: {again}") as (traces, graph),
        _until_saved(settings),
    ):
        plan = _plan(traces, kind, ids)
        for name in plan.shards:
            traces.rewrite(name, [t for t in traces.shard(name) if (t.chain.id, t.run) not in plan.pairs])
        for path in plan.derived:
            file = traces.home / path
            if path.startswith("variants/"):
                _without_variants(traces, path, plan)
            else:
                file.unlink(missing_ok=True)
        described = traces.runs()
        for run in plan.runs:
            (traces.home / "runs" / f"{run}.json").unlink(missing_ok=True)
        cleared = _remove_from_graph(graph, plan, described)
        graph.save()
    return replace(plan, cleared=cleared)


@contextlib.contextmanager
def _alone(settings: Settings, unchanged: str) -> Iterator[tuple[TraceStore, GraphStore]]:
    """Shards and graph, with both writers' locks held. Raises StoreError that ends with ``unchanged`` where one is not free."""
    with contextlib.ExitStack() as held:
        try:
            traces = held.enter_context(TraceStore(settings.home, write=True))
            graph = held.enter_context(open_graph(settings))
            graph.hold()
        except StoreError as error:
            raise StoreError(f"{error}. {unchanged}") from error
        yield traces, graph


@contextlib.contextmanager
def _until_saved(settings: Settings) -> Iterator[None]:
    """Say for an error of the work inside how graph and shards are brought together again."""
    try:
        yield
    except (StoreError, OSError) as error:
        raise StoreError(
            f"{error}. It happened on the way: shards and graph of {settings.home} may differ. When the cause is gone, run: "
            f"{shlex.join(['trails', 'rebuild', '--fresh', '--home', str(settings.home)])}"
        ) from error


def _plan(traces: TraceStore, kind: Kind, names: Sequence[str]) -> Removal:
    if not names:
        raise UsageError(f"name what to remove, for example: trails remove {kind} NAME")
    held = traces.keys()
    known = Names(traces)
    if kind == "run":
        runs = traces.runs()
        wanted = {run_of(runs, name).id for name in names}
        pairs = {pair for pair in held if pair[1] in wanted}
    else:
        find = {"chain": lambda name: [known.chain(name)], "source": known.of_source, "family": known.of_family}[kind]
        chains = {chain for name in names for chain in find(name)}
        wanted = set()
        pairs = {pair for pair in held if pair[0] in chains}
    left = held - pairs
    gone = {chain for chain, _ in pairs} - {chain for chain, _ in left}
    runs_gone = ({run for _, run in pairs} | wanted) - {run for _, run in left}
    touched = {run for _, run in pairs}
    whitening = [
        path for path in sorted((traces.home / "whitening").glob("*.npz")) if path.name.rsplit("-", 1)[0] in touched
    ]
    variants = [
        path for path in sorted((traces.home / "variants").glob("v*.parquet")) if _holds_variants(path, gone, runs_gone)
    ]
    return Removal(
        frozenset(pairs),
        tuple(sorted(gone)),
        tuple(sorted(runs_gone)),
        tuple(traces.shards_of(pairs)),
        tuple(str(path.relative_to(traces.home)) for path in (*whitening, *variants)),
    )


def _kept_variants(table: pa.Table, gone: set[str], runs: set[str]) -> pa.Table:
    roots = [dict(item)["parent"] for item in table["metadata"].to_pylist()]
    of = table["run"].to_pylist()
    return table.filter(
        pa.array([root not in gone and run not in runs for root, run in zip(roots, of, strict=True)], pa.bool_())
    )


def _holds_variants(path: object, gone: set[str], runs: set[str]) -> bool:
    table = pq.read_table(path, columns=["run", "metadata"])
    return len(_kept_variants(table, gone, runs)) < len(table)


def _without_variants(traces: TraceStore, name: str, plan: Removal) -> None:
    """Write a file of variants, and that of the rejected ones, without those of chains and runs that are gone."""
    path = traces.home / name
    rejected = path.with_name(f"{path.stem}.rejected.jsonl")
    table = pq.read_table(path)
    kept = _kept_variants(table, set(plan.chains), set(plan.runs))
    if not len(kept):
        path.unlink()
        rejected.unlink(missing_ok=True)
        return
    with replacing(path) as temporary:
        pq.write_table(kept, temporary, compression="zstd")
    if rejected.is_file():
        gone = re.compile("|".join(map(re.escape, plan.chains)) or r"(?!)")
        lines = [line for line in rejected.read_text(encoding="utf-8").split("\n") if line and not gone.search(line)]
        assert all(json.loads(line) for line in lines)
        write_atomic(rejected, "".join(f"{line}\n" for line in lines))


def _remove_from_graph(graph: GraphStore, plan: Removal, runs: dict[str, Run]) -> tuple[str, ...]:
    counted = graph.counts()
    graph.delete(plan.chains)
    stays = sorted({chain for chain, _ in plan.pairs} - set(plan.chains))
    gone = set(plan.chains)
    for run in sorted({run for _, run in plan.pairs} | set(plan.runs)):
        chains = sorted({chain for chain, of in plan.pairs if of == run} - gone)
        if chains:
            _unmeasure(graph, run, chains, runs)
        if run in plan.runs:
            _write(graph, "MATCH (n:Gap) WHERE n.run = $run DETACH DELETE n", run=run)
            _write(graph, "MATCH (n:Run {id: $run}) DETACH DELETE n", run=run)
    for label, relationship in (("Source", "FROM"), ("Family", "IN_FAMILY")):
        alone = f"MATCH (n:{label}) WHERE NOT (n)<-[:{relationship}]-() RETURN n.id AS id"
        found = graph.run(alone, timeout_s=86_400.0, max_rows=2**31 - 2, trusted=True)
        if ids := [row[0] for row in found.rows]:
            _write(graph, f"MATCH (n:{label}) WHERE n.id IN $ids DETACH DELETE n", ids=ids)
    cleared = tuple(label for label in ("State", "Overlap") if counted.get(label) and (gone or stays))
    if cleared:
        graph.clear(cleared)
    return cleared


def _unmeasure(graph: GraphStore, run: str, chains: Sequence[str], runs: dict[str, Run]) -> None:
    """Remove what a run measured of chains that other runs keep in the graph."""
    for declared in RELATIONSHIPS:
        if "run" in declared.key and declared.start in ("Chain", "Step", "Token", "Variant"):
            own = "a.id" if declared.start == "Chain" else "a.chain"
            _write(
                graph,
                f"MATCH (a:{declared.start})-[r:{declared.type}]->(b:{declared.end}) "
                f"WHERE r.run = $run AND {own} IN $chains DELETE r",
                run=run,
                chains=list(chains),
            )
    _write(
        graph, "MATCH (n:Gap) WHERE n.run = $run AND n.chain IN $chains DETACH DELETE n", run=run, chains=list(chains)
    )
    mark = f":{runs[run].tokenizer_id}:" if run in runs else ""
    if mark and not any(other.tokenizer_id == runs[run].tokenizer_id for other in runs.values() if other.id != run):
        _write(
            graph,
            "MATCH (t:Token) WHERE t.chain IN $chains AND t.id CONTAINS $mark DETACH DELETE t",
            chains=list(chains),
            mark=mark,
        )


def _write(graph: GraphStore, statement: str, **parameters: object) -> None:
    graph.run(statement, parameters, write=True, timeout_s=86_400.0)


def rename_run(run: str, name: str, settings: Settings | None = None) -> Run:
    """Give a run a name, which is accepted wherever its id is; an empty name takes it away.

    Raises UsageError for a name that another run has, or that looks like an id.
    """
    settings = settings or load_settings()
    with _alone(settings, "The run was not renamed") as (traces, graph):
        runs = traces.runs()
        of = run_of(runs, run)
        name = name.strip()
        if re.fullmatch(r"r[0-9a-f]{1,16}", name):
            raise UsageError(f"{name!r} looks like the id of a run. Give a name with other letters")
        if any(other.name == name and other.id != of.id for other in runs.values() if name):
            raise UsageError(
                f"another run has the name {name!r}: {next(r.id for r in runs.values() if r.name == name)}"
            )
        with _until_saved(settings):
            traces.update_run_notes(of.id, {"name": name})
            _write(graph, "MATCH (r:Run {id: $run}) SET r.alias = $name", run=of.id, name=name or None)
            graph.save()
        return traces.runs()[of.id]
