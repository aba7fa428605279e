"""Every reader on small files in its format: question, chain and answer apart, boundaries, metadata, source, licence."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trails.errors import UsageError
from trails.readers import READERS, Reader, ReadOptions, ReadReport, parse_fields, read, write_chains
from trails.readers.doubtful import no_chain
from trails.schema import Chain


def jsonl(path: Path, records: Iterable[Any]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def one(path: Path, **options: Any) -> Chain:
    (chain,) = read([path], options=ReadOptions(**options))
    return chain


# --- the table ------------------------------------------------------------------------------------------------------


def test_every_reader_keeps_the_protocol_and_its_name() -> None:
    for name, reader in READERS.items():
        assert isinstance(reader, Reader)
        assert reader.name == name
        assert reader.about


def test_an_unknown_reader_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        read([tmp_path], reader="gsm9k")
    assert str(caught.value) == f"--reader gsm9k: no such reader. Readers: {', '.join(READERS)}."


# --- records --------------------------------------------------------------------------------------------------------

RECORD = {"id": 7, "problem": "2+2?", "reasoning": "Two and two make four.", "answer": "4", "level": 3}


@pytest.fixture(
    params=["jsonl", "json", "gz", "parquet", "arrow-file", "arrow-stream", "csv", "tsv", "bom", "crlf", "utf-16"]
)
def container(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same two records in every container."""
    rows: list[dict[str, Any]] = [RECORD, RECORD | {"id": 8, "problem": "Где «он», 🙂?"}]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    kind = request.param
    path = tmp_path / f"data.{kind}"
    if kind == "json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif kind == "gz":
        path = tmp_path / "data.jsonl.gz"
        path.write_bytes(gzip.compress(lines.encode()))
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif kind.startswith("arrow"):
        path = tmp_path / "data.arrow"
        table = pa.Table.from_pylist(rows)
        make = pa.ipc.new_file if kind == "arrow-file" else pa.ipc.new_stream
        with make(path, table.schema) as writer:
            writer.write_table(table)
    elif kind in ("csv", "tsv"):
        separator = "," if kind == "csv" else "\t"
        quoted = [[json.dumps(value, ensure_ascii=False) for value in row.values()] for row in rows]
        path.write_text("\n".join(separator.join(row) for row in [list(RECORD), *quoted]) + "\n", encoding="utf-8")
    else:
        path = tmp_path / "data.jsonl"
        data = {"bom": b"\xef\xbb\xbf" + lines.encode(), "crlf": lines.replace("\n", "\r\n").encode()}
        path.write_bytes(data.get(kind, lines.encode("utf-16" if kind == "utf-16" else "utf-8")))
    return path


def test_every_container_gives_the_same_chains(container: Path) -> None:
    wide = container.read_bytes().startswith((b"\xff\xfe", b"\xfe\xff"))
    report = ReadReport()
    chains = list(read([container], options=ReadOptions(encoding="utf-16" if wide else "utf-8"), report=report))
    assert [chain.question for chain in chains] == ["2+2?", "Где «он», 🙂?"]
    for chain, identity in zip(chains, ("7", "8"), strict=True):
        assert (chain.text, chain.answer, chain.source_id) == ("Two and two make four.", "4", identity)
        assert chain.metadata == {"level": "3"}
        assert chain.source == container.name.removesuffix(".gz")
        assert chain.source_sha256 == hashlib.sha256(container.read_bytes()).hexdigest()
    assert (report.chains, report.bad) == (2, 0)
    (example,) = report.examples
    assert (example.reader, example.chain) == ("records", chains[0])
    assert example.taken == {"question": "problem", "chain": "reasoning", "answer": "answer", "id": "id"}
    assert example.passed_over == ("level",)


def test_fields_can_be_mapped(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"q": "why?", "moves": ["one", "", "two"], "text": "other", "key": 5}])
    chain = one(path, fields=parse_fields(["question=q", "chain=moves", "id=key"]))
    assert (chain.question, chain.text, chain.source_id) == ("why?", "one\ntwo", "5")
    assert chain.boundaries == (0, 4)
    assert chain.metadata == {"text": "other"}


def test_a_thought_in_tags_is_the_chain_and_the_rest_the_answer(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"prompt": "q", "response": "<think>\nhmm, so\n</think>\n\nIt is 5."}])
    chain = one(path)
    assert (chain.text, chain.answer) == ("hmm, so", "It is 5.")


def test_the_id_does_not_depend_on_the_place_in_the_file(tmp_path: Path) -> None:
    records = [{"question": "a", "chain": "one"}, {"question": "b", "chain": "two"}, {"question": "a", "chain": "one"}]
    path = jsonl(tmp_path / "a.jsonl", records)
    first = [chain.id for chain in read([path])]
    jsonl(path, reversed(records))
    assert [chain.id for chain in read([path])] == first[::-1]
    assert first[0] == first[2] != first[1]


def test_an_object_with_one_list_of_records(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(
        json.dumps({"version": 1, "data": [{"chain": "one"}, {"chain": "two"}]}, indent=1), encoding="utf-8"
    )
    assert [chain.text for chain in read([path])] == ["one", "two"]


@pytest.mark.slow
def test_an_array_longer_than_the_buffer(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    texts = [f"{number} " + "слово " * 150_000 for number in range(4)]
    path.write_text(json.dumps([{"chain": text} for text in texts], ensure_ascii=False), encoding="utf-8")
    assert [chain.text for chain in read([path])] == [text.strip() for text in texts]


def test_a_megabyte_line_is_a_chain(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"chain": "x " * 600_000}])
    assert len(one(path).text) == 1_199_999


# --- chats ----------------------------------------------------------------------------------------------------------


def test_messages(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "<think>two twos</think>4", "extra": None},
        {"role": "user", "content": [{"type": "text", "text": "3+3?"}]},
        {"role": "assistant", "reasoning_content": "three threes", "content": "6"},
    ]
    first, second = read([jsonl(tmp_path / "a.jsonl", [{"id": "x", "messages": turns, "topic": "sums"}])])
    assert (first.question, first.text, first.answer) == ("system: Be brief.\nuser: 2+2?", "two twos", "4")
    assert second.question == "system: Be brief.\nuser: 2+2?\nassistant: 4\nuser: 3+3?"
    assert (second.text, second.answer) == ("three threes", "6")
    assert (first.source_id, second.source_id) == ("x#1", "x#2")
    assert first.metadata == {"topic": "sums"}


def test_conversations(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "why?"}, {"from": "gpt", "value": "because"}]
    chain = one(jsonl(tmp_path / "a.jsonl", [{"conversations": turns}]))
    assert (chain.question, chain.text) == ("why?", "because")


# --- text -----------------------------------------------------------------------------------------------------------

MARKDOWN = "# Title\n\nfirst line\r\nsecond line\n\n## Part\nthird\n---\nfourth\n\n```\ncode\n\nmore\n```\n"


def test_markdown(tmp_path: Path) -> None:
    path = tmp_path / "a.md"
    path.write_bytes(MARKDOWN.encode())
    chains = list(read([path]))
    assert [(chain.text, chain.metadata.get("heading")) for chain in chains] == [
        ("first line\nsecond line", "Title"),
        ("third", "Part"),
        ("fourth", "Part"),
        ("```\ncode\n\nmore\n```", "Part"),
    ]


def test_plain_text_keeps_a_number_sign(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("# not a heading\nsame chain\n\nother", encoding="utf-8")
    assert [chain.text for chain in read([path])] == ["# not a heading\nsame chain", "other"]


@pytest.mark.parametrize(
    ("separator", "expected"),
    [
        ("paragraph", ["a\nb", "c"]),
        ("line", ["a", "b", "c"]),
        ("file", ["a\nb\n\nc"]),
        ("heading", ["a\nb\n\nc"]),
    ],
)
def test_separators(tmp_path: Path, separator: Any, expected: list[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\nb\n\nc\n", encoding="utf-8")
    assert [chain.text for chain in read([path], options=ReadOptions(separator=separator))] == expected


def test_a_long_list_without_blank_lines_is_one_chain_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("".join(f"sentence {number}\n" for number in range(60)), encoding="utf-8")
    report = ReadReport()
    assert len(list(read([path], report=report))) == 60
    assert report.notes == [f"{path}: no blank line, so every line is a chain. Change with --separator paragraph."]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    data = gzip.compress(b'{"chain": "one"}\n{"chain": "two"}\n')
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    chains = list(read(["-"]))
    assert [chain.text for chain in chains] == ["one", "two"]
    assert {chain.source for chain in chains} == {"stdin"}
    assert chains[0].source_sha256 == hashlib.sha256(data).hexdigest()


# --- published data sets --------------------------------------------------------------------------------------------


def test_gsm8k(tmp_path: Path) -> None:
    answer = "He sold 48/2 = <<48/2=24>>24 clips.\nIn all 48+24 = <<48+24=72>>72.\n#### 72"
    chain = one(jsonl(tmp_path / "train.jsonl", [{"question": "How many?", "answer": answer}]))
    assert chain.text == "He sold 48/2 = 24 clips.\nIn all 48+24 = 72."
    assert (chain.question, chain.answer, chain.source) == ("How many?", "72", "gsm8k/train")
    assert chain.boundaries == (0, 25)
    marks = json.loads(chain.metadata["calculator"])
    assert marks == [{"at": 15, "text": "48/2=24"}, {"at": 40, "text": "48+24=72"}]
    assert [chain.text[mark["at"] :][:2] for mark in marks] == ["24", "72"]


def test_gsm8k_gives_back_the_source(tmp_path: Path) -> None:
    answer = "A <<1+1=2>>2 and <<2+2=4>>4.\n\n  B  \n#### 4"
    chain = one(jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": answer}]))
    text = chain.text
    for mark in reversed(json.loads(chain.metadata["calculator"])):
        text = f"{text[: mark['at']]}<<{mark['text']}>>{text[mark['at'] :]}"
    assert text == "A <<1+1=2>>2 and <<2+2=4>>4.\nB"


def test_gsm8k_socratic(tmp_path: Path) -> None:
    answer = "How many? ** It is 2*2=<<2*2=4>>4.\nAnd more? ** Five.\n#### 5"
    chain = one(jsonl(tmp_path / "a.jsonl", [{"question": "q", "answer": answer}]))
    assert chain.text == "How many? It is 2*2=4.\nAnd more? Five."
    assert [chain.text[a:b] for a, b in zip(chain.boundaries, (*chain.boundaries[1:], None), strict=True)] == [
        *("How many? ", "It is 2*2=4.\n", "And more? ", "Five.")
    ]
    assert json.loads(chain.metadata["socratic"]) == [10, 33]


def test_gsm8k_solutions(tmp_path: Path) -> None:
    record = {
        "question": "q",
        "ground_truth": "One.\nA: 1",
        "6b": {"is_correct": False, "solution": "Two is <<1+1=2>>2.\nA: 2"},
    }
    truth, model = read([jsonl(tmp_path / "a.jsonl", [record])])
    assert (truth.text, truth.answer, truth.metadata) == ("One.", "1", {"solver": "ground_truth", "is_correct": "true"})
    assert (model.text, model.answer, model.metadata["is_correct"]) == ("Two is 2.", "2", "false")
    assert truth.source_id != model.source_id


def test_bbh(tmp_path: Path) -> None:
    record = {"task": "t", "index": 3, "question": "q?", "chain": "A.\nSo the answer is (B).", "target": "(A)"}
    chain = one(jsonl(tmp_path / "model_chains.jsonl", [record]))
    assert (chain.answer, chain.metadata["target"], chain.source_id) == ("(B)", "(A)", "t:3")
    assert chain.text == "A.\nSo the answer is (B)."
    assert chain.source == "bbh/model_chains"


def test_bbh_prompts(tmp_path: Path) -> None:
    path = tmp_path / "task.txt"
    path.write_text(
        "CANARY x\n-----\nDo it.\n\nQ: one?\nOptions:\n- a\nA: Let's think step by step.\nFirst.\nSo the answer is a.\n\n"
        "Q: two?\nA: Let's think step by step.\nSecond. So the answer is b.\n",
        encoding="utf-8",
    )
    first, second = read([path])
    assert (first.question, first.text, first.answer) == ("one?\nOptions:\n- a", "First.\nSo the answer is a.", "a")
    assert (second.question, second.answer) == ("two?", "b")
    assert first.metadata == {"task": "task", "description": "Do it.", "canary": "CANARY x"}
    assert first.source == "bbh/task"


def test_prontoqa(tmp_path: Path) -> None:
    record = {
        "id": "P1",
        "context": "C.",
        "question": "Q?",
        "options": ["A)"],
        "answer": "B",
        "explanation": ["x.", "y."],
    }
    path = tmp_path / "prontoqa.json"
    path.write_text(json.dumps([record]), encoding="utf-8")
    chain = one(path)
    assert (chain.question, chain.text, chain.answer) == ("C.\nQ?", "x.\ny.", "B")
    assert chain.boundaries == (0, 3)


def test_logic_prompts(tmp_path: Path) -> None:
    path = tmp_path / "X_CoT.txt"
    path.write_text(
        "Task\n------\nContext:\nFacts.\n\nQuestion: true?\n\nOptions:\nA) yes\n\n"
        "Reasoning:\nSo yes.\n\nThe correct option is: A\n"
        "------\nContext:\n[[PROBLEM]]\n\nQuestion: [[Q]]\n\nReasoning:\n",
        encoding="utf-8",
    )
    chain = one(path)
    assert (chain.question, chain.text, chain.answer) == ("Facts.\ntrue?", "So yes.", "A")
    assert chain.metadata == {"options": "A) yes"}


def test_entailment_bank_both_layouts(tmp_path: Path) -> None:
    proof = "sent1 & sent3 -> int1: leo is a star; int1 & sent2 -> hypothesis; "
    context = "sent1: leo is bright sent2: stars move sent3: bright things are stars"
    slim = {
        **{"id": "x", "context": context, "question": "q?", "answer": "a", "hypothesis": "leo moves", "proof": proof},
        "sentences": {"sent1": "leo is bright", "sent2": "stars move", "sent3": "bright things are stars"},
    }
    angles = {
        "input": f"$proof$ ; $question$ = q? ; $answer$ = a ; $hypothesis$ = leo moves ; $context$ = {context}",
        "output": f"$proof$ = {proof}",
        "id": "x",
    }
    first = one(jsonl(tmp_path / "dev.jsonl", [slim]))
    second = one(jsonl(tmp_path / "train.jsonl", [angles]))
    assert first.text == second.text
    steps = [first.text[a:b] for a, b in zip(first.boundaries, (*first.boundaries[1:], None), strict=True)]
    assert steps == [
        *("because leo is bright, ", "and bright things are stars, ", "therefore leo is a star.\n"),
        *("because stars move, ", "therefore leo moves."),
    ]
    tree = json.loads(first.metadata["tree"])
    assert tree == [
        {"premises": [0, 1], "conclusion": 2, "names": ["sent1", "sent3", "int1"]},
        {"premises": [2, 3], "conclusion": 4, "names": ["int1", "sent2", "hypothesis"]},
    ]
    assert second.metadata == first.metadata
    assert (first.question, first.answer) == (second.question, second.answer) == ("q?", "a")


def test_marco_o1(tmp_path: Path) -> None:
    record = {"id": 2, "instruction": "do", "response": "<Thought>\nhmm. wait\n</Thought>\n<Output>\nDone.\n</Output>"}
    chain = one(jsonl(tmp_path / "cot_demo.jsonl", [record]))
    assert (chain.question, chain.text, chain.answer) == ("do", "hmm. wait", "Done.")
    assert chain.source == "marco-o1/cot_demo"


def test_strategyqa(tmp_path: Path) -> None:
    record = {
        "qid": "s",
        "question": "q?",
        "answer": False,
        "facts": ["f1.", "f2."],
        "decomposition": ["d1?", "Is #1?"],
    }
    chain = one(jsonl(tmp_path / "a.jsonl", [record]))
    assert (chain.text, chain.answer, chain.boundaries) == ("f1.\nf2.\nd1?\nIs #1?", "no", (0, 4, 8, 12))
    assert chain.metadata == {"n_facts": "2"}


def test_russian_answers(tmp_path: Path) -> None:
    record = {"question_id": 1, "model": "M", "question": "что?", "chain": " Если так. ", "connectives": 5}
    chain = one(jsonl(tmp_path / "answers.jsonl", [record]))
    assert (chain.question, chain.text, chain.source_id) == ("что?", "Если так.", "1:M")
    assert chain.metadata == {"model": "M", "connectives": "5"}


def test_mgsm(tmp_path: Path) -> None:
    record = {
        "lang": "ru",
        "n": 1,
        "question": "Задача: сколько?",
        "chain": "Пошаговое решение: 5 + 6 = 11. Ответ — 11.",
    }
    chain = one(jsonl(tmp_path / "a.jsonl", [record]))
    assert (chain.question, chain.text, chain.answer) == ("сколько?", "5 + 6 = 11. Ответ — 11.", "11")
    assert chain.language == "ru"


def test_folio_and_game24(tmp_path: Path) -> None:
    folio = {"example_id": 3, "conclusion": "c.", "premises": ["p1. ", "p2."], "label": "True"}
    chain = one(jsonl(tmp_path / "folio.jsonl", [folio]))
    assert (chain.question, chain.text, chain.answer, chain.boundaries) == ("c.", "p1.\np2.", "True", (0, 4))
    game = {
        "idx": 9,
        "steps": [{"x": "4 5", "new_ys": []}],
        "ys": ["4+5=9\nAnswer: 4+5\n", "1=1\n"],
        "infos": [{"r": 1}, {"r": 0}],
    }
    good, bad = read([jsonl(tmp_path / "game.jsonl", [game])])
    assert (good.text, good.answer, good.metadata["is_correct"]) == ("4+5=9\nAnswer: 4+5", "4+5", "true")
    assert (bad.metadata["is_correct"], bad.source_id) == ("false", "9:1")


# --- folders, licences, data sets -----------------------------------------------------------------------------------


def test_a_folder_is_walked_in_order_and_licences_are_found(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    jsonl(tmp_path / "b" / "two.jsonl", [{"chain": "two"}])
    jsonl(tmp_path / "a.jsonl", [{"chain": "one"}])
    jsonl(tmp_path / ".hidden.jsonl", [{"chain": "no"}])
    (tmp_path / "LICENSE").write_text("MIT License\n\nCopyright", encoding="utf-8")
    (tmp_path / "b" / "COPYING").write_text("\n  My own terms \nmore", encoding="utf-8")
    (tmp_path / "README.md").write_text("about", encoding="utf-8")
    (tmp_path / "x.bin").write_bytes(b"\0")
    report = ReadReport()
    chains = list(read([tmp_path], report=report))
    assert [(chain.source, chain.text, chain.licence) for chain in chains] == [
        ("a.jsonl", "one", "MIT"),
        ("two.jsonl", "two", "My own terms"),
    ]
    assert report.notes[0] == (
        f"{tmp_path}: passed over 5 files: .hidden.jsonl (hidden); LICENSE, README.md, b/COPYING (about the data); "
        "x.bin (another kind)."
    )
    assert all(str(tmp_path) not in chain.source for chain in chains)


def test_limit_bounds_the_chains_of_all_inputs(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"chain": str(number)} for number in range(5)])
    assert [chain.text for chain in read([path, path], options=ReadOptions(limit=7))] == [*"01234", *"01"]
    assert list(read([path], options=ReadOptions(limit=0))) == []


def test_a_saved_data_set_is_one_source(tmp_path: Path) -> None:
    root = tmp_path / "sums"
    for split, texts in (("test", ["c"]), ("train", ["a", "b"])):
        folder = root / split
        folder.mkdir(parents=True)
        (folder / "dataset_info.json").write_text(
            json.dumps({"dataset_name": "sums", "license": "mit"}), encoding="utf-8"
        )
        (folder / "state.json").write_text("{}", encoding="utf-8")
        for number, text in enumerate(texts):
            table = pa.table({"question": ["q"], "solution": [text]})
            with pa.ipc.new_stream(folder / f"data-{number:05}-of-{len(texts):05}.arrow", table.schema) as writer:
                writer.write_table(table)
    (root / "dataset_dict.json").write_text("{}", encoding="utf-8")
    chains = list(read([root]))
    assert [(chain.source, chain.text, chain.licence) for chain in chains] == [
        ("sums/test", "c", "mit"),
        ("sums/train", "a", "mit"),
        ("sums/train", "b", "mit"),
    ]
    assert chains[1].source_sha256 == chains[2].source_sha256 != chains[0].source_sha256


def test_a_hub_folder_with_parquet_shards_and_a_card(tmp_path: Path) -> None:
    root = tmp_path / "proofs"
    (root / "data").mkdir(parents=True)
    (root / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Proofs", encoding="utf-8")
    answer = "Two is <<1+1=2>>2.\n#### 2"
    pq.write_table(pa.table({"question": ["q"], "answer": [answer]}), root / "data" / "train-00000-of-00001.parquet")
    (chain,) = read([root])
    assert (chain.source, chain.licence, chain.answer, chain.text) == ("proofs/train", "cc-by-4.0", "2", "Two is 2.")


# --- the native format ----------------------------------------------------------------------------------------------

WORDS = st.text(st.characters(codec="utf-8"), max_size=20)


@pytest.mark.slow
@given(
    st.builds(
        lambda source, source_id, question, text, cuts, metadata, rest: Chain(
            *(source, source_id, question, text, rest[0], rest[1]),
            tuple(sorted({cut % len(text) for cut in cuts})),
            *(metadata, rest[2], rest[3]),
        ),
        *(WORDS, WORDS, WORDS, WORDS.filter(lambda text: not no_chain(text)), st.lists(st.integers(0, 50), max_size=4)),
        *(st.dictionaries(WORDS, WORDS, max_size=3), st.tuples(WORDS, WORDS, WORDS, WORDS)),
    )
)
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, chain: Chain) -> None:
    path = tmp_path_factory.mktemp("native") / "chains.jsonl"
    with path.open("w", encoding="utf-8", newline="\n") as out:
        assert write_chains([chain], out) == 1
    assert list(read([path])) == [chain]
