"""Records on disk between the pass that makes them and the one that writes them in another order.

Numbers per token lie in flat files, one per column, and are gathered by position; the other columns in an Arrow file. Both are
mapped into memory, so what counts as used are pages that the system can take back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from trails.export.files import one_array
from trails.export.record import RECORD, Ragged, ragged

PER_TOKEN = {
    "input_ids": np.dtype(np.int32),
    "labels": np.dtype(np.int32),
    "loss_weights": np.dtype(np.float32),
    "surprisal": np.dtype(np.float32),
    "entropy": np.dtype(np.float32),
}
"""Columns with a number for every token of a row."""


class Spill:
    """Keeps the ``columns`` of records, and ``input_ids``; ``attention_mask`` is all ones and costs nothing.

    Tables are added one after the other, then rows are taken in any order. A context manager; the caller removes the folder.
    """

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        self.columns = [name for name in RECORD.names if name in columns or name == "input_ids"]
        self._folder = folder
        self._flat = [name for name in self.columns if name in PER_TOKEN]
        self._rest = pa.schema([RECORD.field(n) for n in self.columns if n not in PER_TOKEN and n != "attention_mask"])
        self._files = {name: (folder / name).open("wb") for name in self._flat}
        self._writer: Any = pa.ipc.new_file(str(folder / "rest"), self._rest)
        self._lengths: list[npt.NDArray[np.int64]] = []
        self._batches: list[pa.RecordBatch] = []
        self._values: dict[str, npt.NDArray[Any]] = {}

    def __enter__(self) -> Spill:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        self._batches, self._values = [], {}

    def _close(self) -> None:
        for file in self._files.values():
            file.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def add(self, table: pa.Table) -> None:
        """Add records."""
        for name in self._flat:
            rows = ragged(table[name], PER_TOKEN[name])
            rows.values.tofile(self._files[name])
        self._lengths.append(ragged(table["input_ids"], np.int32).lengths)
        for batch in table.select(self._rest.names).combine_chunks().to_batches():
            self._writer.write_batch(batch)

    def read(self) -> None:
        """No more records: from now on rows are taken."""
        self._close()
        self._offsets = np.concatenate([[0], np.cumsum(np.concatenate([[0], *self._lengths])[1:])]).astype(np.int64)
        reader = pa.ipc.open_file(pa.memory_map(str(self._folder / "rest")))
        self._batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        self._starts = np.concatenate([[0], np.cumsum([len(batch) for batch in self._batches])])
        self._values = {
            name: np.memmap(self._folder / name, PER_TOKEN[name], "r")
            if self._offsets[-1]
            else np.empty(0, PER_TOKEN[name])
            for name in self._flat
        }

    def take(self, rows: npt.NDArray[np.int64]) -> pa.Table:
        """Records in the order asked for, with :attr:`columns`."""
        starts = self._offsets[rows]
        lengths = self._offsets[rows + 1] - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        rest = self._take_rest(rows)
        arrays = []
        for name in self.columns:
            kind = RECORD.field(name).type
            if name == "attention_mask":
                arrays.append(Ragged(offsets, np.ones(offsets[-1], np.int8)).arrow(kind.value_type))
            elif name in PER_TOKEN:
                arrays.append(Ragged(offsets, self._values[name][places]).arrow(kind.value_type))
            else:
                arrays.append(one_array(rest[name]))
        return pa.table(arrays, schema=pa.schema([RECORD.field(name) for name in self.columns]))

    def _take_rest(self, rows: npt.NDArray[np.int64]) -> pa.Table:
        batch = np.searchsorted(self._starts, rows, side="right") - 1
        by_batch = np.argsort(batch, kind="stable")
        bounds = np.searchsorted(batch[by_batch], np.arange(len(self._batches) + 1))
        pieces = []
        for index in range(len(self._batches)):
            mine = by_batch[bounds[index] : bounds[index + 1]]
            if len(mine):
                pieces.append(self._batches[index].take(pa.array(rows[mine] - self._starts[index])))
        back = np.empty(len(rows), dtype=np.int64)
        back[by_batch] = np.arange(len(rows))
        return pa.Table.from_batches(pieces, self._rest).combine_chunks().take(pa.array(back))
