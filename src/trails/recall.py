"""Completion recall: given a chain without its conclusion, how well does a model know the conclusion?

On unseen chains of the trained structure, beside the untrained model and an adapter trained on the same chains with their
steps shuffled.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Task:
    """One unseen chain: ``prefix`` (question and all steps but the last) and its candidate conclusions, the true one first."""

    chain: str
    question: str
    prefix: str
    candidates: tuple[str, ...]
