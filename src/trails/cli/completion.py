"""Completion in the shell: commands, options, and the names that this home knows. Nothing here says an error: a shell that
completes shows no messages, so what cannot be told is not offered.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    add_completion_class,
    shell_complete,
    split_arg_string,
)

SECONDS = 1.0
"""So long the shards may be read for names. After it none is offered: half of them would look like all."""

Offer = Callable[[click.Context, str], Iterable[str]]


def _home(context: click.Context) -> Path:
    """The home that the command line names, else that of the settings."""
    from trails.config import load_settings

    return load_settings(home=context.params.get("home")).home


def _column(context: click.Context, name: str) -> set[str]:
    """The values of a column of the shards."""
    import pyarrow.parquet as pq

    found: set[str] = set()
    end = time.monotonic() + SECONDS
    for path in sorted((_home(context) / "shards").glob("*.parquet")):
        with pq.ParquetFile(path) as shard:  # read_table would import pandas
            found.update(shard.read([name])[name].to_pylist())
        if time.monotonic() > end:
            return set()
    return found


def chains(context: click.Context, incomplete: str) -> Iterable[str]:
    """Ids of chains."""
    return _column(context, "chain")


def sources(context: click.Context, incomplete: str) -> Iterable[str]:
    """Names of sources."""
    return _column(context, "source")


def places(context: click.Context, incomplete: str) -> Iterable[str]:
    """Ids of chains; their steps are written after a colon."""
    return () if ":" in incomplete else chains(context, incomplete)


def runs(context: click.Context, incomplete: str) -> Iterable[str]:
    """Ids and names of runs."""
    from trails.store.traces import TraceStore

    with TraceStore(_home(context)) as traces:
        described = traces.runs()
    return [*described, *(run.name for run in described.values() if run.name)]


def queries(context: click.Context, incomplete: str) -> Iterable[str]:
    """Names of the queries of ``cypher/``."""
    from trails.store.queries import folder

    return [path.stem for path in folder().glob("*.cypher")]


def formats(context: click.Context, incomplete: str) -> Iterable[str]:
    """Formats of an export."""
    from trails.export.formats import WRITERS

    return list(WRITERS)


def removable(context: click.Context, incomplete: str) -> Iterable[str]:
    """What ``trails remove KIND`` takes."""
    offer = {"chain": chains, "run": runs, "source": sources}.get(context.params.get("kind", ""))
    return offer(context, incomplete) if offer else ()


def selections(context: click.Context, incomplete: str) -> Iterable[str]:
    """Beginnings of selections, and what comes after one: chains, sources, roles, queries."""
    from trails.export.subgraph import FORMS
    from trails.schema import Role

    kind, colon, rest = incomplete.partition(":")
    if not colon:
        begin = re.compile(r"all$|gaps>|[a-z]+:")
        forms = [found.group() for form in FORMS if (found := begin.match(form))]
        return [*forms, *(chains(context, incomplete) if incomplete.startswith("c") else ())]
    last = re.split("[,>]", rest)[-1]
    head = incomplete[: len(incomplete) - len(last)]
    offers: dict[str, Offer] = {
        "chain": chains,
        "between": places,
        "source": sources,
        "query": queries,
        "roles": lambda *_: [role.value for role in Role],
    }
    return [head + value for value in offers[kind](context, last)] if kind in offers else ()


OFFERS: dict[str | tuple[str, str], Offer] = {
    "chain": chains,
    "chains": chains,
    "start": places,
    "goal": places,
    **dict.fromkeys(("run", "run_id", "against", "compare", "before", "after"), runs),
    "selection": selections,
    **dict.fromkeys(("selections", "spans", "probes", "pool"), selections),
    ("query", "name"): queries,
    ("export", "format_"): formats,
    ("chains", "names"): chains,
    ("chains", "source"): sources,
    ("remove", "names"): removable,
}
"""What is offered for a parameter, by its name, or by command and name."""


def with_offers(name: str, command: click.Command) -> click.Command:
    """The command ``name``; its parameters of :data:`OFFERS` complete the names that the home knows."""
    for parameter in command.params:
        offer = OFFERS.get((name, parameter.name or "")) or OFFERS.get(parameter.name or "")
        if offer is not None and not isinstance(parameter.type, click.Choice):
            setattr(parameter, "shell_complete", functools.partial(_offered, offer))  # noqa: B010  # a method of click
    return command


def _offered(offer: Offer, context: click.Context, incomplete: str) -> list[CompletionItem[str]]:
    """What fits the beginning. A file may stand where nothing fits: a selection can be one."""
    try:
        found = sorted(value for value in set(offer(context, incomplete)) if value.startswith(incomplete))
    except Exception:  # whatever is wrong with the home, the command itself will say it
        found = []
    if not found and offer is selections and ":" not in incomplete:
        return [CompletionItem(incomplete, type="file")]
    return [CompletionItem(value) for value in found if value.isprintable()]


_BASH = """\
%(complete_func)s() {
    local type value response
    COMPREPLY=()
    response=$(COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" _TRAILS_WORD="$2" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain) COMPREPLY+=("$value") ;;
            open) COMPREPLY+=("$value"); compopt -o nospace ;;
        esac
    done <<< "$response"
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class Bash(BashComplete):
    """Bash breaks words at ``:`` and ``>``, which selections hold: the line is split here, and what is offered goes without
    the part that bash keeps.
    """

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the cursor, and the one that is being written."""
        line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
        self._quoted = _open_quote(line)
        words = split_arg_string(line)
        incomplete = words.pop() if self._quoted or not line[-1:].isspace() else ""
        word = os.environ.get("_TRAILS_WORD", incomplete)
        self._kept = incomplete[: len(incomplete) - len(word)] if incomplete.endswith(word) else ""
        return words[1:], incomplete

    def format_completion(self, item: CompletionItem[Any]) -> str:
        """Type and value; ``open`` where more is to be written."""
        if item.type != "plain":
            return f"{item.type},"
        value = item.value.removeprefix(self._kept)
        if not self._quoted:
            value = re.sub(r"([\s\\<>|&;()$`\"'*?\[\]#!{}])", r"\\\1", value)
        return f"{'open' if item.value.endswith((':', '>')) else 'plain'},{value}"


def _open_quote(line: str) -> bool:
    quote, escaped = "", False
    for character in line:
        if escaped:
            escaped = False
        elif character == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
    return bool(quote)


def complete(command: click.Command, instruction: str) -> int:
    """Answer the shell, or write the script that it is taught with. ``instruction`` is what the shell asks: ``bash_source``,
    ``zsh_complete`` …
    """
    add_completion_class(Bash)
    with contextlib.suppress(Exception):
        return shell_complete(command, {}, "trails", "_TRAILS_COMPLETE", instruction)
    return 1
