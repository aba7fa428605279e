"""The tools of ``trails mcp`` answer what the commands answer, within limits, and write nothing."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from trails.errors import MissingPackageError, TrailsError, UsageError
from trails.pipeline import assistant
from trails.pipeline.assistant import Tools, server_of
from trails.store.embedded import EmbeddedStore

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
