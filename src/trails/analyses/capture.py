"""Capture: does a new text fall into a known trail, where does it enter, which trail is it, where does it leave?

Two numbers say how far the map of known chains holds the new text: *caught*, the share of its tokens under matches of at least
``min_match`` tokens with one chain; *fitness*, the share of its transitions (the k tokens before and the token after) that the
map has. The trail is the chain that shares most of the text's k-token windows, rare windows counting more.

Any text in the same language shares phrases with a large corpus, so both numbers are compared with nulls: the text's own tokens
shuffled; its connectives kept and the rest drawn at random; the same text on a resample of the map that keeps its bigrams; on
the map of the other sources; and what is left when its connectives are masked. A text that is itself in the corpus is
taken out of the map first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trails.analyses.neighbours import hashed_words, nearest_exact
from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.sequences import (
    SymbolCorpus,
    content_key,
    content_words,
    covered,
    markov_resample,
    shared_length,
    suffixes,
    window_keys,
)
from trails.analyses.statistics import auc, bootstrap, how_drawn, how_resampled, spread
from trails.analyses.whitening import MIN_VECTORS, Whitening, fit_whitening
from trails.errors import UsageError
from trails.platform.arrays import Bools, Doubles, Floats, Ints, Keys, Longs
from trails.platform.text import counted, part_of, percent
from trails.schema import Step, Trace

MIN_CHAINS = 20
"""A map of fewer chains is no map to be captured by."""
MIN_QUERY = 8
"""Fewer tokens than this cannot be told from chance."""
DRAWS = 20
"""Random texts per null."""
AROUND = 8
"""Tokens shown on both sides of a match."""
NULLS = ("own tokens shuffled", "same connectives, random content", "map resampled, bigrams kept")
"""Controls that say what chance catches; the others say what the rest of the corpus and the connectives hold."""
OTHER_SOURCES, MASKED = "map of the other sources", "connectives masked"
COMMON = 500
"""Windows in more chains than this carry no vote."""


@dataclass(frozen=True, slots=True)
class Query:
    """A new text as tokens: ``characters`` (n, 2) are spans in ``text``, ``connective`` (n,) marks tokens of connectives."""

    text: str
    tokens: Ints
    characters: Ints
    connective: Bools


def query(text: str, tokens: Ints, characters: Ints, steps: Sequence[Step]) -> Query:
    """A query from a text's tokens and steps; the connectives are those that the segmenter found."""
    connective = np.zeros(len(tokens), np.bool_)
    for step in steps:
        if step.connective:
            at = text.find(step.connective, step.start, step.end)
            if at >= 0:
                connective |= (characters[:, 0] < at + len(step.connective)) & (characters[:, 1] > at)
    return Query(text, np.asarray(tokens, np.int32), np.asarray(characters, np.int32), connective)


def query_of(trace: Trace) -> Query:
    """A query from a measured chain."""
    characters = np.stack([trace.token_start, trace.token_end], axis=1)
    return query(trace.chain.text, trace.token_ids, characters, trace.steps)


def encoded_query(
    text: str, encode: Callable[[str], tuple[Sequence[int], Sequence[tuple[int, int]]]], steps: Sequence[Step]
) -> Query:
    """A query from a text that no model has measured. ``encode`` gives token ids and character spans."""
    ids, spans = encode(text)
    return query(text, np.asarray(ids, np.int32), np.asarray(spans, np.int32).reshape(-1, 2), steps)


# --------------------------------------------------------------------------------------------------------------------
# What a map holds of a text
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrailIndex:
    """Which chains have a window: ``keys`` ascending, the chains of key ``i`` at ``owners[begin[i]:begin[i+1]]``."""

    size: int
    n_chains: int
    keys: Keys
    begin: Longs
    owners: Longs

    def votes(self, tokens: Ints, offsets: Longs) -> tuple[Longs, Doubles, Doubles]:
        """For each text the chain with the most votes (-1: none), its share of all possible votes, and the runner-up's share.

        Every window of the text votes for the chains that have it, with weight ln(C / chains that have it); a window that
        no chain has counts among the possible votes with ln C. Ties go to the chain with the smaller id.
        """
        n_texts = len(offsets) - 1
        best, share, second = np.full(n_texts, -1, np.int64), np.zeros(n_texts), np.zeros(n_texts)
        windows, begins = window_keys(tokens, offsets, self.size)
        text = np.searchsorted(offsets, begins, side="right") - 1
        if not len(self.keys) or not len(windows):
            return best, share, second
        slot = np.minimum(np.searchsorted(self.keys, windows), len(self.keys) - 1)
        known = self.keys[slot] == windows
        count = np.where(known, self.begin[slot + 1] - self.begin[slot], 1)
        weight = np.log(max(self.n_chains, 2) / count)
        possible = np.bincount(text, weights=weight, minlength=n_texts)
        votes = known & (count <= COMMON)
        size = count[votes]
        member = np.repeat(self.begin[slot[votes]] - np.cumsum(size) + size, size) + np.arange(int(size.sum()))
        pair, inverse = np.unique(
            np.repeat(text[votes], size) * self.n_chains + self.owners[member], return_inverse=True
        )
        total = np.bincount(inverse, weights=np.repeat(weight[votes], size), minlength=len(pair))
        owner, voter = pair % self.n_chains, pair // self.n_chains
        order = np.lexsort((owner, -total, voter))
        heads = np.flatnonzero(np.append(True, voter[order][1:] != voter[order][:-1])) if len(order) else order
        winners = order[heads]
        best[voter[winners]] = owner[winners]
        share[voter[winners]] = total[winners]
        runners = heads[(heads + 1 < len(order))] + 1
        runners = runners[~np.isin(runners, heads)]
        second[voter[order[runners]]] = total[order[runners]]
        with np.errstate(invalid="ignore", divide="ignore"):
            return best, np.nan_to_num(share / possible), np.nan_to_num(second / possible)


def trail_index(corpus: SymbolCorpus, size: int) -> TrailIndex:
    """Index of the windows of ``size`` tokens."""
    windows, begins = window_keys(corpus.tokens, corpus.offsets, size)
    keys, slot = np.unique(windows, return_inverse=True)
    pair = np.unique(slot.astype(np.int64) * max(corpus.n_chains, 1) + corpus.chain_of(begins))
    owner_slot = pair // max(corpus.n_chains, 1)
    begin = np.concatenate([[0], np.cumsum(np.bincount(owner_slot, minlength=len(keys)))]).astype(np.int64)
    return TrailIndex(size, corpus.n_chains, keys, begin, pair % max(corpus.n_chains, 1))


def window_fitness(known: Keys, tokens: Ints, offsets: Longs, k: int) -> Doubles:
    """Share of each text's transitions whose k + 1 tokens are among the ``known`` keys (sorted); NaN for a text without any."""
    windows, begins = window_keys(tokens, offsets, k + 1)
    text = np.searchsorted(offsets, begins, side="right") - 1
    count = np.bincount(text, minlength=len(offsets) - 1)
    if len(known):
        slot = np.minimum(np.searchsorted(known, windows), len(known) - 1)
        hit = known[slot] == windows
    else:
        hit = np.zeros(len(windows), np.bool_)
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, np.bincount(text, weights=hit, minlength=len(count)) / np.maximum(count, 1), np.nan)


def match_lengths(corpus_tokens: Ints, corpus_offsets: Longs, tokens: Ints, offsets: Longs) -> tuple[Ints, Ints]:
    """For each token of the texts: how many tokens from here on some chain of the corpus has too, and where (symbol index, -1).

    One suffix array over corpus and texts together (matching statistics).
    """
    n = len(corpus_tokens)
    joined_offsets = np.concatenate([corpus_offsets, n + offsets[1:]]).astype(np.int64)
    joined = np.concatenate([corpus_tokens, tokens]).astype(np.int32)
    anchor = np.arange(len(joined)) < n
    lengths, places = shared_length(suffixes(joined, joined_offsets), np.zeros(len(joined), np.int64), anchor)
    return lengths[n:], places[n:]


def caught(lengths: Ints, offsets: Longs, min_match: int) -> Doubles:
    """Share of each text's tokens under matches of at least ``min_match`` tokens; NaN for an empty text."""
    begins = np.flatnonzero(lengths >= min_match)
    under = covered(len(lengths), begins, lengths[begins].astype(np.int64))
    sizes = np.diff(offsets)
    sums = np.bincount(np.repeat(np.arange(len(sizes)), sizes), weights=under, minlength=len(sizes))
    with np.errstate(invalid="ignore"):
        return np.where(sizes > 0, sums / np.maximum(sizes, 1), np.nan)


# --------------------------------------------------------------------------------------------------------------------
# Nulls
# --------------------------------------------------------------------------------------------------------------------


def shuffled_texts(one: Query, draws: int, seed: int) -> list[Ints]:
    """The text's own tokens in random order."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(one.tokens) for _ in range(draws)]


def random_content(one: Query, corpus_tokens: Ints, draws: int, seed: int) -> list[Ints]:
    """The same connectives in the same places, every other token drawn from the corpus's tokens."""
    rng = np.random.default_rng(seed + 1)
    texts = []
    for _ in range(draws):
        drawn = corpus_tokens[rng.integers(0, len(corpus_tokens), len(one.tokens))]
        texts.append(np.where(one.connective, one.tokens, drawn).astype(np.int32))
    return texts


def without_connectives(one: Query) -> list[Ints]:
    """What is between the connectives, as separate pieces."""
    if not one.connective.any():
        return [one.tokens]
    piece = np.cumsum(one.connective)
    kept = ~one.connective
    cuts = np.flatnonzero(np.diff(piece[kept])) + 1
    return [part for part in np.split(one.tokens[kept], cuts) if len(part)]


def _packed(texts: Sequence[Ints]) -> tuple[Ints, Longs]:
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return (np.concatenate(texts) if texts else np.empty(0)).astype(np.int32), offsets


# --------------------------------------------------------------------------------------------------------------------
# One text
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Match:
    """A stretch of the text that a chain has too: token spans ``start:end`` in the text, ``trail_start`` in the chain.

    ``text`` is the stretch; ``around`` and ``trail`` show it with up to :data:`AROUND` tokens on both sides, in the new
    text and in the chain.
    """

    chain: str
    start: int
    end: int
    trail_start: int
    text: str
    around: str = ""
    trail: str = ""


@dataclass(frozen=True, slots=True)
class Capture(Finding):
    """What the map holds of a text.

    ``trail`` is the chain with the most votes, empty if no window is known. ``entry`` and ``exit`` are the first and the last
    stretch of at least ``min_match`` tokens shared with it. ``longest`` are the longest stretches shared with any chain.
    ``nearest`` are the chains nearest in whitened hidden space (:func:`retrieve`), where that was asked for.
    """

    run: str
    n_tokens: int
    n_chains: int
    k: int
    min_match: int
    trail: str
    entry: Match | None
    exit: Match | None
    longest: tuple[Match, ...]
    scores: tuple[Score, ...]
    withheld: tuple[Withheld, ...]
    notes: tuple[str, ...] = field(default_factory=tuple)
    nearest: tuple[str, ...] = ()

    @property
    def is_caught(self) -> bool | None:
        """Whether more of the text is caught than chance catches; None where that could not be scored."""
        score = next((one for one in self.scores if one.name == "caught"), None)
        return score.beyond(*NULLS) if score is not None else None

    def report(self) -> Report:
        """The verdict, and where the text walks along known chains, with the chain's own words."""

        def match_record(value: Match | None) -> dict[str, object] | None:
            return {one.name: getattr(value, one.name) for one in fields(Match)} if value is not None else None

        places = [("enters", self.entry), ("leaves", self.exit), *(("longest", match) for match in self.longest)]
        rows = [{"place": name, **(match_record(match) or {})} for name, match in places if match is not None]
        schema = pa.schema(
            [("place", pa.string()), ("chain", pa.string())]
            + [(name, pa.int64()) for name in ("start", "end", "trail_start")]
            + [(name, pa.string()) for name in ("text", "around", "trail")]
        )
        columns = {"place": "", "chain": "chain", "start": "from token", "end": "to"}
        columns |= {"around": "the text", "trail": "the trail"}
        return Report(
            "capture",
            self._verdict(),
            {
                "run": self.run,
                "n_tokens": self.n_tokens,
                "n_chains": self.n_chains,
                "k": self.k,
                "min_match": self.min_match,
                "caught": self.is_caught,
                "chance_controls": list(NULLS),
                "trail": self.trail,
                "entry": match_record(self.entry),
                "exit": match_record(self.exit),
                "longest": [match_record(match) for match in self.longest],
                "nearest": list(self.nearest),
            },
            (ReportTable("matches", pa.Table.from_pylist(rows, schema), "where the text walks", columns),),
            self.scores,
            self.withheld,
            self.notes,
            evidence=("caught",),
        )

    def _verdict(self) -> str:
        score = next((one for one in self.scores if one.name == "caught"), None)
        if score is None:
            reason = self.withheld[0].reason if self.withheld else "it was not scored"
            return f"caught: open, {reason}"
        chance = score.strictest(*NULLS).reach
        if not self.is_caught:
            return f"caught: no, {percent(score.value)} of tokens, not beyond chance (at most {percent(chance)})"
        # the share is of matches with any chain; the trail is the chain with the most votes
        on = f", over all chains; most votes: {self.trail}" if self.trail else ""
        said = f"caught: yes, {percent(score.value)} of tokens, chance at most {percent(chance)}{on}"
        other = next((c for c in score.controls if c.name.startswith(OTHER_SOURCES)), None)
        if other is not None and other.value >= score.value:
            said += "; the other sources hold as much of it"
        elif other is not None and other.value > chance:
            said += f"; the other sources hold {percent(other.value)} of it"
        masked = next((c for c in score.controls if c.name == MASKED), None)
        if masked is not None and masked.value <= chance:
            said += "; without its connectives nothing beyond chance is left"
        return said


@dataclass(frozen=True, slots=True)
class Captures(Finding):
    """Several texts against one map: their labels, their beginnings, and what was found of each; None where a text was too
    short to be told from chance, with the reason among the notes."""

    labels: tuple[str, ...]
    beginnings: tuple[str, ...]
    found: tuple[Capture | None, ...]
    notes: tuple[str, ...] = ()

    @property
    def scores(self) -> tuple[Score, ...]:
        """Nothing is scored over texts: every text has its own controls."""
        return ()

    @property
    def withheld(self) -> tuple[Withheld, ...]:
        """What could not be scored, each once."""
        return tuple(dict.fromkeys(item for one in self.found if one is not None for item in one.withheld))

    def report(self) -> Report:
        """One row a text, with the share caught and what chance catches, and a summary."""
        rows = []
        for label, beginning, one in zip(self.labels, self.beginnings, self.found, strict=True):
            score = next((s for s in one.scores if s.name == "caught"), None) if one is not None else None
            rows.append(
                {
                    "text": label,
                    "caught": one.is_caught if one is not None else None,
                    "share": score.value if score is not None else None,
                    "chance": score.strictest(*NULLS).reach if score is not None else None,
                    "trail": one.trail if one is not None and one.is_caught else None,
                    "beginning": beginning,
                    "around": one.entry.around if one is not None and one.is_caught and one.entry else None,
                    "trail_text": one.entry.trail if one is not None and one.is_caught and one.entry else None,
                    "verdict": one.report().verdict if one is not None else "too short to be told from chance",
                }
            )
        schema = pa.schema(
            [("text", pa.string()), ("caught", pa.bool_()), ("share", pa.float64()), ("chance", pa.float64())]
            + [(name, pa.string()) for name in ("trail", "beginning", "around", "trail_text", "verdict")]
        )
        columns = {"text": "text", "caught": "caught", "share": "share of tokens", "chance": "chance at most"}
        columns |= {"trail": "trail", "around": "where it enters", "trail_text": "the trail there"}
        judged = [one.is_caught for one in self.found if one is not None and one.is_caught is not None]
        said = f"{part_of(sum(judged), len(judged), 'text', 'is', 'are')} caught beyond chance"
        if len(judged) < len(rows):
            said += f"; {len(rows) - len(judged)} of {len(rows)} could not be judged"
        return Report(
            "capture",
            said,
            {"n_texts": len(rows), "n_judged": len(judged), "n_caught": sum(judged)},
            (ReportTable("texts", pa.Table.from_pylist(rows, schema), counted(len(rows), "text"), columns),),
            withheld=self.withheld,
            notes=self.notes,
        )


class CaptureMap:
    """A corpus made ready to hold texts against it: indices and resamples that do not depend on the text, each made once."""

    def __init__(self, corpus: SymbolCorpus, k: int, seed: int) -> None:
        """``k`` tokens make a window."""
        self.corpus, self.k, self.seed = corpus, k, seed
        self._others: dict[str, CaptureMap | None] = {}

    @cached_property
    def index(self) -> TrailIndex:
        """Windows of k tokens and the chains that have them."""
        return trail_index(self.corpus, self.k)

    @cached_property
    def known(self) -> Keys:
        """Keys of all transitions, ascending."""
        return np.unique(window_keys(self.corpus.tokens, self.corpus.offsets, self.k + 1)[0])

    @cached_property
    def resample(self) -> tuple[Ints, Longs]:
        """An order-1 Markov resample of the corpus."""
        return markov_resample(self.corpus.tokens, self.corpus.offsets, 1, self.seed)

    @cached_property
    def resampled(self) -> Keys:
        """Keys of the resample's transitions, ascending."""
        return np.unique(window_keys(*self.resample, self.k + 1)[0])

    def without(self, text: str) -> tuple[CaptureMap, int]:
        """The map without the chains that are this text but for white space, and how many those are."""
        words = text.split()
        same = np.array([known.split() == words for known in self.corpus.texts], np.bool_)
        if not same.any():
            return self, 0
        return CaptureMap(self.corpus.select(~same), self.k, self.seed), int(same.sum())

    def other_sources(self, source: str) -> CaptureMap | None:
        """The map of the chains of other sources; None where there is no other."""
        if source not in self._others:
            other = np.array([one != source for one in self.corpus.sources], np.bool_)
            made = CaptureMap(self.corpus.select(other), self.k, self.seed) if other.any() else None
            self._others[source] = made
        return self._others[source]


SAME = "this text, and left out of the map"
"""End of the note about chains of the home that equal a text."""


def capture(
    corpus: SymbolCorpus | CaptureMap,
    one: Query,
    *,
    k: int = 4,
    min_match: int = 6,
    draws: int = DRAWS,
    top: int = 5,
    seed: int = 0,
) -> Capture:
    """Hold a text against the map of a corpus, or one made ready (then its ``k`` and ``seed`` hold). Raises UsageError for
    a text of fewer than :data:`MIN_QUERY` tokens."""
    if len(one.tokens) < MIN_QUERY:
        raise UsageError(
            f"a text of {counted(len(one.tokens), 'token')} was given; capture needs {MIN_QUERY} or more, or it "
            f"cannot be distinguished from chance"
        )
    notes = []
    ready, same = (corpus if isinstance(corpus, CaptureMap) else CaptureMap(corpus, k, seed)).without(one.text)
    corpus, k = ready.corpus, ready.k
    if same:
        notes.append(f"{same} {'chain' if same == 1 else 'chains'} of the home {'is' if same == 1 else 'are'} {SAME}")
    if not one.connective.any():
        notes.append("no connective was found in the text, so the nulls that keep or mask connectives change nothing")
    single = _packed([one.tokens])
    best, share, second = ready.index.votes(*single)
    trail = int(best[0])
    lengths, places = match_lengths(corpus.tokens, corpus.offsets, *single)
    longest = _longest(corpus, one, lengths, places, min_match, top)
    entry = leave = None
    if trail >= 0:
        a, b = int(corpus.offsets[trail]), int(corpus.offsets[trail + 1])
        own, where = match_lengths(corpus.tokens[a:b], np.array([0, b - a], np.int64), *single)
        stretches = _stretches(own, min_match)
        if stretches:
            entry, leave = (
                _match(corpus, one, start, size, a + int(where[start])) for start, size in (stretches[0], stretches[-1])
            )
        else:
            notes.append(
                f"the trail shares windows of {counted(k, 'token')}, but no stretch of {min_match}: no entry, no exit"
            )
    scores: list[Score] = []
    withheld: list[Withheld] = []
    if corpus.n_chains < MIN_CHAINS:
        reason = (
            f"the map has {counted(corpus.n_chains, 'chain')} and {MIN_CHAINS} are needed for its nulls: ingest more"
        )
        withheld += [Withheld(name, reason) for name in ("caught", "fitness", "votes for the trail")]
    else:
        scores, missing = _scores(ready, one, trail, share, second, lengths, min_match, draws)
        withheld += missing
    return Capture(
        corpus.run,
        len(one.tokens),
        corpus.n_chains,
        k,
        min_match,
        corpus.chains[trail] if trail >= 0 else "",
        entry,
        leave,
        longest,
        tuple(scores),
        tuple(withheld),
        tuple(notes),
    )


def _stretches(lengths: Ints, least: int) -> list[tuple[int, int]]:
    """(start, length) of matches of at least ``least`` tokens that no other match contains."""
    found, reach = [], 0
    for start in np.flatnonzero(lengths >= least).tolist():
        end = start + int(lengths[start])
        if end > reach:
            found.append((start, end - start))
            reach = end
    return found


def _match(corpus: SymbolCorpus, one: Query, start: int, size: int, place: int) -> Match:
    chain = int(corpus.chain_of(np.array([place]))[0])
    first, stop = int(corpus.offsets[chain]), int(corpus.offsets[chain + 1])

    def words(low: int, high: int) -> str:
        return one.text[int(one.characters[low, 0]) : int(one.characters[high - 1, 1])]

    return Match(
        corpus.chains[chain],
        start,
        start + size,
        place - first,
        words(start, start + size),
        words(max(start - AROUND, 0), min(start + size + AROUND, len(one.tokens))),
        corpus.text(max(place - AROUND, first), min(place + size + AROUND, stop)),
    )


def _longest(corpus: SymbolCorpus, one: Query, lengths: Ints, places: Ints, least: int, top: int) -> tuple[Match, ...]:
    stretches = sorted(_stretches(lengths, least), key=lambda item: (-item[1], item[0]))[:top]
    return tuple(_match(corpus, one, start, size, int(places[start])) for start, size in stretches)


def _scores(
    ready: CaptureMap,
    one: Query,
    trail: int,
    share: Doubles,
    second: Doubles,
    lengths: Ints,
    min_match: int,
    draws: int,
) -> tuple[list[Score], list[Withheld]]:
    corpus, index, known, k, seed = ready.corpus, ready.index, ready.known, ready.k, ready.seed
    single = _packed([one.tokens])
    groups = {
        NULLS[0]: shuffled_texts(one, draws, seed),
        NULLS[1]: random_content(one, corpus.tokens, draws, seed),
    }
    withheld: list[Withheld] = []
    controls: dict[str, list[Control]] = {"caught": [], "fitness": [], "votes": []}
    for name, texts in groups.items():
        packed = _packed(texts)
        found = caught(match_lengths(corpus.tokens, corpus.offsets, *packed)[0], packed[1], min_match)
        fit = window_fitness(known, *packed, k)
        votes = index.votes(*packed)[1]
        for key, values in (("caught", found), ("fitness", fit), ("votes", votes)):
            how = how_drawn("such texts", draws, seed + (name == NULLS[1]))
            controls[key].append(Control(name, float(np.nanmean(values)), spread(values), how))
    again = window_fitness(ready.resampled, *single, k)
    found = caught(match_lengths(*ready.resample, *single)[0], single[1], min_match)
    once = f"one order-1 Markov resample of the map, seed {seed}"
    controls["caught"].append(Control(NULLS[2], float(found[0]), how=once))
    controls["fitness"].append(Control(NULLS[2], float(again[0]), how=once))
    by_counting = "counted on the same text, nothing drawn"
    other = ready.other_sources(corpus.sources[trail]) if trail >= 0 else None
    if other is None:
        reason = (
            "the corpus has one source; ingest a second one to compare with another topic's map"
            if len(set(corpus.sources)) == 1
            else "the text falls into no trail, so no source is the other topic"
        )
        withheld.append(Withheld("another topic's map", reason))
    else:
        held = other.corpus
        name = f"{OTHER_SOURCES} ({held.n_tokens:,} of {counted(corpus.n_tokens, 'token')})"
        found = caught(match_lengths(held.tokens, held.offsets, *single)[0], single[1], min_match)
        fit = window_fitness(other.known, *single, k)
        controls["caught"].append(Control(name, float(found[0]), how=by_counting))
        controls["fitness"].append(Control(name, float(fit[0]), how=by_counting))
        controls["votes"].append(Control(name, float(other.index.votes(*single)[1][0]), how=by_counting))
    pieces = _packed(without_connectives(one))
    left = match_lengths(corpus.tokens, corpus.offsets, *pieces)[0]
    begins = np.flatnonzero(left >= min_match)
    masked = float(covered(len(left), begins, left[begins].astype(np.int64)).sum() / len(one.tokens))
    windows = window_keys(*pieces, k + 1)[0]
    kept = float(np.isin(windows, known).sum() / max(len(one.tokens) - k, 1))
    controls["caught"].append(Control(MASKED, masked, how=by_counting))
    controls["fitness"].append(Control(MASKED, kept, how=by_counting))
    fitting = float(window_fitness(known, *single, k)[0])
    controls["votes"].append(Control("second-best chain", float(second[0]), how=by_counting))
    own = float(caught(lengths, single[1], min_match)[0])
    return [
        Score("caught", own, "share of tokens", tuple(controls["caught"]), note=_which_is_chance(controls["caught"])),
        Score(
            "fitness",
            fitting,
            "share of transitions",
            tuple(controls["fitness"]),
            note=_which_is_chance(controls["fitness"]),
        ),
        Score("votes for the trail", float(share[0]), "share of possible votes", tuple(controls["votes"])),
    ], withheld


def _which_is_chance(controls: Sequence[Control]) -> str:
    """Which controls "chance at most" counts, and what the others say; a text can be caught beyond chance though they reach
    higher."""
    says = {OTHER_SOURCES: "what chains of other sources hold of the text", MASKED: "what is left without connectives"}
    chance = ", ".join(f'"{control.name}"' for control in controls if control.name in NULLS)
    rest = [f'"{name}" ({meaning})' for name, meaning in says.items() if any(c.name.startswith(name) for c in controls)]
    return f"chance is {chance}; no chance: {' and '.join(rest)}"


# --------------------------------------------------------------------------------------------------------------------
# Retrieval in whitened hidden space
# --------------------------------------------------------------------------------------------------------------------


def retrieve(
    traces: Iterable[Trace],
    new: Trace,
    *,
    layer: int | None = None,
    top: int = 5,
    seed: int = 0,
    whitening: Callable[[int], Whitening] | None = None,
) -> tuple[tuple[str, ...], tuple[Score, ...], tuple[Withheld, ...]]:
    """Chains nearest to a measured text by whitened step states: ids, the best one's score, what was withheld.

    A chain's score is the mean over the new text's steps of the best cosine with a step of the chain. The control draws
    every whitened coordinate of the new text's steps from another step of the corpus. ``whitening`` gives the whitening of a
    layer (that of the run); without it one is fitted on these traces. Without stored states on either side the score is
    withheld.
    """
    nothing = ("no hidden states are stored on one side; add them, run: trails ingest PATH --states 16",)
    if new.step_states is None or not new.state_layers:
        return (), (), (Withheld("retrieval in whitened space", nothing[0]),)
    chosen = layer if layer is not None else new.state_layers[len(new.state_layers) // 2]
    kept: list[tuple[str, Floats]] = []
    for trace in traces:
        if trace.step_states is None or chosen not in trace.state_layers or trace.chain.id == new.chain.id:
            continue
        state = trace.step_states[:, trace.state_layers.index(chosen)]
        good = np.isfinite(state).all(axis=1)
        kept.append((trace.chain.id, np.array(state[good], np.float32)))
    kept.sort(key=lambda one: one[0])
    names = [name for name, own in kept for _ in own]
    vectors = [own for _, own in kept]
    stack = np.concatenate(vectors) if vectors else np.empty((0, 1), np.float32)
    if len(stack) < MIN_VECTORS:
        reason = (
            f"{counted(len(stack), 'step has', 'steps have')} a stored state and {MIN_VECTORS} are needed to whiten: "
            f"ingest more with --states {chosen}"
        )
        return (), (), (Withheld("retrieval in whitened space", reason),)
    fitted = whitening(chosen) if whitening else fit_whitening(stack)
    white = fitted(stack)
    mine = new.step_states[:, new.state_layers.index(chosen)]
    mine = mine[np.isfinite(mine).all(axis=1)]
    labels = np.array(names)
    chains, chain = np.unique(labels, return_inverse=True)

    def best(vectors: Floats) -> Doubles:
        cosine = vectors @ white.T
        result = np.zeros((len(vectors), len(chains)))
        result[:] = -np.inf
        for row, values in enumerate(cosine):
            np.maximum.at(result[row], chain, values)
        mean: Doubles = result.mean(axis=0)
        return mean

    real = best(fitted(mine))
    rng = np.random.default_rng(seed)
    coordinates = (stack - fitted.mean) @ fitted.components
    columns = np.arange(coordinates.shape[1])
    null = []
    for _ in range(DRAWS):
        # Every coordinate comes from a random step of its own.
        permuted = coordinates[rng.integers(0, len(stack), (len(mine), len(columns))), columns]
        norm = np.linalg.norm(permuted, axis=1, keepdims=True)
        null.append(float(best((permuted / np.where(norm > 0, norm, 1)).astype(np.float32)).max()))
    order = np.lexsort((chains, -real))[:top]
    score = Score(
        "retrieval in whitened space",
        float(real[order[0]]),
        "mean best cosine",
        (
            Control(
                "whitened dimensions permuted",
                float(np.mean(null)),
                spread(null),
                how_drawn("texts whose every coordinate comes from a random step", DRAWS, seed),
            ),
        ),
        note=f"layer {chosen}",
    )
    return tuple(str(chains[i]) for i in order), (score,), ()


# --------------------------------------------------------------------------------------------------------------------
# What capture is worth on a corpus: experiment 9, the attraction zone, recovery from a part
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CaptureCalibration(Finding):
    """AUC with which caught, fitness and votes tell held-out real texts from each null, compared with a bag-of-words score.

    The bag of words is the best cosine of tf-idf vectors of content words with a chain of the map; it cannot see order, so on
    shuffled texts it is at chance by construction.
    """

    n_chains: int
    n_held_out: int
    scores: tuple[Score, ...]
    withheld: tuple[Withheld, ...]

    def report(self) -> Report:
        """The AUC of every statistic against every null."""
        fit = next((s for s in self.scores if s.name == f"caught against: {NULLS[0]}"), None)
        if fit is None:
            said = f"not judged: {self.withheld[0].reason}" if self.withheld else "not judged"
        else:
            worth = "are told" if fit.beyond("chance") else "are not told"
            said = f"held-out texts {worth} from shuffled ones: AUC {fit.value:.3f}, chance 0.5"
        facts = {"n_chains": self.n_chains, "n_held_out": self.n_held_out}
        return Report("capture calibration", said, facts, scores=self.scores, withheld=self.withheld)


def calibrate(
    corpus: SymbolCorpus,
    held: Sequence[Query],
    *,
    other: SymbolCorpus | None = None,
    decode: Callable[[Ints], str] | None = None,
    k: int = 4,
    min_match: int = 6,
    seed: int = 0,
) -> CaptureCalibration:
    """Experiment 9: held-out texts against every null, on a map that does not hold them.

    ``other`` is another topic's map; ``decode`` turns tokens into text for the bag-of-words score (withheld without it).
    """
    if len(held) < MIN_CHAINS or corpus.n_chains < MIN_CHAINS:
        reason = (
            f"{counted(len(held), 'held-out text')} and a map of {counted(corpus.n_chains, 'chain')}; "
            f"{MIN_CHAINS} of each are needed"
        )
        return CaptureCalibration(corpus.n_chains, len(held), (), (Withheld("capture", reason),))
    index = trail_index(corpus, k)
    known = np.unique(window_keys(corpus.tokens, corpus.offsets, k + 1)[0])

    def judged(texts: Sequence[Ints], base: SymbolCorpus, of: TrailIndex, keys: Keys) -> dict[str, Doubles]:
        packed = _packed(texts)
        lengths = match_lengths(base.tokens, base.offsets, *packed)[0]
        return {
            "caught": caught(lengths, packed[1], min_match),
            "fitness": window_fitness(keys, *packed, k),
            "votes": of.votes(*packed)[1],
        }

    def bag(texts: Sequence[str], base: SymbolCorpus) -> Doubles:
        vectors = hashed_words([content_words(text) for text in (*base.texts, *texts)])
        _, cosine = nearest_exact(vectors[: base.n_chains], vectors[base.n_chains :], 1)
        return cosine[:, 0].astype(np.float64)

    real = judged([one.tokens for one in held], corpus, index, known)
    nulls: dict[str, dict[str, Doubles]] = {}
    shuffles = [shuffled_texts(one, 1, seed + number)[0] for number, one in enumerate(held)]
    contents = [random_content(one, corpus.tokens, 1, seed + number)[0] for number, one in enumerate(held)]
    nulls["own tokens shuffled"] = judged(shuffles, corpus, index, known)
    nulls["same connectives, random content"] = judged(contents, corpus, index, known)
    masked = [np.concatenate(without_connectives(one) or [one.tokens[:0]]) for one in held]
    nulls["connectives masked"] = judged(masked, corpus, index, known)
    resample = markov_resample(corpus.tokens, corpus.offsets, 1, seed)
    packed = _packed([one.tokens for one in held])
    nulls["map resampled, bigrams kept"] = {
        "caught": caught(match_lengths(*resample, *packed)[0], packed[1], min_match),
        "fitness": window_fitness(np.unique(window_keys(*resample, k + 1)[0]), *packed, k),
    }
    withheld = []
    if other is not None:
        keys = np.unique(window_keys(other.tokens, other.offsets, k + 1)[0])
        nulls["another topic's map"] = judged([one.tokens for one in held], other, trail_index(other, k), keys)
    else:
        withheld.append(Withheld("another topic's map", "the corpus has one source; ingest a second one"))
    bags: dict[str, float] = {}
    if decode is not None:
        mine = bag([one.text for one in held], corpus)
        bags["own tokens shuffled"] = 0.5
        bags["same connectives, random content"] = auc(mine, bag([decode(text) for text in contents], corpus))
        bags["connectives masked"] = auc(mine, bag([decode(text) for text in masked], corpus))
        if other is not None:
            bags["another topic's map"] = auc(mine, bag([one.text for one in held], other))
    scores = []
    for null, values in nulls.items():
        for statistic, found in values.items():
            pairs = np.stack([real[statistic], found], axis=1)
            interval = bootstrap(pairs, lambda rows: auc(rows[:, 0], rows[:, 1]), draws=300, seed=seed)
            chance = Control("chance", 0.5, how="an AUC without information, by definition")
            words = "tf-idf cosine of content words on the same texts"
            controls = (Control("bag of words", bags[null], how=words), chance) if null in bags else (chance,)
            value = auc(real[statistic], found)
            if math.isfinite(value):
                how = how_resampled("held-out texts", draws=300, seed=seed)
                scores.append(Score(f"{statistic} against: {null}", value, "AUC", controls, interval, how=how))
    return CaptureCalibration(corpus.n_chains, len(held), tuple(scores), tuple(withheld))


def recovery(
    corpus: SymbolCorpus,
    *,
    kept: Sequence[float] = (1.0, 0.7, 0.5, 0.3, 0.2, 0.1, 0.05),
    replace_tokens: bool = False,
    sample: int = 200,
    k: int = 3,
    decode: Callable[[Ints], str] | None = None,
    seed: int = 0,
) -> tuple[Score, ...]:
    """Share of chains that are found again (recall@1) from a part of their tokens: one score per kept share.

    By default the part is one contiguous stretch (recovery from a part); with ``replace_tokens`` the other tokens stay in place
    but are drawn from the corpus (how far the trail attracts a disturbed text). Controls: the part's tokens shuffled, and a
    bag of words where ``decode`` is given. Raises UsageError below :data:`MIN_CHAINS` chains.
    """
    if corpus.n_chains < MIN_CHAINS:
        raise UsageError(
            f"recovery was asked for on {counted(corpus.n_chains, 'chain')}; {MIN_CHAINS} are needed: ingest more"
        )
    index = trail_index(corpus, k)
    lengths = np.diff(corpus.offsets)
    able = np.flatnonzero(lengths >= MIN_QUERY)
    able = np.array(sorted(able.tolist(), key=lambda c: content_key("recovery", corpus.chains[c], seed))[:sample])
    rng = np.random.default_rng(seed)
    # Chains with the same tokens as another cannot be told apart: finding either counts.
    twin = np.array(
        [content_key(corpus.tokens[a:b]) for a, b in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)]
    )
    scores = []
    again = how_resampled(seed=seed)
    for part in kept:
        texts, mixed = [], []
        for chain in able.tolist():
            tokens = corpus.tokens[corpus.offsets[chain] : corpus.offsets[chain + 1]]
            size = max(round(part * len(tokens)), 1)
            if replace_tokens:
                drawn = corpus.tokens[rng.integers(0, corpus.n_tokens, len(tokens))]
                keep = np.zeros(len(tokens), np.bool_)
                keep[rng.permutation(len(tokens))[:size]] = True
                piece = np.where(keep, tokens, drawn).astype(np.int32)
            else:
                start = int(rng.integers(0, len(tokens) - size + 1))
                piece = tokens[start : start + size]
            texts.append(piece)
            mixed.append(rng.permutation(piece))
        once = f"one shuffle of every part, seed {seed}"
        controls = [Control("the part's tokens shuffled", _recall(index, mixed, able, twin), how=once)]
        if decode is not None:
            worth = _bag_recall(corpus, [decode(text) for text in texts], able, twin)
            controls.append(Control("bag of words", worth, how="tf-idf cosine of content words on the same parts"))
        found, _, _ = index.votes(*_packed(texts))
        hits = (found >= 0) & (twin[np.maximum(found, 0)] == twin[able])
        name = f"{'undisturbed' if replace_tokens else 'kept'} {percent(part)}"
        scores.append(
            Score(name, float(hits.mean()), "recall@1", tuple(controls), bootstrap(hits, seed=seed), how=again)
        )
    return tuple(scores)


def _recall(index: TrailIndex, texts: Sequence[Ints], able: Longs, twin: npt.NDArray[np.str_]) -> float:
    found, _, _ = index.votes(*_packed(texts))
    return float(((found >= 0) & (twin[np.maximum(found, 0)] == twin[able])).mean())


def _bag_recall(corpus: SymbolCorpus, texts: Sequence[str], able: Longs, twin: npt.NDArray[np.str_]) -> float:
    bags = hashed_words([content_words(text) for text in (*corpus.texts, *texts)])
    found, _ = nearest_exact(bags[: corpus.n_chains], bags[corpus.n_chains :], 1)
    return float((twin[found[:, 0]] == twin[able]).mean())
