"""Experiment 10: are trained tracks cheap paths? A crossover: paths of one half against paths of the other, in a third part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

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
)
from trails.experiments.bench import Bench
from trails.experiments.corpus import Corpus, disjoint
from trails.train.data import Row

TRAIN = 128
READ = 320
PASSES = 2
GRAM = 3
LEAST_PATHS = 20
WINDOW = 16

Place = tuple[int, int]
HALVES = ("A", "B")


def grams_of(rows: Sequence[Row], n: int = GRAM) -> set[tuple[int, ...]]:
    """All n-grams of the rows' tokens."""
    return {tuple(row["input_ids"][i : i + n]) for row in rows for i in range(len(row["input_ids"]) - n + 1)}


def paths_of(
    texts: Sequence[Row], a: set[tuple[int, ...]], b: set[tuple[int, ...]], n: int = GRAM
) -> dict[str, list[Place]]:
    """(row, position) of the last token of every path in the texts that only ``a`` has, and of those that only ``b`` has."""
    found: dict[str, list[Place]] = {"A": [], "B": []}
    for number, row in enumerate(texts):
        ids = row["input_ids"]
        for t in range(n - 1, len(ids)):
            path = tuple(ids[t - n + 1 : t + 1])
            if (path in a) != (path in b):
                found["A" if path in a else "B"].append((number, t))
    return found


def another_walk(row: Row, seed: int) -> Row:
    """The row with its steps in another order: the same tokens, another walk. Every token but the first is a label.

    :func:`trails.train.data.shuffled_steps` keeps the labels of the row and draws otherwise; the digests of this
    experiment's rows in its registered plan are those of this function.
    """
    spans = [(span["start"], span["end"]) for span in row["step_spans"]]
    order = np.random.default_rng(seed).permutation(len(spans)).tolist()
    if len(spans) > 1 and order == sorted(order):
        order = order[::-1]
    ids = [row["input_ids"][i] for k in order for i in range(*spans[k])]
    labels = [-100, *ids[1:]]
    return row | {
        "input_ids": ids,
        "labels": labels,
        "loss_weights": [float(label != -100) for label in labels],
        "step_spans": [{"step": 0, "start": 0, "end": len(ids), "role": "NONE"}],
    }


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """Two halves to train on and a third part to read, of one family, all disjoint and without a common 13-gram."""
    source = corpus.roles.trained
    third = max(2, len(corpus.families[source]) // 3)
    n_train, n_read = min(scale.count(TRAIN, 3), third), min(scale.count(READ, 3), third)
    rows = [
        bench.row(item, scale.max_tokens, question=False) for item in corpus.block(source, seed, 2 * n_train + n_read)
    ]
    halves = {"A": rows[:n_train], "B": rows[n_train : 2 * n_train]}
    fed = [row["input_ids"] for half in halves.values() for row in half]
    rest = rows[2 * n_train :]
    texts = [rest[i] for i in disjoint([row["input_ids"] for row in rest[: 2 * n_read]], fed)][:n_read]
    paths = paths_of(texts, grams_of(halves["A"]), grams_of(halves["B"]))
    draw = generator(seed, "feed")
    order = [k for _ in range(PASSES) for k in draw.permutation(n_train).tolist()]
    feeds: dict[str, list[Row]] = {}
    for half, chosen in halves.items():
        moved = [another_walk(row, seed + i) for i, row in enumerate(chosen)]
        feeds[f"tracks {half}"] = [chosen[k] for k in order]
        feeds[f"shuffled {half}"] = [moved[k] for k in order]
    windows = [_window(bench, texts[row], t) for row, t in paths["A"]] or [texts[0]]
    feeds["planted A"] = [windows[k % len(windows)] for k in range(len(order))]
    sets = {"H": texts, "paths of A": _marked(texts, paths["A"]), "paths of B": _marked(texts, paths["B"])}
    return Prepared(feeds, sets, {"paths": paths, "texts": texts})


def _window(bench: Bench, row: Row, end: int) -> Row:
    return bench.ids_row(row["input_ids"][max(end + 1 - WINDOW, 0) : end + 1], chain=row["chain"])


def _marked(texts: Sequence[Row], places: Sequence[Place]) -> list[Row]:
    """The texts that hold the places, with those places alone as labels."""
    by_row: dict[int, set[int]] = {}
    for row, t in places:
        by_row.setdefault(row, set()).add(t)
    return [
        texts[row] | {"labels": [i if t in at else -100 for t, i in enumerate(texts[row]["input_ids"])]}
        for row, at in sorted(by_row.items())
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
    """One seed: all arms side by side."""
    texts, paths = prepared.extra["texts"], prepared.extra["paths"]
    before = bench.probe(bench.model, texts)
    feeds = {arm: prepared.feeds[arm] for arm in arms}
    steps = scale.n_steps(len(next(iter(feeds.values()))) // scale.batch)
    halves = {half: _split(places, seed, half) for half, places in paths.items()}
    with bench.side_by_side(feeds, rates, bench.options(scale, steps, seed)) as (adapters, losses):
        found = bench.probe_each(adapters, texts, compare=True)
    for arm, after in zip(arms, found, strict=True):
        own = arm[-1]
        other = HALVES[own == "A"]
        metrics: Metrics = {"loss": losses[arm][-1], "paths": float(len(paths[own]))}
        metrics["kl_h"] = float(np.mean(np.concatenate([p.kl for p in after if p.kl is not None])))
        metrics["nll_h"] = float(np.mean(np.concatenate([p.nll for p in after])))
        enough = min(len(paths["A"]), len(paths["B"])) >= LEAST_PATHS
        for measure in ("nll", "entropy"):
            moved = [getattr(a, measure) - getattr(b, measure) for a, b in zip(after, before, strict=True)]
            metrics[f"{measure}_own"] = _at(moved, paths[own]) if enough else math.nan
            metrics[f"{measure}_other"] = _at(moved, paths[other]) if enough else math.nan
            metrics[f"{measure}_advantage"] = metrics[f"{measure}_own"] - metrics[f"{measure}_other"]
            if measure == "nll":
                one, two = halves[own]
                metrics["nll_placebo"] = _at(moved, one) - _at(moved, two) if enough else math.nan
        emit(arm, metrics, {"tokens": sum(len(row["input_ids"]) for row in feeds[arm][: steps * scale.batch])})


def _split(places: Sequence[Place], seed: int, name: str) -> tuple[list[Place], list[Place]]:
    """Two random halves, whole texts to one side: the places of one text hang together."""
    rows = sorted({row for row, _ in places})
    drawn = generator(seed, "placebo", name).permutation(len(rows))
    first = {rows[k] for k in drawn[: len(rows) // 2].tolist()}
    return [p for p in places if p[0] in first], [p for p in places if p[0] not in first]


def _at(moved: Sequence[Any], places: Sequence[Place]) -> float:
    return float(np.mean([float(moved[row][t - 1]) for row, t in places])) if places else math.nan


def derive(records: Mapping[str, Record]) -> dict[str, Metrics]:
    """The crossover: what a half's own paths gain over the other half's, averaged over training on either half. The texts, the
    paths and their difficulty are the same on both sides and cancel.
    """
    found: dict[str, Metrics] = {arm: {} for arm in records}
    for name in ("tracks", "shuffled"):
        pair = [records[f"{name} {half}"]["metrics"] for half in HALVES]
        for metric in ("nll_advantage", "entropy_advantage", "nll_own", "nll_placebo"):
            values = [math.nan if one[metric] is None else float(one[metric]) for one in pair]
            found[f"{name} A"][f"{metric}_both"] = float(np.mean(values))
    return found


EXPERIMENT = Experiment(
    name="cheap-paths",
    number="10",
    title="Cheap paths",
    hypothesis="After training, new text is cheaper (lower surprisal and entropy) along paths of the trained tracks "
    "than along "
    "paths of other tracks of the same family that were not trained, and cheaper than before the training.",
    arms=(
        Arm("tracks A", "half A of the chains as they are", control=False),
        Arm("tracks B", "half B of the chains as they are", control=False),
        Arm("shuffled A", "half A with the steps of every chain in random order"),
        Arm("shuffled B", "half B with the steps of every chain in random order"),
        Arm("planted A", f"positive control: windows of {WINDOW} tokens of the read texts that end at a path of A"),
    ),
    claims=(
        Claim(
            "cheaper than untrained paths",
            "Surprisal and entropy fall more along the paths of the trained half than along those of the other half",
            (
                Criterion("nll_advantage_both", "tracks A", "", "lower", delta=0.05),
                Criterion("entropy_advantage_both", "tracks A", "", "lower", delta=0.02),
            ),
        ),
        Claim(
            "falls",
            "New text becomes cheaper along trained paths than it was for the untrained model",
            (Criterion("nll_own_both", "tracks A", "", "lower", delta=0.05),),
        ),
        Claim(
            "order",
            "Trained paths gain more after the tracks than after the same chains with shuffled steps",
            (Criterion("nll_advantage_both", "tracks A", "shuffled A", "lower", delta=0.05),),
        ),
    ),
    positive=(Criterion("nll_advantage", "planted A", "", "lower", delta=0.05),),
    placebo=(Criterion("nll_placebo_both", "tracks A", "", "lower", delta=0.05),),
    metrics={
        "nll_own": "change of surprisal at the end of paths that only the arm's half has, nats",
        "nll_other": "the same for paths that only the other half has",
        "nll_advantage": "difference of the two, negative = the arm's own paths became cheaper",
        "nll_advantage_both": "mean of the differences of the two halves: the crossover",
        "nll_own_both": "mean change at own paths over the two halves",
        "entropy_own": "change of entropy before the last token of own paths, nats",
        "entropy_other": "the same for the other half's paths",
        "entropy_advantage": "difference of the two",
        "entropy_advantage_both": "mean of the differences of the two halves: the crossover",
        "nll_placebo": "difference between two random halves of the own paths, whole texts to one side",
        "nll_placebo_both": "its mean over the two halves",
        "paths": "paths that only the arm's half has, in the texts read",
        "nll_h": "NLL of the texts read, nats per token",
        "kl_h": "KL(base ‖ trained) on the texts read, nats per token",
    },
    settings={
        "chains of each half": TRAIN,
        "texts read": READ,
        "passes": PASSES,
        "path": f"{GRAM} tokens",
        "LoRA": "rank 8, alpha 16, all linear layers",
    },
    limits="Paths of three tokens; what a longer path does is not seen. Many of them are parts of stock phrases: a "
    "path that one "
    "half has and the other has not is what the family's phrases and its numbers give.",
    prepare=prepare,
    run=run,
    rates=(1e-4, 3e-4, 1e-3),
    develop="nll_h",
    derive=derive,
    correction=Correction(
        claimed="Trained paths are cheaper than equally frequent untrained ones in new text (held: −0.98 nats of "
        "surprisal, "
        "−0.22 of entropy, five seeds).",
        withdrawn="The whole verdict. *Equally frequent* was counted in 7–13 reference chains; in independent text the "
        "trained "
        "paths are 1.5 to 2 times as frequent, stock phrases against content. And no criterion compared with the "
        "untrained "
        "model: the surprisal of trained paths did not fall (+0.04 nats), that of the others rose.",
        stands="Nothing of it on its own; the experiment below replaces it: a crossover in which both kinds of path "
        "are read in "
        "the same texts and exchange their roles.",
    ),
)
