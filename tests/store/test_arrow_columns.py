"""The engine writes the same bytes from our frames as from those of pandas."""

from __future__ import annotations

import itertools
import math

import kglite
import pyarrow as pa
import pytest
from tests.store.factory import corpus, make_run

from trails.schema import RELATIONSHIP
from trails.store.frames import Frame
from trails.store.rows import graph_batch

LONG = 1_300
"""Rows of more than a sample of text."""


def columns() -> dict[str, pa.ChunkedArray]:
    """Every type that a property has, with and without missing values."""
    words = ["", " ", "\t a", "если", "x" * 300, "🜁\u0301", "it's"]

    def each(values: list[object], type_: pa.DataType) -> pa.ChunkedArray:
        return pa.chunked_array([pa.array((values * LONG)[:LONG], type_)])

    return {
        "id": pa.chunked_array([pa.array([f"t:{i}" for i in range(LONG)])]),
        "same": each(["run"], pa.string()),
        "same_or_none": each(["run", None], pa.string()),
        "few": each(words, pa.string()),
        "few_or_none": each([*words, None], pa.string()),
        "many_or_none": pa.chunked_array([pa.array([f" {i} " if i % 3 else None for i in range(LONG)])]),
        "late": pa.chunked_array([pa.array([None] * (LONG - 1) + ["one"], pa.string())]),
        "whole": each([0, -1, 2**53 + 1, -(2**63), 2**63 - 1], pa.int64()),
        "whole_or_none": each([0, None, 2**53 + 1, 2**63 - 1], pa.int64()),
        "number": each([0.1, -0.0, 1e-320, 3.0, -math.inf], pa.float64()),
        "number_or_none": each([0.1, None, math.nan, 3.0], pa.float64()),
        "flag": each([True, False], pa.bool_()),
        "flag_or_none": each([True, None, False], pa.bool_()),
        "numbers": each([[0.5, 1.0], [], [-2.0]], pa.list_(pa.float64())),
        "numbers_or_none": each([[0.5, 1.0], None, [2.0, None]], pa.list_(pa.float64())),
        "texts": each([["a", " b"], []], pa.list_(pa.string())),
        "integers_or_none": each([[1, 2], None], pa.list_(pa.int64())),
        "nothing": each([None], pa.string()),
    }


def from_pandas(table: pa.Table) -> object:
    """The frame of pandas that says the same: integers beside missing values stay integers."""
    kept = [name for name in table.column_names if table[name].null_count < len(table)]
    return table.select(kept).to_pandas(integer_object_nulls=True)


def written(nodes: pa.Table, edges: pa.Table, *, ours: bool) -> bytes:
    """The bytes of a graph of these nodes and edges."""
    graph = kglite.KnowledgeGraph()
    for table in (nodes.slice(0, 700), nodes.slice(700)):
        graph.add_nodes(Frame(table) if ours else from_pandas(table), "Token", "id", column_types=lists(table, ours))
    for table in (edges.slice(0, 700), edges.slice(700)):
        rows = Frame(table) if ours else from_pandas(table)
        graph.add_relationships(rows, "NEXT", "Token", "start", "Token", "end", column_types=lists(table, ours))
    return bytes(graph.to_bytes())


def lists(table: pa.Table, ours: bool) -> dict[str, str]:
    return Frame(table).lists if ours else {}


@pytest.mark.parametrize("chunks", [1, 7])
def test_every_type_is_written_to_the_same_bytes(chunks: int) -> None:
    whole = pa.table(columns())
    cut = [i * LONG // chunks for i in range(chunks + 1)]
    nodes = pa.concat_tables([whole.slice(a, b - a) for a, b in itertools.pairwise(cut)])
    later = pa.chunked_array([pa.array([f"t:{(i + 1) % LONG}" for i in range(LONG)])])
    edges = nodes.rename_columns(["start", *nodes.column_names[1:]]).add_column(1, "end", later)
    assert written(nodes, edges, ours=True) == written(nodes, edges, ours=False)


def test_chains_are_written_to_the_same_bytes() -> None:
    run = make_run()
    batch = graph_batch(corpus(), {run.id: run}, per_layer=True)
    made = []
    for ours in (True, False):
        graph = kglite.KnowledgeGraph()
        for label, table in batch.nodes.items():
            graph.add_nodes(Frame(table) if ours else from_pandas(table), label, "id", column_types=lists(table, ours))
        for name, table in batch.relationships.items():
            of = RELATIONSHIP[name]
            rows = Frame(table) if ours else from_pandas(table)
            graph.add_relationships(
                rows, of.type, of.start, "start", of.end, "end", column_types=lists(table, ours), distinct=True
            )
        made.append(bytes(graph.to_bytes()))
    assert made[0] == made[1]
