"""Small causal language models trained from nothing: members that have nothing in common with a published model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

HIDDEN, LAYERS, HEADS = 128, 4, 4
RATE, WARM = 3e-3, 20


def byte_tokenizer() -> Any:
    """A transformers tokenizer of 256 items, one a byte, without merges and without control tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={piece: number for number, piece in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def small_model(vocabulary: int, window: int, *, tied: bool = False, seed: int = 0) -> Any:
    """An untrained llama of 4 layers and 128 dimensions; ``tied`` shares the input's embeddings with the output."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=HIDDEN,
                intermediate_size=3 * HIDDEN,
                num_hidden_layers=LAYERS,
                num_attention_heads=HEADS,
                max_position_embeddings=window,
                tie_word_embeddings=tied,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=None,
            )
        )


def train_small(
    model: Any, ids: torch.Tensor, *, steps: int, window: int, batch: int = 2, seed: int = 0
) -> list[float]:
    """Train all weights on windows drawn at random from one long text of token ids; the losses by step, nats per token.

    The learning rate rises for 20 steps and falls to 0 at the last. The model is on the device of its weights and ends in
    eval mode. ``ids`` hold more than ``window`` tokens.
    """
    draw = np.random.default_rng(seed)
    device = next(model.parameters()).device
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    losses = []
    model.train()
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM) * (1 - step / steps)
        rows = torch.stack([ids[at : at + window] for at in draw.integers(0, len(ids) - window, batch).tolist()])
        rows = rows.to(device)
        loss = model(rows, labels=rows).loss
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    model.eval()
    return losses
