"""The tools of ``trails mcp`` answer what the commands answer, within limits, and write nothing."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.store.factory import make_run

from trails.errors import MissingPackageError, QueryError, TrailsError, UsageError
from trails.pipeline import assistant
from trails.pipeline.assistant import Tools, server_of
from trails.pipeline.home import Home
from trails.platform.text import json_text
from trails.schema import NODES, RELATIONSHIPS
from trails.store.embedded import EmbeddedStore
from trails.store.engine import late

WRITES = (
    "CREATE (n:X)",
    "MATCH (n) DETACH DELETE n",
    "MATCH (n:Chain) SET n.text = ''",
    "MERGE (n:X {a: 1}) RETURN n",
    "MATCH (n:Chain) REMOVE n.text",
    "LOAD CSV FROM 'file:///etc/passwd' AS row RETURN row",
    "CALL { CREATE (n:X) } RETURN 1",
    "DROP INDEX x",
    "// a comment\nCREATE (n:X)",
)


def fingerprint(home: Path) -> dict[str, str]:
    return {
        str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.mark.slow
def test_no_tool_writes(trails: Any, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    home = tmp_path / "home"
    tools = Tools(home=home)
    chain = trails("chains", "--json").json()[0]["chain"]
    before = fingerprint(home)
    calls = {
        "schema": [{}],
        "query": [{"name": "most-surprising", "parameters": {"limit": 3}}, {"name": "no such query"}],
        "cypher": [
            {"statement": "MATCH (c:Chain) RETURN c.id ORDER BY c.id"},
            *({"statement": text} for text in WRITES),
        ],
        "chain": [{"chain": chain}, {"chain": "c0000"}, {"chain": chain, "measure": "nothing"}],
        "gaps": [{}, {"chain": chain, "limit": 10**9}],
        "capture": [{"text": "If it rains, then it is wet. So it is wet."}, {"text": ""}],
    }
    assert [tool.__name__ for tool in tools.all()] == list(calls)
    for tool in tools.all():
        answers = 0
        for given in calls[tool.__name__]:
            try:
                answer = tool(**given)
            except TrailsError:
                continue
            assert given.get("statement") not in WRITES
            assert json.loads(json.dumps(answer)) == answer or answer != answer
            answers += 1
        assert answers, tool.__name__
    assert fingerprint(home) == before
    assert tools.chain(chain)["tokens"] == trails("show", chain, "--alternatives", "--json").json()["tokens"]
    rows = trails("query", "most-surprising", "--limit", 3, "--json").json()
    found = tools.query("most-surprising", {"limit": 3})
    assert [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]] == rows
    with EmbeddedStore(home) as graph:
        graph.run("CREATE (:Chain {id: 'c0', source: 'of another home', language: 'en', n_steps: 1})", write=True)
    corpus = tools.query("corpus")
    assert {row[0] for row in corpus["rows"]} == {row[0] for row in tools.query("corpus", {"home": ""})["rows"]} - {
        "of another home"
    }


@pytest.mark.slow
def test_an_answer_is_bounded_and_says_what_it_leaves_out(
    trails: Any, chains_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trails("ingest", chains_file)
    tools = Tools(home=tmp_path / "home")
    whole = tools.cypher("MATCH (t:Token) RETURN t.id, t.piece ORDER BY t.id LIMIT 100")
    assert (len(whole["rows"]), whole["rows_left_out"]) == (100, 0)
    monkeypatch.setattr(assistant, "MAX_CHARACTERS", 2_000)
    cut = tools.cypher("MATCH (t:Token) RETURN t.id, t.piece ORDER BY t.id LIMIT 100")
    assert 0 < len(cut["rows"]) < 100
    assert len(cut["rows"]) + cut["rows_left_out"] == 100
    assert len(json.dumps(cut)) < 2_200
    monkeypatch.setattr(assistant, "MAX_CHARACTERS", 60_000)
    long = tools.cypher(f"RETURN '{'x' * 100_000}', 'y'")
    assert len(json.dumps(long)) < 2 * assistant.MAX_CELL + 300, "neither a value nor the name of a column has no bound"
    assert long["rows"][0][0].endswith("x … (96,000 more characters)")
    assert long["rows"][0][1] == "y"
    with pytest.raises(UsageError, match="20,001 characters was given, at most 20,000 are taken"):
        tools.capture("a" * 20_001)


def test_a_long_chain_and_many_columns_keep_an_answer_within_its_bound(
    trails: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assistant, "MAX_CHARACTERS", 20_000)
    said = " ".join(f"If {n} is even, then {n} has a half." for n in range(200))
    (tmp_path / "long.jsonl").write_text(json.dumps({"question": "Q" * 3_000, "answer": said}) + "\n")
    trails("ingest", tmp_path / "long.jsonl")
    tools = Tools(home=tmp_path / "home")
    chain = trails("chains", "--json").json()[0]["chain"]
    answer = tools.chain(chain)
    assert len(json_text(answer, None)) <= assistant.MAX_CHARACTERS
    assert answer["question"] == "Q" * 3_000, "what is short leaves its room to what is long"
    assert len(answer["text"]) + answer["left_out"]["text"] == len(said)
    whole = trails("show", chain, "--alternatives", "--json").json()
    assert len(answer["steps"]) + answer["left_out"]["steps"] == len(whole["steps"])
    assert answer["tokens"] == whole["tokens"][: len(answer["tokens"])]
    assert len(answer["tokens"]) + answer["rows_left_out"] == len(whole["tokens"])
    wide = tools.cypher(f"RETURN {', '.join(f'1 AS {letter * 3_900}' for letter in 'abcdefghijklmnopqrstuvwxyz')}")
    assert len(json_text(wide, None)) <= assistant.MAX_CHARACTERS
    assert len(wide["columns"]) + wide["left_out"]["columns"] == 26
    hidden = tools.cypher("RETURN '" + "\u202e" * 4_000 + "' AS x, '" + "y" * 4_000 + "' AS z")
    assert len(json_text(hidden, None)) <= assistant.MAX_CHARACTERS, "an escape counts as what is sent"


def test_the_overview_is_short_and_a_name_gives_all_of_it(
    trails: Any, chains_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trails("ingest", chains_file)
    tools = Tools(home=tmp_path / "home")
    overview = tools.schema()
    assert len(json_text(overview, None)) < assistant.MAX_OVERVIEW
    assert {label: found["properties"] for label, found in overview["nodes"].items()} == {
        node.label: [p.name for p in node.properties] for node in NODES
    }
    assert [(r["type"], r["from"], r["to"], r["properties"]) for r in overview["relationships"]] == [
        (r.type, r.start, r.end, [p.name for p in r.properties]) for r in RELATIONSHIPS
    ]
    assert overview["rows_left_out"] == 0
    for name in (*overview["nodes"], *(r["type"] for r in overview["relationships"]), *overview["named_queries"]):
        assert len(json_text(tools.schema(name), None)) < assistant.MAX_OVERVIEW, name
    step = tools.schema("Step")
    assert step["nodes"]["Step"]["properties"]["start"] == "integer: first character in the chain's text, characters"
    assert ("HAS_STEP", "Chain", "Step") in {(r["type"], r["from"], r["to"]) for r in step["relationships"]}
    attends = tools.schema("ATTENDS_TO")["relationships"]
    assert {r["from"] for r in attends if "properties" in r} == {"Token", "Step"}
    assert tools.schema("most-surprising")["named_query"]["cypher"].startswith("MATCH")
    with pytest.raises(UsageError, match="query 'chian'. Did you mean Chain"):
        tools.schema("chian")
    monkeypatch.setattr(Home, "runs", lambda home: {str(n): make_run() for n in range(3_000)})
    many = tools.schema()
    assert len(json_text(many, None)) <= assistant.MAX_OVERVIEW
    assert len(many["runs"]) + many["rows_left_out"] == 3_000


def test_no_error_of_a_tool_advises_what_a_tool_cannot_do(trails: Any, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    tools = Tools(home=tmp_path / "home")
    for call in (
        *(lambda text=text: tools.cypher(text) for text in WRITES),
        lambda: tools.query("nope"),
        lambda: tools.query("most-surprising", {"limt": 1}),
        lambda: tools.query("chain-steps"),
        lambda: tools.gaps(run="nope"),
        lambda: tools.cypher("RETURN 1 FORMAT CSV"),
    ):
        with pytest.raises(TrailsError) as raised:
            call()
        told = assistant._advised(raised.value)
        assert told
        assert " --" not in told, told
        assert "trails query" not in told, told
    assert assistant._advised(late(30)).endswith("Name a start node by id, add LIMIT")


def test_an_error_names_the_line_that_the_user_wrote(trails: Any, chains_file: Path, tmp_path: Path) -> None:
    trails("ingest", chains_file)
    for text, line in (("RETURN 1 +\n\n", 1), ("MATCH (c:Chain)\r\nRETRN c.id\r\n", 2), ("\n\nRETURN 1 +\n", 3)):
        assert f"at line {line}, col" in trails("cypher", text, code=6).err
        with pytest.raises(QueryError, match=f"at line {line}, col"):
            Tools(home=tmp_path / "home").cypher(text)


def test_without_the_extra_the_command_says_what_to_install(
    trails: Any, chains_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    with pytest.raises(MissingPackageError, match="trails mcp needs the package mcp"):
        server_of({})
    assert "pip install 'trails[mcp]'" in trails("mcp", code=7).err


def test_a_client_calls_every_tool_over_standard_input(trails: Any, chains_file: Path, tmp_path: Path) -> None:
    mcp = pytest.importorskip("mcp", reason="the extra mcp is not installed: pip install 'trails[mcp]'")
    trails("ingest", chains_file)
    chain = trails("chains", "--json").json()[0]["chain"]
    home = tmp_path / "home"
    before = fingerprint(home)
    environment = {**os.environ, "TRAILS_HOME": str(home), "TRAILS_MODEL": "uniform"}
    parameters = mcp.StdioServerParameters(command=sys.executable, args=["-m", "trails", "mcp"], env=environment)

    async def ask() -> dict[str, Any]:
        async with mcp.Client(parameters) as client:
            listed = (await client.list_tools()).tools
            assert all(tool.annotations.read_only_hint for tool in listed)
            assert all(tool.description for tool in listed)
            found = {"names": [tool.name for tool in listed]}
            for name, given in (
                ("schema", {}),
                ("query", {"name": "most-surprising", "parameters": {"limit": 2}}),
                ("cypher", {"statement": "MATCH (c:Chain) RETURN count(c) AS n"}),
                ("chain", {"chain": chain}),
                ("gaps", {}),
                ("capture", {"text": "If it rains, then it is wet. So it is wet."}),
            ):
                answer = await client.call_tool(name, given)
                assert not answer.is_error, answer
                found[name] = answer.structured_content
            refused = await client.call_tool("cypher", {"statement": "MATCH (n) DETACH DELETE n"})
            assert refused.is_error
            found["refused"] = refused.content[0].text
            return found

    found = asyncio.run(ask())
    assert found["names"] == ["schema", "query", "cypher", "chain", "gaps", "capture"]
    assert found["cypher"]["rows"] == [[4]]
    assert found["chain"]["chain"] == chain
    assert "verdict" in found["capture"]
    assert "writ" in found["refused"]
    assert fingerprint(home) == before


def serving(home: Path) -> subprocess.Popen[str]:
    """A server that has been greeted."""
    environment = {**os.environ, "TRAILS_HOME": str(home), "TRAILS_MODEL": "uniform"}
    process = subprocess.Popen(
        [sys.executable, "-m", "trails", "mcp"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}
    ask(process, method="initialize", id=0, params=client)
    assert process.stdout is not None
    assert "serverInfo" in process.stdout.readline()
    ask(process, method="notifications/initialized")
    return process


def ask(process: subprocess.Popen[str], **message: Any) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    process.stdin.flush()


def running(process: int) -> bool:
    """Whether a process is there that has not ended."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(process: int) -> list[int]:
    """Its children that have not ended."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    return [child for child, parent in parents.items() if parent == process and running(child)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.parametrize("ending", ["stdin", "stdout too", "SIGINT", "SIGTERM"])
def test_the_server_ends_with_its_client_whatever_is_at_work(
    trails: Any, chains_file: Path, tmp_path: Path, ending: str
) -> None:
    pytest.importorskip("mcp", reason="the extra mcp is not installed: pip install 'trails[mcp]'")
    trails("ingest", chains_file)
    process = serving(tmp_path / "home")
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # counts until its limit of time, half a minute
        endless = {"statement": "UNWIND range(1, 100000) AS a UNWIND range(1, 100000) AS b RETURN sum(a * b)"}
        ask(process, method="tools/call", id=1, params={"name": "cypher", "arguments": endless})
        ask(process, method="tools/call", id=2, params={"name": "chain", "arguments": {"chain": "nope", "tokens": 3}})
        refused = json.loads(process.stdout.readline())
        assert refused["id"] == 2
        assert "no argument tokens. Its arguments: chain, measure, run" in refused["result"]["content"][0]["text"]
        while not (readers := children(process.pid)):
            assert process.poll() is None
            time.sleep(0.05)
        if ending == "stdout too":
            process.stdout.close()
        if ending.startswith("SIG"):
            process.send_signal(signal.Signals[ending])
        else:
            process.stdin.close()
        status = process.wait(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert status == (128 + signal.Signals[ending] if ending.startswith("SIG") else 0)
    assert not [child for child in readers if running(child)], "the process that reads the graph goes with the server"
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


def test_a_record_within_a_record_is_cut_too() -> None:
    """All of an answer's parts share its bound, whatever holds them."""
    record = {"seams": [{"n": n} for n in range(5_000)], "calibration": {"best": "mean", "removed": ["x" * 50] * 5_000}}
    found = assistant._within(record, "seams")
    assert len(json_text(found, None)) <= assistant.MAX_CHARACTERS
    assert found["calibration"]["best"] == "mean"
    assert len(found["seams"]) + found["rows_left_out"] == 5_000
    assert len(found["calibration"]["removed"]) + found["left_out"]["calibration"] == 5_000
