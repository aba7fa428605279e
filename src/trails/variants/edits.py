"""Text edits of a chain in its model's vocabulary: one function per kind, in the table :data:`KINDS`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TypeAlias

import numpy as np

from trails.errors import UsageError
from trails.measure.base import Segmented
from trails.measure.context import Contexts
from trails.measure.tokens import Encoded
from trails.platform.text import counted

MARKERS = ("[ANCHOR]", "[SHIFT]", "[HIGHLIGHT]", "→ summary:")
"""Markers by name; in the vocabulary of a base model each takes several tokens."""

Likely: TypeAlias = tuple[int, int, str]
"""Another word that the model finds likely: position of the token it replaces, token id, text."""

_WORD = re.compile(r"[^\W\d_]{3,}")

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
class Candidate:
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


class Maker:
    """Text edits of one chain, in a fixed order, as candidates within the bound."""

    def __init__(self, contexts: Contexts, item: Segmented, options: VariantOptions) -> None:
        self.contexts, self.item, self.options = contexts, item, options
        self.text = item.chain.text
        self.encoded = self.encode(self.text, f"chain {item.chain.id}")
        self.base = tuple(self.encoded.ids.tolist())
        self.seen = {self.base}
        self.flaws: list[str] = []  # of each candidate; only rungs have one
        self.candidates: list[Candidate] = []
        self.dropped: dict[str, int] = {}

    def encode(self, text: str, what: str) -> Encoded:
        """Tokens of a text as the chain's own are made: names of control tokens under the policy of the run."""
        return self.contexts.text.encode(text, what, control_tokens=self.contexts.policy.control_tokens)

    @property
    def whole(self) -> int:
        """How many candidates are variants and not only rungs on the way to one."""
        return self.flaws.count("")

    def add(self, text: str, kind: str, detail: str, parent: int = -1, *, rung: bool = False) -> int:
        """Add a variant; its index, or -2 if it is empty, known, further from its parent than the bound, or broken (a ``rung``
        may be: it is measured, but no variant of its own)."""
        ids = tuple(self.contexts.text.ids(text, control_tokens=self.contexts.policy.control_tokens, what="a variant"))
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
        self.candidates.append(Candidate(text, kind, detail, parent, ids, edits, levenshtein(self.base, ids)))
        return len(self.candidates) - 1

    def ladder(self, texts: Iterable[str], kind: str, detail: str) -> None:
        """Add texts as rungs, each the parent of the next; stops where a rung is out of bound."""
        parent = -1
        for number, text in enumerate(texts, 1):
            parent = self.add(text, kind, f"{detail}, rung {number}", parent, rung=True)
            if parent == -2:
                return

    def words(self) -> list[re.Match[str]]:
        """Words of the chain, in a random order that the seed decides."""
        found = list(_WORD.finditer(self.text))
        generator = np.random.default_rng(self.options.seed)
        return [found[i] for i in generator.permutation(len(found))]

    def growing(self, marker: str) -> list[str]:
        """The marker in parts that grow by at most the bound of tokens, the last one whole."""
        encoded = self.encode(marker.strip(), "a marker")
        ends = [int(end) for end in encoded.end]
        stops = ends[self.options.max_edits - 1 :: self.options.max_edits]
        if not stops or stops[-1] != ends[-1]:
            stops.append(ends[-1])
        return [marker[:stop] + (" " if stop == ends[-1] else "") for stop in stops]

    def choose(self, likely: Sequence[Likely], wanted: int) -> None:
        """Fill up to ``wanted`` candidates, the kinds in turn; the chain itself comes first."""
        names = sorted(self.options.kinds, key=lambda kind: kind != "plain")
        open_kinds = {kind: KINDS[kind](self, likely) for kind in names}
        while open_kinds and self.whole < wanted:
            for kind in list(open_kinds):
                if next(open_kinds[kind], False) is False:
                    del open_kinds[kind]
                if self.whole >= wanted:
                    break


def _unchanged(maker: Maker, _: Sequence[Likely]) -> Iterator[None]:
    """The chain itself."""
    maker.add(maker.text, "plain", "the chain itself")
    yield


def _highlight(maker: Maker, likely: Sequence[Likely]) -> Iterator[None]:
    """One word marked: ``[HIGHLIGHT]`` before one as a ladder, then ``*word*`` or what of it keeps the bound."""
    words = maker.words()
    if words:
        first = words[0]
        rungs = [
            f"{maker.text[: first.start()]}{part}{maker.text[first.start() :]}"
            for part in maker.growing("[HIGHLIGHT] ")
        ]
        maker.ladder(rungs, "highlight", f"[HIGHLIGHT] before {first[0]!r}")
        yield
    for word in words:
        before, after = maker.text[: word.start()], maker.text[word.end() :]
        for marked in (f"*{word[0]}*", f"{word[0]}*", f"{word[0]} *"):  # the first that keeps the bound
            if maker.add(f"{before}{marked}{after}", "highlight", marked) >= 0:
                yield
                break


def _summary(maker: Maker, likely: Sequence[Likely]) -> Iterator[None]:
    """``→ summary:`` before a step, from the last step to the second, as a ladder."""
    for step in reversed(maker.item.steps[1:]):
        place = step.start + len(maker.text[step.start : step.end]) - len(maker.text[step.start : step.end].lstrip())
        rungs = [f"{maker.text[:place]}{part}{maker.text[place:]}" for part in maker.growing("→ summary: ")]
        maker.ladder(rungs, "summary", f"before step {step.index}")
        yield


def _drop_last(maker: Maker, likely: Sequence[Likely]) -> Iterator[None]:
    """The last line (without one: the last step) dropped, from its end, as a ladder of as many tokens as the bound."""
    stripped = maker.text.rstrip()
    cut = stripped.rfind("\n")
    cut = maker.item.steps[-1].start if cut < 0 else cut
    whole = stripped[:cut].rstrip()
    ends = [int(end) for end in maker.encoded.end if len(whole) < int(end) < len(maker.text)]
    stops = ends[::-1][maker.options.max_edits - 1 :: maker.options.max_edits]
    parent = -1
    for number, stop in enumerate([*stops, len(whole)], 1):
        if not stop:
            return
        parent = maker.add(
            maker.text[:stop],
            "drop_last",
            f"{counted(len(maker.text) - stop, 'character')}, rung {number}",
            parent,
            rung=True,
        )
        if parent == -2:
            return
        yield


def _json(maker: Maker, likely: Sequence[Likely]) -> Iterator[None]:
    """A JSON-like structure around each step, then around the chain."""
    spans = [(step.start, step.end, f"step {step.index}") for step in maker.item.steps]
    for start, end, what in [*spans, (0, len(maker.text), "the chain")]:
        inner = maker.text[start:end]
        lead, tail = len(inner) - len(inner.lstrip()), len(inner.rstrip())
        before, after = maker.text[:start], inner[tail:] + maker.text[end:]
        for left, right in (('{"', '"}'), ("{", "}"), ("[", "]")):  # inside or outside the space, in that order
            texts = (
                before + inner[:lead] + left + inner[lead:tail] + right + after,
                before + (" " if lead else "") + left + inner[:tail] + right + after,
            )
            if tail > lead and any(maker.add(text, "json", f"{left}…{right} around {what}") >= 0 for text in texts):
                yield
                break


def _synonym(maker: Maker, likely: Sequence[Likely]) -> Iterator[None]:
    """One word replaced by a likely one, verbs first."""
    encoded = maker.encoded
    for verb in (True, False):
        for position, _, word in likely:
            start, end = int(encoded.start[position]), int(encoded.end[position])
            old = maker.text[start:end]
            if (old.strip().lower() in _VERBS) is not verb:
                continue
            name = "verb" if verb else "word"
            if (
                maker.add(
                    maker.text[:start] + word + maker.text[end:],
                    "synonym",
                    f"{name} {old.strip()!r} → {word.strip()!r}",
                )
                >= 0
            ):
                yield


KINDS: dict[str, Callable[[Maker, Sequence[Likely]], Iterator[None]]] = {
    "plain": _unchanged,
    "highlight": _highlight,
    "summary": _summary,
    "drop_last": _drop_last,
    "json": _json,
    "synonym": _synonym,
}
"""The kinds by name: each adds one candidate (or ladder) to the maker every time it is advanced."""


@dataclass(frozen=True, slots=True)
class VariantOptions:
    """``count`` variants are wanted per chain; at most ``count`` + 8 are measured. ``budget`` is the largest volatility
    accepted (nats; None = no gate), ``max_edits`` the largest token edit distance to the parent. ``kinds`` limits the kinds;
    ``drift`` measures attention maps of accepted variants too (costs one full measurement each). ``whole`` refuses variants
    that break a word or a sentence (:func:`flaw`); as rungs of a ladder they are measured, and refused with that reason.
    ``accept`` are ids of variants that were made and refused, and are taken all the same; what becomes of the others is the
    same with and without it.
    """

    count: int = 50
    budget: float | None = 0.1
    max_edits: int = 2
    kinds: tuple[str, ...] = tuple(KINDS)
    seed: int = 0
    drift: bool = False
    whole: bool = True
    accept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raises UsageError for a kind that does not exist."""
        unknown = sorted(set(self.kinds) - set(KINDS))
        if unknown:
            raise UsageError(f"kind {unknown[0]!r} does not exist. Kinds: {', '.join(KINDS)}.")
