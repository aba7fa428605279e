"""The order of a course arrives: read back from the samplers of trainers, with the settings that the card names."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trails.genome.compile import export_course

COURSE = """\
genome: 1
name: order
stages:
  - name: first
    sections: [{name: plain, books: [{select: "meta:version=plain", take: 7}]}]
  - name: second
    sections: [{name: reworded, books: [{select: "meta:version=reworded", take: 6, times: 2}]}]
roles: {learner: "meta:version=plain"}
budget: {rehearsal: 0.2}
"""


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


@pytest.fixture(scope="module")
def tiny() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=300, max_position_embeddings=2048, pad_token_id=0, **shape))


def card_settings(text: str) -> dict[str, Any]:
    """The arguments of ``SFTConfig(…)`` as a card names them."""
    (call,) = (node for node in ast.walk(ast.parse(text.strip())) if isinstance(node, ast.Call))
    return {word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg}


def fed(trainer: Any) -> list[list[int]]:
    """Token ids of every row in the order in which the trainer's own loader draws them, without padding."""
    found = []
    for batch in trainer.get_train_dataloader():
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            found.append(ids[: int(mask.sum())].tolist())
    return found


def trainer_of(model: Any, tokenizer: Any, file: Path, folder: Path, **settings: Any) -> Any:
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    data = load_dataset("json", data_files=str(file), split="train", cache_dir=str(folder / "cache"))
    fixed = {
        "report_to": [],
        "use_cpu": True,
        "bf16": False,
        "save_strategy": "no",
        "disable_tqdm": True,
        "max_steps": 1,
    }
    arguments = SFTConfig(output_dir=str(folder / "out"), per_device_train_batch_size=2, **fixed, **settings)
    return SFTTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)


@pytest.mark.train
def test_trl_draws_the_course_in_order_with_the_settings_of_the_card(compiled, tmp_path: Path, tiny, tokenizer) -> None:
    course = compiled(COURSE)
    done = export_course(course, "trl", tmp_path / "trl")
    rows = [json.loads(line) for line in (tmp_path / "trl" / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    wanted = [row["input_ids"] for row in rows]
    assert [row["chain"] for row in rows] == [course.shelf.id(row) for row in course.chain.tolist()]
    settings = card_settings(done.report.settings)
    assert settings["train_sampling_strategy"] == "sequential"
    assert settings["packing"] is False
    assert fed(trainer_of(tiny, tokenizer, done.report.files["train"], tmp_path, **settings)) == wanted
    # without the setting the order is lost, and the same rows come: this test can fail
    del settings["train_sampling_strategy"]
    shuffled = fed(trainer_of(tiny, tokenizer, done.report.files["train"], tmp_path, **settings))
    assert shuffled != wanted
    assert sorted(shuffled) == sorted(wanted)


@pytest.mark.train
def test_trails_train_feeds_the_course_in_order(compiled, tmp_path: Path, tiny, tokenizer) -> None:
    from trails.train.data import dataset, load_rows
    from trails.train.options import TrainOptions
    from trails.train.training import _trainer_class, trainer_arguments

    course = compiled(COURSE)
    export_course(course, "trails", tmp_path / "course")
    rows = load_rows(tmp_path / "course" / "train.jsonl")
    assert [row["chain"] for row in rows] == [course.shelf.id(row) for row in course.chain.tolist()]
    options = TrainOptions(batch=2)
    trainer = _trainer_class()(
        tiny, trainer_arguments(tmp_path / "out", 3, options), dataset(rows), tokenizer, options=options, layers=(),
        teachers={}, callbacks=[],
    )  # fmt: skip
    assert fed(trainer) == [row["input_ids"] for row in rows]


@pytest.mark.slow
def test_the_folder_of_datasets_keeps_the_order(compiled, tmp_path: Path) -> None:
    from datasets import load_from_disk

    course = compiled(COURSE)
    done = export_course(course, "llama-factory-tokens", tmp_path / "llama")
    data = load_from_disk(str(tmp_path / "llama" / "tokens"))
    assert list(data) == ["train", "learner"]
    assert [len(ids) for ids in data["train"]["input_ids"]] == course.tokens.tolist()
    assert "disable_shuffling: true" in done.report.settings
    beside = (tmp_path / "llama" / "tokens").glob("*.graph.jsonl")
    chains = {p.name: [json.loads(line)["chain"] for line in p.read_text().splitlines()] for p in beside}
    assert chains["train.graph.jsonl"] == [course.shelf.id(row) for row in course.chain.tolist()]


@pytest.mark.slow
@pytest.mark.parametrize(
    "format", ["axolotl", "axolotl-segments", "ms-swift", "messages", "prompt-completion", "llama-factory"]
)
def test_every_format_has_the_rows_in_order_and_names_the_settings(compiled, tmp_path: Path, format: str) -> None:
    course = compiled(COURSE)
    done = export_course(course, format, tmp_path / format, lossy=True)
    lines = (tmp_path / format / "train.jsonl").read_text(encoding="utf-8").splitlines()
    if format == "axolotl":  # no further columns: the file beside it names the rows, line by line
        lines = (tmp_path / format / "train.graph.jsonl").read_text(encoding="utf-8").splitlines()
    wanted = [course.shelf.id(row) for row in course.chain.tolist()]
    assert [json.loads(line)["chain"] for line in lines] == wanted
    kept = {"axolotl": "shuffle_merged_datasets: false", "axolotl-segments": "curriculum_sampling: true",
            "ms-swift": "--train_dataloader_shuffle false", "llama-factory": "disable_shuffling: true"}  # fmt: skip
    assert kept.get(format, 'train_sampling_strategy="sequential"') in done.report.card.read_text(encoding="utf-8")
