"""Interventions against nnsight, another tool for the same thing: the same change gives the same bits.

nnsight (MIT) is no dependency, not even of the development: these tests run where somebody installed it (nnsight==0.8.1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from reference import item, scorer_of

from trails.measure import open_scorer
from trails.measure.intervene import Intervention, applied, random_vector, vector_hash

pytest.importorskip("nnsight", reason="nnsight is not installed: pip install nnsight==0.8.1")

SPAN = slice(3, 9)
STRENGTH = 0.7


def ours(scorer: Any, ids: torch.Tensor, vector: Any, layer: int, component: Any, operation: Any) -> torch.Tensor:
    """Logits (T, V) of trails under the change."""
    known: dict[str, Any] = {"vector": "v", "vector_sha256": vector_hash(vector)} if vector is not None else {}
    change = Intervention(layer, operation, component, strength=STRENGTH, **known)
    with scorer.model.measuring(), applied(scorer.model, change, vector, SPAN):
        return scorer.model.logits(scorer.model.hidden(ids)[0])


def theirs(scorer: Any, ids: torch.Tensor, vector: Any, layer: int, component: Any, operation: Any) -> torch.Tensor:
    """Logits (T, V) of nnsight under the same change, written as its documentation says."""
    from nnsight import TransformersModel

    wrapped = TransformersModel(scorer.model.module, tokenizer=scorer.model.tokenizer, task="text-generation")
    v = None if vector is None else torch.from_numpy(vector)
    with scorer.model.measuring(), wrapped.trace(ids):
        block = wrapped.model.layers[layer - 1]
        if component == "attention_output":
            x = block.self_attn.output[0]
        elif component == "mlp_output":
            x = block.mlp.output
        else:
            x = block.output
        part = x[:, 3:9].clone()
        if operation == "add":
            x[:, 3:9] = part + 0.7 * v
        elif operation == "replace":
            x[:, 3:9] = (1 - 0.7) * part + 0.7 * v
        elif v is None:
            x[:, 3:9] = part - 0.7 * part
        else:
            unit = v / torch.linalg.vector_norm(v)
            x[:, 3:9] = part - 0.7 * (part @ unit)[..., None] * unit
        found = wrapped.lm_head.output[0].save()
    return found  # noqa: RET504  # nnsight reads the block's source and fills the name in


def compared(scorer: Any, ids: np.ndarray, layer: int, component: str, operation: str, *, with_vector: bool) -> None:
    sequence = torch.from_numpy(np.asarray(ids, np.int64))[None]
    vector = random_vector(scorer.model.d_model, 3.0, 0) if with_vector else None
    with torch.inference_mode():
        mine = ours(scorer, sequence, vector, layer, component, operation)
        other = theirs(scorer, sequence, vector, layer, component, operation)
        plain = scorer.model.logits(scorer.model.hidden(sequence)[0])
    assert torch.equal(mine, other)
    assert torch.equal(mine[:3], plain[:3])
    assert not torch.equal(mine[3:], plain[3:])


@pytest.mark.parametrize("component", ["block_output", "attention_output", "mlp_output"])
@pytest.mark.parametrize(
    ("operation", "with_vector"), [("add", True), ("replace", True), ("ablate", True), ("ablate", False)]
)
def test_the_same_change_gives_the_same_bits(component: str, operation: str, with_vector: bool) -> None:
    scorer = scorer_of(tiny("qwen2"))
    compared(scorer, scorer.sequence(item()).row.ids, 2, component, operation, with_vector=with_vector)


@pytest.mark.slow
@pytest.mark.model
def test_of_a_real_model_too() -> None:
    scorer = open_scorer(device="cpu")
    ids = scorer.sequence(item()).row.ids
    for component in ("block_output", "attention_output", "mlp_output"):
        compared(scorer, ids, 18, component, "add", with_vector=True)
    compared(scorer, ids, 30, "block_output", "ablate", with_vector=True)
