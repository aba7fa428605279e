"""A YAML file as plain values, each with its place: what the model of a genome is made of.

ruamel.yaml scans and parses; the events that it gives are counted before anything is built from them, so that no input can
make the program walk a tree that it did not agree to. Anchors, aliases, tags and duplicate keys are refused with their place.
A value that YAML takes for a number, a date or a truth value while it has no quotes is a :class:`Plain`, which keeps how it was
written: where text is meant it is refused, not turned into another text.
"""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.resolver import VersionedResolver

from trails.errors import FaultsError, UsageError
from trails.platform.files import first_bytes

MAX_BYTES = 4_000_000
MAX_NODES = 100_000
MAX_DEPTH = 24

Path_ = tuple[str | int, ...]


class Surprise:
    """A value without quotes that YAML does not take for text; ``kind`` says for what, ``written`` what stands there."""

    __slots__ = ("kind", "value", "written")

    def __init__(self, written: str, kind: str, value: Any) -> None:
        self.written, self.kind, self.value = written, kind, value

    def __repr__(self) -> str:
        """As written: what an error shows."""
        return self.written


@dataclass(slots=True)
class Place:
    """Line and column of a key (0 where there is none) and of its value, from 1, and the key as written."""

    line: int
    column: int
    key_line: int = 0
    key_column: int = 0
    written: str = ""


@dataclass(slots=True)
class Document:
    """The values of a file, and where each of them stands: ``places`` maps a path of keys (in English) to its place."""

    file: str
    text: str
    value: Any = None
    places: dict[Path_, Place] = field(default_factory=dict)

    def at(self, path: Sequence[str | int], *, key: bool = False) -> tuple[int, int]:
        """Line and column of a value (or of its key), or of the nearest thing above that has a place."""
        known = tuple(path)
        while known and known not in self.places:
            known, key = known[:-1], False
        place = self.places.get(known)
        if place is None:
            return 1, 1
        return (place.key_line, place.key_column) if key and place.key_line else (place.line, place.column)

    def shown(self, path: Sequence[str | int]) -> str:
        """A path as a person reads it, with the keys as they are written in the file: ``stages[1].sections[0].name``."""
        parts: list[str] = []
        for depth, part in enumerate(path):
            if isinstance(part, int):
                parts.append(f"[{part}]")
                continue
            place = self.places.get(tuple(path[: depth + 1]))
            parts.append("." + (place.written if place is not None and place.written else part))
        return "".join(parts).lstrip(".") or "the file"


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong: where, what, and what to write instead."""

    line: int
    column: int
    path: str
    message: str
    hint: str

    def told(self, file: str) -> str:
        """``file:line:column; path: message; hint``."""
        return f"{file}:{self.line}:{self.column}; {self.path}: {self.message}; {self.hint}"


class GenomeError(FaultsError):
    """A genome that cannot be used; every fault on its own line."""

    def __init__(self, file: str, faults: Sequence[Fault]) -> None:
        """``faults`` in any order, each once or more."""
        self.faults = tuple(sorted(set(faults)))
        super().__init__(file, [fault.told(file) for fault in self.faults])


def read_source(path: Path, keys: Mapping[str, str]) -> Document:
    """The file's values with their places; ``keys`` maps other spellings of a key to the one that is meant.

    Raises UsageError for a file that is missing, GenomeError for one that is no UTF-8, too large, or no YAML that this accepts.
    """
    if str(path) == "-":
        raise UsageError(
            "- was given as the genome, which is not read from standard input. Give a file; this writes a first one: "
            "trails genome init course.genome.yaml"
        )
    try:
        data = first_bytes(path, MAX_BYTES + 1)
    except FileNotFoundError:
        name = shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))
        raise UsageError(f"there is no file {path}. Write a first genome with: trails genome init {name}") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}). Give another file.") from None
    if len(data) > MAX_BYTES:
        raise _error(str(path), 1, 1, f"the file has more than {MAX_BYTES:,} bytes", "select by source: or family:")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise _error(
            str(path), line, 1, f"byte {error.start} is not UTF-8 ({error.reason})", "save the file as UTF-8"
        ) from None
    return parse_source(text, keys, str(path))


def parse_source(text: str, keys: Mapping[str, str], file: str = "genome") -> Document:
    """As :func:`read_source`, from a text."""
    document = Document(file, text)
    try:
        _build(document, keys)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)
        said = " ".join(str(error.problem or error.context or "this is not YAML").split())
        raise _error(file, line, column, said, "see the example of: trails genome init") from None
    except YAMLError as error:  # the reader's: a character that YAML does not allow
        place = getattr(error, "position", 0)
        before = text[: place if isinstance(place, int) else 0]
        code = getattr(error, "character", 0)
        shown = f"U+{code:04X}" if isinstance(code, int) else repr(code)
        raise _error(
            file,
            before.count("\n") + 1,
            len(before.rpartition("\n")[2]) + 1,
            f"YAML does not allow {shown}",
            "delete it",
        ) from None
    return document


def _error(file: str, line: int, column: int, message: str, hint: str, path: str = "the file") -> GenomeError:
    return GenomeError(file, [Fault(line, column, path, message, hint)])


class _Open:
    """A mapping or sequence that is being built."""

    __slots__ = ("key", "path", "value")

    def __init__(self, value: dict[str, Any] | list[Any], path: Path_) -> None:
        self.value, self.path = value, path
        self.key: tuple[str, Any, str] | None = None  # key, its event, as written


def bounded_events(text: str, refuse: Callable[[Any, str, str], Exception]) -> Iterator[Any]:
    """The events of a YAML text, counted before anybody builds something of them. Raises what ``refuse`` makes of an event, a
    message and a hint where there are more than :data:`MAX_NODES` values, or deeper ones than :data:`MAX_DEPTH`.
    """
    nodes = depth = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, MappingStartEvent | SequenceStartEvent | ScalarEvent):
            nodes += 1
            if nodes > MAX_NODES:
                raise refuse(event, f"the file holds more than {MAX_NODES:,} values", "select by source: or family:")
            depth += not isinstance(event, ScalarEvent)
            if depth > MAX_DEPTH:
                raise refuse(event, f"values are nested more than {MAX_DEPTH} deep", "less than ten are needed")
        depth -= isinstance(event, MappingEndEvent | SequenceEndEvent)
        yield event


def _build(document: Document, keys: Mapping[str, str]) -> None:
    """Build values from events, one at a time; nothing recursive, nothing before it was counted."""
    open_: list[_Open] = []
    documents = 0
    file = document.file

    def refuse(event: Any, message: str, hint: str) -> GenomeError:
        path = document.shown(open_[-1].path) if open_ else "the file"
        return _error(file, event.start_mark.line + 1, event.start_mark.column + 1, message, hint, path)

    for event in bounded_events(document.text, refuse):
        if isinstance(event, DocumentStartEvent):
            documents += 1
            if documents > 1:
                raise refuse(event, "a second document begins here", "keep one genome in a file")
            continue
        if isinstance(event, AliasEvent) or getattr(event, "anchor", None):
            raise refuse(event, "anchors (&) and aliases (*) are not read", "write the value out, or put it in quotes")
        if isinstance(event, MappingEndEvent | SequenceEndEvent):
            open_.pop()
            continue
        if not isinstance(event, MappingStartEvent | SequenceStartEvent | ScalarEvent):
            continue
        if event.tag is not None and event.tag != "!":
            raise refuse(event, f"the tag {str(event.tag)[:60]} is not read", "leave it out")
        parent = open_[-1] if open_ else None
        if parent is not None and isinstance(parent.value, dict) and parent.key is None:
            _key(document, parent, event, keys, refuse)
            continue
        path = _path(parent)
        place = Place(event.start_mark.line + 1, event.start_mark.column + 1)
        if parent is not None and parent.key is not None:
            mark = parent.key[1].start_mark
            place.key_line, place.key_column, place.written = mark.line + 1, mark.column + 1, parent.key[2]
            if isinstance(event, ScalarEvent) and event.style is None and not event.value:
                place.line, place.column = (
                    place.key_line,
                    place.key_column,
                )  # no value: the scanner is at the next thing
        document.places[path] = place
        made: Any = {} if isinstance(event, MappingStartEvent) else []
        value = _scalar(event) if isinstance(event, ScalarEvent) else made
        if parent is None:
            document.value = value
        elif isinstance(parent.value, dict):
            assert parent.key is not None
            parent.value[parent.key[0]] = value
            parent.key = None
        else:
            parent.value.append(value)
        if not isinstance(event, ScalarEvent):
            open_.append(_Open(value, path))


def _path(parent: _Open | None) -> Path_:
    if parent is None:
        return ()
    if isinstance(parent.value, dict):
        assert parent.key is not None
        return (*parent.path, parent.key[0])
    return (*parent.path, len(parent.value))


def _key(document: Document, parent: _Open, event: Any, keys: Mapping[str, str], refuse: Any) -> None:
    """Take an event as the key of the value that follows."""
    if not isinstance(event, ScalarEvent):
        raise refuse(event, "a key must be a word", "put a text with { or [ in quotes")
    written = str(event.value)
    if event.style is None and written == "<<":
        raise refuse(event, "merge keys (<<) are not read", "write the values out")
    name = keys.get(written, written)
    assert isinstance(parent.value, dict)
    if name in parent.value:
        first = document.places[(*parent.path, name)]
        other = f" (as {first.written})" if first.written != written else ""
        raise refuse(
            event, f"the key {written!r} stands here twice{other}, first at line {first.key_line}", "keep one of them"
        )
    parent.key = (name, event, written)


_RESOLVER = VersionedResolver()
_KINDS = {"int": "a number", "float": "a number", "bool": "a truth value", "null": "nothing", "timestamp": "a date"}


def _scalar(event: Any) -> Any:
    """Text, or what YAML takes a value without quotes for."""
    written = str(event.value)
    if event.style is not None or event.tag == "!":
        return written
    if len(written) > 60:
        return written  # longer than any number or date
    tag = str(_RESOLVER.resolve(ScalarNode, written, (True, False))).rpartition(":")[2]
    if tag not in _KINDS:
        return written
    value: Any = None
    try:
        digits = written.replace("_", "")
        if tag == "int":
            value = int(digits, 10 if digits.lstrip("+-").isdecimal() else 0)
        elif tag == "float":
            value = float(digits)
        elif tag == "bool":
            value = written.lower() == "true"
        elif tag == "timestamp":
            value = datetime.date.fromisoformat(written[:10])
    except ValueError:
        pass  # 2001-13-45: still no text, and no number either
    return Surprise(written, _KINDS[tag], value)
