"""Capture: the planted trail is found with its entry and exit, and nulls stay below."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from trails.analyses import capture
from trails.analyses.sequences import token_corpus
from trails.errors import UsageError
from trails.schema import Role


def known(make: Any, random_texts: Any, count: int = 40, source: str = "made", seed: int = 0) -> list[Any]:
    return [
        make([text], name=f"{source}{n}", source=source)
        for n, text in enumerate(random_texts(count, 50, seed=seed, vocabulary=200))
    ]


def following(make: Any, trace: Any, start: int, end: int, before: str, after: str) -> Any:
    """A new text that walks along tokens ``start:end`` of a trace."""
    words = trace.chain.text.split()
    text = f"{before} {' '.join(words[start:end])} {after}"
    return make([text], name="new")


def test_the_planted_trail_its_entry_and_its_exit(make: Any, random_texts: Any) -> None:
    traces = known(make, random_texts)
    text = following(make, traces[7], 12, 40, "well then friends", "goodbye now everybody")
    found = capture.capture(token_corpus(traces), capture.query_of(text))
    assert found.trail == traces[7].chain.id
    assert found.entry is not None
    assert (found.entry.start, found.entry.end, found.entry.trail_start) == (3, 31, 12)
    assert found.exit == found.entry
    assert found.longest[0].chain == traces[7].chain.id
    scores = {score.name: score for score in found.scores}
    assert scores["caught"].value == pytest.approx(28 / 34)
    assert scores["fitness"].value > 0.75
    for score in scores.values():
        for control in score.controls:
            if control.name != "connectives masked":
                assert control.value < score.value / 3, (score.name, control)
    assert "one source" in found.withheld[0].reason


def test_two_stretches_of_the_trail_are_entry_and_exit(make: Any, random_texts: Any) -> None:
    traces = known(make, random_texts)
    words = traces[3].chain.text.split()
    text = make([" ".join([*words[5:20], "something", "else", "here", *words[30:45]])], name="new")
    found = capture.capture(token_corpus(traces), capture.query_of(text))
    assert found.trail == traces[3].chain.id
    assert found.entry is not None
    assert found.exit is not None
    assert (found.entry.start, found.entry.end, found.entry.trail_start) == (0, 15, 5)
    assert (found.exit.start, found.exit.end, found.exit.trail_start) == (18, 33, 30)


def test_a_foreign_text_is_not_captured(make: Any, random_texts: Any) -> None:
    traces = known(make, random_texts)
    text = make(["none of these words was ever in that map of little made up names"], name="new")
    found = capture.capture(token_corpus(traces), capture.query_of(text))
    assert found.trail == ""
    assert found.entry is None
    assert {score.value for score in found.scores} == {0.0}
    assert "one source" in found.withheld[0].reason
    two = [*traces[:20], *(replace(t, chain=replace(t.chain, source="other")) for t in traces[20:])]
    found = capture.capture(token_corpus(two), capture.query_of(text))
    assert found.withheld[0].reason == "the text falls into no trail, so no source is the other topic"


def test_the_text_itself_is_taken_out_of_the_map(make: Any, random_texts: Any) -> None:
    traces = known(make, random_texts)
    found = capture.capture(token_corpus(traces), capture.query_of(traces[4]))
    assert found.n_chains == 39
    assert found.trail != traces[4].chain.id
    assert found.notes[0] == "1 chain of the home is this text, and left out of the map"
    assert next(s for s in found.scores if s.name == "caught").value < 0.3


def test_another_topics_map_does_not_hold_it(make: Any, random_texts: Any) -> None:
    traces = known(make, random_texts)
    other = [make([text.upper()], name=f"o{n}", source="other") for n, text in enumerate(random_texts(40, 50, seed=9))]
    text = following(make, traces[2], 0, 30, "so", "end")
    found = capture.capture(token_corpus([*traces, *other]), capture.query_of(text))
    caught = next(score for score in found.scores if score.name == "caught")
    foreign = next(c for c in caught.controls if c.name.startswith("map of the other sources"))
    assert foreign.value == 0
    assert found.withheld == ()
    for score in found.scores[:2]:
        chance, rest = score.note.removeprefix("chance is ").split("; no chance: ")
        names = [control.name.split(" (")[0] for control in score.controls]
        assert [name for name in names if f'"{name}"' in chance] == list(capture.NULLS)
        assert [name for name in names if f'"{name}" (' in rest] == names[3:]


def test_connectives_alone_carry_nothing_once_masked(make: Any) -> None:
    """Texts share only their connectives: with the connectives masked nothing is left."""
    rng = np.random.default_rng(0)
    cue = "if it is true that we know for sure that"
    traces = []
    for number in range(40):
        body = " ".join(f"v{rng.integers(10**6)}" for _ in range(6))
        traces.append(make([f"{cue} {body}"], name=str(number), roles=[Role.IF], connectives=[cue]))
    found = capture.capture(token_corpus(traces[1:]), capture.query_of(traces[0]))
    caught = next(score for score in found.scores if score.name == "caught")
    by_name = {control.name: control.value for control in caught.controls}
    assert caught.value == pytest.approx(10 / 16)
    assert by_name["connectives masked"] == 0
    assert by_name["same connectives, random content"] == pytest.approx(10 / 16, abs=0.05)


def test_match_lengths_are_matching_statistics(corpus_of: Any) -> None:
    corpus = corpus_of(["a b c d", "c d e"])
    new = corpus_of(["b c d e a"])
    lengths, places = capture.match_lengths(corpus.tokens, corpus.offsets, new.tokens, new.offsets)
    assert lengths.tolist() == [3, 3, 2, 1, 1]
    for at, (size, place) in enumerate(zip(lengths.tolist(), places.tolist(), strict=True)):
        assert corpus.tokens[place : place + size].tolist() == new.tokens[at : at + size].tolist()
    assert capture.caught(lengths, new.offsets, 3).tolist() == [0.8]


def test_votes_weigh_rare_windows_and_break_ties_by_id(corpus_of: Any) -> None:
    corpus = corpus_of(["x y p q", "x y r s", "x y t u", "m n o k"])
    index = capture.trail_index(corpus, 2)
    text = corpus_of(["x y r s"])
    best, share, second = index.votes(text.tokens, text.offsets)
    assert "r s" in corpus.texts[int(best[0])]
    assert share[0] == pytest.approx(1.0)
    assert 0 < second[0] < share[0]
    nothing = corpus_of(["z z z z"])
    assert index.votes(nothing.tokens, nothing.offsets)[0].tolist() == [-1]


@pytest.mark.slow
def test_experiment_nine_tells_followers_from_every_null(make: Any, random_texts: Any) -> None:
    traces = known(make, random_texts, 60)
    rng = np.random.default_rng(2)
    held = []
    for number in range(25):
        words = traces[int(rng.integers(60))].chain.text.split()
        filler = random_texts(1, 12, seed=100 + number, vocabulary=200)[0]
        text = make([f"{filler} {' '.join(words[10:35])}"], name=f"held{number}")
        held.append(capture.query_of(text))
    found = capture.calibrate(token_corpus(traces), held)
    by_name = {score.name: score for score in found.scores}
    assert by_name["caught against: own tokens shuffled"].value == 1.0
    assert by_name["fitness against: same connectives, random content"].value == 1.0
    assert by_name["votes against: own tokens shuffled"].value > 0.95
    assert all(score.controls for score in found.scores)
    assert found.withheld[0].name == "another topic's map"


@pytest.mark.slow
def test_random_texts_are_not_told_from_their_nulls(make: Any, random_texts: Any) -> None:
    traces = known(make, random_texts, 60)
    held = [capture.query_of(trace) for trace in known(make, random_texts, 25, seed=77)]
    found = capture.calibrate(token_corpus(traces), held)
    score = next(s for s in found.scores if s.name == "fitness against: own tokens shuffled")
    assert 0.3 < score.value < 0.7


def test_recovery_falls_with_the_part_and_beats_shuffled_parts(make: Any, random_texts: Any) -> None:
    corpus = token_corpus(known(make, random_texts, 60))
    scores = capture.recovery(corpus, kept=(1.0, 0.5, 0.04), sample=60)
    assert scores[0].value == 1.0
    assert scores[0].value >= scores[1].value > scores[2].value
    assert scores[1].control < 0.3
    disturbed = capture.recovery(corpus, kept=(1.0, 0.1), sample=60, replace_tokens=True)
    assert disturbed[0].value == 1.0
    assert disturbed[1].value < 0.5


def test_retrieval_in_whitened_space_needs_states_on_both_sides(make: Any) -> None:
    rng = np.random.default_rng(3)
    states = rng.normal(size=(30, 3, 1, 12)).astype(np.float32) + 10
    traces = [make(["a. ", "b. ", "c. "], name=str(n), states=states[n], state_layers=(2,)) for n in range(30)]
    new = make(["p. ", "q. ", "r. "], name="new", states=states[8] + 0.01, state_layers=(2,))
    names, scores, withheld = capture.retrieve(traces, new)
    assert names[0] == traces[8].chain.id
    assert scores[0].value > scores[0].control + 0.1
    assert withheld == ()
    _, none, reason = capture.retrieve(traces, make(["p. "], name="new"))
    assert none == ()
    assert "--states" in reason[0].reason
    assert "50" in capture.retrieve(traces[:5], new)[2][0].reason


def test_short_texts_small_maps_and_other_tokenizers_are_refused(make: Any, random_texts: Any) -> None:
    traces = known(make, random_texts)
    with pytest.raises(UsageError, match="8 or more"):
        capture.capture(token_corpus(traces), capture.query_of(make(["too short"], name="new")))
    small = capture.capture(token_corpus(traces[:5]), capture.query_of(make(["a b c d e f g h i"], name="new")))
    assert small.scores == ()
    assert "20" in small.withheld[0].reason
    with pytest.raises(UsageError, match="20"):
        capture.recovery(token_corpus(traces[:5]))


def test_windows_in_too_many_chains_carry_no_vote(corpus_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no evidence for any of the chains; they stay among the votes that were possible."""
    corpus = corpus_of(["x y p q", "x y r s", "x y t u", "m n o k"])
    text = corpus_of(["x y r s"])
    index = capture.trail_index(corpus, 2)
    monkeypatch.setattr(capture, "COMMON", 3)
    best, share, second = index.votes(text.tokens, text.offsets)
    common, rare = np.log(4 / 3), np.log(4)
    assert corpus.texts[int(best[0])] == "x y r s"
    assert share[0] == pytest.approx(1.0)
    assert second[0] == pytest.approx(common / (common + 2 * rare))
    monkeypatch.setattr(capture, "COMMON", 2)
    best, share, second = index.votes(text.tokens, text.offsets)
    assert corpus.texts[int(best[0])] == "x y r s"
    assert share[0] == pytest.approx(2 * rare / (common + 2 * rare))
    assert second[0] == 0.0
    only = corpus_of(["x y"])
    assert index.votes(only.tokens, only.offsets)[0].tolist() == [-1]


def test_the_longest_stretches_come_first_and_no_more_than_asked_for(make: Any, random_texts: Any) -> None:
    traces = known(make, random_texts)
    words = [trace.chain.text.split() for trace in traces]
    pieces = [words[3][5:15], words[8][20:44], words[11][0:17], words[20][9:16]]
    text = make([" ".join(word for piece in pieces for word in [*piece, "qqq"])], name="new")
    corpus = token_corpus(traces)
    found = capture.capture(corpus, capture.query_of(text), top=3)
    assert [match.end - match.start for match in found.longest] == [24, 17, 10]
    assert [match.chain for match in found.longest] == [traces[n].chain.id for n in (8, 11, 3)]
    assert [match.trail_start for match in found.longest] == [20, 0, 5]
    # without a connective, masking connectives changes nothing
    score = next(score for score in found.scores if score.name == "caught")
    assert score.strictest("connectives masked").value == score.value == (10 + 24 + 17 + 7) / 62
    # up to eight tokens on both sides, in the text and in the chain; none beyond the chain's own ends
    first = found.longest[0]
    assert first.trail == " " + " ".join(words[8][12:])
    assert first.around.split() == [*words[3][8:15], "qqq", *words[8][20:44], "qqq", *words[11][:7]]
    assert found.longest[1].trail == " ".join(words[11][:25])


def test_fitness_is_the_share_of_transitions_that_are_known(corpus_of: Any) -> None:
    corpus = corpus_of(["a b c d e f"])
    known_keys = np.unique(capture.window_keys(corpus.tokens, corpus.offsets, 3)[0])
    texts = corpus_of(["a b c d e f", "a b c x d e f", "x y z", "a b"])
    found = dict(
        zip(texts.texts, capture.window_fitness(known_keys, texts.tokens, texts.offsets, 2).tolist(), strict=True)
    )
    assert found["a b c d e f"] == 1.0
    assert found["a b c x d e f"] == 2 / 5
    assert found["x y z"] == 0.0
    assert np.isnan(found["a b"])
    nothing = capture.window_fitness(known_keys[:0], texts.tokens, texts.offsets, 2)
    assert np.nansum(nothing) == 0.0
