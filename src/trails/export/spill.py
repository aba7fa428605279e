"""Records on disk between the pass that makes them and the one that writes them in another order.

Numbers per token lie in one flat file, token by token, where a row is read by its place; the other columns in an Arrow file, of
which every window of rows gets a file of its own before rows are taken. Neither is mapped into memory: what is held does not
grow with the rows, and the place of each lies in a file, too.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trails.export.files import one_array
from trails.export.record import HELD, Batch, Ragged
from trails.platform.arrays import Whole
from trails.platform.columns import Growing, let_go, write_all

PER_TOKEN = {
    "input_ids": np.dtype(np.int32),
    "labels": np.dtype(np.int32),
    "loss_weights": np.dtype(np.float32),
    "surprisal": np.dtype(np.float32),
    "entropy": np.dtype(np.float32),
}
"""Columns with a number for every token of a row, four bytes each."""

_PLACE = "place in the window"
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
        self._ends, self._end = Growing(folder / "ends", np.int64), 0

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
        write_all(self._tokens, block)
        self._ends.add(records.labels.offsets[1:] + self._end)
        self._end += int(records.labels.offsets[-1])
        rest = pa.table([records.arrow(name) for name in self._rest.names], schema=self._rest)
        for batch in rest.combine_chunks().to_batches():
            self._writer.write_batch(batch)

    def read(self) -> None:
        """No more records: from now on rows are taken."""
        self._close()
        self._rows = self._ends.read()

    def take(self, rows: Whole, batch: int) -> Iterator[pa.Table]:
        """Records in the order asked for, with :attr:`columns`, in tables of ``batch`` rows (the last may have fewer)."""
        per_row = (self._folder / "rest").stat().st_size // max(len(self._rows), 1) + 1
        window = max(min(WINDOW_BYTES // per_row, WINDOW_ROWS) // batch, 1) * batch
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            self._sort_out(rows, window, Path(folder))
            for first in range(0, len(rows), window):
                rest = self._gathered(Path(folder) / str(first // window))
                for start in range(0, len(rest), batch):
                    mine = rest.slice(start, batch)
                    yield self._with_tokens(rows[first + start : first + start + len(mine)], mine)
                let_go(rows, self._rows)

    def _with_tokens(self, rows: Whole, rest: pa.Table) -> pa.Table:
        starts = np.where(rows > 0, self._rows[rows - 1], 0)
        lengths = self._rows[rows] - starts
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

    def _sort_out(self, rows: Whole, window: int, folder: Path) -> None:
        """Put the other columns of every window of rows into a file of its own: all of them are read once."""
        by_row = np.argsort(rows, kind="stable").astype(np.int32)
        sorted_rows = rows[by_row]
        let_go(rows)
        for start, table in self._blocks(window, sorted_rows):
            first, last = np.searchsorted(sorted_rows, [start, start + len(table)])
            places, of = by_row[first:last], sorted_rows[first:last] - start
            by_window = np.argsort(places // window, kind="stable")
            numbers, begins = np.unique(places[by_window] // window, return_index=True)
            for number, mine in zip(numbers.tolist(), np.split(by_window, begins[1:]), strict=True):
                part = table.take(pa.array(of[mine])).append_column(_PLACE, pa.array(places[mine] % window, pa.int32()))
                (whole,) = part.combine_chunks().to_batches()
                data = whole.serialize()
                with (folder / str(number)).open("ab") as file:
                    file.write(data.size.to_bytes(8, "little"))
                    file.write(data)

    def _blocks(self, rows: int, wanted: Whole) -> Iterator[tuple[int, pa.Table]]:
        """The other columns of about so many rows at a time, with the number of the first; those where none is ``wanted``
        (ascending) are left out."""
        with pa.OSFile(str(self._folder / "rest")) as file:
            reader = pa.ipc.open_file(file)
            held: list[pa.RecordBatch] = []
            start = count = 0
            for index in range(reader.num_record_batches):
                held.append(reader.get_batch(index))
                count += len(held[-1])
                if count >= rows or index == reader.num_record_batches - 1:
                    if np.searchsorted(wanted, start) < np.searchsorted(wanted, start + count):
                        yield start, pa.Table.from_batches(held, self._rest)
                    start, count, held = start + count, 0, []

    def _gathered(self, path: Path) -> pa.Table:
        """The other columns of the rows of a window, in their order."""
        schema = self._rest.append(pa.field(_PLACE, pa.int32()))
        pieces = []
        with path.open("rb") as file:
            while size := int.from_bytes(file.read(8), "little"):
                pieces.append(pa.ipc.read_record_batch(pa.py_buffer(file.read(size)), schema))
        found = pa.Table.from_batches(pieces, schema)
        return found.take(pa.array(np.argsort(found[_PLACE].to_numpy()))).drop_columns([_PLACE])
