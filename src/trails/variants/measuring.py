"""Variants against their chain: forward passes continued from what chain and variant have in common, and the gate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trails.errors import ModelError
from trails.measure.base import MeasureOptions, Scorer, Segmented
from trails.measure.huggingface import HuggingFaceScorer
from trails.measure.model import Model
from trails.measure.tokens import Encoded
from trails.platform.arrays import Floats, Ints
from trails.schema import Chain, Step
from trails.variants.base import Variant, VariantReport
from trails.variants.edits import Candidate, Likely, Maker, VariantOptions, aligned

_TILE = 128
_KEPT = 2**26
_SPARE = 8
_TINY = 1e-37
_LIKELY = 40


class _Passes:
    """Forward passes of one context, continued from a kept beginning."""

    def __init__(self, model: Model, context: Sequence[int]) -> None:
        self.model = model
        self.context = list(context)
        self.cache: Any = None
        self.tokens = 0

    def states(self, ids: Sequence[int], keep: int) -> list[Tensor]:
        """Hidden states of every layer (L+1 tensors (n, d), the last after the final norm) at the positions that follow the
        first ``keep`` tokens of the context and ``ids``."""
        whole = [*self.context, *ids]
        if self.cache is not None and keep:
            if (surplus := self.cache.get_seq_length() - keep) > 0:
                self.cache.crop(-surplus)
        else:
            self.cache, keep = None, 0
        feed = torch.tensor([whole[keep:]], device=self.model.device)
        with torch.inference_mode():
            states, self.cache = self.model.states(feed, self.cache)
        self.tokens += len(whole) - keep
        return [layer[0] for layer in states]


class _Base:
    """The chain's own pass: hidden states by layer, and the predictive distribution after each position of it.

    ``states`` are L+1 tensors (n, d). Log-probabilities are kept while they fit into :data:`_KEPT` numbers, else made again.
    """

    def __init__(self, model: Model, states: list[Tensor]) -> None:
        self.model, self.states = model, states
        self.kept: Tensor | None = None
        last = states[-1]
        if len(last) * model.vocab_size <= _KEPT:
            parts = [self.made(last[start : start + _TILE]) for start in range(0, len(last), _TILE)]
            self.kept = torch.cat(parts)

    def made(self, states: Tensor) -> Tensor:
        return torch.log_softmax(self.model.logits(states).float(), -1)

    def log_p(self, positions: Tensor) -> Tensor:
        """Log-probabilities (len(positions), V) of what follows each position of the sequence."""
        return self.made(self.states[-1][positions]) if self.kept is None else self.kept[positions]


@dataclass(frozen=True, slots=True)
class _Reduced:
    """Per position: Jensen–Shannon divergence (nats) and total variation of the compared ones, surprisal and entropy (nats) of
    the predicted ones."""

    divergence: Floats
    variation: Floats
    surprisal: Floats
    entropy: Floats


def _reduce(
    base: _Base, states: Tensor, of_base: Sequence[int], own: Sequence[int], targets: Sequence[int], first: int
) -> _Reduced:
    """Distributions after hidden states (n, d), each made once: compared with the base's (position ``own[i]`` with the base's
    ``of_base[i]``, both rising), and as prediction of ``targets``, the tokens after positions ``first``, ``first`` + 1, ...
    """
    device = states.device
    there, here = torch.tensor(of_base, dtype=torch.long, device=device), torch.tensor(own, dtype=torch.long)
    wanted = torch.tensor(targets, dtype=torch.long, device=device)
    parts: list[list[Tensor]] = [[], [], [], []]
    for start in range(0, len(states), _TILE):
        log_q = base.made(states[start : start + _TILE])
        stop = start + len(log_q)
        q = log_q.exp()
        a, b = max(start, first), min(stop, first + len(targets))
        if b > a:
            parts[2].append(-log_q[a - start : b - start].gather(1, wanted[a - first : b - first, None])[:, 0])
            parts[3].append(-(q[a - start : b - start] * log_q[a - start : b - start]).sum(-1))
        left, right = (int(torch.searchsorted(here, edge)) for edge in (start, stop))
        if right > left:
            log_p = base.log_p(there[left:right])
            if right - left != len(log_q):
                mine = (here[left:right] - start).to(device)
                log_q, q = log_q[mine], q[mine]
            p = log_p.exp()
            middle = torch.log(((p + q) / 2).clamp(min=_TINY))
            parts[0].append((p * (log_p - middle) + q * (log_q - middle)).sum(-1) / 2)
            parts[1].append((p - q).abs().sum(-1) / 2)
    return _Reduced(
        *(torch.cat(part).clamp(min=0).cpu().numpy() if part else np.zeros(0, np.float32) for part in parts)
    )


def _likely(base: _Base, ids: Sequence[int], n_context: int) -> list[Likely]:
    """(position, token id, text) of likely other words, best first.

    A word that is one token is replaced by a token that the model finds likely there, is a word too, and whose input
    embedding is similar (cosine of at least 0.15). Ranked by log-probability plus four times the cosine.
    """
    tokenizer = base.model.tokenizer
    pieces = [tokenizer.decode([int(token)]) for token in ids]
    embeddings = base.model.embeddings()
    places = [
        position
        for position in range(1, len(ids))
        if re.fullmatch(r" [^\W\d_]{2,}", pieces[position])
        and not (position + 1 < len(ids) and pieces[position + 1][:1].isalpha())
    ]
    found: list[tuple[float, int, int, str]] = []
    for start in range(0, len(places), _TILE):
        part = places[start : start + _TILE]
        log_p = base.log_p(torch.tensor(part, device=embeddings.device) + (n_context - 1))
        top = torch.topk(log_p, _LIKELY)
        own = embeddings[torch.tensor([int(ids[position]) for position in part])].float()
        cosine = torch.cosine_similarity(embeddings[top.indices].float(), own[:, None], dim=-1)
        rows = zip(part, top.indices.tolist(), top.values.tolist(), cosine.tolist(), strict=True)
        for position, tokens, values, near in rows:
            piece = pieces[position]
            for token, value, similar in zip(tokens, values, near, strict=True):
                word = tokenizer.decode([token])
                if token == ids[position] or similar < 0.15 or not re.fullmatch(r" [^\W\d_]{2,}", word):
                    continue
                if word.lower() != piece.lower() and word[1].isupper() == piece[1].isupper():
                    found.append((value + 4 * similar, position, token, word))
    found.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
    return [entry[1:] for entry in found]


@torch.inference_mode()
def make_variants(scorer: Scorer, item: Segmented, options: VariantOptions | None = None) -> VariantReport:
    """Variants of one chain, measured by ``scorer`` (a :class:`trails.measure.huggingface.HuggingFaceScorer`).

    The same chain, model and options give the same variants. Raises ModelError for a scorer without a model.
    """
    options = options or VariantOptions()
    if not isinstance(scorer, HuggingFaceScorer):
        raise ModelError("variants need a language model; this scorer has none. Leave out --model uniform.")
    maker = Maker(scorer.contexts, item, options)
    context = scorer.contexts.of(item.chain).ids
    n_context = len(context)
    passes = _Passes(scorer.model, context)
    base = _Base(scorer.model, passes.states(maker.base, 0))
    whole = float(n_context + len(maker.base))
    floor = _noise_floor(passes, maker.base, base, n_context)
    likely = _likely(base, maker.base, n_context) if "synonym" in options.kinds else []
    maker.choose(likely, options.count + _SPARE)

    def first_edit(candidate: Candidate) -> int:
        place = 0
        while place < min(len(candidate.ids), len(maker.base)) and candidate.ids[place] == maker.base[place]:
            place += 1
        return place

    numbers = _base_numbers(base, maker.base, n_context)
    ids_of = [_variant_chain(item.chain, candidate, item.chain.id).id for candidate in maker.candidates]
    final: list[Variant] = []
    keep = 0
    accepted = {item.chain.id}  # and the variants that later rungs may build on
    # those beyond the count are measured only where the gate took some of the first ones away
    counted = np.cumsum([not broken for broken in maker.flaws])
    first = int(np.searchsorted(counted, options.count)) + 1  # as many candidates as hold the variants wanted
    rungs = 0
    for block in (range(first), range(first, len(maker.candidates))):
        places = [index for index in block if index < len(maker.candidates)]
        if not places or len(accepted) - rungs > options.count:
            continue
        if final:  # the cache ends in a variant: back to the chain
            passes.states(maker.base, keep)
        measured: dict[int, Variant] = {}
        # from the last edit to the first, so that what is kept of the chain's own pass stays valid
        for index in sorted(places, key=lambda i: (-first_edit(maker.candidates[i]), i)):
            candidate = maker.candidates[index]
            keep = max(n_context + first_edit(candidate) - 1, 0)
            measured[index] = _measure(passes, item, maker, candidate, base, numbers, n_context, keep)
        for index in places:
            variant, of = measured[index], maker.candidates[index].parent
            parent = item.chain.id if of < 0 else ids_of[of]
            reason = ""
            if options.budget is not None and variant.volatility > options.budget:
                reason = f"volatility {variant.volatility:.4f} above the budget {options.budget:g}"
            elif parent not in accepted:  # a rung counts only if its parent counts
                reason = "its parent was not accepted"
            elif len(accepted) - rungs > options.count:
                reason = "enough variants"
            if not reason:
                accepted.add(ids_of[index])
                if maker.flaws[index]:  # the rungs after it may build on it
                    reason, rungs = f"a rung on the way: {maker.flaws[index]}", rungs + 1
            by_hand = bool(reason) and ids_of[index] in options.accept
            reason = f"accepted by hand; the gate: {reason}" if by_hand else reason
            final.append(replace(variant, parent=parent, accepted=by_hand or not reason, reason=reason))
    if options.drift:
        final = _with_attention(scorer, item, final)
    return VariantReport(item.chain.id, tuple(final), floor, passes.tokens / whole, maker.dropped)


def _base_numbers(base: _Base, ids: Sequence[int], n_context: int) -> tuple[Floats, Floats]:
    """Surprisal and entropy of the chain's own tokens, from its own pass."""
    known = 0 if n_context else 1  # nothing predicts the first token of a sequence
    found = _reduce(base, base.states[-1], [], [], list(ids[known:]), n_context - 1 + known)
    undefined = np.full(known, np.nan, np.float32)
    return np.concatenate([undefined, found.surprisal]), np.concatenate([undefined, found.entropy])


def _variant_chain(chain: Chain, candidate: Candidate, root: str) -> Chain:
    metadata = dict(chain.metadata) | {"parent": root, "variant": candidate.kind, "detail": candidate.detail}
    return replace(
        chain,
        source_id=f"{chain.source_id}~{candidate.kind}~{candidate.detail}",
        text=candidate.text,
        boundaries=(),
        metadata=metadata,
    )


def _measure(
    passes: _Passes,
    item: Segmented,
    maker: Maker,
    candidate: Candidate,
    base: _Base,
    numbers: tuple[Floats, Floats],
    n_context: int,
    keep: int,
) -> Variant:
    """One variant against the chain: a forward pass of what follows the first edit."""
    ids = candidate.ids
    states = passes.states(ids, keep)
    pairs = aligned(maker.base, ids)
    common = max(len(pairs), 1)
    after = [(n_context + a, n_context + b - keep) for a, b in pairs if n_context + b >= keep]
    there, here = [a for a, _ in after], [b for _, b in after]
    # numbers of the variant's own tokens: those of the chain up to the first edit, then its own
    known = max(keep + 1 - n_context, 0)
    found = _reduce(base, states[-1], there, here, ids[known:], n_context + known - 1 - keep)
    surprisal = np.concatenate([numbers[0][:known], found.surprisal])[: len(ids)]
    entropy = np.concatenate([numbers[1][:known], found.entropy])[: len(ids)]
    at_base, at_variant = (torch.tensor(at, dtype=torch.long, device=states[0].device) for at in (there, here))
    drift = [
        (1 - torch.cosine_similarity(one[at_base].float(), two[at_variant].float(), dim=-1)).clamp(min=0).sum()
        for one, two in zip(base.states, states, strict=True)
    ]
    hidden = torch.stack(drift).cpu().numpy() / common
    encoded = maker.encode(candidate.text, "a variant")
    steps, spans = _steps(item, maker, candidate, encoded)
    return Variant(
        chain=_variant_chain(item.chain, candidate, item.chain.id),
        steps=steps,
        root=item.chain.id,
        parent="",
        kind=candidate.kind,
        detail=candidate.detail,
        edits=candidate.edits,
        distance=candidate.distance,
        token_ids=encoded.ids,
        token_start=encoded.start,
        token_end=encoded.end,
        step_tokens=spans,
        surprisal=surprisal,
        entropy=entropy,
        volatility=float(found.divergence.sum()) / common,
        volatility_after=float(found.divergence.mean()) if len(after) else 0.0,
        logit_drift=float(found.variation.sum()) / common,
        hidden_drift=hidden.astype(np.float32),
        accepted=True,
    )


def _steps(item: Segmented, maker: Maker, candidate: Candidate, encoded: Encoded) -> tuple[tuple[Step, ...], Ints]:
    """Steps of the variant: a token belongs to the step of the common token before it. A dropped step is left out."""
    base = maker.encoded
    ends = [step.end for step in item.steps]
    of_base = np.searchsorted(ends, np.maximum(base.end, 1), side="left")
    step_of = np.full(len(encoded.ids), -1)
    for a, b in aligned(maker.base, candidate.ids):
        step_of[b] = min(int(of_base[a]), len(item.steps) - 1)
    current = max(int(step_of[step_of >= 0][0]), 0) if (step_of >= 0).any() else 0
    for position in range(len(step_of)):
        current = max(current, int(step_of[position]))
        step_of[position] = current
    steps: list[Step] = []
    spans: list[list[int]] = []
    for index in sorted(set(step_of.tolist())):
        places = np.flatnonzero(step_of == index)
        start = 0 if not steps else steps[-1].end
        end = len(candidate.text) if index == step_of[-1] else int(encoded.end[places[-1]])
        steps.append(replace(item.steps[index], index=len(steps), start=start, end=end))
        spans.append([int(places[0]), int(places[-1]) + 1])
    return tuple(steps), np.array(spans, np.int32)


def _noise_floor(passes: _Passes, ids: Sequence[int], base: _Base, n_context: int) -> float:
    """Mean divergence of the chain from itself, continued from its middle: what rounding alone gives, nats."""
    keep = n_context + len(ids) // 2
    again = passes.states(ids, keep)[-1]
    found = _reduce(base, again, range(keep, keep + len(again)), range(len(again)), [], 0).divergence
    return float(found.mean()) if len(found) else 0.0


def _with_attention(scorer: Scorer, item: Segmented, variants: list[Variant]) -> list[Variant]:
    """Attention drift of accepted variants with the chain's steps: total variation of the binned attention of each step."""
    parent = scorer.measure([item], MeasureOptions())[0]
    found = []
    for variant in variants:
        if variant.accepted and len(variant.steps) == len(item.steps):
            trace = scorer.measure([Segmented(variant.chain, variant.steps)], MeasureOptions())[0]
            per_step = [
                np.abs(parent.step_masses(step) - trace.step_masses(step)).sum(0) / 2 for step in range(len(item.steps))
            ]
            variant = replace(variant, attention_drift=np.nanmean(per_step, axis=0).astype(np.float32))
        found.append(variant)
    return found
