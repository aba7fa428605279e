"""Runs the command line in this process, as the console script does, and gives back what a user sees."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from trails.__main__ import main


@dataclass(frozen=True)
class Outcome:
    """Exit code and output of one command."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def trails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """``trails("ingest", path)`` in an empty folder with the uniform model and the home ``home`` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRAILS_MODEL", "uniform")
    monkeypatch.setenv("TRAILS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: object, code: int | None = 0) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["trails", *map(str, arguments)])
        capfd.readouterr()
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capfd.readouterr()
        outcome = Outcome(status, captured.out, captured.err)
        assert "Traceback" not in outcome.err, (arguments, outcome.err)
        if code is not None:
            assert outcome.code == code, outcome
        return outcome

    return run


@pytest.fixture
def chains_file(tmp_path: Path) -> Path:
    """Four chains; the first two share a step, the last is Russian with the canonical roles."""
    rows = [
        {"question": "Is 8 even?", "answer": "If 8 is divisible by 2, then it is even.\nSo 8 is even.\n#### yes"},
        {"question": "Is 9 even?", "answer": "If 9 is divisible by 2, then it is even.\nBut 9 is odd.\n#### no"},
        {"question": "What is 2+2?", "answer": "2 + 2 = <<2+2=4>>4.\n#### 4"},
        {
            "question": "Пойдёт ли дождь?",
            "answer": "Если тучи тёмные, тогда будет дождь.\nНо ветер сильный.\nСледовательно, дождь пройдёт.\n#### да",
        },
    ]
    path = tmp_path / "chains.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
