"""Implicit roles stand beside the roles; scenes and source lines say what a step is a part of."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trails.schema import Chain, Role, Step
from trails.segment import described, segment
from trails.segment.implicit import N_STRUCTURE, Classifier, classifiers, feature_names, features, with_implicit
from trails.segment.scenes import scenes, source_lines

TEXT = "Tom has 5 apples. He buys 3 more.\nTom has 5 + 3 = 8 apples in total. But he gives one away, so 7 are left."


def steps_of(text: str, language: str = "en") -> tuple[Chain, tuple[Step, ...]]:
    chain = Chain("test", "1", "", text, language=language)
    return chain, described(chain, segment(chain))


@given(st.text(alphabet="aA1 .,\n=$бИ?", max_size=80), st.sampled_from(["en", "ru", "und", ""]))
def test_roles_stay_and_only_steps_without_one_get_an_implicit_one(text: str, language: str) -> None:
    chain = Chain("test", "1", "", text, language=language)
    before = segment(chain)
    after = described(chain, before)
    assert [(s.start, s.end, s.role, s.connective, s.explicit) for s in before] == [
        (s.start, s.end, s.role, s.connective, s.explicit) for s in after
    ]
    for step in after:
        assert bool(step.implicit_role) == (step.implicit_p > 0)
        if step.implicit_role:
            assert step.role is Role.NONE
            assert step.index > 0
            assert 0 < step.implicit_p <= 1
            assert Role(step.implicit_role) not in (Role.NONE, Role.IF, Role.THEN)
        assert step.role_with_implicit(1.1) is step.role
    scene = [step.scene for step in after]
    assert scene[:1] in ([], [0])
    assert all(b - a in (0, 1) for a, b in itertools.pairwise(scene))
    lines = [step.source_line for step in after]
    assert lines == sorted(lines)


def test_the_packaged_classifier_fits_its_features_and_gives_probabilities() -> None:
    names = feature_names()
    assert len(set(names)) == len(names)
    assert sorted(classifiers()) == ["en", "ru"]
    chain, steps = steps_of(TEXT)
    rows = features(chain.text, steps, "en")
    assert rows.shape == (len(steps), len(names))
    for known in classifiers().values():
        shares = known.probabilities(rows)
        assert shares.shape == (len(steps), len(known.roles))
        np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_probabilities_are_those_of_a_softmax_written_out() -> None:
    known = Classifier(("A", "B"), np.array([[1.0, 0.0], [0.5, -0.5]]), 2.0)
    score_a, score_b = (2 * 1.0 + 0.5) / 2, (2 * 0.0 - 0.5) / 2
    share = np.exp(score_a) / (np.exp(score_a) + np.exp(score_b))
    assert known.probabilities(np.array([[2.0]]))[0] == pytest.approx([share, 1 - share])


def test_a_sum_after_its_parts_is_a_likely_conclusion() -> None:
    _, steps = steps_of(TEXT)
    total = next(step for step in steps if "8 apples" in TEXT[step.start : step.end])
    assert (total.role, total.implicit_role) == (Role.NONE, "THEREFORE")
    assert total.implicit_p >= 0.6
    assert total.role_with_implicit() is Role.THEREFORE
    assert total.role_with_implicit(0.9999) is Role.NONE


def test_the_neighbours_roles_are_features_and_a_step_does_not_see_its_own() -> None:
    chain, steps = steps_of(TEXT)
    rows = features(chain.text, steps, "en")
    names = feature_names()
    for i, step in enumerate(steps):
        before = steps[i - 1].role.value if i else "START"
        assert rows[i, names.index(f"before {before}")] == 1
        assert rows[i, 6:N_STRUCTURE].sum() == 3
        changed = [s if s.index != i else Step(i, s.start, s.end, Role.UNLESS) for s in steps]
        np.testing.assert_array_equal(features(chain.text, changed, "en")[i], rows[i])
        assert step.index == i


def test_another_language_has_none() -> None:
    chain = Chain("test", "1", "", "C'est à côté. Où êtes-vous allé? Là, près du café.", language="fr")
    assert all(not step.implicit_role for step in with_implicit(chain, segment(chain)))


def scene_of(text: str) -> list[int]:
    return list(scenes(text, [step.start for step in segment(Chain("t", "1", "", text))]))


def test_scenes_begin_with_headings_turns_and_reflections() -> None:
    assert scene_of("# One\nA is B.\n## Two\nC is D.") == [0, 0, 1, 1]
    assert scene_of("It begins.\nChapter 2\nIt goes on.\nГлава 3\nКонец.") == [0, 1, 1, 2, 2]
    assert scene_of("Question: what is it?\nAnswer: it is 4.") == [0, 1]
    assert scene_of("Thought 1: I look.\nAction 1: Search[it]\nObservation 1: It is there.") == [0, 1, 2]
    assert scene_of("It is 4.\nWait, that is wrong. Let me check again. It is 5.") == [0, 1, 1, 1]
    assert scene_of("Note: it is 4.\nTotal: it is 5.") == [0, 0]


def test_scenes_begin_where_another_speaks() -> None:
    assert scene_of("ANNA: It is late.\nBORIS: It is not.\nANNA: It is.\nBORIS: Let us see. Look there.") == [
        0,
        1,
        2,
        3,
        3,
    ]
    assert scene_of("ANNA: It is late.\nANNA: It is.\nANNA: Go.") == [0, 0, 0]


def test_source_lines_are_the_source_s_own_steps_or_the_lines_of_the_text() -> None:
    text = "If A, then B. C.\nD, because E."
    starts = [0, 6, 14, 17, 20]
    assert source_lines(text, starts, ()) == (1, 1, 1, 2, 2)
    assert source_lines(text, starts, (0, 14, 20, 99)) == (1, 1, 2, 2, 3)
    text = "If it rains, then it is wet. The sun sets.\nWe stay at home, because it rains."
    chain = Chain("t", "1", "", text, boundaries=(0, text.index("We")))
    assert [(s.role.value, s.source_line) for s in described(chain, segment(chain))] == [
        *(("IF", 1), ("THEN", 1), ("NONE", 1)),
        *(("NONE", 2), ("BECAUSE", 2)),
    ]
