"""Results of analyses in the graph: written under the scope of their home, kept across a rebuild, taken away with it."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trails.pipeline.progress import Progress
from trails.platform.files import replacing
from trails.schema import NODE, NODES, RELATIONSHIP, RELATIONSHIPS, fitting_runs
from trails.store.base import GraphBatch, GraphStore
from trails.store.digest import TRACE_TABLES
from trails.store.rows import own_rows, table_schema
from trails.store.scope import OWNED, Scope, has_rows, now, owner_mark
from trails.store.traces import TraceStore

RESULT_NODES = tuple(node for node in NODES if node.label not in TRACE_TABLES and node.label not in ("Variant", "Home"))
RESULT_RELATIONSHIPS = tuple(
    r for r in RELATIONSHIPS if r.name not in TRACE_TABLES and r.start not in ("Variant", "Home")
)
"""What analyses put into the graph; variants have files of their own in the home."""
_SCOPED = {node.label for node in RESULT_NODES if node.scoped}


def write_results(graph: GraphStore, batch: GraphBatch, scope: Scope) -> bool:
    """Put results of an analysis in the place of those of the same scope; whether anything was written.

    An analysis that has nothing to write deletes nothing: what an earlier one of the same scope found stays, with its date.
    """
    if not has_rows(batch):
        return False
    graph.ensure_schema()
    graph.clear([scope.id])
    graph.write([scope.put(batch)])
    graph.save()
    return True


def results_of(graph: GraphStore, home: str = "") -> dict[str, pa.Table]:
    """The results of analyses that a graph holds, by label and relationship; with ``home`` only those of this home, and answers
    (:data:`~trails.store.scope.OWNED`) that do not say whose they are.
    """
    tables = {}
    counts = graph.counts()
    for node in RESULT_NODES:
        if counts.get(node.label):
            columns = ", ".join(f"n.`{p.name}` AS `{p.name}`" for p in node.properties)
            match = f"MATCH (n:{node.label}){_of_home(home, n=node.label)} RETURN {columns}"
            tables[node.label] = _read(graph, node.label, match, home)
    for of in RESULT_RELATIONSHIPS:
        if counts.get(of.name):
            columns = ", ".join(
                ["a.id AS start", "b.id AS end", *(f"r.`{p.name}` AS `{p.name}`" for p in of.properties)]
            )
            where = _of_home(home, a=of.start, b=of.end, r=of.name)
            match = f"MATCH (a:{of.start})-[r:{of.type}]->(b:{of.end}){where} RETURN {columns}"
            tables[of.name] = _read(graph, of.name, match, home)
    return {name: table for name, table in tables.items() if len(table)}


def _of_home(home: str, **parts: str) -> str:
    """The condition that a row is this home's; ``parts`` are the variables of a match with what they are. Empty where every
    home's rows are asked for, and where nothing in a row says whose it is.
    """
    for variable, name in parts.items() if home else ():
        declared = RELATIONSHIP[name] if name in RELATIONSHIP else NODE[name]
        if declared.scoped:
            return f" WHERE {variable}.home = $home"
        if name in OWNED:
            return f" WHERE ({variable}.id ENDS WITH $mark OR NOT {variable}.id CONTAINS '@')"
    return ""


def _read(graph: GraphStore, name: str, statement: str, home: str) -> pa.Table:
    given = {name: value for name, value in (("home", home), ("mark", owner_mark(home))) if f"${name}" in statement}
    found = graph.run(statement, given, timeout_s=86_400.0, max_rows=2**31 - 2, trusted=True)
    schema = table_schema(name)
    columns = own_rows(name, [[row[i] for row in found.rows] for i in range(len(schema))])
    return pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema=schema
    )


def clear_results(
    graph: GraphStore, home: str, runs: Collection[str] | None = None, labels: Collection[str] = ()
) -> list[str]:
    """Remove the results of analyses of a home, or of some of its runs and labels (or types of relationships) only;
    return the labels and types that went.
    """
    scopes: set[str] = set()
    gone: list[str] = []
    counts = graph.counts()
    for node in RESULT_NODES:
        if node.scoped and counts.get(node.label) and (not labels or node.label in labels):
            statement = f"MATCH (n:{node.label}) WHERE n.home = $home RETURN DISTINCT n.scope AS scope, n.run AS run"
            found = graph.run(statement, {"home": home}, timeout_s=86_400.0, max_rows=2**31 - 2, trusted=True).rows
            mine = {scope for scope, run in found if runs is None or run in runs}
            gone += [node.label] if mine else []
            scopes |= mine
    for of in RESULT_RELATIONSHIPS:
        if of.scoped and counts.get(of.name) and (not labels or of.name in labels):
            match = f"MATCH (:{of.start})-[r:{of.type}]->(:{of.end}) WHERE r.home = $home "
            match += "RETURN DISTINCT r.scope AS scope, r.run AS run"
            found = graph.run(match, {"home": home}, timeout_s=86_400.0, max_rows=2**31 - 2, trusted=True).rows
            mine = {scope for scope, run in found if runs is None or run in runs}
            gone += [of.name] if mine else []
            scopes |= mine
    if scopes:
        graph.clear(sorted(scopes))
    return gone


def keep_results(folder: Path, graph: GraphStore, home: str) -> None:
    """Write :func:`results_of` a home into its folder ``results``, one file a table. A folder that an interrupted rebuild left
    stays as it is: the graph holds no more than that.
    """
    place = folder / "results"
    if place.is_dir() or not (tables := results_of(graph, home)):
        return
    building = folder / "results.tmp"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(mode=0o700)
    for name, table in tables.items():
        with replacing(building / f"{name}.parquet") as path:
            pq.write_table(table, path)
    building.rename(place)


def restore_results(
    tables: Mapping[str, pa.Table], graph: GraphStore, progress: Progress, traces: TraceStore | None = None
) -> None:
    """Put results of analyses back, without those about chains that are gone; ``progress`` is told what goes. With ``traces``
    results of a graph of an earlier format, which do not say whose they are, become those of this home.
    """
    chains = {chain for chain, _ in graph.loaded()}
    nodes: dict[str, pa.Table] = {}
    gone: dict[str, int] = {}
    known: dict[str, set[str]] = {}
    for node in RESULT_NODES:
        if node.label in tables:
            table = tables[node.label]
            if "chain" in table.column_names:
                # the response of a text of its own belongs to no chain
                there = pc.is_in(table["chain"], value_set=pa.array(sorted(chains), pa.string()))
                table = table.filter(pc.or_(there, pc.is_null(table["chain"])))
            gone[node.label] = len(tables[node.label]) - len(table)
            nodes[node.label] = table
            known[node.label] = set(table["id"].to_pylist())
    relationships = {}
    for relationship in RESULT_RELATIONSHIPS:
        if relationship.name in tables:
            table = tables[relationship.name]
            for end, label in (("start", relationship.start), ("end", relationship.end)):
                ids = table[end].to_pylist()
                named = known.get(label, set() if label in _SCOPED else chains)
                keep = [(i if label in _SCOPED else i.split(":")[0]) in named for i in ids]
                table = table.filter(pa.array(keep, pa.bool_()))
            gone[relationship.name] = len(tables[relationship.name]) - len(table)
            relationships[relationship.name] = table
    batch = GraphBatch(nodes, {name: table for name, table in relationships.items() if len(table)})
    if tables:
        graph.write(_owned(batch, traces) if traces is not None else [batch])
        graph.save()
    lost = ", ".join(f"{count:,} {name}" for name, count in gone.items() if count)
    kept = ", ".join(f"{len(table):,} {name}" for name, table in nodes.items() if len(table))
    if kept:
        progress.note(f"results of analyses kept: {kept}")
    if lost:
        progress.note(f"results of analyses about chains that are gone: {lost}")


def _owned(batch: GraphBatch, traces: TraceStore) -> Iterator[GraphBatch]:
    """The batch, with an owner for the rows that have none: this home, and the run that they name or the home's only run."""
    tables = {**batch.nodes, **batch.relationships}
    if not any("scope" in table.column_names and table["scope"].null_count for table in tables.values()):
        yield batch
        return
    plain = fitting_runs(traces.runs())
    only = plain[0].id if len(plain) == 1 else ""
    owner = Scope(traces.identity().id, "an earlier format", only, {}, date=now())
    done: set[str] = set()
    for run in sorted({run or only for table in batch.nodes.values() for run in _runs_in(table)} | {only}):
        nodes = {}
        for label, table in batch.nodes.items():
            of_run = [(value or only) == run for value in _runs_in(table)]
            nodes[label] = table.filter(pa.array(of_run, pa.bool_()))
        ids = {label: set(table["id"].to_pylist()) for label, table in nodes.items()}
        relationships = {}
        for name, table in batch.relationships.items():
            declared = RELATIONSHIP[name]
            keep = [
                (declared.start not in ids or a in ids[declared.start])
                and (declared.end not in ids or b in ids[declared.end])
                for a, b in zip(table["start"].to_pylist(), table["end"].to_pylist(), strict=True)
            ]
            if name in done and not {declared.start, declared.end} & set(ids):
                continue
            done.add(name)
            relationships[name] = table.filter(pa.array(keep, pa.bool_()))
        yield replace(owner, run=run).put(GraphBatch(nodes, {n: t for n, t in relationships.items() if len(t)}))


def _runs_in(table: pa.Table) -> list[str | None]:
    return table["run"].to_pylist() if "run" in table.column_names else [None] * len(table)
