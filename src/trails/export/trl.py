"""``trl``: token ids and labels for TRL's SFTTrainer (1.16), which uses a ``labels`` column as it is.

The trainer drops every further column, so per-token weights cannot pass; it shuffles unless told not to.
"""

from __future__ import annotations

import pyarrow as pa

from trails.export.record import RECORD
from trails.export.writer import PROVENANCE, Writer, pick

SCHEMA = pa.schema([RECORD.field(name) for name in ("input_ids", "labels", *PROVENANCE)])


def _convert(table: pa.Table) -> pa.Table:
    return pick(table, SCHEMA)


WRITER = Writer(
    name="trl",
    trainer="TRL SFTTrainer",
    convert=_convert,
    schema=SCHEMA,
    keeps=frozenset({"mask", "order", "conversation"}),
    settings='SFTConfig(packing=False, max_length=None, train_sampling_strategy="sequential")',
)
