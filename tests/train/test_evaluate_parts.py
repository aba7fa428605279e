"""What the judges of a training are made of: groups of chains, exports that name their chains, reduced logits, means."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from trails.errors import UsageError
from trails.evaluate.diff import GroupChange, interval, repetition_alarm, verdict
from trails.evaluate.groups import check_export, exported_chains, groups_of, not_trained_on, said_left_out
from trails.evaluate.probe import Probe, chain_kl, chain_nll, reduce_logits, repetition
from trails.measure.base import Segmented
from trails.schema import Chain


def lines(path: Path, *chains: str) -> Path:
    path.write_text(
        "".join(json.dumps({"chain": chain, "text": "a\u2028b"}) + "\n" for chain in chains), encoding="utf-8"
    )
    return path


def test_groups_follow_the_export_and_the_sources(tmp_path: Path) -> None:
    sources = {
        **{"c1": "gsm8k/train", "c2": "gsm8k/train", "c3": "gsm8k/train"},
        **{"c4": "other/texts", "c5": "far/texts", "c6": "texts", "c7": "mytexts", "c8": "unrelated"},
    }
    export = lines(tmp_path / "train.jsonl", "c1", "c8")
    lines(tmp_path / "train.held_out.jsonl", "c2", "c4")
    assert groups_of(sources, export, ["texts"]) == {
        **{"c1": "trained", "c2": "held_out", "c3": "held_out"},  # a source that was trained on, this chain not
        **{"c4": "unrelated", "c5": "unrelated", "c6": "unrelated"},  # by the last part of the name, before held out
        **{"c7": "unseen", "c8": "trained"},
    }
    assert groups_of(sources, export, [])["c4"] == "held_out", "the export held it out, though its source is another"
    (tmp_path / "train.held_out.jsonl").unlink()
    assert groups_of(sources, export, [])["c4"] == "unseen"
    assert set(groups_of(sources, None, ["far/texts"]).values()) == {"compared", "unrelated"}, (
        "nothing says who was trained on"
    )
    with pytest.raises(UsageError, match="'train' was asked for, and 1 chain of gsm8k/train is in .*train.jsonl, so"):
        groups_of(sources, export, ["texts", "train"])
    with pytest.raises(UsageError, match="--unrelated 'text' fits no source of this run. Sources: far/texts, gsm8k"):
        groups_of(sources, None, ["far/texts", "text"])
    # a chain of the export that this run has not makes no family
    assert groups_of({"c9": "x"}, lines(tmp_path / "strange.jsonl", "c0"), []) == {"c9": "unseen"}


def test_an_export_names_its_chains(tmp_path: Path) -> None:
    file = lines(tmp_path / "rows.jsonl", "c1", "c2", "c1")
    file.write_text(file.read_text(encoding="utf-8") + "\n  \n", encoding="utf-8")
    assert exported_chains(file) == {"c1", "c2"}
    pq.write_table(pa.table({"chain": ["c3", "c4"], "text": ["a", "b"]}), tmp_path / "rows.parquet")
    assert exported_chains(tmp_path / "rows.parquet") == {"c3", "c4"}
    for name, text, why in (
        ("no.jsonl", '{"text": "a"}\n', "KeyError: 'chain'"),
        ("list.jsonl", "[1, 2]\n", "TypeError"),
        ("broken.jsonl", '{"chain": "c1"}\n{"chain', "JSONDecodeError: Unterminated string"),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
        with pytest.raises(UsageError) as error:
            exported_chains(tmp_path / name)
        assert f"{name} is not an export that names its chains ({why}" in str(error.value)
        assert "\n" not in str(error.value), "a reason of several lines is told by its first"
        assert "trails export --subgraph SELECTION --format trails -o FILE" in str(error.value)
    with pytest.raises(UsageError, match="gone.jsonl is not an export that names its chains .FileNotFoundError"):
        exported_chains(tmp_path / "gone.jsonl")


def test_chains_of_the_export_are_left_out_and_counted(tmp_path: Path) -> None:
    items = [Segmented(Chain("made", str(number), "", f"Text {number}."), ()) for number in range(4)]
    export = lines(tmp_path / "rows.jsonl", items[1].chain.id, items[3].chain.id, "c0")
    left, count = not_trained_on(items, export)
    mine = sorted((items[0], items[2]), key=lambda item: item.chain.id)
    assert (left, count) == (mine, 2), "the export's chains that nobody selected are not counted"
    assert said_left_out(count) == "2 chains were trained on and left out of the selection"
    left, count = not_trained_on(items, None)
    assert (sorted(left, key=lambda item: item.chain.id), count) == (
        sorted(items, key=lambda item: item.chain.id),
        None,
    )
    assert said_left_out(count).startswith("not checked: whether these chains were trained on")
    assert said_left_out(0).startswith("0 chains")


def test_an_adapter_belongs_to_its_export(tmp_path: Path) -> None:
    export, other = lines(tmp_path / "a.jsonl", "c1"), lines(tmp_path / "b.jsonl", "c2")
    digest = hashlib.sha256(export.read_bytes()).hexdigest()
    for name, record in (
        ("right", {"identity": {"export": digest}}),
        ("silent", {"identity": {}}),
        ("older", {}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.json").write_text(json.dumps(record), encoding="utf-8")
    (tmp_path / "bare").mkdir()
    adapters = [tmp_path / name for name in ("bare", "silent", "older", "right")]
    check_export(export, adapters)
    with pytest.raises(UsageError) as error:
        check_export(other, adapters)
    said = str(error.value)
    assert f"right was trained on another export than {other} (SHA-256 {digest[:12]}, not " in said
    assert hashlib.sha256(other.read_bytes()).hexdigest()[:12] + "). Give the export that it was trained on." in said
    with pytest.raises(UsageError, match="gone.jsonl cannot be read .*Give the file that was trained on"):
        check_export(tmp_path / "gone.jsonl", adapters)


@pytest.mark.parametrize("tile", [1, 2, 5, 7])
def test_logits_are_reduced_alike_in_tiles_of_any_size(tile: int) -> None:
    torch.manual_seed(0)
    after, before = torch.randn(5, 11, dtype=torch.float64), torch.randn(5, 11, dtype=torch.float64)
    targets = torch.tensor([0, 10, 3, 3, 7])
    nll, entropy, kl, base = reduce_logits(after, before, targets, tile)
    p, q = torch.softmax(after, -1), torch.softmax(before, -1)
    at = torch.arange(5)
    np.testing.assert_allclose(nll, -p[at, targets].log(), atol=1e-6)
    np.testing.assert_allclose(entropy, -(p * p.log()).sum(-1), atol=1e-6)
    np.testing.assert_allclose(kl, (q * (q.log() - p.log())).sum(-1), atol=1e-6)
    np.testing.assert_allclose(base, -q[at, targets].log(), atol=1e-6)
    assert {part.dtype for part in (nll, entropy, kl, base)} == {np.dtype("float32")}
    alone = reduce_logits(after, None, targets, tile)
    np.testing.assert_array_equal(alone[0], nll)
    assert (len(alone[2]), len(alone[3])) == (0, 0)
    assert all(not len(part) for part in reduce_logits(after[:0], before[:0], targets[:0], tile))


def test_a_row_counts_once_however_long_it_is() -> None:
    def row(nll: list[float], base: list[float], kl: list[float]) -> Probe:
        return Probe(*(np.array(part, np.float32) for part in (nll, nll, kl, base)))

    probes = [row([1, 3, 5], [4, 4, 4], [0, 0, 3]), row([7], [1], [2]), row([], [], [])]
    assert chain_nll(probes) == 5.0
    assert chain_nll(probes, base=True) == 2.5
    assert chain_kl(probes) == 1.5
    assert math.isnan(chain_nll([]))
    assert math.isnan(chain_kl([Probe(np.ones(2, np.float32), np.ones(2, np.float32))]))


def test_repetition_is_the_share_of_grams_seen_before() -> None:
    assert repetition([1, 2, 3]) == 0.0
    assert repetition([1, 2, 3, 4]) == 0.0
    assert repetition([1, 1, 1, 1, 1]) == 0.5
    assert repetition([1, 2] * 4, gram=2) == pytest.approx(1 - 2 / 7)
    assert repetition([1, 2, 1, 2], gram=3) == 0.0
    assert repetition_alarm(0.1, 0.15, 1) == ""
    assert repetition_alarm(0.1, 0.9, 1).startswith("repetition collapse: 0.100 → 0.900 of the 4-grams")


def group(change: float, low: float, high: float, chains: int = 9) -> GroupChange:
    return GroupChange("unseen", chains, 99, 2.0, 2.0 + change, change, low, high, 0.0, 0.1, 0.1)


def test_a_sentence_says_what_the_interval_allows() -> None:
    assert verdict(group(-0.2, -0.3, -0.1), 0.01) == (
        "unseen: became easier by 0.200 nats per token (95 % interval 0.100 to 0.300)"
    )
    assert verdict(group(0.2, 0.1, 0.4), 0.01) == (
        "unseen: became harder by 0.200 nats per token (95 % interval 0.100 to 0.400)"
    )
    assert verdict(group(0.2, 0.0, 0.3), 0.01) == "unseen: no change that the 95 % interval 0.000 to 0.300 tells from 0"
    assert (
        verdict(group(-0.2, -0.3, 0.0), 0.01) == "unseen: no change that the 95 % interval -0.300 to 0.000 tells from 0"
    )
    assert verdict(group(0.01, 0.005, 0.02), 0.01) == "unseen: no change beyond the noise floor"
    assert verdict(group(-0.01, -0.02, -0.005), 0.01) == "unseen: no change beyond the noise floor"
    assert verdict(group(-0.01, -0.02, -0.005), math.nan).endswith(
        "easier by 0.010 nats per token (95 % interval 0.005 to 0.020)"
    )
    assert verdict(group(0.2, math.nan, math.nan, chains=4), 0.01) == "unseen: 4 chains are too few for an interval"


def test_an_interval_of_a_change_needs_five_values() -> None:
    mean, low, high = interval([1.0, 2.0, 3.0, math.nan, 4.0])
    assert mean == 2.5
    assert math.isnan(low)
    assert math.isnan(high)
    mean, low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (mean, low < 2.0, high > 4.0) == (3.0, True, True)
    assert math.isnan(interval([])[0])
