"""The labelled steps of ``gold.jsonl``: their figures do not fall, and the numbers are those that anybody would count."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from benchmarks.segment import BORDER_GOAL, PRECISION_GOAL, RECALL_GOALS, follows, gold_rows, kappa, labelled

from trails.analyses.roles import RoleAgreement, score_roles
from trails.errors import UsageError
from trails.schema import Role
from trails.segment import segment


@pytest.fixture(scope="module")
def found() -> RoleAgreement:
    return score_roles(labelled(gold_rows()))


def test_every_excerpt_names_its_source_and_licence_and_is_labelled_twice() -> None:
    rows = gold_rows()
    steps = Counter[str]()
    for row in rows:
        assert row["licence"] in {"MIT", "Apache-2.0", "CC BY-SA 4.0", "CC BY 4.0", "public domain"}
        assert row["source"]
        for step in row["steps"]:
            assert step["text"].strip()
            assert {step["role"], step["first"] or "NONE", step["second"] or "NONE"} <= {role.value for role in Role}
        steps[row["language"]] += len(row["steps"])
    assert steps == {"en": 507, "ru": 329}


@pytest.mark.slow
def test_explicit_roles_and_borders_reach_their_goals(found: RoleAgreement) -> None:
    checked = 0
    for one in found.roles:
        goal = RECALL_GOALS[one.language].get(one.role)
        if goal is not None:
            checked += 1
            assert one.precision >= PRECISION_GOAL, one
            assert one.recall >= goal, one
    assert checked == 10
    borders = {score.name: score for score in found.scores if "borders" in score.name}
    assert len(borders) == 2
    for score in borders.values():
        assert score.value >= BORDER_GOAL
        assert score.beyond()


@pytest.mark.slow
def test_counts_are_those_of_a_plain_count(found: RoleAgreement) -> None:
    right = labelled_n = got = 0
    for item in labelled(gold_rows()):
        if item.language == "en":
            steps = segment(replace(item.chain, boundaries=item.starts), keep_source_steps=True)
            for step, role in zip(steps, item.roles, strict=True):
                labelled_n += role is Role.BECAUSE
                got += step.role is Role.BECAUSE
                right += role is step.role is Role.BECAUSE
    one = next(one for one in found.roles if (one.language, one.role) == ("en", "BECAUSE"))
    assert (one.labelled, one.found, one.right) == (labelled_n, got, right)
    assert one.recall == right / labelled_n


def test_a_label_that_nobody_gives_lowers_precision_or_recall_and_nothing_else() -> None:
    items = labelled(gold_rows())[:20]
    before = score_roles(items, draws=10)
    number = next(i for i, item in enumerate(items) if Role.THEREFORE in item.roles)
    roles = tuple(Role.UNLESS if role is Role.THEREFORE else role for role in items[number].roles)
    items[number] = replace(items[number], roles=roles)
    after = score_roles(items, draws=10)
    changed = {one.role for one in after.roles} ^ {one.role for one in before.roles}
    assert changed == {"UNLESS"}
    recall = {one.role: one.recall for one in after.roles}
    assert recall["UNLESS"] == 0.0


def test_kappa_of_chance_is_0_and_of_agreement_1() -> None:
    assert kappa([("a", "a"), ("a", "b"), ("b", "a"), ("b", "b")]) == pytest.approx(0)
    assert kappa([("a", "a"), ("b", "b"), ("b", "b")]) == pytest.approx(1)
    assert kappa([("a", "a"), ("a", "b"), ("b", "b"), ("b", "b")]) == pytest.approx(0.5)


def test_nothing_labelled_is_an_error() -> None:
    with pytest.raises(UsageError, match="no labelled chain"):
        score_roles([])


def test_few_chains_have_counts_and_no_score() -> None:
    found = score_roles(labelled(gold_rows())[:3])
    assert found.scores == ()
    assert "3 labelled chains in en" in found.withheld[0].reason
    assert found.report().tables[0].data.num_rows > 1


def test_what_is_added_or_comes_next_is_found_inside_a_step_as_well(found: RoleAgreement) -> None:
    by_role = {(one.language, one.role): one for one in found.roles}
    for language, role, least in (("en", "AND", 0.9), ("en", "NEXT", 0.9), ("ru", "AND", 0.9)):
        one = by_role[language, role]
        assert one.precision >= 0.87, one
        assert one.recall >= least, one


def test_the_graph_of_directly_following_roles_is_that_of_counting() -> None:
    chains = [["IF", "THEN", "NONE", "NONE"], ["IF", "THEN", "IF", "NONE"], ["NONE"]]
    assert follows(chains) == [
        ("NONE", pytest.approx(4 / 9), [("NONE", 1.0)]),
        ("IF", pytest.approx(3 / 9), [("THEN", pytest.approx(2 / 3)), ("NONE", pytest.approx(1 / 3))]),
        ("THEN", pytest.approx(2 / 9), [("IF", 0.5), ("NONE", 0.5)]),
    ]
    # a role of less than 2 % is no node, an edge of less than 10 % is not drawn
    rare = [["NONE"] * 60 + ["OR"] + ["NONE"] * 10]
    assert follows(rare) == [("NONE", pytest.approx(70 / 71), [("NONE", pytest.approx(68 / 69))])]
    assert follows([["ANSWER"]]) == [("ANSWER", 1.0, [])]
