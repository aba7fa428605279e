"""Interventions: nothing at strength 0, the planted direction with the right sign, and each operation against its formula."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from reference import item, scorer_of
from test_changed import assert_identical, differ

from trails.errors import InputError, ModelError, UnmeasurableError, UsageError
from trails.measure.base import MeasureOptions
from trails.measure.intervene import (
    IntervenedScorer,
    Intervention,
    random_vector,
    read_vector,
    site_states,
    vector_hash,
)

PLAIN = MeasureOptions(states=(0, 1, 2, 3))
OPERATIONS: tuple[Any, ...] = ("add", "replace", "ablate", "scale")
SITES: tuple[Any, ...] = ("block_output", "attention_output", "mlp_output")


def scorer_with(inner: Any, vector: Any, **changes: Any) -> IntervenedScorer:
    known: dict[str, Any] = {"layer": 2, "operation": "add", "strength": 1.0} | changes
    hashed = "" if vector is None else vector_hash(vector)
    return IntervenedScorer(inner, Intervention(vector="v", vector_sha256=hashed, **known), vector)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("site", SITES)
def test_strength_0_changes_no_bit(operation: Any, site: Any) -> None:
    inner = scorer_of(tiny("qwen2"))
    vector = random_vector(inner.model.d_model, 3.0, 0)
    (plain,) = inner.measure([item()], PLAIN)
    nothing = scorer_with(inner, vector, operation=operation, component=site, strength=0.0)
    (trace,) = nothing.measure([item()], PLAIN)
    assert_identical(trace, plain)
    assert trace.run == nothing.run.id != plain.run
    (moved,) = scorer_with(inner, vector, operation=operation, component=site).measure([item()], PLAIN)
    assert differ(moved.surprisal, plain.surprisal)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_planted_direction_moves_its_logit_with_the_right_sign(sign: float) -> None:
    """The unembedding row of a token, added after the last layer, makes that token likelier; taken away, less likely."""
    inner = scorer_of(tiny("qwen2"))
    model = inner.model
    token = int(inner.sequence(item()).row.tokens.ids[5])
    with torch.no_grad():
        model.module.get_output_embeddings().weight[token] *= 4
    (plain,) = inner.measure([item()], PLAIN)
    row = model.module.get_output_embeddings().weight[token].detach().numpy()
    vector = (row / np.linalg.norm(row)).astype(np.float32)
    changed = scorer_with(inner, vector, layer=model.n_layers, strength=sign * 10.0, positions="4")
    (trace,) = changed.measure([item()], PLAIN)
    assert (trace.surprisal[5] - plain.surprisal[5]) * sign < -0.1  # the state of token 4 predicts token 5
    others = np.arange(trace.n_tokens) != 5
    assert not differ(trace.surprisal[others], plain.surprisal[others])


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("with_vector", [True, False])
def test_each_operation_is_its_formula(operation: Any, with_vector: bool) -> None:
    inner = scorer_of(tiny("qwen2"))
    if operation in ("add", "replace") and not with_vector:
        with pytest.raises(UsageError, match=rf"{operation} needs a vector"):
            scorer_with(inner, None, operation=operation)
        return
    vector = random_vector(inner.model.d_model, 2.0, 1) if with_vector else None
    strength = 0.7
    before = site_states(inner, item(), 2, "mlp_output").astype(np.float64)
    x = before[3:9]
    along = x if vector is None else np.outer(x @ vector, vector) / (vector @ vector)
    expected = before.copy()
    expected[3:9] = {
        "add": lambda: x + strength * vector,
        "replace": lambda: (1 - strength) * x + strength * vector,
        "ablate": lambda: x - strength * along,
        "scale": lambda: x + strength * along,
    }[operation]()
    changed = scorer_with(
        inner, vector, operation=operation, component="mlp_output", strength=strength, positions="3:9"
    )
    found: list[np.ndarray] = []
    run = inner.measure

    def look(items: Any, options: Any) -> Any:
        found.append(site_states(inner, item(), 2, "mlp_output"))  # a hook registered later sees what the change gives
        return run(items, options)

    inner.measure = look  # type: ignore[method-assign]
    changed.measure([item()], MeasureOptions())
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_positions_are_found_in_every_chain() -> None:
    inner = scorer_of(tiny("qwen2"))
    (plain,) = inner.measure([item()], PLAIN)
    first, stop = plain.step_tokens[2].tolist()
    (by_step,) = scorer_with(inner, None, operation="ablate", positions="step:2").measure([item()], PLAIN)
    (by_token,) = scorer_with(inner, None, operation="ablate", positions=f"{first}:{stop}").measure([item()], PLAIN)
    assert_identical(by_step, replace(by_token, run=by_step.run))
    assert not differ(by_step.surprisal[: first + 1], plain.surprisal[: first + 1])
    assert differ(by_step.surprisal[first + 1 :], plain.surprisal[first + 1 :])


def test_the_run_carries_what_decides_and_not_the_name_of_the_file() -> None:
    inner = scorer_of(tiny("qwen2"))
    vector = random_vector(inner.model.d_model, 1.0, 0)
    one = Intervention(2, "add", vector="a.npy", vector_sha256=vector_hash(vector))
    assert Intervention(**json.loads(json.dumps(one.record()))) == one
    ids = {IntervenedScorer(inner, replace(one, vector=name), vector).run.id for name in ("a.npy", "b.npy")}
    assert len(ids) == 1
    others = [replace(one, strength=0.5), replace(one, layer=1), replace(one, positions="step:0"), one]
    others += [replace(one, component="mlp_output"), replace(one, operation="replace")]
    assert len({IntervenedScorer(inner, other, vector).run.id for other in others}) == 6
    assert inner.run.id not in ids


def test_bad_input_is_named(tmp_path: Path) -> None:
    inner = scorer_of(tiny("qwen2"))
    wide = random_vector(33, 1.0, 0)
    with pytest.raises(UsageError, match="has 33 numbers, the states of tiny have 32"):
        scorer_with(inner, wide)
    with pytest.raises(ModelError, match=r"layer 4 was asked for, tiny has layers 1 to 3"):
        scorer_with(inner, None, operation="ablate", layer=4)
    with pytest.raises(UsageError, match="positions '9:3' do not exist"):
        Intervention(1, "ablate", positions="9:3")
    with pytest.raises(UsageError, match="strength of nan"):
        Intervention(1, "ablate", strength=float("nan"))
    with pytest.raises(UsageError, match="the vector v has the hash"):
        IntervenedScorer(inner, Intervention(1, "add", vector="v", vector_sha256="00"), random_vector(32, 1.0, 0))
    for positions, says in (("step:9", "it has steps 0 to 3"), ("500", r"it has \d+ tokens")):
        with pytest.raises(UnmeasurableError, match=says):
            scorer_with(inner, None, operation="ablate", positions=positions).measure([item()], PLAIN)
    with pytest.raises(UsageError, match="premises"):
        scorer_with(inner, None, operation="ablate").measure([item()], MeasureOptions(premises=True))
    for name, content, says in (
        ("a.npy", np.zeros((3, 4)), r"shape \(3, 4\) is not a vector"),
        ("b.npy", np.array([1.0, np.nan]), "NaN or infinity"),
        ("c.npy", np.array(["x"]), "no array of numbers"),
    ):
        np.save(tmp_path / name, content)
        with pytest.raises(InputError, match=says):
            read_vector(tmp_path / name)
    (tmp_path / "d.npy").write_text("no array")
    with pytest.raises(InputError, match="this is no .npy file"):
        read_vector(tmp_path / "d.npy")


def test_a_vector_is_read_as_it_was_written(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    vector = random_vector(7, 2.0, 3)
    np.save(tmp_path / "v.npy", vector[None].astype(np.float64))
    save_file({"v": vector}, tmp_path / "v.safetensors")
    assert np.linalg.norm(vector) == pytest.approx(2.0)
    for name in ("v.npy", "v.safetensors"):
        assert np.array_equal(read_vector(tmp_path / name), vector)
    save_file({"v": vector, "w": vector}, tmp_path / "two.safetensors")
    with pytest.raises(InputError, match="2 tensors"):
        read_vector(tmp_path / "two.safetensors")
