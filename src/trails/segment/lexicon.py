"""Lexicons: connectives and sentence habits of a language, from editable TOML files.

In: a TOML file as ``lexicons/en.toml`` tells. Out: a :class:`Lexicon`, indexed by the first word of each cue.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from trails.errors import InputError
from trails.schema import Role
from trails.segment.mask import FILL

PLACES = frozenset({"start", "start,", "clause", "clause,", "semicolon", "space", "formula", "inside"})

SENSES = frozenset(
    f"{top}.{rest}"
    for top, ends in {
        "Temporal": ("Synchronous", "Asynchronous.Precedence", "Asynchronous.Succession"),
        "Contingency": (
            *(
                "Cause.Reason",
                "Cause.Result",
                "Cause.NegResult",
                "Cause+Belief.Reason+Belief",
                "Cause+Belief.Result+Belief",
            ),
            *("Cause+SpeechAct.Reason+SpeechAct", "Cause+SpeechAct.Result+SpeechAct", "Condition+SpeechAct"),
            *("Condition.Arg1-as-cond", "Condition.Arg2-as-cond", "Purpose.Arg1-as-goal", "Purpose.Arg2-as-goal"),
            *("Negative-condition.Arg1-as-negCond", "Negative-condition.Arg2-as-negCond"),
        ),
        "Comparison": (
            *("Concession.Arg1-as-denier", "Concession.Arg2-as-denier", "Contrast", "Similarity"),
            "Concession+SpeechAct.Arg2-as-denier+SpeechAct",
        ),
        "Expansion": (
            *("Conjunction", "Disjunction", "Equivalence", "Exception.Arg1-as-excpt", "Exception.Arg2-as-excpt"),
            *("Instantiation.Arg1-as-instance", "Instantiation.Arg2-as-instance"),
            *("Level-of-detail.Arg1-as-detail", "Level-of-detail.Arg2-as-detail"),
            *("Manner.Arg1-as-manner", "Manner.Arg2-as-manner"),
            *("Substitution.Arg1-as-subst", "Substitution.Arg2-as-subst"),
        ),
    }.items()
    for rest in ends
)
"""The sense hierarchy of the Penn Discourse Treebank 3.0 (Webber, Prasad, Lee and Joshi, 2019), leaves only."""

LETTERS = re.compile(r"[^\W\d_]+")


@dataclass(frozen=True, slots=True)
class Cue:
    """A connective: where it counts, and what it makes of its step. ``needs`` is ``condition``, ``premise`` or empty."""

    cue: str
    role: Role
    sense: str
    places: frozenset[str]
    needs: str = ""
    otherwise: tuple[Role, str] | None = None
    not_before: tuple[str, ...] = ()
    not_after: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()
    opens: bool = False
    between_clauses: bool = False
    subject: bool = False
    strict_subject: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Lexicon:
    """What the segmenter knows of one language. ``cues`` maps a cue's first word to its cues, the longest first."""

    language: str
    cues: Mapping[str, tuple[Cue, ...]]
    abbreviations: frozenset[str]
    closing_abbreviations: frozenset[str]
    starters: frozenset[str]
    suppose: frozenset[str]
    subjects: frozenset[str]
    auxiliaries: frozenset[str]
    adjective_endings: frozenset[str]
    prefix: re.Pattern[str]
    soft: re.Pattern[str]
    inside: re.Pattern[str] | None
    conditions: frozenset[str]
    reasons: frozenset[str]
    pronouns: frozenset[str]
    focus: frozenset[str]
    continuers: frozenset[str]
    parentheticals: frozenset[str]
    participles: tuple[str, ...]
    then_marks: tuple[str, ...]
    nested_commas: bool

    def is_conditional(self, cue: Cue) -> bool:
        """Whether the cue is a condition or ends in one ("but if")."""
        return cue.role in (Role.IF, Role.UNLESS) or cue.cue.rpartition(" ")[2] in self.conditions

    def is_causal(self, cue: Cue) -> bool:
        """Whether the cue ends in a reason ("but since")."""
        return cue.role is Role.BECAUSE or cue.cue.partition(" ")[2] in self.reasons


# before the first word of a step: list marks, headings, quotation bars, emphasis
_MARK = r"[\s>#|]*(?:[-*+•–—]{1,2}\s+|\(?\d{1,3}[.):]+\s*|\(?[a-zа-я]\)\s+|[ivxIVX]+[.)]\s+)?"
# a heading that runs into its sentence: "**Speed**: If …", "`x` - if …"
_HEADING = (
    rf"(?P<heading>\*\*[^*\n]{{1,80}}(?:\*\*[^\S\n]*(?::|[-–—](?=\s))|[:.]\*\*)\s*|{FILL}{{1,200}}[^\S\n]+[-–—]\s+)?"
    r"[*_\s\ufeff]*"
)


def _alternatives(words: list[str]) -> str:
    ordered = sorted(words, key=lambda word: (-len(word), word))
    return "|".join(re.escape(word).replace(r"\ ", r"\s+") for word in ordered)


def _tree(words: Sequence[str]) -> str:
    """As :func:`_alternatives`, with what words begin with in common written once: a word that is none is left at its first
    letter. Longer words come first.
    """
    heads: dict[str, list[str]] = {}
    for word in words:
        if word:
            heads.setdefault(word[0], []).append(word[1:])
    parts = [(r"\s+" if head == " " else re.escape(head)) + _tree(rest) for head, rest in sorted(heads.items())]
    if len(parts) == 1 and "" not in words:
        return parts[0]
    return f"(?:{'|'.join(parts)})" + ("?" if "" in words else "") if parts else ""


def _prefix(labels: list[str], interjections: list[str]) -> re.Pattern[str]:
    label = rf"(?:(?:{_alternatives(labels)})\.?(?:\s+\w{{1,7}})?\s*[.:]\s*(?:--|[—–-])?\s*\**\s*)?" if labels else ""
    spoken = rf"(?:(?:{_alternatives(interjections)})(?:,|\.\.\.|…|\s--?|\s[—–])\s*)*" if interjections else ""
    return re.compile(_MARK + _HEADING + label + spoken, re.IGNORECASE)


def parse_lexicon(text: str, name: str) -> Lexicon:
    """Lexicon of a TOML text. Raises InputError naming the file and the entry that is wrong."""
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name}: broken TOML: {error}.") from None
    if not isinstance(table.get("language"), str):
        raise InputError(f'{name}: no language. Write language = "en".')
    index: dict[str, list[Cue]] = {}
    asking = frozenset(table.get("asking", ()))
    for number, entry in enumerate(table.get("cues", ()), 1):
        cue = _cue(entry, asking, f"{name}: cue {number} ({entry.get('cue', '?')})")
        first = LETTERS.match(cue.cue)
        assert first is not None
        index.setdefault(first.group(), []).append(cue)
    # the longest cue first; of equal ones the earlier line (sorted is stable)
    cues = {first: tuple(sorted(found, key=lambda cue: -len(cue.cue))) for first, found in index.items()}
    spaced = sorted({cue.cue for found in cues.values() for cue in found if "space" in cue.places})
    inside = sorted({cue.cue for found in cues.values() for cue in found if "inside" in cue.places})
    # every branch begins with a mark, a formula or a blank, so that the search skips from one to the next
    # (written for text in lower case)
    soft = rf"(?P<mark>[,;:—–]|--|-(?<=\s-)(?=\s))\s*(?P<word>[^\W\d_]+|[\d{FILL}])"
    after_formula = sorted({cue.cue for found in cues.values() for cue in found if "formula" in cue.places})
    if after_formula:
        soft += rf"|(?P<formula>{FILL}[\x02]*)\s+(?P<next>{_alternatives(after_formula)})(?!\w)"
    if spaced:
        soft += rf"|\s(?P<spaced>{_tree(spaced)})(?!\w)"
    conditions = {c.cue for found in cues.values() for c in found if c.role is Role.IF and c.opens and " " not in c.cue}
    reasons = {c.cue for found in cues.values() for c in found if c.role is Role.BECAUSE and c.opens}
    return Lexicon(
        language=table["language"],
        cues=cues,
        abbreviations=frozenset(table.get("abbreviations", ())),
        closing_abbreviations=frozenset(table.get("closing_abbreviations", ())),
        starters=frozenset(table.get("starters", ())),
        suppose=frozenset(table.get("suppose", ())),
        subjects=frozenset(table.get("subjects", ())),
        auxiliaries=frozenset(table.get("auxiliaries", ())),
        adjective_endings=frozenset(table.get("adjective_endings", ())),
        prefix=_prefix(table.get("labels", []), table.get("interjections", [])),
        soft=re.compile(soft),
        inside=re.compile(rf"[\s,](?:{_tree(inside)})(?!\w)") if inside else None,
        conditions=frozenset(conditions),
        reasons=frozenset(reasons),
        pronouns=frozenset(table.get("pronouns", ())),
        focus=frozenset(table.get("focus", ())),
        continuers=frozenset(table.get("continuers", ())),
        parentheticals=frozenset(table.get("parentheticals", ())),
        participles=tuple(table.get("participles", ())) or ("\0",),
        then_marks=tuple(table.get("then_marks", ())),
        nested_commas=bool(table.get("nested_commas", False)),
    )


def _cue(entry: Mapping[str, Any], asking: frozenset[str], where: str) -> Cue:
    text = entry.get("cue", "")
    if not isinstance(text, str) or text != text.lower() or not LETTERS.match(text):
        raise InputError(f"{where}: a cue is lower-case text that begins with a letter.")
    places = frozenset(entry.get("at", ()))
    if not places or not places <= PLACES:
        raise InputError(f"{where}: at = {sorted(places)}; places are {', '.join(sorted(PLACES))}.")
    try:
        role = Role(entry.get("role", ""))
        other = Role(entry["else_role"]) if "else_role" in entry else None
    except ValueError as error:
        raise InputError(f"{where}: {error}; roles are {', '.join(Role)}.") from None
    senses = [entry.get("sense", ""), entry.get("else_sense", "")]
    for sense in senses:
        if sense and sense not in SENSES:
            raise InputError(f"{where}: {sense!r} is not a sense of PDTB-3.")
    if entry.get("if", "") not in ("", "condition", "premise"):
        raise InputError(f"{where}: if = {entry['if']!r}; it is condition or premise.")
    if entry.get("before", "") not in ("", "subject", "pronoun"):
        raise InputError(f"{where}: before = {entry['before']!r}; it is subject or pronoun.")
    not_after = entry.get("not_after", ())
    return Cue(
        cue=text,
        role=role,
        sense=senses[0],
        places=places,
        needs=entry.get("if", ""),
        otherwise=(other, senses[1]) if other is not None else None,
        not_before=tuple(entry.get("not_before", ())),
        not_after=asking if not_after == "asking" else frozenset(not_after),
        after=frozenset(entry.get("after", ())),
        opens=bool(entry.get("opens", False)),
        between_clauses=bool(entry.get("between_clauses", False)),
        subject=bool(entry.get("before", "")),
        strict_subject=entry.get("before", "") == "pronoun",
    )


def load_lexicon(path: str | Path) -> Lexicon:
    """Lexicon of a file. Raises InputError when it cannot be read or is wrong."""
    try:
        return parse_lexicon(Path(path).read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the lexicon cannot be read ({error}).") from None


@cache
def packaged_lexicons() -> Mapping[str, Lexicon]:
    """The lexicons that come with trails, by language."""
    folder = resources.files("trails.segment") / "lexicons"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".toml")), key=lambda file: file.name)
    found = [parse_lexicon(file.read_text(encoding="utf-8"), file.name) for file in files]
    return {lexicon.language: lexicon for lexicon in found}


STRUCTURE_ONLY = parse_lexicon('language = "und"\n', "und")
"""For a language without a lexicon: sentences and lines, no connectives."""
