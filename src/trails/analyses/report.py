"""What an analysis returns: a verdict that a person can act on, the evidence for it, and what could not be judged.

A :class:`Report` holds plain values and Arrow tables, and nothing about how they are shown. The terminal, ``--json``,
pandas and a notebook are all made from it, so an analysis is written once: a class with :meth:`Finding.report`, or a
function that returns a report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from trails.analyses.score import SCORE_COLUMNS, Score, Withheld, methods, score_record, score_rows, withheld_record
from trails.errors import UsageError
from trails.platform.arrays import Doubles, Floats
from trails.platform.markup import HTML_ROWS, escaped, html_table, html_tree
from trails.platform.packages import package
from trails.platform.text import counted
from trails.platform.ties import tie
from trails.store.base import GraphBatch

_RESERVED = ("analysis", "verdict", "scores", "withheld", "cut", "notes", "commands")


@dataclass(frozen=True, slots=True)
class ReportTable:
    """Rows of a report. ``data`` is complete; ``columns`` names those that a person is shown, with their headings, in order
    (none: all of them). ``detail`` marks diagnostics, which the terminal prints on request only. ``shown`` (R,) says which rows
    a person is shown, None for all. ``ranked`` is what the rows are ordered by, its name and its values (R,), for a table that
    says that the first row is the most of something. ``telling`` is for a table of which the first rows say least: where a
    limit cuts, the rows with the smallest values (R,) stay, in their order, and its name says what these are. ``drawn`` names
    three columns that a page draws as a map of colours: what stands in its rows, what from left to right, and the value, 0 or
    more. ``depths`` (R,) says how deep every row stands in a tree that a page nests, 0 or more; the first column has two blanks
    for each.
    """

    name: str
    data: pa.Table
    title: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    detail: bool = False
    shown: Sequence[bool] | None = None
    ranked: tuple[str, Sequence[float]] | None = None
    telling: tuple[str, Sequence[float]] | None = None
    drawn: tuple[str, str, str] | None = None
    depths: Sequence[int] | None = None

    def tie(self, limit: int | None = None) -> str:
        """Where the order of the first ``limit`` rows says nothing, as a sentence (:func:`trails.platform.ties.tie`)."""
        if self.ranked is None:
            return ""
        name, values = self.ranked
        kept = values if self.shown is None else [v for v, shown in zip(values, self.shown, strict=True) if shown]
        return tie([float(value) for value in kept], limit, name)

    def view(self, limit: int | None = None) -> tuple[list[str], list[list[Any]]]:
        """Headings, and the rows that a person is shown."""
        rows = [n for n in range(len(self.data)) if self.shown is None or self.shown[n]]
        headings = dict(self.columns) or {name: name for name in self.data.column_names}
        chosen = self.data.take(self._kept(rows, limit)).select(list(headings))
        return list(headings.values()), [list(row.values()) for row in chosen.to_pylist()]

    def cut(self, limit: int | None) -> pa.Table:
        """At most ``limit`` rows of the data, whether a person is shown them or not."""
        return self.data.take(self._kept(list(range(len(self.data))), limit))

    def cut_told(self, count: int) -> str:
        """What ``count`` rows are that a limit left: ``the first 10 of 36``."""
        if self.telling is None:
            return f"the first {count:,} of {self.n_shown:,}"
        return f"{count:,} of {self.n_shown:,}, {self.telling[0]}"

    def _kept(self, rows: list[int], limit: int | None) -> pa.Array:
        """Which of the rows a limit leaves."""
        if limit is None or self.telling is None:
            return pa.array(rows[:limit], pa.int64())
        values = self.telling[1]
        return pa.array(sorted(sorted(rows, key=lambda row: values[row])[:limit]), pa.int64())

    @property
    def n_shown(self) -> int:
        """Rows that a person is shown when nothing limits them."""
        return len(self.data) if self.shown is None else sum(self.shown)


@dataclass(frozen=True, slots=True)
class Report:
    """One analysis, told. ``verdict`` is one sentence. ``facts`` are further plain values for JSON. ``parts`` are reports
    within the report (None: there is none of that name). ``commands`` are pairs of what a line does and the line to run.
    ``evidence`` names the scores that the verdict rests on; the terminal prints the others on request only (none named:
    all are printed). ``maps`` are values per token, nats, by chain and name: a page colours the chain's tokens by them.
    ``layers`` are values (n, L+1) per token and layer (0 = input embeddings), by chain: a page draws them as a map.
    ``woven`` is the map of chains that the report is of: a page draws it.

    Raises ValueError for a report without a verdict, or when a fact, a table or a part has the name of another.
    """

    analysis: str
    verdict: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[ReportTable, ...] = ()
    scores: tuple[Score, ...] = ()
    withheld: tuple[Withheld, ...] = ()
    notes: tuple[str, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()
    parts: Mapping[str, Report | None] = field(default_factory=dict)
    evidence: tuple[str, ...] = ()
    # arrays have no one truth of being equal; what they were made of is compared
    maps: Mapping[str, Mapping[str, Floats]] = field(default_factory=dict, compare=False)
    layers: Mapping[str, Doubles] = field(default_factory=dict, compare=False)
    woven: Finding | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.verdict.strip():
            raise ValueError(f"the report of {self.analysis!r} has no verdict")
        names = [*_RESERVED, *self.facts, *(table.name for table in self.tables), *self.parts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"the report of {self.analysis!r} uses a name twice: {', '.join(twice)}")

    def record(self, limit: int | None = None) -> dict[str, Any]:
        """Everything as plain values, for JSON; at most ``limit`` rows of every table. ``cut`` has, for every table of which
        that leaves some out, how many rows there are; it is not there where nothing is left out.
        """
        cut = {} if limit is None else {t.name: len(t.data) for t in self.tables if len(t.data) > limit}
        return {
            "analysis": self.analysis,
            "verdict": self.verdict,
            **self.facts,
            "scores": [score_record(score) for score in self.scores],
            "withheld": [withheld_record(item) for item in self.withheld],
            **{table.name: table.cut(limit).to_pylist() for table in self.tables},
            **{name: part.record(limit) if part is not None else None for name, part in self.parts.items()},
            **({"cut": cut} if cut else {}),
            "notes": [*self.notes, *self.ties(limit)],
            "commands": [{"does": does, "run": line} for does, line in self.commands],
        }

    def ties(self, limit: int | None = None) -> list[str]:
        """Where the order of the first ``limit`` rows of a table says nothing, a sentence for each."""
        return [f"{table.name}: {said}" for table in self.tables if (said := table.tie(limit))]

    def distinct_parts(self) -> list[tuple[list[str], Report]]:
        """The parts that there are, each once, with all names that it goes by."""
        found: list[tuple[list[str], Report]] = []
        for name, part in self.parts.items():
            if part is None:
                continue
            same = next((names for names, other in found if other == part), None)
            if same is not None:
                same.append(name)
            else:
                found.append(([name], part))
        return found

    def to_arrow(self, table: str | None = None) -> pa.Table:
        """A table by its name, or the first one. Raises UsageError that names the tables there are."""
        found = [one for one in self.tables if table is None or one.name == table]
        if not found:
            known = ", ".join(one.name for one in self.tables) or "none"
            asked = f"table {table!r}" if table is not None else "a table"
            raise UsageError(f"{asked} of {self.analysis} was asked for. Tables: {known}.")
        return found[0].data

    def to_pandas(self, table: str | None = None) -> Any:
        """A table by its name, or the first one, as a pandas data frame; integers stay integers beside a missing one.

        Raises MissingPackageError where pandas is not installed.
        """
        package("pandas", "to_pandas()")
        return self.to_arrow(table).to_pandas(integer_object_nulls=True)

    def html(self, rows: int = HTML_ROWS, say: Callable[[str], str] = escaped) -> str:
        """Static HTML without scripts, styles or addresses. At most ``rows`` rows of a table; 0 leaves the tables out. ``say``
        makes HTML of a text: every text is escaped, or told in another language.
        """
        parts = [f'<section class="trails-report"><p class="verdict"><strong>{say(self.verdict)}</strong></p>']
        if self.scores:
            parts.append(html_table(SCORE_COLUMNS, score_rows(self.scores), "scores, each with its controls", say))
        parts += [f"<p>{say(f'{score.name}: {score.note}')}</p>" for score in self.scores if score.note]
        parts += [f"<p>{say(f'how: {line}')}</p>" for line in method_lines(self.scores)]
        none = say("no score for")
        parts += [f"<p>{none} {say(item.name)}: {say(item.reason)}</p>" for item in self.withheld]
        for table in self.tables if rows else ():
            headings, shown = table.view(rows)
            if not shown:
                continue
            title = table.title or table.name
            if table.n_shown > len(shown):
                title += f" ({len(shown):,} of {counted(table.n_shown, 'row')})"
            if table.depths is not None:
                body = html_tree(headings, shown, table.depths[: len(shown)], title, say)
            else:
                body = html_table(headings, shown, title, say)
            parts.append(f"<details><summary>{say(title)}</summary>{body}</details>" if table.detail else body)
            if told := table.tie(rows):
                parts.append(f"<p>{say(f'{table.name}: {told}')}</p>")
        for names, part in self.distinct_parts():
            parts.append(f"<h4>{say(', '.join(names))}</h4>{part.html(rows, say)}")
        parts += [f'<p class="note">{say(note)}</p>' for note in self.notes]
        parts += [f"<p>{say(does)}: <code>{escaped(line)}</code></p>" for does, line in self.commands]
        return "".join(parts) + "</section>"

    def _repr_html_(self) -> str:
        return self.html()


def method_lines(scores: Sequence[Score]) -> list[str]:
    """How the controls and intervals of scores were made, a line for each way: ``shuffle: mean of 20 …``."""
    return [f"{', '.join(names)}: {how}" for how, names in methods(scores).items()]


class Finding:
    """What an analysis found, in its own types, with the report that tells it. A subclass defines :meth:`report`; one that puts
    nodes into the graph defines :meth:`batch`: they take the place of those of the same home, run and options."""

    __slots__ = ()

    def report(self) -> Report:
        """The report of this finding."""
        raise NotImplementedError(f"{type(self).__name__} has no report")

    def batch(self) -> GraphBatch | None:
        """Rows for the graph; None when the analysis writes none."""
        return None

    def record(self, limit: int | None = None) -> dict[str, Any]:
        """Everything as plain values, for JSON; at most ``limit`` rows of every table."""
        return self.report().record(limit)

    def to_arrow(self, table: str | None = None) -> pa.Table:
        """A table of the report by its name, or the first one."""
        return self.report().to_arrow(table)

    def to_pandas(self, table: str | None = None) -> Any:
        """A table of the report by its name, or the first one, as a pandas data frame."""
        return self.report().to_pandas(table)

    def _repr_html_(self) -> str:
        return self.report().html()
