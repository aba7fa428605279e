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
    longest = max(len(row["input_ids"]) for row in rows)
    device = next(module.parameters()).device
    ids = torch.tensor([[*row["input_ids"], *[0] * (longest - len(row["input_ids"]))] for row in rows], device=device)
    mask = torch.tensor(
        [[1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in rows], device=device
    )
    with torch.no_grad():
        logits = module(input_ids=ids, attention_mask=mask, use_cache=False).logits.float()
    log_p = torch.log_softmax(logits[:, :-1], -1).gather(2, ids[:, 1:, None])[..., 0].double().cpu().numpy()
    for r, (row, (first, second)) in enumerate(zip(rows, starts, strict=True)):
        for t, (start, end) in enumerate(row["offset_mapping"]):
            at = _visible(texts[r], start, end)
            if t and end > start and at >= first:
                found[r, int(at >= second)] += log_p[r, t - 1]
    return found


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
