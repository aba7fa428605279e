"""A tiny random Llama with a byte tokenizer, rows to train it on, and a canonical export of planted chains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

VOCAB = 64


@pytest.fixture
def tiny() -> Callable[..., Any]:
    """``tiny(seed=0, layers=4)``: a random Llama, always the same for the same seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    def make(seed: int = 0, layers: int = 4) -> Any:
        torch.manual_seed(seed)
        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.2,
        )
        return LlamaForCausalLM(config).eval()

    return make


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = ["<pad>", "<eos>", *(f"w{i}" for i in range(VOCAB - 2))]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")


@pytest.fixture
def make_rows() -> Callable[..., list[dict[str, Any]]]:
    """``make_rows(n, length=12)``: rows of random tokens, two steps each, context of three tokens."""

    def make(n: int, length: int = 12, seed: int = 0, **extra: Any) -> list[dict[str, Any]]:
        generator = torch.Generator().manual_seed(seed)
        rows = []
        for i in range(n):
            size = length + i % 3
            ids = torch.randint(2, VOCAB, (size,), generator=generator).tolist()
            rows.append(
                {
                    "input_ids": ids,
                    "labels": [-100] * 3 + ids[3:],
                    "loss_weights": [0.0] * 3 + [1.0] * (size - 3),
                    "step_spans": [
                        {"step": 0, "start": 3, "end": 7, "role": "IF"},
                        {"step": 1, "start": 7, "end": size, "role": "THEN"},
                    ],
                    "offset": 3,
                    "chain": f"c{i:016x}",
                    "layers": [],
                }
                | extra
            )
        return rows

    return make


@pytest.fixture
def fresh_model(smollm2: Any) -> Callable[[], Any]:
    """``fresh_model()``: a copy of the packaged model without any adapter."""
    import copy

    return lambda: copy.deepcopy(smollm2.model.module)
