"""Targets of the attention objective: what is pulled is what trails measures, with the gradient of its definition."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.train.test_train import run

from trails.errors import UsageError
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.huggingface import HuggingFaceScorer
from trails.schema import Chain, Step
from trails.train.attention import NAME, Target, install, tapped, target_loss
from trails.train.data import Collator, cut, dataset, shuffled_steps
from trails.train.loss import batch_loss
from trails.train.options import TrainOptions

MEASURES = ("attention_entropy", "attention_sink", "attention_previous")
ASKED = {"start": 4, "end": 9, "measure": "attention_entropy", "layers": [2], "above": True, "bound": 5.0}


def value(model: Any, batch: dict[str, Any], target: Target) -> torch.Tensor:
    """The target's mean, from the tap."""
    with tapped(None, [[target]]) as tap:
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return torch.stack(list(tap.values.values())).mean()


def binned(model: Any) -> Any:
    install()
    model.set_attn_implementation(NAME)
    return model


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("layers", [(2,), (1, 3), ()])
def test_the_value_of_a_target_is_what_trails_measures(tiny, tokenizer, measure: str, layers: tuple[int, ...]) -> None:
    text = " ".join(f"w{3 * i % 60}" for i in range(24))
    cuts = [0, text.index("w30"), len(text)]
    steps = tuple(Step(i, a, b) for i, (a, b) in enumerate(pairwise(cuts)))
    scorer = HuggingFaceScorer(tiny(), tokenizer, name="tiny", revision="0")
    item = Segmented(Chain("t", "1", "w5 w6 w7", text), steps)
    (trace,) = scorer.measure([item], MeasureOptions())
    sequence = scorer.sequence(item)
    ids = [*map(int, sequence.row.ids)]
    context = len(ids) - trace.n_tokens
    columns = [layer - 1 for layer in layers] or list(range(trace.n_layers))
    expected = np.asarray(trace.array(measure), np.float64)[5:12, columns].mean()
    model = binned(tiny())
    batch = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    found = value(model, batch, Target(context + 5, context + 12, measure, layers, True, 0.0))
    assert float(found.detach()) == pytest.approx(expected, abs=1e-5)
    # padding behind and another row beside it change nothing
    padded = {
        "input_ids": torch.tensor([[*ids, 0, 0], [*ids, 1, 2]]),
        "attention_mask": torch.tensor([[*[1] * len(ids), 0, 0], [1] * (len(ids) + 2)]),
    }
    again = value(model, padded, Target(context + 5, context + 12, measure, layers, True, 0.0))
    assert float(again.detach()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_gradient_is_that_of_the_definition_and_none_beyond_the_bound(tiny, make_rows, measure: str) -> None:
    model = binned(tiny()).double()
    batch = Collator()(make_rows(1))

    def loss(above: bool, bound: float) -> torch.Tensor:
        with tapped(None, [[Target(4, 10, measure, (3,), above, bound)]]) as tap:
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        found = target_loss(tap)
        assert found is not None
        return found

    weight = model.model.layers[1].self_attn.q_proj.weight  # a layer below: its states reach the target's layer
    for above, bound in ((True, 9.0), (False, -9.0)):
        model.zero_grad()
        loss(above, bound).backward()
        assert model.lm_head.weight.grad is None
        assert model.model.layers[3].self_attn.q_proj.weight.grad is None  # a layer above it has no part in it
        place = np.unravel_index(int(weight.grad.abs().argmax()), weight.shape)
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                weight[place] += sign * 3e-3
                ends.append(float(loss(above, bound)))
                weight[place] -= sign * 3e-3
        slope = (ends[0] - ends[1]) / 6e-3
        assert float(weight.grad[place]) == pytest.approx(slope, rel=2e-3)  # the norms of a Llama are float32
        assert abs(slope) > 1e-5
    model.zero_grad()
    found = loss(True, -9.0)
    assert float(found.detach()) == 0
    found.backward()
    assert not weight.grad.any()


def test_a_batch_is_the_mean_over_its_targets_and_rows_without_one_count_nothing(tiny, make_rows) -> None:
    rows = make_rows(3)
    rows[0]["targets"] = [ASKED, ASKED | {"layers": [], "above": False, "bound": 0.0}]
    model = binned(tiny())
    options = TrainOptions(objective="attention", batch=3)
    loss, _ = batch_loss(model, model, Collator(bins=True)(rows), options)
    single = Collator()(rows[:1])
    one = 5.0 - float(value(model, single, Target(4, 9, "attention_entropy", (2,), True, 5.0)).detach())
    two = float(value(model, single, Target(4, 9, "attention_entropy", (), False, 0.0)).detach())
    assert float(loss.detach()) == pytest.approx((one + two) / 2, rel=1e-5)
    nothing, _ = batch_loss(model, model, Collator(bins=True)(rows[1:]), options)
    assert float(nothing.detach()) == 0
    nothing.backward()  # a batch without a target is no error


def test_training_moves_the_attention_to_the_bound(tiny, tokenizer, make_rows, tmp_path: Path) -> None:
    rows = make_rows(4)
    before = binned(tiny())
    values = [
        float(value(before, Collator()([row]), Target(4, 9, "attention_entropy", (2,), True, 0.0)).detach())
        for row in rows
    ]
    bound = max(values) + 0.2
    asked = [row | {"targets": [ASKED | {"bound": bound}]} for row in rows]
    model = tiny()
    report = run(tmp_path, model, tokenizer, asked, steps=60, objective="attention")
    assert report.losses[0][1] > 0.1
    assert np.mean([loss for _, loss in report.losses[-5:]]) < 0.25 * report.losses[0][1]
    with pytest.raises(UsageError, match=r"needs stored maps, or rows with targets"):
        run(tmp_path, tiny(), tokenizer, rows, name="none", objective="attention")


def test_targets_are_cut_with_their_row_and_stand_in_the_data_set(make_rows) -> None:
    (row,) = make_rows(1, targets=[ASKED, ASKED | {"start": 10, "end": 12}])
    short = cut(row, 8)
    assert [(own["start"], own["end"]) for own in short["targets"]] == [(4, 8)]
    (batch_targets,) = Collator(bins=True)(list(dataset([row])))["targets"]
    assert [(one.start, one.end, one.layers) for one in batch_targets] == [(4, 9, (2,)), (10, 12, (2,))]
    assert "targets" not in dataset(make_rows(2)).column_names
    with pytest.raises(UsageError, match=r"--shuffle-steps moves the tokens"):
        shuffled_steps([row])
