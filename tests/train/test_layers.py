"""One convention for layers, end to end: what `--layers` trains is what diff and drift name."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.measure.reference import byte_tokenizer
from tests.train.test_again import run
from transformers import LlamaConfig, LlamaForCausalLM

from trails.pipeline import Home

pytestmark = [pytest.mark.train, pytest.mark.slow]


def test_the_layers_that_were_trained_are_those_that_moved(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.1,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    letters = random.Random(0)
    rows = [{"question": "Why?", "answer": f"{''.join(letters.choices('abcd', k=20))}.\nSo it is."} for _ in range(6)]
    (tmp_path / "chains.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    home, model = ("--home", tmp_path / "home"), ("--model", tmp_path / "model", "--device", "cpu")
    run("ingest", tmp_path / "chains.jsonl", *home, *model, "--per-layer")
    export = tmp_path / "rows.parquet"
    made = ("--format", "trails", "--layers", "3-4", "-o", export)
    run("export", "--subgraph", "all", *made, *home)
    settings = ("--steps", 4, "--learning-rate", 0.02, "--json")
    trained = json.loads(run("train", export, "-o", tmp_path / "adapter", *settings, *home, *model))
    assert trained["layers"] == [3, 4]
    with safe_open(tmp_path / "adapter" / "adapter_model.safetensors", "numpy") as weights:
        inside = {int(name.partition(".layers.")[2].partition(".")[0]) for name in weights.keys()}  # noqa: SIM118
    assert inside == {2, 3}  # PEFT and transformers count from 0
    assert "| layers | 3, 4 (the others are unchanged) |" in (tmp_path / "adapter" / "README.md").read_text()

    found = json.loads(run("diff", "--adapter", tmp_path / "adapter", "--noise", 0, "--kl", 0, "--json", *home, *model))
    moved = {layer["layer"]: layer["hidden"] for layer in found["layers"]}
    assert [layer for layer, change in moved.items() if change > 0] == [3, 4, 5]  # what follows a change moves, too
    attention = {layer["layer"]: layer["attention"] for layer in found["layers"]}
    assert [layer for layer, change in attention.items() if change is not None and change > 0] == [3, 4, 5]
    with Home(tmp_path / "home") as opened:
        chain = next(opened.traces(found["before"])).chain.id
        assert opened.drift(chain, run=found["before"], against=found["after"]).onset == 3
