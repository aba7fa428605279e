"""trails genome"""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import click
import numpy as np

from trails.cli.common import (
    device_option,
    echo,
    err,
    home_option,
    json_option,
    model_option,
    print_json,
    print_rows,
    seed_option,
    settings_from,
    stacked,
    store_option,
    with_home,
)
from trails.platform.text import counted

_TRIES = 200
"""So many seeds in a row without a new child end a mutation."""
_HELP = {"help_option_names": ["-h", "--help"]}
run_option = click.option(
    "--run", help="Run whose chains and numbers are used (default: the only one without an adapter)."
)
course_options = stacked(run_option, seed_option("Seed of every random order."), home_option, store_option, json_option)
"""Options of a command that compiles a course."""
trainer_options = stacked(run_option, model_option, device_option, home_option, store_option, json_option)
"""Options of a command that trains on courses."""
training_options = stacked(
    click.option(
        "--steps", type=click.IntRange(min=0), default=0, show_default=True, help="Optimiser steps (0: one pass)."
    ),
    click.option(
        "--batch", type=click.IntRange(min=1), default=4, show_default=True, help="Rows in one optimiser step."
    ),
    click.option(
        "--rows",
        type=click.IntRange(min=1),
        default=24,
        show_default=True,
        help="Most chains to use of each selection.",
    ),
)
"""How much is trained, and on how many chains it is judged."""
file_argument = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group("genome", context_settings=_HELP)
def command() -> None:
    """A course written as YAML: stages, sections, books, gaps, scenes, roles, compiled to rows in an exact order.

    \b
    trails genome init course.genome.yaml                     a first genome to edit
    trails genome show course.genome.yaml                     the course as a tree
    trails genome export course.genome.yaml --format trails -o course
    trails train course/train.jsonl -o adapter
    """


@command.command("init", context_settings=_HELP)
@file_argument
@click.option(
    "--from",
    "from_home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Describe the chains of this home in place of the packaged example.",
)
@click.option(
    "--books", type=click.IntRange(min=1), default=12, show_default=True, help="About how many books (--from)."
)
@click.option("--stages", type=click.IntRange(min=1), default=3, show_default=True, help="How many stages (--from).")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@run_option
def init(file: Path, from_home: Path | None, books: int, stages: int, overwrite: bool, run: str | None) -> None:
    """Write a first genome to FILE: an example over the canonical sample, or one that describes a home by structure.

    \b
    trails genome init course.genome.yaml
    trails genome init thousand.genome.yaml --from .trails --books 1000 --stages 5
    """
    from trails.errors import UsageError
    from trails.genome.generate import EXAMPLE, genome_of
    from trails.platform.files import write_atomic
    from trails.store.outputs import check_output

    check_output(file)
    if file.exists() and not overwrite:
        raise UsageError(f"{file} exists. Choose another name, or add --overwrite.")
    text = EXAMPLE
    if from_home is not None:
        from trails.pipeline.courses import open_shelf

        with open_shelf(settings_from(home=from_home), run) as shelf:
            text = genome_of(shelf, name=file.name.split(".")[0], books=books, stages=stages)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, text)
    own = f" --home {shlex.quote(str(from_home))}" if from_home is not None else ""
    echo(with_home(f"{file}: {counted(text.count('select:'), 'book')}. Next: trails genome show {file}{own}"))


@command.command("check", context_settings=_HELP)
@file_argument
@click.option("--alone", is_flag=True, help="Check the file only; do not look for its books in a home.")
@course_options
def check(
    file: Path, alone: bool, run: str | None, seed: int, home: Path | None, store: str | None, as_json: bool
) -> None:
    """Is the genome in FILE sound? Every fault with its line, its column and what to write instead.

    Against the home also: an empty book, one that is not measured, roles that overlap, a stage without tokens, a budget that
    cannot be met. The exit code is 3 if something is wrong.

    \b
    trails genome check course.genome.yaml
    trails genome check course.genome.yaml --alone
    """
    from trails.errors import UsageError
    from trails.genome.model import load_genome

    settings = settings_from(home=home, store=store)
    genome, document = load_genome(file)
    books = sum(len(section.books) for stage in genome.stages for section in stage.sections)
    found: dict[str, Any] = {"genome": genome.name, "stages": len(genome.stages), "books": books, "home": None}
    where = "its books were not looked for in a home"
    if home is not None and not alone and not (settings.home / "trails.json").is_file():
        raise UsageError(
            f"{settings.home} is no home of trails, so no book can be looked for in it. Check the file: --alone"
        )
    if not alone and (settings.home / "trails.json").is_file():
        from trails.pipeline.courses import course_of, open_shelf

        with open_shelf(settings, run) as shelf:
            course = course_of(genome, document, shelf, file, seed)
            found |= {"home": str(settings.home), "rows": len(course), "tokens": int(course.tokens.sum(dtype=np.int64))}
            where = f"{counted(len(course), 'row')}, {counted(found['tokens'], 'token')} in {settings.home}"
            for note in course.notes:
                err.print(note)
    if as_json:
        print_json(found)
        return
    echo(f"{file}: sound. {genome.name}: {counted(len(genome.stages), 'stage')}, {counted(books, 'book')}; {where}")


@command.command("show", context_settings=_HELP)
@file_argument
@click.option(
    "--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write the course as one offline HTML file."
)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
@course_options
def show(
    file: Path,
    html: Path | None,
    overwrite: bool,
    run: str | None,
    seed: int,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """The course of FILE as a tree: tokens, chains, measured surprisal (nats per token), structure, roles, gaps, scenes.

    \b
    trails genome show course.genome.yaml
    trails genome show course.genome.yaml --json
    trails genome show course.genome.yaml --html course.html
    """
    from trails.genome.show import course_report
    from trails.pipeline.courses import open_course

    if html is not None:
        from trails.report.html import check_free

        check_free(html, overwrite=overwrite)  # before the work, not after it
    with open_course(settings_from(home=home, store=store), file, run=run, seed=seed) as course:
        report = course_report(course)
    if html is not None:
        from trails.platform.files import write_atomic
        from trails.report.html import static_page
        from trails.report.portable import portable

        html.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(html, static_page(portable(report).html(rows=10_000), f"course {file.name}"))
    if as_json:
        print_json(report.record())
        return
    echo(report.verdict)
    for table in report.tables[:2]:
        headings, rows = table.view()
        if rows:
            print_rows(headings, rows, title=table.title)
    for line in report.to_arrow("gaps")["gap"].to_pylist():
        echo(f"gap: {line}")
    if len(report.tables) > 3:
        headings, rows = report.tables[3].view()
        print_rows(headings, rows, title=report.tables[3].title)
    for note in report.notes:
        err.print(note)


@command.command("plan", context_settings=_HELP)
@file_argument
@course_options
def plan(file: Path, run: str | None, seed: int, home: Path | None, store: str | None, as_json: bool) -> None:
    """List every row of the course of FILE in order; nothing is written.

    \b
    trails genome plan course.genome.yaml
    trails genome plan course.genome.yaml --json > rows.jsonl     one object a line
    """
    from trails.genome.compile import plan_table
    from trails.pipeline.courses import open_course

    with open_course(settings_from(home=home, store=store), file, run=run, seed=seed) as course:
        if not as_json:
            echo(f"{'order':>7}  {'chain':<17}  {'tokens':>6}  stage / section / book  scene, role, rehearsal")
        for start in range(0, len(course), 5_000):
            table = plan_table(course, np.arange(start, min(start + 5_000, len(course))))
            for row in table.to_pylist():
                if as_json:
                    echo(json.dumps(row, ensure_ascii=False))
                    continue
                more = " ".join(filter(None, (row["scene"], row["role"], "rehearsal" if row["rehearsal"] else "")))
                place = f"{row['stage']} / {row['section']} / {row['book']}" if row["book"] else row["stage"]
                echo(f"{row['order']:>7}  {row['chain']:<17}  {row['tokens']:>6}  {place}  {more}".rstrip())


@command.command("export", context_settings=_HELP)
@file_argument
@click.option("--format", "format_", required=True, help="Format of the rows, as in trails export.")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="Folder to write to.")
@click.option(
    "--parquet", is_flag=True, help="Write rows as Parquet in place of JSON Lines (smaller, faster to train from)."
)
@click.option("--layers", help="Layers that a LoRA changes, 1 … L, e.g. 11-20 (default: all).")
@click.option("--weights", default="uniform", show_default=True, help="Loss weights, as in trails export.")
@click.option(
    "--order",
    type=click.Choice(["course", "shuffled"]),
    default="course",
    show_default=True,
    help="Order of the rows; shuffled (drawn by --seed) is the control of the course.",
)
@click.option("--lossy", is_flag=True, help="Write even where the format loses a mask or a conversation.")
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@course_options
def export(
    file: Path,
    format_: str,
    output: Path,
    parquet: bool,
    layers: str | None,
    weights: str,
    order: str,
    lossy: bool,
    overwrite: bool,
    run: str | None,
    seed: int,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Compile FILE: training rows in the order of the course, one file per role, and files that describe the course.

    The same genome, home and seed give the same bytes. The card names the settings with which the trainer keeps the order.

    \b
    trails genome export course.genome.yaml --format trails -o course
    trails genome export course.genome.yaml --format axolotl -o course-axolotl
    trails genome export course.genome.yaml --format trails -o control --order shuffled
    """
    from trails.export import parse_layers, writer_named
    from trails.genome.compile import export_course
    from trails.pipeline.courses import open_course

    writer_named(format_)
    options: dict[str, Any] = {"weights": weights, "lossy": lossy, "overwrite": overwrite}
    if layers:
        options["layers"] = parse_layers(layers)
    with open_course(settings_from(home=home, store=store), file, run=run, seed=seed) as course:
        if order == "shuffled":
            course.shuffle()
        done = export_course(course, format_, output, parquet=parquet, **options)
    report = done.report
    if as_json:
        files = {name: str(path) for name, path in {**report.files, **done.files}.items()}
        print_json(
            {
                "files": files,
                "card": str(report.card),
                "sha256": report.digest,
                "rows": report.counts.rows,
                "tokens": report.counts.tokens,
                "scenes_cut": done.cut,
                "lost": list(report.lost),
            }
        )
    else:
        echo(
            f"{counted(report.counts.rows, 'row')} of {counted(report.counts.chains, 'chain')}, "
            f"{counted(report.counts.tokens, 'token')}, {'in order' if order == 'course' else 'shuffled'}"
        )
        for name, path in {**report.files, **done.files}.items():
            echo(f"{name}: {path}")
        echo(f"card: {report.card}")
        echo(with_home(f"load with: {report.settings}"))
    if done.cut:
        err.print(
            f"{counted(done.cut, 'scene is', 'scenes are')} longer than one sequence, and a trainer cuts them",
            style="yellow",
        )
    for line in report.lost:
        err.print(f"lost: {line}", style="yellow")


@command.command("scenes", context_settings=_HELP)
@file_argument
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="JSON Lines to write."
)
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
def scenes(file: Path, output: Path, overwrite: bool) -> None:
    """Write the texts that FILE gives for its scenes as chains, to be measured like every other chain.

    \b
    trails genome scenes course.genome.yaml -o scenes.jsonl
    trails ingest scenes.jsonl
    """
    from trails.errors import UsageError
    from trails.genome.model import load_genome
    from trails.genome.scenes import authored
    from trails.platform.files import write_atomic
    from trails.store.outputs import check_output

    check_output(output)
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists. Choose another name, or add --overwrite.")
    genome, _ = load_genome(file)
    chains = [authored(s, genome.name) for stage in genome.stages for s in stage.scenes if s.text]
    if not chains:
        raise UsageError(f"no scene of {file} has a text: of its own. Scenes without one are looked for in the home.")
    lines = [
        {
            "source": c.source,
            "source_id": c.source_id,
            "question": c.question,
            "text": c.text,
            "answer": "",
            "metadata": {},
        }
        for c in chains
    ]
    write_atomic(output, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    echo(with_home(f"{output}: {counted(len(lines), 'chain')}. Next: trails ingest {output}"))


registry_option = click.option(
    "-o",
    "--output",
    "folder",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of genomes with registry.jsonl, which is only ever appended to.",
)


@command.command("mutate", context_settings=_HELP)
@file_argument
@registry_option
@seed_option("Seed of the operation.")
@click.option(
    "--count", "children", type=click.IntRange(min=1, max=10_000), default=1, show_default=True, help="Children."
)
@json_option
def mutate(file: Path, folder: Path, seed: int, children: int, as_json: bool) -> None:
    """Children of FILE by one operation each: swap books, swap sections, drop a book, change a count, reorder a book.

    The file alone is checked, as by trails genome check --alone: whether a home has its books is not looked up.

    \b
    trails genome mutate course.genome.yaml -o genomes --seed 1 --count 4
    """
    from trails.genome.model import load_genome
    from trails.genome.recombine import Registry, genome_id, moved, values_of
    from trails.genome.recombine import mutate as mutated

    values = moved(values_of(load_genome(file)[0]), file.parent, folder)
    registry = Registry(folder)
    rows: list[list[object]] = []
    seen: set[str] = set()
    number = last = seed
    while len(rows) < children and number - last < _TRIES:
        operation, child = mutated(values, number)
        if genome_id(child) not in seen:
            name = registry.add(child, operation=operation, parents=[genome_id(values)], seed=number)
            seen.add(name)
            rows.append([name, operation, number, str(folder / f"{name}.genome.yaml")])
            last = number
        number += 1
    print_rows(["genome", "operation", "seed", "file"], rows, style="json" if as_json else "table")
    if len(rows) < children:
        err.print(
            f"{counted(children, 'child was', 'children were')} asked for, and one operation gives no other in {_TRIES} seeds: "
            f"{len(rows):,} were written. Mutate one of them for more"
        )


@command.command("cross", context_settings=_HELP)
@file_argument
@click.argument("other", type=click.Path(path_type=Path, dir_okay=False))
@registry_option
@seed_option("Seed of the choice.")
@json_option
def cross(file: Path, other: Path, folder: Path, seed: int, as_json: bool) -> None:
    """A child with the stages of FILE, in which sections come from FILE or, by the same name, from OTHER.

    \b
    trails genome cross genomes/g1.genome.yaml genomes/g2.genome.yaml -o genomes --seed 3
    """
    from trails.genome.model import load_genome
    from trails.genome.recombine import Registry, genome_id, moved, values_of
    from trails.genome.recombine import cross as crossed

    one, two = (moved(values_of(load_genome(path)[0]), path.parent, folder) for path in (file, other))
    child = crossed(one, two, seed)
    name = Registry(folder).add(child, operation="cross", parents=[genome_id(one), genome_id(two)], seed=seed)
    rows = [[name, "cross", seed, str(folder / f"{name}.genome.yaml")]]
    print_rows(["genome", "operation", "seed", "file"], rows, style="json" if as_json else "table")


@command.command("search", context_settings=_HELP)
@file_argument
@registry_option
@click.option(
    "--held-out", required=True, help="Selection whose chains the gain is measured on; no book may hold them."
)
@click.option(
    "--unrelated", required=True, help="Selection whose chains the damage is measured on; no book may hold them."
)
@click.option(
    "--budget", type=click.IntRange(min=1), default=4, show_default=True, help="Number of trainings in each arm."
)
@training_options
@seed_option("Seed of every random order.")
@trainer_options
def search(
    file: Path,
    folder: Path,
    held_out: str,
    unrelated: str,
    budget: int,
    steps: int,
    batch: int,
    rows: int,
    seed: int,
    run: str | None,
    model: str | None,
    device: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Search from FILE by mutation, compared with a random search of the same budget.

    Every genome is compiled, an adapter is trained on its rows in their order, and the objective is the gain on held-out chains
    minus the damage to unrelated ones, nats per token. A genome that the registry holds with the same settings
    is not trained again.

    \b
    trails genome search course.genome.yaml -o genomes --held-out meta:version=lines --unrelated source:gsm8k/train
    """
    from trails.pipeline.recombining import Objective, search_genome

    objective = Objective(held_out, unrelated, steps=steps, batch=batch, rows=rows, seed=seed)
    done = search_genome(
        settings_from(home=home, store=store, model=model, device=device),
        file,
        folder,
        objective,
        budget=budget,
        seed=seed,
        run=run,
        on_stage=(lambda _: None) if as_json else err.print,
    )
    best = {
        arm: max(entry["objective"] for entry in done if entry["arm"] == arm) for arm in ("parent", "search", "random")
    }
    if as_json:
        print_json({"measured": done, "best": best, "settings": objective.key})
        return
    print_rows(
        ["arm", "genome", "operation", "seed", "objective"],
        [[e["arm"], e["genome"], e["operation"], e["seed"], e["objective"]] for e in done],
        title="objective: held-out gain minus damage, nats per token",
    )
    echo(
        f"objective of the best of {budget} mutations {best['search']:+.4f}, of the best of {budget} random orders "
        f"{best['random']:+.4f}, of the genome itself {best['parent']:+.4f}. One seed, no interval: which is better is open; "
        "repeat with other seeds."
    )


@command.command("initiation", context_settings=_HELP)
@file_argument
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="JSON Lines of trainings."
)
@click.option("--filler", required=True, help="Selection of other reasoning text that fills what a cell leaves out.")
@click.option(
    "--held-out", required=True, help="Selection whose chains the gain is measured on; nothing trained may hold them."
)
@click.option(
    "--unrelated",
    required=True,
    help="Selection whose chains the damage is measured on; nothing trained may hold them.",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Number of seeds; each trains four adapters (cells).",
)
@training_options
@trainer_options
def initiation(
    file: Path,
    output: Path,
    filler: str,
    held_out: str,
    unrelated: str,
    seeds: int,
    steps: int,
    batch: int,
    rows: int,
    run: str | None,
    model: str | None,
    device: str | None,
    home: Path | None,
    store: str | None,
    as_json: bool,
) -> None:
    """Is a stage worth more after the stages that its initiation names? A 2 x 2 design, judged by its interaction.

    Four trainings a seed: with and without those stages, with and without the stage; what is left out is filled with other
    text of as many tokens. An interrupted design continues where it stopped.

    \b
    trails genome initiation course.genome.yaml -o cells.jsonl --filler source:gsm8k/train \\
        --held-out meta:version=lines --unrelated source:aqua/dev
    """
    from trails.cli.scores import tell
    from trails.pipeline.initiating import run_initiation
    from trails.pipeline.recombining import Objective

    found = run_initiation(
        settings_from(home=home, store=store, model=model, device=device),
        file,
        output,
        Objective(held_out, unrelated, steps=steps, batch=batch, rows=rows),
        filler,
        seeds=seeds,
        run=run,
        on_stage=(lambda _: None) if as_json else err.print,
    )
    tell(found.report(), as_json=as_json, home=home)
