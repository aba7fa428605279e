"""Which run a model with given options measures as, remembered from the last time it was opened: without torch.

Opening a model takes ten seconds and more. What decides the identity of a run are the files of the model, the options, and the
libraries that read them; where all of them are as they were, so is the identity.
"""

from __future__ import annotations

import json
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trails.measure.packaged import MODEL_ID, cache_folder, converted_folder
from trails.platform.files import write_atomic
from trails.schema import stable_hash

_LIBRARIES = ("trails", "transformers", "tokenizers", "torch", "peft")


def folder_of(model: str) -> Path | None:
    """The folder of the packaged model or of a local one; None for a model of the hub, which may change there."""
    if model in ("", MODEL_ID):
        return converted_folder()
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else None


def remember(run: str, model: str, options: dict[str, Any]) -> None:
    """Keep the id of the run that ``model`` measured as with these options of :func:`trails.measure.open_scorer`."""
    place = _place(model, options)
    if place is not None:
        with suppress(OSError):  # a cache that cannot be written only costs time
            place.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(place, run)


def remembered(model: str, options: dict[str, Any]) -> str:
    """The id that :func:`remember` was given for the very same files and options; empty where there is none."""
    place = _place(model, options)
    try:
        return place.read_text(encoding="ascii") if place is not None else ""
    except (OSError, UnicodeDecodeError):
        return ""


def _place(model: str, options: dict[str, Any]) -> Path | None:
    folder = folder_of(model)
    if folder is None or not folder.is_dir() or options.get("trust_remote_code"):
        return None
    adapter = options.get("adapter")
    given = {name: str(value) for name, value in options.items() if name not in ("device", "adapter")}
    try:
        stamps = [_stamps(place) for place in (folder, *([Path(adapter).expanduser()] if adapter else []))]
    except OSError:
        return None
    key = json.dumps([str(folder.resolve()), stamps, given, [_version(name) for name in _LIBRARIES]], sort_keys=True)
    return cache_folder() / "runs" / stable_hash(key, length=64)


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
