"""A consilium from a file: its members are measured and compared, and a wrong file is refused by its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.response.conftest import saved_model, texts

from trails.errors import InputError
from trails.pipeline import Home
from trails.pipeline.members import read_members

Trails = Callable[..., Any]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "m.yaml:1: a mapping with input and members"),
        ("input: a\n", "m.yaml:1: members must be a list of two or more"),
        ("input: a\nmembers: [b]\n", "m.yaml:2: members must be a list"),
        ("members: [a, b]\n", "m.yaml:1: input must name"),
        ("input: 3\nmembers: [a, b]\n", "m.yaml:1: input must name"),
        ("inputs: a\n", "m.yaml:1: 'inputs' means nothing here"),
        ("input: a\nmembers:\n- a\n- modell: b\n", "m.yaml:4: a member is the name of a model"),
        ("input: a\nmembers:\n- a\n- model: b\n  dtyp: float32\n", "m.yaml:5: 'dtyp' means nothing to a member. Did you mean"),
        ("input: a\nmembers:\n- a\n- model: b\n  dtype: int8\n", "m.yaml:5: dtype 'int8' does not exist. There are: float32"),
        ("input: a\nmembers:\n- a\n- {model: b, think: 1}\n", "m.yaml:4: think is true or false"),
        ("input: a\nmembers:\n- a\n- {model: b, adapter: 1}\n", "m.yaml:4: adapter must be a text"),
        ("input: a\nmembers:\n- a\n- b\n- a\n", "m.yaml:5: member a is there already"),
        ("input: a\nmembers:\n- {model: a, name: x}\n- {model: b, name: x}\n", "m.yaml:4: member x is there already"),
        ("input: &a x\nmembers: [a, b]\n", "m.yaml:1: anchors, aliases and tags are not read"),
        ("input: !!python/object:os.system x\n", "m.yaml:1: anchors, aliases and tags"),
        ("input: [a\n", "m.yaml:2: "),
        ("input: a\ninput: b\n", "m.yaml:2: "),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_its_line(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as raised:
        read_members(file)
    assert words in str(raised.value)


def test_a_member_is_a_name_or_what_ingest_takes(tmp_path: Path) -> None:
    file = tmp_path / "m.yaml"
    file.write_text(
        "input: [a.jsonl, b]\nmembers:\n- base\n- {model: base, adapter: ./tuned, dtype: bfloat16, think: true, name: t}\n",
        encoding="utf-8",
    )
    inputs, (one, two) = read_members(file)
    assert inputs == ["a.jsonl", "b"]
    assert (one.model, one.name, dict(one.given)) == ("base", "", {})
    assert (two.name, dict(two.given)) == ("t", {"adapter": Path("tuned"), "dtype": "bfloat16", "think": True})
    with pytest.raises(InputError, match="cannot be read"):
        read_members(tmp_path / "none.yaml")
    file.write_bytes(b"input: \xff")
    with pytest.raises(InputError, match="byte 7"):
        read_members(file)


@pytest.mark.model
def test_members_of_a_file_are_measured_named_and_compared(trails: Trails, tmp_path: Path, toy_model: Path) -> None:
    shallow = saved_model(tmp_path / "shallow", num_hidden_layers=2)
    data, file = tmp_path / "toys.jsonl", tmp_path / "m.yaml"
    data.write_text("".join(json.dumps(row) + "\n" for row in texts()))
    rows = [f"{{model: {toy_model}, name: deep}}", f"{{model: {toy_model}, bos: never, dtype: bfloat16}}", f"{shallow}"]
    file.write_text(f"input: {data}\nmembers:\n" + "".join(f"- {row}\n" for row in rows), encoding="utf-8")
    home = ("--home", tmp_path / "many")
    found = trails("consilium", file, *home, "--json").json()
    assert (found["n_members"], found["n_chains"]) == (3, 8)
    assert {row["member"] for row in found["left_out"]} >= {"deep", "shallow"}
    with Home(tmp_path / "many") as opened:
        runs = opened.runs()
        assert sorted((run.model, run.dtype) for run in runs.values()) == [
            ("shallow", "float32"), ("toy", "bfloat16"), ("toy", "float32")
        ]  # fmt: skip
        before = {run: sorted(opened.shards.done(run)) for run in runs}
        shards = opened.shards.shard_names()
    answer = trails("consilium", file, *home)
    assert "3 members" in answer.out
    with Home(tmp_path / "many") as opened:
        assert opened.shards.shard_names() == shards, "nothing is measured twice"
        assert {run: sorted(opened.shards.done(run)) for run in opened.runs()} == before
    file.write_text(file.read_text("utf-8") + f"- {tmp_path / 'nowhere'}\n", encoding="utf-8")
    failed = trails("consilium", file, *home, code=4)
    assert "1 of 4 members failed" in failed.error
    assert "3 members" in failed.out, "the others are compared"


def test_a_file_nested_without_end_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "deep.yaml"
    file.write_text("members: " + "[" * 10_000, encoding="utf-8")
    with pytest.raises(InputError, match="nested more than 24 deep"):
        read_members(file)
    with file.open("wb") as sparse:
        sparse.truncate(2**36)
    with pytest.raises(InputError, match="larger than"):
        read_members(file)


def test_half_of_a_character_is_no_name(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text('input: a\nmembers: [b, {model: c, name: "x\\ud800"}]\n', encoding="utf-8")
    with pytest.raises(InputError, match="cannot be printed"):
        read_members(file)


def test_a_folder_by_two_paths_is_one_member(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    Path("a.yaml").write_text("input: a\nmembers:\n- ./base\n- model: base\n  name: n\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"a.yaml:4: member n is there already, in line 3 as ./base"):
        read_members(Path("a.yaml"))
