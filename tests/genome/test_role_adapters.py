"""Adapters by role: disjoint rows, as many parameters in the one adapter, and a weighted sum that is exact."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trails.config import load_settings
from trails.errors import UsageError
from trails.evaluate.probe import probe
from trails.evaluate.routes import Routed
from trails.genome.compile import export_course
from trails.genome.course import compile_course
from trails.genome.model import parse_genome
from trails.genome.shelf import Shelf
from trails.pipeline import training
from trails.store.traces import TraceStore
from trails.train import TrainOptions
from trails.train.adapter import put_adapter
from trails.train.data import load_rows

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


def _compiled(packaged: Path, to: Path, text: str) -> Path:
    with TraceStore(packaged) as traces:
        (run,) = traces.runs().values()
        genome, document = parse_genome(text)
        export_course(compile_course(genome, document, Shelf(traces, run)), "trails", to)
    return to / "train.jsonl"


def _labelled(export: Path, label: dict[str, int]) -> None:
    """Every row of a role teaches the one token given for the role, whatever stands before it."""
    for path in export.parent.glob("train*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row["labels"] = [label[row["role"]] if old != -100 else -100 for old in row["labels"]]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


ROUTED = """\
genome: 1
name: routed
stages:
  - name: one
    sections:
      - name: a
        books:
          - {select: "meta:version=plain", skip: 0, take: 12, order: source}
          - {select: "meta:version=reworded", skip: 0, take: 12, order: source}
roles: {learner: "meta:version=plain", critic: "meta:version=reworded"}
"""


@pytest.mark.train
@pytest.mark.parametrize("pays", [True, False])
def test_routing_by_role_beats_one_adapter_only_where_roles_ask_for_different_things(
    packaged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pays: bool
) -> None:
    """Where every role has a token of its own, no single adapter can be right about both; where they share it, none need be."""
    with TraceStore(packaged) as traces:
        (run,) = traces.runs().values()
    monkeypatch.setattr(training, "_scorer", lambda *_: _Scorer(run))
    trained = _compiled(packaged, tmp_path / "trained", ROUTED)
    unseen = _compiled(packaged, tmp_path / "unseen", ROUTED.replace("skip: 0", "skip: 12"))
    for export in (trained, unseen):
        _labelled(export, {"learner": 40, "critic": 41 if pays else 40})
    settings, adapters = load_settings(home=tmp_path / "none", model="toy"), tmp_path / "adapters"
    options = TrainOptions(batch=4, rank=2, alpha=8, steps=12, learning_rate=0.02)
    training.train_roles(settings, trained, adapters, options)
    found = training.route_rows(settings, adapters, unseen, trained=trained)
    assert (len(found.roles), found.left_out) == (24, 0)
    report = found.report()
    (score,) = report.scores
    # what was routed is what each adapter does alone
    model = _Scorer(run).model.module
    rows = load_rows(unseen.with_name("train.critic.jsonl"))
    alone = [p.nll.mean(dtype=float) for p in probe(put_adapter(model, adapters / "critic", "critic"), rows)]
    mine = [nll for nll, role in zip(found.routed(found.roles), found.roles, strict=True) if role == "critic"]
    assert mine == pytest.approx(alone, abs=1e-5)
    assert score.value == pytest.approx(float((found.nll["one"] - found.routed(found.roles)).mean()))
    random = score.strictest("routes at random")
    assert random.value == pytest.approx(
        float((found.nll["one"] - (found.nll["learner"] + found.nll["critic"]) / 2).mean()), abs=0.1
    )
    better = "better than one adapter" in report.verdict and "and beyond routes at random" in report.verdict
    assert better == pays, report.verdict
    # the rows of the training itself are not judged, and with --export nothing of them is left
    seen = training.route_rows(settings, adapters, trained).report()
    assert not seen.scores
    assert "were trained on" in seen.verdict
    with pytest.raises(UsageError, match="no row of a role is left"):
        training.route_rows(settings, adapters, trained, trained=trained)
    with pytest.raises(UsageError, match="was trained on another export"):
        training.route_rows(settings, adapters, unseen, trained=unseen)


def _routed(own: float, other: float, one: float, n: int = 40) -> Routed:
    """Rows of two roles by turns, with a surprisal for the own adapter, the other's and the one for both."""
    noise = np.random.default_rng(0).normal(0, 0.01, n)
    first = np.arange(n) % 2 == 0
    nll = {
        "untrained": noise + 5,
        "learner": noise + np.where(first, own, other),
        "critic": noise + np.where(first, other, own),
        "one": np.full(n, one),
        "mixed": noise + (own + other) / 2,
    }
    return Routed(nll, tuple(np.where(first, "learner", "critic").tolist()), tuple(map(str, range(n))), 0)


@pytest.mark.parametrize(
    ("own", "other", "said"),
    [
        (1.0, 3.0, r"better than one adapter .* and beyond routes at random"),
        (1.0, 1.0, r"better than one adapter .* and not beyond routes at random"),  # adapters differ in nothing
        (2.0, 4.0, r"not shown to differ from one adapter .* and beyond routes at random"),
        (3.0, 1.0, r"worse than one adapter .* and not beyond routes at random"),
    ],
)
def test_a_verdict_on_routes_needs_both_controls(own: float, other: float, said: str) -> None:
    report = _routed(own, other, one=2.0).report()
    assert re.search(said, report.verdict), report.verdict
    assert [control.name for control in report.scores[0].controls] == [
        "routes at random",
        "the weighted sum of the roles",
        "the untrained model",
    ]


def test_a_chain_that_comes_often_is_one_unit_and_few_are_not_judged() -> None:
    few = _routed(1.0, 3.0, 2.0, n=10).report()
    assert not few.scores
    assert few.withheld[0].reason == "10 chains; 20 are needed"
    rows = _routed(1.0, 3.0, 2.0)
    again = replace(
        rows,
        nll={name: np.concatenate([of, np.repeat(of[:1], 60)]) for name, of in rows.nll.items()},
        roles=rows.roles + rows.roles[:1] * 60,
        chains=rows.chains + rows.chains[:1] * 60,
    )
    assert again.gain(again.routed(again.roles))[0] == pytest.approx(rows.gain(rows.routed(rows.roles))[0])
    assert again.report().scores[0].controls[1].value == pytest.approx(rows.report().scores[0].controls[1].value)
    one_role = replace(rows, roles=("learner",) * 40).report()
    assert "two roles are needed" in one_role.verdict


@pytest.mark.slow
def test_a_folder_without_routes_is_refused(course: Path, tmp_path: Path) -> None:
    settings = load_settings(home=tmp_path, model="toy")
    with pytest.raises(UsageError, match=r"has no routes\.json"):
        training.route_rows(settings, tmp_path, course)


@pytest.mark.slow
def test_without_roles_there_is_nothing_to_train_by(course: Path, tmp_path: Path) -> None:
    for path in course.parent.glob("train.*.jsonl"):
        path.unlink()
    with pytest.raises(UsageError, match="there is no file of a role beside"):
        training.train_roles(load_settings(home=tmp_path, model="toy"), course, tmp_path / "x", TrainOptions())
