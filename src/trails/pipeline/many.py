"""Measuring shared out among workers: who gets which block, what becomes of it when its worker is gone, and who keeps the home.

The process that holds the :class:`Crew` reads the chains, holds the writer's lock, and alone says what is measured: workers
only add shards (:mod:`trails.pipeline.worker`). Where it is killed, whole shards stay, and the next ingest measures the chains
that no shard holds. Where a worker is killed, its blocks go to others, each alone and in halves, so that a chain that kills is
found.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import trails.errors as errors
from trails.config import Settings
from trails.errors import ModelError, StoreError, TrailsError, UsageError
from trails.measure.base import MeasureOptions
from trails.pipeline.executors import LocalWorkers, RayWorkers, Workers
from trails.pipeline.loading import SHARD_CHAINS
from trails.pipeline.progress import Progress
from trails.pipeline.sharing import Portion
from trails.platform.text import counted
from trails.schema import Chain, Run, checked_run
from trails.segment import segmenter_hash
from trails.store.traces import TraceStore

PATIENCE_S = 1800.0
"""Seconds without an answer after which a worker is taken for hung. A block takes about a minute, or as long as one chain. To
open the model a worker has at least so long, whatever is asked for.
"""

DEATHS = 3
"""Deaths of workers over one block, or of one worker before it was ready, after which the ingest ends."""

AHEAD = 3
"""Blocks that a worker has at most: one that it prepares, one that it measures, one that it writes."""

_BYTES_PER_TOKEN = 3
"""Bytes of text to a token, for cutting blocks without a tokenizer: rather short blocks than long ones."""

_LOOK_S = 1.0
_SAY_AFTER_S = 60.0


@dataclass(frozen=True, slots=True)
class Pool:
    """Who measures: ``workers`` processes of this machine, or as many actors of the Ray cluster at ``ray``.

    ``through`` is a folder or an address of a file system of pyarrow (``s3://…``) that workers and this process see, where
    shards lie until this process takes them; without it a worker that sees the home writes there, and any other sends its
    shards back. ``instrument`` are the options of :func:`trails.measure.open_scorer` that the settings do not hold.
    """

    workers: int
    ray: str = ""
    through: str = ""
    patience_s: float = PATIENCE_S
    instrument: Mapping[str, Any] = field(default_factory=dict)

    def start(self, settings: Settings) -> Workers:
        """The workers, before they opened the model."""
        if self.ray:
            return RayWorkers(self.ray, self.workers, gpu=not settings.device.startswith("cpu"))
        return LocalWorkers(self.workers)

    def crew(self, settings: Settings, traces: TraceStore, progress: Progress) -> Crew:
        """The workers with a clock over them."""
        return Crew(self, settings, traces, progress)

    def take_left(self, traces: TraceStore) -> int:
        """Take the shards that a killed ingest left between workers and home; return how many."""
        return take_through(self.through, traces) if self.through else 0


@dataclass(slots=True)
class _Block:
    """Chains to measure, and how many workers died over them. A worker that has an ``alone`` block has no other."""

    chains: list[Chain]
    deaths: int = 0
    alone: bool = False


@dataclass(slots=True)
class _Slot:
    """One worker, and what it does since when (``time.monotonic``); ``answered`` counts the blocks since it started."""

    number: int
    future: Future[Any] | None = None
    blocks: deque[_Block] = field(default_factory=deque)
    since: float = 0.0
    ready: bool = False
    answered: int = 0
    starts: int = 0
    given_up: bool = False
    why: str = ""


class Crew:
    """Workers with a clock over them. Use as a context manager: on the way out all of them end.

    ``run`` is the instrument that they measure as, and ``tokens`` about what a shard should hold: known after :meth:`open`.
    """

    def __init__(self, pool: Pool, settings: Settings, traces: TraceStore, progress: Progress) -> None:
        if pool.workers < 1:
            raise UsageError("--workers takes a number from 1")
        self._pool, self._settings, self._traces, self._progress = pool, settings, traces, progress
        self._workers = pool.start(settings)
        self._slots = [_Slot(number) for number in range(pool.workers)]
        self._again: deque[_Block] = deque()
        self._coming: deque[_Block] = deque()
        self._said = self._closed = False
        self._began = time.monotonic()
        self.run: Run
        self.tokens = 0
        self.notes: Mapping[str, Any] = {}

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers. Nothing happens where that was done."""
        if not self._closed:
            self._closed = True
            self._workers.close()

    # ------------------------------------------------------------------------------------------------------------ starting

    def open(self) -> None:
        """Let all workers open the model; return when the first is ready. Raises what opening raises."""
        self._started = False
        for slot in self._slots:
            self._start(slot)
        while not self._started:
            for slot, answer in self._finished():
                self._opened(slot, answer)

    def _start(self, slot: _Slot) -> None:
        settings = self._settings.model_dump(include={"model", "device", "dtype"})
        settings["model"] = _absolute(settings["model"])
        slot.ready, slot.answered, slot.starts = False, 0, slot.starts + 1
        self._ask(
            slot,
            {
                "open": {
                    "settings": settings,
                    "instrument": {name: _plain(value) for name, value in self._pool.instrument.items()},
                    "index": slot.number,
                    "home": str(self._traces.home.resolve()),
                    "home_id": self._traces.identity().id,
                    "through": _address(self._pool.through),
                    "watch": self._workers.watch,
                }
            },
        )

    def _opened(self, slot: _Slot, answer: Mapping[str, Any] | None) -> None:
        """A worker is ready, or could not be."""
        if answer is None:
            if slot.starts < DEATHS:
                self._start(slot)
                return
            self._give_up(
                slot,
                ModelError(
                    f"{slot.starts} times it was gone before it was ready; the last time it {slot.why}. Look at the machine's "
                    "memory, or measure in one process (without --workers)"
                ),
            )
            return
        if "failed" in answer:
            self._give_up(slot, _error(*answer["failed"]))
            return
        run = checked_run(Run(**answer["run"]))
        if answer["segmenter"] != segmenter_hash():
            raise ModelError(
                f"the worker on {answer['host']} has another version of trails. Install the same everywhere"
            )
        if self._started and run.id != self.run.id:
            raise ModelError(
                f"the worker on {answer['host']} measures as run {run.id}, the first as {self.run.id}: another model, weights "
                "or tokenizer under the same name. Give every host the same files"
            )
        slot.ready, slot.starts = True, 0
        if not self._started:
            self.run, self.tokens, self.notes, self._started = run, answer["tokens"], run.notes, True

    def _give_up(self, slot: _Slot, error: TrailsError) -> None:
        slot.given_up = True
        if all(other.given_up for other in self._slots):
            raise type(error)(f"no worker is left: {error}") from error
        self._progress.note(
            f"worker {slot.number + 1} of {len(self._slots)} could not start, the others go on: {error}"
        )

    # ----------------------------------------------------------------------------------------------------------- measuring

    def measure(
        self, chains: Iterable[Chain], options: MeasureOptions, *, tokens: int, keep_source_steps: bool = False
    ) -> Iterator[Portion]:
        """Have all chains measured; a portion for every shard, in the order in which they come. ``chains`` is read as workers
        need more, so memory does not grow with it. Shards are in the home when their portion is given.

        Raises StoreError where a shard cannot be kept, ModelError where a block took :data:`DEATHS` workers with it.
        """
        blocks, wanted = _blocks(chains, tokens), asdict(options)
        while True:
            for slot in self._slots:
                if slot.ready and slot.future is None and ((given := self._given(slot, blocks)) or slot.blocks):
                    self._hand(slot, given, wanted, keep_source_steps)
            if not self._left(blocks, 1) and not any(slot.blocks for slot in self._slots):
                return
            for slot, answer in self._finished():
                if not slot.ready:
                    self._opened(slot, answer)
                elif answer is None:
                    self._died(slot)
                elif "failed" in answer:
                    raise _error(*answer["failed"])
                else:
                    yield self._taken(slot, answer)

    def _left(self, blocks: Iterator[_Block], most: int) -> int:
        """How many blocks nobody has, counted up to ``most``: no more are read."""
        while len(self._again) + len(self._coming) < most and (block := next(blocks, None)) is not None:
            self._coming.append(block)
        return min(len(self._again) + len(self._coming), most)

    def _given(self, slot: _Slot, blocks: Iterator[_Block]) -> list[_Block]:
        """What a worker gets that waits: a block if it has none, and up to :data:`AHEAD` while there are so many that every
        worker can have another; the first ones of a worker are dealt singly.
        """
        given: list[_Block] = []
        while True:
            held = [*slot.blocks, *given]
            if held and len(held) >= min(AHEAD, slot.answered + 1):
                return given
            kept = len(self._slots) if held else 0
            if self._left(blocks, kept + 1) <= kept:
                return given
            waiting = self._again or self._coming
            if held and (held[0].alone or waiting[0].alone):
                return given
            given.append(waiting.popleft())

    def _hand(self, slot: _Slot, given: Sequence[_Block], options: Mapping[str, Any], keep_source_steps: bool) -> None:
        from trails.pipeline.worker import plain

        slot.blocks.extend(given)
        more = {"options": options, "keep_source_steps": keep_source_steps}
        self._ask(slot, {"blocks": [{"chains": [plain(chain) for chain in block.chains], **more} for block in given]})

    def _ask(self, slot: _Slot, request: Mapping[str, Any]) -> None:
        slot.since = time.monotonic()
        slot.future = self._workers.ask(slot.number, request)

    def _finished(self) -> Iterator[tuple[_Slot, Mapping[str, Any] | None]]:
        """Wait a moment; then every worker that answered with its answer, and None for every one that is gone or hangs."""
        waited = {slot.future: slot for slot in self._slots if slot.future is not None}
        done, _ = wait(waited, timeout=_LOOK_S, return_when=FIRST_COMPLETED)
        now = time.monotonic()
        for future, slot in waited.items():
            if future in done:
                slot.future = None
                answer: Mapping[str, Any] | None = None
                try:
                    answer = future.result()
                except Exception as gone:  # of whatever class the executor has for it
                    self._replaced(slot, f"is gone ({gone or type(gone).__name__})")
                yield slot, answer
            elif now - slot.since > (self._pool.patience_s if slot.ready else max(self._pool.patience_s, PATIENCE_S)):
                slot.future = None
                self._replaced(slot, f"said nothing for {now - slot.since:,.0f} s (--patience)")
                yield slot, None
        missing = [slot for slot in self._slots if not slot.ready and not slot.given_up]
        if missing and not self._said and now - self._began > _SAY_AFTER_S:
            self._said = True
            self._progress.note(
                f"{len(self._slots) - len(missing):,} of {counted(len(self._slots), 'worker')} ready; "
                "the others have not started yet"
            )

    def _replaced(self, slot: _Slot, why: str) -> None:
        doing = " while it opened the model"
        if slot.blocks:
            which = "the block" if len(slot.blocks) == 1 else f"{counted(len(slot.blocks), 'block')}, the first"
            doing = f" over {which} from chain {slot.blocks[0].chains[0].id} on"
        slot.why = why
        self._progress.note(f"worker {slot.number + 1} {why}{doing}; another takes its place")
        self._workers.replace(slot.number)

    def _died(self, slot: _Slot) -> None:
        """Take back the blocks of a worker that is gone, and start another. A single block comes back in halves; of several
        nobody knows which it was, and each is measured alone.
        """
        blocks = list(slot.blocks)
        slot.blocks.clear()
        for block in blocks:
            block.alone = True
        if len(blocks) > 1:
            self._again.extend(blocks)
        elif blocks:
            self._halved(blocks[0], slot.why)
        self._start(slot)

    def _halved(self, block: _Block, why: str) -> None:
        """Count a death over a block, and put its halves back."""
        block.deaths += 1
        first = block.chains[0].id
        if block.deaths >= DEATHS:
            many = (
                f"{counted(len(block.chains), 'chain')} from {first} on" if len(block.chains) > 1 else f"chain {first}"
            )
            raise ModelError(
                f"{counted(block.deaths, 'worker was', 'workers were')} gone over {many}; the last one {why}. Try "
                "fewer workers, or measure it in one process (without --workers)"
            )
        half = (len(block.chains) + 1) // 2
        self._again.extend(
            _Block(part, block.deaths, alone=True) for part in (block.chains[:half], block.chains[half:]) if part
        )

    def _taken(self, slot: _Slot, answer: Mapping[str, Any]) -> Portion:
        """Take over what a worker made; what it did not get to goes back."""
        block = slot.blocks.popleft()
        slot.answered += 1
        if answer["name"]:
            self._keep(answer["name"], answer["data"])
        if answer["left"]:
            self._again.appendleft(_Block([block.chains[place] for place in answer["left"]], alone=block.alone))
        done = set(answer["chains"])
        self.notes = {**self.notes, **answer["notes"]}
        return Portion(
            answer["name"],
            sum(len(chain.text) for chain in block.chains if chain.id in done),
            [(block.chains[place], reason) for place, reason in answer["refused"]],
            answer["counted"],
            answer["notes"],
            answer["seconds"],
        )

    def _keep(self, name: str, data: bytes) -> None:
        """See that a shard is in the home."""
        if data:
            self._traces.adopt(name, data)
        elif self._pool.through:
            take_through(self._pool.through, self._traces, [name])
        elif not (self._traces.home / "shards" / f"{name}.parquet").is_file():
            raise StoreError(
                f"a worker wrote shard {name} into {self._traces.home}, and it is not there: the folder is not the same for "
                "all. Give a place that all of them see: --through FOLDER"
            )


def take_through(uri: str, traces: TraceStore, names: Sequence[str] | None = None) -> int:
    """Take shards that workers left at ``uri`` into the home (all whole ones without ``names``, from a killed ingest), and
    delete them there; return how many. Raises StoreError.
    """
    from pyarrow import fs

    try:
        system, folder = fs.FileSystem.from_uri(_address(uri))
        if names is None:
            found = system.get_file_info(fs.FileSelector(folder, allow_not_found=True))
            names = [info.base_name.removesuffix(".parquet") for info in found if info.base_name.endswith(".parquet")]
        for name in names:
            path = f"{folder}/{name}.parquet"
            with system.open_input_file(path) as file:
                traces.adopt(name, file.read())
            system.delete_file(path)
    except (OSError, ValueError) as error:
        raise StoreError(f"{uri} cannot be used to hand shards over: {error}") from error
    return len(names)


def _blocks(chains: Iterable[Chain], tokens: int) -> Iterator[_Block]:
    """Chains in blocks of about ``tokens`` tokens."""
    block: list[Chain] = []
    held = 0
    for chain in chains:
        block.append(chain)
        held += len(chain.text.encode("utf-8", "replace")) + len(chain.question.encode("utf-8", "replace"))
        if held >= tokens * _BYTES_PER_TOKEN or len(block) >= SHARD_CHAINS:
            yield _Block(block)
            block, held = [], 0
    if block:
        yield _Block(block)


def _plain(value: Any) -> Any:
    """An option of the instrument as a plain value; a path is made absolute, as a worker may stand in another folder."""
    if isinstance(value, Path):
        return str(value.expanduser().resolve())
    return value if value is None or isinstance(value, bool) else str(value)


def _absolute(model: str) -> str:
    """A model's folder as an absolute path; any other name as it is."""
    folder = Path(model).expanduser()
    return str(folder.resolve()) if model and folder.is_dir() else model


def _address(place: str) -> str:
    """A folder or an address as an address."""
    return place if not place or "://" in place else Path(place).expanduser().resolve().as_uri()


def _error(kind: str, message: str) -> TrailsError:
    """The error that a worker met."""
    found = getattr(errors, kind, None)
    if isinstance(found, type) and issubclass(found, TrailsError):
        return found(message)
    return ModelError(f"a worker failed: {message}")
