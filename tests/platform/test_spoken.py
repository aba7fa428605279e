"""A language is reported only where the words bear it out."""

from __future__ import annotations

import pytest

from trails.platform.spoken import spoken
from trails.readers import read
from trails.sample import canonical_path, path
from trails.segment import detect_language


@pytest.mark.parametrize(
    "text",
    [
        "Il pleut donc la rue est humide. Mais il fait beau, alors non.",
        "Wenn es regnet, dann ist die Strasse nass. Es regnet nicht, also ist sie trocken.",
        "Als het regent dan is de straat nat. Het regent niet, dus is zij droog.",
        "Si llueve entonces la calle esta mojada. No llueve. Por lo tanto no esta mojada.",
        "Se piove allora la strada e bagnata. Ma non piove, quindi la strada e asciutta.",
        "Jesli pada to ulica jest mokra. Nie pada wiec ulica nie jest mokra.",
        "Jika hujan maka jalan basah. Tetapi hari ini kering jadi tidak hujan sama sekali di sini.",
        "Lorem ipsum dolor sit amet consectetur adipiscing elit sed eiusmod tempor incididunt labore dolore.",
    ],
)
def test_latin_letters_are_no_english(text: str) -> None:
    assert detect_language(text) == "en", "by the script alone"
    assert spoken("en", text) == "unknown"


@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("en", "If it rains, then the street is wet.", "en"),
        ("en", "x = 2, so x + 1 = 3.", "en"),
        ("en", "48/2 = 24 clips", "en"),
        ("en", "He said: je ne sais pas. So he does not know it, and we do.", "en"),
        ("ru", "Если дождь, то мокро.", "ru"),
        ("fr", "Il pleut donc la rue est humide.", "fr"),
        ("und", "数列的和是多少？", "unknown"),
        ("", "", "unknown"),
    ],
)
def test_what_is_known_stays(language: str, text: str, said: str) -> None:
    assert spoken(language, text) == said


def test_every_packaged_chain_speaks_its_language() -> None:
    chains = list(read([path(), canonical_path()]))
    found = {spoken(chain.language or detect_language(chain.text), chain.text) for chain in chains}
    assert len(chains) > 700
    assert found == {"en", "ru"}
