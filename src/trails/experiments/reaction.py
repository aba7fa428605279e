"""Experiment 8: does choosing training data by the reaction of unseen probes beat choosing it at random in the same family?

A chain's reaction is how much likelier it makes probes of the target family when it stands before them, minus what its own
tokens in random order do. What is chosen is packed into steps that hold equally many labelled tokens in every arm.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse

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
    at_equal_gain,
    code_digest,
    rows_digest,
)
from trails.experiments.bench import Bench, mean
from trails.experiments.corpus import Corpus, disjoint
from trails.experiments.scale import DEVELOPMENT
from trails.measure.base import Segmented
from trails.platform.arrays import Doubles
from trails.schema import stable_hash
from trails.train.data import Collator, Row
from trails.train.loss import labelled_logits, shifted, token_nll

STEPS, TOKENS = 24, 640
"""Steps, and labelled tokens of each."""
PROBES, DRAWN = 20, 10
"""Probes that every chain is put before, and how many of them a seed goes by."""
PROBE_TOKENS = 96
POOL, OTHERS = 900, 900
"""Chains of the family and of the other sources that a seed chooses from."""
SCORED = 1200
"""Chains of the other sources that the seeds draw from."""
HELD, RESERVED = 200, 200
"""Held-out chains of a seed; chains that only the development seeds hold out."""
TIMES = 4
"""The pools hold at least so many times the labelled tokens that are trained on."""
TEMPERATURE = 0.5
"""Chances of a choice grow by the factor e with every half standard deviation of its score."""
AT, SEEN = (8, 16), 60
"""Steps at which the curve is measured before the end, and the held-out chains that it is measured on."""
SEPARATOR = "\n\n"
NEAREST = 8
EMPTY: Row = {"input_ids": [0], "labels": [-100], "loss_weights": [0.0], "chain": "", "offset": 0, "step_spans": []}

INSIDE = ("family", "family again", "length-matched", "tf-idf", "reaction", "reaction alone")
ABSENT = ("absent random", "absent tf-idf", "absent reaction")


@dataclass(frozen=True, slots=True)
class Parts:
    """Three parts of the target family that share no question, and chains of other sources.

    ``scored`` are all chains that any seed may choose, whose scores are computed once; ``pool`` and ``others`` those of this
    seed, as places in ``scored``. ``drawn`` are the probes that this seed goes by, as places in ``probes``.
    """

    probes: tuple[Segmented, ...]
    scored: tuple[Segmented, ...]
    pool: tuple[int, ...]
    others: tuple[int, ...]
    held: tuple[Segmented, ...]
    drawn: tuple[int, ...]


def _question(item: Segmented) -> str:
    return " ".join(item.chain.question.split()) or item.chain.id


def _few(scale: Scale, full: int, least: int) -> int:
    """Numbers that cost their product: the square of the scale."""
    return max(least, round(full * scale.size**2))


def parts_of(corpus: Corpus, scale: Scale, seed: int) -> Parts:
    """Probes, pool and held-out chains of a seed: split by question, pool and held-out chains drawn for every seed."""
    target = corpus.roles.trained
    whole = corpus.block(target, 0, 1)
    n_probes = _few(scale, PROBES, 2)
    probes: list[Segmented] = []
    taken: set[str] = set()
    for item in whole:
        if len(probes) < n_probes and _question(item) not in taken:
            probes.append(item)
            taken.add(_question(item))
    rest = [item for item in whole if _question(item) not in taken]
    reserve = rest[len(rest) - min(_few(scale, RESERVED, 8), len(rest) // 4) :]
    kept_back = {_question(item) for item in reserve}
    able = [item for item in rest if _question(item) not in kept_back]
    if scale.size < 1:
        able = able[: _few(scale, POOL, 24)]
    sources = [name for name in corpus.reasoning() if name != target]
    share = _few(scale, SCORED, 12) // max(len(sources), 1)
    foreign = [item for name in sources for item in corpus.block(name, 0, 1)[: max(share, 2)]]

    def drawn(items: Sequence[Segmented]) -> list[int]:
        return sorted(range(len(items)), key=lambda k: stable_hash(str(seed), items[k].chain.id))

    order = drawn(able)
    pool = order[: min(_few(scale, POOL, 12), len(order) * 3 // 4)]
    asked = {_question(able[k]) for k in pool}
    held = [able[k] for k in order[len(pool) :] if _question(able[k]) not in asked]
    if seed >= DEVELOPMENT:
        held = [reserve[k] for k in drawn(reserve)]
    others = [len(able) + k for k in drawn(foreign)[: _few(scale, OTHERS, 12)]]
    chosen = generator(seed, "probes").permutation(len(probes))[: max(DRAWN * len(probes) // PROBES, 1)]
    return Parts(
        tuple(probes), (*able, *foreign), tuple(pool), tuple(others), tuple(held), tuple(sorted(chosen.tolist()))
    )


def _row(bench: Bench, item: Segmented, max_tokens: int) -> Row:
    name = f"{item.chain.id} {max_tokens}"
    if name not in bench.made:
        bench.made[name] = bench.row(item, max_tokens)
    return bench.made[name]


# --- what is fed -----------------------------------------------------------------------------------------------------


def packed(rows: Iterable[Row], steps: int, tokens: int) -> list[list[Row]]:
    """Rows in their order as ``steps`` steps of exactly ``tokens`` labelled tokens, from the first row on again after the last.

    A row that does not fit into a step goes on in the next one: its first part is then context without labels. In a step the
    longest row comes first. Raises UsageError for rows without a label.
    """
    whole = list(rows)
    if not any(label != -100 for row in whole for label in row["labels"][1:]):
        raise UsageError("no row that was chosen has a labelled token. Give other chains: --data PATH")
    found: list[list[Row]] = []
    step: list[Row] = []
    left = tokens
    for row in itertools.cycle(whole):
        places = [at for at, label in enumerate(row["labels"]) if at and label != -100]
        while places:
            now, places = places[:left], places[left:]
            step.append(part_of(row, now))
            left -= len(now)
            if not left:
                found.append(sorted(step, key=lambda one: -len(one["input_ids"])))
                step, left = [], tokens
            if len(found) == steps:
                return found
    raise AssertionError("a cycle does not end")


def part_of(row: Row, places: Sequence[int]) -> Row:
    """A row up to the last of these places, with labels at these places only."""
    size, kept = places[-1] + 1, set(places)
    return row | {
        "input_ids": row["input_ids"][:size],
        "labels": [label if at in kept else -100 for at, label in enumerate(row["labels"][:size])],
        "loss_weights": [weight if at in kept else 0.0 for at, weight in enumerate(row["loss_weights"][:size])],
        "step_spans": [],
    }


# --- scores ----------------------------------------------------------------------------------------------------------


def texts_before(bench: Bench, items: Sequence[Segmented], max_tokens: int) -> tuple[list[list[int]], list[list[int]]]:
    """The token ids that stand before a probe: every chain with its question, and the same tokens in random order."""
    head, separator = list(bench.contexts.prefix), bench.ids(SEPARATOR)
    own, mixed = [], []
    for item in items:
        ids = _row(bench, item, max_tokens)["input_ids"][len(head) :]
        order = generator(0, "shuffled", item.chain.id).permutation(len(ids)).tolist()
        own.append([*head, *ids, *separator])
        mixed.append([*head, *(ids[k] for k in order), *separator])
    return own, mixed


def nll_after(bench: Bench, before: Sequence[Sequence[int]], probes: Sequence[Row]) -> Doubles:
    """NLL per labelled token of every probe after every text, nats, (texts, probes). A text is read once for all probes."""
    head = len(bench.contexts.prefix)
    cut = [
        {name: row[name][head:] for name in ("input_ids", "labels", "loss_weights")} | {"chain": row["chain"]}
        for row in probes
    ]
    batch = {k: v.to(bench.device) for k, v in Collator()(_spanless(cut)).items() if torch.is_tensor(v)}
    predicts, targets, _ = shifted(batch["labels"], batch["loss_weights"])
    owner = torch.nonzero(predicts)[:, 0]
    count, (many, length) = torch.bincount(owner, minlength=len(probes)), predicts.shape
    found = np.empty((len(before), len(probes)))
    per = max(1, 2 * bench.batch_tokens // (many * length))
    order = sorted(range(len(before)), key=lambda k: len(before[k]))
    for size, group in itertools.groupby(order, key=lambda k: len(before[k])):
        of = list(group)
        for start in range(0, len(of), per):
            chosen = of[start : start + per]
            n = len(chosen)
            with torch.inference_mode():
                text = torch.tensor([list(before[k]) for k in chosen], device=bench.device)
                cache = bench.model(input_ids=text, use_cache=True, logits_to_keep=1).past_key_values
                cache.batch_repeat_interleave(many)
                seen = torch.cat(
                    (batch["attention_mask"].new_ones(n * many, size), batch["attention_mask"].repeat(n, 1)), 1
                )
                with labelled_logits(bench.model, predicts.repeat(n, 1)):
                    logits = bench.model(
                        input_ids=batch["input_ids"].repeat(n, 1), attention_mask=seen, past_key_values=cache
                    ).logits[0]
                total = torch.zeros(n, many, dtype=torch.float64, device=bench.device)
                for place, part in enumerate(torch.split(logits, len(targets))):
                    total[place].index_add_(0, owner, token_nll(part, targets).double())
                found[chosen] = (total / count).cpu().numpy()
    return found


def _spanless(rows: Sequence[Row]) -> list[Row]:
    return [row | {"step_spans": []} for row in rows]


def scores_of(bench: Bench, parts: Parts, max_tokens: int) -> Doubles:
    """NLL of every probe after every scored chain and after its shuffled tokens, (chains, probes, 2); computed once."""
    probes = [_row(bench, item, min(PROBE_TOKENS, max_tokens)) for item in parts.probes]
    rows = [_row(bench, item, max_tokens) for item in parts.scored]
    name = stable_hash(
        bench.run.revision, bench.run.dtype, code_digest(), rows_digest(probes), *(r["chain"] for r in rows)
    )

    def make() -> Doubles:
        made = (nll_after(bench, before, probes) for before in texts_before(bench, parts.scored, max_tokens))
        return np.stack(list(made), -1)

    return bench.kept(f"reaction-{name}-{max_tokens}", make)


def likeness(pool: Sequence[Row], probes: Sequence[Row]) -> Doubles:
    """Cosine of the tf-idf of each row's tokens with the mean of those of the probes, (rows,); frequencies of the pool."""
    rows = [*pool, *probes]
    ids = np.concatenate([np.asarray(row["input_ids"]) for row in rows])
    line = np.repeat(np.arange(len(rows)), [len(row["input_ids"]) for row in rows])
    _, column = np.unique(ids, return_inverse=True)
    counts = sparse.csr_matrix((np.ones(len(ids)), (line, column)), shape=(len(rows), int(column.max()) + 1))
    counts.sum_duplicates()
    weights = counts.astype(np.float64)
    weights.data = 1 + np.log(weights.data)
    having = np.bincount(counts[: len(pool)].indices, minlength=counts.shape[1])
    weights = weights @ sparse.diags(np.log((1 + len(pool)) / (1 + having)) + 1)
    norms = np.sqrt(np.asarray(weights.multiply(weights).sum(1)).ravel())
    weights = sparse.diags(1 / np.maximum(norms, 1e-12)) @ weights
    wanted = np.asarray(weights[len(pool) :].mean(0)).ravel()
    found: Doubles = np.asarray(weights[: len(pool)] @ wanted).ravel() / max(float(np.linalg.norm(wanted)), 1e-12)
    return found


def sampled(score: Doubles, noise: Doubles, questions: Sequence[str]) -> list[int]:
    """All places in the order of a draw without replacement whose chances are the softmax of the standardised score over
    :data:`TEMPERATURE`; of each question the first only. ``noise`` is Gumbel's, so that equal scores give a random order.
    """
    spread = float(score.std())
    standard = (score - score.mean()) / spread if spread > 0 else np.zeros(len(score))
    found, asked = [], set()
    for place in np.argsort(-(standard / TEMPERATURE + noise), kind="stable").tolist():
        if questions[place] not in asked:
            asked.add(questions[place])
            found.append(place)
    return found


def matched(order: Sequence[int], lengths: Sequence[int], draw: np.random.Generator) -> list[int]:
    """For each place of an order another one, of nearly the same length, drawn from the nearest that are left."""
    left, found = set(range(len(lengths))), []
    for place in order:
        near = sorted(left - {place}, key=lambda k: (abs(lengths[k] - lengths[place]), k))[:NEAREST]
        if not near:
            break
        chosen = near[int(draw.integers(len(near)))]
        left.discard(chosen)
        found.append(chosen)
    return found


# --- one seed --------------------------------------------------------------------------------------------------------


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """Pool, probes and held-out chains; what needs no model is chosen already, the rest is fed from its pool."""
    parts = parts_of(corpus, scale, seed)
    steps, tokens = scale.n_steps(STEPS), scale.count(TOKENS, 24)
    probes = [_row(bench, item, min(PROBE_TOKENS, scale.max_tokens)) for item in parts.probes]
    scored = [_row(bench, item, scale.max_tokens) for item in parts.scored]
    apart = set(disjoint([row["input_ids"] for row in scored], [row["input_ids"] for row in probes]))
    pool = [k for k in parts.pool if k in apart]
    others = [k for k in parts.others if k in apart]
    taken = [row["input_ids"] for row in (*probes, *(scored[k] for k in (*pool, *others)))]

    def unshared(items: Sequence[Segmented], wanted: int, max_tokens: int) -> list[Row]:
        rows = [_row(bench, item, max_tokens) for item in items[: 2 * wanted]]
        found = [rows[k] for k in disjoint([row["input_ids"] for row in rows], taken)]
        return [row for row in found if len(row["input_ids"]) >= 8][:wanted]

    held = unshared(parts.held, _few(scale, HELD, 3), scale.max_tokens)
    unrelated = unshared(corpus.unrelated(seed), scale.evaluate, scale.max_tokens)
    for name, rows in (("pool", pool), ("other sources", others), ("H", held), ("D", unrelated)):
        if not rows:
            raise UsageError(
                f"experiment reaction has no chain left for its {name}: the target is {corpus.roles.trained!r}, of "
                f"{len(corpus.families[corpus.roles.trained])} chains. Give more chains or another target: --data PATH "
                "--trained SOURCE"
            )
    budget = steps * tokens
    for name, places in (("family", pool), ("other sources", others)):
        there = sum(label != -100 for k in places for label in scored[k]["labels"])
        if scale.size >= 1 and there < TIMES * budget:
            raise UsageError(
                f"experiment reaction trains on {budget:,} labelled tokens and needs {TIMES} times as many to choose from; the "
                f"pool of the {name} holds {there:,}. Give more chains or another target: --data PATH --trained SOURCE"
            )
    questions = [_question(item) for item in parts.scored]
    drawn = [probes[k] for k in parts.drawn]
    chosen = _without_model(seed, pool, others, scored, questions, drawn)
    fed: dict[str, list[Row]] = {arm: [scored[k] for k in order] for arm, order in chosen.items()}
    fed |= {"probes": drawn, "held-out themselves": held}
    feeds = {arm: [row for step in packed(of, steps, tokens) for row in step] for arm, of in fed.items()}
    feeds |= {arm: [scored[k] for k in pool] for arm in ("length-matched", "reaction", "reaction alone")}
    feeds["absent reaction"] = [scored[k] for k in others]
    sets = {
        "H": held,
        "D": unrelated,
        "probes": drawn,
        "pool": feeds["reaction"],
        "other sources": feeds["absent reaction"],
    }
    extra = {"parts": parts, "pool": pool, "others": others, "rows": fed, "scored": scored, "questions": questions}
    return Prepared(feeds, sets, extra)


def _noise(seed: int, name: str, size: int) -> Doubles:
    found: Doubles = generator(seed, "noise", name).gumbel(size=size)
    return found


def _without_model(
    seed: int,
    pool: Sequence[int],
    others: Sequence[int],
    scored: Sequence[Row],
    questions: Sequence[str],
    drawn: Sequence[Row],
) -> dict[str, list[int]]:
    """Orders of the arms that no model is needed for, as places in ``scored``. Arms with one pool share the noise of the draw:
    they differ by their scores only.
    """

    def order(places: Sequence[int], name: str, score: Callable[[], Doubles] | None = None) -> list[int]:
        values = score() if score else np.zeros(len(places))
        found = sampled(values, _noise(seed, name, len(places)), [questions[k] for k in places])
        return [places[k] for k in found]

    def alike(places: Sequence[int]) -> Doubles:
        return likeness([scored[k] for k in places], drawn)

    return {
        "random": order([*pool, *others], "mixed"),
        "family": order(pool, "family"),
        "family again": order(pool, "family again"),
        "tf-idf": order(pool, "family", lambda: alike(pool)),
        "absent random": order(others, "others"),
        "absent tf-idf": order(others, "others", lambda: alike(others)),
    }


def chosen_by_reaction(
    matrix: Doubles, prepared: Prepared, seed: int, budget: int
) -> tuple[dict[str, list[Row]], Mapping[str, float]]:
    """Rows in order of the arms that the model's reaction chooses, and the standardised reaction of every chain of the pool."""
    extra = prepared.extra
    parts, scored, questions = extra["parts"], extra["scored"], extra["questions"]
    near = matrix[:, list(parts.drawn)].mean(1)  # (chains, 2)

    def order(places: Sequence[int], name: str, score: Doubles) -> list[int]:
        found = sampled(score[list(places)], _noise(seed, name, len(places)), [questions[k] for k in places])
        return [places[k] for k in found]

    reaction, alone = near[:, 1] - near[:, 0], -near[:, 0]
    pool, others = extra["pool"], extra["others"]
    found = {
        "reaction": order(pool, "family", reaction),
        "reaction alone": order(pool, "family", alone),
        "absent reaction": order(others, "others", reaction),
    }
    lengths = [sum(label != -100 for label in scored[k]["labels"]) for k in pool]
    place = {k: n for n, k in enumerate(pool)}
    used, fed = [], 0
    for k in found["reaction"]:
        if fed >= budget:
            break
        used.append(place[k])
        fed += lengths[place[k]]
    pairs = matched(used, lengths, generator(seed, "length-matched"))
    found["length-matched"] = [pool[k] for k in pairs]
    inside = reaction[pool]
    spread = float(inside.std()) or 1.0
    standard = {scored[k]["chain"]: float((reaction[k] - inside.mean()) / spread) for k in (*pool, *others)}
    return {arm: [scored[k] for k in of] for arm, of in found.items()}, standard


def run(
    bench: Bench,
    prepared: Prepared,
    scale: Scale,
    seed: int,
    arms: Sequence[str],
    rates: Mapping[str, float],
    emit: Emit,
) -> None:
    """One seed: all arms side by side, in steps of equally many labelled tokens."""
    steps, tokens = scale.n_steps(STEPS), scale.count(TOKENS, 24)
    matrix = scores_of(bench, prepared.extra["parts"], scale.max_tokens)
    by_model, standard = chosen_by_reaction(matrix, prepared, seed, steps * tokens)
    rows = prepared.extra["rows"] | by_model
    fed = {arm: packed(rows[arm], steps, tokens) for arm in arms}
    width = max(len(step) for of in fed.values() for step in of)
    feeds = {arm: [row for step in of for row in [*step, *[EMPTY] * (width - len(step))]] for arm, of in fed.items()}
    held, unrelated = list(prepared.sets["H"]), list(prepared.sets["D"])
    before = bench.probe(bench.model, held)
    start, drift = mean(p.nll for p in before), mean(p.nll for p in bench.probe(bench.model, unrelated))
    start_seen = mean(p.nll for p in before[:SEEN])
    curves: dict[str, list[dict[str, float]]] = {arm: [{"step": 0.0, "gain": 0.0, "kl_d": 0.0}] for arm in arms}

    def note(step: int, several: Sequence[Sequence[Probe]], moved: Sequence[Sequence[Probe]]) -> None:
        for arm, one, other in zip(arms, several, moved, strict=True):
            gain = start_seen - mean(p.nll for p in one[:SEEN])
            kl = mean(p.kl for p in other if p.kl is not None)
            curves[arm].append({"step": float(step), "gain": gain, "kl_d": kl})

    def at(step: int, adapters: Any) -> None:
        if step < steps:
            note(step, bench.probe_each(adapters, held[:SEEN]), bench.probe_each(adapters, unrelated, compare=True))

    options = bench.options(scale, steps, seed, batch=width)
    with bench.side_by_side(feeds, rates, options, at=AT, on=at) as (adapters, losses):
        after = bench.probe_each(adapters, held)
        moved = bench.probe_each(adapters, unrelated, compare=True)
    note(steps, after, moved)
    for arm, found, other in zip(arms, after, moved, strict=True):
        nll = mean(p.nll for p in found)
        chains = {row["chain"] for step in fed[arm] for row in step}
        known = [standard[chain] for chain in chains if chain in standard]
        metrics: Metrics = {
            "nll_h": nll,
            "change_h": nll - start,
            "change_d": mean(p.nll for p in other) - drift,
            "kl_d": mean(p.kl for p in other if p.kl is not None),
            "chains": float(len(chains)),
            "score": sum(known) / len(known) if known else math.nan,
            "loss": losses[arm][-1],
        }
        size = sum(len(row["input_ids"]) for step in fed[arm] for row in step)
        labelled = sum(label != -100 for step in fed[arm] for row in step for label in row["labels"])
        emit(arm, metrics, {"tokens": size, "labelled": labelled, "steps": steps, "curve": curves[arm]})


def derive(records: Mapping[str, Record]) -> Mapping[str, Metrics]:
    """How much more unrelated text has moved than after random chains of the family, where both have gained as much."""
    found = {}
    for arm, record in records.items():
        both = {"arm": record["curve"], "family": records["family"]["curve"]}
        moved = at_equal_gain(both, "gain", "kl_d")
        ratio = moved["arm"] / moved["family"] - 1 if moved["family"] > 0 else math.nan
        found[arm] = {"damage_at_equal_gain": ratio}
    return found


_DELTA = 0.005


def _more(name: str, sentence: str, treatment: str, *controls: str) -> Claim:
    """More of held-out text is learnt than by each of the controls."""
    return Claim(
        name, sentence, tuple(Criterion("change_h", treatment, control, "lower", delta=_DELTA) for control in controls)
    )


EXPERIMENT = Experiment(
    name="reaction",
    number="8",
    title="Data chosen by reaction",
    hypothesis="Inside the labelled family, chains chosen by how they move unseen probes, capped per question and sampled, "
    "teach more of held-out text than chains drawn at random from the same family, at equal steps and labelled tokens.",
    arms=(
        Arm("reaction", "of the family, sampled by reaction minus that of its shuffled tokens", control=False),
        Arm("family", "of the family, at random"),
        Arm("family again", "another such draw: the placebo"),
        Arm("length-matched", "of the family, at random among chains as long as those of *reaction*"),
        Arm("tf-idf", "of the family, sampled by tf-idf similarity to the probes"),
        Arm("reaction alone", "of the family, sampled by reaction without its shuffled control"),
        Arm("random", "of all sources, at random: the label is not used"),
        Arm("probes", "the probes themselves, again and again"),
        Arm("absent reaction", "of the other sources, sampled by reaction", control=False),
        Arm("absent tf-idf", "of the other sources, sampled by tf-idf similarity"),
        Arm("absent random", "of the other sources, at random"),
        Arm("held-out themselves", "positive control: the held-out chains"),
    ),
    claims=(
        _more(
            "inside the family",
            "Chains of the family chosen by reaction make held-out text easier than it was, and easier than random chains of "
            "the family do",
            "reaction",
            "family",
            "",
        ),
        _more(
            "not by length",
            "Chains chosen by reaction teach more than chains of the same lengths drawn at random",
            "reaction",
            "length-matched",
        ),
        _more(
            "not by words",
            "Chains chosen by reaction teach more than chains chosen by tf-idf similarity to the same probes",
            "reaction",
            "tf-idf",
        ),
        _more(
            "not by the probes",
            "Chains chosen by reaction teach more than the probes themselves do",
            "reaction",
            "probes",
        ),
        _more(
            "the control",
            "Chains chosen by reaction minus that of their shuffled tokens teach more than chains chosen by reaction alone",
            "reaction",
            "reaction alone",
        ),
        _more(
            "the label",
            "Chains of the family drawn at random teach more than chains drawn at random from all sources",
            "family",
            "random",
        ),
        _more(
            "family absent",
            "Where the family is absent from the pool, chains chosen by reaction teach more than random ones and more than "
            "those chosen by tf-idf",
            "absent reaction",
            "absent random",
            "absent tf-idf",
        ),
        Claim(
            "damage",
            "Where held-out text is learnt equally well, chains chosen by reaction move unrelated text at most a tenth more "
            "than random chains of the family",
            (Criterion("damage_at_equal_gain", "reaction", "", "lower", delta=0.1, kind="not inferior"),),
        ),
    ),
    positive=(Criterion("change_h", "held-out themselves", "family", "lower", delta=_DELTA),),
    placebo=(Criterion("change_h", "family again", "family", "lower", delta=_DELTA),),
    metrics={
        "change_h": "change of NLL on held-out chains of the family, nats per token, negative = learnt",
        "nll_h": "NLL on them after the training",
        "change_d": "change of NLL on unrelated text, positive = forgotten",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
        "damage_at_equal_gain": "that KL over the one of *family*, minus 1, where both have gained as much on held-out chains",
        "chains": "chains that were fed",
        "score": "their mean reaction minus its shuffled control, in standard deviations of the family's pool",
    },
    settings={
        "steps": STEPS,
        "labelled tokens of each step": TOKENS,
        "probes scored": PROBES,
        "probes of a seed": DRAWN,
        "tokens of a probe at most": PROBE_TOKENS,
        "chains to choose from": POOL,
        "of other sources": OTHERS,
        "held out": HELD,
        "temperature": f"{TEMPERATURE} standard deviations of the score",
        "cap": "one chain per question",
        "before a probe": "the chain with its question, then an empty line",
        "LoRA": "rank 8, alpha 16, all linear layers",
        "curve": f"at steps {', '.join(map(str, AT))} and the last, on {SEEN} held-out chains",
    },
    limits="One budget and one target family. Every seed draws its own pool, held-out chains, probes and first weights, but "
    "from one family: their texts overlap. The arms inside the family and the one of all sources train at the rate "
    "that is best for random chains of the family, those without it at the rate that is best for random chains of the "
    "other sources, and the probes at their own. For the arms that the model chooses, the plan fixes the pool that "
    "they choose from.",
    prepare=prepare,
    run=run,
    rates=(3e-4, 1e-3, 3e-3),
    develop="nll_h",
    rate_of=dict.fromkeys((*(arm for arm in INSIDE if arm != "family"), "random", "held-out themselves"), "family")
    | dict.fromkeys(ABSENT[1:], ABSENT[0]),
    looks=(15, 30),
    derive=derive,
    curve={"gain": "fall of NLL on held-out chains, nats per token", "kl_d": "KL on unrelated text"},
)
