"""One home's work in a shared database, as a process of its own: ``python -m tests.neo4j.one_home HOME SEED``.

Loads the home into the server that NEO4J_URI names, makes every analysis of each of its runs and makes its part of the graph
again from nothing, in an order that SEED gives. Begins when a line comes on standard input, so that two can begin together.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tests.contract.test_homes import found

from trails.config import load_settings
from trails.pipeline import Home
from trails.pipeline.loading import rebuild
from trails.pipeline.results import write_results
from trails.store.base import GraphBatch
from trails.store.rows import table_of

Act = tuple[str, Callable[[], object]]


def answered(home: Home, run: str, chains: list[str]) -> None:
    """What ``trails respond`` would write of a run, made up: it needs a model."""
    ids = [f"p{run}{chain}" for chain in chains[:5]]
    nodes = table_of("Response", {"id": ids, "chain": chains[:5], "run": [run] * len(ids)})
    home.put(GraphBatch({"Response": nodes}, {"OF": table_of("OF", {"start": ids, "end": chains[:5]})}))


def acts(home: Home) -> list[Act]:
    """Every analysis that writes, for each run, some with two sets of options and some more than once; and a fresh start."""
    made: list[Act] = []
    for run in home.runs():
        chains = sorted(home.shards.done(run))
        made += [
            (f"overlaps {run}", partial(home.overlaps, run=run)),
            (f"overlaps again {run}", partial(home.overlaps, run=run)),
            (f"skeletons {run}", partial(home.overlaps, "skeleton", run=run)),
            (f"map 3 {run}", partial(home.map, 3, run=run)),
            (f"map 4 {run}", partial(home.map, 4, run=run)),
            (f"gaps {run}", partial(home.gaps, run=run)),
            (f"effects {run}", partial(home.effects, run=run)),
            (f"responses {run}", partial(answered, home, run, chains)),
            # similar steps need hidden states, which uniform homes have none of: their rows are made up
            (f"near {run}", lambda run=run: write_results(home.graph, *found(home.shards, "near", run, 0))),
        ]
    made.append(("agreement", partial(home.agreement, top=20, draws=20)))
    made.append(("fresh", partial(rebuild, home.settings, fresh=True)))
    return made


def main(folder: Path, seed: int) -> None:
    """Load, then all acts in the order of ``seed``; prints what is done."""
    settings = load_settings(home=folder, store="neo4j")
    sys.stdin.readline()
    rebuild(settings)
    with Home(folder, store="neo4j") as home:
        order = acts(home)
        random.Random(seed).shuffle(order)
        for name, act in order:
            act()
            print(name, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
