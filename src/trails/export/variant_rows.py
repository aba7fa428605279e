"""Microvariants as rows of a shard, so that they become records like any chain."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from trails.errors import UsageError
from trails.export.record import COLUMNS
from trails.export.subgraph import Selection
from trails.schema import Run
from trails.store.traces import TraceStore


def stored_variants(traces: TraceStore, name: str) -> Path:
    """File of the variants that a home holds under the id ``name``. Raises UsageError that names those there are."""
    path = traces.variant_file(name)
    if not path.is_file():
        known = ", ".join(sorted(other.stem for other in path.parent.glob("v*.parquet")))
        raise UsageError(
            f"variants {name} were asked for. The home holds: {known or 'none'}. Run: trails variants CHAIN"
        )
    return path


def read_ids(path: Path) -> dict[str, int]:
    """Ids of variants, one a line, with their lines; what follows an id, and lines that begin with ``#``, are notes."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read ({error}). Write ids of variants, one per line.") from None
    return {line.split()[0]: number for number, line in enumerate(lines, 1) if line.strip() and line[0] != "#"}


def read_refusals(path: Path, variants: Path) -> set[str]:
    """Ids of variants to leave out, as :func:`read_ids` reads them.

    Raises UsageError for an id that the file ``variants`` does not hold, and for another file than one of variants.
    """
    known, found = set(_opened(variants).read(["chain"])["chain"].to_pylist()), read_ids(path)
    for name, number in found.items():
        if name not in known:
            raise UsageError(f"{path}:{number}: variant {name!r} is not stored. Run: trails variants v… --show")
    return set(found)


def _opened(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise UsageError(
            f"{path} is not a file of variants ({error}). Run: trails variants SELECTION -o FILE"
        ) from None
    if set(COLUMNS) - set(file.schema_arrow.names):
        raise UsageError(f"{path} is not a file of variants. Run: trails variants SELECTION -o FILE")
    return file


def largest_edits(path: Path, selection: Selection) -> int | None:
    """Most token edits between a variant of the file and its parent, for the chains of a selection; None where the file does
    not say it."""
    if "edits" not in pq.read_schema(path).names:
        return None
    table = pq.read_table(path, columns=["metadata", "edits"])
    parents = [dict(item).get("parent") for item in table["metadata"].to_pylist()]
    pairs = zip(parents, table["edits"].to_pylist(), strict=True)
    return max((edits for parent, edits in pairs if selection.parts is None or parent in selection.parts), default=None)


def variant_tables(path: Path, run: Run, each: int = 0) -> Iterator[pa.Table]:
    """Accepted variants of a file written by ``trails variants``, as tables with the columns of a record's source; the first
    ``each`` of every chain (0: all).

    Raises UsageError for another file, or for variants that another run measured.
    """
    file = _opened(path)
    taken: dict[str, Iterator[int]] = {}
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, list(COLUMNS))
        runs = set(table["run"].to_pylist())
        if runs - {run.id}:
            raise UsageError(
                f"{path} holds variants measured by run {sorted(runs)[0]}, this export is of run {run.id}."
            )
        if each:
            parents = [dict(item).get("parent", "") for item in table["metadata"].to_pylist()]
            table = table.filter(
                pa.array([taken.setdefault(one, count()).__next__() < each for one in parents], pa.bool_())
            )
        yield table
