"""What a terminal may show: nothing that steers it, everything else as it is."""

from __future__ import annotations

import csv
import io
import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trails.platform.text import beginning, json_text, one_line, spreadsheet_text, visible

ANY = st.text(st.characters())  # every code point, lone surrogates too
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def steers(character: str) -> bool:
    """Independent of the code: by Unicode category."""
    if character in "\t\n\u200c\u200d":
        return False
    return unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in BIDI


@pytest.mark.slow
@given(ANY)
def test_nothing_that_steers_is_left(text: str) -> None:
    shown = visible(text)
    assert not any(steers(c) for c in shown.replace("\r\n", "\n"))
    assert visible(shown) == shown
    shown.encode("utf-8")


@pytest.mark.slow
@given(ANY.filter(lambda text: not any(steers(c) or unicodedata.category(c) == "Cf" for c in text)))
def test_text_that_steers_nothing_stays(text: str) -> None:
    assert visible(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;ZXZpbA==\x1b\\", r"\x1b]52;c;ZXZpbA==\x1b" + "\\"),
        ("\x9b31m", r"\x9b31m"),
        ("safe\rforged", r"safe\x0dforged"),
        ("line\r\nline\tx", "line\r\nline\tx"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("\U000e0041", r"\U000e0041"),
        ("\ud83d", r"\ud83d"),
        ("👩\u200d🚀 e\u0301 Ж", "👩\u200d🚀 e\u0301 Ж"),
    ],
)
def test_what_is_written_instead(text: str, shown: str) -> None:
    assert visible(text) == shown


@pytest.mark.slow
@given(st.recursive(ANY, lambda inner: st.lists(inner) | st.dictionaries(ANY, inner)))
def test_json_reads_back_as_the_same_and_steers_nothing(value: object) -> None:
    text = json_text(value)
    assert json.loads(text) == value
    assert not any(steers(c) for c in text)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "＝", " =", "\xa0\r =", "\u200b@"])
def test_no_field_starts_a_formula(start: str) -> None:
    file = io.StringIO()
    csv.writer(file).writerow([spreadsheet_text(f'{start}HYPERLINK("http://evil")'), spreadsheet_text("a=b")])
    (row,) = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert row[0].startswith("'")
    assert row[1] == "a=b"


def test_a_lone_carriage_return_stays_inside_its_field(capsys: pytest.CaptureFixture[str]) -> None:
    from trails.cli.common import print_csv

    for raw in (False, True):
        print_csv(["a", "b"], [["x\r=1+1", 2], [None, "y\r\nz"]], raw=raw)
        assert capsys.readouterr().out == 'a,b\n"x\r=1+1",2\n,"y\r\nz"\n'


@pytest.mark.slow
@given(st.text(), st.integers(8, 200))
def test_the_beginning_of_a_text_ends_between_words_and_says_that_there_is_more(text: str, width: int) -> None:
    line = " ".join(text.split())
    short = beginning(text, width)
    assert len(short) <= width
    if len(line) <= width and len(text) < 400:
        assert short == line
    elif len(text) < 400:
        head = short.removesuffix(" …")
        assert head != short
        assert line.startswith(head)
        follows = line[len(head) : len(head) + 1]
        assert follows == " " or " " not in head[(width - 2) // 3 :]


def test_the_beginning_of_a_long_text() -> None:
    assert beginning("one two three four", 12) == "one two …"
    assert beginning("one two three four", 9) == "one two …"
    assert beginning("猫" * 50, 10) == "猫" * 8 + " …"
    assert beginning("a " * 10**6, 6) == "a a …"


def test_one_line_has_no_line_end_and_no_control_character() -> None:
    assert one_line("a\nb\tc\rd\x1be\u2028") == r"a\nb\tc\rd\x1be\u2028"
