"""A page that is sent by mail names no folder of the machine that wrote it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.report.test_analysis_page import report_of
from tests.report.test_report import RUN, contents, folders_named, read_back
from tests.store.factory import corpus

from trails.report import portable
from trails.report.analysis import write_analysis
from trails.report.html import write_report
from trails.report.portable import without_folders


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user ``nina eve`` in the working folder ``my work``."""
    work = tmp_path / "nina eve" / "my work"
    work.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "nina eve"))
    monkeypatch.setattr(portable.tempfile, "gettempdir", lambda: str(tmp_path / "scratch"))
    monkeypatch.chdir(work)
    return tmp_path


def test_a_path_becomes_the_name_of_its_file(place: Path) -> None:
    user = f"{place}/nina eve"
    for text, told in (
        (
            f"to go on: edit {user}/my work/thought/block.stellator and run",
            "to go on: edit thought/block.stellator and run",
        ),
        (f"{user}/my work", "."),
        (
            f"trails diff '{user}/old runs/a.jsonl' -o {place}/scratch/b c/d",
            "trails diff '~/old runs/a.jsonl' -o b c/d",
        ),
        (f"in {user}, and {user}/", "in ~, and ~"),
        (f"{place}/scratch", "scratch"),
        (f"read {place}/other/x.json: no such file", "read x.json: no such file"),
        ("--home=/usr/share/x --model /usr/lib", "--home=x --model lib"),
        (r"C:\Users\nina\x.jsonl, \\server\share\y z", "x.jsonl, y z"),
    ):
        assert without_folders(text) == told, text
    for text in ("and/or", "1/2", "/2", "c0123456789abcdef:3/4", "https://example.org/usr/x", "</script>", "a / b", "./x/y",
                 "~/x", "“/usr/bin/env is a path”", "thought/block.stellator", r"\n"):  # fmt: skip
        assert without_folders(text) == text, text


def test_no_page_names_a_folder_of_the_machine(place: Path) -> None:
    trace = corpus(1, RUN)[0]
    file = place / "r.html"
    user = f"{place}/nina eve"
    paths = [f"{user}/my work/a.jsonl", f"of {user}/b", f"in {place}/c", f"{place}/scratch/d e", f"{place}/e"]
    report = report_of(paths, trace.chain.id, trace.n_tokens)
    inner = report.parts["part"]
    assert inner is not None
    bare = replace(report, tables=(), parts={"part": replace(inner, tables=())})
    write_analysis(file, bare, RUN, [trace], subtitle=paths[1], left_out=paths)
    assert folders_named(file) == []
    assert contents(file)[0]["report"]["facts"] == {"fact": "in c", "whole": 7}
    write_report(file, [trace], RUN, title=paths[0], subtitle=paths[1], left_out=paths, overwrite=True)
    assert folders_named(file) == []
    assert contents(file)[0]["title"] == "a.jsonl"
    # a text of a chain stays: in a table only a path as a whole is one
    write_analysis(file, report, RUN, [trace], overwrite=True)
    assert [row[1] for row in read_back(file)[0]["report"]["tables"][0]["rows"]] == ["a.jsonl", *paths[1:3], "d e", "e"]


@pytest.mark.slow
def test_page_and_card_name_a_file_of_a_selection_without_its_folder(
    trails: Any, chains_file: Path, tmp_path: Path
) -> None:
    trails("ingest", chains_file)
    (tmp_path / "mine.cypher").write_text("MATCH (c:Chain) RETURN c", encoding="utf-8")
    trails("report", tmp_path / "mine.cypher", "-o", tmp_path / "r.html")
    assert contents(tmp_path / "r.html")[0]["title"] == "trails: mine.cypher"
    assert folders_named(tmp_path / "r.html") == []
    trails("export", "--subgraph", tmp_path / "mine.cypher", "--format", "messages", "-o", tmp_path / "rows.jsonl")
    (card,) = tmp_path.glob("rows*.md")
    said = card.read_text(encoding="utf-8")
    assert "```\nmine.cypher\n```" in said
    assert str(tmp_path) not in said
