"""What the two lines of a stellator block that experiment block left as statements do where they train: the text of ANCHOR
behind every row, the DRIFT line as a target of the attention objective; and the whole block with both.

The text is placed and the targets are set as an export does it, the attention objective is that of ``trails train``, and what
the block states is judged by the product's own verdicts on held-out chains, at the same places for every arm.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from trails.analyses.bridge import bridging
from trails.analyses.statistics import generator
from trails.errors import UsageError
from trails.experiments.base import Arm, Claim, Criterion, Emit, Experiment, Metrics, Prepared, Scale
from trails.experiments.bench import Bench, mean
from trails.experiments.block import (
    DEPTH,
    FACTOR,
    PASSES,
    TRAIN,
    block_text,
    damped,
    elsewhere,
    halved_traces,
    in_order,
    marked,
    moved,
    selected,
    stated,
    zone_of,
)
from trails.experiments.corpus import Corpus
from trails.export.options import parse_layers
from trails.export.record import as_placed, targets_at
from trails.measure.base import Segmented
from trails.platform.arrays import Bools
from trails.platform.text import counted
from trails.schema import Run, Trace
from trails.stellator.compiling import Compiled
from trails.stellator.verdicts import LEAST, Spans, distance, target
from trails.stellator.zones import zones
from trails.train.data import Row

TEXT = "total"
MORE = (f'ANCHOR → "{TEXT}"', "OBJECTIVE → attention")
"""The lines that the block has in addition to those of experiment block."""
LM_SHARE = 1.0
"""Share of the language-model loss in the arms with targets: they learn their rows as the others do."""
PAIRS = 10
"""Bridges that an ANCHOR line is judged by."""
USUAL = 20
"""The control text is one of so many words that most training chains hold."""

PLACED = {
    "anchor": "behind",
    "other text": "other",
    "anchor elsewhere": "elsewhere",
    "whole block": "behind",
    "whole block elsewhere": "other",
}
"""Arms with a text in their rows: the anchor's or another behind the row, or the anchor's anywhere in it."""
AIMED = {
    "attention target": ("zone", "own"),
    "random places": ("random", "own"),
    "random layer": ("zone", "other"),
    "whole block": ("zone", "own"),
    "whole block elsewhere": ("random", "other"),
}
"""Arms with targets: at the zone's spans or at random ones, at the layer of the DRIFT line or at another."""
DAMPED = {"whole block": "zone", "whole block elsewhere": "random"}


def spelled_behind(bench: Bench, row: Row, item: Segmented) -> str:
    """The anchor's text as an export places it behind this row; empty where the row ends with it."""
    whole = bench.contexts.row(item).tokens
    held = len(row["input_ids"]) - row["offset"]
    text = item.chain.text if held >= len(whole) else item.chain.text[: int(whole.end[held - 1])]
    return as_placed(text, TEXT)


def other_text(bench: Bench, items: Sequence[Segmented], seed: int) -> str:
    """A word of as many tokens as the anchor's text, behind a letter and behind a space, drawn from the :data:`USUAL` ones that
    most of these chains hold. Raises UsageError where there is none.
    """
    lengths = [len(bench.ids(text)) for text in (TEXT, f" {TEXT}")]
    held: Counter[str] = Counter()
    for item in items:
        held.update(set(re.findall(r"[^\W\d_]{4,}", item.chain.text.casefold())))
    words = sorted((word for word in held if TEXT not in word), key=lambda word: (-held[word], word))
    fit = (word for word in words if [len(bench.ids(text)) for text in (word, f" {word}")] == lengths)
    usual = [word for word, _ in zip(fit, range(USUAL), strict=False)]
    if not usual:
        raise UsageError(
            f"no word of the training chains has {counted(lengths[1], 'token')}, as {TEXT!r} has: the control of the anchor "
            "needs one. Give other chains: --data PATH"
        )
    return usual[int(generator(seed, "other text").integers(len(usual)))]


def with_text(row: Row, ids: Sequence[int], at: int | None = None) -> Row:
    """A row with further tokens of weight 1 at a position (None: behind it). Steps that end behind the position move."""
    at = len(row["input_ids"]) if at is None else at
    size = len(ids)
    behind_it = [
        span | {"start": span["start"] + size * (span["start"] >= at), "end": span["end"] + size * (span["end"] > at)}
        for span in row["step_spans"]
    ]
    more: dict[str, list[Any]] = {"input_ids": [*ids], "labels": [*ids], "loss_weights": [1.0] * len(ids)}
    whole: Row = {name: [*row[name][:at], *own, *row[name][at:]] for name, own in more.items()}
    return row | whole | {"step_spans": behind_it}


def placed(bench: Bench, row: Row, item: Segmented, how: str, other: str, seed: int) -> Row:
    """The row with the text of an arm (:data:`PLACED`); the same row where an export would place none."""
    spelled = spelled_behind(bench, row, item)
    if not spelled:
        return row
    if how == "other":
        return with_text(row, bench.ids(spelled.replace(TEXT, other)))
    first, end = row["offset"] + 1, len(row["input_ids"])
    place = generator(seed, "place", row["chain"])
    anywhere = how == "elsewhere" and end > first
    return with_text(row, bench.ids(spelled), int(place.integers(first, end)) if anywhere else None)


def holds(item: Segmented) -> bool:
    """Whether a step of the chain after its first holds the anchor's text: then a way can lead there."""
    return any(TEXT in item.chain.text[step.start : step.end].casefold() for step in item.steps[1:])


def occurrences(bench: Bench, item: Segmented) -> Bools:
    """Tokens of the chain that spell the anchor's text, (n,)."""
    tokens = bench.contexts.row(item).tokens
    found = np.zeros(len(tokens), np.bool_)
    for match in re.finditer(re.escape(TEXT), item.chain.text.casefold()):
        found |= (tokens.start < match.end()) & (tokens.end > match.start())
    return found


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """The same chains for every arm, twice, with their texts; weights and targets come from the base model in the run."""
    sets = bench.sets(corpus, scale, seed, scale.count(TRAIN, 4))
    rows = list(sets.train)[: len(sets.train) // scale.batch * scale.batch] or list(sets.train)
    known = {item.chain.id: item for item in corpus.families[corpus.roles.trained]}
    items = [known[row["chain"]] for row in (*rows, *sets.held_out)]
    of_text = [row for row, item in zip(sets.held_out, items[len(rows) :], strict=True) if holds(item)]
    if scale.name == "full" and len(of_text) < LEAST:
        raise UsageError(
            f"{counted(len(of_text), 'held-out chain')} of {corpus.roles.trained!r} {'holds' if len(of_text) == 1 else 'hold'} "
            f"{TEXT!r} after the first step, {LEAST} are the least: there is no way to the anchor to be judged. Train on a "
            "source that has the word: --trained SOURCE"
        )
    other = other_text(bench, items[: len(rows)], seed)
    texts = {
        how: [placed(bench, row, item, how, other, seed) for row, item in zip(rows, items, strict=False)]
        for how in dict.fromkeys(PLACED.values())
    }
    feeds = {arm.name: texts.get(PLACED.get(arm.name, ""), rows) * PASSES for arm in EXPERIMENT.arms if arm.trained}
    feeds["held-out themselves"] = [sets.held_out[k % len(sets.held_out)] for k in range(len(rows) * PASSES)]
    extra = {"sets": sets, "rows": rows, "items": items, "other": other}
    return Prepared(feeds, {"H": sets.held_out, "D": sets.unrelated, "A": of_text}, extra)


def aims(
    compiled: Compiled, masks: Mapping[str, Mapping[str, Bools]], traces: Sequence[Trace], run: Run, seed: int
) -> tuple[dict[tuple[str, str], Spans], int]:
    """The targets of the DRIFT line by places (the zone's spans, random ones) and layer (its own, another), as an export sets
    them; and the other layer. Raises UsageError where the line cannot be trained towards.
    """
    (line,) = compiled.annotations.drift
    (own,) = line.layers
    others = [layer for layer in range(1, run.n_layers + 1) if layer != own]
    other = others[int(generator(seed, "layer").integers(len(others)))]
    found: dict[tuple[str, str], Spans] = {}
    for places in ("zone", "random"):
        at = selected(masks[places], traces)
        for name, layer in (("own", own), ("other", other)):
            spans, said = target(replace(line, layers=(layer,)), at, lambda: traces, run)
            if not spans:
                raise UsageError(f"experiment block-anchor, {places} places: {said}")
            found[places, name] = spans
    return found, other


def aimed(row: Row, spans: Spans) -> Row:
    """A row with the targets of its chain, as far as they lie in it."""
    size = len(row["input_ids"])
    asked = [one for one in targets_at(spans.get(row["chain"], ()), row["offset"]) if one["start"] < size]
    return row | {"targets": [one | {"end": min(one["end"], size)} for one in asked]}


def fed(
    arm: str,
    prepared: Prepared,
    masks: Mapping[str, Mapping[str, Bools]],
    spans: Mapping[tuple[str, str], Spans],
    factor: float,
    seed: int,
) -> list[Row]:
    """The rows of an arm in the order fed: that of experiment block, the same for all arms but the placebo."""
    if arm == "held-out themselves":
        return list(prepared.feeds[arm])
    rows = list(prepared.extra["rows"])
    if arm in DAMPED:
        rows = [damped(row, masks[DAMPED[arm]][row["chain"]], factor) for row in rows]
    if arm in AIMED:
        rows = [aimed(row, spans[AIMED[arm]]) for row in rows]
    if arm in DAMPED:  # the text comes last: damped and aimed are the chain's own tokens
        whole = prepared.feeds[arm]
        rows = [
            with_text(row, own["input_ids"][len(row["input_ids"]) :]) for row, own in zip(rows, whole, strict=False)
        ]
    elif arm in PLACED:
        rows = list(prepared.feeds[arm])[: len(rows)]
    return in_order(rows, seed, again=arm == "plain again")


def run(
    bench: Bench,
    prepared: Prepared,
    scale: Scale,
    seed: int,
    arms: Sequence[str],
    rates: Mapping[str, float],
    emit: Emit,
) -> None:
    """One seed: all arms side by side on the same chains in the same order."""
    sets, rows, items = (prepared.extra[name] for name in ("sets", "rows", "items"))
    held: list[Segmented] = items[len(rows) :]
    fitted: list[Segmented] = items[: len(rows)][: len(held)]
    measured = bench.traces(items)
    at_base = measured[: len(rows)]
    compiled, zone = zone_of(measured, bench.scorer.run, bench.layers, *MORE)
    random = {t.chain.id: elsewhere(zone[t.chain.id], generator(seed, "elsewhere", t.chain.id)) for t in at_base}
    masks = {"zone": zone, "random": random}
    spans, other = aims(compiled, masks, at_base, bench.scorer.run, seed)
    dampen, layers = compiled.annotations.dampen, compiled.annotations.options["layers"]
    assert dampen is not None
    where = [marked(row, occurrences(bench, item)) for row, item in zip(sets.held_out, held, strict=True)]
    followed = [placed(bench, row, item, "behind", "", seed) for row, item in zip(sets.held_out, held, strict=True)]
    behind_them = [_text_only(row, own) for row, own in zip(sets.held_out, followed, strict=True) if own is not row]
    base = bench.base(sets)
    before = bench.probe(bench.model, sets.held_out)
    told = {
        "zone": mean(marked(row, zone[row["chain"]]) for row in rows),
        "other": prepared.extra["other"],
        "layer": other,
    }

    def statement(traces: Sequence[Trace], on: Sequence[Trace]) -> Metrics:
        bridge = bridging(lambda: traces, lambda: bench.scorer)
        found = stated(compiled, zone, traces, bench.scorer.run, bridge, PAIRS)
        fitted_too = {"sweep_fitted": stated(compiled, zone, on, bench.scorer.run)["sweep"]}
        return found | fitted_too | {"away": distance(spans["zone", "own"], on)}

    if "untrained" in arms:
        with bench.as_it_is():
            own = base | statement(measured[len(rows) :], measured[: len(fitted)])
        own |= {"expects": mean(p.nll for p in bench.probe(bench.model, behind_them))}
        emit("untrained", own | {"change_h": 0.0, "change_text": 0.0, "change_d": 0.0}, {"tokens": 0, **told})
    if "queries halved" in arms:
        found = stated(compiled, zone, halved_traces(bench, compiled, held, zone), bench.scorer.run)
        emit("queries halved", {name: found[name] for name in ("sweep", "passes")}, {"tokens": 0, **told})
    trained = [arm for arm in arms if arm in prepared.feeds]
    if not trained:
        return
    feeds = {arm: fed(arm, prepared, masks, spans, dampen, seed) for arm in trained}
    steps = scale.n_steps(-(-len(rows) * PASSES // scale.batch))
    shapes = {arm: (parse_layers(layers), 0) for arm in DAMPED if arm in trained}
    options = bench.options(scale, steps, seed, lm_share=LM_SHARE)
    with bench.side_by_side(feeds, rates, options, shapes=shapes) as (adapters, losses):
        each = bench.measure_each(adapters, sets)
        after = bench.probe_each(adapters, sets.held_out)
        expected = bench.probe_each(adapters, behind_them)
        said = [statement(bench.traces(held), bench.traces(fitted)) for _ in bench.alone(adapters)]
    for arm, one, probes, texts, lines in zip(trained, each, after, expected, said, strict=True):
        metrics: Metrics = bench.changes(one, base) | lines
        metrics["change_text"] = moved(probes, before, where, inside=True)
        metrics["expects"] = mean(p.nll for p in texts)
        metrics["loss"] = losses[arm][-1]
        feed = feeds[arm][: steps * scale.batch]
        asked: dict[str, Any] = {"targets": sum(len(row.get("targets", ())) for row in feed), "base": base}
        emit(arm, metrics, {"tokens": sum(len(row["input_ids"]) for row in feed), **told, **asked})


def _text_only(row: Row, followed: Row) -> Row:
    """A row with a text behind it in which the text alone carries labels."""
    size = len(row["input_ids"])
    return followed | {"labels": [*[-100] * size, *followed["labels"][size:]]}


_SWEEP, _NLL, _BRIDGE, _TEXT, _PASSES, _AWAY = 0.02, 0.01, 0.05, 0.05, 0.2, 0.01

EXPERIMENT = Experiment(
    name="block-anchor",
    number="",
    title="Training with the anchor and the target of a stellator block",
    hypothesis="The text of ANCHOR behind every row makes the ways of held-out chains to that text cheaper, a DRIFT line "
    "that is a target of the attention objective becomes true on held-out chains, and the whole block with both becomes truer "
    "without costing what is learnt; each against the same rows without it and against as many tokens or targets elsewhere.",
    arms=(
        Arm("anchor", f"{TEXT!r} behind every row, with loss", control=False),
        Arm("other text", "another word of the same chains and of as many tokens in its place"),
        Arm("anchor elsewhere", f"{TEXT!r} at a random place in every row"),
        Arm("attention target", "the DRIFT line as target of the zone's spans, beside the rows", control=False),
        Arm("random places", "the same on random spans of the same lengths in the same chains"),
        Arm("random layer", "the same on the zone's spans at another layer"),
        Arm(
            "whole block",
            "the zone dampened, the middle third of the layers, the text behind every row, and the target",
            control=False,
        ),
        Arm(
            "whole block elsewhere",
            "weights and targets on random spans, the target at another layer, another word behind every row; the same layers",
        ),
        Arm("plain", "the same rows in the same order without a block"),
        Arm("plain again", "the same in another random order: the placebo"),
        Arm("held-out themselves", "positive control of what is learnt and of the ways: the held-out chains"),
        Arm(
            "queries halved",
            "positive control of DRIFT: the untrained model with the layer's queries halved at the zone's tokens",
            trained=False,
        ),
        Arm("untrained", "the model as it is", trained=False),
    ),
    claims=(
        Claim(
            "the ways to the text",
            f"After training with {TEXT!r} behind every row, the worst transition on held-out ways from the zone to that text "
            "is smaller than with another word in its place, with it at random places, without it and before",
            tuple(
                Criterion("bridge", "anchor", control, "lower", delta=_BRIDGE)
                for control in ("other text", "anchor elsewhere", "plain", "untrained")
            ),
        ),
        Claim(
            "the text itself",
            f"After training with {TEXT!r} behind every row, the word becomes likelier where held-out chains have it than with "
            "another word in its place, with it at random places, without it and before",
            tuple(
                Criterion("change_text", "anchor", control, "lower", delta=_TEXT)
                for control in ("other text", "anchor elsewhere", "plain", "")
            ),
        ),
        Claim(
            "the target where it is trained",
            "Training towards the DRIFT line makes attention sweep more widely at the zone's tokens of the chains it trains on "
            "than the same rows alone, than targets at random places, at another layer, and than before",
            tuple(
                Criterion("sweep_fitted", "attention target", control, "higher", delta=_SWEEP)
                for control in ("plain", "random places", "random layer", "untrained")
            ),
        ),
        Claim(
            "the target on held-out chains",
            "After training towards the DRIFT line, its statement passes more often on held-out chains than after the same "
            "rows alone, than after targets at random places or at another layer, and attention sweeps more widely there",
            (
                *(
                    Criterion(metric, "attention target", control, "higher", delta=delta)
                    for metric, delta in (("passes", _PASSES), ("sweep", _SWEEP))
                    for control in ("plain", "random places", "random layer")
                ),
            ),
        ),
        Claim(
            "held-out text with the target",
            "Training towards the DRIFT line learns no less of held-out text than the same rows alone",
            (Criterion("nll_h", "attention target", "plain", "lower", delta=_NLL, kind="not inferior"),),
        ),
        Claim(
            "the whole block",
            "Training with the whole block learns no less of held-out text than the same rows alone, and its statement of "
            "attention becomes truer than after them, than with everything elsewhere, and than before",
            (
                Criterion("nll_h", "whole block", "plain", "lower", delta=_NLL, kind="not inferior"),
                *(
                    Criterion("sweep", "whole block", control, "higher", delta=_SWEEP)
                    for control in ("plain", "whole block elsewhere", "untrained")
                ),
            ),
        ),
    ),
    positive=(
        Criterion("change_h", "held-out themselves", "plain", "lower", delta=_NLL),
        Criterion("sweep", "queries halved", "untrained", "higher", delta=_SWEEP),
        Criterion("bridge", "held-out themselves", "plain", "lower", delta=_BRIDGE),
        Criterion("expects", "anchor", "other text", "lower", delta=_TEXT),
        Criterion("away", "attention target", "plain", "lower", delta=_AWAY),
    ),
    placebo=(
        Criterion("change_h", "plain again", "plain", "lower", delta=_NLL),
        Criterion("sweep", "plain again", "plain", "higher", delta=_SWEEP),
        Criterion("bridge", "plain again", "plain", "lower", delta=_BRIDGE),
    ),
    same_rows=(
        ("plain", "plain again", "attention target", "random places", "random layer"),
        ("anchor", "whole block"),
        ("other text", "whole block elsewhere"),
    ),
    metrics={
        "sweep": "attention entropy of the statement's layer at the zone's tokens of held-out chains minus that of random "
        "spans of the same lengths nearby, nats, mean over heads",
        "passes": "1 where the product's verdict of the DRIFT line is pass, 0 where it is fail",
        "sweep_fitted": "the same as sweep on as many of the chains trained on",
        "away": "mean distance of the zone's targets from their bound on the same chains, nats: what the objective lowers",
        "bridge": "worst transition on the ways from the zone's steps to steps with the anchor's text, each way re-scored as "
        f"one text, nats, mean over {PAIRS} pairs of places in held-out chains",
        "bridge_gap": "the same minus the ways from random steps to the same places",
        "leads": "1 where the product's verdict of the ANCHOR line is pass, 0 where it is fail",
        "expects": "NLL of the anchor's text placed behind held-out chains, nats per token",
        "change_text": "change of NLL of the tokens that spell the anchor's text in held-out chains, nats, negative = likelier",
        "change_h": "change of NLL on held-out text of the trained family, nats per token, negative = learnt",
        "nll_h": "NLL on it after the training",
        "change_d": "change of NLL on unrelated text, positive = forgotten",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
    },
    settings={
        "block": "; ".join(block_text(DEPTH, *MORE).splitlines()),
        "zone unstable": zones()["unstable"].text,
        "dampening": FACTOR,
        "chains": TRAIN,
        "passes": PASSES,
        "pairs of places": PAIRS,
        "other text": f"one of the {USUAL} words of as many tokens that most training chains hold, drawn by the seed",
        "objective of the arms with targets": f"attention, language-model share {LM_SHARE:g}",
        "LoRA": "rank 8, alpha 16, all linear layers",
    },
    limits="One block, one anchor text of the trained family, one layer. The zone is chosen by the base model, on training and "
    "held-out chains together; verdicts are on held-out chains, and so are the ways, which lead over held-out steps only. The "
    "bound of a target is the end of its control's interval on the training chains, as an export sets it. Every arm trains at "
    "the rate that is best for the rows without a block. A common rate can still favour an arm: see *What other rates give*.",
    afterwards=(
        "Chains, draws and the five arms without a block are those of [block](block.md): the two experiments are not "
        "independent of each other.",
        "*the text itself* is a finding at the rate 0.001 only, the largest of the three tried. On the development seeds at "
        "0.0003 the difference is the other way (see *What other rates give*). The whole block, too, makes the word likelier "
        "than the whole block elsewhere with another word does (-0.437, -0.517 to -0.357); its place, weights and layer differ "
        "as well. The other words are first, then, with, thus, that, cost, from, since, days and minutes, one a seed.",
        "*the ways to the text* could not be decided with ten seeds: the placebo differs by -0.210, four times the smallest "
        "effect of interest, and plain rows make the ways worse than before (+0.749, 0.015 to 1.483).",
        "*the target*: targets at random places of the same layer bring the zone's tokens to their bound as well (distance "
        "0.002; the zone's own target 0.001; plain rows 0.236; untrained 0.149), so reaching it says nothing of the zone. More "
        "than half of the difference to random places is there because that arm lies below plain rows (sweep -0.021, on the "
        "chains trained on -0.028). *No difference worth having* means smaller than the smallest effect of interest: three of "
        "the four such intervals, one of them of the whole block, lie above 0. `passes` is yes or no on ten seeds: of 4 "
        "against 0 an exact sign test gives p = 0.125. No verdict rests on it.",
        "*whole block elsewhere*: on seeds 0, 5 and 7 the other layer (4, 5, 7) lies below the adapted layers of "
        "the whole block, 11 to 20, which cannot change its attention.",
        "*held-out text with the target*: it learns less than plain rows, within the margin (0.006, 0.004 to 0.009). Targets "
        "at random places (0.007) and at another layer (0.008) cost as much.",
        "*the whole block*: no difference in cost to the same weights and targets elsewhere, with another word and layer, was "
        "shown (0.002, -0.013 to 0.018). Those cost 0.082 against plain rows.",
        "`leads` passes on all ten seeds for the untrained model, too, and on nine or ten for every arm: that verdict tells "
        "nothing here.",
        "The development rows were measured twice, except those of one seed at one rate; the first of each counts. The two "
        "differ by up to 0.003.",
    ),
    prepare=prepare,
    run=run,
    rates=(1e-4, 3e-4, 1e-3),
    develop="nll_h",
    rate_of=dict.fromkeys(("plain again", "held-out themselves", *PLACED, *AIMED), "plain"),
)
