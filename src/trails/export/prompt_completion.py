"""``prompt-completion``: two texts per row (TRL, and most others). The trainer tokenises again and adds its own end token."""

from __future__ import annotations

import pyarrow as pa

from trails.export.record import RECORD
from trails.export.writer import PROVENANCE, Writer, pick

SCHEMA = pa.schema([RECORD.field(name) for name in ("prompt", "completion", *PROVENANCE)])


def _convert(table: pa.Table) -> pa.Table:
    return pick(table, SCHEMA)


WRITER = Writer(
    name="prompt-completion",
    trainer="TRL SFTTrainer and others",
    convert=_convert,
    schema=SCHEMA,
    keeps=frozenset({"order"}),
    settings='SFTConfig(completion_only_loss=True, max_length=None, train_sampling_strategy="sequential")',
)
