"""Batches of a shape that comes again, replayed from a CUDA graph: one launch in place of two thousand.

A graph is recorded when its shape comes for the second time (the first run has compiled and tuned the kernels). At the third
time it is replayed beside an ordinary run of the same batch, and used from then on if the numbers agree.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

KEPT = 24
"""Graphs kept; the one that was not used for longest goes first. All of them share one pool of memory."""

Result = tuple[Tensor, dict[str, Tensor]]


@dataclass(slots=True)
class _Recorded:
    graph: Any
    words: Tensor
    result: Result
    trusted: bool = False

    def replay(self, words: Tensor) -> Result:
        self.words.copy_(words)
        self.graph.replay()
        return self.result


class Graphs:
    """CUDA graphs by shape. ``usable`` turns False when the driver or the model refuses to be recorded, or a replay has given
    other numbers.
    """

    def __init__(self) -> None:
        self.usable = True
        self._recorded: OrderedDict[Hashable, _Recorded | None] = OrderedDict()
        self._pool: Any = None
        self._stream: Any = None

    def run(self, key: Hashable, words: Tensor, function: Callable[[Tensor], Result]) -> Result:
        """``function(words)``, by replay where ``key`` (which tells shapes and options apart) was recorded.

        The tensors of a replayed result are overwritten by the next replay of any key: their readers must be queued on the
        same stream before.
        """
        if not self.usable:
            return function(words)
        found = self._recorded.get(key)
        if found is not None:
            self._recorded.move_to_end(key)
            if found.trusted:
                return found.replay(words)
        result = function(words)
        if found is not None:
            found.trusted = agree(found.replay(words), result)
            if not found.trusted:
                self._give_up("a replay has given other numbers")
        elif key in self._recorded:
            self._record(key, words, function)
        else:
            self._recorded[key] = None
            if len(self._recorded) > KEPT:
                self._recorded.popitem(last=False)
        return result

    def _record(self, key: Hashable, words: Tensor, function: Callable[[Tensor], Result]) -> None:
        static = words.clone()
        try:
            graph = torch.cuda.CUDAGraph()
            if self._pool is None:
                self._pool = torch.cuda.graph_pool_handle()
                # PyTorch keeps one stream for all recordings of a process, on the device of the first
                self._stream = torch.cuda.Stream(words.device)  # type: ignore[no-untyped-call]
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                result = function(static)
        except Exception as error:  # an operation that waits for the GPU cannot be recorded; there is no list of them
            self._give_up((str(error).splitlines() or [type(error).__name__])[0])
        else:
            self._recorded[key] = _Recorded(graph, static, result)

    def _give_up(self, reason: str) -> None:
        self.usable = False
        self._recorded.clear()
        logger.warning("batches are not replayed from CUDA graphs: %s", reason)


def agree(left: Result, right: Result) -> bool:
    """Equal up to the noise of half precision (0.02 of the largest value), undefined at the same places."""
    pairs = [(left[0], right[0]), *((values, right[1][name]) for name, values in left[1].items())]
    for a, b in pairs:
        scale = max(1.0, float(b.float().nan_to_num().abs().max()))
        gap = float((a.float() - b.float()).nan_to_num().abs().max())
        if not bool((a.isnan() == b.isnan()).all()) or gap > 0.02 * scale:
            return False
    return True
