"""``pvq.json``: vectors of meaning in a file that a person can read, with what they were measured by.

One JSON object of these keys, all of them there and no other:

=============  =====================================================================================
``format``     ``"pvq"``
``version``    1
``model``      the name of the model; ``revision``: the identity of its weights; ``tokenizer``: of its tokenizer
``run``        the run that measured the vectors
``layer``      the layer, 0 = input embeddings, as everywhere
``width``      d, how many numbers a vector has
``whitening``  null, or ``{"n", "mean", "components"}``: unit variance is ``(x - mean) @ components``, fitted on n vectors;
               mean (d), components (d × r)
``entries``    a list of ``{"id", "text", "vector"}``: the id of a step ``CHAIN:STEP``, its text, its vector (d)
``file``       null, or the name of a safetensors file beside this one that holds the numbers; ``sha256`` is its hash
=============  =====================================================================================

Numbers are float32, written so that they read back to the bit. Above :data:`INLINE` bytes of numbers they lie in ``file``, as
the tensors ``vectors`` (N, d), ``mean`` and ``components``; then ``vector``, ``mean`` and ``components`` are null. Vectors are
as the model gave them: whitening is what a reader may do with them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from trails.errors import InputError, UsageError
from trails.platform.arrays import Floats
from trails.platform.files import write_atomic
from trails.platform.text import counted

VERSION = 1
INLINE = 10_000_000
"""Bytes of numbers (four each) that may stand in the JSON itself."""
MAX_BYTES = 500_000_000
"""A larger JSON file is refused before it is read."""

_KEYS = {
    "format": str,
    "version": int,
    "model": str,
    "revision": str,
    "tokenizer": str,
    "run": str,
    "layer": int,
    "width": int,
    "whitening": dict,
    "entries": list,
    "file": str,
    "sha256": str,
}
_MAY_BE_NULL = ("whitening", "file", "sha256")


@dataclass(frozen=True, slots=True)
class White:
    """Mean (d,) and components (d, r) of a whitening fitted on ``n`` vectors."""

    mean: Floats
    components: Floats
    n: int


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """What a file holds: ``vectors`` (N, d) float32 with the ids and texts of the steps they belong to."""

    model: str
    revision: str
    tokenizer: str
    run: str
    layer: int
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    vectors: Floats
    whitening: White | None = None

    def one(self, name: str = "") -> Floats:
        """The vector with this id, or the only one. Raises UsageError that names those there are."""
        if not name and len(self.ids) == 1:
            return np.asarray(self.vectors[0], np.float32)
        if name not in self.ids:
            shown = ", ".join(self.ids[:8]) + (" …" if len(self.ids) > 8 else "")
            asked = (
                f"vector {name!r} was asked for"
                if name
                else f"there are {counted(len(self.ids), 'vector')} and none was named"
            )
            raise UsageError(f"{asked}; write FILE#ID with one of: {shown}")
        return np.asarray(self.vectors[self.ids.index(name)], np.float32)


def write_pvq(found: Vectors, path: Path) -> list[Path]:
    """Write the file, and a safetensors file beside it where the numbers take more than :data:`INLINE` bytes; both paths.

    Raises UsageError where vectors, ids and texts do not fit together or a number is not finite: nothing is written then.
    """
    vectors = np.ascontiguousarray(found.vectors, np.float32)
    white = found.whitening
    if vectors.ndim != 2 or not len(vectors) or not len(vectors) == len(found.ids) == len(found.texts):
        raise UsageError(
            f"{counted(len(found.ids), 'id')} and {counted(len(found.texts), 'text was', 'texts were')} "
            f"given with vectors of shape {vectors.shape}; each "
            "vector has one of both, and there must be one."
        )
    tensors = {"vectors": vectors}
    if white is not None:
        tensors |= {
            "mean": np.ascontiguousarray(white.mean, np.float32),
            "components": np.ascontiguousarray(white.components, np.float32),
        }
    for name, values in tensors.items():
        if not np.isfinite(values).all():
            raise UsageError(f"{name} hold NaN or infinity, which a pvq.json cannot. Choose steps with a state.")
    record: dict[str, Any] = {
        "format": "pvq",
        "version": VERSION,
        "model": found.model,
        "revision": found.revision,
        "tokenizer": found.tokenizer,
        "run": found.run,
        "layer": found.layer,
        "width": int(vectors.shape[1]),
        "whitening": None if white is None else {"n": white.n, "mean": None, "components": None},
        "entries": [{"id": i, "text": t, "vector": None} for i, t in zip(found.ids, found.texts, strict=True)],
        "file": None,
        "sha256": None,
    }
    written = [path]
    if sum(values.nbytes for values in tensors.values()) > INLINE:
        from safetensors.numpy import save

        beside = path.with_name(path.name.removesuffix(".json") + ".safetensors")
        data = save(tensors)
        record |= {"file": beside.name, "sha256": hashlib.sha256(data).hexdigest()}
        write_atomic(beside, data)
        written.append(beside)
    else:
        for entry, vector in zip(record["entries"], vectors, strict=True):
            entry["vector"] = _plain(vector)
        if white is not None:
            record["whitening"] |= {"mean": _plain(tensors["mean"]), "components": _plain(tensors["components"])}
    write_atomic(path, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    return written


def _plain(values: Floats) -> Any:
    """Numbers with the fewest digits that read back as the same float32."""
    if values.ndim > 1:
        return [_plain(row) for row in values]
    return [float(np.format_float_scientific(value, unique=True)) for value in values]


def read_pvq(path: Path) -> Vectors:
    """The vectors of a file. Raises InputError that names the key at fault: for a file that is no ``pvq.json``, of a later
    version, with a key too many or too few, with vectors of another width, a number that is not finite, or numbers beside it
    that are not there or not those that were written.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: larger than {MAX_BYTES:,} bytes, so this is not a pvq.json.")
        record = json.loads(path.read_text("utf-8"), parse_constant=lambda name: _refuse(path, f"{name} is no number"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not JSON ({error}).") from None
    if not isinstance(record, dict) or record.get("format") != "pvq":
        raise InputError(f'{path}: not a pvq.json: its "format" is not "pvq". Write one with: trails pvq write')
    if record.get("version") != VERSION:
        raise InputError(f"{path}: pvq version {record.get('version')!r}; this version of trails reads {VERSION}.")
    for key, kind in _KEYS.items():
        value = record.get(key)
        null = value is None and key in _MAY_BE_NULL and key in record
        if not null and (not isinstance(value, kind) or isinstance(value, bool)):
            _refuse(path, f"{key!r} must be {'null or ' if key in _MAY_BE_NULL else ''}{_NAMES[kind]}")
    if unknown := sorted(set(record) - set(_KEYS)):
        _refuse(path, f"unknown key {unknown[0]!r}")
    width, entries = record["width"], record["entries"]
    if width < 1 or not entries:
        _refuse(path, "it holds no vector")
    for number, entry in enumerate(entries):
        if (
            not isinstance(entry, dict)
            or set(entry) != {"id", "text", "vector"}
            or not isinstance(entry["id"], str)
            or not isinstance(entry["text"], str)
        ):
            _refuse(path, f"entry {number} must have id, text and vector, the first two of them texts")
    ids = tuple(entry["id"] for entry in entries)
    if len(set(ids)) < len(ids):
        _refuse(path, f"id {next(i for i in ids if ids.count(i) > 1)!r} is there twice")
    given = record["whitening"]
    if given is not None and (
        set(given) != {"n", "mean", "components"} or not isinstance(given["n"], int) or isinstance(given["n"], bool)
    ):
        _refuse(path, "'whitening' must have n (a whole number), mean and components")
    numbers = _beside(path, record) if record["file"] is not None else None
    if numbers is None:
        vectors = np.stack([_vector(path, entry["vector"], width, f"entry {i}") for i, entry in enumerate(entries)])
        white = None
        if given is not None:
            rows = given["components"]
            if not isinstance(rows, list) or len(rows) != width or not isinstance(rows[0], list):
                _refuse(path, f"the whitening's components must be {counted(width, 'row')}")
            components = np.stack([_vector(path, row, len(rows[0]), "a row of the components") for row in rows])
            white = White(_vector(path, given["mean"], width, "the mean"), components, given["n"])
    else:
        vectors = numbers["vectors"]
        white = None if given is None else White(numbers["mean"], numbers["components"], given["n"])
    texts = tuple(entry["text"] for entry in entries)
    said = {key: record[key] for key in ("model", "revision", "tokenizer", "run", "layer")}
    return Vectors(**said, ids=ids, texts=texts, vectors=vectors, whitening=white)


_NAMES = {str: "a text", int: "a whole number", dict: "an object", list: "a list"}


def _refuse(path: Path, what: str) -> NoReturn:
    raise InputError(f"{path}: {what}. The format is described in docs/response.md.")


def _vector(path: Path, values: Any, width: int, what: str) -> Floats:
    if not isinstance(values, list) or len(values) != width or not all(type(v) in (int, float) for v in values):
        _refuse(path, f"{what} must be {width} numbers")
    with np.errstate(over="ignore"):
        found = np.array(values, np.float64).astype(np.float32)
    if not np.isfinite(found).all():
        _refuse(path, f"{what} holds a number that a float32 cannot")
    return found


def _beside(path: Path, record: Mapping[str, Any]) -> dict[str, Floats]:
    """The tensors of the file that the record names, checked."""
    name = str(record["file"])
    if Path(name).name != name:
        _refuse(path, f"file {name!r} must be the name of a file beside it")
    beside = path.with_name(name)
    try:
        data = beside.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: its numbers are in {name}, which cannot be read ({error.strerror}).") from None
    if hashlib.sha256(data).hexdigest() != record["sha256"]:
        raise InputError(f"{beside}: not the numbers that {path.name} was written with (another hash).")
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(data)
    except SafetensorError as error:
        raise InputError(f"{beside}: not a safetensors file ({error}).") from None
    width = record["width"]
    wanted: dict[str, Sequence[int | None]] = {"vectors": (len(record["entries"]), width)}
    if record["whitening"] is not None:
        wanted |= {"mean": (width,), "components": (width, None)}
    for key, shape in wanted.items():
        values = tensors.get(key)
        fits = values is not None and values.ndim == len(shape) and values.dtype == np.float32
        if not fits or any(size not in (None, have) for size, have in zip(shape, values.shape, strict=True)):
            _refuse(beside, f"tensor {key!r} must be float32 of shape {tuple('r' if s is None else s for s in shape)}")
        if not np.isfinite(values).all():
            _refuse(beside, f"tensor {key!r} holds NaN or infinity")
    return {key: np.asarray(tensors[key], np.float32) for key in wanted}
