"""What is made ahead arrives in order, errors arrive where they are expected, and no thread is left behind."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from trails.platform.threads import ahead


def running() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name == "trails-ahead"}


def test_the_same_items_in_the_same_order_made_in_another_thread() -> None:
    makers = set()

    def items() -> Iterator[int | None]:
        for number in (0, None, 2, *range(3, 50)):
            makers.add(threading.current_thread().name)
            yield number

    assert list(ahead(items())) == [0, None, 2, *range(3, 50)]
    assert makers == {"trails-ahead"}
    assert not running()


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("the third")

    found = ahead(items())
    assert (next(found), next(found)) == (1, 2)
    with pytest.raises(ValueError, match="the third"):
        next(found)
    assert not running()


def test_it_runs_no_further_ahead_than_allowed_and_ends_when_given_up() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1_000):
            made.append(number)
            yield number

    taken = ahead(items(), depth=2)
    assert next(taken) == 0
    taken.close()  # type: ignore[attr-defined]
    assert not running()
    assert len(made) <= 5  # one taken, two waiting, one in hand, one begun
