"""A selection as a graph in files of other programs: GEXF 1.3 (Gephi), GraphML (yEd, networkx), Parquet (neo4j-admin).

The rows are those of :func:`trails.store.rows.graph_batch`, so they follow from the shards: sources, chains, families, steps,
tokens, the run, and every relationship among those that are left. What analyses wrote into a graph is not in them.

XML has no lists and cannot hold control characters. Lists become JSON text there, and a character that XML cannot give back
(a control character, a carriage return, half of a surrogate pair) becomes ``\\uXXXX``. Undefined values are left out; an empty
text is written.
``start`` and ``end`` of steps and tokens are called ``text_start`` and ``text_end``: in GEXF the short names are times.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import networkx as nx
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trails.errors import StoreError, UsageError
from trails.export.files import closing_writer
from trails.export.subgraph import Part, Selection
from trails.platform.files import refused, replacing_folder, write_atomic
from trails.schema import NODE, RELATIONSHIP, Run, Trace, step_key
from trails.store.bulk import importer_rows
from trails.store.outputs import check_output
from trails.store.rows import graph_batch

GraphFormat = Literal["gexf", "graphml", "parquet"]
MAX_ELEMENTS = 1_000_000
"""Nodes and relationships above which XML is refused: the programs that read it hold the whole graph in memory."""

_CHAINS_PER_BATCH = 500
_SHARED = ("Source", "Run", "Family")
_LABELS = {"Chain": "source_id", "Step": "text", "Token": "piece", "Source": "name", "Run": "model", "Family": "name"}
_RENAMED = {"start": "text_start", "end": "text_end"}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class GraphFiles:
    """What was written: rows by label and relationship, and list properties that the format does not hold."""

    path: Path
    format: GraphFormat
    rows: Mapping[str, int]
    left_out: tuple[str, ...]

    @property
    def elements(self) -> int:
        """Nodes and relationships written."""
        return sum(self.rows.values())


def format_of(path: Path, asked: str | None = None) -> GraphFormat:
    """The format asked for, else that of the file's ending. Raises UsageError for an ending that names none."""
    endings: dict[str, GraphFormat] = {".gexf": "gexf", ".graphml": "graphml", ".parquet": "parquet", "": "parquet"}
    name = asked or endings.get(path.suffix.lower(), "")
    for known in endings.values():
        if name == known:
            return known
    raise UsageError(
        f"{path}: the ending {path.suffix} names no format. Use .gexf, .graphml, or a folder for Parquet; or give --format"
    )


def write_graph(
    traces: Iterable[Trace],
    run: Run,
    selection: Selection,
    path: Path,
    format: GraphFormat,
    *,
    tokens: bool = True,
    overwrite: bool = False,
) -> GraphFiles:
    """Write the selected part of the traces of one run. ``tokens`` keeps the tokens and their transitions; without them the
    graph has chains, steps and what joins them. GEXF and GraphML are one file, Parquet is a folder of one file a table.

    Of a chain that is selected in part, only the steps and tokens named are there, and the relationships between them.
    Raises UsageError for a target that exists, a selection without a measured chain, or XML of more than
    :data:`MAX_ELEMENTS` elements; StoreError where it cannot be written: then what was there before is as it was, and nothing
    else is left.
    """
    check_free(path, format, overwrite=overwrite)
    if not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {path.parent}")
    tables = _tables(traces, run, selection, tokens=tokens)
    first = next(tables, None)
    if first is None:
        raise UsageError(
            f"selection {selection.text!r} holds no chain that run {run.id} measured. Chains are listed by: trails chains"
        )

    def all_tables() -> Iterator[tuple[str, pa.Table]]:
        yield first
        yield from tables

    try:
        if format == "parquet":
            return _parquet(all_tables(), path)
        return _xml(all_tables(), path, format)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {refused(error)}") from error


def check_free(path: Path, format: GraphFormat, *, overwrite: bool) -> None:
    """Raise UsageError for a target that exists, unless it may be replaced and is of the kind that replaces it, and for what no
    output may replace (:func:`~trails.store.outputs.check_output`)."""
    check_output(path)
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise UsageError(f"{path} exists. Choose another name, or give --overwrite")
    if format != "parquet" and not path.is_file():
        raise UsageError(f"{path} exists and is not a file. Choose another name")
    if format == "parquet":
        ours = {f"{name}.parquet" for name in (*NODE, *RELATIONSHIP)}
        if not path.is_dir() or path.is_symlink():
            raise UsageError(f"{path} exists and is not a folder. Choose another name")
        if strange := sorted(item.name for item in path.iterdir() if item.name not in ours):
            raise UsageError(
                f"{path} exists and holds what this command did not write ({strange[0]}). Choose another name"
            )


def _tables(traces: Iterable[Trace], run: Run, selection: Selection, *, tokens: bool) -> Iterator[tuple[str, pa.Table]]:
    """Rows by label and relationship, block after block, each row once."""
    shared: dict[str, set[str]] = {name: set() for name in _SHARED}
    block: list[Trace] = []

    def flush() -> Iterator[tuple[str, pa.Table]]:
        batch = graph_batch(block, {run.id: run})
        gone = _gone(block, selection, tokens=tokens)
        for name, table in {**batch.nodes, **batch.relationships}.items():
            if name in _SHARED:
                ids = table["id"].to_pylist()
                table = table.filter(pa.array([i not in shared[name] for i in ids], pa.bool_()))
                shared[name] |= set(ids)
            else:
                for column in ("id",) if name in NODE else ("start", "end"):
                    table = table.filter(pc.invert(pc.is_in(table[column], value_set=gone)))
            if len(table):
                yield name, table

    for trace in traces:
        block.append(trace)
        if len(block) == _CHAINS_PER_BATCH:
            yield from flush()
            block = []
    if block:
        yield from flush()


def _gone(traces: Iterable[Trace], selection: Selection, *, tokens: bool) -> pa.Array:
    """Ids of the steps and tokens that are not selected."""
    gone: list[str] = []
    for trace in traces:
        part = selection.part(trace.chain.id) or Part(trace.chain.id)
        spans = [*part.tokens, *(trace.step_tokens[step].tolist() for step in part.steps if step < len(trace.steps))]
        kept = set(range(trace.n_tokens)) if part.whole else {at for a, b in spans for at in range(a, b)}
        if not part.whole:
            touched = {i for i, (a, b) in enumerate(trace.step_tokens.tolist()) if kept & set(range(a, b))} | set(
                part.steps
            )
            gone += [step_key(trace.chain.id, step.index) for step in trace.steps if step.index not in touched]
        gone += [trace.token_id(at) for at in range(trace.n_tokens) if not tokens or at not in kept]
    return pa.array(gone, pa.string())


def _parquet(tables: Iterator[tuple[str, pa.Table]], folder: Path) -> GraphFiles:
    writers: dict[str, pq.ParquetWriter] = {}
    rows: dict[str, int] = {}
    left_out: set[str] = set()
    with replacing_folder(folder) as made, ExitStack() as opened:
        for name, table in tables:
            lists = [field.name for field in table.schema if pa.types.is_list(field.type)]
            left_out |= {f"{name}.{column}" for column in lists}
            prepared = importer_rows(table.drop_columns(lists), name)
            if name not in writers:
                writer = pq.ParquetWriter(made / f"{name}.parquet", prepared.schema)
                writers[name] = opened.enter_context(closing_writer(writer))
            writers[name].write_table(prepared)
            rows[name] = rows.get(name, 0) + len(table)
    return GraphFiles(folder, "parquet", rows, tuple(sorted(left_out)))


def _xml(tables: Iterator[tuple[str, pa.Table]], path: Path, format: GraphFormat) -> GraphFiles:
    graph: Any = nx.MultiDiGraph()
    rows: dict[str, int] = {}
    edges: list[tuple[str, str, dict[str, Any]]] = []
    for name, table in tables:
        rows[name] = rows.get(name, 0) + len(table)
        if sum(rows.values()) > MAX_ELEMENTS:
            raise UsageError(
                f"the selection has more than {MAX_ELEMENTS:,} nodes and relationships, and {format} is read into memory "
                "whole. Select less, leave the tokens out with --no-tokens, or write a folder of Parquet"
            )
        for row in table.to_pylist():
            if name in NODE:
                key = row.pop("id")
                properties = _properties(row)
                label = str(properties.get(_LABELS[name]) or key)
                graph.add_node(_text(key), kind=name, label=label, **properties)
            else:
                start, end = _text(row.pop("start")), _text(row.pop("end"))
                edges.append((start, end, {"kind": RELATIONSHIP[name].type} | _properties(row)))
    for number, (start, end, properties) in enumerate(edges):  # after the nodes, which an edge would else make bare
        graph.add_edge(start, end, key=f"e{number}", **properties)
    if format == "gexf":
        body = "\n".join(nx.generate_gexf(graph, version="1.3"))
    else:  # as generate_graphml does, which ends a line at every carriage return of a text
        writer = nx.GraphMLWriter(encoding="utf-8", prettyprint=True, named_key_ids=True)
        writer.add_graph_element(graph)
        body = str(writer)
    text = f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'
    # a parser reads a bare carriage return as a line feed; the marks of XML hold none
    write_atomic(path, text.replace("\r", "&#13;").encode("utf-8"))
    return GraphFiles(path, format, rows, ())


def _properties(row: Mapping[str, Any]) -> dict[str, Any]:
    """What XML can hold of a row: undefined values are left out."""
    found: dict[str, Any] = {}
    for name, value in row.items():
        if value is None or (isinstance(value, float) and not math.isfinite(value)):
            continue
        if isinstance(value, list):
            value = json.dumps(value)
        found[_RENAMED.get(name, name)] = _text(value) if isinstance(value, str) else value
    return found


def _text(text: str) -> str:
    return _NOT_XML.sub(lambda found: f"\\u{ord(found.group()):04x}", text)
