"""Tiny random models of every family whose attention differs, built from a configuration: nothing is downloaded."""

from __future__ import annotations

from typing import Any

import torch
import transformers as hf

VOCABULARY = 300
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
_GROUPED = _COMMON | {"num_key_value_heads": 2}
_GEMMA = _GROUPED | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 12}

FAMILIES: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama (grouped-query)": (hf.LlamaConfig, hf.LlamaForCausalLM, _GROUPED),
    "llama (multi-query, attention bias)": (
        hf.LlamaConfig,
        hf.LlamaForCausalLM,
        _COMMON | {"num_key_value_heads": 1, "attention_bias": True},
    ),
    "qwen2": (hf.Qwen2Config, hf.Qwen2ForCausalLM, _GROUPED),
    "qwen2 (sliding window)": (
        hf.Qwen2Config,
        hf.Qwen2ForCausalLM,
        _GROUPED | {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1},
    ),
    "qwen3": (hf.Qwen3Config, hf.Qwen3ForCausalLM, _GROUPED | {"head_dim": 16}),
    "gemma2 (soft caps, sliding)": (
        hf.Gemma2Config,
        hf.Gemma2ForCausalLM,
        _GEMMA | {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    ),
    "gemma3": (hf.Gemma3TextConfig, hf.Gemma3ForCausalLM, _GEMMA | {"sliding_window_pattern": 2}),
    "mistral (sliding window)": (hf.MistralConfig, hf.MistralForCausalLM, _GROUPED | {"sliding_window": 12}),
    "phi": (hf.PhiConfig, hf.PhiForCausalLM, _COMMON | {"partial_rotary_factor": 0.5}),
    "phi3": (hf.Phi3Config, hf.Phi3ForCausalLM, _GROUPED),
    "gpt2": (
        hf.GPT2Config,
        hf.GPT2LMHeadModel,
        {
            "vocab_size": VOCABULARY,
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 256,
            "bos_token_id": None,
            "eos_token_id": None,
        },
    ),
    "gpt-neox (pythia)": (hf.GPTNeoXConfig, hf.GPTNeoXForCausalLM, _COMMON),
    "opt": (hf.OPTConfig, hf.OPTForCausalLM, _COMMON | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom (alibi)": (
        hf.BloomConfig,
        hf.BloomForCausalLM,
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "n_layer": 3,
            "n_head": 4,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": None,
        },
    ),
    "falcon (multi-query, rotary)": (hf.FalconConfig, hf.FalconForCausalLM, _COMMON | {"multi_query": True}),
    "falcon (alibi)": (hf.FalconConfig, hf.FalconForCausalLM, _COMMON | {"alibi": True, "multi_query": False}),
    "olmo": (hf.OlmoConfig, hf.OlmoForCausalLM, _GROUPED | {"clip_qkv": 4.0}),
    "olmo2": (hf.Olmo2Config, hf.Olmo2ForCausalLM, _GROUPED),
    "mixtral (experts)": (
        hf.MixtralConfig,
        hf.MixtralForCausalLM,
        _GROUPED | {"num_local_experts": 4, "num_experts_per_tok": 2},
    ),
    "qwen2-moe (experts)": (
        hf.Qwen2MoeConfig,
        hf.Qwen2MoeForCausalLM,
        _GROUPED
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 24,
        },
    ),
    "granite (scaled logits)": (
        hf.GraniteConfig,
        hf.GraniteForCausalLM,
        _GROUPED | {"logits_scaling": 2.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5},
    ),
    "cohere (scaled logits)": (hf.CohereConfig, hf.CohereForCausalLM, _GROUPED | {"logit_scale": 0.25}),
    "gpt-j": (
        hf.GPTJConfig,
        hf.GPTJForCausalLM,
        {
            "vocab_size": VOCABULARY,
            "n_embd": 32,
            "n_layer": 3,
            "n_head": 4,
            "n_positions": 256,
            "rotary_dim": 8,
            "bos_token_id": None,
            "eos_token_id": None,
        },
    ),
}


def tiny(family: str, seed: int = 0, **changes: Any) -> Any:
    """A random model of the family. Weights are large enough that attention is far from uniform."""
    config_class, model_class, settings = FAMILIES[family]
    torch.manual_seed(seed)
    model = model_class(config_class(**(settings | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.25)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model
