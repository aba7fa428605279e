"""The loop loss: the model's own attempt, then its repair.

For a row with context x and labelled text y the model first writes an attempt a ~ p(· | x), with the weights that it has at
that moment, so it is written again whenever the row comes round (on policy). Then the loss is

    - Σ w_t · ln p(y_t | x, a, MARK, y_<t) / N

over the N labelled tokens. The attempt is data: no gradient flows through the drawing of it, and the loss is differentiable in
the weights like every cross entropy. ``attempts="base"`` is the control: the attempt is that of the model without its adapter,
however far the training is (off policy; Kumar et al., arXiv 2409.12917, name what then goes wrong: the attempts that are
corrected are no longer those that are made).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trails.errors import ModelError
from trails.export.record import IGNORED
from trails.schema import stable_hash
from trails.train.data import Row
from trails.train.options import TrainOptions

MARK = "\n\nLet me check this and write it again:\n"
"""What stands between an attempt and its repair, in training and where repairs are measured."""


@dataclass(frozen=True, slots=True)
class Attempts:
    """How attempts are written: ``mark`` are the tokens of :data:`MARK`, ``end`` those that end an attempt, ``pad`` fills."""

    mark: tuple[int, ...]
    end: tuple[int, ...]
    pad: int

    @classmethod
    def of(cls, tokenizer: Any) -> Attempts:
        """Those of a tokenizer. Raises ModelError for one that makes no token of the mark."""
        mark = tuple(tokenizer(MARK, add_special_tokens=False)["input_ids"])
        if not mark:
            raise ModelError(
                "the objective 'loop' needs a mark after an attempt, and this tokenizer makes no token of it"
            )
        end = tokenizer.eos_token_id
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end or 0
        return cls(mark, () if end is None else (int(end),), int(pad))

    def most(self, options: TrainOptions) -> int:
        """Tokens that a row becomes longer by, at most."""
        return options.attempt_tokens + len(self.mark)


def written(
    model: Any, prompts: Sequence[Sequence[int]], how: Attempts, tokens: int, temperature: float, seed: int
) -> list[list[int]]:
    """What the model writes behind each prompt: up to ``tokens`` tokens, without the one that ends it.

    ``temperature`` 0 takes the likeliest token each time; else tokens are drawn, the same for the same ``seed``. Without
    gradients and without dropout; the model's mode, and the random numbers of what goes on around it, stay as they were.
    """
    if not tokens:
        return [[] for _ in prompts]
    device = next(model.parameters()).device
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[how.pad] * (longest - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
    drawn: dict[str, Any] = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    if temperature > 0:
        drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    devices = [device] if device.type == "cuda" else []
    with _quietly(model), torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        found = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=tokens,
            min_new_tokens=None,
            pad_token_id=how.pad,
            eos_token_id=list(how.end) or None,
            use_cache=True,
            **drawn,
        )
    return [_before_end(row, how.end) for row in found[:, longest:].tolist()]


def _before_end(row: list[int], end: Sequence[int]) -> list[int]:
    stops = [row.index(token) for token in end if token in row]
    return row[: min(stops)] if stops else row


@contextmanager
def _quietly(model: Any) -> Iterator[None]:
    """Within this block the model is in eval mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _first_label(row: Row) -> int:
    first = next((at for at, label in enumerate(row["labels"]) if label != IGNORED), len(row["input_ids"]))
    return max(first, 1)


def prompt_of(row: Row) -> list[int]:
    """The tokens before a row's first labelled one, behind which an attempt is written; one token at least."""
    return list(row["input_ids"][: _first_label(row)])


def with_attempt(row: Row, attempt: Sequence[int], how: Attempts) -> Row:
    """The row with an attempt and the mark before its first labelled token; labels and weights move along, spans do not."""
    first, between = _first_label(row), [*attempt, *how.mark]
    return row | {
        "input_ids": [*row["input_ids"][:first], *between, *row["input_ids"][first:]],
        "labels": [*[IGNORED] * (first + len(between)), *row["labels"][first:]],
        "loss_weights": [*[0.0] * (first + len(between)), *row["loss_weights"][first:]],
    }


def with_attempts(
    model: Any, batch: Mapping[str, Any], options: TrainOptions, how: Attempts, at: tuple[int, int]
) -> dict[str, Any]:
    """The batch with an attempt and the mark in every row before its first labelled token; labels and weights move along.

    ``at`` are the step and the number of the forward pass in it: the same give the same attempts. A row whose first token is
    labelled keeps it as its context: an attempt needs something to begin from.
    """
    device = batch["input_ids"].device
    names = ("input_ids", "labels", "loss_weights")
    rows: list[Row] = []
    for *columns, mask in zip(*(batch[name].tolist() for name in (*names, "attention_mask")), strict=True):
        rows.append({name: column[: sum(mask)] for name, column in zip(names, columns, strict=True)})
    seed = int(stable_hash("attempt", str(options.seed), *map(str, at)), 16) % 2**63
    bare = model.disable_adapter() if options.attempts == "base" else nullcontext()
    with bare:
        made = written(model, [prompt_of(row) for row in rows], how, options.attempt_tokens, options.temperature, seed)
    whole = [with_attempt(row, attempt, how) for row, attempt in zip(rows, made, strict=True)]
    lengths = [len(row["input_ids"]) for row in whole]
    longest = max(lengths)

    def padded(name: str, fill: float) -> Tensor:
        values = [[*row[name], *[fill] * (longest - n)] for row, n in zip(whole, lengths, strict=True)]
        return torch.tensor(values, dtype=batch[name].dtype, device=device)

    mask = torch.tensor([[1] * n + [0] * (longest - n) for n in lengths], device=device)
    return {
        **batch,
        "input_ids": padded("input_ids", how.pad),
        "labels": padded("labels", IGNORED),
        "loss_weights": padded("loss_weights", 0.0),
        "attention_mask": mask,
        "attempts": made,
        "skip": [len(attempt) + len(how.mark) for attempt in made],
    }
