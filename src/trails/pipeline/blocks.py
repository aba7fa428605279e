"""The measuring stage in three parts, which processes and machines can share out: blocks → measured → commit.

- :func:`blocks` cuts chains into blocks of work; it knows the instrument's window and no store.
- :func:`measured` gives back the traces of a block in portions; it knows the instrument and no store.
- :class:`Commit` writes traces as shards and loads them into the graph, behind the measuring; it knows no instrument.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType

import numpy as np

from trails.errors import StoreError, UnmeasurableError, UsageError
from trails.measure.base import MeasureOptions, Scorer, Segmented
from trails.measure.targets import has_map, kept_target
from trails.pipeline.loading import SHARD_CHAINS
from trails.platform.text import counted
from trails.schema import MEASURES, Run, Trace, with_arrays
from trails.store.base import GraphBatch, GraphStore
from trails.store.rows import graph_batch, held_by
from trails.store.traces import TraceStore

SHARD_TOKENS = {"cpu": 10_000, "cuda": 400_000}
"""Tokens after which a shard is closed."""

SHARD_SECONDS = 60.0
"""Seconds of measuring after which a shard is closed, however few its tokens: what a hard kill can cost."""

Refuse = Callable[[Segmented, str], None]
"""Is told a chain that cannot be measured, and why."""

_ADDING = threading.Lock()


@contextlib.contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the time of the block to a stage."""
    start = time.perf_counter()
    try:
        yield
    finally:
        with _ADDING:
            seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def device_of(scorer: Scorer) -> str:
    """``cpu`` or ``cuda``: the kind of device that a scorer measures on."""
    return str(scorer.run.notes.get("device", "cpu")).split(":")[0]


def shard_tokens_of(scorer: Scorer, asked: int = 0) -> int:
    """Tokens of a shard: as asked, else by the device."""
    return asked or SHARD_TOKENS.get(device_of(scorer), SHARD_TOKENS["cpu"])


def blocks(items: Iterable[Segmented], scorer: Scorer, tokens: int, refuse: Refuse) -> Iterator[list[Segmented]]:
    """Chains in blocks of at least ``tokens`` tokens (the last may have fewer). ``refuse`` is told every chain that the
    instrument cannot measure, as far as that is known before measuring, and why; it is in no block.
    """
    block: list[Segmented] = []
    held = 0
    for item in items:
        try:
            length = scorer.count_tokens(item)
        except UnmeasurableError as error:
            refuse(item, str(error))
            continue
        if scorer.run.window == "refuse" and scorer.run.max_tokens and length > scorer.run.max_tokens:
            refuse(
                item,
                f"chain {item.chain.id} has {counted(length, 'token')} with its context, the model's window is "
                f"{scorer.run.max_tokens}. Use --window stride to measure it in overlapping windows.",
            )
            continue
        block.append(item)
        held += length
        if held >= tokens or len(block) >= SHARD_CHAINS:
            yield block
            block, held = [], 0
    if block:
        yield block


def measured(
    block: Sequence[Segmented], scorer: Scorer, options: MeasureOptions, refuse: Refuse | None = None
) -> Iterator[list[Trace]]:
    """Traces of a block in the order of its chains, in portions as they are ready.

    On a CPU, which measures one chain at a time, a portion is a chain: what is measured can be shown and kept at once.
    Batches want the whole block, to sort it by length. A chain that turns out to be unmeasurable goes to ``refuse``, and the
    rest of its batch is measured in halves; without ``refuse`` the UnmeasurableError is raised.
    """
    portion = 1 if device_of(scorer) == "cpu" and not options.batch_tokens else len(block)
    for start in range(0, len(block), portion):
        part = block[start : start + portion]
        try:
            found = scorer.measure(part, options)
        except UnmeasurableError as error:
            if refuse is None:
                raise
            if len(part) == 1:
                refuse(part[0], str(error))
                continue
            half = (len(part) + 1) // 2
            for side in (part[:half], part[half:]):
                yield from measured(side, scorer, options, refuse)
            continue
        yield found


class Commit:
    """Writes traces as shards, then loads them into the graph, if one is given; both in threads of their own, so that measuring
    goes on.

    Use as a context manager. A shard is closed when it holds ``tokens`` tokens, after :data:`SHARD_SECONDS`, or with
    :data:`trails.pipeline.loading.SHARD_CHAINS` chains. When the block ends, also by an exception or an interrupt, what was
    measured is written; only where writing itself failed it is not. ``chains`` and ``shards`` count what is on the disk.
    The run is stored with its first shard: a run without chains is no run.
    """

    def __init__(
        self,
        traces: TraceStore,
        graph: GraphStore | None,
        run: Run,
        *,
        tokens: int,
        per_layer: bool = False,
        seconds: dict[str, float] | None = None,
    ) -> None:
        self._traces, self._graph, self._run = traces, graph, run
        self._tokens, self._per_layer = tokens, per_layer
        self._seconds = {} if seconds is None else seconds
        self._held: list[Trace] = []
        self._held_tokens = 0
        self._since = 0.0
        self._waiting: list[Future[None]] = []
        self._runs: Mapping[str, Run] = {}
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="trails-write")
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="trails-load")
        self._failed = False
        self.chains = self.shards = self.lost = 0

    def __enter__(self) -> Commit:
        """Ready for traces."""
        return self

    def add(self, measured: Sequence[Trace]) -> None:
        """Take traces. Raises what writing an earlier shard raised."""
        if not self._held:
            self._since = time.monotonic()
        self._held += measured
        self._held_tokens += sum(trace.n_tokens + trace.n_context for trace in measured)
        late = time.monotonic() - self._since >= SHARD_SECONDS
        if late or self._held_tokens >= self._tokens or len(self._held) >= SHARD_CHAINS:
            self.close_shard()
        while len(self._waiting) > 3:
            self._waiting.pop(0).result()

    def close_shard(self) -> None:
        """Hand what is held to the writer."""
        if self._held:
            held, self._held, self._held_tokens = self._held, [], 0
            self._waiting.append(self._loader.submit(self._load, self._writer.submit(self._write, held)))

    def _write(self, held: list[Trace]) -> GraphBatch | None:
        if self._failed:  # a full disk: later and smaller shards could fit, and nobody could say what is kept
            self.lost += len(held)
            raise StoreError("not written")
        try:
            with timed(self._seconds, "shards"):
                if not self._runs:
                    self._traces.put_run(self._run)
                    self._runs = self._traces.runs()
                self._traces.write(held)
        except BaseException:
            self._failed = True
            self.lost += len(held)
            raise
        self.chains += len(held)
        self.shards += 1
        if self._graph is None:
            return None
        with timed(self._seconds, "graph"):
            batch = graph_batch(self._traces.with_corrections(held), self._runs, per_layer=self._per_layer)
            return held_by(batch, self._traces.identity())

    def _load(self, written: Future[GraphBatch | None]) -> None:
        batch = written.result()  # the shard is there before the graph refers to it
        if batch is None or self._graph is None:
            return
        with timed(self._seconds, "graph"):
            self._graph.write([batch])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is held and wait; the first failure of writing is raised unless another error is on its way."""
        try:
            self.close_shard()
            failures = [found for future in self._waiting if (found := future.exception()) is not None]
            self._waiting = []
        finally:
            self._writer.shutdown()
            self._loader.shutdown()
        if failures and error is None:
            raise failures[0]

    def kept(self) -> str:
        """What is on the disk of what was measured here, as a sentence."""
        return said_kept(self.chains, self.shards, self.lost)


def said_kept(chains: int, shards: int, lost: int = 0) -> str:
    """How many measured chains are on the disk in how many shards, and how many were not written."""
    more = f"; {counted(lost, 'measured chain was', 'measured chains were')} not written" if lost else ""
    return f"{counted(chains, 'chain')} measured now are kept in {counted(shards, 'whole shard')}{more}"


class Behind:
    """Loads shards that others wrote into a graph, in a thread, at most a few behind; does nothing without a graph.

    Use as a context manager: what was handed over is loaded when the block ends, also by an exception.
    """

    def __init__(
        self, traces: TraceStore, graph: GraphStore | None, *, per_layer: bool, seconds: dict[str, float]
    ) -> None:
        self._traces, self._graph, self._per_layer, self._seconds = traces, graph, per_layer, seconds
        self._runs: Mapping[str, Run] = {}
        self._waiting: list[Future[None]] = []
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="trails-load")

    def __enter__(self) -> Behind:
        """Ready for shards."""
        return self

    def load(self, shard: str) -> None:
        """Load the shard of this name. Raises what loading an earlier one raised."""
        if self._graph is None:
            return
        self._waiting.append(self._loader.submit(self._load, shard, self._graph))
        while len(self._waiting) > 3:
            self._waiting.pop(0).result()

    def _load(self, shard: str, graph: GraphStore) -> None:
        with timed(self._seconds, "graph"):
            self._runs = self._runs or self._traces.runs()
            traces = self._traces.with_corrections(self._traces.shard(shard))
            batch = graph_batch(traces, self._runs, per_layer=self._per_layer)
            graph.write([held_by(batch, self._traces.identity())])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what was handed over; the first failure is raised unless another error is on its way."""
        self._loader.shutdown()
        failures = [found for future in self._waiting if (found := future.exception()) is not None]
        if failures and error is None:
            raise failures[0]


# --------------------------------------------------------------------------------------------------------------------
# Measures asked for later
# --------------------------------------------------------------------------------------------------------------------

EXTRA_COLUMNS = (
    *("source", "source_id", "question", "text", "steps", "token_ids"),
    *("token_attends_step", "peak_token", "nll_given_all", "state_layers", "top_id", "gradient_target"),
)
"""Columns that :func:`lacking` needs."""


def lacking(trace: Trace, options: MeasureOptions) -> MeasureOptions | None:
    """The measures on request that a trace does not hold and ``options`` ask for; None if it holds all. Raises UsageError
    where gradients of another target are kept: a trace has room for one.
    """
    peaks = trace.peak_token.shape[1] if trace.peak_token is not None else 0
    top = trace.top_id.shape[1] if trace.top_id is not None else 0
    more = options.top_k is not None and options.top_k > top and trace.n_tokens
    kept = kept_target(trace)
    gradients = options.gradients if kept != options.gradients else ""
    if gradients and has_map(trace):
        raise UsageError(
            f"gradients of the target {gradients} were asked for, chain {trace.chain.id} keeps those of the target {kept}. "
            f"To see another target of one chain, run: trails gradient {trace.chain.id} --target {gradients}. "
            f"To keep it, "
            "measure into another home: --home FOLDER"
        )
    missing = MeasureOptions(
        batch_tokens=options.batch_tokens,
        token_attention=options.token_attention and trace.token_attends_step is None,
        peaks=options.peaks if options.peaks > peaks and trace.n_tokens else 0,
        premises=options.premises and trace.nll_given_all is None,
        states=tuple(layer for layer in options.states if layer not in trace.state_layers),
        top_k=options.top_k if more else 0,
        gradients=gradients,
    )
    wanted = more or missing.token_attention or missing.peaks or missing.premises or missing.states or gradients
    return missing if wanted else None


def with_added(stored: Trace, now: Trace, options: MeasureOptions) -> Trace:
    """The stored trace with the measures of ``options`` taken from ``now``; every stored number stays to the bit.

    Raises StoreError if the two do not hold the same tokens in the same steps.
    """
    if stored.token_ids.tolist() != now.token_ids.tolist() or stored.step_tokens.tolist() != now.step_tokens.tolist():
        raise StoreError(
            f"chain {stored.chain.id} was measured with other tokens or steps than now, so nothing can be added to it. "
            "Measure into another home: --home FOLDER"
        )
    # states are added layer by layer, below
    names = [m.name for m in MEASURES if m.request not in ("", "states") and getattr(options, m.request)]
    added = with_arrays(stored, {name: now.array(name) for name in names})
    if options.n_top:
        added = replace(added, top_pieces=now.top_pieces)
    if not options.states or now.step_states is None:
        return added
    columns = {layer: now.step_states[:, i] for i, layer in enumerate(now.state_layers)}
    if stored.step_states is not None:
        columns |= {layer: stored.step_states[:, i] for i, layer in enumerate(stored.state_layers)}
    layers = tuple(sorted(columns))
    return replace(added, state_layers=layers, step_states=np.stack([columns[layer] for layer in layers], axis=1))
