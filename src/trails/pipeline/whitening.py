"""The whitening of a run, fitted once and kept with its home."""

from __future__ import annotations

import contextlib
import io
import zipfile

import numpy as np

from trails.analyses.whitening import Moments, Whitening
from trails.schema import stable_hash
from trails.store.traces import TraceStore


def whitening_of(store: TraceStore, run: str, layer: int) -> Whitening:
    """The whitening of a run's step states at one of its stored layers, fitted on all its chains.

    It is kept with the run (where the home can be written) and fitted again when the run has other chains than it was
    fitted on. States are streamed. Raises ValueError for fewer than :data:`MIN_VECTORS` steps with a state.
    """
    path = store.home / "whitening" / f"{run}-{layer}.npz"
    fitted_on = stable_hash(run, str(layer), *sorted(store.done(run)))
    with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), np.load(path) as kept:
        if str(kept["fitted_on"]) == fitted_on:
            return Whitening(kept["mean"], kept["components"], int(kept["n"]))
    moments = Moments()
    for block in store.states(run, layer):
        moments.add(block)
    found = moments.whitening()
    file = io.BytesIO()
    np.savez(file, mean=found.mean, components=found.components, n=found.n, fitted_on=fitted_on)
    store.keep(path, file.getvalue())
    return found
