"""The graph store on a Neo4j server: statements, groups of rows, errors, reading, and the store itself."""

from __future__ import annotations

from trails.store.neo4j.reading import judge
from trails.store.neo4j.statements import LOADED, STORE_LABEL
from trails.store.neo4j.store import Neo4jStore, open_neo4j

__all__ = ["LOADED", "STORE_LABEL", "Neo4jStore", "judge", "open_neo4j"]
