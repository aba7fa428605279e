"""Runs the cells of a notebook, in order and in one namespace, and compares or writes what they print.

    python -m tests.docs.notebook FOLDER     run docs/tutorials/researcher.ipynb in FOLDER, which holds .trails, and store
                                             the outputs

A kernel, its client and their protocol are twenty packages; the notebook of the pages needs none of them: its cells are
Python, and a value at the end of a cell is shown as a notebook shows it (``_repr_html_``, else its text).
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "tutorials" / "researcher.ipynb"


def cells(notebook: Path = NOTEBOOK) -> list[dict[str, Any]]:
    """The cells of a notebook of format 4."""
    held = json.loads(notebook.read_text(encoding="utf-8"))
    assert held["nbformat"] == 4
    found: list[dict[str, Any]] = held["cells"]
    return found


def source(cell: dict[str, Any]) -> str:
    """The text of a cell."""
    return "".join(cell["source"])


def run(code: list[str], folder: Path) -> list[tuple[str, Any]]:
    """What every cell prints, and the value of its last line if that is an expression; run in ``folder``."""
    names: dict[str, Any] = {"__name__": "__main__"}
    found = []
    with contextlib.chdir(folder):
        for number, text in enumerate(code):
            tree = ast.parse(text, f"cell {number}")
            last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
            said, value = io.StringIO(), None
            with contextlib.redirect_stdout(said):
                exec(compile(tree, f"cell {number}", "exec"), names)
                if isinstance(last, ast.Expr):
                    value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), names)
            found.append((said.getvalue(), value))
    return found


def outputs(said: str, value: Any) -> list[dict[str, Any]]:
    """The outputs of a cell as the format stores them: printed text, and the text of a value. No HTML is stored: it is shown
    when the cell runs, and a stored page of somebody else's is nothing to open.
    """
    found: list[dict[str, Any]] = []
    if said:
        found.append({"name": "stdout", "output_type": "stream", "text": said.splitlines(keepends=True)})
    if value is not None:
        shown = f"<{type(value).__name__}, shown as a page>" if hasattr(value, "_repr_html_") else repr(value)
        found.append(
            {"data": {"text/plain": [shown]}, "execution_count": None, "metadata": {}, "output_type": "execute_result"}
        )
    return found


def main() -> None:
    """Run the notebook in the folder that is named and store what it prints."""
    held = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    code = [cell for cell in held["cells"] if cell["cell_type"] == "code"]
    for cell, (said, value) in zip(code, run([source(cell) for cell in code], Path(sys.argv[1])), strict=True):
        cell["outputs"] = outputs(said, value)
    NOTEBOOK.write_text(json.dumps(held, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
