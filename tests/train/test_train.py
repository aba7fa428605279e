"""Weights, masks and order really arrive; layers outside the chosen ones stay as they were; resuming changes nothing."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from trails.errors import ModelError, UsageError
from trails.measure.load import adapter_digest
from trails.train import TrainOptions, train_rows, weight_change
from trails.train.attention import NAME, TeacherMap, attention_loss, install, key_bins, tapped
from trails.train.data import Collator, cut, dataset
from trails.train.loss import batch_loss, labelled_logits, shifted, token_loss, token_nll

pytestmark = pytest.mark.train


def loss_of(model, batch, objective="lm") -> torch.Tensor:
    return batch_loss(model, model, batch, TrainOptions(objective=objective))[0]


def gradients(model, batch, objective="lm") -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss_of(model, batch, objective).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_gradient_of_a_token_is_proportional_to_its_weight(tiny, make_rows) -> None:
    model = tiny().double()
    row = make_rows(1)[0]
    parts = {}
    for weight in (1.0, 0.1):
        only = copy.deepcopy(row)
        only["loss_weights"] = [weight if i == 6 else 0.0 for i in range(len(row["input_ids"]))]
        batch = Collator()([only])
        batch["loss_weights"] = batch["loss_weights"].double()
        parts[weight] = gradients(model, batch)
    for name, full in parts[1.0].items():
        torch.testing.assert_close(parts[0.1][name], 0.1 * full, rtol=1e-5, atol=1e-7)
        if float(full.norm()) > 1e-3:
            assert float(parts[0.1][name].norm() / full.norm()) == pytest.approx(0.1, abs=1e-6)
    assert max(float(g.abs().max()) for g in parts[1.0].values()) > 1e-3


def test_a_masked_token_has_exactly_no_gradient(tiny, make_rows) -> None:
    """A masked last token cannot be told from one that is not there: its logits get gradient 0, bit by bit."""
    model = tiny()
    row = make_rows(1)[0]
    masked = copy.deepcopy(row)
    masked["labels"][-1] = -100
    zero = copy.deepcopy(row)
    zero["loss_weights"][-1] = 0.0
    other = copy.deepcopy(masked)
    other["input_ids"][-1] = (row["input_ids"][-1] + 1) % 60 + 2  # the masked token's id is free to be anything
    a, b = gradients(model, Collator()([masked])), gradients(model, Collator()([other]))
    for name in a:
        if "embed_tokens" not in name:
            assert torch.equal(a[name], b[name]), name
    batch = Collator()([zero])
    _, targets, weights = shifted(batch["labels"], batch["loss_weights"])
    logits = torch.randn(len(targets), 64, requires_grad=True)
    token_loss(token_nll(logits, targets), weights, "lm").sum().backward()
    assert (logits.grad[-1] == 0).all()
    assert (logits.grad[0] != 0).any()


def test_the_loss_is_that_of_the_library_where_all_weights_are_one(tiny, make_rows) -> None:
    model = tiny()
    batch = Collator()(make_rows(4))
    expected = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=batch["labels"]).loss
    torch.testing.assert_close(loss_of(model, batch), expected, rtol=1e-5, atol=1e-6)


def test_dft_has_the_gradient_of_minus_p() -> None:
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.tensor([0, 3, 6, 2, 2]), torch.tensor([1.0, 0.5, 2.0, 1.0, 0.0], dtype=torch.float64)
    nll = -torch.log_softmax(logits, -1)[torch.arange(5), targets]
    (found,) = torch.autograd.grad(token_loss(nll, weights, "dft").sum(), logits, retain_graph=True)
    p = torch.softmax(logits, -1)[torch.arange(5), targets]
    (expected,) = torch.autograd.grad(-(weights * p).sum(), logits)
    torch.testing.assert_close(found, expected)


def test_logits_at_labelled_positions_only_are_the_models_own(tiny, make_rows) -> None:
    model = tiny()
    batch = Collator()(make_rows(3))
    predicts, targets, _ = shifted(batch["labels"], batch["loss_weights"])
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    full = model(**inputs).logits
    with labelled_logits(model, predicts):
        some = model(**inputs).logits
    assert some.shape == (1, len(targets), 64)
    torch.testing.assert_close(some[0], full[predicts], rtol=1e-5, atol=1e-5)
    assert torch.equal(model(**inputs).logits, full)


def test_cutting_cuts_ids_labels_and_weights_together(make_rows) -> None:
    row = make_rows(1)[0]
    short = cut(row, 8)
    assert [len(short[k]) for k in ("input_ids", "labels", "loss_weights")] == [8, 8, 8]
    assert short["step_spans"][-1]["end"] == 8
    assert cut(row, 6)["step_spans"] == [row["step_spans"][0] | {"end": 6}]
    assert dataset([row], 8)[0]["labels"] == short["labels"]
    assert cut(row, 100) is row


class Watch:
    """Collects what every step was fed (added to the collator) and can stop the training after a step."""

    def __init__(self, stop: int = 0) -> None:
        from transformers import TrainerCallback

        class Callback(TrainerCallback):
            def on_step_end(self, args, state, control, **kwargs):
                if stop and state.global_step == stop:
                    raise KeyboardInterrupt

        self.callback = Callback()


def run(tmp_path: Path, model, tokenizer, rows, name="out", stop: int = 0, teachers=None, overwrite=False, **options):
    return train_rows(
        rows,
        tmp_path / name,
        model,
        tokenizer,
        TrainOptions(**({"batch": 2, "rank": 4, "learning_rate": 1e-2} | options)),
        identity={"export": "test", "model": "tiny", "revision": "0"},
        teachers=teachers,
        overwrite=overwrite,
        callbacks=[Watch(stop).callback],
    )


def test_rows_arrive_in_the_order_written_with_their_weights(tiny, tokenizer, make_rows, tmp_path, monkeypatch) -> None:
    rows = make_rows(7)
    for i, row in enumerate(rows):
        row["loss_weights"] = [0.0 if label == -100 else 0.1 * (i + 1) for label in row["labels"]]
    fed = []
    plain = Collator.__call__

    def spy(self, batch):
        out = plain(self, batch)
        for ids, labels, weights in zip(out["input_ids"], out["labels"], out["loss_weights"], strict=True):
            fed.append((ids.tolist(), labels.tolist(), weights.tolist()))
        return out

    monkeypatch.setattr(Collator, "__call__", spy)
    report = run(tmp_path, tiny(), tokenizer, rows, steps=5)
    assert report.steps == 5
    order = [0, 1, 2, 3, 4, 5, 6, 0, 1]  # one pass is 4 batches (the last of one row), then from the start
    for (ids, labels, weights), index in zip(fed, order, strict=False):
        n = len(rows[index]["input_ids"])
        assert ids[:n] == rows[index]["input_ids"]
        assert labels[:n] == rows[index]["labels"]
        np.testing.assert_allclose(weights[:n], rows[index]["loss_weights"], rtol=1e-6)
        assert set(labels[n:]) <= {-100}
        assert set(weights[n:]) <= {0.0}
    assert len(fed) >= len(order)


def test_weight_zero_rows_teach_nothing_and_scale_nothing(tiny, tokenizer, make_rows, tmp_path) -> None:
    """The trainer's own update: halving all weights halves the gradient (seen through SGD-like first Adam moments)."""
    rows = make_rows(2)
    off = copy.deepcopy(rows)
    for row in off:
        row["loss_weights"] = [0.0] * len(row["loss_weights"])
    report = run(tmp_path, tiny(), tokenizer, off, steps=2)
    weights = load_file(report.adapter / "adapter_model.safetensors")
    assert all((value == 0).all() for name, value in weights.items() if "lora_B" in name)
    assert [loss for _, loss in report.losses] == [0.0, 0.0]
    half = copy.deepcopy(rows)
    for row in half:
        row["loss_weights"] = [w * 0.5 for w in row["loss_weights"]]
    full_report = run(tmp_path, tiny(), tokenizer, rows, name="full", steps=1)
    half_report = run(tmp_path, tiny(), tokenizer, half, name="half", steps=1)
    assert half_report.losses[0][1] == pytest.approx(full_report.losses[0][1] / 2, rel=1e-3)


def test_accumulated_batches_weigh_tokens_not_batches(tiny, tokenizer, make_rows, tmp_path) -> None:
    rows = make_rows(4)
    rows[0]["labels"] = [-100] * (len(rows[0]["labels"]) - 1) + rows[0]["labels"][-1:]
    rows[0]["loss_weights"] = [0.0] * (len(rows[0]["labels"]) - 1) + [1.0]
    a = run(tmp_path, tiny(), tokenizer, rows, name="a", steps=1, batch=4)
    b = run(tmp_path, tiny(), tokenizer, rows, name="b", steps=1, batch=1, accumulate=4)
    assert a.losses[0][1] == pytest.approx(b.losses[0][1], rel=1e-4)
    one, two = (load_file(r.adapter / "adapter_model.safetensors") for r in (a, b))
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=1e-3, atol=1e-4)


def test_only_the_chosen_layers_change(tiny, tokenizer, make_rows, tmp_path) -> None:
    from peft import PeftModel

    rows = make_rows(6, layers=[1, 2])
    report = run(tmp_path, tiny(), tokenizer, rows, steps=4)
    assert report.layers == (2, 3)
    adapted = PeftModel.from_pretrained(tiny(), report.adapter)
    change = weight_change(adapted)
    assert set(change) == {1, 2, 3, 4}
    assert change[1] == change[4] == 0.0
    assert change[2] > 0
    assert change[3] > 0
    base = dict(tiny().named_parameters())
    for name, value in adapted.merge_and_unload().named_parameters():
        inside = ".layers.1." in name or ".layers.2." in name
        if not inside or "norm" in name:
            assert torch.equal(value, base[name]), name
    other = run(tmp_path, tiny(), tokenizer, rows, name="other", steps=1, layers=(1,))
    assert other.layers == (1,)
    with pytest.raises(UsageError, match=r"layers 9 do not exist. This model has layers 1 to 4\."):
        run(tmp_path, tiny(), tokenizer, rows, name="wrong", layers=(9,))
    rows[0]["layers"] = [3]
    with pytest.raises(UsageError, match="the rows of the export name different layers. Choose with --layers"):
        run(tmp_path, tiny(), tokenizer, rows, name="mixed")


def test_embeddings_keep_their_size_and_values(tiny, tokenizer, make_rows, tmp_path) -> None:
    model = tiny()
    shape, values = model.get_input_embeddings().weight.shape, model.get_input_embeddings().weight.clone()
    run(tmp_path, model, tokenizer, make_rows(4), steps=2)
    assert model.get_input_embeddings().weight.shape == shape
    assert torch.equal(model.get_input_embeddings().weight, values)


def test_resuming_equals_an_undisturbed_training(tiny, tokenizer, make_rows, tmp_path) -> None:
    rows = make_rows(10)
    options = {"steps": 8, "checkpoint_every": 3, "schedule": "linear", "warmup_steps": 2, "dropout": 0.1}
    whole = run(tmp_path, tiny(), tokenizer, rows, name="whole", **options)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, tiny(), tokenizer, rows, name="broken", stop=5, **options)
    again = run(tmp_path, tiny(), tokenizer, rows, name="broken", **options)
    assert again.resumed == 3
    a, b = (load_file(r.adapter / "adapter_model.safetensors") for r in (whole, again))
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert whole.losses == again.losses
    done = run(tmp_path, tiny(), tokenizer, rows, name="broken", **options)
    assert done.finished_before
    with pytest.raises(
        UsageError,
        match=r"another training \(of rows\): its steps is 8, and 9 was asked for. Choose another folder, or add --overwrite",
    ):
        run(tmp_path, tiny(), tokenizer, rows, name="broken", **(options | {"steps": 9}))
    assert run(tmp_path, tiny(), tokenizer, rows, name="broken", overwrite=True, **(options | {"steps": 1})).steps == 1


def test_a_training_that_could_not_start_does_not_claim_the_folder(tiny, tokenizer, make_rows, tmp_path) -> None:
    rows = make_rows(2)
    with pytest.raises(UsageError, match="targets 'nope' do not fit this model"):
        run(tmp_path, tiny(), tokenizer, rows, steps=1, targets="nope")
    assert run(tmp_path, tiny(), tokenizer, rows, steps=1).steps == 1
    with pytest.raises(UsageError, match="holds another training"):
        run(tmp_path, tiny(), tokenizer, rows, steps=2)


def test_a_loss_that_is_no_number_is_an_error(tiny, tokenizer, make_rows, tmp_path) -> None:
    with pytest.raises(ModelError, match="no longer a number at step [23]"):
        run(tmp_path, tiny(), tokenizer, make_rows(4), steps=3, learning_rate=1e38)
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_the_card_names_the_export(tiny, tokenizer, make_rows, tmp_path) -> None:
    report = run(tmp_path, tiny(), tokenizer, make_rows(3), steps=1)
    card = (report.adapter / "README.md").read_text()
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "peft"
    assert "| export, SHA-256 | `test` |" in card
    record = json.loads((report.adapter / "train.json").read_text())
    assert record["adapter"] == adapter_digest(report.adapter)
    assert f"| adapter, its digest in trails status | `{record['adapter']}` |" in card
    assert not list(report.adapter.glob("*.bin"))


def test_what_was_not_trained_is_counted(tiny, tokenizer, make_rows, tmp_path) -> None:
    """Rows of 12, 13, 14, 12, … tokens, of which the first three are context; the last two carry a label at their end only."""
    rows = make_rows(8)
    for row in rows[6:]:
        row["labels"] = [-100] * 11 + row["labels"][11:]
    report = run(tmp_path, tiny(), tokenizer, rows, steps=2, max_tokens=10)
    assert (report.rows, report.cut, report.emptied) == (6, 8, 2)
    assert report.cut_labels == sum(len(row["input_ids"]) - 10 for row in rows[:6]) + (12 - 11) + (13 - 11)
    assert (report.seen, report.labelled) == (4, 4 * 7), "two steps of two rows, seven tokens with loss each"
    assert report.tokens == 60
    card = (report.adapter / "README.md").read_text()
    assert "| rows fed, their tokens with loss | 4, 28 |" in card
    assert f"| tokens with loss behind the cut, not trained on | {report.cut_labels} |" in card
    assert "| rows left out because the cut left no token with loss | 2 |" in card
    again = run(tmp_path, tiny(), tokenizer, rows, steps=2, max_tokens=10)
    assert again.finished_before
    assert (again.seen, again.cut_labels, again.emptied) == (4, report.cut_labels, 2)
    whole = run(tmp_path, tiny(), tokenizer, rows, name="whole")
    assert (whole.seen, whole.cut, whole.cut_labels, whole.emptied) == (8, 0, 0, 0)
    assert "cut" not in (whole.adapter / "README.md").read_text()
    with pytest.raises(UsageError, match=r"cut to 3 tokens, none of 8 rows has a token with loss left"):
        run(tmp_path, tiny(), tokenizer, rows, name="none", max_tokens=3)


# ------------------------------------------------------------------------------------------------- attention objective


def mass_reference(model, batch) -> torch.Tensor:
    """(layers, B, T, bins) from the weights that eager attention returns."""
    model.set_attn_implementation("eager")
    out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_attentions=True)
    onehot = torch.nn.functional.one_hot(batch["bins"].clamp(min=0), int(batch["bins"].max()) + 1).float()
    onehot = onehot * (batch["bins"] >= 0)[..., None]
    return torch.stack([a.mean(1) @ onehot for a in out.attentions])


def test_binned_mass_is_that_of_the_attention_weights(tiny, make_rows) -> None:
    batch = Collator(bins=True)(make_rows(3))
    model = tiny()
    expected = mass_reference(model, batch)
    install()
    model.set_attn_implementation(NAME)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with tapped(batch["bins"]) as tap:
        logits = model(**inputs).logits
    real = batch["attention_mask"].bool()
    for layer, mass in tap.masses.items():
        torch.testing.assert_close(mass[real], expected[layer][real], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mass[real].sum(-1), torch.ones(int(real.sum())), rtol=1e-4, atol=1e-5)
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(logits[real], model(**inputs).logits[real], rtol=1e-5, atol=1e-5)


def maps_of(model, rows) -> dict[str, TeacherMap]:
    found = {}
    for row in rows:
        batch = Collator(bins=True)([row])
        mass = mass_reference(model, batch)[:, 0]
        steps = [
            mass[:, span["start"] : span["end"], : span["step"] + 3].mean(1).T.detach().numpy()
            for span in row["step_spans"]
        ]
        found[row["chain"]] = TeacherMap(np.concatenate(steps).astype(np.float32), len(steps))
    return found


def test_own_map_gives_no_gradient_and_another_does(tiny, make_rows) -> None:
    rows = make_rows(2)
    batch = Collator(bins=True)(rows)
    install()
    for teacher, zero in ((tiny(), True), (tiny(seed=1), False)):
        maps = maps_of(teacher, rows)
        student = tiny()
        student.set_attn_implementation(NAME)
        with tapped(batch["bins"]) as tap:
            student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        loss = attention_loss(tap.masses, batch["spans"], [maps[chain] for chain in batch["chains"]], ())
        loss.backward()
        grad = max(float(p.grad.abs().max()) for p in student.parameters() if p.grad is not None)
        assert (float(loss.detach()) < 1e-6) is zero
        assert (grad < 1e-3) is zero
        assert student.lm_head.weight.grad is None or not student.lm_head.weight.grad.any()


def test_attention_objective_moves_attention_towards_the_map(tiny, tokenizer, make_rows, tmp_path) -> None:
    rows = make_rows(6)
    maps = maps_of(tiny(seed=1), rows)
    report = run(tmp_path, tiny(), tokenizer, rows, steps=30, objective="attention", teachers=maps)
    losses = [loss for _, loss in report.losses]
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    weights = load_file(report.adapter / "adapter_model.safetensors")
    assert all("q_proj" in name or "k_proj" in name for name in weights)
    with pytest.raises(
        UsageError, match=r"needs stored maps, or rows with targets. Give the run that .* --teacher RUN"
    ):
        run(tmp_path, tiny(), tokenizer, rows, name="none", objective="attention")


def test_attention_objective_over_accumulated_batches_and_with_a_share_of_the_language_loss(
    tiny, tokenizer, make_rows, tmp_path
) -> None:
    from trails.train.loop import fit

    rows = make_rows(4)  # two steps each, so that the mean over batches is the mean over all
    maps = maps_of(tiny(seed=1), rows)

    def first_losses(name: str, teachers=maps, **options) -> tuple[float, float]:
        report = run(tmp_path, tiny(), tokenizer, rows, name=name, steps=1, teachers=teachers, **options)
        seen: list[float] = []
        chosen = TrainOptions(steps=1, rank=4, learning_rate=1e-2, **options)
        fit(tiny(), rows, chosen, teachers=teachers, on_step=lambda _, loss, __: seen.append(loss))
        return report.losses[0][1], seen[0]

    whole = first_losses("whole", batch=4, objective="attention")
    parts = first_losses("parts", batch=1, accumulate=4, objective="attention")
    language = first_losses("language", None, batch=4)
    both = first_losses("both", batch=1, accumulate=4, objective="attention", lm_share=0.25)
    assert whole[0] > 0.01
    for by in range(2):  # the trainer, the bare loop
        assert whole[by] == pytest.approx(whole[0], rel=1e-3)
        assert parts[by] == pytest.approx(whole[0], rel=1e-3)
        assert both[by] == pytest.approx(whole[0] + 0.25 * language[0], rel=1e-3)


def test_bins_of_keys() -> None:
    assert key_bins(6, 2, [{"step": 0, "start": 2, "end": 4}, {"step": 1, "start": 4, "end": 9}]) == [0, 1, 2, 2, 3, 3]
    assert key_bins(3, 0, [{"step": 0, "start": 0, "end": 3}]) == [0, 2, 2]


def test_the_bare_loop_gives_the_adapter_of_the_trainer(tiny, tokenizer, make_rows, tmp_path) -> None:
    from peft import get_peft_model_state_dict

    from trails.train.loop import fit

    rows = make_rows(5)
    rows[1]["loss_weights"] = [0.3 * w for w in rows[1]["loss_weights"]]
    report = run(tmp_path, tiny(), tokenizer, rows, steps=4, layers=(1, 2))
    trained = fit(tiny(), rows, TrainOptions(steps=4, batch=2, rank=4, learning_rate=1e-2, layers=(1, 2)))
    expected = load_file(report.adapter / "adapter_model.safetensors")
    found = get_peft_model_state_dict(trained)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6)
    assert max(weight_change(trained).values()) > 0
