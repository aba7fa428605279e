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
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trails.errors import StoreError, UsageError
from trails.export.files import closing_writer
from trails.export.subgraph import Part, Selection
from trails.platform.files import refused, replacing, replacing_folder
from trails.schema import NODE, RELATIONSHIP, Run, Trace, step_key
from trails.store.bulk import importer_rows
from trails.store.outputs import check_output
from trails.store.rows import graph_batch

GraphFormat = Literal["gexf", "graphml", "parquet"]
MAX_ELEMENTS = 1_000_000
"""Nodes and relationships above which XML is refused: the programs that read it hold the whole graph in memory."""

_CHAINS_PER_BATCH = 500
_TOKENS_PER_BATCH = 100_000
_ROWS_AT_ONCE = 1_000
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
    progress: Callable[[int], None] = lambda chains: None,
) -> GraphFiles:
    """Write the selected part of the traces of one run, block after block: memory does not grow with the selection.
    ``tokens`` keeps the tokens and their transitions; without them the graph has chains, steps and what joins them. GEXF and
    GraphML are one file, Parquet is a folder of one file a table. ``progress`` is told how many chains were written more.

    Of a chain that is selected in part, only the steps and tokens named are there, and the relationships between them.
    Raises UsageError for a target that exists, a selection without a measured chain, or XML of more than
    :data:`MAX_ELEMENTS` elements; StoreError where it cannot be written or another process is writing it: then what was there
    before is as it was, and nothing else is left.
    """
    check_free(path, format, overwrite=overwrite)
    if not path.parent.is_dir():
        raise UsageError(f"{path} cannot be written: there is no folder {path.parent}")
    tables = _tables(traces, run, selection, tokens=tokens, progress=progress)
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


def _tables(
    traces: Iterable[Trace], run: Run, selection: Selection, *, tokens: bool, progress: Callable[[int], None]
) -> Iterator[tuple[str, pa.Table]]:
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
        progress(len(block))

    size = 0
    for trace in traces:
        block.append(trace)
        size += trace.n_tokens
        if len(block) == _CHAINS_PER_BATCH or size >= _TOKENS_PER_BATCH:
            yield from flush()
            block, size = [], 0
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
    """What begins the file names every property of it, and nodes stand before relationships: both wait in files without a
    name beside it, which end with the process."""
    kind = _Gexf() if format == "gexf" else _GraphMl()
    rows: dict[str, int] = {}
    written = edges = 0
    with (
        replacing(path, alone=True) as temporary,
        tempfile.TemporaryFile(dir=path.parent) as nodes_file,
        tempfile.TemporaryFile(dir=path.parent) as edges_file,
    ):
        for name, table in tables:
            rows[name] = rows.get(name, 0) + len(table)
            written += len(table)
            if written > MAX_ELEMENTS:
                raise UsageError(
                    f"the selection has more than {MAX_ELEMENTS:,} nodes and relationships, and {format} is read into "
                    "memory whole. Select less, leave the tokens out with --no-tokens, or write a folder of Parquet"
                )
            for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
                if name in NODE:
                    lines = [kind.node(name, row) for row in batch.to_pylist()]
                else:
                    lines = [kind.edge(name, row, edges + at) for at, row in enumerate(batch.to_pylist())]
                    edges += len(lines)
                (nodes_file if name in NODE else edges_file).write("".join(lines).encode("utf-8"))
        with temporary.open("wb") as file:
            _joined(file, kind.parts(), (nodes_file, edges_file))
    return GraphFiles(path, format, rows, ())


def _joined(file: IO[bytes], parts: tuple[str, str, str], between: tuple[IO[bytes], IO[bytes]]) -> None:
    for part, held in zip(parts, (*between, None), strict=True):
        file.write(part.encode("utf-8"))
        if held is not None:
            held.seek(0)
            shutil.copyfileobj(held, file, 2**20)


_TYPES: Mapping[type, str] = {str: "string", bool: "boolean", int: "long", float: "double"}


class _Xml:
    """Nodes and relationships as elements. What has a property (``node``, ``edge``), its name and its type are noted at its
    first value: both formats declare them before the first node. A parallel relationship is told apart by its id.
    """

    def __init__(self) -> None:
        self._declared: dict[tuple[str, str, str], str] = {}

    def node(self, name: str, row: dict[str, Any]) -> str:
        """A row of a label, with its kind and a label."""
        key = _text(row.pop("id"))
        properties = _properties(row)
        label = str(properties.get(_LABELS[name]) or key)
        return f'<node id="{_attribute(key)}"{self.held("node", {"kind": name, "label": label} | properties)}</node>\n'

    def edge(self, name: str, row: dict[str, Any], number: int) -> str:
        """A row of a relationship, with its kind."""
        start, end = (_attribute(_text(row.pop(end))) for end in ("start", "end"))
        held = self.held("edge", {"kind": RELATIONSHIP[name].type} | _properties(row))
        return f'<edge id="e{number}" source="{start}" target="{end}"{held}</edge>\n'

    def values(self, of: str, properties: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Of every property the id of its declaration and its value."""
        for name, value in properties.items():
            key = (of, name, _TYPES[type(value)])
            text = str(value).lower() if isinstance(value, bool) else str(value)
            yield self._declared.setdefault(key, f"{of[0]}{len(self._declared)}"), text

    def held(self, of: str, properties: dict[str, Any]) -> str:
        """What stands between the name of an element and its end."""
        raise NotImplementedError

    def parts(self) -> tuple[str, str, str]:
        """What stands before the nodes, between nodes and relationships, and behind them."""
        raise NotImplementedError


class _Gexf(_Xml):
    def held(self, of: str, properties: dict[str, Any]) -> str:
        label = f' label="{_attribute(properties.pop("label"))}"' if of == "node" else ""
        values = (f'<attvalue for="{key}" value="{_attribute(v)}"/>' for key, v in self.values(of, properties))
        return f"{label}><attvalues>{''.join(values)}</attvalues>"

    def parts(self) -> tuple[str, str, str]:
        declared = ""
        for wanted in ("node", "edge"):
            lines = [
                f'<attribute id="{key}" title="{_attribute(name)}" type="{kind}"/>\n'
                for (of, name, kind), key in self._declared.items()
                if of == wanted
            ]
            declared += f'<attributes class="{wanted}" mode="static">\n{"".join(lines)}</attributes>\n'
        return (
            '<?xml version="1.0" encoding="utf-8"?>\n<gexf xmlns="http://gexf.net/1.3" version="1.3">\n'
            f'<meta><creator>trails</creator></meta>\n<graph defaultedgetype="directed" mode="static">\n{declared}<nodes>\n',
            "</nodes>\n<edges>\n",
            "</edges>\n</graph>\n</gexf>\n",
        )


class _GraphMl(_Xml):
    def held(self, of: str, properties: dict[str, Any]) -> str:
        return ">" + "".join(f'<data key="{key}">{_content(v)}</data>' for key, v in self.values(of, properties))

    def parts(self) -> tuple[str, str, str]:
        keys = "".join(
            f'<key id="{key}" for="{of}" attr.name="{_attribute(name)}" attr.type="{kind}"/>\n'
            for (of, name, kind), key in self._declared.items()
        )
        return (
            '<?xml version="1.0" encoding="utf-8"?>\n<graphml xmlns="http://graphml.graphdrawing.org/xmlns">\n'
            f'{keys}<graph edgedefault="directed">\n',
            "",
            "</graph>\n</graphml>\n",
        )


# a parser reads a bare carriage return as a line feed, and every white space of an attribute as a space
_CONTENT = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})
_ATTRIBUTE = _CONTENT | str.maketrans({'"': "&quot;", "\n": "&#10;", "\t": "&#9;"})


def _content(text: str) -> str:
    return text.translate(_CONTENT)


def _attribute(text: str) -> str:
    return text.translate(_ATTRIBUTE)


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
