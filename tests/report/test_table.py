"""The one table: whatever the width, no number, no id and no column is cut or left out."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from trails.cli.common import SafeConsole
from trails.cli.scores import shown
from trails.report.table import Rows, cell, wrapped
from trails.report.terminal import Gloss, visible_piece

IDS = st.from_regex(r"\A[crov][0-9a-f]{16}\Z")
VALUES = (
    IDS
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.none()
    | st.text("abcdefgж小明é 0123456789\n\t", max_size=80)
)
TABLES = st.integers(1, 9).flatmap(lambda n: st.lists(st.lists(VALUES, min_size=n, max_size=n), min_size=1, max_size=4))


def printed(rows: Rows, width: int) -> str:
    file = io.StringIO()
    SafeConsole(file=file, width=width, soft_wrap=True, no_color=True).print(rows)
    return file.getvalue()


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(20, 160),
    st.integers(1, 9).flatmap(lambda n: st.lists(st.lists(VALUES, min_size=n, max_size=n), min_size=1, max_size=4)),
)
def test_every_number_and_id_is_there_whole_at_every_width(width: int, rows: list[list[object]]) -> None:
    columns = [f"column {'abcdefghi'[i]}" for i in range(len(rows[0]))]
    text = printed(Rows(columns, rows, "a title"), width)
    for row in rows:
        for value in row:
            for word in re.findall(r"[^\s⇥小明]+", cell(value)):
                if word.isascii() or any(c.isdigit() for c in word):
                    assert re.search(rf"(?:^|[\s⇥小明│]){re.escape(word)}", text), (word, text)
    for column in columns:
        assert column.split()[1] in re.findall(r"\w+", text)
    if "━" in text:
        assert max(map(cell_len, text.splitlines())) <= width


def test_a_table_where_it_fits_and_stacked_rows_where_not() -> None:
    rows = Rows(
        ["chain", "score", "control"],
        [["c0123456789abcdef", 0.5, 0.25], ["cfedcba9876543210", 1e-5, None]],
        "two seams",
    )
    assert printed(rows, 60) == (
        "two seams\n"
        "┏━━━━━━━━━━━━━━━━━━━┳━━━━━━━┳━━━━━━━━━┓\n"
        "┃ chain             ┃ score ┃ control ┃\n"
        "┡━━━━━━━━━━━━━━━━━━━╇━━━━━━━╇━━━━━━━━━┩\n"
        "│ c0123456789abcdef │   0.5 │    0.25 │\n"
        "│ cfedcba9876543210 │ 1e-05 │         │\n"
        "└───────────────────┴───────┴─────────┘\n"
    )
    assert printed(rows, 38) == (
        "two seams\nchain    c0123456789abcdef\nscore    0.5\ncontrol  0.25\n\n"
        "chain    cfedcba9876543210\nscore    1e-05\n\n"
    ), "an empty cell is no line"
    assert printed(Rows(["chain", "control"], [["c0123456789abcdef", None]]), 20) == (
        "chain    c0123456789abcdef\ncontrol  \n\n"
    ), "a column that is empty in every row is there"


def test_short_columns_stand_in_several_tables_that_repeat_what_names_a_row() -> None:
    columns = ["way", "distance", "captured", "order", "words", "rewired"]
    rows = [[way, level, 0.8125, 0.0417, 0.6667, 0.0208] for way in ("random", "deleted") for level in (0.1, 0.25)]
    assert printed(Rows(columns, rows, "shares"), 44) == (
        "shares\n"
        "┏━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━┓\n"
        "┃ way     ┃ distance ┃ captured ┃  order ┃\n"
        "┡━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━┩\n"
        "│ random  │      0.1 │   0.8125 │ 0.0417 │\n"
        "│ random  │     0.25 │   0.8125 │ 0.0417 │\n"
        "│ deleted │      0.1 │   0.8125 │ 0.0417 │\n"
        "│ deleted │     0.25 │   0.8125 │ 0.0417 │\n"
        "└─────────┴──────────┴──────────┴────────┘\n"
        "┏━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━┳━━━━━━━━━┓\n"
        "┃ way     ┃ distance ┃  words ┃ rewired ┃\n"
        "┡━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━╇━━━━━━━━━┩\n"
        "│ random  │      0.1 │ 0.6667 │  0.0208 │\n"
        "│ random  │     0.25 │ 0.6667 │  0.0208 │\n"
        "│ deleted │      0.1 │ 0.6667 │  0.0208 │\n"
        "│ deleted │     0.25 │ 0.6667 │  0.0208 │\n"
        "└─────────┴──────────┴────────┴─────────┘\n"
    )
    few, alike, long = rows[:3], [*rows, rows[0]], [[f"{row[0]} {'word ' * 9}", *row[1:]] for row in rows]
    for others in (few, alike, long):
        assert "┃" not in printed(Rows(columns, others), 44), "these are stacked"
    assert "┃" not in printed(Rows(columns, rows), 28), "four tables would be longer"


def test_white_space_alone_and_markup_are_shown_as_they_are() -> None:
    text = printed(Rows(["piece"], [["  "], ["\n"], ["\t"], ["[/b]"], ["\x1b[2J"]]), 60)
    assert [line.strip("│ ") for line in text.splitlines() if line.startswith("│")] == [
        "␣␣",
        "⏎",
        "⇥",
        "[/b]",
        r"\x1b[2J",
    ]


@given(st.text("ab ж小1\n", max_size=60), st.integers(1, 30))
def test_wrapping_loses_nothing(text: str, width: int) -> None:
    lines = wrapped(Text(text), width)
    assert "".join("".join(line.plain for line in lines).split()) == "".join(text.split())


@given(st.text("abж1 \n", max_size=200), st.integers(12, 90))
def test_a_shortened_text_cuts_no_word(text: str, width: int) -> None:
    words = re.split(r"[\s⏎]", text)
    short = shown(text, width)
    assert all(word in words for word in re.split(r"[\s⏎]", short) if word not in ("", "…"))


@pytest.mark.parametrize("width", [20, 40, 60, 80, 140])
def test_a_long_id_is_one_piece_at_every_width(width: int) -> None:
    digest = "0123456789abcdef" * 4
    assert digest in printed(Rows(["what", "sha256", "text"], [["file", digest, "some words " * 9]]), width)


PIECES = st.text("ab ж小👩\u200d\u0301\u202e\x1b\t\n<", min_size=1, max_size=6)


@pytest.mark.slow
@given(st.lists(st.tuples(PIECES, st.floats(0, 99)), min_size=1, max_size=40), st.integers(40, 140))
def test_every_token_stands_above_its_value(tokens: list[tuple[str, float]], width: int) -> None:
    pieces = [visible_piece(piece) for piece, _ in tokens]
    values = [f"{value:.2f}" for _, value in tokens]
    file = io.StringIO()
    console = SafeConsole(file=file, width=width, soft_wrap=True, no_color=True)
    console.print(Gloss(tuple(map(Text, pieces)), tuple(values)))
    lines = file.getvalue().split("\n")
    found = []
    for upper, lower in zip(lines[0:-1:2], lines[1:-1:2], strict=True):
        assert max(cell_len(upper), cell_len(lower)) <= max(width, 4 + max(map(cell_len, pieces)) + 1)
        columns = {cell_len(upper[: m.start()]): m.group() for m in re.finditer(r"\S+", upper)}
        for m in re.finditer(r"\S+", lower):
            found.append((columns[m.start()], m.group()))
    assert found == list(zip(pieces, values, strict=True))
    assert not any(c in "\x1b\u202e\t" for c in file.getvalue())


def test_a_token_can_be_seen_on_its_own() -> None:
    shown = {" the": "␣the", "\n": "⏎", "\u0301": "◌\u0301", "\u200d": r"\u200d", "\x1b": r"\x1b", "小": "小", "é": "é"}
    assert {piece: visible_piece(piece) for piece in shown} == shown


def test_a_further_control_stays_with_its_score_when_stacked() -> None:
    rows = [["coverage", 0.07, "order 1", 0.0005], ["", None, "order 2", 0.16], ["other", 1.0, "order 1", 0.5]]
    assert printed(Rows(["score", "value", "control", "its value"], rows), 30) == (
        "score      coverage\nvalue      0.07\ncontrol    order 1\nits value  0.0005\n"
        "control    order 2\nits value  0.16\n\n"
        "score      other\nvalue      1\ncontrol    order 1\nits value  0.5\n\n"
    )
