"""A refusal and a note name the true reason and the line that helps, with the home in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.docs.blocks import ROOT

from trails.schema import Chain, Role
from trails.segment import segment

Trails = Callable[..., Any]


@pytest.mark.slow
def test_gaps_without_a_size_are_no_missing_gaps(trails: Trails, tmp_path: Path) -> None:
    home = ("--home", tmp_path / "h")
    trails("ingest", "--sample", *home)
    select = ("select", "--budget", 700, "--by", "gaps", *home)
    assert "the graph holds no gaps of this run. Run: trails gaps --home" in trails(*select, code=2).err
    trails("gaps", *home)
    said = trails(*select, code=2).err
    assert "with gaps have no size in nats (bridge_nats)" in said
    assert f"Run: trails gaps --home {tmp_path / 'h'} --calibrate" in said
    assert "holds no gaps" not in said
    trails("gaps", "--calibrate", *home)
    assert "bridge_nats: its size was not shown on this corpus" in trails(*select).err
    listed = trails("chains", "--limit", 1, *home)
    assert "per token: nats by the tokens that have a prediction" in listed.err
    assert "54,935 tokens in measured chains" in trails("status", *home).out


def test_only_the_main_clause_rule_and_the_question_mark_give_a_role_without_a_connective() -> None:
    """What ``trails show`` says of such a role rests on this."""
    texts = [
        "Because birds fly, they have wings.",
        "Although it rains, we go out.",
        "If n is even, n + 2 is even. Is it?",
    ]
    texts += [(ROOT / "docs" / "thoughts" / f"{name}.txt").read_text(encoding="utf-8") for name in ("ferry", "clock")]
    found = {step.role for text in texts for step in segment(Chain("s", "1", "", text)) if not step.explicit}
    assert found == {Role.NONE, Role.THEN, Role.THEREFORE, Role.BUT, Role.QUESTION}
