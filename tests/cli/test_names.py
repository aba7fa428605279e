"""What names a chain means the same wherever a chain is asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest

from trails.cli import cli
from trails.config import load_settings
from trails.errors import UsageError
from trails.export.subgraph import select
from trails.pipeline import ingest
from trails.store.resolve import Names, chain_rows
from trails.store.traces import TraceStore

LINES = {
    "chains": "chains {} --json",
    "roles export": "roles export {}",
    "roles connectives": "roles connectives {}",
    "show": "show {}",
    "report": "report {} -o {folder}/page.html --overwrite",
    "export-graph": "export-graph {} -o {folder}/part.gexf --overwrite",
    "overlaps": "overlaps --between {} #2 --no-graph",
    "gaps": "gaps --chain {} --no-graph",
    "bridge start": "bridge {}:0 #2:1",
    "bridge goal": "bridge #2 {}",
    "basin": "basin {}",
    "drift": "drift {}",
    "gradient": "gradient {}",
    "anchors": "anchors {} --layers 1",
    "respond": "respond {} --probes #2",
    "respond probes": "respond #2 --probes {}",
    "pvq write": "pvq write {}:1 -o {folder}/one.pvq.json",
    "intervene": "intervene {} --layer 1 --from random",
    "intervene origin": "intervene #2 --layer 1 --from {}:1",
    "variants": "variants {}",
    "variants --show": "variants {} --show",
    "select": "select --budget 9 --by perplexity --pool {}",
    "export": "export --subgraph {} --format trl -o {folder}/rows.jsonl --overwrite",
    "export chain:": "export --subgraph chain:{} --format trl -o {folder}/rows.jsonl --overwrite",
    "export between:": "export --subgraph between:{}:0,{}:1 --format trl -o {folder}/rows.jsonl --overwrite",
    "remove": "remove chain {} --dry-run",
    "query": "query chain-steps --param chain={}",
    "query step": "query tokens-looking-at-step --param step={}:1",
    "query in a selection": "export-graph query:chain-steps{{\"chain\":\"{}\"}} -o {folder}/part.gexf --overwrite",
}  # fmt: skip
"""Every place where a command asks for a chain. One that needs a real model is refused once the chain is found."""

ASKS = {
    "names",
    "chains",
    "selections",
    "selection",
    "between",
    "chain",
    "start",
    "goal",
    "spans",
    "probes",
    "steps",
} | {
    "origin",
    "pool",
}
"""Names of the parameters that ask for a chain."""

NO_CHAIN = {
    "effects scan": "names of effects",
    "train": "steps of the optimiser",
    "recall": "a selection, asked after the adapter",
    "repairs": "a selection, asked after the adapter",
    "genome search": "a selection, asked after the genome",
    "genome initiation": "a selection, asked after the genome",
}
"""Commands whose parameter of such a name is something else, or is looked up after something costlier."""


def commands(group: click.Command, name: str = "") -> Iterator[tuple[str, click.Command]]:
    if isinstance(group, click.Group):
        for part in group.list_commands(click.Context(group)):
            found = group.get_command(click.Context(group), part)
            assert found is not None
            yield from commands(found, f"{name} {part}".strip())
    else:
        yield name, group


def test_every_command_that_asks_for_a_chain_is_in_the_table() -> None:
    asking = {name for name, command in commands(cli) if ASKS & {parameter.name for parameter in command.params}}
    there = {" ".join(line.split()[:2]) for line in LINES.values()} | {line.split()[0] for line in LINES.values()}
    assert asking - set(NO_CHAIN) <= there
    assert set(NO_CHAIN) <= asking


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three chains of the source ``few.jsonl`` with ids of their own, measured by the uniform scorer."""
    folder = tmp_path_factory.mktemp("names")
    rows = [
        {
            "id": f"r{n}",
            "question": f"Is {n} even?",
            "text": f"If {n} is twice a number, then it is even. So {n} is. But why?",
        }
        for n in (2, 4, 6)
    ]
    (folder / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ingest([folder / "few.jsonl"], load_settings(home=folder / "home", model="uniform", store="embedded"))
    return folder / "home"


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_chain_is_named_in_the_same_ways_everywhere(
    trails: Callable[..., Any], home: Path, tmp_path: Path, line: str
) -> None:
    with TraceStore(home) as traces:
        source, record, chain, _ = Names(traces).rows[0]

    names = (chain, chain[:9], f"{source}:{record}", f"{source}:1", "#1", record)

    def outcome(name: str) -> tuple[int, str, str]:
        words = [word.replace("{folder}", str(tmp_path)).replace("{{", "{").replace("}}", "}") for word in line.split()]
        done = trails(*(word.replace("{}", name) for word in words), "--home", home, code=None)
        return done.code, *(re.sub("|".join(map(re.escape, names)), "…", text) for text in (done.out, done.err))

    by_id = outcome(chain)
    assert "no chain fits" not in by_id[2]
    for name in names[1:]:
        assert outcome(name) == by_id, name
    code, _, err = outcome("#99")
    assert code == 2
    assert "no chain fits" in err


def test_a_source_a_family_or_a_run_in_place_of_a_chain_is_told(trails: Callable[..., Any], home: Path) -> None:
    with TraceStore(home) as traces:
        source, _, _, family = Names(traces).rows[0]
        run = next(iter(traces.runs()))
    for name, flag in ((source, "--source"), (family, "--family"), (run, "--run")):
        said = trails("chains", name, "--home", home, code=2).err
        hint = f"Its chains: trails chains {flag} {name}"
        assert hint in said.replace(f" --home {home}", "")
        assert name in trails("chains", flag, name, "--home", home, "--json").out


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("#0", "no chain fits. Chains have the numbers #1 to #3."),
        ("#99", "no chain fits. Chains have the numbers #1 to #3."),
        ("#" + "9" * 5_000, "no chain fits. Write # and a number with the digits 0 to 9."),
        ("#１", "no chain fits. Write # and a number with the digits 0 to 9."),
        ("#²", "no chain fits. Write # and a number with the digits 0 to 9."),
        ("#-1", "no chain fits. Write # and a number with the digits 0 to 9."),
        ("c", "no chain fits. The beginning of an id needs 2 characters or more."),
        ("few.jsonl:²", "no chain fits. Did you mean few.jsonl:r"),
        ("few.jsonl:１", "no chain fits. Did you mean few.jsonl:r"),
        ("nothing", "no chain fits. All chains: trails chains"),
    ],
)
def test_why_a_name_fits_no_chain_is_said(home: Path, name: str, says: str) -> None:
    with TraceStore(home) as traces, pytest.raises(UsageError) as caught:
        Names(traces).chain(name)
    assert says in str(caught.value)


def test_digits_of_other_scripts_name_no_step_and_one_letter_no_family(home: Path) -> None:
    with TraceStore(home) as traces:
        names = Names(traces)
        assert names.step("#1:0") == (names.rows[0][2], 0)
        for text in ("#1:²", "#1:１", "#1:-1", "#1:"):
            with pytest.raises(UsageError, match="is not a step. Write CHAIN:STEP"):
                names.step(text)
        with pytest.raises(UsageError, match="no family fits: the beginning of an id needs 2 characters or more"):
            names.of_family("f")


def test_a_number_of_a_chain_of_another_run_is_told(home: Path) -> None:
    with (
        TraceStore(home) as traces,
        pytest.raises(UsageError, match="no chain fits in run r9. It is a chain of another run"),
    ):
        Names(traces).chain("#1", "r9")


def test_the_name_of_a_chain_is_kept_as_its_id(home: Path) -> None:
    with TraceStore(home) as traces:
        chain = Names(traces).rows[1][2]
        found = select(None, traces, "#2")
    assert (found.text, found.chains) == (f"chain:{chain}", [chain])


def test_a_chain_that_comes_while_the_list_is_made_is_left_for_the_next_one(home: Path) -> None:
    with TraceStore(home) as traces:
        names = Names(traces)
        whole = names.rows
        stale: Any = SimpleNamespace(rows=whole[:2])  # as they were read before another process wrote a shard
        assert chain_rows(traces, stale)["chain"].to_pylist() == [row[2] for row in whole[:2]]
        assert len(chain_rows(traces, names)) == 3
