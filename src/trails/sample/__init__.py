"""The packaged sample: reasoning chains in English and Russian, short and long, with licences that allow shipping them.

``path()`` is a file that every reader entry point takes; ``LICENCES/`` and ``NOTICE`` beside it say where the chains come from.
Made by ``scripts/make_sample.py``.
"""

from __future__ import annotations

from pathlib import Path

PAIR_SOURCE = "trails/pair"
"""Source of the two sentences that a person reads as the same and a model does not."""

CANONICAL_SOURCE = "trails/canonical"
"""Source of the chain если → тогда → но → однако → вывод in five versions, in Russian and in English."""


def path() -> Path:
    """The sample as native JSON Lines (reader ``trails``)."""
    return Path(__file__).with_name("chains.jsonl")
