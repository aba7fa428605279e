"""A home of trails as Python code works with it: what the commands do, as functions that return records and Arrow tables."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from trails.errors import StoreError, UsageError
from trails.export import ExportReport, export_selection
from trails.export.subgraph import is_selection
from trails.measure.base import MeasureOptions, Segmented
from trails.pipeline.loading import load_variants
from trails.pipeline.measuring import segmented
from trails.pipeline.opened import OpenHome
from trails.pipeline.progress import Progress, Silent
from trails.platform.text import beginning, counted
from trails.schema import Chain, Run, family_key
from trails.store.base import Result
from trails.store.outputs import check_output
from trails.store.queries import bound_parameters, named_query
from trails.store.resolve import Names
from trails.store.traces import TraceStore

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from trails.analyses.agreement import Agreement
    from trails.analyses.anchors import Anchors
    from trails.analyses.basin import Basin
    from trails.analyses.bridge import Bridge
    from trails.analyses.budget import By as WayToChoose
    from trails.analyses.budget import Chosen
    from trails.analyses.capture import Capture, Captures
    from trails.analyses.drift import Drift
    from trails.analyses.effects import Effects
    from trails.analyses.gaps import Gaps
    from trails.analyses.gradient import Gradient
    from trails.analyses.intervention import Intervened
    from trails.analyses.overlaps import Kind, Overlaps
    from trails.analyses.patterns import Patterns
    from trails.analyses.report import Finding
    from trails.analyses.respond import Responses
    from trails.analyses.statemap import StateMap
    from trails.evaluate.difference import Difference
    from trails.evaluate.recall import Recall
    from trails.evaluate.repairs import Repairs
    from trails.export.graph import GraphFiles, GraphFormat
    from trails.measure.intervene import Operation
    from trails.report.html import Written
    from trails.variants import VariantOptions, VariantReport
    from trails.variants.stored import Shown, VariantRun, Version


class Home(OpenHome):
    """A folder of trails with its graph: what Python code works with.

    Use as a context manager. What needs a model opens that of the run at its first use and keeps it (:meth:`scorer`).
    :meth:`overlaps`, :meth:`map` and :meth:`gaps` put their results into the graph, as the commands do; ``write=False`` leaves
    it alone. Else nothing is written, except by :meth:`export` to its own file, by :meth:`calibrate_gaps` into the notes of the
    run, by :meth:`variants`, and by :meth:`diff` with an adapter.
    """

    def cypher(self, query: str, parameters: Mapping[str, Any] | None = None) -> Result:
        """Run a read-only Cypher statement."""
        return self.graph.run(query, parameters)

    def query(self, name: str, **parameters: Any) -> Result:
        """Run a query of the library ``cypher/`` on this home; ``run`` is filled in when the home has one run. ``home=""`` asks
        every home of a shared graph."""
        query = named_query(name)
        return query.execute(self.graph, bound_parameters(query, parameters, self._traces, self.names))

    def export(self, selection: str, *, format: str, to: str | Path, **options: Any) -> ExportReport:
        """Write a subgraph as training data, as ``trails export`` does."""
        return export_selection(self.select(selection), self._traces, format, Path(to), **options)

    def export_graph(
        self,
        selection: str,
        to: str | Path,
        format: GraphFormat | None = None,
        *,
        run: str | None = None,
        tokens: bool = True,
        overwrite: bool = False,
        progress: Progress | None = None,
    ) -> GraphFiles:
        """Write a selection as GEXF, GraphML or Parquet, by default as the ending of the file says; see
        :func:`trails.export.graph.write_graph`."""
        from trails.export.graph import format_of, write_graph

        of, chosen = self.run(run), self.select(selection)
        traces = self._traces.traces(of.id, chosen.chains)
        name = format or format_of(Path(to))
        told, there = progress or Silent(), self._traces.done(of.id)
        told.begin("writing", len(there if chosen.chains is None else there & set(chosen.chains)))
        return write_graph(
            traces, of, chosen, Path(to), name, tokens=tokens, overwrite=overwrite, progress=told.advance
        )

    def write_report(self, *selections: str, to: str | Path, **options: Any) -> Written:
        """Write one offline HTML file, as ``trails report`` does; see :func:`trails.pipeline.reporting.report`."""
        from trails.pipeline.reporting import report

        return report(self, selections, Path(to), **options)

    # --- analyses ----------------------------------------------------------------------------------------------------

    def overlaps(
        self,
        kind: Kind = "exact",
        *,
        min_tokens: int = 10,
        min_steps: int = 3,
        layer: int | None = None,
        run: str | None = None,
        write: bool = True,
        implicit: bool = False,
    ) -> Overlaps:
        """What chains share, compared with what chance alone shares; see :func:`trails.analyses.overlaps.find_overlaps`.

        Raises UsageError for a kind that does not exist, and for ``implicit`` with another kind than skeleton.
        """
        from trails.analyses.overlaps import NEAR_COLUMNS, find_overlaps
        from trails.pipeline.whitening import whitening_of

        of = self.run(run).id
        found = find_overlaps(
            kind,
            self._traces.traces(of, columns=NEAR_COLUMNS if kind == "near" else None),
            min_tokens=min_tokens,
            min_steps=min_steps,
            layer=layer,
            whitening=lambda number: whitening_of(self._traces, of, number),
            implicit=implicit,
        )
        if write:
            options = {"kind": kind, "layer": layer}
            options |= {"min_steps": min_steps} if kind == "skeleton" else {"min_tokens": min_tokens}
            self._write(found.batch(), "overlaps", of, options)
        return found

    def analyse(self, name: str, *, run: str | None = None, write: bool = True, **options: Any) -> Finding:
        """An analysis of :data:`trails.analyses.ANALYSES` by its name, with its own options.

        Raises UsageError for a name that does not exist.
        """
        from trails.analyses import analysis_of

        of, function = self.run(run).id, analysis_of(name)
        found = function(self.traces(of), **options)
        batch = found.batch() if write else None
        if batch is not None:
            given = inspect.signature(function).bind(None, **options)
            given.apply_defaults()
            self._write(batch, name, of, dict(list(given.arguments.items())[1:]))
        return found

    def map(self, k: int = 4, *, run: str | None = None, all_states: bool = False, write: bool = True) -> StateMap:
        """The woven map of all chains; see :func:`trails.analyses.statemap.build`.

        ``all_states`` also writes states that only one chain has.
        """
        found: Any = self.analyse("map", run=run, write=write, k=k, all_states=all_states)
        return found  # type: ignore[no-any-return]  # the table names functions by text

    def gaps(self, *, run: str | None = None, write: bool = True) -> Gaps:
        """Seams where a step seems to be missing, ranked by what :meth:`calibrate_gaps` found, if it was run."""
        from trails.analyses import gaps

        instrument = self.run(run)
        noted = instrument.notes.get(gaps.NOTE)
        found = gaps.find_gaps(self.traces(instrument.id), gaps.calibration_from(noted) if noted else None)
        if write:
            self._write(found.batch(), "gaps", instrument.id, {})
        return found

    def calibrate_gaps(self, *, chains: int = 300, run: str | None = None) -> None:
        """Measure what the scores of gaps are worth on this corpus; kept in the notes of the run."""
        from trails.analyses import gaps

        instrument = self.run(run)
        calibration = gaps.calibrate(self.traces(instrument.id), self.scorer(instrument.id), limit=chains)
        with TraceStore(self.settings.home, write=True) as shards:
            shards.update_run_notes(instrument.id, {gaps.NOTE: calibration.stored()})

    def bridge(
        self,
        start: str,
        goal: str,
        *,
        budget: float | None = None,
        neighbours: int = 4,
        splices: int = 8,
        run: str | None = None,
    ) -> Bridge:
        """The cheapest way between two steps (``CHAIN:STEP``) or chains, re-scored as one text; see
        :func:`trails.analyses.bridge.find_bridge`."""
        from trails.analyses import bridge

        of = self.run(run).id
        graph = bridge.step_graph(self.traces(of), neighbours=neighbours)
        return bridge.find_bridge(
            graph, self.scorer(of), self.names.place(start), self.names.place(goal), budget=budget, splices=splices
        )

    def capture(self, text: str, *, k: int = 4, min_match: int = 6, run: str | None = None) -> Capture:
        """Does a new text follow a known trail? See :func:`trails.analyses.capture.capture`."""
        from trails.analyses.capture import capture, query_of, retrieve
        from trails.analyses.sequences import token_corpus
        from trails.pipeline.whitening import whitening_of

        if not text.strip():
            raise UsageError("an empty text was given. Give a text, or the name of a file that holds one.")
        of = self.run(run).id
        states = self.state_layers(of)
        item = segmented(Chain("captured", "0", "", text.strip()))
        (new,) = self.scorer(of).measure([item], MeasureOptions(states=states))
        found = capture(token_corpus(self.traces(of)), query_of(new), k=k, min_match=min_match)
        nearest, scores, withheld = retrieve(
            self.traces(of), new, whitening=lambda layer: whitening_of(self._traces, of, layer)
        )
        return replace(
            found,
            nearest=nearest,
            scores=(*found.scores, *scores),
            withheld=(*found.withheld, *withheld),
        )

    def captures(
        self, texts: Iterable[tuple[str, str]], *, k: int = 4, min_match: int = 6, run: str | None = None
    ) -> Captures:
        """Do several new texts fall into known trails? ``texts`` are pairs of a label and a text; one row each.

        Raises UsageError when there is no text, and, before a model is loaded, when the run has too few chains.
        """
        from trails.analyses.capture import MIN_CHAINS, MIN_QUERY, SAME, CaptureMap, Captures, capture, query_of
        from trails.analyses.sequences import token_corpus

        of = self.run(run).id
        given = [(label, text) for label, text in texts if text.strip()]
        if not given:
            raise UsageError("no text was given. Give a file with one or more texts.")
        there = len(self._traces.done(of))
        if there < MIN_CHAINS:
            raise UsageError(
                f"{counted(len(given), 'text was', 'texts were')} to be judged, and the map would have "
                f"{counted(there, 'chain')}; {MIN_CHAINS} are needed for "
                "its nulls. Ingest more: trails ingest PATH"
            )
        items = [segmented(Chain("captured", str(number), "", text.strip())) for number, (_, text) in enumerate(given)]
        ready = CaptureMap(token_corpus(self.traces(of)), k, 0)
        measured = self.scorer(of).measure(items, MeasureOptions())
        found = [
            capture(ready, query_of(new), min_match=min_match) if new.n_tokens >= MIN_QUERY else None
            for new in measured
        ]
        short = [label for (label, _), one in zip(given, found, strict=True) if one is None]
        notes = [f"fewer than {MIN_QUERY} tokens, so not judged: {', '.join(short)}"] if short else []
        if own := sum(one is not None and any(note.endswith(SAME) for note in one.notes) for one in found):
            notes.append(
                f"chains of the home that equal a text were left out of its map: {own:,} of {counted(len(given), 'text')}"
            )
        labels, texts_ = zip(*given, strict=True)
        return Captures(labels, tuple(beginning(text, 60) for text in texts_), tuple(found), tuple(notes))

    def basin(
        self, chains: str, *, k: int = 3, after: str | None = None, seed: int = 0, run: str | None = None
    ) -> Basin:
        """How far texts can be disturbed and still fall on their own trail; see :func:`trails.analyses.basin.basin`.

        ``chains`` is a chain, a selection, or the name of a family; ``after`` a run of the same chains after a training.
        Raises UsageError where that has another tokenizer.
        """
        from trails.analyses.basin import basin

        of = self.run(run)
        families = {row[3] for row in self.names.rows if row[3]}
        named = not is_selection(chains) and family_key(chains.strip()) in families
        wanted = self.chosen(f"family:{chains.strip()}" if named else chains, of.id)
        later = self.other(after, of.id) if after is not None else None
        if later is not None and later.tokenizer != of.tokenizer:
            raise UsageError(
                f"runs {of.id} and {later.id} have different tokenizers, so their tokens cannot be compared."
            )
        trained = {t.chain.id: t for t in self._traces.traces(later.id, wanted)} if later else None
        return basin(self.traces(of.id), wanted, after=trained, k=k, seed=seed)

    def patterns(
        self, *, variants: str | None = None, each: int = 6, seed: int = 0, run: str | None = None
    ) -> Patterns:
        """Are versions of a family one pattern in state space? See :func:`trails.analyses.patterns.patterns`.

        With ``variants``, the id of stored ones, the first ``each`` accepted of every chain are measured now, and are the
        families, with their chain. Raises UsageError where the run keeps no states, or has none of the chains.
        """
        from trails.analyses.patterns import patterns

        of = self.run(run)
        if variants is None:
            return patterns(self.traces(of.id), seed=seed)
        from trails.export.variant_rows import stored_variants, variant_tables

        states = self.state_layers(of.id)
        if not states:
            raise UsageError(
                f"run {of.id} keeps no states to compare variants in. Measure them: trails ingest PATH --states 16 --home NEW"
            )
        items = []
        for table in variant_tables(stored_variants(self._traces, variants), of, each):
            for row in table.select(["chain", "text", "metadata"]).to_pylist():
                parent = dict(row["metadata"] or ()).get("parent", "")
                items.append(segmented(Chain("variants", row["chain"], "", row["text"], family=parent)))
        scorer = self.scorer(of.id)
        made = scorer.measure(items, MeasureOptions(states=states))
        own = {
            trace.chain.id: replace(trace, chain=replace(trace.chain, family=trace.chain.id, source="variants"))
            for trace in self._traces.traces(of.id, sorted({item.chain.family for item in items}))
        }
        return patterns([*own.values(), *made], seed=seed)

    def drift(self, chain: str, *, against: str | None = None, run: str | None = None) -> Drift:
        """Hidden-state drift of a chain by layer and position, see :mod:`trails.analyses.drift`.

        ``against`` is another run of the same chain.
        """
        from trails.analyses.drift import drift

        trace = self.trace(chain, run)
        return drift(trace, self.trace(trace.chain.id, against) if against is not None else None)

    # --- what is changed, and what depends on what ---------------------------------------------------------------------

    def intervene(self, chains: str, *, layer: int, operation: Operation, **options: Any) -> Intervened:
        """Measure chains with a change inside the model, as ``trails intervene`` does; see
        :func:`trails.pipeline.intervening.intervene`."""
        from trails.pipeline.intervening import intervene

        return intervene(self, chains, layer=layer, operation=operation, **options)

    def anchors(self, chains: str, **options: Any) -> Anchors:
        """Which earlier steps each step of a chain or of a selection needs, as ``trails anchors`` does; see
        :func:`trails.pipeline.anchoring.anchors`."""
        from trails.pipeline.anchoring import anchors

        return anchors(self, chains, **options)

    def respond(self, spans: str, *, probes: str, **options: Any) -> Responses:
        """What spans do to unseen probes, as ``trails respond`` does; see :func:`trails.pipeline.responding.respond`."""
        from trails.pipeline.responding import respond

        return respond(self, spans, probes=probes, **options)

    def agreement(self, runs: Sequence[str] = (), **options: Any) -> Agreement:
        """What several runs agree on, as ``trails agreement`` does; see :func:`trails.pipeline.consilium.agree`."""
        from trails.pipeline.consilium import agree

        return agree(self, runs, **options)

    def effects(
        self,
        names: Sequence[str] = (),
        *,
        after: str | None = None,
        seed: int = 0,
        run: str | None = None,
        write: bool = True,
    ) -> Effects:
        """Look for effects of the registry in a run, see :func:`trails.analyses.effects.scan`; ``after`` is a run after a
        training.
        """
        from trails.analyses.effects import scan

        of = self.run(run).id
        second = self.other(after, of).id if after is not None else ""
        found = scan(
            lambda: self._traces.traces(of),
            names,
            run=of,
            after=(lambda: self._traces.traces(second)) if second else None,
            after_run=second,
            seed=seed,
        )
        batch = found.batch() if write else None
        if batch is not None:
            self.put(batch)
        return found

    def select_within(self, budget: int, by: WayToChoose, **options: Any) -> Chosen:
        """Choose chains within a budget of tokens, as ``trails select`` does; see
        :func:`trails.pipeline.selecting.select_within`."""
        from trails.pipeline.selecting import select_within

        return select_within(self, budget, by, **options)

    def gradient(
        self, chain: str, *, target: str = "conclusion", replace: int = 48, integrate: int = 0, run: str | None = None
    ) -> Gradient:
        """What every token of a chain contributes to a target, beside real replacements; see
        :func:`trails.analyses.gradient.gradient`."""
        from trails.analyses.gradient import gradient

        trace = self.trace(chain, run)
        item = Segmented(trace.chain, trace.steps)
        return gradient(self.scorer(trace.run), item, target=target, replace=replace, integrate=integrate)

    # --- variants, and what a training did -----------------------------------------------------------------------------

    def variants(
        self,
        selection: str,
        options: VariantOptions | None = None,
        *,
        to: str | Path | None = None,
        run: str | None = None,
        each: Callable[[VariantReport], None] = lambda _: None,
    ) -> tuple[Sequence[VariantReport], VariantRun]:
        """Microvariants of a chain, named in any way, or of every chain of a selection, and the run in which
        they are stored: in the home's folder ``variants`` and with the drift map in the graph, or in the Parquet file ``to``
        only. ``each`` is told every report as it is made. An interrupt stores what was finished and says so. Raises
        UsageError for a selection without a measured chain.
        """
        from trails.variants import VariantOptions
        from trails.variants.files import check_variant_file, variant_table, write_variants
        from trails.variants.stored import read_variant_run, variant_run_id

        options = options or VariantOptions()
        if to:
            check_output(Path(to))
            check_variant_file(Path(to))
        instrument = self.run(run)
        text = selection if is_selection(selection) else f"chain:{self.names.chain(selection, instrument.id)}"
        chosen = self.select(text).chains  # a selection that finds nothing says so before a model is loaded
        if not to:
            self.check_graph()
        scorer = self.language_model(instrument.id)
        from trails.variants.measuring import make_variants  # imports torch

        reports, tables = [], []
        interrupted = False
        try:
            for trace in self._traces.traces(instrument.id, chosen):
                report = make_variants(scorer, Segmented(trace.chain, trace.steps), options)
                asked = trace.question_token_ids.tolist()
                tables.append(variant_table(report, instrument.id, instrument.tokenizer, asked))
                reports.append(report)
                each(report)
        except KeyboardInterrupt:
            interrupted = True
            tables = tables[: len(reports)]
            if not reports:
                raise KeyboardInterrupt(
                    "interrupted before the variants of a chain were finished; nothing is kept"
                ) from None
        if not reports:
            raise UsageError(f"selection {text!r} holds no chain that run {instrument.id} measured. Run: trails status")
        made_ids = {variant.chain.id for report in reports for variant in report.variants}
        if not interrupted and (unknown := sorted(set(options.accept) - made_ids)):
            raise UsageError(
                f"variant {unknown[0]!r} was to be accepted, but was not made from {text!r} with these options. "
                f"Take ids from the "
                "file of rejected variants that the same command names without --accept."
            )
        name = variant_run_id(instrument.id, options, (report.chain for report in reports))
        path = Path(to) if to else self._traces.variant_file(name)
        write_variants(tables, reports, path)
        if not to:
            self.graph.ensure_schema()
            load_variants(self.graph, path)
            self.graph.save()
        if interrupted:
            made = sum(len(report.accepted) for report in reports)
            raise KeyboardInterrupt(
                f"interrupted: {counted(made, 'accepted variant')} of "
                f"{counted(len(reports), 'chain is', 'chains are')} kept in {path}"
                + ("" if to else f", as {name}")
                + "; those of the other chains were not made. The same command makes all of them again"
            )
        return reports, read_variant_run(path, "" if to else name)

    def shown_variants(self, name: str) -> Sequence[Shown]:
        """The variants stored under an id (``v…``) with their edits marked, the most volatile first."""
        from trails.export.variant_rows import stored_variants
        from trails.variants.stored import read_variant_run, shown_variants

        path = stored_variants(self._traces, name)
        run = read_variant_run(path, name).run
        roots = sorted(
            {dict(row)["parent"] for row in pq.read_table(path, columns=["metadata"])["metadata"].to_pylist()}
        )
        texts = {trace.chain.id: trace.chain.text for trace in self._traces.traces(run, roots)} if roots else {}
        return shown_variants(path, texts)

    def versions(self, chain: str) -> Sequence[Version]:
        """The other chains of a chain's family, the source's own versions of it, with their differences from it marked."""
        from trails.variants.stored import Version, marked_edits

        one = self.names.chain(chain)
        family = next(row[3] for row in self.names.rows if row[2] == one)
        others = [row for row in self.names.rows if family and row[3] == family and row[2] != one]
        texts: dict[str, str] = {}
        for table in self._traces.tables(["chain", "text"], chains=[one, *(row[2] for row in others)]):
            texts |= dict(zip(table["chain"].to_pylist(), table["text"].to_pylist(), strict=True))
        return [Version(row[2], row[0], row[1], marked_edits(texts[one], texts[row[2]])) for row in others]

    def variant_run(self, name: str) -> VariantRun:
        """A run of the microvariant loop that the home holds. Raises UsageError that names those there are."""
        from trails.export.variant_rows import stored_variants
        from trails.variants.stored import read_variant_run

        return read_variant_run(stored_variants(self._traces, name), name)

    def diff(
        self,
        before: str | None = None,
        after: str | None = None,
        *,
        adapter: Path | None = None,
        export: Path | None = None,
        unrelated: Sequence[str] = (),
        noise: int = 8,
        kl: int = 16,
        checkpoints: bool = False,
        top: int = 20,
        progress: Progress | None = None,
    ) -> Difference:
        """What changed between two runs, or between a run and what an ``adapter`` makes of its chains.

        With an adapter every chain of the first run is measured once more, into the shards and the graph as a second run.
        ``export`` is the file that was trained on, ``unrelated`` are sources of unrelated text. See
        :func:`trails.evaluate.diff.compare`. Raises UsageError unless exactly one of ``after`` and ``adapter`` is given,
        and for an ``export`` that the adapter was not trained on.
        """
        from trails.evaluate.groups import check_trained, fed_of, groups_of

        if (adapter is None) == (after is None):
            raise UsageError("give two runs, or one run (or none, if there is only one) and --adapter FOLDER.")
        first = self.run(before, "trails diff ID …")
        if after is not None:
            self.run(after)  # a wrong name is told before torch is imported
        if adapter is not None:
            check_trained([adapter], first, export)
        sources: dict[str, str] = {}
        for table in self._traces.tables(["chain", "source"], first.id):
            sources |= dict(zip(table["chain"].to_pylist(), table["source"].to_pylist(), strict=True))
        fed = fed_of(export, adapter)
        groups = groups_of(sources, export, unrelated, fed.never)
        if adapter is not None:
            from trails.pipeline.again import measure_again

            trained = self._like(first, adapter)
            second = trained.run.id
            self.close_graph()  # the embedded graph has one writer
            # with the states that the first run keeps: what needs them could not be compared
            measure_again(self.settings, first, trained, progress, states=self.state_layers(first.id))
            del trained
        else:
            second = self.other(after, first.id).id
        from trails.evaluate.difference import difference

        found = difference(
            lambda: self._traces.traces(first.id),
            self._traces.traces(second),
            groups,
            lambda: self._model_of(first),
            adapter=adapter,
            noise=noise,
            kl=kl,
            checkpoints=checkpoints,
            top=top,
            fed=fed,
        )
        self._keep_noise(first, found, noise)
        return found

    def _keep_noise(self, run: Run, found: Difference, chains: int) -> None:
        """Keep the noise floor of a diff in the notes of its first run, for the page of a comparison."""
        from trails.report.html import NOISE_NOTE

        note = {"surprisal": found.report.noise, "surprisal_mean": found.report.noise_mean, "chains": chains}
        if not math.isfinite(found.report.noise) or run.notes.get(NOISE_NOTE) == note:
            return
        try:
            with TraceStore(self.settings.home, write=True) as shards:
                shards.update_run_notes(run.id, {NOISE_NOTE: note})
        except StoreError as error:  # of a home that is only read, or that another command writes to
            logger.warning("the noise floor is not kept for trails report --compare: %s", error)

    def recall(
        self,
        selection: str,
        adapter: Path,
        *,
        shuffled: Path | None = None,
        export: Path | None = None,
        max_tokens: int = 1024,
        run: str | None = None,
    ) -> Recall:
        """Prefix to conclusion on the chains of a selection, against the untrained model and the adapter ``shuffled``; see
        :mod:`trails.evaluate.recall`. Chains of ``export``, the file that was trained on, are left out.
        """
        from trails.evaluate.groups import check_trained

        known = self.run(run)
        check_trained([adapter, *([shuffled] if shuffled else [])], known, export)
        from trails.evaluate.recall import recall_of

        chains = self.select(selection).chains
        items = [Segmented(trace.chain, trace.steps) for trace in self._traces.traces(known.id, chains)]
        selected = len(Names(self._traces).rows if chains is None else chains)
        return recall_of(
            *(items, self._model_of(known), adapter),
            shuffled=shuffled,
            exported=export,
            max_tokens=max_tokens,
            selected=selected,
        )

    def repairs(
        self,
        selection: str,
        adapter: Path,
        *,
        export: Path | None = None,
        tokens: int = 128,
        most: int = 200,
        run: str | None = None,
    ) -> Repairs:
        """Two attempts at the questions of a selection, of the untrained model and of the adapter; see
        :mod:`trails.evaluate.repairs`. Chains of ``export``, the file that was trained on, are left out.
        """
        from trails.evaluate.groups import check_trained

        known = self.run(run)
        check_trained([adapter], known, export)
        from trails.evaluate.repairs import repairs_of

        traces = self._traces.traces(known.id, self.select(selection).chains)
        items = [Segmented(trace.chain, trace.steps) for trace in traces]
        return repairs_of(items, self._model_of(known), adapter, exported=export, tokens=tokens, most=most)
