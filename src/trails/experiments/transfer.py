"""Experiment 16: does what is hard, missing or alike for some models carry over to a model of another family that was left out?

Members are put side by side on the spans that end with a token in all of them. Members of one family (a model, its adapter, its
first layers; small models with one tokenizer) have one voice together, and the family of the member that is predicted has none.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from trails.analyses.agreement import Member, aligned, member
from trails.analyses.gaps import background, seam_scores
from trails.analyses.neighbours import hashed_words
from trails.analyses.sequences import content_words
from trails.analyses.statistics import centred, generator, within_group_ranks
from trails.analyses.whitening import MIN_VECTORS, fit_whitening
from trails.errors import UsageError
from trails.experiments.base import (
    Arm,
    Claim,
    Criterion,
    Emit,
    Experiment,
    Metrics,
    Prepared,
    Scale,
    code_digest,
    rows_digest,
)
from trails.experiments.bench import Bench
from trails.experiments.corpus import Corpus
from trails.experiments.members import adapted, scorer_of, shortened
from trails.experiments.scale import DEVELOPMENT
from trails.experiments.small import byte_tokenizer, small_model, train_small
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.huggingface import HuggingFaceScorer
from trails.platform.arrays import Doubles, Floats, Longs
from trails.schema import Trace, stable_hash
from trails.train.data import Row

SOURCES, PER_SOURCE, SEEDS = 3, 4, 10
LEAST_STEPS, MOST_BYTES = 7, 760
"""Steps of a measured chain at least, and bytes of it with its question at most: it fits into the window of a small model."""
HALF = 1200
"""Chains of each half of the text that the small models are trained on."""
WINDOW = 768
SMALL_STEPS, SMALL_TOKENS = 160, {"bytes": 768, "subwords": 192}
"""Steps of a small model, and tokens of each of its two rows a step."""
ADAPTER_STEPS, ADAPTER_ROWS = 4, 4
DEPTH = 0.9
"""Share of the layers that the shortened model keeps."""
DRAWS = 10
"""Exchanges behind the value of a control."""
ALIKE = 4
"""Spans nearest in frequency among which values are exchanged."""
FAMILIES = ("base", "other", "subwords", "bytes")
_PIECE = re.compile(r"\d|[^\W\d_]+(?:['’][^\W\d_]+)*|\s*\n\s*|[^\w\s]|_")


# --- members ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Voice:
    """A member: its name, the family that it belongs to, and its scorer."""

    name: str
    family: str
    scorer: Any


def voices(bench: Bench, prepared: Prepared, scale: Scale) -> list[Voice]:
    """All members, made once for all seeds: the bench's model, the first of its layers, it with an adapter; the other models
    given; and four small ones, for each tokenizer one on each half of the text.
    """
    name = f"members {rows_digest(prepared.feeds['half A'])} {scale.name}"
    if name not in bench.shared:
        made = [Voice("base", "base", bench.scorer), Voice("depth", "base", shortened(bench, DEPTH))]
        options = bench.options(scale, scale.n_steps(ADAPTER_STEPS), 0, batch=ADAPTER_ROWS)
        made.append(Voice("adapter", "base", adapted(bench, prepared.feeds["adapter"], options)))
        made += [Voice(scorer.run.model, "other", scorer) for scorer in bench.others()]
        for family, tokenizer in (("subwords", bench.tokenizer), ("bytes", byte_tokenizer())):
            for half in "AB":
                scorer = _small(bench, family, tokenizer, half, prepared.extra["texts"][half], scale)
                made.append(Voice(f"{family} {half}", family, scorer))
        bench.shared[name] = made
    found: list[Voice] = bench.shared[name]
    return found


def _small(
    bench: Bench, family: str, tokenizer: Any, half: str, texts: Sequence[str], scale: Scale
) -> HuggingFaceScorer:
    """A small model trained on the texts of a half; its weights are kept in the bench's folder."""
    ids = torch.tensor(tokenizer("\n\n".join(texts), add_special_tokens=False)["input_ids"])
    window, steps = min(SMALL_TOKENS[family], len(ids) // 2), scale.n_steps(SMALL_STEPS)
    vocabulary = 256 if family == "bytes" else bench.vocabulary
    seed = FAMILIES.index(family) * 2 + "AB".index(half)
    model = small_model(vocabulary, WINDOW, tied=family == "subwords", seed=seed).to(bench.device)

    def make() -> Doubles:
        train_small(model, ids, steps=steps, window=window, seed=seed)
        weights: Doubles = torch.nn.utils.parameters_to_vector(model.parameters()).detach().cpu().numpy()
        return weights

    name = stable_hash(family, half, *texts, code_digest(), bench.run.tokenizer, str((window, steps, seed)))
    weights = torch.from_numpy(np.asarray(bench.kept(f"transfer-{name}", make), np.float32)).to(bench.device)
    torch.nn.utils.vector_to_parameters(weights, model.parameters())
    return scorer_of(bench, model.eval(), tokenizer, f"{family} {half}")


# --- what is compared ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Field:
    """U things (spans, seams, pairs of steps) that every member gives a value: ``values`` (U,) by member, ``group`` (U,) the
    chain, ``known`` (U, K) what they are judged after, ``near`` (U,) whose neighbours in a chain are alike. ``moved`` gives
    the places (U,) from which the values of shifted spans come.
    """

    values: Mapping[str, Doubles]
    group: Longs
    known: Doubles
    near: Doubles
    moved: Callable[[np.random.Generator], Longs]
    chains: int


@dataclass(frozen=True, slots=True)
class Words:
    """Counts of pieces (words, digits, signs, line ends) and of pairs of them in reference texts."""

    single: Mapping[str, int]
    pairs: Mapping[tuple[str, str], int]
    total: int

    def nats(self, text: str, before: str = "") -> tuple[float, float]:
        """What a text costs under its pieces alone and under its pairs of pieces, the first of which follows ``before``; nats.
        A pair backs off to its second piece with one pseudo-count.
        """
        alone = paired = 0.0
        for piece in pieces(text):
            p = (self.single.get(piece, 0) + 0.5) / (self.total + 1)
            alone -= math.log(p)
            paired -= math.log((self.pairs.get((before, piece), 0) + p) / (self.single.get(before, 0) + 1))
            before = piece
        return alone, paired


def pieces(text: str) -> list[str]:
    """Words without their capitals, single digits, signs and line ends of a text, in order."""
    return [found.strip(" \t").casefold() if found.strip() else "\n" for found in _PIECE.findall(text)]


def words_of(texts: Iterable[str]) -> Words:
    """The counts of some texts."""
    single: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    for text in texts:
        found = pieces(text)
        single.update(found)
        pairs.update(itertools.pairwise(found))
    return Words(single, pairs, sum(single.values()))


def _rolled(group: Longs) -> Callable[[np.random.Generator], Longs]:
    """Places of things moved circularly within their chain, by an offset of its own; those of a chain stand together."""
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    sizes = np.diff(np.append(starts, len(group)))
    begin, size = np.repeat(starts, sizes), np.repeat(sizes, sizes)

    def moved(draw: np.random.Generator) -> Longs:
        found: Longs = begin + (np.arange(len(group)) - begin + np.repeat(draw.integers(0, sizes), sizes)) % size
        return found

    return moved


def map_field(members: Sequence[Member], traces: Mapping[str, Trace], words: Words, *, pairs: bool) -> Field:
    """Nats of every span, judged after its nats under single words (``pairs``: and under pairs of words), its length and its
    place in the chain and in its step.
    """
    units, _ = aligned(members, "span")
    size = (units.end - units.start).astype(np.float64)
    rows = []
    before, chain = "", -1
    for c, start, end, step in zip(
        *(a.tolist() for a in (units.chain, units.start, units.end, units.step)), strict=True
    ):
        trace = traces[units.chains[c]]
        text = trace.chain.text
        if c != chain:
            before, chain = "", c
        alone, paired = words.nats(text[start:end], before)
        before = (pieces(text[start:end]) or [before])[-1]
        rows.append((alone, float(end - start), float(start), float(start - trace.steps[step].start), paired))
    table = np.asarray(rows, np.float64).reshape(-1, 5)
    values = {one.name: units.values[:, k] * size for k, one in enumerate(members)}
    return Field(
        values, units.chain, table if pairs else table[:, :4], table[:, 0] / size, _rolled(units.chain), len(traces)
    )


def seam_field(traces: Mapping[str, Mapping[str, Trace]], words: Words, score: str) -> Field:
    """A score of every seam, judged after the next step's nats under single words, its length, that of the step before and its
    place. ``traces`` by member and chain.
    """
    found = {}
    for name, mine in traces.items():
        known = background(list(mine.values()))
        found[name] = np.concatenate([seam_scores(trace, known, trace)[score][1:] for trace in mine.values()])
    rows, group = [], []
    for number, trace in enumerate(next(iter(traces.values())).values()):
        text = trace.chain.text
        for index in range(1, len(trace.steps)):
            step, previous = trace.steps[index], trace.steps[index - 1]
            alone, _ = words.nats(text[step.start : step.end])
            length = step.end - step.start
            rows.append((alone / max(length, 1), length, previous.end - previous.start, index))
            group.append(number)
    table, chain = np.asarray(rows, np.float64).reshape(-1, 4), np.asarray(group, np.int64)
    kept = np.isfinite(np.stack(list(found.values()))).all(0)
    values = {name: value[kept] for name, value in found.items()}
    return Field(
        values, chain[kept], table[kept], table[kept, 0], _rolled(chain[kept]), len(next(iter(traces.values())))
    )


def overlap_field(traces: Mapping[str, Mapping[str, Trace]]) -> Field:
    """Cosine of the whitened states of every step and every step of another chain of its source, judged after the likeness of
    their words (content words, and all pieces), and the difference of their lengths and places.
    """
    one = next(iter(traces.values()))
    steps = [(number, index) for number, trace in enumerate(one.values()) for index in range(len(trace.steps))]
    chains = list(one.values())
    text = [chains[c].chain.text[chains[c].steps[s].start : chains[c].steps[s].end] for c, s in steps]
    owner, place = (np.asarray(column, np.int64) for column in zip(*steps, strict=True))
    source = np.unique([trace.chain.source for trace in chains], return_inverse=True)[1][owner]
    length = np.log([max(len(t), 1) for t in text])
    i, j = np.nonzero((owner[:, None] != owner[None, :]) & (source[:, None] == source[None, :]))
    bags = [hashed_words([cut(t) for t in text]).astype(np.float64) for cut in (content_words, pieces)]
    alike = [(bag @ bag.T)[i, j] for bag in bags]
    known = np.stack([*alike, np.abs(length[i] - length[j]), np.abs(place[i] - place[j])], 1)
    values = {}
    for name, mine in traces.items():
        states = np.concatenate([trace.step_states[:, 0] for trace in mine.values() if trace.step_states is not None])
        white = _white(np.nan_to_num(np.asarray(states, np.float32))).astype(np.float64)
        values[name] = (white @ white.T)[i, j]
    number = np.full((len(steps), len(steps)), -1)
    number[i, j] = np.arange(len(i))
    rolled = _rolled(owner)

    def moved(draw: np.random.Generator) -> Longs:
        other = rolled(draw)
        found: Longs = number[other[i], other[j]]
        return found

    return Field(values, owner[i], known, alike[1], moved, len(chains))


def _white(states: Floats) -> Floats:
    """Whitened states of unit length; of too few to whiten, centred ones."""
    if len(states) >= MIN_VECTORS:
        return fit_whitening(states)(states)
    apart = states - states.mean(0)
    found: Floats = apart / np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-12)
    return found


# --- how it is judged ------------------------------------------------------------------------------------------------


def directions(known: Doubles, group: Longs) -> Doubles:
    """What is known, (U, K), as orthogonal columns of length 1: ranks within their chains and their squares, every chain's mean
    0.
    """
    columns = []
    for k in range(known.shape[1]):
        rank = within_group_ranks(known[:, k], group)
        columns += [centred(rank, group), centred((rank - 0.5) ** 2, group)]
    if not columns:
        return np.zeros((len(known), 0))
    found, size, _ = np.linalg.svd(np.stack(columns, 1), full_matrices=False)
    return np.asarray(found[:, size > 1e-9 * max(float(size.max(initial=0)), 1e-300)], np.float64)


def left_over(values: Doubles, taken: Doubles, group: Longs) -> Doubles:
    """What the ranks of values within their chains, (U,), have beyond a regression on the columns of :func:`directions`. Slopes
    are those of all chains together; every chain's mean is 0.
    """
    wanted = centred(within_group_ranks(values, group), group)
    found: Doubles = wanted - taken @ (taken.T @ wanted)
    return found


def by_chain(one: Doubles, two: Doubles, group: Longs, chains: int) -> Doubles:
    """Correlation of two columns within every chain, (chains,); NaN where a side is constant or a chain has nothing."""
    a, b = centred(one, group), centred(two, group)
    top, left, right = (np.bincount(group, weights=w, minlength=chains) for w in (a * b, a * a, b * b))
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Doubles = top / np.sqrt(left * right)
    return np.where((left > 1e-12) & (right > 1e-12), found, np.nan)


def voted(field: Field, families: Sequence[Sequence[str]]) -> Doubles:
    """Mean rank within the chain, (U,), that families of members give: every family has one voice."""
    ranks = [np.mean([within_group_ranks(field.values[name], field.group) for name in one], 0) for one in families]
    found: Doubles = np.mean(ranks, 0)
    return found


def exchanged(field: Field, draw: np.random.Generator) -> Longs:
    """Places (U,) from which values come that are exchanged at random among :data:`ALIKE` or more neighbours of a chain in
    ``near``. None keeps its own, except in one chain of n things out of n: of independent values the correlation with their
    own is then 0 in the mean.
    """
    order = np.lexsort((draw.random(len(field.near)), field.near, field.group))
    _, first, size = np.unique(field.group[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(first, size)
    block = np.minimum(place // ALIKE, np.repeat(np.maximum(size // ALIKE - 1, 0), size))
    mixed = order[np.lexsort((draw.random(len(order)), block, field.group[order]))]
    begins = np.flatnonzero((np.diff(block, prepend=-1) != 0) | (place == 0))
    sizes = np.diff(np.append(begins, len(order)))
    begin, many = np.repeat(begins, sizes), np.repeat(sizes, sizes)
    ahead = np.repeat(draw.integers(1, np.maximum(sizes, 2)), sizes)
    ahead *= np.repeat(draw.random(len(size)) * size >= 1, size)
    found = np.empty(len(order), np.int64)
    found[mixed] = mixed[begin + (np.arange(len(order)) - begin + ahead) % many]
    return found


def agreeing(field: Field, target: Doubles, votes: Doubles, taken: Doubles) -> Doubles:
    """Correlation by chain of what is left over of a member, (U,), with what is left over of the votes, (chains,)."""
    return by_chain(target, left_over(votes, taken, field.group), field.group, field.chains)


# --- one seed --------------------------------------------------------------------------------------------------------


def _question(item: Segmented) -> str:
    return " ".join(item.chain.question.split()) or item.chain.id


def sources_of(corpus: Corpus, scale: Scale) -> dict[str, list[Segmented]]:
    """Chains that can be measured of the sources that have most of them: long enough in steps, short enough in bytes, one for
    each question.
    """
    least = LEAST_STEPS if scale.size >= 1 else 2
    found: dict[str, list[Segmented]] = {}
    for source in corpus.reasoning():
        asked: set[str] = set()
        for item in corpus.block(source, 0, 1):
            size = len(f"{item.chain.question}{item.chain.text}".encode())
            if len(item.steps) >= least and size <= MOST_BYTES and _question(item) not in asked:
                asked.add(_question(item))
                found.setdefault(source, []).append(item)
    wanted = (SEEDS + 2) * scale.count(PER_SOURCE, 2)
    able = [source for source in found if len(found[source]) >= (wanted if scale.size >= 1 else 2)]
    if not able or (scale.size >= 1 and len(able) < SOURCES):
        told = ", ".join(f"{source} {len(items)}" for source, items in found.items()) or "none"
        raise UsageError(
            f"experiment transfer needs {wanted} chains of {least} steps or more and at most {MOST_BYTES} bytes with their "
            f"question in {SOURCES} sources; there are: {told}. Give more chains: --data PATH"
        )
    chosen = sorted(able, key=lambda source: (-len(found[source]), source))[:SOURCES]
    return {source: found[source] for source in sorted(chosen)}


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """The chains of a seed's own blocks, and the text that members are trained on: of other questions, the same for all."""
    if scale.size >= 1 and not bench.members:
        raise UsageError(
            "experiment transfer needs another pretrained model, with a tokenizer of its own: --member MODEL"
        )
    able = sources_of(corpus, scale)
    per = scale.count(PER_SOURCE, 2)
    name = f"transfer texts {corpus.digest} {scale.name}"
    if name not in bench.shared:
        bench.shared[name] = _texts(bench, corpus, able, per, scale)
    feeds, texts = bench.shared[name]
    words = name.replace("texts", "words")
    if words not in bench.shared:
        bench.shared[words] = words_of((*texts["A"], *texts["B"]))
    block = -(seed - DEVELOPMENT + 1) if seed >= DEVELOPMENT else seed
    items = []
    for source in able:
        start = block * per % len(able[source])
        items += (able[source] + able[source])[start : start + per]
    rows = [bench.row(item) for item in items]
    return Prepared(feeds, {"H": rows}, {"items": items, "texts": texts, "words": bench.shared[words]})


def _texts(
    bench: Bench, corpus: Corpus, able: Mapping[str, Sequence[Segmented]], per: int, scale: Scale
) -> tuple[dict[str, list[Row]], dict[str, list[str]]]:
    """Rows of the two halves and of the adapter, of chains whose questions no seed measures, and the texts of the halves."""
    rest: list[Segmented] = []
    share = -(-scale.count(2 * HALF, 12) // len(able))
    for source, items in able.items():
        measured = items if scale.size < 1 else (*items[: SEEDS * per], *items[-2 * per :])
        taken = {_question(item) for item in measured}
        others = [item for item in corpus.block(source, 0, 1) if _question(item) not in taken]
        rest += (others or list(items))[:share]
    order = generator(0, "transfer halves").permutation(len(rest)).tolist()
    rows = [bench.row(rest[k], 2 * WINDOW) for k in order]
    half = len(rows) // 2
    feeds = {
        "half A": rows[:half],
        "half B": rows[half:],
        "adapter": rows[: scale.n_steps(ADAPTER_STEPS) * ADAPTER_ROWS],
    }
    texts = [f"{rest[k].chain.question}\n{rest[k].chain.text}" for k in order]
    return feeds, {"A": texts[:half], "B": texts[half:]}


def fields_of(
    consilium: Sequence[Voice], items: Sequence[Segmented], words: Words
) -> tuple[dict[str, Field], list[str]]:
    """Everything that is compared, by its name, and the chains in order."""
    traces: dict[str, dict[str, Trace]] = {}
    for voice in consilium:
        options = MeasureOptions(top_k=0, states=(max(1, round(voice.scorer.run.n_layers / 2)),))
        found = {trace.chain.id: trace for trace in voice.scorer.measure(items, options)}
        traces[voice.name] = {chain: found[chain] for chain in sorted(found)}
    members = [member(voice.name, voice.name, traces[voice.name].values()) for voice in consilium]
    known = traces[consilium[0].name]
    return {
        "map": map_field(members, known, words, pairs=False),
        "strict": map_field(members, known, words, pairs=True),
        "gaps": seam_field(traces, words, "surprisal_excess"),
        "links": seam_field(traces, words, "previous_attention"),
        "overlaps": overlap_field(traces),
    }, list(known)


def run(
    bench: Bench,
    prepared: Prepared,
    scale: Scale,
    seed: int,
    arms: Sequence[str],
    rates: Mapping[str, float],
    emit: Emit,
) -> None:
    """One seed: every member measures its chains once; the arms are ways to predict."""
    consilium = voices(bench, prepared, scale)
    fields, chains = fields_of(consilium, prepared.extra["items"], prepared.extra["words"])
    told = {arm: predicted(fields, consilium, arm, seed) for arm in arms}
    nats = {voice.name: float(fields["map"].values[voice.name].sum()) for voice in consilium}
    for arm in arms:
        values = told[arm]
        metrics: Metrics = {name: float(np.mean(values[name])) if name in values else math.nan for name in METRICS}
        units = {
            chain: {name: float(value[number]) for name, value in values.items()} for number, chain in enumerate(chains)
        }
        emit(arm, metrics, {"units": units, "spans": len(fields["map"].group), "nats": nats})


def predicted(fields: Mapping[str, Field], consilium: Sequence[Voice], arm: str, seed: int) -> dict[str, Doubles]:
    """How well an arm predicts, by metric: a number for each chain."""
    names = {f: [v.name for v in consilium if v.family == f] for f in FAMILIES}
    found: dict[str, Doubles] = {}
    for what, field in fields.items():
        taken = directions(field.known, field.group)
        own = {name: left_over(values, taken, field.group) for name, values in field.values.items()}
        if arm in PAIRS:
            both = [agreeing(field, own[one], voted(field, [[two]]), taken) for one, two in PAIRS[arm]]
            found[f"{what}_small"] = np.mean(both, 0)
            continue
        for family in FAMILIES:
            if not names[family]:
                continue
            target = names[family][0]
            voters = [names[f] for f in FAMILIES if f != family and names[f]]
            if arm == "pretrained":
                voters = [names[f][:1] for f in ("base", "other") if f != family and names[f]]
            elif arm == "kin":
                voters = [names[family][1:]] if family == "base" else []
            if not voters:
                continue
            votes = voted(field, voters)
            if arm in MOVED:
                draw = generator(seed, arm, what, family)
                places = [exchanged(field, draw) if arm == "alike" else field.moved(draw) for _ in range(DRAWS)]
                found[f"{what}_{family}"] = np.mean(
                    [agreeing(field, own[target], votes[at], taken) for at in places], 0
                )
                continue
            found[f"{what}_{family}"] = agreeing(field, own[target], votes, taken)
            if what == "map":
                nothing = taken[:, :0]
                raw = left_over(field.values[target], nothing, field.group)
                found[f"raw_{family}"] = agreeing(field, raw, votes, nothing)
    return found


MOVED = ("shifted", "shifted again", "alike")
PAIRS = {
    "same tokenizer": (("subwords A", "subwords B"), ("bytes A", "bytes B")),
    "other tokenizer": (("subwords A", "bytes B"), ("bytes A", "subwords B")),
}
"""Pairs of small models, each model in both; the two of a pair were trained on different halves of the text."""


TARGETS = {"base": "the model", "other": "the other model", "subwords": "a small model with the model's tokenizer",
           "bytes": "a small model of bytes", "small": "small models, each predicted by one other,"}  # fmt: skip
MEANINGS = {
    "map": "nats of spans, after frequency, length and place",
    "gaps": "surprisal of steps above that of the same tokens elsewhere, after frequency, lengths and place",
    "links": "attention on the step before, after the same",
    "overlaps": "likeness of whitened states of steps of different chains, after likeness of words, lengths and places",
    "strict": "nats of spans, after the frequency of pairs of words, too",
    "raw": "nats of spans, nothing taken out",
}
METRICS = {
    f"{what}_{family}": f"{meaning}: rank correlation within a chain of {said} with what is predicted"
    for what, meaning in MEANINGS.items()
    for family, said in TARGETS.items()
    if not (what == "raw" and family == "small")
}
_DELTA = 0.1


def _carried(name: str, sentence: str, what: str, families: Sequence[str] = FAMILIES[:2]) -> Claim:
    """What the others predict is nearer than what they predict of shifted things, and of things exchanged among like ones."""
    return Claim(
        name,
        sentence,
        tuple(
            Criterion(f"{what}_{family}", "others", control, "higher", delta=_DELTA)
            for family in families
            for control in ("shifted", "alike")
        ),
    )


EXPERIMENT = Experiment(
    name="transfer",
    number="16",
    title="What carries over to a model left out",
    hypothesis="Which spans a model finds hard, before which steps something is missing for it, and which steps it holds for "
    "alike, is predicted by models of other families beyond frequency, length and place, whatever their tokenizers.",
    arms=(
        Arm("others", "the mean rank that all other families give, a family one voice", control=False, trained=False),
        Arm("shifted", "the same moved circularly within each chain (steps, for pairs of steps)", trained=False),
        Arm("shifted again", "another such draw: the placebo", trained=False),
        Arm(
            "alike",
            f"the same exchanged within each chain among {ALIKE} neighbours in frequency (in likeness of words, for pairs)",
            trained=False,
        ),
        Arm("pretrained", "the other pretrained model alone; for small models both", trained=False),
        Arm("kin", "positive control: the model's first layers and the model with an adapter", trained=False),
        Arm("same tokenizer", "small models by a small model of the same tokenizer and of other texts", trained=False),
        Arm(
            "other tokenizer", "small models by a small model of the other tokenizer and of other texts", trained=False
        ),
    ),
    claims=(
        _carried(
            "map",
            "Which spans the model and the other pretrained model find hard is predicted by the other families beyond "
            "frequency, length and place",
            "map",
        ),
        _carried(
            "map, beyond pairs of words",
            "Which spans these two find hard is predicted by the other families beyond the frequency of pairs of words, too",
            "strict",
        ),
        _carried(
            "map, small models",
            "Which spans small models find hard is predicted by the other families beyond frequency, length and place",
            "map",
            FAMILIES[2:],
        ),
        _carried(
            "gaps",
            "Before which steps the two pretrained models are surprised is predicted by the other families beyond frequency, "
            "length and place",
            "gaps",
        ),
        _carried(
            "links",
            "Which steps of the two pretrained models look at the step before is predicted by the other families beyond "
            "frequency, length and place",
            "links",
        ),
        _carried(
            "overlaps",
            "Which steps of different chains are alike inside the two pretrained models is predicted by the other families "
            "beyond the likeness of their words",
            "overlaps",
        ),
        Claim(
            "tokenizer",
            "A small model predicts what another finds hard as well with another tokenizer as with the same one",
            (Criterion("map_small", "other tokenizer", "same tokenizer", "higher", delta=_DELTA, kind="equivalent"),),
        ),
        Claim(
            "an adapter is no other model",
            "What the model finds hard is predicted better by its own first layers and adapter than by other families",
            (Criterion("map_base", "kin", "others", "higher", delta=_DELTA),),
        ),
    ),
    positive=(Criterion("map_base", "kin", "shifted", "higher", delta=_DELTA),),
    placebo=tuple(
        Criterion(f"{what}_base", "shifted again", "shifted", "higher", delta=_DELTA)
        for what in MEANINGS
        if what != "raw"
    ),
    metrics=METRICS,
    settings={
        "sources": SOURCES,
        "chains per seed and source": PER_SOURCE,
        "steps at least": LEAST_STEPS,
        "bytes with the question at most": MOST_BYTES,
        "members of the model's family": f"the model, the first {DEPTH:g} of its layers, it with an adapter of rank 8 after "
        f"{ADAPTER_STEPS} steps of {ADAPTER_ROWS} rows",
        "small models": f"llamas of 4 layers and 128 dimensions, trained from nothing for {SMALL_STEPS} steps of two rows of "
        f"{SMALL_TOKENS['subwords']} tokens with the model's tokenizer, or of {SMALL_TOKENS['bytes']} bytes; for each "
        "tokenizer one on each half of the text",
        "gaps": "surprisal_excess of trails gaps, the other chains of the seed as background",
        "links": "previous_attention of trails gaps, mean over layers",
        "states": "mean of a step's tokens at the middle layer, whitened over the seed's steps",
        "frequency": "of words, digits and signs in the texts of the small models",
        "taken out": "ranks within the chain and their squares, slopes of the seed's chains together",
        "draws of a control": DRAWS,
    },
    limits="Two pretrained models. The small ones are weak, and were trained on other chains of the same sources, from which "
    "frequencies are counted as well. Spans end where tokens of all members end: most are whole words, signs and digits. "
    "That the two pretrained models agree before anything is taken out was known beforehand, and beyond it from the "
    "development chains, which no seed measures.",
    unit=f"block of {SOURCES * PER_SOURCE} chains",
    texts=SEEDS * SOURCES * PER_SOURCE,
    looks=(SEEDS,),
    prepare=prepare,
    run=run,
)
