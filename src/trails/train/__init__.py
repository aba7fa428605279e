"""Train a LoRA adapter on an export: a thin layer on PEFT and TRL.

TRL's SFTTrainer does the training loop, checkpoints and resuming. This layer replaces what it would lose (seen in TRL 1.16):
it drops further columns, cuts ids and labels but not weights, loses weights when packing, draws rows at random, and hands no
weights to a loss function. Here rows, weights and order arrive as the export wrote them, tested one by one.

The adapter's folder holds ``adapter_model.safetensors``, ``adapter_config.json``, ``train.json`` (what was trained on what)
and a card that names the export by its SHA-256.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from trails.train.options import OBJECTIVES, TARGETS, Objective, TrainOptions, TrainReport

if TYPE_CHECKING:
    from trails.train.adapter import put_adapter, weight_change
    from trails.train.check import check_adapter
    from trails.train.training import train, train_rows

_MODULE = {
    "check_adapter": "check",
    "put_adapter": "adapter",
    "train": "training",
    "train_rows": "training",
    "weight_change": "adapter",
}

__all__ = [
    "OBJECTIVES",
    "TARGETS",
    "Objective",
    "TrainOptions",
    "TrainReport",
    "check_adapter",
    "put_adapter",
    "train",
    "train_rows",
    "weight_change",
]


def __getattr__(name: str) -> Any:
    """Import what needs a model library when it is first used."""
    if name in _MODULE:
        return getattr(importlib.import_module(f"trails.train.{_MODULE[name]}"), name)
    raise AttributeError(f"module 'trails.train' has no attribute {name!r}")
