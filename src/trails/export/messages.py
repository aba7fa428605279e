"""``messages``: the question as the user's turn, the chain as the assistant's. The trainer puts its chat template around.

A chain without a question has the assistant's turn only.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trails.export.files import one_array
from trails.export.record import RECORD, two_parts
from trails.export.writer import PROVENANCE, Writer

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
SCHEMA = pa.schema([("messages", MESSAGES), *(RECORD.field(name) for name in PROVENANCE)])


def answers(table: pa.Table) -> list[str]:
    """The chain of every row as far as the record goes: what follows the question in prompt + completion."""
    return [
        (prompt + completion)[len(question) + 1 if question else 0 :]
        for prompt, completion, question in zip(
            table["prompt"].to_pylist(), table["completion"].to_pylist(), table["question"].to_pylist(), strict=True
        )
    ]


def _convert(table: pa.Table) -> pa.Table:
    places, lists = two_parts(pc.not_equal(table["question"], ""))
    texts = pa.concat_arrays([one_array(table["question"]), pa.array(answers(table), pa.string())]).take(
        pa.array(places)
    )
    roles = pa.array(["user", "assistant"]).take(pa.array((places >= len(table)).astype(np.int8)))
    turns = pa.StructArray.from_arrays([roles, texts], fields=list(MESSAGES.value_type))
    columns = {"messages": pa.ListArray.from_arrays(lists, turns)} | {name: table[name] for name in PROVENANCE}
    return pa.table(columns, schema=SCHEMA)


WRITER = Writer(
    name="messages",
    trainer="any trainer of chat data",
    convert=_convert,
    schema=SCHEMA,
    keeps=frozenset({"order"}),
    reads=("prompt", "completion", "question"),
    settings='SFTConfig(assistant_only_loss=True, train_sampling_strategy="sequential")',
    chat=True,
)
