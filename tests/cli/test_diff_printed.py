"""What ``trails diff`` prints: every change beside its interval, every column said what it is, nothing left out in silence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.store.factory import corpus, make_run

from trails.evaluate.diff import interval
from trails.store.traces import TraceStore

BASE = make_run("base")
TRAINED = replace(BASE, adapter="0123456789abcdef")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Eight chains, seven of which a second run measured, each token easier by half a nat on the average."""
    before = corpus(8, BASE)
    rng = np.random.default_rng(3)
    after = [
        replace(
            t, run=TRAINED.id, surprisal=(t.surprisal - 0.5 + rng.normal(0, 0.05, len(t.surprisal))).astype(np.float32)
        )
        for t in before[:7]
    ]
    with TraceStore(tmp_path / "home", write=True) as store:
        for run, traces in ((BASE, before), (TRAINED, after)):
            store.put_run(run)
            store.write(traces)
    return tmp_path / "home"


@pytest.mark.parametrize("columns", [80, 140, 200])
def test_the_interval_stands_beside_the_change_at_every_width(
    trails: Callable[..., Any], home: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    line = ("diff", BASE.id, TRAINED.id, "--noise", 0, "--kl", 0, "--home", home)
    found = trails(*line, "--json").json()
    (group,) = found["groups"]
    told = trails(*line).out
    assert group["group"] == "compared", "no export says what was trained on"
    assert "compared: without --export nothing says whether a training saw these chains" in " ".join(told.split())
    assert f"{group['low']:.3f} to {group['high']:.3f}" in " ".join(told.split())
    with TraceStore(home) as store:
        one, two = ({t.chain.id: t for t in store.traces(run.id)} for run in (BASE, TRAINED))
    mean, low, high = interval([float(np.nanmean(two[c].surprisal - one[c].surprisal)) for c in sorted(two)])
    assert f"became easier by {-mean:.3f} nats per token (95 % interval {-high:.3f} to {-low:.3f})" in told
    assert told.startswith("compared: became easier by "), "the verdict comes first"
    assert f"{BASE.id} → {TRAINED.id} (adapter {TRAINED.adapter})" in told
    for column in ("entropy: change of", "easier, harder: share of", "hidden, attention: mean absolute change"):
        assert column in told
    left = f"1 chain was measured by run {BASE.id} and not by {TRAINED.id}: left out"
    assert left in told
    assert left in found["notes"]
    assert found["missing"] == 1


def test_status_names_an_adapter_by_its_whole_digest(trails: Callable[..., Any], home: Path) -> None:
    assert f"+ adapter {TRAINED.adapter}, " in trails("status", "--home", home).out
