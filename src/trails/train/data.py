"""Rows of an export as a trainer needs them: ids, labels and weights, cut together, in the order written."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trails.errors import UsageError
from trails.export import read_records
from trails.export.record import DRIFT, IGNORED, lists
from trails.train.attention import Target, key_bins

Row = dict[str, Any]


def load_rows(path: Path, counts: Counter[str] | None = None) -> list[Row]:
    """Training rows of a canonical export in the order written; rows without a label are left out, and counted in ``counts`` as
    ``unlabelled``. ``layers`` of a row count
    from 0, as its column ``layers_to_transform`` does; ``order`` is the place in the file, ``targets`` what lines DRIFT ask.

    Raises UsageError for another file, or one in which no token carries a label.
    """
    if not path.is_file():
        raise UsageError(f"{path} does not exist. Run: trails export --subgraph SELECTION --format trails -o {path}")
    rows: list[Row] = []
    for table in read_records(path):
        ids, labels = lists(table["input_ids"]), lists(table["labels"])
        weights = lists(table["loss_weights"], digits=6)
        layers = lists(table["layers_to_transform"])
        spans, places = table["step_spans"].to_pylist(), table["token_ids_in_graph"].to_pylist()
        chains, parents = table["chain"].to_pylist(), table["parent"].to_pylist()
        order = table["order"].to_pylist()
        drift = table[DRIFT].to_pylist() if DRIFT in table.column_names else [None] * len(table)
        models, tokenizers = table["model_sha"].to_pylist(), table["tokenizer_sha"].to_pylist()
        for index in range(len(table)):
            if not any(label != IGNORED for label in labels[index][1:]):
                if counts is not None:
                    counts["unlabelled"] += 1
            else:
                rows.append(
                    {
                        "order": order[index],
                        "input_ids": ids[index],
                        "labels": labels[index],
                        "loss_weights": weights[index],
                        "step_spans": spans[index],
                        "offset": places[index]["offset"],
                        "first": places[index]["first"],
                        "prefix": places[index]["prefix"],
                        "chain": parents[index] or chains[index],
                        "layers": layers[index],
                        "model_sha": models[index],
                        "tokenizer_sha": tokenizers[index],
                        "targets": drift[index] or [],
                    }
                )
    if not rows:
        raise UsageError(f"{path} holds no token with a label. Choose another selection or mask: trails export")
    return rows


_FED = ("input_ids", "labels", "loss_weights", "step_spans", "offset", "chain")
_PLACE = (("first", 0), ("prefix", ""))


def dataset(rows: Sequence[Row], max_tokens: int = 0) -> Any:
    """Rows as a Hugging Face data set, in their order, cut to ``max_tokens`` (0 = whole)."""
    from datasets import Dataset

    whole = [cut(row, max_tokens) for row in rows] if max_tokens else rows
    asked = any(row.get("targets") for row in whole)
    return Dataset.from_list(
        [
            {name: row[name] for name in _FED}
            | {name: row.get(name, other) for name, other in _PLACE}
            | ({"targets": json.dumps(row.get("targets") or [])} if asked else {})
            for row in whole
        ]
    )


def losses_in(row: Row) -> int:
    """Tokens of a row that carry loss; the first of a sequence is predicted by nothing."""
    return sum(label != IGNORED for label in row["labels"][1:])


def cut_rows(rows: Sequence[Row], max_tokens: int, counts: Counter[str]) -> list[Row]:
    """The rows cut to ``max_tokens`` (0 = whole), without those that are left without a label. ``counts`` has what went:
    ``cut`` rows, ``cut_labels`` (tokens with loss behind the cut), and ``emptied`` rows.
    """
    if not max_tokens:
        return list(rows)
    found = []
    for row in rows:
        short = cut(row, max_tokens)
        if short is not row:
            left = losses_in(short)
            counts["cut"] += 1
            counts["cut_labels"] += losses_in(row) - left
            if not left and not short.get("targets"):
                counts["emptied"] += 1
                continue
        found.append(short)
    return found


def cut(row: Row, max_tokens: int) -> Row:
    """The first ``max_tokens`` tokens of a row: ids, labels and weights together."""
    if len(row["input_ids"]) <= max_tokens:
        return row
    keep = slice(0, max_tokens)
    spans = [span | {"end": min(span["end"], max_tokens)} for span in row["step_spans"] if span["start"] < max_tokens]
    asked = [own | {"end": min(own["end"], max_tokens)} for own in row.get("targets", ()) if own["start"] < max_tokens]
    cut_off = {name: row[name][keep] for name in ("input_ids", "labels", "loss_weights")}
    return row | cut_off | {"step_spans": spans, "targets": asked}


@dataclass(frozen=True, slots=True)
class Collator:
    """Pads on the right: ids with ``pad``, labels with -100, weights with 0. Adds the attention bins where asked, and with
    ``places`` where every row's tokens are in the graph.

    ``chain`` and ``step_spans`` stay lists: they find the stored map of a row.
    """

    pad: int = 0
    bins: bool = False
    places: bool = False

    def __call__(self, rows: Sequence[Row]) -> dict[str, Any]:
        """One batch: tensors (B, T) and lists of length B."""
        length = max(len(row["input_ids"]) for row in rows)

        def padded(name: str, fill: float, dtype: torch.dtype) -> Tensor:
            values = [[*row[name], *[fill] * (length - len(row[name]))] for row in rows]
            return torch.tensor(values, dtype=dtype)

        batch: dict[str, Any] = {
            "input_ids": padded("input_ids", self.pad, torch.long),
            "labels": padded("labels", IGNORED, torch.long),
            "loss_weights": padded("loss_weights", 0.0, torch.float32),
            "attention_mask": torch.tensor(
                [[1] * len(row["input_ids"]) + [0] * (length - len(row["input_ids"])) for row in rows]
            ),
        }
        if self.places:
            batch["places"] = [
                {"chain": row["chain"], "prefix": row.get("prefix", ""), "at": row.get("first", 0) - row["offset"]}
                for row in rows
            ]
        if self.bins:
            keys = [key_bins(len(row["input_ids"]), row["offset"], row["step_spans"]) for row in rows]
            batch["bins"] = torch.tensor([[*row, *[-1] * (length - len(row))] for row in keys])
            batch["chains"] = [row["chain"] for row in rows]
            batch["spans"] = [row["step_spans"] for row in rows]
            batch["targets"] = [
                [Target(**own | {"layers": tuple(own["layers"])}) for own in _targets(row)] for row in rows
            ]
        return batch


def _targets(row: Row) -> list[dict[str, Any]]:
    """Targets of a row, of which a data set holds the JSON."""
    held = row.get("targets") or []
    return list(json.loads(held) if isinstance(held, str) else held)


def shuffled_steps(rows: Sequence[Row], seed: int = 0) -> list[Row]:
    """The same rows with the tokens of their steps in another order: the same tokens, the same labels, no walk.

    A row with two or more steps never keeps its order; a row with one step stays as it is. Raises UsageError for rows with
    targets, whose tokens would be moved away from under them.
    """
    if any(row.get("targets") for row in rows):
        raise UsageError(
            "the rows hold targets of DRIFT lines, and --shuffle-steps moves the tokens that they are of. Export the rows "
            "without OBJECTIVE → attention, or leave --shuffle-steps out."
        )
    found = []
    for number, row in enumerate(rows):
        spans = [(span["start"], span["end"]) for span in row["step_spans"]]
        if len(spans) < 2:
            found.append(row)
            continue
        generator = np.random.default_rng([seed, number])
        order = list(range(len(spans)))
        while order == sorted(order):
            order = generator.permutation(len(spans)).tolist()
        places = [i for k in order for i in range(*spans[k])]
        start, end = spans[0][0], spans[-1][1]
        mapped = [*range(start), *places, *range(end, len(row["input_ids"]))]
        starts, at = [], start
        for step, k in enumerate(order):
            size = spans[k][1] - spans[k][0]
            starts.append(
                {"step": step, "start": at, "end": at + size, "role": row["step_spans"][k].get("role", "NONE")}
            )
            at += size
        moved = {name: [row[name][i] for i in mapped] for name in ("input_ids", "labels", "loss_weights")}
        if start == 0:
            moved["labels"][0] = -100
        found.append(row | moved | {"step_spans": starts})
    return found
