"""What can go wrong in a way the user can repair.

Every message says what was asked, what was found, and what to type. The command line prints it without a
traceback and ends with :attr:`TrailsError.exit_code`; a traceback is a bug in trails.
"""

from __future__ import annotations

from collections.abc import Sequence

MAX_FAULTS = 50
"""So many faults of a file are told one by one; who repairs those runs the command again."""


class TrailsError(Exception):
    """Base of every error that trails raises on purpose. Exit code 1."""

    exit_code = 1

    @property
    def lines(self) -> tuple[str, ...]:
        """The message, one entry a printed line: most are one line, whatever line ends the names in them hold."""
        return (str(self),)


class UsageError(TrailsError):
    """An option, a name or a selection that does not exist. Exit code 2."""

    exit_code = 2


class InputError(TrailsError):
    """A file or a record that cannot be read; the message starts with ``FILE:LINE:`` where a line is known. Exit code 3."""

    exit_code = 3


class FaultsError(InputError):
    """A file in which several things are wrong: a line for each, in the order of the file."""

    def __init__(self, file: str, told: Sequence[str]) -> None:
        """``told`` is one text a fault; those beyond :data:`MAX_FAULTS` are counted."""
        more = len(told) - MAX_FAULTS
        rest = [f"{file}: {more:,} more {'fault' if more == 1 else 'faults'}; repair these first"] if more > 0 else []
        self._told = (*told[:MAX_FAULTS], *rest)
        super().__init__("\n".join(self._told))

    @property
    def lines(self) -> tuple[str, ...]:
        """One fault a line."""
        return self._told


class ModelError(TrailsError):
    """A model that cannot be loaded, is refused, or cannot measure this text. Exit code 4."""

    exit_code = 4


class UnmeasurableError(ModelError):
    """A chain that the model cannot measure, while it can measure others: to an ingest a bad record. Exit code 4."""


class StoreError(TrailsError):
    """A trace store or a graph store that cannot be opened, written or reached. Exit code 5."""

    exit_code = 5


class QueryError(TrailsError):
    """A query that is wrong, is refused on the read path, or exceeded a limit. Exit code 6."""

    exit_code = 6


class WritingQueryError(QueryError):
    """A query on the read path that writes, or administers the graph."""


class MissingPackageError(TrailsError):
    """An optional package is needed; the message carries the install command. Exit code 7."""

    exit_code = 7
