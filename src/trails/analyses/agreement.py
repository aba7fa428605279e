"""The consilium: do several members (models, adapters, checkpoints) find the same spans hard, and where do they part?

Members may have different tokenizers, so they are compared on character spans: the stretches between two characters at which a
token ends in every member. Nothing is divided up inside a token, so the nats of a span are exact sums. Values are nats per
character. What one member cannot know (a first token without context) is left out for all.

Every statistic stands beside its null: each member's values shifted circularly within every chain, which keeps what a chain
as a whole, and neighbouring spans, have in common. Intervals come from resampling chains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations
from typing import Literal

import numpy as np
import pyarrow as pa

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.statistics import how_drawn, spread
from trails.errors import UsageError
from trails.platform.arrays import Doubles, Longs
from trails.platform.text import counted, part_of
from trails.schema import Trace, stable_hash, step_key
from trails.store.base import GraphBatch
from trails.store.rows import table_of

By = Literal["span", "step", "chain"]
Taken = Literal["surprisal", "entropy"]

DRAWS = 200
MIN_UNITS = 10


@dataclass(frozen=True, slots=True)
class Member:
    """A run of the consilium with what it gave by chain: ends of its tokens (n,) and of the steps (S,) in characters, and a
    value of every token (n,), nats.
    """

    run: str
    name: str
    tokenizer: str
    ends: Mapping[str, Longs]
    values: Mapping[str, Doubles]
    steps: Mapping[str, Longs]


@dataclass(frozen=True, slots=True)
class Units:
    """U units of text that every one of M members measured: ``values`` (U, M) nats per character, ``chain`` (U,) the number of
    its chain, ``start`` and ``end`` characters, ``step`` the step in which it ends.
    """

    values: Doubles
    chain: Longs
    start: Longs
    end: Longs
    step: Longs
    chains: tuple[str, ...]


def member(run: str, name: str, traces: Iterable[Trace], measure: Taken = "surprisal") -> Member:
    """Collect a member from its traces."""
    ends: dict[str, Longs] = {}
    values: dict[str, Doubles] = {}
    steps: dict[str, Longs] = {}
    tokenizer = ""
    for trace in traces:
        tokenizer = trace.tokenizer
        ends[trace.chain.id] = trace.token_end.astype(np.int64)
        values[trace.chain.id] = np.asarray(trace.array(measure), np.float64)
        steps[trace.chain.id] = np.array([step.end for step in trace.steps], np.int64)
    return Member(run, name, tokenizer, ends, values, steps)


def constant(one: Member) -> bool:
    """Whether a member gives every token the same value, so that what it says per character is the length of its tokens."""
    known = np.concatenate([v[np.isfinite(v)] for v in one.values.values()] or [np.zeros(0)])
    return len(known) >= MIN_UNITS and float(np.ptp(known)) <= 1e-6 * float(np.abs(known).max())


def aligned(members: Sequence[Member], by: By) -> tuple[Units, int]:
    """The units that all members have, and how many chains have no common boundary inside.

    A span ends where a token ends in every member, and is left out where a member's value is undefined. A step is the spans
    that end in it, a chain all of its spans: the same characters for every member.
    """
    shared = sorted(set.intersection(*(set(one.ends) for one in members)))
    rows: list[tuple[Doubles, Longs, Longs, Longs, int]] = []
    alone = 0
    for number, chain in enumerate(shared):
        edges = reduce(np.intersect1d, (one.ends[chain] for one in members))
        edges = edges[edges > 0]
        alone += len(edges) == 1
        sums = np.empty((len(edges), len(members)))
        for column, one in enumerate(members):
            cuts = np.searchsorted(one.ends[chain], edges, side="right")
            if len(cuts):
                sums[:, column] = np.add.reduceat(one.values[chain], np.concatenate(([0], cuts[:-1])))
        starts = np.concatenate(([0], edges[:-1])).astype(np.int64)
        step = np.searchsorted(members[0].steps[chain], edges, side="left")
        known = np.isfinite(sums).all(1)
        sums, starts, edges, step = sums[known], starts[known], edges[known], step[known]
        size = edges - starts
        if by != "span" and len(edges):
            first = np.flatnonzero(np.diff(step, prepend=-1)) if by == "step" else np.zeros(1, np.int64)
            sums, size = np.add.reduceat(sums, first), np.add.reduceat(size, first)
            starts, edges, step = starts[first], edges[np.append(first[1:], len(edges)) - 1], step[first]
        rows.append((sums / size[:, None], starts, edges, step, number))
    chain_of = np.concatenate([np.full(len(row[0]), row[4]) for row in rows] or [np.zeros(0)]).astype(np.int64)
    parts = [np.concatenate([row[i] for row in rows]) if rows else np.zeros((0, len(members))) for i in range(4)]
    start, end, step = (part.astype(np.int64) for part in parts[1:])
    return Units(parts[0], chain_of, start, end, step, tuple(shared)), alone


def _ranks(values: Doubles) -> Doubles:
    """Ranks down every column, from 1; equal values share their mean rank."""
    from scipy.stats import rankdata

    ranks: Doubles = rankdata(values, axis=0)
    return ranks


def kendalls_w(values: Doubles) -> float:
    """Kendall's coefficient of concordance of M raters over U units, (U, M), corrected for ties: 1 / M is expected of
    independent raters and 1 of the same order. NaN where a rater gives one value to everything.
    """
    ranks = _ranks(values)
    units, raters = values.shape
    counts = [np.unique(column, return_counts=True)[1].astype(np.float64) for column in ranks.T]
    ties = sum(float((count**3 - count).sum()) for count in counts)
    squares = float(((ranks.sum(1) - raters * (units + 1) / 2) ** 2).sum())
    most = raters**2 * (float(units) ** 3 - units) - raters * ties
    return 12 * squares / most if most > 0 else np.nan


def krippendorffs_alpha(values: Doubles) -> float:
    """Krippendorff's α for interval data, (U, M), NaN = not rated: 1 minus the disagreement within units relative to that of
    all values with each other (Krippendorff 2011, Computing Krippendorff's Alpha-Reliability). 0 is chance, 1 full agreement.
    """
    rated = np.isfinite(values)
    per_unit = rated.sum(1)
    kept = per_unit > 1
    x, per_unit = np.where(rated, values, 0.0)[kept], per_unit[kept].astype(np.float64)
    total = per_unit.sum()
    if total < 2:
        return np.nan
    x = np.where(rated[kept], x - x.sum() / total, 0.0)  # centred: squares of large values would cancel
    # the squared differences of all ordered pairs of k values are 2 (k Σx² - (Σx)²)
    within = 2 * (per_unit * (x**2).sum(1) - x.sum(1) ** 2)
    observed = (within / (per_unit - 1)).sum() / total
    expected = 2 * (total * (x**2).sum() - x.sum() ** 2) / (total * (total - 1))
    return float(1 - observed / expected) if expected > 0 else np.nan


def pairwise_spearman(values: Doubles) -> Doubles:
    """Rank correlation of every pair of columns, in the order of ``combinations``."""
    ranks = _ranks(values)
    ranks -= ranks.mean(0)
    length = np.sqrt((ranks**2).sum(0))
    with np.errstate(divide="ignore", invalid="ignore"):
        table = ranks.T @ ranks / np.outer(length, length)
    return np.array([table[a, b] for a, b in combinations(range(values.shape[1]), 2)])


def left_out(values: Doubles) -> Doubles:
    """Of every member the rank correlation with the mean rank that the others give, (M,)."""
    ranks = _ranks(values)
    rest = _ranks(ranks.sum(1, keepdims=True) - ranks)
    ranks, rest = ranks - ranks.mean(0), rest - rest.mean(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Doubles = (ranks * rest).sum(0) / np.sqrt((ranks**2).sum(0) * (rest**2).sum(0))
    return found


def statistics_of(values: Doubles) -> Doubles:
    """W, α, the pairwise rank correlations, and those of every member with the others."""
    return np.concatenate(
        ([kendalls_w(values), krippendorffs_alpha(values)], pairwise_spearman(values), left_out(values))
    )


def shifted(values: Doubles, chain: Longs, rng: np.random.Generator) -> Doubles:
    """Every column moved circularly within every chain by an offset of its own; units of a chain stand together."""
    starts = np.flatnonzero(np.diff(chain, prepend=-1))
    sizes = np.diff(np.append(starts, len(chain)))
    begin, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)
    place = np.arange(len(chain)) - begin
    moved = np.empty_like(values)
    for column in range(values.shape[1]):
        offset = np.repeat(rng.integers(0, sizes), sizes)
        moved[:, column] = values[begin + (place + offset) % size, column]
    return moved


def resampled(units: Units, statistic: object = statistics_of, *, draws: int = DRAWS, seed: int = 0) -> Doubles:
    """The statistics of ``draws`` resamples of chains, (draws, k)."""
    rng = np.random.default_rng(seed)
    names, starts, sizes = np.unique(units.chain, return_index=True, return_counts=True)
    found = []
    for _ in range(draws):
        pick = rng.integers(0, len(names), len(names))
        places = np.concatenate([np.arange(starts[i], starts[i] + sizes[i]) for i in pick])
        found.append(statistic(units.values[places]))  # type: ignore[operator]
    return np.array(found)


@dataclass(frozen=True, slots=True)
class Agreement(Finding):
    """What a consilium agrees on. ``pairs`` has a row per two members, ``left`` one per member beside all others, ``spans`` the
    units on which their ranks part most.
    """

    members: pa.Table
    by: By
    measure: str
    n_units: int
    chains: tuple[str, ...]
    pairs: pa.Table
    left: pa.Table
    spans: pa.Table
    scores: tuple[Score, ...]
    withheld: tuple[Withheld, ...]
    notes: tuple[str, ...]

    def report(self) -> Report:
        """Whether the members order the text alike beyond what chains alone give."""
        count = len(self.members)
        if self.scores:
            w, alpha = self.scores
            said = f"do not agree beyond chance on which {self.by}s are hard"
            if w.beyond():
                alike = alpha.beyond() and alpha.interval is not None and alpha.interval[0] > 0
                said = (
                    f"agree on which {self.by}s are hard"
                    if alike
                    else f"order the {self.by}s alike beyond chance without agreeing on how hard they are"
                )
            moved = f"with their {_moved(self.by)}"
            verdict = (
                f"{counted(count, 'member')} {said}: Kendall's W {w.value:.2f}, {moved} {w.control:.2f}; "
                f"Krippendorff's alpha {alpha.value:.2f}, {moved} {alpha.control:.2f}"
            )
        else:
            verdict = f"{counted(count, 'member is', 'members are')} not compared: {self.withheld[0].reason}"
        parted = {"chain": "chain", "step": "step", "text": "text", "statistic": "spread of ranks", "chance": "by chance",
                  "hardest_for": "hardest for", "easiest_for": "easiest for"}  # fmt: skip
        facts = {"by": self.by, "measure": self.measure, "n_members": count, "n_units": self.n_units,
                 "n_chains": len(self.chains), "runs": self.members["run"].to_pylist()}  # fmt: skip
        named = {name: "its run" if name == "run" else name.replace("_", " ") for name in self.members.column_names}
        more = {"shifted_high": "shifted, 97.5 %"}
        pairs, left = (
            {name: more.get(name, name.replace("_", " ")) for name in table.column_names}
            for table in (self.pairs, self.left)
        )
        tables = (
            ReportTable("members", self.members, "members", named),
            ReportTable("pairs", self.pairs, "rank correlation of every two members", pairs),
            ReportTable(
                "left_out", self.left, "every member left out: rank correlation with the mean rank of the others", left
            ),
            ReportTable(
                "disagreements",
                self.spans,
                "where the members part most",
                parted,
                ranked=("spread of ranks", self.spans["statistic"].to_pylist()),
            ),
        )
        return Report("agreement", verdict, facts, tables, self.scores, self.withheld, self.notes)

    def batch(self) -> GraphBatch | None:
        """``:Disagreement`` nodes with the step that they lie in."""
        rows = self.spans.to_pylist()
        if not rows:
            return None
        runs = self.members["run"].to_pylist()
        ids = ["d" + stable_hash(row["chain"], str(row["start"]), str(row["end"]), self.measure, *runs) for row in rows]
        names = ("chain", "start", "end", "text", "statistic", "chance", "hardest_for", "easiest_for", "values")
        nodes = {name: [row[name] for row in rows] for name in names}
        nodes |= {"id": ids, "measure": [self.measure] * len(rows), "members": [runs] * len(rows)}
        ends = {"start": ids, "end": [step_key(row["chain"], row["step"]) for row in rows]}
        return GraphBatch(
            {"Disagreement": table_of("Disagreement", nodes)}, {"DISAGREEMENT_AT": table_of("DISAGREEMENT_AT", ends)}
        )


def agreement(
    members: Sequence[Member],
    texts: Mapping[str, str],
    *,
    by: By = "span",
    measure: Taken = "surprisal",
    top: int = 200,
    draws: int = DRAWS,
    seed: int = 0,
) -> Agreement:
    """Compare members. ``texts`` are those of the chains. A member that gives every token the same value orders nothing: it is
    left out, which the notes say. Raises UsageError for fewer than two members, or no chain in common.
    """
    if len(members) < 2:
        raise UsageError(
            f"{counted(len(members), 'member is', 'members are')} there to compare, two are needed. Run: "
            "trails ingest PATH --models A,B"
        )
    if not set.intersection(*(set(one.ends) for one in members)):
        raise UsageError(
            f"no chain was measured by all of {', '.join(one.run for one in members)}. Ingest the same input with each, or "
            "name members with --runs."
        )
    notes = [f"left out, because every token has the same {measure}: “{one.name}”" for one in members if constant(one)]
    able = [one for one in members if not constant(one)]
    if len(able) < 2:
        reason = f"{counted(len(able), 'member orders', 'members order')} the text, two are needed"
        withheld = (Withheld("agreement", f"{reason}: ingest the same input with another model"),)
        none = pa.table({name: pa.array([], pa.string()) for name in ("first", "second")})
        listed = _listed(able, measure, None)
        return Agreement(listed, by, measure, 0, (), none, none, _no_spans(), (), withheld, tuple(notes))
    members = able
    units, alone = aligned(members, by)
    measured = {chain for one in members for chain in one.ends}
    if rest := len(measured) - len(units.chains):
        notes.append(f"{part_of(rest, len(measured), 'chain', 'was', 'were')} not measured by every member: left out")
    if alone:
        notes.append(f"{counted(alone, 'chain has', 'chains have')} no common boundary inside: each is one span")
    table = _listed(members, measure, units.values)
    names = [one.name for one in members]
    empty = pa.table({"first": pa.array([], pa.string()), "second": pa.array([], pa.string())})
    several = len(np.unique(units.chain))
    if len(units.values) < MIN_UNITS or several < 2:
        reason = (
            f"{counted(len(units.values), by)} in {counted(several, 'chain is', 'chains are')} in all members, "
            f"{MIN_UNITS} in two chains are needed"
        )
        withheld = (Withheld("agreement", f"{reason}: ingest more chains with every member"),)
        return Agreement(
            table, by, measure, len(units.values), units.chains, empty, empty, _no_spans(), (), withheld, tuple(notes)
        )
    own = statistics_of(units.values)
    span = intervals(own, resampled(units, draws=draws, seed=seed), several)
    rng = np.random.default_rng([seed, 2 if by == "chain" else 1])
    nulls, chance = [], []
    for _ in range(draws):
        moved = rng.permuted(units.values, axis=0) if by == "chain" else shifted(units.values, units.chain, rng)
        nulls.append(statistics_of(moved))
        chance.append(float(np.median(_parted(moved))))
    null = np.array(nulls)
    if by == "chain":
        notes.append("a chain as one unit cannot be shifted within itself: the null exchanges chains")
    shift = _moved(by) if by == "chain" else f"{_moved(by)} within their chain"

    def score(name: str, unit: str, at: int) -> Score:
        control = Control(
            shift,
            float(null[:, at].mean()),
            spread(null[:, at]),
            how_drawn("such draws", draws, f"[{seed}, {2 if by == 'chain' else 1}]"),
        )
        how = (
            f"95 %: Student's t with the standard error of {counted(draws, 'bootstrap resample')} of the "
            f"{counted(several, 'chain')}, seed {seed}"
        )
        return Score(name, float(own[at]), unit, (control,), (float(span[at, 0]), float(span[at, 1])), how=how)

    scores = (
        score("Kendall's W", f"0..1, {1 / len(members):.2f} of independent members", 0),
        score("Krippendorff's alpha", "at most 1, 0 = chance", 1),
    )
    rows = []
    for at, (a, b) in enumerate(combinations(range(len(members)), 2), start=2):
        low, high = (float(edge) for edge in span[at])
        rows.append(
            {"first": names[a], "second": names[b], "same_tokenizer": members[a].tokenizer == members[b].tokenizer}
            | {"spearman": float(own[at]), "low": low, "high": high, "shifted": float(null[:, at].mean())}
            | {"shifted_high": float(np.quantile(null[:, at], 0.975))}
        )
    left = []
    alike = [one.tokenizer for one in members]
    for at, name in enumerate(names):
        place = len(own) - len(members) + at
        low, high = (float(edge) for edge in span[place])
        left.append(
            {"member": name, "others_with_its_tokenizer": alike.count(alike[at]) - 1, "spearman": float(own[place])}
            | {"low": low, "high": high, "shifted": float(null[:, place].mean())}
            | {"shifted_high": float(np.quantile(null[:, place], 0.975))}
        )
    return Agreement(
        table,
        by,
        measure,
        len(units.values),
        units.chains,
        pa.Table.from_pylist(rows),
        pa.Table.from_pylist(left),
        _spans(units, names, texts, float(np.mean(chance)), top),
        scores,
        (),
        tuple(notes),
    )


def intervals(own: Doubles, again: Doubles, chains: int) -> Doubles:
    """95 % intervals (k, 2) of statistics (k,) in the order of :func:`statistics_of` from those of resampled chains (draws, k):
    Student's t with the bootstrap's standard error, scaled for the few chains that were resampled, and cut where the
    statistic ends (W at 0 and 1, α at 1, correlations at -1 and 1). Percentiles cover too little with tens of chains.
    """
    from scipy.stats import t

    half = t.ppf(0.975, max(chains - 1, 1)) * again.std(0, ddof=1) * np.sqrt(chains / max(chains - 1, 1))
    least = np.array([0, -np.inf, *[-1] * (len(own) - 2)])
    return np.stack((np.maximum(own - half, least), np.minimum(own + half, 1)), 1)


def _moved(by: By) -> str:
    """What the null does to the units, in words."""
    return "chains exchanged" if by == "chain" else f"{by}s shifted"


def _listed(members: Sequence[Member], measure: Taken, values: Doubles | None) -> pa.Table:
    """The members with their mean over the units (U, M)."""
    means = values.mean(0).tolist() if values is not None and len(values) else [None] * len(members)
    return pa.table(
        {
            "run": pa.array([one.run for one in members], pa.string()),
            "name": pa.array([one.name for one in members], pa.string()),
            "tokenizer": pa.array([one.tokenizer[:8] for one in members], pa.string()),
            f"{measure}_per_character": pa.array(means, pa.float64()),
        }
    )


def _parted(values: Doubles) -> Doubles:
    """Standard deviation over the members of the ranks, 0 to 1, that they give a unit."""
    ranks = (_ranks(values) - 1) / max(len(values) - 1, 1)
    found: Doubles = ranks.std(1)
    return found


def _no_spans() -> pa.Table:
    kinds: dict[str, pa.DataType] = {name: pa.string() for name in ("chain", "text", "hardest_for", "easiest_for")}
    kinds |= {name: pa.int64() for name in ("step", "start", "end")}
    kinds |= {"statistic": pa.float64(), "chance": pa.float64(), "values": pa.list_(pa.float64())}
    return pa.schema(list(kinds.items())).empty_table()


def _spans(units: Units, names: Sequence[str], texts: Mapping[str, str], null: float, top: int) -> pa.Table:
    """The units on which the members are as far apart as on units that have nothing to do with each other (``null``, the
    median of shifted ones), the farthest first.
    """
    parted = _parted(units.values)
    ranks = _ranks(units.values)
    rows = []
    for at in np.argsort(-parted, kind="stable")[:top].tolist():
        if parted[at] < null:
            break
        chain = units.chains[int(units.chain[at])]
        start, end = int(units.start[at]), int(units.end[at])
        rows.append(
            {"chain": chain, "step": int(units.step[at]), "start": start, "end": end, "text": texts[chain][start:end]}
            | {"statistic": float(parted[at]), "chance": null, "values": units.values[at].tolist()}
            | {"hardest_for": names[int(ranks[at].argmax())], "easiest_for": names[int(ranks[at].argmin())]}
        )
    return pa.Table.from_pylist(rows, schema=_no_spans().schema)
