"""Which chains to train on within a budget of tokens: orders and greedy choices, beside random choices of the same budget."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score
from trails.analyses.sequences import window_keys
from trails.analyses.statistics import how_drawn, spread
from trails.errors import UsageError
from trails.platform.arrays import Doubles, Floats, Longs
from trails.platform.text import counted
from trails.platform.ties import leading, same
from trails.schema import Trace, stable_hash

By = Literal["random", "perplexity", "length", "diversity", "overlap", "gaps", "reaction", "learnability"]
WAYS: tuple[By, ...] = get_args(By)
WINDOW = 4
"""Tokens of the windows that ``overlap`` counts."""
RANDOM = 20
REFERENCES = 2048
"""Chains at most that ``diversity`` wants to be near to."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Chains to choose from, each (C,): ``tokens``, mean ``surprisal`` (nats per token), ``source``, and the keys of the
    four-token windows of each. ``value`` is what ``gaps``, ``reaction`` and ``learnability`` order by, NaN where it is not
    known; ``states`` (C, r) whitened and of unit length, None unless ``diversity`` asks.
    """

    chains: tuple[str, ...]
    tokens: Longs
    surprisal: Doubles
    source: tuple[str, ...]
    windows: tuple[npt.NDArray[np.uint64], ...]
    value: Doubles
    states: Floats | None = None


def pool_of(
    traces: Sequence[Trace], value: Mapping[str, float] | None = None, states: Mapping[str, Floats] | None = None
) -> Pool:
    """A pool from traces. ``value`` and ``states`` are by chain; a chain without a state is left out where states are given."""
    kept = sorted((t for t in traces if states is None or t.chain.id in states), key=lambda t: t.chain.id)
    tokens = [trace.token_ids for trace in kept]
    offsets = np.concatenate(([0], np.cumsum([len(ids) for ids in tokens]))).astype(np.int64)
    keys, _ = window_keys(np.concatenate(tokens) if tokens else np.zeros(0, np.int32), offsets, WINDOW)
    starts = np.concatenate(([0], np.cumsum([max(len(ids) - WINDOW + 1, 0) for ids in tokens]))).astype(np.int64)
    windows = tuple(np.unique(keys[a:b]) for a, b in pairwise(starts.tolist()))
    known = value or {}
    return Pool(
        tuple(trace.chain.id for trace in kept),
        np.array([trace.n_tokens for trace in kept], np.int64),
        np.array([np.nanmean(trace.surprisal.astype(np.float64)) for trace in kept]),
        tuple(trace.chain.source for trace in kept),
        windows,
        np.array([known.get(trace.chain.id, np.nan) for trace in kept], np.float64),
        None
        if states is None
        else np.stack([states[trace.chain.id] for trace in kept])
        if kept
        else np.zeros((0, 1), np.float32),
    )


def taken(order: Sequence[int] | Longs, tokens: Longs, budget: int) -> list[int]:
    """Chains of an order from the first on, leaving out what no longer fits."""
    left, found = budget, []
    for one in order:
        if tokens[one] <= left:
            found.append(int(one))
            left -= int(tokens[one])
    return found


def lazy_greedy(
    gain: Callable[[int], float], take: Callable[[int], None], tokens: Longs, budget: int, *, reverse: bool = False
) -> list[int]:
    """The chain with the largest gain per token first, and so on, for a gain that never grows as others are taken; ties go
    to the first. With ``reverse`` the smallest: then every gain is computed again.
    """
    left, found = budget, []
    if reverse:
        open_ = set(range(len(tokens)))
        while able := [one for one in sorted(open_) if tokens[one] <= left]:
            best = min(able, key=lambda one: gain(one) / tokens[one])
            take(best)
            found.append(best)
            left -= int(tokens[best])
            open_.remove(best)
        return found
    heap = [(-gain(one) / max(int(tokens[one]), 1), one, 0) for one in range(len(tokens))]
    heapq.heapify(heap)
    while heap:
        _, one, seen = heapq.heappop(heap)
        if tokens[one] > left:
            continue
        if seen < len(found):
            heapq.heappush(heap, (-gain(one) / max(int(tokens[one]), 1), one, len(found)))
            continue
        take(one)
        found.append(one)
        left -= int(tokens[one])
    return found


_VALUES: Mapping[str, Callable[[Pool], Doubles]] = {
    "perplexity": lambda pool: pool.surprisal,
    "length": lambda pool: pool.tokens.astype(np.float64),
    "gaps": lambda pool: -pool.value,
    "reaction": lambda pool: pool.value,
    "learnability": lambda pool: pool.value,
}
"""The value that puts chains in order, the smallest first; ties are broken at random."""


def choose(pool: Pool, by: By, budget: int, *, seed: int = 0, reverse: bool = False) -> list[int]:
    """The chains of a pool that fit into a budget, by one of :data:`WAYS`.

    ``random``: in random order. ``perplexity``: the least surprising first. ``length``: the shortest first. ``gaps``: the
    largest gap first. ``reaction``: those first that make unseen probes likeliest against their control. ``learnability``:
    those first whose own NLL a probe training lowered most. ``diversity``: facility location, the chain that brings the
    others nearest to a chosen one, per token. ``overlap``: the chain with the most new windows of four tokens, per token.
    ``reverse`` turns each round. Raises UsageError for what the pool does not hold.
    """
    rng = np.random.default_rng(seed)
    count = len(pool.chains)
    shuffled = rng.permutation(count)
    if by == "random":
        return taken(shuffled, pool.tokens, budget)
    if by == "diversity":
        if pool.states is None:
            raise UsageError("diversity needs the states of steps: trails ingest PATH --states LAYER")
        wanted = pool.states[rng.permutation(count)[:REFERENCES]]
        near = np.maximum(wanted @ pool.states.T, 0)
        best = np.zeros(len(wanted), np.float32)

        def closer(one: int) -> float:
            return float(np.maximum(near[:, one] - best, 0).sum(dtype=np.float64))

        def settle(one: int) -> None:
            np.maximum(best, near[:, one], out=best)

        return lazy_greedy(closer, settle, pool.tokens, budget, reverse=reverse)
    if by == "overlap":
        known: set[int] = set()
        sets = [set(keys.tolist()) for keys in pool.windows]
        return lazy_greedy(
            lambda one: float(len(sets[one] - known)),
            lambda one: known.update(sets[one]),
            pool.tokens,
            budget,
            reverse=reverse,
        )
    value = _VALUES[by](pool)
    able = shuffled[np.isfinite(value[shuffled])]
    signed = -value[able] if reverse else value[able]
    return taken(able[np.argsort(signed, kind="stable")], pool.tokens, budget)


def _tied(pool: Pool, by: By, places: Sequence[int], seed: int) -> str:
    """Whether the values that a choice went by left the choice to chance, as a sentence; empty where they did not."""
    if by not in _VALUES or not len(places):
        return ""
    value = _VALUES[by](pool)
    able = np.flatnonzero(np.isfinite(value))
    left = np.setdiff1d(able, places)
    same_as = [float(value[i]) for i in left if any(same(float(value[i]), float(value[j])) for j in places)]
    if len(able) > 1 and leading(value[able].tolist()) == len(able):
        return (
            f"all {counted(len(able), 'chain is', 'chains are')} alike by {by}, so the choice among them "
            f"is random (seed {seed})"
        )
    if same_as:
        return (
            f"{counted(len(same_as), 'chain that was left out is', 'chains that were left out are')} alike by {by} with chosen "
            f"ones; "
            f"chance decided (seed {seed})"
        )
    return ""


@dataclass(frozen=True, slots=True)
class Chosen(Finding):
    """A choice. ``name`` is what ``selected:NAME`` refers to."""

    name: str
    by: str
    budget: int
    run: str
    n_pool: int
    table: pa.Table
    scores: tuple[Score, ...]
    notes: tuple[str, ...]

    def report(self) -> Report:
        """What was chosen, and how it differs from random choices of the same budget."""
        tokens = sum(self.table["tokens"].to_pylist())
        verdict = (
            f"{len(self.table):,} of {counted(self.n_pool, 'chain')}, {tokens:,} of "
            f"{counted(self.budget, 'token')}, chosen by {self.by}"
        )
        if self.scores:
            apart = [s.name for s in self.scores if (r := s.controls[0].interval) and not r[0] <= s.value <= r[1]]
            verdict += f"; against random choices it differs in {', '.join(apart) or 'nothing that is measured here'}"
        commands = (("train on them", f"trails export --subgraph selected:{self.name} --format trl -o train.jsonl"),)
        facts = {
            "selection": f"selected:{self.name}",
            "by": self.by,
            "budget": self.budget,
            "run": self.run,
            "n_pool": self.n_pool,
        }
        table = ReportTable("chosen", self.table, "in the order in which they were chosen")
        return Report("select", verdict, facts, (table,), self.scores, notes=self.notes, commands=commands)


def chosen(pool: Pool, by: By, budget: int, run: str, *, seed: int = 0, reverse: bool = False) -> Chosen:
    """Choose, and compare with random choices of the same budget. Raises UsageError where no chain fits into the budget."""
    places = choose(pool, by, budget, seed=seed, reverse=reverse)
    if not places:
        able = pool.tokens if len(pool.tokens) else np.zeros(1, np.int64)
        raise UsageError(
            f"no chain of {len(pool.chains)} that can be chosen by {by} fits into {counted(budget, 'token')}; the shortest has "
            f"{int(able.min())}. Give a larger --budget."
        )
    notes = []
    if int(pool.tokens.sum()) <= budget:
        notes.append(
            f"the budget holds the whole pool of {counted(int(pool.tokens.sum()), 'token')}: every way chooses the same chains"
        )
    elif tied := _tied(pool, by, places, seed):
        notes.append(tied)
    table = pa.table(
        {
            "chain": [pool.chains[i] for i in places],
            "source": [pool.source[i] for i in places],
            "tokens": pool.tokens[places].tolist(),
            "surprisal": pool.surprisal[places].tolist(),
        }
    )
    scores: tuple[Score, ...] = ()
    if by != "random":
        facts = np.array([_facts(pool, choose(pool, "random", budget, seed=seed + 1 + i)) for i in range(RANDOM)])
        own = _facts(pool, places)
        scores = tuple(
            Score(
                name,
                own[at],
                unit,
                (
                    Control(
                        f"{RANDOM} random choices",
                        float(facts[:, at].mean()),
                        spread(facts[:, at]),
                        how_drawn("random choices within the budget", RANDOM, seed + 1, apart=True),
                    ),
                ),
            )
            for at, (name, unit) in enumerate(_FACTS)
        )
    label = f"{by} (reversed)" if reverse else by
    name = "x" + stable_hash(run, label, str(budget), str(seed), *(pool.chains[i] for i in places))
    return Chosen(name, label, budget, run, len(pool.chains), table, scores, tuple(notes))


_FACTS = (
    ("chains", "chains"),
    ("mean surprisal", "nats per token"),
    ("new windows", f"distinct windows of {WINDOW} tokens per token"),
    ("sources", "sources"),
)


def _facts(pool: Pool, places: Sequence[int]) -> list[float]:
    tokens = int(pool.tokens[places].sum())
    nats = float((pool.surprisal[places] * pool.tokens[places]).sum()) / tokens
    windows = len(np.unique(np.concatenate([pool.windows[i] for i in places])))
    return [float(len(places)), nats, windows / tokens, float(len({pool.source[i] for i in places}))]


def record(found: Chosen, pool: str, seed: int) -> dict[str, Any]:
    """What is kept of a choice: how it was asked for, and its chains in order."""
    asked = {"by": found.by, "budget": found.budget, "run": found.run, "pool": pool, "seed": seed}
    return {"name": found.name, **asked, "chains": found.table["chain"].to_pylist()}
