"""A block exports the rows of the options that it names, and a damped span has its share of the gradient."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from transformers import LlamaConfig, LlamaForCausalLM

from trails.cli import cli
from trails.errors import QueryError, UsageError
from trails.train.data import Collator, load_rows
from trails.train.loss import batch_loss
from trails.train.options import TrainOptions

TEXT = "If it rains {0} then the grass is wet. But the grass {0} is dry. Therefore no rain."
CHAINS = [{"id": f"{i}", "question": f"Is it {i}?", "chain": TEXT.format(i)} for i in range(6)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six chains, measured by the uniform scorer."""
    folder = tmp_path_factory.mktemp("export")
    source = folder / "chains.jsonl"
    source.write_text("\n".join(map(json.dumps, CHAINS)), encoding="utf-8")
    run("ingest", str(source), "--model", "uniform", "--home", str(folder / "home"))
    return folder / "home"


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, words, catch_exceptions=False)


def rows(home: Path, to: Path, *words: str) -> list[dict[str, Any]]:
    run("export", *words, "--format", "trails", "-o", str(to), "--home", str(home))
    return [json.loads(line) for line in to.read_text("utf-8").splitlines()]


def block(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "b.stellator"
    file.write_text("\n".join(("[ZONE: all]", *lines)), encoding="utf-8")
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "options"),
    [
        (["STEP → BUT"], ["--subgraph", "roles:BUT"]),
        (
            ["STEP → BUT, THEREFORE", "ORDER → rhythm 3", "WEIGHT → entropy", 'MASK → "role:BUT"'],
            (
                *("--subgraph", 'MATCH (s:Step) WHERE s.role IN ["BUT", "THEREFORE"] RETURN s'),
                *("--order", "rhythm:3", "--weights", "entropy", "--mask", "role:BUT"),
            ),
        ),
        (['CHAIN → "rains"', "ORDER → source"], ["--subgraph", "all", "--order", "source"]),
    ],
)
def test_a_block_gives_the_rows_of_the_options(
    home: Path, tmp_path: Path, lines: list[str], options: list[str]
) -> None:
    told = rows(home, tmp_path / "a.jsonl", "--stellator", str(block(tmp_path, *lines)))
    same = rows(home, tmp_path / "b.jsonl", *options)
    for row in (*told, *same):
        del row["subgraph"]
    assert told == same != []


@pytest.mark.slow
def test_a_damped_span_has_its_factor_and_nothing_else_changes(home: Path, tmp_path: Path) -> None:
    plain = rows(home, tmp_path / "a.jsonl", "--subgraph", "all")
    damped = rows(
        home, tmp_path / "b.jsonl", "--stellator", str(block(tmp_path, "STEP → BUT", "GRADIENT DAMPEN → ~0.1"))
    )
    assert len(damped) == len(plain) == 6
    by_chain = {row["chain"]: row for row in plain}
    for row in damped:
        other = by_chain[row["chain"]]
        assert row["labels"] == other["labels"]
        spans = {(s["start"], s["end"]) for s in row["step_spans"] if s["role"] == "BUT"}
        inside = [any(a <= t < b for a, b in spans) for t in range(len(row["labels"]))]
        assert any(inside)
        factor = np.where(inside, np.float32(0.1), 1)
        assert np.allclose(row["loss_weights"], factor * np.array(other["loss_weights"]), atol=1e-7)


@pytest.mark.slow
def test_the_gradient_of_a_damped_span_is_a_tenth(home: Path, tmp_path: Path) -> None:
    """Every labelled token damped gives a tenth of the gradient; one step damped gives the sum of both parts."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = LlamaForCausalLM(config).double()

    def gradient(name: str, *lines: str) -> np.ndarray:
        file = tmp_path / f"{name}.parquet"
        where = ("--stellator", str(block(tmp_path, *lines))) if lines else ("--subgraph", "all")
        run("export", *where, "--format", "trails", "-o", str(file), "--order", "source", "--home", str(home))
        model.zero_grad()
        loss, _ = batch_loss(model, model, Collator()(load_rows(file)), TrainOptions())
        loss.backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()]).numpy().copy()

    whole = gradient("whole")
    tenth = gradient("tenth", 'CHAIN → "rain"', "GRADIENT DAMPEN → 0.1")
    assert np.linalg.norm(tenth) / np.linalg.norm(whole) == pytest.approx(0.1, abs=1e-6)
    none, part = (
        gradient("none", "STEP → BUT", "GRADIENT DAMPEN → 0"),
        gradient("part", "STEP → BUT", "GRADIENT DAMPEN → 0.1"),
    )
    span = whole - none
    assert np.linalg.norm(part - none) / np.linalg.norm(span) == pytest.approx(0.1, abs=1e-5)
    assert np.linalg.norm(span) > 0.1 * np.linalg.norm(whole)


@pytest.mark.slow
def test_what_an_export_refuses(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the option says otherwise"):
        rows(home, tmp_path / "x.jsonl", "--stellator", str(block(tmp_path, "ORDER → rising")), "--order", "falling")
    two = block(tmp_path, "ORDER → rising", "[ZONE: all]", "ORDER → falling")
    with pytest.raises(UsageError, match="two blocks give order"):
        rows(home, tmp_path / "x.jsonl", "--stellator", str(two))
    with pytest.raises(QueryError, match="selects nothing|holds nothing"):
        rows(home, tmp_path / "x.jsonl", "--stellator", str(block(tmp_path, 'TOKEN → "nowhere"')))
    assert run("export", "--format", "trails", "-o", "x.jsonl").exit_code == 2
    damped = block(tmp_path, "STEP → BUT", "GRADIENT DAMPEN → 0.1")
    words = (
        "export",
        "--stellator",
        str(damped),
        "--format",
        "messages",
        "-o",
        str(tmp_path / "m"),
        "--home",
        str(home),
    )
    with pytest.raises(UsageError, match="weights"):
        run(*words)
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.slow
def test_two_blocks_are_united(home: Path, tmp_path: Path) -> None:
    file = block(tmp_path, "STEP → BUT", "[ZONE: all]", 'TOKEN → "Therefore"')
    for row in rows(home, tmp_path / "u.jsonl", "--stellator", str(file)):
        text = bytes(i for i in row["labels"] if i >= 0).decode()
        assert text.startswith("But the grass")
        assert text.endswith("Therefore")
