"""The same ingest again opens no model; whatever could make it another run does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from tests.train.test_again import run, save_model

from trails.errors import UsageError
from trails.measure.packaged import MODEL_ID
from trails.measure.remembered import folder_of, model_to_open, remember, remember_folder, remembered
from trails.schema import Run

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


OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the hub with one commit of ``org/tiny``; offline."""
    from huggingface_hub import constants

    monkeypatch.setenv("TRAILS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached = tmp_path / "hub" / "models--org--tiny"
    (cached / "blobs").mkdir(parents=True)
    (cached / "blobs" / "1").write_bytes(b"1234")
    for commit in (OLD, NEW):
        (cached / "snapshots" / commit).mkdir(parents=True)
        (cached / "snapshots" / commit / "model.safetensors").symlink_to(cached / "blobs" / "1")
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(OLD)
    return cached


class Hub(BaseHTTPRequestHandler):
    """Answers what the hub answers about a model: its commit. Any other name is not found."""

    commit = OLD

    def do_GET(self) -> None:
        there = self.path.startswith("/api/models/org/tiny")
        body = json.dumps({"id": "org/tiny", "sha": self.commit} if there else {"error": "not found"}).encode()
        self.send_response(200 if there else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering(hub: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """The hub is on this machine and answers."""
    from huggingface_hub import constants

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Hub, "commit", OLD)
    yield Hub
    server.shutdown()
    server.server_close()


def test_offline_a_model_of_the_hub_is_what_its_cache_holds(hub: Path) -> None:
    assert folder_of("org/tiny") == hub / "snapshots" / OLD
    assert folder_of("org/tiny", NEW) == hub / "snapshots" / NEW
    assert folder_of("org/tiny", "c" * 40) is None
    assert folder_of("org/tiny", "other-branch") is None
    assert folder_of("org/other") is None
    options = {"bos": "auto", "revision": None}
    remember("r0123456789abcdef", "org/tiny", options, hub / "snapshots" / OLD)
    assert remembered("org/tiny", options) == "r0123456789abcdef"
    assert remembered("org/tiny", options | {"revision": OLD}) == "r0123456789abcdef", "the same commit by its name"
    assert remembered("org/tiny", options | {"revision": NEW}) == ""
    assert remembered("org/tiny", options | {"bos": "never"}) == ""
    assert remembered(str(hub / "snapshots" / OLD), options) == "", (
        "by its path it has another name, so it is another run"
    )
    (hub / "refs" / "main").write_text(NEW)
    assert remembered("org/tiny", options) == ""


def test_the_hub_says_which_commit_a_branch_is(hub: Path, answering: type[Hub]) -> None:
    options = {"bos": "auto", "revision": None}
    remember("r0123456789abcdef", "org/tiny", options)
    assert remembered("org/tiny", options) == "r0123456789abcdef"
    answering.commit = NEW  # the branch moved: what the cache calls main would not be opened any more
    assert remembered("org/tiny", options) == ""
    assert folder_of("org/tiny") == hub / "snapshots" / NEW
    answering.commit = "c" * 40  # and this one would have to be downloaded
    assert folder_of("org/tiny") is None


def test_a_hub_that_does_not_answer_is_said(
    hub: Path, answering: type[Hub], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert folder_of("org/tiny") == hub / "snapshots" / OLD
    assert "the model hub does not say whether org/tiny has changed" in caplog.text
    assert "the copy in the cache is taken" in caplog.text


def run_with(model: str, revision: str) -> Run:
    return Run(model, revision, "t" * 64)


def test_the_folder_of_a_local_model_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAILS_CACHE", str(tmp_path / "cache"))
    known = run_with("tuned", "d" * 64)
    with pytest.raises(
        UsageError, match="the folder tuned .weights dddddddddddd.; where that is is not known"
    ) as error:
        model_to_open(known)
    assert str(error.value).endswith("Give the folder: --model FOLDER, or TRAILS_MODEL=FOLDER")
    folder = tmp_path / "models" / "tuned"
    folder.mkdir(parents=True)
    remember_folder("tuned", "d" * 64, folder)
    assert model_to_open(known) == (str(folder), None)
    assert model_to_open(known, "elsewhere") == ("elsewhere", None)
    with pytest.raises(UsageError, match="where that is is not known"):
        model_to_open(run_with("tuned", "e" * 64))  # a folder of the same name with other weights
    folder.rmdir()
    with pytest.raises(UsageError, match=f"it was at {folder}, and is not there any more"):
        model_to_open(known)


def test_other_models_are_opened_by_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRAILS_CACHE", str(tmp_path / "cache"))
    assert model_to_open(run_with("org/tiny", OLD)) == ("org/tiny", OLD)
    assert model_to_open(run_with(MODEL_ID, "d" * 64)) == (MODEL_ID, None)
    assert model_to_open(run_with("uniform", "1")) == ("uniform", None)
    with pytest.raises(UsageError, match="measured with a local model"):
        model_to_open(run_with(OLD, OLD))  # a snapshot of the hub that was given by its path


@pytest.mark.slow
def test_a_model_of_the_hub_is_not_opened_where_nothing_is_left(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    cached = tmp_path / "hub" / "models--org--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(OLD)
    (cached / "snapshots").mkdir()
    made["model"].rename(cached / "snapshots" / OLD)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    made |= {"model": Path("org/tiny"), "home": tmp_path / "other"}
    first = json.loads(run(*line(made)))
    assert (first["measured"], first["model"]) == (4, "org/tiny")
    again = quickly(made)
    assert (again["measured"], again["already_measured"], again["run"]) == (0, 4, first["run"])


@pytest.mark.slow
def test_a_command_finds_the_local_model_of_a_run(made: dict[str, Path], tmp_path: Path) -> None:
    text = "If 9 is odd, then so. Thus even 9 goes on."
    options = ["--home", made["home"], "--json"]
    found = json.loads(run("capture", text, *options))
    assert found["analysis"] == "capture"
    made["model"].rename(tmp_path / "moved")
    from click.testing import CliRunner

    from trails.cli import cli

    refused = CliRunner().invoke(cli, ["capture", text, *map(str, options)])
    assert isinstance(refused.exception, UsageError)
    assert "is not there any more. Give the folder: --model FOLDER" in str(refused.exception)
    assert json.loads(run("capture", text, *options, "--model", tmp_path / "moved"))["verdict"] == found["verdict"]


@pytest.mark.slow
def test_the_instrument_of_a_run_has_all_its_policies(made: dict[str, Path], tmp_path: Path) -> None:
    import trails

    other = tmp_path / "other"
    done = json.loads(run(*line(made, "--control-tokens", "text", "--bos", "never", "--home", other)))
    with trails.Home(other, device="cpu") as home:
        assert home.scorer().run.id == done["run"] == home.run().id
