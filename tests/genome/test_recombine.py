"""Recombination: operations on sets and orders, a registry that only grows, and a search with its control."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.genome.conftest import EXAMPLE
from transformers import LlamaConfig, LlamaForCausalLM

from trails.config import load_settings
from trails.errors import UsageError
from trails.experiments import bench
from trails.genome.generate import EXAMPLE as FIRST
from trails.genome.model import load_genome, parse_genome
from trails.genome.recombine import (
    OPERATIONS,
    Registry,
    cross,
    genome_id,
    mutate,
    random_genome,
    search,
    text_of,
    values_of,
)
from trails.genome.shelf import Shelf
from trails.genome.source import GenomeError
from trails.measure import open_scorer
from trails.measure.base import MeasureOptions
from trails.pipeline import segmented
from trails.pipeline.recombining import Measured, Objective, search_genome
from trails.readers import read
from trails.sample import canonical_path
from trails.store.traces import TraceStore

VALUES = values_of(load_genome(EXAMPLE)[0])


def books(values: dict[str, Any]) -> list[str]:
    return [b["select"] for stage in values["stages"] for s in stage.get("sections", ()) for b in s["books"]]


@pytest.mark.slow
def test_a_genome_survives_being_written() -> None:
    for text in (EXAMPLE.read_text(encoding="utf-8"), FIRST):
        genome, _ = parse_genome(text)
        again, _ = parse_genome(text_of(values_of(genome)))
        assert again == genome
    odd = {"name": '"1_000"', "level": "2024-01-01", "trigger": "yes: [no]", "resolution_expected": "null"}
    values = json.loads(json.dumps(VALUES))
    values["stages"][1]["scenes"][0]["conflict_scene"] = {k: v for k, v in odd.items() if k != "name"}
    assert values_of(parse_genome(text_of(values))[0]) == values


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000))
def test_a_mutation_is_one_sound_operation_that_its_seed_decides(seed: int) -> None:
    operation, child = mutate(VALUES, seed)
    assert (operation, child) == mutate(VALUES, seed)
    assert genome_id(child) != genome_id(VALUES)
    parse_genome(text_of(child))
    before, after = Counter(books(VALUES)), Counter(books(child))
    if operation == "drop-book":
        assert sum((before - after).values()) == 1
        assert not after - before
    else:
        assert before == after
    if operation.startswith("swap"):
        assert books(child) != books(VALUES) or operation == "swap-sections"


@pytest.mark.slow
def test_every_operation_comes_up() -> None:
    assert {mutate(VALUES, seed)[0] for seed in range(24)} == set(OPERATIONS)


@pytest.mark.slow
def test_a_random_genome_deals_the_same_books() -> None:
    children = [random_genome(VALUES, seed) for seed in range(8)]
    assert all(Counter(books(child)) == Counter(books(VALUES)) for child in children)
    assert len({genome_id(child) for child in children}) > 4


def test_a_crossing_takes_each_section_from_one_parent() -> None:
    other = mutate(mutate(VALUES, 4)[1], 9)[1]
    child = cross(VALUES, other, 0)
    parents = [
        {s["name"]: s for stage in values["stages"] for s in stage.get("sections", ())} for values in (VALUES, other)
    ]
    for stage in child["stages"]:
        for section in stage.get("sections", ()):
            assert section in [parent.get(section["name"]) for parent in parents]
    with pytest.raises(UsageError, match="share no section by name"):
        cross(
            VALUES,
            values_of(parse_genome(FIRST.replace("plain", "x").replace("reworded", "y").replace("turns", "z"))[0]),
            0,
        )


def test_one_book_cannot_be_mutated_by_what_needs_two() -> None:
    alone, _ = parse_genome("genome: 1\nname: a\nstages: [{name: s, sections: [{name: t, books: [{select: all}]}]}]")
    assert mutate(values_of(alone), 0)[0] == "reorder"


def test_a_registry_survives_a_line_that_was_cut(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    first = registry.add(VALUES, operation="given", parents=[], seed=0, objective=1.5, settings="a")
    assert registry.objective(first, "a") == 1.5
    assert registry.objective(first, "b") is None
    with (tmp_path / "registry.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"genome": "g12')  # killed while writing
    child = mutate(VALUES, 0)[1]
    name = registry.add(child, operation="x", parents=[first], seed=0)
    assert [entry["genome"] for entry in registry.entries()] == [first, name]
    assert values_of(load_genome(tmp_path / f"{name}.genome.yaml")[0]) == child


@pytest.mark.slow
def test_a_search_climbs_and_stands_beside_random_orders_of_equal_budget(tmp_path: Path) -> None:
    wanted = "source:spinoza/ethics"

    def objective(values: dict[str, Any]) -> float:
        asked.append(genome_id(values))
        return -float(books(values).index(wanted)) if wanted in books(values) else -99.0

    asked: list[str] = []
    done = search(VALUES, objective, Registry(tmp_path), budget=6, seed=3, settings="toy")
    assert Counter(entry["arm"] for entry in done) == {"parent": 1, "search": 6, "random": 6}
    best = max(entry["objective"] for entry in done if entry["arm"] == "search")
    assert best > done[0]["objective"]
    assert len(asked) == len(set(asked))  # nothing is measured twice
    climbed = [entry for entry in done if entry["arm"] == "search"]
    value, parent = done[0]["objective"], done[0]["genome"]
    for entry in climbed:
        assert entry["parents"] == [parent]
        if entry["objective"] > value:
            value, parent = entry["objective"], entry["genome"]
    count = len(asked)
    again = search(VALUES, objective, Registry(tmp_path), budget=6, seed=3, settings="toy")
    assert again == done
    assert len(asked) == count


@pytest.mark.train
def test_the_objective_trains_and_leaves_the_model_as_it_was(tmp_path: Path, monkeypatch) -> None:
    scorer = open_scorer("uniform")
    toy = replace(scorer.run, model="toy")  # a random model over the uniform scorer's tokens
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    module = LlamaForCausalLM(LlamaConfig(vocab_size=300, max_position_embeddings=2048, pad_token_id=0, **shape)).eval()
    model = SimpleNamespace(module=module, tokenizer=None)
    monkeypatch.setattr(bench, "open_scorer", lambda *_, **__: SimpleNamespace(model=model, run=toy, contexts=None))
    chains = [c for c in read([canonical_path()]) if c.language == "en"][:70]
    with TraceStore(tmp_path / "home", write=True) as store:
        store.put_run(toy)
        traces = scorer.measure([segmented(c) for c in chains], MeasureOptions())
        store.write([replace(trace, run=toy.id) for trace in traces])
    text = (
        "genome: 1\nname: t\nstages: [{name: s, sections: [{name: a, books: "
        '[{select: "meta:version=plain", take: 5}, {select: "meta:version=plain", skip: 5, take: 2}]}]}]'
    )
    values = values_of(parse_genome(text)[0])
    before = [parameter.detach().clone() for parameter in module.parameters()]
    with TraceStore(tmp_path / "home") as traces:
        settings_ = load_settings(home=tmp_path / "home", model="toy")
        shelf = Shelf(traces, toy)
        monkeypatch.setattr("trails.experiments.corpus.disjoint", lambda rows, taken: range(len(rows)))  # of bytes
        asked = Objective("meta:version=lines", "meta:version=reworded", steps=2, rows=3, learning_rate=0.05)
        measure = Measured(settings_, shelf, tmp_path, asked)
        value = measure(values)
        assert np.isfinite(value)
        assert value != 0
        assert measure(values) == pytest.approx(value, abs=1e-6)  # the adapter of the first was taken off
        assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))
        other = Measured(settings_, shelf, tmp_path, replace(asked, held_out="meta:version=plain", rows=24))
        with pytest.raises(UsageError, match="the held out selection: 7 chains are in the course of t"):
            other(values)


def test_a_search_refuses_before_a_model_is_loaded_and_names_the_file_that_was_given(
    packaged: Path, tmp_path: Path
) -> None:
    file, said = tmp_path / "mine.genome.yaml", []
    text = 'genome: 1\nname: t\nstages: [{name: s, sections: [{name: a, books: [{select: "BOOK", take: 40}]}]}]\n'

    def searched(book: str, unrelated: str) -> None:
        file.write_text(text.replace("BOOK", book), encoding="utf-8")
        asked = Objective("meta:version=lines", unrelated, steps=1, rows=24)
        search_genome(load_settings(home=packaged), file, tmp_path / "g", asked, budget=1, on_stage=said.append)

    with pytest.raises(GenomeError, match=re.escape(f"{file}:3:")):
        searched("source:nowhere", "meta:version=reworded")
    with pytest.raises(UsageError, match="the unrelated selection: .* in the course of .*mine.genome.yaml"):
        searched("meta:version=plain", "meta:version=plain")
    assert said == [], "no model was loaded"
