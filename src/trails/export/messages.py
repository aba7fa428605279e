"""``messages``: what was said before the chain, then the chain as the assistant's turn; the trainer adds its chat template.

Before the chain stands the conversation that its source has (roles, names, tool calls and answers, thoughts), else the question
as a user's turn. A chain without either has the assistant's turn only. Earlier turns of the assistant are context: their
``weight`` is 0, that of the chain 1. TRL takes no weights, so its settings train the last turn alone where there are such rows.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trails.export.files import OPTIONAL, RAW_JSON, one_array
from trails.export.record import RECORD, two_parts
from trails.export.writer import PROVENANCE, Writer

_FURTHER = ("reasoning_content", "name", "tool_calls", "tool_call_id")
MESSAGES = pa.list_(
    pa.struct(
        [
            ("role", pa.string()),
            ("content", pa.string()),
            *(
                pa.field(name, pa.string(), metadata=OPTIONAL | (RAW_JSON if name == "tool_calls" else {}))
                for name in _FURTHER
            ),
            pa.field("weight", pa.int8(), metadata=OPTIONAL),
        ]
    )
)
"""A turn. ``tool_calls`` is a list in JSON lines and JSON text in Parquet; ``weight`` has the
assistant's turns of a row with several. What a turn lacks is null, and no key there."""

SCHEMA = pa.schema([("messages", MESSAGES), *(RECORD.field(name) for name in PROVENANCE)])


def answers(table: pa.Table) -> list[str]:
    """The chain of every row as far as the record goes: what follows the question in prompt + completion."""
    return [
        (prompt + completion)[len(question) + 1 if question else 0 :]
        for prompt, completion, question in zip(
            table["prompt"].to_pylist(), table["completion"].to_pylist(), table["question"].to_pylist(), strict=True
        )
    ]


def _turn(message: dict[str, Any]) -> dict[str, Any]:
    """A stored message as a row of :data:`MESSAGES`."""
    turn = {name: message[name] for name in ("role", "content", *_FURTHER) if name in message}
    if "tool_calls" in turn:
        turn["tool_calls"] = json.dumps(turn["tool_calls"], ensure_ascii=False)
    return turn


def _conversations(table: pa.Table) -> pa.Array:
    """The turns of every row, where some have a conversation."""
    rows = []
    columns = (table["messages"].to_pylist(), table["question"].to_pylist(), answers(table))
    for messages, question, answer in zip(*columns, strict=True):
        asked = [{"role": "user", "content": question}] if question else []
        before = map(_turn, json.loads(messages)) if messages else asked
        turns = [*before, {"role": "assistant", "content": answer}]
        said = [turn for turn in turns if turn["role"] == "assistant"]
        for turn in said if len(said) > 1 else ():
            turn["weight"] = int(turn is turns[-1])
        rows.append(turns)
    return pa.array(rows, MESSAGES)


def _convert(table: pa.Table) -> pa.Table:
    provenance = {name: table[name] for name in PROVENANCE}
    if pc.any(pc.not_equal(table["messages"], "")).as_py():
        return pa.table({"messages": _conversations(table)} | provenance, schema=SCHEMA)
    places, lists = two_parts(pc.not_equal(table["question"], ""))
    texts = pa.concat_arrays([one_array(table["question"]), pa.array(answers(table), pa.string())]).take(
        pa.array(places)
    )
    roles = pa.array(["user", "assistant"]).take(pa.array((places >= len(table)).astype(np.int8)))
    further = [pa.nulls(len(places), kind.type) for kind in list(MESSAGES.value_type)[2:]]
    turns = pa.StructArray.from_arrays([roles, texts, *further], fields=list(MESSAGES.value_type))
    return pa.table({"messages": pa.ListArray.from_arrays(lists, turns)} | provenance, schema=SCHEMA)


WRITER = Writer(
    name="messages",
    trainer="any trainer of chat data",
    convert=_convert,
    schema=SCHEMA,
    keeps=frozenset({"order", "conversation"}),
    reads=("prompt", "completion", "question", "messages"),
    settings='SFTConfig(assistant_only_loss=True, max_length=None, train_sampling_strategy="sequential")',
    settings_of_last=(
        'data = data.filter(lambda row: len(row["messages"]) > 1)\n'
        'data = data.map(lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]},'
        ' remove_columns=["messages"])\n'
        'SFTConfig(completion_only_loss=True, max_length=None, train_sampling_strategy="sequential")'
    ),
    chat=True,
)
