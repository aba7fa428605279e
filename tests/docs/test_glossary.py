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


RUSSIAN = (Path(__file__).parents[2] / "docs" / "glossary.ru.md").read_text(encoding="utf-8")


def entries(text: str) -> list[int]:
    """How many entries every section of a glossary has."""
    return [len(re.findall(r"^\*\*", part, re.M)) for part in re.split(r"^## ", text, flags=re.M)]


def test_the_russian_glossary_keeps_step() -> None:
    """As many entries in every section, in the same order: every English term stands beside its Russian one."""
    assert entries(RUSSIAN) == entries(PAGE)
    english = [re.match(r"\*\*([^*]+)\*\*", line) for line in PAGE.splitlines() if line.startswith("**")]
    russian = [line for line in RUSSIAN.splitlines() if line.startswith("**")]
    for match, line in zip(english, russian, strict=True):
        assert match
        first = match[1].split(",")[0].lower()
        assert first.split()[0] in line.lower(), f"{first}: {line}"
    assert re.search(r"[а-яё]", RUSSIAN)
