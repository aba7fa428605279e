"""One treatment and its control with the real model: training on chains must pay more than training on their shuffled steps.

Gated on paired differences over held-out chains with their intervals, and on divergence, after a fixed number of steps, never
on seconds. A training that does not learn, or whose order of steps does not arrive, fails. About two CPU-minutes.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trails.evaluate.diff import interval
from trails.evaluate.probe import chain_kl, probe
from trails.measure.base import Segmented
from trails.readers import read
from trails.schema import Chain, Step
from trails.train import TrainOptions, weight_change
from trails.train.data import shuffled_steps
from trails.train.loop import fit

pytestmark = [pytest.mark.model, pytest.mark.train, pytest.mark.slow]

TEXT = (
    "The city lies on both banks of the river and was founded in the twelfth century. Its harbour made it rich, and the"
    " old town with its churches has been rebuilt after the great fire."
)


def test_training_on_chains_beats_the_untrained_model_and_the_shuffled_control(smollm2, fresh_model) -> None:
    sample = Path(__file__).parents[2] / "src" / "trails" / "sample" / "chains.jsonl"
    chains = [chain for chain in read([str(sample)]) if "gsm8k" in chain.source][:22]
    tokenizer = smollm2.model.tokenizer

    def row(chain) -> dict:
        item = Segmented(chain, (Step(0, 0, len(chain.text)),))
        made = smollm2.contexts.row(item, max_tokens=96).record()
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
    text = [smollm2.contexts.row(Segmented(Chain("t", "0", "", TEXT), (Step(0, 0, len(TEXT)),))).record()]
    options = TrainOptions(steps=6, batch=2, rank=8, learning_rate=1e-3, layers=tuple(range(11, 21)))

    def by_chain(model) -> np.ndarray:
        return np.array([found.nll.mean(dtype=np.float64) for found in probe(model, held)])

    base = by_chain(smollm2.model.module)
    change, kl = {}, {}
    arms = {"chains": (train, 1e-3), "shuffled": (shuffled_steps(train), 1e-3), "no learning": (train[:2], 0.0)}
    for name, (data, rate) in arms.items():
        steps = options.steps if rate else 1
        model = fit(fresh_model(), data, replace(options, learning_rate=rate, steps=steps))
        moved = {layer for layer, value in weight_change(model).items() if value > 0}
        assert moved == (set(range(11, 21)) if rate else set())
        change[name] = by_chain(model) - base
        kl[name] = chain_kl(probe(model, text, compare=True))
        del model
    # paired over held-out chains: every interval is clear of 0, that of no learning is 0 itself
    assert np.abs(change["no learning"]).max() < 1e-6
    assert abs(kl["no learning"]) < 1e-6
    _, _, gain = interval(change["chains"].tolist())
    _, _, order = interval((change["chains"] - change["shuffled"]).tolist())
    assert gain < -0.1, (base, change)
    assert order < 0, (base, change)
    assert 1e-4 < kl["chains"] < 0.5, kl
