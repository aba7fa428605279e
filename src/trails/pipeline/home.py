"""A home of trails as Python code works with it: what the commands do, as functions that return records and Arrow tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from trails.config import load_settings
from trails.errors import UsageError
from trails.export import ExportReport, export_selection
from trails.schema import Run, Trace, fitting_runs
from trails.store import open_graph
from trails.store.base import GraphStore, Result
from trails.store.queries import find
from trails.store.traces import TraceStore
from trails.subgraph import Selection, select


class Home:
    """A folder of trails with its graph: what Python code works with.

    Use as a context manager. Nothing is measured here and nothing is written, except by :meth:`export` to its own file.
    """

    def __init__(self, home: str | Path | None = None, **settings: Any) -> None:
        """Open the home at ``home`` (default: as the command line finds it). ``settings`` are those of :class:`Settings`.

        Raises StoreError if the folder is no home of trails or is of a newer version.
        """
        self.settings = load_settings(home=Path(home) if home is not None else None, **settings)
        self._traces = TraceStore(self.settings.home)
        self._graph: GraphStore | None = None

    def __enter__(self) -> Home:
        """The home itself."""
        self._traces.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the graph and the shards."""
        if self._graph is not None:
            self._graph.close()
            self._graph = None
        self._traces.__exit__(kind, error, trace)

    @property
    def shards(self) -> TraceStore:
        """The trace store."""
        return self._traces

    @property
    def graph(self) -> GraphStore:
        """The graph store, opened at its first use."""
        if self._graph is None:
            self._graph = open_graph(self.settings)
        return self._graph

    def runs(self) -> dict[str, Run]:
        """Measuring instruments by id."""
        return self._traces.runs()

    def run(self, name: str | None = None) -> Run:
        """The run with this id or unique beginning of one; without a name the only run, or the only one without adapter.

        Raises UsageError when there is none, or more than one fits.
        """
        runs = self.runs()
        found = fitting_runs(runs, name)
        if len(found) == 1:
            return found[0]
        known = (
            ", ".join(f"{run.id} ({run.model})" for run in runs.values()) or "none; measure with: trails ingest PATH"
        )
        asked = f"run {name!r}" if name else "a run"
        raise UsageError(f"{asked} was asked for and {len(found)} fit. Runs: {known}.")

    def traces(self, run: str | None = None) -> Iterator[Trace]:
        """Every trace of a run (the only run by default), streamed from the shards."""
        return self._traces.traces(self.run(run).id)

    def trace(self, chain: str, run: str | None = None) -> Trace:
        """One chain: its id, a unique beginning of the id, or SOURCE:RECORD. Raises UsageError if not exactly one fits."""
        of = self.run(run).id
        fitting = sorted(known for known in self._traces.done(of) if known.startswith(chain))
        if not fitting and ":" in chain:
            batches = self._traces.tables(["chain", "source", "source_id"], of)
            rows = (row for batch in batches for row in batch.to_pylist())
            fitting = sorted({row["chain"] for row in rows if f"{row['source']}:{row['source_id']}" == chain})
        if len(fitting) != 1:
            hint = f"{len(fitting)} chains fit: {', '.join(fitting[:5])}" if fitting else "no chain fits"
            raise UsageError(
                f"chain {chain!r} was asked for, {hint}. Ids are listed by: trails query chains-by-roles --limit 20"
            )
        return next(self._traces.traces(of, [fitting[0]]))

    def cypher(self, query: str, parameters: Mapping[str, Any] | None = None) -> Result:
        """Run a read-only Cypher statement."""
        return self.graph.run(query, parameters)

    def query(self, name: str, **parameters: Any) -> Result:
        """Run a query of the library ``cypher/``; ``run`` is filled in when the home has one run."""
        return find(name).execute(self.graph, parameters, runs=self.runs())

    def export(self, selection: str, *, format: str, to: str | Path, **options: Any) -> ExportReport:
        """Write a subgraph as training data, as ``trails export`` does."""
        return export_selection(self.select(selection), self._traces, format, Path(to), **options)

    def select(self, selection: str) -> Selection:
        """A subgraph by its selection, as in ``trails export --subgraph``."""
        return select(self.graph, self._traces, selection)
