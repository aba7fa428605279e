"""Tokens are assigned to steps: hand-made cases and properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trails.segment.align import assign_tokens


def test_token_belongs_to_the_step_of_its_last_character() -> None:
    # text "ab. cd": steps "ab." and " cd"; the token ". c" crosses
    steps = [(0, 3), (3, 6)]
    tokens = [(0, 2), (2, 5), (5, 6)]
    assert assign_tokens(steps, tokens).tolist() == [[0, 1], [1, 3]]


def test_parts_of_a_character_go_with_the_character() -> None:
    # "a🙂b" with the emoji in three tokens, of which the last completes it; the step boundary lies before the emoji
    tokens = [(0, 1), (1, 1), (1, 1), (1, 2), (2, 3)]
    assert assign_tokens([(0, 1), (1, 3)], tokens).tolist() == [[0, 1], [1, 5]]
    assert assign_tokens([(0, 2), (2, 3)], tokens).tolist() == [[0, 4], [4, 5]]


def test_a_step_without_a_token_is_empty() -> None:
    assert assign_tokens([(0, 1), (1, 2), (2, 3)], [(0, 3)]).tolist() == [[0, 0], [0, 0], [0, 1]]


def test_empty_inputs() -> None:
    assert assign_tokens([], []).shape == (0, 2)
    assert assign_tokens([(0, 0)], []).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("steps", "tokens", "message"),
    [
        ([(0, 2), (3, 4)], [(0, 4)], "step spans do not partition a text"),
        ([(0, 4)], [(0, 2), (1, 4)], "token spans do not partition a text"),
        ([(0, 4)], [(0, 3)], "steps end at character 4, tokens at 3"),
        ([], [(0, 3)], "1 tokens but no step to hold them"),
    ],
)
def test_spans_that_do_not_fit_are_refused(
    steps: list[tuple[int, int]], tokens: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        assign_tokens(steps, tokens)


def _partition(cuts: list[int], length: int) -> list[tuple[int, int]]:
    points = [0, *sorted(cuts), length]
    return list(itertools.pairwise(points))


@pytest.mark.slow
@given(st.data())
def test_agrees_with_the_definition(data: st.DataObject) -> None:
    length = data.draw(st.integers(1, 40))
    inner = st.lists(st.integers(1, length - 1), max_size=12) if length > 1 else st.just([])
    steps = _partition(list(set(data.draw(inner))), length)
    # repeated cuts are empty tokens; none after the last character, a character is completed by somebody
    tokens = _partition(data.draw(inner), length)
    got = assign_tokens(steps, tokens)
    owner = [
        next(s for s, (_, end) in enumerate(steps) if (token_end - 1 if token_end > start else start) < end)
        for start, token_end in tokens
    ]
    assert got.dtype == np.int32
    assert got[0, 0] == 0
    assert got[-1, 1] == len(tokens)
    assert (got[1:, 0] == got[:-1, 1]).all()
    for s, (start, end) in enumerate(got.tolist()):
        assert [t for t, o in enumerate(owner) if o == s] == list(range(start, end))
