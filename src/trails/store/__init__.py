"""Write: the trace store (Parquet shards, the truth) and the graph stores (Cypher, an index that can be rebuilt)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from trails.config import Settings
    from trails.store.base import GraphStore


def open_graph(
    settings: Settings, *, discard_damaged: bool = False, strangers: bool = False, any_format: bool = False
) -> GraphStore:
    """The graph store that the settings name: the embedded one in the home, or Neo4j. Its module is imported only here.

    ``discard_damaged`` starts with an empty embedded graph where its file cannot be read. ``strangers`` says that all it will
    be asked are statements that did not come with trails: the embedded graph is then loaded once, in the child that answers
    them. ``any_format`` takes a graph of an earlier format, too. Raises StoreError if the store cannot be opened or reached, or
    is of another format.
    """
    if settings.store_name == "neo4j":
        from trails.store.neo4j import open_neo4j

        return open_neo4j(settings, any_format=any_format)
    from trails.store.embedded import EmbeddedStore

    damaged: Literal["refuse", "discard"] = "discard" if discard_damaged else "refuse"
    return EmbeddedStore(settings.home, damaged=damaged, lazy=strangers, any_format=any_format)
