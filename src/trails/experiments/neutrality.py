"""Experiment 5: does spelling out a bridge in training help the model to draw conclusions whose bridge is left out?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trails.analyses.statistics import generator
from trails.errors import UsageError
from trails.evaluate.probe import Probe
from trails.experiments.base import Arm, Claim, Criterion, Emit, Experiment, Metrics, Prepared, Scale
from trails.experiments.bench import Bench, mean
from trails.experiments.corpus import Corpus, disjoint
from trails.measure.base import Segmented
from trails.train.data import Row

TRAIN, TEST = 24, 30
"""Arguments of each source."""
PASSES = 2
CHOICES = 4
FILLER = " ."


@dataclass(frozen=True, slots=True)
class Enthymeme:
    """An argument with its bridge apart: the question, the steps before, the left-out step, the step that follows it, and
    other steps that might follow.
    """

    chain: str
    question: str
    before: str
    bridge: str
    conclusion: str
    others: tuple[str, ...]


def enthymemes(items: Sequence[Segmented], seed: int) -> list[Enthymeme]:
    """One enthymeme of every chain with at least four steps: a random interior step is the bridge.

    The other choices are later steps of the same chain, which speak of the same things, then steps of other chains.
    """
    found = []
    spare = [_text(item, k) for item in items for k in range(1, len(item.steps)) if len(_text(item, k).split()) >= 3]
    for item in items:
        n = len(item.steps)
        if n < 4:
            continue
        draw = generator(seed, "bridge", item.chain.id)
        bridge = 1 + int(draw.integers(n - 2))
        right = _text(item, bridge + 1)
        later = [_text(item, k) for k in range(bridge + 2, n)]
        later += [spare[k] for k in draw.permutation(len(spare))[: 4 * CHOICES].tolist()]
        others = tuple(dict.fromkeys(text for text in later if text and text not in (right, _text(item, bridge))))
        before = "".join(item.chain.text[step.start : step.end] for step in item.steps[:bridge])
        if right and len(others) >= CHOICES - 1:
            name, question = item.chain.id, item.chain.question
            found.append(Enthymeme(name, question, before, _text(item, bridge), right, others[: CHOICES - 1]))
    return found


def _text(item: Segmented, k: int) -> str:
    return item.chain.text[item.steps[k].start : item.steps[k].end].strip()


def row_of(bench: Bench, one: Enthymeme, arm: str, max_tokens: int) -> Row:
    """A training row. The loss lies on the conclusion, and on what stands in the bridge's place if that is text: the bridge, or
    another argument's step repeated or cut to its length. Filler takes the place token for token and is not learnt.
    """
    context = bench.opened(one.question, one.before.rstrip())
    bridge = bench.ids(f" {one.bridge}")
    end = bench.ids(f" {one.conclusion}")[: max_tokens // 2]
    size = len(bridge)
    middle = {
        "bridge": bridge,
        "other step": (bench.ids(f" {one.others[-1]}") * size)[:size],
        "filler": (bench.ids(FILLER) * size)[:size],
        "nothing": [],
    }[arm]
    context = context[-max(max_tokens - len(middle) - len(end), 8) :]
    weights = [float(arm in ("bridge", "other step"))] * len(middle) + [1.0] * len(end)
    row = bench.ids_row([*middle, *end], context, chain=one.chain, weights=weights)
    row["labels"] = [
        label if weight else -100 for label, weight in zip(row["labels"], row["loss_weights"], strict=True)
    ]
    return row


def test_rows(bench: Bench, tests: Sequence[Enthymeme], max_tokens: int, *, spelled: bool) -> list[Row]:
    """Rows of the choices of every test, the true conclusion first, right after the context (``spelled``: after the bridge)."""
    rows = []
    for one in tests:
        before = one.before.rstrip()
        context = bench.opened(one.question, f"{before} {one.bridge}" if spelled else before)
        for choice in (one.conclusion, *one.others):
            end = bench.ids(f" {choice}")[: max_tokens // 2]
            rows.append(bench.ids_row(end, context[-(max_tokens - len(end)) :], chain=one.chain))
    return rows


def accuracy(probes: Sequence[Probe]) -> Metrics:
    """How often the true conclusion is the likeliest of the choices (chance 1 / :data:`CHOICES`), compared by nats per token;
    the margin to the likeliest wrong one; and its NLL.
    """
    nll = np.asarray([float(np.mean(p.nll)) for p in probes]).reshape(-1, CHOICES)
    return {
        "accuracy": float((nll.argmin(axis=1) == 0).mean()),
        "margin": float((nll[:, 1:].min(axis=1) - nll[:, 0]).mean()),
        "nll_conclusion": float(nll[:, 0].mean()),
    }


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """The same arguments of every source with four steps or more for every arm; the test arguments are unseen."""
    n_train, n_test = scale.count(TRAIN, 4), scale.count(TEST, 6)
    train: list[Enthymeme] = []
    tests: list[Enthymeme] = []
    rest: list[list[Enthymeme]] = []
    for source in corpus.reasoning():
        every = enthymemes(corpus.block(source, seed, 2 * (n_train + n_test))[: 4 * (n_train + n_test)], seed)
        wanted = min(n_train, len(every) // 2)
        if wanted >= 4:
            train += every[:wanted]
            rest.append(every[wanted:])

    def whole(one: Enthymeme) -> list[int]:
        return bench.opened(one.question, f"{one.before}{one.bridge} {one.conclusion}")

    taken = [whole(one) for one in train]
    for several in rest:
        found: list[Enthymeme] = []
        for one in several:
            if len(found) == n_test:
                break
            if disjoint([whole(one)], taken):
                found.append(one)
        tests += found
    train = train[: len(train) // scale.batch * scale.batch]
    if len(train) < 4 or len(tests) < 6:
        raise UsageError(
            "experiment neutrality needs chains of four steps or more that share no 13 tokens: no source has 4 to "
            "train on and 6 "
            "to test with. Give other chains: --data PATH"
        )
    order = [k for n in range(PASSES) for k in generator(seed, "feed", str(n)).permutation(len(train)).tolist()]
    half = set(generator(seed, "half").permutation(len(train))[: len(train) // 2].tolist())

    def feed(which: Callable[[int], str]) -> list[Row]:
        made = {(k, which(k)): row_of(bench, train[k], which(k), scale.max_tokens) for k in range(len(train))}
        return [made[k, which(k)] for k in order]

    feeds = {arm: feed(lambda _, arm=arm: arm) for arm in ("bridge", "other step", "filler", "nothing")}  # type: ignore[misc]
    feeds["mixed"] = feed(lambda k: "bridge" if k in half else "nothing")
    feeds["mixed filler"] = feed(lambda k: "filler" if k in half else "nothing")
    nothing = [row_of(bench, one, "nothing", scale.max_tokens) for one in train]
    for name, part in (("half", sorted(half)), ("other half", sorted(set(range(len(train))) - half))):
        feeds[name] = [nothing[part[k % len(part)]] for k in order]
    told = [row_of(bench, one, "nothing", scale.max_tokens) for one in tests]
    feeds["tests themselves"] = [told[n % len(told)] for n in range(len(order))]
    sets = {
        "H": test_rows(bench, tests, scale.max_tokens, spelled=False),
        "with bridge": test_rows(bench, tests, scale.max_tokens, spelled=True),
        "D": [bench.row(item, scale.max_tokens) for item in corpus.unrelated(seed)[: scale.evaluate]],
    }
    return Prepared(feeds, sets, {"tests": len(tests)})


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
    rows, unrelated = list(prepared.sets["H"]), list(prepared.sets["D"])
    before = accuracy(bench.probe(bench.model, rows))
    spelled = accuracy(bench.probe(bench.model, list(prepared.sets["with bridge"])))
    drift = mean(p.nll for p in bench.probe(bench.model, unrelated))
    if "untrained" in arms:
        cost = {
            "bridge_cost": spelled["accuracy"] - before["accuracy"],
            "bridge_gain": spelled["margin"] - before["margin"],
        }
        emit(
            "untrained", before | cost | {"change_d": 0.0, "kl_d": 0.0}, {"tokens": 0, "tests": prepared.extra["tests"]}
        )
    feeds = {arm: list(prepared.feeds[arm]) for arm in arms if arm != "untrained"}
    if not feeds:
        return
    steps = scale.n_steps(len(next(iter(feeds.values()))) // scale.batch)
    with bench.side_by_side(feeds, rates, bench.options(scale, steps, seed)) as (adapters, losses):
        found = bench.probe_each(adapters, rows)
        moved = bench.probe_each(adapters, unrelated, compare=True)
    for arm, probes, other in zip(feeds, found, moved, strict=True):
        metrics = accuracy(probes) | {
            "change_d": mean(p.nll for p in other) - drift,
            "kl_d": mean(p.kl for p in other if p.kl is not None),
            "loss": losses[arm][-1],
        }
        feed = feeds[arm][: steps * scale.batch]
        labelled = sum(label != -100 for row in feed for label in row["labels"])
        extra = {"tests": prepared.extra["tests"], "steps": steps, "labelled": labelled}
        emit(arm, metrics, extra | {"tokens": sum(len(row["input_ids"]) for row in feed)})


_DELTA = 0.03

EXPERIMENT = Experiment(
    name="neutrality",
    number="5",
    title="Paradoxical neutrality",
    hypothesis="What people supply in the background is absent for the model: trained on arguments whose bridge is "
    "spelled "
    "out, it finds unseen conclusions without their bridge likelier, against wrong ones, than trained with another "
    "step, with "
    "filler of the same length or with nothing in the bridge's place.",
    arms=(
        Arm(
            "mixed",
            "half of the arguments with their bridge, half without: no arm has the tests' format alone",
            control=False,
        ),
        Arm("bridge", "context, bridge, conclusion; loss on bridge and conclusion", control=False),
        Arm("other step", "another argument's step, equally long, in the bridge's place; loss on both"),
        Arm("filler", "as many dots as the bridge has tokens; loss on the conclusion"),
        Arm("mixed filler", "half of the arguments with filler, half without"),
        Arm("nothing", "context, conclusion; loss on the conclusion"),
        Arm("half", "context, conclusion, of a random half of the arguments: the placebo"),
        Arm("other half", "of the other half"),
        Arm("tests themselves", "positive control: context and conclusion of the test arguments"),
        Arm("untrained", "the model as it is", trained=False),
    ),
    claims=(
        Claim(
            "bridges teach",
            "Arguments half of which spell out their bridge raise the margin of unseen conclusions above filler in the "
            "same half, "
            "above nothing in its place and above the untrained model",
            tuple(
                Criterion("margin", "mixed", control, "higher", delta=_DELTA)
                for control in ("mixed filler", "nothing", "untrained")
            ),
        ),
        Claim(
            "bridges, not any step",
            "Spelled-out bridges raise the margin of unseen conclusions above another step of the same length in their "
            "place",
            (Criterion("margin", "bridge", "other step", "higher", delta=_DELTA),),
        ),
        Claim(
            "bridges, not length",
            "Spelled-out bridges raise the margin of unseen conclusions above filler of the same length in their place",
            (Criterion("margin", "bridge", "filler", "higher", delta=_DELTA),),
        ),
        Claim(
            "filler is nothing",
            "Filler of the bridge's length in half of the arguments teaches as much as nothing in its place",
            (Criterion("margin", "mixed filler", "nothing", "higher", delta=_DELTA, kind="equivalent"),),
        ),
        Claim(
            "missed",
            "The untrained model finds a conclusion more clearly with its bridge than without it",
            (Criterion("bridge_gain", "untrained", "", "higher", delta=_DELTA),),
        ),
    ),
    positive=(Criterion("margin", "tests themselves", "nothing", "higher", delta=_DELTA),),
    placebo=(Criterion("margin", "half", "other half", "higher", delta=_DELTA),),
    metrics={
        "margin": "NLL of the likeliest wrong choice minus that of the true conclusion, without the bridge, nats per "
        "token",
        "accuracy": f"share of arguments whose true conclusion is the likeliest of {CHOICES} (chance {1 / CHOICES:g})",
        "bridge_cost": "accuracy with the bridge in the context minus accuracy without it, untrained",
        "bridge_gain": "margin with the bridge in the context minus margin without it, untrained, nats per token",
        "nll_conclusion": "NLL of the true conclusion without its bridge, nats per token",
        "change_d": "change of NLL on unrelated text, positive = forgotten",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
    },
    settings={
        "arguments of each source to train on": TRAIN,
        "to test": TEST,
        "choices": CHOICES,
        "passes": PASSES,
        "LoRA": "rank 8, alpha 16, all linear layers",
    },
    limits="A conclusion is a step of a data set's chain; wrong choices are later steps of the same chain first, which "
    "the words "
    "in common do not give away. The arms *bridge* and *other step* have the same number of labelled tokens, more than "
    "the others.",
    prepare=prepare,
    run=run,
    rates=(1e-4, 3e-4, 1e-3),
    develop="nll_conclusion",
)
