"""All of it in order: read → segment → measure → write → query → subgraph → export → train → diff.

The only package that knows both a model and a store.
"""

from __future__ import annotations

from trails.pipeline.home import Home
from trails.pipeline.judging import Verification, repair, verify
from trails.pipeline.loading import load_missing, rebuild
from trails.pipeline.measuring import (
    IngestOptions,
    IngestSummary,
    ingest,
    parse_layers,
    scorer_from,
    segmented,
    summary_lines,
)
from trails.pipeline.progress import Progress, Silent

__all__ = [
    "Home",
    "IngestOptions",
    "IngestSummary",
    "Progress",
    "Silent",
    "Verification",
    "ingest",
    "load_missing",
    "parse_layers",
    "rebuild",
    "repair",
    "scorer_from",
    "segmented",
    "summary_lines",
    "verify",
]
