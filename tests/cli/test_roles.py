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
    assert json.loads(done.out) == {"chains": 2, "steps": len(rows), "changed": 1, "moved": 0, "by": "anna"}
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: [rows[0] | {"role": "MAYBE"}, *rows[1:]], "roles.jsonl:1: role 'MAYBE' does not exist"),
        (lambda rows: [rows[0] | {"chain": "c0"}, *rows[1:]], "is not in"),
        (lambda rows: rows[1:], "must begin at 0"),
        (lambda rows: rows[:-1], "Keep every line"),
        (lambda rows: [rows[0] | {"text": "else"}, *rows[1:]], "roles.jsonl:1: the text is not that"),
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
