"""Microvariants of a chain: small edits in the model's own vocabulary, each measured against its parent and gated.

Six kinds: ``plain`` (the chain itself), ``highlight`` (one word marked), ``summary`` (``→ summary:`` inserted at a step),
``drop_last`` (the last line dropped), ``json`` (a JSON-like structure around steps), ``synonym`` (one word, verbs first,
replaced by a likely one that the model itself predicts there).

The bound on token edits holds between a variant and its *parent*. Kinds that by nature change more are ladders: each rung
is the parent of the next and differs from it by at most the bound; ``distance`` says how far a rung is from the chain
itself. A dropped last line of 30 tokens is a ladder of 15 rungs; ``[HIGHLIGHT]`` takes six tokens in SmolLM2's vocabulary
and so three rungs, where ``*word*`` takes one.

Volatility: mean Jensen–Shannon divergence (nats, at most ln 2) between the predictive distributions of chain and variant
at the tokens they have in common (longest common alignment, the token after the same token). Before the first edit it is
exactly 0; ``volatility_after`` leaves that part out. The noise floor is the same number for the chain against itself, once
whole and once continued from the middle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from trails.errors import ModelError, UsageError
from trails.export.record import COLUMNS
from trails.measure.base import MeasureOptions, Segmented
from trails.platform.arrays import Floats, Ints
from trails.platform.files import replacing
from trails.schema import SHARD_SCHEMA, Chain, Step, stable_hash
from trails.store.base import GraphBatch
from trails.store.rows import table_of, thirds

KINDS = ("plain", "highlight", "summary", "drop_last", "json", "synonym")
MARKERS = ("[ANCHOR]", "[SHIFT]", "[HIGHLIGHT]", "→ summary:")
"""Markers by name; :func:`marker_tokens` says how many tokens each takes: they are no single tokens of a base vocabulary."""

_WORD = re.compile(r"[^\W\d_]{3,}")
_TILE = 128
_KEPT = 2**26
_SPARE = 8
_TINY = 1e-37
_LIKELY = 40

_VERB_FORMS = """
is are was were be been has have had do does did make makes made take takes took get gets got give gives gave find
finds found need needs needed know knows knew think thinks thought see sees saw say says said use uses used add
adds added multiply divide subtract calculate calculates compute determine consider means mean show shows shown
follow follows prove proves suppose assume let want wants buy buys bought sell sells sold eat eats ate pay pays
paid cost costs spend spends spent work works worked earn earns start starts begin begins end ends leave leaves
left remain remains become becomes exist exists contain contains require requires cause causes conclude concludes
understand understands keep keeps hold holds call calls called turn turns turned write writes wrote run runs ran
live lives lived help helps allow allows есть был была было были быть может могут должен должна следует является
являются имеет имеют значит означает говорит думает знает делает нужно требует получает получаем находит находим
считает считаем видит существует показывает
"""
_VERBS = frozenset(_VERB_FORMS.split())
"""Common verb forms, English and Russian; a replaced word that is one of them is called a verb, others a word."""


@dataclass(frozen=True, slots=True)
class VariantOptions:
    """``count`` variants are wanted per chain; at most ``count`` + 8 are measured. ``budget`` is the largest volatility
    accepted (nats; None = no gate), ``max_edits`` the largest token edit distance to the parent. ``kinds`` limits the kinds;
    ``drift`` measures attention maps of accepted variants too (costs one full measurement each). ``whole`` refuses variants
    that break a word or a sentence (:func:`flaw`); as rungs of a ladder they are measured, and refused with that reason.
    """

    count: int = 50
    budget: float | None = 0.1
    max_edits: int = 2
    kinds: tuple[str, ...] = KINDS
    seed: int = 0
    drift: bool = False
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant and what the model made of it. ``edits`` counts tokens against the parent, ``distance`` against the chain.

    ``parent`` is the id of a chain or of the rung before. ``hidden_drift`` (L+1,) is the mean 1 - cosine to the chain's hidden
    states at common tokens, by layer (0 = input embeddings); ``logit_drift`` the mean total variation of the predictive
    distributions there; ``attention_drift`` (L,) the mean total variation of the binned attention of its steps, None unless
    measured. ``reason`` says why a variant was not accepted.
    """

    chain: Chain
    steps: tuple[Step, ...]
    root: str
    parent: str
    kind: str
    detail: str
    edits: int
    distance: int
    token_ids: Ints
    token_start: Ints
    token_end: Ints
    step_tokens: Ints
    surprisal: Floats
    entropy: Floats
    volatility: float
    volatility_after: float
    logit_drift: float
    hidden_drift: Floats
    accepted: bool
    reason: str = ""
    attention_drift: Floats | None = None


@dataclass(frozen=True, slots=True)
class VariantReport:
    """All variants of one chain, accepted and not. ``passes`` is the work done in forward passes of the chain, by tokens."""

    chain: str
    variants: tuple[Variant, ...]
    noise_floor: float
    passes: float
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def accepted(self) -> tuple[Variant, ...]:
        """Those within the bound and the budget."""
        return tuple(variant for variant in self.variants if variant.accepted)


@dataclass(frozen=True, slots=True)
class _Candidate:
    text: str
    kind: str
    detail: str
    parent: int  # index of an earlier candidate of the same chain, -1 = the chain
    ids: tuple[int, ...]
    edits: int
    distance: int


def levenshtein(a: Sequence[int], b: Sequence[int]) -> int:
    """Least number of insertions, deletions and replacements of tokens that turn ``a`` into ``b``."""
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    a, b = a[start:], b[start:]
    while a and b and a[-1] == b[-1]:
        a, b = a[:-1], b[:-1]
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def aligned(a: Sequence[int], b: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of positions of equal tokens, both rising: common beginning, common end, and the common blocks between."""
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    end = 0
    while end < min(len(a), len(b)) - start and a[-1 - end] == b[-1 - end]:
        end += 1
    pairs = [(i, i) for i in range(start)]
    middle = SequenceMatcher(None, a[start : len(a) - end], b[start : len(b) - end], autojunk=False)
    for block in middle.get_matching_blocks():
        pairs += [(start + block.a + k, start + block.b + k) for k in range(block.size)]
    return pairs + [(len(a) - end + k, len(b) - end + k) for k in range(end)]


def marker_tokens(scorer: Any) -> dict[str, int]:
    """How many tokens of the scorer's vocabulary each marker takes."""
    return {marker: len(scorer.model.text.ids(marker)) for marker in MARKERS}


_ENDS = ".!?…:;。！？\"'»”)]}"


def flaw(text: str, variant: str) -> str:
    """What a variant of a text breaks, in words; empty where words and sentences stay whole.

    A word is broken where letters meet that did not meet before, or where the text ends inside it; a sentence where the text
    ends without its end, or a mark ``*`` has no partner.
    """
    start = 0
    while start < min(len(text), len(variant)) and text[start] == variant[start]:
        start += 1
    end = 0
    while end < min(len(text), len(variant)) - start and text[-1 - end] == variant[-1 - end]:
        end += 1
    here = len(variant) - end
    for place in {start, here} - {0, len(variant)}:
        joined = variant[place - 1 : place + 1]
        if (
            joined.isalpha()
            and len(joined) == 2
            and joined not in (text[start - 1 : start + 1], text[len(text) - end - 1 :][:2])
        ):
            return "it joins two words"
    if (variant.count("*") - text.count("*")) % 2:
        return "its mark has no partner"
    if len(variant) < len(text) and text.startswith(variant.rstrip()) and variant.strip():
        rest = text[len(variant.rstrip()) :]
        if rest[:1].isalnum() and variant.rstrip()[-1].isalnum():
            return "it ends inside a word"
        if not rest.lstrip(" ").startswith("\n") and variant.rstrip()[-1] not in _ENDS:
            return "it ends inside a sentence"
    return ""


class _Maker:
    """Text edits of one chain, in a fixed order, as candidates within the bound."""

    def __init__(self, scorer: Any, item: Segmented, options: VariantOptions) -> None:
        self.scorer, self.item, self.options = scorer, item, options
        self.text = item.chain.text
        self.encoded = scorer.model.text.encode(self.text, "a chain")
        self.base = tuple(self.encoded.ids.tolist())
        self.seen = {self.base}
        self.flaws: list[str] = []  # of each candidate; only rungs have one
        self.candidates: list[_Candidate] = []
        self.dropped: dict[str, int] = {}

    @property
    def whole(self) -> int:
        """How many candidates are variants and not only rungs on the way to one."""
        return self.flaws.count("")

    def add(self, text: str, kind: str, detail: str, parent: int = -1, *, rung: bool = False) -> int:
        """Add a variant; its index, or -2 if it is empty, known, further from its parent than the bound, or broken (a ``rung``
        may be: it is measured, but no variant of its own)."""
        ids = tuple(self.scorer.model.text.ids(text))
        of = self.base if parent < 0 else self.candidates[parent].ids
        if not ids or (ids in self.seen and kind != "plain"):
            return -2
        edits = levenshtein(of, ids)
        if edits > self.options.max_edits:
            self.dropped["more token edits than the bound"] = self.dropped.get("more token edits than the bound", 0) + 1
            return -2
        broken = flaw(self.text, text) if self.options.whole and kind != "synonym" else ""  # words are replaced whole
        if broken and not rung:
            self.dropped[broken] = self.dropped.get(broken, 0) + 1
            return -2
        self.seen.add(ids)
        self.flaws.append(broken)
        self.candidates.append(_Candidate(text, kind, detail, parent, ids, edits, levenshtein(self.base, ids)))
        return len(self.candidates) - 1

    def ladder(self, texts: Iterable[str], kind: str, detail: str) -> None:
        """Add texts as rungs, each the parent of the next; stops where a rung is out of bound."""
        parent = -1
        for number, text in enumerate(texts, 1):
            parent = self.add(text, kind, f"{detail}, rung {number}", parent, rung=True)
            if parent == -2:
                return

    def words(self) -> list[re.Match[str]]:
        """Words of the chain, spread evenly: every k-th first, then those between."""
        found = list(_WORD.finditer(self.text))
        generator = np.random.default_rng(self.options.seed)
        return [found[i] for i in generator.permutation(len(found))]

    def by_kind(self, likely: Sequence[tuple[int, int, str]]) -> dict[str, Iterator[None]]:
        """A generator per kind that adds one candidate (or ladder) each time it is advanced."""

        def highlight() -> Iterator[None]:
            words = self.words()
            if words:
                first = words[0]
                rungs = [
                    f"{self.text[: first.start()]}{part}{self.text[first.start() :]}"
                    for part in self.growing("[HIGHLIGHT] ")
                ]
                self.ladder(rungs, "highlight", f"[HIGHLIGHT] before {first[0]!r}")
                yield
            for word in words:
                before, after = self.text[: word.start()], self.text[word.end() :]
                for marked in (f"*{word[0]}*", f"{word[0]}*", f"{word[0]} *"):  # the first that keeps the bound
                    if self.add(f"{before}{marked}{after}", "highlight", marked) >= 0:
                        yield
                        break

        def summary() -> Iterator[None]:
            for step in reversed(self.item.steps[1:]):
                place = (
                    step.start + len(self.text[step.start : step.end]) - len(self.text[step.start : step.end].lstrip())
                )
                rungs = [f"{self.text[:place]}{part}{self.text[place:]}" for part in self.growing("→ summary: ")]
                self.ladder(rungs, "summary", f"before step {step.index}")
                yield

        def drop_last() -> Iterator[None]:
            stripped = self.text.rstrip()
            cut = stripped.rfind("\n")
            cut = self.item.steps[-1].start if cut < 0 else cut
            whole = stripped[:cut].rstrip()
            ends = [int(end) for end in self.encoded.end if len(whole) < int(end) < len(self.text)]
            stops = ends[::-1][self.options.max_edits - 1 :: self.options.max_edits]
            parent = -1
            for number, stop in enumerate([*stops, len(whole)], 1):
                if not stop:
                    return
                parent = self.add(
                    self.text[:stop],
                    "drop_last",
                    f"{len(self.text) - stop} characters, rung {number}",
                    parent,
                    rung=True,
                )
                if parent == -2:
                    return
                yield

        def in_json() -> Iterator[None]:
            spans = [(step.start, step.end, f"step {step.index}") for step in self.item.steps]
            for start, end, what in [*spans, (0, len(self.text), "the chain")]:
                inner = self.text[start:end]
                lead, tail = len(inner) - len(inner.lstrip()), len(inner.rstrip())
                before, after = self.text[:start], inner[tail:] + self.text[end:]
                for left, right in (('{"', '"}'), ("{", "}"), ("[", "]")):  # inside or outside the space, in that order
                    texts = (
                        before + inner[:lead] + left + inner[lead:tail] + right + after,
                        before + (" " if lead else "") + left + inner[:tail] + right + after,
                    )
                    if tail > lead and any(
                        self.add(text, "json", f"{left}…{right} around {what}") >= 0 for text in texts
                    ):
                        yield
                        break

        def synonym() -> Iterator[None]:
            encoded = self.encoded
            for verb in (True, False):
                for position, _, word in likely:
                    start, end = int(encoded.start[position]), int(encoded.end[position])
                    old = self.text[start:end]
                    if (old.strip().lower() in _VERBS) is not verb:
                        continue
                    name = "verb" if verb else "word"
                    if (
                        self.add(
                            self.text[:start] + word + self.text[end:],
                            "synonym",
                            f"{name} {old.strip()!r} → {word.strip()!r}",
                        )
                        >= 0
                    ):
                        yield

        makers = {
            "highlight": highlight,
            "summary": summary,
            "drop_last": drop_last,
            "json": in_json,
            "synonym": synonym,
        }
        return {kind: makers[kind]() for kind in self.options.kinds if kind != "plain"}

    def growing(self, marker: str) -> list[str]:
        """The marker in parts that grow by at most the bound of tokens, the last one whole."""
        encoded = self.scorer.model.text.encode(marker.strip(), "a marker")
        ends = [int(end) for end in encoded.end]
        stops = ends[self.options.max_edits - 1 :: self.options.max_edits]
        if not stops or stops[-1] != ends[-1]:
            stops.append(ends[-1])
        return [marker[:stop] + (" " if stop == ends[-1] else "") for stop in stops]

    def choose(self, likely: Sequence[tuple[int, int, str]], wanted: int) -> None:
        """Fill up to ``wanted`` candidates, the kinds in turn."""
        if "plain" in self.options.kinds:
            self.add(self.text, "plain", "the chain itself")
        open_kinds = self.by_kind(likely)
        while open_kinds and self.whole < wanted:
            for kind in list(open_kinds):
                if next(open_kinds[kind], False) is False:
                    del open_kinds[kind]
                if self.whole >= wanted:
                    break


class _Model:
    """Forward passes of one context, continued from a kept beginning."""

    def __init__(self, scorer: Any, context: Sequence[int]) -> None:
        self.model = scorer.model
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

    ``states`` are L+1 tensors (n, d). Log-probabilities are kept while they fit into :data:`_KEPT` numbers, else made anew.
    """

    def __init__(self, scorer: Any, states: list[Tensor]) -> None:
        self.scorer, self.states = scorer, states
        self.kept: Tensor | None = None
        last = states[-1]
        if len(last) * scorer.run.vocab_size <= _KEPT:
            parts = [self._made(last[start : start + _TILE]) for start in range(0, len(last), _TILE)]
            self.kept = torch.cat(parts)

    def _made(self, states: Tensor) -> Tensor:
        return torch.log_softmax(self.scorer.model.logits(states).float(), -1)

    def log_p(self, positions: Tensor) -> Tensor:
        """Log-probabilities (len(positions), V) of what follows each position of the sequence."""
        return self._made(self.states[-1][positions]) if self.kept is None else self.kept[positions]


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
        log_q = base._made(states[start : start + _TILE])
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


def _likely(scorer: Any, base: _Base, ids: Sequence[int], n_context: int) -> list[tuple[int, int, str]]:
    """(position, token id, text) of likely other words, best first.

    A word that is one token is replaced by a token that the model finds likely there, is a word too, and whose input
    embedding is similar (cosine of at least 0.15). Ranked by log-probability plus four times the cosine.
    """
    tokenizer = scorer.model.tokenizer
    pieces = [tokenizer.decode([int(token)]) for token in ids]
    embeddings = scorer.model.embeddings()
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
def make_variants(scorer: Any, item: Segmented, options: VariantOptions | None = None) -> VariantReport:
    """Variants of one chain, measured by ``scorer`` (a :class:`trails.measure.huggingface.HuggingFaceScorer`).

    The same chain, model and options give the same variants. Raises UsageError for a kind that does not exist, ModelError
    for a scorer without a model.
    """
    options = options or VariantOptions()
    unknown = sorted(set(options.kinds) - set(KINDS))
    if unknown:
        raise UsageError(f"kind {unknown[0]!r} does not exist. Kinds: {', '.join(KINDS)}.")
    if not hasattr(scorer, "model"):
        raise ModelError("variants need a language model; this scorer has none. Leave out --model uniform.")
    maker = _Maker(scorer, item, options)
    context = scorer.contexts.of(item.chain).ids
    n_context = len(context)
    model = _Model(scorer, context)
    base = _Base(scorer, model.states(maker.base, 0))
    whole = float(n_context + len(maker.base))
    floor = _noise_floor(model, maker.base, base, n_context)
    likely = _likely(scorer, base, maker.base, n_context) if "synonym" in options.kinds else []
    maker.choose(likely, options.count + _SPARE)

    def first_edit(candidate: _Candidate) -> int:
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
            model.states(maker.base, keep)
        measured: dict[int, Variant] = {}
        # from the last edit to the first, so that what is kept of the chain's own pass stays valid
        for index in sorted(places, key=lambda i: (-first_edit(maker.candidates[i]), i)):
            candidate = maker.candidates[index]
            keep = max(n_context + first_edit(candidate) - 1, 0)
            measured[index] = _measure(model, item, maker, candidate, base, numbers, n_context, keep)
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
            final.append(replace(variant, parent=parent, accepted=not reason, reason=reason))
    if options.drift:
        final = _with_attention(scorer, item, final)
    return VariantReport(item.chain.id, tuple(final), floor, model.tokens / whole, maker.dropped)


def _base_numbers(base: _Base, ids: Sequence[int], n_context: int) -> tuple[Floats, Floats]:
    """Surprisal and entropy of the chain's own tokens, from its own pass."""
    known = 0 if n_context else 1  # nothing predicts the first token of a sequence
    found = _reduce(base, base.states[-1], [], [], list(ids[known:]), n_context - 1 + known)
    undefined = np.full(known, np.nan, np.float32)
    return np.concatenate([undefined, found.surprisal]), np.concatenate([undefined, found.entropy])


def _variant_chain(chain: Chain, candidate: _Candidate, root: str) -> Chain:
    metadata = dict(chain.metadata) | {"parent": root, "variant": candidate.kind, "detail": candidate.detail}
    return replace(
        chain,
        source_id=f"{chain.source_id}~{candidate.kind}~{candidate.detail}",
        text=candidate.text,
        boundaries=(),
        metadata=metadata,
    )


def _measure(
    model: _Model,
    item: Segmented,
    maker: _Maker,
    candidate: _Candidate,
    base: _Base,
    numbers: tuple[Floats, Floats],
    n_context: int,
    keep: int,
) -> Variant:
    """One variant against the chain: a forward pass of what follows the first edit."""
    ids = candidate.ids
    states = model.states(ids, keep)
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
    encoded = maker.scorer.model.text.encode(candidate.text, "a variant")
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


def _steps(item: Segmented, maker: _Maker, candidate: _Candidate, encoded: Any) -> tuple[tuple[Step, ...], Ints]:
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


def _noise_floor(model: _Model, ids: Sequence[int], base: _Base, n_context: int) -> float:
    """Mean divergence of the chain from itself, continued from its middle: what rounding alone gives, nats."""
    keep = n_context + len(ids) // 2
    again = model.states(ids, keep)[-1]
    found = _reduce(base, again, range(keep, keep + len(again)), range(len(again)), [], 0).divergence
    return float(found.mean()) if len(found) else 0.0


def _with_attention(scorer: Any, item: Segmented, variants: list[Variant]) -> list[Variant]:
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


# --------------------------------------------------------------------------------------------------------------------
# files
# --------------------------------------------------------------------------------------------------------------------

_OWN = (
    ("parent", pa.string()),
    ("kind", pa.string()),
    ("detail", pa.string()),
    ("edits", pa.int32()),
    ("distance", pa.int32()),
    ("volatility", pa.float32()),
    ("volatility_after", pa.float32()),
    ("noise_floor", pa.float32()),
    ("logit_drift", pa.float32()),
    ("hidden_drift", pa.list_(pa.float32())),
    ("attention_drift", pa.list_(pa.float32())),
)
VARIANT_SCHEMA = pa.schema([*(SHARD_SCHEMA.field(name) for name in COLUMNS), *_OWN])
"""Columns of a file of accepted variants: those a training record is made from, then the gate's and the drift map's."""


def variant_table(report: VariantReport, run: str, tokenizer: str, question_ids: Sequence[int]) -> pa.Table:
    """Accepted variants as rows. The question's surprisal is left undefined (the chain's own trace has it)."""
    rows = []
    for v in report.accepted:
        chain = v.chain
        rows.append(
            {
                "chain": chain.id,
                "run": run,
                "source": chain.source,
                "source_id": chain.source_id,
                "licence": chain.licence,
                "language": chain.language,
                "question": chain.question,
                "text": chain.text,
                "metadata": [*chain.metadata.items(), ("parent_variant", v.parent)],
                "tokenizer": tokenizer,
                "token_ids": v.token_ids,
                "token_start": v.token_start,
                "token_end": v.token_end,
                "step_tokens": v.step_tokens.reshape(-1),
                "steps": [
                    {
                        "start": s.start,
                        "end": s.end,
                        "role": s.role.value,
                        "connective": s.connective,
                        "sense": s.sense,
                        "explicit": s.explicit,
                    }
                    for s in v.steps
                ],
                "question_token_ids": list(question_ids),
                "question_surprisal": [float("nan")] * len(question_ids),
                "surprisal": v.surprisal,
                "entropy": v.entropy,
                "parent": v.parent,
                "kind": v.kind,
                "detail": v.detail,
                "edits": v.edits,
                "distance": v.distance,
                "volatility": v.volatility,
                "volatility_after": v.volatility_after,
                "noise_floor": report.noise_floor,
                "logit_drift": v.logit_drift,
                "hidden_drift": v.hidden_drift,
                "attention_drift": v.attention_drift,
            }
        )
    return pa.Table.from_pylist(rows, schema=VARIANT_SCHEMA)


def variant_batch(table: pa.Table, chains: Collection[str]) -> GraphBatch:
    """Rows of a file of variants for the graph, those of ``chains``: ``:Variant`` and ``VARIANT_OF`` with the drift map."""
    roots = [dict(item)["parent"] for item in table["metadata"].to_pylist()]
    keep = [row for row, root in enumerate(roots) if root in chains]
    table, roots = table.take(pa.array(keep, pa.int64())), [roots[row] for row in keep]
    nodes = {name: table[name] for name in ("kind", "detail", "text", "parent", "edits", "distance")}
    drifts: dict[str, Any] = {}
    for name, first in (("hidden_drift", 1), ("attention_drift", 0)):  # layer 0 of the states is no layer of the model
        rows = table[name].to_pylist()
        width = max((len(row) for row in rows if row is not None), default=0)
        filled = [[np.nan] * width if row is None else row for row in rows]
        drifts |= thirds(name, np.array(filled, np.float32).reshape(len(rows), width), first)
        drifts[f"{name}_by_layer"] = table[name]
    ends = {"start": table["chain"], "end": roots, "run": table["run"]}
    numbers = {name: table[name] for name in ("volatility", "noise_floor", "logit_drift")}
    return GraphBatch(
        {"Variant": table_of("Variant", {"id": table["chain"], "chain": roots, **nodes})},
        {"VARIANT_OF": table_of("VARIANT_OF", {**ends, **numbers, **drifts})},
    )


def check_variant_file(path: Path) -> None:
    """Raises UsageError for a name that variants cannot be written to; variants that lie there may be replaced."""
    if path.suffix != ".parquet":
        raise UsageError(f"{path} ends in {path.suffix!r}. Write a name that ends in .parquet.")
    if path.exists():
        try:
            known = "noise_floor" in pq.read_schema(path).names
        except (OSError, pa.ArrowException):
            known = False
        if not known:
            raise UsageError(f"{path} exists and is not a file of variants. Choose another name.")


def write_variants(tables: Iterable[pa.Table], reports: Sequence[VariantReport], path: Path) -> Path:
    """Write accepted variants to ``path`` (Parquet) and the others, with reasons, beside it; return the second file."""
    check_variant_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rejected = path.with_name(f"{path.stem}.rejected.jsonl")
    with replacing(path) as temporary, replacing(rejected) as reasons:
        with pq.ParquetWriter(temporary, VARIANT_SCHEMA, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)
        with reasons.open("w", encoding="utf-8", newline="\n") as file:
            _write_reasons(reports, file)
    return rejected


def _write_reasons(reports: Iterable[VariantReport], file: TextIO) -> None:
    """Variants that were not accepted, and why, one JSON object a line."""
    for report in reports:
        for v in report.variants:
            if not v.accepted:
                line = {
                    "chain": report.chain,
                    "variant": v.chain.id,
                    "parent": v.parent,
                    "kind": v.kind,
                    "detail": v.detail,
                    "edits": v.edits,
                    "distance": v.distance,
                    "volatility": round(v.volatility, 6),
                    "reason": v.reason,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        for reason, count in sorted(report.dropped.items()):
            file.write(json.dumps({"chain": report.chain, "reason": reason, "count": count}, ensure_ascii=False) + "\n")


@dataclass(frozen=True, slots=True)
class Shown:
    """A stored variant as a person reads it: its text with ``[-what went-]`` and ``{+what came+}``, the rest cut short."""

    id: str
    chain: str
    kind: str
    detail: str
    edits: int
    distance: int
    volatility: float
    text: str


def marked_edits(before: str, after: str, around: int = 40) -> str:
    """The text ``after`` with its differences from ``before`` marked, and ``around`` characters on both sides of each."""
    words = [re.findall(r"\s+|\w+|[^\w\s]", text) for text in (before, after)]
    parts: list[str] = []
    for what, a, b, c, d in SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes():
        old, new = "".join(words[0][a:b]), "".join(words[1][c:d])
        if what == "equal":
            first, last = a == 0, b == len(words[0])
            head, tail = (0 if first else around), (0 if last else around)
            parts.append(
                old if len(old) <= head + tail + 3 else f"{old[:head]} … {old[len(old) - tail :] if tail else ''}"
            )
        else:
            parts.append((f"[-{old}-]" if old else "") + (f"{{+{new}+}}" if new else ""))
    return "".join(parts)


def shown_variants(path: Path, texts: Mapping[str, str]) -> list[Shown]:
    """The stored variants of a file beside the ``texts`` of their chains, the most volatile first.

    Raises UsageError for another file.
    """
    columns = ["chain", "metadata", "text", "kind", "detail", "edits", "distance", "volatility"]
    try:
        rows = pq.read_table(path, columns=columns).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path} is not a file of variants ({error}). Run: trails variants SELECTION") from None
    found = []
    for row in rows:
        root = dict(row["metadata"])["parent"]
        text = marked_edits(texts[root], row["text"]) if root in texts else row["text"]
        numbers = (row["edits"], row["distance"], row["volatility"])
        found.append(Shown(row["chain"], root, row["kind"], row["detail"], *numbers, text))
    return sorted(found, key=lambda one: (-one.volatility, one.id))


@dataclass(frozen=True, slots=True)
class KindDrift:
    """What one kind of variant did, over the accepted ones of a stored run.

    ``edits`` and ``distance`` are the largest. Volatility in nats. The drift map, means: ``logit_drift`` total variation,
    ``hidden_drift`` (L+1,) 1 - cosine by layer (0 = input embeddings), ``attention_drift`` (L,) total variation by layer, None
    unless it was measured.
    """

    kind: str
    made: int
    accepted: int
    edits: int | None
    distance: int | None
    volatility_median: float | None
    volatility_largest: float | None
    logit_drift: float | None
    hidden_drift: tuple[float, ...]
    attention_drift: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class VariantRun:
    """A run of the microvariant loop as it is stored: accepted variants with their drift map in ``path``, the others with the
    reason in ``rejected``. ``id`` is empty where the file lies outside a home, which only its path then names.
    ``noise_floor`` is the largest volatility (nats) of a chain against itself, None where no variant was accepted.
    """

    id: str
    path: Path
    rejected: Path
    run: str
    noise_floor: float | None
    kinds: tuple[KindDrift, ...]

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        kinds = [{name: getattr(kind, name) for name in kind.__slots__} for kind in self.kinds]
        return {
            "id": self.id or None,
            "path": str(self.path),
            "run": self.run,
            "noise_floor": self.noise_floor,
            "kinds": kinds,
        }


def variant_run_id(run: str, options: VariantOptions, chains: Iterable[str]) -> str:
    """``v`` + 16 hex digits over the instrument, the options and the chains: what decides every variant."""
    return "v" + stable_hash(run, json.dumps(asdict(options), sort_keys=True), *sorted(chains))


def read_variant_run(path: Path, name: str = "") -> VariantRun:
    """A stored run with its drift map by kind; ``name`` is its id in a home. Raises UsageError for another file."""
    own = [column for column, _ in _OWN]
    try:
        table = pq.read_table(path, columns=["run", *own])
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path} is not a file of variants ({error}). Type: trails variants SELECTION") from None
    rejected = path.with_name(f"{path.stem}.rejected.jsonl")
    refused: list[str] = []
    try:
        if rejected.is_file():
            lines = rejected.read_text(encoding="utf-8").split("\n")
            refused = [found["kind"] for line in lines if line and "kind" in (found := json.loads(line))]
    except ValueError as error:
        raise UsageError(
            f"{rejected} is damaged ({error}). Make the variants anew: trails variants SELECTION"
        ) from None
    rows = table.to_pylist()
    kinds = []
    for kind in KINDS:
        taken = [row for row in rows if row["kind"] == kind]
        if not taken and kind not in refused:
            continue
        volatility = [row["volatility"] for row in taken]
        attention = [row["attention_drift"] for row in taken if row["attention_drift"] is not None]
        kinds.append(
            KindDrift(
                kind,
                len(taken) + refused.count(kind),
                len(taken),
                max((row["edits"] for row in taken), default=None),
                max((row["distance"] for row in taken), default=None),
                float(np.median(volatility)) if taken else None,
                max(volatility, default=None),
                float(np.mean([row["logit_drift"] for row in taken])) if taken else None,
                _means([row["hidden_drift"] for row in taken]),
                _means(attention) if attention else None,
            )
        )
    floor = max((row["noise_floor"] for row in rows), default=None)
    run = rows[0]["run"] if rows else ""
    return VariantRun(name, path, rejected, run, floor, tuple(kinds))


def _means(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Mean by layer, undefined values left out."""
    return tuple(np.nanmean(np.asarray(rows, np.float64), axis=0).tolist()) if rows else ()
