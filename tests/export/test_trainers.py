"""The exports in the loading code of other trainers: what reaches their model is what was written, token by token.

The trainers' packages pin other versions of torch, TRL or transformers than this project uses, so CI has none of them and skips
these tests; docs/export.md says with which versions they were run. What every trainer's loader builds on (``datasets`` and the
collator of transformers) is tested in any case.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trails.export import ExportOptions, export_selection
from trails.export.subgraph import Part, Selection
from trails.store.traces import TraceStore


def needs(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} pins other versions than this project; see docs/export.md")


def with_holes(home: SimpleNamespace, to: Path, format: str, **options: Any) -> tuple[Path, list[dict[str, Any]]]:
    """Chains whose second and fourth step give no loss, in a format and as canonical rows in the same order."""
    selection = Selection("holes", {chain.id: Part(chain.id, steps=(0, 2)) for chain in home.chains})
    with TraceStore(home.home) as traces:
        report = export_selection(selection, traces, format, to, ExportOptions(order="falling", **options))
        plain = export_selection(
            selection, traces, "trails", to.with_name("plain.jsonl"), ExportOptions(order="falling", **options)
        )
    rows = [json.loads(line) for line in plain.files["train"].read_text(encoding="utf-8").splitlines()]
    assert rows
    assert any(
        -100 in row["labels"][row["labels"].index(label) :] for row in rows for label in row["labels"] if label != -100
    )
    return report.files["train"], rows


@pytest.fixture
def words() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1, "<unk>": 2}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")


def collated(collator: Any, data: Any) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of every row after the collator, without padding."""
    found = []
    for start in range(0, len(data), 3):
        batch = collator([data[i] for i in range(start, min(start + 3, len(data)))])
        for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"], strict=True):
            n = int(mask.sum())
            found.append((ids[:n].tolist(), labels[:n].tolist()))
            assert (labels[n:] == -100).all()
    return found


@pytest.mark.slow
def test_datasets_opens_the_tokenised_folder(make_home, tmp_path: Path, words) -> None:
    from datasets import load_from_disk
    from transformers import DataCollatorForSeq2Seq

    _, rows = with_holes(make_home(8), tmp_path / "tokens", "llama-factory-tokens")
    data = load_from_disk(str(tmp_path / "tokens"))
    assert list(data) == ["train"]
    wanted = [(row["input_ids"], row["labels"]) for row in rows]
    assert collated(DataCollatorForSeq2Seq(words, label_pad_token_id=-100), data["train"]) == wanted


@needs("llamafactory")
def test_llama_factory_takes_masks_and_order(make_home, tmp_path: Path, words) -> None:
    from llamafactory.data import get_dataset
    from llamafactory.data.collator import SFTDataCollatorWith4DAttentionMask
    from llamafactory.data.template import TEMPLATES

    _, rows = with_holes(make_home(12), tmp_path / "tokens", "llama-factory-tokens", split=0.3)
    arguments = SimpleNamespace(tokenized_path=str(tmp_path / "tokens"), streaming=False)
    module = get_dataset(TEMPLATES["empty"], None, arguments, None, "sft", words)
    assert set(module) == {"train_dataset", "eval_dataset"}
    collator = SFTDataCollatorWith4DAttentionMask(template=TEMPLATES["empty"], tokenizer=words, label_pad_token_id=-100)
    assert collated(collator, module["train_dataset"]) == [(row["input_ids"], row["labels"]) for row in rows]


@needs("axolotl")
def test_axolotl_takes_the_rows_as_tokenised(make_home, tmp_path: Path, words) -> None:
    from axolotl.utils.data.wrappers import get_dataset_wrapper
    from axolotl.utils.dict import DictDefault
    from datasets import load_dataset
    from transformers import DataCollatorForSeq2Seq

    file, rows = with_holes(make_home(8), tmp_path / "rows.jsonl", "axolotl")
    data = load_dataset("json", data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    config = DictDefault({"path": str(file), "ds_type": "json", "type": None})
    wrapped, _ = get_dataset_wrapper(config, words, DictDefault({}), None, data)
    assert wrapped is data
    wanted = [(row["input_ids"], row["labels"]) for row in rows]
    assert collated(DataCollatorForSeq2Seq(words, label_pad_token_id=-100), wrapped) == wanted


@needs("swift")
def test_ms_swift_takes_every_weight(make_home, tmp_path: Path) -> None:
    from swift.loss_scale import get_loss_scale
    from swift.template import Template
    from swift.template.utils import ContextType

    file, rows = with_holes(make_home(8), tmp_path / "rows.jsonl", "ms-swift", weights="surprisal")
    scale = get_loss_scale("default")
    for line, row in zip(file.read_text(encoding="utf-8").splitlines(), rows, strict=True):
        messages = json.loads(line)["messages"]
        answer = messages[1]["content"]
        contexts, scales = scale([answer], [ContextType.RESPONSE], messages)
        offset = row["token_ids_in_graph"]["offset"]
        for binary in (False, True):  # what the option --is_binary_loss_scale says; the default, None, means True here
            template = SimpleNamespace(is_binary_loss_scale=binary, loss_scale=scale)
            ids, labels, weights = Template._encode_context_list(template, contexts, scales)
            assert ids == row["input_ids"][offset:]
            kept = [
                label if weight > 0 else -100 for label, weight in zip(row["labels"], row["loss_weights"], strict=True)
            ]
            assert labels == kept[offset:]
            assert weights == (None if binary else row["loss_weights"][offset:])
        assert scale.is_binary_loss_scale
