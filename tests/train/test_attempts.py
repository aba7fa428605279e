"""The loop loss: the attempt is the model's own, the loss is the repair's, and its gradient that of a finite difference."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from trails.errors import ModelError, UsageError
from trails.train import TrainOptions, train_rows
from trails.train.adapter import with_adapter
from trails.train.attempts import Attempts, with_attempts, written
from trails.train.data import Collator
from trails.train.journal import Journal, read_journal
from trails.train.loss import batch_loss
from trails.train.options import check_options

pytestmark = pytest.mark.train

HOW = Attempts(mark=(5, 6, 7), end=(1,), pad=0)
LOOP = TrainOptions(objective="loop", attempt_tokens=6, temperature=0.0)


def greedy(model, prompt: list[int], n: int) -> list[int]:
    """The likeliest continuation, written out: no cache, no padding."""
    ids = list(prompt)
    for _ in range(n):
        with torch.no_grad():
            best = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if best == 1:
            break
        ids.append(best)
    return ids[len(prompt) :]


def test_attempts_are_what_the_model_writes_behind_each_prompt(tiny) -> None:
    model = tiny().double()
    prompts = [[4, 9, 11], [30, 31], [8, 8, 8, 8, 8]]
    assert written(model, prompts, HOW, 6, 0.0, 0) == [greedy(model, prompt, 6) for prompt in prompts]
    drawn = [written(model, prompts, HOW, 6, 1.0, seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    model.train()
    state = torch.random.get_rng_state()
    written(model, prompts, HOW, 6, 1.0, 1)
    assert model.training
    assert torch.equal(state, torch.random.get_rng_state())


def test_an_attempt_stands_between_the_context_and_the_labelled_text(tiny, make_rows) -> None:
    model, rows = tiny(), make_rows(3)
    made = with_attempts(model, Collator()(rows), LOOP, HOW, (1, 0))
    for i, row in enumerate(rows):
        attempt = greedy(model, row["input_ids"][:3], 6)
        expected = [*row["input_ids"][:3], *attempt, *HOW.mark, *row["input_ids"][3:]]
        n = len(expected)
        assert made["input_ids"][i, :n].tolist() == expected
        assert made["labels"][i, :n].tolist() == [-100] * (3 + len(attempt) + 3) + row["labels"][3:]
        assert made["loss_weights"][i, :n].tolist() == [0.0] * (3 + len(attempt) + 3) + row["loss_weights"][3:]
        assert made["attention_mask"][i].tolist() == [1] * n + [0] * (made["input_ids"].shape[1] - n)
        assert (made["labels"][i, n:] == -100).all()


def test_the_loss_is_the_cross_entropy_of_the_repair_and_its_gradient_that_of_differences(tiny, make_rows) -> None:
    model, batch = tiny().double(), Collator()(make_rows(2))
    batch["loss_weights"] = batch["loss_weights"].double()
    made = with_attempts(model, batch, LOOP, HOW, (1, 0))

    def reckoned() -> torch.Tensor:
        """The attempts stay as they were: they are data."""
        logits = model(input_ids=made["input_ids"], attention_mask=made["attention_mask"]).logits
        nll = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), made["labels"][:, 1:].flatten(), reduction="none", ignore_index=-100
        )
        return (nll * made["loss_weights"][:, 1:].flatten()).sum() / (made["labels"][:, 1:] != -100).sum()

    loss, _ = batch_loss(model, model, batch, LOOP, attempts=HOW, at=(1, 0))
    torch.testing.assert_close(loss, reckoned(), rtol=1e-5, atol=1e-6)
    model.zero_grad()
    loss.backward()
    generator = torch.Generator().manual_seed(1)
    checked = 0
    step = 1e-3  # the norms of a Llama reckon in float32: of a smaller step their rounding, 1e-7 / step, would be seen
    for name in ("model.layers.1.mlp.up_proj.weight", "model.layers.2.self_attn.v_proj.weight", "lm_head.weight"):
        weight = model.get_parameter(name)
        direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        gradient = float((weight.grad * direction).sum())
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * step * direction
                ends.append(float(reckoned()))
                weight -= sign * step * direction
        assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(gradient, rel=1e-3, abs=1e-6)
        checked += abs(gradient) > 1e-3
    assert checked == 3


def test_own_attempts_follow_the_adapter_and_the_control_does_not(tiny, make_rows) -> None:
    batch = Collator()(make_rows(2))
    model = with_adapter(tiny(), TrainOptions(rank=4), ())
    bare = with_attempts(model, batch, LOOP, HOW, (1, 0))["attempts"]
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5)
    own = with_attempts(model, batch, LOOP, HOW, (2, 0))["attempts"]
    base = copy.deepcopy(LOOP)
    control = with_attempts(
        model, batch, TrainOptions(objective="loop", attempt_tokens=6, temperature=0.0, attempts="base"), HOW, (2, 0)
    )["attempts"]
    assert base == LOOP
    assert own != bare
    assert control == bare


def test_training_learns_to_repair_and_a_share_of_the_plain_loss_counts(
    tiny, tokenizer, make_rows, tmp_path: Path
) -> None:
    rows = make_rows(4)
    options = TrainOptions(steps=30, batch=4, learning_rate=2e-2, objective="loop", attempt_tokens=4, lm_share=0.5)
    report = train_rows(rows, tmp_path / "a", tiny(), tokenizer, options, identity={"export": "x"})
    assert report.losses[-1][1] < 0.7 * report.losses[0][1]
    model, batch = tiny(), Collator()(rows)
    how = Attempts.of(tokenizer)
    alone = TrainOptions(objective="loop", attempt_tokens=4, temperature=0.0)
    both = TrainOptions(objective="loop", attempt_tokens=4, temperature=0.0, lm_share=0.5)
    a, b = (batch_loss(model, model, batch, o, attempts=how, at=(1, 0))[0] for o in (alone, both))
    plain, _ = batch_loss(model, model, batch, TrainOptions())
    torch.testing.assert_close(b, a + 0.5 * plain)


def test_the_journal_of_a_loop_names_the_places_of_the_chain(tiny, make_rows, tmp_path: Path) -> None:
    model, rows = tiny(), [row | {"first": 0, "prefix": ""} for row in make_rows(2)]
    journal = Journal(tmp_path / "journal.jsonl", 0.0)
    batch_loss(model, model, Collator(places=True)(rows), LOOP, attempts=HOW, at=(1, 0), journal=journal)
    named = {(entry.chain, entry.position) for entry in read_journal(tmp_path / "journal.jsonl")}
    assert named == {(row["chain"], i - 3) for row in rows for i in range(3, len(row["input_ids"]))}


def test_faults(tiny, tokenizer, make_rows, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="belong to the objective loop"):
        check_options(TrainOptions(attempts="base"))
    with pytest.raises(ModelError, match="--attempt-tokens"):
        train_rows(
            make_rows(2), tmp_path / "x", tiny(), tokenizer, TrainOptions(objective="loop", attempt_tokens=240),
            identity={"export": "x"}, window=256,
        )  # fmt: skip
    with pytest.raises(UsageError, match="quantile"):
        check_options(TrainOptions(journal=1.0))
    with pytest.raises(ValueError, match="how attempts are written"):
        batch_loss(tiny(), tiny(), Collator()(make_rows(1)), LOOP)
