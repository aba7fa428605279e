"""Packaged chains: a sample in English and Russian, short and long, and the hundred canonical families.

``path()`` is a file that every reader entry point takes; ``LICENCES/`` and ``NOTICE`` beside it say where the chains come from.
Made by ``scripts/make_sample.py`` and ``scripts/make_canonical.py``.
"""

from __future__ import annotations

from pathlib import Path

PAIR_SOURCE = "trails/pair"
"""Source of the two sentences that a person reads as the same and a model does not."""

CANONICAL_SOURCE = "trails/canonical"
"""Source of the chain если → тогда → но → однако → вывод in five versions, in Russian and in English."""

HUNDRED_SOURCE = "trails/hundred"
"""Source of the hundred families of that form, seven versions each."""


def canonical_path() -> Path:
    """The hundred canonical families as native JSON Lines (reader ``trails``): 50 topics in English and in Russian."""
    return Path(__file__).with_name("canonical.jsonl")


def path() -> Path:
    """The sample as native JSON Lines (reader ``trails``)."""
    return Path(__file__).with_name("chains.jsonl")
