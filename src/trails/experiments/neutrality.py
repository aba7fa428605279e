"""Experiment 5: does spelling out a bridge in training help the model to draw conclusions whose bridge is left out?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trails.errors import UsageError
from trails.experiments.base import Arm, Claim, Criterion, Emit, Experiment, Metrics, Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import Corpus, disjoint, generator
from trails.measure.base import Segmented
from trails.train.data import Row

TRAIN, TEST = 64, 96
STEPS = 48
CHOICES = 4
FILLER = " ."


@dataclass(frozen=True, slots=True)
class Enthymeme:
    """An argument with its bridge apart: question and steps before as ``context``, the left-out step, the step that follows it,
    and other steps that might follow.
    """

    chain: str
    context: str
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
        question = f"{item.chain.question}\n" if item.chain.question else ""
        if right and len(others) >= CHOICES - 1:
            name = item.chain.id
            found.append(Enthymeme(name, question + before, _text(item, bridge), right, others[: CHOICES - 1]))
    return found


def _text(item: Segmented, k: int) -> str:
    return item.chain.text[item.steps[k].start : item.steps[k].end].strip()


def row_of(bench: Bench, one: Enthymeme, arm: str, max_tokens: int) -> Row:
    """A training row. The loss lies on bridge and conclusion where the bridge is spelled out, on the conclusion elsewhere;
    filler takes the bridge's place token for token and is not learnt.
    """
    context = bench.ids(one.context.rstrip())
    bridge = bench.ids(f" {one.bridge}")
    end = bench.ids(f" {one.conclusion}")
    filler = (bench.ids(FILLER) * len(bridge))[: len(bridge)]
    middle = {"bridge": bridge, "filler": filler, "nothing": []}[arm]
    context = context[-max(max_tokens - len(middle) - len(end), 8) :]
    weights = [1.0 if arm == "bridge" else 0.0] * len(middle) + [1.0] * len(end)
    row = bench.ids_row([*middle, *end], context, chain=one.chain, weights=weights)
    row["labels"] = [
        label if weight else -100 for label, weight in zip(row["labels"], row["loss_weights"], strict=True)
    ]
    return row


def accuracy(bench: Bench, model: object, tests: Sequence[Enthymeme], max_tokens: int) -> Metrics:
    """How often the true conclusion is the likeliest of the choices right after the context, without the bridge; chance is
    1 / :data:`CHOICES`. Choices are compared by nats per token. ``nll_conclusion`` is that of the true one, ``with_bridge`` the
    accuracy where the bridge stands in the context.
    """
    found: Metrics = {}
    for name, spelled in (("accuracy", False), ("with_bridge", True)):
        rows = []
        for one in tests:
            context = bench.ids(f"{one.context.rstrip()} {one.bridge}" if spelled else one.context.rstrip())
            for choice in (one.conclusion, *one.others):
                end = bench.ids(f" {choice}")[: max_tokens // 2]
                rows.append(bench.ids_row(end, context[-(max_tokens - len(end)) :]))
        nll = np.asarray([float(np.mean(p.nll)) for p in bench.probe(model, rows)]).reshape(len(tests), CHOICES)
        found[name] = float((nll.argmin(axis=1) == 0).mean())
        if not spelled:
            found["nll_conclusion"] = float(nll[:, 0].mean())
            found["margin"] = float((nll[:, 1:].min(axis=1) - nll[:, 0]).mean())
    return found


def run(bench: Bench, corpus: Corpus, scale: Scale, seed: int, arms: Sequence[str], emit: Emit) -> None:
    """One seed: the same arguments in the same order for every arm; the test arguments are unseen."""
    family = corpus.family(corpus.roles.trained, seed)
    every = enthymemes(family, seed)
    wanted = min(scale.count(TRAIN, 4), len(every) // 2)
    train = every[:wanted]
    taken = [bench.ids(f"{one.context}{one.bridge} {one.conclusion}") for one in train]
    tests: list[Enthymeme] = []
    for one in every[wanted:]:
        if len(tests) == scale.count(TEST, 6):
            break
        if disjoint([bench.ids(f"{one.context}{one.bridge} {one.conclusion}")], taken):
            tests.append(one)
    if len(train) < 4 or len(tests) < 6:
        raise UsageError(
            f"experiment neutrality needs chains of four steps or more; {corpus.roles.trained!r} has {len(train)} to train on "
            f"and {len(tests)} to test with that share no 13 tokens. Choose another family: --trained SOURCE"
        )
    sets = bench.sets(corpus, scale, seed, wanted)
    base = bench.base(sets)
    before = accuracy(bench, bench.model, tests, scale.max_tokens)
    steps = scale.n_steps(STEPS)
    order = [
        int(k) for n in range(steps) for k in generator(seed, "feed", str(n)).permutation(len(train))[: scale.batch]
    ]
    for arm in arms:
        if arm == "untrained":
            found = before | {"change_accuracy": 0.0, "change_d": 0.0, "kl_d": 0.0, "bridge_cost": 0.0}
            found["bridge_cost"] = before["with_bridge"] - before["accuracy"]
            emit(arm, found, {"tests": len(tests), "tokens": 0})
            continue
        feed = [row_of(bench, train[k], arm, scale.max_tokens) for k in order]
        batch = max(1, len(feed) // steps)
        with bench.trained(feed, bench.options(scale, steps, seed, batch=batch)) as (model, losses):
            found = accuracy(bench, model, tests, scale.max_tokens)
            changes = bench.changes(bench.measure(model, sets), base)
        found |= {name: changes[name] for name in ("change_d", "kl_d")}
        found["change_accuracy"] = found["accuracy"] - before["accuracy"]
        found["bridge_cost"] = found["with_bridge"] - found["accuracy"]
        extra = {"tests": len(tests), "train": len(train), "loss": losses[-1], "steps": steps}
        labelled = sum(label != -100 for row in feed for label in row["labels"])
        emit(arm, found, extra | {"tokens": sum(len(row["input_ids"]) for row in feed), "labelled": labelled})


EXPERIMENT = Experiment(
    name="neutrality",
    number="5",
    title="Paradoxical neutrality",
    hypothesis="What people supply in the background is absent for the model: trained on arguments whose bridge is spelled "
    "out, it draws unseen conclusions without their bridge more often than trained with filler of the same length or with "
    "nothing in the bridge's place.",
    arms=(
        Arm("bridge", "context, bridge, conclusion; loss on bridge and conclusion", control=False),
        Arm("filler", "context, as many dots as the bridge has tokens, conclusion; loss on the conclusion"),
        Arm("nothing", "context, conclusion; loss on the conclusion"),
        Arm("untrained", "the model as it is"),
    ),
    claims=(
        Claim(
            "bridges teach",
            "Spelled-out bridges raise the accuracy on unseen enthymemes above filler and above nothing",
            tuple(Criterion("accuracy", "bridge", control, "higher") for control in ("filler", "nothing")),
        ),
        Claim(
            "neutral",
            "Without its bridge a conclusion is found less often than with it, by the untrained model",
            (Criterion("bridge_cost", "untrained", "", "higher"),),
        ),
        Claim(
            "not length alone",
            "Filler of the bridge's length teaches no more than nothing in its place (a guard on what tokens to think on do)",
            (Criterion("accuracy", "filler", "nothing", "lower"),),
        ),
    ),
    metrics={
        "accuracy": f"share of unseen enthymemes whose true conclusion is the likeliest of {CHOICES} (chance {1 / CHOICES:g})",
        "change_accuracy": "accuracy minus that of the untrained model",
        "with_bridge": "the same where the bridge stands in the context",
        "bridge_cost": "with_bridge minus accuracy: what leaving the bridge out costs",
        "nll_conclusion": "NLL of the true conclusion without its bridge, nats per token",
        "margin": "NLL of the likeliest wrong choice minus that of the true one, nats per token",
        "change_d": "change of NLL on unrelated text, positive = forgotten",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
    },
    settings={
        "arguments to train on": TRAIN,
        "to test": TEST,
        "choices": CHOICES,
        "steps": STEPS,
        "learning rate": 1e-3,
    },
    limits="Rows and steps are equal; the bridge arm has more labelled tokens, which is its treatment. A conclusion is a step "
    "of a data set's chain; wrong choices are later steps of the same chain first, which the words in common do not give away.",
    run=run,
)
