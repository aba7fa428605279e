"""Microvariants of a chain: small edits in the model's own vocabulary, each measured against its parent and gated.

Six kinds: ``plain`` (the chain itself), ``highlight`` (one word marked), ``summary`` (``→ summary:`` inserted at a step),
``drop_last`` (the last line dropped), ``json`` (a JSON-like structure around steps), ``synonym`` (one word, verbs first,
replaced by a likely one that the model itself predicts there).

The bound on token edits holds between a variant and its *parent*. Kinds that by nature change more are ladders: each rung
is the parent of the next and differs from it by at most the bound; ``distance`` says how far a rung is from the chain
itself. A dropped last line of 30 tokens is a ladder of 15 rungs; ``[HIGHLIGHT]`` takes six tokens in SmolLM2's vocabulary
and so three rungs, where ``*word*`` takes one.

Volatility: mean Jensen–Shannon divergence (nats, at most ln 2) between the predictive distributions of chain and variant
at the tokens they have in common (longest common alignment, the token after the same token). Before the first edit it is
exactly 0; ``volatility_after`` leaves that part out. The noise floor is the same number for the chain against itself, once
whole and once continued from the middle.

Four modules: ``edits`` (a function per kind), ``measuring`` (:func:`trails.variants.measuring.make_variants`, the only one that
imports torch), ``files`` and ``stored``.
"""

from __future__ import annotations

from trails.variants.base import Variant, VariantReport
from trails.variants.edits import KINDS, VariantOptions

__all__ = ["KINDS", "Variant", "VariantOptions", "VariantReport"]
