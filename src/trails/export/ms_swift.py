"""``ms-swift``: the user's turn as text, the assistant's as token ids with a loss scale each (ms-swift 4.6).

The one trainer here that takes a weight per token as it is. A token that is masked has scale 0.
"""

from __future__ import annotations

import json

import pyarrow as pa

from trails.export.files import DIGITS, RAW_JSON
from trails.export.record import RECORD, lists
from trails.export.writer import PROVENANCE, Writer

SCHEMA = pa.schema([pa.field("messages", pa.string(), metadata=RAW_JSON), *(RECORD.field(name) for name in PROVENANCE)])


def _convert(table: pa.Table) -> pa.Table:
    ids, weights = lists(table["input_ids"]), lists(table["loss_weights"], digits=DIGITS)
    offsets = [place["offset"] for place in table["token_ids_in_graph"].to_pylist()]
    rows = []
    for question, row, weight, offset in zip(table["question"].to_pylist(), ids, weights, offsets, strict=True):
        answer = {"token_ids": row[offset:], "loss_scale": weight[offset:]}
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append(json.dumps(turns, ensure_ascii=False, separators=(",", ":")))
    columns = {"messages": pa.array(rows, pa.string())} | {name: table[name] for name in PROVENANCE}
    return pa.table(columns, schema=SCHEMA)


WRITER = Writer(
    name="ms-swift",
    trainer="ms-swift",
    convert=_convert,
    schema=SCHEMA,
    keeps=frozenset({"mask", "weights", "order"}),
    settings=(
        "swift sft --dataset FILE --loss_scale default --packing false"
        " --dataset_shuffle false --train_dataloader_shuffle false"
    ),
)
