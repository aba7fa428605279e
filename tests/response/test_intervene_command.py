"""``trails intervene`` end to end on a toy model: a run like any other, beside its controls, and nothing half stored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.report.test_report import contents, values

from trails.analyses.intervention import effect_of
from trails.measure.intervene import vector_hash
from trails.pipeline import Home

Trails = Callable[..., Any]


def runs() -> list[Any]:
    with Home() as home:
        return list(home.runs().values())


@pytest.fixture
def chain(trails: Trails) -> str:
    return next(str(row["chain"]) for row in trails("chains", "--json").json() if row["source"] == "toys")


@pytest.mark.slow
def test_it_is_a_run_like_any_other(trails: Trails, chain: str, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    change = ("--layer", 2, "--at", "step:1", "--from", f"{chain}:3", "--strength", 2)
    found = trails("intervene", chain, *change, "--json", "--html", file).json()
    (plain,) = [run for run in runs() if not run.intervention]
    assert found["other_run"] == plain.id != found["run"]
    assert found["largest_change_before"] == 0
    page, numbers = contents(file)
    assert page["report"]["verdict"] == found["verdict"]
    assert (page["run"]["id"], [row["id"] for row in page["chains"]]) == (plain.id, [chain])
    with Home() as home:
        before, after = (home.trace(chain, run) for run in (plain.id, found["run"]))
        rows = home.cypher(
            "MATCH (:Chain)-[m:MEASURED]->(r:Run) WHERE r.intervention IS NOT NULL RETURN r.id, m.nll"
        ).rows
        kept = np.load(next((home.settings.home / "vectors").glob("*.npy")))
        assert home.run().id == plain.id  # without a name the run as it is counts
    changed = values(page, numbers, page["chains"][0]["arrays"]["surprisal_after"])
    np.testing.assert_array_equal(changed, after.surprisal, "the page shows what the change did to every token")
    first = int(before.step_tokens[1, 0])
    size, change, _ = effect_of(before, after, first)
    own = np.abs(after.surprisal[first + 1 :].astype(float) - before.surprisal[first + 1 :]).mean()
    assert found["scores"][0]["value"] == pytest.approx(own, rel=1e-12) == pytest.approx(size)
    assert found["scores"][1]["value"] == pytest.approx(change)
    assert found["scores"][0]["controls"][0]["value"] > 0
    assert rows == ((found["run"], pytest.approx(float(after.surprisal.sum(dtype=np.float64)), rel=1e-6)),)
    assert found["intervention"]["vector_sha256"] == vector_hash(kept)
    drift = trails("drift", chain, "--run", plain.id, "--against", found["run"], "--json").json()
    assert drift["curve"][:2] == [0, 0]
    assert drift["curve"][2] > 0
    assert "compare" in found["commands"][0]["does"]
    difference = trails("diff", plain.id, found["run"], "--json").json()
    assert difference
    assert "intervention" in trails("status").out


@pytest.mark.slow
def test_places_without_a_vector_are_compared_with_other_places(trails: Trails, chain: str) -> None:
    found = trails("intervene", chain, "--layer", 3, "--at", "step:1", "--op", "ablate", "--json").json()
    assert {control["name"] for score in found["scores"] for control in score["controls"]} == {
        "other places of the same length"
    }
    whole = trails("intervene", chain, "--layer", 3, "--op", "ablate", "--json").json()
    assert not whole["scores"]
    assert whole["withheld"]


@pytest.mark.slow
def test_a_selection_is_one_run_and_strength_0_changes_nothing(trails: Trails) -> None:
    found = trails(
        "intervene", "source:toys", "--layer", 1, "--op", "scale", "--at", "5:9", "--strength", 0, "--json"
    ).json()
    assert found["n_chains"] == 8
    assert found["scores"][0]["value"] == 0
    assert "no more than its control" in found["verdict"]
    again = trails(
        "intervene", "source:toys", "--layer", 1, "--op", "scale", "--at", "5:9", "--strength", 0, "--json"
    ).json()
    assert again["run"] == found["run"]
    assert len(runs()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("--layer", 9, "--op", "ablate"), 4, "layer 9 was asked for, toy has layers 1 to 3"),
        (("--layer", 2, "--vector", "wide.npy"), 2, "the vector wide.npy has 33 numbers, the states of toy have 32"),
        (("--layer", 2, "--at", "step:7", "--op", "ablate"), 4, "step 7 of chain"),
        (("--layer", 2), 2, "add needs a vector"),
        (("--layer", 2, "--vector", "wide.npy", "--from", "random"), 2, "two vectors"),
        (("--layer", 2, "--at", "x", "--op", "ablate"), 2, "positions 'x' do not exist"),
    ],
)
def test_bad_input_stores_nothing(
    trails: Trails, chain: str, arguments: Any, code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("wide.npy", np.ones(33))
    assert says in trails("intervene", chain, *arguments, code=code).error
    with Home() as home:
        assert len(list((home.settings.home / "runs").glob("*.json"))) == 1
        assert len(home.shards.keys()) == 17


@pytest.mark.slow
def test_an_intervened_run_is_not_taken_up_again(trails: Trails, chain: str) -> None:
    found = trails("intervene", chain, "--layer", 2, "--op", "ablate", "--at", "step:1", "--json").json()
    answer = trails("intervene", chain, "--layer", 2, "--op", "ablate", "--run", found["run"], code=2)
    assert "with an intervention" in answer.error
