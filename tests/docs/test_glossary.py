"""The glossary defines every measure, once, and nothing twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "glossary.md").read_text(encoding="utf-8")
DEFINED = [
    term.strip().lower() for match in re.finditer(r"^\*\*([^*]+)\*\*", PAGE, re.M) for term in match[1].split(",")
]


def test_no_term_is_defined_twice() -> None:
    assert len(DEFINED) > 50
    assert sorted(DEFINED) == sorted(set(DEFINED))


@pytest.mark.parametrize(
    "measure", ["surprisal", "entropy", "rank", "logit shift", "attention shift", "hidden shift", "baseline"]
)
def test_every_measure_has_its_entry(measure: str) -> None:
    assert measure in DEFINED
