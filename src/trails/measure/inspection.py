"""Is a model observed exactly? Tried on a few tokens when it is opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from trails.errors import ModelError
from trails.measure import attention as on_the_fly
from trails.measure.attention import Layout, Recorder
from trails.measure.model import Model, Observed


def inspect(model: Model) -> None:
    """Find out how the attention of a model is observed, ``model.observed``: are all layers, and are numbers those of its own
    eager forward pass?

    Raises ModelError with the reason when they are not: a wrong number must not pass for a measurement.
    """
    with _exact_products():
        model.observed = _observed(model)


@contextmanager
def _exact_products() -> Iterator[None]:
    """Products of float32 in full precision within: TF32, which a caller may have chosen, is coarser than the tolerance."""
    chosen = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(chosen)


def _observed(model: Model) -> Observed:
    generator = np.random.default_rng(0)
    ids = model.tensor(generator.integers(0, model.vocab_size, (1, 12)))
    bins = model.tensor(np.asarray([[0, 1, 1, 2, 2, 2, 3, 3, 3, 3, 4, 4]]))
    keep = (bins.unsqueeze(1) == model.tensor(np.arange(2, 5)).view(1, 3, 1)).float()
    layout = Layout(bins, keep, model.tensor(np.zeros((1, 0, 2), np.int64)))
    name = model.architecture
    with model.on_device(), torch.inference_mode():
        with model.attending("eager"):
            truth = Recorder(layout)
            model.observed = "weights"
            hidden = model.hidden(ids, truth)
            whole = model.module(input_ids=ids, use_cache=False).logits
            begun = model.hidden(ids[:, :6])
        tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
        if not _close(begun, hidden[:, :6], tolerance):
            raise ModelError(
                f"{name} is not causal: its tokens see later tokens, so a transition has no surprisal. Use a causal "
                "language model."
            )
        model.check_observed(truth)
        if not _close(model.logits(hidden), whole, tolerance):
            raise ModelError(
                f"{name} changes its logits after the language-model head in a way that trails does not know, so "
                "surprisals would be wrong. Use another model."
            )
        if model.attention == "eager":
            return "weights"
        model.observed = "interface"
        mine = Recorder(layout)
        with model.attending(on_the_fly.NAME):
            try:
                model.hidden(ids, mine)
            except (KeyError, ValueError):
                return "weights"
        if len(mine.attention_shift) != model.n_layers:
            return "weights"  # the model does not use the attention interface: its own weights are read instead
        for kind in ("attention_shift", "attention_previous", "attention_entropy", "hidden_shift"):
            a, b = torch.stack(getattr(mine, kind)), torch.stack(getattr(truth, kind))
            if not _close(a, b, tolerance):
                raise ModelError(
                    f"{name}: {kind} differs from the model's own eager attention by up to "
                    f"{float((a - b).abs().nan_to_num().max()):.2g}. Measure it with --attention eager."
                )
    return "interface"


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Equal up to ``tolerance`` of the larger of 1 and the largest value; undefined together counts as equal."""
    a, b = a.float(), b.float()
    scale = max(1.0, float(b.nan_to_num().abs().max()))
    return bool((a.isnan() == b.isnan()).all()) and float((a - b).nan_to_num().abs().max()) <= tolerance * scale
