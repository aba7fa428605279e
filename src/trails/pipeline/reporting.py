"""From a home to a report: which chains, what the graph knows of them, and one file. No model is needed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain as joined
from pathlib import Path
from typing import Any

import numpy as np

from trails.analyses.report import Report, ReportTable
from trails.analyses.sequences import token_corpus
from trails.analyses.statemap import StateMap, build
from trails.errors import UsageError
from trails.export.subgraph import GAPS_ADVICE, is_selection
from trails.pipeline.opened import OpenHome
from trails.platform.text import agreeing, beginning, counted
from trails.report.analysis import MAX_LINKED, named_chains, write_analysis
from trails.report.html import MAX_CHAINS, SKELETON, Found, Written, check_free, write_report
from trails.schema import Run, Trace
from trails.store.resolve import chains_without_shard

_GAPS = """
MATCH (g:Gap) WHERE g.run = $run AND g.home = $home
RETURN g.chain AS chain, g.step AS step, g.rank AS rank, g.score AS score, g.control_auc AS control_auc,
       g.baseline_auc AS baseline_auc, g.worth AS worth
ORDER BY chain, step
"""
_OVERLAPS = """
MATCH (o:Overlap)-[i:IN]->(c:Chain)
WHERE o.run = $run AND o.home = $home AND o.kind IN $kinds
RETURN o.id AS id, o.kind AS kind, o.n_tokens AS n_tokens, o.n_chains AS n_chains, o.excess AS excess,
       o.control AS control, o.control_name AS control_name, c.id AS chain, i.first AS first, i.stop AS stop
ORDER BY id, chain, first
"""
_KINDS = "MATCH (o:Overlap) WHERE o.run = $run AND o.home = $home RETURN DISTINCT o.kind AS kind ORDER BY kind"
MAX_ROWS = 200_000
NAMED = 3
"""Selections that the head of a report names."""
PLAN_ROWS = 200
"""Rows of a course that its page lists."""


def report(
    home: OpenHome,
    selections: Sequence[str],
    to: Path,
    *,
    run: str | None = None,
    compare: str | None = None,
    with_map: bool = True,
    overwrite: bool = False,
    max_rows: int | None = None,
) -> Written:
    """Write the report of some selections (as in ``trails export --subgraph``) or chain ids; none means all chains.

    ``compare`` is a second run of the same chains. Gaps and overlaps are those that ``trails gaps`` and ``trails overlaps``
    wrote into the graph, at most ``max_rows`` rows of each (:data:`MAX_ROWS`). What is missing there or cut is named in the
    report. Raises UsageError as :func:`write_report` does.
    """
    check_free(to, overwrite=overwrite)  # before the work, not after it
    first = home.run(run)
    second = _second(home, first, compare) if compare is not None else None
    selections = [text if is_selection(text) else home.names.chain(text, first.id) for text in selections]
    chains = _chains(home, selections)
    notes: list[str] = []
    found = _found(home, first, notes, max_rows or MAX_ROWS)
    measured = home.shards.done(first.id)
    if chains is None:  # a selection that asks the graph has told its own lost chains
        held = home.graph.held().get(home.shards.identity().id, set())
        if surplus := {chain for chain, of in held if of == first.id} - set(measured):
            notes.append(f"{chains_without_shard(len(surplus))}.")
    order = [name for *_, name, _ in home.names.rows if name in measured and (chains is None or name in chains)]
    after = None
    if second is not None:
        after = {trace.chain.id: trace for trace in home.shards.traces(second.id, order[:MAX_CHAINS])}

    def traces() -> Iterator[Trace]:
        return home.shards.traces(first.id, chains)

    woven = _woven(home, first, chains, notes) if with_map else None
    more = f" and {len(selections) - NAMED} more" if len(selections) > NAMED else ""
    what = ", ".join(selections[:NAMED]) + more or "all chains"
    return write_report(
        to,
        traces(),
        first,
        found=found,
        after=after,
        woven=woven,
        order=order,
        title="trails: " + beginning(what, 200),
        subtitle=first.model + (f" · compared with {second.id}" if second is not None else ""),
        left_out=notes,
        overwrite=overwrite,
    )


def _second(home: OpenHome, first: Run, asked: str) -> Run:
    """The run to compare with. Raises UsageError for one that is not there, and for the first run itself."""
    found = home.run(asked, "--compare ID")
    if found.id == first.id:
        raise UsageError(
            f"run {found.id} was asked to be compared with itself. Name another run of the same chains with --compare, or the "
            "first one with --run"
        )
    return found


def analysis_page(
    home: OpenHome, report: Report, to: Path, *, run: str | None = None, overwrite: bool = False
) -> Written:
    """Write the page of an analysis with the first :data:`MAX_LINKED` chains that it names (of a map: of those in it, in the
    order of ``trails chains``); where it compares two runs
    (``before`` and ``after`` of its facts), with what every token of them changed by. The tokens are those of the run that its
    facts name (``before``, ``run``, the first of ``runs``), else of ``run``.
    """
    facts = report.facts
    of = home.run(facts.get("before") or facts.get("run") or next(iter(facts.get("runs") or ()), None) or run)
    measured = home.shards.done(of.id)
    # a map is of all of its chains
    names = named_chains(report) if report.woven is None else [name for *_, name, _ in home.names.rows]
    named = [chain for chain in names if chain in measured]
    held = {trace.chain.id: trace for trace in home.shards.traces(of.id, named[:MAX_LINKED])} if named else {}
    left = len(named) - len(held)
    notes = (
        [
            f"{left:,} of {counted(len(named), 'chain')} that are named "
            f"{agreeing(left, 'is', 'are')} not held with their tokens."
        ]
        if left
        else []
    )
    traces = [held[chain] for chain in named if chain in held]
    second = report.facts.get("after")
    after = {trace.chain.id: trace for trace in home.shards.traces(second, list(held))} if second and held else None
    return write_analysis(
        to, report, of, traces, after=after, subtitle=f"{of.model} · {of.id}", left_out=notes, overwrite=overwrite
    )


def course_page(
    home: OpenHome, file: Path, to: Path, *, run: str | None = None, seed: int = 0, overwrite: bool = False
) -> Written:
    """Write the page of a course: its tree, gaps, scenes and roles, its first rows in order, and their chains token by token.

    Raises GenomeError with every fault of the genome in ``file``, and UsageError as :func:`write_analysis` does.
    """
    from trails.genome.compile import plan_table
    from trails.genome.show import course_report
    from trails.pipeline.courses import open_course

    of = home.run(run)
    with open_course(home.settings, file, run=of.id, seed=seed) as course:
        made = course_report(course)
        rows = plan_table(course, np.arange(min(len(course), PLAN_ROWS)))
    title = "the course, row by row" if len(rows) == made.facts["n_rows"] else f"the first {counted(len(rows), 'row')}"
    shown = replace(made, tables=(*made.tables, ReportTable("plan", rows, title)))
    return analysis_page(home, shown, to, run=of.id, overwrite=overwrite)


def _chains(home: OpenHome, selections: Sequence[str]) -> set[str] | None:
    """Ids of the chains of selections and ids; None for all."""
    if not selections:
        return None
    ids: set[str] = set()
    for text in selections:
        if is_selection(text):
            selected = home.select(text).chains
            if selected is None:
                return None
            ids.update(selected)
        else:
            ids.add(text)
    if not ids:
        raise UsageError(f"{', '.join(selections)} selects no chain. Chains are listed by: trails chains")
    return ids


def _found(home: OpenHome, run: Run, notes: list[str], max_rows: int) -> Found:
    asked = {"run": run.id, "home": home.shards.identity().id}
    found: list[dict[str, list[dict[str, Any]]]] = []
    for name, query, kinds in (
        ("gaps", _GAPS, None),
        ("occurrences of overlaps", _OVERLAPS, ["exact", "masked"]),
        # asked for by themselves: many repeats of roles leave the room of the others alone
        ("occurrences of repeats of roles", _OVERLAPS, [SKELETON]),
    ):
        rows = home.graph.run(query, asked | ({"kinds": kinds} if kinds else {}), max_rows=max_rows)
        if rows.truncated:
            notes.append(
                f"The graph holds more {name} of this run than the {max_rows:,} that {agreeing(max_rows, 'was', 'were')} read; "
                "the rest is neither shown nor counted."
            )
        found.append({})
        for row in rows.dicts():
            found[-1].setdefault(row.pop("chain"), []).append(row)
    gaps, overlaps, roles = found
    if not gaps:
        notes.append(f"The graph holds no gaps of this run. {GAPS_ADVICE}")
    if not overlaps:
        notes.append(
            "The graph holds no exact and no masked overlaps: none were found, or none were looked for. Run: trails overlaps"
        )
    drawn = ("exact", "masked", SKELETON)
    held = [row["kind"] for row in home.graph.run(_KINDS, asked, max_rows=max_rows).dicts()]
    notes += [f"Overlaps of kind {kind} are in the graph and not drawn." for kind in held if kind not in drawn]
    for chain, repeats in roles.items():
        overlaps.setdefault(chain, []).extend(repeats)
    return Found(gaps, overlaps)


def _woven(home: OpenHome, run: Run, chains: set[str] | None, notes: list[str]) -> StateMap | None:
    traces = home.shards.traces(run.id, chains)
    start = next(traces, None)
    if start is None:
        return None
    corpus = token_corpus(joined([start], traces))
    if corpus.n_chains < 2:
        notes.append("A map needs two or more chains.")
        return None
    return build(corpus)
