"""Nodes and relationships as values of a result: mappings of their own properties that know which element they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class NodeValue(dict[str, Any]):
    """The properties of a node. ``element`` is the engine's own id, good within this result; ``labels`` its labels."""

    __slots__ = ("element", "labels")

    def __init__(self, properties: Mapping[str, Any], element: str, labels: tuple[str, ...]) -> None:
        super().__init__(properties)
        self.element, self.labels = element, labels


class RelationshipValue(dict[str, Any]):
    """The properties of a relationship. ``element`` is the engine's own id, ``start`` and ``end`` are those of its two ends;
    ``type`` is its type.
    """

    __slots__ = ("element", "end", "start", "type")

    def __init__(self, properties: Mapping[str, Any], element: str, type: str, start: str, end: str) -> None:
        super().__init__(properties)
        self.element, self.type, self.start, self.end = element, type, start, end
