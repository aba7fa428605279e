"""The map: states, trails, unitigs and bubbles of planted chains; its scores against their controls."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from trails.analyses import statemap
from trails.analyses.sequences import token_corpus
from trails.errors import UsageError


def rows(table: Any) -> list[dict[str, Any]]:
    return table.to_pylist()


def test_states_merge_the_same_last_k_tokens_and_nothing_else(corpus_of: Any) -> None:
    corpus = corpus_of(["a b c d", "x b c d", "b c"])
    found = statemap.build(corpus, 2)
    # contexts: a, a b, b c, c d | x, x b, b c, c d | b, b c
    by_text = {(row["text"].strip(), row["n_occurrences"], row["n_chains"]) for row in rows(found.states)}
    assert by_text == {
        ("a", 1, 1),
        ("a b", 1, 1),
        ("b c", 3, 3),
        ("c d", 2, 2),
        ("x", 1, 1),
        ("x b", 1, 1),
        ("b", 1, 1),
    }
    assert sum(row["count"] for row in rows(found.trails)) == 3 + 3 + 1
    assert all(row["mean_surprisal"] == 1.0 for row in rows(found.trails))


def test_a_state_keeps_its_id_in_another_corpus_and_order(make: Any) -> None:
    texts = ["one two three four five", "zero two three four six", "nine two three four five"]
    traces = [make([text], name=str(i)) for i, text in enumerate(texts)]
    one = statemap.build(token_corpus(traces), 3)
    two = statemap.build(token_corpus(traces[::-1]), 3)
    for table in ("states", "trails", "unitigs", "bubbles"):
        first, second = rows(getattr(one, table)), rows(getattr(two, table))
        assert sorted(map(str, first)) == sorted(map(str, second))
    small = statemap.build(token_corpus(traces[:1]), 3)
    assert {r["id"] for r in rows(small.states)} <= {r["id"] for r in rows(one.states)}
    assert len(set(one.states["id"].to_pylist())) == len(one.states)
    other_k = statemap.build(token_corpus(traces), 2)
    assert not set(other_k.states["id"].to_pylist()) & set(one.states["id"].to_pylist())


def test_a_chain_without_branches_is_one_unitig(corpus_of: Any) -> None:
    found = statemap.build(corpus_of(["a b c d e f g", "a b c d e f g"]), 2)
    (unitig,) = rows(found.unitigs)
    assert unitig["text"] == "a b c d e f g"
    assert unitig["n_states"] == 7
    assert unitig["n_occurrences"] == 2.0
    assert len(found.bubbles) == 0


def test_alternative_ways_make_a_bubble_with_counts(corpus_of: Any) -> None:
    left, right = "start here now go", "and then we end up home"
    texts = [f"{left} {way} {right}" for way in ("by train", "by train", "on foot over hills")]
    found = statemap.build(corpus_of(texts), 2)
    (bubble,) = rows(found.bubbles)
    assert bubble["before"].strip() == "now go"
    # the ways run until both are merged again: two tokens into the common ending
    ways = dict(zip((w.strip() for w in bubble["ways"]), bubble["counts"], strict=True))
    assert ways == {"by train and": 2, "on foot over hills and": 1}
    assert bubble["after"].strip() == "then"


def test_a_circle_has_an_end(corpus_of: Any) -> None:
    # "a b" repeated: the only full states a b, b a follow each other in a circle
    found = statemap.build(corpus_of(["a b a b a b a b a b"]), 2)
    assert sum(row["n_states"] for row in rows(found.unitigs)) <= len(found.states)
    assert found.n_tokens == 10


def test_graph_rows_join_tokens_states_and_trails(make: Any) -> None:
    traces = [make([f"same words every time and then {i}"], name=str(i)) for i in range(3)]
    found = statemap.build(token_corpus(traces), 2)
    batch = found.batch()
    nodes = {row["id"]: row for row in rows(batch.nodes["State"])}
    assert all(row["n_chains"] >= 2 for row in nodes.values())
    assert {row["start"] for row in rows(batch.relationships["TRAIL"])} <= set(nodes)
    known = {trace.token_id(p) for trace in traces for p in range(trace.n_tokens)}
    at = rows(batch.relationships["AT"])
    assert {row["start"] for row in at} <= known
    assert len(at) == sum(row["n_occurrences"] for row in nodes.values())
    whole = replace(found, all_states=True).batch()
    assert len(whole.relationships["AT"]) == found.n_tokens
    assert pc.sum(whole.relationships["TRAIL"]["count"]).as_py() == found.n_tokens - 3


@pytest.mark.slow
def test_scores_tell_repeated_chains_from_random_ones(corpus_of: Any, random_texts: Any) -> None:
    rng = np.random.default_rng(0)
    phrases = random_texts(12, 8, seed=1, vocabulary=300)
    texts = [" ".join(phrases[p] for p in rng.integers(0, 12, 6)) for _ in range(80)]
    real = {s.name: s for s in statemap.build(corpus_of(texts), 3).scores}
    assert real["fitness"].value > 0.8 > 0.2 > real["fitness"].control
    assert real["walk is real"].value > real["walk is real"].control
    noise = {s.name: s for s in statemap.build(corpus_of(random_texts(80, 48, seed=2)), 3).scores}
    assert noise["fitness"].value < 0.05
    assert all(score.controls for score in (*real.values(), *noise.values()))


def test_fitness_is_one_on_known_chains_and_zero_on_foreign_ones(corpus_of: Any) -> None:
    known = corpus_of(["a b c d e", "f g h"])
    hit, chain = statemap.fitness((known.tokens, known.offsets), (known.tokens, known.offsets), 3)
    assert hit.all()
    assert len(hit) == 4 + 2
    assert chain.tolist() == sorted(chain.tolist())
    foreign = corpus_of(["p q r", "a c b"])
    assert not statemap.fitness((known.tokens, known.offsets), (foreign.tokens, foreign.offsets), 3)[0].any()


def test_branching_perplexity_of_a_fair_choice(corpus_of: Any) -> None:
    # after "a" come b and c equally often: half of the transitions have one way, half have two
    corpus = corpus_of(["a b", "a c", "d e", "d e"])
    expected = np.exp(0.5 * np.log(2))
    assert statemap.branching_perplexity(corpus.tokens, corpus.offsets, 1) == pytest.approx(expected)


def test_a_small_corpus_gets_a_map_and_no_score(corpus_of: Any) -> None:
    found = statemap.build(corpus_of(["a b c"]), 2)
    assert len(found.states) == 3
    assert found.scores == ()
    assert {item.name for item in found.withheld} == {"fitness", "branching perplexity", "walk is real"}


def test_k_below_one_is_refused(corpus_of: Any) -> None:
    with pytest.raises(UsageError, match="1 or more"):
        statemap.build(corpus_of(["a b"]), 0)
