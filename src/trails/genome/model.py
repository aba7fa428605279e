"""What a genome may say: stages of sections of books, gaps, scenes, roles and a budget, checked field by field.

Keys are English or Russian. A *book* is a selection of the graph (``select``, as in ``trails export --subgraph``) or a file or
folder that was ingested (``file``). What refers to something else in the file (a gap to its sections, an initiation to the
stages before it) is checked here, too; what needs a home is checked in :mod:`trails.genome.course`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from trails.export.words import ORDER_WORDS
from trails.genome.source import Document, Fault, GenomeError, Surprise, parse_source, read_source

ROLES = ("learner", "teacher", "critic", "rewriter")
ORDERS = ("shuffled", "rising", "falling", "source")

RUSSIAN = {
    "геном": "genome",
    "имя": "name",
    "этапы": "stages",
    "разделы": "sections",
    "книги": "books",
    "выбор": "select",
    "файл": "file",
    "взять": "take",
    "пропустить": "skip",
    "раз": "times",
    "порядок": "order",
    "роль": "role",
    "роли": "roles",
    "пробел": "gap",
    "пробелы": "gaps",
    "между": "between",
    "изъять": "withhold",
    "ожидать": "expect",
    "сцены": "scenes",
    "сцена_конфликта": "conflict_scene",
    "уровень": "level",
    "толчок": "trigger",
    "ожидаемое_разрешение": "resolution_expected",
    "текст": "text",
    "вопрос": "question",
    "инициация": "initiation",
    "после": "after",
    "сначала_несовпадения": "mismatch_first",
    "бюджет": "budget",
    "токены": "tokens",
    "повторение": "rehearsal",
    "окно": "window",
    "ученик": "learner",
    "преподаватель": "teacher",
    "критик": "critic",
    "переформулировщик": "rewriter",
}
"""Keys in Russian."""

_RUSSIAN_VALUES = {
    **{russian.replace(" ", "_"): english for english, russian in ORDER_WORDS.items() if english in ORDERS},
    "как_в_источнике": "source",
    **{russian: english for russian, english in RUSSIAN.items() if english in ROLES},
}


def _text(value: Any) -> Any:
    if isinstance(value, Surprise):
        if value.kind == "nothing":
            raise PydanticCustomError("nothing", "a text is missing")
        raise PydanticCustomError(
            "surprise",
            "{written} is {kind} to YAML, and a text is meant",
            {"written": value.written, "kind": value.kind},
        )
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("nothing", "a text is missing")
    return value


def _number(value: Any) -> Any:
    return _measure(value, "a number")


def _whole(value: Any) -> Any:
    return _measure(value, "a whole number")


def _measure(value: Any, meant: str) -> Any:
    """A finite number, a whole one where that is ``meant``. Raises PydanticCustomError that says what stands there instead, and
    the number to write where it can only be one."""
    whole = meant == "a whole number"
    if isinstance(value, str):
        text = value.replace("_", "")
        number = float(text) if _DECIMAL.fullmatch(text) else None
        raise _no_number(f"the text {value!r} stands where {meant} is meant", number, whole, ", without quotes")
    if not isinstance(value, Surprise):
        return value  # a list or keys, which pydantic tells
    if value.kind == "nothing":
        raise PydanticCustomError("nothing", "a number is missing")
    if value.kind != "a number":
        raise _no_number(f"{value.written} is {value.kind} to YAML, and {meant} is meant", None, whole)
    number = value.value
    if number is None or not math.isfinite(number):
        raise _no_number(f"{value.written} is no finite number, and {meant} is meant", None, whole)
    if whole and isinstance(number, float):
        raise _no_number(f"{value.written} stands where a whole number is meant", number, whole)
    return number


def _no_number(said: str, number: float | None, whole: bool, more: str = "") -> PydanticCustomError:
    """The fault, with what to write instead: ``number``, if it is one that may stand there."""
    write = "a whole number" if whole else "a number"
    if number is not None and math.isfinite(number) and (number.is_integer() or not whole):
        write = f"{number:.0f}" if number.is_integer() else str(number)
    return PydanticCustomError("number", "{said}", {"said": said, "hint": f"write {write}{more}"})


_DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def _word(value: Any) -> Any:
    value = _text(value)
    return _RUSSIAN_VALUES.get(value, value) if isinstance(value, str) else value


Text = Annotated[str, BeforeValidator(_text)]
Name = Annotated[str, Field(max_length=120), BeforeValidator(_text)]
Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_number)]
RoleName = Annotated[Literal["learner", "teacher", "critic", "rewriter"], BeforeValidator(_word)]
Order = Annotated[Literal["shuffled", "rising", "falling", "source"], BeforeValidator(_word)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Book(_Part):
    """Chains in an order. ``skip`` and ``take`` count chains after they were ordered; ``times`` feeds the whole book again."""

    name: Name = ""
    select: Text = ""
    file: Text = ""
    take: Whole | None = Field(default=None, ge=1, le=10**9)
    skip: Whole = Field(default=0, ge=0, le=10**9)
    times: Whole = Field(default=1, ge=1, le=64)
    order: Order = "shuffled"
    role: RoleName | None = None


class Section(_Part):
    """Books one after the other."""

    name: Name
    books: tuple[Book, ...] = Field(min_length=1, strict=False)


class Gap(_Part):
    """What is withheld from the whole course, so that the way from the first section to the second has to be bridged."""

    between: tuple[Name, Name] = Field(strict=False)
    withhold: Text
    expect: Text = "bridge"


class ConflictScene(_Part):
    """The three keys of a scene of conflict, and no other."""

    level: Text
    trigger: Text
    resolution_expected: Text


class Scene(_Part):
    """A scene of conflict; ``text`` (with ``question``) is one that the author gives, else a chain is looked for."""

    conflict_scene: ConflictScene
    name: Name = ""
    text: Text = ""
    question: Text = ""


class Initiation(_Part):
    """A stage that comes ``after`` others; its first ``mismatch_first`` rows are scenes of mismatch."""

    after: tuple[Name, ...] = Field(min_length=1, strict=False)
    mismatch_first: Whole = Field(default=0, ge=0, le=10**9)


class Stage(_Part):
    """Sections one after the other, then scenes."""

    name: Name
    sections: tuple[Section, ...] = Field(default=(), strict=False)
    gap: Gap | None = None
    gaps: tuple[Gap, ...] = Field(default=(), strict=False)
    scenes: tuple[Scene, ...] = Field(default=(), strict=False)
    initiation: Initiation | None = None


class Roles(_Part):
    """Selections whose chains belong to a role."""

    learner: Text = ""
    teacher: Text = ""
    critic: Text = ""
    rewriter: Text = ""


class Budget(_Part):
    """``tokens`` of the whole course, context included; ``rehearsal`` the share of a stage's rows that come from earlier ones;
    ``window`` the tokens of a sequence of the trainer."""

    tokens: Whole | None = Field(default=None, ge=1, le=10**13)
    rehearsal: Number = Field(default=0.0, ge=0, lt=1)
    window: Whole | None = Field(default=None, ge=2, le=10**9)


class Genome(_Part):
    """A course."""

    genome: Whole
    name: Name
    stages: tuple[Stage, ...] = Field(min_length=1, strict=False)
    roles: Roles = Roles()
    budget: Budget = Budget()


_BELOW: dict[str, type[_Part]] = {
    "stages": Stage,
    "sections": Section,
    "books": Book,
    "gap": Gap,
    "gaps": Gap,
    "scenes": Scene,
    "conflict_scene": ConflictScene,
    "initiation": Initiation,
    "roles": Roles,
    "budget": Budget,
}
_FOREIGN = {english: russian for russian, english in RUSSIAN.items()}


def _kind_at(path: Sequence[str | int]) -> type[_Part]:
    """The model of the mapping at a path."""
    for part in reversed(path):
        if isinstance(part, str) and part in _BELOW:
            return _BELOW[part]
    return Genome


def _hint(error: Any, path: tuple[str | int, ...]) -> tuple[str, str]:
    """Message and hint of one of pydantic's errors."""
    kind, said = error["type"], error["msg"]
    keys = list(_kind_at(path[:-1] if kind in ("extra_forbidden", "missing") else path).model_fields)
    if kind == "extra_forbidden":
        near = difflib.get_close_matches(str(path[-1]), [*keys, *(_FOREIGN[key] for key in keys if key in _FOREIGN)], 1)
        return f"the key {str(path[-1])!r} is not known here", (
            f"did you mean {near[0]!r}? " if near else ""
        ) + f"keys here: {', '.join(keys)}"
    if kind in ("missing", "too_long") and "between" in path:
        return "a gap lies between two sections", "write between: [first, second]"
    if kind == "missing":
        return f"the key {str(path[-1])!r} is missing", f"add it: {path[-1]}: …"
    if kind == "surprise":
        return said, f'put it in quotes: "{error["ctx"]["written"]}"'
    if kind == "nothing":
        return said, "write one"
    if kind == "number":
        return said, error["ctx"]["hint"]
    found = error["input"]
    kinds = ((dict, "a mapping"), (list | tuple, "a list"))
    shown = next((name for kind_of, name in kinds if isinstance(found, kind_of)), repr(found)[:60])
    if kind in ("tuple_type", "list_type"):
        return f"{shown} stands where a list is meant", "write [ … ], or lines that begin with -"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return f"{shown} stands where keys are meant", f"keys here: {', '.join(_kind_at(path).model_fields)}"
    if kind == "literal_error":
        return f"{shown} is not known", f"write {error['ctx']['expected']}"
    if kind in ("int_type", "int_from_float", "float_type", "int_parsing"):
        return f"{shown} stands where a number is meant", "write a number, without quotes"
    if kind == "string_type":
        return f"{shown} stands where a text is meant", "write a text"
    if kind == "too_short":
        return "the list is empty", "put one item or more into it"
    for name, word, end in _BOUNDS:
        if name in error.get("ctx", {}):
            bound = error["ctx"][name]
            most = f"{bound:_}" if isinstance(bound, int) else f"{bound:g}"
            return f"{shown} is {word}", f"write {end.format(most)}"
    if kind == "string_too_long":
        return f"a text of {len(found):,} characters", f"write at most {error['ctx']['max_length']}"
    return f"{shown}: {said[0].lower()}{said[1:]}", "see docs/genome.md"


_BOUNDS = (
    ("ge", "too small", "{} or more"),
    ("le", "too large", "{} or less"),
    ("lt", "too large", "less than {}"),
)
"""Bounds of a number by their names in pydantic's errors."""


def load_genome(path: Path) -> tuple[Genome, Document]:
    """The genome of a file. Raises UsageError for a missing file, GenomeError with every fault of one that is wrong."""
    return _checked(read_source(path, RUSSIAN))


def parse_genome(text: str, file: str = "genome") -> tuple[Genome, Document]:
    """As :func:`load_genome`, from a text."""
    return _checked(parse_source(text, RUSSIAN, file))


def _checked(document: Document) -> tuple[Genome, Document]:
    if not isinstance(document.value, dict):
        raise GenomeError(
            document.file,
            [Fault(1, 1, "the file", "a genome begins with keys, and there are none", "begin with genome: 1")],
        )
    try:
        genome = Genome.model_validate(document.value)
    except ValidationError as error:
        faults = []
        found = error.errors(include_url=False)
        typed = {one["loc"] for one in found if one["type"].endswith("_type")}
        for one in found:
            if not one["type"].endswith("_type") and one["loc"] in typed:
                continue  # of a value of the wrong type nothing else is said
            if one["type"] == "too_short" and one["input"]:
                continue  # items were left out because they are wrong, which is said of each
            path = tuple(one["loc"])
            message, hint = _hint(one, path)
            line, column = document.at(path, key=one["type"] == "extra_forbidden")
            faults.append(Fault(line, column, document.shown(path), message, hint))
        raise GenomeError(document.file, faults) from None
    if faults := list(_references(genome, document)):
        raise GenomeError(document.file, faults)
    return genome, document


def fault_at(document: Document, path: Sequence[str | int], message: str, hint: str) -> Fault:
    """A fault at the value of a path."""
    line, column = document.at(path)
    return Fault(line, column, document.shown(path), message, hint)


def gaps_of(genome: Genome) -> list[tuple[tuple[str | int, ...], Gap]]:
    """Every gap with its path."""
    found: list[tuple[tuple[str | int, ...], Gap]] = []
    for number, stage in enumerate(genome.stages):
        if stage.gap is not None:
            found.append((("stages", number, "gap"), stage.gap))
        found += [(("stages", number, "gaps", i), gap) for i, gap in enumerate(stage.gaps)]
    return found


def _references(genome: Genome, document: Document) -> Iterable[Fault]:
    """Faults of what refers to something else in the file."""

    def fault(path: Sequence[str | int], message: str, hint: str) -> Fault:
        return fault_at(document, path, message, hint)

    if genome.genome != 1:
        yield fault(("genome",), f"version {genome.genome} is not known", "write genome: 1")
    stages = [stage.name for stage in genome.stages]
    places = {
        section.name: number
        for number, section in enumerate(section for stage in genome.stages for section in stage.sections)
    }
    counted = Counter(section.name for stage in genome.stages for section in stage.sections)
    for number, stage in enumerate(genome.stages):
        at: tuple[str | int, ...] = ("stages", number)
        if stage.name in stages[:number]:
            yield fault((*at, "name"), f"two stages are called {stage.name!r}", "give each its own name")
        if not stage.sections and not stage.scenes:
            yield fault(at, f"the stage {stage.name!r} has no tokens: neither sections nor scenes", "add sections: …")
        for i, section in enumerate(stage.sections):
            here = (*at, "sections", i)
            if counted[section.name] > 1:
                yield fault((*here, "name"), f"several sections are called {section.name!r}", "give each its own name")
            for j, book in enumerate(section.books):
                if bool(book.select) == bool(book.file):
                    yield fault(
                        (*here, "books", j),
                        "a book has either select or file" if book.select else "an empty book: neither select nor file",
                        'write select: "source:NAME", or file: FOLDER',
                    )
        if stage.initiation is not None:
            for i, name in enumerate(stage.initiation.after):
                if name not in stages[:number]:
                    known = ", ".join(stages[:number]) or "none: this is the first stage"
                    what = "comes later" if name in stages else "does not exist"
                    yield fault(
                        (*at, "initiation", "after", i),
                        f"the stage {name!r} {what}",
                        f"stages before this one: {known}",
                    )
    yield from _gap_faults(genome, document, places)
    if genome.budget.rehearsal and len(genome.stages) == 1:
        yield fault(("budget", "rehearsal"), "one stage has nothing before it to rehearse", "leave rehearsal out")


def _gap_faults(genome: Genome, document: Document, places: dict[str, int]) -> Iterable[Fault]:
    edges: dict[str, set[str]] = {}
    for path, gap in gaps_of(genome):
        missing = [(i, name) for i, name in enumerate(gap.between) if name not in places]
        for i, name in missing:
            near = difflib.get_close_matches(name, list(places), 1)
            yield fault_at(
                document,
                (*path, "between", i),
                f"the section {name!r} does not exist",
                f"did you mean {near[0]!r}?" if near else f"sections: {', '.join(places) or 'none'}",
            )
        if missing:
            continue
        first, second = gap.between
        if second in edges and _reaches(edges, second, first):
            yield fault_at(
                document,
                (*path, "between"),
                f"gaps run in a circle: {second!r} already leads to {first!r}",
                "take one of the gaps of the circle out",
            )
        elif places[first] >= places[second]:
            yield fault_at(
                document,
                (*path, "between"),
                f"{first!r} does not come before {second!r}",
                f"write between: [{second}, {first}]" if first != second else "name two sections",
            )
        edges.setdefault(first, set()).add(second)


def _reaches(edges: dict[str, set[str]], start: str, goal: str) -> bool:
    """Whether gaps lead from one section to another."""
    seen, todo = set[str](), [start]
    while todo:
        name = todo.pop()
        if name == goal:
            return True
        if name not in seen:
            seen.add(name)
            todo += edges.get(name, ())
    return False
