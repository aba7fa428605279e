"""Bad input: one clear message each, asserted word for word; nothing but InputError or UsageError comes out."""

from __future__ import annotations

import base64
import errno
import gzip
import json
import os
import re
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trails.errors import InputError, UsageError
from trails.readers import BadEntry, ReadOptions, ReadReport, parse_fields, read
from trails.readers.containers import compressed_lengths

HINT = "Repair it, or take it out."


def message(path: Path | str, reader: str | None = None, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        list(read([path], reader=reader, options=ReadOptions(**options)))
    assert caught.value.exit_code == 3
    return str(caught.value)


def put(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


# --- paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.jsonl", '{"text": "If a', ":1: broken JSON: Unterminated string starting at column 10."),
        ("a.json", '[{"text": "If a', ":1: broken JSON: Unterminated string starting at column 11."),
        ("a.json", '{"text": "If a', ":1: broken JSON: Unterminated string starting at column 10."),
        ("a.jsonl", '{"text": "If a.", "n": ' + "9" * 5_000 + "}", "a whole number of more than 4,300 digits."),
        ("a.json", '[{"text": "If a.", "n": ' + "9" * 5_000 + "}]", "a whole number of more than 4,300 digits."),
        ("a.json", '{"text": "If a.", "n": ' + "9" * 5_000 + "}", "a whole number of more than 4,300 digits."),
    ],
)  # fmt: skip
def test_what_json_says_is_told_in_words_of_the_file(tmp_path: Path, name: str, text: str, says: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        list(read([tmp_path / name]))
    assert says in str(caught.value)
    assert "sys." not in str(caught.value)
    assert "at at" not in str(caught.value)


def test_missing_file() -> None:
    assert (
        message("nope.jsonl") == "nope.jsonl: no such file or folder. Name a file, a folder, or - for standard input."
    )


def test_a_missing_file_is_told_before_the_first_chain(tmp_path: Path) -> None:
    good = put(tmp_path / "a.jsonl", '{"chain": "one"}\n')
    with pytest.raises(InputError):
        read([good, tmp_path / "nope"])  # not even drawn


@pytest.mark.parametrize("end", ["csv", "tsv"])
def test_a_quote_that_is_never_closed_is_a_bad_record(tmp_path: Path, end: str) -> None:
    mark = "," if end == "csv" else "\t"
    whole = f'question{mark}text\nq1{mark}"If it rains,\nthen the street is wet."\n'
    (tmp_path / f"a.{end}").write_text(
        whole + f'q2{mark}"But it is dry.\nq3{mark}So it did not rain.\n', encoding="utf-8"
    )
    report = ReadReport()
    found = list(read([tmp_path / f"a.{end}"], options=ReadOptions(bad_tolerance=1), report=report))
    assert [chain.text for chain in found] == ["If it rains,\nthen the street is wet."]
    assert "a quote opens in this row and is never closed; the 2 lines from here on" in str(report.entries[0])
    assert report.entries[0].line == 4


def test_text_behind_a_closing_quote_is_a_bad_record_and_the_next_row_is_read(tmp_path: Path) -> None:
    path = put(
        tmp_path / "a.csv",
        'q,text\n1,"If a, "then b."\n2,"If a,\nthen" b.\n3,"He said ""if a"", so b."\n4,5" is short.\n5,"So" \n6,So\rb.\n'
        '7,"b.\n',
    )
    report = ReadReport()
    found = list(read([path], options=ReadOptions(bad_tolerance=9), report=report))
    assert [chain.text for chain in found] == ['He said "if a", so b.', '5" is short.']
    after = "text stands after a closing quote"
    assert [(entry.line, entry.message[: len(after)]) for entry in report.entries] == [
        *((2, after), (3, after), (7, after)),
        (8, "a carriage return stands alone in"),
        (9, "a quote opens in this row and is "),
    ]
    assert "written twice" in message(path)


def test_a_blank_before_a_quote_is_no_part_of_the_field(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", 'q, text\n1, "If a, then b."\n2, "So, b."\n')
    assert [chain.text for chain in read([path])] == ["If a, then b.", "So, b."]


def test_files_without_chains_and_members_of_other_kinds_are_named(tmp_path: Path) -> None:
    text = '{"text": "If it rains, then the street is wet."}\n'
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("", encoding="utf-8")
    report = ReadReport()
    assert len(list(read([tmp_path], report=report))) == 1
    assert any("no chains in 1 of its files" in note and "b.jsonl" in note for note in report.notes)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a.jsonl", text)
        archive.writestr("page.pdf", "%PDF")
        archive.writestr("..\\..\\w.jsonl", text)
    report = ReadReport()
    assert len(list(read([tmp_path / "z.zip"], report=report))) == 1
    told = " ".join(report.notes)
    assert "passed over 1 member: page.pdf (another kind)." in told
    assert "w.jsonl' was not read: its name leads out of the archive" in told
    assert message("").startswith("an input without a name was given")


def test_a_pipe_in_a_folder_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "If it rains, then the street is wet."}\n', encoding="utf-8")
    os.mkfifo(tmp_path / "b.jsonl")
    report = ReadReport()
    assert len(list(read([tmp_path], options=ReadOptions(), report=report))) == 1
    assert report.notes == [f"{tmp_path}: passed over 1 file: b.jsonl (no regular file)."]


def test_folder_without_chains(tmp_path: Path) -> None:
    kinds = ".jsonl, .ndjson, .json, .parquet, .arrow, .csv, .tsv, .txt, .text, .md, .markdown"
    kinds += ", also .gz, .zst, .xz, .bz2, .zip and .eval."
    assert message(tmp_path) == (f"{tmp_path}: no chains in this folder (it is empty). Files read: {kinds}")
    put(tmp_path / "photo.png", b"\x89PNG")
    put(tmp_path / "README", "about it")
    assert message(tmp_path) == (
        f"{tmp_path}: no chains in this folder (passed over 2 files: README (about the data); photo.png (another kind)). "
        f"Files read: {kinds}"
    )


def test_every_file_of_a_folder_or_an_archive_that_is_not_read_is_named(tmp_path: Path) -> None:
    text = '{"text": "If it rains, then the street is wet."}\n'
    folder = tmp_path / "data"
    for name in ("a.jsonl", ".b.jsonl", "notes", "deep/.git/c.jsonl", "deep/README.md", "deep/d.pdf", *"uvwxyz"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        put(folder / name, text)
    (folder / "link").symlink_to(tmp_path, target_is_directory=True)
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file() and "link" not in file.parts:
                archive.write(file, str(file.relative_to(folder)))
    report = ReadReport()
    assert len(list(read([folder], report=report))) == 1
    assert report.notes == [
        f"{folder}: passed over 12 files: link/ (a link to a folder); .b.jsonl, deep/.git/ (hidden); notes, u, v, w, x and 2 "
        "more (no suffix); deep/README.md (about the data); deep/d.pdf (another kind)."
    ]
    report = ReadReport()
    assert len(list(read([tmp_path / "z.zip"], report=report))) == 1
    assert report.notes == [
        f"{tmp_path / 'z.zip'}: passed over 11 members: .b.jsonl, deep/.git/c.jsonl (hidden); deep/README.md (about the data); "
        "deep/d.pdf (another kind); notes, u, v, w, x and 2 more (no suffix)."
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.txt", "a.csv"])
def test_empty_file(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name, " \n\n" if name != "a.csv" else "")
    assert message(path) == f"{path}: no chains in it."


def test_nothing_to_read() -> None:
    with pytest.raises(UsageError) as caught:
        read([])
    assert str(caught.value) == "nothing to read: name files or folders, or - for standard input."


# --- encodings and damage -------------------------------------------------------------------------------------------


def test_wrong_encoding(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", b'{"chain": "one"}\n' + '{"chain": "два"}\n'.encode("cp1251"))
    assert message(path) == (
        f"{path}:2: byte 0xe4 at position 11 is not UTF-8. Name the encoding (--encoding cp1251) or convert the file "
        f"with iconv. {HINT}"
    )
    assert [chain.text for chain in read([path], options=ReadOptions(encoding="cp1251"))] == ["one", "два"]


@pytest.mark.parametrize(
    ("text", "encoding", "said"),
    [
        ("Si l’été est chaud, alors la forêt brûle.", "cp1252", "cp1252, or cp1250 for a language of Central Europe"),
        ("Wenn es regnet, ist die Straße naß.", "latin-1", "cp1252, or cp1250 for a language of Central Europe"),
        ("Jeśli pada, to jest ślisko, więc żółw śpi.", "cp1250", "cp1252, or cp1250 for a language of Central Europe"),
        *[("Если идёт дождь, то улица мокрая.", name, name) for name in ("cp1251", "koi8-r", "cp866")],
        ("ЕСЛИ ИДЁТ ДОЖДЬ, ТО УЛИЦА МОКРАЯ.", "cp1251", "cp1251"),
        ("если", "koi8-r", "koi8-r"),
        ("如果下雨，那么街道就会湿。但是今天很干。", "gb18030", "gb18030"),
        ("もし雨が降れば、道は濡れる。", "shift_jis", "shift_jis"),
        ("비가 오면 길이 젖는다.", "euc-kr", "euc-kr"),
        ("".join(map(chr, range(128, 256))), "latin-1", "NAME"),
    ],
)
def test_the_hint_names_the_encoding_that_reads_plausibly(tmp_path: Path, text: str, encoding: str, said: str) -> None:
    path = put(tmp_path / "a.jsonl", json.dumps({"chain": text}, ensure_ascii=False).encode(encoding))
    assert f"Name the encoding (--encoding {said}) or convert" in message(path)
    array = put(tmp_path / "a.json", json.dumps([{"chain": text}], ensure_ascii=False).encode(encoding))
    assert f"Name the encoding (--encoding {said}) or convert" in message(array)


def test_a_damaged_place_in_utf_8_gets_no_other_encoding(tmp_path: Path) -> None:
    russian = '{"chain": "Если идёт дождь, то улица мокрая."}\n'.encode()
    path = put(tmp_path / "a.jsonl", russian + b'{"chain": "If \xff, then b."}\n')
    assert "The rest is UTF-8, so this place is damaged: mend it, or leave the record out." in message(path)
    assert "It is UTF-8: leave --encoding out." in message(put(tmp_path / "b.jsonl", russian), encoding="ascii")


def test_wrong_encoding_in_an_array(tmp_path: Path) -> None:
    path = put(tmp_path / "a.json", '[{"chain": "два"}]'.encode("cp1251"))
    assert message(path) == (
        f"{path}: byte 0xe4 is not UTF-8. Name the encoding (--encoding cp1251) or convert the file with iconv."
    )


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_a_byte_order_mark_names_the_encoding(tmp_path: Path, encoding: str) -> None:
    path = put(tmp_path / "a.jsonl", '{"chain": "one"}\n{"chain": "два"}\n'.encode(encoding))
    assert [chain.text for chain in read([path])] == ["one", "два"]


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark(tmp_path: Path, encoding: str) -> None:
    path = put(tmp_path / "a.jsonl", '{"chain": "one two"}\n'.encode(encoding))
    assert message(path) == (
        f"{path}: this looks like UTF-16 without a byte order mark. Read it with --encoding {encoding}."
    )
    assert [chain.text for chain in read([path], options=ReadOptions(encoding=encoding))] == ["one two"]


def test_unknown_encoding() -> None:
    with pytest.raises(UsageError) as caught:
        ReadOptions(encoding="utf-9")
    assert str(caught.value) == (
        "--encoding utf-9: no such encoding. Usual ones: utf-8, utf-16, cp1251, koi8-r, latin-1."
    )


def test_binary(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt", b"MZ\x90\x00\x03\x00\x00")
    assert message(path) == f"{path}: this is binary data, not text."


@pytest.mark.slow
def test_damaged_gzip(tmp_path: Path) -> None:
    data = gzip.compress(b"".join(b'{"chain": "%d"}\n' % number for number in range(50_000)))
    path = put(tmp_path / "a.jsonl.gz", data[: len(data) // 2])
    text = message(path)
    assert text.startswith(f"{path}:")
    assert "the gzip data is damaged (Compressed file ended before the end-of-stream marker was reached)." in text


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"chain": ["one"]}), path)
    put(path, path.read_bytes()[:-9])
    assert message(path).startswith(f"{path}: not readable as parquet (")


# --- records --------------------------------------------------------------------------------------------------------


def test_broken_json_line(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"chain": "one"}\n\n{"chain": "two", }\n')
    assert message(path) == (
        f"{path}:3: broken JSON: Expecting property name enclosed in double quotes at column 18. {HINT}"
    )


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (
            '[{"chain": "one"},\n {"chain": }]',
            2,
            "Expecting value at column 12. An array cannot be read past a mistake; JSON Lines can.",
        ),
        ('[{"chain": "one"},\n {"chain": "two"}', 2, "the array does not end with a closing bracket."),
        ('{"data":\n [1, }', 2, "Expecting value at column 6."),
    ],
)
def test_broken_json_document(tmp_path: Path, text: str, line: int, what: str) -> None:
    path = put(tmp_path / "a.json", text)
    assert message(path) == f"{path}:{line}: broken JSON: {what}"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('"text"', "a JSON object is needed, this is a string."),
        ("[1]", "a JSON object is needed, this is an array."),
        ("null", "a JSON object is needed, this is null."),
        ('{"chain": "  "}', "the chain is empty."),
        ('{"chain": ""}', "no field looks like a chain; fields found: chain. Name it: --field chain=FIELD."),
        ('{"a": 1, "b": "x"}', "no field looks like a chain; fields found: a, b. Name it: --field chain=FIELD."),
        ("{}", "no field looks like a chain; fields found: none. Name it: --field chain=FIELD."),
        (
            '{"chain": "a\\ud800b"}',
            "the chain holds a lone surrogate (U+D800 at character 1), which is not Unicode text.",
        ),
        (
            '{"question": "\\udfff", "chain": "a"}',
            "the question holds a lone surrogate (U+DFFF at character 0), which is not Unicode text.",
        ),
        (
            '{"id": "x\\ud800", "chain": "a"}',
            "the id holds a lone surrogate (U+D800 at character 1), which is not Unicode text.",
        ),
        (
            '{"chain": "a b c", "id": "1", "n\\ud800": "b"}',
            "the name of a field holds a lone surrogate (U+D800 at character 1), which is not Unicode text.",
        ),
        *(
            (
                json.dumps(
                    {"source": "s", "source_id": "1", "question": "", "text": "a", "answer": "", "language": "en"}
                    | {
                        "boundaries": [],
                        "source_sha256": "",
                        "licence": "",
                        "family": "",
                        "metadata": {},
                        key: "f\ud800",
                    }
                ),
                f"the {part} holds a lone surrogate (U+D800 at character 1), which is not Unicode text.",
            )
            for key, part in (("family", "family"), ("source", "source"), ("licence", "licence"), ("source_id", "id"))
        ),
        ('{"messages": [{"role": "user", "content": "hi"}]}', "no message of the assistant, so no chain."),
        ("[" * 5_000 + "]" * 5_000, "broken JSON: nested too deep."),
    ],
)
def test_bad_record(tmp_path: Path, line: str, what: str) -> None:
    path = put(tmp_path / "a.jsonl", line + "\n")
    assert message(path) == f"{path}:1: {what} {HINT}"


def test_a_mapped_field_that_is_not_there(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"chain": "one", "other": 2}\n')
    assert message(path, fields={"question": "problem"}) == (
        f"{path}:1: no field 'problem' for the question; fields found: chain, other. {HINT}"
    )


@pytest.mark.parametrize(
    ("pair", "what"),
    [
        ("chain", "--field chain: write PART=FIELD, for example --field chain=solution."),
        ("=x", "--field =x: write PART=FIELD, for example --field chain=solution."),
    ],
)
def test_a_field_option_without_a_field(pair: str, what: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_fields([pair])
    assert str(caught.value) == what


def test_a_field_option_for_an_unknown_part() -> None:
    with pytest.raises(UsageError) as caught:
        ReadOptions(fields={"thought": "x"})
    assert str(caught.value) == (
        "--field thought=…: no such part of a chain. Parts: question, chain, answer, id, language."
    )


def test_a_forced_reader_names_the_fields_it_found(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"chain": "one"}\n')
    assert message(path, reader="gsm8k") == (
        f"{path}:1: not a record that --reader gsm8k understands; fields found: chain. {HINT}"
    )
    assert message(path, reader="trails") == f"{path}:1: no text field 'source'; fields found: chain. {HINT}"
    text = put(tmp_path / "a.txt", "words")
    assert message(text, reader="gsm8k") == f"{text}: this is text, not records. Use --reader text."


def test_a_native_record_with_wrong_boundaries(tmp_path: Path) -> None:
    record = {"source": "s", "source_id": "1", "question": "", "text": "abc", "boundaries": [3]}
    path = put(tmp_path / "a.jsonl", json.dumps(record))
    assert message(path) == f"{path}:1: field 'boundaries' has an offset outside the text of 3 characters. {HINT}"


def test_a_proof_that_names_a_missing_sentence(tmp_path: Path) -> None:
    record = {
        "id": "x",
        "context": "sent1: a",
        "question": "",
        "answer": "",
        "hypothesis": "h",
        "proof": "sent2 -> hypothesis; ",
    }
    path = put(tmp_path / "a.jsonl", json.dumps(record))
    assert message(path) == f"{path}:1: the proof uses 'sent2', which is not among the sentences. {HINT}"


def test_a_row_with_too_many_fields(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "chain,answer\none,1\ntwo,2,3\n")
    assert message(path) == f"{path}:3: 3 fields where the header has 2. {HINT}"


WET = "If it rains, then the street is wet."
RECORD = {"question": "Is it wet?", "text": WET}


def noted(path: Path, **options: Any) -> tuple[list[str], list[str], list[BadEntry]]:
    """Texts, notes and bad records of an input."""
    report = ReadReport()
    found = [chain.text for chain in read([path], options=ReadOptions(bad_tolerance=99, **options), report=report)]
    return found, [note.replace(f"{path}: ", "") for note in report.notes], report.entries


@pytest.mark.parametrize(
    ("beside", "says"),
    [
        ({"error": "rate limit"}, "error = rate limit"),
        ({"error": {"message": "rate limit"}}, 'error = {"message":"rate limit"}'),
        ({"errors": ["a", "b"]}, "errors"),
        ({"success": False, "n": 3}, "success = false"),
        ({"status": "error", "message": "timeout"}, "status = error"),
        ({"code": 503}, "code = 503"),
    ],
)
def test_a_failed_answer_beside_a_list_of_records_is_a_bad_record(
    tmp_path: Path, beside: dict[str, Any], says: str
) -> None:
    path = put(tmp_path / "a.json", json.dumps(beside | {"data": [RECORD]}))
    assert message(path) == (
        f"{path}:1: beside the list 'data' stands {says}: the answer of a server that failed, so records may be missing. {HINT}"
    )
    assert noted(path)[0] == [WET]


def test_what_stands_beside_a_list_of_records_is_named(tmp_path: Path) -> None:
    page = {"object": "list", "error": None, "errors": [], "code": 200, "has_more": True, "next": "", "data": [RECORD]}
    texts, notes, bad = noted(put(tmp_path / "a.json", json.dumps(page)))
    assert (texts, bad) == ([WET], [])
    assert notes == [
        "the records are those of the list 'data'; beside it, not read: object = list, error = null, errors, code = 200, "
        "has_more = true, next.",
        "this is a part of an answer (has_more = true); the rest is not in the file.",
    ]
    texts, notes, _ = noted(put(tmp_path / "b.json", json.dumps({"data": [RECORD], "has_more": False})))
    assert notes == ["the records are those of the list 'data'; beside it, not read: has_more = false."]
    two = {"data": [RECORD], "authors": [{"name": "A"}]}
    assert noted(put(tmp_path / "c.json", json.dumps(two)))[:2] == (
        [WET],
        ["the records are those of the list 'data'; beside it, not read: authors."],
    )


def test_steps_beside_their_question_are_one_record(tmp_path: Path) -> None:
    record = {"question": "Is it wet?", "steps": [{"text": WET}, {"text": "It rains."}], "answer": "yes"}
    (chain,) = read([put(tmp_path / "a.json", json.dumps(record))])
    assert (chain.question, chain.text, chain.answer) == ("Is it wet?", f"{WET}\nIt rains.", "yes")


def test_columns_of_unequal_length_are_refused(tmp_path: Path) -> None:
    columns = {"question": ["Is it wet?", "Is it dry?"], "chain": [WET]}
    says = "columns of unequal length (question 2, chain 1); it is unclear which values belong to one row."
    for beside in ({}, {"version": 1}):
        path = put(tmp_path / "a.json", json.dumps(beside | columns))
        assert message(path).startswith(f"{path}: {says} If it is one record, write it on one line of a file")
    texts, notes, _ = noted(
        put(tmp_path / "b.json", json.dumps({"v": 1} | columns | {"chain": [WET, "So it is dry."]}))
    )
    assert texts == [WET, "So it is dry."]
    assert notes == ["the records are rows of its columns; beside them, not read: v = 1."]
    talk = {"messages": [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": WET}], "tags": ["a b"]}
    assert noted(put(tmp_path / "c.json", json.dumps(talk)))[0] == [WET]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.txt"])
def test_records_of_json_under_another_name_are_read_and_told(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name, "".join(json.dumps(RECORD | {"n": n}) + "\n" for n in range(3)))
    texts, notes, _ = noted(path)
    assert texts == [WET] * 3
    assert notes == [f"the name ends in .{name[2:]}, the content is JSON Lines and is read as that."]


def test_what_a_file_looks_like_is_said_where_its_name_says_otherwise(tmp_path: Path) -> None:
    line = json.dumps(RECORD)
    for name in ("a.csv", "a.tsv"):
        path = put(tmp_path / name, f"{line}\n{line[:-9]}\n")
        assert message(path) == f"{path}:1: not a table: the file looks like JSON Lines. Rename it to .jsonl."
    path = put(tmp_path / "b.csv", f"[{line},\n")
    assert message(path) == f"{path}:1: not a table: the file looks like JSON. Rename it to .json."
    for start, looks in [
        ("question,text\n1,If.\n", "a table: rename it to .csv"),
        ("question\ttext\n1\tIf.\n", "a table: rename it to .tsv"),
        ("If it rains, it is wet.\n", "text: rename it to .txt"),
    ]:
        assert f"broken JSON: Expecting value at column 1. The file looks like {looks}. {HINT}" in message(
            put(tmp_path / "c.jsonl", start)
        )


BLOB = base64.b64encode(bytes(range(200))).decode()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        *[(word, "which programs write where there is no text.") for word in ("nan", "NULL", "None", " n/a", "[deleted]")],
        *[(word, "without a letter or a digit.") for word in (".", "…", "???", "-> ->")],
        *[(word, "tags of HTML without text.") for word in ("<div class='x'><br/></div>", "<p>&nbsp;</p>")],
        *[
            (word, "of encoded data (base64 or hexadecimal), no text.")
            for word in (BLOB, "\n".join(textwrap.wrap(BLOB, 76)), f"data:image/png;base64,{BLOB}", "09af" + "3c7e5b1d" * 8)
        ],
        *[
            (word, "what a server or a program says when it failed.")
            for word in (
                *("Internal Server Error", "HTTP 502 Bad Gateway", "429 Too Many Requests", "Error code: 429 - {'a': 1}"),
                *("openai.RateLimitError: you exceeded it", "Request timed out.", "Connection error.", "[ERROR] no answer"),
                *("Error: rate limit exceeded, try again", '{"error": {"message": "overloaded"}}'),
                "Traceback (most recent call last):\n  File a",
            )
        ],
    ],
)  # fmt: skip
def test_a_text_that_is_no_chain_is_a_bad_record(tmp_path: Path, text: str, says: str) -> None:
    path = put(
        tmp_path / "a.jsonl", "".join(json.dumps({"chain": chain}) + "\n" for chain in (WET, text, WET + " So."))
    )
    texts, _, bad = noted(path)
    assert texts == [WET, f"{WET} So."]
    assert [entry.line for entry in bad] == [2]
    assert bad[0].message.endswith(says)
    assert f"{path}:2: the chain is " in message(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<p>If a, then b.</p>", "with tags of HTML, which are measured as text"),
        (
            f"If the key is {BLOB}, then it is long.",
            "with encoded data (base64 or hexadecimal), which is measured as text",
        ),
        (
            "Error: the sign is wrong, so I start again.",
            "beginning like what a server or a program says when it failed",
        ),
        (
            "The request timed out, so the server is down.",
            "beginning like what a server or a program says when it failed",
        ),
        *[
            (plain, "")
            for plain in (
                *("x = 2", "42", "Not found in the list, therefore new.", "404 is not prime, because 404 = 4 * 101."),
                *("If x <b and c> d, then e.", "The error is 5 percent.", "Donaudampfschifffahrtsgesellschaft" * 3),
                *("Nothing is null.", "1" * 200, "A" * 200, "Standard Error: 0.3 for the mean."),
            )
        ],
    ],
)
def test_what_is_doubtful_about_chains_is_counted_and_placed(tmp_path: Path, text: str, says: str) -> None:
    path = put(tmp_path / "a.jsonl", "".join(json.dumps({"chain": chain}) + "\n" for chain in (WET, text, f"{text} ")))
    texts, notes, bad = noted(path)
    assert (len(texts), bad) == (3, [])
    assert notes == ([f"2 chains {says}, the first in line 2."] if says else [])
    assert noted(put(tmp_path / "b.txt", text))[1] == ([f"1 chain {says}, the first in line 1."] if says else [])


def test_ornaments_in_running_text_are_passed_over_and_counted(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt", f"{WET}\n\n• • •\n\nSo it is wet.\n\n…\n")
    assert noted(path) == ([WET, "So it is wet."], ["passed over 2 paragraphs without a letter or a digit."], [])


# --- limits ---------------------------------------------------------------------------------------------------------


def test_a_line_over_the_limit(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", '{"chain": "' + "x" * 1_000_000 + '"}\n{"chain": "two"}\n')
    assert message(path, max_record_bytes=500_000) == (
        f"{path}:1: the line is longer than 500,000 bytes (max_record_bytes, --max-record-bytes). {HINT}"
    )
    rest = list(read([path], options=ReadOptions(max_record_bytes=500_000, bad_tolerance=1)))
    assert [chain.text for chain in rest] == ["two"]


def test_a_line_of_exactly_the_limit(tmp_path: Path) -> None:
    line = b'{"chain": "abc"}'
    for end in (b"", b"\n", b"\r\n"):
        path = put(tmp_path / "a.jsonl", line + end)
        assert [chain.text for chain in read([path], options=ReadOptions(max_record_bytes=len(line)))] == ["abc"]
        assert "longer than 15 bytes" in message(path, max_record_bytes=len(line) - 1)


def test_a_record_over_the_limit_in_an_array(tmp_path: Path) -> None:
    path = put(tmp_path / "a.json", '[{"chain": "' + "x" * 5_000_000 + '"}]')
    assert "or a record longer than 1,000 bytes (max_record_bytes, --max-record-bytes)." in message(
        path, max_record_bytes=1_000
    )


# --- tolerance and report -------------------------------------------------------------------------------------------

MIXED = '{"chain": "one"}\nnot json\n{"chain": ""}\n{"chain": "two"}\n[]\n{"chain": "three"}\n'


def test_bad_records_are_tolerated_up_to_the_number(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", MIXED)
    report = ReadReport()
    chains = list(read([path], options=ReadOptions(bad_tolerance=3), report=report))
    assert [chain.text for chain in chains] == ["one", "two", "three"]
    assert (report.chains, report.bad) == (3, 3)
    assert report.entries == [
        BadEntry(str(path), 2, "broken JSON: Expecting value at column 1."),
        BadEntry(str(path), 3, "the field 'chain', which holds the chain in this file, is empty; fields found: chain."),
        BadEntry(str(path), 5, "a JSON object is needed, this is an array."),
    ]


def test_one_more_than_tolerated_stops(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", MIXED)
    assert message(path, bad_tolerance=2) == (
        f"{path}:5: a JSON object is needed, this is an array. This is bad record 3; --bad-tolerance 2 allows no more."
    )


def test_the_report_file_holds_every_bad_record(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", MIXED)
    out = tmp_path / "bad.jsonl"
    for _ in range(2):  # a second run starts the file anew
        list(read([path], options=ReadOptions(bad_tolerance=9, report_file=out)))
        entries = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
        assert [(entry["file"], entry["line"]) for entry in entries] == [(str(path), 2), (str(path), 3), (str(path), 5)]
        assert entries[2]["message"] == "a JSON object is needed, this is an array."


def test_a_report_file_that_cannot_be_written(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", MIXED)
    with pytest.raises(UsageError) as caught:
        read([path], options=ReadOptions(report_file=tmp_path / "no" / "bad.jsonl"))
    assert str(caught.value) == f"--report-file {tmp_path}/no/bad.jsonl: cannot be written (No such file or directory)."


@pytest.mark.parametrize(
    ("option", "what"),
    [
        ({"limit": -1}, "--limit -1: a number of chains, 0 or more."),
        ({"bad_tolerance": -1}, "--bad-tolerance -1: a number of records, 0 or more."),
    ],
)
def test_negative_numbers(option: dict[str, int], what: str) -> None:
    with pytest.raises(UsageError) as caught:
        ReadOptions(**option)  # type: ignore[arg-type]
    assert str(caught.value) == what


# --- anything at all ------------------------------------------------------------------------------------------------

SUFFIXES = st.sampled_from(["jsonl", "json", "txt", "md", "csv", "tsv", "parquet", "arrow", "jsonl.gz", "bin"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    *(
                        "question",
                        "answer",
                        "chain",
                        "text",
                        "messages",
                        "role",
                        "content",
                        "proof",
                        "input",
                        "output",
                        "steps",
                    ),
                    *(
                        "new_ys",
                        "premises",
                        "facts",
                        "decomposition",
                        "explanation",
                        "context",
                        "ground_truth",
                        "solution",
                    ),
                    *("hypothesis", "label", "conclusion", "lang", "n", "question_id", "model", "source", "source_id"),
                    *("boundaries", "metadata", "response", "instruction", "task", "target", "from", "value"),
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)


@pytest.mark.slow
@given(st.binary(max_size=200), SUFFIXES)
def test_any_bytes_are_chains_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, suffix: str
) -> None:
    path = put(tmp_path_factory.mktemp("any") / f"a.{suffix}", data)
    problem = ""
    try:
        for chain in read([path], options=ReadOptions(bad_tolerance=1_000)):
            assert chain.text.strip()
            chain.text.encode()
    except InputError as error:
        problem = str(error)
    assert not problem or problem.startswith(str(path))


@pytest.mark.slow
@given(st.lists(JSON, min_size=1, max_size=3))
def test_any_json_is_chains_or_bad_records(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    path = put(tmp_path_factory.mktemp("any") / "a.jsonl", "".join(json.dumps(value) + "\n" for value in values))
    report = ReadReport()
    for chain in read([path], options=ReadOptions(bad_tolerance=1_000), report=report):
        assert chain.text.strip()
        assert all(0 <= b < len(chain.text) for b in chain.boundaries)
        for value in (chain.text, chain.question, chain.answer, chain.source_id, *chain.metadata.values()):
            assert isinstance(value, str)
    assert report.chains + report.bad >= 1


# --- long and hostile -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "unit", ["#", " ", "# ", "- ", "\n", "-----\n", "```\n", "<<", "**", "* * ", "\nQ: \nA: ", "<output>"]
)
def test_a_long_run_of_one_mark_is_read_in_linear_time(tmp_path: Path, unit: str) -> None:
    # a quadratic pattern would need minutes here
    run = unit * (300_000 // len(unit))
    put(tmp_path / "a.md", "# " + run)
    put(tmp_path / "b.txt", "-----\n" + run)
    put(tmp_path / "c.jsonl", json.dumps({"question": "q", "answer": f"{run}\n#### 5"}) + "\n")
    put(tmp_path / "d.jsonl", json.dumps({"prompt": "q", "response": f"<think>{run}"}) + "\n")
    put(tmp_path / "e.jsonl", '{"chain": "one"}\n')
    report = ReadReport()
    chains = list(read([tmp_path], options=ReadOptions(bad_tolerance=9), report=report))
    assert chains[-1].text == "one"
    assert report.bad <= 2


# --- input of strangers ---------------------------------------------------------------------------------------------


def test_an_offset_that_points_outside_is_found_before_it_is_used(tmp_path: Path) -> None:
    # an unchecked reader of these bytes reads outside of the buffer and takes the process with it
    table = pa.table({"chain": [f"If {n:03} then {n:03}." for n in range(200)]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    data = bytearray(sink.getvalue().to_pybytes())
    offsets = b"".join((16 * n).to_bytes(4, "little") for n in range(5))  # of the first texts, 16 characters each
    place = data.index(offsets)
    data[place + 11] = 0x04
    path = put(tmp_path / "a.arrow", bytes(data))
    assert "not readable as arrow (In column 0: Invalid: Offset invariant failure" in message(path)


def test_one_long_text_in_a_dictionary_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    codes = pa.array([0] * 2_000 + [1], pa.int32())
    rows = pa.DictionaryArray.from_arrays(codes, pa.array(["x " * 500_000, "short enough"]))
    pq.write_table(pa.table({"chain": rows}), path, compression="zstd")
    assert path.stat().st_size < 30_000
    assert message(path, max_record_bytes=900_000).startswith(
        f"{path}:1: the row holds 1,000,000 bytes, more than 900,000 (max_record_bytes, --max-record-bytes)."
    )
    report = ReadReport()
    rest = list(read([path], options=ReadOptions(max_record_bytes=900_000, bad_tolerance=2_000), report=report))
    assert ([chain.text for chain in rest], report.bad) == (["short enough"], 2_000)


@pytest.mark.parametrize("nested", [False, True])
def test_a_row_over_the_limit_in_a_table(tmp_path: Path, nested: bool) -> None:
    path = tmp_path / "a.arrow"
    texts = ["one", "x" * 5_000, "three"]
    table = pa.table({"chain": [[text] for text in texts] if nested else texts})
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table)
    report = ReadReport()
    chains = list(read([path], options=ReadOptions(max_record_bytes=1_000, bad_tolerance=1), report=report))
    assert [chain.text for chain in chains] == ["one", "three"]
    assert report.entries[0].line == 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gzip", "bz2", "zstd"])
def test_a_small_file_that_expands_without_end(tmp_path: Path, kind: str) -> None:
    import bz2

    line = b'{"chain": "' + b"x" * 100_000_000 + b'"}\n'
    made = {
        "gzip": lambda: gzip.compress(line, 1),
        "bz2": lambda: bz2.compress(line, 1),
        "zstd": lambda: pa.Codec("zstd").compress(line, asbytes=True),
    }[kind]()
    path = put(tmp_path / "a.jsonl.x", made)
    refused = message(path)
    limit = max(32_000_000, 250 * len(made))
    if limit < len(line):
        assert refused.startswith(f"{path}: {len(made):,} bytes expand to more than ")
    else:  # bytes enough went in for what comes out
        assert "the line is longer than 16,000,000 bytes" in refused


def test_a_line_over_the_limit_in_a_wide_encoding(tmp_path: Path) -> None:
    path = put(tmp_path / "a.jsonl", ('{"chain": "' + "x" * 5_000 + '"}\n{"chain": "two"}\n').encode("utf-16"))
    assert "the line is longer than 4,000 bytes" in message(path, max_record_bytes=4_000)
    rest = list(read([path], options=ReadOptions(max_record_bytes=4_000, bad_tolerance=1)))
    assert [chain.text for chain in rest] == ["two"]


@pytest.mark.slow
@pytest.mark.parametrize("stream", [True, False])
def test_an_arrow_batch_that_expands_without_end(tmp_path: Path, stream: bool) -> None:
    path = tmp_path / "a.arrow"
    texts = pa.array(["x" * 20_000_000] * 3)
    # a dictionary's values are a message of their own
    table = pa.table({"chain": texts, "other": pa.DictionaryArray.from_arrays(pa.array([0, 0, 0]), texts[:1])})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(path, table.schema, options=options) as writer:
        writer.write_table(table)
    size = path.stat().st_size
    assert size < 400_000
    refused = message(path, max_record_bytes=100_000_000)
    assert re.search(r"a batch of [\d,]+ bytes would expand to [26]0,000,\d{3}, over 250 times as many", refused)


def test_the_claims_of_compressed_buffers_are_summed(tmp_path: Path) -> None:
    table = pa.table({"chain": ["If it rains then it is wet. " * 40] * 50, "n": list(range(50))})
    for compression, expected in (("zstd", 50 * 40 * 28 + 51 * 4 + 50 * 8), (None, 0)):
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
            writer.write_table(table)
        found = [
            compressed_lengths(memoryview(item.metadata), memoryview(item.body), False)
            for item in pa.MessageReader.open_stream(sink.getvalue())
            if item.type == "record batch"
        ]
        assert found == [expected]


@pytest.mark.slow
def test_a_zip_that_says_less_than_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", '{"chain": "' + "x" * 90_000_000 + '"}')
    assert "would expand to 90,000,013. Unpack it yourself if that is meant." in message(path)
    data = path.read_bytes()
    true, false = (90_000_013).to_bytes(4, "little"), (99).to_bytes(4, "little")
    assert data.count(true) == 2
    put(path, data.replace(true, false))
    # the standard library stops at the stated size, and then the checksum is wrong
    assert "the zip archive is damaged or locked (Bad CRC-32" in message(path)


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_nested_too_deep(tmp_path: Path, name: str) -> None:
    deep = '{"a":' * 20_000 + "1" + "}" * 20_000
    path = put(tmp_path / name, deep)
    assert "nested too deep" in message(path)
    put(tmp_path / "z.jsonl", '{"chain": "one"}\n')
    report = ReadReport()
    assert [c.text for c in read([tmp_path], options=ReadOptions(bad_tolerance=1), report=report)] == ["one"]
    assert (report.bad, report.entries[0].file) == (1, str(path))


@pytest.mark.slow
def test_what_was_read_before_the_damage_is_kept(tmp_path: Path) -> None:
    data = gzip.compress(b"".join(b'{"chain": "%d"}\n' % number for number in range(20_000)))
    put(tmp_path / "a.jsonl.gz", data[: len(data) // 2])
    put(tmp_path / "b.jsonl", '{"chain": "one"}\n')
    report = ReadReport()
    chains = [chain.text for chain in read([tmp_path], options=ReadOptions(bad_tolerance=1), report=report)]
    assert len(chains) > 5_000
    assert chains[-1] == "one"
    assert report.entries == [
        BadEntry(
            str(tmp_path / "a.jsonl.gz"),
            0,
            "the gzip data is damaged (Compressed file ended before the end-of-stream marker was reached).",
        )
    ]


def test_a_text_file_has_no_fields(tmp_path: Path) -> None:
    path = put(tmp_path / "a.txt", "words and words")
    assert message(path, fields={"chain": "x"}) == f"{path}: this is text and has no fields for --field chain."


@pytest.mark.slow
def test_mutants_are_read_or_refused() -> None:
    # the command itself runs many more: python scripts/mutate_inputs.py
    command = [sys.executable, str(Path(__file__).parents[2] / "scripts" / "mutate_inputs.py"), "--mutants", "40"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=False)
    assert done.returncode == 0, done.stdout
    assert "0 failed" in done.stdout


@pytest.mark.parametrize("name", ["t.parquet", "file.arrow", "stream.arrow"])
def test_two_columns_of_one_name_are_refused_in_every_table(tmp_path: Path, name: str) -> None:
    table = pa.table([["Is it?"], ["If one, then two."], ["If two, then one."]], names=["question", "chain", "chain"])
    if name.endswith("parquet"):
        pq.write_table(table, tmp_path / name)
    else:
        kind = pa.ipc.new_file if name == "file.arrow" else pa.ipc.new_stream
        with kind(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    assert "two columns are named 'chain'" in message(tmp_path / name)


TWICE = '{"question": "Is it?", "chain": "If one, then two.", "chain": "If two, then one."}'
GOOD = '{"question": "Is it?", "chain": "If three, then four."}'


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.jsonl", f"{GOOD}\n{TWICE}\n", 2),
        ("array.json", f"[{TWICE},\n{GOOD}]", 1),
        ("objects.json", f"{GOOD}\n{TWICE}\n{GOOD}", 2),
        ("nested.jsonl", GOOD.replace("}", ', "more": {"a": 1, "b": 2, "a": 3}}') + f"\n{GOOD}\n", 1),
    ],
)
def test_a_key_twice_in_one_object_is_a_bad_record(tmp_path: Path, name: str, text: str, line: int) -> None:
    path = put(tmp_path / name, text)
    report = ReadReport()
    chains = list(read([path], options=ReadOptions(bad_tolerance=1), report=report))
    assert {chain.text for chain in chains} == {"If three, then four."}
    (entry,) = report.entries
    assert (entry.line, "two values have the key" in entry.message) == (line, True)
    assert f"{path}:{line}: two values have the key" in message(path)


def test_an_empty_input_among_others_is_one_bad_file(tmp_path: Path) -> None:
    good, empty = put(tmp_path / "a.jsonl", GOOD), put(tmp_path / "b.jsonl", "")
    bad = put(tmp_path / "c.jsonl", "{broken\n" + GOOD)
    report = ReadReport()
    assert len(list(read([good, bad, empty], options=ReadOptions(bad_tolerance=2), report=report))) == 2
    assert [(entry.file, entry.message) for entry in report.entries][1:] == [(str(empty), "no chains in it.")]
    with pytest.raises(InputError, match="no chains in it"):
        list(read([good, empty]))


def test_inputs_behind_the_limit_are_named(tmp_path: Path) -> None:
    paths = [put(tmp_path / f"{name}.jsonl", f"{GOOD}\n{GOOD}") for name in "abcdef"]
    for limit, unread in ((1, 5), (2, 5), (3, 4), (12, 0)):
        report = ReadReport()
        assert len(list(read(paths, options=ReadOptions(limit=limit), report=report))) == min(limit, 12)
        notes = [note for note in report.notes if "--limit" in note]
        assert len(notes) == (unread > 0)
        if unread:
            assert notes[0].startswith(
                f"--limit {limit} was reached, so {unread} {'file was' if unread == 1 else 'files were'} not read: "
            )
            assert str(paths[-unread]) in notes[0]


def test_files_of_a_folder_behind_the_limit_are_named(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    paths = [put(tmp_path / "in" / f"{name}.jsonl", f"{GOOD}\n{GOOD}") for name in "abc"]
    last = put(tmp_path / "last.jsonl", GOOD)
    for limit, unread in (
        (1, [*paths[1:], last]),
        (2, [*paths[1:], last]),
        (3, [paths[2], last]),
        (6, [last]),
        (7, []),
    ):
        report = ReadReport()
        assert len(list(read([tmp_path / "in", last], options=ReadOptions(limit=limit), report=report))) == limit
        told = f"--limit {limit} was reached, so {len(unread)} {'file was' if len(unread) == 1 else 'files were'} not read: "
        names = [note.removeprefix(told).rstrip(".").split(", ") for note in report.notes if note.startswith("--limit")]
        assert names == ([[str(path) for path in unread]] if unread else [])


def test_a_member_that_leads_out_of_its_archive_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("../../out.jsonl", GOOD)
        archive.writestr("in.jsonl", GOOD)
    report = ReadReport()
    assert len(list(read([tmp_path / "z.zip"], report=report))) == 1
    assert any("'../../out.jsonl' was not read" in note for note in report.notes)


def test_no_space_to_unpack_an_archive_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a.jsonl", json.dumps(RECORD))

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("trails.readers.streams._unpack", full)
    said = message(tmp_path / "z.zip")
    assert "no space left in" in said
    assert "damaged" not in said
    assert said.endswith("Free some, or name another folder in TMPDIR.")
