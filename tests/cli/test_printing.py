"""Everything printed goes through one place, and no text of strangers steers the terminal, whatever the command."""

from __future__ import annotations

import ast
import json
import re
import unicodedata
from pathlib import Path

import pyarrow as pa
import pytest

from trails.analyses.report import Report, ReportTable
from trails.cli import COMMANDS
from trails.cli.common import print_rows
from trails.cli.scores import print_report

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "\x1b]52;c;ZXZpbA==\x1b\\\x1b]8;;http://evil/\x1b\\link\x1b[2J\x1b[6n\x9b31m\u202e\x1b]0;title\x1b\\\x07[bold][/b]:x:"
PRINTS = {
    "click.echo",
    "click.confirm",
    "click.prompt",
    "click.secho",
    "rich.print",
    "sys.stdout.write",
    "sys.stderr.write",
    "Console",
    "print",
}


def steering(text: str) -> set[str]:
    """Characters in ``text`` that steer a terminal, by Unicode category and the list of bidi overrides."""
    return {
        c
        for c in text.replace("\r\n", "\n")
        if (unicodedata.category(c) in ("Cc", "Cs") and c not in "\t\n")
        or "\u202a" <= c <= "\u202e"
        or "\u2066" <= c <= "\u2069"
    }


@pytest.mark.slow
def test_no_module_prints_around_it() -> None:
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in PRINTS:
                found.append(f"{path.name}:{ast.unparse(node.func)}")
    # the ways out: echo, JSON, CSV, a question, and an error where nothing that prints can be imported
    ways = ["__main__.py:sys.stderr.write", "common.py:click.confirm"] + ["common.py:click.echo"] * 3
    assert sorted(found) == ways


@pytest.fixture
def hostile(trails, tmp_path: Path) -> str:
    """A home whose every text is hostile; gives back the file it was read from."""
    rows = [
        {
            "id": f"{n}{HOSTILE}",
            "question": f"Question {n} {HOSTILE}",
            "chain": f"If {HOSTILE} holds then x is {n}. But {HOSTILE} and 7 hold as before. Therefore {HOSTILE} is so.",
            "answer": HOSTILE,
            HOSTILE: "meta",
        }
        for n in range(4)
    ]
    path = tmp_path / f"esc{HOSTILE.replace('/', '')}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    trails("ingest", path)
    return str(path)


COMMAND_LINES: dict[str, list[list[str]]] = {
    "ingest": [
        ["{file}"],
        ["{file}", "--dry-run"],
        ["{file}", "--field", "chain=no{x}"],
        ["nowhere{x}"],
        ["--reader", "{x}", "{file}"],
    ],
    "status": [[], ["--home", "no{x}"]],
    "show": [["{chain}"], ["{chain}", "{other}"], ["{chain}", "--numbers"], ["no{x}"], ["{chain}", "--measure", "{x}"]],
    "cypher": [
        ["MATCH (c:Chain) RETURN c.id, c.question, c.text, c.source"],
        ["{x}"],
        ["MATCH (n) RETURN {x}"],
        ["@no{x}"],
    ],
    "query": [["--list"], ["chain-steps", "--param", "chain={chain}"], ["no{x}"], ["chain-steps", "--param", "{x}"]],
    "overlaps": [[], ["--kind", "masked"], ["--kind", "skeleton"], ["--kind", "{x}"], ["--between", "{x}", "y"]],
    "map": [[], ["--k", "{x}"]],
    "gaps": [["--no-graph"], ["--chain", "{x}"]],
    "bridge": [["{chain}:0", "{other}:1"], ["{x}", "y"]],
    "capture": [["If {x} holds then x is 3."], ["no{x}.txt"]],
    "drift": [["{chain}"], ["{x}"]],
    "variants": [["{chain}", "--count", "2"], ["{x}"]],
    "export": [
        ["--subgraph", "all", "--format", "messages", "-o", "rows{x}.jsonl"],
        ["--subgraph", "{x}", "--format", "trl", "-o", "y.jsonl"],
    ],
    "train": [["no{x}", "-o", "y{x}"]],
    "diff": [["{x}", "y"]],
    "recall": [["{x}", "--adapter", "no{x}"]],
    "experiment": [["{x}"], ["depth", "--data", "no{x}"]],
    "rebuild": [[], ["--home", "no{x}"]],
    "verify": [[], ["--home", "no{x}"]],
    "bulk": [["bulk{x}"]],
    "browser": [[], ["--save", "files{x}"]],
    "chains": [[], ["--source", "{x}"], ["--run", "{x}"]],
    "rename": [["run", "{x}", "{x}"]],
    "remove": [["chain", "{x}", "--dry-run"], ["source", "{x}", "--dry-run"], ["chain", "{chain}", "--dry-run"]],
    "merge": [["no{x}"], ["home", "--home", "home"]],
    "doctor": [["--home", "no{x}"]],
}

EVERY = [[], ["{x}"], ["--home", "no{x}"], ["--{x}"]]
"""For a command that has no lines of its own here."""


@pytest.mark.slow
def test_hostile_text_steers_no_terminal(hostile: str, trails) -> None:
    assert set(COMMAND_LINES) <= set(COMMANDS)
    listed = trails("cypher", "MATCH (c:Chain) RETURN c.id AS id, c.text AS text", "--json")
    assert HOSTILE in listed.json()[0]["text"], "data is untouched"
    assert not steering(listed.out)
    chain, other = (row["id"] for row in listed.json()[:2])
    raw = trails("cypher", "MATCH (c:Chain) RETURN c.text AS text", "--csv").out
    assert HOSTILE in raw, "a pipe gets CSV as it is"
    names = {"{file}": hostile, "{chain}": chain, "{other}": other, "{x}": HOSTILE.replace("/", "")}

    def filled(part: str) -> str:
        for name, value in names.items():
            part = part.replace(name, value)
        return part

    shown = 0
    for command in COMMANDS:
        for line in COMMAND_LINES.get(command, EVERY):
            done = trails(command, *map(filled, line), code=None)
            assert not steering(done.out + done.err), (command, line, steering(done.out + done.err))
            assert "MarkupError" not in done.err
            shown += r"\x1b" in done.out + done.err
    assert shown > 25, "hostile text was printed, and written out"


@pytest.mark.slow
def test_an_unknown_label_or_type_is_an_error_and_no_empty_table(trails, chains_file: Path) -> None:
    trails("ingest", chains_file)
    shown = trails("cypher", "MATCH (c:Chainn) RETURN c.id", code=6).err
    assert "the label Chainn, which nothing in the graph has. Did you mean Chain?" in shown
    shown = trails("cypher", "MATCH (:Token)-[r:NEXTT]->(:Token) RETURN r.surprisal", code=6).err
    assert "the relationship type NEXTT" in shown
    assert "Did you mean NEXT?" in shown
    for statement in ("CREATE (n:Thing)", "MERGE (n:Thing {id: 'x'})", "MATCH (c:Chain) CREATE (c)-[:MADE]->(:Thing)"):
        assert "--write" in trails("cypher", statement, code=6).err
    # declared, but not there yet; a name in quotes; more than one
    assert "no rows" in trails("cypher", "MATCH (o:Overlap) RETURN o.id").err
    assert "no rows" in trails("cypher", "MATCH (c:Chain) WHERE c.text = '(x:Nothing)' RETURN c.id").err
    assert trails("cypher", "MATCH (a:Chain)-[:HAS_STEP]->(s:Step) RETURN count(s) AS n", "--json").json()[0]["n"] > 0
    trails("query", "chain-steps", "--param", "chain=nosuch", code=2)


NAME = "two\nError: lines\tand\ra tab"
SHOWN = r"two\nError: lines\tand\ra tab"


def test_every_fault_of_a_course_has_a_line_and_a_name_starts_none(trails, tmp_path: Path) -> None:
    course = tmp_path / f"{NAME}.yaml"
    course.write_text("genome: 1\nname: x\nnosuch: 1\nother: 2\nstages: []\n", encoding="utf-8")
    said = trails("genome", "check", course, "--alone", code=None)
    lines = said.err.splitlines()
    assert len(lines) > 1
    assert all(".yaml:" in line for line in lines), "a fault is one line"


@pytest.mark.slow
def test_a_name_with_a_line_end_starts_no_line(trails, chains_file: Path, tmp_path: Path) -> None:
    bad = tmp_path / f"{NAME}.jsonl"
    bad.write_text('{"question": "broken"\n', encoding="utf-8")
    good = tmp_path / f"good {NAME}.jsonl"
    good.write_bytes(chains_file.read_bytes())
    folder = tmp_path / NAME
    folder.mkdir()
    trails("ingest", chains_file)
    for line in (
        ["ingest", bad],
        ["ingest", f"no {NAME}"],
        ["ingest", chains_file, "--reader", NAME],
        ["ingest", chains_file, "--model", folder],
        ["status", "--home", folder],
        ["show", NAME],
        ["cypher", f"@no {NAME}"],
        ["capture", bad],
        ["export", "--subgraph", f"no{NAME}", "--format", "trl", "-o", "x.jsonl"],
        ["export", "--subgraph", "all", "--format", "trl", "-o", "x.jsonl", "--refuse", f"no {NAME}"],
        ["train", f"no {NAME}.jsonl", "-o", "x"],
        ["recall", "all", "--adapter", folder],
        ["query", NAME],
        ["ingest", chains_file, f"--{NAME}"],
    ):
        done = trails(*line, code=None)
        assert done.code, line
        assert SHOWN in done.err, (line, done.err)
        starts = [one.strip() for one in done.err.splitlines() if "lines" in one]
        assert not any(one.startswith("Error: lines") for one in starts), (line, done.err)
    read = trails("ingest", good, "--dry-run").err
    assert f"read as     good {SHOWN}.jsonl: reader" in read


@pytest.mark.slow
def test_a_property_that_nothing_has_is_told(trails, tmp_path: Path) -> None:
    path = tmp_path / "graded.jsonl"
    path.write_text('{"question": "q", "chain": "If a, then b. So c.", "grade": 3}\n', encoding="utf-8")
    trails("ingest", path)
    for statement, said in (
        (
            "MATCH (c:Chain) RETURN c.id, c.languag AS l",
            "property languag: it is null in every row. Did you mean language?",
        ),
        (
            "MATCH (s:Step) WHERE s.rolle = 'BUT' RETURN s.id",
            "the property rolle: it is null in every row. Did you mean role",
        ),
        (
            "MATCH (c:Chain) RETURN c.zzz, c.qqq",
            "the property zzz: it is null in every row. Properties: docs/schema.md",
        ),
    ):
        done = trails("cypher", statement, "--json")
        assert said in done.err, statement
        assert isinstance(done.json(), list)
    assert "the property qqq" in done.err
    for statement in (
        "MATCH (c:Chain) RETURN c.id, c.meta_grade",
        "MATCH (s:Step) WITH {mine: s.id} AS m RETURN m.mine",
        "MATCH (c:Chain) RETURN 'c.nothing' AS x, c.text // c.other",
        "MATCH (:Token)-[r:NEXT]->(:Token) RETURN r.surprisal, r.attention_shift LIMIT 1",
    ):
        assert "the property" not in trails("cypher", statement).err, statement


@pytest.mark.slow
def test_a_name_of_the_data_starts_no_line(trails, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """File, id, family, model and field have a line end in their names, as files of strangers may."""
    rows = [
        {"text": f"If {n} is even, then it is. So {n} is.", "id": f"r{n} {NAME}", NAME: 1, "family": NAME}
        for n in (2, 4)
    ]
    (tmp_path / "data" / "in").mkdir(parents=True)
    (tmp_path / "data" / f"{NAME}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "data" / f"skipped {NAME}").write_text("x", encoding="utf-8")
    for line in (
        ("ingest", "data", "--family", "family"),
        ("ingest", "data", "--family", "family", "--dry-run"),
        ("status",),
        ("chains",),
        ("chains", "--source", f"{NAME}.jsonl"),
        ("show", "#1"),
        ("query", "corpus"),
        ("cypher", "MATCH (c:Chain) RETURN c.source AS source, c.source_id AS record"),
    ):
        for columns in ("60", "200"):
            monkeypatch.setenv("COLUMNS", columns)
            done = trails(*line)
            for printed in (done.out, done.err):
                assert not re.search(r"(?m)^\W*Error: lines", printed), (line, printed)
            assert r"\nError:" in done.out + done.err, (line, done)


def test_texts_of_a_list_are_told_apart_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    ways = pa.table({"ways": pa.array([["", ", and Carl", "so"]], pa.list_(pa.string()))})
    print_report(Report("odd", "a verdict", tables=(ReportTable("ways", ways),)))
    assert "∅ | , and Carl | so" in capsys.readouterr().out


@pytest.mark.parametrize("width", [60, 80, 140])
def test_long_names_are_whole_in_a_table_of_any_width(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    names = [f"{letter}-name-of-sixty-characters-{letter * 33}"[:60] for letter in "abc"]
    row = [1, "c" + "0" * 16, *names, 5, 120, 664.7, 5.545, "Natalia sold 48 clips in April and half as many in May."]
    columns = ["#", "chain", "source", "record", "family", "steps", "tokens", "nats", "per token", "first words"]
    print_rows(columns, [row, row])
    shown = capsys.readouterr().out
    for name in names:
        assert shown.count(name) == 2
    assert all(len(line) <= max(width, len(names[0]) + 13) for line in shown.splitlines())
    assert all(column in shown for column in columns)
