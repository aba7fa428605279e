"""The loop: five artefacts, the same hashes after a kill at any step, and an edited block that is kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.measure.families import tiny
from tests.measure.reference import byte_tokenizer
from tests.report.test_report import contents

from trails import Home
from trails.cli import cli
from trails.errors import InputError, UsageError
from trails.pipeline.stellate import FILES, PHASES, stellate

pytestmark = pytest.mark.model

THOUGHT = "If Nina paints, then the wall is blue. But the wall is grey. Therefore Nina does not paint."
WORDS = ("rain", "grass", "snow", "light", "wind", "stone", "water", "smoke")


def run(*words: str) -> Any:
    return CliRunner().invoke(cli, words, catch_exceptions=False)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model and a home of 24 chains measured with it; copy both before writing."""
    folder = tmp_path_factory.mktemp("stellate")
    tiny("qwen2", max_position_embeddings=1024).save_pretrained(folder / "model")
    byte_tokenizer().save_pretrained(folder / "model")
    rows = [
        {"id": str(n), "chain": f"If the {WORDS[n % 8]} is {n}, then {WORDS[n * 3 % 8]} moves. But it is {n * 7} now."}
        for n in range(24)
    ]
    source = folder / "chains.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    run("ingest", str(source), "--model", str(folder / "model"), "--home", str(folder / "home"))
    return folder


@pytest.fixture
def place(kept: Path, tmp_path: Path) -> Path:
    for part in ("home", "model"):
        shutil.copytree(kept / part, tmp_path / part)
    return tmp_path


def opened(place: Path) -> Home:
    return Home(place / "home", device="cpu", store="embedded", model=str(place / "model"))


def looped(place: Path, name: str = "loop", **more: Any) -> tuple[int, ...]:
    with opened(place) as home:
        return stellate(home, THOUGHT, place / name, **more).made


def hashes(folder: Path) -> dict[str, str]:
    return {name: one["sha256"] for name, one in json.loads((folder / "loop.json").read_text("utf-8")).items()}


def test_five_artefacts_each_with_its_hash_and_its_phase(place: Path) -> None:
    assert looped(place) == (1, 2, 3, 4, 5)
    folder = place / "loop"
    record = json.loads((folder / "loop.json").read_text("utf-8"))
    assert [(name, record[name]["phase"]) for name in FILES] == list(zip(FILES, PHASES, strict=True))
    thought, distilled, reaction, check = (json.loads((folder / FILES[n]).read_text("utf-8")) for n in (0, 1, 3, 4))
    assert "".join(step["text"] for step in thought["steps"]) == THOUGHT
    assert [step["role"] for step in thought["steps"]] == ["IF", "THEN", "BUT", "THEREFORE"]
    assert distilled["n_tokens"] == len(distilled["tokens"]) > len(distilled["steps"])
    assert "".join(token["piece"] for token in distilled["tokens"]) == THOUGHT
    assert distilled["layers"]["others"] == 24
    block = (folder / FILES[2]).read_text("utf-8")
    assert "STEP → BUT" in block
    assert 'ANCHOR → "Therefore"' in block
    assert run("stellator", "check", str(folder / FILES[2])).output.endswith("no error\n")
    assert reaction["before"]["analysis"] == "stellator"
    controls = {c["name"] for score in reaction["intervention"]["scores"] for c in score["controls"]}
    assert controls == {"other places of the same length"}
    assert "--train" in reaction["training"]["withheld"]
    walk = check["before"]
    assert walk["texts"] == 24
    assert walk["by_chance"] == 1 / 25
    assert {"own tokens shuffled", "connectives masked"} <= set(walk["rows"][0]["nulls"])
    assert looped(place) == (), "the second time nothing is made"
    with opened(place) as home:
        report = stellate(home, THOUGHT, folder).report()
    judged = [line for part in reaction["before"].values() if isinstance(part, dict) for line in part["lines"]]
    assert report.to_arrow("lines").to_pylist() == judged != []
    assert any("is a chain of the home now" in note for note in report.notes)


@pytest.mark.parametrize("killed", [1, 2, 3, 4, 5])
def test_a_loop_killed_at_any_step_ends_at_the_same_hashes(place: Path, killed: int) -> None:
    whole = place / "whole"
    for part in ("home", "model"):
        shutil.copytree(place / part, whole / part)
    looped(whole)

    class KilledError(Exception):
        pass

    class Watch:
        def begin(self, task: str, total: int, *, tokens: int = 0) -> None:
            pass

        def advance(self, amount: int, *, tokens: int = 0, shown: str = "") -> None:
            pass

        def note(self, message: str) -> None:
            if message.startswith(f"step {killed} of 5"):
                raise KilledError

    with pytest.raises(KilledError):
        looped(place, progress=Watch())
    assert not (place / "loop" / FILES[killed - 1]).exists()
    assert looped(place) == tuple(range(killed, 6))
    assert hashes(place / "loop") == hashes(whole / "loop")


def test_an_edited_block_is_kept_and_what_follows_is_made_anew(place: Path) -> None:
    looped(place)
    folder = place / "loop"
    before = hashes(folder)
    block = folder / FILES[2]
    block.write_text(block.read_text("utf-8").replace("STEP → BUT", "STEP → THEREFORE"), "utf-8")
    assert looped(place) == (4, 5)
    after = hashes(folder)
    assert {name for name in FILES if before[name] != after[name]} == {FILES[2], FILES[3]}
    assert "STEP → THEREFORE" in block.read_text("utf-8")
    assert looped(place) == ()
    block.write_text("[ZONE: all]\nSTEP → BAT\n", "utf-8")
    with pytest.raises(InputError, match=r"block\.stellator:2:8: .*BUT"):
        looped(place)
    (place / "home" / "zones.toml").write_text('[mine]\nexpression = "all"\n', "utf-8")
    block.write_text("[ZONE: mine]\nSTEP → BUT\n", "utf-8")
    assert looped(place) == (4, 5), "an edited block may name a zone of the home"


def test_what_a_loop_refuses(place: Path, tmp_path: Path) -> None:
    looped(place)
    with opened(place) as home:
        with pytest.raises(UsageError, match="holds another thought"):
            stellate(home, "Another thought.", place / "loop")
        with pytest.raises(UsageError, match="an empty thought"):
            stellate(home, " \n", place / "other")
    (place / "loop" / "loop.json").write_text("{", "utf-8")
    with pytest.raises(InputError, match="Delete it"):
        looped(place)
    source = tmp_path / "one.jsonl"
    source.write_text('{"chain": "If a then b. But c."}', encoding="utf-8")
    run("ingest", str(source), "--model", "uniform", "--home", str(tmp_path / "uniform"))
    with Home(tmp_path / "uniform", store="embedded") as home, pytest.raises(UsageError, match="not a language model"):
        stellate(home, THOUGHT, tmp_path / "x")


@pytest.mark.train
def test_a_short_training_is_judged_before_and_after(place: Path) -> None:
    assert looped(place, "t", train=2) == (1, 2, 3, 4, 5)
    reaction = json.loads((place / "t" / FILES[3]).read_text("utf-8"))
    lines = reaction["training"]["assertions"]["assertions"]
    assert {row["line"].split(" ")[0] for row in lines} >= {"STEP", "DRIFT"}
    check = json.loads((place / "t" / FILES[4]).read_text("utf-8"))
    assert set(check["after"]) == {"untrained", "trained"}
    with opened(place) as home:
        again = stellate(home, THOUGHT, place / "t", train=2)
    assert again.made == ()
    assert "of what the model writes after their beginnings" in again.report().verdict


@pytest.mark.train
def test_the_command_trains_and_judges_with_a_model_whose_folder_was_renamed(place: Path) -> None:
    (place / "model").rename(place / "moved")
    with Home(place / "home", store="embedded") as home:
        (before,) = home.runs()
    found = run(
        *("stellate", THOUGHT, "-o", str(place / "t"), "--train", "2", "--home", str(place / "home")),
        *("--model", str(place / "moved"), "--device", "cpu", "--json"),
        *("--html", str(place / "t.html")),
    )
    assert found.exit_code == 0, found.output
    record = json.loads(found.stdout)
    page, _ = contents(place / "t.html")  # which names no folder
    assert page["report"]["verdict"] == record["verdict"]
    assert (page["run"]["id"], page["chains"][0]["id"]) == (record["run"], record["chain"]), (
        "the thought, token by token"
    )
    assert "of what the model writes after their beginnings" in record["verdict"]
    with Home(place / "home", store="embedded") as home:
        runs = home.runs()
        assert THOUGHT in {trace.chain.text for trace in home.traces(before)}, (
            "the thought belongs to the run of the home"
        )
    assert {one.model for one in runs.values()} == {"model"}
    assert [name for name, one in runs.items() if not one.adapter and not one.intervention] == [before]
