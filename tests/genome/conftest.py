"""Homes for courses: the packaged chains, measured by the uniform scorer, without a graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trails.genome.course import Course, compile_course
from trails.genome.model import parse_genome
from trails.genome.shelf import Shelf
from trails.measure import open_scorer
from trails.measure.base import MeasureOptions
from trails.pipeline import segmented
from trails.readers import read
from trails.sample import canonical_path, path
from trails.store.traces import TraceStore

EXAMPLE = Path(__file__).parents[2] / "examples" / "ltm_education_map.yaml"


def fill(home: Path, chains: list[Any], shard: int = 200) -> Path:
    """Measure chains with the uniform scorer into a home."""
    scorer = open_scorer("uniform")
    with TraceStore(home, write=True) as store:
        store.put_run(scorer.run)
        for start in range(0, len(chains), shard):
            store.write(scorer.measure([segmented(chain) for chain in chains[start : start + shard]], MeasureOptions()))
    return home


@pytest.fixture(scope="session")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the sample, the hundred canonical families, and the scene texts of the example."""
    from trails.genome.model import load_genome
    from trails.genome.scenes import authored

    genome, _ = load_genome(EXAMPLE)
    scenes = [authored(scene, genome.name) for stage in genome.stages for scene in stage.scenes if scene.text]
    return fill(tmp_path_factory.mktemp("packaged"), [*read([path()]), *read([canonical_path()]), *scenes])


@pytest.fixture(scope="session")
def shelf(packaged: Path) -> Iterator[Shelf]:
    """The chains of :func:`packaged`."""
    with TraceStore(packaged) as traces:
        (run,) = traces.runs().values()
        yield Shelf(traces, run)


@pytest.fixture(scope="session")
def compiled(shelf: Shelf) -> Callable[..., Course]:
    """``compiled(text, seed=0)``: the course of a genome over the packaged chains."""

    def make(text: str, seed: int = 0, folder: Path = Path()) -> Course:
        genome, document = parse_genome(text, "g.yaml")
        return compile_course(genome, document, shelf, folder=folder, seed=seed)

    return make
