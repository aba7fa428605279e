"""``llama-factory``: instruction and output (its alpaca layout); the entry for ``dataset_info.json`` is in the card."""

from __future__ import annotations

import pyarrow as pa

from trails.export.messages import answers
from trails.export.record import RECORD
from trails.export.writer import PROVENANCE, Writer

SCHEMA = pa.schema(
    [("instruction", pa.string()), ("output", pa.string()), *(RECORD.field(name) for name in PROVENANCE)]
)


def _convert(table: pa.Table) -> pa.Table:
    columns = {"instruction": table["question"], "output": pa.array(answers(table), pa.string())}
    return pa.table(columns | {name: table[name] for name in PROVENANCE}, schema=SCHEMA)


WRITER = Writer(
    name="llama-factory",
    trainer="LLaMA-Factory",
    convert=_convert,
    schema=SCHEMA,
    keeps=frozenset({"order"}),
    reads=("prompt", "completion", "question"),
    settings=(
        'dataset_info.json: {"trails": {"file_name": "FILE", "formatting": "alpaca",'
        ' "columns": {"prompt": "instruction", "response": "output"}}}\n'
        "dataset: trails\ntemplate: empty\ndisable_shuffling: true"
    ),
    chat=True,
)
