"""One contract for every graph store.

A store joins by a module ``stores_NAME.py`` beside this file with ``STORES``, a list of
``pytest.param(opener, id=…, marks=…)``. An ``opener`` is a context manager ``opener(request, folder)`` that yields a
function; every call of that function opens the same store, which is empty at first and removed at the end.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.contract.world import World, make_world

from trails.store.base import GraphStore

Open = Callable[[], GraphStore]

STORES = [
    param
    for path in sorted(Path(__file__).parent.glob("stores_*.py"))
    for param in importlib.import_module(f"tests.contract.{path.stem}").STORES
]


@pytest.fixture(params=STORES)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """A function that opens one store, empty at first."""
    with request.param(request, tmp_path / "store") as opened:
        yield opened


@pytest.fixture(scope="session")
def world() -> World:
    """Traces of two runs and results of analyses."""
    return make_world()


@pytest.fixture(scope="module", params=STORES)
def full_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, world: World
) -> Iterator[GraphStore]:
    """A store that holds the world. For tests that only read: modules use either this or ``open_store``, not both."""
    with request.param(request, tmp_path_factory.mktemp("full")) as opened:
        store = opened()
        store.ensure_schema()
        store.write([world.batch(), world.analyses()])
        store.save()
        yield store
        store.close()
