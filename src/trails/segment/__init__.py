"""Segmenter: a chain's text into steps that partition it, each with a role.

In: a :class:`~trails.schema.Chain`. Out: :class:`~trails.schema.Step` records whose spans follow each other from 0 to the end
of the text. Blanks between two steps belong to the earlier one. Connectives come from the lexicons in ``lexicons/*.toml``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib import resources

from trails.schema import Chain, Step
from trails.segment.implicit import with_implicit
from trails.segment.lexicon import STRUCTURE_ONLY, Cue, Lexicon, load_lexicon, packaged_lexicons
from trails.segment.scenes import scenes, source_lines
from trails.segment.split import as_steps, find_steps

__all__ = [
    "Cue",
    "Lexicon",
    "described",
    "detect_language",
    "load_lexicon",
    "packaged_lexicons",
    "segment",
    "segmenter_hash",
]

_RUSSIAN = frozenset("абвгдеёжзийклмнопрстуфхцчшщъыьэюя")
LANGUAGE_SAMPLE = 20_000
MIN_LETTERS = 3
_THREE_LETTERS = re.compile(rf"(?:[A-Za-z][^A-Za-z]*+){{{MIN_LETTERS}}}")


def detect_language(text: str) -> str:
    """``ru``, ``en`` or ``und``, from the script alone.

    More Cyrillic than Latin letters is Russian unless one letter in fifty is not Russian; more Latin letters is English
    unless one in fifty is beyond a–z. French without accents counts as English: a language is meant only as the choice of a
    lexicon. Fewer than three letters, or another script, is ``und``. Looks at the first 20,000 characters.
    """
    sample = text[:LANGUAGE_SAMPLE]
    if sample.isascii():  # nothing to weigh: Latin letters or too few
        return "en" if _THREE_LETTERS.search(sample) else "und"
    cyrillic = latin = foreign_cyrillic = foreign_latin = other = 0
    for character, count in Counter(sample).items():
        if not character.isalpha():
            continue
        code = ord(character)
        if 0x400 <= code < 0x530:
            cyrillic += count
            foreign_cyrillic += 0 if character.lower() in _RUSSIAN else count
        elif code < 0x250:
            latin += count
            foreign_latin += 0 if code < 128 else count
        else:
            other += count
    if max(cyrillic, latin) < MIN_LETTERS or other > max(cyrillic, latin):
        return "und"
    if cyrillic > latin:
        return "ru" if foreign_cyrillic * 50 <= cyrillic else "und"
    return "en" if foreign_latin * 50 <= latin else "und"


def segment(
    chain: Chain, lexicons: Mapping[str, Lexicon] | None = None, *, keep_source_steps: bool = False
) -> tuple[Step, ...]:
    """Steps of a chain; they partition ``chain.text`` (no hole, no overlap, none empty; no step for an empty text).

    Borders are lines, sentences and strong connectives, and the source's own: each of ``chain.boundaries`` stays a start
    (0 is added; offsets outside the text and repeated ones are dropped). With ``keep_source_steps`` a chain that has such
    boundaries is split nowhere else, and only roles are looked for. The lexicon is that of ``chain.language``, else of the
    detected language; without one, steps are lines and sentences with the roles QUESTION and NONE.
    """
    known = packaged_lexicons() if lexicons is None else lexicons
    language = chain.language.lower().replace("_", "-").partition("-")[0] or detect_language(chain.text)
    lexicon = known.get(language, STRUCTURE_ONLY)
    length = len(chain.text)
    borders = sorted({0, *(b for b in chain.boundaries if 0 < b < length)}) if chain.boundaries else None
    return as_steps(find_steps(chain.text, lexicon, borders, keep_borders=keep_source_steps), length)


def described(chain: Chain, steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps with everything that stands beside their roles: scene, source line, and implicit role where the role is NONE.

    The chain's language is that of the classifier; an empty one is detected.
    """
    starts = [step.start for step in steps]
    parts = zip(steps, scenes(chain.text, starts), source_lines(chain.text, starts, chain.boundaries), strict=True)
    placed = [replace(step, scene=scene, source_line=line) for step, scene, line in parts]
    return with_implicit(chain if chain.language else replace(chain, language=detect_language(chain.text)), placed)


@cache
def segmenter_hash() -> str:
    """16 hex digits over the segmenter's code, lexicons and classifier: equal hashes give equal steps."""
    digest = hashlib.sha256()
    package = resources.files("trails.segment")
    files = [*package.iterdir(), *(package / "lexicons").iterdir()]
    for file in sorted(
        (file for file in files if file.name.endswith((".py", ".toml", ".json"))), key=lambda file: file.name
    ):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
