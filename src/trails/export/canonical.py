"""``trails``: the canonical record as it is; what ``trails train`` reads. Loses nothing."""

from __future__ import annotations

import pyarrow as pa

from trails.export.record import RECORD
from trails.export.writer import Writer, pick


def _convert(table: pa.Table) -> pa.Table:
    return pick(table, RECORD)


WRITER = Writer(
    name="trails",
    trainer="trails train",
    convert=_convert,
    schema=RECORD,
    keeps=frozenset({"mask", "weights", "order", "conversation"}),
    settings="trails train FILE -o FOLDER",
    open=True,
)
