"""Experiment 9: does a map capture new text of its kind, and how much of that is left without the connective words?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trails.analyses.capture import (
    Query,
    caught,
    encoded_query,
    match_lengths,
    random_content,
    shuffled_texts,
    trail_index,
    window_fitness,
    without_connectives,
)
from trails.analyses.neighbours import hashed_words, nearest_exact
from trails.analyses.sequences import SymbolCorpus as Tokens
from trails.analyses.sequences import content_words, mixed, text_corpus, window_keys
from trails.analyses.statistics import auc, cross_validated
from trails.errors import UsageError
from trails.experiments.base import Arm, Claim, Criterion, Emit, Experiment, Metrics, Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import Corpus, generator
from trails.measure.base import Segmented
from trails.platform.arrays import Doubles, Ints, Keys, Longs

K, MIN_MATCH = 4, 6
HELD_OUT = 128
BINS = 5


def transition_keys(tokens: Ints, offsets: Longs, k: int) -> tuple[Keys, Ints, Longs]:
    """Of every transition: a key of the state it leaves (the last k tokens), the next token, and the place of that token."""
    states, begins = window_keys(tokens, offsets, k + 1)
    del states
    leaves, at = window_keys(tokens, offsets, k)
    leaving = leaves[np.searchsorted(at, begins)]
    return leaving, tokens[begins + k], begins + k


def edges(states: Keys, following: Ints) -> Keys:
    """One key for each pair of state and next token."""
    with np.errstate(over="ignore"):
        return mixed(states * np.uint64(0xD6E8FEB86659FD93) + following.astype(np.uint64))


def rewired(states: Keys, following: Ints, rng: np.random.Generator) -> Keys:
    """Edges of a map whose next tokens were dealt anew: every state keeps the number of its edges, every token the number of
    edges that lead to it. Sorted keys.
    """
    _, first = np.unique(edges(states, following), return_index=True)
    return np.unique(edges(states[first], rng.permutation(following[first])))


def edge_fitness(known: Keys, tokens: Ints, offsets: Longs, k: int) -> Doubles:
    """Share of each text's transitions that are among the ``known`` edges (sorted); NaN for a text without any."""
    states, following, places = transition_keys(tokens, offsets, k)
    text = np.searchsorted(offsets, places, side="right") - 1
    hit = np.isin(edges(states, following), known)
    count = np.bincount(text, minlength=len(offsets) - 1)
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, np.bincount(text, weights=hit, minlength=len(count)) / np.maximum(count, 1), np.nan)


def packed(texts: Sequence[Ints]) -> tuple[Ints, Longs]:
    """Texts one after another, and where each begins."""
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return np.concatenate(texts).astype(np.int32), offsets


def measures(base: Tokens, texts: Sequence[Ints], words: Doubles) -> dict[str, Doubles]:
    """Caught, fitness, votes and the bag of words of every text against a map."""
    index = trail_index(base, K)
    known = np.unique(window_keys(base.tokens, base.offsets, K + 1)[0])
    tokens, offsets = packed(texts)
    lengths = match_lengths(base.tokens, base.offsets, tokens, offsets)[0]
    return {
        "caught": caught(lengths, offsets, MIN_MATCH),
        "fitness": window_fitness(known, tokens, offsets, K),
        "votes": index.votes(tokens, offsets)[1],
        "bag": words,
    }


def bag(texts: Sequence[str], base: Tokens) -> Doubles:
    """Best cosine of tf-idf vectors of content words with a chain of the map: a score that cannot see order."""
    vectors = hashed_words([content_words(text) for text in (*base.texts, *texts)])
    _, cosine = nearest_exact(vectors[: base.n_chains], vectors[base.n_chains :], 1)
    return cosine[:, 0].astype(np.float64)


def calibration_error(probability: Doubles, truth: npt.NDArray[np.bool_], bins: int = BINS) -> float:
    """Expected calibration error: mean distance of the predicted from the observed share over bins of equal size."""
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    gaps = [abs(float(probability[part].mean() - truth[part].mean())) * len(part) for part in parts]
    return sum(gaps) / max(len(order), 1)


def run(bench: Bench, corpus: Corpus, scale: Scale, seed: int, arms: Sequence[str], emit: Emit) -> None:
    """One seed: other chains are held out of the map. Nothing is trained; the model lends its tokenizer."""
    family = corpus.family(corpus.roles.trained, seed)
    # a chain whose words another chain has too would be captured by its twin
    different = list({" ".join(item.chain.text.split()): item for item in family}.values())
    wanted = min(scale.count(HELD_OUT, 8), len(different) // 3)
    encode = _encoder(bench)
    held, rest = _queries(different, wanted, encode), []
    for item in different[wanted:]:
        rest.append(item.chain)
    if len(held) < 8:
        raise UsageError(
            f"experiment capture needs 8 chains to hold out; {corpus.roles.trained!r} has {len(held)}. "
            "Choose another family: --trained SOURCE"
        )
    base = text_corpus(rest, encode, "experiment")
    elsewhere = [
        item.chain
        for source in sorted(corpus.families)
        if source != corpus.roles.trained
        for item in corpus.family(source, seed)
        if item.chain.text
    ]
    order = generator(seed, "other map").permutation(len(elsewhere)).tolist()
    other = text_corpus(_as_many(elsewhere, order, base.n_tokens, encode), encode, "experiment")
    plain = [one.tokens for one in held]
    texts = [one.text for one in held]
    real = measures(base, plain, bag(texts, base))
    decode = bench.tokenizer.decode
    nulls: dict[str, Callable[[], dict[str, Doubles]]] = {
        "real text": lambda: real,
        "tokens shuffled": lambda: _null(base, [shuffled_texts(q, 1, seed + i)[0] for i, q in enumerate(held)], decode),
        "random content": lambda: _null(
            base, [random_content(q, base.tokens, 1, seed + i)[0] for i, q in enumerate(held)], decode
        ),
        "rewired map": lambda: _rewired(base, plain, real["bag"], seed),
        "another topic's map": lambda: measures(other, plain, bag(texts, other)),
        "connectives masked": lambda: _null(
            base, [np.concatenate(without_connectives(q) or [q.tokens[:0]]) for q in held], decode
        ),
    }
    shuffled = nulls["tokens shuffled"]()
    for arm in arms:
        found = nulls[arm]()
        metrics: Metrics = {name: _mean(found[name]) for name in ("caught", "fitness", "votes", "bag")}
        half = len(held) // 2
        for name in ("caught", "fitness", "votes", "bag"):
            # real text is held against other real text: the noise floor of an AUC
            one, two = (real[name][:half], real[name][half:]) if arm == "real text" else (real[name], found[name])
            metrics[f"auc_{name}"] = _auc(one, two)
        metrics["beyond_bag"] = metrics["auc_fitness"] - metrics["auc_bag"]
        top = _mean(real["fitness"]) - _mean(shuffled["fitness"])
        metrics["left"] = (metrics["fitness"] - _mean(shuffled["fitness"])) / top if top > 0 else math.nan
        metrics["calibration_error"] = _calibration(real, found, seed) if arm != "real text" else math.nan
        emit(arm, metrics, {"texts": len(held), "map_chains": base.n_chains, "other_map_tokens": other.n_tokens})


def _encoder(bench: Bench) -> Callable[[str], tuple[Sequence[int], Sequence[tuple[int, int]]]]:
    def encode(text: str) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        found = bench.scorer.model.text.encode(text, "a chain")
        return found.ids.tolist(), list(zip(found.start.tolist(), found.end.tolist(), strict=True))

    return encode


def _queries(items: Sequence[Segmented], count: int, encode: Any) -> list[Query]:
    return [encoded_query(item.chain.text, encode, item.steps) for item in items[:count]]


def _as_many(chains: Sequence[Any], order: Sequence[int], tokens: int, encode: Any) -> list[Any]:
    """Chains of other sources with about as many tokens as the map has: a smaller map would capture less for its size."""
    kept, size = [], 0
    for number in order:
        if size >= tokens:
            break
        kept.append(chains[number])
        size += len(encode(chains[number].text)[0])
    return kept


def _null(base: Tokens, texts: Sequence[Ints], decode: Callable[[Any], str]) -> dict[str, Doubles]:
    return measures(base, texts, bag([decode(text.tolist()) for text in texts], base))


def _rewired(base: Tokens, texts: Sequence[Ints], words: Doubles, seed: int) -> dict[str, Doubles]:
    """Only fitness is defined on a map that no text was woven into; the bag of words sees no edges and stays as it was."""
    states, following, _ = transition_keys(base.tokens, base.offsets, K)
    known = rewired(states, following, generator(seed, "rewired"))
    none = np.full(len(texts), np.nan)
    return {"caught": none, "fitness": edge_fitness(known, *packed(texts), K), "votes": none, "bag": words}


def _mean(values: Doubles) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _auc(one: Doubles, two: Doubles) -> float:
    one, two = one[np.isfinite(one)], two[np.isfinite(two)]
    return auc(one, two) if len(one) and len(two) else math.nan


def _calibration(real: dict[str, Doubles], found: dict[str, Doubles], seed: int) -> float:
    """Calibration error of out-of-fold probabilities that a text is real, from fitness, caught and votes."""
    names = [name for name in ("caught", "fitness", "votes") if np.isfinite(found[name]).any()]
    both = np.stack([np.nan_to_num(np.concatenate([real[name], found[name]])) for name in names], axis=1)
    truth = np.arange(len(both)) < len(real["fitness"])
    # a text and its null stay in one fold
    score = cross_validated(both, truth, np.arange(len(both)) % len(real["fitness"]), seed=seed)
    known = np.isfinite(score)
    return calibration_error(1 / (1 + np.exp(-score[known])), truth[known]) if known.any() else math.nan


_NULLS = ("tokens shuffled", "random content", "rewired map", "another topic's map")

EXPERIMENT = Experiment(
    name="capture",
    number="9",
    title="Capture by a map",
    hypothesis="A map of known chains captures new text of its kind: the share of its transitions that the map has (fitness) "
    "tells it from every null, better than a bag of words, and not by its connective words.",
    arms=(
        Arm("real text", "held-out chains on the map of the others", control=False),
        Arm("tokens shuffled", "each text's own tokens in random order"),
        Arm("random content", "the same connectives in the same places, all else drawn from the map's tokens"),
        Arm("rewired map", "the real texts on a map whose edges lead to tokens dealt anew, all degrees kept"),
        Arm("another topic's map", "the real texts on a map of other sources with as many tokens"),
        Arm("connectives masked", "the real texts without the tokens of their connectives"),
    ),
    claims=(
        Claim(
            "captured",
            "Fitness tells real text from shuffled tokens, random content, a rewired map and another topic's map with an AUC "
            "above 0.75",
            tuple(Criterion("auc_fitness", null, "", "higher", threshold=0.75) for null in _NULLS),
        ),
        Claim(
            "more than words",
            "Fitness tells real text from random content and from another topic's map better than a bag of words does",
            tuple(Criterion("beyond_bag", null, "", "higher") for null in ("random content", "another topic's map")),
        ),
        Claim(
            "calibrated",
            "Out-of-fold probabilities that a text is real are wrong by less than 0.1 on average",
            tuple(Criterion("calibration_error", null, "", "lower", threshold=-0.1) for null in _NULLS),
        ),
        Claim(
            "not by connectives",
            "More than half of the fitness above shuffled tokens is left once the connectives are masked",
            (Criterion("left", "connectives masked", "", "higher", threshold=0.5),),
        ),
    ),
    metrics={
        "auc_fitness": "AUC with which fitness tells the real texts from this arm's; of real text: one half against the other",
        "auc_caught": "the same for the share of tokens under matches of 6 or more",
        "auc_votes": "the same for the votes of the best chain",
        "auc_bag": "the same for the bag of words (0.5 by construction where order alone differs)",
        "beyond_bag": "AUC of fitness minus AUC of the bag of words",
        "calibration_error": "expected calibration error of the probability that a text is real, five bins",
        "left": "fitness above that of shuffled tokens, as a share of the real texts'",
        "fitness": "share of transitions that the map has",
        "caught": "share of tokens under matches of 6 or more",
        "votes": "share of possible votes for the best chain",
        "bag": "best tf-idf cosine with a chain of the map",
    },
    settings={"k": K, "shortest match": MIN_MATCH, "held-out chains": HELD_OUT, "primary score": "fitness"},
    limits="Nothing is trained. The map holds chains of the same source as the held-out texts: what is captured is the "
    "source's way of writing as much as its reasoning. On the rewired map caught and votes are not defined.",
    run=run,
)
