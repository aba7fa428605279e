"""The 2 × 2 design of an initiation: equal tokens in every cell, an interaction beside its null, and a run that continues."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from trails.config import load_settings
from trails.errors import InputError, UsageError
from trails.genome.initiation import CELLS, filled, interaction, judge
from trails.measure import open_scorer
from trails.measure.base import MeasureOptions
from trails.pipeline import segmented
from trails.readers import read
from trails.sample import canonical_path
from trails.store.traces import TraceStore


def cells(n: int, effect: float, noise: float = 0.02, seed: int = 0) -> dict[int, dict[str, float]]:
    """Main effects of .1 and .2, and an interaction of ``effect``."""
    rng = np.random.default_rng(seed)
    means = {"both": 0.3 + effect, "stages": 0.1, "dialogues": 0.2, "neither": 0.0}
    return {i: {cell: means[cell] + rng.normal(0, noise) for cell in CELLS} for i in range(n)}


def test_main_effects_alone_are_no_interaction() -> None:
    assert interaction({"both": 0.3, "stages": 0.1, "dialogues": 0.2, "neither": 0.0}) == pytest.approx(0)
    for seed in range(3):
        found = judge(cells(10, 0.0, seed=seed))
        assert abs(found.scores[0].value) < 0.05
        assert found.report().verdict.endswith("not shown")


@pytest.mark.parametrize("effect", [0.5, -0.5])
def test_an_interaction_of_either_sign_is_shown(effect: float) -> None:
    found = judge(cells(12, effect))
    (score,) = found.scores
    assert score.value == pytest.approx(effect, abs=0.05)
    low, high = score.interval or (0, 0)
    assert low < effect < high or score.value == pytest.approx(effect, abs=0.03)
    assert found.report().verdict.endswith(": shown")


def test_few_seeds_and_seeds_with_a_hole_have_no_score() -> None:
    values = cells(6, 0.5)
    del values[0]["both"], values[1]["neither"]
    found = judge(values)
    assert found.scores == ()
    assert found.withheld[0].reason.startswith("4 whole seeds")
    assert "not judged" in found.report().verdict


def test_filler_is_as_many_tokens() -> None:
    assert filled([5, 4, 9, 2], 12) == [5, 4, 3]
    assert filled([5, 4], 9) == [5, 4]
    assert filled([5], 0) == []
    with pytest.raises(ValueError, match="9 of 10 tokens"):
        filled([5, 4], 10)


GENOME = """\
genome: 1
name: two
stages:
  - name: abc
    sections: [{name: a, books: [{select: "meta:version=plain", take: 4}]}]
  - name: talk
    sections: [{name: b, books: [{select: "meta:version=joined", take: 3}]}]
    initiation: {after: [abc]}
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of canonical chains, measured by the uniform scorer, with a random model over its tokens."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from trails.experiments import bench

    scorer = open_scorer("uniform")
    run = replace(scorer.run, model="toy")
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    module = LlamaForCausalLM(LlamaConfig(vocab_size=300, max_position_embeddings=2048, pad_token_id=0, **shape)).eval()
    model = SimpleNamespace(module=module, tokenizer=None)
    monkeypatch.setattr(bench, "open_scorer", lambda *_, **__: SimpleNamespace(model=model, run=run, contexts=None))
    monkeypatch.setattr("trails.experiments.corpus.disjoint", lambda rows, taken: range(len(rows)))  # of bytes
    chains = [c for c in read([canonical_path()]) if c.language == "en"][:70]
    with TraceStore(tmp_path / "home", write=True) as store:
        store.put_run(run)
        traces = scorer.measure([segmented(c) for c in chains], MeasureOptions())
        store.write([replace(trace, run=run.id) for trace in traces])
    (tmp_path / "g.yaml").write_text(GENOME, encoding="utf-8")
    return tmp_path


@pytest.mark.train
def test_cells_train_on_equal_tokens_and_a_second_call_trains_what_is_missing(toy: Path) -> None:
    from trails.pipeline.initiating import run_initiation
    from trails.pipeline.recombining import Objective

    settings = load_settings(home=toy / "home", model="toy")
    objective = Objective("meta:version=lines", "meta:version=supposed", steps=2, rows=3, learning_rate=0.05)
    out = toy / "cells.jsonl"

    def call(seeds: int) -> list[dict[str, object]]:
        run_initiation(settings, toy / "g.yaml", out, objective, "meta:version=reworded", seeds=seeds)
        return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]

    first = call(1)
    assert [entry["cell"] for entry in first] == list(CELLS)
    assert len({entry["tokens"] for entry in first}) == 1
    assert len({entry["value"] for entry in first}) == 4
    out.write_text("".join(json.dumps(entry) + "\n" for entry in first[:2]), encoding="utf-8")
    again = call(1)
    assert [entry["cell"] for entry in again] == list(CELLS)
    for a, b in zip(first, again, strict=True):
        assert a["value"] == pytest.approx(b["value"], abs=1e-6)
    assert len(call(2)) == 8
    out.write_text("{}\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"cells\.jsonl:1"):
        call(1)
    one = next(c for c in read([canonical_path()]) if c.language == "en" and c.metadata["version"] == "reworded")
    with pytest.raises(UsageError, match="tokens that take the place of the course's"):
        run_initiation(settings, toy / "g.yaml", toy / "x", objective, f"chain:{one.id}", seeds=1)
    (toy / "plain.yaml").write_text(GENOME.replace("    initiation: {after: [abc]}\n", ""), encoding="utf-8")
    with pytest.raises(UsageError, match="no stage of .* has an initiation"):
        run_initiation(settings, toy / "plain.yaml", toy / "x", objective, "all", seeds=1)
