"""Experiment 10: are trained tracks cheap paths, beyond what their frequency explains?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from trails.experiments.base import Arm, Claim, Criterion, Emit, Experiment, Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import Corpus, disjoint, generator
from trails.train.data import Row

STEPS = 48
TRAIN = 24
READ = 24
GRAM = 3
LEAST_PAIRS = 20

Grams = Counter[tuple[int, ...]]


def count_grams(rows: Sequence[Sequence[int]], n: int = GRAM) -> Grams:
    """How often each n-gram occurs in the rows."""
    found: Grams = Counter()
    for ids in rows:
        found.update(tuple(ids[i - n + 1 : i + 1]) for i in range(n - 1, len(ids)))
    return found


def matched_paths(
    texts: Sequence[Sequence[int]],
    nll: Sequence[Sequence[float]],
    trained: Grams,
    reference: Grams,
    seed: int,
    n: int = GRAM,
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Pairs (row, position) of a trained and an untrained path in new text.

    A path is the n-gram that ends at a position. Trained: it occurs in the training rows. Untrained: it does not, but occurs
    equally often in the reference chains (same count up to 8, then same power of two) and is about as easy for the base (same
    half nat of surprisal). Every position is used once. ``nll[row][t]`` is the base's surprisal of position t.
    """
    cells: dict[tuple[int, int], tuple[list[tuple[int, int]], list[tuple[int, int]]]] = {}
    for row, ids in enumerate(texts):
        for t in range(n - 1, len(ids)):
            path = tuple(ids[t - n + 1 : t + 1])
            count = reference.get(path, 0)
            if not count:
                continue
            level = count if count <= 8 else 6 + int(math.log2(count))
            cell = cells.setdefault((level, int(nll[row][t] / 0.5)), ([], []))
            cell[0 if path in trained else 1].append((row, t))
    pairs = []
    draw = generator(seed, "paths")
    for key in sorted(cells):
        yes, no = cells[key]
        size = min(len(yes), len(no))
        a, b = draw.permutation(len(yes))[:size], draw.permutation(len(no))[:size]
        pairs += [(yes[i], no[j]) for i, j in zip(a.tolist(), b.tolist(), strict=True)]
    return pairs


def run(bench: Bench, corpus: Corpus, scale: Scale, seed: int, arms: Sequence[str], emit: Emit) -> None:
    """One seed: training chains, new chains and reference chains drawn from one family."""
    family = corpus.family(corpus.roles.trained, seed)
    third = max(1, len(family) // 3)
    n_train, n_new = min(scale.count(TRAIN, 3), third), min(scale.count(READ, 3), third)
    rows = [bench.row(item, scale.max_tokens, question=False) for item in family]
    train = rows[:n_train]
    apart = disjoint([row["input_ids"] for row in rows[n_train:]], [row["input_ids"] for row in train])
    others = [rows[n_train + i] for i in apart]
    new, reference = others[:n_new], others[n_new:]
    texts = [row["input_ids"] for row in new]
    before = bench.probe(bench.model, new)
    pairs = matched_paths(
        texts,
        [[math.nan, *probe.nll.tolist()] for probe in before],
        count_grams([row["input_ids"] for row in train]),
        count_grams([row["input_ids"] for row in reference]),
        seed,
    )
    tokens = sum(len(row["input_ids"]) for row in train)
    drawn: dict[str, list[Row]] = {
        "tracks": list(train),
        "shuffled steps": [shuffled_steps(row, seed + i) for i, row in enumerate(train)],
        "unrelated": _as_long([bench.row(item, scale.max_tokens) for item in corpus.unrelated(seed)], tokens),
    }
    steps = scale.n_steps(STEPS)
    for arm in arms:
        feed = drawn[arm]
        order = generator(seed, "feed").permutation(len(feed)).tolist()
        with bench.trained([feed[i] for i in order], bench.options(scale, steps, seed)) as (model, losses):
            after = bench.probe(model, new, compare=True)
        metrics = {"loss": losses[-1], "pairs": float(len(pairs))}
        metrics["kl_h"] = float(np.mean(np.concatenate([p.kl for p in after if p.kl is not None])))
        for measure in ("nll", "entropy"):
            moved = [getattr(a, measure) - getattr(b, measure) for a, b in zip(after, before, strict=True)]
            yes = [float(moved[row][t - 1]) for (row, t), _ in pairs]
            no = [float(moved[row][t - 1]) for _, (row, t) in pairs]
            enough = len(pairs) >= LEAST_PAIRS
            metrics[f"{measure}_trained_paths"] = float(np.mean(yes)) if enough else math.nan
            metrics[f"{measure}_other_paths"] = float(np.mean(no)) if enough else math.nan
            metrics[f"{measure}_advantage"] = float(np.mean(yes) - np.mean(no)) if enough else math.nan
        emit(arm, metrics, {"tokens": sum(len(row["input_ids"]) for row in feed)})


def shuffled_steps(row: Row, seed: int) -> Row:
    """The row with its steps in another order: the same tokens, another walk. The first token is never a label."""
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


def _as_long(rows: Sequence[Row], tokens: int) -> list[Row]:
    """Leading rows, again from the first where they end, until they hold ``tokens`` tokens."""
    found: list[Row] = []
    total = 0
    while total < tokens and rows:
        row = rows[len(found) % len(rows)]
        found.append(row)
        total += len(row["input_ids"])
    return found


EXPERIMENT = Experiment(
    name="cheap-paths",
    number="10",
    title="Cheap paths",
    hypothesis="After training, new text is cheaper (lower surprisal and entropy) along paths of the trained tracks than along "
    "paths that are equally frequent in the family and equally easy for the base, but were not trained.",
    arms=(
        Arm("tracks", "the track chains as they are", control=False),
        Arm("shuffled steps", "the same chains with their steps in random order"),
        Arm("unrelated", "unrelated text with as many tokens: what the same paths do without being trained"),
    ),
    claims=(
        Claim(
            "cheap",
            "Surprisal and entropy fall more along trained paths than along equally frequent untrained ones",
            (
                Criterion("nll_advantage", "tracks", "", "lower"),
                Criterion("nll_advantage", "tracks", "unrelated", "lower"),
                Criterion("entropy_advantage", "tracks", "", "lower"),
                Criterion("entropy_advantage", "tracks", "unrelated", "lower"),
            ),
        ),
        Claim(
            "order",
            "The order of the steps matters: trained paths are cheaper after the tracks than after their shuffled steps",
            (Criterion("nll_advantage", "tracks", "shuffled steps", "lower"),),
        ),
    ),
    metrics={
        "nll_trained_paths": "change of surprisal at the end of trained paths in new text, nats",
        "nll_other_paths": "the same for matched untrained paths",
        "nll_advantage": "difference of the two, negative = trained paths became cheaper",
        "entropy_trained_paths": "change of entropy before the last token of trained paths, nats",
        "entropy_other_paths": "the same for matched untrained paths",
        "entropy_advantage": "difference of the two",
        "pairs": "matched pairs of paths",
        "kl_h": "KL(base ‖ trained) on the new text, nats per token",
    },
    settings={
        "steps": STEPS,
        "track chains": TRAIN,
        "new chains": READ,
        "path": f"{GRAM} tokens",
        "matched on": "count in reference chains (exact up to 8, then power of two) and half nats of base surprisal",
        "learning rate": 1e-3,
    },
    limits="Paths of three tokens; what a longer path does is not seen. Frequencies come from the rest of the same family.",
    run=run,
)
