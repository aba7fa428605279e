"""``trails show`` of an awkward text at three widths: every character of every step is there, nothing is cut."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from rich.cells import cell_len

TEXT = (
    "If 👩\u200d🚀 flies\tthen x is 3.5. But e\u0301te\u0301 and 小明有3个苹果 hold here.\r\n"
    "Следовательно, дождь пройдёт над городом и заполнит все 1234567890123 водоёмов.\n"
    "\u202eTherefore it is \x1b[31mred\x1b[0m [bold]so[/b] and https://example.org/" + "a" * 90 + " as long as it is."
)


@pytest.fixture
def awkward(trails, tmp_path: Path) -> str:
    path = tmp_path / "awkward.jsonl"
    path.write_text(json.dumps({"id": "1", "question": "word " * 200, "chain": TEXT, "answer": "да"}), encoding="utf-8")
    trails("ingest", path)
    return "awkward.jsonl:1"


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 140])
def test_every_character_is_shown(width: int, awkward: str, trails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = trails("show", awkward).out
    flat = re.sub(r"\s+", "", shown)
    for word in TEXT.replace("\u202e", r"\u202e").replace("\x1b", r"\x1b").split():
        assert word in flat
    assert "flies⇥" in flat
    assert "1234567890123" in shown
    assert "(999 characters in all)" in " ".join(shown.split())
    steps = shown[shown.index("#  role") : shown.index("A: ")].splitlines()
    assert max(map(cell_len, steps)) <= width


@pytest.mark.slow
@pytest.mark.parametrize("width", [60, 80, 140])
def test_numbers_stand_below_their_tokens(width: int, awkward: str, trails, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    shown = trails("show", awkward, "--numbers").out
    tokens = trails("show", awkward, "--json").json()["tokens"]
    # the uniform model: ln 256 everywhere
    assert len(re.findall(r"(?<= )5\.55(?= )", shown)) >= len(tokens)
    assert max(cell_len(line) for line in shown.splitlines() if line.startswith("    ")) <= width


@pytest.mark.slow
def test_the_source_s_own_versions_of_a_chain_are_shown_with_their_edits(trails, tmp_path: Path) -> None:
    texts = {"a": "Add 2 and 3.", "b": "Add 2 and 4.", "c": "Something else."}
    rows = [{"id": k, "question": "Why?" if k < "c" else "How?", "answer": text} for k, text in texts.items()]
    (tmp_path / "two.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    trails("ingest", tmp_path / "two.jsonl")
    (version,) = trails("variants", "#1", "--show", "--json").json()
    assert (version["source_id"], version["text"]) == ("b", "Add 2 and [-3-]{+4+}.")
    assert "Add 2 and [-3-]{+4+}." in trails("variants", "#1", "--show").out
    assert "no other chain is a version of this one" in trails("variants", "#3", "--show").out
