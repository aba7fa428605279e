"""What long work reports while it runs."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """What ingest, rebuild and diff report while they work; the command line draws it."""

    def begin(self, task: str, total: int, *, tokens: int = 0) -> None:
        """A piece of work of ``total`` units begins; ``tokens`` are to be measured for them (0: not known)."""

    def advance(self, amount: int, *, tokens: int = 0) -> None:
        """``amount`` units are done; ``tokens`` were measured for them."""

    def note(self, message: str) -> None:
        """Something the user should know; work goes on."""


class Silent:
    """Progress that says nothing."""

    def begin(self, task: str, total: int, *, tokens: int = 0) -> None:
        """Say nothing."""

    def advance(self, amount: int, *, tokens: int = 0) -> None:
        """Say nothing."""

    def note(self, message: str) -> None:
        """Say nothing."""
