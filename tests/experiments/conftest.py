"""A tiny random Llama over bytes, saved as a model folder, and chains in three families with several wordings of an answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from trails.experiments.base import Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import Corpus, load_corpus
from trails.readers import write_chains
from trails.schema import Chain


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: 6 layers, 32 dimensions, one token per byte."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model") / "tiny"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<eos>", *alphabet])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(alphabet) + 1,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<eos>").save_pretrained(folder)
    return folder


def _letters(generator: np.random.Generator, n: int) -> str:
    return " ".join("".join(chr(97 + int(c)) for c in generator.integers(0, 26, 5)) for _ in range(n))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """45 chains with reasons, 15 questions with three wordings each, 30 of another form, 14 unrelated texts."""
    draw = np.random.default_rng(0)
    chains: list[Chain] = []

    def add(source: str, number: int, question: str, text: str) -> None:
        chains.append(Chain(source, str(number), question, text, language="en"))

    for i in range(45):
        add(
            "debate",
            i,
            f"{_letters(draw, 2)}?",
            f"{_letters(draw, 4)}. Because {_letters(draw, 4)}. So {_letters(draw, 4)}. Since {_letters(draw, 4)}.",
        )
    for i in range(15):
        for wording in range(3):
            add("answers", 3 * i + wording, f"What of {i}?", f"{_letters(draw, 5)}. Then {_letters(draw, 5)}.")
    for i in range(30):
        add(
            "proofs", i, "", f"Let {_letters(draw, 3)} be given. Since {_letters(draw, 8)}, we see {_letters(draw, 6)}."
        )
    for i in range(14):
        add("unrelated-noise", i, "", _letters(draw, 20))
    path = tmp_path_factory.mktemp("data") / "chains.jsonl"
    with path.open("w", encoding="utf-8") as file:
        write_chains(chains, file)
    return path


@pytest.fixture(scope="session")
def small() -> Scale:
    """A scale at which one arm takes a second."""
    return Scale("small", max_tokens=120, evaluate=3, steps=0.1, batch=2, size=0.1)


@pytest.fixture(scope="session")
def bench(tiny_folder: Path) -> Bench:
    """The tiny model on a bench."""
    return Bench(str(tiny_folder), device="cpu")


@pytest.fixture(scope="session")
def corpus(data: Path) -> Corpus:
    """The chains of ``data``."""
    return load_corpus([data])
