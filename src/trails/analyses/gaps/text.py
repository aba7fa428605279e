"""What the text alone says of a seam: values that nobody stated, values that are carried on, new words.

In: a chain and its steps. Out: ``name → (S,)`` for every score of :data:`trails.analyses.gaps.kinds.SEAM_SCORES` that needs
neither a model nor other chains, NaN at step 0.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np

from trails.analyses.gaps.kinds import SEAM_SCORES
from trails.analyses.sequences import NUMBER, content_words
from trails.platform.arrays import Doubles
from trails.schema import Chain, Step


@cache
def number_words() -> Mapping[str, tuple[str, ...]]:
    """Values that a text states in words, from the lexicon files of every language (``segment/lexicons/values``)."""
    found: dict[str, tuple[str, ...]] = {}
    folder = resources.files("trails.segment") / "lexicons" / "values"
    for file in sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name):
        table = tomllib.loads(file.read_text(encoding="utf-8"))["values"]
        found |= {word: tuple(values) for word, values in table.items()}
    return found


_WORD = re.compile(r"[^\W\d_]+")
_RESULT = re.compile(r"[=≈]\s*[-−(]?\s*[$€£₽]?\s*$")


def _value(text: str) -> str:
    """Canonical form of a number: thousands separators and trailing zeros removed."""
    plain = re.sub(r"[ \u00a0]", "", text)
    if plain.count(",") and re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?", plain):
        plain = plain.replace(",", "")
    plain = plain.replace(",", ".")
    if plain.count(".") == 1:
        whole, _, part = plain.partition(".")
        part = part.rstrip("0")
        plain = f"{whole}.{part}" if part else whole
    return plain.lstrip("0") or "0" if "." not in plain else plain


@dataclass(frozen=True, slots=True)
class Value:
    """A number of a step: canonical value, character span in the chain's text, whether it stands right of an equals sign."""

    value: str
    start: int
    end: int
    result: bool


def values_in(text: str, start: int, end: int) -> list[Value]:
    found = []
    for match in NUMBER.finditer(text, start, end):
        before = text[max(start, match.start() - 8) : match.start()]
        found.append(Value(_value(match.group()), match.start(), match.end(), bool(_RESULT.search(before))))
    return found


def stated_values(text: str) -> set[str]:
    """Values that a text states, in digits or in words."""
    known = {_value(match.group()) for match in NUMBER.finditer(text)}
    for word in _WORD.findall(text.casefold()):
        known.update(number_words().get(word, ()))
    return known


def _derivable(value: str, known: Sequence[float]) -> bool:
    """Whether one of + - × ÷ on two known values, or a percentage of one, gives the value."""
    try:
        target = float(value)
    except ValueError:
        return False
    for a in known:
        if math.isclose(target * 100, a, rel_tol=1e-6) or math.isclose(target, 100 - a, rel_tol=1e-6):
            return True
        for b in known:
            if math.isclose(a + b, target, rel_tol=1e-6) or math.isclose(a * b, target, rel_tol=1e-6):
                return True
            if math.isclose(a - b, target, rel_tol=1e-6) or (b and math.isclose(a / b, target, rel_tol=1e-6)):
                return True
    return False


def _stems(text: str) -> set[str]:
    return set(content_words(text))


_TEXT = tuple(score.name for score in SEAM_SCORES if not score.model and score.name != "role_bigram")
_LOOKAHEAD = 8
"""Steps ahead in which an ungrounded value may show that a step is missing here."""


def text_scores(chain: Chain, steps: Sequence[Step]) -> dict[str, Doubles]:
    """Scores of the seams that need no model, role bigram left out: ``name → (S,)``, NaN at step 0."""
    n = len(steps)
    result = {name: np.full(n, np.nan) for name in _TEXT}
    parts = [chain.text[step.start : step.end] for step in steps]
    values = [values_in(chain.text, step.start, step.end) for step in steps]
    stated = [stated_values(part) for part in parts]
    stems = [_stems(part) for part in parts]
    known, words = stated_values(chain.question), _stems(chain.question)
    later: list[set[str]] = [set() for _ in range(n + 1)]
    for index in range(n - 1, -1, -1):
        later[index] = later[index + 1] | {value.value for value in values[index]}
    fresh: list[set[str]] = []
    lacking: list[set[str]] = [set() for _ in range(n)]
    for index in range(n):
        fresh.append({value.value for value in values[index]} - known)
        if index:
            operands = {value.value for value in values[index] if not value.result}
            missing = lacking[index] = operands - known
            if values[index]:
                result["ungrounded"][index] = len(missing)
                numbers = [float(k) for k in known if re.fullmatch(r"\d+(\.\d+)?", k)][:60]
                result["underivable"][index] = sum(not _derivable(value, numbers) for value in sorted(missing))
            if fresh[index - 1]:
                result["dangling"][index] = len(fresh[index - 1] - later[index]) / len(fresh[index - 1])
                result["passed_over"][index] = len(fresh[index - 1] - stated[index]) / len(fresh[index - 1])
            if stems[index]:
                result["new_words"][index] = len(stems[index] - words) / len(stems[index])
            have = stems[index] | stated[index]
            if have:
                result["unlinked"][index] = len(have - stems[index - 1] - stated[index - 1]) / len(have)
        known |= stated[index]
        words |= stems[index]
    waiting: set[str] = set()
    for index in range(n - 1, 0, -1):
        if any(values):
            result["pending"][index] = len(waiting - lacking[index])
        waiting |= lacking[index]
    result["question_jump"] = _question_jump(chain.question, stems)
    if any(values):
        operands_of = [[value.value for value in step if not value.result] for step in values]
        for index in range(1, n):
            results = fresh[index - 1] | {value.value for value in values[index - 1] if value.result}
            result["uncarried"][index] = not results & set(operands_of[index])
        result["expected_here"] = _expected_here(operands_of, fresh, lacking)
        used = [{value.value for value in step} | words_ for step, words_ in zip(values, stated, strict=True)]
        at = _question_values(chain.question)
        unused = {value: place for value, place in at.items() if not any(value in step for step in used)}
        result["from_previous"], result["from_unused"] = _one_operation(chain.question, used, fresh, lacking, unused)
        if at:
            result["skipped_values"] = _skipped(at, unused, used)
    return result


def ungrounded_values(chain: Chain, steps: Sequence[Step]) -> list[list[str]]:
    """For each step (S) the values it uses, results left out, that neither the question nor an earlier step states; none for
    step 0. ``ungrounded`` of :func:`text_scores` counts them."""
    known = stated_values(chain.question)
    found: list[list[str]] = []
    for index, step in enumerate(steps):
        operands = {value.value for value in values_in(chain.text, step.start, step.end) if not value.result}
        found.append(sorted(operands - known) if index else [])
        known |= stated_values(chain.text[step.start : step.end])
    return found


def _question_values(question: str) -> dict[str, int]:
    """Values of the question, in digits or words, with the place where each stands first."""
    found = [(match.start(), _value(match.group())) for match in NUMBER.finditer(question)]
    for word in _WORD.finditer(question.casefold()):
        found += [(word.start(), value) for value in number_words().get(word.group(), ())[:1]]
    places: dict[str, int] = {}
    for place, value in sorted(found):
        places.setdefault(value, place)
    return places


def _question_jump(question: str, stems: Sequence[set[str]]) -> Doubles:
    """How far in the question this step's place lies behind that of the step before, as a share of its length; 0 if it does
    not. A step's place is the median place of its content words that the question has once.
    """
    places: dict[str, list[int]] = {}
    for match in _WORD.finditer(question):
        if len(match.group()) > 3:
            places.setdefault(match.group().casefold()[:5], []).append(match.start())
    once = {word: at[0] for word, at in places.items() if len(at) == 1}
    middle = [float(np.median(found)) if (found := [once[w] for w in step if w in once]) else None for step in stems]
    jumps = np.full(len(stems), np.nan)
    for index in range(1, len(stems)):
        before, here = middle[index - 1], middle[index]
        jumps[index] = max(here - before, 0.0) / len(question) if before is not None and here is not None else 0.0
    return jumps


def _expected_here(
    operands: Sequence[Sequence[str]], fresh: Sequence[set[str]], lacking: Sequence[set[str]]
) -> Doubles:
    """Ungrounded operands shared out over the seams where their step may have stood.

    Sums name their terms in the order in which they were found, so a lacking operand comes from between the steps that found
    its neighbours in the expression. Without such a neighbour it comes from right before the step that uses it.
    """
    n = len(operands)
    result = np.zeros(n)
    result[:1] = np.nan

    def origin(value: str, before: int) -> int | None:
        return next((index for index in range(before - 1, -1, -1) if value in fresh[index]), None)

    for index in range(1, n):
        for k, value in enumerate(operands[index]):
            if value not in lacking[index]:
                continue
            left = origin(operands[index][k - 1], index) if k else None
            right = origin(operands[index][k + 1], index) if k + 1 < len(operands[index]) else None
            low = left + 1 if left is not None else 1 if right is not None else index
            high = right if right is not None and right >= low else index
            result[low : high + 1] += 1 / (high - low + 1)
    return result


def _skipped(at: Mapping[str, int], unused: Mapping[str, int], used: Sequence[set[str]]) -> Doubles:
    """Unused values of the question that stand between those of the nearest step before the seam and of the step after it.

    A value that several steps use places none of them.
    """
    n = len(used)
    times = Counter(value for step in used for value in step)
    places = [sorted(at[value] for value in step if value in at and times[value] == 1) for step in used]
    result = np.full(n, np.nan)
    for index in range(1, n):
        low = next((step[-1] for step in places[index - 1 :: -1] if step), -1)
        after = next((step for step in places[index:] if step), None)
        high = math.inf
        if after is not None:
            edge = after[0] if after[0] > low else after[-1]
            high = edge if edge > low else math.inf
        result[index] = sum(low < place < high for place in unused.values())
    return result


def _numbers(values: Iterable[str]) -> Doubles:
    return np.array(sorted(float(v) for v in values if re.fullmatch(r"\d+(\.\d+)?", v)))


def _one_operation(
    question: str,
    used: Sequence[set[str]],
    fresh: Sequence[set[str]],
    lacking: Sequence[set[str]],
    unused: Iterable[str],
) -> tuple[Doubles, Doubles]:
    """Ungrounded values of this step and the next few that + - × ÷ (or a percentage) gives from two values known before the
    seam: one of them new in the step before, or one of them in the question and used by no step.
    """
    n = len(used)
    previous, left_over = np.full(n, np.nan), np.full(n, np.nan)
    known, spare = stated_values(question), _numbers(unused)

    def reachable(one: Doubles, two: Doubles) -> Doubles:
        a, b = one[:, None], two[None, :]
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.concatenate([(a + b), (a * b), (a - b), (b - a), (a / b), (b / a), (a * b / 100)], axis=None)
        return np.sort(found[np.isfinite(found)])

    for index in range(1, n):
        known = known | used[index - 1]
        # Sixty values are enough to say what can be reached; with more, everything can.
        base = _numbers(known)[:60]
        sets = ((previous, reachable(_numbers(fresh[index - 1]), base)), (left_over, reachable(spare, base)))
        targets = _numbers(value for step in lacking[index : index + _LOOKAHEAD] for value in step)
        for result, values in sets:
            if len(values) and len(targets):
                close = np.minimum(np.searchsorted(values, targets * (1 - 1e-6)), len(values) - 1)
                result[index] = float((np.abs(values[close] - targets) <= 1e-6 * targets).sum())
            else:
                result[index] = 0.0
    return previous, left_over
