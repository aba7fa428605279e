"""Experiments that are not run yet: from development over a registered plan and two sittings to a verdict, on a toy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from trails.experiments import base, experiments, runner
from trails.experiments.base import Scale
from trails.experiments.runner import RESULTS, RunOptions, development, read_results, run_experiments

pytestmark = pytest.mark.train

SCALES = {
    "roles": Scale("full", max_tokens=120, evaluate=3, steps=0.2, batch=4, size=0.45),
    "loop-loss": Scale("full", max_tokens=120, evaluate=3, batch=2, steps=0.07, size=0.03),
    "initiation": Scale("full", max_tokens=120, evaluate=3, batch=2),
}
"""A scale for each, of twenty held-out chains or more."""
SIZES = {"initiation": {"STAGE": 4, "TRAIN": 4, "HELD": 22}}
"""Numbers of chains for which the toy corpus is large enough."""


@pytest.mark.parametrize("name", SCALES)
def test_from_development_to_a_verdict(
    name: str, monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, data: Path, tmp_path: Path
) -> None:
    toy = replace(experiments()[name], looks=(5,), rates=(1e-3, 1e-2))
    monkeypatch.setattr(runner, "named", lambda _: (toy,))
    monkeypatch.setitem(base.SCALES, "full", SCALES[name])
    for constant, value in SIZES.get(name, {}).items():
        monkeypatch.setattr(f"trails.experiments.{name}.{constant}", value)
    options = RunOptions(model=str(tiny_folder), device="cpu")
    (outcome,) = run_experiments(name, [data], tmp_path, replace(options, mode="register"))
    assert not outcome.refused, outcome.refused
    path = tmp_path / RESULTS
    (plan, rows) = (read_results(path)[name].plan, read_results(path)[name].rows)
    assert outcome.plan
    assert rows == ()
    assert set(plan["learning rates"]) == set(toy.trained)
    assert any(
        told in plan["settings"]["cost"] for told in ("estimated, not measured", "in a trial on development seeds")
    )
    if name == "initiation":
        assert len(set(plan["learning rates"].values())) == 1
    assert len(development(path, name)) == len(toy.arms) * 2 * len(base.DEVELOPMENT_SEEDS)
    notes: list[str] = []
    (outcome,) = run_experiments(name, [data], tmp_path, replace(options, resume=True, seeds=2), note=notes.append)
    assert (outcome.seeds, {v.outcome for v in outcome.verdicts}) == (2, {"withheld"}), notes
    (outcome,) = run_experiments(name, [data], tmp_path, replace(options, resume=True), note=notes.append)
    assert outcome.seeds == 5, notes
    assert len(notes) == 5  # no seed twice
    assert [v.claim.name for v in outcome.verdicts] == [claim.name for claim in toy.claims]
    for verdict in outcome.verdicts:
        assert verdict.outcome != "withheld" or "control" in verdict.reason or "placebo" in verdict.reason
        for one in verdict.judged:
            assert one.interval.n == 5, one.criterion
    for one in (*toy.positive, *toy.placebo):
        assert base.judged((one,), base.by_seed(toy, read_results(path)[name].rows), toy.level)[0].interval.n == 5
