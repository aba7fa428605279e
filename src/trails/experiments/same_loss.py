"""Experiment 4: do two texts of one meaning and equal loss differ inside the model, beyond what any edit of one word does?"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trails.errors import UsageError
from trails.experiments.base import Arm, Claim, Criterion, Emit, Experiment, Metrics, Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import Corpus, generator
from trails.measure.base import Segmented

TEXTS = 24
WINDOW = 24
"""Tokens after the edit on which the effect is measured."""
BEFORE = 64
POOL = 8

SAME = (
    ("so", "thus"), ("therefore", "hence"), ("because", "since"), ("but", "yet"), ("each", "every"), ("total", "sum"),
    ("begins", "starts"), ("begin", "start"), ("big", "large"), ("needs", "requires"),
    ("first", "initially"), ("also", "additionally"), ("together", "combined"), ("around", "about"), ("finally", "lastly"),
    ("number", "amount"), ("makes", "earns"), ("find", "determine"), ("find", "calculate"), ("calculate", "compute"),
    ("left", "remaining"), ("kids", "children"), ("whole", "entire"), ("however", "nevertheless"), ("then", "afterwards"),
    ("show", "demonstrate"), ("if", "when"), ("gives", "yields"), ("get", "obtain"), ("let", "suppose"),
    ("rest", "remainder"),
)  # fmt: skip
"""Words that may stand for each other in these texts without changing what is said."""

CHANGED = (
    ("more", "less"), ("before", "after"), ("increase", "decrease"), ("adds", "takes"), ("first", "last"), ("but", "and"),
    ("so", "or"), ("all", "no"), ("every", "no"), ("same", "different"), ("can", "cannot"), ("true", "false"), ("add", "take"),
    ("multiply", "divide"), ("buys", "sells"), ("highest", "lowest"), ("positive", "negative"), ("even", "odd"),
    ("always", "never"), ("therefore", "however"),
)  # fmt: skip
"""Words whose exchange changes what is said; a digit exchanged for another does so too."""

_WORD = re.compile(r"[^\W\d_]+|\d")


@dataclass(frozen=True, slots=True)
class Edit:
    """A text and the same with the tokens ``first:stop`` replaced by as many others."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    first: int
    stop: int


def like(word: str, other: str) -> str:
    """``other`` with the capital letter of ``word``."""
    return other[:1].upper() + other[1:] if word[:1].isupper() else other


def exchanges(text: str, pairs: Mapping[str, Sequence[str]], *, digits: bool) -> Iterator[str]:
    """The text with one word exchanged, every possibility in order; with ``digits`` also one digit by the next one."""
    for match in _WORD.finditer(text):
        word = match.group()
        others = list(pairs.get(word.casefold(), ()))
        if digits and word.isdigit():
            others.append(str((int(word) + 1) % 10))
        for other in others:
            yield text[: match.start()] + like(word, other) + text[match.end() :]


def both_ways(pairs: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    """Each word with those that may take its place."""
    found: dict[str, list[str]] = {}
    for one, two in pairs:
        found.setdefault(one, []).append(two)
        found.setdefault(two, []).append(one)
    return found


def edit_of(bench: Bench, text: str, other: str) -> Edit | None:
    """The edit that leads from one text to the other, cut to :data:`BEFORE` tokens before it and :data:`WINDOW` after; None
    unless both have equally many tokens, one stretch differs, and the window is full.
    """
    one, two = bench.ids(text), bench.ids(other)
    different = [i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b]
    if len(one) != len(two) or not different or different[-1] - different[0] > 7 or different[0] == 0:
        return None
    first, stop = different[0], different[-1] + 1
    low, high = max(first - BEFORE, 0), stop + WINDOW
    if high > len(one):
        return None
    return Edit(tuple(one[low:high]), tuple(two[low:high]), first - low, stop - low)


def loss_after(bench: Bench, rows: Sequence[Sequence[int]], start: int) -> list[float]:
    """Mean surprisal of the tokens from ``start`` on, nats per token; rows have equal length."""
    probes = bench.probe(bench.model, [bench.ids_row(row[start:], row[:start]) for row in rows])
    return [float(np.mean(probe.nll)) for probe in probes]


def _loss_beside(bench: Bench, edit: Edit, beside: Sequence[int]) -> float:
    """The loss after the edit of the text before it, computed in a batch with a longer row."""
    rows = [bench.ids_row(edit.before[edit.stop :], edit.before[: edit.stop]), bench.ids_row(beside)]
    return float(np.mean(bench.probe(bench.model, rows)[0].nll))


def random_edit(
    bench: Bench, edit: Edit, wanted: float, banned: Sequence[int], seed: int, name: str
) -> tuple[Edit, float]:
    """Of a pool of random edits at the same place, of as many tokens, the one whose loss after it is nearest to ``wanted``.

    Half of the pool is drawn from the tokens that the model finds likely there, half from the vocabulary. Also its loss.
    """
    draw = generator(seed, "random edit", name)
    likely = bench.likely([], edit.before, 64)
    pool = []
    for number in range(POOL):
        row = list(edit.before)
        for place in range(edit.first, edit.stop):
            choices = likely[place].tolist() if number % 2 else draw.integers(bench.vocabulary, size=64).tolist()
            choices = [c for c in choices if c != edit.before[place] and c not in banned] or choices
            row[place] = int(choices[int(draw.integers(len(choices)))])
        pool.append(row)
    losses = loss_after(bench, pool, edit.stop)
    best = int(np.argmin(np.abs(np.asarray(losses) - wanted)))
    return Edit(edit.before, tuple(pool[best]), edit.first, edit.stop), losses[best]


@contextmanager
def eager(model: Any) -> Iterator[None]:
    """Attention that hands out its weights, for a while."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def inside(bench: Bench, rows: Sequence[Sequence[int]], *, beside: Sequence[int] = ()) -> list[tuple[Tensor, Tensor]]:
    """Hidden states (L+1, n, d) and head-mean attention (L, n, n) of every row; ``beside`` puts a longer row into each batch,
    so that the row is padded and computed in another batch: nothing but rounding may change.
    """
    found = []
    with eager(bench.model), torch.inference_mode():
        for row in rows:
            batch = [list(row)] + ([list(beside)] if beside else [])
            width = max(map(len, batch))
            ids = torch.zeros((len(batch), width), dtype=torch.long, device=bench.device)
            mask = torch.zeros_like(ids)
            for number, one in enumerate(batch):
                ids[number, : len(one)] = torch.tensor(one, device=bench.device)
                mask[number, : len(one)] = 1
            out = bench.model(
                input_ids=ids,
                attention_mask=mask,
                use_cache=False,
                output_hidden_states=True,
                output_attentions=True,
                logits_to_keep=1,
            )
            n = len(row)
            hidden = torch.stack([h[0, :n] for h in out.hidden_states]).float()
            attention = torch.stack([a[0, :, :n, :n].float().mean(0) for a in out.attentions])
            found.append((hidden, attention))
    return found


def effect(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor], start: int) -> tuple[np.ndarray, np.ndarray]:
    """Change inside from token ``start`` on, by layer: mean of 1 - cosine of the hidden states (L+1,), mean total variation of
    the attention rows (L,).
    """
    a, b = one[0][:, start:].double(), two[0][:, start:].double()
    cosine = torch.nn.functional.cosine_similarity(a, b, dim=-1)
    hidden = (1 - cosine).clamp(min=0).mean(1)
    attention = 0.5 * (one[1][:, start:] - two[1][:, start:]).abs().double().sum(-1).mean(1)
    return hidden.cpu().numpy(), attention.cpu().numpy()


def pairs_of(bench: Bench, corpus: Corpus, scale: Scale, seed: int) -> list[tuple[str, Edit, Edit]]:
    """(chain, edit that keeps the meaning, edit that changes it) of chains in which both are possible, over all families but
    the unrelated text, each drawn at random among the chain's possibilities.
    """
    same, changed = both_ways(SAME), both_ways(CHANGED)
    wanted = scale.count(TEXTS, 4)
    items: list[Segmented] = []
    for source in sorted(corpus.families):
        if source not in corpus.roles.unrelated:
            items += corpus.family(source, seed)[: 6 * wanted]
    found = []
    for number in generator(seed, "chains").permutation(len(items)).tolist():
        chain = items[number].chain
        text = chain.text[:4000]
        draw = generator(seed, "edits", chain.id)
        picked = []
        for words, digits in ((same, False), (changed, True)):
            candidates = list(exchanges(text, words, digits=digits))
            edits: Edit | None = None
            for k in draw.permutation(len(candidates))[:8].tolist():
                edits = edit_of(bench, text, candidates[k])
                if edits is not None:
                    break
            picked.append(edits)
        if picked[0] is not None and picked[1] is not None:
            found.append((chain.id, picked[0], picked[1]))
        if len(found) == wanted:
            break
    if len(found) < 4:
        raise UsageError(
            f"experiment same-loss needs English texts with words to exchange; {len(found)} were found. Give more: --data PATH"
        )
    return found


def run(bench: Bench, corpus: Corpus, scale: Scale, seed: int, arms: Sequence[str], emit: Emit) -> None:
    """One seed: other chains, other places. Only forward passes."""
    pairs = pairs_of(bench, corpus, scale, seed)
    filler = [int(t) for t in generator(seed, "beside").integers(bench.vocabulary, size=BEFORE + WINDOW + 40)]
    found: dict[str, list[tuple[np.ndarray, np.ndarray, float]]] = {arm: [] for arm in arms}
    for name, kept, other in pairs:
        bench.check_time()
        own = loss_after(bench, [kept.before], kept.stop)[0]
        wanted = loss_after(bench, [kept.after], kept.stop)[0]
        banned = {kept.after[i] for i in range(kept.first, kept.stop)}
        base = inside(bench, [kept.before])[0]
        for arm in arms:
            if arm == "noise floor":
                again = inside(bench, [kept.before], beside=filler)[0]
                found[arm].append((*effect(base, again, kept.stop), _loss_beside(bench, kept, filler) - own))
            elif arm == "meaning kept":
                now = inside(bench, [kept.after])[0]
                found[arm].append((*effect(base, now, kept.stop), wanted - own))
            elif arm == "random edit":
                edit, loss = random_edit(bench, kept, wanted, sorted(banned), seed, name)
                found[arm].append((*effect(base, inside(bench, [edit.after])[0], kept.stop), loss - own))
            else:
                two = inside(bench, [other.before, other.after])
                losses = loss_after(bench, [other.before, other.after], other.stop)
                found[arm].append((*effect(two[0], two[1], other.stop), losses[1] - losses[0]))
    for arm in arms:
        hidden = np.stack([h for h, _, _ in found[arm]])
        attention = np.stack([a for _, a, _ in found[arm]])
        change = np.asarray([c for _, _, c in found[arm]])
        metrics: Metrics = {
            "hidden": float(hidden[:, 1:].mean()),
            "attention": float(attention.mean()),
            "loss_change": float(np.abs(change).mean()),
            "hidden_per_loss": float(hidden[:, 1:].mean() / max(float(np.abs(change).mean()), 1e-9))
            if arm != "noise floor"
            else math.nan,
        }
        curve = [
            {
                "step": float(layer),
                "hidden": float(hidden[:, layer].mean()),
                "attention": float(attention[:, layer - 1].mean()) if layer else math.nan,
            }
            for layer in range(hidden.shape[1])
        ]
        emit(arm, metrics, {"curve": curve, "texts": len(pairs)})


EXPERIMENT = Experiment(
    name="same-loss",
    number="4",
    title="Same loss, different inside",
    hypothesis="Two texts that say the same with equal loss after the place where they differ still differ inside the model, "
    "in hidden states and attention, and by more than a random edit of as many tokens at the same place with the same loss; "
    "and an edit that changes the meaning moves the inside more than one that keeps it.",
    arms=(
        Arm("meaning kept", "one word exchanged for another that says the same", control=False),
        Arm("noise floor", "the same text, padded in another batch: rounding only"),
        Arm("random edit", "as many random tokens at the same place, of 8 draws the one nearest in loss afterwards"),
        Arm("meaning changed", "one word or digit exchanged so that the text says something else"),
    ),
    claims=(
        Claim(
            "different inside",
            "Texts of one meaning differ inside by more than rounding",
            tuple(Criterion(m, "meaning kept", "noise floor", "higher") for m in ("hidden", "attention")),
        ),
        Claim(
            "beyond a random edit",
            "Texts of one meaning differ inside by more than a random edit with the same loss makes them differ",
            tuple(Criterion(m, "meaning kept", "random edit", "higher") for m in ("hidden", "attention")),
        ),
        Claim(
            "meaning shows",
            "An edit that changes the meaning moves the inside more than one that keeps it",
            tuple(Criterion(m, "meaning changed", "meaning kept", "higher") for m in ("hidden", "attention")),
        ),
    ),
    metrics={
        "hidden": f"1 - cosine of the hidden states, mean over layers and the {WINDOW} tokens after the edit",
        "attention": "total variation of the head-mean attention rows, mean over layers and the same tokens, 0..1",
        "loss_change": "absolute change of the mean surprisal of the same tokens, nats per token, mean over texts",
        "hidden_per_loss": "hidden over loss_change: the inside moved per nat that the loss shows",
    },
    settings={
        "texts": TEXTS,
        "tokens after the edit": WINDOW,
        "tokens before it": BEFORE,
        "random edits per text": POOL,
    },
    limits="English texts; one word at a time, from a list made for this experiment, not checked by readers. Edits that change "
    "the meaning stand at another place of the text than those that keep it.",
    run=run,
    curve={"hidden": "1 - cosine (columns are layers, 0 = input)", "attention": "total variation (columns are layers)"},
)
