"""Experiment 1: do variants at most two tokens away teach better or more safely than repeats, paraphrases or random edits?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trails.analyses.statistics import generator
from trails.errors import UsageError
from trails.evaluate.probe import Probe
from trails.experiments.base import (
    Arm,
    Claim,
    Correction,
    Criterion,
    Emit,
    Experiment,
    Metrics,
    Prepared,
    Record,
    Scale,
    at_equal_gain,
)
from trails.experiments.bench import Bench, Sets
from trails.experiments.corpus import Corpus
from trails.experiments.scale import DEVELOPMENT
from trails.export.split import grams
from trails.measure.base import Segmented
from trails.train.data import Row
from trails.train.many import Adapters

COUNT = 24
TARGETS = 6
BLOCK = 24
"""Questions that a seed looks through for its targets."""
POINTS = (1, 2, 4, 8, 12, 18)
POOL = 192
DRAWS = 4
WITHIN = 0.05
"""How near a random edit's volatility must be to the variant's, as a share of it."""
SHARED_WORDS = 8


@dataclass(frozen=True, slots=True)
class Target:
    """A question: the text trained on, other wordings of its answer to train on, and one kept for the test."""

    text: Segmented
    others: tuple[Segmented, ...]
    kept: Segmented


def targets(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> list[Target]:
    """Questions of the seed's own block with at least three wordings, of which one shares no run of 8 words with the others.

    The text trained on is the wording whose length is nearest to the mean of the others, so that arms have about equally
    many tokens.
    """
    groups = corpus.wordings(3)
    names = sorted(groups)
    start = (-(seed - DEVELOPMENT + 1) if seed >= DEVELOPMENT else seed) * BLOCK % max(len(names), 1)
    wanted = scale.count(TARGETS, 2)
    found: list[Target] = []
    for key in (names[start:] + names[:start])[: BLOCK if scale.size >= 1 else None]:
        group = [bench.shortened(item, scale.max_tokens) for item in groups[key]]
        ids = [bench.ids(item.chain.text) for item in group]
        words = [grams(item.chain.text.casefold().split(), SHARED_WORDS) for item in group]
        for kept in generator(seed, "kept", key).permutation(len(group)).tolist():
            apart = [i for i in range(len(group)) if i != kept and not words[i] & words[kept]]
            apart = [i for i in apart if len(ids[i]) >= 16 and len(group[i].steps) >= 2]
            if len(apart) >= 2:
                middle = float(np.mean([len(ids[i]) for i in apart]))
                text = min(apart, key=lambda i: (abs(len(ids[i]) - middle), i))
                found.append(Target(group[text], tuple(group[i] for i in apart if i != text), group[kept]))
                break
        if len(found) == wanted:
            return found
    if len(found) < min(wanted, 2):
        raise UsageError(
            "experiment minimal-step needs questions with at least three differently worded answers, and the data has "
            f"{len(found)}. Give such data (GSM8K model solutions, answers of several models): --data PATH"
        )
    return found


def random_edits(
    bench: Bench, row: Row, volatilities: Sequence[float], edits: Sequence[int], seed: int
) -> tuple[list[Row], int]:
    """Rows with as many tokens replaced at random places as the variants have edits, each within :data:`WITHIN` of its
    variant's volatility: drawn until one is, at most :data:`DRAWS` pools. Also the number that found none within and took the
    nearest.
    """
    offset = row["offset"]
    context, ids = row["input_ids"][:offset], row["input_ids"][offset:]
    draw = generator(seed, "edits", row["chain"])
    likely = bench.likely(context, ids, 64)
    pool: list[list[int]] = []
    values = np.zeros(0)
    left = np.zeros(0, dtype=bool)
    chosen: dict[int, Row] = {}
    nearest: dict[int, int] = {}
    for number in range(DRAWS):
        new_pool = []
        for k in range(max(POOL, 2 * len(volatilities))):
            new = list(ids)
            reach = (4, 16, 64, 0)[k % 4]
            for place in draw.permutation(np.arange(1, len(ids)))[: max(1, edits[k % len(edits)])].tolist():
                choices = likely[place][:reach].tolist() if reach else [int(draw.integers(bench.vocabulary))]
                new[place] = int(choices[int(draw.integers(len(choices)))])
            new_pool.append(new)
        pool += new_pool
        values = np.concatenate([values, bench.volatility(context, ids, new_pool)])
        left = np.concatenate([left, np.ones(len(new_pool), dtype=bool)])
        for k, wanted in enumerate(volatilities):
            if k in chosen:
                continue
            distance = np.where(left, np.abs(values - wanted), np.inf)
            best = int(distance.argmin())
            if distance[best] <= WITHIN * wanted:
                left[best] = False
                chosen[k] = bench.ids_row(pool[best], context, chain=row["chain"]) | {"volatility": float(values[best])}
            elif number == DRAWS - 1:
                nearest[k] = best
        if len(chosen) == len(volatilities):
            break
    for k, best in nearest.items():
        chosen[k] = bench.ids_row(pool[best], context, chain=row["chain"]) | {"volatility": float(values[best])}
    return [chosen[k] for k in range(len(volatilities))], len(nearest)


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """Targets and what is measured; variants and random edits are made of the targets in the run, with the model's help."""
    chosen = targets(bench, corpus, scale, seed)
    count = scale.count(COUNT, 4)
    used = {t.text.chain.question for t in chosen}
    rows = [bench.row(t.text, scale.max_tokens) for t in chosen]
    kept = [bench.row(t.kept, scale.max_tokens) for t in chosen]
    wordings = [[row, *(bench.row(o, scale.max_tokens) for o in t.others)] for row, t in zip(rows, chosen, strict=True)]
    repeats = [row for row in rows for _ in range(count)]
    feeds: dict[str, list[Row]] = {arm: list(repeats) for arm in MADE}
    feeds["exact repeats"] = list(repeats)
    feeds["paraphrases"] = [several[k % len(several)] for several in wordings for k in range(count)]
    feeds["the wording itself"] = [row for row in kept for _ in range(count)]
    source = chosen[0].text.chain.source
    same_form = [i for i in corpus.family(source, seed) if i.chain.question not in used]
    unrelated = corpus.unrelated(seed)
    spare = [token for item in unrelated[scale.evaluate :] for token in bench.ids(item.chain.text + "\n")]
    spare = spare or [token for item in unrelated for token in bench.ids(item.chain.text)]
    feeds["unrelated"] = _as_long(bench, repeats, spare)
    taken = [row["input_ids"] for several in wordings for row in several] + [row["input_ids"] for row in kept]
    sets = Sets(
        (),
        (),
        bench.apart(_one_each(same_form), scale.evaluate, taken, scale.max_tokens),
        (),
        bench.apart(unrelated, scale.evaluate, taken, scale.max_tokens),
    )
    measured = {"H": sets.held_out, "D": sets.unrelated, "wordings": kept, "texts": rows}
    return Prepared(feeds, measured, {"sets": sets, "targets": chosen, "rows": rows, "kept": kept, "count": count})


def _one_each(items: Sequence[Segmented]) -> list[Segmented]:
    """One chain of every question."""
    return list({item.chain.question: item for item in items}.values())


def _as_long(bench: Bench, rows: Sequence[Row], tokens: Sequence[int]) -> list[Row]:
    """Running text as rows of the same lengths and as many labels."""
    found, at = [], 0
    for number, row in enumerate(rows):
        ids = [tokens[(at + k) % len(tokens)] for k in range(len(row["input_ids"]))]
        at += len(ids)
        offset = row["offset"]
        found.append(bench.ids_row(ids[offset:], ids[:offset], chain=f"unrelated {number}"))
    return found


def made(bench: Bench, prepared: Prepared, seed: int) -> tuple[dict[str, list[Row]], int]:
    """Rows of the arms that are made with the model's help, and how many random edits are not within the bound."""
    from trails.variants import VariantOptions
    from trails.variants.measuring import make_variants

    count = prepared.extra["count"]
    feeds: dict[str, list[Row]] = {arm: [] for arm in MADE}
    outside = 0
    for target, row in zip(prepared.extra["targets"], prepared.extra["rows"], strict=True):
        bench.check_time()
        context = row["input_ids"][: row["offset"]]
        accepted = [
            v
            for v in make_variants(
                bench.scorer, target.text, VariantOptions(whole=False, count=count, seed=seed)
            ).accepted
            if v.volatility > 0
        ]
        variants = [
            bench.ids_row(v.token_ids.tolist(), context, chain=row["chain"]) | {"volatility": float(v.volatility)}
            for v in accepted
        ] or [row | {"volatility": 0.0}]
        variants = [variants[i % len(variants)] for i in range(count)]
        edits, missed = random_edits(
            bench, row, [v["volatility"] for v in variants], [v.edits for v in accepted if v.edits] or [1], seed
        )
        outside += missed
        feeds["minimal steps"] += variants
        feeds["random edits"] += edits
        order = generator(seed, "halves", row["chain"]).permutation(count).tolist()
        half = max(count // 2, 1)
        feeds["half of the steps"] += [variants[k] for k in order[:half]] * 2
        feeds["the other half"] += [variants[k] for k in order[-half:]] * 2
    return feeds, outside


def run(
    bench: Bench,
    prepared: Prepared,
    scale: Scale,
    seed: int,
    arms: Sequence[str],
    rates: Mapping[str, float],
    emit: Emit,
) -> None:
    """One seed: the same targets for every arm, one pass over equally many rows, measured at six points."""
    sets, kept, rows = prepared.extra["sets"], prepared.extra["kept"], prepared.extra["rows"]
    feeds, outside = made(bench, prepared, seed)
    feeds |= {arm: list(feed) for arm, feed in prepared.feeds.items() if arm not in MADE}
    size = min(map(len, feeds.values()))
    order = generator(seed, "feed").permutation(size).tolist()
    feeds = {arm: [feeds[arm][k] for k in order] for arm in arms}
    steps = scale.n_steps(-(-size // scale.batch))
    base = bench.base(sets)
    before = {"wording": _per_chain(bench.probe(bench.model, kept)), "text": _per_chain(bench.probe(bench.model, rows))}
    curves: dict[str, list[dict[str, float]]] = {
        arm: [{"step": 0.0, "gain_text": 0.0, "change_wording": 0.0, "kl_d": 0.0, "change_h": 0.0}] for arm in arms
    }
    last: dict[str, Metrics] = {}

    def on(step: int, adapters: Adapters) -> None:
        measured = bench.measure_each(adapters, sets)
        wording, text = bench.probe_each(adapters, kept), bench.probe_each(adapters, rows)
        for arm, found, own, read in zip(arms, measured, wording, text, strict=True):
            found = bench.changes(found, base)
            found["change_wording"] = _per_chain(own) - before["wording"]
            found["nll_wording"] = _per_chain(own)
            found["nll_text"] = _per_chain(read)
            last[arm] = found
            point = {"gain_text": before["text"] - found["nll_text"], "step": float(step)}
            curves[arm].append(point | {name: found[name] for name in ("change_wording", "kl_d", "change_h")})

    at = sorted({min(point, steps) for point in POINTS} | {steps})
    with bench.side_by_side(feeds, rates, bench.options(scale, steps, seed), at=at, on=on) as (_, losses):
        pass
    for arm in arms:
        volatile = [row["volatility"] for row in feeds[arm] if "volatility" in row]
        metrics = last[arm] | {
            "best_wording": min(point["change_wording"] for point in curves[arm][1:]),
            "volatility": float(np.mean(volatile)) if volatile else math.nan,
            "outside": outside / size if arm == "random edits" else math.nan,
            "loss": losses[arm][-1],
        }
        tokens = sum(len(row["input_ids"]) for row in feeds[arm][: steps * scale.batch])
        extra = {
            "tokens": tokens,
            "steps": steps,
            "targets": len(rows),
            "base": base | {"nll_wording": before["wording"]},
        }
        emit(arm, metrics, extra | {"curve": curves[arm]})


def _per_chain(probes: Sequence[Probe]) -> float:
    """Mean over chains of the mean NLL of each: no single answer carries the number."""
    return float(np.mean([float(p.nll.mean()) for p in probes]))


LEARNING = ("minimal steps", "exact repeats", "random edits", "paraphrases", "half of the steps", "the other half")
MADE = ("minimal steps", "random edits", "half of the steps", "the other half")


def derive(records: Mapping[str, Record]) -> dict[str, Metrics]:
    """Drift and forgetting where every arm that sees the text has learnt it equally well."""
    curves = {arm: record["curve"] for arm, record in records.items() if arm in LEARNING}
    found: dict[str, Metrics] = {arm: {} for arm in records}
    for value in ("kl_d", "change_h", "change_wording"):
        for arm, number in at_equal_gain(curves, "gain_text", value).items():
            found[arm][f"{value}_at_equal_gain"] = number
    return found


_CONTROLS = ("exact repeats", "random edits", "paraphrases", "unrelated")

EXPERIMENT = Experiment(
    name="minimal-step",
    number="1",
    title="Minimal-step variants",
    hypothesis="Variants of a text, each at most two tokens away from its parent, teach its content better (another "
    "wording of "
    "the same answer becomes easier) and, where the text is learnt equally well, more safely (less drift on unrelated "
    "text) "
    "than exact repeats, random edits of equal volatility or diverse paraphrases.",
    arms=(
        Arm(
            "minimal steps", f"{COUNT} variants of at most two token edits within the volatility budget", control=False
        ),
        Arm("exact repeats", f"the text {COUNT} times"),
        Arm("random edits", f"random token edits, as many and each within {WITHIN:.0%} of a variant's volatility"),
        Arm("paraphrases", "the answers of several authors to the same question in turn, the text among them"),
        Arm("unrelated", "running text in rows of the same lengths"),
        Arm("half of the steps", "a random half of the variants, twice: the placebo", control=True),
        Arm("the other half", "the other half, twice"),
        Arm("the wording itself", "positive control: the wording that is tested"),
    ),
    claims=(
        Claim(
            "learnt",
            "Minimal-step variants make another wording of the same answer easier than it was for the untrained model, "
            "at the "
            "best of six points",
            (Criterion("best_wording", "minimal steps", "", "lower", delta=0.02),),
        ),
        Claim(
            "better",
            "At each arm's best point, minimal-step variants make another wording of the same answer easier than every "
            "control "
            "does",
            tuple(Criterion("best_wording", "minimal steps", control, "lower", delta=0.02) for control in _CONTROLS),
        ),
        Claim(
            "safer",
            "Where the text is learnt equally well, minimal-step variants drift less on unrelated text than exact "
            "repeats, "
            "random edits and paraphrases",
            tuple(
                Criterion("kl_d_at_equal_gain", "minimal steps", control, "lower", delta=0.01)
                for control in _CONTROLS[:3]
            ),
        ),
        Claim(
            "no worse than repeating",
            "Where the text is learnt equally well, answers to other questions suffer no more from minimal-step "
            "variants than "
            "from exact repeats",
            (
                Criterion(
                    "change_h_at_equal_gain", "minimal steps", "exact repeats", "lower", delta=0.02, kind="not inferior"
                ),
            ),
        ),
    ),
    positive=(Criterion("best_wording", "the wording itself", "exact repeats", "lower", delta=0.02),),
    placebo=(
        Criterion("best_wording", "half of the steps", "the other half", "lower", delta=0.02),
        Criterion("kl_d_at_equal_gain", "half of the steps", "the other half", "lower", delta=0.01),
    ),
    same_rows=(("exact repeats", *MADE),),
    metrics={
        "best_wording": "change of NLL on an unseen wording of the same answers at the best of six points, mean over "
        "answers, "
        "nats per token, negative = learnt",
        "change_wording": "the same at the end",
        "change_wording_at_equal_gain": "the same where every learning arm has learnt the text equally well",
        "nll_wording": "NLL of the unseen wording at the end, mean over answers",
        "nll_text": "NLL on the trained text itself, mean over answers, nats per token",
        "change_h": "change of NLL on answers to other questions of the same kind",
        "change_h_at_equal_gain": "the same where every learning arm has learnt the text equally well",
        "change_d": "change of NLL on unrelated text, positive = forgotten",
        "kl_h": "KL(base ‖ trained) on answers to other questions, nats per token",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
        "kl_d_at_equal_gain": "KL on unrelated text where the arm reaches 90 % of the smallest learning arm's largest "
        "gain on the text",
        "volatility": "mean volatility of variants or edits, nats",
        "outside": f"share of random edits that are not within {WITHIN:.0%} of their variant's volatility",
    },
    settings={
        "rows per target": COUNT,
        "targets": TARGETS,
        "passes": 1,
        "measured at": list(POINTS),
        "budget": "volatility 0.1 nats, 2 token edits to the parent",
        "LoRA": "rank 8, alpha 16, all linear layers",
    },
    limits="Questions with several differently worded answers: short word problems. A paraphrase may be wrong. For "
    "some variants no "
    "random edit within the bound was found in four pools (*outside*); they took the nearest, and the means agree. "
    "Rows "
    "and steps are "
    "equal, tokens as far as wordings are equally long. The digests of the plan name the texts that variants and edits "
    "are made of.",
    held_out=("H",),
    prepare=prepare,
    run=run,
    rates=(1e-4, 3e-4, 1e-3),
    develop="best_wording",
    derive=derive,
    curve={
        "gain_text": "fall of NLL on the trained text, nats per token",
        "change_wording": "change of NLL on the other wording",
        "kl_d": "KL on unrelated text",
    },
    correction=Correction(
        claimed="Better than every control: did not hold. Safer than every control: did not hold. No worse than exact "
        "repeats: held "
        "(five seeds).",
        withdrawn="*Safer*: it rested on random edits that were 1.5 to 1.85 times as volatile as the variants they "
        "were said to "
        "match. *No worse than repeating*: it used the criteria of the other two claims again. All three were judged "
        "at the end "
        "of over-training (another wording had become .4 to .9 nats harder in every arm); two Russian answers carried "
        "69 to 84 % "
        "of the tokens, and the unrelated arm was fed 40 thousand of 97 thousand tokens.",
        stands="That variants of a text are no better teachers of it than paraphrases: the difference (+0.37 nats) is "
        "far beyond "
        "what the faults explain.",
    ),
)
