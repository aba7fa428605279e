"""What a data card says about the options that were used is what the published rows say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trails.experiments import experiments
from trails.experiments.base import judge
from trails.experiments.runner import read_results
from trails.export.card import findings, verdict

ROWS = Path(__file__).parents[2] / "docs" / "experiments" / "results.jsonl"


@pytest.mark.parametrize(
    ("options", "claims"),
    [
        (("surprisal<0.92", "uniform", "shuffled", True, ()), ("mask", "mask on the task")),
        (("entropy<1.5", "uniform", "shuffled", True, ()), ("mask", "mask on the task")),
        (("none", "uniform", "rising", True, ()), ("rising order",)),
        (("none", "uniform", "falling", False, ()), ("rising order",)),
        (("none", "uniform", "rhythm:3", True, ()), ("rhythm",)),
        (("none", "uniform", "shuffled", True, ()), ()),
        (("random:0.4", "uniform", "source", True, ()), ()),
    ],
)
def test_a_card_quotes_the_verdicts_on_the_options_in_use(options, claims) -> None:
    found = read_results(ROWS)["mask-order"]
    sentences = {v.claim.name: v.sentence for v in judge(experiments()["mask-order"], found.rows)}
    said = findings(*options)
    for name, sentence in sentences.items():
        assert (name in claims) == any(line.startswith(sentence) for line in said), name


def test_the_quoted_file_holds_every_claim_of_the_experiment() -> None:
    names = {claim.name for claim in experiments()["mask-order"].claims}
    packaged = json.loads((Path(findings.__code__.co_filename).parent / "verdicts.json").read_text(encoding="utf-8"))
    assert set(packaged) == names
    with pytest.raises(KeyError):
        verdict("a claim that nobody made")
