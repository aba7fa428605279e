"""Numbers and their nouns agree, and one function makes them agree everywhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import trails
from trails.cli.common import _LINE
from trails.platform.text import agreeing, counted, part_of

SOURCE = Path(trails.__file__).parent
NOUNS = (
    *("chains", "rows", "records", "members", "files", "steps", "tokens", "runs", "bubbles", "families", "sources", "shards"),
    *("seams", "layers", "spans", "overlaps", "variants", "inputs", "blocks", "books", "stages", "scenes", "duplicates"),
    *("vectors", "texts", "workers", "seeds", "fields", "gaps", "scores", "places", "pairs", "roles", "groups", "lines"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (1, ("chain",), "1 chain"),
        (0, ("chain",), "0 chains"),
        (1_200, ("bad record",), "1,200 bad records"),
        (2, ("family",), "2 families"),
        (2, ("day",), "2 days"),
        (2, ("pass",), "2 passes"),
        (1, ("chain is", "chains are"), "1 chain is"),
        (3, ("chain is", "chains are"), "3 chains are"),
    ],
)
def test_a_number_agrees_with_its_noun(count: int, words: tuple[str, ...], said: str) -> None:
    assert counted(count, *words) == said
    assert agreeing(count, "has", "have") == ("has" if count == 1 else "have")


def is_a_count(value: ast.FormattedValue) -> bool:
    """Whether what is formatted is a number that may be 1: a length, a sum, or anything with thousands apart."""
    spec = ast.unparse(value.format_spec)[2:-1] if value.format_spec else ""
    if isinstance(value.value, ast.Name) and value.value.id.isupper():
        return False  # a constant, never 1
    if ast.unparse(value.value).endswith("vocab_size"):
        return False
    if isinstance(value.value, ast.Call) and isinstance(value.value.func, ast.Name):
        return value.value.func.id in ("len", "sum", "int")
    return spec == ","


def test_no_number_stands_beside_a_plural_that_is_written_out() -> None:
    """The segmenter's files are let alone: their hash is that of the steps. Plans of experiments have no count of 1."""
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        place = file.relative_to(SOURCE)
        if place.parts[0] in ("segment", "experiments"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            for value, after in zip(node.values, node.values[1:], strict=False):
                if not (
                    isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant) and is_a_count(value)
                ):
                    continue
                words = re.match(r" ([a-z-]+)(?: ([a-z]+))?\b", str(after.value))
                if words and words[1] != "of" and (words[1] in NOUNS or words[2] in NOUNS):
                    found.append(f"{place}:{value.lineno}: {ast.unparse(value.value)}{words[0]}")
    # names of what is compared, not sentences
    assert [one for one in found if not one.startswith("train/check.py")] == []


def test_one_function_writes_every_share() -> None:
    """``36 %`` and never ``36%`` in the same output, and no ``0%`` for what is not 0. Plans of experiments are registered word
    for word, and their words stay."""
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        place = file.relative_to(SOURCE)
        if place.parts[0] == "experiments" or place.as_posix() == "platform/text.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.JoinedStr):
                continue
            for value, after in zip(node.values, [*node.values[1:], ast.Constant("")], strict=True):
                if not isinstance(value, ast.FormattedValue) or value.format_spec is None:
                    continue
                spec = ast.unparse(value.format_spec)[2:-1]
                behind = str(after.value) if isinstance(after, ast.Constant) else ""
                by_hand = spec.endswith("f") and behind.lstrip().startswith("%") and "100 *" in ast.unparse(value.value)
                if spec.endswith("%") or by_hand:
                    found.append(f"{place}:{value.lineno}: {ast.unparse(value)}")
    assert found == []


@pytest.mark.parametrize(
    ("part", "whole", "said"), [(0, 1, "0 of 1 chain has"), (1, 3, "1 of 3 chains has"), (0, 3, "0 of 3 chains have")]
)
def test_a_part_agrees_with_its_verb(part: int, whole: int, said: str) -> None:
    assert part_of(part, whole, "chain", "has", "have") == said


def test_every_line_to_run_that_a_command_prints_carries_the_home() -> None:
    """``with_home`` stands around what is printed, unless the text names a home or no command to copy."""
    found = []
    for file in sorted((SOURCE / "cli").glob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or ast.unparse(node.func) not in ("echo", "err.print", "out"):
                continue
            for text in node.args:
                if isinstance(text, ast.Call) and ast.unparse(text.func) == "with_home":
                    continue
                parts = [str(c.value) for c in ast.walk(text) if isinstance(c, ast.Constant)]
                if _LINE.search(" ".join(parts)) and not any("--home" in part for part in parts):
                    found.append(f"{file.name}:{node.lineno}")
    # neither takes a home: one says what another command does, the other makes an example
    assert [one.split(":")[0] for one in found] == ["browser.py", "browser.py", "export_graph.py", "stellator.py"]
