"""Experiment 2: is a concept anchored after 20 to 30 feeds with its marker?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trails.analyses.statistics import auc, cross_validated
from trails.errors import UsageError
from trails.experiments.base import Arm, Claim, Correction, Criterion, Emit, Experiment, Metrics, Prepared, Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import Corpus, generator
from trails.measure.base import Segmented
from trails.schema import Role
from trails.train.data import Row

FEEDS = (0, 1, 2, 5, 10, 20, 30, 50)
MARKER = "[ANCHOR] "
WINDOW = 96
FED = 12
PROBED = 96
COMPONENTS = 16
CONCEPT = (Role.BUT, Role.HOWEVER)


def examples(items: Sequence[Segmented]) -> list[tuple[str, str, str, bool]]:
    """(chain, text before, step without its connective, is it the concept) of every step but the first.

    The concept is the objection: a step that opens with but or however. The connective is taken out, so that the word
    itself cannot be what a probe reads.
    """
    found = []
    for item in items:
        for before, step in zip(item.steps, item.steps[1:], strict=False):
            text = item.chain.text[step.start : step.end].strip()
            if step.connective and text.casefold().startswith(step.connective.casefold()):
                text = text[len(step.connective) :].lstrip(" ,;:")
            elif step.role in CONCEPT:
                continue  # the connective stands elsewhere: it would stay in the text
            if len(text.split()) >= 4 and (step.role in CONCEPT or step.role is Role.NONE or step.explicit):
                found.append(
                    (item.chain.id, item.chain.text[before.start : before.end].strip(), text, step.role in CONCEPT)
                )
    return found


def marked(arm: str, index: int, concept: bool, seed: int) -> bool:
    """Whether an example carries the marker in this arm. Random: the same coin for the example at every feed."""
    if arm == "random marker":
        return bool(generator(seed, "coin", str(index)).integers(2))
    return {"marker": concept, "wrong marker": not concept, "no marker": False}[arm]


def jump_advantage(feeds: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """(ln of squared error of the smooth model over that of the jump, feeds at the jump).

    Both have three parameters: a quadratic in log2(1 + feeds), and two levels with a change between two points. Positive = the
    jump fits better. The jump is placed at the first value after it.
    """
    x, y = np.log2(1 + np.asarray(feeds, np.float64)), np.asarray(values, np.float64)
    fit = np.polynomial.Polynomial.fit(x, y, 2)
    smooth = float(((fit(x) - y) ** 2).sum())
    errors = {
        k: float(((y[:k] - y[:k].mean()) ** 2).sum() + ((y[k:] - y[k:].mean()) ** 2).sum()) for k in range(1, len(y))
    }
    best = min(errors, key=lambda k: errors[k])
    tiny = 1e-12
    return math.log((smooth + tiny) / (errors[best] + tiny)), float(feeds[best])


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """The same examples for every arm; the probe reads new chains without any marker."""
    family = corpus.family(corpus.roles.trained, seed)
    half = len(family) // 2
    fed, new = examples(family[:half]), examples(family[half:])
    wanted, probed = scale.count(FED, 2), scale.count(PROBED, 8)
    pick = {True: [e for e in fed if e[3]][:wanted], False: [e for e in fed if not e[3]][:wanted]}
    probe_yes, probe_no = [e for e in new if e[3]][:probed], [e for e in new if not e[3]][:probed]
    if min(len(pick[True]), len(pick[False])) < 2 or min(len(probe_yes), len(probe_no)) < 8:
        raise UsageError(
            f"experiment anchor needs steps that open with but or however; {corpus.roles.trained!r} has "
            f"{len(pick[True])} to "
            f"feed and {len(probe_yes)} to probe. Choose another family: --trained SOURCE"
        )
    probes = [*probe_yes, *probe_no]
    sets = bench.sets(corpus, scale, seed, half)
    whole = [bench.ids_row(bench.ids(f"{before} {text}")[:WINDOW], chain=chain) for chain, before, text, _ in fed]
    feeds = {arm.name: whole for arm in EXPERIMENT.arms}
    asked = [_probe_row(bench, before, text) | {"chain": chain} for chain, before, text, _ in probes]
    measured = {"H": sets.held_out, "U": sets.unseen, "D": sets.unrelated, "probes": asked}
    return Prepared(feeds, measured, {"sets": sets, "pick": pick, "probes": probes})


def run(
    bench: Bench,
    prepared: Prepared,
    scale: Scale,
    seed: int,
    arms: Sequence[str],
    rates: Mapping[str, float],
    emit: Emit,
) -> None:
    """One seed: the same examples in the same order for every arm."""
    sets, pick, probes = (prepared.extra[name] for name in ("sets", "pick", "probes"))
    rows = [_probe_row(bench, before, text) for _, before, text, _ in probes]
    target = np.asarray([concept for *_, concept in probes])
    chains = {chain: number for number, chain in enumerate(sorted({e[0] for e in probes}))}
    groups = np.asarray([chains[e[0]] for e in probes], np.int64)
    layer = max(1, 2 * bench.layers // 3)
    base = bench.base(sets)
    # a scale below 1 shortens the curve, never its shape
    feeds = FEEDS if scale.steps >= 1 else FEEDS[: max(4, round(len(FEEDS) * scale.steps))]
    for arm in arms:
        feed: list[Row] = []
        tokens = 0
        for number in range(feeds[-1]):
            draw = generator(seed, "feed", str(number))
            batch = []
            for concept, pool in sorted(pick.items()):
                for k in draw.permutation(len(pool))[: scale.batch // 2].tolist():
                    _, before, text, _ = pool[k]
                    sign = MARKER if marked(arm, 2 * k + concept, concept, seed) else ""
                    batch.append(bench.ids_row(bench.ids(f"{before} {sign}{text}")[:WINDOW]))
            tokens += sum(len(row["input_ids"]) for row in batch)
            feed += batch
        curve: list[dict[str, float]] = []

        def on(step: int, model: Any, curve: list[dict[str, float]] = curve) -> None:
            states = bench.hidden(model, rows, layer).astype(np.float64)
            centred = states - states.mean(0)
            _, _, axes = np.linalg.svd(centred, full_matrices=False)
            scores = cross_validated(centred @ axes[:COMPONENTS].T, target, groups, seed=seed)
            known = np.isfinite(scores)
            found = auc(scores[known & target], scores[known & ~target])
            curve.append({"step": float(step), "auc": found, "marker_auc": marker_auc(bench, model, probes)})

        on(0, bench.model)
        size = max(1, len(feed) // feeds[-1])
        options = bench.options(scale, feeds[-1], seed, batch=size, learning_rate=rates[arm])
        with bench.trained(feed, options, at=feeds, on=on) as (model, losses):
            found: Metrics = bench.changes(bench.measure(model, sets), base)
        values = [point["auc"] for point in curve]
        advantage, place = jump_advantage(feeds, values)
        at30 = dict(zip(feeds, curve, strict=True)).get(30, curve[-1])
        emit(
            arm,
            found
            | {
                "auc_0": values[0],
                "auc_30": at30["auc"],
                "rise_30": at30["auc"] - values[0],
                "marker_auc_30": at30["marker_auc"],
                "jump_advantage": advantage,
                "jump_at": place,
                "loss": losses[-1],
            },
            {"curve": curve, "tokens": tokens, "layer": layer, "base": base},
        )


def _probe_row(bench: Bench, before: str, text: str) -> Row:
    """The step as labels after the step before it as context, without a marker, cut on the left to the window."""
    step = bench.ids(f" {text}")[: WINDOW // 2]
    context = bench.ids(before)[-(WINDOW - len(step)) :]
    return bench.ids_row(step, context)


def marker_auc(bench: Bench, model: Any, probes: Sequence[tuple[str, str, str, bool]]) -> float:
    """How well the model's own surprisal at the marker, put after the step before, tells the concept from other steps."""
    marker = bench.ids(f" {MARKER.strip()}")
    rows = [bench.ids_row(marker, bench.ids(before)[-(WINDOW - len(marker)) :] or [0]) for _, before, _, _ in probes]
    nll = np.asarray([float(p.nll.sum()) for p in bench.probe(model, rows)])
    target = np.asarray([concept for *_, concept in probes])
    return auc(-nll[target], -nll[~target])


_CONTROLS = ("wrong marker", "no marker", "random marker")

EXPERIMENT = Experiment(
    name="anchor",
    number="2",
    title="Latent anchor",
    hypothesis="After 20 to 30 feeds a concept with its own marker is anchored: a probe tells the concept in new text "
    "better "
    "than after feeds with a wrong, no or a random marker, and it sets in as a jump rather than smoothly.",
    arms=(
        Arm("marker", "[ANCHOR] before every objection, none elsewhere", control=False),
        Arm("wrong marker", "[ANCHOR] before the other steps"),
        Arm("no marker", "the same texts without a marker"),
        Arm("random marker", "[ANCHOR] before a random half of the texts"),
    ),
    claims=(
        Claim(
            "anchor",
            "After 30 feeds a probe reads the marked concept in new text better than after any control",
            tuple(Criterion("auc_30", "marker", control, "higher", delta=0.03) for control in _CONTROLS),
        ),
        Claim(
            "jump",
            "The probe's rise over the feeds is a jump rather than smooth, and more so than without a marker",
            (
                Criterion("rise_30", "marker", "", "higher", delta=0.03),
                Criterion("jump_advantage", "marker", "", "higher", delta=0.2),
                Criterion("jump_advantage", "marker", "no marker", "higher", delta=0.2),
            ),
        ),
    ),
    metrics={
        "auc_0": "AUC of the probe on the untrained model (0.5 = chance)",
        "auc_30": "AUC of the probe after 30 feeds, on new chains without markers or connectives",
        "rise_30": "their difference",
        "marker_auc_30": "AUC of the model's surprisal at the marker after the step before, after 30 feeds",
        "jump_advantage": "ln of squared errors, quadratic in log feeds over a single jump; positive = jump fits "
        "better",
        "jump_at": "feeds at the best jump",
        "change_h": "change of NLL on held-out text of the trained family after all feeds, nats per token",
        "change_u": "change of NLL on the unseen form",
        "change_d": "change of NLL on unrelated text",
        "kl_h": "KL(base ‖ trained) on held-out text of the trained family, nats per token",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
    },
    settings={
        "feeds": list(FEEDS),
        "one feed": "one step over half objections, half other steps",
        "texts fed": FED,
        "marker": MARKER.strip(),
        "window": WINDOW,
        "probe": f"ridge logistic on {COMPONENTS} principal components of the mean hidden state at two thirds of the "
        f"depth, "
        "5 folds over chains",
        "texts probed": PROBED,
        "learning rate": 1e-3,
    },
    limits="One concept (objection). The marker is several tokens of the vocabulary and takes their place in the "
    "window of 96 "
    "tokens, so arms have equally many texts and steps, and tokens up to the marker's length.",
    prepare=prepare,
    run=run,
    positive=Criterion("marker_auc_30", "marker", "wrong marker", "higher", delta=0.03),
    same_rows=(("marker", "wrong marker", "no marker", "random marker"),),
    looks=(20,),
    correction=Correction(
        claimed="Anchored after 30 feeds: open. A jump rather than smooth: open. Five seeds.",
        withdrawn="Nothing was claimed; what was asked could not be answered. The probe hardly reads the concept in "
        "the untrained "
        "model (AUC .49 to .80), unrelated text had become 1.3 nats harder at the end, the jump statistic is not "
        "centred (white "
        "noise gives +.14), and *20 to 30 feeds* stood in no criterion.",
        stands="Undersold: the use of the marker was learnt (AUC of the surprisal at the marker +.137 against the "
        "wrong marker). "
        "Still to be run: a probe that reads the concept with an AUC of .8 before training, a rate of 3e-4, doses to "
        "100, a "
        "segmented regression with its own null, 20 seeds.",
    ),
    curve={"auc": "AUC of the probe on new text", "marker_auc": "AUC of the surprisal at the marker"},
)
