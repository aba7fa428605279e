"""What the schema page says beside the declarations holds on a graph with everything in it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pyarrow as pa
import pytest
from tests.contract.world import make_world

from trails.cli import cli
from trails.schema import NODES, RELATIONSHIPS, properties_of
from trails.store.queries import NamedQuery, named_queries

ROOT = Path(__file__).parents[2]
TABLES = [*(node.label for node in NODES), *(r.name for r in RELATIONSHIPS)]


@pytest.fixture(scope="module")
def notes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("schema_notes", ROOT / "scripts" / "schema_notes.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_label_and_type_has_a_writer_that_is_a_command(notes: ModuleType) -> None:
    assert set(notes.WRITTEN) == set(TABLES)
    context = click.Context(cli)
    for table in TABLES:
        for name in ("", *(p.name for p in properties_of(table))):
            words = notes.written_by(table, name).split()
            assert words[0] == "trails"
            command: click.Command = cli
            for word in words[1:]:
                if isinstance(command, click.Group):
                    found = command.get_command(context, word)
                    assert found is not None, words
                    command = found
                elif word.startswith("--"):
                    assert word in {option for p in command.params for option in p.opts}, words


def test_notes_name_properties_that_exist(notes: ModuleType) -> None:
    for name in (*notes.NULL, *notes.BY):
        table, property_ = name.split(".")
        assert property_ in {p.name for p in properties_of(table, per_layer=True)}, name


def test_what_is_null_in_a_graph_is_said_to_be_null_sometimes(notes: ModuleType) -> None:
    world = make_world()
    met = 0
    for batch in (world.batch(), world.analyses()):
        for table, rows in {**batch.nodes, **batch.relationships}.items():
            for column in rows.column_names:
                # results of analyses are made by hand there, with columns left out
                if column not in ("start", "end") and 0 < rows[column].null_count < len(rows):
                    met += 1
                    assert notes.when_null(table, column), (table, column)
    assert met > 20


def fits(value: Any, kind: str) -> bool:
    arrow = {"string": pa.string(), "integer": pa.int64(), "float": pa.float64(), "boolean": pa.bool_()}
    if kind in arrow:
        return type(value) in {"string": (str,), "integer": (int,), "float": (float, int), "boolean": (bool,)}[kind]
    return isinstance(value, list)


def test_examples_are_rows_of_the_declared_shape(notes: ModuleType) -> None:
    assert set(notes.examples()) >= {"Chain", "Step", "Token", "Run", "NEXT", "LEADS_TO", "State", "Gap", "Overlap"}
    for table, row in notes.examples().items():
        kinds = {p.name: p.type for p in properties_of(table, per_layer=True)}
        ends = set() if table in {node.label for node in NODES} else {"start", "end"}
        assert set(row) - ends <= set(kinds), table
        assert all(fits(value, kinds[name]) for name, value in row.items() if name in kinds), row
        # what is absent may be absent
        assert all(notes.when_null(table, name) for name in kinds if name not in row and "by_layer" not in name), table


def test_queries_are_found_by_what_they_read(notes: ModuleType) -> None:
    statement = "MATCH (s:Step {chain: $c})-[x:ATTENDS_TO|LEADS_TO]->(t) WHERE x.mean > 0 RETURN s.text, 'g.score'"
    query = NamedQuery("n", "t", "d", (), (), statement, statement)
    assert notes.uses_of(query) == {
        *(("Step", name) for name in ("", "chain", "text")),
        *((table, name) for table in ("ATTENDS_TO", "TOKEN_ATTENDS_TO", "LEADS_TO") for name in ("", "mean")),
    }
    assert "chain-graph" in notes.queries_for("Step", "index")
    assert "surprise-graph" in notes.queries_for("NEXT", "surprisal")
    assert {name for table in TABLES for name in notes.queries_for(table)} == set(named_queries())
