"""The CPU's own paths: blocks of queries and key heads, and oneDNN's linear layers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from families import tiny
from reference import item, scorer_of
from torch import Tensor

from trails.measure import attention as A  # noqa: N812
from trails.measure import linear
from trails.measure.base import MeasureOptions
from trails.measure.huggingface import differences


@pytest.mark.parametrize("masked", ["causal", "bool", "additive"])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("batch", [1, 2])
def test_blocks_of_heads_change_nothing(
    monkeypatch: pytest.MonkeyPatch, masked: str, softcap: float | None, batch: int
) -> None:
    """One key head and a few queries at a time give what the whole matrix gives."""
    T, H, G = 23, 6, 2
    generator = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(batch, n, T, 8, generator=generator) * 2 for n in (H, G, G))
    later = torch.ones(T, T).triu(1).bool()
    seen = ~later & ~torch.ones(T, T).tril(-9).bool() if masked != "causal" else ~later
    mask: dict[str, Tensor | None] = {
        "causal": None,
        "bool": seen[None, None],
        "additive": torch.zeros(T, T).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None],
    }
    bins = (torch.arange(T) // 5).expand(batch, T)
    keep = (bins.unsqueeze(1) == torch.arange(2, 5)[:, None]).float()
    recorder = A.Recorder(A.Layout(bins, keep, torch.zeros(batch, 0, 2, dtype=torch.int64)))
    monkeypatch.setattr(A, "_block", lambda *_: (7, 1))
    with torch.inference_mode():
        out, layer = A.blocked_attention(q, k, v, mask[masked], 0.3, softcap, recorder)
    scores = q.double() @ k.double().repeat_interleave(H // G, 1).transpose(-1, -2) * 0.3
    scores = scores if softcap is None else torch.tanh(scores / softcap) * softcap
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    mean = weights.mean(1)
    assert layer is not None
    torch.testing.assert_close(out.double(), weights @ v.double().repeat_interleave(H // G, 1), atol=1e-5, rtol=0)
    torch.testing.assert_close(layer.masses.double(), mean @ recorder.layout.one_hot.double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(layer.entropy.double(), torch.special.entr(weights).sum(-1).mean(1), atol=1e-5, rtol=0)
    previous = mean.diagonal(offset=-1, dim1=1, dim2=2)
    torch.testing.assert_close(layer.previous[:, 1:].double(), previous, atol=1e-6, rtol=0)
    assert layer.previous[:, 0].isnan().all()


def test_long_chains_go_by_key_heads_and_short_ones_do_not() -> None:
    """A block holds all heads of a short chain and one key head of a long one."""
    cpu = torch.device("cpu")
    assert A._block(1, 9, 3, 165, cpu) == (88, 3)
    rows, together = A._block(1, 9, 3, 2048, cpu)
    assert (rows, together) == (85, 1)
    assert A._block(1, 9, 3, 100_000, cpu) == (32, 1)


@pytest.mark.skipif(not linear.available(), reason="this PyTorch has no oneDNN beside MKL")
def test_fast_linear_is_linear_and_leaves_the_model_as_it_was() -> None:
    """Same products, with and without bias; few rows and other layers untouched; nothing stays behind."""
    torch.manual_seed(0)

    class Own(torch.nn.Linear):
        pass

    model = torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.Linear(40, 16, bias=False), Own(16, 8))
    with torch.inference_mode():
        for shape in ((1, 300, 24), (256, 24), (3, 251, 24), (2, 3, 24)):
            x = torch.randn(shape)
            truth = model(x)
            with linear.fast_linear(model):
                assert ["forward" in vars(module) for module in model] == [True, True, False]
                torch.testing.assert_close(model(x), truth, atol=1e-5, rtol=1e-5)
    assert not any("forward" in vars(module) for module in model)
    with pytest.raises(RuntimeError, match="inside"), linear.fast_linear(model):
        raise RuntimeError("inside")
    assert not any("forward" in vars(module) for module in model)
    with linear.fast_linear(model):  # gradients still flow
        model(torch.randn(300, 24)).sum().backward()
    assert model[0].weight.grad is not None


@pytest.mark.skipif(not linear.available(), reason="this PyTorch has no oneDNN beside MKL")
def test_chains_of_all_lengths_need_few_products_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN keeps memory for every number of rows that it has met: powers of two only."""
    met: set[int] = set()
    product = linear._product

    def noted(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        met.add(x.numel() // x.shape[-1])
        return product(x, weight, bias)

    monkeypatch.setattr(linear, "_product", noted)
    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    with torch.inference_mode(), linear.fast_linear(model):
        for rows in range(200, 2100, 7):
            assert model(torch.zeros(1, rows, 8)).shape == (1, rows, 8)
    assert met == {256, 512, 1024, 2048}


def test_without_onednn_the_numbers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain path measures what the fast one does, up to the order of additions."""
    scorer = scorer_of(tiny("llama (grouped-query)"))
    monkeypatch.setattr(linear, "FEWEST_ROWS", 4)
    fast = scorer.measure([item()], MeasureOptions())
    monkeypatch.setattr(linear, "available", lambda: False)
    assert max(differences(fast, scorer.measure([item()], MeasureOptions())).values()) < 1e-4


def test_a_recorder_keeps_every_layer_apart() -> None:
    """More layers than memory is taken for at once: no layer writes over another."""
    layout = A.Layout(
        torch.tensor([[0, 2, 2, 3]]), torch.tensor([[[0.0, 1, 1, 0], [0, 0, 0, 1]]]), torch.zeros(1, 0, 2)
    )
    recorder = A.Recorder(layout)
    count = 2 * A._LAYERS_AT_ONCE + 3
    for index in range(count):
        values = torch.full((1, 4), float(index))
        recorder.attention(A.LayerAttention(values[..., None].expand(1, 4, 4).contiguous(), values, values + 0.5))
    for before, after in pairwise(recorder.attention_entropy):
        assert (after - before == 1).all()
    assert np.array_equal([float(x[0, 0]) for x in recorder.attention_sink], np.arange(count))
    assert float(recorder.step_masses[5][0, 0, 0]) == 10.0
