"""Sentences at the edge of a rule: one word more or less, one comma more, and the reading is another. Read by hand."""

from __future__ import annotations

import pytest

from trails.segment import packaged_lexicons
from trails.segment.mask import mask
from trails.segment.split import find_steps, hard_borders

LEXICON = packaged_lexicons()["en"]


def told(text: str, borders: list[int] | None = None, *, keep: bool = False) -> str:
    """Steps as ``ROLE text | ROLE text``."""
    found = find_steps(text, LEXICON, borders, keep_borders=keep)
    ends = [step.start for step in found[1:]] + [len(text)]
    return " | ".join(f"{s.role.value} {text[s.start : end].strip()}" for s, end in zip(found, ends, strict=True))


@pytest.mark.parametrize(
    "expected",
    [
        # a condition of one word is one; what has no verb of its own is none
        "IF If x, | THEN then we stop here.",
        "IF If x, | THEN we go home now.",
        "NONE If so, we go home.",
        # before "then" one word will do, before another connective it takes two, before a colon three
        "IF If x, but we stop here now.",
        "IF If x is odd, | BUT but not one, | THEN then it is prime.",
        "NONE It holds: so we stop here now.",
        "NONE It holds here: | THEREFORE so we stop here now.",
        # a consequence is told once: what the condition left open is closed by it
        "IF If x is odd, | THEN then it is prime, then it stops here.",
        "IF If x is odd, | BUT but not one, | THEN then it is prime, then it stops.",
        "IF If x is odd, | THEREFORE therefore it is prime, then it stops.",
        "IF If x is odd, | THEREFORE so it is prime, then it is not two.",
        "IF If x is odd, | THEN then it is prime, | PURPOSE so that we stop, then we go.",
        # without a condition "then" behind a comma goes on with the sentence
        "NONE We go, then we stop.",
        # a word that is a connective elsewhere does not hide the main clause
        "IF If it rains, | THEN so many people stay home.",
        "IF If it rains, | THEN for us it is over.",
        "IF If it rains, as well as snows, | THEN we stay at home.",
        "IF If it rains, and the sky is grey, | THEN we stay at home.",
        "IF If it rains, | BECAUSE because the sky is grey, we stay at home.",
        # the main clause has the role that the subordinate clause gives it, where it gives one
        "BUT Although it rains, | BUT we go out.",
        "BECAUSE Because it rains, | THEREFORE we stay home.",
        "BECAUSE Since it rains, | THEREFORE then we stay home.",
        "UNLESS Unless it rains, | THEN we go.",
        "NONE To win the game, you need three points.",
        "WHEN While it rains, we stay.",
        # full stops that end nothing
        "NONE He met Dr. Smith. | NONE He left. cf. Fig. 2 for it.",
        "NONE The U.S. Army came. | NONE In the U.S. | NONE He slept.",
        "NONE Point A. | NEXT Then we go. | NONE A. Smith came.",
        "NONE Vol. ii. | NONE The end. | NONE Vol. II. The end.",
    ],
)
def test_free_text(expected: str) -> None:
    text = " ".join(part.split(" ", 1)[1] for part in expected.split(" | "))
    assert told(text) == expected


@pytest.mark.parametrize(
    ("expected", "keep"),
    [
        ("NONE We stay at home; | IF if it rains, | THEN we sleep.", False),
        ("NONE We stay at home, | IF if it rains, | THEN we sleep.", False),
        ("NONE We stay at home; | THEREFORE thus it rains here.", False),
        ("NONE We stay at home, | NEXT then it rains here.", False),
        # a condition behind the main clause, in steps as the source gives them
        ("THEN We stay | IF if it rains today.", True),
        ("THEN We stay here, | IF if it rains today.", True),
        ("NONE We stay here: | IF if it rains today.", True),
    ],
)
def test_borders_of_the_source(expected: str, keep: bool) -> None:
    parts = [part.split(" ", 1)[1] for part in expected.split(" | ")]
    assert told(" ".join(parts), [0, len(parts[0]) + 1], keep=keep) == expected


def test_a_line_of_closing_marks_ends_at_its_line() -> None:
    text = ")\nThen b,"
    assert hard_borders(text, mask(text), LEXICON) == [0, 2]
