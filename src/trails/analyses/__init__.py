"""Questions to many chains: overlaps, map, gaps, bridges, capture, drift, and the statistics that their controls rest on.

An analysis of all chains of a run is a function ``(traces, **options) -> Finding`` and a line in :data:`ANALYSES`. From these
two come the command, with the options of the signature, its JSON, ``Home.analyse(name)``, and the rows in the graph where the
finding has a :meth:`~trails.analyses.report.Finding.batch`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from trails.errors import UsageError

if TYPE_CHECKING:
    from trails.analyses.report import Finding

ANALYSES: dict[str, str] = {
    # name of the command: module and function
    "map": "trails.analyses.statemap:woven_map",
}


def analysis_of(name: str) -> Callable[..., Finding]:
    """The function of an analysis. Raises UsageError for a name that is not in :data:`ANALYSES`."""
    if name not in ANALYSES:
        raise UsageError(f"analysis {name!r} was asked for. Analyses: {', '.join(ANALYSES)}.")
    module, _, function = ANALYSES[name].partition(":")
    found: Callable[..., Finding] = getattr(importlib.import_module(module), function)
    return found
