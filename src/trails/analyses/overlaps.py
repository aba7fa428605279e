"""Overlaps: what chains share, compared with what chance alone shares.

Four kinds. ``exact``: maximal repeats of tokens. ``masked``: the same after numbers and names are masked. ``near``: steps close
in whitened hidden space, of which only those count that masked exact matching does not explain. ``skeleton``: repeats of
roles, with the variants (distinct role sequences) and their counts.

The controls: Markov resamples of order 1 and 2 for tokens (much of what chains share is local phrase statistics), permuted
dimensions and masked exact matching for near overlaps, a shuffle of all roles for skeletons.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from trails.analyses.neighbours import nearest_exact, nearest_others
from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.sequences import (
    ROLES,
    SymbolCorpus,
    content_key,
    content_words,
    context_ranks,
    coverage,
    covered,
    markov_resample,
    masked_corpus,
    maximal_repeats,
    one_instrument,
    role_corpus,
    sequence_keys,
    shared_windows,
    shuffled,
    token_corpus,
    window_keys,
)
from trails.analyses.statistics import Interval, bootstrap, how_drawn, how_resampled, spread
from trails.analyses.whitening import MIN_VECTORS, Whitening, fit_whitening
from trails.errors import UsageError
from trails.platform.arrays import Floats, Ints, Longs
from trails.platform.text import agreeing, counted, part_of, percent
from trails.schema import Role, Trace, step_key
from trails.store.base import GraphBatch
from trails.store.rows import table_of

Kind = Literal["exact", "masked", "near", "skeleton"]
KINDS: tuple[Kind, ...] = ("exact", "masked", "near", "skeleton")

MIN_CHAINS = 20
MIN_TOKENS = 1_000
"""Below these a resample of the corpus says nothing, and coverage is not scored."""


@dataclass(frozen=True, slots=True)
class Overlaps(Finding):
    """Overlaps of one kind.

    ``overlaps`` has one row each: ``id``, ``text``, ``n_tokens`` (symbols for masked, steps for skeleton and near),
    ``n_chains``, ``n_occurrences``; longest first. ``occurrences``: ``overlap``, ``chain``, ``start``, ``end`` (token
    positions; steps for skeleton and near).
    ``variants``, skeletons only: ``roles``, ``n_chains``. ``similar``, near overlaps only: ``start``,
    ``end`` (step ids, each pair once), ``cosine``, ``excess`` (cosine minus the control's 99 % quantile), ``explained`` (masked
    exact matching finds the pair too). ``pair``: the two chains that :meth:`between` was asked for.
    """

    kind: Kind
    min_length: int
    n_chains: int
    n_symbols: int
    run: str
    overlaps: pa.Table
    occurrences: pa.Table
    scores: tuple[Score, ...] = ()
    withheld: tuple[Withheld, ...] = ()
    variants: pa.Table | None = None
    similar: pa.Table | None = None
    layer: int | None = None
    n_steps: int | None = None
    n_implicit: int | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)
    pair: tuple[str, ...] = ()

    def between(self, first: str, second: str) -> Overlaps:
        """Only the overlaps that both chains share; scores stay those of the whole corpus."""
        chain, overlap = self.occurrences["chain"], self.occurrences["overlap"]
        one = set(overlap.filter(pc.equal(chain, first)).to_pylist())
        two = set(overlap.filter(pc.equal(chain, second)).to_pylist())
        both = pa.array(sorted(one & two), pa.string())
        return replace(
            self,
            overlaps=self.overlaps.filter(pc.is_in(self.overlaps["id"], both)),
            occurrences=self.occurrences.filter(pc.is_in(overlap, both)),
            pair=(first, second),
        )

    def batch(self) -> GraphBatch:
        """Rows for the graph: ``:Overlap`` nodes, ``IN`` to the chains, ``SIMILAR`` between steps."""
        size = len(self.overlaps)
        score = next((s for s in self.scores if s.name == "coverage"), None)
        nodes = {
            "id": self.overlaps["id"],
            "kind": [self.kind] * size,
            "text": self.overlaps["text"],
            "n_tokens": self.overlaps["n_tokens"],
            "n_chains": self.overlaps["n_chains"],
        }
        if score is not None:
            # The strictest control is the one that explains most.
            strictest = max(score.controls, key=lambda control: control.value)
            nodes["coverage"] = [score.value] * size
            nodes["control"] = [strictest.value] * size
            nodes["excess"] = [score.value - strictest.value] * size
            nodes["control_name"] = [strictest.name] * size
        relationships = {
            "IN": table_of(
                "IN",
                {
                    "start": self.occurrences["overlap"],
                    "end": self.occurrences["chain"],
                    "first": self.occurrences["start"],
                    "stop": self.occurrences["end"],
                },
            )
        }
        if self.similar is not None:
            relationships["SIMILAR"] = table_of(
                "SIMILAR",
                {
                    "start": self.similar["start"],
                    "end": self.similar["end"],
                    "run": [self.run] * len(self.similar),
                    "layer": [self.layer] * len(self.similar),
                    "cosine": self.similar["cosine"],
                    "excess": self.similar["excess"],
                },
            )
        return GraphBatch(nodes={"Overlap": table_of("Overlap", nodes)}, relationships=relationships)

    @property
    def unit(self) -> str:
        """What lengths count."""
        return "steps" if self.kind in ("skeleton", "near") else _symbols(self.kind)

    def report(self) -> Report:
        """The overlaps that no longer one contains, with their chains; every overlap in JSON, with ``nested``."""
        inside = nested(self.overlaps, self.occurrences)
        chains: dict[str, list[str]] = {}
        for overlap, chain in zip(
            self.occurrences["overlap"].to_pylist(), self.occurrences["chain"].to_pylist(), strict=True
        ):
            known = chains.setdefault(overlap, [])
            if len(known) < CHAINS_SHOWN and chain not in known:
                known.append(chain)
        ids = self.overlaps["id"].to_pylist()
        data = self.overlaps.append_column(
            "chains", pa.array([chains.get(name, []) for name in ids], pa.list_(pa.string()))
        ).append_column("nested", pa.array(inside))
        columns = {"id": "overlap", "n_tokens": self.unit, "n_chains": "chains", "n_occurrences": "places"}
        columns |= {"text": "text", "chains": f"in (up to {CHAINS_SHOWN})"}
        title = counted(len(ids) - int(inside.sum()), f"{self.kind} overlap")
        if inside.any():
            title += f", and {int(inside.sum())} that occur only inside longer ones (--json has them)"
        tables = [ReportTable("overlaps", data, title, columns, shown=(~inside).tolist())]
        if self.variants is not None:
            headings = {"n_chains": "chains", "roles": "variant"}
            tables.append(ReportTable("variants", self.variants, counted(len(self.variants), "variant"), headings))
        if self.similar is not None:
            headings = {"start": "step", "end": "near step", "cosine": "cosine", "excess": "excess over control"}
            headings["explained"] = "masked exact finds it too"
            title = f"{counted(len(self.similar), 'near pair')} of steps, layer {self.layer}"
            ranked = ("cosine", self.similar["cosine"].to_pylist())
            tables.append(ReportTable("similar", self.similar, title, headings, ranked=ranked))
        facts = {"kind": self.kind, "min_length": self.min_length, "n_chains": self.n_chains, "run": self.run or None}
        facts |= {"n_symbols": self.n_symbols, "n_overlaps": len(ids)}
        counts = {"n_steps": self.n_steps, "n_implicit": self.n_implicit}
        facts |= {
            name: count for name, count in counts.items() if count is not None
        }  # 0 would say that they were counted
        first = next((name for name, hidden in zip(ids, inside.tolist(), strict=True) if not hidden), None)
        return Report(
            "overlaps",
            self._verdict(len(ids) - int(inside.sum())),
            facts,
            tuple(tables),
            self.scores,
            self.withheld,
            self.notes,
            _commands(first, chains.get(first, []), drop=self._beyond() is not False) if first is not None else (),
        )

    @property
    def _nulls(self) -> tuple[str, ...]:
        """The controls that are chance: what masked exact matching finds is another share of the steps."""
        return ("whitened dimensions permuted", SAME_KIND) if self.kind == "near" else ()

    def _score(self) -> Score | None:
        name = "near share beyond masked exact" if self.kind == "near" else "coverage"
        return next((one for one in self.scores if one.name == name), None)

    def _beyond(self) -> bool | None:
        """Whether more is shared than chance shares; None where that is open."""
        score = self._score()
        return None if score is None else score.beyond(*self._nulls)

    def _verdict(self, n_shown: int) -> str:
        size = f"{self.min_length} {self.unit} or more"
        score = self._score()
        if score is None:
            reason = self.withheld[0].reason if self.withheld else "no score could be had"
            found = (
                f"{counted(len(self.overlaps), f'{self.kind} overlap')} of {size} "
                f"{agreeing(len(self.overlaps), 'was', 'were')} found; whether that is beyond chance is open"
            )
            judged = f"whether it shares beyond chance is open: {reason}" if self.pair else f"{found}: {reason}"
        else:
            chance = score.strictest(*self._nulls)
            what = {"near": "of the steps have a near step beyond masked exact matching"}.get(
                self.kind, f"of the {self.unit} lie in overlaps of {size}"
            )
            share = f"{percent(score.value)} {what}"
            if not len(self.overlaps) and self.kind != "near" and not self.pair:
                judged = f"no {self.kind} overlap of {size}"
            elif self._beyond():
                judged = f"shared beyond chance: {share}, chance explains at most {percent(chance.reach)}"
            else:
                low = f" (95 %: from {percent(score.interval[0])})" if score.interval else ""
                judged = f"not beyond chance: {share}{low}, and chance ({chance.name}) reaches {percent(chance.reach)}"
        if not self.pair:
            return judged
        longest = f", the longest of {self.overlaps['n_tokens'][0].as_py()} {self.unit}" if len(self.overlaps) else ""
        shared = (
            f"{counted(n_shown, 'overlap')}{longest}" if len(self.overlaps) else f"no {self.kind} overlap of {size}"
        )
        return f"{' and '.join(self.pair)} share {shared}; the whole corpus: {judged}"


CHAINS_SHOWN = 5
"""Chains of an overlap that a report names."""


def nested(overlaps: pa.Table, occurrences: pa.Table) -> npt.NDArray[np.bool_]:
    """Which overlaps (R,) lie inside a longer one wherever they occur, and so say nothing of their own. An overlap that stands
    alone in one place is kept (a near-supermaximal repeat: Gusfield, "Algorithms on Strings, Trees and Sequences", 1997).
    """
    n = len(occurrences)
    if not n:
        return np.zeros(len(overlaps), np.bool_)
    number = {name: row for row, name in enumerate(overlaps["id"].to_pylist())}
    owner = np.array([number[name] for name in occurrences["overlap"].to_pylist()], np.int64)
    chain = occurrences["chain"].combine_chunks().dictionary_encode().indices.to_numpy().astype(np.int64)
    start, end = (occurrences[name].to_numpy().astype(np.int64) for name in ("start", "end"))
    order = np.lexsort((-end, start, chain))
    chain, start, end = chain[order], start[order], end[order]
    reach = np.maximum.accumulate(chain * (int(end.max()) + 1) + end)
    new = np.ones(n, np.bool_)
    new[1:] = (chain[1:] != chain[:-1]) | (start[1:] != start[:-1]) | (end[1:] != end[:-1])
    # how far the spans before this one reach; equal spans do not contain each other
    before = np.concatenate([[-1], reach[:-1]])[np.maximum.accumulate(np.where(new, np.arange(n), 0))]
    alone = before < chain * (int(end.max()) + 1) + end
    hidden: npt.NDArray[np.bool_] = np.bincount(owner[order], weights=alone, minlength=len(overlaps)) == 0
    return hidden


def _commands(overlap: str, chains: Sequence[str], *, drop: bool) -> tuple[tuple[str, str], ...]:
    """Lines that export an overlap, or with ``drop`` everything with one copy of it. What chance shares too is no reason to
    drop a chain.
    """
    export = (
        "export the first of them",
        f"trails export --subgraph overlap:{overlap} --format messages -o overlap.jsonl",
    )
    if not drop:
        return (export,)
    copies = f"MATCH (c:Chain) WHERE c.id = '{chains[0]}' OR NOT (:Overlap {{key: '{overlap}'}})-[:IN]->(c) RETURN c.id"
    return (
        export,
        (
            f"drop it, with one chain left ({chains[0]})",
            f'trails export --subgraph "{copies}" --format messages -o rest.jsonl',
        ),
    )


def find_overlaps(
    kind: Kind,
    traces: Iterable[Trace],
    *,
    min_tokens: int = 10,
    min_steps: int = 3,
    layer: int | None = None,
    whitening: Callable[[int], Whitening] | None = None,
    implicit: bool = False,
) -> Overlaps:
    """Overlaps of one kind in the traces of one run; ``whitening`` as in :func:`near`, ``implicit`` as in :func:`skeleton`.

    Raises UsageError for another kind, and for ``implicit`` with a kind that compares no roles.
    """
    if kind not in KINDS:
        raise UsageError(f"overlaps of kind {kind!r} were asked for. Kinds: {', '.join(KINDS)}.")
    if implicit and kind != "skeleton":
        raise UsageError(
            f"implicit roles were asked for with overlaps of kind {kind}, which compare no roles. Take skeleton"
        )
    if kind == "exact":
        return exact(token_corpus(traces), min_tokens)
    if kind == "masked":
        return masked(token_corpus(traces), min_tokens)
    if kind == "near":
        return near(traces, layer=layer, whitening=whitening)
    return skeleton(traces, min_steps, implicit=implicit)


def exact(corpus: SymbolCorpus, min_tokens: int = 10, *, resamples: int = 5, seed: int = 0) -> Overlaps:
    """Maximal repeats of at least ``min_tokens`` tokens shared by two chains or more, compared with Markov resamples."""
    return _repeats("exact", corpus, min_tokens, resamples, seed)


def masked(corpus: SymbolCorpus, min_tokens: int = 10, *, resamples: int = 5, seed: int = 0) -> Overlaps:
    """The same with numbers and names masked; lengths count masked symbols, spans count the original tokens."""
    return _repeats("masked", masked_corpus(corpus), min_tokens, resamples, seed)


def _symbols(kind: Kind) -> str:
    """What repeats of tokens count: a masked number or name of several tokens is one symbol."""
    return "symbols" if kind == "masked" else "tokens"


def _repeats(kind: Kind, corpus: SymbolCorpus, min_tokens: int, resamples: int, seed: int) -> Overlaps:
    overlaps, occurrences = _tables(kind, corpus, min_tokens)
    scores, withheld = _coverage_scores(corpus, min_tokens, resamples, seed, _symbols(kind))
    return Overlaps(
        kind, min_tokens, corpus.n_chains, corpus.n_tokens, corpus.run, overlaps, occurrences, scores, withheld
    )


def _tables(kind: Kind, corpus: SymbolCorpus, min_length: int) -> tuple[pa.Table, pa.Table]:
    found = maximal_repeats(corpus, min_length)
    size = np.diff(found.bounds)
    first = found.starts[found.bounds[:-1]]
    last = first + found.n_symbols - 1
    chain = corpus.chain_of(first)
    begin, end = corpus.characters[first, 0].tolist(), corpus.characters[last, 1].tolist()
    if kind == "skeleton":
        spans = zip(first.tolist(), found.n_symbols.tolist(), strict=True)
        texts = [">".join(ROLES[role] for role in corpus.tokens[a : a + n]) for a, n in spans]
    else:
        texts = [corpus.texts[c][a:b] for c, a, b in zip(chain.tolist(), begin, end, strict=True)]
    ids = ["o" + key for key in sequence_keys(corpus.tokens, first, found.n_symbols, kind, corpus.tokenizer)]
    overlaps = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "text": pa.array(texts, pa.string()),
            "n_tokens": found.n_symbols,
            "n_chains": found.n_chains,
            "n_occurrences": size,
        }
    )
    owner = np.repeat(np.arange(len(size)), size)
    stop = found.starts + found.n_symbols[owner] - 1
    names = pa.array(corpus.chains, pa.string())
    occurrences = pa.table(
        {
            "overlap": overlaps["id"].combine_chunks().take(pa.array(owner)),
            "chain": names.take(pa.array(corpus.chain_of(found.starts))),
            "start": corpus.position[found.starts, 0],
            "end": corpus.position[stop, 1],
        }
    )
    return overlaps, occurrences


def _coverage_scores(
    corpus: SymbolCorpus, size: int, resamples: int, seed: int, unit: str
) -> tuple[tuple[Score, ...], tuple[Withheld, ...]]:
    if corpus.n_chains < MIN_CHAINS or corpus.n_tokens < MIN_TOKENS:
        reason = (
            f"{counted(corpus.n_chains, 'chain')} with {counted(corpus.n_tokens, unit[:-1])} "
            f"{agreeing(corpus.n_chains, 'is', 'are')} too few for a Markov resample "
            f"({MIN_CHAINS} chains and {MIN_TOKENS} {unit} are needed): ingest more, or widen the selection"
        )
        return (), (Withheld("coverage", reason),)
    under = covered(corpus.n_tokens, shared_windows(corpus.tokens, corpus.offsets, size), size)
    lengths = np.diff(corpus.offsets)
    per_chain = np.stack([np.add.reduceat(np.append(under, False), corpus.offsets[:-1]) * (lengths > 0), lengths], 1)
    controls = []
    for order in (1, 2):
        values = [
            coverage(*markov_resample(corpus.tokens, corpus.offsets, order, seed + draw), size)
            for draw in range(resamples)
        ]
        how = how_drawn(f"order-{order} Markov resamples", resamples, seed, apart=True)
        controls.append(Control(f"order-{order} Markov resample", float(np.mean(values)), spread(values), how))
    interval = _ratio_interval(per_chain.astype(np.float64), seed)
    note = (
        f"{percent(_lone_contexts(corpus))} of the {unit} stand after a pair of {unit} that occurs once: there an order-2 "
        "resample copies the corpus, so on a small corpus it overstates chance"
    )
    how = how_resampled("chains (sum over sum)", draws=RATIO_DRAWS, seed=seed)
    return (Score("coverage", float(under.mean()), f"share of {unit}", tuple(controls), interval, note, how),), ()


def _lone_contexts(corpus: SymbolCorpus) -> float:
    """Share of the tokens whose last two tokens, up to themselves, occur nowhere else."""
    context = context_ranks(corpus.tokens, corpus.offsets, 2)
    return float((np.bincount(context)[context] == 1).mean())


RATIO_DRAWS = 500
"""Resamples of chains behind the interval of a coverage."""


def _ratio_interval(
    per_chain: npt.NDArray[np.float64], seed: int, draws: int = RATIO_DRAWS
) -> tuple[float, float] | None:
    """Interval of sum / sum, chains resampled with multinomial counts (no copy of the rows)."""
    if len(per_chain) < 5:
        return None
    rng = np.random.default_rng(seed)
    n = len(per_chain)
    values = []
    for _ in range(draws):
        top, bottom = np.bincount(rng.integers(0, n, n), minlength=n) @ per_chain
        values.append(top / bottom)
    return spread(values)


# --------------------------------------------------------------------------------------------------------------------
# Skeletons
# --------------------------------------------------------------------------------------------------------------------


def skeleton(
    traces: Iterable[Trace], min_steps: int = 3, *, shuffles: int = 20, seed: int = 0, implicit: bool = False
) -> Overlaps:
    """Repeats of at least ``min_steps`` roles shared by two chains, and variants, compared with a shuffle of all roles.

    Half or more of the relations between steps are implicit: ``n_implicit`` of ``n_steps`` have no connective. With
    ``implicit`` such steps have the role that a classifier gives them, where it is sure enough.
    """
    corpus, explicit = role_corpus(traces, implicit=implicit)
    overlaps, occurrences = _tables("skeleton", corpus, min_steps)
    counts: dict[str, int] = {}
    for a, b in zip(corpus.offsets[:-1].tolist(), corpus.offsets[1:].tolist(), strict=True):
        name = ">".join(ROLES[role] for role in corpus.tokens[a:b])
        counts[name] = counts.get(name, 0) + 1
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    variants = pa.table(
        {
            "roles": pa.array([name for name, _ in ordered], pa.string()),
            "n_chains": pa.array([count for _, count in ordered], pa.int64()),
        }
    )
    scores: list[Score] = []
    withheld: list[Withheld] = []
    if corpus.n_chains < MIN_CHAINS:
        reason = (
            f"{counted(corpus.n_chains, 'chain is', 'chains are')} too few for a shuffle of roles "
            f"({MIN_CHAINS} are needed): ingest more"
        )
        withheld.append(Withheld("coverage", reason))
    else:
        draws = [shuffled(corpus.tokens, corpus.offsets, seed + draw, within=False) for draw in range(shuffles)]
        null = [coverage(draw, corpus.offsets, min_steps) for draw in draws]
        distinct = [_n_variants(draw, corpus.offsets) for draw in draws]
        under = covered(corpus.n_tokens, shared_windows(corpus.tokens, corpus.offsets, min_steps), min_steps)
        lengths = np.diff(corpus.offsets)
        sums = np.add.reduceat(np.append(under, False), corpus.offsets[:-1]) * (lengths > 0)
        interval = _ratio_interval(np.stack([sums, lengths], 1).astype(np.float64), seed)
        name = "role-frequency shuffle"
        how = how_drawn("shuffles of all roles over the chains, lengths kept", shuffles, seed, apart=True)
        scores.append(
            Score(
                "coverage",
                float(under.mean()),
                "share of steps",
                (Control(name, float(np.mean(null)), spread(null), how),),
                interval,
                how=how_resampled("chains (sum over sum)", draws=RATIO_DRAWS, seed=seed),
            )
        )
        scores.append(
            Score(
                "variants",
                float(len(counts)),
                "distinct role sequences",
                (Control(name, float(np.mean(distinct)), spread(distinct), how),),
                note=_of_variants(len(counts), spread(distinct)),
            )
        )
    n_steps, n_implicit = corpus.n_tokens, int((~explicit).sum())
    n_first = int((~explicit[corpus.offsets[:-1][np.diff(corpus.offsets) > 0]]).sum())
    note = _without_connective(n_steps, n_implicit, n_first)
    return Overlaps(
        "skeleton",
        min_steps,
        corpus.n_chains,
        n_steps,
        corpus.run,
        overlaps,
        occurrences,
        tuple(scores),
        tuple(withheld),
        variants=variants,
        n_steps=n_steps,
        n_implicit=n_implicit,
        notes=(note,),
    )


def _without_connective(n_steps: int, n_implicit: int, n_first: int) -> str:
    """How many steps have no connective, and how many of those begin their chain and so follow nothing, in words."""
    if not n_implicit:
        return f"each of {counted(n_steps, 'step')} has a connective in the text"
    said = f"{part_of(n_implicit, n_steps, 'step', 'has', 'have')} no connective in the text"
    first = counted(n_first, "begins its chain and follows nothing", "begin their chain and follow nothing")
    rest = n_implicit - n_first
    if not n_first:
        return f"{said}: {agreeing(rest, 'its', 'their')} relation is implicit"
    if not rest:
        return f"{said}: {first}"
    return f"{said}: {first}, the relation of the other {f'{rest:,}' if rest > 1 else 'one'} is implicit"


def _of_variants(found: int, null: Interval | None) -> str:
    """What a number of variants says beside the central 95 % of its shuffles."""
    if null is not None and found < null[0]:
        return "fewer than the shuffle: chains keep to common patterns"
    if null is not None and found > null[1]:
        return "more than the shuffle: chains keep to few common patterns"
    return "as many as the shuffle: no common patterns are shown"


def _n_variants(tokens: Ints, offsets: Longs) -> int:
    bounds = zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    return len({tokens[a:b].tobytes() for a, b in bounds})


# --------------------------------------------------------------------------------------------------------------------
# Near overlaps
# --------------------------------------------------------------------------------------------------------------------

QUANTILE = 0.99
"""A cosine counts as near when it exceeds this quantile of nearest-neighbour cosines between permuted vectors."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Nearest neighbours in other chains: ``index`` and ``cosine`` (n, k), best first (-1, NaN: none), and ``threshold``, the
    :data:`QUANTILE` of the best cosine on permuted dimensions; ``false_share`` is how often a second permutation exceeds it,
    and ``stratum_share`` one among vectors of the same stratum (NaN without strata).
    """

    index: Longs
    cosine: Floats
    threshold: float
    false_share: float
    stratum_share: float = math.nan


def neighbours(
    vectors: Floats,
    chain: Longs,
    *,
    k: int = 5,
    seed: int = 0,
    exact: bool | None = None,
    whitening: Whitening | None = None,
    stratum: Longs | None = None,
) -> Neighbours:
    """Nearest neighbours of raw vectors after whitening, own chain excluded, with the threshold from permuted dimensions.

    The null keeps the distribution of every whitened dimension and destroys how they go together. Permuted among the vectors of
    one ``stratum`` it also keeps what all of them have in common. Without ``whitening`` it is
    fitted on the vectors. Raises UsageError for fewer than :data:`~trails.analyses.whitening.MIN_VECTORS` vectors.
    """
    if len(vectors) < MIN_VECTORS:
        raise UsageError(
            f"near overlaps were asked for and {counted(len(vectors), 'step has', 'steps have')} a "
            f"stored state; whitening needs {MIN_VECTORS}: "
            "ingest more chains with --states LAYER"
        )
    whitening = whitening or fit_whitening(vectors)
    white = whitening(vectors)
    index, cosine = nearest_others(white, chain, k, exact=exact)
    del white
    rng = np.random.default_rng(seed)
    best = []
    # A null of at most 20,000 vectors is enough for a quantile; it has fewer candidates than the corpus, so its quantile
    # would be too low: each query looks among as many candidates as it has in the corpus only up to that size.
    pick = np.sort(rng.permutation(len(vectors))[:20_000])
    raw = (vectors[pick] - whitening.mean) @ whitening.components
    nulls: list[Longs | None] = [None, None] if stratum is None else [None, None, stratum[pick]]
    for group in nulls:
        permuted = np.stack([_dealt(raw[:, column], group, rng) for column in range(raw.shape[1])], axis=1)
        norm = np.linalg.norm(permuted, axis=1, keepdims=True)
        permuted = (permuted / np.where(norm > 0, norm, 1)).astype(np.float32)
        sample = permuted[: min(len(permuted), 4_000)]
        found, value = nearest_exact(permuted, sample, 2)
        own = found == np.arange(len(sample))[:, None]
        best.append(np.where(own[:, 0], value[:, 1], value[:, 0]))
    threshold = float(np.quantile(best[0], QUANTILE))
    shares = [float((values > threshold).mean()) for values in best[1:]]
    return Neighbours(index, cosine, threshold, *shares)


def _dealt(values: npt.NDArray[Any], group: Longs | None, rng: np.random.Generator) -> npt.NDArray[Any]:
    """The values in random order, each staying within its group if there are groups."""
    drawn = rng.permutation(len(values))
    if group is None:
        return values[drawn]
    result = np.empty_like(values)
    result[np.argsort(group, kind="stable")] = values[drawn[np.argsort(group[drawn], kind="stable")]]
    return result


SAME_KIND = "permuted among steps of the same role and place"
LEAST_STRATUM = 20
"""Steps of a role and place below which they are taken together with those of the other rare roles there."""


def role_and_place(traces: Sequence[Trace]) -> Longs:
    """The stratum of every step: its role and the third of its chain that it lies in; (steps,). Rare roles of a place count as
    one.
    """
    known = {role: number for number, role in enumerate(Role, start=1)}
    role = np.array([known[step.role] for trace in traces for step in trace.steps], np.int64)
    place = np.concatenate([3 * np.arange(len(t.steps)) // max(len(t.steps), 1) for t in traces])
    stratum = 3 * role + place
    rare = np.bincount(stratum)[stratum] < LEAST_STRATUM
    return np.where(rare, place, stratum)


NEAR_COLUMNS = (
    *("source", "source_id", "question", "text", "language", "steps", "run", "tokenizer", "n_layers", "n_context"),
    *("token_ids", "token_start", "token_end", "step_tokens", "surprisal"),
    *("nll_given_all", "nll_given_question", "nll_without_previous", "state_layers", "step_states"),
)
"""Columns of a shard that near overlaps read: the arrays by layer of a large corpus would fill the memory."""


def near(
    traces: Iterable[Trace],
    *,
    layer: int | None = None,
    k: int = 5,
    min_tokens: int = 10,
    seed: int = 0,
    whitening: Callable[[int], Whitening] | None = None,
) -> Overlaps:
    """Steps of different chains that lie near each other in whitened hidden space, beyond masked exact matching.

    ``layer`` is one of the stored state layers (default: the one nearest the middle of the model). ``whitening`` gives the
    whitening of a layer (:func:`trails.pipeline.whitening.whitening_of` is that of the run); without it one is fitted on
    these traces. A pair is *explained* when
    the two steps share ``min_tokens`` masked tokens in a row, or are equal once masked. Overlaps are diagonal runs of
    unexplained pairs of at least two steps; ``similar`` lists all pairs. Raises UsageError for a run without stored states.
    """
    kept: list[Trace] = []
    vectors: list[Floats] = []
    chosen = layer
    defaults: set[int] = set()
    for trace in one_instrument(traces):
        if trace.step_states is None or not trace.state_layers:
            raise UsageError(
                f"near overlaps were asked for, and run {trace.run} holds no hidden states. They are added by: "
                "trails ingest PATH --states 16,30"
            )
        if layer is None:
            middle = trace.n_layers / 2
            chosen = min(trace.state_layers, key=lambda number: (abs(number - middle), number))
            defaults.add(chosen)
            if len(defaults) > 1:
                raise UsageError(
                    f"near overlaps were asked for, and not all chains of run {trace.run} hold states of the same layers "
                    f"(of some layer {min(defaults)} is in the middle, of some layer {max(defaults)}). Choose one with --layer"
                )
        if chosen not in trace.state_layers:
            stored = ", ".join(map(str, trace.state_layers))
            raise UsageError(f"layer {chosen} was asked for; run {trace.run} holds states of layers {stored}")
        kept.append(replace(trace, state_layers=(), step_states=None))
        # a copy: a view would hold the states of all layers
        vectors.append(np.array(trace.step_states[:, trace.state_layers.index(chosen)], np.float32))
    if not kept:
        raise UsageError("no chain to analyse: ingest some with 'trails ingest PATH --states 16,30'")
    order = sorted(range(len(kept)), key=lambda i: kept[i].chain.id)
    kept, vectors = [kept[i] for i in order], [vectors[i] for i in order]
    corpus = token_corpus(kept)
    states = np.concatenate(vectors)
    del vectors
    n_steps = np.array([len(trace.steps) for trace in kept], np.int64)
    chain = np.repeat(np.arange(len(kept)), n_steps)
    first_step = np.concatenate([[0], np.cumsum(n_steps)])
    spans = np.concatenate([trace.step_tokens.reshape(-1, 2) for trace in kept])
    # Steps without a token of their own have no state.
    usable = np.isfinite(states).all(axis=1)
    rows = np.flatnonzero(usable)
    if len(rows) < MIN_VECTORS:
        reason = (
            f"{counted(len(rows), 'step has', 'steps have')} a stored state; whitening needs "
            f"{MIN_VECTORS}: ingest more chains with --states"
        )
        empty = _near_tables([], corpus)
        return Overlaps(
            "near",
            2,
            len(kept),
            len(states),
            corpus.run,
            *empty,
            withheld=(Withheld("near share", reason),),
            layer=chosen,
            n_steps=len(states),
        )
    fitted = whitening(chosen) if whitening and chosen is not None else None
    stratum = role_and_place(kept)[rows]
    found = neighbours(states[rows], chain[rows], k=k, seed=seed, whitening=fitted, stratum=stratum)
    close = (found.index >= 0) & (found.cosine > found.threshold)
    left, place = np.nonzero(close)
    right = rows[found.index[left, place]]
    cosine = found.cosine[left, place]
    left = rows[left]
    masks = masked_corpus(corpus)
    explained = _explained(masks, spans, chain, left, right, min_tokens)
    rng = np.random.default_rng(seed)
    random_left, random_right = rng.choice(rows, 2_000), rng.choice(rows, 2_000)
    apart = chain[random_left] != chain[random_right]
    chance = _explained(masks, spans, chain, random_left[apart], random_right[apart], min_tokens)
    beyond = np.zeros(len(states), np.bool_)
    beyond[left[~explained]] = True
    already = np.zeros(len(states), np.bool_)
    already[left[explained]] = True
    per_chain = np.stack([np.bincount(chain, weights=beyond, minlength=len(kept)), n_steps.astype(np.float64)], axis=1)
    scores = [
        Score(
            "near share beyond masked exact",
            float(beyond[rows].mean()),
            "share of steps",
            (
                Control(
                    "whitened dimensions permuted",
                    found.false_share,
                    how=f"share above the threshold in one permutation of at most 20,000 steps; the threshold is the "
                    f"{percent(QUANTILE)} quantile of another, seed {seed}",
                ),
                Control(
                    SAME_KIND,
                    found.stratum_share,
                    how="the same with a third permutation, of every whitened dimension among the steps of one role and third "
                    f"of their chain (roles of fewer than {LEAST_STRATUM} steps there together), seed {seed}",
                ),
                Control(
                    "steps whose near neighbour masked exact matching finds too",
                    float(already[rows].mean()),
                    how="counted on the same steps, nothing drawn",
                ),
            ),
            _ratio_interval(per_chain, seed),
            how=how_resampled("chains (sum over sum)", draws=RATIO_DRAWS, seed=seed),
        )
    ]
    if len(left):
        scores.append(
            Score(
                "near pairs explained by masked exact matching",
                float(explained.mean()),
                "share of pairs",
                (
                    Control(
                        "random pairs of steps",
                        float(chance.mean()),
                        how=f"share of {counted(len(chance), 'pair')} of different chains among 2,000 drawn, seed {seed}",
                    ),
                ),
                bootstrap(explained.astype(np.float64), seed=seed),
                how=how_resampled("pairs", seed=seed),
            )
        )
    if (~explained).any():
        texts = [trace.chain.text[step.start : step.end] for trace in kept for step in trace.steps]
        scores.append(
            _beyond_words(texts, left[~explained], right[~explained], random_left[apart], random_right[apart], rng)
        )
    runs = _diagonal_runs(left[~explained], right[~explained], chain)
    entries = []
    for a, b, size in runs:
        sides = []
        for step in sorted((a, b)):  # chains are in the order of their ids
            trace, index = kept[int(chain[step])], int(step - first_step[chain[step]])
            text = trace.chain.text[trace.steps[index].start : trace.steps[index + size - 1].end]
            sides.append((int(chain[step]), index, index + size, text))
        entries.append(sides)
    overlaps, occurrences = _near_tables(entries, corpus)

    def names(steps: Longs) -> list[str]:
        return [step_key(kept[c].chain.id, int(s - first_step[c])) for c, s in zip(chain[steps], steps, strict=True)]

    # A pair that is near in both directions is listed once.
    low, high = np.minimum(left, right), np.maximum(left, right)
    sort = np.lexsort((high, low, -cosine))
    _, first = np.unique(low[sort] * len(states) + high[sort], return_index=True)
    sort = sort[np.sort(first)]
    similar = pa.table(
        {
            "start": pa.array(names(left[sort]), pa.string()),
            "end": pa.array(names(right[sort]), pa.string()),
            "cosine": cosine[sort].astype(np.float64),
            "excess": cosine[sort].astype(np.float64) - found.threshold,
            "explained": explained[sort],
        }
    )
    return Overlaps(
        "near",
        2,
        len(kept),
        len(states),
        corpus.run,
        overlaps,
        occurrences,
        tuple(scores),
        similar=similar,
        layer=chosen,
        n_steps=len(states),
    )


def _beyond_words(
    texts: list[str], left: Longs, right: Longs, random_left: Longs, random_right: Longs, rng: np.random.Generator
) -> Score:
    """Share of near pairs that have no more content words in common than 95 of 100 random pairs of steps.

    What is near only because it is worded alike is no shared reasoning; this is what is left without it.
    """
    bags = {
        step: set(content_words(texts[step]))
        for step in np.unique(np.concatenate([left, right, random_left, random_right])).tolist()
    }

    def shared(one: Longs, two: Longs) -> npt.NDArray[np.float64]:
        pairs = zip(one.tolist(), two.tolist(), strict=True)
        return np.array([len(bags[a] & bags[b]) / max(len(bags[a] | bags[b]), 1) for a, b in pairs])

    pick = rng.permutation(len(left))[:5_000]
    near_pairs, chance = shared(left[pick], right[pick]), shared(random_left, random_right)
    bound = float(np.quantile(chance, 0.95))
    beyond = (near_pairs <= bound).astype(np.float64)
    return Score(
        "unexplained near pairs that share no more words than random pairs",
        float(beyond.mean()),
        "share of pairs",
        (
            Control(
                "random pairs of steps",
                float((chance <= bound).mean()),
                how=f"share of {counted(len(chance), 'random pair')} of different chains at or below their own 95 % quantile",
            ),
        ),
        bootstrap(beyond),
        how=how_resampled("pairs"),
        note=f"at most {percent(bound)} of their words; mean of near pairs {percent(float(near_pairs.mean()))}, "
        f"of random pairs {percent(float(chance.mean()))}",
    )


def _diagonal_runs(left: Longs, right: Longs, chain: Longs) -> list[tuple[int, int, int]]:
    """Maximal runs (i, j), (i+1, j+1), … of pairs inside one chain on each side, of two steps or more, each once."""
    pairs = {(int(min(a, b)), int(max(a, b))) for a, b in zip(left, right, strict=True)}

    def follows(a: int, b: int) -> bool:
        return (a + 1, b + 1) in pairs and chain[a] == chain[a + 1] and chain[b] == chain[b + 1]

    runs = []
    for a, b in sorted(pairs):
        if a and (a - 1, b - 1) in pairs and chain[a] == chain[a - 1] and chain[b] == chain[b - 1]:
            continue
        size = 1
        while follows(a + size - 1, b + size - 1):
            size += 1
        if size > 1:
            runs.append((a, b, size))
    return sorted(runs, key=lambda run: (-run[2], run[0], run[1]))


def _near_tables(entries: list[list[tuple[int, int, int, str]]], corpus: SymbolCorpus) -> tuple[pa.Table, pa.Table]:
    """Tables of near overlaps from (chain number, first step, one past the last, text) of each side."""
    ids, texts, sizes, owner, chains, starts, ends = [], [], [], [], [], [], []
    for sides in entries:
        name = "o" + content_key("near", corpus.tokenizer, *((corpus.chains[c], a, b) for c, a, b, _ in sides))
        ids.append(name)
        _, first, stop, text = sides[0]
        texts.append(text)
        sizes.append(stop - first)
        for c, a, b, _ in sides:
            owner.append(name)
            chains.append(corpus.chains[c])
            starts.append(a)
            ends.append(b)
    overlaps = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "text": pa.array(texts, pa.string()),
            "n_tokens": pa.array(sizes, pa.int32()),
            "n_chains": pa.array([2] * len(ids), pa.int32()),
            "n_occurrences": pa.array([2] * len(ids), pa.int64()),
        }
    )
    occurrences = pa.table(
        {
            "overlap": pa.array(owner, pa.string()),
            "chain": pa.array(chains, pa.string()),
            "start": pa.array(starts, pa.int32()),
            "end": pa.array(ends, pa.int32()),
        }
    )
    return overlaps, occurrences


def _explained(
    masks: SymbolCorpus, spans: Ints, chain: Longs, left: Longs, right: Longs, size: int
) -> npt.NDArray[np.bool_]:
    """Which pairs of steps share ``size`` masked symbols in a row (or, both shorter than that, all of them)."""
    if not len(left):
        return np.zeros(0, np.bool_)
    # Masked symbols of every step: a symbol belongs to the step of its first token.
    base = masks.offsets[:-1]
    owner_chain = np.repeat(np.arange(masks.n_chains), np.diff(masks.offsets))
    step_of_symbol = np.full(masks.n_tokens, -1, np.int64)
    starts = spans[:, 0].astype(np.int64)
    wide = int(max(masks.position[:, 1].max(initial=0), spans.max(initial=0))) + 1
    key = chain * wide + starts
    order = np.lexsort((np.arange(len(key)), key))
    step_of_symbol = order[np.searchsorted(key[order], owner_chain * wide + masks.position[:, 0], side="right") - 1]
    del base
    changes = np.append(True, step_of_symbol[1:] != step_of_symbol[:-1]) if masks.n_tokens else np.empty(0, np.bool_)
    heads = np.flatnonzero(changes)
    offsets = np.append(heads, masks.n_tokens).astype(np.int64)
    segment_step = step_of_symbol[heads]
    windows, begins = window_keys(masks.tokens, offsets, size)
    owner = segment_step[np.searchsorted(offsets, begins, side="right") - 1]
    # A step shorter than a window is one window of its own length.
    lengths = np.diff(offsets)
    short = np.flatnonzero(lengths < size)
    extra_keys, extra_owner = [], []
    for length in np.unique(lengths[short]).tolist():
        of_length = short[lengths[short] == length]
        picked, where = window_keys(masks.tokens, offsets, length)
        at = np.searchsorted(where, offsets[of_length])
        extra_keys.append(picked[at] ^ np.uint64(length))
        extra_owner.append(segment_step[of_length])
    keys = np.concatenate([windows, *extra_keys])
    owners = np.concatenate([owner, *extra_owner]).astype(np.int64)
    _, dense = np.unique(keys, return_inverse=True)
    n_steps = len(spans)
    have = np.unique(dense.astype(np.int64) * n_steps + owners)
    by_owner = np.argsort(owners, kind="stable")
    count = np.bincount(owners, minlength=n_steps)
    begin = np.concatenate([[0], np.cumsum(count)[:-1]])
    result = np.zeros(len(left), np.bool_)
    for a in range(0, len(left), 100_000):
        one, two = left[a : a + 100_000], right[a : a + 100_000]
        pair = np.repeat(np.arange(len(one)), count[one])
        within = np.arange(len(pair)) - np.repeat(np.cumsum(count[one]) - count[one], count[one])
        window = dense[by_owner[begin[one][pair] + within]].astype(np.int64)
        wanted = window * n_steps + two[pair]
        at = np.minimum(np.searchsorted(have, wanted), len(have) - 1)
        np.logical_or.at(result[a : a + 100_000], pair, have[at] == wanted)
    return result
