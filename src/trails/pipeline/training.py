"""An export and the home it came from → a trained adapter: the model is that of the run which measured the export."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trails.config import Settings
from trails.errors import UsageError
from trails.export import read_records
from trails.platform.files import text_lines, write_atomic
from trails.platform.text import agreeing, part_of
from trails.schema import Run
from trails.store import outputs
from trails.store.traces import TraceStore
from trails.train.check import NOTHING_TO_LEARN, check_output, export_head, identity_of
from trails.train.options import TrainOptions, TrainReport, check_options

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from trails.evaluate.routes import Routed
    from trails.train.attention import TeacherMap


def train_export(
    settings: Settings,
    export: Path,
    output: Path,
    options: TrainOptions,
    *,
    teacher: str = "",
    force: bool = False,
    overwrite: bool = False,
    on_stage: Callable[[str], None] = lambda _: None,
    on_step: Callable[[int, int, float], None] = lambda *_: None,
    keep: Collection[str] | None = None,
    replay: Path | None = None,
    replay_at_random: bool = False,
) -> TrainReport:
    """Train an adapter on an export, as ``trails train`` does; what can be checked is checked before the model is loaded.

    Without a model in the settings that of the export's run is taken, where the home knows the run. ``teacher`` names the run
    whose attention maps are learnt. ``on_step`` is told step, number of steps and loss; ``keep`` names the chains whose rows
    are trained (None: all); ``replay`` is a journal that is fed again, with ``replay_at_random`` as many other transitions.

    Raises UsageError for an export of other weights (unless ``force``), for wrong options and for a folder that holds
    something else.
    """
    check_options(options)
    if replay_at_random and replay is None:
        raise UsageError("--replay-at-random is the control of a replay. Name the journal: --replay FILE.")
    if replay is not None and not replay.is_file():
        raise UsageError(f"{replay} does not exist. A training writes it: trails train EXPORT --journal 0.95 -o FOLDER")
    head = export_head(export)
    outputs.check_output(output)
    identity = identity_of(head, keep=keep, replay=replay, replay_at_random=replay_at_random)
    if not force:  # other weights are refused once they are known
        identity["revision"] = head.model_sha
    check_output(output, identity, options, overwrite=overwrite)
    known = _run_of(settings, head.run)
    if teacher and not options.objective == "attention":
        raise UsageError(
            "--teacher names maps for the objective attention. Add --objective attention, or leave it out."
        )
    if options.objective == "attention" and not teacher and not head.targets:
        raise UsageError(NOTHING_TO_LEARN)
    name = settings.model or (known.model if known else "")
    if name == "uniform":
        raise UsageError("the uniform scorer cannot be trained. Give a model with --model.")
    teachers = _teachers(settings, teacher) if teacher else None
    if teachers is not None and (told := _without_map(export, teachers, teacher)):
        logger.warning(told)

    from trails.train import train

    on_stage(f"loading {name or 'the packaged model'}")
    scorer = _scorer(settings, export)
    return train(
        export,
        output,
        scorer.model.module,
        scorer.model.tokenizer,
        scorer.run,
        options,
        teachers=teachers,
        force=force,
        overwrite=overwrite,
        on_step=on_step,
        keep=keep,
        replay=replay,
        replay_at_random=replay_at_random,
    )


def _scorer(settings: Settings, export: Path) -> Any:
    """The model that an export is trained with: that of the settings, else that of the run which measured it."""
    from trails.measure import open_scorer
    from trails.measure.remembered import model_to_open

    known = _run_of(settings, export_head(export).run)
    model, revision = model_to_open(known, settings.model) if known else (settings.model, None)
    return open_scorer(model, device=settings.device, dtype=settings.dtype, revision=revision)


def _without_map(export: Path, teachers: Collection[str], run: str) -> str:
    """What to say of chains of an export that the teaching run has no map of; empty where it has all."""
    chains: set[str] = set()
    for table in read_records(export):
        columns = (table[name].to_pylist() for name in ("parent", "chain"))
        chains.update(parent or chain for parent, chain in zip(*columns, strict=True))
    lacking = sorted(chains - set(teachers))
    if not lacking:
        return ""
    return (
        f"{part_of(len(lacking), len(chains), 'chain', 'has', 'have')} no attention map of run {run} in the shards, so "
        f"{agreeing(len(lacking), 'its', 'their')} rows teach no attention: {', '.join(lacking[:5])}"
        f"{', …' if len(lacking) > 5 else ''}. The run did not measure them, or a shard is missing. Compare: trails verify"
    )


ONE, MIXED = "one", "mixed"
"""Folders beside those of the roles: one adapter of as many parameters on the same rows, and the weighted sum of the roles'."""


@dataclass(frozen=True, slots=True)
class RoleReport:
    """What was trained by role. ``roles`` maps a role to its training; ``one`` is the adapter of equal parameters,
    ``mixed`` the folder of the weighted sum, ``weights`` what each role weighs in it."""

    roles: Mapping[str, TrainReport]
    one: TrainReport
    mixed: Path
    weights: Mapping[str, float]


def train_roles(
    settings: Settings,
    export: Path,
    output: Path,
    options: TrainOptions,
    *,
    force: bool = False,
    overwrite: bool = False,
    on_stage: Callable[[str], None] = lambda _: None,
    on_step: Callable[[int, int, float], None] = lambda *_: None,
) -> RoleReport:
    """One adapter for every role of a course (``train.ROLE.jsonl`` beside ``export``), in ``output/ROLE``; and two to hold it
    against: ``output/one``, of as many parameters, trained on the same rows in the order of the course, and ``output/mixed``,
    the sum of the roles' weight changes, each weighted by its share of the rows.

    ``routes.json`` says which adapter belongs to which role. A run that was interrupted continues where it stopped. Raises
    UsageError for files that are not of one course, and for a course without roles (:func:`role_rows`).
    """
    from trails.train.adapter import mix_adapters

    if options.objective == "attention":
        raise UsageError("adapters by role are trained on the cross entropy. Leave --objective attention out.")
    files = role_files(export)
    chains = {row["chain"] for rows in role_rows(export).values() for row in rows}
    equal = replace(
        options,
        rank=options.rank * len(files),
        alpha=options.alpha * len(files),  # the scale of an update is alpha / rank: the same
        steps=options.steps * len(files),
    )
    _check_role_folders(output, export, files, chains, options, equal, overwrite=overwrite)
    reports: dict[str, TrainReport] = {}
    more: dict[str, Any] = {"force": force, "overwrite": overwrite, "on_step": on_step}
    for role, path in files.items():
        on_stage(f"role {role}: {path}")
        reports[role] = train_export(settings, path, output / role, options, on_stage=on_stage, **more)
    on_stage(f"one adapter of rank {equal.rank} on the rows of all roles")
    one = train_export(settings, export, output / ONE, equal, keep=chains, on_stage=on_stage, **more)
    total = sum(report.rows for report in reports.values())
    weights = {role: report.rows / total for role, report in reports.items()}
    scorer = _scorer(settings, export)
    mix_adapters(scorer.model.module, {role: output / role for role in reports}, weights, output / MIXED)
    routes = {"routes": {role: role for role in reports}, "one": ONE, "mixed": MIXED, "weights": weights}
    write_atomic(output / "routes.json", json.dumps(routes, indent=1, sort_keys=True) + "\n")
    return RoleReport(reports, one, output / MIXED, weights)


def _check_role_folders(
    output: Path,
    export: Path,
    files: Mapping[str, Path],
    chains: Collection[str],
    options: TrainOptions,
    equal: TrainOptions,
    *,
    overwrite: bool,
) -> None:
    """Raises UsageError for a folder of :func:`train_roles` that holds something else, before the first of them is trained."""
    check_options(options)
    if (output / "train.json").is_file():
        raise UsageError(
            f"{output} holds a training, and adapters by role need a folder of their own. Choose another one."
        )
    for folder in (output, *(output / name for name in (*files, ONE, MIXED))):
        outputs.check_output(folder)
    for role, path in files.items():
        check_output(output / role, identity_of(export_head(path)), options, overwrite=overwrite)
    check_output(output / ONE, identity_of(export_head(export), keep=chains), equal, overwrite=overwrite)


def role_rows(export: Path) -> dict[str, list[dict[str, Any]]]:
    """The training rows of every role of the course whose rows ``export`` holds, by role, in their order.

    Which roles there are says ``course.jsonl`` beside it. Raises UsageError where that is missing or names no role, and for
    rows, or a file of a role, that are not of this course.
    """
    from trails.train.data import load_rows

    files = role_files(export)
    roles: dict[str, str] = {}
    order: list[str] = []
    for _, line in text_lines(export.with_name(COURSE)):
        row = json.loads(line)
        order.append(row["chain"])
        roles[row["chain"]] = row["role"]
    every = load_rows(export)
    held = iter(order)
    again = f"Write the course again: {EXPORT}"
    if not all(row["chain"] in held for row in every):  # in their order; rows without a label are not trained
        raise UsageError(f"the rows of {export} are not those of {export.with_name(COURSE)}. {again}")
    found = {}
    for role, path in files.items():
        mine, told = [row for row in every if roles[row["chain"]] == role], load_rows(path)
        if list(map(_fed, mine)) != list(map(_fed, told)):
            raise UsageError(f"the rows of {path} are not those of the role {role} in {export}. {again}")
        found[role] = told
    return found


def _fed(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row but for its place in the file."""
    return {name: value for name, value in row.items() if name != "order"}


COURSE = "course.jsonl"
EXPORT = "trails genome export FILE --format trails -o FOLDER --overwrite"


def role_files(export: Path) -> dict[str, Path]:
    """The files of the roles of a course, by role; ``course.jsonl`` beside ``export`` says which it has. Raises UsageError
    where that is missing or names no role, where the file of a role is missing, and where there is one of another role.
    """
    from trails.genome.model import ROLES

    course = export.with_name(COURSE)
    if not course.is_file():
        raise UsageError(
            f"there is no {course}, so {export} is not the file of a whole course: its export was interrupted, or it is no "
            f"course. Run: {EXPORT}"
        )
    try:
        has = {json.loads(line)["role"] for _, line in text_lines(course)} - {""}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{course} is no list of a course's rows ({error!r}). Run: {EXPORT}") from None
    files = {role: export.with_name(f"{export.stem}.{role}{export.suffix}") for role in ROLES}
    if not has:
        raise UsageError(
            f"there is no file of a role beside {export}: the course has no roles. Give its genome roles, and run: {EXPORT}"
        )
    for role, path in files.items():
        if path.is_file() != (role in has):
            what = (
                f"there is no file of a role beside {export} that it has: {path}"
                if role in has
                else (f"{path} is not of this course, which has {' and '.join(r for r in ROLES if r in has)}")
            )
            raise UsageError(f"{what}. Write the course again: {EXPORT}")
    return {role: path for role, path in files.items() if role in has}


def route_rows(
    settings: Settings,
    adapters: Path,
    export: Path,
    *,
    trained: Path | None = None,
    force: bool = False,
    on_stage: Callable[[str], None] = lambda _: None,
) -> Routed:
    """Send the rows of a course, by role, to the adapters of :func:`train_roles`; see :mod:`trails.evaluate.routes`.

    Chains of ``trained``, the export that was trained on, are left out. Raises UsageError where nothing is left, for adapters
    of another export than ``trained``, and for rows of other weights than the model's (unless ``force``).
    """
    from trails.evaluate.groups import check_export, exported_chains
    from trails.evaluate.routes import folders_of, routes_of
    from trails.train.check import check_base, check_model, read_json

    head, all_rows, folders = export_head(export), role_rows(export), folders_of(adapters)
    if trained is not None:
        check_export(trained, [folders.one])
    known = exported_chains(trained) if trained is not None else set()
    identity = (read_json(folders.one / "train.json") or {}).get("identity", {})
    rows = {role: [row for row in of if row["chain"] not in known] for role, of in all_rows.items()}
    gone = {row["chain"] for of in all_rows.values() for row in of} & known
    on_stage(f"loading {settings.model or 'the model of the rows'}")
    scorer = _scorer(settings, export)
    check_model(head, scorer.run, force=force)
    for folder in (*folders.roles.values(), folders.one):
        check_base(folder, scorer.run)
    return routes_of(
        rows,
        scorer.model.module,
        folders,
        left_out=len(gone) if trained is not None else None,
        trained=identity.get("export") == head.digest,
    )


def _run_of(settings: Settings, name: str) -> Run | None:
    """The run of an export, where the home exists and knows it."""
    if not (settings.home / "trails.json").is_file():
        return None
    with TraceStore(settings.home) as traces:
        return traces.runs().get(name)


def _teachers(settings: Settings, run: str) -> dict[str, TeacherMap]:
    from trails.pipeline.opened import OpenHome
    from trails.train.attention import teacher_map

    with OpenHome(settings.home) as home:
        return {trace.chain.id: teacher_map(trace) for trace in home.traces(home.run(run).id)}
