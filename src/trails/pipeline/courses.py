"""From a genome and a home to a course: what ``trails genome`` works with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trails.config import Settings
from trails.genome.course import Course, compile_course
from trails.genome.model import Genome, load_genome
from trails.genome.shelf import Shelf
from trails.genome.source import Document
from trails.store import open_graph
from trails.store.resolve import measured_runs, run_of
from trails.store.traces import TraceStore


@contextmanager
def open_shelf(settings: Settings, run: str | None = None) -> Iterator[Shelf]:
    """The chains of a run of a home. Raises StoreError for a folder that is no home, UsageError without such a run."""
    with TraceStore(settings.home) as traces:
        shelf = Shelf(traces, run_of(measured_runs(traces), run), lambda: open_graph(settings))
        try:
            yield shelf
        finally:
            shelf.close()


@contextmanager
def open_course(settings: Settings, path: Path, *, run: str | None = None, seed: int = 0) -> Iterator[Course]:
    """The course of a genome's file over a home. Raises GenomeError with every fault of the file."""
    genome, document = load_genome(path)
    with open_shelf(settings, run) as shelf:
        yield course_of(genome, document, shelf, path, seed)


def course_of(genome: Genome, document: Document, shelf: Shelf, path: Path, seed: int) -> Course:
    """The course of a genome that was read from ``path``."""
    return compile_course(genome, document, shelf, folder=path.parent, seed=seed)
