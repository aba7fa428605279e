"""Neo4j Browser itself, in headless Chromium: favourites and style sheet are imported, queries answer, pictures appear."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from tests.contract.world import World, make_world
from tests.neo4j.servers import shared
from tests.store.factory import corpus, make_run

from trails.store.base import GraphBatch
from trails.store.browser import (
    DASHBOARD,
    FAVOURITES,
    GUIDE,
    NODE_COLOURS,
    ROLE_COLOURS,
    ROLE_LABELS,
    SETTINGS,
    STYLE,
    browser_address,
    favourite,
    guide,
    inlined,
    is_picture,
    save_files,
    serve,
    values_of,
)
from trails.store.queries import named_queries
from trails.store.rows import graph_batch, held_by, table_of
from trails.store.traces import HomeIdentity, TraceStore

PLAYWRIGHT = "playwright-core@1.56.1"


def playwright() -> Path:
    """Folder with playwright-core; installed once into the cache. It drives the system's Chromium and brings none."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trails" / "playwright"
    if not (cache / "node_modules" / "playwright-core").is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(cache), PLAYWRIGHT]
        subprocess.run(command, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return cache


def drive(plan: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run the script and return what it saw."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "headless Chromium is needed: apt-get install chromium"
    path = folder / "plan.json"
    path.write_text(json.dumps(plan | {"chromium": chromium, "library": str(playwright())}))
    script = Path(__file__).with_name("browser.mjs")
    done = subprocess.run(["node", str(script), str(path)], capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.mark.neo4j
@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.xdist_group("neo4j-lts")
def test_favourites_style_and_pictures_in_the_real_browser(tmp_path: Path) -> None:
    server = shared("LTS")
    server.empty()
    run = make_run()
    traces = corpus(6, run)
    with server.open() as store:
        store.ensure_schema()
        store.write([graph_batch(traces, {run.id: run})])
    save_files(tmp_path)
    queries = named_queries()
    chain = traces[4].chain.id
    port = int(server.browser.split(":")[2].split("/")[0])
    address = browser_address(server.uri, "neo4j", port) + "&preselectAuthMethod=NO_AUTH"
    parameters = f':param chain => "{chain}";\n:param run => "{run.id}";\n:param limit => 50;'
    seen = drive(
        {
            "address": address,
            "files": [str(tmp_path / FAVOURITES), str(tmp_path / STYLE)],
            "statements": [
                {"name": "parameters", "text": parameters},
                {"name": "chain", "text": queries["chain-graph"].statement},
                {"name": "roles", "text": ROLE_LABELS},
                {"name": "coloured", "text": "MATCH p = (c:Chain {id: $chain})-[:HAS_STEP]->() RETURN p"},
                {"name": "steps", "text": queries["chain-steps"].statement},
            ],
            "pictures": str(tmp_path),
            "settle": 1500,
        },
        tmp_path,
    )
    assert sorted(seen["favourites"]) == sorted(favourite(query) for query in queries.values())
    assert json.loads(seen["style"])["node.Step"]["caption"] == "{index} {role} {text}"
    n_steps = len(traces[4].steps)
    assert f"Step ({n_steps})" in seen["frames"]["chain"]
    assert f"NEXT_STEP ({n_steps - 1})" in seen["frames"]["chain"]
    assert traces[4].steps[0].role in seen["frames"]["steps"]
    roles = {step.role for step in traces[4].steps}
    assert {ROLE_COLOURS[role] for role in roles} <= set(seen["fills"]["coloured"])
    assert NODE_COLOURS["Step"][0] in seen["fills"]["chain"]
    assert NODE_COLOURS["Step"][0] not in seen["fills"]["coloured"]
    assert (tmp_path / "chain.png").stat().st_size > 10_000
    server.empty()


def answering(world: World) -> tuple[list[GraphBatch], dict[str, str]]:
    """A graph in which every query of the library has an answer, and the values to ask it with: the world of the contract, with
    a home, similar steps of two chains, and a conclusion that ignores its premises.
    """
    one, two = list(world.runs)
    long = next(trace.chain.id for trace in world.traces if trace.chain.source_id == "long")
    # corpus() gives the first and the seventh chain one text; the ninth has four steps
    first, seventh, ninth = (world.traces[i].chain.id for i in (0, 6, 8))
    ends = {"start": [f"{first}:0"], "end": [f"{long}:0"]}
    near = {**ends, "run": [one], "layer": [2], "cosine": [0.9], "excess": [0.2], "scope": ["a-near"], "home": ["h1"]}
    alone = {"start": [f"{ninth}:3"], "end": [f"{ninth}:0"], "run": [one], "nats": [0.01]}
    more = {"SIMILAR": table_of("SIMILAR", near), "DEPENDS_ON": table_of("DEPENDS_ON", alone)}
    batches = [held_by(world.batch(), HomeIdentity("h1", "mine")), world.analyses(), GraphBatch({}, more)]
    values = {"chain": long, "step": f"{long}:1", "first": first, "second": seventh, "run": one, "home": "h1"}
    return batches, values | {"before": one, "after": two, "piece": "ain", "text": "rain"}


@contextmanager
def served(page: str) -> Iterator[str]:
    """The address of the guide, served as ``trails browser --serve`` serves it."""
    with serve(page) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://localhost:{http.server_address[1]}/trails.html"
        http.shutdown()


@pytest.mark.neo4j
@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.xdist_group("neo4j-lts")
def test_every_statement_of_the_guide_answers_to_a_click(tmp_path: Path) -> None:
    """``:play``, then slide for slide: a click brings the statement into the editor, it runs, and the Browser shows as many
    nodes and relationships, or rows, as the server gives for it."""
    server = shared("LTS")
    server.empty()
    batches, values = answering(make_world())
    queries = named_queries()
    expected: dict[str, str] = {}
    with server.open() as store:
        store.ensure_schema()
        store.write(batches)
        for name, query in queries.items():
            found = store.run(inlined(query, values))
            assert found.rows, name
            if is_picture(query):
                drawn = found.to_networkx()
                assert 2 <= drawn.number_of_nodes() < 60, name
                # its line "Displaying …" counts a relationship once a row, its overview once
                shown = rf"\* \({drawn.number_of_nodes()}\).*\* \({drawn.number_of_edges()}\).*Displaying"
            else:
                shown = f"Started streaming {len(found.rows)} records"
            expected[inlined(query, values)] = shown
    port = int(server.browser.split(":")[2].split("/")[0])
    address = browser_address(server.uri, "neo4j", port) + "&preselectAuthMethod=NO_AUTH"
    with served(guide(queries, values)) as page:
        plan = {"address": address, "files": [], "statements": [], "guide": page}
        seen = drive(plan | {"failed": str(tmp_path / "failed.png")}, tmp_path)
    assert seen["errors"] == []
    settings, *clicked = seen["guide"]
    assert settings["statement"] == SETTINGS
    assert '"autoComplete": false' in settings["shown"]
    assert [entry["statement"] for entry in clicked] == [
        *(text for text, shown in expected.items() if shown.endswith("Displaying")),
        *(text for text, shown in expected.items() if shown.startswith("Started")),
    ]
    for entry in clicked:
        wanted = expected[entry["statement"]]
        assert re.search(wanted, entry["shown"], re.DOTALL), (entry["statement"], entry["shown"][-300:])
        # what ran is what was clicked
        assert "".join(entry["statement"].split())[:200] in "".join(entry["shown"].split())
        assert bool(entry["nodes"]) == wanted.endswith("Displaying")
    server.empty()


def test_the_command_serves_the_guide_of_the_home(tmp_path: Path) -> None:
    """``trails browser --serve`` prints the line to type, and the page there is the guide with the home's values."""
    run = make_run()
    with TraceStore(tmp_path / "home", write=True) as home:
        home.put_run(run)
        home.write(corpus(6, run))
        expected = guide(named_queries(), values_of(home))
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NEO4J_", "TRAILS_"))}
    process = subprocess.Popen(
        [sys.executable, "-m", "trails", "browser", "--serve", "--port", "7474", "--home", str(tmp_path / "home")],
        env=environment | {"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        line = next(line for line in process.stdout if line.startswith(":play "))
        address = line.split()[1]
        assert urlsplit(address).hostname == "localhost"
        with urllib.request.urlopen(address.replace("localhost", "127.0.0.1"), timeout=60) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert answer.read().decode() == expected
    finally:
        process.kill()
        process.wait()
    assert run.id in expected


def test_files_hold_every_query_with_values_for_its_parameters(tmp_path: Path) -> None:
    paths = save_files(tmp_path)
    assert [path.name for path in paths] == [FAVOURITES, STYLE, GUIDE, DASHBOARD]
    with zipfile.ZipFile(tmp_path / FAVOURITES) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    queries = named_queries()
    assert set(texts) == {f"trails/{name}.cypher" for name in queries}
    for name, query in queries.items():
        text = texts[f"trails/{name}.cypher"]
        assert text.startswith(f"// {query.title}\n// ")
        assert [line.split()[1] for line in text.splitlines() if line.startswith(":param")] == [
            parameter.name for parameter in query.parameters
        ]
        assert query.statement.strip().rstrip(";") in text
        assert name in (tmp_path / GUIDE).read_text(encoding="utf-8")
    before = (tmp_path / FAVOURITES).read_bytes()
    save_files(tmp_path)
    assert (tmp_path / FAVOURITES).read_bytes() == before


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("bolt://localhost:7687", "http://localhost:7474/browser/?dbms=bolt://neo4j@localhost:7687"),
        ("neo4j+s://db.example", "http://db.example:7474/browser/?dbms=neo4j+s://neo4j@db.example:7687"),
        ("bolt://[::1]:7777", "http://[::1]:7474/browser/?dbms=bolt://neo4j@[::1]:7777"),
    ],
)
def test_the_address_carries_the_connection(uri: str, address: str) -> None:
    assert browser_address(uri, "neo4j") == address
