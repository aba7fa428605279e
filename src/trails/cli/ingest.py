"""trails ingest"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from trails.cli.common import (
    BarProgress,
    device_option,
    err,
    home_option,
    json_option,
    model_option,
    print_json,
    settings_from,
    store_option,
)
from trails.errors import UsageError
from trails.platform.text import counted

if TYPE_CHECKING:
    from trails.config import Settings
    from trails.measure.base import Scorer
    from trails.pipeline import IngestOptions
    from trails.pipeline.consilium import Taking
    from trails.pipeline.many import Pool


def _target(_: click.Context, __: click.Parameter, value: str | None) -> str:
    from trails.measure.targets import kind_of

    if value:
        kind_of(value)
    return value or ""


@click.command("ingest", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--sample",
    is_flag=False,
    flag_value="small",
    type=click.Choice(["small", "canonical"]),
    help="Ingest packaged chains: small (the default, real chains in English and Russian, long and short) or canonical (100 "
    "families of if, then, but, however, conclusion in seven versions each).",
)
@click.option(
    "--keep-source-steps",
    is_flag=True,
    help="Keep the source's own steps (a line, a premise) whole, even if one contains a connective.",
)
@click.option("--reader", help="Name of the reader; by default the first that recognises the input.")
@click.option(
    "--field",
    "fields",
    multiple=True,
    metavar="PART=FIELD",
    help="Take a part (question, chain, answer, id, language) from this field, e.g. chain=steps[].text; takes "
    "precedence over every reader.",
)
@click.option(
    "--family",
    default="",
    metavar="FIELD",
    help="Field that names a chain's family: the thing of which the chain is a version.",
)
@click.option(
    "--think-marks",
    "marks",
    multiple=True,
    nargs=2,
    metavar="OPEN CLOSE",
    help="Further marks around a thought, in addition to the usual ones.",
)
@click.option(
    "--source", default="", help="Name of the data set, part of the chains' identity (default: the file's name)."
)
@click.option("--licence", default="", help="Licence of the text, if the data do not name one.")
@click.option("--limit", type=click.IntRange(min=1), help="Read this many chains and stop.")
@click.option(
    "--bad-tolerance",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Stop only after more bad records than this; those before are left out.",
)
@click.option(
    "--report-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File for the bad records and why each is bad, one JSON line each.",
)
@click.option(
    "--max-record-bytes",
    type=click.IntRange(min=1),
    default=16_000_000,
    show_default=True,
    help="Refuse a record that is longer than this many bytes.",
)
@click.option("--encoding", default="utf-8", show_default=True, help="Character encoding of text and JSON files.")
@click.option(
    "--separator",
    type=click.Choice(["auto", "paragraph", "heading", "line", "file"]),
    default="auto",
    show_default=True,
    help="Where a text file is divided into chains.",
)
@click.option("--dry-run", is_flag=True, help="Read and segment; measure and write nothing.")
@model_option
@click.option(
    "--models",
    default="",
    help="Several models, separated by commas, measured one after another; if one fails, the others are kept.",
)
@click.option("--revision", help="Revision of the model (a commit); needed with --trust-remote-code.")
@click.option(
    "--adapter",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of a PEFT adapter to measure the model with.",
)
@click.option("--trust-remote-code", is_flag=True, help="Run the model repository's own code; needs --revision.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), help="Number format of the forward pass."
)
@click.option(
    "--attention",
    type=click.Choice(["sdpa", "eager"]),
    default="sdpa",
    show_default=True,
    help="How attention is computed: the fused path, or the model's own layer by layer (slow reference).",
)
@click.option(
    "--compile",
    type=click.Choice(["auto", "on", "off"]),
    default="auto",
    show_default=True,
    help="Compile the model's layers: on a GPU when it pays, from the first chain, or never.",
)
@device_option
@click.option(
    "--bos",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    help="Beginning-of-sequence token: as the tokenizer does, always, or never.",
)
@click.option(
    "--template",
    type=click.Choice(["plain", "chat"]),
    default="plain",
    show_default=True,
    help="Put the question before the chain as plain text, or inside the model's chat template.",
)
@click.option("--think", is_flag=True, help="With --template chat: open a thought where the template does not.")
@click.option(
    "--control-tokens",
    type=click.Choice(["token", "text", "refuse"]),
    default="token",
    show_default=True,
    help="If a text contains the name of a control token: take it for the token, read it as text, or refuse the chain.",
)
@click.option(
    "--window",
    type=click.Choice(["refuse", "stride"]),
    default="refuse",
    show_default=True,
    help="If a chain is longer than the model's window: refuse it, or measure it in overlapping windows.",
)
@click.option(
    "--batch-tokens",
    type=click.IntRange(min=0),
    default=0,
    help="Most tokens of one forward pass, padding included (0: chosen by device).",
)
@click.option("--token-attention", is_flag=True, help="Also store which earlier step every token attends to most.")
@click.option(
    "--peaks",
    type=click.IntRange(0, 1000),
    default=0,
    help="Also store this many earlier tokens that every token attends to most (slow).",
)
@click.option(
    "--premises", is_flag=True, help="Also measure every step without the step before it, and with the question only."
)
@click.option(
    "--states", metavar="LAYERS", help="Also store the mean hidden state of every step at these layers, e.g. 16,30."
)
@click.option(
    "--top-k",
    type=click.IntRange(0, 1000),
    metavar="N",
    help="Store the N vocabulary items that the model held most likely at every token, 0 for none (default: 5 of every chain "
    "measured now). A number given here is also added to chains measured before.",
)
@click.option(
    "--gradients",
    metavar="TARGET",
    callback=_target,
    help="Also store the gradient effect of every token on a target: conclusion, answer, or a token's position; with the real "
    "effect of replacing tokens as the control (slow).",
)
@click.option(
    "--per-layer",
    is_flag=True,
    help="Put an array with a value per layer on token transitions in the graph (about 7x larger).",
)
@click.option(
    "--graph",
    type=click.Choice(["during", "after", "none"]),
    help="When to load the graph: during the measuring, after it, or not at all (trails rebuild loads it at any "
    "time). The default is during; with workers, after.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Measure in N processes of this machine, assigned to its GPUs in turn; with --ray in N actors of the cluster.",
)
@click.option(
    "--ray",
    default="",
    metavar="ADDRESS",
    help="Measure in the Ray cluster at this address (auto, HOST:PORT, local) with --workers N; needs trails[ray].",
)
@click.option(
    "--through",
    default="",
    metavar="PLACE",
    help="Folder or address (s3://…) that all workers can reach, where shards wait until the home takes them.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Stop a worker that has not answered for this long, and give its block to another (default: 1800).",
)
@home_option
@store_option
@json_option
def command(
    paths: tuple[Path, ...],
    sample: str | None,
    keep_source_steps: bool,
    reader: str | None,
    fields: tuple[str, ...],
    family: str,
    marks: tuple[tuple[str, str], ...],
    source: str,
    licence: str,
    limit: int | None,
    bad_tolerance: int,
    report_file: Path | None,
    max_record_bytes: int,
    encoding: str,
    separator: Literal["auto", "paragraph", "heading", "line", "file"],
    dry_run: bool,
    model: str | None,
    models: str,
    revision: str | None,
    adapter: Path | None,
    trust_remote_code: bool,
    dtype: str | None,
    attention: str,
    compile: Literal["auto", "on", "off"],
    device: str | None,
    bos: str,
    template: str,
    think: bool,
    control_tokens: str,
    window: str,
    batch_tokens: int,
    token_attention: bool,
    peaks: int,
    premises: bool,
    states: str | None,
    top_k: int | None,
    gradients: str,
    per_layer: bool,
    graph: Literal["during", "after", "none"] | None,
    workers: int | None,
    ray: str,
    through: str,
    patience: float | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Read chains, measure them, write shards, load the graph.

    PATHS are files or folders; - is standard input. Repeat the command to go on where it stopped; nothing is
    measured twice.

    \b
    trails ingest chains.jsonl
    trails ingest data/ --field question=prompt --field chain=response --limit 100
    cat notes.md | trails ingest -
    trails ingest chains.jsonl --models ./base,./tuned,Qwen/Qwen3-0.6B
    trails ingest chains.jsonl --workers 4 --graph after
    """
    from trails.measure.base import MeasureOptions
    from trails.measure.remembered import remembered
    from trails.pipeline import IngestOptions, ingest, parse_layers, scorer_from, summary_lines
    from trails.readers import ReadOptions, parse_fields

    inputs = list(paths)
    if sample:
        from trails.sample import canonical_path, path

        inputs.append(canonical_path() if sample == "canonical" else path())
    if not inputs:
        raise UsageError("nothing to ingest. Give files or folders, - for standard input, or --sample.")
    settings = settings_from(home=home, model=model, device=device, dtype=dtype, store=store)
    options = IngestOptions(
        reader=reader,
        read=ReadOptions(
            fields=parse_fields(fields),
            limit=limit,
            bad_tolerance=bad_tolerance,
            hint="To go on past bad records: --bad-tolerance N.",
            report_file=report_file,
            max_record_bytes=max_record_bytes,
            encoding=encoding,
            separator=separator,
            source=source,
            licence=licence,
            family=family,
            marks=marks,
        ),
        measure=MeasureOptions(batch_tokens, token_attention, peaks, premises, parse_layers(states), top_k, gradients),
        dry_run=dry_run,
        keep_source_steps=keep_source_steps,
        per_layer=per_layer,
        graph=graph,
    )

    instrument: dict[str, Any] = {
        "revision": revision,
        "adapter": adapter,
        "trust_remote_code": trust_remote_code,
        "attention": attention,
        "bos": bos,
        "template": template,
        "think": think,
        "control_tokens": control_tokens,
        "window": window,
    }

    if workers is None and (given := [name for name, value in (("--ray", ray), ("--through", through)) if value]):
        raise UsageError(f"{given[0]} belongs to --workers N, which was not given.")
    if workers is None and patience is not None:
        raise UsageError("--patience belongs to --workers N, which was not given.")
    if workers is not None and models:
        raise UsageError("--workers and --models were both given. Ingest with one model after another: --model NAME.")

    def scorer(own: Settings) -> Scorer:
        return scorer_from(own, compile=compile, **instrument)  # no part of the run's identity

    def known(own: Settings) -> str:
        return "" if dry_run else remembered(own.model, {"dtype": own.dtype, **instrument})

    members = [name.strip() for name in models.split(",")] if models else []
    if not all(members):
        raise UsageError(
            f"--models {models!r} has an empty name between its commas. Name every model, as in --models A,B."
        )
    if members:
        if model:
            raise UsageError("--model and --models were both given. Name every member in --models.")
        _consilium(inputs, settings, options, members, scorer, known, as_json=as_json)
        return
    if settings.model == "uniform":
        _refuse_options_of_a_model()
    with BarProgress(quiet=as_json) as progress:
        summary = ingest(
            inputs,
            settings,
            options,
            make_scorer=lambda: scorer(settings),
            known_run=known(settings),
            pool=_pool(workers, ray, through, patience, instrument | {"compile": compile}),
            progress=progress,
        )
    if as_json:
        print_json(summary.record())
        return
    for line in summary_lines(summary):
        err.print(line)


def _refuse_options_of_a_model() -> None:
    """Raises UsageError for options of this command line that the uniform scorer cannot follow."""
    context = click.get_current_context()
    names = ("bos", "template", "think", "control_tokens", "window", "attention", "revision", "trust_remote_code")
    given = [name for name in names if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE]
    if given:
        said = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(
            f"the uniform scorer runs no model and sees no context, so {said} would change nothing. Leave {said} out, or name "
            "a model with --model."
        )


def _pool(
    workers: int | None, ray: str, through: str, patience: float | None, instrument: dict[str, Any]
) -> Pool | None:
    """Who measures, if not this process."""
    if workers is None:
        return None
    from trails.pipeline.many import PATIENCE_S, Pool

    return Pool(workers, ray, through, patience or PATIENCE_S, instrument)


def _consilium(
    inputs: Sequence[Path],
    settings: Settings,
    options: IngestOptions,
    models: Sequence[str],
    make_scorer: Callable[[Settings], Scorer],
    known_run: Callable[[Settings], str],
    *,
    as_json: bool,
) -> None:
    """Ingest with every model; a member that failed ends the command with its exit code, after the others are measured."""
    from trails.pipeline.consilium import ingest_many

    with BarProgress(quiet=as_json) as progress:
        found = ingest_many(inputs, settings, options, models, make_scorer, known_run=known_run, progress=progress)
    tell_members(found, as_json=as_json)


def tell_members(found: Sequence[Taking], *, as_json: bool, quiet: bool = False) -> None:
    """What became of every member, unless ``quiet``. Raises the error of the first that failed, after all are told."""
    from trails.pipeline.measuring import summary_lines

    failed = [one for one in found if one.error is not None]
    if as_json and not quiet:
        print_json(
            [
                {"model": one.model, "error": str(one.error) if one.error else None}
                | (one.summary.record() if one.summary else {})
                for one in found
            ]
        )
    elif not quiet:
        for one in found:
            err.print(f"member      {one.model}{'' if one.summary else ': failed'}")
            for line in summary_lines(one.summary) if one.summary else ():
                err.print(line)
    if failed and failed[0].error is not None:
        names = ", ".join(one.model for one in failed)
        first = failed[0].error
        raise type(first)(
            f"{len(failed):,} of {counted(len(found), 'member')} failed ({names})"
            + (
                ", the others are kept; the same command again measures only what is missing"
                if len(failed) < len(found)
                else ": nothing was measured"
            )
            + f". {failed[0].model}: {first}"
        )
