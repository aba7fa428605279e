"""The same ingest again opens no model; whatever could make it another run does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.train.test_again import run, save_model

from trails.measure.remembered import remember, remembered

RUN = """
import sys
from trails.__main__ import main
try: main()
except SystemExit as stop: code = stop.code
assert not {"torch", "transformers"} & set(sys.modules), "a model library was imported"
sys.exit(code)
"""


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A model and a home of four chains that it measured."""
    monkeypatch.setenv("TRAILS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("TRAILS_HOME", raising=False)
    save_model(tmp_path / "model")
    rows = [{"question": "Why?", "answer": f"If {n} is odd, then so.\nThus even {n} goes on."} for n in range(4)]
    (tmp_path / "chains.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    found = {"home": tmp_path / "home", "model": tmp_path / "model", "chains": tmp_path / "chains.jsonl"}
    assert json.loads(run(*line(found)))["measured"] == 4
    return found


def line(made: dict[str, Path], *more: object) -> list[object]:
    options = ["--home", made["home"], "--model", made["model"], "--device", "cpu", "--json"]
    return ["ingest", made["chains"], *options, *more]


def quickly(made: dict[str, Path], *more: object) -> dict[str, object]:
    """An ingest in a process of its own that must import no model library."""
    command = [sys.executable, "-c", RUN, *map(str, line(made, *more))]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "loading the model" not in done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.slow
def test_where_nothing_is_left_to_do_no_model_is_opened(made: dict[str, Path], tmp_path: Path) -> None:
    whole = json.loads(run("verify", "--home", made["home"], "--json"))
    again = quickly(made)
    assert (again["measured"], again["already_measured"], again["read"]) == (0, 4, 4)
    (made["home"] / "graph.kgl").unlink()
    assert quickly(made)["loaded_from_shards"] == 4, "a lost graph is filled from the shards"
    assert json.loads(run("verify", "--home", made["home"], "--json")) == whole

    # what asks for more, or could be another run, opens the model
    added = json.loads(run(*line(made, "--premises")))
    assert (added["added"], added["run"]) == (4, again["run"])
    assert quickly(made, "--premises")["added"] == 0
    other = json.loads(run(*line(made, "--bos", "never", "--home", tmp_path / "other")))
    assert (other["measured"], other["already_measured"]) == (4, 0)
    settings = made["model"] / "tokenizer.json"
    content = json.loads(settings.read_text(encoding="utf-8"))
    settings.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    assert remembered(str(made["model"]), {}) == ""
    with made["chains"].open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps({"question": "Why?", "answer": "One more.\nSo be it."}))
    assert json.loads(run(*line(made)))["measured"] == 1


def test_the_memory_is_of_these_files_and_these_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAILS_CACHE", str(tmp_path / "cache"))
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    for folder in (model, adapter):
        folder.mkdir()
        (folder / "a.safetensors").write_bytes(b"1234")
    options = {"bos": "auto", "dtype": "float32", "adapter": adapter, "trust_remote_code": False}
    remember("r0123456789abcdef", str(model), options)
    assert remembered(str(model), options) == "r0123456789abcdef"
    assert remembered(str(model), options | {"device": "cuda"}) == "r0123456789abcdef", "the device is no part of a run"
    assert remembered(str(model), options | {"bos": "never"}) == ""
    assert remembered(str(model), options | {"adapter": None}) == ""
    assert remembered(str(model), options | {"trust_remote_code": True}) == ""
    assert remembered("org/name", options) == ""
    (adapter / "a.safetensors").write_bytes(b"12345")
    assert remembered(str(model), options) == ""
    (adapter / "a.safetensors").write_bytes(b"1234")
    os.utime(model / "a.safetensors", ns=(1, 1))
    assert remembered(str(model), options) == ""
    monkeypatch.setenv("TRAILS_CACHE", "/dev/null/nowhere")
    remember("r0123456789abcdef", str(model), options)  # a cache that cannot be written is no error
