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


@pytest.mark.train
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_only_the_last_turn_of_a_conversation_is_trained(make_home, tmp_path: Path, tiny, tokenizer, suffix) -> None:
    """The settings that the export prints are what is executed here: earlier turns of the assistant carry no loss."""
    import copy
    from dataclasses import replace

    from datasets import load_dataset
    from tests.export.conftest import chains_of
    from trl import SFTConfig, SFTTrainer

    chat = copy.deepcopy(tokenizer)
    chat.add_tokens(["draft", "user", "assistant"])
    chat.chat_template = (
        "{% for m in messages %}{{ m['role'] + ' ' }}{% generation %}{{ m['content'] + ' <eos> ' }}{% endgeneration %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
    )
    before = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "draft draft"}]
    before.append({"role": "user", "content": "again"})
    chains = chains_of(4)
    talks = [replace(chains[0], question="", messages=""), replace(chains[1], messages="")]
    talks += [replace(chain, messages=json.dumps(before)) for chain in chains[2:]]
    home = make_home(chains=talks)
    file = tmp_path / f"t{suffix}"
    with TraceStore(home.home) as traces:
        report = export_selection(select(None, traces, "all"), traces, "messages", file)
    assert report.earlier == 2
    assert "2 rows have earlier turns of the assistant, of weight 0" in report.loads[0]
    assert "1 row has one turn and no prompt: the settings leave it out" in report.loads[1]
    card = report.card.read_text(encoding="utf-8")
    assert all(line in card for line in (*report.loads, report.settings))
    kind = "json" if suffix == ".jsonl" else "parquet"
    data = load_dataset(kind, data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    weights = [[m.get("weight") for m in row["messages"]] for row in data]
    assert sorted(weights, key=len) == [[None], [None, None], [None, 0, None, 1], [None, 0, None, 1]]
    fixed = {
        "max_steps": 1,
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    place = {"data": data}
    *lines, call = report.settings.split("\n")
    exec("\n".join(lines), place)
    assert call.startswith("SFTConfig(")
    arguments = eval(call.replace("SFTConfig(", "SFTConfig(output_dir=folder, **fixed, "), {
        "SFTConfig": SFTConfig, "folder": str(tmp_path / "out"), "fixed": fixed,
    })  # fmt: skip
    trainer = SFTTrainer(tiny, arguments, train_dataset=place["data"], processing_class=chat)
    assert len(trainer.train_dataset) == 3
    texts = {chain.id: chain.text for chain in talks}
    draft = chat.convert_tokens_to_ids("draft")
    for row in trainer.train_dataset:
        trained = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
        last = chat(texts[row["chain"]] + " <eos>", add_special_tokens=False)["input_ids"]
        assert trained == last
        assert draft not in trained
    assert sum(row["input_ids"].count(draft) for row in trainer.train_dataset) == 4


def test_the_settings_leave_room_for_the_longest_row(make_home, tmp_path: Path) -> None:
    """Trainers that cut or drop rows beyond a length of their own are told the length."""
    home = make_home(6)
    longest = max(len(t.question_token_ids) + len(t.token_ids) for t in home.traces)
    said = {}
    for name in ("axolotl", "axolotl-segments", "llama-factory", "prompt-completion", "messages", "trl"):
        with TraceStore(home.home) as traces:
            said[name] = export_selection(
                select(None, traces, "all"), traces, name, tmp_path / name / "t.jsonl"
            ).settings
    assert f"\nsequence_len: {longest}\n" in said["axolotl"]
    assert f"\nsequence_len: {2 * longest}\n" in said["axolotl-segments"]
    assert f"\ncutoff_len: {2 * longest}\n" in said["llama-factory"]
    for name in ("prompt-completion", "messages", "trl"):
        assert "max_length=None" in said[name]
