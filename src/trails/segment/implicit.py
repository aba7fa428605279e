"""What a step without a connective probably does: implicit roles, from a small classifier that ships as a data file.

In: the text of a chain and its steps. Out: the same steps, those of role NONE with ``implicit_role`` and ``implicit_p``. The
classifier is a multinomial logistic regression over position, explicit roles of the neighbours and content; its weights are
``implicit.json``, made by ``scripts/train_implicit.py`` from steps whose connective was deleted. No model is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from trails.platform.arrays import Doubles
from trails.schema import Chain, Role, Step

_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_LIST = re.compile(r"\s*(?:[-*•–—]\s|\(?\d{1,3}[.)]\s|#{1,6}\s)")

NEIGHBOURS = ("START", *(role.value for role in Role), "END")
"""Values of a neighbour's role."""

WORDS: Mapping[str, Mapping[str, frozenset[str]]] = {
    "en": {
        "negation": frozenset(["not", "no", "never", "none", "nothing", "cannot", "neither", "nor", "without"]),
        "past": frozenset(
            ["was", "were", "had", "did", "gave", "took", "went", "made", "bought", "sold", "said", "found", "became"]
        ),
        "future": frozenset(["will", "would", "shall", "going"]),
        "modal": frozenset(["must", "can", "could", "should", "may", "might", "need", "needs", "have"]),
        "deictic": frozenset(["this", "that", "these", "those", "it", "such", "here", "they"]),
        "plan": frozenset(["let", "let's", "i'll", "we'll", "i", "we", "maybe", "perhaps"]),
        "total": frozenset(["total", "altogether", "all", "sum", "together", "overall", "answer", "finally", "result"]),
        "degree": frozenset(
            ["too", "more", "most", "very", "only", "even", "just", "already", "also", "still", "less"]
        ),
    },
    "ru": {
        "negation": frozenset(["не", "нет", "ни", "никогда", "ничего", "никто", "нельзя", "без"]),
        "past": frozenset(["был", "была", "было", "были", "стал", "стала", "стали"]),
        "future": frozenset(["будет", "будут", "буду", "будем", "бы"]),
        "modal": frozenset(
            ["может", "могут", "можно", "должен", "должна", "должны", "надо", "нужно", "необходимо", "следует"]
        ),
        "deictic": frozenset(
            [
                "это",
                "этот",
                "эта",
                "эти",
                "этого",
                "этой",
                "этих",
                "такой",
                "такая",
                "такие",
                "он",
                "она",
                "они",
                "оно",
                "там",
                "тут",
                "здесь",
            ]
        ),
        "plan": frozenset(["давайте", "я", "мы", "пусть", "возможно", "рассмотрим", "попробуем"]),
        "total": frozenset(["всего", "вместе", "итог", "ответ", "результат", "все", "всё"]),
        "degree": frozenset(
            ["слишком", "более", "очень", "только", "даже", "уже", "ещё", "еще", "тоже", "также", "самый"]
        ),
    },
}
"""Words of content that the features count, by language. A language without them has the other features only."""

CONTENT = (
    *(
        "long",
        "short",
        "numbers",
        "equation",
        "new number",
        "known numbers",
        "ends in number",
        "list item",
        "question mark",
    ),
    *("repeats previous", "repeats earlier", "new words", "capital names", "formula", "past ending"),
    *WORDS["en"],
)
POSITION = ("first", "second", "last", "place", "length of the chain", "in one line with the step before")


def feature_names() -> tuple[str, ...]:
    """Names of the features, in order: position and neighbours first, then content."""
    sides = (f"{side} {value}" for side in ("before", "two before", "after") for value in NEIGHBOURS)
    return (*POSITION, *sides, *CONTENT)


N_STRUCTURE = len(POSITION) + 3 * len(NEIGHBOURS)
"""Features of position and neighbours, without content: what the neighbours-only baseline sees."""


@dataclass(slots=True)
class _Read:
    """What the features need of one step's words."""

    words: list[str]
    numbers: set[str]


def _read(text: str) -> _Read:
    return _Read([word.lower() for word in _WORD.findall(text)], set(_NUMBER.findall(text)))


def features(text: str, steps: Sequence[Step], language: str, bodies: Mapping[int, str] | None = None) -> Doubles:
    """Features of every step, shape (S, features). ``bodies`` gives other texts for some steps: those without connective."""
    count = len(steps)
    names = feature_names()
    result = np.zeros((count, len(names)))
    if not count:
        return result
    sets = WORDS.get(language, {})
    roles = [step.role.value for step in steps]
    texts = [text[step.start : step.end] for step in steps]
    if bodies:
        for index, body in bodies.items():
            texts[index] = body
    read = [_read(one) for one in texts]
    seen_numbers: set[str] = set()
    seen_words: set[str] = set()
    position = {value: place for place, value in enumerate(NEIGHBOURS)}
    width = len(NEIGHBOURS)
    for i, one in enumerate(read):
        row = result[i]
        lined = i > 0 and "\n" not in text[steps[i - 1].start : steps[i].start].lstrip("\n")
        row[: len(POSITION)] = (i == 0, i == 1, i == count - 1, i / max(count - 1, 1), np.log(count) / 4, lined)
        before = roles[i - 1] if i else "START"
        two = roles[i - 2] if i > 1 else "START"
        after = roles[i + 1] if i + 1 < count else "END"
        for side, value in enumerate((before, two, after)):
            row[len(POSITION) + side * width + position[value]] = 1
        words, body = one.words, texts[i].strip()
        n = max(len(words), 1)
        unique = set(words)
        long_words = {word for word in unique if len(word) > 3}
        previous = set(read[i - 1].words) if i else set()
        fresh = one.numbers - seen_numbers
        content = [
            min(np.log1p(len(words)) / 4, 1.5),
            len(words) < 4,
            min(len(one.numbers) / 4, 2),
            "=" in body,
            bool(fresh),
            len(one.numbers & seen_numbers) / max(len(one.numbers), 1),
            bool(re.search(r"\d[^\w]*$", body[-12:])),
            bool(_LIST.match(body)),
            body.endswith("?"),
            len(long_words & previous) / max(len(long_words), 1),
            len(long_words & seen_words) / max(len(long_words), 1),
            len(long_words - seen_words) / n,
            len(re.findall(r"(?<=[^.!?\s] )[A-ZА-ЯЁ]", body)) / n,
            "$" in body or "\\" in body,
            sum(word.endswith(("ed", "л", "ла", "ло", "ли")) and len(word) > 3 for word in words) / n,
            *(len(unique & sets[name]) / 2 if name in sets else 0.0 for name in WORDS["en"]),
        ]
        row[N_STRUCTURE:] = content
        seen_numbers |= one.numbers
        seen_words |= long_words
    return result


@dataclass(frozen=True, slots=True)
class Classifier:
    """Weights (features + 1, classes) of one language, the constant last; ``temperature`` divides the scores."""

    roles: tuple[str, ...]
    weights: Doubles
    temperature: float

    def probabilities(self, rows: Doubles) -> Doubles:
        """Probabilities of the classes, shape (rows, classes); rows sum to 1."""
        scores = (rows @ self.weights[:-1] + self.weights[-1]) / self.temperature
        scores -= scores.max(axis=1, keepdims=True)
        shares = np.exp(scores)
        return np.asarray(shares / shares.sum(axis=1, keepdims=True))


@cache
def classifiers() -> Mapping[str, Classifier]:
    """The packaged classifiers by language."""
    file = resources.files("trails.segment") / "implicit.json"
    table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    names = list(feature_names())
    if table["features"] != names:
        raise ValueError(
            "implicit.json was made for other features. Run: python scripts/train_implicit.py --data FOLDER"
        )
    return {
        language: Classifier(tuple(one["roles"]), np.array(one["weights"], np.float64), float(one["temperature"]))
        for language, one in table["languages"].items()
    }


def with_implicit(chain: Chain, steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps with the likeliest implicit role and its probability, rounded to 4 digits, where the role is NONE.

    The first step has none: a role relates a step to what came before. A language without a classifier gives none.
    """
    known = classifiers().get(chain.language)
    asked = [step.index for step in steps if step.role is Role.NONE and step.index > 0]
    if known is None or not asked:
        return tuple(steps)
    shares = known.probabilities(features(chain.text, steps, chain.language)[asked])
    best = shares.argmax(axis=1)
    found = {
        index: (known.roles[k], round(float(row[k]), 4)) for index, k, row in zip(asked, best, shares, strict=True)
    }
    return tuple(
        replace(step, implicit_role=found[step.index][0], implicit_p=found[step.index][1])
        if step.index in found
        else step
        for step in steps
    )
