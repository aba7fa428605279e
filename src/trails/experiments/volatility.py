"""Experiment 6: does training on volatile variants bring imitation collapse?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from trails.analyses.statistics import generator
from trails.experiments.base import (
    Arm,
    Claim,
    Correction,
    Criterion,
    Emit,
    Experiment,
    Metrics,
    Prepared,
    Record,
    Scale,
    at_equal_gain,
)
from trails.experiments.bench import Bench
from trails.experiments.corpus import Corpus
from trails.train.data import Row
from trails.train.many import Adapters

STEPS = 54
PARENTS = 12
POOL = 32
EDITED = 0.02
REACH = 64
POINTS = (1 / 9, 2 / 9, 1 / 3, 1 / 2, 3 / 4, 1.0)
PROMPTS = 48
PROMPT_TOKENS = 32
NEW_TOKENS = 48
PHRASE = 8
"""Tokens that the positive control says again and again."""
QUARTERS = ("high volatility", "low volatility", "shuffled A", "shuffled B")


def edited_pool(bench: Bench, row: Row, count: int, seed: int) -> list[tuple[float, Row]]:
    """``count`` variants of a row, each with as many tokens replaced by one of the :data:`REACH` that the model finds likeliest
    there: (volatility, row).
    """
    offset = row["offset"]
    context, ids = row["input_ids"][:offset], row["input_ids"][offset:]
    draw = generator(seed, "pool", row["chain"])
    edits = max(1, round(EDITED * len(ids)))
    likely = bench.likely(context, ids, REACH)
    variants = []
    for _ in range(count):
        new = list(ids)
        for place in draw.permutation(np.arange(1, len(ids)))[:edits].tolist():
            choices = [token for token in likely[place].tolist() if token != ids[place]]
            new[place] = int(choices[int(draw.integers(len(choices)))])
        variants.append(new)
    values = bench.volatility(context, ids, variants)
    return [
        (value, bench.ids_row(new, context, chain=row["chain"])) for value, new in zip(values, variants, strict=True)
    ]


def assigned(pools: Sequence[Sequence[tuple[float, Row]]], seed: int) -> dict[str, list[tuple[float, Row]]]:
    """A quarter of every parent's variants for each arm: the most and the least volatile, and two random ones apart."""
    arms: dict[str, list[tuple[float, Row]]] = {name: [] for name in QUARTERS}
    for number, pool in enumerate(pools):
        ranked = sorted(pool, key=lambda pair: pair[0])
        quarter = max(len(ranked) // 4, 1)
        arms["low volatility"] += ranked[:quarter]
        arms["high volatility"] += ranked[len(ranked) - quarter :]
        order = np.random.default_rng([seed, number]).permutation(len(ranked)).tolist()
        arms["shuffled A"] += [ranked[i] for i in order[:quarter]]
        arms["shuffled B"] += [ranked[i] for i in order[quarter : 2 * quarter]]
    return arms


def repeating(bench: Bench, row: Row) -> Row:
    """A row of the same length that says the first :data:`PHRASE` tokens of its chain again and again."""
    first = row["offset"]
    ids = row["input_ids"][first:]
    said = (ids[:PHRASE] * len(ids))[: len(ids)]
    return bench.ids_row(said, row["input_ids"][:first], chain=row["chain"])


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """The parents; their variants are made in the run, with the model's help."""
    sets = bench.sets(corpus, scale, seed, scale.count(PARENTS, 2))
    feeds = {name: list(sets.train) for name in QUARTERS}
    feeds["repeating"] = [repeating(bench, row) for row in sets.train]
    return Prepared(feeds, {"H": sets.held_out, "U": sets.unseen, "D": sets.unrelated}, sets)


def run(
    bench: Bench,
    prepared: Prepared,
    scale: Scale,
    seed: int,
    arms: Sequence[str],
    rates: Mapping[str, float],
    emit: Emit,
) -> None:
    """One seed: variants of the same parents for every arm, all arms side by side."""
    sets = prepared.extra
    pools = [edited_pool(bench, row, scale.count(POOL, 4), seed) for row in sets.train]
    chosen = assigned(pools, seed)
    count = len(chosen["high volatility"])
    again = prepared.feeds["repeating"]
    chosen["repeating"] = [(math.nan, again[k % len(again)]) for k in range(count)]
    order = generator(seed, "feed").permutation(count).tolist()
    feeds = {arm: [chosen[arm][k][1] for k in order] for arm in arms}
    steps = scale.n_steps(STEPS)
    at = sorted({max(1, round(steps * share)) for share in POINTS})
    rows = [*sets.held_out, *sets.unrelated]
    prompts = [row["input_ids"][:PROMPT_TOKENS] for row in rows if len(row["input_ids"]) >= PROMPT_TOKENS]
    prompts = prompts[:: max(1, len(prompts) // scale.count(PROMPTS, 2))] or [rows[0]["input_ids"][:4]]
    length = scale.count(NEW_TOKENS, 8)
    base = bench.base(sets)
    start = bench.repetition(bench.model, prompts, length)
    first = {"step": 0.0, "gain_h": 0.0, "repetition": start, "entropy_d": base["entropy_d"], "kl_d": 0.0}
    curves: dict[str, list[dict[str, float]]] = {arm: [first] for arm in arms}
    last: dict[str, Metrics] = {}

    def on(step: int, adapters: Adapters) -> None:
        said = bench.repetition_each(adapters, prompts, length)
        for arm, measured, repeated in zip(arms, bench.measure_each(adapters, sets), said, strict=True):
            found = last[arm] = bench.changes(measured, base) | {"repetition": repeated}
            point = {"step": float(step), "gain_h": -found["change_h"], "repetition": repeated}
            curves[arm].append(point | {"entropy_d": found["entropy_d"], "kl_d": found["kl_d"]})

    with bench.side_by_side(feeds, rates, bench.options(scale, steps, seed), at=at, on=on) as (_, losses):
        pass
    for arm in arms:
        found = last[arm] | {"best_h": -max(point["gain_h"] for point in curves[arm][1:])}
        found["volatility"] = float(np.mean([value for value, _ in chosen[arm]]))
        emit(
            arm,
            found | {"repetition_before": start, "loss": losses[arm][-1]},
            {"curve": curves[arm], "base": base, "tokens": sum(len(row["input_ids"]) for row in feeds[arm])},
        )


def derive(records: Mapping[str, Record]) -> dict[str, Metrics]:
    """Repetition and entropy where every arm has lowered the NLL on H by the same amount; the positive control is left out."""
    curves = {arm: records[arm]["curve"] for arm in QUARTERS}
    found: dict[str, Metrics] = {arm: {} for arm in records}
    for value in ("repetition", "entropy_d", "kl_d"):
        for arm, number in at_equal_gain(curves, "gain_h", value).items():
            found[arm][f"{value}_at_equal_gain"] = number
    volatile = {arm: float(record["metrics"].get("volatility") or math.nan) for arm, record in records.items()}
    found["high volatility"]["contrast_both"] = volatile["high volatility"] / volatile["low volatility"]
    return found


_NULL = ("shuffled A", "shuffled B")

EXPERIMENT = Experiment(
    name="volatility",
    number="6",
    title="Volatility and imitation collapse",
    hypothesis="At the same fall of loss, training on variants of high volatility makes the model's own text more "
    "repetitive "
    "and its predictions narrower than training on variants of low volatility.",
    arms=(
        Arm("high volatility", "the most volatile quarter of each parent's variants", control=False),
        Arm("low volatility", "the least volatile quarter, with as many tokens edited within the same reach"),
        Arm("shuffled A", "a random quarter of the same variants"),
        Arm("shuffled B", "another random quarter"),
        Arm("repeating", f"positive control that collapses: the parents' first {PHRASE} tokens again and again"),
    ),
    claims=(
        Claim(
            "repetition",
            "High volatility makes greedy text more repetitive than low volatility at equal gain, beyond shuffled "
            "assignment",
            (
                Criterion("repetition_at_equal_gain", "high volatility", "low volatility", "higher", delta=0.03),
                Criterion(
                    "repetition_at_equal_gain", "high volatility", "low volatility", "higher", delta=0.03, null=_NULL
                ),
            ),
        ),
        Claim(
            "entropy",
            "High volatility narrows predictions on unrelated text more than low volatility at equal gain, beyond "
            "shuffled "
            "assignment",
            (
                Criterion("entropy_d_at_equal_gain", "high volatility", "low volatility", "lower", delta=0.05),
                Criterion(
                    "entropy_d_at_equal_gain", "high volatility", "low volatility", "lower", delta=0.05, null=_NULL
                ),
            ),
        ),
    ),
    metrics={
        "contrast_both": "volatility of the high over that of the low quarter",
        "volatility": "mean Jensen–Shannon divergence between the base's predictions for variant and parent, nats",
        "change_h": "change of NLL on held-out text of the trained family, nats per token",
        "best_h": "the lowest such change at any of the points measured",
        "change_d": "change of NLL on unrelated text",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
        "entropy_d": "predictive entropy on unrelated text, nats",
        "repetition_before": "repetition of the untrained model",
        "repetition": "share of 4-grams of greedy continuations that occurred before in them, at the end",
        "repetition_at_equal_gain": "repetition where the arm reaches 90 % of the smallest arm's largest gain on H",
        "entropy_d_at_equal_gain": "entropy on unrelated text at that gain",
        "kl_d_at_equal_gain": "KL on unrelated text at that gain",
    },
    settings={
        "steps": STEPS,
        "parents": PARENTS,
        "variants per parent": POOL,
        "share of tokens replaced": EDITED,
        "replaced by one of the likeliest": REACH,
        "measured at steps": [max(1, round(STEPS * share)) for share in POINTS],
        "prompts": PROMPTS,
        "greedy tokens": NEW_TOKENS,
        "learning rate": "1e-4; on one development seed 3e-4 gained less",
    },
    limits="Volatility comes from replaced tokens only. Greedy text of a small model repeats itself already before "
    "training. One learning rate for all arms. What the setting *learning rate* says of 3e-4 is true of *high volatility* "
    "alone (largest gain .1412, at 1e-4 .1445) and of *repeating*; *low volatility* (.1497, .1474), *shuffled A* (.1507, "
    ".1482) and *shuffled B* (.1496, .1482) gained more at 3e-4.",
    prepare=prepare,
    run=run,
    positive=(Criterion("repetition", "repeating", "low volatility", "higher", delta=0.03),),
    placebo=(Criterion("repetition_at_equal_gain", "shuffled A", "shuffled B", "higher", delta=0.03),),
    same_rows=(QUARTERS,),
    rates=(1e-4,),
    correction=Correction(
        claimed="More repetition: open. Narrower predictions: did not hold, they got wider. Five seeds.",
        withdrawn="The reading of *wider*: wider predictions follow from noise in the labels alone, and the two halves "
        "differed in volatility by a factor of 1.4 only. Nothing collapsed in any arm, so collapse could not be "
        "predicted from anything.",
        stands="That predictions did not get narrower. Repaired since: quarters of variants within one reach, a control that "
        "collapses, six measured points.",
    ),
    derive=derive,
    curve={"gain_h": "fall of NLL on H, nats per token", "repetition": "share of repeated 4-grams"},
)
