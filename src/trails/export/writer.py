"""What a writer is: a name, what it keeps, and how a table of records becomes a table of its rows.

Adding a format: one file with a :class:`Writer`, one line in ``WRITERS`` of :mod:`trails.export`, one row in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

Kept = Literal["mask", "weights", "order", "conversation"]

PROVENANCE = ("id", "chain", "token_ids_in_graph")
"""Columns that name the graph elements a row came from; every format has them in its rows or in a file beside them."""


@dataclass(frozen=True, slots=True)
class Writer:
    """One output format.

    ``convert`` turns records (:data:`trails.export.record.HELD`) into rows; ``reads`` names the columns it needs besides those
    that its rows have, too. ``keeps`` says what survives: ``mask`` (any set of labelled tokens; without it only rows whose
    labels are exactly the completion), ``weights`` (a number per token), ``order``, ``conversation`` (what was said before the
    question, where the model was measured after it). ``settings`` are the lines a user must give the trainer so that it does
    survive: FILE is the file, LONGEST the tokens of the longest row, ROOM what a trainer that tokenises it again has
    room for. ``settings_of_last`` are those lines where rows have earlier turns of the assistant. ``beside`` writes
    the provenance columns to a second file, for trainers that accept no further columns. ``folder`` writes a data set as the
    library ``datasets`` saves it to disk, for trainers that load only that. ``chat`` says that a row is
    question and whole chain, so that a prompt cannot hold a part of the chain. ``open`` says that readers of the format take
    further columns.
    """

    name: str
    trainer: str
    convert: Callable[[pa.Table], pa.Table]
    schema: pa.Schema
    keeps: frozenset[Kept]
    settings: str
    settings_of_last: str = ""
    reads: tuple[str, ...] = ()
    beside: bool = False
    folder: bool = False
    chat: bool = False
    open: bool = False

    @property
    def texts(self) -> bool:
        """Whether rows hold texts that the trainer tokenises, not token ids."""
        names = {*self.schema.names, *self.reads}
        return "completion" in names and "input_ids" not in names


def pick(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a schema, as they are."""
    return table.select(schema.names).cast(schema)
