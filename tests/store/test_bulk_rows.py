"""The files of a bulk import hold every row once, however many runs measured a chain."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.store.factory import corpus, make_run

from trails.store.bulk import write_bulk
from trails.store.digest import graph_digest
from trails.store.rows import graph_batch


@pytest.mark.slow
def test_every_row_is_written_once(tmp_path: Path) -> None:
    runs = {run.id: run for run in (make_run("one"), make_run("two"), make_run("three", tokenizer="abadcafe" * 8))}
    batches = [graph_batch(corpus(6, run), runs) for run in runs.values()]
    files = write_bulk(batches, tmp_path / "files")
    expected = {name: len(table.keys) for name, table in graph_digest(batches).tables.items()}
    assert files.rows == {name: count for name, count in expected.items() if count}
