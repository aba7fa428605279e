"""Named zones: a data file of trails and one of the user, and their expressions put in place of the names."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

from trails.errors import FaultsError, InputError
from trails.platform.files import first_bytes
from trails.stellator.faults import Faults, StellatorError
from trails.stellator.language import Block, Condition, Expression, Joined, Not, Place, ZoneName
from trails.stellator.parsing import parse

FILE = "zones.toml"
MAX_BYTES = 2_000_000
"""A larger file, of blocks or of zones, is refused: 40,000 lines are more than anybody writes, and memory grows with them."""

MAX_TERMS = 400
"""Comparisons of a zone, named zones counted in: the engine nests an expression 512 deep, one level a comparison."""

MAX_NAMED = 40
"""Zones that may be named within each other."""

ALL = ("all", "все", "всё")
"""Names that stand for every measured token."""


@dataclass(frozen=True, slots=True)
class Zone:
    """A named zone: its expression, what it means, and the file that declares it."""

    name: str
    expression: Expression
    text: str
    meaning: str
    file: str


def zones(home: Path | None = None, file: Path | None = None) -> dict[str, Zone]:
    """All zones by name, in lower case; a Russian name is a second key. ``zones.toml`` of the home replaces zones of trails,
    ``file`` replaces both. Raises InputError for a file that is no TOML, and FaultsError for expressions that cannot be read.
    """
    packaged = resources.files("trails.stellator").joinpath(FILE).read_text("utf-8")
    found = _read(packaged, f"trails/stellator/{FILE}")
    for path in ([home / FILE] if home is not None and (home / FILE).is_file() else []) + ([file] if file else []):
        try:
            data = first_bytes(path, MAX_BYTES + 1)
            if len(data) > MAX_BYTES:
                raise InputError(f"{path}: larger than {MAX_BYTES:,} bytes.")
            found |= _read(data.decode("utf-8"), str(path))
        except OSError as error:
            raise InputError(f"{path}: zones cannot be read ({error.strerror}).") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not text in UTF-8 (byte {error.start}).") from None
    return found


def _read(text: str, name: str) -> dict[str, Zone]:
    try:
        declared = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name}: not TOML ({error}).") from None
    except RecursionError:
        raise InputError(f"{name}: not TOML (lists or tables are nested too deeply).") from None
    found: dict[str, Zone] = {}
    faults: list[str] = []
    for key, entry in declared.items():
        if not isinstance(entry, dict) or not isinstance(entry.get("expression"), str):
            raise InputError(f'{name}: zone {key!r} needs a line expression = "…", for example "entropy > q90".')
        unknown = sorted(set(entry) - {"expression", "meaning", "russian"})
        if unknown or not all(isinstance(value, str) for value in entry.values()):
            raise InputError(
                f"{name}: zone {key!r} may hold expression, meaning and russian, all of them texts; "
                f"found {', '.join(unknown) or 'a value that is no text'}."
            )
        expression = " ".join(entry["expression"].splitlines())
        try:
            (block,) = parse(f"{_BEFORE}{expression}]").blocks
        except StellatorError as error:
            faults += [
                f"{name}: zone {key!r}, column {max(fault.column - len(_BEFORE), 1)} of its expression: "
                f"{fault.message} {fault.hint}".rstrip()
                for fault in error.faults
            ]
            continue
        zone = Zone(key.casefold(), block.zone, entry["expression"], entry.get("meaning", ""), name)
        for one in filter(None, (key, entry.get("russian", ""))):
            found[one.casefold()] = zone
    if faults:
        raise FaultsError(name, faults)
    return found


_BEFORE = "[ZONE: "


def too_large(zone: str, terms: int) -> str:
    """What is said of a zone of too many comparisons."""
    return f"{zone} has {terms:,} comparisons (named zones counted in), and {MAX_TERMS} are possible."


def resolved(block: Block, known: Mapping[str, Zone], faults: Faults | None = None) -> Expression | None:
    """The expression of a block's zone without names; None for every token. A name that no file declares, and zones that name
    each other in a circle, go to ``faults``, and their names stay. Without ``faults`` they are raised, as StellatorError.
    """
    collected = Faults("stellator") if faults is None else faults
    found = _without_names(block.zone, known, collected, (), None, {})
    if faults is None:
        collected.check()
    return found


def _told(expression: Expression, place: Place, origin: str) -> Expression:
    """The expression of a named zone as it stands in a block: refused at the name's place, with the zone that declares it."""
    match expression:
        case Condition():
            return replace(expression, place=place, origin=expression.origin or origin)
        case Not(of):
            return Not(_told(of, place, origin))
        case Joined(sign, of):
            return Joined(sign, tuple(_told(one, place, origin) for one in of))
        case ZoneName():
            return expression


def terms_of(of: Expression | None) -> int:
    """Comparisons of an expression; a name that could not be replaced counts as one."""
    match of:
        case Not(inner):
            return terms_of(inner)
        case Joined(_, parts):
            return sum(map(terms_of, parts))
        case Condition() | ZoneName():
            return 1
        case _:
            return 0


def _without_names(
    expression: Expression,
    known: Mapping[str, Zone],
    faults: Faults,
    inside: tuple[str, ...],
    outer: Place | None,
    done: dict[str, Expression | None],
) -> Expression | None:
    """``inside`` are the zones that are being put in place of their names, ``outer`` is where the first of them is named,
    ``done`` holds every zone that was: one that others name again and again is put together once.
    """
    match expression:
        case ZoneName(zone, own):
            place = outer or own
            if zone in ALL:
                return None
            if zone not in known:
                near = difflib.get_close_matches(zone, known, 1)
                meant = f"Did you mean {near[0]}? " if near else ""
                named = f" (named in zone {inside[-1]!r} of {known[inside[-1]].file})" if inside else ""
                faults.add(
                    place,
                    f"there is no zone {zone!r}{named}.",
                    f"{meant}Zones: {', '.join(known)}. A file zones.toml in the home folder declares more.",
                    declared=bool(inside),
                )
                return expression
            if known[zone].name in inside:
                faults.add(
                    place,
                    f"zones of {known[zone].file} name each other in a circle: {' → '.join((*inside, zone))}.",
                    "Write out one of them.",
                    declared=True,
                )
                return expression
            declared = known[zone]
            if len(inside) >= MAX_NAMED:
                faults.add(
                    place,
                    f"zones of {declared.file} name each other {MAX_NAMED} deep: {' → '.join(inside[:3])} → … → {zone}.",
                    "Write out one of them.",
                    declared=True,
                )
                return expression
            if declared.name not in done:
                of = _without_names(declared.expression, known, faults, (*inside, declared.name), place, done)
                if (terms := terms_of(of)) > MAX_TERMS:
                    if not faults.found:  # else what is wrong inside was told
                        faults.add(place, too_large(f"zone {declared.name!r} of {declared.file}", terms), declared=True)
                    of = None  # nothing is built on it
                done[declared.name] = of
            of = done[declared.name]
            return None if of is None else _told(of, place, f"zone {declared.name!r} of {declared.file}")
        case Not(inner):
            found = _without_names(inner, known, faults, inside, outer, done)
            return Not(found if found is not None else ZoneName("all"))
        case Joined(sign, several):
            parts = [_without_names(one, known, faults, inside, outer, done) for one in several]
            if sign == "|" and any(part is None for part in parts):
                return None
            kept = tuple(part for part in parts if part is not None)
            return None if not kept else kept[0] if len(kept) == 1 else Joined(sign, kept)
        case Condition():
            return expression
