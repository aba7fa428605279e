"""docs/configuration.md names every variable, key and exit code that the code has, and none that it has not."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import trails.errors
from trails.config import Settings

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([a-zA-Z0-9_]+)`", PAGE))
VARIABLE = re.compile(r"\b_?(?:TRAILS|NEO4J|HF)_[A-Z0-9_]*[A-Z0-9]\b")
HUB = {"HF_HOME", "HF_TOKEN"}
"""Read by the hub's client, not by trails."""


def files() -> list[Path]:
    found = [
        *(ROOT / "src").rglob("*.py"),
        *(ROOT / "scripts").iterdir(),
        ROOT / "docker-compose.yml",
        ROOT / ".ci" / "run",
    ]
    return [path for path in found if path.is_file()]


def asked(path: Path) -> set[str]:
    """Names that Python code looks up in the environment, whatever they begin with."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Subscript(value=ast.Attribute(attr="environ"), slice=ast.Constant(value=str(name))):
                names.add(name)
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr="environ")), args=[ast.Constant(value=name), *_]):
                names.add(name)
            case ast.Call(func=ast.Attribute(attr="getenv"), args=[ast.Constant(value=name), *_]):
                names.add(name)
    return names


def variables() -> set[str]:
    found = {f"TRAILS_{name.upper()}" for name, field in Settings.model_fields.items() if not field.validation_alias}
    for path in files():
        found |= set(VARIABLE.findall(path.read_text(encoding="utf-8")))
        if path.suffix == ".py" and "src" in path.relative_to(ROOT).parts:
            found |= asked(path)
    return found - {"COMP_LINE", "COMP_POINT"}  # bash sets them for the completion


@pytest.mark.slow
def test_every_variable_is_on_the_page_and_none_that_nothing_reads() -> None:
    there = variables()
    assert {"TRAILS_CACHE", "NEO4J_PASSWORD", "TRITON_INTERPRET", "COLUMNS", "TRAILS_DTYPE"} <= there
    assert not there - set(re.findall(r"\b_?[A-Z][A-Z0-9]*_[A-Z0-9_]+\b|COLUMNS", PAGE))
    assert {name for name in NAMED if VARIABLE.fullmatch(name)} - there - HUB == set()


def test_every_key_of_the_settings_has_a_row_with_its_variable_and_default() -> None:
    rows = {row[0].strip("` "): row for line in PAGE.splitlines() if len(row := line.strip("|").split("|")) == 4}
    for name, field in Settings.model_fields.items():
        variable = f"TRAILS_{name.upper()}" if not field.validation_alias else name.upper()
        assert f"`{variable}`" in rows[name][1], name
        default = str(field.default)
        assert not default or "*" in default or f"`{default}`" in rows[name][2], name


def test_every_exit_code_is_on_the_page() -> None:
    codes = {
        error.exit_code
        for error in vars(trails.errors).values()
        if isinstance(error, type) and issubclass(error, trails.errors.TrailsError)
    }
    table = PAGE.split("## Exit codes")[1].split("##")[0]
    assert {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)} == codes | {0, 130}
