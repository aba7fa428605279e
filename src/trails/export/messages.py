"""``messages``: the question as the user's turn, the chain as the assistant's. The trainer puts its chat template around.

A chain without a question has the assistant's turn only.
"""

from __future__ import annotations

import pyarrow as pa

from trails.export.record import RECORD
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
    rows = [
        [*([{"role": "user", "content": question}] if question else []), {"role": "assistant", "content": answer}]
        for question, answer in zip(table["question"].to_pylist(), answers(table), strict=True)
    ]
    columns = {"messages": pa.array(rows, MESSAGES)} | {name: table[name] for name in PROVENANCE}
    return pa.table(columns, schema=SCHEMA)


WRITER = Writer(
    name="messages",
    trainer="any trainer of chat data",
    convert=_convert,
    schema=SCHEMA,
    keeps=frozenset({"order"}),
    settings='SFTConfig(assistant_only_loss=True, train_sampling_strategy="sequential")',
    chat=True,
)
