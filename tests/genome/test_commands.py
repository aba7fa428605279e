"""``trails genome`` as a user types it, over the packaged chains."""

from __future__ import annotations

import html
import json
import os
from itertools import pairwise
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from tests.genome.conftest import EXAMPLE, fill

from trails.cli import COMMANDS, cli, common
from trails.errors import TrailsError
from trails.readers import read
from trails.sample import canonical_path

SUB = ("init", "check", "show", "plan", "export", "scenes", "mutate", "cross", "search", "initiation")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home of every fourth canonical family."""
    chains = list(read([canonical_path()]))
    families = sorted({chain.family for chain in chains} | {"en:kettle"})[::4]
    kept = [chain for chain in chains if chain.family in families or chain.metadata["topic"] == "kettle"]
    return fill(tmp_path_factory.mktemp("small"), kept)


def run(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(cli, ["genome", *map(str, arguments)])
    if code:
        assert isinstance(done.exception, TrailsError)
        assert done.exception.exit_code == code
    else:
        assert done.exit_code == 0, (done.output, done.exception)
    return done


@pytest.mark.slow
def test_a_genome_from_init_to_export(small: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.genome.yaml"
    assert "3 books" in run("init", file).stdout
    home = ("--home", small)
    assert "sound" in run("check", file, "--alone").stdout
    found = json.loads(run("check", file, *home, "--json").stdout)
    assert found["books"] == 3
    shown = json.loads(run("show", file, *home, "--html", tmp_path / "a.html", "--json").stdout)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "first-course" in page
    assert "<script" not in page
    assert "<td></td>" not in page, "an empty table"
    for title in ("scenes of conflict", "gaps"):
        assert (f"<caption>{title}</caption>" in page) == bool(shown[title.split()[0]]), title
    nested = [(row["course"], len(row["course"]) - len(row["course"].lstrip(" "))) for row in shown["tree"]]
    for name, blanks in nested:
        head, _, _ = page.partition(f"<strong>{html.escape(name.strip())}</strong>: ")
        assert head.count("<ul>") - head.count("</ul>") == 1 + blanks // 2, name
    assert shown["n_rows"] == found["rows"]
    assert (
        shown["n_tokens"]
        == found["tokens"]
        == sum(row["tokens"] for row in shown["tree"] if not row["course"].startswith(" "))
    )
    plan = [json.loads(line) for line in run("plan", file, *home, "--json").stdout.splitlines()]
    assert [row["order"] for row in plan] == list(range(found["rows"]))
    written = json.loads(run("export", file, "--format", "trails", "-o", tmp_path / "out", *home, "--json").stdout)
    assert written["rows"] == found["rows"]
    rows = (tmp_path / "out" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(row)["chain"] for row in rows] == [row["chain"] for row in plan]
    heads, *lines = run("plan", file, *home).stdout.splitlines()
    assert heads == "  order  chain              tokens  stage / section / book  scene, role, rehearsal"
    assert len(lines) == found["rows"]
    for row, line in zip(plan, lines, strict=True):
        assert line[:7].strip() == str(row["order"]), line
        assert line[heads.index("chain") :].startswith(f"{row['chain']} "), line
        assert line[: heads.index("  stage")].endswith(f" {row['tokens']}"), line
        assert line[heads.index("stage") :].startswith(f"{row['stage']} / "), line


def test_a_home_describes_itself(small: Path, tmp_path: Path) -> None:
    file = tmp_path / "b.genome.yaml"
    run("init", file, "--from", small, "--books", 8)
    found = json.loads(run("check", file, "--home", small, "--json").stdout)
    assert found["stages"] == 3
    run("init", file, code=2)  # it exists


@pytest.mark.slow
def test_children_are_registered(tmp_path: Path) -> None:
    file = tmp_path / "a.genome.yaml"
    run("init", file)
    one, two = json.loads(run("mutate", file, "-o", tmp_path / "g", "--count", 2, "--json").stdout)
    assert run("check", one["file"], "--alone").exit_code == 0
    (child,) = json.loads(run("cross", one["file"], two["file"], "-o", tmp_path / "g", "--json").stdout)
    assert run("check", child["file"], "--alone").exit_code == 0
    entries = [json.loads(line) for line in (tmp_path / "g" / "registry.jsonl").read_text().splitlines()]
    assert [entry["operation"] for entry in entries] == [one["operation"], two["operation"], "cross"]
    assert entries[2]["parents"] == [one["genome"], two["genome"]]
    run("cross", file, file, "-o", tmp_path / "g", code=2)  # with itself there is nothing to cross


@pytest.mark.parametrize("name", SUB)
def test_every_part_has_help_with_an_example(name: str) -> None:
    assert f"trails genome {name} " in run(name, "--help").stdout


def test_a_home_is_put_into_those_lines_that_take_one(monkeypatch) -> None:
    monkeypatch.setitem(common._GIVEN, "home", "x")
    text = "run: trails genome scenes g.yaml -o s.jsonl; trails ingest s.jsonl; trails genome show g.yaml"
    assert common.with_home(text) == (
        "run: trails genome scenes g.yaml -o s.jsonl; trails ingest --home x s.jsonl; trails genome show --home x g.yaml"
    )


def test_lines_with_a_home_are_those_of_commands_that_take_one() -> None:
    context = click.Context(cli)
    for name in COMMANDS:
        command = cli.get_command(context, name)
        parts = (
            [command.get_command(context, part) for part in command.list_commands(context)]
            if isinstance(command, click.Group)
            else []
        )
        able = {part.name for part in parts if any("--home" in p.opts for p in part.params)}
        if parts:
            assert able == set(common.GROUPS[name]), name
        else:
            assert any("--home" in p.opts for p in command.params) == (name not in common.HOMELESS), name


def test_scene_texts_become_chains_that_are_read_back(tmp_path: Path) -> None:

    from trails.genome.model import load_genome
    from trails.genome.scenes import authored

    run("scenes", EXAMPLE, "-o", tmp_path / "scenes.jsonl")
    genome, _ = load_genome(EXAMPLE)
    wanted = [authored(s, genome.name).id for stage in genome.stages for s in stage.scenes if s.text]
    assert [chain.id for chain in read([tmp_path / "scenes.jsonl"])] == wanted


@pytest.mark.slow
def test_the_shuffled_control_has_the_same_rows_in_another_order(small: Path, tmp_path: Path) -> None:
    """Every row with the stage that it has in the course; the card says so; the seed decides the order."""
    file = tmp_path / "a.genome.yaml"
    run("init", file)

    def written(name: str, *more: object) -> tuple[list[str], str]:
        out = tmp_path / name
        run("export", file, "--format", "trails", "-o", out, "--home", small, *more)
        rows = (out / "train.jsonl").read_text(encoding="utf-8").splitlines()
        told = [json.loads(line) for line in (out / "course.jsonl").read_text(encoding="utf-8").splitlines()]
        names = ("stage", "section", "book", "scene", "role", "rehearsal")
        own = [{name: json.loads(row)[name] for name in ("chain", *names)} for row in rows]
        assert own == [{name: row[name] for name in ("chain", *names)} for row in told]
        assert [json.loads(row)["order"] for row in rows] == list(range(len(rows)))
        rows = [json.dumps(json.loads(row) | {"order": 0}) for row in rows]
        return rows, (out / "train.README.md").read_text(encoding="utf-8")

    course, card = written("course")
    shuffled, its_card = written("shuffled", "--order", "shuffled")
    assert shuffled != course
    assert sorted(shuffled) == sorted(course)
    stages = [json.loads(row)["stage"] for row in course]
    own = [json.loads(row)["stage"] for row in shuffled]
    assert sum(a != b for a, b in pairwise(own)) > 3 * sum(a != b for a, b in pairwise(stages)), (
        "no stage is kept together"
    )
    assert "--order shuffled" in card
    assert "**Shuffled**" in its_card
    assert "No row of a stage comes before" not in its_card
    assert written("again", "--order", "shuffled")[0] == shuffled
    assert written("other", "--order", "shuffled", "--seed", 1)[0] != shuffled


def test_mutation_ends_where_no_new_child_is_found(tmp_path: Path) -> None:
    file = tmp_path / "a.genome.yaml"
    books = '{select: "a", take: 1}, {select: "b"}'
    file.write_text(f"genome: 1\nname: x\nstages: [{{name: s, sections: [{{name: t, books: [{books}]}}]}}]\n", "utf-8")
    done = run("mutate", file, "-o", tmp_path / "g", "--count", 10_000, "--json")
    rows = json.loads(done.stdout)
    assert 5 < len(rows) == len({row["genome"] for row in rows}) < 20
    assert "gives no other in 200 seeds" in " ".join(done.stderr.split())


def test_a_huge_file_is_not_read_and_a_pipe_is_no_book(small: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.genome.yaml"
    with file.open("wb") as sparse:
        sparse.truncate(2**36)
    assert "more than" in str(run("check", file, code=3).exception)
    os.mkfifo(tmp_path / "pipe.jsonl")
    file.write_text('genome: 1\nname: x\nstages: [{name: s, sections: [{name: t, books: [{file: "pipe.jsonl"}]}]}]\n')
    assert "is neither a file nor a folder" in str(run("check", file, "--home", small, code=3).exception)


def test_a_folder_that_is_no_home_is_not_sound(tmp_path: Path) -> None:
    file = tmp_path / "a.genome.yaml"
    run("init", file)
    assert "is no home of trails" in str(run("check", file, "--home", tmp_path / "nowhere", code=2).exception)
    assert "sound" in run("check", file, "--home", tmp_path / "nowhere", "--alone").stdout
