"""Gaps: seams where a step seems to be missing (the literature's *thought leap*, arXiv 2505.14684).

A seam lies before every step but the first. It gets a vector of scores; they are compared within a chain only, because easy
and hard chains differ more than seams do. Every score's worth is measured on the user's own corpus: remove one
interior step of each chain, measure what is left, and ask how often the true seam scores above another seam of the same
chain (AUC, 0.5 = chance). Two baselines stand beside it: the position alone, and all scores that need no model.

*The removed step is drawn uniformly from the interior, so that every seam of the shortened chain is equally likely to be the
true one: position alone then tells nothing by construction, and a score cannot profit from it.*
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trails.analyses.choice import (
    Rows,
    choose_ridge,
    cross_validated_choice,
    cross_validated_stack,
    fit_choice,
    fit_stacked,
    joined_rows,
)
from trails.analyses.score import Control, Score, Withheld, score_record, withheld_record
from trails.analyses.sequences import NUMBER, content_key, content_words, name_words, one_instrument
from trails.analyses.statistics import bootstrap, centred, ranks, spearman, within_group_auc, within_group_ranks
from trails.errors import UsageError
from trails.measure.base import MeasureOptions, Scorer, Segmented
from trails.platform.arrays import Doubles, Longs
from trails.schema import Chain, Role, Step, Trace, step_key
from trails.store.base import GraphBatch
from trails.store.rows import table_of

NOTE = "gap_calibration"
"""Name under which a run keeps its calibration among its notes."""

MIN_CHAINS = 20
"""Fewer chains than this with an interior step to remove: no AUC, no score."""


@dataclass(frozen=True, slots=True)
class SeamScore:
    """One way to score a seam. ``sign`` is +1 when a large value speaks for a gap, -1 when a small one does."""

    name: str
    model: bool
    sign: int
    unit: str
    meaning: str


SEAM_SCORES: tuple[SeamScore, ...] = (
    SeamScore("ungrounded", False, 1, "values", "values, results left out, found neither in the question nor earlier"),
    SeamScore(
        "underivable", False, 1, "values", "of these, the ones that no single operation on two known values gives"
    ),
    SeamScore("pending", False, 1, "values", "ungrounded values of later steps, which this seam may have lost too"),
    SeamScore("dangling", False, 1, "0..1", "share of the previous step's new values that no later step uses"),
    SeamScore("passed_over", False, 1, "0..1", "share of the previous step's new values that this step does not use"),
    SeamScore(
        "uncarried", False, 1, "0 or 1", "1 when no operand of this step is a value that the step before has found"
    ),
    SeamScore(
        "expected_here",
        False,
        1,
        "values",
        "ungrounded operands that, by the order of their expression, come from here",
    ),
    SeamScore(
        "from_previous", False, 1, "values", "ungrounded values, here or later, one operation from the last step's"
    ),
    SeamScore("from_unused", False, 1, "values", "the same from a value of the question that no step uses"),
    SeamScore(
        "skipped_values", False, 1, "values", "values of the question that the order of the steps passes over here"
    ),
    SeamScore(
        "question_jump", False, 1, "0..1", "share of the question between what the last step and this one speak of"
    ),
    SeamScore("new_words", False, 1, "0..1", "share of content words found neither in the question nor earlier"),
    SeamScore("unlinked", False, 1, "0..1", "share of words and values that the previous step does not have"),
    SeamScore("role_bigram", False, 1, "nats", "surprisal of the role given the role before, in the other chains"),
    SeamScore("surprisal_excess", True, 1, "nats per token", "surprisal minus that of the same tokens in other chains"),
    SeamScore("value_surprisal", True, 1, "nats per token", "mean surprisal of digits and names"),
    SeamScore("operand_surprisal", True, 1, "nats", "largest surprisal of a value, results left out"),
    SeamScore("ungrounded_surprisal", True, 1, "nats", "summed surprisal of the ungrounded values, 0 without any"),
    SeamScore("onset_surprisal", True, 1, "nats per token", "mean surprisal of the first five tokens"),
    SeamScore("context_gain", True, -1, "nats per token", "NLL given the question only minus NLL given everything"),
    SeamScore("premise_usefulness", True, -1, "nats per token", "NLL without the previous step minus NLL with it"),
    SeamScore("previous_attention", True, -1, "0..1", "attention mass on the previous step, mean over layers"),
)
NAMES = tuple(score.name for score in SEAM_SCORES)
NO_MODEL = tuple(score.name for score in SEAM_SCORES if not score.model)
MODEL = tuple(score.name for score in SEAM_SCORES if score.model)
_SIGN = {score.name: score.sign for score in SEAM_SCORES}


# --------------------------------------------------------------------------------------------------------------------
# What the text alone says
# --------------------------------------------------------------------------------------------------------------------

_NUMBER_WORDS: dict[str, tuple[str, ...]] = {
    # English
    **{
        w: (str(n),)
        for n, w in enumerate(("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"))
    },
    **{
        w: (str(n + 10),)
        for n, w in enumerate(("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"))
    },
    **{
        w: (str(n),) for n, w in ((17, "seventeen"), (18, "eighteen"), (19, "nineteen"), (20, "twenty"), (30, "thirty"))
    },
    **{w: (str(n),) for n, w in ((40, "forty"), (50, "fifty"), (60, "sixty"), (100, "hundred"), (1000, "thousand"))},
    **{
        "first": ("1",),
        "second": ("2",),
        "third": ("3",),
        "fourth": ("4",),
        "half": ("2", "0.5"),
        "quarter": ("4", "0.25"),
    },
    **{"thirds": ("3",), "fifth": ("5",), "twice": ("2",), "double": ("2",), "doubled": ("2",), "triple": ("3",)},
    **{"thrice": ("3",), "both": ("2",), "pair": ("2",), "couple": ("2",), "dozen": ("12",), "dozens": ("12",)},
    **{
        "week": ("7",),
        "weeks": ("7",),
        "weekly": ("7",),
        "hour": ("60", "24"),
        "hours": ("60", "24"),
        "minutes": ("60",),
    },
    **{"minute": ("60",), "day": ("24", "7"), "days": ("24", "7"), "daily": ("7",), "year": ("12", "365", "52")},
    **{"years": ("12", "365", "52"), "month": ("12", "30"), "months": ("12", "30"), "percent": ("100",)},
    **{"foot": ("12",), "feet": ("12",), "inches": ("12",), "yards": ("3",), "cents": ("100",), "dollar": ("100",)},
    # Russian
    **{w: (str(n + 1),) for n, w in enumerate(("один", "два", "три", "четыре", "пять", "шесть", "семь", "восемь"))},
    **{"одна": ("1",), "две": ("2",), "девять": ("9",), "десять": ("10",), "двадцать": ("20",), "сто": ("100",)},
    **{"вдвое": ("2",), "дважды": ("2",), "втрое": ("3",), "половина": ("2", "0.5"), "половину": ("2", "0.5")},
    **{"треть": ("3",), "четверть": ("4",), "дюжина": ("12",), "неделя": ("7",), "неделю": ("7",), "недели": ("7",)},
    **{"час": ("60", "24"), "часа": ("60", "24"), "часов": ("60", "24"), "минут": ("60",), "год": ("12", "365")},
    **{"день": ("24", "7"), "дней": ("24", "7"), "месяц": ("12", "30"), "месяцев": ("12", "30"), "процент": ("100",)},
}
"""Values that a text states in words: numerals, and the sizes of common units."""

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
class _Values:
    """Numbers of a step: canonical value, character span in the chain's text, whether it stands right of an equals sign."""

    value: str
    start: int
    end: int
    result: bool


def _values(text: str, start: int, end: int) -> list[_Values]:
    found = []
    for match in NUMBER.finditer(text, start, end):
        before = text[max(start, match.start() - 8) : match.start()]
        found.append(_Values(_value(match.group()), match.start(), match.end(), bool(_RESULT.search(before))))
    return found


def _stated(text: str) -> set[str]:
    """Values that a text states, in digits or in words."""
    known = {_value(match.group()) for match in NUMBER.finditer(text)}
    for word in _WORD.findall(text.casefold()):
        known.update(_NUMBER_WORDS.get(word, ()))
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
    values = [_values(chain.text, step.start, step.end) for step in steps]
    stated = [_stated(part) for part in parts]
    stems = [_stems(part) for part in parts]
    known, words = _stated(chain.question), _stems(chain.question)
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


def _question_values(question: str) -> dict[str, int]:
    """Values of the question, in digits or words, with the place where each stands first."""
    found = [(match.start(), _value(match.group())) for match in NUMBER.finditer(question)]
    for word in _WORD.finditer(question.casefold()):
        found += [(word.start(), value) for value in _NUMBER_WORDS.get(word.group(), ())[:1]]
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
    known, spare = _stated(question), _numbers(unused)

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


# --------------------------------------------------------------------------------------------------------------------
# What the corpus and the model say
# --------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Background:
    """What other chains make one expect: surprisal of each token type, role pairs, names.

    Built once over the corpus; a chain's own share is taken out again where its seams are scored.
    """

    names: frozenset[str]
    total: Doubles  # (V,) summed surprisal of each token type
    count: Doubles  # (V,)
    pairs: npt.NDArray[np.float64]  # (roles, roles) transitions from role to role
    n_chains: int

    def expected(self, trace: Trace, own: Trace | None) -> Doubles:
        """Expected surprisal (n,) of each token from its type in the other chains, shrunk to the mean of all tokens."""
        total, count = self.total, self.count
        if own is not None:
            size = len(total)
            good = np.isfinite(own.surprisal)
            ids = own.token_ids[good]
            total = total - np.bincount(ids, weights=own.surprisal[good].astype(np.float64), minlength=size)[:size]
            count = count - np.bincount(ids, minlength=size)[:size]
        mean = total.sum() / max(count.sum(), 1.0)
        ids = trace.token_ids
        prior = 5.0
        expected: Doubles = (total[ids] + prior * mean) / (np.maximum(count[ids], 0) + prior)
        return expected

    def role_surprisal(self, before: int, after: int, own: npt.NDArray[np.float64] | None) -> float:
        """-ln p(role | role before), add-one smoothed, in nats."""
        row = self.pairs[before] - (own[before] if own is not None else 0)
        return float(-np.log((row[after] + 1) / (row.sum() + len(row))))


_ROLE = {role: number for number, role in enumerate(Role)}


def _role_pairs(steps: Sequence[Step]) -> npt.NDArray[np.float64]:
    pairs = np.zeros((len(_ROLE), len(_ROLE)))
    for one, two in itertools.pairwise(steps):
        pairs[_ROLE[one.role], _ROLE[two.role]] += 1
    return pairs


def background(traces: Sequence[Trace]) -> Background:
    """Background of a corpus."""
    size = max((int(trace.token_ids.max(initial=0)) for trace in traces), default=0) + 1
    total, count = np.zeros(size), np.zeros(size)
    pairs = np.zeros((len(_ROLE), len(_ROLE)))
    for trace in traces:
        good = np.isfinite(trace.surprisal)
        np.add.at(total, trace.token_ids[good], trace.surprisal[good].astype(np.float64))
        np.add.at(count, trace.token_ids[good], 1.0)
        pairs += _role_pairs(trace.steps)
    return Background(name_words(trace.chain.text for trace in traces), total, count, pairs, len(traces))


def seam_scores(trace: Trace, known: Background, own: Trace | None = None) -> dict[str, Doubles]:
    """All scores of a trace's seams: ``name → (S,)``, plus ``bridge_nats``; NaN at step 0 and where undefined.

    ``own`` is the chain whose share is taken out of the background (the trace itself, or the intact one of a shortened
    chain); None when the trace is no part of it.
    """
    steps, text = trace.steps, trace.chain.text
    n = len(steps)
    result = text_scores(trace.chain, steps)
    for name in ("role_bigram", *MODEL, "bridge_nats"):
        result[name] = np.full(n, np.nan)
    pairs = _role_pairs(own.steps) if own is not None else None
    excess = trace.surprisal.astype(np.float64) - known.expected(trace, own)
    named = [m.span() for m in re.finditer(r"[^\W\d_]+(?:['’][^\W\d_]+)?", text) if m.group() in known.names]
    for index in range(1, n):
        role = _ROLE[steps[index].role]
        result["role_bigram"][index] = known.role_surprisal(_ROLE[steps[index - 1].role], role, pairs)
        first, last = (int(x) for x in trace.step_tokens[index])
        if last <= first:
            continue
        surprisal = trace.surprisal[first:last].astype(np.float64)
        if not np.isfinite(surprisal).any():
            continue
        result["surprisal_excess"][index] = np.nanmean(excess[first:last])
        result["bridge_nats"][index] = np.nansum(excess[first:last])
        result["onset_surprisal"][index] = np.nanmean(surprisal[:5])
        spans = [(value.start, value.end) for value in _values(text, steps[index].start, steps[index].end)]
        spans += [span for span in named if steps[index].start <= span[0] < steps[index].end]
        marked = _tokens_under(trace, first, last, spans)
        if marked.any():
            result["value_surprisal"][index] = np.nanmean(surprisal[marked])
        largest = math.nan
        known_values = _stated(trace.chain.question) | _stated(text[: steps[index].start])
        if result["ungrounded"][index] >= 0:
            result["ungrounded_surprisal"][index] = 0.0
        for value in _values(text, steps[index].start, steps[index].end):
            if value.result:
                continue
            under = _tokens_under(trace, first, last, [(value.start, value.end)])
            nats = float(np.nansum(surprisal[under]))
            largest = nats if math.isnan(largest) else max(largest, nats)
            if value.value not in known_values:
                result["ungrounded_surprisal"][index] += nats
        result["operand_surprisal"][index] = largest
        if trace.nll_given_all is not None and trace.nll_given_question is not None:
            result["context_gain"][index] = trace.nll_given_question[index] - trace.nll_given_all[index]
        if trace.nll_given_all is not None and trace.nll_without_previous is not None:
            result["premise_usefulness"][index] = trace.nll_without_previous[index] - trace.nll_given_all[index]
        if trace.n_layers and len(trace.step_attention) == n * (n + 5) // 2:
            result["previous_attention"][index] = float(np.mean(trace.step_masses(index)[1 + index]))
    return result


def _tokens_under(trace: Trace, first: int, last: int, spans: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Which tokens of ``first:last`` touch one of the character spans."""
    start, end = trace.token_start[first:last], trace.token_end[first:last]
    marked = np.zeros(last - first, np.bool_)
    for a, b in spans:
        marked |= (start < b) & (end > a)
    return marked


# --------------------------------------------------------------------------------------------------------------------
# Calibration: what every score is worth on this corpus
# --------------------------------------------------------------------------------------------------------------------


def without_step(item: Segmented, index: int) -> Segmented:
    """The chain without one step; the other steps keep their roles. Its source id says what was removed."""
    step = item.steps[index]
    width = step.end - step.start
    text = item.chain.text[: step.start] + item.chain.text[step.end :]
    chain = replace(item.chain, text=text, boundaries=(), source_id=f"{item.chain.source_id}#without-{index}")
    steps = [
        replace(
            s,
            index=number,
            start=s.start - (width if s.start >= step.end else 0),
            end=s.end - (width if s.start >= step.end else 0),
        )
        for number, s in enumerate(s for s in item.steps if s.index != step.index)
    ]
    return Segmented(chain, tuple(steps))


def removable(trace: Trace, seed: int = 0) -> int | None:
    """The interior step of this chain that calibration removes, drawn by the chain's id; None below four steps."""
    return _removable(Segmented(trace.chain, trace.steps), seed)


def _removable(item: Segmented, seed: int) -> int | None:
    n = len(item.steps)
    if n < 4:
        return None
    return 1 + int(content_key("removed step", item.chain.id, seed), 16) % (n - 2)


@dataclass(frozen=True, slots=True)
class Calibration:
    """What seam scores are worth on a corpus, and how to combine them.

    ``scores``: one per seam score and combination (``no model``, ``model``, ``all``), each the AUC of the removed step within
    its chain, beside position alone and the no-model combination; and ``model's own share``: AUC of all scores minus AUC of
    those without a model, beside the same when the model's scores are shuffled within each chain. ``weights`` combine the
    scores' ranks within the chain (conditional logit over all chains, penalty by cross-validation, the scores without a model
    first: :func:`trails.analyses.choice.fit_stacked`); ``features`` names them.
    """

    run: str
    n_chains: int
    features: tuple[str, ...]
    weights: tuple[float, ...]
    scores: tuple[Score, ...]
    withheld: tuple[Withheld, ...] = ()

    def auc(self, name: str) -> float:
        """AUC of a score or combination; NaN if it was not calibrated."""
        return next((score.value for score in self.scores if score.name == name), math.nan)

    @property
    def best(self) -> str:
        """The combination in use: ``all`` where a model measured, else ``no model``."""
        return "all" if any(feature in MODEL for feature in self.features) else "no model"

    def record(self) -> dict[str, Any]:
        """Everything as plain values; :func:`calibration_from` reads it back."""
        return {
            "run": self.run,
            "n_chains": self.n_chains,
            "features": list(self.features),
            "weights": list(self.weights),
            "scores": [score_record(score) for score in self.scores],
            "withheld": [withheld_record(item) for item in self.withheld],
        }


def calibration_from(record: Mapping[str, Any]) -> Calibration:
    """A calibration from its record."""

    def interval(value: Any) -> tuple[float, float] | None:
        return (float(value[0]), float(value[1])) if value else None

    def score(entry: Mapping[str, Any]) -> Score:
        controls = tuple(Control(c["name"], float(c["value"]), interval(c["interval"])) for c in entry["controls"])
        return Score(
            entry["name"], float(entry["value"]), entry["unit"], controls, interval(entry["interval"]), entry["note"]
        )

    return Calibration(
        str(record["run"]),
        int(record["n_chains"]),
        tuple(record["features"]),
        tuple(record["weights"]),
        tuple(score(entry) for entry in record["scores"]),
        tuple(Withheld(entry["name"], entry["reason"]) for entry in record["withheld"]),
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """Seams of many chains in rows."""

    values: dict[str, Doubles]
    chain: Longs
    step: Longs
    true: npt.NDArray[np.bool_]
    last: Longs  # last seam of the row's chain


def _table(entries: Iterable[tuple[dict[str, Doubles], int, int | None]]) -> _Table:
    """Rows of the seams from (scores, chain number, true seam or None)."""
    values: dict[str, list[Doubles]] = {name: [] for name in (*NAMES, "bridge_nats")}
    chain, step, true, last = [], [], [], []
    for scores, number, seam in entries:
        size = len(scores["ungrounded"])
        for name in values:
            values[name].append(scores[name][1:] * _SIGN.get(name, 1))
        chain.append(np.full(size - 1, number))
        step.append(np.arange(1, size))
        true.append(np.arange(1, size) == (seam if seam is not None else -1))
        last.append(np.full(size - 1, size - 1))
    if not chain:
        empty = np.empty(0, np.int64)
        return _Table({name: np.empty(0) for name in values}, empty, empty, np.empty(0, np.bool_), empty)
    return _Table(
        {name: np.concatenate(parts) for name, parts in values.items()},
        np.concatenate(chain).astype(np.int64),
        np.concatenate(step).astype(np.int64),
        np.concatenate(true),
        np.concatenate(last).astype(np.int64),
    )


def shortened(
    traces: Sequence[Trace], *, limit: int | None = None, seed: int = 0
) -> list[tuple[Trace, Segmented, int]]:
    """For each chain with an interior step: the intact trace, the chain without that step, and its true seam.

    With ``limit``, the chains with the smallest hash of their id: the same ones in every order.
    """
    found = [(trace, removable(trace, seed)) for trace in traces]
    chosen = [(trace, index) for trace, index in found if index is not None]
    chosen.sort(key=lambda pair: content_key("calibration", pair[0].chain.id, seed))
    return [(trace, without_step(Segmented(trace.chain, trace.steps), index), index) for trace, index in chosen[:limit]]


DIVISIONS = 3
"""Divisions of the chains into folds over which a combination's AUC is averaged."""
MORE_CHAINS = 2_000
"""Further chains from which the scores without a model are weighed; they are shortened, not measured."""


def calibrate(
    traces: Iterable[Trace],
    scorer: Scorer | None = None,
    *,
    limit: int | None = 300,
    more: Iterable[Segmented] = (),
    seed: int = 0,
    block: int = 32,
) -> Calibration:
    """AUC of every seam score on this corpus, by removing one interior step of up to ``limit`` chains.

    Without a scorer only the scores that need no model are calibrated; the others are withheld. The scorer must be the
    instrument of the traces (UsageError otherwise). Combinations are cross-validated by chain; intervals resample chains.
    The weights of the scores without a model are learnt from up to :data:`MORE_CHAINS` further chains too: the
    traces beyond ``limit``, and ``more`` chains that no model has measured. No AUC is taken on those.
    """
    corpus = sorted(one_instrument(traces), key=lambda trace: trace.chain.id)
    run = corpus[0].run if corpus else ""
    if scorer is not None and corpus and scorer.run.id != run:
        raise UsageError(
            f"calibration was asked for with {scorer.run.model} (run {scorer.run.id}), the traces were measured by run {run}: "
            "give the model of that run with --model"
        )
    every = shortened(corpus, seed=seed)
    cases, rest = every[:limit], every[limit:] if limit is not None else []
    if len(cases) < MIN_CHAINS:
        reason = f"{len(cases)} of {len(corpus)} chains have four steps or more, a calibration needs {MIN_CHAINS}: ingest more"
        return Calibration(run, len(cases), (), (), (), tuple(Withheld(name, reason) for name in (*NAMES, "all")))
    known = background(corpus)
    measured: Iterator[Trace | Segmented] = iter(item for _, item, _ in cases)
    if scorer is not None:
        measured = _measured([item for _, item, _ in cases], scorer, block)
    entries = []
    nats, guess, tokens = [], [], []
    for number, ((intact, item, seam), new) in enumerate(zip(cases, measured, strict=True)):
        if isinstance(new, Trace):
            scores = seam_scores(new, known, intact)
            a, b = (int(x) for x in new.step_tokens[seam])
            c, d = (int(x) for x in intact.step_tokens[seam + 1])
            nats.append(float(np.nansum(new.surprisal[a:b]) - np.nansum(intact.surprisal[c:d])))
            guess.append(float(scores["bridge_nats"][seam]))
            tokens.append(float(intact.step_tokens[seam, 1] - intact.step_tokens[seam, 0]))
        else:
            scores = _unmeasured_scores(item, known, intact.steps)
        entries.append((scores, number, seam))
    seen = {trace.chain.id for trace in corpus}
    spare = [(item, index) for item in more if item.chain.id not in seen and (index := _removable(item, seed))]
    others = [(item, seam, intact.steps) for intact, item, seam in rest]
    others += [(without_step(item, index), index, ()) for item, index in spare]
    learnt = _table(
        (_unmeasured_scores(item, known, steps), number, seam)
        for number, (item, seam, steps) in enumerate(others[:MORE_CHAINS])
    )
    return _calibration(_table(entries), learnt, run, len(cases), scorer is not None, (nats, guess, tokens), seed)


def _unmeasured_scores(item: Segmented, known: Background, own: Sequence[Step]) -> dict[str, Doubles]:
    """Scores of a chain that no model has measured; ``own`` steps are taken out of the role pairs."""
    scores = text_scores(item.chain, item.steps)
    pairs = _role_pairs(own)
    roles = [_ROLE[step.role] for step in item.steps]
    bigrams = [known.role_surprisal(a, b, pairs) for a, b in itertools.pairwise(roles)]
    scores["role_bigram"] = np.array([math.nan, *bigrams])
    return scores | {name: np.full(len(item.steps), np.nan) for name in (*MODEL, "bridge_nats")}


def _measured(items: Sequence[Segmented], scorer: Scorer, block: int) -> Iterator[Trace]:
    options = MeasureOptions(premises=True)
    for a in range(0, len(items), block):
        yield from scorer.measure(items[a : a + block], options)


def _calibration(
    table: _Table,
    learnt: _Table,
    run: str,
    n_chains: int,
    with_model: bool,
    sizes: tuple[list[float], list[float], list[float]],
    seed: int,
) -> Calibration:
    def judged(values: Doubles) -> tuple[float, Doubles]:
        _, per_chain = within_group_auc(values, table.true, table.chain)
        return float(per_chain.mean()), per_chain

    def repeated(fit: Callable[[int], Doubles]) -> tuple[float, Doubles]:
        """AUC of out-of-fold values, mean over several divisions into folds: one alone moves it by 0.01."""
        per_chain = np.mean([judged(fit(seed + number))[1] for number in range(DIVISIONS)], axis=0)
        return float(per_chain.mean()), per_chain

    def columns(of: _Table, names: Sequence[str], *, shuffle: bool = False) -> Doubles:
        rng = np.random.default_rng(seed)
        found = []
        for name in names:
            values = of.values[name]
            if shuffle:
                order = np.lexsort((rng.random(len(values)), of.chain))
                moved = np.empty_like(values)
                moved[np.argsort(of.chain, kind="stable")] = values[order]
                values = moved
            found.append(_ranked(values, of.chain))
        return np.stack(found, axis=1)

    plain = [name for name in NO_MODEL if np.isfinite(table.values[name]).any()]
    text_columns = columns(table, plain)
    more: Rows | None = (columns(learnt, plain), learnt.true, learnt.chain) if len(learnt.chain) else None

    relative = table.step / np.maximum(table.last, 1)
    shape = np.stack(
        [centred(x, table.chain) for x in (relative, relative**2, (table.step == 1).astype(np.float64))], axis=1
    )
    position, position_chains = repeated(lambda s: cross_validated_choice(shape, table.true, table.chain, seed=s))
    text, text_chains = repeated(
        lambda s: cross_validated_choice(text_columns, table.true, table.chain, seed=s, more=more)
    )
    baselines = (
        Control("position only", position, bootstrap(position_chains, seed=seed)),
        Control("no model (all its scores)", text, bootstrap(text_chains, seed=seed)),
    )
    unit = "AUC within the chain"
    scores: list[Score] = []
    withheld: list[Withheld] = []
    usable: list[str] = []
    for name in NAMES:
        if not np.isfinite(table.values[name]).any():
            if name in MODEL and not with_model:
                reason = "needs the model on shortened chains: type 'trails gaps --calibrate'"
            else:
                reason = "not defined anywhere in these chains (no values, no premises measured, or no attention)"
            withheld.append(Withheld(name, reason))
            continue
        usable.append(name)
        value, per_chain = judged(table.values[name])
        scores.append(Score(name, value, unit, baselines, bootstrap(per_chain, seed=seed)))
    scores.append(Score("no model", text, unit, baselines[:1], bootstrap(text_chains, seed=seed)))
    features = tuple(usable)
    if with_model:
        model_names = [name for name in usable if name in MODEL]
        model_columns = columns(table, model_names)
        model, model_chains = repeated(lambda s: cross_validated_choice(model_columns, table.true, table.chain, seed=s))

        def stacked(second: Doubles) -> tuple[float, Doubles]:
            return repeated(
                lambda s: cross_validated_stack(text_columns, second, table.true, table.chain, seed=s, more=more)
            )

        everything, all_chains = stacked(model_columns)
        _, null_chains = stacked(columns(table, model_names, shuffle=True))
        scores.append(Score("model", model, unit, baselines, bootstrap(model_chains, seed=seed)))
        scores.append(Score("all", everything, unit, baselines, bootstrap(all_chains, seed=seed)))
        share = all_chains - text_chains
        null = null_chains - text_chains
        scores.append(
            Score(
                "model's own share",
                float(share.mean()),
                "AUC of all minus AUC without a model",
                (
                    Control(
                        "the model's scores shuffled within the chain", float(null.mean()), bootstrap(null, seed=seed)
                    ),
                ),
                bootstrap(share, seed=seed),
            )
        )
        nats, guess, tokens = sizes
        size, length = spearman(guess, nats), spearman(tokens, nats)
        if math.isfinite(size) and math.isfinite(length):
            pairs = np.stack([guess, nats], axis=1)
            scores.append(
                Score(
                    "bridge_nats against the nats the removed step had saved",
                    size,
                    "rank correlation",
                    (Control("length of the removed step", length),),
                    bootstrap(pairs, lambda rows: spearman(rows[:, 0], rows[:, 1]), draws=200, seed=seed),
                    f"mean of the true size: {float(np.mean(nats)):.2f} nats",
                )
            )
    if with_model and any(name in MODEL for name in features):
        second = columns(table, [name for name in features if name in MODEL])
        weights = fit_stacked(text_columns, second, table.true, table.chain, seed=seed, more=more)
    else:
        rows = joined_rows((text_columns, table.true, table.chain), more)
        weights = fit_choice(*rows, choose_ridge(*rows, seed=seed))
    return Calibration(run, n_chains, features, tuple(float(w) for w in weights), tuple(scores), tuple(withheld))


def _ranked(values: Doubles, chain: Longs) -> Doubles:
    """Ranks within the chain, from -0.5 to 0.5, undefined values in the middle: what the combinations are made of."""
    return within_group_ranks(values, chain) - 0.5


# --------------------------------------------------------------------------------------------------------------------
# The seams of a corpus
# --------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Gaps:
    """Seams, most gap-like first, and what their scores are worth.

    ``seams`` has one row per seam: ``id``, ``chain``, ``step``, ``score`` (share of the corpus's seams with a smaller combined
    score, 0..1), ``rank`` (within the chain, 0 = most gap-like), ``bridge_nats``, and every seam score by name. What was not
    calibrated is null, and without any there are no rows: no score without its control.
    """

    run: str
    n_chains: int
    seams: pa.Table
    calibration: Calibration
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def scores(self) -> tuple[Score, ...]:
        """What the seam scores are worth."""
        return self.calibration.scores

    @property
    def withheld(self) -> tuple[Withheld, ...]:
        """Scores without a control."""
        return self.calibration.withheld

    def batch(self) -> GraphBatch:
        """Rows for the graph: ``Gap`` and ``BEFORE``."""
        size = len(self.seams)
        best = self.calibration.best
        baseline = next((s.control for s in self.calibration.scores if s.name == best), math.nan)
        columns = {name: self.seams[name] for name in ("id", "chain", "step", "score", "rank", "bridge_nats")}
        for name in ("ungrounded", "value_surprisal", "context_gain", "premise_usefulness", "role_bigram"):
            columns[name] = self.seams[name]
        nodes = table_of(
            "Gap",
            {
                **columns,
                "run": [self.run] * size,
                "control_auc": [self.calibration.auc(best)] * size,
                "baseline_auc": [baseline] * size,
            },
        )
        steps = [
            step_key(c, s) for c, s in zip(self.seams["chain"].to_pylist(), self.seams["step"].to_pylist(), strict=True)
        ]
        return GraphBatch(
            nodes={"Gap": nodes},
            relationships={"BEFORE": table_of("BEFORE", {"start": self.seams["id"], "end": steps})},
        )

    def of(self, chain: str) -> Gaps:
        """Only the seams of one chain."""
        keep = pa.array([name == chain for name in self.seams["chain"].to_pylist()], pa.bool_())
        return replace(self, seams=self.seams.filter(keep))

    def record(self, limit: int | None = None) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "run": self.run,
            "n_chains": self.n_chains,
            "n_seams": len(self.seams),
            "calibration": self.calibration.record(),
            "seams": self.seams.slice(0, limit).to_pylist(),
            "notes": list(self.notes),
        }


def find(traces: Iterable[Trace], calibration: Calibration | None = None) -> Gaps:
    """Every seam with its scores, ranked within its chain by the calibrated combination.

    Without a calibration the scores that need no model are calibrated here, and only they rank; a calibration of another run
    is refused (UsageError).
    """
    corpus = sorted(one_instrument(traces), key=lambda trace: trace.chain.id)
    run = corpus[0].run if corpus else ""
    calibration = calibration or calibrate(corpus)
    if calibration.run and run and calibration.run != run:
        raise UsageError(
            f"the calibration is of run {calibration.run}, the traces are of run {run}: "
            f"type 'trails gaps --calibrate --run {run}'"
        )
    notes = []
    short = sum(len(trace.steps) < 2 for trace in corpus)
    if short:
        notes.append(f"{short} of {len(corpus)} chains have one step and therefore no seam")
    if not any(trace.nll_given_all is not None for trace in corpus):
        notes.append(
            "no premises were measured; context_gain and premise_usefulness need another home: "
            "trails ingest PATH --premises --home FOLDER"
        )
    known = background(corpus)
    table = _table(
        (seam_scores(trace, known, trace), number, None) for number, trace in enumerate(corpus) if len(trace.steps) > 1
    )
    empty = not calibration.features or not len(table.chain)
    if empty:
        table = _table(())
        score, rank = np.empty(0), np.empty(0, np.int64)
    else:
        combined = np.zeros(len(table.chain))
        for name, weight in zip(calibration.features, calibration.weights, strict=True):
            combined += weight * _ranked(table.values[name], table.chain)
        score = (ranks(combined) - 1) / max(len(combined) - 1, 1)
        rank = _rank_in_chain(combined, table.chain)
    names = [corpus[number].chain.id for number in table.chain]
    columns: dict[str, Any] = {
        "id": pa.array(
            [f"g{content_key(run, chain, step)}" for chain, step in zip(names, table.step.tolist(), strict=True)],
            pa.string(),
        ),
        "chain": pa.array(names, pa.string()),
        "step": table.step.astype(np.int64),
        "score": np.asarray(score, np.float64),
        "rank": np.asarray(rank, np.int64),
        "bridge_nats": table.values["bridge_nats"],
        **{name: table.values[name] * _SIGN[name] for name in NAMES},
    }
    # What was not calibrated has no control, and is not handed out.
    for name in NAMES:
        if name not in calibration.features:
            columns[name] = np.full(len(table.chain), np.nan)
    if calibration.best != "all":
        columns["bridge_nats"] = np.full(len(table.chain), np.nan)
    for name in (*NAMES, "bridge_nats"):
        columns[name] = pa.array(columns[name], mask=~np.isfinite(columns[name]))  # undefined is absent, not NaN
    seams = pa.table(columns)
    by = np.lexsort((table.step, table.chain, -np.asarray(score))) if len(table.chain) else np.empty(0, np.int64)
    return Gaps(run, len(corpus), seams.take(pa.array(by)), calibration, tuple(notes))


def _rank_in_chain(combined: Doubles, chain: Longs) -> Longs:
    """0 for the largest value of each chain, ties by place."""
    order = np.lexsort((np.arange(len(chain)), -combined, chain))
    result = np.empty(len(chain), np.int64)
    begins = np.flatnonzero(np.append(True, chain[order][1:] != chain[order][:-1]))
    result[order] = np.arange(len(chain)) - np.repeat(begins, np.diff(np.append(begins, len(chain))))
    return result


# --------------------------------------------------------------------------------------------------------------------
# Which earlier step a step needs
# --------------------------------------------------------------------------------------------------------------------


def premise_matrix(trace: Trace, shorter: Sequence[Trace]) -> Doubles:
    """(S, S) nats per token that step ``i`` costs more when step ``j`` is missing, at ``[i, j]`` for j < i; NaN elsewhere.

    ``shorter[j]`` is the measured chain without step j (:func:`without_step`).
    """
    n = len(trace.steps)
    result = np.full((n, n), np.nan)
    whole = step_nll(trace)
    for j, other in enumerate(shorter):
        part = step_nll(other)
        for i in range(j + 1, n):
            result[i, j] = part[i - 1] - whole[i]
    return result


def step_nll(trace: Trace) -> Doubles:
    """Mean surprisal of each step's tokens (S,), nats per token; NaN for a step without measured tokens."""
    result = np.full(len(trace.steps), np.nan)
    for index, (a, b) in enumerate(trace.step_tokens.tolist()):
        part = trace.surprisal[a:b]
        if np.isfinite(part).any():
            result[index] = float(np.nanmean(part))
    return result


__all__ = [
    "MODEL",
    "NAMES",
    "NO_MODEL",
    "SEAM_SCORES",
    "Calibration",
    "Gaps",
    "SeamScore",
    "background",
    "calibrate",
    "calibration_from",
    "find",
    "premise_matrix",
    "removable",
    "seam_scores",
    "shortened",
    "step_nll",
    "text_scores",
    "without_step",
]
