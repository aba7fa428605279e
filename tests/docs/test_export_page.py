"""docs/export.md names every form of a selection that the code knows."""

from __future__ import annotations

import re

import pytest
from tests.docs.blocks import ROOT

from trails.export import subgraph
from trails.export.subgraph import FORMS, is_selection, select

PAGE = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
TABLE = PAGE[PAGE.index("## What to select") : PAGE.index("A statement may return")]


def begins(form: str) -> str:
    """What a form begins with: ``roles:`` of ``roles:IF>THEN``."""
    return re.match(r"[a-z-]+[:>]|all|FILE|\"MATCH", form)[0]  # type: ignore[index]


@pytest.mark.parametrize("form", FORMS)
def test_the_page_and_the_help_of_selections_have_every_form(form: str) -> None:
    assert f"`{begins(form)}" in TABLE
    assert f"``{begins(form).removeprefix(chr(34))}" in (subgraph.__doc__ or "")


def test_every_form_that_is_resolved_is_listed() -> None:
    known = {begins(form) for form in FORMS}
    source = (ROOT / "src" / "trails" / "export" / "subgraph.py").read_text(encoding="utf-8")
    body = source[source.index("def select(") : source.index("def select_statement(")]
    resolved = {*re.findall(r'"([a-z-]+:)"', body), *subgraph._FROM_SHARDS}
    assert len(resolved) > 8
    assert resolved <= known
    assert all(is_selection(form.strip(chr(34))) for form in FORMS if not form.startswith(("query:", "FILE")))
    assert {form for form in known if form.endswith(":")} == resolved | {"query:"}
    assert select.__doc__
