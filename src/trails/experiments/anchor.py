"""Experiment 2: is a concept anchored after 20 to 30 feeds with its marker?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from trails.analyses.statistics import auc, cross_validated, generator
from trails.errors import UsageError
from trails.evaluate.probe import Probe
from trails.experiments.base import Arm, Claim, Correction, Criterion, Emit, Experiment, Metrics, Prepared, Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import Corpus
from trails.measure.base import Segmented
from trails.schema import Role
from trails.train.data import Row
from trails.train.many import Adapters

FEEDS = (0, 2, 5, 10, 20, 30, 40, 60, 80, 100)
MARKED = (0, 30, 100)
"""Feeds after which the surprisal at the marker is read."""
MARKER = "[ANCHOR] "
WINDOW = 96
FED = 48
PROBED = 128
COMPONENTS = 16
CONCEPT = (Role.BECAUSE,)
DRAWS = 20_000
PLAIN = "connectives kept"


def examples(items: Sequence[Segmented], *, kept: bool = False) -> list[tuple[str, str, str, bool]]:
    """(chain, text before, step without its connective, is it the concept) of every step but the first; with the connective
    where it is to be ``kept``.

    The concept is the reason: a step that opens with because, since and the like. The connective is taken out, so that the
    word itself cannot be what a probe reads.
    """
    found = []
    for item in items:
        for before, step in zip(item.steps, item.steps[1:], strict=False):
            text = whole = item.chain.text[step.start : step.end].strip()
            if step.connective and text.casefold().startswith(step.connective.casefold()):
                text = text[len(step.connective) :].lstrip(" ,;:")
            elif step.role in CONCEPT:
                continue  # the connective stands elsewhere: it would stay in the text
            if len(text.split()) >= 4 and (step.role in CONCEPT or step.role is Role.NONE or step.explicit):
                before_text = item.chain.text[before.start : before.end].strip()
                found.append((item.chain.id, before_text, whole if kept else text, step.role in CONCEPT))
    return found


def marked(arm: str, index: int, concept: bool, seed: int) -> bool:
    """Whether an example carries the marker in this arm. Random: the same coin for the example at every feed."""
    if arm == "random marker":
        return bool(generator(seed, "coin", str(index)).integers(2))
    return {"marker": concept, "wrong marker": not concept}.get(arm, False)


def jump_of(feeds: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """(how much an upward jump adds to a smooth course, in standard deviations of its own null; feeds at the jump).

    A segmented regression: a quadratic in log2(1 + feeds), and a change of level at one of the values but the first two and the
    last two. The statistic is the largest t of that change over the places; its null is normal noise, whatever the quadratic
    and the size of the noise, so that it is 0 on average for every smooth course. NaN for a curve without noise.
    """
    y = np.asarray(values, np.float64)
    (found,), (place,) = _jumps(tuple(feeds), y[None])
    mean, sd = _null(tuple(feeds))
    return (float((found - mean) / sd), float(feeds[int(place)])) if math.isfinite(found) else (math.nan, math.nan)


def _jumps(feeds: tuple[int, ...], curves: Any) -> tuple[Any, Any]:
    """Largest t of an upward change of level of every curve (C, n), and where it is: the first value after it."""
    n = len(feeds)
    x = np.log2(1 + np.asarray(feeds, np.float64))
    q, _ = np.linalg.qr(np.stack([np.ones(n), x, x * x], 1))
    left = curves - (curves @ q) @ q.T
    places = np.arange(2, n - 1)
    steps = (np.arange(n) >= places[:, None]).astype(np.float64)
    steps = steps - (steps @ q) @ q.T
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    change = left @ steps.T  # (C, places)
    whole = (left**2).sum(1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = change / np.sqrt(np.maximum(whole - change**2, 0) / max(n - 4, 1))
    t[whole[:, 0] < 1e-18] = np.nan
    return t.max(1), places[np.argmax(t, 1)]


@cache
def _null(feeds: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of the statistic for noise alone."""
    found, _ = _jumps(feeds, np.random.default_rng(0).normal(size=(DRAWS, len(feeds))))
    return float(found.mean()), float(found.std())


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """The same examples for every arm but the positive control; the probe reads new chains without any marker."""
    wanted, probed = scale.count(FED, 2), scale.count(PROBED, 8)
    family = corpus.family(corpus.roles.trained, seed)
    half = len(family) // 2
    fed, new = examples(family[:half]), examples(family[half:])
    pick = {True: [e for e in fed if e[3]][:wanted], False: [e for e in fed if not e[3]][:wanted]}
    probe_yes, probe_no = [e for e in new if e[3]][:probed], [e for e in new if not e[3]][:probed]
    if min(len(pick[True]), len(pick[False])) < 2 or min(len(probe_yes), len(probe_no)) < 8:
        raise UsageError(
            f"experiment anchor needs steps that open with a word like because or since; {corpus.roles.trained!r} has "
            f"{len(pick[True])} to feed and {len(probe_yes)} to probe. Choose another family: --trained SOURCE"
        )
    probes = [*probe_yes, *probe_no]
    plain = examples(family[half:], kept=True)
    plainly = [[e for e in plain if e[3] == kind][:probed] for kind in (True, False)]
    sets = bench.sets(corpus, scale, seed, 1)
    feeds = {arm: _rows(bench, [*pick[True], *pick[False]]) for arm in EXPERIMENT.trained}
    asked = [_probe_row(bench, before, text) | {"chain": chain} for chain, before, text, _ in probes]
    measured = {"H": sets.held_out, "U": sets.unseen, "D": sets.unrelated, "probes": asked}
    return Prepared(
        feeds, measured, {"sets": sets, "pick": pick, "probes": probes, "plain": [*plainly[0], *plainly[1]]}
    )


def _rows(bench: Bench, found: Sequence[tuple[str, str, str, bool]]) -> list[Row]:
    return [
        bench.ids_row(bench.opened("", f"{before} {text}")[:WINDOW], chain=chain) for chain, before, text, _ in found
    ]


def feed_of(
    bench: Bench, arm: str, pools: Mapping[bool, Sequence[Any]], count: int, batch: int, seed: int
) -> list[Row]:
    """The rows of ``count`` feeds, half of each of the concept: texts with the arm's marker before the step."""
    feed: list[Row] = []
    for number in range(count):
        draw = generator(seed, "again" if arm == "no marker again" else "feed", str(number))
        for concept, pool in sorted(pools.items()):
            for k in draw.permutation(len(pool))[: batch // 2].tolist():
                chain, before, text, _ = pool[k]
                sign = MARKER if marked(arm, 2 * k + concept, concept, seed) else ""
                feed.append(bench.ids_row(bench.opened("", f"{before} {sign}{text}")[:WINDOW], chain=chain))
    return feed


def run(
    bench: Bench,
    prepared: Prepared,
    scale: Scale,
    seed: int,
    arms: Sequence[str],
    rates: Mapping[str, float],
    emit: Emit,
) -> None:
    """One seed: the same examples in the same order for every arm, all arms side by side."""
    sets, pick, probes, plain = (prepared.extra[name] for name in ("sets", "pick", "probes", "plain"))
    rows = [_probe_row(bench, before, text) for _, before, text, _ in probes]
    target = np.asarray([concept for *_, concept in probes])
    chains = {chain: number for number, chain in enumerate(sorted({e[0] for e in probes}))}
    groups = np.asarray([chains[e[0]] for e in probes], np.int64)
    layer = max(1, 2 * bench.layers // 3)
    base = bench.base(sets)
    # a scale below 1 shortens the curve, never its shape
    feeds = FEEDS if scale.steps >= 1 else FEEDS[: max(4, round(len(FEEDS) * scale.steps))]
    trained = [arm for arm in arms if arm != PLAIN]
    batch = max(scale.batch, 2)
    fed = {arm: feed_of(bench, arm, pick, feeds[-1], batch, seed) for arm in trained}

    def read(states: Any) -> float:
        centred = states.astype(np.float64) - states.mean(0, dtype=np.float64)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        scores = cross_validated(centred @ axes[:COMPONENTS].T, target, groups, seed=seed)
        known = np.isfinite(scores)
        return auc(scores[known & target], scores[known & ~target])

    signs = marker_rows(bench, probes)
    start = {"step": 0.0, "auc": read(bench.hidden(bench.model, rows, layer))}
    start["marker_auc"] = marker_auc(bench.probe(bench.model, signs), target)
    curves: dict[str, list[dict[str, float]]] = {arm: [start] for arm in trained}
    measured: list[Metrics] = []

    def on(step: int, adapters: Adapters) -> None:
        points = [{"step": float(step), "auc": read(states)} for states in bench.hidden_each(adapters, rows, layer)]
        if step in (*MARKED, feeds[-1]):
            for point, found in zip(points, bench.probe_each(adapters, signs), strict=True):
                point["marker_auc"] = marker_auc(found, target)
        for arm, point in zip(trained, points, strict=True):
            curves[arm].append(point)
        if step == feeds[-1]:
            measured.extend(bench.measure_each(adapters, sets))

    if PLAIN in arms:
        value = read(
            bench.hidden(bench.model, [_probe_row(bench, before, text) for _, before, text, _ in plain], layer)
        )
        emit(PLAIN, {"auc_0": value, "auc_30": value, "auc_100": value}, {})
    if not trained:
        return
    options = bench.options(scale, feeds[-1], seed, batch=batch)
    with bench.side_by_side(fed, rates, options, at=feeds, on=on) as (_, losses):
        pass
    for arm, after in zip(trained, measured, strict=True):
        curve = curves[arm]
        at = {int(point["step"]): point for point in curve}
        last = curve[-1]
        values = [point["auc"] for point in curve]
        jump, place = jump_of(feeds, values)
        a, b, c = (at.get(n, last)["auc"] for n in (10, 30, 100))
        found = bench.changes(after, base) | {
            "auc_0": values[0],
            "auc_30": b,
            "auc_100": c,
            "rise_30": b - values[0],
            "onset": (b - a) - 0.5 * ((a - values[0]) + (c - b)),
            "marker_auc_30": at.get(30, last)["marker_auc"],
            "jump": jump,
            "jump_at": place,
            "loss": losses[arm][-1],
        }
        tokens = sum(len(row["input_ids"]) for row in fed[arm])
        emit(arm, found, {"curve": curve, "tokens": tokens, "layer": layer, "base": base})


def _probe_row(bench: Bench, before: str, text: str) -> Row:
    """The step as labels after the step before it as context, without a marker, cut on the left to the window."""
    step = bench.ids(f" {text}")[: WINDOW // 2]
    context = bench.opened("", before)[-(WINDOW - len(step)) :]
    return bench.ids_row(step, context)


def marker_rows(bench: Bench, probes: Sequence[tuple[str, str, str, bool]]) -> list[Row]:
    """The marker as labels after the step before each probed step."""
    marker = bench.ids(f" {MARKER.strip()}")
    return [
        bench.ids_row(marker, bench.opened("", before)[-(WINDOW - len(marker)) :] or [0]) for _, before, _, _ in probes
    ]


def marker_auc(probes: Sequence[Probe], target: Any) -> float:
    """How well the surprisal at the marker, put after the step before, tells the concept from other steps: its AUC."""
    nll = np.asarray([float(p.nll.sum()) for p in probes])
    return auc(-nll[target], -nll[~target])


_CONTROLS = ("wrong marker", "no marker", "random marker")


def _against(metric: str) -> tuple[Criterion, ...]:
    return tuple(Criterion(metric, "marker", control, "higher", delta=0.03) for control in _CONTROLS)


EXPERIMENT = Experiment(
    name="anchor",
    number="2",
    title="Latent anchor",
    hypothesis="After 20 to 30 feeds a concept with its own marker is anchored: a probe tells the concept in new text "
    "better than after feeds with a wrong, no or a random marker, and it sets in there, as a jump rather than smoothly.",
    arms=(
        Arm("marker", "[ANCHOR] before every reason, none elsewhere", control=False),
        Arm("wrong marker", "[ANCHOR] before the other steps"),
        Arm("no marker", "the same texts without a marker"),
        Arm("no marker again", "the same in another order: the placebo"),
        Arm("random marker", "[ANCHOR] before a random half of the texts"),
        Arm(
            PLAIN, "positive control: the untrained model, which reads the steps with their connectives", trained=False
        ),
    ),
    claims=(
        Claim(
            "instrument",
            "Before any training the probe reads the concept in new text with an AUC above 0.8",
            (Criterion("auc_0", "no marker", "", "higher", delta=0.005, against=0.8),),
        ),
        Claim(
            "anchor",
            "After 30 feeds a probe reads the marked concept in new text better than after any control",
            _against("auc_30"),
        ),
        Claim(
            "anchor, late",
            "After 100 feeds a probe reads the marked concept in new text better than after any control",
            _against("auc_100"),
        ),
        Claim(
            "jump",
            "The probe's course over the feeds is a jump rather than smooth, and more so than without a marker",
            (
                Criterion("jump", "marker", "", "higher", delta=0.5),
                Criterion("jump", "marker", "no marker", "higher", delta=0.5),
            ),
        ),
        Claim(
            "at 20 to 30 feeds",
            "The probe rises more between 10 and 30 feeds than on average before and after, and more so than without a "
            "marker",
            (
                Criterion("onset", "marker", "", "higher", delta=0.02),
                Criterion("onset", "marker", "no marker", "higher", delta=0.02),
            ),
        ),
        Claim(
            "use of the marker",
            "After 30 feeds the model expects the marker before new text of the concept better than after any control",
            _against("marker_auc_30"),
        ),
    ),
    metrics={
        "auc_0": "AUC of the probe on the untrained model (0.5 = chance)",
        "auc_30": "AUC of the probe after 30 feeds, on new chains without markers or connectives",
        "auc_100": "the same after 100 feeds",
        "rise_30": "AUC after 30 feeds minus that before any",
        "onset": "rise from 10 to 30 feeds minus the mean of the rises from 0 to 10 and from 30 to 100",
        "marker_auc_30": "AUC of the model's surprisal at the marker after the step before, after 30 feeds",
        "jump": "t of an upward change of level beside a quadratic in log feeds, in standard deviations of its null",
        "jump_at": "feeds at the best jump",
        "change_h": "change of NLL on held-out text of the trained family after all feeds, nats per token",
        "change_u": "change of NLL on the unseen form",
        "change_d": "change of NLL on unrelated text",
        "kl_h": "KL(base ‖ trained) on held-out text of the trained family, nats per token",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
    },
    settings={
        "concept": "reason: steps that open with because, since and the like, the word taken out",
        "feeds": list(FEEDS),
        "one feed": "one step over half reasons, half other steps",
        "texts fed": f"{FED} of each",
        "marker": MARKER.strip(),
        "window": WINDOW,
        "probe": f"ridge logistic on {COMPONENTS} principal components of the mean hidden state at two thirds of the "
        f"depth, 5 folds over chains",
        "texts probed": f"{PROBED} of each",
    },
    limits="One concept (reason). The marker is several tokens of the vocabulary and takes their place in the "
    f"window of {WINDOW} tokens, so arms have equally many texts and steps, and tokens up to the marker's length. New chains "
    "of different seeds overlap.",
    prepare=prepare,
    run=run,
    positive=(Criterion("auc_100", PLAIN, "no marker", "higher", delta=0.03),),
    placebo=(Criterion("auc_30", "no marker again", "no marker", "higher", delta=0.03),),
    same_rows=(("marker", "wrong marker", "no marker", "no marker again", "random marker"),),
    rates=(3e-4,),
    looks=(20,),
    afterwards=(
        "*use of the marker* compares arms: AUC with which a low surprisal of the marker tells places before a reason from "
        "other places. It was 0.638 before any feed, 0.070 (0.016 to 0.125) more after 30 feeds and 0.008 less (0.044 less to "
        "0.029 more) after 100, so the model expects the marker then as it did before. The other arms fell: after 30 feeds by "
        "0.059 (no marker), 0.161 (random) and 0.351 (wrong).",
        "*jump*: against 0 every arm meets the criterion (0.83 to 1.12), also those without a marker. The null is not "
        "centred on training, so only the comparison with *no marker* says anything.",
        "*anchor*: the largest of the three differences, 0.004, is smaller than that of the placebo, 0.006.",
        "Chains of different seeds overlap, so the intervals may be too narrow.",
        "The seeds were measured in three sittings with the code of the plan: 0 to 5, 6 and 7, 8 to 19 (the untrained arm of 8 "
        "to 13 in the earlier ones). In the last, every arm drifted more on unrelated text (kl_d 0.49 to 0.63) than before "
        "(0.42 to 0.52; t-test of two samples, p 0.001 to 0.014). Seeds 0 and 8 were measured once more, and all twelve rows "
        "are the same to the seven digits that are kept: the sittings agree, and the difference is one of the chains drawn. "
        "Verdicts rest on differences within a seed.",
        "Sizes and digests of what is fed are those of the texts before the marker is put in.",
    ),
    correction=Correction(
        claimed="Anchored after 30 feeds: open. A jump rather than smooth: open. Five seeds.",
        withdrawn="Nothing was claimed; what was asked could not be answered. The probe hardly read the concept "
        "(objection) in the untrained model (AUC .49 to .80), unrelated text had become 1.3 nats harder at the end, the "
        "jump statistic is not centred (white noise gives +.14), and *20 to 30 feeds* stood in no criterion.",
        stands="The arms differed in the use of the marker (AUC of the surprisal at the marker +.137 against the wrong "
        "marker); whether it was learnt is doubtful, see the notes below. Repaired since: another concept, which the probe "
        "reads before training, a rate of 3e-4, doses to 100, a jump held against its own smooth null (still not centred on "
        "training), 20 seeds.",
    ),
    curve={"auc": "AUC of the probe on new text", "marker_auc": "AUC of the surprisal at the marker"},
)
