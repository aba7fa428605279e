"""What a worker does: it opens the model once, then makes a shard of every block of chains that it is handed.

It is handed some blocks ahead: while one is measured, the next is split into steps and tokenised and the one before is written,
each in a thread of its own, as one process does it (:func:`trails.pipeline.measuring.measure_and_write`). Answers come in the
order of the blocks, each when its shard is written.

Questions and answers are plain values, so that the same function answers in a process of this machine
(:class:`trails.platform.child.Child`) and in an actor of a cluster. A worker knows no graph and holds no lock: a shard is named
by its bytes, so that two workers cannot write different things under one name. What it counted goes back to who asked.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from trails.config import load_settings
from trails.errors import StoreError, TrailsError
from trails.measure.base import MeasureOptions, Scorer, Segmented
from trails.pipeline.blocks import SHARD_SECONDS, blocks, measured, shard_tokens_of, timed
from trails.pipeline.measuring import CountsControlTokens, IngestSummary, count_measured, scorer_from, segmented
from trails.schema import Chain, Trace
from trails.segment import segmenter_hash
from trails.store.traces import TraceStore, put_shard, shard_of

COUNTED = (
    *(
        "steps",
        "chain_tokens",
        "sequence_tokens",
        "nll",
        "surprisals",
        "explicit_steps",
        "languages",
        "roles",
        "measured",
    ),
    *("control_tokens", "many_steps"),
)
"""Fields of :class:`IngestSummary` that a worker counts."""

_Made = TypeVar("_Made")
_CHAIN = tuple(field.name for field in fields(Chain))


@dataclass(slots=True)
class _Open:
    """The worker's instrument, and where its shards go: into a folder that it sees, a file system of pyarrow, or back."""

    scorer: Scorer
    home: Path | None
    through: str
    line: _Line


_opened: _Open | None = None


def plain(chain: Chain) -> tuple[Any, ...]:
    """A chain as plain values."""
    return tuple(dict(value) if isinstance(value := getattr(chain, name), Mapping) else value for name in _CHAIN)


def chain_of(given: Sequence[Any]) -> Chain:
    """The chain that :func:`plain` was given."""
    return Chain(**dict(zip(_CHAIN, given, strict=True)))


def values(found: Any) -> Any:
    """What a scorer notes, without classes of its own: a version may be a subclass of a text, which no other process takes."""
    if isinstance(found, Mapping):
        return {str(name): values(value) for name, value in found.items()}
    if isinstance(found, (list, tuple)):
        return type(found)(map(values, found))
    for kind in (bool, int, float, str):
        if isinstance(found, kind):
            return kind(found)
    return found


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to ``{"open": …}``, or to ``{"blocks": […]}``: what was made of the first block that was not answered for yet,
    these among them; ``{"failed": (class, message)}`` for what was raised meanwhile.
    """
    try:
        return _open(**request["open"]) if "open" in request else _blocks(request["blocks"])
    except TrailsError as error:
        return {"failed": (type(error).__name__, str(error))}
    except Exception as error:
        return {"failed": (type(error).__name__, f"{type(error).__name__}: {error}"[:4000])}


class Actor:
    """:func:`answer` as a method, for clusters that run classes."""

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """See :func:`answer`."""
        return answer(request)


def _open(
    *,
    settings: Mapping[str, Any],
    instrument: Mapping[str, Any],
    index: int,
    home: str,
    home_id: str,
    through: str,
    watch: bool,
) -> dict[str, Any]:
    global _opened
    if watch:
        threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    known = load_settings(**settings)
    if known.model != "uniform":
        known = known.model_copy(update={"device": _device(known.device, index)})
    scorer = scorer_from(known, **instrument)
    if _opened is not None:
        _opened.line.close()
    _opened = _Open(scorer, Path(home) if not through and _sees(home, home_id) else None, through, _Line())
    return {
        "run": values(asdict(scorer.run)),
        "tokens": shard_tokens_of(scorer),
        "segmenter": segmenter_hash(),
        "host": socket.gethostname(),
        "pid": os.getpid(),
    }


def _end_with(parent: int) -> None:
    """End this process soon after its parent: nobody would read what it still finds."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(0)


def _device(device: str, index: int) -> str:
    """Without a named device, workers are assigned to the GPUs of their machine in turn."""
    if device != "auto":
        return device
    import torch

    count = torch.cuda.device_count()
    return f"cuda:{index % count}" if count else "auto"


def _sees(home: str, home_id: str) -> bool:
    """Whether the folder of this name is the home that is being filled, not another one of the same name on another machine."""
    try:
        with TraceStore(Path(home)) as store:
            return store.identity().id == home_id
    except StoreError:
        return False


def _blocks(given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Take blocks, and answer for the first one that was not answered for."""
    assert _opened is not None
    for block in given:
        _opened.line.put(_Work(_opened.scorer, **block))
    return _opened.line.take()


class _Line:
    """Blocks on their way through three threads, in the order in which they came."""

    def __init__(self) -> None:
        self._prepare, self._measure, self._write = (
            ThreadPoolExecutor(1, thread_name_prefix=f"trails-{name}") for name in ("prepare", "measure", "write")
        )
        self._waiting: deque[Future[dict[str, Any]]] = deque()

    def put(self, work: _Work) -> None:
        """Begin with a block."""
        prepared = self._prepare.submit(work.prepare)
        measured = self._measure.submit(_after, prepared, work.measure)
        self._waiting.append(self._write.submit(_after, measured, work.write))

    def take(self) -> dict[str, Any]:
        """Wait for the first block; raises what was raised over it."""
        return self._waiting.popleft().result()

    def close(self) -> None:
        """End the threads once they did what they have."""
        for stage in (self._prepare, self._measure, self._write):
            stage.shutdown(wait=False)


def _after(before: Future[None], work: Callable[[], _Made]) -> _Made:
    before.result()
    return work()


class _Work:
    """A block, which is prepared, measured and written, each step once and after the one before."""

    def __init__(
        self,
        scorer: Scorer,
        *,
        chains: Sequence[Sequence[Any]],
        options: Mapping[str, Any],
        keep_source_steps: bool,
    ) -> None:
        self._scorer, self._chains, self._keep_source_steps = scorer, chains, keep_source_steps
        self._options = MeasureOptions(**{**options, "states": tuple(options["states"])})
        self._summary = IngestSummary()
        self._places: dict[str, int] = {}
        self._refused: list[tuple[int, str]] = []
        self._items: list[Segmented] = []
        self._whole: list[Segmented] = []
        self._found: list[Trace] = []
        self._notes: Any = {}

    def _refuse(self, item: Segmented, reason: str) -> None:
        self._refused.append((self._places[item.chain.id], reason))

    def prepare(self) -> None:
        """Split the chains into steps and tokenise them."""
        with timed(self._summary.seconds, "segmenting"):
            self._items = [
                segmented(chain_of(given), keep_source_steps=self._keep_source_steps) for given in self._chains
            ]
        self._places.update((item.chain.id, place) for place, item in enumerate(self._items))
        with timed(self._summary.seconds, "tokenising"):
            self._whole = [item for block in blocks(self._items, self._scorer, 2**62, self._refuse) for item in block]

    def measure(self) -> None:
        """Measure for about :data:`SHARD_SECONDS`."""
        began = time.monotonic()
        with timed(self._summary.seconds, "measuring"):
            for portion in measured(self._whole, self._scorer, self._options, self._refuse):
                self._found += portion
                if time.monotonic() - began >= SHARD_SECONDS:
                    break
        self._notes = values(self._scorer.run.notes)

    def write(self) -> dict[str, Any]:
        """Put what was measured into one shard. ``left`` are the places of the chains that the time did not suffice for,
        ``refused`` those that cannot be measured, with the reason.
        """
        summary, scorer = self._summary, self._scorer
        done = {trace.chain.id for trace in self._found}
        gone = {place for place, _ in self._refused}
        places = [(item, self._places[item.chain.id]) for item in self._items]
        left = [place for item, place in places if item.chain.id not in done and place not in gone]
        if isinstance(scorer, CountsControlTokens):
            passed = set(left)
            named = (scorer.control_tokens_named(item) for item, place in places if place not in passed)
            summary.control_tokens = sum(named)
        for trace in self._found:
            count_measured(summary, trace)
        with timed(summary.seconds, "shards"):
            name, data = shard_of(self._found)
            data = _put(name, data) if name else data
        return {
            "name": name,
            "data": bytes(data),
            "chains": sorted(done),
            "left": left,
            "refused": self._refused,
            "counted": {
                field: dict(value) if isinstance(value := getattr(summary, field), dict) else value for field in COUNTED
            },
            "notes": self._notes,
            "seconds": dict(summary.seconds),
        }


def _put(name: str, data: memoryview) -> memoryview:
    """Put a shard where the home's keeper finds it; returns what has to go back by the answer itself."""
    assert _opened is not None
    if _opened.through:
        put_through(_opened.through, name, data)
        return memoryview(b"")
    if _opened.home is not None:
        put_shard(_opened.home, name, data)
        return memoryview(b"")
    return data


def put_through(uri: str, name: str, data: memoryview) -> None:
    """Write a shard into a file system of pyarrow; it appears under its name when it is whole. Raises StoreError."""
    from pyarrow import fs

    try:
        system, folder = fs.FileSystem.from_uri(uri)
        system.create_dir(folder, recursive=True)
        unfinished = f"{folder}/{name}.{os.getpid()}.tmp"
        with system.open_output_stream(unfinished) as file:
            file.write(data)
        system.move(unfinished, f"{folder}/{name}.parquet")
    except (OSError, ValueError) as error:
        raise StoreError(f"shard {name} cannot be written to {uri}: {error}") from error
