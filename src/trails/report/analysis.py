"""One offline HTML page of a :class:`~trails.analyses.report.Report`: verdict, tables, scores beside their controls, what was
withheld, notes, and the chains that it names. Same file format, same safety as the report of chains.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trails.analyses.report import Report, method_lines
from trails.analyses.score import SCORE_COLUMNS, score_rows
from trails.analyses.statemap import StateMap
from trails.platform.text import counted
from trails.report.html import Blob, Written, chain_record, gap_marks, map_record, run_record, write_page
from trails.report.portable import portable, without_folders
from trails.report.words import russian_html
from trails.schema import Run, Trace

MAX_ROWS = 1_000
"""Rows of a table that a page shows; the rest is named as left out."""

MAX_LINKED = 50
"""Chains of an analysis that its page holds with every token."""

_CHAIN = re.compile(r"\bc[0-9a-f]{16}\b")


def named_chains(report: Report) -> list[str]:
    """Ids of chains that the report's verdict, facts and tables name, in the order of their first place; parts included."""
    return list(dict.fromkeys(_named(report)))


def _named(report: Report) -> Iterator[str]:
    yield from _CHAIN.findall(report.verdict)
    yield from _in(list(report.facts.values()))
    for table in report.tables:
        yield from _in(table.view(MAX_ROWS)[1])
        yield from _in(table.data.slice(0, MAX_ROWS).to_pylist())
    for _, part in report.distinct_parts():
        yield from _named(part)


def _in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from _CHAIN.findall(value)
    elif isinstance(value, Mapping):
        yield from _in(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _in(item)


def write_analysis(
    path: Path,
    report: Report,
    run: Run,
    traces: Iterable[Trace] = (),
    *,
    after: Mapping[str, Trace] | None = None,
    subtitle: str = "",
    left_out: Iterable[str] = (),
    overwrite: bool = False,
) -> Written:
    """Write the page of a report. ``traces`` are chains that it names, by the run: where one is named, the page links to it.
    ``after`` holds traces of the same chains by another run, whose tokens are then compared. Folders of this machine are left
    out of what the page says (:func:`~trails.report.portable.without_folders`).

    The file appears whole or not at all. Raises UsageError for a file that exists, and for a page above
    :data:`trails.report.html.MAX_BYTES`.
    """
    report = portable(report)
    blob, notes = Blob(), [without_folders(note) for note in left_out]
    chains: list[dict[str, Any]] = []
    pieces: dict[int, str] = {}
    n_tokens = 0
    seams = _seams(report)
    for trace in traces:
        chain = chain_record(trace, run, blob, (after or {}).get(trace.chain.id))
        maps = report.maps.get(trace.chain.id, {})
        chain["maps"] = list(maps)
        chain["gaps"] = gap_marks(seams.get(trace.chain.id, ()))
        for name in maps:  # the run may keep a map of that name, of another target perhaps: the page is of this one
            for held in ("arrays", "controls"):
                chain[held].pop(name.replace(" ", "_"), None)
        chain["arrays"] |= {name: blob.floats(name, values) for name, values in maps.items()}
        chains.append(chain)
        pieces |= trace.top_texts()
        n_tokens += trace.n_tokens
    told_run = run_record(run)
    if (noise := report.facts.get("noise")) is not None:  # of a comparison: the same model measured twice
        told_run["noise"]["surprisal"] = noise
    record = {
        "title": f"trails {report.analysis}",
        "subtitle": without_folders(subtitle),
        "left_out": notes,
        "run": told_run,
        "report": _told(report, notes) | {"layers": _layers(report, blob, {chain["id"] for chain in chains})},
        "corpus": None,
        "drawn": _draws(report) or None,
        "chains": chains,
        "pieces": pieces,
        "map": None
        if not isinstance(report.woven, StateMap)
        else map_record(report.woven, blob, {chain["id"]: chain["pieces"] for chain in chains}, notes),
    }
    data = write_page(path, record, blob, fallback=_fallback(report), overwrite=overwrite)
    return Written(path, data, len(chains), n_tokens, tuple(notes))


def _draws(report: Report) -> bool:
    """Whether a table of a report, or of a part of it, is drawn as a map of colours."""
    return any(table.drawn for table in report.tables) or any(_draws(part) for _, part in report.distinct_parts())


def _layers(report: Report, blob: Blob, held: set[str]) -> dict[str, Any] | None:
    """What the map of layers and tokens on the page of a drift shows; None for another analysis.

    Its chain, the onset, and the values where it compares two measurements, to a thirty-thousandth of the largest.
    """
    chain = report.facts.get("chain")
    if report.analysis != "drift" or chain not in held:
        return None
    found: dict[str, Any] = {"chain": chain, "onset": report.facts["onset"], "values": None, "scale": 1.0}
    if (values := report.layers.get(chain)) is not None:
        largest = float(np.nanmax(np.abs(values), initial=0.0)) or 1.0
        found |= {"values": blob.along("drift", values / largest * 30 + 32), "scale": largest / 30}
    return found


def _seams(report: Report) -> dict[str, list[dict[str, Any]]]:
    """The seams that a report of gaps ranks, by chain, with what the ranking is worth."""
    found: dict[str, list[dict[str, Any]]] = {}
    if report.analysis == "gaps":
        for row in report.to_arrow("seams").select(["chain", "step", "rank", "score"]).to_pylist():
            found.setdefault(row["chain"], []).append({**row, "worth": report.facts["worth"]})
    return found


def _fallback(report: Report) -> str:
    """The report for a reader whose browser runs no script: whole in English, without the rows of its tables in Russian."""
    return f'{report.html(MAX_ROWS)}<hr><div lang="ru">{report.html(0, russian_html)}</div>'


def _told(report: Report, notes: list[str]) -> dict[str, Any]:
    by_reason: dict[str, list[str]] = {}
    for item in report.withheld:
        by_reason.setdefault(item.reason, []).append(item.name)
    tables: list[dict[str, Any]] = []
    for table in report.tables:
        columns, rows = table.view(MAX_ROWS)
        if table.n_shown > len(rows):
            notes.append(
                f"{table.n_shown - len(rows):,} of {counted(table.n_shown, 'row')} of {table.name} left out; "
                "--json has all."
            )
        names = list(table.columns) or table.data.column_names
        if {"chain", "position"} <= set(names):
            # in the form of a link of the page, which leads to the token
            chain, position = names.index("chain"), names.index("position")
            rows = [[f"{v}/{row[position]}" if n == chain else v for n, v in enumerate(row)] for row in rows]
        if rows:
            title = table.title or table.name
            tables.append({"title": title, "columns": columns, "rows": rows, "detail": table.detail, "drawn": None})
            if table.drawn:
                tables[-1]["drawn"] = [names.index(name) for name in table.drawn]
    return {
        "verdict": report.verdict,
        "facts": {
            n: v for n, v in report.facts.items() if isinstance(v, str | int | float) and not isinstance(v, bool)
        },
        "tables": tables,
        "score_columns": SCORE_COLUMNS,
        # what the verdict rests on comes first
        "scores": score_rows(sorted(report.scores, key=lambda score: score.name not in report.evidence)),
        "said": [
            *(f"{score.name}: {score.note}" for score in report.scores if score.note),
            *(f"how: {line}" for line in method_lines(report.scores)),
        ],
        "withheld": [[reason, ", ".join(names)] for reason, names in by_reason.items()],
        "notes": [*report.notes, *report.ties(MAX_ROWS)],
        "commands": report.commands,
        "parts": [[", ".join(names), _told(part, notes)] for names, part in report.distinct_parts()],
    }
