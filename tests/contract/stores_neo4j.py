"""Genuine Neo4j servers, LTS and current."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.neo4j.servers import VERSIONS, shared

from trails.store.base import GraphStore
from trails.store.neo4j import Neo4jStore


def _opener(version: str) -> Callable[..., object]:
    @contextmanager
    def opened(request: pytest.FixtureRequest, folder: Path) -> Iterator[Callable[[], GraphStore]]:
        server = shared(version)
        server.empty()
        stores: list[Neo4jStore] = []

        def open_one() -> GraphStore:
            stores.append(server.open())
            return stores[-1]

        yield open_one
        for store in stores:
            store.close()

    return opened


STORES = [
    pytest.param(
        _opener(version),
        id=f"neo4j-{version.lower()}",
        marks=[pytest.mark.neo4j, pytest.mark.xdist_group(f"neo4j-{version.lower()}")],
    )
    for version in VERSIONS
]
