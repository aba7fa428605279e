"""Read → segment → measure → write.

In one process reading and segmenting run ahead in a thread, shards and graph are written behind in two others, so that the
model waits for none of them; what lies between is bounded, so memory does not grow with the corpus. With a pool of workers
(:mod:`trails.pipeline.many`) this process reads, commits and loads the graph, and the workers do the rest.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

from trails.analyses.gradient import Agreements
from trails.analyses.score import Score, score_record
from trails.config import Settings, load_settings
from trails.errors import InputError, ModelError, StoreError
from trails.export import parse_layers as parse
from trails.measure import open_scorer
from trails.measure.base import MeasureOptions, Scorer, Segmented
from trails.pipeline.as_read import SHOWN_EXAMPLES, example_lines, example_record
from trails.pipeline.blocks import (
    EXTRA_COLUMNS,
    Behind,
    Commit,
    Refuse,
    blocks,
    lacking,
    measured,
    said_kept,
    shard_tokens_of,
    timed,
    with_added,
)
from trails.pipeline.loading import load_missing, time_for_neo4j
from trails.pipeline.progress import Progress, Silent
from trails.pipeline.sharing import MeasuringCrew, MeasuringPool
from trails.platform.spoken import UNKNOWN, spoken
from trails.platform.text import counted, one_line, percent
from trails.platform.threads import ahead
from trails.readers import ReadOptions, ReadReport, read
from trails.schema import Chain, Trace
from trails.segment import described, detect_language, segment, segmenter_hash
from trails.segment.lexicon import packaged_lexicons
from trails.store import open_graph
from trails.store.base import GraphStore
from trails.store.rows import ALL_EDGES_STEPS, STRONGEST, graph_batch, held_by
from trails.store.traces import SOURCE_STEPS, TraceStore

STAGES = ("reading", "model", "segmenting", "tokenising", "measuring", "shards", "graph")
"""Stages whose busy time the summary tells; ``model`` is opening it. With workers that of all of them together; in one process
segmenting and tokenising are not told apart: they run in a thread of their own.
"""

CHARACTERS_PER_TOKEN = 4
"""About so many characters are a token of a model, for what is said before anything is measured."""

BYTES = 256
"""Size of a vocabulary of bytes: there a character is a token."""

GraphTime = Literal["during", "after", "none"]
"""When the graph is loaded: shard by shard behind the measuring, at once when all is measured, or not at all."""


CONTROL_POLICY = {
    "token": "each is taken for the token that it names",
    "text": "each is read as text",
    "refuse": "their chains are left out",
}
"""What a policy for control tokens does with their names, in words."""


@runtime_checkable
class CountsControlTokens(Protocol):
    """A scorer whose tokenizer has control tokens, so that a text can name one."""

    def control_tokens_named(self, item: Segmented) -> int:
        """How many names of control tokens stand in the question and the text of a chain."""


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """What to read and how to measure it. ``dry_run`` reads and segments, and changes nothing.
    ``per_layer`` puts per-layer arrays on token transitions in the graph (the shards always hold them).
    ``keep_source_steps`` splits nothing inside a step that the source gives. ``graph`` says when the graph is loaded; None is
    ``during`` in one process and ``after`` with workers.
    """

    reader: str | None = None
    read: ReadOptions = field(default_factory=ReadOptions)
    measure: MeasureOptions = field(default_factory=MeasureOptions)
    dry_run: bool = False
    keep_source_steps: bool = False
    per_layer: bool = False
    shard_tokens: int = 0
    graph: GraphTime | None = None


@dataclass(slots=True)
class IngestSummary:
    """What an ingest did. Counts are chains unless they say otherwise; ``seconds`` is busy time by stage, in seconds
    (stages overlap, so they may add up to more than ``total``). ``control_tokens`` counts the names of control tokens in the
    questions and texts of the chains that were to be measured, refused ones included; None where the instrument has none to
    tell. ``control_policy`` says what was made of them (:attr:`trails.schema.Run.control_tokens`). ``gradients`` is how well
    the maps taken now agree with what replacing tokens does, over ``gradient_chains``; ``gradient_without`` have no map, or too
    short a one to judge. ``many_steps`` counts chains of so many steps that not all of their pairs are in the graph.
    """

    home: str = ""
    run: str = ""
    model: str = ""
    graph: str = ""
    read: int = 0
    bad: int = 0
    bad_records: tuple[str, ...] = ()
    duplicates: int = 0
    already_measured: int = 0
    added: int = 0
    measured: int = 0
    kept: int = 0
    shards: int = 0
    refused: int = 0
    steps: int = 0
    chain_tokens: int = 0
    sequence_tokens: int = 0
    loaded_from_shards: int = 0
    nll: float = 0.0
    surprisals: int = 0
    vocab_size: int = 0
    control_tokens: int | None = None
    control_policy: str = ""
    languages: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    explicit_steps: int = 0
    many_steps: int = 0
    notes: tuple[str, ...] = ()
    as_read: tuple[Mapping[str, Any], ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    dry_run: bool = False
    gradients: Score | None = None
    gradient_chains: int = 0
    gradient_without: int = 0
    workers: int = 0

    @property
    def mean_surprisal(self) -> float:
        """Nats per measured token of the chains measured now; NaN when none was."""
        return self.nll / self.surprisals if self.surprisals else math.nan

    @property
    def tokens_per_second(self) -> float:
        """Sequence tokens (context included) per second of the whole ingest; NaN when nothing was measured."""
        total = self.seconds.get("total", 0.0)
        return self.sequence_tokens / total if self.sequence_tokens and total else math.nan

    def record(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__}
        controls = {"uniform_surprisal": math.log(self.vocab_size) if self.vocab_size else None}
        return {
            **values,
            "languages": dict(self.languages),
            "roles": dict(self.roles),
            "mean_surprisal": self.mean_surprisal,
            "tokens_per_second": self.tokens_per_second,
            "gradients": score_record(self.gradients) if self.gradients else None,
            **controls,
        }


def summary_lines(summary: IngestSummary) -> Iterator[str]:
    """The summary as a person reads it, every score with its control."""
    s = summary
    yield from (f"note        {one_line(note)}" for note in s.notes)
    bad = f", {s.bad} bad left out" if s.bad else ""
    duplicates = f", {counted(s.duplicates, 'duplicate')}" if s.duplicates else ""
    yield f"read        {counted(s.read, 'chain')}{duplicates}{bad}"
    yield from (f"bad         {one_line(record)}" for record in s.bad_records[:SHOWN_BAD])
    if s.bad > SHOWN_BAD:
        yield f"            and {counted(s.bad - SHOWN_BAD, 'more bad record')}; all of them: --report-file FILE"
    if s.steps:
        roles = ", ".join(f"{role} {count:,}" for role, count in s.roles.most_common())
        languages = ", ".join(f"{_named(language)} {count:,}" for language, count in s.languages.most_common())
        yield (
            f"steps       {s.steps:,}: {roles}; {percent(s.explicit_steps / s.steps)} with a connective; "
            f"languages: {languages}"
        )
    if s.many_steps:
        yield (
            f"bounded     {counted(s.many_steps, 'chain has', 'chains have')} more than "
            f"{ALL_EDGES_STEPS} steps: the graph keeps the {STRONGEST} "
            "strongest earlier steps of each, of those in the shards; these hold all up to 1,024 steps, then the nearest 64"
        )
    if s.dry_run:
        yield "dry run     nothing was measured or written"
        return
    known = f", {s.already_measured:,} were measured before" if s.already_measured else ""
    refused = f", {s.refused} refused" if s.refused else ""
    yield f"measured    {counted(s.measured, 'chain')}, {counted(s.chain_tokens, 'token')} (+ context){known}{refused}"
    if s.measured:
        yield (
            f"surprisal   {s.mean_surprisal:.3f} nats/token "
            f"(a uniform guess over {s.vocab_size:,} tokens: {math.log(s.vocab_size):.3f})"
        )
        yield f"speed       {s.tokens_per_second:,.0f} tokens/s with context; {_seconds_said(s)}"
    if s.control_tokens is not None:
        made = f"; {CONTROL_POLICY[s.control_policy]}" if s.control_tokens else ""
        yield (
            f"control     {counted(s.control_tokens, 'control token')} named in questions and chains "
            f"(--control-tokens {s.control_policy}{made})"
        )
    if s.gradients:
        verdict = "agree" if s.gradients.beyond() else "were not shown to agree"
        without = (
            f"; {counted(s.gradient_without, 'chain')} without one that can be judged" if s.gradient_without else ""
        )
        yield (
            f"gradients   maps of {counted(s.gradient_chains, 'chain')} {verdict} in size with what replacing tokens does: "
            f"mean rank correlation {s.gradients.value:.2f}, shuffled maps reach {s.gradients.controls[0].reach:.2f}{without}"
        )
    elif s.gradient_without:
        yield f"gradients   not judged: none of {counted(s.gradient_without, 'chain')} has a map with enough replaced tokens"
    if s.added:
        yield f"added       {counted(s.added, 'chain')} measured before got the measures that they lacked"
    if s.loaded_from_shards:
        yield (
            f"graph       {counted(s.loaded_from_shards, 'chain was', 'chains were')} in the shards but "
            "not in the graph: loaded"
        )
    yield f"run         {s.run}  {one_line(s.model)}"
    yield f"home        {one_line(s.home)}   graph: {s.graph or f'not loaded; load it with: trails rebuild --home {s.home}'}"


def _count_bad(summary: IngestSummary, report: ReadReport) -> None:
    summary.bad = report.bad
    summary.bad_records = tuple(
        f"{entry.file}{f':{entry.line}' if entry.line else ''}: {entry.message}" for entry in report.entries
    )


SHOWN_BAD = 10
"""Bad records that the summary names."""


def parse_layers(text: str | None) -> tuple[int, ...]:
    """States of layers such as ``16,30`` as numbers; 0 is the input of the first layer. Raises UsageError for anything else."""
    return parse(text, first=0) if text else ()


def segmented(chain: Chain, *, keep_source_steps: bool = False) -> Segmented:
    """A chain with its language (detected unless the source says it) and its steps, with scenes and implicit roles."""
    if not chain.language:
        chain = replace(chain, language=detect_language(chain.text))
    return Segmented(chain, described(chain, segment(chain, keep_source_steps=keep_source_steps)))


def ingest(
    paths: Sequence[str | Path],
    settings: Settings | None = None,
    options: IngestOptions | None = None,
    *,
    scorer: Scorer | None = None,
    make_scorer: Callable[[], Scorer] | None = None,
    known_run: str = "",
    pool: MeasuringPool | None = None,
    progress: Progress | None = None,
) -> IngestSummary:
    """Read chains, measure those that this run has not measured, write shards, load the graph.

    Resumes by itself: what is in the home is not measured again. Input is read once to find what is new, before the model
    is loaded, so that a bad record is reported at once; standard input is kept in memory for that. A kill loses at most the
    shard in flight. ``scorer`` measures; without one ``make_scorer`` (default: by the settings) is called, after the input
    was read. ``known_run`` is the id of the run that this scorer would measure as, where it is known
    (:func:`trails.measure.remembered.remembered`): if that run has measured everything already, no scorer is made. With
    ``pool`` its workers measure, and this process opens a model only to add measures to chains that were measured before.

    Raises InputError for input that cannot be read, ModelError for a model or a chain that it cannot measure, StoreError
    when shards or the graph cannot be written. Chains that the model cannot measure count as bad records.
    """
    settings = settings or load_settings()
    options = options or IngestOptions()
    progress = progress or Silent()
    summary = IngestSummary(home=str(settings.home), dry_run=options.dry_run)
    began = time.perf_counter()
    report = ReadReport()

    kept: list[Chain] | None = [] if any(str(path) == "-" for path in paths) else None
    pending: dict[str, int] = {}
    shown = 0
    with timed(summary.seconds, "reading"):
        for chain in read(paths, reader=options.reader, options=options.read, report=report):
            summary.read += 1
            while shown < min(len(report.examples), SHOWN_EXAMPLES):
                # before the model is loaded, so that a wrong reading costs seconds
                for line in example_lines(report.examples[shown]):
                    progress.note(one_line(line))
                shown += 1
            if chain.id in pending:
                summary.duplicates += 1
                continue
            pending[chain.id] = len(chain.text)
            if kept is not None:
                kept.append(chain)
            if options.dry_run:
                _count(summary, segmented(chain, keep_source_steps=options.keep_source_steps))
    _count_bad(summary, report)
    summary.notes = tuple(report.notes)
    summary.as_read = tuple(map(example_record, report.examples))
    if report.bad and not pending:
        first = report.entries[0]
        at = f"{first.file}:{first.line}" if first.line else first.file
        raise InputError(
            f"no chain was read: {counted(report.bad, 'bad record')} and no good one. The first: {at}: {first.message}"
        )
    if options.dry_run:
        summary.seconds["total"] = time.perf_counter() - began
        return summary

    with TraceStore(settings.home, write=True) as traces:
        try:
            _measure_into(
                traces,
                pending,
                kept,
                paths,
                settings,
                options,
                scorer,
                make_scorer,
                known_run,
                pool,
                summary,
                progress,
                report,
            )
        finally:
            traces.give_up_if_empty()
    _count_bad(summary, report)
    summary.seconds["total"] = time.perf_counter() - began
    return summary


def _seconds_said(summary: IngestSummary) -> str:
    """The seconds of the stages and in all, and why the ones do not add up to the other."""
    stages = {stage: round(summary.seconds[stage], 1) for stage in STAGES if stage in summary.seconds}
    total = round(summary.seconds["total"], 1)
    rest = round(total - sum(stages.values()), 1)
    said = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in stages.items())
    if summary.workers:
        return f"{said}; {total:.1f} s in all; {counted(summary.workers, 'worker')}, whose seconds are added up"
    if rest < 0:
        return f"{said}, some of them side by side; {total:.1f} s in all"
    return f"{said}, the rest {rest:.1f} s; {total:.1f} s in all"


def _named(language: str) -> str:
    """A language as it is printed; of one without a lexicon it says how its chains are split."""
    code = language.lower().replace("_", "-").partition("-")[0]
    return (
        language
        if language == UNKNOWN or code in packaged_lexicons()
        else f"{one_line(language)} (no lexicon: lines and sentences only)"
    )


def _measure_into(
    traces: TraceStore,
    pending: Mapping[str, int],
    kept: list[Chain] | None,
    paths: Sequence[str | Path],
    settings: Settings,
    options: IngestOptions,
    scorer: Scorer | None,
    make_scorer: Callable[[], Scorer] | None,
    known_run: str,
    pool: MeasuringPool | None,
    summary: IngestSummary,
    progress: Progress,
    report: ReadReport,
) -> None:
    traces.set_segmenter(segmenter_hash() + (SOURCE_STEPS if options.keep_source_steps else ""))
    time_of_graph = options.graph or ("after" if pool else "during")
    known = traces.runs().get(known_run)
    whole = known is not None and pending.keys() <= traces.done(known.id)
    if scorer is None and known is not None and whole and not _lacking(traces, known.id, pending, options):
        # opening the model would only tell which run this is
        summary.run, summary.model, summary.vocab_size = known.id, known.model, known.vocab_size
        summary.already_measured = len(pending)
        if time_of_graph != "none":
            with open_graph(settings) as store:
                _fill_graph(traces, store, options, summary, progress)
        return

    def open_model() -> Scorer:
        with timed(summary.seconds, "model"):
            return make_scorer() if make_scorer else scorer_from(settings)

    with contextlib.ExitStack() as held:
        crew: MeasuringCrew | None = None
        if pool is not None:
            pool.take_left(traces)
            crew = held.enter_context(pool.crew(settings, traces, progress))
            with timed(summary.seconds, "model"):
                crew.open()
            run, summary.workers = crew.run, pool.workers
        else:
            scorer = scorer or open_model()
            run = scorer.run
        summary.run, summary.model, summary.vocab_size = run.id, run.model, run.vocab_size
        summary.control_policy = run.control_tokens
        traces.check_run(run)
        done = traces.done(run.id)
        summary.already_measured = len(pending.keys() & done)
        todo = {chain: size for chain, size in pending.items() if chain not in done}
        graph: GraphStore | None = None
        adding = bool(_lacking(traces, run.id, pending.keys() & done, options))
        if time_of_graph == "during" or (adding and time_of_graph == "after"):
            graph = held.enter_context(open_graph(settings))
            graph.ensure_schema()
            summary.loaded_from_shards = load_missing(traces, graph, per_layer=options.per_layer, progress=progress)
        if adding:
            scorer = scorer or open_model()
            add_measures(pending.keys() & done, scorer, traces, graph, options, summary, progress, report)
        during = graph if time_of_graph == "during" else None
        if todo and time_of_graph != "none" and settings.store_name == "embedded":
            expected = sum(todo.values()) // (1 if run.vocab_size == BYTES else CHARACTERS_PER_TOKEN)
            if said := time_for_neo4j(traces.n_tokens() + expected, per_layer=options.per_layer):
                progress.note(said)
        if todo:
            # the second reading meets the same bad records; they are reported already
            quietly = replace(options.read, report_file=None)
            again = kept if kept is not None else read(paths, reader=options.reader, options=quietly)
            progress.begin("measuring", sum(todo.values()))
            fresh = _new_only(again, set(todo))
            try:
                if crew is not None:
                    _measure_with(crew, fresh, traces, during, options, summary, progress, report)
                elif scorer is not None:
                    split = partial(segmented, keep_source_steps=options.keep_source_steps)
                    measure_and_write(map(split, fresh), scorer, traces, during, options, summary, progress, report)
            except KeyboardInterrupt:
                if graph is not None:
                    graph.save()
                rest = len(todo) - summary.kept - summary.refused
                raise KeyboardInterrupt(
                    f"interrupted: {said_kept(summary.kept, summary.shards)} of "
                    f"{settings.home}; {rest:,} are left. The same command again measures only those"
                ) from None
        if run.id in traces.runs():
            traces.update_run_notes(run.id, crew.notes if crew is not None else scorer.run.notes if scorer else {})
        if crew is not None:
            crew.close()  # the graph needs no worker, and the memory is needed
        if time_of_graph != "none":
            if graph is None:
                graph = held.enter_context(open_graph(settings))
            _fill_graph(traces, graph, options, summary, progress, fill=time_of_graph == "after")


def _fill_graph(
    traces: TraceStore,
    graph: GraphStore,
    options: IngestOptions,
    summary: IngestSummary,
    progress: Progress,
    *,
    fill: bool = True,
) -> None:
    """Save the graph, with ``fill`` after loading what it misses."""
    summary.graph = graph.address
    with timed(summary.seconds, "graph"):
        if fill:
            graph.ensure_schema()
            loaded = load_missing(traces, graph, per_layer=options.per_layer, progress=progress)
            summary.loaded_from_shards += max(0, loaded - summary.kept)
        graph.save()


def _measure_with(
    crew: MeasuringCrew,
    chains: Iterable[Chain],
    traces: TraceStore,
    graph: GraphStore | None,
    options: IngestOptions,
    summary: IngestSummary,
    progress: Progress,
    report: ReadReport,
) -> None:
    """As :func:`measure_and_write`, by workers: they segment, measure and make shards; the graph is loaded here behind them."""
    tokens = options.shard_tokens or crew.tokens
    run_is_new = crew.run.id not in traces.runs()
    traces.put_run(crew.run)
    maps = Agreements()
    try:
        with Behind(traces, graph, per_layer=options.per_layer, seconds=summary.seconds) as behind:
            for portion in crew.measure(
                chains, options.measure, tokens=tokens, keep_source_steps=options.keep_source_steps
            ):
                if portion.name:
                    summary.kept += portion.counted["measured"]
                    summary.shards += 1
                    behind.load(f"{portion.name}.parquet")
                    if options.measure.gradients:
                        for trace in traces.shard(f"{portion.name}.parquet"):
                            maps.add(trace)
                _add_counts(summary, portion.counted, portion.seconds)
                for chain, reason in portion.refused:
                    _refuse(chain, reason, summary, report)
                progress.advance(portion.characters, tokens=portion.counted["sequence_tokens"])
    except (StoreError, ModelError) as error:
        raise type(error)(f"{error}. In {traces.home} {said_kept(summary.kept, summary.shards)}") from error
    finally:
        _judge(summary, maps)
        if run_is_new and not summary.kept and not traces.done(crew.run.id):
            traces.drop_run(crew.run.id)  # a run without chains is no run


def _add_counts(summary: IngestSummary, counted: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
    """Add what a worker counted."""
    for name, value in counted.items():
        if isinstance(value, Mapping):
            getattr(summary, name).update(value)
        elif value is not None:
            setattr(summary, name, (getattr(summary, name) or 0) + value)
    for stage, busy in seconds.items():
        summary.seconds[stage] = summary.seconds.get(stage, 0.0) + busy


def scorer_from(settings: Settings, **changes: Any) -> Scorer:
    """The scorer that the settings ask for."""
    return open_scorer(settings.model, device=settings.device, dtype=settings.dtype, **changes)


def _new_only(chains: Iterable[Chain], wanted: set[str]) -> Iterator[Chain]:
    """Chains whose id is wanted, each once; stops when all were seen."""
    for chain in chains:
        if chain.id in wanted:
            wanted.remove(chain.id)
            yield chain
            if not wanted:
                return


def _count(summary: IngestSummary, item: Segmented) -> None:
    summary.steps += len(item.steps)
    summary.languages[spoken(item.chain.language, item.chain.text)] += 1
    summary.many_steps += len(item.steps) > ALL_EDGES_STEPS
    for step in item.steps:
        summary.roles[step.role.value] += 1
        summary.explicit_steps += step.explicit


def measure_and_write(
    items: Iterable[Segmented],
    scorer: Scorer,
    traces: TraceStore,
    graph: GraphStore | None,
    options: IngestOptions,
    summary: IngestSummary,
    progress: Progress,
    report: ReadReport,
) -> None:
    """Measure chains and write them shard by shard, into the graph too where one is given; count into ``summary``. Chains that
    cannot be measured are bad records of ``report``.

    What was measured is written, whatever ends the work; a StoreError says what is kept.
    """

    refuse = _refusing(summary, report)
    tokens = shard_tokens_of(scorer, options.shard_tokens)
    maps = Agreements()
    if isinstance(scorer, CountsControlTokens):
        items = _counting_control_tokens(items, scorer, summary)
    commit = Commit(traces, graph, scorer.run, tokens=tokens, per_layer=options.per_layer, seconds=summary.seconds)
    try:
        with commit:
            for block in ahead(blocks(items, scorer, tokens, refuse)):
                portions = measured(block, scorer, options.measure, refuse)
                while True:
                    with timed(summary.seconds, "measuring"):
                        portion = next(portions, None)
                    if portion is None:
                        break
                    commit.add(portion)
                    for trace in portion:
                        count_measured(summary, trace)
                        maps.add(trace)
                        progress.advance(len(trace.chain.text), tokens=trace.n_tokens + trace.n_context)
    except StoreError as error:
        raise StoreError(f"{error}. In {traces.home} {commit.kept()}") from error
    finally:
        summary.kept += commit.chains
        summary.shards += commit.shards
        _judge(summary, maps)


def _judge(summary: IngestSummary, maps: Agreements) -> None:
    """Put what the maps taken now say into the summary, unless none was asked for."""
    if maps.n_chains or maps.without:
        summary.gradients, summary.gradient_chains = maps.score(), maps.n_chains
        summary.gradient_without = maps.without


def add_measures(
    chains: Collection[str],
    scorer: Scorer,
    traces: TraceStore,
    graph: GraphStore | None,
    options: IngestOptions,
    summary: IngestSummary,
    progress: Progress,
    report: ReadReport,
) -> None:
    """Add the measures on request that ``options`` ask for and stored chains of the run lack; what is stored stays as it is. A
    chain that cannot be measured so is a bad record of ``report``.

    A shard at a time is replaced by one that holds more; what was measured is kept, whatever ends the work.
    """
    run = scorer.run
    wanted = _lacking(traces, run.id, chains, options)
    if not wanted:
        return
    progress.begin("adding measures", sum(wanted.values()))
    runs = traces.runs()
    left, refuse = set(wanted), _refusing(summary, report)
    maps = Agreements()
    for name in traces.shards_of({(chain, run.id) for chain in wanted}):
        twice = False
        held: dict[tuple[str, str], Trace] = {}
        more: dict[MeasureOptions, list[Trace]] = {}
        for trace in traces.shard(name):
            key = (trace.chain.id, trace.run)
            if trace.run == run.id and trace.chain.id in wanted:
                if trace.chain.id not in left:
                    twice = True  # another shard holds this chain too, and it was added to there
                    continue
                left.remove(trace.chain.id)
                missing = lacking(trace, options.measure)
                if missing is not None:
                    more.setdefault(missing, []).append(trace)
            held.setdefault(key, trace)
        changed: list[Trace] = []
        try:
            for missing, old in more.items():
                items = [Segmented(trace.chain, trace.steps) for trace in old]
                before = {trace.chain.id: trace for trace in old}
                for portion in measured(items, scorer, missing, refuse):
                    for now in portion:
                        both = with_added(before[now.chain.id], now, missing)
                        held[both.chain.id, both.run] = both
                        changed.append(both)
                        if missing.gradients:
                            maps.add(both)
                        progress.advance(both.n_tokens, tokens=both.n_tokens + both.n_context)
        finally:
            if changed or twice:
                traces.rewrite(name, list(held.values()))
            summary.added += len(changed)
            _judge(summary, maps)
        if graph is not None:
            batch = graph_batch(traces.with_corrections(changed), runs, per_layer=options.per_layer)
            graph.write([held_by(batch, traces.identity())])


def _lacking(traces: TraceStore, run: str, chains: Collection[str], options: IngestOptions) -> dict[str, int]:
    """Stored chains of a run that lack a measure that is asked for, with their tokens."""
    if not chains or replace(options.measure, batch_tokens=0) == MeasureOptions():
        return {}
    return {
        trace.chain.id: trace.n_tokens
        for trace in traces.traces(run, chains, EXTRA_COLUMNS)
        if lacking(trace, options.measure) is not None
    }


def _refusing(summary: IngestSummary, report: ReadReport) -> Refuse:
    """Counts a chain that cannot be measured as a bad record."""

    def refuse(item: Segmented, reason: str) -> None:
        _refuse(item.chain, reason, summary, report)

    return refuse


def _refuse(chain: Chain, reason: str, summary: IngestSummary, report: ReadReport) -> None:
    summary.refused += 1
    report.bad_record(chain.source, chain.line, reason)


def _counting_control_tokens(
    items: Iterable[Segmented], scorer: CountsControlTokens, summary: IngestSummary
) -> Iterator[Segmented]:
    """The items as they come; how many control tokens they name is counted into ``summary``."""
    for item in items:
        summary.control_tokens = (summary.control_tokens or 0) + scorer.control_tokens_named(item)
        yield item


def count_measured(summary: IngestSummary, trace: Trace) -> None:
    """Count a trace that was measured now."""
    _count(summary, Segmented(trace.chain, trace.steps))
    known = trace.surprisal[~np.isnan(trace.surprisal)]
    summary.nll += float(known.sum(dtype=np.float64))
    summary.surprisals += len(known)
    summary.chain_tokens += trace.n_tokens
    summary.sequence_tokens += trace.n_tokens + trace.n_context
    summary.measured += 1
