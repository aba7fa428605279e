"""Blocks of a stellator file on a home: compiled over one of its runs, selected, measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trails.analyses.bridge import StepGraph, find_bridge, step_graph
from trails.analyses.report import Report
from trails.analyses.whitening import whitening_of
from trails.errors import QueryError
from trails.export.subgraph import MAX_ROWS, TIMEOUT_S
from trails.stellator import compile_program, read_file
from trails.stellator.compiling import Compiled, Distribution, compile_block
from trails.stellator.language import ZoneName
from trails.stellator.verdicts import Bridging, Instruments, Selected, judge
from trails.stellator.zones import Zone, zones

if TYPE_CHECKING:
    from trails.pipeline.home import Home


def zones_of(home: Home, file: Path | None = None) -> dict[str, Zone]:
    """Named zones: those of trails, of ``zones.toml`` in the home, and of a file."""
    return zones(home.settings.home, file)


def compiled(home: Home, file: Path, *, more_zones: Path | None = None, run: str | None = None) -> list[Compiled]:
    """The blocks of a file over a run. Raises InputError ``FILE:LINE:COLUMN`` for what is wrong."""
    of = home.run(run)
    return compile_program(
        read_file(file),
        of,
        traces=lambda: home.traces(of.id),
        known=zones_of(home, more_zones),
        chain=lambda text: home.names.chain(text, of.id),
        file=str(file),
    )


def selected(home: Home, one: Compiled, run: str, *, more_zones: Path | None = None) -> Selected:
    """What a block selects, and the counts that stand beside it. Raises QueryError where the statement fails."""

    def ids(statement: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        result = home.graph.run(statement, parameters, timeout_s=TIMEOUT_S, max_rows=MAX_ROWS, trusted=True)
        if result.truncated:
            raise QueryError(f"block {one.name!r} selects more than {MAX_ROWS:,} places. Narrow its zone.")
        return tuple(str(row[0]) for row in result.rows)

    def block(**changes: Any) -> Compiled:
        return compile_block(
            one.name,
            replace(one.block, **changes),
            known=known,
            run=run,
            quantile=quantile,
            chain=lambda text: home.names.chain(text, run),
        )

    known = zones_of(home, more_zones)
    quantile = Distribution(lambda: home.traces(run), home.run(run))
    own = ids(one.statement, one.parameters)
    anywhere = block(zone=ZoneName("all"))
    zone = block(lines=())
    every = block(zone=ZoneName("all"), lines=())
    return Selected(
        one.kind,
        own,
        len(ids(anywhere.statement, anywhere.parameters)),
        len(ids(zone.statement, zone.parameters)),
        len(ids(every.statement, every.parameters)),
    )


def judged(
    home: Home,
    file: Path,
    *,
    more_zones: Path | None = None,
    run: str | None = None,
    model: bool = True,
    pairs: int = 6,
    seed: int = 0,
) -> Report:
    """Select, measure and judge every line of every block of a file. ``model`` allows that bridges are re-scored, ``pairs`` of
    them for every ANCHOR."""
    of = home.run(run)
    parts: dict[str, Report | None] = {}
    for one in compiled(home, file, more_zones=more_zones, run=of.id):
        instruments = Instruments(
            of,
            lambda: home.traces(of.id),
            _bridging(home, of.id) if model and of.n_layers else None,
            lambda layer: whitening_of(home.shards, of.id, layer),
            pairs,
            seed,
            "no model was asked for: leave out --no-model" if of.n_layers else f"{of.model} is no language model",
        )
        parts[one.name] = judge(one, selected(home, one, of.id, more_zones=more_zones), instruments)
    counts = [sum(part.facts[name] for part in parts.values() if part) for name in ("pass", "fail", "not decidable")]
    return Report(
        "stellator",
        f"{len(parts)} blocks: {counts[0]} lines pass, {counts[1]} fail, {counts[2]} are not decidable",
        {"file": file.name, "run": of.id},
        parts=parts,
    )


def _bridging(home: Home, run: str) -> Bridging:
    """Bridges between steps; the graph of steps is made at the first question."""
    made: list[StepGraph] = []

    def bridge(pairs: Sequence[tuple[str, str]]) -> list[float]:
        if not made:
            made.append(step_graph(home.traces(run)))
        found = []
        for start, goal in pairs:
            best = find_bridge(made[0], home.scorer(run), start, goal, splices=1, rounds=1).best
            found.append(math.nan if best is None else best.rescored.value)
        return found

    return bridge
