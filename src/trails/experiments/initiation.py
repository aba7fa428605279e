"""Experiment 15: are dialogues worth more after the school that is to come before them? The interaction of a 2 × 2 design.

The design is that of ``trails genome initiation`` (:mod:`trails.genome.initiation`): its cells, its value, its filling of what
is left out, its order of mismatches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

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
    Record,
    Scale,
    rows_digest,
)
from trails.experiments.bench import Bench, mean
from trails.experiments.corpus import Corpus
from trails.experiments.stages import pool_of
from trails.genome.initiation import CELLS, filled, first_mismatches
from trails.genome.shelf import TURNS
from trails.measure.base import Segmented
from trails.platform.arrays import Doubles
from trails.train.data import Row

SCHOOL = ("entailment-bank", "strategyqa", "gsm8k", "math500")
"""Stages of the school, in order: facts, common sense, arithmetic, mathematics; all written by people."""
DIALOGUES = ("gsm8k-attempts", "llm-math", "react")
"""What comes after the school: answers of models, and their talk with a tool."""
OTHER = ("ethics", "folio", "prontoqa")
"""Other reasoning text, which fills what is left out."""
STAGE, TRAIN, HELD, SPARE = 20, 56, 28, 9
"""Chains of every stage of the school, of the dialogues to train on and to hold out, and spare ones."""
MISMATCHES = 5
"""Dialogues that contradict themselves and come first."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Sources of the school in order, of the dialogues, and of the text that fills."""

    school: tuple[str, ...]
    dialogues: tuple[str, ...]
    other: tuple[str, ...]


def sources_of(corpus: Corpus) -> Sources:
    """Those that the corpus has of the named ones; where a part has none, the dialogues are the trained source, the school the
    first and the filling the last of the other sources of reasoning. Raises UsageError where these are fewer than two.
    """
    parts = [tuple(name for name in part if name in corpus.families) for part in (SCHOOL, DIALOGUES, OTHER)]
    if not all(parts):
        rest = [source for source in corpus.reasoning() if source != corpus.roles.trained]
        if len(rest) < 2:
            raise UsageError(
                "experiment initiation needs reasoning chains of three sources or more. Give others: --data PATH"
            )
        parts = [tuple(rest[:1]), (corpus.roles.trained,), tuple(rest[-1:])]
    return Sources(*parts)


def filler(bench: Bench, own: Sequence[Row], texts: Iterator[Row]) -> list[Row]:
    """For every row one of other texts, with as many tokens, and as many of them labelled: whole texts one after another, the
    last of them cut. Raises UsageError where the texts are too few.
    """
    found = []
    for row in own:
        size, taken = len(row["input_ids"]), [next(texts, None)]
        while taken[-1] is not None and sum(len(one["input_ids"]) for one in taken if one) < size:
            taken.append(next(texts, None))
        whole = [one for one in taken if one is not None]
        try:
            lengths = filled([len(one["input_ids"]) for one in whole], size)
        except ValueError as error:
            raise UsageError(
                f"the other text has {error} that take the place of a row. Give more: --data PATH"
            ) from None
        ids = [token for one, n in zip(whole, lengths, strict=True) for token in one["input_ids"][:n]]
        found.append(bench.ids_row(ids[row["offset"] :], ids[: row["offset"]], chain=whole[0]["chain"]))
    return found


def turn_of(row: Row, probe: Probe) -> float:
    """Largest mean surprisal of a step that contradicts (BUT, HOWEVER), nats; NaN without one."""
    first = len(row["input_ids"]) - len(probe.nll)
    means = [
        mean([probe.nll[max(span["start"] - first, 0) : span["end"] - first]])
        for span in row["step_spans"]
        if span["role"] in TURNS and span["end"] > first
    ]
    return max(means, default=float("nan"))


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """Rows of the four cells, equal in number and in tokens, and held-out dialogues that share no 13 tokens with them."""
    sources = sources_of(corpus)
    n_stage, n_train, n_held = scale.count(STAGE, 2), scale.count(TRAIN, 4), scale.count(HELD, 2)
    school = [
        bench.row(item, scale.max_tokens)
        for number, source in enumerate(sources.school)
        for item in _drawn(corpus.block(source, seed, n_stage)[:n_stage], seed, f"stage {number}")
    ]
    pool = pool_of(corpus, sources.dialogues, seed, n_train + n_held + scale.count(SPARE, 1))
    mixed = _drawn([item for part in pool for item in part], seed, "dialogues")
    dialogues = [bench.row(item, scale.max_tokens) for item in mixed[:n_train]]
    school = school[: len(school) // scale.batch * scale.batch]
    dialogues = dialogues[: len(dialogues) // scale.batch * scale.batch]
    others = _drawn([item for name in sources.other for item in corpus.families[name]], seed, "other")
    texts = (bench.row(item, scale.max_tokens) for item in others)
    instead = {name: filler(bench, rows, texts) for name, rows in (("stages", school), ("dialogues", dialogues))}
    again = [*filler(bench, school, texts), *filler(bench, dialogues, texts)]
    feeds: dict[str, Sequence[Row]] = {
        "both": [*school, *dialogues],
        "stages": [*school, *instead["dialogues"]],
        "dialogues": [*instead["stages"], *dialogues],
        "neither": [*instead["stages"], *instead["dialogues"]],
        "neither again": again,
        "mismatches anywhere": [*school, *dialogues],
    }
    fed = [row["input_ids"] for arm in ("both", "neither", "neither again") for row in feeds[arm]]
    held = bench.apart(mixed[n_train:], n_held, fed, scale.max_tokens)
    unrelated = bench.apart(corpus.unrelated(seed), scale.evaluate, fed, scale.max_tokens)
    if not held:
        raise UsageError("no dialogue is left to hold out. Give more: --data PATH")
    return Prepared(feeds, {"H": held, "D": unrelated}, {"school": len(school), "dialogues": dialogues})


def _drawn(items: Sequence[Segmented], seed: int, name: str) -> list[Segmented]:
    return [items[k] for k in generator(seed, "initiation", name).permutation(len(items)).tolist()]


def led_by_mismatches(rows: Sequence[Row], school: int, turn: Doubles) -> list[Row]:
    """The rows of a cell with the most surprising contradictions of its dialogues first, the others in their order."""
    first = first_mismatches(turn, MISMATCHES)
    rest = [k for k in range(len(turn)) if k not in set(first)]
    return [*rows[:school], *(rows[school + k] for k in (*first, *rest))]


def run(
    bench: Bench,
    prepared: Prepared,
    scale: Scale,
    seed: int,
    arms: Sequence[str],
    rates: Mapping[str, float],
    emit: Emit,
) -> None:
    """One seed: the four cells and their controls side by side. Raises UsageError where an order loses or doubles a row."""
    held, unrelated = list(prepared.sets["H"]), list(prepared.sets["D"])
    dialogues, school = prepared.extra["dialogues"], prepared.extra["school"]
    before = mean(p.nll for p in bench.probe(bench.model, held))
    drift = mean(p.nll for p in bench.probe(bench.model, unrelated))
    probes = bench.probe(bench.model, dialogues)
    turn = np.asarray([turn_of(row, probe) for row, probe in zip(dialogues, probes, strict=True)], np.float64)
    if "untrained" in arms:
        none = {"gain": 0.0, "damage": 0.0, "value": 0.0, "change_d": 0.0, "kl_d": 0.0}
        emit("untrained", none | {"nll_h": before, "mismatches": float(np.isfinite(turn).sum())}, {"tokens": 0})
    fed = [arm for arm in arms if arm in prepared.feeds]
    if not fed:
        return
    feeds: dict[str, list[Row]] = {}
    for arm in fed:
        feeds[arm] = list(prepared.feeds[arm])
        if arm in ("both", "dialogues"):
            feeds[arm] = led_by_mismatches(feeds[arm], school, turn)
        if rows_digest(feeds[arm]) != rows_digest(prepared.feeds[arm]):
            raise UsageError(f"arm {arm!r} would be fed other rows than the plan says for seed {seed}")
    steps = scale.n_steps(len(next(iter(feeds.values()))) // scale.batch)
    with bench.side_by_side(feeds, rates, bench.options(scale, steps, seed)) as (adapters, losses):
        found = bench.probe_each(adapters, held)
        moved = bench.probe_each(adapters, unrelated, compare=True)
    for arm, mine, other in zip(fed, found, moved, strict=True):
        after, change = mean(p.nll for p in mine), mean(p.nll for p in other) - drift
        metrics: Metrics = {
            "value": (before - after) - max(change, 0.0),
            "gain": before - after,
            "damage": max(change, 0.0),
            "nll_h": after,
            "change_d": change,
            "kl_d": mean(p.kl for p in other if p.kl is not None),
            "loss": losses[arm][-1],
        }
        emit(arm, metrics, {"tokens": sum(len(row["input_ids"]) for row in feeds[arm][: steps * scale.batch])})


def one_rate(rows: Sequence[Record]) -> Mapping[tuple[str, float], float]:
    """Minus the value of each rate, mean over the four cells: every arm takes the same rate, so that no interaction is one of
    rates.
    """
    by_rate: dict[float, list[float]] = {}
    for row in rows:
        if row["arm"] in CELLS:
            by_rate.setdefault(row["rate"], []).append(-float(row["metrics"]["value"]))
    means = {rate: float(np.mean(values)) for rate, values in by_rate.items()}
    return {(arm.name, rate): value for arm in EXPERIMENT.arms for rate, value in means.items()}


_DELTA, _ORDER = 0.03, 0.01


def _interaction(metric: str) -> tuple[Criterion, ...]:
    return (Criterion(metric, "both", "stages", "higher", delta=_DELTA, null=("dialogues", "neither")),)


EXPERIMENT = Experiment(
    name="initiation",
    number="15",
    title="Initiation",
    hypothesis="Dialogues are worth more after the school: what they add to a held-out dialogue, less what they damage, is "
    "more behind the stages that are to come before them than behind other reasoning text of as many tokens.",
    arms=(
        Arm("both", f"the school, then the dialogues, {MISMATCHES} that contradict themselves first", control=False),
        Arm("stages", "the school, then other reasoning text in the place of the dialogues"),
        Arm("dialogues", "other reasoning text in the place of the school, then the dialogues"),
        Arm("neither", "other reasoning text in both places"),
        Arm("neither again", "other reasoning text once more: the placebo"),
        Arm("mismatches anywhere", "the school, then the dialogues in random order"),
        Arm("untrained", "the model as it is", trained=False),
    ),
    claims=(
        Claim(
            "initiation",
            "Dialogues add more value behind the school than behind other reasoning text of as many tokens",
            _interaction("value"),
        ),
        Claim(
            "what is learnt",
            "Dialogues make held-out dialogues easier by more behind the school than behind other reasoning text of as many "
            "tokens",
            _interaction("gain"),
        ),
        Claim(
            "mismatches first",
            "Behind the school the dialogues have more value where those that contradict themselves come first than in random "
            "order",
            (Criterion("value", "both", "mismatches anywhere", "higher", delta=_ORDER),),
        ),
    ),
    positive=(Criterion("gain", "dialogues", "neither", "higher", delta=_DELTA),),
    placebo=(Criterion("value", "neither again", "neither", "higher", delta=_DELTA),),
    same_rows=(("both", "mismatches anywhere"),),
    metrics={
        "value": "gain on held-out dialogues minus damage to unrelated text, nats per token",
        "gain": "fall of NLL on held-out dialogues, nats per token",
        "damage": "rise of NLL on unrelated text, 0 where it falls, nats per token",
        "nll_h": "NLL on held-out dialogues, nats per token",
        "change_d": "change of NLL on unrelated text, positive = forgotten",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
        "mismatches": "dialogues trained on that contradict themselves",
        "loss": "loss of the last step",
    },
    settings={
        "school": ", ".join(SCHOOL),
        "dialogues": ", ".join(DIALOGUES),
        "other reasoning text": ", ".join(OTHER),
        "chains of each stage of the school": STAGE,
        "dialogues to train on": TRAIN,
        "held out": HELD,
        "interaction": "(both - stages) - (dialogues - neither), in nats, as trails genome initiation gives it",
        "filling": "row by row as many tokens, as many of them labelled: all cells have the same steps",
        "learning rate": "one for all cells, the best for their mean value",
        "LoRA": "rank 8, alpha 16, all linear layers",
        "cost": "estimated, not measured: 25 s for a seed on an H200 that six processes share, 200 s for the development, the "
        "plan and 20 seeds",
    },
    limits="One pass over a small school and few dialogues; a ceiling or a floor of one cell makes an interaction, so the four "
    "means are to be looked at. Behind a school that resembles the dialogues less is left to learn from them, which works "
    "against the claim. Dialogues are answers of models and their talk with a tool, not talk between people. Every stage of "
    "the school counts with as many chains, and the last steps are always those of the dialogues or of what stands for them.",
    prepare=prepare,
    run=run,
    rates=(3e-4, 1e-3, 3e-3),
    develop=one_rate,
    developed="minus `value`, mean over the four cells, so that all arms have one rate",
    looks=(20,),
)
