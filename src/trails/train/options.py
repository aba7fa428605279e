"""How to train, and what was trained. No model library is imported here, so a typo is reported at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from trails.errors import UsageError
from trails.export import parse_layers

Objective = Literal["lm", "dft", "attention", "loop"]
OBJECTIVES: tuple[Objective, ...] = ("lm", "dft", "attention", "loop")

TARGETS: dict[str, tuple[str, ...] | str] = {
    "all": "all-linear",
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "channels": ("q_proj", "k_proj"),
}
"""Named sets of modules: every linear layer of the decoder, its attention projections, or those that say where it looks."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How to train. ``steps`` are optimiser steps (0 = one pass over the rows); each takes ``batch`` × ``accumulate`` rows.

    ``layers`` are the only layers with an adapter, 1 … L (None: those the export names, empty: all). ``targets`` is a name of
    :data:`TARGETS` or module names joined by commas; None means ``all``, and ``channels`` for the attention objective.
    ``lm_share`` adds that share of the language-model loss to the objectives attention and loop. ``max_tokens`` cuts longer
    rows; 0 refuses rows longer than the model's window. ``shuffle_steps`` trains on the same tokens with the steps of every
    chain in another order (the control for recall). ``checkpoint_every`` steps (0 = only at the end).

    For the objective loop (:mod:`trails.train.attempts`): ``attempts`` are the model's ``own`` or those of the ``base`` model
    without its adapter (the control), of at most ``attempt_tokens`` tokens, drawn at ``temperature`` (0: the likeliest).
    ``journal`` writes the transitions at or above this quantile of loss or of entropy (:mod:`trails.train.journal`; 0: none).
    """

    steps: int = 0
    batch: int = 4
    accumulate: int = 1
    learning_rate: float = 1e-3
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: str | None = None
    layers: tuple[int, ...] | None = None
    objective: Objective = "lm"
    lm_share: float = 0.0
    schedule: str = "constant"
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    checkpoint_every: int = 0
    max_tokens: int = 0
    seed: int = 0
    shuffle_steps: bool = False
    attempts: Literal["own", "base"] = "own"
    attempt_tokens: int = 64
    temperature: float = 1.0
    journal: float = 0.0


@dataclass(frozen=True, slots=True)
class TrainReport:
    """What was trained. ``losses`` are (step, loss) as logged; ``checkpoints`` are folders by step, the last one ``adapter``.

    ``rows`` were there to train on. ``seen`` of them were fed, with ``labelled`` tokens with loss. ``cut`` rows were cut to
    ``max_tokens``, which took ``cut_labels`` tokens with loss and left ``emptied`` rows out. ``unlabelled`` rows of the export
    had no label. ``layers`` are those with an adapter, 1 … L, empty for all; ``resumed`` the step it continued from (0 = from
    the start).
    """

    adapter: Path
    steps: int
    rows: int
    tokens: int
    losses: tuple[tuple[int, float], ...]
    checkpoints: Mapping[int, Path]
    layers: tuple[int, ...]
    trainable: int
    resumed: int = 0
    finished_before: bool = False
    seen: int = 0
    labelled: int = 0
    cut: int = 0
    cut_labels: int = 0
    emptied: int = 0
    unlabelled: int = 0


LEFT_OUT = {
    "cut": "rows cut to --max-tokens",
    "cut_labels": "tokens with loss behind the cut, not trained on",
    "emptied": "rows left out because the cut left no token with loss",
    "unlabelled": "rows of the export left out because no token carries a label",
}
"""What of an export was not trained on, in words, by the names of :class:`TrainReport`."""


def layers_option(text: str | None) -> tuple[int, ...] | None:
    """The value of ``--layers``: None for those of the export, empty for ``all``. Raises UsageError for anything else."""
    if text is None:
        return None
    return () if text == "all" else parse_layers(text)


_LATER = ("attempts", "attempt_tokens", "temperature", "journal")
"""Options that came later: a training that does not use them is the one that earlier versions wrote."""


def said(options: TrainOptions) -> dict[str, Any]:
    """The options as the record of a training has them; those of :data:`_LATER` only where they are not at their default."""
    defaults = {field.name: field.default for field in fields(options)}
    return {n: value for n, value in asdict(options).items() if n not in _LATER or value != defaults[n]}


def check_options(options: TrainOptions) -> None:
    """Raises UsageError for values that no training can have."""
    if options.objective not in OBJECTIVES:
        raise UsageError(f"objective {options.objective!r} does not exist. Objectives: {', '.join(OBJECTIVES)}.")
    if not 0 < options.learning_rate < math.inf:
        raise UsageError(f"a learning rate of {options.learning_rate:g} trains nothing. Write for example 1e-3.")
    if not 0 <= options.lm_share < math.inf:
        raise UsageError(f"an lm share of {options.lm_share:g} does not exist. Write 0 or more, for example 0.1.")
    if options.lm_share and options.objective not in ("attention", "loop"):
        raise UsageError(
            "--lm-share goes with the objectives attention and loop. Add --objective attention, or leave it out."
        )
    if options.objective != "loop" and (options.attempts, options.attempt_tokens, options.temperature) != (
        "own",
        64,
        1.0,
    ):
        raise UsageError("attempts belong to the objective loop. Add --objective loop, or leave the options out.")
    if options.attempts not in ("own", "base"):
        raise UsageError(f"attempts {options.attempts!r} do not exist. Write own, or base for the control.")
    if options.attempt_tokens < 1 or not 0 <= options.temperature < math.inf:
        raise UsageError("an attempt has one token or more, and a temperature of 0 or more.")
    if not 0 <= options.journal < 1:
        raise UsageError(f"a journal above the quantile {options.journal:g} holds nothing. Write for example 0.95.")
    if options.journal and options.objective == "attention":
        raise UsageError(
            "a journal needs the loss of every token, and the objective attention has none. Leave one out."
        )
    if options.targets is not None and not all(part.strip() for part in options.targets.split(",")):
        raise UsageError(
            f"targets {options.targets!r} name no module. Write {', '.join(TARGETS)}, or names with commas."
        )
