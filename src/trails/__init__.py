"""A graph database of reasoning trails.

    read → segment → measure → write → query → subgraph → export → train → diff

Chains of reasoning are split into steps, measured token by token by a causal language model, stored in Parquet shards and
in a graph that answers Cypher, and chosen subgraphs become LoRA training data. No score is shown without its control.

The names below are the library; each is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trails.errors import TrailsError
    from trails.measure import open_scorer
    from trails.pipeline import Home, IngestOptions, ingest, rebuild, verify
    from trails.readers import read
    from trails.schema import Chain, Run, Step, Trace

_MODULE = {
    "Chain": "schema",
    "Home": "pipeline",
    "IngestOptions": "pipeline",
    "Run": "schema",
    "Step": "schema",
    "Trace": "schema",
    "TrailsError": "errors",
    "ingest": "pipeline",
    "open_scorer": "measure",
    "read": "readers",
    "rebuild": "pipeline",
    "verify": "pipeline",
}

__all__ = [
    "Chain",
    "Home",
    "IngestOptions",
    "Run",
    "Step",
    "Trace",
    "TrailsError",
    "ingest",
    "open_scorer",
    "read",
    "rebuild",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import trails`` loads neither torch nor an engine."""
    if name in _MODULE:
        return getattr(importlib.import_module(f"trails.{_MODULE[name]}"), name)
    raise AttributeError(f"module 'trails' has no attribute {name!r}")
