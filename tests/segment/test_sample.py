"""The packaged sample: what it promises, and that every chain of it can be read, split and shipped."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

from trails import sample
from trails.readers import read, write_chains
from trails.schema import Role
from trails.segment import detect_language, segment

SHIPPED = {"MIT", "Apache-2.0", "public domain"}


def test_the_sample_holds_what_it_promises() -> None:
    chains = list(read([sample.path()]))
    assert len(chains) >= 110
    assert len({chain.id for chain in chains}) == len(chains)
    assert {chain.licence for chain in chains} == SHIPPED
    sources = Counter(chain.source for chain in chains)
    assert set(sources) == {
        *("gsm8k/train", "marco-o1/cot_demo", "ru-answers/answers", "spinoza/ethics"),
        *(sample.CANONICAL_SOURCE, sample.PAIR_SOURCE),
    }
    languages = Counter(detect_language(chain.text) for chain in chains)
    assert languages["ru"] >= 17
    assert languages["en"] >= 90
    assert languages["und"] == 0
    assert sum(len(chain.text) > 2_000 for chain in chains) >= 4


def test_every_source_is_in_the_notice_and_every_licence_text_is_beside() -> None:
    folder = sample.path().parent
    notice = (folder / "NOTICE").read_text(encoding="utf-8")
    for chain in read([sample.path()]):
        assert chain.source in notice
    texts = sorted(file.name for file in (folder / "LICENCES").iterdir())
    assert texts == ["gsm8k-MIT.txt", "marco-o1-Apache-2.0.txt", "ru-answers-Apache-2.0.txt"]
    assert all(name in notice for name in texts)


def test_the_canonical_chain_has_its_roles_in_every_version() -> None:
    versions = [chain for chain in read([sample.path()]) if chain.source == sample.CANONICAL_SOURCE]
    assert Counter(chain.language for chain in versions) == {"ru": 5, "en": 5}
    for chain in versions:
        roles = [step.role for step in segment(chain) if step.role is not Role.NONE]
        assert roles == [Role.IF, Role.THEN, Role.BUT, Role.HOWEVER, Role.THEREFORE], chain.source_id


def test_the_pair_is_word_for_word() -> None:
    pair = {chain.source_id: chain.text for chain in read([sample.path()]) if chain.source == sample.PAIR_SOURCE}
    assert pair == {
        "not-equal": "Мышление не равно генерации текста.",
        "is-not": "Мышление — это не генерация текста.",
    }


def test_borders_handed_back_give_the_same_roles() -> None:
    # a step's role follows from its text and the step before, so fixing the found borders changes (nearly) nothing
    same = total = 0
    for chain in read([sample.path()]):
        if not chain.boundaries:
            free = segment(chain)
            borders = tuple(step.start for step in free)
            fixed = segment(replace(chain, boundaries=borders), keep_source_steps=True)
            same += sum(a.role is b.role for a, b in zip(free, fixed, strict=True))
            total += len(free)
    assert total > 300
    assert same / total >= 0.98


def test_the_file_is_what_writing_its_chains_gives(tmp_path: Path) -> None:
    out = io.StringIO()
    write_chains(read([sample.path()]), out)
    assert out.getvalue() == sample.path().read_text(encoding="utf-8")
