"""Whole experiments on a tiny model: plan before results, nothing run twice, another plan refused, processes agree."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from trails.errors import UsageError
from trails.experiments import base, experiments, runner
from trails.experiments.base import Scale
from trails.experiments.runner import RESULTS, RunOptions, read_results, run_experiments, stored

pytestmark = pytest.mark.train

TINY = Scale("quick", max_tokens=160, evaluate=2, steps=0.05, batch=2, size=0.09)


@pytest.fixture
def tiny_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(base.SCALES, "quick", TINY)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_all_experiments_from_plan_to_report(tiny_scale, tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    options = RunOptions(model=str(tiny_folder), device="cpu", scale="quick")
    notes: list[str] = []
    outcomes = run_experiments("all", [data], tmp_path, options, note=notes.append)
    assert [outcome.refused for outcome in outcomes] == [""] * len(experiments()), notes
    found = lines(tmp_path / RESULTS)
    names = list(experiments())
    assert [line["experiment"] for line in found[: len(names)]] == names
    assert all("plan" in line for line in found[: len(names)])
    assert not any("plan" in line for line in found[len(names) :])
    shas = {line["experiment"]: line["sha"] for line in found[: len(names)]}
    for experiment, outcome in zip(experiments().values(), outcomes, strict=True):
        mine = [line for line in found if line["experiment"] == experiment.name and "arm" in line]
        assert {(line["arm"], line["seed"]) for line in mine} == {(a.name, s) for a in experiment.arms for s in (0, 1)}
        assert len(mine) == 2 * len(experiment.arms)
        assert {line["plan_sha"] for line in mine} == {shas[experiment.name]}
        assert outcome.report is not None
        text = outcome.report.read_text(encoding="utf-8")
        assert experiment.hypothesis in text
        for verdict in outcome.verdicts:
            assert verdict.sentence in text
        for arm in experiment.arms:
            assert arm.name in text
        measured = {name for line in mine for name in line["metrics"]}
        derived = {name for name in experiment.metrics if name.endswith(("_at_equal_gain", "_at_half_gain", "_both"))}
        assert set(experiment.metrics) - derived <= measured
    # the same call again measures nothing and writes the same reports
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    run_experiments("all", [data], tmp_path, options)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    # one arm lost (a kill in the middle of a line): only it is measured again, with the same numbers
    text = (tmp_path / RESULTS).read_text(encoding="utf-8").splitlines()
    lost = max(i for i, line in enumerate(text) if '"experiment":"depth"' in line)
    kept = [*text[:lost], *text[lost + 1 :], text[lost][:40]]
    (tmp_path / RESULTS).write_text("\n".join(kept) + "\n", encoding="utf-8")
    run_experiments("depth", [data], tmp_path, options)
    again = {(r["arm"], r["seed"]): r["metrics"] for r in stored(tmp_path / RESULTS, "depth")}
    old = json.loads(text[lost])
    assert again[old["arm"], old["seed"]] == old["metrics"]
    with pytest.raises(UsageError, match="another plan"):
        run_experiments(
            "depth",
            [data],
            tmp_path,
            RunOptions(model=str(tiny_folder), device="cpu", trained="answers", scale="quick"),
        )


def test_two_processes_give_the_numbers_of_one(tiny_scale, tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    found = []
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        options = RunOptions(model=str(tiny_folder), device="cpu", jobs=jobs, scale="quick")
        run_experiments("mask-order", [data], out, options)
        found.append({(r["arm"], r["seed"]): r["metrics"]["nll_h"] for r in stored(out / RESULTS, "mask-order")})
    assert found[0].keys() == found[1].keys()
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_time_that_is_up_leaves_the_rest_for_later(tiny_scale, tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    options = RunOptions(model=str(tiny_folder), device="cpu", scale="quick", minutes=1e-9)
    notes: list[str] = []
    (outcome,) = run_experiments("depth", [data], tmp_path, options, note=notes.append)
    assert outcome.seeds == 0
    assert "time is up" in notes[0]
    assert len(lines(tmp_path / RESULTS)) == 1


def test_a_full_plan_is_developed_registered_then_run(
    monkeypatch: pytest.MonkeyPatch, tiny_folder: Path, data: Path, tmp_path: Path
) -> None:
    """A toy of two arms: rates are chosen on seeds of their own, the plan stands before the rows, resuming needs a plan."""
    fed: list[tuple[int, float]] = []

    def prepare(bench: Any, corpus: Any, scale: Scale, seed: int) -> base.Prepared:
        rows = [{"input_ids": [1, 2], "labels": [-100, seed % 7], "chain": str(k)} for k in range(20)]
        return base.Prepared({"a": rows, "b": rows}, {"H": rows})

    def run(bench: Any, prepared: Any, scale: Scale, seed: int, arms: Any, rates: dict[str, float], emit: Any) -> None:
        for arm in arms:
            fed.append((seed, rates[arm]))
            emit(arm, {"x": abs(math.log10(rates[arm]) + (3 if arm == "a" else 4)) + seed % 3 * 0.01}, {})

    toy = base.Experiment(
        name="toy", number="99", title="Toy", hypothesis="a", arms=(base.Arm("a", "a"), base.Arm("b", "b")),
        claims=(base.Claim("c", "A", (base.Criterion("x", "a", "b", "lower", delta=0.1, kind="equivalent"),)),),
        metrics={"x": "x"}, settings={}, limits="", prepare=prepare, run=run, same_rows=(("a", "b"),),
        rates=(1e-4, 1e-3), develop="x", looks=(5,),
    )  # fmt: skip
    monkeypatch.setattr(runner, "named", lambda name: (toy,))
    options = RunOptions(model=str(tiny_folder), device="cpu")
    with pytest.raises(UsageError, match="no plan of toy to go on with"):
        run_experiments("toy", [data], tmp_path, replace(options, resume=True))
    run_experiments("toy", [data], tmp_path, replace(options, mode="develop"))
    assert {seed for seed, _ in fed} == set(base.DEVELOPMENT_SEEDS)
    assert runner.chosen_rates(toy, tmp_path / RESULTS) == {"a": 1e-3, "b": 1e-4}
    told = replace(toy, develop=lambda rows: {(r["arm"], r["rate"]): -r["metrics"]["x"] for r in rows})
    assert runner.chosen_rates(told, tmp_path / RESULTS) == {"a": 1e-4, "b": 1e-3}
    (told,) = runner.power("toy", tmp_path)
    assert told[3].startswith("1.68 sd")
    assert "min for 5 seeds" in told[5]
    (outcome,) = run_experiments("toy", [data], tmp_path, replace(options, mode="register"))
    assert outcome.plan
    assert read_results(tmp_path / RESULTS)["toy"].rows == ()
    (outcome,) = run_experiments("toy", [data], tmp_path, replace(options, resume=True, seeds=2))
    assert (outcome.seeds, outcome.verdicts[0].outcome) == (2, "withheld")
    (outcome,) = run_experiments("toy", [data], tmp_path, replace(options, resume=True))
    assert (outcome.seeds, outcome.verdicts[0].outcome) == (5, "held")
    assert {rate for seed, rate in fed if seed < 5} == {1e-3, 1e-4}
    with pytest.raises(UsageError, match="the plan of toy ends at 5 seeds"):
        run_experiments("toy", [data], tmp_path, replace(options, seeds=6))
    # rows drawn otherwise than the plan says are not run
    text = (tmp_path / RESULTS).read_text(encoding="utf-8").splitlines()
    (tmp_path / RESULTS).write_text("\n".join(line for line in text if '"seed":4' not in line) + "\n", encoding="utf-8")
    changed = replace(toy, prepare=lambda *given: base.Prepared({"a": [], "b": []}, {"H": []}))
    monkeypatch.setattr(runner, "named", lambda name: (changed,))
    (outcome,) = run_experiments("toy", [data], tmp_path, options)
    assert "other rows than its plan says" in outcome.refused
    monkeypatch.setattr(runner, "named", lambda name: (replace(toy, hypothesis="b"),))
    with pytest.raises(UsageError, match="another plan .* hypothesis was a, is b"):
        run_experiments("toy", [data], tmp_path, options)


def test_what_cannot_run_says_why(tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        run_experiments("depth", [data], tmp_path, RunOptions(scale="huge"))
    options = RunOptions(model=str(tiny_folder), device="cpu", scale="quick", trained="proofs")
    with pytest.raises(UsageError, match="because or since"):
        run_experiments("anchor", [data], tmp_path, options)


def test_the_command(tiny_scale, tiny_folder: Path, data: Path, tmp_path: Path) -> None:
    from trails.cli import cli

    arguments = ["experiment", "3", "--quick", "--model", str(tiny_folder), "--device", "cpu"]
    result = CliRunner().invoke(cli, [*arguments, "--data", str(data), "--out", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    assert [row["claim"] for row in rows] == ["depth itself", "depth itself, half way", "against full fine-tuning"]
    assert (tmp_path / "depth.md").is_file()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("cuda:0,cuda:0", "--device cuda:0,cuda:0: several devices are named as cuda:0,cuda:1 …, each once"),
        ("cpu,cpu", "--device cpu,cpu: several devices are named as cuda:0,cuda:1 …, each once"),
        ("cuda:0,", "--device cuda:0,: several devices are named as cuda:0,cuda:1 …, each once"),
        ("cuda:0,cuda:98", "--device cuda:0,cuda:98: cuda:98 is not there; this machine has 2 CUDA devices"),
        ("cuda:0,cuda:2", "--device cuda:0,cuda:2: cuda:2 is not there; this machine has 2 CUDA devices"),
    ],
)
def test_devices_that_cannot_be_shared_out_are_refused(asked: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UsageError) as error:
        runner.devices_of(asked)
    assert str(error.value) == told


def test_gpus_of_one_kind_are_taken_together_and_others_not(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    names = {"cuda:0": "A", "cuda:1": "A", "cuda:2": "B"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "get_device_name", names.__getitem__)
    assert runner.devices_of("cuda:1, cuda:0") == ("cuda:1", "cuda:0")
    assert runner.devices_of("auto") == ("auto",)
    with pytest.raises(UsageError, match=r"the GPUs are of different kinds \(A, B\)"):
        runner.devices_of("cuda:0,cuda:2")


def test_processes_are_dealt_out_on_the_devices_in_turn(tmp_path: Path, data: Path, tiny_folder: Path) -> None:
    """Each process asks for its device: of two processes on cpu and on a device that is not there, one says so."""
    from trails.experiments.corpus import load_corpus

    options = RunOptions(model=str(tiny_folder), device="cpu,cuda:77", scale="quick")
    workers = runner._Workers(2, ("cpu", "cuda:77"), options, (str(data),), tmp_path, load_corpus([data]), 0.0)
    try:
        asked = [workers._pool.submit(_device_of) for _ in range(60)]  # type: ignore[union-attr]
        found = {one.result() for one in asked}
    finally:
        workers.close()
    assert len(found) == 2
    assert "cpu" in found
    assert any("cuda:77" in one for one in found)


def _device_of() -> str:
    import time

    time.sleep(0.05)  # so that neither process takes all
    error = runner._STATE.get("error")
    return str(error) if error else str(runner._STATE["bench"].device)
