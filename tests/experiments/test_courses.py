"""Experiments on courses: orders hold the same rows and end alike; influence is read from probes; nothing leaks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from trails.errors import UsageError
from trails.experiments import bridges, stages
from trails.experiments.base import Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import disjoint, load_corpus
from trails.measure.base import Segmented
from trails.schema import Chain, Role
from trails.segment import segment

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


def found_of(bench: Bench, *texts: str) -> list[bridges.Argument]:
    """Arguments of texts whose third step is a conclusion on the way."""
    chains = [Chain("s", str(n), "", text, language="en") for n, text in enumerate(texts)]
    return list(bridges.arguments(bench, [Segmented(chain, segment(chain)) for chain in chains], 1000, 0))


CAT = "The cat sleeps on a mat. Because mats are warm, so sleeping cats get warm quickly. Hence the animal is content."
KETTLE = "The copper kettle whistles. Because steam escapes, so boiling water pushes steam outwards. Hence tea is near."
STONE = "The river stone is round. Because rivers grind, so tumbling stones lose sharp edges. Hence it rolls easily."


def test_a_bridge_is_a_conclusion_on_the_way(bench: Bench) -> None:
    (one,) = found_of(bench, CAT)
    assert one.item.steps[one.at].role is Role.THEREFORE
    assert one.steps[one.at].strip() == "so sleeping cats get warm quickly."
    assert bench.tokenizer.decode(one.tokens(one.at)) == one.steps[one.at]
    assert found_of(bench, "It rains. So the street is wet.") == []  # the only conclusion is the last step


def test_rows_lack_the_bridge_or_hold_its_words_in_another_order(bench: Bench) -> None:
    (one,) = found_of(bench, CAT)
    whole, cut, mixed = (bridges.row_of(bench, one, how, 0) for how in ("whole", "cut", "scrambled"))
    assert whole["input_ids"] == one.row["input_ids"]
    assert bench.tokenizer.decode(cut["input_ids"]).endswith("Because mats are warm, Hence the animal is content.")
    first, last = one.spans[one.at]
    assert sorted(mixed["input_ids"]) == sorted(whole["input_ids"])
    assert mixed["input_ids"] != whole["input_ids"]
    assert mixed["input_ids"][: first + 1] == whole["input_ids"][: first + 1]
    assert mixed["input_ids"][last - 1 :] == whole["input_ids"][last - 1 :]


def test_the_audit_stops_arguments_that_hold_a_withheld_bridge(bench: Bench) -> None:
    own = found_of(bench, CAT, KETTLE)
    leak = STONE.replace("rivers grind", "sleeping cats get warm quickly")
    rest = found_of(bench, STONE, leak)
    kept, clean, recall = bridges.audited(bench, own, rest, 0)
    assert (kept, clean) == ([0, 1], [0])
    assert 0.5 < recall <= 1
    # and those of its own arguments that hold another one's bridge, which then goes
    told = KETTLE.replace("Hence tea is near", "Hence tumbling stones lose sharp edges")
    assert bridges.audited(bench, found_of(bench, told, STONE, CAT), [], 0)[0] == [1, 2]
    # a bridge that stands twice in its argument cannot be taken out
    twice = CAT.replace("The cat sleeps on a mat.", "We saw that so sleeping cats get warm quickly.")
    assert bridges.audited(bench, found_of(bench, twice, KETTLE), [], 0)[0] == [1]


def test_passages_are_matched_in_length_and_place(bench: Bench) -> None:
    long = "The river stone is round. Because rivers grind and roll, so tumbling old stones lose their many sharp little edges."
    targets = found_of(bench, CAT, f"{long} Hence it rolls.")
    others = found_of(bench, f"{long} So it rolls away.", KETTLE, STONE)
    places = bridges.matched(targets, others)
    assert places[1] == 0
    assert places[0] in (1, 2)


def test_arms_differ_in_what_is_gone_only(bench: Bench, corpus) -> None:
    scale = Scale("small", max_tokens=200, evaluate=3, batch=2, size=0.1)
    found = bridges.prepare(bench, corpus, scale, 0)
    fed = found.realised()["fed"]
    names = ("removed", "random passage", "another random passage", "kept", "scrambled")
    assert len({fed[name]["rows"] for name in names}) == 1
    assert fed["kept"]["tokens"] == fed["scrambled"]["tokens"] > fed["removed"]["tokens"]
    assert fed["removed"]["tokens"] == pytest.approx(fed["random passage"]["tokens"], rel=0.05)
    asked = {row["chain"] for row in found.sets["H"]}
    assert not asked & {row["chain"] for row in found.feeds["never met"]}
    assert not {row["chain"] for row in found.sets["new"]} & {
        row["chain"] for name in names for row in found.feeds[name]
    }
    assert len(found.sets["H"]) == bridges.CHOICES * len(asked)
    for row in found.sets["H"][:: bridges.CHOICES]:
        said = [label for label in row["labels"] if label != -100]
        held = [bench.tokenizer.decode(other["input_ids"]) for other in found.feeds["removed"]]
        assert not any(bench.tokenizer.decode(said) in text for text in held)
        assert any(bench.tokenizer.decode(said) in bench.tokenizer.decode(o["input_ids"]) for o in found.feeds["kept"])
    assert found.realised() == bridges.prepare(bench, corpus, scale, 0).realised()
