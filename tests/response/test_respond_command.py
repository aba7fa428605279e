"""The response map: planted reactions come out as they were planted, and the command stores and says what it measured."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest
from tests.report.test_report import contents

from trails.analyses.respond import Span, responses, same_side, sentence, share_interval
from trails.measure.base import MeasureOptions, Segmented
from trails.measure.respond import Reaction
from trails.pipeline import Home
from trails.pipeline.progress import Silent

Trails = Callable[..., Any]


@pytest.mark.parametrize(("hits", "n"), [(0, 3), (3, 3), (12, 20), (15, 20), (7, 11)])
def test_the_interval_is_wilsons(hits: int, n: int) -> None:
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert share_interval(hits, n) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("hits", "n", "more"), [(3, 3, False), (5, 5, False), (6, 6, True), (6, 7, False), (10, 12, True)]
)
def test_few_probes_are_never_consistent(hits: int, n: int, more: bool) -> None:
    """The side is the one most probes are on, so by chance twice as many are as on a side named before."""
    assert same_side(hits, n) is more
    by_chance = sum(math.comb(n, k) for k in range(n + 1) if max(k, n - k) >= hits) / 2**n
    assert (by_chance < 0.05) is more


def planted(seed: int, helps: bool, layer: int, n: int = 24) -> Any:
    """Reactions of n probes to one span: attention and drift at a layer, and a change of NLL that beats its control, or not."""
    rng = np.random.default_rng(seed)
    found = {}
    for number in range(n):
        attention, drift = rng.normal(0.05, 0.005, (5, 12)), rng.normal(0.1, 0.01, (5, 13))
        attention[1, layer - 1] += 0.05
        drift[1, layer] += 0.1
        drift[0], shift, nll = 0.0, rng.uniform(0.02, 0.04, 5), rng.normal(0, 0.1, 5)
        shift[0] = nll[0] = 0
        nll[1] -= 0.4 * helps
        found[f"c{number:016x}"] = Reaction(attention, drift, shift, nll)
    return responses([Span("c1:2", "step", "c1", "a span", 9, ("c9", "c8"))], found, "r", probes="all")


@pytest.mark.slow
def test_a_planted_layer_and_reaction_are_found_and_nothing_else() -> None:
    right, consistent, chance = 0, 0, 0
    for seed in range(40):
        layer = 1 + seed % 12
        (row,) = planted(seed, True, layer).table.to_pylist()
        right += abs(row["layer"] - layer) <= 1 and abs(row["drift_layer"] - layer) <= 1
        consistent += row["consistent"]
        chance += planted(seed, False, layer).table.to_pylist()[0]["consistent"]
    assert right >= 38
    assert consistent >= 38
    assert chance <= 7  # 2 of 40 are expected, and at most 7 with all but 0.2 % of probability


def noise_only(seed: int, controls: int, layers: int = 12) -> dict[str, Any]:
    """The row of a span that is like its controls: in every layer all of them differ by chance alone."""
    rng = np.random.default_rng(seed)
    size = 3 + controls
    levels = rng.normal(0.1, 0.01, (size, layers + 1))
    found = {
        f"c{number:016x}": Reaction(
            levels[:, 1:] + rng.normal(0, 0.001, (size, layers)),
            levels + rng.normal(0, 0.001, (size, layers + 1)),
            np.full(size, 0.1),
            rng.normal(0, 0.1, size),
        )
        for number in range(12)
    }
    (row,) = responses([Span("c1:2", "step", "c1", "a span", 9, ("c9",))], found, "r", probes="all").table.to_pylist()
    return row | {"levels": levels}


def test_the_layer_that_was_chosen_stands_beside_what_the_choice_gives() -> None:
    rows = [noise_only(seed, 3) for seed in range(200)]
    above = [row["attention"] > row["attention_control"] for row in rows]
    assert sum(above) == 200, "the best of 12 layers is always above its control, without anything to find"
    looks = sum("→ attention in layer" in sentence(row) for row in rows)
    drifts = sum("→ embedding drift in no layer beyond" not in sentence(row) for row in rows)
    # one of four alike is the largest one time in four; it is compared with the mean of three, they with that of two
    assert 0 < looks < 55
    assert 0 < drifts < 55
    for row in rows[:3]:
        controls = row["levels"][2:-1, 1:]
        most = max((controls[k] - np.delete(controls, k, 0).mean(0)).max() for k in range(3))
        assert row["attention_chosen"] == pytest.approx(most, abs=0.003)
        assert row["attention_mean"] == pytest.approx(row["levels"][1, 1:].mean(), abs=0.003)
        assert row["attention_mean_control"] == pytest.approx(controls.mean(), abs=0.003)
        assert f", mean over layers {row['attention_mean']:.3f} ({row['attention_mean_control']:.3f}) →" in sentence(
            row
        )
        assert f", mean over layers {row['drift_mean']:.3f} ({row['drift_mean_control']:.3f}) →" in sentence(row)


def test_a_long_span_is_cut_between_its_words() -> None:
    (row,) = planted(1, True, 5).table.to_pylist()
    said = sentence({**row, "text": f"{'nine chars ' * 5}incomprehensibilities end"})
    assert said.startswith(f"“{'nine chars ' * 5}…” → "), said[:80]


@pytest.mark.slow
def test_what_is_to_be_measured_is_known_before_it_begins(trails: Trails) -> None:
    class Watch(Silent):
        asked, done = 0, 0

        def begin(self, task: str, total: int, *, tokens: int = 0) -> None:
            self.asked += tokens

        def advance(self, amount: int, *, tokens: int = 0) -> None:
            self.done += tokens

    watch = Watch()
    with Home() as home:
        run = home.run().id
        lengths = [home.trace(chain, run).n_tokens for chain in home.chosen("source:probes", run)]
        found = home.respond("source:toys", probes="source:probes", write=False, progress=watch)
    assert watch.asked == watch.done > found.table.num_rows * sum(lengths)


def test_one_control_says_nothing_of_the_choice() -> None:
    row = noise_only(1, 1)
    assert (row["attention_chosen"], row["drift_chosen"]) == (None, None)
    assert sentence(row).count("one control says nothing of the choice of the layer") == 2


def test_a_planted_layer_is_beyond_the_choice() -> None:
    for seed in range(10):
        (row,) = planted(seed, True, 5).table.to_pylist()
        assert "→ attention in layer 5 (" in sentence(row)
        assert "→ embedding drift +0." in sentence(row)
        assert " in layer 5 (against those spans; chosen alike, " in sentence(row)


@pytest.mark.slow
def test_the_map_is_stored_and_said(trails: Trails, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    found = trails("respond", "chain:toys:1", "--probes", "source:probes", "--json", "--html", file).json()
    page, _ = contents(file)
    assert page["report"]["verdict"] == found["verdict"]
    assert page["report"]["notes"][-1:] == found["sentences"], "the sentences are on the page"
    assert found["responses"][0]["span"] in {row["id"] for row in page["chains"]}
    (row,) = found["responses"]
    pairs = found["reactions"]
    assert found["n_probes"] == len(pairs) == 6
    assert row["nll_change"] == pytest.approx(np.mean([pair["nll_change"] for pair in pairs]))
    assert row["nll_change_control"] == pytest.approx(np.mean([pair["nll_change_control"] for pair in pairs]))
    apart = [pair["nll_change"] - pair["nll_change_control"] for pair in pairs]
    hits = max(sum(a < 0 for a in apart), sum(a > 0 for a in apart))
    assert row["share"] == hits / 6
    assert row["consistent"] == (hits == 6)
    assert 0 < row["logit_shift"] <= 100
    assert len(row["drift_by_layer"]) == 4
    assert row["drift"] == row["drift_by_layer"][row["drift_layer"]]
    assert max(found["noise"].values()) < 1e-2
    with Home() as home:
        assert len(row["control_chains"]) == 3
        assert {home.trace(chain).chain.source for chain in row["control_chains"]} == {"fillers"}
        stored = home.cypher(
            "MATCH (r:Response)-[o:ON]->(c:Chain) MATCH (r)-[:OF]->(s:Chain) "
            "RETURN s.id, c.id, o.nll_change, r.sentence, r.layer, r.drift_by_layer ORDER BY c.id"
        ).rows
    assert {r[0] for r in stored} == {row["span"]}
    assert {r[1]: r[2] for r in stored} == {pair["probe"]: pair["nll_change"] for pair in pairs}
    said = found["sentences"][0]
    assert stored[0][3] == said
    assert stored[0][4:] == (row["layer"], row["drift_by_layer"])
    assert "length-matched spans come from other sources" in found["notes"]
    assert not [note for note in found["notes"] if "from a source of the probes" in note]
    for part in (
        "→ attention in ",
        f"layer {row['layer']}",
        "embedding drift ",
        f"logit shift {row['logit_shift']:.1f} %",
    ):
        assert part in said
    assert "→ reaction on 6 unseen samples = " in said
    (asked,) = trails("query", "response-map", "--json").json()
    assert asked["sentence"] == said
    assert {name for name, value in asked.items() if value is None} == set()
    for name, value in asked.items():
        assert row.get(name, value) == value
        if name in ("attention", "attention_mean", "drift_mean", "logit_shift", "nll_change"):
            assert f"{name}_control" in asked
    again = trails("respond", "chain:toys:1", "--probes", "source:probes", "--json").json()
    assert again["responses"] == found["responses"]
    trails("rebuild", "--fresh")
    assert len(trails("query", "response-map", "--json").json()) == 1


@pytest.mark.slow
def test_steps_and_texts_are_spans(trails: Trails) -> None:
    turns = "MATCH (c:Chain {source: 'toys'})-[:HAS_STEP]->(s:Step {role: 'BUT'}) RETURN s.id AS step"
    found = trails("respond", turns, "--probes", "source:probes", "--json", "--limit", 99).json()
    assert {row["kind"] for row in found["responses"]} == {"step"}
    assert len(found["responses"]) == 8
    with Home() as home:
        assert home.cypher("MATCH (:Response)-[:OF]->(s:Step) RETURN count(s) AS n").rows == ((8,),)
    own = trails("respond", "Not every rain makes the grass wet.", "--probes", "source:probes", "--json").json()
    assert own["responses"][0]["kind"] == "text"
    source, *_ = [note for note in own["notes"] if "no source" in note]
    assert source == "the span has no source: its length-matched spans come from any source of the home"
    trails("rebuild", "--fresh")
    assert len(trails("query", "response-map", "--json").json()) == 9


@pytest.mark.slow
def test_controls_of_a_source_of_the_probes_are_told(trails: Trails) -> None:
    text = " ".join(f"The moon of day {n} is round." for n in range(8))  # only the long chains can match its length
    found = trails("respond", text, "--probes", "chain:fillers:1,fillers:2", "--json").json()
    drawn = found["responses"][0]["control_chains"]
    with Home() as home:
        assert {home.trace(chain).chain.source for chain in drawn} == {"fillers"}
    assert "3 of 3 length-matched spans are from a source of the probes" in found["notes"]
    assert not [note for note in found["notes"] if "from other sources" in note]


@pytest.mark.slow
def test_probes_that_share_text_with_a_span_are_left_out(trails: Trails) -> None:
    found = trails("respond", "chain:probes:1", "--probes", "all", "--json")
    assert found.json()["n_probes"] == 11  # its own source shares its words
    assert "6 of 17 probes" in " ".join(found.json()["notes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spans", "probes", "says"),
    [
        ("chain:probes:1", "source:probes", "0 of 6 probes of 'source:probes' share no 13 tokens in a row"),
        ("chain:toys:1", "chain:probes:2", "1 of 1 probe "),
        ("nonsense", "all", "no chain fits"),
        ("toys:1:9", "source:probes", "step 9 of chain"),
    ],
)
def test_bad_input_stores_nothing(trails: Trails, spans: str, probes: str, says: str) -> None:
    assert says in trails("respond", spans, "--probes", probes, code=2).error
    assert trails("query", "response-map", "--json").json() == []


@pytest.mark.train
def test_a_training_is_a_row_beside_two_other_trainings(trails: Trails, tmp_path: Path) -> None:
    def train(name: str, source: str, *more: str) -> Path:
        rows = tmp_path / f"{source}.parquet"
        if not rows.exists():
            trails("export", "--subgraph", f"source:{source}", "--format", "trails", "-o", rows)
        trails("train", rows, "-o", tmp_path / name, "--steps", 4, "--batch", 2, *more)
        return tmp_path / name

    folders = [train("own", "toys"), train("other", "fillers"), train("mixed", "toys", "--shuffle-steps")]
    words = ("respond", "source:toys", "--probes", "source:probes")
    given = ("--adapter", folders[0], "--adapter-control", folders[1], "--adapter-shuffled", folders[2])
    found = trails(*words, *given, "--json").json()
    (row,) = found["responses"]
    assert (row["kind"], row["layer"], row["attention"]) == ("adapter", None, None)
    assert found["noise"] == {"drift": 0.0, "logit_shift": 0.0, "nll": 0.0}, (
        "on a CPU the same model gives the same bits"
    )
    with Home() as home:
        run = home.run().id
        for folder, key in zip(folders, ("nll_change", "nll_change_control", "nll_change_shuffled"), strict=True):
            scorer = home.trained_model(folder)
            for pair in found["reactions"]:
                trace = home.trace(pair["probe"], run)
                (again,) = scorer.measure([Segmented(trace.chain, trace.steps)], MeasureOptions())
                apart = float(np.nanmean(again.surprisal.astype(float) - trace.surprisal.astype(float)))
                assert pair[key] == pytest.approx(apart, abs=2e-4)
        stored = home.cypher("MATCH (r:Response {kind: 'adapter'})-[:ON]->(:Chain) RETURN r.sentence, r.layer").rows
    assert len(stored) == 6
    assert stored[0][1] is None
    assert stored[0][0].startswith("“a training on source:toys” → embedding drift")
    assert "Give all three" in trails(*words, "--adapter", folders[0], code=2).error
    assert trails(
        *words, "--adapter", tmp_path, "--adapter-control", tmp_path, "--adapter-shuffled", tmp_path, code=4
    ).error
