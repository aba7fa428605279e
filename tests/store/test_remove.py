"""What is removed is gone from every part of a home, what stays, stays to the bit; and names for chains and runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.store.factory import corpus, make_run
from tests.store.test_rebuild import SCOPE, results

from trails.cli import cli
from trails.cli.common import on_terminal
from trails.config import load_settings
from trails.errors import StoreError, TrailsError, UsageError
from trails.export.subgraph import select
from trails.pipeline import Home, rebuild, verify
from trails.pipeline.removing import KINDS, remove, rename_run
from trails.platform.locks import WriterLock
from trails.schema import fitting_runs
from trails.store import embedded
from trails.store.base import GraphBatch
from trails.store.bulk import bulk_from_home
from trails.store.embedded import EmbeddedStore
from trails.store.resolve import Names
from trails.store.rows import graph_batch, held_by, table_of
from trails.store.scope import OWNED, Scope, now, owned, owner_mark
from trails.store.traces import TraceStore

ONE = make_run("one")
TWO = make_run("two", tokenizer="0badcafe" * 8)
CHAINS = [trace.chain.id for trace in corpus(6, ONE)]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Six chains of one run, four of another with its own tokenizer; results of analyses over them."""
    with TraceStore(tmp_path, write=True) as shards, EmbeddedStore(tmp_path) as graph:
        for run in (ONE, TWO):
            shards.put_run(run)
        shards.write([*corpus(3, ONE), *corpus(4, TWO)])
        shards.write(corpus(6, ONE)[3:])
        graph.write([held_by(graph_batch(shards.traces(), shards.runs()), shards.identity())])
        graph.write([results(replace(SCOPE, home=shards.identity().id))])
    for folder in ("whitening", "columns"):
        (tmp_path / folder).mkdir()
    for run in (ONE, TWO):
        (tmp_path / "whitening" / f"{run.id}-3.npz").write_bytes(b"derived")
        (tmp_path / "columns" / run.id).write_bytes(b"derived")
    return tmp_path


def trails(home: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        cli,
        [*arguments, "--home", str(home), *(() if arguments[0] == "chains" else ("--store", "embedded"))],
        input="y\n",
    )


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody sits at a terminal and answers yes."""
    monkeypatch.setattr("trails.cli.remove.on_terminal", lambda: True)


def digests(home: Path) -> dict[tuple[str, str], bytes]:
    from trails.store.shards import row_digests

    with TraceStore(home) as shards:
        return {(trace.chain.id, trace.run): row_digests(trace)[1] for trace in shards.traces()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "gone"),
    [
        (["chain", CHAINS[0]], {(CHAINS[0], ONE.id), (CHAINS[0], TWO.id)}),
        (["chain", CHAINS[5][:9], "toy0.jsonl:4"], {(CHAINS[5], ONE.id), (CHAINS[4], ONE.id)}),
        (
            ["source", "toy1.jsonl"],
            {(CHAINS[i], run) for i in (1, 3, 5) for run in (ONE.id, TWO.id)} - {(CHAINS[5], TWO.id)},
        ),
        (["run", TWO.id[:8]], {(chain, TWO.id) for chain in CHAINS[:4]}),
        (["run", ONE.id], {(chain, ONE.id) for chain in CHAINS}),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, list) else "",
)
def test_what_is_removed_is_gone_and_the_rest_stays(home: Path, arguments: list[str], gone: set) -> None:
    before = digests(home)
    dry = trails(home, "remove", *arguments, "--dry-run", "--json")
    assert json.loads(dry.stdout)["measured_chains"] == len(gone)
    assert digests(home) == before
    done = trails(home, "remove", *arguments)
    assert done.exit_code == 0, done.output
    after = digests(home)
    assert after == {pair: value for pair, value in before.items() if pair not in gone}
    settings = load_settings(home=home, store="embedded")
    verdict = verify(settings)
    assert verdict.differences == ()
    runs = {run for _, run in after}
    assert {path.stem for path in (home / "runs").iterdir()} == runs
    touched = {run for _, run in gone}
    for folder in ("whitening", "columns"):
        assert {path.name.split("-")[0] for path in (home / folder).iterdir()} == {ONE.id, TWO.id} - touched
    with EmbeddedStore(home) as graph:
        counts = graph.counts()
        assert "State" not in counts
        assert "Overlap" not in counts
        for label, end in (("Source", "FROM"), ("Family", "IN_FAMILY")):
            rows = graph.run(f"MATCH (n:{label}) WHERE NOT (n)<-[:{end}]-() RETURN n.id").rows
            assert rows == ()
    assert "counted what is gone" in done.stdout


def counted(home: str) -> GraphBatch:
    """Effects of both runs with shares over their chains, a disagreement of the runs, and a response over two probes."""
    nodes = {
        "Effect": table_of(
            "Effect", {"id": ["e1", "e2"], "name": ["dip", "dip"], "run": [ONE.id, TWO.id], "share": [0.5, 0.25]}
        ),
        "Disagreement": table_of("Disagreement", {"id": ["d1"], "chain": [CHAINS[0]], "members": [[ONE.id, TWO.id]]}),
        "Response": table_of("Response", {"id": ["r1"], "chain": [CHAINS[3]], "run": [ONE.id], "n_probes": [2]}),
    }
    ends = {"start": ["e1", "e2"], "end": [f"{CHAINS[1]}:0"] * 2, "run": [ONE.id, TWO.id]}
    relationships = {
        "SEEN_IN": table_of("SEEN_IN", ends),
        "ON": table_of("ON", {"start": ["r1", "r1"], "end": [CHAINS[2], CHAINS[5]]}),
    }
    return owned(GraphBatch(nodes, relationships), home)


@pytest.mark.parametrize(("arguments", "left"), [(["chain", CHAINS[5]], {"g2"}), (["chain", CHAINS[0]], set())])
def test_gaps_that_were_calibrated_on_what_is_removed_go_with_it(home: Path, arguments: list[str], left: set) -> None:
    """Chain 5 was measured by the first run only: the gaps of the second stay, and those of others."""
    with TraceStore(home) as shards, EmbeddedStore(home) as graph:
        mine = shards.identity().id
        for owner in (mine, "hffffffffffffffff"):
            for gap, run in (("g1", ONE.id), ("g2", TWO.id)):
                row = {"id": [gap], "chain": [CHAINS[1]], "run": [run], "step": [0], "control_auc": [0.7]}
                scope = Scope(owner, "gaps", run, {}, date=now())
                graph.write([scope.put(GraphBatch({"Gap": table_of("Gap", row)}, {}))])
    done = trails(home, "remove", *arguments)
    assert done.exit_code == 0, done.output
    with EmbeddedStore(home) as graph:
        rows = graph.run("MATCH (n:Gap) RETURN n.id AS id, n.home AS home").rows
    assert {i.split("@")[0] for i, of in rows if of == mine} == left
    assert len([of for _, of in rows if of != mine]) == 2
    assert "Gap" in done.stdout
    assert "make them again: " in done.stdout
    assert "trails gaps" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        # chain 5 was measured by the first run only, and is a probe; chain 0 was measured by both, and is none
        (["chain", CHAINS[5]], {"e2", "d1-other", "e1-other", "e2-other", "r1-other"}),
        (["chain", CHAINS[0]], {"r1", "e1-other", "e2-other", "r1-other"}),
        (["run", TWO.id], {"e1", "r1", "d1-other", "e1-other", "r1-other"}),
    ],
    ids=["of one run", "of both runs", "a run"],
)
def test_shares_that_counted_what_is_removed_go_with_it(home: Path, arguments: list[str], left: set[str]) -> None:
    with TraceStore(home) as shards, EmbeddedStore(home) as graph:
        graph.write([counted(shards.identity().id), counted("hffffffffffffffff")])
        mine = owner_mark(shards.identity().id)
    done = trails(home, "remove", *arguments)
    assert done.exit_code == 0, done.output
    with EmbeddedStore(home) as graph:
        ids = [
            graph.run(f"MATCH (n:{label}) RETURN n.id").rows[i][0]
            for label in OWNED
            for i in range(graph.counts().get(label, 0))
        ]
    assert {i.removesuffix(mine) if i.endswith(mine) else i.split("@")[0] + "-other" for i in ids} == left
    for label, letter in (("Effect", "e"), ("Disagreement", "d"), ("Response", "r")):
        went = len([i for i in left if i[0] == letter and "other" not in i]) < (2 if letter == "e" else 1)
        assert (label in done.stdout) == went, done.stdout
    assert "trails effects scan" in done.stdout


@pytest.mark.slow
def test_removing_nothing_that_is_there_is_an_error(home: Path) -> None:
    for arguments, message in (
        (["chain", "cffff"], "chain 'cffff' was asked for, no chain fits"),
        (["source", "toy7"], "source 'toy7' was asked for, and there is none. There are: toy0.jsonl, toy1.jsonl"),
        (["run", "r0"], "run 'r0' was asked for and 0 fit"),
        (["family", "nobody"], "family 'nobody' was asked for, no family fits"),
    ):
        before = digests(home)
        error = trails(home, "remove", *arguments).exception
        assert isinstance(error, UsageError)
        assert message in str(error)
        assert digests(home) == before


@pytest.mark.slow
def test_what_somebody_else_attached_goes_only_when_asked(home: Path) -> None:
    with EmbeddedStore(home) as graph:
        graph.run(f"MATCH (c:Chain {{id: '{CHAINS[0]}'}}) CREATE (:Note {{text: 'mine'}})-[:ON]->(c)", write=True)
        graph.save()
    before = digests(home)
    refused = trails(home, "remove", "chain", CHAINS[0], CHAINS[1])
    assert isinstance(refused.exception, UsageError)
    assert "would be removed with them: 1 ON relationship. Nothing was removed." in str(refused.exception)
    assert f"trails remove chain {' '.join(sorted(CHAINS[:2]))} --yes" in str(refused.exception)
    assert digests(home) == before
    assert trails(home, "remove", "chain", CHAINS[1]).exit_code == 0
    assert trails(home, "remove", "chain", CHAINS[0], "--yes").exit_code == 0
    assert {chain for chain, _ in digests(home)}.isdisjoint(CHAINS[:2])


def test_chains_are_named_in_every_way(home: Path) -> None:
    rows = json.loads(trails(home, "chains", "--run", ONE.id, "--json").stdout)
    assert [row["number"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [(row["source"], row["record"]) for row in rows[:4]] == [
        ("toy0.jsonl", "0"),
        ("toy0.jsonl", "2"),
        ("toy0.jsonl", "4"),
        ("toy1.jsonl", "1"),
    ]
    traces = {trace.chain.id: trace for trace in corpus(6, ONE)}
    for row in rows:
        trace = traces[row["chain"]]
        assert row["steps"] == len(trace.steps)
        assert row["nats"] == pytest.approx(
            float(trace.surprisal[~(trace.surprisal != trace.surprisal)].sum()), rel=1e-5
        )
        assert row["words"] == " ".join(trace.chain.text.split())
    with Home(home, store="embedded") as opened:
        for row in rows:
            record = f"{row['source']}:{row['record']}"
            for name in (row["chain"], row["chain"][:12], record, f"#{row['number']}", row["record"]):
                assert opened.trace(name, ONE.id).chain.id == row["chain"], name
                assert opened.names.place(f"{name}:0") == f"{row['chain']}:0"
        with pytest.raises(UsageError, match="the name of a chain was asked for and is empty"):
            opened.trace(" ", ONE.id)
        for name in ("c", "cfffffff", "#0", "#7", "toy0.jsonl:99", "c:0"):
            with pytest.raises(UsageError, match="All chains: trails chains|Write more of the id"):
                opened.trace(name, ONE.id)
        with pytest.raises(UsageError, match="no chain fits in run"):
            opened.trace(CHAINS[5], TWO.id)
    table = trails(home, "chains", "--source", "toy1.jsonl", "--limit", "2").stdout
    assert CHAINS[1] in table
    assert CHAINS[0] not in table


@pytest.mark.slow
def test_queries_take_names_and_refuse_what_is_not_there(home: Path) -> None:
    of = ("-p", f"run={ONE.id[:9]}", "--json")
    whole = trails(home, "query", "chain-steps", "-p", f"chain={CHAINS[1]}", *of).stdout
    assert json.loads(whole)
    assert trails(home, "query", "chain-steps", "-p", "chain=toy1.jsonl:1", *of).stdout == whole
    for query, parameter, message in (
        ("chain-steps", "chain=c0123", "chain 'c0123' was asked for, no chain fits"),
        ("most-surprising", "run=r0123", "run 'r0123' was asked for and 0 fit"),
        ("overlaps-top", "kind=exakt", "kind is 'exakt' and must be one of"),
        ("tokens-looking-at-step", "step=c0123:1", "chain 'c0123' was asked for"),
    ):
        error = trails(home, "query", query, "-p", parameter).exception
        assert isinstance(error, UsageError), query
        assert message in str(error)


@pytest.mark.slow
def test_a_run_gets_a_name(home: Path) -> None:
    assert "base" in trails(home, "rename", "run", ONE.id[:6], "base").stdout
    assert verify(load_settings(home=home, store="embedded")).differences == ()
    with Home(home, store="embedded") as opened:
        assert opened.run("base").id == ONE.id
        assert opened.cypher("MATCH (r:Run) WHERE r.alias = 'base' RETURN r.id").rows == ((ONE.id,),)
    assert f"{ONE.id}  base: one" in trails(home, "status").stdout
    for name, message in (("base", "another run has the name"), ("r12", "looks like the id of a run")):
        error = trails(home, "rename", "run", TWO.id, name).exception
        assert isinstance(error, UsageError)
        assert message in str(error)
    assert trails(home, "rename", "run", "base", "").exit_code == 0
    assert verify(load_settings(home=home, store="embedded")).differences == ()
    with TraceStore(home) as shards:
        assert shards.runs()[ONE.id].name == ""


@pytest.mark.slow
def test_a_run_without_chains_is_no_run(home: Path) -> None:
    with TraceStore(home, write=True) as shards:
        shards.put_run(make_run("refused everything"))
    assert trails(home, "remove", "run", TWO.id).exit_code == 0
    assert trails(home, "query", "most-surprising", "--json").exit_code == 0
    with Home(home, store="embedded") as opened:
        assert set(opened.runs()) == {ONE.id}
        assert opened.run().id == ONE.id


@pytest.mark.slow
def test_selections_by_metadata_and_family(home: Path) -> None:
    chains = {trace.chain.id: trace.chain for trace in corpus(6, ONE)}
    with TraceStore(home) as shards:
        for text, wanted in (
            ("meta:correct=true", {c for c, chain in chains.items() if chain.metadata["correct"] == "true"}),
            ("meta:correct=true,false", {c for c, chain in chains.items() if chain.metadata["correct"] != "perhaps"}),
            ("meta:more=not declared", set(chains)),
            ("family:mine", {c for c, chain in chains.items() if chain.family == "mine"}),
            ("family:f01234", {c for c, chain in chains.items() if chain.family == "f0123456789abcdef"}),
            ("source:toy0.jsonl", {c for c, chain in chains.items() if chain.source == "toy0.jsonl"}),
            (f"chain:{CHAINS[2][:9]},toy0.jsonl:0", {CHAINS[2], CHAINS[0]}),
        ):
            assert wanted, text
            assert select(None, shards, text).chains == sorted(wanted)
        for text, message in (
            ("meta:correct=maybe", "correct is there with the values: false, perhaps, true"),
            ("meta:nothing=1", "no chain has it; metadata of these chains: correct, "),
            ("meta:correct", "write meta:NAME=VALUE"),
        ):
            with pytest.raises(UsageError, match=message):
                select(None, shards, text)
        assert len(Names(shards).rows) == 6


@pytest.mark.slow
def test_families_and_metadata_are_in_the_graph(home: Path) -> None:
    chains = {trace.chain.id: trace.chain for trace in corpus(6, ONE)}
    with EmbeddedStore(home) as graph:
        rows = graph.run("MATCH (c:Chain)-[:IN_FAMILY]->(f:Family) RETURN c.id, f.name").rows
        true = graph.run("MATCH (c:Chain) WHERE c.meta_correct = true RETURN c.id").rows
    assert {row[0] for row in rows if row[1] == "mine"} == {c for c, chain in chains.items() if chain.family == "mine"}
    assert {row[0] for row in true} == {c for c, chain in chains.items() if chain.metadata["correct"] == "true"}


def _files(home: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(home)): path.read_bytes()
        for path in sorted(home.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.name != "lock"
    }


@pytest.mark.slow
@pytest.mark.parametrize("lock", ["lock", "graph.lock"])
def test_while_another_writes_nothing_is_removed_or_renamed(home: Path, lock: str) -> None:
    before = _files(home)
    second = json.loads(trails(home, "chains", "--run", ONE.id, "--json").stdout)[1]["chain"]
    held = WriterLock(home / lock)
    try:
        error = trails(home, "remove", "chain", "#2").exception
        assert isinstance(error, StoreError)
        assert f"Nothing was removed. To remove it, run: trails remove chain {second}" in str(error)
        error = trails(home, "rename", "run", ONE.id, "base").exception
        assert isinstance(error, StoreError)
        assert "The run was not renamed" in str(error)
        with pytest.raises(StoreError, match="is being written by process"):
            rebuild(load_settings(home=home, store="embedded"), fresh=True)
    finally:
        held.release()
    assert _files(home) == before


@pytest.mark.slow
def test_a_removal_that_breaks_off_is_repaired_as_it_says(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: EmbeddedStore) -> None:
        raise StoreError("the disk is full")

    settings = load_settings(home=home, store="embedded")
    for arguments in (["remove", "chain", "#2"], ["rename", "run", ONE.id, "base"]):
        with monkeypatch.context() as patch:
            patch.setattr(EmbeddedStore, "save", full)
            error = trails(home, *arguments).exception
        assert isinstance(error, StoreError)
        assert f"run: trails rebuild --fresh --home {home}" in str(error)
        if arguments[0] == "remove":
            assert verify(settings).differences
        rebuild(settings, fresh=True)
        assert verify(settings).differences == ()
    with Home(home, store="embedded") as opened:
        assert opened.cypher("MATCH (r:Run) WHERE r.alias = 'base' RETURN r.id").rows == ((ONE.id,),)


def test_a_removal_that_the_engine_refuses_is_told_and_repaired(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(home=home, store="embedded")
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "DECLARED", {"Response": []})
        with EmbeddedStore(home) as graph:
            graph.write([GraphBatch({"Response": table_of("Response", {"id": ["r1"], "text": ["of no chain"]})})])
        error = trails(home, "remove", "chain", CHAINS[0]).exception
    assert isinstance(error, StoreError)
    assert "Unknown property 'chain' on Response" in str(error)
    assert f"run: trails rebuild --fresh --home {home}" in str(error)
    assert verify(settings).differences
    assert trails(home, "rebuild", "--repair").exit_code == 0
    assert verify(settings).differences == ()
    assert trails(home, "remove", "chain", CHAINS[1]).exit_code == 0
    with EmbeddedStore(home) as graph:
        assert graph.counts()["Response"] == 1


def test_without_a_terminal_or_a_yes_nothing_is_removed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _files(home)
    line = ["remove", "run", TWO.id, "--home", str(home), "--store", "embedded"]
    monkeypatch.setattr("trails.cli.remove.on_terminal", on_terminal)
    for given in ("", "y\n"):
        refused = CliRunner().invoke(cli, line, input=given).exception
        assert isinstance(refused, UsageError)
        assert f"trails remove run {TWO.id} --home {home} --yes" in str(refused)
    monkeypatch.setattr("trails.cli.remove.on_terminal", lambda: True)
    for given in ("n\n", "\n"):
        declined = CliRunner().invoke(cli, line, input=given).exception
        assert isinstance(declined, TrailsError)
        assert declined.exit_code == 1
        assert str(declined) == f"nothing was removed from {home}."
    assert _files(home) == before
    assert CliRunner().invoke(cli, [*line, "--yes"]).exit_code == 0
    assert {run for _, run in digests(home)} == {ONE.id}


@pytest.mark.parametrize("name", ["", " "])
def test_an_empty_name_names_nothing(home: Path, name: str) -> None:
    before = _files(home)
    settings = load_settings(home=home, store="embedded")
    for kind in KINDS:
        for line in (["remove", kind, name, "--yes"], ["remove", kind, TWO.id, name, "--yes"]):
            refused = trails(home, *line)
            assert refused.exit_code == 2
            assert "is empty: give it a value" in refused.output
        with pytest.raises(UsageError, match=f"the name of a {kind} was asked for and is empty"):
            remove(kind, [name], settings)
    with pytest.raises(UsageError, match="name of a run was asked for and is empty"):
        rename_run(name, "x", settings)
    with Home(home, store="embedded") as opened:
        asking: list[Callable[[], object]] = [
            lambda: opened.run(name),
            lambda: opened.trace(CHAINS[0], name),
            lambda: opened.basin(CHAINS[0], after=name, run=ONE.id),
            lambda: opened.query("most-surprising", run=name),
            lambda: opened.query("chain-steps", chain=name, run=ONE.id),
            lambda: opened.select(f"chain:{name}"),
            lambda: opened.select(f"source:{name}"),
            lambda: opened.select(f"family:{name}"),
            lambda: opened.shards and fitting_runs(opened.runs(), name),
        ]
        for ask in asking:
            with pytest.raises(UsageError):
                ask()
    assert _files(home) == before


def test_a_rebuild_makes_no_home(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no trails"):
        rebuild(load_settings(home=tmp_path / "none", store="embedded"))
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_bulk_load_that_cannot_be_written_is_one_error(home: Path) -> None:
    with pytest.raises(StoreError, match="cannot be written"):
        bulk_from_home(home, Path("/dev/full/x"))


@pytest.mark.slow
def test_a_number_of_many_digits_in_a_selection_is_one_error(home: Path) -> None:
    with Home(home, store="embedded") as opened, pytest.raises(UsageError, match="the parameters are not JSON"):
        opened.select('query:most-surprising{"limit": ' + "9" * 5000 + "}")
