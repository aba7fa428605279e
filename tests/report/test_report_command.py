"""trails report: selections, what it prints, and each wrong use as one message."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import chains_file, trails  # noqa: F401  (fixtures)
from tests.report.test_report import contents

from trails.report.words import in_russian


@pytest.fixture
def home(trails: Any, chains_file: Path) -> Any:  # noqa: F811
    trails("ingest", chains_file)
    return trails


@pytest.mark.slow
def test_all_chains_or_a_selection_become_one_file(home: Any, chains_file: Path, tmp_path: Path) -> None:  # noqa: F811
    said = home("report", "-o", "all.html", "--json").json()
    record, _ = contents(tmp_path / "all.html")
    assert said["chains"] == len(record["chains"]) == 4
    assert said["tokens"] == sum(len(chain["pieces"]) for chain in record["chains"])
    assert said["bytes"] == (tmp_path / "all.html").stat().st_size
    assert any("trails gaps" in note for note in said["left_out"]), "what is missing is named with its command"
    one = record["chains"][0]["id"]
    folder = tmp_path / "a home"
    home("ingest", chains_file, "--home", folder)
    notes = home("report", "-o", "elsewhere.html", "--home", folder).err
    assert f"trails gaps --home '{folder}' (a home needs 20 chains with four steps or more)" in " ".join(notes.split())
    home("report", one[:9], "-o", "one.html")
    assert [chain["id"] for chain in contents(tmp_path / "one.html")[0]["chains"]] == [one]
    ids = [chain["id"] for chain in record["chains"]]
    assert ids == [row["chain"] for row in home("chains", "--json").json()], "in the order of trails chains"
    home("report", *ids, "-o", "four.html")
    assert contents(tmp_path / "four.html")[0]["title"] == f"trails: {ids[0]}, {ids[1]}, {ids[2]} and 1 more"
    home("report", "roles:IF>THEN", one, "-o", "some.html")
    chosen = contents(tmp_path / "some.html")[0]
    assert chosen["chains"]
    for chain in chosen["chains"]:
        roles = [step["role"] for step in chain["steps"]]
        assert chain["id"] == one or ("IF", "THEN") in pairwise(roles)


@pytest.mark.slow
def test_gaps_and_overlaps_of_the_graph_are_in_it(home: Any, tmp_path: Path) -> None:
    home("overlaps", "--min-tokens", "4")
    home("report", "-o", "r.html")
    record, _ = contents(tmp_path / "r.html")
    marked = [chain for chain in record["chains"] if chain["overlaps"]]
    assert len(marked) >= 2
    assert all(chain["id"] not in overlap["others"] for chain in marked for overlap in chain["overlaps"])
    assert record["corpus"]["overlaps"][0]["n_chains"] >= 2
    one = marked[0]["id"]
    home("report", one, "-o", "one.html")
    alone, _ = contents(tmp_path / "one.html")
    told = str([alone["corpus"], alone["chains"]])
    assert not [chain["id"] for chain in record["chains"] if chain["id"] != one and chain["id"] in told]
    n_texts = len({row["text"] for row in alone["corpus"]["overlaps"]})
    assert alone["corpus"]["shared"][0].startswith(f"exact: {n_texts} of ")


@pytest.mark.slow
def test_overlaps_of_another_kind_are_named_and_not_denied(home: Any, tmp_path: Path) -> None:
    home("report", "-o", "none.html")
    none = [note for note in contents(tmp_path / "none.html")[0]["left_out"] if "verlaps" in note]
    assert none == [
        "The graph holds no exact and no masked overlaps: none were found, or none were looked for. Run: trails overlaps"
    ]
    assert home("overlaps", "--kind", "skeleton", "--min-steps", "2", "--json").json()["overlaps"]
    home("report", "-o", "skeleton.html")
    record = contents(tmp_path / "skeleton.html")[0]
    told = [note for note in record["left_out"] if "verlaps" in note]
    assert told == none, "repeats of roles are drawn"
    marked = [(chain, mark) for chain in record["chains"] for mark in chain["overlaps"]]
    assert {mark["kind"] for _, mark in marked} == {"skeleton"}
    for chain, mark in marked:
        begins, ends = ([step["tok"][side] for step in chain["steps"]] for side in (0, 1))
        n_steps = int(mark["said"].split()[3])
        assert ends.index(mark["stop"]) - begins.index(mark["first"]) + 1 == n_steps, "whole steps, as many as are told"
    near = home("overlaps", "--kind", "near", code=None)
    home("report", "-o", "near.html")
    told = [note for note in contents(tmp_path / "near.html")[0]["left_out"] if "kind near" in note]
    assert told == (["Overlaps of kind near are in the graph and not drawn."] if near.code == 0 else [])
    assert all(known for note in (*none, *told) for _, known in in_russian(note))


@pytest.mark.slow
def test_what_the_graph_holds_beyond_the_limit_is_said_on_page_and_terminal(
    home: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home("overlaps", "--min-tokens", "4")
    cut = (
        "The graph holds more occurrences of overlaps of this run than the 1 that was read; "
        "the rest is neither shown nor counted."
    )
    from trails.pipeline import reporting

    whole = home("report", "-o", "whole.html")
    assert "that were read" not in whole.err
    monkeypatch.setattr(reporting, "MAX_ROWS", 1)
    told = home("report", "-o", "cut.html").err
    assert cut in " ".join(told.split())
    assert cut in contents(tmp_path / "cut.html")[0]["left_out"]
    marks = [len(chain["overlaps"]) for chain in contents(tmp_path / "cut.html")[0]["chains"]]
    assert sum(marks) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["c0000000000000000"], "no chain fits"),
        (["roles:ANSWER>IF"], "holds nothing"),
        (["--compare", "rffff"], "run 'rffff' was asked for and 0 fit"),
        (["--compare", "rffff"], "Choose with --compare ID"),
        (["--compare", "r"], "was asked to be compared with itself"),
        (["-o", "missing/r.html"], "missing"),
    ],
)
def test_a_wrong_use_is_one_message(home: Any, tmp_path: Path, arguments: list[str], message: str) -> None:
    said = home("report", *arguments, code=None)
    assert said.code not in (0, 1)
    assert message in said.err
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.slow
def test_a_file_that_exists_is_kept_unless_asked(home: Any, tmp_path: Path) -> None:
    (tmp_path / "r.html").write_text("mine", encoding="utf-8")
    assert "--overwrite" in home("report", "-o", "r.html", code=None).err
    assert "--overwrite" in home("report", "c0000000000000000", "-o", "r.html", code=2).err, (
        "before the chains are read"
    )
    assert (tmp_path / "r.html").read_text(encoding="utf-8") == "mine"
    home("report", "-o", "r.html", "--overwrite")
    assert contents(tmp_path / "r.html")[0]["title"] == "trails: all chains"


GENOME = """\
genome: 1
name: two
stages:
  - {name: first, sections: [{name: a, books: [{select: "all", take: 3, order: source}]}]}
  - {name: second, sections: [{name: b, books: [{select: "all", skip: 3, take: 1, order: source}]}]}
"""


def test_a_course_is_seen_in_the_report(home: Any, tmp_path: Path) -> None:
    (tmp_path / "course.genome.yaml").write_text(GENOME, encoding="utf-8")
    said = home("report", "--course", "course.genome.yaml", "-o", "course.html", "--json").json()
    record, _ = contents(tmp_path / "course.html")
    plan = [line.split() for line in home("genome", "plan", "course.genome.yaml").out.splitlines()[1:]]
    names = {line[1] for line in plan}
    assert len(plan) == 4
    assert {chain["id"] for chain in record["chains"]} == names
    assert said["chains"] == len(names)
    page = (tmp_path / "course.html").read_text(encoding="utf-8")
    assert f"two: 4 rows of {len(names)} chains in 2 stages" in page
    assert page.index("the course, row by row") > page.index("two: 4 rows")
    for line in plan:
        assert line[1] in page
    assert "Leave selections" in home("report", "all", "--course", "course.genome.yaml", code=2).err
    assert "broken" not in home("report", "--course", "none.yaml", code=2).err
