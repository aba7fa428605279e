"""Adapters by role: disjoint rows, as many parameters in the one adapter, and a weighted sum that is exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trails.config import load_settings
from trails.errors import UsageError
from trails.genome.compile import export_course
from trails.genome.course import compile_course
from trails.genome.model import parse_genome
from trails.genome.shelf import Shelf
from trails.pipeline import training
from trails.store.traces import TraceStore
from trails.train import TrainOptions
from trails.train.adapter import put_adapter

COURSE = """\
genome: 1
name: roles
stages:
  - name: one
    sections: [{name: a, books: [{select: "meta:version=plain", take: 6}, {select: "meta:version=reworded", take: 4}]}]
  - name: two
    sections: [{name: b, books: [{select: "meta:version=lines", take: 3}]}]
roles: {learner: "meta:version=plain", critic: "meta:version=reworded"}
"""


class _Scorer:
    """As much of a scorer as training asks for: a random model over the uniform scorer's tokens."""

    def __init__(self, run: Any) -> None:
        from types import SimpleNamespace

        from tokenizers import Tokenizer, models
        from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

        torch.manual_seed(0)
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        module = LlamaForCausalLM(LlamaConfig(vocab_size=300, max_position_embeddings=2048, pad_token_id=0, **shape))
        backend = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
        words = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")
        self.model, self.run = SimpleNamespace(module=module.eval(), tokenizer=words), run


@pytest.fixture
def course(packaged: Path, tmp_path: Path, monkeypatch) -> Path:
    with TraceStore(packaged) as traces:
        (run,) = traces.runs().values()
        genome, document = parse_genome(COURSE)
        export_course(compile_course(genome, document, Shelf(traces, run)), "trails", tmp_path / "course")
    monkeypatch.setattr(training, "_scorer", lambda *_: _Scorer(run))
    return tmp_path / "course" / "train.jsonl"


@pytest.mark.train
def test_adapters_by_role_beside_one_of_equal_parameters(course: Path, tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path / "none", model="toy")
    options = TrainOptions(batch=2, rank=2, alpha=4)
    report = training.train_roles(settings, course, tmp_path / "adapters", options)
    assert {role: done.rows for role, done in report.roles.items()} == {"learner": 6, "critic": 4}
    assert report.one.rows == 10
    assert report.one.trainable == sum(done.trainable for done in report.roles.values())
    assert report.weights == {"learner": 0.6, "critic": 0.4}
    routes = json.loads((tmp_path / "adapters" / "routes.json").read_text())
    assert routes["routes"] == {"learner": "learner", "critic": "critic"}
    # the mixture adds up: every weight changes by the weighted sum of the roles' changes
    model = _Scorer(None).model.module
    for name in ("learner", "critic", "mixed"):
        model = put_adapter(model, tmp_path / "adapters" / name, name)
    compared = 0
    for module in model.modules():
        if getattr(module, "lora_A", None) and "mixed" in module.lora_A:
            parts = 0.6 * module.get_delta_weight("learner") + 0.4 * module.get_delta_weight("critic")
            assert torch.allclose(module.get_delta_weight("mixed"), parts, atol=1e-6)
            compared += bool(parts.abs().max() > 0)
    assert compared == 14  # seven linear modules in each of two layers, all of which changed
    again = training.train_roles(settings, course, tmp_path / "adapters", options)
    assert all(done.finished_before for done in (*again.roles.values(), again.one))


@pytest.mark.slow
def test_without_roles_there_is_nothing_to_train_by(course: Path, tmp_path: Path) -> None:
    for path in course.parent.glob("train.*.jsonl"):
        path.unlink()
    with pytest.raises(UsageError, match="lies no file of a role"):
        training.train_roles(load_settings(home=tmp_path, model="toy"), course, tmp_path / "x", TrainOptions())
