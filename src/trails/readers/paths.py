"""Paths to a value inside a record: ``doc.question``, ``resps[0]``, ``label.steps[].text``.

A name may itself hold dots (``attributes.llm.output_messages``): the longest name that is there counts. ``[]`` goes through
every item of a list. A string that holds JSON is opened on the way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_FIELDS_SHOWN = 20
_CUT = re.compile(r"[.\[]")
_INDEX = re.compile(r"\[(\d*)\]")


def opened(value: Any) -> Any:
    """A string that holds a JSON object or array as what it holds, everything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def value_at(value: Any, path: str) -> Any:
    """The value at ``path``; a list where the path holds ``[]``. Raises LookupError when nothing is there."""
    if not path:
        return value
    index = _INDEX.match(path)
    if index:
        value = opened(value)
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise LookupError(path)
        rest = path[index.end() :].removeprefix(".")
        if not index.group(1):
            return [value_at(item, rest) for item in value]
        number = int(index.group(1))
        if number >= len(value):
            raise LookupError(path)
        return value_at(value[number], rest)
    value = opened(value)
    if not isinstance(value, Mapping):
        raise LookupError(path)
    if path in value:
        return value[path]
    for cut in reversed([found.start() for found in _CUT.finditer(path)]):
        if path[:cut] in value:
            return value_at(value[path[:cut]], path[cut:].removeprefix("."))
    raise LookupError(path)


def top_field(record: Mapping[str, Any], path: str) -> str:
    """The field of the record that a path begins with; the path itself when there is none."""
    if path in record:
        return path
    cuts = [found.start() for found in _CUT.finditer(path)]
    return next((path[:cut] for cut in reversed(cuts) if path[:cut] in record), path)


def nested(flat: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names as nested objects, numbers among them as places of lists: ``a.0.b`` is ``{"a": [{"b": …}]}``.

    Only names that begin with ``prefix`` count; it is taken off.
    """
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        if not str(name).startswith(prefix):
            continue
        at = tree
        *parents, last = str(name)[len(prefix) :].split(".")
        for part in parents:
            below = at.setdefault(part, {})
            if not isinstance(below, dict):
                below = at[part] = {"": below}
            at = below
        if isinstance(at.get(last), dict) and isinstance(value, Mapping):
            at[last] |= value
        else:
            at[last] = value
    lists = _lists(tree)
    return lists if isinstance(lists, dict) else tree


def _lists(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    below = {key: _lists(value) for key, value in tree.items()}
    if below and all(str(key).isdecimal() for key in below):
        return [below[key] for key in sorted(below, key=int)]
    return below


def fields_found(record: Mapping[str, Any]) -> str:
    """Names of the record's fields for a message."""
    names = [str(name) if len(str(name)) <= 40 else f"{str(name)[:39]}…" for name in record]
    return (
        ", ".join(names[:MAX_FIELDS_SHOWN]) + (f", … {len(names)} in all" if len(names) > MAX_FIELDS_SHOWN else "")
        or "none"
    )
