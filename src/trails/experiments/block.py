"""Does training with a stellator block beat the same rows without it, on what the block states and on held-out text?

The block is read by the product's own parser, its zone is that of the base model's measurements of training and held-out
chains, and what it states is judged by the product's own verdict, at the same places before and after.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from trails.analyses.statistics import generator
from trails.errors import UsageError
from trails.evaluate.probe import Probe
from trails.experiments.base import Arm, Claim, Criterion, Emit, Experiment, Metrics, Prepared, Scale
from trails.experiments.bench import Bench, mean
from trails.experiments.corpus import Corpus
from trails.export.options import layers_text, parse_layers
from trails.measure.base import Segmented
from trails.platform.arrays import Bools
from trails.schema import Run, Trace
from trails.stellator import compile_program
from trails.stellator.compiling import Compiled, Distribution, Quantiles, measure_of
from trails.stellator.language import Anchor, Condition, Drift, Expression, Joined, Number, Quantile
from trails.stellator.parsing import parse
from trails.stellator.verdicts import Bridging, Instruments, Selected, judge, verdicts
from trails.stellator.zones import resolved, zones
from trails.store.rows import transition_values
from trails.train.data import Row

TRAIN = 96
PASSES = 2
FACTOR = 0.1
PLACE, DEPTH = 17, 30
"""Layer of the statement, and the number of layers of the model that it is meant for; of another depth, that share."""
_COMPARE = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip

_STATED: Mapping[type, tuple[str, str, str]] = {
    Drift: ("", "sweep", "passes"),
    Anchor: ("bridge", "bridge_gap", "leads"),
}
"""Names of a line's value, of the value minus its control, and of its verdict."""

DAMPED = ("dampen", "block")
RANDOM = {"dampen": "random spans", "block": "block on random spans"}


def block_text(layers: int, *more: str) -> str:
    """The block: the mission's zone, statement and dampening, the middle third of the layers, and further lines."""
    at = max(1, round(PLACE * layers / DEPTH))
    middle = tuple(range(layers // 3 + 1, 2 * layers // 3 + 1))
    return "\n".join(
        (
            "[ZONE:unstable]",
            f"DRIFT → activates attention sweep on layer {at}",
            f"GRADIENT DAMPEN → backward pass ~{FACTOR:g}",
            f"LAYERS → {layers_text(middle)}",
            *more,
        )
    )


def in_zone(of: Expression, trace: Trace, run: Run, quantile: Quantiles) -> Bools:
    """Tokens of a trace at which an expression of measured properties holds, (n,); where a property is undefined it does not.

    Raises UsageError for what needs a graph: names, gaps, NOT.
    """
    match of:
        case Joined(sign, parts):
            found = np.stack([in_zone(part, trace, run, quantile) for part in parts])
            return np.asarray(found.all(0) if sign == "&" else found.any(0))
        case Condition(name, compare, (Number() | Quantile() as value,)) if name != "gap":
            bound = quantile(name, value.percent) if isinstance(value, Quantile) else value.value
            values = transition_values(trace, run, measure_of(name))[name]
            with np.errstate(invalid="ignore"):
                return np.asarray(_COMPARE[compare](values, bound) & np.isfinite(values))
        case _:
            raise UsageError(f"a zone of the experiment compares measured numbers only, not {of}")


def zone_of(traces: Sequence[Trace], run: Run, layers: int, *more: str) -> tuple[Compiled, dict[str, Bools]]:
    """The block with further lines over these traces, and the tokens that it selects in each, by chain."""
    program = parse(block_text(layers, *more))
    known = zones()
    (compiled,) = compile_program(program, run, traces=lambda: traces, known=known)
    expression = resolved(compiled.block, known)
    if expression is None:
        raise UsageError("the zone of the block is every token: nothing is left to compare it with")
    quantile = Distribution(lambda: traces, run)
    return compiled, {trace.chain.id: in_zone(expression, trace, run, quantile) for trace in traces}


def spans_of(mask: Bools) -> list[tuple[int, int]]:
    """Contiguous runs of a mask, (start, stop)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def elsewhere(mask: Bools, draw: np.random.Generator) -> Bools:
    """As many spans of the same lengths at random places of the same chain, apart from each other."""
    lengths = [b - a for a, b in spans_of(mask)]
    free = len(mask) - sum(lengths) - max(len(lengths) - 1, 0)
    gaps = np.diff(np.concatenate([[0], np.sort(draw.integers(0, free + 1, len(lengths))), [free]]))
    found, at = np.zeros(len(mask), np.bool_), 0
    for number, (gap, which) in enumerate(zip(gaps, draw.permutation(len(lengths)), strict=False)):
        at += int(gap) + (number > 0)
        found[at : at + lengths[which]] = True
        at += lengths[which]
    return found


def damped(row: Row, mask: Bools, factor: float) -> Row:
    """A row whose loss weights are multiplied by the factor at the marked tokens of its chain."""
    first = row["offset"]
    weights = [
        weight * factor if at >= first and mask[at - first] else weight for at, weight in enumerate(row["loss_weights"])
    ]
    return row | {"loss_weights": weights}


def selected(masks: Mapping[str, Bools], traces: Sequence[Trace]) -> Selected:
    """The marked tokens of traces as what a block selects."""
    ids = tuple(trace.token_id(int(t)) for trace in traces for t in np.flatnonzero(masks[trace.chain.id]))
    return Selected("TOKEN", ids, ids, ids)


def stated(
    compiled: Compiled,
    masks: Mapping[str, Bools],
    traces: Sequence[Trace],
    run: Run,
    bridge: Bridging | None = None,
    pairs: int = 0,
) -> Metrics:
    """What the block's lines give at the marked tokens of these traces; NaN where a line is not decidable.

    Of the DRIFT line the measure minus that of random spans nearby, and whether the line passes (1) or not (0). Of an ANCHOR
    line, with ``bridge`` over so many ``pairs``, the worst transition on the way to its text, the same minus that from random
    steps, and whether the line passes.
    """
    instruments = Instruments(run, lambda: traces, bridge, pairs=pairs)
    found: Metrics = {}
    for line, one in zip(
        verdicts(judge(compiled, selected(masks, traces), instruments)), compiled.block.lines, strict=True
    ):
        names = _STATED.get(type(one.content))
        if names is not None and line["verdict"] in ("pass", "fail"):
            values = (line["value"], line["value"] - line["control"], float(line["verdict"] == "pass"))
            found |= {name: value for name, value in zip(names, values, strict=True) if name}
        elif names is not None:
            found |= {name: math.nan for name in names if name}
    return found


@contextmanager
def halved(bench: Bench, layer: int, places: Sequence[int]) -> Iterator[None]:
    """While inside, the queries of a layer (1 … L) are halved at these places: every head attends more evenly there."""
    block = bench.scorer.model.layers[layer - 1]
    projections = [module for name, module in block.named_modules() if name.endswith("q_proj")]
    if len(projections) != 1:
        raise UsageError(
            f"{type(block).__name__} has no q_proj, which the positive control of experiment block changes"
        )

    def hook(_: Any, __: Any, output: Any) -> Any:
        changed = output.clone()
        changed[:, list(places)] *= 0.5
        return changed

    handle = projections[0].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """The same chains for every arm, twice; places and weights come from the base model in the run."""
    sets = bench.sets(corpus, scale, seed, scale.count(TRAIN, 4))
    rows = list(sets.train)[: len(sets.train) // scale.batch * scale.batch] or list(sets.train)
    feeds = {arm.name: rows * PASSES for arm in EXPERIMENT.arms if arm.trained}
    feeds["held-out themselves"] = [sets.held_out[k % len(sets.held_out)] for k in range(len(rows) * PASSES)]
    known = {item.chain.id: item for item in corpus.families[corpus.roles.trained]}
    items = [known[row["chain"]] for row in (*rows, *sets.held_out)]
    return Prepared(feeds, {"H": sets.held_out, "D": sets.unrelated}, {"sets": sets, "rows": rows, "items": items})


def run(
    bench: Bench,
    prepared: Prepared,
    scale: Scale,
    seed: int,
    arms: Sequence[str],
    rates: Mapping[str, float],
    emit: Emit,
) -> None:
    """One seed: all arms side by side on the same rows in the same order."""
    sets, rows, items = (prepared.extra[name] for name in ("sets", "rows", "items"))
    held: list[Segmented] = items[len(rows) :]
    measured = bench.traces(items)
    compiled, masks = zone_of(measured, bench.scorer.run, bench.layers)
    dampen, layers = compiled.annotations.dampen, compiled.annotations.options["layers"]
    assert dampen is not None
    base = bench.base(sets)
    before = bench.probe(bench.model, sets.held_out)
    zone = [marked(row, masks[row["chain"]]) for row in sets.held_out]
    whole = [marked(row, masks[row["chain"]]) for row in rows]
    share = mean(whole)

    def statement(traces: Sequence[Trace]) -> Metrics:
        return stated(compiled, masks, traces, bench.scorer.run)

    if "untrained" in arms:
        told = base | statement(measured[len(rows) :]) | {"change_h": 0.0, "change_zone": 0.0, "change_rest": 0.0}
        emit("untrained", told | {"change_d": 0.0}, {"tokens": 0, "zone": share})
    if "queries halved" in arms:
        emit("queries halved", statement(halved_traces(bench, compiled, held, masks)), {"tokens": 0, "zone": share})
    trained = [arm for arm in arms if arm in prepared.feeds]
    if not trained:
        return
    feeds = {arm: fed(arm, prepared, masks, dampen, seed) for arm in trained}
    steps = scale.n_steps(-(-len(rows) * PASSES // scale.batch))
    chosen = parse_layers(layers)
    shapes = {arm: (chosen, 0) for arm in ("block", RANDOM["block"]) if arm in trained}
    options = bench.options(scale, steps, seed)
    with bench.side_by_side(feeds, rates, options, shapes=shapes) as (adapters, losses):
        found = bench.measure_each(adapters, sets)
        after = bench.probe_each(adapters, sets.held_out)
        traces = bench.traces_each(adapters, held)
    for arm, one, probes, own in zip(trained, found, after, traces, strict=True):
        metrics: Metrics = bench.changes(one, base) | statement(own)
        metrics["change_zone"] = moved(probes, before, zone, inside=True)
        metrics["change_rest"] = moved(probes, before, zone, inside=False)
        feed = feeds[arm][: steps * scale.batch]
        metrics["weight"] = mean(np.asarray(row["loss_weights"])[np.asarray(row["labels"]) != -100] for row in feed)
        metrics["loss"] = losses[arm][-1]
        emit(arm, metrics, {"tokens": sum(len(row["input_ids"]) for row in feed), "zone": share, "base": base})


def marked(row: Row, mask: Bools) -> Bools:
    """Which labelled tokens of a row are marked, (labelled,)."""
    places = [at for at, label in enumerate(row["labels"]) if at and label != -100]
    return np.asarray([bool(mask[at - row["offset"]]) for at in places], np.bool_)


def fed(arm: str, prepared: Prepared, masks: Mapping[str, Bools], factor: float, seed: int) -> list[Row]:
    """The rows of an arm in the order fed: each pass in a random order of its own, the same for all arms but the placebo."""
    if arm == "held-out themselves":
        return list(prepared.feeds[arm])
    rows = list(prepared.extra["rows"])
    if arm in (*DAMPED, *RANDOM.values()):
        used = {row["chain"]: masks[row["chain"]] for row in rows}
        if arm in RANDOM.values():
            used = {name: elsewhere(mask, generator(seed, "elsewhere", name)) for name, mask in used.items()}
        rows = [damped(row, used[row["chain"]], factor) for row in rows]
    return in_order(rows, seed, again=arm == "plain again")


def in_order(rows: Sequence[Row], seed: int, *, again: bool = False) -> list[Row]:
    """The rows in as many passes as there are, each in a random order of its own; ``again`` in others."""
    name = "again" if again else "order"
    return [rows[k] for n in range(PASSES) for k in generator(seed, name, str(n)).permutation(len(rows)).tolist()]


def halved_traces(
    bench: Bench, compiled: Compiled, items: Sequence[Segmented], masks: Mapping[str, Bools]
) -> list[Trace]:
    """Traces of the untrained model with the queries of the DRIFT line's layer halved at the marked tokens."""
    (line,) = [line.content for line in compiled.block.lines if isinstance(line.content, Drift)]
    found = []
    for item in items:
        first = len(bench.contexts.row(item).context)
        with halved(bench, line.layers[0], [first + int(t) for t in np.flatnonzero(masks[item.chain.id])]):
            found += bench.traces([item])
    return found


def moved(after: Sequence[Probe], before: Sequence[Probe], zone: Sequence[Bools], *, inside: bool) -> float:
    """Mean change of NLL at the marked tokens of rows, or at the others; NaN where there are none."""
    return mean((a.nll - b.nll)[mask == inside] for a, b, mask in zip(after, before, zone, strict=True))


_SWEEP, _NLL, _KL = 0.02, 0.01, 0.02


def _claims(arm: str, said: str) -> tuple[Claim, ...]:
    other = RANDOM[arm]
    controls = ("plain", other, "untrained")
    return (
        Claim(
            f"its statement, {arm}",
            f"After training with {said}, attention sweeps more widely at the zone's tokens, against random spans nearby, than "
            "without the block, than with its weights on random spans and than before",
            tuple(Criterion("sweep", arm, control, "higher", delta=_SWEEP) for control in controls),
        ),
        Claim(
            f"held-out text, {arm}",
            f"Training with {said} makes held-out text easier than it was, and easier than the same rows do without the block "
            "or with its weights on random spans",
            tuple(Criterion("change_h", arm, control, "lower", delta=_NLL) for control in ("plain", other, "")),
        ),
        Claim(
            f"drift, {arm}",
            f"Training with {said} drifts less on unrelated text than the same rows do without the block and with its weights "
            "on random spans, and learns no less",
            (
                *(Criterion("kl_d", arm, control, "lower", delta=_KL) for control in ("plain", other)),
                *(
                    Criterion("nll_h", arm, control, "lower", delta=_NLL, kind="not inferior")
                    for control in ("plain", other)
                ),
            ),
        ),
    )


EXPERIMENT = Experiment(
    name="block",
    number="",
    title="Training with a stellator block",
    hypothesis="Rows trained with a block that dampens the gradient of unstable tokens do what the block states of them and "
    "teach more of held-out text than the same rows without it, and than the same weights on random spans.",
    arms=(
        Arm("dampen", f"the loss of the zone's tokens times {FACTOR:g}, all layers", control=False),
        Arm("random spans", "the same weights on random spans of the same lengths in the same chains"),
        Arm(
            "block",
            "the whole block: the loss of the zone's tokens dampened, the middle third of the layers",
            control=False,
        ),
        Arm("block on random spans", "the same weights on random spans, the middle third of the layers"),
        Arm("plain", "the same rows in the same order without a block"),
        Arm("plain again", "the same in another random order: the placebo"),
        Arm("held-out themselves", "positive control of what is learnt: the held-out chains"),
        Arm(
            "queries halved",
            "positive control of the statement: the untrained model with the layer's queries halved at the zone's tokens",
            trained=False,
        ),
        Arm("untrained", "the model as it is", trained=False),
    ),
    claims=(*_claims("dampen", "the zone dampened"), *_claims("block", "the whole block")),
    positive=(
        Criterion("change_h", "held-out themselves", "plain", "lower", delta=_NLL),
        Criterion("sweep", "queries halved", "untrained", "higher", delta=_SWEEP),
    ),
    placebo=(
        Criterion("change_h", "plain again", "plain", "lower", delta=_NLL),
        Criterion("sweep", "plain again", "plain", "higher", delta=_SWEEP),
        Criterion("kl_d", "plain again", "plain", "lower", delta=_KL),
    ),
    same_rows=(("plain", "plain again", *DAMPED, *RANDOM.values()),),
    metrics={
        "sweep": "attention entropy of the statement's layer at the zone's tokens of held-out chains minus that of random "
        "spans of the same lengths nearby, nats, mean over heads",
        "passes": "1 where the product's verdict of the statement is pass, 0 where it is fail",
        "change_h": "change of NLL on held-out text of the trained family, nats per token, negative = learnt",
        "nll_h": "NLL on it after the training",
        "change_zone": "the change on held-out tokens of the zone",
        "change_rest": "the change on the others",
        "change_d": "change of NLL on unrelated text, positive = forgotten",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
        "weight": "mean loss weight of labelled tokens",
    },
    settings={
        "block": "; ".join(block_text(DEPTH).splitlines()),
        "zone unstable": zones()["unstable"].text,
        "chains": TRAIN,
        "passes": PASSES,
        "LoRA": "rank 8, alpha 16, all linear layers",
    },
    limits="One block of two training lines. ANCHOR and DRIFT are statements here and train nothing. The zone is chosen by the "
    "base model, on training and held-out chains together; verdicts are on held-out chains. Every arm "
    "trains at the rate that is best for the rows without a block. A common rate can still favour an arm.",
    prepare=prepare,
    run=run,
    rates=(1e-4, 3e-4, 1e-3),
    develop="nll_h",
    rate_of=dict.fromkeys(("plain again", "held-out themselves", *DAMPED, *RANDOM.values()), "plain"),
)
