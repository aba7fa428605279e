"""``trails anchors`` end to end on a toy model: the graph holds what was measured, the scores are recomputed here."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import groupby
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import rankdata, spearmanr

from trails.analyses.anchors import CORRELATION, NEARNESS, Anchors, anchored, largest_of
from trails.pipeline import Home

Trails = Callable[..., Any]


@pytest.mark.slow
def test_pairs_reach_the_graph_and_the_scores_are_theirs(trails: Trails) -> None:
    found = trails("anchors", "source:toys", "--json", "--limit", 1000).json()
    pairs = found["pairs"]
    assert found["n_chains"] == 8
    assert len(pairs) == found["n_pairs"] == 8 * 21
    with Home() as home:
        rows = home.cypher(
            "MATCH (a:Step)-[d:DEPENDS_ON]->(b:Step) RETURN a.chain, a.index, b.index, d.nats, d.kl, d.mass, d.layers, d.run"
        ).rows
        observed = {
            (row[0], row[1], row[2]): row[3]
            for row in home.cypher(
                "MATCH (a:Step)-[d:ATTENDS_TO]->(b:Step) RETURN a.chain, a.index, b.index, d.mean"
            ).rows
        }
    stored = {row[:3]: row[3:] for row in rows}
    for pair in pairs:
        nats, kl, mass, layers, run = stored[pair["chain"], pair["later"], pair["earlier"]]
        assert (nats, kl, layers, run) == (pair["nats"], pair["kl"], "all", found["run"])
        assert (
            mass
            == pytest.approx(pair["mass"])
            == pytest.approx(observed[pair["chain"], pair["later"], pair["earlier"]])
        )
    x, y, near = [], [], []
    pairs.sort(key=lambda pair: (pair["chain"], pair["later"]))
    for _, group in groupby(pairs, key=lambda pair: (pair["chain"], pair["later"])):
        of = list(group)
        if len(of) > 1:
            for into, name in ((x, "mass"), (y, "nats"), (near, "earlier")):
                into += ((rankdata([pair[name] for pair in of]) - 1) / (len(of) - 1)).tolist()
    (score,) = [score for score in found["scores"] if score["name"] == CORRELATION]
    assert score["value"] == pytest.approx(spearmanr(x, y).statistic)
    assert {c["name"]: c["value"] for c in score["controls"]}[NEARNESS] == pytest.approx(spearmanr(near, y).statistic)
    drawn = [pair for pair in pairs if pair["random_nats"] is not None]
    (score,) = [score for score in found["scores"] if score["name"] == "nats lost, against an equally long random span"]
    for value, name in ((score["value"], "nats"), (score["controls"][0]["value"], "random_nats")):
        means = [np.mean([p[name] for p in drawn if p["chain"] == one]) for one in {p["chain"] for p in drawn}]
        assert value == pytest.approx(np.mean(means))
    chain = pairs[0]["chain"]
    asked = trails("query", "conclusion-depends-on", "--param", f"chain={chain}", "--json").json()
    mine = sorted((p for p in pairs if p["chain"] == chain and p["later"] == 6), key=lambda p: -p["nats"])
    assert [row["step"] for row in asked] == [pair["earlier"] for pair in mine]
    assert trails("query", "steps-nobody-needs", "--param", "least=9", "--json").json()
    assert trails("query", "conclusions-without-premises", "--param", "least=9", "--json").json()


@pytest.mark.slow
def test_chosen_layers_are_stored_and_less_is_lost(trails: Trails) -> None:
    chain = next(r["chain"] for r in trails("chains", "--json").json() if r["source"] == "toys")
    every = trails("anchors", chain, "--no-graph", "--json").json()
    last = trails("anchors", chain, "--layers", "3", "--json").json()
    with Home() as home:
        assert home.cypher("MATCH (:Step)-[d:DEPENDS_ON]->(:Step) RETURN DISTINCT d.layers").rows == (("3",),)
    assert np.mean([p["kl"] for p in last["pairs"]]) < np.mean([p["kl"] for p in every["pairs"]])
    assert every["withheld"] == [] or every["n_pairs"] == 21
    assert " loses most without step " in every["verdict"]


@pytest.mark.slow
def test_bad_input_is_named(trails: Trails) -> None:
    assert "layer 9 was asked for, toy has layers 1 to 3" in trails("anchors", "all", "--layers", "9", code=4).error
    assert "no chain fits" in trails("anchors", "c99", code=2).error


@pytest.mark.slow
@pytest.mark.parametrize("told", [True, False])
def test_planted_attention_that_tells_the_effect_and_that_does_not(told: bool, make: Any) -> None:
    """Masses that are the effect, and masses that are noise: only the first are said to tell it."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(12):
        trace = make([f"w{i} a b c." for i in range(8)], name=str(number))
        size = len(trace.steps)
        nats = np.where(np.tri(size, k=-1, dtype=bool), rng.normal(0.3, 0.1, (size, size)), np.nan)
        masses = np.zeros_like(trace.step_attention)
        for later in range(size):
            start = later * (later + 5) // 2
            value = nats[later, :later] if told else rng.normal(0.3, 0.1, later)
            masses[start + 2 : start + 2 + later] = value[:, None]
        empty = np.full_like(nats, np.nan)
        one = {
            "nats": nats,
            "kl": np.abs(nats),
            "random_nats": empty,
            "random_kl": empty,
            "sink_nats": empty,
            "sink_kl": empty,
        }
        object.__setattr__(trace, "step_attention", masses)
        found.append((trace, SimpleNamespace(chain=trace.chain.id, **one, tokens=8, own_tokens=1)))
    result = anchored(found, "rmade")  # type: ignore[arg-type]
    (score,) = result.scores
    assert score.beyond() is told
    assert (score.value > 0.99) is told
    assert {w.name.split(",")[0] for w in result.withheld} == {"nats lost", "divergence"}
    assert ("tells" in result.report().verdict) is told


def test_a_largest_loss_stands_beside_the_largest_of_as_many_random_spans() -> None:
    rng = np.random.default_rng(5)

    def told(shift: float, spans: int = 40) -> str:
        """The headline for 40 conclusions, each after eight steps whose losses are those of random spans plus a shift."""
        rows = [
            {"chain": f"c{n}", "later": 8, "earlier": i, "nats": rng.normal(0, 0.1) + shift}
            | {"random_nats": rng.normal(0, 0.1) if i == 0 and n < spans else None}
            for n in range(40)
            for i in range(8)
        ]
        return Anchors("r", "all", (), pa.table({}), 1.0, (), ())._most(rows)

    own, verb, chance = re.findall(
        r"([\d.]+) nats a token \(median\), (more than|no more than) the largest of as many random spans \(([\d.]+)",
        told(0.0),
    )[0]
    assert float(own) > 0.1, "the largest of eight is large, without anything to find"
    assert float(own) == pytest.approx(float(chance), abs=0.05)
    assert verb == "no more than"
    assert "1." in told(1.0).partition(" (median), more than the largest")[0]
    assert told(0.0, spans=3).endswith("too few random spans to say what the largest loss is by chance")
    assert largest_of(np.arange(5.0), [1000, 1000]).tolist() == [4.0] * 1000
