"""Character spans of steps and of tokens, brought together.

In: spans as integer arrays of shape ``(count, 2)``, half open, in characters (Unicode code points) of the same text.
Out: token spans of the steps. Pure arithmetic: no model, no tokenizer.

A token belongs to the step of its last character: a token that crosses a border is counted once, in the later step. A
token that ends inside a character is empty and belongs to the step of the character it is a part of.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Spans = npt.NDArray[np.int32] | Sequence[tuple[int, int]]


def _as_spans(spans: Spans, name: str) -> npt.NDArray[np.int64]:
    array = np.asarray(spans, dtype=np.int64).reshape(-1, 2)
    if (array[:, 0] > array[:, 1]).any() or (array[1:, 0] != array[:-1, 1]).any() or (len(array) and array[0, 0] != 0):
        raise ValueError(
            f"{name} do not partition a text: they must start at 0 and follow each other without hole or overlap"
        )
    return array


def assign_tokens(step_spans: Spans, token_spans: Spans) -> npt.NDArray[np.int32]:
    """Token span of every step.

    ``step_spans`` has shape ``(S, 2)``, ``token_spans`` ``(n, 2)``; both partition the same text. Returns int32 of shape
    ``(S, 2)``: half-open ranges that partition ``0 … n`` in order. A step in which no token ends gets an empty range.
    Raises ValueError when the spans are not partitions or do not end at the same character.
    """
    steps = _as_spans(step_spans, "step spans")
    tokens = _as_spans(token_spans, "token spans")
    if len(steps) == 0:
        if len(tokens):
            raise ValueError(f"{len(tokens)} tokens but no step to hold them")
        return np.zeros((0, 2), dtype=np.int32)
    text_end = int(tokens[-1, 1]) if len(tokens) else int(steps[-1, 1])
    if len(tokens) and steps[-1, 1] != text_end:
        raise ValueError(f"steps end at character {int(steps[-1, 1])}, tokens at {text_end}")
    # the character that decides: the last one of the token, or the one an empty token is a part of
    decisive = np.where(tokens[:, 1] > tokens[:, 0], tokens[:, 1] - 1, tokens[:, 0])  # (n,) never decreasing
    decisive = np.minimum(decisive, max(text_end - 1, 0))
    ends = np.searchsorted(decisive, steps[:, 1], side="left")  # (S,) tokens decided before the step's end
    ends[-1] = len(tokens)  # an empty text may still have empty tokens
    starts = np.concatenate(([0], ends[:-1]))
    return np.stack((starts, ends), axis=1).astype(np.int32)
