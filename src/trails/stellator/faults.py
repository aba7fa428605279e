"""What is wrong in a stellator file: every fault with its place, collected, and told in one error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from trails.errors import FaultsError, InputError, QueryError, TrailsError, UsageError
from trails.stellator.language import Place


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong: where (both from 1), what, and what to write instead. ``cause`` is what the home answered, where
    it was asked."""

    line: int
    column: int
    message: str
    hint: str = ""
    cause: TrailsError | None = field(default=None, compare=False)

    def told(self, file: str) -> str:
        """``FILE:LINE:COLUMN: message hint``."""
        return f"{file}:{self.line}:{self.column}: {self.message} {self.hint}".rstrip()

    def record(self) -> dict[str, Any]:
        """As plain values."""
        return {"line": self.line, "column": self.column, "message": self.message, "hint": self.hint}


class StellatorError(FaultsError):
    """A file of blocks that cannot be used; every fault on its own line. The exit code is that of the first."""

    def __init__(self, file: str, faults: Iterable[Fault]) -> None:
        """``faults`` in any order, each once or more, at least one."""
        self.faults = tuple(sorted(set(faults)))
        first = self.faults[0].cause
        self.exit_code = first.exit_code if first else InputError.exit_code
        # an engine shows the place in a statement over several lines: here a fault has one
        told = [(fault, fault.told(file)) for fault in self.faults]
        super().__init__(
            file, [text.partition("\n")[0] if isinstance(fault.cause, QueryError) else text for fault, text in told]
        )


class Faults:
    """The faults of a file while it is read and compiled."""

    def __init__(self, file: str) -> None:
        """``file`` stands in messages."""
        self.file = file
        self.found: list[Fault] = []
        self._declared: set[str] = set()

    def add(self, place: Place, message: str, hint: str = "", *, declared: bool = False) -> None:
        """One more. What a named zone declares wrongly (``declared``) is told once, where the zone is first used."""
        if declared and message in self._declared:
            return
        if declared:
            self._declared.add(message)
        self.found.append(Fault(place.line, place.column, message, hint))

    @contextmanager
    def at(self, place: Place) -> Iterator[None]:
        """What is asked inside and refused is a fault at the place."""
        try:
            yield
        except (InputError, QueryError, UsageError) as error:
            self.found.append(Fault(place.line, place.column, str(error), cause=error))

    def check(self) -> None:
        """Raises StellatorError where there is a fault. A single one that the home answered keeps its type."""
        if len(self.found) == 1 and (cause := self.found[0].cause):
            raise type(cause)(self.found[0].told(self.file)) from None
        if self.found:
            raise StellatorError(self.file, self.found) from None
