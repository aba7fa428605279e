"""Masks and orders: does a token-safe mask damage less, does an order, a rhythm or massed repetition teach more?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trails.analyses.statistics import generator
from trails.errors import UsageError
from trails.experiments.base import Arm, Claim, Correction, Criterion, Emit, Experiment, Metrics, Prepared, Scale
from trails.experiments.bench import Bench, mean
from trails.experiments.corpus import Corpus
from trails.export.order import arrange
from trails.train.data import Row

TRAIN = 96
PASSES = 2
LIMIT = 0.916
"""nats: tokens with a higher surprisal under the base are masked (ln 2.5, as in the prototypes)."""
MASKS = ("token-safe mask", "random mask")
ORDERS = ("shuffled", "shuffled again", "rising order", "falling order", "rhythm", "massed")


def order_of(arm: str, rows: Sequence[Row], means: Any, seed: int, batch: int) -> list[int]:
    """Indices of the rows as fed: each ``PASSES`` times, never twice in one step. Raises UsageError if that cannot be."""
    ids = [row["chain"] for row in rows]
    families, names = [""] * len(rows), [("", name) for name in ids]

    def one(order: str, number: int) -> list[int]:
        found: list[int] = arrange(order, ids, means, families, names, seed=number).tolist()
        return found

    if arm == "rhythm":
        found = one(f"rhythm:{PASSES}", seed)
    elif arm == "massed":
        # copies in consecutive steps: a block of one step's rows, then the same block again
        once = one("shuffled", seed * 1000)
        blocks = [once[i : i + batch] for i in range(0, len(once), batch)]
        found = [row for block in blocks for _ in range(PASSES) for row in block]
    elif arm in ("rising order", "falling order"):
        found = one(arm.split()[0], seed) * PASSES
    else:
        first = 500 if arm == "shuffled again" else 0
        found = [row for number in range(PASSES) for row in one("shuffled", seed * 1000 + first + number)]
    found = apart(found, batch)
    for start in range(0, len(found), batch):
        step = found[start : start + batch]
        if len(set(step)) < len(step):
            raise UsageError(
                f"arm {arm!r} would feed a chain twice in step {start // batch} of {batch} rows. Give more chains: "
                f"--data PATH"
            )
    return found


def apart(order: Sequence[int], batch: int) -> list[int]:
    """The order with a row that would come twice in one step put off to the next step that is free of it."""
    left, found = list(order), []
    while left:
        step: list[int] = []
        for row in list(left):
            if len(step) == batch:
                break
            if row not in step:
                step.append(row)
                left.remove(row)
        found += step
    return found


def masked(row: Row, surprisal: Any, random: bool, seed: int) -> list[float]:
    """Weights of a row with its surprising tokens at 0, or as many tokens drawn at random."""
    places = [i for i, label in enumerate(row["labels"]) if label != -100 and i > 0]
    drop = surprisal > LIMIT
    if random:
        drop = np.random.default_rng(seed).permutation(drop)
    gone = {place for place, out in zip(places, drop.tolist(), strict=True) if out}
    return [0.0 if i in gone else weight for i, weight in enumerate(row["loss_weights"])]


def tests_of(bench: Bench, row: Row, seed: int) -> list[Row]:
    """The last step of a chain after all before it, and three copies with other digits in it: the true one first; none when
    the step has no digit.
    """
    spans = row["step_spans"]
    start = spans[-1]["start"]
    context, end = row["input_ids"][:start], row["input_ids"][start:]
    text = bench.tokenizer.decode(end)
    draw = generator(seed, "choices", row["chain"])
    found: list[Row] = []
    seen = {tuple(end)}
    for _ in range(12):
        moved = "".join(str((int(c) + int(draw.integers(1, 10))) % 10) if c.isdigit() else c for c in text)
        ids = bench.ids(moved)
        if tuple(ids) not in seen and moved != text:
            seen.add(tuple(ids))
            found.append(bench.ids_row(ids, context, chain=row["chain"]))
        if len(found) == 3:
            return [bench.ids_row(end, context, chain=row["chain"]), *found]
    return []


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """The same chains for every arm; the order of the sorted arms and the masks come from the base model in the run."""
    sets = bench.sets(corpus, scale, seed, scale.count(TRAIN, 4))
    rows = list(sets.train)[: len(sets.train) // scale.batch * scale.batch] or list(sets.train)
    other = _as_many(
        [bench.row(item, scale.max_tokens) for item in corpus.unrelated(seed)[scale.evaluate :]], len(rows)
    )
    feeds: dict[str, list[Row]] = dict.fromkeys((*ORDERS, *MASKS), rows * PASSES)
    feeds["other text"] = other * PASSES
    tests = [tests_of(bench, row, seed) for row in sets.held_out]
    choices = [row for one in tests for row in one]
    return Prepared(
        feeds,
        {"H": sets.held_out, "D": sets.unrelated, "tests": choices},
        {"sets": sets, "rows": rows, "other": other, "tests": choices},
    )


def _as_many(rows: Sequence[Row], count: int) -> list[Row]:
    if not rows:
        raise UsageError("experiment mask-order needs unrelated text besides that for D. Give more: --data PATH")
    return [rows[i % len(rows)] for i in range(count)]


def run(
    bench: Bench,
    prepared: Prepared,
    scale: Scale,
    seed: int,
    arms: Sequence[str],
    rates: Mapping[str, float],
    emit: Emit,
) -> None:
    """One seed: all arms side by side on the same multiset of rows."""
    sets = prepared.extra["sets"]
    rows, tests = prepared.extra["rows"], prepared.extra["tests"]
    surprisal = [probe.nll for probe in bench.probe(bench.model, rows)]
    means = np.asarray([float(values.mean()) if len(values) else np.nan for values in surprisal])
    base = bench.base(sets)
    before = bench.probe(bench.model, sets.held_out)
    task = _chosen([probe.nll for probe in bench.probe(bench.model, tests)])
    feeds: dict[str, list[Row]] = {}
    for arm in arms:
        if arm == "other text":
            feeds[arm] = [row for _ in range(PASSES) for row in prepared.extra["other"]]
            continue
        used = list(rows)
        if arm in MASKS:
            used = [
                row | {"loss_weights": masked(row, values, arm == "random mask", seed + index)}
                for index, (row, values) in enumerate(zip(rows, surprisal, strict=True))
            ]
        feeds[arm] = [used[k] for k in order_of(arm, rows, means, seed, scale.batch)]
    steps = scale.n_steps(-(-len(rows) * PASSES // scale.batch))
    with bench.side_by_side(feeds, rates, bench.options(scale, steps, seed)) as (adapters, losses):
        measured = bench.measure_each(adapters, sets)
        held = bench.probe_each(adapters, sets.held_out)
        tasks = bench.probe_each(adapters, tests) if tests else [[] for _ in arms]
    for arm, found, after, answers in zip(arms, measured, held, tasks, strict=True):
        metrics: Metrics = bench.changes(found, base)
        for name, kept in (("easy", True), ("hard", False)):
            moved = [(a.nll - b.nll)[(b.nll <= LIMIT) == kept] for a, b in zip(after, before, strict=True)]
            metrics[f"change_{name}"] = mean(moved)
        right, margin = _chosen([probe.nll for probe in answers])
        metrics |= {"task": right, "change_task": right - task[0], "task_margin": margin}
        metrics["change_margin"] = margin - task[1]
        feed = feeds[arm][: steps * scale.batch]
        metrics["kept"] = mean(np.asarray(row["loss_weights"])[np.asarray(row["labels"]) != -100] for row in feed)
        metrics["loss"] = losses[arm][-1]
        emit(arm, metrics, {"tokens": sum(len(row["input_ids"]) for row in feed), "base": base | {"task": task[0]}})


def _chosen(nll: Sequence[Any]) -> tuple[float, float]:
    """Share of tests (four rows each, the true one first) whose true row is likeliest, and the mean margin, nats per token."""
    if not nll:
        return float("nan"), float("nan")
    values = np.asarray([float(one.mean()) for one in nll]).reshape(-1, 4)
    return float((values.argmin(1) == 0).mean()), float((values[:, 1:].min(1) - values[:, 0]).mean())


EXPERIMENT = Experiment(
    name="mask-order",
    number="",
    title="Token-safe mask and order of training",
    hypothesis="Dropping surprising tokens from the loss damages unrelated text less without learning less, and "
    "training from "
    "easy to hard, or in a rhythm of growing distances, teaches more than the same rows shuffled.",
    arms=(
        Arm("shuffled", "the rows in random order, every token counts"),
        Arm("shuffled again", "the same in another random order: the placebo"),
        Arm("token-safe mask", f"tokens with a base surprisal above {LIMIT} nats do not count", control=False),
        Arm("random mask", "as many tokens per row, drawn at random, do not count"),
        Arm("rising order", "every pass from low to high mean surprisal", control=False),
        Arm("falling order", "every pass from high to low mean surprisal"),
        Arm("rhythm", "growing distance between the visits of a row", control=False),
        Arm("massed", "the visits of a row in consecutive steps", control=False),
        Arm("other text", "positive control: as many rows of unrelated text"),
    ),
    claims=(
        Claim(
            "mask",
            "A token-safe mask drifts less on unrelated text than no mask and a random mask of its size, and learns no "
            "less",
            (
                Criterion("kl_d", "token-safe mask", "random mask", "lower", delta=0.02),
                Criterion("kl_d", "token-safe mask", "shuffled", "lower", delta=0.02),
                Criterion("nll_h", "token-safe mask", "random mask", "lower", delta=0.02, kind="not inferior"),
                Criterion("nll_h", "token-safe mask", "shuffled", "lower", delta=0.02, kind="not inferior"),
            ),
        ),
        Claim(
            "mask on the task",
            "A token-safe mask costs nothing on a task: the true last step is told from copies with other digits as "
            "well as "
            "without a mask",
            (Criterion("task_margin", "token-safe mask", "shuffled", "higher", delta=0.03, kind="not inferior"),),
        ),
        Claim(
            "rising order",
            "A rising order of surprisal teaches more than shuffling and than a falling order",
            (
                Criterion("nll_h", "rising order", "shuffled", "lower", delta=0.01),
                Criterion("nll_h", "rising order", "falling order", "lower", delta=0.01),
            ),
        ),
        Claim(
            "rhythm",
            "Visits at growing distance teach more than the same rows shuffled",
            (Criterion("nll_h", "rhythm", "shuffled", "lower", delta=0.01),),
        ),
        Claim(
            "massed repetition",
            "Visits in consecutive steps drift less on unrelated text than the same rows shuffled, and teach no less",
            (
                Criterion("kl_d", "massed", "shuffled", "lower", delta=0.02),
                Criterion("nll_h", "massed", "shuffled", "lower", delta=0.01, kind="not inferior"),
            ),
        ),
    ),
    positive=(Criterion("nll_h", "other text", "shuffled", "higher", delta=0.01),),
    placebo=(
        Criterion("nll_h", "shuffled again", "shuffled", "lower", delta=0.01),
        Criterion("kl_d", "shuffled again", "shuffled", "lower", delta=0.02),
    ),
    same_rows=((*ORDERS, *MASKS),),
    metrics={
        "nll_h": "NLL on held-out text of the trained family, nats per token",
        "change_h": "its change by the training, negative = learnt",
        "change_easy": f"the change on held-out tokens that the base gives at most {LIMIT} nats: those that the mask "
        f"keeps",
        "change_hard": "the change on the others: those that the mask drops",
        "task": "share of held-out chains whose true last step is likelier than three copies with other digits (chance "
        "0.25)",
        "change_task": "its change by the training",
        "task_margin": "NLL of the likeliest wrong copy minus that of the true last step, nats per token",
        "change_margin": "its change by the training",
        "change_d": "change of NLL on unrelated text, positive = forgotten",
        "kl_h": "KL(base ‖ trained) on held-out text of the trained family, nats per token",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
        "kept": "share of labelled tokens that count",
    },
    settings={
        "chains": TRAIN,
        "passes": PASSES,
        "mask above": LIMIT,
        "LoRA": "rank 8, alpha 16, all linear layers",
    },
    limits="Each arm is trained at the rate that teaches it most; that of the token-safe mask is a tenth of the "
    "others', so that its "
    "smaller drift is that of a smaller training. Order is by the base model's mean surprisal within one family. Every "
    "arm sees every chain as often, never "
    "twice in "
    "one step.",
    prepare=prepare,
    run=run,
    rates=(1e-4, 3e-4, 1e-3),
    develop="nll_h",
    correction=Correction(
        claimed="A token-safe mask drifts more and learns less than a random mask and no mask (did not hold, five "
        "seeds); rising "
        "order and rhythm: open.",
        withdrawn="The verdicts on orders. They were judged on three held-out chains; rising and falling order saw 64 "
        "chains once "
        "with four consecutive copies each, the other arms 75 chains 3.4 times: other data, not another order. The "
        "largest effect "
        "of the table was left unsaid: massed repetition halved the drift.",
        stands="That the masked arm learns less: +1.2 nats of NLL on held-out text then. Its drift does not stand: it was 0.27 "
        "nats more at one rate for all; now, at the rate that teaches it most, a tenth of the others', it is less.",
    ),
)
