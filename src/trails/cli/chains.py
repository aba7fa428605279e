"""trails chains"""

from __future__ import annotations

from pathlib import Path

import click

from trails.cli.common import csv_option, echo, err, home_option, json_option, print_rows, settings_from, with_home
from trails.platform.text import beginning, counted

WORDS = 60
"""Characters of a chain's first words in the table."""


@click.command("chains", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1)
@click.option("--run", help="List only chains that this run measured.")
@click.option("--source", help="List only chains of this source.")
@click.option("--family", help="List only chains of this family.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Print at most this many rows."
)
@json_option
@csv_option
@home_option
def command(
    names: tuple[str, ...],
    run: str | None,
    source: str | None,
    family: str | None,
    limit: int,
    as_json: bool,
    as_csv: str | None,
    home: Path | None,
) -> None:
    """The chains of the home: number, id, source with record and line, first words, steps, nats, nats per token.

    NAMES, if given, are ids, beginnings of ids, SOURCE:RECORD, SOURCE:LINE or numbers (#12). Every command that takes a chain
    takes them.

    \b
    trails chains
    trails chains --source gsm8k/test --limit 5
    trails show '#3'
    """
    from trails.store.resolve import Names, chain_rows, measured_runs, run_of, without_chains
    from trails.store.traces import TraceStore

    settings = settings_from(home=home)
    with TraceStore(settings.home) as traces:
        known = Names(traces)
        wanted = [set(known.chains(names))] if names else []
        wanted += [set(known.of_source(source))] if source is not None else []
        wanted += [set(known.of_family(family))] if family is not None else []
        runs = measured_runs(traces)
        of = run_of(runs, run).id if run is not None else None
        table = chain_rows(traces, known)
    rows = [
        row
        for row in table.to_pylist()
        if all(row["chain"] in chains for chains in wanted) and of in (None, row["run"])
    ]
    shown = rows[:limit]
    if as_json:
        print_rows(table.column_names, [tuple(row.values()) for row in shown], style="json")
        return
    several = len({row["run"] for row in rows}) > 1
    columns = (
        "#",
        "chain",
        "source",
        "record",
        "line",
        *(("run",) if several else ()),
        "steps",
        "tokens",
        "nats",
        "per token",
        "first words",
    )
    print_rows(
        columns,
        [
            (
                *(row["number"], row["chain"], row["source"], row["record"], row["line"]),
                *((row["run"],) if several else ()),
                *(row["steps"], row["tokens"], row["nats"], row["nats_per_token"], beginning(row["words"], WORDS)),
            )
            for row in shown
        ],
        style=as_csv or "table",
    )
    if rows and not as_csv:
        err.print(
            "per token: nats by the tokens that have a prediction; the first of a chain without a context has none"
        )
    if not rows:
        lost = without_chains(list(runs.without_chains.values())) if runs.without_chains and not table.num_rows else ""
        echo(with_home(lost) or "no chain fits", to_stderr=True)
    elif len(rows) > limit:
        err.print(f"the first {limit:,} of {counted(len(rows), 'row')}; more with --limit")
