"""Experiment 12: does a gap in a course force the model to find the bridge that was withheld?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from trails.analyses.statistics import generator
from trails.errors import UsageError
from trails.experiments.base import Arm, Claim, Criterion, Emit, Experiment, Metrics, Prepared, Scale
from trails.experiments.bench import Bench, mean
from trails.experiments.corpus import Corpus
from trails.experiments.neutrality import CHOICES, accuracy
from trails.export.split import GRAM, grams
from trails.genome.gaps import Audit, Piece
from trails.genome.words import stems
from trails.measure.base import Segmented
from trails.schema import Role
from trails.train.data import Row

FAMILY = "entailment-bank"
"""The source of arguments; where the corpus does not have it, the trained one."""
TARGETS, OTHERS, NEW = 32, 128, 24
"""Arguments with a gap, other arguments of the course, and arguments that no arm meets."""
BLOCK = 90
"""Candidates from which a seed's own arguments come: no argument has its gap in two seeds."""
PASSES = 2
NEAR = 0.4
"""Share of a bridge's words, by their rarity, in one step of another argument that counts as a leak: stricter than a course's
audit is by itself, which finds fewer of the leaks that are planted."""
RECALL = 0.95
"""Share of planted leaks that the audit must find."""
NEED = 0.02
"""Nats per token by which a bridge must ease the conclusion for the untrained model: other arguments need none."""
LEAST_STEMS = 4
TOKENS = 10
"""Tokens of length that weigh as much as the whole chain in place, where passages are matched."""


@dataclass(frozen=True, slots=True)
class Argument:
    """A chain as a row of tokens, and its step ``at`` that draws a conclusion on the way to the last one."""

    item: Segmented
    row: Row
    at: int

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First token and the one behind the last of every step, in the row."""
        return [(span["start"], span["end"]) for span in self.row["step_spans"]]

    @property
    def steps(self) -> list[str]:
        """Texts of the steps."""
        return [self.item.chain.text[step.start : step.end] for step in self.item.steps]

    def tokens(self, step: int) -> list[int]:
        """Tokens of a step."""
        first, last = self.spans[step]
        return list(self.row["input_ids"][first:last])

    @property
    def repeats(self) -> bool:
        """Whether the bridge, or thirteen tokens of it, stands elsewhere in the argument or its question."""
        first, last = self.spans[self.at]
        ids = self.row["input_ids"]
        n = min(GRAM, last - first)
        mine = grams(ids[first:last], n)
        return bool(mine & (grams(ids[:first], n) | grams(ids[last:], n)))

    @property
    def place(self) -> float:
        """Where the bridge stands, 0 to 1."""
        return self.at / (len(self.spans) - 1)


class Held:
    """Arguments by number, as an audit reads the chains of a shelf."""

    def __init__(
        self, arguments: Sequence[Argument], vocabulary: int, *, without: frozenset[int] = frozenset()
    ) -> None:
        """``without`` are the numbers of the arguments whose bridge is not there."""
        self.run = SimpleNamespace(vocab_size=vocabulary)
        self._items = [_told(one, cut=number in without) for number, one in enumerate(arguments)]

    def texts(self, rows: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        """Number and texts of arguments."""
        yield from ((row, self._items[row]) for row in rows.tolist())


def _told(one: Argument, *, cut: bool) -> dict[str, Any]:
    kept = [k for k in range(len(one.spans)) if not (cut and k == one.at)]
    text = ""
    ids: list[int] = []
    spans: list[dict[str, int]] = []
    places: list[tuple[int, int]] = []
    for step in kept:
        said, tokens = one.steps[step], one.tokens(step)
        spans.append({"start": len(text), "end": len(text) + len(said)})
        places.append((len(ids), len(ids) + len(tokens)))
        text += said
        ids += tokens
    question = one.item.chain.question or ""
    return {"text": text, "question": question, "steps": spans, "step_tokens": places, "token_ids": ids}


def arguments(bench: Bench, items: Sequence[Segmented], max_tokens: int, seed: int) -> Iterator[Argument]:
    """Every chain that has a conclusion on the way: a whole sentence of role THEREFORE that is neither its first nor its last
    step; one of them is drawn. Chains that ``max_tokens`` would cut are passed over.
    """
    for item in items:
        texts = [item.chain.text[step.start : step.end].strip() for step in item.steps]
        inner = [
            k
            for k in range(1, len(texts) - 1)
            if item.steps[k].role is Role.THEREFORE
            and texts[k].endswith((".", "!", "?"))
            and len(set(stems(texts[k]))) >= LEAST_STEMS
        ]
        if len(texts) < 4 or not inner:
            continue
        row = bench.row(item)
        if len(row["input_ids"]) > max_tokens or len(row["step_spans"]) != len(texts):
            continue
        at = inner[int(generator(seed, "bridge", item.chain.id).integers(len(inner)))]
        one = Argument(item, row, at)
        if all(last > first for first, last in one.spans):
            yield one


def piece_of(number: int, one: Argument) -> Piece:
    """The bridge of an argument as the audit looks for it."""
    before = one.steps[: one.at]
    own = frozenset(pair for step in before for pair in combinations(sorted(set(stems(step))), 2))
    return Piece(number, one.at, one.steps[one.at], tuple(one.tokens(one.at)), " ".join(before)[-400:], own)


def audited(
    bench: Bench, own: Sequence[Argument], rest: Sequence[Argument], seed: int
) -> tuple[list[int], list[int], float]:
    """Indices of the arguments of ``own`` whose bridges are withheld, those of ``rest`` in which none of these is left, and the
    share of planted leaks that the audit finds.

    An argument stays out when its bridge stands word for word elsewhere in it, and when it holds another one's bridge: thirteen
    tokens in a row, :data:`NEAR` of its words, or two rare words that only the bridge brings together. What an argument says of
    its own bridge in other words is the argument, and stays.
    """
    kept = [k for k, one in enumerate(own) if not one.repeats]
    while True:
        every = [own[k] for k in kept] + list(rest)
        course = np.arange(len(every))
        held = Held(every, bench.vocabulary, without=frozenset(range(len(kept))))
        pieces = [piece_of(number, own[k]) for number, k in enumerate(kept)]
        audit = Audit(held, course, pieces, near=NEAR)
        read = list(audit.read(course))

        def leaks(by: Audit, number: int, read: Any = read) -> bool:
            _, steps, tokens, question = read[number]
            return bool(by.leaks(steps, tokens) or (question and by.leaks([question], [[]])))

        leaking = [
            number
            for number in range(len(kept))
            if leaks(audit, number)
            and leaks(Audit(held, course, [piece for piece in pieces if piece.chain != number], near=NEAR), number)
        ]
        if not leaking:
            break
        kept = [k for number, k in enumerate(kept) if number not in leaking]
    clean = [number for number in range(len(kept), len(every)) if not leaks(audit, number)]
    counted = audit.recall(pieces, [(read[number][1], read[number][2]) for number in clean], {}, len(clean), seed)
    planted = sum(one.planted for one in counted)
    recall = sum(one.found for one in counted) / planted if planted else 0.0
    return kept, [number - len(kept) for number in clean], recall


def matched(targets: Sequence[Argument], others: Sequence[Argument]) -> list[int]:
    """For every target another argument, each once, so that their steps are as long and stand where the bridges do, in sum."""
    length = np.array([[abs(len(t.tokens(t.at)) - len(o.tokens(o.at))) for o in others] for t in targets], np.float64)
    place = np.array([[abs(t.place - o.place) for o in others] for t in targets])
    found: list[int] = linear_sum_assignment(length + TOKENS * place)[1].tolist()
    return found


def row_of(bench: Bench, one: Argument, how: str, seed: int) -> Row:
    """The argument ``whole``, ``cut`` (its bridge is not there) or ``scrambled`` (the words of the bridge in random order, its
    first and last token where they were); all of it but what stands before the chain is learnt.
    """
    ids, offset = list(one.row["input_ids"]), one.row["offset"]
    first, last = one.spans[one.at]
    if how == "cut":
        ids = ids[:first] + ids[last:]
    if how == "scrambled":
        order = generator(seed, "scrambled", one.item.chain.id).permutation(last - first - 2)
        ids[first + 1 : last - 1] = [ids[first + 1 + k] for k in order.tolist()]
    return bench.ids_row(ids[offset:], ids[:offset], chain=one.row["chain"])


def questions(bench: Bench, asked: Sequence[Argument], wrong: Sequence[Argument]) -> list[Row]:
    """What follows the steps before the bridge: the bridge, then those of other arguments that share most of its words."""
    known = [frozenset(stems(one.steps[one.at])) for one in wrong]
    rows = []
    for one in asked:
        mine = frozenset(stems(one.steps[one.at]))
        near = [k for k, words in enumerate(known) if words != mine and wrong[k].item.chain.id != one.item.chain.id]
        near.sort(key=lambda k: (-len(known[k] & mine), wrong[k].item.chain.id))
        context = one.row["input_ids"][: one.spans[one.at][0]]
        choices = [one.tokens(one.at), *(wrong[k].tokens(wrong[k].at) for k in near[: CHOICES - 1])]
        rows += [bench.ids_row(ids, context, chain=one.row["chain"]) for ids in choices]
    return rows


def ends(bench: Bench, asked: Sequence[Argument], how: str) -> list[Row]:
    """The last step of each argument after its question alone (``asked``), or after all its steps with (``told``) or without
    (``untold``) the bridge.
    """
    rows = []
    for one in asked:
        ids = one.row["input_ids"]
        first, last = one.spans[one.at]
        end = one.spans[-1][0]
        context = {"asked": ids[: one.row["offset"]], "told": ids[:end], "untold": ids[:first] + ids[last:end]}[how]
        rows.append(bench.ids_row(ids[end:], context, chain=one.row["chain"]))
    return rows


def prepare(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> Prepared:
    """The course of every arm, the questions about what was withheld, and what the audit found. Raises UsageError where it
    finds too few of the leaks that were planted.
    """
    family = FAMILY if FAMILY in corpus.families else corpus.roles.trained
    n_targets, n_new = scale.count(TARGETS, 3), scale.count(NEW, 2)
    n_others = OTHERS // TARGETS * n_targets
    size = scale.count(BLOCK, 6)
    ordered = corpus.block(family, seed, size)
    own = list(arguments(bench, ordered[:size], scale.max_tokens, seed))
    spare = arguments(bench, ordered[size:], scale.max_tokens, seed)
    rest = [one for one, _ in zip(spare, range(2 * (n_others + n_new)), strict=False)]
    kept, clean, recall = audited(bench, own, rest, seed)
    if scale.name == "full" and recall < RECALL:
        raise UsageError(f"the audit finds {recall:.3f} of the leaks planted in {family}, {RECALL} is the least")
    targets = [own[k] for k in kept][:n_targets]
    free = [rest[k] for k in clean]
    others, left = free[:n_others], free[n_others:]
    fed = [one.row["input_ids"] for one in (*targets, *others)]
    new = _apart(bench, left, n_new, fed)
    chosen = {one.item.chain.id for one in new}
    wrong = [one for one in left if one.item.chain.id not in chosen]
    if len(targets) < 3 or len(others) < 4 * len(targets) or len(new) < 2 or len(wrong) < CHOICES - 1:
        raise UsageError(
            f"{family} has {len(targets)} arguments whose bridge is nowhere else, {len(others)} others, {len(new)} unmet and "
            f"{len(wrong)} for wrong answers: too few. Give more chains: --data PATH"
        )
    # arguments instead of those with the gap, then by turns those for one passage and for another one
    instead, rest = others[: len(targets)], others[len(targets) :]
    first, second = rest[::2], rest[1::2]
    pair, again = ([of[k] for k in matched(targets, of)] for of in (first, second))
    course = [*targets, *first, *second]
    feeds = {}
    for arm, gone, scrambled in (
        ("removed", targets, ()),
        ("random passage", pair, ()),
        ("another random passage", again, ()),
        ("kept", (), ()),
        ("scrambled", (), targets),
        ("never met", instead, ()),
    ):
        met = course if arm != "never met" else [*instead, *first, *second]
        feeds[arm] = _feed(bench, met, gone, scrambled, seed, scale.batch)
    sets = {
        "H": questions(bench, targets, wrong),
        "new": questions(bench, new, wrong),
        "conclusions": ends(bench, targets, "asked"),
        "new arguments": [one.row for one in new],
        "told": ends(bench, targets, "told"),
        "untold": ends(bench, targets, "untold"),
        "D": [bench.row(item, scale.max_tokens) for item in corpus.unrelated(seed)[: scale.evaluate]],
    }
    gone_tokens = [len(one.tokens(one.at)) for one in targets]
    audit = {
        "audit_recall": recall,
        "kept_by_audit": len(kept) / max(len(own), 1),
        "length_ratio": sum(len(one.tokens(one.at)) for one in pair) / sum(gone_tokens),
        "place_apart": float(np.mean([abs(a.place - b.place) for a, b in zip(targets, pair, strict=True)])),
    }
    return Prepared(feeds, sets, audit)


def _apart(bench: Bench, found: Sequence[Argument], count: int, fed: Sequence[Sequence[int]]) -> list[Argument]:
    """The first arguments that share no 13 tokens with the rows fed."""
    by_chain = {one.item.chain.id: one for one in found}
    return [by_chain[row["chain"]] for row in bench.apart([one.item for one in found], count, fed, 0)]


def _feed(
    bench: Bench,
    met: Sequence[Argument],
    gone: Sequence[Argument],
    scrambled: Sequence[Argument],
    seed: int,
    batch: int,
) -> list[Row]:
    """The rows of an arm in the order fed: every argument :data:`PASSES` times, in an order that is the same in all arms."""
    cut, mixed = ({one.item.chain.id for one in some} for some in (gone, scrambled))

    def how(one: Argument) -> str:
        return "cut" if one.item.chain.id in cut else "scrambled" if one.item.chain.id in mixed else "whole"

    rows = [row_of(bench, one, how(one), seed) for one in met]
    order = [k for n in range(PASSES) for k in generator(seed, "feed", str(n)).permutation(len(rows)).tolist()]
    return [rows[k] for k in order[: len(order) // batch * batch]]


def asked(probes: Sequence[Any], needed: Any, suffix: str = "") -> Metrics:
    """Margin, accuracy and NLL of bridges among the choices, of the arguments marked in ``needed`` (arguments,)."""
    mine = [p for number, keep in enumerate(needed) if keep for p in probes[CHOICES * number : CHOICES * (number + 1)]]
    names = {"margin": "margin", "accuracy": "accuracy", "nll_conclusion": "nll_bridge"}
    found = accuracy(mine) if mine else dict.fromkeys(names, float("nan"))
    return {f"{names[name]}{suffix}": value for name, value in found.items()}


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
    sets = {name: list(rows) for name, rows in prepared.sets.items()}
    told, untold = (
        np.array([mean([p.nll]) for p in bench.probe(bench.model, sets[name])]) for name in ("told", "untold")
    )
    needed = untold - told >= NEED
    everyone = np.ones(len(sets["new"]) // CHOICES, bool)
    unrelated = sets["D"]
    drift = mean(p.nll for p in bench.probe(bench.model, unrelated))
    order = ("H", "new", "conclusions", "new arguments")

    def measured(of: Mapping[str, Sequence[Any]]) -> Metrics:
        hop = [p for p, keep in zip(of["conclusions"], needed, strict=True) if keep]
        return (
            asked(of["H"], needed)
            | asked(of["new"], everyone, "_new")
            | {"nll_hop": mean(p.nll for p in hop), "nll_new": mean(p.nll for p in of["new arguments"])}
        )

    extra = {"needed": int(needed.sum()), "targets": len(needed)}
    if "untrained" in arms:
        before = measured({name: bench.probe(bench.model, sets[name]) for name in order})
        facts = dict(prepared.extra) | {"need": float(needed.mean()), "bridge_gain": float((untold - told).mean())}
        emit("untrained", before | facts | {"change_d": 0.0, "kl_d": 0.0}, {"tokens": 0} | extra)
    feeds = {arm: list(prepared.feeds[arm]) for arm in arms if arm != "untrained"}
    if not feeds:
        return
    steps = scale.n_steps(len(next(iter(feeds.values()))) // scale.batch)
    with bench.side_by_side(feeds, rates, bench.options(scale, steps, seed)) as (adapters, losses):
        found = {name: bench.probe_each(adapters, sets[name]) for name in order}
        moved = bench.probe_each(adapters, unrelated, compare=True)
    for number, arm in enumerate(feeds):
        metrics = measured({name: found[name][number] for name in order}) | {
            "change_d": mean(p.nll for p in moved[number]) - drift,
            "kl_d": mean(p.kl for p in moved[number] if p.kl is not None),
            "loss": losses[arm][-1],
        }
        feed = feeds[arm][: steps * scale.batch]
        labelled = sum(label != -100 for row in feed for label in row["labels"])
        emit(arm, metrics, {"tokens": sum(len(row["input_ids"]) for row in feed), "labelled": labelled} | extra)


_DELTA = 0.05


def _more(metric: str, treatment: str, *controls: str, direction: Any = "higher") -> tuple[Criterion, ...]:
    return tuple(Criterion(metric, treatment, control, direction, delta=_DELTA) for control in controls)


EXPERIMENT = Experiment(
    name="bridges",
    number="12",
    title="Gaps in a course",
    hypothesis="A gap forces a bridge: where a course leaves out the bridges of arguments and keeps their beginnings and ends, "
    "the model finds the missing bridges, and the conclusions asked at once, likelier than after a course that lacks as many "
    "other passages of the same role, length and place.",
    arms=(
        Arm(
            "removed",
            "the bridges of some arguments taken out of the course, and audited to be nowhere else",
            control=False,
        ),
        Arm(
            "random passage", "conclusions on the way of as many other arguments taken out, matched in length and place"
        ),
        Arm("another random passage", "the same, of others again: the placebo"),
        Arm("kept", "the course as it is: the positive control"),
        Arm("scrambled", "the bridges kept, their words in random order"),
        Arm("never met", "other arguments with gaps in the place of those that are asked about"),
        Arm("untrained", "the model as it is", trained=False),
    ),
    claims=(
        Claim(
            "a gap forces the bridge",
            "Bridge questions are answered better after a course without the bridges than after one without as many other "
            "passages",
            _more("margin", "removed", "random passage"),
        ),
        Claim(
            "the gap fills itself",
            "The bridges withheld from an argument are answered better after a course that holds the rest of it than after one "
            "that never met it",
            _more("margin", "removed", "never met"),
        ),
        Claim(
            "multi-hop",
            "Conclusions asked at once are likelier after a course without the bridges than after one without as many other "
            "passages, and than where the bridges are kept",
            _more("nll_hop", "removed", "random passage", "kept", direction="lower"),
        ),
        Claim(
            "new arguments",
            "For arguments that no arm has met it makes no difference whether bridges or as many other passages were left out",
            (Criterion("margin_new", "removed", "random passage", "higher", delta=_DELTA, kind="equivalent"),),
        ),
        Claim(
            "not its words",
            "Bridge questions are answered better after a course with the bridges than after one with their words in random "
            "order",
            _more("margin", "kept", "scrambled"),
        ),
    ),
    positive=(Criterion("margin", "kept", "never met", "higher", delta=_DELTA),),
    placebo=(
        Criterion("margin", "another random passage", "random passage", "higher", delta=_DELTA),
        Criterion("nll_hop", "another random passage", "random passage", "lower", delta=_DELTA),
    ),
    metrics={
        "margin": "bridge questions: NLL of the likeliest wrong bridge minus that of the true one after the steps before it, "
        "nats per token, over the arguments that need their bridge",
        "accuracy": f"share of them whose true bridge is the likeliest of {CHOICES} (chance {1 / CHOICES:g})",
        "nll_bridge": "NLL of their true bridges, nats per token",
        "nll_hop": "NLL of their conclusions right after the question, nats per token",
        "margin_new": "the margin for arguments that no arm has met",
        "accuracy_new": "the share for arguments that no arm has met",
        "nll_bridge_new": "NLL of the true bridges of arguments that no arm has met, nats per token",
        "nll_new": "NLL of the arguments that no arm has met, nats per token",
        "audit_recall": "share of planted leaks that the audit finds, over its three checks",
        "kept_by_audit": "share of candidates whose bridge the audit finds nowhere else",
        "length_ratio": "tokens of the random passages taken out over those of the bridges",
        "place_apart": "distance of a random passage's place from its bridge's, as a share of the chain",
        "need": f"share of arguments whose bridge eases the conclusion by {NEED} nats per token or more, untrained",
        "bridge_gain": "NLL of the conclusion without its bridge minus that with it, untrained, nats per token",
        "change_d": "change of NLL on unrelated text, positive = forgotten",
        "kl_d": "KL(base ‖ trained) on unrelated text, nats per token",
        "loss": "loss of the last step",
    },
    settings={
        "arguments": FAMILY,
        "with a gap": TARGETS,
        "others": OTHERS,
        "met by no arm": NEW,
        "passes": PASSES,
        "recall of the audit on planted leaks, at least": RECALL,
        "a bridge is needed from": NEED,
        "choices": CHOICES,
        "LoRA": "rank 8, alpha 16, all linear layers",
    },
    limits="Two-sided: a bridge that the course holds is met word for word, so the first claim weighs forcing against having "
    "been told; the second leaves that out. The course without bridges and those without other passages lose equally many "
    "steps, of nearly equal length; the course that keeps all is longer. What an argument's other steps say "
    "of its bridge in other words stays, so a bridge is missing, not all that it rests on. The audit finds leaks made in the "
    "ways that it looks for.",
    prepare=prepare,
    run=run,
    rates=(1e-4, 3e-4, 1e-3),
    develop="nll_new",
    rate_of={"another random passage": "random passage"},
)
