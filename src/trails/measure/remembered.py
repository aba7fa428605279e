"""What is remembered of models that were opened, without torch: which run a model with given options measures as, and where the
folder of a local model is.

Opening a model takes ten seconds and more. What decides the identity of a run are the files of the model, the options, and the
libraries that read them; where all of them are as they were, so is the identity.
"""

from __future__ import annotations

import json
import logging
import re
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from trails.errors import UsageError
from trails.measure.packaged import MODEL_ID, cache_folder, converted_folder
from trails.platform.files import write_atomic
from trails.schema import Run, stable_hash

COMMIT = re.compile(r"[0-9a-f]{40}")
"""A commit of the model hub."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
_LIBRARIES = ("trails", "transformers", "tokenizers", "torch", "peft")
_HUB_SECONDS = 10.0


def one_name(model: str) -> str:
    """The one spelling of a model: that of the packaged one for no name and for its folder, the whole path of another folder,
    else the name as it is."""
    if model in ("", MODEL_ID):
        return MODEL_ID
    if not (local := Path(model).expanduser()).exists():
        return model
    place = local.resolve()
    return MODEL_ID if place == converted_folder().resolve() else str(place)


def folder_of(model: str, revision: str | None = None) -> Path | None:
    """The folder that opening ``model`` would read: of the packaged model, of a local one, or the snapshot in the hub's cache.
    None where it is not there, or where only downloading would tell.

    A branch of the hub moves, so the hub is asked for its commit, which is one small request; offline, and where the hub
    cannot be reached, what the cache holds is what would be opened.
    """
    if one_name(model) == MODEL_ID:
        folder: Path | None = converted_folder()
    elif (local := Path(model).expanduser()).exists():
        folder = local
    else:
        folder = _snapshot(model, revision)
    return folder if folder is not None and folder.is_dir() else None


def _snapshot(model: str, revision: str | None) -> Path | None:
    from huggingface_hub import constants
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.file_download import repo_folder_name

    try:
        cached = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model")
    except HFValidationError:
        return None  # no name that the hub gives, as a folder that is not there: opening it says so
    if not cached.is_dir():
        return None  # it was never opened here, so nothing is remembered of it
    commit = revision if revision and COMMIT.fullmatch(revision) else None
    if commit is None and not constants.HF_HUB_OFFLINE:
        try:
            commit = _asked(model, revision)
        except OSError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            logging.getLogger("trails").warning(
                "the model hub does not say whether %s has changed (%s); the copy in the cache is taken", model, reason
            )
    if commit is None:
        with suppress(OSError, UnicodeDecodeError):
            commit = (cached / "refs" / (revision or "main")).read_text(encoding="ascii").strip()
    return cached / "snapshots" / commit if commit and COMMIT.fullmatch(commit) else None


def _asked(model: str, revision: str | None) -> str | None:
    """The commit that the hub names. Raises OSError where it cannot be reached or refuses."""
    from huggingface_hub import HfApi

    try:
        return HfApi().model_info(model, revision=revision, timeout=_HUB_SECONDS).sha
    except OSError:
        raise
    except Exception as error:  # the hub's client passes on errors of the library that it speaks HTTP with
        raise OSError(str(error)) from None


def remember(run: str, model: str, options: dict[str, Any], folder: Path | None = None) -> None:
    """Keep the id of the run that ``model`` measured as with these options of :func:`trails.measure.open_scorer`; ``folder`` is
    what was read (default: what would be)."""
    place = _place(model, options, folder or folder_of(model, options.get("revision")))
    if place is not None:
        _keep(place, run)


def remembered(model: str, options: dict[str, Any]) -> str:
    """The id that :func:`remember` was given for the very same files and options; empty where there is none."""
    if options.get("trust_remote_code"):
        return ""
    place = _place(model, options, folder_of(model, options.get("revision")))
    return _kept(place) if place is not None else ""


def _place(model: str, options: dict[str, Any], folder: Path | None) -> Path | None:
    if folder is None or not folder.is_dir() or options.get("trust_remote_code"):
        return None
    adapter = options.get("adapter")
    given = {name: str(value) for name, value in options.items() if name not in ("device", "adapter", "revision")}
    try:
        stamps = [_stamps(place) for place in (folder, *([Path(adapter).expanduser()] if adapter else []))]
    except OSError:
        return None
    # a run has the name of its model: a snapshot opened by its path is another run than by the id of the hub
    name = "" if model in ("", MODEL_ID) or Path(model).expanduser().exists() else model
    versions = [_version(name) for name in _LIBRARIES]
    key = json.dumps([str(folder.resolve()), name, stamps, given, versions], sort_keys=True)
    return cache_folder() / "runs" / stable_hash(key, length=64)


def remember_folder(name: str, identity: str, folder: Path) -> None:
    """Keep where the folder of a local model is, by the name and the hash of its weights that its runs hold."""
    _keep(_folder_place(name, identity), str(folder.resolve()))


def model_to_open(known: Run, given: str = "") -> tuple[str, str | None]:
    """What opens the model of a run again: a name or folder, and the revision for one of the hub. ``given`` is what a person
    named instead, and goes before everything.

    A run holds the name of a local model's folder and the hash of its weights, and no path of the machine; the folder is where
    it was when it was last opened here. Raises UsageError where that is not known, or where nothing is any more. Whether the
    weights are those of the run is for the caller to check.
    """
    if given:
        return given, None
    folder = _kept(_folder_place(known.model, known.revision))
    if folder and Path(folder).is_dir():
        return folder, None
    if (known.model != MODEL_ID and _DIGEST.fullmatch(known.revision)) or COMMIT.fullmatch(known.model):
        was = (
            f"it was at {folder}, and is not there any more" if folder else "where that is is not known on this machine"
        )
        raise UsageError(
            f"run {known.id} was measured with a local model: the folder {known.model} (weights {known.revision[:12]}); {was}. "
            "Give the folder: --model FOLDER, or TRAILS_MODEL=FOLDER"
        )
    return known.model, known.revision if COMMIT.fullmatch(known.revision) else None


def _folder_place(name: str, identity: str) -> Path:
    return cache_folder() / "folders" / stable_hash(name, identity, length=64)


def _keep(place: Path, text: str) -> None:
    with suppress(OSError):  # a cache that cannot be written only costs time
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, text)


def _kept(place: Path) -> str:
    try:
        return place.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
