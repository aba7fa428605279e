"""``trails genome initiation``: the four cells of a course trained, seed by seed, into a file that a later call continues."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trails.config import Settings
from trails.errors import InputError, UsageError
from trails.genome.compile import export_course
from trails.genome.initiation import CELLS, Cell, Initiation, filled, judge
from trails.genome.model import Genome, load_genome
from trails.pipeline.courses import course_of, open_shelf
from trails.pipeline.recombining import Measured, Objective
from trails.platform.files import text_lines
from trails.platform.text import counted
from trails.schema import stable_hash
from trails.store.outputs import check_output


def run_initiation(
    settings: Settings,
    path: Path,
    output: Path,
    objective: Objective,
    filler: str,
    *,
    seeds: int,
    run: str | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Initiation:
    """Train every cell of the design for seeds 0 … ``seeds`` - 1 and judge them. One JSON line a training is appended to
    ``output``; what it holds of the same genome and settings is not trained again.

    Raises UsageError for a genome without an initiation that names stages, for filler that shares chains with the course, and
    for filler of too few tokens.
    """
    from trails.train.data import load_rows

    genome, document = load_genome(path)
    after, stage = _stages(genome, path)
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    key = stable_hash(document.text, objective.key, filler)
    done = _read(output, key)
    with open_shelf(settings, run) as shelf:
        on_stage("loading the model")
        for seed in range(seeds):
            left = [cell for cell in CELLS if cell not in done.get(seed, {})]
            if not left:
                continue
            measure = Measured(settings, shelf, path.parent, replace(objective, seed=seed))
            course = course_of(genome, document, shelf, path, seed)
            ids = {shelf.id(row) for row in np.unique(course.chain).tolist()}
            with tempfile.TemporaryDirectory(prefix="trails-course-") as folder:
                written = export_course(course, "trails", Path(folder) / "course", parquet=True)
                rows = load_rows(written.report.files["train"])
            stage_of = [genome.stages[number].name for number in course.stage.tolist()]
            own = {
                "stages": [row for row in rows if stage_of[row["order"]] in after],
                "dialogues": [row for row in rows if stage_of[row["order"]] == stage],
            }
            text = _filler(measure, filler, ids, seed, own)
            for cell in left:
                first = own["stages"] if cell in ("both", "stages") else text["stages"]
                second = own["dialogues"] if cell in ("both", "dialogues") else text["dialogues"]
                value = measure.trained(
                    [*first, *second], ids | {row["chain"] for part in text.values() for row in part}
                )
                done.setdefault(seed, {})[cell] = value
                tokens = sum(len(row["input_ids"]) for row in (*first, *second))
                entry = {"key": key, "seed": seed, "cell": cell, "value": value, "tokens": tokens}
                with output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
                on_stage(f"seed {seed}, {cell}: {value:+.4f} nats per token, {counted(tokens, 'token')}")
    return judge({seed: of for seed, of in done.items() if seed < seeds})


def _stages(genome: Genome, path: Path) -> tuple[set[str], str]:
    """The stages that come before, and the one that comes after them."""
    for stage in genome.stages:
        if stage.initiation is not None and stage.initiation.after:
            return set(stage.initiation.after), stage.name
    raise UsageError(f"no stage of {path} has an initiation that names stages. Write initiation: {{after: [STAGE, …]}}")


def _read(output: Path, key: str) -> dict[int, dict[Cell, float]]:
    found: dict[int, dict[Cell, float]] = {}
    if not output.is_file():
        return found
    for number, line in text_lines(output):
        try:
            entry = json.loads(line)
            if entry["key"] == key:
                found.setdefault(int(entry["seed"]), {})[entry["cell"]] = float(entry["value"])
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            raise InputError(f"{output}:{number}: not a line of an initiation. Name another file with -o.") from None
    return found


def _filler(
    measure: Measured, text: str, taken: set[str], seed: int, own: dict[str, list[Any]]
) -> dict[str, list[Any]]:
    """Rows of other text, of as many tokens as the course's own have, for each of the two parts; no chain in both."""
    shelf = measure.shelf
    rows, _ = shelf.select(text)
    order = [row for row in shelf.arranged(rows, "shuffled", seed).tolist() if shelf.id(row) not in taken]
    items = dict(shelf.texts(np.array(sorted(order), np.int64))) if order else {}
    whole: Sequence[Any] = [measure.bench.ids_row(list(items[row]["token_ids"]), chain=shelf.id(row)) for row in order]
    found: dict[str, list[Any]] = {}
    for name, part in own.items():
        tokens = sum(len(row["input_ids"]) for row in part)
        try:
            lengths = filled([len(row["input_ids"]) for row in whole], tokens)
        except ValueError as error:
            raise UsageError(
                f"the filler {text!r} has {error} that take the place of the course's {name}. Select more chains."
            ) from None
        found[name] = [
            measure.bench.ids_row(row["input_ids"][:length], chain=row["chain"])
            for row, length in zip(whole, lengths, strict=False)
        ]
        whole = whole[len(lengths) :]
    return found
