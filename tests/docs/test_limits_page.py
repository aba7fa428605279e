"""Every figure on the page of limits stands on the page that its row names."""

from __future__ import annotations

import re

import pytest
from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "limits.md"
ROWS = [
    line
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and not line.startswith(("| idea", "| what"))
]
_LINK = re.compile(r"\[[^\]]+\]\(([^)#]+)[^)]*\)")
_NUMBER = re.compile(r"(?<![\w.,])[-−+]?\.?\d[\d,]*(?:\.\d+)?(?:/s|x)?")


def figures(text: str) -> set[str]:
    """The numbers of a text, without a sign of emphasis or direction."""
    return {number.rstrip(",").replace("−", "-").lstrip("+") for number in _NUMBER.findall(text)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[2:50])
def test_a_figure_stands_on_the_page_it_is_taken_from(row: str) -> None:
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    assert len(cells) in (3, 4), row
    link = _LINK.search(cells[-1])
    assert link, f"no page is named: {row}"
    there = (PAGE.parent / link[1]).read_text(encoding="utf-8")
    missing = figures(cells[1]) - figures(there)
    assert not missing, f"{link[1]} does not hold {sorted(missing)}: {row}"
    if "did not hold" in cells[1]:
        assert f"{cells[0]}: this DID NOT HOLD here" in there
