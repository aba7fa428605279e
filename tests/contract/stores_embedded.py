"""The embedded store in the contract suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trails.store.base import GraphStore
from trails.store.embedded import EmbeddedStore


@contextmanager
def embedded(request: pytest.FixtureRequest, folder: Path) -> Iterator[Callable[[], GraphStore]]:
    """A graph file in a folder of its own."""
    yield lambda: EmbeddedStore(folder)


STORES = [pytest.param(embedded, id="embedded")]
