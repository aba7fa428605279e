"""``ms-swift``: the user's turn as text, the assistant's as token ids with a loss scale each (ms-swift 4.6).

The one trainer here that takes a weight per token as it is. A token that is masked has scale 0. Without
``--is_binary_loss_scale false`` it uses the weights as a mask only: whatever is above 0 counts 1.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trails.export.files import RAW_JSON, json_text, one_array
from trails.export.record import RECORD, ragged
from trails.export.writer import PROVENANCE, Writer

SCHEMA = pa.schema([pa.field("messages", pa.string(), metadata=RAW_JSON), *(RECORD.field(name) for name in PROVENANCE)])


def _convert(table: pa.Table) -> pa.Table:
    first = one_array(table["token_ids_in_graph"]).field("offset").to_numpy().astype(np.int64)
    answer = [
        json_text(ragged(table[name], kind).after(first).arrow(RECORD.field(name).type.value_type))
        for name, kind in (("input_ids", np.int32), ("loss_weights", np.float32))
    ]
    rows = pc.binary_join_element_wise(
        '[{"role":"user","content":',
        json_text(one_array(table["question"])),
        '},{"role":"assistant","content":{"token_ids":',
        answer[0],
        ',"loss_scale":',
        answer[1],
        "}}]",
        "",
    )
    columns = {"messages": rows} | {name: table[name] for name in PROVENANCE}
    return pa.table(columns, schema=SCHEMA)


WRITER = Writer(
    name="ms-swift",
    trainer="ms-swift",
    convert=_convert,
    schema=SCHEMA,
    keeps=frozenset({"mask", "weights", "order"}),
    reads=("question", "input_ids", "loss_weights"),
    settings=(
        "swift sft --dataset FILE --loss_scale default --is_binary_loss_scale false --packing false"
        " --dataset_shuffle false --train_dataloader_shuffle false"
    ),
)
