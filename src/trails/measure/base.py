"""What a scorer promises, and the text it sees.

The sequence that a scorer measures is ``prefix + question + infix + chain``:

- plain policy: prefix = BOS if the policy asks for it; question = question text + ``"\\n"``; infix empty
- chat policy: prefix and infix are the pieces of the model's chat template around the question

Question and chain are tokenised apart, so no token crosses from the context into the chain, and the chain's tokens do not
depend on the context. The decoded chain tokens are the chain's text, for every Unicode text without lone surrogates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, runtime_checkable

from trails.schema import MEASURES, Chain, Run, Step, Trace, with_arrays


@dataclass(frozen=True, slots=True)
class Segmented:
    """A chain with its steps: what the segmenter hands to the scorer. The steps partition ``chain.text``."""

    chain: Chain
    steps: tuple[Step, ...]


TOP_K = 5
"""Most likely vocabulary items that are kept for every token unless another number is asked for."""


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """What to measure beyond the measures that are always taken.

    ``batch_tokens`` bounds the padded tokens of one forward pass; 0 chooses by device (one chain at a time on a CPU,
    which makes results independent of what else is in the batch). ``peaks`` is k, the number of token-to-token peaks.
    ``states`` lists layers whose mean hidden state per step is kept. ``premises`` measures every step also under the
    question alone and without the previous step. ``top_k`` is the number of most likely vocabulary items that are kept for
    every token; None keeps :data:`TOP_K` of a chain that is measured, and asks for nothing of one that was measured before.
    ``gradients`` names the target whose gradient effect is kept: ``conclusion``, ``answer`` or a token's position; empty =
    none.
    """

    batch_tokens: int = 0
    token_attention: bool = False
    peaks: int = 0
    premises: bool = False
    states: tuple[int, ...] = ()
    top_k: int | None = None
    gradients: str = ""

    @property
    def n_top(self) -> int:
        """Most likely items that are kept for every token of a chain that is measured now."""
        return TOP_K if self.top_k is None else self.top_k


def with_derived(trace: Trace) -> Trace:
    """The trace with the measures that follow from its others (``Measure.of``). The last thing that a scorer does."""
    found = {}
    for measure in MEASURES:
        if measure.of:
            module, _, function = measure.of.partition(":")
            found[measure.name] = getattr(import_module(module), function)(trace)
    return with_arrays(trace, found) if found else trace


@runtime_checkable
class Scorer(Protocol):
    """A measuring instrument."""

    run: Run

    def count_tokens(self, item: Segmented) -> int:
        """Length of the whole sequence (context and chain) in tokens, for batching and for progress."""

    def measure(self, items: Sequence[Segmented], options: MeasureOptions) -> list[Trace]:
        """Measure every item; traces come back in the order of the items.

        The scorer forms its own batches (by length, within ``options.batch_tokens``). Raises ModelError for an item
        that is longer than the model's window under the ``refuse`` policy.
        """
