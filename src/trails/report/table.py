"""The one table of the program: no number, no id and no column is ever cut. Where the width does not do, short columns stand
below each other in several tables, and other rows are stacked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from trails.platform.text import one_line, visible

_SHORT = 24
"""A column of cells up to this width is not wrapped: words, intervals, ids."""

_MANY_ROWS = 4
"""Fewer rows are stacked rather than put into several tables."""

_TEXT = 16
"""A column of running text is not made narrower than this."""

_WIDE = r"\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_UNIT = re.compile(rf"\s+|[{_WIDE}]|[^\s{_WIDE}]+")
"""What a line is broken between: words, and the signs of scripts that are written without spaces."""


def cell(value: Any) -> str:
    """A value in a table: floats with four digits (small ones with two significant ones), lists shortened with their length."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isnan(value):
            return ""  # what could not be measured has no value
        if 0 < abs(value) < 5e-4:
            return f"{value:.2g}"  # a noise floor is not 0
        return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1e6 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(cell(item) for item in value[:8])
        return f"[{shown}, … {len(value)}]" if len(value) > 8 else f"[{shown}]"
    return str(value)


NAMES = frozenset(
    ("source", "record", "source_id", "family", "model", "run", "name", "file", "id", "chain", "group", "title")
)
"""Columns of names: a line end in one is written out, so that it looks like no row of its own."""


def _text(value: Any, *, named: bool = False) -> Text:
    """A cell, its steering characters written out before its width counts; a cell of white space alone shows it."""
    if isinstance(value, Text):
        return _Running.of(value)
    if named:
        return Text(one_line(cell(value)))
    text = visible(cell(value)).replace("\r\n", "\n").replace("\t", "⇥")
    if text and not text.strip():
        text = text.replace(" ", "␣").replace("\n", "⏎")
    return Text(text)


def wrapped(text: Text, width: int, *, divide: bool = False) -> list[Text]:
    """Lines of at most ``width`` columns, broken between words. A word that has a digit or that consists of ASCII characters
    (a number, an id, a path) is never broken: it stands on a line of its own, as long as it is; with ``divide`` it is broken
    where it is longer than a whole line.
    """
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        breaks, column = [], 0
        for unit in _UNIT.finditer(line.plain):
            length = cell_len(unit.group())
            if unit.group().isspace():
                column += length
                continue
            if column and column + length > width:
                breaks.append(unit.start())
                column = 0
            if length > width and (divide or not _whole(unit.group())):
                for offset, character in enumerate(unit.group()):
                    if column and column + cell_len(character) > width:
                        breaks.append(unit.start() + offset)
                        column = 0
                    column += cell_len(character)
            else:
                column += length
        for part in line.divide(breaks):
            part.rstrip()
            lines.append(part)
    return lines


_LINE_TO_RUN = re.compile(
    r"(?:(?<=: )|(?<=\()|^)(?:trails|pip|export|scripts/\w+) [^\n]*?(?=[;)](?:\s|$)|\.(?:\s|$)|$)", re.M
)
_NAME = re.compile(r"(?:(?:\S )?\S+ {2,}| +\S+ {2,}|Q: |A: | +)(?=\S)")
_KEEP = "\0"
"""Stands for a space that is no place to break; :func:`visible` has written out any that was there."""


def prose(text: Text, width: int) -> list[Text]:
    """Running text in lines of at most ``width`` columns, broken between words; a name before it (``steps       800: …``)
    keeps its column. A line to run stays on one line, however long: it is there to be copied.
    """
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        if line.cell_len <= width:
            lines.append(line)
            continue
        named = _NAME.match(line.plain)
        indent = named.end() if named and named.end() <= width // 3 else 0
        kept = _LINE_TO_RUN.sub(lambda found: found.group().replace(" ", _KEEP), line.plain)
        first, rest = line.divide([indent]) if indent else (Text(""), line)
        shaped = Text(kept[indent:], spans=rest.spans, style=rest.style)
        for number, part in enumerate(wrapped(shaped, width - indent)):
            plain = Text(part.plain.replace(_KEEP, " "), spans=part.spans, style=part.style)
            lines.append(Text.assemble(Text(" " * indent) if number else first, plain))
    return lines


class Prose:
    """Running text as rich prints it: see :func:`prose`."""

    def __init__(self, text: Text) -> None:
        self.text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines."""
        yield from (_line(part) for part in prose(self.text, options.max_width))


def _whole(word: str) -> bool:
    return word.isascii() or any(character.isdigit() for character in word)


class _Running(Text):
    """A cell that came with its colours: running text, in which a word longer than the column may be divided."""

    @classmethod
    def of(cls, text: Text) -> _Running:
        """The same text."""
        return cls(text.plain, spans=text.spans)


class Rows:
    """Rows under their columns, as rich prints them. A cell is any plain value, or a :class:`rich.text.Text`: running text
    in its colours.

    Numbers, ids and short cells keep their line, running text is wrapped at words. Where the columns do not fit the width,
    short ones stand in several tables, each of which repeats what names a row. Other rows become a block of ``column  value``
    lines each, without the cells that are empty, so that nothing is left out and nothing is cut.
    """

    def __init__(
        self, columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str = "", *, boxed: bool = True
    ) -> None:
        """The cells are taken as they are now. Without ``boxed`` the table has no lines."""
        self._boxed = boxed
        self.columns = [one_line(column) for column in columns]
        self.title = visible(title)
        self.rows = [
            [_text(value, named=column in NAMES) for value, column in zip(row, columns, strict=True)] for row in rows
        ]
        self._numeric = [
            bool(rows) and all(isinstance(row[i], int | float) or row[i] is None for row in rows)
            for i in range(len(columns))
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A table where it fits, else stacked rows."""
        if self.title:
            yield from (_line(part) for part in wrapped(Text(self.title, style="italic"), options.max_width))
        every = range(len(self.columns))
        bands = [list(every)] if self._widths(every, options.max_width) else self._bands(options.max_width)
        for band in bands:
            yield self._table(band, options.max_width)
        if not bands:
            yield from self._stacked(options.max_width)

    def _table(self, chosen: Sequence[int], available: int) -> Table:
        """These columns side by side; they fit."""
        box: dict[str, Any] = {} if self._boxed else {"box": None, "pad_edge": False}
        table = Table(header_style="bold", **box)
        widths = self._widths(chosen, available) or []
        for index, width in zip(chosen, widths, strict=True):
            header = Text("\n").join(wrapped(Text(self.columns[index]), width))
            justify: Any = "right" if self._numeric[index] else "left"
            table.add_column(header, justify=justify, no_wrap=True, width=width)
        for row in self.rows:
            cells = (wrapped(row[index], width, divide=True) for index, width in zip(chosen, widths, strict=True))
            table.add_row(*(Text("\n").join(lines) for lines in cells))
        return table

    def _bands(self, available: int) -> list[list[int]]:
        """Columns of tables that stand below each other: the first columns, which name a row, in each of them. None where a
        cell is long, where the rows are few, or where stacked rows would not be half as long again."""
        plain = [[value.plain for value in row] for row in self.rows]
        if len(plain) < _MANY_ROWS or any("\n" in one or cell_len(one) > _SHORT for row in plain for one in row):
            return []
        names = (n for n in range(1, len(self.columns)) if len({tuple(row[:n]) for row in plain}) == len(plain))
        named = next(names, len(self.columns))
        bands: list[list[int]] = []
        for index in range(named, len(self.columns)):
            if not bands or not self._widths([*bands[-1], index], available):
                bands.append(list(range(named)))
            bands[-1].append(index)
        lines, stacked = len(bands) * (len(plain) + 4), len(plain) * (len(self.columns) + 1)
        return bands if 3 * lines <= 2 * stacked and all(self._widths(band, available) for band in bands) else []

    def _widths(self, chosen: Sequence[int], available: int) -> list[int] | None:
        """Width of each of these columns, or None where the least widths do not fit ``available``."""
        least, most = [], []
        for index in chosen:
            column = self.columns[index]
            lines = [line for row in self.rows for line in row[index].plain.split("\n")]
            longest = max(map(cell_len, lines), default=0)
            head = max(map(cell_len, column.split()), default=0)
            narrow = longest
            if longest > _SHORT and not self._numeric[index]:
                units = [unit for line in lines for unit in _UNIT.findall(line)]
                running = any(isinstance(row[index], _Running) for row in self.rows)
                whole = (cell_len(unit) for unit in units if (_whole(unit) and not running) or cell_len(unit) <= _SHORT)
                narrow = max(_TEXT, *whole)
            least.append(max(narrow, head))
            most.append(max(longest, cell_len(column), head))
        left = available - sum(least) - (3 * len(least) + 1 if self._boxed else 2 * (len(least) - 1))
        if left < 0:
            return None
        widths = list(least)
        while left > 0 and (growing := [i for i in range(len(widths)) if widths[i] < most[i]]):
            share = max(left // len(growing), 1)
            for i in growing:
                step = min(share, most[i] - widths[i], left)
                widths[i] += step
                left -= step
        return widths

    def _stacked(self, available: int) -> Iterator[Text]:
        """One block per row, an empty line between two, without its empty cells (a column that is empty in every row stays). A
        row with an empty first cell goes on with the one before it, as the further controls of a score do: its empty cells are
        those above.
        """
        used = [any(row[index].plain for row in self.rows) for index in range(len(self.columns))]
        label = min(max(map(cell_len, self.columns), default=0), max(available // 2, 8))
        for number, row in enumerate(self.rows):
            goes_on = number > 0 and not row[0].plain and not self._numeric[0]
            if number and not goes_on:
                yield Text("")
            for column, value, some in zip(self.columns, row, used, strict=True):
                if not value.plain and (goes_on or some):
                    continue
                beside = cell_len(column) <= label
                if not beside:
                    yield from (_line(part) for part in wrapped(Text(column, style="bold"), available))
                for index, part in enumerate(wrapped(value, max(available - label - 2, 8)) or [Text("")]):
                    head = Text(column, style="bold") if beside and not index else Text("")
                    gap = " " * (label + 2 - head.cell_len)
                    yield _line(Text.assemble(head, gap, part))
        yield Text("")


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ignore"
    return text
