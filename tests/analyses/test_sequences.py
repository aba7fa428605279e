"""Repeats, windows, matches and resamples against slow definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trails.analyses import sequences
from trails.analyses.sequences import (
    SymbolCorpus,
    context_ranks,
    coverage,
    markov_resample,
    masked_corpus,
    maximal_repeats,
    name_words,
    shared_length,
    shared_windows,
    suffixes,
    token_corpus,
    window_keys,
)
from trails.errors import UsageError

CHAINS = st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=12), min_size=1, max_size=6)


def corpus(chains: list[list[int]], shift: int = 0) -> SymbolCorpus:
    lengths = [len(chain) for chain in chains]
    index = np.concatenate([np.arange(length) for length in lengths])
    spans = np.stack([index, index + 1], axis=1).astype(np.int32)
    return SymbolCorpus(
        np.array([x + shift for chain in chains for x in chain], np.int32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        tuple(f"c{i:03}" for i in range(len(chains))),
        "t",
        spans,
        spans,
        tuple("x" * length for length in lengths),
        ("",) * len(chains),
        ("",) * len(chains),
        np.zeros(len(index), np.float32),
    )


def slow_repeats(chains: list[list[int]], least: int) -> dict[tuple[int, ...], list[tuple[int, int]]]:
    """Every string in two chains that cannot be extended, by looking at all substrings."""
    places: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for c, chain in enumerate(chains):
        for i in range(len(chain)):
            for j in range(i + least, len(chain) + 1):
                places.setdefault(tuple(chain[i:j]), []).append((c, i))
    found = {}
    for text, where in places.items():
        before = {("start", c) if i == 0 else chains[c][i - 1] for c, i in where}
        ends = [(c, i + len(text)) for c, i in where]
        after = {("end", c) if e == len(chains[c]) else chains[c][e] for c, e in ends}
        # The beginning and the end of a chain are symbols of their own at every occurrence.
        before_many = len(before) > 1 or sum(i == 0 for _, i in where) > 1
        after_many = len(after) > 1 or sum(e == len(chains[c]) for c, e in ends) > 1
        if len({c for c, _ in where}) > 1 and before_many and after_many:
            found[text] = sorted(where)
    return found


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(CHAINS, st.integers(1, 4), st.sampled_from([0, 70_000]))
def test_maximal_repeats_are_those_of_the_definition(chains: list[list[int]], least: int, shift: int) -> None:
    made = corpus(chains, shift)
    found = maximal_repeats(made, least)
    got = {}
    for r, size in enumerate(found.n_symbols.tolist()):
        starts = found.starts[found.bounds[r] : found.bounds[r + 1]]
        owners = made.chain_of(starts)
        text = tuple((made.tokens[starts[0] : starts[0] + size] - shift).tolist())
        got[text] = [(int(c), int(s - made.offsets[c])) for c, s in zip(owners, starts, strict=True)]
        assert found.n_chains[r] == len(set(owners.tolist()))
    assert got == slow_repeats(chains, least)
    assert (np.diff(found.n_symbols) <= 0).all()


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(CHAINS, st.integers(1, 4))
def test_coverage_is_the_union_of_the_repeats(chains: list[list[int]], least: int) -> None:
    made = corpus(chains)
    under = set()
    for text, where in slow_repeats(chains, least).items():
        under |= {(c, k) for c, i in where for k in range(i, i + len(text))}
    assert coverage(made.tokens, made.offsets, least) == pytest.approx(len(under) / made.n_tokens)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(CHAINS)
def test_shared_length_is_the_longest_prefix_in_another_chain(chains: list[list[int]]) -> None:
    made = corpus(chains)
    lengths, places = shared_length(suffixes(made.tokens, made.offsets), made.chain_of(np.arange(made.n_tokens)))
    for c, chain in enumerate(chains):
        for i in range(len(chain)):
            best = 0
            for d, other in enumerate(chains):
                for j in range(len(other)) if d != c else ():
                    k = 0
                    while i + k < len(chain) and j + k < len(other) and chain[i + k] == other[j + k]:
                        k += 1
                    best = max(best, k)
            at = int(made.offsets[c]) + i
            assert lengths[at] == best
            if best:
                place = int(places[at])
                assert made.chain_of(np.array([place]))[0] != c
                assert made.tokens[place : place + best].tolist() == chain[i : i + best]


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(CHAINS, st.integers(1, 7))
def test_window_keys_are_equal_exactly_for_equal_windows(chains: list[list[int]], size: int) -> None:
    made = corpus(chains)
    keys, begins = window_keys(made.tokens, made.offsets, size)
    texts = [tuple(made.tokens[b : b + size].tolist()) for b in begins.tolist()]
    assert len(begins) == sum(max(len(chain) - size + 1, 0) for chain in chains)
    assert len(set(keys.tolist())) == len(set(texts)) == len(set(zip(keys.tolist(), texts, strict=True)))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(CHAINS, st.integers(1, 4))
def test_context_ranks_are_equal_exactly_for_equal_contexts(chains: list[list[int]], size: int) -> None:
    made = corpus(chains)
    ranks = context_ranks(made.tokens, made.offsets, size)
    contexts = [(tuple(chain[max(0, i - size + 1) : i + 1])) for chain in chains for i in range(len(chain))]
    assert len(set(ranks.tolist())) == len(set(contexts)) == len(set(zip(ranks.tolist(), contexts, strict=True)))


def test_the_order_of_chains_does_not_matter(make: Any) -> None:
    traces = [make([f"alpha beta gamma delta epsilon w{i} zeta"], name=str(i)) for i in range(7)]
    one, two = token_corpus(traces), token_corpus(traces[::-1])
    assert one.chains == two.chains
    assert (one.tokens == two.tokens).all()
    first, second = maximal_repeats(one, 3), maximal_repeats(two, 3)
    assert (first.starts == second.starts).all()
    assert first.n_symbols.tolist() == second.n_symbols.tolist() == [5]


@pytest.mark.parametrize("order", [1, 2])
def test_a_markov_resample_keeps_its_order_and_nothing_more(order: int, corpus_of: Any, random_texts: Any) -> None:
    made = corpus_of(random_texts(40, 60, 3, vocabulary=12))
    tokens, offsets = markov_resample(made.tokens, made.offsets, order, seed=1)
    assert len(tokens) == made.n_tokens
    assert offsets[0] == 0
    assert offsets[-1] == len(tokens)
    known = set(window_keys(made.tokens, made.offsets, order + 1)[0].tolist())
    assert set(window_keys(tokens, offsets, order + 1)[0].tolist()) <= known
    longer = set(window_keys(made.tokens, made.offsets, order + 4)[0].tolist())
    assert not set(window_keys(tokens, offsets, order + 4)[0].tolist()) <= longer
    again, _ = markov_resample(made.tokens, made.offsets, order, seed=1)
    assert (again == tokens).all()


def test_masking_joins_numbers_and_names_and_keeps_their_places(make: Any) -> None:
    one = make(["The crowd saw Janet pay 1,000 coins. the end"], name="a")
    two = make(["The crowd saw Bob pay 7 coins. the end"], name="b")
    plain = token_corpus([one, two])
    masks = masked_corpus(plain)
    assert len(maximal_repeats(plain, 5).n_symbols) == 0
    repeats = maximal_repeats(masks, 5)
    assert repeats.n_symbols.tolist() == [10]
    start = int(repeats.starts[0])
    assert masks.text(start, start + 10) in (one.chain.text, two.chain.text)
    # the comma of 1,000 and its parts are one symbol
    spans = masks.position[masks.offsets[:-1][0] : masks.offsets[1]]
    assert (spans[1:, 0] == spans[:-1, 1]).all()


def test_names_are_words_never_seen_in_lower_case() -> None:
    assert name_words(["So Anna ran. Then so did I.", "then Пётр ушёл"]) == {"Anna", "Пётр"}


def test_two_tokenizers_are_refused(make: Any) -> None:
    with pytest.raises(UsageError, match="two tokenizers"):
        token_corpus([make(["a b"], name="1"), make(["a b"], name="2", tokenizer="f" * 64)])
    with pytest.raises(UsageError, match="two runs"):
        token_corpus([make(["a b"], name="1"), make(["a b"], name="2", run="rother")])


def test_no_chain_is_an_error_that_says_what_to_type() -> None:
    with pytest.raises(UsageError, match="trails ingest"):
        token_corpus([])


def test_a_repeat_of_no_token_is_refused(corpus_of: Any) -> None:
    with pytest.raises(UsageError, match="1 or more"):
        maximal_repeats(corpus_of(["a b c"]), 0)


def test_shared_windows_of_chains_shorter_than_the_window(corpus_of: Any) -> None:
    made = corpus_of(["a b", "a b"])
    assert len(shared_windows(made.tokens, made.offsets, 3)) == 0
    assert coverage(made.tokens, made.offsets, 2) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("part", [1, 5, 16])
@given(
    chains=st.lists(st.lists(st.integers(0, 2), max_size=14), min_size=1, max_size=8),
    size=st.integers(1, 6),
)
@settings(max_examples=60, deadline=None)
def test_work_in_parts_is_work_at_once(part: int, chains: list[list[int]], size: int) -> None:
    made = corpus([chain or [7] for chain in chains])
    whole = (*window_keys(made.tokens, made.offsets, size), shared_windows(made.tokens, made.offsets, size))
    windows = [tuple(c[i : i + size]) for c in (chain or [7] for chain in chains) for i in range(len(c) - size + 1)]
    owners = [n for n, c in enumerate(chain or [7] for chain in chains) for _ in range(len(c) - size + 1)]
    by_window: dict[tuple[int, ...], set[int]] = {}
    for window, owner in zip(windows, owners, strict=True):
        by_window.setdefault(window, set()).add(owner)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequences, "_PART", part)
        parts = (*window_keys(made.tokens, made.offsets, size), shared_windows(made.tokens, made.offsets, size))
    for one, two in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, two)
    expected = [begin for begin, w in zip(whole[1].tolist(), windows, strict=True) if len(by_window[w]) > 1]
    assert parts[2].tolist() == expected
