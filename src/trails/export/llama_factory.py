"""``llama-factory`` (texts in its alpaca layout) and ``llama-factory-tokens`` (token ids and labels) for LLaMA-Factory.

The first is tokenised by the trainer and loses a mask. The second is the folder that the trainer's ``tokenized_path`` loads as
it is, labels included; it may hold no other columns, so the provenance lies beside it, line by line.
"""

from __future__ import annotations

import pyarrow as pa

from trails.export.messages import answers
from trails.export.record import RECORD
from trails.export.writer import PROVENANCE, Writer, pick

SCHEMA = pa.schema(
    [("instruction", pa.string()), ("output", pa.string()), *(RECORD.field(name) for name in PROVENANCE)]
)

TOKEN_SCHEMA = pa.schema([RECORD.field(name) for name in ("input_ids", "attention_mask", "labels")])


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
        "dataset: trails\ntemplate: empty\ncutoff_len: ROOM\ndisable_shuffling: true"
    ),
    chat=True,
)


def _tokens(table: pa.Table) -> pa.Table:
    return pick(table, TOKEN_SCHEMA)


TOKEN_WRITER = Writer(
    name="llama-factory-tokens",
    trainer="LLaMA-Factory, pre-tokenised",
    convert=_tokens,
    schema=TOKEN_SCHEMA,
    keeps=frozenset({"mask", "order", "conversation"}),
    settings="tokenized_path: FILE\ndisable_shuffling: true\npacking: false",
    beside=True,
    folder=True,
)
