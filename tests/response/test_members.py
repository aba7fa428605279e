"""A consilium from a file: its members are measured and compared, and a wrong file is refused by its line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.response.conftest import saved_model, texts

from trails.errors import InputError
from trails.measure.packaged import MODEL_ID
from trails.measure.remembered import one_name
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
    assert inputs == [str(tmp_path / "a.jsonl"), str(tmp_path / "b")]
    assert (one.model, one.name, dict(one.given)) == ("base", "", {})
    assert (two.name, dict(two.given)) == ("t", {"adapter": tmp_path / "tuned", "dtype": "bfloat16", "think": True})
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


def test_one_model_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "link").symlink_to("base")
    monkeypatch.setattr("trails.measure.remembered.converted_folder", lambda: tmp_path / "packaged")
    (tmp_path / "packaged").mkdir()
    assert {one_name(name) for name in ("", MODEL_ID, "packaged", f"{tmp_path}/packaged")} == {MODEL_ID}
    assert {one_name(name) for name in ("base", "./base", "link", f"{tmp_path}/base/../base")} == {
        str(tmp_path / "base")
    }
    assert one_name("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"


@pytest.mark.parametrize(
    "second", ["base, device: cpu", "./base, bos: auto, think: false", "base, dtype: bfloat16", "link"]
)
def test_a_default_that_is_written_out_makes_no_other_member(tmp_path: Path, second: str) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "link").symlink_to("base")
    file = tmp_path / "m.yaml"
    file.write_text(f"input: a\nmembers:\n- base\n- {{model: {second}}}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"m.yaml:4: member .* is there already, in line 3 as base"):
        read_members(file, "bfloat16")
    file.write_text("input: a\nmembers:\n- base\n- {model: base, dtype: bfloat16}\n", encoding="utf-8")
    assert len(read_members(file)[1]) == 2, "the number format of the settings is float32 here"


@pytest.mark.model
def test_one_instrument_under_two_names_is_one_member(trails: Trails, tmp_path: Path, toy_model: Path) -> None:
    again = shutil.copytree(toy_model, tmp_path / "copies" / toy_model.name)
    twin = shutil.copytree(toy_model, tmp_path / "twin")
    data, file = tmp_path / "toys.jsonl", tmp_path / "m.yaml"
    data.write_text("".join(json.dumps(row) + "\n" for row in texts(2)))
    home = ("--home", tmp_path / "many")
    file.write_text(f"input: {data}\nmembers: [{toy_model}, {{model: {again}, name: again}}]\n")
    said = trails("consilium", file, *home, code=2).error
    assert "1 of 2 members failed (again), the others are kept" in said
    assert f"is that of member {toy_model}: the same instrument. Name every member once" in said
    with Home(tmp_path / "many") as opened:
        assert [run.name for run in opened.runs().values()] == [""], "the first is not called by the name of the second"
    path = f"{toy_model}/../{toy_model.name}"
    for other, words in (
        (path, f"{path} was given twice, as {toy_model}, too. "),
        (again, f"is that of member {toy_model}"),
    ):
        said = trails("ingest", data, "--models", f"{toy_model},{other}", *home, code=2).error
        assert words in said, said
    file.write_text(f"input: {data}\nmembers: [{toy_model}, {twin}]\n")
    said = trails("consilium", file, *home, code=2).error
    assert "(toy) and " in said
    assert "(twin) are of the same weights under two names, so they are one member" in said


def test_a_path_in_a_file_is_relative_to_the_file(
    trails: Trails, tmp_path: Path, toy_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a genome, of its children in another folder, of a consilium and of a stellator file; the command runs elsewhere."""
    sub, elsewhere = tmp_path / "sub", tmp_path / "elsewhere"
    sub.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    (sub / "toys.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts()))
    (sub / "q.cypher").write_text("MATCH (c:Chain) WHERE c.source CONTAINS 'fillers' RETURN c")
    trails("ingest", sub / "toys.jsonl")  # a source of the file's name, as a book has it
    (sub / "g.yaml").write_text(
        "genome: 1\nname: g\nroles: {critic: q.cypher}\nstages:\n- name: one\n  sections:\n"
        "  - {name: s, books: [{file: toys.jsonl}]}\n  - {name: t, books: [{select: q.cypher}]}\n"
    )
    assert trails("genome", "check", "../sub/g.yaml", "--json").json()["rows"] == 8 + 3
    (child,) = trails("genome", "mutate", "../sub/g.yaml", "-o", "children/here", "--json").json()
    assert "file: ../../../sub/toys.jsonl" in Path(child["file"]).read_text()
    assert trails("genome", "check", child["file"], "--json").json()["rows"] in (3, 8, 11)
    crossed = trails("genome", "show", child["file"], "--json").json()
    assert crossed["n_rows"] in (3, 8, 11)
    (sub / "t.stellator").write_text('[ZONE: entropy > 0]\nSELECT → "q.cypher"\n')
    found = trails("stellator", "run", "../sub/t.stellator", "--no-model", "--json").json()
    assert "selections: 1 not empty" in found["verdict"]
    (sub / "base").symlink_to(toy_model)
    (sub / "m.yaml").write_text(
        "input: [toys.jsonl]\nmembers:\n- base\n- {model: ./base, adapter: tuned}\n- org/name\n"
    )
    inputs, members = read_members(Path("../sub/m.yaml"))
    assert inputs == ["../sub/toys.jsonl"]
    assert [member.model for member in members] == ["../sub/base", "../sub/base", "org/name"]
    assert members[1].given == {"adapter": Path("../sub/tuned")}
