"""The hundred canonical families: the packaged file is what its parts give, and every text walks the five roles."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from trails.readers import read
from trails.sample import canonical_path
from trails.schema import Chain
from trails.segment import segment

ROOT = Path(__file__).parents[2]
WALK = ["IF", "THEN", "BUT", "HOWEVER", "THEREFORE"]


@pytest.fixture(scope="module")
def chains() -> list[Chain]:
    return list(read([canonical_path()]))


@pytest.mark.slow
def test_the_packaged_file_is_what_the_parts_give() -> None:
    subprocess.run([sys.executable, ROOT / "scripts" / "make_canonical.py", "--check"], check=True)


def test_there_are_a_hundred_families_in_two_languages_with_seven_versions_each(chains: list[Chain]) -> None:
    versions = defaultdict(set)
    for chain in chains:
        versions[chain.family].add(chain.metadata["version"])
    assert len(versions) == 100
    assert {len(names) for names in versions.values()} == {7}
    assert Counter(chain.language for chain in chains) == {"en": 350, "ru": 350}
    assert len({chain.text for chain in chains}) == len({chain.id for chain in chains}) == 700


@pytest.mark.parametrize("version", ["plain", "reworded", "joined", "lines"])
def test_a_text_with_all_five_connectives_walks_the_five_roles(chains: list[Chain], version: str) -> None:
    walks = {c.source_id: [s.role.value for s in segment(c)] for c in chains if c.metadata["version"] == version}
    assert len(walks) == 100
    assert {name: walk for name, walk in walks.items() if walk != WALK} == {}


@pytest.mark.parametrize("version", ["supposed", "assumed"])
def test_a_supposition_stands_where_the_condition_would(chains: list[Chain], version: str) -> None:
    walks = {c.source_id: [s.role.value for s in segment(c)] for c in chains if c.metadata["version"] == version}
    assert {name: walk for name, walk in walks.items() if walk != ["NONE", *WALK[1:]]} == {}


def test_every_text_reads_as_sentences(chains: list[Chain]) -> None:
    for chain in chains:
        assert chain.text.endswith("."), chain.source_id
        assert not re.search(r"\.\.|\s\s|[,;:]\.|\b(\w+) \1\b| [,.;]|[{}]", chain.text), (chain.source_id, chain.text)
