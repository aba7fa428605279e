"""Scenes of conflict: found in a home, turned into items, and a detector whose worth is counted on labelled answers.

The 38 answers of ``resolutions.jsonl`` were written and labelled by one person, who also wrote the detector. The share of words
that counts was chosen on every other answer. The F1 says what the rules do on such answers, not on answers of others.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from trails.genome.compile import export_course
from trails.genome.model import ConflictScene, load_genome
from trails.genome.scenes import detect, f1, match_scenes, prompt_of, scene_id

SCENES = [
    ConflictScene(level=level, trigger=trigger, resolution_expected=expected)
    for level, trigger, expected in (
        ("учебник по химии", "фраза про электронные орбитали без геометрии", "переход в топологическую метафору"),
        ("school physics", "three seconds between flash and thunder", "wind changes the speed of sound only a little"),
        (
            "logic for beginners",
            "every swan that we saw is white",
            "a general rule is no law: one counterexample is enough",
        ),
        (
            "экономика",
            "средняя зарплата выросла, а люди жалуются",
            "медиана говорит о большинстве, среднее тянут немногие",
        ),
        ("set theory", "the set of all sets that do not contain themselves", "axioms restrict comprehension"),
    )
]
ITEMS = [
    json.loads(line) for line in Path(__file__).with_name("resolutions.jsonl").read_text(encoding="utf-8").splitlines()
]


def test_labelled_answers_by_rules() -> None:
    truth = [item["resolved"] for item in ITEMS]
    said = [detect(item["answer"], SCENES[item["scene"]]).resolved for item in ITEMS]
    precision, recall, score = f1(truth, said)
    # the control: an answer counts as resolved whenever it turns against something
    turned = [detect(item["answer"], SCENES[item["scene"]]).turn for item in ITEMS]
    control = f1(truth, turned)
    assert (len(ITEMS), sum(truth)) == (38, 18)
    # the rules are sure where they speak, and speak too seldom: their F1 does not beat that of the control
    assert (precision, recall) == pytest.approx((1.0, 12 / 18))
    assert control == pytest.approx((17 / 24, 17 / 18, 34 / 42))
    assert score == pytest.approx(0.8)


def test_likelihood_counts_beside_controls_and_the_prompt() -> None:
    scene = SCENES[1]

    def likelihood(before: str, text: str) -> float:
        helped = "paraphrase" in before and text == scene.resolution_expected
        return -3.0 + (1.2 if helped else 0.0) - (0.1 if "paraphrase" in before else 0.0)

    others = [other.resolution_expected for other in SCENES if other is not scene]
    found = detect("However, a paraphrase.", scene, likelihood=likelihood, controls=others)
    assert found.margin == pytest.approx(1.2)
    assert found.resolved
    assert found.covered == 0
    assert not detect("However, something else.", scene, likelihood=likelihood, controls=others).resolved
    assert math.isnan(detect("However, a paraphrase.", scene).margin)
    assert not detect("", scene, likelihood=likelihood, controls=others).resolved


@pytest.mark.slow
def test_a_scene_is_found_by_trigger_and_level(shelf, compiled) -> None:
    wanted = ConflictScene(
        level="sound and storms", trigger="three seconds between the flash and the thunder", resolution_expected="wind"
    )
    nothing = ConflictScene(level="botany", trigger="chlorophyll in ferns", resolution_expected="light")
    (row, score), other = match_scenes(shelf, [wanted, nothing])
    (text,) = (item["text"] for _, item in shelf.texts(np.array([row])))
    assert "thunder" in text
    assert score > 0.4
    assert other == (-1, 0.0) or other[1] < 0.4


@pytest.mark.slow
def test_the_item_of_a_scene_holds_the_three_keys_and_controls(packaged, shelf, tmp_path: Path) -> None:
    from tests.genome.conftest import EXAMPLE

    from trails.genome.course import compile_course

    genome, document = load_genome(EXAMPLE)
    course = compile_course(genome, document, shelf, folder=EXAMPLE.parent)
    export_course(course, "trails", tmp_path / "course")
    items = [json.loads(line) for line in (tmp_path / "course" / "scenes.jsonl").read_text("utf-8").splitlines()]
    rows = [json.loads(line) for line in (tmp_path / "course" / "train.jsonl").read_text("utf-8").splitlines()]
    assert [item["level"] for item in items] == ["учебник по химии", "school physics: sound and a storm"]
    for item, own in zip(items, course.scenes, strict=True):
        assert item["id"] == scene_id(own.scene)
        assert item["prompt"] == prompt_of(own.scene)
        assert item["controls"] == [o.scene.resolution_expected for o in course.scenes if o is not own]
        (row,) = (row for row in rows if row["scene"] == item["id"] and not row["rehearsal"])
        assert row["chain"] == item["trained_on"]
    assert items[0]["match"] == 1.0
    # the author's text reads as the resolution that it gives; the three keys alone do not
    (text,) = (item["text"] for _, item in shelf.texts(np.array([course.scenes[0].chain])))
    assert detect(text, course.scenes[0].scene).resolved
    assert not detect(course.scenes[0].scene.trigger, course.scenes[0].scene).resolved
