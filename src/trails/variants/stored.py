"""Stored variants read again: each with its edits marked, and the drift map of a run by kind."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trails.analyses.report import Report, ReportTable
from trails.analyses.score import Control, Score, Withheld
from trails.errors import UsageError
from trails.platform.text import counted
from trails.schema import stable_hash
from trails.variants.edits import KINDS, VariantOptions
from trails.variants.files import OWN_COLUMNS

KIND_COLUMNS = {
    "kind": "kind",
    "made": "made",
    "accepted": "accepted",
    "edits": "most edits",
    "distance": "farthest from the chain, edits",
    "volatility_median": "median volatility, nats",
    "volatility_largest": "largest",
    "logit_drift": "logit drift",
}
VARIANT_COLUMNS = {
    "chain": "chain",
    "kind": "kind",
    "text": "text, with [-what went-] and {+what came+}",
    "edits": "edits",
    "distance": "distance from the chain",
    "volatility": "volatility, nats",
}


@dataclass(frozen=True, slots=True)
class Shown:
    """A stored variant as a person reads it: its text with ``[-what went-]`` and ``{+what came+}``, the rest cut short."""

    id: str
    chain: str
    kind: str
    detail: str
    edits: int
    distance: int
    volatility: float
    text: str


@dataclass(frozen=True, slots=True)
class Version:
    """A chain of the same family as another, as a person compares it with that one: its text with the differences marked."""

    id: str
    source: str
    source_id: str
    text: str


def marked_edits(before: str, after: str, around: int = 40) -> str:
    """The text ``after`` with its differences from ``before`` marked, and ``around`` characters on both sides of each."""
    if before == after:
        return after if len(after) <= 2 * around + 3 else f"{after[:around]} … {after[-around:]}"
    words = [re.findall(r"\s+|\w+|[^\w\s]", text) for text in (before, after)]
    parts: list[str] = []
    for what, a, b, c, d in SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes():
        old, new = "".join(words[0][a:b]), "".join(words[1][c:d])
        if what == "equal":
            first, last = a == 0, b == len(words[0])
            head, tail = (0 if first else around), (0 if last else around)
            parts.append(
                old if len(old) <= head + tail + 3 else f"{old[:head]} … {old[len(old) - tail :] if tail else ''}"
            )
        else:
            parts.append((f"[-{old}-]" if old else "") + (f"{{+{new}+}}" if new else ""))
    return "".join(parts)


def shown_variants(path: Path, texts: Mapping[str, str]) -> list[Shown]:
    """The stored variants of a file with the ``texts`` of their chains, the most volatile first.

    Raises UsageError for another file.
    """
    columns = ["chain", "metadata", "text", "kind", "detail", "edits", "distance", "volatility"]
    try:
        rows = pq.read_table(path, columns=columns).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path} is not a file of variants ({error}). Run: trails variants SELECTION") from None
    found = []
    for row in rows:
        root = dict(row["metadata"])["parent"]
        text = marked_edits(texts[root], row["text"]) if root in texts else row["text"]
        numbers = (row["edits"], row["distance"], row["volatility"])
        found.append(Shown(row["chain"], root, row["kind"], row["detail"], *numbers, text))
    return sorted(found, key=lambda one: (-one.volatility, one.id))


@dataclass(frozen=True, slots=True)
class KindDrift:
    """What one kind of variant did, over the accepted ones of a stored run.

    ``edits`` and ``distance`` are the largest. Volatility in nats. The drift map, means: ``logit_drift`` total variation,
    ``hidden_drift`` (L+1,) 1 - cosine by layer (0 = input embeddings), ``attention_drift`` (L,) total variation by layer, None
    unless it was measured.
    """

    kind: str
    made: int
    accepted: int
    edits: int | None
    distance: int | None
    volatility_median: float | None
    volatility_largest: float | None
    logit_drift: float | None
    hidden_drift: tuple[float, ...]
    attention_drift: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class VariantRun:
    """A run of the microvariant loop as it is stored: accepted variants with their drift map in ``path``, the others with the
    reason in ``rejected``. ``id`` is empty where the file lies outside a home, which only its path then names.
    ``noise_floor`` is the largest volatility (nats) of a chain against itself, None where no variant was accepted.
    """

    id: str
    path: Path
    rejected: Path
    run: str
    noise_floor: float | None
    kinds: tuple[KindDrift, ...]

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        kinds = [{name: getattr(kind, name) for name in kind.__slots__} for kind in self.kinds]
        return {
            "id": self.id or None,
            "path": str(self.path),
            "run": self.run,
            "noise_floor": self.noise_floor,
            "kinds": kinds,
        }

    def told(self, variants: Sequence[Shown] = ()) -> Report:
        """The run as a report: volatility by kind beside the noise floor, the drift map by layer, and the variants given
        (:func:`shown_variants`), each under its chain.
        """
        kept = [kind for kind in self.kinds if kind.volatility_median is not None]
        floor = self.noise_floor
        scores = tuple(
            Score(
                f"median volatility, {kind.kind}",
                float(kind.volatility_median or 0.0),
                "nats",
                (Control("the chain against itself", float(floor), how="the largest of the chains, measured again"),),
            )
            for kind in kept
            if floor is not None
        )
        by_kind = [{n: getattr(k, n) for n in k.__slots__ if not n.endswith("n_drift")} for k in self.kinds]
        made, accepted = sum(kind.made for kind in self.kinds), sum(kind.accepted for kind in self.kinds)
        tables = []
        if by_kind:
            tables.append(ReportTable("kinds", pa.Table.from_pylist(by_kind), "variants by kind", KIND_COLUMNS))
        for name, title, first, of in (
            (
                "hidden_drift",
                "drift map of the hidden states, 1 - cosine, mean over accepted variants",
                0,
                "hidden_drift",
            ),
            (
                "attention_drift",
                "drift map of attention, total variation, mean over accepted variants",
                1,
                "attention_drift",
            ),
        ):
            layers = [
                {"kind": kind.kind, "layer": layer, "mean": value}
                for kind in kept
                for layer, value in enumerate(getattr(kind, of) or (), first)
            ]
            if layers:
                drawn = ("kind", "layer", "mean")
                tables.append(ReportTable(name, pa.Table.from_pylist(layers), title, drawn=drawn))
        if variants:
            rows = pa.Table.from_pylist([asdict(one) for one in variants])
            volatile = ("volatility", rows["volatility"].to_pylist())
            title = "variants, the most volatile first"
            tables.append(ReportTable("variants", rows, title, VARIANT_COLUMNS, ranked=volatile))
        return Report(
            "variants",
            f"{accepted:,} of {counted(made, 'variant')} were accepted",
            facts={"run": self.run, "id": self.id},
            tables=tuple(tables),
            scores=scores,
            withheld=() if scores else (Withheld("volatility", "no variant was accepted, so there is no noise floor"),),
        )


def variant_run_id(run: str, options: VariantOptions, chains: Iterable[str]) -> str:
    """``v`` + 16 hex digits over the instrument, the options and the chains: what decides every variant."""
    decided = asdict(options)
    if not decided["accept"]:  # an option that came later leaves the ids of earlier runs alone
        del decided["accept"]
    return "v" + stable_hash(run, json.dumps(decided, sort_keys=True), *sorted(chains))


def read_variant_run(path: Path, name: str = "") -> VariantRun:
    """A stored run with its drift map by kind; ``name`` is its id in a home. Raises UsageError for another file."""
    own = [column for column, _ in OWN_COLUMNS]
    try:
        table = pq.read_table(path, columns=["run", *own])
    except (OSError, pa.ArrowException) as error:
        raise UsageError(f"{path} is not a file of variants ({error}). Run: trails variants SELECTION") from None
    rejected = path.with_name(f"{path.stem}.rejected.jsonl")
    refused: list[str] = []
    try:
        if rejected.is_file():
            lines = rejected.read_text(encoding="utf-8").split("\n")
            refused = [found["kind"] for line in lines if line and "kind" in (found := json.loads(line))]
    except ValueError as error:
        raise UsageError(
            f"{rejected} is damaged ({error}). Make the variants again. Run: trails variants SELECTION"
        ) from None
    rows = table.to_pylist()
    kinds = []
    for kind in KINDS:
        taken = [row for row in rows if row["kind"] == kind]
        if not taken and kind not in refused:
            continue
        volatility = [row["volatility"] for row in taken]
        attention = [row["attention_drift"] for row in taken if row["attention_drift"] is not None]
        kinds.append(
            KindDrift(
                kind,
                len(taken) + refused.count(kind),
                len(taken),
                max((row["edits"] for row in taken), default=None),
                max((row["distance"] for row in taken), default=None),
                float(np.median(volatility)) if taken else None,
                max(volatility, default=None),
                float(np.mean([row["logit_drift"] for row in taken])) if taken else None,
                _means([row["hidden_drift"] for row in taken]),
                _means(attention) if attention else None,
            )
        )
    floor = max((row["noise_floor"] for row in rows), default=None)
    run = rows[0]["run"] if rows else ""
    return VariantRun(name, path, rejected, run, floor, tuple(kinds))


def _means(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Mean by layer, undefined values left out."""
    return tuple(np.nanmean(np.asarray(rows, np.float64), axis=0).tolist()) if rows else ()
