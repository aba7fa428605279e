"""The block's anchor and target: rows, targets and verdicts are those of the product, every control has as many tokens or
targets as its treatment, and what must be seen is seen on a small model.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trails.analyses.bridge import bridging
from trails.errors import UsageError
from trails.experiments import block, block_anchor
from trails.experiments.base import Prepared, Scale
from trails.experiments.bench import Bench
from trails.experiments.corpus import Corpus, load_corpus
from trails.measure.base import Segmented
from trails.readers import read, write_chains
from trails.schema import Chain
from trails.segment import segment

pytestmark = pytest.mark.train


@pytest.fixture(scope="session")
def total_data(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chains of ``data``; those of the family debate hold the anchor's text in their third step."""
    found = [
        Chain(c.source, c.source_id, c.question, c.text.replace("So ", "So total "), language="en")
        for c in read([str(data)])
    ]
    path = tmp_path_factory.mktemp("totals") / "chains.jsonl"
    with path.open("w", encoding="utf-8") as file:
        write_chains(found, file)
    return path


@pytest.fixture(scope="session")
def totals(total_data: Path) -> Corpus:
    return load_corpus([total_data])


def masks_of(prepared: Prepared) -> dict[str, dict[str, Any]]:
    draw = np.random.default_rng(0)
    zone = {item.chain.id: draw.random(len(item.chain.text)) < 0.2 for item in prepared.extra["items"]}
    return {"zone": zone, "random": {name: block.elsewhere(mask, draw) for name, mask in zone.items()}}


def spans_of(masks: dict[str, dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (places, layer): {
            chain: [(a, b, "attention_entropy", (number,), True, 1.0) for a, b in block.spans_of(mask)]
            for chain, mask in masks[places].items()
        }
        for places in masks
        for layer, number in (("own", 3), ("other", 5))
    }


def test_the_block_is_that_of_experiment_block_with_anchor_and_objective() -> None:
    text = block_anchor.block_text(30, *block_anchor.MORE)
    assert text.startswith(block.block_text(30))
    assert text.splitlines()[4:] == ['ANCHOR → "total"', "OBJECTIVE → attention"]


def test_every_control_has_as_many_tokens_at_its_places(bench: Bench, totals: Corpus, small: Scale) -> None:
    prepared = block_anchor.prepare(bench, totals, small, 0)
    rows, other = prepared.extra["rows"], prepared.extra["other"]
    drawn = {block_anchor.other_text(bench, prepared.extra["items"], seed) for seed in range(80)}
    assert "total" not in drawn
    assert other in drawn
    assert len(drawn) > 10
    assert len(bench.ids(f" {other}")) == len(bench.ids(" total")) == 6
    assert any(other in item.chain.text.casefold() for item in prepared.extra["items"])
    inside = set()
    for row, anchor, word, anywhere in zip(
        rows, *(prepared.feeds[arm] for arm in ("anchor", "other text", "anchor elsewhere")), strict=False
    ):
        size = len(row["input_ids"])
        assert anchor["input_ids"] == [*row["input_ids"], *bench.ids(" total")]
        assert word["input_ids"] == [*row["input_ids"], *bench.ids(f" {other}")]
        for one in (anchor, word):
            assert one["labels"][size:] == one["input_ids"][size:]
            assert one["loss_weights"] == [*row["loss_weights"], *[1.0] * 6]
            assert one["step_spans"] == row["step_spans"]
        (at,) = [
            k
            for k in range(size)
            if anywhere["input_ids"] == [*row["input_ids"][:k], *bench.ids(" total"), *row["input_ids"][k:]]
        ][:1]
        assert row["offset"] < at < size
        inside.add(at)
        assert sum(label != -100 for label in anywhere["labels"]) == sum(label != -100 for label in anchor["labels"])
        assert sum(anywhere["loss_weights"]) == sum(anchor["loss_weights"])
        assert [s["end"] - s["start"] for s in anywhere["step_spans"] if s["start"] <= at < s["end"] - 6]
    assert len(inside) > 2
    digests = prepared.realised()["rows"]
    for group in block_anchor.EXPERIMENT.same_rows:
        assert len({digests[arm] for arm in group}) == 1
    assert len({digests[arm] for arm in ("plain", "anchor", "other text", "anchor elsewhere")}) == 4
    # a row that ends with the text stays as it is in every arm
    item = prepared.extra["items"][0]
    ended = Chain("debate", "x", item.chain.question, item.chain.text + " total", language="en")
    read_again = Segmented(ended, tuple(segment(ended)))
    row = bench.row(read_again)
    for how in ("behind", "other", "elsewhere"):
        assert block_anchor.placed(bench, row, read_again, how, other, 0) is row
    # a row that was cut ends where it was cut
    short = bench.row(read_again, len(row["input_ids"]) - 2)
    assert block_anchor.placed(bench, short, read_again, "behind", other, 0)["input_ids"][-6:] == bench.ids(" total")


def test_every_arm_is_fed_what_it_says(bench: Bench, totals: Corpus, small: Scale) -> None:
    prepared = block_anchor.prepare(bench, totals, small, 0)
    masks = masks_of(prepared)
    spans = spans_of(masks)
    found = {arm: block_anchor.fed(arm, prepared, masks, spans, 0.1, 0) for arm in prepared.feeds}
    for arm, rows in found.items():
        expected = sorted(row["input_ids"] for row in prepared.feeds[arm])
        assert sorted(row["input_ids"] for row in rows) == expected, arm
        assert any(row.get("targets") for row in rows) == (arm in block_anchor.AIMED), arm
        assert any(w == 0.1 for row in rows for w in row["loss_weights"]) == (arm in block_anchor.DAMPED), arm
        if arm not in ("plain again", "held-out themselves"):
            assert [row["chain"] for row in rows] == [row["chain"] for row in found["plain"]], arm
    assert [row["chain"] for row in found["plain again"]] != [row["chain"] for row in found["plain"]]
    of = {"attention target": ("zone", 3), "random places": ("random", 3), "random layer": ("zone", 5)}
    of |= {"whole block": ("zone", 3), "whole block elsewhere": ("random", 5)}
    for arm, (places, layer) in of.items():
        for row in found[arm]:
            first, size = row["offset"], len(row["input_ids"]) - (6 if "whole" in arm else 0)
            marked = np.zeros(size, np.bool_)
            for one in row["targets"]:
                assert one["layers"] == (layer,)
                marked[one["start"] : one["end"]] = True
            mask = masks[places][row["chain"]][: size - first]
            np.testing.assert_array_equal(np.flatnonzero(marked) - first, np.flatnonzero(mask))
    for one, two in zip(found["attention target"], found["random layer"], strict=True):
        assert [(t["start"], t["end"]) for t in one["targets"]] == [(t["start"], t["end"]) for t in two["targets"]]
    lengths = {
        arm: sorted(b - a for mask in masks[places].values() for a, b in block.spans_of(mask))
        for arm, (places, _) in of.items()
    }
    assert lengths["attention target"] == lengths["random places"]
    for whole, text in (("whole block", "anchor"), ("whole block elsewhere", "other text")):
        for one, two in zip(found[whole], found[text], strict=True):
            assert one["input_ids"] == two["input_ids"]
            first, places = one["offset"], block_anchor.DAMPED[whole]
            damped = [at - first for at, w in enumerate(one["loss_weights"]) if w == 0.1]
            mask = masks[places][one["chain"]]
            assert damped == [t for t in np.flatnonzero(mask).tolist() if t < len(one["input_ids"]) - 6 - first]
            assert one["loss_weights"][-6:] == [1.0] * 6


def test_the_controls_have_targets_as_an_export_sets_them_elsewhere(bench: Bench, totals: Corpus) -> None:
    items = totals.family("debate", 0)[:8]
    traces = bench.traces(items)
    compiled, zone = block.zone_of(traces, bench.scorer.run, bench.layers, *block_anchor.MORE)
    draw = np.random.default_rng(0)
    masks = {"zone": zone, "random": {name: block.elsewhere(mask, draw) for name, mask in zone.items()}}
    found, other = block_anchor.aims(compiled, masks, traces, bench.scorer.run, 0)
    assert set(found) == set(block_anchor.AIMED.values()) | {("zone", "own"), ("random", "own")}
    (own,) = compiled.annotations.drift[0].layers
    assert other != own
    assert {block_anchor.aims(compiled, masks, traces, bench.scorer.run, seed)[1] for seed in range(40)} == (
        set(range(1, bench.layers + 1)) - {own}
    )
    for (places, layer), spans in found.items():
        for chain, asked in spans.items():
            assert [(a, b) for a, b, *_ in asked] == block.spans_of(masks[places][chain])
            assert {one[3] for one in asked} == {(own if layer == "own" else other,)}
    bounds = {key: {one[5] for asked in spans.values() for one in asked} for key, spans in found.items()}
    assert all(len(one) == 1 for one in bounds.values())
    assert len(set.union(*bounds.values())) == 4  # each by the control of its own places and layer
    nothing = {name: np.zeros(len(mask), np.bool_) for name, mask in zone.items()}
    with pytest.raises(UsageError, match="random places: .* not trained, 0 places"):
        block_anchor.aims(compiled, masks | {"random": nothing}, traces, bench.scorer.run, 0)


@pytest.mark.slow
def test_rows_targets_and_verdicts_are_those_of_the_product(
    bench: Bench, tiny_folder: Path, total_data: Path, tmp_path: Path
) -> None:
    """A home that holds the same chains exports the same rows with the same targets and gives the same verdicts."""
    from click.testing import CliRunner

    from trails import Home
    from trails.cli import cli

    lines = total_data.read_text("utf-8").splitlines()
    chains = [line for line in lines if json.loads(line).get("source") == "debate"][:12]
    (tmp_path / "chains.jsonl").write_text("\n".join(chains), "utf-8")
    file = tmp_path / "b.stellator"
    file.write_text(block.block_text(6, *block_anchor.MORE), "utf-8")

    def trails(*words: str) -> str:
        result = CliRunner().invoke(cli, [*words, "--home", str(tmp_path / "home")], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    trails("ingest", str(tmp_path / "chains.jsonl"), "--model", str(tiny_folder), "--device", "cpu")
    out = tmp_path / "rows.jsonl"
    trails("export", "--stellator", str(file), "--format", "trails", "-o", str(out))
    exported = {row["chain"]: row for row in map(json.loads, out.read_text("utf-8").splitlines())}
    words = ("stellator", "run", str(file), "--model", str(tiny_folder), "--device", "cpu", "--json")
    told = {
        str(row["line"]).split()[0]: row
        for row in _rows(json.loads(trails(*words)))
        if "control" in row and "line" in row
    }

    with Home(tmp_path / "home") as opened:
        ids = {trace.chain.id for trace in opened.traces()}
    items = tuple(item for item in load_corpus([total_data]).families["debate"] if item.chain.id in ids)
    assert len(items) == len(exported) == 12
    traces = bench.traces(items)
    compiled, zone = block.zone_of(traces, bench.scorer.run, bench.layers, *block_anchor.MORE)
    spans, _ = block_anchor.aims(compiled, {"zone": zone, "random": zone}, traces, bench.scorer.run, 0)
    rows = [bench.row(item) for item in items]
    whole = [block_anchor.placed(bench, row, item, "behind", "", 0) for row, item in zip(rows, items, strict=True)]
    prepared = Prepared({"whole block": whole * 2}, {}, {"rows": rows})
    made = block_anchor.fed("whole block", prepared, {"zone": zone}, spans, block.FACTOR, 0)
    assert len(made) == 24
    for row in made:
        theirs = exported[row["chain"]]
        assert row["input_ids"] == theirs["input_ids"]
        assert row["labels"] == theirs["labels"]
        np.testing.assert_allclose(row["loss_weights"], theirs["loss_weights"], atol=1e-6)
        assert [
            {**one, "layers": list(one["layers"]), "bound": pytest.approx(one["bound"], abs=1e-6)}
            for one in row["targets"]
        ] == (theirs["drift"])
    with bench.as_it_is():
        bridge = bridging(lambda: traces, lambda: bench.scorer)
        found = block.stated(compiled, zone, traces, bench.scorer.run, bridge, 6)
    for line, names in (("DRIFT", ("", "sweep", "passes")), ("ANCHOR", ("bridge", "bridge_gap", "leads"))):
        row = told[line]
        values = (row["value"], row["value"] - row["control"], float(row["verdict"] == "pass"))
        for name, value in zip(names, values, strict=True):
            if name:
                assert found[name] == pytest.approx(value, abs=1e-5), name
    alone = block.stated(compiled, zone, traces, bench.scorer.run)
    assert math.isnan(alone["bridge"])
    assert alone["sweep"] == found["sweep"]


def _rows(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value, *(row for one in value.values() for row in _rows(one))]
    return [row for one in value for row in _rows(one)] if isinstance(value, list) else []


def test_the_texts_tokens_are_found_where_they_are_spelled(bench: Bench, totals: Corpus) -> None:
    item = totals.family("debate", 0)[0]
    mask = block_anchor.occurrences(bench, item)
    spelled = bench.contexts.row(item).tokens
    assert "".join(spelled.pieces[k] for k in np.flatnonzero(mask)) == "total"
    assert block_anchor.holds(item)
    assert not block_anchor.holds(totals.family("proofs", 0)[0])


@pytest.mark.slow
def test_what_must_be_seen_is_seen(bench: Bench, totals: Corpus) -> None:
    """Placed text is expected behind new chains, targets come nearer at their own layer only, halved queries sweep more widely,
    and training on the held-out chains makes their ways cheaper.
    """
    scale = Scale("small", max_tokens=160, evaluate=8, steps=1.0, batch=4, size=0.17)
    prepared = block_anchor.prepare(bench, totals, scale, 0)
    rates = dict.fromkeys(prepared.feeds, 2e-2)
    found: dict[str, dict[str, float]] = {}
    told: dict[str, Any] = {}

    def emit(arm: str, metrics: dict[str, float], extra: Any) -> None:
        found[arm], told[arm] = metrics, extra

    names = [
        "anchor",
        "other text",
        "anchor elsewhere",
        "attention target",
        "random layer",
        "plain",
        "held-out themselves",
    ]
    names += ["queries halved", "untrained"]
    block_anchor.run(bench, prepared, scale, 0, names, rates, emit)
    assert set(found) == set(names)
    for criterion in block_anchor.EXPERIMENT.positive:
        apart = found[criterion.treatment][criterion.metric] - found[criterion.control][criterion.metric]
        least = 0.005 if criterion.metric == "sweep" else criterion.delta  # a random model attends evenly as it is
        assert (apart if criterion.direction == "higher" else -apart) > least, criterion
    assert found["anchor"]["expects"] < found["plain"]["expects"] - 0.1
    assert found["anchor"]["expects"] < found["anchor elsewhere"]["expects"]
    for other in ("plain", "random layer", "untrained"):
        assert found["attention target"]["away"] < found[other]["away"] - 0.005, other
    assert told["anchor"]["tokens"] == told["other text"]["tokens"] == told["anchor elsewhere"]["tokens"]
    assert told["anchor"]["targets"] == 0 < told["attention target"]["targets"] == told["random layer"]["targets"]
    for metrics in found.values():
        assert set(metrics) <= set(block_anchor.EXPERIMENT.metrics) | set(METRICS)
    again: dict[str, dict[str, float]] = {}
    block_anchor.run(bench, prepared, scale, 0, ["untrained"], {}, lambda arm, metrics, _: again.update({arm: metrics}))
    assert again["untrained"] == found["untrained"]


METRICS = ("nll_u", "nll_d", "kl_h", "kl_u", "entropy_h", "entropy_d", "change_u", "loss")


def test_chains_without_the_text_are_refused(bench: Bench, corpus: Corpus) -> None:
    with pytest.raises(
        UsageError, match="0 held-out chains of 'debate' hold 'total' after the first step, 5 are the least"
    ):
        block_anchor.prepare(bench, corpus, Scale("full", max_tokens=120, evaluate=3, batch=2, size=0.1), 0)
    assert len(block_anchor.other_text(bench, corpus.families["debate"][:2], 0)) == 5
    short = Chain("x", "1", "", "A b. C d.", language="en")
    with pytest.raises(UsageError, match="no word of the training chains has 6 tokens"):
        block_anchor.other_text(bench, [Segmented(short, tuple(segment(short)))], 0)
