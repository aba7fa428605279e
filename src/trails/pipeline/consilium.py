"""The consilium: several models measure the same input, one after another, and what they agree on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from trails.analyses.agreement import Agreement, By, Taken, agreement, member
from trails.config import Settings
from trails.errors import TrailsError, UsageError
from trails.measure.base import Scorer
from trails.measure.remembered import one_name
from trails.pipeline.measuring import IngestOptions, IngestSummary, ingest
from trails.pipeline.members import read_members
from trails.pipeline.opened import OpenHome
from trails.pipeline.progress import Progress
from trails.pipeline.removing import rename_run
from trails.schema import Run
from trails.store.resolve import run_of


@dataclass(frozen=True, slots=True)
class Taking:
    """A member's ingest: its summary, or the reason why it failed."""

    model: str
    summary: IngestSummary | None
    error: TrailsError | None


def ingest_many(
    paths: Sequence[str | Path],
    settings: Settings,
    options: IngestOptions,
    models: Sequence[str],
    make_scorer: Callable[[Settings], Scorer],
    *,
    known_run: Callable[[Settings], str] = lambda _: "",
    progress: Progress | None = None,
) -> list[Taking]:
    """Ingest the same input with every model, one after another: memory holds one model at a time. A member that fails is
    reported and the others are kept; the same call again measures only what is missing.

    ``make_scorer`` opens the model of its settings; ``known_run`` names the run that it would measure as, where it is known.
    Raises UsageError for standard input, which can be read once, and for a model that is named twice.
    """
    if any(str(path) == "-" for path in paths):
        raise UsageError("standard input can be read once, and several models were given. Put it into a file.")
    names = [one_name(model) for model in models]
    if twice := next((n for n, name in enumerate(names) if name in names[:n]), None):
        first = models[names.index(names[twice])]
        other = "" if first == models[twice] else f", as {first}, too"
        raise UsageError(f"model {models[twice]} was given twice{other}. Name every member once.")
    found: list[Taking] = []
    for model in models:
        own = settings.model_copy(update={"model": model})
        try:
            summary = ingest(
                paths,
                own,
                options,
                make_scorer=partial(make_scorer, own),
                known_run=known_run(own),
                progress=progress,
            )
            found.append(_apart(Taking(model, summary, None), found))
        except TrailsError as error:
            found.append(Taking(model, None, error))
    return found


def take(
    file: Path,
    settings: Settings,
    options: IngestOptions,
    make_scorer: Callable[[Settings, Mapping[str, Any]], Scorer],
    *,
    progress: Progress | None = None,
) -> list[Taking]:
    """Ingest the input of a file (:mod:`trails.pipeline.members`) with every member of it, one after another; a member's name
    becomes that of its run. A member that fails is reported and the others are kept.

    ``make_scorer`` opens the model of its settings with what else the member says. Raises InputError for a wrong file, before
    anything is measured.
    """
    inputs, members = read_members(file, settings.dtype)
    found: list[Taking] = []
    for one in members:
        given = dict(one.given)
        own = settings.model_copy(
            update={"model": one.model} | {key: given.pop(key) for key in ("dtype", "device") if key in given}
        )
        try:
            summary = ingest(inputs, own, options, make_scorer=partial(make_scorer, own, given), progress=progress)
            taken = _apart(Taking(one.said, summary, None), found)
            if one.name and taken.summary is not None:
                rename_run(summary.run, one.name, own)
            found.append(taken)
        except TrailsError as error:
            found.append(Taking(one.said, None, error))
    return found


def _apart(taken: Taking, before: Sequence[Taking]) -> Taking:
    """The member, or its error where it is one that was measured before: only the loaded model tells that two names, or a
    default and what it stands for, are the same instrument."""
    assert taken.summary is not None
    for other in before:
        if other.summary is not None and other.summary.run == taken.summary.run:
            said = f"its run {taken.summary.run} is that of member {other.model}: the same instrument. Name every member once"
            return Taking(taken.model, None, UsageError(said))
    return taken


def agree(
    home: OpenHome,
    runs: Sequence[str] = (),
    *,
    measure: Taken = "surprisal",
    by: By = "span",
    top: int = 200,
    draws: int = 200,
    seed: int = 0,
    write: bool = True,
) -> Agreement:
    """Compare the runs of a home (all without an intervention by default) on the chains that all of them measured; write
    ``:Disagreement``. Raises UsageError for fewer than two.
    """
    known = home.runs()
    chosen = [run_of(known, name) for name in runs] or [run for run in known.values() if not run.intervention]
    if len({run.id for run in chosen}) < len(chosen):
        raise UsageError(f"a run was named twice: {', '.join(runs)}. Name every member once.")
    alike: dict[str, Run] = {}
    for run in chosen:
        # the name of a model is part of its run, and says nothing of its numbers
        other = alike.setdefault(replace(run, model="").id, run)
        if other is not run:
            raise UsageError(
                f"runs {other.id} ({other.model}) and {run.id} ({run.model}) are of the same weights under two names, so they "
                "are one member. Name the runs to compare, one of the two left out: trails agreement --runs RUN,RUN"
            )
    members = [member(run.id, _name(run), home.traces(run.id), measure) for run in chosen]
    texts: dict[str, str] = {}
    for table in home.shards.tables(["chain", "text"]):
        texts |= dict(zip(table["chain"].to_pylist(), table["text"].to_pylist(), strict=True))
    found = agreement(members, texts, by=by, measure=measure, top=top, draws=draws, seed=seed)
    batch = found.batch() if write else None
    if write:
        for of in ({run.id for run in chosen}, set(found.members["run"].to_pylist())):
            _forget(home, of, measure, set(texts))
    if batch is not None:
        home.put(batch)
    return found


def _forget(home: OpenHome, members: set[str], measure: str, chains: set[str]) -> None:
    """Take away what the same members disagreed about before, on this home's chains; other homes' and other members' stay."""
    mine = "@" + home.shards.identity().id[:9]
    found = home.graph.run(
        "MATCH (d:Disagreement) WHERE d.measure = $measure RETURN d.id AS id, d.chain AS chain, d.members AS members",
        {"measure": measure},
        max_rows=1_000_000,
    ).rows
    stale = [key for key, chain, of in found if key.endswith(mine) and chain in chains and set(of) == members]
    if stale:
        home.graph.run("MATCH (d:Disagreement) WHERE d.id IN $ids DETACH DELETE d", {"ids": stale}, write=True)


def _name(run: Run) -> str:
    """What a person calls a member."""
    return run.name or f"{run.model}{' + adapter ' + run.adapter[:6] if run.adapter else ''}"
