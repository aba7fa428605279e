"""The journal of a training: transitions that surprised the model or left it uncertain, and their replay.

While an adapter is trained, every forward pass appends those of its labelled tokens whose loss, or whose entropy, is at or
above a quantile of that pass. One JSON line an entry, never changed, each token once:

    {"token": "run|chain|7", "chain": "c…", "position": 7, "step": 3, "loss": 5.1, "entropy": 2.2, "by": "loss"}

``token`` is the node of the graph at which the transition ends, ``position`` its place in the chain, ``by`` is ``loss``,
``entropy`` or ``both``; loss and entropy are in nats, of the model as it was at that step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trails.errors import InputError, UsageError
from trails.export.record import IGNORED
from trails.platform.files import text_lines
from trails.train.data import Row


@dataclass(frozen=True, slots=True)
class Entry:
    """One transition of a journal: where it ends, and what it cost when it was written."""

    token: str
    chain: str
    position: int
    step: int
    loss: float
    entropy: float
    by: str


class Journal:
    """A file that is only ever appended to. A training that is resumed writes nothing twice."""

    def __init__(self, path: Path, quantile: float) -> None:
        """Raises InputError for a file that is no journal. A line that a killed process left half written is taken off."""
        self.path, self.quantile = path, quantile
        if path.is_file():
            data = path.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                with path.open("r+b") as file:
                    file.truncate(whole)
        self._known = {(entry.chain, entry.position) for entry in (read_journal(path) if path.is_file() else ())}

    def __len__(self) -> int:
        return len(self._known)

    def note(self, step: int, batch: Mapping[str, Any], predicts: Tensor, nll: Tensor, logits: Tensor) -> None:
        """Append what is at or above the quantile in one forward pass. ``predicts`` (B, T) are the positions that predict a
        labelled token, ``nll`` (N,) and ``logits`` (N, V) those tokens' loss and distributions.
        """
        with torch.no_grad():
            log_p = torch.log_softmax(logits.float(), -1)
            entropy = -(log_p.exp() * log_p).sum(-1).cpu().double().numpy()
        loss = nll.detach().float().cpu().double().numpy()
        if not len(loss):
            return
        by_loss = loss >= np.quantile(loss, self.quantile)
        by_entropy = entropy >= np.quantile(entropy, self.quantile)
        skips = batch.get("skip") or [0] * len(batch["places"])
        lines = []
        for n, (row, at) in enumerate(predicts.nonzero().tolist()):
            if not (by_loss[n] or by_entropy[n]):
                continue
            place = batch["places"][row]
            position = at + 1 - skips[row] + place["at"]
            if (place["chain"], position) in self._known:
                continue
            self._known.add((place["chain"], position))
            entry = {
                "token": f"{place['prefix']}{position}" if place["prefix"] else "",
                "chain": place["chain"],
                "position": position,
                "step": step,
                "loss": round(float(loss[n]), 6),
                "entropy": round(float(entropy[n]), 6),
                "by": "both" if by_loss[n] and by_entropy[n] else "loss" if by_loss[n] else "entropy",
            }
            lines.append(json.dumps(entry, ensure_ascii=False) + "\n")
        if lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write("".join(lines))


def read_journal(path: Path) -> list[Entry]:
    """The entries of a journal, in the order written. Raises UsageError for a missing file, InputError naming a wrong line."""
    if not path.is_file():
        raise UsageError(f"{path} does not exist. A training writes it: trails train EXPORT --journal 0.95 -o FOLDER")
    found = []
    for number, line in text_lines(path):
        try:
            entry = json.loads(line)
            found.append(Entry(**{name: entry[name] for name in Entry.__slots__}))
        except (json.JSONDecodeError, KeyError, TypeError):
            raise InputError(
                f"{path}:{number}: not an entry of a journal. Name the journal.jsonl of a training."
            ) from None
    return found


def replayed(rows: Sequence[Row], entries: Iterable[Entry], *, at_random: bool = False, seed: int = 0) -> list[Row]:
    """Rows again, in their order, in which only the transitions of a journal carry a label; the others are context.

    ``at_random`` is the control of equal size: for every such row another one is drawn, and as many of its labelled tokens;
    so rows and labelled tokens are as many. Raises UsageError where no row holds a transition of the journal.
    """
    wanted: dict[str, set[int]] = {}
    for entry in entries:
        wanted.setdefault(entry.chain, set()).add(entry.position)
    found: list[Row] = []
    for row in rows:
        at = row.get("first", 0) - row["offset"]
        kept = {i for i in _labelled(row) if i + at in wanted.get(row["chain"], ())}
        if kept:
            found.append(_only(row, kept))
    if not found:
        raise UsageError("no row holds a transition of the journal. Name the journal of a training on these chains.")
    if not at_random:
        return found
    rng = np.random.default_rng([seed, len(found)])
    free = list(rows)
    drawn = []
    for count in sorted((len(_labelled(row)) for row in found), reverse=True):  # the largest first: it fits fewest rows
        fitting = [i for i, row in enumerate(free) if len(_labelled(row)) >= count]
        row = free.pop(fitting[int(rng.integers(len(fitting)))])
        places = rng.choice(_labelled(row), count, replace=False).tolist()
        drawn.append(_only(row, set(places)))
    return [drawn[i] for i in rng.permutation(len(drawn)).tolist()]


def _labelled(row: Row) -> list[int]:
    """Places of a row's tokens that give loss: labelled, and with something before them."""
    return [i for i, label in enumerate(row["labels"]) if i and label != IGNORED]


def _only(row: Row, kept: set[int]) -> Row:
    labels = [label if i in kept else IGNORED for i, label in enumerate(row["labels"])]
    weights = [weight if i in kept else 0.0 for i, weight in enumerate(row["loss_weights"])]
    return row | {"labels": labels, "loss_weights": weights}
