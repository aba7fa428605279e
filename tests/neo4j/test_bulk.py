"""Files for neo4j-admin, imported by the genuine importer."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from tests.neo4j.servers import PASSWORD, SCRIPT, VERSIONS, own
from tests.store.factory import corpus, make_chain, make_run, make_trace

from trails.errors import StoreError, UsageError
from trails.store.bulk import write_bulk
from trails.store.digest import compare, graph_digest
from trails.store.rows import graph_batch

HARD = 'He said "a,b";\r\nthen \\"x\\" ; | \t and\n\n ""end"" 🍎 it \\ is ;; Мысль\u0000.'


@pytest.mark.neo4j
@pytest.mark.slow
@pytest.mark.parametrize(
    "version", [pytest.param(v, marks=pytest.mark.xdist_group(f"neo4j-{v.lower()}")) for v in VERSIONS]
)
def test_imported_files_have_the_digest_of_the_shards(version: str, tmp_path: Path) -> None:
    one, two, other = make_run("one"), make_run("two"), make_run("three", tokenizer="abadcafe" * 8)
    runs = {run.id: run for run in (one, two, other)}
    hard = [make_trace(make_chain("hard", HARD), one)]
    batches = [
        graph_batch(corpus(6, one) + hard, runs, per_layer=True),
        graph_batch(corpus(6, two), runs, per_layer=True),
        graph_batch(corpus(6, other), runs, per_layer=True),
    ]
    files = write_bulk(batches, tmp_path / "files", per_layer=True)
    expected = graph_digest(batches)
    assert files.elements == sum(len(t.keys) for t in expected.tables.values())
    name = f"test-bulk-{version.lower()}"
    command = files.command((str(SCRIPT), "admin", "--version", version, "--name", name, "--heap", "512m", "--"))
    try:
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        # an instance that was only imported into takes the password at its first start
        with own(version, name=name, password=PASSWORD) as server, server.open() as store:
            assert compare(expected, graph_digest([store.tables()])) == []
            assert store.loaded() == {pair for batch in batches for pair in batch.whole}
            # loading online over the import finds nothing to do
            store.write(batches[1:])
            assert compare(expected, graph_digest([store.tables()])) == []
    finally:
        subprocess.run([str(SCRIPT), "remove", "--name", name], check=True)


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.csv").write_text("x")
    with pytest.raises(StoreError, match="is not empty"):
        write_bulk([], tmp_path)


def test_a_path_that_the_importer_would_read_as_a_pattern_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="patterns"):
        write_bulk([], tmp_path / "a+b")


def test_nothing_to_write_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no measured chains"):
        write_bulk([], tmp_path / "files")
