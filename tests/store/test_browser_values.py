"""Which run, chain and second run the Browser's favourites and guide are given."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.store.factory import corpus, make_run

from trails.schema import Run
from trails.store.browser import favourite, values_of
from trails.store.queries import named_queries
from trails.store.traces import TraceStore

BASE = make_run("base")
TRAINED = replace(BASE, adapter="ab" * 32)
CHANGED = replace(BASE, intervention="skip layer 3")
LATER = make_run("later")
OTHER_TOKENS = make_run("other", tokenizer="0badcafe" * 8)


def home_of(folder: Path, *runs: Run) -> TraceStore:
    """A home whose runs, in this order, measured the same six chains."""
    with TraceStore(folder, write=True) as store:
        for number, run in enumerate(runs):
            store.put_run(run)
            store.write(corpus(6, run))
            os.utime(folder / "runs" / f"{run.id}.json", ns=(number + 1, number + 1))
    return TraceStore(folder)


def pair(found: dict[str, Any]) -> tuple[str, str, str]:
    """Run, and the two runs of a comparison."""
    return found["run"], found.get("before", ""), found.get("after", "")


@pytest.mark.parametrize(
    ("runs", "run", "before", "after"),
    [
        ((BASE,), BASE, None, None),
        ((BASE, TRAINED), BASE, BASE, TRAINED),
        ((TRAINED, BASE), BASE, BASE, TRAINED),
        ((BASE, TRAINED, CHANGED), BASE, BASE, TRAINED),
        ((BASE, CHANGED), BASE, BASE, CHANGED),
        ((TRAINED,), TRAINED, None, None),
        ((BASE, LATER), LATER, BASE, LATER),
        ((BASE, OTHER_TOKENS), OTHER_TOKENS, None, None),
        ((OTHER_TOKENS, BASE, TRAINED), BASE, BASE, TRAINED),
    ],
)
def test_the_run_is_no_change_of_another(
    tmp_path: Path, runs: tuple[Run, ...], run: Run, before: Run | None, after: Run | None
) -> None:
    with home_of(tmp_path, *runs) as home:
        assert pair(values_of(home)) == (run.id, before.id if before else "", after.id if after else "")


def test_the_chain_has_variants_of_this_run(tmp_path: Path) -> None:
    with home_of(tmp_path, BASE, TRAINED) as home:
        chains = [trace.chain.id for trace in corpus(6, BASE)]
        plain = values_of(home)["chain"]
        wanted, never = sorted(set(chains) - {plain})[:2]
        variants = {"run": [TRAINED.id, BASE.id], "metadata": [[("parent", never)], [("parent", wanted)]]}
        table = pa.table(
            variants, schema=pa.schema({"run": pa.string(), "metadata": pa.map_(pa.string(), pa.string())})
        )
        path = home.variant_file("v0")
        path.parent.mkdir()
        pq.write_table(table, path)
        home.variant_file("v1").write_bytes(b"no parquet")
        found = values_of(home)
        assert found["chain"] == wanted
        assert found["step"].startswith(f"{wanted}:")
        assert f'chain => "{wanted}"' in favourite(named_queries()["variants-graph"], found)
        assert f'after => "{TRAINED.id}"' in favourite(named_queries()["change-graph"], found)


def test_an_empty_home_has_no_values(tmp_path: Path) -> None:
    with TraceStore(tmp_path, write=True) as store:
        store.put_run(BASE)
        assert values_of(store) == {}
