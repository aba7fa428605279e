"""Recombination: other courses of the same books. A unit is the set and order of books and sections, and their counts.

Every operation takes a genome as plain values and a seeded generator and gives another genome that this program can check. A
child stands in a registry with its parents, the operation, the seed, and its objective once it was measured.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from ruamel.yaml import YAML

from trails.errors import UsageError
from trails.genome.model import Genome, parse_genome
from trails.platform.files import path_from, text_lines
from trails.schema import stable_hash

Values = dict[str, Any]


def values_of(genome: Genome) -> Values:
    """A genome as plain values, without what it leaves at its default."""
    return dict(genome.model_dump(mode="json", exclude_defaults=True))


def moved(values: Values, folder: Path, to: Path) -> Values:
    """A genome of a file in ``folder`` as one of a file in ``to``: the paths in it, which are relative to the file, lead to the
    same places from there."""
    found = deepcopy(values)

    def path(name: str) -> str:
        if Path(name).expanduser().is_absolute():
            return name
        return os.path.relpath(path_from(name, folder).resolve(), to.resolve())

    def selection(text: str) -> str:
        return path(text.strip()) if text.strip().endswith(".cypher") else text

    for stage in found["stages"]:
        for section in stage.get("sections", ()):
            section["books"] = [
                book
                | ({"file": path(book["file"])} if book.get("file") else {})
                | ({"select": selection(book["select"])} if book.get("select") else {})
                for book in section["books"]
            ]
        for gap in (*([stage["gap"]] if stage.get("gap") else ()), *stage.get("gaps", ())):
            gap["withhold"] = selection(gap["withhold"])
    if found.get("roles"):
        found["roles"] = {name: selection(text) for name, text in found["roles"].items()}
    return found


def text_of(values: Mapping[str, Any]) -> str:
    """A genome as YAML. Texts are in quotes where YAML would take them for something else."""
    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.allow_unicode = True
    writer.width = 4_000
    out = io.StringIO()
    writer.dump(dict(values), out)
    return out.getvalue()


def genome_id(values: Mapping[str, Any]) -> str:
    """``g`` and 16 hex digits over the course, whatever its name."""
    course = {name: value for name, value in values.items() if name != "name"}
    return "g" + stable_hash(json.dumps(course, sort_keys=True, ensure_ascii=False))


def _sections(values: Values) -> list[list[Any]]:
    return [stage["sections"] for stage in values["stages"] if stage.get("sections")]


def _places(values: Values) -> list[tuple[list[Any], int]]:
    """Every book as its list and place."""
    return [(s["books"], i) for part in _sections(values) for s in part for i in range(len(s["books"]))]


def swap_books(values: Values, rng: np.random.Generator) -> bool:
    """Two books change places, wherever they stand."""
    places = _places(values)
    if len(places) < 2:
        return False
    (a, i), (b, j) = (places[k] for k in rng.choice(len(places), 2, replace=False).tolist())
    a[i], b[j] = b[j], a[i]
    return True


def swap_sections(values: Values, rng: np.random.Generator) -> bool:
    """Two sections change places, wherever they stand."""
    places = [(part, i) for part in _sections(values) for i in range(len(part))]
    if len(places) < 2:
        return False
    (a, i), (b, j) = (places[k] for k in rng.choice(len(places), 2, replace=False).tolist())
    a[i], b[j] = b[j], a[i]
    return True


def drop_book(values: Values, rng: np.random.Generator) -> bool:
    """A book leaves a section that holds another one."""
    places = [(books, i) for books, i in _places(values) if len(books) > 1]
    if not places:
        return False
    books, i = places[int(rng.integers(len(places)))]
    del books[i]
    return True


def count(values: Values, rng: np.random.Generator) -> bool:
    """A book with a count takes half or twice as many chains."""
    places = [(books, i) for books, i in _places(values) if books[i].get("take")]
    if not places:
        return False
    books, i = places[int(rng.integers(len(places)))]
    books[i] = books[i] | {"take": max(books[i]["take"] * 2 if rng.random() < 0.5 else books[i]["take"] // 2, 1)}
    return True


def reorder(values: Values, rng: np.random.Generator) -> bool:
    """A book gets another order of its chains."""
    places = _places(values)
    books, i = places[int(rng.integers(len(places)))]
    others = [order for order in ("shuffled", "rising", "falling") if order != books[i].get("order", "shuffled")]
    books[i] = books[i] | {"order": others[int(rng.integers(len(others)))]}
    return True


OPERATIONS: dict[str, Callable[[Values, np.random.Generator], bool]] = {
    operation.__name__.replace("_", "-"): operation
    for operation in (swap_books, swap_sections, drop_book, count, reorder)
}


def mutate(parent: Values, seed: int) -> tuple[str, Values]:
    """A child that differs from its parent by one operation, and its name. Raises UsageError where no operation changes it."""
    rng = np.random.default_rng([seed, 1])
    for _ in range(64):
        name = list(OPERATIONS)[int(rng.integers(len(OPERATIONS)))]
        child = deepcopy(parent)
        if OPERATIONS[name](child, rng) and genome_id(child) != genome_id(parent) and _sound(child):
            return name, child
    raise UsageError("no operation changes this genome into another sound one: it needs two books or more.")


def cross(one: Values, other: Values, seed: int) -> Values:
    """A child with the stages of ``one``, each of whose sections is that of ``other`` by the same name with a chance of a half.

    Raises UsageError where the two share no section by name, or the child would be unsound.
    """
    rng = np.random.default_rng([seed, 2])
    known = {section["name"]: section for part in _sections(other) for section in part}
    shared = [(part, i) for part in _sections(one) for i, s in enumerate(part) if s["name"] in known]
    if not shared:
        raise UsageError("the two genomes share no section by name, so there is nothing to cross.")
    for _ in range(64):
        child = deepcopy(one)
        for part in _sections(child):
            for i, section in enumerate(part):
                if section["name"] in known and rng.random() < 0.5:
                    part[i] = deepcopy(known[section["name"]])
        if genome_id(child) not in (genome_id(one), genome_id(other)) and _sound(child):
            return child
    raise UsageError(
        "every crossing of the two genomes is one of them. Cross genomes that differ in two sections or more."
    )


def random_genome(parent: Values, seed: int) -> Values:
    """The control of a search: the same books, dealt to the same sections at random, in random order."""
    rng = np.random.default_rng([seed, 3])
    for _ in range(64):
        child = deepcopy(parent)
        places = _places(child)
        books = [places[k][0][places[k][1]] for k in range(len(places))]
        for (own, i), k in zip(places, rng.permutation(len(books)).tolist(), strict=True):
            own[i] = books[k]
        if _sound(child):
            return child
    raise UsageError("no random order of these books is a sound genome.")


def _sound(values: Values) -> bool:
    """Whether the program's own check takes it; a change can part a gap from the order of its sections."""
    from trails.errors import TrailsError

    try:
        parse_genome(text_of(values))
    except TrailsError:
        return False
    return True


class Registry:
    """Genomes of a folder: ``ID.genome.yaml`` each, and ``registry.jsonl``, one line an event, only ever appended to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "registry.jsonl"

    def entries(self) -> list[dict[str, Any]]:
        """Every line that was written whole."""
        if not self._file.is_file():
            return []
        found = []
        for _, line in text_lines(self._file):
            try:
                found.append(json.loads(line))
            except ValueError:
                continue  # a line that a kill cut short: its genome is registered again
        return found

    def add(self, values: Values, *, operation: str, parents: Sequence[str], seed: int, **more: Any) -> str:
        """Register a genome and return its id."""
        from trails.platform.files import write_atomic

        name = genome_id(values)
        path = self.folder / f"{name}.genome.yaml"
        if not path.exists():
            write_atomic(path, text_of(values))
        entry = {"genome": name, "parents": list(parents), "operation": operation, "seed": seed, **more}
        text = json.dumps(entry, ensure_ascii=False) + "\n"
        if self._file.is_file() and not self._file.read_bytes().endswith(b"\n") and self._file.stat().st_size:
            text = "\n" + text
        with self._file.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        return name

    def objective(self, name: str, key: str) -> float | None:
        """The objective of a genome as it was measured with the settings ``key``; None if it was not."""
        for entry in self.entries():
            if entry["genome"] == name and entry.get("settings") == key and entry.get("objective") is not None:
                return float(entry["objective"])
        return None


def search(
    parent: Values,
    objective: Callable[[Values], float],
    registry: Registry,
    *,
    budget: int,
    seed: int = 0,
    settings: str = "",
) -> list[dict[str, Any]]:
    """Spend ``budget`` measurements on a hill climb from ``parent``, and as many on random orders of the same books.

    Each arm begins with the parent, which is measured once and counted in neither. A genome that the registry has with the same
    settings is not measured again. Higher is better. Returns what was measured, in order.
    """
    done: list[dict[str, Any]] = []

    def measured(values: Values, arm: str, operation: str, parents: Sequence[str], number: int) -> float:
        name = genome_id(values)
        value = registry.objective(name, settings)
        if value is None:
            value = objective(values)
            registry.add(
                values, operation=operation, parents=parents, seed=number, arm=arm, objective=value, settings=settings
            )
        done.append(
            {
                "genome": name,
                "arm": arm,
                "operation": operation,
                "parents": list(parents),
                "seed": number,
                "objective": value,
            }
        )
        return value

    best, best_value = parent, measured(parent, "parent", "given", (), seed)
    for number in range(budget):
        name, child = mutate(best, seed + number)
        value = measured(child, "search", name, (genome_id(best),), seed + number)
        if value > best_value:
            best, best_value = child, value
    for number in range(budget):
        child = random_genome(parent, seed + number)
        measured(child, "random", "random", (genome_id(parent),), seed + number)
    return done
