"""No output replaces a part of a home, a device or a pipe, whatever ``--overwrite`` says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from trails.errors import UsageError
from trails.store.outputs import OWN, check_output


def test_a_part_of_a_home_is_no_output(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "shards").mkdir(parents=True)
    (tmp_path / "link").symlink_to(home, target_is_directory=True)
    check_output(home / "graph.kgl")  # no home yet
    (home / "trails.json").write_text("{}")
    for name in sorted(OWN):
        for path in (home / name, home / name / "x.parquet", tmp_path / "link" / name, home / "shards" / ".." / name):
            with pytest.raises(UsageError, match=r"is a part of the home .*home\. Choose another name"):
                check_output(path)
    for path in (home / "report.html", tmp_path / "shards", home / "pages" / "runs", home):
        check_output(path)


def test_a_device_a_pipe_and_a_link_are_no_output(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for path, kind in ((tmp_path / "pipe", "a pipe"), (Path(os.devnull), "a device")):
        with pytest.raises(UsageError, match=f"is not a file but {kind}.*Choose another name"):
            check_output(path)
    with pytest.raises(UsageError, match="link is a link to .*file, and a link is not replaced"):
        check_output(tmp_path / "link")
    with pytest.raises(UsageError, match="not written to standard output"):
        check_output(Path("-"))
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file", tmp_path / "new"):
        check_output(path)


@pytest.mark.slow
def test_every_command_that_writes_a_file_refuses_them(trails: Any, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    home = tmp_path / "home"
    os.mkfifo(tmp_path / "pipe.parquet")
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    shard = next((home / "shards").iterdir())
    for target, why in ((home / "graph.kgl", "part of the home"), (tmp_path / "pipe.parquet", "a pipe")):
        for command in (
            ("report", "-o", target),
            ("gaps", "--html", target),
            ("show", "#1", "--svg", target),
            ("show", "#1", "--png", target),
            ("export-graph", "all", "--format", "gexf", "-o", target),
            ("export-graph", "all", "--format", "parquet", "-o", target),
            ("roles", "export", "-o", target),
            ("genome", "init", target),
        ):
            assert why in trails(*command, "--overwrite", code=2).err, command
    assert (
        "a pipe"
        in trails(
            "export", "--subgraph", "all", "--format", "trails", "-o", tmp_path / "pipe.parquet", "--overwrite", code=2
        ).err
    )
    assert (
        "part of the home"
        in trails("export", "--subgraph", "all", "--format", "trails", "-o", shard, "--overwrite", code=2).err
    )
    assert "standard output" in trails("report", "-o", "-", code=2).err
    assert {path: path.read_bytes() for path in home.rglob("*") if path.is_file()} == before
    (tmp_path / "gone.html").symlink_to(tmp_path / "nowhere.html")
    assert "is not replaced" in trails("report", "-o", tmp_path / "gone.html", "--overwrite", code=2).err
