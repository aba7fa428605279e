"""Work in a thread of its own, a bounded way ahead of who needs it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

_Item = TypeVar("_Item")


def ahead(items: Iterable[_Item], depth: int = 2) -> Iterator[_Item]:
    """The same items in the same order, made at most ``depth`` ahead while the caller works on those before.

    What making them raises is raised here. The thread ends with the iteration, also when it is given up early.
    """
    made: queue.Queue[tuple[bool, Any]] = queue.Queue(depth)
    stop = threading.Event()

    def put(entry: tuple[bool, Any]) -> None:
        while not stop.is_set():
            with suppress(queue.Full):
                made.put(entry, timeout=0.1)
                return

    def work() -> None:
        try:
            for item in items:
                put((True, item))
                if stop.is_set():
                    return
            put((False, None))
        except BaseException as error:
            put((False, error))

    thread = threading.Thread(target=work, name="trails-ahead", daemon=True)
    thread.start()
    try:
        while True:
            more, item = made.get()
            if more:
                yield item
            elif item is not None:
                raise item
            else:
                return
    finally:
        stop.set()
        thread.join()
