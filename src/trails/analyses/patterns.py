"""Many versions, one hidden pattern: are versions of a family nearer in whitened state space than chains that only look alike?

The distance of two chains at a layer is 1 minus the mean best cosine of their steps' whitened states, both ways. Every pair of
versions of a family is compared with a pair of the same first chain and one of another family that is as long: the nearest in
steps and tokens, of the same language and source. The share of pairs that are nearer than their matched pair stands
beside the same share for bags of words: what the words tell already is no hidden pattern. The permutation exchanges
the two pairs of a family at random.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa

from trails.analyses.neighbours import hashed_words
from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.sequences import content_words, one_instrument, usual_layers
from trails.analyses.statistics import bootstrap, how_resampled
from trails.analyses.whitening import MIN_VECTORS, fit_whitening
from trails.platform.arrays import Doubles, Floats
from trails.platform.text import counted
from trails.schema import Trace

LEAST = 5
"""Fewer families than this decide nothing."""
PAIRS = 28
"""Pairs of one family at most: eight versions."""
PERMUTATIONS = 10_000
BAG, CHANCE = "bag of words", "chance"
MEANS = ("within", "between", "p", "words_within", "words_between")
"""Columns of the table beside the layer."""


@dataclass(frozen=True, slots=True)
class Patterns(Finding):
    """A row per layer in ``table``: distance within families, that of the matched pairs, and the permutation's p."""

    run: str
    n_families: int
    n_pairs: int
    table: pa.Table
    scores: tuple[Score, ...]
    withheld: tuple[Withheld, ...]
    notes: tuple[str, ...]

    def report(self) -> Report:
        """At how many layers versions lie nearer than chance, and than their words tell."""
        if not self.scores:
            said = f"no pattern is judged: {self.withheld[0].reason}"
        else:
            nearer = [score.name for score in self.scores if score.beyond(CHANCE)]
            more = [score.name for score in self.scores if score.beyond(CHANCE, BAG)]
            said = (
                f"versions of {counted(self.n_families, 'family lies', 'families lie')} nearer than "
                f"length-matched chains at {len(nearer)} of "
                f"{counted(len(self.scores), 'layer')}; beyond what a bag of words tells at {', '.join(more) or 'none'}"
            )
        columns = {"layer": "layer", "within": "within", "between": "matched", "p": "p", "words_within": "words within",
                   "words_between": "words matched"}  # fmt: skip
        facts = {"run": self.run, "n_families": self.n_families, "n_pairs": self.n_pairs}
        table = ReportTable("layers", self.table, "distance of whitened step states, 1 - cosine", columns)
        return Report("patterns", said, facts, (table,), self.scores, self.withheld, self.notes)


@dataclass(frozen=True, slots=True)
class _Chain:
    name: str
    family: str
    kind: tuple[str, str]
    steps: int
    tokens: int
    words: list[str]
    layers: tuple[int, ...]
    states: Floats  # (S, layers, d)


def patterns(traces: Iterable[Trace], *, seed: int = 0) -> Patterns:
    """Compare the versions of every family of two or more chains with stored states, at every stored layer."""
    kept: list[_Chain] = []
    run = ""
    for trace in one_instrument(traces):
        run = trace.run
        if trace.step_states is None:
            continue
        good = np.isfinite(trace.step_states).all(axis=(1, 2))
        if not good.any():
            continue
        chain = trace.chain
        kept.append(
            _Chain(chain.id, chain.family, (chain.language, chain.source), len(trace.steps), trace.n_tokens,
                   content_words(chain.text), trace.state_layers,
                   np.asarray(trace.step_states[good], np.float32))
        )  # fmt: skip
    layers = usual_layers(one.layers for one in kept)
    kept = sorted((one for one in kept if one.layers == layers), key=lambda one: one.name)
    families: dict[str, list[int]] = {}
    for number, one in enumerate(kept):
        if one.family:
            families.setdefault(one.family, []).append(number)
    pairs = _matched(kept, families, seed)
    groups = sorted({kept[a].family for a, _, _ in pairs})
    nothing = pa.schema([("layer", pa.int64()), *((name, pa.float64()) for name in MEANS)]).empty_table()
    steps = sum(len(one.states) for one in kept)
    if len(groups) < LEAST or steps < MIN_VECTORS:
        reason = (
            f"{counted(len(groups), 'family has', 'families have')} two versions with states and a chain "
            f"as long of another family, and {counted(steps, 'step')} "
            f"have a state; {LEAST} and {MIN_VECTORS} are needed (trails ingest PATH --states 16)"
        )
        return Patterns(run, len(groups), len(pairs), nothing, (), (Withheld("patterns", reason),), ())
    family_of = np.array([groups.index(kept[a].family) for a, _, _ in pairs])
    bags = hashed_words([one.words for one in kept])
    words = np.array([[1 - float(bags[a] @ bags[b]), 1 - float(bags[a] @ bags[c])] for a, b, c in pairs])
    rows: list[dict[str, object]] = []
    scores = []
    for place, layer in enumerate(layers):
        white = fit_whitening(np.concatenate([one.states[:, place] for one in kept]))
        units = [white(one.states[:, place]) for one in kept]
        found = np.array([[_distance(units[a], units[b]), _distance(units[a], units[c])] for a, b, c in pairs])
        row: dict[str, object] = {"layer": layer, "within": float(found[:, 0].mean())}
        rows.append(
            row
            | {"between": float(found[:, 1].mean())}
            | {"p": sign_flip(_means(found[:, 1] - found[:, 0], family_of), seed)}
            | {"words_within": float(words[:, 0].mean()), "words_between": float(words[:, 1].mean())}
        )
        mine, theirs = (_means(_nearer(values), family_of) for values in (found, words))
        how = how_resampled(f"the {counted(len(groups), 'family')}")
        bag = Control(BAG, float(theirs.mean()), bootstrap(theirs), f"the same pairs by their bags of words; {how}")
        scores.append(
            Score(
                f"layer {layer}",
                float(mine.mean()),
                "share of pairs nearer than their matched pair",
                (bag, Control(CHANCE, 0.5, how="by definition")),
                bootstrap(mine),
                how=how,
            )
        )
    notes = ("intervals are over families, each of which counts once",)
    return Patterns(run, len(groups), len(pairs), pa.Table.from_pylist(rows), tuple(scores), (), notes)


def _matched(kept: Sequence[_Chain], families: dict[str, list[int]], seed: int) -> list[tuple[int, int, int]]:
    """Pairs (a, b) of one family with c, the chain of another family, of a's language and source, that is nearest to b in steps
    and tokens; a and b change places at random, and a chain is c of one pair of a family at most.
    """
    rng = np.random.default_rng(seed)
    size = np.array([[np.log(one.steps), np.log(one.tokens)] for one in kept]).reshape(-1, 2)
    by_kind: dict[tuple[str, str], list[int]] = {}
    for number, one in enumerate(kept):
        by_kind.setdefault(one.kind, []).append(number)
    found = []
    for family, members in sorted(families.items()):
        every = [pair if rng.random() < 0.5 else pair[::-1] for pair in combinations(members, 2)]
        taken: set[int] = set()
        for at in rng.permutation(len(every))[:PAIRS].tolist():
            a, b = every[at]
            able = [c for c in by_kind[kept[a].kind] if kept[c].family != family and c not in taken]
            if not able:
                continue
            c = able[int(np.abs(size[able] - size[b]).sum(axis=1).argmin())]
            taken.add(c)
            found.append((a, b, c))
    return found


def _distance(one: Floats, two: Floats) -> float:
    cosine = one @ two.T
    return 1 - float(cosine.max(axis=1).mean() + cosine.max(axis=0).mean()) / 2


def _nearer(pairs: Doubles) -> Doubles:
    """1 where the first of two distances is the smaller, a half where they are equal."""
    found: Doubles = (pairs[:, 0] < pairs[:, 1]) + 0.5 * (pairs[:, 0] == pairs[:, 1])
    return found


def _means(values: Doubles, group: np.ndarray) -> Doubles:
    found: Doubles = np.bincount(group, weights=values) / np.bincount(group)
    return found


def sign_flip(values: Doubles, seed: int = 0) -> float:
    """One-sided p of the mean of values (families) being above 0, by exchanging signs at random: at least 1 / 10,001."""
    rng = np.random.default_rng([seed, 7])
    signs = rng.integers(0, 2, (PERMUTATIONS, len(values))) * 2 - 1
    drawn = (signs * values).mean(axis=1)
    return float((1 + (drawn >= values.mean() - 1e-12).sum()) / (1 + PERMUTATIONS))
