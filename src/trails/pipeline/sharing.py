"""What an ingest asks of those that measure for it, wherever they are: :mod:`trails.pipeline.many` is one answer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from trails.config import Settings
from trails.measure.base import MeasureOptions
from trails.pipeline.progress import Progress
from trails.schema import Chain, Run
from trails.store.traces import TraceStore


@dataclass(frozen=True, slots=True)
class Portion:
    """What a worker made of a block: the shard's name, the refused chains with the reason, and its counts. ``characters``
    counts those of the texts of the chains in the shard.
    """

    name: str
    characters: int
    refused: list[tuple[Chain, str]]
    counted: Mapping[str, Any]
    notes: Mapping[str, Any]
    seconds: Mapping[str, float]


class MeasuringCrew(Protocol):
    """Workers that have opened a model."""

    run: Run
    tokens: int
    """About what a shard should hold."""
    notes: Mapping[str, Any]
    """Notes of the run, with what the workers found while they measured."""

    def open(self) -> None:
        """Open the model; return when the first worker is ready."""

    def measure(
        self, chains: Iterable[Chain], options: MeasureOptions, *, tokens: int, keep_source_steps: bool = False
    ) -> Iterator[Portion]:
        """Have all chains measured. Shards are in the home when their portion is given."""

    def close(self) -> None:
        """End the workers."""


class MeasuringPool(Protocol):
    """Where workers come from."""

    @property
    def workers(self) -> int:
        """How many there are."""

    def crew(self, settings: Settings, traces: TraceStore, progress: Progress) -> AbstractContextManager[MeasuringCrew]:
        """Workers for a home; they end with the block."""

    def take_left(self, traces: TraceStore) -> int:
        """Take the shards that a killed ingest left on their way; return how many."""
