"""What leaves this machine names no folder of it: a path in what a page or a picture says becomes the name of its file."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from trails.analyses.report import Report, ReportTable
from trails.analyses.score import Score

_PART = r"""[^\s/\\"'<>|“”«»,;()\[\]]+"""
_PATH = re.compile(rf"(?<![\w.~/\\“])(?:/{_PART}(?:/{_PART})*/?|(?:[A-Za-z]:|\\)[\\/]{_PART}(?:[\\/]{_PART})*[\\/]?)")


def without_folders(text: str) -> str:
    """A text in which every absolute path of this machine names its file alone.

    Below the working folder the path from there is kept, below that of temporary files the path from there, and below the
    user's the path after ``~``: names with blanks stay whole. Any other absolute path, also one of Windows, keeps its last
    name. ``/2`` and ``and/or`` are no paths: the first folder of a path exists. A path at the start of a “quotation” is
    a text of a chain and stays.
    """
    if "/" not in text and "\\" not in text:
        return text
    for folder, short in _folders():
        if folder in text:
            below, itself = (f"{short}/", short) if short == "~" else ("", short or Path(folder).name)
            start = rf"(?<![\w.~/\\“]){re.escape(folder)}"
            text = re.sub(rf"{start}[/\\]+(?=[^\s\"'])", lambda _, to=below: to, text)  # type: ignore[misc]
            text = re.sub(rf"{start}(?:[/\\]+|(?![\w.-]))", lambda _, to=itself: to, text)  # type: ignore[misc]
    return _PATH.sub(_last, text)


def portable(report: Report) -> Report:
    """The report without folders of this machine in its verdict, facts, names, reasons, notes and lines to run. In tables only
    a value that is a path as a whole is one: texts of chains stay as they are."""
    told = without_folders
    return replace(
        report,
        analysis=told(report.analysis),
        verdict=told(report.verdict),
        facts={name: _plain(value) for name, value in report.facts.items()},
        tables=tuple(_table(table) for table in report.tables),
        scores=tuple(_score(score) for score in report.scores),
        withheld=tuple(replace(item, name=told(item.name), reason=told(item.reason)) for item in report.withheld),
        notes=tuple(map(told, report.notes)),
        commands=tuple((told(does), told(line)) for does, line in report.commands),
        parts={name: part if part is None else portable(part) for name, part in report.parts.items()},
        evidence=tuple(map(told, report.evidence)),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return without_folders(value)
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _score(score: Score) -> Score:
    told = without_folders
    controls = tuple(replace(one, name=told(one.name), how=told(one.how)) for one in score.controls)
    own = {"name": told(score.name), "unit": told(score.unit), "note": told(score.note), "how": told(score.how)}
    return replace(score, controls=controls, **own)  # type: ignore[arg-type]


def _table(table: ReportTable) -> ReportTable:
    data = table.data
    for at, column in enumerate(data.schema):
        if pa.types.is_string(column.type):
            values = data.column(at).to_pylist()
            short = [without_folders(value) if value and _is_path(value) else value for value in values]
            if short != values:
                data = data.set_column(at, column, pa.array(short, column.type))
    return replace(table, data=data, title=without_folders(table.title))


def _is_path(value: str) -> bool:
    if not Path(value[:3]).is_absolute():
        return False
    return _PATH.fullmatch(value) is not None or any(value.startswith(f"{one}{os.sep}") for one, _ in _folders())


def _folders() -> Iterator[tuple[str, str]]:
    """The working folder, that of temporary files and the user's, as they are written and as they are, longest first, each with
    what stands for it (nothing: its name). A root is none."""
    found: dict[str, str] = {}
    for place, short in ((Path.home, "~"), (tempfile.gettempdir, ""), (os.getcwd, ".")):
        try:
            path = Path(place())
            found |= {str(path): short, str(path.resolve()): short}
        except (OSError, RuntimeError):  # a working folder that was deleted, or a user without a folder
            continue
    yield from sorted(((k, v) for k, v in found.items() if len(Path(k).parts) > 1), key=lambda one: -len(one[0]))


def _last(found: re.Match[str]) -> str:
    parts = [part for part in re.split(r"[/\\]+", found[0]) if part]
    return found[0] if found[0][0] == "/" and not Path("/", parts[0]).is_dir() else parts[-1]
