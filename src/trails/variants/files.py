"""Files of accepted variants (Parquet), the reasons of the others next to them, and their rows in the graph."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trails.errors import UsageError
from trails.export.record import COLUMNS
from trails.platform.files import replacing
from trails.schema import SHARD_SCHEMA
from trails.store.base import GraphBatch
from trails.store.rows import table_of, thirds
from trails.variants.base import VariantReport

OWN_COLUMNS = (
    ("parent", pa.string()),
    ("kind", pa.string()),
    ("detail", pa.string()),
    ("edits", pa.int32()),
    ("distance", pa.int32()),
    ("volatility", pa.float32()),
    ("volatility_after", pa.float32()),
    ("noise_floor", pa.float32()),
    ("logit_drift", pa.float32()),
    ("hidden_drift", pa.list_(pa.float32())),
    ("attention_drift", pa.list_(pa.float32())),
)
VARIANT_SCHEMA = pa.schema([*(SHARD_SCHEMA.field(name) for name in COLUMNS), *OWN_COLUMNS])
"""Columns of a file of accepted variants: those a training record is made from, then the gate's and the drift map's."""


def variant_table(report: VariantReport, run: str, tokenizer: str, question_ids: Sequence[int]) -> pa.Table:
    """Accepted variants as rows. The question's surprisal is left undefined (the chain's own trace has it)."""
    rows = []
    for v in report.accepted:
        chain = v.chain
        rows.append(
            {
                "chain": chain.id,
                "run": run,
                "source": chain.source,
                "source_id": chain.source_id,
                "licence": chain.licence,
                "language": chain.language,
                "question": chain.question,
                "text": chain.text,
                "metadata": [*chain.metadata.items(), ("parent_variant", v.parent)],
                "tokenizer": tokenizer,
                "token_ids": v.token_ids,
                "token_start": v.token_start,
                "token_end": v.token_end,
                "step_tokens": v.step_tokens.reshape(-1),
                "steps": [
                    {
                        "start": s.start,
                        "end": s.end,
                        "role": s.role.value,
                        "connective": s.connective,
                        "sense": s.sense,
                        "explicit": s.explicit,
                    }
                    for s in v.steps
                ],
                "question_token_ids": list(question_ids),
                "question_surprisal": [float("nan")] * len(question_ids),
                "surprisal": v.surprisal,
                "entropy": v.entropy,
                "parent": v.parent,
                "kind": v.kind,
                "detail": v.detail,
                "edits": v.edits,
                "distance": v.distance,
                "volatility": v.volatility,
                "volatility_after": v.volatility_after,
                "noise_floor": report.noise_floor,
                "logit_drift": v.logit_drift,
                "hidden_drift": v.hidden_drift,
                "attention_drift": v.attention_drift,
            }
        )
    return pa.Table.from_pylist(rows, schema=VARIANT_SCHEMA)


def variant_batch(table: pa.Table, chains: Collection[str]) -> GraphBatch:
    """Rows of a file of variants for the graph, those of ``chains``: ``:Variant`` and ``VARIANT_OF`` with the drift map."""
    roots = [dict(item)["parent"] for item in table["metadata"].to_pylist()]
    keep = [row for row, root in enumerate(roots) if root in chains]
    table, roots = table.take(pa.array(keep, pa.int64())), [roots[row] for row in keep]
    nodes = {name: table[name] for name in ("kind", "detail", "text", "parent", "edits", "distance")}
    drifts: dict[str, Any] = {}
    for name, first in (("hidden_drift", 1), ("attention_drift", 0)):  # layer 0 of the states is no layer of the model
        rows = table[name].to_pylist()
        width = max((len(row) for row in rows if row is not None), default=0)
        filled = [[np.nan] * width if row is None else row for row in rows]
        drifts |= thirds(name, np.array(filled, np.float32).reshape(len(rows), width), first)
        drifts[f"{name}_by_layer"] = table[name]
    ends = {"start": table["chain"], "end": roots, "run": table["run"]}
    numbers = {name: table[name] for name in ("volatility", "noise_floor", "logit_drift")}
    return GraphBatch(
        {"Variant": table_of("Variant", {"id": table["chain"], "chain": roots, **nodes})},
        {"VARIANT_OF": table_of("VARIANT_OF", {**ends, **numbers, **drifts})},
    )


def check_variant_file(path: Path) -> None:
    """Raises UsageError for a name that variants cannot be written to; variants that lie there may be replaced."""
    if path.suffix != ".parquet":
        raise UsageError(f"{path} ends in {path.suffix!r}. Write a name that ends in .parquet.")
    if path.exists():
        try:
            known = "noise_floor" in pq.read_schema(path).names
        except (OSError, pa.ArrowException):
            known = False
        if not known:
            raise UsageError(f"{path} exists and is not a file of variants. Choose another name.")


def write_variants(tables: Iterable[pa.Table], reports: Sequence[VariantReport], path: Path) -> Path:
    """Write accepted variants to ``path`` (Parquet) and the others, with reasons, next to it; return the second file."""
    check_variant_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rejected = path.with_name(f"{path.stem}.rejected.jsonl")
    with replacing(path) as temporary, replacing(rejected) as reasons:
        with pq.ParquetWriter(temporary, VARIANT_SCHEMA, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)
        with reasons.open("w", encoding="utf-8", newline="\n") as file:
            _write_reasons(reports, file)
    return rejected


def _write_reasons(reports: Iterable[VariantReport], file: TextIO) -> None:
    """Variants that were not accepted, and why, one JSON object a line."""
    for report in reports:
        for v in report.variants:
            if not v.accepted:
                line = {
                    "chain": report.chain,
                    "variant": v.chain.id,
                    "parent": v.parent,
                    "kind": v.kind,
                    "detail": v.detail,
                    "edits": v.edits,
                    "distance": v.distance,
                    "volatility": round(v.volatility, 6),
                    "reason": v.reason,
                }
                file.write(json.dumps(line, ensure_ascii=False) + "\n")
        for reason, count in sorted(report.dropped.items()):
            file.write(json.dumps({"chain": report.chain, "reason": reason, "count": count}, ensure_ascii=False) + "\n")
