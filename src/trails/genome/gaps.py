"""Gaps: what a course withholds so that the way from one section to another has to be bridged, and the audit that it is gone.

What ``withhold`` selects is taken out of the whole course: a chain that is selected as a whole goes, a chain of which steps are
selected ends before the first of them. Then every other chain of the course is compared with each withheld step, and a chain
that holds it in other words ends before the step that does. Three comparisons:

- ``13-gram``: thirteen tokens in a row (all tokens of a withheld step that has fewer, but at least :data:`MIN_GRAM`); words in
  place of tokens where a token is a byte or a character (a vocabulary below :data:`SMALL`)
- ``entity pair``: two entities that the withheld step brings together, in one step. Entities are numbers, names (a capital
  letter inside a sentence) and words that few chains of the course have (:data:`RARE`); a pair that the chain itself brings
  together before the withheld step is not the bridge
- ``near neighbour``: a step that holds at least :data:`NEAR` of the withheld step's words, each weighted by its rarity

The audit reports its own recall on leaks that it plants, and how often it stops other steps. Planted leaks are made in the ways
that it looks for; a paraphrase in entirely other words is not found, and nothing here says how many there are.
"""

from __future__ import annotations

import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from trails.export.split import GRAM
from trails.export.subgraph import Part
from trails.genome.shelf import Int64, Shelf
from trails.genome.words import stems, words

NEAR = 0.6
RARE = 0.02
MIN_GRAM = 6
SMALL = 1_000
MIN_STEMS = 3
PLANTED = 100
CHECKS = ("13-gram", "entity pair", "near neighbour")

_CAPITAL = re.compile(r"(?<=[^.!?…:\s]\s)[A-ZА-ЯЁ]\w{2,}")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True, slots=True)
class Piece:
    """A withheld step: its text and tokens, the text before it, the pairs that its own chain brings together before it, and the
    question of the chain."""

    chain: int
    step: int
    text: str
    tokens: tuple[int, ...]
    before: str
    own: frozenset[tuple[str, str]] = frozenset()
    question: str = ""


@dataclass(frozen=True, slots=True)
class Recall:
    """Share of planted leaks that a check finds, and of other steps that it stops, with their numbers."""

    check: str
    found: int
    planted: int
    stopped: int
    others: int


@dataclass(slots=True)
class Withheld:
    """What a gap took out of the course. ``cut`` maps a chain to the number of its steps that stay (0: none does);
    ``leaks`` counts chains stopped by each check, ``unseen`` withheld steps that a check cannot look for.
    """

    between: tuple[str, str]
    withhold: str
    expect: str
    pieces: list[Piece]
    cut: dict[int, int]
    selected: int = 0
    leaks: Counter[str] = field(default_factory=Counter)
    leaking: int = 0
    unseen: Counter[str] = field(default_factory=Counter)
    recall: tuple[Recall, ...] = ()
    left: int = 0


def withhold(
    shelf: Shelf,
    course: Int64,
    selected: tuple[Int64, Mapping[int, Part]],
    between: tuple[str, str],
    text: str,
    expect: str,
    *,
    seed: int = 0,
) -> Withheld:
    """Take a selection out of the chains of a course (ascending numbers), with everything in which it is left.

    Deterministic for a seed, in whatever order the chains were stored.
    """
    rows, parts = selected
    rows = rows[np.isin(rows, course)]
    found = Withheld(between, text, expect, [], {}, selected=len(rows))
    for row, item in sorted(shelf.texts(rows)):
        steps = _steps(item)
        part = parts.get(row)
        mine = (
            range(len(steps)) if part is None else sorted({*part.steps, *_steps_of(part.tokens, item["step_tokens"])})
        )
        mine = [step for step in mine if step < len(steps)]
        if not mine:
            continue
        found.cut[row] = 0 if part is None else mine[0]
        tokens = _units(shelf, steps, item)
        own = frozenset(pair for step in steps[: found.cut[row]] for pair in _pairs(_stems_set(step)))
        for step in mine:
            before = " ".join(steps[:step])[-400:]
            piece = Piece(row, step, steps[step], tuple(tokens[step]), before, own, item["question"] or "")
            found.pieces.append(piece)
    audit = Audit(shelf, course, found.pieces)
    found.unseen = audit.unseen
    stopped: Counter[str] = Counter()
    families = {int(shelf.family[piece.chain]) for piece in found.pieces} - {_no_family(shelf)}
    for row, steps, tokens, question in audit.candidates():
        stays = found.cut.get(row, len(steps))
        if not stays:
            continue
        leaking = audit.leaks(steps[:stays], tokens[:stays])
        asked = audit.leaks([question], [[]]) if question else []
        if int(shelf.family[row]) not in families:
            stopped.update({check for _, check in leaking})
        if not leaking and not asked:
            continue
        found.leaking += 1
        found.leaks.update({check for _, check in (*leaking, *asked)})
        found.cut[row] = 0 if asked else min(leaking)[0]
    sample = _sample(course, shelf, found.cut, seed)
    others = [(steps, tokens) for _, steps, tokens, _ in audit.read(sample)]
    found.recall = audit.recall(found.pieces, others, stopped, _n_outside(shelf, course, families), seed)
    found.left = sum(
        bool(audit.leaks(steps[: found.cut.get(row, len(steps))], tokens[: found.cut.get(row, len(steps))]))
        for row, steps, tokens, _ in audit.candidates()
    )
    return found


def _no_family(shelf: Shelf) -> int:
    return shelf.families.index("") if "" in shelf.families else -1


def _n_outside(shelf: Shelf, course: Int64, families: set[int]) -> int:
    return int((~np.isin(shelf.family[course], sorted(families))).sum())


def _sample(course: Int64, shelf: Shelf, cut: Mapping[int, int], seed: int) -> Int64:
    left = course[~np.isin(course, list(cut))]
    return np.sort(shelf.arranged(left, "shuffled", seed)[:PLANTED]) if len(left) else left


def _steps(item: Mapping[str, Any]) -> list[str]:
    return [item["text"][step["start"] : step["end"]] for step in item["steps"]]


def _units(shelf: Texts, steps: Sequence[str], item: Mapping[str, Any]) -> list[list[int]]:
    """What grams are counted in, step by step: tokens, or numbers that stand for words where tokens are smaller than words."""
    if shelf.run.vocab_size >= SMALL:
        spans = np.asarray(item["step_tokens"]).reshape(-1, 2).tolist()
        return [list(item["token_ids"][first:last]) for first, last in spans]
    return [[zlib.crc32(word.encode()) for word in words(step)] for step in steps]


def _steps_of(spans: Iterable[tuple[int, int]], step_tokens: Sequence[Any]) -> list[int]:
    """Steps in which token spans lie."""
    flat = np.asarray(step_tokens).reshape(-1, 2)
    return [step for step, (first, last) in enumerate(flat.tolist()) if any(a < last and b > first for a, b in spans)]


def _stems_set(text: str) -> frozenset[str]:
    return frozenset(stems(text))


def _pairs(words: Iterable[str]) -> Iterator[tuple[str, str]]:
    ordered = sorted(words)
    return ((a, b) for i, a in enumerate(ordered) for b in ordered[i + 1 :])


class Texts(Protocol):
    """Chains by number, as an audit reads them: those of a shelf, or any others. ``run`` has the ``vocab_size``."""

    run: Any

    def texts(self, rows: Int64) -> Iterator[tuple[int, dict[str, Any]]]:
        """As :meth:`trails.genome.shelf.Shelf.texts`."""


class Audit:
    """The three checks for the withheld steps ``pieces`` in the chains of a course. ``near`` is the share of a withheld step's
    words, by their rarity, from which another step is a near neighbour.
    """

    def __init__(self, shelf: Texts, course: Int64, pieces: Sequence[Piece], *, near: float = NEAR) -> None:
        self._shelf, self._course, self._least = shelf, course, near
        self.unseen: Counter[str] = Counter()
        self._words = [_stems_set(piece.text) for piece in pieces]
        vocabulary = frozenset().union(*self._words)
        self._grams = self._gram_table(pieces)
        self._shared: set[int] = set()
        self._by_gram: set[int] = set()
        counts: Counter[str] = Counter()
        for row, item in shelf.texts(course) if pieces else ():
            shared = vocabulary & _stems_set(f"{item['question']} {item['text']}")
            counts.update(shared)
            if len(shared) > 1:
                self._shared.add(row)
            if self._gram_places(_units(shelf, _steps(item), item)):
                self._by_gram.add(row)
        n = max(len(course), 1)
        self._weight = {word: math.log((n + 1) / (counts[word] + 0.5)) for word in vocabulary}
        named = frozenset(
            stem
            for piece in pieces
            for match in (*_CAPITAL.findall(piece.text), *_NUMBER.findall(piece.text))
            for stem in stems(match)
        )
        few = max(RARE * n, 2)
        self._entities = frozenset(word for word in vocabulary if counts[word] <= few or word in named)
        self._pairs: set[tuple[str, str]] = set()
        self._index: dict[str, list[int]] = {}
        self._total: list[float] = []
        for number, (piece, own) in enumerate(zip(pieces, self._words, strict=True)):
            pairs = {pair for pair in _pairs(own & self._entities) if pair not in piece.own}
            self._pairs |= pairs
            self._total.append(sum(self._weight[word] for word in sorted(own)))
            if len(own) >= MIN_STEMS:
                for word in own:
                    self._index.setdefault(word, []).append(number)
            self.unseen["entity pair"] += not pairs
            self.unseen["near neighbour"] += len(own) < MIN_STEMS
            self.unseen["13-gram"] += len(piece.tokens) < MIN_GRAM

    def _gram_table(self, pieces: Sequence[Piece]) -> dict[int, set[tuple[int, ...]]]:
        """The grams of all pieces, by their first unit."""
        found: dict[int, set[tuple[int, ...]]] = {}
        for piece in pieces:
            n = min(GRAM, len(piece.tokens))
            for at in range(len(piece.tokens) - n + 1) if n >= MIN_GRAM else ():
                found.setdefault(piece.tokens[at], set()).add(piece.tokens[at : at + n])
        return found

    def candidates(self) -> Iterator[tuple[int, list[str], list[list[int]], str]]:
        """Chains of the course that could hold a withheld step: number, steps, their tokens, question."""
        yield from self.read(np.array(sorted(self._shared | self._by_gram), np.int64))

    def read(self, rows: Int64) -> Iterator[tuple[int, list[str], list[list[int]], str]]:
        """Chains by number, in ascending order."""
        found = []
        for row, item in self._shelf.texts(rows) if len(rows) else ():
            steps = _steps(item)
            found.append((row, steps, _units(self._shelf, steps, item), item["question"] or ""))
        yield from sorted(found)

    def leaks(self, steps: Sequence[str], tokens: Sequence[Sequence[int]]) -> list[tuple[int, str]]:
        """Steps that hold a withheld step, each with the check that says so. A gram that crosses steps counts for the first."""
        found = [(step, "13-gram") for step in self._gram_places(tokens)]
        for step, text in enumerate(steps):
            own = _stems_set(text) & self._weight.keys()
            if len(own) < 2:
                continue
            if any(pair in self._pairs for pair in _pairs(own & self._entities)):
                found.append((step, "entity pair"))
            if self._near(own):
                found.append((step, "near neighbour"))
        return found

    def _gram_places(self, tokens: Sequence[Sequence[int]]) -> list[int]:
        """Steps in which a gram of a piece begins."""
        flat = [token for step in tokens for token in step]
        ends = np.cumsum([len(step) for step in tokens])
        places = [
            at
            for at, token in enumerate(flat)
            if any(tuple(flat[at : at + len(gram)]) == gram for gram in self._grams.get(token, ()))
        ]
        return sorted(set(np.searchsorted(ends, places, side="right").tolist()))

    def _near(self, own: frozenset[str]) -> bool:
        covered: dict[int, float] = {}
        for word in sorted(own):  # a sum of floats, compared with a bound, does not hang on the order of a set
            for number in self._index.get(word, ()):
                covered[number] = covered.get(number, 0.0) + self._weight[word]
        return any(value >= self._least * self._total[number] > 0 for number, value in covered.items())

    def recall(
        self,
        pieces: Sequence[Piece],
        others: Sequence[tuple[list[str], list[list[int]]]],
        stopped: Mapping[str, int],
        n_outside: int,
        seed: int,
    ) -> tuple[Recall, ...]:
        """Plant every kind of leak into other chains, and count those that its check finds."""
        rng = np.random.default_rng(seed)
        chosen = rng.permutation(len(pieces))[:PLANTED].tolist()
        counts = {check: [0, 0] for check in CHECKS}
        for number in chosen if others else ():
            piece = pieces[number]
            steps, tokens = others[int(rng.integers(len(others)))]
            at = int(rng.integers(len(steps) + 1)) if steps else 0
            if len(piece.tokens) >= MIN_GRAM:
                planted = [*tokens[:at], list(piece.tokens), *tokens[at:]]
                counts["13-gram"][1] += 1
                counts["13-gram"][0] += any(check == "13-gram" for _, check in self.leaks([], planted))
            pairs = [pair for pair in _pairs(self._words[number] & self._entities) if pair not in piece.own]
            carrier = steps[at % len(steps)].split() if steps else []
            if pairs:
                a, b = pairs[int(rng.integers(len(pairs)))]
                sentence = " ".join([*carrier[:3], a, *carrier[3:], b])
                counts["entity pair"][1] += 1
                counts["entity pair"][0] += any(check == "entity pair" for _, check in self.leaks([sentence], [[]]))
            said = piece.text.split()
            if len(self._words[number]) >= MIN_STEMS:
                kept = [word for word in said if rng.random() > 0.25] or said
                reworded = " ".join([kept[i] for i in rng.permutation(len(kept))] + carrier[:4])
                counts["near neighbour"][1] += 1
                counts["near neighbour"][0] += any(
                    check == "near neighbour" for _, check in self.leaks([reworded], [[]])
                )
        return tuple(
            Recall(check, found, planted, stopped.get(check, 0), n_outside)
            for check, (found, planted) in counts.items()
        )
