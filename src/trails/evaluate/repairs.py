"""Does a model repair what it got wrong, without spoiling what it got right? An attempt, then a second one behind the first.

The second attempt stands behind context, first attempt and :data:`trails.train.attempts.MARK`, as in the loop loss; both are
the likeliest token each time. An attempt is right if the last number in it is the answer's, or, for an answer without a
number, if it ends in the answer's words. Counted are wrong → right **and** right → wrong, and how far the second is from the
first: a model that copies itself repairs nothing and spoils nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.statistics import Interval, bootstrap, how_resampled
from trails.errors import UsageError
from trails.evaluate.groups import check_trained, not_trained_on, said_left_out
from trails.measure.base import Segmented
from trails.measure.huggingface import HuggingFaceScorer
from trails.platform.text import counted
from trails.train import put_adapter
from trails.train.attempts import Attempts, written

_NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")
_WORD = re.compile(r"\w+")
BATCH = 8
LEAST = 20
"""Chains below which no score is given."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """Two attempts at one chain: whether each is right, and their edit distance over the longer one's tokens, 0 … 1."""

    chain: str
    first: bool
    second: bool
    distance: float


def is_right(text: str, answer: str) -> bool:
    """Whether the last number of ``text`` is that of ``answer``, or its last words are those of an answer without one."""
    wanted = _NUMBER.findall(answer)
    if wanted:
        found = _NUMBER.findall(text)
        return bool(found) and _plain(found[-1]) == _plain(wanted[-1])
    words, said = ([word.casefold() for word in _WORD.findall(part)] for part in (answer, text))
    return bool(words) and said[-len(words) :] == words


def _plain(number: str) -> str:
    """``1,000`` as ``1000`` and ``5.0`` as ``5``: a comma before three digits parts thousands."""
    plain = re.sub(r",(?=\d{3}(?:\D|$))", "", number).replace(",", ".")
    return plain.rstrip("0").rstrip(".") if plain.count(".") == 1 else plain


def distance(one: Sequence[int], two: Sequence[int]) -> float:
    """Levenshtein distance of two sequences over the length of the longer one; 0 for two empty ones."""
    if not one or not two:
        return float(bool(one) != bool(two))
    before = np.arange(len(two) + 1)
    other = np.asarray(two)
    for i, token in enumerate(one, 1):
        row = np.minimum(before[1:] + 1, before[:-1] + (other != token))
        row = np.concatenate([[i], row])
        # an insertion costs one a place: the least of everything to the left
        row = np.minimum.accumulate(row - np.arange(len(row))) + np.arange(len(row))
        before = row
    return float(before[-1]) / max(len(one), len(two))


def repaired(
    model: Any,
    tokenizer: Any,
    asked: Sequence[tuple[str, Sequence[int], str]],
    tokens: int,
    *,
    how: Attempts | None = None,
    batch: int = BATCH,
    adapters: int = 1,
) -> list[Repaired]:
    """Two attempts of at most ``tokens`` tokens at every chain: its id, the tokens of its context, its answer.

    ``how`` gives another mark and other ends (None: those of the tokenizer). With ``adapters`` in use side by side those of the
    first adapter come first. ``batch`` chains are asked at once.
    """
    how = how or Attempts.of(tokenizer)
    found: list[list[Repaired]] = [[] for _ in range(adapters)]
    for start in range(0, len(asked), batch):
        part = [*asked[start : start + batch]] * adapters
        first = written(model, [ids for _, ids, _ in part], how, tokens, 0.0, 0)
        behind = [[*ids, *attempt, *how.mark] for (_, ids, _), attempt in zip(part, first, strict=True)]
        second = written(model, behind, how, tokens, 0.0, 0)
        for place, ((chain, _, answer), a, b) in enumerate(zip(part, first, second, strict=True)):
            right = [is_right(tokenizer.decode(attempt), answer) for attempt in (a, b)]
            found[place * adapters // len(part)].append(Repaired(chain, right[0], right[1], distance(a, b)))
    return [one for mine in found for one in mine]


@dataclass(frozen=True, slots=True)
class Repairs(Finding):
    """Two attempts of every model at the same chains. ``trained_on`` chains were left out; None when no export was given."""

    found: Mapping[str, tuple[Repaired, ...]]
    trained_on: int | None

    def report(self) -> Report:
        """The verdict, a row for every model, and repairs minus spoils beside those of the untrained model."""
        rows = []
        for name, all_ in self.found.items():
            fixed = sum(not one.first and one.second for one in all_)
            spoilt = sum(one.first and not one.second for one in all_)
            rows.append(
                {
                    "model": name,
                    "chains": len(all_),
                    "first_right": sum(one.first for one in all_),
                    "second_right": sum(one.second for one in all_),
                    "wrong_to_right": fixed,
                    "right_to_wrong": spoilt,
                    "distance": round(float(np.mean([one.distance for one in all_])), 4),
                }
            )
        trained, untrained = (self.found[name] for name in (TRAINED, UNTRAINED))
        scores: tuple[Score, ...] = ()
        withheld: tuple[Withheld, ...] = ()
        if len(trained) < LEAST:
            withheld = (Withheld(GAIN, f"{counted(len(trained), 'chain')} with an answer; {LEAST} are needed"),)
            verdict = f"repairs are counted, not judged: {withheld[0].reason}"
        else:
            value, span = _net(trained)
            scores = (
                Score(
                    GAIN,
                    value,
                    "share of chains",
                    (Control("untrained", *_net(untrained), how_resampled()),),
                    span,
                    how=how_resampled(),
                ),
            )
            paired = [_sign(a) - _sign(b) for a, b in zip(trained, untrained, strict=True)]
            low, high = bootstrap(paired) or (float("nan"), float("nan"))
            shown = (
                "more than the untrained model" if low > 0 else "less than it" if high < 0 else "not shown to differ"
            )
            verdict = (
                f"second attempts of the trained model gain {value:+.3f} (untrained {_net(untrained)[0]:+.3f}; difference "
                f"{np.mean(paired):+.3f}, {low:+.3f} to {high:+.3f}): {shown}"
            )
        return Report(
            "repairs",
            verdict,
            facts={"left_out_as_trained_on": self.trained_on},
            tables=(
                ReportTable(
                    "rows",
                    pa.Table.from_pylist(rows),
                    "two attempts each: how many are right, what the second one changed, their edit distance (0 to 1)",
                    {
                        "model": "model",
                        "chains": "chains",
                        "first_right": "first right",
                        "second_right": "second right",
                        "wrong_to_right": "wrong to right",
                        "right_to_wrong": "right to wrong",
                        "distance": "distance",
                    },
                ),
            ),
            scores=scores,
            withheld=withheld,
            notes=(said_left_out(self.trained_on),),
        )


TRAINED, UNTRAINED = "trained", "untrained"
GAIN = "wrong to right minus right to wrong"


def _sign(one: Repaired) -> float:
    return float(one.second) - float(one.first)


def _net(found: Sequence[Repaired]) -> tuple[float, Interval | None]:
    signs = [_sign(one) for one in found]
    return float(np.mean(signs)), bootstrap(signs)


def repairs_of(
    items: Sequence[Segmented],
    scorer: HuggingFaceScorer,
    adapter: Path,
    *,
    exported: Path | None = None,
    tokens: int = 128,
    most: int = 200,
) -> Repairs:
    """Two attempts of the untrained model and of the adapter at chains that have a question and an answer, ``most`` at most.

    With ``exported`` the chains of the export are left out. Raises UsageError where no chain is left.
    """
    check_trained([adapter], scorer.run, exported)
    left, trained_on = not_trained_on(items, exported)
    asked = []
    for item in left:
        if not (item.chain.question and item.chain.answer):
            continue
        row = scorer.contexts.row(item, labelled_from=0)
        context = list(row.record()["input_ids"][: row.labelled_from])
        if context:
            asked.append((item.chain.id, context, item.chain.answer))
    if not asked:
        raise UsageError(
            f"of {counted(len(items), 'chain')} {len(left)} were not trained on, and none of those has a "
            "question and an answer. "
            "Select chains that have both: trails chains"
        )
    asked = asked[:most]
    tokenizer = scorer.model.tokenizer
    found = {UNTRAINED: tuple(repaired(scorer.model.module, tokenizer, asked, tokens))}
    model = put_adapter(scorer.model.module, adapter, TRAINED)
    found[TRAINED] = tuple(repaired(model, tokenizer, asked, tokens))
    return Repairs(found, trained_on)
