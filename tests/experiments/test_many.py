"""Adapters trained side by side are those that PEFT and the bare loop train one at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trails.errors import UsageError
from trails.train import TrainOptions
from trails.train.adapter import mix_adapters, put_adapter
from trails.train.attempts import Attempts, prompt_of, with_attempt, written
from trails.train.loop import fit
from trails.train.many import Adapters, Job, fit_many, mixed

pytestmark = pytest.mark.train

VOCABULARY = 61


def tiny(family: str) -> Any:
    """A random model of a family: 3 layers, 32 dimensions."""
    from transformers import AutoModelForCausalLM, Gemma2Config, LlamaConfig, Phi3Config, Qwen2Config

    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.2,
        "pad_token_id": 0,
    }
    known = {
        "llama": lambda: LlamaConfig(**shape),
        "llama, tied": lambda: LlamaConfig(**shape, tie_word_embeddings=True),
        "qwen2": lambda: Qwen2Config(**shape),  # biases
        "gemma2": lambda: Gemma2Config(**shape, head_dim=8, query_pre_attn_scalar=8),  # soft caps, sliding window
        "phi3": lambda: Phi3Config(**shape),  # query, key and value in one layer
    }
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(known[family]()).float().eval()


def rows_of(seed: int, count: int) -> list[dict[str, Any]]:
    draw = np.random.default_rng(seed)
    found = []
    for number in range(count):
        n = int(draw.integers(6, 20))
        ids = draw.integers(1, VOCABULARY, n).tolist()
        labels = [-100] * 3 + ids[3:]
        weights = [0.0] * 3 + [float(draw.choice([0.0, 0.5, 1.0])) for _ in ids[3:]]
        found.append(
            {
                "input_ids": ids,
                "labels": labels,
                "loss_weights": weights,
                "step_spans": [],
                "offset": 3,
                "chain": str(number),
            }
        )
    return found


JOBS = ((11, 3e-3), (12, 1e-3), (13, 3e-2))


@pytest.mark.parametrize("tokens", [16384, 90])
@pytest.mark.parametrize("family", ["llama", "llama, tied", "qwen2", "gemma2", "phi3"])
def test_each_adapter_is_the_one_trained_alone(family: str, tokens: int) -> None:
    options = TrainOptions(steps=5, batch=4, layers=(), rank=4, alpha=8)
    # 10 rows in batches of 4: the last batch of a pass has two rows
    feeds = {seed: rows_of(seed, 10) for seed, _ in JOBS}
    test = torch.tensor([row["input_ids"][:6] for row in rows_of(99, 4)])
    losses: list[list[float]] = []
    model = tiny(family)
    untouched = {name: value.clone() for name, value in model.state_dict().items()}
    modules = dict(model.named_modules())
    jobs = [Job(feeds[seed], seed, rate) for seed, rate in JOBS]
    with fit_many(model, jobs, options, on_step=lambda _, found, __: losses.append(found), tokens=tokens) as adapters:
        with torch.inference_mode():
            together = model(input_ids=test.repeat(len(JOBS), 1), use_cache=False).logits.reshape(
                len(JOBS), *test.shape, -1
            )
        states = [adapters.state(index) for index in range(len(JOBS))]
    assert dict(model.named_modules()) == modules
    assert all(torch.equal(value, untouched[name]) for name, value in model.state_dict().items())
    for index, (seed, rate) in enumerate(JOBS):
        chosen = replace(options, seed=seed, learning_rate=rate)
        alone: list[float] = []
        trained = fit(tiny(family), feeds[seed], chosen, on_step=lambda _, loss, __, alone=alone: alone.append(loss))
        np.testing.assert_allclose([step[index] for step in losses], alone, rtol=1e-4)
        theirs = {
            name.replace(".default", ""): value for name, value in trained.state_dict().items() if "lora_" in name
        }
        assert theirs.keys() == states[index].keys()
        moved = max(float(value.abs().max()) for name, value in theirs.items() if "lora_B" in name)
        assert moved > 3 * rate  # five steps of Adam
        # the floor: the same rows in another order within their batches, which changes the rounding only
        swapped = [row for start in (0, 4, 8) for row in feeds[seed][start : start + 4][::-1]]
        again = fit(tiny(family), swapped, chosen)
        with torch.inference_mode():
            expected, other = (m(input_ids=test, use_cache=False).logits for m in (trained, again))
        floor = float((expected - other).abs().max())
        assert float((together[index] - expected).abs().max()) < max(10 * floor, 2e-5)


@pytest.mark.parametrize("tokens", [16384, 90])
@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_an_adapter_with_targets_is_the_one_that_the_attention_objective_trains_alone(family: str, tokens: int) -> None:
    """Targets at two layers in one adapter's rows, none in the other's: each learns as it does alone by its own objective."""
    options = TrainOptions(steps=4, batch=4, layers=(), rank=4, alpha=8, lm_share=0.5, targets="all")
    asked = [
        {"start": 3, "end": 5, "measure": "attention_entropy", "layers": (2,), "above": True, "bound": 5.0},
        {"start": 4, "end": 6, "measure": "attention_sink", "layers": (1, 3), "above": False, "bound": 0.0},
    ]
    plain = rows_of(1, 10)
    # rows with two, one and no targets
    aimed = [row | {"targets": asked[: number % 3]} for number, row in enumerate(rows_of(2, 10))]
    model = tiny(family)
    before = model.config._attn_implementation
    losses: list[list[float]] = []
    jobs = [Job(plain, 5, 3e-3), Job(aimed, 6, 3e-3)]
    with fit_many(model, jobs, options, on_step=lambda _, found, __: losses.append(found), tokens=tokens) as adapters:
        assert model.config._attn_implementation == before
        states = [adapters.state(index) for index in range(2)]
    for index, (rows, seed, objective) in enumerate(((plain, 5, "lm"), (aimed, 6, "attention"))):
        alone: list[float] = []
        chosen = replace(options, seed=seed, learning_rate=3e-3, objective=objective)
        trained = fit(tiny(family), rows, chosen, on_step=lambda _, loss, __, alone=alone: alone.append(loss))
        np.testing.assert_allclose([step[index] for step in losses], alone, rtol=1e-4)
        for name, value in trained.state_dict().items():
            if "lora_B" in name:
                np.testing.assert_allclose(value, states[index][name.replace(".default", "")], atol=2e-5)
    without = [row | {"targets": []} for row in aimed]
    with fit_many(tiny(family), [Job(without, 6, 3e-3)], options) as adapters:
        other = adapters.state(0)
    moved = max(
        float((other[name] - value).abs().max()) for name, value in states[1].items() if "q_proj.lora_B" in name
    )
    assert moved > 1e-3


def test_adapters_do_not_see_each_other() -> None:
    """A third adapter with other rows and a rate of 1 changes nothing in the first two."""
    options = TrainOptions(steps=3, batch=2, layers=())
    kept = []
    for third in (Job(rows_of(3, 4), 3, 1e-3), Job(rows_of(4, 4), 5, 1.0)):
        jobs = [Job(rows_of(1, 4), 1, 1e-2), Job(rows_of(2, 4), 2, 1e-2), third]
        with fit_many(tiny("llama"), jobs, options) as adapters:
            kept.append(adapters.flat.detach()[:2].clone())
    torch.testing.assert_close(kept[0], kept[1], rtol=0, atol=2e-4)


def test_before_training_every_adapter_is_the_model() -> None:
    model = tiny("llama")
    ids = torch.tensor([[1, 2, 3, 4]])
    expected = model(input_ids=ids, use_cache=False).logits
    with Adapters(model, [Job([], 0, 0.0), Job([], 1, 0.0)]).installed() as adapters, torch.inference_mode():
        adapters.set()
        found = model(input_ids=ids.repeat(2, 1), use_cache=False).logits
        with pytest.raises(ValueError, match="3 rows cannot be divided among 2 adapters"):
            model(input_ids=ids.repeat(3, 1), use_cache=False)
        adapters.set(on=False)
        again = model(input_ids=ids.repeat(3, 1), use_cache=False).logits
    torch.testing.assert_close(found, expected.repeat(2, 1, 1))
    torch.testing.assert_close(again, expected.repeat(3, 1, 1))


def test_adapters_of_their_own_layers_and_rank_are_those_trained_alone() -> None:
    """Chosen layers, another rank and every layer side by side; ``alpha`` is twice the rank for each."""
    options = TrainOptions(steps=4, batch=4, layers=(), rank=6, alpha=12)
    shapes = (((2,), 6), ((1, 2), 2), ((), 4))
    rows = rows_of(5, 8)
    test = torch.tensor([row["input_ids"][:6] for row in rows_of(99, 4)])
    model = tiny("llama")
    jobs = [Job(rows, 7, 1e-2, layers, rank) for layers, rank in shapes]
    with fit_many(model, jobs, options) as adapters, torch.inference_mode():
        together = model(input_ids=test.repeat(len(jobs), 1), use_cache=False).logits.reshape(
            len(jobs), *test.shape, -1
        )
        states = [adapters.state(index) for index in range(len(jobs))]
    for index, (layers, rank) in enumerate(shapes):
        chosen = replace(options, seed=7, learning_rate=1e-2, layers=layers, rank=rank, alpha=2 * rank)
        trained = fit(tiny("llama"), rows, chosen)
        with torch.inference_mode():
            expected = trained(input_ids=test, use_cache=False).logits
        torch.testing.assert_close(together[index], expected, rtol=0, atol=1e-4)
        assert adapters.trainable[index] == sum(p.numel() for p in trained.parameters() if p.requires_grad)
        for name, value in states[index].items():
            own = not layers or any(f"layers.{layer - 1}." in name for layer in layers)
            assert bool((value != 0).any()) == own, name
            beyond = value[rank:] if "lora_A" in name else value[:, rank:]
            assert not bool((beyond != 0).any())
    with pytest.raises(UsageError, match="layer 9, which does not exist"):
        Adapters(model, [Job(rows, 0, 1e-3, (9,))])
    with pytest.raises(UsageError, match="rank 9, of 8"):
        Adapters(model, [Job(rows, 0, 1e-3, (), 9)])


def test_a_mixture_is_that_of_the_adapters_folders(tmp_path: Path) -> None:
    """The weighted sum of two of three adapters, of their own ranks, is the one that the product writes of two folders."""
    options = TrainOptions(steps=4, batch=4, layers=(), rank=3, alpha=6)
    test = torch.tensor([row["input_ids"][:6] for row in rows_of(99, 4)])
    jobs = [Job(rows_of(seed, 8), seed, 2e-2, (), rank) for seed, rank in ((1, 3), (2, 3), (3, 2))]
    model = tiny("llama")
    with fit_many(model, jobs, options) as adapters:
        pass
    weights = {"a": 0.7, "b": 0.3}
    one = mixed(adapters, [3, 2], [0, 2], list(weights.values()))
    assert one.rank == 5
    with one.installed(), torch.inference_mode():
        one.set()
        found = model(input_ids=test, use_cache=False).logits
        one.set(on=False)
        bare = model(input_ids=test, use_cache=False).logits
    for name, job in (("a", jobs[0]), ("b", jobs[2])):
        rank = job.rank
        chosen = replace(options, seed=job.seed, learning_rate=job.learning_rate, rank=rank, alpha=2 * rank)
        fit(tiny("llama"), job.rows, chosen).save_pretrained(tmp_path / name)
    mix_adapters(tiny("llama"), {name: tmp_path / name for name in weights}, weights, tmp_path / "mixed")
    theirs = put_adapter(tiny("llama"), tmp_path / "mixed", "mixed")
    with torch.inference_mode():
        expected = theirs(input_ids=test, use_cache=False).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert float((found - bare).abs().max()) > 1e-2


def test_the_loop_side_by_side_is_that_of_one_adapter_alone() -> None:
    """Rows made again before every step, after each adapter's own attempts, give the adapters of the objective loop."""
    how = Attempts(mark=(5, 6, 7), end=(1,), pad=0)
    options = TrainOptions(steps=4, batch=4, layers=(), rank=4, alpha=8)
    feeds = {seed: rows_of(seed, 12) for seed in (1, 2)}
    test = torch.tensor([row["input_ids"][:6] for row in rows_of(99, 4)])
    model = tiny("llama").double()
    steps: list[int] = []

    def feed(step: int, rows: list[list[Any]], _: Adapters) -> list[list[Any]]:
        steps.append(step)
        made = iter(written(model, [prompt_of(row) for mine in rows for row in mine], how, 6, 0.0, 0))
        return [[with_attempt(row, next(made), how) for row in mine] for mine in rows]

    jobs = [Job(rows, seed, 3e-2) for seed, rows in feeds.items()]
    with fit_many(model, jobs, options, feed=feed) as adapters, torch.inference_mode():
        together = model(input_ids=test.repeat(2, 1), use_cache=False).logits.reshape(2, *test.shape, -1)
    assert steps == [1, 2, 3, 4]
    assert adapters.count == 2
    for index, (seed, rows) in enumerate(feeds.items()):
        of = {"objective": "loop", "attempt_tokens": 6, "temperature": 0.0}
        chosen = replace(options, seed=seed, learning_rate=3e-2, **of)
        alone = fit(tiny("llama").double(), rows, chosen, attempts=how)
        plain = fit(tiny("llama").double(), rows, replace(options, seed=seed, learning_rate=3e-2))
        with torch.inference_mode():
            expected, other = (m(input_ids=test, use_cache=False).logits for m in (alone, plain))
        torch.testing.assert_close(together[index], expected, rtol=0, atol=1e-3)
        assert float((together[index] - other).abs().max()) > 0.1


def test_a_training_begins_where_another_ended() -> None:
    options = TrainOptions(steps=3, batch=4, layers=())
    rows = rows_of(1, 8)
    with fit_many(tiny("llama"), [Job(rows, 1, 1e-2), Job(rows, 2, 1e-2)], options) as adapters:
        first = adapters.flat.detach()[1].clone()
    jobs = [Job(rows, 5, 1e-12, start=first), Job(rows, 6, 1e-2, start=first)]
    with fit_many(tiny("llama"), jobs, options) as again:
        torch.testing.assert_close(again.flat.detach()[0], first, rtol=0, atol=1e-9)
        assert float((again.flat.detach()[1] - first).abs().max()) > 1e-3
    torch.testing.assert_close(adapters.flat.detach()[1], first, rtol=0, atol=0)
