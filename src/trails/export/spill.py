"""Records on disk between the pass that makes them and the one that writes them in another order.

Numbers per token lie in one flat file, token by token, where a row is read by its place; the other columns in an Arrow file,
which is read through once for every window of rows. Neither is mapped into memory: what is held does not grow with the rows,
but for eight bytes of each.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trails.export.files import one_array
from trails.export.record import HELD, Batch, Ragged

PER_TOKEN = {
    "input_ids": np.dtype(np.int32),
    "labels": np.dtype(np.int32),
    "loss_weights": np.dtype(np.float32),
    "surprisal": np.dtype(np.float32),
    "entropy": np.dtype(np.float32),
}
"""Columns with a number for every token of a row, four bytes each."""

WINDOW_BYTES = 2**25
WINDOW_ROWS = 25_000
"""What is held of the other columns while rows are taken, at most (and at least one batch)."""


class Spill:
    """Keeps the ``columns`` of records, and ``input_ids``; ``attention_mask`` is all ones and costs nothing.

    Tables are added one after the other, then rows are taken in any order. A context manager; the caller removes the folder.
    """

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        self.columns = [name for name in HELD.names if name in columns or name == "input_ids"]
        self._folder = folder
        self._flat = [name for name in self.columns if name in PER_TOKEN]
        self._rest = pa.schema([HELD.field(n) for n in self.columns if n not in PER_TOKEN and n != "attention_mask"])
        self._tokens = (folder / "tokens").open("w+b", buffering=0)
        self._writer: Any = pa.ipc.new_file(str(folder / "rest"), self._rest)
        self._lengths: list[npt.NDArray[np.int64]] = []

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tokens.close()
        self._close()

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def add(self, records: Batch) -> None:
        """Add records."""
        block = np.empty((len(records.labels.values), len(self._flat)), np.int32)
        for place, name in enumerate(self._flat):
            column: Ragged = getattr(records, name)
            block[:, place] = column.values.astype(PER_TOKEN[name], copy=False).view(np.int32)
        block.tofile(self._tokens)
        self._lengths.append(records.labels.lengths)
        rest = pa.table([records.arrow(name) for name in self._rest.names], schema=self._rest)
        for batch in rest.combine_chunks().to_batches():
            self._writer.write_batch(batch)

    def read(self) -> None:
        """No more records: from now on rows are taken."""
        self._close()
        self._offsets = np.concatenate([np.zeros(1, np.int64), *self._lengths]).cumsum()
        self._lengths = []

    def take(self, rows: npt.NDArray[np.int64], batch: int) -> Iterator[pa.Table]:
        """Records in the order asked for, with :attr:`columns`, in tables of ``batch`` rows (the last may have fewer)."""
        per_row = (self._folder / "rest").stat().st_size // max(len(self._offsets) - 1, 1) + 1
        window = max(min(WINDOW_BYTES // per_row, WINDOW_ROWS) // batch, 1) * batch
        for first in range(0, len(rows), window):
            rest, places = self._window(rows[first : first + window])
            for start in range(0, len(places), batch):
                mine = rest.take(pa.array(places[start : start + batch]))
                yield self._with_tokens(rows[first + start : first + start + len(mine)], mine)

    def _with_tokens(self, rows: npt.NDArray[np.int64], rest: pa.Table) -> pa.Table:
        starts = self._offsets[rows]
        lengths = self._offsets[rows + 1] - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        block = self._read(starts, offsets)
        arrays = []
        for name in self.columns:
            kind = HELD.field(name).type
            if name == "attention_mask":
                arrays.append(Ragged(offsets, np.ones(offsets[-1], np.int8)).arrow(kind.value_type))
            elif name in PER_TOKEN:
                values = np.ascontiguousarray(block[:, self._flat.index(name)]).view(PER_TOKEN[name])
                arrays.append(Ragged(offsets, values).arrow(kind.value_type))
            else:
                arrays.append(one_array(rest[name]))
        return pa.table(arrays, schema=pa.schema([HELD.field(name) for name in self.columns]))

    def _read(self, starts: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        """Numbers of the tokens (tokens, columns) of rows that begin at the tokens ``starts``."""
        block = np.empty((int(offsets[-1]), len(self._flat)), np.int32)
        width = block.itemsize * len(self._flat)
        bytes_of, file = block.reshape(-1).view(np.uint8).data, self._tokens.fileno()
        ends = (offsets * width).tolist()
        for place, first, last in zip((starts * width).tolist(), ends, ends[1:], strict=False):
            if os.preadv(file, [bytes_of[first:last]], place) != last - first:
                raise OSError(f"{self._folder}: a temporary file was cut short")
        return block

    def _window(self, rows: npt.NDArray[np.int64]) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        """The other columns of these rows in the order in which they were added, and where each of the rows is in there."""
        sorted_rows, places = np.unique(rows, return_inverse=True)
        pieces = []
        start = 0
        with pa.OSFile(str(self._folder / "rest")) as file:
            reader = pa.ipc.open_file(file)
            for index in range(reader.num_record_batches):
                batch = reader.get_batch(index)
                first, last = np.searchsorted(sorted_rows, [start, start + len(batch)])
                if last > first:
                    pieces.append(batch.take(pa.array(sorted_rows[first:last] - start)))
                start += len(batch)
        return pa.Table.from_batches(pieces, self._rest).combine_chunks(), places
