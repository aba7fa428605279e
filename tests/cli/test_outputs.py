"""No output replaces a part of a home, a device or a pipe, whatever ``--overwrite`` says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from trails.errors import InputError, UsageError
from trails.platform.files import text_lines
from trails.report.terminal import MEASURES
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


def test_a_device_a_pipe_and_a_link_are_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    for path in (tmp_path, tmp_path / "file", tmp_path / "new", tmp_path / "new" / "newer"):
        check_output(path)
    with pytest.raises(UsageError, match="cannot be written: .*file is a file, not a folder"):
        check_output(tmp_path / "file" / "new")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # the tests may run as root, whom nothing is denied
    for path in (tmp_path, tmp_path / "file", tmp_path / "new" / "newer"):
        with pytest.raises(UsageError, match=f"the folder {tmp_path} may not be written to"):
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


@pytest.mark.slow
def test_no_command_overwrites_a_file_unasked(trails: Any, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    trails("genome", "init", "course.genome.yaml", "--from", tmp_path / "home", "--books", 2, "--stages", 1)
    mine = tmp_path / "mine.html"
    mine.write_text("mine")
    for command in (
        ("report", "-o", mine),
        ("gaps", "--html", mine),
        ("show", "#1", "--svg", mine),
        ("show", "#1", "--png", mine),
        ("export-graph", "all", "--format", "gexf", "-o", mine),
        ("roles", "export", "-o", mine),
        ("genome", "init", mine),
        ("genome", "show", "course.genome.yaml", "--html", mine),
        ("genome", "scenes", "course.genome.yaml", "-o", mine),
        ("stellator", "init", mine),
    ):
        assert "exists" in trails(*command, code=2).err, command
        assert mine.read_text() == "mine", command
    trails("genome", "show", "course.genome.yaml", "--html", mine, "--overwrite")
    assert mine.read_text().startswith("<!doctype html>")


def test_a_picture_without_a_value_is_an_error_that_names_what_can_be_drawn(
    trails: Any, chains_file: Path, tmp_path: Path
) -> None:
    trails("ingest", chains_file)
    drawn = {}
    for measure in MEASURES:
        ended = trails("show", "#1", "--measure", measure, "--svg", f"{measure}.svg", code=None)
        drawn[measure] = (tmp_path / f"{measure}.svg").is_file()
        assert ended.code == (0 if drawn[measure] else 2), measure
    with_values = [measure for measure in MEASURES if drawn[measure]]
    assert with_values == ["surprisal", "entropy", "rank", "logit_shift", "margin"]
    said = trails("show", "#1", "--measure", "hidden_shift", "--svg", "x.svg", code=2).err
    assert "there is nothing to draw: hidden_shift is undefined at every token" in said
    assert "(uniform) has no layers. With values: surprisal, entropy, rank, logit_shift, margin" in said


def test_a_home_without_its_shards_says_that_they_are_missing(trails: Any, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    run = trails("chains", "--json").json()[0]["run"]
    for shard in (tmp_path / "home" / "shards").iterdir():
        shard.unlink()
    wanted = f"the home describes 1 run, {run} (uniform), and no shard has a chain of it"
    for command in (
        ("show", "#1"),
        ("show", "#1", "--run", run[:6]),
        ("show", "#1", "--run", "nope"),
        ("gaps",),
        ("query", "most-surprising"),
        ("export", "--subgraph", "all", "--format", "trails", "-o", "x.jsonl"),
    ):
        said = trails(*command, code=2).err
        assert wanted in said, command
        assert "shards are missing: put them back" in said
    assert wanted in trails("chains").err


def test_a_file_that_is_no_text_is_named_with_its_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(b'{"chain": "c"}\n\xff\xfe\x00\n')
    lines = text_lines(bad)
    assert next(lines) == (1, '{"chain": "c"}')
    with pytest.raises(InputError, match=r"bad.jsonl:2: not text in UTF-8 \(byte 0 of the line\)"):
        next(lines)


@pytest.mark.slow
def test_what_a_training_reads_is_named_where_it_is_damaged(trails: Any, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    trails("export", "--subgraph", "all", "--format", "trails", "-o", "rows.jsonl")
    rows = (tmp_path / "rows.jsonl").read_bytes().splitlines(keepends=True)
    for name, data, said in (
        ("bytes.jsonl", b"\xff\xfe\x00", "bytes.jsonl:1: not text in UTF-8"),
        ("later.jsonl", rows[0] + b'{"chain": "\xff"}\n', "later.jsonl:2: not text in UTF-8"),
        ("half.jsonl", rows[0] + rows[1][:40], "half.jsonl:2: not JSON"),
        ("empty.jsonl", b"", "empty.jsonl holds no rows"),
        ("bytes.parquet", b"\xff\xfe\x00", "bytes.parquet cannot be read as an export"),
        ("empty.parquet", b"", "empty.parquet cannot be read as an export"),
    ):
        (tmp_path / name).write_bytes(data)
        ended = trails("train", name, "-o", "adapter", code=None)
        assert said in ended.err, (name, ended.err)
        assert ended.code in (2, 3)
    (tmp_path / "ids.txt").write_text("v1\n")
    line = ("export", "--subgraph", "all", "--format", "trails", "-o", "x.jsonl", "--refuse", "ids.txt", "--variants")
    assert "bytes.parquet is not a file of variants" in trails(*line, "bytes.parquet", code=2).err
