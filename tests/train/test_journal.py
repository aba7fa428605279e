"""The journal of a training and its replay: what is written is what a plain reckoning finds, once, with its place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from trails.errors import InputError, UsageError
from trails.train import TrainOptions, train_rows
from trails.train.data import Collator
from trails.train.journal import Journal, read_journal, replayed
from trails.train.loss import batch_loss

pytestmark = pytest.mark.train


def placed(rows: list[dict]) -> list[dict]:
    """Rows whose chains begin at position 2 of the graph's chain, as a part of a chain does."""
    return [row | {"first": 2, "prefix": f"run|{row['chain']}|"} for row in rows]


def test_entries_are_the_transitions_above_the_quantile(tiny, make_rows, tmp_path: Path) -> None:
    model, rows = tiny(), placed(make_rows(3))
    batch = Collator(places=True)(rows)
    journal = Journal(tmp_path / "journal.jsonl", 0.8)
    batch_loss(model, model, batch, TrainOptions(), at=(5, 0), journal=journal)
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.double()
    log_p = torch.log_softmax(logits, -1)
    found = []
    for r, row in enumerate(rows):
        for i in range(3, len(row["input_ids"])):
            here = log_p[r, i - 1]
            entropy = float(-(here.exp() * here).sum())
            found.append((row["chain"], i - 3 + 2, float(-here[row["input_ids"][i]]), entropy))
    loss_q, entropy_q = (np.quantile([one[k] for one in found], 0.8) for k in (2, 3))
    expected = {one[:2]: one for one in found if one[2] >= loss_q or one[3] >= entropy_q}
    entries = read_journal(tmp_path / "journal.jsonl")
    assert {(e.chain, e.position) for e in entries} == expected.keys()
    assert 0 < len(entries) < len(found)
    for entry in entries:
        _, _, loss, entropy = expected[entry.chain, entry.position]
        assert (entry.loss, entry.entropy) == (pytest.approx(loss, abs=1e-4), pytest.approx(entropy, abs=1e-4))
        assert entry.token == f"run|{entry.chain}|{entry.position}"
        assert entry.step == 5
        by = {"both": (True, True), "loss": (True, False), "entropy": (False, True)}[entry.by]
        assert by == (loss >= loss_q - 1e-6, entropy >= entropy_q - 1e-6)


def test_a_token_is_written_once_and_a_half_line_is_taken_off(tiny, make_rows, tmp_path: Path) -> None:
    model, path = tiny(), tmp_path / "journal.jsonl"
    batch = Collator(places=True)(placed(make_rows(2)))
    for step in (1, 2):
        batch_loss(model, model, batch, TrainOptions(), at=(step, 0), journal=Journal(path, 0.5))
    whole = path.read_bytes()
    assert {entry.step for entry in read_journal(path)} == {1}
    path.write_bytes(whole + b'{"token": "ru')
    Journal(path, 0.5)
    assert path.read_bytes() == whole


def test_a_resumed_training_writes_the_journal_of_an_undisturbed_one(
    tiny, tokenizer, make_rows, tmp_path: Path
) -> None:
    rows = placed(make_rows(16))
    options = TrainOptions(steps=6, batch=2, checkpoint_every=2, journal=0.7)

    class StoppedError(Exception):
        pass

    def stop(step: int, *_: object) -> None:
        if step == 3:
            raise StoppedError

    train_rows(rows, tmp_path / "whole", tiny(), tokenizer, options, identity={"export": "x"})
    with pytest.raises(StoppedError):
        train_rows(rows, tmp_path / "cut", tiny(), tokenizer, options, identity={"export": "x"}, on_step=stop)
    report = train_rows(rows, tmp_path / "cut", tiny(), tokenizer, options, identity={"export": "x"})
    assert report.resumed == 2
    one, two = (tmp_path / name / "journal.jsonl" for name in ("whole", "cut"))
    assert one.read_text(encoding="utf-8") == two.read_text(encoding="utf-8")
    assert {entry.step for entry in read_journal(one)} == {1, 2, 3, 4, 5, 6}


def test_a_replay_feeds_the_transitions_and_its_control_as_many_others(tiny, make_rows, tmp_path: Path) -> None:
    model, rows = tiny(), placed(make_rows(6))
    path = tmp_path / "journal.jsonl"
    batch_loss(model, model, Collator(places=True)(rows[:4]), TrainOptions(), at=(1, 0), journal=Journal(path, 0.75))
    entries = read_journal(path)
    again = replayed(rows, entries)
    fed = {(row["chain"], i - 1) for row in again for i, label in enumerate(row["labels"]) if label != -100}
    assert fed == {(entry.chain, entry.position) for entry in entries}
    for row in again:
        for i, label in enumerate(row["labels"]):
            assert label in (-100, row["input_ids"][i])
            assert (row["loss_weights"][i] > 0) == (label != -100)
    control = replayed(rows, entries, at_random=True, seed=3)
    sizes = [sorted(sum(label != -100 for label in row["labels"]) for row in part) for part in (again, control)]
    assert sizes[0] == sizes[1]
    assert len({row["chain"] for row in control}) == len(control)
    assert control == replayed(rows, entries, at_random=True, seed=3)
    assert control != replayed(rows, entries, at_random=True, seed=4)


def test_faults(make_rows, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--journal"):
        read_journal(tmp_path / "none.jsonl")
    (tmp_path / "x.jsonl").write_text('{"chain": "c"}\n', encoding="utf-8")
    with pytest.raises(InputError, match=r"x\.jsonl:1"):
        read_journal(tmp_path / "x.jsonl")
    (tmp_path / "x.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"x\.jsonl:1: not text in UTF-8"):
        read_journal(tmp_path / "x.jsonl")
    entry = {"token": "", "chain": "other", "position": 1, "step": 1, "loss": 1.0, "entropy": 1.0, "by": "loss"}
    (tmp_path / "y.jsonl").write_text(json.dumps(entry) + "\n", encoding="utf-8")
    with pytest.raises(UsageError, match="no row holds"):
        replayed(placed(make_rows(2)), read_journal(tmp_path / "y.jsonl"))
