"""The exports load in TRL's SFTTrainer and train: a tiny random model, and the packaged one."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from trails.export import ExportOptions, export_selection
from trails.export.subgraph import Part, Selection, select
from trails.store.traces import TraceStore

VOCAB = 5_000


@pytest.fixture(scope="module")
def tiny():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        pad_token_id=0,
    )
    return LlamaForCausalLM(config)


@pytest.fixture(scope="module")
def tokenizer():
    """A word tokenizer, so that the trainer has a padding token; the rows are tokenised already."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def trainer_of(model, tokenizer, file: Path, tmp_path: Path, **config):
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    data = load_dataset(
        "json" if file.suffix == ".jsonl" else "parquet",
        data_files=str(file),
        split="train",
        cache_dir=str(tmp_path / "cache"),
    )
    arguments = SFTConfig(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=2,
        max_steps=1,
        max_length=None,
        packing=False,
        train_sampling_strategy="sequential",
        report_to=[],
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        disable_tqdm=True,
        **config,
    )
    return SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)


@pytest.mark.train
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_trl_takes_the_labels_as_written_and_in_order(make_home, tmp_path: Path, tiny, tokenizer, suffix: str) -> None:
    home = make_home(6)
    chains = {chain.id: Part(chain.id, steps=(0, 2)) for chain in home.chains}
    with TraceStore(home.home) as traces:
        report = export_selection(
            Selection("holes", chains), traces, "trl", tmp_path / f"t{suffix}", ExportOptions(order="falling")
        )
    trainer = trainer_of(tiny, tokenizer, report.files["train"], tmp_path)
    rows = (
        [json.loads(line) for line in report.files["train"].read_text().splitlines()]
        if suffix == ".jsonl"
        else pq.read_table(report.files["train"]).to_pylist()
    )
    seen = []
    for batch in trainer.get_train_dataloader():
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            n = int(mask.sum())
            seen.append((ids[:n].tolist(), labels[:n].tolist()))
            assert (labels[n:] == -100).all()
    assert seen == [(row["input_ids"], row["labels"]) for row in rows]
    before = [p.detach().clone() for p in tiny.parameters()]
    trainer.train()
    assert trainer.state.global_step == 1
    assert any(not torch.equal(a, b) for a, b in zip(before, tiny.parameters(), strict=True))


@pytest.mark.train
@pytest.mark.parametrize("format", ["prompt-completion"])
def test_trl_tokenises_prompt_and_completion(make_home, tmp_path: Path, tiny, tokenizer, format: str) -> None:
    home = make_home(6)
    with TraceStore(home.home) as traces:
        report = export_selection(select(None, traces, "all"), traces, format, tmp_path / "t.jsonl")
    trainer = trainer_of(tiny, tokenizer, report.files["train"], tmp_path, completion_only_loss=True)
    trainer.train()
    assert trainer.state.global_step == 1
    batch = next(iter(trainer.get_train_dataloader()))
    assert (batch["labels"] == -100).any()
    assert (batch["labels"] != -100).any()


@pytest.mark.train
def test_messages_go_through_a_chat_template(make_home, tmp_path: Path, tiny, tokenizer) -> None:
    import copy

    chat = copy.deepcopy(tokenizer)
    chat.chat_template = (
        "{% for m in messages %}{{ m['role'] + ' ' }}{% if m['role'] == 'assistant' %}{% generation %}"
        "{{ m['content'] + ' <eos>' }}{% endgeneration %}{% else %}{{ m['content'] + ' ' }}{% endif %}{% endfor %}"
    )
    home = make_home(4)
    with TraceStore(home.home) as traces:
        report = export_selection(select(None, traces, "all"), traces, "messages", tmp_path / "t.jsonl")
    trainer = trainer_of(tiny, chat, report.files["train"], tmp_path, assistant_only_loss=True)
    trainer.train()
    assert trainer.state.global_step == 1
