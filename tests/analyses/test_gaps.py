"""Gaps: a removed step comes first where the corpus makes it so; nothing is claimed where nothing can be known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.test_report import contents
from tests.store.factory import make_run

from trails.analyses import gaps
from trails.analyses.score import Control, Score
from trails.errors import UsageError
from trails.measure.base import Segmented
from trails.measure.uniform import UniformScorer
from trails.report.analysis import write_analysis
from trails.schema import Role


def sums(make: Any, count: int = 40, *, run: str = "rmade", steps: int = 6, seed: int = 0) -> list[Any]:
    """Chains in which every step needs the result of the step before, and no value ever comes back."""
    rng = np.random.default_rng(seed)
    traces = []
    for number in range(count):
        total, parts = int(rng.integers(1000, 9999)), []
        question = f"Ann starts with {total} coins"
        for _ in range(steps):
            add = int(rng.integers(1000, 9999))
            question += f", then gets {add}"
            parts.append(f"Ann has {total}+{add}={total + add} coins. ")
            total += add
        traces.append(make(parts, name=str(number), question=question + ".", run=run))
    return traces


@pytest.mark.slow
def test_a_removed_step_is_ranked_first() -> None:
    from tests.analyses.conftest import build_trace

    traces = sums(build_trace)
    intact = traces[0]
    item = gaps.without_step(Segmented(intact.chain, intact.steps), 3)
    texts = [item.chain.text[s.start : s.end] for s in item.steps]
    shortened = build_trace(texts, name="short", question=intact.chain.question)
    found = gaps.find_gaps([*traces[1:], shortened]).of(shortened.chain.id)
    first = found.seams.to_pylist()[0]
    assert first["ungrounded_values"] == [texts[3].split("+")[0].split()[-1]]
    assert (first["before"], first["after"]) == (texts[2].strip(), texts[3].strip())
    said = found.report().verdict
    assert said.startswith(f"most gap-like is the seam before step 3 of {shortened.chain.id}, where ")
    assert "ranked by the scores without a model: AUC 1.000" in said
    assert first["step"] == 3
    assert first["rank"] == 0
    assert first["ungrounded"] == 1


@pytest.mark.slow
def test_calibration_finds_every_removed_step_of_such_a_corpus(make: Any) -> None:
    found = gaps.calibrate(sums(make))
    assert found.n_chains == 40
    assert found.auc("ungrounded") == 1.0
    assert found.auc("no model") == 1.0
    by_name = {score.name: score for score in found.scores}
    # every seam is equally likely to be the true one, so position must be worth nothing
    assert 0.3 < by_name["no model"].control < 0.7
    assert by_name["no model"].controls[0].name == "position only"
    withheld = {item.name: item.reason for item in found.withheld}
    assert set(gaps.MODEL) <= set(withheld)
    assert "--calibrate" in withheld["surprisal_excess"]


@pytest.mark.slow
def test_nothing_is_found_where_steps_do_not_build_on_each_other(make: Any) -> None:
    rng = np.random.default_rng(1)
    letters = "abcdefghijklmnopqrstuvwxyz"
    traces = [
        make(["".join(rng.choice(list(letters), 6)) + " stands alone. " for _ in range(7)], name=str(n))
        for n in range(60)
    ]
    found = gaps.calibrate(traces)
    score = next(s for s in found.scores if s.name == "no model")
    assert 0.35 < score.value < 0.65
    assert score.interval is not None
    assert score.interval[0] <= 0.5 <= score.interval[1]


@pytest.mark.slow
def test_a_model_that_knows_nothing_adds_nothing(make: Any) -> None:
    scorer = UniformScorer()
    items = [Segmented(trace.chain, trace.steps) for trace in sums(make)]
    from trails.measure.base import MeasureOptions

    traces = scorer.measure(items, MeasureOptions(premises=True))
    found = gaps.calibrate(traces, scorer)
    share = next(s for s in found.scores if s.name == "model's own share")
    assert share.value <= 0.02
    assert share.controls[0].name.startswith("the model's scores shuffled")
    assert found.auc("all") == pytest.approx(found.auc("no model"), abs=0.02)
    # the record survives JSON, so that a run can keep it
    assert gaps.calibration_from(json.loads(json.dumps(found.stored()))) == found
    # what the model does not add to does not rank; it is calibrated all the same, and handed out
    assert found.best == "no model"
    assert set(found.features) <= set(gaps.NO_MODEL)
    again = gaps.find_gaps(traces, found)
    assert again.seams["bridge_nats"].null_count == 0
    assert again.seams["onset_surprisal"].null_count == 0
    # a size that was not shown is handed out with a word that says so
    (note,) = (one for one in again.notes if one.startswith("bridge_nats"))
    assert "its size was not shown on this corpus" in note
    assert again.report().tables[0].columns["bridge_nats"] == "bridge (nats, size not shown)"
    size = Score(gaps.SIZE, 0.5, "rank correlation", (Control("length of the removed step", 0.1),), (0.3, 0.7))
    shown = replace(found, scores=(*(one for one in found.scores if one.name != gaps.SIZE), size))
    assert gaps.find_gaps(traces, shown).report().tables[0].columns["bridge_nats"] == "bridge (nats)"
    assert shown.size_unshown() == ""
    low = replace(size, interval=(-0.3, 0.7))
    said = replace(found, scores=(*shown.scores[:-1], low)).size_unshown()
    assert "is 0.50 (-0.30 to 0.70), that of the step's length 0.10" in said
    # the score is a rank over the run, not within the chain: one seam has the largest, not one of every chain
    scores = again.seams["score"].to_numpy()
    assert scores.mean() == pytest.approx(0.5)
    assert (scores == 1).sum() < found.n_chains
    assert all(
        s == pytest.approx(((scores < s).sum() + ((scores == s).sum() - 1) / 2) / (len(scores) - 1)) for s in scores
    )
    # kept by an earlier version: it ranked by all scores wherever a model had measured, and that is said
    names = [name for name in gaps.NAMES if name in found.calibrated]
    old = {**found.stored(), "features": names, "weights": [0.0] * len(names)}
    del old["best"]
    was = gaps.calibration_from(old)
    assert was.best == "all"
    moved = [replace(s, value=0.4) if s.name == "all" else s for s in was.scores]
    assert "trails gaps --calibrate" in gaps.find_gaps(traces, replace(was, scores=tuple(moved))).notes[-1]


@pytest.mark.slow
def test_a_planted_model_signal_is_the_models_own_share(make: Any) -> None:
    """Surprisal rises exactly at the seam, and the text says nothing: all of the AUC is the model's."""
    rng = np.random.default_rng(5)
    words = ["red", "wet", "hot", "old", "big", "low"]
    traces = [
        make([f"it is {words[i]} {words[j]}. " for i, j in rng.integers(0, 6, (6, 2))], name=str(n)) for n in range(60)
    ]

    class Planted:
        """Closed-form scorer: 9 nats on the first token after the removed step, 1 nat elsewhere."""

        run = UniformScorer().run

        def count_tokens(self, item: Segmented) -> int:
            return len(item.chain.text)

        def measure(self, items: Any, options: Any) -> list[Any]:
            made = []
            for item in items:
                texts = [item.chain.text[s.start : s.end] for s in item.steps]
                seam = int(item.chain.source_id.rpartition("-")[2])
                trace = make(texts, name=item.chain.source_id, run=self.run.id)
                surprisal = trace.surprisal.copy()
                surprisal[trace.step_tokens[seam, 0]] = 9.0
                made.append(make(texts, name=item.chain.source_id, run=self.run.id, surprisal=surprisal))
            return made

    scorer = Planted()
    same_run = [
        make([t.chain.text[s.start : s.end] for s in t.steps], name=str(n), run=scorer.run.id)
        for n, t in enumerate(traces)
    ]
    found = gaps.calibrate(same_run, scorer)
    by_name = {score.name: score for score in found.scores}
    assert by_name["onset_surprisal"].value == 1.0
    assert by_name["all"].value > 0.98
    assert found.best == "all" or found.best == "model"
    assert found.auc(found.best) == max(found.auc(name) for name in ("all", "model", "no model"))
    seams = gaps.find_gaps(same_run, found)
    assert seams.record(1)["ranked_by"] == found.best
    share = by_name["model's own share"]
    assert share.interval is not None
    assert share.interval[0] > 0.2
    assert share.control < share.value / 2


@pytest.mark.slow
def test_the_order_of_chains_does_not_matter(make: Any) -> None:
    traces = sums(make, 25)
    one, two = gaps.find_gaps(traces), gaps.find_gaps(traces[::-1])
    assert one.seams.equals(two.seams)
    assert one.scores == two.scores


def test_too_few_chains_get_no_score_and_no_rows(make: Any) -> None:
    found = gaps.find_gaps(sums(make, 5))
    assert found.scores == ()
    assert len(found.seams) == 0
    assert "20" in found.withheld[0].reason
    batch = found.batch()
    assert batch.nodes["Gap"].num_rows == 0


@pytest.mark.slow
def test_graph_rows_and_pages_carry_what_the_score_is_worth(make: Any, tmp_path: Path) -> None:
    traces = sums(make)
    found = gaps.find_gaps(traces)
    first = found.seams.slice(0, 1).to_pylist()[0]
    linked = [trace for trace in traces if trace.chain.id == first["chain"]]
    write_analysis(tmp_path / "gaps.html", found.report(), make_run(), linked)
    mark = {"step": first["step"], "score": first["score"], "worth": found.calibration.beside()}
    assert contents(tmp_path / "gaps.html")[0]["chains"][0]["gaps"] == [mark]
    batch = found.batch()
    rows = batch.nodes["Gap"].to_pylist()
    assert len(rows) == 40 * 5
    assert {row["control_auc"] for row in rows} == {1.0}
    assert all(0 <= row["baseline_auc"] <= 1 for row in rows)
    assert {row["worth"] for row in rows} == {found.calibration.beside()}
    assert found.calibration.beside().startswith("beyond chance: AUC 1.000 (1.000 to 1.000), position alone ")
    assert all(row["value_surprisal"] is None for row in rows)  # not calibrated, so not handed out
    assert all(row["bridge_nats"] is None for row in rows)
    ends = {row["end"] for row in batch.relationships["BEFORE"].to_pylist()}
    assert ends == {f"{row['chain']}:{row['step']}" for row in rows}
    assert not any(row["step"] == 0 for row in rows)


def test_removing_a_step_keeps_the_partition(make: Any) -> None:
    trace = make(["one. ", "two. ", "three. ", "four."], roles=[Role.IF, Role.THEN, Role.BUT, Role.THEREFORE])
    item = gaps.without_step(Segmented(trace.chain, trace.steps), 1)
    assert item.chain.text == "one. three. four."
    assert [item.chain.text[s.start : s.end] for s in item.steps] == ["one. ", "three. ", "four."]
    assert [s.index for s in item.steps] == [0, 1, 2]
    assert [s.role for s in item.steps] == [Role.IF, Role.BUT, Role.THEREFORE]
    assert item.chain.id != trace.chain.id


def test_removed_steps_are_interior_and_spread_evenly(make: Any) -> None:
    picks = [gaps.removable(trace) for trace in sums(make, 300, steps=5)]
    counts = np.bincount([p for p in picks if p is not None], minlength=5)
    assert counts[0] == counts[4] == 0
    assert counts[1:4].min() > 70
    assert gaps.removable(make(["a. ", "b. ", "c."])) is None


@pytest.mark.parametrize(
    ("question", "steps", "expected"),
    [
        ("Tom has 48 pens.", ["He sells 48/2=24. ", "Then 48+24=72."], 0),
        ("Tom has 48 pens.", ["He sells some. ", "Then 48+24=72."], 1),
        ("Tom has 1,200 pens and half go.", ["a. ", "He has 1200/2=600."], 0),
        ("A dozen eggs.", ["a. ", "12 * 3 = 36."], 1),
        ("У Тани дюжина яиц, продали треть.", ["a. ", "12 / 3 = 4."], 0),
    ],
)
def test_ungrounded_values_are_operands_that_nobody_stated(
    make: Any, question: str, steps: list[str], expected: int
) -> None:
    trace = make(steps, question=question)
    assert gaps.text_scores(trace.chain, trace.steps)["ungrounded"][1] == expected


def test_step_zero_has_no_score(make: Any) -> None:
    trace = sums(make, 1)[0]
    scores = gaps.text_scores(trace.chain, trace.steps)
    assert all(np.isnan(values[0]) for values in scores.values())


def test_premises_are_differences_of_the_measured_numbers(make: Any) -> None:
    trace = make(["a b. ", "c d. ", "e f."], premises=([1.0, 2.0, 3.0], [1.5, 4.0, 3.5], [np.nan, 2.5, 3.25]))
    scores = gaps.seam_scores(trace, gaps.background([trace]), trace)
    assert scores["context_gain"][1:].tolist() == [2.0, 0.5]
    assert scores["premise_usefulness"][1:].tolist() == [0.5, 0.25]


def test_the_premise_matrix_is_the_cost_of_leaving_a_step_out(make: Any) -> None:
    whole = make(["a b ", "c d ", "e f "], surprisal=[1, 1, 2, 2, 3, 3])
    without = [
        make(["c d ", "e f "], surprisal=[4, 4, 3, 3]),
        make(["a b ", "e f "], surprisal=[1, 1, 5, 5]),
        make(["a b ", "c d "], surprisal=[1, 1, 2, 2]),
    ]
    matrix = gaps.premise_matrix(whole, without)
    assert matrix[1, 0] == 2.0
    assert matrix[2, 0] == 0.0
    assert matrix[2, 1] == 2.0
    assert np.isnan(matrix[0]).all()


@pytest.mark.slow
def test_another_instrument_is_refused(make: Any) -> None:
    with pytest.raises(UsageError, match="--model"):
        gaps.calibrate(sums(make), UniformScorer())
    calibration = gaps.calibrate(sums(make))
    with pytest.raises(UsageError, match="calibrate"):
        gaps.find_gaps(sums(make, run="rother"), calibration)


def scores_of(make: Any, question: str, steps: list[str]) -> dict[str, Any]:
    trace = make(steps, question=question)
    return gaps.text_scores(trace.chain, trace.steps)


def test_the_order_of_a_sum_tells_where_its_missing_term_was_found(make: Any) -> None:
    question = "Cats cost 21, dogs 32, fish 43 each and birds 54; he takes 2 of each."
    parts = [
        "Cats are 21*2=42. ",
        "Dogs are 32*2=64. ",
        "Fish are 43*2=86. ",
        "Birds are 54*2=108. ",
        "So 42+64+86+108=300.",
    ]
    whole = scores_of(make, question, parts)
    assert not whole["expected_here"][1:].any()
    assert not whole["skipped_values"][1:].any()
    for missing in (1, 2):
        found = scores_of(make, question, parts[:missing] + parts[missing + 1 :])
        assert found["expected_here"].tolist()[1:] == [float(i == missing) for i in (1, 2, 3)]
        # the price of the missing thing is the one value of the question that no step uses
        assert found["skipped_values"].tolist()[1:] == [float(i == missing) for i in (1, 2, 3)]
        assert found["from_unused"][missing] == 1


def test_a_step_that_takes_up_nothing_of_the_step_before_is_uncarried(make: Any) -> None:
    found = scores_of(make, "Ann has 7.", ["She gets 7+12=19. ", "Then 19*3=57. ", "Now 500*12=6000. ", "It is 6000."])
    assert found["uncarried"].tolist()[1:] == [0.0, 1.0, 0.0]
    # 500 is no result of one operation on 3 or 57 and a known value
    assert found["from_previous"].tolist()[1:] == [0.0, 0.0, 0.0]
    near = scores_of(make, "Ann has 7.", ["She gets 7+12=19. ", "Then 19*3=57. ", "Now 64*12=768. ", "It is 768."])
    assert near["from_previous"].tolist()[1:] == [0.0, 1.0, 0.0]  # 57+7


def test_without_values_nothing_is_said_of_them(make: Any) -> None:
    found = scores_of(make, "Is rain wet?", ["Rain is water. ", "Water is wet. ", "So rain is wet."])
    for name in ("uncarried", "expected_here", "from_previous", "from_unused", "skipped_values", "pending"):
        assert np.isnan(found[name]).all(), name
    assert np.isfinite(found["question_jump"][1:]).all()


@pytest.mark.slow
def test_further_chains_teach_the_weights_and_are_not_scored(make: Any) -> None:
    traces = sums(make, 60)
    few = gaps.calibrate(traces, limit=25)
    assert few.n_chains == 25
    more = [Segmented(t.chain, t.steps) for t in sums(make, 30, seed=9)]
    taught = gaps.calibrate(traces[:25], more=more)
    alone = gaps.calibrate(traces[:25])
    assert taught.n_chains == alone.n_chains == 25
    assert taught.weights != alone.weights
    # the same chains again teach nothing: they are those that are scored
    again = gaps.calibrate(traces[:25], more=[Segmented(t.chain, t.steps) for t in traces[:25]])
    assert again == alone


def test_a_chain_s_own_role_pairs_do_not_make_it_expected(make: Any) -> None:
    roles = [Role.IF, Role.THEN, Role.BUT, Role.THEREFORE, Role.IF, Role.BUT]
    traces = sums(make, 8, seed=3)
    traces = [replace(t, steps=tuple(replace(s, role=r) for s, r in zip(t.steps, roles, strict=True))) for t in traces]
    known = gaps.background(traces)
    one = traces[0]
    measured = gaps.seam_scores(one, known, one)["role_bigram"]
    unmeasured = gaps.unmeasured_scores(Segmented(one.chain, one.steps), known, one.steps)["role_bigram"]
    np.testing.assert_allclose(unmeasured, measured)
    with_own = gaps.unmeasured_scores(Segmented(one.chain, one.steps), known, ())["role_bigram"]
    assert (with_own[1:] < unmeasured[1:]).all()


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        ("50", 0),  # 48 + 2
        ("96", 0),  # 48 * 2
        ("46", 0),  # 48 - 2
        ("24", 0),  # 48 / 2
        ("0.48", 0),  # 48 % of 1
        ("52", 0),  # the rest of 48 %
        ("25", 1),
        ("2400", 1),
        ("25 and 7 and 96", 2),
    ],
)
def test_a_value_is_underivable_when_no_operation_on_two_known_ones_gives_it(
    make: Any, used: str, expected: int
) -> None:
    found = scores_of(make, "Tom has 48 pens in 2 boxes.", ["He counts them. ", f"Then he writes {used} down."])
    assert found["underivable"][1] == expected
    assert found["ungrounded"][1] == used.count("and") + 1


def test_pending_counts_what_later_steps_lack(make: Any) -> None:
    found = scores_of(
        make, "Ann has 7.", ["She gets 7+12=19. ", "Rain falls. ", "It stops. ", "So 500*3. ", "And 500*4."]
    )
    # 500 and 3 are lacking in step 3, 4 in step 4; a seam right before them has them as its own
    assert found["pending"][1:].tolist() == [3.0, 3.0, 1.0, 0.0]


def test_a_question_jump_is_how_far_the_step_moves_on_in_the_question(make: Any) -> None:
    question = "Apples grow. Horses gallop. Rivers stream. Horses sleep."
    steps = ["Apples here. ", "Rivers there. ", "Apples again. ", "Nothing known. ", "Rivers gallop."]
    found = scores_of(make, question, steps)["question_jump"]
    at = {word: question.index(word) for word in ("Apples", "Rivers", "gallop")}
    assert np.isnan(found[0])
    assert found[1] == pytest.approx((at["Rivers"] - at["Apples"]) / len(question))
    assert found[2] == 0.0  # back
    assert found[3] == 0.0  # a step without a place in the question
    assert found[4] == 0.0
    middle = scores_of(make, question, ["Apples here. ", "Rivers gallop."])["question_jump"]
    assert middle[1] == pytest.approx(((at["Rivers"] + at["gallop"]) / 2 - at["Apples"]) / len(question))
    # a word that the question has twice places nothing
    assert scores_of(make, question, ["Apples here. ", "Horses there."])["question_jump"][1] == 0.0


def test_a_chain_s_own_surprisal_is_taken_out_of_its_background(make: Any) -> None:
    """With it the model's surprise about a chain would be part of what is expected of the chain, and count for nothing."""
    words = ["red", "wet", "hot", "old", "big", "low"]
    rng = np.random.default_rng(4)
    traces = [
        make(
            [" ".join([*rng.choice(words, 5).tolist(), *words]) + ". " for _ in range(3)],
            name=str(n),
            surprisal=rng.uniform(0.5, 3.0, 36).astype(np.float32),
        )
        for n in range(6)
    ]
    one, others = traces[0], traces[1:]
    known = gaps.background(traces)
    alone = gaps.background(others)
    np.testing.assert_allclose(known.expected(one, one), alone.expected(one, None), rtol=1e-12)
    assert not np.allclose(known.expected(one, None), alone.expected(one, None))
    with_own = gaps.seam_scores(one, known, one)["surprisal_excess"]
    np.testing.assert_allclose(with_own[1:], gaps.seam_scores(one, alone, None)["surprisal_excess"][1:], rtol=1e-9)
    # a chain that is surprising everywhere is so in full, however often it says the same words
    loud = make([" ".join(words) + ". "] * 30, name="loud", surprisal=9.0)
    excess = gaps.seam_scores(loud, gaps.background([*others, loud]), loud)["surprisal_excess"]
    assert np.nanmin(excess) > 9.0 - 3.0


@pytest.mark.slow
def test_what_is_handed_out_is_the_score_itself_not_its_sign_or_rank(make: Any) -> None:
    """A sign only says which way a score speaks for a gap; the table holds what was measured."""
    assert {score.sign for score in gaps.SEAM_SCORES} == {1, -1}
    traces = sums(make, 30)
    found = gaps.find_gaps(traces).seams.to_pylist()
    for trace in traces[:5]:
        expected = gaps.text_scores(trace.chain, trace.steps)
        for row in (row for row in found if row["chain"] == trace.chain.id):
            for name, values in expected.items():
                value = float(values[row["step"]])
                assert row[name] == (None if np.isnan(value) else pytest.approx(value)), (name, row["step"])


def test_a_corpus_of_one_short_chain_is_counted_in_words(make: Any) -> None:
    found = gaps.calibrate([make(["One. ", "Two. "])])
    assert found.withheld[0].reason.startswith("0 of 1 chain has four steps or more, a calibration needs ")
