"""Overlaps: planted ones come back with their exact spans, chance ones stay near their control."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from trails.analyses import overlaps, sequences
from trails.analyses.sequences import token_corpus
from trails.errors import UsageError
from trails.schema import Role

# words that the random texts use too: a Markov chain cannot know them as a phrase
PLANTED = "aoau aobu aocu aodu aoau aohu aocu aoiu aoau aogu aobu aoju"


def planted(make: Any, random_texts: Any, in_chains: set[int], count: int = 30) -> list[Any]:
    traces = []
    for number, text in enumerate(random_texts(count, 60, seed=5, vocabulary=20)):
        words = text.split()
        if number in in_chains:
            words[10 + number : 10 + number] = PLANTED.split()
        traces.append(make([" ".join(words)], name=str(number)))
    return traces


def test_a_planted_repeat_is_found_with_its_exact_spans(make: Any, random_texts: Any) -> None:
    chains = {2, 3, 11, 29}
    traces = planted(make, random_texts, chains)
    found = overlaps.exact(token_corpus(traces), 10)
    # two of the four may go on with the same word by chance, which is a longer repeat of its own
    (row,) = [row for row in found.overlaps.to_pylist() if row["n_chains"] == len(chains)]
    assert row["text"] == " " + PLANTED
    assert row["n_tokens"] == 12
    assert row["n_occurrences"] == len(chains)
    places = {p["chain"]: (p["start"], p["end"]) for p in found.occurrences.to_pylist() if p["overlap"] == row["id"]}
    assert places == {traces[c].chain.id: (10 + c, 22 + c) for c in chains}
    score = found.scores[0]
    total = sum(t.n_tokens for t in traces)
    assert len(chains) * 12 / total <= score.value <= len(chains) * 14 / total
    assert all(control.value < score.value / 5 for control in score.controls)
    assert [control.name for control in score.controls] == ["order-1 Markov resample", "order-2 Markov resample"]


def test_the_order_of_chains_does_not_matter(make: Any, random_texts: Any) -> None:
    traces = planted(make, random_texts, {1, 2})
    one = overlaps.exact(token_corpus(traces), 10)
    two = overlaps.exact(token_corpus(traces[::-1]), 10)
    assert one.overlaps.equals(two.overlaps)
    assert one.occurrences.equals(two.occurrences)
    assert one.scores == two.scores


def test_phrase_statistics_alone_are_no_excess(corpus_of: Any, random_texts: Any) -> None:
    # 4 words: every short window repeats by chance alone, and the resample says so
    found = overlaps.exact(corpus_of(random_texts(40, 60, seed=1, vocabulary=4)), 5)
    score = found.scores[0]
    assert score.value > 0.5
    assert abs(score.value - score.control) < 0.05


def test_between_keeps_only_what_both_chains_share(make: Any, random_texts: Any) -> None:
    traces = planted(make, random_texts, {1, 2, 3})
    found = overlaps.exact(token_corpus(traces), 10)
    assert len(found.between(traces[1].chain.id, traces[2].chain.id).overlaps) == 1
    none = found.between(traces[1].chain.id, traces[4].chain.id)
    assert len(none.overlaps) == len(none.occurrences) == 0
    assert none.scores == found.scores
    assert none.batch().nodes["Overlap"].num_rows == 0


def test_masked_finds_what_differs_in_numbers_only(make: Any, random_texts: Any) -> None:
    traces = [make([text], name=str(i)) for i, text in enumerate(random_texts(25, 40, seed=2))]
    for number, (a, b) in enumerate([(3, 4), (50, 61)]):
        text = f"so we buy {a} red apples and then {b} green pears for the whole party today"
        traces.append(make([text], name=f"apples {number}"))
    assert len(overlaps.exact(token_corpus(traces), 10).overlaps) == 0
    found = overlaps.masked(token_corpus(traces), 10)
    assert found.overlaps["n_tokens"].to_pylist() == [16]
    assert set(found.occurrences["chain"].to_pylist()) == {t.chain.id for t in traces[-2:]}
    # a masked number of several tokens is one symbol: lengths and shares count these, and say so
    report = found.report()
    assert found.unit == "symbols"
    assert {score.unit for score in found.scores} == {"share of symbols"}
    assert "of the symbols stand after a pair of symbols" in found.scores[0].note
    assert "of the symbols lie in overlaps of 10 symbols or more" in report.verdict
    assert report.tables[0].columns["n_tokens"] == "symbols"
    assert {score.unit for score in overlaps.exact(token_corpus(traces), 10).scores} == {"share of tokens"}


def test_a_corpus_too_small_for_a_control_gets_no_score(corpus_of: Any) -> None:
    found = overlaps.exact(corpus_of([PLANTED, PLANTED]), 5)
    assert found.scores == ()
    assert "too few" in found.withheld[0].reason
    assert len(found.overlaps) == 1  # what was found is still told
    row = found.batch().nodes["Overlap"].to_pylist()[0]
    assert row["coverage"] is None
    assert row["control"] is None


def test_graph_rows_carry_the_strictest_control(make: Any, random_texts: Any) -> None:
    traces = planted(make, random_texts, {1, 2})
    found = overlaps.exact(token_corpus(traces), 10)
    batch = found.batch()
    row = batch.nodes["Overlap"].to_pylist()[0]
    strictest = max(found.scores[0].controls, key=lambda control: control.value)
    assert row["excess"] == pytest.approx(row["coverage"] - strictest.value)
    assert row["control_name"] == strictest.name
    places = batch.relationships["IN"].to_pylist()
    assert {(p["end"], p["first"], p["stop"]) for p in places} == {(traces[c].chain.id, 10 + c, 22 + c) for c in (1, 2)}


def test_skeletons_count_variants_and_stand_beside_a_shuffle(make: Any) -> None:
    pattern = [Role.IF, Role.THEN, Role.BUT, Role.THEREFORE]
    rng = np.random.default_rng(0)
    traces = []
    for number in range(40):
        roles = pattern if number < 30 else [pattern[i] for i in rng.integers(0, 4, 4)]
        cues = ["if" if role == Role.IF else "" for role in roles]
        traces.append(
            make([f"step {i} of {number}. " for i in range(4)], name=str(number), roles=roles, connectives=cues)
        )
    found = overlaps.skeleton(traces, 4)
    assert found.variants is not None
    assert found.variants["roles"][0].as_py() == "IF>THEN>BUT>THEREFORE"
    assert found.variants["n_chains"][0].as_py() >= 30
    assert found.overlaps["text"][0].as_py() == "IF>THEN>BUT>THEREFORE"
    coverage, variants = found.scores
    assert coverage.value > coverage.control + 0.2
    assert variants.value < variants.control
    assert variants.note.startswith("fewer than the shuffle")
    assert found.n_implicit == found.n_steps - sum(bool(s.connective) for t in traces for s in t.steps)
    assert found.record()["n_implicit"] == found.n_implicit
    uncounted = overlaps.exact(overlaps.token_corpus(traces), 4).record()
    assert not {"n_steps", "n_implicit"} & set(uncounted)  # 0 would say that there are none
    assert found.record()["run"] == traces[0].run
    two = [replace(trace, run="r0" if number else "r1") for number, trace in enumerate(traces)]
    assert overlaps.skeleton(two, 4).record()["run"] is None  # the roles of chains, whichever run measured them


def test_shuffled_roles_are_no_skeleton(make: Any) -> None:
    rng = np.random.default_rng(3)
    some = list(Role)[:6]
    traces = [
        make(["a. ", "b. ", "c. ", "d. "], name=str(n), roles=[some[i] for i in rng.integers(0, 6, 4)])
        for n in range(90)
    ]
    score, variants = overlaps.skeleton(traces, 3).scores
    assert 0.2 < score.control < 0.9
    assert abs(score.value - score.control) < 0.08
    assert variants.note == "as many as the shuffle: no common patterns are shown"


def near_traces(make: Any, *, twins: int, width: int = 16, chains: int = 40) -> list[Any]:
    """Chains of four steps with random states; the last ``twins`` chains repeat the states of the first ones, in order."""
    rng = np.random.default_rng(7)
    states = rng.normal(size=(chains, 4, 1, width)).astype(np.float32) * np.linspace(1, 20, width) + 30
    for number in range(twins):
        states[chains - 1 - number] = states[number] + rng.normal(size=(4, 1, width)) * 0.05
    traces = []
    for number in range(chains):
        letters = "abcdefghijklmnopqrstuvwxyz"
        one, two = letters[number % 26], letters[number // 26]
        steps = [f"p{one} q{two}{letters[i]} r{one}{two} s{letters[i]}{one}. " for i in range(4)]
        traces.append(make(steps, name=str(number), states=states[number].astype(np.float32), state_layers=(2,)))
    return traces


def test_near_overlaps_are_diagonal_runs_beyond_masked_exact(make: Any) -> None:
    traces = near_traces(make, twins=3)
    found = overlaps.near(traces)
    pairs = {frozenset((traces[i].chain.id, traces[39 - i].chain.id)) for i in range(3)}
    got = {}
    for row in found.occurrences.to_pylist():
        got.setdefault(row["overlap"], set()).add((row["chain"], row["start"], row["end"]))
    runs = {
        frozenset(chain for chain, _, _ in places)
        for places in got.values()
        if {(a, b) for _, a, b in places} == {(0, 4)}
    }
    assert pairs <= runs
    share = next(s for s in found.scores if s.name == "near share beyond masked exact")
    assert share.value >= 24 / 160
    assert share.controls[0].value < 0.1
    assert found.similar is not None
    assert min(found.similar["excess"].to_pylist()) > 0


def test_what_all_steps_of_a_role_and_place_have_in_common_is_no_near_overlap(make: Any) -> None:
    """Every step lies near those of its role and place, by these alone: the null of permuted dimensions does not see it."""
    rng = np.random.default_rng(3)
    kinds = (Role.NONE, Role.THEREFORE, Role.BUT, Role.BECAUSE)
    common = rng.normal(size=(4, 3, 1, 10))
    traces = []
    for n in range(100):
        words = [
            "".join("abcdefghij"[k] for k in rng.integers(10, size=6)) for _ in range(12)
        ]  # no numbers: these are masked
        texts = [" ".join(words[i::4]) + ". " for i in range(4)]
        roles = [kinds[(n + i) % 4] for i in range(4)]
        states = np.stack([common[(n + i) % 4, (0, 0, 1, 2)[i]] for i in range(4)])
        states = states + 0.2 * rng.normal(size=states.shape)
        traces.append(make(texts, name=str(n), roles=roles, states=states.astype(np.float32), state_layers=(2,)))
    assert len(set(overlaps.role_and_place(traces).tolist())) == 12
    share = overlaps.near(traces).scores[0]
    controls = {control.name: control.value for control in share.controls}
    assert share.value > 0.5
    assert controls["whitened dimensions permuted"] < 0.1
    assert controls[overlaps.SAME_KIND] > 0.6 * share.value
    assert share.beyond("whitened dimensions permuted")


def test_the_stratum_of_a_step_is_its_role_and_third_and_rare_roles_count_as_one(make: Any) -> None:
    roles = [[Role.NONE, Role.NONE, Role.THEREFORE]] * 30 + [
        [Role.BUT, Role.NONE, Role.IF],
        [Role.IF, Role.BUT, Role.BUT],
    ]
    traces = [make(["a b. ", "c d. ", "e f. "], name=str(n), roles=one) for n, one in enumerate(roles)]
    stratum = overlaps.role_and_place(traces).reshape(-1, 3)
    assert len({tuple(row) for row in stratum[:30].tolist()}) == 1
    assert len(set(stratum[0].tolist())) == 3
    assert stratum[30, 1] == stratum[0, 1]
    assert stratum[30, 0] == stratum[31, 0] != stratum[0, 0]  # two rare roles of one place
    assert stratum[30, 2] == stratum[31, 2] not in (stratum[0, 2], stratum[30, 0])


def test_random_states_have_no_near_overlap(make: Any) -> None:
    found = overlaps.near(near_traces(make, twins=0))
    share = found.scores[0]
    assert share.value < 0.05
    assert len(found.overlaps) == 0


def test_near_pairs_that_masking_explains_are_not_counted(make: Any) -> None:
    traces = near_traces(make, twins=0)
    states = np.random.default_rng(9).normal(size=(2, 1, 16)).astype(np.float32) * np.linspace(1, 20, 16) + 30
    for number in range(6):
        steps = [f"so we buy {number} red apples and then {number + 7} more. ", f"in all that makes {number} apples. "]
        traces.append(make(steps, name=f"apples {number}", states=states.astype(np.float32), state_layers=(2,)))
    found = overlaps.near(traces)
    assert found.similar is not None
    apples = {t.chain.id for t in traces[-6:]}
    rows = [
        r for r in found.similar.to_pylist() if r["start"].split(":")[0] in apples and r["end"].split(":")[0] in apples
    ]
    assert rows
    assert all(row["explained"] for row in rows)
    assert next(s for s in found.scores if "explained" in s.name).value > 0.9


def test_a_run_without_states_says_what_to_type(make: Any) -> None:
    with pytest.raises(UsageError, match="--states"):
        overlaps.near([make(["a b."], name="1")])
    with pytest.raises(UsageError, match="layers 2"):
        overlaps.near(near_traces(make, twins=0), layer=3)


def test_too_few_states_are_withheld(make: Any) -> None:
    found = overlaps.near(near_traces(make, twins=0, chains=5))
    assert found.record()["n_steps"] == 20
    assert "n_implicit" not in found.record()  # not counted, and so not 0
    assert found.scores == ()
    assert "50" in found.withheld[0].reason


def table_of_spans(spans: dict[str, list[tuple[str, int, int]]]) -> tuple[Any, Any]:
    """Overlaps and occurrences from id → places."""
    rows = [(name, chain, a, b) for name, places in spans.items() for chain, a, b in places]
    columns = dict(zip(("overlap", "chain", "start", "end"), zip(*rows, strict=True), strict=True))
    return pa.table({"id": list(spans)}), pa.table(columns)


def test_an_overlap_inside_longer_ones_everywhere_is_nested() -> None:
    spans = {
        "long": [("a", 0, 20), ("b", 5, 25)],
        "inside": [("a", 3, 15), ("b", 8, 20)],  # both inside long
        "alone once": [("a", 3, 15), ("c", 0, 12)],  # the second place is its own
        "two hosts": [("a", 2, 18), ("d", 1, 11)],
        "host": [("d", 0, 30), ("e", 0, 30)],
        "equal": [("d", 0, 30), ("f", 7, 37)],  # equal spans do not contain each other
        "same start": [("e", 0, 9), ("d", 0, 9)],
        "same end": [("e", 20, 30), ("d", 20, 30)],
    }
    found = overlaps.nested(*table_of_spans(spans))
    hidden = {name for name, inside in zip(spans, found.tolist(), strict=True) if inside}
    assert hidden == {"inside", "two hosts", "same start", "same end"}
    assert overlaps.nested(*(table.slice(0, 0) for table in table_of_spans(spans))).tolist() == []


def test_the_report_shows_what_no_longer_overlap_contains(make: Any, random_texts: Any) -> None:
    traces = planted(make, random_texts, {2, 3, 11})
    words = PLANTED.split()
    traces += [make([" ".join([f"zo{n}ru", *words[2:12], f"zoru{n}"])], name=f"short{n}") for n in range(2)]
    found = overlaps.exact(token_corpus(traces), 10)
    report = found.report()
    rows = {row["text"].strip(): row for row in report.record()["overlaps"]}
    assert rows[PLANTED]["nested"] is False
    assert set(rows[PLANTED]["chains"]) == {traces[c].chain.id for c in (2, 3, 11)}
    assert rows[" ".join(words[2:12])]["nested"] is False  # two chains have it alone
    assert report.verdict.startswith("shared beyond chance: ")
    assert f"trails export --subgraph overlap:{found.overlaps['id'][0]} " in report.commands[0][1]
    pair = found.between(traces[2].chain.id, traces[3].chain.id).report().verdict
    names = f"{traces[2].chain.id} and {traces[3].chain.id}"
    assert pair.startswith(
        f"{names} share 3 overlaps, the longest of 13 tokens; the whole corpus: shared beyond chance"
    )
    apart = found.between(traces[2].chain.id, "none").report().verdict
    assert apart.startswith(
        f"{traces[2].chain.id} and none share no exact overlap of 10 tokens or more; the whole corpus: shared beyond chance"
    )


@pytest.mark.slow
def test_what_chance_shares_too_is_said_not_to_be_beyond_it(corpus_of: Any, random_texts: Any) -> None:
    found = overlaps.exact(corpus_of(random_texts(40, 60, seed=1, vocabulary=12)), 3).report()
    assert found.verdict.startswith("not beyond chance: ")
    assert [does for does, _ in found.commands] == ["export the first of them"]  # what chance shares is not dropped
    few = overlaps.exact(corpus_of([PLANTED, PLANTED]), 5).report()
    assert "whether that is beyond chance is open" in few.verdict
    none = overlaps.exact(corpus_of(random_texts(40, 60, seed=1)), 12).report()
    assert none.verdict == "no exact overlap of 12 tokens or more"
    assert none.commands == ()


def test_near_pairs_are_listed_once(make: Any) -> None:
    found = overlaps.near(near_traces(make, twins=3))
    assert found.similar is not None
    pairs = [frozenset((row["start"], row["end"])) for row in found.similar.to_pylist()]
    assert len(pairs) == len(set(pairs))
    cosines = found.similar["cosine"].to_pylist()
    assert cosines == sorted(cosines, reverse=True)


def test_an_unknown_kind_is_an_error_that_names_the_kinds() -> None:
    with pytest.raises(UsageError, match="kind 'foo'.*exact, masked, near, skeleton"):
        overlaps.find_overlaps("foo", [])  # type: ignore[arg-type]


def test_masked_overlaps_leave_connectives_alone(make: Any) -> None:
    """Therefore, Finally, Let and Wait begin sentences and never stand in lower case; Anna does, and is a name."""
    texts = ["Therefore Anna goes. Finally she stays. Let us see. Wait, no. Поэтому Иван идёт."]
    assert sequences.name_words(texts) == {"Anna", "Иван"}


def test_a_report_names_five_chains_of_an_overlap_and_counts_all(make: Any, random_texts: Any) -> None:
    traces = planted(make, random_texts, set(range(3, 10)))
    rows = overlaps.exact(token_corpus(traces), 10).record()["overlaps"]
    row = next(row for row in rows if row["n_chains"] == 7)
    assert len(row["chains"]) == len(set(row["chains"])) == overlaps.CHAINS_SHOWN == 5


def test_the_symbols_of_a_mask_are_no_tokens(corpus_of: Any) -> None:
    corpus = corpus_of(["we met Anna and 17 others", "we met Boris and 4 others"])
    symbols = set(sequences.masked_corpus(corpus).tokens.tolist())
    top = int(corpus.tokens.max())
    assert {symbol for symbol in symbols if symbol > top} == {top + 1, top + 2}
    assert len(symbols) == 4 + 2


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((3, 1, 1), "1 of 3 steps has no connective in the text: 1 begins its chain and follows nothing"),
        (
            (5, 3, 2),
            "3 of 5 steps have no connective in the text: 2 begin their chain and follow nothing, the relation of the "
            "other one is implicit",
        ),
        ((5, 2, 0), "2 of 5 steps have no connective in the text: their relation is implicit"),
        ((1, 1, 0), "1 of 1 step has no connective in the text: its relation is implicit"),
        ((4, 0, 0), "each of 4 steps has a connective in the text"),
    ],
)
def test_steps_without_a_connective_are_counted_in_words(counts: tuple[int, int, int], said: str) -> None:
    assert overlaps._without_connective(*counts) == said
