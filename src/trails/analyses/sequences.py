"""Symbol sequences of many chains: suffix arrays, maximal repeats, shared windows, masks, Markov resamples.

A :class:`SymbolCorpus` holds the symbols of all chains in one array, with the offsets of the chains. A symbol is a token
id, a masked token, or a role. Nothing here crosses from one chain into the next, and nothing depends on the order in which the
chains came: they are sorted by id. All work is done on whole arrays; there is no Python loop over tokens.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from trails.analyses.suffixes import suffix_array
from trails.errors import UsageError
from trails.platform.arrays import Bools, Ints, Keys, Longs
from trails.platform.text import counted
from trails.schema import Chain, Role, Trace
from trails.segment.lexicon import LETTERS, packaged_lexicons

D = TypeVar("D", bound=np.generic)


@dataclass(frozen=True, slots=True)
class SymbolCorpus:
    """Symbols of ``C`` chains, ``N`` in all.

    ``position`` is the span of original tokens (steps for roles) that a symbol stands for, relative to its chain:
    masking joins several tokens into one symbol. ``characters`` is the span in the chain's text.
    """

    tokens: Ints  # (N,) symbols, non-negative
    offsets: Longs  # (C+1,) chain c holds the symbols offsets[c]:offsets[c+1]
    chains: tuple[str, ...]  # (C,) ids, ascending
    tokenizer: str
    position: Ints  # (N, 2)
    characters: Ints  # (N, 2)
    texts: tuple[str, ...]  # (C,)
    questions: tuple[str, ...]  # (C,)
    sources: tuple[str, ...]  # (C,)
    surprisal: npt.NDArray[np.float32]  # (N,) nats; NaN where no model has measured
    run: str = ""

    @property
    def n_tokens(self) -> int:
        """Number of symbols in all chains."""
        return len(self.tokens)

    @property
    def n_chains(self) -> int:
        """Number of chains."""
        return len(self.chains)

    def chain_of(self, index: npt.NDArray[np.integer]) -> Longs:
        """Chain number of each symbol index."""
        return np.searchsorted(self.offsets, index, side="right") - 1

    def text(self, start: int, end: int) -> str:
        """Text under the symbols ``start:end`` (indices over the whole corpus, within one chain)."""
        chain = int(np.searchsorted(self.offsets, start, side="right")) - 1
        return self.texts[chain][int(self.characters[start, 0]) : int(self.characters[end - 1, 1])]

    def select(self, chosen: Bools) -> SymbolCorpus:
        """The chains for which ``chosen`` (C,) is true."""
        keep = np.repeat(chosen, np.diff(self.offsets))
        lengths = np.diff(self.offsets)[chosen]
        pick = np.flatnonzero(chosen)
        return SymbolCorpus(
            self.tokens[keep],
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            tuple(self.chains[i] for i in pick),
            self.tokenizer,
            self.position[keep],
            self.characters[keep],
            tuple(self.texts[i] for i in pick),
            tuple(self.questions[i] for i in pick),
            tuple(self.sources[i] for i in pick),
            self.surprisal[keep],
            self.run,
        )


@dataclass(frozen=True, slots=True)
class _Part:
    """One chain on its way into a corpus."""

    chain: str
    tokens: Ints
    characters: Ints
    text: str
    question: str
    source: str
    surprisal: npt.NDArray[np.float32]


def _assemble(parts: dict[str, _Part], tokenizer: str, run: str) -> SymbolCorpus:
    ordered = [parts[name] for name in sorted(parts)]
    lengths = np.array([len(part.tokens) for part in ordered], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def joined(arrays: list[npt.NDArray[D]], empty: npt.NDArray[D]) -> npt.NDArray[D]:
        return np.concatenate(arrays) if arrays else empty

    index = np.arange(int(offsets[-1]), dtype=np.int64) - np.repeat(offsets[:-1], lengths)
    return SymbolCorpus(
        joined([part.tokens for part in ordered], np.empty(0, np.int32)),
        offsets,
        tuple(part.chain for part in ordered),
        tokenizer,
        np.stack([index, index + 1], axis=1).astype(np.int32),
        joined([part.characters for part in ordered], np.empty((0, 2), np.int32)),
        tuple(part.text for part in ordered),
        tuple(part.question for part in ordered),
        tuple(part.source for part in ordered),
        joined([part.surprisal for part in ordered], np.empty(0, np.float32)),
        run,
    )


def one_instrument(traces: Iterable[Trace]) -> Iterable[Trace]:
    """Pass the traces on; UsageError when they come from two runs or two tokenizers (their numbers do not compare)."""
    run = tokenizer = ""
    for trace in traces:
        if tokenizer and trace.tokenizer != tokenizer:
            raise UsageError(
                f"the traces use two tokenizers ({tokenizer[:8]} and {trace.tokenizer[:8]}); "
                "token sequences of different tokenizers cannot be compared: choose one run with --run"
            )
        if run and trace.run != run:
            raise UsageError(f"the traces come from two runs ({run} and {trace.run}): choose one with --run")
        run, tokenizer = trace.run, trace.tokenizer
        yield trace


def usual_layers(stored: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """The layers whose states most chains of a run keep, from those of every chain; of several as common the first in order,
    () where no chain keeps any.
    """
    counts = Counter(layers for layers in stored if layers)
    return min(counts, key=lambda layers: (-counts[layers], layers), default=())


def token_corpus(traces: Iterable[Trace]) -> SymbolCorpus:
    """Tokens of the traces. Raises UsageError for two runs, two tokenizers, or no trace at all."""
    parts: dict[str, _Part] = {}
    run = tokenizer = ""
    for trace in one_instrument(traces):
        run, tokenizer = trace.run, trace.tokenizer
        name = trace.chain.id
        parts[name] = _Part(
            name,
            np.asarray(trace.token_ids, np.int32),
            np.stack([trace.token_start, trace.token_end], axis=1).astype(np.int32).reshape(-1, 2),
            trace.chain.text,
            trace.chain.question,
            trace.chain.source,
            np.asarray(trace.surprisal, np.float32),
        )
    return _checked(parts, tokenizer, run)


def text_corpus(
    chains: Iterable[Chain], encode: Callable[[str], tuple[Sequence[int], Sequence[tuple[int, int]]]], tokenizer: str
) -> SymbolCorpus:
    """Tokens of chains that no model has measured. ``encode`` gives the token ids and character spans of a text."""
    parts: dict[str, _Part] = {}
    for chain in chains:
        ids, spans = encode(chain.text)
        tokens = np.asarray(ids, np.int32)
        characters = np.asarray(spans, np.int32).reshape(-1, 2)
        unknown = np.full(len(tokens), np.nan, np.float32)
        parts[chain.id] = _Part(chain.id, tokens, characters, chain.text, chain.question, chain.source, unknown)
    return _checked(parts, tokenizer, "")


def _checked(parts: dict[str, _Part], tokenizer: str, run: str) -> SymbolCorpus:
    if not parts:
        raise UsageError("no chain to analyse: ingest some with 'trails ingest PATH', or widen the selection")
    return _assemble(parts, tokenizer, run)


ROLES = tuple(Role)


def role_corpus(traces: Iterable[Trace], *, implicit: bool = False) -> tuple[SymbolCorpus, Bools]:
    """Roles of the steps as symbols (numbers into :data:`ROLES`), and for each whether its role is explicit. With ``implicit``
    a step without a role has its implicit one (:meth:`~trails.schema.Step.role_with_implicit`). Roles are those of the chains,
    whichever run measured them: the corpus names a run where all traces are of one.
    """
    runs: set[str] = set()
    parts: dict[str, _Part] = {}
    explicit: dict[str, list[bool]] = {}
    for trace in traces:
        name = trace.chain.id
        runs.add(trace.run)
        found = [step.role_with_implicit() if implicit else step.role for step in trace.steps]
        tokens = np.array([ROLES.index(role) for role in found], np.int32)
        spans = np.array([(step.start, step.end) for step in trace.steps], np.int32).reshape(-1, 2)
        chain = trace.chain
        none = np.full(len(tokens), np.nan, np.float32)
        parts[name] = _Part(name, tokens, spans, chain.text, chain.question, chain.source, none)
        explicit[name] = [step.as_corrected.explicit for step in trace.steps]
    corpus = _checked(parts, "roles", runs.pop() if len(runs) == 1 else "")
    return corpus, np.array([flag for name in corpus.chains for flag in explicit[name]], np.bool_)


# --------------------------------------------------------------------------------------------------------------------
# Masks
# --------------------------------------------------------------------------------------------------------------------

NUMBER = re.compile(r"\d+(?:[ \u00a0]\d{3}(?!\d))*(?:[.,]\d+)*")
"""A number as written: digits with thousands separators and a decimal part."""

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def content_words(text: str) -> list[str]:
    """Words of more than three letters in lower case, cut to five letters so that inflections meet; in order."""
    return [word.casefold()[:5] for word in _WORD.findall(text) if len(word) > 3]


@cache
def cue_words() -> frozenset[str]:
    """Words in lower case that open a step or a sentence in a packaged lexicon: those of its cues and suppositions, and what
    begins a sentence or a main clause. Interjections are known by :func:`is_interjection`."""
    found: set[str] = set()
    for lexicon in packaged_lexicons().values():
        for cues in lexicon.cues.values():
            found.update(word for cue in cues for word in LETTERS.findall(cue.cue))
        found.update(*(lexicon.starters, lexicon.suppose, lexicon.subjects, lexicon.auxiliaries))
    return frozenset(found)


def is_interjection(word: str) -> bool:
    """Whether a packaged lexicon passes over the word before a cue ("Wait, but")."""
    return any(found.prefix.fullmatch(f"{word}, ") is not None for found in packaged_lexicons().values())


def name_words(texts: Iterable[str]) -> frozenset[str]:
    """Words that occur with a capital first letter and never in lower case: names, for the purpose of masking.

    The rule works for every script with case. A one-letter word is never a name, nor is a word of the lexicons' cues
    (:func:`cue_words`): connectives often begin a sentence and nothing else. In a small corpus another
    ordinary word that only begins sentences is taken for a name.
    """
    lower: set[str] = set()
    capital: set[str] = set()
    for text in texts:
        for word in set(_WORD.findall(text)):
            if word[0].islower():
                lower.add(word.casefold())
            elif len(word) > 1 and word[0].isupper():
                capital.add(word)
    known = lower | cue_words()
    return frozenset(word for word in capital if word.casefold() not in known and not is_interjection(word))


def masked_corpus(corpus: SymbolCorpus) -> SymbolCorpus:
    """The corpus with every number and every name (:func:`name_words`) replaced by one symbol each.

    Tokens that touch the same number or name become one symbol, so numbers of different length match.
    """
    names = name_words(corpus.texts)
    lengths = np.array([len(text) for text in corpus.texts], np.int64)
    base = np.concatenate([[0], np.cumsum(lengths + 1)])
    starts: list[int] = []
    ends: list[int] = []
    kinds: list[int] = []
    for text, offset in zip(corpus.texts, base[:-1].tolist(), strict=True):
        found = [(match.start(), match.end(), 0) for match in NUMBER.finditer(text)]
        found += [(m.start(), m.end(), 1) for m in _WORD.finditer(text) if m.group() in names]
        for start, end, kind in sorted(found):
            starts.append(offset + start)
            ends.append(offset + end)
            kinds.append(kind)
    if not starts:
        return corpus
    span_start, span_end = np.array(starts, np.int64), np.array(ends, np.int64)
    chain = np.repeat(np.arange(corpus.n_chains), np.diff(corpus.offsets))
    token_start = base[chain] + corpus.characters[:, 0]
    token_end = base[chain] + corpus.characters[:, 1]
    span = np.minimum(np.searchsorted(span_end, token_start, side="right"), len(starts) - 1)
    touches = (span_start[span] < token_end) & (span_end[span] > token_start)
    top = int(corpus.tokens.max(initial=0)) + 1
    symbol = np.where(touches, top + np.array(kinds, np.int64)[span], corpus.tokens).astype(np.int32)
    group = np.where(touches, span, -1 - np.arange(corpus.n_tokens))
    first = np.ones(corpus.n_tokens, np.bool_)
    first[1:] = (group[1:] != group[:-1]) | (chain[1:] != chain[:-1])
    head = np.flatnonzero(first)
    tail = np.append(head[1:], corpus.n_tokens) - 1
    offsets = np.concatenate([[0], np.cumsum(np.bincount(chain[head], minlength=corpus.n_chains))]).astype(np.int64)
    return replace(
        corpus,
        tokens=symbol[head],
        offsets=offsets,
        position=np.stack([corpus.position[head, 0], corpus.position[tail, 1]], axis=1),
        characters=np.stack([corpus.characters[head, 0], corpus.characters[tail, 1]], axis=1),
        surprisal=(np.add.reduceat(corpus.surprisal, head) if len(head) else corpus.surprisal).astype(np.float32),
    )


# --------------------------------------------------------------------------------------------------------------------
# Suffix array and longest matches
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Suffixes:
    """Sorted suffixes of a corpus, separators left out.

    ``order`` (N,) are symbol indices in suffix order; ``lcp[i]`` is the common prefix of ``order[i-1]`` and ``order[i]``
    that stays within both chains; ``lcp[0]`` is 0.
    """

    order: Ints
    lcp: Ints


def suffixes(tokens: Ints, offsets: Longs) -> Suffixes:
    """Suffix array and LCP array. Linear in time; a shared separator ends every chain and the LCP is cut there."""
    n, n_chains = len(tokens), len(offsets) - 1
    if n == 0:
        return Suffixes(np.empty(0, np.int32), np.empty(0, np.int32))
    symbols = tokens
    if int(tokens.max()) >= 2**16 - 1:
        # Dense ranks keep 16-bit symbols, which halve the work, for every corpus of fewer than 65,535 distinct tokens.
        _, inverse = np.unique(tokens, return_inverse=True)
        symbols = inverse.astype(np.int32)
    wide: type[np.uint16] | type[np.uint32] = np.uint16 if int(symbols.max()) < 2**16 - 1 else np.uint32
    chain = np.repeat(np.arange(n_chains, dtype=np.int32), np.diff(offsets))
    text = np.zeros(n + n_chains, wide)
    text[np.arange(n, dtype=np.int64) + chain] = symbols + 1
    order, common = suffix_array(text)
    # The separators sort first: they are the n_chains smallest suffixes.
    order = order[n_chains:]
    lcp = np.empty(n, np.int32)
    lcp[0] = 0
    lcp[1:] = common[n_chains:-1]
    where = np.cumsum(text == 0, dtype=np.int32)[order]
    index = (order - where).astype(np.int32)
    left = (offsets[1:].astype(np.int32))[where] - index
    np.minimum(lcp, left, out=lcp)
    np.minimum(lcp[1:], left[:-1], out=lcp[1:])
    return Suffixes(index, lcp)


def _running_minimum(values: Longs, starts: Bools) -> Longs:
    """Minimum over each segment up to here; a segment begins where ``starts`` is true."""
    big = int(values.max(initial=0)) + 1
    segment = np.cumsum(starts).astype(np.int64)
    lowered: Longs = np.minimum.accumulate(values - segment * big)
    return lowered + segment * big


def shared_length(found: Suffixes, label: Longs, anchor: Bools | None = None) -> tuple[Ints, Ints]:
    """For each symbol index: the longest prefix of its suffix that another label also has, and where (index, -1 if none).

    ``label`` (N,) is the chain of each index, or any other division. With ``anchor`` (N,), matches are looked for among
    the anchored indices only, for the others only; anchored indices get length 0.
    """
    n = len(found.order)
    lengths = np.zeros(n, np.int32)
    places = np.full(n, -1, np.int32)
    if n == 0:
        return lengths, places
    by_rank = label[found.order]
    anchored = None if anchor is None else anchor[found.order]
    for backwards in (False, True):
        # lcp between a rank and the one before it in walking direction
        if backwards:
            lcp = np.concatenate([[0], found.lcp[1:][::-1]]).astype(np.int64)
            labels, order = by_rank[::-1], found.order[::-1]
            fixed = None if anchored is None else anchored[::-1]
        else:
            lcp, labels, order, fixed = found.lcp.astype(np.int64), by_rank, found.order, anchored
        if fixed is None:
            starts = np.ones(n, np.bool_)
            starts[1:] = labels[1:] != labels[:-1]
            source = np.maximum.accumulate(np.where(starts, np.arange(n) - 1, -1))
        else:
            # A segment begins right after an anchored rank: its partner is that rank.
            starts = np.ones(n, np.bool_)
            starts[1:] = fixed[:-1]
            source = np.maximum.accumulate(np.where(starts, np.arange(n) - 1, -1))
        value = _running_minimum(lcp, starts)
        value[source < 0] = 0
        if fixed is not None:
            value[fixed] = 0
        better = value > lengths[order]
        where = order[better]
        lengths[where] = value[better]
        places[where] = order[source[better]]
    return lengths, places


# --------------------------------------------------------------------------------------------------------------------
# Maximal repeats
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Repeats:
    """Maximal repeats: strings that cannot be extended to either side without losing an occurrence.

    Repeat ``r`` has ``n_symbols[r]`` symbols, occurs in ``n_chains[r]`` chains, at ``starts[bounds[r]:bounds[r+1]]``
    (symbol indices, ascending). Longest first, ties by text.
    """

    n_symbols: Ints  # (R,)
    n_chains: Ints  # (R,)
    bounds: Longs  # (R+1,)
    starts: Ints  # (M,)


def _smaller_after(values: Ints) -> Longs:
    """Index of the next strictly smaller value, ``len(values)`` if none. Pointer jumping: every element follows the
    pointers that the others have already found, so long runs take logarithmically many rounds.
    """
    n = len(values)
    after = np.arange(1, n + 1, dtype=np.int64)
    padded = np.append(values, np.int32(-1))
    active = np.arange(n, dtype=np.int64)
    while len(active):
        active = active[padded[after[active]] >= padded[active]]
        after[active] = after[after[active]]
    return after


def _smaller_before(values: Ints) -> Longs:
    """Index of the previous strictly smaller value, -1 if none."""
    n = len(values)
    before: Longs = n - 1 - _smaller_after(np.ascontiguousarray(values[::-1]))[::-1]
    return before


def maximal_repeats(
    corpus: SymbolCorpus, min_symbols: int, *, min_chains: int = 2, found: Suffixes | None = None
) -> Repeats:
    """Maximal repeats of at least ``min_symbols`` symbols in at least ``min_chains`` chains.

    LCP intervals of the suffix array: right-maximal by construction, kept when the symbols before their occurrences differ
    (Abouelhoda, Kurtz, Ohlebusch, "Replacing suffix trees with enhanced suffix arrays", 2004). The end and the
    beginning of a chain count as symbols of their own. Raises UsageError for ``min_symbols`` < 1.
    """
    if min_symbols < 1:
        raise UsageError(
            f"a repeat of at least {counted(min_symbols, 'token')} was asked for; give a number of 1 or more"
        )
    found = found or suffixes(corpus.tokens, corpus.offsets)
    order, lcp = found.order, found.lcp
    none = Repeats(np.empty(0, np.int32), np.empty(0, np.int32), np.zeros(1, np.int64), np.empty(0, np.int32))
    # Only ranks in runs of lcp >= min_symbols can be in an interval. The rank before each run belongs to it, its lcp is
    # smaller.
    high = lcp >= min_symbols
    if not high.any():
        return none
    keep = high.copy()
    keep[:-1] |= high[1:]
    ranks = np.flatnonzero(keep)
    values = np.where(high[ranks], lcp[ranks], 0).astype(np.int32)
    after, before = _smaller_after(values), _smaller_before(values)
    # One interval for each group of equal values under the same bounds: keep the leftmost.
    inside = np.flatnonzero(values)
    left, right = before[inside], after[inside]
    first = np.ones(len(inside), np.bool_)
    by_left = np.lexsort((inside, right, left))
    first[by_left[1:]] = (left[by_left[1:]] != left[by_left[:-1]]) | (right[by_left[1:]] != right[by_left[:-1]])
    inside, left, right = inside[first], left[first], right[first]
    index = order[ranks]
    chain = corpus.chain_of(index)
    opens = corpus.offsets[chain] == index
    previous = np.where(opens, -1, corpus.tokens[np.maximum(index - 1, 0)])
    differs = np.zeros(len(ranks), np.int64)
    differs[1:] = (previous[1:] != previous[:-1]) | opens[1:]
    differs = np.cumsum(differs)
    crosses = np.zeros(len(ranks), np.int64)
    crosses[1:] = chain[1:] != chain[:-1]
    crosses = np.cumsum(crosses)
    good = (differs[right - 1] > differs[left]) & (crosses[right - 1] > crosses[left])
    inside, left, right = inside[good], left[good], right[good]
    if not len(inside):
        return none
    n_chains = _distinct(chain, left, right)
    enough = n_chains >= min_chains
    inside, left, right, n_chains = inside[enough], left[enough], right[enough], n_chains[enough]
    length = values[inside]
    # The suffix order of equal lengths is the order of their texts.
    sort = np.lexsort((left, -length))
    length, left, right, n_chains = length[sort], left[sort], right[sort], n_chains[sort]
    bounds = np.concatenate([[0], np.cumsum(right - left)]).astype(np.int64)
    starts = np.empty(int(bounds[-1]), np.int32)
    for a, b, low, high_ in _blocks(left, right, bounds):
        owner = np.repeat(np.arange(a, b), right[a:b] - left[a:b])
        member = index[np.arange(low, high_) - np.repeat(bounds[a:b] - left[a:b], right[a:b] - left[a:b])]
        starts[low:high_] = member[np.lexsort((member, owner))]
    return Repeats(length, n_chains, bounds, starts)


_BLOCK = 4_000_000
"""Occurrences expanded at once."""


def _blocks(left: Longs, right: Longs, bounds: Longs) -> Iterable[tuple[int, int, int, int]]:
    """Ranges of intervals with at most :data:`_BLOCK` members (one interval more where a single one is larger)."""
    a = 0
    while a < len(left):
        b = max(a + 1, int(np.searchsorted(bounds, bounds[a] + _BLOCK, side="right")) - 1)
        yield a, b, int(bounds[a]), int(bounds[b])
        a = b


def _distinct(label: Longs, left: Longs, right: Longs) -> Ints:
    """Number of distinct labels in ``label[left:right]`` for each interval."""
    bounds = np.concatenate([[0], np.cumsum(right - left)]).astype(np.int64)
    result = np.zeros(len(left), np.int32)
    top = int(label.max(initial=0)) + 1
    for a, b, low, high in _blocks(left, right, bounds):
        size = right[a:b] - left[a:b]
        owner = np.repeat(np.arange(b - a), size)
        member = label[np.arange(low, high) - np.repeat(bounds[a:b] - left[a:b], size)]
        key = np.sort(owner * top + member)
        new = np.ones(len(key), np.bool_)
        new[1:] = key[1:] != key[:-1]
        result[a:b] = np.bincount(key[new] // top, minlength=b - a)
    return result


def content_key(*parts: object) -> str:
    """16 hex digits over the parts: identity of a found thing, the same wherever it is found."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.tobytes() if isinstance(part, np.ndarray) else str(part).encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:16]


def sequence_keys(tokens: Ints, starts: npt.NDArray[np.integer], sizes: Ints, *parts: object) -> list[str]:
    """16 hex digits for each of many symbol sequences, from the symbols and the parts that they have in common."""
    salt = content_key(*parts).encode()
    data = np.ascontiguousarray(tokens, "<i4").tobytes()
    spans = zip((starts.astype(np.int64) * 4).tolist(), ((starts.astype(np.int64) + sizes) * 4).tolist(), strict=True)
    return [hashlib.blake2b(data[a:b], digest_size=8, key=salt).hexdigest() for a, b in spans]


# --------------------------------------------------------------------------------------------------------------------
# Windows
# --------------------------------------------------------------------------------------------------------------------


def mixed(x: Keys) -> Keys:
    """SplitMix64's finaliser."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


_PART = 1 << 17
"""Symbols worked on at once, so that what is computed of them stays in the processor's cache: the cost per symbol then does not
grow with the corpus."""


def window_keys(tokens: Ints, offsets: Longs, size: int) -> tuple[Keys, Longs]:
    """64-bit keys of all windows of ``size`` symbols that stay in one chain, and the index where each begins.

    Two different windows share a key with probability about 2^-64; ten million windows hold a collision with 3e-6.
    """
    n, done = len(tokens), 0
    count = int(np.maximum(np.diff(offsets) - size + 1, 0).sum())
    keys, begins = np.empty(count, np.uint64), np.empty(count, np.int64)
    for start in range(0, n - size + 1 if count else 0, _PART):
        stop = min(start + _PART, n - size + 1)
        found = _keys_of(tokens[start : stop + size - 1], size)
        first, last = np.searchsorted(offsets, [start, stop - 1], side="right").tolist()
        bounds = np.clip(offsets[first - 1 : last + 1], start, stop)
        end = np.repeat(offsets[first : last + 1], np.diff(bounds))
        inside = np.flatnonzero(np.arange(start + size, stop + size) <= end)
        np.take(found, inside, out=keys[done : done + len(inside)])
        np.add(inside, start, out=begins[done : done + len(inside)])
        done += len(inside)
    return keys, begins


def _keys_of(tokens: Ints, size: int) -> Keys:
    """Keys of all windows of ``size`` symbols, whatever chain they are in."""
    with np.errstate(over="ignore"):
        power = mixed(tokens.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15))
        keys, done, width, rest = None, 0, 1, size
        while rest:
            if rest & 1:
                if keys is None:
                    keys, done = power, width
                else:
                    m = min(len(keys), len(power) - done) if len(power) > done else 0
                    keys = mixed(keys[:m] * np.uint64(0xD6E8FEB86659FD93) + power[done : done + m])
                    done += width
            rest >>= 1
            if rest:
                m = max(len(power) - width, 0)
                power = mixed(power[:m] * np.uint64(0xD6E8FEB86659FD93) + power[width : width + m])
                width *= 2
    assert keys is not None
    return keys


def shared_windows(tokens: Ints, offsets: Longs, size: int) -> Longs:
    """Indices where a window of ``size`` symbols begins that occurs in at least two chains, ascending."""
    keys, begins = window_keys(tokens, offsets, size)
    if not len(keys):
        return begins
    chain = np.repeat(np.arange(len(offsets) - 1, dtype=np.int32), np.diff(offsets))
    shared = np.zeros(len(keys), np.bool_)
    for part in _divided(keys):
        mine = keys[part]
        order = np.argsort(mine)
        mine = mine[order]
        same = mine[1:] == mine[:-1]
        # Most windows of real text are unique: only the repeated ones are looked at further.
        repeated = np.flatnonzero(np.append(same, False) | np.append(False, same))
        if not len(repeated):
            continue
        heads = np.flatnonzero(np.append(True, mine[repeated][1:] != mine[repeated][:-1]))
        member = part[order[repeated]]
        owner = chain[begins[member]]
        several = np.minimum.reduceat(owner, heads) != np.maximum.reduceat(owner, heads)
        shared[member] = np.repeat(several, np.diff(np.append(heads, len(member))))
    return begins[shared]


def _divided(keys: Keys) -> Iterable[Longs]:
    """Indices of the keys in parts of about :data:`_PART`, equal keys in one part: by their leading bits, with a radix sort."""
    bits = min(max(len(keys).bit_length() - _PART.bit_length(), 0), 16)
    if not bits:
        yield np.arange(len(keys))
        return
    leading = (keys >> np.uint64(64 - bits)).astype(np.uint16)
    order = np.argsort(leading, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(leading, minlength=1 << bits))])
    for a, b in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        yield order[a:b]


def covered(n: int, begins: Longs, sizes: Longs | int) -> Bools:
    """Which of ``n`` symbols lie under the windows that begin at ``begins`` and are ``sizes`` long."""
    reach = np.zeros(n, np.int32)
    ends = (begins + sizes).astype(np.int32)
    if isinstance(sizes, int):
        reach[begins] = ends
    else:
        np.maximum.at(reach, begins, ends)
    under: Bools = np.maximum.accumulate(reach) > np.arange(n, dtype=np.int32)
    return under


def coverage(tokens: Ints, offsets: Longs, size: int) -> float:
    """Share of the symbols that lie in a repeat of at least ``size`` symbols shared by two chains, in [0, 1].

    A repeat of ``size`` or more is covered by its windows of exactly ``size``, so no suffix array is needed.
    """
    if not len(tokens):
        return 0.0
    return float(covered(len(tokens), shared_windows(tokens, offsets, size), size).mean())


# --------------------------------------------------------------------------------------------------------------------
# Nulls
# --------------------------------------------------------------------------------------------------------------------


def context_ranks(tokens: Ints, offsets: Longs, size: int) -> Longs:
    """For each index a dense number of the last ``size`` symbols up to here, fewer where the chain begins later.

    Equal numbers mean equal symbols and equal depth. Numbers follow the symbols, not the order of the chains.
    """
    n = len(tokens)
    if n == 0:
        return np.empty(0, np.int64)
    depth = np.arange(n, dtype=np.int64) - np.repeat(offsets[:-1], np.diff(offsets))
    _, ranks = np.unique(tokens, return_inverse=True)
    base = ranks.astype(np.int64)
    width = int(base.max()) + 1
    result = base
    for back in range(1, size):
        # The symbol `back` places earlier, or the marker `width` before the chain begins.
        earlier = np.where(depth >= back, base[np.maximum(np.arange(n) - back, 0)], width)
        _, inverse = np.unique(result * (width + 1) + earlier, return_inverse=True)
        result = inverse.astype(np.int64)
    return result


def markov_resample(tokens: Ints, offsets: Longs, order: int, seed: int) -> tuple[Ints, Longs]:
    """As many symbols as the corpus has, drawn from its order-``order`` Markov chain, with ends of chains drawn too.

    Each step goes to a random occurrence of the last ``order`` symbols and takes what follows it there. Many walkers
    advance at once; the last chain of each may be cut.
    """
    n = len(tokens)
    rng = np.random.default_rng(seed)
    context = context_ranks(tokens, offsets, order)
    group_order = np.argsort(context, kind="stable")
    size = np.bincount(context)
    begin = np.concatenate([[0], np.cumsum(size)[:-1]])
    last = np.zeros(n, np.bool_)
    full = np.diff(offsets) > 0
    last[offsets[1:][full] - 1] = True
    heads = offsets[:-1][full]
    rounds = min(max(int(np.ceil(np.sqrt(n))), 64), 2048, n)
    walkers = -(-n // rounds)
    drawn = np.empty((rounds, walkers), np.int64)
    opens = np.zeros((rounds, walkers), np.bool_)
    opens[0] = True
    at = heads[rng.integers(0, len(heads), walkers)]
    drawn[0] = at
    for row in range(1, rounds):
        group = context[at]
        twin = group_order[begin[group] + (rng.random(walkers) * size[group]).astype(np.int64)]
        ended = last[twin]
        at = np.where(ended, heads[rng.integers(0, len(heads), walkers)], np.minimum(twin + 1, n - 1))
        drawn[row], opens[row] = at, ended
    flat = drawn.T.reshape(-1)[:n]
    starts = np.flatnonzero(opens.T.reshape(-1)[:n])
    return tokens[flat], np.append(starts, n).astype(np.int64)


def shuffled(tokens: Ints, offsets: Longs, seed: int, *, within: bool) -> Ints:
    """Symbols shuffled within each chain, or over the whole corpus with the lengths of the chains kept."""
    rng = np.random.default_rng(seed)
    if not within:
        return rng.permutation(tokens)
    chain = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return tokens[np.lexsort((rng.random(len(tokens)), chain))]
