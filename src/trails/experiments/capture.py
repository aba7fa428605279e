"""Experiment 9: does a map capture new text of its kind, and how much of that is left without the connective words?"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize

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
from trails.analyses.statistics import auc, generator
from trails.errors import UsageError
from trails.experiments.base import Arm, Claim, Correction, Criterion, Emit, Experiment, Metrics, Prepared, Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import Corpus
from trails.measure.base import Segmented
from trails.platform.arrays import Doubles, Ints, Keys, Longs
from trails.train.data import Row

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
    """Edges of a map whose next tokens were reassigned: every state keeps the number of its edges, every token the number of
    edges that lead to it. Sorted keys.
    """
    _, first = np.unique(edges(states, following), return_index=True)
    return np.unique(edges(states[first], rng.permutation(following[first])))


def rewired_bigrams(states: Keys, following: Ints, last: Ints, rng: np.random.Generator) -> Keys:
    """Edges of a map whose next tokens were reassigned among the states that end in the same token (``last``): every bigram
    stays as frequent as it was, what stands before it does not. Sorted keys.
    """
    _, first = np.unique(edges(states, following), return_index=True)
    drawn = rng.permutation(len(first))
    one = first[drawn][
        np.argsort(last[first][drawn], kind="stable")
    ]  # within a group of one last token in random order
    two = first[np.argsort(last[first], kind="stable")]
    return np.unique(edges(states[two], following[one]))


def likelihood(base: Tokens, texts: Sequence[Ints], n: int) -> Doubles:
    """Mean log-probability of each text's tokens under the map's own n-gram counts (n = 1 or 2), nats per token: a bigram backs
    off to the unigram with one pseudo-count, a unigram to the uniform distribution. NaN for a text of fewer than ``n`` tokens.
    """
    size = int(max(int(base.tokens.max(initial=0)), max((int(t.max(initial=0)) for t in texts), default=0))) + 1
    single = np.bincount(base.tokens, minlength=size).astype(np.float64)
    unigram = (single + 1.0) / (single.sum() + size)
    if n == 1:
        return np.asarray([np.log(unigram[t]).mean() if len(t) else np.nan for t in texts])
    inner = np.ones(len(base.tokens), dtype=bool)
    inner[base.offsets[:-1]] = False  # no pair leads from one chain into the next
    ends = np.flatnonzero(inner)
    pairs = base.tokens[ends - 1].astype(np.int64) * size + base.tokens[ends]
    known, counts = np.unique(pairs, return_counts=True)
    before = np.bincount(base.tokens[ends - 1], minlength=size).astype(np.float64)
    found = []
    for text in texts:
        if len(text) < 2:
            found.append(np.nan)
            continue
        one, two = text[:-1].astype(np.int64), text[1:].astype(np.int64)
        at = np.minimum(np.searchsorted(known, one * size + two), len(known) - 1)
        seen = np.where(known[at] == one * size + two, counts[at], 0)
        found.append(float(np.log((seen + unigram[two]) / (before[one] + 1.0)).mean()))
    return np.asarray(found)


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
    """Caught, fitness, votes and the baselines of every text against a map: the bag of words, unigrams and bigrams."""
    index = trail_index(base, K)
    known = np.unique(window_keys(base.tokens, base.offsets, K + 1)[0])
    tokens, offsets = packed(texts)
    lengths = match_lengths(base.tokens, base.offsets, tokens, offsets)[0]
    return {
        "caught": caught(lengths, offsets, MIN_MATCH),
        "fitness": window_fitness(known, tokens, offsets, K),
        "votes": index.votes(tokens, offsets)[1],
        "bag": words,
        "unigram": likelihood(base, texts, 1),
        "bigram": likelihood(base, texts, 2),
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


@dataclass(frozen=True, slots=True)
class Source:
    """The held-out texts of one source, a map of its other chains and a map of other sources with as many tokens."""

    name: str
    held: tuple[Query, ...]
    base: Tokens
    other: Tokens


def source_of(bench: Bench, corpus: Corpus, scale: Scale, seed: int, name: str) -> Source:
    """Both maps are cut to the tokens of the smaller one."""
    encode = _encoder(bench)
    family = corpus.block(name, seed, scale.count(HELD_OUT, 8))
    # a chain whose words another chain has too would be captured by its twin
    different = list({" ".join(item.chain.text.split()): item for item in family}.values())
    wanted = min(scale.count(HELD_OUT, 8), len(different) // 3)
    held = tuple(_queries(different, wanted, encode))
    rest = [item.chain for item in different[wanted:]]
    elsewhere = [
        item.chain
        for source in sorted(corpus.families)
        if source != name
        for item in corpus.block(source, seed, 1)
        if item.chain.text
    ]
    order = generator(seed, "maps", name)
    sizes = [[len(encode(chain.text)[0]) for chain in chains] for chains in (rest, elsewhere)]
    least = min(sum(sizes[0]), sum(sizes[1]))
    maps = []
    for chains, lengths in zip((rest, elsewhere), sizes, strict=True):
        kept, size = [], 0
        for k in order.permutation(len(chains)).tolist():
            if size >= least:
                break
            kept.append(chains[k])
            size += lengths[k]
        maps.append(text_corpus(kept, encode, "experiment"))
    if len(held) < 8:
        raise UsageError(
            f"experiment capture needs 8 chains to hold out; {name!r} has {len(held)}. Choose another family: "
            f"--trained SOURCE"
        )
    return Source(name, held, *maps)


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """Two sources: the trained role's, and the unseen role's as the one that was never looked at."""
    sources = [source_of(bench, corpus, scale, seed, name) for name in (corpus.roles.trained, corpus.roles.unseen)]
    sets: dict[str, list[Row]] = {}
    for title, one in zip(("H", "H of the second source"), sources, strict=True):
        sets[title] = [
            bench.ids_row(query.tokens.tolist(), chain=f"{one.name} {number}") for number, query in enumerate(one.held)
        ]
        for label, known in (("map", one.base), ("other map", one.other)):
            sets[f"{label} of {title}"] = [
                bench.ids_row(known.tokens[start:stop].tolist(), chain=f"{number}")
                for number, (start, stop) in enumerate(itertools.pairwise(known.offsets.tolist()))
            ]
    return Prepared({}, sets, sources)


def scores(source: Source, arm: str, decode: Callable[[Any], str], seed: int) -> dict[str, Doubles]:
    """Every measure of the held-out texts of a source, or of what an arm makes of them."""
    held, base = source.held, source.base
    plain, texts = [one.tokens for one in held], [one.text for one in held]
    if arm == "real text":
        return measures(base, plain, bag(texts, base))
    if arm == "another topic's map":
        return measures(source.other, plain, bag(texts, source.other))
    if arm in ("rewired map", "bigram-keeping map"):
        return _rewired(base, plain, bag(texts, base), seed, bigrams=arm == "bigram-keeping map")
    made: list[Ints]
    if arm == "in the map":
        picked = generator(seed, "in the map").permutation(base.n_chains)[: len(held)].tolist()
        made = [base.tokens[base.offsets[k] : base.offsets[k + 1]] for k in picked]
    elif arm == "tokens shuffled":
        made = [shuffled_texts(query, 1, seed + i)[0] for i, query in enumerate(held)]
    elif arm == "random content":
        made = [random_content(query, base.tokens, 1, seed + i)[0] for i, query in enumerate(held)]
    elif arm == "connectives masked":
        made = [np.concatenate(without_connectives(query) or [query.tokens[:0]]) for query in held]
    else:
        made = [_as_many_masked(query, seed + i) for i, query in enumerate(held)]
    return measures(base, made, bag([decode(text.tolist()) for text in made], base))


def _as_many_masked(query: Query, seed: int) -> Ints:
    """The text without as many tokens as its connectives have, in runs of the same lengths at random places."""
    parts = without_connectives(query)
    gone = len(query.tokens) - sum(map(len, parts))
    runs = max(len(parts) - 1, 1)
    draw = np.random.default_rng(seed)
    keep = np.ones(len(query.tokens), dtype=bool)
    for number in range(runs if gone else 0):
        size = gone // runs + (number < gone % runs)
        start = int(draw.integers(max(len(keep) - size, 1)))
        keep[start : start + size] = False
    return query.tokens[keep]


def run(
    bench: Bench,
    prepared: Prepared,
    scale: Scale,
    seed: int,
    arms: Sequence[str],
    rates: Mapping[str, float],
    emit: Emit,
) -> None:
    """One seed: other chains are held out of the maps. Nothing is trained; the model lends its tokenizer."""
    sources: list[Source] = prepared.extra
    decode = bench.tokenizer.decode
    real = [scores(source, "real text", decode, seed) for source in sources]
    for arm in arms:
        metrics: Metrics = {}
        found = [
            one if arm == "real text" else scores(s, arm, decode, seed) for s, one in zip(sources, real, strict=True)
        ]
        for end, own, other in zip(("", "_second"), real, found, strict=True):
            half = len(own["fitness"]) // 2
            for name in (*MEASURES, *BASELINES):
                metrics[f"{name}{end}"] = _mean(other[name])
                # real text is held against other real text: the noise floor of an AUC
                one, two = (own[name][:half], own[name][half:]) if arm == "real text" else (own[name], other[name])
                metrics[f"auc_{name}{end}"] = _auc(one, two)
            best = [metrics[f"auc_{name}{end}"] for name in BASELINES if math.isfinite(metrics[f"auc_{name}{end}"])]
            metrics[f"beyond_baselines{end}"] = metrics[f"auc_fitness{end}"] - max(best, default=math.nan)
        metrics["calibration_error"] = _calibration(real, found, seed) if arm != "real text" else math.nan
        emit(arm, metrics, {})


def _encoder(bench: Bench) -> Callable[[str], tuple[Sequence[int], Sequence[tuple[int, int]]]]:
    """Ids and spans of a text; every text is tokenised once for all seeds."""

    def encode(text: str) -> tuple[Sequence[int], Sequence[tuple[int, int]]]:
        if text not in bench.encoded:
            found = bench.contexts.text.encode(text, "a chain")
            spans = list(zip(found.start.tolist(), found.end.tolist(), strict=True))
            bench.encoded[text] = (found.ids.tolist(), spans)
        return bench.encoded[text]

    return encode


def _queries(items: Sequence[Segmented], count: int, encode: Any) -> list[Query]:
    return [encoded_query(item.chain.text, encode, item.steps) for item in items[:count]]


def _rewired(base: Tokens, texts: Sequence[Ints], words: Doubles, seed: int, *, bigrams: bool) -> dict[str, Doubles]:
    """Only fitness is defined on a map that no text was woven into; the baselines see no state of four tokens and stay as they
    were.
    """
    states, following, places = transition_keys(base.tokens, base.offsets, K)
    draw = generator(seed, "rewired")
    known = (
        rewired_bigrams(states, following, base.tokens[places - 1], draw)
        if bigrams
        else rewired(states, following, draw)
    )
    none = np.full(len(texts), np.nan)
    return {
        "caught": none,
        "fitness": edge_fitness(known, *packed(texts), K),
        "votes": none,
        "bag": words,
        "unigram": likelihood(base, texts, 1),
        "bigram": likelihood(base, texts, 2),
    }


def _mean(values: Doubles) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan


def _auc(one: Doubles, two: Doubles) -> float:
    one, two = one[np.isfinite(one)], two[np.isfinite(two)]
    return auc(one, two) if len(one) and len(two) else math.nan


def _calibration(real: Sequence[dict[str, Doubles]], found: Sequence[dict[str, Doubles]], seed: int) -> float:
    """Calibration error, on the second source, of probabilities that a text is real learnt from fitness on the first one."""
    scored = []
    for own, other in zip(real, found, strict=True):
        values = np.nan_to_num(np.concatenate([own["fitness"], other["fitness"]]))
        scored.append((values, np.arange(len(values)) < len(own["fitness"])))
    (one, truth), (two, wanted) = scored
    slope, level = _logistic(one, truth)
    return calibration_error(1 / (1 + np.exp(-np.clip(slope * two + level, -30, 30))), wanted)


def _logistic(values: Doubles, truth: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and level of a logistic regression on one number, with a ridge of 1 on the slope of the standardised number."""
    centre, size = float(values.mean()), float(values.std()) or 1.0
    x, y = (values - centre) / size, truth.astype(np.float64)

    def loss(w: Doubles) -> float:
        z = w[0] * x + w[1]
        return float(np.logaddexp(0, z).sum() - (y * z).sum() + 0.5 * w[0] ** 2)

    slope, level = optimize.minimize(loss, np.zeros(2), method="BFGS").x
    return float(slope) / size, float(level) - float(slope) * centre / size


MEASURES = ("caught", "fitness", "votes")
BASELINES = ("bag", "unigram", "bigram")
_NULLS = ("tokens shuffled", "random content", "rewired map", "bigram-keeping map", "another topic's map")


def _on_both(
    metric: str, arm: str, direction: Literal["lower", "higher"], delta: float, against: float
) -> tuple[Criterion, ...]:
    return tuple(Criterion(f"{metric}{end}", arm, "", direction, delta, against=against) for end in ("", "_second"))


EXPERIMENT = Experiment(
    name="capture",
    number="9",
    title="Capture by a map",
    hypothesis="A map of known chains captures new text of its kind: the share of its transitions that the map has "
    "(fitness) "
    "tells it from every null, also from a map that keeps all bigrams, better than words, unigrams and bigrams do, and "
    "not by its "
    "connective words; on a source that was never looked at as well.",
    arms=(
        Arm("real text", "held-out chains on the map of the others", control=False, trained=False),
        Arm("tokens shuffled", "each text's own tokens in random order", trained=False),
        Arm(
            "random content",
            "the same connectives in the same places, all else drawn from the map's tokens",
            trained=False,
        ),
        Arm(
            "rewired map",
            "the real texts on a map whose edges lead to tokens dealt anew, all degrees kept",
            trained=False,
        ),
        Arm(
            "bigram-keeping map",
            "the same, dealt among states that end in the same token: all bigrams kept",
            trained=False,
        ),
        Arm("another topic's map", "the real texts on a map of other sources with as many tokens", trained=False),
        Arm("connectives masked", "the real texts without the tokens of their connectives", trained=False),
        Arm(
            "random tokens masked",
            "the real texts without as many tokens in as many runs at random places",
            trained=False,
        ),
        Arm("in the map", "positive control: chains that are in the map", trained=False),
    ),
    claims=(
        Claim(
            "captured",
            "On both sources, fitness tells real text from every null, the bigram-keeping map among them, with an AUC "
            "above 0.75",
            tuple(c for null in _NULLS for c in _on_both("auc_fitness", null, "higher", 0.02, 0.75)),
        ),
        Claim(
            "more than words",
            "On both sources, fitness tells real text from random content and from another topic's map better than the "
            "best of a "
            "bag of words, unigrams and bigrams",
            tuple(
                c
                for null in ("random content", "another topic's map")
                for c in _on_both("beyond_baselines", null, "higher", 0.01, 0.0)
            ),
        ),
        Claim(
            "calibrated elsewhere",
            "Probabilities learnt from fitness on one source are wrong by less than 0.1 on another",
            tuple(Criterion("calibration_error", null, "", "lower", 0.02, against=0.1) for null in _NULLS),
        ),
        Claim(
            "not by connectives",
            "Masking the connectives costs the fitness of new text no more than masking as many random tokens",
            tuple(
                Criterion(
                    f"fitness{end}", "connectives masked", "random tokens masked", "higher", 0.01, kind="not inferior"
                )
                for end in ("", "_second")
            ),
        ),
    ),
    positive=(Criterion("fitness", "in the map", "real text", "higher", delta=0.05),),
    placebo=(Criterion("auc_fitness", "real text", "", "higher", delta=0.05, against=0.5),),
    metrics={
        "auc_fitness": "AUC with which fitness tells the real texts from this arm's; of real text: one half against "
        "the other",
        "auc_caught": "the same for the share of tokens under matches of 6 or more",
        "auc_votes": "the same for the votes of the best chain",
        "auc_bag": "the same for the bag of words",
        "auc_unigram": "the same for the likelihood under the map's unigrams",
        "auc_bigram": "the same for the likelihood under the map's bigrams",
        "beyond_baselines": "AUC of fitness minus the largest AUC of the three baselines",
        "auc_fitness_second": "AUC of fitness on the second source",
        "auc_bag_second": "AUC of the bag of words there",
        "auc_unigram_second": "AUC of the unigrams there",
        "auc_bigram_second": "AUC of the bigrams there",
        "beyond_baselines_second": "AUC of fitness minus the largest AUC of the baselines there",
        "calibration_error": "expected calibration error on the second source of probabilities learnt on the first, "
        "five bins",
        "fitness": "share of transitions that the map has",
        "fitness_second": "the same on the second source",
        "caught": "share of tokens under matches of 6 or more",
        "votes": "share of possible votes for the best chain",
        "bag": "best tf-idf cosine with a chain of the map",
    },
    settings={"k": K, "shortest match": MIN_MATCH, "held-out chains": HELD_OUT, "primary score": "fitness"},
    limits="Nothing is trained. The map holds chains of the same source as the held-out texts: what is captured is the "
    "source's way of writing as much as its reasoning. On rewired maps caught and votes are not defined.",
    unit=f"draw of {HELD_OUT} held-out chains of each source",
    held_out=("H", "H of the second source"),
    prepare=prepare,
    run=run,
    correction=Correction(
        claimed="Captured, more than words, calibrated, not by connectives: all held (three seeds).",
        withdrawn="All four. The plan was written after the same test had been published, and left out the one null "
        "that fitness "
        "fails: a map that keeps all bigrams (AUC .727 and .682). The other topic's map had .53 times the tokens. "
        "*Calibrated* and "
        "*not by connectives* cannot fail: noise calibrates to .07, and connectives are 1 % of the tokens.",
        stands="That fitness tells a source's text from shuffled tokens and from random content: any n-gram does.",
    ),
)
