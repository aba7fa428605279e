"""What the measuring of microvariants gives."""

from __future__ import annotations

from dataclasses import dataclass, field

from trails.platform.arrays import Floats, Ints
from trails.schema import Chain, Step


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant and what the model made of it. ``edits`` counts tokens against the parent, ``distance`` against the chain.

    ``parent`` is the id of a chain or of the rung before. ``hidden_drift`` (L+1,) is the mean 1 - cosine to the chain's hidden
    states at common tokens, by layer (0 = input embeddings); ``logit_drift`` the mean total variation of the predictive
    distributions there; ``attention_drift`` (L,) the mean total variation of the binned attention of its steps, None unless
    measured. ``reason`` says why the gate did not accept it.
    """

    chain: Chain
    steps: tuple[Step, ...]
    root: str
    parent: str
    kind: str
    detail: str
    edits: int
    distance: int
    token_ids: Ints
    token_start: Ints
    token_end: Ints
    step_tokens: Ints
    surprisal: Floats
    entropy: Floats
    volatility: float
    volatility_after: float
    logit_drift: float
    hidden_drift: Floats
    accepted: bool
    reason: str = ""
    attention_drift: Floats | None = None


@dataclass(frozen=True, slots=True)
class VariantReport:
    """All variants of one chain, accepted and not. ``passes`` is the work done in forward passes of the chain, by tokens."""

    chain: str
    variants: tuple[Variant, ...]
    noise_floor: float
    passes: float
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def accepted(self) -> tuple[Variant, ...]:
        """Those within the bound and the budget."""
        return tuple(variant for variant in self.variants if variant.accepted)
