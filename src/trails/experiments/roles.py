"""Experiment 13: is text easier with an adapter for every role, where the role has to be guessed?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trails.analyses.statistics import generator
from trails.errors import UsageError
from trails.evaluate.routes import Routed
from trails.experiments.base import Arm, Claim, Criterion, Emit, Experiment, Metrics, Prepared, Scale
from trails.experiments.bench import Bench, mean
from trails.experiments.corpus import Corpus
from trails.measure.base import Segmented
from trails.platform.arrays import Doubles
from trails.train.data import Row
from trails.train.many import Adapters, mixed

SOURCES = {
    "teacher": "gsm8k",
    "learner": "gsm8k-attempts",
    "critic": "strategyqa",
    "rewriter": "entailment-bank",
}
"""The source of every role: solutions that people wrote, those that models tried, questions that a claim must answer, facts put
together in other words."""
VOICES = ("teacher", "learner")
"""Roles that speak of the same kind of problem."""
TRAIN, HELD, SPARE = 64, 24, 18
"""Chains of every role: fed, held out, and spare for those that share text with what is fed."""
HEARD, LEAST = 16, 8
"""Tokens of a chain that its role is guessed from, behind its question, and the fewest that must follow them."""
RANK = 2
"""Rank of a role's adapter; that of the one adapter is this times the number of roles."""
DEALT = ("routed", "random labels", "random labels again")
"""Arms of one adapter for every role."""
WHOLE = ("one", "tagged", "held-out themselves")
"""Arms of one adapter of as many parameters."""


def roles_of(corpus: Corpus) -> dict[str, str]:
    """The source of every role of :data:`SOURCES` that the corpus has; where it has fewer than two, every source of reasoning
    but the unseen form is a role. Raises UsageError for fewer than two.
    """
    found = {role: source for role, source in SOURCES.items() if source in corpus.families}
    if len(found) < 2:
        found = {source: source for source in corpus.reasoning() if source != corpus.roles.unseen}
    if len(found) < 2:
        raise UsageError("experiment roles needs reasoning chains of two sources or more. Give others: --data PATH")
    return found


def heard(row: Row) -> list[int]:
    """The tokens that a row's role is guessed from: its question and the first :data:`HEARD` of the chain."""
    return list(row["input_ids"][: row["offset"] + HEARD])


def judged(row: Row) -> Row:
    """The row with labels behind what is heard only."""
    first = row["offset"] + HEARD
    labels = [label if at >= first else -100 for at, label in enumerate(row["labels"])]
    weights = [weight if at >= first else 0.0 for at, weight in enumerate(row["loss_weights"])]
    return row | {"labels": labels, "loss_weights": weights}


def tagged(row: Row, tag: Sequence[int], at: int) -> Row:
    """The row with the name of a role in front of its question, behind the ``at`` tokens that every row begins with; what is
    labelled stays the same.
    """
    more = len(tag)
    spans = [span | {"start": span["start"] + more, "end": span["end"] + more} for span in row["step_spans"]]
    return row | {
        "input_ids": [*row["input_ids"][:at], *tag, *row["input_ids"][at:]],
        "labels": [*row["labels"][:at], *[-100] * more, *row["labels"][at:]],
        "loss_weights": [*row["loss_weights"][:at], *[0.0] * more, *row["loss_weights"][at:]],
        "step_spans": spans,
        "offset": row["offset"] + more,
    }


def guessed(known: Sequence[Sequence[Row]], rows: Sequence[Row], vocabulary: int) -> list[int]:
    """The role of every row, as a number: naive Bayes over the tokens heard, learnt from the rows of each role."""
    counts = np.ones((len(known), vocabulary))
    for number, mine in enumerate(known):
        for row in mine:
            np.add.at(counts[number], heard(row), 1.0)
    log_p = np.log(counts / counts.sum(1, keepdims=True))
    return [int(np.argmax(log_p[:, heard(row)].sum(1))) for row in rows]


def dealt(steps: Sequence[Sequence[Row]], roles: int, seed: int, name: str) -> list[list[Row]]:
    """The rows of every step dealt to the roles: as they stand (no ``name``), or at random, so that in every step the adapters
    together see what they see with their own roles.
    """
    found: list[list[Row]] = [[] for _ in range(roles)]
    for number, rows in enumerate(steps):
        order = generator(seed, name, str(number)).permutation(len(rows)).tolist() if name else range(len(rows))
        each = len(rows) // roles
        for place, k in enumerate(order):
            found[place // each].append(rows[k])
    return found


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """The same rows of all roles for every arm, and held-out rows of every role."""
    roles = roles_of(corpus)
    each = max(1, scale.batch // len(roles))
    n_train, n_held = scale.count(TRAIN, 2) // each * each, scale.count(HELD, 2)
    size = n_train + n_held + scale.count(SPARE, 2)
    pools: list[list[Segmented]] = []
    for source in roles.values():
        own = corpus.block(source, seed, size)[:size]
        pools.append([item for item in own if _long(bench.row(item, scale.max_tokens))])
    train = [[bench.row(item, scale.max_tokens) for item in pool[:n_train]] for pool in pools]
    for role, mine in zip(roles, train, strict=True):
        if len(mine) < n_train:
            raise UsageError(f"the role {role!r} has {len(mine)} of {n_train} chains. Give more: --data PATH")
    fed = [row["input_ids"] for mine in train for row in mine]
    held: list[Row] = []
    of: list[int] = []
    for number, pool in enumerate(pools):
        found = bench.apart(pool[n_train:], n_held, fed, scale.max_tokens)
        if not found:
            raise UsageError(f"the role {list(roles)[number]!r} has no chain left to hold out. Give more: --data PATH")
        held += found
        of += [number] * len(found)
    steps = [
        [row for mine in train for row in mine[start : start + each]] for start in range(0, n_train, each)
    ]  # fmt: skip
    rows = [row for step in steps for row in step]
    tags, prefix = [bench.ids(f"{role}:\n") for role in roles], len(bench.contexts.prefix)
    role_of = [number for step in steps for number in range(len(roles)) for _ in range(len(step) // len(roles))]
    feeds: dict[str, Sequence[Row]] = dict.fromkeys((*DEALT, "averaged", "one"), rows)
    feeds["tagged"] = [tagged(row, tags[k], prefix) for row, k in zip(rows, role_of, strict=True)]
    feeds["held-out themselves"] = [held[k % len(held)] for k in _order(seed, len(held), len(rows))]
    unrelated = [
        row for row in bench.apart(corpus.unrelated(seed), scale.evaluate, fed, scale.max_tokens) if _long(row)
    ]
    sets = {"H": [judged(row) for row in held], "D": [judged(row) for row in unrelated]}
    return Prepared(feeds, sets, {"roles": list(roles), "of": of, "steps": steps, "tags": tags, "prefix": prefix})


def _long(row: Row) -> bool:
    return bool(len(row["input_ids"]) - row["offset"] >= HEARD + LEAST)


def _order(seed: int, size: int, count: int) -> list[int]:
    return [k for n in range(-(-count // size)) for k in generator(seed, "held", str(n)).permutation(size).tolist()][
        :count
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
    """One seed: the adapters of roles side by side, then those of as many parameters, as many steps on the same rows each."""
    roles, of, steps, tags, prefix = (prepared.extra[name] for name in ("roles", "of", "steps", "tags", "prefix"))
    held, unrelated = list(prepared.sets["H"]), list(prepared.sets["D"])
    count, each = len(roles), len(steps[0]) // len(roles)
    n_steps = scale.n_steps(len(steps))
    whole = np.asarray(of)
    voices = [number for number, role in enumerate(roles) if role in VOICES]
    voices = voices if len(voices) > 1 else [0, 1]

    def told(nll: Doubles) -> Metrics:
        by_role = [float(nll[whole == number].mean()) for number in range(count)]
        return {"nll_h": float(np.mean(by_role)), "nll_voices": float(np.mean([by_role[k] for k in voices]))}

    untrained = bench.probe(bench.model, held)
    before = told(_means(untrained))
    drift = mean(p.nll for p in bench.probe(bench.model, unrelated))
    own = dealt(steps, count, seed, "")
    mine, theirs = (guessed(own, rows, bench.vocabulary) for rows in (held, unrelated))

    def done(arm: str, nll: Doubles, moved: Sequence[Any], losses: Sequence[float], more: Metrics) -> None:
        found = told(nll)
        metrics = found | {
            "change_h": found["nll_h"] - before["nll_h"],
            "change_d": mean(p.nll for p in moved) - drift,
            "kl_d": mean(p.kl for p in moved if p.kl is not None),
            "loss": float(np.mean(losses)),
        }
        fed = prepared.feeds[arm][: n_steps * count * each]
        emit(arm, metrics | more, {"tokens": sum(len(row["input_ids"]) for row in fed)})

    if "untrained" in arms:
        right = float(np.mean(whole == mine))
        emit("untrained", before | {"guessed": right, "change_h": 0.0, "change_d": 0.0, "kl_d": 0.0}, {"tokens": 0})
    parted = [arm for arm in DEALT if arm in arms or (arm == "routed" and "averaged" in arms)]
    if parted:
        names = {"random labels": "random", "random labels again": "again"}
        rows_of = {arm: dealt(steps, count, seed, names.get(arm, "")) for arm in parted}
        feeds = {f"{arm}, {role}": rows for arm in parted for role, rows in zip(roles, rows_of[arm], strict=True)}
        given = {name: rates[name.rpartition(", ")[0]] for name in feeds}
        options = bench.options(scale, n_steps, seed, batch=each, rank=RANK, alpha=2 * RANK)
        with bench.side_by_side(feeds, given, options) as (adapters, losses):
            probes = bench.probe_each(adapters, held)
            moved = bench.probe_each(adapters, unrelated, compare=True)
        for number, arm in enumerate(parted):
            at = range(number * count, (number + 1) * count)
            nll = {role: _means(probes[k]) for role, k in zip(roles, at, strict=True)}
            routes = Routed(nll, tuple(roles[k] for k in of), tuple(row["chain"] for row in held))
            guess, other = mine, theirs
            if arm != "routed":
                guess, other = (guessed(rows_of[arm], rows, bench.vocabulary) for rows in (held, unrelated))
            sent = routes.routed([roles[k] for k in guess])
            last = [losses[f"{arm}, {role}"][-1] for role in roles]
            if arm in arms:
                more = _elsewhere(routes) if arm == "routed" else {}
                done(arm, sent, [moved[at[k]][row] for row, k in enumerate(other)], last, more)
            if arm == "routed" and "averaged" in arms:
                one = mixed(adapters, [RANK] * count, list(at), [1 / count] * count)
                found, drifted = _with(bench, one, held, unrelated)
                done("averaged", _means(found), drifted, last, {})
    united = [arm for arm in WHOLE if arm in arms]
    if united:
        feeds = {arm: list(prepared.feeds[arm]) for arm in united}
        options = bench.options(scale, n_steps, seed, batch=count * each, rank=count * RANK, alpha=2 * count * RANK)

        def named(rows: Sequence[Row], guess: Sequence[int]) -> list[Row]:
            return [tagged(row, tags[k], prefix) for row, k in zip(rows, guess, strict=True)]

        with bench.side_by_side(feeds, rates, options) as (adapters, losses):
            plain = bench.probe_each(adapters, held), bench.probe_each(adapters, unrelated, compare=True)
            told_of = (
                bench.probe_each(adapters, named(held, mine)),
                bench.probe_each(adapters, named(unrelated, theirs), compare=True),
            )
        for number, arm in enumerate(united):
            on, off = told_of if arm == "tagged" else plain
            done(arm, _means(on[number]), off[number], [losses[arm][-1]], {})


def _means(probes: Sequence[Any]) -> Doubles:
    """Mean surprisal of every row, as routes are judged."""
    return np.asarray([float(p.nll.mean(dtype=np.float64)) for p in probes])


def _elsewhere(routes: Routed) -> Metrics:
    """The same rows with the adapter of their true role, and on average with those of the others; each role counts alike."""
    true = routes.routed(routes.roles)
    others = [
        np.mean([nll[row] for role, nll in routes.nll.items() if role != own]) for row, own in enumerate(routes.roles)
    ]
    by_role = [[row for row, own in enumerate(routes.roles) if own == role] for role in routes.nll]
    return {
        name: float(np.mean([np.asarray(values)[rows].mean() for rows in by_role]))
        for name, values in (("nll_true", true), ("nll_wrong", others))
    }


def _with(bench: Bench, adapters: Adapters, *asked: Sequence[Row]) -> list[Any]:
    """Held-out rows with one adapter, and unrelated ones beside the model without it."""
    held, unrelated = asked
    with adapters.installed():
        adapters.set()
        (found,) = bench.probe_each(adapters, held)
        (moved,) = bench.probe_each(adapters, unrelated, compare=True)
    return [found, moved]


_DELTA, _KL = 0.01, 0.02


def _easier(metric: str, treatment: str, *controls: str) -> tuple[Criterion, ...]:
    return tuple(Criterion(metric, treatment, control, "lower", delta=_DELTA) for control in controls)


EXPERIMENT = Experiment(
    name="roles",
    number="13",
    title="An adapter for every role",
    hypothesis="Roles are worth adapters of their own: sent to the adapter of the role that is guessed for it, held-out text "
    "is likelier than with one adapter of as many parameters, trained in as many steps on the same rows, and than with "
    "adapters whose roles are labels dealt at random.",
    arms=(
        Arm(
            "routed",
            f"an adapter of rank {RANK} for each role, trained on its rows; a text takes that of its guessed role",
            control=False,
        ),
        Arm("averaged", "the sum of the same adapters, each weighted by its share of the rows"),
        Arm("random labels", "as many adapters, the rows of every step dealt to them at random, and guessed likewise"),
        Arm("random labels again", "the same, dealt again: the placebo"),
        Arm("one", "one adapter of as many parameters, on the rows of all roles"),
        Arm("tagged", "the same with the name of the role in front of every row; at the test, of the guessed role"),
        Arm("held-out themselves", "positive control: one adapter on the held-out rows"),
        Arm("untrained", "the model as it is", trained=False),
    ),
    claims=(
        Claim(
            "roles help",
            "With the adapter of its guessed role held-out text is easier than it was, and easier than with one adapter of as "
            "many parameters, with the role named in the text or not, while unrelated text drifts no more than with the one",
            (
                *_easier("nll_h", "routed", "one", "tagged", "untrained"),
                Criterion("kl_d", "routed", "one", "lower", delta=_KL, kind="not inferior"),
            ),
        ),
        Claim(
            "roles, not several adapters",
            "With the adapter of its guessed role held-out text is easier than with adapters of random labels and than with "
            "the average of the adapters",
            _easier("nll_h", "routed", "random labels", "averaged"),
        ),
        Claim(
            "voices, not subjects",
            "Of two roles that solve the same kind of problem, held-out text is easier with the adapter of the guessed role "
            "than with one adapter of as many parameters",
            _easier("nll_voices", "routed", "one"),
        ),
        Claim(
            "a name is enough",
            "One adapter makes held-out text easier where the role stands in front of the text than where it does not",
            _easier("nll_h", "tagged", "one"),
        ),
    ),
    positive=_easier("nll_h", "held-out themselves", "one"),
    placebo=_easier("nll_h", "random labels again", "random labels"),
    same_rows=((*DEALT, "averaged", "one"),),
    metrics={
        "nll_h": f"NLL of held-out chains behind their first {HEARD} tokens, mean over the tokens of a chain, the chains of a "
        "role and the roles, nats per token",
        "change_h": "its change by the training, negative = learnt",
        "nll_voices": f"NLL of the roles {' and '.join(VOICES)} alone",
        "nll_true": "NLL of held-out chains with the adapter of their true role",
        "nll_wrong": "NLL with the adapters of the other roles, mean over them",
        "guessed": "share of held-out chains whose role is guessed right",
        "change_d": "change of NLL on unrelated text, its roles guessed, too; positive = forgotten",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
        "loss": "loss of the last step, mean over the adapters",
    },
    settings={
        "sources of the roles": "; ".join(f"{role}: {source}" for role, source in SOURCES.items()),
        "chains of each role to train on": TRAIN,
        "held out": HELD,
        "the role is guessed from": f"the question and the first {HEARD} tokens, by naive Bayes over the rows trained on",
        "steps": "as many for every adapter; an adapter of a role sees its own rows of each step of the one adapter",
        "LoRA": f"rank {RANK} for a role, {RANK} times the number of roles for the one, alpha twice the rank, all linear "
        "layers",
        "cost": "estimated, not measured: 40 s for a seed on an H200 that six processes share, 170 s for the development, the "
        "plan and 10 seeds",
    },
    limits="A role is the voice of a source. Sources differ in their subjects, too, except for two of them, of which one claim "
    "speaks; roles that change within a text are not tested. The guess is a simple one, and its share of right ones is "
    "reported; with another guess the routes may be worth more or less. A role's adapter has a fourth of the parameters and "
    "sees a fourth of the rows of each step.",
    prepare=prepare,
    run=run,
    rates=(1e-4, 3e-4, 1e-3),
    develop="nll_h",
    rate_of={"averaged": "routed", "random labels again": "random labels", "held-out themselves": "one"},
)
