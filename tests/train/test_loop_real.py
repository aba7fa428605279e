"""One treatment and its control with the real model: training on chains must pay more than training on their shuffled steps.

Gated on surprisal and divergence after a fixed number of steps, never on seconds. About a CPU-minute on a quiet core.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from trails.readers import read
from trails.train import TrainOptions, weight_change
from trails.train.data import shuffled_steps
from trails.train.loop import fit
from trails.train.probe import mean_kl, mean_nll, probe, text_row

pytestmark = [pytest.mark.model, pytest.mark.train, pytest.mark.slow]

TEXT = (
    "The city lies on both banks of the river and was founded in the twelfth century. Its harbour made it rich, and the"
    " old town with its churches has been rebuilt after the great fire."
)


def test_training_on_chains_beats_the_untrained_model_and_the_shuffled_control(smollm2, fresh_model) -> None:
    sample = Path(__file__).parents[2] / "src" / "trails" / "sample" / "chains.jsonl"
    chains = [chain for chain in read([str(sample)]) if "gsm8k" in chain.source][:18]
    tokenizer = smollm2.tokenizer

    def row(chain) -> dict:
        made = text_row(tokenizer, chain.text, chain.question, max_tokens=96, chain=chain.id)
        cuts = [0, *(i + 1 for i, c in enumerate(chain.text) if c == "\n"), len(chain.text)]
        offsets = tokenizer(chain.text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        at, spans = made["offset"], []
        for number, end in enumerate(cuts[1:]):
            stop = made["offset"] + sum(1 for _, last in offsets if last <= end)
            stop = min(stop, len(made["input_ids"]))
            if stop > at:
                spans.append({"step": number, "start": at, "end": stop, "role": "NONE"})
            at = max(at, stop)
        return made | {"step_spans": spans}

    rows = [row(chain) for chain in chains]
    train, held = rows[:12], rows[12:]
    text = [text_row(tokenizer, TEXT)]
    options = TrainOptions(steps=6, batch=2, rank=8, learning_rate=1e-3, layers=tuple(range(10, 20)))
    base = mean_nll(probe(smollm2.model, held))
    found = {}
    for name, data in (("chains", train), ("shuffled", shuffled_steps(train))):
        model = fit(fresh_model(), data, options)
        change = weight_change(model)
        assert {layer for layer, value in change.items() if value > 0} == set(range(10, 20))
        found[name] = (mean_nll(probe(model, held)), mean_kl(probe(model, text, compare=True)))
        del model
    assert np.isfinite(list(found.values())).all()
    assert found["chains"][0] < base - 0.02, (base, found)
    assert found["chains"][0] < found["shuffled"][0], (base, found)
    assert 0 < found["chains"][1] < 1.0, found
