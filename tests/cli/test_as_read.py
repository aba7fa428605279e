"""What ingest shows of its reading before anything is measured, and that exports come back as the chains they were."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trails.errors import InputError
from trails.readers import read

ROWS = [
    {
        "problem": "Is 7 odd?",
        "steps": "If 7 is even, then 7 = 2k. But 7 = 2*3 + 1. So it is odd.",
        "answer": "yes",
        "level": 3,
    },
    {
        "problem": "Is 8 odd?",
        "steps": "If 8 is odd, then 8 = 2k + 1. But 8 = 2*4. So it is even.",
        "answer": "no",
        "level": 1,
    },
]


@pytest.fixture
def sums(tmp_path: Path) -> Path:
    path = tmp_path / "sums.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return path


def test_one_chain_is_shown_as_it_was_read(trails, sums: Path) -> None:
    shown = trails("ingest", sums, "--dry-run").err
    assert shown.startswith(
        "read as     sums.jsonl: reader records\n"
        "  fields    question = 'problem', chain = 'steps', answer = 'answer'; passed over (metadata): level. "
        "Change with --field PART=FIELD.\n"
        "  question  Is 7 odd?\n"
        "  chain     If 7 is even, then 7 = 2k. But 7 = 2*3 + 1. So it is odd.\n"
        "  answer    yes\n"
    )
    assert "Is 8 odd?" not in shown
    (example,) = trails("ingest", sums, "--dry-run", "--json").json()["as_read"]
    assert (example["reader"], example["taken"]["chain"], example["passed_over"]) == ("records", "steps", ["level"])


@pytest.mark.parametrize(
    ("fields", "whose"),
    [
        ({"solution": "So it is 7.", "gold_answer": "7"}, "gold_answer"),
        ({"model_output": "So it is 7.", "answer": "7"}, "answer"),
        ({"solution": "So it is 7.", "answer": "7"}, ""),
        ({"chain": "So it is 7.", "model_answer": "7", "gold_answer": "7"}, ""),
    ],
)
def test_an_answer_of_the_data_is_told_from_the_chains_own(trails, tmp_path: Path, fields, whose: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "How much?"} | fields) + "\n", encoding="utf-8")
    said = f" (the data's, of the field {whose!r}: no field says what the chain came to)" if whose else ""
    assert f"  answer    7{said}\n" in trails("ingest", rows, "--dry-run").err
    (example,) = trails("ingest", rows, "--dry-run", "--json").json()["as_read"]
    assert example.get("answer_of_the_data", "") == whose
    if "model_answer" in fields:
        assert (example["taken"]["answer"], example["taken"]["gold_answer"]) == ("model_answer", "gold_answer")


def test_the_family_that_was_asked_for_is_shown(trails, tmp_path: Path) -> None:
    path = tmp_path / "topics.jsonl"
    path.write_text('{"text": "It rains. The grass is wet.", "topic": "weather", "level": "1"}\n')
    plain = trails("ingest", path, "--dry-run", "--model", "uniform").err
    assert "passed over (metadata): topic, level. " in plain
    assert "  family" not in plain
    told = trails("ingest", path, "--dry-run", "--model", "uniform", "--family", "topic").err
    assert "family = 'topic'; passed over (metadata): level. " in told
    assert "  family    weather\n" in told


def test_a_language_without_a_lexicon_is_told(trails, tmp_path: Path) -> None:
    path = tmp_path / "splits.jsonl"
    path.write_text('{"text": "It rains, so the grass is wet.", "split": "train"}\n')
    told = trails("ingest", path, "--model", "uniform", "--field", "language=split").err
    assert "languages: train 1 (no lexicon" not in told, "the count stands behind the whole name"
    assert "languages: train (no lexicon: lines and sentences only) 1" in told
    plain = trails("ingest", path, "--model", "uniform").err
    assert "no lexicon" not in plain


def test_it_is_shown_before_the_model_is_looked_for(trails, sums: Path) -> None:
    done = trails("ingest", sums, "--model", "no/such-model", code=4)
    assert done.err.index("read as     sums.jsonl") < done.err.index("no/such-model")


def test_a_field_that_is_not_there_is_an_error_for_every_reader(trails, tmp_path: Path) -> None:
    known = tmp_path / "train.jsonl"
    known.write_text(json.dumps({"question": "q", "answer": "One.\n#### 1"}) + "\n", encoding="utf-8")
    done = trails("ingest", known, "--dry-run", "--field", "chain=nope", code=3)
    assert f"{known}:1: no field 'nope' for the chain; fields found: question, answer." in done.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trails", "messages"])
def test_an_export_comes_back_as_its_chains_or_is_refused(trails, sums: Path, tmp_path: Path, name: str) -> None:
    trails("ingest", sums)
    out = tmp_path / "out.jsonl"
    trails("export", "--subgraph", "all", "--format", name, "-o", out, "--lossy")
    if name == "trails":
        assert {chain.id for chain in read([out])} == {chain.id for chain in read([sums])}
        again = trails("ingest", out, "--json").json()
        assert (again["already_measured"], again["measured"]) == (2, 0)
    else:
        with pytest.raises(InputError, match="a row of trails' own export: column 'chain' is the id c"):
            list(read([out]))
