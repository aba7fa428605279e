"""Two homes of the same text say the same, in whatever shards the chains lie."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trails.analyses.budget import WAYS
from trails.config import load_settings
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.uniform import UniformScorer
from trails.pipeline import Home
from trails.pipeline.measuring import IngestOptions, ingest
from trails.sample import path as sample
from trails.schema import Trace
from trails.store.queries import named_queries

Trails = Callable[..., Any]

pytestmark = pytest.mark.slow

STELLATOR = '[ZONE: all]\nSTEP → "BUT"\nANCHOR → "so"\n'


class Uneven(UniformScorer):
    """Gives tokens numbers that differ, from the chain's id alone: of even ones nothing that is drawn could be another."""

    def measure(self, items: Sequence[Segmented], options: MeasureOptions) -> list[Trace]:
        found = []
        for trace in super().measure(items, options):
            rng, n = np.random.default_rng(int(trace.chain.id[1:], 16)), trace.n_tokens
            entropy = rng.gamma(4.0, 0.5, n).astype(np.float32)
            surprisal = (entropy * rng.gamma(4.0, 0.25, n)).astype(np.float32)
            rank = rng.geometric(0.05, n).astype(np.int32) - 1
            found.append(replace(trace, entropy=entropy, surprisal=surprisal, rank=rank))
        return found


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sample measured into few shards and into many."""
    made = []
    rows = sample().read_text(encoding="utf-8").splitlines(keepends=True)
    for name, tokens in (("few", 0), ("many", 600)):
        folder = tmp_path_factory.mktemp(name)
        (folder / "chains.jsonl").write_text("".join(rows), encoding="utf-8")
        settings = load_settings(home=folder / "home", store="embedded", model="uniform", device="cpu")
        ingest([folder / "chains.jsonl"], settings, IngestOptions(shard_tokens=tokens), scorer=Uneven())
        made.append(folder / "home")
    few, many = (len(list((home / "shards").glob("*.parquet"))) for home in made)
    assert many > 10 * few
    return made[0], made[1]


def asked(home: Path) -> list[tuple[str, ...]]:
    """What is asked of both homes."""
    with Home(home) as opened:
        (run,) = opened.runs()
        names = sorted(opened.shards.done(run))
        text = opened.trace(names[3]).chain.text[:300]
    plain = [
        name
        for name, one in named_queries().items()
        if all(p.default or p.name in ("run", "home") for p in one.parameters)
        and name != "home-graph"  # which shows the home itself, by its id
    ]
    assert len(plain) > 10
    return [
        ("overlaps",),
        ("overlaps", "--kind", "masked"),
        ("overlaps", "--kind", "skeleton"),
        ("map",),
        ("gaps",),
        ("effects", "scan"),
        ("basin", names[0]),
        ("patterns",),
        ("capture", text),
        ("bridge", names[0], names[1]),
        ("stellator", "run", "block.stellator", "--no-model"),
        ("chains",),
        ("show", names[0]),
        *(
            ("select", "--budget", "1500", "--by", way)
            for way in WAYS
            if way not in ("diversity", "learnability", "reaction")
        ),
        *(("query", name) for name in plain),
    ]


def test_what_is_printed_does_not_depend_on_the_shards(homes: tuple[Path, Path], trails: Trails) -> None:
    Path("block.stellator").write_text(STELLATOR, encoding="utf-8")
    apart = []
    for command in asked(homes[0]):
        one, two = (trails(*command, "--json", "--home", home, code=None) for home in homes)
        told, again = (without_place(json.loads(outcome.out or "null")) for outcome in (one, two))
        assert told or one.err, command
        if (one.code, told) != (two.code, again):
            apart.append(" ".join(command))
    assert not apart


def without_place(value: Any) -> Any:
    """Printed values without what says in which home they lie and when they were written."""
    if isinstance(value, dict):
        return {name: without_place(one) for name, one in value.items() if name not in ("home", "date", "scope")}
    if isinstance(value, list):
        return [without_place(one) for one in value]
    return re.sub(r"@a[0-9a-f]{8}$", "", value) if isinstance(value, str) else value  # an id names the home's scope
