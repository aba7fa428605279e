"""Members that are made of the bench's model: the first of its layers, and it after a short training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from trails.experiments.bench import Bench
from trails.measure.huggingface import HuggingFaceScorer
from trails.schema import stable_hash
from trails.train import TrainOptions
from trails.train.data import Row
from trails.train.loop import fit


def scorer_of(bench: Bench, module: Any, tokenizer: Any, name: str) -> HuggingFaceScorer:
    """A scorer of a model that was made here; its revision is that of the bench's model and its name."""
    return HuggingFaceScorer(module, tokenizer, name=name, revision=stable_hash(bench.run.revision, name))


def sharing(module: Any) -> Any:
    """A copy of a model that shares its weights."""
    return copy.deepcopy(module, {id(one): one for one in (*module.parameters(), *module.buffers())})


def shortened(bench: Bench, share: float) -> HuggingFaceScorer:
    """The first ``share`` of the layers, with the model's last norm and head; weights are shared with the model."""
    layers = bench.scorer.model.layers
    (path,) = [name for name, one in bench.model.named_modules() if one is layers]
    short = sharing(bench.model)
    kept = max(1, round(share * bench.layers))
    owner, _, name = path.rpartition(".")
    setattr(short.get_submodule(owner), name, short.get_submodule(path)[:kept])
    config = short.config.get_text_config()
    config.num_hidden_layers = kept
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:kept]
    return scorer_of(bench, short, bench.tokenizer, f"first {kept} layers")


def adapted(bench: Bench, rows: Sequence[Row], options: TrainOptions, *, merged: bool = False) -> HuggingFaceScorer:
    """The model after a training on rows: an adapter beside weights shared with it, or, ``merged``, a copy of them."""
    model = fit(copy.deepcopy(bench.model) if merged else sharing(bench.model), rows, options)
    return scorer_of(bench, model.merge_and_unload() if merged else model, bench.tokenizer, "adapter")
