"""The words of the language, in English and Russian: one table for the grammar, the printer and the suggestions.

Every terminal has its spellings in both languages, the first of which is printed. Blanks in a spelling stand for any blanks.
"""

from __future__ import annotations

import re
from typing import Literal

from trails.export.words import MEASURES, ORDER_WORDS, WEIGHT_WORDS

Language = Literal["en", "ru"]


def _option(name: str, words: dict[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A word of the options of export, as they spell it."""
    return (name,), (words[name],)


KEYWORDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    # terminal: English spellings, Russian spellings
    "ZONE": (("ZONE",), ("ЗОНА",)),
    "NAME": (("NAME",), ("ИМЯ",)),
    "TOKEN": (("TOKEN",), ("ТОКЕН",)),
    "STEP": (("STEP",), ("ШАГ",)),
    "CHAIN": (("CHAIN",), ("ЦЕПОЧКА",)),
    "SELECT": (("SELECT",), ("ВЫБРАТЬ",)),
    "DRIFT": (("DRIFT",), ("ДРЕЙФ",)),
    "ANCHOR": (("ANCHOR",), ("ЯКОРЬ",)),
    "PHASE": (("PHASE",), ("ФАЗА",)),
    "DAMPEN": (("GRADIENT DAMPEN",), ("ГРАДИЕНТ ГАСИТЬ",)),
    "WEIGHT": (("WEIGHT", "WEIGHTS"), ("ВЕС", "ВЕСА")),
    "LAYERS": (("LAYERS", "LAYER"), ("СЛОИ", "СЛОЙ")),
    "OBJECTIVE": (("OBJECTIVE",), ("ЦЕЛЬ",)),
    "VARIANTS": (("VARIANTS",), ("ВАРИАНТЫ",)),
    "ORDER": (("ORDER",), ("ПОРЯДОК",)),
    "MASK": (("MASK",), ("МАСКА",)),
}
"""Words that begin a line."""

INSIDE: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "NOT": (("NOT",), ("НЕ",)),
    "MASKED": (("masked",), ("с маской",)),
    "AND": (("AND",), ("И",)),
    "OR": (("OR",), ("ИЛИ",)),
    "ACTIVATES": (("activates", "raises"), ("вызывает", "повышает")),
    "CALMS": (("calms", "lowers"), ("успокаивает", "понижает")),
    "SWEEP": (("attention sweep", "attention entropy"), ("разброс внимания", "энтропию внимания")),
    "SHIFT": (("attention shift",), ("сдвиг внимания",)),
    "PREVIOUS": (("attention previous",), ("внимание назад",)),
    "SINK": (("attention sink",), ("внимание в начало",)),
    "HIDDEN": (("hidden shift", "hidden drift"), ("сдвиг состояния", "дрейф состояния")),
    "LOGIT": (("logit shift", "logit drift"), ("сдвиг логитов", "дрейф логитов")),
    "ON_LAYER": (("on layer", "on layers", "in layer", "layer"), ("на слое", "на слоях", "в слое", "слой")),
    "BACKWARD": (("backward pass",), ("обратный проход",)),
    "PI": (("π", "pi"), ("π", "пи")),
    "DEGREES": (("°", "degrees", "deg"), ("°", "градусов", "градуса")),
    "RADIANS": (("rad", "radians"), ("рад",)),
    "UNIFORM": _option("uniform", WEIGHT_WORDS),
    "SURPRISAL": _option("surprisal", WEIGHT_WORDS),
    "ENTROPY": _option("entropy", WEIGHT_WORDS),
    "BOTH": _option("both", WEIGHT_WORDS),
    "EXCESS": _option("excess", WEIGHT_WORDS),
    "LM": (("lm",), ("lm",)),
    "DFT": (("dft",), ("dft",)),
    "ATTENTION": (("attention",), ("внимание",)),
    "SHUFFLED": _option("shuffled", ORDER_WORDS),
    "RISING": _option("rising", ORDER_WORDS),
    "FALLING": _option("falling", ORDER_WORDS),
    "AS_SOURCE": _option("source", ORDER_WORDS),
    "RHYTHM": _option("rhythm", ORDER_WORDS),
}
"""Words inside a line."""

WORDS = KEYWORDS | INSIDE

FIELDS: dict[str, str] = {
    # Russian name of a field or measure in a zone's expression: the name it stands for
    "роль": "role",
    "язык": "language",
    "источник": "source",
    "семейство": "family",
    "разрыв": "gap",
    "пересечение": "overlap",
    "эффект": "effect",
    **{russian: name for name, russian in MEASURES.items()},
    "ранг": "rank",
    "сдвиг_логитов": "logit_shift",
    "сдвиг_внимания": "attention_shift",
    "энтропия_внимания": "attention_entropy",
    "сдвиг_состояния": "hidden_shift",
}


def pattern(terminal: str) -> str:
    """Regular expression of a terminal: any of its spellings, longest first, not followed by more of a word."""
    spellings = sorted({s for both in WORDS[terminal] for s in both}, key=lambda s: (-len(s), s))
    parts = []
    for spelling in spellings:
        words = r"[ \t]+".join(re.escape(word) for word in spelling.split())
        parts.append(words + (r"(?!\w)" if spelling[-1].isalpha() and spelling != "π" else ""))
    return "|".join(parts)


def word(terminal: str, language: Language) -> str:
    """The spelling that is printed."""
    return WORDS[terminal][language == "ru"][0]
