"""The members of a consilium as a file: which models measure which input, each with its adapter, number format and context.

    input: [chains.jsonl]
    members:
      - model: ./base
      - model: ./base
        adapter: ./tuned
        name: tuned
      - model: Qwen/Qwen3-0.6B
        dtype: bfloat16
        bos: never

YAML as ``ruamel.yaml`` reads it, safely: no tags, no anchors. Paths are relative to the file.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trails.errors import InputError
from trails.genome.source import bounded_events
from trails.measure.remembered import one_name
from trails.platform.files import first_bytes, path_from

MAX_BYTES = 1_000_000

_CHOICES: dict[str, tuple[str, ...]] = {
    "dtype": ("float32", "bfloat16", "float16"),
    "bos": ("auto", "always", "never"),
    "template": ("plain", "chat"),
    "window": ("refuse", "stride"),
    "attention": ("sdpa", "eager"),
    "control_tokens": ("token", "text", "refuse"),
}
_DEFAULTS = {
    "bos": "auto",
    "template": "plain",
    "window": "refuse",
    "attention": "sdpa",
    "control_tokens": "token",
    "think": False,
    "trust_remote_code": False,
}
"""What a member measures with where it says nothing; the number format is that of the settings."""
_TEXTS = ("model", "adapter", "name", "device", "revision")
_FLAGS = ("think", "trust_remote_code")
KEYS = (*_TEXTS, *_CHOICES, *_FLAGS)
"""What a member can say, as the options of ``trails ingest`` of the same name; ``name`` is that of its run."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A member of the file: its model, its name (empty: none), what else it says, and its model as the file writes it."""

    model: str
    name: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    written: str = ""

    @property
    def measures(self) -> tuple[str, dict[str, str]]:
        """What decides its run, as far as it is known before the model is loaded: a folder is the same however its path is
        written, a default the same as nothing, and the device changes no number."""
        given = {
            key: str(value) for key, value in self.given.items() if key != "device" and value != _DEFAULTS.get(key)
        }
        if "adapter" in given:
            given["adapter"] = str(Path(given["adapter"]).resolve())
        return one_name(self.model), given

    @property
    def said(self) -> str:
        """What a message calls it."""
        more = ", ".join(f"{key} {value}" for key, value in self.given.items())
        model = self.written or self.model
        return self.name or (f"{model} ({more})" if more else model)


def read_members(file: Path, dtype: str = "float32") -> tuple[list[str], list[Listed]]:
    """The inputs and the members of a file, whose paths are relative to it; ``dtype`` is the number format of a member that
    names none. Raises InputError ``FILE:LINE``: for a file that is missing, no YAML, or that uses tags, anchors or keys that
    mean nothing, for a value that is none of its choices, and for a member that is there twice.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        data = first_bytes(file, MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise InputError(f"{file}: larger than {MAX_BYTES:,} bytes, so this lists no members.")
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror}). See: trails consilium --help") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not text in UTF-8 (byte {error.start}). Convert it first.") from None
    try:
        for event in bounded_events(
            text, lambda event, said, _: InputError(f"{file}:{event.start_mark.line + 1}: {said}.")
        ):
            mark = event.start_mark
            if getattr(event, "anchor", None) or getattr(event, "tag", None) not in (None, "!"):
                raise InputError(
                    f"{file}:{mark.line + 1}: anchors, aliases and tags are not read. Write the value out."
                )
        found = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise InputError(f"{file}:{line}: {' '.join(str(error.problem or error.context).split())}.") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: no YAML ({' '.join(str(error).split())[:200]}).") from None
    if not isinstance(found, dict):
        raise InputError(f"{file}:1: a mapping with input and members is needed. See: trails consilium --help")
    for key in found:
        if key not in ("input", "members"):
            raise InputError(f"{file}:{_line(found, key)}: {key!r} means nothing here; the keys are input and members.")
    inputs = found.get("input", [])
    inputs = [inputs] if isinstance(inputs, str) else inputs
    if not isinstance(inputs, list) or not inputs or not all(isinstance(one, str) and one for one in inputs):
        raise InputError(f"{file}:{_line(found, 'input')}: input must name one or more files or folders.")
    rows: Any = found.get("members")
    if not isinstance(rows, list) or len(rows) < 2:
        raise InputError(f"{file}:{_line(found, 'members')}: members must be a list of two or more.")
    members: list[Listed] = []
    for number, row in enumerate(rows):
        place = f"{file}:{_item(rows, number)}"
        members.append(_member(row, place, file.parent))
        own = _with_format(members[-1], dtype)
        for before, other in enumerate(members[:-1]):
            if _with_format(other, dtype) == own or (other.name and other.name == members[-1].name):
                raise InputError(
                    f"{place}: member {members[-1].said} is there already, in line {_item(rows, before)} as {other.said}. Name "
                    "every member once."
                )
    return [one if one == "-" else str(path_from(one, file.parent)) for one in inputs], members


def _with_format(member: Listed, dtype: str) -> tuple[str, dict[str, str]]:
    model, given = member.measures
    return model, {"dtype": dtype} | given


def _line(mapping: Any, key: str) -> int:
    try:
        return int(mapping.lc.key(key)[0]) + 1
    except (KeyError, AttributeError, TypeError):
        return 1


def _item(rows: Any, number: int) -> int:
    return int(rows.lc.item(number)[0]) + 1


def _model(name: str, folder: Path) -> str:
    """A model as it is opened: a folder beside the file, or the name as it is."""
    local = path_from(name, folder)
    return str(local) if name.startswith((".", "/", "~")) or local.exists() else name


def _member(row: Any, place: str, folder: Path) -> Listed:
    if isinstance(row, str):
        return Listed(_model(row, folder), written=row)
    if not isinstance(row, dict) or not isinstance(row.get("model"), str) or not row["model"]:
        raise InputError(f"{place}: a member is the name of a model, or a mapping with model.")
    given: dict[str, Any] = {}
    for key, value in row.items():
        where = f"{place.rpartition(':')[0]}:{_line(row, key)}"
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise InputError(f"{where}: {key!r} means nothing to a member.{hint} Keys: {', '.join(KEYS)}.")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise InputError(f"{where}: {key} {value!r} does not exist. There are: {', '.join(_CHOICES[key])}.")
        if key in _FLAGS and not isinstance(value, bool):
            raise InputError(f"{where}: {key} is true or false, {value!r} was given.")
        if key in _TEXTS and not (isinstance(value, str) and value):
            raise InputError(f"{where}: {key} must be a text, {value!r} was given.")
        if isinstance(value, str) and not value.isprintable():
            raise InputError(f"{where}: {key} {value!r} holds a character that cannot be printed. Write another one.")
        if key not in ("model", "name"):
            given[key] = path_from(value, folder) if key == "adapter" else bool(value) if key in _FLAGS else str(value)
    return Listed(_model(str(row["model"]), folder), str(row.get("name", "")), given, str(row["model"]))
