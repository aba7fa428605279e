"""Every checked block of the pages prints what it says, and every link leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from tests.docs import notebook
from tests.docs.blocks import KINDS, PAGES, ROOT, Session, alike, blocks, differences, outside, sessions, unchecked

from trails.cli import cli

SESSIONS = [session for page in PAGES for session in sessions(page)]
MADE = {"sample": [[]], "uniform": [["--model", "uniform"]], "canonical": [["--model", "uniform"]] * 2}
"""Options of the ingests that make the home of a kind; the second one takes the canonical sample."""


def environment(home: Path) -> dict[str, str]:
    """The environment of a command: this home, a wide terminal, nothing of the user's settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("NEO4J_", "TRAILS_"))}
    return kept | {
        "PYTHONPATH": str(ROOT / "src"),
        "TRAILS_HOME": str(home),
        "COLUMNS": "140",
        "OMP_NUM_THREADS": "1",
        "NO_COLOR": "1",
    }


def printed(command: str, home: Path, code: int = 0) -> list[str]:
    """What a command of a page prints to both streams, in order; a pipe into ``head -N`` is followed."""
    line, _, pipe = command.partition(" | ")
    words = shlex.split(line, comments=True)
    assert words[0] == "trails", command
    done = subprocess.run(
        [sys.executable, "-m", "trails", *words[1:]],
        env=environment(home),
        cwd=home.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=3000,  # what hangs ends; a slow machine is no fault of the page
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == code, f"{command}\n{done.stdout}"
    lines = done.stdout.splitlines()
    if pipe:
        assert re.fullmatch(r"head -\d+", pipe), command
        lines = lines[: int(pipe.removeprefix("head -"))]
    return lines


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Homes that blocks run in, each made once."""
    return {}


def home_of(kind: str, made: dict[str, Path], factory: pytest.TempPathFactory) -> Path:
    """A copy of the home of this kind, so that blocks do not change one another's."""
    copy = factory.mktemp(f"{kind}-copy") / ".trails"
    if kind not in MADE:
        return copy
    if kind not in made:
        whole = factory.mktemp(kind) / ".trails"
        for options, sample in zip(MADE[kind], ("small", "canonical"), strict=False):
            printed(shlex.join(["trails", "ingest", "--sample", sample, *options]), whole)
        made[kind] = whole
    shutil.copytree(made[kind], copy)
    return copy


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("session", SESSIONS, ids=lambda s: f"{s.blocks[0].page}:{s.blocks[0].line}")
def test_a_block_prints_what_the_page_says(
    session: Session, made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = home_of(session.blocks[0].home, made, tmp_path_factory)
    (home.parent / "examples").symlink_to(ROOT / "examples")
    for name, text in session.files:
        (home.parent / name).write_text(text, encoding="utf-8")
    for block in session.blocks:
        for command, expected in block.commands:
            last = command == block.commands[-1][0]
            wrong = differences(expected, printed(command, home, block.code if last else 0), block.tolerance)
            assert not wrong, f"{block.page}:{block.line}: $ {command}\n{wrong}"


@pytest.mark.slow
@pytest.mark.model
def test_the_notebook_prints_what_it_holds(made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    home = home_of("sample", made, tmp_path_factory)
    held = [cell for cell in notebook.cells() if cell["cell_type"] == "code"]
    pages = 0
    for cell, (said, value) in zip(held, notebook.run(list(map(notebook.source, held)), home.parent), strict=True):
        stored = ["".join(one.get("text") or one["data"]["text/plain"]) for one in cell["outputs"]]
        now = ["".join(one.get("text") or one["data"]["text/plain"]) for one in notebook.outputs(said, value)]
        assert len(stored) == len(now), notebook.source(cell)
        for expected, found in zip(stored, now, strict=True):
            wrong = differences(tuple(expected.splitlines()), found.splitlines(), 0.002)
            assert not wrong, f"{notebook.source(cell)}\n{wrong}"
        pages += hasattr(value, "_repr_html_") and "<" in value._repr_html_()
    assert pages == 2, "a result and a report show themselves"


def test_figures_of_the_tutorial_are_those_of_the_notebook() -> None:
    page = (ROOT / "docs" / "tutorials" / "first-finding.md").read_text(encoding="utf-8")
    told = re.search(r"mean rank correlation is\s+([\d.]+), and shuffled tokens reach\s+([\d.]+)\.", page)
    assert told
    printed_there = "".join("".join(o.get("text", "")) for cell in notebook.cells() for o in cell.get("outputs", ()))
    assert f"mean rank correlation {told[1]}; shuffled tokens reach {told[2].rstrip('.')}" in printed_there


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    assert outside(page) == [], (
        "put <!-- run: KIND --> or <!-- not run: WHY --> before the block; see tests/docs/blocks.py"
    )
    for line, reason in unchecked(page):
        assert len(reason.split()) >= 4, f"{page.name}:{line}: {reason}"
    for block in blocks(page):
        assert block.home in KINDS, f"{page.name}:{block.line}: {block.home}"


def test_a_block_without_a_mark_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    shown = "```console\n$ trails status\nhome\n```\n"
    page.write_text(
        f"{shown}\n    $ trails verify\n\n<!-- run: empty -->\n{shown}\n<!-- not run: needs a server -->\n{shown}"
    )
    assert outside(page) == [2, 6]
    assert [reason for _, reason in unchecked(page)] == ["needs a server"]


def commands_on(page: Path) -> Iterator[tuple[int, str]]:
    """Every line to type of a page's code blocks that begins with trails, with its line."""
    inside = False
    kept, began = "", 0
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if line.startswith("```"):
            inside = not inside
        if kept:
            kept += " " + line.strip()
        elif (inside or line.startswith("    ")) and re.match(r"(\$ )?(\.venv/bin/)?trails [a-z]", line.strip()):
            kept, began = re.sub(r"^(\$ )?(\.venv/bin/)?", "", line.strip()), number
        if kept.endswith("\\"):
            kept = kept[:-1].rstrip()
        elif kept:
            yield began, kept
            kept = ""


TYPED = [page for page in (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "README.ru.md") if page.name != "commands.md"]
"""Pages with lines to type; that of commands is made from the commands."""


@pytest.mark.parametrize("page", TYPED, ids=lambda p: p.name)
def test_every_command_on_a_page_exists_with_its_options(page: Path) -> None:
    for number, line in commands_on(page):
        words = re.split(r"\s", re.split(r"\s+#\s| \| |; |   +", line)[0])
        context, command = click.Context(cli, info_name="trails"), cli
        for word in words[1:]:
            if not isinstance(command, click.Group):
                break
            for name in word.split("|"):
                found = command.get_command(context, name)
                assert found is not None, f"{page.name}:{number}: {line}"
            command = found
        options = {
            name for parameter in command.get_params(context) for name in (*parameter.opts, *parameter.secondary_opts)
        }
        used = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        # a word in quotes may begin with a dash, and what comes after a quote is a value
        assert used - options - {"-h"} == set(), f"{page.name}:{number}: {line}"


def test_a_wrong_word_and_a_wrong_number_are_found() -> None:
    assert alike("12 chains, 0.5001 nats", "12 chains, 0.5002 nats", 1e-3)
    assert not alike("12 chains, 0.51 nats", "12 chains, 0.52 nats", 1e-3)
    assert not alike("12 chains", "12 tokens", 1e-3)
    assert differences(("a 1", "…", "c 3"), ["a 1", "b 2", "c 3"], 0) == ""
    assert "no such line" in differences(("a 1", "…", "d 3"), ["a 1", "b 2", "c 3"], 0)
    assert "goes on" in differences(("a 1",), ["a 1", "b 2"], 0)
    assert "prints" in differences(("a 1", "c 3"), ["a 1", "b 2", "c 3"], 0)


def anchors(page: Path) -> set[str]:
    """Names that a link into a page may end in, as GitHub makes them of headings."""
    found = set()
    for heading in re.findall(r"^#+ +(.*)$", page.read_text(encoding="utf-8"), re.M):
        words = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(words)
    return found


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "README.ru.md"], ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), f"{page.name}: {target}"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{page.name}: {target}"


def test_the_russian_readme_keeps_step() -> None:
    """The same headings in number, the same links but those of the table of commands, and every line to type or read."""

    def parts(name: str) -> tuple[int, list[str], set[str]]:
        text = (ROOT / name).read_text(encoding="utf-8")
        typed = re.findall(r"^    .*$", text, re.M) + re.findall(r"^```console\n(.*?)^```$", text, re.M | re.S)
        return len(re.findall(r"^#+ ", text, re.M)), typed, set(re.findall(r"\]\(((?:docs|src|CH)[^)]+)\)", text))

    english, russian = parts("README.md"), parts("README.ru.md")
    assert english[:2] == russian[:2]
    assert russian[2] <= english[2]
    assert english[2] - russian[2] <= {
        f"docs/{name}.md" for name in ("analyses", "response", "export", "genome", "stellator", "training", "measuring")
    }
    numbers = [
        set(re.findall(r"[−+]?\.\d\d+|\d+ %", (ROOT / name).read_text("utf-8")))
        for name in ("README.md", "README.ru.md")
    ]
    assert numbers[0] == numbers[1]


def test_every_page_of_docs_is_listed_in_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        if page.name != "index.md":
            assert f"({page.name})" in index, page.name
