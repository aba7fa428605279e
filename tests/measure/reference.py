"""The measures again, slowly: float64, one prefix at a time, straight from their definitions.

For every token the model runs on the text up to that token alone, with its own eager attention, and only the last row is
looked at. No mask, no padding, no batch, no tile and none of the product's reductions can hide in here.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trails.measure.base import Segmented
from trails.measure.huggingface import HuggingFaceScorer
from trails.measure.passes import baseline_pairs
from trails.schema import Chain, Step, Trace

QUESTION = "How many?"
TEXT = "If a is 1, then b is 2. But c is 3. Однако 🙂. Therefore 6."
CUTS = ("But", "Однако", "Therefore")


def byte_tokenizer(*, bos: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE with a few merges: 256 bytes, some pairs, and one special token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "i"), ("Ġi", "s"), ("Ġ", "Ð"), ("Ð", "½")]
    vocabulary = {piece: index for index, piece in enumerate([*alphabet, *("".join(m) for m in merges), "<s>"])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, **({"bos_token": "<s>"} if bos else {}))


def item(text: str = TEXT, question: str = QUESTION, cuts: tuple[str, ...] = CUTS, source_id: str = "1") -> Segmented:
    """A segmented chain whose steps begin at the given words."""
    edges = [0, *(text.index(cut) for cut in cuts), len(text)]
    steps = tuple(Step(index, a, b) for index, (a, b) in enumerate(pairwise(edges)))
    return Segmented(Chain("test", source_id, question, text), steps)


def scorer_of(model: Any, **options: Any) -> HuggingFaceScorer:
    """A scorer around a model in memory."""
    tokenizer = options.pop("tokenizer", None) or byte_tokenizer(bos=options.get("bos") == "always")
    return HuggingFaceScorer(model, tokenizer, name="tiny", revision="0", **options)


@dataclass
class Rows:
    """Last rows of every prefix of one sequence."""

    log_p: np.ndarray  # (T, V)
    attention: list[np.ndarray]  # T × (L, H, t+1)
    hidden: np.ndarray  # (T, L+1, d), the last one before the final norm


def rows_of(model: Any, ids: list[int]) -> Rows:
    """Run every prefix in float64."""
    model = copy.deepcopy(model).double().eval()
    for module in model.modules():
        if hasattr(getattr(module, "config", None), "_attn_implementation"):
            module.config._attn_implementation = "eager"
        if hasattr(getattr(module, "config", None), "_experts_implementation"):
            module.config._experts_implementation = "eager"  # the grouped kernel knows no float64
    layers = next(
        m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == model.config.num_hidden_layers
    )
    last: list[torch.Tensor] = []
    handle = layers[-1].register_forward_hook(
        lambda _m, _i, out: last.append(out[0] if isinstance(out, tuple) else out)
    )
    log_p, attention, hidden = [], [], []
    with torch.no_grad():
        for end in range(1, len(ids) + 1):
            last.clear()
            out = model(torch.tensor([ids[:end]]), output_attentions=True, output_hidden_states=True, use_cache=False)
            log_p.append(torch.log_softmax(out.logits[0, -1].double(), -1).numpy())
            attention.append(torch.stack([a[0, :, -1].double() for a in out.attentions]).numpy())
            states = [*(h[0, -1] for h in out.hidden_states[:-1]), last[0][0, -1]]
            hidden.append(torch.stack(states).double().numpy())
    handle.remove()
    return Rows(np.stack(log_p), attention, np.stack(hidden))


def measured_slowly(model: Any, trace: Trace, context: list[int]) -> dict[str, np.ndarray]:
    """Every array of ``trace``, computed from the definitions. ``context`` are the ids before the chain."""
    c, n, spans = len(context), trace.n_tokens, trace.step_tokens
    ids = [*context, *trace.token_ids.tolist()]
    rows, S = rows_of(model, ids), len(spans)
    L = rows.attention[0].shape[0]
    step_of = [next(s for s, (a, b) in enumerate(spans) if a <= t < b) for t in range(n)]
    bin_of = [0 if p == 0 else 1 if p < c else step_of[p - c] + 2 for p in range(c + n)]
    masses = np.zeros((c + n, L, S + 2))
    for p in range(c + n):
        for key in range(p + 1):
            masses[p, :, bin_of[key]] += rows.attention[p][:, :, key].mean(1)
    nan = np.nan
    out = {
        "surprisal": np.full(n, nan),
        "entropy": np.full(n, nan),
        "rank": np.full(n, -1),
        "logit_shift": np.full(n, nan),
        "attention_shift": np.full((n, L), nan),
        "attention_previous": np.full((n, L), nan),
        "attention_sink": np.zeros((n, L)),
        "attention_entropy": np.zeros((n, L)),
        "hidden_shift": np.full((n, L + 1), nan),
        "top_log_probability": np.full((n, 5), nan),
        "margin": np.full(n, nan),
    }
    for t in range(n):
        p = c + t
        weights = rows.attention[p]
        out["attention_sink"][t] = weights[:, :, 0].mean(1)
        out["attention_entropy"][t] = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(-1).mean(1)
        if p == 0:
            continue
        before = rows.log_p[p - 1]
        out["surprisal"][t] = -before[ids[p]]
        out["entropy"][t] = -(np.exp(before) * before).sum()
        out["rank"][t] = (before > before[ids[p]]).sum()
        out["top_log_probability"][t] = np.sort(before)[::-1][:5]
        out["margin"][t] = out["top_log_probability"][t, 0] - out["top_log_probability"][t, 1]
        if trace.top_id is not None:  # neighbours within the rounding may change places; their numbers may not
            np.testing.assert_allclose(before[trace.top_id[t]], out["top_log_probability"][t], atol=1e-4)
        out["logit_shift"][t] = np.abs(np.exp(rows.log_p[p]) - np.exp(before)).sum() / 2
        out["attention_shift"][t] = np.abs(masses[p] - masses[p - 1]).sum(-1) / 2
        out["attention_previous"][t] = weights[:, :, p - 1].mean(1)
        out["hidden_shift"][t] = _shift(rows.hidden[p], rows.hidden[p - 1])
    blocks = []
    for s, (a, b) in enumerate(spans):
        blocks.append(masses[c + a : c + b, :, : s + 3].mean(0).T if b > a else np.full((s + 3, L), nan))
    out["step_attention"] = np.concatenate(blocks)
    pairs = baseline_pairs(trace.chain, n)
    assert (pairs[:, 0] != pairs[:, 1]).all()
    out["hidden_baseline"] = np.mean([_shift(rows.hidden[c + i], rows.hidden[c + j]) for i, j in pairs], axis=0)
    question = np.full(len(trace.question_token_ids), nan)
    first = next((i for i in range(c) if context[i : i + len(question)] == trace.question_token_ids.tolist()), 0)
    for i in range(len(question)):
        if first + i:
            question[i] = -rows.log_p[first + i - 1][context[first + i]]
    out["question_surprisal"] = question
    return out


def _shift(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return 1 - (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))


def assert_same(trace: Trace, truth: dict[str, np.ndarray], tolerance: float = 1e-4) -> None:
    """Every array within ``tolerance``, the same positions undefined, every rank equal."""
    for name, expected in truth.items():
        found = getattr(trace, name)
        assert found.shape == expected.shape, name
        np.testing.assert_allclose(found, expected, atol=tolerance, rtol=tolerance, equal_nan=True, err_msg=name)
