"""Agreement between the segmenter and the hand-labelled steps of ``labelled.jsonl``."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from trails.schema import Chain
from trails.segment import segment

LABELLED = Path(__file__).with_name("labelled.jsonl")


@dataclass
class Agreement:
    """``confusion[gold, predicted]`` counts steps with the gold borders; the border counts leave out offset 0."""

    confusion: Counter[tuple[str, str]] = field(default_factory=Counter)
    borders_found: int = 0
    borders_right: int = 0
    borders_gold: int = 0

    @property
    def steps(self) -> int:
        return sum(self.confusion.values())

    @property
    def accuracy(self) -> float:
        return sum(n for (gold, got), n in self.confusion.items() if gold == got) / self.steps

    @property
    def majority_baseline(self) -> float:
        """Accuracy of giving every step the commonest gold role."""
        return max(self.per_gold().values()) / self.steps

    @property
    def border_f1(self) -> float:
        return 2 * self.borders_right / (self.borders_found + self.borders_gold)

    def per_gold(self) -> Counter[str]:
        count: Counter[str] = Counter()
        for (gold, _), n in self.confusion.items():
            count[gold] += n
        return count

    def f1(self) -> dict[str, float]:
        """F1 per role that occurs in the gold labels; no role predicted and none right gives 0."""
        result = {}
        for role, gold in sorted(self.per_gold().items()):
            got = sum(n for (_, predicted), n in self.confusion.items() if predicted == role)
            result[role] = 2 * self.confusion[role, role] / (gold + got)
        return result

    @property
    def macro_f1(self) -> float:
        return sum(self.f1().values()) / len(self.f1())

    def majority_macro_f1(self) -> float:
        """Macro F1 of giving every step the commonest gold role."""
        count = self.per_gold()
        top = max(count.values())
        return 2 * top / (top + self.steps) / len(count)


def labelled(part: str | None = None) -> list[Mapping[str, Any]]:
    with LABELLED.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [row for row in rows if part is None or row["part"] == part]


def agreement(rows: Iterable[Mapping[str, Any]]) -> Agreement:
    """Roles with the gold borders given, and borders without."""
    result = Agreement()
    for row in rows:
        gold: Sequence[Mapping[str, str]] = row["steps"]
        text = "".join(step["text"] for step in gold)
        starts = [0, *accumulate(len(step["text"]) for step in gold)][:-1]
        given = Chain(row["source"], row["source_id"], "", text, language=row["language"], boundaries=tuple(starts))
        fixed = segment(given, keep_source_steps=True)
        for step, label in zip(fixed, gold, strict=True):
            result.confusion[label["role"], step.role.value] += 1
        free = segment(Chain(row["source"], row["source_id"], "", text, language=row["language"]))
        found = {step.start for step in free} - {0}
        result.borders_found += len(found)
        result.borders_gold += len(starts) - 1
        result.borders_right += len(found & set(starts))
    return result
