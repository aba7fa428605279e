"""An open home: its settings, shards, graph, runs, chains and models. What the parts of the pipeline work on."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from trails.config import load_settings
from trails.errors import UsageError
from trails.export.subgraph import Selection, is_selection, needs_graph, select
from trails.measure import open_scorer
from trails.measure.base import Scorer
from trails.measure.remembered import model_to_open
from trails.pipeline.results import write_results
from trails.schema import Run, Trace
from trails.store import open_graph
from trails.store.base import GraphBatch, GraphStore
from trails.store.resolve import Names, measured_runs, run_of
from trails.store.scope import OWNED, Scope, now, owned
from trails.store.traces import TraceStore

if TYPE_CHECKING:
    from trails.measure.huggingface import HuggingFaceScorer


class OpenHome:
    """A folder of trails with its graph, open. Use as a context manager. What needs a model opens that of the run at its first
    use and keeps it (:meth:`scorer`).
    """

    def __init__(self, home: str | Path | None = None, **settings: Any) -> None:
        """Open the home at ``home`` (default: as the command line finds it). ``settings`` are those of :class:`Settings`.

        Raises StoreError if the folder is no home of trails or is of a newer version.
        """
        self.settings = load_settings(home=Path(home) if home is not None else None, **settings)
        self._traces = TraceStore(self.settings.home)
        self._graph: GraphStore | None = None
        self._scorers: dict[str, Scorer] = {}
        self._names = Names(self._traces)

    def __enter__(self) -> Self:
        """The home itself."""
        self._traces.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the graph and the shards; on the way out of an exception the graph is not saved."""
        if self._graph is not None and error is not None:
            self._graph.__exit__(kind, error, trace)
            self._graph = None
        self.close_graph()
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
        """Measuring instruments by id: those that measured a chain."""
        return measured_runs(self._traces)

    def run(self, name: str | None = None, another: str = "--run ID") -> Run:
        """The run with this id, unique beginning of one, or name; without a name the only run, or the only one without adapter.
        Where there are others, that it was taken is logged, with ``another``: how the user names one.

        Raises UsageError when there is none, or more than one fits.
        """
        return run_of(self.runs(), name, another)

    def other(self, name: str | None, run: str) -> Run:
        """The run ``name`` to be compared with the run of id ``run``. Raises UsageError where they are the same."""
        found = self.run(name)
        if found.id == run:
            raise UsageError(
                f"run {run} was given twice, so there is nothing to compare. Runs: {', '.join(self.runs())}"
            )
        return found

    def traces(self, run: str | None = None) -> Iterator[Trace]:
        """Every trace of a run (the only run by default), streamed from the shards."""
        return self._traces.traces(self.run(run).id)

    def state_layers(self, run: str | None = None, chains: Collection[str] | None = None) -> tuple[int, ...]:
        """Layers whose step states the chains of a run (all by default) keep, those of most of them where they differ; () where
        none keeps any.
        """
        from trails.analyses.sequences import usual_layers

        tables = self._traces.tables(["state_layers"], self.run(run).id, chains, rows=10_000)
        return usual_layers(tuple(of or ()) for table in tables for of in table["state_layers"].to_pylist())

    def trace(self, chain: str, run: str | None = None) -> Trace:
        """One chain, named in any way that :mod:`trails.store.resolve` knows. Raises UsageError if not exactly one fits."""
        of = self.run(run).id
        return next(self._traces.traces(of, [self.names.chain(chain, of)]))

    @property
    def names(self) -> Names:
        """The chains of the home by everything that names them."""
        return self._names

    def select(self, selection: str) -> Selection:
        """A subgraph by its selection, as in ``trails export --subgraph``."""
        return select(self.graph if needs_graph(selection) else None, self._traces, selection)

    def chosen(self, text: str, run: str | None = None) -> list[str]:
        """Ids of the chains of a run that a text chooses: one chain, named in any way, or a selection; sorted.

        Raises UsageError where the run measured none of them.
        """
        of = self.run(run).id
        if not is_selection(text):
            return [self.names.chain(text, of)]
        there = self._traces.done(of)
        wanted = self.select(text).chains
        found = sorted(there if wanted is None else there & set(wanted))
        if not found:
            raise UsageError(f"selection {text!r} holds no chain that run {of} measured. Run: trails status")
        return found

    # --- models ------------------------------------------------------------------------------------------------------

    def scorer(self, run: str | None = None) -> Scorer:
        """The instrument of a run (the only run by default), to measure something new with: its model, number format and
        context policy. The model is that of the settings, else the one that the run names.

        Raises UsageError for a run with an adapter, and when the model found has other weights or another tokenizer.
        """
        known = self.run(run)
        if known.id not in self._scorers:
            self._scorers[known.id] = self._like(known)
        return self._scorers[known.id]

    def _like(self, known: Run, adapter: Path | None = None) -> Scorer:
        """A new scorer with the model and the policies of a run, and with an adapter where one is given. Who asks for it may
        change the model."""
        if known.adapter:
            raise UsageError(
                f"run {known.id} measured {known.model} with an adapter, and adapters are not kept. Choose a run without: "
                f"{', '.join(r.id for r in self.runs().values() if not r.adapter)}"
            )
        if known.intervention:
            raise UsageError(
                f"run {known.id} measured {known.model} with an intervention, which this command cannot repeat. "
                f"Choose a run "
                f"without: {', '.join(r.id for r in self.runs().values() if not r.intervention)}"
            )
        model, revision = model_to_open(known, self.settings.model)
        found = open_scorer(
            model,
            device=self.settings.device,
            dtype=known.dtype,  # type: ignore[arg-type]  # a run holds what open_scorer was given
            attention=known.attention,  # type: ignore[arg-type]
            bos=known.bos,
            template=known.template,
            window=known.window,
            think=known.think,
            control_tokens=known.control_tokens,
            adapter=adapter,
            revision=revision,
        )
        if (found.run.revision, found.run.tokenizer) != (known.revision, known.tokenizer):
            raise UsageError(
                f"run {known.id} was measured with {known.model} (weights {known.revision[:12]}), the model at {model} is "
                f"{found.run.model} (weights {found.run.revision[:12]}). Give the model of that run with --model, or choose "
                "another run with --run."
            )
        if found.run.model != known.model:
            # the same weights under another name, as a folder that was renamed: what is measured now is of the same run
            found.run = replace(found.run, model=known.model)
        return found

    def _model_of(self, known: Run) -> HuggingFaceScorer:
        """As :meth:`_like`, for what needs the model itself. Raises UsageError for a run without one."""
        found = self._like(known)
        return self._language_model(found, known)

    def own_model(self, run: str | None = None) -> HuggingFaceScorer:
        """As :meth:`language_model`, opened for the caller alone, who may change it."""
        return self._model_of(self.run(run))

    def trained_model(self, adapter: Path, run: str | None = None) -> HuggingFaceScorer:
        """The model of a run with an adapter, opened once more."""
        known = self.run(run)
        return self._language_model(self._like(known, adapter), known)

    def language_model(self, run: str | None = None) -> HuggingFaceScorer:
        """As :meth:`scorer`, for what needs the model itself. Raises UsageError for a run without one."""
        known = self.run(run)
        return self._language_model(self.scorer(known.id), known)

    @staticmethod
    def _language_model(found: Scorer, known: Run) -> HuggingFaceScorer:
        refusal = UsageError(
            f"run {known.id} was measured by {known.model}, which is not a language model. Choose with --run."
        )
        if not found.run.n_layers:
            raise refusal  # before torch is imported
        from trails.measure.huggingface import HuggingFaceScorer

        if not isinstance(found, HuggingFaceScorer):
            raise refusal
        return found

    def _write(self, batch: GraphBatch, analysis: str, run: str, parameters: Mapping[str, Any]) -> None:
        """Put results of an analysis into the graph, in the place of those of the same home, run and options."""
        scope = Scope(self._traces.identity().id, analysis, run, parameters, self.settings.author, now())
        write_results(self.graph, batch, scope)

    def put(self, batch: GraphBatch) -> None:
        """Put rows that carry their run in their id or key into the graph, in the place of this home's answers to the same
        question, and save it.
        """
        self.graph.ensure_schema()
        batch = owned(batch, self._traces.identity().id)
        for label in OWNED:
            if label in batch.nodes:
                stale = f"MATCH (n:{label}) WHERE n.id IN $ids DETACH DELETE n"
                self.graph.run(stale, {"ids": batch.nodes[label]["id"].to_pylist()}, write=True)
        self.graph.write([batch])
        self.graph.save()

    def check_graph(self) -> None:
        """To be called before the work whose results only the graph will hold. Raises StoreError where its server does not
        answer; the embedded graph is a file of the home.
        """
        if self.settings.store_name == "neo4j":
            self.graph.ensure_schema()

    def close_graph(self) -> None:
        """Save and let go of the graph, so that another part of the program can write it; it is opened again at its next
        use.
        """
        if self._graph is not None:
            self._graph.close()
            self._graph = None
