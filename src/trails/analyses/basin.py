"""The attraction zone of a trail: how far a text can be disturbed and still follow its own trail.

A text falls on the trail that wins the votes of its windows (:class:`~trails.analyses.capture.TrailIndex`). It is disturbed
by a growing share of its tokens: drawn again from the corpus (``random tokens``), replaced by what the model held likely
there (``likely tokens``, from the stored alternatives), or left out (``deleted``). Versions of its family, and the same family
in another language, are disturbed by their authors; each is taken out of the map before it is held against it.

Controls of every share: the same tokens in random order, and a bag of words, as shares of texts that find their own trail; the
map of the other sources and the map rewired (an order-1 Markov resample cut into chains of the same lengths), as shares of
texts of which a trail there holds as much. The *half-capture distance* is the share of disturbed tokens at which half of what
was captured undisturbed is left, between two levels by a straight line.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from trails.analyses.capture import MIN_CHAINS, MIN_QUERY, TrailIndex, trail_index
from trails.analyses.neighbours import hashed_words, nearest_exact
from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.sequences import SymbolCorpus, content_key, content_words, markov_resample, token_corpus
from trails.analyses.statistics import bootstrap, spread
from trails.errors import UsageError
from trails.platform.arrays import Bools, Doubles, Ints, Longs
from trails.platform.text import counted, percent
from trails.schema import Trace

LEVELS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Shares of tokens that are disturbed."""
LEAST_TEXTS = 40
"""So many disturbed texts stand behind every share: few chains are disturbed several times."""
RANDOM, LIKELY, DELETED = "random tokens", "likely tokens", "deleted"
AFTER = "likely tokens, after the training"
VERSIONS, LANGUAGES = "versions of the family", "another language"
BAG = "bag of words"
_BINS = 4
"""Versions are told in so many bins of their distance."""


@dataclass(frozen=True, slots=True)
class Basin(Finding):
    """A row per way of disturbing and distance in ``table``; ``scores`` are the half-capture distances."""

    run: str
    chains: tuple[str, ...]
    table: pa.Table
    scores: tuple[Score, ...]
    withheld: tuple[Withheld, ...]
    notes: tuple[str, ...]

    def report(self) -> Report:
        """How far the zone reaches, and every share beside its controls."""
        columns = {
            "way": "disturbed by", "distance": "distance", "texts": "texts", "captured": "captured", "low": "from",
            "high": "to", "mixed": "random order", "bag": "bag of words", "others": "other sources", "rewired": "rewired",
        }  # fmt: skip
        away = [abs(share - 0.5) for share in self.table["captured"].to_pylist()]
        title = "share of texts that fall on their own trail"
        return Report(
            "basin",
            self._verdict(),
            {"run": self.run, "n_chains": len(self.chains), "chains": list(self.chains)},
            (ReportTable("shares", self.table, title, columns, telling=("those nearest to a half", away)),),
            self.scores,
            self.withheld,
            self.notes,
        )

    def _verdict(self) -> str:
        said = []
        for score in self.scores:
            way = score.name.removeprefix(HALF)
            bag = next((control for control in score.controls if control.name == BAG), None)
            low, high = score.interval or (score.value, score.value)
            reach = f"{way}: {percent(score.value)} ({low:.2f} to {high:.2f})"
            if bag is not None:
                low_bag = bag.interval[0] if bag.interval else bag.value
                word = "further than" if score.beyond(BAG) else "less far than" if high < low_bag else "no further than"
                reach += f", {word} a bag of words ({percent(bag.value)})"
            said.append(reach)
        if not said:
            return f"no half-capture distance: {self.withheld[0].reason if self.withheld else 'nothing was disturbed'}"
        return "half of what is captured is left at a distance of: " + "; ".join(said)


HALF = "half-capture distance, "


@dataclass(frozen=True, slots=True)
class _Found:
    """Of T texts: whether each falls on its own trail, and whether each control does."""

    captured: Bools
    mixed: Bools
    bag: Bools
    others: Bools | None
    rewired: Bools


def basin(
    traces: Iterable[Trace],
    chosen: Sequence[str],
    *,
    after: Mapping[str, Trace] | None = None,
    k: int = 3,
    seed: int = 0,
) -> Basin:
    """Disturb the chains ``chosen`` and hold them against the map of all ``traces``.

    Versions are chains of one family; the same family in another language has its name but for what stands before the first
    ``:``. ``after`` holds the chosen chains as a trained model measured them. ``k`` tokens make a window. Raises UsageError
    below :data:`~trails.analyses.capture.MIN_CHAINS` chains, for a chain that the traces do not hold, and where every chosen
    chain is shorter than :data:`~trails.analyses.capture.MIN_QUERY` tokens.
    """
    kept: dict[str, Trace] = {}
    seen: dict[int, tuple[str, str]] = {}
    families: dict[str, str] = {}
    wanted = set(chosen)

    def watched() -> Iterable[Trace]:
        for trace in traces:
            _remember(trace, seen)
            families[trace.chain.id] = trace.chain.family
            if trace.chain.id in wanted:
                kept[trace.chain.id] = trace
            yield trace

    corpus = token_corpus(watched())
    if corpus.n_chains < MIN_CHAINS:
        raise UsageError(
            f"a zone was asked for on a map of {counted(corpus.n_chains, 'chain')}; {MIN_CHAINS} are needed: ingest more"
        )
    if missing := sorted(wanted - set(kept)):
        raise UsageError(f"chain {missing[0]} was asked for, and this run has not measured it. Run: trails chains")
    able = [name for name in sorted(wanted) if kept[name].n_tokens >= MIN_QUERY]
    if not able:
        raise UsageError(
            f"every chain asked for has fewer than {MIN_QUERY} tokens, too few to be distinguished from chance. "
            f"Choose longer ones."
        )
    for trace in (after or {}).values():
        _remember(trace, seen)
    words = {token: piece for token, (_, piece) in seen.items()}
    ground = _Ground(corpus, k, seed, words, families)
    rows: list[dict[str, object]] = []
    scores: list[Score] = []
    withheld: list[Withheld] = []
    many = math.ceil(LEAST_TEXTS / len(able))
    alternatives = {name: _alternatives(kept[name]) for name in able}
    later = {name: _alternatives(after[name]) for name in able if name in after} if after else {}
    for number, way in enumerate((RANDOM, LIKELY, DELETED, *([AFTER] if after else []))):
        given = {LIKELY: alternatives, AFTER: later}.get(way, {})
        using = [name for name in able if way in (RANDOM, DELETED) or given.get(name) is not None]
        if not using:
            reason = "the run keeps no alternatives: ingest with a model and --top-k 5, or let --after name such a run"
            withheld.append(Withheld(HALF + way, reason))
            continue
        levels = []
        for step, share in enumerate(LEVELS):
            rng = np.random.default_rng([seed, number, step])
            texts = [
                _disturbed(kept[name].token_ids, way, share, given.get(name), corpus, rng)
                for name in using
                for _ in range(many)
            ]
            levels.append(ground.judge(texts, [name for name in using for _ in range(many)], rng))
            rows.append(_row(way, share, levels[-1], many))
        if levels[0].captured.any():
            scores.append(_half(way, levels, many))
        else:
            longest = max(kept[name].n_tokens for name in using)
            why = (
                f"no text holds a window of {counted(k, 'token')}" if longest < k else "no text falls on its own trail"
            )
            withheld.append(
                Withheld(HALF + way, f"nothing is captured even undisturbed: {why} (windows of {counted(k, 'token')})")
            )
    for way in (VERSIONS, LANGUAGES):
        found, reason = _of_versions(way, ground, able, seed)
        rows += found
        if reason:
            withheld.append(Withheld(f"share captured, {way}", reason))
    notes = []
    if len(able) < len(wanted):
        notes.append(
            f"{counted(len(wanted) - len(able), 'chain has', 'chains have')} fewer than {MIN_QUERY} tokens and were left out"
        )
    if len(able) < 5:
        notes.append(
            f"of {counted(len(able), 'chain')} intervals are over random disturbances of them, not over chains"
        )
    if ground.others is None:
        notes.append("the corpus has one source, so there is no map of the others")
    return Basin(
        corpus.run, tuple(able), pa.Table.from_pylist(rows, _SCHEMA), tuple(scores), tuple(withheld), tuple(notes)
    )


_SCHEMA = pa.schema(
    [("way", pa.string()), ("distance", pa.float64()), ("texts", pa.int64())]
    + [(name, pa.float64()) for name in ("captured", "low", "high", "mixed", "bag", "others", "rewired")]
)


def _remember(trace: Trace, seen: dict[int, tuple[str, str]]) -> None:
    """The text of every token that occurs, and of every alternative, with the chain that it is from: part of a character has
    other texts elsewhere, and that of the chain with the smallest id is kept.
    """
    text, name = trace.chain.text, trace.chain.id
    own: dict[int, str] = {}
    for token, a, b in zip(trace.token_ids.tolist(), trace.token_start.tolist(), trace.token_end.tolist(), strict=True):
        own.setdefault(token, text[a:b])
    for token, piece in (trace.top_texts() | own).items():
        if token not in seen or name < seen[token][0]:
            seen[token] = name, piece


def _alternatives(trace: Trace) -> tuple[Ints, Doubles] | None:
    """Of every token (n,) the other items that the model held likely there (n, A) and their shares (n, A), summing to 1 (0
    where there is none); None where none was kept, and for a scorer that is no language model.
    """
    if trace.top_id is None or trace.top_log_probability is None or not trace.top_id.size or not trace.n_layers:
        return None
    share = np.exp(trace.top_log_probability.astype(np.float64))
    share[(trace.top_id == trace.token_ids[:, None]) | (trace.top_id < 0) | ~np.isfinite(share)] = 0
    total = share.sum(axis=1, keepdims=True)
    if not (total > 0).any():
        return None
    return trace.top_id, np.divide(share, total, out=np.zeros_like(share), where=total > 0)


def _disturbed(
    tokens: Ints,
    way: str,
    share: float,
    alternatives: tuple[Ints, Doubles] | None,
    corpus: SymbolCorpus,
    rng: np.random.Generator,
) -> Ints:
    """The tokens with ``share`` of them, chosen at random, disturbed. A token without a likely alternative stays."""
    places = np.sort(rng.permutation(len(tokens))[: round(share * len(tokens))])
    if way == DELETED:
        return np.delete(tokens, places).astype(np.int32)
    found = np.array(tokens, np.int32)
    if alternatives is None:
        found[places] = corpus.tokens[rng.integers(0, corpus.n_tokens, len(places))]
        return found
    ids, shares = alternatives
    able = places[shares[places].sum(axis=1) > 0]
    picks = (shares[able].cumsum(axis=1) < rng.random((len(able), 1))).sum(axis=1).clip(max=shares.shape[1] - 1)
    found[able] = ids[able, picks]
    return found


class _Ground:
    """The map, its controls, and who owns a trail: a chain, the versions of its family, and chains with the same tokens."""

    def __init__(
        self, corpus: SymbolCorpus, k: int, seed: int, words: Mapping[int, str], families: Mapping[str, str]
    ) -> None:
        self.corpus, self.k, self.words, self.families = corpus, k, words, families
        self.index = trail_index(corpus, k)
        tokens, _ = markov_resample(corpus.tokens, corpus.offsets, 1, seed)
        self.rewired = trail_index(replace(corpus, tokens=tokens), k)
        self.number = {name: i for i, name in enumerate(corpus.chains)}
        self.bags = [content_words(text) for text in corpus.texts]
        twins: dict[str, list[int]] = {}
        for i, (a, b) in enumerate(zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True)):
            twins.setdefault(content_key(corpus.tokens[a:b]), []).append(i)
        same = {i: group for group in twins.values() for i in group}
        members: dict[str, set[int]] = {}
        for name, family in families.items():
            if family and name in self.number:
                members.setdefault(family, set()).add(self.number[name])
        self.owners = {name: {*same[i], *members.get(families.get(name, ""), ())} for name, i in self.number.items()}
        self._other: dict[str, TrailIndex] = {}
        sources = set(corpus.sources)
        self.others: Mapping[str, TrailIndex] | None = (
            {
                source: trail_index(corpus.select(np.array([one != source for one in corpus.sources])), k)
                for source in sources
            }
            if len(sources) > 1
            else None
        )

    def judge(self, texts: Sequence[Ints], names: Sequence[str], rng: np.random.Generator) -> _Found:
        """Hold texts that stem from the chains ``names`` against the map."""
        best, share, _ = self.index.votes(*_packed(texts))
        mixed = [rng.permutation(text).astype(np.int32) for text in texts]
        best_mixed, _, _ = self.index.votes(*_packed(mixed))
        rewired = self.rewired.votes(*_packed(texts))[1]
        others = None
        if self.others is not None:
            others = np.zeros(len(texts), np.bool_)
            of = [self.corpus.sources[self.number[name]] for name in names]
            for source, index in self.others.items():
                mine = [i for i, one in enumerate(of) if one == source]
                if mine:
                    held = index.votes(*_packed([texts[i] for i in mine]))[1]
                    others[mine] = (held > 0) & (held >= share[mine])
        nearest = self.nearest(texts)
        owners = [self.owners[name] for name in names]
        return _Found(
            np.array([int(b) in o for b, o in zip(best, owners, strict=True)], np.bool_),
            np.array([int(b) in o for b, o in zip(best_mixed, owners, strict=True)], np.bool_),
            np.array([int(b) in o for b, o in zip(nearest, owners, strict=True)], np.bool_),
            others,
            (rewired > 0) & (rewired >= share),
        )

    def nearest(self, texts: Sequence[Ints], keep: Bools | None = None) -> Longs:
        """Of each text the chain (T,) whose bag of words is nearest, of those in ``keep`` (C,); -1 where no word is shared."""
        own = [content_words("".join(self.words.get(int(t), "") for t in text)) for text in texts]
        vectors = hashed_words([*self.bags, *own])
        able = np.arange(self.corpus.n_chains) if keep is None else np.flatnonzero(keep)
        found, cosine = nearest_exact(vectors[able], vectors[self.corpus.n_chains :], 1)
        return np.where(cosine[:, 0] > 0, able[found[:, 0]], -1)


def _packed(texts: Sequence[Ints]) -> tuple[Ints, Longs]:
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    return (np.concatenate(texts) if texts else np.empty(0)).astype(np.int32), offsets


def _row(way: str, share: float, found: _Found, many: int) -> dict[str, object]:
    low, high = _interval(found.captured, many) or (None, None)
    row: dict[str, object] = {"way": way, "distance": share, "texts": len(found.captured)}
    row |= {"captured": found.captured.mean(), "low": low, "high": high, "mixed": found.mixed.mean()}
    row |= {"bag": found.bag.mean(), "rewired": found.rewired.mean()}
    return row | {"others": None if found.others is None else found.others.mean()}


def _units(hits: Bools, many: int) -> Doubles:
    """Hits as units to resample, (U, …): the means of chains, or where these are fewer than five, every text."""
    by_chain = hits.reshape(-1, many, *hits.shape[1:])
    units: Doubles = by_chain.mean(axis=1) if len(by_chain) >= 5 else hits.astype(np.float64)
    return units


def _interval(hits: Bools, many: int) -> tuple[float, float] | None:
    return bootstrap(_units(hits, many))


def half_distance(shares: Doubles, levels: Sequence[float] = LEVELS) -> float:
    """Where the share falls to half of what it is at the first level: between two levels by a straight line, the last level
    where it never does, 0 where nothing is captured at the first.
    """
    if not shares[0] > 0:
        return 0.0
    half = shares[0] / 2
    below = np.flatnonzero(shares <= half)
    if not len(below):
        return levels[-1]
    at = int(below[0])
    drop = shares[at - 1] - shares[at]
    return float(levels[at - 1] + (levels[at] - levels[at - 1]) * (shares[at - 1] - half) / drop)


def _half(way: str, levels: Sequence[_Found], many: int, seed: int = 0) -> Score:
    """The half-capture distance of a way, beside that of the bag of words."""

    def of(hits: Sequence[Bools]) -> tuple[float, tuple[float, float] | None]:
        units = _units(np.stack(hits, axis=1), many)
        rng = np.random.default_rng(seed)
        drawn = [half_distance(units[rng.integers(0, len(units), len(units))].mean(axis=0)) for _ in range(500)]
        return half_distance(units.mean(axis=0)), spread(drawn) if len(units) >= 5 else None

    value, interval = of([found.captured for found in levels])
    units = (
        counted(len(levels[0].captured) // many, "chain") if len(levels[0].captured) // many >= 5 else "disturbed texts"
    )
    how = f"500 resamples of {units}, generator of seed {seed}; the central 95 %"
    found = Control(BAG, *of([found.bag for found in levels]), how=f"nearest bag of words of the same texts; {how}")
    return Score(HALF + way, value, "share of tokens", (found,), interval, how=how)


def edit_distance(one: Ints, two: Ints) -> float:
    """Levenshtein distance of two token sequences as a share of the longer one, 0 to 1; 0 for two empty ones."""
    row = np.arange(len(two) + 1)
    ramp = row.copy()
    for number, token in enumerate(one.tolist(), start=1):
        best = np.minimum(row[1:] + 1, row[:-1] + (two != token))
        # an insertion comes from the left: a running minimum of what lies there, less its distance
        row = np.minimum.accumulate(np.concatenate([[number], best]) - ramp) + ramp
    return float(row[-1] / max(len(one), len(two), 1))


def _of_versions(way: str, ground: _Ground, able: Sequence[str], seed: int) -> tuple[list[dict[str, object]], str]:
    """Rows by bins of distance for texts that are versions of the chosen chains, and why there are none."""
    corpus, families = ground.corpus, ground.families

    def kin(name: str) -> list[int]:
        family = families.get(name, "")
        if not family:
            return []
        if way == VERSIONS:
            return [ground.number[one] for one, other in families.items() if other == family and one != name]
        _, colon, tail = family.partition(":")
        return [
            ground.number[one]
            for one, other in families.items()
            if colon and other != family and other.partition(":")[1:] == (colon, tail)
        ]

    found: list[tuple[float, bool, bool, bool, bool]] = []
    for number, name in enumerate(able):
        owners = kin(name)
        if not owners:
            continue
        mine = ground.number[name]
        tokens = corpus.tokens[corpus.offsets[mine] : corpus.offsets[mine + 1]]
        taken = {mine} if way == VERSIONS else {ground.number[o] for o, f in families.items() if f == families[name]}
        keep = np.ones(corpus.n_chains, np.bool_)
        keep[list(taken)] = False
        rest = np.flatnonzero(keep)
        index = trail_index(corpus.select(keep), ground.k)
        best, share, _ = index.votes(*_packed([tokens]))
        mixed = np.random.default_rng([seed, number]).permutation(tokens).astype(np.int32)
        best_mixed = index.votes(*_packed([mixed]))[0]
        rewired = float(ground.rewired.votes(*_packed([tokens]))[1][0])
        distance = min(
            edit_distance(tokens, corpus.tokens[corpus.offsets[one] : corpus.offsets[one + 1]]) for one in owners
        )
        found.append(
            (
                distance,
                best[0] >= 0 and int(rest[best[0]]) in owners,
                best_mixed[0] >= 0 and int(rest[best_mixed[0]]) in owners,
                int(ground.nearest([tokens], keep)[0]) in owners,
                rewired > 0 and rewired >= float(share[0]),
            )
        )
    if not found:
        what = "version of the same family" if way == VERSIONS else "family of the same name in another language"
        return [], f"no chain asked for has a {what}"
    table = np.array(sorted(found), np.float64)
    rows: list[dict[str, object]] = []
    for part in np.array_split(table, min(_BINS, max(len(table) // 5, 1))):
        low, high = bootstrap(part[:, 1]) or (None, None)
        rows.append(
            {"way": way, "distance": part[:, 0].mean(), "texts": len(part), "captured": part[:, 1].mean(), "low": low}
            | {"high": high, "mixed": part[:, 2].mean(), "bag": part[:, 3].mean(), "rewired": part[:, 4].mean()}
        )
    return rows, ""
