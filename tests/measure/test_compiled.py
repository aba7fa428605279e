"""Compiled layers against plain ones: the same numbers, few graphs, and the plain path wherever compiling does not apply."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from families import tiny
from reference import QUESTION, TEXT, item, scorer_of
from test_truth import PLAIN, largest_difference, many

from trails.errors import ModelError
from trails.measure import compiled
from trails.measure.base import MeasureOptions
from trails.measure.compiled import COMPILE_AFTER, CompiledLayers, disagreement
from trails.measure.huggingface import HuggingFaceScorer, differences

EVERYTHING = MeasureOptions(batch_tokens=300, token_attention=True, peaks=3, premises=True, states=(0, 2))

ON_REQUEST = (
    *("token_attends_mass", "peak_mass", "step_states"),
    *("nll_given_all", "nll_given_question", "nll_without_previous"),
)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def compiled_scorer(model: Any) -> HuggingFaceScorer:
    return scorer_of(model, compile="on")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama (grouped-query)", "qwen3", "gemma2 (soft caps, sliding)"])
def test_compiled_layers_give_the_numbers_of_plain_ones(family: str) -> None:
    """All measures, on request and always, in batches and one at a time; premises hide steps by a mask."""
    model = tiny(family)
    scorer, plain = compiled_scorer(model), scorer_of(model)
    for options in (EVERYTHING, PLAIN):
        expected = plain.measure(many(), options)
        found = scorer.measure(many(), options)
        for a, b in zip(expected, found, strict=True):
            assert largest_difference(a, b) < 1e-4
            for name in (
                "token_attends_mass",
                "peak_mass",
                "step_states",
                "nll_given_all",
                "nll_given_question",
                "nll_without_previous",
            ):
                x, y = getattr(a, name), getattr(b, name)
                assert (x is None) == (y is None) == (options is PLAIN), name
                if x is not None:
                    np.testing.assert_allclose(x, y, atol=1e-4, err_msg=name)
    assert scorer._layers.usable
    assert not torch._dynamo.utils.counters["graph_break"]


@pytest.mark.slow
def test_lengths_and_numbers_of_chains_need_no_graph_of_their_own() -> None:
    """One graph for several sequences at once, one for a single sequence; layers share them. PyTorch 2.15 makes one more."""
    scorer = compiled_scorer(tiny("llama (grouped-query)"))
    for size in (0, 60, 100, 200, 400, 1000):
        scorer.measure(many(), MeasureOptions(batch_tokens=size))
    assert scorer._layers.usable
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] in (2, 3)
    before = compiled.graphs()
    scorer.measure([item(TEXT * 3, QUESTION, (), source_id="long")], PLAIN)
    assert compiled.graphs() == before


@pytest.mark.slow
def test_what_cannot_be_compiled_is_measured_plainly(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("llama (grouped-query)")
    expected = scorer_of(model).measure(many(), PLAIN)

    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler here\nand more")

    monkeypatch.setattr(compiled, "_inductor", broken)
    scorer = compiled_scorer(model)
    with caplog.at_level(logging.WARNING):
        found = scorer.measure(many(), PLAIN)
    assert not scorer._layers.usable
    assert len(caplog.records) == 1
    assert caplog.records[0].getMessage().startswith("the layers are not compiled, the plain path runs instead: ")
    for a, b in zip(expected, found, strict=True):
        assert largest_difference(a, b) < 1e-4


@pytest.mark.slow
def test_a_compiler_that_computes_something_else_is_not_used(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("llama (grouped-query)")
    expected = scorer_of(model).measure(many(), PLAIN)

    def wrong(graph: Any, inputs: list[torch.Tensor]) -> Any:
        compiled._graphs += 1
        return lambda *args: [value * 1.5 for value in graph(*args)]

    monkeypatch.setattr(compiled, "_inductor", wrong)
    scorer = compiled_scorer(model)
    with caplog.at_level(logging.WARNING):
        found = scorer.measure(many(), PLAIN)
    assert not scorer._layers.usable
    assert "differs from the plain path by" in caplog.text
    for a, b in zip(expected, found, strict=True):
        assert largest_difference(a, b) < 1e-4


def test_a_check_that_ran_out_of_memory_is_made_again() -> None:
    layers = CompiledLayers([])
    values: dict[str, torch.Tensor] = {}
    calls: list[str] = []

    def passing() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        calls.append("")
        if len(calls) == 1:
            compiled._graphs += 1
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.ones(2) * len(calls), values

    with pytest.raises(torch.OutOfMemoryError):
        layers.run(passing)
    result, _ = layers.run(passing)  # the third call against the fourth: they differ by a quarter
    assert not layers.usable
    assert result.tolist() == [4, 4]


@pytest.mark.slow
def test_an_intervention_takes_the_plain_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """What replaces the output of an attention or an MLP sits inside of a layer, where a compiled one would not see it."""
    scorer = compiled_scorer(tiny("llama (grouped-query)"))
    monkeypatch.setattr(compiled, "_inductor", lambda graph, inputs: graph)  # the layers as traced
    scorer.measure(many(), PLAIN)
    assert scorer._compiled
    plain = scorer_of(scorer.model.module)
    for site in ("block_output", "attention_output", "mlp_output"):
        with (
            scorer.model.changed(2, site, lambda value: value * 0),
            plain.model.changed(2, site, lambda value: value * 0),
        ):
            assert not scorer._compiled
            for a, b in zip(plain.measure(many(), PLAIN), scorer.measure(many(), PLAIN), strict=True):
                assert largest_difference(a, b) < 1e-4
    assert scorer._compiled


def test_the_layers_are_left_as_they_were() -> None:
    model = tiny("llama (grouped-query)")
    layers = CompiledLayers(model.model.layers)
    before = [dict(vars(layer)) for layer in model.model.layers]
    with layers.running():
        assert all("forward" in vars(layer) for layer in model.model.layers)
    assert [dict(vars(layer)) for layer in model.model.layers] == before
    # a forward that somebody put there, as device maps do, is not replaced
    model.model.layers[1].forward = model.model.layers[1].forward
    assert not CompiledLayers(model.model.layers).usable


def test_compiling_begins_when_asked_or_when_it_pays() -> None:
    model = tiny("llama (grouped-query)")
    for choice, begins in (("on", True), ("off", False), ("auto", False)):
        scorer = scorer_of(model, compile=choice)
        assert scorer._compile_now() is begins, choice
        assert not scorer._compile_now()
    scorer = scorer_of(model)
    scorer._work = COMPILE_AFTER
    assert not scorer._compile_now()  # float32 on a CPU
    scorer.model.device, scorer.model.dtype = torch.device("cuda"), torch.bfloat16
    scorer._work = COMPILE_AFTER * 0.99
    assert not scorer._compile_now()
    scorer._work = COMPILE_AFTER
    assert scorer._compile_now()
    work = scorer_of(model)
    work.measure([item()], PLAIN)
    assert work._work == 2 * work.model.layer_parameters * work.count_tokens(item())


def test_asking_for_compiled_layers_of_the_reference_is_refused() -> None:
    with pytest.raises(ModelError) as error:
        scorer_of(tiny("llama (grouped-query)"), compile="on", attention="eager")
    assert str(error.value) == (
        "--compile on was asked for, but the attention of tiny is not reduced while it runs (--attention eager). "
        "Use --compile auto."
    )


@pytest.mark.slow
def test_the_noise_floor_is_measured_again_when_compiling_begins() -> None:
    model = tiny("llama (grouped-query)").to(torch.bfloat16)
    scorer = scorer_of(model)
    scorer.measure(many(), PLAIN)
    assert set(scorer.run.notes["noise_floor"]) == {"batch", "float32"}
    scorer.compile = "on"
    scorer.measure(many(), PLAIN)
    floor = scorer.run.notes["noise_floor"]
    assert set(floor) == {"batch", "float32", "compiled"}
    assert 0 < floor["compiled"]["surprisal_mean"] <= floor["compiled"]["surprisal"] < 0.5
    assert scorer._compiled


def test_disagreement_names_what_differs() -> None:
    values = {"entropy": torch.tensor([1.0, torch.nan]), "rank": torch.tensor([1])}
    result = (torch.ones(2, 3), values)
    assert disagreement(result, result) == ""
    assert disagreement((torch.ones(2, 3) * 1.19, values), result) == ""
    assert disagreement((torch.ones(2, 3) * 1.22, values), result) == (
        "the last hidden state differs from the plain path by 0.22 of its length"
    )
    other = {**values, "entropy": torch.tensor([1.0, 1.0])}
    assert (
        disagreement((torch.ones(2, 3), other), result) == "entropy is undefined at other places than in the plain path"
    )
    infinite = (torch.full((2, 3), torch.inf), values)
    assert "the last hidden state" in disagreement(infinite, result)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("width", [16, 64])  # without and with the attention kernel
def test_compiled_layers_on_the_gpu(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 the numbers of plain layers; in bfloat16 within rounding, also when replayed from CUDA graphs."""
    model = tiny("llama (grouped-query)", head_dim=width).to("cuda")
    plain, scorer = scorer_of(model), compiled_scorer(model)
    for size in (0, 300, 10_000):
        options = MeasureOptions(batch_tokens=size, token_attention=True)
        for a, b in zip(plain.measure(many(), options), scorer.measure(many(), options), strict=True):
            assert largest_difference(a, b) < 1e-3
    assert scorer._layers.usable
    half = compiled_scorer(tiny("llama (grouped-query)", head_dim=width).to("cuda", torch.bfloat16))
    half.run.notes["noise_floor"] = {}
    expected = scorer_of(half.model.module, compile="off").measure(many(), MeasureOptions(batch_tokens=10_000))
    for _ in range(5):
        found = half.measure(many(), MeasureOptions(batch_tokens=10_000))
        assert max(differences(expected, found).values()) < 0.2
    assert half._layers.usable
    assert half._graphs.usable
    assert any(one is not None and one.trusted for one in half._graphs._recorded.values())
    assert not torch._dynamo.utils.counters["graph_break"]
