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
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from trails.errors import TrailsError, UsageError
from trails.experiments import named
from trails.experiments.base import SCALES, Experiment, Metrics, Record, Scale, Verdict, by_seed, judge, plan_hash
from trails.experiments.bench import Bench, TimeUpError
from trails.experiments.corpus import Corpus, load_corpus
from trails.experiments.report import markdown

logger = logging.getLogger(__name__)

RESULTS = "results.jsonl"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to run. ``jobs`` processes on one device (0 = 1 on a CPU, up to 6 on a GPU). ``minutes`` is the time after which no
    further arm is begun (0 = no limit). ``scale`` is a name of :data:`SCALES`.
    """

    model: str = ""
    device: str = "auto"
    seeds: int = 5
    jobs: int = 0
    minutes: float = 0.0
    scale: str = "full"
    trained: str = ""
    unseen: str = ""
    unrelated: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one experiment: its report, the number of complete seeds, its verdicts, and why it could not run."""

    name: str
    report: Path | None
    seeds: int
    verdicts: tuple[Verdict, ...] = ()
    refused: str = ""


def run_experiments(
    name: str,
    data: Sequence[Path],
    out: Path,
    options: RunOptions | None = None,
    *,
    note: Callable[[str], None] = lambda _: None,
) -> list[Outcome]:
    """Run the experiment ``name`` (a name, a number or ``all``) on the chains in ``data``; results and reports go to ``out``.

    ``note`` is told what is done. Raises UsageError for an experiment, a scale or a source that does not exist, and for an
    ``out`` that holds results of another plan.
    """
    options = options or RunOptions()
    chosen = named(name)
    if options.scale not in SCALES:
        raise UsageError(f"scale {options.scale!r} does not exist. Scales: {', '.join(SCALES)}.")
    if options.seeds < 2:
        raise UsageError(f"--seeds {options.seeds}: at least 2 seeds are needed for an interval.")
    scale = SCALES[options.scale]
    corpus = load_corpus(data, trained=options.trained, unseen=options.unseen, unrelated=options.unrelated)
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.time() + 60 * options.minutes if options.minutes else 0.0
    jobs = options.jobs or _jobs(options.device)
    given = tuple(str(path) for path in data)
    workers = _Workers(jobs, options, given, corpus, deadline)
    refused: dict[str, str] = {}
    try:
        about = workers.about()
        roles = {
            "trained": corpus.roles.trained,
            "unseen": corpus.roles.unseen,
            "unrelated": list(corpus.roles.unrelated),
        }
        sizes = {source: len(items) for source, items in corpus.families.items()}
        circumstances = {
            **about,
            "scale": {
                name: getattr(scale, name) for name in ("name", "max_tokens", "evaluate", "steps", "batch", "size")
            },
            "data": corpus.digest,
            "chains": sizes,
            "roles": roles,
        }
        plans = {experiment.name: experiment.plan(circumstances) for experiment in chosen}
        for experiment in chosen:
            register(out / RESULTS, plans[experiment.name])
        tasks = []
        for seed in range(options.seeds):
            for experiment in chosen:
                done = {(r["arm"], r["seed"]) for r in stored(out / RESULTS, experiment.name)}
                missing = [arm.name for arm in experiment.arms if (arm.name, seed) not in done]
                if missing:
                    tasks.append(
                        (experiment.name, seed, missing, str(out / RESULTS), plan_hash(plans[experiment.name]))
                    )
        for task, error in workers.run(tasks):
            if error == _TIME_UP:
                note(f"{task[0]}, seed {task[1]}: time is up, the rest is left for the next call")
            elif error:
                refused[task[0]] = error
                note(f"{task[0]}, seed {task[1]}: {error}")
            else:
                note(f"{task[0]}, seed {task[1]}: done")
    finally:
        workers.close()
    outcomes = []
    for experiment in chosen:
        records = stored(out / RESULTS, experiment.name)
        complete = len(by_seed(experiment, records))
        if not records and experiment.name in refused:
            outcomes.append(Outcome(experiment.name, None, 0, refused=refused[experiment.name]))
            continue
        plan = plans[experiment.name]
        path = out / f"{experiment.name}.md"
        path.write_text(markdown(experiment, records, plan, plan_hash(plan)), encoding="utf-8")
        verdicts = judge(experiment, records) if complete >= 2 else ()
        outcomes.append(Outcome(experiment.name, path, complete, verdicts, refused.get(experiment.name, "")))
    if len(chosen) == 1 and outcomes[0].refused and not outcomes[0].seeds:
        raise UsageError(outcomes[0].refused)
    return outcomes


# --- storage ---------------------------------------------------------------------------------------------------------


def register(path: Path, plan: Mapping[str, Any]) -> str:
    """Write the plan unless it is there already; its hash. Raises UsageError if results of another plan are there."""
    digest = plan_hash(plan)
    for line in _lines(path):
        if "plan" in line and line["experiment"] == plan["experiment"]:
            if line["sha"] != digest:
                raise UsageError(
                    f"{path} holds experiment {plan['experiment']} with another plan ({line['sha']}; this one is {digest}): "
                    "the data, the model, the scale or the experiment differ. Choose another folder: --out FOLDER"
                )
            return digest
    append(path, {"experiment": plan["experiment"], "sha": digest, "plan": dict(plan)})
    return digest


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Add one line, whole: writers of several processes wait for each other."""
    line = json.dumps(_plain(record), ensure_ascii=False, separators=(",", ":")) + "\n"
    with path.open("a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def stored(path: Path, experiment: str) -> list[Record]:
    """Results of one experiment, the first of each (arm, seed)."""
    found: dict[tuple[str, int], Record] = {}
    for line in _lines(path):
        if line.get("experiment") == experiment and "arm" in line:
            found.setdefault((line["arm"], line["seed"]), line)
    return list(found.values())


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


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 7) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


# --- work ------------------------------------------------------------------------------------------------------------

_TIME_UP = "\0time is up"
Task = tuple[str, int, list[str], str, str]
_STATE: dict[str, Any] = {}


def _jobs(device: str) -> int:
    import torch

    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return max(1, min(6, (os.cpu_count() or 2) // 2))  # a process takes up to 27 GB, 15 GB on average
    return 1


def _start(
    options: RunOptions, data: tuple[str, ...], jobs: int, deadline: float, corpus: Corpus | None = None
) -> None:
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else 0
    try:
        _STATE["bench"] = Bench(options.model, device=options.device, threads=threads, deadline=deadline)
    except TrailsError as error:  # an initialiser that raises would break the pool without a word
        _STATE["error"] = error
        return
    _STATE["corpus"] = corpus or load_corpus(
        [Path(path) for path in data],
        trained=options.trained,
        unseen=options.unseen,
        unrelated=options.unrelated,
    )
    _STATE["scale"] = SCALES[options.scale]


def _about() -> dict[str, Any]:
    if "error" in _STATE:
        raise _STATE["error"]
    bench: Bench = _STATE["bench"]
    return {
        "model": {"name": bench.run.model, "revision": bench.run.revision},
        "layers": bench.layers,
        "parameters": sum(p.numel() for p in bench.model.parameters()),
        "hardware": bench.hardware,
        "precision": f"{bench.run.dtype}, {'TF32 matrix products' if bench.cuda else 'exact matrix products'}",
    }


def _work(task: Task) -> str:
    """Run the missing arms of one seed; an empty string, or why not."""
    name, seed, arms, path, digest = task
    bench: Bench = _STATE["bench"]
    corpus: Corpus = _STATE["corpus"]
    scale: Scale = _STATE["scale"]
    (experiment,) = named(name)
    began = time.monotonic()

    def emit(arm: str, metrics: Metrics, extra: Mapping[str, Any]) -> None:
        nonlocal began
        now = time.monotonic()
        record = {"experiment": name, "plan_sha": digest, "arm": arm, "seed": seed, "seconds": now - began}
        append(Path(path), {**record, "metrics": metrics, **extra})
        began = now

    try:
        bench.check_time()
        experiment.run(bench, corpus, scale, seed, arms, emit)
    except TimeUpError:
        return _TIME_UP
    except UsageError as error:
        return str(error)
    except Exception as error:  # one seed of one experiment must not take the others with it
        logger.exception("experiment %s, seed %d", name, seed)
        return f"failed with {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    finally:
        bench.free()
    return ""


class _Workers:
    """One process, or a pool of them, that hold the model."""

    def __init__(self, jobs: int, options: RunOptions, data: tuple[str, ...], corpus: Corpus, deadline: float) -> None:
        self._pool: ProcessPoolExecutor | None = None
        if jobs == 1:
            _start(options, data, 1, deadline, corpus)
        else:
            self._pool = ProcessPoolExecutor(
                jobs, mp_context=get_context("spawn"), initializer=_start, initargs=(options, data, jobs, deadline)
            )

    def about(self) -> dict[str, Any]:
        """Model and device."""
        return self._pool.submit(_about).result() if self._pool else _about()

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
            rows.append((title, "", "not run", outcome.refused or f"{outcome.seeds} complete seeds, 2 are needed"))
    return rows
