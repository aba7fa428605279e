"""What commands share: options, consoles, printing of results."""

from __future__ import annotations

import csv
import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from trails.config import Settings, load_settings

err = Console(stderr=True, soft_wrap=True)
"""Progress and warnings."""


def out() -> Console:
    """Console for data on stdout; honours NO_COLOR and falls back to plain text when not a terminal."""
    if sys.stdout.isatty():
        return Console()
    # a pipe has no width: wide enough that tables stay readable, unless the user says otherwise
    return Console(soft_wrap=True, width=int(os.environ.get("COLUMNS") or 140))


home_option = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the trails (default .trails, TRAILS_HOME).",
)
model_option = click.option(
    "--model", help="Hugging Face id or local folder (default: the packaged SmolLM2-135M-Instruct; TRAILS_MODEL)."
)
device_option = click.option("--device", help="auto, cpu, cuda, cuda:1 … (TRAILS_DEVICE).")
store_option = click.option(
    "--store",
    type=click.Choice(["auto", "embedded", "neo4j"]),
    help="Graph store: auto = neo4j when NEO4J_URI is set, else embedded (TRAILS_STORE).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def settings_from(**flags: Any) -> Settings:
    """Settings from the flags of a command; ``None`` means not given."""
    return load_settings(**flags)


def plain(value: Any) -> Any:
    """A value as JSON can hold it: NaN and infinities become null, bytes are refused by json itself."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def print_json(value: Any) -> None:
    """JSON on stdout, text as it is."""
    click.echo(json.dumps(plain(value), ensure_ascii=False, indent=2))


def cell(value: Any) -> str:
    """A value in a table: floats with four digits (small ones with two significant ones), lists shortened."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if 0 < abs(value) < 5e-4:
            return f"{value:.2g}"  # a noise floor is not 0
        return f"{value:.4f}".rstrip("0").rstrip(".") if abs(value) < 1e6 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        shown = ", ".join(cell(item) for item in value[:8])
        return f"[{shown}, … {len(value)}]" if len(value) > 8 else f"[{shown}]"
    return str(value)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, style: str = "table", title: str = "") -> None:
    """Rows on stdout as ``table``, ``json`` (list of objects) or ``csv``."""
    if style == "json":
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    if style == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow(
                [json.dumps(plain(v), ensure_ascii=False) if isinstance(v, list | dict) else v for v in row]
            )
        return
    table = Table(title=title or None, title_justify="left", header_style="bold")
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) or row[index] is None for row in rows) and bool(rows)
        # ids and short words stay on one line, so that they can be copied
        short = max((len(cell(row[index])) for row in rows), default=0) <= 24
        table.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=short)
    for row in rows:
        # Text, not markup: a token such as "[/b]" is data
        from rich.text import Text

        table.add_row(*(Text(cell(value)) for value in row))
    out().print(table)


class BarProgress:
    """Progress of ingest and rebuild as a bar on stderr with tokens/s and remaining time; silent when ``quiet``."""

    def __init__(self, *, quiet: bool) -> None:
        """Nothing is drawn before :meth:`begin`."""
        self._quiet = quiet
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=quiet,
        )
        self._task: TaskID | None = None
        self._tokens = 0
        self._began = 0.0

    def __enter__(self) -> BarProgress:
        """Drawing starts with the first piece of work."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing, if it began: stopping writes a line."""
        if self._task is not None:
            self._bar.stop()

    def begin(self, task: str, total: int) -> None:
        """A new bar replaces the old one."""
        self._bar.start()
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(task, total=total, speed="")
        self._tokens, self._began = 0, time.monotonic()

    def advance(self, amount: int, *, tokens: int = 0) -> None:
        """Move the bar."""
        if self._task is None:
            return
        self._tokens += tokens
        seconds = time.monotonic() - self._began
        speed = f"{self._tokens / seconds:,.0f} tokens/s" if self._tokens and seconds > 0 else ""
        self._bar.update(self._task, advance=amount, speed=speed)

    def note(self, message: str) -> None:
        """A line above the bar."""
        err.print(message, highlight=False, markup=False)
