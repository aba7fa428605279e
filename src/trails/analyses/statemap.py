"""The woven map: token occurrences with the same last k tokens become one state, transitions between them trails.

Chains stay stored as their own paths; the map only says where they meet. Compacted as in genome graphs: a unitig is a path
without branches, a bubble is a set of alternative ways between the same two unitigs (de Bruijn graph vocabulary). The map of
the same chains is the same in every order, and a state has the same id in every corpus.

How far the map can be trusted is measured on held-out chains (a tenth, by id): *fitness* is the share of their transitions
that the map of the others has; *branching perplexity* is exp of the mean entropy of the way on; *walk is real* is the share of
random walks over the map whose tokens some chain has in that order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.sequences import (
    SymbolCorpus,
    content_key,
    context_ranks,
    markov_resample,
    mixed,
    shuffled,
    token_corpus,
    window_keys,
)
from trails.analyses.statistics import bootstrap, how_drawn, how_resampled, spread
from trails.errors import UsageError
from trails.platform.arrays import Bools, Ints, Keys, Longs
from trails.platform.text import counted, percent
from trails.schema import Trace
from trails.store.base import GraphBatch
from trails.store.rows import table_of

MIN_CHAINS = 20
"""Fewer chains than this leave nothing to hold out: the map is built, its scores are withheld."""

HELD_OUT = "one chain in ten held out by a key of its id"
"""How :func:`held_out` chooses, in words; docs/analyses.md says which key."""
WALK_STEPS = 8
WALKS = 2_000
SHUFFLES = 5
"""Shuffles behind the control of the fitness."""
RESAMPLES = 3
"""Markov resamples behind the control of the branching perplexity."""


@dataclass(frozen=True, slots=True)
class StateMap(Finding):
    """A map and how far it can be trusted.

    ``states``: ``id``, ``text``, ``n_occurrences``, ``n_chains``. ``trails``: ``start``, ``end`` (state ids), ``count``,
    ``n_chains``, ``mean_surprisal`` (nats; null where not measured). ``unitigs``: ``id``, ``text``, ``n_states``, ``first``,
    ``last`` (state ids), ``n_occurrences``; only those of two states or more, longest first. ``bubbles``: ``id``, ``start``,
    ``end`` (state ids), ``before``, ``after`` (texts), ``ways`` (texts, an empty one for a direct transition), ``counts``.
    """

    k: int
    tokenizer: str
    run: str
    n_chains: int
    n_tokens: int
    states: pa.Table
    trails: pa.Table
    unitigs: pa.Table
    bubbles: pa.Table
    scores: tuple[Score, ...]
    withheld: tuple[Withheld, ...]
    corpus: SymbolCorpus
    state_of: Longs  # (N,) row in `states` of each token
    all_states: bool = False

    def batch(self) -> GraphBatch:
        """Rows for the graph: ``State``, ``TRAIL``, ``AT``. Without ``all_states`` only states of two chains or more: the
        others are as many as tokens and say nothing that the token does not.
        """
        keep = pc.greater_equal(self.states["n_chains"], 1 if self.all_states else 2).combine_chunks()
        kept = np.asarray(keep.to_numpy(zero_copy_only=False), np.bool_)
        nodes = self.states.filter(keep)
        ids = self.states["id"].combine_chunks()
        wanted = nodes["id"]
        inside = pc.and_(pc.is_in(self.trails["start"], wanted), pc.is_in(self.trails["end"], wanted))
        trails = self.trails.filter(inside)
        tokens = np.flatnonzero(kept[self.state_of])
        chain = pa.array(self.corpus.chains).take(pa.array(self.corpus.chain_of(tokens)))
        position = pa.array(self.corpus.position[tokens, 0]).cast(pa.string())
        names = pc.binary_join_element_wise(chain, self.tokenizer[:8], position, ":")
        size = len(nodes)
        return GraphBatch(
            nodes={
                "State": table_of(
                    "State",
                    {
                        "id": nodes["id"],
                        "tokenizer": [self.tokenizer[:8]] * size,
                        "k": [self.k] * size,
                        "text": nodes["text"],
                        "n_occurrences": nodes["n_occurrences"],
                        "n_chains": nodes["n_chains"],
                    },
                )
            },
            relationships={
                "TRAIL": table_of("TRAIL", {name: trails[name] for name in trails.column_names}),
                "AT": table_of("AT", {"start": names, "end": ids.take(pa.array(self.state_of[tokens]))}),
            },
        )

    def report(self) -> Report:
        """Bubbles and unitigs, how far the map can be trusted, and on request states and trails."""
        shared = int(pc.sum(pc.greater_equal(self.states["n_chains"], 2)).as_py() or 0)
        walks = pa.array([sum(counts) for counts in self.bubbles["counts"].to_pylist()], pa.int64())
        bubbles = self.bubbles.append_column("walks", walks)
        headings = {"walks": "walks", "before": "from", "ways": "alternative ways", "counts": "taken", "after": "to"}
        unitigs = {"n_states": "states", "n_occurrences": "walks", "text": "text"}
        states = {"id": "id", "text": "text", "n_occurrences": "places", "n_chains": "chains"}
        trails = {
            "start": "from",
            "end": "to",
            "count": "count",
            "n_chains": "chains",
            "mean_surprisal": "mean surprisal",
        }
        facts = {"k": self.k, "run": self.run, "n_chains": self.n_chains, "n_tokens": self.n_tokens}
        facts |= {"n_states": len(self.states), "n_shared_states": shared, "n_trails": len(self.trails)}
        facts |= {"n_unitigs": len(self.unitigs), "n_bubbles": len(self.bubbles)}
        return Report(
            "map",
            self._verdict(),
            facts,
            (
                ReportTable("bubbles", bubbles, counted(len(bubbles), "bubble"), headings),
                ReportTable("unitigs", self.unitigs, counted(len(self.unitigs), "unitig"), unitigs, detail=True),
                ReportTable("states", self.states, counted(len(self.states), "state"), states, detail=True),
                ReportTable("trails", self.trails, counted(len(self.trails), "trail"), trails, detail=True),
            ),
            self.scores,
            self.withheld,
            evidence=("fitness", "walk is real"),
            woven=self,
        )

    def _verdict(self) -> str:
        fitness = next((score for score in self.scores if score.name == "fitness"), None)
        if fitness is None:
            reason = self.withheld[0].reason if self.withheld else "it was not scored"
            return f"whether new chains keep to this map is open: {reason}"
        chance = fitness.strictest().reach
        kept = f"{percent(fitness.value)} of the transitions of held-out chains"
        if fitness.interval is None:
            place = "above" if fitness.beyond() else "not above"
            found = f"new chains keep to this map {place} its control; too few held-out chains for an interval"
            return f"{found}: it has {kept}, shuffled {'at most' if fitness.beyond() else 'up to'} {percent(chance)}"
        if fitness.beyond():
            return f"new chains keep to this map beyond chance: it has {kept}, shuffled at most {percent(chance)}"
        return f"new chains do not keep to this map beyond chance: it has {kept}, shuffled up to {percent(chance)}"


def woven_map(
    traces: Iterable[Trace],
    k: Annotated[int, "Number of tokens that identify a state."] = 4,
    all_states: Annotated[bool, "Write every state to the graph, not only those of two chains or more."] = False,
) -> StateMap:
    """The map of chains: where they meet, the paths between, and how well held-out chains fit it.

    Writes :State, :TRAIL and :AT to the graph; a map of the same run and options is replaced.

    \b
    trails map
    trails map --k 3 --limit 30
    """
    return replace(build(token_corpus(traces), k), all_states=all_states)


def build(corpus: SymbolCorpus, k: int = 4, *, score: bool = True, seed: int = 0) -> StateMap:
    """The map of a corpus. Raises UsageError for ``k`` < 1."""
    if k < 1:
        raise UsageError(f"a map of the last {counted(k, 'token')} was asked for; k is 1 or more (default 4)")
    state_of = context_ranks(corpus.tokens, corpus.offsets, k)
    n_states = int(state_of.max(initial=-1)) + 1
    count = np.bincount(state_of, minlength=n_states)
    chain = corpus.chain_of(np.arange(corpus.n_tokens))
    states_of_chains = np.unique(state_of * max(corpus.n_chains, 1) + chain) // max(corpus.n_chains, 1)
    n_chains = np.bincount(states_of_chains, minlength=n_states)
    first = np.full(n_states, -1, np.int64)
    first[state_of[::-1]] = np.arange(corpus.n_tokens)[::-1]
    depth = np.arange(corpus.n_tokens) - corpus.offsets[:-1][chain]
    ids = _state_ids(corpus, first, depth, k)
    begin = first - np.minimum(depth[first], k - 1)
    texts = _texts(corpus, chain[first], corpus.characters[begin, 0], corpus.characters[first, 1])
    states = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "text": pa.array(texts, pa.string()),
            "n_occurrences": count.astype(np.int64),
            "n_chains": n_chains.astype(np.int64),
        }
    )
    later = np.flatnonzero(depth > 0)
    edges, edge_of = np.unique(state_of[later - 1] * n_states + state_of[later], return_inverse=True)
    source, target = edges // max(n_states, 1), edges % max(n_states, 1)
    edge_count = np.bincount(edge_of, minlength=len(edges))
    walked = np.unique(edge_of.astype(np.int64) * max(corpus.n_chains, 1) + chain[later]) // max(corpus.n_chains, 1)
    surprisal = corpus.surprisal[later].astype(np.float64)
    known = np.isfinite(surprisal)
    total = np.bincount(edge_of, weights=np.where(known, surprisal, 0.0), minlength=len(edges))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = total / np.bincount(edge_of, weights=known.astype(np.float64), minlength=len(edges))
    names = states["id"].combine_chunks()
    trails = pa.table(
        {
            "start": names.take(pa.array(source)),
            "end": names.take(pa.array(target)),
            "count": edge_count.astype(np.int64),
            "n_chains": np.bincount(walked, minlength=len(edges)).astype(np.int64),
            "mean_surprisal": pa.array(mean, mask=~np.isfinite(mean)),
        }
    )
    word = _texts(corpus, chain[first], corpus.characters[first, 0], corpus.characters[first, 1])
    unitigs, bubbles = _compact(source, target, edge_count, count, ids, texts, word)
    scores, withheld = _scores(corpus, k, seed) if score else ((), ())
    return StateMap(
        k,
        corpus.tokenizer,
        corpus.run,
        corpus.n_chains,
        corpus.n_tokens,
        states,
        trails,
        unitigs,
        bubbles,
        scores,
        withheld,
        corpus,
        state_of,
    )


def _texts(corpus: SymbolCorpus, chain: Longs, begin: Ints, end: Ints) -> list[str]:
    spans = zip(chain.tolist(), begin.tolist(), end.tolist(), strict=True)
    # Lone surrogates cannot be stored; readers refuse them, a hand-made corpus might not.
    return [corpus.texts[c][a:b].encode("utf-8", "replace").decode() for c, a, b in spans]


def _state_ids(corpus: SymbolCorpus, first: Longs, depth: Longs, k: int) -> list[str]:
    """Ids from the tokens themselves: ``s`` + 20 hex digits over tokenizer, k and the last k tokens."""
    salt = int(content_key("state", corpus.tokenizer, k), 16)
    halves: list[Keys] = []
    with np.errstate(over="ignore"):
        for half in range(2):
            key = np.full(len(first), np.uint64((salt + half * 0x9E3779B97F4A7C15) % 2**64), np.uint64)
            for back in range(k):
                at = np.maximum(first - back, 0)
                token = np.where(depth[first] >= back, corpus.tokens[at].astype(np.int64) + 1, 0)
                key = mixed(key * np.uint64(0xD6E8FEB86659FD93) + token.astype(np.uint64))
            halves.append(key)
    return [f"s{a:016x}{b & 0xFFFF:04x}" for a, b in zip(halves[0].tolist(), halves[1].tolist(), strict=True)]


# --------------------------------------------------------------------------------------------------------------------
# Unitigs and bubbles
# --------------------------------------------------------------------------------------------------------------------


def _linked(source: Longs, target: Longs, n: int) -> Longs:
    """For each state the one before it in its unitig, itself at the head. Circles are cut at their smallest state."""
    out_degree, in_degree = np.bincount(source, minlength=n), np.bincount(target, minlength=n)
    link = (out_degree[source] == 1) & (in_degree[target] == 1) & (source != target)
    before = np.arange(n, dtype=np.int64)
    before[target[link]] = source[link]
    # A circle has no head: follow the pointers by doubling, with the smallest state seen, and cut there.
    jump, low = before.copy(), np.arange(n, dtype=np.int64)
    for _ in range(int(n).bit_length() + 1):
        low = np.minimum(low, low[jump])
        jump = jump[jump]
    circular = before[jump] != jump
    cut = np.flatnonzero(circular & (low == np.arange(n)))
    before[cut] = cut
    return before


def _compact(
    source: Longs, target: Longs, edge_count: Longs, count: Longs, ids: list[str], texts: list[str], word: list[str]
) -> tuple[pa.Table, pa.Table]:
    n = len(ids)
    before = _linked(source, target, n)
    head, rank = before.copy(), (before != np.arange(n)).astype(np.int64)
    while True:
        # Doubling: a state's head is the head of the state it points to.
        further = head[head]
        if (further == head).all():
            break
        rank = rank + rank[head]
        head = further
    order = np.lexsort((rank, head))
    begins = np.flatnonzero(np.append(True, head[order][1:] != head[order][:-1])) if n else np.empty(0, np.int64)
    bounds = np.append(begins, n)
    heads, tails = order[begins], order[bounds[1:] - 1] if n else np.empty(0, np.int64)
    sizes = np.diff(bounds)
    unitig_of = np.empty(n, np.int64)
    unitig_of[order] = np.repeat(np.arange(len(heads)), sizes)

    def text_of(unitig: int, *, skip: bool = False) -> str:
        members = order[bounds[unitig] : bounds[unitig + 1]].tolist()
        pieces = [word[members[0]] if skip else texts[members[0]], *(word[m] for m in members[1:])]
        return "".join(pieces)

    long = np.flatnonzero(sizes > 1)
    long = long[np.lexsort((heads[long], -sizes[long]))]
    mean = np.add.reduceat(count[order], begins) / sizes if n else np.empty(0)
    unitigs = pa.table(
        {
            "id": pa.array(["u" + ids[h][1:] for h in heads[long].tolist()], pa.string()),
            "text": pa.array([text_of(u) for u in long.tolist()], pa.string()),
            "n_states": sizes[long].astype(np.int64),
            "first": pa.array([ids[h] for h in heads[long].tolist()], pa.string()),
            "last": pa.array([ids[t] for t in tails[long].tolist()], pa.string()),
            "n_occurrences": mean[long].astype(np.float64),
        }
    )
    # The compacted graph: edges between unitigs.
    between = before[target] != source
    a, b, weight = unitig_of[source[between]], unitig_of[target[between]], edge_count[between]
    out_degree, in_degree = np.bincount(a, minlength=len(heads)), np.bincount(b, minlength=len(heads))
    single = (out_degree == 1) & (in_degree == 1)
    # A way is a unitig with one predecessor and one successor; ways with the same two make a bubble, and so does a
    # direct transition beside one way.
    into, out_of = np.full(len(heads), -1, np.int64), np.full(len(heads), -1, np.int64)
    through = np.zeros(len(heads), np.int64)
    into[b], out_of[a] = a, b
    through[b] = weight
    ways = np.flatnonzero(single & (into >= 0) & (out_of >= 0))
    ways = ways[(into[ways] != ways) & (out_of[ways] != ways)]
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for way in ways.tolist():
        groups.setdefault((int(into[way]), int(out_of[way])), []).append((way, int(through[way])))
    for x, y, w in zip(a.tolist(), b.tolist(), weight.tolist(), strict=True):
        if (x, y) in groups and x != y:
            groups[(x, y)].append((-1, w))
    rows = []
    for (x, y), members in groups.items():
        if len(members) < 2:
            continue
        named = sorted(
            ((text_of(way, skip=True) if way >= 0 else "", w) for way, w in members), key=lambda m: (-m[1], m[0])
        )
        last, following = int(tails[x]), int(heads[y])
        rows.append((ids[last], ids[following], texts[last], word[following], named))
    rows.sort(key=lambda row: (-sum(w for _, w in row[4]), row[0], row[1]))
    bubbles = pa.table(
        {
            "id": pa.array(["b" + content_key(row[0], row[1]) for row in rows], pa.string()),
            "start": pa.array([row[0] for row in rows], pa.string()),
            "end": pa.array([row[1] for row in rows], pa.string()),
            "before": pa.array([row[2] for row in rows], pa.string()),
            "after": pa.array([row[3] for row in rows], pa.string()),
            "ways": pa.array([[text for text, _ in row[4]] for row in rows], pa.list_(pa.string())),
            "counts": pa.array([[w for _, w in row[4]] for row in rows], pa.list_(pa.int64())),
        }
    )
    return unitigs, bubbles


# --------------------------------------------------------------------------------------------------------------------
# How far the map can be trusted
# --------------------------------------------------------------------------------------------------------------------


def held_out(corpus: SymbolCorpus, every: int = 10) -> Bools:
    """Which chains (C,) are held out: about one in ``every``, chosen by a hash of the id, so in every order the same."""
    return np.array([int(content_key("held out", name)[:8], 16) % every == 0 for name in corpus.chains], np.bool_)


def joined(first: tuple[Ints, Longs], second: tuple[Ints, Longs]) -> tuple[Ints, Longs]:
    """Two sets of chains as one."""
    return np.concatenate([first[0], second[0]]), np.concatenate([first[1], first[1][-1] + second[1][1:]])


def fitness(known: tuple[Ints, Longs], new: tuple[Ints, Longs], k: int) -> tuple[Bools, Longs]:
    """Which transitions of the new chains the map of the known ones has, and the new chain of each (token replay).

    A transition is the k tokens before and the token after it; the first token of a chain is none.
    """
    tokens, offsets = joined(known, new)
    n_known = len(known[0])
    edge = context_ranks(tokens, offsets, k + 1)
    depth = np.arange(len(tokens)) - np.repeat(offsets[:-1], np.diff(offsets))
    seen = np.zeros(int(edge.max(initial=-1)) + 1, np.bool_)
    seen[edge[:n_known]] = True
    transition = np.flatnonzero(depth[n_known:] > 0)
    chain = np.searchsorted(new[1], transition, side="right") - 1
    return seen[edge[n_known:][transition]], chain


def branching_perplexity(tokens: Ints, offsets: Longs, k: int) -> float:
    """exp of the mean entropy of the next token given the last k, weighted by how often they occur; NaN without transitions."""
    state = context_ranks(tokens, offsets, k)
    depth = np.arange(len(tokens)) - np.repeat(offsets[:-1], np.diff(offsets))
    later = np.flatnonzero(depth > 0)
    if not len(later):
        return float("nan")
    n_states = int(state.max()) + 1
    edges, edge_count = np.unique(state[later - 1] * n_states + state[later], return_counts=True)
    leaving = np.bincount(edges // n_states, weights=edge_count, minlength=n_states)
    nats = -(edge_count * np.log(edge_count / leaving[edges // n_states])).sum() / edge_count.sum()
    return float(np.exp(nats))


def walk_is_real(
    tokens: Ints, offsets: Longs, k: int, *, steps: int = WALK_STEPS, walks: int = WALKS, seed: int = 0
) -> Bools:
    """For random walks of ``steps`` transitions over the map: do some chain's tokens run in that order?

    Every step goes to a random occurrence of the state and takes what follows. Walks that reach the end of a chain are
    left out, so fewer than ``walks`` may come back.
    """
    rng = np.random.default_rng(seed)
    state = context_ranks(tokens, offsets, k)
    order = np.argsort(state, kind="stable")
    size = np.bincount(state)
    begin = np.concatenate([[0], np.cumsum(size)[:-1]])
    last = np.zeros(len(tokens), np.bool_)
    last[offsets[1:][np.diff(offsets) > 0] - 1] = True
    depth = np.arange(len(tokens)) - np.repeat(offsets[:-1], np.diff(offsets))
    full = np.flatnonzero(depth >= k - 1)
    if not len(full):
        return np.zeros(0, np.bool_)
    at = full[rng.integers(0, len(full), walks)]
    path = [tokens[at - back] for back in range(k - 1, -1, -1)]
    alive = np.ones(walks, np.bool_)
    for _ in range(steps):
        group = state[at]
        twin = order[begin[group] + (rng.random(walks) * size[group]).astype(np.int64)]
        alive &= ~last[twin]
        at = np.where(last[twin], twin, twin + 1)
        path.append(tokens[at])
    text = np.stack(path, axis=1)[alive]
    if not len(text):
        return np.zeros(0, np.bool_)
    width = text.shape[1]
    real, _ = window_keys(tokens, offsets, width)
    walked, _ = window_keys(text.reshape(-1), np.arange(len(text) + 1, dtype=np.int64) * width, width)
    return np.isin(walked, real)


def _walked(kept: int, seed: int) -> str:
    """How :func:`walk_is_real` was drawn and resampled, in words."""
    walks = f"{kept:,} of {WALKS:,} walks of {WALK_STEPS} steps did not reach the end of a chain, seed {seed}"
    return f"{walks}; {how_resampled('walks', seed=seed)}"


def _scores(corpus: SymbolCorpus, k: int, seed: int) -> tuple[tuple[Score, ...], tuple[Withheld, ...]]:
    out = held_out(corpus)
    if corpus.n_chains < MIN_CHAINS or not out.any() or out.all():
        reason = (
            f"{counted(corpus.n_chains, 'chain is', 'chains are')} too few to hold some out "
            f"({MIN_CHAINS} are needed): ingest more"
        )
        names = ("fitness", "branching perplexity", "walk is real")
        return (), tuple(Withheld(name, reason) for name in names)
    train, test = corpus.select(~out), corpus.select(out)
    known, new = (train.tokens, train.offsets), (test.tokens, test.offsets)
    hit, chain = fitness(known, new, k)
    per_chain = np.stack(
        [np.bincount(chain, weights=hit, minlength=test.n_chains), np.bincount(chain, minlength=test.n_chains)], 1
    )
    null = [
        float(fitness(known, (shuffled(*new, seed + draw, within=True), new[1]), k)[0].mean())
        for draw in range(SHUFFLES)
    ]
    interval = bootstrap(per_chain, lambda rows: float(rows[:, 0].sum() / max(rows[:, 1].sum(), 1)), seed=seed)
    resample = [
        branching_perplexity(*markov_resample(corpus.tokens, corpus.offsets, 1, seed + draw), k)
        for draw in range(RESAMPLES)
    ]
    real, flat = (walk_is_real(corpus.tokens, corpus.offsets, size, seed=seed) for size in (k, 1))
    scores = [
        Score(
            "fitness",
            float(hit.mean()),
            "share of held-out transitions",
            (
                Control(
                    "held-out tokens shuffled",
                    float(np.mean(null)),
                    spread(null),
                    f"{HELD_OUT}; " + how_drawn("shuffles within each held-out chain", SHUFFLES, seed, apart=True),
                ),
            ),
            interval,
            f"{counted(test.n_chains, 'chain')} held out",
            f"{HELD_OUT}; {how_resampled('held-out chains (sum over sum)', seed=seed)}",
        ),
        Score(
            "branching perplexity",
            branching_perplexity(corpus.tokens, corpus.offsets, k),
            "ways on",
            (
                Control(
                    "order-1 Markov resample",
                    float(np.mean(resample)),
                    spread(resample),
                    how_drawn("order-1 Markov resamples", RESAMPLES, seed, apart=True),
                ),
            ),
            note="near 1 also because most states occur once",
        ),
    ]
    withheld: list[Withheld] = []
    if len(real) and len(flat):
        scores.append(
            Score(
                "walk is real",
                float(real.mean()),
                f"share of {WALK_STEPS}-step walks",
                (
                    Control(
                        "the same on the map of single tokens (k = 1)",
                        float(flat.mean()),
                        bootstrap(flat, seed=seed),
                        _walked(len(flat), seed),
                    ),
                ),
                bootstrap(real, seed=seed),
                how=_walked(len(real), seed),
            )
        )
    else:
        withheld.append(Withheld("walk is real", f"no chain is long enough for a walk of {WALK_STEPS} steps"))
    return tuple(scores), tuple(withheld)
