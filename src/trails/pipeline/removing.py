"""Take chains or a run out of a home: shards, graph, whitening, columns, variants. And give a run a name."""

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
from trails.errors import QueryError, StoreError, UsageError
from trails.pipeline.loading import alone_of, foreign_relationships
from trails.pipeline.results import clear_results
from trails.platform.files import replacing, write_atomic
from trails.schema import RELATIONSHIPS, Run
from trails.store import open_graph
from trails.store.base import GraphStore
from trails.store.resolve import Names, run_of
from trails.store.scope import owner_mark
from trails.store.traces import TraceStore

Kind = Literal["chain", "source", "run", "family"]
KINDS: tuple[Kind, ...] = ("chain", "source", "run", "family")

_COUNTED = {
    "Effect": "MATCH (n:Effect) WHERE n.id ENDS WITH $owner AND (n.run IN $runs OR n.after IN $runs)",
    "Disagreement": "MATCH (n:Disagreement) WHERE n.id ENDS WITH $owner AND any(run IN n.members WHERE run IN $runs)",
    "Response": "MATCH (n:Response)-[:ON]->(c:Chain) WHERE n.id ENDS WITH $owner AND n.run IN $runs AND c.id IN $chains",
}
"""Results of a home without a scope that counted or ranked chains of runs (``owner``: what their ids end with)."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What a removal takes. ``pairs`` are (chain, run); ``chains`` and ``runs`` those of which nothing is left; ``shards`` the
    files that are written again or go; ``derived`` the files of whitening, columns and variants; ``cleared`` the labels of
    analyses that counted the chains and go with them.
    """

    pairs: frozenset[tuple[str, str]]
    chains: tuple[str, ...]
    runs: tuple[str, ...]
    shards: tuple[str, ...]
    derived: tuple[str, ...]
    cleared: tuple[str, ...] = ()


def remove(
    kind: Kind,
    names: Sequence[str],
    settings: Settings | None = None,
    *,
    dry_run: bool = False,
    force: bool = False,
) -> Removal:
    """Remove chains, all chains of sources or families, or runs. With ``dry_run`` nothing changes, and the graph is not
    opened. Relationships of somebody else's that hang on what goes are a UsageError unless ``force`` is given.

    What another home holds, too, stays in a graph that both share. The locks of the home and of the graph are taken first. Then
    the shards are written: a kill leaves a graph that holds more than they do, which ``trails verify`` tells. Maps and overlaps
    counted what is gone, so they go too. Raises UsageError for a name that is not there, StoreError where another process
    writes; then nothing was removed.
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
        if not force and (losses := foreign_relationships(graph, alone_of(traces, graph) & set(plan.chains))):
            raise UsageError(
                f"elements that trails did not write are attached to these chains and would be removed with "
                f"them: {', '.join(losses)}. Nothing was "
                f"removed. Keep it elsewhere, then run: {again} --yes"
            )
        for name in plan.shards:
            traces.rewrite(name, [t for t in traces.shard(name) if (t.chain.id, t.run) not in plan.pairs])
        for path in plan.derived:
            file = traces.home / path
            if path.startswith("variants/"):
                _without_variants(traces, path, plan)
            else:
                file.unlink(missing_ok=True)
        for run in plan.runs:
            (traces.home / "runs" / f"{run}.json").unlink(missing_ok=True)
        cleared = _remove_from_graph(graph, plan, traces.identity().id)
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
    except (StoreError, QueryError, OSError) as error:
        raise StoreError(
            f"{error}. It happened during the removal: shards and graph of {settings.home} may differ. When the "
            f"cause is removed, run: "
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
    columns = [path for run in sorted(touched) if (path := traces.home / "columns" / run).is_file()]
    variants = [
        path for path in sorted((traces.home / "variants").glob("v*.parquet")) if _holds_variants(path, gone, runs_gone)
    ]
    return Removal(
        frozenset(pairs),
        tuple(sorted(gone)),
        tuple(sorted(runs_gone)),
        tuple(traces.shards_of(pairs)),
        tuple(str(path.relative_to(traces.home)) for path in (*whitening, *columns, *variants)),
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


def _remove_from_graph(graph: GraphStore, plan: Removal, home: str) -> tuple[str, ...]:
    """Take from the graph what this home alone holds; what another home holds, too, is only not this home's any more."""
    others = graph.held()
    left = others.pop(home, set()) - plan.pairs
    elsewhere = {pair for pairs in others.values() for pair in pairs}
    chains_elsewhere = {chain for chain, _ in elsewhere}
    gone = sorted(set(plan.chains) - chains_elsewhere)
    shared = {
        (label, name): _ends(graph, name, sorted({chain for chain, _ in plan.pairs}))
        for label, name in (("Source", "FROM"), ("Family", "IN_FAMILY"))
    }
    for run in sorted({run for _, run in plan.pairs}):
        _write(
            graph,
            "UNWIND $chains AS id MATCH (h:Home {id: $home})-[r:HOLDS]->(c:Chain {id: id}) WHERE r.run = $run DELETE r",
            home=home,
            run=run,
            chains=sorted(chain for chain, of in plan.pairs if of == run),
        )
    cleared = clear_results(graph, home, None, ("State", "Overlap", "SIMILAR")) if plan.pairs else []
    # their scores were calibrated on all chains of the run
    cleared += clear_results(graph, home, {run for _, run in plan.pairs}, ("Gap",)) if plan.pairs else []
    cleared += _clear_counted(graph, plan, home)
    graph.delete(gone, home=home)
    known = _tokenizers(graph)
    for run in sorted({run for _, run in plan.pairs} | set(plan.runs)):
        chains = sorted({chain for chain, of in plan.pairs - elsewhere if of == run} - set(gone))
        if chains:
            kept = {chain for chain, of in left | elsewhere if of != run and known.get(of) == known.get(run)}
            _unmeasure(graph, run, chains, known.get(run, ""), [chain for chain in chains if chain not in kept])
        mine = sorted({chain for chain, of in plan.pairs if of == run})
        gaps = "MATCH (n:Gap) WHERE n.run = $run AND n.home = $home AND n.chain IN $chains DETACH DELETE n"
        _write(graph, gaps, run=run, home=home, chains=mine)
        if run in plan.runs and run not in {of for _, of in elsewhere}:
            for label in ("Response", "Effect"):
                _write(graph, f"MATCH (n:{label}) WHERE n.run = $run DETACH DELETE n", run=run)
        if run in plan.runs and run not in {of for _, of in elsewhere}:
            clear_results(graph, home, {run})
            _write(graph, "MATCH (n:Run {id: $run}) DETACH DELETE n", run=run)
    for (label, relationship), ids in shared.items():
        alone = f"MATCH (n:{label}) WHERE n.id IN $ids AND NOT (n)<-[:{relationship}]-() RETURN n.id AS id"
        found = graph.run(alone, {"ids": ids}, timeout_s=86_400.0, max_rows=2**31 - 2, trusted=True)
        if found.rows:
            _write(graph, f"MATCH (n:{label}) WHERE n.id IN $ids DETACH DELETE n", ids=[row[0] for row in found.rows])
    return tuple(cleared)


def _clear_counted(graph: GraphStore, plan: Removal, home: str) -> list[str]:
    """Remove what :data:`_COUNTED` finds of a home; the labels of which there were any."""
    given = {
        "owner": owner_mark(home),
        "runs": sorted({run for _, run in plan.pairs}),
        "chains": sorted({chain for chain, _ in plan.pairs}),
    }
    gone = []
    for label, match in _COUNTED.items():
        # a statement takes the parameters that it names and no others
        parameters = {name: value for name, value in given.items() if f"${name}" in match}
        found = graph.run(f"{match} RETURN count(DISTINCT n) AS n", parameters, timeout_s=86_400.0, trusted=True)
        if found.rows[0][0]:
            _write(graph, f"{match} DETACH DELETE n", **parameters)
            gone.append(label)
    return gone


def _ends(graph: GraphStore, relationship: str, chains: Sequence[str]) -> list[str]:
    """Ids of what these chains lead to by a relationship."""
    statement = f"MATCH (c:Chain)-[:{relationship}]->(n) WHERE c.id IN $chains RETURN DISTINCT n.id AS id"
    found = graph.run(statement, {"chains": list(chains)}, timeout_s=86_400.0, max_rows=2**31 - 2, trusted=True)
    return [row[0] for row in found.rows]


def _tokenizers(graph: GraphStore) -> dict[str, str]:
    """First 8 hex digits of the tokenizer of every run in the graph."""
    found = graph.run("MATCH (r:Run) RETURN r.id AS id, r.tokenizer AS tokenizer", max_rows=2**31 - 2, trusted=True)
    return {run: str(tokenizer or "")[:8] for run, tokenizer in found.rows}


def _unmeasure(
    graph: GraphStore, run: str, chains: Sequence[str], tokenizer: str, without_tokens: Sequence[str]
) -> None:
    """Remove what a run measured of chains that stay in the graph, and the tokens of ``tokenizer`` of those that no other run
    of this tokenizer measured.
    """
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
    if tokenizer and without_tokens:
        _write(
            graph,
            "MATCH (t:Token) WHERE t.chain IN $chains AND t.tokenizer = $tokenizer DETACH DELETE t",
            chains=list(without_tokens),
            tokenizer=tokenizer,
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
        of = run_of(runs, run, "its id: trails rename run ID NAME")
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
