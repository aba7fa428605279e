"""Experiment 1: are variants at most two tokens away better or safer to train on than repeats, paraphrases or random edits?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trails.errors import UsageError
from trails.experiments.base import Arm, Claim, Criterion, Emit, Experiment, Scale
from trails.experiments.bench import Bench, Sets, mean
from trails.experiments.corpus import Corpus, generator, grams
from trails.measure.base import Segmented
from trails.train.data import Row

COUNT = 50
SHORT, LONG = 4, 2
LONG_TOKENS = 300
POOL = 96
SHARED_WORDS = 8


@dataclass(frozen=True, slots=True)
class Target:
    """A question: the text trained on, other wordings of its answer to train on, and one kept for the test."""

    text: Segmented
    others: tuple[Segmented, ...]
    kept: Segmented
    long: bool


def targets(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> list[Target]:
    """Questions with at least three wordings of which one shares no run of 8 words with the others: short ones, then long.

    The text trained on is the wording whose length is nearest to the mean of the others, so that arms have about equally
    many tokens. A wording of 300 tokens or more is long.
    """
    groups = corpus.wordings(3)
    keys = [list(groups)[i] for i in generator(seed, "targets").permutation(len(groups)).tolist()]
    wanted = {False: scale.count(SHORT, 1), True: scale.count(LONG, 0 if scale.size < 1 else 1)}
    found: dict[bool, list[Target]] = {False: [], True: []}
    for key in keys:
        group = [bench.shortened(item, scale.max_tokens) for item in groups[key]]
        ids = [bench.ids(item.chain.text) for item in group]
        words = [grams(item.chain.text.casefold().split(), SHARED_WORDS) for item in group]
        for kept in generator(seed, "kept", key).permutation(len(group)).tolist():
            apart = [i for i in range(len(group)) if i != kept and not words[i] & words[kept]]
            apart = [i for i in apart if len(ids[i]) >= 16 and len(group[i].steps) >= 2]
            if len(apart) >= 2:
                middle = float(np.mean([len(ids[i]) for i in apart]))
                text = min(apart, key=lambda i: (abs(len(ids[i]) - middle), i))
                others = tuple(group[i] for i in apart if i != text)
                long = len(ids[text]) >= LONG_TOKENS
                if len(found[long]) < wanted[long]:
                    found[long].append(Target(group[text], others, group[kept], long))
                break
        if all(len(found[kind]) >= wanted[kind] for kind in found):
            break
    if not found[False] and not found[True]:
        raise UsageError(
            "experiment minimal-step needs questions with at least three differently worded answers, and the data has none. "
            "Give such data (GSM8K model solutions, answers of several models): --data PATH"
        )
    return found[False] + found[True]


def random_edits(bench: Bench, row: Row, volatilities: Sequence[float], edits: Sequence[int], seed: int) -> list[Row]:
    """Rows with as many tokens replaced at random places as the variants have edits, matched to them in volatility.

    Of a pool of random edits each volatility takes the nearest that is left.
    """
    offset = row["offset"]
    context, ids = row["input_ids"][:offset], row["input_ids"][offset:]
    draw = generator(seed, "edits", row["chain"])
    likely = bench.likely(context, ids, 64)
    pool = []
    for number in range(max(POOL, 2 * len(volatilities))):
        new = list(ids)
        for place in draw.permutation(np.arange(1, len(ids)))[: max(1, edits[number % len(edits)])].tolist():
            choices = likely[place].tolist() if number % 2 else [int(draw.integers(bench.vocabulary))]
            new[place] = int(choices[int(draw.integers(len(choices)))])
        pool.append(new)
    values = np.asarray(bench.volatility(context, ids, pool))
    left = np.ones(len(pool), dtype=bool)
    chosen = []
    for wanted in volatilities:
        distance = np.where(left, np.abs(values - wanted), np.inf)
        best = int(distance.argmin())
        left[best] = False
        chosen.append(bench.ids_row(pool[best], context, chain=row["chain"]) | {"volatility": float(values[best])})
    return chosen


def feeds_of(
    bench: Bench, corpus: Corpus, scale: Scale, seed: int, chosen: Sequence[Target], evaluated: Sequence[Segmented]
) -> dict[str, list[Row]]:
    """Rows of every arm, ``count`` for each target; variant and edit rows carry their volatility."""
    from trails.variants import VariantOptions, make_variants

    count = scale.count(COUNT, 4)
    feeds: dict[str, list[Row]] = {arm.name: [] for arm in EXPERIMENT.arms}
    out = {item.chain.id for item in evaluated}
    spare = [item for item in corpus.unrelated(seed) if item.chain.id not in out]
    for number, target in enumerate(chosen):
        bench.check_time()
        row = bench.row(target.text, scale.max_tokens)
        context = row["input_ids"][: row["offset"]]
        accepted = make_variants(
            bench.scorer, target.text, VariantOptions(whole=False, count=count, seed=seed)
        ).accepted
        variants = [
            bench.ids_row(v.token_ids.tolist(), context, chain=row["chain"]) | {"volatility": float(v.volatility)}
            for v in accepted
        ] or [row | {"volatility": 0.0}]
        variants = [variants[i % len(variants)] for i in range(count)]
        edits = [v.edits for v in accepted if v.edits] or [1]
        wordings = [row, *(bench.row(other, scale.max_tokens) for other in target.others)]
        feeds["minimal steps"] += variants
        feeds["exact repeats"] += [row] * count
        feeds["random edits"] += random_edits(bench, row, [v["volatility"] for v in variants], edits, seed)
        feeds["paraphrases"] += [wordings[i % len(wordings)] for i in range(count)]
        for k in range(count):
            other = spare[(number * count + k) % len(spare)] if spare else evaluated[k % len(evaluated)]
            feeds["unrelated"].append(bench.row(other, max(len(row["input_ids"]), 16)))
    return feeds


def run(bench: Bench, corpus: Corpus, scale: Scale, seed: int, arms: Sequence[str], emit: Emit) -> None:
    """One seed: the same targets for every arm, one pass over equally many rows."""
    chosen = targets(bench, corpus, scale, seed)
    short = next((t for t in chosen if not t.long), chosen[0])
    used = {t.text.chain.question for t in chosen}
    same_form = [i for i in corpus.family(short.text.chain.source, seed) if i.chain.question not in used]
    unrelated = corpus.unrelated(seed)[: scale.evaluate]
    feeds = feeds_of(bench, corpus, scale, seed, chosen, unrelated)
    taken = [row["input_ids"] for rows in feeds.values() for row in rows]
    unseen = corpus.roles.unseen if corpus.roles.unseen != short.text.chain.source else corpus.roles.trained
    sets = Sets(
        (),
        (),
        bench.apart(same_form, scale.evaluate, taken, scale.max_tokens),
        bench.apart(corpus.family(unseen, seed), scale.evaluate, taken, scale.max_tokens),
        bench.apart(unrelated, scale.evaluate, taken, scale.max_tokens),
    )
    base = bench.base(sets)
    kept = {long: [bench.row(t.kept, scale.max_tokens) for t in chosen if t.long is long] for long in (False, True)}
    trained_on = [bench.row(t.text, scale.max_tokens) for t in chosen]

    def wording(model: object, rows: Sequence[Row]) -> float:
        return mean(p.nll for p in bench.probe(model, rows)) if rows else math.nan

    before = {long: wording(bench.model, rows) for long, rows in kept.items()}
    both = wording(bench.model, [*kept[False], *kept[True]])
    order = generator(seed, "feed").permutation(len(feeds["exact repeats"])).tolist()
    steps = -(-len(order) // scale.batch)
    for arm in arms:
        feed = [feeds[arm][i] for i in order]
        with bench.trained(feed, bench.options(scale, steps, seed)) as (model, losses):
            found = bench.changes(bench.measure(model, sets), base)
            found["nll_text"] = wording(model, trained_on)
            found["change_wording"] = wording(model, [*kept[False], *kept[True]]) - both
            found["change_wording_short"] = wording(model, kept[False]) - before[False]
            found["change_wording_long"] = wording(model, kept[True]) - before[True]
        volatile = [row["volatility"] for row in feed if "volatility" in row]
        found["volatility"] = float(np.mean(volatile)) if volatile else math.nan
        found["loss"] = losses[-1]
        tokens = sum(len(row["input_ids"]) for row in feed)
        extra = {"tokens": tokens, "steps": steps, "targets": len(chosen), "base": base | {"nll_wording": both}}
        emit(arm, found, extra)


_CONTROLS = ("exact repeats", "random edits", "paraphrases", "unrelated")

EXPERIMENT = Experiment(
    name="minimal-step",
    number="1",
    title="Minimal-step variants",
    hypothesis="Fifty variants of a text, each at most two tokens away from its parent, teach its content better (another "
    "wording of the same answer becomes easier) and more safely (less drift on unrelated text) than fifty exact repeats, "
    "random edits of equal volatility, diverse paraphrases or unrelated texts.",
    arms=(
        Arm("minimal steps", "50 variants of at most two token edits within the volatility budget", control=False),
        Arm("exact repeats", "the text 50 times"),
        Arm("random edits", "50 random token edits, matched one by one in volatility and in number of edits"),
        Arm("paraphrases", "the answers of several authors to the same question in turn, the text among them"),
        Arm("unrelated", "50 unrelated texts cut to the same length"),
    ),
    claims=(
        Claim(
            "better",
            "Minimal-step variants make another wording of the same answer easier than every control does",
            tuple(Criterion("change_wording", "minimal steps", control, "lower") for control in _CONTROLS),
        ),
        Claim(
            "safer",
            "Minimal-step variants drift less on unrelated text than exact repeats, random edits and paraphrases",
            tuple(Criterion("kl_d", "minimal steps", control, "lower") for control in _CONTROLS[:3]),
        ),
        Claim(
            "no worse than repeating",
            "Minimal-step variants lie on a better learning–drift front than exact repeats: easier wording at no more drift",
            (
                Criterion("change_wording", "minimal steps", "exact repeats", "lower"),
                Criterion("kl_d", "minimal steps", "exact repeats", "lower", role="guard"),
            ),
        ),
    ),
    metrics={
        "change_wording": "change of NLL on an unseen wording of the same answers, nats per token, negative = learnt",
        "change_wording_short": "the same for short answers (below 300 tokens)",
        "change_wording_long": "the same for long answers (300 tokens and more)",
        "nll_text": "NLL on the trained text itself, nats per token",
        "change_h": "change of NLL on answers to other questions of the same kind",
        "change_u": "change of NLL on the unseen form",
        "change_d": "change of NLL on unrelated text, positive = forgotten",
        "kl_h": "KL(base ‖ trained) on answers to other questions, nats per token",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
        "volatility": "mean volatility of variants or edits, nats",
    },
    settings={
        "rows per target": COUNT,
        "short targets": SHORT,
        "long targets": LONG,
        "passes": 1,
        "budget": "volatility 0.1 nats, 2 token edits to the parent",
        "learning rate": 1e-3,
    },
    limits="Questions with several differently worded answers: short word problems and a few long answers of language models. "
    "A paraphrase may be wrong. Rows and steps are equal, tokens as far as wordings are equally long.",
    run=run,
)
