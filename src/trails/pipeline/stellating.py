"""Blocks of a stellator file on a home: compiled over one of its runs, selected, measured."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from trails.analyses.bridge import bridging
from trails.analyses.report import Report, ReportTable
from trails.analyses.whitening import Whitening
from trails.errors import InputError, QueryError, TrailsError, UsageError
from trails.export import ExportOptions, parse_layers
from trails.export.subgraph import MAX_ROWS, TIMEOUT_S, Part, Selection, beside, merge_spans, select_statement
from trails.measure.base import Scorer
from trails.pipeline.opened import OpenHome
from trails.pipeline.whitening import whitening_of
from trails.platform.text import agreeing, counted
from trails.schema import Run, Trace, step_key
from trails.stellator import check_file, compile_program
from trails.stellator.compiling import Compiled, Distribution, Lookups, Places, compile_block, masked_texts
from trails.stellator.language import Anchor, ZoneName
from trails.stellator.verdicts import (
    CLAIMS,
    SELECTIONS,
    Bridging,
    Instruments,
    Selected,
    counts_told,
    judge,
    target,
    verdicts,
)
from trails.stellator.zones import Zone, zones


def zones_of(home: OpenHome, file: Path | None = None) -> dict[str, Zone]:
    """Named zones: those of trails, of ``zones.toml`` in the home, and of a file."""
    return zones(home.settings.home, file)


def compiled(home: OpenHome, file: Path, *, more_zones: Path | None = None, run: str | None = None) -> list[Compiled]:
    """The blocks of a file over a run. Raises StellatorError with everything that is wrong in the file, and if nothing is, with
    everything that the run cannot answer."""
    of = home.run(run)
    return compile_program(
        check_file(file, home.settings.home, more_zones),
        of,
        traces=lambda: home.traces(of.id),
        known=zones_of(home, more_zones),
        lookups=_lookups(home, of.id, file.parent),
        file=str(file),
    )


def _lookups(home: OpenHome, run: str, folder: Path) -> Lookups:
    """What a block of a file in ``folder`` asks the home while it is compiled."""
    texts: list[str] = []

    def masked(text: str) -> list[str]:
        if not texts:
            for table in home.shards.tables(["text"], run):
                texts.extend(table["text"].to_pylist())
        return masked_texts(texts, text)

    def subgraph(text: str) -> Places:
        found = home.select(beside(text, folder))
        if found.parts is None:
            return Places(tuple(sorted(home.shards.done(run))))
        parts = [found.parts[chain] for chain in sorted(found.parts)]
        return Places(
            tuple(part.chain for part in parts if part.whole),
            tuple(step_key(part.chain, step) for part in parts for step in part.steps),
            tuple(f"{part.chain}:{t}" for part in parts for first, stop in part.tokens for t in range(first, stop)),
        )

    @cache
    def lacking(name: str) -> InputError | None:
        """What a run without any value of a property is told; a file may name one a hundred times."""
        if name != "gap":
            try:
                Distribution(lambda: home.traces(run), home.run(run)).check(name)
            except InputError as error:
                return error
            return None
        found = home.graph.run("MATCH (g:Gap) WHERE g.run = $run RETURN g.id LIMIT 1", {"run": run}, trusted=True)
        return (
            None
            if found.rows
            else InputError(f"gap was asked for, and the graph holds no gap of run {run}. Find them with: trails gaps")
        )

    def measured(name: str) -> None:
        if error := lacking(name):
            raise error

    return Lookups(lambda text: home.names.chain(text, run), masked, subgraph, measured)


def selected(home: OpenHome, one: Compiled, run: str, *, more_zones: Path | None = None) -> Selected:
    """What a block selects, and the counts that stand beside it. Raises QueryError where the statement fails."""

    def ids(statement: str, parameters: Mapping[str, Any]) -> tuple[str, ...]:
        try:
            result = home.graph.run(statement, parameters, timeout_s=TIMEOUT_S, max_rows=MAX_ROWS, trusted=True)
        except QueryError as error:  # without the statement, which the user did not write
            said = str(error).partition("\n")[0]
            raise QueryError(f"{one.place}: block {one.name!r} cannot be answered: {said}") from None
        if result.truncated:
            raise QueryError(f"{one.place}: block {one.name!r} selects more than {MAX_ROWS:,} places. Narrow its zone.")
        return tuple(str(row[0]) for row in result.rows)

    file = one.place.rsplit(":", 2)[0]

    def block(**changes: Any) -> Compiled:
        return compile_block(
            one.name,
            replace(one.block, **changes),
            known=known,
            run=run,
            quantile=quantile,
            lookups=_lookups(home, run, Path(file).parent),
            file=file,
        )

    known = zones_of(home, more_zones)
    quantile = Distribution(lambda: home.traces(run), home.run(run))
    own = ids(one.statement, one.parameters)
    anywhere = block(zone=ZoneName("all"))
    zone = block(lines=())
    return Selected(one.kind, own, ids(anywhere.statement, anywhere.parameters), ids(zone.statement, zone.parameters))


def judged(
    home: OpenHome,
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
            "no model was asked for: leave out --no-model" if of.n_layers else f"{of.model} is not a language model",
        )
        parts[one.name] = judge(one, selected(home, one, of.id, more_zones=more_zones), instruments)
    counts: dict[str, int] = {
        name: sum(part.facts[name] for part in parts.values() if part) for name in (*CLAIMS, *SELECTIONS)
    }
    trains = any(line["verdict"] == "training" for part in parts.values() if part for line in verdicts(part))
    name = shlex.quote(str(file))
    commands = (
        ("write the rows with this training", f"trails export --stellator {name} --format trails -o rows.parquet"),
        ("train on them", "trails train rows.parquet -o adapter"),
    )
    return Report(
        "stellator",
        f"{counted(len(parts), 'block')}; {counts_told(counts)}",
        {"file": file.name, "run": of.id},
        commands=commands if trains else (),
        parts=parts,
    )


def _bridging(
    home: OpenHome, run: str, scorer: Scorer | None = None, chains: Collection[str] | None = None
) -> Bridging:
    """Bridges between steps of a run, over the steps of these chains (None: of all), scored by ``scorer`` (None: by the run's
    own, opened at the first question)."""
    return bridging(lambda: home.shards.traces(run, chains), lambda: scorer or home.scorer(run))


# --------------------------------------------------------------------------------------------------------------------
# Training
# --------------------------------------------------------------------------------------------------------------------

_DEFAULTS = ExportOptions()


@dataclass(frozen=True, slots=True)
class Export:
    """A selection with the options that go with it; ``objective`` is for `trails train`, empty if no block says one. ``said``
    is what becomes of the lines ANCHOR and DRIFT in training."""

    selection: Selection
    options: ExportOptions
    objective: str
    said: tuple[str, ...] = ()


def exported(home: OpenHome, file: Path, options: ExportOptions, *, more_zones: Path | None = None) -> Export:
    """What a file says to an export: its blocks' selections, united, and the options with what the blocks say.

    A block with GRADIENT DAMPEN gives whole chains in which the loss weights of what it selects are multiplied; one without
    gives what it selects. The text of ANCHOR is placed behind the rows. With OBJECTIVE → attention, lines DRIFT are targets of
    the selected spans. Raises UsageError where two blocks, or a block and an option, say different things.
    """
    of = home.run(options.run)
    said: dict[str, tuple[str, str]] = {}
    parts: dict[str, Part] = {}
    statements = []
    lost: set[tuple[str, str]] = set()
    told: list[str] = []
    for one in compiled(home, file, more_zones=more_zones, run=of.id):
        for name, value in one.annotations.options.items():
            first, place = said.setdefault(name, (value, one.place))
            if first != value:
                raise UsageError(
                    f"{one.place}: two blocks give {name}: {first!r} ({place}) and {value!r}. An export has one."
                )
        found = select_statement(
            f"block {one.name!r} of {one.place}", one.statement, one.parameters, home.graph, home.shards
        )
        statements.append(one.statement)
        lost |= set(found.lost)
        targets: dict[str, list[Any]] = {}
        if one.annotations.drift:
            here = selected(home, one, of.id, more_zones=more_zones)
            for line in one.annotations.drift:
                spans, what = target(line, here, lambda: home.traces(of.id), of, seed=options.seed)
                told.append(f"{one.name}: {what}")
                for chain, own in spans.items():
                    targets.setdefault(chain, []).extend(own)
        anchor = one.annotations.anchor if of.n_layers else ""
        if one.annotations.anchor and not anchor:
            told.append(f"{one.name}: ANCHOR is not placed, because {of.model} is not a language model")
        for chain, part in (found.parts or {}).items():
            mine = part if one.annotations.dampen is None else _damped(home, of.id, part, one.annotations.dampen)
            mine = replace(mine, anchor=anchor, drift=tuple(targets.get(chain, ())))
            parts[chain] = _united(parts[chain], mine, one.place) if chain in parts else mine
    spelled: dict[str, tuple[int, ...]] = {}
    for anchor in sorted({part.anchor for part in parts.values() if part.anchor}):
        tokenizer = home.language_model(of.id).model.tokenizer
        for text in (anchor, f" {anchor}"):
            spelled[text] = tuple(tokenizer.encode(text, add_special_tokens=False))
        ids = spelled[f" {anchor}"]
        pieces = ", ".join(repr(tokenizer.decode([token])) for token in ids)
        told.append(
            f"ANCHOR {anchor!r} is placed after each row: {counted(len(ids), 'token')} of the base vocabulary "
            f"({pieces})"
        )
    selection = Selection(
        f"stellator:{file.name}", parts, "\n\n".join(statements), spelled=spelled, lost=tuple(sorted(lost))
    )
    objective = said["objective"][0] if "objective" in said else ""
    return Export(selection, _with(options, said), objective, tuple(told))


def _damped(home: OpenHome, run: str, part: Part, factor: float) -> Part:
    """The whole chain with the spans of a part damped."""
    (table,) = home.shards.tables(["chain", "step_tokens", "token_ids"], run, [part.chain])
    steps = np.asarray(table["step_tokens"][0].as_py(), np.int64).reshape(-1, 2).tolist()
    spans = [*part.tokens, *((int(steps[step][0]), int(steps[step][1])) for step in part.steps)]
    if part.whole:
        spans = [(0, len(table["token_ids"][0]))]
    return Part(part.chain, damped=tuple((a, b, factor) for a, b in merge_spans(spans)))


def _united(one: Part, two: Part, place: str) -> Part:
    """Raises UsageError for two anchors: a chain is one row, and a row has one end."""
    if one.anchor and two.anchor and one.anchor != two.anchor:
        raise UsageError(
            f"{place}: two blocks place {one.anchor!r} and {two.anchor!r} after chain {one.chain}, which is one "
            f"row. Let them "
            "select other chains, or leave one ANCHOR out."
        )
    more: dict[str, Any] = {"anchor": one.anchor or two.anchor, "drift": (*one.drift, *two.drift)}
    if one.whole or two.whole:
        return Part(one.chain, damped=(*one.damped, *two.damped), **more)
    return Part(one.chain, tuple(sorted({*one.steps, *two.steps})), merge_spans([*one.tokens, *two.tokens]), **more)


def _with(options: ExportOptions, said: Mapping[str, tuple[str, str]]) -> ExportOptions:
    changes: dict[str, Any] = {}
    for name, (value, place) in said.items():
        if name == "objective":
            continue
        readers: Mapping[str, Callable[[str], Any]] = {"layers": parse_layers, "variants": Path, "variants_each": int}
        read = readers.get(name, str)(value)
        given = getattr(options, name)
        if given != getattr(_DEFAULTS, name) and given != read:
            raise UsageError(
                f"{place}: the block says {name} {value}, the option says otherwise. Leave out one of them."
            )
        changes[name] = read
    return replace(options, **changes)


def compared(
    home: OpenHome,
    file: Path,
    before: str,
    after: str,
    *,
    adapter: Path | None = None,
    more_zones: Path | None = None,
    pairs: int = 6,
    seed: int = 0,
) -> Report:
    """What a file states, before and after: the places that the run ``before`` selects, judged by the numbers of both runs, on
    the chains that both measured.

    ANCHOR re-scores as many bridges as ``pairs`` with the model of each run, between the same pairs of places. The model of a
    run with an adapter needs the folder ``adapter``; without it, and where a model cannot be opened, ANCHOR is not decidable on
    either side. Raises UsageError for runs of two tokenizers and for an ``adapter`` that is not that of the run ``after``.
    """
    one, two = home.run(before), home.run(after)
    if one.tokenizer != two.tokenizer:
        raise UsageError(f"runs {one.id} and {two.id} have different tokenizers, so their tokens cannot be compared.")
    blocks = compiled(home, file, more_zones=more_zones, run=one.id)
    mine, theirs = home.shards.done(one.id), home.shards.done(two.id)
    shared = None if mine == theirs else sorted(mine & theirs)
    anchors = any(isinstance(line.content, Anchor) for block in blocks for line in block.block.lines)
    bridges, why = _two_bridgings(home, one, two, adapter, shared) if anchors else ({}, "")
    rows: list[dict[str, Any]] = []
    parts: dict[str, Report | None] = {}
    notes: list[str] = []
    for block in blocks:
        places = selected(home, block, one.id, more_zones=more_zones)
        found = []
        for run in (one, two):

            def traces(of: str = run.id) -> Iterator[Trace]:
                return home.shards.traces(of, shared)

            def whitening(layer: int, of: str = run.id) -> Whitening:
                return whitening_of(home.shards, of, layer)

            instruments = Instruments(run, traces, bridges.get(run.id), whitening, pairs, seed, why)
            found.append(judge(block, places, instruments))
        parts |= {f"{block.name}, before": found[0], f"{block.name}, after": found[1]}
        lines = [line.content for line in block.block.lines]
        for content, was, now in zip(lines, verdicts(found[0]), verdicts(found[1]), strict=True):
            row = {"block": block.name, "line": was["line"], "before": was["verdict"], "after": now["verdict"]}
            row |= {"was": was["value"], "control_was": was["control"], "now": now["value"]}
            row |= {"control_now": now["control"], "change": _change(was["value"], now["value"])}
            rows.append(row | {"control_change": _change(was["control"], now["control"])})
            if isinstance(content, Anchor) or "not decidable" in (was["verdict"], now["verdict"]):
                sides = {"before and after": was} if was["said"] == now["said"] else {"before": was, "after": now}
                notes += [f"{block.name}, {side}: {line['line']}: {line['said']}" for side, line in sides.items()]
    decided = [[row[side] in ("pass", "fail") for side in ("before", "after")] for row in rows]
    judged_rows = [row for row, sides in zip(rows, decided, strict=True) if all(sides)]
    turned = sum(row["before"] != row["after"] for row in judged_rows)
    alone = sum(any(sides) and not all(sides) for sides in decided)  # not measured on the other side: no change
    schema = pa.schema(
        [(name, pa.string()) for name in ("block", "line", "before", "after")]
        + [(name, pa.float64()) for name in ("was", "control_was", "now", "control_now", "change", "control_change")]
    )
    shown = [row["before"] != "training" for row in rows]
    table = ReportTable("assertions", pa.Table.from_pylist(rows, schema), COMPARED, COMPARED_COLUMNS, shown=shown)
    if shared is not None:
        notes.append(f"judged on the {counted(len(shared), 'chain')} that both runs measured")
    return Report(
        "stellator",
        (
            f"{turned:,} of {counted(len(judged_rows), 'judged line')} "
            f"{agreeing(turned, 'has', 'have')} another verdict after the training"
            + (f"; {counted(alone, 'line is', 'lines are')} decidable on one side only" if alone else "")
        ),
        {"before": one.id, "after": two.id},
        (table,),
        notes=tuple(notes),
        parts=parts,
    )


COMPARED = "what the blocks state, before and after"
COMPARED_COLUMNS = {
    "block": "block",
    "line": "line",
    "before": "before",
    "after": "after",
    "was": "was",
    "control_was": "control before",
    "now": "now",
    "control_now": "control after",
    "change": "change",
    "control_change": "change of control",
}
"""Title and headings of a comparison of what blocks state."""


def _change(was: float | None, now: float | None) -> float | None:
    return now - was if was is not None and now is not None else None


def _two_bridgings(
    home: OpenHome, one: Run, two: Run, adapter: Path | None, shared: Sequence[str] | None
) -> tuple[Mapping[str, Bridging], str]:
    """Bridges by the model of each run, by run id. Empty, with the reason, where one of the models cannot be had: the value of
    one side compares nothing."""
    found: dict[str, Bridging] = {}
    for run in (one, two):
        if not run.n_layers:
            return {}, f"{run.model} is not a language model"
        if run.adapter and (adapter is None or run is one):
            return {}, (
                f"the adapter of run {run.id} is not kept, so no bridge is re-scored. "
                "Run: trails diff BEFORE --adapter FOLDER --stellator FILE"
            )
        try:
            scorer: Scorer = home.trained_model(adapter, one.id) if run.adapter and adapter else home.scorer(run.id)
        except TrailsError as error:
            return {}, f"the model of run {run.id} cannot be opened, so no bridge is re-scored: {error}"
        if scorer.run.id != run.id:
            raise UsageError(
                f"the adapter in {adapter} makes run {scorer.run.id}, and run {run.id} is to be judged. Give the adapter "
                "of that run."
            )
        found[run.id] = _bridging(home, run.id, scorer, shared)
    return found, ""
