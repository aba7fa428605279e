"""Where an output may not be written: over a device or a pipe, over what a home consists of, and to ``-``."""

from __future__ import annotations

import os
from pathlib import Path

from trails.errors import StoreError, UsageError
from trails.platform.files import check_regular
from trails.store.corrections import NAME as CORRECTIONS

RESEGMENTING = "resegmenting"
"""Folder of a home with what the shards that a rebuild of the steps replaced lost, as long as that work is not ended."""

OWN = frozenset(
    {"trails.json", "lock", "graph.kgl", "graph.lock", "runs", "shards", "columns", "results", "whitening", "vectors"}
    | {"selections", "thoughts", "variants", "damaged", CORRECTIONS, RESEGMENTING}
)
"""Files and folders that a home is made of."""


def check_output(path: Path) -> None:
    """Raise UsageError for a target that cannot be written, or that nothing may replace, whatever ``--overwrite`` says: what is
    there and no file, a link, a part of a home (measurements would be lost), ``-``, a place below a file, and one in a folder
    that may not be written to. A folder that is no part of a home passes.
    """
    if str(path) == "-":
        raise UsageError(
            "- was given as the name of the output, which is not written to standard output. Give a file name"
        )
    place = path.parent.resolve() / path.name
    for inside in (place, *place.parents):
        if inside.name in OWN and (inside.parent / "trails.json").is_file():
            raise UsageError(f"{path} is a part of the home {inside.parent}. Choose another name")
    if path.is_symlink():
        raise UsageError(
            f"{path} is a link to {path.readlink()}, and a link is not replaced. Give the name of the file itself"
        )
    try:
        check_regular(path, folder=True)
    except StoreError as error:
        raise UsageError(f"{str(error).partition('. ')[0]}. Choose another name") from None
    holder = path if path.is_dir() else next(parent for parent in path.absolute().parents if parent.exists())
    if not holder.is_dir():
        raise UsageError(f"{path} cannot be written: {holder} is a file, not a folder. Choose another name")
    if not os.access(holder, os.W_OK | os.X_OK):
        raise UsageError(
            f"{path} cannot be written: the folder {holder} may not be written to. Choose another place, or make it writable"
        )
