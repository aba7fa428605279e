"""Every checked block of the pages prints what it says, and every link leads somewhere."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.docs.blocks import PAGES, ROOT, Block, alike, blocks, differences

BLOCKS = [block for page in PAGES for block in blocks(page)]


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


def printed(command: str, home: Path) -> list[str]:
    """What a command of a page prints to both streams, in order."""
    words = shlex.split(command)
    assert words[0] == "trails", command
    done = subprocess.run(
        [sys.executable, "-m", "trails", *words[1:]],
        env=environment(home),
        cwd=home.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=560,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}"
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Homes that blocks run in, each made once."""
    return {}


def home_of(kind: str, made: dict[str, Path], factory: pytest.TempPathFactory) -> Path:
    """A copy of the home of this kind, so that blocks do not change one another's."""
    if kind not in made:
        made[kind] = factory.mktemp(kind) / ".trails"
        model = ["--model", "uniform"] if kind == "uniform" else []
        printed(shlex.join(["trails", "ingest", "--sample", *model]), made[kind])
    copy = factory.mktemp(f"{kind}-copy") / ".trails"
    shutil.copytree(made[kind], copy)
    return copy


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: f"{b.page}:{b.line}")
def test_a_block_prints_what_the_page_says(
    block: Block, made: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    home = home_of(block.home, made, tmp_path_factory)
    for command, expected in block.commands:
        wrong = differences(expected, printed(command, home), block.tolerance)
        assert not wrong, f"{block.page}:{block.line}: $ {command}\n{wrong}"


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
        f"docs/{name}.md" for name in ("response", "genome", "stellator", "training", "measuring")
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
