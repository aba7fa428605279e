"""Rows without a label are left out and counted, texts end as asked, and parts carry weight, tag and stage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests.export.test_export import export, rows_of

from trails.cli import cli
from trails.errors import UsageError
from trails.export import WRITERS
from trails.export.subgraph import Part, Selection
from trails.schema import stable_hash


@pytest.mark.slow
def test_rows_without_a_label_are_left_out_and_counted(make_home, tmp_path: Path) -> None:
    home = make_home(12)
    lowest = {trace.chain.id: float(np.nanmin(trace.surprisal)) for trace in home.traces}
    bound = float(np.median(list(lowest.values())))
    report = export(home, tmp_path / "o.jsonl", mask=f"surprisal<{bound}")
    rows = rows_of(report.files["train"])
    assert {row["chain"] for row in rows} == {chain for chain, value in lowest.items() if value < np.float32(bound)}
    assert all(any(label != -100 for label in row["labels"]) for row in rows)
    assert report.counts.unlabelled == 12 - len(rows) > 0
    assert report.counts.rows == report.counts.chains == len(rows)
    assert [row["order"] for row in rows] == list(range(len(rows)))
    card = report.card.read_text(encoding="utf-8")
    assert f"| rows left out because no token of them carries a label | {12 - len(rows)} |" in card
    with pytest.raises(UsageError, match="leaves no token with loss"):
        export(home, tmp_path / "none.jsonl", mask="surprisal<0")


def texts(format: str, row: dict) -> str:
    """What follows the question in a row of a format of texts."""
    match format:
        case "prompt-completion":
            return row["completion"]
        case "messages":
            return row["messages"][-1]["content"]
        case "llama-factory":
            return row["output"]
        case "axolotl-segments":
            return row["segments"][-1]["text"]
    raise AssertionError(format)


@pytest.mark.slow
@pytest.mark.parametrize("format", sorted(name for name, writer in WRITERS.items() if writer.texts))
def test_texts_end_with_what_was_asked_for_and_the_card_says_so(make_home, tmp_path: Path, format: str) -> None:
    home = make_home(6)
    chains = {chain.id: chain for chain in home.chains}
    asked = {"plain": {}, "answer": {"answer": True}, "both": {"answer": True, "think_tags": "<think>,</think>"}}
    for name, options in asked.items():
        report = export(home, tmp_path / name / "o.jsonl", format=format, **options)
        for row in rows_of(report.files["train"]):
            text = chains[row["chain"]].text
            expected = {
                "plain": text,
                "answer": f"{text}\n42",
                "both": f"<think>\n{text}\n</think>\n\n42",
            }[name]
            assert texts(format, row) == expected
        says = {
            "plain": "the final answer is not in it",
            "answer": "A row ends with the final answer",
            "both": "stand around the chain; a row ends with the final answer",
        }[name]
        assert says in report.ends
        assert report.ends in report.card.read_text(encoding="utf-8")


@pytest.mark.slow
def test_ids_and_parts_take_no_answer_and_missing_ones_are_counted(make_home, tmp_path: Path) -> None:
    from dataclasses import replace

    from tests.export.conftest import chains_of

    home = make_home(chains=[replace(c, answer="" if i == 2 else "42") for i, c in enumerate(chains_of(6))])
    for format in sorted(name for name, writer in WRITERS.items() if not writer.texts):
        with pytest.raises(UsageError, match=r"holds token ids .* Formats of texts: prompt-completion, messages"):
            export(home, tmp_path / "o.jsonl", format=format, answer=True)
    part = Selection("part", {home.chains[0].id: Part(home.chains[0].id, steps=(1,))})
    with pytest.raises(UsageError, match="complete whole chains"):
        export(home, tmp_path / "o.jsonl", part, "messages", think_tags="<a>,</a>", lossy=True)
    with pytest.raises(UsageError, match="think tags '<think>' cannot be read"):
        export(home, tmp_path / "o.jsonl", format="messages", think_tags="<think>")
    report = export(home, tmp_path / "o.jsonl", format="messages", answer=True)
    assert "1 row has no final answer to end with." in report.lint
    partly = "5 rows end with the final answer, 1 has none and stops after the chain"
    assert partly in report.ends
    assert report.answered == 5
    result = CliRunner().invoke(
        cli,
        [
            *("export", "--subgraph", "all", "--format", "messages", "--think-tags", "--answer"),
            *("--home", str(home.home), "-o", str(tmp_path / "cli.jsonl")),
        ],
    )
    assert result.exit_code == 0, result.output
    assert partly in result.stdout
    assert "a row ends with the final answer" not in result.stdout
    bare = make_home(chains=[replace(c, answer="") for c in chains_of(6)], name="bare")
    nothing = export(bare, tmp_path / "bare.jsonl", format="messages", answer=True)
    assert nothing.ends.startswith("No row has a final answer, so a row ends after the chain")
    assert nothing.answered == 0
    assert rows_of(tmp_path / "cli.jsonl")[0]["messages"][-1]["content"].startswith("<think>\n")


@pytest.mark.slow
def test_a_selection_is_looked_through_as_often_whatever_the_number_of_batches(
    make_home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export that went through all parts with every batch took hours for a million chains."""
    home = make_home(12, shards=6)

    class Counted(dict[str, Part]):
        through = 0

        def values(self):
            self.through += 1
            return super().values()

        def __iter__(self):
            self.through += 1
            return super().__iter__()

    seen = []
    for rows in (1, 100):
        monkeypatch.setattr("trails.export.preparing.BATCH_ROWS", rows)
        parts = Counted({chain.id: Part(chain.id) for chain in home.chains})
        report = export(home, tmp_path / f"{rows}.jsonl", Selection("s", parts))
        seen.append((report.digest, parts.through))
    assert seen[0] == seen[1]
    assert seen[0][1] > 0


@pytest.mark.slow
def test_a_part_carries_weight_tag_and_stage(make_home, tmp_path: Path) -> None:
    home = make_home(8)
    ids = [chain.id for chain in home.chains]
    parts = {
        chain: Part(chain, weight=0.5 if i % 2 else 1.0, tag="late" if i < 4 else "", stage=1 if i < 4 else 0)
        for i, chain in enumerate(ids)
    }
    plain = Selection("s", {chain: Part(chain) for chain in ids})
    staged = Selection("s", parts)
    assert plain.digest == stable_hash(*(f"Part(chain={c!r}, steps=(), tokens=())" for c in sorted(ids)))
    assert plain.digest != staged.digest
    before = rows_of(export(home, tmp_path / "a.jsonl", plain, weights="surprisal").files["train"])
    report = export(home, tmp_path / "b.jsonl", staged, weights="surprisal")
    rows = rows_of(report.files["train"])
    assert set(before[0]) | {"stage", "tag"} == set(rows[0])
    assert [row["stage"] for row in rows] == [0] * 4 + [1] * 4
    assert [row["tag"] for row in rows] == [""] * 4 + ["late"] * 4
    # within a stage the order is that of the whole
    order = [row["chain"] for row in before]
    assert [row["chain"] for row in rows] == sorted(order, key=lambda chain: parts[chain].stage)
    known = {row["chain"]: row for row in before}
    for row in rows:
        np.testing.assert_allclose(
            row["loss_weights"], np.array(known[row["chain"]]["loss_weights"]) * parts[row["chain"]].weight, atol=2e-6
        )
    card = report.card.read_text(encoding="utf-8")
    assert "| rows with the tag `late` | 4 |" in card
    assert "| stages, one after the other | 2 |" in card
    with pytest.raises(UsageError, match="would lose the weights of the selection"):
        export(home, tmp_path / "c.jsonl", staged, "trl")
    lossy = export(home, tmp_path / "c.jsonl", staged, "trl", lossy=True)
    assert lossy.lost == ("The weights of the selection: every row counts the same.",)
    assert [row["chain"] for row in rows_of(lossy.files["train"])] == [row["chain"] for row in rows]


def test_a_stored_message_is_a_turn_with_its_tool_calls_as_text() -> None:
    from trails.export.messages import _turn

    calls = [{"name": "f", "arguments": {"x": "я"}}]
    assert _turn({"role": "assistant", "content": "", "tool_calls": calls}) == {
        "role": "assistant",
        "content": "",
        "tool_calls": '[{"name": "f", "arguments": {"x": "я"}}]',
    }
    assert _turn({"role": "user", "content": "a", "of no format": 1}) == {"role": "user", "content": "a"}
