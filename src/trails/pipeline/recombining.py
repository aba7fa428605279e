"""The objective of a recombination: a short training on a course, its gain on held-out chains, its damage to others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trails.config import Settings
from trails.errors import UsageError
from trails.genome.compile import export_course
from trails.genome.course import compile_course
from trails.genome.model import load_genome, parse_genome
from trails.genome.recombine import Registry, Values, genome_id, moved, search, text_of, values_of
from trails.genome.shelf import Shelf
from trails.pipeline.courses import open_shelf
from trails.platform.text import counted
from trails.store.outputs import check_output


@dataclass(frozen=True, slots=True)
class Objective:
    """How a course is measured: ``held_out`` and ``unrelated`` are selections. Training takes ``steps`` optimiser steps (0: one
    pass) of ``batch`` rows in the order of the course. The value is the held-out gain minus the damage, nats per token.
    """

    held_out: str
    unrelated: str
    steps: int = 0
    batch: int = 4
    rank: int = 8
    learning_rate: float = 1e-3
    rows: int = 24
    seed: int = 0

    @property
    def key(self) -> str:
        """Everything that changes a value, in words: values with other settings are not compared."""
        return (
            f"held out {self.held_out}, unrelated {self.unrelated}, {self.steps} steps of {self.batch}, rank {self.rank}, "
            f"learning rate {self.learning_rate:g}, {self.rows} rows, seed {self.seed}"
        )


class Measured:
    """Measures courses over one shelf with one model; the model is loaded once, and is as before after every course."""

    def __init__(self, settings: Settings, shelf: Shelf, folder: Path, objective: Objective) -> None:
        from trails.experiments.bench import Bench
        from trails.export.record import IGNORED

        self.shelf, self.folder, self.objective = shelf, folder, objective
        if shelf.run.model == "uniform":
            raise UsageError("the uniform scorer cannot be trained. Measure the chains with a model: trails ingest")
        self.bench = Bench(settings.model or shelf.run.model, device=settings.device)
        if (self.bench.run.revision, self.bench.run.tokenizer) != (shelf.run.revision, shelf.run.tokenizer):
            raise UsageError(
                f"run {shelf.run.id} was measured with other weights than those of {self.bench.run.model}. "
                "Give the model of the run with --model"
            )
        self.ignored = IGNORED
        self.sides = {name: self._side(text) for name, text in self._asked().items()}

    def _asked(self) -> dict[str, str]:
        return {"held out": self.objective.held_out, "unrelated": self.objective.unrelated}

    def _side(self, text: str) -> tuple[set[str], list[Any]]:
        """Ids and rows of a selection, drawn by seed."""
        rows, _ = self.shelf.select(text)
        chosen = self.shelf.arranged(rows, "shuffled", self.objective.seed)[: self.objective.rows]
        found = {}
        for row, item in self.shelf.texts(chosen):
            asked = self.bench.ids(item["question"] + "\n") if item["question"] else []
            found[row] = self.bench.ids_row(list(item["token_ids"])[:512], asked[:128], chain=self.shelf.id(row))
        return {self.shelf.id(row) for row in chosen.tolist()}, [found[row] for row in chosen.tolist()]

    def __call__(self, values: Values) -> float:
        """The objective of a genome. Raises UsageError where its course holds what it is measured on."""
        from trails.train.data import load_rows

        genome, document = parse_genome(text_of(values), f"{genome_id(values)}.genome.yaml")
        course = compile_course(genome, document, self.shelf, folder=self.folder, seed=self.objective.seed)
        trained_on = {self.shelf.id(row) for row in np.unique(course.chain).tolist()}
        self._apart(trained_on, f"the course of {genome.name}")
        with tempfile.TemporaryDirectory(prefix="trails-course-") as folder:
            done = export_course(course, "trails", Path(folder) / "course", parquet=True)
            rows = load_rows(done.report.files["train"])
        return self.trained(rows, trained_on)

    def _apart(self, trained_on: set[str], where: str) -> None:
        """Raises UsageError where what is measured on is trained on."""
        for name, (ids, _) in self.sides.items():
            _apart(name, ids & trained_on, where)

    def trained(self, rows: list[Any], trained_on: set[str]) -> float:
        """The objective of rows in their order, whose chains are ``trained_on``."""
        from trails.experiments.corpus import disjoint
        from trails.train import TrainOptions

        self._apart(trained_on, "what is trained on")
        taken = [row["input_ids"] for row in rows]
        scored = {
            name: [side[i] for i in disjoint([r["input_ids"] for r in side], taken)]
            for name, (_, side) in self.sides.items()
        }
        for name, side in scored.items():
            if not side:
                raise UsageError(f"every {name} chain shares a run of 13 tokens with the course. Select other chains.")
        o = self.objective
        steps = o.steps or -(-len(rows) // o.batch)
        options = TrainOptions(
            steps=steps,
            batch=o.batch,
            rank=o.rank,
            alpha=2 * o.rank,
            learning_rate=o.learning_rate,
            layers=(),
            seed=o.seed,
        )
        before = {name: self._nll(self.bench.model, side) for name, side in scored.items()}
        with self.bench.trained(rows, options) as (model, _):
            after = {name: self._nll(model, side) for name, side in scored.items()}
        return (before["held out"] - after["held out"]) - max(after["unrelated"] - before["unrelated"], 0.0)

    def _nll(self, model: Any, rows: list[Any]) -> float:
        return float(np.mean(np.concatenate([probe.nll for probe in self.bench.probe(model, rows)])))


def _apart(name: str, shared: set[str], where: str) -> None:
    """Raises UsageError for chains of a selection that are trained on."""
    if shared:
        raise UsageError(
            f"the {name} selection: {counted(len(shared), 'chain is', 'chains are')} in {where} (first {min(shared)}). "
            "Select chains that no book holds."
        )


def search_genome(
    settings: Settings,
    path: Path,
    folder: Path,
    objective: Objective,
    *,
    budget: int,
    seed: int = 0,
    run: str | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Search from the genome of ``path``, and as many random orders of its books; every genome is registered in ``folder``."""
    genome, document = load_genome(path)
    check_output(folder)
    registry = Registry(folder)
    with open_shelf(settings, run) as shelf:
        # what is wrong is told before a model is loaded, at its place in the file that was given
        course = compile_course(genome, document, shelf, folder=path.parent, seed=objective.seed)
        held = set(np.unique(course.chain).tolist())
        for name, text in (("held out", objective.held_out), ("unrelated", objective.unrelated)):
            rows, _ = shelf.select(text)
            chosen = shelf.arranged(rows, "shuffled", objective.seed)[: objective.rows].tolist()
            _apart(name, {shelf.id(row) for row in chosen if row in held}, f"the course of {path}")
        on_stage("loading the model")
        measure = Measured(settings, shelf, folder, objective)
        number = 0

        def told(values: Values) -> float:
            nonlocal number
            value = measure(values)
            number += 1
            on_stage(f"measured {number} of at most {2 * budget + 1}: {genome_id(values)} {value:+.4f} nats per token")
            return value

        return search(
            moved(values_of(genome), path.parent, folder),
            told,
            registry,
            budget=budget,
            seed=seed,
            settings=objective.key,
        )
