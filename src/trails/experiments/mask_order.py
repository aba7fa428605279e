"""Masks and orders: does a token-safe mask damage less, does a rising order or a rhythm teach more?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trails.experiments.base import Arm, Claim, Criterion, Emit, Experiment, Scale
from trails.experiments.bench import Bench, mean
from trails.experiments.corpus import Corpus, generator
from trails.export.order import arrange
from trails.train.data import Row

STEPS = 32
TRAIN = 96
LIMIT = 0.916
"""nats: tokens with a higher surprisal under the base are masked (ln 2.5, as in the prototypes)."""


def rows_of(arm: str, rows: Sequence[Row], surprisal: Sequence[np.ndarray], seed: int, wanted: int) -> list[Row]:
    """``wanted`` rows of an arm: the same rows, each equally often, with the arm's mask or order."""
    passes = -(-wanted // len(rows))
    used = list(rows)
    if arm in ("token-safe mask", "random mask"):
        used = [
            row | {"loss_weights": masked(row, values, arm == "random mask", seed + index)}
            for index, (row, values) in enumerate(zip(rows, surprisal, strict=True))
        ]
    ids = [row["chain"] for row in rows]
    means = np.asarray([float(values.mean()) if len(values) else np.nan for values in surprisal])
    families, names = [""] * len(rows), [("", name) for name in ids]
    if arm == "rhythm" and passes > 1:
        order = arrange(f"rhythm:{passes}", ids, means, families, names, seed=seed).tolist()
    elif arm in ("rising order", "falling order"):
        # one pass from easy to hard: each row is repeated in its place
        once = arrange(arm.split()[0], ids, means, families, names, seed=seed).tolist()
        order = [row for row in once for _ in range(passes)]
    else:
        order = [
            row
            for number in range(passes)
            for row in arrange("shuffled", ids, means, families, names, seed=seed * 1000 + number).tolist()
        ]
    return [used[row] for row in order]


def masked(row: Row, surprisal: np.ndarray, random: bool, seed: int) -> list[float]:
    """Weights of a row with its surprising tokens at 0, or as many tokens drawn at random."""
    places = [i for i, label in enumerate(row["labels"]) if label != -100 and i > 0]
    drop = surprisal > LIMIT
    if random:
        drop = np.random.default_rng(seed).permutation(drop)
    gone = {place for place, out in zip(places, drop.tolist(), strict=True) if out}
    return [0.0 if i in gone else weight for i, weight in enumerate(row["loss_weights"])]


def run(bench: Bench, corpus: Corpus, scale: Scale, seed: int, arms: Sequence[str], emit: Emit) -> None:
    """One seed: the same chains for every arm."""
    sets = bench.sets(corpus, scale, seed, scale.count(TRAIN, 4))
    steps = scale.n_steps(STEPS)
    order = generator(seed, "rows").permutation(len(sets.train)).tolist()
    wanted = steps * scale.batch
    # two passes over as many rows as the steps allow
    chosen = [sets.train[i] for i in order[: max(1, wanted // 2)]]
    surprisal = [probe.nll for probe in bench.probe(bench.model, chosen)]
    base = bench.base(sets)
    for arm in arms:
        rows = rows_of(arm, chosen, surprisal, seed, wanted)[:wanted]
        with bench.trained(rows, bench.options(scale, steps, seed)) as (model, losses):
            found = bench.changes(bench.measure(model, sets), base)
        kept = mean(np.asarray(row["loss_weights"])[np.asarray(row["labels"]) != -100] for row in rows)
        tokens = sum(len(row["input_ids"]) for row in rows)
        emit(arm, found | {"kept": kept, "loss": losses[-1]}, {"tokens": tokens, "base": base})


EXPERIMENT = Experiment(
    name="mask-order",
    number="",
    title="Token-safe mask and order of training",
    hypothesis="Dropping surprising tokens from the loss damages unrelated text less without learning less, and training from "
    "easy to hard, or in a rhythm of growing distances, teaches more than the same rows shuffled.",
    arms=(
        Arm("shuffled", "the rows in random order, every token counts"),
        Arm("token-safe mask", f"tokens with a base surprisal above {LIMIT} nats do not count", control=False),
        Arm("random mask", "as many tokens per row, drawn at random, do not count"),
        Arm("rising order", "from low to high mean surprisal", control=False),
        Arm("falling order", "from high to low mean surprisal"),
        Arm("rhythm", "the same multiset of rows with growing distance between repeats", control=False),
    ),
    claims=(
        Claim(
            "mask",
            "A token-safe mask drifts less on unrelated text than no mask and a random mask of its size, and learns no less",
            (
                Criterion("kl_d", "token-safe mask", "random mask", "lower"),
                Criterion("kl_d", "token-safe mask", "shuffled", "lower"),
                Criterion("nll_h", "token-safe mask", "random mask", "lower", role="guard"),
                Criterion("nll_h", "token-safe mask", "shuffled", "lower", role="guard"),
            ),
        ),
        Claim(
            "rising order",
            "A rising order of surprisal teaches more than shuffling and than a falling order",
            (
                Criterion("nll_h", "rising order", "shuffled", "lower"),
                Criterion("nll_h", "rising order", "falling order", "lower"),
            ),
        ),
        Claim(
            "rhythm",
            "Repeats at growing distance teach more than the same rows shuffled",
            (Criterion("nll_h", "rhythm", "shuffled", "lower"),),
        ),
    ),
    metrics={
        "nll_h": "NLL on held-out text of the trained family, nats per token",
        "change_h": "its change by the training, negative = learnt",
        "change_u": "change of NLL on the unseen form",
        "change_d": "change of NLL on unrelated text, positive = forgotten",
        "kl_h": "KL(base ‖ trained) on held-out text of the trained family, nats per token",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
        "kept": "share of labelled tokens that count",
    },
    settings={"steps": STEPS, "chains": TRAIN, "mask above": LIMIT, "learning rate": 1e-3},
    limits="Order is by the base model's mean surprisal within one family. One pass sorted, each row repeated in its place.",
    run=run,
)
