"""The registry of effects (``effects.toml``) and the search for them in measured chains.

An effect is a list of conditions on quantities of a step. Each threshold is a quantile of the same quantity in a control
that has the effect by chance only (of unrelated texts: as a rule); a step that meets all of them is flagged, and the share
of the control that would be flagged stands beside the share that is. The quantities:

- ``step``: mean entropy, mean surprisal and spread of ``ln(1 + rank)`` (standard deviation) of the step's tokens, each minus
  that of the whole chain; ``surplus`` is surprisal minus entropy. Control: as many tokens of the same chain, drawn at random.
- ``family``: ``apart``, the total variation between the step's attention over its earlier steps (sink and question left out,
  scaled to 1) and that of the same step of other versions of its family, mean over layers and versions. Control: chains of
  other families.
- ``training``: hidden shift above its baseline (mean over tokens and layers) ``before`` and after a
  training, and the ``fall``. Control: the two runs exchanged.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.statistics import bootstrap, generator, how_resampled, of_each
from trails.errors import UsageError
from trails.platform.arrays import Doubles
from trails.platform.text import counted, percent
from trails.schema import Trace, family_key, stable_hash, step_key
from trails.store.base import GraphBatch
from trails.store.rows import table_of

MIN_STEPS = 20
"""Fewer steps than this give no thresholds."""
MIN_TOKENS = 3
"""Tokens that a step must have to be looked at."""
STEP_DRAWS = 5
"""Random sets of tokens in the control of a step."""

Row = tuple[float, float, float]
"""Mean entropy, mean surprisal and spread of ranks."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A quantity that lies beyond a quantile of its control."""

    quantity: str
    side: Literal["low", "high"]
    quantile: float


@dataclass(frozen=True, slots=True)
class Effect:
    """An entry of the registry. ``version`` is that of the file. ``against`` says what the control has: the effect by
    ``chance``, or, being ``unrelated``, as a rule.
    """

    name: str
    version: int
    meaning: str
    unit: str
    control: str
    quantities: str
    value: str
    value_unit: str
    conditions: tuple[Condition, ...]
    example: str
    counter_example: str
    against: Literal["chance", "unrelated"] = "chance"

    def definition(self) -> str:
        """The conditions in words."""
        return " and ".join(
            f"{c.quantity} {'<' if c.side == 'low' else '>'} its {100 * c.quantile:g} % quantile in the control"
            for c in self.conditions
        )


@cache
def registry(path: Path | None = None) -> Mapping[str, Effect]:
    """Every effect by name, of ``effects.toml`` by default. Raises UsageError for a file that is no registry."""
    path = path or Path(__file__).with_name("effects.toml")
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        version = int(found.pop("version"))
        return {
            name: Effect(name, version, **(entry | {"conditions": tuple(Condition(**c) for c in entry["conditions"])}))
            for name, entry in found.items()
        }
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UsageError(f"{path} is not a registry of effects ({error}).") from None


def effect_of(name: str) -> Effect:
    """An effect by its name. Raises UsageError that names those there are."""
    known = registry()
    if name not in known:
        raise UsageError(f"effect {name!r} was asked for. There are: {', '.join(known)}.")
    return known[name]


@dataclass(frozen=True, slots=True)
class Quantities:
    """U steps as (chain, step), their quantities (U,) by name, and those of the control (V,). ``controls_of`` (V,) is the
    number of the step that a control belongs to.
    """

    steps: Sequence[tuple[str, int]]
    own: Mapping[str, Doubles]
    control: Mapping[str, Doubles]


def step_quantities(traces: Iterable[Trace], seed: int = 0, draws: int = STEP_DRAWS) -> Quantities:
    """See the module, ``step``. Steps stand in the order of the chains' ids."""
    found: dict[str, tuple[list[int], list[Row], list[Row]]] = {}
    for trace in traces:
        logs = np.log1p(np.where(trace.rank >= 0, trace.rank, np.nan).astype(np.float64))
        table = np.stack((trace.entropy.astype(np.float64), trace.surprisal.astype(np.float64), logs), 1)
        table = table[np.isfinite(table).all(1)]
        shift = trace.n_tokens - len(table)  # undefined tokens are the first ones
        spans = [(index, max(int(a) - shift, 0), int(b) - shift) for index, (a, b) in enumerate(trace.step_tokens)]
        spans = [(index, a, b) for index, a, b in spans if b - a >= MIN_TOKENS]
        if len(spans) < 2:
            continue
        rng = generator(seed, "effects: tokens of a step", trace.chain.id)
        whole = _reduced(table)
        places, own, control = found.setdefault(trace.chain.id, ([], [], []))
        for index, a, b in spans:
            places.append(index)
            own.append(_above(table[a:b], whole))
            control += [_above(table[rng.choice(len(table), b - a, replace=False)], whole) for _ in range(draws)]
    ordered = [(chain, *found[chain]) for chain in sorted(found)]
    return Quantities(
        [(chain, place) for chain, places, _, _ in ordered for place in places],
        _named([row for _, _, own, _ in ordered for row in own]),
        _named([row for _, _, _, control in ordered for row in control]),
    )


def _reduced(table: Doubles) -> Row:
    return float(table[:, 0].mean()), float(table[:, 1].mean()), float(table[:, 2].std())


def _above(table: Doubles, whole: Row) -> Row:
    entropy, surprisal, spread = _reduced(table)
    return entropy - whole[0], surprisal - whole[1], spread - whole[2]


def _named(rows: Sequence[Row]) -> dict[str, Doubles]:
    table = np.asarray(rows, np.float64).reshape(-1, 3)
    return {
        "entropy": table[:, 0],
        "surprisal": table[:, 1],
        "rank_spread": table[:, 2],
        "surplus": table[:, 1] - table[:, 0],
    }


def family_quantities(traces: Iterable[Trace], seed: int = 0) -> Quantities:
    """See the module, ``family``. Versions are compared step by step, so only those with as many steps. Steps stand in the
    order of the families, and in a family in that of the chains' ids.
    """
    profiles: dict[str, list[tuple[str, list[Doubles]]]] = {}
    for trace in traces:
        if trace.chain.family and trace.n_layers and trace.step_keys is None:
            profiles.setdefault(family_key(trace.chain.family), []).append((trace.chain.id, _profile(trace)))
    steps: list[tuple[str, int]] = []
    own: list[float] = []
    control: list[float] = []
    families = sorted(profiles)
    for versions in profiles.values():
        versions.sort(key=lambda version: version[0])
    for family in families:
        others = [entry for other in families if other != family for entry in profiles[other]]
        for chain, mine in profiles[family]:
            alike = [p for name, p in profiles[family] if name != chain and len(p) == len(mine)]
            strange = [p for _, p in others if len(p) == len(mine)]
            if not alike or not strange:
                continue
            rng = generator(seed, "effects: chains of other families", chain)
            picked = [strange[int(i)] for i in rng.integers(0, len(strange), len(alike))]
            for step in range(2, len(mine)):  # step 1 has one earlier step: its profile is 1
                near, far = ([_apart(mine[step], p[step]) for p in of] for of in (alike, picked))
                if np.isfinite(near).all() and np.isfinite(far).all():
                    steps.append((chain, step))
                    own.append(float(np.mean(near)))
                    control.append(float(np.mean(far)))
    return Quantities(steps, {"apart": np.array(own)}, {"apart": np.array(control)})


def _profile(trace: Trace) -> list[Doubles]:
    """By step the masses on the earlier steps, (step, L), each layer scaled to 1."""
    found = []
    for step in range(len(trace.steps)):
        masses = trace.step_masses(step)[2 : 2 + step].astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(masses / masses.sum(0))
    return found


def _apart(one: Doubles, other: Doubles) -> float:
    return float(np.abs(one - other).sum(0).mean() / 2)


def training_quantities(before: Iterable[Trace], after: Mapping[str, Trace]) -> Quantities:
    """See the module, ``training``. ``after`` holds the traces of the second run by chain. Steps stand in the order of the
    chains' ids.
    """
    found: dict[str, tuple[list[int], Doubles]] = {}
    for trace in before:
        other = after.get(trace.chain.id)
        if other is None or other.hidden_shift.shape != trace.hidden_shift.shape:
            continue
        both = np.array([_drifts(one) for one in (trace, other)])  # (2, S)
        places = np.flatnonzero(np.isfinite(both).all(0))
        found[trace.chain.id] = (places.tolist(), both[:, places])
    steps = [(chain, place) for chain in sorted(found) for place in found[chain][0]]
    one, two = np.concatenate([found[chain][1] for chain in sorted(found)], 1) if found else np.zeros((2, 0))
    return Quantities(steps, {"before": one, "fall": one - two}, {"before": two, "fall": two - one})


def _drifts(trace: Trace) -> list[float]:
    """By step the mean hidden shift above its baseline, input embeddings left out."""
    above = (trace.hidden_shift.astype(np.float64) - trace.hidden_baseline.astype(np.float64))[:, 1:].mean(1)
    spans = [above[a:b][np.isfinite(above[a:b])] for a, b in trace.step_tokens.tolist()]
    return [float(span.mean()) if len(span) >= MIN_TOKENS else np.nan for span in spans]


@dataclass(frozen=True, slots=True)
class Flagged:
    """Which steps show an effect. ``thresholds`` are those of its conditions; ``by_chance`` the share of the ``n_control``
    entries of the control that meets them.
    """

    effect: Effect
    steps: tuple[tuple[str, int], ...]
    flagged: tuple[int, ...]
    values: Doubles
    thresholds: tuple[float, ...]
    by_chance: float
    n_control: int

    @property
    def share(self) -> float:
        """Share of the steps that are flagged."""
        return len(self.flagged) / len(self.steps)


def flag(effect: Effect, found: Quantities) -> Flagged | Withheld:
    """The steps that meet every condition of an effect; Withheld where there are too few."""
    if len(found.steps) < MIN_STEPS:
        reason = f"{counted(len(found.steps), 'step')} could be looked at ({NEEDS[effect.quantities]}), {MIN_STEPS} are needed"
        return Withheld(effect.name, reason)
    meets = np.ones(len(found.steps), bool)
    chance = np.ones(len(next(iter(found.control.values()))), bool)
    thresholds = []
    for condition in effect.conditions:
        control = found.control[condition.quantity]
        edge = float(np.quantile(control, condition.quantile))
        thresholds.append(edge)
        for met, values in ((meets, found.own[condition.quantity]), (chance, control)):
            met &= values < edge if condition.side == "low" else values > edge
    return Flagged(
        effect,
        tuple(found.steps),
        tuple(np.flatnonzero(meets).tolist()),
        found.own[effect.value],
        tuple(thresholds),
        float(chance.mean()),
        len(chance),
    )


NEEDS = {
    "step": f"chains of two steps of {MIN_TOKENS} tokens or more",
    "family": "chains of a family with as many steps as another of it, three or more, and a model with attention",
    "training": "chains that both runs measured, with --after RUN",
}
"""What the quantities need."""

DRAWN = {
    "step": f"random sets of tokens, {STEP_DRAWS} a step, seed {of_each(0)}",
    "family": f"steps beside as many random chains of other families as it has versions, seed {of_each(0)}",
    "training": "steps with the runs exchanged, nothing drawn",
}
"""What the control of the quantities is made of."""


@dataclass(frozen=True, slots=True)
class Effects(Finding):
    """What a scan found."""

    run: str
    after: str
    found: tuple[Flagged, ...]
    withheld: tuple[Withheld, ...]
    texts: Mapping[tuple[str, int], str]

    def report(self) -> Report:
        """Which effects are there beyond chance."""
        scores = []
        parts = []
        for one in self.found:
            chains = np.array([chain for chain, _ in one.steps])
            hit = np.zeros(len(chains))
            hit[list(one.flagged)] = 1
            names, code = np.unique(chains, return_inverse=True)
            sums = np.stack((np.bincount(code, hit), np.bincount(code).astype(float)), 1)
            interval = bootstrap(sums, lambda s: float(s[:, 0].sum() / s[:, 1].sum())) if len(names) > 1 else None
            how = f"share of {one.n_control:,} {DRAWN[one.effect.quantities]}"
            control = Control(one.effect.control, one.by_chance, how=how)
            again = how_resampled("chains (sum over sum)") if interval else ""
            score = Score(one.effect.name, one.share, "share of steps", (control,), interval, how=again)
            scores.append(score)
            said = f"{'beyond chance' if score.beyond() else 'not beyond chance'} ({percent(one.by_chance)})"
            if one.effect.against == "unrelated":
                said = f"of unrelated ones {percent(one.by_chance)}"
            share = percent(one.share)
            if interval:
                share += f", 95 %: {percent(interval[0])} to {percent(interval[1])}"
            parts.append(
                f"{one.effect.name}: {len(one.flagged):,} of {counted(len(one.steps), 'step')} ({share}), {said}"
            )
        rows = [
            {
                "effect": one.effect.name,
                "chain": one.steps[i][0],
                "step": one.steps[i][1],
                "value": float(one.values[i]),
            }
            | {"text": self.texts.get(one.steps[i], "")}
            for one in self.found
            for i in sorted(one.flagged, key=lambda i, one=one: -float(one.values[i]))  # type: ignore[misc]
        ]
        kinds = [("effect", pa.string()), ("chain", pa.string()), ("step", pa.int64()), ("value", pa.float64())]
        table = pa.Table.from_pylist(rows, schema=pa.schema([*kinds, ("text", pa.string())]))
        verdict = "; ".join(parts) or f"nothing was scanned: {self.withheld[0].reason}"
        facts = {
            "run": self.run,
            "after": self.after or None,
            "version": max((e.version for e in registry().values()), default=0),
        }
        return Report(
            "effects", verdict, facts, (ReportTable("flagged", table, "flagged steps"),), tuple(scores), self.withheld
        )

    def batch(self) -> GraphBatch | None:
        """``:Effect`` nodes with ``SEEN_IN`` for every flagged step."""
        if not self.found:
            return None
        nodes: dict[str, list[Any]] = {name: [] for name in ("id", "name", "version", "meaning", "definition", "run")}
        nodes |= {name: [] for name in ("after", "thresholds", "share", "by_chance", "n_steps", "value_unit")}
        seen: dict[str, list[Any]] = {name: [] for name in ("start", "end", "run", "value")}
        for one in self.found:
            effect = one.effect
            own = "e" + stable_hash(effect.name, str(effect.version), self.run, self.after)
            entry = (
                own,
                effect.name,
                effect.version,
                effect.meaning,
                effect.definition(),
                self.run,
                self.after or None,
            )
            numbers = (list(one.thresholds), one.share, one.by_chance, len(one.steps), effect.value_unit)
            for name, part in zip(nodes, (*entry, *numbers), strict=True):
                nodes[name].append(part)
            for i in one.flagged:
                for name, value in zip(
                    seen, (own, step_key(*one.steps[i]), self.run, float(one.values[i])), strict=True
                ):
                    seen[name].append(value)
        tables = {"SEEN_IN": table_of("SEEN_IN", seen)} if seen["start"] else {}
        return GraphBatch({"Effect": table_of("Effect", nodes)}, tables)


def scan(
    traces: Callable[[], Iterable[Trace]],
    names: Sequence[str] = (),
    *,
    run: str,
    after: Callable[[], Iterable[Trace]] | None = None,
    after_run: str = "",
    seed: int = 0,
) -> Effects:
    """Look for effects (all by default) in the chains of a run; ``after`` are the traces of a run after a training.

    Raises UsageError for an effect that does not exist.
    """
    wanted = [effect_of(name) for name in names] or list(registry().values())
    made: dict[str, Quantities] = {}
    found: list[Flagged] = []
    withheld: list[Withheld] = []
    for effect in wanted:
        if effect.quantities == "training" and after is None:
            withheld.append(Withheld(effect.name, "it needs a second run, after a training: --after RUN"))
            continue
        if effect.quantities not in made:
            if effect.quantities == "training" and after is not None:
                known = {trace.chain.id: trace for trace in after()}
                made["training"] = training_quantities(traces(), known)
            else:
                of = step_quantities if effect.quantities == "step" else family_quantities
                made[effect.quantities] = of(traces(), seed)
        one = flag(effect, made[effect.quantities])
        (found if isinstance(one, Flagged) else withheld).append(one)  # type: ignore[arg-type]
    flagged = {one.steps[i] for one in found for i in one.flagged}
    texts = {}
    for trace in traces() if flagged else ():
        for index, step in enumerate(trace.steps):
            if (trace.chain.id, index) in flagged:
                texts[trace.chain.id, index] = trace.chain.text[step.start : step.end].strip()
    return Effects(run, after_run, tuple(found), tuple(withheld), texts)
