"""Experiment 7: do the flags of the registry of effects say which text does damage when a model is trained on it?

A span is a piece of a chain with a step that an effect flags, or one without, matched in source, length and likelihood. Damage
is the KL on unrelated text after a few steps on the span alone. Flags are the base model's; damage is judged in models that
did not flag: the model after a training, and the first of its layers after one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trails.analyses.effects import (
    Flagged,
    Quantities,
    effect_of,
    family_quantities,
    flag,
    registry,
    step_quantities,
    training_quantities,
)
from trails.analyses.statistics import generator
from trails.errors import UsageError
from trails.experiments.base import (
    Arm,
    Claim,
    Correction,
    Criterion,
    Emit,
    Experiment,
    Metrics,
    Prepared,
    Scale,
    code_digest,
)
from trails.experiments.bench import Bench, mean
from trails.experiments.corpus import Corpus
from trails.experiments.criteria import LEAST_SEEDS
from trails.experiments.members import adapted, shortened
from trails.experiments.transfer import by_chain, directions, left_over
from trails.measure.base import Segmented
from trails.platform.arrays import Bools, Doubles, Longs
from trails.schema import Trace, stable_hash
from trails.train.data import Row

SEEDS = 10
SCANNED = 2000
"""Chains of each source, at most, that are looked at for flags."""
PAIRS, LEAST_PAIRS = 32, 8
"""Pairs of a flagged and an unflagged span of a seed and an effect: at most, and the fewest that are judged."""
SHORTEST, LONGEST = 60, 120
"""Tokens of a span."""
CANDIDATES = 2500
"""Chains without a flag, at most, among which an effect's flagged spans find their match."""
STEPS, RATE, TOGETHER = 8, 1e-3, 32
"""Steps on a span, their learning rate, and spans that are trained side by side."""
D_TEXTS, D_TOKENS = 60, 64
TRAINED_ROWS, TRAINED_STEPS = 320, 40
"""Rows and steps of a training after which the model is another one."""
DEPTH = 0.9
HARMFUL = 0.75
"""Spans of a seed above this quantile of what their damage has beyond what is known of them are harmful."""
DRAWS = 20
LOT = 64
"""Chains whose measures are in memory at a time."""
MODELS = {
    "base": "the model that flagged",
    "checkpoint": "it after a training",
    "depth": "the first of its layers after a training",
}
HELD_OUT = ("checkpoint", "depth")
SHORT = {"logit-collapse": "collapse", "attention-divergence": "divergence", "embedding-phantom": "phantom"}
"""Effects that are looked for, and what they are called in metrics."""


# --- which steps are flagged -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a chain as it is trained on: its source, its row, and its NLL and entropy alone, nats per token."""

    source: str
    row: Row
    nll: float = math.nan
    entropy: float = math.nan


def scanned(corpus: Corpus, scale: Scale) -> list[Segmented]:
    """The chains that are looked at for flags, by source in a fixed order, without those of the trainings. Chains of one
    question of a source are a family.
    """
    most = scale.count(SCANNED, 12)
    found = []
    for source in corpus.reasoning():
        whole = corpus.block(source, 0, 1)
        if source in (corpus.roles.trained, corpus.roles.unseen):
            whole = whole[: -scale.count(TRAINED_ROWS, 4)]
        for item in whole[:most]:
            chain = item.chain
            if chain.question and not chain.family:
                chain = replace(chain, family=f"{source} {' '.join(chain.question.split())}")
            found.append(Segmented(chain, item.steps))
    return found


def joined(parts: Sequence[Quantities]) -> Quantities:
    """Quantities of several lots of chains as one."""
    steps = [step for part in parts for step in part.steps]
    columns = [
        {name: np.concatenate([getattr(part, side)[name] for part in parts]) for name in getattr(parts[0], side)}
        for side in ("own", "control")
    ]
    return Quantities(steps, *columns)


def found_steps(bench: Bench, after: Bench, items: Sequence[Segmented], effects: Iterable[str]) -> Doubles:
    """Every step that the effects look at, as rows (effect, chain, step, value, flagged): chain is its place in ``items``. The
    last row of an effect has chain -1: the share of its control that would be flagged, and the size of the control.
    """
    parts: dict[str, list[Quantities]] = {"step": [], "training": []}
    families: dict[str, int] = {}
    for item in items:
        families[item.chain.family] = families.get(item.chain.family, 0) + 1
    several: list[Trace] = []
    for start in range(0, len(items), LOT):
        lot = items[start : start + LOT]
        before = bench.traces(lot)
        parts["step"].append(step_quantities(before))
        parts["training"].append(training_quantities(before, {t.chain.id: t for t in after.traces(lot)}))
        several += [trace for trace in before if trace.chain.family and families[trace.chain.family] > 1]
    made = {name: joined(of) for name, of in parts.items()} | {"family": family_quantities(several)}
    place = {item.chain.id: number for number, item in enumerate(items)}
    rows: list[tuple[float, ...]] = []
    for number, name in enumerate(effects):
        one = flag(effect_of(name), made[effect_of(name).quantities])
        if not isinstance(one, Flagged):
            continue
        hit = set(one.flagged)
        rows += [
            (number, place[chain], step, float(one.values[k]), float(k in hit))
            for k, (chain, step) in enumerate(one.steps)
        ]
        rows.append((number, -1, one.n_control, one.by_chance, 0))
    return np.asarray(rows, np.float64).reshape(-1, 5)


def piece_of(lengths: Sequence[int], step: int, shortest: int, longest: int) -> tuple[int, int] | None:
    """Steps (first, stop) around a step, which grow forwards and, at the end of the chain, backwards until they have
    ``shortest`` tokens; None for a chain that is too short, or a piece of more than ``longest``.
    """
    first, stop, size = step, step + 1, lengths[step]
    while size < shortest:
        if stop < len(lengths):
            size += lengths[stop]
            stop += 1
        elif first:
            first -= 1
            size += lengths[first]
        else:
            return None
    return (first, stop) if size <= longest else None


def span_of(bench: Bench, item: Segmented, step: int, scale: Scale) -> Span | None:
    """The span around a step of a chain; None where there is none of the right length."""
    text, steps = item.chain.text, item.steps
    shortest, longest = min(SHORTEST, scale.max_tokens // 2), min(LONGEST, scale.max_tokens)
    name = f"lengths {item.chain.id}"
    if name not in bench.shared:
        bench.shared[name] = [len(bench.ids(text[one.start : one.end])) for one in steps]
    piece = piece_of(bench.shared[name], step, shortest, longest)
    if piece is None:
        return None
    ids = bench.ids(text[steps[piece[0]].start : steps[piece[1] - 1].end].strip())[:longest]
    return Span(item.chain.source, bench.ids_row(ids, chain=item.chain.id)) if len(ids) > 1 else None


# --- pairs -----------------------------------------------------------------------------------------------------------


def matched(flagged: Sequence[Span], others: Sequence[Span]) -> list[tuple[Span, Span]]:
    """Each flagged span, in its order, with the nearest of the others of its source in log length and NLL, each in standard
    deviations; no span twice. Without one that is left it has no match.
    """
    if not flagged or not others:
        return []
    table = np.asarray([[math.log(len(one.row["input_ids"])), one.nll] for one in (*flagged, *others)])
    table = (table - table.mean(0)) / np.maximum(table.std(0), 1e-9)
    left = np.ones(len(others), np.bool_)
    sources = np.asarray([one.source for one in others])
    found = []
    for one, at in zip(flagged, table, strict=False):
        able = np.flatnonzero(left & (sources == one.source))
        if len(able):
            best = int(able[((table[len(flagged) + able] - at) ** 2).sum(1).argmin()])
            left[best] = False
            found.append((one, others[best]))
    return found


def pairs_of(bench: Bench, corpus: Corpus, scale: Scale) -> dict[str, list[tuple[Span, Span]]]:
    """The matched pairs of all seeds by effect, in a random order; one flagged span of a chain, and no flag in the chains of
    the others.
    """
    items = scanned(corpus, scale)
    names = list(SHORT)
    digest = stable_hash(
        bench.run.revision,
        bench.run.dtype,
        code_digest(),
        scale.name,
        str(registry()),
        *(item.chain.id for item in items),
    )
    after = bench.around(models_of(bench, corpus, scale)["after"])
    steps = bench.kept(f"flags-{digest}", lambda: found_steps(bench, after, items, names))
    pairs: dict[str, list[tuple[Span, Span]]] = {}
    for number, name in enumerate(names):
        of = steps[(steps[:, 0] == number) & (steps[:, 1] >= 0)]
        flags = of[:, 4] > 0
        if scale.size < 1 and len(of):  # a few short chains have no flags: the machinery is tried on the largest values
            flags = of[:, 3] >= np.quantile(of[:, 3], 0.7)
        hit = _one_each(bench, items, of[flags], scale, largest=True)
        clean = of[~np.isin(of[:, 1], of[flags, 1])]
        order = generator(0, "flags candidates", name).permutation(len(clean))
        rest = _one_each(bench, items, clean[order], scale, largest=False)[: scale.count(CANDIDATES, 20)]
        found = matched(_weighed(bench, hit, digest), _weighed(bench, rest, digest))
        pairs[name] = [found[k] for k in generator(0, "flags pairs", name).permutation(len(found)).tolist()]
    return pairs


def _one_each(bench: Bench, items: Sequence[Segmented], rows: Doubles, scale: Scale, *, largest: bool) -> list[Span]:
    """One span a chain: around the step with the largest value, or the first step given, that has a span."""
    if largest:
        rows = rows[np.argsort(-rows[:, 3], kind="stable")]
    found: dict[int, Span] = {}
    for _, chain, step, _, _ in rows.tolist():
        if int(chain) not in found:
            span = span_of(bench, items[int(chain)], int(step), scale)
            if span is not None:
                found[int(chain)] = span
    return list(found.values())


def _weighed(bench: Bench, spans: Sequence[Span], digest: str) -> list[Span]:
    """The spans with their NLL and entropy."""
    rows = [span.row for span in spans]
    name = stable_hash(digest, *(f"{row['chain']} {row['input_ids']}" for row in rows))

    def make() -> Doubles:
        probes = bench.probe(bench.model, rows)
        return np.asarray([(float(p.nll.mean()), float(p.entropy.mean())) for p in probes], np.float64).reshape(-1, 2)

    values = bench.kept(f"flags-{name}", make)
    return [replace(span, nll=a, entropy=b) for span, (a, b) in zip(spans, values.tolist(), strict=True)]


def models_of(bench: Bench, corpus: Corpus, scale: Scale) -> dict[str, Any]:
    """Scorers of the other models, made once for all seeds: ``after`` is the run after a training that an effect needs,
    ``checkpoint`` and ``depth`` have no part in the flags. Their chains are not looked at for flags.
    """
    name = f"flags models {corpus.digest} {corpus.roles} {scale}"
    if name not in bench.shared:
        first, second = (
            [bench.row(item, scale.max_tokens) for item in corpus.block(source, 0, 1)[-scale.count(TRAINED_ROWS, 4) :]]
            for source in (corpus.roles.trained, corpus.roles.unseen)
        )
        steps = scale.n_steps(TRAINED_STEPS)
        bench.shared[name] = {
            "after": adapted(bench, first, bench.options(scale, steps, 0), merged=True),
            "checkpoint": adapted(bench, second, bench.options(scale, steps, 1), merged=True),
            "depth": adapted(
                bench.around(shortened(bench, DEPTH)), second, bench.options(scale, steps, 2), merged=True
            ),
        }
    found: dict[str, Any] = bench.shared[name]
    return found


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """The seed's share of the pairs of every effect, and the unrelated text."""
    known = f"flags pairs {corpus.digest} {corpus.roles} {scale}"
    if known not in bench.shared:
        bench.shared[known] = pairs_of(bench, corpus, scale)
    pairs: Mapping[str, Sequence[tuple[Span, Span]]] = bench.shared[known]
    mine = {}
    for name, found in pairs.items():
        per = min(scale.count(PAIRS, 3), len(found) // SEEDS) if scale.size >= 1 else min(3, len(found))
        at = seed % SEEDS * per if scale.size >= 1 else 0
        mine[name] = found[at : at + per] if per >= (LEAST_PAIRS if scale.size >= 1 else 1) else []
    if scale.size >= 1 and not any(mine.values()):
        told = ", ".join(f"{name} {len(found)}" for name, found in pairs.items())
        raise UsageError(
            f"experiment flags needs {LEAST_PAIRS * SEEDS} flagged spans of an effect with a match; there are: {told}. Give "
            "more chains: --data PATH"
        )
    taken = [span.row["input_ids"] for found in mine.values() for pair in found for span in pair]
    unrelated = bench.apart(corpus.unrelated(0), scale.count(D_TEXTS, 3), taken, min(D_TOKENS, scale.max_tokens))
    feeds = {
        f"{name}, {kind}": [pair[k].row for pair in found]
        for name, found in mine.items()
        for k, kind in enumerate(("flagged", "unflagged"))
    }
    return Prepared(feeds, {"D": unrelated}, {"pairs": mine, "models": models_of(bench, corpus, scale)})


# --- damage ----------------------------------------------------------------------------------------------------------


def damage(bench: Bench, rows: Sequence[Row], unrelated: Sequence[Row], scale: Scale, seed: int) -> Doubles:
    """KL(before ‖ after) on unrelated text, nats per token, after the steps on each row alone, (rows,)."""
    found = []
    options = bench.options(scale, STEPS, seed, batch=1)
    for start in range(0, len(rows), TOGETHER):
        part = {str(k): [row] for k, row in enumerate(rows[start : start + TOGETHER])}
        with bench.side_by_side(part, dict.fromkeys(part, RATE), options) as (adapters, _):
            for probes in bench.probe_each(adapters, unrelated, compare=True):
                found.append(mean(p.kl for p in probes if p.kl is not None))
    return np.asarray(found, np.float64)


def average_precision(score: Doubles, positive: Bools) -> float:
    """Area under the curve of precision over recall, in steps, ties taken together; NaN without a positive."""
    if not positive.any():
        return math.nan
    order = np.argsort(-score, kind="stable")
    last = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    hits = np.cumsum(positive[order])[last].astype(np.float64)
    gained = np.diff(hits, prepend=0.0)
    return float((gained * hits / (last + 1)).sum() / positive.sum())


def predicted(score: Doubles, harm: Doubles, known: Doubles, source: Longs) -> tuple[float, float, float]:
    """How well a score predicts damage: average precision for the spans that are harmful beyond what is known, above their
    share; partial rank correlation with damage after what is known, within sources; the first for damage as it is.
    """
    taken = directions(known, source)
    one, two = (left_over(values, taken, source) for values in (score, harm))
    whole = np.zeros(len(source), np.int64)
    lifts = []
    for values in (two, harm):
        harmful = values > np.quantile(values, HARMFUL)
        lifts.append(average_precision(score, harmful) - float(harmful.mean()))
    return lifts[0], float(by_chain(one, two, whole, 1)[0]), lifts[1]


def swapped(flags: Doubles, draw: np.random.Generator) -> Doubles:
    """Flags of pairs, one after the other, exchanged within each pair or not, by a coin."""
    coin = np.repeat(draw.random(len(flags) // 2) < 0.5, 2)
    return np.where(coin, 1 - flags, flags)


def run(
    bench: Bench,
    prepared: Prepared,
    scale: Scale,
    seed: int,
    arms: Sequence[str],
    rates: Mapping[str, float],
    emit: Emit,
) -> None:
    """One seed: the damage of every span in every model once; the arms are ways to predict it."""
    benches = {"base": bench} | {model: bench.around(prepared.extra["models"][model]) for model in HELD_OUT}
    unrelated = list(prepared.sets["D"])
    metrics: dict[str, Metrics] = {arm: dict.fromkeys(METRICS, math.nan) for arm in arms}
    raw: dict[str, list[float]] = {arm: [] for arm in arms}
    for effect, pairs in prepared.extra["pairs"].items():
        if not pairs:
            continue
        spans = [span for pair in pairs for span in pair]
        source = np.unique([span.source for span in spans], return_inverse=True)[1].astype(np.int64)
        known = np.asarray([(len(span.row["input_ids"]), span.nll, span.entropy) for span in spans], np.float64)
        flags = np.tile([1.0, 0.0], len(pairs))
        apart = known[0::2] - known[1::2]
        for model, other in benches.items():
            bench.check_time()
            harm = damage(other, [span.row for span in spans], unrelated, scale, seed)
            for arm in arms:
                draw = generator(seed, arm, effect)
                scores = [flags]
                if arm in EXCHANGED:
                    scores = [swapped(flags, draw) for _ in range(DRAWS)]
                elif arm == "likelihood":
                    scores = [known[:, 1]]
                found = [predicted(score, harm, known, source) for score in scores]
                end = f"{SHORT[effect]}_{model}"
                metrics[arm][f"ap_{end}"], metrics[arm][f"rho_{end}"], as_it_is = np.mean(found, 0).tolist()
                if model == "base":
                    raw[arm].append(as_it_is)
                if arm == "flag":
                    metrics[arm][f"more_{end}"] = float(np.log(harm[0::2] / harm[1::2]).mean())
        if "flag" in arms:
            metrics["flag"][f"apart_{SHORT[effect]}"] = float(np.abs(apart[:, 1]).mean())
    for arm in arms:
        metrics[arm]["raw_base"] = mean([raw[arm]])
        emit(arm, metrics[arm], {"pairs": {name: len(pairs) for name, pairs in prepared.extra["pairs"].items()}})


EXCHANGED = ("exchanged", "exchanged again")
METRICS = (
    {
        f"{what}_{short}_{model}": meaning.format(name, said)
        for what, meaning in (
            (
                "ap",
                "{0}: average precision for the quarter of the spans that is most harmful in {1} beyond what is known of "
                "them, above a quarter",
            ),
            ("rho", "{0}: partial rank correlation with damage in {1}, after what is known"),
            ("more", "{0}: mean log ratio of the damage of a flagged span and its match in {1}"),
        )
        for name, short in SHORT.items()
        for model, said in MODELS.items()
    }
    | {
        "raw_base": "average precision for the most harmful quarter in the model that flagged, above a quarter, mean of effects"
    }
    | {f"apart_{short}": f"{name}: mean distance of a pair in NLL, nats per token" for name, short in SHORT.items()}
)
_AP, _RHO = 0.08, 0.1


def _claim(name: str, said: str) -> Claim:
    return Claim(
        name,
        f"{said} predicts damage in models that did not flag it, beyond length, likelihood, entropy and source",
        tuple(
            Criterion(f"{what}_{SHORT[name]}_{model}", "flag", "exchanged", "higher", delta=delta)
            for what, delta in (("ap", _AP), ("rho", _RHO))
            for model in HELD_OUT
        ),
    )


EXPERIMENT = Experiment(
    name="flags",
    number="7",
    title="Do flags of effects predict damage",
    hypothesis="Text with a step that the registry of effects flags does more damage when a model is trained on it than text "
    "of the same source, length and likelihood without one, in models that did not flag it, too.",
    arms=(
        Arm("flag", "spans with a flagged step are called harmful", control=False, trained=False),
        Arm("exchanged", "flags exchanged within the matched pairs by a coin", trained=False),
        Arm("exchanged again", "another such draw: the placebo", trained=False),
        Arm("likelihood", "positive control: the NLL of a span, of which damage is largely made", trained=False),
    ),
    claims=(
        _claim("logit-collapse", "A step in which predictions narrow without the text becoming easier"),
        _claim("attention-divergence", "A step at which versions of a family look elsewhere"),
        _claim("embedding-phantom", "A step whose drift is gone after a training"),
    ),
    positive=(Criterion("raw_base", "likelihood", "exchanged", "higher", delta=_AP),),
    placebo=tuple(
        Criterion(f"ap_{short}_{model}", "exchanged again", "exchanged", "higher", delta=_AP)
        for short in SHORT.values()
        for model in HELD_OUT
    ),
    metrics=METRICS,
    settings={
        "effects": ", ".join(SHORT),
        "version of the registry": max(effect_of(name).version for name in SHORT),
        "chains of a source looked at": SCANNED,
        "pairs of a seed and an effect at most": PAIRS,
        "fewest pairs that are judged": LEAST_PAIRS,
        "tokens of a span": f"{SHORTEST} to {LONGEST}, whole steps",
        "matched in": "source, log length and NLL of the span alone",
        "training on a span": f"{STEPS} steps on it alone at rate {RATE:g}, LoRA of rank 8, alpha 16, all linear layers",
        "damage": f"KL(before ‖ after) on {D_TEXTS} unrelated texts of {D_TOKENS} tokens at most",
        "run after a training, of embedding-phantom": f"the model after {TRAINED_STEPS} steps of 8 rows of the trained source",
        "checkpoint": f"the model after {TRAINED_STEPS} steps of 8 rows of the unseen source",
        "depth": f"the first {DEPTH:g} of the layers, after the same training",
        "known of a span": "ranks within its source, and their squares, of its length, NLL and entropy",
        "harmful": f"damage beyond that above the {100 * HARMFUL:g} % quantile of the seed's spans of the effect",
    },
    limits="Damage of one span alone, at one rate. The models that did not flag are made of the one that did. Families are "
    "answers to one question. An effect with too few flags is not judged: its criteria stay open.",
    unit=f"share of the matched pairs, {PAIRS} of each effect at most",
    held_out=("D",),
    looks=(max(SEEDS, LEAST_SEEDS),),
    prepare=prepare,
    run=run,
    correction=Correction(
        claimed="Nothing: three of ten seeds of a first plan were run and none of its claims was judged "
        "([rows](archive/flags.jsonl)).",
        withdrawn="The plan. Its other seeds could not be run: the scores that choose the spans were computed a second time on "
        "another machine, differed in their last digits, and chose other spans than the plan names. The run refused them.",
        stands="None of its rows is used. The plan of this page is another. The scores that it rests on are kept beside its "
        "rows (`flags-….npy`): who goes on with it elsewhere takes them along.",
    ),
)
