"""How well the segmenter agrees with steps that a person labelled: roles where the borders are given, and borders alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from trails.analyses.report import Finding, Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.analyses.statistics import Interval, bootstrap, how_resampled
from trails.errors import UsageError
from trails.platform.arrays import Doubles
from trails.platform.text import counted, percent
from trails.schema import Chain, Role, Step
from trails.segment import detect_language, segment

_LEAST_CHAINS = 5
"""Chains below which an interval, and with it a score, is withheld."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A chain whose steps a person labelled: ``starts`` are character offsets, the first 0, with a role each.

    ``stored`` are the steps that the segmenter made when the chain was ingested (none: it is run now).
    """

    chain: Chain
    starts: tuple[int, ...]
    roles: tuple[Role, ...]
    stored: tuple[Step, ...] = ()

    @property
    def language(self) -> str:
        """Language of the chain, detected where it says none."""
        return self.chain.language or detect_language(self.chain.text)


@dataclass(frozen=True, slots=True)
class Wrong:
    """A step whose role differs (``labelled`` and ``found``), or a border that only one of the two has."""

    language: str
    chain: str
    start: int
    text: str
    kind: str
    labelled: str
    found: str


@dataclass(frozen=True, slots=True)
class RoleScore:
    """One role in one language, the labelled borders given: steps labelled, found and right, with precision and recall."""

    language: str
    role: str
    labelled: int
    found: int
    right: int
    precision: float
    precision_interval: Interval | None
    recall: float
    recall_interval: Interval | None


@dataclass(frozen=True, slots=True)
class RoleAgreement(Finding):
    """What :func:`score_roles` found. Intervals resample chains. ``n_stored`` steps were scored by the role that the home
    stores.
    """

    n_chains: Mapping[str, int]
    n_steps: Mapping[str, int]
    roles: tuple[RoleScore, ...]
    scores: tuple[Score, ...]
    withheld: tuple[Withheld, ...]
    wrong: tuple[Wrong, ...]
    n_stored: int = 0

    def report(self) -> Report:
        """The verdict first."""
        steps = sum(self.n_steps.values())
        right = steps - sum(case.kind == "role" for case in self.wrong)
        share = f"{right:,} of {counted(steps, 'step')} ({percent(right / steps)})"
        verdict = f"with the labelled borders given, {share} have the labelled role"
        notes = ["Intervals resample chains. A role with fewer than ten labelled steps is hardly measured."]
        if self.n_stored:
            again = steps - self.n_stored
            verdict = f"of the roles that the home stores, those of {share} are the labelled ones"
            said = "Scored are the steps of the home, as the segmenter made them at ingest"
            moved = counted(again, "step with other borders has", "steps with other borders have")
            of_moved = f"; {moved} the role that it finds with these borders given"
            notes.insert(0, said + (of_moved if again else "") + ".")
        rows = [
            {
                "language": one.language,
                "role": one.role,
                "labelled": one.labelled,
                "found": one.found,
                "right": one.right,
                "precision": one.precision,
                "precision_95": _span(one.precision_interval),
                "recall": one.recall,
                "recall_95": _span(one.recall_interval),
            }
            for one in self.roles
        ]
        names = ("language", "chain", "start", "kind", "labelled", "found", "text")
        wrong = [{name: getattr(case, name) for name in names} for case in self.wrong]
        return Report(
            "roles",
            verdict,
            facts={
                "n_chains": sum(self.n_chains.values()),
                "n_steps": steps,
                **({"n_stored": self.n_stored} if self.n_stored else {}),
                "chains_by_language": dict(self.n_chains),
                "steps_by_language": dict(self.n_steps),
            },
            tables=(
                ReportTable(
                    "per_role",
                    pa.Table.from_pylist(rows),
                    "roles, the labelled borders given",
                    {
                        "language": "language",
                        "role": "role",
                        "labelled": "labelled",
                        "found": "found",
                        "right": "right",
                        "precision": "precision",
                        "precision_95": "95 %",
                        "recall": "recall",
                        "recall_95": "its 95 %",
                    },
                ),
                ReportTable("wrong", _table_of(wrong, names), "where they differ", detail=True),
            ),
            scores=self.scores,
            withheld=self.withheld,
            notes=tuple(notes),
        )


def _span(interval: Interval | None) -> str:
    return f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else ""


def _table_of(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> pa.Table:
    kinds = {"start": pa.int64()}
    return pa.table({name: pa.array([row[name] for row in rows], kinds.get(name, pa.string())) for name in names})


def _f1(counts: Doubles) -> float:
    """F1 of rows (right, found, labelled)."""
    right, found, labelled = counts.reshape(-1, 3).sum(axis=0)
    return float(2 * right / (found + labelled)) if found + labelled else np.nan


def _macro(counts: Doubles) -> float:
    """Mean F1 over the roles that are labelled (in a resample: in it); counts of shape (chains, roles, 3)."""
    right, found, labelled = counts.sum(axis=0).T
    there = labelled > 0
    return float(np.mean(2 * right[there] / (found + labelled)[there]))


def _ratio(place: int) -> Callable[[Doubles], float]:
    """Right steps of those found (1) or of those labelled (2)."""

    def ratio(counts: Doubles) -> float:
        right, whole = counts[:, 0].sum(), counts[:, place].sum()
        return float(right / whole) if whole else np.nan

    return ratio


def score_roles(labelled: Iterable[Labelled], *, draws: int = 1000) -> RoleAgreement:
    """Compare what the segmenter finds with the labels, by language.

    Roles are found with the labelled borders given, borders without them (the source's own borders stay; offset 0 is no
    border). A chain with stored steps is scored by these: by their roles where a labelled step has the same borders, and by
    their borders. The control of the roles gives every step the commonest label, that of the borders splits at lines and
    sentences only. Chains may come in any order. Raises UsageError for no labelled chain.
    """
    groups: dict[str, list[Labelled]] = {}
    for item in sorted(labelled, key=lambda item: item.chain.id):
        groups.setdefault(item.language, []).append(item)
    if not groups:
        raise UsageError("no labelled chain was given: there is nothing to compare with")
    order = list(Role)
    per_role: list[RoleScore] = []
    scores: list[Score] = []
    withheld: list[Withheld] = []
    wrong: list[Wrong] = []
    n_stored = 0
    for language, items in sorted(groups.items()):
        counts = np.zeros((len(items), len(order), 3))
        majority = np.zeros_like(counts)
        borders, plain = np.zeros((len(items), 3)), np.zeros((len(items), 3))
        given_roles = Counter(role for item in items for role in item.roles)
        common = max(order, key=lambda role: given_roles[role])  # of two as common the first
        for number, item in enumerate(items):
            text = item.chain.text
            given = segment(replace(item.chain, boundaries=item.starts), keep_source_steps=True)
            ends = [*item.starts[1:], len(text)]
            stored = {(step.start, step.end): Role(step.automatic_role or step.role) for step in item.stored}
            for step, role, start, end in zip(given, item.roles, item.starts, ends, strict=True):
                n_stored += (start, end) in stored
                own = stored.get((start, end), step.role)
                for found, table in ((own, counts), (common, majority)):
                    table[number, order.index(found), 1] += 1
                    table[number, order.index(role), 2] += 1
                    table[number, order.index(role), 0] += found is role
                if own is not role:
                    shown = " ".join(text[start:end].split())
                    wrong.append(Wrong(language, item.chain.id, start, shown, "role", role.value, own.value))
            gold = {*item.starts} - {0}
            for lexicons, into in ((None, borders), ({}, plain)):
                ours = item.stored if item.stored and lexicons is None else segment(item.chain, lexicons)
                found_at = {step.start for step in ours} - {0}
                into[number] = len(found_at & gold), len(found_at), len(gold)
                if lexicons is None:
                    for at in sorted(found_at ^ gold):
                        shown = (
                            " ".join(text[max(0, at - 30) : at].split()) + " | " + " ".join(text[at : at + 50].split())
                        )
                        both = ("border", "none") if at in gold else ("none", "border")
                        wrong.append(Wrong(language, item.chain.id, at, shown, "border", *both))
        for place, role in enumerate(order):
            one = counts[:, place]
            right, found_n, labelled_n = (int(n) for n in one.sum(axis=0))
            if not labelled_n and not found_n:
                continue
            per_role.append(
                RoleScore(
                    language,
                    role.value,
                    labelled_n,
                    found_n,
                    right,
                    right / found_n if found_n else np.nan,
                    bootstrap(one, _ratio(1), draws=draws),
                    right / labelled_n if labelled_n else np.nan,
                    bootstrap(one, _ratio(2), draws=draws),
                )
            )
        if len(items) < _LEAST_CHAINS:
            reason = f"{counted(len(items), 'labelled chain')} in {language}; an interval needs {_LEAST_CHAINS}"
            withheld.append(Withheld(f"scores of {language}", reason))
            continue
        again = how_resampled(draws=draws)
        scores += [
            Score(
                f"macro F1 of the roles, {language}",
                _macro(counts),
                "0..1",
                (
                    Control(
                        f"every step {common.value}", _macro(majority), bootstrap(majority, _macro, draws=draws), again
                    ),
                ),
                bootstrap(counts, _macro, draws=draws),
                how=again,
            ),
            Score(
                f"F1 of the borders, {language}",
                _f1(borders),
                "0..1",
                (Control("lines and sentences only", _f1(plain), bootstrap(plain, _f1, draws=draws), again),),
                bootstrap(borders, _f1, draws=draws),
                how=again,
            ),
        ]
    return RoleAgreement(
        {language: len(items) for language, items in sorted(groups.items())},
        {language: sum(len(item.roles) for item in items) for language, items in sorted(groups.items())},
        tuple(per_role),
        tuple(scores),
        tuple(withheld),
        tuple(wrong),
        n_stored,
    )
