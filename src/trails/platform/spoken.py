"""Whether a text is in the language that its script suggests: by the small words that every text of a language holds.

In: a text and the language that was found. Out: that language, or ``unknown``. A report is made with it and nothing else: which
lexicon splits a chain is decided by its script alone.
"""

from __future__ import annotations

import re

UNKNOWN = "unknown"
LOOKED_AT = 600
"""Characters at the beginning that are looked at."""
FEWEST = 12
"""So many words without a small word of English are no English; fewer may be a formula."""


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


ENGLISH = _words(
    "the and that with for are is then than if but not this these those therefore because each from which there they has",
    "have had we he she you it its of to in on at by be as or so thus hence let how many when what who will would can",
    "cannot must all both only every some any my your his her their our more after before into was were been could should",
    "does did do while until between per left gets gives total",
)
OTHERS = _words(
    # French, German, Spanish, Italian, Dutch, Polish, Portuguese, Czech, Swedish, Turkish: small words that English has not
    "le les des du une est et que qui dans donc alors mais pour pas sur avec sont cette il elle nous vous ne ce",
    "der das und ist nicht ein eine einen dann wenn wir sich auch aber also mit von zu dem den im weil",
    "el los las una es por con para si entonces pero como porque tanto del lo se",
    "di che per non della gli sono piu quindi allora se dello dei nel anche",
    "het een niet van dat zijn wij als dus voor maar naar bij ook",
    "nie jest wiec jesli ale ze jak sie gdy oraz czy dla ktory",
    "os uma nao em mas entao seu sua ela ele isso",
    "je neni tedy kdyz aby pak proto jsou och inte att det som ett ve bir bu ise icin degil",
)
_WORD = re.compile(r"[^\W\d_]+")


def spoken(language: str, text: str) -> str:
    """``language``, or ``unknown`` where it is undetermined, or English by its letters and not by its words: more small words
    of other languages than of English, or none of English in :data:`FEWEST` words or more.
    """
    if language in ("", "und"):
        return UNKNOWN
    if language != "en":
        return language
    words = _WORD.findall(text[:LOOKED_AT].lower())
    english = sum(word in ENGLISH for word in words)
    others = sum(word in OTHERS and word not in ENGLISH for word in words)
    return UNKNOWN if others > max(english, 1) or (not english and len(words) >= FEWEST) else language
