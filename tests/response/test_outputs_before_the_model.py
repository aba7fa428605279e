"""What is wrong with an output is said before a model is loaded, by every command that loads one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from tests.response.conftest import texts

from trails.cli import cli

OUTPUTS = {
    "train": ("train", "rows.jsonl", "-o"),
    "train --roles": ("train", "course/train.jsonl", "--roles", "-o"),
    "stellate": ("stellate", "If it rains, the grass is wet. But it is dry.", "-o"),
    "variants": ("variants", "#1", "-o"),
    "genome search": (
        "genome",
        "search",
        "g.yaml",
        "--held-out",
        "source:probes",
        "--unrelated",
        "source:probes",
        "-o",
    ),
    "genome initiation": (
        *("genome", "initiation", "g.yaml", "--filler", "source:fillers", "--held-out", "source:probes"),
        *("--unrelated", "source:probes", "-o"),
    ),
    "experiment": ("experiment", "depth", "--quick", "--data", "toys.jsonl", "--out"),
}
"""Every command that loads a model and writes a file or folder besides ``--html``, up to the name of the output."""

GENOME = """genome: 1
name: g
stages:
  - name: one
    sections: [{name: s, books: [{select: "source:toys", role: learner}]}]
  - name: two
    sections: [{name: t, books: [{select: "source:fillers", role: critic}]}]
    initiation: {after: [one]}
"""


def leaves(command: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its words."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    context = click.Context(command)
    for one in command.list_commands(context):
        found = command.get_command(context, one)
        assert found is not None
        yield from leaves(found, f"{name} {one}".strip())


def names_of(command: click.Command) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Loading a model is an error here, and noted."""
    loaded: list[str] = []

    def refuse(model: str, **_: Any) -> None:
        loaded.append(model)
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("trails.measure.load.load_scorer", refuse)
    return loaded


@pytest.fixture
def place(trails: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_model: list[str]) -> Path:
    """The working folder, with a home, rows, a genome and its course."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.yaml").write_text(GENOME)
    trails("export", "--subgraph", "source:toys", "--format", "trails", "-o", "rows.jsonl")
    trails("genome", "export", "g.yaml", "--format", "trails", "-o", "course")
    rows = [{"question": row["question"], "text": row["text"]} for row in texts()]
    (tmp_path / "toys.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    return tmp_path


def test_every_command_with_a_model_and_an_output_is_among_them() -> None:
    found = {
        name for name, command in leaves(cli) if {"-o", "--out"} & names_of(command) and "--device" in names_of(command)
    }
    assert found == {name.partition(" --")[0] for name in OUTPUTS}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_place_that_cannot_be_written_is_told_before_the_model(
    name: str, place: Path, trails: Callable[..., Any], no_model: list[str]
) -> None:
    end = ".parquet" if name == "variants" else ""
    for target, said in (
        (f"home/shards/x{end}", "is a part of the home"),
        (f"file/x{end}", "file is a file, not a folder"),
        ("link", "is a link to"),
        ("-", "is not written to standard output"),
    ):
        assert said in trails(*OUTPUTS[name], target, code=2).error, target
    assert not no_model
    assert (place / "file").read_text() == "mine"


@pytest.mark.parametrize("name", sorted(OUTPUTS.keys() - {"experiment"}))  # its model is loaded by another process
def test_a_sound_output_leads_to_the_model(
    name: str, place: Path, trails: Callable[..., Any], no_model: list[str]
) -> None:
    """The commands of this file would load one: without that the other tests show nothing."""
    with pytest.raises(AssertionError, match="a model was loaded"):
        trails(*OUTPUTS[name], f"new/x{'.parquet' if name == 'variants' else ''}")
    assert no_model


def test_a_folder_of_another_training_is_told_before_the_model(
    place: Path, trails: Callable[..., Any], no_model: list[str]
) -> None:
    def known(folder: Path, **options: Any) -> None:
        folder.mkdir(parents=True)
        record = {"identity": {"export": "0" * 64}, "options": options, "title": "other.jsonl", "finished": True}
        (folder / "train.json").write_text(json.dumps(record))

    known(place / "adapter")
    known(place / "roles" / "critic")  # the second role: the first one would have been trained
    known(place / "one" / "one")
    for command, folder in (
        (("train", "rows.jsonl", "-o", "adapter"), "adapter"),
        (("train", "course/train.jsonl", "--roles", "-o", "roles"), "roles/critic"),
        (("train", "course/train.jsonl", "--roles", "-o", "one"), "one/one"),
    ):
        said = trails(*command, code=2).error
        assert f"{folder} holds another training (of other.jsonl): it was trained on another export" in said
    assert "holds a training" in trails("train", "course/train.jsonl", "--roles", "-o", "adapter", code=2).error
    (place / "full").mkdir()
    shutil.copy(place / "file", place / "full" / "thought.json")
    for more in ((), ("--overwrite",)):
        assert "full is not empty" in trails("train", "rows.jsonl", "-o", "full", *more, code=2).error
    assert "full has a thought.json of something else" in trails(*OUTPUTS["stellate"], "full", code=2).error
    assert (place / "full" / "thought.json").read_text() == "mine"
    (place / "mine.parquet").write_text("mine")
    assert "is not a file of variants" in trails(*OUTPUTS["variants"], "mine.parquet", code=2).error
    assert "not a line of an initiation" in trails(*OUTPUTS["genome initiation"], "file", code=3).error
    assert not no_model


@pytest.mark.parametrize("command", ["respond #1 --probes source:probes", "anchors #1", "variants #1"])
def test_a_graph_that_does_not_answer_is_told_before_the_model(
    command: str, trails: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, no_model: list[str]
) -> None:
    monkeypatch.setenv("NEO4J_URI", "bolt://localhost:1")
    assert "no answer from Neo4j at bolt://localhost:1" in trails(*command.split(), code=5).error
    assert not no_model


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("intervene #1 --layer 9 --from random", 4, "layer 9 was asked for, toy has layers 1 to 3."),
        ("intervene #1 --layer 1 --from #1:99", 2, "step 99 of chain "),
        (
            "intervene #1 --layer 1 --vector x.npy",
            2,
            "there is no file x.npy. Give a .npy, a .safetensors or a pvq.json file;",
        ),
        ("intervene #1 --layer 1 --vector x.pvq.json#a", 2, "there is no file x.pvq.json."),
        ("pvq write #1 -o x.npy", 2, "x.npy ends in '.npy', and what is written is a pvq.json. Write: -o x.pvq.json"),
        (
            "pvq write #1 -o x.pvq.json",
            2,
            "keeps no states of it. Measure them: trails ingest PATH --states 1 --home NEW",
        ),
        ("pvq write #1 -o x.pvq.json --layer 9", 4, "layer 9 was asked for, toy has states 0 (embeddings) to 3."),
        ("capture bad.jsonl", 3, "at column 10. Repair it, or take it out."),
        ("ingest bad.jsonl", 3, "at column 10. To go on past bad records: --bad-tolerance N."),
    ],
)
def test_an_error_says_what_helps_before_the_model(
    command: str, code: int, said: str, trails: Callable[..., Any], place: Path, no_model: list[str]
) -> None:
    (place / "bad.jsonl").write_text('{"text": "If a, then b."}\n{"text": \n{"text": "If c, then d."}\n')
    found = trails(*command.split(), code=code).error
    assert said in found, found
    assert not no_model


PAGES = sorted(name for name, command in leaves(cli) if "--html" in names_of(command))
WORDS = {"--layer": "1", "--budget": "10", "--by": "random", "--adapter": "course"}
"""What options that must be given are given."""


@pytest.mark.parametrize("name", PAGES)
def test_a_page_that_exists_is_told_before_anything(
    name: str, place: Path, trails: Callable[..., Any], no_model: list[str]
) -> None:
    command = dict(leaves(cli))[name]
    given: list[str] = []
    for parameter in command.params:
        if isinstance(parameter, click.Argument):
            given += ["course" if parameter.name == "adapters" else "g.yaml"] * parameter.required
        elif parameter.required:
            given += [parameter.opts[0], WORDS.get(parameter.opts[-1], "x")]
    assert "file exists" in trails(*name.split(), *given, "--html", "file", code=2).error
    assert (place / "file").read_text() == "mine"
    assert not no_model


def test_the_pages_are_those_of_commands_that_load_a_model() -> None:
    assert {
        "respond",
        "intervene",
        "diff",
        "stellate",
        "basin",
        "effects scan",
        "anchors",
        "select",
        "genome show",
    } <= set(PAGES)
