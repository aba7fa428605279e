"""Microvariants as rows of a shard, so that they become records like any chain."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trails.errors import UsageError
from trails.export.record import COLUMNS
from trails.schema import Run


def variant_tables(path: Path, run: Run) -> Iterator[pa.Table]:
    """Accepted variants of a file written by ``trails variants``, as tables with the columns of a record's source.

    Raises UsageError for another file, or for variants that another run measured.
    """
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(
            f"{path} is not a file of variants ({error}). Type: trails variants SELECTION -o FILE"
        ) from None
    missing = set(COLUMNS) - set(file.schema_arrow.names)
    if missing:
        raise UsageError(f"{path} is not a file of variants. Type: trails variants SELECTION -o FILE")
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, list(COLUMNS))
        runs = set(table["run"].to_pylist())
        if runs - {run.id}:
            raise UsageError(
                f"{path} holds variants measured by run {sorted(runs)[0]}, this export is of run {run.id}."
            )
        yield table
