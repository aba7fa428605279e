"""How an analysis is printed: the verdict first, then the evidence, every score with its control."""

from __future__ import annotations

import functools
import re
import shlex
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from trails.analyses.report import Report, method_lines
from trails.analyses.score import SCORE_COLUMNS, Control, Score, Withheld, score_rows, span_text
from trails.cli.common import (
    device_option,
    echo,
    err,
    home_option,
    json_option,
    print_json,
    print_rows,
    read_stdin,
    run_model_option,
    stacked,
    store_option,
    with_home,
)
from trails.errors import InputError, UsageError
from trails.platform.text import counted, singular

run_option = click.option(
    "--run",
    help="Run to analyse: its id or the beginning of it (default: the only one without an adapter).",
)
graph_option = click.option("--no-graph", is_flag=True, help="Print only; write nothing to the graph.")
limit_option = click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Print at most this many rows of a table; --json has all unless this is given.",
)
details_option = click.option("--details", is_flag=True, help="Also print the other scores, and the diagnostic tables.")
instrument_options = stacked(run_model_option, device_option)
"""Options of a command that measures with the model of a run."""
pairs_option = click.option(
    "--pairs",
    type=click.IntRange(min=5),
    default=6,
    show_default=True,
    help="Bridges with a control that are re-scored for an ANCHOR; pairs of places without a path are replaced.",
)
trained_options = stacked(
    click.option(
        "--adapter",
        required=True,
        type=click.Path(path_type=Path, file_okay=False, exists=True),
        help="Folder of the trained adapter.",
    ),
    click.option(
        "--export",
        "exported",
        type=click.Path(path_type=Path, dir_okay=False, exists=True),
        help="Export that was trained on: its chains are left out.",
    ),
)
"""Options of a command that judges an adapter on chains that it was not trained on."""
report_options = stacked(details_option, run_option, home_option, json_option)
"""Options of a command that prints a report and writes nothing."""
written_options = stacked(
    limit_option, details_option, graph_option, run_option, home_option, store_option, json_option
)
"""Options of a command that prints a report and writes what it found to the graph."""


def html_option(function: Callable[..., Report | Callable[[], Report] | None]) -> Callable[..., None]:
    """``--html FILE`` and ``--open`` of a command that gives back its report, or what makes it: the report as one offline page,
    with the chains that it names."""

    @click.option(
        "--html",
        "page",
        metavar="FILE",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Also write the result as one offline HTML page, with the chains that it names.",
    )
    @click.option("--overwrite", is_flag=True, help="Replace the file of --html if it exists.")
    @click.option("--open", "opens", is_flag=True, help="Open the page of --html in the browser.")
    @functools.wraps(function)
    def command(*, page: Path | None, overwrite: bool, opens: bool, **given: Any) -> None:
        if page is None:
            if opens or overwrite:
                raise UsageError("--open and --overwrite are about the page of --html. Give it: --html FILE")
            function(**given)
            return
        from trails.report.html import check_free

        check_free(page, overwrite=overwrite)  # before the work, not after it
        made = function(**given)
        report = made() if callable(made) else made
        if report is None:
            raise UsageError("this form of the command makes no report, so no page was written. Leave out --html")
        from trails.pipeline import Home
        from trails.pipeline.reporting import analysis_page

        with Home(**settings_for(given.get("home"), None)) as opened:
            written = analysis_page(opened, report, page, run=given.get("run"), overwrite=overwrite)
        for note in written.left_out:
            err.print(with_home(note))
        err.print(
            f"page: {written.path} ({counted(written.n_bytes, 'byte')}, {counted(written.n_chains, 'chain')})",
            highlight=False,
        )
        if opens:
            webbrowser.open(page.resolve().as_uri())

    return command


def tell(
    report: Report, *, as_json: bool, limit: int | None = None, details: bool = False, home: Path | None
) -> Report:
    """A report as JSON, whole unless ``--limit`` is given, or as :func:`print_report` prints it; the report itself."""
    if as_json:
        asked = click.get_current_context().get_parameter_source("limit") is click.core.ParameterSource.COMMANDLINE
        print_json(report.record(limit if asked else None))
    else:
        print_report(report, limit=limit, details=details, home=home)
    return report


def print_report(
    report: Report, *, limit: int | None = 10, details: bool = False, home: Path | None = None, quiet: bool = False
) -> None:
    """A report on stdout: the verdict, the tables, the scores that the verdict rests on, what was withheld; notes on stderr.

    With ``details`` also the other scores and the diagnostic tables. Without it one line says what there is more. ``home`` is
    put into the lines to run. ``quiet`` leaves out the verdict (a part of a report has it in its heading).
    """
    if not quiet:
        echo(with_home(report.verdict))
    named = {name[2:].replace("_", " "): value for name, value in report.facts.items() if name.startswith("n_")}
    counts = [counted(value, singular(name), name) for name, value in named.items()]
    if counts and details:
        echo(", ".join(counts))
    for table in report.tables:
        if table.detail and not details:
            continue
        headings, rows = table.view(limit)
        if rows:
            print_table(headings, rows, table.title)
            if said := table.tie(limit):
                echo(f"{table.name}: {said}")
            if table.n_shown > len(rows) and not _limit_given():
                err.print(f"{table.name}: {table.cut_told(len(rows))}; more with --limit")
    chosen = [score for score in report.scores if details or not report.evidence or score.name in report.evidence]
    print_scores(chosen, report.withheld, report.notes)
    for names, part in report.distinct_parts():
        echo()
        echo(f"{', '.join(names)}: {part.verdict}")
        print_report(part, limit=limit, details=details, home=home, quiet=True)
    for does, line in report.commands:
        echo(f"{does}: {line}{f' --home {shlex.quote(str(home))}' if home else ''}")
    hidden = len(report.scores) - len(chosen)
    more = [counted(hidden, "more score")] if hidden else []
    more += [
        counted(table.n_shown, singular(table.name), table.name)
        for table in report.tables
        if table.detail and not details
    ]
    if more:
        err.print(f"More with --details: {', '.join(more)}.")


def print_table(headings: Sequence[str], rows: Sequence[Sequence[Any]], title: str) -> None:
    """Rows of a report on stdout, without the columns that are empty in all of them."""
    used = [n for n in range(len(headings)) if any(row[n] not in (None, "") for row in rows)]
    print_rows([headings[n] for n in used], [[_shown_cell(row[n]) for n in used] for row in rows], title=title)


def _limit_given() -> bool:
    """Whether the user chose how many rows to see, and so knows that they are cut."""
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source("limit") is click.core.ParameterSource.COMMANDLINE


def _shown_cell(value: Any) -> Any:
    """A value of a table: long texts with their middle left out, lists of texts on one line."""
    if isinstance(value, str):
        return shown(value, 60)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return " | ".join(shown(item, 40) or "∅" for item in value)
    return value


_MANY = 4
"""So many scores with the same controls get a table of their own."""


def print_scores(scores: Sequence[Score], withheld: Sequence[Withheld], notes: Sequence[str] = ()) -> None:
    """Scores with their controls as a table on stdout, how they were made and what was withheld, and why, below it; notes on
    stderr. Many scores with the same controls stand in a table of their own, largest first, with a column for each control.
    """
    alike: dict[tuple[str, ...], list[Score]] = {}
    for score in scores:
        alike.setdefault((score.unit, *(control.name for control in score.controls)), []).append(score)
    few: list[Score] = []
    for (unit, *controls), group in alike.items():
        if len(group) < _MANY:
            few += group
            continue
        group.sort(key=lambda score: -score.value)
        rows = [
            [
                score.name,
                *_with_interval(score),
                *(part for control in score.controls for part in _with_interval(control)),
            ]
            for score in group
        ]
        columns = [part for name in ("value", *controls) for part in (name, "95 %")]
        print_rows(["score", *columns], rows, title=unit)
    if few:
        print_rows(SCORE_COLUMNS, score_rows(few))
    for score in scores:
        if score.note:
            echo(f"{score.name}: {score.note}")
    for line in method_lines(scores):
        echo(f"how: {line}")
    by_reason: dict[str, list[str]] = {}
    for item in withheld:
        by_reason.setdefault(item.reason, []).append(item.name)
    for reason, names in by_reason.items():
        echo(with_home(f"no score for {', '.join(names)}: {reason}"))
    for note in notes:
        err.print(with_home(note))


def _with_interval(found: Score | Control) -> tuple[float, str]:
    return found.value, span_text(found.interval)


def shown(text: str, width: int = 90) -> str:
    """A text on one line: line breaks as ⏎, the middle left out where it is longer than ``width`` characters. It is left out
    between words, so that no number and no id is cut.
    """
    flat = text.replace("\r\n", "⏎").replace("\n", "⏎")
    if len(flat) <= width:
        return flat
    between = [found.start() for found in re.finditer(r"[\s⏎]", flat)]
    head = max((place for place in between if place <= width // 2 - 1), default=0)
    tail = min((place for place in between if place >= len(flat) - width // 2 + 2), default=len(flat))
    return f"{flat[:head].rstrip(' ⏎')} … {flat[tail:].lstrip(' ⏎')}".strip() if head or tail < len(flat) else flat


def text_or_file(value: str) -> str:
    """The argument itself, the content of the file it names, or standard input for ``-``.

    Raises InputError for a file that is not text, UsageError for what looks like the name of a file that is not there.
    """
    if value == "-":
        return read_stdin()
    try:
        path = Path(value)
        if path.is_file():
            return path.read_text(encoding="utf-8")
        if re.fullmatch(r"[\w./\\-]+\.[A-Za-z]{1,5}", value, re.ASCII):
            raise UsageError(f"there is no file {value}. Give a text, or the name of a file that holds one.")
        value.encode()
        return value
    except UnicodeDecodeError as error:
        raise InputError(f"{value}: not text in UTF-8 (byte {error.start}). Convert it first.") from None
    except UnicodeEncodeError as error:
        raise InputError(f"the text is not UTF-8 (character {error.start + 1}). Convert it first.") from None
    except OSError:  # a text longer than a file name can be
        return value


TEXT_FILES = frozenset({".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow"})
"""Files of many texts, by their ending; they are read as `trails ingest` reads them."""


def texts_of(value: str) -> list[tuple[str, str]] | None:
    """Label (``FILE:RECORD``) and text of every chain in a file of many; None when the argument names no such file."""
    try:
        path = Path(value)
        if path.suffix.lower() not in TEXT_FILES or not path.is_file():
            return None
    except OSError:  # a text longer than a file name can be
        return None
    from trails.readers import read

    return [(f"{path.name}:{chain.source_id}", chain.text) for chain in read([path])]


def settings_for(home: Path | None, store: str | None, **flags: Any) -> dict[str, Any]:
    """Keyword arguments for :class:`trails.pipeline.Home`."""
    return {"home": home, **({"store": store} if store else {}), **{k: v for k, v in flags.items() if v is not None}}
