"""Arrow tables in the shape in which the embedded engine reads a frame of pandas.

The engine takes a frame of pandas, and asks it for little: its columns, and of each the dtype, the length, which values are
missing, and the values as a list. pandas makes those lists by way of arrays of its own; here they are made from Arrow's
buffers, for about half of what a property costs before it reaches the engine (benchmarks/RESULTS.md, ``scale``).
``tests/store/test_arrow_columns.py`` holds the engine to writing the same bytes from both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_SAMPLE = 512
"""Values by which a column of text is judged to repeat itself."""


class Frame:
    """Rows of a table for the engine's bulk calls. Columns without a value are left out: an absent property. A float that is
    NaN is a missing value, as in pandas.
    """

    def __init__(self, table: pa.Table) -> None:
        self._length = len(table)
        self._columns = {
            name: column
            for name, column in zip(table.column_names, table.columns, strict=True)
            if column.null_count < len(column)
        }
        self.columns = list(self._columns)
        self.lists = {name: "list" for name, column in self._columns.items() if pa.types.is_list(column.type)}
        """What the engine has to be told of columns that no dtype describes: its ``column_types``."""

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, name: str) -> _Column:
        return _Column(self._columns[name])

    def reset_index(self, *, drop: bool) -> Frame:
        """Itself: its rows are numbered from 0."""
        return self


class _Text:
    """The dtype of text, by the name that the engine knows."""

    def __str__(self) -> str:
        return "str"


class _Column:
    """A column as the engine asks for it."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        self._type, self._length = column.type, len(column)
        self._values = column.combine_chunks() if self._type == pa.string() else column
        self.dtype: Any = _Text()
        self._missing: Any = None
        if pa.types.is_floating(self._type):
            self._values = np.ascontiguousarray(column.to_numpy(), np.float64)
            self._missing = np.isnan(self._values)
            self.dtype = self._values.dtype
        elif column.null_count:
            self._missing = column.is_null().to_numpy()
        if pa.types.is_integer(self._type):
            self.dtype = np.dtype(np.int64)
        elif pa.types.is_boolean(self._type):
            self.dtype = np.dtype(np.bool_)

    def __len__(self) -> int:
        return self._length

    def isna(self) -> _Values:
        """Which values are missing. Of floats and text an empty list says none: the engine takes them at once, and then the
        missing ones away. Integers and truth values it takes one at a time, by this list.
        """
        if self._missing is not None and self._missing.any():
            return _Values(self._missing.tolist())
        at_once = pa.types.is_floating(self._type) or self._type == pa.string()
        return _Values([] if at_once else [False] * self._length)

    def tolist(self) -> Sequence[Any]:
        """The values; whatever where they are missing. Floats come as a view of the array: the engine goes through it once, so
        that no list of a million objects has to be made.
        """
        if pa.types.is_floating(self._type):
            return memoryview(self._values)
        if self._type == pa.string():
            return _texts(self._values)
        values = self._values
        if self._missing is not None and not pa.types.is_list(self._type):
            values = pc.fill_null(values, pa.scalar(0).cast(self._type))
        found: list[Any] = values.to_numpy(zero_copy_only=False).tolist()
        return found


class _Values:
    """An array of which only the list is asked."""

    def __init__(self, values: list[bool]) -> None:
        self._values = values

    def tolist(self) -> list[bool]:
        return self._values


def _texts(column: pa.StringArray) -> list[Any]:
    """Text as Python strings: one for every distinct text where texts repeat, such as the name of the run, since making a
    string costs more than finding it. Ids do not repeat, and looking for them would cost twice as much.
    """
    if 2 * len(pc.unique(column[:_SAMPLE])) > min(len(column), _SAMPLE):
        return list(column.to_numpy(zero_copy_only=False).tolist())
    coded = column.dictionary_encode()
    texts = coded.dictionary.to_numpy(zero_copy_only=False)
    return list(texts[pc.fill_null(coded.indices, 0).to_numpy()].tolist())
