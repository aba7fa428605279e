"""trails status, query and cypher on a small home of hand-made traces."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.store.factory import corpus, make_run

from trails.cli import cli
from trails.errors import QueryError, StoreError, TrailsError, UsageError
from trails.store.embedded import EmbeddedStore
from trails.store.rows import graph_batch, held_by, holding
from trails.store.traces import HomeIdentity, TraceStore

ONE, TWO = make_run("one"), make_run("two")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six chains of one run."""
    folder = tmp_path_factory.mktemp("home")
    fill(folder, [ONE])
    return folder


def fill(folder: Path, runs: list) -> None:
    with TraceStore(folder, write=True) as shards, EmbeddedStore(folder) as graph:
        for run in runs:
            shards.put_run(run)
            shards.write(corpus(6, run))
        home = shards.identity()
        graph.write([held_by(graph_batch(corpus(6, run), shards.runs()), home) for run in runs])


def trails(*arguments: str, home: Path | None = None) -> Result:
    more = ["--home", str(home), "--store", "embedded"] if home else []
    return CliRunner().invoke(cli, [*arguments, *more])


@pytest.mark.slow
def test_status_counts_shards_and_graph(home: Path) -> None:
    shown = trails("status", home=home)
    assert shown.exit_code == 0
    assert f"home {home}: 6 chains in 1 shard," in " ".join(shown.stdout.split())
    assert f"run         {ONE.id}  one, float32: 6 chains" in shown.stdout
    assert f"next trails query --home {home} most-surprising" in " ".join(shown.stdout.split())
    found = json.loads(trails("status", "--json", home=home).stdout)
    assert found["shards"]["chains"] == 6
    assert found["graph"]["counts"]["Chain"] == 6
    assert found["graph"]["missing"] == 0
    assert found["languages"] == {"en": 5, "unknown": 1}  # one is Russian under that name


def test_status_of_a_home_without_graph_says_rebuild(tmp_path: Path) -> None:
    with TraceStore(tmp_path, write=True) as shards:
        shards.put_run(ONE)
        shards.write(corpus(3, ONE))
    shown = trails("status", home=tmp_path)
    assert "3 measured chains are in the shards and not in the graph" in shown.stdout
    assert "next        trails rebuild" in shown.stdout
    (tmp_path / "graph.kgl").write_bytes(b"broken")
    broken = trails("status", home=tmp_path).stdout
    assert "cannot be read" in broken
    assert "next        trails rebuild" in broken


def test_status_concludes_nothing_of_a_graph_that_it_cannot_see(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEO4J_URI", "bolt://127.0.0.1:9")
    monkeypatch.setenv("NEO4J_PASSWORD", "wrong")
    arguments = ["status", "--home", str(home), "--store", "neo4j"]
    shown = CliRunner().invoke(cli, arguments).stdout
    assert "127.0.0.1:9" in shown
    assert "not in the graph" not in shown
    assert "next        trails status" in shown
    found = json.loads(CliRunner().invoke(cli, [*arguments, "--json"]).stdout)["graph"]
    assert found["missing"] is None
    assert found["problem"]


@pytest.mark.slow
def test_status_tells_its_own_chains_from_those_of_other_homes(tmp_path: Path) -> None:
    """A chain that only another home holds in the graph is missing: no query of this home counts it."""
    fill(tmp_path, [ONE])
    with EmbeddedStore(tmp_path) as graph:
        graph.run("MATCH (h:Home) DETACH DELETE h", write=True)
        pairs = [(trace.chain.id, ONE.id) for trace in corpus(6, ONE)]
        graph.write(
            [holding(pairs, HomeIdentity("hother", "other")), holding(pairs[:1], HomeIdentity("hthird", "third"))]
        )
    shown = trails("status", home=tmp_path)
    assert "shared by 2 homes, together:" in shown.stdout
    assert "6 measured chains are in the shards and not in the graph as this home's" in " ".join(shown.stdout.split())
    assert "next        trails rebuild" in shown.stdout
    assert json.loads(trails("status", "--json", home=tmp_path).stdout)["graph"]["homes"] == 2
    assert json.loads(trails("query", "corpus", "--json", home=tmp_path).stdout) == []
    assert trails("rebuild", home=tmp_path).exit_code == 0
    assert sum(row["chains"] for row in json.loads(trails("query", "corpus", "--json", home=tmp_path).stdout)) == 6
    assert json.loads(trails("status", "--json", home=tmp_path).stdout)["graph"]["missing"] == 0


def test_status_of_no_home(tmp_path: Path) -> None:
    error = trails("status", home=tmp_path / "none").exception
    assert isinstance(error, StoreError)
    assert "Run: trails ingest PATH" in str(error)


def test_query_fills_in_the_only_run_and_prints_tables_json_and_csv(home: Path) -> None:
    shown = trails("query", "most-surprising", "--limit", "3", home=home)
    assert shown.exit_code == 0
    assert shown.stdout.startswith("Most surprising transitions")
    assert "the first 3 rows; more with --limit" in shown.stderr
    rows = json.loads(trails("query", "most-surprising", "--limit", "3", "--json", home=home).stdout)
    assert [row["run"] for row in rows] == [ONE.id] * 3
    assert rows == sorted(rows, key=lambda row: -row["surprisal"])
    table = list(
        csv.DictReader(io.StringIO(trails("query", "most-surprising", "--csv", "--limit", "3", home=home).stdout))
    )
    assert [float(row["surprisal"]) for row in table] == [row["surprisal"] for row in rows]


@pytest.mark.slow
def test_a_picture_as_json_says_where_each_relationship_leads(home: Path) -> None:
    chain = max(corpus(6, ONE), key=lambda trace: len(trace.steps)).chain.id
    rows = json.loads(trails("query", "chain-graph", "-p", f"chain={chain}", "--json", home=home).stdout)
    follows = [row["follows"] for row in rows if row["follows"]]
    assert {edge["type"] for edge in follows} == {"NEXT_STEP"}
    assert {(edge["start"], edge["end"]) for edge in follows} == {
        (f"{chain}:{i}", f"{chain}:{i + 1}") for i in range(len(rows) - 1)
    }
    assert [row["step"]["labels"] for row in rows] == [["Step"]] * len(rows)
    same = json.loads(trails("cypher", "MATCH (s:Step) RETURN s LIMIT 1", "--json", home=home).stdout)[0]["s"]
    assert same["properties"]["id"] == same["id"]


def test_query_without_rows_says_what_the_query_needs(home: Path) -> None:
    shown = trails("query", "gaps-top", home=home)
    assert shown.exit_code == 0
    assert "Needs: trails gaps (a home needs 20" in shown.stderr


@pytest.mark.slow
def test_query_with_several_runs_asks_which(tmp_path: Path) -> None:
    fill(tmp_path, [ONE, TWO])
    error = trails("query", "most-surprising", home=tmp_path).exception
    assert isinstance(error, UsageError)
    assert str(error).startswith("query most-surprising asks one run and there are 2: ")
    assert str(error).endswith("Add --param run=ID")
    shown = trails("query", "moved-chains", "-p", f"before={ONE.id}", "-p", f"after={TWO.id}", "--json", home=tmp_path)
    assert len(json.loads(shown.stdout)) == 6
    for run in (ONE, TWO):
        rows = json.loads(trails("query", "most-surprising", "-p", f"run={run.id}", "--json", home=tmp_path).stdout)
        assert {row["run"] for row in rows} == {run.id}


def test_query_list_and_show(home: Path) -> None:
    listed = json.loads(trails("query", "--list", "--json").stdout)
    assert "most-surprising" in {query["name"] for query in listed}
    assert all(query["title"] and query["columns"] and query["cypher"] for query in listed)
    shown = trails("query", "chain-steps", "--show").stdout
    assert shown.startswith("// Steps and roles of a chain\n")


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (
            ["query"],
            UsageError,
            "name a query, for example: trails query most-surprising. All names: trails query --list",
        ),
        (["query", "chain-stepz"], UsageError, "there is no query 'chain-stepz'. Did you mean chain-steps"),
        (
            ["query", "chain-steps"],
            UsageError,
            "query chain-steps needs chain. Run: trails query chain-steps --param chain=",
        ),
        (
            ["query", "corpus", "-p", "limit=x"],
            UsageError,
            "query corpus: limit is 'x' and must be an integer, for example 50",
        ),
        (
            ["query", "corpus", "-p", "limit"],
            UsageError,
            "--param 'limit' is not NAME=VALUE. Write for example",
        ),
        (
            ["cypher", "CREATE (:X)"],
            QueryError,
            "the statement writes and was refused. Queries read; to write, add --write",
        ),
        (["cypher", "MATCH (n RETURN n"], QueryError, "the query failed: "),
        (
            ["cypher", "MATCH (c:Chain)\nWHERE c.text = 'дождь' RETURN c.id ? 1"],
            QueryError,
            "the query failed: Cypher syntax error: Unexpected character '?' at line 2, col 36\n"
            "   WHERE c.text = 'дождь' RETURN c.id ? 1\n"
            f"   {' ' * 35}^",
        ),
        (["cypher", "@none.cypher"], UsageError, "none.cypher cannot be read"),
    ],
)
def test_mistakes_are_named(home: Path, arguments: list[str], kind: type[TrailsError], message: str) -> None:
    result = trails(*arguments, home=home)
    assert isinstance(result.exception, kind)
    assert str(result.exception).startswith(message)
    assert result.exit_code != 0


@pytest.mark.slow
def test_cypher_reads_parameters_files_and_standard_input(home: Path, tmp_path: Path) -> None:
    statement = "MATCH (c:Chain) WHERE c.n_steps >= $least RETURN c.id AS id, c.n_steps AS n ORDER BY id"
    rows = json.loads(trails("cypher", statement, "-p", "least=4", "--json", home=home).stdout)
    assert rows
    assert all(row["n"] >= 4 for row in rows)
    (tmp_path / "mine.cypher").write_text(statement)
    again = trails("cypher", f"@{tmp_path / 'mine.cypher'}", "-p", "least=4", "--json", home=home)
    assert json.loads(again.stdout) == rows
    piped = CliRunner().invoke(
        cli, ["cypher", "-", "-p", "least=4", "--json", "--home", str(home), "--store", "embedded"], input=statement
    )
    assert json.loads(piped.stdout) == rows
    text = trails("cypher", "RETURN $x AS x", "-p", "x=it's 3", "--csv", home=home).stdout
    assert text == "x\nit's 3\n"
    cut = trails("cypher", "UNWIND range(1, 9) AS x RETURN x", "--limit", "2", "--csv", home=home)
    assert cut.stdout == "x\n1\n2\n"
    assert "only the first 2 rows are shown" in cut.stderr


@pytest.mark.slow
def test_cypher_writes_only_when_told(tmp_path: Path) -> None:
    fill(tmp_path, [ONE])
    trails("cypher", "MATCH (c:Chain) SET c.language = 'xx'", "--write", home=tmp_path)
    rows = json.loads(
        trails("cypher", "MATCH (c:Chain) RETURN DISTINCT c.language AS l", "--json", home=tmp_path).stdout
    )
    assert rows == [{"l": "xx"}]


@pytest.mark.slow
def test_a_damaged_run_and_damaged_variants_say_what_to_do_and_it_helps(tmp_path: Path) -> None:
    fill(tmp_path, [ONE])
    variants = tmp_path / "variants" / "v0123456789abcdef.parquet"
    variants.parent.mkdir()
    for content in (b"PAR1 cut", next((tmp_path / "shards").glob("*.parquet")).read_bytes()):
        variants.write_bytes(content)
        for fresh in ((), ("--fresh",)):
            with pytest.raises(StoreError, match=r"v0123456789abcdef.parquet is not a file of variants .* Delete it"):
                CliRunner().invoke(cli, ["rebuild", *fresh, "--home", str(tmp_path)], catch_exceptions=False)
    variants.unlink()
    assert trails("rebuild", "--fresh", home=tmp_path).exit_code == 0

    run = tmp_path / "runs" / f"{ONE.id}.json"
    run.write_text(run.read_text(encoding="utf-8")[:40], encoding="utf-8")
    with pytest.raises(StoreError, match="Delete this file and ingest with the same model"):
        TraceStore(tmp_path).runs()
    run.unlink()
    with TraceStore(tmp_path, write=True) as shards:
        shards.put_run(ONE)
        assert shards.runs() == {ONE.id: ONE}
        assert len(shards.done(ONE.id)) == 6
