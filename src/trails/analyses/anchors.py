"""The causal graph of steps, beside the observed one: what suppressing attention does, and whether attention mass tells it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.statistics import bootstrap, how_drawn, how_resampled, spearman, spread, within_group_ranks
from trails.platform.arrays import Doubles, Longs
from trails.platform.text import counted
from trails.platform.ties import same
from trails.schema import Trace, step_key
from trails.store.base import GraphBatch
from trails.store.rows import table_of

if TYPE_CHECKING:
    from trails.measure.anchors import Dependence

CORRELATION, EFFECT, DIVERGENCE = "attention and effect", "nats lost", "divergence"
"""Names of the scores."""
MIN_PAIRS = 6
SHUFFLES = 200


@dataclass(frozen=True, slots=True)
class Anchors(Finding):
    """Every measured pair of steps as a row of ``pairs``; ``cost`` is how many passes over the chains went through the
    model.
    """

    run: str
    layers: str
    chains: tuple[str, ...]
    pairs: pa.Table
    cost: float
    scores: tuple[Score, ...]
    withheld: tuple[Withheld, ...]
    notes: tuple[str, ...] = ()

    def report(self) -> Report:
        """What needs what most, and whether attention mass says so."""
        rows = self.pairs.to_pylist()
        names = {score.name: score for score in self.scores}
        if not rows:
            verdict = "no pair of steps could be measured"
        else:
            verdict = self._most(rows)
            if CORRELATION in names:
                one = names[CORRELATION]
                said = "tells" if one.beyond(SHUFFLED) else "does not tell"
                near = "more than" if one.beyond(NEARNESS) else "no better than"
                verdict += (
                    f"; attention mass {said} the effect (rank correlation {one.value:.2f}, by chance up to "
                    f"{one.strictest(SHUFFLED).reach:.2f}), {near} nearness ({one.strictest(NEARNESS).value:.2f})"
                )
        columns = ("chain", "later", "earlier", "roles", "nats", "kl", "mass", "random_nats", "sink_nats", "text")
        shown = ReportTable(
            "pairs",
            self.pairs,
            "step > earlier step, the largest loss first",
            {n: n for n in columns},
            ranked=("loss in nats", [row["nats"] for row in rows]),
        )
        facts = {
            "run": self.run,
            "layers": self.layers,
            "n_chains": len(self.chains),
            "n_pairs": len(rows),
            "passes": self.cost,
        }
        commands = [
            ("what a conclusion depends on", f"trails query conclusion-depends-on --param chain={self.chains[0]}")
        ]
        return Report(
            "anchors", verdict, facts, (shown,), self.scores, self.withheld, self.notes, tuple(commands) if rows else ()
        )

    def _most(self, rows: Sequence[dict[str, Any]]) -> str:
        """The verdict's first half: the conclusion of one chain, or what conclusions lose. A largest loss stands beside the
        largest of as many random spans, drawn from those of all steps.
        """
        last = {chain: max(r["later"] for r in rows if r["chain"] == chain) for chain in {r["chain"] for r in rows}}
        ends = [r for r in rows if r["later"] == last[r["chain"]]]
        pool = np.array([r["random_nats"] for r in rows if r["random_nats"] is not None])
        own = [np.array([r["nats"] for r in ends if r["chain"] == chain]) for chain in sorted(last)]
        most = float(np.median([values.max() for values in own]))
        chance = largest_of(pool, [len(values) for values in own])
        beside = NO_CHANCE
        if len(chance):
            more = "more than" if most > np.quantile(chance, 0.975) else "no more than"
            beside = (
                f"{more} the largest of as many random spans ({float(np.median(chance)):.3g}, by chance up to "
                f"{float(np.quantile(chance, 0.975)):.3g})"
            )
        if len(last) == 1:
            best = max(ends, key=lambda r: r["nats"])
            if best["nats"] <= 0:
                return f"step {best['later']} needs no earlier step: none that is hidden makes it less likely"
            alike = sum(same(r["nats"], best["nats"]) for r in ends)
            lost = f"{best['nats']:.3g} nats a token, the largest of {counted(len(ends), 'loss')}, {beside}"
            if alike > 1:
                each = f"each of {counted(alike, 'earlier step')}, without none most"
                return f"step {best['later']} loses alike without {each}: {lost}"
            return f"step {best['later']} loses most without step {best['earlier']}: {lost}"
        return (
            f"{counted(len(last), 'conclusion')}: the largest loss among the earlier steps is {most:.3g} nats a token "
            f"(median), {beside}"
        )

    def batch(self) -> GraphBatch | None:
        """The pairs as ``DEPENDS_ON``."""
        table, chains = self.pairs, self.pairs["chain"].to_pylist()
        ends = {
            side: [step_key(chain, index) for chain, index in zip(chains, table[name].to_pylist(), strict=True)]
            for side, name in (("start", "later"), ("end", "earlier"))
        }
        names = ("nats", "kl", "mass", "random_nats", "sink_nats")
        columns = ends | {name: table[name].to_pylist() for name in names}
        columns |= {"run": [self.run] * len(table), "layers": [self.layers] * len(table)}
        return GraphBatch({}, {"DEPENDS_ON": table_of("DEPENDS_ON", columns)}) if len(table) else None


MIN_SPANS = 5
"""Losses for random spans from which the largest of several is drawn, at least."""
NO_CHANCE = "too few random spans to say what the largest loss is by chance"


def largest_of(pool: Doubles, counts: Sequence[int], *, draws: int = 1000, seed: int = 0) -> Doubles:
    """What a largest loss is to be compared with, (draws,): for every conclusion the largest of as many losses, drawn from
    those for random spans (n,), and the median over the conclusions. Empty where fewer than :data:`MIN_SPANS` were measured.
    """
    if len(pool) < MIN_SPANS:
        return np.zeros(0)
    rng = np.random.default_rng(seed)
    found: Doubles = np.median([rng.choice(pool, (draws, count)).max(1) for count in counts], axis=0)
    return found


NEARNESS, SHUFFLED = "nearness of the step", "attention shuffled within the later step"


def anchored(
    found: Sequence[tuple[Trace, Dependence]],
    run: str,
    *,
    layers: Sequence[int] | None = None,
    left_out: Sequence[str] = (),
    seed: int = 0,
) -> Anchors:
    """Put measured dependences beside the attention of their traces. ``layers`` are those that were suppressed (None: all), and
    the mass is their mean. ``left_out`` are reasons why chains were not measured. The order of ``found`` does not matter.
    """
    found = sorted(found, key=lambda pair: pair[0].chain.id)
    rows: list[dict[str, Any]] = []
    for trace, one in found:
        texts = [trace.chain.text[s.start : s.end].strip() for s in trace.steps]
        for later, earlier in np.argwhere(np.isfinite(one.nats)).tolist():
            mass = trace.step_masses(later)[earlier + 2].astype(np.float64)
            mass = mass if layers is None else mass[np.asarray(layers) - 1]
            rows.append(
                {"chain": trace.chain.id, "later": later, "earlier": earlier}
                | {"roles": f"{trace.steps[later].role}>{trace.steps[earlier].role}"}
                | {name: float(getattr(one, name)[later, earlier]) for name in _NUMBERS}
                | {"mass": float(mass.mean()), "text": f"{texts[later]} > {texts[earlier]}"}
            )
    scores, withheld = _scores(rows, seed)
    rows.sort(key=lambda row: (-row["nats"], row["chain"], row["later"], row["earlier"]))
    kinds = {
        "chain": pa.string(),
        "later": pa.int64(),
        "earlier": pa.int64(),
        "roles": pa.string(),
        "text": pa.string(),
    }
    schema = pa.schema(
        [(n, kinds.get(n, pa.float64())) for n in ("chain", "later", "earlier", "roles", *_NUMBERS, "mass", "text")]
    )
    table = pa.Table.from_pylist([{k: None if v != v else v for k, v in row.items()} for row in rows], schema=schema)
    spent, own = sum(one.tokens for _, one in found), sum(one.own_tokens for _, one in found)
    return Anchors(
        run,
        "all" if layers is None else ",".join(map(str, layers)),
        tuple(trace.chain.id for trace, _ in found),
        table,
        spent / own if own else 0.0,
        scores,
        withheld,
        (*(f"left out: {reason}" for reason in left_out),),
    )


_NUMBERS = ("nats", "kl", "random_nats", "random_kl", "sink_nats", "sink_kl")


def _scores(rows: Sequence[dict[str, Any]], seed: int) -> tuple[tuple[Score, ...], tuple[Withheld, ...]]:
    scores: list[Score] = []
    withheld: list[Withheld] = []
    groups: dict[tuple[str, int], int] = {}
    group = np.array([groups.setdefault((r["chain"], r["later"]), len(groups)) for r in rows], np.int64)
    several = np.isin(group, np.flatnonzero(np.bincount(group) > 1)) if len(group) else np.zeros(0, bool)
    if several.sum() < MIN_PAIRS:
        reason = (
            f"{counted(int(several.sum()), 'pair')} of steps whose later step has several before it; "
            f"{MIN_PAIRS} are needed"
        )
        withheld.append(Withheld(CORRELATION, f"{reason}: give a longer chain or more chains"))
    else:
        scores.append(
            _correlation([row for row, kept in zip(rows, several, strict=True) if kept], group[several], seed)
        )
    for name, column in ((EFFECT, "nats"), (DIVERGENCE, "kl")):
        for control, key in (("an equally long random span", "random"), ("as much mass of the first token", "sink")):
            drawn = [row for row in rows if np.isfinite(row[f"{key}_{column}"])]
            if not drawn:
                withheld.append(Withheld(f"{name}, against {control}", "no pair has room for it: give longer chains"))
                continue
            both = np.array([[row[column], row[f"{key}_{column}"]] for row in drawn])
            by_chain = _by_chain([row["chain"] for row in drawn], both)
            own, other = by_chain.mean(0)
            intervals = [bootstrap(by_chain[:, i]) for i in (0, 1)]
            again = how_resampled()
            controls = (Control(control, float(other), intervals[1], f"one a pair of steps; {again}"),)
            note = f"the same {counted(len(drawn), 'pair')} of steps, mean over chains"
            scores.append(
                Score(f"{name}, against {control}", float(own), "nats per token", controls, intervals[0], note, again)
            )
    return tuple(scores), tuple(withheld)


def _by_chain(chains: Sequence[str], values: Doubles) -> Doubles:
    """Means by chain, (chains, k)."""
    _, code = np.unique(np.asarray(chains), return_inverse=True)
    return np.stack([values[code == one].mean(0) for one in range(code.max() + 1)])


def _correlation(rows: Sequence[dict[str, Any]], group: Longs, seed: int) -> Score:
    """Rank correlation of attention mass and loss within the later step, against nearness and shuffled masses."""
    effect = within_group_ranks(np.array([row["nats"] for row in rows]), group)
    mass = within_group_ranks(np.array([row["mass"] for row in rows]), group)
    near = within_group_ranks(np.array([row["earlier"] for row in rows], np.float64), group)
    rng = np.random.default_rng(seed)
    null = []
    order = np.argsort(group, kind="stable")
    bounds = np.flatnonzero(np.diff(group[order])) + 1
    for _ in range(SHUFFLES):
        mixed = mass.copy()
        for places in np.split(order, bounds):
            mixed[places] = mass[rng.permutation(places)]
        null.append(spearman(mixed, effect))
    _, code = np.unique(np.array([row["chain"] for row in rows]), return_inverse=True)
    members = [np.flatnonzero(code == one) for one in range(code.max() + 1)]

    def again(pick: Doubles) -> float:
        places = np.concatenate([members[int(one)] for one in pick.ravel()])
        return spearman(mass[places], effect[places])

    interval = bootstrap(np.arange(len(members), dtype=np.float64)[:, None], again) if len(members) >= 5 else None
    null_values = [value for value in null if np.isfinite(value)]
    controls = (
        Control(
            SHUFFLED,
            float(np.mean(null_values)) if null_values else 0.0,
            spread(null_values),
            how_drawn("shuffles within the later step", SHUFFLES, seed),
        ),
        Control(NEARNESS, spearman(near, effect), how="the same pairs, nothing drawn"),
    )
    unit = "rank correlation within the later step"
    return Score(CORRELATION, spearman(mass, effect), unit, controls, interval, how=how_resampled())
