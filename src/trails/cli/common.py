"""What commands share: options, consoles, printing of results."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import click
from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from trails.cli import COMMANDS
from trails.config import Settings, load_settings
from trails.errors import InputError, TrailsError
from trails.platform.text import counted, json_text, jsonable, one_line, spreadsheet_text, visible
from trails.report.table import Rows, prose, wrapped


class SafeConsole(Console):
    """A console to which everything is data: no markup, no emoji codes, and no text can steer the terminal.

    What rich itself sends to the terminal (colours, the cursor of a bar) is not text and passes.
    """

    def __init__(self, **options: Any) -> None:
        """Options as for :class:`rich.console.Console`."""
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of a renderable with their text made :func:`visible`."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=visible(segment.text))


class Notes(SafeConsole):
    """A console for lines of text, which a terminal gets broken between words."""

    def print(self, *objects: Any, **options: Any) -> None:
        """One line; see :func:`echo` for where it is broken."""
        if len(objects) == 1 and isinstance(objects[0], str):
            objects = (_for_terminal(objects[0], sys.stderr),)
        super().print(*objects, **options)


err = Notes(stderr=True, soft_wrap=True)
"""Progress and warnings."""


def out() -> Console:
    """Console for data on stdout; honours NO_COLOR and COLUMNS. Long lines are left to the terminal, which cuts nothing."""
    if sys.stdout.isatty():
        return SafeConsole(soft_wrap=True)
    # a pipe has no width: wide enough that tables stay readable, unless the user says otherwise
    columns = os.environ.get("COLUMNS", "")
    return SafeConsole(soft_wrap=True, width=int(columns) if columns.isdecimal() and int(columns) > 0 else 140)


def echo(text: str = "", *, nl: bool = True, to_stderr: bool = False, as_it_is: bool = False) -> None:
    """A line on stdout (or stderr), made :func:`visible`. With :data:`err` and :func:`out` the only way to print.

    A terminal gets it broken between words at its own width; a pipe gets one line, as does a terminal with ``as_it_is`` (a
    text that is there to be copied).
    """
    shown = visible(text) if as_it_is else _for_terminal(visible(text), sys.stderr if to_stderr else sys.stdout)
    click.echo(shown, nl=nl, err=to_stderr)


def _for_terminal(text: str, stream: Any) -> str:
    if not stream.isatty():
        return text
    return "\n".join(line.plain for line in prose(Text(text), max(shutil.get_terminal_size().columns, 20)))


def confirm(question: str, unchanged: str) -> None:
    """Ask on the terminal; anything but yes ends the command: exit code 1 and ``unchanged``, which says what stayed."""
    try:
        agreed = click.confirm(visible(question))
    except click.Abort:
        raise click.Abort from TrailsError(unchanged)
    if not agreed:
        raise TrailsError(unchanged)


@contextmanager
def interruptible(output: Path) -> Iterator[None]:
    """Around the work of a command that writes one output, whole or not at all: Ctrl-C ends it with a line that says which."""
    before = _state(output)
    try:
        yield
    except KeyboardInterrupt:
        if _state(output) != before:
            raise click.Abort from TrailsError(f"interrupted; {output} is written and whole")
        kept = "is as it was" if before else "was not written"
        raise click.Abort from TrailsError(f"interrupted; {output} {kept}. Run the same command again to write it")


def _state(path: Path) -> tuple[int, int, int] | None:
    """What tells a file or a folder from one that took its place; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def read_stdin() -> str:
    """The text on standard input. Raises InputError where it is closed."""
    if sys.stdin is None:
        raise InputError("-: standard input is closed, so there is nothing to read. Name a file.")
    return sys.stdin.read()


def on_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin is not None and sys.stdin.isatty()


home_option = click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    callback=lambda context, parameter, value: _given_home(context, parameter, value),
    help="Folder that holds the shards and the embedded graph (default: TRAILS_HOME, else .trails).",
)

F = TypeVar("F", bound=Callable[..., Any] | click.Command)


def stacked(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Several options as one decorator; the first stands first in the help."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


model_option = click.option(
    "--model", help="Hugging Face id or local folder (default: the packaged SmolLM2-135M-Instruct; TRAILS_MODEL)."
)
run_model_option = click.option(
    "--model",
    help="Where the model of the run is, if it has moved: Hugging Face id or local folder (default: TRAILS_MODEL, else the "
    "model that the run names; other weights are refused).",
)
device_option = click.option(
    "--device", help="Where the model runs: auto (CUDA if there is one), cpu, cuda, cuda:1 … (TRAILS_DEVICE)."
)
store_option = click.option(
    "--store",
    type=click.Choice(["auto", "embedded", "neo4j"]),
    help="Graph store: auto = neo4j when NEO4J_URI is set, else embedded (TRAILS_STORE).",
)


def seed_option(help: str) -> Callable[[Any], Any]:
    """``--seed``, a number that every generator takes: from 0, below 2³²."""
    return click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help=help)


json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, for programs.")


def csv_option(command: Any) -> Any:
    """``--csv`` and ``--raw-csv``; the parameter ``as_csv`` is the style for :func:`print_rows`, or None."""
    safe = click.option(
        "--csv",
        "as_csv",
        flag_value="csv",
        help="Print CSV; text that a spreadsheet takes for a formula gets a ' before it.",
    )
    raw = click.option("--raw-csv", "as_csv", flag_value="raw-csv", help="Print CSV with every text exactly as stored.")
    return safe(raw(command))


def settings_from(**flags: Any) -> Settings:
    """Settings from the flags of a command; ``None`` means not given."""
    return load_settings(**flags)


def print_json(value: Any) -> None:
    """JSON on stdout; it reads back as the value."""
    click.echo(json_text(jsonable(value)))


def print_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, raw: bool) -> None:
    """Rows as CSV. A pipe or a file gets the text as it is, except for formulas unless ``raw``; a terminal gets it visible."""
    lines = []
    for row in (columns, *rows):
        values = (json.dumps(jsonable(v), ensure_ascii=False) if isinstance(v, list | dict) else v for v in row)
        file = io.StringIO(newline="")
        # the writer quotes what is in its own line end: a lone carriage return ends a row in a spreadsheet
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow([spreadsheet_text(v) if isinstance(v, str) and not raw else v for v in values])
        lines.append(file.getvalue().removesuffix("\r\n") + "\n")
    text = "".join(lines)
    # color: without it click takes the sequences of a colour out of the data
    click.echo(visible(text) if sys.stdout.isatty() else text, nl=False, color=True)


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, style: str = "table", title: str = "") -> None:
    """Rows on stdout as ``table``, ``json`` (list of objects), ``csv`` (safe to open in a spreadsheet) or ``raw-csv``."""
    if style == "json":
        print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    if style in ("csv", "raw-csv"):
        print_csv(columns, rows, raw=style == "raw-csv")
        return
    if not rows:
        err.print(f"{title}: no rows" if title else "no rows")
        return
    out().print(Rows(columns, rows, title))


def print_field(name: str, text: str) -> None:
    """``name        text`` on stdout, the text wrapped between words beside its name."""
    console = out()
    for number, line in enumerate(wrapped(Text(visible(text)), max(console.width - 12, 20))):
        echo(f"{'' if number else name:<12}{line.plain}")


_ESTIMATE_AFTER = 3.0
"""Seconds of measuring on which the estimate rests."""

_WRONG = 1.5
"""When an estimate is off by this factor, a new one is printed: other programs may have started or ended."""


class BarProgress:
    """Progress of long work as a bar on stderr with tokens/s and remaining time; only lines where stderr is no terminal, and
    nothing when ``quiet``. Once some seconds were measured, one line says how long the rest takes, and what that rests on;
    a new one when the first turns out to be off by a factor of :data:`_WRONG`.
    """

    def __init__(self, *, quiet: bool, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is drawn before :meth:`begin`. ``clock`` gives seconds."""
        self._quiet, self._clock = quiet, clock
        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}", markup=False),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=quiet or not sys.stderr.isatty(),
        )
        self._task: TaskID | None = None
        self._tokens = self._done = self._total = self._in_all = 0
        self._began = 0.0
        self._first: tuple[float, int, int] | None = None  # seconds, units and tokens when the first piece was done
        self._told: tuple[float, float] | None = None  # at how many seconds, and how many it would take from there

    def __enter__(self) -> BarProgress:
        """Drawing starts with the first piece of work."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop drawing, if it began: stopping writes a line."""
        if self._task is not None:
            self._bar.stop()

    def begin(self, task: str, total: int, *, tokens: int = 0) -> None:
        """A new bar replaces the old one. Where ``tokens`` are given, the time that is left follows from those left, not from
        the units, which may differ in length.
        """
        self._bar.start()
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(task, total=total, speed="")
        self._tokens, self._done, self._total, self._in_all = 0, 0, total, tokens
        self._told = None
        self._began, self._first = self._clock(), None

    def advance(self, amount: int, *, tokens: int = 0, shown: str = "") -> None:
        """Move the bar; ``shown`` stands beside it in place of the speed."""
        if self._task is None:
            return
        self._tokens += tokens
        self._done += amount
        seconds = self._clock() - self._began
        speed = shown or (f"{self._tokens / seconds:,.0f} tokens/s" if self._tokens and seconds > 0 else "")
        self._bar.update(self._task, advance=amount, speed=speed)
        if not self._tokens or self._quiet:
            return
        if self._first is None:
            # what comes before it (reading, segmenting the first block) is not repeated piece by piece
            self._first = seconds, self._done, self._tokens
        since, done, tokens = seconds - self._first[0], self._done - self._first[1], self._tokens - self._first[2]
        if since >= _ESTIMATE_AFTER and done and tokens:
            in_all = self._in_all or tokens * self._total / done
            share = (self._in_all - self._tokens) / tokens if self._in_all else (self._total - self._done) / done
            left = since * share
            right = self._told is not None and 1 / _WRONG < (seconds - self._told[0] + left) / self._told[1] < _WRONG
            if not right and (line := _estimate(tokens, in_all, left, since)) is not None:
                self._told = seconds, left
                err.print(line)

    def note(self, message: str) -> None:
        """A line above the bar."""
        err.print(message)


def _estimate(tokens: int, in_all: float, left: float, seconds: float) -> str | None:
    """How long measuring the rest takes, ``left`` seconds; None where it is less than ten. ``tokens`` of ``in_all`` took
    ``seconds``.
    """
    if left < 10:
        return None
    in_all = float(f"{in_all:.2g}")
    span = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min" if left < 5400 else f"{left / 3600:.1f} h"
    rate = f"{counted(tokens, 'token')} took {seconds:.0f} s, {tokens / seconds:,.0f} tokens/s"
    return f"about {in_all:,.0f} tokens in all, about {span} of measuring to go ({rate})"


class LogLines(logging.Handler):
    """What the library logs as lines on stderr; the command line's only handler of the logger ``trails``. A record with
    ``once`` is a line once.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        """One line."""
        line = one_line(record.getMessage())
        if getattr(record, "once", False):
            if line in self._said:
                return
            self._said.add(line)
        err.print(line)


def log_to_stderr() -> None:
    """Show what trails itself logs. Other libraries' loggers are not touched."""
    logger = logging.getLogger("trails")
    logger.handlers = [LogLines()]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def with_home(text: str) -> str:
    """``text`` with ``--home`` of the command in use put into every line to run that lacks it, where it was given as a flag
    (a home from the environment or the config file is found again by itself).
    """
    home = _GIVEN.get("home")
    if home is None or "--home" in text:
        return text
    return _LINE.sub(lambda found: f"{found.group()} --home {shlex.quote(home)}", text)


_GIVEN: dict[str, str] = {}
"""The home that the command was given as a flag."""

HOMELESS = ("experiment",)
"""Commands that take no ``--home``."""
GROUPS = {
    "effects": ("scan",),
    "pvq": ("search", "write"),
    "genome": ("check", "show", "plan", "export", "search", "initiation"),
    "roles": ("connectives", "export", "import", "score"),
    "stellator": ("check", "compile", "explain", "run"),
}
"""Commands with parts, and the parts that take ``--home``."""
_NAMES = [name for name in COMMANDS if name not in HOMELESS and name not in GROUPS]
_PARTS = [f"{group} (?:{'|'.join(parts)})" for group, parts in GROUPS.items()]
_LINE = re.compile(rf"\btrails (?:{'|'.join([*_PARTS, *_NAMES])})\b(?=[ \n]|$)")


def forget_home() -> None:
    """To be called before a command is parsed."""
    _GIVEN.clear()


def _given_home(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    if value is not None:
        _GIVEN["home"] = str(value)
    return value
