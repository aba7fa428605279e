"""A genome's file: places, refusals, typed surprises, and no input that crashes or hangs."""

# ruff: noqa: E501

from __future__ import annotations

import random
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from trails.cli import cli
from trails.errors import TrailsError, UsageError
from trails.genome.model import RUSSIAN, load_genome, parse_genome
from trails.genome.source import GenomeError, parse_source

GOOD = """\
genome: 1
name: letters
stages:
  - name: abc
    sections:
      - name: first
        books: [{select: "source:a", take: 40, order: rising}]
  - name: school
    sections:
      - name: second
        books: [{select: all}]
    gap: {between: [first, second], withhold: "roles:THEREFORE", expect: bridge}
    scenes:
      - conflict_scene: {level: "учебник по химии", trigger: "фраза", resolution_expected: "переход"}
    initiation: {after: [abc], mismatch_first: 5}
roles: {learner: "roles:IF"}
budget: {tokens: 200_000, rehearsal: 0.05}
"""

FAULTS = [
    # replaced, by, what stands at the place, what the path names, a part of message and hint
    ("take: 40", "takee: 40", 'takee', "books[0].takee", "the key 'takee' is not known here; did you mean 'take'?"),
    ("take: 40", "take: forty", 'forty', "books[0].take", "the text 'forty' stands where a whole number is meant; write a whole number, without quotes"),
    ("take: 40", "take: -1", '-1', "books[0].take", "-1 is too small; write 1 or more"),
    ("take: 40", "take: 99999999999", '99999999999', "books[0].take", "99999999999 is too large; write 1_000_000_000 or less"),
    ("take: 40", "take: .nan", '.nan', "books[0].take", ".nan is no finite number, and a whole number is meant; write a whole number"),
    ("take: 40", "take: -.inf", '-.inf', "books[0].take", "-.inf is no finite number, and a whole number is meant; write a whole number"),
    ("take: 40", "take: true", 'true', "books[0].take", "true is a truth value to YAML, and a whole number is meant; write a whole number"),
    ("take: 40", 'take: "1e3"', '"1e3"', "books[0].take", "the text '1e3' stands where a whole number is meant; write 1000, without quotes"),
    ("take: 40", 'take: "1.5"', '"1.5"', "books[0].take", "the text '1.5' stands where a whole number is meant; write a whole number, without quotes"),
    ("take: 40", "take: 1e3", '1e3', "books[0].take", "1e3 stands where a whole number is meant; write 1000"),
    ("take: 40", "take: 1e999", '1e999', "books[0].take", "1e999 is no finite number"),
    ("take: 40", "take: 2024-01-01", '2024-01-01', "books[0].take", "2024-01-01 is a date to YAML, and a whole number is meant"),
    ("take: 40", "take: ~", '~', "books[0].take", "a number is missing; write one"),
    ("take: 40", "take: [4]", '[4]', "books[0].take", "a list stands where a number is meant"),
    ("rehearsal: 0.05", "rehearsal: .inf", '.inf', "budget.rehearsal", ".inf is no finite number, and a number is meant; write a number"),
    ("rehearsal: 0.05", 'rehearsal: "5e-2"', '"5e-2"', "budget.rehearsal", "the text '5e-2' stands where a number is meant; write 0.05, without quotes"),
    ("rehearsal: 0.05", "rehearsal: 1", '1}', "budget.rehearsal", "1 is too large; write less than 1"),
    ("name: abc", "name: " + "a" * 121, 'a' * 121, "stages[0].name", "a text of 121 characters; write at most 120"),
    ("name: abc", "name: 2024-01-01", '2024-01-01', "stages[0].name", '2024-01-01 is a date to YAML, and a text is meant; put it in quotes: "2024-01-01"'),
    ("name: abc", "name: 1_000", '1_000', "stages[0].name", "1_000 is a number to YAML"),
    ("name: abc", "name: true", 'true', "stages[0].name", "true is a truth value to YAML"),
    ("name: abc", "name:", 'name:\n', "stages[0].name", "a text is missing"),
    ("name: abc", "name: [a]", '[a]', "stages[0].name", "a list stands where a text is meant"),
    ("order: rising", "order: up", 'up}', "books[0].order", "'up' is not known; write 'shuffled', 'rising'"),
    ("books: [{select: all}]", "books: []", '[]', "sections[0].books", "the list is empty"),
    ("books: [{select: all}]", "books: {select: all}", '{select: all}', "sections[0].books", "a mapping stands where a list is meant"),
    ("{select: all}", "{}", '{}', "books[0]", "an empty book: neither select nor file"),
    ("{select: all}", "{select: all, file: x}", '{select: all, file', "books[0]", "either select or file"),
    ("name: school", "name: abc", 'abc\n', "stages[1].name", "two stages are called 'abc'"),
    ("name: second", "name: first", 'first\n        books: [{select: all', "sections[0].name", "several sections are called 'first'"),
    ("[first, second]", "[second, first]", '[second, first]', "gap.between", "'second' does not come before 'first'; write between: [first, second]"),
    ("[first, second]", "[first, secnd]", 'secnd', "gap.between[1]", "the section 'secnd' does not exist; did you mean 'second'?"),
    ("[first, second]", "[first]", '[first]', "gap.between", "a gap lies between two sections"),
    ("after: [abc]", "after: [school]", 'school]', "initiation.after[0]", "the stage 'school' comes later; stages before this one: abc"),
    ("after: [abc]", "after: [nothing]", 'nothing]', "initiation.after[0]", "does not exist"),
    ("{learner:", "{student:", 'student', "roles.student", "keys here: learner, teacher, critic, rewriter"),
    ("trigger:", "triger:", 'triger', "conflict_scene.triger", "did you mean 'trigger'?"),
    ("rehearsal: 0.05", "rehearsal: 1.5", '1.5', "budget.rehearsal", "less than 1"),
    ("genome: 1", "genome: 2", '2\n', "genome", "version 2 is not known"),
    ("name: letters", "name: letters\nname: b", 'name: b', "the file", "the key 'name' stands here twice, first at line 2"),
    ("name: letters", "name: &a letters", '&a', "the file", "anchors (&) and aliases (*) are not read"),
    ("name: letters", "name: *a", '*a', "the file", "anchors (&) and aliases (*) are not read"),
    ("name: letters", "name: !!python/object x", '!!python', "the file", "is not read"),
    ("name: letters", "<<: {}", '<<', "the file", "merge keys"),
    ("name: letters", "name: [", '- name: abc', "the file", ""),
    ("genome: 1", "genome: 1\n---\ngenome: 1", '---', "the file", "a second document"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "at", "path", "said"), FAULTS, ids=[f"{a} → {b}" for a, b, *_ in FAULTS])
def test_a_fault_names_place_path_message_and_hint(old: str, new: str, at: str, path: str, said: str) -> None:
    text = GOOD.replace(old, new, 1)
    assert text != GOOD
    first = text.index(at, GOOD.index(old))
    line, column = text.count("\n", 0, first) + 1, first - text.rfind("\n", 0, first)
    with pytest.raises(GenomeError) as caught:
        parse_genome(text, "g.yaml")
    told = str(caught.value).splitlines()
    assert any(one.startswith(f"g.yaml:{line}:{column}; ") and path in one and said in one for one in told), told
    for one in told:
        place, message, hint = one.split("; ", 2)
        assert place.count(":") == 2
        assert ": " in message
        assert hint


def test_gaps_that_run_in_a_circle() -> None:
    text = GOOD.replace(
        "    gap: {between: [first, second]",
        "    gaps:\n      - {between: [first, second], withhold: all}\n      - {between: [second, first], withhold: all}\n    gap: {between: [first, second]",
    )
    with pytest.raises(GenomeError, match=r"gaps run in a circle: 'first' already leads to 'second'") as caught:
        parse_genome(text, "g.yaml")
    assert [fault.line for fault in caught.value.faults] == [14]


def test_a_stage_without_tokens() -> None:
    with pytest.raises(GenomeError, match=r"g.yaml:8:5; stages\[1\]: the stage 'empty' has no tokens"):
        parse_genome(GOOD.replace("  - name: school", "  - name: empty\n  - name: school", 1), "g.yaml")


def test_russian_keys_say_the_same() -> None:
    text = GOOD
    for russian, english in RUSSIAN.items():
        for mark in (f"{english}:",):
            text = text.replace(f" {mark}", f" {russian}:").replace(f"{{{mark}", f"{{{russian}:")
            text = text.replace(f"\n{mark}", f"\n{russian}:")
    text = text.replace("genome:", "геном:", 1).replace("rising", "по_возрастанию")
    assert "stages" not in text
    assert parse_genome(text)[0] == parse_genome(GOOD)[0]
    with pytest.raises(GenomeError, match=r"этапы\[0\].имя: 2024-01-01 is a date"):
        parse_genome(text.replace("имя: abc", "имя: 2024-01-01"), "g.yaml")
    with pytest.raises(GenomeError, match="the key 'name' stands here twice \\(as имя\\), first at line 2"):
        parse_genome(text.replace("имя: letters", "имя: letters\nname: letters"), "g.yaml")


def test_values_are_read_as_meant() -> None:
    genome, _ = parse_genome(GOOD.replace("abc", '"2024-01-01"'))
    assert genome.stages[0].name == "2024-01-01"
    assert genome.budget.tokens == 200_000
    assert genome.stages[0].sections[0].books[0].take == 40


def test_a_folded_text_holds_spaces_where_it_was_folded() -> None:
    """A reader that keeps the layout of a file marks the folds with control characters; they are no part of the text."""
    genome, _ = parse_genome(
        """
genome: 1
name: folded
stages:
  - name: school
    sections: [{name: a, books: [{select: "meta:a=b"}]}]
    scenes:
      - conflict_scene: {level: "l", trigger: "t", resolution_expected: "r"}
        text: >-
          One line
          and one more,

          and a paragraph.
"""
    )
    assert genome.stages[0].scenes[0].text == "One line and one more,\nand a paragraph."


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    ["[" * 5_000, "- " * 5_000, "{a: " * 2_000, "? " * 3_000, "a: " + "[" * 500 + "]" * 500, "!" * 9_000, "'" * 9_001,
     "&a " * 3_000, "- &a [*a]\n" * 2_000, "a\n" * 20_000, "\n" * 50_000, "#" * 100_000, "\t" * 5_000, "%" * 5_000, "|" * 999,
     "".join(f"k{i}: 1\n" for i in range(3_000)), "x: " + "9" * 10_000, "x: 1e" + "9" * 50, "x: 0x" + "f" * 50, "\ud800"],
    ids=lambda text: text[:6].strip() or "blank",
)  # fmt: skip
def test_no_input_is_walked_beyond_the_caps(text: str) -> None:
    with pytest.raises(TrailsError):
        parse_genome(text)


def mutated(random_: random.Random, text: str) -> str:
    """A genome with a few characters, lines or marks changed."""
    marks = ["[", "]", "{", "}", ": ", "- ", "&a", "*a", "!!int ", "\t", '"', "'", "|\n", ">-\n", "\x00", "é", "\u2028", "---\n", "#", "1_0", "~", "<<: ", "?", "%", "@", "\r"]  # fmt: skip
    for _ in range(random_.randrange(1, 6)):
        at = random_.randrange(len(text) + 1)
        match random_.randrange(5):
            case 0:
                text = text[:at] + random_.choice(marks) * random_.choice((1, 1, 1, 40)) + text[at:]
            case 1:
                text = text[:at] + text[at + random_.randrange(1, 30) :]
            case 2:
                lines = text.splitlines(keepends=True)
                random_.shuffle(lines)
                text = "".join(lines)
            case 3:
                text = text[:at] + text[random_.randrange(len(text) + 1) :][:200] + text[at:]
            case _:
                text = (
                    text[:at]
                    + chr(random_.choice((7, 34, 92, 0x41F, 0x1F600, 0xFEFF, random_.randrange(0x2000))))
                    + text[at:]
                )
    return text


@pytest.mark.slow
def test_a_damaged_genome_is_read_or_refused() -> None:
    random_ = random.Random(0)
    refused = 0
    for _ in range(150):
        try:
            parse_genome(mutated(random_, GOOD))
        except TrailsError:
            refused += 1
    assert refused > 50


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        document = parse_source(text, RUSSIAN)
    except TrailsError:
        return
    assert document.value is None or isinstance(document.value, str | dict | list) or hasattr(document.value, "written")


def test_files_that_cannot_be_read(tmp_path) -> None:
    with pytest.raises(UsageError, match="trails genome init"):
        load_genome(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("genome: 1\nname: \xe9".encode("latin-1"))
    with pytest.raises(GenomeError, match=r"latin.yaml:2:1; the file: byte 16 is not UTF-8"):
        load_genome(tmp_path / "latin.yaml")
    (tmp_path / "large.yaml").write_bytes(b"# x\n" * 1_100_000)
    with pytest.raises(GenomeError, match="more than 4,000,000 bytes"):
        load_genome(tmp_path / "large.yaml")


def test_a_file_that_is_not_there_is_advised_with_a_line_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("course.genome.yaml", "a folder/my course.yaml", "--help.yaml"):
        with pytest.raises(UsageError, match="there is no file .*Write a first genome with: trails ") as error:
            load_genome(Path(name))
        line = shlex.split(str(error.value).partition("with: trails ")[2])
        assert CliRunner().invoke(cli, line).exit_code == 0, line
        load_genome(Path(name))
    with pytest.raises(
        UsageError, match=r"- was given as the genome, which is not read from standard input\. .* course\.genome\.yaml$"
    ):
        load_genome(Path("-"))
    with pytest.raises(UsageError, match=r"cannot be read \(Is a directory\)\. Give another file\.$"):
        load_genome(tmp_path)
