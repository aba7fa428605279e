"""An export and the home it came from → a trained adapter: the model is that of the run which measured the export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trails.config import Settings
from trails.errors import UsageError
from trails.schema import Run
from trails.store.traces import TraceStore
from trails.train.check import check_output, export_head
from trails.train.options import TrainOptions, TrainReport, check_options

if TYPE_CHECKING:
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
) -> TrainReport:
    """Train an adapter on an export, as ``trails train`` does; what can be checked is checked before the model is loaded.

    Without a model in the settings that of the export's run is taken, where the home knows the run. ``teacher`` names the run
    whose attention maps are learnt. ``on_step`` is told step, number of steps and loss. Raises UsageError for an export of
    other weights (unless ``force``), for wrong options and for a folder that holds something else.
    """
    check_options(options)
    head = export_head(export)
    check_output(output, head, overwrite=overwrite)
    known = _run_of(settings, head.run)
    if teacher and not options.objective == "attention":
        raise UsageError(
            "--teacher names maps for the objective attention. Add --objective attention, or leave it out."
        )
    if options.objective == "attention" and not teacher:
        raise UsageError("the objective 'attention' needs stored maps. Give the run that holds them: --teacher RUN.")
    name = settings.model or (known.model if known else "")
    if name == "uniform":
        raise UsageError("the uniform scorer cannot be trained. Give a model with --model.")
    teachers = _teachers(settings, teacher) if teacher else None

    from trails.measure import open_scorer
    from trails.train import train

    on_stage(f"loading {name or 'the packaged model'}")
    hub = known is not None and not settings.model and len(known.revision) == 40
    scorer: Any = open_scorer(
        name,
        device=settings.device,
        dtype=settings.dtype,
        revision=known.revision if hub and known is not None else None,
    )
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
    )


def _run_of(settings: Settings, name: str) -> Run | None:
    """The run of an export, where the home exists and knows it."""
    if not (settings.home / "trails.json").is_file():
        return None
    with TraceStore(settings.home) as traces:
        return traces.runs().get(name)


def _teachers(settings: Settings, run: str) -> dict[str, TeacherMap]:
    from trails.pipeline.home import Home
    from trails.train.attention import teacher_map

    with Home(settings.home) as home:
        return {trace.chain.id: teacher_map(trace) for trace in home.traces(home.run(run).id)}
