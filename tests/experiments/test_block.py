"""Training with a block: its zone is that of the statement in the graph, its rows are those of the export, its verdict that of
the product; the control on random spans has the same weights.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trails.errors import UsageError
from trails.experiments import block
from trails.experiments.base import Scale
from trails.experiments.bench import Bench
from trails.stellator.compiling import Distribution
from trails.stellator.parsing import parse
from trails.stellator.zones import resolved, zones

pytestmark = pytest.mark.train


def test_the_block_is_the_missions_with_the_middle_third() -> None:
    text = block.block_text(30)
    assert text.splitlines() == [
        "[ZONE:unstable]",
        "DRIFT → activates attention sweep on layer 17",
        "GRADIENT DAMPEN → backward pass ~0.1",
        "LAYERS → 11-20",
    ]
    assert block.EXPERIMENT.settings["zone unstable"] == "entropy > q90 | attention_shift > q90"
    assert "layer 3\n" in block.block_text(6)


@pytest.mark.slow
def test_zone_rows_and_verdict_are_those_of_the_product(
    bench: Bench, tiny_folder: Path, data: Path, tmp_path: Path
) -> None:
    """A home that holds the same chains selects the same tokens, exports the same weights, gives the same verdict."""
    from click.testing import CliRunner

    from trails import Home
    from trails.cli import cli
    from trails.experiments.corpus import load_corpus

    chains = [line for line in data.read_text("utf-8").splitlines() if json.loads(line).get("source") == "debate"][:12]
    (tmp_path / "chains.jsonl").write_text("\n".join(chains), "utf-8")
    (tmp_path / "b.stellator").write_text(block.block_text(6), "utf-8")
    home = ("--home", str(tmp_path / "home"))

    def trails(*words: str) -> str:
        result = CliRunner().invoke(cli, [*words, *home], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout

    trails("ingest", str(tmp_path / "chains.jsonl"), "--model", str(tiny_folder), "--device", "cpu")
    out = tmp_path / "rows.jsonl"
    trails("export", "--stellator", str(tmp_path / "b.stellator"), "--format", "trails", "-o", str(out))
    exported = {row["chain"]: row for row in map(json.loads, out.read_text("utf-8").splitlines())}
    told = json.loads(trails("stellator", "run", str(tmp_path / "b.stellator"), "--no-model", "--json"))

    items = load_corpus([data]).families["debate"]
    with Home(tmp_path / "home") as opened:
        ids = {trace.chain.id for trace in opened.traces()}
    items = tuple(item for item in items if item.chain.id in ids)
    assert len(items) == len(exported) == 12
    traces = bench.traces(items)
    compiled, masks = block.zone_of(traces, bench.scorer.run, bench.layers)
    marked = sum(int(mask.sum()) for mask in masks.values())
    assert 0 < marked < sum(trace.n_tokens for trace in traces) / 2
    for item in items:
        made, theirs = block.damped(bench.row(item), masks[item.chain.id], block.FACTOR), exported[item.chain.id]
        assert made["input_ids"] == theirs["input_ids"]
        assert made["labels"] == theirs["labels"]
        np.testing.assert_allclose(made["loss_weights"], theirs["loss_weights"], atol=1e-6)
        assert sorted({round(w, 3) for w in made["loss_weights"]}) == [0.0, 0.1, 1.0]
    found = block.stated(compiled, masks, traces, bench.scorer.run)
    (row,) = [row for row in _rows(told) if str(row.get("line", "")).startswith("DRIFT") and "control" in row]
    assert found["sweep"] == pytest.approx(row["value"] - row["control"], abs=1e-6)
    assert ("fail", "pass")[int(found["passes"])] == row["verdict"]


def _rows(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value, *(row for one in value.values() for row in _rows(one))]
    return [row for one in value for row in _rows(one)] if isinstance(value, list) else []


def test_a_zone_is_compared_as_written(bench: Bench, corpus) -> None:
    traces = bench.traces(corpus.family("debate", 0)[:6])
    run, known = bench.scorer.run, zones()
    quantile = Distribution(lambda: traces, run)

    def where(zone: str) -> np.ndarray:
        (one,) = parse(f"[ZONE: {zone}]").blocks
        expression = resolved(one, known)
        assert expression is not None
        return np.concatenate([block.in_zone(expression, trace, run, quantile) for trace in traces])

    entropy = np.concatenate([trace.entropy for trace in traces]).astype(np.float64)
    shift = np.concatenate([np.asarray(trace.attention_shift, np.float64).mean(1) for trace in traces])
    high = entropy > np.percentile(entropy[np.isfinite(entropy)], 90)
    moved = np.nan_to_num(shift, nan=-1.0) > np.nanpercentile(shift, 90)
    np.testing.assert_array_equal(where("entropy > q90"), high)
    np.testing.assert_array_equal(where("unstable"), high | moved)
    np.testing.assert_array_equal(where("entropy > q90 & attention_shift > q90"), high & moved)
    assert 0.08 < where("entropy > q90").mean() < 0.12
    undefined = replace(traces[0], entropy=np.full(traces[0].n_tokens, np.nan, np.float32))
    (one,) = parse("[ZONE: entropy < 9]").blocks
    assert block.in_zone(one.zone, traces[0], run, quantile).all()
    assert not block.in_zone(one.zone, undefined, run, quantile).any()
    with pytest.raises(UsageError, match="compares measured numbers only"):
        where("role = BUT")


def test_random_spans_are_as_many_and_as_long_and_apart() -> None:
    draw = np.random.default_rng(0)
    places = np.zeros(40)
    for _ in range(400):
        mask = draw.random(40) < 0.3
        other = block.elsewhere(mask, draw)
        lengths = sorted(b - a for a, b in block.spans_of(mask))
        assert sorted(b - a for a, b in block.spans_of(other)) == lengths
        places += other
    assert places.min() > 60  # anywhere in the chain: about 120 each
    assert places.max() < 180
    full = np.ones(5, np.bool_)
    assert block.elsewhere(full, draw).all()
    assert not block.elsewhere(~full, draw).any()


def test_arms_are_fed_the_same_rows_with_other_weights(bench: Bench, corpus, small: Scale) -> None:
    prepared = block.prepare(bench, corpus, small, 0)
    rows = prepared.extra["rows"]
    draw = np.random.default_rng(0)
    masks = {item.chain.id: draw.random(400) < 0.2 for item in prepared.extra["items"]}
    found = {arm: block.fed(arm, prepared, masks, 0.1, 0) for arm in prepared.feeds}
    for arm in ("random spans", "block", "dampen", "plain", "block on random spans"):
        assert [row["input_ids"] for row in found[arm]] == [row["input_ids"] for row in found["plain"]]
    assert found["block"] == found["dampen"]
    assert found["random spans"] == found["block on random spans"]
    assert [row["chain"] for row in found["plain again"]] != [row["chain"] for row in found["plain"]]
    for one, two in zip(found["dampen"], found["random spans"], strict=True):
        assert one["loss_weights"] != two["loss_weights"]
    for row in rows:
        of = block.damped(row, masks[row["chain"]], 0.1)
        inside = [at - row["offset"] for at, w in enumerate(of["loss_weights"]) if w == 0.1]
        assert inside == [
            t for t in np.flatnonzero(masks[row["chain"]]).tolist() if t < len(row["input_ids"]) - row["offset"]
        ]
    assert len({json.dumps(prepared.realised()["rows"][arm]) for arm in block.EXPERIMENT.same_rows[0]}) == 1


def test_halved_queries_sweep_more_widely_at_their_places_only(bench: Bench, corpus) -> None:
    item = corpus.family("debate", 0)[0]
    (before,) = bench.traces([item])
    first = len(bench.contexts.row(item).context)
    with block.halved(bench, 3, [first + 5, first + 6]):
        (after,) = bench.traces([item])
    (again,) = bench.traces([item])
    change = after.attention_entropy[:, 2] - before.attention_entropy[:, 2]
    assert change[5] > 1e-4
    assert change[6] > 1e-4
    np.testing.assert_allclose(np.delete(change, [5, 6]), 0, atol=1e-6)
    np.testing.assert_array_equal(again.attention_entropy, before.attention_entropy)


def test_traces_of_each_adapter_are_those_of_it_alone(bench: Bench, corpus, small: Scale) -> None:
    items = corpus.family("debate", 0)[:3]
    rows = [bench.row(item, 100) for item in items]
    base = bench.traces(items)
    with bench.side_by_side({"a": rows, "b": rows}, {"a": 1e-2, "b": 5e-2}, bench.options(small, 3, 0)) as (
        adapters,
        _,
    ):
        found = bench.traces_each(adapters, items)
        nll = bench.probe_each(adapters, rows)
        assert adapters.count == 2
    for traces, probes in zip(found, nll, strict=True):
        for trace, probe in zip(traces, probes, strict=True):
            np.testing.assert_allclose(trace.surprisal[: len(probe.nll)], probe.nll, atol=1e-4)
    assert float(np.abs(found[0][0].attention_entropy - found[1][0].attention_entropy).max()) > 1e-4
    for one, two in zip(bench.traces(items), base, strict=True):
        np.testing.assert_array_equal(one.attention_entropy, two.attention_entropy)
