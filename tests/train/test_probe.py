"""Surprisal, entropy and divergence of given tokens against the model's full logits; repetition; the planted transition."""

from __future__ import annotations

import math
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trails.evaluate.probe import Probe, chain_kl, chain_nll, continuations, probe, repetition
from trails.measure.caching import handed_back, kept_by
from trails.train import TrainOptions
from trails.train.loop import fit

pytestmark = pytest.mark.train


def test_probe_is_the_full_softmax(tiny, make_rows) -> None:
    model, rows = tiny(), make_rows(5)
    for row, found in zip(rows, probe(model, rows, batch_tokens=30, tile=3), strict=True):
        with torch.no_grad():
            log_p = torch.log_softmax(model(input_ids=torch.tensor([row["input_ids"]])).logits[0].double(), -1)
        places = [i for i in range(1, len(row["labels"])) if row["labels"][i] != -100]
        np.testing.assert_allclose(
            found.nll, [-float(log_p[i - 1, row["labels"][i]]) for i in places], rtol=1e-4, atol=1e-5
        )
        entropy = -(log_p.exp() * log_p).sum(-1)
        np.testing.assert_allclose(found.entropy, [float(entropy[i - 1]) for i in places], rtol=1e-4, atol=1e-5)


def test_an_untrained_adapter_does_not_diverge_and_a_trained_one_does(tiny, make_rows) -> None:
    rows = make_rows(4)
    untrained = fit(tiny(), rows, TrainOptions(steps=0, rank=4))
    assert chain_kl(probe(untrained, rows, compare=True)) == pytest.approx(0, abs=1e-7)
    trained = fit(tiny(), rows, TrainOptions(steps=5, rank=4, learning_rate=1e-2))
    found = probe(trained, rows, compare=True)
    assert chain_kl(found) > 1e-3
    with trained.disable_adapter():
        assert chain_nll(probe(trained, rows)) == pytest.approx(chain_nll(probe(tiny(), rows)), abs=1e-5)
    assert chain_nll(found, base=True) == pytest.approx(chain_nll(probe(tiny(), rows)), abs=1e-5)
    assert chain_nll(found, base=True) != pytest.approx(chain_nll(found), abs=1e-3)


def test_what_a_model_kept_is_handed_back_under_the_name_that_it_knows(tiny, make_rows) -> None:
    plain, adapted = tiny(), fit(tiny(), make_rows(2), TrainOptions(steps=0, rank=4))
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert continuations(adapted, [[2, 3, 4]], 5) == continuations(plain, [[2, 3, 4]], 5)

    class Older(torch.nn.Module):
        def forward(self, input_ids, past_key_values=None):
            return past_key_values

    assert handed_back(Older(), "kept") == {"past_key_values": "kept"}
    assert handed_back(plain, None) == {}
    assert list(handed_back(adapted, "kept")) == list(handed_back(plain, "kept"))
    assert kept_by(SimpleNamespace(past_key_values="kept")) == kept_by(SimpleNamespace(cache="kept")) == "kept"


def test_training_on_a_planted_transition_moves_it_and_not_the_others(tiny, make_rows) -> None:
    """One transition (token 10 after 9) carries all the weight. It becomes far easier; on rows where 9 and 10 do not
    occur the model moves by far less. The noise floor is the same model measured in other batches."""
    rows = make_rows(8, length=16, seed=3)
    for row in rows:
        row["input_ids"] = [i if i not in (9, 10) else 11 for i in row["input_ids"]]
        row["labels"] = [-100 if label == -100 else i for label, i in zip(row["labels"], row["input_ids"], strict=True)]
    planted = [dict(row) for row in rows[:4]]
    for row in planted:
        ids = list(row["input_ids"])
        ids[8:10] = [9, 10]
        row["input_ids"] = ids
        row["labels"] = [-100] * 9 + [10] + [-100] * (len(ids) - 10)
        row["loss_weights"] = [float(label == 10) for label in row["labels"]]
    model = tiny()
    before, other_before = probe(model, planted), probe(model, rows[4:])
    floor = max(
        float(np.abs(a.nll - b.nll).max())
        for a, b in zip(other_before, probe(model, rows[4:], batch_tokens=1), strict=True)
    )
    trained = fit(model, planted, TrainOptions(steps=12, rank=2, learning_rate=3e-3, layers=(3,)))
    moved = chain_nll(probe(trained, planted)) - chain_nll(before)
    others = [float(np.abs(a.nll - b.nll).mean()) for a, b in zip(other_before, probe(trained, rows[4:]), strict=True)]
    assert floor < 1e-4
    assert moved < -0.5
    assert max(others) < 0.5 * abs(moved)


def test_greedy_continuation_is_the_argmax_of_each_step(tiny) -> None:
    model = tiny()
    prompts = [[5, 6, 7], [8, 9], [5, 5, 5]]
    for prompt, found in zip(prompts, continuations(model, prompts, 5), strict=True):
        ids = list(prompt)
        for token in found:
            with torch.no_grad():
                assert int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token
            ids.append(token)


def test_means_over_chains_and_over_tokens() -> None:
    def floats(*values: float) -> np.ndarray:
        return np.array(values, np.float32)

    probes = [
        Probe(floats(1, 1, 1, 1), floats(0, 0, 0, 0), floats(0, 0, 0, 0), floats(2, 2, 2, 2)),
        Probe(floats(6), floats(0), floats(1), floats(8)),
        Probe(floats(), floats(), floats(), floats()),  # no label: no chain
    ]
    assert (chain_nll(probes), chain_nll(probes, base=True), chain_kl(probes)) == (3.5, 5.0, 0.5)
    assert math.isnan(chain_nll(probes[2:]))


def test_repetition() -> None:
    assert repetition([1, 2, 3, 4, 5, 6]) == 0.0
    assert repetition([7] * 13) == pytest.approx(0.9)
    assert repetition([1, 2]) == 0.0
