"""Runs experiments: the plan, then one line per (arm, seed) as it is done, then the reports. What is done is not run again.

``results.jsonl`` holds, per experiment, the registered plan and after it the results. Several processes may work at once; each
holds one model and takes one seed of one experiment at a time.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

from trails.errors import TrailsError, UsageError
from trails.experiments import named
from trails.experiments.base import (
    DEVELOPMENT_SEEDS,
    SCALES,
    Experiment,
    Metrics,
    Record,
    Scale,
    Verdict,
    by_seed,
    check_plan,
    judge,
    plan_hash,
    smallest_effect,
)
from trails.experiments.bench import Bench, TimeUpError
from trails.experiments.corpus import Corpus, load_corpus
from trails.experiments.criteria import difference
from trails.experiments.rates import rate_scores
from trails.experiments.report import markdown
from trails.store.outputs import check_output

logger = logging.getLogger(__name__)

RESULTS = "results.jsonl"


Mode = Literal["run", "develop", "register"]


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run. ``device`` is one device or several of one kind, joined by commas; the processes are assigned to them in
    turn. ``jobs`` is the number of processes on all of them (0 = 1 on a CPU, up to 6 a GPU). ``minutes`` is the time
    after which no further arm is begun (0 = no limit). ``scale`` is a name of :data:`SCALES`. ``seeds`` are run (0 =
    the first planned look). ``mode``: ``develop`` tries the learning rates on the development seeds, ``register``
    writes the plan and ends, ``run`` does both where they are missing and then the seeds. ``resume`` demands a plan
    that is registered already. ``members`` are further models, for the experiments that compare several.
    """

    model: str = ""
    device: str = "auto"
    seeds: int = 0
    jobs: int = 0
    minutes: float = 0.0
    scale: str = "full"
    trained: str = ""
    unseen: str = ""
    unrelated: tuple[str, ...] = ()
    mode: Mode = "run"
    resume: bool = False
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one experiment: its report, the number of complete seeds, its verdicts, and why it could not run."""

    name: str
    report: Path | None
    seeds: int
    verdicts: tuple[Verdict, ...] = ()
    refused: str = ""
    plan: str = ""


def run_experiments(
    name: str,
    data: Sequence[Path],
    out: Path,
    options: RunOptions | None = None,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> list[Outcome]:
    """Run the experiment ``name`` (a name, a number, several joined by commas, or ``all``) on the chains in ``data``;
    results and reports go to ``out``.

    ``note`` is told what is done. Raises UsageError for an experiment, a scale or a source that does not exist, for a plan
    that breaks a rule, and for an ``out`` that holds results of another plan.
    """
    options = options or RunOptions()
    check_output(out)
    chosen = named(name)
    if options.scale not in SCALES:
        raise UsageError(f"scale {options.scale!r} does not exist. Scales: {', '.join(SCALES)}.")
    scale = SCALES[options.scale]
    path = out / RESULTS
    before = read_results(path)
    for experiment in chosen:
        most = experiment.looks[-1]
        if options.seeds > most:
            raise UsageError(f"--seeds {options.seeds}: the plan of {experiment.name} ends at {most} seeds")
        if options.resume and experiment.name not in before:
            raise UsageError(f"{path} holds no plan of {experiment.name} to go on with. Run it without --resume")
    corpus = load_corpus(data, trained=options.trained, unseen=options.unseen, unrelated=options.unrelated)
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.time() + 60 * options.minutes if options.minutes else 0.0
    devices = devices_of(options.device)
    jobs = options.jobs or _jobs(devices)
    if len(devices) > jobs:
        raise UsageError(f"--jobs {jobs}: {len(devices)} devices need as many processes or more")
    given = tuple(str(one) for one in data)
    workers = _Workers(jobs, devices, options, given, out, corpus, deadline)
    refused: dict[str, str] = {}
    plans: dict[str, Mapping[str, Any]] = {name: found.plan for name, found in before.items()}
    try:
        circumstances = workers.about() | {
            "scale": asdict(scale),
            "data": corpus.digest,
            "chains": {source: len(items) for source, items in corpus.families.items()},
            "roles": {
                "trained": corpus.roles.trained,
                "unseen": corpus.roles.unseen,
                "unrelated": list(corpus.roles.unrelated),
            },
        }
        device = circumstances.pop("hardware")

        def work(tasks: Sequence[Task]) -> None:
            for task, error in workers.run(tasks):
                told = f"{task.experiment}, {'development ' if task.development else ''}seed {task.seed}"
                if error == _TIME_UP:
                    note(f"{told}: time is up, the rest is left for the next call")
                elif error:
                    refused[task.experiment] = error
                    note(f"{told}: {error}")
                else:
                    note(f"{told}: done")

        fixed = [e for e in chosen if len(e.rates) > 1 and scale.name == "full"]  # of one rate nothing is to be chosen
        work([task for e in fixed if e.name not in before for task in _development(e, path, device)])
        if options.mode != "develop":
            for experiment in chosen:
                if experiment.name in refused:
                    continue
                if experiment.name in before:
                    _same_plan(path, experiment, before[experiment.name].plan, circumstances)
                    continue
                try:
                    rates = chosen_rates(experiment, path) if experiment in fixed else _middle(experiment)
                    seeds = range(experiment.looks[-1] if scale.name == "full" else max(options.seeds, 2))
                    realised = dict(zip(map(str, seeds), workers.prepare(experiment.name, seeds), strict=True))
                    plan = _rounded(experiment.plan(circumstances, realised, rates))
                    check_plan(experiment, plan)
                except UsageError as error:
                    refused[experiment.name] = str(error)
                    continue
                plans[experiment.name] = plan
                append(path, {"experiment": experiment.name, "sha": plan_hash(plan), "plan": plan})
        if options.mode == "run":
            ready = [e for e in chosen if e.name in plans and e.name not in refused]
            tasks = []
            for seed in range(max((e.looks[-1] for e in ready), default=0)):
                for experiment in ready:
                    plan = plans[experiment.name]
                    if seed >= (options.seeds or (experiment.looks[0] if scale.name == "full" else 2)):
                        continue
                    done = {(r["arm"], r["seed"]) for r in stored(path, experiment.name)}
                    missing = tuple(arm.name for arm in experiment.arms if (arm.name, seed) not in done)
                    if missing:
                        fixed_rates = tuple(plan["learning rates"].items())
                        known = json.dumps(plan["seeds"][str(seed)], sort_keys=True)
                        tasks.append(
                            Task(experiment.name, seed, missing, str(path), plan_hash(plan), fixed_rates, known, device)
                        )
            work(tasks)
    finally:
        workers.close()
    outcomes = []
    for experiment in chosen:
        reason = refused.get(experiment.name, "")
        digest = plan_hash(plans[experiment.name]) if experiment.name in plans else ""
        if options.mode != "run" or not digest:
            outcomes.append(Outcome(experiment.name, None, 0, refused=reason, plan=digest))
            continue
        found = read_results(path)[experiment.name]
        report = out / f"{experiment.name}.md"
        tried = development(path, experiment.name)
        report.write_text(markdown(experiment, found.rows, found.plan, digest, tried), encoding="utf-8")
        verdicts = judge(experiment, found.rows, scale.name)
        complete = len(by_seed(experiment, found.rows))
        outcomes.append(Outcome(experiment.name, report, complete, verdicts, reason, digest))
    if len(chosen) == 1 and outcomes[0].refused and not outcomes[0].seeds:
        raise UsageError(outcomes[0].refused)
    return outcomes


def power(name: str, out: Path, options: RunOptions | None = None) -> list[tuple[str, str, str, str, str, str]]:
    """(experiment, claim, criterion, smallest effect, δ, cost) of every criterion, before anything is run.

    The smallest effect is the one found with 80 % probability at the planned number of seeds, in standard deviations of the
    paired difference; in the metric's own unit where ``out`` holds rows or development rows of these arms. The cost is that of
    the rows there, in minutes of their device, scaled to the planned seeds.
    """
    path = out / RESULTS
    rows: list[tuple[str, str, str, str, str, str]] = []
    for experiment in named(name):
        seeds = experiment.looks[0]
        effect = smallest_effect(seeds, experiment.level)
        tried = development(path, experiment.name)
        real = stored(path, experiment.name)
        spent = [float(r["seconds"]) for r in (real or tried)]
        per_arm = sum(spent) / len(spent) if spent else math.nan
        cost = (
            f"{per_arm * len(experiment.arms) * seeds / 60:.1f} min for {seeds} seeds" if spent else "not measured yet"
        )
        known: dict[tuple[float, int], dict[str, Metrics]] = {}
        for rate in sorted({r["rate"] for r in tried}):
            of = [r for r in tried if r["rate"] == rate]
            known |= {(rate, seed): metrics for seed, metrics in by_seed(experiment, of).items()}
        done = by_seed(experiment, real)
        for claim in experiment.claims:
            for criterion in claim.criteria:
                groups: dict[float, list[float]] = {}
                for (rate, _), metrics in known.items():
                    groups.setdefault(rate, []).append(difference(criterion, metrics))
                values = [difference(criterion, metrics) for metrics in done.values()]
                groups = {0.0: values} if len(values) > 1 else groups
                spread = [v - sum(g) / len(g) for g in groups.values() for v in g if len(g) > 1]
                free = len(spread) - sum(len(g) > 1 for g in groups.values())
                sd = math.sqrt(sum(v * v for v in spread) / free) if free > 0 else math.nan
                told = f"{effect:.2f} sd" + (f" = {effect * sd:.4f}" if math.isfinite(sd) else "")
                what = f"{criterion.contrast} ({criterion.kind})"
                rows.append((experiment.name, claim.name, what, told, f"{criterion.delta:g}", cost))
    return rows


def _middle(experiment: Experiment) -> dict[str, float]:
    """The middle or only rate for every arm, where nothing is developed; none for an experiment that trains nothing."""
    if not experiment.trained:
        return {}
    rates = experiment.rates or (1e-3,)
    return dict.fromkeys(experiment.trained, rates[len(rates) // 2])


def chosen_rates(experiment: Experiment, path: Path) -> dict[str, float]:
    """Each arm's learning rate: the lowest mean of the development metric over the development seeds. Raises UsageError where
    rows are missing.
    """
    rows = development(path, experiment.name)
    scores = rate_scores(experiment, rows)
    found = {}
    for arm in experiment.trained:
        if arm in experiment.rate_of:
            continue
        tried = {rate: scores[arm, rate] for rate in experiment.rates if (arm, rate) in scores}
        if len(tried) < len(experiment.rates):
            raise UsageError(
                f"experiment {experiment.name} has development rows for {len(tried)} of the {len(experiment.rates)} "
                f"rates of arm {arm!r}. Run: trails experiment {experiment.name} --develop"
            )
        found[arm] = min(tried, key=lambda rate: tried[rate])
    return found | {arm: found[other] for arm, other in experiment.rate_of.items()}


def _development(experiment: Experiment, path: Path, device: str) -> list[Task]:
    done = {(r["arm"], r["seed"], r["rate"]) for r in development(path, experiment.name)}
    tasks = []
    for seed in DEVELOPMENT_SEEDS:
        for rate in experiment.rates:
            missing = tuple(arm.name for arm in experiment.arms if (arm.name, seed, rate) not in done)
            if missing:
                rates = tuple((arm, rate) for arm in experiment.trained)
                tasks.append(Task(experiment.name, seed, missing, str(path), "", rates, "", device, development=True))
    return tasks


def _same_plan(path: Path, experiment: Experiment, plan: Mapping[str, Any], circumstances: Mapping[str, Any]) -> None:
    """Raises UsageError unless the registered plan is what would be registered now; the seeds are compared as they are run."""
    now = _rounded(experiment.plan(circumstances, plan["seeds"], plan["learning rates"]))
    apart = [key for key in {**now, **plan} if now.get(key) != plan.get(key)]
    if apart:
        told = "; ".join(
            f"{key} was {str(plan.get(key))[:80]}, is {str(now.get(key))[:80]}" for key in sorted(apart)[:3]
        )
        raise UsageError(
            f"{path} holds experiment {experiment.name} with another plan ({plan_hash(plan)}; {told}). Choose another "
            f"folder: "
            "--out FOLDER"
        )


# --- storage ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stored:
    """The registered plan of an experiment and its rows, the first of each (arm, seed)."""

    plan: Mapping[str, Any]
    rows: tuple[Record, ...]


def read_results(path: Path) -> dict[str, Stored]:
    """Plans and rows by experiment. Raises UsageError for rows before their plan, of another plan, or older than it."""
    plans: dict[str, Mapping[str, Any]] = {}
    times: dict[str, float] = {}
    rows: dict[str, dict[tuple[str, int], Record]] = {}
    for number, line in enumerate(_lines(path), 1):
        name = line.get("experiment", "")
        if "plan" in line:
            if name in plans:
                raise UsageError(f"{path}, line {number}: a second plan of experiment {name}")
            plans[name], times[name] = line["plan"], float(line.get("time", 0.0))
            rows[name] = {}
        elif "arm" in line and not line.get("development"):
            if name not in plans:
                raise UsageError(
                    f"{path}, line {number}: a row of {name} before its plan: no verdict can follow from it"
                )
            digest = plan_hash(plans[name])
            if line["plan_sha"] != digest:
                raise UsageError(
                    f"{path}, line {number}: a row of {name} of plan {line['plan_sha']}, registered is {digest}"
                )
            if float(line.get("time", math.inf)) < times[name]:
                raise UsageError(f"{path}, line {number}: a row of {name} is older than its plan")
            rows[name].setdefault((line["arm"], int(line["seed"])), line)
    return {name: Stored(plan, tuple(rows[name].values())) for name, plan in plans.items()}


def development(path: Path, experiment: str) -> list[Record]:
    """Development rows of one experiment, the first of each (arm, seed, rate)."""
    found: dict[tuple[str, int, float], Record] = {}
    for line in _lines(path):
        if line.get("experiment") == experiment and line.get("development"):
            found.setdefault((line["arm"], line["seed"], line["rate"]), line)
    return list(found.values())


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line with its time, whole: writers of several processes wait for each other."""
    line = json.dumps(_rounded({**record, "time": int(time.time())}), ensure_ascii=False, separators=(",", ":")) + "\n"
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def stored(path: Path, experiment: str) -> list[Record]:
    """Results of one experiment, the first of each (arm, seed)."""
    found = read_results(path).get(experiment)
    return list(found.rows) if found else []


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    found = []
    for text in path.read_text(encoding="utf-8").split("\n"):
        try:
            found.append(dict(json.loads(text)))
        except ValueError:
            continue  # the last line of a killed process; its arm is run again
    return found


def _rounded(value: Any) -> Any:
    """What results.jsonl holds: floats to seven digits, NaN and infinities as null."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


# --- work ------------------------------------------------------------------------------------------------------------

_TIME_UP = "\0time is up"


@dataclass(frozen=True, slots=True)
class Task:
    """The missing arms of one seed. ``known`` is what the plan says of the seed, as JSON; ``sha`` the plan's hash."""

    experiment: str
    seed: int
    arms: tuple[str, ...]
    path: str
    sha: str
    rates: tuple[tuple[str, float], ...]
    known: str
    device: str
    development: bool = False


_STATE: dict[str, Any] = {}


def devices_of(device: str) -> tuple[str, ...]:
    """The devices named in ``--device``, in order.

    Raises UsageError for an empty name, a device that is named twice, several that are not all CUDA devices with a number, and
    GPUs of different kinds: rows of one experiment come from one kind of device.
    """
    found = tuple(one.strip() for one in device.split(","))
    if len(found) == 1:
        return found
    if len(set(found)) < len(found) or not all(re.fullmatch(r"cuda:\d+", one) for one in found):
        raise UsageError(f"--device {device}: several devices are named as cuda:0,cuda:1 …, each once")
    import torch

    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    missing = [one for one in found if int(one.partition(":")[2]) >= there]
    if missing:
        raise UsageError(f"--device {device}: {missing[0]} is not there; this machine has {there} CUDA devices")
    kinds = {torch.cuda.get_device_name(one) for one in found}
    if len(kinds) > 1:
        raise UsageError(
            f"--device {device}: the GPUs are of different kinds ({', '.join(sorted(kinds))}). Name those of one kind"
        )
    return found


def _jobs(devices: Sequence[str]) -> int:
    import torch

    if devices[0].startswith("cuda") or (devices[0] == "auto" and torch.cuda.is_available()):
        # a process takes up to 27 GB, 15 GB on average
        return max(len(devices), min(6 * len(devices), (os.cpu_count() or 2) // 2))
    return 1


def _start(
    options: RunOptions,
    data: tuple[str, ...],
    out: Path,
    jobs: int,
    deadline: float,
    scale: Scale,
    corpus: Corpus | None = None,
    devices: Any = None,
) -> None:
    """Open the model in this process; ``devices`` is a queue with the device of every process."""
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else 0
    try:
        bench = Bench(
            options.model,
            device=devices.get() if devices is not None else options.device,
            threads=threads,
            deadline=deadline,
            folder=out,
            members=options.members,
        )
        _STATE["bench"] = bench
    except TrailsError as error:  # an initialiser that raises would break the pool without a word
        _STATE["error"] = error
        return
    _STATE["corpus"] = corpus or load_corpus(
        [Path(path) for path in data],
        trained=options.trained,
        unseen=options.unseen,
        unrelated=options.unrelated,
    )
    _STATE["scale"] = scale


def _about() -> dict[str, Any]:
    if "error" in _STATE:
        raise _STATE["error"]
    bench: Bench = _STATE["bench"]
    others = [{"name": one.run.model, "revision": one.run.revision} for one in bench.others()]
    return ({"members": others} if others else {}) | {
        "model": {"name": bench.run.model, "revision": bench.run.revision},
        "layers": bench.layers,
        "parameters": sum(p.numel() for p in bench.model.parameters()),
        "hardware": bench.hardware,
        "precision": f"{bench.run.dtype}, {'TF32 matrix products' if bench.cuda else 'exact matrix products'}",
    }


def _prepare(name: str, seed: int) -> dict[str, Any] | str:
    """What the plan says of one seed, or why it cannot be."""
    if "error" in _STATE:
        raise _STATE["error"]
    try:
        (experiment,) = named(name)
        return experiment.prepare(_STATE["bench"], _STATE["corpus"], _STATE["scale"], seed).realised()
    except UsageError as error:
        return str(error)


def _work(task: Task) -> str:
    """Run the missing arms of one seed; an empty string, or why not."""
    bench: Bench = _STATE["bench"]
    scale: Scale = _STATE["scale"]
    (experiment,) = named(task.experiment)
    began = time.monotonic()
    rates = dict(task.rates)

    def emit(arm: str, metrics: Metrics, extra: Mapping[str, Any]) -> None:
        nonlocal began
        now = time.monotonic()
        record: dict[str, Any] = {"experiment": task.experiment, "arm": arm, "seed": task.seed, "device": task.device}
        record |= {"development": True} if task.development else {"plan_sha": task.sha}
        # arms without a rate of their own are developed beside each rate that is tried
        rate = rates.get(arm, next(iter(rates.values()), 0.0) if task.development else 0.0)
        record |= {"rate": rate, "seconds": round(now - began, 3)}
        append(Path(task.path), {**record, "metrics": metrics, **extra})
        began = now

    try:
        bench.check_time()
        prepared = experiment.prepare(bench, _STATE["corpus"], scale, task.seed)
        if task.known and json.dumps(_rounded(prepared.realised()), sort_keys=True) != task.known:
            return (
                f"seed {task.seed} would be fed or measured with other rows than its plan says. Scores that are kept beside "
                "the rows (*.npy) must be those with which it was registered"
            )
        experiment.run(bench, prepared, scale, task.seed, task.arms, rates, emit)
    except TimeUpError:
        return _TIME_UP
    except UsageError as error:
        return str(error)
    except Exception as error:  # one seed of one experiment must not take the others with it
        logger.exception("experiment %s, seed %d", task.experiment, task.seed)
        return f"failed with {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    finally:
        bench.free()
    return ""


class _Workers:
    """One process, or a pool of them, that hold the model."""

    def __init__(
        self,
        jobs: int,
        devices: Sequence[str],
        options: RunOptions,
        data: tuple[str, ...],
        out: Path,
        corpus: Corpus,
        deadline: float,
    ) -> None:
        self._pool: ProcessPoolExecutor | None = None
        if jobs == 1:
            _start(options, data, out, 1, deadline, SCALES[options.scale], corpus)
        else:
            context = get_context("spawn")
            given = context.Queue()
            for number in range(jobs):
                given.put(devices[number % len(devices)])
            self._pool = ProcessPoolExecutor(
                jobs,
                mp_context=context,
                initializer=_start,
                initargs=(options, data, out, jobs, deadline, SCALES[options.scale], None, given),
            )

    def about(self) -> dict[str, Any]:
        """Model and device."""
        return self._pool.submit(_about).result() if self._pool else _about()

    def prepare(self, name: str, seeds: Sequence[int]) -> list[dict[str, Any]]:
        """What the plan of an experiment says of every seed. Raises UsageError for a seed that cannot be."""
        if self._pool is None:
            found = [_prepare(name, seed) for seed in seeds]
        else:
            found = list(self._pool.map(_prepare, [name] * len(seeds), seeds))
        for seed, one in zip(seeds, found, strict=True):
            if isinstance(one, str):
                raise UsageError(f"seed {seed}: {one}")
        return [one for one in found if not isinstance(one, str)]

    def run(self, tasks: Sequence[Task]) -> Any:
        """(task, error) as they end."""
        if self._pool is None:
            for task in tasks:
                yield task, _work(task)
            return
        pending: dict[Future[str], Task] = {self._pool.submit(_work, task): task for task in tasks}
        while pending:
            ended, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in ended:
                yield pending.pop(future), future.result()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        _STATE.clear()


def sentences(outcomes: Sequence[Outcome], experiments: Mapping[str, Experiment]) -> list[tuple[str, str, str, str]]:
    """(experiment, claim, outcome, sentence) of every claim; a refused experiment has its reason as the sentence."""
    rows: list[tuple[str, str, str, str]] = []
    for outcome in outcomes:
        title = experiments[outcome.name].title
        if outcome.verdicts:
            rows += [(title, v.claim.name, v.outcome, v.sentence) for v in outcome.verdicts]
        else:
            rows.append(
                (
                    title,
                    "",
                    "not run",
                    outcome.refused or (f"plan {outcome.plan} is registered" if outcome.plan else "nothing was run"),
                )
            )
    return rows
