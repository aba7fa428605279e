"""Chains by family for the experiments, and which family plays which part.

H is held-out text of the trained family, U an unseen form (another family), D unrelated text. No row of H, U or D shares a
13-gram of tokens with a training row: chains that do are left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trails.errors import UsageError
from trails.experiments.scale import DEVELOPMENT
from trails.export.split import GRAM, grams
from trails.measure.base import Segmented
from trails.readers import ReadOptions, read
from trails.schema import stable_hash
from trails.segment import detect_language, segment

UNRELATED = "unrelated"
"""Sources that begin with this word are text without reasoning, for D."""

ENOUGH = 40
"""Chains that a family needs to be trained on and held out."""


@dataclass(frozen=True, slots=True)
class Roles:
    """Which source is trained on (H is held out from it), which is the unseen form, which is unrelated."""

    trained: str
    unseen: str
    unrelated: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Corpus:
    """Segmented chains by source, in a fixed order. ``digest`` names the texts."""

    families: Mapping[str, tuple[Segmented, ...]]
    roles: Roles
    digest: str
    notes: tuple[str, ...] = field(default=())

    def family(self, source: str, seed: int) -> list[Segmented]:
        """Chains of a source in an order that depends on the seed and their content only."""
        return sorted(self.families[source], key=lambda item: stable_hash(str(seed), item.chain.id))

    def block(self, source: str, seed: int, size: int) -> list[Segmented]:
        """Chains of a source, beginning at the seed's own block of ``size``: blocks of different seeds are disjoint as far as
        the family allows, and development seeds take theirs from the end.
        """
        whole = sorted(self.families[source], key=lambda item: stable_hash(item.chain.id))
        start = -(seed - DEVELOPMENT + 1) * size if seed >= DEVELOPMENT else seed * size
        start %= max(len(whole), 1)
        return whole[start:] + whole[:start]

    def reasoning(self) -> list[str]:
        """Names of the sources that are not unrelated text."""
        return [name for name in sorted(self.families) if name not in self.roles.unrelated]

    def unrelated(self, seed: int) -> list[Segmented]:
        """Chains of all unrelated sources, mixed."""
        found = [item for source in self.roles.unrelated for item in self.families[source]]
        return sorted(found, key=lambda item: stable_hash(str(seed), item.chain.id))

    def wordings(self, least: int) -> dict[str, list[Segmented]]:
        """Questions answered in at least ``least`` different ways: (source and question) → its chains, longest first."""
        groups: dict[str, dict[str, Segmented]] = {}
        for source, items in self.families.items():
            for item in items:
                if item.chain.question and source not in self.roles.unrelated:
                    key = stable_hash(source, item.chain.question)
                    groups.setdefault(key, {}).setdefault(" ".join(item.chain.text.split()), item)
        return {key: list(group.values()) for key, group in sorted(groups.items()) if len(group) >= least}


def load_corpus(
    paths: Sequence[Path],
    *,
    trained: str = "",
    unseen: str = "",
    unrelated: Sequence[str] = (),
    language: str = "",
) -> Corpus:
    """Read chains from files or folders (all readers), segment them and give the sources their parts.

    Without names: trained is the family with the longest median chain among those with at least 40 chains (or the largest),
    unseen the longest other family in the same language, unrelated the sources named ``unrelated…``, or else the family
    least like it: another language, or the shortest. Raises UsageError for a source that is not there, or too few families.
    """
    families: dict[str, list[Segmented]] = {}
    for chain in read([str(path) for path in paths], options=ReadOptions()):
        if not chain.language:
            chain = replace(chain, language=detect_language(chain.text))
        if not language or chain.language == language:
            families.setdefault(chain.source, []).append(Segmented(chain, segment(chain)))
    ordered = {name: tuple(sorted(items, key=lambda i: i.chain.id)) for name, items in sorted(families.items())}
    roles = _roles(ordered, trained, unseen, tuple(unrelated))
    digest = stable_hash(*(item.chain.id for items in ordered.values() for item in items))
    return Corpus(ordered, roles, digest)


def _roles(families: Mapping[str, tuple[Segmented, ...]], trained: str, unseen: str, given: tuple[str, ...]) -> Roles:
    for name in (trained, unseen, *given):
        if name and name not in families:
            raise UsageError(f"source {name!r} is not in the data. Sources: {', '.join(families) or 'none'}.")
    plain = tuple(name for name in families if name.startswith(UNRELATED))
    chains = [name for name in families if name not in (plain or given)]
    if not chains:
        raise UsageError("the data holds no chains to train on. Give files with reasoning chains: --data PATH")
    length = {name: statistics.median(len(i.chain.text) for i in families[name]) for name in families}
    enough = [name for name in chains if len(families[name]) >= ENOUGH] or [
        max(chains, key=lambda n: (len(families[n]), n))
    ]
    trained = trained or max(enough, key=lambda name: (length[name], name))
    spoken = families[trained][0].chain.language
    others = [name for name in chains if name != trained and name not in given]
    others = [name for name in others if len(families[name]) >= 12] or others
    if not unseen:
        same = [name for name in others if families[name][0].chain.language == spoken]
        if not (same or others):
            raise UsageError(f"an unseen form is needed besides {trained!r}: give data with at least two sources.")
        unseen = max(same or others, key=lambda name: (length[name], name))
    unrelated = given or plain
    if not unrelated:
        rest = [name for name in others if name != unseen]
        if not rest:
            raise UsageError(
                f"unrelated text is needed besides {trained!r} and {unseen!r}: give a third source, "
                f"or one named {UNRELATED}…"
            )
        unrelated = (max(rest, key=lambda n: (families[n][0].chain.language != spoken, -length[n], n)),)
    return Roles(trained, unseen, unrelated)


def disjoint(rows: Sequence[Sequence[int]], taken: Sequence[Sequence[int]], n: int = GRAM) -> list[int]:
    """Indices of the rows that share no n-gram with any row of ``taken``."""
    known = grams_of(taken, n)
    return [index for index, row in enumerate(rows) if not (grams(row, n) & known)]


def grams_of(rows: Sequence[Sequence[int]], n: int = GRAM) -> set[tuple[Hashable, ...]]:
    """Every n-gram of some rows."""
    found: set[tuple[Hashable, ...]] = set()
    for row in rows:
        found |= grams(row, n)
    return found
