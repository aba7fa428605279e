"""Roles go out, a person corrects them, and they come back: into graph, selections and score, beside the automatic ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trails.schema import Role
from trails.store.traces import TraceStore

TEXTS = [
    "If it rains, the street is wet. But it is dry. The sun shines. Therefore it does not rain.",
    "Tom has 5 apples. He buys 3 more.\nTom has 5 + 3 = 8 apples in total. But he gives one away, so 7 are left.",
]


@pytest.fixture
def home(trails: Any, tmp_path: Path) -> Any:
    lines = [json.dumps({"id": str(i), "question": "q", "chain": text}) for i, text in enumerate(TEXTS)]
    (tmp_path / "c.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert trails("ingest", "c.jsonl").code == 0
    return trails


def exported(home: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in home("roles", "export").out.splitlines()]


def written(rows: list[dict[str, Any]]) -> Path:
    path = Path("roles.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def corrected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"role": "THEREFORE"} if "8 apples" in row["text"] else row for row in rows]


def graph_roles(home: Any) -> list[list[Any]]:
    statement = "MATCH (c:Chain)-[:HAS_STEP]->(s:Step) RETURN s.id, s.role, s.automatic_role, c.roles ORDER BY s.id"
    return [list(row.values()) for row in json.loads(home("cypher", statement, "--json").out)]


@pytest.mark.slow
def test_the_steps_of_an_export_are_the_text(home: Any) -> None:
    rows = exported(home)
    for text in TEXTS:
        mine = [
            row
            for row in rows
            if row["text"] in text and row["text"] and text[row["start"] : row["end"]] == row["text"]
        ]
        assert "".join(row["text"] for row in mine) == text
    assert {row["role"] for row in rows} >= {"IF", "THEN", "BUT", "NONE", "THEREFORE"}
    assert len([*home("roles", "export", "--sample", "1").out.splitlines()]) in (5, len(rows) - 5)


@pytest.mark.slow
def test_an_export_does_not_take_the_place_of_corrections(home: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text("corrected by hand", encoding="utf-8")
    refused = home("roles", "export", "-o", str(file), code=2)
    assert "--overwrite" in refused.err
    assert file.read_text(encoding="utf-8") == "corrected by hand"
    home("roles", "export", "-o", str(file), "--overwrite")
    assert len(file.read_text(encoding="utf-8").splitlines()) == len(exported(home))


@pytest.mark.slow
def test_a_correction_reaches_graph_selection_show_and_score_and_survives(home: Any, tmp_path: Path) -> None:
    rows = exported(home)
    before = graph_roles(home)
    assert all(automatic is None for _, _, automatic, _ in before)
    done = home("roles", "import", str(written(corrected(rows))), "--by", "anna", "--json")
    assert json.loads(done.out) == {"chains": 2, "steps": len(rows), "changed": 1, "moved": 0, "kept": {}, "by": "anna"}
    after = graph_roles(home)
    differing = [(a, b) for a, b in zip(before, after, strict=True) if a[1] != b[1]]
    assert [(a[1], b[1], b[2]) for a, b in differing] == [("NONE", "THEREFORE", "NONE")]
    assert "NONE>NONE>THEREFORE>BUT>THEREFORE" in {row[3] for row in after}
    assert home("verify").code == 0
    assert "THEREFORE†" in home("show", "c.jsonl:1").out
    assert "anna" in home("show", "c.jsonl:1").out
    found = home("export", "--subgraph", "roles:NONE>THEREFORE>BUT", "--format", "trl", "-o", "x.jsonl")
    assert found.code == 0, found.err
    score = json.loads(home("roles", "score", "--json").out)
    assert (score["n_chains"], score["n_steps"]) == (2, len(rows))
    assert [(case["labelled"], case["found"]) for case in score["wrong"]] == [("THEREFORE", "NONE")]
    assert score["scores"] == []  # two chains are too few for an interval
    assert "2 labelled chains" in score["withheld"][0]["reason"]
    # the shards hold what the segmenter found
    with TraceStore(tmp_path / "home") as store:
        name = store.shard_names()[0]
        assert all(not step.automatic_role for trace in store.shard(name) for step in trace.steps)
        read = {step.automatic_role or None for trace in store.traces() for step in trace.steps}
        assert None not in read
    # removed and ingested again, the correction is still there
    assert home("remove", "source", "c.jsonl", "--yes").code == 0
    assert home("ingest", "c.jsonl").code == 0
    assert graph_roles(home) == after
    assert home("verify").code == 0


@pytest.mark.slow
def test_an_export_that_nobody_edits_has_every_role_right(trails: Any) -> None:
    assert trails("ingest", "--sample").code == 0
    rows = exported(trails)
    trails("roles", "import", str(written(rows)), "--by", "anna")
    score = json.loads(trails("roles", "score", "--json").out)
    assert score["wrong"] == []
    assert score["n_stored"] == score["n_steps"] == len(rows) > 700
    assert {one["value"] for one in score["scores"]} == {1.0}
    assert "100 %" in score["verdict"]


@pytest.mark.slow
def test_status_and_graph_have_the_roles_as_corrected(home: Any) -> None:
    def other(row: dict[str, Any]) -> dict[str, Any]:
        return row | {"role": "NONE"} if row["text"].startswith("But it is dry") else row

    before = json.loads(home("status", "--json").out)["roles"]
    assert all(row["implicit_role"] for row in exported(home) if "8 apples" in row["text"])
    rows = [other(row) for row in corrected(exported(home))]
    home("roles", "import", str(written(rows)), "--by", "anna")
    after = json.loads(home("status", "--json").out)["roles"]
    assert (after["BUT"], after["THEREFORE"], after["NONE"]) == (
        before["BUT"] - 1,
        before["THEREFORE"] + 1,
        before["NONE"],
    )
    statement = (
        "MATCH (s:Step) WHERE s.automatic_role <> s.role RETURN s.role, s.connective, s.sense, s.explicit, "
        "s.implicit_role, s.implicit_p ORDER BY s.role"
    )
    found = [list(row.values()) for row in json.loads(home("cypher", statement, "--json").out)]
    assert found == [["NONE", "", "", False, None, None], ["THEREFORE", "", "", False, None, None]]
    steps = json.loads(home("show", "c.jsonl:0", "--json").out)["steps"]
    assert [(s["role"], s["explicit"]) for s in steps if s["automatic_role"] == "BUT"] == [("NONE", False)]
    assert home("verify").code == 0
    # what the segmenter found is not lost
    assert {row["connective"] for row in exported(home) if row["text"].startswith("But it is dry")} == {"But"}


@pytest.mark.slow
def test_what_is_copied_into_a_shard_has_the_automatic_roles(home: Any, tmp_path: Path) -> None:
    home("roles", "import", str(written(corrected(exported(home)))), "--by", "anna")
    with TraceStore(tmp_path / "home", write=True) as store:
        before = store.digest()
        (name,) = store.shard_names()
        store.rewrite(name, list(store.traces()))
        assert store.digest() == before
        assert any(step.role is Role.THEREFORE != step.automatic_role for t in store.traces() for step in t.steps)


@pytest.mark.slow
def test_moved_borders_count_in_the_score_and_leave_the_graph_alone(home: Any) -> None:
    rows = exported(home)
    i = next(i for i, row in enumerate(rows) if row["text"].startswith("The sun"))
    merged = rows[i - 1] | {"end": rows[i]["end"], "text": rows[i - 1]["text"] + rows[i]["text"]}
    before = graph_roles(home)
    done = home("roles", "import", str(written([*rows[: i - 1], merged, *rows[i + 1 :]])), "--by", "anna", "--json")
    assert json.loads(done.out)["moved"] == 1
    assert [row[:2] for row in graph_roles(home)] == [row[:2] for row in before]
    wrong = json.loads(home("roles", "score", "--json").out)["wrong"]
    assert {(case["kind"], case["labelled"], case["found"]) for case in wrong} == {("border", "none", "border")}


def edited(rows: list[dict[str, Any]], text: str, role: str) -> list[dict[str, Any]]:
    return [row | {"role": role} if row["text"].startswith(text) else row for row in rows]


def said_of(home: Any, text: str) -> tuple[str, str | None]:
    (row,) = (row for row in exported(home) if row["text"].startswith(text))
    return row["role"], row["corrected_by"]


@pytest.mark.slow
def test_two_people_who_correct_the_same_export_lose_nothing(home: Any) -> None:
    rows = exported(home)
    home("roles", "import", str(written(edited(rows, "The sun", "AND"))), "--by", "anna")
    done = home("roles", "import", str(written(edited(rows, "Therefore", "OR"))), "--by", "bob")
    assert "1 step keeps the correction of anna" in " ".join(done.out.split())
    assert said_of(home, "The sun") == ("AND", "anna")
    assert said_of(home, "Therefore") == ("OR", "bob")
    statement = "MATCH (s:Step) WHERE s.role <> s.automatic_role RETURN s.role, s.corrected_by ORDER BY s.role"
    graph = [list(row.values()) for row in json.loads(home("cypher", statement, "--json").out)]
    assert graph == [["AND", "anna"], ["OR", "bob"]]
    # one step that both changed differently: nothing of the file is taken
    both = edited(edited(rows, "The sun", "IF"), "But it", "OR")
    refused = home("roles", "import", str(written(both)), "--by", "bob", code=None)
    assert refused.code != 0
    assert "anna corrected the step" in " ".join(refused.err.split())
    assert "Export again" in " ".join(refused.err.split())
    assert said_of(home, "But it")[0] == "BUT"
    # an old file that changes nothing undoes nothing; the newest one can take a correction back
    done = json.loads(home("roles", "import", str(written(rows)), "--by", "carol", "--json").out)
    assert done["kept"] == {"anna": 1, "bob": 1}
    fresh = exported(home)
    home("roles", "import", str(written(edited(fresh, "The sun", "NONE"))), "--by", "anna")
    assert said_of(home, "The sun") == ("NONE", "anna")
    assert said_of(home, "Therefore") == ("OR", "bob")


@pytest.mark.slow
def test_a_person_goes_on_in_the_file_that_was_imported(home: Any) -> None:
    rows = exported(home)
    home("roles", "import", str(written(edited(rows, "The sun", "AND"))), "--by", "anna")
    home("roles", "import", str(written(edited(rows, "The sun", "OR"))), "--by", "anna")
    assert said_of(home, "The sun") == ("OR", "anna")


def border_moved(rows: list[dict[str, Any]], by: int, **more: Any) -> list[dict[str, Any]]:
    """The border before "The sun shines" moved; the texts stay as they were exported."""
    i = next(i for i, row in enumerate(rows) if "sun shines" in row["text"])
    moved = [dict(row) for row in rows]
    moved[i - 1]["end"] += by
    moved[i]["start"] += by
    for row in moved[i - 1 : i + 1]:
        row.update(more)
    return moved


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"text": None}])
def test_a_border_is_moved_by_its_numbers_and_survives_export_and_import(
    home: Any, tmp_path: Path, more: dict[str, Any]
) -> None:
    rows = border_moved(exported(home), 4, **more)
    done = json.loads(home("roles", "import", str(written(rows)), "--by", "anna", "--json").out)
    assert done["moved"] == 2
    file = tmp_path / "home" / "corrections.json"
    steps = {chain: one["steps"] for chain, one in json.loads(file.read_text()).items()}
    score = home("roles", "score", "--json").out
    again = exported(home)
    assert [(r["start"], r["end"], r["role"]) for r in again] == [(r["start"], r["end"], r["role"]) for r in rows]
    assert [r["automatic_role"] for r in again].count(None) == 2
    home("roles", "import", str(written(again)), "--by", "bob")
    assert {chain: one["steps"] for chain, one in json.loads(file.read_text()).items()} == steps
    assert home("roles", "score", "--json").out == score
    assert exported(home) == again  # who and when, too


@pytest.mark.slow
def test_a_border_that_was_moved_is_not_moved_back_by_an_older_file(home: Any) -> None:
    rows = exported(home)
    home("roles", "import", str(written(border_moved(rows, 4))), "--by", "anna")
    moved = [(row["start"], row["end"]) for row in exported(home)]
    done = json.loads(home("roles", "import", str(written(rows)), "--by", "bob", "--json").out)
    assert done["kept"] == {"anna": 2}
    assert [(row["start"], row["end"]) for row in exported(home)] == moved
    refused = home("roles", "import", str(written(border_moved(rows, -2))), "--by", "bob", code=None)
    assert "anna corrected the step" in " ".join(refused.err.split())
    # who has seen it may move it again
    home("roles", "import", str(written(rows := border_moved(exported(home), -4))), "--by", "bob")
    assert [row["end"] for row in exported(home)] == [row["end"] for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: [rows[0] | {"role": "MAYBE"}, *rows[1:]], "roles.jsonl:1: role 'MAYBE' does not exist"),
        (lambda rows: [rows[0] | {"chain": "c0"}, *rows[1:]], "is not in"),
        (lambda rows: rows[1:], "must begin at 0"),
        (lambda rows: rows[:-1], "Keep every line"),
        (lambda rows: [rows[0] | {"text": "else"}, *rows[1:]], "roles.jsonl:1: the text is neither that"),
        (lambda rows: [{k: v for k, v in rows[0].items() if k != "role"}, *rows[1:]], "the field role is missing"),
        (lambda rows: [rows[0] | {"end": 10**9}, *rows[1:]], "must begin at 0 and end by"),
        (lambda rows: [rows[0] | {"start": None}, *rows[1:]], "start is 'None' and must be a whole number"),
        (lambda rows: [*rows, rows[-1]], "without hole or overlap"),
        (lambda rows: ["text"], "not an object"),
        (lambda rows: [], "holds no step"),
    ],
)
def test_a_wrong_file_is_one_error_and_nothing_is_stored(home: Any, tmp_path: Path, change: Any, says: str) -> None:
    path = written(change(exported(home)))
    done = home("roles", "import", str(path), "--by", "anna", code=None)
    assert done.code != 0
    assert says in " ".join(done.err.split())
    assert "Traceback" not in done.err
    assert not (tmp_path / "home" / "corrections.json").exists()


@pytest.mark.slow
def test_nothing_to_score_and_a_damaged_file_are_told(home: Any, tmp_path: Path) -> None:
    assert "nobody corrected a chain" in " ".join(home("roles", "score", code=None).err.split())
    (tmp_path / "home" / "corrections.json").write_text('{"c": 1}')
    assert "corrections.json cannot be read" in " ".join(home("roles", "score", code=None).err.split())


@pytest.mark.slow
def test_implicit_roles_are_shown_and_selected_only_where_they_are_asked_for(home: Any) -> None:
    assert "(THEREFORE 0." in home("show", "c.jsonl:1", "--implicit").out
    assert "(THEREFORE" not in home("show", "c.jsonl:1").out
    plain = home("export", "--subgraph", "roles:NONE>NONE>THEREFORE", "--format", "trl", "-o", "a.jsonl", code=None)
    assert plain.code != 0
    asked = home("export", "--subgraph", "implicit-roles:NONE>NONE>THEREFORE", "--format", "trl", "-o", "b.jsonl")
    assert asked.code == 0, asked.err
    row = json.loads(Path("b.jsonl").read_text(encoding="utf-8"))
    assert row["token_ids_in_graph"]["count"] == TEXTS[1].index("But")  # a token of the uniform model is a byte
    skeleton = json.loads(home("overlaps", "--kind", "skeleton", "--implicit", "--no-graph", "--json").out)
    assert any("THEREFORE>BUT>THEREFORE" in row["roles"] for row in skeleton["variants"])
    assert "compare no roles" in " ".join(home("overlaps", "--implicit", code=None).err.split())
