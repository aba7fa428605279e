"""ANCHOR and DRIFT in training: the text that is placed, the targets of the rows, and a training that moves towards them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from trails.cli import cli
from trails.errors import UsageError
from trails.pipeline import Home
from trails.train.data import load_rows

TEXT = "If it rains {0} then the grass is wet. But the grass {0} is dry. Therefore no rain."
CHAINS = [
    {"id": f"{i}", "question": f"Is it {i}?", "chain": TEXT.format(word)}
    for i, word in enumerate(("today", "here", "again", "outside", "now", "tonight"))
]

pytestmark = [pytest.mark.slow, pytest.mark.model]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six chains, measured by the packaged model."""
    folder = tmp_path_factory.mktemp("training")
    source = folder / "chains.jsonl"
    source.write_text("\n".join(map(json.dumps, CHAINS)), encoding="utf-8")
    trails("ingest", str(source), "--home", str(folder / "home"))
    return folder / "home"


def trails(*words: str) -> str:
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def block(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "b.stellator"
    file.write_text("\n".join(("[ZONE: all]", *lines)), encoding="utf-8")
    return file


def export(home: Path, to: Path, file: Path, *more: str, format: str = "trails") -> tuple[list[dict[str, Any]], str]:
    said = trails("export", "--stellator", str(file), "--format", format, "-o", str(to), "--home", str(home), *more)
    return [json.loads(line) for line in to.read_text("utf-8").splitlines()] if to.suffix == ".jsonl" else [], said


def test_the_text_of_an_anchor_stands_behind_every_row_in_tokens_of_the_base_vocabulary(
    home: Path, tmp_path: Path
) -> None:
    lines = ["STEP → BUT", "ORDER → source"]
    plain, _ = export(home, tmp_path / "a.jsonl", block(tmp_path, *lines))
    placed, said = export(home, tmp_path / "b.jsonl", block(tmp_path, *lines, 'ANCHOR → "quite so"'))
    assert "ANCHOR 'quite so' is placed after each row: 2 tokens of the base vocabulary (' quite', ' so')" in said
    with Home(home=home) as opened:
        tokenizer = opened.own_model().model.tokenizer
    ids = tokenizer.encode(" quite so", add_special_tokens=False)
    assert len(placed) == len(plain) == 6
    for row, other in zip(placed, plain, strict=True):
        assert row["input_ids"] == other["input_ids"] + ids
        assert row["labels"] == other["labels"] + ids
        assert row["loss_weights"] == other["loss_weights"] + [1.0] * len(ids)
        assert row["surprisal"][-2:] == row["entropy"][-2:] == [None, None]
        assert row["completion"] == other["completion"] + " quite so"
        assert row["token_ids_in_graph"] == other["token_ids_in_graph"]  # its tokens are no nodes
        assert row["id"] == other["id"]
    told = json.loads(trails("stellator", "compile", str(tmp_path / "b.stellator"), "--home", str(home), "--json"))
    assert "quite so" in json.dumps(told)
    # a text format has the text; a row that ends with it has it once
    (first, *_), _ = export(
        home, tmp_path / "t.jsonl", block(tmp_path, *lines, 'ANCHOR → "is dry."'), format="prompt-completion"
    )
    assert json.dumps(first).count("is dry.") == 1


def test_weights_masks_and_damping_are_those_of_the_chain_alone(home: Path, tmp_path: Path) -> None:
    lines = ["STEP → BUT", "GRADIENT DAMPEN → ~0.1", "WEIGHT → surprisal", 'MASK → "surprisal<2"', "ORDER → source"]
    plain, one = export(home, tmp_path / "a.jsonl", block(tmp_path, *lines))
    placed, two = export(home, tmp_path / "b.jsonl", block(tmp_path, *lines, 'ANCHOR → "so"'))
    for row, other in zip(placed, plain, strict=True):
        assert row["loss_weights"][:-1] == other["loss_weights"]
        assert row["labels"][:-1] == other["labels"]
        assert row["loss_weights"][-1] == 1
    surprisal = [said.partition("mean surprisal ")[2].split()[0] for said in (one, two)]
    assert surprisal[0] == surprisal[1]  # of measured tokens alone


def test_lines_drift_are_targets_where_the_objective_is_attention(home: Path, tmp_path: Path) -> None:
    lines = [
        "STEP → BUT",
        "DRIFT → activates attention sweep on layer 17",
        "DRIFT → calms attention sink on layer 5",
        "DRIFT → activates hidden shift",
        "NOT DRIFT → activates attention sweep",
    ]
    _, said = export(home, tmp_path / "plain.parquet", block(tmp_path, *lines))
    assert "trained" not in said
    assert not load_rows(tmp_path / "plain.parquet")[0]["targets"]
    file = tmp_path / "rows.parquet"
    _, said = export(home, file, block(tmp_path, *lines, "OBJECTIVE → attention"))
    assert "DRIFT → activates attention sweep on layer 17: trained to lie above" in said
    assert "DRIFT → calms attention sink on layer 5: trained to lie below" in said
    assert "DRIFT → activates hidden shift: not trained, the attention objective moves" in said
    assert "NOT DRIFT → activates attention sweep: not trained, NOT says nothing to train towards" in said
    rows = load_rows(file)
    assert len(rows) == 6
    for row in rows:
        but = next(span for span in row["step_spans"] if span["role"] == "BUT")
        assert [(own["start"], own["end"], own["measure"], own["layers"], own["above"]) for own in row["targets"]] == [
            (but["start"], but["end"], "attention_entropy", [17], True),
            (but["start"], but["end"], "attention_sink", [5], False),
        ]
    lines_of, _ = export(home, tmp_path / "lines.jsonl", block(tmp_path, *lines, "OBJECTIVE → attention"))
    by_chain = {row["chain"]: row["targets"] for row in rows}
    for row in load_rows(tmp_path / "lines.jsonl"):
        for a, b in zip(row["targets"], by_chain[row["chain"]], strict=True):
            assert a | {"bound": 0} == b | {"bound": 0}
            assert a["bound"] == pytest.approx(b["bound"], abs=1e-5)
    assert all("drift" in row for row in lines_of)
    with pytest.raises(UsageError, match=r"lines DRIFT are targets .* format 'trl' has no room"):
        export(home, tmp_path / "x.jsonl", block(tmp_path, *lines, "OBJECTIVE → attention"), format="trl")


@pytest.mark.train
def test_a_training_on_the_targets_moves_towards_them(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    lines = ("STEP → BUT", "DRIFT → calms attention sweep on layer 17", "OBJECTIVE → attention")
    export(home, file, block(tmp_path, *lines))
    out = tmp_path / "adapter"
    trails("train", str(file), "-o", str(out), "--objective", "attention", "--steps", "12", "--home", str(home))
    losses = [loss for _, loss in json.loads((out / "train.json").read_text())["losses"]]
    assert losses[0] > 0  # nats away from the bound
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])


def test_two_anchors_for_one_row_are_an_error(home: Path, tmp_path: Path) -> None:
    two = block(tmp_path, "STEP → BUT", 'ANCHOR → "so"', "[ZONE: all]", "STEP → THEREFORE", 'ANCHOR → "thus"')
    with pytest.raises(
        UsageError, match=r"two blocks place 'so' and 'thus' after chain c[0-9a-f]{16}, which is one row"
    ):
        export(home, tmp_path / "x.jsonl", two)
    assert not (tmp_path / "x.jsonl").exists()
