"""What a model makes of a step behind each connective: "so", "because", "but", "then" before the same words.

In: the text before a step, the step's words without a connective, and connectives. Out: for each connective the log-likelihood
of itself behind the text, and of the words behind it, nats. Whether these numbers tell the role of a step is another question:
:mod:`trails.analyses.connectives` holds them against what is known without a model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from trails.measure.caching import handed_back, kept_by
from trails.platform.arrays import Doubles
from trails.schema import Role

CONNECTIVES: Mapping[str, Mapping[Role, str]] = {
    "en": {
        Role.THEREFORE: "so",
        Role.BECAUSE: "because",
        Role.BUT: "but",
        Role.NEXT: "then",
        Role.AND: "also",
    },
    "ru": {
        Role.THEREFORE: "поэтому",
        Role.BECAUSE: "потому что",
        Role.BUT: "но",
        Role.NEXT: "затем",
        Role.AND: "также",
    },
}
"""The connective that stands for a role, by language."""

BEFORE_CHARS = 600
"""Characters of the text before a step that the model sees, from the beginning of a word on."""


def behind_connectives(module: Any, tokenizer: Any, before: str, words: str, connectives: Sequence[str]) -> Doubles:
    """Log-likelihoods, nats, shape (connectives, 2): of the connective behind ``before``, and of ``words`` behind both.

    A connective begins with a capital where ``before`` ends a sentence. A token counts for the part in which it begins to be
    visible, and one of blanks alone for the part in which it stands. All zeros for a step without words.
    """
    near = before[-BEFORE_CHARS:]
    if len(near) < len(before):
        near = near.partition(" ")[2]
    near = near.rstrip()
    capital = not near or near[-1] in ".!?…:;\n"
    texts, starts = [], []
    for connective in connectives:
        said = connective[0].upper() + connective[1:] if capital else connective
        lead = f"{near} " if near else ""
        texts.append(f"{lead}{said} {words}")
        starts.append((len(lead), len(lead) + len(said) + 1))
    found = np.zeros((len(connectives), 2))
    if not words.strip():
        return found
    rows = [tokenizer(text, return_offsets_mapping=True) for text in texts]
    ids = [row["input_ids"] for row in rows]
    # the tokens before the connective are the same in every row: one pass for all
    shared = next((t for t, (_, end) in enumerate(rows[0]["offset_mapping"]) if end > starts[0][0]), 0)
    while shared and any(len(row) <= shared or row[:shared] != ids[0][:shared] for row in ids):
        shared -= 1
    shared, log_p = _log_likelihoods(module, ids, shared)
    for r, (row, (first, second)) in enumerate(zip(rows, starts, strict=True)):
        for t, (start, end) in enumerate(row["offset_mapping"]):
            at = _visible(texts[r], start, end)
            if t and end > start and at >= first:
                found[r, int(at >= second)] += log_p[r, t - max(shared, 1)]
    return found


def _log_likelihoods(module: Any, ids: Sequence[Sequence[int]], shared: int) -> tuple[int, Doubles]:
    """Log-likelihoods of the tokens of each row behind the ``shared`` ones that all begin with, nats, shape (rows, longest
    rest); the first token of a row has none. The rows are gone through whole, and the first number is 0, where the
    model keeps anything but keys and values, or where nothing is shared.
    """
    device = next(module.parameters()).device
    cache: Any = None
    before = None
    with torch.no_grad():
        if shared:
            near = module(input_ids=torch.tensor([ids[0][:shared]], device=device), use_cache=True, logits_to_keep=1)
            cache = kept_by(near)
            if _repeatable(cache):
                before = near.logits.expand(len(ids), -1, -1)
                cache.batch_repeat_interleave(len(ids))
            else:
                cache, shared = None, 0
        longest = max(map(len, ids))
        rest = torch.tensor([[*row[shared:], *[0] * (longest - len(row))] for row in ids], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=device)
        kept = handed_back(module, cache)
        logits = module(input_ids=rest, attention_mask=mask, use_cache=cache is not None, **kept).logits
        if before is not None:
            logits, rest = torch.cat([before, logits], 1), torch.nn.functional.pad(rest, (1, 0))
        found = torch.log_softmax(logits[:, :-1].float(), -1).gather(2, rest[:, 1:, None])[..., 0]
    return shared, found.double().cpu().numpy()


def _repeatable(cache: Any) -> bool:
    """Whether a cache holds keys and values alone, which can be had once for many rows."""
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    layers = getattr(cache, "layers", ())
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)


def _visible(text: str, start: int, end: int) -> int:
    """Where the token of ``text[start:end]`` begins to be visible; its start where it is blank."""
    return next((i for i in range(start, end) if not text[i].isspace()), start)


def mean_behind(module: Any, tokenizer: Any, before: str, text: str) -> float:
    """Mean log-likelihood a token of ``text`` behind ``before``, nats; NaN where none begins in it.

    As in :func:`behind_connectives`, a token that begins with the blanks of ``before`` is one of ``text``.
    """
    whole = before + text
    row = tokenizer(whole, return_offsets_mapping=True)
    ids = torch.tensor([row["input_ids"]], device=next(module.parameters()).device)
    with torch.no_grad():
        log_p = torch.log_softmax(module(input_ids=ids, use_cache=False).logits[0, :-1].float(), -1)
    found = []
    for t, (start, end) in enumerate(row["offset_mapping"]):
        if t and end > start and _visible(whole, start, end) >= len(before):
            found.append(float(log_p[t - 1, row["input_ids"][t]]))
    return float(np.mean(found)) if found else float("nan")
