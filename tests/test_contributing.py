"""CONTRIBUTING.md: every recipe is followed, word for word, in a copy of the source."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

PREAMBLE = '''
import contextlib, io, json, sys
from pathlib import Path
from types import SimpleNamespace

import trails
from trails.__main__ import main

assert Path(trails.__file__).is_relative_to(Path.cwd()), "the copy is tested"


def run_trails(*arguments, code=0, shows=""):
    """Run a command in this process; its output must hold ``shows``."""
    sys.argv = ["trails", *arguments]
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            main()
        except SystemExit as stop:
            assert stop.code == code, (stop.code, text.getvalue())
    assert shows in text.getvalue(), text.getvalue()
    return text.getvalue()


def small_home():
    """Two chains, measured by the uniform scorer, in the home that TRAILS_HOME names."""
    rows = [
        {"question": "Is 8 even?", "answer": "If 8 is divisible by 2, then it is even. So 8 is even."},
        {"question": "Is 9 even?", "answer": "If 9 is divisible by 2, then it is even. But 9 is odd, so no."},
    ]
    Path("two.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
    run_trails("ingest", "two.jsonl")
    with trails.Home() as opened:
        return SimpleNamespace(path=opened.settings.home, chain=next(opened.traces()).chain.id)
'''


@dataclass(frozen=True)
class Recipe:
    """The blocks of one recipe: (language, file or ``check``, content), in order."""

    title: str
    blocks: tuple[tuple[str, str, str], ...]


def recipes() -> list[Recipe]:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## Recipes\n")[1]
    found = []
    for part in re.split(r"^### ", text, flags=re.M)[1:]:
        blocks = re.findall(r"^```(\w+) (\S+)\n(.*?)^```$", part, re.M | re.S)
        assert part.count("\n```") == 2 * len(blocks), "every block says what it is"
        found.append(Recipe(part.splitlines()[0], tuple(blocks)))
    return found


def follow(recipe: Recipe, root: Path) -> str:
    """Do what the recipe says in the copy at ``root``; gives back the code that checks it."""
    check = ""
    for language, target, content in recipe.blocks:
        path = root / target
        if target == "check":
            check += content
        elif language == "diff":
            lines = content.splitlines(keepends=True)
            before = "".join(line[1:] for line in lines if line[0] in " -")
            after = "".join(line[1:] for line in lines if line[0] in " +")
            old = path.read_text(encoding="utf-8")
            # the last line of a block may be the beginning of a line
            assert old.count(before.rstrip("\n")) == 1, f"{recipe.title}: {target} does not hold once:\n{before}"
            path.write_text(old.replace(before.rstrip("\n"), after.rstrip("\n")), encoding="utf-8")
        else:
            assert not path.exists(), f"{recipe.title}: {target} exists already"
            path.write_text(content, encoding="utf-8")
    assert check, f"{recipe.title} shows nothing"
    return check


def test_there_is_a_recipe_for_every_kind_of_thing() -> None:
    assert [recipe.title for recipe in recipes()] == [
        "A reader", "A measure", "An analysis", "An exporter", "A query", "A store", "An experiment", "A command",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [pytest.param(recipe, id=recipe.title) for recipe in recipes()],
)
def test_a_recipe_does_what_it_says(recipe: Recipe, tmp_path: Path) -> None:
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("src", "cypher"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    check = follow(recipe, tmp_path)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("NEO4J_", "TRAILS_"))}
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + check],
        cwd=tmp_path,
        env={
            **variables,
            "PYTHONPATH": str(tmp_path / "src"),
            "TRAILS_HOME": str(tmp_path / "home"),
            "TRAILS_MODEL": "uniform",
            "HOME": str(tmp_path),
            "NO_COLOR": "1",
            "COLUMNS": "140",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ruff = [sys.executable, "-m", "ruff", "check", "--no-cache", "--quiet", "src"]
    linted = subprocess.run(ruff, cwd=tmp_path, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout
