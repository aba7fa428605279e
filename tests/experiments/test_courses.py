"""Experiments on courses: orders hold the same rows and end alike; influence is read from probes; nothing leaks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from trails.errors import UsageError
from trails.experiments import stages
from trails.experiments.base import Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import disjoint, load_corpus

pytestmark = pytest.mark.train


def course_of(count: int) -> stages.Course:
    """Two stages, three books, the first of the second stage behind the others."""
    rows = tuple({"chain": f"c{k:02}", "input_ids": [k], "labels": [k]} for k in range(count))
    book = tuple(0 if k < count // 2 else 1 + k % 2 for k in range(count))
    cool = (1, count - 1)
    main = tuple(k for k in range(count) if k not in cool)
    return stages.Course(rows, tuple(min(b, 1) for b in book), book, main, cool)


def test_the_course_lists_its_books_that_are_there(corpus) -> None:
    assert stages.stages_of(corpus) == [(name, (name,)) for name in ("answers", "debate")]


@pytest.mark.parametrize("arm", stages.ORDERS)
def test_every_order_of_a_course_holds_the_same_rows_and_ends_alike(arm: str) -> None:
    course = course_of(20)
    surprisal, gain = np.arange(20.0)[::-1], np.arange(20.0) % 7
    found = stages.order_of(arm, course, surprisal, gain, 3)
    assert Counter(found) == Counter(range(20))
    assert found[-2:] == [1, 19]
    main = found[:-2]
    places = [course.stage[k] for k in main]
    if arm in ("genome", "within stages"):
        assert places == sorted(places)
    if arm == "genome":
        by_book = [[k for k in main if course.book[k] == book] for book in (0, 1, 2)]
        assert [k for part in by_book for k in part] == main
        assert by_book == [sorted(part, reverse=True) for part in by_book]  # rising surprisal
    if arm == "within stages":
        assert main != stages.order_of("genome", course, surprisal, gain, 3)[:-2]
    if arm == "reversed":
        assert main == stages.order_of("genome", course, surprisal, gain, 3)[:-2][::-1]
    if arm == "influence":
        assert [gain[k] for k in main] == sorted((gain[k] for k in main), reverse=True)
    if arm == "shuffled again":
        assert main != stages.order_of("shuffled", course, surprisal, gain, 3)[:-2]


def test_a_course_ends_on_rows_of_every_stage_and_is_judged_on_others(bench: Bench, corpus) -> None:
    scale = Scale("small", max_tokens=120, evaluate=3, batch=2, size=0.3)
    found = stages.prepare(bench, corpus, scale, 0)
    course = found.extra["course"]
    assert sorted((*course.main, *course.cool)) == list(range(len(course.rows)))
    assert len(course.cool) == round(stages.COOL * len(course.rows) / scale.batch) * scale.batch
    ends = Counter(course.stage[k] for k in course.cool)
    assert max(ends.values()) - min(ends.get(number, 0) for number in range(2)) <= 1
    fed = [row["input_ids"] for row in course.rows]
    for name in ("H", "D", "probes of influence"):
        rows = [row["input_ids"] for row in found.sets[name]]
        assert len(disjoint(rows, fed)) == len(rows) > 0
    assert not {row["chain"] for row in found.sets["H"]} & {row["chain"] for row in found.sets["probes of influence"]}
    assert Counter(found.extra["level"]).keys() == {0, 1}
    known = {row["chain"] for row, stage in zip(course.rows, course.stage, strict=True) if stage == 0}
    assert {row["chain"] for row in found.feeds["first stage alone"]} == known
    digests = {name: digest for name, digest in found.realised()["rows"].items() if name in stages.ORDERS}
    assert len(set(digests.values())) == 1
    assert found.realised() == stages.prepare(bench, corpus, scale, 0).realised()
    other = stages.prepare(bench, corpus, scale, 1)
    assert not {row["chain"] for row in course.rows} & {row["chain"] for row in other.sets["H"]}


def test_the_row_that_is_the_probe_has_the_most_influence(bench: Bench, corpus, small: Scale) -> None:
    rows = list(bench.sets(corpus, small, 0, 5).train)
    gain = stages.influence(bench, rows, [rows[3]], small, 0)
    assert gain.shape == (5,)
    assert int(gain.argmax()) == 3
    assert gain[3] > 0


def test_an_order_that_loses_a_row_is_refused(
    monkeypatch: pytest.MonkeyPatch, bench: Bench, corpus, small: Scale
) -> None:
    prepared = stages.prepare(bench, corpus, small, 0)
    whole = stages.order_of

    def losing(arm: str, *given: object) -> list[int]:
        found = whole(arm, *given)  # type: ignore[arg-type]
        return [found[1], *found[1:]] if arm == "reversed" else found

    monkeypatch.setattr(stages, "order_of", losing)
    with pytest.raises(UsageError, match="arm 'reversed' would be fed other rows than the plan says"):
        stages.run(
            bench, prepared, small, 0, ["genome", "reversed"], {"genome": 1e-3, "reversed": 1e-3}, lambda *_: None
        )


def test_one_source_makes_no_course(data: Path, tmp_path: Path) -> None:
    text = [line for line in data.read_text(encoding="utf-8").splitlines() if '"answers"' not in line]
    path = tmp_path / "one.jsonl"
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    corpus = load_corpus([path])
    with pytest.raises(UsageError, match="two sources or more"):
        stages.stages_of(corpus)
