"""A random model of three layers with a byte tokenizer in a folder, and a home of chains measured with it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.analyses.conftest import build_trace
from tests.measure.families import tiny
from tests.measure.reference import byte_tokenizer

from trails.cli import cli
from trails.config import load_settings
from trails.errors import TrailsError
from trails.measure import open_scorer
from trails.pipeline import IngestOptions, ingest
from trails.readers import ReadOptions

WORDS = ("rain", "grass", "snow", "light", "wind", "stone", "water", "smoke")


def texts(count: int = 8) -> list[dict[str, str]]:
    """Chains of five steps; the words differ between chains."""
    rows = []
    for number in range(count):
        a, b, c = (WORDS[(number + shift) % len(WORDS)] for shift in (0, 3, 5))
        steps = [
            f"If the {a} is {number}, then the {b} is wet.",
            f"But the {c} is dry.",
            f"So {number} is less than {number + 4}.",
            f"Because the {b} moves, the {a} stays.",
            f"Therefore the {a} is not {c}.",
        ]
        rows.append({"question": f"What of the {a}?", "text": " ".join(steps)})
    return rows


def probes(count: int = 6) -> list[dict[str, str]]:
    """Chains that share no 13 bytes in a row with those of :func:`texts`."""
    return [
        {
            "question": f"Who counts {n}?",
            "text": f"Anna counts {n} ships. Yet {n} boats sank. Hence {n + 2} sailors came home.",
        }
        for n in range(11, 11 + count)
    ]


def fillers(count: int = 3) -> list[dict[str, str]]:
    """Long chains of a third source: what length-matched controls are taken from."""
    return [
        {"question": "", "text": " ".join(f"Zebra {k * k + n} jumps over {k} quiet foxes." for k in range(9))}
        for n in range(count)
    ]


def saved_model(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """A random qwen2 with a byte tokenizer, as a folder that trails loads."""
    tiny("qwen2", seed=seed, **({"max_position_embeddings": 2048} | changes)).save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See the module."""
    return saved_model(tmp_path_factory.mktemp("toy") / "toy")


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory, toy_model: Path) -> Path:
    """A home measured with the toy model. Copy it before writing into it."""
    folder = tmp_path_factory.mktemp("toy-home")
    settings = load_settings(home=folder / "home", model=str(toy_model), store="embedded", device="cpu")
    scorer = open_scorer(str(toy_model), device="cpu")
    for name, rows in (("toys", texts()), ("probes", probes()), ("fillers", fillers())):
        file = folder / f"{name}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        ingest([file], settings, IngestOptions(read=ReadOptions(source=name)), scorer=scorer)
    return folder / "home"


@pytest.fixture
def make() -> Callable[..., Any]:
    """Factory of hand-made traces."""
    return build_trace


@dataclass(frozen=True)
class Answer:
    """What a command gave."""

    code: int
    out: str
    error: str

    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def trails(toy_folder: Path, toy_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """``trails("anchors", "c12", code=0)`` on a copy of the toy home; the model is the toy."""
    import shutil

    home = tmp_path / "home"
    shutil.copytree(toy_folder, home)
    monkeypatch.setenv("TRAILS_HOME", str(home))
    monkeypatch.setenv("TRAILS_MODEL", str(toy_model))
    monkeypatch.setenv("TRAILS_DEVICE", "cpu")
    monkeypatch.setenv("COLUMNS", "160")
    sys.stdout.flush()

    def run(*arguments: object, code: int = 0) -> Answer:
        result = CliRunner().invoke(cli, [*map(str, arguments)], catch_exceptions=True)
        error = result.exception
        if isinstance(error, TrailsError):
            found = Answer(error.exit_code, result.stdout, str(error))
        else:
            if error is not None and not isinstance(error, SystemExit):
                raise error
            found = Answer(result.exit_code, result.stdout, result.stderr)
        assert found.code == code, found
        return found

    return run
